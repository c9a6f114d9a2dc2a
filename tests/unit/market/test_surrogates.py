"""Surrogates: what each of them keeps, and what it cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from v13.detector.dtypes import BAR
from v13.errors import DataError
from v13.market.simulator import simulate_bars
from v13.market.simulator_spec import MarketSpec
from v13.market.surrogates import FLOWS, PRICES, block_shuffle, flip_signs, shift_returns

N = 1_003  # not a multiple of any block below


@pytest.fixture
def bars() -> np.ndarray[Any, Any]:
    return simulate_bars(MarketSpec("clustered_flow", N), 5).bars


@pytest.mark.parametrize("k", [1, 400, -7, 5 * N])
def test_shifted_returns_are_the_same_returns_later_and_flow_stays(bars: np.ndarray[Any, Any], k: int) -> None:
    before = bars.copy()
    out = shift_returns(bars, k)
    assert bars.tobytes() == before.tobytes()
    expected = np.roll(np.diff(np.log(bars["mid"])), k)
    np.testing.assert_allclose(np.diff(np.log(out["mid"])), expected, atol=1e-12)  # rounding of a sum of logs
    for name in ("ts_ms", *FLOWS):
        np.testing.assert_array_equal(out[name], bars[name])
    assert (out["high"] >= np.maximum(out["open"], out["close"]) * (1 - 1e-12)).all()
    assert (out["low"] <= np.minimum(out["open"], out["close"]) * (1 + 1e-12)).all()
    spread = np.roll((bars["close"] / bars["mid"])[1:], k)
    np.testing.assert_allclose((out["close"] / out["mid"])[1:], spread, rtol=1e-12)


def test_a_whole_turn_of_the_returns_gives_the_prices_back(bars: np.ndarray[Any, Any]) -> None:
    out = shift_returns(bars, N - 1)
    for name in PRICES:
        np.testing.assert_allclose(out[name], bars[name], rtol=1e-12)


def test_bars_without_quotes_are_shifted_by_their_close(bars: np.ndarray[Any, Any]) -> None:
    bars["mid"] = np.nan
    out = shift_returns(bars, 10)
    np.testing.assert_allclose(np.diff(np.log(out["close"])), np.roll(np.diff(np.log(bars["close"])), 10), atol=1e-12)
    assert np.isnan(out["mid"]).all()


def test_a_missing_reference_price_is_named(bars: np.ndarray[Any, Any]) -> None:
    bars["mid"][17] = np.nan
    with pytest.raises(DataError, match="mid of bar 17 is nan"):
        shift_returns(bars, 10)


@pytest.mark.parametrize("block", [1, 50, 5_000])
def test_flipped_signs_turn_both_flows_of_a_block_together(bars: np.ndarray[Any, Any], block: int) -> None:
    out = flip_signs(bars, block, np.random.default_rng(1))
    seen = set()
    for start in range(0, N, block):
        part = slice(start, start + block)
        turned = [
            sign
            for sign in (1, -1)
            if all((out[name][part] == sign * bars[name][part]).all() for name in ("delta", "ofi"))
        ]
        assert turned
        seen.update(turned)
    assert block == 5_000 or seen == {1, -1}
    for name in set(BAR.names or ()) - {"delta", "ofi"}:
        np.testing.assert_array_equal(out[name], bars[name])


@pytest.mark.parametrize("block", [1, 50, 5_000])
def test_shuffled_blocks_keep_their_inside_and_the_prices_their_place(bars: np.ndarray[Any, Any], block: int) -> None:
    bars["lag_quote_ms"] = np.arange(N)  # a label for each row of flow
    out = block_shuffle(bars, block, np.random.default_rng(1))
    came_from = out["lag_quote_ms"]
    assert sorted(came_from.tolist()) == list(range(N))
    breaks = np.flatnonzero(np.diff(came_from) != 1) + 1
    assert (came_from[breaks] % block == 0).all()
    assert (breaks.size > 0) == (block < N)
    for name in FLOWS:
        np.testing.assert_array_equal(out[name], bars[name][came_from])
    for name in ("ts_ms", *PRICES):
        np.testing.assert_array_equal(out[name], bars[name])


def test_what_is_not_bars_or_blocks_is_refused(bars: np.ndarray[Any, Any]) -> None:
    rng = np.random.default_rng(1)
    for surrogate in (flip_signs, block_shuffle):
        with pytest.raises(DataError, match="block 0"):
            surrogate(bars, 0, rng)
        with pytest.raises(DataError, match="float64"):
            surrogate(np.zeros(5), 1, rng)
    with pytest.raises(DataError, match="at least 3 BAR"):
        shift_returns(bars[:2], 1)
