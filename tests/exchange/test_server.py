"""The local exchange itself, seen through libraries it shares no code with: aiohttp, httpx, json."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import aiohttp
import httpx
import polars as pl
import pytest

from tests.exchange import frames, mischief
from tests.exchange.recordings import Message, quotes_trades, raw_ws
from tests.exchange.server import Exchange

TRADE = Message(
    1,
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1700000000000,"s":"BTCUSDT","a":5,"p":"1.5","q":"2",'
    b'"f":5,"l":5,"T":1700000000000,"m":true}}',
)


def quotes(n: int) -> list[Message]:
    return [
        Message(i, b'{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}}' % i)
        for i in range(n)
    ]


async def ask(socket: aiohttp.ClientWebSocketResponse, **request: object) -> dict[str, object]:
    await socket.send_json(request)
    return await socket.receive_json(timeout=10)


def test_the_handshake_key_is_that_of_the_standard() -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
    assert frames.accept_key(key) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_requests_are_answered_as_documented() -> None:
    async def scene() -> None:
        async with (
            Exchange() as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/stream") as socket,
        ):
            two = ["btcusdt@aggTrade", "btcusdt@bookTicker"]
            assert await ask(socket, method="SUBSCRIBE", params=two, id=1) == {"result": None, "id": 1}
            assert await ask(socket, method="LIST_SUBSCRIPTIONS", id=3) == {"result": two, "id": 3}
            assert await ask(socket, method="UNSUBSCRIBE", params=two[1:], id=4) == {"result": None, "id": 4}
            assert await ask(socket, method="LIST_SUBSCRIPTIONS", id=5) == {"result": two[:1], "id": 5}
            assert not exchange.violations

    asyncio.run(scene())


def test_what_is_wrong_is_told() -> None:
    async def scene() -> None:
        async with (
            Exchange() as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/stream") as socket,
        ):
            exchange.refuse_streams = {"nosuch@aggTrade"}
            await socket.send_str("{")
            assert (await socket.receive_json())["code"] == 3
            assert "error" in await ask(socket, method="SUBSCRIBER", id=1)
            assert "error" in await ask(socket, method="SUBSCRIBE", params=["nosuch@aggTrade"], id=2)

    asyncio.run(scene())


def test_frames_of_every_length_pings_and_pongs_pass() -> None:
    async def scene() -> None:
        async with (
            Exchange() as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/stream", autoping=False) as socket,
        ):
            await exchange.until(lambda: bool(exchange.live))
            connection = exchange.live[0]
            for n in (0, 125, 126, 65_535, 65_536, 200_000):
                await connection.send(b"x" * n)
                assert (await socket.receive()).data == "x" * n
            await connection.send(b"17", frames.PING)
            assert (await socket.receive()).data == b"17"
            await socket.pong(b"17")
            await exchange.until(lambda: connection.pongs == [b"17"])
            await socket.ping(b"me")
            assert (await socket.receive()).type is aiohttp.WSMsgType.PONG
            await socket.close(code=1000)
            await exchange.until(lambda: not exchange.live)
            assert connection.closed_by_client

    asyncio.run(scene())


@pytest.mark.parametrize(("market", "limit"), [("spot", 5), ("usdm", 10)])
def test_more_messages_in_a_second_than_allowed_end_the_connection(market: str, limit: int) -> None:
    async def scene() -> None:
        path = {"spot": "/stream", "usdm": "/public/stream"}[market]
        async with (
            Exchange(market) as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + path) as socket,
        ):
            for i in range(limit):
                await ask(socket, method="LIST_SUBSCRIPTIONS", id=i)
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 99})
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
            assert exchange.violations == ["too many messages in a second"]

    asyncio.run(scene())


def test_on_usdm_a_stream_on_the_wrong_path_is_granted_and_silent() -> None:
    async def scene() -> None:
        async with (
            Exchange("usdm") as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/public/stream") as public,
            session.ws_connect(exchange.ws_url + "/market/stream") as market,
        ):
            both = ["btcusdt@aggTrade", "btcusdt@bookTicker"]
            for socket in (public, market):
                assert await ask(socket, method="SUBSCRIBE", params=both, id=1) == {"result": None, "id": 1}
            quote = quotes(1)[0]
            assert await exchange.play([TRADE, quote]) == []
            assert (await public.receive()).data == quote.raw.decode()
            assert (await market.receive()).data == TRADE.raw.decode()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(exchange.ws_url + "/stream")

    asyncio.run(scene())


def test_a_recording_arrives_as_it_is(shared_data: Path) -> None:
    messages = raw_ws(shared_data / "raw_ws" / "usdm_btcusdt_20240718.gz")

    async def scene() -> None:
        async with (
            Exchange("spot") as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/stream?streams=btcusdt@trade/btcusdt@bookTicker") as socket,
        ):
            playing = asyncio.create_task(exchange.play(messages))
            for message in messages:
                assert (await socket.receive_str()).encode() == message.raw
            assert await playing == []

    asyncio.run(scene())


def test_parquet_becomes_frames_with_the_same_numbers(shared_data: Path) -> None:
    folder, stem = shared_data / "quotes_trades", "usdm_BTCUSDT_2024-07-18"
    messages = quotes_trades(folder, stem, "XBTUSDT")
    trades = pl.read_parquet(folder / f"{stem}_trades.parquet")
    quoted = pl.read_parquet(folder / f"{stem}_bookticker.parquet")
    assert len(messages) == len(trades) + len(quoted)
    assert all(a.recv_ns <= b.recv_ns for a, b in pairwise(messages))
    data = [json.loads(m.raw)["data"] for m in messages if m.stream == "xbtusdt@aggTrade"]
    assert [float(row["p"]) for row in data] == trades["price"].to_list()
    assert [row["a"] for row in data] == trades["trade_id"].to_list()
    data = [json.loads(m.raw)["data"] for m in messages if m.stream == "xbtusdt@bookTicker"]
    assert [float(row["A"]) for row in data] == quoted["ask_qty"].to_list()
    assert [row["T"] for row in data] == quoted["trans_ms"].to_list()


def test_lost_messages_are_named() -> None:
    async def scene() -> None:
        async with (
            Exchange() as exchange,
            aiohttp.ClientSession() as session,
            session.ws_connect(exchange.ws_url + "/stream?streams=btcusdt@bookTicker") as socket,
        ):
            sent = quotes(10)
            lost = await exchange.play(mischief.with_faults(sent, {4: mischief.Fault("lose", n=3)}))
            assert lost == sent[4:7]
            got = [(await socket.receive_str()).encode() for _ in range(7)]
            assert got == [m.raw for m in sent[:4] + sent[7:]]

    asyncio.run(scene())


def test_rest_lists_by_id_with_weight_and_refuses_who_asks_too_much() -> None:
    async def scene() -> None:
        async with Exchange("spot") as exchange, httpx.AsyncClient(base_url=exchange.rest_url) as client:
            exchange.list_trades([TRADE])
            query = {"symbol": "BTCUSDT", "fromId": 3, "limit": 10}
            answer = await client.get("/api/v3/aggTrades", params=query)
            content = json.loads(TRADE.raw)["data"]
            assert answer.json() == [{name: content[name] for name in "apqflTm"} | {"M": True}]
            assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "4"
            assert (await client.get("/api/v3/aggTrades", params=query | {"fromId": 6})).json() == []
            assert (await client.get("/api/v3/aggTrades", params=query | {"symbol": "NOSUCH"})).status_code == 400
            exchange.used_weight = 6_000
            refused = await client.get("/api/v3/aggTrades", params=query)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")

    asyncio.run(scene())


def test_mischief_does_what_it_says() -> None:
    sent = [TRADE, *quotes(200)]
    twice = mischief.duplicated(sent, 0.3, 7)
    assert [m for i, m in enumerate(twice) if i == 0 or m != twice[i - 1]] == sent
    assert len(twice) > len(sent)
    moved = mischief.reordered(sent, 5, 7)
    assert moved != sent
    assert sorted(moved) == sorted(sent)
    assert max(abs(i - sent.index(m)) for i, m in enumerate(moved)) <= 5
    assert mischief.without_trades(sent, [5]) == sent[1:]
    assert json.loads(mischief.clock_off([TRADE], -90_000)[0].raw)["data"]["T"] == 1_700_000_000_000 - 90_000
    renamed = mischief.wrong_symbol(sent, "XUSDT", 0.5, 7)
    assert 0 < sum(m.stream.startswith("xusdt@") for m in renamed) < len(sent)
