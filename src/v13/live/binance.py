"""The live feed: Binance's combined streams of trades and best quotes, spot and USD-M, into the inbox.

It decodes nothing and keeps no market state. Who decodes finds holes in the ids (`v13.live.backfill.IdWatch`) and hands
them to `fill`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import aiohttp

from v13.errors import ConfigError, DataError, FeedError
from v13.live.backfill import AggTradeRest
from v13.live.clock import Clock
from v13.live.feed_settings import ENDPOINTS, ROUTES, FeedSettings
from v13.live.inbox import Inbox
from v13.live.link import ConnectBudget, Link
from v13.telemetry import Metrics

__all__ = ["ENDPOINTS", "BinanceFeed", "FeedSettings"]

log = logging.getLogger(__name__)

MAX_HOLES_WAITING: Final = 1_000


class BinanceFeed:
    """Keeps the streams of all symbols flowing into the inbox.

    Parameters
    ----------
    settings : FeedSettings
    symbols : iterable of str
        For example `BTCUSDT`.
    inbox : Inbox
    metrics : Metrics
    clock : Clock
        Every wait and every time comes from it.
    rest : AggTradeRest
        Where missed trades are fetched; closed when the feed ends.
    rng : random.Random or None
        For the jitter of waits.

    Notes
    -----
    Binance, "WebSocket Streams for Binance": combined streams, 24 hours a connection, a ping every 20 s to be answered
    within a minute, `serverShutdown`, 5 messages a second from us, 1,024 streams a connection, 300 attempts to connect
    in five minutes. "USDⓈ-M Futures, Connect": a ping every 3 minutes to be answered within 10, 10 messages a second,
    200 streams. "USDⓈ-M Futures, Important WebSocket Change Notice": aggregate trades and book tickers have different
    addresses, so USD-M needs a connection for each.
    """

    def __init__(
        self,
        settings: FeedSettings,
        symbols: Iterable[str],
        inbox: Inbox,
        metrics: Metrics,
        clock: Clock,
        rest: AggTradeRest,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._inbox = inbox
        self._metrics = metrics
        self._clock = clock
        self._rest = rest
        self._rng = rng or random.Random()
        self._budget = ConnectBudget(settings.connects_per_5_min, clock)
        self._heard: dict[bytes, int] = {}
        self._symbols: tuple[str, ...] = ()
        self._links: dict[tuple[str, int], Link] = {}  # by route and number
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._start: Callable[[tuple[str, int]], None] | None = None
        self._holes: asyncio.Queue[tuple[str, int, int]] = asyncio.Queue(MAX_HOLES_WAITING)
        self._is_connected = metrics.bind("divergence_feed_connected")
        self._id_gaps = metrics.bind("divergence_feed_id_gaps_total")
        self._missed = metrics.bind("divergence_feed_missed_trades_total")
        self._backfilled = metrics.bind("divergence_feed_backfilled_trades_total")
        self._backfill_errors = metrics.bind("divergence_errors_total", stage="backfill")
        self._names: dict[str, tuple[bytes, ...]] = {}  # of a symbol's streams
        self.set_symbols(symbols)

    @property
    def connected(self) -> bool:
        """True while every connection is up and its streams are granted."""
        return bool(self._links) and all(link.connected for link in self._links.values())

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols followed."""
        return self._symbols

    def set_symbols(self, symbols: Iterable[str]) -> None:
        """Follow these symbols from now on, also while running.

        Connections whose streams change are replaced: the new one is up before the old one goes. `Metrics.set_symbols`
        comes first.

        Parameters
        ----------
        symbols : iterable of str

        Raises
        ------
        ConfigError
            No symbol, or one twice.
        """
        wanted = tuple(symbols)
        if not wanted or len(set(wanted)) < len(wanted):
            raise ConfigError(f"feed.symbols: expected at least one, each once; found {list(wanted)}")
        now_ns = self._clock.monotonic_ns()
        for symbol in wanted:
            if symbol not in self._names:
                names = tuple(f"{symbol.lower()}@{stream}".encode() for stream in self._settings.streams)
                self._heard.update(dict.fromkeys(names, now_ns))
                self._names[symbol] = names
                staleness = self._metrics.bind("divergence_feed_staleness_seconds", symbol=symbol)
                staleness.set_function(partial(self.staleness_s, symbol))
        self._symbols = wanted
        self._names = {symbol: self._names[symbol] for symbol in wanted}
        self._plan()

    def staleness_s(self, symbol: str) -> float:
        """Return the seconds since the last message of any stream of a symbol followed, 0 for another symbol."""
        now_ns = self._clock.monotonic_ns()
        return (now_ns - max((self._heard[name] for name in self._names.get(symbol, ())), default=now_ns)) / 1e9

    def stale(self) -> list[str]:
        """Return the symbols of which nothing was heard for longer than `stale_after_s`."""
        return [symbol for symbol in self._symbols if self.staleness_s(symbol) > self._settings.stale_after_s]

    def fill(self, symbol: str, first: int, last: int) -> bool:
        """Count a hole in the trade ids of a symbol, and have it filled over REST.

        Parameters
        ----------
        symbol : str
        first, last : int
            Ids at the ends of the hole, both missing.

        Returns
        -------
        bool
            True where the trades will be fetched, and come through the inbox as `rows`; False where they stay missing:
            the stream is not `aggTrade`, the hole is larger than `max_backfill_trades`, or too many holes wait.
        """
        n = last - first + 1
        self._id_gaps.inc()
        self._missed.inc(n)
        if "aggTrade" not in self._settings.streams or n > self._settings.max_backfill_trades or self._holes.full():
            log.warning("%s: trades %d to %d were missed and stay so", symbol, first, last)
            return False
        self._holes.put_nowait((symbol, first, last))
        return True

    async def run(self) -> None:
        """Hold all connections up until cancelled; then close them."""
        timeout = aiohttp.ClientTimeout(total=None)  # every wait has its limit on our clock
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
                asyncio.TaskGroup() as group,
            ):

                def start(key: tuple[str, int]) -> None:
                    self._tasks[key] = group.create_task(self._links[key].run(session))

                self._start = start
                for key in self._links:
                    start(key)
                group.create_task(self._fill_holes())
        finally:
            self._start = None
            self._tasks.clear()
            await self._rest.close()

    def _plan(self) -> None:
        """Spread the streams over connections, and start, replace or end those that change."""
        planned: dict[tuple[str, int], tuple[str, ...]] = {}
        routes = ROUTES[self._settings.market]
        size = self._settings.streams_per_connection
        for route in dict.fromkeys(routes[stream] for stream in self._settings.streams):
            streams = [
                f"{symbol.lower()}@{stream}"
                for symbol in self._symbols
                for stream in self._settings.streams
                if routes[stream] == route
            ]
            for i in range(0, len(streams), size):
                planned[route, i // size] = tuple(streams[i : i + size])
        for key in self._links.keys() - planned.keys():
            del self._links[key]
            if key in self._tasks:
                self._tasks.pop(key).cancel()
        for key, streams_of_link in planned.items():
            link = self._links.get(key)
            if link is None:
                self._links[key] = self._link(key[0], streams_of_link)
                if self._start is not None:
                    self._start(key)
            elif link.streams != streams_of_link:
                link.streams = streams_of_link
                link.replace.set()
        self._tell_connected()

    def _link(self, route: str, streams: tuple[str, ...]) -> Link:
        return Link(
            f"{self._settings.ws_url.rstrip('/')}{route}/stream",
            streams,
            settings=self._settings,
            inbox=self._inbox,
            metrics=self._metrics,
            clock=self._clock,
            budget=self._budget,
            rng=self._rng,
            heard=self._heard,
            changed=self._tell_connected,
        )

    def _tell_connected(self) -> None:
        self._is_connected.set(1.0 if self.connected else 0.0)

    async def _fill_holes(self) -> None:
        while True:
            symbol, first, last = await self._holes.get()
            n = 0
            try:
                async for rows in self._rest.pages(symbol, first, last):
                    if not self._inbox.put_rows(symbol, rows, self._clock.wall_ms(), self._clock.monotonic_ns()):
                        raise FeedError("the inbox is full")
                    n += len(rows)
                    self._backfilled.inc(len(rows))
            except (FeedError, DataError) as error:
                self._backfill_errors.inc()
                log.warning("%s: trades %d to %d: only %d of them back-filled: %s", symbol, first, last, n, error)
