"""The inbox: messages that were received and not worked on yet, bounded; it sheds quotes before trades, oldest first.

It decodes nothing. Whoever puts never waits: where the limit is reached, something is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from v13.errors import ConfigError
from v13.market.wire import Stream, Trade, stream_of
from v13.telemetry import Handle, Metrics

__all__ = ["Arrival", "Inbox"]

# What came, its content, and when: epoch ms and monotonic ns of our own clocks. The content is the frame's bytes, or
# for "rows" the symbol and its back-filled trades.
Arrival: TypeAlias = tuple[Stream, bytes, int, int] | tuple[Literal["rows"], tuple[str, Sequence[Trade]], int, int]

_STREAMS: Final[tuple[Stream, Stream]] = ("trade", "quote")


class Inbox:
    """Messages in order of arrival, at most `limit` of them.

    Trades and quotes lie in two queues, so that the oldest of either can be dropped at once. The order across them is
    kept as lengths of runs, of trades and quotes in turn. Back-filled trades overtake: they belong before what waits.

    Parameters
    ----------
    limit : int, >= 1
        Messages held, where every back-filled trade counts as one. Above it the oldest quotes go first, then the oldest
        trades; back-filled trades are refused instead.
    metrics : Metrics or None
        Where drops (`divergence_dropped_total`, reason `overload`) and size (`divergence_queue_size`) are told;
        `dropped` counts them in any case.

    Raises
    ------
    ConfigError
        `limit` is below 1.
    """

    def __init__(self, limit: int, metrics: Metrics | None = None) -> None:
        if limit < 1:
            raise ConfigError(f"the inbox must hold at least one message; found the limit {limit}")
        self.limit = limit
        self.dropped: dict[Stream, int] = dict.fromkeys(_STREAMS, 0)
        self._queues: dict[Stream, deque[tuple[Stream, bytes, int, int]]] = {stream: deque() for stream in _STREAMS}
        self._runs: deque[int] = deque()
        self._first: Stream = "trade"  # what the first run holds; the next run holds the other
        self._last: Stream = "trade"  # what the last run holds
        self._rows: deque[tuple[Literal["rows"], tuple[str, Sequence[Trade]], int, int]] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._counters: dict[Stream, Handle] = {}
        if metrics is not None:
            for stream in _STREAMS:
                self._counters[stream] = metrics.bind("divergence_dropped_total", stream=stream, reason="overload")
            metrics.bind("divergence_queue_size").set_function(lambda: self._size)

    @property
    def size(self) -> int:
        """Messages waiting, every back-filled trade counted as one."""
        return self._size

    def put(self, raw: bytes, recv_ms: int, recv_ns: int, stream: Stream | None = None) -> bool:
        """Add a frame; drop the oldest quote, or trade where no quote waits, if the limit is passed.

        Parameters
        ----------
        raw : bytes
            A combined-stream frame.
        recv_ms, recv_ns : int
            When it was received: epoch milliseconds, and nanoseconds of a clock that never steps.
        stream : {"trade", "quote"} or None
            What it carries, where the caller knows; else its first bytes tell.

        Returns
        -------
        bool
            False where the frame carries neither and was not taken: the caller accounts for it.
        """
        if stream is None:
            stream = stream_of(raw)
            if stream is None:
                return False
        self._queues[stream].append((stream, raw, recv_ms, recv_ns))
        if self._runs and stream == self._last:
            self._runs[-1] += 1
        else:
            if not self._runs:
                self._first = stream
            self._runs.append(1)
            self._last = stream
        self._size += 1
        if self._size > self.limit:
            self._shed()
        if self._waiter is not None:
            self._wake()
        return True

    def put_rows(self, symbol: str, rows: Sequence[Trade], recv_ms: int, recv_ns: int) -> bool:
        """Add back-filled trades of one symbol; they come out before all frames that wait.

        Parameters
        ----------
        symbol : str
        rows : sequence of (symbol, ts_ms, trade_id, px, qty, sign)
            As `v13.market.wire.decode_trade` gives them.
        recv_ms, recv_ns : int
            When the last of them was received, as in `put`.

        Returns
        -------
        bool
            False where they do not fit and were counted as dropped: live messages are not shed for old ones.
        """
        if not rows:
            return True
        if self._size + len(rows) > self.limit:
            self._count("trade", len(rows))
            return False
        self._rows.append(("rows", (symbol, rows), recv_ms, recv_ns))
        self._size += len(rows)
        if self._waiter is not None:
            self._wake()
        return True

    def take(self, n: int) -> list[Arrival]:
        """Take at most `n` entries, in order of arrival; back-filled trades first, a batch of them being one entry.

        Parameters
        ----------
        n : int, >= 1

        Returns
        -------
        list of (stream, content, recv_ms, recv_ns)
            `stream` is `trade` or `quote` with the frame's bytes, or `rows` with `(symbol, rows)`. Empty where none
            waits.
        """
        taken: list[Arrival] = []
        while self._rows and n:
            entry = self._rows.popleft()
            self._size -= len(entry[1][1])
            taken.append(entry)
            n -= 1
        while n and self._runs:
            queue = self._queues[self._first]
            k = min(n, self._runs[0])
            taken.extend([queue.popleft() for _ in range(k)])
            n -= k
            self._size -= k
            self._shorten_first_run(k)
        return taken

    def pour_into(self, other: Inbox) -> None:
        """Put all frames that wait here, in order and with their times, into another inbox; it counts our drops."""
        for stream, n in self.dropped.items():
            if n:
                other._count(stream, n)
        for entry in self.take(self._size):
            if entry[0] != "rows":
                other.put(entry[1], entry[2], entry[3], entry[0])

    async def wait(self) -> None:
        """Return as soon as something waits. One waiter at a time."""
        if self._size:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _shed(self) -> None:
        stream: Stream = "quote" if self._queues["quote"] else "trade"
        self._queues[stream].popleft()
        self._size -= 1
        self._count(stream, 1)
        if self._first == stream:
            self._shorten_first_run(1)
        else:
            self._shorten_second_run()

    def _shorten_first_run(self, k: int) -> None:
        self._runs[0] -= k
        if not self._runs[0]:
            self._runs.popleft()
            self._first = _other(self._first)

    def _shorten_second_run(self) -> None:
        self._runs[1] -= 1
        if self._runs[1]:
            return
        before = self._runs.popleft()
        self._runs.popleft()
        if self._runs:  # what came before and after the emptied run is now one
            self._runs[0] += before
        else:
            self._runs.append(before)
            self._last = self._first

    def _count(self, stream: Stream, n: int) -> None:
        self.dropped[stream] += n
        if self._counters:
            self._counters[stream].inc(n)


def _other(stream: Stream) -> Stream:
    return "quote" if stream == "trade" else "trade"
