"""Messages of one live symbol, in any order within a bar and perhaps twice, into its bars.

Messages are held until the clock says that their bar is over; then they are put in order of time, rid of what came
twice and of what no market prints, and handed to `BarBuilder`. So what arrives late, but before its bar is closed, is
nothing special, and the bars are those `market.load` makes of the same messages.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import BAR
from v13.market.bar_kernel import LAST_ID, N_DUE, N_IDS
from v13.market.bars import BarBuilder

__all__ = ["QUOTE", "TRADE", "Intake", "preload"]

TRADE: Final = np.dtype(
    [("ts_ms", np.int64), ("id", np.int64), ("px", np.float64), ("qty", np.float64), ("sign", np.int8)]
)
QUOTE: Final = np.dtype(
    [
        ("ts_ms", np.int64),
        ("id", np.int64),
        ("bid", np.float64),
        ("bid_qty", np.float64),
        ("ask", np.float64),
        ("ask_qty", np.float64),
    ]
)
_PACK_TRADE: Final = struct.Struct("=qqddb").pack  # a record of TRADE, at half the cost of a tuple made one later
_PACK_QUOTE: Final = struct.Struct("=qqdddd").pack  # of QUOTE
_PACK_FACTS: Final = struct.Struct("=3q").pack
NO_ID: Final = -1  # of a source that has none: its messages are never taken for the same
REMEMBERED: Final = 8_192  # ids of a stream that are known again when an old one comes
MOST_PACKED: Final = 4_096  # messages; more than that come from recordings, in blocks

Columns = tuple[NDArray[Any], ...]
Records = NDArray[Any]


class Intake:
    """Turn one symbol's messages into bars.

    Parameters
    ----------
    bar_ms : int, milliseconds
    max_gap_ms : int or None, milliseconds
        As `BarBuilder`.
    has_trades, has_quotes : bool
        Which streams exist.

    Attributes
    ----------
    dropped : Counter
        Messages left out, by (`trade` or `quote`, reason); reasons are `late`, `duplicate` and `bad_value`.
    last_trade_id : int
        The largest handed on, NO_ID before.
    next_ms : int
        End of the earliest bar that can still be handed on.
    """

    def __init__(
        self, bar_ms: int, max_gap_ms: int | None = None, *, has_trades: bool = True, has_quotes: bool = True
    ) -> None:
        self._builder = BarBuilder(bar_ms, max_gap_ms, has_trades=has_trades, has_quotes=has_quotes)
        self.bar_ms = bar_ms
        self.dropped: Counter[tuple[str, str]] = Counter()
        self._marks = np.array([[NO_ID, 0, 0], [NO_ID, 0, 0]], np.int64)
        self._last_ids = self._marks[:, LAST_ID]
        self._trades = _Stream(TRADE, self._marks[0])
        self._quotes = _Stream(QUOTE, self._marks[1])
        self._ids = self._trades.ids, self._quotes.ids
        self._own = [s for s, exists in ((self._trades, has_trades), (self._quotes, has_quotes)) if exists]
        self._closed_ms = 0
        self.next_ms = bar_ms

    @property
    def last_trade_id(self) -> int:
        return self._trades.last_id

    @property
    def seen_ms(self) -> int:
        """Up to where both streams that exist have come; a bar that ends by then is over. -1 before."""
        return min([s.seen_ms for s in self._own])

    @property
    def newest_ms(self) -> int:
        """Time of the newest message of either stream; -1 before."""
        return max(self._trades.seen_ms, self._quotes.seen_ms)

    @property
    def n_held(self) -> int:
        """Messages that wait for the end of their bar."""
        return self._trades.n_held + self._quotes.n_held

    def add_trade(self, ts_ms: int, trade_id: int, px: float, qty: float, sign: int) -> None:
        """Hold one trade; the fields of TRADE. What is late already is counted and forgotten."""
        stream = self._trades
        if ts_ms > stream.seen_ms:
            stream.seen_ms = ts_ms
        if ts_ms < self._closed_ms:
            self.dropped["trade", "late"] += 1
            return
        stream.packed += _PACK_TRADE(ts_ms, trade_id, px, qty, sign)

    def add_quote(self, ts_ms: int, update_id: int, bid: float, bid_qty: float, ask: float, ask_qty: float) -> None:
        """Hold one best quote; the fields of QUOTE. What is late already is counted and forgotten."""
        stream = self._quotes
        if ts_ms > stream.seen_ms:
            stream.seen_ms = ts_ms
        if ts_ms < self._closed_ms:
            self.dropped["quote", "late"] += 1
            return
        stream.packed += _PACK_QUOTE(ts_ms, update_id, bid, bid_qty, ask, ask_qty)

    def add_trades(self, *columns: NDArray[Any]) -> None:
        """Hold many trades: (n,) arrays, one a field of TRADE."""
        self._trades.add(columns)

    def add_quotes(self, *columns: NDArray[Any]) -> None:
        """Hold many best quotes: (n,) arrays, one a field of QUOTE."""
        self._quotes.add(columns)

    def add_packed(self, is_quote: int, records: memoryview, first_ms: int, last_ms: int) -> None:
        """Hold the bytes of records of TRADE or QUOTE, in the order in which they came.

        `first_ms` and `last_ms` are the least and the greatest of their times. What is late already is counted and
        forgotten.
        """
        stream = self._quotes if is_quote else self._trades
        if last_ms > stream.seen_ms:
            stream.seen_ms = last_ms
        if first_ms >= self._closed_ms:
            stream.packed += records
            return
        rows = np.frombuffer(records, QUOTE if is_quote else TRADE)
        is_late = rows["ts_ms"] < self._closed_ms
        self.dropped["quote" if is_quote else "trade", "late"] += int(np.count_nonzero(is_late))
        stream.packed += rows[~is_late].tobytes()

    def close_until(self, ts_ms: int) -> Records:
        """Hand on every bar that ends by `ts_ms` (epoch ms): (n,) BAR; later messages stay."""
        until = ts_ms - ts_ms % self.bar_ms
        if until <= self._closed_ms:
            return np.empty(0, BAR)
        if not (self._trades.blocks or self._quotes.blocks):
            bars = self._builder.close_in_order(
                self._trades.messages(), self._quotes.messages(), self._marks, self._ids, self._closed_ms, until
            )
            if bars is not None:
                self._trades.forget_due()
                self._quotes.forget_due()
                self._reach(until)
                return bars
        return self._put_right(until)

    def finish(self) -> Records:
        """Hand on the rest: what a clock long past the last message would give, less the empty bars behind it."""
        newest = self.newest_ms
        if newest < self._closed_ms:
            return self.close_until(self._closed_ms)
        return self.close_until(newest - newest % self.bar_ms + self.bar_ms)

    def snapshot(self) -> bytes:
        """Return what is needed to go on after the last bar handed on; messages held are not part of it."""
        return _PACK_FACTS(self._closed_ms, *self._last_ids.tolist()) + self._builder.snapshot()

    def restore(self, data: bytes) -> None:
        """Take up a `snapshot`; messages of bars handed on before it are late from now on.

        Raises
        ------
        DataError
            The bytes are not a snapshot of an intake made with the same arguments. The state is untouched then.
        """
        self._builder.restore(data[24:])
        closed, *last_ids = np.frombuffer(data, np.int64, 3).tolist()
        self._last_ids[:] = last_ids
        self._reach(closed)

    def _put_right(self, until: int) -> Records:
        """Close bars whose messages are in any order, late, twice or bad, or came as blocks."""
        trades = self._trades.take(until, self._closed_ms, self.dropped, "trade")
        if trades is not None:
            ts, _, px, qty, sign = trades
            good = (px > 0) & (px < np.inf) & (qty > 0) & (qty < np.inf)
            self._push(self._builder.push_trades, (ts, px, qty, sign), good, "trade")
        quotes = self._quotes.take(until, self._closed_ms, self.dropped, "quote")
        if quotes is not None:
            ts, _, bid, bid_qty, ask, ask_qty = quotes
            good = (bid > 0) & (bid <= ask) & (ask < np.inf) & (bid_qty > 0) & (ask_qty > 0)
            good &= (bid_qty < np.inf) & (ask_qty < np.inf)
            self._push(self._builder.push_quotes, (ts, bid, bid_qty, ask, ask_qty), good, "quote")
        self._reach(until)
        return self._builder.close_until(until)

    def _reach(self, closed_ms: int) -> None:
        self._closed_ms = closed_ms
        self.next_ms = closed_ms + self.bar_ms

    def _push(self, push: Any, columns: Columns, good: NDArray[np.bool_], stream: str) -> None:
        if not good.all():
            self.dropped[stream, "bad_value"] += good.size - int(np.count_nonzero(good))
            columns = tuple(column[good] for column in columns)
        push(*columns)


def preload() -> None:
    """Load the compiled recursions, so that the first live bar does not wait 0.1 s for them."""
    intake = Intake(1_000)
    for i in range(2):  # the first bar of all goes another way than those after it
        intake.add_trade(1_000 * i, i, 1.0, 1.0, 1)
        intake.add_quote(1_000 * i, i, 1.0, 1.0, 1.0, 1.0)
        intake.close_until(1_000 * (i + 1))


class _Stream:
    """Messages of one kind that wait for the end of their bar."""

    def __init__(self, dtype: np.dtype[Any], marks: NDArray[np.int64]) -> None:
        self.packed = bytearray()  # single messages, records of dtype
        self.seen_ms = -1
        self.blocks: list[Columns] = []
        self.ids = np.empty(2 * REMEMBERED, np.int64)  # those handed on, the last at marks[N_IDS] - 1
        self._dtype = dtype
        self._none = np.empty(0, dtype)
        self._marks = marks  # as v13.market.bar_kernel has them

    @property
    def last_id(self) -> int:
        return int(self._marks[LAST_ID])

    @property
    def n_held(self) -> int:
        return len(self.packed) // self._dtype.itemsize + sum(block[0].size for block in self.blocks)

    def messages(self) -> Records:
        """Return the single messages as they came; while the result lives, none can be added."""
        return np.frombuffer(self.packed, self._dtype) if self.packed else self._none

    def forget_due(self) -> None:
        """Forget the single messages that were handed on, the first ones."""
        del self.packed[: int(self._marks[N_DUE]) * self._dtype.itemsize]

    def add(self, columns: Sequence[NDArray[Any]]) -> None:
        if columns[0].size:
            self._gather()
            self.blocks.append(tuple(columns))
            self.seen_ms = max(self.seen_ms, int(columns[0].max()))

    def take(self, until: int, closed: int, dropped: Counter[tuple[str, str]], stream: str) -> Columns | None:
        """Take out what comes before `until`, in order of time and once; what lies before `closed` is late."""
        self._gather()
        if not self.blocks:
            return None
        if len(self.blocks) > 1:
            columns = tuple(np.concatenate(parts) for parts in zip(*self.blocks, strict=True))
        else:
            columns = self.blocks[0]
        ts = columns[0]
        if (ts[1:] < ts[:-1]).any():
            order = np.argsort(ts, kind="stable")
            columns = tuple(column[order] for column in columns)
            ts = columns[0]
        n_late = int(ts.searchsorted(closed)) if ts[0] < closed else 0
        n_due = int(ts.searchsorted(until)) if ts[-1] >= until else ts.size
        self.blocks = []
        if n_due < ts.size:
            self._keep(tuple(column[n_due:] for column in columns))
        if n_late:
            dropped[stream, "late"] += n_late
        if n_late == n_due:
            return None
        due = columns if n_due - n_late == ts.size else tuple(column[n_late:n_due] for column in columns)
        return self._once(due, dropped, stream)

    def _keep(self, later: Columns) -> None:
        """Hold what is not due yet, packed again where it is little, or every later bar would come the long way too."""
        if later[0].size > MOST_PACKED:
            self.blocks.append(later)
            return
        rows = np.empty(later[0].size, self._dtype)
        for name, column in zip(self._dtype.names or (), later, strict=True):
            rows[name] = column
        self.packed = bytearray(rows.tobytes())

    def _gather(self) -> None:
        """Make a block of the single messages, behind the blocks there are."""
        if self.packed:
            rows = np.frombuffer(self.packed, self._dtype)
            self.blocks.append(tuple(rows[name].copy() for name in self._dtype.names or ()))
            self.packed = bytearray()

    def _once(self, due: Columns, dropped: Counter[tuple[str, str]], stream: str) -> Columns:
        """Leave out messages whose id came before; the first one stays."""
        ids = due[1]
        if not (ids[0] > self.last_id and (ids[1:] > ids[:-1]).all()):
            fresh = np.zeros(ids.size, bool)
            fresh[np.unique(ids, return_index=True)[1]] = True
            old = ids <= self.last_id  # most ids come in order, and then nothing has to be looked up
            n_ids = int(self._marks[N_IDS])
            fresh[old] &= ~np.isin(ids[old], self.ids[max(n_ids - REMEMBERED, 0) : n_ids])
            fresh |= ids == NO_ID
            n_double = ids.size - int(np.count_nonzero(fresh))
            if n_double:
                dropped[stream, "duplicate"] += n_double
                due = tuple(column[fresh] for column in due)
                ids = due[1]
        if ids.size:
            self._remember(ids[-REMEMBERED:])
            self._marks[LAST_ID] = max(self.last_id, int(ids.max()))
        return due

    def _remember(self, ids: NDArray[np.int64]) -> None:
        n = int(self._marks[N_IDS])
        if n + ids.size > self.ids.size:
            self.ids[:REMEMBERED] = self.ids[n - REMEMBERED : n]
            n = REMEMBERED
        self._marks[N_IDS] = n + ids.size
        self.ids[n : n + ids.size] = ids
