"""The right to change what runs: one process at a time, and only for an operation that nobody has taken over.

A worker that was superseded while it waited for the lock is refused when it gets it, so it cannot undo what a rollback
did. The lock goes with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from v13.errors import ReleaseError
from v13.release.ledger import State

__all__ = ["acting"]


@contextmanager
def acting(path: Path, check: Callable[[], State]) -> Iterator[State]:
    """Hold the lock at `path` for the length of the block; what is done in it takes seconds at most.

    Parameters
    ----------
    path : Path
    check : callable
        Returns the state, or raises SupersededError; asked once the lock is held.

    Raises
    ------
    SupersededError
        From `check`.
    ReleaseError
        The lock cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ReleaseError(f"{path}: could not be made: {error.strerror}; the folder must be writable") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield check()
    finally:
        os.close(handle)
