"""A change of configuration in a session: what is kept, what is made anew, and that a kill changes nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exchange.clocks import SteppingClock
from tests.integration.markets import write_bars
from v13 import market
from v13.detector import (
    BucketOverride,
    CalibrationMap,
    DecisionParams,
    Detector,
    DetectorParams,
    FeatureParams,
    SessionClock,
)
from v13.errors import ConfigError, StoreError
from v13.live.lane import Active, Lane
from v13.live.replay import play
from v13.live.session import Session, keep_bars
from v13.market.intake import Intake
from v13.market.playback import open_playback
from v13.store.event_log import EventLog
from v13.store.event_reader import read_events
from v13.store.event_schema import event_id
from v13.telemetry import Metrics

N_BARS = 6_000
AT = 3_000  # where the configuration changes
SESSIONS = SessionClock("UTC", "00:30", "01:10")  # turns within the bars
OLD = DetectorParams(
    FeatureParams(window=60), DecisionParams(swing_L=5, z_hi=1.2, z_mid=0.4, cooldown_ms=5_000, min_score=20.0)
)
CHANGES: dict[str, Any] = {
    "features.window": 120,
    "features.ema_k": 9,
    "features.mode": "level",
    "features.z_clip": 1.5,
    "features.scale_floor": 0.9,
    "features.w_ofi": 0.1,
    "features.w_cvd": 2.0,
    "features.max_lag_ms": 1,
    "features.activity_k": 90,
    "features.active_quantile": 0.9,
    "features.min_volume_ratio": 3.0,
    "decision.swing_L": 8,
    "decision.z_hi": 0.9,
    "decision.z_mid": 0.8,
    "decision.min_separation": 40,
    "decision.cooldown_ms": 60_000,
    "decision.min_score": 45.0,
    "decision.min_vol_ok": 1.0,
    "decision.min_swing_bps": 3.0,
    "overrides": (BucketOverride({"session": "day", "source": "CVD_ONLY"}, {"z_hi": 0.5, "swing_L": 8}),),
}
# By these alone a bucket is chosen, and a bucket is nothing without overrides.
BUCKETED = {"features.activity_k", "features.active_quantile"}
ACTIVE_ONLY = (BucketOverride({"liquidity": "active"}, {"z_hi": 0.5}),)


@pytest.fixture(scope="module")
def bars() -> dict[str, np.ndarray]:
    made = {}
    for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
        spec = market.MarketSpec(kind="garch_t", n_bars=N_BARS, symbol=symbol)
        own = market.simulate_bars(spec, seed).bars.copy()
        own["lag_quote_ms"] = np.arange(N_BARS) * 7 % 40  # so that something is staler than 1 ms
        made[symbol] = own
    return made


def changed(params: DetectorParams, name: str, value: Any) -> DetectorParams:
    section, _, key = name.partition(".")
    if not key:
        return replace(params, overrides=value)
    return replace(params, **{section: replace(getattr(params, section), **{key: value})})


def curves(prob: float) -> CalibrationMap:
    knots = {"score": [0.0, 100.0], "expected_return": [0.0, 0.0]}
    knots |= {name: [prob, prob] for name in ("prob", "p_low", "p_high")}
    return CalibrationMap.from_dict({"horizons": [{"horizon_bars": 10, "knots": knots}]})


@contextmanager
def session_on(
    path: Path,
    symbols: Sequence[str],
    params: DetectorParams = OLD,
    calibration: CalibrationMap | None = None,
    checkpoint_bars: int = 60,
) -> Iterator[Session]:
    """Open a session; leaving it is what a kill leaves: nothing is entered that was not."""
    clock = SteppingClock()
    with EventLog(path, keep_bars=2 * keep_bars(OLD), now_ms=clock.wall_ms) as log:
        yield Session(
            {s: Intake(1_000) for s in symbols},
            params,
            calibration,
            {},
            log=log,
            metrics=Metrics((10, 20), tuple(symbols)),
            clock=clock,
            sessions=SESSIONS,
            horizons=(10, 20),
            checkpoint_bars=checkpoint_bars,
        )


def feed(session: Session, bars: Mapping[str, np.ndarray], first: int, last: int, chunk: int = 250) -> None:
    """Hand over rows [first, last) of all symbols the session follows."""
    for i in range(first, last, chunk):
        session.advance({s: bars[s][i : min(i + chunk, last)] for s in session.lanes})


def told(path: Path) -> dict[str, tuple[int, float | None, str]]:
    """Return version, score and rule of each event by id."""
    rows = read_events(path).iter_rows(named=True)
    return {row["event_id"]: (row["config_version"], row["score"], row["rule"]) for row in rows}


def batch(symbol: str, bars: np.ndarray, params: DetectorParams) -> dict[str, float]:
    return {event_id(symbol, e): float(e["score"]) for e in Detector(params, SESSIONS).run(bars)}


def test_every_parameter_is_in_the_list_of_changes() -> None:
    names = {f"features.{f.name}" for f in fields(FeatureParams)} - {"features.bar_ms"}
    assert names | {f"decision.{f.name}" for f in fields(DecisionParams)} | {"overrides"} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_events_after_a_change_are_those_of_a_detector_that_always_had_it(
    name: str, bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    old = replace(OLD, overrides=ACTIVE_ONLY) if name in BUCKETED else OLD
    new = changed(old, name, CHANGES[name])
    since = int(bars["BTCUSDT"]["ts_ms"][AT - 1])
    with session_on(tmp_path / "log", ("BTCUSDT",), old) as session:
        feed(session, bars, 0, AT)
        active = session.reconfigure(new, None, {})
        assert (active.version, active.since_ms) == (2, since)
        feed(session, bars, AT, AT + 1, 1)
        assert session.is_warm  # at once
        feed(session, bars, AT + 1, N_BARS)
    found = told(tmp_path / "log")
    before, after = (batch("BTCUSDT", bars["BTCUSDT"], p) for p in (old, new))
    ts = {key: int(key.split("-")[1]) for key in before | after}
    wanted = {k: (1, v) for k, v in before.items() if ts[k] <= since}
    wanted |= {k: (2, v) for k, v in after.items() if ts[k] > since}
    assert found.keys() == wanted.keys()
    for key, (version, score, _) in found.items():
        assert version == wanted[key][0]
        # What lies further back than the log's last bars weighs less than 1e-9 in a feature.
        assert score is None or score == pytest.approx(wanted[key][1], abs=1e-6)
    assert {k: v for k, v in before.items() if ts[k] > since} != {k: v for k, v in after.items() if ts[k] > since}


def test_another_calibration_alone_keeps_the_state_to_the_byte(bars: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    snapshots = {}
    for change in (False, True):
        path = tmp_path / str(change)
        with session_on(path, ("BTCUSDT",), OLD, curves(0.6)) as session:
            feed(session, bars, 0, AT)
            if change:
                session.reconfigure(OLD, curves(0.7), {})
            feed(session, bars, AT, N_BARS)
            snapshots[change] = session.lanes["BTCUSDT"].checkpoint().detector
    assert snapshots[True] == snapshots[False]
    events = read_events(tmp_path / "True")
    assert events["event_id"].to_list() == read_events(tmp_path / "False")["event_id"].to_list()
    sided = [row for row in events.iter_rows(named=True) if row["side"] != "none"]
    assert {(row["config_version"], row["prob_10"]) for row in sided} == {(1, 0.6), (2, 0.7)}


def without_bar(event: np.void) -> tuple[Any, ...]:
    """All but the number of the bar since the detector was made; the log has its own."""
    assert event.dtype.names[1] == "bar"
    return tuple("nan" if value != value else value for i, value in enumerate(event.item()) if i != 1)


def lane_after(params: DetectorParams, bars: np.ndarray, n_fed: int) -> Lane:
    """Return a lane that goes over to `params` after `bars`, fed the last `n_fed` of them."""
    first = Active(1, 0, OLD, None, OLD.rules(), "1")
    lane = Lane("BTCUSDT", Intake(1_000), first, SESSIONS, (10,))
    lane.step(bars)
    lane.swap(replace(first, version=2, params=params, rules=params.rules()), bars[-n_fed:])
    return lane


def test_a_cooldown_that_runs_at_the_change_runs_on(bars: Mapping[str, np.ndarray]) -> None:
    own = bars["BTCUSDT"]
    new = changed(changed(OLD, "decision.cooldown_ms", 30_000), "decision.z_hi", 0.9)
    always = Detector(new, SESSIONS).run(own)
    free = Detector(changed(new, "decision.cooldown_ms", 0), SESSIONS).run(own)
    n_held_back = 0
    for event in always[(always["side"] != 0) & (always["ts_ms"] > own["ts_ms"][1_500])][:60]:
        at = int(np.searchsorted(own["ts_ms"], event["ts_ms"])) + 1  # the change comes right after this event
        lane = lane_after(new, own[:at], keep_bars(new))
        ahead = own[at : at + 200]
        found = [e.event for e in lane.step(ahead).events]
        within = (always["ts_ms"] > event["ts_ms"]) & (always["ts_ms"] <= ahead["ts_ms"][-1])
        assert [without_bar(e) for e in found] == [without_bar(e) for e in always[within]]
        in_cooldown = (free["ts_ms"] > event["ts_ms"]) & (free["ts_ms"] < event["ts_ms"] + 30_000)
        n_held_back += int(np.any(in_cooldown & (free["side"] == event["side"])))
    assert n_held_back > 20  # the cooldown had something to hold back


def test_a_cooldown_longer_than_all_other_memory_runs_on(bars: Mapping[str, np.ndarray]) -> None:
    own, cooldown_ms = bars["BTCUSDT"], 1_200_000
    new = changed(changed(OLD, "decision.cooldown_ms", cooldown_ms), "decision.z_hi", 4.4)  # few candidates
    other = new.features.memory_bars + 20 * (2 * new.decision.swing_L + 1)
    n_short = 0
    for at in range(2_000, 5_900, 50):
        lane = lane_after(new, own[:at], keep_bars(new))
        before = Detector(new, SESSIONS).run(own[at - other - cooldown_ms // 1_000 : at])  # what it would have given
        after = [e.event for e in lane.step(own[at : at + 300]).events]
        forgetful = lane_after(new, own[:at], other)
        for side in (1, -1):
            last = before[before["side"] == side]["ts_ms"]
            gap = [int(e["ts_ms"]) - int(last[-1]) for e in after if e["side"] == side and last.size]
            assert all(ms >= cooldown_ms for ms in gap)
        for event in (e.event for e in forgetful.step(own[at : at + 300]).events if e.event["side"]):
            last = before[before["side"] == event["side"]]["ts_ms"]
            n_short += last.size > 0 and int(event["ts_ms"]) - int(last[-1]) < cooldown_ms
    assert n_short > 0  # with fewer bars it is forgotten


@pytest.mark.parametrize("chunk", [1, 7, 250, 4_000])
def test_a_symbol_that_lags_goes_through_every_change_at_its_moment(
    chunk: int, bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    new = [changed(OLD, "decision.z_hi", z_hi) for z_hi in (0.9, 0.6, 0.5)]
    both = ("BTCUSDT", "ETHUSDT")
    lagging = bars["ETHUSDT"]
    with session_on(tmp_path / "log", both) as session:
        for params, first, last in zip(new, (0, 2_000, 3_000), (2_000, 3_000, 4_000), strict=True):
            session.advance({"BTCUSDT": bars["BTCUSDT"][first:last]})
            session.reconfigure(params, None, {})
        for i in range(0, 1_500, chunk):
            session.advance({"ETHUSDT": lagging[i : min(i + chunk, 1_500)]})
    with session_on(tmp_path / "log", both, new[-1]) as session:  # killed on the way
        assert session.active.version == 4
        for i in range(1_500, 5_000, chunk):
            session.advance({"ETHUSDT": lagging[i : min(i + chunk, 5_000)]})
    since = [int(bars["BTCUSDT"]["ts_ms"][row - 1]) for row in (2_000, 3_000, 4_000)]
    wanted = {}
    for version, params in enumerate((OLD, *new), 1):
        for key in batch("ETHUSDT", lagging[:5_000], params):
            if version == 1 + sum(int(key.split("-")[1]) > ms for ms in since):
                wanted[key] = version
    assert {k: v[0] for k, v in told(tmp_path / "log").items() if k.startswith("ETH")} == wanted
    assert set(wanted.values()) == {1, 2, 3, 4}


@pytest.mark.parametrize("n_after", [0, 1, 2, 61])
@pytest.mark.parametrize("change", ["decision.z_hi", "features.window", "calibration"])
def test_a_kill_after_a_change_was_entered_changes_nothing(
    change: str, n_after: int, bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    new = OLD if change == "calibration" else changed(OLD, change, CHANGES[change])
    both = ("BTCUSDT", "ETHUSDT")
    with session_on(tmp_path / "whole", both, OLD, curves(0.6)) as session:
        feed(session, bars, 0, AT)
        session.reconfigure(new, curves(0.7), {})
        feed(session, bars, AT, N_BARS, 100)
    with session_on(tmp_path / "killed", both, OLD, curves(0.6)) as session:
        feed(session, bars, 0, AT)
        session.reconfigure(new, curves(0.7), {})
        feed(session, bars, AT, AT + n_after, 1)
    with session_on(tmp_path / "killed", both, new, curves(0.7)) as session:
        assert session.notes == []
        assert (session.active.version, session.active.since_ms) == (2, int(bars["BTCUSDT"]["ts_ms"][AT - 1]))
        feed(session, bars, AT + n_after, N_BARS, 100)
    names = [name for name in read_events(tmp_path / "whole").columns if name not in ("n", "committed_ms")]
    frames = [read_events(tmp_path / name).select(names).sort("event_id") for name in ("whole", "killed")]
    assert frames[0].equals(frames[1])
    assert set(frames[0]["config_version"]) == {1, 2}


def test_files_that_went_back_before_the_restart_make_a_version_of_their_own(
    bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        feed(session, bars, 0, AT)
        session.reconfigure(changed(OLD, "decision.z_hi", 0.9), None, {})
    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        assert session.active.version == 3
        feed(session, bars, AT, N_BARS)
    found = told(tmp_path / "log")
    assert found.keys() == batch("BTCUSDT", bars["BTCUSDT"], OLD).keys()
    assert {version for version, _, _ in found.values()} == {1, 3}


def test_another_bar_length_is_refused(tmp_path: Path) -> None:
    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        with pytest.raises(ConfigError, match=r"features.bar_ms: expected 1000.* found 2000"):
            session.reconfigure(changed(OLD, "features.bar_ms", 2_000), None, {})
        assert session.active.version == 1


def test_a_stalled_session_takes_no_change_and_no_symbols(
    bars: Mapping[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no room")

    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        with monkeypatch.context() as patch:
            patch.setattr(session._log, "commit", full)
            with pytest.raises(StoreError, match="no room"):
                feed(session, bars, 0, 10, 10)
        for change in (lambda: session.reconfigure(OLD, curves(0.7), {}), lambda: session.follow({})):
            with pytest.raises(StoreError, match="stalled"):
                change()
        session.retry()
        assert session.reconfigure(OLD, curves(0.7), {}).since_ms == int(bars["BTCUSDT"]["ts_ms"][9])


def test_a_symbol_that_comes_goes_and_comes_back_goes_on_where_it_was(
    bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        feed(session, bars, 0, 1_000)
        session.follow(session.lanes | session.open_lanes({"ETHUSDT": Intake(1_000)}))
        feed(session, bars, 1_000, 2_000)
        rows = session.lanes["ETHUSDT"].rows
        open_before = {p.event_id for p in session._log.pending((10, 20)) if p.symbol == "ETHUSDT"}
        session.follow({"BTCUSDT": session.lanes["BTCUSDT"]})
        feed(session, bars, 2_000, 3_000)
        session.follow(session.lanes | session.open_lanes({"ETHUSDT": Intake(1_000)}))
        assert session.lanes["ETHUSDT"].rows == rows == 1_000
        session.advance({"ETHUSDT": bars["ETHUSDT"][2_000:3_000]})
        feed(session, bars, 3_000, 4_000)
    found = told(tmp_path / "log")
    assert open_before  # some outcome had to wait
    wanted = batch("BTCUSDT", bars["BTCUSDT"][:4_000], OLD) | batch("ETHUSDT", bars["ETHUSDT"][1_000:4_000], OLD)
    assert found.keys() == wanted.keys()
    judged = read_events(tmp_path / "log").filter(pl_in("event_id", open_before))
    assert judged.height == len(open_before)
    assert None not in judged["outcome_20"].to_list()


def pl_in(column: str, values: set[str]) -> Any:
    import polars as pl

    return pl.col(column).is_in(list(values))


def test_a_change_comes_into_force_after_all_bars_of_symbols_that_left_too(
    bars: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    new = [changed(OLD, "decision.z_hi", z_hi) for z_hi in (0.9, 0.6)]
    with session_on(tmp_path / "log", ("BTCUSDT", "ETHUSDT")) as session:
        session.advance({"BTCUSDT": bars["BTCUSDT"][:2_000]})
        session.advance({"ETHUSDT": bars["ETHUSDT"][:500]})
        first = session.reconfigure(new[0], None, {})
        session.follow({"ETHUSDT": session.lanes["ETHUSDT"]})
        second = session.reconfigure(new[1], None, {})
        assert second.since_ms == first.since_ms == int(bars["BTCUSDT"]["ts_ms"][1_999])
        session.advance({"ETHUSDT": bars["ETHUSDT"][500:4_000]})
    found = {k: v for k, v in told(tmp_path / "log").items() if k.startswith("ETH")}
    versions = {(int(key.split("-")[1]) > first.since_ms, version) for key, (version, _, _) in found.items()}
    assert versions == {(False, 1), (True, 3)}


def test_a_damaged_state_of_a_further_symbol_changes_nothing(bars: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    with session_on(tmp_path / "log", ("BTCUSDT", "ETHUSDT")) as session:
        feed(session, bars, 0, 500)
        session.follow({"BTCUSDT": session.lanes["BTCUSDT"]})
        session._log._db.execute("UPDATE state SET intake = x'00' WHERE symbol = 'ETHUSDT'")
        with pytest.raises(StoreError, match="the state of ETHUSDT is damaged"):
            session.open_lanes({"ETHUSDT": Intake(1_000)})
        assert list(session.lanes) == ["BTCUSDT"]
        feed(session, bars, 500, 1_000)


def test_a_change_in_the_middle_of_a_replay_at_full_speed(
    bars: Mapping[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v13.live.replay.CHUNK_BARS", 700)
    new = changed(OLD, "decision.z_hi", 0.9)
    for symbol, own in bars.items():
        write_bars(tmp_path / "recording" / f"{symbol}.parquet", own, symbol)
    playbacks = open_playback(tmp_path / "recording", policy=market.ReadPolicy(bar_ms=1_000))

    async def scene(session: Session) -> None:
        metrics, clock = Metrics((10, 20), tuple(bars)), SteppingClock()
        playing = asyncio.create_task(play(session, playbacks, metrics=metrics, clock=clock))
        while session.lanes["ETHUSDT"].rows < AT:
            await asyncio.sleep(0)
        session.reconfigure(new, None, {})
        assert not playing.done()
        await playing

    with session_on(tmp_path / "log", tuple(bars)) as session:
        asyncio.run(scene(session))
        since = session.active.since_ms
    wanted = {}
    for symbol, own in bars.items():
        for version, params in enumerate((OLD, new), 1):
            for key in batch(symbol, own, params):
                if (int(key.split("-")[1]) > since) == (version == 2):
                    wanted[key] = version
    assert {key: version for key, (version, _, _) in told(tmp_path / "log").items()} == wanted


def test_the_log_keeps_each_configuration_whole(tmp_path: Path) -> None:
    with session_on(tmp_path / "log", ("BTCUSDT",)) as session:
        active = session.reconfigure(changed(OLD, "decision.z_hi", 0.9), curves(0.7), {"signoff": "reports/x.json"})
        last = session._log.active_config()
    document = json.loads(last.document)
    assert DetectorParams.from_dict(document["params"]) == active.params
    assert document["calibration"] == curves(0.7).to_dict()
    assert document["signoff"] == "reports/x.json"
    assert active.label == f"2-{last.fingerprint[:12]}"
