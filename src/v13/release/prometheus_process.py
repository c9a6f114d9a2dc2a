"""A Prometheus of our own on loopback, for a rehearsal: found, started on the built configuration, stopped by its pid.

It keeps its data in a folder that its owner removes. It must not touch a server that runs already.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from v13 import store
from v13.errors import ConfigError, V13Error

__all__ = ["PrometheusProcess", "find_prometheus", "free_port", "rehearsal_config"]

WAIT_S: Final = 60.0  # only a broken server is waited for so long
LOOK_S: Final = 0.05
LAST_LINES: Final = 5
USUAL_PLACE: Final = Path("/usr/bin/prometheus")  # Debian's


def find_prometheus() -> Path | None:
    """Return PROMETHEUS_BIN, the one on PATH, or Debian's; None where there is none.

    Raises
    ------
    ConfigError
        PROMETHEUS_BIN names no program.
    """
    named = os.environ.get("PROMETHEUS_BIN")
    if named:
        if not os.access(named, os.X_OK):
            raise ConfigError(f"PROMETHEUS_BIN: {named}: expected a program, found none there")
        return Path(named)
    found = shutil.which("prometheus")
    return Path(found) if found else USUAL_PLACE if os.access(USUAL_PLACE, os.X_OK) else None


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rehearsal_config(built: Path, targets: Mapping[str, str], scrape_s: int) -> dict[str, Any]:
    """Return the built configuration with other targets and times, and nobody to alert.

    Parameters
    ----------
    built : Path
        `prometheus_divergence.yml` of `v13 monitoring build`.
    targets : mapping of job to host:port
        Jobs that are not named are left out.
    scrape_s : int, s, >= 1

    Raises
    ------
    ConfigError
        The file cannot be read, or lacks one of the jobs.
    """
    try:
        document = YAML(typ="safe").load(built.read_text(encoding="utf-8"))
        jobs = {job["job_name"]: job for job in document["scrape_configs"]}
        rules = [str((built.parent / name).resolve()) for name in document["rule_files"]]
    except (OSError, YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{built}: not what `v13 monitoring build` writes: {error}") from error
    missing = [name for name in targets if name not in jobs]
    if missing:
        raise ConfigError(f"{built}: scrape_configs: there is no job {', '.join(missing)}")
    return {
        "global": document["global"]
        | dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{scrape_s}s"),
        "rule_files": rules,
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()
        ],
    }


class PrometheusProcess:
    """A server that runs; a context manager.

    Parameters
    ----------
    program : Path
    config : mapping
        Of its configuration file.
    folder : Path
        For configuration, data and log; a server started on it again finds the data of the one before.
    port : int, optional
        Default: a free one.

    Raises
    ------
    ConfigError
        It refuses its configuration or cannot be started; its last words are told.
    V13Error
        It does not become ready.
    """

    def __init__(self, program: Path, config: Mapping[str, Any], folder: Path, *, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        store.write_yaml(folder / "prometheus.yml", config)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "prometheus.log"
        command = [
            str(program),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        try:
            with self._log.open("ab") as sink:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        except OSError as error:
            raise ConfigError(f"{program}: cannot be started: {error.strerror}") from error
        try:
            self._wait(program)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop it, in order if it can be."""
        self.process.terminate()
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _wait(self, program: Path) -> None:
        end_s = time.monotonic() + WAIT_S
        while not self._is_ready():
            if self.process.poll() is not None:
                said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
                raise ConfigError(f"{program}: ended at once; it said:\n" + "\n".join(said))
            if time.monotonic() > end_s:
                raise V13Error(f"{program}: not ready within {WAIT_S:g} s; see {self._log}")
            time.sleep(LOOK_S)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=WAIT_S) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, HTTPException, ConnectionError):
            return False
