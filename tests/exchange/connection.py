"""One client of the local exchange: what it asked for, and frames sent to it, whole or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tests.exchange import frames

if TYPE_CHECKING:
    from tests.exchange.server import Exchange

SENT_PER_S = {"spot": 5, "usdm": 10}
MAX_STREAMS = {"spot": 1_024, "usdm": 200}
ROUTES = {
    "spot": {"/stream": ("aggTrade", "trade", "bookTicker")},
    "usdm": {"/market/stream": ("aggTrade",), "/public/stream": ("bookTicker", "trade")},
}


class Connection:
    """One client."""

    def __init__(
        self, exchange: Exchange, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.path = path
        self.streams: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self.open = True
        self.closed_by_client = False
        self._exchange = exchange
        self._reader = reader
        self.writer = writer
        self._heard: deque[float] = deque()

    def wants(self, stream: str) -> bool:
        """True if this stream is subscribed and the path carries it."""
        carried = ROUTES[self._exchange.market][self.path]
        return self.open and stream in self.streams and stream.partition("@")[2] in carried

    async def send(self, payload: bytes, opcode: int = frames.TEXT) -> None:
        """Send one frame."""
        await self.write(frames.encode(payload, opcode))

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.open:
            with contextlib.suppress(ConnectionError):
                self.writer.write(data)
                await self.writer.drain()

    async def cut(self, payload: bytes) -> None:
        """Send half a frame and drop the connection."""
        data = frames.encode(payload)
        await self.write(data[: len(data) // 2])
        await self.drop()

    async def drop(self) -> None:
        """Close the socket without a word."""
        self.open = False
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        await self._exchange.tell()

    async def close(self, code: int = 1000) -> None:
        """Close by the protocol."""
        await self.send(code.to_bytes(2, "big"), frames.CLOSE)
        await self._exchange.tell()

    async def serve(self) -> None:
        """Take what the client sends, until it is gone."""
        exchange = self._exchange
        try:
            while True:
                opcode, payload = await frames.read(self._reader)
                if opcode == frames.CLOSE:
                    self.closed_by_client = True
                    await self.send(payload, frames.CLOSE)
                    return
                if self._too_fast():
                    exchange.violations.append("too many messages in a second")
                    await self.close(1008)
                    return
                if opcode == frames.PONG:
                    self.pongs.append(payload)
                elif opcode == frames.PING:
                    await self.send(payload, frames.PONG)
                elif not exchange.deaf:
                    await self._answer(payload)
                await exchange.tell()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            await self.drop()

    def _too_fast(self) -> bool:
        now = time.monotonic()
        self._heard.append(now)
        while self._heard[0] <= now - 1.0:
            self._heard.popleft()
        return len(self._heard) > SENT_PER_S[self._exchange.market]

    async def _answer(self, payload: bytes) -> None:
        try:
            request = json.loads(payload)
        except ValueError:
            await self._say({"code": 3, "msg": "Invalid JSON: expected value at line 1 column 1"})
            return
        self.requests.append(request)
        number, params = request.get("id"), request.get("params", [])
        result: object = None
        refusal = self._exchange.refuse_streams & set(params)
        match request.get("method"):
            case "SUBSCRIBE" if refusal:
                await self._say({"error": {"code": 2, "msg": f"Invalid request: {sorted(refusal)}"}, "id": number})
                return
            case "SUBSCRIBE":
                self.streams |= set(params)
            case "UNSUBSCRIBE":
                self.streams -= set(params)
            case "LIST_SUBSCRIPTIONS":
                result = sorted(self.streams)
            case other:
                await self._say(
                    {"error": {"code": 2, "msg": f"Invalid request: unknown variant {other}"}, "id": number}
                )
                return
        if len(self.streams) > MAX_STREAMS[self._exchange.market]:
            self._exchange.violations.append("too many streams")
            await self.close(1008)
            return
        await self._say({"result": result, "id": number})

    async def _say(self, answer: dict[str, Any]) -> None:
        await self.send(json.dumps(answer, separators=(",", ":")).encode())
