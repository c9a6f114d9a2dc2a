"""Power: how many independent events it takes to see an edge, and what edge a number of events can show.

Exact binomial throughout. Real events cluster and their returns overlap, so a real record needs at least these numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from v13.errors import DataError

__all__ = [
    "events_needed",
    "events_needed_for_gate",
    "events_needed_for_rho",
    "gate_power",
    "minimum_detectable_accuracy",
]

MAX_EVENTS = 10_000_000  # beyond this no record will ever be long enough to tell; the answer is None


def gate_power(
    n: int | NDArray[np.int64], true_accuracy: float, threshold: float = 0.0, alpha: float = 0.05, null: float = 0.5
) -> NDArray[np.float64]:
    """Return the chance that n independent events pass: share >= threshold and one-sided binomial p < alpha.

    Parameters
    ----------
    n : int, or (m,) int64, >= 1
        Judged events (hits and misses).
    true_accuracy : float, in (0, 1)
    threshold : float, in [0, 1)
        The least share; 0 asks for significance alone.
    alpha, null : float, in (0, 1)

    Returns
    -------
    float64, in [0, 1], the shape of `n`

    Raises
    ------
    DataError
        A value is out of range.
    """
    if not (0 < true_accuracy < 1 and 0 <= threshold < 1 and 0 < alpha < 1 and 0 < null < 1):
        raise DataError(
            "power: expected true_accuracy, alpha and null inside (0, 1) and threshold in [0, 1), found "
            f"{true_accuracy}, {alpha}, {null}, {threshold}"
        )
    size = np.asarray(n, np.int64)
    if np.any(size < 1):
        raise DataError("power: expected at least one event")
    # The smallest count with P(K >= count) < alpha; isf gives the smallest with P(K > count) <= alpha.
    count = binom.isf(alpha, size, null) + 1
    count = np.where(binom.sf(count - 1, size, null) >= alpha, count + 1, count)
    # Rounding of threshold * n must not ask for one hit too many: 0.55 * 100 is 55.000000000000007.
    count = np.maximum(count, np.ceil(threshold * size - 1e-9))
    return np.asarray(binom.sf(count - 1, size, true_accuracy), np.float64)


@lru_cache(maxsize=4096)
def events_needed_for_gate(
    true_accuracy: float, threshold: float = 0.55, alpha: float = 0.05, power: float = 0.8, null: float = 0.5
) -> int | None:
    """Return the number of events at which a true accuracy passes "share >= threshold and p < alpha" often enough.

    Parameters
    ----------
    true_accuracy, threshold, alpha, null
        As `gate_power`.
    power : float, in (0, 1)

    Returns
    -------
    int
        The first n whose power reaches `power`. The exact power is a saw in n, so a few larger n fall just short again
        (by at most 0.02; at 57.5 % the first is 281 and the last to fall short 311). The guide's thresholds give 281
        events at a true 57.5 % and 158 at 60 %.
    None
        No number of events is enough (true_accuracy <= threshold or <= null), or more than 10 million are.

    Raises
    ------
    DataError
        A value is out of range.
    """
    if not 0 < power < 1:
        raise DataError(f"power: expected inside (0, 1), found {power}")
    gate_power(1, true_accuracy, threshold, alpha, null)  # refuses bad values before the short way out
    if true_accuracy <= max(threshold, null):
        return None
    spread, spread_null = math.sqrt(true_accuracy * (1 - true_accuracy)), math.sqrt(null * (1 - null))
    z_alpha, z_power = float(norm.isf(alpha)), float(norm.ppf(power))
    guess = max(
        ((z_alpha * spread_null + z_power * spread) / (true_accuracy - null)) ** 2,
        (z_power * spread / (true_accuracy - threshold)) ** 2,
    )
    if guess > MAX_EVENTS:
        return None
    # A tooth of the saw moves the first n by some 2 sqrt(n) from the normal approximation.
    first = max(1, int(guess - 10 * math.sqrt(guess)) - 50)
    last = first + 256
    while True:
        size = np.arange(first, last)
        enough = gate_power(size, true_accuracy, threshold, alpha, null) >= power
        if enough.any():
            return int(size[np.argmax(enough)])
        first, last = last, last + 2 * len(size)


def events_needed(
    true_accuracy: float = 0.55, null: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Return the number of events at which a one-sided exact binomial test sees `true_accuracy` often enough.

    Parameters
    ----------
    true_accuracy, null, alpha, power
        As `events_needed_for_gate`, without a threshold on the share: 620 events for 55 %.

    Returns
    -------
    int or None
        As `events_needed_for_gate`.

    Raises
    ------
    DataError
        A value is out of range.
    """
    return events_needed_for_gate(true_accuracy, 0.0, alpha, power, null)


def minimum_detectable_accuracy(
    n: int, null: float = 0.5, alpha: float = 0.05, power: float = 0.8, threshold: float = 0.0
) -> float | None:
    """Return the least true accuracy that n independent events pass with the given power.

    Parameters
    ----------
    n : int, >= 0
    null, alpha, threshold
        As `gate_power`; with threshold 0 the test is significance alone.
    power : float, in (0, 1)

    Returns
    -------
    float, in (0, 1), to 1e-6
    None
        Not even n hits out of n would be significant, or n == 0.

    Raises
    ------
    DataError
        A value is out of range.
    """
    if n < 0 or not 0 < power < 1:
        raise DataError(f"n, power: expected n >= 0 and power inside (0, 1), found {n}, {power}")
    low, high = 1e-9, 1 - 1e-9
    if n == 0 or gate_power(n, high, threshold, alpha, null) < power:
        return None
    # Power rises with the true accuracy, so halving finds it.
    while high - low > 1e-7:
        middle = (low + high) / 2
        if gate_power(n, middle, threshold, alpha, null) >= power:
            high = middle
        else:
            low = middle
    return high


def events_needed_for_rho(true_rho: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Return the number of events at which a one-sided test sees a rank correlation often enough.

    Parameters
    ----------
    true_rho : float, in (-1, 1)
    alpha, power : float, in (0, 1)

    Returns
    -------
    int or None
        None where `true_rho` is not positive.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Fisher's transformation with the variance 1.06 / (n - 3) of Fieller, Hartley & Pearson, Biometrika 44 (1957), good
    for |rho| < 0.8.
    """
    if not (-1 < true_rho < 1 and 0 < alpha < 1 and 0 < power < 1):
        raise DataError(
            f"true_rho, alpha, power: expected inside (-1, 1), (0, 1), (0, 1), found {true_rho}, {alpha}, {power}"
        )
    if true_rho <= 0:
        return None
    z = float(norm.isf(alpha) + norm.ppf(power))
    return math.ceil(3 + 1.06 * (max(z, 0.0) / math.atanh(true_rho)) ** 2)
