"""A real Prometheus on loopback: started with a configuration, waited for, stopped by its own pid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from v13.release.ports import free_port

WAIT_S = 180.0  # a crowded machine takes long; nothing waits for it in vain
POLL_S = 0.02


def prometheus_binary() -> str:
    """Return PROMETHEUS_BIN, or the one on the path; without either the test is skipped, which CI takes as failed."""
    found = os.environ.get("PROMETHEUS_BIN") or shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus: apt-get install prometheus, or set PROMETHEUS_BIN")
    return found


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return what the condition gives as soon as it is true."""
    deadline = monotonic() + WAIT_S
    while True:
        found = condition()
        if found:
            return found
        assert monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        sleep(POLL_S)


@contextmanager
def prometheus(
    folder: Path,
    exporters: Mapping[str, int],
    rules: Mapping[str, Any],
    *,
    scrape: str = "1s",
    data: Path | None = None,
) -> Iterator[str]:
    """Yield the URL of a server that scrapes ports of this machine, job to port, and evaluates rule files."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in rules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))  # JSON is YAML
    jobs = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{p}"]}]} for job, p in exporters.items()]
    times = {"scrape_interval": scrape, "evaluation_interval": scrape}
    config = {"global": times, "rule_files": list(rules), "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        prometheus_binary(),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data or folder / 'data'}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: process.poll() is not None or _is_ready(url), "Prometheus is ready")
            assert process.poll() is None, (folder / "log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=WAIT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
