"""One connection to the exchange: what is asked of it, and what comes until it ends.

It never connects again: that is `v13.live.link`. It reads nothing of a message but the stream's name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import aiohttp

from v13.errors import FeedError
from v13.live.clock import Clock
from v13.live.deadline import first_of, to_the_end, within
from v13.live.feed_settings import FeedSettings
from v13.live.inbox import Inbox
from v13.market.wire import STREAM_KINDS

__all__ = ["Connection", "RefusedError"]

NAME_AT: Final = len(b'{"stream":"')
SHUTDOWN: Final = b'{"stream":"!serverShutdown"'  # "WebSocket Streams for Binance", section Server Shutdown

Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[Any]"


class RefusedError(FeedError):
    """The handshake was answered with a status; the exchange may order a wait."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Connection:
    """One socket: subscribes, answers pings, and hands every message on until it ends.

    Parameters
    ----------
    socket : aiohttp.ClientWebSocketResponse
        Connected; opened with `autoping=False` and `decode_text=False`.
    streams : iterable of str
        What to ask for, such as `btcusdt@aggTrade`.
    sink : Inbox
        Where messages go; may be exchanged at any time.
    settings : FeedSettings
    clock : Clock
    heard : dict of bytes to int
        Where the time (monotonic ns) of the last message of each stream is noted.
    garbage : callable
        Is given each message that is nothing known.
    shutdown : callable
        Called when the exchange announces that it will end the connection.

    Attributes
    ----------
    reader : asyncio.Task
        Done when the connection has ended; its result says why.
    opened_ns, heard_ns : int
        When it was opened, and when a message of its streams last came, or `opened_ns`.
    """

    def __init__(
        self,
        socket: Socket,
        streams: Iterable[str],
        sink: Inbox,
        *,
        settings: FeedSettings,
        clock: Clock,
        heard: dict[bytes, int],
        garbage: Callable[[bytes], None],
        shutdown: Callable[[], None],
    ) -> None:
        self.socket = socket
        self.sink = sink
        self.opened_ns = self.heard_ns = clock.monotonic_ns()
        self.reader: asyncio.Task[str] = asyncio.create_task(self._read())
        self._streams = list(streams)
        self._kinds = {name.encode(): STREAM_KINDS[name.partition("@")[2]] for name in self._streams}
        self._settings = settings
        self._clock = clock
        self._heard = heard
        self._garbage = garbage
        self._shutdown = shutdown
        self._answers: dict[int, asyncio.Future[None]] = {}

    @property
    def alive(self) -> bool:
        """True while messages can come."""
        return not self.reader.done()

    async def subscribe(self) -> None:
        """Ask for all streams, batch by batch, and return when all is granted; FeedError if it is not."""
        settings, clock = self._settings, self._clock
        for i in range(0, len(self._streams), settings.subscribe_batch):
            if i:
                await clock.sleep(settings.subscribe_pause_s)
            request = {"method": "SUBSCRIBE", "params": self._streams[i : i + settings.subscribe_batch], "id": i + 1}
            self._answers[i + 1] = asyncio.get_running_loop().create_future()
            try:
                await self.socket.send_str(json.dumps(request))
            except (aiohttp.ClientError, OSError) as error:
                raise FeedError(f"the connection ended while subscribing: {error}") from error
        granted = asyncio.gather(*self._answers.values())
        try:
            await within(clock, settings.answer_timeout_s, first_of(granted, self.reader))
        except TimeoutError as error:
            raise FeedError(f"the subscription was not answered within {settings.answer_timeout_s:g} s") from error
        if not granted.done():
            granted.cancel()
            raise FeedError(f"the connection ended while subscribing: {self.reader.result()}")
        granted.result()

    async def close(self) -> None:
        """Stop reading and say goodbye, to the end even if cancelled; what was not read yet is given up."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        self.reader.cancel()
        await asyncio.gather(self.reader, return_exceptions=True)
        for answer in self._answers.values():
            answer.cancel()
        await self.socket.close()

    async def _read(self) -> str:
        """Hand on messages; return why they ended."""
        receive, heard, clock = self.socket.receive, self._heard, self._clock
        kinds = self._kinds
        monotonic_ns, wall_ms = clock.monotonic_ns, clock.wall_ms
        text, ping = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING
        while True:
            message = await receive()
            if message.type is text:
                raw: bytes = message.data
                name = raw[NAME_AT : raw.find(b'"', NAME_AT)]
                stream = kinds.get(name)
                if stream is None:
                    self._other(raw)
                    continue
                now_ns = monotonic_ns()
                self.heard_ns = heard[name] = now_ns
                self.sink.put(raw, wall_ms(), now_ns, stream)
            elif message.type is ping:
                try:
                    await self.socket.pong(message.data)
                except (aiohttp.ClientError, OSError) as error:
                    return f"the connection was lost: {error}"
            elif message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                return f"closed by the exchange, code {self.socket.close_code}"
            elif message.type is aiohttp.WSMsgType.ERROR:
                return f"broken: {message.data}"
            elif message.type is aiohttp.WSMsgType.BINARY:
                self._garbage(message.data)

    def _other(self, raw: bytes) -> None:
        """Take what is no message of a stream asked for."""
        if self.sink.put(raw, self._clock.wall_ms(), self._clock.monotonic_ns()):
            return  # a stream nobody asked for; whoever decodes it knows that the symbol is not followed
        if raw.startswith(SHUTDOWN):
            self._shutdown()
            return
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not ("result" in answer or "error" in answer or "code" in answer):
            self._garbage(raw)
            return
        self._answered(answer)

    def _answered(self, answer: dict[str, Any]) -> None:
        error = answer.get("error") or (answer if "code" in answer else None)
        waiting = [a for number, a in self._answers.items() if answer.get("id") in (None, number) and not a.done()]
        for one in waiting:
            if error is None:
                one.set_result(None)
            else:
                one.set_exception(FeedError(f"the exchange refused the subscription: {error}"))
