"""The session: closed bars of all symbols in; events committed, counted and labelled.

The one place where a live bar meets the detector. It knows no feed, and does its work in the caller's thread. What a
commit refuses is kept and tried again: nothing is counted before it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from v13.detector import CalibrationMap, DetectorParams, SessionClock
from v13.detector.dtypes import BAR
from v13.errors import ConfigError, DataError, StoreError
from v13.live.clock import Clock
from v13.live.lane import Active, Lane, Step
from v13.live.session_metrics import SessionMetrics
from v13.market.intake import Intake
from v13.store.event_log import EventLog
from v13.store.event_schema import ActiveConfig, Batch, Checkpoint, Pending, SymbolState, event_id
from v13.telemetry import Metrics

__all__ = ["KEPT_TIMES", "Session", "keep_bars"]

KEPT_TIMES: Final = 2  # what a detector remembers, in the log: a reload to a longer memory finds most of its bars there

Records = NDArray[Any]


def keep_bars(params: DetectorParams) -> int:
    """Return how many bars a detector must see before what lies further back is forgotten.

    That is so to within 1e-9 in a feature (`FeatureParams.memory_bars`), and of a cooldown that is still running. Where
    candidates follow each other closer than the cooldown all the time, which of them opened it depends on all bars.
    """
    buckets = params.bucket_params()
    swing = max(p.swing_L for p in buckets)
    cooldown = -(-max(p.cooldown_ms for p in buckets) // params.features.bar_ms)
    return params.features.memory_bars + 20 * (2 * swing + 1) + cooldown  # pairs reach back over some swings


class Session:
    """All symbols of one runner.

    Parameters
    ----------
    intakes : mapping of symbol to Intake
    params : DetectorParams
    calibration : CalibrationMap or None
    document : mapping
        What else is to be known of this configuration: hashes and sign-off; plain JSON values.
    log : EventLog
    metrics : Metrics
    clock : Clock
    sessions : SessionClock
    horizons : sequence of int, bars
    checkpoint_bars : int
        Bars of a symbol between two checkpoints, at most.

    Raises
    ------
    StoreError
        The log is of bars of another length.

    Notes
    -----
    Made over a log that is not empty, it goes on where that ends: detectors, open outcomes and counters are taken up. A
    damaged checkpoint is told in `notes` and its detector fed the last bars of the log instead.
    """

    def __init__(
        self,
        intakes: Mapping[str, Intake],
        params: DetectorParams,
        calibration: CalibrationMap | None,
        document: Mapping[str, Any],
        *,
        log: EventLog,
        metrics: Metrics,
        clock: Clock,
        sessions: SessionClock,
        horizons: Sequence[int],
        checkpoint_bars: int = 60,
    ) -> None:
        self.notes: list[str] = []
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._horizons = tuple(horizons)
        self._checkpoint_bars = checkpoint_bars
        self._waiting: dict[str, Records] = {}  # taken, not looked at yet
        self._received_ns: Mapping[str, int] = {}
        self._early: dict[str, Checkpoint] = {}  # taken after a commit, to be entered with the next
        self._is_timed = True  # how long it takes says something of a live feed
        self._unsaved: tuple[Batch, list[Step]] | None = None  # what they led to, not in the log yet
        self._sessions = sessions
        self._count = SessionMetrics(metrics, self._horizons)
        logged = log.active_config()
        wanted = _document(params, calibration, document)
        if logged is None:
            logged = ActiveConfig(1, 0, _hash(wanted), wanted)
            log.commit(Batch(configs=[logged]))
        elif DetectorParams.from_dict(json.loads(logged.document)["params"]).features.bar_ms != params.features.bar_ms:
            raise StoreError(f"{log.path}: holds bars of another length; give the runner a log of its own")
        self._history = [_active(c) for c in log.configs()]
        self.lanes = self.open_lanes(intakes)
        self._count.resume(log, self.lanes.values())
        self._show_active()
        if logged.document != wanted:
            self.reconfigure(params, calibration, document)

    @property
    def active(self) -> Active:
        """The configuration that bars no symbol has seen will be judged by."""
        return self._history[-1]

    @property
    def is_stalled(self) -> bool:
        """Whether the log refused what was found; nothing more is taken until `retry` succeeds."""
        return self._unsaved is not None or bool(self._waiting)

    @property
    def is_warm(self) -> bool:
        """Whether every symbol's detector can speak."""
        return all(lane.is_warm for lane in self.lanes.values())

    def advance(
        self, closed: Mapping[str, Records], received_ns: Mapping[str, int] | None = None, *, is_timed: bool = True
    ) -> None:
        """Take closed bars, commit what they lead to, then count it.

        Parameters
        ----------
        closed : mapping of symbol to (n,) BAR
            Bars that follow those taken before.
        received_ns : mapping of symbol to int, optional
            When the message that closed its bar was received, by the clock; left out where nobody can say.
        is_timed : bool
            False: bars of long ago, and nothing of them enters a latency histogram.

        Raises
        ------
        StoreError
            The log refused. The session holds the bars and what they led to, and is stalled.
        """
        self._refuse_if_stalled()
        self._waiting = {s: bars for s, bars in closed.items() if bars.size}
        self._received_ns, self._is_timed = received_ns or {}, is_timed
        self._go_on()

    def retry(self) -> None:
        """Try again what the log refused; raises StoreError like `advance`."""
        self._go_on()

    def reconfigure(
        self, params: DetectorParams, calibration: CalibrationMap | None, document: Mapping[str, Any]
    ) -> Active:
        """Make another configuration the active one, from the next bar on that no symbol has seen.

        Raises
        ------
        ConfigError
            The bar length differs: that is another log and another start.
        StoreError
            It could not be entered into the log, or the session is stalled; the old one stays.
        """
        self._refuse_if_stalled()
        if params.features.bar_ms != self.active.params.features.bar_ms:
            raise ConfigError(
                f"features.bar_ms: expected {self.active.params.features.bar_ms}, as this runner's bars are, found "
                f"{params.features.bar_ms}; start a runner with a log of its own"
            )
        text = _document(params, calibration, document)
        since = max([self.active.since_ms, *(lane.ts_ms for lane in self.lanes.values())])  # symbols may have left
        logged = ActiveConfig(self.active.version + 1, since, _hash(text), text)
        self._log.commit(Batch(configs=[logged]))
        self._log.keep_at_least(KEPT_TIMES * keep_bars(params))
        self._history.append(_active(logged))
        self._show_active()
        return self.active

    def open_lanes(self, intakes: Mapping[str, Intake]) -> dict[str, Lane]:
        """Make lanes that go on where the log ends, or begin; nothing is followed yet.

        Parameters
        ----------
        intakes : mapping of symbol to Intake
            Fresh ones; they take up the log's state.

        Raises
        ------
        StoreError
            The log cannot be read, or its state of a symbol is damaged.
        """
        states = self._log.states()
        known = states.keys() & intakes.keys()
        checkpoints = self._log.checkpoints() if known else {}
        pending = self._log.pending(self._horizons) if known else []
        lanes = {}
        for symbol, intake in intakes.items():
            # A lane that has not reached the moment of the last change goes on with what was in force before.
            reached = states[symbol].ts_ms if symbol in states else 0
            lane = Lane(symbol, intake, self._in_force(reached + 1), self._sessions, self._horizons)
            if symbol in states:
                own = sorted((p for p in pending if p.symbol == symbol), key=lambda p: (p.horizon_bars, p.row))
                self._resume(lane, states[symbol], checkpoints.get(symbol), own)
            lanes[symbol] = lane
        return lanes

    def follow(self, lanes: Mapping[str, Lane]) -> None:
        """Follow these lanes from now on, and no others.

        Parameters
        ----------
        lanes : mapping of symbol to Lane
            Of `open_lanes`, or of this session. What a lane that leaves holds of a bar that is not over is lost; its
            open outcomes stay open in the log, and go on when it comes back.

        Raises
        ------
        StoreError
            The session is stalled: bars of a lane that leaves may not be in the log yet.
        """
        self._refuse_if_stalled()
        self._early = {s: c for s, c in self._early.items() if lanes.get(s) is self.lanes.get(s)}
        self.lanes = dict(lanes)

    def checkpoint(self) -> None:
        """Enter a checkpoint of every symbol, so that the next start has nothing to compute again."""
        lanes = [s for s, lane in self.lanes.items() if lane.rows > lane.checkpoint_rows or s in self._early]
        if lanes and not self.is_stalled:
            self._log.commit(Batch(checkpoints={symbol: self.lanes[symbol].checkpoint() for symbol in lanes}))
            self._early.clear()

    def _go_on(self) -> None:
        try:
            if self._unsaved is None and self._waiting:
                self._unsaved = self._found(self._waiting)
                self._waiting = {}
            if self._unsaved is not None:
                batch, steps = self._unsaved
                self._save(batch, steps)
                self._look_ahead(batch.states)
        except StoreError:
            self._count.store_failed()
            raise

    def _found(self, closed: Mapping[str, Records]) -> tuple[Batch, list[Step]]:
        """Take the lanes over these bars; return what they lead to, as one transaction."""
        # The log is asked first, for all of them: where it refuses, no lane has moved.
        before = {s: self._bars_before(self.lanes[s], int(b["ts_ms"][-1])) for s, b in closed.items() if self._lags(s)}
        batch, steps = Batch(bars=dict(closed)), []
        for symbol, bars in closed.items():
            lane = self.lanes[symbol]
            if symbol in before:
                steps += self._steps_of(lane, bars, before[symbol])
            else:
                steps.append(lane.step(bars))
            batch.states[symbol] = lane.state()
            early = self._early.pop(symbol, None)
            if lane.checkpoint_due or (bars.size > 1 and self._is_checkpoint_due(lane)):
                batch.checkpoints[symbol] = lane.checkpoint()
            elif early is not None:
                batch.checkpoints[symbol] = early
        for step in steps:
            batch.events += step.events
            batch.outcomes += [s.outcome for s in step.settled]
        return batch, steps

    def _lags(self, symbol: str) -> bool:
        """Whether a symbol's lane is judged by another configuration than the active one, or will be for some bars."""
        return self.lanes[symbol].active is not self._history[-1]

    def _steps_of(self, lane: Lane, bars: Records, before: Records) -> list[Step]:
        """Take a lane over bars between which the configuration may change; `before` is the log's part before them."""
        steps, at = [], 0
        while at < bars.size:
            active = self._in_force(int(bars["ts_ms"][at]))
            if active.version != lane.active.version:
                lane.swap(active, np.concatenate([before, bars[:at]])[-keep_bars(active.params) :])
            later = [c.since_ms for c in self._history if c.version > active.version]
            end = int(np.searchsorted(bars["ts_ms"], min(later), side="right")) if later else bars.size
            steps.append(lane.step(bars[at:end]))
            at = end
        return steps

    def _look_ahead(self, symbols: Iterable[str]) -> None:
        """Take the checkpoints that are due now that nobody waits; the next commit of their symbols enters them."""
        for symbol in symbols:
            lane = self.lanes.get(symbol)
            if lane is not None and self._is_checkpoint_due(lane):
                self._early[symbol] = lane.checkpoint()

    def _is_checkpoint_due(self, lane: Lane) -> bool:
        """Tell whether `checkpoint_bars` have passed; a symbol's phase keeps all from being due at the same bar."""
        phase, every = crc32(lane.symbol.encode()), self._checkpoint_bars
        return (lane.rows + phase) // every > (lane.checkpoint_rows + phase) // every

    def _in_force(self, ts_ms: int) -> Active:
        """Return the configuration that judges a bar that ends at `ts_ms`."""
        return next(c for c in reversed(self._history) if c.since_ms < ts_ms)

    def _bars_before(self, lane: Lane, until_ms: int) -> Records:
        """Return what a change of the configuration on the way to `until_ms` needs of the log: nothing, mostly."""
        if self._in_force(until_ms).version == lane.active.version:
            return np.empty(0, BAR)
        return self._log.last_bars(lane.symbol, max(keep_bars(c.params) for c in self._history))

    def _save(self, batch: Batch, steps: list[Step]) -> None:
        started = self._clock.monotonic_ns()
        committed = self._log.commit(batch)
        done = self._clock.monotonic_ns()
        self._unsaved = None
        events = set(committed.new_events)
        outcomes = {(o.event_id, o.horizon_bars) for o in committed.new_outcomes}
        with self._metrics.together():
            took_s = (done - started) / 1e9 if self._is_timed else None
            self._count.committed(took_s, self._clock.wall_ms() / 1e3)
            for step in steps:
                new = [e for e in step.events if event_id(e.symbol, e.event) in events]
                settled = [s for s in step.settled if s.outcome[:2] in outcomes]
                self._count.step(step, new, settled, is_timed=self._is_timed)
                received_ns = self._received_ns.get(new[0].symbol) if new else None
                if received_ns is not None:
                    self._count.pipeline((done - received_ns) / 1e9, len(new))

    def _resume(self, lane: Lane, state: SymbolState, checkpoint: Checkpoint | None, pending: list[Pending]) -> None:
        kept, own = keep_bars(lane.active.params), lane.active.params.fingerprint()
        made_by = {c.version: c.params.fingerprint() for c in self._history}
        if checkpoint is not None and made_by.get(checkpoint.config_version) != own:
            checkpoint = None  # of other parameters: those in force now have seen no bar yet
        for known in dict.fromkeys((checkpoint, None)):
            bars = (
                self._log.last_bars(lane.symbol, kept)
                if known is None
                else self._log.bars_after(lane.symbol, known.ts_ms)
            )
            try:
                lane.resume(state, known, bars, pending)
            except StoreError as error:
                if known is None:
                    raise
                self.notes.append(f"{lane.symbol}: {error}; fed the last {kept} bars of the log instead")
                continue
            except DataError as error:
                raise StoreError(f"{self._log.path}: the state of {lane.symbol} is damaged: {error}") from error
            break

    def _refuse_if_stalled(self) -> None:
        if self.is_stalled:
            raise StoreError("the session is stalled: its last commit has to succeed first")

    def _show_active(self) -> None:
        decision = self.active.params.decision
        self._metrics.set_info(
            "divergence_active_config_info",
            swing_L=decision.swing_L,
            z_hi=f"{decision.z_hi:g}",
            z_mid=f"{decision.z_mid:g}",
            version=self.active.label,
        )


def _document(params: DetectorParams, calibration: CalibrationMap | None, more: Mapping[str, Any]) -> str:
    curves = None if calibration is None else calibration.to_dict()
    return json.dumps({"params": params.to_dict(), "calibration": curves, **more}, sort_keys=True)


def _hash(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()


def _active(logged: ActiveConfig) -> Active:
    document = json.loads(logged.document)
    params = DetectorParams.from_dict(document["params"])
    curves = document["calibration"]
    calibration = None if curves is None else CalibrationMap.from_dict(curves)
    return Active(
        logged.version,
        logged.since_ms,
        params,
        calibration,
        params.rules(),
        f"{logged.version}-{logged.fingerprint[:12]}",
    )
