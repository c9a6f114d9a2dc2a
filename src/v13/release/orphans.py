"""Processes of a site, found by the marks in their environment and ended without ever hitting another one.

A supervisor that was killed leaves its programs running. It must not end the calling process, nor what that came from.
Linux only: it reads /proc and signals through pidfd, so a process id that was given away anew is never signalled.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from v13.errors import ReleaseError

__all__ = ["Process", "end", "end_all", "find", "group", "is_alive", "marks"]

SITE: Final = "V13_SITE"
PROGRAM: Final = "V13_PROGRAM"
KILL_S: Final = 20.0  # the kernel takes milliseconds; longer only where a disk hangs
ROUNDS: Final = 50
# While a process takes on a new program its environment reads as empty for some microseconds.
SECOND_LOOK_S: Final = 0.02
_PROC: Final = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process at one time of its life; `start_ticks` tells it from a later one of the same id."""

    pid: int
    start_ticks: int
    program: str


def marks(home: Path, program: str) -> dict[str, str]:
    """Return the variables by which processes of a site are found."""
    return {SITE: str(home.resolve()), PROGRAM: program}


def find(home: Path, program: str | None = None) -> list[Process]:
    """Return the live processes that carry the mark of a site, or of one program in it; the calling one too.

    Raises
    ------
    ReleaseError
        There is no /proc to find them in.
    """
    site = os.fsencode(f"{SITE}={home.resolve()}")
    key = os.fsencode(f"{PROGRAM}=")
    found = []
    for pid in _pids():
        before = _stat(pid)
        with suppress(OSError):  # gone, or of another user
            said = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if before and site in said and (after := _stat(pid)) and after.start_ticks == before.start_ticks:
                name = next((os.fsdecode(word[len(key) :]) for word in said if word.startswith(key)), "")
                if program in (None, name):
                    found.append(Process(pid, before.start_ticks, name))
    return found


def group(leader: int) -> list[Process]:
    """Return the live processes of a process group."""
    stats = [(pid, _stat(pid)) for pid in _pids()]
    return [Process(pid, stat.start_ticks, "") for pid, stat in stats if stat and stat.group == leader]


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that ended and waits to be reaped does not."""
    return _stat(pid) is not None


def end(found: Iterable[Process], grace_s: float) -> None:
    """Send SIGTERM, after `grace_s` seconds SIGKILL (at once where it is 0), and return when all are gone.

    Raises
    ------
    ReleaseError
        One of them cannot be signalled, or is there still.
    """
    spared = set(_lineage())
    with ExitStack() as stack:
        handles = {}
        for process in found:
            if process.pid in spared:
                continue
            try:
                handle = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            except OSError as error:
                raise ReleaseError(f"process {process.pid}: cannot be reached: {error.strerror}") from error
            stack.callback(os.close, handle)
            stat = _stat(process.pid)  # what the handle stands for, as long as that lives
            if stat and stat.start_ticks == process.start_ticks:
                handles[handle] = process
        if grace_s > 0:
            _signal(handles, signal.SIGTERM)
            _wait(handles, grace_s)
        _signal(handles, signal.SIGKILL)
        _wait(handles, KILL_S)
        if handles:
            pids = ", ".join(str(process.pid) for process in handles.values())
            raise ReleaseError(f"process {pids}: still there {KILL_S:g} s after SIGKILL; look at what it waits for")


def end_all(home: Path, grace_s: float, program: str | None = None) -> None:
    """End whatever carries the mark, until two looks find nothing; the caller and its ancestors are left alone.

    Raises
    ------
    ReleaseError
        As `end`; or something keeps starting new ones.
    """
    empty = 0
    for _ in range(ROUNDS):
        spared = set(_lineage())
        found = [process for process in find(home, program) if process.pid not in spared]
        end(found, grace_s)
        empty = 0 if found else empty + 1
        if empty == 2:
            return
        time.sleep(SECOND_LOOK_S)
    raise ReleaseError(f"{home}: processes come back as fast as they are ended; look for who starts them")


@dataclass(frozen=True)
class _Stat:
    parent: int
    group: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """Return what proc(5) says of a process that lives; None of a dead one."""
    try:
        # The name, in brackets, may hold anything.
        words = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if not words or words[0] in b"ZXx" else _Stat(int(words[1]), int(words[2]), int(words[19]))


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - names, not paths
    except OSError as error:
        raise ReleaseError(f"{_PROC}: expected the processes of this machine (Linux): {error.strerror}") from error


def _lineage() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        stat = _stat(pid)
        pid = stat.parent if stat else 0


def _signal(handles: Iterable[int], number: signal.Signals) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise ReleaseError("a process of this site belongs to another user; run this as that user") from error


def _wait(handles: dict[int, Process], within_s: float) -> None:
    """Take those out that end in time; a pidfd becomes readable when its process is gone."""
    end_s = time.monotonic() + within_s
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    while handles and (left_s := end_s - time.monotonic()) > 0:
        for handle, _ in poll.poll(left_s * 1000):
            poll.unregister(handle)
            del handles[handle]
