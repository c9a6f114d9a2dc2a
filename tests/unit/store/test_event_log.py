"""The event log: what goes in once comes out the same, and is told once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store import event_batches as made
from v13.detector.dtypes import BAR, CHANNELS, EVENT, KINDS, OFI_CVD_CONFLICT, TYPES
from v13.errors import ConfigError, StoreError
from v13.store import event_reader
from v13.store.event_log import ActiveConfig, Batch, Checkpoint, EventLog, LoggedEvent, Outcome, event_id
from v13.store.event_reader import EventReader, read_events
from v13.store.event_schema import SCHEMA, TABLES

NOW_MS = made.T0 + 10**9
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SIDES = {1: "bull", -1: "bear", 0: "none"}


def open_log(path: Path, keep_bars: int = 1_000, now_ms: Callable[[], int] = lambda: NOW_MS) -> EventLog:
    return EventLog(path, keep_bars=keep_bars, now_ms=now_ms)


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(StoreError) as caught:
        action()
    return str(caught.value)


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table, as SQLite gives them, n of the event replaced by its id."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        ids = dict(db.execute("SELECT n, event_id FROM event").fetchall())
    rows["event"] = [row[1:] for row in rows["event"]]
    for table in ("calibrated", "outcome"):
        rows[table] = [(horizon, ids[n], *rest) for horizon, n, *rest in rows[table]]
    return {table: sorted(found, key=repr) for table, found in rows.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live" / "events.sqlite"


@pytest.fixture
def filled(path: Path) -> Path:
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 60))
    return path


def test_every_field_of_an_event_comes_back_as_it_was(filled: Path) -> None:
    sent = [e for symbol in SYMBOLS for e in made.events(symbol, 1, 60)]
    with closing(sqlite3.connect(filled)) as db:
        rows = db.execute(f"SELECT {', '.join(EVENT.names)} FROM event ORDER BY n").fetchall()
        others = db.execute("SELECT event_id, symbol, row, rule, config_version, committed_ms FROM event ORDER BY n")
        assert others.fetchall() == [
            (event_id(e.symbol, e.event), e.symbol, e.row, e.rule, e.config_version, NOW_MS) for e in sent
        ]
        calibrated = db.execute(
            "SELECT event_id, horizon_bars, prob, p_low, p_high, expected_return FROM calibrated JOIN event USING (n)"
        ).fetchall()
    back = np.array([tuple(np.nan if x is None else x for x in row) for row in rows], EVENT)
    assert back.tobytes() == np.array([e.event for e in sent], EVENT).tobytes()
    assert set(calibrated) == {
        (event_id(e.symbol, e.event), h, *numbers) for e in sent for h, numbers in e.calibrated.items()
    }


def test_an_id_is_symbol_time_and_type(path: Path) -> None:
    divergence, hint = made.events("BTCUSDT", 30, 30)
    assert event_id("BTCUSDT", divergence.event) == f"BTCUSDT-{made.ts_of(30)}-hidden_bull"
    assert event_id("BTCUSDT", hint.event) == f"BTCUSDT-{made.ts_of(30)}-ofi_cvd_conflict"
    with open_log(path) as log:
        assert len(log.commit(Batch(events=[divergence, hint])).new_events) == 2


def test_a_batch_handed_in_again_adds_and_tells_nothing(filled: Path) -> None:
    before = content(filled)
    with open_log(filled, now_ms=lambda: NOW_MS + 5) as log:
        again = log.commit(made.batch(SYMBOLS, 1, 60))
        assert again == ([], [])
        later = log.commit(made.batch(SYMBOLS, 50, 70))
    assert later.new_events == [event_id(s, e.event) for s in SYMBOLS for e in made.events(s, 61, 70)]
    assert later.new_outcomes == [o for s in SYMBOLS for o in made.outcomes(s, 61, 70)]
    with closing(sqlite3.connect(filled)) as db:  # rows from before keep the time they were entered at
        assert db.execute("SELECT count(*) FROM event WHERE committed_ms = ?", (NOW_MS,)).fetchone()[0] == len(
            before["event"]
        )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 30), st.booleans()), min_size=1, max_size=12))
def test_any_cutting_with_any_repeats_and_reopenings_gives_the_same_log(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    told: list[str] = []
    rows = 0
    log = open_log(folder / "cut", keep_bars=10_000)
    for n, back, is_reopened in cuts:
        told += log.commit(made.batch(SYMBOLS, max(1, rows + 1 - back), rows + n)).new_events
        rows += n
        if is_reopened:
            log.close()
            log = open_log(folder / "cut", keep_bars=10_000)
    log.close()
    with open_log(folder / "whole", keep_bars=10_000) as whole:
        assert sorted(whole.commit(made.batch(SYMBOLS, 1, rows)).new_events) == sorted(told)
    cut, expected = content(folder / "cut"), content(folder / "whole")
    cut.pop("checkpoint"), expected.pop("checkpoint")  # they fall where batches end
    assert cut == expected


def test_states_and_checkpoints_are_the_last_ones_also_after_reopening(path: Path) -> None:
    with open_log(path) as log:
        for last in (20, 40):
            one = made.batch(SYMBOLS, last - 19, last)
            log.commit(one)
    with open_log(path) as log:
        assert log.states() == one.states
        assert log.checkpoints() == one.checkpoints
        assert log.checkpoints()["BTCUSDT"] == Checkpoint(made.ts_of(40), 40, b"detector 40", 1)
        log.commit(made.batch(SYMBOLS, 1, 20))  # handed in again: nobody goes back
        assert (log.states(), log.checkpoints()) == (one.states, one.checkpoints)


def test_bars_come_back_byte_by_byte_in_the_order_of_time(path: Path) -> None:
    sent = made.bars("BTCUSDT", 1, 50)
    with open_log(path) as log:
        log.commit(Batch(bars={"BTCUSDT": sent[30:], "OTHER": made.bars("OTHER", 1, 9)}))
        log.commit(Batch(bars={"BTCUSDT": sent[:30][::-1]}))
        assert log.bars_after("BTCUSDT", 0).tobytes() == sent.tobytes()
        assert log.bars_after("BTCUSDT", made.ts_of(12)).tobytes() == sent[12:].tobytes()
        assert log.last_bars("BTCUSDT", 7).tobytes() == sent[-7:].tobytes()
        assert log.last_bars("BTCUSDT", 99).tobytes() == sent.tobytes()
        for none in (log.bars_after("BTCUSDT", made.ts_of(50)), log.last_bars("BTCUSDT", 0), log.last_bars("NONE", 5)):
            assert none.dtype == BAR
            assert none.size == 0


@pytest.mark.parametrize(("keep", "first_kept"), [(1, 30), (10, 21), (30, 1), (500, 1)])
def test_a_checkpoint_removes_the_bars_before_the_kept_ones_of_its_symbol(
    path: Path, keep: int, first_kept: int
) -> None:
    with open_log(path, keep_bars=keep) as log:
        log.commit(Batch(bars={symbol: made.bars(symbol, 1, 40) for symbol in SYMBOLS}))
        log.commit(Batch(checkpoints={"BTCUSDT": Checkpoint(made.ts_of(30), 30, b"", 1)}))
        assert log.bars_after("BTCUSDT", 0).tobytes() == made.bars("BTCUSDT", first_kept, 40).tobytes()
        assert log.bars_after("ETHUSDT", 0).size == 40


def test_bars_that_may_wait_are_removed_in_the_order_of_time_and_found_again_after_reopening(path: Path) -> None:
    def checkpoint(log: EventLog, symbol: str) -> None:
        log.commit(Batch(checkpoints={symbol: Checkpoint(made.ts_of(30), 30, b"", 1)}))

    def kept(log: EventLog) -> list[int]:
        return [log.bars_after(symbol, 0).size for symbol in SYMBOLS[:2]]

    def open_waiting() -> EventLog:
        return EventLog(path, keep_bars=10, n_may_wait=20, now_ms=lambda: NOW_MS)

    first, second = SYMBOLS[:2]
    with open_waiting() as log:
        log.commit(Batch(bars={symbol: made.bars(symbol, 1, 40) for symbol in SYMBOLS[:2]}))
        checkpoint(log, first)
        assert kept(log) == [40, 40]  # 20 are surplus, and 20 may wait
        checkpoint(log, second)
        assert kept(log) == [30, 30]  # the oldest 20 of 40 are gone, of both alike
    with open_waiting() as log:
        checkpoint(log, first)
        checkpoint(log, second)
        assert kept(log) == [30, 30]
    with open_log(path, keep_bars=10) as log:
        checkpoint(log, first)
        checkpoint(log, second)
        assert kept(log) == [20, 20]


def test_a_checkpoint_that_was_undone_removes_its_bars_when_it_is_handed_in_again(path: Path) -> None:
    checkpoint = {"BTCUSDT": Checkpoint(made.ts_of(30), 30, b"", 1)}
    with open_log(path, keep_bars=10) as log:
        log.commit(Batch(bars={"BTCUSDT": made.bars("BTCUSDT", 1, 40)}, configs=[ActiveConfig(1, 1, "f1", "{}")]))
        refusal(lambda: log.commit(Batch(checkpoints=checkpoint, configs=[ActiveConfig(1, 1, "other", "{}")])))
        assert log.bars_after("BTCUSDT", 0).size == 40
        log.commit(Batch(bars={"BTCUSDT": made.bars("BTCUSDT", 35, 50)}, checkpoints=checkpoint))
        assert log.bars_after("BTCUSDT", 0).tobytes() == made.bars("BTCUSDT", 21, 50).tobytes()


def test_pending_are_the_events_with_a_side_and_no_outcome(path: Path) -> None:
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 60))
        pending = log.pending((*made.HORIZONS, 99))
    settled = {(o.event_id, o.horizon_bars) for s in SYMBOLS for o in made.outcomes(s, 1, 60)}
    expected = [
        (event_id(s, e.event), s, e.row, e.event["px"], e.event["side"], e.event["source"], e.event["ts_ms"], h)
        for h in (*made.HORIZONS, 99)
        for s in SYMBOLS
        for e in made.events(s, 1, 60)
        if e.event["side"] != 0 and (event_id(s, e.event), h) not in settled
    ]
    assert [tuple(p) for p in pending] == expected
    assert 0 < sum(p.horizon_bars == 10 for p in pending) < sum(p.horizon_bars == 20 for p in pending)


def test_the_outcome_of_an_unknown_event_undoes_the_whole_batch(path: Path) -> None:
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 30))
        before = content(path)
        bad = made.batch(SYMBOLS, 31, 60)
        bad.outcomes.append(Outcome("BTCUSDT-1-bull_div", 10, 1, 0.1, 1))
        assert "BTCUSDT-1-bull_div: there is no such event" in refusal(lambda: log.commit(bad))
        assert content(path) == before
        bad.outcomes.pop()
        assert len(log.commit(bad).new_events) == sum(len(made.events(s, 31, 60)) for s in SYMBOLS)


def test_a_row_that_is_wrong_is_refused_and_not_left_out(path: Path) -> None:
    event = made.events("BTCUSDT", 3, 3)[0]
    with open_log(path) as log:
        assert "rule" in refusal(lambda: log.commit(Batch(events=[event._replace(rule=None)])))
        assert "EVENT" in refusal(lambda: log.commit(Batch(events=[event._replace(event=made.bars("B", 1, 1)[0])])))
        wrong = np.zeros(1, [("ts_ms", "i8")])
        assert "expected a one-dimensional BAR array" in refusal(lambda: log.commit(Batch(bars={"BTCUSDT": wrong})))
        assert read_events(path).height == 0
        assert log.commit(Batch(events=[event])).new_events == [event_id("BTCUSDT", event.event)]


def test_the_active_config_is_that_of_the_highest_version(path: Path) -> None:
    one, two = ActiveConfig(1, 5, "f1", "{}"), ActiveConfig(2, 9, "f2", '{"z_hi": 2.0}')
    with open_log(path) as log:
        assert log.active_config() is None
        log.commit(Batch(configs=[two, one]))
        log.commit(Batch(configs=[one]))
        assert log.active_config() == two
        assert "config version 2 is f2 in the log, found f3" in refusal(
            lambda: log.commit(Batch(configs=[two._replace(fingerprint="f3")]))
        )


def test_tallies_are_what_counting_one_by_one_gives(path: Path) -> None:
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 400))
        tallies = log.tallies()
    events = {event_id(s, e.event): e.event for s in SYMBOLS for e in made.events(s, 1, 400)}
    divergences = [e for e in events.values() if e["type"] != OFI_CVD_CONFLICT]
    counted = Counter((CHANNELS[e["source"]], SIDES[int(e["side"])], KINDS[e["kind"]]) for e in divergences)
    assert {label: n for label, n in tallies.events.items() if n} == counted
    assert set(tallies.events) == {(c, s, k) for c in CHANNELS for s in ("bull", "bear") for k in ("regular", "hidden")}
    assert tallies.n_conflict_hints == len(events) - len(divergences) > 0
    for i, name in enumerate(CHANNELS):
        own = [e for e in divergences if e["source"] == i]
        assert tallies.scores[name].tolist() == [e["score"] for e in own]
        assert tallies.gaps[name].tolist() == [e["gap_bars"] for e in own]
    sent = [o for s in SYMBOLS for o in made.outcomes(s, 1, 400)]
    assert set(tallies.outcomes) == {(h, c) for h in made.HORIZONS for c in CHANNELS}
    for (horizon, name), one in tallies.outcomes.items():
        own = [o for o in sent if o.horizon_bars == horizon and CHANNELS[events[o.event_id]["source"]] == name]
        assert one.n_hit == sum(o.hit == 1 for o in own)
        assert one.n_miss == sum(o.hit == 0 for o in own)
        assert one.n_tie == sum(o.ret == 0 for o in own)
        assert one.n_void == sum(o.ret is None for o in own)
        valid = [o for o in own if o.ret is not None]
        assert Counter(zip(one.ret.tolist(), one.side.tolist(), strict=True)) == Counter(
            (o.ret, int(events[o.event_id]["side"])) for o in valid
        )
    assert sum(one.n_hit + one.n_miss + one.n_tie + one.n_void for one in tallies.outcomes.values()) == len(sent)
    assert min(min(one[:4]) for one in tallies.outcomes.values()) > 0


def test_tallies_of_an_empty_log_are_zeros(path: Path) -> None:
    with open_log(path) as log:
        tallies = log.tallies()
    assert set(tallies.events.values()) == {0}
    assert tallies.outcomes == {}
    assert [tallies.scores[name].size for name in CHANNELS] == [0, 0, 0]


def test_tallies_take_little_memory(path: Path) -> None:
    event = made.events("BTCUSDT", 3, 3)[0]
    many = np.repeat(np.array([event.event], EVENT), 40_000)
    many["ts_ms"] += np.arange(many.size)
    logged = [event._replace(event=one) for one in many]
    with open_log(path) as log:
        log.commit(Batch(events=logged, outcomes=[Outcome(event_id("BTCUSDT", e), 10, 1, 0.1, 1) for e in many]))
        tracemalloc.start()
        log.tallies()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 200 * many.size  # a list of tuples of the same rows takes 350 bytes an event and more


def test_an_interrupted_commit_leaves_nothing_and_the_log_goes_on(path: Path) -> None:
    ticks = iter([NOW_MS, KeyboardInterrupt(), NOW_MS])

    def now_ms() -> int:
        tick = next(ticks)
        if isinstance(tick, BaseException):
            raise tick
        return tick

    with open_log(path, now_ms=now_ms) as log:
        log.commit(made.batch(SYMBOLS, 1, 10))
        before = content(path)
        with pytest.raises(KeyboardInterrupt):
            log.commit(made.batch(SYMBOLS, 11, 20))
        assert content(path) == before
        assert log.commit(made.batch(SYMBOLS, 11, 20)).new_events


class Failing(sqlite3.Connection):
    """A disk whose next sync at a COMMIT fails: `keeps` says whether the transaction made it there all the same."""

    keeps: bool | None = None

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:  # type: ignore[override]
        keeps, is_now = Failing.keeps, sql == "COMMIT" and Failing.keeps is not None
        done = super().execute(sql if not is_now or keeps else "ROLLBACK", *arguments)
        if is_now:
            Failing.keeps = None
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return done


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("part", ["events", "outcomes"])
def test_a_commit_of_which_the_disk_did_not_say_whether_it_holds_is_told_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool, part: str
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **k, factory=Failing))
    first, second = made.batch(SYMBOLS, 1, 30), made.batch(SYMBOLS, 31, 40)
    with open_log(path) as log:
        log.commit(first)
        if part == "outcomes":
            log.commit(Batch(events=second.events))
            second.events = []
        Failing.keeps = keeps
        assert "disk I/O error" in refusal(lambda: log.commit(second))
        told = log.commit(second)
        third = log.commit(made.batch(SYMBOLS, 31, 50))
    assert told.new_events == [event_id(e.symbol, e.event) for e in second.events]
    assert told.new_outcomes == second.outcomes
    assert third.new_events == [event_id(s, e.event) for s in SYMBOLS for e in made.events(s, 41, 50)]


def test_a_log_has_one_writer_which_the_second_one_names(path: Path) -> None:
    with open_log(path) as log:
        assert f"process {os.getpid()} writes this log already" in refusal(lambda: open_log(path))
        assert log.commit(made.batch(SYMBOLS, 1, 3)).new_events  # the refused one did no harm
    with open_log(path) as log:
        assert log.states()["BTCUSDT"].rows == 3


def test_a_closed_log_and_a_log_without_bars_to_keep_are_refused(path: Path) -> None:
    log = open_log(path)
    log.close()
    log.close()
    assert "is closed" in refusal(log.states)
    assert "is closed" in refusal(lambda: log.commit(Batch()))
    with pytest.raises(ConfigError, match="keep_bars"):
        open_log(path, keep_bars=0)


def test_a_file_moved_away_from_under_the_runner_is_noticed(filled: Path) -> None:
    with open_log(filled) as log:
        filled.rename(filled.with_name("moved"))
        assert "was moved away" in refusal(lambda: log.commit(made.batch(SYMBOLS, 61, 62)))
        assert not filled.exists()
        filled.with_name("moved").rename(filled)
        assert log.commit(made.batch(SYMBOLS, 61, 63)).new_events


def test_another_kind_of_file_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    for action in (lambda: open_log(path), lambda: read_events(path)):
        assert "is a database of something else" in refusal(action)
    assert path.read_bytes() == before
    path.write_text("a text of some length that is no database" * 100, encoding="utf-8")
    for action in (lambda: open_log(path), lambda: read_events(path)):
        assert "is damaged (file is not a database)" in refusal(action)


@pytest.mark.parametrize(
    ("change", "reason"),
    [("PRAGMA user_version = 7", "expected schema 1, found 7"), ("ALTER TABLE bar ADD x", "are not those of schema 1")],
)
def test_a_log_of_another_schema_is_refused(filled: Path, change: str, reason: str) -> None:
    with closing(sqlite3.connect(filled)) as db:
        db.execute(change)
    for action in (lambda: open_log(filled), lambda: read_events(filled)):
        assert reason in refusal(action)


def test_the_schema_number_goes_with_the_tables() -> None:
    digest = hashlib.sha256("\n".join(TABLES).encode()).hexdigest()[:16]
    assert (SCHEMA, digest) == (1, "e319c5c67c10bab1"), "the tables changed: raise SCHEMA, and put both numbers here"


def test_a_journal_without_its_file_is_not_thrown_away(filled: Path) -> None:
    journal = filled.with_name(filled.name + "-wal")
    filled.unlink()
    journal.write_bytes(b"commits")
    assert f"is missing or empty beside its {journal.name}" in refusal(lambda: open_log(filled))
    assert journal.read_bytes() == b"commits"


def test_a_reader_says_numbers_as_words_and_outcomes_by_name(filled: Path) -> None:
    frame = read_events(filled)
    sent = [e for s in SYMBOLS for e in made.events(s, 1, 60)]
    settled = {(o.event_id, o.horizon_bars): o for s in SYMBOLS for o in made.outcomes(s, 1, 60)}
    assert frame["n"].to_list() == list(range(1, len(sent) + 1))
    for row, e in zip(frame.iter_rows(named=True), sent, strict=True):
        assert (row["type"], row["side"], row["kind"]) == (
            TYPES[e.event["type"]],
            SIDES[int(e.event["side"])],
            KINDS[e.event["kind"]],
        )
        assert row["source"] == CHANNELS[e.event["source"]]
        assert row["agree"] == "|".join(c for i, c in enumerate(CHANNELS) if int(e.event["agree"]) >> i & 1)
        assert row["session"] == ("night", "day")[e.event["session"]]
        assert row["liquidity"] == ("quiet", "active")[e.event["liquidity"]]
        assert row["fallback"] is bool(e.event["fallback"])
        assert row["a_z"] == e.event["a_z"]
        assert (row["score"] is None) == bool(np.isnan(e.event["score"]))
        for h in made.HORIZONS:
            names = (f"{name}_{h}" for name in ("prob", "p_low", "p_high", "expected_return"))
            assert tuple(row[name] for name in names) == e.calibrated.get(h, (None,) * 4)
            assert row[f"outcome_{h}"] == word_of(settled.get((row["event_id"], h)))
    assert {"hit", "miss", "tie", "void", None} == set(frame["outcome_10"])


def word_of(outcome: Outcome | None) -> str | None:
    if outcome is None:
        return None
    if outcome.hit is None:
        return "void" if outcome.ret is None else "tie"
    return "hit" if outcome.hit else "miss"


@pytest.mark.parametrize("page", [1, 7, 10_000])
def test_filters_keep_what_they_say_whatever_the_page(filled: Path, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_events(filled)
    monkeypatch.setattr(event_reader, "PAGE_EVENTS", page)
    assert read_events(filled).equals(whole)
    since = made.ts_of(33)
    late = whole.filter(pl.col("ts_ms") >= since)
    assert 0 < late.height < whole.height
    assert read_events(filled, since_ms=since).equals(late)
    assert read_events(filled, symbols=["ETHUSDT", "NONE"]).equals(whole.filter(pl.col("symbol") == "ETHUSDT"))
    assert read_events(filled, since_ms=since, symbols=["BTCUSDT"]).equals(late.filter(pl.col("symbol") == "BTCUSDT"))
    for nothing in (read_events(filled, since_ms=made.ts_of(61)), read_events(filled, symbols=["NONE"])):
        assert nothing.schema == whole.schema
        assert nothing.height == 0
    with EventReader(filled) as reader:
        assert pl.concat(list(reader.pages(after=5))).equals(whole[5:])


def test_a_reader_of_an_empty_log_and_of_none(path: Path) -> None:
    assert "there is no event log" in refusal(lambda: read_events(path))
    assert not path.parent.exists()
    with open_log(path), EventReader(path) as reader:
        assert reader.horizons == []
        assert reader.latest() is None
        assert [frame.height for frame in reader.pages()] == [0]


def test_a_reader_sees_later_commits_and_a_file_that_was_replaced(filled: Path) -> None:
    with EventReader(filled) as reader:
        before = reader.latest()
        with open_log(filled) as log:
            log.commit(made.batch(SYMBOLS, 61, 70))
        after = reader.latest()
        assert before is not None
        assert after is not None
        assert after[0] == before[0] + sum(len(made.events(s, 61, 70)) for s in SYMBOLS)
        filled.rename(filled.with_name("moved"))
        assert "was moved away or replaced" in refusal(reader.latest)


def test_numbers_of_numpy_are_taken_as_numbers(path: Path) -> None:
    event = made.events("BTCUSDT", 3, 3)[0]
    numpy_like = LoggedEvent("BTCUSDT", np.int64(3), event.event, "global", np.int64(1), {np.int64(10): (0.5,) * 4})
    name = event_id("BTCUSDT", event.event)
    with open_log(path) as log:
        log.commit(
            Batch(events=[numpy_like], outcomes=[Outcome(name, np.int64(10), np.int64(9), np.float64(0.5), np.int8(1))])
        )
    assert read_events(path).select("row", "config_version", "prob_10", "ret_10", "outcome_10", "outcome_ts_ms_10").row(
        0
    ) == (3, 1, 0.5, 0.5, "hit", 9)


def test_more_bars_are_kept_once_more_are_asked_for_and_never_fewer(path: Path) -> None:
    with open_log(path, keep_bars=10) as log:
        for keep, first_kept in ((25, 6), (5, 16)):
            log.keep_at_least(keep)
            last = first_kept + 24
            log.commit(
                Batch(
                    bars={"BTCUSDT": made.bars("BTCUSDT", 1 if first_kept == 6 else 31, last)},
                    checkpoints={"BTCUSDT": Checkpoint(made.ts_of(last), last, b"", 1)},
                )
            )
            assert log.bars_after("BTCUSDT", 0).tobytes() == made.bars("BTCUSDT", first_kept, last).tobytes()
