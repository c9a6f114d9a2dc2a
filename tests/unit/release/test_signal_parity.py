"""Signal parity on real logs: what parameters explain, and every way in which something else may differ."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from v13.detector import BucketOverride, DecisionParams, Detector, DetectorParams, FeatureParams, SessionClock
from v13.detector.dtypes import BAR, OFI_CVD_CONFLICT
from v13.errors import ReleaseError, StoreError
from v13.release.signal_parity import SignalParity, signal_parity, warm_bars
from v13.store.event_log import ActiveConfig, Batch, EventLog, LoggedEvent

SYMBOL = "BTCUSDT"
SESSIONS = SessionClock()
START_MS = 1_722_470_400_000
N = 1_500


def params(z_hi: float = 0.8, swing_L: int = 5) -> DetectorParams:
    gates = {"min_separation": 2, "min_vol_ok": 0.0, "min_swing_bps": 0.0, "cooldown_ms": 0, "min_score": 0.0}
    decision = DecisionParams(swing_L=swing_L, z_hi=z_hi, z_mid=0.3, **gates)  # type: ignore[arg-type]
    override = BucketOverride(
        {"session": "day", "source": "CVD_ONLY"}, {"z_hi": max(z_hi, 1.0)}, "so that rules differ"
    )
    return DetectorParams(FeatureParams(window=30), decision, (override,))


OLD, NEW = params(), params(0.6)


def market(n: int = N, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bars = np.zeros(n, BAR)
    bars["ts_ms"] = START_MS + 1_000 * np.arange(1, n + 1)
    px = 50_000 * np.exp(np.cumsum(rng.normal(0, 2e-4, n)))
    for name in ("open", "high", "low", "close", "mid"):
        bars[name] = px
    bars["volume"] = rng.gamma(2, 3, n)
    bars["delta"], bars["ofi"] = rng.normal(0, 2, n), rng.normal(0, 5, n)
    bars["n_trades"] = bars["n_quotes"] = 10
    return bars


def write(
    path: Path, own: DetectorParams, bars: np.ndarray, *, start: int = 0, seeded_with: int = 0, since_ms: int = 0
) -> None:
    """Write a log as a runner does whose detector began at bar `start` and whose own bars begin at `seeded_with`."""
    rules = own.rules()
    logged = []
    for event in Detector(own, SESSIONS).run(bars[start:]):
        row = int(np.searchsorted(bars["ts_ms"], event["ts_ms"]))
        if row < seeded_with:
            continue
        bucket = int((event["session"] * 2 + event["liquidity"]) * 3 + event["source"])
        rule = "global" if event["type"] == OFI_CVD_CONFLICT else rules[bucket]
        logged.append(LoggedEvent(SYMBOL, row, event, rule, 1, {}))
    document = json.dumps({"params": own.to_dict(), "calibration": None})
    with EventLog(path, keep_bars=10_000, now_ms=lambda: START_MS) as log:
        log.commit(Batch({SYMBOL: bars}, logged, configs=[ActiveConfig(1, since_ms, "f" * 64, document)]))


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            assert db.execute(statement).rowcount == 1, statement
        db.commit()


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """Return two like logs, whose detectors began at different bars, as a seeded one does."""
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    write(old, OLD, market())
    write(new, OLD, market(), start=37, seeded_with=700)
    return old, new


def compared(logs: tuple[Path, Path], **more: int) -> SignalParity:
    settings = {"since_ms": int(market()["ts_ms"][699])} | more
    return signal_parity(*logs, SYMBOL, sessions=SESSIONS, **settings)


def an_event(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        (name,) = db.execute("SELECT event_id FROM event WHERE side <> 0 ORDER BY ts_ms DESC LIMIT 1").fetchone()
    return str(name)


def test_like_releases_say_the_same(logs: tuple[Path, Path]) -> None:
    found = compared(logs)
    assert found.verdict == "equal"
    assert found.n_equal > 20
    assert (found.n_bars, found.same_parameters) == (800, True)
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == "equal"


def test_only_the_last_bars_are_compared(logs: tuple[Path, Path]) -> None:
    found = compared(logs, last_bars=100)
    assert (found.verdict, found.n_bars) == ("equal", 100)
    assert found.from_ms == int(market()["ts_ms"][-101])
    assert 0 < found.n_equal < compared(logs).n_equal


def test_a_candidate_that_is_behind_is_compared_as_far_as_it_is(logs: tuple[Path, Path], tmp_path: Path) -> None:
    behind = tmp_path / "behind.sqlite"
    write(behind, OLD, market()[:-200], seeded_with=700)
    found = compared((logs[0], behind))
    assert (found.verdict, found.n_bars) == ("equal", 600)


def test_what_other_parameters_find_is_explained(logs: tuple[Path, Path], tmp_path: Path) -> None:
    looser = tmp_path / "looser.sqlite"
    write(looser, NEW, market(), seeded_with=700)
    found = compared((logs[0], looser))
    assert (found.verdict, found.unexplained, found.same_parameters) == ("explained", (), False)
    assert found.only_candidate
    assert found.changed  # z_hi stands in every event


@pytest.mark.parametrize("which", [0, 1])
def test_an_event_that_is_missing_is_unexplained(logs: tuple[Path, Path], which: int) -> None:
    name = an_event(logs[which])
    change(logs[which], f"DELETE FROM event WHERE event_id = '{name}'")
    found = compared(logs)
    assert found.verdict == "unexplained"
    assert f"{name}: {('stable', 'candidate')[which]} lacks it, its parameters give it" in found.unexplained
    assert (found.only_candidate, found.only_stable)[which] == (name,)


def test_an_event_that_nothing_gives_is_unexplained(logs: tuple[Path, Path]) -> None:
    name = an_event(logs[1])
    change(logs[1], f"UPDATE event SET ts_ms = ts_ms - 1000, event_id = 'made-up' WHERE event_id = '{name}'")
    found = compared(logs)
    assert "made-up: candidate has it, its parameters do not give it" in found.unexplained
    assert found.only_candidate == ("made-up",)


@pytest.mark.parametrize("field", ["score = score + 0.001", "side = -side", "rule = 'global!'", "a_z = NULL"])
def test_an_event_with_another_field_is_unexplained_under_the_same_parameters(
    logs: tuple[Path, Path], field: str
) -> None:
    name = an_event(logs[1])
    change(logs[1], f"UPDATE event SET {field} WHERE event_id = '{name}'")
    found = compared(logs)
    assert (found.verdict, found.changed) == ("unexplained", (name,))


def test_an_event_with_another_field_is_unexplained_under_other_parameters_too(
    logs: tuple[Path, Path], tmp_path: Path
) -> None:
    looser = tmp_path / "looser.sqlite"
    write(looser, NEW, market(), seeded_with=700)
    change(looser, f"UPDATE event SET score = score + 1 WHERE event_id = '{an_event(looser)}'")
    found = compared((logs[0], looser))
    assert (found.verdict, found.n_unexplained) == ("unexplained", 1)
    assert "candidate's parameters give score" in found.unexplained[0]


def spoilt(path: Path, at: range) -> Path:
    """Write a log of bars that differ here and there, and of what a detector finds in them."""
    bars = market()
    bars["ofi"][list(at)] *= -3.0
    write(path, OLD, bars, seeded_with=700)
    return path


def test_a_trade_that_came_too_late_for_one_explains_what_they_remember_differently(
    logs: tuple[Path, Path], tmp_path: Path
) -> None:
    found = compared((logs[0], spoilt(tmp_path / "late.sqlite", range(900, 904))))
    assert (found.verdict, found.n_apart, found.unexplained) == ("explained", 4, ())
    assert found.changed or found.only_stable or found.only_candidate


def test_a_bar_that_left_the_window_explains_for_as_long_as_a_detector_remembers_it(
    logs: tuple[Path, Path], tmp_path: Path
) -> None:
    late = spoilt(tmp_path / "late.sqlite", range(1_290, 1_295))
    found = compared((logs[0], late), last_bars=200)
    assert (found.n_apart, found.unexplained) == (0, ())
    assert found.changed


def test_an_event_that_differs_before_any_bar_does_is_unexplained(logs: tuple[Path, Path], tmp_path: Path) -> None:
    late = spoilt(tmp_path / "late.sqlite", range(1_498, 1_500))
    with closing(sqlite3.connect(late)) as db:
        (name,) = db.execute(f"SELECT event_id FROM event WHERE ts_ms < {market()['ts_ms'][1_400]} LIMIT 1").fetchone()
    change(late, f"DELETE FROM event WHERE event_id = '{name}'")
    found = compared((logs[0], late))
    assert found.n_apart == 2
    assert f"{name}: candidate lacks it, its parameters give it" in found.unexplained
    assert f"{name}: the parameters are the same, and only stable has it" in found.unexplained


def test_bars_that_differ_in_more_than_late_trades_can_explain_are_unexplained(
    logs: tuple[Path, Path], tmp_path: Path
) -> None:
    bars = market()
    bars["volume"][1_000:1_008] += 1e-9
    other = tmp_path / "other.sqlite"
    write(other, OLD, np.delete(bars, 1_200), seeded_with=700)
    found = compared((logs[0], other))
    ts = market()["ts_ms"]
    assert (found.verdict, found.n_apart) == ("unexplained", 9)
    assert f"bar {ts[1_200]}: only stable has it" in found.unexplained
    assert any(text.startswith(f"bar {ts[1_000]}: differs: volume") for text in found.unexplained)


def test_a_log_under_other_parameters_than_the_release_s_is_unexplained(logs: tuple[Path, Path]) -> None:
    since_ms = int(market()["ts_ms"][699])
    found = signal_parity(*logs, SYMBOL, sessions=SESSIONS, candidate_params=NEW, since_ms=since_ms)
    assert found.unexplained == ("candidate: its log was written under other parameters than the release's",)
    own = signal_parity(*logs, SYMBOL, sessions=SESSIONS, candidate_params=OLD, stable_params=OLD, since_ms=since_ms)
    assert own.verdict == "equal"
    # Without since_ms, the bars the candidate was seeded with count: it holds no events of those.
    assert any("candidate lacks it" in text for text in signal_parity(*logs, SYMBOL, sessions=SESSIONS).unexplained)


def test_bars_before_the_last_change_of_the_configuration_are_left_out(logs: tuple[Path, Path]) -> None:
    document = json.dumps({"params": OLD.to_dict(), "calibration": None})
    since_ms = int(market()["ts_ms"][1_299])
    with EventLog(logs[0], keep_bars=10_000, now_ms=lambda: START_MS) as log:
        log.commit(Batch(configs=[ActiveConfig(2, since_ms, "e" * 64, document)]))
    found = compared(logs)
    assert (found.verdict, found.n_bars, found.from_ms) == ("equal", 200, since_ms)


def test_without_a_warm_bar_nothing_is_said(tmp_path: Path) -> None:
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    for path in (old, new):
        write(path, OLD, market(warm_bars(OLD)))
    assert compared((old, new)).verdict == "too_few"
    write(tmp_path / "whole.sqlite", OLD, market())
    far = signal_parity(old, tmp_path / "whole.sqlite", SYMBOL, sessions=SESSIONS, since_ms=10**15)
    assert (far.verdict, far.n_bars) == ("too_few", 0)


def test_the_logs_are_only_read(logs: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in logs]
    compared(logs)
    assert [path.read_bytes() for path in logs] == before


def test_the_warm_up_is_what_the_live_session_keeps() -> None:
    from v13.live.session import keep_bars

    for own in (DetectorParams(), OLD, NEW, params(swing_L=21)):
        longer = replace(own, features=replace(own.features, window=own.features.window + 100))
        assert warm_bars(own) == keep_bars(own)
        assert warm_bars(longer) == keep_bars(longer)


def test_what_cannot_be_read_is_an_error(logs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no event log"):
        compared((logs[0], tmp_path / "none.sqlite"))
    with pytest.raises(ReleaseError, match="one bar or more"):
        compared(logs, last_bars=0)
    with EventLog(tmp_path / "seed.sqlite", keep_bars=10, now_ms=lambda: START_MS):
        pass
    with pytest.raises(ReleaseError, match="expected the parameters"):
        compared((logs[0], tmp_path / "seed.sqlite"))
