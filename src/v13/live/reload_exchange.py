"""A stand-in for the exchange, so that a proof can change the symbols of a real feed: random trades and best quotes.

It speaks what a runner needs of Binance's spot protocol and nothing else; what the real one does besides is tested
elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from aiohttp import WSMsgType, web

__all__ = ["StandIn"]

TICK_S: Final = 0.02  # between messages of a stream
SEED: Final = 13


class StandIn:
    """Serves every symbol asked for, from a thread of its own; a context manager.

    Attributes
    ----------
    port : int
        On loopback.
    """

    def __init__(self) -> None:
        self.port = 0
        self._clients: dict[web.WebSocketResponse, set[str]] = {}
        self._random = random.Random(SEED)
        self._px: dict[str, float] = {}
        self._n: dict[str, int] = {}  # trades of a symbol so far: ids without a hole
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        app = web.Application()
        app.router.add_get("/stream", self._accept)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._is_up.set()
        while not self._over.is_set():
            for stream, frame in list(self._tick()):
                for client in [c for c, streams in self._clients.items() if stream in streams]:
                    with suppress(ConnectionError):
                        await client.send_str(frame)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), TICK_S)
        for client in list(self._clients):
            await client.close()
        await runner.cleanup()

    async def _accept(self, request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        own = self._clients[client] = set[str]()
        try:
            async for message in client:
                if message.type is WSMsgType.TEXT:
                    wish = json.loads(message.data)
                    change = own.update if wish["method"] == "SUBSCRIBE" else own.difference_update
                    change(wish["params"])
                    await client.send_json({"result": None, "id": wish["id"]})
        finally:
            del self._clients[client]
        return client

    def _tick(self) -> Iterator[tuple[str, str]]:
        """Yield a trade and a quote of every symbol somebody wants."""
        symbols = {stream.partition("@")[0] for streams in self._clients.values() for stream in streams}
        now_ms = time.time_ns() // 1_000_000
        for symbol in sorted(symbols):
            n = self._n[symbol] = self._n.get(symbol, 0) + 1
            px = self._px[symbol] = round(self._px.get(symbol, 1_000.0) + self._random.choice((-0.1, 0.0, 0.1)), 1)
            trade = {"e": "aggTrade", "E": now_ms, "s": symbol.upper(), "a": n, "p": str(px)}
            trade |= {"q": "1.5", "f": n, "l": n, "T": now_ms, "m": self._random.random() < 0.5}
            yield f"{symbol}@aggTrade", _frame(f"{symbol}@aggTrade", trade | {"M": True})
            quote = {"u": n, "s": symbol.upper(), "b": f"{px - 0.1:.1f}", "B": "2.0"}
            quote |= {"a": f"{px + 0.1:.1f}", "A": str(self._random.randint(1, 5))}
            yield f"{symbol}@bookTicker", _frame(f"{symbol}@bookTicker", quote)


def _frame(stream: str, data: dict[str, Any]) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))
