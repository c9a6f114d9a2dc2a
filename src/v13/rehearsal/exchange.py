"""A market played in real time over the exchange's protocol: simulated ticks, WebSocket streams and trades by id.

It speaks what a runner needs of Binance's USD-M protocol and nothing else. All clients get the same messages, so that
two releases see the same ticks; a runner that was away finds its missed trades by their ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiohttp import web

from v13.live.stream_server import StreamServer, frame
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


class PlayedExchange(StreamServer):
    """Plays planted markets of some symbols.

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
    start_ms : int
        UTC epoch ms of the first bar.
    """

    PATHS = ("/stream", "/market/stream", "/public/stream")

    def __init__(
        self, symbols: Sequence[str], *, bar_ms: int, minutes: int, seed: int, true_accuracy: float = 0.7
    ) -> None:
        super().__init__()
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

    @property
    def rest_url(self) -> str:
        """Return the address of the trades by id."""
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self, symbol: str, trades: Any, quotes: Any) -> None:
        stream = symbol.lower()
        own = self._trades[symbol] = []
        for ts_ms, number, px, qty, sign in trades.select("ts_ms", "id", "px", "qty", "sign").iter_rows():
            n = int(number)
            one = {"a": n, "p": f"{px:.8g}", "q": f"{qty:.8g}", "f": n, "l": n, "T": ts_ms, "m": sign < 0}
            own.append(one)
            data = {"e": "aggTrade", "E": ts_ms, "s": symbol, **one}
            self._ticks.append(_Tick(ts_ms, f"{stream}@aggTrade", frame(f"{stream}@aggTrade", data)))
        columns = ("ts_ms", "id", "bid", "bid_qty", "ask", "ask_qty")
        for ts_ms, number, bid, bid_qty, ask, ask_qty in quotes.select(columns).iter_rows():
            data = {"e": "bookTicker", "u": int(number), "s": symbol, "b": f"{bid:.8g}", "B": f"{bid_qty:.8g}"}
            data |= {"a": f"{ask:.8g}", "A": f"{ask_qty:.8g}", "T": ts_ms, "E": ts_ms}
            self._ticks.append(_Tick(ts_ms, f"{stream}@bookTicker", frame(f"{stream}@bookTicker", data)))

    async def play(self) -> None:
        for ts_ms, stream, text in self._ticks:
            wait_s = ts_ms / 1e3 - time.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self.send(stream, text)

    def answers(self) -> Iterable[web.RouteDef]:
        return [web.get(path, self._by_id) for path in ("/api/v3/aggTrades", "/fapi/v1/aggTrades")]

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
