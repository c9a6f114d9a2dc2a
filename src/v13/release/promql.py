"""What PromQL makes of a counter's samples, reckoned again here: increase over a range, and quantiles off buckets.

It follows Prometheus to the last step, extrapolation included: a difference to its answer is then no matter of taste.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Increase", "bucket_of", "bucket_quantile", "increase"]

F64 = NDArray[np.float64]

THRESHOLD: Final = (
    1.1  # of the mean distance of samples: farther from an end, the series is held to begin or stop there
)


class Increase(NamedTuple):
    """How much a counter grew.

    raw : between its first and its last sample; after a reset it grew from 0.
    told : as `increase` tells it: extrapolated to the ends of the range.
    """

    raw: float
    told: float


def increase(ts_s: F64, values: F64, start_s: float, end_s: float, *, zero_last: bool = False) -> Increase:
    """Return the increase of a counter over a range.

    Parameters
    ----------
    ts_s : (n,) float64, Unix seconds, ascending
        Of the samples that lie in the range.
    values : (n,) float64, >= 0
    start_s, end_s : float, Unix seconds
        Ends of the range.
    zero_last : bool
        Prometheus 3: where a series begins late, the time at which it would have been 0 is looked at after the
        threshold, before that the other way round.

    Returns
    -------
    Increase
        0 with fewer than two samples, where PromQL gives nothing.

    Notes
    -----
    `extrapolatedRate` of Prometheus's promql/functions.go.
    """
    if values.size < 2:
        return Increase(0.0, 0.0)
    drops = np.diff(values) < 0
    raw = float(values[-1] - values[0] + values[:-1][drops].sum())
    sampled = float(ts_s[-1] - ts_s[0])
    mean = sampled / (values.size - 1)
    to_start, to_end = float(ts_s[0]) - start_s, end_s - float(ts_s[-1])
    to_zero = sampled * float(values[0]) / raw if raw > 0 else math.inf
    if zero_last:
        to_start = min(to_start if to_start < THRESHOLD * mean else mean / 2, to_zero)
    else:
        to_start = min(to_start, to_zero)
        to_start = to_start if to_start < THRESHOLD * mean else mean / 2
    to_end = to_end if to_end < THRESHOLD * mean else mean / 2
    return Increase(raw, raw * (sampled + to_start + to_end) / sampled)


def bucket_quantile(q: float, upper: Sequence[float], cumulative: F64) -> float:
    """Return a quantile read off cumulative buckets, as `histogram_quantile` does.

    Parameters
    ----------
    q : float, in (0, 1)
    upper : n upper bounds, ascending, the last one infinite
    cumulative : (n,) float64, >= 0
        Observations up to each bound; made monotonic, as extrapolation may have bent them.

    Returns
    -------
    float
        NaN without observations; the last finite bound where the quantile lies beyond it.
    """
    counts = np.maximum.accumulate(cumulative)
    if not counts[-1] > 0:
        return math.nan
    rank = q * float(counts[-1])
    i = min(int(np.searchsorted(counts, rank)), len(upper) - 1)
    if i == len(upper) - 1:
        return float(upper[-2])
    if i == 0 and upper[0] <= 0:
        return float(upper[0])
    low = upper[i - 1] if i else 0.0
    below = float(counts[i - 1]) if i else 0.0
    return float(low + (upper[i] - low) * (rank - below) / (float(counts[i]) - below))


def bucket_of(value: float, upper: Sequence[float]) -> tuple[float, float]:
    """Return the bucket a value lies in: above the first number, up to the second."""
    i = int(np.searchsorted(np.asarray(upper), value))
    return (float(upper[i - 1]) if i else -math.inf), float(upper[min(i, len(upper) - 1)])
