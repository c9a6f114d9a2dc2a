"""Every event and outcome of a log with the time it was entered: what counters ought to have said at any moment.

Rows are streamed from SQLite into narrow arrays, in one transaction. It must not know how a metric is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.errors import StoreError
from v13.store.event_file import open_reader, refusals
from v13.store.event_schema import ActiveConfig

__all__ = ["LogCounts", "read_config", "read_counts"]

NO_HIT: Final = -1  # of an outcome that is a tie or void
_EVENT: Final = np.dtype(
    [
        ("committed_ms", "i8"),  # UTC epoch ms: when its commit began
        ("symbol", "i4"),  # index into LogCounts.symbols
        ("row", "i8"),  # running number of its bar, by symbol
        ("source", "i1"),
        ("side", "i1"),
        ("kind", "i1"),
        ("gap_bars", "f8"),
        ("score", "f8"),
    ]
)
_OUTCOME: Final = np.dtype(
    [
        ("committed_ms", "i8"),
        ("horizon_bars", "i4"),
        ("source", "i1"),  # of its event
        ("side", "i1"),
        ("hit", "i1"),  # 1, 0 or NO_HIT
        ("ret", "f8"),  # forward log return, not signed by side; NaN: void
    ]
)
_EVENTS: Final = (
    "SELECT event.committed_ms, state.rowid, row, source, side, kind, gap_bars, score FROM event "
    "JOIN (SELECT row_number() OVER (ORDER BY symbol) - 1 AS rowid, symbol FROM state) AS state USING (symbol) "
    "ORDER BY event.committed_ms, n"
)
_OUTCOMES: Final = (
    f"SELECT outcome.committed_ms, horizon_bars, source, side, coalesce(hit, {NO_HIT}), ret FROM outcome "
    "JOIN event USING (n) ORDER BY outcome.committed_ms, n, horizon_bars"
)


@dataclass(frozen=True)
class LogCounts:
    """A log at one moment.

    Attributes
    ----------
    events : (n,) of committed_ms, symbol, row, source, side, kind, gap_bars (bars), score
        In order of entry; conflict hints too.
    outcomes : (m,) of committed_ms, horizon_bars, source, side, hit, ret
        In order of entry.
    symbols : tuple of str
    rows : (len(symbols),) int64
        Bars committed of each symbol.
    """

    events: NDArray[Any]
    outcomes: NDArray[Any]
    symbols: tuple[str, ...]
    rows: NDArray[np.int64]


def read_counts(path: Path) -> LogCounts:
    """Read the log at `path`, whether or not somebody writes it.

    Raises
    ------
    StoreError
        There is no such log, or it is damaged or of another kind.
    """
    db = open_reader(path)
    try:
        with refusals(path):
            db.execute("BEGIN")
            states = db.execute("SELECT symbol, rows FROM state ORDER BY symbol").fetchall()
            events = np.fromiter(db.execute(_EVENTS), _EVENT)
            outcomes = np.fromiter(
                ((*row[:5], np.nan if row[5] is None else row[5]) for row in db.execute(_OUTCOMES)), _OUTCOME
            )
            db.execute("COMMIT")
    finally:
        db.close()
    return LogCounts(
        events, outcomes, tuple(symbol for symbol, _ in states), np.array([n for _, n in states], dtype=np.int64)
    )


def read_config(path: Path) -> ActiveConfig:
    """Return the configuration of the highest version in the log at `path`.

    Raises
    ------
    StoreError
        There is no such log, it holds no configuration, or it is damaged or of another kind.
    """
    db = open_reader(path)
    try:
        with refusals(path):
            found = db.execute(
                "SELECT version, since_ms, fingerprint, document FROM config ORDER BY version"
            ).fetchall()
    finally:
        db.close()
    if not found:
        raise StoreError(f"{path}: holds no configuration; was it made by `v13 run`?")
    return ActiveConfig(*found[-1])
