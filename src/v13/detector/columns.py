"""The features of one symbol by column, as a search reads them: it looks at few of them, and at most bars at one alone.

They say what FEATURE rows say, bit for bit, and add only where the runs free of gaps lie. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.detector import kernel
from v13.detector.dtypes import FEATURE
from v13.detector.engine import advance_in_chunks
from v13.detector.params import DetectorParams
from v13.detector.sessions import SessionClock

__all__ = ["FeatureColumns", "compute_columns"]

CHUNK_BARS: Final = 8_192  # feature rows that stay in the cache between the two who write and read them

Records = NDArray[np.void]
F8 = NDArray[np.float64]
I8 = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureColumns:
    """The features of n bars.

    ts_ms (n,) int64; px, vol_ok (n,) float64; readings (n, 4) float64: z_ofi, z_cvd, fusion, consistency; flags (n,)
    uint8 as `kernel.lay_out` leaves them; runs (r + 1,) int64: the gap-free runs are the bars runs[i] to runs[i + 1];
    has_all_prices: whether no px is NaN.
    """

    ts_ms: I8
    px: F8
    readings: F8
    vol_ok: F8
    flags: NDArray[np.uint8]
    runs: I8
    has_all_prices: bool

    @classmethod
    def of(cls, rows: Records, bar_ms: int) -> FeatureColumns:
        """Return (n,) FEATURE rows of bars of `bar_ms` by column."""
        columns = _empty(rows.size)
        n_without = kernel.lay_out(rows, 0, *columns)
        return cls(*columns, _runs(columns[0], bar_ms), n_without == 0)

    def __len__(self) -> int:
        return len(self.ts_ms)

    def segments(self) -> NDArray[np.int32]:
        """Return the number of each bar's gap-free run: (n,) int32, as `measures.segments`."""
        return np.repeat(np.arange(len(self.runs) - 1, dtype=np.int32), np.diff(self.runs))

    def rows(self, at: NDArray[np.int64]) -> Records:
        """Return the FEATURE rows of some bars, in the shape of `at`."""
        out = np.zeros(at.shape, FEATURE)
        out["ts_ms"], out["px"], out["vol_ok"] = self.ts_ms[at], self.px[at], self.vol_ok[at]
        readings, flags = self.readings[at], self.flags[at]
        for k, name in enumerate(("z_ofi", "z_cvd", "fusion", "consistency")):
            out[name] = readings[..., k]
        for shift, mask, name in ((0, 1, "fallback"), (1, 1, "session"), (2, 1, "liquidity")):
            out[name] = flags >> shift & mask
        out["status_ofi"], out["status_cvd"] = flags >> 3 & 3, flags >> 5 & 3
        return out


def compute_columns(params: DetectorParams, bars: Records, sessions: SessionClock | None = None) -> FeatureColumns:
    """Return the features of (n,) BAR from a fresh start, by column: `compute_features` without the rows in between.

    Raises
    ------
    DataError
        As `Detector.run`.
    """
    columns = _empty(bars.size)
    rows = np.zeros(min(CHUNK_BARS, bars.size), FEATURE)
    n_without = 0
    for first, chunk in advance_in_chunks(params, bars, sessions, rows, CHUNK_BARS):
        n_without += kernel.lay_out(chunk, first, *columns)
    return FeatureColumns(*columns, _runs(columns[0], params.features.bar_ms), n_without == 0)


def _empty(n: int) -> tuple[I8, F8, F8, F8, NDArray[np.uint8]]:
    return np.empty(n, np.int64), np.empty(n), np.empty((n, 4)), np.empty(n), np.empty(n, np.uint8)


def _runs(ts_ms: I8, bar_ms: int) -> I8:
    gaps = np.flatnonzero(np.diff(ts_ms) > bar_ms + bar_ms // 2) + 1
    return np.concatenate([[0], gaps, [ts_ms.size]]).astype(np.int64)
