"""Who carries out an operation: a process, told from a later one that was given the same number.

Linux tells when a process began, in clock ticks since boot; together with the boot's id that names it for ever.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Worker", "is_alive", "this_process"]

PROC: Final = Path("/proc")
BOOT_ID: Final = PROC / "sys/kernel/random/boot_id"
START_FIELD: Final = 19  # starttime, counted from the field behind the name (proc(5): 22 of all)
STATE_FIELD: Final = 0


class Worker(NamedTuple):
    """A process of this machine or of another one; `begun` is 0 where the system does not tell."""

    pid: int
    begun: int
    boot: str


def this_process() -> Worker:
    """Return the process that asks."""
    fields = _stat(os.getpid())
    return Worker(os.getpid(), int(fields[START_FIELD]) if fields else 0, _boot())


def is_alive(worker: Worker) -> bool:
    """Return whether it still runs here; one of another boot or machine does not."""
    if worker.boot != _boot():
        return False
    fields = _stat(worker.pid)
    return fields is not None and fields[STATE_FIELD] not in "ZX" and int(fields[START_FIELD]) == worker.begun


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # a name may hold spaces and brackets


def _boot() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
