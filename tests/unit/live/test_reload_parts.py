"""A new configuration reaches every part of a runner, or none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.exchange.clocks import SteppingClock
from tests.oracle.markets import random_bars
from v13.config import Config
from v13.detector import DetectorParams, FeatureParams, SessionClock
from v13.errors import ConfigError, StoreError
from v13.live.artifacts import Artifacts
from v13.live.reload_parts import LiveParts, Parts
from v13.live.session import Session
from v13.market.intake import Intake
from v13.store.event_log import EventLog
from v13.telemetry import Metrics

PARAMS = DetectorParams(FeatureParams(window=60))
OLD = Artifacts(PARAMS, None, True, 0, "", {"files": {}, "signoff": "a", "simulated": False})


@dataclass
class Feed:
    """Notes what it is told, and that the metrics knew before."""

    metrics: Metrics
    told: list[tuple[str, ...]] = field(default_factory=list)

    def set_symbols(self, symbols: tuple[str, ...]) -> None:
        for symbol in symbols:
            self.metrics.bind("divergence_feed_staleness_seconds", symbol=symbol)
        self.told.append(symbols)


@dataclass
class Consumer:
    session: Session
    grace_ms: int = 250
    followed: list[tuple[str, ...]] = field(default_factory=list)

    def follow(self) -> None:
        self.followed.append(tuple(self.session.lanes))


@pytest.fixture
def parts(tmp_path: Path):
    clock, metrics = SteppingClock(), Metrics((10, 20), ("BTCUSDT",))
    with EventLog(tmp_path / "log", keep_bars=100, now_ms=clock.wall_ms) as log:
        session = Session(
            {"BTCUSDT": Intake(1_000)},
            OLD.params,
            None,
            OLD.document,
            log=log,
            metrics=metrics,
            clock=clock,
            sessions=SessionClock(),
            horizons=(10, 20),
        )
        inbox = SimpleNamespace(limit=100_000)
        live = LiveParts(Feed(metrics), inbox, Consumer(session), lambda: Intake(1_000))  # type: ignore[arg-type]
        yield Parts(Config(), OLD, session, metrics, live)


def config(**runner: object) -> Config:
    return Config.model_validate({"runner": runner})


def state(parts: Parts) -> tuple[object, ...]:
    """All that a configuration decides."""
    live = parts.live
    return (
        parts.config,
        parts.session.active.version,
        tuple(parts.session.lanes),
        tuple(live.feed.told),
        tuple(live.consumer.followed),
        live.consumer.grace_ms,
        live.inbox.limit,
        parts.metrics.bind("divergence_signed_off").read(),
    )


def test_every_part_takes_its_own(parts: Parts) -> None:
    lane = parts.session.lanes["BTCUSDT"]
    new = config(symbols=["ETHUSDT", "BTCUSDT"], grace_ms=99, queue_limit=500)
    unsigned = replace(OLD, signed_off=False, why_not="nobody did", document=OLD.document | {"signoff": None})
    label = parts.take(new, unsigned)
    assert label.startswith("2-")
    assert "for bars that end after 1970-01-01T00:00:00.000+00:00," in label
    symbols = ("ETHUSDT", "BTCUSDT")
    assert state(parts) == (new, 2, symbols, (symbols,), (symbols,), 99, 500, 0.0)
    assert parts.session.lanes["BTCUSDT"] is lane
    assert parts.artifacts is unsigned


def test_what_concerns_no_bar_makes_no_version(parts: Parts) -> None:
    new = config(symbols=["BTCUSDT"], grace_ms=99)
    assert parts.take(new, replace(OLD)) == parts.session.active.label
    assert state(parts) == (new, 1, ("BTCUSDT",), (), (), 99, 100_000, 0.0)


def test_where_the_log_refuses_nothing_changes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("no room")

    before = state(parts)
    monkeypatch.setattr(EventLog, "commit", full)
    new = config(symbols=["ETHUSDT"], grace_ms=99, queue_limit=500)
    with pytest.raises(StoreError, match="no room"):
        parts.take(new, replace(OLD, document=OLD.document | {"signoff": "b"}))
    assert state(parts) == before
    assert parts.artifacts is OLD


def test_a_symbol_that_comes_is_warm_at_once_where_another_log_has_it(parts: Parts, tmp_path: Path) -> None:
    bars = random_bars(np.random.default_rng(3), 400, kind="plain")
    with EventLog(tmp_path / "other.sqlite", keep_bars=1_000, now_ms=lambda: 0) as log:
        intake = Intake(1_000)
        intake.add_trade(int(bars["ts_ms"][-1]) - 1, 41, 100.0, 1.0, 1)
        intake.close_until(int(bars["ts_ms"][-1]))
        other = Session(
            {"ETHUSDT": intake},
            PARAMS,
            None,
            OLD.document,
            log=log,
            metrics=Metrics((10, 20), ("ETHUSDT",)),
            clock=SteppingClock(),
            sessions=SessionClock(),
            horizons=(10, 20),
        )
        other.advance({"ETHUSDT": bars})
        parts.root = tmp_path
        parts.take(config(symbols=["BTCUSDT", "ETHUSDT"], warm_from="other.sqlite"), OLD)
        lane = parts.session.lanes["ETHUSDT"]
        assert lane.is_warm
        assert (lane.rows, lane.ts_ms) == (400, int(bars["ts_ms"][-1]))
        assert parts.session._log.states()["ETHUSDT"] == log.states()["ETHUSDT"]
        assert lane.intake.last_trade_id == 41
        assert parts.metrics.bind("divergence_bars_total").read() == 400
        assert not parts.session.lanes["BTCUSDT"].rows
        # Again gone and back: what it has by now is its own.
        parts.take(config(symbols=["BTCUSDT"], warm_from="other.sqlite"), OLD)
        parts.take(config(symbols=["ETHUSDT", "BTCUSDT"], warm_from="other.sqlite"), OLD)
        assert parts.session.lanes["ETHUSDT"].rows == 400
        assert parts.metrics.bind("divergence_bars_total").read() == 400


def test_a_symbol_comes_cold_where_the_other_log_is_missing(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.take(config(symbols=["BTCUSDT", "ETHUSDT"], warm_from="nowhere.sqlite"), OLD)
    assert tuple(parts.session.lanes) == ("BTCUSDT", "ETHUSDT")
    assert "nowhere.sqlite: there is no event log" in caplog.text


def test_to_catch_up_from_itself_is_refused_and_changes_nothing(parts: Parts, tmp_path: Path) -> None:
    parts.root = tmp_path
    before = state(parts)
    with pytest.raises(ConfigError, match="own log"):
        parts.take(config(symbols=["ETHUSDT"], log="log", warm_from="log"), replace(OLD, document={"a": 1}))
    assert state(parts) == before


def test_the_symbols_of_a_recording_are_its_own(parts: Parts) -> None:
    parts.live = None
    parts.take(config(symbols=["ETHUSDT"]), OLD)
    assert tuple(parts.session.lanes) == ("BTCUSDT",)
