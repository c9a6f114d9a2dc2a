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

    What is dropped is the oldest of its kind, so it is enough to know how many: they lie where they were until their
    turn comes, and are left out then, or until they are an eighth of all. Back-filled trades overtake: they belong
    before what waits.

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
        self._frames: deque[tuple[Stream, bytes, int, int]] = deque()
        self._n_quotes = 0  # of them, those dropped left out
        self._gone: dict[Stream, int] = dict.fromkeys(_STREAMS, 0)  # dropped, and in `_frames` still
        self._n_gone = 0
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
        self._frames.append((stream, raw, recv_ms, recv_ns))
        if stream == "quote":
            self._n_quotes += 1
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
        pop = self._frames.popleft
        while n and self._n_gone and self._frames:
            frame = pop()
            if self._gone[frame[0]]:
                self._gone[frame[0]] -= 1
                self._n_gone -= 1
            else:
                taken.append(frame)
                self._size -= 1
                self._n_quotes -= frame[0] == "quote"
                n -= 1
        frames = [pop() for _ in range(min(n, len(self._frames)))]
        self._size -= len(frames)
        self._n_quotes -= [frame[0] for frame in frames].count("quote")
        taken += frames
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
        stream: Stream = "quote" if self._n_quotes else "trade"
        if stream == "quote":
            self._n_quotes -= 1
        self._gone[stream] += 1
        self._n_gone += 1
        self._size -= 1
        self._count(stream, 1)
        if self._n_gone > self.limit // 8:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of what was dropped: the first ones of each kind."""
        kept: deque[tuple[Stream, bytes, int, int]] = deque()
        for entry in self._frames:
            if self._gone[entry[0]]:
                self._gone[entry[0]] -= 1
            else:
                kept.append(entry)
        self._frames, self._n_gone = kept, 0

    def _count(self, stream: Stream, n: int) -> None:
        self.dropped[stream] += n
        if self._counters:
            self._counters[stream].inc(n)
