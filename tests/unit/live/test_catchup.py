"""Catching up from another log: what is found is what a detector of those bars finds, and nothing stops a start."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.live.lanes import HORIZONS, SESSIONS, StillClock, market, open_log, params, session
from tests.unit.live.test_session import RESUMED
from v13.config import Config
from v13.detector import Detector, DetectorParams, divergences
from v13.errors import ConfigError
from v13.live.catchup import catch_up, refuse_own_log
from v13.live.session import Session, keep_bars
from v13.market.intake import Intake
from v13.store.event_log import EventLog
from v13.store.event_schema import EVENT_FIELDS, STORED_BAR
from v13.telemetry import Metrics

BARS = {"BTCUSDT": market(2, 900), "ETHUSDT": market(9, 900)}
SYMBOLS = tuple(BARS)
CHUNK = 90  # bars of a commit
LATENCIES = (
    "divergence_detection_latency_seconds",
    "divergence_event_latency_seconds",
    "divergence_pipeline_latency_seconds",
    "divergence_commit_seconds",
    "divergence_feed_lag_seconds",
)


def part(first: int, last: int) -> dict[str, np.ndarray]:
    return {symbol: bars[first:last] for symbol, bars in BARS.items()}


def lead(path: Path, n: int, of: DetectorParams | None = None, *, keep: int = 10_000, symbols: Any = SYMBOLS) -> None:
    """Write the log of a runner that has seen `n` bars of each symbol."""
    with EventLog(path, keep_bars=keep, now_ms=StillClock().wall_ms) as log:
        own = session(log, Metrics(HORIZONS, symbols), of, symbols=symbols)
        for first in range(0, n, CHUNK):
            own.advance({s: BARS[s][first : min(first + CHUNK, n)] for s in symbols})


def config(path: Path, **runner: object) -> Config:
    return Config.model_validate({"runner": {"warm_from": str(path), **runner}})


def metrics() -> Metrics:
    return Metrics(HORIZONS, SYMBOLS)


def shown(of: Metrics, names: tuple[str, ...]) -> list[str]:
    """Return the lines of these metrics; not their sums, which depend on the order of adding."""
    return [line for line in of.expose().decode().splitlines() if line.startswith(names) and "_sum{" not in line]


def events(path: Path, since_ms: int = 0) -> dict[str, tuple[object, ...]]:
    query = f"SELECT event_id, rule, {', '.join(EVENT_FIELDS)} FROM event WHERE ts_ms > {since_ms}"
    with closing(sqlite3.connect(path)) as db:
        return {name: tuple(fields) for name, *fields in db.execute(query)}


def outcomes(path: Path) -> set[tuple[object, ...]]:
    query = "SELECT event_id, horizon_bars, outcome.ts_ms, ret, hit FROM outcome JOIN event USING (n)"
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(query).fetchall()
    assert len(set(rows)) == len(rows)
    return set(rows)


def states(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT * FROM state ORDER BY symbol").fetchall()


def plain(event: np.void, names: tuple[str, ...]) -> tuple[object, ...]:
    """Return fields as a log has them: `bar` of an event counts from when its detector was made."""
    return tuple(None if (value := event[name].item()) != value else value for name in names)


def batch(bars: np.ndarray, of: DetectorParams) -> list[tuple[object, ...]]:
    return [plain(event, EVENT_FIELDS) for event in Detector(of, SESSIONS).run(bars)]


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return tmp_path / "a.sqlite"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return tmp_path / "b.sqlite"


def test_with_the_same_parameters_everything_is_as_if_it_had_run_from_the_start(a: Path, b: Path) -> None:
    with EventLog(a, keep_bars=10_000, now_ms=StillClock().wall_ms) as log_a, open_log(b) as log_b:
        count_a, count_b = metrics(), metrics()
        first = session(log_a, count_a)
        for at in range(0, 500, 25):
            first.advance(part(at, at + 25))
        second = session(log_b, count_b)
        catch_up(Path(), config(a), second, SYMBOLS)
        assert second.is_warm
        assert events(b) == events(a)
        for at in range(500, 900):
            for own in (first, second):
                own.advance(part(at, at + 1))
        assert shown(count_b, RESUMED) == shown(count_a, RESUMED)
    assert len(events(a)) > 100
    assert events(b) == events(a)
    assert outcomes(b) == outcomes(a)
    assert states(b) == states(a)


def test_with_other_parameters_it_finds_what_the_batch_finds_in_those_bars(a: Path, b: Path) -> None:
    lead(a, 500)
    other = params(z_hi=1.1, window=40, swing_L=4)
    with open_log(b) as log:
        own = session(log, metrics(), other)
        catch_up(Path(), config(a), own, SYMBOLS)
        own.advance(part(500, 900))
    found = events(b)
    for symbol, bars in BARS.items():
        mine = [fields[1:] for name, fields in found.items() if name.startswith(symbol)]
        assert mine == batch(bars, other)
        assert len(mine) > 20


def test_of_bars_the_other_log_has_dropped_the_memory_of_the_detector_is_all_that_is_missing(a: Path, b: Path) -> None:
    keep = keep_bars(params())
    assert keep < 600
    lead(a, 700, keep=60)
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), config(a), own, SYMBOLS)
        kept = {s: log.bars_after(s, 0) for s in SYMBOLS}
        own.advance(part(700, 900))
    for symbol, bars in BARS.items():
        assert 60 <= kept[symbol].size < 160
        assert kept[symbol].tobytes() == bars[700 - kept[symbol].size : 700].tobytes()
        mine = [fields[1:] for name, fields in events(b).items() if name.startswith(symbol)]
        assert mine == batch(bars[700 - kept[symbol].size :], params())


def test_once_the_memory_is_full_the_events_are_those_of_the_other_runner(a: Path, b: Path) -> None:
    """To 1e-9, as `keep_bars` promises: further back than that nothing is remembered."""
    market_ = {"BTCUSDT": market(21, 3_000, "plain")}
    keep = keep_bars(params())
    with EventLog(a, keep_bars=2 * keep, now_ms=StillClock().wall_ms) as log_a, open_log(b) as log_b:
        first = session(log_a, metrics(), symbols=("BTCUSDT",))
        for at in range(0, 2_500, 50):
            first.advance({s: bars[at : at + 50] for s, bars in market_.items()})
        second = session(log_b, metrics(), symbols=("BTCUSDT",))
        catch_up(Path(), config(a), second, ["BTCUSDT"])
        n_taken = second.lanes["BTCUSDT"].rows
        assert 2 * keep <= n_taken < 2_500
        for own in (first, second):
            own.advance({s: bars[2_500:] for s, bars in market_.items()})
    warm_ms = int(market_["BTCUSDT"]["ts_ms"][2_500 - n_taken + keep])
    expected, found = events(a, warm_ms), events(b, warm_ms)
    assert found.keys() == expected.keys()
    assert len(found) > 50
    counts = EVENT_FIELDS.index("bar") + 1
    for name, fields in found.items():
        for i, (mine, theirs) in enumerate(zip(fields, expected[name], strict=True)):
            if i == counts:
                assert mine == theirs - (2_500 - n_taken)
            elif isinstance(theirs, float):
                assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
            else:
                assert mine == theirs


def test_a_log_of_ones_own_is_gone_on_with_and_a_hole_between_is_a_gap(a: Path, b: Path) -> None:
    fired = divergences(Detector(params(), SESSIONS).run(BARS["BTCUSDT"][:400]))["ts_ms"][-1]
    n_own = int(np.searchsorted(BARS["BTCUSDT"]["ts_ms"], fired)) + 5  # and no outcome of it yet
    assert n_own > 200
    lead(b, n_own)
    before = events(b)
    lead(a, 700, keep=60)
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), config(a), own, SYMBOLS)
        first = {s: int(log.bars_after(s, int(BARS[s]["ts_ms"][n_own - 1]))["ts_ms"][0]) for s in SYMBOLS}
        own.advance(part(700, 900))
    assert before.items() <= events(b).items()
    for symbol, bars in BARS.items():
        at = int(np.searchsorted(bars["ts_ms"], first[symbol]))
        assert at > 500
        mine = [fields[1:] for name, fields in events(b).items() if name.startswith(symbol)]
        assert mine == batch(np.concatenate([bars[:n_own], bars[at:]]), params())
    void = [row for row in outcomes(b) if row[3] is None and row[2] in first.values()]
    assert void


def test_what_the_own_log_has_is_not_taken_again(a: Path, b: Path) -> None:
    lead(a, 500)
    with open_log(b) as log:
        count = metrics()
        own = session(log, count)
        catch_up(Path(), config(a), own, SYMBOLS)
        before = events(b), outcomes(b), states(b), shown(count, RESUMED + LATENCIES)
        catch_up(Path(), config(a), own, SYMBOLS)
        assert (events(b), outcomes(b), states(b), shown(count, RESUMED + LATENCIES)) == before
    with open_log(b) as log:  # a restart, killed before anything else
        count = metrics()
        own = session(log, count)
        exposed = shown(count, RESUMED)
        catch_up(Path(), config(a), own, SYMBOLS)
        assert (events(b), outcomes(b), states(b)) == before[:3]
        assert shown(count, RESUMED) == exposed
        own.advance(part(500, 600))
        catch_up(Path(), config(a), own, SYMBOLS)  # the other one is behind
        assert {lane.rows for lane in own.lanes.values()} == {600}


def test_a_symbol_the_other_log_does_not_know_starts_where_its_own_log_ends(a: Path, b: Path) -> None:
    lead(a, 500, symbols=("BTCUSDT",))
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), config(a), own, SYMBOLS)
        assert {s: lane.rows for s, lane in own.lanes.items()} == {"BTCUSDT": 500, "ETHUSDT": 0}


@pytest.mark.parametrize("n", [500, 1])
def test_nothing_of_it_enters_a_latency_histogram(a: Path, b: Path, n: int) -> None:
    lead(b, 300)
    lead(a, 300 + n)
    with open_log(b) as log:
        count = metrics()
        own = session(log, count)
        before = shown(count, LATENCIES)
        catch_up(Path(), config(a), own, SYMBOLS)
        assert count.bind("divergence_bars_total").read() == 2 * (300 + n)
        assert shown(count, LATENCIES) == before
        at = 300 + n
        own.advance(part(at, at + 1), 0)
        after = shown(count, LATENCIES)
    assert after != before
    assert "divergence_commit_seconds_count 1" in after


def test_bars_its_own_log_refuses_are_held_and_entered_once(a: Path, b: Path, caplog: pytest.LogCaptureFixture) -> None:
    lead(a, 500)
    with open_log(b) as log:
        count = metrics()
        own = session(log, count)
        log.refusals = 1
        catch_up(Path(), config(a), own, SYMBOLS)
        assert own.is_stalled
        assert "what was caught up waits until the log accepts it" in caplog.text
        assert events(b) == {}
        own.retry()
        own.advance(part(500, 900))
        assert count.bind("divergence_commit_seconds").read() is not None
    lead(a.with_name("c.sqlite"), 900)
    assert events(b) == events(a.with_name("c.sqlite"))


def no_log(path: Path) -> None:
    path.unlink()


def other_length(path: Path) -> None:
    path.unlink()
    with EventLog(path, keep_bars=100, now_ms=StillClock().wall_ms) as log:
        intakes = {s: Intake(2_000) for s in SYMBOLS}
        Session(
            intakes,
            params(bar_ms=2_000),
            None,
            {},
            log=log,
            metrics=metrics(),
            clock=StillClock(),
            sessions=SESSIONS,
            horizons=HORIZONS,
        )


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(8_192, len(data), 4_096):
        data[at : at + 1_000] = b"\x5a" * 1_000
    path.write_bytes(data)


def sql(*statements: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            for statement in statements:
                db.execute(statement)

    return run


def foreign(path: Path) -> None:
    path.unlink()
    sql("CREATE TABLE x (y)")(path)


def below_zero(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for ts_ms, symbol, blob in db.execute("SELECT ts_ms, symbol, bar FROM bar").fetchall():
            bar = np.frombuffer(blob, STORED_BAR).copy()
            bar["close"] = -1.0
            db.execute("UPDATE bar SET bar = ? WHERE ts_ms = ? AND symbol = ?", (bar.tobytes(), ts_ms, symbol))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (no_log, "there is no event log"),
    "a folder": (a_folder, "could not be used"),
    "empty": (lambda path: path.write_text("") and None, "is empty"),
    "garbage": (garbage, "is damaged"),
    "damaged pages": (holes, "is damaged"),
    "foreign": (foreign, "is a database of something"),
    "another schema": (sql("PRAGMA user_version = 99"), "expected schema 1, found 99"),
    "bars of another length": (other_length, "holds bars of 2000 ms, expected 1000 ms"),
    "without a configuration": (sql("DELETE FROM config"), "holds no configuration"),
    "a configuration that is none": (sql("UPDATE config SET document = '{}'"), "its configuration cannot be read"),
    "bars cut short": (sql("UPDATE bar SET bar = substr(bar, 1, 20)"), "bytes each"),
    "bars that are text": (sql("UPDATE bar SET bar = 'x'"), "bytes each"),
    "bars moved in time": (sql("UPDATE bar SET ts_ms = ts_ms + 1"), "the log is damaged"),
    "a time that is text": (sql("UPDATE state SET ts_ms = 'x'"), "is damaged: a value is not of its column's kind"),
    "no bars": (sql("DELETE FROM bar"), "the log is damaged"),
    "another intake": (sql("UPDATE state SET intake = x'00'"), "BTCUSDT is not caught up"),
    "a price below zero": (below_zero, "BTCUSDT is not caught up"),
}


@pytest.mark.parametrize("name", BAD)
def test_whatever_is_wrong_with_the_other_log_is_told_and_stops_nothing(
    a: Path, b: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    lead(a, 200)
    spoil, told = BAD[name]
    spoil(a)
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), config(a), own, SYMBOLS)
        assert {lane.rows for lane in own.lanes.values()} == {0}
        assert told in caplog.text
        assert str(a) in caplog.text
        assert {r.levelname for r in caplog.records} == {"WARNING"}
        own.advance(part(0, 900))
    lead(a.with_name("c.sqlite"), 900)
    assert events(b) == events(a.with_name("c.sqlite"))
    assert states(b) == states(a.with_name("c.sqlite"))


def test_one_bad_symbol_keeps_no_other_from_catching_up(a: Path, b: Path) -> None:
    lead(a, 200)
    sql("UPDATE state SET intake = x'00' WHERE symbol = 'BTCUSDT'")(a)
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), config(a), own, SYMBOLS)
        assert {s: lane.rows for s, lane in own.lanes.items()} == {"BTCUSDT": 0, "ETHUSDT": 200}


def test_without_another_log_nothing_is_read(b: Path) -> None:
    with open_log(b) as log:
        own = session(log, metrics())
        catch_up(Path(), Config(), own, SYMBOLS)
        assert {lane.rows for lane in own.lanes.values()} == {0}


@pytest.fixture
def links(a: Path) -> list[str]:
    lead(a, 10)
    a.with_name("soft").symlink_to(a)
    a.with_name("hard").hardlink_to(a)
    return ["a.sqlite", str(a), "soft", "hard", f"../{a.parent.name}/a.sqlite"]


def test_ones_own_log_is_refused_under_whatever_name(a: Path, links: list[str]) -> None:
    for name in links:
        with pytest.raises(ConfigError, match=r"runner.warm_from: .* is this runner's own log"):
            refuse_own_log(a.parent, Config.model_validate({"runner": {"log": "a.sqlite", "warm_from": name}}))
    refuse_own_log(a.parent, Config.model_validate({"runner": {"log": "a.sqlite", "warm_from": "b.sqlite"}}))
    refuse_own_log(a.parent, Config.model_validate({"runner": {"log": "c.sqlite", "warm_from": "a.sqlite"}}))
    refuse_own_log(a.parent, Config.model_validate({"runner": {"log": "c.sqlite", "warm_from": "c.sqlite"}}))
