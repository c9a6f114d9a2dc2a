"""The compiled statistics of a grid search: of the events of thousands of settings, listed by `grid_kernel`.

Nothing here finds an event, raises, reads a clock or draws random numbers. No fastmath.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["net_by_bin", "null_maximum", "rank_correlations"]

I1 = NDArray[np.int8]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F8 = NDArray[np.float64]


@njit(cache=True, nogil=True)
def net_by_bin(start: I8, event: I4, bin_of: I4, outcome: I1, n: I4, hits: I4) -> Any:
    """Count judged events and hits of all horizons together, by setting and time bin: n, hits (s, T)."""
    for s in range(start.size - 1):
        for e in range(start[s], start[s + 1]):
            k = event[e]
            for h in range(outcome.shape[1]):
                if outcome[k, h] >= 0:
                    n[s, bin_of[k]] += 1
                    hits[s, bin_of[k]] += outcome[k, h]


@njit(cache=True, nogil=True)
def null_maximum(
    code: I1,
    position: I8,
    pieces: I8,
    origin: I8,
    chain: I8,
    entry: I4,
    shifts: I8,
    least: float,
    eligible: I1,
    statistic: F8,
    best: F8,
) -> Any:
    """Raise best[i] to the largest statistic of any setting at shifts[i]; keep all of the first shift in `statistic`.

    code (2, H, m) int8 holds 1 hit, 0 miss, -1 neither of a bull and of a bear at every place of all symbols end to
    end; position (k,) int64 is a candidate's place there, less 2 m if it is a bear. pieces (q, 4) int64 are candidates
    side by side of one symbol and one run of its time: (one past the last of them, run, one past the run's last place,
    length of the run); shifts (S, G), by run, less than its length. origin, chain and entry as `list_events` leaves
    them. The statistic is the mean over horizons of (2 hits - n) / sqrt(n), inf for one without a judged event; -inf
    where a setting is not eligible or a horizon has fewer than `least`.
    """
    n_horizons, m = code.shape[1], code.shape[2]
    n_settings = origin.size
    word = np.empty(position.size, np.int64)
    total, counts = np.empty(n_settings), np.empty(n_settings, np.int64)
    for i in range(shifts.shape[0]):
        total[:] = 0.0
        for h in range(n_horizons):
            begin = 0
            for q in range(pieces.shape[0]):
                last, run, stop, length = pieces[q]
                shift = shifts[i, run]
                for k in range(begin, last):
                    place = position[k]
                    bear = 0
                    if place < 0:
                        place += 2 * m
                        bear = 1
                    moved = place + shift
                    if moved >= stop:
                        moved -= length
                    o = np.int64(code[bear, h, moved])
                    word[k] = (1 << 32) + o if o >= 0 else 0
                begin = last
            for s in range(n_settings):
                both = counts[origin[s]] if origin[s] >= 0 else 0
                for e in range(chain[s], chain[s + 1]):
                    k = entry[e]
                    if k >= 0:
                        both += word[k]
                    else:
                        both -= word[-1 - k]
                counts[s] = both
                n, hits = both >> 32, both & 0xFFFFFFFF
                if n < least or eligible[s] == 0:
                    total[s] = -math.inf
                elif n == 0:  # all its events moved to times without a label: the shift counts as one that reaches
                    total[s] = math.inf
                else:
                    total[s] += (2.0 * hits - n) / math.sqrt(n)
        for s in range(n_settings):
            value = total[s] / n_horizons
            best[i] = max(best[i], value)
            if i == 0:
                statistic[s] = value


@njit(cache=True, inline="always")
def _ones(word: Any) -> Any:
    """Count the ones of a 64-bit word (Knuth, TAOCP 7.1.3, eq. 62); compiled to one instruction where there is one."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, inline="always")
def _below(member: Any, before: Any, which: Any, place: Any) -> Any:
    """Return how many members lie below a place: those before its word, and those below it in the word."""
    word = place >> 6
    mask = (np.uint64(1) << np.uint64(place & 63)) - np.uint64(1)
    return before[which, word] + _ones(member[which, word] & mask)


@njit(cache=True, nogil=True)
def rank_correlations(start: I8, event: I4, places: I4, rho: F8) -> Any:
    """Write Spearman's rho (s,) of score and signed return of each setting's labelled events, ties by mean rank.

    places (k, 6) int32: the place of each candidate in ascending order of score, and of signed return, -1 where it has
    no label; then where those of the same score begin and end, and those of the same signed return. Sorted
    once for all settings: a rank within a setting is a count of its members at lower places, read off a set of bits and
    the counts before each word. Ranks are doubled and centred, so all sums are whole numbers and exact.
    """
    n_words = (places.shape[0] >> 6) + 2
    member = np.zeros((2, n_words), np.uint64)
    before = np.zeros((2, n_words), np.int64)
    for s in range(start.size - 1):
        member[:] = 0
        for e in range(start[s], start[s + 1]):
            k = event[e]
            for which in range(2):
                place = places[k, which]
                if place >= 0:
                    member[which, place >> 6] |= np.uint64(1) << np.uint64(place & 63)
        for which in range(2):
            for word in range(n_words - 1):
                before[which, word + 1] = before[which, word] + _ones(member[which, word])
        n = before[0, n_words - 1]
        xx = yy = xy = 0
        for e in range(start[s], start[s + 1]):
            k = event[e]
            if places[k, 0] < 0:
                continue
            x = _below(member, before, 0, places[k, 2]) + _below(member, before, 0, places[k, 3]) - n
            y = _below(member, before, 1, places[k, 4]) + _below(member, before, 1, places[k, 5]) - n
            xx += x * x
            yy += y * y
            xy += x * y
        size = math.sqrt(float(xx) * float(yy))
        rho[s] = xy / size if n >= 3 and size > 0.0 else math.nan
