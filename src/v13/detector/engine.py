"""The public detector: checks input at the door, owns the state, feeds the kernel.

`run` (many bars) and `update` (one bar) go through the same compiled recursion and may be mixed at will; any cutting
of the input gives the same bytes. `snapshot` and `restore` carry the whole state, so a restart changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from v13.detector import kernel
from v13.detector.dtypes import BAR, EVENT, FEATURE, OFI_CVD_CONFLICT, REASONS
from v13.detector.params import DetectorParams, FeatureParams
from v13.detector.sessions import SessionClock
from v13.errors import DataError, StoreError

__all__ = ["Detector", "compute_features", "divergences", "prices", "replay"]

CHUNK_BARS: Final = 262_144  # bounds the memory of feature rows in `run`
SNAPSHOT_VERSION: Final = 2  # 1 was an .npz: 1 ms to make, while fifty symbols wait
_STATE_ARRAYS: Final = ("_feature_state", "_windows", "_meta", "_state", "_pivots", "_ring", "_ring_px", "_counters")

Records = NDArray[np.void]

_TS_MS, _CLOSE, _MID, _VOLUME = map((BAR.names or ()).index, ("ts_ms", "close", "mid", "volume"))
_NO_EVENTS: Final = np.zeros(0, EVENT)
_NO_EVENTS.flags.writeable = False


class Detector:
    """Find divergences between price and order flow of one symbol, bar by bar.

    Parameters
    ----------
    params : DetectorParams
        Fixed for the life of the detector.
    sessions : SessionClock, optional
        Decides day and night; default UTC 09:00-17:00.

    Notes
    -----
    Definitions: docs/DETECTOR.md. One detector serves one symbol; it is not thread-safe.
    """

    def __init__(self, params: DetectorParams, sessions: SessionClock | None = None) -> None:
        self.params = params
        self.sessions = sessions or SessionClock()
        self._fingerprint = params.fingerprint()
        self._bar_ms = params.features.bar_ms
        self._feature_params = params.features.record()
        self._params = params.record()
        self._trackers = np.unique(self._params["swing_L"])
        self._one_row = np.zeros(1, FEATURE)
        self._one_px = self._one_row["px"]
        self._one_bar = np.zeros(1, BAR)
        self._one_session = np.zeros(1, np.int64)
        self._two_events = np.zeros(2, EVENT)
        self._cands = np.zeros(3 * self._trackers.size, EVENT)
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far."""
        self._feature_state = _fresh_feature_state()
        self._windows = np.zeros((kernel.N_WINDOWS, 2, self.params.features.window))
        self._meta = np.zeros((kernel.N_WINDOWS, 2), np.int64)
        self._state = _fresh_decision_state()
        self._pivots = np.zeros((self._trackers.size, 2), kernel.PIVOT)
        self._pivots["bar"] = -1
        size = 2 * int(self._trackers.max()) + 1
        self._ring = np.zeros(size, kernel.PIVOT)
        self._ring_px = np.zeros(2 * size)
        self._counters = np.zeros(len(REASONS), np.int64)
        self._watch_state()

    @property
    def n_bars(self) -> int:
        """Bars taken since `reset`."""
        return int(self._n_bars.item())

    @property
    def counters(self) -> dict[str, int]:
        """Suppressed candidates by reason, and how often a scale was zero or fusion spoke with one voice."""
        counts: dict[str, int] = dict(zip(REASONS, self._counters.tolist(), strict=True))
        counts["zero_scale"] = self._n_zero_scale.item()
        counts["fusion_fallback"] = self._n_fusion_fallback.item()
        return counts

    @property
    def last_px(self) -> float:
        """What `prices` gives for the bar `update` took last, without its arrays."""
        return float(self._one_px.item())

    def counters_mark(self) -> bytes:
        """Return what differs whenever `counters` does, at a tenth of its cost."""
        return self._counters.tobytes() + self._n_zero_scale.tobytes() + self._n_fusion_fallback.tobytes()

    def run(self, bars: Records) -> Records:
        """Advance over a chunk of bars and return its events.

        Parameters
        ----------
        bars : (n,) BAR
            Ascending in `ts_ms`, continuing where the last call ended. n may be 0.

        Returns
        -------
        (k,) EVENT, ascending in `ts_ms`
            Divergences and conflict hints; see `divergences`.

        Raises
        ------
        DataError
            Wrong dtype, time not ascending, or a non-positive price. The state is untouched then.
        """
        self._check(bars)
        if bars.size == 0:
            return np.zeros(0, EVENT)
        found = []
        for first in range(0, bars.size, CHUNK_BARS):
            chunk = bars[first : first + CHUNK_BARS]
            rows = np.zeros(chunk.size, FEATURE)
            flags = self.sessions.flags(chunk["ts_ms"] - self._bar_ms)
            kernel.advance_features(
                self._feature_params, self._feature_state, self._windows, self._meta, chunk, flags, rows
            )
            found.append(self._decide(rows))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def run_features(self, rows: Records) -> Records:
        """Advance the decision stage alone over (n,) FEATURE rows made by `compute_features` with the same params.

        A detector is driven either by bars or by feature rows for its whole life, not by both.
        """
        return self._decide(rows)

    def update(self, bar: np.void) -> Records:
        """Advance by one bar (a BAR record) and return its events: (0 to 2,) EVENT, not to be written to.

        Raises
        ------
        DataError
            As `run`.
        """
        one = self._one_bar
        one[0] = bar
        values = one.item()  # a field of an array at a time would take longer than the kernel
        ts_ms: int = values[_TS_MS]
        if ts_ms <= self._prev_ts_ms.item() and self._n_bars.item() > 0:
            self._check(one)
        if values[_CLOSE] <= 0 or values[_MID] <= 0 or not abs(values[_VOLUME]) < math.inf:
            self._check(one)
        self._one_session[0] = self.sessions.flag(ts_ms - self._bar_ms)
        n = kernel.advance(
            self._feature_params,
            self._feature_state,
            self._windows,
            self._meta,
            self._params,
            self._trackers,
            self._state,
            self._pivots,
            self._ring,
            self._ring_px,
            self._counters,
            self._cands,
            one,
            self._one_session,
            self._one_row,
            self._two_events,
        )
        # A copy of records goes field by field: it would take longer than all the above, and even nothing 6 us.
        return np.frombuffer(self._two_events[:n].tobytes(), EVENT) if n else _NO_EVENTS

    def snapshot(self) -> bytes:
        """Return the whole state; equal states give equal bytes."""
        content = b"".join([getattr(self, name).tobytes() for name in _STATE_ARRAYS])
        return json.dumps(self._header(content)).encode() + b"\n" + content

    def restore(self, data: bytes) -> None:
        """Take up the state of a `snapshot` made with the same parameters.

        Raises
        ------
        StoreError
            The bytes are damaged, of another version, or of other parameters. The state is untouched then.
        """
        head, _, content = data.partition(b"\n")
        try:
            header = json.loads(head)
        except ValueError as error:
            raise StoreError(f"snapshot: damaged or of another version ({error}); start the detector fresh") from error
        expected = self._header(content)
        if not isinstance(header, dict) or {**header, "crc32": 0} != {**expected, "crc32": 0}:
            raise StoreError("snapshot: made by another version or with other parameters; start the detector fresh")
        own: list[NDArray[Any]] = [getattr(self, name) for name in _STATE_ARRAYS]
        if header != expected or len(content) != sum(array.nbytes for array in own):
            raise StoreError("snapshot: damaged (its checksum or length is another); start the detector fresh")
        at = 0
        for name, array in zip(_STATE_ARRAYS, own, strict=True):
            stored = np.frombuffer(content, array.dtype, array.size, at)
            setattr(self, name, stored.reshape(array.shape).copy())
            at += array.nbytes
        self._watch_state()

    def _header(self, content: bytes) -> dict[str, Any]:
        return {"version": SNAPSHOT_VERSION, "params": self._fingerprint, "crc32": crc32(content)}

    def _watch_state(self) -> None:
        """Take views of what is asked at every bar: a field of a record array is a new array each time."""
        self._n_bars, self._prev_ts_ms = self._state["n_bars"], self._state["prev_ts_ms"]
        self._n_zero_scale = self._feature_state["n_zero_scale"]
        self._n_fusion_fallback = self._feature_state["n_fusion_fallback"]

    def _decide(self, rows: Records) -> Records:
        """Run the decision stage over `rows`, emptying the output buffer as often as it fills."""
        found = []
        out = np.zeros(max(64, rows.size // 64), EVENT)
        start = 0
        while start < rows.size:
            start, n = kernel.advance_decisions(
                self._params,
                self._bar_ms,
                self._trackers,
                self._state,
                self._pivots,
                self._ring,
                self._ring_px,
                self._counters,
                self._cands,
                rows,
                start,
                out,
                0,
            )
            found.append(out[:n].copy())
        return np.concatenate(found) if found else np.zeros(0, EVENT)

    def _check(self, bars: Records) -> None:
        last = int(self._state["prev_ts_ms"][0]) if self.n_bars else None
        check_bars(bars, last)
        check_spacing(bars, self._bar_ms)


def check_bars(bars: Records, last_ts_ms: int | None = None) -> None:
    """Refuse bars the kernel could not trust.

    Raises
    ------
    DataError
        Wrong dtype, time not ascending, a non-positive or infinite price, an infinite flow, or a volume of NaN.
    """
    if bars.dtype != BAR or bars.ndim != 1:
        raise DataError(f"bars: expected a one-dimensional BAR array, found {bars.dtype} with shape {bars.shape}")
    if bars.size == 0:
        return
    ts = bars["ts_ms"]
    if last_ts_ms is not None and ts[0] <= last_ts_ms:
        raise DataError(f"bars: row 0: ts_ms {ts[0]} does not follow {last_ts_ms}; was this chunk fed before?")
    back = np.flatnonzero(np.diff(ts) <= 0)
    if back.size:
        i = int(back[0]) + 1
        raise DataError(f"bars: row {i}: ts_ms {ts[i]} does not follow {ts[i - 1]}; sort the bars and drop duplicates")
    for name in ("close", "mid"):
        bad = np.flatnonzero((bars[name] <= 0) | np.isinf(bars[name]))
        if bad.size:
            raise DataError(f"bars: row {bad[0]}: {name} is {bars[name][bad[0]]}; a price must be positive and finite")
    for name in ("delta", "ofi", "volume"):
        bad = np.flatnonzero(np.isinf(bars[name]))
        if bad.size:
            raise DataError(f"bars: row {bad[0]}: {name} is infinite")
    bad = np.flatnonzero(np.isnan(bars["volume"]))
    if bad.size:
        raise DataError(f"bars: row {bad[0]}: volume is not a number; a bar without trades has volume 0")


def check_spacing(bars: Records, bar_ms: int) -> None:
    """Refuse bars of another length than the parameters': every one of them would be a gap, or none.

    Raises
    ------
    DataError
        Bars lie closer than `bar_ms`, or 20 and more of them all lie further apart.
    """
    steps = np.diff(bars["ts_ms"])
    if steps.size and (steps.min() < bar_ms or (steps.size >= 20 and steps.min() >= 2 * bar_ms)):
        raise DataError(
            f"bars: {steps.min()} ms apart, the parameters' bar_ms is {bar_ms}; set FeatureParams(bar_ms=...)"
        )


def compute_features(params: DetectorParams, bars: Records, sessions: SessionClock | None = None) -> Records:
    """Return the (n,) FEATURE rows of (n,) BAR from a fresh start; shared by all settings of a search.

    Raises
    ------
    DataError
        As `Detector.run`.
    """
    rows = np.zeros(bars.size, FEATURE)
    for _ in advance_in_chunks(params, bars, sessions, rows, max(bars.size, 1)):
        pass
    return rows


def advance_in_chunks(
    params: DetectorParams, bars: Records, sessions: SessionClock | None, rows: Records, size: int
) -> Iterator[tuple[int, Records]]:
    """Yield the features of (n,) BAR from a fresh start, `size` bars at a time, as (first bar, FEATURE rows).

    The rows are the first of the (m >= min(n, size),) FEATURE `rows`, which the next chunk overwrites.

    Raises
    ------
    DataError
        As `Detector.run`.
    """
    check_bars(bars)
    check_spacing(bars, params.features.bar_ms)
    state, windows = _fresh_feature_state(), np.zeros((kernel.N_WINDOWS, 2, params.features.window))
    meta, of_features = np.zeros((kernel.N_WINDOWS, 2), np.int64), params.features.record()
    for first in range(0, bars.size, size):
        chunk = bars[first : first + size]
        flags = (sessions or SessionClock()).flags(chunk["ts_ms"] - params.features.bar_ms)
        out = rows[: chunk.size]
        kernel.advance_features(of_features, state, windows, meta, chunk, flags, out)
        yield first, out


def prices(params: FeatureParams, bars: Records) -> NDArray[np.float64]:
    """Return the price of each bar that pivots and labels use, `px` of FEATURE: (n,) float64 of (n,) BAR."""
    mid, close, lag = bars["mid"], bars["close"], bars["lag_quote_ms"]
    fresh = np.isfinite(mid) & (lag >= 0) & (lag <= params.max_lag_ms)
    px: NDArray[np.float64] = np.where(fresh | ~np.isfinite(close), mid, close)
    return np.where(np.isfinite(px), px, np.nan)


def replay(cands: Records, params: DetectorParams) -> Records:
    """Return the divergences a detector with `params` (one `swing_L`, that of `cands`) finds, from its candidates."""
    out = np.zeros(cands.size, EVENT)
    counters = np.zeros(len(REASONS), np.int64)
    n = kernel.replay_candidates(cands, params.record(), _fresh_decision_state(), counters, out)
    return out[:n].copy()


def divergences(events: Records) -> Records:
    """Return the events that have a side: all but conflict hints."""
    kept: Records = events[events["type"] != OFI_CVD_CONFLICT]
    return kept


def _fresh_feature_state() -> Records:
    state = np.zeros(1, kernel.FEATURE_STATE)
    state["ema_ofi"] = state["ema_cvd"] = state["ema_activity"] = np.nan
    return state


def _fresh_decision_state() -> Records:
    state = np.zeros(1, kernel.DECISION_STATE)
    state["last_bull_ms"] = state["last_bear_ms"] = state["last_conflict_ms"] = kernel.NEVER_MS
    return state
