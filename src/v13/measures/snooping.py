"""Tests of a whole search against doing nothing: Hansen's superior predictive ability, Romano and Wolf's stepwise set.

They stand beside the maximum statistic over circular shifts (see `resampling`), which decides. They look at losses step
by step in time, never at the winner alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from arch.bootstrap import SPA, StepM
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from v13.errors import DataError

__all__ = ["SuperiorAbility", "step_m", "superior_ability"]

F64 = NDArray[np.float64]

MIN_BLOCKS = 50  # noise passes at a nominal 5 % in 8-14 % of runs with 50 blocks, in 13-23 % with 20 (see Notes)
COLUMNS_AT_ONCE = 64  # bounds the memory of the transforms: 64 settings x 100,000 steps need under 0.4 GB
ROUNDING = 1e-12  # a long-run variance below this share of the plain one is rounding, not variance
SENTINEL_LOSS = 2.0**40  # in standard errors; a power of two, so that its means are exact


@dataclass(frozen=True)
class SuperiorAbility:
    """Does any setting of a search beat a loss of zero?

    p_lower, p_consistent, p_upper : float, in (0, 1], Hansen's three p-values; the consistent one is his. None where
        there is none, and `reason` says why.
    n_steps, n_settings : int, the shape of the losses.
    n_constant : int, settings whose loss never changes (those without events): they cannot be judged and take no part.
    block, n_bootstrap : int, as given.
    reason : str, empty where there are p-values.
    """

    p_lower: float | None
    p_consistent: float | None
    p_upper: float | None
    n_steps: int
    n_settings: int
    n_constant: int
    block: int
    n_bootstrap: int
    reason: str


def superior_ability(losses: F64, *, block: int, n_bootstrap: int, seed: int) -> SuperiorAbility:
    """Test whether the best of many settings beats no forecast at all, for the search that found it.

    Parameters
    ----------
    losses : (T, S) float64, finite
        Loss of every setting at every step of time, in order: misses minus hits, or minus the return. The benchmark's
        is 0, and so is that of a setting without an event at that step.
    block : int, >= 1
        Mean length of the bootstrap's blocks, in steps: at least the horizon of the labels, better twice that, or their
        overlap is lost. Best are steps several horizons long, so that little overlap is left.
    n_bootstrap : int, >= 1
    seed : int, >= 0

    Returns
    -------
    SuperiorAbility
        Without p-values where T is less than 50 blocks or no loss ever changes.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Hansen, "A Test for Superior Predictive Ability" (J. Bus. Econ. Statist. 2005), by `arch.bootstrap.SPA` with the
    stationary bootstrap. Two departures from arch. Its statistic is the plain mean, whatever its `studentize` says (the
    variances only choose which settings are re-centred), so that the busiest setting drowns the others: we divide each
    setting's losses by the square root of their long-run variance first, which makes it Hansen's. And p counts the
    observed statistic among the resampled, (1 + reached) / (1 + n_bootstrap): it is never 0.

    The test is asymptotic and errs on the bold side in short records: at a nominal 5 %, ten settings without skill
    passed in 14-15 % of 300 runs with 20 blocks, 8-10 % with 50, 6 % with 100 and 5-6 % with 200 where steps do not
    overlap; where each label reaches over five steps in 13-23, 12-14, 9-10 and 10 %. Time grows with n_bootstrap T S
    and with T T S: seconds for 1,000 steps of 1,000 settings.
    """
    scaled, varies = _prepared(losses, block, n_bootstrap)
    n_steps, n_settings = losses.shape
    n_constant = n_settings - int(np.count_nonzero(varies))
    reason = _why_not(n_steps, block, n_settings - n_constant)
    if reason:
        return SuperiorAbility(None, None, None, n_steps, n_settings, n_constant, block, n_bootstrap, reason)
    spa = SPA(np.zeros(n_steps), scaled, block_size=block, reps=n_bootstrap, bootstrap="stationary", seed=seed)
    spa.compute()
    lower, consistent, upper = (
        (1 + round(float(spa.pvalues[name]) * n_bootstrap)) / (1 + n_bootstrap)
        for name in ("lower", "consistent", "upper")
    )
    return SuperiorAbility(lower, consistent, upper, n_steps, n_settings, n_constant, block, n_bootstrap, "")


def step_m(losses: F64, *, size: float, block: int, n_bootstrap: int, seed: int) -> tuple[int, ...]:
    """Name the settings that beat no forecast, with the chance of naming even one wrongly held.

    Parameters
    ----------
    losses, block, n_bootstrap, seed
        As `superior_ability`.
    size : float, in (0, 1)
        Chance of one or more false names in the whole family.

    Returns
    -------
    tuple of int, ascending
        Columns of `losses`. Empty where none is found and where `superior_ability` has no p-values.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Romano and Wolf, "Stepwise Multiple Testing as Formalized Data Snooping" (Econometrica 2005), by
    `arch.bootstrap.StepM`, studentised as in `superior_ability`. A setting that always loses is put beside the others:
    it changes no critical value, and arch 8.0 fails once every setting is named in more than one step (its issue 862).
    """
    if not 0 < size < 1:
        raise DataError(f"size: expected inside (0, 1), found {size}")
    scaled, varies = _prepared(losses, block, n_bootstrap)
    if _why_not(len(losses), block, scaled.shape[1]):
        return ()
    n_steps = len(losses)
    guarded = np.column_stack([scaled, np.full(n_steps, SENTINEL_LOSS)])
    steps = StepM(
        np.zeros(n_steps), guarded, size=size, block_size=block, reps=n_bootstrap, bootstrap="stationary", seed=seed
    )
    steps.compute()
    named = np.flatnonzero(varies)[np.asarray(steps.superior_models, np.intp)]
    return tuple(int(i) for i in named)


def _prepared(losses: F64, block: int, n_bootstrap: int) -> tuple[F64, NDArray[np.bool_]]:
    if losses.ndim != 2 or 0 in losses.shape:
        raise DataError(f"losses: expected steps by settings, at least one of each, found shape {losses.shape}")
    if not np.isfinite(losses).all():
        raise DataError("losses: expected finite values; a setting without an event at a step has loss 0 there")
    if block < 1 or n_bootstrap < 1:
        raise DataError(f"block, n_bootstrap: expected at least 1, found {block}, {n_bootstrap}")
    variance = np.concatenate(
        [
            _long_run_variance(losses[:, first : first + COLUMNS_AT_ONCE], block)
            for first in range(0, losses.shape[1], COLUMNS_AT_ONCE)
        ]
    )
    varies = variance > ROUNDING * losses.var(axis=0)
    varies &= np.ptp(losses, axis=0) > 0
    # One step of noise then has a mean with standard error 1 / sqrt(T), whatever the setting.
    return losses[:, varies] / np.sqrt(variance[varies]), varies


def _why_not(n_steps: int, block: int, n_varying: int) -> str:
    if n_steps < MIN_BLOCKS * block:
        return f"{n_steps} steps are less than {MIN_BLOCKS} blocks of {block}"
    return "" if n_varying else "no setting's loss ever changes"


def _long_run_variance(losses: F64, block: int) -> F64:
    """Variance of sqrt(T) times the mean under the stationary bootstrap: Politis and Romano (JASA 1994), lemma 1."""
    n = len(losses)
    size = next_fast_len(2 * n, real=True)
    spectrum = np.abs(rfft(losses - losses.mean(axis=0), size, axis=0)) ** 2
    covariance: F64 = irfft(spectrum, size, axis=0)[:n] / n
    lag = np.arange(1, n)
    stay = 1 - 1 / block
    kernel = (1 - lag / n) * stay**lag + lag / n * stay ** (n - lag)
    variance: F64 = covariance[0] + 2 * kernel @ covariance[1:]
    return variance
