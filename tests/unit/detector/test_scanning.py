"""The scan of many swings at once: against each swing alone, and whatever the threads."""

from __future__ import annotations

import numpy as np
import pytest

from v13 import market
from v13.detector import DetectorParams, FeatureParams, Scan, candidates, compute_features, scan

FEATURES = FeatureParams(window=40)
SWINGS = (2, 5, 9)


def rows_of(n_bars: int, seed: int = 3) -> np.ndarray:
    bars = market.simulate_bars(market.MarketSpec("clustered_flow", n_bars), seed).bars
    rng = np.random.default_rng(seed)
    # Lost bars first, then a stretch long enough to be cut for threads; bars without a price throughout.
    bars = bars[(rng.random(len(bars)) > 0.002) | (np.arange(len(bars)) > 20_000)].copy()
    silent = rng.random(len(bars)) < 0.02
    bars["mid"][silent] = bars["close"][silent] = np.nan
    return compute_features(DetectorParams(FEATURES), bars)


ROWS = rows_of(120_000)


def same(a: Scan, b: Scan) -> bool:
    return a.taken.tobytes() == b.taken.tobytes() and all(
        a.candidates[swing].tobytes() == b.candidates[swing].tobytes() for swing in SWINGS
    )


def test_threads_change_nothing() -> None:
    alone = scan(ROWS, SWINGS, 1_000)
    assert all(len(alone.candidates[swing]) > 500 for swing in SWINGS)
    for workers in (2, 3, 7):
        assert same(scan(ROWS, SWINGS, 1_000, workers=workers), alone)


@pytest.mark.parametrize("swing_L", SWINGS)
def test_swings_found_together_are_those_found_alone(swing_L: int) -> None:
    together = scan(ROWS, SWINGS, 1_000)
    assert together.events(swing_L).tobytes() == candidates(ROWS, swing_L, 1_000).tobytes()


def test_lowest_thresholds_leave_out_what_lies_below_them_and_nothing_else() -> None:
    every, some = scan(ROWS, SWINGS, 1_000), scan(ROWS, SWINGS, 1_000, z_hi=0.9, z_mid=0.3)
    for swing in SWINGS:
        found = every.candidates[swing]
        reach = (found["u"] >= 0.9) & (found["v"] >= 0.3)
        assert 0 < reach.sum() < len(found)
        assert some.candidates[swing].tobytes() == found[reach].tobytes()


def test_chosen_candidates_become_the_same_events() -> None:
    found = scan(ROWS, SWINGS, 1_000)
    every = found.events(5)
    which = np.array([0, 7, 7, len(every) - 1])
    assert found.events(5, which).tobytes() == every[which].tobytes()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_market_too_short_for_a_swing_has_no_candidate(n: int) -> None:
    found = scan(ROWS[:n], SWINGS, 1_000, workers=3)
    assert [len(found.candidates[swing]) for swing in SWINGS] == [0, 0, 0]
