"""Which bars an event log keeps: their close times by symbol, so that a checkpoint removes bars without a search.

Bars lie in the file in the order of time, and not by symbol: the 50 bars of a second are then two pages to write
instead of 50. For the same reason bars are removed in the order of time, and some may wait until those of the other
symbols are surplus too. It must not read a bar itself.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise

__all__ = ["KeptBars"]


class KeptBars:
    """Close times (UTC epoch ms) of the bars in the log behind `db`, ascending, by symbol."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._times: dict[str, list[int]] = {}
        self._surplus: list[tuple[int, str]] = []  # a heap of bars that nobody needs, not removed yet
        for symbol, ts_ms in db.execute("SELECT symbol, ts_ms FROM bar ORDER BY ts_ms"):
            self._times.setdefault(symbol, []).append(ts_ms)

    def add(self, symbol: str, times: Sequence[int]) -> None:
        """Take note of bars that were entered, or were there already."""
        own = self._times.setdefault(symbol, [])
        is_later = not own or not times or times[0] > own[-1]
        own.extend(times)
        if not (is_later and all(a < b for a, b in pairwise(times))):
            own[:] = sorted(set(own))

    def add_one(self, symbol: str, ts_ms: int) -> None:
        """Take note of one bar, as `add` does; most follow those there are."""
        own = self._times.get(symbol)
        if own and ts_ms > own[-1]:
            own.append(ts_ms)
        else:
            self.add(symbol, [ts_ms])

    def take_surplus(self, symbol: str, ts_ms: int, keep: int, n_may_wait: int = 0) -> list[tuple[int, str]]:
        """Forget all but the last `keep` bars up to and with `ts_ms`, and those after it; return bars to remove.

        These are the oldest of all that were ever forgotten, (ts_ms, symbol), but for `n_may_wait` of them.
        """
        own = self._times.get(symbol, [])
        n = max(0, bisect_right(own, ts_ms) - keep)
        for forgotten_ms in own[:n]:
            heappush(self._surplus, (forgotten_ms, symbol))
        del own[:n]
        return [heappop(self._surplus) for _ in range(len(self._surplus) - n_may_wait)]
