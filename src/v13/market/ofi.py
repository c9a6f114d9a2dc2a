"""Order-flow imbalance of a whole tape at once: the formula as published, on arrays.

Bars do not come from here: `v13.market.bar_kernel` sums the same terms one by one, so that a live feed can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from v13.errors import DataError

__all__ = ["LEVEL_WEIGHTS", "multilevel_ofi", "ofi_terms"]

LEVEL_WEIGHTS = (0.40, 0.25, 0.20, 0.10, 0.05)  # SPEC 3: best level first


def ofi_terms(bid: ArrayLike, bid_qty: ArrayLike, ask: ArrayLike, ask_qty: ArrayLike) -> NDArray[np.float64]:
    """Return the order-flow imbalance each quote adds to the one before it.

    `e = 1{Pb >= Pb'} qb - 1{Pb <= Pb'} qb' - 1{Pa <= Pa'} qa + 1{Pa >= Pa'} qa'`, where a prime marks the quote before.

    Parameters
    ----------
    bid, bid_qty, ask, ask_qty : (n,) or (n, K) float64
        Prices (quote currency) and sizes (base currency, >= 0); a column is one level of the book. NaN gives NaN.

    Returns
    -------
    (n,) or (n, K) float64, base currency
        Positive where demand grew. The first quote has no predecessor and adds 0.

    Raises
    ------
    DataError
        The shapes differ.

    Notes
    -----
    Cont, Kukanov & Stoikov, "The Price Impact of Order Book Events" (J. Financial Econometrics 12, 2014), eq. 2.
    """
    pb, qb, pa, qa = (np.asarray(x, dtype=np.float64) for x in (bid, bid_qty, ask, ask_qty))
    if not pb.shape == qb.shape == pa.shape == qa.shape or pb.ndim not in (1, 2):
        raise DataError(
            f"quotes: expected four arrays of one shape, found {pb.shape}, {qb.shape}, {pa.shape}, {qa.shape}"
        )
    terms = np.zeros_like(pb)
    demand = np.where(pb[1:] >= pb[:-1], qb[1:], 0.0) - np.where(pb[1:] <= pb[:-1], qb[:-1], 0.0)
    supply = np.where(pa[1:] <= pa[:-1], qa[1:], 0.0) - np.where(pa[1:] >= pa[:-1], qa[:-1], 0.0)
    terms[1:] = demand - supply
    unknown = np.isnan(pb) | np.isnan(pa)  # a comparison with NaN is false and would read as "no change"
    terms[1:][unknown[1:] | unknown[:-1]] = np.nan
    return terms


def multilevel_ofi(
    bid: ArrayLike,
    bid_qty: ArrayLike,
    ask: ArrayLike,
    ask_qty: ArrayLike,
    weights: Sequence[float] = LEVEL_WEIGHTS,
) -> NDArray[np.float64]:
    """Return the order-flow imbalance of several book levels, weighted.

    Parameters
    ----------
    bid, bid_qty, ask, ask_qty : (n, K) float64
        As in `ofi_terms`, best level first.
    weights : K floats
        Weight of each level.

    Returns
    -------
    (n,) float64, base currency
        Sum over levels of weight times `ofi_terms`.

    Raises
    ------
    DataError
        The arrays are not (n, K) with K weights.
    """
    terms = ofi_terms(bid, bid_qty, ask, ask_qty)
    if terms.ndim != 2 or terms.shape[1] != len(weights):
        raise DataError(f"depth: expected (n, {len(weights)}) arrays for {len(weights)} weights, found {terms.shape}")
    total: NDArray[np.float64] = terms @ np.asarray(weights, dtype=np.float64)
    return total
