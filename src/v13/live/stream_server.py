"""The server of a stand-in for the exchange: clients subscribe to streams and are sent what is played to them.

It knows the subscriptions of Binance's WebSocket protocol and nothing of what is in a message: that is the player's.
"""

from __future__ import annotations

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import WSMsgType, web

__all__ = ["StreamServer", "frame"]


class StreamServer(ABC):
    """Serves on loopback from a thread of its own; a context manager.

    Attributes
    ----------
    port : int
        0 before it is entered.
    """

    PATHS: ClassVar[tuple[str, ...]]  # of the streams

    def __init__(self) -> None:
        self.port = 0
        self._clients: dict[web.WebSocketResponse, set[str]] = {}
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def ws_url(self) -> str:
        """Return the address of the streams."""
        return f"ws://127.0.0.1:{self.port}"

    @abstractmethod
    async def play(self) -> None:
        """Send what there is to send; cancelled when the server is left."""

    def answers(self) -> Iterable[web.RouteDef]:
        """Return what is answered besides the streams; nothing here."""
        return ()

    def wanted(self) -> set[str]:
        """Return the streams somebody subscribes to."""
        return {stream for streams in self._clients.values() for stream in streams}

    async def send(self, stream: str, text: str) -> None:
        """Send a frame to all who subscribe to its stream."""
        for client in [c for c, streams in self._clients.items() if stream in streams]:
            with suppress(ConnectionError):
                await client.send_str(text)

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_routes([*(web.get(path, self._accept) for path in self.PATHS), *self.answers()])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._is_up.set()
        player = asyncio.create_task(self.play())
        await self._over.wait()
        player.cancel()
        (ended,) = await asyncio.gather(player, return_exceptions=True)
        for client in list(self._clients):
            await client.close()
        await runner.cleanup()
        if isinstance(ended, Exception):
            raise ended

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


def frame(stream: str, data: dict[str, Any]) -> str:
    """Return a message of a combined stream."""
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))
