"""Selection: the plateau of the grid, and the walk-forward check of the rule.

All of it works on counts of hits and misses per (setting, time block, bucket, horizon) on the search part. Nothing here
decides whether the detector works: that is acceptance, on data this module never sees.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from v13.research.settings import Settings

__all__ = [
    "Choice",
    "Counts",
    "FoldResult",
    "choose",
    "walk_forward",
]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

CONFIDENCE = 0.90  # one-sided Wilson bound: what a setting shows at the least
Z_BOUND = float(norm.ppf(CONFIDENCE))


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

    edge_kept : the median neighbour's edge (accuracy above one half, mean over horizons) as a share of the chosen
        one's; None without neighbours or without an edge.
    """

    setting: int | None
    reason: str
    objective: F8
    plateau: F8
    eligible: NDArray[np.bool_]
    edge_kept: float | None = None


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
    to a setting whose neighbours hold up, and a poor setting does not win on theirs. Neighbours are one grid step away
    along the real-valued axes, diagonals included, and share the whole-number ones: a threshold moved a little sees
    nearly the same events, another `swing_L` or `window` sees other swings.
    """
    objective = _objective(n, hits)
    eligible = n.min(axis=1) >= min_events
    if rate is not None and band is not None:
        eligible &= (rate >= band[0]) & (rate <= band[1])
    near = _median_of_neighbours(settings, objective)
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
    with np.errstate(invalid="ignore", divide="ignore"):
        edge = np.where(n.min(axis=1) > 0, (hits / n).mean(axis=1) - 0.5, np.nan)
    around = float(_median_of_neighbours(settings, edge)[chosen])
    kept = float(around / edge[chosen]) if edge[chosen] > 0 and not math.isnan(around) else None
    return Choice(chosen, "highest plateau", objective, plateau, eligible, kept)


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


def _median_of_neighbours(settings: Settings, value: F8) -> F8:
    """Return (S,) the median of `value` over each point's neighbours; NaN where it has none with a value.

    Neighbours are one step away along the real-valued axes, diagonals included, and share the whole-number ones.
    """
    shape = [len(axis) for axis in settings.axes.values()]
    padded = np.full([size + 2 for size in shape], np.nan)
    inner = tuple(settings.coords.T + 1)
    padded[inner] = value
    steps = [(-1, 0, 1) if is_real else (0,) for is_real in settings.is_real()]
    around = [
        padded[tuple(at + step for at, step in zip(inner, move, strict=True))]
        for move in itertools.product(*steps)
        if any(move)
    ]
    if not around:
        return np.full(len(settings), np.nan)
    found = np.sort(np.array(around), axis=0)  # NaN last
    count = (~np.isnan(found)).sum(axis=0)
    every = np.arange(len(settings))
    low, high = found[np.maximum(count - 1, 0) // 2, every], found[count // 2 % len(found), every]
    middle: F8 = np.where(count == 0, np.nan, np.where(count % 2 == 1, low, 0.5 * (low + high)))
    return middle


def _objective(n: I8, hits: I8) -> F8:
    """Return (S,) the mean over horizons of the one-sided Wilson lower bound; 0 where a horizon has no events."""
    has = n.min(axis=1) > 0
    size = np.maximum(n, 1)
    share = hits / size
    centre = share + Z_BOUND * Z_BOUND / (2 * size)
    spread = Z_BOUND * np.sqrt(share * (1 - share) / size + Z_BOUND * Z_BOUND / (4 * size * size))
    bound = ((centre - spread) / (1 + Z_BOUND * Z_BOUND / size)).mean(axis=1)
    return np.where(has, bound, 0.0)
