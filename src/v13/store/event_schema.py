"""What an event log holds: its records as Python says them, and its tables as SQLite does.

Times are UTC epoch milliseconds. It must not touch a file: `v13.store.event_log` writes, `event_reader` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import BAR, EVENT, TYPES

__all__ = [
    "APPLICATION_ID",
    "EVENT_FIELDS",
    "SCHEMA",
    "STORED_BAR",
    "TABLES",
    "ActiveConfig",
    "Batch",
    "Checkpoint",
    "Committed",
    "LoggedEvent",
    "Outcome",
    "Pending",
    "SymbolState",
    "event_id",
]

APPLICATION_ID: Final = 0x56313345  # "V13E" in the file's header
SCHEMA: Final = 1  # one more whenever TABLES or STORED_BAR change
EVENT_FIELDS: Final = tuple(EVENT.names or ())
STORED_BAR: Final = BAR.newbyteorder("<")  # the same bytes on every machine

_EVENT_COLUMNS: Final = ", ".join(
    f"{name} INTEGER NOT NULL" if EVENT[name].kind == "i" else f"{name} REAL"  # NULL stands for NaN
    for name in EVENT_FIELDS
)
TABLES: Final = (
    # n counts events in the order they were entered. No row is ever removed from event, calibrated, outcome, config.
    "CREATE TABLE event (n INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, symbol TEXT NOT NULL, "
    f"row INTEGER NOT NULL, {_EVENT_COLUMNS}, rule TEXT NOT NULL, config_version INTEGER NOT NULL, "
    "committed_ms INTEGER NOT NULL)",
    "CREATE INDEX event_by_time ON event (ts_ms)",
    "CREATE TABLE calibrated (horizon_bars INTEGER, n INTEGER, prob REAL NOT NULL, p_low REAL NOT NULL, "
    "p_high REAL NOT NULL, expected_return REAL NOT NULL, PRIMARY KEY (horizon_bars, n)) WITHOUT ROWID",
    "CREATE TABLE outcome (horizon_bars INTEGER, n INTEGER, ts_ms INTEGER NOT NULL, ret REAL, hit INTEGER, "
    "committed_ms INTEGER NOT NULL, PRIMARY KEY (horizon_bars, n)) WITHOUT ROWID",
    "CREATE TABLE bar (ts_ms INTEGER, symbol TEXT, bar BLOB NOT NULL, PRIMARY KEY (ts_ms, symbol)) WITHOUT ROWID",
    "CREATE TABLE state (symbol TEXT PRIMARY KEY, ts_ms INTEGER NOT NULL, rows INTEGER NOT NULL, "
    "gap_row INTEGER NOT NULL, intake BLOB NOT NULL)",
    "CREATE TABLE checkpoint (symbol TEXT PRIMARY KEY, ts_ms INTEGER NOT NULL, rows INTEGER NOT NULL, "
    "detector BLOB NOT NULL, config_version INTEGER NOT NULL)",
    "CREATE TABLE config (version INTEGER PRIMARY KEY, since_ms INTEGER NOT NULL, fingerprint TEXT NOT NULL, "
    "document TEXT NOT NULL)",
)


class LoggedEvent(NamedTuple):
    """An event and what was in force when it fired."""

    symbol: str
    row: int  # running number of the confirming bar in this log, by symbol; goes on across restarts
    event: np.void  # detector.dtypes.EVENT
    rule: str  # which rule chose its parameters: "global", or "session=day,liquidity=active -> z_hi=1.6"
    config_version: int
    calibrated: dict[int, tuple[float, float, float, float]]  # horizon_bars -> prob, p_low, p_high, expected_return


class Outcome(NamedTuple):
    """What the price did after an event."""

    event_id: str
    horizon_bars: int
    ts_ms: int  # close time of the bar that settled it
    ret: float | None  # forward log return, not signed by side; None: void, a gap came between
    hit: int | None  # 1 or 0; None: a tie (ret is 0) or void


class SymbolState(NamedTuple):
    """Where a symbol stands after its last committed bar."""

    ts_ms: int
    rows: int  # bars committed so far
    gap_row: int
    intake: bytes


class Checkpoint(NamedTuple):
    """A detector's snapshot after the bar at ts_ms."""

    ts_ms: int
    rows: int
    detector: bytes
    config_version: int


class ActiveConfig(NamedTuple):
    """A configuration and the time it came into force; the highest version is the active one."""

    version: int
    since_ms: int
    fingerprint: str
    document: str  # JSON: parameters, hash of the calibration, sign-off


class Pending(NamedTuple):
    """An event with a side that has no outcome yet at a horizon."""

    event_id: str
    symbol: str
    row: int
    px: float  # quote currency; NaN where the event had none
    side: int  # +1 or -1
    source: int  # index into detector.dtypes.CHANNELS
    ts_ms: int
    horizon_bars: int


@dataclass
class Batch:
    """What one transaction enters; every part may be empty.

    bars maps a symbol to (n,) BAR. An outcome may belong to an event of the same batch.
    """

    bars: dict[str, NDArray[np.void]] = field(default_factory=dict)
    events: list[LoggedEvent] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    states: dict[str, SymbolState] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    configs: list[ActiveConfig] = field(default_factory=list)


class Committed(NamedTuple):
    """What a transaction entered that was not there before: what may be counted and published now."""

    new_events: list[str]  # ids
    new_outcomes: list[Outcome]


def event_id(symbol: str, event: np.void) -> str:
    """Return the id of an EVENT record: the same whenever the same bars are seen again.

    A bar gives at most one divergence and one conflict hint, so symbol, time and type name an event.
    """
    return f"{symbol}-{int(event['ts_ms'])}-{TYPES[int(event['type'])]}"
