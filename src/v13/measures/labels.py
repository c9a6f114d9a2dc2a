"""Labels: what the price did after a bar, and whether that was what an event said.

Nothing here knows of events' scores or of thresholds; a label depends on prices, times and the side alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError
from v13.measures.arguments import refuse_other_length

__all__ = ["HIT", "MISS", "TIE", "UNLABELLED", "forward_returns", "hits", "returns_at", "segments"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

HIT: Final = 1
MISS: Final = 0
TIE: Final = -1
UNLABELLED: Final = -2

GAP_STEPS = 1.5  # docs/DETECTOR.md section 1: a step longer than this many bars is a gap


def segments(ts_ms: I64, bar_ms: int) -> I64:
    """Number the gap-free runs of bars.

    Parameters
    ----------
    ts_ms : (n,) int64
        Close times of bars, UTC epoch milliseconds, strictly ascending.
    bar_ms : int, > 0
        Length of a bar, milliseconds.

    Returns
    -------
    (n,) int64
        0 for the first run; one more after each step longer than 1.5 bars.

    Raises
    ------
    DataError
        `bar_ms` is not positive, or the times do not ascend strictly.
    """
    if bar_ms <= 0:
        raise DataError(f"bar_ms: expected > 0, found {bar_ms}")
    step = np.diff(ts_ms)
    if np.any(step <= 0):
        i = int(np.argmax(step <= 0)) + 1
        raise DataError(f"ts_ms: expected strictly ascending bar times, row {i} steps by {int(step[i - 1])} ms")
    number = np.zeros(len(ts_ms), np.int64)
    np.cumsum(step > GAP_STEPS * bar_ms, out=number[1:])
    return number


def forward_returns(px: F64, segment: NDArray[np.integer[Any]], horizon: int) -> F64:
    """Return the log return from each bar to the bar `horizon` later.

    Parameters
    ----------
    px : (n,) float64, > 0
        Price at the bar's close, quote currency; NaN where there is none.
    segment : (n,) integer
        Numbers of gap-free runs, see `segments`. A return never reaches across a gap.
    horizon : int, >= 1
        Bars.

    Returns
    -------
    (n,) float64
        log(px[i + horizon] / px[i]); NaN where i + horizon is past the end or in another run, or a price is NaN.

    Raises
    ------
    DataError
        Lengths differ, `horizon` < 1, or a price is zero, negative or infinite.
    """
    refuse_other_length(px=px, segment=segment)
    if horizon < 1:
        raise DataError(f"horizon: expected at least 1 bar, found {horizon}")
    bad = ~(np.isnan(px) | ((px > 0) & np.isfinite(px)))
    if bad.any():
        i = int(np.argmax(bad))
        raise DataError(f"px: expected positive and finite prices (or NaN), row {i} is {px[i]}")
    ret = np.full(len(px), np.nan)
    if horizon < len(px):
        # One division before the log: equal prices give exactly 0, which is what a tie is.
        reached = np.log(px[horizon:] / px[:-horizon])
        ret[:-horizon] = np.where(segment[horizon:] == segment[:-horizon], reached, np.nan)
    return ret


def returns_at(px: F64, segment: NDArray[np.integer[Any]], index: I64, horizon: int) -> F64:
    """Return `forward_returns` of some bars only: (k,) float64 at the (k,) places `index`; prices are not checked."""
    later = index + horizon
    inside = later < len(px)
    later = np.where(inside, later, index)
    reached = np.log(px[later] / px[index])
    return np.where(inside & (segment[later] == segment[index]), reached, np.nan)


def hits(ret: F64, side: NDArray[np.integer[Any]], cost_bps: float = 0.0) -> I8:
    """Say for each event whether the move after it went its way.

    Parameters
    ----------
    ret : (n,) float64
        Forward log returns; NaN where there is no label.
    side : (n,) integer, +1 or -1
    cost_bps : float, >= 0
        What the move must earn, basis points (1e-4 of log return).

    Returns
    -------
    (n,) int8
        By net = side * ret - 1e-4 * cost_bps: 1 hit (net > 0), 0 miss (net < 0), -1 tie (net is exactly 0), -2
        unlabelled (NaN). So without a cost a zero return is a tie; with a cost a zero return has lost it, a miss.

    Raises
    ------
    DataError
        Lengths differ, a side is neither +1 nor -1, or the cost is negative or not finite.
    """
    refuse_other_length(ret=ret, side=side)
    if not (np.isfinite(cost_bps) and cost_bps >= 0):
        raise DataError(f"cost_bps: expected a finite number >= 0, found {cost_bps}")
    if np.any(np.abs(side) != 1):
        i = int(np.argmax(np.abs(side) != 1))
        raise DataError(f"side: expected +1 or -1, event {i} has {side[i]}; conflict hints have no direction to judge")
    net = side * ret - 1e-4 * cost_bps
    label = np.full(len(ret), UNLABELLED, np.int8)
    label[net > 0] = HIT
    label[net < 0] = MISS
    label[net == 0] = TIE
    return label
