"""The compiled loops of the block bootstrap: a statistic of each resample, from orders sorted beforehand.

A resample is told by how often each block was drawn: every event of a block counts that many times. So nothing is
copied and nothing sorted again. Self-contained, as numba's disk cache does not see edits in another file. Nothing here
raises, allocates or draws random numbers; `bootstrap` does. No fastmath (it breaks NaN).
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["mean_loop", "reliability_loop", "spearman_loop"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@njit(cache=True, nogil=True)
def mean_loop(drawn: I64, total: F64, n_events: I64, out: F64) -> Any:
    """Write the mean (R,) of each resample; NaN where it has no events.

    drawn (R, B) are block numbers, total (B,) the sums of a block's values, n_events (B,) how many they are.
    """
    for r in range(drawn.shape[0]):
        of_all = 0.0
        n = 0
        for i in range(drawn.shape[1]):
            of_all += total[drawn[r, i]]
            n += n_events[drawn[r, i]]
        out[r] = of_all / n if n > 0 else math.nan


@njit(cache=True, nogil=True)
def spearman_loop(
    drawn: I64, size: I64, x: F64, block_x: I64, y: F64, block_y: I64, place: I64, count: I64, rank: F64, out: F64
) -> Any:
    """Write Spearman's rho (R,) of each resample; NaN where it is not defined.

    drawn (R, B) are block numbers, size (B,) the events of a block. x (n,) and y (n,) ascend, block_x and block_y are
    their events' blocks, and the event of y[i] stands at x[place[i]]. count (B,) and rank (n,) are scratch.
    """
    for r in range(drawn.shape[0]):
        _count(drawn[r], count)
        total = 0.0
        for b in range(count.size):
            total += count[b] * size[b]
        out[r] = math.nan
        if total < 3.0:
            continue
        # With w events tied and `below` before them, the mean rank is below + (w + 1) / 2. Centred and doubled it is
        # the whole number 2 * below + w - total, so that all sums are exact up to 100,000 events.
        below = own_x = 0.0
        i = 0
        while i < x.size:
            weight = 0.0
            k = i
            while k < x.size and x[k] == x[i]:
                weight += count[block_x[k]]
                k += 1
            centred = 2.0 * below + weight - total
            for m in range(i, k):
                rank[m] = centred
            own_x += weight * centred * centred
            below += weight
            i = k
        below = own_y = both = 0.0
        i = 0
        while i < y.size:
            weight = moment = 0.0
            k = i
            while k < y.size and y[k] == y[i]:
                times = count[block_y[k]]
                weight += times
                moment += times * rank[place[k]]
                k += 1
            centred = 2.0 * below + weight - total
            both += moment * centred
            own_y += weight * centred * centred
            below += weight
            i = k
        scale = math.sqrt(own_x * own_y)
        if scale > 0.0:
            out[r] = both / scale


@njit(cache=True, nogil=True)
def reliability_loop(
    drawn: I64, size: I64, prob: F64, excess: F64, block: I64, n_bins: int, count: I64, out: F64
) -> Any:
    """Write the reliability error (R,) of each resample.

    drawn, size and count as in `spearman_loop`. prob (n,) ascends, excess (n,) is prob - label, block (n,) the block.
    """
    for r in range(drawn.shape[0]):
        _count(drawn[r], count)
        total = 0
        for b in range(count.size):
            total += count[b] * size[b]
        below = bin_now = 0
        error = in_bin = 0.0
        i = 0
        while i < prob.size:
            weight = 0
            in_tie = 0.0
            k = i
            while k < prob.size and prob[k] == prob[i]:
                times = count[block[k]]
                weight += times
                in_tie += times * excess[k]
                k += 1
            # floor((mean rank - 1/2) * n_bins / total), the mean rank being below + (weight + 1) / 2.
            number = (2 * below + weight) * n_bins // (2 * total)
            if weight > 0 and number != bin_now:
                error += abs(in_bin)
                in_bin = 0.0
                bin_now = number
            in_bin += in_tie
            below += weight
            i = k
        out[r] = (error + abs(in_bin)) / total


@njit(cache=True, nogil=True)
def _count(drawn: I64, count: I64) -> Any:
    """Write how often each block was drawn."""
    for b in range(count.size):
        count[b] = 0
    for i in range(drawn.size):
        count[drawn[i]] += 1
