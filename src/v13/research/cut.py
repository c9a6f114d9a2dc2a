"""The cut of a record in time: search | purge gap | holdout.

The search is handed `search_bars`, acceptance `holdout_bars`; neither function ever holds the other's rows, so a leak
would need a new argument. The gap is as long as anything the detector or a label can reach across it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError

__all__ = ["Cut", "Records", "make_cut"]

Records = NDArray[np.void]


@dataclass(frozen=True)
class Cut:
    """Boundaries, UTC epoch ms; a bar belongs to a part by its close time.

    search: ts <= search_end_ms; purge: up to holdout_start_ms; holdout: ts > holdout_start_ms.
    """

    start_ms: int
    search_end_ms: int
    holdout_start_ms: int
    end_ms: int
    purge_bars: int
    bar_ms: int

    @property
    def holdout_exists(self) -> bool:
        """Whether any time is left behind the purge gap."""
        return self.holdout_start_ms < self.end_ms

    def search_bars(self, bars: Records) -> Records:
        """Return the rows the search may see."""
        return bars[: int(np.searchsorted(bars["ts_ms"], self.search_end_ms, side="right"))]

    def holdout_bars(self, bars: Records) -> Records:
        """Return purge gap and holdout: the gap warms the detector up, its events do not count."""
        return bars[int(np.searchsorted(bars["ts_ms"], self.search_end_ms, side="right")) :]

    def hours(self, bars: Records, *, holdout: bool) -> float:
        """Return the recorded hours (bars with a price; gaps left out) of the search part or of the holdout proper."""
        ts = bars["ts_ms"][np.isfinite(bars["mid"]) | np.isfinite(bars["close"])]
        n = np.count_nonzero(ts > self.holdout_start_ms) if holdout else np.count_nonzero(ts <= self.search_end_ms)
        return int(n) * self.bar_ms / 3_600_000

    def seal(self, bars: Mapping[str, Records]) -> str:
        """Return the sha256 of everything behind the search part, all symbols: written down before the search."""
        digest = hashlib.sha256()
        for symbol in sorted(bars):
            digest.update(symbol.encode())
            digest.update(self.holdout_bars(bars[symbol]).tobytes())
        return digest.hexdigest()


def make_cut(bars: Mapping[str, Records], bar_ms: int, search_share: float, purge_bars: int) -> Cut:
    """Cut the common record of all symbols at `search_share` of its time.

    Parameters
    ----------
    bars : symbol -> (n,) BAR
    bar_ms : int, > 0
    search_share : float, in (0, 1)
    purge_bars : int, >= 0
        At least swing_L + longest horizon + feature memory, or features of the holdout would remember the search.

    Raises
    ------
    DataError
        There is no bar at all.
    """
    filled = [b for b in bars.values() if b.size]
    if not filled:
        raise DataError("no bars: the recordings hold no complete bar")
    start = min(int(b["ts_ms"][0]) for b in filled) - bar_ms
    end = max(int(b["ts_ms"][-1]) for b in filled)
    n_search = int((end - start) * search_share) // bar_ms
    search_end = start + n_search * bar_ms
    return Cut(start, search_end, min(search_end + purge_bars * bar_ms, end), end, purge_bars, bar_ms)
