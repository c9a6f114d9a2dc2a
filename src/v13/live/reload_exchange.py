"""A stand-in for the exchange, so that a proof can change the symbols of a real feed: random trades and best quotes.

It speaks what a runner needs of Binance's spot protocol and nothing else; what the real one does besides is tested
elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Final

from v13.live.stream_server import StreamServer, frame

__all__ = ["StandIn"]

TICK_S: Final = 0.02  # between messages of a stream
SEED: Final = 13


class StandIn(StreamServer):
    """Serves every symbol asked for, without end."""

    PATHS = ("/stream",)

    def __init__(self) -> None:
        super().__init__()
        self._random = random.Random(SEED)
        self._px: dict[str, float] = {}
        self._n: dict[str, int] = {}  # trades of a symbol so far: ids without a hole

    async def play(self) -> None:
        while True:
            for stream, text in list(self._tick()):
                await self.send(stream, text)
            await asyncio.sleep(TICK_S)

    def _tick(self) -> Iterator[tuple[str, str]]:
        """Yield a trade and a quote of every symbol somebody wants."""
        symbols = {stream.partition("@")[0] for stream in self.wanted()}
        now_ms = time.time_ns() // 1_000_000
        for symbol in sorted(symbols):
            n = self._n[symbol] = self._n.get(symbol, 0) + 1
            px = self._px[symbol] = round(self._px.get(symbol, 1_000.0) + self._random.choice((-0.1, 0.0, 0.1)), 1)
            trade = {"e": "aggTrade", "E": now_ms, "s": symbol.upper(), "a": n, "p": str(px)}
            trade |= {"q": "1.5", "f": n, "l": n, "T": now_ms, "m": self._random.random() < 0.5}
            yield f"{symbol}@aggTrade", frame(f"{symbol}@aggTrade", trade | {"M": True})
            quote = {"u": n, "s": symbol.upper(), "b": f"{px - 0.1:.1f}", "B": "2.0"}
            quote |= {"a": f"{px + 0.1:.1f}", "A": str(self._random.randint(1, 5))}
            yield f"{symbol}@bookTicker", frame(f"{symbol}@bookTicker", quote)
