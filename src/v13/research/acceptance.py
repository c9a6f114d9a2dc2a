"""Acceptance: the criteria, judged on the holdout with everything fixed beforehand.

This module is handed bars behind the search part and parameters; it chooses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from v13 import measures
from v13.config import Config
from v13.detector import CalibrationMap, DetectorParams, SessionClock
from v13.detector.dtypes import CHANNELS, CVD, OFI
from v13.detector.params import bucket_name
from v13.research.calibration import Quality, quality
from v13.research.cut import Cut
from v13.research.trials import Outcomes, SymbolPart, bucket_of, evaluate, find_events

__all__ = ["BucketRow", "HoldoutResult", "HorizonRow", "accept", "min_shift_bars"]

GUIDE_HORIZONS_BARS = (10, 20)  # deployment guide: acc@10, acc@20
PRODUCTION_CRITERIA = (
    ("compute_p95", "Detection latency P95", "acceptance.compute_p95_ms", "ms"),
    ("event_p95", "Event latency P95", "acceptance.event_p95_ms", "ms"),
    ("pipeline_p95", "Pipeline latency P95", "acceptance.pipeline_p95_ms", "ms"),
    ("closure", "Metrics closure", "acceptance.closure_ratio", ""),
    ("hot_reload", "Hot reload works", "", ""),
)


@dataclass(frozen=True)
class HorizonRow:
    """What the holdout says at one horizon."""

    horizon_bars: int
    accuracy: measures.Accuracy
    accuracy_interval: tuple[float, float] | None
    p: float | None
    p_naive: float | None
    rho: float | None
    rho_interval: tuple[float, float] | None
    rho_p: float | None
    rho_p_naive: float | None
    mean_return: float | None
    mean_return_interval: tuple[float, float] | None
    n_shifts: int
    deciles: tuple[dict[str, Any], ...]
    calibration: Quality
    null_accuracy: tuple[float, ...]


@dataclass(frozen=True)
class BucketRow:
    """One bucket at one horizon; p is the circular-shift p, p_corrected Holm over the source's family."""

    bucket: str
    source: str
    horizon_bars: int
    accuracy: measures.Accuracy
    p: float | None
    p_corrected: float | None


@dataclass(frozen=True)
class HoldoutResult:
    """The verdict with its evidence."""

    verdict: measures.Verdict
    horizons: tuple[HorizonRow, ...]
    buckets: tuple[BucketRow, ...]
    outcomes: Outcomes
    hours: float
    events_per_hour: float | None
    median_score: float | None
    min_shift_bars: int


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
        What the search says of its choice: `p`, `n_events`, `n_settings`, `n_shifts` (see tuning_report.json).
    has_quotes, has_trades : bool
        Whether the recordings could show order-flow imbalance and volume delta at all.

    Returns
    -------
    HoldoutResult

    Notes
    -----
    Main null: the event train shifted circularly in time against the returns (SPEC 5); the naive binomial and Spearman
    p stand beside it and decide nothing. Families: the two horizons of the rank correlation, and for each source its
    buckets at both horizons; Holm within each.
    """
    gate = config.acceptance
    horizons = tuple(config.search.horizons_bars)
    sessions = SessionClock(config.sessions.timezone, config.sessions.day_start, config.sessions.day_end)
    found = [find_events(params, sessions, part) for part in parts]
    outcomes = evaluate(
        [f[0] for f in found],
        [f[1] for f in found],
        horizons,
        cut.bar_ms,
        config.search.cost_bps,
        after_ms=cut.holdout_start_ms,
    )
    hours = sum(cut.hours(part.bars, holdout=True) for part in parts)
    min_shift = min_shift_bars(config, params)
    block_ms = min_shift * cut.bar_ms

    rows = tuple(
        _horizon_row(
            outcomes,
            h,
            calibration,
            priors,
            config,
            min_shift=min_shift,
            block_ms=block_ms,
            seed=seed,
        )
        for h in range(len(horizons))
    )
    buckets = _bucket_rows(outcomes, config, min_shift=min_shift, seed=seed)
    n = len(outcomes.events)
    per_hour = n / hours if hours > 0 else None
    median = float(np.median(outcomes.events["score"])) if n else None
    production = cut.bar_ms == gate.production_bar_ms

    criteria = [
        measures.judge_selection(
            selected["p"],
            selected["n_events"],
            n_trials=selected["n_settings"],
            n_shifts=selected["n_shifts"],
            min_accuracy=gate.min_accuracy,
            alpha=gate.alpha,
        )
    ]
    criteria.extend(
        measures.judge_accuracy(
            row.accuracy,
            row.p,
            row.p_naive,
            row.accuracy_interval,
            horizon=row.horizon_bars,
            min_accuracy=gate.min_accuracy,
            alpha=gate.alpha,
            min_events=gate.min_events,
        )
        for row in rows
    )
    criteria.extend(
        measures.Criterion.not_run(
            f"accuracy_{horizon}",
            f"Accuracy after {horizon} bars",
            threshold=gate.min_accuracy,
            detail=f"{horizon} bars are not among search.horizons_bars, so the guide's criterion was not looked at.",
        )
        for horizon in GUIDE_HORIZONS_BARS
        if horizon not in horizons
    )
    criteria.append(
        measures.judge_monotonicity(
            {r.horizon_bars: r.rho for r in rows},
            {r.horizon_bars: r.rho_p for r in rows},
            {r.horizon_bars: r.rho_interval for r in rows},
            {r.horizon_bars: r.rho_p_naive for r in rows},
            n=min((r.accuracy.n_events - r.accuracy.n_unlabelled for r in rows), default=0),
            alpha=gate.alpha,
            min_events=gate.min_events,
        )
    )
    for channel, present in ((OFI, has_quotes), (CVD, has_trades)):
        criteria.append(
            measures.judge_bucket_family(
                CHANNELS[channel],
                [
                    (b.bucket, b.horizon_bars, b.accuracy, b.p_corrected)
                    for b in buckets
                    if b.source == CHANNELS[channel]
                ],
                present=present,
                min_accuracy=gate.min_accuracy,
                alpha=gate.alpha,
                min_events=config.search.min_bucket_events,
            )
        )
    criteria.append(
        measures.judge_rate(
            per_hour, (gate.events_per_hour[0], gate.events_per_hour[1]), production=production, hours=hours
        )
    )
    criteria.append(measures.judge_median_score(median, gate.min_median_score, n, gate.min_events))
    criteria.extend(_not_run(config))
    return HoldoutResult(measures.Verdict.of(criteria), rows, buckets, outcomes, hours, per_hour, median, min_shift)


def min_shift_bars(config: Config, params: DetectorParams) -> int:
    """Return the least shift of the null: the configured one, else twice the reach of a label and a pivot pair."""
    longest = max(p.swing_L for p in params.bucket_params())
    return config.acceptance.min_shift_bars or 2 * (max(config.search.horizons_bars) + 2 * longest)


def _horizon_row(
    outcomes: Outcomes,
    h: int,
    calibration: CalibrationMap,
    priors: Mapping[int, float],
    config: Config,
    *,
    min_shift: int,
    block_ms: int,
    seed: int,
) -> HorizonRow:
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
        outcomes.panels[h], min_shift=min_shift, n_shifts=gate.n_shifts, seed=seed, cost_bps=config.search.cost_bps
    )

    def interval(statistic: Any, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[float, float] | None:
        if mask.sum() < 2:
            return None
        found = measures.block_bootstrap_interval(
            statistic, ts[mask], block_ms, n_bootstrap=gate.n_bootstrap, seed=seed
        )
        return (found.low, found.high) if math.isfinite(found.low) and math.isfinite(found.high) else None

    is_hit = (hit[judged] == 1).astype(np.float64)
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
        interval(lambda i: float(is_hit[i].mean()), judged),
        nulls.accuracy.p,
        measures.binomial_p(accuracy.n_hits, accuracy.n_hits + accuracy.n_misses) if judged.any() else None,
        nulls.spearman.observed,
        interval(lambda i: measures.spearman(score_in[i], signed_in[i]), labelled),
        nulls.spearman.p,
        measures.spearman_naive_p(score_in, signed_in) if n_in >= 3 else None,
        float(signed_in.mean()) if n_in else None,
        interval(lambda i: float(signed_in[i].mean()), labelled),
        nulls.n_shifts,
        deciles,
        held_out,
        tuple(nulls.accuracy.null.tolist()),
    )


def _bucket_rows(outcomes: Outcomes, config: Config, *, min_shift: int, seed: int) -> tuple[BucketRow, ...]:
    """Test every bucket with enough events at every horizon; Holm within each source's family."""
    number = bucket_of(outcomes.events)
    found: list[tuple[int, int, measures.Accuracy, float]] = []
    for bucket in range(12):
        part = outcomes.select(number == bucket)
        for h in range(len(outcomes.horizons)):
            accuracy = measures.accuracy(part.hits[:, h])
            p = math.nan
            if accuracy.n_hits + accuracy.n_misses >= config.search.min_bucket_events:
                nulls = measures.circular_shift_null(
                    part.panels[h],
                    min_shift=min_shift,
                    n_shifts=config.acceptance.n_shifts,
                    seed=seed,
                    cost_bps=config.search.cost_bps,
                )
                p = math.nan if nulls.accuracy.p is None else nulls.accuracy.p
            found.append((bucket, h, accuracy, p))
    rows = []
    for channel in range(3):
        family = [f for f in found if f[0] % 3 == channel]
        corrected = measures.holm(np.array([f[3] for f in family]))
        for (bucket, h, accuracy, p), adjusted in zip(family, corrected, strict=True):
            rows.append(
                BucketRow(
                    bucket_name(bucket),
                    CHANNELS[channel],
                    outcomes.horizons[h],
                    accuracy,
                    None if math.isnan(p) else p,
                    None if math.isnan(adjusted) else float(adjusted),
                )
            )
    return tuple(rows)


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
            detail="Judged in the live runner, which this version does not have yet.",
        )
        for key, title, _, unit in PRODUCTION_CRITERIA
    ]
