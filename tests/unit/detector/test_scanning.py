"""The scan of many swings at once: against each swing alone, and whatever the threads."""

from __future__ import annotations

import numpy as np
import pytest

from v13 import market
from v13.detector import (
    DetectorParams,
    FeatureColumns,
    FeatureParams,
    Scan,
    candidates,
    compute_features,
    scan,
    scanning,
)

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
COLUMNS = FeatureColumns.of(ROWS, 1_000)


def same(a: Scan, b: Scan) -> bool:
    return a.taken.tobytes() == b.taken.tobytes() and all(
        a.candidates[swing].tobytes() == b.candidates[swing].tobytes() for swing in SWINGS
    )


def test_threads_change_nothing() -> None:
    alone = scan(COLUMNS, SWINGS)
    assert all(len(alone.candidates[swing]) > 500 for swing in SWINGS)
    for workers in (2, 3, 7):
        assert same(scan(COLUMNS, SWINGS, workers=workers), alone)


@pytest.mark.parametrize(("chunk", "block", "look_back"), [(1, 1, 1), (37, 5, 3), (1_000, 64, 16), (200_000, 512, 4)])
def test_no_cutting_of_the_bars_changes_a_candidate(
    chunk: int, block: int, look_back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.concatenate([ROWS[:6_000], ROWS[60_000:66_000]])
    columns = FeatureColumns.of(rows, 1_000)
    whole = scan(columns, SWINGS)
    for name, value in (("CHUNK_BARS", chunk), ("BLOCK_BARS", block), ("LOOK_BACK_BARS", look_back)):
        monkeypatch.setattr(scanning, name, value)
    assert len(columns.runs) > 10
    for workers in (1, 3):
        assert same(scan(columns, SWINGS, workers=workers), whole)


@pytest.mark.parametrize("swing_L", SWINGS)
def test_swings_found_together_are_those_found_alone(swing_L: int) -> None:
    together = scan(COLUMNS, SWINGS)
    assert together.events(swing_L).tobytes() == candidates(ROWS, swing_L, 1_000).tobytes()


def test_lowest_thresholds_leave_out_what_lies_below_them_and_nothing_else() -> None:
    every, some = scan(COLUMNS, SWINGS), scan(COLUMNS, SWINGS, z_hi=0.9, z_mid=0.3)
    for swing in SWINGS:
        found = every.candidates[swing]
        reach = (found["u"] >= 0.9) & (found["v"] >= 0.3)
        assert 0 < reach.sum() < len(found)
        assert some.candidates[swing].tobytes() == found[reach].tobytes()


def test_chosen_candidates_become_the_same_events() -> None:
    found = scan(COLUMNS, SWINGS)
    every = found.events(5)
    which = np.array([0, 7, 7, len(every) - 1])
    assert found.events(5, which).tobytes() == every[which].tobytes()


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_market_too_short_for_a_swing_has_no_candidate(n: int) -> None:
    found = scan(FeatureColumns.of(ROWS[:n], 1_000), SWINGS, workers=3)
    assert [len(found.candidates[swing]) for swing in SWINGS] == [0, 0, 0]
