"""What counters and histograms resume from: everything in an event log, counted by label.

Rows are streamed from SQLite into narrow arrays: a million events with two outcomes each take tens of MiB. It must not
know how a metric is called.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import CHANNELS, CONFLICT, KINDS

__all__ = ["SIDES", "OutcomeTally", "Tallies", "tally"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

SIDES: Final = {1: "bull", -1: "bear"}
_NO_HIT: Final = -1  # a tie or void
_EVENT: Final = np.dtype(
    [("n", "i8"), ("source", "i1"), ("side", "i1"), ("kind", "i1"), ("gap", "i4"), ("score", "f8")]
)
_OUTCOME: Final = np.dtype([("n", "i8"), ("horizon", "i4"), ("hit", "i1"), ("ret", "f8")])


class OutcomeTally(NamedTuple):
    """Outcomes of one horizon and source; n_hit + n_miss + n_tie = len(ret)."""

    n_hit: int
    n_miss: int
    n_tie: int
    n_void: int
    ret: F64  # (n,) forward log returns that are not void, not signed by side, in the order of the events
    side: I8  # (n,) +1 or -1, of the event of each


@dataclass(frozen=True)
class Tallies:
    """Counts and values by label.

    events has every (source, side, kind) a divergence can have, 0 included; scores ((n,) float64, in [0, 100]) and gaps
    ((n,) int64, bars) have every source, in the order of entry, conflict hints left out; outcomes has the (horizon,
    source) that are there.
    """

    events: dict[tuple[str, str, str], int]
    n_conflict_hints: int
    scores: dict[str, F64]
    gaps: dict[str, I64]
    outcomes: dict[tuple[int, str], OutcomeTally]


def tally(db: sqlite3.Connection) -> Tallies:
    """Count a whole log.

    Parameters
    ----------
    db : sqlite3.Connection
        Open, with the tables of `event_schema`; nothing is written.
    """
    rows = db.execute("SELECT n, source, side, kind, gap_bars, score FROM event ORDER BY n")
    events = np.fromiter(rows, _EVENT)
    rows = db.execute(f"SELECT n, horizon_bars, coalesce(hit, {_NO_HIT}), ret FROM outcome ORDER BY horizon_bars, n")
    outcomes = np.fromiter(rows, _OUTCOME)
    is_hint = events["kind"] == CONFLICT
    found = events[~is_hint]
    by_source = {name: found[found["source"] == i] for i, name in enumerate(CHANNELS)}
    return Tallies(
        events={
            (source, word, KINDS[kind]): int(np.count_nonzero((own["side"] == side) & (own["kind"] == kind)))
            for source, own in by_source.items()
            for side, word in SIDES.items()
            for kind in range(CONFLICT)
        },
        n_conflict_hints=int(np.count_nonzero(is_hint)),
        scores={source: own["score"].copy() for source, own in by_source.items()},
        gaps={source: own["gap"].astype(np.int64) for source, own in by_source.items()},
        outcomes=_outcomes(events, outcomes),
    )


def _outcomes(events: NDArray[Any], outcomes: NDArray[Any]) -> dict[tuple[int, str], OutcomeTally]:
    place = np.searchsorted(events["n"], outcomes["n"])  # events are in the order of n
    source, side = events["source"][place], events["side"][place]
    found = {}
    for horizon in np.unique(outcomes["horizon"]).tolist():
        for i, name in enumerate(CHANNELS):
            is_own = (outcomes["horizon"] == horizon) & (source == i)
            if is_own.any():
                found[horizon, name] = _tally_of(outcomes[is_own], side[is_own])
    return found


def _tally_of(own: NDArray[Any], side: I8) -> OutcomeTally:
    is_void = np.isnan(own["ret"])
    n_hit, n_miss = (int(np.count_nonzero(own["hit"] == hit)) for hit in (1, 0))
    n_void = int(np.count_nonzero(is_void))
    return OutcomeTally(n_hit, n_miss, own.size - n_hit - n_miss - n_void, n_void, own["ret"][~is_void], side[~is_void])
