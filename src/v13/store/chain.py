"""A log that can only grow: rows in an SQLite file, each of which carries the hash of the one before.

It must not know what its rows mean. Whoever edits the file leaves a chain that breaks at the row in question.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from v13.errors import StoreError

__all__ = ["ChainedLog", "Row", "Transaction", "canonical"]

BUSY_S: Final = 60.0  # a writer holds the file for milliseconds; a minute outlasts a stalled disk
GENESIS: Final = "0" * 64  # what the first row is chained to
_MEND: Final = "put a backup in its place; a new file would forget what was entered"
_REFUSE: Final = "BEGIN SELECT RAISE(ABORT, 'this log is append-only'); END"
_TABLE: Final = "CREATE TABLE entry (n INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL, sha256 TEXT NOT NULL)"
_TRIGGERS: Final = (
    f"CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry {_REFUSE}",
    f"CREATE TRIGGER entry_is_never_removed BEFORE DELETE ON entry {_REFUSE}",
    # INSERT OR REPLACE would remove a row without firing the trigger above.
    "CREATE TRIGGER entry_comes_last BEFORE INSERT ON entry "
    f"WHEN NEW.n IS NOT (SELECT COALESCE(MAX(n), 0) + 1 FROM entry) {_REFUSE}",
)


@dataclass(frozen=True)
class Row:
    """A row; `record` holds kind, key, utc, and what belongs to the kind."""

    n: int
    record: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Transaction:
    """All rows, checked, while nobody else can write; what is appended becomes durable when the block ends well."""

    rows: list[Row]
    _db: sqlite3.Connection
    _now: Callable[[], datetime]

    def append(self, kind: str, key: str, facts: Mapping[str, Any]) -> Row:
        """Add a row at the end and return it; `facts` are plain JSON values, StoreError where they are not."""
        utc = self._now().astimezone(UTC).isoformat(timespec="seconds")
        try:
            text = canonical({"kind": kind, "key": key, "utc": utc} | dict(facts))
        except (TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"{kind}: cannot be entered: {error}; a row holds plain JSON values") from error
        row = Row(len(self.rows) + 1, json.loads(text), _link(self.rows[-1].sha256 if self.rows else GENESIS, text))
        self._db.execute("INSERT INTO entry (n, record, sha256) VALUES (?, ?, ?)", (row.n, text, row.sha256))
        self.rows.append(row)
        return row


class ChainedLog:
    """The log at `path`.

    Parameters
    ----------
    path : Path
    application_id, schema : int, > 0
        What the header must say; the schema is that of the rows' content, too.
    now : callable
        The clock.

    Notes
    -----
    Every method raises StoreError where the file is damaged, of another kind or schema, held by others for a minute, or
    cannot be read or written; nothing is entered then. A rollback journal and not WAL: rows are rare, and one file is
    easier to back up and can be read on a read-only disk.
    """

    def __init__(self, path: Path, *, application_id: int, schema: int, now: Callable[[], datetime]) -> None:
        self.path = path
        self._application_id = application_id
        self._schema = schema
        self._now = now
        self._parsed: list[Row] = []  # of the last reading: taking JSON apart costs most of one

    @contextmanager
    def transaction(self, *, create: bool = False) -> Iterator[Transaction]:
        """Hold the only right to write for the length of the block; whatever it raises undoes it.

        Parameters
        ----------
        create : bool
            Make the file, and its folders, where there is none; otherwise that is an error.
        """
        if not create and not self._is_there():
            raise StoreError(f"{self.path}: there is no such file yet; nothing has been entered")
        with self._open("BEGIN IMMEDIATE", create=create) as db:
            yield Transaction(self._read(db), db, self._now)

    def rows(self) -> list[Row]:
        """Return all rows, oldest first; none where there is no file."""
        if not self._is_there():
            return []
        with self._open("BEGIN") as db:
            return self._read(db)

    def verify(self) -> str:
        """Check file, triggers and chain; return the hash of the last row (zeros where there is none).

        Raises
        ------
        StoreError
            Naming the row where the chain breaks. Rows cut off the end together with SQLite's own count of them leave
            a chain that holds: only a hash kept elsewhere tells.
        """
        if not self._is_there():
            return GENESIS
        with self._open("BEGIN") as db:
            (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if answer != "ok":
                raise StoreError(f"{self.path}: is damaged ({answer}); {_MEND}")
            rows = self._read(db)
        return rows[-1].sha256 if rows else GENESIS

    def _is_there(self) -> bool:
        try:
            return self.path.exists()
        except OSError as error:
            raise StoreError(f"{self.path}: could not be read: {error.strerror}") from error

    @contextmanager
    def _open(self, begin: str, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside a transaction, which is committed at the end; closing early rolls it back."""
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
            with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
                db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a row with broken text is to be named
                db.execute("PRAGMA synchronous = EXTRA")  # FULL, and the folder too once the journal is gone
                db.execute(begin)
                self._prepare(db, create=create)
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except OSError as error:
            raise StoreError(f"{self.path}: could not be made: {error.strerror or error}") from error

    def _prepare(self, db: sqlite3.Connection, *, create: bool) -> None:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (schema,) = db.execute("PRAGMA user_version").fetchone()
        if application_id == self._application_id:
            if schema != self._schema:
                raise StoreError(
                    f"{self.path}: expected schema {self._schema}, found {schema}; use the v13 that wrote it"
                )
        elif application_id or db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StoreError(f"{self.path}: is a database of something else; move it away")
        elif create:
            for statement in (_TABLE, *_TRIGGERS):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {self._application_id}")
            db.execute(f"PRAGMA user_version = {self._schema}")

    def _read(self, db: sqlite3.Connection) -> list[Row]:
        """Return all rows, the chain checked link by link."""
        made = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE substr(name, 1, 7) <> 'sqlite_'")}
        if not db.execute("PRAGMA application_id").fetchone()[0]:
            return []  # no bytes yet: its maker was killed
        if _TABLE not in made:
            raise StoreError(f"{self.path}: row 1 and all others were removed; {_MEND}")
        rows: list[Row] = []
        link = GENESIS
        for place, (n, text, sha256) in enumerate(db.execute("SELECT n, record, sha256 FROM entry ORDER BY n"), 1):
            if n != place:
                raise StoreError(f"{self.path}: row {place} is missing, the next is {n}; {_MEND}")
            link = _link(link, str(text))
            if sha256 != link:
                raise StoreError(f"{self.path}: row {n} is not what was entered; {_MEND}")
            known = self._parsed[n - 1] if n <= len(self._parsed) else None
            rows.append(known if known is not None and known.sha256 == sha256 else Row(n, json.loads(text), sha256))
        counted = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entry'").fetchone()
        if (counted[0] if counted else 0) != len(rows):
            raise StoreError(f"{self.path}: row {len(rows) + 1} and what followed it were removed; {_MEND}")
        if made != {_TABLE, *_TRIGGERS}:
            raise StoreError(f"{self.path}: the triggers that keep its rows are not what they were; {_MEND}")
        self._parsed = list(rows)
        return rows

    def _refusal(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return StoreError(f"{self.path}: is damaged ({error}); {_MEND}")
        if name.startswith("SQLITE_BUSY"):
            return StoreError(f"{self.path}: others held it for {BUSY_S:.0f} s; nothing was entered, try again")
        if name.startswith("SQLITE_FULL"):
            return StoreError(f"{self.path}: {error}; nothing was entered; free some space, then type it again")
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR")) and _is_read_only(self.path.parent):
            return StoreError(
                f"{self.path}: is on a read-only file system ({error}); nothing was entered, mend the disk"
            )
        return StoreError(f"{self.path}: could not be used: {error}; nothing was entered")


def _is_read_only(folder: Path) -> bool:
    with suppress(OSError):
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def canonical(record: Mapping[str, Any]) -> str:
    """Return the one JSON text of a record: keys sorted, no spaces, ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _link(before: str, text: str) -> str:
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
