"""Many symbols, one log: what a commit refused, a change of the configuration and a restart leave as it would be."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.live.lanes import HORIZONS, FickleLog, StillClock, calibration, market, open_log, params, session
from v13.errors import ConfigError, StoreError
from v13.live.lane import Lane
from v13.live.session import KEPT_TIMES, keep_bars
from v13.store.event_log import EventLog
from v13.store.event_schema import Batch, Checkpoint, Committed
from v13.telemetry import Metrics

BARS = {"BTCUSDT": market(2, 500), "ETHUSDT": market(9, 500)}
RESUMED = (
    "divergence_events_total",
    "divergence_conflict_hints_total",
    "divergence_suppressed_total",
    "divergence_bars_total",
    "divergence_score",
    "divergence_pairing_gap_bars",
    "divergence_forward_return",
    "divergence_hits_total",
    "divergence_outcomes",
)


def metrics() -> Metrics:
    return Metrics(HORIZONS, tuple(BARS))


def shown(of: Metrics) -> list[str]:
    """Return the lines of the metrics that resume from the log."""
    return [line for line in of.expose().decode().splitlines() if line.startswith(RESUMED)]


def table(path: Path, of: str) -> list[tuple[object, ...]]:
    query = {
        "event": "SELECT * FROM event ORDER BY event_id",
        "outcome": "SELECT event_id, horizon_bars, o.ts_ms, ret, hit FROM outcome o JOIN event USING (n) ORDER BY 1, 2",
        "state": "SELECT * FROM state ORDER BY symbol",
        "config": "SELECT * FROM config ORDER BY version",
    }[of]
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute(query).fetchall()
    return [row[1:-1] for row in rows] if of == "event" else rows  # not the order and the time of entry


def same_logs(a: Path, b: Path) -> None:
    for of in ("config", "state", "event", "outcome"):
        assert table(a, of) == table(b, of), of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[FickleLog]:
    with open_log(path) as opened:
        yield opened


def undisturbed(path: Path) -> Metrics:
    """Enter all bars, the first half of them one by one."""
    count = metrics()
    with open_log(path) as log:
        own = session(log, count)
        for i in range(250):
            own.advance({s: bars[i : i + 1] for s, bars in BARS.items()}, dict.fromkeys(BARS, 0))
        own.advance({s: bars[250:] for s, bars in BARS.items()})
    return count


def test_what_a_commit_refuses_is_kept_counted_as_nothing_and_entered_later(
    log: FickleLog, path: Path, tmp_path: Path
) -> None:
    expected = undisturbed(tmp_path / "other.sqlite")
    count = metrics()
    own = session(log, count)
    own.advance({s: bars[:200] for s, bars in BARS.items()})
    before = shown(count)
    log.refusals = 3
    with pytest.raises(StoreError, match="the disk refuses"):
        own.advance({s: bars[200:400] for s, bars in BARS.items()})
    for _ in range(2):
        assert own.is_stalled
        assert shown(count) == before
        assert count.bind("divergence_store_ok").read() == 0
        with pytest.raises(StoreError, match="stalled"):
            own.advance({s: bars[400:] for s, bars in BARS.items()})
        with pytest.raises(StoreError, match="stalled"):
            own.reconfigure(params(z_hi=2.0), None, {})
        own.checkpoint()  # enters nothing
        with pytest.raises(StoreError, match="the disk refuses"):
            own.retry()
    assert count.bind("divergence_errors_total", stage="store").read() == 3
    own.retry()
    assert not own.is_stalled
    assert count.bind("divergence_store_ok").read() == 1
    own.retry()  # there is nothing left to do
    own.advance({s: bars[400:] for s, bars in BARS.items()})
    same_logs(path, tmp_path / "other.sqlite")
    assert shown(count) == shown(expected)


def test_a_log_that_cannot_be_read_at_a_change_loses_no_bar(log: FickleLog) -> None:
    own = session(log, metrics())
    own.advance({s: bars[:200] for s, bars in BARS.items()})
    own.reconfigure(params(z_hi=1.2), None, {})
    log.read_refusals = 1
    with pytest.raises(StoreError, match="cannot be read"):
        own.advance({s: bars[200:] for s, bars in BARS.items()})
    assert own.is_stalled
    assert log.states()["BTCUSDT"].rows == 200
    own.retry()
    assert not own.is_stalled
    assert {s: state.rows for s, state in log.states().items()} == {"BTCUSDT": 500, "ETHUSDT": 500}
    assert {row[-1] for row in table(log.path, "event")} == {1, 2}


Action = tuple[str, int, float]  # what, how much, threshold
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(list(BARS)), st.integers(1, 120), st.just(0.0)),
        st.tuples(st.just("both"), st.integers(1, 120), st.just(0.0)),
        st.tuples(st.just("change"), st.just(0), st.sampled_from([0.8, 1.0, 1.2])),
        st.tuples(st.just("calibrate"), st.just(0), st.just(0.0)),
    ),
    min_size=4,
    max_size=14,
)


def act(path: Path, actions: list[Action], *, restarts: bool, checkpoint_bars: int) -> Metrics:
    """Do all of it with one session, or with a new one for each action."""
    at, now, curves = dict.fromkeys(BARS, 0), params(), None
    count = metrics()
    log = open_log(path)
    own = session(log, count, now, checkpoint_bars=checkpoint_bars)
    for what, n, z_hi in [*actions, ("both", 10_000, 0.0)]:
        if restarts:
            log.close()
            log, count = open_log(path), metrics()
            own = session(log, count, now, curves=curves, checkpoint_bars=checkpoint_bars)
            assert own.notes == []
        if what == "change":
            now = params(z_hi=z_hi)
            own.reconfigure(now, curves, {})
        elif what == "calibrate":
            curves = None if curves else calibration()
            own.reconfigure(now, curves, {})
        else:
            symbols = list(BARS) if what == "both" else [what]
            own.advance({s: BARS[s][at[s] : at[s] + n] for s in symbols})
            for s in symbols:
                at[s] = min(500, at[s] + n)
    log.close()
    return count


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, checkpoint_bars=st.sampled_from([1, 60, 10_000]))
def test_a_restart_before_every_step_leaves_the_log_as_it_would_be(
    tmp_path_factory: pytest.TempPathFactory, actions: list[Action], checkpoint_bars: int
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    for restarts, name in ((False, "a"), (True, "b")):
        act(folder / name, actions, restarts=restarts, checkpoint_bars=checkpoint_bars)
    same_logs(folder / "a", folder / "b")


def test_a_symbol_that_lags_is_judged_by_what_was_in_force_at_each_of_its_bars(log: FickleLog, path: Path) -> None:
    own = session(log, metrics())
    own.advance({"BTCUSDT": BARS["BTCUSDT"][:200]})
    first = own.reconfigure(params(z_hi=1.0), None, {})
    own.advance({"BTCUSDT": BARS["BTCUSDT"][200:300]})
    second = own.reconfigure(params(z_hi=1.2), None, {})
    own.advance(BARS | {"BTCUSDT": BARS["BTCUSDT"][300:]})
    since = (first.since_ms, second.since_ms)
    assert since == (BARS["BTCUSDT"]["ts_ms"][199], BARS["BTCUSDT"]["ts_ms"][299])
    events = table(path, "event")
    fields = sqlite_columns(path)
    versions = {1: 0, 2: 0, 3: 0}
    for row in events:
        event = dict(zip(fields, row, strict=True))
        version = 1 + sum(event["ts_ms"] > s for s in since)
        assert event["config_version"] == version
        versions[version] += event["symbol"] == "ETHUSDT"
        if event["side"]:
            assert event["z_hi"] == pytest.approx({1: 0.8, 2: 1.0, 3: 1.2}[version] + 0.1 * event["liquidity"])
    assert min(versions.values()) > 0, "the lagging symbol has no events under one of them"


def sqlite_columns(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [name for _, name, *_ in db.execute("PRAGMA table_info(event)")][1:-1]


def test_bars_on_both_sides_of_a_change_are_entered_together(log: FickleLog) -> None:
    """A kill between two commits of one hand-over would lose the rest: its messages are no longer with the intake."""
    own = session(log, metrics())
    own.advance({"BTCUSDT": BARS["BTCUSDT"][:200]})
    own.reconfigure(params(z_hi=1.2), None, {})
    log.refusals = 1
    with pytest.raises(StoreError):
        own.advance({"ETHUSDT": BARS["ETHUSDT"]})
    assert "ETHUSDT" not in log.states()
    own.retry()
    assert log.states()["ETHUSDT"].rows == 500


def test_counters_resume_to_what_they_were(path: Path) -> None:
    count = undisturbed(path)
    with open_log(path) as log:
        again = metrics()
        session(log, again)
    assert shown(again) == shown(count)
    assert sum(line.endswith(" 0.0") or line.endswith(" 0") for line in shown(count)) < len(shown(count)) / 2


def test_the_same_configuration_makes_no_new_version_and_another_does(path: Path) -> None:
    for document, version in (({}, 1), ({}, 1), ({"files": "new"}, 2), ({"files": "new"}, 2)):
        with open_log(path) as log:
            own = session(log, metrics(), document=document)
            assert own.active.version == version
            assert own.active.label.startswith(f"{version}-")


def test_bars_of_another_length_are_refused(path: Path) -> None:
    with open_log(path) as log:
        own = session(log, metrics())
        with pytest.raises(ConfigError, match=r"features\.bar_ms: expected 1000, .* found 2000"):
            own.reconfigure(params(bar_ms=2_000), None, {})
    with open_log(path) as log, pytest.raises(StoreError, match="bars of another length"):
        session(log, metrics(), params(bar_ms=2_000))


def test_a_change_the_log_refuses_leaves_the_old_one(log: FickleLog) -> None:
    own = session(log, metrics())
    log.refusals = 1
    with pytest.raises(StoreError):
        own.reconfigure(params(z_hi=2.0), None, {})
    assert own.active.version == 1
    assert not own.is_stalled
    own.advance(BARS)
    assert {row[-1] for row in table(log.path, "event")} == {1}


def test_a_damaged_checkpoint_is_told_and_a_damaged_state_refused(path: Path) -> None:
    undisturbed(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE checkpoint SET detector = x'00' WHERE symbol = 'ETHUSDT'")
    with open_log(path) as log:
        own = session(log, metrics())
    assert len(own.notes) == 1
    assert own.notes[0].startswith("ETHUSDT: snapshot: damaged")
    assert own.notes[0].endswith(f"fed the last {keep_bars(params())} bars of the log instead")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE state SET intake = x'00'")
    with open_log(path) as log, pytest.raises(StoreError, match="the state of BTCUSDT is damaged"):
        session(log, metrics())


def test_a_checkpoint_is_written_every_so_many_bars_and_when_asked(log: FickleLog) -> None:
    own = session(log, metrics(), symbols=("BTCUSDT",), checkpoint_bars=50)
    seen = []
    for i in range(120):
        own.advance({"BTCUSDT": BARS["BTCUSDT"][i : i + 1]})
        seen.append(log.checkpoints()["BTCUSDT"].rows)
    first, *later = sorted(set(seen))
    assert first == 1
    assert {b - a for a, b in pairwise(later)} == {50}
    assert later[0] <= 51  # at the symbol's own phase
    own.checkpoint()
    assert log.checkpoints()["BTCUSDT"].rows == 120


def test_latencies_are_of_single_bars_and_of_what_a_message_closed(path: Path) -> None:
    count = undisturbed(path)
    text = count.expose().decode()
    n = sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("divergence_detection_latency_seconds_count")
    )
    assert n == 500  # 250 single bars of two symbols; chunks say nothing of a bar
    (line,) = [x for x in text.splitlines() if x.startswith("divergence_pipeline_latency_seconds_count")]
    early = [row for row in table(path, "event") if int(str(row[2])) < 250]  # by bar; the rest came without a message
    assert float(line.rpartition(" ")[2]) == len(early) > 0


def test_an_event_waits_since_the_message_that_closed_its_own_bar(path: Path) -> None:
    count = metrics()
    with open_log(path) as log:
        own = session(log, count)
        done_ns = StillClock().monotonic_ns()
        for i in range(250):
            received = {"BTCUSDT": done_ns - 2_000_000_000, "ETHUSDT": done_ns - 7_000_000_000}
            own.advance({s: bars[i : i + 1] for s, bars in BARS.items()}, received)
    by_symbol = Counter(row[1] for row in table(path, "event"))
    counts, total = count.bind("divergence_pipeline_latency_seconds").read()
    assert sum(counts) == by_symbol["BTCUSDT"] + by_symbol["ETHUSDT"]
    assert min(by_symbol.values()) > 0
    assert total == pytest.approx(2 * by_symbol["BTCUSDT"] + 7 * by_symbol["ETHUSDT"])


def test_no_bars_are_no_commit(log: FickleLog) -> None:
    own = session(log, metrics())
    log.refusals = 1
    own.advance({"BTCUSDT": np.empty(0, BARS["BTCUSDT"].dtype)})
    assert not own.is_stalled
    assert log.refusals == 1


def test_a_checkpoint_that_is_due_is_taken_after_the_commit_and_entered_with_the_next(
    log: FickleLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for it then; and where no next one comes the last one, and the bars since, are enough."""
    own = session(log, metrics(), symbols=("BTCUSDT",), checkpoint_bars=5)
    order: list[str] = []
    commit, checkpoint = log.commit, Lane.checkpoint

    def committed(batch: Batch) -> Committed:
        order.append("commit with" if batch.checkpoints else "commit")
        return commit(batch)

    def taken(lane: Lane) -> Checkpoint:
        order.append("checkpoint")
        return checkpoint(lane)

    own.advance({"BTCUSDT": BARS["BTCUSDT"][:1]})
    monkeypatch.setattr(log, "commit", committed)
    monkeypatch.setattr(Lane, "checkpoint", taken)
    for i in range(1, 12):
        own.advance({"BTCUSDT": BARS["BTCUSDT"][i : i + 1]})
    assert order.count("checkpoint") == 2
    for i, what in enumerate(order):
        if what == "checkpoint":
            assert order[i - 1] == "commit"
            assert order[i + 1] == "commit with"
    assert order.count("commit with") == 2


def test_the_log_keeps_what_a_longer_memory_needs_from_the_change_on(path: Path) -> None:
    short, long = params(window=30), params(window=3_000)
    bars = market(2, 16_000)
    with EventLog(path, keep_bars=keep_bars(short), now_ms=lambda: 0) as log:
        own = session(log, metrics(), short, symbols=("BTCUSDT",))
        own.advance({"BTCUSDT": bars[:2_000]})
        assert log.last_bars("BTCUSDT", 10**6).size == keep_bars(short)
        own.reconfigure(long, None, {})
        for first in range(2_000, 16_000, 1_000):
            own.advance({"BTCUSDT": bars[first : first + 1_000]})
        assert log.last_bars("BTCUSDT", 10**6).size >= KEPT_TIMES * keep_bars(long) > 2_000
