"""The consumer: messages out of the inbox into bars, and bars that are over into the session.

A bar is over when both streams of its symbol are past it, or a grace after its end by the exchange's clock. It waits
longer while trades of it are being fetched, and while the feed is away: what is back-filled then still counts. Where
only a part of the feed stays away the rest goes on without it, after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError, StoreError
from v13.live.backfill import IdWatch
from v13.live.clock import Clock
from v13.live.deadline import first_of
from v13.live.exchange_clock import ExchangeClock
from v13.live.inbox import Arrival, Inbox
from v13.live.lane import Lane
from v13.live.session import Session
from v13.market.frames import FrameReader
from v13.market.intake import QUOTE, TRADE
from v13.market.wire import Stream, Trade, decode_quote, decode_trade
from v13.telemetry import Metrics

__all__ = ["Consumer", "Feed"]

log = logging.getLogger(__name__)

BATCH: Final = 256  # messages before the reader of the socket gets its turn; bars they end share a commit
MANY: Final = 128  # messages that wait, and are read in one compiled pass: each takes as long as all of them
TICK_S: Final = 0.02  # between looks while nothing comes
LOOK_NS: Final = 5_000_000  # between looks at the clock for bars that no message ends
TELL_NS: Final = 50_000_000  # between entries into histograms: a fixed cost, that the next bar would wait for
PARTIAL_S: Final = 30.0  # with a part of the feed away for longer, the rest goes on without it ...
ALIVE_S: Final = 5.0  # ... if there is a rest: something came this short ago
HOLD_S: Final = 5.0  # a bar waits no longer for trades that are being fetched
RETRY_S: Final = 1.0  # between attempts of a commit the disk refused
STILL_BARS: Final = 5  # without one of them closed while messages come: something is wrong with time
ANY_ID: Final = -1  # waited for where the log tells of trades before: the next one shows what was missed


class Feed(Protocol):
    """What the consumer asks of a feed."""

    @property
    def connected(self) -> bool: ...

    def fill(self, symbol: str, first: int, last: int) -> bool: ...


class _Still(NamedTuple):
    next_ms: int  # end of the bar that is to be closed next
    n_late: int  # messages that came too late until then
    since_ns: int  # by our clock


class Consumer:
    """Drains an inbox into a session.

    Parameters
    ----------
    session : Session
    inbox : Inbox
    feed : Feed
    metrics : Metrics
    clock : Clock
    has_exchange_time : bool
        False on spot, whose quotes carry none: then all times are ours at receipt, as two clocks are never mixed.
    grace_ms : int
        After the end of a bar, by the exchange's clock.
    """

    def __init__(
        self,
        session: Session,
        inbox: Inbox,
        feed: Feed,
        *,
        metrics: Metrics,
        clock: Clock,
        has_exchange_time: bool,
        grace_ms: int,
    ) -> None:
        self._session = session
        self._inbox = inbox
        self._feed = feed
        self._clock = clock
        self._has_exchange_time = has_exchange_time
        self.grace_ms = grace_ms
        self._exchange = ExchangeClock()
        known = {s: lane.intake.last_trade_id for s, lane in session.lanes.items()}
        self._ids = IdWatch({s: n for s, n in known.items() if n >= 0})
        self._trade_lag_ms: dict[str, int] = {}  # received minus trade time, by symbol
        # symbol -> (last id waited for, until when by our clock, ns; 0: not waited for yet)
        self._hold: dict[str, tuple[int, int]] = {s: (ANY_ID, 0) for s, n in known.items() if n >= 0}
        self._n_malformed: Counter[Stream] = Counter()
        self._still: dict[str, _Still] = {}  # by symbol, as last seen by `standing_still`
        self._lags: list[int] = []
        self._durations: list[int] = []
        self._look_ns = self._tell_ns = 0
        self._heard_ns = 0  # when the last message came
        self._away_ns: int | None = None  # since when the feed, or a part of it, is away
        self._n_trades = metrics.bind("divergence_messages_total", stream="trade")
        self._n_quotes = metrics.bind("divergence_messages_total", stream="quote")
        self._drops = {
            (stream, reason): metrics.bind("divergence_dropped_total", stream=stream, reason=reason)
            for stream in ("trade", "quote")
            for reason in ("late", "duplicate", "malformed", "bad_value", "unknown_symbol")
        }
        self._decode_errors = metrics.bind("divergence_errors_total", stage="decode")
        self._event_latency = metrics.bind("divergence_event_latency_seconds")
        self._lag = metrics.bind("divergence_feed_lag_seconds")
        self._told: dict[str, Counter[tuple[str, str]]] = {s: Counter() for s in session.lanes}
        self._taken_ms = 0  # all that was received until then, by our clock, has been taken
        self._open_reader()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            if self._session.is_stalled:
                await self._clock.sleep(RETRY_S)
                self._retry()
                continue
            if not self._inbox.size:
                await first_of(self._inbox.wait(), self._clock.sleep(TICK_S))
            self.work()
            await asyncio.sleep(0)  # the reader of the socket gets its turn

    def work(self) -> None:
        """Take what waits, at most a batch of it, and close the bars that are over, all of them in one commit."""
        now = self._clock.monotonic_ns
        wall_ms = self._clock.wall_ms()
        taken = self._inbox.take(BATCH)
        began = now()
        is_many = len(taken) >= MANY and taken[0][0] != "rows"  # those come first, so there are none behind
        behind = self._take_all(taken) if is_many else None
        if behind is None:
            behind, durations = self._take_each(taken)
        else:
            durations = [now() - began] * len(taken)
        if taken:
            self._heard_ns = taken[-1][3]
        if not self._inbox.size:
            self._taken_ms = wall_ms
        if behind:
            closing = now()
            self._close({symbol: taken[i][3] for symbol, i in behind.items()}, self._limit_ms())
            done = now()
            for i in behind.values():
                durations[i] += done - closing
        self._durations += durations
        if now() >= self._look_ns:
            self._look()

    def _take_each(self, taken: Sequence[Arrival]) -> tuple[dict[str, int], list[int]]:
        """Take messages one by one; return of which symbols a bar may be over, by the first of which messages, and how
        long each took (ns).
        """
        now = self._clock.monotonic_ns
        started = [now()]
        behind: dict[str, int] = {}
        n_trades = n_quotes = 0
        for i, arrival in enumerate(taken):
            symbol: str | None
            if arrival[0] == "trade":
                n_trades += 1
                self._taken_ms = arrival[2]
                symbol = self._take_trade(arrival[1], arrival[2])
            elif arrival[0] == "quote":
                n_quotes += 1
                self._taken_ms = arrival[2]
                symbol = self._take_quote(arrival[1], arrival[2])
            else:
                symbol = arrival[1][0]
                self._take_rows(*arrival[1])
            if symbol is not None:
                behind.setdefault(symbol, i)
            started.append(now())
        self._n_trades.inc(n_trades)
        self._n_quotes.inc(n_quotes)
        return behind, [end - start for start, end in pairwise(started)]

    def _take_all(self, taken: Sequence[Arrival]) -> dict[str, int] | None:
        """Take trades and quotes in one pass, as `_take_each` would; None, and nothing is taken, where one is odd."""
        _, raws, recv_ms, _ = zip(*taken, strict=True)
        frames = self._reader.read(raws, recv_ms)
        if frames is None:
            return None
        lags = frames.lags_ms
        if lags.size and not self._exchange.accept_all(-int(lags.max()), -int(lags.min()), max(recv_ms)):
            return None
        self._lags += lags.tolist()
        self._taken_ms = recv_ms[-1]
        behind: dict[str, int] = {}
        sizes = TRADE.itemsize, QUOTE.itemsize
        for symbol_at, is_quote, first, n, first_ms, last_ms, first_id, last_id, in_order, lag_ms in frames.groups:
            symbol = self._symbols[symbol_at]
            intake = self._session.lanes[symbol].intake
            size = sizes[is_quote]
            intake.add_packed(is_quote, frames.packed[is_quote][first * size : (first + n) * size], first_ms, last_ms)
            if not is_quote:
                self._trade_lag_ms[symbol] = lag_ms
                # Mostly they follow those before, nothing is missing, and nothing waited for.
                if not in_order or self._hold or not self._ids.see_run(symbol, first_id, last_id):
                    for number in frames.trades["id"][first : first + n].tolist():
                        self._watch_id(symbol, number)
            if last_ms >= intake.next_ms:
                rows, at = (frames.quotes, frames.quote_at) if is_quote else (frames.trades, frames.trade_at)
                i = int(at[first + np.argmax(rows["ts_ms"][first : first + n] >= intake.next_ms)])
                behind[symbol] = min(i, behind.get(symbol, i))
        self._n_trades.inc(frames.trades.size)
        self._n_quotes.inc(frames.quotes.size)
        return behind

    def _open_reader(self) -> None:
        self._symbols = list(self._session.lanes)
        self._reader = FrameReader(self._symbols, BATCH, has_exchange_time=self._has_exchange_time)

    def _look(self) -> None:
        """Close the bars that no message ends, and tell now and then what was measured."""
        now_ns = self._clock.monotonic_ns()
        self._look_ns = now_ns + LOOK_NS
        limit_ms = self._limit_ms()
        over = [symbol for symbol, lane in self._session.lanes.items() if lane.intake.next_ms <= limit_ms]
        self._close(dict.fromkeys(over, now_ns), limit_ms)
        if now_ns < self._tell_ns:
            return
        self._tell_ns = now_ns + TELL_NS
        for histogram, values, unit in ((self._event_latency, self._durations, 1e-9), (self._lag, self._lags, 1e-3)):
            if values:
                histogram.observe_many(np.array(values) * unit)
                values.clear()

    def follow(self) -> None:
        """Take note that the session follows other symbols now."""
        for symbol in self._session.lanes.keys() - self._told.keys():
            last = self._session.lanes[symbol].intake.last_trade_id
            self._ids.know(symbol, last)
            if last >= 0:
                self._hold[symbol] = ANY_ID, 0
        self._told = {symbol: self._told.get(symbol, Counter()) for symbol in self._session.lanes}
        self._open_reader()

    def standing_still(self) -> set[str]:
        """Return symbols whose messages come while none of their bars is over any more; to be asked now and then.

        That is so for longer than STILL_BARS bars, the grace and a hold. It happens where the exchange's clock is set
        back: its messages belong to bars that were closed, and until it has come so far again there are no others.
        """
        now_ns = self._clock.monotonic_ns()
        found, last = set(), self._still
        self._still = {}
        for symbol, lane in self._session.lanes.items():
            intake = lane.intake
            n_late = intake.dropped["trade", "late"] + intake.dropped["quote", "late"]
            before = last.get(symbol)
            if before is None or before.next_ms != intake.next_ms or not (intake.n_held or n_late > before.n_late):
                self._still[symbol] = _Still(intake.next_ms, n_late, now_ns)
                continue
            self._still[symbol] = before
            limit_ms = STILL_BARS * intake.bar_ms + self.grace_ms + 1e3 * HOLD_S
            if now_ns - before.since_ns > 1e6 * limit_ms:
                found.add(symbol)
                self._count_drops(lane, self._told[symbol])
        return found

    def drain(self) -> None:
        """Take all that still waits, before an orderly stop; what a stalled session cannot take is lost."""
        while self._inbox.size and not self._session.is_stalled:
            self.work()

    def _take_trade(self, raw: bytes, recv_ms: int) -> str | None:
        """Hand a trade to its symbol; return that if a bar of it may be over."""
        try:
            symbol, ts_ms, number, px, qty, sign = decode_trade(raw)
        except DataError as error:
            self._malformed("trade", error)
            return None
        lane = self._lane("trade", symbol, ts_ms, recv_ms)
        if lane is None:
            return None
        at_ms = ts_ms if self._has_exchange_time else recv_ms
        lane.intake.add_trade(at_ms, number, px, qty, sign)
        self._trade_lag_ms[symbol] = recv_ms - ts_ms
        self._watch_id(symbol, number)
        return symbol if at_ms >= lane.intake.next_ms else None

    def _watch_id(self, symbol: str, number: int) -> None:
        """Have a hole that this id reveals filled, and the bar wait for it."""
        hole = self._ids.see(symbol, number)
        if hole is not None and self._feed.fill(symbol, *hole):
            self._hold[symbol] = hole[1], self._clock.monotonic_ns() + int(HOLD_S * 1e9)
        elif self._hold and self._hold.get(symbol, (0, 0))[0] == ANY_ID:
            del self._hold[symbol]

    def _take_quote(self, raw: bytes, recv_ms: int) -> str | None:
        """Hand a quote to its symbol; return that if a bar of it may be over."""
        try:
            symbol, ts_ms, number, bid, bid_qty, ask, ask_qty = decode_quote(raw)
        except DataError as error:
            self._malformed("quote", error)
            return None
        lane = self._lane("quote", symbol, ts_ms, recv_ms)
        if lane is None:
            return None
        at_ms = ts_ms if self._has_exchange_time else recv_ms
        lane.intake.add_quote(at_ms, number, bid, bid_qty, ask, ask_qty)
        return symbol if at_ms >= lane.intake.next_ms else None

    def _lane(self, stream: Stream, symbol: str, ts_ms: int, recv_ms: int) -> Lane | None:
        """Return whose message it is; None, and counted, where it is nobody's or its time cannot be believed."""
        lane = self._session.lanes.get(symbol)
        if lane is None:
            self._drops[stream, "unknown_symbol"].inc()
            return None
        if ts_ms:
            if not self._exchange.accept(ts_ms, recv_ms):
                self._drops[stream, "bad_value"].inc()
                return None
            self._lags.append(recv_ms - ts_ms)
        return lane

    def _malformed(self, stream: Stream, error: DataError) -> None:
        self._decode_errors.inc()
        self._drops[stream, "malformed"].inc()
        self._n_malformed[stream] += 1
        n = self._n_malformed[stream]
        if n.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: a flood of them must not fill the log
            log.warning("%s (malformed %s %d)", error, stream, n)

    def _take_rows(self, symbol: str, rows: Sequence[Trade]) -> None:
        lane = self._session.lanes.get(symbol)
        if lane is None:
            return
        shift_ms = 0 if self._has_exchange_time else self._trade_lag_ms.get(symbol, 0)
        for _, ts_ms, number, px, qty, sign in rows:
            lane.intake.add_trade(ts_ms + shift_ms, number, px, qty, sign)
        held = self._hold.get(symbol)
        if held is not None and rows[-1][2] >= held[0]:
            del self._hold[symbol]

    def _limit_ms(self) -> int:
        """Return until when bars are over, whatever came or did not; -1 where the clock must not say so."""
        # Not the time now: what waits in the inbox after a stall belongs to bars that are long over by that.
        exchange_ms = self._exchange.now_ms(self._taken_ms) if self._has_exchange_time else self._taken_ms
        return -1 if exchange_ms is None or not self._is_fed() else exchange_ms - self.grace_ms

    def _close(self, received_ns: Mapping[str, int], limit_ms: int) -> None:
        """Hand bars of these symbols that are over to the session; while it is stalled they stay with their intakes.

        With each symbol comes when the message was received that may have ended its bar.
        """
        if self._session.is_stalled:
            return
        closed: dict[str, NDArray[Any]] = {}
        for symbol in received_ns:
            lane = self._session.lanes.get(symbol)
            if lane is None:
                continue
            until = max(lane.intake.seen_ms, limit_ms) if lane.intake.newest_ms >= 0 else -1
            if until < lane.intake.next_ms or self._is_held(symbol):
                continue
            bars = lane.intake.close_until(until)
            if bars.size:
                closed[symbol] = bars
        if not closed:
            return
        try:
            self._session.advance(closed, received_ns)
        except StoreError as error:
            log.error("%s; nothing more is taken until the log accepts it", error)
        for symbol in closed:
            self._count_drops(self._session.lanes[symbol], self._told[symbol])

    def _is_fed(self) -> bool:
        """Whether silence means that nothing happened, and not that nothing got through."""
        now_ns = self._clock.monotonic_ns()
        if self._feed.connected:
            self._away_ns = None
            return True
        if self._away_ns is None:
            self._away_ns = now_ns
        return now_ns - self._away_ns > PARTIAL_S * 1e9 and now_ns - self._heard_ns < ALIVE_S * 1e9

    def _is_held(self, symbol: str) -> bool:
        held = self._hold.get(symbol)
        if held is None:
            return False
        if not held[1]:
            self._hold[symbol] = held = held[0], self._clock.monotonic_ns() + int(HOLD_S * 1e9)
        if self._clock.monotonic_ns() < held[1]:
            return True
        del self._hold[symbol]
        return False

    def _retry(self) -> None:
        try:
            self._session.retry()
            log.warning("the log accepts again; nothing was lost")
        except StoreError as error:
            log.error("%s", error)
            return
        self._close(dict.fromkeys(self._session.lanes, self._clock.monotonic_ns()), self._limit_ms())

    def _count_drops(self, lane: Lane, told: Counter[tuple[str, str]]) -> None:
        for key, n in lane.intake.dropped.items():
            if n > told[key]:
                self._drops[key].inc(n - told[key])
                told[key] = n
