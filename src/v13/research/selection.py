"""Selection: the plateau of the grid, and the walk-forward check of the rule.

All of it works on counts of hits and misses per (setting, time block, bucket, horizon) on the search part. Nothing here
decides whether the detector works: that is acceptance, on data this module never sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.measures import wilson_intervals
from v13.measures.safeguards import EdgeKept
from v13.research.settings import Settings

__all__ = [
    "Choice",
    "Counts",
    "FoldResult",
    "choose",
    "neighbour_span",
    "steps_away",
    "walk_forward",
]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

CONFIDENCE: Final = 0.90  # one-sided Wilson bound: what a setting shows at the least
# How far a neighbour lies, as a share of its axis. On a fine grid the next value sees nearly the same events, and that
# it keeps the edge says nothing; up to five even values an axis this is one step.
NEIGHBOUR_SHARE: Final = 0.25


@dataclass(frozen=True)
class Counts:
    """Hits and labelled events of every setting.

    n, hits : (S, K, 12, H) int64
        By setting, time block of the search part, bucket and horizon. An event whose label reaches beyond its block is
        left out of the block counts, so that blocks do not overlap.
    n_all, hits_all : (S, 12, H) int64
        The same without blocks and without that loss.
    n_events : (S, K) int64
        All events by block, labelled or not.
    hours : (K,) float64
        Recorded hours of each block, all symbols.
    """

    n: I8
    hits: I8
    n_all: I8
    hits_all: I8
    n_events: I8
    hours: F8

    def events_per_hour(self, before: int | None = None) -> F8:
        """Return (S,) events an hour and symbol in the blocks before block `before` (None: in all)."""
        hours = float(self.hours[:before].sum())
        return self.n_events[:, :before].sum(axis=1) / hours if hours > 0 else np.zeros(len(self.n_events))


@dataclass(frozen=True)
class Choice:
    """The chosen setting, or None with the reason; plateau and objective of all settings (NaN: not eligible).

    edge_kept : what the neighbours keep of the chosen one's edge; None where nothing was chosen or there is but one
        setting.
    """

    setting: int | None
    reason: str
    objective: F8
    plateau: F8
    eligible: NDArray[np.bool_]
    edge_kept: EdgeKept | None = None


@dataclass(frozen=True)
class FoldResult:
    """Chosen on the blocks before, judged on the next one."""

    fold: int
    setting: int | None
    n: tuple[int, ...]
    hits: tuple[int, ...]


def choose(
    settings: Settings,
    n: I8,
    hits: I8,
    min_events: float,
    rate: F8 | None = None,
    band: tuple[float, float] | None = None,
) -> Choice:
    """Choose the middle of the best plateau.

    Parameters
    ----------
    n, hits : (S, H) int64
    min_events : float
        A setting with fewer labelled events at any horizon is not eligible.
    rate, band : optional
        Events per hour of each setting and the closed band it must lie in.

    Notes
    -----
    A setting's objective is the mean over horizons of the one-sided 90 % Wilson lower bound of its accuracy: few
    events cannot shine. Its plateau is the lesser of its own objective and the median objective of its neighbours; the
    highest plateau wins (ties: the higher objective, then the smaller number). So a spike among poor neighbours loses
    to a setting whose neighbours hold up, and a poor setting does not win on theirs. Neighbours lie a quarter of the
    axis away along the real-valued axes (`steps_away`), diagonals included, and share the whole-number ones: a
    threshold moved so far sees some of the same events, another `swing_L` or `window` sees other swings.
    """
    objective = _objective(n, hits)
    eligible = n.min(axis=1) >= min_events
    if rate is not None and band is not None:
        eligible &= (rate >= band[0]) & (rate <= band[1])
    near, _ = _median_of_neighbours(settings, objective)
    plateau = np.where(np.isnan(near), objective, np.minimum(objective, near))
    plateau[~eligible] = np.nan
    if not eligible.any():
        why = f"no setting has {min_events:.0f} labelled events"
        if band is not None:
            why += f" and {band[0]:g}-{band[1]:g} events an hour"
        return Choice(None, why, objective, plateau, eligible)
    best = np.flatnonzero(eligible)
    best = best[plateau[best] == plateau[best].max()]
    best = best[objective[best] == objective[best].max()]
    chosen = int(best[0])
    kept = _edge_kept(settings, n, hits, chosen) if len(settings) > 1 else None
    return Choice(chosen, "highest plateau", objective, plateau, eligible, kept)


def steps_away(axis: Sequence[Any]) -> tuple[I8, I8]:
    """Return where the neighbours of each value of an axis stand on it.

    Parameters
    ----------
    axis : (A,) numbers, ascending

    Returns
    -------
    (below, above) : two (A,) int64
        Position of the nearest value that lies at least a quarter of the axis's range away; -1 where there is none.
    """
    value = np.asarray(axis, np.float64)
    least = NEIGHBOUR_SHARE * (value[-1] - value[0]) * (1 - 1e-9)  # even steps of a quarter must not miss it by an ulp
    below = np.searchsorted(value, value - least, side="right") - 1
    above = np.searchsorted(value, value + least, side="left")
    if least == 0:  # a single value
        return np.full(len(value), -1), np.full(len(value), -1)
    return below.astype(np.int64), np.where(above < len(value), above, -1).astype(np.int64)


def neighbour_span(settings: Settings, number: int) -> list[tuple[int, int]]:
    """Return, by axis, the positions of a point's outermost neighbours; its own where there is none on that side."""
    spans = []
    for axis, place, is_real in zip(settings.axes.values(), settings.coords[number], settings.is_real(), strict=True):
        at = int(place)
        below, above = (int(to[at]) if is_real else -1 for to in steps_away(axis))
        spans.append((at if below < 0 else below, at if above < 0 else above))
    return spans


def walk_forward(
    settings: Settings, counts: Counts, min_events: int, band: tuple[float, float] | None
) -> list[FoldResult]:
    """Choose on blocks 0..k-1 and judge on block k, for every k: what the rule itself is worth on unseen time."""
    results = []
    n_blocks = counts.n.shape[1]
    for k in range(1, n_blocks):
        choice = choose(
            settings,
            counts.n[:, :k].sum(axis=(1, 2)),
            counts.hits[:, :k].sum(axis=(1, 2)),
            min_events * k / n_blocks,
            counts.events_per_hour(before=k),
            band,
        )
        if choice.setting is None:
            results.append(FoldResult(k, None, (0,) * counts.n.shape[3], (0,) * counts.n.shape[3]))
            continue
        n = counts.n[choice.setting, k].sum(axis=0)
        hits = counts.hits[choice.setting, k].sum(axis=0)
        results.append(FoldResult(k, choice.setting, tuple(map(int, n)), tuple(map(int, hits))))
    return results


def _edge_kept(settings: Settings, n: I8, hits: I8, chosen: int) -> EdgeKept:
    """Return what the neighbours of one setting keep of its accuracy above one half."""
    with np.errstate(invalid="ignore", divide="ignore"):
        edge = np.where(n.min(axis=1) > 0, (hits / n).mean(axis=1) - 0.5, np.nan)
    middle, count = _median_of_neighbours(settings, edge)
    around = {
        name: [float(axis[low]), float(axis[high])]
        for (name, axis), (low, high) in zip(settings.axes.items(), neighbour_span(settings, chosen), strict=True)
        if low < high
    }
    own, found = float(edge[chosen]), int(count[chosen])
    share = float(middle[chosen]) / own if own > 0 and found else None
    return EdgeKept(edge=own, share=share, n_neighbours=found, around=around)


def _median_of_neighbours(settings: Settings, value: F8) -> tuple[F8, I8]:
    """Return (S,) the median of `value` over each point's neighbours, NaN where none has one, and (S,) how many have.

    Neighbours stand `steps_away` along the real-valued axes, diagonals included, and share the whole-number ones.
    """
    of_point = settings.coords.T
    table = np.full([len(axis) + 1 for axis in settings.axes.values()], np.nan)  # the last place of an axis stays empty
    table[tuple(of_point)] = value
    places = [
        (at, *(to[at] for to in steps_away(axis))) if is_real else (at,)
        for axis, at, is_real in zip(settings.axes.values(), of_point, settings.is_real(), strict=True)
    ]
    around = [table[place] for place in itertools.product(*places)][1:]  # the first is the point itself
    if not around:
        return np.full(len(settings), np.nan), np.zeros(len(settings), np.int64)
    found = np.sort(np.array(around), axis=0)  # NaN last
    count = (~np.isnan(found)).sum(axis=0)
    every = np.arange(len(settings))
    low, high = found[np.maximum(count - 1, 0) // 2, every], found[count // 2 % len(found), every]
    middle: F8 = np.where(count == 0, np.nan, np.where(count % 2 == 1, low, 0.5 * (low + high)))
    return middle, count


def _objective(n: I8, hits: I8) -> F8:
    """Return (S,) the mean over horizons of the one-sided Wilson lower bound; 0 where a horizon has no events."""
    low, _ = wilson_intervals(hits, n, CONFIDENCE, sides=1)
    return np.where(n.min(axis=1) > 0, low.mean(axis=1), 0.0)
