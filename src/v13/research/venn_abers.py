"""Venn-Abers: how far the calibrated probability of a score hangs on the one event that is still to be seen.

The interval is one of the calibration (a multiprobability), not a confidence interval of a single event: whatever its
width, an event's outcome is 0 or 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from v13.errors import DataError

__all__ = ["venn_abers"]

F64 = NDArray[np.float64]


def venn_abers(score: F64, label: NDArray[np.integer[Any]], at: F64) -> tuple[F64, F64]:
    """Return the inductive Venn-Abers pair (p0, p1) of scores.

    Parameters
    ----------
    score : (n,) float64, n >= 1, no NaN
        Of the calibration events; the detector's score, which is not fitted to labels.
    label : (n,) integer, 0 or 1
    at : (m,) float64, no NaN
        Scores to evaluate, in any order.

    Returns
    -------
    (p0, p1) : two (m,) float64, in [0, 1], p0 <= p1
        p0: the isotonic fit to the events and one more, (at, 0), evaluated at `at`; p1: the same with (at, 1).
        Both rise with `at`. Where events are dense they lie close together; below the least score p0 is 0, above
        the largest p1 is 1.

    Raises
    ------
    DataError
        Lengths differ, n == 0, a value is NaN, or a label is not 0 or 1.

    Notes
    -----
    Vovk & Petej, "Venn-Abers predictors" (UAI 2014; arXiv:1211.0025), the inductive form: the
    scores come from elsewhere, so nothing is refitted but the isotonic step. Where events are exchangeable one of the
    two is a perfectly calibrated probability: that of the label the next event turns out to have. Forward returns
    overlap and the settings were chosen on the same events, so here this holds in approximation only; the holdout
    judges it. We fit twice a score instead of their O(n log n) tables: a map has at most 200 knots.
    """
    if not len(score) == len(label) >= 1:
        raise DataError(f"score and label: expected one length of at least 1, found {len(score)} and {len(label)}")
    if np.isnan(score).any() or np.isnan(at).any():
        raise DataError("score, at: expected no NaN")
    if not np.all((label == 0) | (label == 1)):
        i = int(np.argmin((label == 0) | (label == 1)))
        raise DataError(f"label: expected 0 or 1, event {i} has {label[i]}")
    # Equal scores share one value in any isotonic fit, so they are pooled once, before the many fits.
    distinct, group = np.unique(score, return_inverse=True)
    n_events = np.bincount(group).astype(np.float64)
    n_hits = np.bincount(group, weights=label)
    p0, p1 = np.empty(len(at)), np.empty(len(at))
    for j, s in enumerate(at):
        i = int(np.searchsorted(distinct, s))
        n, k = n_events.copy(), n_hits.copy()
        if i == len(distinct) or distinct[i] != s:
            n, k = np.insert(n, i, 0.0), np.insert(k, i, 0.0)
        n[i] += 1
        p0[j] = isotonic_regression(k / n, weights=n).x[i]
        k[i] += 1
        p1[j] = isotonic_regression(k / n, weights=n).x[i]
    return np.clip(p0, 0.0, 1.0), np.clip(p1, 0.0, 1.0)
