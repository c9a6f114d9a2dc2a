"""The compiled loop over time shifts: accuracy and rank correlation of an event train at each of them.

Self-contained, as numba's disk cache does not see edits in another file. Nothing here raises or draws random numbers;
`resampling` checks, draws and explains. No fastmath (it breaks NaN).
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["shift_loop"]

PLACE_BITS = 32  # of an int64; what is left above holds ranks up to 2^31
PLACE_MASK = (1 << PLACE_BITS) - 1


@njit(cache=True)
def shift_loop(
    ret: NDArray[np.float64],
    rank_of: NDArray[np.int32],
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    panel: NDArray[np.int64],
    index: NDArray[np.int64],
    side: NDArray[np.int64],
    score: NDArray[np.float64],
    shifts: NDArray[np.int64],
    cost: float,
    highest: int,
    digit_bits: int,
    n_passes: int,
    count: NDArray[np.int64],
    packed: NDArray[np.int64],
    rank: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    rho: NDArray[np.float64],
) -> Any:
    """Write accuracy (S,) and rho (S,) at each row of shifts (S, P); no rho where n_passes is 0.

    ret is all panels end to end; panel p is ret[first[p] : first[p] + length[p]]. rank_of says how returns compare:
    side * rank_of orders and ties events as side * ret does, and lies within +-highest. Events are given in ascending
    order of score, so that ranks of scores are read off in one pass whichever events drop out. n_passes digits of
    digit_bits hold every number up to 2 * highest. count (2 ** digit_bits,), packed (2, k), rank (2, k) are scratch.
    """
    rank_score, rank_return = rank[0], rank[1]
    for s in range(shifts.shape[0]):
        n_hits = n_misses = n = tied = 0
        last_score = math.nan
        for e in range(index.size):
            p = panel[e]
            j = index[e] + shifts[s, p]
            if j >= length[p]:
                j -= length[p]
            j += first[p]
            signed = side[e] * ret[j]
            # No branch on what is hit or miss: at even odds a core guesses half of them wrong.
            net = signed - cost
            n_hits += net > 0.0
            n_misses += net < 0.0
            if n_passes == 0 or math.isnan(signed):
                continue
            # Mean ranks of the scores: events tied with this one get theirs when the run of ties ends.
            if score[e] != last_score:
                _close_ties(rank_score, n, tied)
                tied = 0
                last_score = score[e]
            # The event's place rides along in the low half, so that one number is moved a pass.
            packed[0, n] = ((side[e] * rank_of[j] + highest) << PLACE_BITS) | n
            tied += 1
            n += 1
        accuracy[s] = n_hits / (n_hits + n_misses) if n_hits + n_misses > 0 else math.nan
        rho[s] = math.nan
        if n < 3:
            continue
        _close_ties(rank_score, n, tied)
        ranked = _sort_digits(packed[0], packed[1], n, digit_bits, n_passes, count)
        i = 0
        while i < n:
            value = ranked[i] >> PLACE_BITS
            k = i + 1
            while k < n and ranked[k] >> PLACE_BITS == value:
                k += 1
            for m in range(i, k):
                rank_return[ranked[m] & PLACE_MASK] = 0.5 * (i + k + 1)
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
def _sort_digits(
    packed: NDArray[np.int64],
    spare: NDArray[np.int64],
    n: int,
    digit_bits: int,
    n_passes: int,
    count: NDArray[np.int64],
) -> Any:
    """Sort the first n by what lies above the place, digit by digit from the lowest; return the array that holds them.

    Whole numbers of few bits are sorted in a few passes without a comparison: several times faster than returns.
    """
    mask = (1 << digit_bits) - 1
    for d in range(n_passes):
        low = PLACE_BITS + d * digit_bits
        for c in range(count.size):
            count[c] = 0
        for i in range(n):
            count[(packed[i] >> low) & mask] += 1
        before = 0
        for c in range(count.size):
            here = count[c]
            count[c] = before
            before += here
        for i in range(n):
            c = (packed[i] >> low) & mask
            spare[count[c]] = packed[i]
            count[c] += 1
        packed, spare = spare, packed
    return packed


@njit(cache=True)
def _close_ties(rank: NDArray[np.float64], n: int, tied: int) -> Any:
    """Give the last `tied` of n positions their mean rank."""
    mean = n - 0.5 * (tied - 1)
    for i in range(n - tied, n):
        rank[i] = mean
