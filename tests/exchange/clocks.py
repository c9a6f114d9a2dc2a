"""A clock for tests of waits: it stands still until somebody sleeps, and a sleeper is awake at once."""

from __future__ import annotations

import asyncio


class SteppingClock:
    """Every sleep ends at once and moves the clock by its length; but those of `limits_s` never end.

    Those are the time limits of what a test really waits for. `slept` lists the others.
    """

    def __init__(self, limits_s: tuple[float, ...] = (), start_ms: int = 1_700_000_000_000) -> None:
        self.now_ns = 0
        self.slept: list[float] = []
        self._limits_s = limits_s
        self._start_ms = start_ms

    def wall_ms(self) -> int:
        return self._start_ms + self.now_ns // 1_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        if seconds in self._limits_s:
            await asyncio.get_running_loop().create_future()
        self.slept.append(seconds)
        self.now_ns += round(seconds * 1e9)
        await asyncio.sleep(0)
