"""Calibration: score -> hit probability and expected return, fitted out of fold on the search part.

The shipped curve is fitted on all events of the search part; what is said about its quality comes from folds in time
that the fold's own fit never saw, and again from the holdout, in acceptance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from v13 import measures
from v13.detector import CalibrationMap, Curve
from v13.research.trials import Outcomes

__all__ = ["HorizonFit", "Quality", "fit_curve", "fit_horizon", "map_document", "quality"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

SCORE_KNOTS = np.linspace(0.0, 100.0, 101)  # where a smooth curve is tabulated; linear in between
MAX_STEPS = 200  # knots of an isotonic curve


@dataclass(frozen=True)
class Quality:
    """How good probabilities were on events they were not fitted on.

    All None where there were no events. `brier_constant` is the score of always saying the share of hits known before
    (that of the fitting events). `error` is `measures.reliability_error` with a block-bootstrap interval.
    """

    n: int
    brier: float | None
    brier_constant: float | None
    error: float | None
    error_interval: tuple[float, float] | None
    curve: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class HorizonFit:
    """One horizon: the curve to ship, how it was made, and its out-of-fold quality."""

    horizon_bars: int
    method: str
    n: int
    n_folds: int
    curve: Curve | None
    out_of_fold: Quality
    deciles: tuple[dict[str, Any], ...]
    base_rate: float | None


def fit_curve(score: F8, label: I8, signed_return: F8, horizon: int, isotonic_floor: int) -> tuple[Curve, str]:
    """Fit one curve.

    Parameters
    ----------
    score : (n,) float64, in [0, 100]
    label : (n,) int64, 1 hit, 0 miss
    signed_return : (n,) float64, log return in the event's direction
    isotonic_floor : int
        Below this many events a step function follows noise (isotonic on noise scores 0.000 in sample and 0.076
        held out at n = 200); a sigmoid and a straight line, neither of them falling, are used instead.

    Returns
    -------
    Curve, "isotonic" | "sigmoid" | "constant"
        Constant where the fit would fall with the score or only one outcome was seen.
    """
    if len(score) >= isotonic_floor:
        prob = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, label)
        expected = IsotonicRegression(out_of_bounds="clip").fit(score, signed_return)
        knots = np.union1d(prob.X_thresholds_, expected.X_thresholds_)
        if len(knots) > MAX_STEPS:
            knots = np.quantile(knots, np.linspace(0, 1, MAX_STEPS))
            knots = np.unique(knots)
        return Curve(horizon, knots, prob.predict(knots), expected.predict(knots)), "isotonic"
    method = "sigmoid"
    share = float(label.mean())
    if 0 < share < 1:
        model = LogisticRegression(C=np.inf).fit(score[:, None] / 100.0, label)
        rising = model.coef_[0, 0] > 0
        prob_at = model.predict_proba(SCORE_KNOTS[:, None] / 100.0)[:, 1] if rising else np.full(101, share)
    else:
        rising, prob_at = False, np.full(101, share)
    if not rising:
        method = "constant"
    slope, level = np.polyfit(score, signed_return, 1) if np.ptp(score) > 0 else (0.0, float(signed_return.mean()))
    line = level + slope * SCORE_KNOTS if slope > 0 else np.full(101, signed_return.mean())
    return Curve(horizon, SCORE_KNOTS.copy(), prob_at, line), method


def fit_horizon(
    outcomes: Outcomes,
    h: int,
    *,
    n_folds: int,
    n_bins: int,
    isotonic_floor: int,
    min_events: int,
    bar_ms: int,
    n_bootstrap: int,
    seed: int,
) -> HorizonFit:
    """Fit the h-th horizon of the search part, and judge it out of fold.

    Folds are blocks of equal numbers of events in time; events of the fitting folds whose label reaches into the judged
    fold, or that lie within a horizon behind it, are left out.
    """
    horizon = outcomes.horizons[h]
    judged = outcomes.hits[:, h] >= 0
    events = outcomes.events[judged]
    order = np.argsort(events["ts_ms"], kind="stable")
    ts = events["ts_ms"][order]
    score = events["score"][order]
    label = (outcomes.hits[judged, h] == 1).astype(np.int64)[order]
    signed = outcomes.signed_returns(h)[judged][order]
    n = len(score)
    if n < min_events:
        empty = Quality(n, None, None, None, None, ())
        return HorizonFit(horizon, "insufficient", n, 0, None, empty, (), None)
    n_folds = min(n_folds, n)
    prob, prior = np.full(n, np.nan), np.full(n, np.nan)
    fold = np.arange(n) * n_folds // n
    reach_ms = horizon * bar_ms
    for k in range(n_folds):
        inside = fold == k
        first, last = ts[inside][0], ts[inside][-1]
        train = (ts + reach_ms < first) | (ts > last + reach_ms)
        if train.sum() < min_events // 2:
            continue
        curve, _ = fit_curve(score[train], label[train], signed[train], horizon, isotonic_floor)
        prob[inside] = CalibrationMap({horizon: curve}).prob(score[inside], horizon)
        prior[inside] = label[train].mean()
    seen = ~np.isnan(prob)
    curve, method = fit_curve(score, label, signed, horizon, isotonic_floor)
    out_of_fold = quality(
        prob[seen],
        label[seen],
        prior[seen],
        ts[seen],
        n_bins=n_bins,
        block_ms=2 * reach_ms,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    deciles = measures.decile_table(score, signed, label, n_bins)
    return HorizonFit(horizon, method, n, n_folds, curve, out_of_fold, tuple(map(dict, deciles)), float(label.mean()))


def quality(
    prob: F8, label: I8, prior: F8 | float, ts_ms: I8, *, n_bins: int, block_ms: int, n_bootstrap: int, seed: int
) -> Quality:
    """Judge probabilities of events they were not fitted on."""
    n = len(prob)
    if n < n_bins:
        return Quality(n, None, None, None, None, ())
    interval = measures.block_bootstrap_interval(
        lambda i: measures.reliability_error(prob[i], label[i].astype(np.int8), n_bins),
        ts_ms,
        block_ms,
        n_bootstrap=min(n_bootstrap, 500),  # a binned statistic: 500 resamples place its 95 % ends well enough
        seed=seed,
    )
    return Quality(
        n,
        measures.brier(prob, label),
        float(np.mean((np.broadcast_to(prior, n) - label) ** 2)),
        measures.reliability_error(prob, label.astype(np.int8), n_bins),
        (interval.low, interval.high) if math.isfinite(interval.low + interval.high) else None,
        tuple(map(dict, measures.reliability_curve(prob, label, n_bins))),
    )


def map_document(fits: list[HorizonFit], *, key: str, simulated: bool, fingerprint: str) -> dict[str, Any]:
    """Return `divergence_score_calibration.json`: curves, how they were made, quality, and test vectors.

    The test vectors are scores with the values any reader of the file must reproduce to 1e-12.
    """
    curves = {f.horizon_bars: f.curve for f in fits if f.curve is not None}
    applied = CalibrationMap(curves)
    probe = np.array([0.0, 40.0, 43.21, 50.0, 61.8, 70.0, 88.88, 100.0])
    return {
        "version": 1,
        "key": key,
        "simulated": simulated,
        "parameters_fingerprint": fingerprint,
        "horizons": [
            {
                "horizon_bars": f.horizon_bars,
                "method": f.method,
                "n_events": f.n,
                "n_folds": f.n_folds,
                "base_rate": f.base_rate,
                "knots": {
                    "score": f.curve.score.tolist(),
                    "prob": f.curve.prob.tolist(),
                    "expected_return": f.curve.expected_return.tolist(),
                },
                "bins": list(f.deciles),
                "out_of_fold": quality_dict(f.out_of_fold),
                "test_vectors": {
                    "score": probe.tolist(),
                    "prob": applied.prob(probe, f.horizon_bars).tolist(),
                    "expected_return": applied.expected_return(probe, f.horizon_bars).tolist(),
                },
            }
            for f in fits
            if f.curve is not None
        ],
        "not_fitted": [{"horizon_bars": f.horizon_bars, "n_events": f.n} for f in fits if f.curve is None],
    }


def quality_dict(q: Quality) -> dict[str, Any]:
    """Return a Quality as plain JSON values."""
    return {
        "n": q.n,
        "brier": q.brier,
        "brier_constant": q.brier_constant,
        "reliability_error": q.error,
        "reliability_error_interval": list(q.error_interval) if q.error_interval else None,
        "reliability_curve": list(q.curve),
    }
