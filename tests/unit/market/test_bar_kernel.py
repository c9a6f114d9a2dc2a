"""Messages to bars: the formula by hand and by brute force, and the same bytes however they are cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.detector.dtypes import BAR
from v13.errors import DataError
from v13.market import BarBuilder, bars_from, multilevel_ofi, ofi_terms

T0 = 1_723_161_600_000  # on the grid of a second

# (bid, bid_qty, ask, ask_qty) and the term worked out by hand from Cont, Kukanov & Stoikov (2014), eq. 2.
HAND_WORKED = [
    ((100.0, 5.0, 101.0, 7.0), 0.0),  # the first quote has no predecessor
    ((100.0, 8.0, 101.0, 7.0), 3.0),  # bid size 5 -> 8: demand +3
    ((100.0, 8.0, 101.0, 4.0), 3.0),  # ask size 7 -> 4: supply -3
    ((100.5, 2.0, 101.0, 4.0), 2.0),  # bid up: the whole new size
    ((100.0, 6.0, 101.0, 4.0), -2.0),  # bid down: the whole old size leaves
    ((100.0, 6.0, 100.5, 9.0), -9.0),  # ask down: the whole new size is supply
    ((100.0, 6.0, 102.0, 1.0), 9.0),  # ask up: the whole old size leaves supply
    ((101.0, 3.0, 103.0, 2.0), 4.0),  # both up: +3 of the bid, +1 of the old ask
    ((100.0, 1.0, 102.0, 5.0), -8.0),  # both down: -3 of the old bid, -5 of the new ask
    ((100.0, 1.0, 102.0, 5.0), 0.0),  # nothing changed
]


def quote_frame(rows: list[tuple[int, float, float, float, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        schema={
            name: pl.Int64 if name == "ts_ms" else pl.Float64 for name in ("ts_ms", "bid", "bid_qty", "ask", "ask_qty")
        },
        orient="row",
    )


def trade_frame(rows: list[tuple[int, float, float, int]]) -> pl.DataFrame:
    schema = {"ts_ms": pl.Int64, "px": pl.Float64, "qty": pl.Float64, "sign": pl.Int8}
    return pl.DataFrame(rows, schema=schema, orient="row")


def brute_force_ofi(rows: list[tuple[float, float, float, float]]) -> list[float]:
    """The four indicators of the paper, in plain Python."""
    terms = [0.0]
    for (pb0, qb0, pa0, qa0), (pb, qb, pa, qa) in pairwise(rows):
        terms.append((pb >= pb0) * qb - (pb <= pb0) * qb0 - (pa <= pa0) * qa + (pa >= pa0) * qa0)
    return terms


def test_ofi_terms_match_the_hand_worked_table() -> None:
    quotes = np.array([quote for quote, _ in HAND_WORKED])
    assert ofi_terms(*quotes.T).tolist() == [term for _, term in HAND_WORKED]


def test_bars_sum_the_hand_worked_table() -> None:
    # Three quotes a second, so the sums cross bar ends.
    rows = [(T0 + 334 * i, *quote) for i, (quote, _) in enumerate(HAND_WORKED)]
    bars = bars_from(None, quote_frame(rows))
    expected = [sum(term for _, term in HAND_WORKED[i : i + 3]) for i in range(0, len(HAND_WORKED), 3)]
    assert bars["ofi"].tolist() == expected
    assert bars["n_quotes"].tolist() == [3, 3, 3, 1]
    assert bars["mid"].tolist() == [100.5, 100.25, 101.0, 101.0]
    assert np.isnan(bars["close"]).all()
    assert (bars["lag_trade_ms"] == -1).all()


def test_an_unknown_price_makes_both_of_its_terms_unknown() -> None:
    bid = np.array([1.0, np.nan, 1.0, 1.0])
    assert np.isnan(ofi_terms(bid, np.ones(4), bid + 1, np.ones(4))).tolist() == [False, True, True, False]


def test_multilevel_ofi_is_the_weighted_sum_of_its_levels() -> None:
    rng = np.random.default_rng(7)
    bid = 100 - np.arange(5) * 0.1 + rng.integers(-1, 2, (50, 1)) * 0.1
    bid_qty, ask_qty = rng.random((2, 50, 5))
    weights = (0.40, 0.25, 0.20, 0.10, 0.05)
    expected = sum(
        w * np.array(brute_force_ofi(list(zip(bid[:, k], bid_qty[:, k], bid[:, k] + 1, ask_qty[:, k], strict=True))))
        for k, w in enumerate(weights)
    )
    found = multilevel_ofi(bid, bid_qty, bid + 1, ask_qty)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)  # the order of five additions is free


def test_multilevel_ofi_wants_a_weight_for_every_level() -> None:
    depth = np.ones((3, 4))
    with pytest.raises(DataError, match="5 weights"):
        multilevel_ofi(depth, depth, depth, depth)


@pytest.mark.shared
def test_bars_of_a_real_book_ticker_match_brute_force_exactly(shared_data: Path) -> None:
    quotes = pl.read_parquet(shared_data / "quotes_trades" / "usdm_BTCUSDT_2024-08-08_bookticker.parquet")
    quotes = quotes.rename({"trans_ms": "ts_ms"})
    rows = list(quotes.select("bid", "bid_qty", "ask", "ask_qty").iter_rows())
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for ts, term in zip(quotes["ts_ms"], brute_force_ofi(rows), strict=True):
        end = (ts // 1000 + 1) * 1000
        sums[end] = sums.get(end, 0.0) + term
        counts[end] = counts.get(end, 0) + 1
    bars = bars_from(None, quotes)
    held = bars[bars["n_quotes"] > 0]
    assert dict(zip(held["ts_ms"].tolist(), held["n_quotes"].tolist(), strict=True)) == counts
    # The kernel takes demand less supply, brute force adds left to right: the last bits of a sum may differ.
    np.testing.assert_allclose(held["ofi"], [sums[end] for end in held["ts_ms"]], rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(ofi_terms(*np.array(rows).T), brute_force_ofi(rows), rtol=0, atol=1e-9)


def test_a_bar_holds_what_came_before_its_end_and_nothing_later() -> None:
    bars = bars_from(trade_frame([(T0, 10.0, 1.0, 1), (T0 + 999, 12.0, 2.0, -1), (T0 + 1000, 11.0, 4.0, 1)]), None)
    assert bars["ts_ms"].tolist() == [T0 + 1000, T0 + 2000]
    first = bars[0]
    assert (first["open"], first["high"], first["low"], first["close"]) == (10.0, 12.0, 10.0, 12.0)
    assert (first["volume"], first["delta"], first["n_trades"], first["lag_trade_ms"]) == (3.0, -1.0, 2, 1)
    assert np.isnan(bars["ofi"]).all()
    assert np.isnan(bars["mid"]).all()


def test_empty_bars_carry_the_close_and_stop_after_the_longest_silence() -> None:
    trades = trade_frame([(T0 + 500, 10.0, 1.0, 1), (T0 + 60_500, 11.0, 1.0, 1)])
    bars = bars_from(trades, None, max_gap_ms=3_000)
    assert bars["ts_ms"].tolist() == [T0 + 1000, T0 + 2000, T0 + 3000, T0 + 61_000]
    assert bars["open"].tolist() == bars["close"].tolist() == [10.0, 10.0, 10.0, 11.0]
    assert bars["volume"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert bars["lag_trade_ms"].tolist() == [500, 1500, 2500, 500]


def test_quotes_keep_the_grid_going_while_trades_are_silent() -> None:
    quotes = quote_frame([(T0 + 1000 * i, 10.0, 1.0, 11.0, 1.0) for i in range(10)])
    bars = bars_from(trade_frame([(T0 + 8_200, 10.0, 1.0, 1)]), quotes, max_gap_ms=1_500)
    assert bars["ts_ms"].tolist() == [T0 + 1000 * i for i in range(1, 11)]
    assert bars["lag_trade_ms"].tolist() == [-1] * 8 + [800, 1800]
    assert np.isnan(bars["close"][:8]).all()


def test_the_first_quote_after_a_long_silence_adds_nothing() -> None:
    rows = [(T0, 10.0, 1.0, 11.0, 1.0), (T0 + 100, 10.0, 3.0, 11.0, 1.0), (T0 + 9_000, 10.0, 9.0, 11.0, 1.0)]
    assert bars_from(None, quote_frame(rows), max_gap_ms=2_000)["ofi"].tolist() == [2.0, 0.0, 0.0]
    assert bars_from(None, quote_frame(rows), max_gap_ms=20_000)["ofi"].tolist() == [2.0] + [0.0] * 8 + [6.0]


def test_a_message_for_a_bar_handed_on_is_counted_and_left_out() -> None:
    builder = BarBuilder(1000, has_trades=True, has_quotes=True)
    builder.push_trade(T0 + 100, 10.0, 1.0, 1)
    assert builder.close_until(T0 + 1_999)["ts_ms"].tolist() == [T0 + 1000]
    builder.push_trade(T0 + 900, 99.0, 1.0, 1)
    builder.push_quote(T0 + 900, 98.0, 1.0, 99.0, 1.0)
    builder.push_trade(T0 + 1_000, 11.0, 1.0, 1)
    bars = builder.finish()
    assert builder.n_late == 2
    assert bars["close"].tolist() == [11.0]
    assert bars["lag_quote_ms"].tolist() == [-1]


def test_a_builder_refuses_a_stream_it_was_made_without() -> None:
    builder = BarBuilder(1000, has_trades=True, has_quotes=False)
    with pytest.raises(DataError, match="without quotes"):
        builder.push_quote(T0, 1.0, 1.0, 2.0, 1.0)
    with pytest.raises(DataError, match="neither"):
        BarBuilder(1000, has_trades=False, has_quotes=False)


def test_a_tape_out_of_order_is_refused() -> None:
    with pytest.raises(DataError, match="not in time order"):
        bars_from(trade_frame([(T0 + 1, 1.0, 1.0, 1), (T0, 1.0, 1.0, 1)]), None)


steps = st.lists(st.one_of(st.integers(0, 1500), st.sampled_from([1_999, 5_000, 45_000])), min_size=1, max_size=60)
sizes = st.floats(0.001, 50.0, allow_nan=False)
prices = st.sampled_from([99.9, 100.0, 100.1, 100.3])


@st.composite
def tapes(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    def times() -> np.ndarray:
        return T0 + np.cumsum(draw(steps), dtype=np.int64)

    trade_ts, quote_ts = times(), times()
    trades = [(int(t), draw(prices), draw(sizes), draw(st.sampled_from([-1, 1]))) for t in trade_ts]
    quotes = [(int(t), draw(prices) - 0.1, draw(sizes), draw(prices) + 0.3, draw(sizes)) for t in quote_ts]
    return trade_frame(trades), quote_frame(quotes)


def columns(frame: pl.DataFrame) -> list[np.ndarray]:
    return [frame[name].to_numpy() for name in frame.columns]


@settings(max_examples=60, deadline=None)
@given(tapes(), st.lists(st.integers(1, 59), max_size=6), st.lists(st.integers(1, 59), max_size=6))
def test_any_cutting_of_the_tape_gives_the_same_bytes(
    pair: tuple[pl.DataFrame, pl.DataFrame], trade_cuts: list[int], quote_cuts: list[int]
) -> None:
    trades, quotes = pair
    whole = bars_from(trades, quotes, max_gap_ms=4_000)
    builder = BarBuilder(1000, 4_000, has_trades=True, has_quotes=True)
    for frame, cuts, push in (
        (trades, trade_cuts, builder.push_trades),
        (quotes, quote_cuts, builder.push_quotes),
    ):
        edges = sorted({0, frame.height, *(cut for cut in cuts if cut < frame.height)})
        for a, b in pairwise(edges):
            push(*columns(frame[a:b]))
    assert builder.finish().tobytes() == whole.tobytes()


@settings(max_examples=40, deadline=None)
@given(tapes(), st.integers(1, 7))
def test_a_live_builder_closed_by_the_clock_gives_the_batch_bytes(
    pair: tuple[pl.DataFrame, pl.DataFrame], every: int
) -> None:
    trades, quotes = pair
    messages = [(row[0], "trade", row) for row in trades.iter_rows()] + [
        (row[0], "quote", row) for row in quotes.iter_rows()
    ]
    messages.sort(key=lambda message: message[0])
    builder = BarBuilder(1000, 4_000, has_trades=True, has_quotes=True)
    parts = []
    for i, (ts, kind, row) in enumerate(messages):
        if i % every == 0:
            parts.append(builder.close_until(ts))  # the clock says `ts`: nothing before it is still on its way
        (builder.push_trade if kind == "trade" else builder.push_quote)(*row)
    last_end = (messages[-1][0] // 1000 + 1) * 1000
    parts.append(builder.close_until(last_end))
    assert builder.n_late == 0
    assert np.concatenate(parts).tobytes() == bars_from(trades, quotes, max_gap_ms=4_000).tobytes()
    assert np.concatenate(parts).dtype == BAR


@settings(max_examples=40, deadline=None)
@given(tapes())
def test_bars_hold_every_message_once(pair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    trades, quotes = pair
    bars = bars_from(trades, quotes)
    assert (int(bars["n_trades"].sum()), int(bars["n_quotes"].sum())) == (trades.height, quotes.height)
    by_end = (
        trades.group_by(((pl.col("ts_ms") // 1000 + 1) * 1000).alias("end"))
        .agg(pl.col("qty").sum(), (pl.col("qty") * pl.col("sign")).sum().alias("delta"), pl.col("px").last())
        .sort("end")
    )
    held = bars[bars["n_trades"] > 0]
    assert held["ts_ms"].tolist() == by_end["end"].to_list()
    assert held["close"].tolist() == by_end["px"].to_list()
    np.testing.assert_allclose(held["volume"], by_end["qty"], rtol=1e-12)  # another order of additions
    np.testing.assert_allclose(held["delta"], by_end["delta"], rtol=1e-9, atol=1e-9)
