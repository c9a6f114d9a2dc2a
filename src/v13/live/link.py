"""A link: one WebSocket address and the streams wanted from it, held up for as long as it runs.

It carries messages from the socket to the inbox and reads nothing in them but the stream's name. What is in them, and
whether any is missing, is found out by others.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp

from v13.errors import FeedError
from v13.live.clock import Clock
from v13.live.connection import Connection, RefusedError
from v13.live.deadline import first_of, within
from v13.live.feed_settings import FeedSettings
from v13.live.inbox import Inbox
from v13.telemetry import Metrics

__all__ = ["ConnectBudget", "Link"]

log = logging.getLogger(__name__)

BUDGET_SPAN_S: Final = 300.0  # the exchange counts attempts to connect over five minutes
CLOSE_S: Final = 1.0  # what a goodbye may take; a message that comes after it comes on the next connection too
RETRY_STATUS: Final = (418, 429)
DEFAULT_RETRY_S: Final = 60.0


class ConnectBudget:
    """Spaces out attempts to connect: at most `limit` in any five minutes, over all links.

    Parameters
    ----------
    limit : int, >= 1
    clock : Clock

    Notes
    -----
    Binance, "WebSocket Streams for Binance", section WebSocket Limits: 300 attempts every five minutes per address.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self._clock = clock
        self._spent_ns: deque[int] = deque(maxlen=limit)

    async def spend(self) -> None:
        """Return when another attempt is allowed, and count it."""
        while len(self._spent_ns) == self._spent_ns.maxlen:
            wait_s = BUDGET_SPAN_S - (self._clock.monotonic_ns() - self._spent_ns[0]) / 1e9
            if wait_s <= 0:
                break
            log.warning("%d attempts to connect in five minutes; the next in %.0f s", len(self._spent_ns), wait_s)
            await self._clock.sleep(wait_s)
        self._spent_ns.append(self._clock.monotonic_ns())


class Link:
    """Keeps one connection up: reconnects when it is lost, and replaces it before it is ended by age.

    A connection that is replaced goes on until the new one is subscribed and `overlap_s` more have passed; only then
    what the new one received meanwhile goes to the inbox. So nothing is missed, nothing is out of order, and what came
    on both comes twice.

    Parameters
    ----------
    url : str
        Address of combined streams, without the streams.
    streams : iterable of str
        For example `btcusdt@aggTrade`.
    settings : FeedSettings
    inbox : Inbox
    metrics : Metrics
    clock : Clock
    budget : ConnectBudget
        Shared by all links.
    rng : random.Random
        For the jitter of waits.
    heard : dict of bytes to int
        Where the time (monotonic ns) of the last message of each stream is noted.
    changed : callable
        Called when `connected` may have changed.
    """

    def __init__(
        self,
        url: str,
        streams: Iterable[str],
        *,
        settings: FeedSettings,
        inbox: Inbox,
        metrics: Metrics,
        clock: Clock,
        budget: ConnectBudget,
        rng: random.Random,
        heard: dict[bytes, int],
        changed: Callable[[], None],
    ) -> None:
        self.url = url
        self.streams = tuple(streams)
        self._settings = settings
        self._clock = clock
        self._heard = heard
        self.replace = asyncio.Event()  # set it to have the connection replaced now
        self._inbox = inbox
        self._budget = budget
        self._rng = rng
        self._changed = changed
        self._current: Connection | None = None
        self._session: aiohttp.ClientSession | None = None
        self._n_garbage = 0
        self._failures = 0
        self._reconnects = metrics.bind("divergence_feed_reconnects_total")
        self._feed_errors = metrics.bind("divergence_errors_total", stage="feed")
        self._decode_errors = metrics.bind("divergence_errors_total", stage="decode")

    @property
    def connected(self) -> bool:
        """True while the streams are granted and the connection is up."""
        return self._current is not None and self._current.alive

    def _shutdown(self) -> None:
        log.warning("%s: the exchange announces a shutdown", self.url)
        self.replace.set()

    def _garbage(self, raw: bytes) -> None:
        self._decode_errors.inc()
        self._n_garbage += 1
        if self._n_garbage.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: a flood of them must not fill the log
            log.warning("%s: message %d that cannot be read: %r", self.url, self._n_garbage, raw[:80])

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Hold the link up until cancelled."""
        self._session = session
        n_opened = 0
        try:
            while True:
                self.replace.clear()  # a new connection asks for what is wanted by now
                try:
                    self._current = await self._open(self._inbox)
                except FeedError as error:
                    await self._pause(error)
                    continue
                n_opened += 1
                if n_opened > 1:
                    self._reconnects.inc()
                log.info("%s: subscribed to %d streams", self.url, len(self.streams))
                self._changed()
                loss = await self._hold()
                self._changed()
                lasted_s = (self._clock.monotonic_ns() - self._current.opened_ns) / 1e9
                if lasted_s > self._settings.backoff_max_s:
                    self._failures = 0
                await self._close_current()
                await self._pause(loss)
        finally:
            await self._close_current()
            self._changed()

    async def _hold(self) -> FeedError:
        """Return when the current connection, or one that replaced it, is lost."""
        while True:
            current = self._current
            assert current is not None
            now_ns = self._clock.monotonic_ns()
            silent_s = (now_ns - current.heard_ns) / 1e9
            age_s = (now_ns - current.opened_ns) / 1e9
            if not current.alive:
                return FeedError(current.reader.result())
            if silent_s >= self._settings.idle_s:
                return FeedError(f"no message for {silent_s:.0f} s")
            if self.replace.is_set() or age_s >= self._settings.rotate_after_s:
                self.replace.clear()
                await self._replace(current)
                continue
            wait_s = min(self._settings.idle_s - silent_s, self._settings.rotate_after_s - age_s)
            await first_of(current.reader, self.replace.wait(), self._clock.sleep(wait_s))

    async def _replace(self, old: Connection) -> None:
        """Put a new connection in the old one's place; leave the old one where that fails."""
        held_back = Inbox(self._inbox.limit)
        try:
            new = await self._open(held_back)
        except FeedError as error:
            await self._not_replaced(old, error)
            return
        try:
            await first_of(old.reader, new.reader, self._clock.sleep(self._settings.overlap_s))
            if old.alive and not new.alive:
                await self._not_replaced(old, FeedError(new.reader.result()))
                await new.close()
                return
            old.reader.cancel()
            await asyncio.gather(old.reader, return_exceptions=True)
        except BaseException:
            await new.close()
            raise
        held_back.pour_into(self._inbox)
        new.sink = self._inbox
        self._current, self._failures = new, 0
        self._changed()
        log.info("%s: connection replaced, %d streams", self.url, len(self.streams))
        await old.close()

    async def _not_replaced(self, old: Connection, error: FeedError) -> None:
        self._feed_errors.inc()
        wait_s = max(self._backoff_s(), getattr(error, "retry_after_s", 0.0))
        self._failures += 1
        log.warning("%s: not replaced: %s; trying again in %.1f s", self.url, error, wait_s)
        await first_of(old.reader, self._clock.sleep(wait_s))
        self.replace.set()

    async def _open(self, sink: Inbox) -> Connection:
        """Connect and subscribe; FeedError where either fails."""
        assert self._session is not None
        await self._budget.spend()
        connect = self._session.ws_connect(
            self.url,
            max_msg_size=self._settings.max_frame_bytes,
            decode_text=False,
            autoping=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
        )
        try:
            timeout_s = self._settings.connect_timeout_s
            socket = await within(self._clock, timeout_s, connect, discard=lambda late: late.close())
        except aiohttp.WSServerHandshakeError as error:
            wait = error.headers.get("Retry-After", "") if error.headers else ""
            wait_s = float(wait) if wait.isascii() and wait.isdigit() else DEFAULT_RETRY_S
            message = f"the handshake was answered with status {error.status}"
            raise RefusedError(message, wait_s if error.status in RETRY_STATUS else 0.0) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise FeedError(f"cannot connect: {type(error).__name__}: {error}") from error
        connection = Connection(
            socket,
            self.streams,
            sink,
            settings=self._settings,
            clock=self._clock,
            heard=self._heard,
            garbage=self._garbage,
            shutdown=self._shutdown,
        )
        try:
            await connection.subscribe()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _pause(self, error: FeedError) -> None:
        self._feed_errors.inc()
        wait_s = max(self._backoff_s(), getattr(error, "retry_after_s", 0.0))
        self._failures += 1
        log.warning("%s: %s; trying again in %.1f s", self.url, error, wait_s)
        await self._clock.sleep(wait_s)

    def _backoff_s(self) -> float:
        """Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS, 2015)."""
        settings = self._settings
        ceiling_s = min(settings.backoff_max_s, settings.backoff_min_s * 2.0 ** min(self._failures, 32))
        return self._rng.uniform(0.0, ceiling_s)

    async def _close_current(self) -> None:
        if self._current is not None:
            current, self._current = self._current, None
            await current.close()
