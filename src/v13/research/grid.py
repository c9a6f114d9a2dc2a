"""A grid of settings made ready to be judged: its slices, and what of each symbol they are judged from.

`plan` cuts a grid into slices (one swing_L, one cooldown, one set of features); `scan_symbol` reads one symbol:
features and the sparse candidates of every swing_L. `slices` judges the settings of a slice from the scans of all
symbols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.detector import FeatureColumns, FeatureParams, SessionClock, compute_columns, scan
from v13.detector.params import DetectorParams
from v13.research.cut import Records
from v13.research.settings import Settings

__all__ = [
    "Blocks",
    "Slice",
    "SymbolScan",
    "lowest",
    "parents",
    "plan",
    "scan_columns",
    "scan_symbol",
]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

# The gates of a candidate by parameter: what of a candidate must reach it. Cooldown is not among them: it looks back.
GATES: Final = {
    "z_hi": "u",
    "z_mid": "v",
    "min_score": "score",
    "min_vol_ok": "vol_ok",
    "min_swing_bps": "swing_bps",
    "min_separation": "gap_bars",
}


@dataclass(frozen=True)
class Slice:
    """Settings that share features, swing_L and cooldown.

    least: the lowest value of every gate; axes: ascending values of the D gates that vary (z_hi where none does);
    numbers (s,) int64, in the whole grid; coords (s, D) int32 along the axes.
    """

    features: FeatureParams
    swing_L: int
    cooldown_ms: int
    least: Mapping[str, float]
    axes: Mapping[str, tuple[float, ...]]
    numbers: I8
    coords: NDArray[np.int32]


@dataclass(frozen=True)
class Blocks:
    """How the search part is divided in time: K blocks for walk-forward, T fine bins for statistics over the grid.

    edges (K + 1,), bin_edges (T + 1,) int64, UTC epoch ms; reach_ms: how far the longest label reaches.
    """

    edges: I8
    bin_edges: I8
    reach_ms: int

    @classmethod
    def of(cls, start_ms: int, end_ms: int, n_blocks: int, n_bins: int, reach_ms: int) -> Blocks:
        """Divide a span into equal parts."""
        span = end_ms - start_ms
        return cls(
            start_ms + span * np.arange(n_blocks + 1) // n_blocks,
            start_ms + span * np.arange(n_bins + 1) // n_bins,
            reach_ms,
        )


@dataclass(frozen=True)
class SymbolScan:
    """One symbol under one set of features.

    ts_ms, px, segment (n,) : times, prices and gap-free runs (`measures.segments`) of its bars; labels come of them.
    horizons : bars; candidates: by swing_L, (k,) CANDIDATE.
    """

    ts_ms: I8
    px: F8
    segment: NDArray[np.int32]
    horizons: tuple[int, ...]
    candidates: Mapping[int, Records]

    def returns_at(self, bars: NDArray[np.int32]) -> F8:
        """Return (k, H) forward log returns of some bars."""
        at = bars.astype(np.int64)
        return np.column_stack([measures.returns_at(self.px, self.segment, at, h) for h in self.horizons])

    def returns(self, h: int) -> F8:
        """Return (n,) forward log returns of all bars at the h-th horizon."""
        return measures.forward_returns(self.px, self.segment, self.horizons[h])


def plan(settings: Settings) -> list[Slice]:
    """Return the slices of a grid, every setting in exactly one, in order of their first setting."""
    base, names = settings.base.decision, list(settings.axes)
    values, rank = {}, {}  # of each setting, the place of its value among those of the axis: no column need be sorted
    for name in (*GATES, "swing_L", "cooldown_ms"):
        values[name], places = np.unique(settings.axes.get(name, [getattr(base, name)]), return_inverse=True)
        if name in names:
            rank[name] = places.ravel()[settings.coords[:, names.index(name)]]
    group = settings.feature_group
    for name in ("swing_L", "cooldown_ms"):
        group = group * len(values[name]) + rank.get(name, 0)
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    slices = []
    for g in np.argsort(first):
        numbers = members[g]
        least, steps = {}, {}
        for name in GATES:
            at = rank[name][numbers] if name in rank else np.zeros(1, np.int64)
            is_there = np.bincount(at, minlength=len(values[name])) > 0
            own = values[name][is_there].tolist()
            least[name] = float(own[0])
            if len(own) > 1:
                steps[name] = tuple(own), (np.cumsum(is_there) - 1)[at]
        if not steps:
            steps["z_hi"] = (least["z_hi"],), np.zeros(len(numbers), np.int64)
        longest_last = sorted(steps, key=lambda name: len(steps[name][0]))  # then most neighbours differ by one value
        axes = {name: steps[name][0] for name in longest_last}
        coords = [steps[name][1] for name in longest_last]
        at_all = np.column_stack(coords).astype(np.int32)
        order = np.lexsort(at_all.T[::-1])  # neighbours side by side: they share most of their events
        slices.append(
            Slice(
                settings.features_of(int(numbers[0])),
                int(values["swing_L"][rank["swing_L"][numbers[0]] if "swing_L" in rank else 0]),
                int(values["cooldown_ms"][rank["cooldown_ms"][numbers[0]] if "cooldown_ms" in rank else 0]),
                least,
                axes,
                numbers[order],
                at_all[order],
            )
        )
    return slices


def scan_symbol(
    bars: Records,
    features: FeatureParams,
    slices: Sequence[Slice],
    sessions: SessionClock,
    horizons: tuple[int, ...],
    workers: int = 1,
) -> SymbolScan:
    """Collect the candidates of one symbol for all slices of one set of features, and what came after every bar."""
    return scan_columns(compute_columns(DetectorParams(features), bars, sessions), slices, horizons, workers)


def scan_columns(
    columns: FeatureColumns, slices: Sequence[Slice], horizons: tuple[int, ...], workers: int = 1
) -> SymbolScan:
    """As `scan_symbol`, from features."""
    found = scan(columns, sorted({s.swing_L for s in slices}), *lowest(slices), workers)
    return SymbolScan(columns.ts_ms, columns.px, columns.segments(), horizons, found.candidates)


def lowest(slices: Sequence[Slice]) -> tuple[float, float]:
    """Return the lowest z_hi and z_mid that any setting of some slices asks for."""
    return min(s.least["z_hi"] for s in slices), min(s.least["z_mid"] for s in slices)


def parents(coords: NDArray[np.int32]) -> tuple[I8, I8]:
    """Return a neighbour of each setting, and its axis, from (s, D) coordinates in lexical order.

    The neighbour (s,) is the nearest earlier setting whose coordinates are nowhere higher, or -1; the axis (s,) the
    first on which a setting differs from the one before it.

    Looked for among those that opened the present value of each axis: in a full grid one of them is a step away.
    """
    parent = np.full(len(coords), -1, np.int64)
    number = np.arange(len(coords))
    axis = np.append(0, (coords[1:] != coords[:-1]).argmax(axis=1))
    for d in range(coords.shape[1]):
        opened = np.maximum.accumulate(np.where(axis <= d, number, 0))
        own = number[1:][axis[1:] == d]
        near = opened[own - 1]
        parent[own] = np.where((coords[near] <= coords[own]).all(axis=1), near, -1)
    return parent, axis
