"""Resampling in time: the circular-shift null behind every p-value that decides.

Events cluster and their returns overlap, so events are never shuffled or drawn one by one here: whole trains are moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError
from v13.measures.panel import Panel, in_runs
from v13.measures.resampling_kernel import shift_loop

__all__ = [
    "MaxNull",
    "Panel",
    "ShiftNull",
    "ShiftNulls",
    "against_maximum",
    "circular_shift_null",
    "draw_shifts",
    "joint_p",
    "shift_statistics",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_DIGIT_BITS = 14  # 128 KB of counts: what a core keeps close by


@dataclass(frozen=True)
class ShiftNull:
    """One statistic under the null.

    observed : float, or None where it is not defined.
    null : (S,) float64, the statistic at each shift; NaN where it is not defined.
    p : float, (1 + number of shifts whose statistic reaches the observed one) / (1 + S). A shift without a statistic
        counts as one that reaches it. None where `observed` is None or no shift exists.
    """

    observed: float | None
    null: F64
    p: float | None


@dataclass(frozen=True)
class ShiftNulls:
    """Accuracy and rank correlation under the same shifts. The least p either can have is 1 / (1 + n_shifts)."""

    accuracy: ShiftNull
    spearman: ShiftNull
    n_shifts: int
    min_shift: int


@dataclass(frozen=True)
class MaxNull:
    """Every trial of a search against the best of all of them at other times.

    statistic : (T,) float64, -inf where a trial has too few events.
    null : (S,) float64, the largest statistic of any trial at each shift.
    p : (T,) float64, corrected for the whole search; NaN for trials with too few events or where no shift exists.
    """

    statistic: F64
    null: F64
    p: F64
    min_shift: int


def draw_shifts(lengths: Sequence[int], min_shift: int, n_shifts: int, seed: int) -> I64:
    """Draw the time shifts of a null.

    Parameters
    ----------
    lengths : P numbers of bars, >= 1
        One a panel. Panels move together by the same fraction of their lengths, so symbols recorded over the same time
        stay together; with equal lengths exactly.
    min_shift : int, >= 1
        Bars by which every panel moves at the least, either way round: at least the longest horizon plus the memory of
        a pivot pair, or events would still see their own returns.
    n_shifts : int, >= 1
    seed : int, >= 0

    Returns
    -------
    (S, P) int64
        Bars, ascending, rows distinct. All legal shifts where they are no more than `n_shifts`, else a random
        `n_shifts` of them without replacement. S is 0 where the shortest panel has no room.

    Raises
    ------
    DataError
        A value is out of range.
    """
    if not lengths or min(lengths) < 1:
        raise DataError(f"lengths: expected at least one panel, each of at least one bar, found {list(lengths)}")
    if min_shift < 1 or n_shifts < 1:
        raise DataError(f"min_shift, n_shifts: expected at least 1, found {min_shift}, {n_shifts}")
    longest = max(lengths)
    # A shift s of the longest panel moves one of n bars by s * n / longest, rounded half up:
    # (2 * s * n + longest) // (2 * longest). Solved for the s that leave every panel its room, in whole numbers.
    low = max(_ceil_div(longest * (2 * min_shift - 1), 2 * n) for n in lengths)
    high = min(_ceil_div(longest * (2 * (n - min_shift) + 1), 2 * n) - 1 for n in lengths)
    n_legal = max(0, high - low + 1)
    if n_legal <= n_shifts:
        of_longest = np.arange(low, low + n_legal)
    else:
        drawn = np.random.default_rng(seed).choice(n_legal, n_shifts, replace=False, shuffle=False)
        of_longest = low + np.sort(drawn)
    size = np.asarray(lengths, np.int64)
    shifts: I64 = (2 * of_longest[:, None] * size + longest) // (2 * longest)
    return shifts


def shift_statistics(
    panels: Sequence[Panel], shifts: I64, cost_bps: float = 0.0, *, rho: bool = True
) -> tuple[F64, F64]:
    """Return accuracy and Spearman's rho, pooled over panels, at each shift.

    Parameters
    ----------
    panels : P panels
    shifts : (S, P) int64, in [0, n) of each panel
        An event at bar i is judged by the return of bar (i + shift) mod n; zeros give the observed statistics.
    cost_bps : float, >= 0
        As `labels.hits`.
    rho : bool
        Whether to rank at all. Accuracy alone takes a fraction of the time.

    Returns
    -------
    (accuracy, rho) : two (S,) float64
        Accuracy is hits / (hits + misses). rho is the rank correlation of score with side * return over all labelled
        events, ties among them; NaN throughout where it was not asked for. NaN where not defined. Events that land on
        a bar without a label drop out of that shift.

    Raises
    ------
    DataError
        Shapes differ or a shift is out of range.
    """
    length = np.array([len(p.ret) for p in panels], np.int64)
    if shifts.ndim != 2 or shifts.shape[1] != len(panels):
        raise DataError(f"shifts: expected one column for each of {len(panels)} panels, found shape {shifts.shape}")
    if np.any(shifts < 0) or np.any(shifts >= np.maximum(length, 1)):
        raise DataError("shifts: expected at least 0 and less than the panel's number of bars")
    n_events = [len(p.index) for p in panels]
    score = _joined([p.score for p in panels], np.float64)
    order = np.argsort(score, kind="stable")
    ret = _joined([p.ret for p in panels], np.float64)
    first = np.cumsum(length) - length
    panel = np.repeat(np.arange(len(panels)), n_events)[order]
    index = _joined([p.index for p in panels], np.int64)[order]
    rank_of, highest, digit_bits, n_passes = np.zeros(1, np.int32), 0, 1, 0
    if rho:
        rank_of, highest = _return_ranks(ret, first, length, panel, index, shifts)
        digit_bits, n_passes = _digits(highest, len(index))
    accuracy, correlation = np.empty(len(shifts)), np.empty(len(shifts))
    shift_loop(
        ret,
        rank_of,
        first,
        length,
        panel,
        index,
        _joined([p.side for p in panels], np.int64)[order],
        score[order],
        np.ascontiguousarray(shifts),
        1e-4 * cost_bps,
        highest,
        digit_bits,
        n_passes,
        np.empty(2**digit_bits, np.int64),
        np.empty((2, len(score)), np.int64),
        np.empty((2, len(score))),
        accuracy,
        correlation,
    )
    return accuracy, correlation


def circular_shift_null(
    panels: Sequence[Panel], *, min_shift: int, n_shifts: int, seed: int, cost_bps: float = 0.0, rho: bool = True
) -> ShiftNulls:
    """Test an event train against itself at other times.

    Parameters
    ----------
    panels : one Panel a symbol
        Panels without events take no part. Those on common times are shifted within runs, see Notes.
    min_shift, n_shifts, seed
        As `draw_shifts`.
    cost_bps : float, >= 0
        As `labels.hits`.
    rho : bool
        Whether to test the rank correlation too; if not, `spearman` has neither an observed value nor a p.

    Returns
    -------
    ShiftNulls

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    The null says: when the events happen has nothing to do with what the price does next. Clustering, side mix, scores
    in their order, overlap and volatility of returns and a drift of the whole record are the same in every shift, so
    none of them can pass for an edge. It needs no independence, but it does need the record to be alike throughout:
    an event train that avoids a lasting change of regime is compared with times of that regime as well.

    Symbols on common times move together, so what ties them stays. Where symbols set in or stop, time is cut into runs
    (`panel.in_runs`), and each run is shifted circularly along itself by the same fraction of its length: no event
    comes to where its symbol was not recorded, and symbols side by side still meet the same returns. Of 1,500 pairs of
    random walks (correlation 0.95, half overlap) accuracy rejected 5.4 % at a nominal 5 %; shifted along all common
    times 3.5 % (disjoint pairs 0 %: events lost their labels), each along its own 6.3 % (their tie was lost).
    """
    filled = [p for p in panels if p.index.size]
    if not filled:
        empty = ShiftNull(None, np.empty(0), None)
        return ShiftNulls(empty, empty, 0, min_shift)
    pieces, lengths, run = in_runs(filled, min_shift)
    shifts = draw_shifts(lengths, min_shift, n_shifts, seed)[:, run]
    observed = shift_statistics(pieces, np.zeros((1, len(pieces)), np.int64), cost_bps, rho=rho)
    null = shift_statistics(pieces, shifts, cost_bps, rho=rho)
    accuracy, spearman = (_against(float(o[0]), n) for o, n in zip(observed, null, strict=True))
    return ShiftNulls(accuracy, spearman, len(shifts), min_shift)


def against_maximum(statistic: F64, null: F64, min_shift: int) -> MaxNull:
    """Compare the trials of a search, all at once, with the best of them at other times.

    Parameters
    ----------
    statistic : (T,) float64, no NaN
        Of every trial; -inf where it has too few events to take part.
    null : (S,) float64
        The largest statistic of any trial at each of S shifts in time, all trials moved by the same shift.
    min_shift : int, bars

    Returns
    -------
    MaxNull
        p = (1 + shifts whose best trial reaches the trial's statistic) / (1 + S).

    Notes
    -----
    White, "A Reality Check for Data Snooping" (Econometrica 2000), with circular shifts in place of the bootstrap;
    single step, so p is valid for any trial however it was picked.
    """
    p = np.full(len(statistic), np.nan)
    if len(null):
        reached = np.searchsorted(np.sort(null), statistic, side="left")
        p = np.where(np.isfinite(statistic), (1 + len(null) - reached) / (1 + len(null)), np.nan)
    return MaxNull(statistic, null, p, min_shift)


def joint_p(observed: Sequence[float | None], nulls: Sequence[F64]) -> list[float | None]:
    """Return p-values of several statistics of one event train, corrected for their number through their joint null.

    Parameters
    ----------
    observed : m values, None where not defined
    nulls : m (S,) float64
        Of each statistic at the *same* S shifts; NaN counts as a shift that reaches anything.

    Returns
    -------
    list of m floats in (0, 1], None where `observed` is None or there is no shift

    Raises
    ------
    DataError
        The nulls differ in length.

    Notes
    -----
    Westfall and Young, "Resampling-based Multiple Testing" (1993), algorithm 2.8: step-down maxT, every statistic in
    units of the spread of its own null. The observed value counts in that spread, or a null of few shifts would reject
    too often. Statistics of neighbouring horizons go together, which Holm would have to ignore.
    """
    defined = [i for i, value in enumerate(observed) if value is not None]
    sizes = {len(nulls[i]) for i in defined}
    if len(sizes) > 1:
        raise DataError(f"nulls: expected one length, found {sorted(sizes)}")
    found: list[float | None] = [None] * len(observed)
    if not defined or not sizes.pop():
        return found
    at, shifted = {}, {}
    for i in defined:
        value = float(observed[i] or 0.0)
        known = np.append(nulls[i][~np.isnan(nulls[i])], value)
        centre, spread = float(known.mean()), float(known.std())
        scale = spread if spread > 0 else 1.0
        at[i] = (value - centre) / scale
        shifted[i] = np.where(np.isnan(nulls[i]), np.inf, (nulls[i] - centre) / scale)
    left = sorted(defined, key=lambda i: -at[i])
    floor = 0.0
    while left:
        most = np.max([shifted[i] for i in left], axis=0)
        # Rounding of the units must not turn a shift that ties with the observed value into one that falls short.
        reached = int(np.count_nonzero(most >= at[left[0]] - 1e-9))
        floor = max(floor, (1 + reached) / (1 + len(most)))
        found[left[0]] = floor
        left = left[1:]
    return found


def _against(observed: float, null: F64) -> ShiftNull:
    if math.isnan(observed):
        return ShiftNull(None, null, None)
    if not null.size:
        return ShiftNull(observed, null, None)
    return ShiftNull(observed, null, (1 + int(np.count_nonzero(~(null < observed)))) / (1 + len(null)))


def _return_ranks(
    ret: F64, first: I64, length: I64, panel: I64, index: I64, shifts: I64
) -> tuple[NDArray[np.int32], int]:
    """Return whole numbers (n,) that compare as returns do, for bulls and, negated, for bears; and the highest of them.

    Ranks of |ret| with the sign of ret, zero for a zero, equal for equals. They are made once for all shifts, of all
    bars or, where events and shifts are few, of the bars some event comes to; the others are 0.
    """
    seen: slice | NDArray[np.bool_] = slice(None)
    if len(index) * len(shifts) < len(ret):
        seen = np.zeros(len(ret), np.bool_)
        seen[first[panel] + (index + shifts[:, panel]) % length[panel]] = True
    distinct, rank = np.unique(np.abs(ret[seen]), return_inverse=True)
    if distinct.size == 0 or distinct[0] != 0.0:
        rank = rank + 1
    rank_of = np.zeros(len(ret), np.int32)
    rank_of[seen] = np.where(ret[seen] < 0, -rank, rank)
    return rank_of, len(distinct)


def _digits(highest: int, n: int) -> tuple[int, int]:
    """Return (bits of a digit, number of digits) that sort n numbers up to 2 * highest with the least work."""
    n_bits = max(1, (2 * highest).bit_length())
    plans = [(-(-n_bits // n_passes), n_passes) for n_passes in range(1, n_bits + 1)]
    # A pass goes twice over the numbers and twice over the counts.
    return min((plan for plan in plans if plan[0] <= MAX_DIGIT_BITS), key=lambda plan: plan[1] * (n + 2 ** plan[0]))


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
