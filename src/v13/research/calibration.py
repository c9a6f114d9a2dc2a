"""Calibration: score -> hit probability with its interval, and expected return, fitted on the search part.

The shipped curve is fitted on all events of the search part; what is said about its quality comes from folds in time
that the fold's own fit never saw, and again from the holdout, in acceptance. A curve that does not beat a constant out
of fold claims knowledge it has not: then the constant is shipped, and the file says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from v13 import measures
from v13.detector import CalibrationMap, Curve
from v13.measures.calibration_gate import CalibrationRow
from v13.research.trials import Outcomes
from v13.research.venn_abers import venn_abers

__all__ = ["HorizonFit", "Quality", "fit_curve", "fit_horizon", "gate_row", "map_document", "quality", "quality_dict"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]
Method = Literal["sigmoid", "isotonic"]

METHODS: tuple[Method, ...] = ("sigmoid", "isotonic")  # the simpler first: it wins a tie
PRIOR_SD = 100.0  # of a sigmoid's logit per 100 points of score: keeps it finite where scores part hits from misses
SCORE_KNOTS = np.linspace(0.0, 100.0, 101)  # where a smooth curve is tabulated; linear in between
ENDS = np.array([0.0, 100.0])  # knots of every map, so that the interval opens where no event was seen
MAX_KNOTS = 200  # of one map, in all
TEST_SCORES = np.array([0.0, 40.0, 43.21, 50.0, 61.8, 70.0, 88.88, 100.0])


@dataclass(frozen=True)
class Quality:
    """How good probabilities were on events they were not fitted on.

    All None where there were no events. `brier_constant` is the score of always saying the share of hits known before
    (that of the fitting events). `error` is `measures.reliability_error` with a block-bootstrap interval.
    `gain_interval` is the paired one of brier_constant - brier: of the mean over events of (prior - y)^2 - (p - y)^2.
    """

    n: int
    brier: float | None
    brier_constant: float | None
    error: float | None
    error_interval: tuple[float, float] | None
    curve: tuple[dict[str, Any], ...]
    gain_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class HorizonFit:
    """One horizon: the curve to ship, how it was made, and the out-of-fold quality of what was tried.

    method : "isotonic" | "sigmoid" | "constant" | "insufficient"; why : the reason of the last two, else None.
    `out_of_fold` judges the isotonic or sigmoid fit also where it was refused and a constant is shipped instead.
    """

    horizon_bars: int
    method: str
    why: str | None
    n: int
    n_folds: int
    curve: Curve | None
    out_of_fold: Quality
    deciles: tuple[dict[str, Any], ...]
    base_rate: float | None


@dataclass(frozen=True)
class _Shape:
    """A fit before its interval: values at knots, in the terms of `Curve`."""

    score: F8
    prob: F8
    expected_return: F8
    method: str
    why: str | None = None


def fit_curve(score: F8, label: I8, signed_return: F8, horizon: int, method: Method) -> tuple[Curve, str, str | None]:
    """Fit one curve, whatever it is worth out of fold.

    Parameters
    ----------
    score : (n,) float64, n >= 1, in [0, 100]
    label : (n,) int64, 1 hit, 0 miss
    signed_return : (n,) float64, log return in the event's direction
    horizon : int, bars
    method : "isotonic" | "sigmoid"
        Steps for probability and return; or a sigmoid and a straight line. Neither falls.

    Returns
    -------
    Curve, method | "constant", reason
        Constant where the fit would fall with the score, or only one outcome or score was seen; the reason says
        which, and is None for the others. At most 200 knots, 0 and 100 among them. p_low and p_high are the least and
        the largest of the Venn-Abers pair and prob at each knot, so that prob always lies inside; that of a constant is
        the pair of events whose scores are all alike.
    """
    shape = _shape(score, label, signed_return, method)
    return _curve(shape, horizon, score, label), shape.method, shape.why


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
    """Fit the h-th horizon of the search part, judge it out of fold, and ship a constant where it does not beat one.

    Parameters
    ----------
    isotonic_floor : int
        Below this many events a step function follows noise (isotonic on noise scores 0.000 in sample and 0.076
        held out at n = 200), so a sigmoid alone is tried. From here on both are, and the better one out of fold is
        judged against the constant: steps need a strong relation to pay for their freedom.
    n_folds, n_bins, min_events, bar_ms, n_bootstrap, seed
        As `config.Calibration` and `quality`.

    Notes
    -----
    Folds are blocks of equal numbers of events in time; events of the fitting folds whose label reaches into the judged
    fold, or that lie within a horizon behind it, are left out. The folds are fitted by the method that is judged,
    however few events they have. The better of two is a little too good out of fold; the holdout has the last word.
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
        why: str | None = f"{n} labelled events; nothing is fitted to fewer than {min_events}"
        return HorizonFit(horizon, "insufficient", why, n, 0, None, empty, (), None)
    n_folds = min(n_folds, n)
    reach_ms = horizon * bar_ms
    tried: list[tuple[Quality, Method]] = []
    for method in METHODS if n >= isotonic_floor else METHODS[:1]:
        prob, prior = np.full(n, np.nan), np.full(n, np.nan)
        for inside, train in _folds(ts, n_folds, reach_ms):
            if train.sum() < min_events // 2:
                continue
            part = _shape(score[train], label[train], signed[train], method)
            prob[inside] = np.interp(score[inside], part.score, part.prob)
            prior[inside] = label[train].mean()
        seen = ~np.isnan(prob)
        found = quality(
            prob[seen],
            label[seen],
            prior[seen],
            ts[seen],
            n_bins=n_bins,
            block_ms=2 * reach_ms,
            n_bootstrap=n_bootstrap,
            seed=seed,
        )
        tried.append((found, method))
    out_of_fold, method = min(tried, key=lambda t: math.inf if t[0].brier is None else t[0].brier)
    curve, shipped, why = fit_curve(score, label, signed, horizon, method)
    refusal = _no_gain(method, out_of_fold)
    if why is None and refusal is not None:
        shipped, why = "constant", refusal
        curve = _curve(_constant(label, signed, refusal), horizon, score, label)
    deciles = tuple(map(dict, measures.decile_table(score, signed, label, n_bins)))
    return HorizonFit(horizon, shipped, why, n, n_folds, curve, out_of_fold, deciles, float(label.mean()))


def quality(
    prob: F8, label: I8, prior: F8 | float, ts_ms: I8, *, n_bins: int, block_ms: int, n_bootstrap: int, seed: int
) -> Quality:
    """Judge probabilities of events they were not fitted on."""
    n = len(prob)
    if n < n_bins:
        return Quality(n, None, None, None, None, ())
    interval = measures.bootstrap_reliability(
        prob,
        label,
        ts_ms,
        block_ms,
        n_bins,
        n_bootstrap=min(n_bootstrap, 500),  # a binned statistic: 500 resamples place its 95 % ends well enough
        seed=seed,
    )
    of_constant = (np.broadcast_to(prior, n) - label) ** 2
    gain = of_constant - (prob - label) ** 2
    gained = measures.bootstrap_mean(gain, ts_ms, block_ms, n_bootstrap=n_bootstrap, seed=seed)
    return Quality(
        n,
        measures.brier(prob, label),
        float(np.mean(of_constant)),
        measures.reliability_error(prob, label.astype(np.int8), n_bins),
        _ends(interval),
        tuple(map(dict, measures.reliability_curve(prob, label, n_bins))),
        _ends(gained),
    )


def gate_row(horizon_bars: int, held_out: Quality, curve: Curve | None) -> CalibrationRow:
    """Return what `measures.calibration_gate.judge_calibration` weighs at one horizon; curve None: no map."""
    return CalibrationRow(
        horizon_bars,
        held_out.n,
        held_out.brier,
        held_out.brier_constant,
        held_out.gain_interval,
        held_out.error,
        held_out.error_interval,
        curve is not None and curve.is_constant,
    )


def map_document(fits: list[HorizonFit], *, key: str, simulated: bool, fingerprint: str) -> dict[str, Any]:
    """Return `divergence_score_calibration.json`: curves, how they were made, quality, and test vectors.

    The test vectors are scores with the values any reader of the file must reproduce to 1e-12.
    """
    curves = {f.horizon_bars: f.curve for f in fits if f.curve is not None}
    applied = CalibrationMap(curves)
    return {
        "version": 2,
        "key": key,
        "simulated": simulated,
        "parameters_fingerprint": fingerprint,
        "horizons": [
            {
                "horizon_bars": f.horizon_bars,
                "method": f.method,
                "why": f.why,
                "n_events": f.n,
                "n_folds": f.n_folds,
                "base_rate": f.base_rate,
                "knots": {
                    "score": f.curve.score.tolist(),
                    "prob": f.curve.prob.tolist(),
                    "expected_return": f.curve.expected_return.tolist(),
                    "p_low": f.curve.p_low.tolist(),
                    "p_high": f.curve.p_high.tolist(),
                },
                "bins": list(f.deciles),
                "out_of_fold": quality_dict(f.out_of_fold),
                "test_vectors": _test_vectors(applied, f.horizon_bars),
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
        "gain_interval": list(q.gain_interval) if q.gain_interval else None,
        "reliability_curve": list(q.curve),
    }


def _test_vectors(applied: CalibrationMap, horizon: int) -> dict[str, list[float]]:
    low, high = applied.interval(TEST_SCORES, horizon)
    return {
        "score": TEST_SCORES.tolist(),
        "prob": applied.prob(TEST_SCORES, horizon).tolist(),
        "expected_return": applied.expected_return(TEST_SCORES, horizon).tolist(),
        "p_low": low.tolist(),
        "p_high": high.tolist(),
    }


def _folds(ts_ms: I8, n_folds: int, reach_ms: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield (judged, fitting) masks of events in time order."""
    fold = np.arange(len(ts_ms)) * n_folds // len(ts_ms)
    for k in range(n_folds):
        inside = fold == k
        first, last = ts_ms[inside][0], ts_ms[inside][-1]
        yield inside, (ts_ms + reach_ms < first) | (ts_ms > last + reach_ms)


def _shape(score: F8, label: I8, signed_return: F8, method: Method) -> _Shape:
    if label.min() == label.max():
        return _constant(label, signed_return, "only one outcome was seen")
    if score.min() == score.max():
        return _constant(label, signed_return, "all scores are alike")
    if method == "isotonic":
        rising = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, label)
        expected = IsotonicRegression(out_of_bounds="clip").fit(score, signed_return)
        knots = np.union1d(rising.X_thresholds_, expected.X_thresholds_)
        if len(knots) > MAX_KNOTS - len(ENDS):
            knots = np.quantile(knots, np.linspace(0, 1, MAX_KNOTS - len(ENDS)))
        knots = np.union1d(knots, ENDS)
        prob_at = rising.predict(knots)
        if np.ptp(prob_at) == 0:
            return _constant(label, signed_return, "the isotonic fit does not rise with the score")
        return _Shape(knots, prob_at, expected.predict(knots), "isotonic")
    # Two coefficients: three Newton steps; lbfgs stops a few thousandths short and takes five times as long.
    model = LogisticRegression(C=PRIOR_SD**2, solver="newton-cholesky").fit(score[:, None] / 100.0, label)
    if not model.coef_[0, 0] > 0:
        return _constant(label, signed_return, "the sigmoid fit does not rise with the score")
    slope, level = np.polyfit(score, signed_return, 1)
    line = level + slope * SCORE_KNOTS if slope > 0 else np.full(len(SCORE_KNOTS), signed_return.mean())
    prob_at = model.predict_proba(SCORE_KNOTS[:, None] / 100.0)[:, 1]
    return _Shape(SCORE_KNOTS.copy(), prob_at, line, "sigmoid")


def _constant(label: I8, signed_return: F8, why: str) -> _Shape:
    share, mean = float(label.mean()), float(signed_return.mean())
    return _Shape(ENDS.copy(), np.full(len(ENDS), share), np.full(len(ENDS), mean), "constant", why)


def _curve(shape: _Shape, horizon: int, score: F8, label: I8) -> Curve:
    # A constant tells no score from another, so neither does its interval.
    of, at = (np.zeros(len(score)), np.zeros(len(shape.score))) if shape.method == "constant" else (score, shape.score)
    p0, p1 = venn_abers(of, label, at)
    low = np.minimum(np.minimum(p0, p1), shape.prob)
    high = np.maximum(np.maximum(p0, p1), shape.prob)
    return Curve(horizon, shape.score, shape.prob, shape.expected_return, low, high)


def _no_gain(method: str, q: Quality) -> str | None:
    """Return why a fit may not be shipped by its out-of-fold quality, or None where it beats a constant."""
    if q.brier is None or q.brier_constant is None:
        return f"too few events out of fold ({q.n}) to show that the {method} fit beats a constant"
    if q.brier < q.brier_constant:
        return None
    return (
        f"the {method} fit does not beat a constant out of fold: Brier {q.brier:.5f} against {q.brier_constant:.5f} "
        f"over {q.n} events"
    )


def _ends(interval: measures.Interval) -> tuple[float, float] | None:
    return (interval.low, interval.high) if math.isfinite(interval.low + interval.high) else None
