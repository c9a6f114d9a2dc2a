"""Calibration: what is fitted, what is said of it, when a constant is shipped instead, and the file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

import v13.research
from tests.oracle.markets import random_bars
from v13 import measures, store
from v13.detector import CalibrationMap, Curve, DecisionParams, DetectorParams, FeatureParams, SessionClock
from v13.detector.dtypes import EVENT
from v13.errors import StoreError
from v13.measures.calibration_gate import judge_calibration
from v13.research import figures
from v13.research.calibration import (
    METHODS,
    HorizonFit,
    Method,
    fit_curve,
    fit_horizon,
    gate_row,
    map_document,
    quality,
)
from v13.research.trials import Outcomes, SymbolPart, evaluate, find_events
from v13.research.venn_abers import venn_abers

SCHEMA = Path(v13.research.__file__).parent / "schemas" / "calibration.schema.json"
BAR_MS = 1_000
QUALITY: dict[str, int] = {"n_bins": 10, "block_ms": 1_000, "n_bootstrap": 50, "seed": 1}


def events(n: int, slope: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.uniform(40, 100, n)
    label = (rng.random(n) < 0.5 + slope * (score - 70) / 60).astype(np.int64)
    return score, label, (2 * label - 1) * rng.gamma(2.0, 1e-4, n)


def outcomes(n: int, slope: float, seed: int) -> Outcomes:
    """Events a minute apart, so that no label of 10 bars reaches another."""
    score, label, returns = events(n, slope, seed)
    found = np.zeros(n, EVENT)
    found["ts_ms"], found["score"], found["side"] = 60_000 * np.arange(n), score, 1
    hits = np.where(label == 1, measures.HIT, measures.MISS).astype(np.int8)
    return Outcomes(found, np.zeros(n, np.int64), returns[:, None], hits[:, None], (), (10,))


def steps(n: int, seed: int) -> Outcomes:
    """Events whose chance jumps from 0.3 to 0.7 at a score of 90."""
    found = outcomes(n, 0.0, seed)
    chance = np.where(found.events["score"] > 90, 0.7, 0.3)
    found.hits[:, 0] = np.where(np.random.default_rng([seed, 1]).random(n) < chance, measures.HIT, measures.MISS)
    return found


def fit(found: Outcomes, *, isotonic_floor: int = 1_000) -> HorizonFit:
    return fit_horizon(
        found,
        0,
        n_folds=5,
        n_bins=10,
        isotonic_floor=isotonic_floor,
        min_events=50,
        bar_ms=BAR_MS,
        n_bootstrap=50,
        seed=1,
    )


def written(fits: list[HorizonFit]) -> str:
    document = map_document(fits, key="a" * 64, simulated=True, fingerprint="b" * 64)
    store.validate(document, SCHEMA)
    return json.dumps(document)


@pytest.mark.parametrize(("n", "method"), [(3_000, "isotonic"), (400, "sigmoid")])
def test_a_curve_rises(n: int, method: Method) -> None:
    score, label, returns = events(n, 0.5, 1)
    curve, used, why = fit_curve(score, label, returns, 10, method)
    assert (used, why) == (method, None)
    assert np.all(np.diff(curve.prob) >= 0)
    assert np.all(np.diff(curve.expected_return) >= 0)
    at = CalibrationMap({10: curve}).prob([45.0, 70.0, 95.0], 10)
    assert at == pytest.approx([0.29, 0.5, 0.71], abs=0.1)


def test_the_sigmoid_is_the_likeliest_one() -> None:
    score, label, returns = events(400, 0.5, 3)
    model = sm.Logit(label, sm.add_constant(score / 100)).fit(disp=0)
    expected = model.predict(sm.add_constant(np.linspace(0, 1, 101)))
    curve, _, _ = fit_curve(score, label, returns, 10, "sigmoid")
    np.testing.assert_allclose(curve.prob, expected, rtol=0, atol=1e-3)  # sklearn stops at a gradient of 1e-4


def test_scores_that_part_hits_from_misses_are_fitted_without_a_warning() -> None:
    rng = np.random.default_rng(4)
    for n in (60, 2_400):
        for share in (0.05, 0.5, 0.95):
            score = rng.uniform(40, 100, n)
            label = (score > np.quantile(score, share)).astype(np.int64)
            curve, method, _ = fit_curve(score, label, np.zeros(n), 10, "sigmoid")
            assert method == "sigmoid"
            prob = np.interp(score, curve.score, curve.prob)
            assert np.mean((prob - label) ** 2) < 0.3 * label.var()  # only events beside the cut are in doubt


def test_steps_are_refused_below_the_floor() -> None:
    for seed in range(20):
        assert fit(outcomes(200, 0.0, seed)).method in ("sigmoid", "constant")


@pytest.mark.parametrize(("n", "method"), [(400, "sigmoid"), (2_000, "isotonic")])
def test_a_falling_score_gives_a_constant_not_a_falling_curve(n: int, method: Method) -> None:
    score, label, returns = events(n, -0.9, 2)
    score, label, returns = (x[np.argsort(score)] for x in (score, label, returns))
    label = np.sort(label)[::-1]  # hits below, misses above
    curve, used, why = fit_curve(score, label, returns, 10, method)
    assert used == "constant"
    assert why is not None
    assert f"{method} fit does not rise" in why
    assert curve.is_constant
    assert curve.prob[0] == label.mean()
    assert np.all(curve.expected_return == returns.mean())
    hits = int(label.sum())
    assert curve.p_low == pytest.approx(hits / (n + 1))  # one class of n events and one more
    assert curve.p_high == pytest.approx((hits + 1) / (n + 1))


@pytest.mark.parametrize(
    ("score", "label", "reason"),
    [
        (np.linspace(40, 90, 60), np.ones(60, np.int64), "one outcome"),
        (np.full(60, 55.0), np.arange(60) % 2, "scores are alike"),
    ],
)
def test_events_that_cannot_show_a_relation_give_a_constant(score: Any, label: Any, reason: str) -> None:
    for method in METHODS:
        curve, used, why = fit_curve(score, label, np.full(60, 1e-4), 10, method)
        assert used == "constant"
        assert why is not None
        assert reason in why
        assert np.all(curve.prob == label.mean())


@pytest.mark.parametrize(
    ("n", "method"), [(60, "isotonic"), (400, "sigmoid"), (3_000, "isotonic"), (20_000, "isotonic")]
)
def test_every_map_has_few_knots_and_its_interval_holds_the_pair_and_the_probability(n: int, method: Method) -> None:
    score, label, returns = events(n, 0.3, n)
    curve, _, _ = fit_curve(score, label, returns, 10, method)
    assert len(curve.score) <= 200
    assert (curve.score[0], curve.score[-1]) == (0.0, 100.0)
    p0, p1 = venn_abers(score, label, curve.score)
    assert np.array_equal(curve.p_low, np.minimum(p0, curve.prob))
    assert np.array_equal(curve.p_high, np.maximum(p1, curve.prob))
    assert (curve.p_low[0], curve.p_high[-1]) == (0.0, 1.0)  # nothing is known where no event was


def test_steps_fitted_on_noise_do_not_beat_a_constant_on_new_events() -> None:
    worse = []
    for seed in range(30):
        score, label, returns = events(300, 0.0, seed)
        curve, _, _ = fit_curve(score, label, returns, 10, "isotonic")
        new_score, new_label, _ = events(300, 0.0, 1_000 + seed)
        prob = CalibrationMap({10: curve}).prob(new_score, 10)
        ts = 60_000 * np.arange(300)
        q = quality(prob, new_label, float(label.mean()), ts, n_bins=10, block_ms=600_000, n_bootstrap=50, seed=1)
        assert q.brier is not None
        assert q.brier_constant is not None
        assert q.error_interval is not None
        assert q.error_interval[0] <= q.error_interval[1]
        worse.append(q.brier - q.brier_constant)
    assert np.mean(worse) > 3 * np.std(worse) / np.sqrt(30) > 0  # three standard errors above nothing


@pytest.mark.parametrize("n", [300, 1_500])
def test_on_noise_a_constant_is_shipped_most_of_the_time_and_says_why(n: int) -> None:
    fits = [fit(outcomes(n, 0.0, 100 + seed)) for seed in range(20)]
    constant = [f for f in fits if f.method == "constant"]
    assert len(constant) >= 13  # a map of noise wins over five folds about one time in six
    for f in constant:
        assert f.why is not None
        assert "does not beat a constant out of fold: Brier" in f.why or "does not rise" in f.why
        assert f.curve is not None
        assert f.curve.is_constant
        assert f.curve.prob[0] == f.base_rate
    for f in fits:
        q = f.out_of_fold
        assert q.brier is not None
        assert q.brier_constant is not None
        if f.method != "constant":
            assert f.why is None
            assert q.brier < q.brier_constant


@pytest.mark.parametrize("n", [600, 3_000])
def test_a_planted_relation_is_a_curve_that_passes_on_new_events(n: int) -> None:
    found = fit(outcomes(n, 0.5, 3))
    assert found.method in METHODS
    assert found.why is None
    assert found.curve is not None
    assert found.base_rate is not None
    score, label, _ = events(2_000, 0.5, 1_003)
    prob = CalibrationMap({10: found.curve}).prob(score, 10)
    ts = 60_000 * np.arange(2_000)
    held_out = quality(prob, label, found.base_rate, ts, n_bins=10, block_ms=6_000_000, n_bootstrap=200, seed=1)
    criterion = judge_calibration([gate_row(10, held_out, found.curve)], min_events=50)
    assert criterion.status is measures.Status.PASS
    assert criterion.interval is not None
    assert 0 < criterion.interval[0] < criterion.estimate < criterion.interval[1]
    # Score is uniform, so prob has a variance of 0.5^2 / 12: a skill of 1/12 for a perfect map.
    assert criterion.estimate == pytest.approx(1 / 12, abs=0.03)


def test_a_shipped_constant_is_not_judged_and_gains_nothing() -> None:
    found = fit(outcomes(300, -0.5, 4))
    assert found.curve is not None
    assert found.base_rate is not None
    score, label, _ = events(500, 0.0, 9)
    prob = CalibrationMap({10: found.curve}).prob(score, 10)
    held_out = quality(
        prob, label, found.base_rate, 60_000 * np.arange(500), n_bins=10, block_ms=600_000, n_bootstrap=50, seed=1
    )
    assert held_out.brier == held_out.brier_constant
    assert held_out.gain_interval == (0.0, 0.0)
    assert judge_calibration([gate_row(10, held_out, found.curve)], min_events=50).status is (
        measures.Status.NOT_APPLICABLE
    )


def test_a_horizon_without_a_map_is_no_constant() -> None:
    nothing = quality(np.empty(0), np.empty(0, np.int64), 0.5, np.empty(0, np.int64), **QUALITY)
    assert judge_calibration([gate_row(10, nothing, None)], min_events=50).status is measures.Status.INSUFFICIENT


def test_the_gain_interval_is_that_of_the_paired_difference() -> None:
    score, label, _ = events(1_000, 0.5, 8)
    prob, prior, ts = score / 100, np.linspace(0.4, 0.6, 1_000), 1_000 * np.arange(1_000)
    q = quality(prob, label, prior, ts, n_bins=10, block_ms=1_000, n_bootstrap=2_000, seed=1)
    assert q.gain_interval is not None
    assert q.brier is not None
    assert q.brier_constant is not None
    difference = (prior - label) ** 2 - (prob - label) ** 2
    assert q.brier_constant - q.brier == pytest.approx(difference.mean())
    # One event a block: the plain standard error, to the accuracy of 2,000 resamples.
    half = 1.96 * difference.std() / np.sqrt(1_000)
    assert q.gain_interval == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.15 * half)


def test_the_folds_are_fitted_by_the_method_that_is_judged() -> None:
    # 1,100 events are enough for steps, the 880 of four folds are not: judged must be what is shipped.
    steep = steps(1_100, 5)
    found = fit(steep)
    assert found.method == "isotonic"
    assert found.out_of_fold == fit(steep, isotonic_floor=2).out_of_fold


def test_the_better_of_two_out_of_fold_is_shipped_and_steps_only_from_the_floor() -> None:
    assert fit(steps(3_000, 6)).method == "isotonic"  # no sigmoid follows a jump in the middle and flat ends
    assert fit(steps(3_000, 6), isotonic_floor=3_001).method == "sigmoid"
    assert fit(outcomes(3_000, 0.2, 6)).method == "sigmoid"  # steps pay too much for a straight line
    for found in (steps(3_000, 6), outcomes(3_000, 0.2, 6)):
        both, alone = fit(found), fit(found, isotonic_floor=3_001)
        assert both.out_of_fold.brier is not None
        assert alone.out_of_fold.brier is not None
        assert both.out_of_fold.brier <= alone.out_of_fold.brier


# --- the file -------------------------------------------------------------------------------------------------------


def straight(x: float, knots: list[float], values: list[float]) -> float:
    """Interpolate by hand; flat beyond the ends."""
    if x <= knots[0]:
        return values[0]
    for (a, b), (u, v) in zip(itertools.pairwise(knots), itertools.pairwise(values), strict=True):
        if x <= b:
            return u + (v - u) * (x - a) / (b - a)
    return values[-1]


@pytest.mark.parametrize(
    ("found", "right"),
    [(outcomes(500, 0.5, 7), "p_low to p_high, widest"), (outcomes(300, -0.5, 4), "shipped: constant")],
)
def test_the_figure_shows_the_interval_and_equal_fits_give_equal_bytes(found: Outcomes, right: str) -> None:
    fitted = fit(found)
    figure = figures.deciles_figure(fitted, simulated=True)
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes]
    assert "Venn-Abers p_low to p_high" in labels[0]
    assert f"shipped: {fitted.method}" in labels[0]
    assert right in labels[2]
    assert figures.png(figure) == figures.png(figures.deciles_figure(fit(found), simulated=True))


def test_any_reader_of_the_file_meets_its_test_vectors() -> None:
    fits = [fit(steps(3_000, 6)), fit(outcomes(500, 0.5, 7)), fit(outcomes(300, -0.5, 4))]
    assert [f.method for f in fits] == ["isotonic", "sigmoid", "constant"]
    for f in fits:
        document = json.loads(written([f]))
        (horizon,) = document["horizons"]
        vectors, knots = horizon["test_vectors"], horizon["knots"]
        applied = CalibrationMap.from_dict(document)
        low, high = applied.interval(vectors["score"], 10)
        ours = {
            "prob": applied.prob(vectors["score"], 10),
            "expected_return": applied.expected_return(vectors["score"], 10),
            "p_low": low,
            "p_high": high,
        }
        assert set(vectors) == {"score", *ours}
        for name, values in ours.items():
            by_hand = [straight(s, knots["score"], knots[name]) for s in vectors["score"]]
            np.testing.assert_allclose(vectors[name], by_hand, rtol=0, atol=1e-12)
            np.testing.assert_allclose(vectors[name], values, rtol=0, atol=1e-12)
        assert np.all(low <= ours["prob"])
        assert np.all(ours["prob"] <= high)


def test_equal_events_give_equal_bytes() -> None:
    assert written([fit(outcomes(3_000, 0.5, 6))]) == written([fit(outcomes(3_000, 0.5, 6))])
    assert written([fit(outcomes(3_000, 0.5, 6))]) != written([fit(outcomes(3_000, 0.5, 7))])


def test_a_horizon_with_too_few_events_is_named_and_not_fitted() -> None:
    found = fit(outcomes(49, 0.5, 6))
    assert (found.method, found.curve) == ("insufficient", None)
    assert json.loads(written([found]))["not_fitted"] == [{"horizon_bars": 10, "n_events": 49}]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.update(version=1), "version"),
        (lambda d: d["horizons"][0].pop("why"), "why"),
        (lambda d: d["horizons"][0]["knots"].pop("p_low"), "p_low"),
        (lambda d: d["horizons"][0]["test_vectors"].pop("p_high"), "p_high"),
        (lambda d: d["horizons"][0]["knots"]["p_high"].append(1.5), "1.5"),
    ],
)
def test_the_schema_refuses_another_form(change: Callable[[dict[str, Any]], Any], named: str) -> None:
    document = json.loads(written([fit(outcomes(300, -0.5, 4))]))
    change(document)
    with pytest.raises(StoreError, match=named):
        store.validate(document, SCHEMA)


def test_events_in_few_stretches_of_time_have_no_interval_and_can_be_written() -> None:
    score, label, _ = events(60, 0.5, 5)
    q = quality(score / 100, label, 0.5, np.arange(60), **QUALITY)
    assert q.brier is not None
    assert q.error_interval is None
    assert q.gain_interval is None


def test_fewer_events_than_folds_are_fitted_without_empty_folds() -> None:
    bars = random_bars(np.random.default_rng(11), 3_000, kind="plain")
    part = SymbolPart("A", bars)
    params = DetectorParams(FeatureParams(window=40), DecisionParams(min_score=20.0, z_hi=1.0, z_mid=0.2))
    found, rows = find_events(params, SessionClock(), part)
    evaluated = evaluate([found], [rows], (5,), 1_000, 0.0)
    fitted = fit_horizon(
        evaluated, 0, n_folds=500, n_bins=10, isotonic_floor=1_000, min_events=10, bar_ms=1_000, n_bootstrap=50, seed=1
    )
    assert fitted.n_folds == fitted.n < 500
    assert isinstance(fitted.curve, Curve)
