"""A batch on its way into the tables of an event log, inside a transaction that somebody else begins and ends.

Rows there already are left as they are, and what is new is told. It must not commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import BAR, EVENT
from v13.errors import StoreError
from v13.store.event_bars import KeptBars
from v13.store.event_schema import (
    EVENT_FIELDS,
    STORED_BAR,
    ActiveConfig,
    Batch,
    Committed,
    LoggedEvent,
    Outcome,
    event_id,
)

__all__ = ["enter"]

# ON CONFLICT names the one reason for which a row may be left out; OR IGNORE would also swallow a row that is wrong.
_ADD_BAR: Final = "INSERT INTO bar VALUES (?, ?, ?) ON CONFLICT (ts_ms, symbol) DO NOTHING"
_ADD_EVENT: Final = (
    f"INSERT INTO event (event_id, symbol, row, {', '.join(EVENT_FIELDS)}, rule, config_version, committed_ms) "
    f"VALUES ({', '.join('?' * (len(EVENT_FIELDS) + 6))}) ON CONFLICT (event_id) DO NOTHING"
)
_ADD_CALIBRATED: Final = "INSERT INTO calibrated VALUES (?, ?, ?, ?, ?, ?)"
_ADD_OUTCOME: Final = "INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (horizon_bars, n) DO NOTHING"
# A symbol never goes back, whatever is handed in again.
_SET_STATE: Final = (
    "INSERT INTO state VALUES (?, ?, ?, ?, ?) ON CONFLICT (symbol) DO UPDATE SET ts_ms = excluded.ts_ms, "
    "rows = excluded.rows, gap_row = excluded.gap_row, intake = excluded.intake WHERE excluded.rows >= state.rows"
)
_SET_CHECKPOINT: Final = (
    "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?) ON CONFLICT (symbol) DO UPDATE SET ts_ms = excluded.ts_ms, "
    "rows = excluded.rows, detector = excluded.detector, config_version = excluded.config_version "
    "WHERE excluded.rows >= checkpoint.rows"
)
_REMOVE_BAR: Final = "DELETE FROM bar WHERE ts_ms = ? AND symbol = ?"


def enter(
    db: sqlite3.Connection,
    batch: Batch,
    entered: Committed,
    kept: KeptBars,
    *,
    keep_bars: int,
    n_may_wait: int,
    now_ms: int,
) -> None:
    """Enter a batch and add to `entered` what was not there before.

    Parameters
    ----------
    db : sqlite3.Connection
        Inside a transaction.
    batch : Batch
    entered : Committed
        Added to as rows go in.
    kept : KeptBars
        What is in the log; it follows. Should the transaction fail, it is to be read anew.
    keep_bars : int, >= 1
        Bars of a symbol kept up to and with a checkpoint of the batch.
    n_may_wait : int, >= 0
        So many bars of all symbols that are not kept may be removed later.
    now_ms : int
        UTC epoch milliseconds.

    Raises
    ------
    StoreError
        The batch contradicts itself or the log; see `EventLog.commit`.
    """
    # In the order of the table: a replay's thousands of bars then touch each page once.
    db.executemany(_ADD_BAR, sorted(_bar_rows(batch.bars, kept), key=itemgetter(0)))
    for logged in batch.events:
        _enter_event(db, logged, now_ms, entered.new_events)
    for outcome in batch.outcomes:
        _enter_outcome(db, outcome, now_ms, entered.new_outcomes)
    db.executemany(_SET_STATE, ((symbol, *state) for symbol, state in batch.states.items()))
    for symbol, checkpoint in batch.checkpoints.items():
        db.execute(_SET_CHECKPOINT, (symbol, *checkpoint))
        db.executemany(_REMOVE_BAR, kept.take_surplus(symbol, checkpoint.ts_ms, keep_bars, n_may_wait))
    for config in batch.configs:
        _enter_config(db, config)


_IS_NATIVE: Final = STORED_BAR == BAR  # records compare field by field: too slow to ask of every bar


def _bar_rows(by_symbol: Mapping[str, NDArray[np.void]], kept: KeptBars) -> Iterator[tuple[int, str, memoryview]]:
    size = STORED_BAR.itemsize
    for symbol, bars in by_symbol.items():
        if (bars.dtype is not BAR and bars.dtype != BAR) or bars.ndim != 1:
            raise StoreError(f"bars of {symbol}: expected a one-dimensional BAR array, found {bars.dtype}")
        data = memoryview((bars if _IS_NATIVE else bars.astype(STORED_BAR)).tobytes())
        if bars.size == 1:
            ts_ms = int(bars["ts_ms"][0])
            kept.add_one(symbol, ts_ms)
            yield ts_ms, symbol, data
            continue
        times = bars["ts_ms"].tolist()
        kept.add(symbol, times)
        for i, ts_ms in enumerate(times):
            yield ts_ms, symbol, data[i * size : (i + 1) * size]


def _enter_event(db: sqlite3.Connection, logged: LoggedEvent, now_ms: int, new: list[str]) -> None:
    if logged.event.dtype is not EVENT and logged.event.dtype != EVENT:
        raise StoreError(f"event of {logged.symbol}: expected an EVENT record, found {logged.event.dtype}")
    name = event_id(logged.symbol, logged.event)
    fields = tuple(logged.event.item())
    values = (name, logged.symbol, int(logged.row), *fields, logged.rule, int(logged.config_version), now_ms)
    cursor = db.execute(_ADD_EVENT, values)
    if cursor.rowcount != 1:
        return
    for horizon, numbers in logged.calibrated.items():
        db.execute(_ADD_CALIBRATED, (int(horizon), cursor.lastrowid, *map(float, numbers)))
    new.append(name)


def _enter_outcome(db: sqlite3.Connection, outcome: Outcome, now_ms: int, new: list[Outcome]) -> None:
    found = db.execute("SELECT n FROM event WHERE event_id = ?", (outcome.event_id,)).fetchone()
    if found is None:
        raise StoreError(f"outcome of {outcome.event_id}: there is no such event in the log")
    ret = None if outcome.ret is None else float(outcome.ret)
    hit = None if outcome.hit is None else int(outcome.hit)
    values = (int(outcome.horizon_bars), found[0], int(outcome.ts_ms), ret, hit, now_ms)
    if db.execute(_ADD_OUTCOME, values).rowcount == 1:
        new.append(outcome)


def _enter_config(db: sqlite3.Connection, config: ActiveConfig) -> None:
    known = db.execute("SELECT fingerprint FROM config WHERE version = ?", (config.version,)).fetchone()
    if known is None:
        db.execute("INSERT INTO config VALUES (?, ?, ?, ?)", config)
    elif known[0] != config.fingerprint:
        raise StoreError(
            f"config version {config.version} is {known[0]} in the log, found {config.fingerprint}; another config "
            "needs a version of its own"
        )
