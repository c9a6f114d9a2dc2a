"""Bars and configurations for tests of lanes and sessions, and a disk that can be told to refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracle.markets import random_bars
from v13.detector import (
    BucketOverride,
    CalibrationMap,
    DecisionParams,
    DetectorParams,
    FeatureParams,
    SessionClock,
)
from v13.errors import StoreError
from v13.live.lane import Active, Lane
from v13.live.session import Session
from v13.market.intake import Intake
from v13.store.event_log import EventLog
from v13.store.event_schema import Batch, Committed
from v13.telemetry import Metrics

HORIZONS = (10, 20)
SESSIONS = SessionClock()
KEEP_BARS = 10_000


def params(z_hi: float = 0.8, window: int = 30, swing_L: int = 3, bar_ms: int = 1_000) -> DetectorParams:
    decision = DecisionParams(
        swing_L=swing_L, z_hi=z_hi, z_mid=0.2, min_score=10.0, cooldown_ms=0, min_swing_bps=0.0, min_vol_ok=0.0
    )
    override = BucketOverride({"liquidity": "active"}, {"z_hi": z_hi + 0.1})
    return DetectorParams(FeatureParams(bar_ms=bar_ms, window=window), decision, (override,))


def calibration() -> CalibrationMap:
    knots = {
        "score": [20.0, 80.0],
        "prob": [0.5, 0.7],
        "expected_return": [0.0, 3e-4],
        "p_low": [0.4, 0.6],
        "p_high": [0.6, 0.8],
    }
    return CalibrationMap.from_dict({"horizons": [{"horizon_bars": h, "knots": knots} for h in HORIZONS]})


def market(seed: int, n: int, kind: str = "messy") -> np.ndarray:
    return random_bars(np.random.default_rng(seed), n, kind=kind)


def lane(of: DetectorParams | None = None, curves: CalibrationMap | None = None, horizons: Any = HORIZONS) -> Lane:
    found = of or params()
    return Lane("BTCUSDT", Intake(1_000), Active(1, 0, found, curves, found.rules(), "1-test"), SESSIONS, horizons)


class StillClock:
    """Time that stands still."""

    def wall_ms(self) -> int:
        return 1_800_000_000_000

    def monotonic_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0 * seconds)


class FickleLog(EventLog):
    """A log whose disk refuses as often as it is told to."""

    refusals = 0  # of commits
    read_refusals = 0  # of bars

    def commit(self, batch: Batch) -> Committed:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("the disk refuses")
        return super().commit(batch)

    def last_bars(self, symbol: str, n: int) -> np.ndarray:
        if self.read_refusals:
            self.read_refusals -= 1
            raise StoreError("the disk cannot be read")
        return super().last_bars(symbol, n)


def open_log(path: Path) -> FickleLog:
    return FickleLog(path, keep_bars=KEEP_BARS, now_ms=StillClock().wall_ms)


def session(
    log: EventLog,
    metrics: Metrics,
    of: DetectorParams | None = None,
    *,
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT"),
    document: dict[str, Any] | None = None,
    curves: CalibrationMap | None = None,
    checkpoint_bars: int = 60,
    horizons: tuple[int, ...] = HORIZONS,
) -> Session:
    return Session(
        {s: Intake(1_000) for s in symbols},
        of or params(),
        curves,
        document or {},
        log=log,
        metrics=metrics,
        clock=StillClock(),
        sessions=SESSIONS,
        horizons=horizons,
        checkpoint_bars=checkpoint_bars,
    )
