"""What another event log knows that one's own does not: its later bars, and where its intakes stand after them.

Read in one transaction, so that bars and states belong together whatever its writer does meanwhile. It must not write,
and takes nothing else over: events, outcomes and checkpoints are the other runner's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import BAR
from v13.errors import StoreError
from v13.store.event_file import identity, open_reader, refusals
from v13.store.event_schema import STORED_BAR

__all__ = ["Lead", "is_same_log", "read_leads"]

_CONFIG: Final = "SELECT document FROM config ORDER BY version DESC LIMIT 1"
_STATES: Final = "SELECT symbol, ts_ms, intake FROM state"
# One pass in the order of the table, whatever the number of symbols: to look for one is to read all of a time.
_BARS: Final = "SELECT ts_ms, symbol, bar FROM bar WHERE ts_ms > ? ORDER BY ts_ms"


class Lead(NamedTuple):
    """What a log knows of a symbol after some moment."""

    bars: NDArray[np.void]  # (n,) BAR, n >= 1, in the order of time
    intake: bytes  # snapshot of the intake after the last of them


def is_same_log(path: Path, other: Path) -> bool:
    """Return whether both names lead to one file that is there, through links or not."""
    return identity(path) is not None and identity(path) == identity(other)


def read_leads(path: Path, after: Mapping[str, int], bar_ms: int) -> dict[str, Lead]:
    """Read what the log at `path` knows of each symbol after a moment, whether or not somebody writes it.

    Parameters
    ----------
    path : Path
    after : mapping of symbol to int, UTC epoch ms
        Bars that end later than this are wanted.
    bar_ms : int, ms
        Length the bars must have.

    Returns
    -------
    dict of symbol to Lead
        Without the symbols it does not know, or knows nothing later of. Bars it has dropped by now are missing.

    Raises
    ------
    StoreError
        There is no such log, it was not made by a runner, its bars are of another length, or it is damaged or of
        another kind.
    """
    db = open_reader(path)
    try:
        with refusals(path):
            db.execute("BEGIN")
            document = db.execute(_CONFIG).fetchone()
            states = {symbol: (ts_ms, intake) for symbol, ts_ms, intake in db.execute(_STATES) if symbol in after}
            later = {symbol: ts_ms for symbol, (ts_ms, _) in states.items() if ts_ms > after[symbol]}
            kept = _read_bars(db, {symbol: after[symbol] for symbol in later})
            db.execute("COMMIT")
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: is damaged: a value is not of its column's kind: {error}") from error
    finally:
        db.close()
    found = _bar_ms(path, document)
    if found != bar_ms:
        raise StoreError(
            f"{path}: holds bars of {found} ms, expected {bar_ms} ms as here; name the log of such a runner"
        )
    return {s: Lead(_bars(path, s, kept[s], ts_ms), states[s][1]) for s, ts_ms in later.items()}


def _read_bars(db: sqlite3.Connection, after: Mapping[str, int]) -> dict[str, tuple[list[int], list[bytes]]]:
    kept: dict[str, tuple[list[int], list[bytes]]] = {symbol: ([], []) for symbol in after}
    if after:
        for ts_ms, symbol, bar in db.execute(_BARS, (min(after.values()),)):
            own = kept.get(symbol)
            if own is not None and ts_ms > after[symbol]:
                own[0].append(ts_ms)
                own[1].append(bar)
    return kept


def _bar_ms(path: Path, row: tuple[str] | None) -> int:
    if row is None:
        raise StoreError(f"{path}: holds no configuration; was it made by `v13 run`?")
    try:  # nothing but this: parameters of another release may have other names
        return int(json.loads(row[0])["params"]["features"]["bar_ms"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: its configuration cannot be read: {error!r}; was it made by `v13 run`?") from error


def _bars(path: Path, symbol: str, kept: tuple[list[int], list[bytes]], last_ms: int) -> NDArray[np.void]:
    times, blobs = kept
    if any(not isinstance(blob, bytes) or len(blob) != STORED_BAR.itemsize for blob in blobs):
        raise StoreError(f"{path}: the bars of {symbol} are not of {STORED_BAR.itemsize} bytes each")
    bars = np.frombuffer(b"".join(blobs), STORED_BAR).astype(BAR)
    if bars["ts_ms"].tolist() != times or not times or times[-1] != last_ms:
        raise StoreError(f"{path}: the bars of {symbol} are not those its state tells of; the log is damaged")
    return bars
