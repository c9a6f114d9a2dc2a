"""What the feed can be told: addresses, limits and waits, each with the page of the exchange it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from v13.errors import ConfigError
from v13.market.wire import STREAM_KINDS

__all__ = ["ENDPOINTS", "ROUTES", "FeedSettings"]

# WebSocket and REST address of each market ("WebSocket Streams for Binance"; "USDⓈ-M Futures, Connect" and General
# Info).
ENDPOINTS: Final = {
    "spot": ("wss://stream.binance.com:9443", "https://api.binance.com"),
    "usdm": ("wss://fstream.binance.com", "https://fapi.binance.com"),
}
# Path in front of /stream, by stream. On USD-M each kind of data has its own since 2026-04-23, and a stream asked for
# on the wrong one is granted and stays silent ("USDⓈ-M Futures, Important WebSocket Change Notice"). The notice does
# not list `trade`; ccxt (issue 28083) finds it on the public path.
ROUTES: Final = {
    "spot": {"aggTrade": "", "trade": "", "bookTicker": ""},
    "usdm": {"aggTrade": "/market", "trade": "/public", "bookTicker": "/public"},
}
# "WebSocket Streams for Binance", WebSocket Limits: 1,024. USD-M's "Connect" page has said 200 and 1,024; the lower
# holds.
MAX_STREAMS: Final = {"spot": 1_024, "usdm": 200}
# Messages a second we may send, pongs included: the same pages.
MAX_SENT_PER_S: Final = {"spot": 5, "usdm": 10}
MAX_AGE_S: Final = 24 * 3_600.0  # both pages: a connection is ended at the 24 hour mark


@dataclass(frozen=True)
class FeedSettings:
    """Settings of `v13.live.binance.BinanceFeed`.

    Attributes
    ----------
    market : {"spot", "usdm"}
    ws_url, rest_url : str
        Scheme and host; `ENDPOINTS` has the exchange's.
    streams : tuple of {"aggTrade", "trade", "bookTicker"}
        What to follow of every symbol. Only `aggTrade` can be back-filled without a key.
    backoff_min_s, backoff_max_s : float, 0 < min <= max
        Between attempts to connect: a random part of min * 2^failures, at most max.
    idle_s : float, > 0
        A connection without a message of its streams for so long is given up, also if it still pings.
    connect_timeout_s, answer_timeout_s : float, > 0
        For the handshake, and for the answer to a subscription.
    max_frame_bytes : int, >= 1024
        A longer message breaks the connection.
    rotate_after_s : float, in (0, 86400)
        Age at which a connection is replaced, before the exchange ends it.
    overlap_s : float, >= 0
        How long old and new go on side by side then.
    subscribe_batch : int, >= 1
        Streams in one request.
    subscribe_pause_s : float, > 0
        Between requests; keeps us under the exchange's limit of messages a second, with room for pongs.
    streams_per_connection : int, >= 1
    connects_per_5_min : int, in [1, 300]
        Attempts to connect in any five minutes.
    rest_timeout_s : float, > 0
    stale_after_s : float, > 0
        A symbol of which nothing was heard for so long is stale.
    max_backfill_trades : int, >= 0
        A larger hole is counted and left.

    Raises
    ------
    ConfigError
        A value is out of its range, or breaks a limit of the exchange.
    """

    market: Literal["spot", "usdm"]
    ws_url: str
    rest_url: str
    streams: tuple[str, ...] = ("aggTrade", "bookTicker")
    backoff_min_s: float = 1.0
    backoff_max_s: float = 30.0
    idle_s: float = 60.0
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 10.0
    max_frame_bytes: int = 65_536
    rotate_after_s: float = 23 * 3_600.0
    overlap_s: float = 2.0
    subscribe_batch: int = 100
    subscribe_pause_s: float = 0.5
    streams_per_connection: int = 200
    connects_per_5_min: int = 100
    rest_timeout_s: float = 10.0
    stale_after_s: float = 30.0
    max_backfill_trades: int = 20_000

    def __post_init__(self) -> None:
        if self.market not in ENDPOINTS:
            raise ConfigError(f"feed.market: expected spot or usdm, found {self.market!r}")
        pause_s = 1.0 / (MAX_SENT_PER_S[self.market] - 1)  # a pong may fall into the same second
        checks = (
            ("ws_url", self.ws_url.startswith(("ws://", "wss://")), "a ws:// or wss:// address"),
            ("rest_url", self.rest_url.startswith(("http://", "https://")), "a http:// or https:// address"),
            ("streams", bool(self.streams) and set(self.streams) <= set(STREAM_KINDS), f"some of {list(STREAM_KINDS)}"),
            ("backoff_min_s", 0 < self.backoff_min_s <= self.backoff_max_s, "above 0, at most backoff_max_s"),
            ("idle_s", self.idle_s > 0, "above 0"),
            ("connect_timeout_s", self.connect_timeout_s > 0, "above 0"),
            ("answer_timeout_s", self.answer_timeout_s > 0, "above 0"),
            ("max_frame_bytes", self.max_frame_bytes >= 1_024, "at least 1024"),
            ("rotate_after_s", 0 < self.rotate_after_s < MAX_AGE_S, f"above 0, below {MAX_AGE_S:.0f}"),
            ("overlap_s", self.overlap_s >= 0, "at least 0"),
            ("subscribe_batch", self.subscribe_batch >= 1, "at least 1"),
            ("subscribe_pause_s", self.subscribe_pause_s >= pause_s, f"at least {pause_s:.3f} on {self.market}"),
            (
                "streams_per_connection",
                1 <= self.streams_per_connection <= MAX_STREAMS[self.market],
                f"1 to {MAX_STREAMS[self.market]} on {self.market}",
            ),
            ("connects_per_5_min", 1 <= self.connects_per_5_min <= 300, "1 to 300"),
            ("rest_timeout_s", self.rest_timeout_s > 0, "above 0"),
            ("stale_after_s", self.stale_after_s > 0, "above 0"),
            ("max_backfill_trades", self.max_backfill_trades >= 0, "at least 0"),
        )
        for name, fits, expected in checks:
            if not fits:
                raise ConfigError(f"feed.{name}: expected {expected}, found {getattr(self, name)!r}")
