"""Prometheus and Alertmanager of a rehearsal: found, started on loopback over given files, stopped by their own pid.

They read the files a deploy writes and reload over HTTP, as in production; nothing that runs already is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from v13.errors import ConfigError, V13Error

__all__ = ["Server", "alertmanager", "prometheus"]

WAIT_S: Final = 60.0  # only a broken server is waited for so long
LOOK_S: Final = 0.05
PROGRAMS: Final = {
    "prometheus": ("PROMETHEUS_BIN", ("prometheus",)),
    "alertmanager": ("ALERTMANAGER_BIN", ("prometheus-alertmanager", "alertmanager")),
}


class Server:
    """A server that runs; a context manager.

    Parameters
    ----------
    command : sequence of str
    url : str
        Answers `/-/ready` with 200 once it is up.
    log : Path
        What it writes.

    Raises
    ------
    ConfigError
        It ends at once; its last words are told.
    V13Error
        It does not become ready.
    """

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.command, self.url, self.log = list(command), url, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            self._wait()
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

    def _wait(self) -> None:
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", timeout=5.0, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if self.process.poll() is not None:
                said = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
                raise ConfigError(f"{self.command[0]}: ended at once; it said:\n{said}")
            if time.monotonic() > end_s:
                raise V13Error(f"{self.command[0]}: not ready within {WAIT_S:g} s; see {self.log}")
            time.sleep(LOOK_S)


def prometheus(config: Path, folder: Path, port: int) -> Server:
    """Start Prometheus on a configuration file; its data and log go to a folder."""
    command = [
        *(str(_program("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle"),
    ]
    return Server(command, f"http://127.0.0.1:{port}", folder / "prometheus.log")


def alertmanager(config: Path, folder: Path, port: int) -> Server:
    """Start Alertmanager on a configuration file; its data and log go to a folder."""
    command = [
        *(str(_program("alertmanager")), f"--config.file={config}", f"--storage.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="),
    ]
    return Server(command, f"http://127.0.0.1:{port}", folder / "alertmanager.log")


def _program(name: str) -> Path:
    """Return a server's program: the one its variable names, or the one on PATH."""
    variable, names = PROGRAMS[name]
    named = os.environ.get(variable)
    for one in (named,) if named else names:
        found = shutil.which(one)
        if found:
            return Path(found)
    raise ConfigError(
        f"{name} is not installed (apt-get install prometheus prometheus-alertmanager); or name it with {variable}"
    )
