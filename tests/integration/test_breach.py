"""From a breach to the webhook: real exporter, Prometheus and Alertmanager with the generated rules, at short times."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPO
from tests.integration.prometheus_server import WAIT_S, prometheus_binary, until
from v13.release.ports import free_port
from v13.telemetry import Health, Metrics, start_exporter
from v13.telemetry.rules import rule_files
from v13.telemetry.servers import ALERTMANAGER_FILE, PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.slo import load_slo


class Webhook:
    """Where Alertmanager posts to; remembers what it was told, by path."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.extend((self.path, alert) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def alerts(self, path: str, name: str, status: str) -> list[dict[str, Any]]:
        """Return what was told of an alert at a path."""
        return [a for p, a in self.told if p == path and a["labels"]["alertname"] == name and a["status"] == status]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            process.wait(WAIT_S)


def alertmanager_binary() -> str:
    names = (os.environ.get("ALERTMANAGER_BIN", ""), "prometheus-alertmanager", "alertmanager")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Alertmanager: apt-get install prometheus-alertmanager, or set ALERTMANAGER_BIN")
    return found


@contextmanager
def watched(folder: Path, exporter_port: int, webhook: Webhook) -> Iterator[None]:
    """Run Prometheus and Alertmanager on what is generated, with every duration and interval a second."""
    table = folder / "config" / "slo.yaml"
    table.parent.mkdir()
    text = (REPO / "config" / "slo.yaml").read_text(encoding="utf-8")
    text = re.sub(r"for: \d+[mh]|(scrape|evaluate)_every: 5s", lambda m: f"{m[0].split(':')[0]}: 1s", text)
    text = text.replace("people: null", f"people: {webhook.url}/people")
    table.write_text(text.replace("rollback: null", f"rollback: {webhook.url}/rollback"), encoding="utf-8")
    slo = load_slo(table)
    files = {**server_files(slo, Exporter(f"127.0.0.1:{exporter_port}")), **rule_files(slo)}
    port, alertmanager_port = free_port(), free_port()
    text = json.dumps({name: document.body for name, document in files.items()})
    text = text.replace('"10s"', '"0s"').replace('"group_interval": "1m"', '"group_interval": "1s"')
    text = text.replace("localhost:9093", f"127.0.0.1:{alertmanager_port}").replace(
        "localhost:9090", f"127.0.0.1:{port}"
    )
    for name, body in json.loads(text).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(body), encoding="utf-8")
    prometheus = [
        *(prometheus_binary(), f"--config.file={folder / PROMETHEUS_FILE}", f"--storage.tsdb.path={folder / 'data'}"),
        # What fires before Alertmanager was found is dropped, and told again after this time.
        *(f"--web.listen-address=127.0.0.1:{port}", "--rules.alert.resend-delay=1s"),
    ]
    alertmanager = [
        *(alertmanager_binary(), f"--config.file={folder / ALERTMANAGER_FILE}", "--cluster.listen-address="),
        *(f"--web.listen-address=127.0.0.1:{alertmanager_port}", f"--storage.path={folder / 'alertmanager'}"),
    ]
    with running(alertmanager, folder / "alertmanager.log"), running(prometheus, folder / "prometheus.log"):
        yield


def test_a_breach_reaches_who_it_should_and_is_taken_back(tmp_path: Path, webhook: Webhook) -> None:
    metrics = Metrics((10, 20), ("BTCUSDT",))
    for flag in ("feed_connected", "ready", "signed_off", "store_ok", "config_last_reload_successful"):
        metrics.set(f"divergence_{flag}", 1.0)
    detected = metrics.bind("divergence_detection_latency_seconds", source="none")
    with (
        start_exporter(metrics, lambda: Health(healthy=True, ready=True), "127.0.0.1", 0) as exporter,
        watched(tmp_path, exporter.port, webhook),
    ):
        # Nobody serves the closure here: that is told, and the runner until its first scrape; all well otherwise.
        until(lambda: webhook.alerts("/people", "DivergenceClosureAbsent", "firing"), "the closure is missed")
        heard = {alert["labels"]["alertname"] for _, alert in webhook.told}
        assert heard <= {"DivergenceClosureAbsent", "DivergenceRunnerAbsent"}

        metrics.set("divergence_queue_size", 5_000.0)
        (backlog, *_) = until(lambda: webhook.alerts("/people", "DivergenceBacklog", "firing"), "a backlog is told")
        assert backlog["labels"].items() >= {"severity": "warning", "slo": "event_latency", "action": "watch"}.items()
        assert backlog["annotations"]["summary"] == "Messages pile up: 5000 messages"
        metrics.set("divergence_queue_size", 0.0)
        until(lambda: webhook.alerts("/people", "DivergenceBacklog", "resolved"), "it is taken back")
        assert not webhook.alerts("/rollback", "DivergenceBacklog", "firing")

        detected.observe_many(np.full(10_000, 0.03))
        name = "DivergenceComputeLatencyRollback"
        (slow, *_) = until(lambda: webhook.alerts("/rollback", name, "firing"), "the rollback level is told")
        assert (
            slow["labels"].items() >= {"severity": "critical", "slo": "compute_latency", "action": "rollback"}.items()
        )
        assert slow["labels"]["instance"] == f"127.0.0.1:{exporter.port}"
        assert slow["annotations"]["summary"] == "Compute latency P95: 48.5ms"  # 95 % of the way from 20 to 50 ms
        assert slow["annotations"]["runbook_url"] == "docs/runbook.md#compute-latency"
        until(lambda: webhook.alerts("/people", name, "firing"), "people hear of it too")

        webhook.told.clear()
        exporter.close()
        until(lambda: webhook.alerts("/people", "DivergenceRunnerDown", "firing"), "the runner is missed")
        until(lambda: webhook.alerts("/people", "DivergenceRunnerAbsent", "firing"), "so are its figures")
