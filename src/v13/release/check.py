"""The checks before a deploy, in the order of the guide's pre-deploy list; `v13 deploy check` shows them.

Each is total: what goes wrong in one is its own failed result, and the others still run. Nothing is changed. A signed
override lets one named check pass; it is shown as such and takes nothing from the evidence.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from v13.errors import V13Error
from v13.release import check_artifacts, check_machine, check_servers, check_signoff
from v13.release.check_result import CheckResult, exit_code, summary, table, to_json
from v13.release.check_scene import WAIT_S, Finding, Scene, absent, bad, good
from v13.release.keys import read_public_keys
from v13.release.overrides import SUFFIX, Override, find_overrides
from v13.release.site import Site

__all__ = [
    "BOXES",
    "CHECKS",
    "OVERRIDES",
    "Check",
    "CheckResult",
    "exit_code",
    "may_be_overridden",
    "override_folder",
    "run_check",
    "run_checks",
    "summary",
    "table",
    "to_json",
]

OVERRIDES: Final = "overrides"
# The guide's 预部署检查, and what a machine has to offer besides.
BOXES: Final = ("files", "packages", "acceptance", "monitoring", "machine")
# What nobody can let pass: without them an override itself proves nothing, or two would be at work at once.
NEVER: Final = ("bundle", "signature", "operation", OVERRIDES)


class Check(NamedTuple):
    """A check: what it is called, to which box of the guide's list it belongs, how it looks, what to do if it fails."""

    key: str
    title: str
    title_zh: str
    box: str
    look: Callable[[Scene], Finding]
    remedy: str


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "config_files",
        "Settings",
        "配置文件",
        "files",
        check_artifacts.config_files,
        "put back the settings that were signed off, or sign off again with these",
    ),
    Check(
        "artifacts",
        "Parameters and calibration",
        "参数与校准",
        "files",
        check_artifacts.artifacts,
        "put back the files of the sign-off (its bundle holds them in artifacts/), or run `v13 signoff`",
    ),
    Check(
        "monitoring_files",
        "Monitoring files",
        "观测与告警文件",
        "files",
        check_artifacts.monitoring_files,
        f"`{check_artifacts.BUILD}`",
    ),
    Check(
        "dependencies",
        "Packages as locked",
        "依赖包",
        "packages",
        check_artifacts.dependencies,
        "`make bootstrap` installs what requirements.lock names",
    ),
    Check(
        "bundle",
        "Sign-off bundle whole",
        "签核包完整",
        "acceptance",
        check_signoff.bundle,
        "fetch the bundle anew from where it was made, or run `v13 signoff`; do not mend it",
    ),
    Check(
        "signature",
        "Signature",
        "签名",
        "acceptance",
        check_signoff.signature,
        "have it signed (`v13 sign`) by a key of deploy.signers",
    ),
    Check(
        "verdict",
        "Verdict",
        "验收结论",
        "acceptance",
        check_signoff.verdict,
        "only a PASS is deployed: index.html of the bundle says what is missing",
    ),
    Check(
        "recorded_data",
        "Recorded data",
        "真实数据",
        "acceptance",
        check_signoff.recorded_data,
        "sign off on recordings; simulated data are for rehearsals in an environment that allows them",
    ),
    Check("age", "Age of the sign-off", "签核有效期", "acceptance", check_signoff.age, "sign off again on newer data"),
    Check(
        "criteria",
        "All criteria judged",
        "验收标准齐全",
        "acceptance",
        check_signoff.criteria,
        "`v13 signoff --env production --data ... --with-live` judges them all",
    ),
    Check(
        "rules",
        "Alert rules valid",
        "告警规则",
        "monitoring",
        check_servers.rules,
        f"mend config/slo.yaml, then `{check_artifacts.BUILD}`",
    ),
    Check(
        "prometheus",
        "Prometheus",
        "Prometheus",
        "monitoring",
        check_servers.prometheus,
        "start Prometheus, or set deploy.prometheus to where it is",
    ),
    Check(
        "alertmanager",
        "Alertmanager",
        "Alertmanager",
        "monitoring",
        check_servers.alertmanager,
        "start Alertmanager, set deploy.alertmanager to where it is, or to null where there is none",
    ),
    Check(
        "grafana",
        "Grafana",
        "Grafana",
        "monitoring",
        check_servers.grafana,
        "start Grafana, set deploy.grafana to where it is, or to null where there is none",
    ),
    Check(
        "ports",
        "Ports",
        "端口",
        "machine",
        check_machine.port_list,
        "end what holds the port, or set deploy.ports and deploy.guard_port to others",
    ),
    Check(
        "disk",
        "Disk space",
        "磁盘空间",
        "machine",
        check_machine.disk,
        "make room or let it be written to; deploy.min_free_mb is the least",
    ),
    Check(
        "backups",
        "Backups restorable",
        "备份可恢复",
        "machine",
        check_machine.backups,
        "move the damaged backup out of the folder: a rollback to it would be refused",
    ),
    Check(
        "clock",
        "Clock",
        "时钟",
        "machine",
        check_machine.clock,
        "set the clock and have it kept (chrony, systemd-timesyncd)",
    ),
    Check(
        "operation",
        "Nobody else at work",
        "无其他操作",
        "machine",
        check_machine.operation,
        "`v13 deploy resume` goes on with it, `v13 deploy abort` takes it back",
    ),
)


def override_folder(site: Site) -> Path:
    """Return where signed overrides are looked for."""
    return site.home / OVERRIDES


def may_be_overridden(site: Site) -> tuple[str, ...]:
    """Return the keys of the checks that a signed override may let pass; SIMULATED data never in production."""
    never = (*NEVER, "recorded_data") if site.env == "production" else NEVER
    return tuple(check.key for check in CHECKS if check.key not in never)


def run_checks(
    site: Site,
    *,
    operation: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic_s: Callable[[], float] = time.monotonic,
    environ: Mapping[str, str] | None = None,
    promtool: Path | None = None,
    wait_s: float = WAIT_S,
) -> list[CheckResult]:
    """Run all checks, in order.

    Parameters
    ----------
    site : Site
    operation : str
        The operation that asks, which is not in its own way; empty where only somebody looks.
    now, monotonic_s : callable
        The clocks.
    environ : mapping, optional
        Default: the process's own.
    promtool : Path, optional
        Default: PROMTOOL_BIN, else the one on PATH.
    wait_s : float, s
        Longest wait for one answer of a server.

    Returns
    -------
    list of CheckResult
        One a check, and one of the overrides where there are any. It raises nothing.
    """
    variables = dict(os.environ) if environ is None else dict(environ)
    named = variables.get("PROMTOOL_BIN") or shutil.which("promtool")
    scene = Scene(
        site,
        operation,
        now,
        monotonic_s,
        promtool if promtool is not None else Path(named) if named else None,
        variables,
        wait_s,
    )
    _ = scene.began  # the clocks' first look, before anything takes time
    results = [run_check(check, scene) for check in CHECKS]
    return _overridden(results, scene)


def run_check(check: Check, scene: Scene) -> CheckResult:
    """Run one check; whatever goes wrong in it is its result."""
    try:
        found = check.look(scene)
    except V13Error as error:
        found = bad(str(error))
    except Exception as error:  # the others are to run: a check before a deploy that ends halfway has checked nothing
        found = bad(f"unexpected {type(error).__name__}: {error}", f"a defect of this check; {check.remedy}")
    remedy = (found.remedy or check.remedy) if found.status == "failed" else ""
    return CheckResult(
        *(check.key, check.title, found.status, found.evidence, remedy),
        title_zh=check.title_zh,
        box=check.box,
        facts=found.facts,
    )


def _overridden(results: Sequence[CheckResult], scene: Scene) -> list[CheckResult]:
    """Apply what was signed; one that does not hold is itself a failed check, for somebody meant it to count."""
    folder = override_folder(scene.site)
    if not folder.is_dir() or not any(folder.glob(f"*{SUFFIX}")):
        return list(results)
    signed: dict[str, Override] = {}

    def look(scene: Scene) -> Finding:
        keys = read_public_keys(scene.site.signers)
        allowed = may_be_overridden(scene.site)
        signed.update(find_overrides(folder, keys, bundle_sha256=scene.bundle.sha256, checks=allowed, now=scene.now()))
        unused = [r.key for r in results if r.key in signed and r.status != "failed"]
        text = "; ".join(str(override) for override in signed.values())
        return good(text + (f"; not needed: {', '.join(unused)}" if unused else "")) if signed else absent("none")

    remedy = "remove the override that does not hold, or have it signed anew"
    own = run_check(Check(OVERRIDES, "Overrides", "签名豁免", "acceptance", look, remedy), scene)
    applied = [
        replace(r, status="ok", override=str(signed[r.key])) if r.key in signed and r.status == "failed" else r
        for r in results
    ]
    return [*applied, own]
