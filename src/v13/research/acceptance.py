"""Acceptance: the criteria, judged on the holdout with everything fixed beforehand.

This module is handed bars behind the search part and parameters; it chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from v13 import measures
from v13.config import Config
from v13.detector import CalibrationMap, DetectorParams, SessionClock
from v13.detector.dtypes import CHANNELS, CVD, OFI
from v13.measures.calibration_gate import judge_calibration
from v13.measures.pace import Pace, priced
from v13.measures.safeguards import judge_placebo, judge_plateau
from v13.research.bucket_tests import BucketRow, bucket_rows
from v13.research.calibration import gate_row
from v13.research.cut import Cut, Records
from v13.research.evidence import N_SHUFFLES, AblationRow, PlaceboRow, Regimes, ablation, placebo, regimes
from v13.research.horizon import HorizonRow, horizon_row
from v13.research.panels import common_times
from v13.research.trials import Outcomes, SymbolPart, evaluate, find_events

__all__ = ["BucketRow", "HoldoutResult", "HorizonRow", "accept", "min_shift_bars"]

GUIDE_HORIZONS_BARS = (10, 20)  # deployment guide: acc@10, acc@20
MAX_SHIFTS: Final = 20_000  # a p of 5e-5 at the least; more would take minutes on a long record
PRODUCTION_CRITERIA = (
    ("compute_p95", "Detection latency P95", "acceptance.compute_p95_ms", "ms"),
    ("event_p95", "Event latency P95", "acceptance.event_p95_ms", "ms"),
    ("pipeline_p95", "Pipeline latency P95", "acceptance.pipeline_p95_ms", "ms"),
    ("closure", "Metrics closure", "acceptance.closure_ratio", ""),
    ("hot_reload", "Hot reload works", "", ""),
)


@dataclass(frozen=True)
class HoldoutResult:
    """The verdict with its evidence.

    alpha : the level this look was judged at; look : its number at this holdout and what came before, as the ledger
        tells it, or None where no ledger was asked.
    """

    verdict: measures.Verdict
    horizons: tuple[HorizonRow, ...]
    buckets: tuple[BucketRow, ...]
    outcomes: Outcomes
    hours: float
    events_per_hour: float | None
    median_score: float | None
    min_shift_bars: int
    ablation: tuple[AblationRow, ...] = ()
    placebo: tuple[PlaceboRow, ...] = ()
    regimes: Regimes | None = None
    alpha: float | None = None
    look: Mapping[str, Any] | None = None


def accept(
    parts: Sequence[SymbolPart],
    cut: Cut,
    params: DetectorParams,
    calibration: CalibrationMap,
    config: Config,
    *,
    priors: Mapping[int, float],
    selected: Mapping[str, Any],
    seed: int,
    has_quotes: bool,
    has_trades: bool,
    alpha: float | None = None,
    look: Mapping[str, Any] | None = None,
) -> HoldoutResult:
    """Judge a fixed parameter set on the holdout.

    Parameters
    ----------
    parts : one SymbolPart a symbol
        `cut.holdout_bars` of each: the purge gap first, which only warms the detector up.
    params, calibration
        Fixed on the search part.
    priors : horizon -> share of hits on the search part
        The constant a calibrated probability has to beat.
    selected : mapping
        What the search says of its choice: `p`, `n_events`, `n_settings`, `n_shifts`, `edge_kept` (tuning_report.json).
    has_quotes, has_trades : bool
        Whether the recordings could show order-flow imbalance and volume delta at all.
    alpha : float, in (0, 1), optional
        The level this look at the holdout is judged at, in place of acceptance.alpha.
    look : mapping, optional
        `number`, `n_earlier_looks`, `n_searched_before`, `simulated`: kept and printed, weighed nowhere else.

    Returns
    -------
    HoldoutResult

    Notes
    -----
    Main null: the event train shifted circularly in time against the returns (SPEC 5); the naive binomial and Spearman
    p and the HAC p stand beside it and decide nothing. Families: the horizons of the rank correlation by their joint
    null, and for each source the tree of itself and its buckets (`measures.hierarchical`). A smaller alpha takes more
    shifts, or no p could reach it. The choice on the search part is judged at acceptance.alpha: a look at the holdout
    costs nothing there.
    """
    gate = config.acceptance
    level = gate.alpha if alpha is None else alpha
    n_shifts = _n_shifts(config, level)
    horizons = tuple(config.search.horizons_bars)
    sessions = SessionClock(config.sessions.timezone, config.sessions.day_start, config.sessions.day_end)
    found = [find_events(params, sessions, part) for part in parts]
    features = [f[1] for f in found]
    outcomes = evaluate(
        [f[0] for f in found],
        features,
        horizons,
        cut.bar_ms,
        config.search.cost_bps,
        after_ms=cut.holdout_start_ms,
    )
    hours = sum(cut.hours(part.bars, holdout=True) for part in parts)
    pace = Pace(_recorded_hours(features, cut), 1 - config.search.search_share)
    min_shift = min_shift_bars(config, params)
    block_ms = min_shift * cut.bar_ms

    rows = tuple(
        horizon_row(
            outcomes,
            h,
            calibration,
            priors,
            config,
            min_shift=min_shift,
            n_shifts=n_shifts,
            block_ms=block_ms,
            bar_ms=cut.bar_ms,
            seed=seed,
        )
        for h in range(len(horizons))
    )
    buckets = bucket_rows(outcomes, config, pace, min_shift=min_shift, n_shifts=n_shifts, seed=seed, alpha=level)
    shuffled = placebo(
        parts,
        features,
        outcomes,
        params,
        sessions,
        cut,
        config,
        min_shift=min_shift,
        n_shifts=n_shifts,
        seed=seed,
    )
    n = len(outcomes.events)
    per_hour = n / hours if hours > 0 else None
    median = float(np.median(outcomes.events["score"])) if n else None
    criteria = [
        _selection(selected, cut, config, gate.alpha),  # a look at the holdout costs nothing here
        judge_plateau(selected["edge_kept"], has_choice=selected["n_events"] is not None),
        *(priced(c, pace) for c in _edge(rows, calibration, config, level)),
        *_sources(buckets, config, level, pace, present={OFI: has_quotes, CVD: has_trades}),
        priced(
            judge_placebo(
                min(r.accuracy.n_judged for r in rows),
                [(r.horizon_bars, r.accuracy, r.p) for r in shuffled],
                n_shuffles=N_SHUFFLES,
                min_accuracy=gate.min_accuracy,
                alpha=level,
                min_events=gate.min_events,
            ),
            pace,
        ),
        measures.judge_rate(
            per_hour, gate.events_per_hour, production=cut.bar_ms == gate.production_bar_ms, hours=hours
        ),
        priced(measures.judge_median_score(median, gate.min_median_score, n, gate.min_events), pace),
        *_not_run(config),
    ]
    return HoldoutResult(
        measures.Verdict.of(criteria),
        rows,
        buckets,
        outcomes,
        hours,
        per_hour,
        median,
        min_shift,
        ablation(features, outcomes, params, cut, config, block_ms=block_ms, seed=seed),
        shuffled,
        regimes(outcomes, features, cut),
        level,
        look,
    )


def min_shift_bars(config: Config, params: DetectorParams) -> int:
    """Return the least shift of the null: the configured one, else twice the reach of a label and a pivot pair."""
    longest = max(p.swing_L for p in params.bucket_params())
    return config.acceptance.min_shift_bars or 2 * (max(config.search.horizons_bars) + 2 * longest)


def _n_shifts(config: Config, alpha: float) -> int:
    """Return the shifts of the null: as many more as alpha is smaller than the configured one, up to MAX_SHIFTS."""
    gate = config.acceptance
    return max(gate.n_shifts, min(math.ceil(gate.n_shifts * gate.alpha / alpha), MAX_SHIFTS))


def _recorded_hours(features: Sequence[Records], cut: Cut) -> float:
    """Return the hours of the holdout in which any symbol has a price: symbols side by side count once."""
    times = [f["ts_ms"][(f["ts_ms"] > cut.holdout_start_ms) & np.isfinite(f["px"])] for f in features]
    return len(common_times(times)) * cut.bar_ms / 3_600_000


def _selection(selected: Mapping[str, Any], cut: Cut, config: Config, alpha: float) -> measures.Criterion:
    """Judge the choice; its events come from the search part, and so does their pace."""
    pace = Pace((cut.search_end_ms - cut.start_ms) / 3_600_000, config.search.search_share, "search part")
    criterion = measures.judge_selection(
        selected["p"],
        selected["n_events"],
        n_trials=selected["n_settings"],
        n_shifts=selected["n_shifts"],
        min_accuracy=config.acceptance.min_accuracy,
        alpha=alpha,
    )
    return priced(criterion, pace)


def _edge(
    rows: Sequence[HorizonRow], calibration: CalibrationMap, config: Config, alpha: float
) -> list[measures.Criterion]:
    """Judge accuracy at each horizon, rank correlation, and the calibrated probability."""
    gate = config.acceptance
    joint = measures.joint_p([r.rho for r in rows], [np.array(r.null_rho) for r in rows])
    criteria = [
        measures.judge_accuracy(
            row.accuracy,
            row.p,
            row.p_naive,
            row.accuracy_interval,
            horizon=row.horizon_bars,
            min_accuracy=gate.min_accuracy,
            alpha=alpha,
            min_events=gate.min_events,
        )
        for row in rows
    ]
    criteria.extend(
        measures.Criterion.not_run(
            f"accuracy_{horizon}",
            f"Accuracy after {horizon} bars",
            threshold=gate.min_accuracy,
            detail=f"{horizon} bars are not among search.horizons_bars, so the guide's criterion was not looked at.",
        )
        for horizon in GUIDE_HORIZONS_BARS
        if horizon not in config.search.horizons_bars
    )
    criteria.append(
        measures.judge_monotonicity(
            {r.horizon_bars: r.rho for r in rows},
            {r.horizon_bars: r.rho_p for r in rows},
            dict(zip([r.horizon_bars for r in rows], joint, strict=True)),
            {r.horizon_bars: r.rho_interval for r in rows},
            {r.horizon_bars: r.rho_p_naive for r in rows},
            n=min((r.accuracy.n_events - r.accuracy.n_unlabelled for r in rows), default=0),
            alpha=alpha,
            min_events=gate.min_events,
        )
    )
    criteria.append(
        judge_calibration(
            [gate_row(r.horizon_bars, r.calibration, calibration.curves.get(r.horizon_bars)) for r in rows],
            min_events=gate.min_events,
        )
    )
    return criteria


def _sources(
    buckets: Sequence[BucketRow], config: Config, alpha: float, pace: Pace, present: Mapping[int, bool]
) -> list[measures.Criterion]:
    """Judge each source's family of buckets; what it lacks is counted in its fullest bucket, at that bucket's rate."""
    criteria = []
    for channel, is_present in present.items():
        own = [b for b in buckets if b.source == CHANNELS[channel]]
        criterion = measures.judge_bucket_family(
            CHANNELS[channel],
            [(b.bucket, b.horizon_bars, b.accuracy, b.p_corrected) for b in own],
            present=is_present,
            min_accuracy=config.acceptance.min_accuracy,
            alpha=alpha,
            min_events=config.search.min_bucket_events,
        )
        fullest = max(own, key=lambda b: b.accuracy.n_judged)
        if is_present:
            criterion = priced(criterion, pace, fullest.accuracy.n_judged, f"in {fullest.bucket}, all symbols together")
        criteria.append(criterion)
    return criteria


def _not_run(config: Config) -> list[measures.Criterion]:
    """Return the criteria only a running production system can answer."""
    limits = {
        "compute_p95": config.acceptance.compute_p95_ms,
        "event_p95": config.acceptance.event_p95_ms,
        "pipeline_p95": config.acceptance.pipeline_p95_ms,
        "closure": config.acceptance.closure_ratio,
        "hot_reload": None,
    }
    return [
        measures.Criterion.not_run(
            key,
            title,
            threshold=limits[key],
            unit=unit,
            detail="Judged in the live runner, not on recorded bars.",
        )
        for key, title, _, unit in PRODUCTION_CRITERIA
    ]
