"""The real feed against the local exchange: one misbehaviour a test; what was sent is in the inbox, or counted."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.exchange import frames, mischief
from tests.exchange.mischief import Fault, with_faults
from tests.exchange.recordings import Message, quotes_trades, raw_ws
from tests.exchange.server import WAIT_S, Exchange
from v13.live.backfill import AggTradeRest, IdWatch
from v13.live.binance import BinanceFeed, FeedSettings
from v13.live.clock import SystemClock
from v13.live.inbox import Inbox
from v13.market.wire import decode_trade
from v13.telemetry import Metrics

# Short waits, so that a lost connection is made again at once; a test that needs a limit sets its own.
QUICK: dict[str, float] = {"backoff_min_s": 0.01, "backoff_max_s": 0.05, "overlap_s": 0.05}


@dataclass
class Scene:
    """A feed at work."""

    exchange: Exchange
    feed: BinanceFeed
    inbox: Inbox
    metrics: Metrics

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.bind(name, **labels).read()

    @property
    def streams(self) -> list[str]:
        return [f"{s.lower()}@{k}" for s in self.feed.symbols for k in self.feed._settings.streams]

    async def receive(self, n: int) -> list[bytes]:
        """Return the next n frames."""
        got: list[bytes] = []
        async with asyncio.timeout(WAIT_S):
            while len(got) < n:
                await self.inbox.wait()
                got += [entry[1] for entry in self.inbox.take(n - len(got))]
        return got

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when the claim holds, asked again at every turn of the loop."""
        async with asyncio.timeout(WAIT_S):
            while not claim():
                await asyncio.sleep(0)


@asynccontextmanager
async def running(
    market: str = "spot", symbols: Sequence[str] = ("BTCUSDT",), limit: int = 1_000_000, **changes: object
) -> AsyncIterator[Scene]:
    async with Exchange(market) as exchange:
        clock, metrics = SystemClock(), Metrics((10,), symbols)
        settings = FeedSettings(market, exchange.ws_url, exchange.rest_url, **(QUICK | changes))
        inbox = Inbox(limit, metrics)
        rest = AggTradeRest(market, exchange.rest_url, clock)
        feed = BinanceFeed(settings, symbols, inbox, metrics, clock, rest, random.Random(11))
        scene = Scene(exchange, feed, inbox, metrics)
        task = asyncio.create_task(feed.run())
        try:
            yield scene
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not exchange.violations
        assert not feed.connected


@pytest.fixture(scope="module")
def usdm(shared_data: Path) -> list[Message]:
    return quotes_trades(shared_data / "quotes_trades", "usdm_BTCUSDT_2024-08-08")[:6_000]


@pytest.fixture(scope="module")
def spot(shared_data: Path) -> list[Message]:
    return quotes_trades(shared_data / "quotes_trades", "spot_BTCUSDT_2024-08-08")[:6_000]


@pytest.fixture(autouse=True)
def _a_socket_left_open_is_told_of_here() -> Iterator[None]:
    """Collect what the test left, so that aiohttp's warning of an unclosed connection fails this test and no other."""
    yield
    gc.collect()


def raws(messages: Sequence[Message]) -> list[bytes]:
    return [message.raw for message in messages]


def numbered(i: int) -> Message:
    return Message(
        i, b'{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}}' % i
    )


def by_stream(frames_: Sequence[bytes]) -> dict[str, list[bytes]]:
    kept: dict[str, list[bytes]] = {}
    for raw in frames_:
        kept.setdefault(Message(0, raw).stream, []).append(raw)
    return kept


def test_spot_arrives_byte_for_byte_in_order(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            await s.until(lambda: s.feed.connected)
            assert await s.exchange.play(spot) == []
            assert await s.receive(len(spot)) == raws(spot)
            assert len(s.exchange.connections) == 1
            assert s.count("divergence_feed_connected") == 1
            assert s.count("divergence_errors_total", stage="feed") == 0

    asyncio.run(scene())


def test_usdm_has_a_connection_for_trades_and_one_for_quotes(usdm: list[Message]) -> None:
    async def scene() -> None:
        async with running("usdm") as s:
            await s.exchange.subscribed(s.streams)
            assert await s.exchange.play(usdm) == []
            assert by_stream(await s.receive(len(usdm))) == by_stream(raws(usdm))
            assert sorted(c.path for c in s.exchange.connections) == ["/market/stream", "/public/stream"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "symbol"), [("usdm_btcusdt_20240718.gz", "BTCUSDT"), ("spot_ethusdt_20240808.gz", "ETHUSDT")]
)
def test_untouched_recordings_of_single_trades_arrive_whole(shared_data: Path, name: str, symbol: str) -> None:
    messages = raw_ws(shared_data / "raw_ws" / name)

    async def scene() -> None:
        async with running(name.partition("_")[0], [symbol], streams=("trade", "bookTicker")) as s:
            assert await s.exchange.play(messages) == []
            assert await s.receive(len(messages)) == raws(messages)

    asyncio.run(scene())


def test_many_symbols_are_asked_for_in_batches_within_the_limits() -> None:
    symbols = [f"S{i:03d}USDT" for i in range(130)]

    async def scene() -> None:
        changes = {"subscribe_batch": 60, "streams_per_connection": 200, "subscribe_pause_s": 0.25}
        async with running("spot", symbols, **changes) as s:
            await s.until(lambda: s.feed.connected)
            assert sorted(stream for c in s.exchange.connections for stream in c.streams) == sorted(s.streams)
            assert [len(c.streams) for c in s.exchange.connections] == [200, 60]
            sizes = [[len(request["params"]) for request in c.requests] for c in s.exchange.connections]
            assert sizes == [[60, 60, 60, 20], [60]]
            numbers = [[request["id"] for request in c.requests] for c in s.exchange.connections]
            assert all(len(set(ids)) == len(ids) for ids in numbers)

    asyncio.run(scene())


def test_pings_are_answered_with_their_payload(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            connection = s.exchange.live[0]
            for payload in (b"1723161256322", b""):
                await connection.send(payload, frames.PING)
                await s.exchange.until(lambda payload=payload: payload in connection.pongs)
            await s.exchange.play(spot[:5])
            assert await s.receive(5) == raws(spot[:5])

    asyncio.run(scene())


def test_a_disconnect_mid_frame_loses_only_what_was_not_sent(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            lost = await s.exchange.play(with_faults(spot, {2_000: Fault("cut", n=25)}))
            assert lost == spot[2_000:2_026]
            assert await s.receive(len(spot) - 26) == raws(spot[:2_000] + spot[2_026:])
            await s.until(lambda: s.count("divergence_feed_reconnects_total") == 1)
            assert s.count("divergence_errors_total", stage="feed") == 1

    asyncio.run(scene())


def test_a_polite_close_and_a_dropped_socket_are_both_connected_again(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            for i in range(3):
                await s.exchange.subscribed(s.streams)
                part = spot[i * 10 : i * 10 + 10]
                assert await s.exchange.play(part) == []
                assert await s.receive(10) == raws(part)
                (connection,) = s.exchange.live
                await (connection.close(1001) if i else connection.drop())
                await s.exchange.until(lambda c=connection: not c.open)
            await s.until(lambda: s.count("divergence_feed_reconnects_total") == 3)

    asyncio.run(scene())


def test_duplicates_pass_through(spot: list[Message]) -> None:
    sent = mischief.duplicated(spot, 0.2, 3)

    async def scene() -> None:
        async with running() as s:
            await s.exchange.play(sent)
            assert await s.receive(len(sent)) == raws(sent)

    asyncio.run(scene())


def test_reordered_messages_pass_through_as_they_came(spot: list[Message]) -> None:
    sent = mischief.reordered(spot, 40, 3)

    async def scene() -> None:
        async with running() as s:
            await s.exchange.play(sent)
            assert await s.receive(len(sent)) == raws(sent)

    asyncio.run(scene())


def test_a_stall_is_noticed_and_the_connection_made_anew(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running(idle_s=0.3, stale_after_s=0.1) as s:
            await s.exchange.subscribed(s.streams)
            assert await s.exchange.play(spot[:100]) == []
            (first,) = s.exchange.live
            await first.send(b"alive", frames.PING)  # a server that pings and sends nothing is stalled all the same
            await s.until(lambda: s.feed.stale() == ["BTCUSDT"])
            assert s.feed.staleness_s("BTCUSDT") > 0.1
            await s.exchange.until(lambda: not first.open)
            assert await s.exchange.play(spot[100:200]) == []
            assert await s.receive(200) == raws(spot[:200])
            await s.until(lambda: s.count("divergence_feed_reconnects_total") >= 1)

    asyncio.run(scene())


def test_staleness_is_told_by_symbol_at_every_scrape(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running("spot", ["BTCUSDT", "ETHUSDT"]) as s:
            await s.exchange.subscribed(s.streams)
            await s.until(lambda: s.feed.staleness_s("ETHUSDT") > 0.2)
            await s.exchange.play(spot[:10])
            await s.receive(10)
            told = {
                line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2])
                for line in s.metrics.expose().decode().splitlines()
                if line.startswith("divergence_feed_staleness_seconds{")
            }
            assert told["BTCUSDT"] < told["ETHUSDT"]
            assert told["ETHUSDT"] > 0.2

    asyncio.run(scene())


def test_garbage_is_counted_and_the_rest_arrives(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.play(with_faults(spot[:500], {i: Fault("garbage") for i in (100, 200, 201)}))
            assert await s.receive(500) == raws(spot[:500])
            (connection,) = s.exchange.live
            for odd in (b"", b"[]", b"{}", b"17", b'"x"', b"\xc3\x28"):
                await connection.send(odd, frames.BINARY)
                if odd != b"\xc3\x28":
                    await connection.send(odd)
            await s.until(lambda: s.count("divergence_errors_total", stage="decode") == 3 + 11)
            assert len(s.exchange.connections) == 1

    asyncio.run(scene())


def test_text_that_is_no_utf8_is_counted_or_handed_on(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            (connection,) = s.exchange.live
            broken = spot[0].raw.replace(b"BTCUSDT", b"BTC\xffUSDT")
            await connection.send(b"\xff\xfe")
            await connection.send(broken)
            assert await s.receive(1) == [broken]  # its envelope is good: who decodes it refuses it
            assert s.count("divergence_errors_total", stage="decode") == 1

    asyncio.run(scene())


def test_an_oversize_frame_breaks_the_connection_and_is_never_held(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running(max_frame_bytes=4_096) as s:
            steps = with_faults(spot, {1_000: Fault("oversize", n=5_000)})
            assert await s.exchange.play(steps) == []
            assert await s.receive(len(spot)) == raws(spot)
            await s.until(lambda: s.count("divergence_feed_reconnects_total") == 1)
            assert s.count("divergence_errors_total", stage="feed") == 1

    asyncio.run(scene())


def test_messages_of_another_symbol_reach_the_inbox_for_the_session_to_count(spot: list[Message]) -> None:
    sent = mischief.wrong_symbol(spot[:500], "XUSDT", 0.2, 3)

    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            (connection,) = s.exchange.live
            for message in sent:
                await connection.send(message.raw)
            assert await s.receive(500) == raws(sent)
            assert s.count("divergence_errors_total", stage="decode") == 0

    asyncio.run(scene())


def test_a_frame_that_drips_in_and_never_ends_is_given_up(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running(idle_s=0.3) as s:
            lost = await s.exchange.play(with_faults(spot[:300], {100: Fault("drip")}))
            assert lost == spot[100:101]
            assert await s.receive(299) == raws(spot[:100] + spot[101:300])
            await s.until(lambda: s.count("divergence_feed_reconnects_total") >= 1)

    asyncio.run(scene())


def test_a_clock_90_s_off_changes_nothing_and_receipt_is_by_our_own(usdm: list[Message]) -> None:
    sent = mischief.clock_off(usdm[:1_000], 90_000)

    async def scene() -> None:
        async with running("usdm") as s:
            await s.exchange.subscribed(s.streams)
            clock = SystemClock()
            before_ms, before_ns = clock.wall_ms(), clock.monotonic_ns()
            await s.exchange.play(sent)
            await s.until(lambda: s.inbox.size == len(sent))
            entries = s.inbox.take(len(sent))
            assert by_stream([e[1] for e in entries]) == by_stream(raws(sent))
            assert all(before_ms - 1 <= e[2] <= clock.wall_ms() + 1 for e in entries)
            assert all(before_ns <= a[3] <= b[3] for a, b in pairwise(entries))

    asyncio.run(scene())


def test_dropped_trades_are_found_by_their_ids_and_fetched(spot: list[Message]) -> None:
    trades = [m for m in spot if m.stream.endswith("@aggTrade")]
    ids = [decode_trade(m.raw)[2] for m in trades]
    gone = [*ids[50:53], ids[200]]

    async def scene() -> None:
        async with running() as s:
            s.exchange.list_trades(trades)
            s.exchange.rest_answers.append((429, {"Retry-After": "1"}, b"{}"))
            await s.exchange.play(mischief.without_trades(trades, gone))
            watch = IdWatch()
            for raw in await s.receive(len(trades) - len(gone)):
                hole = watch.see("BTCUSDT", decode_trade(raw)[2])
                if hole:
                    assert s.feed.fill("BTCUSDT", *hole)
            rows = []
            while len(rows) < len(gone):
                async with asyncio.timeout(WAIT_S):
                    await s.inbox.wait()
                for kind, content, _, _ in s.inbox.take(10):
                    assert (kind, content[0]) == ("rows", "BTCUSDT")
                    rows += content[1]
            assert rows == [decode_trade(m.raw) for m in trades if decode_trade(m.raw)[2] in gone]
            assert s.count("divergence_feed_id_gaps_total") == 2
            assert s.count("divergence_feed_missed_trades_total") == len(gone)
            assert s.count("divergence_feed_backfilled_trades_total") == len(gone)

    asyncio.run(scene())


def test_a_hole_that_cannot_be_filled_is_counted() -> None:
    async def scene() -> None:
        async with running(max_backfill_trades=100) as s:
            assert not s.feed.fill("BTCUSDT", 1, 101)
            assert s.feed.fill("BTCUSDT", 1, 100)  # REST knows no such symbol
            await s.until(lambda: s.count("divergence_errors_total", stage="backfill") == 1)
            assert s.count("divergence_feed_missed_trades_total") == 201
            assert s.count("divergence_feed_backfilled_trades_total") == 0
        async with running(streams=("trade",)) as s:
            assert not s.feed.fill("BTCUSDT", 1, 2)

    asyncio.run(scene())


def test_overload_sheds_quotes_before_trades_and_counts_each(spot: list[Message]) -> None:
    n_trades = sum(m.stream.endswith("@aggTrade") for m in spot)

    async def scene() -> None:
        async with running(limit=n_trades + 10) as s:
            await s.exchange.play(spot)
            await s.until(lambda: s.inbox.size + sum(s.inbox.dropped.values()) == len(spot))
            kept = [e[1] for e in s.inbox.take(len(spot))]
            assert s.inbox.dropped == {"trade": 0, "quote": len(spot) - n_trades - 10}
            quotes = [m for m in spot if m.stream.endswith("@bookTicker")]
            expected = set(raws(quotes[-10:])) | {m.raw for m in spot if m.stream.endswith("@aggTrade")}
            assert kept == [m.raw for m in spot if m.raw in expected]
            await s.exchange.play(spot[:100])
            assert await s.receive(100) == raws(spot[:100])

    asyncio.run(scene())


def test_a_connection_is_replaced_before_its_day_is_over_without_a_gap() -> None:
    async def scene() -> None:
        async with running(rotate_after_s=0.3) as s:
            await s.exchange.subscribed(s.streams)
            n, got = 0, []
            while len(s.exchange.connections) < 4 or len(s.exchange.live) > 1:
                await s.exchange.play([numbered(n)])
                n += 1
                got += [entry[1] for entry in s.inbox.take(100)]
            await s.exchange.play([numbered(n)])
            while numbered(n).raw not in got[-1:]:
                got += await s.receive(1)
            # Each came, and for the first time in order; what came twice had come on both connections.
            assert list(dict.fromkeys(got)) == [numbered(i).raw for i in range(n + 1)]
            assert len(got) > n + 1
            assert s.count("divergence_feed_reconnects_total") == 0
            assert s.count("divergence_errors_total", stage="feed") == 0
            assert s.feed.connected

    asyncio.run(scene())


def test_a_new_connection_that_is_ahead_of_the_old_one_waits_for_it() -> None:
    async def scene() -> None:
        async with running(overlap_s=1.0) as s:
            await s.until(lambda: s.feed.connected)
            (old,) = s.exchange.live
            await s.exchange.play([Fault("shutdown")])
            await s.exchange.until(lambda: len(s.exchange.takers("btcusdt@aggTrade")) == 2)
            new = s.exchange.live[1]
            for i in (1, 2):
                await new.send(numbered(i).raw)
            for i in (0, 1):
                await old.send(numbered(i).raw)
            assert await s.receive(2) == [numbered(i).raw for i in (0, 1)]
            assert old.open
            assert await s.receive(2) == [numbered(i).raw for i in (1, 2)]

    asyncio.run(scene())


def test_an_announced_shutdown_is_forestalled(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            first = s.exchange.connections[0]
            await s.exchange.play([Fault("shutdown")])
            await s.exchange.until(lambda: not first.open)
            assert first.closed_by_client
            await s.until(lambda: s.feed.connected)
            await s.exchange.play(spot[:10])
            assert await s.receive(10) == raws(spot[:10])
            assert s.count("divergence_feed_reconnects_total") == 0

    asyncio.run(scene())


def test_a_replacement_that_fails_leaves_the_old_connection_at_work(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running() as s:
            await s.exchange.subscribed(s.streams)
            first = s.exchange.connections[0]
            s.exchange.refusals.extend([(503, {})] * 2)
            await s.exchange.play([Fault("shutdown")])
            await s.exchange.until(lambda: s.exchange.n_attempts == 3)
            assert first.open
            await s.exchange.play(spot[:10])
            await s.exchange.until(lambda: not first.open)
            assert list(dict.fromkeys(await s.receive(10))) == raws(spot[:10])
            assert s.count("divergence_errors_total", stage="feed") == 2
            assert s.count("divergence_feed_reconnects_total") == 0

    asyncio.run(scene())


def test_a_handshake_that_is_refused_is_tried_again_after_the_ordered_wait() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.refusals.extend([(500, {}), (429, {"Retry-After": "1"}), (404, {})])
            clock, metrics = SystemClock(), Metrics((10,), ["BTCUSDT"])
            settings = FeedSettings("spot", exchange.ws_url, exchange.rest_url, **QUICK)
            feed = BinanceFeed(
                settings, ["BTCUSDT"], Inbox(9), metrics, clock, AggTradeRest("spot", exchange.rest_url, clock)
            )
            start_ns = clock.monotonic_ns()
            task = asyncio.create_task(feed.run())
            await exchange.subscribed(["btcusdt@aggTrade"])
            assert clock.monotonic_ns() - start_ns >= 10**9
            assert metrics.bind("divergence_errors_total", stage="feed").read() == 3
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())


def test_a_server_that_never_answers_the_handshake_is_left(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running(connect_timeout_s=0.2) as s:
            await s.exchange.subscribed(s.streams)
            s.exchange.mute = True
            await s.exchange.live[0].drop()
            n = s.exchange.n_attempts
            await s.exchange.until(lambda: s.exchange.n_attempts >= n + 2)
            assert not s.feed.connected
            assert s.count("divergence_feed_connected") == 0
            s.exchange.mute = False
            await s.exchange.play(spot[:10])
            assert await s.receive(10) == raws(spot[:10])

    asyncio.run(scene())


def test_a_subscription_that_is_refused_or_not_answered_is_tried_again(spot: list[Message]) -> None:
    async def scene() -> None:
        async with running(answer_timeout_s=0.2) as s:
            await s.until(lambda: s.feed.connected)
            s.exchange.refuse_streams = {"btcusdt@aggTrade"}
            await s.exchange.live[0].drop()
            await s.until(lambda: s.count("divergence_errors_total", stage="feed") >= 3)
            assert not s.feed.connected
            s.exchange.refuse_streams, s.exchange.deaf = set(), True
            n = len(s.exchange.connections)
            await s.exchange.until(lambda: len(s.exchange.connections) >= n + 2)
            s.exchange.deaf = False
            await s.until(lambda: s.feed.connected)
            await s.exchange.play(spot[:10])
            assert await s.receive(10) == raws(spot[:10])

    asyncio.run(scene())


def test_symbols_change_while_running_without_a_gap() -> None:
    async def scene() -> None:
        async with running("spot", ["BTCUSDT", "ETHUSDT"]) as s:
            await s.until(lambda: s.feed.connected)
            first = s.exchange.connections[0]
            symbols = ["BTCUSDT", "SOLUSDT"]
            s.metrics.set_symbols(symbols)
            s.feed.set_symbols(symbols)
            n, got = 0, []
            while first.open:
                await s.exchange.play([numbered(n)])
                n += 1
            await s.exchange.play([numbered(n)])
            assert s.exchange.live[0].streams == set(s.streams)
            while numbered(n).raw not in got[-1:]:
                got += await s.receive(1)
            assert list(dict.fromkeys(got)) == [numbered(i).raw for i in range(n + 1)]
            assert s.feed.staleness_s("SOLUSDT") > 0
            assert s.feed.staleness_s("ETHUSDT") == 0

    asyncio.run(scene())


def test_more_and_fewer_symbols_start_and_end_connections() -> None:
    async def scene() -> None:
        async with running("spot", ["AUSDT"], streams_per_connection=2) as s:
            await s.until(lambda: s.feed.connected)
            more = ["AUSDT", "BUSDT", "CUSDT"]
            s.metrics.set_symbols(more)
            s.feed.set_symbols(more)
            assert not s.feed.connected
            await s.until(lambda: s.feed.connected)
            assert len(s.exchange.live) == 3
            s.metrics.set_symbols(["AUSDT"])
            s.feed.set_symbols(["AUSDT"])
            await s.exchange.until(lambda: len(s.exchange.live) == 1)
            assert s.feed.connected

    asyncio.run(scene())


def test_a_stopped_feed_says_goodbye_and_leaves_nothing_open() -> None:
    async def scene() -> None:
        async with running("usdm") as s:
            await s.until(lambda: s.feed.connected)
            connections = list(s.exchange.live)
        assert len(connections) == 2
        assert all(connection.closed_by_client for connection in connections)

    asyncio.run(scene())
