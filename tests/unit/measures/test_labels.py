"""Labels against hand-worked rows and a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.errors import DataError
from v13.measures import HIT, MISS, TIE, UNLABELLED, forward_returns, hits, returns_at, segments


def test_a_step_longer_than_one_and_a_half_bars_starts_a_segment() -> None:
    ts = np.array([1000, 2000, 3500, 5001, 6001, 9001], np.int64)
    # Steps 1000, 1500 (not longer than 1.5 bars), 1501, 1000, 3000.
    np.testing.assert_array_equal(segments(ts, 1000), [0, 0, 0, 1, 1, 2])


def test_no_bars_and_one_bar_have_segments_too() -> None:
    assert segments(np.zeros(0, np.int64), 1000).tolist() == []
    assert segments(np.array([7], np.int64), 1000).tolist() == [0]


@pytest.mark.parametrize(("ts", "bar_ms", "said"), [([0, 1000, 1000], 1000, "row 2"), ([0, 1000], 0, "bar_ms")])
def test_bad_bar_times_are_refused(ts: list[int], bar_ms: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        segments(np.array(ts, np.int64), bar_ms)


def test_returns_by_hand() -> None:
    px = np.array([100.0, 110.0, 100.0, np.nan, 50.0, 200.0])
    segment = np.array([0, 0, 0, 0, 1, 1], np.int64)
    expected = [0.0, math.nan, math.nan, math.nan, math.nan, math.nan]  # only 0 -> 2 has two prices in one run
    np.testing.assert_array_equal(forward_returns(px, segment, 2), expected)
    one = forward_returns(px, segment, 1)
    np.testing.assert_allclose(one[[0, 1, 4]], [math.log(1.1), math.log(100 / 110), math.log(4)], rtol=1e-15)
    assert np.isnan(one[[2, 3, 5]]).all()


@pytest.mark.parametrize("horizon", [1, 7, 300])
def test_returns_of_some_bars_are_those_of_all_bars_there(horizon: int) -> None:
    rng = np.random.default_rng(4)
    px = rng.uniform(90, 110, 200)
    px[rng.random(200) < 0.1] = np.nan
    segment = np.cumsum(rng.random(200) < 0.05).astype(np.int32)
    index = rng.integers(0, 200, 500)  # in no order, some twice
    expected = forward_returns(px, segment, horizon)[index]
    assert returns_at(px, segment, index, horizon).tobytes() == expected.tobytes()
    assert np.isnan(expected).any()


def test_equal_prices_give_exactly_zero() -> None:
    px = np.random.default_rng(3).uniform(0.1, 1e5, 1000)
    assert not forward_returns(np.repeat(px, 2), np.zeros(2000, np.int64), 1)[::2].any()


@given(
    st.lists(st.one_of(st.floats(0.01, 1e6), st.just(math.nan)), max_size=40),
    st.lists(st.booleans(), min_size=40, max_size=40),
    st.integers(1, 50),
)
def test_returns_match_a_plain_loop(prices: list[float], cuts: list[bool], horizon: int) -> None:
    segment = np.cumsum(cuts[: len(prices)]).astype(np.int64)
    found = forward_returns(np.array(prices, np.float64), segment, horizon)
    assert len(found) == len(prices)
    for i, value in enumerate(found):
        j = i + horizon
        if j >= len(prices) or segment[i] != segment[j] or math.isnan(prices[i]) or math.isnan(prices[j]):
            assert math.isnan(value)
        else:
            assert value == pytest.approx(math.log(prices[j]) - math.log(prices[i]), abs=1e-13)  # 14 ulp of log(1e6)


@pytest.mark.parametrize(
    ("px", "n", "horizon", "said"),
    [
        ([1.0, 0.0], 2, 1, "row 1"),
        ([-1.0], 1, 1, "row 0"),
        ([math.inf], 1, 1, "row 0"),
        ([1.0], 2, 1, "length"),
        ([1.0], 1, 0, "horizon"),
    ],
)
def test_bad_prices_are_refused(px: list[float], n: int, horizon: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        forward_returns(np.array(px), np.zeros(n, np.int64), horizon)


def test_outcomes_by_hand_without_a_cost() -> None:
    ret = np.array([0.01, -0.01, -0.01, 0.01, 0.0, -0.0, np.nan])
    side = np.array([1, 1, -1, -1, 1, -1, 1], np.int64)
    assert hits(ret, side).tolist() == [HIT, MISS, HIT, MISS, TIE, TIE, UNLABELLED]


def test_a_cost_must_be_earned_and_a_zero_return_has_lost_it() -> None:
    ret = np.array([0.0003, 0.0001, -0.0003, 0.0, np.nan])
    side = np.array([1, 1, -1, 1, -1], np.int64)
    assert hits(ret, side, cost_bps=2.0).tolist() == [HIT, MISS, HIT, MISS, UNLABELLED]


@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=30))
def test_mirrored_prices_and_sides_keep_outcomes_and_the_other_side_swaps_them(values: list[float]) -> None:
    ret = np.array(values)
    side = np.where(np.arange(len(ret)) % 2 == 0, 1, -1)
    np.testing.assert_array_equal(hits(ret, side), hits(-ret, -side))
    swapped = {HIT: MISS, MISS: HIT, TIE: TIE}
    assert hits(ret, -side).tolist() == [swapped[v] for v in hits(ret, side).tolist()]


@pytest.mark.parametrize(
    ("side", "cost", "said"),
    [
        ([1, 0], 0.0, "event 1"),
        ([1, 2], 0.0, "event 1"),
        ([1, 1], -1.0, "cost"),
        ([1, 1], math.nan, "cost"),
        ([1], 0.0, "length"),
    ],
)
def test_bad_sides_and_costs_are_refused(side: list[int], cost: float, said: str) -> None:
    with pytest.raises(DataError, match=said):
        hits(np.zeros(2), np.array(side, np.int64), cost)
