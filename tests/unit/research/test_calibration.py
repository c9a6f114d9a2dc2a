"""Calibration: what is fitted, what is said of it, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import v13.research
from tests.oracle.markets import random_bars
from v13 import store
from v13.detector import CalibrationMap, DecisionParams, DetectorParams, FeatureParams, SessionClock
from v13.errors import DataError, StoreError
from v13.research.calibration import fit_curve, fit_horizon, quality
from v13.research.trials import SymbolPart, evaluate, find_events

SCHEMA = Path(v13.research.__file__).parent / "schemas" / "calibration.schema.json"


def events(n: int, slope: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.uniform(40, 100, n)
    label = (rng.random(n) < 0.5 + slope * (score - 70) / 60).astype(np.int64)
    return score, label, (2 * label - 1) * rng.gamma(2.0, 1e-4, n)


@pytest.mark.parametrize(("n", "method"), [(3_000, "isotonic"), (400, "sigmoid")])
def test_the_method_follows_the_number_of_events_and_the_curve_rises(n: int, method: str) -> None:
    score, label, returns = events(n, 0.5, 1)
    curve, used = fit_curve(score, label, returns, 10, 1_000)
    assert used == method
    assert np.all(np.diff(curve.prob) >= 0)
    assert np.all(np.diff(curve.expected_return) >= 0)
    at = CalibrationMap({10: curve}).prob([45.0, 70.0, 95.0], 10)
    assert at == pytest.approx([0.29, 0.5, 0.71], abs=0.1)


def test_a_falling_score_gives_a_constant_not_a_falling_curve() -> None:
    score, label, returns = events(400, -0.5, 2)
    curve, used = fit_curve(score, label, returns, 10, 1_000)
    assert used == "constant"
    assert np.ptp(curve.prob) == 0
    assert curve.prob[0] == pytest.approx(label.mean())
    assert np.ptp(curve.expected_return) == 0


def test_one_outcome_only_is_a_constant() -> None:
    score = np.linspace(40, 90, 60)
    curve, used = fit_curve(score, np.ones(60, np.int64), np.full(60, 1e-4), 10, 1_000)
    assert used == "constant"
    assert np.all(curve.prob == 1.0)


def test_steps_fitted_on_noise_do_not_beat_a_constant_on_new_events() -> None:
    worse = []
    for seed in range(30):
        score, label, returns = events(300, 0.0, seed)
        curve, _ = fit_curve(score, label, returns, 10, isotonic_floor=0)
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


def test_the_map_refuses_what_it_could_not_evaluate() -> None:
    good = {"score": [40.0, 60.0], "prob": [0.5, 0.6], "expected_return": [0.0, 1e-4]}
    for name, value in (
        ("score", [60.0, 40.0]),
        ("prob", [0.5, 1.5]),
        ("prob", [0.5]),
        ("expected_return", [0.0, None]),
    ):
        with pytest.raises(DataError):
            CalibrationMap.from_dict({"horizons": [{"horizon_bars": 10, "knots": good | {name: value}}]})
    with pytest.raises(DataError, match="no curve for horizon 20"):
        CalibrationMap.from_dict({"horizons": [{"horizon_bars": 10, "knots": good}]}).prob(50.0, 20)


def test_the_schema_refuses_an_unknown_key() -> None:
    document = {
        "version": 1,
        "key": "a" * 64,
        "simulated": True,
        "parameters_fingerprint": "b" * 64,
        "horizons": [],
        "not_fitted": [],
    }
    store.validate(document, SCHEMA)
    with pytest.raises(StoreError, match="surprise"):
        store.validate(document | {"surprise": 1}, SCHEMA)


def test_events_in_few_stretches_of_time_have_no_interval_and_can_be_written() -> None:
    score, label, _ = events(60, 0.5, 5)
    q = quality(score / 100, label, 0.5, np.arange(60), n_bins=10, block_ms=1_000, n_bootstrap=50, seed=1)
    assert q.brier is not None
    assert q.error_interval is None


def test_fewer_events_than_folds_are_fitted_without_empty_folds() -> None:
    bars = random_bars(np.random.default_rng(11), 3_000, kind="plain")
    part = SymbolPart("A", bars)
    params = DetectorParams(FeatureParams(window=40), DecisionParams(min_score=20.0, z_hi=1.0, z_mid=0.2))
    found, rows = find_events(params, SessionClock(), part)
    outcomes = evaluate([found], [rows], (5,), 1_000, 0.0)
    fit = fit_horizon(
        outcomes, 0, n_folds=500, n_bins=10, isotonic_floor=1_000, min_events=10, bar_ms=1_000, n_bootstrap=50, seed=1
    )
    assert fit.n_folds == fit.n < 500
    assert fit.curve is not None
