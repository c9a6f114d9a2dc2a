"""The compiled kernel against the naive oracle: every feature and every event, every field, with ==."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import detector as oracle
from tests.oracle.markets import markets, random_bars
from v13 import market
from v13.detector import (
    BucketOverride,
    DecisionParams,
    Detector,
    DetectorParams,
    FeatureParams,
    SessionClock,
    compute_features,
)

EASY = DecisionParams(swing_L=3, z_hi=0.8, z_mid=0.2, min_score=15.0, cooldown_ms=4_000, min_swing_bps=1.0)
MIXED = (
    BucketOverride({"source": "OFI_ONLY"}, {"swing_L": 5}),
    BucketOverride({"source": "CVD_ONLY", "liquidity": "active"}, {"swing_L": 8, "z_hi": 1.1}),
    BucketOverride({"session": "day"}, {"min_score": 30.0, "cooldown_ms": 9_000, "min_separation": 9}),
)
CLOCK = SessionClock("Asia/Kolkata", "05:31", "06:02")


def rows_of(array: np.ndarray) -> list[dict[str, float]]:
    return [{name: row[name].item() for name in array.dtype.names} for row in array]


def same(ours: np.ndarray, theirs: list[dict[str, float]]) -> None:
    """Demand equality of every field of every row; NaN equals NaN."""
    assert len(ours) == len(theirs)
    for i, (mine, other) in enumerate(zip(rows_of(ours), theirs, strict=True)):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            both_nan = isinstance(value, float) and math.isnan(value) and math.isnan(other[name])
            assert both_nan or value == other[name], f"row {i}, {name}: kernel {value!r}, oracle {other[name]!r}"


class Drawn(SessionClock):
    """Sessions as a test drew them, far oftener switching than in life."""

    def __init__(self, flags: list[int]) -> None:
        super().__init__()
        self._drawn = np.array(flags, np.int64)

    def flags(self, ts_ms: np.ndarray) -> np.ndarray:
        assert len(ts_ms) == len(self._drawn)
        return self._drawn


def compare(params: DetectorParams, bars: np.ndarray, clock: SessionClock) -> int:
    sessions = clock.flags(bars["ts_ms"] - params.features.bar_ms).tolist()
    rows, feature_counts = oracle.features(rows_of(bars), sessions, rows_of(params.features.record())[0])
    same(compute_features(params, bars, clock), rows)
    events, decision_counts = oracle.events(rows, rows_of(params.record()), params.features.bar_ms)
    detector = Detector(params, clock)
    found = detector.run(bars)
    same(found, events)
    assert detector.counters == decision_counts | feature_counts
    return len(found)


@settings(max_examples=40, deadline=None)
@given(
    markets(),
    st.sampled_from([10, 31, 40]),
    st.sampled_from(["delta", "level"]),
    st.sampled_from([(), MIXED]),
    st.sampled_from([1, 5]),
)
def test_kernel_and_oracle_agree_on_random_markets(
    drawn: tuple[np.ndarray, list[int]],
    window: int,
    mode: str,
    overrides: tuple[BucketOverride, ...],
    ema_k: int,
) -> None:
    bars, sessions = drawn
    params = DetectorParams(FeatureParams(window=window, ema_k=ema_k, mode=mode, activity_k=7), EASY, overrides)
    compare(params, bars, Drawn(sessions))


def test_the_random_markets_reach_every_type_and_every_gate() -> None:
    types, reasons = set(), set()
    for seed in range(6):
        detector = Detector(DetectorParams(FeatureParams(window=40, activity_k=7), EASY, MIXED), CLOCK)
        types |= set(detector.run(random_bars(np.random.default_rng(seed), 1_500))["type"].tolist())
        reasons |= {name for name, n in detector.counters.items() if n}
    assert types == {0, 1, 2, 3, 4}
    assert reasons == set(Detector(DetectorParams()).counters)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("files", "n_bars", "least"),
    [
        (("klines/spot_BTCUSDT_1m_2025-10-29.parquet",), 1_500, 20),
        (
            (
                "quotes_trades/usdm_BTCUSDT_2024-07-18_trades.parquet",
                "quotes_trades/usdm_BTCUSDT_2024-07-18_bookticker.parquet",
            ),
            600,
            10,
        ),
        (
            (
                "quotes_trades/spot_ETHUSDT_2024-08-08_trades.parquet",
                "quotes_trades/spot_ETHUSDT_2024-08-08_bookticker.parquet",
            ),
            700,
            10,
        ),
        (("trades/spot_ETHUSDT_2025-10-20_2025-10-21_blocks.parquet",), 5_000, 5),
    ],
)
def test_kernel_and_oracle_agree_on_real_recordings(
    shared_data: Path, files: tuple[str, ...], n_bars: int, least: int
) -> None:
    (recording,) = market.load([shared_data / f for f in files]).values()
    params = DetectorParams(FeatureParams(bar_ms=recording.bar_ms, window=60), EASY, MIXED)
    assert compare(params, recording.bars[:n_bars], CLOCK) >= least
