"""What Prometheus and Alertmanager are given for a site: the built files, with targets and webhook of this machine.

Targets are a file of their own, which Prometheus reads again by itself: releases come and go without a reload.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from v13 import store
from v13.release.site import Site
from v13.telemetry.dashboard import dashboard_json
from v13.telemetry.rules import Document, rule_files
from v13.telemetry.servers import ALERTMANAGER_FILE, PROMETHEUS_FILE, server_files
from v13.telemetry.servers import Exporter as ScrapedRunner
from v13.telemetry.signals import CLOSURE_JOB, RUNNER_JOB
from v13.telemetry.slo import Level, SloTable

__all__ = ["TARGETS", "closure_port", "instance", "monitoring_documents", "target_groups", "write_files"]

TARGETS: Final[Mapping[str, str]] = {RUNNER_JOB: "targets/runners.json", CLOSURE_JOB: "targets/closures.json"}
DASHBOARD: Final = "dashboards/divergence_overview.json"


def instance(port: int) -> str:
    """Return how a runner of this machine is called in metrics and alerts."""
    return f"127.0.0.1:{port}"


def closure_port(port: int) -> int:
    """Return the port of the closure watcher of a runner: the next one (guide's 8003: 8004)."""
    return port + 1


def monitoring_documents(site: Site, table: SloTable) -> dict[str, Document | str]:
    """Return the files, path to content; they follow from the SLO table and the settings alone."""
    deploy, exporter = site.config.deploy, site.config.exporter
    table = _in_time(table, deploy.time_scale)
    servers = server_files(table, ScrapedRunner(instance(deploy.ports[0])))
    prometheus = deepcopy(dict(servers[PROMETHEUS_FILE].body))
    for job in prometheus["scrape_configs"]:
        if job["job_name"] in TARGETS:
            job.pop("static_configs")
            job["file_sd_configs"] = [{"files": [TARGETS[job["job_name"]]], "refresh_interval": "5s"}]
        if job["job_name"] == RUNNER_JOB and exporter.tls_cert is not None:
            job |= {"scheme": "https", "tls_config": {"ca_file": str(site.root / exporter.tls_cert)}}
        if job["job_name"] == RUNNER_JOB and exporter.user is not None and exporter.password_file is not None:
            password_file = str(site.root / exporter.password_file)
            job["basic_auth"] = {"username": exporter.user, "password_file": password_file}
    if deploy.alertmanager is None:
        prometheus.pop("alerting")
    else:
        address = deploy.alertmanager.partition("://")[2].rstrip("/")
        prometheus["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
    return {
        PROMETHEUS_FILE: servers[PROMETHEUS_FILE]._replace(body=prometheus),
        ALERTMANAGER_FILE: servers[ALERTMANAGER_FILE]._replace(body=_with_guard(site, servers[ALERTMANAGER_FILE].body)),
        **rule_files(table),
        DASHBOARD: dashboard_json(table),
    }


def target_groups(running: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Return the targets of each job for the releases that run.

    Parameters
    ----------
    running : mapping of release to the port of its exporter

    Notes
    -----
    A closure watcher carries the runner's `instance`: what alerts and observations tell apart is the release.
    """
    runners, closures = [], []
    for release, port in sorted(running.items()):
        labels = {"instance": instance(port), "release": release}
        runners.append({"targets": [instance(port)], "labels": labels})
        closures.append({"targets": [instance(closure_port(port))], "labels": labels})
    return {RUNNER_JOB: runners, CLOSURE_JOB: closures}


def _in_time(table: SloTable, scale: float) -> SloTable:
    """Return a table whose levels last shorter, for a rehearsal."""

    def level(one: Level) -> Level:
        return replace(one, for_s=max(1, round(one.for_s * scale)))

    if scale == 1.0:
        return table
    rows = tuple(
        replace(row, alert=level(row.alert), rollback=None if row.rollback is None else level(row.rollback))
        for row in table.rows
    )
    return replace(table, rows=rows, alerts=tuple(replace(a, level=level(a.level)) for a in table.alerts))


def _with_guard(site: Site, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return Alertmanager's configuration with the guard as the one who is told what has to be taken back."""
    deploy = site.config.deploy
    changed = deepcopy(dict(body))
    for receiver in changed["receivers"]:
        if receiver["name"] != "rollback":
            continue
        hooks = receiver.setdefault("webhook_configs", [])
        hooks.append(
            {
                "url": f"http://{deploy.guard_host}:{deploy.guard_port}/alerts",
                "send_resolved": True,
                "max_alerts": 0,
                "http_config": {
                    "authorization": {"type": "Bearer", "credentials_file": str(site.root / deploy.guard_token_file)}
                },
            }
        )
    return changed


def write_files(folder: Path, files: Mapping[str, Document | str]) -> None:
    """Write files below a folder, each whole; errors as `v13.store`."""
    for name, document in files.items():
        if isinstance(document, str):
            store.write_text(folder / name, document)
        else:
            store.write_yaml(folder / name, document.body, header=document.header)
