"""A runner that catches up from another one's log and then follows the feed: bars and events are those of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.exchange.recordings import Message
from tests.parity.live_runs import FakeClock, in_log, loose, session_on
from tests.parity.test_live_parity import dropped, simulated_frames
from v13.config import Config
from v13.live.catchup import catch_up
from v13.live.consumer import Consumer
from v13.live.inbox import Inbox
from v13.live.session import Session
from v13.market.playback import Playback
from v13.market.wire import Trade, decode_trade
from v13.telemetry import Metrics

SYMBOL = "BTCUSDT"
N_BARS = 600
TICKS = {SYMBOL: Playback(SYMBOL, "usdm", "exchange", 1_000, True, True, False, None, (), *[None] * 3)}  # type: ignore[arg-type]


class Runner:
    """Session and consumer, and a feed that fetches trades from all there are."""

    connected = True

    def __init__(self, session: Session, metrics: Metrics, clock: FakeClock, trades: dict[int, Trade]) -> None:
        self.session, self.metrics, self.clock, self.trades = session, metrics, clock, trades
        self.asked: list[tuple[str, int, int]] = []
        self.inbox = Inbox(100_000, metrics)

    def follow_the_feed(self) -> None:
        self.consumer = Consumer(
            self.session, self.inbox, self, metrics=self.metrics, clock=self.clock, has_exchange_time=True, grace_ms=250
        )

    def fill(self, symbol: str, first: int, last: int) -> bool:
        self.asked.append((symbol, first, last))
        rows = [self.trades[n] for n in range(first, last + 1)]
        return self.inbox.put_rows(symbol, rows, self.clock.wall_ms(), self.clock.now_ns)

    def hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.clock.now_ns = max(self.clock.now_ns, message.recv_ns)
            assert self.inbox.put(message.raw, self.clock.wall_ms(), self.clock.now_ns)
            self.consumer.work()

    def finish(self) -> None:
        while self.inbox.size:
            self.consumer.work()
        self.session.advance({SYMBOL: self.session.lanes[SYMBOL].intake.finish()})


@contextmanager
def runner(path: Path, arrivals: Sequence[Message]) -> Iterator[Runner]:
    clock = FakeClock()
    clock.now_ns = arrivals[0].recv_ns
    trades = {row[2]: row for row in (decode_trade(m.raw) for m in arrivals if b"aggTrade" in m.raw)}
    with session_on(path, TICKS, loose(), clock) as (session, metrics):
        yield Runner(session, metrics, clock, trades)


def exchange_ms(message: Message) -> int:
    return int(message.raw.partition(b'"T":')[2].split(b",")[0].split(b"}")[0])


def kept(of: Runner) -> np.ndarray:
    return of.session._log.bars_after(SYMBOL, 0)


def test_with_a_feed_that_misses_nothing_bars_events_and_outcomes_are_those_of_the_other(tmp_path: Path) -> None:
    arrivals, _ = simulated_frames(13, N_BARS, SYMBOL)
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with runner(a, arrivals) as first, runner(b, arrivals) as second:
        first.follow_the_feed()
        half = len(arrivals) // 2
        first.hear(arrivals[:half])
        catch_up(Path(), Config.model_validate({"runner": {"warm_from": str(a)}}), second.session, [SYMBOL])
        closed_ms = first.session.lanes[SYMBOL].ts_ms
        assert second.session.lanes[SYMBOL].ts_ms == closed_ms
        second.follow_the_feed()
        second.hear([m for m in arrivals if exchange_ms(m) >= closed_ms])
        first.hear(arrivals[half:])
        for own in (first, second):
            own.finish()
        assert first.asked == second.asked == []
        assert {reason for _, reason in dropped(second.metrics)} == {"duplicate"}
        assert kept(second).tobytes() == kept(first).tobytes()
        assert kept(second).size > N_BARS - 5
    assert in_log(b) == in_log(a)
    assert len(in_log(a)[0]) > 30


def test_what_was_traded_between_the_other_log_and_the_feed_is_fetched_by_its_ids(tmp_path: Path) -> None:
    arrivals, _ = simulated_frames(13, N_BARS, SYMBOL)
    a, b = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with runner(a, arrivals) as first, runner(b, arrivals) as second:
        first.follow_the_feed()
        half = len(arrivals) // 2
        first.hear(arrivals[:half])
        catch_up(Path(), Config.model_validate({"runner": {"warm_from": str(a)}}), second.session, [SYMBOL])
        closed_ms = first.session.lanes[SYMBOL].ts_ms
        second.follow_the_feed()
        heard = [m for m in arrivals if exchange_ms(m) >= closed_ms + 2_500]
        quotes_first = sorted(heard[:12], key=lambda m: b"aggTrade" in m.raw) + heard[12:]
        second.hear(quotes_first)
        first.hear(arrivals[half:])
        for own in (first, second):
            own.finish()
        mine, theirs = kept(second), kept(first)
    assert len(second.asked) == 1
    for name in ("ts_ms", "open", "high", "low", "close", "volume", "delta", "n_trades"):
        assert mine[name].tobytes() == theirs[name].tobytes(), name
    differs = mine["n_quotes"] != theirs["n_quotes"]  # quotes cannot be fetched
    assert set(mine["ts_ms"][differs].tolist()) <= {closed_ms + 1_000 * n for n in (1, 2, 3)}
    assert differs.any()
