"""What must hold of the detector whatever the market: gates, symmetry, units, degenerate input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.markets import random_bars
from v13.detector import (
    BAR,
    BucketOverride,
    DecisionParams,
    Detector,
    DetectorParams,
    FeatureParams,
    candidates,
    compute_features,
    divergences,
    replay,
)
from v13.errors import ConfigError

FEATURES = FeatureParams(window=40, ema_k=3)
OPEN = DecisionParams(
    swing_L=4, z_hi=0.0, z_mid=0.0, min_separation=0, cooldown_ms=0, min_score=0.0, min_vol_ok=0.0, min_swing_bps=0.0
)
SEEDS = st.integers(0, 10_000)


def run(bars: np.ndarray, decision: DecisionParams = OPEN, features: FeatureParams = FEATURES) -> np.ndarray:
    return divergences(Detector(DetectorParams(features, decision)).run(bars))


def market(seed: int, n: int = 1_500, **kind: str) -> np.ndarray:
    return random_bars(np.random.default_rng(seed), n, **kind)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(["z_hi", "z_mid"]), st.floats(0.1, 1.5))
def test_raising_a_threshold_never_adds_an_event_before_cooldown(seed: int, name: str, step: float) -> None:
    bars = market(seed)
    low = replace(OPEN, z_hi=1.6, z_mid=0.1)
    high = replace(low, **{name: min(getattr(low, name) + step, 1.6 if name == "z_mid" else 99.0)})
    before, after = run(bars, low), run(bars, high)
    assert set(after["bar"]) <= set(before["bar"])


def test_thresholds_really_gate() -> None:
    bars = market(1, 6_000)
    counts = [len(run(bars, replace(OPEN, z_hi=z))) for z in (0.0, 1.0, 2.0, 3.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[3]
    counts = [len(run(bars, replace(OPEN, z_hi=2.0, z_mid=z))) for z in (0.0, 0.5, 1.0, 2.0)]
    assert counts[0] > counts[1] > counts[3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_separation": 40}, "min_separation"),
        ({"cooldown_ms": 120_000}, "cooldown"),
        ({"min_score": 60.0}, "low_score"),
        ({"min_swing_bps": 30.0}, "low_vol"),
        ({"min_vol_ok": 0.9}, "low_vol"),
        ({"z_hi": 2.0}, "threshold"),
    ],
)
def test_every_gate_removes_events_and_counts_them(change: dict[str, float], reason: str) -> None:
    bars = market(2, 6_000)
    detector = Detector(DetectorParams(FEATURES, replace(OPEN, **change)))
    kept = divergences(detector.run(bars))
    assert 0 < len(kept) < len(run(bars))
    assert detector.counters[reason] > 0


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_pivot_pair_fires_at_most_once_and_only_when_known(seed: int) -> None:
    events = run(market(seed))
    pairs = [(int(e["a_ts_ms"]), int(e["b_ts_ms"])) for e in events]
    assert len(pairs) == len(set(pairs))
    assert len(np.unique(events["bar"])) == len(events)
    assert np.all(events["ts_ms"] - events["b_ts_ms"] >= OPEN.swing_L * FEATURES.bar_ms)
    assert np.all(events["a_ts_ms"] < events["b_ts_ms"])


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_four_kinds_say_what_they_mean(seed: int) -> None:
    for e in run(market(seed)):
        price, flow = np.sign(e["b_px"] - e["a_px"]), np.sign(e["b_z"] - e["a_z"])
        expected = {(-1, 1): (1, 0, 0), (1, -1): (1, 2, 1), (-1, 1, "high"): (-1, 3, 1), (1, -1, "high"): (-1, 1, 0)}
        key = (price, flow) if e["side"] == 1 else (price, flow, "high")
        assert (e["side"], e["type"], e["kind"]) == expected[key]


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_scores_and_parts_stay_in_range_and_nan_never_enters(seed: int) -> None:
    events = run(market(seed))
    for name in ("z_magnitude", "pivot_validity", "agreement", "vol_ok", "consistency"):
        assert np.all((events[name] >= 0) & (events[name] <= 1)), name
    assert np.all((events["score"] >= 0) & (events["score"] <= 100))
    for name in ("px", "a_px", "b_px", "a_z", "b_z", "score"):
        assert np.all(np.isfinite(events[name])), name


def exact(seed: int, n: int = 1_500) -> np.ndarray:
    """A market whose numbers are dyadic, so that mirroring and scaling by powers of two are exact."""
    bars = market(seed, n)
    for name in ("open", "high", "low", "close", "mid"):
        bars[name] = np.round(bars[name] * 4) / 4
    for name in ("delta", "ofi", "volume"):
        bars[name] = np.round(bars[name] * 64) / 64
    return bars


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["delta", "level"]))
def test_mirrored_prices_and_flows_mirror_the_sides_and_keep_the_scores(seed: int, mode: str) -> None:
    bars = exact(seed)
    mirrored = bars.copy()
    top = 2.0 * np.ceil(np.nanmax([np.nanmax(bars["high"]), np.nanmax(bars["mid"])]))
    for name in ("open", "close", "mid"):
        mirrored[name] = top - bars[name]
    mirrored["high"], mirrored["low"] = top - bars["low"], top - bars["high"]
    mirrored["delta"], mirrored["ofi"] = -bars["delta"], -bars["ofi"]
    features = replace(FEATURES, mode=mode)
    events, image = run(bars, features=features), run(mirrored, features=features)
    assert len(events) == len(image) > 0
    assert np.array_equal(image["side"], -events["side"])
    for name in ("ts_ms", "kind", "source", "agree", "score", "pivot_validity", "gap_bars"):
        assert np.array_equal(image[name], events[name]), name
    assert np.array_equal(image["a_z"], -events["a_z"])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([0.25, 2.0, 1024.0]), st.sampled_from([0.5, 8.0]))
def test_units_of_price_and_size_do_not_matter(seed: int, price: float, size: float) -> None:
    bars = exact(seed)
    scaled = bars.copy()
    for name in ("open", "high", "low", "close", "mid"):
        scaled[name] *= price
    for name in ("delta", "ofi", "volume"):
        scaled[name] *= size
    events, image = run(bars), run(scaled)
    for name in ("px", "a_px", "b_px"):
        events[name] *= price
    assert image.tobytes() == events.tobytes()


def test_a_flat_market_makes_no_pivots() -> None:
    bars = market(3)
    for name in ("open", "high", "low", "close", "mid"):
        bars[name] = 100.0
    assert len(candidates(compute_features(DetectorParams(FEATURES), bars), 4, 1_000)) == 0


def test_flow_without_scale_gives_zero_and_is_counted() -> None:
    bars = market(4, kind="plain")
    bars["delta"] = 0.0
    detector = Detector(DetectorParams(FEATURES, OPEN))
    detector.run(bars)
    rows = compute_features(DetectorParams(FEATURES), bars)
    assert np.all(rows["z_cvd"][rows["status_cvd"] == 0] == 0.0)
    assert detector.counters["zero_scale"] >= len(bars) - FEATURES.window


def test_a_gap_ends_a_swing_instead_of_bridging_it() -> None:
    """Two clean lows with a divergence between them: an event; the same bars with an hour missing between: none."""
    n, at_a, at_b = 120, 60, 90
    bars = np.zeros(n, BAR)
    bars["ts_ms"] = 1_700_000_000_000 + 1_000 * np.arange(1, n + 1)
    price = np.full(n, 100.0) + 0.01 * np.minimum(abs(np.arange(n) - at_a), abs(np.arange(n) - at_b))
    price[at_b] -= 0.005
    for name in ("open", "high", "low", "close"):
        bars[name] = price
    bars["mid"] = np.nan
    bars["ofi"] = np.nan
    bars["lag_quote_ms"] = -1
    bars["volume"], bars["n_trades"] = 1.0, 1
    bars["delta"] = np.where(np.arange(n) % 2 == 0, 0.1, -0.1)
    bars["delta"][at_a], bars["delta"][at_b] = -0.3, 0.5
    bridged = run(bars)
    assert [(e["type"], e["b_px"]) for e in bridged] == [(0, price[at_b])]
    gapped = bars.copy()
    gapped["ts_ms"][75:] += 3_600_000
    assert len(run(gapped)) == 0


@settings(max_examples=15, deadline=None)
@given(
    SEEDS,
    st.sampled_from([3, 5, 8]),
    st.floats(0.0, 2.0),
    st.floats(0.0, 1.0),
    st.sampled_from([0, 5_000, 60_000]),
    st.sampled_from([0.0, 40.0]),
)
def test_replayed_candidates_are_the_detectors_events(
    seed: int, swing_L: int, z_hi: float, z_share: float, cooldown_ms: int, min_score: float
) -> None:
    bars = market(seed)
    decision = DecisionParams(swing_L, z_hi, z_hi * z_share, 5, cooldown_ms, min_score, 0.2, 0.5)
    params = DetectorParams(FEATURES, decision)
    rows = compute_features(params, bars)
    assert replay(candidates(rows, swing_L, 1_000), params).tobytes() == run(bars, decision).tobytes()


def test_overrides_go_to_their_bucket_and_the_most_specific_wins() -> None:
    params = DetectorParams(
        overrides=(
            BucketOverride({"session": "day"}, {"z_hi": 3.0, "z_mid": 1.0}),
            BucketOverride({"session": "day", "source": "FUSION"}, {"z_hi": 4.0}),
        )
    )
    resolved = params.bucket_params()
    assert [p.z_hi for p in resolved] == [2.0] * 6 + [3.0, 3.0, 4.0] * 2
    assert [p.z_mid for p in resolved] == [0.8] * 6 + [1.0] * 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([({"session": "noon"}, {"z_hi": 1.0})], "session"),
        ([({"weekday": "mon"}, {"z_hi": 1.0})], "weekday"),
        ([({"session": "day"}, {"window": 10})], "window"),
        ([({"session": "day"}, {})], "nothing"),
        ([({"session": "day"}, {"z_hi": 0.1})], "z_mid"),
        ([({"session": "day"}, {"z_hi": 3.0}), ({"liquidity": "active"}, {"z_hi": 4.0})], "equally specific"),
    ],
)
def test_a_bad_override_is_refused(overrides: list[tuple[dict[str, str], dict[str, float]]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorParams(overrides=tuple(BucketOverride(when, change) for when, change in overrides))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["trades_only", "quotes_only"]))
def test_one_source_alone_is_never_called_fused(seed: int, kind: str) -> None:
    bars = market(seed, kind=kind)
    overrides = (BucketOverride({"source": "FUSION"}, {"swing_L": 3}),)
    events = divergences(Detector(DetectorParams(FEATURES, OPEN, overrides)).run(bars))
    assert set(events["source"].tolist()) <= ({1} if kind == "trades_only" else {0})


def test_activity_starts_anew_when_its_unit_changes() -> None:
    bars = market(5, 200, kind="plain")
    bars["n_quotes"], bars["volume"] = 200, 0.5
    bars["lag_trade_ms"][:100] = -1
    rows = compute_features(DetectorParams(FEATURES), bars)
    assert np.all(rows["vol_ok"] == 1.0)


def test_a_dead_feed_without_trades_is_not_active() -> None:
    bars = market(6, 100, kind="plain")
    bars["lag_trade_ms"] = -1
    bars["lag_quote_ms"][50:] = 60_000
    rows = compute_features(DetectorParams(FEATURES), bars)
    assert np.all(rows["vol_ok"][:50] == 1.0)
    assert np.all(rows["vol_ok"][50:] == 0.0)
