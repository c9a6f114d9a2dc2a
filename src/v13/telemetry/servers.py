"""Configuration of the servers around the runner: what Prometheus scrapes and Alertmanager tells whom.

Intervals and receivers are the SLO table's. Files are named as `v13 monitoring build` lays them out.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from v13.telemetry.rules import ALERTS_FILE, RECORDING_FILE, SLO_ALERTS_FILE, WRITTEN, Document
from v13.telemetry.signals import CLOSURE_JOB, RUNNER_JOB, duration_text
from v13.telemetry.slo import SloTable

__all__ = ["ALERTMANAGER_FILE", "CLOSURE_PORT", "PROMETHEUS_FILE", "Exporter", "server_files"]

PROMETHEUS_FILE: Final = "prometheus_divergence.yml"
ALERTMANAGER_FILE: Final = "alertmanager.yml"
CLOSURE_PORT: Final = 8004  # of `v13 closure --watch`
CLOSURE_TARGET: Final = f"localhost:{CLOSURE_PORT}"
PROMETHEUS_TARGET: Final = "localhost:9090"
ALERTMANAGER_TARGET: Final = "localhost:9093"
MOST_SERIES: Final = 50_000  # of one scrape: 50 symbols make about 600; a runaway is not stored

GROUP_WAIT: Final = "10s"  # for what fires together to be told together
GROUP_INTERVAL: Final = "1m"
REPEAT_INTERVAL: Final = "4h"


class Exporter(NamedTuple):
    """Where and how the runner is scraped; paths as Prometheus will find them from its own file."""

    target: str = "localhost:8003"
    ca_file: str | None = None
    user: str | None = None
    password_file: str | None = None


def server_files(table: SloTable, exporter: Exporter) -> dict[str, Document]:
    """Return the configurations of Prometheus and Alertmanager, path to content."""
    return {
        PROMETHEUS_FILE: Document(
            f"{WRITTEN}\nRun: prometheus --config.file={PROMETHEUS_FILE}", _prometheus(table, exporter)
        ),
        ALERTMANAGER_FILE: Document(
            f"{WRITTEN} Receivers without a webhook tell nobody: notify.people, notify.rollback.", _alertmanager(table)
        ),
    }


def _prometheus(table: SloTable, exporter: Exporter) -> dict[str, Any]:
    runner: dict[str, Any] = {"job_name": RUNNER_JOB, "sample_limit": MOST_SERIES}
    if exporter.ca_file is not None:
        runner |= {"scheme": "https", "tls_config": {"ca_file": exporter.ca_file}}
    if exporter.user is not None:
        runner["basic_auth"] = {"username": exporter.user, "password_file": exporter.password_file}
    runner["static_configs"] = [{"targets": [exporter.target]}]
    return {
        "global": {
            "scrape_interval": duration_text(table.scrape_s),
            "scrape_timeout": duration_text(min(table.scrape_s, 10)),
            "evaluation_interval": duration_text(table.evaluate_s),
        },
        "rule_files": [RECORDING_FILE, SLO_ALERTS_FILE, ALERTS_FILE],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [ALERTMANAGER_TARGET]}]}]},
        "scrape_configs": [
            runner,
            {"job_name": CLOSURE_JOB, "static_configs": [{"targets": [CLOSURE_TARGET]}]},
            {"job_name": "prometheus", "static_configs": [{"targets": [PROMETHEUS_TARGET]}]},
        ],
    }


def _alertmanager(table: SloTable) -> dict[str, Any]:
    return {
        "route": {
            "receiver": "people",
            "group_by": ["slo", "instance"],
            "group_wait": GROUP_WAIT,
            "group_interval": GROUP_INTERVAL,
            "repeat_interval": REPEAT_INTERVAL,
            "routes": [
                {"receiver": "rollback", "matchers": ['action="rollback"'], "group_wait": "0s", "continue": True},
                {"receiver": "people"},  # of a rollback too
            ],
        },
        "inhibit_rules": [
            {  # a row beyond its rollback level is beyond its alert level too
                "source_matchers": ['action="rollback"'],
                "target_matchers": ['alertname=~".+Alert"'],
                "equal": ["slo", "instance"],
            },
            {  # of a runner that is down nothing else is news
                "source_matchers": ['alertname="DivergenceRunnerDown"'],
                "target_matchers": ['severity="warning"'],
                "equal": ["instance"],
            },
        ],
        "receivers": [
            _receiver("people", table.notify.people),
            _receiver("rollback", table.notify.rollback),
        ],
    }


def _receiver(name: str, url: str | None) -> dict[str, Any]:
    return {"name": name} | ({} if url is None else {"webhook_configs": [{"url": url, "send_resolved": True}]})
