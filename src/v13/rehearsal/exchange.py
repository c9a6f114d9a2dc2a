"""A market played in real time over the exchange's protocol: simulated ticks, WebSocket streams and trades by id.

It speaks what a runner needs of Binance's USD-M protocol and nothing else. All clients get the same messages, so that
two releases see the same ticks; a runner that was away finds its missed trades by their ids.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiohttp import WSMsgType, web

from v13.market import MarketSpec
from v13.market.simulator_ticks import simulate_ticks

__all__ = ["PlayedExchange"]

AHEAD_S: Final = 3.0  # between the making of the market and its first tick
MOST_TRADES: Final = 1_000  # of one answer, as the exchange has it
MODEL: Final = "ETHUSDT"  # whose scales a symbol has that the simulator does not know


class _Tick(NamedTuple):
    ts_ms: int
    stream: str
    frame: str


class PlayedExchange:
    """Plays planted markets of some symbols on loopback, from a thread of its own; a context manager.

    Parameters
    ----------
    symbols : sequence of str
    bar_ms : int, ms
        Bars of the market: its divergences are planted on this scale.
    minutes : int, >= 1
        Length of the market; when it is over nothing more comes.
    seed : int
    true_accuracy : float
        See `v13.market.MarketSpec`.

    Attributes
    ----------
    port : int
    start_ms : int
        UTC epoch ms of the first bar.
    """

    def __init__(
        self, symbols: Sequence[str], *, bar_ms: int, minutes: int, seed: int, true_accuracy: float = 0.7
    ) -> None:
        self.port = 0
        self.symbols = tuple(symbols)
        self.start_ms = int((time.time() + AHEAD_S) * 1e3) // bar_ms * bar_ms
        self._ticks: list[_Tick] = []
        self._trades: dict[str, list[dict[str, Any]]] = {}
        for at, symbol in enumerate(symbols):
            model = symbol if symbol in ("BTCUSDT", "ETHUSDT") else MODEL
            n_bars = max(100, minutes * 60_000 // bar_ms)
            spec = MarketSpec(
                "planted", n_bars, model, bar_ms=bar_ms, start_ms=self.start_ms, true_accuracy=true_accuracy
            )
            self._prepare(symbol, *simulate_ticks(spec, seed + at)[:2])
        self._ticks.sort(key=lambda tick: tick.ts_ms)
        self._clients: dict[web.WebSocketResponse, set[str]] = {}
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),), daemon=True)

    @property
    def ws_url(self) -> str:
        """Return the address of the streams."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        """Return the address of the trades by id."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def _prepare(self, symbol: str, trades: Any, quotes: Any) -> None:
        stream = symbol.lower()
        own = self._trades[symbol] = []
        for ts_ms, number, px, qty, sign in trades.select("ts_ms", "id", "px", "qty", "sign").iter_rows():
            n = int(number)
            one = {"a": n, "p": f"{px:.8g}", "q": f"{qty:.8g}", "f": n, "l": n, "T": ts_ms, "m": sign < 0}
            own.append(one)
            data = {"e": "aggTrade", "E": ts_ms, "s": symbol, **one}
            self._ticks.append(_Tick(ts_ms, f"{stream}@aggTrade", _frame(f"{stream}@aggTrade", data)))
        columns = ("ts_ms", "id", "bid", "bid_qty", "ask", "ask_qty")
        for ts_ms, number, bid, bid_qty, ask, ask_qty in quotes.select(columns).iter_rows():
            data = {"e": "bookTicker", "u": int(number), "s": symbol, "b": f"{bid:.8g}", "B": f"{bid_qty:.8g}"}
            data |= {"a": f"{ask:.8g}", "A": f"{ask_qty:.8g}", "T": ts_ms, "E": ts_ms}
            self._ticks.append(_Tick(ts_ms, f"{stream}@bookTicker", _frame(f"{stream}@bookTicker", data)))

    async def _live(self) -> None:
        app = web.Application()
        for path in ("/stream", "/market/stream", "/public/stream"):
            app.router.add_get(path, self._accept)
        for path in ("/api/v3/aggTrades", "/fapi/v1/aggTrades"):
            app.router.add_get(path, self._by_id)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._is_up.set()
        player = asyncio.create_task(self._play())
        await self._over.wait()
        player.cancel()
        await asyncio.gather(player, return_exceptions=True)
        for client in list(self._clients):
            await client.close()
        await runner.cleanup()

    async def _play(self) -> None:
        for ts_ms, stream, frame in self._ticks:
            wait_s = ts_ms / 1e3 - time.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            for client in [c for c, streams in self._clients.items() if stream in streams]:
                with suppress(ConnectionError):
                    await client.send_str(frame)

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

    async def _by_id(self, request: web.Request) -> web.Response:
        """Answer with trades that have happened by now, from an id on."""
        query: Mapping[str, str] = request.query
        own = self._trades.get(query.get("symbol", ""))
        if own is None:
            return web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400)
        first, limit = int(query.get("fromId", 0)), min(int(query.get("limit", 500)), MOST_TRADES)
        now_ms = time.time() * 1e3
        at = max(0, first - own[0]["a"])
        return web.json_response([t for t in own[at : at + limit] if t["T"] <= now_ms])


def _frame(stream: str, data: dict[str, Any]) -> str:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))
