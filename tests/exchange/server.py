"""A server on loopback that speaks Binance's protocol, plays recordings, and misbehaves when told to.

WebSocket: combined streams under `/stream` (USD-M: `/market/stream` and `/public/stream`; a stream asked for on the
wrong one is granted and stays silent, as on the real one), SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, pings, the
limits on messages a second and streams a connection. REST: aggregate trades by id, with weights, 429 and 418.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from tests.exchange import frames
from tests.exchange.connection import ROUTES, Connection
from tests.exchange.mischief import Fault, Step
from tests.exchange.recordings import Message, rest_row

WAIT_S = 20.0  # generous: only a broken test waits for it
CHUNK_BYTES = 1 << 16
PATHS = {"spot": "/api/v3/aggTrades", "usdm": "/fapi/v1/aggTrades"}
WEIGHTS = {"spot": (4, 6_000), "usdm": (20, 2_400)}
SHUTDOWN = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'


class Exchange:
    """The exchange; `async with` it.

    Attributes
    ----------
    connections : list of Connection
        All that were ever made, the newest last.
    n_attempts : int
        Handshakes, refused ones too.
    refusals : deque of (status, headers)
        For the next handshakes.
    rest_answers : deque of (status, headers, body)
        For the next REST requests, instead of the truth.
    rest_requests : list of dict
        Queries of REST requests.
    hidden_above : int or None
        REST does not list trades with a larger id yet; every request raises it by `hidden_step`.
    deaf : bool
        Requests are not answered.
    refuse_streams : set of str
        Streams that are refused.
    mute : bool
        TCP connections are accepted, and nothing is answered: not even the handshake.
    violations : list of str
        Limits the client broke.
    """

    def __init__(self, market: Literal["spot", "usdm"] = "spot") -> None:
        self.market = market
        self.connections: list[Connection] = []
        self.n_attempts = 0
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.rest_answers: deque[tuple[int, dict[str, str], bytes]] = deque()
        self.rest_requests: list[dict[str, str]] = []
        self.hidden_above: int | None = None
        self.hidden_step = 0
        self.deaf = False
        self.mute = False
        self.refuse_streams: set[str] = set()
        self.violations: list[str] = []
        self.used_weight = 0
        self._trades: dict[str, list[dict[str, Any]]] = {}
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def live(self) -> list[Connection]:
        """Connections that are open."""
        return [connection for connection in self.connections if connection.open]

    async def tell(self) -> None:
        """Wake whoever waits for a change."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when the claim holds; it is asked again whenever something happened here."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(claim), WAIT_S)

    async def subscribed(self, streams: Iterable[str]) -> None:
        """Return when each of the streams has a connection that carries it."""
        wanted = list(streams)
        await self.until(lambda: all(self.takers(stream) for stream in wanted))

    def takers(self, stream: str) -> list[Connection]:
        """Return the open connections that carry a stream."""
        return [connection for connection in self.connections if connection.wants(stream)]

    def list_trades(self, messages: Iterable[Message]) -> None:
        """Let REST know the aggregate trades among these messages."""
        for message in messages:
            if message.stream.endswith("@aggTrade"):
                symbol = message.stream.partition("@")[0].upper()
                self._trades.setdefault(symbol, []).append(rest_row(message))
        for rows in self._trades.values():
            rows.sort(key=lambda row: int(row["a"]))

    async def play(self, steps: Sequence[Step], speed: float | None = None) -> list[Message]:
        """Send the messages to whoever wants them, and do the faults; return what was lost on the way.

        `speed`: times as fast as recorded; None: as fast as the client reads. A message nobody wants is waited with, as
        long as its stream has no taker.
        """
        lost: list[Message] = []
        batch: dict[Connection, bytearray] = {}
        n_to_lose = 0
        pending: Fault | None = None
        start: tuple[float, int] | None = None
        for step in steps:
            if isinstance(step, Fault):
                await _flush(batch)
                if step.kind in ("cut", "drip"):
                    pending = step
                elif step.kind == "lose":
                    n_to_lose = step.n
                else:
                    await self._misbehave(step)
                continue
            if n_to_lose:
                n_to_lose -= 1
                lost.append(step)
                continue
            if speed is not None:
                start = start or (time.monotonic(), step.recv_ns)
                due_s = (step.recv_ns - start[1]) / 1e9 / speed - (time.monotonic() - start[0])
                if due_s > 0:
                    await _flush(batch)
                    await asyncio.sleep(due_s)
            takers = self.takers(step.stream) or await self._await_takers(step.stream)
            if pending is not None:
                for taker in takers:
                    if pending.kind == "cut":
                        await taker.cut(step.raw)
                    else:
                        await self._drip(taker, step.raw)
                n_to_lose, pending = pending.n, None
                lost.append(step)
                continue
            data = frames.encode(step.raw)
            for taker in takers:
                buffer = batch.setdefault(taker, bytearray())
                buffer += data
                if len(buffer) >= CHUNK_BYTES:
                    await _flush(batch)
        await _flush(batch)
        return lost

    async def _await_takers(self, stream: str) -> list[Connection]:
        await self.subscribed([stream])
        return self.takers(stream)

    async def _misbehave(self, fault: Fault) -> None:
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        hit = self.live
        for connection in hit:
            if fault.kind == "garbage":
                await connection.send(b'{"stream": not JSON')
            elif fault.kind == "oversize":
                await connection.send(b"x" * fault.n)
            elif fault.kind == "shutdown":
                await connection.send(SHUTDOWN)
        if fault.kind == "oversize":  # what is sent before the client has hung up would be lost without a trace
            await self.until(lambda: not any(connection.open for connection in hit))

    async def _drip(self, connection: Connection, payload: bytes) -> None:
        for byte in frames.encode(payload)[:-1]:
            await connection.write(bytes([byte]))
        await self.until(lambda: not connection.open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            target = head[0].split(" ")[1]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            if self.mute:
                self.n_attempts += 1
                await self.tell()
                await reader.read()
            elif headers.get("upgrade", "").lower() == "websocket":
                await self._upgrade(target, headers, reader, writer)
            else:
                await self._rest(target, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _upgrade(
        self, target: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.n_attempts += 1
        url = urlsplit(target)
        if self.refusals or url.path not in ROUTES[self.market]:
            status, extra = self.refusals.popleft() if self.refusals else (404, {})
            await _http(writer, status, extra, b"")
            await self.tell()
            return
        answer = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": frames.accept_key(headers["sec-websocket-key"]),
        }
        await _http(writer, 101, answer, None)
        connection = Connection(self, url.path, reader, writer)
        connection.streams |= {s for value in parse_qs(url.query).get("streams", []) for s in value.split("/")}
        self.connections.append(connection)
        await self.tell()
        await connection.serve()

    async def _rest(self, target: str, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.rest_requests.append(query)
        weight, ceiling = WEIGHTS[self.market]
        self.used_weight += weight
        if self.rest_answers:
            status, extra, body = self.rest_answers.popleft()
        elif url.path != PATHS[self.market]:
            status, extra, body = 404, {}, b""
        elif self.used_weight > ceiling:
            status, extra, body = 429, {"Retry-After": "1"}, b'{"code":-1003,"msg":"Too much request weight used"}'
        elif query.get("symbol") not in self._trades:
            status, extra, body = 400, {}, b'{"code":-1121,"msg":"Invalid symbol."}'
        else:
            first, limit = int(query["fromId"]), min(int(query.get("limit", 500)), 1_000)
            rows = [row for row in self._trades[query["symbol"]] if row["a"] >= first and not self._hides(row["a"])]
            status, extra, body = 200, {}, json.dumps(rows[:limit]).encode()
            if self.hidden_above is not None:
                self.hidden_above += self.hidden_step
        await _http(writer, status, {"X-MBX-USED-WEIGHT-1M": str(self.used_weight)} | extra, body)
        await self.tell()

    def _hides(self, trade_id: int) -> bool:
        return self.hidden_above is not None and trade_id > self.hidden_above


async def _flush(batch: dict[Connection, bytearray]) -> None:
    for connection, buffer in batch.items():
        await connection.write(bytes(buffer))
    batch.clear()
    await asyncio.sleep(0)  # a drain that need not wait lets nobody else run


async def _http(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: bytes | None) -> None:
    lines = [f"HTTP/1.1 {status} -"] + [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/json", "Connection: close"]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
    await writer.drain()
