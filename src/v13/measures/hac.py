"""Rank correlation whose p allows for overlapping returns and clustered events, without resampling.

It stands beside the circular-shift null (see `resampling`), which decides, and costs next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t
from statsmodels.regression.linear_model import OLS

from v13.errors import DataError
from v13.measures.accuracy import spearman
from v13.measures.arguments import refuse_other_length

__all__ = ["HacRank", "hac_rank_correlation"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

EVENTS_PER_LAG = 3  # fewer than three stretches of dependent events say nothing about their variance


@dataclass(frozen=True)
class HacRank:
    """A rank correlation with a standard error that allows for dependence.

    rho : float, in [-1, 1], Spearman's; None where it is not defined.
    se : float, >= 0, Newey-West standard error of rho; None where there are too few events for the lag.
    p : float, in [0, 1], one-sided, of rho > 0; None where se is.
    lag : int, >= 1, neighbours in time taken as dependent.
    """

    rho: float | None
    se: float | None
    p: float | None
    lag: int


def hac_rank_correlation(score: F64, signed_return: F64, ts_ms: I64, reach_ms: int) -> HacRank:
    """Correlate the ranks of score and return, with a p that holds when neighbouring events share their returns.

    Parameters
    ----------
    score : (n,) float64, no NaN
    signed_return : (n,) float64, no NaN
        Side times forward return; unlabelled events left out.
    ts_ms : (n,) int64
        When each event became known, UTC epoch milliseconds, in any order, symbols pooled.
    reach_ms : int, > 0
        How far a label looks ahead.

    Returns
    -------
    HacRank
        Without se and p where n <= 3 * lag or n < 4.

    Raises
    ------
    DataError
        Lengths differ, a value is NaN or out of range.

    Notes
    -----
    The slope of standardised rank on standardised rank is Spearman's rho. Its variance is Newey and West's
    (Econometrica 1987), by statsmodels: products of residual and regressor are summed with those of up to `lag` later
    events, Bartlett weights, small-sample factor n / (n - 2). The lag is the largest number of later events that any
    event has within its reach: no pair of overlapping labels is left out. It is counted in events, not in time, so it
    is generous where events are sparse.

    Departure: p comes from t with 1.5 n / (lag + 1) degrees of freedom (n - 2 at the most), what Bartlett's window
    leaves of n at frequency zero (Priestley, Spectral Analysis and Time Series, 1981), not from the normal. It is still
    bold: at a nominal 5 % with lasting scores it rejects noise in 6-8 % of 1,000 runs with n / lag over 40, 8 % at 23,
    9 % at 12 and 13 % at 6, where scipy's Spearman does in 18-32 % of 400.
    """
    refuse_other_length(score=score, signed_return=signed_return, ts_ms=ts_ms)
    if reach_ms <= 0:
        raise DataError(f"reach_ms: expected > 0, found {reach_ms}")
    rho = spearman(score, signed_return)
    n = len(score)
    order = np.argsort(ts_ms, kind="stable")
    ts = ts_ms[order]
    within = np.searchsorted(ts, ts + reach_ms, side="right") - np.arange(n) - 1
    lag = max(1, int(within.max(initial=0)))
    if math.isnan(rho):
        return HacRank(None, None, None, lag)
    if n <= max(EVENTS_PER_LAG * lag, 3):
        return HacRank(rho, None, None, lag)
    x, y = (_standard_rank(values[order]) for values in (score, signed_return))
    fit = OLS(y, np.column_stack([np.ones(n), x])).fit(
        cov_type="HAC", cov_kwds={"maxlags": lag, "use_correction": True}, use_t=True
    )
    se = float(fit.bse[1])
    # A perfect correlation leaves no residual and so no standard error.
    p = float(t.sf(rho / se, min(n - 2, 1.5 * n / (lag + 1)))) if se > 0 else float(rho < 0)
    return HacRank(rho, se, p, lag)


def _standard_rank(values: F64) -> F64:
    rank = rankdata(values)
    standard: F64 = (rank - rank.mean()) / rank.std()
    return standard
