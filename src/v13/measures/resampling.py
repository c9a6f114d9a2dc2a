"""Resampling in time: the circular-shift null behind every p-value that decides, and block-bootstrap intervals.

Events cluster and their returns overlap, so events are never shuffled or drawn one by one here: whole trains are moved,
whole stretches of time are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError
from v13.measures.labels import HIT, MISS, hits
from v13.measures.resampling_kernel import max_loop, shift_loop

__all__ = [
    "Interval",
    "MaxNull",
    "Panel",
    "ShiftNull",
    "ShiftNulls",
    "block_bootstrap_interval",
    "circular_shift_null",
    "draw_shifts",
    "max_statistic_null",
    "shift_statistics",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_BLOCKS = 5  # four blocks can be redrawn in only 35 ways, five in 126: fewer cannot place a 2.5 % tail
MAX_UNDEFINED_SHARE = 0.1  # of resamples in which the statistic is not defined


@dataclass(frozen=True)
class Panel:
    """One symbol's returns and its event train.

    ret : (n,) float64, forward log return of every bar at one horizon; NaN where there is no label.
    index : (k,) int64, in [0, n), the bars at which the events became known.
    side : (k,) int64, +1 or -1.
    score : (k,) float64, no NaN.
    """

    ret: F64
    index: I64
    side: I64
    score: F64

    def __post_init__(self) -> None:
        if not len(self.index) == len(self.side) == len(self.score):
            raise DataError(
                f"panel: index, side and score: expected one length, found {len(self.index)}, {len(self.side)}, "
                f"{len(self.score)}"
            )
        if self.index.size == 0:
            return
        if self.index.min() < 0 or self.index.max() >= len(self.ret):
            raise DataError(
                f"panel: index: expected bars 0 to {len(self.ret) - 1}, found {self.index.min()} to {self.index.max()}"
            )
        if np.any(np.abs(self.side) != 1):
            raise DataError("panel: side: expected +1 or -1; conflict hints have no direction to judge")
        if np.isnan(self.score).any():
            raise DataError("panel: score: expected no NaN")


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
class Interval:
    """A bootstrap interval; low and high are NaN where none can be had.

    n_resamples counts the resamples the ends are read from, n_blocks the stretches of time that hold events.
    """

    low: float
    high: float
    level: float
    method: str
    n_resamples: int
    n_blocks: int


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


def shift_statistics(panels: Sequence[Panel], shifts: I64, cost_bps: float = 0.0) -> tuple[F64, F64]:
    """Return accuracy and Spearman's rho, pooled over panels, at each shift.

    Parameters
    ----------
    panels : P panels
    shifts : (S, P) int64, in [0, n) of each panel
        An event at bar i is judged by the return of bar (i + shift) mod n; zeros give the observed statistics.
    cost_bps : float, >= 0
        As `labels.hits`.

    Returns
    -------
    (accuracy, rho) : two (S,) float64
        Accuracy is hits / (hits + misses). rho is the rank correlation of score with side * return over all labelled
        events, ties among them. NaN where not defined. Events that land on a bar without a label drop out of that
        shift.

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
    accuracy, rho = np.empty(len(shifts)), np.empty(len(shifts))
    shift_loop(
        _joined([p.ret for p in panels], np.float64),
        np.cumsum(length) - length,
        length,
        np.repeat(np.arange(len(panels)), n_events)[order],
        _joined([p.index for p in panels], np.int64)[order],
        _joined([p.side for p in panels], np.float64)[order],
        score[order],
        np.ascontiguousarray(shifts),
        1e-4 * cost_bps,
        np.empty((3, len(score))),
        accuracy,
        rho,
    )
    return accuracy, rho


def circular_shift_null(
    panels: Sequence[Panel], *, min_shift: int, n_shifts: int, seed: int, cost_bps: float = 0.0
) -> ShiftNulls:
    """Test an event train against itself at other times.

    Parameters
    ----------
    panels : one Panel a symbol
        Panels without events take no part.
    min_shift, n_shifts, seed
        As `draw_shifts`.
    cost_bps : float, >= 0
        As `labels.hits`.

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
    """
    filled = [p for p in panels if p.index.size]
    if not filled:
        empty = ShiftNull(None, np.empty(0), None)
        return ShiftNulls(empty, empty, 0, min_shift)
    shifts = draw_shifts([len(p.ret) for p in filled], min_shift, n_shifts, seed)
    observed = shift_statistics(filled, np.zeros((1, len(filled)), np.int64), cost_bps)
    null = shift_statistics(filled, shifts, cost_bps)
    accuracy, spearman = (_against(float(o[0]), n) for o, n in zip(observed, null, strict=True))
    return ShiftNulls(accuracy, spearman, len(shifts), min_shift)


def max_statistic_null(
    trials: Sequence[Sequence[Sequence[Panel]]],
    *,
    min_shift: int,
    n_shifts: int,
    seed: int,
    least_events: int,
    cost_bps: float = 0.0,
) -> MaxNull:
    """Test the trials of a search, all at once, against the best of them when shifted in time.

    Parameters
    ----------
    trials : T trials, each H horizons, each P panels
        All trials share the `ret` of their panels, and all panels of a horizon have one length: one grid of times. A
        trial's events are the same at every horizon.
    min_shift, n_shifts, seed
        As `draw_shifts`; every trial is moved by the same shifts.
    least_events : int, >= 1
        Judged events a trial needs at every horizon to take part, at a shift too.
    cost_bps : float, >= 0
        As `labels.hits`.

    Returns
    -------
    MaxNull
        p = (1 + shifts whose best trial reaches the trial's statistic) / (1 + S).

    Raises
    ------
    DataError
        A value is out of range, or panels differ in length.

    Notes
    -----
    White, "A Reality Check for Data Snooping" (Econometrica 2000), with circular shifts in place of the bootstrap;
    single step, so p is valid for any trial however it was picked. The statistic is the mean over horizons of
    (2 hits - n) / sqrt(n), so that trials of different sizes compare.
    """
    first_trial = trials[0]
    n_panels = len(first_trial[0])
    lengths = {len(panel.ret) for horizon in first_trial for panel in horizon}
    if len(lengths) != 1:
        raise DataError(f"trials: expected panels of one length, found {sorted(lengths)}")
    length = lengths.pop()
    outcome = np.empty((2, len(first_trial), n_panels * length), np.int8)
    for h, horizon in enumerate(first_trial):
        ret = _joined([p.ret for p in horizon], np.float64)
        for row, side in enumerate((1, -1)):
            hit = hits(ret, np.full(len(ret), side), cost_bps)
            outcome[row, h] = np.where(hit == HIT, 1, np.where(hit == MISS, 0, -1))
    events = [horizons[0] for horizons in trials]
    sizes = [sum(len(p.index) for p in panels) for panels in events]
    position = _joined([p.index for panels in events for p in panels], np.int64)
    bear = (_joined([p.side for panels in events for p in panels], np.int64) < 0).astype(np.int64)
    panel = np.concatenate([np.repeat(np.arange(n_panels), [len(p.index) for p in panels]) for panels in events])
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    begin = length * np.arange(n_panels + 1)

    def statistics(shifts: I64) -> F64:
        out = np.empty((len(shifts), len(trials)))
        max_loop(outcome, begin, position, bear, panel, start, shifts, float(least_events), out)
        return out

    shifts = draw_shifts([length], min_shift, n_shifts, seed)[:, 0]
    observed = statistics(np.zeros(1, np.int64))[0]
    null = statistics(shifts).max(axis=1)
    p = np.full(len(trials), np.nan)
    if len(shifts):
        reached = np.searchsorted(np.sort(null), observed, side="left")
        p = np.where(np.isfinite(observed), (1 + len(null) - reached) / (1 + len(null)), np.nan)
    return MaxNull(observed, null, p, min_shift)


def block_bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    ts_ms: I64,
    block_ms: int,
    *,
    n_bootstrap: int,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Return a percentile interval of a statistic of events, by drawing blocks of time.

    Parameters
    ----------
    statistic : callable
        Takes (m,) positions into the events (repeats possible, m about n) and returns a float, NaN where not defined.
    ts_ms : (n,) int64
        When each event became known, UTC epoch milliseconds, in any order, symbols pooled: all events of one stretch of
        time are drawn or left together, whatever their symbol.
    block_ms : int, > 0
        Length of a stretch; several times the reach of a label.
    n_bootstrap : int, >= 1
    seed : int, >= 0
    confidence : float, in (0, 1)

    Returns
    -------
    Interval
        Two-sided. Ends are NaN where fewer than 5 blocks hold events or the statistic is undefined in over a tenth of
        the resamples.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Carlstein, Ann. Statist. 14 (1986): blocks side by side, drawn with replacement; the grid starts at the first event.
    Blocks without events are not drawn: they would change the number of events and nothing else. Percentile
    intervals from few blocks are too short; `n_blocks` says how many there were.
    """
    if block_ms <= 0 or n_bootstrap < 1 or not 0 < confidence < 1:
        raise DataError(
            "block_ms, n_bootstrap, confidence: expected > 0, >= 1 and inside (0, 1), found "
            f"{block_ms}, {n_bootstrap}, {confidence}"
        )
    method = f"block bootstrap, {block_ms} ms"
    nothing = Interval(math.nan, math.nan, confidence, method, 0, 0)
    if len(ts_ms) == 0:
        return nothing
    order = np.argsort(ts_ms, kind="stable")
    block = (ts_ms[order] - ts_ms[order[0]]) // block_ms
    _, first, size = np.unique(block, return_index=True, return_counts=True)
    n_blocks = len(first)
    if n_blocks < MIN_BLOCKS:
        return Interval(math.nan, math.nan, confidence, method, 0, n_blocks)
    rng = np.random.default_rng(seed)
    values = np.empty(n_bootstrap)
    for b in range(n_bootstrap):
        drawn = rng.integers(n_blocks, size=n_blocks)
        n = size[drawn]
        starts = np.repeat(first[drawn] - (np.cumsum(n) - n), n)
        values[b] = statistic(order[starts + np.arange(len(starts))])
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - MAX_UNDEFINED_SHARE) * n_bootstrap:
        return Interval(math.nan, math.nan, confidence, method, len(defined), n_blocks)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence, method, len(defined), n_blocks)


def _against(observed: float, null: F64) -> ShiftNull:
    if math.isnan(observed):
        return ShiftNull(None, null, None)
    if not null.size:
        return ShiftNull(observed, null, None)
    return ShiftNull(observed, null, (1 + int(np.count_nonzero(~(null < observed)))) / (1 + len(null)))


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
