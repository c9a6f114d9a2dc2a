"""What keeps the programs of a site running: a definition, a state, and the same calls for systemd and for supervisord.

It must not start, watch or end a process itself; whoever implements the calls leaves that to a supervisor of others.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from v13.errors import ReleaseError
from v13.release import orphans

__all__ = [
    "Program",
    "ProgramState",
    "State",
    "Supervisor",
    "SupervisorGoneError",
    "choose",
    "environment",
    "kept_up",
    "last_lines",
    "wait_until",
]

LOOK_S: Final = 0.05
LAST_LINES: Final = 15
TAIL_BYTES: Final = 1 << 14
TRIES: Final = 3  # one may be killed while another comes up; three in a row are no accident
_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")  # would end a line of a configuration file
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Result = TypeVar("Result")


class SupervisorGoneError(ReleaseError):
    """It does not answer: it was killed or never started; `Supervisor.ensure_up` starts it."""


State = Literal["running", "starting", "backoff", "failed", "stopped", "unknown"]


@dataclass(frozen=True)
class Program:
    """What is kept running.

    Parameters
    ----------
    name : str
        Letters, digits and `-`; one of its kind in a site.
    command : tuple of str
        The program by its full path, and its arguments.
    folder : Path
        Working directory, a full path.
    environ : mapping
        Added to a minimal environment. Never secrets: they would be seen in /proc and in unit files.
    log : Path
        Where stdout and stderr go, a full path.
    stop_s : float, s, > 0
        From SIGTERM to SIGKILL.
    start_s : float, s, >= 0
        Up for so long counts as started; supervisord takes whole seconds and rounds up.
    retries : int, >= 1
        Starts that failed in a row, then it is "failed" and stays down.

    Raises
    ------
    ReleaseError
        A value is outside what is said above, or would break a line of a configuration file.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    environ: Mapping[str, str]
    log: Path
    stop_s: float = 5.0
    start_s: float = 2.0
    retries: int = 5

    def __post_init__(self) -> None:
        wrong = []
        if not _NAME.fullmatch(self.name):
            wrong.append(f"name {self.name!r}: expected letters, digits and -")
        wrong += [
            f"{what} {str(path)!r}: expected a full path"
            for what, path in (("command", Path(*self.command[:1])), ("folder", self.folder), ("log", self.log))
            if not path.is_absolute()
        ]
        wrong += [f"environ {key!r}: is no name of a variable" for key in self.environ if not _VARIABLE.fullmatch(key)]
        words = (*self.command, *self.environ.values(), str(self.folder), str(self.log))
        wrong += [f"{word!r}: holds a control character" for word in words if _CONTROL.search(word)]
        if not (self.stop_s > 0 and self.start_s >= 0 and self.retries >= 1):
            wrong.append("expected stop_s > 0, start_s >= 0 and retries >= 1")
        if wrong:
            raise ReleaseError(f"program {self.name}: {'; '.join(wrong)}")


@dataclass(frozen=True)
class ProgramState:
    """How a program stands; `since_s` is Unix time, `detail` says why.

    A program that is being ended is "running" until its process is gone.
    """

    name: str
    state: State
    pid: int | None
    since_s: float | None
    detail: str


class Supervisor(Protocol):
    """The calls; all raise ReleaseError where the supervisor does not do what was asked."""

    name: str

    def ensure_up(self) -> None:
        """Have the supervisor itself running."""

    def install(self, program: Program) -> None:
        """Write a definition; a changed one takes effect at the next start."""

    def start(self, name: str) -> None:
        """Return when it runs; it is started again after a crash or a reboot until it is stopped."""

    def stop(self, name: str, grace_s: float | None = None) -> None:
        """Return when its processes are gone; `grace_s` can shorten `stop_s`, not lengthen it."""

    def remove(self, name: str) -> None:
        """Stop it and forget its definition."""

    def state(self, name: str) -> ProgramState:
        """Return how it stands; "unknown" where it is not installed or the supervisor does not answer."""

    def states(self) -> list[ProgramState]:
        """Return all that are installed, by name."""

    def shut_down(self) -> None:
        """End all programs and the supervisor of the site; `ensure_up` brings back those that ran."""


def kept_up(supervisor: Supervisor, act: Callable[[], Result]) -> Result:
    """Have the supervisor run, and do what may be done twice; again where it was killed meanwhile.

    Raises
    ------
    SupervisorGoneError
        It went away under each of TRIES attempts.
    ReleaseError
        From `act`, or it cannot be started.
    """
    for _ in range(TRIES - 1):
        with suppress(SupervisorGoneError):
            supervisor.ensure_up()
            return act()
    supervisor.ensure_up()
    return act()


def choose(home: Path, wanted: str = "auto") -> Supervisor:
    """Return the supervisor of a site.

    Parameters
    ----------
    home : Path
        Folder of the site.
    wanted : {"auto", "systemd", "supervisord"}
        auto: systemd where it is process 1 and answers, else supervisord. A site keeps to one of them: each would take
        what the other runs for orphans.

    Raises
    ------
    ReleaseError
        `wanted` is none of these.
    """
    # They build on the types above.
    from v13.release.supervisord import Supervisord
    from v13.release.systemd import Systemd, is_usable

    if wanted == "supervisord" or (wanted == "auto" and not is_usable()):
        return Supervisord(home)
    if wanted in ("systemd", "auto"):
        return Systemd(home)
    raise ReleaseError(f"supervisor {wanted!r}: expected auto, systemd or supervisord")


def environment(home: Path, program: Program) -> dict[str, str]:
    """Return the whole environment of a program: the minimum, what it asks for, and the marks of its site."""
    minimum = {"PATH": _PATH, "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
    return minimum | dict(program.environ) | orphans.marks(home, program.name)


def last_lines(log: Path) -> str:
    """Return the end of a log for a message; what is there where it cannot be read."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = source.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
    except OSError as error:
        return f"{log}: {error.strerror or error}"
    return "\n".join([f"{log}:", *(f"  {line}" for line in lines)]) if lines else f"{log}: is empty"


def wait_until(holds: Callable[[], bool], within_s: float) -> bool:
    """Look until something holds; False where it does not within `within_s` seconds."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(LOOK_S)
    return True
