"""A server of the monitoring on loopback: started, waited for, stopped by its own pid.

It knows of a server that it answers `/-/ready`, and must not touch one that runs already.
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

__all__ = ["ServerProcess", "find_program"]

WAIT_S: Final = 60.0  # only a broken server is waited for so long
LOOK_S: Final = 0.05
LAST_LINES: Final = 5


class ServerProcess:
    """A server that runs; a context manager.

    Parameters
    ----------
    command : sequence of str
    url : str
        Answers `/-/ready` with 200 once it is up.
    log : Path
        What it writes is appended there.

    Raises
    ------
    ConfigError
        It cannot be started or ends at once; its last words are told.
    V13Error
        It does not become ready.
    """

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.command, self.url, self.log = list(command), url, log
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as sink:
                self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        except OSError as error:
            raise ConfigError(f"{self.command[0]}: cannot be started: {error.strerror}") from error
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
        while not self._is_ready():
            if self.process.poll() is not None:
                said = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
                raise ConfigError(f"{self.command[0]}: ended at once; it said:\n{said}")
            if time.monotonic() > end_s:
                raise V13Error(f"{self.command[0]}: not ready within {WAIT_S:g} s; see {self.log}")
            time.sleep(LOOK_S)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=WAIT_S, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def find_program(variable: str, names: Sequence[str]) -> Path | None:
    """Return the program a variable names, or the first of some names on PATH or in Debian's place, or None.

    Raises
    ------
    ConfigError
        The variable names no program.
    """
    named = os.environ.get(variable)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ConfigError(f"{variable}: {named}: expected a program, found none there")
        return Path(found)
    for place in (None, "/usr/bin"):  # a service's PATH may lack Debian's place
        for name in names:
            found = shutil.which(name, path=place)
            if found:
                return Path(found)
    return None
