"""What the runner asks of the detector beside events: prices, rules, parameters from plain values."""

from __future__ import annotations

import json

import numpy as np

from v13.detector import (
    BucketOverride,
    CalibrationMap,
    Curve,
    DecisionParams,
    DetectorParams,
    FeatureParams,
    compute_features,
    prices,
)
from v13.market import MarketSpec, simulate_bars

PARAMS = DetectorParams(
    FeatureParams(window=60),
    DecisionParams(z_hi=1.5),
    (
        BucketOverride({"session": "day"}, {"z_hi": 1.8}),
        BucketOverride({"session": "day", "source": "FUSION"}, {"swing_L": 8}),
    ),
)


def test_prices_are_those_of_the_feature_stage() -> None:
    bars = simulate_bars(MarketSpec(kind="clustered_flow", n_bars=4_000), 3).bars
    rng = np.random.default_rng(1)
    bars["mid"][rng.random(len(bars)) < 0.2] = np.nan
    bars["close"][rng.random(len(bars)) < 0.2] = np.nan
    bars["lag_quote_ms"][rng.random(len(bars)) < 0.3] = 60_000
    bars["lag_quote_ms"][rng.random(len(bars)) < 0.1] = -1
    expected = compute_features(PARAMS, bars)["px"]
    assert np.array_equal(prices(PARAMS.features, bars), expected, equal_nan=True)
    assert np.isnan(expected).any()


def test_each_bucket_names_the_overrides_that_apply_most_general_first() -> None:
    rules = PARAMS.rules()
    assert rules[0] == "global"
    assert rules[6] == "session=day -> z_hi=1.8"
    assert rules[8] == "session=day -> z_hi=1.8; session=day,source=FUSION -> swing_L=8"
    assert len(rules) == 12
    for rule, params in zip(rules, PARAMS.bucket_params(), strict=True):
        assert (rule == "global") == (params == PARAMS.decision)


def test_parameters_and_calibration_survive_json() -> None:
    assert DetectorParams.from_dict(json.loads(json.dumps(PARAMS.to_dict()))) == PARAMS
    knots = np.array([40.0, 60.0, 80.0])
    prob = np.array([0.5, 0.55, 0.6])
    curves = {10: Curve(10, knots, prob, 1e-4 * prob, prob - 0.1, prob + 0.1)}
    again = CalibrationMap.from_dict(json.loads(json.dumps(CalibrationMap(curves).to_dict())))
    at = np.linspace(0, 100, 33)
    assert np.array_equal(again.prob(at, 10), CalibrationMap(curves).prob(at, 10))
    assert np.array_equal(again.interval(at, 10), CalibrationMap(curves).interval(at, 10))


def test_a_rule_reads_the_same_however_its_keys_and_the_overrides_are_ordered() -> None:
    when, changed = {"session": "day", "source": "FUSION"}, {"swing_L": 8, "z_hi": 1.8, "min_score": 1.0}
    overrides = (
        BucketOverride({"session": "day"}, {"cooldown_ms": 1}),
        BucketOverride({"source": "FUSION"}, {"min_separation": 7}),
        BucketOverride(when, changed),
    )
    turned = tuple(
        BucketOverride(dict(reversed(o.when.items())), dict(reversed(o.set.items()))) for o in reversed(overrides)
    )
    one, other = DetectorParams(overrides=overrides), DetectorParams(overrides=turned)
    assert one.fingerprint() == other.fingerprint()
    assert one.rules() == other.rules()
    assert one.rules()[8].endswith("; session=day,source=FUSION -> swing_L=8,z_hi=1.8,min_score=1.0")
