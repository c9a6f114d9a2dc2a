"""Messages into bars: when a bar is over, what is waited for, what is left out, and a disk that refuses in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.exchange.recordings import agg_trade, book_ticker
from tests.unit.live.lanes import HORIZONS, FickleLog, open_log, params
from v13.detector import SessionClock
from v13.live import consumer
from v13.live.consumer import HOLD_S, RETRY_S, Consumer
from v13.live.inbox import Inbox
from v13.live.session import Session
from v13.market.frames import FrameReader
from v13.market.intake import Intake
from v13.store.event_schema import Batch, Committed
from v13.telemetry import Metrics

START_MS = 1_700_000_000_000  # the start of a bar
GRACE_MS = 250
SYMBOLS = ("BTCUSDT", "ETHUSDT")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.ms = START_MS

    def wall_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000

    async def sleep(self, seconds: float) -> None:
        self.ms += round(1_000 * seconds)
        await asyncio.sleep(0)


@dataclass
class Feed:
    """What is beyond the consumer: whether it is connected, and what it was asked to fetch."""

    connected: bool = True
    takes: bool = True
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def fill(self, symbol: str, first: int, last: int) -> bool:
        self.asked.append((symbol, first, last))
        return self.takes


@dataclass
class Scene:
    clock: Clock
    feed: Feed
    inbox: Inbox
    log: FickleLog
    session: Session
    metrics: Metrics
    consumer: Consumer
    is_spot: bool

    def trade(self, ms: int, number: int, *, symbol: str = "BTCUSDT", px: float = 100.0, delay: int = 0) -> None:
        """Receive a trade of `ms` after the start."""
        row = {"recv_ns": 0, "event_ms": 0, "trade_ms": START_MS + ms, "trade_id": number}
        row |= {"price": px, "qty": 1.0, "is_buyer_maker": False}
        self.put(agg_trade(symbol, "spot" if self.is_spot else "usdm", row).raw, ms + delay)

    def quote(self, ms: int, number: int, *, symbol: str = "BTCUSDT", delay: int = 0) -> None:
        row: dict[str, object] = {"recv_ns": 0, "update_id": number, "bid": 99.0, "bid_qty": 1.0, "ask": 101.0}
        row["ask_qty"] = 1.0
        if not self.is_spot:
            row |= {"trans_ms": START_MS + ms, "event_ms": START_MS + ms}
        self.put(book_ticker(symbol, row).raw, ms + delay)

    def put(self, raw: bytes, at_ms: int) -> None:
        self.clock.ms = max(self.clock.ms, START_MS + at_ms)
        assert self.inbox.put(raw, START_MS + at_ms, (START_MS + at_ms) * 1_000_000)

    def at(self, ms: int) -> list[int]:
        """Let the consumer work at a time; return the ends of the bars there are, ms after the start."""
        self.clock.ms = START_MS + ms
        self.consumer.work()
        while self.inbox.size:
            self.consumer.work()
        return self.bars()

    def bars(self, symbol: str = "BTCUSDT") -> list[int]:
        return [int(ts) - START_MS for ts in self.log.bars_after(symbol, 0)["ts_ms"]]

    def dropped(self, stream: str, reason: str) -> float:
        return self.metrics.bind("divergence_dropped_total", stream=stream, reason=reason).read()


@contextmanager
def scene(folder: Path, *, spot: bool = False, log: FickleLog | None = None) -> Iterator[Scene]:
    clock, feed, metrics = Clock(), Feed(), Metrics(HORIZONS, SYMBOLS)
    with log or open_log(folder / "log.sqlite") as opened:
        session = Session(
            {s: Intake(1_000) for s in SYMBOLS},
            params(),
            None,
            {},
            log=opened,
            metrics=metrics,
            clock=clock,
            sessions=SessionClock(),
            horizons=HORIZONS,
        )
        inbox = Inbox(10_000, metrics)
        consumer = Consumer(
            session, inbox, feed, metrics=metrics, clock=clock, has_exchange_time=not spot, grace_ms=GRACE_MS
        )
        yield Scene(clock, feed, inbox, opened, session, metrics, consumer, spot)


def test_a_bar_is_over_when_both_streams_are_past_it(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_001, 2)
        assert s.at(1_002) == []
        s.quote(1_003, 2)
        assert s.at(1_003) == [1_000]
        assert s.metrics.bind("divergence_messages_total", stream="trade").read() == 2


@pytest.mark.parametrize("spot", [False, True])
def test_a_bar_that_no_message_ends_is_over_a_grace_after_its_end(tmp_path: Path, spot: bool) -> None:
    with scene(tmp_path, spot=spot) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        assert s.at(1_000 + GRACE_MS - 1) == []
        assert s.at(1_000 + GRACE_MS + 10) == [1_000]
        assert s.at(3_000 + GRACE_MS) == [1_000, 2_000, 3_000]
        assert s.bars("ETHUSDT") == []  # nothing was ever heard of it


def test_the_grace_is_counted_by_the_exchanges_clock_and_not_by_ours(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1, delay=1_300)  # their clock is 1.3 s behind, or the way so long
        s.quote(200, 1, delay=1_300)
        assert s.at(2_300 + GRACE_MS - 1) == []
        assert s.at(2_300 + GRACE_MS + 10) == [1_000]


def test_what_comes_after_its_bar_is_late_and_counted(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.at(1_000 + GRACE_MS + 10)
        s.trade(900, 2, delay=500)
        s.quote(1_800, 2)
        s.trade(1_900, 3)
        assert s.at(2_000 + GRACE_MS + 20) == [1_000, 2_000]
        assert s.dropped("trade", "late") == 1
        assert s.log.bars_after("BTCUSDT", START_MS + 1_000)["n_trades"].tolist() == [1]


def test_while_the_feed_is_away_no_bar_is_closed_by_the_clock(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.feed.connected = False
        assert s.at(9_000) == []
        s.feed.connected = True
        assert s.at(9_010)[:1] == [1_000]


def test_a_bar_waits_for_trades_that_are_being_fetched_and_holds_them(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_100, 5)
        s.quote(1_100, 2)
        assert s.at(1_400) == []
        assert s.feed.asked == [("BTCUSDT", 2, 4)]
        rows = [("BTCUSDT", START_MS + ms, number, 100.0, 1.0, 1) for ms, number in ((300, 2), (400, 3), (1_050, 4))]
        s.inbox.put_rows("BTCUSDT", rows[:1], s.clock.ms, s.clock.monotonic_ns())
        assert s.at(1_500) == []
        s.inbox.put_rows("BTCUSDT", rows[1:], s.clock.ms, s.clock.monotonic_ns())
        assert s.at(2_300)[:2] == [1_000, 2_000]
        assert s.log.bars_after("BTCUSDT", 0)["n_trades"].tolist()[:2] == [3, 2]


def test_it_waits_no_longer_than_the_hold(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_100, 5)
        s.quote(1_100, 2)
        assert s.at(1_100) == []
        hold_ms = round(1_000 * HOLD_S)
        assert s.at(1_100 + hold_ms - 1) == []
        assert s.at(1_110 + hold_ms)[:1] == [1_000]


def test_a_hole_the_feed_does_not_fill_holds_nothing_up(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.feed.takes = False
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_100, 5)
        s.quote(1_100, 2)
        assert s.at(1_100) == [1_000]
        assert s.feed.asked == [("BTCUSDT", 2, 4)]


def test_after_a_restart_the_first_trade_shows_what_was_missed(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 7)
        s.quote(200, 1)
        assert s.at(1_300) == [1_000]
    with scene(tmp_path) as s:
        s.trade(5_000, 12)
        s.at(5_000)
        assert s.feed.asked == [("BTCUSDT", 8, 11)]


def test_after_a_restart_bars_wait_for_the_trade_that_shows_what_was_missed(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 7)
        s.quote(200, 1)
        assert s.at(1_300) == [1_000]
    with scene(tmp_path) as s:
        s.quote(5_000, 9)  # quotes are many, and mostly the first to come
        assert s.at(5_100) == [1_000]
        s.trade(5_200, 9)
        assert s.at(5_300) == [1_000]
        assert s.feed.asked == [("BTCUSDT", 8, 8)]
        s.inbox.put_rows(
            "BTCUSDT", [("BTCUSDT", START_MS + 1_500, 8, 100.0, 1.0, 1)], s.clock.ms, s.clock.monotonic_ns()
        )
        assert s.at(5_400) == [1_000, 2_000, 3_000, 4_000, 5_000]
        assert s.log.bars_after("BTCUSDT", START_MS)["n_trades"].tolist() == [1, 1, 0, 0, 0]
        assert s.dropped("trade", "late") == 0


def test_after_a_restart_bars_wait_no_longer_than_the_hold_where_no_trade_comes(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 7)
        s.quote(200, 1)
        assert s.at(1_300) == [1_000]
    with scene(tmp_path) as s:
        s.feed.connected = False
        s.at(60_000)  # while it connects nothing is waited for yet
        s.feed.connected = True
        s.quote(60_500, 9)
        hold_ms = round(1_000 * HOLD_S)
        assert s.at(60_500) == [1_000]
        assert s.at(60_500 + hold_ms - 1) == [1_000]
        assert s.at(60_510 + hold_ms)[:3] == [1_000, 2_000, 3_000]
        s.quote(69_900, 10)
        s.trade(69_950, 8)
        assert s.at(70_260)[-1] == 70_000  # and not a second time


def test_after_a_restart_without_a_hole_nothing_is_waited_for(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 7)
        s.quote(200, 1)
        assert s.at(1_300) == [1_000]
    with scene(tmp_path) as s:
        s.quote(1_400, 2)
        s.trade(1_500, 8)
        assert s.at(2_000 + GRACE_MS + 10) == [1_000, 2_000]
        assert s.feed.asked == []


def test_a_symbol_that_is_followed_later_goes_on_at_the_trade_its_log_has_seen_last(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 7)
        s.quote(200, 1)
        assert s.at(1_300) == [1_000]
    with scene(tmp_path) as s:
        own = s.session
        own.follow({"ETHUSDT": own.lanes["ETHUSDT"]})
        s.consumer.follow()
        own.follow(own.lanes | own.open_lanes({"BTCUSDT": Intake(1_000)}))
        s.consumer.follow()
        s.quote(5_000, 9)
        assert s.at(5_000) == [1_000]
        s.trade(5_100, 12)
        s.trade(5_100, 3, symbol="ETHUSDT")
        s.at(5_100)
        assert s.feed.asked == [("BTCUSDT", 8, 11)]


def test_spot_trades_that_are_fetched_are_put_at_their_receipt_as_all_others(tmp_path: Path) -> None:
    with scene(tmp_path, spot=True) as s:
        s.trade(100, 1, delay=700)  # received at 800
        s.quote(810, 1)
        s.trade(900, 3, delay=700)
        s.quote(1_610, 2)
        s.at(1_620)
        # By its own time it is of the first bar; it would have been received in the second.
        row = ("BTCUSDT", START_MS + 500, 2, 100.0, 1.0, 1)
        s.inbox.put_rows("BTCUSDT", [row], s.clock.ms, s.clock.monotonic_ns())
        s.at(2_000 + GRACE_MS + 10)
        assert s.log.bars_after("BTCUSDT", 0)["n_trades"].tolist()[:2] == [1, 2]


def test_what_is_no_message_of_ours_is_left_out_and_counted(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(300, 1, symbol="XRPUSDT")
        s.quote(300, 1, symbol="XRPUSDT")
        s.put(b'{"stream":"btcusdt@aggTrade","data":{"a":', 300)
        s.put(b'{"stream":"btcusdt@bookTicker","data":[]}', 300)
        s.trade(90_400, 2, delay=-90_000)  # from the future
        s.quote(-89_600, 2, delay=90_000)  # behind the others by more than a way can take
        s.trade(500, 2)
        s.trade(500, 2)
        assert s.at(1_000 + GRACE_MS + 10) == [1_000]
        found = {
            (stream, reason): s.dropped(stream, reason)
            for stream in ("trade", "quote")
            for reason in ("malformed", "unknown_symbol", "bad_value", "duplicate")
        }
        expected = dict.fromkeys(found, 1.0) | {("quote", "duplicate"): 0.0}
        assert found == expected
        assert s.metrics.bind("divergence_errors_total", stage="decode").read() == 2
        assert s.log.bars_after("BTCUSDT", 0)["n_trades"].tolist() == [2]


def test_while_the_disk_refuses_messages_are_taken_up_and_none_is_lost(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.log.refusals = 1
        # All in one batch: the message that ends the first bar, and many behind it.
        for number in range(2, 200):
            s.trade(1_000 + 20 * number, number)
            s.quote(1_000 + 20 * number, number)
        s.consumer.work()
        assert s.session.is_stalled
        assert s.bars() == []
        s.session.retry()
        s.clock.ms = START_MS + 6_000 + GRACE_MS
        for _ in range(10):
            s.consumer.work()
        bars = s.log.bars_after("BTCUSDT", 0)
        assert bars["ts_ms"].tolist() == [START_MS + 1_000 * i for i in range(1, 7)]
        assert int(bars["n_trades"].sum()) == int(bars["n_quotes"].sum()) == 199
        assert s.inbox.size == 0


@pytest.mark.parametrize("spot", [False, True])
def test_what_waited_in_the_inbox_while_we_were_held_up_is_not_late(tmp_path: Path, spot: bool) -> None:
    with scene(tmp_path, spot=spot) as s:
        for number in range(1, 600):  # more than two batches
            s.trade(20 * number, number)
            s.quote(20 * number + 1, number)
        s.at(60_000)  # a minute went by before we came to any of it
        s.at(60_010)
        bars = s.log.bars_after("BTCUSDT", 0)
        assert int(bars["n_trades"].sum()) == int(bars["n_quotes"].sum()) == 599
        assert s.dropped("trade", "late") == s.dropped("quote", "late") == 0


def test_bars_that_messages_of_one_batch_end_share_a_commit_and_their_messages_wait_for_it(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        for ms, number in ((100, 1), (1_100, 2)):
            for i, symbol in enumerate(SYMBOLS):
                s.trade(ms, number, symbol=symbol, delay=i)
                s.quote(ms, number, symbol=symbol, delay=i + 2)
            if number == 1:
                s.at(110)
        advance, commit = s.session.advance, s.log.commit
        received: list[dict[str, int]] = []

        def slow(batch: Batch) -> Committed:
            s.clock.ms += 7
            return commit(batch)

        def seen(closed: Mapping[str, np.ndarray], received_ns: Mapping[str, int]) -> None:
            received.append(dict(received_ns))
            advance(closed, received_ns)

        s.log.commit, s.session.advance = slow, seen  # type: ignore[method-assign]
        s.at(1_105)
        assert [s.bars(symbol) for symbol in SYMBOLS] == [[1_000], [1_000]]
        # Of each symbol the first message that may have ended its bar, not that of another nor a later one.
        assert received == [{symbol: (START_MS + 1_100 + i) * 1_000_000 for i, symbol in enumerate(SYMBOLS)}]
        s.at(1_200)
        counts, total = s.metrics.bind("divergence_event_latency_seconds").read()
        assert sum(counts) == 8
        assert total == pytest.approx(2 * 0.007)  # of each symbol the message that may have ended the bar


def test_it_tries_again_by_itself_until_the_disk_accepts(tmp_path: Path) -> None:
    async def watch(s: Scene) -> float:
        task = asyncio.create_task(s.consumer.run())
        async with asyncio.timeout(30):
            while not s.session.is_stalled:
                await asyncio.sleep(0)
            began = s.clock.ms
            while s.session.is_stalled:
                await asyncio.sleep(0)
        waited_s = (s.clock.ms - began) / 1_000
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waited_s

    with scene(tmp_path) as s:
        s.log.refusals = 3
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_100, 2)
        s.quote(1_100, 2)
        assert asyncio.run(watch(s)) == pytest.approx(3 * RETRY_S)
        assert s.metrics.bind("divergence_errors_total", stage="store").read() == 3
        assert s.bars()[0] == 1_000


def test_before_a_stop_all_that_waits_is_taken(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        for number in range(1, 2_000):
            s.trade(2 * number, number)
            s.quote(2 * number, number)
        s.clock.ms = START_MS
        s.consumer.drain()
        assert s.inbox.size == 0
        assert s.bars() == [1_000, 2_000, 3_000]


def test_a_stop_on_a_full_disk_does_not_wait(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.log.refusals = 10**9
        for number in range(1, 2_000):
            s.trade(2 * number, number)
            s.quote(2 * number, number)
        s.consumer.drain()
        assert s.session.is_stalled
        s.log.refusals = 0


def test_the_way_from_the_exchange_and_the_time_of_each_message_are_measured(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        for number in range(1, 11):
            s.trade(10 * number, number, delay=40)
        s.at(500)
        lines = s.metrics.expose().decode().splitlines()
        found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("divergence_")}
        assert found['divergence_feed_lag_seconds_bucket{le="+Inf"}'] == 10
        assert found['divergence_feed_lag_seconds_bucket{le="0.05"}'] == 10
        assert found["divergence_event_latency_seconds_count"] == 10
        assert np.isfinite(found["divergence_event_latency_seconds_sum"])


def test_of_a_flood_of_malformed_messages_the_1st_2nd_4th_and_so_on_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with scene(tmp_path) as s:
        for i in range(300):
            s.put(b'{"stream":"btcusdt@aggTrade","data":{"a":', i)
        s.put(b'{"stream":"btcusdt@bookTicker","data":[]}', 300)  # of another stream: told, being its first
        s.at(400)
        assert s.dropped("trade", "malformed") == 300
    told = [r.getMessage().rpartition("(malformed ")[2] for r in caplog.records]
    assert told == [*(f"trade {2**k})" for k in range(9)), "quote 1)"]


def minute(s: Scene, start: int, shift: int = 0) -> set[str]:
    """Receive a minute of both streams, the exchange's clock off by `shift` ms; return what stood still in it."""
    found = set()
    for ms in range(start, start + 60_000, 100):
        s.trade(ms + shift, (ms + 10**9) // 100, delay=-shift)
        s.quote(ms + shift, (ms + 10**9) // 100, delay=-shift)
        s.at(ms)
        found |= s.consumer.standing_still()
    return found


def test_where_the_exchanges_clock_is_set_back_bars_stand_still_and_it_is_said(tmp_path: Path) -> None:
    hour = 3_600_000
    with scene(tmp_path) as s:
        assert minute(s, 0) == set()
        n_bars = len(s.bars())
        assert minute(s, 60_000, -hour) == {"BTCUSDT"}
        assert len(s.bars()) <= n_bars + 7  # the first hundred messages are not believed, and the clock closes bars
        assert s.consumer.standing_still() == {"BTCUSDT"}
        assert s.dropped("trade", "late") > 400  # counted though no bar is closed that would count them
        assert s.session.lanes["BTCUSDT"].intake.n_held < 20
        s.trade(120_000, 10**8, delay=0)
        assert minute(s, 120_000) == {"BTCUSDT"}  # until it is believed that the clock is back
        assert s.consumer.standing_still() == set()
        assert len(s.bars()) > n_bars + 50


def test_a_symbol_of_which_nothing_comes_does_not_stand_still(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        for ms in range(1_000, 300_000, 500):
            s.at(ms)
            assert s.consumer.standing_still() == set()


def test_a_bar_that_waits_for_trades_as_long_as_it_may_does_not_stand_still(tmp_path: Path) -> None:
    with scene(tmp_path) as s:
        s.trade(100, 1)
        s.quote(200, 1)
        s.trade(1_100, 5)
        for ms in range(1_100, 1_100 + round(1e3 * HOLD_S), 100):
            s.quote(ms, ms)
            assert s.at(ms) == []
            assert s.consumer.standing_still() == set()


def script(seed: int, spot: bool) -> list[list[tuple[bytes, int]]]:
    """Return what is received between the looks of a consumer: frames and when, ms after the start."""
    rng = np.random.default_rng(seed)
    number = dict.fromkeys((*SYMBOLS, "XRPUSDT"), 1)
    rounds: list[list[tuple[bytes, int]]] = []
    ms = 0
    for _ in range(30):
        received: list[tuple[bytes, int]] = []
        for _ in range(int(rng.integers(1, 90))):
            ms += int(rng.integers(0, 12))
            symbol = "XRPUSDT" if rng.random() < 0.0005 else str(rng.choice(SYMBOLS))
            at = START_MS + ms - int(rng.integers(0, 40)) - (1_500 if rng.random() < 0.003 else 0)
            if rng.random() < 0.5:
                odd = rng.random()  # mostly in order; at times a hole, a double, an old one
                number[symbol] += 1 if odd > 0.004 else int(rng.integers(0, 6))
                trade_id = number[symbol] - (int(rng.integers(1, 9)) if odd > 0.99 else 0)
                row: dict[str, object] = {"recv_ns": 0, "event_ms": 0, "trade_ms": at, "trade_id": max(trade_id, 1)}
                row |= {"price": round(100 + rng.normal(), 2), "qty": 1.5, "is_buyer_maker": bool(rng.random() < 0.5)}
                raw = agg_trade(symbol, "spot" if spot else "usdm", row).raw
            else:
                row = {"recv_ns": 0, "update_id": ms, "bid": 99.0, "bid_qty": 1.0, "ask": 101.0, "ask_qty": 2.5}
                row |= {} if spot else {"trans_ms": at, "event_ms": at}
                raw = book_ticker(symbol, row).raw
            received.append((raw[:40] if rng.random() < 0.001 else raw, ms))
        rounds.append(received)
    return rounds


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_many_messages_in_one_pass_lead_to_what_they_lead_to_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, spot: bool
) -> None:
    found, n_passes = [], [0]
    read = FrameReader.read

    def counted(self: FrameReader, raws: list[bytes], recv_ms: list[int]) -> object:
        frames = read(self, raws, recv_ms)
        n_passes[0] += frames is not None
        return frames

    monkeypatch.setattr(FrameReader, "read", counted)
    for many in (2, 1 << 60):
        monkeypatch.setattr(consumer, "MANY", many)
        with scene(tmp_path / str(many), spot=spot) as s:
            for received in script(seed, spot):
                for raw, at_ms in received:
                    s.put(raw, at_ms)
                s.at(received[-1][1] + 1)
            s.at(received[-1][1] + 1_000 + round(2_000 * HOLD_S))
            bars = [s.log.bars_after(symbol, 0).tobytes() for symbol in SYMBOLS]
            drops = {
                (stream, reason): s.dropped(stream, reason)
                for stream in ("trade", "quote")
                for reason in ("late", "duplicate", "malformed", "bad_value", "unknown_symbol")
            }
            taken = [s.metrics.bind("divergence_messages_total", stream=k).read() for k in ("trade", "quote")]
            lags = s.metrics.bind("divergence_feed_lag_seconds").read()
            found.append((bars, drops, taken, lags, sorted(s.feed.asked)))  # symbols ask in another order
            assert all(bars)
    assert found[0] == found[1]
    assert found[0][4]  # holes were met
    assert n_passes[0] > 10
