"""Recordings with their edge taken out: the tie between flow and the price to come is cut, the rest is kept.

Each surrogate keeps one thing a test of significance could be fooled by: the returns' own path, the flow's
clustering, or the flow's sizes. None of them touches the time stamps.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v13.detector.dtypes import BAR
from v13.errors import DataError

__all__ = ["block_shuffle", "flip_signs", "shift_returns"]

PRICES: Final = ("open", "high", "low", "close", "mid")
FLOWS: Final = ("volume", "delta", "ofi", "n_trades", "n_quotes", "lag_trade_ms", "lag_quote_ms")


def shift_returns(bars: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Return the bars with the price path's returns moved `k` bars later, around the end, against the flow.

    Parameters
    ----------
    bars : (n,) BAR
        The reference price (`mid`, or `close` where no bar has a mid) must be finite and positive throughout; trim a
        warm-up first.
    k : int, bars
        Any sign; taken modulo n - 1. A multiple of n - 1 gives the same prices within rounding.

    Returns
    -------
    (n,) BAR
        A copy. Open, high, low, close and mid keep their distance to the reference price of the bar they came from. An
        empty bar no longer repeats the close before it.

    Raises
    ------
    DataError
        Not bars, fewer than three, or a reference price is missing or not positive.
    """
    _check(bars, 3)
    reference = "close" if np.isnan(bars["mid"]).all() else "mid"
    if not (bars[reference] > 0).all():
        row = int(np.flatnonzero(~(bars[reference] > 0))[0])
        raise DataError(f"shift_returns: {reference} of bar {row} is {bars[reference][row]}; expected a positive price")
    out = bars.copy()
    log_ref = np.log(bars[reference])
    moved = log_ref[0] + np.concatenate(([0.0], np.cumsum(np.roll(np.diff(log_ref), k))))
    for name in PRICES:
        distance = np.log(bars[name]) - log_ref
        out[name] = np.exp(moved + np.concatenate((distance[:1], np.roll(distance[1:], k))))
    return out


def flip_signs(bars: np.ndarray[Any, Any], block: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the bars with `delta` and `ofi` turned round, together, in a random half of the blocks.

    Parameters
    ----------
    bars : (n,) BAR
    block : int, bars, >= 1
        Longer than the flow's memory keeps its clustering.
    rng : Generator

    Returns
    -------
    (n,) BAR
        A copy.

    Raises
    ------
    DataError
        Not bars, none at all, or `block` below 1.
    """
    _check(bars, 1, block)
    sign = np.repeat(rng.choice((-1.0, 1.0), -(-bars.size // block)), block)[: bars.size]
    out = bars.copy()
    out["delta"] *= sign
    out["ofi"] *= sign
    return out


def block_shuffle(bars: np.ndarray[Any, Any], block: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the bars with blocks of the flow columns in random order under the prices.

    Flow columns: volume, delta, ofi, the counts and the lags.

    Parameters
    ----------
    bars : (n,) BAR
    block : int, bars, >= 1
        The last block may be shorter and moves like the others.
    rng : Generator

    Returns
    -------
    (n,) BAR
        A copy. A bar's flow columns stay together.

    Raises
    ------
    DataError
        Not bars, none at all, or `block` below 1.
    """
    _check(bars, 1, block)
    blocks = np.array_split(np.arange(bars.size), range(block, bars.size, block))
    order = np.concatenate([blocks[j] for j in rng.permutation(len(blocks))])
    out = bars.copy()
    for name in FLOWS:
        out[name] = bars[name][order]
    return out


def _check(bars: np.ndarray[Any, Any], least: int, block: int = 1) -> None:
    if bars.dtype != BAR or bars.ndim != 1 or bars.size < least or block < 1:
        raise DataError(
            f"expected a vector of at least {least} BAR records and block >= 1; "
            f"found shape {bars.shape}, block {block}, dtype {bars.dtype}"
        )
