"""Outcomes: the events of one parameter set on one part of the record, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.detector import Detector, DetectorParams, SessionClock, compute_features, divergences
from v13.detector.dtypes import N_BUCKETS
from v13.research.cut import Records
from v13.research.panels import common_times, recorded_runs

__all__ = ["Outcomes", "SymbolPart", "bucket_of", "evaluate", "find_events"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]


@dataclass(frozen=True)
class SymbolPart:
    """One symbol's bars of one part of the record."""

    symbol: str
    bars: Records


@dataclass(frozen=True)
class Outcomes:
    """Divergences of one parameter set on one part, all symbols pooled, with their labels.

    events (k,) EVENT; symbol (k,) int64, index into the parts; returns (k, H) float64, forward log returns, NaN
    where unlabelled; hits (k, H) int8, see `measures.hits`; panels holds for each horizon one `measures.Panel` a
    symbol, all on one grid of times with its runs, so that a shift moves symbols side by side by the same time.
    """

    events: Records
    symbol: I8
    returns: F8
    hits: NDArray[np.int8]
    panels: tuple[tuple[measures.Panel, ...], ...]
    horizons: tuple[int, ...]

    def select(self, mask: NDArray[np.bool_]) -> Outcomes:
        """Return the outcomes of the events under a (k,) mask."""
        panels = []
        for of_horizon in self.panels:
            kept, first = [], 0
            for panel in of_horizon:
                last = first + len(panel.index)
                inside = mask[first:last]
                kept.append(
                    replace(panel, index=panel.index[inside], side=panel.side[inside], score=panel.score[inside])
                )
                first = last
            panels.append(tuple(kept))
        return Outcomes(
            self.events[mask], self.symbol[mask], self.returns[mask], self.hits[mask], tuple(panels), self.horizons
        )

    def signed_returns(self, h: int) -> F8:
        """Return (k,) returns at the h-th horizon in the direction of the event."""
        signed: F8 = self.returns[:, h] * self.events["side"]
        return signed


def find_events(params: DetectorParams, sessions: SessionClock, part: SymbolPart) -> tuple[Records, Records]:
    """Return (events, feature rows) of a detector run over one part from a fresh start."""
    rows = compute_features(params, part.bars, sessions)
    return divergences(Detector(params, sessions).run_features(rows)), rows


def evaluate(
    events: Sequence[Records],
    rows: Sequence[Records],
    horizons: tuple[int, ...],
    bar_ms: int,
    cost_bps: float,
    after_ms: int | None = None,
) -> Outcomes:
    """Label the events of each symbol.

    Parameters
    ----------
    events, rows : one array a symbol
        EVENT whose `bar` counts the FEATURE rows beside it.
    after_ms : int, optional
        Only events known after this time count; positions before it stay outside the null as well.
    """
    if after_ms is None:
        starts = [0] * len(rows)
    else:
        starts = [int(np.searchsorted(r["ts_ms"], after_ms, side="right")) for r in rows]
    kept = [e[e["bar"] >= first] for e, first in zip(events, starts, strict=True)]
    return _outcomes(kept, _label(rows, horizons, bar_ms, starts), horizons, cost_bps)


def bucket_of(events: Records) -> I8:
    """Return the (k,) bucket numbers of events."""
    numbers: I8 = (events["session"] * 2 + events["liquidity"]) * 3 + events["source"]
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < N_BUCKETS:
        raise AssertionError("an event carries an impossible bucket")
    return numbers


@dataclass(frozen=True)
class _Labelled:
    """Returns of each symbol on the common grid, whose runs begin at `starts`.

    position: the place on the grid of each bar of the symbol from `start` on.
    """

    start: int
    position: I8
    returns: tuple[F8, ...]
    starts: I8


def _label(rows: Sequence[Records], horizons: tuple[int, ...], bar_ms: int, starts: Sequence[int]) -> list[_Labelled]:
    """Label every bar of every symbol and lay the labels on one grid: the times at which any symbol has a bar.

    Symbols may have holes and spans of their own. Row numbers would fall out of step at the first hole, and a shift
    by rows would then tear correlated symbols apart under the null but not in what was observed.
    """
    times = [r["ts_ms"][first:] for r, first in zip(rows, starts, strict=True)]
    grid = common_times(times)
    positions = [np.searchsorted(grid, ts) for ts in times]
    runs = recorded_runs(positions, len(grid), horizons)
    found = []
    for row, ts, first, position in zip(rows, times, starts, positions, strict=True):
        segment = measures.segments(ts, bar_ms)
        returns = []
        for h in horizons:
            on_grid = np.full(len(grid), np.nan)
            on_grid[position] = measures.forward_returns(row["px"][first:], segment, h)
            returns.append(on_grid)
        found.append(_Labelled(first, position, tuple(returns), runs))
    return found


def _outcomes(
    events: Sequence[Records], labelled: Sequence[_Labelled], horizons: tuple[int, ...], cost_bps: float
) -> Outcomes:
    """Pool the events of all symbols with their labels."""
    pooled = np.concatenate(list(events))
    symbol = np.repeat(np.arange(len(events)), [e.size for e in events])
    at = [own.position[e["bar"] - own.start] for e, own in zip(events, labelled, strict=True)]
    returns = np.concatenate(
        [np.column_stack([r[i] for r in own.returns]) for i, own in zip(at, labelled, strict=True)]
    )
    hits = np.column_stack([measures.hits(returns[:, h], pooled["side"], cost_bps) for h in range(len(horizons))])
    panels = tuple(
        tuple(
            measures.Panel(own.returns[h], i, e["side"].copy(), e["score"].copy(), own.starts)
            for e, i, own in zip(events, at, labelled, strict=True)
        )
        for h in range(len(horizons))
    )
    return Outcomes(pooled, symbol, returns, hits.astype(np.int8), panels, horizons)
