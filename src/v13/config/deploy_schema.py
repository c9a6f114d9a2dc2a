"""The section `deploy`: where releases live, what is asked before one runs, and how long it is watched.

Thresholds and durations of the SLOs are not here: they are the SLO table's (config/slo.yaml).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from v13.config.ranges import Problem, refuse
from v13.config.section import Names, Section, as_tuple

__all__ = ["Deploy"]

Ports = Annotated[tuple[int, int], BeforeValidator(as_tuple)]


class Deploy(Section):
    """Releases: check, canary, observation, scale-up, rollback."""

    home: str = Field(default="runs/deploy", description="folder of releases, backups, logs and the deploy ledger")
    records: str = Field(default="reports/deployments", description="folder of the deploy records")
    signoff: str = Field(default="reports/latest", description="the sign-off bundle that is deployed")
    allow_simulated: bool = Field(default=False, description="deploy a sign-off of simulated data; never in production")
    signers: Names = Field(default=("config/keys/signoff.pub",), description="public keys whose signature is trusted")
    require_signature: bool = Field(default=True, description="deploy only what a trusted key has signed")
    max_signoff_age_d: float = Field(default=90.0, gt=0, le=3_650, description="an older sign-off has expired, days")
    canary: Names = Field(
        default=("BTCUSDT", "ETHUSDT"),
        min_length=1,
        description="symbols handed over one by one; then the rest",
    )
    ports: Ports = Field(default=(8003, 8013), description="exporter of the one and of the other release")
    observe_s: float = Field(default=1_800.0, gt=0, le=604_800, description="time an observation has to be good, s")
    observe_most_s: float = Field(
        default=3_600.0, gt=0, le=604_800, description="longest observation; then it waits, s"
    )
    look_every_s: float = Field(default=15.0, gt=0, le=3_600, description="between two looks at the SLOs, s")
    time_scale: float = Field(
        default=1.0, gt=0, le=1, description="durations of the SLO table times this; below 1 only for rehearsals"
    )
    ready_s: float = Field(default=900.0, gt=0, le=3_600, description="longest wait for a runner to be warm and fed, s")
    emergency_s: float = Field(default=5.0, gt=0, le=600, description="an emergency stop is verified within this, s")
    rollback_s: float = Field(default=60.0, gt=0, le=3_600, description="a full rollback serves within this, s")
    supervisor: Literal["auto", "systemd", "supervisord"] = Field(
        default="auto", description="auto: systemd where it runs, else supervisord"
    )
    prometheus: str | None = Field(default="http://localhost:9090", description="null: there is none (no deploy, then)")
    prometheus_dir: str | None = Field(
        default=None, description="where its configuration and rules are put; null: <home>/monitoring"
    )
    alertmanager: str | None = Field(default="http://localhost:9093", description="null: there is none")
    grafana: str | None = Field(default=None, description="null: there is none")
    guard_host: str = Field(default="127.0.0.1", description="address of the guard's webhook")
    guard_port: int = Field(default=8005, ge=0, le=65_535, description="port of the guard's webhook")
    guard_token_file: str = Field(
        default="config/keys/guard.token", description="holds what Alertmanager has to show; made where it is missing"
    )
    min_free_mb: int = Field(default=1_024, ge=1, le=1_000_000_000, description="least free disk space, MiB")
    keep_backups: int = Field(default=10, ge=1, le=10_000, description="older backups are removed")

    @model_validator(mode="after")
    def _fits(self) -> Deploy:
        problems = []
        if self.ports[0] == self.ports[1]:
            problems.append(Problem(("deploy.ports",), f"expected two ports, found {list(self.ports)}"))
        if self.observe_most_s < self.observe_s:
            text = f"expected at least deploy.observe_s ({self.observe_s:g}), found {self.observe_most_s:g}"
            problems.append(Problem(("deploy.observe_most_s", "deploy.observe_s"), text))
        if len(set(self.canary)) < len(self.canary):
            problems.append(Problem(("deploy.canary",), f"expected each symbol once, found {list(self.canary)}"))
        refuse(problems)
        return self
