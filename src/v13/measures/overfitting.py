"""How much of a search's result is the search: probability of backtest overfitting, deflated Sharpe ratio.

Both are reported beside the gates and decide nothing: they describe the rule of selection and the count of trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kurtosis, norm, skew

from v13.errors import DataError

__all__ = [
    "DeflatedSharpe",
    "Overfitting",
    "cscv",
    "deflated_sharpe",
    "effective_trials",
    "expected_max_sharpe",
    "overfitting_probability",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_BLOCKS, MAX_BLOCKS = 4, 16  # 6 and 12,870 splits
CELLS_AT_ONCE = 1 << 20  # splits times settings held in one array: 8 MB
ROUNDING = 1e-12  # a variance below this share of the mean square is rounding: the slice is constant


@dataclass(frozen=True)
class Overfitting:
    """What the setting that was best in one half of the record did in the other, over all ways of halving it.

    pbo : float, in [0, 1], share of splits whose logit is <= 0: the best inside was no better than the median outside.
    n_splits, n_settings : int.
    logits : (n_splits,) float64, log(w / (1 - w)) with w = rank outside / (n_settings + 1) of the best inside; in
        lexicographic order of the blocks inside.
    median_oos : float, median over splits of the statistic outside of the best inside.
    prob_loss : float, in [0, 1], share of splits in which it is below 0 (accuracy below one half, or a loss).
    slope : float, of the least-squares line of the best setting's statistic outside on its statistic inside, over
        splits; None where the latter never changes. Halves exclude each other, so that it is negative on noise.
    """

    pbo: float
    n_splits: int
    n_settings: int
    logits: F64
    median_oos: float
    prob_loss: float
    slope: float | None


@dataclass(frozen=True)
class DeflatedSharpe:
    """A Sharpe ratio against the best that as many trials without skill would show.

    sharpe : float, mean over standard deviation, per step; None where the series is constant or shorter than 4.
    expected_max_sharpe : float, >= 0, per step, under the null.
    skew, kurtosis : float, bias-corrected; kurtosis 3 is normal. None where `sharpe` is.
    probability : float, in [0, 1], that the true ratio exceeds `expected_max_sharpe`; None where it is not defined.
    n_steps : int.
    n_trials : float, the number that `expected_max_sharpe` is for.
    """

    sharpe: float | None
    expected_max_sharpe: float
    skew: float | None
    kurtosis: float | None
    probability: float | None
    n_steps: int
    n_trials: float


def overfitting_probability(n: NDArray[np.integer[Any]], hits: NDArray[np.integer[Any]]) -> Overfitting:
    """Return the probability of backtest overfitting of a search judged by hits.

    Parameters
    ----------
    n : (S, K) integer, >= 0
        Judged events (hits and misses) of every setting in each of K blocks of equal time. S >= 2, K even, 4 to 16.
        Blocks should be many horizons long: labels that reach over their ends tie the halves together.
    hits : (S, K) integer, 0 <= hits <= n

    Returns
    -------
    Overfitting
        The statistic is (2 hits - n) / sqrt(n) of the counts pooled over a half, 0 without events, as in
        `resampling.max_statistic_null`.

    Raises
    ------
    DataError
        Shapes differ or a value is out of range.

    Notes
    -----
    Bailey, Borwein, Lopez de Prado and Zhu, "The Probability of Backtest Overfitting" (J. Comput. Finance 2017), by
    combinatorially symmetric cross-validation. Ties outside get their mean rank. Settings that tie for the best inside
    (common with counts) share the split: the mean of their ranks and statistics counts, so that the order of settings
    is of no account. A search whose settings are all alike has logits of 0 and so a pbo of 1: nothing was selected.
    """
    if n.shape != hits.shape or n.ndim != 2:
        raise DataError(f"n, hits: expected one shape, settings by blocks, found {n.shape} and {hits.shape}")
    if not (np.issubdtype(n.dtype, np.integer) and np.issubdtype(hits.dtype, np.integer)):
        raise DataError(f"n, hits: expected whole numbers, found {n.dtype} and {hits.dtype}")
    _check_search(*n.shape)
    if np.any(hits < 0) or np.any(hits > n):
        raise DataError("n, hits: expected 0 <= hits <= n")

    def statistic(sums: F64) -> F64:
        events, edge = sums
        edge_per_sqrt: F64 = edge / np.sqrt(np.maximum(events, 1))
        return edge_per_sqrt

    return _over_splits(np.stack([n.T, 2 * hits.T - n.T]).astype(np.float64), statistic)


def cscv(performance: F64, n_blocks: int, statistic: Literal["mean", "sharpe"] = "sharpe") -> Overfitting:
    """Return the probability of backtest overfitting of a search judged by a series per setting.

    Parameters
    ----------
    performance : (T, S) float64, finite
        Gain of every setting at every step of time, in order. S >= 2, T >= 2 * n_blocks.
    n_blocks : int, even, 4 to 16
        Blocks of equal time; where T does not divide, the first ones are a step longer.
    statistic : "mean" or "sharpe"
        Of a half. Sharpe: mean over standard deviation (n - 1), 0 where the half is constant.

    Returns
    -------
    Overfitting

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    As `overfitting_probability`.
    """
    if performance.ndim != 2 or len(performance) < 2 * n_blocks:
        raise DataError(
            f"performance: expected steps by settings, at least {2 * n_blocks} steps, found shape {performance.shape}"
        )
    _check_search(performance.shape[1], n_blocks)
    if not np.isfinite(performance).all():
        raise DataError("performance: expected finite values")
    if statistic not in ("mean", "sharpe"):
        raise DataError(f"statistic: expected mean or sharpe, found {statistic!r}")
    blocks = np.array_split(performance, n_blocks)
    size = np.array([np.full(performance.shape[1], len(b)) for b in blocks], np.float64)
    total = np.array([b.sum(axis=0) for b in blocks])
    square = np.array([(b * b).sum(axis=0) for b in blocks])

    def mean(sums: F64) -> F64:
        ratio: F64 = sums[1] / sums[0]
        return ratio

    def sharpe(sums: F64) -> F64:
        steps, first, second = sums
        variance = (second - first * first / steps) / (steps - 1)
        varies = variance > ROUNDING * second / steps
        return np.where(varies, first / steps / np.sqrt(np.where(varies, variance, 1.0)), 0.0)

    return _over_splits(np.stack([size, total, square]), mean if statistic == "mean" else sharpe)


def deflated_sharpe(
    returns_best: F64, sharpe_of_trials: F64, *, n_effective: float | None = None, ddof: Literal[0, 1] = 1
) -> DeflatedSharpe:
    """Return the probability that the best trial's Sharpe ratio is more than the luck of the best of so many.

    Parameters
    ----------
    returns_best : (T,) float64, finite
        Gain of the chosen setting at every step of time: hits minus misses, or a return.
    sharpe_of_trials : (S,) float64, finite, S >= 1
        Ratio per step of *every* trial of the search, the chosen one among them. Their spread sets the bar.
    n_effective : float, in [1, S]
        Number of independent trials that the S amount to, see `effective_trials`. S where not given, which is the
        higher bar.
    ddof : 0 or 1
        Of the standard deviation in `sharpe`. The spread of the trials always has S - 1.

    Returns
    -------
    DeflatedSharpe

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Bailey and Lopez de Prado, "The Deflated Sharpe Ratio" (J. Portfolio Management 2014). It allows for skew and
    kurtosis but takes steps as independent: let a step be longer than the labels' horizon.
    """
    if returns_best.ndim != 1 or sharpe_of_trials.ndim != 1 or not len(sharpe_of_trials):
        raise DataError(
            "returns_best, sharpe_of_trials: expected one dimension and at least one trial, found shapes "
            f"{returns_best.shape} and {sharpe_of_trials.shape}"
        )
    if not (np.isfinite(returns_best).all() and np.isfinite(sharpe_of_trials).all()):
        raise DataError("returns_best, sharpe_of_trials: expected finite values")
    n_all = len(sharpe_of_trials)
    n_trials = float(n_all) if n_effective is None else float(n_effective)
    if not 1 <= n_trials <= n_all:
        raise DataError(f"n_effective: expected 1 to {n_all}, found {n_effective}")
    spread = float(sharpe_of_trials.std(ddof=1)) if n_all > 1 else 0.0
    bar = expected_max_sharpe(n_trials, spread)
    n = len(returns_best)
    # Bias-corrected kurtosis needs four values.
    if n < 4 or np.ptp(returns_best) == 0:
        return DeflatedSharpe(None, bar, None, None, None, n, n_trials)
    ratio = float(returns_best.mean() / returns_best.std(ddof=ddof))
    gamma3 = float(skew(returns_best, bias=False))
    gamma4 = float(kurtosis(returns_best, fisher=False, bias=False))
    variance = 1 - gamma3 * ratio + (gamma4 - 1) / 4 * ratio * ratio
    probability = float(norm.cdf((ratio - bar) * math.sqrt((n - 1) / variance))) if variance > 0 else None
    return DeflatedSharpe(ratio, bar, gamma3, gamma4, probability, n, n_trials)


def expected_max_sharpe(n_trials: float, spread: float) -> float:
    """Return the largest Sharpe ratio that so many trials without skill are expected to show.

    Parameters
    ----------
    n_trials : float, >= 1
        Independent trials; an effective number need not be whole.
    spread : float, >= 0
        Standard deviation of the ratio over trials, in the unit wanted.

    Returns
    -------
    float, >= 0
        0 for a single trial.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Bailey and Lopez de Prado (2014), eq. 1: an extreme-value approximation. It falls below 0 as the number nears 1
    (from 1.28 down), where we give 0.
    """
    if not (1 <= n_trials < math.inf and 0 <= spread < math.inf):
        raise DataError(f"n_trials, spread: expected at least 1 and at least 0, found {n_trials}, {spread}")
    if n_trials == 1:
        return 0.0
    near, far = (float(norm.isf(1 / (n_trials * scale))) for scale in (1.0, math.e))
    return max(0.0, spread * ((1 - np.euler_gamma) * near + np.euler_gamma * far))


def effective_trials(performance: F64) -> float:
    """Return how many independent trials a search of correlated ones amounts to.

    Parameters
    ----------
    performance : (T, S) float64, finite
        As `cscv`. Settings that never change are left out.

    Returns
    -------
    float, in [1, S]
        r + (1 - r) S with r the mean correlation between settings, taken as 0 where negative. 1 where at most one
        setting changes.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Bailey and Lopez de Prado (2014), appendix 3. The mean over all pairs comes from the variance of the sum, without
    the S x S matrix. A rough measure: groups of settings that are alike within and unlike between count as fewer.
    """
    if performance.ndim != 2 or not np.isfinite(performance).all():
        raise DataError(f"performance: expected finite values, steps by settings, found shape {performance.shape}")
    varying = performance[:, np.ptp(performance, axis=0) > 0] if len(performance) else performance[:, :0]
    n = varying.shape[1]
    if n < 2:
        return 1.0
    standard = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    of_sum = float(np.mean(standard.sum(axis=1) ** 2))
    mean_correlation = min(max((of_sum - n) / (n * (n - 1)), 0.0), 1.0)
    return float(mean_correlation + (1 - mean_correlation) * n)


def _check_search(n_settings: int, n_blocks: int) -> None:
    if n_settings < 2:
        raise DataError(f"settings: expected at least 2 to select from, found {n_settings}")
    if n_blocks % 2 or not MIN_BLOCKS <= n_blocks <= MAX_BLOCKS:
        raise DataError(f"blocks: expected an even number from {MIN_BLOCKS} to {MAX_BLOCKS}, found {n_blocks}")


def _over_splits(parts: F64, statistic: Callable[[F64], F64]) -> Overfitting:
    # parts: (sums of a block, blocks, settings). Settings with equal parts are worked out once: it saves time, and a
    # matrix product need not give equal columns equal results.
    n_parts, n_blocks, n_settings = parts.shape
    unique, copies = np.unique(parts.reshape(-1, n_settings), axis=1, return_counts=True)
    parts = unique.reshape(n_parts, n_blocks, -1)
    chosen = np.array([[b in c for b in range(n_blocks)] for c in combinations(range(n_blocks), n_blocks // 2)])
    n_splits = len(chosen)
    # In lexicographic order the complement of split i is split n - 1 - i: the first half of the splits gives both.
    found = np.empty((4, n_splits))
    step = max(1, CELLS_AT_ONCE // parts.shape[2])
    for first in range(0, n_splits // 2, step):
        at = np.arange(first, min(first + step, n_splits // 2))
        inside = chosen[at].astype(np.float64)
        one, other = statistic(inside @ parts), statistic((1 - inside) @ parts)
        found[:, at] = _winners(one, other, copies)
        found[:, n_splits - 1 - at] = _winners(other, one, copies)
    rank, gain_inside, gain_outside, loss = found
    share = rank / (n_settings + 1)
    logits = np.log(share / (1 - share))
    centred = gain_inside - gain_inside.mean()
    scatter = float(centred @ centred)
    return Overfitting(
        pbo=float(np.mean(logits <= 0)),
        n_splits=n_splits,
        n_settings=n_settings,
        logits=logits,
        median_oos=float(np.median(gain_outside)),
        prob_loss=float(loss.mean()),
        slope=float(centred @ gain_outside) / scatter if np.ptp(gain_inside) > 0 else None,
    )


def _winners(inside: F64, outside: F64, copies: I64) -> F64:
    """Rank outside, statistic inside and outside, and share below zero outside of each row's best inside: (4, rows)."""
    best = inside.max(axis=1)
    is_best = inside == best[:, None]
    gain = np.take_along_axis(outside, is_best.argmax(axis=1)[:, None], axis=1)
    weight = copies.astype(np.float64)
    rank = (outside < gain) @ weight + ((outside == gain) @ weight + 1) / 2
    found = np.stack([rank, best, gain[:, 0], (gain[:, 0] < 0).astype(np.float64)])
    for row in np.flatnonzero(np.count_nonzero(is_best, axis=1) > 1):
        tied = np.flatnonzero(is_best[row])
        order = np.argsort(outside[row])
        ladder = outside[row, order]
        below = np.concatenate([[0], np.cumsum(copies[order])])
        gains = outside[row, tied]
        ranks = (below[np.searchsorted(ladder, gains)] + below[np.searchsorted(ladder, gains, side="right")] + 1) / 2
        found[[0, 2, 3], row] = [np.average(v, weights=copies[tied]) for v in (ranks, gains, gains < 0)]
    return found
