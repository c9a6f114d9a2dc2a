"""The candidates of a slice, pooled over symbols: those some setting can have, labelled, best first within a bar.

It judges no setting: `counting` and `slices` do, from what is pooled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.research import grid_kernel
from v13.research.grid import GATES, Blocks, Slice, SymbolScan

__all__ = ["Pooled", "pool"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]


@dataclass(frozen=True)
class Pooled:
    """Candidates of a slice, all symbols, bulls before bears in each, best first within a bar.

    first (g + 1,): where each bar opens; track (2 * symbols + 1,): where bulls and bears of a symbol do;
    passed (k, D): how many values of each axis a candidate reaches; returns (k, H, or none where nobody needs them),
    outcome (k, H); score, ts_ms, bar, side, bucket, symbol, block, inside (k,).
    """

    first: I8
    track: I8
    symbol: NDArray[np.int32]
    bar: NDArray[np.int32]
    side: NDArray[np.int32]
    bucket: NDArray[np.int32]
    score: F8
    ts_ms: I8
    passed: NDArray[np.int32]
    returns: F8
    outcome: NDArray[np.int8]
    block: NDArray[np.int32]
    inside: NDArray[np.int8]

    @property
    def bar_of(self) -> NDArray[np.int32]:
        """Return each candidate's place in `first`: (k,)."""
        return np.repeat(np.arange(len(self.first) - 1, dtype=np.int32), np.diff(self.first))


def pool(
    part: Slice, scans: Sequence[SymbolScan], blocks: Blocks, cost_bps: float, with_returns: bool = True
) -> Pooled:
    gates = np.array([list(GATES).index(name) for name in part.axes], np.int64)
    values = np.concatenate([np.asarray(axis, np.float64) for axis in part.axes.values()])
    first_value = np.cumsum([0, *map(len, part.axes.values())]).astype(np.int64)
    least = np.array([part.least[name] for name in GATES])
    horizons = np.array(scans[0].horizons, np.int64)
    columns: dict[str, list[NDArray[Any]]] = {}
    track = [0]
    n = 0
    for number, one in enumerate(scans):
        cands = one.candidates[part.swing_L]
        order, first = np.empty(cands.size, np.int32), np.empty(cands.size + 1, np.int64)
        passed = np.empty((cands.size, len(gates)), np.int32)
        size, n_bars, n_bull = grid_kernel.select(cands, least, gates, first_value, values, order, passed, first)
        track += [track[-1] + n_bull, track[-1] + n_bars]
        order = order[:size]
        bucket, block = np.empty((2, size), np.int32)
        inside, outcome = np.empty(size, np.int8), np.empty((size, len(horizons)), np.int8)
        facts = (bucket, block, inside, outcome)
        grid_kernel.label(cands, order, one.ts_ms, one.px, one.segment, horizons, blocks.edges, blocks.reach_ms, *facts)
        bar, side = cands["bar"][order], cands["side"][order]
        returns = one.returns_at(bar) if with_returns or cost_bps > 0 else np.empty((size, 0))
        if cost_bps > 0:
            for h in range(len(horizons)):
                outcome[:, h] = np.maximum(measures.hits(returns[:, h], side, cost_bps), -1)
        found = {
            "first": first[:n_bars] + n,
            "passed": passed[:size],
            "symbol": np.full(size, number, np.int32),
            "bar": bar,
            "side": side,
            "bucket": bucket,
            "score": cands["score"][order],
            "ts_ms": one.ts_ms[bar],
            "returns": returns,
            "outcome": outcome,
            "block": block,
            "inside": inside,
        }
        for name, values_of in found.items():
            columns.setdefault(name, []).append(values_of)
        n += size
    whole = {name: np.concatenate(found) if len(found) > 1 else found[0] for name, found in columns.items()}
    return Pooled(first=np.append(whole.pop("first"), n), track=np.array(track), **whole)
