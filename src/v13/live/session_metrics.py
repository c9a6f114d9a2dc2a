"""What a session counts, and how its counters are taken up from the log.

It is told only of what is on the disk already; it must not decide what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from v13.detector import CHANNELS, KINDS, REASONS
from v13.detector.dtypes import OFI_CVD_CONFLICT
from v13.live.lane import Lane, Settled, Step
from v13.store.event_log import EventLog
from v13.store.event_schema import LoggedEvent
from v13.telemetry import Metrics

__all__ = ["SessionMetrics"]

SIDES: Final = {1: "bull", -1: "bear"}


class SessionMetrics:
    """The metrics of a session, bound once.

    Parameters
    ----------
    metrics : Metrics
    horizons : sequence of int, bars
    """

    def __init__(self, metrics: Metrics, horizons: Sequence[int]) -> None:
        bind = metrics.bind
        self._events = {
            (source, side, kind): bind(
                "divergence_events_total", source=CHANNELS[source], side=SIDES[side], kind=KINDS[kind]
            )
            for source in range(3)
            for side in (1, -1)
            for kind in (0, 1)
        }
        self._hints = bind("divergence_conflict_hints_total")
        self._suppressed = {name: bind("divergence_suppressed_total", reason=name) for name in REASONS}
        self._bars = bind("divergence_bars_total")
        self._score = [bind("divergence_score", source=name) for name in CHANNELS]
        self._gap = [bind("divergence_pairing_gap_bars", source=name) for name in CHANNELS]
        self._detect = {name: bind("divergence_detection_latency_seconds", source=name) for name in (*CHANNELS, "none")}
        self._pipeline = bind("divergence_pipeline_latency_seconds")
        self._commit = bind("divergence_commit_seconds")
        self._commit_time = bind("divergence_last_commit_timestamp_seconds")
        self._store_ok = bind("divergence_store_ok")
        self._store_errors = bind("divergence_errors_total", stage="store")
        self._outcome = {
            (h, i): [
                bind(f"divergence_{what}", horizon=h, source=name)
                for what in ("hits_total", "outcomes_total", "outcomes_tied_total", "outcomes_void_total")
            ]
            for h in horizons
            for i, name in enumerate(CHANNELS)
        }
        self._return = {
            (h, i): bind("divergence_forward_return", horizon=h, source=name)
            for h in horizons
            for i, name in enumerate(CHANNELS)
        }
        self._store_ok.set(1)

    def store_failed(self) -> None:
        """Count a refusal of the log."""
        self._store_ok.set(0)
        self._store_errors.inc()

    def committed(self, seconds: float | None, unix_s: float) -> None:
        """Count a commit: how long it took (None: not to be entered), and when it was done (Unix seconds)."""
        self._store_ok.set(1)
        if seconds is not None:
            self._commit.observe(seconds)
        self._commit_time.set(unix_s)

    def step(
        self, step: Step, new: Sequence[LoggedEvent], settled: Sequence[Settled], *, is_timed: bool = True
    ) -> None:
        """Count bars, and those events and outcomes of theirs that are new in the log."""
        self._bars.inc(step.bars.size)
        for name, n in step.suppressed.items():
            with suppress(KeyError):  # zero_scale and fusion_fallback suppress nothing
                self._suppressed[name].inc(n)
        for logged in new:
            event = logged.event
            if event["type"] == OFI_CVD_CONFLICT:
                self._hints.inc()
                continue
            source = int(event["source"])
            self._events[source, int(event["side"]), int(event["kind"])].inc()
            self._score[source].observe(float(event["score"]))
            self._gap[source].observe(float(event["gap_bars"]))
        for outcome, source, side in settled:
            self._settle(outcome.horizon_bars, source, outcome.ret, outcome.hit, side)
        if is_timed and step.bars.size == 1:  # a chunk is not the time of one bar
            spoke = next((e.event["source"] for e in step.events if e.event["side"]), None)
            self._detect["none" if spoke is None else CHANNELS[spoke]].observe(step.detect_ns / 1e9)

    def pipeline(self, seconds: float, n: int) -> None:
        """Count the way of `n` events from receipt to commit."""
        for _ in range(n):
            self._pipeline.observe(seconds)

    def resume(self, log: EventLog, lanes: Iterable[Lane]) -> None:
        """Count what the log holds, as if it had been found by this process."""
        tallies = log.tallies()
        for (source, side, kind), n in tallies.events.items():
            way = next(k for k, v in SIDES.items() if v == side)
            self._events[CHANNELS.index(source), way, KINDS.index(kind)].inc(n)
        self._hints.inc(tallies.n_conflict_hints)
        for i, name in enumerate(CHANNELS):
            self._score[i].observe_many(tallies.scores[name])
            self._gap[i].observe_many(tallies.gaps[name])
        for (horizon, source), found in tallies.outcomes.items():
            of = self._outcome.get((horizon, CHANNELS.index(source)))
            if of is not None:  # of a horizon that is no longer configured
                for counter, n in zip(
                    of, (found.n_hit, found.n_hit + found.n_miss, found.n_tie, found.n_void), strict=True
                ):
                    counter.inc(n)
                self._return[horizon, CHANNELS.index(source)].observe_many(found.ret * found.side)
        for lane in lanes:
            self._bars.inc(lane.rows)
            for name, n in lane.counters.items():
                if name in self._suppressed:
                    self._suppressed[name].inc(n)

    def _settle(self, horizon: int, source: int, ret: float | None, hit: int | None, side: int) -> None:
        hits, judged, tied, void = self._outcome[horizon, source]
        if ret is None:
            void.inc()
            return
        self._return[horizon, source].observe(ret * side)
        if hit is None:
            tied.inc()
        else:
            judged.inc()
            hits.inc(hit)
