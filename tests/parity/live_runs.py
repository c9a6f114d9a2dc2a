"""The live path run on recordings, and what the batch path says of the same recordings."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from v13 import market, measures
from v13.detector import BucketOverride, DecisionParams, Detector, DetectorParams, FeatureParams, SessionClock, prices
from v13.detector.dtypes import CHANNELS, EVENT, KINDS, OFI_CVD_CONFLICT, REASONS
from v13.live.replay import play
from v13.live.session import Session, keep_bars
from v13.market.intake import Intake
from v13.market.playback import Playback, open_playback
from v13.store.event_log import EventLog
from v13.store.event_schema import EVENT_FIELDS, event_id
from v13.telemetry import Metrics

HORIZONS = (10, 20)
SESSIONS = SessionClock("Asia/Kolkata", "05:20", "05:40")  # turns within the recordings around midnight UTC
RULE = BucketOverride({"session": "day", "source": "CVD_ONLY"}, {"swing_L": 8, "z_hi": 1.0}, "so that rules differ")
SIDES = {1: "bull", -1: "bear"}

Found = dict[str, tuple[tuple[float | None, ...], str]]  # event id -> fields of EVENT (None for NaN), rule
Judged = dict[tuple[str, int], tuple[float | None, int | None]]  # event id, horizon -> return, hit


def loose(bar_ms: int = 1_000, window: int = 30) -> DetectorParams:
    """Parameters that find hundreds of events where the product's find a few."""
    gates = {"min_separation": 2, "min_vol_ok": 0.0, "min_swing_bps": 0.0, "cooldown_ms": 0, "min_score": 0.0}
    decision = DecisionParams(swing_L=5, z_hi=0.8, z_mid=0.3, **gates)  # type: ignore[arg-type]
    return DetectorParams(FeatureParams(bar_ms=bar_ms, window=window), decision, (RULE,))


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, start_ms: int = 1_800_000_000_000) -> None:
        self.now_ns = start_ms * 1_000_000
        self.start_ns = self.now_ns
        self.naps: list[float] = []

    def wall_ms(self) -> int:
        return self.now_ns // 1_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_ns += round(seconds * 1e9)
        await asyncio.sleep(0)


@dataclass
class Counts:
    """What the counters of a runner should say."""

    events: dict[tuple[str, str, str], int] = field(default_factory=dict)
    n_hints: int = 0
    n_bars: int = 0
    suppressed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    outcomes: dict[tuple[int, str], list[int]] = field(default_factory=dict)  # hits, judged, tied, void


@dataclass
class Expected:
    """What the batch path finds in some recordings."""

    events: Found = field(default_factory=dict)
    outcomes: Judged = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    def add(self, symbol: str, bars: np.ndarray, params: DetectorParams) -> None:
        """Run the detector over all bars at once, and judge its events with `measures`."""
        detector = Detector(params, SESSIONS)
        found = detector.run(bars)
        rules = params.rules()
        for event in found:
            bucket = (event["session"] * 2 + event["liquidity"]) * 3 + event["source"]
            rule = "global" if event["type"] == OFI_CVD_CONFLICT else rules[bucket]
            self.events[event_id(symbol, event)] = plain(event.item()), rule
        counts = self.counts
        counts.n_bars += bars.size
        counts.n_hints += int(np.count_nonzero(found["side"] == 0))
        for name in REASONS:
            counts.suppressed[name] += detector.counters[name]
        sided = found[found["side"] != 0]
        for event in sided:
            key = CHANNELS[event["source"]], SIDES[int(event["side"])], KINDS[event["kind"]]
            counts.events[key] = counts.events.get(key, 0) + 1
        segment = measures.segments(bars["ts_ms"], params.features.bar_ms)
        rows = np.searchsorted(bars["ts_ms"], sided["ts_ms"])
        px = prices(params.features, bars)
        for horizon in HORIZONS:
            ret = measures.forward_returns(px, segment, horizon)[rows]
            hits = measures.hits(ret, sided["side"])
            gap = np.flatnonzero(np.diff(segment)) + 1
            for event, row, value, hit in zip(sided, rows.tolist(), ret.tolist(), hits.tolist(), strict=True):
                is_cut = bool(np.any((gap > row) & (gap <= row + horizon)))
                if row + horizon >= bars.size and not is_cut:
                    continue  # still open when the recording ends
                own = counts.outcomes.setdefault((horizon, CHANNELS[event["source"]]), [0, 0, 0, 0])
                if hit == measures.UNLABELLED:
                    self.outcomes[event_id(symbol, event), horizon] = None, None
                    own[3] += 1
                    continue
                self.outcomes[event_id(symbol, event), horizon] = value, None if hit == measures.TIE else hit
                own[0] += hit == measures.HIT
                own[1] += hit in (measures.HIT, measures.MISS)
                own[2] += hit == measures.TIE


def plain(fields: Sequence[Any]) -> tuple[float | None, ...]:
    """Return the fields of an event with None for NaN, as the log holds them."""
    return tuple(None if value != value else value for value in fields)


def batch(
    paths: Sequence[Path], params: DetectorParams, *, symbol: str | None = None, max_gap_ms: int | None = None
) -> Expected:
    """Return what `market.load`, the detector and the labels say of recordings."""
    expected = Expected()
    policy = market.ReadPolicy(bar_ms=params.features.bar_ms, max_gap_ms=max_gap_ms)
    for name, recording in market.load(paths, symbol=symbol, policy=policy).items():
        expected.add(name, recording.bars, params)
    return expected


def in_log(path: Path) -> tuple[Found, Judged]:
    """Return events and outcomes as the log's tables have them; SQL only, nothing of the product reads them."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        fields = ", ".join(EVENT_FIELDS)
        events = {
            name: (tuple(values), rule)
            for name, rule, *values in db.execute(f"SELECT event_id, rule, {fields} FROM event")
        }
        outcomes = db.execute("SELECT event_id, horizon_bars, ret, hit FROM outcome JOIN event USING (n)").fetchall()
    assert len({o[:2] for o in outcomes}) == len(outcomes)
    return events, {(name, horizon): (ret, hit) for name, horizon, ret, hit in outcomes}


def counted(metrics: Metrics) -> Counts:
    """Return what the counters of a runner say."""

    def of(name: str, **labels: object) -> int:
        return int(metrics.bind(name, **labels).read())

    counts = Counts(n_hints=of("divergence_conflict_hints_total"), n_bars=of("divergence_bars_total"))
    counts.suppressed = {name: of("divergence_suppressed_total", reason=name) for name in REASONS}
    for source in CHANNELS:
        for side in SIDES.values():
            for kind in KINDS[:2]:
                if n := of("divergence_events_total", source=source, side=side, kind=kind):
                    counts.events[source, side, kind] = n
        for horizon in HORIZONS:
            names = ("hits_total", "outcomes_total", "outcomes_tied_total", "outcomes_void_total")
            own = [of(f"divergence_{name}", horizon=horizon, source=source) for name in names]
            if any(own):
                counts.outcomes[horizon, source] = own
    return counts


@contextmanager
def session_on(
    path: Path,
    playbacks: Mapping[str, Playback],
    params: DetectorParams,
    clock: Any,
    *,
    checkpoint_bars: int = 60,
    max_gap_ms: int | None = None,
) -> Iterator[tuple[Session, Metrics]]:
    """Open a log and a session on it, as the runner does."""
    metrics = Metrics(HORIZONS, tuple(playbacks))
    intakes = {
        name: Intake(params.features.bar_ms, max_gap_ms, has_trades=p.has_trades, has_quotes=p.has_quotes)
        for name, p in playbacks.items()
    }
    with EventLog(path, keep_bars=keep_bars(params), now_ms=clock.wall_ms) as log:
        session = Session(
            intakes,
            params,
            None,
            {},
            log=log,
            metrics=metrics,
            clock=clock,
            sessions=SESSIONS,
            horizons=HORIZONS,
            checkpoint_bars=checkpoint_bars,
        )
        yield session, metrics


def replayed(
    path: Path,
    recordings: Sequence[Path],
    params: DetectorParams,
    *,
    speed: float | None = None,
    clock: Any = None,
    symbol: str | None = None,
) -> Metrics:
    """Play recordings into a log at `path` through the live path; return its metrics."""
    clock = clock or FakeClock()
    playbacks = open_playback(recordings, symbol=symbol, policy=market.ReadPolicy(bar_ms=params.features.bar_ms))
    with session_on(path, playbacks, params, clock) as (session, metrics):
        assert session.notes == []
        asyncio.run(play(session, playbacks, metrics=metrics, clock=clock, speed=speed))
    return metrics


def same(path: Path, metrics: Metrics, expected: Expected) -> None:
    """Demand that log and counters are exactly what the batch path says."""
    events, outcomes = in_log(path)
    assert events.keys() == expected.events.keys()
    for name, (fields, rule) in events.items():
        wanted, wanted_rule = expected.events[name]
        assert rule == wanted_rule, name
        assert fields == wanted, (
            name,
            [n for n, a, b in zip(EVENT.names or (), fields, wanted, strict=True) if a != b],
        )
    assert outcomes == expected.outcomes
    assert counted(metrics) == expected.counts
