"""The one seam for time: everything live asks a Clock, so that a test can be the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Clock", "SystemClock"]

LOOK_NS: Final = 5_000_000  # between looks at the wall clock; one costs more than all else that a message's time does
STEP_MS: Final = 1_000  # the wall clock may drift from the monotonic one by less than this without a word


class Clock(Protocol):
    """What live code may know of time."""

    def wall_ms(self) -> int:
        """Return UTC epoch milliseconds; never less than before."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some moment; never less than before."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when that many seconds have passed on this clock."""
        ...


class SystemClock:
    """The machine's clocks: the wall clock looked at every few milliseconds, carried on by the monotonic one.

    A wall clock that is set forwards is followed at once. One that is set backwards is met: time here goes on at half
    speed until both agree. `on_step` is told of each such jump, with its milliseconds.
    """

    def __init__(
        self,
        on_step: Callable[[int], None] = lambda _: None,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._on_step = on_step
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._ahead_ns = wall_ns() - monotonic_ns()  # of the wall clock before the monotonic one, as followed
        self._seen_ns = self._ahead_ns  # the same as last read
        self._read_ns = monotonic_ns()
        self._shown_ms = 0

    def wall_ms(self) -> int:
        now = self._monotonic_ns()
        if now - self._read_ns >= LOOK_NS:
            self._look(now)
        ms = (now + self._ahead_ns) // 1_000_000
        if ms > self._shown_ms:
            self._shown_ms = ms
        return self._shown_ms

    def monotonic_ns(self) -> int:
        return self._monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _look(self, now: int) -> None:
        ahead = self._wall_ns() - now
        if abs(ahead - self._seen_ns) >= STEP_MS * 1_000_000:
            self._on_step((ahead - self._seen_ns) // 1_000_000)
        self._seen_ns = ahead
        self._ahead_ns = max(self._ahead_ns - (now - self._read_ns) // 2, ahead)
        self._read_ns = now
