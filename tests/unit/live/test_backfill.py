"""Holes in ids, and their trades over REST from the local exchange, with all it can answer."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exchange.clocks import SteppingClock
from tests.exchange.recordings import Message, agg_trade
from tests.exchange.server import Exchange
from v13.errors import DataError, FeedError
from v13.live.backfill import MAX_JUMP, PAGE_TRADES, AggTradeRest, IdWatch
from v13.market.wire import Trade, decode_trade

TIMEOUT_S = 10.0
PAUSE = {"Retry-After": "7"}


def trades(ids: range | list[int], market: str = "spot") -> list[Message]:
    row = {"recv_ns": 1, "event_ms": 1_700_000_000_000, "trade_ms": 1_700_000_000_000, "price": 2.5, "qty": 0.1}
    return [agg_trade("BTCUSDT", market, row | {"trade_id": i, "is_buyer_maker": i % 2 == 0}) for i in ids]


async def fetched(exchange: Exchange, clock: SteppingClock, first: int, last: int, **options: object) -> list[Trade]:
    rest = AggTradeRest(exchange.market, exchange.rest_url, clock, timeout_s=TIMEOUT_S, rng=random.Random(5), **options)
    try:
        return [row async for page in rest.pages("BTCUSDT", first, last) for row in page]
    finally:
        await rest.close()


@given(st.lists(st.integers(0, 30), max_size=60))
def test_holes_and_ids_seen_make_up_the_whole_span(ids: list[int]) -> None:
    watch, holes = IdWatch(), []
    for i in ids:
        hole = watch.see("BTCUSDT", i)
        if hole:
            holes += range(hole[0], hole[1] + 1)
    assert len(set(holes)) == len(holes)
    if ids:
        assert set(holes) | set(ids) >= set(range(ids[0], max(ids) + 1))
        assert all(i > ids[0] for i in holes)


def test_symbols_do_not_mix_and_an_earlier_run_is_remembered() -> None:
    watch = IdWatch({"ETHUSDT": 4})
    assert watch.see("BTCUSDT", 100) is None
    assert watch.see("ETHUSDT", 7) == (5, 6)
    assert watch.see("BTCUSDT", 101) is None


def test_a_wild_id_is_believed_only_when_the_next_confirms_it() -> None:
    wild = 10 * MAX_JUMP
    watch = IdWatch({"BTCUSDT": 10})
    assert watch.see("BTCUSDT", wild) is None
    assert watch.see("BTCUSDT", wild) is None
    assert watch.see("BTCUSDT", 12) == (11, 11)
    assert watch.see("BTCUSDT", wild) is None
    assert watch.see("BTCUSDT", wild + 1) == (13, wild)


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_a_hole_of_several_pages_comes_whole_and_in_order(market: str) -> None:
    async def scene() -> None:
        async with Exchange(market) as exchange:
            listed = trades(range(1, 4 * PAGE_TRADES), market)
            exchange.list_trades(listed)
            first, last = 500, 500 + 2 * PAGE_TRADES + 10
            assert await fetched(exchange, SteppingClock((TIMEOUT_S,)), first, last) == [
                decode_trade(message.raw) for message in listed[first - 1 : last]
            ]
            assert [int(query["limit"]) for query in exchange.rest_requests] == [PAGE_TRADES, PAGE_TRADES, 11]

    asyncio.run(scene())


def test_ids_the_exchange_does_not_have_are_passed_over() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.list_trades(trades([1, 2, 5, 9]))
            rows = await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 7)
            assert [row[2] for row in rows] == [2, 5]

    asyncio.run(scene())


def test_trades_not_listed_yet_are_asked_for_again() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.list_trades(trades(range(1, 10)))
            exchange.hidden_above, exchange.hidden_step = 1, 3
            rows = await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 8)
            assert [row[2] for row in rows] == list(range(2, 9))
            assert len(exchange.rest_requests) > 2

    asyncio.run(scene())


@pytest.mark.parametrize("status", [429, 418])
def test_an_ordered_pause_is_kept(status: int) -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.list_trades(trades(range(1, 10)))
            exchange.rest_answers.append((status, PAUSE, b"{}"))
            clock = SteppingClock((TIMEOUT_S,))
            rows = await fetched(exchange, clock, 2, 3)
            assert [row[2] for row in rows] == [2, 3]
            assert sum(clock.slept) == pytest.approx(7.0)

    asyncio.run(scene())


def test_a_long_ban_fails_at_once_and_no_call_is_made_until_it_is_over() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.list_trades(trades(range(1, 10)))
            exchange.rest_answers.append((418, {"Retry-After": "3600"}, b"{}"))
            clock = SteppingClock((TIMEOUT_S,))
            rest = AggTradeRest("spot", exchange.rest_url, clock, timeout_s=TIMEOUT_S)
            for _ in range(2):
                with pytest.raises(FeedError, match=r"refuses calls from this address for 3\d\d\d s more"):
                    await anext(rest.pages("BTCUSDT", 2, 3))
            assert len(exchange.rest_requests) == 1
            clock.now_ns += 3_600 * 10**9
            assert len(await anext(rest.pages("BTCUSDT", 2, 3))) == 2
            await rest.close()

    asyncio.run(scene())


def test_no_call_is_made_that_would_pass_the_weight_of_a_minute() -> None:
    async def scene() -> None:
        async with Exchange("usdm") as exchange:
            exchange.list_trades(trades(range(1, 3_000)))
            exchange.used_weight = 1_890  # 80 % of 2,400 is 1,920: one more call of 20 fits, a second does not
            clock = SteppingClock((TIMEOUT_S,))
            rows = await fetched(exchange, clock, 1, 1_500)
            assert len(rows) == 1_500
            assert clock.slept == [60.0]

    asyncio.run(scene())


def test_failures_of_the_service_are_tried_again_and_then_given_up() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.list_trades(trades(range(1, 10)))
            exchange.rest_answers.extend([(503, {}, b"")] * 2)
            assert len(await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 3)) == 2
            exchange.rest_answers.extend([(502, {}, b"")] * 5)
            with pytest.raises(FeedError, match="5 attempts failed: status 502"):
                await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 3)
            assert not exchange.rest_answers

    asyncio.run(scene())


def test_a_refusal_and_a_body_that_is_no_list_are_errors_at_once() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            with pytest.raises(FeedError, match=r"status 400.*Invalid symbol"):
                await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 3)
            exchange.rest_answers.append((200, {}, b"<html>maintenance</html>"))
            with pytest.raises(DataError, match="malformed REST answer"):
                await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 3)

    asyncio.run(scene())


def test_older_trades_than_asked_for_are_not_taken() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            old = json.dumps([json.loads(trades([1])[0].raw)["data"]]).encode()
            exchange.rest_answers.extend([(200, {}, old)] * 2)
            with pytest.raises(FeedError, match="other trades than asked for"):
                await fetched(exchange, SteppingClock((TIMEOUT_S,)), 2, 3, attempts=2)

    asyncio.run(scene())


def test_a_service_that_does_not_answer_is_left_after_the_time_limit() -> None:
    async def scene() -> None:
        async with Exchange() as exchange:
            exchange.mute = True
            with pytest.raises(FeedError, match="3 attempts failed: TimeoutError"):
                await fetched(exchange, SteppingClock(), 2, 3, attempts=3)  # on this clock the limit passes at once

    asyncio.run(scene())


def test_a_run_of_ids_that_follows_is_noted_at_once_and_any_other_is_not() -> None:
    watch = IdWatch({"BTCUSDT": 4})
    assert watch.see_run("BTCUSDT", 5, 9)
    assert watch.see_run("ETHUSDT", 70, 71)  # the first of its symbol
    for first, last in ((11, 12), (9, 10), (3, 5)):
        assert not watch.see_run("BTCUSDT", first, last)
    assert watch.see("BTCUSDT", 12) == (10, 11)
