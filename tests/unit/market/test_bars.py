"""Bars of klines, longer bars, and the volume delta of ticks against that of klines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from v13.detector.dtypes import BAR
from v13.errors import ConfigError, DataError
from v13.market import ReadPolicy, bars_from, bars_from_klines, load, resample, write_tape

T0 = 1_723_161_600_000
MINUTE = 60_000


def klines_of(trades: pl.DataFrame, bar_ms: int) -> pl.DataFrame:
    """Klines as the exchange makes them: from trades and the side of the taker, by polars and not by the kernel."""
    buys = pl.col("qty").filter(pl.col("sign") > 0).sum()
    return (
        trades.group_by((pl.col("ts_ms") // bar_ms * bar_ms).alias("open_ts_ms"), maintain_order=True)
        .agg(
            open=pl.col("px").first(),
            high=pl.col("px").max(),
            low=pl.col("px").min(),
            close=pl.col("px").last(),
            volume=pl.col("qty").sum(),
            n_trades=pl.len().cast(pl.Int64),
            taker_buy_volume=buys,
        )
        .sort("open_ts_ms")
    )


def random_trades(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "ts_ms": T0 + np.cumsum(rng.integers(0, 900, n)),
            "px": np.round(100 + np.cumsum(rng.choice([-0.1, 0.0, 0.1], n)), 1),
            "qty": np.round(rng.exponential(1.0, n) + 0.001, 3),
            "sign": rng.choice([-1, 1], n).astype(np.int8),
        }
    )


def assert_same_market(ticks: np.ndarray, klines: np.ndarray) -> None:
    for name in ("ts_ms", "open", "high", "low", "close", "n_trades"):
        assert ticks[name].tolist() == klines[name].tolist(), name
    # delta = 2 * taker - volume rounds where the running sum does not, by parts in 1e16 of the volume.
    np.testing.assert_allclose(ticks["volume"], klines["volume"], rtol=1e-12)
    np.testing.assert_allclose(ticks["delta"], klines["delta"], rtol=0, atol=1e-12 * klines["volume"].max())
    np.testing.assert_allclose(np.cumsum(ticks["delta"]), np.cumsum(klines["delta"]), rtol=0, atol=1e-6)


def test_cvd_of_ticks_is_the_cvd_of_klines() -> None:
    trades = random_trades(5_000, seed=3)
    assert_same_market(bars_from(trades, None, bar_ms=MINUTE), bars_from_klines(klines_of(trades, MINUTE), MINUTE))


@pytest.mark.shared
def test_cvd_of_real_ticks_is_the_cvd_of_klines_made_of_them(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "quotes_trades" / "usdm_ETHUSDT_2024-07-18_trades.parquet"
    trades = pl.read_parquet(source).select(
        ts_ms="trade_ms",
        px="price",
        qty="qty",
        sign=pl.when(pl.col("is_buyer_maker")).then(-1).otherwise(1),
    )
    klines = write_tape(
        tmp_path / "k.parquet", klines_of(trades, MINUTE), kind="klines", symbol="ETHUSDT", market="usdm"
    )
    from_klines = load(klines)["ETHUSDT"]
    from_ticks = load(source, policy=ReadPolicy(bar_ms=MINUTE))["ETHUSDT"]
    assert_same_market(from_ticks.bars, from_klines.bars)


@pytest.mark.shared
def test_one_minute_klines_sum_to_the_exchanges_fifteen(shared_data: Path) -> None:
    folder = shared_data / "klines"
    made = load(folder / "spot_BTCUSDT_1m_2025-10-29.parquet", policy=ReadPolicy(bar_ms=15 * MINUTE))["BTCUSDT"]
    given = load(folder / "spot_BTCUSDT_15m.parquet")["BTCUSDT"].bars
    given = given[np.isin(given["ts_ms"], made.bars["ts_ms"])]
    assert made.bars.size == given.size == 287  # the README's complete bars
    assert made.quality["klines"].counts["partial_bars"] == 4_320 - 287 * 15
    assert_same_market(made.bars, given)


@pytest.mark.shared
def test_fifteen_minute_klines_sum_to_the_exchanges_hours(shared_data: Path) -> None:
    folder = shared_data / "klines"
    made = load(folder / "spot_SOLUSDT_15m.parquet", policy=ReadPolicy(bar_ms=60 * MINUTE))["SOLUSDT"].bars
    given = load(folder / "spot_SOLUSDT_1h.parquet")["SOLUSDT"].bars
    given = given[np.isin(given["ts_ms"], made["ts_ms"])]
    assert made.size == given.size == 11_668
    np.testing.assert_allclose(np.cumsum(made["delta"]), np.cumsum(given["delta"]), rtol=0, atol=1e-3)


def test_klines_become_bars_field_by_field() -> None:
    klines = pl.DataFrame(
        {
            "open_ts_ms": [T0, T0 + 2 * MINUTE],
            "open": [10.0, 11.0],
            "high": [12.0, 11.0],
            "low": [9.0, 11.0],
            "close": [11.0, 11.0],
            "volume": [5.0, 0.0],
            "n_trades": [3, 0],
            "taker_buy_volume": [2.0, 0.0],
        }
    )
    bars = bars_from_klines(klines, MINUTE)
    assert bars["ts_ms"].tolist() == [T0 + MINUTE, T0 + 3 * MINUTE]  # the missing bar stays missing
    assert bars["delta"].tolist() == [-1.0, 0.0]
    assert bars["lag_trade_ms"].tolist() == [0, 0]
    assert bars["lag_quote_ms"].tolist() == [-1, -1]
    assert np.isnan(bars["ofi"]).all()
    assert np.isnan(bars["mid"]).all()


def test_longer_bars_of_ticks_are_those_built_at_that_length() -> None:
    trades = random_trades(2_000, seed=5)
    short, long = bars_from(trades, None), bars_from(trades, None, bar_ms=10_000)
    made = resample(short, 1_000, 10_000)
    given = long[np.isin(long["ts_ms"], made["ts_ms"])]
    # The first and the last longer bar begin and end within the recording: they lack shorter ones and are left out.
    assert long.size - made.size <= 2
    for name in BAR.names or ():
        np.testing.assert_allclose(made[name], given[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_longer_bar_with_a_missing_part_is_left_out() -> None:
    bars = np.zeros(8, BAR)
    bars["ts_ms"] = T0 + 1_000 * np.arange(1, 9)
    whole = resample(bars, 1_000, 4_000)
    assert whole["ts_ms"].tolist() == [T0 + 4_000, T0 + 8_000]
    assert resample(np.delete(bars, 5), 1_000, 4_000)["ts_ms"].tolist() == [T0 + 4_000]
    with pytest.raises(DataError, match="multiple of 1000 ms"):
        resample(bars, 1_000, 1_500)


def test_a_bar_length_below_one_millisecond_is_refused() -> None:
    with pytest.raises(ConfigError, match="bar_ms"):
        ReadPolicy(bar_ms=0)
