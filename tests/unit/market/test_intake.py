"""Messages in any order and twice, cut and resumed anywhere: the bars are those of the whole tape in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.detector.dtypes import BAR
from v13.errors import DataError
from v13.market import BarBuilder, bars_from
from v13.market.intake import NO_ID, QUOTE, REMEMBERED, TRADE, Intake

BAR_MS = 1_000
START = 1_700_000_000_000


def tapes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Trades and quotes with ids, in order, some at equal times, with a hole."""
    trades, quotes = np.zeros(n, TRADE), np.zeros(2 * n, QUOTE)
    for tape in (trades, quotes):
        step = rng.choice([0, 1, 90, 400, 2_500], tape.size)
        step[tape.size // 2] = 45_000  # beyond the bridge
        tape["ts_ms"] = START + np.cumsum(step)
        tape["id"] = 500 + np.cumsum(rng.integers(1, 3, tape.size))
    trades["px"] = 100 + np.cumsum(rng.normal(0, 0.01, n))
    trades["qty"] = rng.uniform(0.1, 5, n)
    trades["sign"] = rng.choice([-1, 1], n)
    quotes["bid"] = 100 + np.cumsum(rng.normal(0, 0.01, 2 * n))
    quotes["ask"] = quotes["bid"] + 0.01
    quotes["bid_qty"], quotes["ask_qty"] = rng.uniform(1, 9, (2, 2 * n))
    return trades, quotes


def frame(tape: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({name: np.ascontiguousarray(tape[name]) for name in tape.dtype.names or ()})


def batch(trades: np.ndarray, quotes: np.ndarray) -> np.ndarray:
    return bars_from(frame(trades), frame(quotes), bar_ms=BAR_MS)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), reach=st.integers(0, 3_000), resume=st.booleans(), blocks=st.booleans())
def test_disorder_doubles_and_restarts_change_no_byte(seed: int, reach: int, resume: bool, blocks: bool) -> None:
    rng = np.random.default_rng(seed)
    trades, quotes = tapes(rng, 80)
    arrivals = []  # (when it arrives, stream, row): late by up to `reach`, some of them twice
    for stream, tape in enumerate((trades, quotes)):
        for row in np.concatenate([np.arange(tape.size), rng.integers(0, tape.size, 15)]):
            arrivals.append((int(tape["ts_ms"][row] + rng.integers(0, reach + 1)), stream, int(row)))
    # What has the same time and comes in another order is a true difference; ids tell the order apart.
    arrivals.sort(key=lambda a: (a[0], a[1], a[2]))
    intake = Intake(BAR_MS)
    parts: list[np.ndarray] = []
    for at_ms, stream, row in arrivals:
        tape = (trades, quotes)[stream]
        if blocks:
            (intake.add_quotes if stream else intake.add_trades)(
                *(np.ascontiguousarray(tape[name][row : row + 1]) for name in tape.dtype.names or ())
            )
        else:
            (intake.add_quote if stream else intake.add_trade)(*tape[row].item())
        if rng.random() < 0.2:
            parts.append(intake.close_until(at_ms - reach))
            if resume and intake.n_held == 0:
                state = intake.snapshot()
                intake = Intake(BAR_MS)
                intake.restore(state)
    bars = np.concatenate([*parts, intake.finish()])
    order = [np.lexsort((np.arange(t.size), t["ts_ms"])) for t in (trades, quotes)]
    expected = batch(trades[order[0]], quotes[order[1]])
    same_time = any(np.any(np.diff(t["ts_ms"]) == 0) for t in (trades, quotes)) and reach > 0
    if same_time:  # within one millisecond only the order of arrival is known: sums agree, the last price may not
        assert np.array_equal(bars["ts_ms"], expected["ts_ms"])
        assert np.array_equal(bars["n_trades"], expected["n_trades"])
        assert np.array_equal(bars["n_quotes"], expected["n_quotes"])
        assert bars["volume"] == pytest.approx(expected["volume"])
    else:
        assert bars.tobytes() == expected.tobytes()


def test_late_double_and_bad_messages_are_left_out_and_counted() -> None:
    intake = Intake(BAR_MS)
    intake.add_trade(START + 100, 1, 10.0, 1.0, 1)
    intake.add_quote(START + 150, 7, 9.9, 1.0, 10.1, 1.0)
    assert intake.close_until(START + BAR_MS).size == 1
    for row in (
        (START + 200, 2, 10.0, 1.0, 1),  # its bar is gone
        (START + 1_200, 3, 10.0, 1.0, 1),
        (START + 1_200, 3, 10.0, 1.0, 1),  # twice
        (START + 1_300, 1, 10.0, 1.0, 1),  # an old id at a new time, as two overlapping connections give on our clock
        (START + 1_400, 4, -1.0, 1.0, 1),
        (START + 1_400, 5, 10.0, 0.0, 1),
        (START + 1_400, 6, float("nan"), 1.0, 1),
    ):
        intake.add_trade(*row)
    intake.add_quote(START + 1_500, 8, 10.2, 1.0, 10.1, 1.0)  # crossed
    intake.add_quote(START + 1_500, 9, 10.1, 1.0, 10.1, 1.0)  # locked: kept
    (bar,) = intake.close_until(START + 2 * BAR_MS)
    assert (bar["n_trades"], bar["n_quotes"]) == (1, 1)
    assert dict(intake.dropped) == {
        ("trade", "late"): 1,
        ("trade", "duplicate"): 2,
        ("trade", "bad_value"): 3,
        ("quote", "bad_value"): 1,
    }
    assert intake.last_trade_id == 6


@pytest.mark.parametrize("n_a_bar", [1_000, REMEMBERED, 3 * REMEMBERED])
def test_of_the_ids_handed_on_the_last_ones_are_known_again(n_a_bar: int) -> None:
    intake = Intake(BAR_MS, has_quotes=False)
    n_bars = -(-5 * REMEMBERED // n_a_bar)
    last = n_bars * n_a_bar - 1
    for i in range(n_bars):
        ids = np.arange(i * n_a_bar, (i + 1) * n_a_bar)
        ts, ones = np.full(ids.size, START + i * BAR_MS), np.ones(ids.size)
        intake.add_trades(ts, ids, ones, ones, ones.astype(np.int8))
        assert intake.close_until(START + (i + 1) * BAR_MS).size == 1
    for number in (last - REMEMBERED, last - REMEMBERED + 1, last):  # the first of them is forgotten
        intake.add_trade(START + n_bars * BAR_MS, number, 1.0, 1.0, 1)
    assert intake.finish()["n_trades"].tolist() == [1]
    assert dict(intake.dropped) == {("trade", "duplicate"): 2}


def test_messages_without_ids_are_never_taken_for_the_same() -> None:
    intake = Intake(BAR_MS, has_quotes=False)
    for _ in range(3):
        intake.add_trade(START, NO_ID, 10.0, 1.0, 1)
    assert intake.finish()["n_trades"].tolist() == [3]
    assert not intake.dropped


def test_both_streams_must_be_past_a_bar_for_it_to_be_over() -> None:
    intake = Intake(BAR_MS)
    assert (intake.seen_ms, intake.newest_ms) == (-1, -1)
    intake.add_trade(START + 5_000, 1, 10.0, 1.0, 1)
    assert (intake.seen_ms, intake.newest_ms) == (-1, START + 5_000)
    intake.add_quote(START + 400, 1, 9.9, 1.0, 10.1, 1.0)
    assert intake.seen_ms == START + 400
    assert Intake(BAR_MS, has_quotes=False).seen_ms == -1


@pytest.mark.parametrize("data", [b"", b"x" * 24, b"x" * 500])
def test_foreign_bytes_are_refused_and_change_nothing(data: bytes) -> None:
    intake = Intake(BAR_MS)
    intake.add_trade(START, 1, 10.0, 1.0, 1)
    with pytest.raises(DataError, match="snapshot"):
        intake.restore(data)
    assert intake.finish().size == 1
    assert intake.finish().dtype == BAR


def test_a_snapshot_of_other_arguments_is_refused() -> None:
    with pytest.raises(DataError, match="other arguments"):
        Intake(BAR_MS).restore(Intake(2 * BAR_MS).snapshot())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), disorder=st.sampled_from([0.0, 0.02, 0.3]))
def test_single_messages_and_blocks_give_the_same_bars_counts_and_state(seed: int, disorder: float) -> None:
    """Blocks never go through the one compiled call for what came in order; single messages do where they can."""
    rng = np.random.default_rng(seed)
    tapes_of = tapes(rng, 200)
    for tape in tapes_of:
        n = int(disorder * tape.size)
        for name in ("ts_ms", "id"):
            tape[name][rng.integers(0, tape.size, n)] = tape[name][rng.integers(0, tape.size, n)]
        tape[tape.dtype.names[2]][rng.integers(0, tape.size, n)] = rng.choice([0.0, -1.0, np.nan, np.inf], n)
    single, block = Intake(BAR_MS, 10_000), Intake(BAR_MS, 10_000)
    at, clock = [0, 0], START
    while at[0] < tapes_of[0].size or at[1] < tapes_of[1].size:
        clock += int(rng.choice([50, 300, 1_000, 12_000]))
        for stream, tape in enumerate(tapes_of):
            due = int(np.searchsorted(np.maximum.accumulate(tape["ts_ms"]), clock + 200))
            rows = tape[at[stream] : due]
            at[stream] = max(due, at[stream])
            for row in rows:
                (single.add_quote if stream else single.add_trade)(*row.item())
            columns = (np.ascontiguousarray(rows[name]) for name in tape.dtype.names)
            (block.add_quotes if stream else block.add_trades)(*columns)
        assert single.close_until(clock).tobytes() == block.close_until(clock).tobytes()
        assert single.snapshot() == block.snapshot()
    assert single.finish().tobytes() == block.finish().tobytes()
    assert +single.dropped == +block.dropped
    assert single.snapshot() == block.snapshot()


def test_after_disorder_the_short_way_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[bool] = []
    close = BarBuilder.close_in_order

    def seen(self: BarBuilder, *arguments: Any) -> np.ndarray | None:
        bars = close(self, *arguments)
        ways.append(bars is not None)
        return bars

    monkeypatch.setattr(BarBuilder, "close_in_order", seen)
    intake = Intake(BAR_MS)
    for i in range(6):
        ms = [START + BAR_MS * i + d for d in (100, 200, 1_050)]  # the last belongs to the next bar
        for at in (ms[1], ms[0], ms[2]) if i == 3 else ms:
            intake.add_trade(at, at, 10.0, 1.0, 1)
            intake.add_quote(at, at, 9.0, 1.0, 11.0, 1.0)
        assert intake.close_until(START + BAR_MS * (i + 1)).size == 1
    assert ways == [False, True, True, False, True, True]  # the first bar of all, and the one out of order


def test_what_is_late_when_it_comes_takes_no_room() -> None:
    intake = Intake(BAR_MS)
    intake.add_trade(START, 1, 10.0, 1.0, 1)
    intake.close_until(START + BAR_MS)
    for _ in range(1_000):
        intake.add_trade(START, 2, 10.0, 1.0, 1)
        intake.add_quote(START, 2, 9.0, 1.0, 11.0, 1.0)
    assert intake.n_held == 0
    assert intake.dropped == {("trade", "late"): 1_000, ("quote", "late"): 1_000}


def test_packed_records_are_what_they_are_one_by_one_and_late_ones_are_counted() -> None:
    rows = np.array([(START + ms, i, 10.0 + i, 1.0, 1) for i, ms in enumerate((900, 100, 1_200, 1_900))], TRADE)
    quotes = np.array([(START + ms, i, 9.0, 1.0, 11.0, 1.0) for i, ms in enumerate((50, 2_100))], QUOTE)
    packed, single = Intake(BAR_MS), Intake(BAR_MS)
    for intake in (packed, single):
        intake.add_quote(*quotes[0].item())
        intake.add_trade(START + 10, 99, 9.5, 1.0, 1)
        assert intake.close_until(START + 1_000).size == 1
    packed.add_packed(0, rows.view(np.uint8).data, START + 100, START + 1_900)
    packed.add_packed(1, quotes[1:].view(np.uint8).data, START + 2_100, START + 2_100)
    for row in rows:
        single.add_trade(*row.item())
    single.add_quote(*quotes[1].item())
    assert packed.dropped == single.dropped == {("trade", "late"): 2}
    assert (packed.seen_ms, packed.newest_ms, packed.n_held) == (START + 1_900, START + 2_100, 3)
    assert packed.close_until(START + 2_000).tobytes() == single.close_until(START + 2_000).tobytes()
