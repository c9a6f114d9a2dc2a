"""Accuracy and rank correlation of events, and the textbook tests that take events for independent.

The p-values here are naive: overlapping returns and clustered events break them (see `resampling`). They are printed
beside the honest ones and decide nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm, rankdata, t

from v13.errors import DataError
from v13.measures.arguments import refuse_nan, refuse_other_length
from v13.measures.labels import HIT, MISS, TIE, UNLABELLED

__all__ = [
    "Accuracy",
    "accuracy",
    "binomial_p",
    "hierarchical",
    "holm",
    "spearman",
    "spearman_naive_p",
    "wilson_interval",
    "wilson_intervals",
]

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """Counts of outcomes; n_events is the sum of the other four. `accuracy` is hits / (hits + misses), or None."""

    n_events: int
    n_hits: int
    n_misses: int
    n_ties: int
    n_unlabelled: int
    accuracy: float | None

    @property
    def n_judged(self) -> int:
        """Events that count: hits and misses."""
        return self.n_hits + self.n_misses


def accuracy(hit: NDArray[np.integer[Any]]) -> Accuracy:
    """Count outcomes.

    Parameters
    ----------
    hit : (n,) integer
        As `labels.hits` returns: 1 hit, 0 miss, -1 tie, -2 unlabelled.

    Returns
    -------
    Accuracy
        Ties and unlabelled events are counted and left out of the share.

    Raises
    ------
    DataError
        A value is none of the four.
    """
    n_hits, n_misses, n_ties, n_unlabelled = (int(np.count_nonzero(hit == v)) for v in (HIT, MISS, TIE, UNLABELLED))
    n_judged = n_hits + n_misses
    if n_judged + n_ties + n_unlabelled != len(hit):
        raise DataError("hit: expected only 1, 0, -1 and -2, see labels.hits")
    return Accuracy(len(hit), n_hits, n_misses, n_ties, n_unlabelled, n_hits / n_judged if n_judged else None)


def wilson_interval(k: int, n: int, confidence: float = 0.95, sides: Literal[1, 2] = 2) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    Parameters
    ----------
    k, n : int, 0 <= k <= n
        Successes and trials.
    confidence : float, in (0, 1)
    sides : 1 or 2
        2: low and high together hold with `confidence`. 1: each of them alone does.

    Returns
    -------
    (low, high), in [0, 1]; (0, 1) when n == 0

    Raises
    ------
    DataError
        Counts or confidence are out of range.

    Notes
    -----
    Wilson, JASA 22 (1927); no continuity correction. It takes trials for independent.
    """
    _check_count(k, n)
    if not 0 < confidence < 1:
        raise DataError(f"confidence: expected inside (0, 1), found {confidence}")
    if n == 0:
        return 0.0, 1.0
    low, high = wilson_intervals(np.array(k), np.array(n), confidence, sides)
    return float(low), float(high)


def wilson_intervals(
    k: NDArray[np.int64], n: NDArray[np.int64], confidence: float = 0.95, sides: Literal[1, 2] = 2
) -> tuple[F64, F64]:
    """Return `wilson_interval` of many shares at once.

    Parameters
    ----------
    k, n : int64, one shape, 0 <= k <= n
        Successes and trials; not checked.
    confidence, sides
        As `wilson_interval`.

    Returns
    -------
    (low, high) : float64 in [0, 1], the shape of `k` and `n`
        NaN where n is 0, so that a figure leaves a gap there.
    """
    z = float(norm.isf((1 - confidence) / sides))
    size = np.maximum(n, 1)
    share = k / size
    centre = share + z * z / (2 * size)
    spread = z * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    scale = 1 + z * z / size
    # At k = 0 and k = n the bound is exactly 0 and 1; rounding may miss it by an ulp.
    low = np.where(k == 0, 0.0, (centre - spread) / scale)
    high = np.where(k == n, 1.0, (centre + spread) / scale)
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)


def binomial_p(k: int, n: int, p0: float = 0.5) -> float:
    """Return the one-sided exact binomial p: the chance of k or more successes at a share of `p0`.

    Parameters
    ----------
    k, n : int, 0 <= k <= n
    p0 : float, in (0, 1)

    Returns
    -------
    float, in (0, 1]; 1 when n == 0

    Raises
    ------
    DataError
        Counts or `p0` are out of range.
    """
    _check_count(k, n)
    if not 0 < p0 < 1:
        raise DataError(f"p0: expected inside (0, 1), found {p0}")
    return float(binom.sf(k - 1, n, p0))


def holm(p: F64) -> F64:
    """Return Holm's adjusted p-values of one family.

    Parameters
    ----------
    p : (m,) float64, in [0, 1]
        NaN where a member was not tested: it stays NaN and does not count towards the size of the family.

    Returns
    -------
    (m,) float64, in [0, 1]

    Raises
    ------
    DataError
        A value is outside [0, 1].

    Notes
    -----
    Holm, Scand. J. Statist. 6 (1979). Holds under any dependence. Leaving a member out is honest only when that was
    decided without looking at its outcome (here: by its number of events).
    """
    if np.any((p < 0) | (p > 1)):
        raise DataError("p: expected values in [0, 1] or NaN")
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps * p[order]), 1.0)
    return adjusted


def hierarchical(root: F64, leaves: F64) -> tuple[F64, F64]:
    """Return adjusted p-values of a family that forms a tree of two levels: all together, and its parts.

    Parameters
    ----------
    root : (H,) float64, in [0, 1]
        One test of the whole for each way of asking (here: horizon). NaN where not tested.
    leaves : (m, H) float64, in [0, 1]
        The same of its m parts.

    Returns
    -------
    (root, leaves) : float64, the shapes given
        Holm over the H of one node; a leaf's times m, and never below the smallest of the root. All NaN where the root
        was not tested.

    Raises
    ------
    DataError
        A value is outside [0, 1].

    Notes
    -----
    Meinshausen, "Hierarchical testing of variable importance" (Biometrika 95, 2008), with weights by number of leaves,
    fixed beforehand. Under any dependence the chance that a node without an edge at any horizon is rejected at one is
    at most the level, over the whole tree: the whole is tested at all of it, and its parts share it only once the whole
    has passed. Which horizon it is that works is held to the level within each node, not over the tree. So the whole
    pays nothing for being looked at in parts; an edge that lives in one part alone and drowns in the whole is not seen.
    """
    top = holm(root)
    tested = top[~np.isnan(top)]
    if not len(tested):
        return top, np.full(leaves.shape, np.nan)
    below = np.array([holm(leaf) for leaf in leaves]).reshape(leaves.shape)
    return top, np.maximum(np.minimum(below * len(leaves), 1.0), tested.min())


def spearman(x: F64, y: F64) -> float:
    """Return Spearman's rank correlation, ties by mean rank.

    Parameters
    ----------
    x, y : (n,) float64, no NaN

    Returns
    -------
    float, in [-1, 1]
        NaN where it is not defined: n < 3, or one of the two is constant.

    Raises
    ------
    DataError
        Lengths differ or a value is NaN.
    """
    refuse_other_length(x=x, y=y)
    refuse_nan(x=x, y=y)
    if len(x) < 3:
        return math.nan
    # Mean ranks are multiples of 1/2, so these sums are exact up to 100,000 events.
    a, b = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(y) + 1) / 2
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def spearman_naive_p(x: F64, y: F64) -> float | None:
    """Return the one-sided p of a positive rank correlation, as if the pairs were independent.

    Parameters
    ----------
    x, y : (n,) float64, no NaN

    Returns
    -------
    float, in [0, 1]
        From the t distribution with n - 2 degrees of freedom, as `scipy.stats.spearmanr(alternative="greater")`. None
        where the correlation is not defined.

    Raises
    ------
    DataError
        As `spearman`.

    Notes
    -----
    On noise with overlapping returns this rejects several times too often: never decide by it.
    """
    rho = spearman(x, y)
    if math.isnan(rho):
        return None
    if abs(rho) >= 1:
        return 0.0 if rho > 0 else 1.0
    free = len(x) - 2
    return float(t.sf(rho * math.sqrt(free / (1 - rho * rho)), free))


def _check_count(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise DataError(f"k, n: expected 0 <= k <= n, found {k}, {n}")
