"""Any cutting of the bars, one at a time, or through a restart: the same bytes. Compiled or not: the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.markets import random_bars
from tests.parity.runs import in_chunks, one_by_one, through_snapshots, whole
from v13.detector import BucketOverride, DecisionParams, Detector, DetectorParams, FeatureParams, prices
from v13.errors import DataError, StoreError

PARAMS = DetectorParams(
    FeatureParams(window=40, ema_k=3),
    DecisionParams(swing_L=5, z_hi=1.0, z_mid=0.3, min_score=20.0, cooldown_ms=3_000, min_swing_bps=0.0),
    (
        BucketOverride({"source": "OFI_ONLY"}, {"swing_L": 3}),
        BucketOverride({"liquidity": "active"}, {"z_hi": 1.4}),
    ),
)
LEVEL = DetectorParams(FeatureParams(window=40, mode="level"), PARAMS.decision)


def market(seed: int, n: int = 1_200) -> np.ndarray:
    return random_bars(np.random.default_rng(seed), n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 600), max_size=12), st.sampled_from([PARAMS, LEVEL]))
def test_any_cutting_and_any_restart_give_the_same_bytes(seed: int, cuts: list[int], params: DetectorParams) -> None:
    bars = market(seed, 600)
    expected = whole(params, bars).tobytes()
    assert in_chunks(params, bars, cuts).tobytes() == expected
    assert through_snapshots(params, bars, cuts).tobytes() == expected


def test_one_bar_at_a_time_gives_the_same_bytes() -> None:
    bars = market(1)
    events = whole(PARAMS, bars)
    assert len(events) > 20
    assert one_by_one(PARAMS, bars).tobytes() == events.tobytes()


def test_a_snapshot_is_taken_again_byte_for_byte() -> None:
    detector = Detector(PARAMS)
    detector.run(market(2))
    other = Detector(PARAMS)
    other.restore(detector.snapshot())
    assert other.snapshot() == detector.snapshot()
    assert other.counters == detector.counters


def test_reset_forgets_everything() -> None:
    bars = market(3)
    detector = Detector(PARAMS)
    fresh = detector.snapshot()
    detector.run(bars)
    assert detector.snapshot() != fresh
    detector.reset()
    assert detector.snapshot() == fresh
    assert detector.run(bars).tobytes() == whole(PARAMS, bars).tobytes()


def test_after_an_update_the_last_price_is_that_of_prices_and_the_mark_changes_with_the_counters() -> None:
    bars = market(3)
    bars["lag_quote_ms"][::7] = 10**9  # a stale quote: the price is the close
    detector, changes = Detector(PARAMS), 0
    before = detector.counters, detector.counters_mark()
    for bar, px in zip(bars, prices(PARAMS.features, bars), strict=True):
        detector.update(bar)
        np.testing.assert_equal(detector.last_px, px)
        after = detector.counters, detector.counters_mark()
        assert (after[0] != before[0]) == (after[1] != before[1])
        changes += after[0] != before[0]
        before = after
    assert changes > 0


@pytest.mark.parametrize("damage", ["cut", "flip", "other parameters", "empty", "version before"])
def test_a_damaged_snapshot_is_refused_and_leaves_the_state(damage: str) -> None:
    detector = Detector(PARAMS)
    detector.run(market(4))
    state = detector.snapshot()
    bad = {
        "cut": state[: len(state) // 2],
        "flip": state[:200] + bytes([state[200] ^ 0xFF]) + state[201:],
        "other parameters": Detector(LEVEL).snapshot(),
        "empty": b"",
        "version before": state.replace(b'"version": 2', b'"version": 1', 1),
    }[damage]
    with pytest.raises(StoreError):
        detector.restore(bad)
    assert detector.snapshot() == state


def test_bars_that_step_back_are_refused_and_leave_the_state() -> None:
    bars = market(5)
    detector = Detector(PARAMS)
    detector.run(bars[:100])
    state = detector.snapshot()
    with pytest.raises(DataError, match="does not follow"):
        detector.run(bars[50:60])
    with pytest.raises(DataError, match="does not follow"):
        detector.update(bars[99])
    for name in ("close", "mid"):
        broken = bars[100:101].copy()
        broken[name] = -1.0
        with pytest.raises(DataError, match="positive"):
            detector.update(broken[0])
        with pytest.raises(DataError, match="positive"):
            detector.run(broken)
    for value in (np.nan, np.inf):
        broken = bars[100:101].copy()
        broken["volume"] = value
        with pytest.raises(DataError, match="volume"):
            detector.update(broken[0])
    assert detector.snapshot() == state


_WITHOUT_JIT = """
import hashlib, sys
import numpy as np
from tests.parity.test_partition import LEVEL, PARAMS, market
from tests.parity.runs import whole
digest = hashlib.sha256()
for params in (PARAMS, LEVEL):
    digest.update(whole(params, market(7)).tobytes())
print(digest.hexdigest())
"""


def test_compiled_and_interpreted_give_the_same_bytes(repo: Path) -> None:
    digest = hashlib.sha256()
    for params in (PARAMS, LEVEL):
        digest.update(whole(params, market(7)).tobytes())
    interpreted = subprocess.run(
        [sys.executable, "-c", _WITHOUT_JIT],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert interpreted.stdout.strip() == digest.hexdigest()


def test_bars_of_another_length_than_the_parameters_are_refused() -> None:
    minutes = random_bars(np.random.default_rng(8), 30, bar_ms=60_000, kind="plain")
    with pytest.raises(DataError, match="bar_ms is 1000"):
        Detector(PARAMS).run(minutes)
    with pytest.raises(DataError, match="bar_ms is 60000"):
        Detector(DetectorParams(FeatureParams(bar_ms=60_000))).run(market(9, 30))
