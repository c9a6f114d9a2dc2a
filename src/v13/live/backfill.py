"""Holes in the trade ids, and the trades that belong in them, fetched over REST within the exchange's limits.

It does not decide where a fetched trade goes: the inbox takes it like any other message.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Mapping
from typing import Final, Literal

import aiohttp

from v13.errors import FeedError
from v13.live.clock import Clock
from v13.live.deadline import within
from v13.market.wire import Trade, decode_agg_trades

__all__ = ["PAGE_TRADES", "AggTradeRest", "IdWatch"]

log = logging.getLogger(__name__)

PAGE_TRADES: Final = 1_000  # the most one answer holds
PATHS: Final = {"spot": "/api/v3/aggTrades", "usdm": "/fapi/v1/aggTrades"}
# Weight of one call, and what an address may use in a minute: spot's page says 4 of 6,000; USD-M's says 20 of 2,400.
WEIGHTS: Final = {"spot": (4, 6_000), "usdm": (20, 2_400)}
WEIGHT_SHARE: Final = 0.8  # the rest is left to whoever shares our address
MINUTE_S: Final = 60.0
MAX_JUMP: Final = 1_000_000  # ids; a busy symbol needs days for that many aggregate trades
TOO_MANY, BANNED = 429, 418


class IdWatch:
    """Finds holes in ids that rise by one, by symbol.

    Parameters
    ----------
    last : mapping of str to int, or None
        The last id of each symbol that an earlier run has seen.

    Notes
    -----
    A jump of over a million ids is believed when the next message confirms it: one broken message must not make every
    true id after it look old.
    """

    def __init__(self, last: Mapping[str, int] | None = None) -> None:
        self._last = dict(last or {})
        self._doubtful: dict[str, int] = {}

    def know(self, symbol: str, last: int) -> None:
        """Go on after the id an earlier run has seen last of a symbol; -1: there is none."""
        self._doubtful.pop(symbol, None)
        if last >= 0:
            self._last[symbol] = last
        else:
            self._last.pop(symbol, None)

    def see(self, symbol: str, trade_id: int) -> tuple[int, int] | None:
        """Note an id; return the hole it reveals.

        Parameters
        ----------
        symbol : str
        trade_id : int, >= 0

        Returns
        -------
        (first, last) or None
            The first and the last id that are missing. None where the id is the next one, the first of its symbol, or
            not above the last: a duplicate, or late.
        """
        last = self._last.get(symbol)
        if last is None or trade_id == last + 1:
            self._last[symbol] = trade_id
            return None
        if trade_id <= last:
            return None
        if trade_id - last > MAX_JUMP:
            doubtful = self._doubtful.get(symbol)
            if doubtful is None or not 0 < trade_id - doubtful <= MAX_JUMP:
                self._doubtful[symbol] = trade_id
                return None
        self._doubtful.pop(symbol, None)
        self._last[symbol] = trade_id
        return last + 1, trade_id - 1

    def see_run(self, symbol: str, first: int, last: int) -> bool:
        """Note the ids from `first` to `last`, all of them, if they follow; else nothing, and `see` is to be asked."""
        before = self._last.get(symbol)
        if before is not None and first != before + 1:
            return False
        self._last[symbol] = last
        return True


class AggTradeRest:
    """Aggregate trades by id, from the exchange's REST service.

    Parameters
    ----------
    market : {"spot", "usdm"}
    url : str
        Scheme and host, without a path.
    clock : Clock
    timeout_s : float, > 0
        For one answer.
    attempts : int, >= 1
        Tries of one page: after refusals, failures, and answers that do not have the trades yet.
    patience_s : float, > 0
        A longer wait than this, ordered by the exchange, is not sat out: calls fail at once until it is over.
    rng : random.Random
        For the jitter of repeated tries.

    Notes
    -----
    Binance, "Public Rest API for Binance", sections IP Limits and Compressed/Aggregate trades list; "USDⓈ-M Futures,
    General Info", section Limits. Every answer says in X-MBX-USED-WEIGHT-1M how much weight our address used in the
    running minute; 429 orders a pause of Retry-After seconds, and who goes on is banned with 418 for 2 minutes to 3
    days.
    """

    def __init__(
        self,
        market: Literal["spot", "usdm"],
        url: str,
        clock: Clock,
        *,
        timeout_s: float = 10.0,
        attempts: int = 5,
        patience_s: float = 120.0,
        rng: random.Random | None = None,
    ) -> None:
        self._endpoint = url.rstrip("/") + PATHS[market]
        self._weight, per_minute = WEIGHTS[market]
        self._ceiling = WEIGHT_SHARE * per_minute
        self._clock = clock
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._patience_s = patience_s
        self._rng = rng or random.Random()
        self._session: aiohttp.ClientSession | None = None
        self._used_weight = 0
        self._blocked_until_ns = 0

    async def pages(self, symbol: str, first: int, last: int) -> AsyncIterator[list[Trade]]:
        """Fetch the trades of a hole, in order, page by page.

        Parameters
        ----------
        symbol : str
        first, last : int
            Ids at the ends of the hole, both of them missing.

        Yields
        ------
        list of (symbol, ts_ms, trade_id, px, qty, sign)
            At most `PAGE_TRADES`, not empty. Ids that the exchange itself does not have are passed over.

        Raises
        ------
        FeedError
            The exchange refused, failed, or did not have the trades in any of the attempts.
        DataError
            An answer that is not a list of trades.
        """
        cursor = first
        while cursor <= last:
            page = await self._page(symbol, cursor, min(PAGE_TRADES, last - cursor + 1))
            rows = [row for row in page if row[2] <= last]
            if rows:
                yield rows
            cursor = page[-1][2] + 1

    async def close(self) -> None:
        """Close the connections held open; a later call opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _page(self, symbol: str, from_id: int, limit: int) -> list[Trade]:
        why = ""
        for attempt in range(self._attempts):
            if attempt:
                await self._clock.sleep(self._rng.uniform(0.0, 0.5 * 2.0**attempt))
            await self._respect_limits()
            try:
                status, headers, body = await within(self._clock, self._timeout_s, self._get(symbol, from_id, limit))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
                continue
            self._used_weight = _number(headers.get("X-MBX-USED-WEIGHT-1M"), self._used_weight + self._weight)
            if status == 200:
                page = decode_agg_trades(body, symbol)
                if page and page[0][2] >= from_id:
                    return page
                why = "it lists other trades than asked for" if page else "it does not list them yet"
            elif status in (TOO_MANY, BANNED):
                pause_s = max(1.0, float(_number(headers.get("Retry-After"), int(MINUTE_S))))
                self._blocked_until_ns = self._clock.monotonic_ns() + int(pause_s * 1e9)
                why = f"status {status}, to wait {pause_s:g} s"
            elif status >= 500:
                why = f"status {status}"
            else:
                raise FeedError(f"{self._endpoint}: {symbol} from id {from_id}: status {status}: {body[:200]!r}")
        raise FeedError(f"{self._endpoint}: {symbol} from id {from_id}: {self._attempts} attempts failed: {why}")

    async def _respect_limits(self) -> None:
        wait_s = (self._blocked_until_ns - self._clock.monotonic_ns()) / 1e9
        if wait_s > self._patience_s:
            raise FeedError(f"{self._endpoint}: the exchange refuses calls from this address for {wait_s:.0f} s more")
        if wait_s > 0:
            await self._clock.sleep(wait_s)
        if self._used_weight + self._weight > self._ceiling:
            log.warning("%s: weight %d used in this minute; waiting", self._endpoint, self._used_weight)
            await self._clock.sleep(MINUTE_S)  # their minute has turned by then, whatever the clocks say
            self._used_weight = 0

    async def _get(self, symbol: str, from_id: int, limit: int) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        query = {"symbol": symbol, "fromId": str(from_id), "limit": str(limit)}
        async with self._session.get(self._endpoint, params=query, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else otherwise
