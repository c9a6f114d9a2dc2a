"""A market small enough to work out with pencil and paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from v13.detector import BAR, DecisionParams, Detector, DetectorParams, FeatureParams, SessionClock, compute_features
from v13.errors import ConfigError


def klines(price: list[float], delta: list[float]) -> np.ndarray:
    bars = np.zeros(len(price), BAR)
    bars["ts_ms"] = 60_000 * np.arange(1, len(price) + 1)
    for name in ("open", "high", "low", "close"):
        bars[name] = price
    bars["mid"], bars["ofi"] = math.nan, math.nan
    bars["lag_quote_ms"] = -1
    bars["volume"], bars["n_trades"] = 1.0, 1
    bars["delta"] = delta
    return bars


def test_a_z_score_by_hand() -> None:
    """Window 1..10, next value 10.5: median 5.5; deviations .5 .5 1.5 1.5 2.5 2.5 3.5 3.5 4.5 4.5, so MAD 2.5."""
    bars = klines([100.0] * 12, [*map(float, range(1, 11)), 10.5, 0.0])
    rows = compute_features(DetectorParams(FeatureParams(bar_ms=60_000, window=10, ema_k=3)), bars)
    assert np.all(np.isnan(rows["z_cvd"][:10]))
    first = 5.0 / (1.4826022185056018 * 2.5)
    assert rows["z_cvd"][10] == pytest.approx(first, rel=1e-15)
    # Bar 11: window 2..10, 10.5: median 6.5; deviations .5 .5 1.5 1.5 2.5 2.5 3.5 3.5 4 4.5, MAD 2.5; alpha = 1/2.
    second = (0.0 - 6.5) / (1.4826022185056018 * 2.5)
    assert rows["z_cvd"][11] == pytest.approx(first + 0.5 * (second - first), rel=1e-15)
    assert np.all(np.isnan(rows["z_ofi"]))
    assert np.array_equal(rows["fallback"], [0] * 10 + [1] * 2)


def test_the_scale_floor_holds_where_most_bars_are_idle() -> None:
    """Window of 18 zeros, -4 and 6: MAD 0, 5-95 % range from S[0] = -4 to S[19] = 6, floor 0.1 * 10 / 3.2897."""
    bars = klines([100.0] * 21, [0.0] * 18 + [-4.0, 6.0, 0.5])
    rows = compute_features(DetectorParams(FeatureParams(bar_ms=60_000, window=20, ema_k=1)), bars)
    assert rows["z_cvd"][20] == pytest.approx(0.5 / (0.1 * 10.0 / 3.289707253902945), rel=1e-15)


def test_a_bull_divergence_by_hand() -> None:
    """Lows at bars 14 (98) and 20 (97), L = 2; flow 2 at the first, 5 at the second: lower low, higher flow."""
    price = [100.0] * 12 + [100.0, 99.0, 98.0, 99.0, 100.0, 100.5, 100.0, 99.0, 97.0, 98.5, 99.0, 99.5]
    delta = [float(x) for x in ([-1, 1, -1, 1, -1, 1, -1, 1, -1, 1] + [0] * 14)]
    delta[14], delta[20] = 2.0, 5.0
    params = DetectorParams(
        FeatureParams(bar_ms=60_000, window=10, ema_k=1, z_clip=100.0),
        DecisionParams(2, 1.0, 0.5, 5, 0, 0.0, 0.0, 0.0),
    )
    events = Detector(params).run(klines(price, delta))
    (event,) = events
    # At 14 the window is bars 4-13: six values +-1 and four zeros; median 0, deviations 0 0 0 0 1 1 1 1 1 1, MAD 1.
    assert event["a_z"] == pytest.approx(2.0 / 1.4826022185056018, rel=1e-15)
    # At 20 it is bars 10-19: nine zeros and a 2; MAD 0, range S[9] - S[0] = 2, so the floor 0.1 * 2 / 3.2897 acts.
    assert event["b_z"] == pytest.approx(5.0 / (0.2 / 3.289707253902945), rel=1e-14)
    assert (event["type"], event["side"], event["kind"], event["source"]) == (0, 1, 0, 1)
    assert (event["bar"], event["ts_ms"], event["a_ts_ms"], event["b_ts_ms"]) == (
        22,
        23 * 60_000,
        15 * 60_000,
        21 * 60_000,
    )
    assert (event["gap_bars"], event["a_px"], event["b_px"], event["px"]) == (6, 98.0, 97.0, 99.0)
    # Heights: A 2 and 2; B 3 (100) and 2 (99). Validity (1 + 2/3) / 2. One source: agreement 0.25 * 2 * 1.
    validity = 0.5 * (1.0 + 2.0 / 3.0)
    assert event["pivot_validity"] == pytest.approx(validity)
    assert event["agreement"] == 0.5
    assert event["z_magnitude"] == 1.0
    assert event["score"] == pytest.approx(100 * (0.35 + 0.25 * validity + 0.125))
    assert event["swing_bps"] == pytest.approx(1e4 * 3.0 / 97.0)


def test_sessions_follow_the_local_clock_through_daylight_saving() -> None:
    clock = SessionClock("America/New_York", "09:30", "16:00")
    winter = np.datetime64("2024-03-08T14:29:59", "ms").astype(np.int64)  # 09:29:59 EST
    summer = np.datetime64("2024-03-11T13:30:00", "ms").astype(np.int64)  # 09:30:00 EDT
    moments = np.array([winter, winter + 1_000, summer - 1_000, summer], np.int64)
    assert clock.flags(moments).tolist() == [0, 1, 0, 1]
    assert [clock.flag(int(m)) for m in moments] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "arguments",
    [("Mars/Olympus", "09:00", "17:00"), ("UTC", "17:00", "09:00"), ("UTC", "9am", "17:00"), ("UTC", "09:61", "17:00")],
)
def test_a_bad_session_is_refused(arguments: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError):
        SessionClock(*arguments)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FeatureParams, {"window": 5}),
        (FeatureParams, {"mode": "sum"}),
        (FeatureParams, {"w_ofi": 0.0, "w_cvd": 0.0}),
        (FeatureParams, {"z_clip": math.nan}),
        (FeatureParams, {"window": 300.0}),
        (DecisionParams, {"swing_L": 0}),
        (DecisionParams, {"z_hi": 0.5}),
        (DecisionParams, {"min_score": 101.0}),
    ],
)
def test_a_parameter_out_of_range_is_refused(kind: type, values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        kind(**values)


def test_the_fingerprint_tells_parameters_apart_and_ignores_comments() -> None:
    base = DetectorParams()
    assert base.fingerprint() == DetectorParams().fingerprint()
    assert base.fingerprint() != DetectorParams(decision=DecisionParams(z_hi=2.1)).fingerprint()
    assert base.fingerprint() != DetectorParams(FeatureParams(ema_k=6)).fingerprint()
