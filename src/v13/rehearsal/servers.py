"""Prometheus and Alertmanager of a rehearsal: found, started on loopback over given files, stopped by their own pid.

They read the files a deploy writes and reload over HTTP, as in production; nothing that runs already is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from v13.errors import ConfigError
from v13.release.server_process import ServerProcess, find_program

__all__ = ["alertmanager", "prometheus"]

PROGRAMS: Final = {
    "prometheus": ("PROMETHEUS_BIN", ("prometheus",)),
    "alertmanager": ("ALERTMANAGER_BIN", ("prometheus-alertmanager", "alertmanager")),
}


def prometheus(config: Path, folder: Path, port: int) -> ServerProcess:
    """Start Prometheus on a configuration file; its data and log go to a folder."""
    command = [
        *(str(_program("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle"),
    ]
    return ServerProcess(command, f"http://127.0.0.1:{port}", folder / "prometheus.log")


def alertmanager(config: Path, folder: Path, port: int) -> ServerProcess:
    """Start Alertmanager on a configuration file; its data and log go to a folder."""
    command = [
        *(str(_program("alertmanager")), f"--config.file={config}", f"--storage.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="),
    ]
    return ServerProcess(command, f"http://127.0.0.1:{port}", folder / "alertmanager.log")


def _program(name: str) -> Path:
    """Return a server's program: the one its variable names, or the one on PATH."""
    variable, names = PROGRAMS[name]
    found = find_program(variable, names)
    if found is None:
        raise ConfigError(
            f"{name} is not installed (apt-get install prometheus prometheus-alertmanager); or name it with {variable}"
        )
    return found
