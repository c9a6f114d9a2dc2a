"""The exchange of a rehearsal: the same messages for everybody, and trades by id of what has happened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import aiohttp
import httpx
import pytest

from v13.rehearsal.exchange import PlayedExchange

SYMBOLS = ("BTCUSDT", "DOGEUSDT")
STREAMS = ["btcusdt@aggTrade", "dogeusdt@bookTicker"]


@pytest.fixture(scope="module")
def exchange() -> Iterator[PlayedExchange]:
    with PlayedExchange(SYMBOLS, bar_ms=200, minutes=1, seed=13) as played:
        yield played


def trades(exchange: PlayedExchange, **query: Any) -> httpx.Response:
    return httpx.get(f"{exchange.rest_url}/fapi/v1/aggTrades", params=query, trust_env=False)


async def listen(session: aiohttp.ClientSession, url: str, streams: list[str], n: int) -> list[dict[str, Any]]:
    """Subscribe, and return the first so many messages of the market."""
    async with session.ws_connect(f"{url}/stream", timeout=aiohttp.ClientWSTimeout(ws_close=1.0)) as ws:
        await ws.send_json({"method": "SUBSCRIBE", "params": streams, "id": 7})
        assert await ws.receive_json(timeout=30) == {"result": None, "id": 7}
        return [await ws.receive_json(timeout=30) for _ in range(n)]


def test_an_unknown_symbol_is_refused_as_the_exchange_does(exchange: PlayedExchange) -> None:
    answer = trades(exchange, symbol="NOSUCH", fromId=0)
    assert (answer.status_code, answer.json()["code"]) == (400, -1121)
    assert trades(exchange).status_code == 400


def test_everybody_hears_the_same_and_can_ask_for_it_again_by_id(exchange: PlayedExchange) -> None:
    """It waits for the market to begin, three seconds after it was made at the latest, and then for messages."""

    async def both() -> list[list[dict[str, Any]]]:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(listen(session, exchange.ws_url, STREAMS, 200) for _ in range(2)))

    one, other = asyncio.run(both())
    texts = [json.dumps(message) for message in one]
    common = texts[texts.index(json.dumps(other[0])) :] if json.dumps(other[0]) in texts else None
    if common is None:  # the other one came first
        others = [json.dumps(message) for message in other]
        common, one, other = others[others.index(texts[0]) :], other, one
    assert common == [json.dumps(message) for message in other][: len(common)]
    assert len(common) > 100

    assert {message["stream"] for message in one} == set(STREAMS)
    assert not [(a, b) for a, b in pairwise(message["data"]["T"] for message in one) if b < a]
    assert min(message["data"]["T"] for message in one) >= exchange.start_ms

    heard = [message["data"] for message in one if message["stream"] == "btcusdt@aggTrade"]
    ids = [trade["a"] for trade in heard]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    again = trades(exchange, symbol="BTCUSDT", fromId=ids[0], limit=len(ids)).json()
    keys = ("a", "p", "q", "f", "l", "T", "m")
    assert again == [{key: trade[key] for key in keys} for trade in heard]

    last = trades(exchange, symbol="BTCUSDT", fromId=ids[0], limit=5_000).json()
    assert len(ids) <= len(last) <= 1_000
    assert trades(exchange, symbol="BTCUSDT", fromId=10**9).json() == []  # has not happened yet


def test_before_the_market_began_there_is_no_trade() -> None:
    exchange = PlayedExchange(["BTCUSDT"], bar_ms=200, minutes=1, seed=13)
    for own in exchange._trades.values():
        for trade in own:
            trade["T"] += 3_600_000
    with exchange:
        assert trades(exchange, symbol="BTCUSDT", fromId=0).json() == []


def test_the_same_seed_is_the_same_market() -> None:
    made = [PlayedExchange(["BTCUSDT"], bar_ms=200, minutes=1, seed=seed) for seed in (5, 5, 6)]
    prices = [[trade["p"] for trade in one._trades["BTCUSDT"][:500]] for one in made]
    assert prices[0] == prices[1] != prices[2]
    for one in made:
        with one:
            pass
