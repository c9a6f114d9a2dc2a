"""One symbol in the runner: its bars through the detector, its events, and what became of them.

It computes and remembers; it neither writes the log nor counts. `session` commits what it hands over.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.detector import CalibrationMap, Detector, DetectorParams, SessionClock, prices
from v13.detector.dtypes import OFI_CVD_CONFLICT
from v13.market.intake import Intake
from v13.store.event_schema import Checkpoint, LoggedEvent, Outcome, Pending, SymbolState, event_id

__all__ = ["Active", "Lane", "Settled", "Step"]

Records = NDArray[Any]


@dataclass(frozen=True)
class Active:
    """A configuration of the detector and from when it holds: bars that end after `since_ms` are judged by it."""

    version: int
    since_ms: int
    params: DetectorParams
    calibration: CalibrationMap | None
    rules: tuple[str, ...]
    label: str  # version and hash, as metric and log show it


class Settled(NamedTuple):
    """An outcome, with what its counters ask of the event."""

    outcome: Outcome
    source: int
    side: int


@dataclass
class Step:
    """What some bars of one symbol led to."""

    bars: Records
    events: list[LoggedEvent]
    settled: list[Settled]
    suppressed: dict[str, int]  # by reason, new ones only
    detect_ns: int  # of all bars together


class Lane:
    """One symbol.

    Parameters
    ----------
    symbol : str
    intake : Intake
        The messages of the symbol.
    active : Active
    sessions : SessionClock
    horizons : sequence of int, bars
        Outcomes are labelled so many bars after an event.
    """

    def __init__(
        self, symbol: str, intake: Intake, active: Active, sessions: SessionClock, horizons: Sequence[int]
    ) -> None:
        self.symbol = symbol
        self.intake = intake
        self.active = active
        self.rows = 0  # bars so far, in this log
        self.ts_ms = 0  # end of the last one
        self.checkpoint_rows = 0
        self.checkpoint_due = True
        self._sessions = sessions
        self._gap_row = -1  # the last bar that follows a gap
        self._gap_ms = active.params.features.bar_ms * 3 // 2
        self._due: dict[int, deque[_Due]] = {h: deque() for h in horizons}
        self._detector = Detector(active.params, sessions)
        self._counters, self._counters_mark = self._detector.counters, self._detector.counters_mark()
        self._cold_bars = _cold_bars(active.params)

    @property
    def is_warm(self) -> bool:
        """Whether the detector has seen enough bars to speak."""
        return self._detector.n_bars > self._cold_bars

    def step(self, bars: Records) -> Step:
        """Advance over (n,) BAR, n >= 1, that follow those before."""
        ts = bars["ts_ms"]
        first, last_ms = self.rows, int(ts[-1])
        is_one = bars.size == 1
        started = time.perf_counter_ns()
        found = self._detector.update(bars[0]) if is_one else self._detector.run(bars)
        detect_ns = time.perf_counter_ns() - started
        # Fifty symbols end a bar in the same moment: of one bar nothing is asked of an array that a number tells.
        if is_one:
            gaps = [first] if last_ms - (self.ts_ms or last_ms) > self._gap_ms else []
        else:
            before = np.concatenate(([self.ts_ms or ts[0]], ts[:-1]))
            gaps = (first + np.flatnonzero(ts - before > self._gap_ms)).tolist()
        events = []
        for event in found:
            logged = self._logged(event, first if is_one else first + int(np.searchsorted(ts, event["ts_ms"])))
            self._expect(event_id(self.symbol, event), logged.row, event)
            events.append(logged)
        self.rows += bars.size
        self.ts_ms = last_ms
        px = [self._detector.last_px] if is_one else None
        settled = self._settle(bars, px, first, gaps) if any(self._due.values()) else []
        if gaps:
            self._gap_row = gaps[-1]
        suppressed = {}
        mark = self._detector.counters_mark()
        if mark != self._counters_mark:
            counters = self._detector.counters
            suppressed = {name: n - self._counters[name] for name, n in counters.items() if n != self._counters[name]}
            self._counters, self._counters_mark = counters, mark
        return Step(bars, events, settled, suppressed, detect_ns)

    def swap(self, active: Active, last_bars: Records) -> None:
        """Go on with another configuration.

        Where the parameters differ, the detector is made anew and fed `last_bars`, the (n,) BAR before now: it is warm
        at once, and its cooldowns run on from events it would have given.
        """
        if active.params.fingerprint() != self.active.params.fingerprint():
            self._fresh(active.params, last_bars)
        self.active = active
        self._cold_bars = _cold_bars(active.params)
        self.checkpoint_due = True

    def state(self) -> SymbolState:
        """Return what goes into the log with every step."""
        return SymbolState(self.ts_ms, self.rows, self._gap_row, self.intake.snapshot())

    def checkpoint(self) -> Checkpoint:
        """Return what spares a restart all bars before."""
        self.checkpoint_rows = self.rows
        self.checkpoint_due = False
        return Checkpoint(self.ts_ms, self.rows, self._detector.snapshot(), self.active.version)

    def resume(
        self,
        state: SymbolState,
        checkpoint: Checkpoint | None,
        bars: Records,
        pending: Sequence[Pending],
    ) -> None:
        """Take up where a log ends.

        Parameters
        ----------
        state : SymbolState
        checkpoint : Checkpoint or None
            Of this configuration; None: the detector is fed `bars` from nothing.
        bars : (n,) BAR
            All that follow the checkpoint, or the last ones.
        pending : sequence of Pending
            Events that wait for an outcome, in order of row.

        Raises
        ------
        StoreError, DataError
            The checkpoint or the state is damaged or of another version.
        """
        self.intake.restore(state.intake)
        if checkpoint is None:
            self._fresh(self.active.params, bars)
        else:
            self._detector.restore(checkpoint.detector)
            if bars.size:
                self._detector.run(bars)
            self.checkpoint_rows = checkpoint.rows
            self.checkpoint_due = False
            self._counters, self._counters_mark = self._detector.counters, self._detector.counters_mark()
        self.rows, self.ts_ms, self._gap_row = state.rows, state.ts_ms, state.gap_row
        for item in pending:
            # A horizon configured only now may have passed: the bar that would settle it is gone, so it stays open.
            if item.horizon_bars in self._due and item.row + item.horizon_bars >= self.rows:
                due = _Due(item.event_id, item.row, item.px, item.source, item.side)
                self._due[item.horizon_bars].append(due)

    @property
    def counters(self) -> Mapping[str, int]:
        """Suppressed candidates by reason since the detector was made."""
        return self._counters

    def _fresh(self, params: DetectorParams, bars: Records) -> None:
        self._detector = Detector(params, self._sessions)
        if bars.size:
            self._detector.run(bars)
        self._counters, self._counters_mark = self._detector.counters, self._detector.counters_mark()

    def _logged(self, event: np.void, row: int) -> LoggedEvent:
        bucket = int((event["session"] * 2 + event["liquidity"]) * 3 + event["source"])
        calibrated = {}
        is_hint = event["type"] == OFI_CVD_CONFLICT
        if self.active.calibration is not None and not is_hint:
            score, of = float(event["score"]), self.active.calibration
            for h in of.curves:
                low, high = of.interval(score, h)
                calibrated[h] = (
                    float(of.prob(score, h)),
                    float(low),
                    float(high),
                    float(of.expected_return(score, h)),
                )
        rule = "global" if is_hint else self.active.rules[bucket]
        return LoggedEvent(self.symbol, row, event, rule, self.active.version, calibrated)

    def _expect(self, name: str, row: int, event: np.void) -> None:
        if event["side"] != 0:
            due = _Due(name, row, float(event["px"]), int(event["source"]), int(event["side"]))
            for waiting in self._due.values():
                waiting.append(due)

    def _settle(self, bars: Records, px: Sequence[float] | None, first: int, gaps: list[int]) -> list[Settled]:
        """Label the events whose horizon these bars reach, or whose way to it a gap has cut; px: None if unknown."""
        settled = []
        for horizon, waiting in self._due.items():
            while waiting:
                due = waiting[0]
                cut = None
                if gaps or self._gap_row > due.row:
                    cut = next((g for g in (self._gap_row, *gaps) if due.row < g <= due.row + horizon), None)
                at = due.row + horizon if cut is None else max(cut, first)
                if at >= self.rows:
                    break
                if px is None:
                    px = prices(self.active.params.features, bars).tolist()
                waiting.popleft()
                ts_ms = int(bars["ts_ms"][at - first])
                ret = None if cut is not None else _log_return(due.px, px[at - first])
                hit = None if ret is None or ret == 0 else int((ret > 0) == (due.side > 0))
                settled.append(Settled(Outcome(due.name, horizon, ts_ms, ret, hit), due.source, due.side))
        return settled


class _Due(NamedTuple):
    name: str
    row: int
    px: float
    source: int
    side: int


def _cold_bars(params: DetectorParams) -> int:
    return params.features.window + 2 * max(p.swing_L for p in params.bucket_params())


def _log_return(before: float, after: float) -> float | None:
    ret = float(np.log(after / before))
    return None if math.isnan(ret) else ret
