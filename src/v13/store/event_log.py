"""The event log: what the runner found and where it stood, in one SQLite file that one process writes.

A commit is one transaction: it is on the disk as a whole when `commit` returns, or nothing of it is. It must not decide
what an event or an outcome is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import BAR
from v13.errors import ConfigError, StoreError
from v13.store.event_bars import KeptBars
from v13.store.event_entry import enter
from v13.store.event_file import WriterLock, identity, is_full, is_sound, open_writer, refusals
from v13.store.event_schema import (
    STORED_BAR,
    ActiveConfig,
    Batch,
    Checkpoint,
    Committed,
    LoggedEvent,
    Outcome,
    Pending,
    SymbolState,
    event_id,
)
from v13.store.event_tallies import OutcomeTally, Tallies, tally

__all__ = [
    "ActiveConfig",
    "Batch",
    "Checkpoint",
    "Committed",
    "EventLog",
    "LoggedEvent",
    "Outcome",
    "OutcomeTally",
    "Pending",
    "SymbolState",
    "Tallies",
    "event_id",
]

BULK_ROWS: Final = 5_000  # a megabyte or so

Bars = NDArray[np.void]

_PENDING: Final = (
    "SELECT event_id, symbol, row, px, side, source, ts_ms, :horizon FROM event WHERE side <> 0 AND NOT EXISTS "
    "(SELECT 1 FROM outcome WHERE horizon_bars = :horizon AND outcome.n = event.n) ORDER BY n"
)


class EventLog:
    """The log at `path`, made where there is none; a context manager.

    Parameters
    ----------
    path : Path
        Beside it lie `<path>-wal`, `<path>-shm` (SQLite's) and `<path>.lock` (whose content is the writer's pid).
    keep_bars : int, >= 1
        Bars of a symbol kept up to and with its checkpoint; those after it are always kept.
    n_may_wait : int, >= 0
        So many more, of all symbols together, may stay until the bars of the same time are removed for all: the bars of
        a minute of one symbol lie on as many pages, and to write them all would hold up a commit.
    now_ms : callable
        The clock, UTC epoch milliseconds: when a row was entered.

    Raises
    ------
    StoreError
        Another process writes this log, the file is damaged (the message says how to salvage it), is of another kind
        or schema, or cannot be written. Methods raise it too where the disk refuses; see `commit`.
    ConfigError
        `keep_bars` is below 1.

    Notes
    -----
    It belongs to the thread that made it. Readers (`v13.store.event_reader`) never block it.
    """

    def __init__(self, path: Path, *, keep_bars: int, now_ms: Callable[[], int], n_may_wait: int = 0) -> None:
        if keep_bars < 1:
            raise ConfigError(f"keep_bars: expected at least 1, found {keep_bars}")
        self.path = path
        self._keep_bars = keep_bars
        self._n_may_wait = n_may_wait
        self._now_ms = now_ms
        self._in_doubt: Committed | None = None  # of a COMMIT that failed: the disk may have taken it all the same
        self._untold = Committed([], [])  # entered by such a COMMIT, to be told by the next one that succeeds
        self._is_closed = False
        self._db: sqlite3.Connection | None = None
        self._kept: KeptBars | None = None  # to be read anew
        self._lock = WriterLock(path)
        try:
            self._db = open_writer(path, create=True, check=True)
            self._identity = identity(path)
            with self._connected() as db:
                self._kept = KeptBars(db)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Fold the journal into the file and let go of both; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            try:
                with refusals(self.path):
                    self._drop()
            finally:
                self._lock.release()

    def commit(self, batch: Batch) -> Committed:
        """Enter a batch, durably and as a whole.

        Bars, events and outcomes that are there already are left as they are and are not told as new, so a batch may be
        handed in again after a failure or a restart. States and checkpoints replace those of fewer rows; a checkpoint
        also removes the bars that nobody needs any more, but for those that may wait.

        Returns
        -------
        Committed
            What is in the log since this call and was never told before: each event and outcome is told once.

        Raises
        ------
        StoreError
            The disk is full, read-only or broken, the file was moved away, or the batch contradicts itself or the log
            (bars of another dtype, the outcome of an event that is not there, two configs under one version). Nothing
            was entered, and the log can be used again. Should the disk fail at the very end and keep the batch all the
            same, the next commit finds out and tells what is new in both.
        """
        with self._connected() as db:
            if identity(self.path) != self._identity:
                raise StoreError(f"{self.path}: was moved away or replaced while in use; start the runner again")
            self._resolve(db)
            self._kept = self._kept or KeptBars(db)
            entered = Committed([], [])
            is_asked = False
            if sum(map(len, batch.bars.values())) + len(batch.events) > BULK_ROWS:
                with suppress(sqlite3.Error):  # so that the journal can be cut back should the disk have no room
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            try:
                db.execute("BEGIN IMMEDIATE")
                enter(
                    db,
                    batch,
                    entered,
                    self._kept,
                    keep_bars=self._keep_bars,
                    n_may_wait=self._n_may_wait,
                    now_ms=self._now_ms(),
                )
                is_asked = True
                db.execute("COMMIT")
            except BaseException as error:
                self._kept = None
                self._in_doubt = entered if is_asked and any(entered) else None
                self._undo(db, error)
                raise
        told = Committed(self._untold.new_events + entered.new_events, self._untold.new_outcomes + entered.new_outcomes)
        self._untold = Committed([], [])
        return told

    def keep_at_least(self, n_bars: int) -> None:
        """Keep no fewer than so many bars of a symbol up to and with its checkpoint from now on; never fewer than now.

        For detectors with a longer memory than those the log was opened for. What was removed before stays away.
        """
        self._keep_bars = max(self._keep_bars, n_bars)

    def states(self) -> dict[str, SymbolState]:
        """Return where each symbol stands."""
        with self._connected() as db:
            rows = db.execute("SELECT symbol, ts_ms, rows, gap_row, intake FROM state ORDER BY symbol").fetchall()
        return {symbol: SymbolState(*values) for symbol, *values in rows}

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return the last checkpoint of each symbol."""
        columns = "symbol, ts_ms, rows, detector, config_version"
        with self._connected() as db:
            rows = db.execute(f"SELECT {columns} FROM checkpoint ORDER BY symbol").fetchall()
        return {symbol: Checkpoint(*values) for symbol, *values in rows}

    def bars_after(self, symbol: str, ts_ms: int) -> Bars:
        """Return the kept bars of a symbol that closed after `ts_ms`: (n,) BAR in the order of time."""
        return self._bars("SELECT bar FROM bar WHERE symbol = ? AND ts_ms > ? ORDER BY ts_ms", symbol, ts_ms)

    def last_bars(self, symbol: str, n: int) -> Bars:
        """Return the last `n` bars of a symbol, or fewer where fewer are kept: (<= n,) BAR in the order of time."""
        return self._bars("SELECT bar FROM bar WHERE symbol = ? ORDER BY ts_ms DESC LIMIT ?", symbol, max(n, 0))[::-1]

    def pending(self, horizons: Iterable[int]) -> list[Pending]:
        """Return the events with a side that have no outcome at each of `horizons` (bars), oldest entry first."""
        found: list[Pending] = []
        with self._connected() as db:
            for horizon in horizons:
                for row in db.execute(_PENDING, {"horizon": int(horizon)}):
                    one = Pending(*row)
                    found.append(one if one.px is not None else one._replace(px=float("nan")))
        return found

    def active_config(self) -> ActiveConfig | None:
        """Return the configuration of the highest version; None before the first."""
        return next(reversed(self.configs()), None)

    def configs(self) -> list[ActiveConfig]:
        """Return every configuration there was, oldest first."""
        with self._connected() as db:
            rows = db.execute("SELECT version, since_ms, fingerprint, document FROM config ORDER BY version").fetchall()
        return [ActiveConfig(*row) for row in rows]

    def tallies(self) -> Tallies:
        """Return what counters and histograms resume from: all events and outcomes of the log, counted by label."""
        with self._connected() as db:
            return tally(db)

    def _bars(self, query: str, *arguments: object) -> Bars:
        with self._connected() as db:
            joined = b"".join([blob for (blob,) in db.execute(query, arguments)])
        if len(joined) % STORED_BAR.itemsize:
            raise StoreError(f"{self.path}: the bars of {arguments[0]} are not of {STORED_BAR.itemsize} bytes each")
        return np.frombuffer(joined, STORED_BAR).astype(BAR)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._is_closed:
            raise StoreError(f"{self.path}: the log is closed")
        with refusals(self.path):
            if self._db is None:
                self._db = open_writer(self.path, create=False, check=False)
            yield self._db

    def _undo(self, db: sqlite3.Connection, error: BaseException) -> None:
        """Roll back; where the connection itself is in doubt let go of it, the next call opens another."""
        try:
            if db.in_transaction:  # some failures have rolled back by themselves
                db.execute("ROLLBACK")
            if is_full(error):  # what was written before the room ran out stays in the journal, and the disk full
                with suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_sound(error):
                return
        except sqlite3.Error:
            pass  # the connection is past mending
        self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _resolve(self, db: sqlite3.Connection) -> None:
        """Find out what became of a COMMIT that failed: a transaction is whole, so one of its rows tells."""
        doubt = self._in_doubt
        if doubt is None:
            return
        if doubt.new_events:
            query = "SELECT 1 FROM event WHERE event_id = ?"
            values: tuple[str, ...] | tuple[str, int] = (doubt.new_events[0],)
        else:
            one = doubt.new_outcomes[0]
            query = "SELECT 1 FROM outcome JOIN event USING (n) WHERE event_id = ? AND horizon_bars = ?"
            values = (one.event_id, one.horizon_bars)
        if db.execute(query, values).fetchone():
            self._untold.new_events.extend(doubt.new_events)
            self._untold.new_outcomes.extend(doubt.new_outcomes)
        self._in_doubt = None
