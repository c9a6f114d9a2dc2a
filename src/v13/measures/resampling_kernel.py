"""The compiled loop over time shifts: accuracy and rank correlation of an event train at each of them.

All compiled code of `measures` is in this file. Nothing here raises or draws random numbers; `resampling` checks, draws
and explains. No fastmath (it breaks NaN).
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["max_loop", "shift_loop"]


@njit(cache=True)
def shift_loop(
    ret: NDArray[np.float64],
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    panel: NDArray[np.int64],
    index: NDArray[np.int64],
    side: NDArray[np.float64],
    score: NDArray[np.float64],
    shifts: NDArray[np.int64],
    cost: float,
    scratch: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    rho: NDArray[np.float64],
) -> Any:
    """Write accuracy (S,) and rho (S,) at each row of shifts (S, P).

    ret is all panels end to end; panel p is ret[first[p] : first[p] + length[p]]. Events are given in ascending order
    of score, so that ranks of scores are read off in one pass whichever events drop out. scratch is (3, k).
    """
    moved, rank_score, rank_return = scratch[0], scratch[1], scratch[2]
    for s in range(shifts.shape[0]):
        n_hits = n_judged = n = tied = 0
        last_score = math.nan
        for e in range(index.size):
            p = panel[e]
            j = index[e] + shifts[s, p]
            if j >= length[p]:
                j -= length[p]
            signed = side[e] * ret[first[p] + j]
            if math.isnan(signed):
                continue
            net = signed - cost
            if net != 0.0:
                n_judged += 1
                if net > 0.0:
                    n_hits += 1
            # Mean ranks of the scores: events tied with this one get theirs when the run of ties ends.
            if score[e] != last_score:
                _close_ties(rank_score, n, tied)
                tied = 0
                last_score = score[e]
            moved[n] = signed
            tied += 1
            n += 1
        _close_ties(rank_score, n, tied)
        accuracy[s] = n_hits / n_judged if n_judged > 0 else math.nan
        rho[s] = math.nan
        if n < 3:
            continue
        order = np.argsort(moved[:n])
        i = 0
        while i < n:
            k = i + 1
            while k < n and moved[order[k]] == moved[order[i]]:
                k += 1
            for m in range(i, k):
                rank_return[order[m]] = 0.5 * (i + k + 1)
            i = k
        middle = 0.5 * (n + 1)
        both = own_score = own_return = 0.0
        for i in range(n):
            a, b = rank_score[i] - middle, rank_return[i] - middle
            both += a * b
            own_score += a * a
            own_return += b * b
        scale = math.sqrt(own_score * own_return)
        if scale > 0.0:
            rho[s] = both / scale


@njit(cache=True)
def _close_ties(rank: NDArray[np.float64], n: int, tied: int) -> Any:
    """Give the last `tied` of n positions their mean rank."""
    mean = n - 0.5 * (tied - 1)
    for i in range(n - tied, n):
        rank[i] = mean


@njit(cache=True, nogil=True)
def max_loop(
    outcome: NDArray[np.int8],
    first: NDArray[np.int64],
    position: NDArray[np.int64],
    bear: NDArray[np.int64],
    panel: NDArray[np.int64],
    start: NDArray[np.int64],
    shifts: NDArray[np.int64],
    least: float,
    statistic: NDArray[np.float64],
) -> Any:
    """Write the statistic (S, T) of every trial at every shift.

    outcome (2, H, m) int8 holds 1 hit, 0 miss, -1 neither for a bull and a bear event at each place of all panels
    end to end; panel p has the places first[p] : first[p + 1]. Trial t owns the events start[t] : start[t + 1]. The
    statistic is the mean over horizons of (2 hits - n) / sqrt(n); -inf where a horizon has fewer than `least`.
    """
    n_horizons = outcome.shape[1]
    for s in range(shifts.size):
        for t in range(start.size - 1):
            total = 0.0
            for h in range(n_horizons):
                n = hits = 0
                for e in range(start[t], start[t + 1]):
                    p = panel[e]
                    j = position[e] + shifts[s]
                    if j >= first[p + 1] - first[p]:
                        j -= first[p + 1] - first[p]
                    o = outcome[bear[e], h, first[p] + j]
                    if o >= 0:
                        n += 1
                        hits += o
                if n < least:
                    total = -math.inf
                    break
                total += (2.0 * hits - n) / math.sqrt(n)
            statistic[s, t] = total / n_horizons
