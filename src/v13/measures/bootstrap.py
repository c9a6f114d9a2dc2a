"""Block-bootstrap intervals: statistics of events whose stretches of time are drawn with replacement.

Events cluster and their returns overlap, so events are never drawn one by one: all events of a stretch of time are
drawn or left together. One function takes any statistic; the others give the same intervals of one statistic each, for
the same seed, many times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError
from v13.measures.accuracy import spearman
from v13.measures.arguments import refuse_nan, refuse_other_length
from v13.measures.bootstrap_kernel import mean_loop, reliability_loop, spearman_loop
from v13.measures.reliability import reliability_error

__all__ = [
    "Interval",
    "MeanDifference",
    "block_bootstrap_interval",
    "bootstrap_mean",
    "bootstrap_mean_difference",
    "bootstrap_reliability",
    "bootstrap_spearman",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_BLOCKS = 5  # four blocks can be redrawn in only 35 ways, five in 126: fewer cannot place a 2.5 % tail
MAX_UNDEFINED_SHARE = 0.1  # of resamples in which the statistic is not defined
N_DRAWS_AT_ONCE = 1_000_000  # 8 MB of block numbers


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
class MeanDifference:
    """How much larger one mean is than another over the same time.

    observed : float, mean(a) - mean(b); NaN where either has no events.
    interval : Interval of the difference.
    p : float, one-sided: (1 + resamples in which a is not above b, undefined ones among them) / (1 + resamples). None
        where there is no interval.
    """

    observed: float
    interval: Interval
    p: float | None


@dataclass(frozen=True)
class _Blocks:
    """Stretches of time that hold events: the number of each event's (n,), and how many events each has (B,)."""

    number: I64
    size: I64


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
    blocks = _blocks(ts_ms, block_ms, n_bootstrap, confidence)
    order = np.argsort(ts_ms, kind="stable")
    first = np.cumsum(blocks.size) - blocks.size

    def one(drawn: I64) -> float:
        n = blocks.size[drawn]
        starts = np.repeat(first[drawn] - (np.cumsum(n) - n), n)
        return statistic(order[starts + np.arange(len(starts))])

    def all_of(drawn: I64) -> F64:
        return np.array([one(row) for row in drawn], np.float64)

    return _interval(_resampled(all_of, blocks, n_bootstrap, seed), blocks, block_ms, n_bootstrap, confidence)


def bootstrap_mean(
    values: F64, ts_ms: I64, block_ms: int, *, n_bootstrap: int, seed: int, confidence: float = 0.95
) -> Interval:
    """Return a block-bootstrap interval of a mean: of an accuracy (values 0 and 1), of a return.

    Parameters
    ----------
    values : (n,) float64, no NaN
    ts_ms, block_ms, n_bootstrap, seed, confidence
        As `block_bootstrap_interval`.

    Returns
    -------
    Interval
        That of `block_bootstrap_interval` of the mean: the same for whole numbers, else but for the rounding of sums.

    Raises
    ------
    DataError
        Lengths differ, a value is NaN or out of range.
    """
    refuse_other_length(values=values, ts_ms=ts_ms)
    refuse_nan(values=values)
    blocks = _blocks(ts_ms, block_ms, n_bootstrap, confidence)
    totals = _totals(blocks.number, values, len(blocks.size))
    resampled = _resampled(lambda drawn: _means(drawn, *totals), blocks, n_bootstrap, seed)
    return _interval(resampled, blocks, block_ms, n_bootstrap, confidence)


def bootstrap_mean_difference(
    values_a: F64,
    ts_ms_a: I64,
    values_b: F64,
    ts_ms_b: I64,
    block_ms: int,
    *,
    n_bootstrap: int,
    seed: int,
    confidence: float = 0.95,
) -> MeanDifference:
    """Compare the means of two sets of events of the same time, paired by time.

    Parameters
    ----------
    values_a : (n,) float64, no NaN
    ts_ms_a : (n,) int64
    values_b : (m,) float64, no NaN
    ts_ms_b : (m,) int64
        As `block_bootstrap_interval`. One grid of blocks starts at the first event of either; a block brings its events
        of both, so what both share (a wild hour, the same price move) cancels.
    block_ms, n_bootstrap, seed, confidence
        As `block_bootstrap_interval`.

    Returns
    -------
    MeanDifference
        A resample in which either has no events is undefined.

    Raises
    ------
    DataError
        Lengths differ, a value is NaN or out of range.

    Notes
    -----
    p is the percentile interval turned round (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sec. 15.4):
    p <= alpha about where the lower end at a level of 1 - 2 * alpha is above zero. Like the interval it is too small
    with few blocks.
    """
    refuse_other_length(values_a=values_a, ts_ms_a=ts_ms_a)
    refuse_other_length(values_b=values_b, ts_ms_b=ts_ms_b)
    refuse_nan(values_a=values_a, values_b=values_b)
    blocks = _blocks(np.concatenate([ts_ms_a, ts_ms_b]), block_ms, n_bootstrap, confidence)
    n_a, n_blocks = len(values_a), len(blocks.size)
    a = _totals(blocks.number[:n_a], values_a, n_blocks)
    b = _totals(blocks.number[n_a:], values_b, n_blocks)
    resampled = _resampled(lambda drawn: _means(drawn, *a) - _means(drawn, *b), blocks, n_bootstrap, seed)
    interval = _interval(resampled, blocks, block_ms, n_bootstrap, confidence)
    observed = float(values_a.mean() - values_b.mean()) if len(values_a) and len(values_b) else math.nan
    p = None
    if not math.isnan(interval.low):
        p = (1 + int(np.count_nonzero(~(resampled > 0)))) / (1 + n_bootstrap)
    return MeanDifference(observed, interval, p)


def bootstrap_spearman(
    x: F64, y: F64, ts_ms: I64, block_ms: int, *, n_bootstrap: int, seed: int, confidence: float = 0.95
) -> Interval:
    """Return a block-bootstrap interval of Spearman's rank correlation.

    Parameters
    ----------
    x, y : (n,) float64, no NaN
    ts_ms, block_ms, n_bootstrap, seed, confidence
        As `block_bootstrap_interval`.

    Returns
    -------
    Interval
        That of `block_bootstrap_interval` of `spearman`, to the bit up to 100,000 events.

    Raises
    ------
    DataError
        Lengths differ, a value is NaN or out of range.
    """
    spearman(x, y)  # refuses what cannot be ranked
    refuse_other_length(x=x, ts_ms=ts_ms)
    blocks = _blocks(ts_ms, block_ms, n_bootstrap, confidence)
    by_x, by_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    place = np.empty(len(x), np.int64)
    place[by_x] = np.arange(len(x))
    sorted_x, block_x = x[by_x].astype(np.float64), blocks.number[by_x]
    sorted_y, block_y = y[by_y].astype(np.float64), blocks.number[by_y]
    place_y, count, rank = place[by_y], np.empty(len(blocks.size), np.int64), np.empty(len(x))

    def rho(drawn: I64) -> F64:
        out = np.empty(len(drawn))
        spearman_loop(drawn, blocks.size, sorted_x, block_x, sorted_y, block_y, place_y, count, rank, out)
        return out

    return _interval(_resampled(rho, blocks, n_bootstrap, seed), blocks, block_ms, n_bootstrap, confidence)


def bootstrap_reliability(
    prob: F64,
    label: NDArray[np.integer[Any]],
    ts_ms: I64,
    block_ms: int,
    n_bins: int = 10,
    *,
    n_bootstrap: int,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """Return a block-bootstrap interval of `reliability_error`; the bins are made anew in each resample.

    Parameters
    ----------
    prob : (n,) float64, in [0, 1]
    label : (n,) integer, 0 or 1
    n_bins : int, >= 1
        As `reliability_error`.
    ts_ms, block_ms, n_bootstrap, seed, confidence
        As `block_bootstrap_interval`.

    Returns
    -------
    Interval
        That of `block_bootstrap_interval` of `reliability_error`, but for the rounding of sums.

    Raises
    ------
    DataError
        Lengths differ, n == 0, or a value is outside its range.

    Notes
    -----
    The error is never negative and repeated events raise it: with 600 events of a perfect calibration the middle of the
    interval lay above the events' own error in 199 of 200 runs. Read it as how far the error moves, high rather than
    low.
    """
    reliability_error(prob, label, n_bins)  # refuses what cannot be judged
    refuse_other_length(prob=prob, ts_ms=ts_ms)
    blocks = _blocks(ts_ms, block_ms, n_bootstrap, confidence)
    order = np.argsort(prob, kind="stable")
    sorted_prob, excess = prob[order].astype(np.float64), (prob - label)[order].astype(np.float64)
    block, count = blocks.number[order], np.empty(len(blocks.size), np.int64)

    def error(drawn: I64) -> F64:
        out = np.empty(len(drawn))
        reliability_loop(drawn, blocks.size, sorted_prob, excess, block, n_bins, count, out)
        return out

    return _interval(_resampled(error, blocks, n_bootstrap, seed), blocks, block_ms, n_bootstrap, confidence)


def _blocks(ts_ms: I64, block_ms: int, n_bootstrap: int, confidence: float) -> _Blocks:
    if block_ms <= 0 or n_bootstrap < 1 or not 0 < confidence < 1:
        raise DataError(
            "block_ms, n_bootstrap, confidence: expected > 0, >= 1 and inside (0, 1), found "
            f"{block_ms}, {n_bootstrap}, {confidence}"
        )
    if len(ts_ms) == 0:
        return _Blocks(np.empty(0, np.int64), np.empty(0, np.int64))
    _, number, size = np.unique((ts_ms - ts_ms.min()) // block_ms, return_inverse=True, return_counts=True)
    return _Blocks(number.astype(np.int64), size.astype(np.int64))


def _resampled(statistic: Callable[[I64], F64], blocks: _Blocks, n_bootstrap: int, seed: int) -> F64:
    """Return (n_bootstrap,) values of a statistic of (R, B) drawn block numbers; none where blocks are too few."""
    n_blocks = len(blocks.size)
    if n_blocks < MIN_BLOCKS:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    values = np.empty(n_bootstrap)
    step = max(1, N_DRAWS_AT_ONCE // n_blocks)
    for first in range(0, n_bootstrap, step):
        drawn = rng.integers(n_blocks, size=(min(step, n_bootstrap - first), n_blocks))
        values[first : first + step] = statistic(drawn)
    return values


def _interval(values: F64, blocks: _Blocks, block_ms: int, n_bootstrap: int, confidence: float) -> Interval:
    defined = values[~np.isnan(values)]
    low = high = math.nan
    if len(defined) >= (1 - MAX_UNDEFINED_SHARE) * n_bootstrap:
        low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    method = f"block bootstrap, {block_ms} ms"
    return Interval(float(low), float(high), confidence, method, len(defined), len(blocks.size))


def _totals(number: I64, values: F64, n_blocks: int) -> tuple[F64, I64]:
    """Return (B,) sums of the values of each block and how many they are."""
    total = np.bincount(number, weights=values.astype(np.float64, copy=False), minlength=n_blocks)
    return total.astype(np.float64), np.bincount(number, minlength=n_blocks).astype(np.int64)


def _means(drawn: I64, total: F64, n_events: I64) -> F64:
    out = np.empty(len(drawn))
    mean_loop(drawn, total, n_events, out)
    return out
