"""The pipeline without files: calibrate a choice, judge it, and the whole way from bars to a verdict in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from v13 import measures
from v13.detector import CalibrationMap, DetectorParams
from v13.research.acceptance import HoldoutResult, accept, min_shift_bars
from v13.research.calibration import HorizonFit, fit_horizon, map_document
from v13.research.run import Run
from v13.research.sealing import look_document
from v13.research.search import search
from v13.research.trials import Outcomes, evaluate, find_events
from v13.store import Look

__all__ = ["CalibrationResult", "Monotonicity", "calibrate", "judge_holdout", "whole_way"]


@dataclass(frozen=True)
class Monotonicity:
    """Rank correlation of score and signed return on the search part, honest p and naive p side by side."""

    horizon_bars: int
    n: int
    rho: float | None
    p: float | None
    p_naive: float | None


@dataclass(frozen=True)
class CalibrationResult:
    """What calibration found on the search part."""

    params: DetectorParams
    outcomes: Outcomes
    fits: list[HorizonFit]
    monotonicity: list[Monotonicity]
    document: dict[str, Any]


def calibrate(run: Run, params: DetectorParams) -> CalibrationResult:
    """Fit the calibration of `params` on the search part."""
    config = run.config
    parts = run.search_parts()
    found = [find_events(params, run.sessions, part) for part in parts]
    horizons = tuple(config.search.horizons_bars)
    outcomes = evaluate([f[0] for f in found], [f[1] for f in found], horizons, run.cut.bar_ms, config.search.cost_bps)
    fits = [
        fit_horizon(
            outcomes,
            h,
            n_folds=config.calibration.folds,
            n_bins=config.calibration.n_bins,
            isotonic_floor=config.calibration.isotonic_floor,
            min_events=config.calibration.min_events,
            bar_ms=run.cut.bar_ms,
            n_bootstrap=config.acceptance.n_bootstrap,
            seed=run.seed,
        )
        for h in range(len(horizons))
    ]
    min_shift = min_shift_bars(config, params)
    monotonicity = []
    for h, horizon in enumerate(horizons):
        labelled = ~np.isnan(outcomes.returns[:, h])
        nulls = measures.circular_shift_null(
            outcomes.panels[h],
            min_shift=min_shift,
            n_shifts=config.acceptance.n_shifts,
            seed=run.seed,
            cost_bps=config.search.cost_bps,
        )
        n = int(labelled.sum())
        naive = None
        if n >= 3:
            naive = measures.spearman_naive_p(outcomes.events["score"][labelled], outcomes.signed_returns(h)[labelled])
        monotonicity.append(
            Monotonicity(horizon, n, _finite(nulls.spearman.observed), _finite(nulls.spearman.p), _finite(naive))
        )
    document = map_document(fits, key=run.key, simulated=run.simulated, fingerprint=params.fingerprint())
    return CalibrationResult(params, outcomes, fits, monotonicity, document)


def whole_way(run: Run) -> HoldoutResult:
    """Search, calibrate and judge, with nothing read from or written to disk."""
    found = search(run, workers=1, record=False)
    return judge_holdout(run, found.params, calibrate(run, found.params).document, found.selected())


def judge_holdout(
    run: Run, params: DetectorParams, document: dict[str, Any], selected: dict[str, Any], look: Look | None = None
) -> HoldoutResult:
    """Judge parameters, their calibration document and what the search says of its choice on the holdout."""
    return accept(
        run.holdout_parts(),
        run.cut,
        params,
        CalibrationMap.from_dict(document),
        run.config,
        selected=selected,
        priors={h["horizon_bars"]: h["base_rate"] for h in document["horizons"]},
        seed=run.seed,
        has_quotes=run.has_quotes,
        has_trades=run.has_trades,
        alpha=None if look is None else run.config.acceptance.alpha * look.alpha_share,
        look=None if look is None else look_document(look),
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
