"""One horizon of the holdout: accuracy, rank correlation, mean return and calibration, each with what it is worth.

Nothing here judges; the criteria are put together in `acceptance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from v13 import measures
from v13.config import Config
from v13.detector import CalibrationMap
from v13.measures.hac import hac_rank_correlation
from v13.research.calibration import Quality, quality
from v13.research.trials import Outcomes

__all__ = ["HorizonRow", "horizon_row"]


@dataclass(frozen=True)
class HorizonRow:
    """What the holdout says at one horizon; p and rho_p are those of the circular shifts, which decide."""

    horizon_bars: int
    accuracy: measures.Accuracy
    accuracy_interval: tuple[float, float] | None
    p: float | None
    p_naive: float | None
    rho: float | None
    rho_interval: tuple[float, float] | None
    rho_p: float | None
    rho_p_naive: float | None
    rho_p_hac: float | None
    mean_return: float | None
    mean_return_interval: tuple[float, float] | None
    n_shifts: int
    deciles: tuple[dict[str, Any], ...]
    calibration: Quality
    null_accuracy: tuple[float, ...]
    null_rho: tuple[float, ...]


def horizon_row(
    outcomes: Outcomes,
    h: int,
    calibration: CalibrationMap,
    priors: Mapping[int, float],
    config: Config,
    *,
    min_shift: int,
    n_shifts: int,
    block_ms: int,
    bar_ms: int,
    seed: int,
) -> HorizonRow:
    """Measure the h-th horizon of the holdout.

    Parameters
    ----------
    outcomes : Outcomes
    h : int
        Index into `outcomes.horizons`.
    calibration, priors
        As `acceptance.accept`.
    min_shift, n_shifts, seed
        As `measures.circular_shift_null`.
    block_ms : int, > 0
        Of the bootstraps.
    bar_ms : int, > 0

    Returns
    -------
    HorizonRow
        None for whatever the events are too few for.
    """
    gate = config.acceptance
    horizon = outcomes.horizons[h]
    hit = outcomes.hits[:, h]
    accuracy = measures.accuracy(hit)
    judged = hit >= 0
    labelled = ~np.isnan(outcomes.returns[:, h])
    signed = outcomes.signed_returns(h)
    ts = outcomes.events["ts_ms"]
    score = outcomes.events["score"]
    nulls = measures.circular_shift_null(
        outcomes.panels[h], min_shift=min_shift, n_shifts=n_shifts, seed=seed, cost_bps=config.search.cost_bps
    )
    drawn = {"n_bootstrap": gate.n_bootstrap, "seed": seed}
    is_hit = (hit[judged] == measures.HIT).astype(np.float64)
    score_in, signed_in = score[labelled], signed[labelled]
    n_in = int(labelled.sum())
    deciles: tuple[dict[str, Any], ...] = ()
    if judged.sum() >= config.calibration.n_bins:
        deciles = tuple(
            map(
                dict,
                measures.decile_table(
                    score[judged], signed[judged], is_hit.astype(np.int64), config.calibration.n_bins
                ),
            )
        )
    if horizon in calibration.curves and judged.any():
        held_out = quality(
            calibration.prob(score[judged], horizon),
            is_hit.astype(np.int64),
            priors[horizon],
            ts[judged],
            n_bins=config.calibration.n_bins,
            block_ms=block_ms,
            n_bootstrap=gate.n_bootstrap,
            seed=seed,
        )
    else:
        held_out = Quality(int(judged.sum()), None, None, None, None, ())
    return HorizonRow(
        horizon,
        accuracy,
        _ends(measures.bootstrap_mean(is_hit, ts[judged], block_ms, **drawn)),
        nulls.accuracy.p,
        measures.binomial_p(accuracy.n_hits, accuracy.n_judged) if judged.any() else None,
        nulls.spearman.observed,
        _ends(measures.bootstrap_spearman(score_in, signed_in, ts[labelled], block_ms, **drawn)),
        nulls.spearman.p,
        measures.spearman_naive_p(score_in, signed_in) if n_in >= 3 else None,
        hac_rank_correlation(score_in, signed_in, ts[labelled], horizon * bar_ms).p,
        float(signed_in.mean()) if n_in else None,
        _ends(measures.bootstrap_mean(signed_in, ts[labelled], block_ms, **drawn)),
        nulls.n_shifts,
        deciles,
        held_out,
        tuple(nulls.accuracy.null.tolist()),
        tuple(nulls.spearman.null.tolist()),
    )


def _ends(found: measures.Interval) -> tuple[float, float] | None:
    return (found.low, found.high) if math.isfinite(found.low) and math.isfinite(found.high) else None
