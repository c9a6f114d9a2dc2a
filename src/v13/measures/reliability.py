"""Reliability of calibrated probabilities, and what events of rising score went on to do.

Bins hold equal counts, by rank; tied values share a bin, so bins may differ in size and some may be empty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from v13.errors import DataError
from v13.measures.accuracy import wilson_interval
from v13.measures.arguments import refuse_nan, refuse_other_length

__all__ = ["brier", "brier_constant", "decile_table", "reliability_curve", "reliability_error"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Label = NDArray[np.integer[Any]]
Row = dict[str, float | None]


def brier(prob: F64, label: Label) -> float:
    """Return the Brier score: the mean of (prob - label)^2.

    Parameters
    ----------
    prob : (n,) float64, in [0, 1]
        NaN is refused, not skipped.
    label : (n,) integer, 0 or 1

    Returns
    -------
    float, in [0, 1]; smaller is better

    Raises
    ------
    DataError
        Lengths differ, n == 0, or a value is outside its range.
    """
    _check(prob, label, 1)
    return float(np.mean((prob - label) ** 2))


def brier_constant(label: Label, prior: float) -> float:
    """Return the Brier score of always saying `prior`: what a calibration has to beat.

    Parameters
    ----------
    label : (n,) integer, 0 or 1
    prior : float, in [0, 1]
        The share of hits known beforehand (of the fitting events), never that of `label` itself.

    Returns
    -------
    float, in [0, 1]

    Raises
    ------
    DataError
        n == 0, or a value is outside its range.
    """
    return brier(np.full(len(label), prior, np.float64), label)


def reliability_error(prob: F64, label: Label, n_bins: int = 10) -> float:
    """Return the expected calibration error over equal-count bins.

    Parameters
    ----------
    prob : (n,) float64, in [0, 1]
        Calibrated probabilities. NaN is refused, not skipped.
    label : (n,) integer, 0 or 1
        1 if the divergence resolved within the horizon.
    n_bins : int, >= 1
        Bins, by rank of `prob`; ties may leave some empty.

    Returns
    -------
    float, in [0, 1]
        Mean over bins of |mean prob - mean label|, weighted by bin count.

    Raises
    ------
    DataError
        Lengths differ, n == 0, or a value is outside its range.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), sec. 2.
    They bin by width; we bin by rank, as our scores crowd near 0.5. It is never negative, so it is above zero by chance
    alone: about 0.8 * sqrt(0.25 * n_bins / n) for a perfect calibration near 0.5.
    """
    _check(prob, label, n_bins)
    # Weighted by n/N, the mean of a bin's differences is their sum over N.
    return float(np.abs(np.bincount(_bins(prob, n_bins), weights=prob - label)).sum() / len(prob))


def reliability_curve(prob: F64, label: Label, n_bins: int = 10) -> list[Row]:
    """Return predicted against seen shares, bin by bin.

    Parameters
    ----------
    prob, label, n_bins
        As `reliability_error`.

    Returns
    -------
    list of dict, ascending in `mean_prob`, empty bins left out
        n, mean_prob, share (of label 1), share_low, share_high (Wilson, 95 %).

    Raises
    ------
    DataError
        As `reliability_error`.
    """
    _check(prob, label, n_bins)
    number = _bins(prob, n_bins)
    rows: list[Row] = []
    for b in np.unique(number):
        inside = number == b
        n, k = int(inside.sum()), int(label[inside].sum())
        low, high = wilson_interval(k, n)
        rows.append(
            {"n": n, "mean_prob": float(prob[inside].mean()), "share": k / n, "share_low": low, "share_high": high}
        )
    return rows


def decile_table(score: F64, signed_return: F64, hit: Label, n_bins: int = 10) -> list[Row]:
    """Return hit share and mean return by rising score.

    Parameters
    ----------
    score : (n,) float64, no NaN
    signed_return : (n,) float64, no NaN
        Log return in the direction of the event.
    hit : (n,) integer, 0 or 1
    n_bins : int, >= 1

    Returns
    -------
    list of dict, ascending in score, empty bins left out
        n, score_low, score_high, score_mean, hit_share, hit_low, hit_high (Wilson, 95 %), return_mean, return_low,
        return_high (Student's t, 95 %; None in a bin of one event).

    Raises
    ------
    DataError
        Lengths differ, n == 0, or a value is NaN or outside its range.

    Notes
    -----
    The intervals take the events of a bin for independent. Events of one bin are spread over the whole record and
    seldom overlap; where they do (many bars of events within a horizon) the bands are too narrow.
    """
    _check(np.zeros(len(hit)), hit, n_bins)
    refuse_other_length(score=score, signed_return=signed_return, hit=hit)
    refuse_nan(score=score, signed_return=signed_return)
    number = _bins(score, n_bins)
    rows: list[Row] = []
    for b in np.unique(number):
        inside = number == b
        n, k = int(inside.sum()), int(hit[inside].sum())
        hit_low, hit_high = wilson_interval(k, n)
        mean = float(signed_return[inside].mean())
        half = None
        if n > 1:
            half = float(t.isf(0.025, n - 1) * signed_return[inside].std(ddof=1)) / math.sqrt(n)
        rows.append(
            {
                "n": n,
                "score_low": float(score[inside].min()),
                "score_high": float(score[inside].max()),
                "score_mean": float(score[inside].mean()),
                "hit_share": k / n,
                "hit_low": hit_low,
                "hit_high": hit_high,
                "return_mean": mean,
                "return_low": None if half is None else mean - half,
                "return_high": None if half is None else mean + half,
            }
        )
    return rows


def _bins(value: F64, n_bins: int) -> I64:
    """Return bin numbers by mean rank r of n: floor((r - 1/2) * n_bins / n), in whole numbers as 2r is one."""
    twice = (2 * rankdata(value)).astype(np.int64)
    number: I64 = (twice - 1) * n_bins // (2 * len(value))
    return number


def _check(prob: F64, label: Label, n_bins: int) -> None:
    refuse_other_length(prob=prob, label=label)
    if len(label) == 0:
        raise DataError("prob and label: expected at least one event, found none")
    if not np.all((prob >= 0) & (prob <= 1)):  # false for NaN as well
        i = int(np.argmin((prob >= 0) & (prob <= 1)))
        raise DataError(f"prob: expected values in [0, 1], event {i} has {prob[i]}")
    if not np.all((label == 0) | (label == 1)):
        i = int(np.argmin((label == 0) | (label == 1)))
        raise DataError(f"label: expected 0 or 1, event {i} has {label[i]}")
    if n_bins < 1:
        raise DataError(f"n_bins: expected at least 1, found {n_bins}")
