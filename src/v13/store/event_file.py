"""The file of an event log: the right to write it, opening it for writing and for reading, and why it refuses.

It must not know what the tables mean.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from v13.errors import StoreError
from v13.store.event_schema import APPLICATION_ID, SCHEMA, TABLES

__all__ = ["WriterLock", "identity", "is_full", "is_sound", "open_reader", "open_writer", "refusals"]

BUSY_S: Final = 1.0  # readers never block the writer; whoever else does would stall the runner's one thread
WAL_KEPT_BYTES: Final = 64 << 20  # the journal shrinks back to this after a large transaction
CACHE_KIB: Final = 16_384  # a replay's transactions fit
PID_BYTES: Final = 32

_PRAGMAS: Final = (
    "synchronous = FULL",  # a commit is on the disk when it returns, power cut included
    f"journal_size_limit = {WAL_KEPT_BYTES}",
    f"cache_size = -{CACHE_KIB}",
    "cell_size_check = ON",  # a damaged page is noticed when it is read and not when it is written back
)


class WriterLock:
    """The right to write the log at `path`, held until `release` or the end of the process, however it ends.

    Raises
    ------
    StoreError
        Another process (or this one) has it, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        place = path.with_name(path.name + ".lock")  # never removed: a lock on a removed file keeps nobody out
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"{place}: could not be made: {error.strerror}; the log's folder must be writable") from (
                error
            )
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(self._handle, PID_BYTES, 0).decode("ascii", "replace") or "unknown"
            os.close(self._handle)
            raise StoreError(
                f"{path}: process {pid} writes this log already, and a log has one writer; stop that process, or give "
                "this runner a log of its own"
            ) from error
        except OSError as error:
            os.close(self._handle)
            raise StoreError(f"{place}: could not be locked: {error.strerror}") from error

    def release(self) -> None:
        """Give the right back."""
        os.close(self._handle)


def open_writer(path: Path, *, create: bool, check: bool) -> sqlite3.Connection:
    """Open the log at `path` for writing, in autocommit mode.

    Parameters
    ----------
    path : Path
    create : bool
        Make the file and its tables where there are none.
    check : bool
        Read the whole file first (`PRAGMA quick_check`).

    Raises
    ------
    StoreError
        The file is damaged, of another kind or schema, or cannot be written.
    """
    with refusals(path):
        if _size(path) == 0 and _size(_wal(path)) > 0:
            raise StoreError(
                f"{path}: is missing or empty beside its {_wal(path).name}, which holds commits; put the file back, or "
                "move the journal away"
            )
        db = sqlite3.connect(_uri(path, "rwc" if create else "rw"), uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            is_new = _check_header(db, path) == 0
            if is_new and not create:
                raise StoreError(f"{path}: is empty; it was moved away or cut off while in use")
            if check and not is_new:
                _check_pages(db, path)
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(f"{path}: its file system cannot share memory (journal mode {mode}); use a local disk")
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN IMMEDIATE")  # SQLite opens what it may not write as well, and would tell at the first row
            if is_new:
                _make_tables(db)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the log at `path` for reading, whether or not somebody writes it.

    A reader never checkpoints the journal and never blocks the writer, as long as it leaves no cursor half-read.

    Raises
    ------
    StoreError
        There is no such file, or it is damaged, of another kind or schema, or cannot be read.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no event log; `v13 run` makes one")
    with refusals(path):
        try:
            return _reader(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if _code(error) not in ("SQLITE_CANTOPEN", "SQLITE_READONLY_CANTINIT") or _size(_wal(path)) > 0:
                raise
            # A folder where nothing may be made, and no writer: the file alone is the whole log.
            return _reader(path, "mode=ro&immutable=1")


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn what SQLite or the file system raises into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {_advice(path, error)}") from error
    except OSError as error:
        raise StoreError(f"{path}: could not be used: {error.strerror or error}") from error


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from another one put in its place; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def is_full(error: BaseException) -> bool:
    """Return whether there was no room on the disk."""
    return _code(error).startswith("SQLITE_FULL")


def is_sound(error: BaseException) -> bool:
    """Return whether the connection that raised `error` may be used again once its transaction is rolled back."""
    unsound = ("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN", "SQLITE_READONLY")
    return not _code(error).startswith(unsound)


def _reader(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        if _check_header(db, path) == 0:
            raise StoreError(f"{path}: is empty; `v13 run` makes an event log")
    except BaseException:
        db.close()
        raise
    return db


def _check_header(db: sqlite3.Connection, path: Path) -> int:
    """Return the application id: ours, or 0 in a file without anything in it."""
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    made = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if application_id == 0 and not made:
        return 0
    if application_id != APPLICATION_ID:
        raise StoreError(f"{path}: is a database of something else; move it away or name another file")
    (schema,) = db.execute("PRAGMA user_version").fetchone()
    if schema != SCHEMA:
        raise StoreError(
            f"{path}: expected schema {SCHEMA}, found {schema}; use the v13 that wrote it, or move it away"
        )
    if not made.issuperset(TABLES):
        raise StoreError(f"{path}: its tables are not those of schema {SCHEMA}; use the v13 that wrote it")
    return int(application_id)


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise StoreError(f"{path}: {_damaged(path, ' '.join(answer.split()))}")


def _make_tables(db: sqlite3.Connection) -> None:
    for statement in TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")


def _advice(path: Path, error: sqlite3.Error) -> str:
    code = _code(error)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _damaged(path, str(error))
    if is_full(error):
        return "the disk is full; nothing was entered; free some space, the log goes on by itself"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another program held it for {BUSY_S:.0f} s ({error}); nothing was entered; close that program"
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"could not be opened or written ({error}); nothing was entered; its folder must be writable"
    return f"could not be used: {error}; nothing was entered"


def _damaged(path: Path, reason: str) -> str:
    name = path.name
    return (
        f"is damaged ({reason}). Stop the runner, move {name}, {name}-wal and {name}-shm to a folder of their own; "
        f"then either salvage what can be read with `v13 events --log THERE/{name} --salvage {path}` (or `sqlite3 "
        ".recover`, where it is built in), or start without it: a new log is made, and counters begin at 0"
    )


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _code(error: BaseException) -> str:
    return getattr(error, "sqlite_errorname", "")
