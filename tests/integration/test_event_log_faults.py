"""The event log under SIGKILL, a full disk, a read-only one, damaged bytes, a second writer, and readers."""

from __future__ import annotations

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.conftest import REPO
from tests.unit.store import conftest as disks
from tests.unit.store import event_batches as made
from tests.unit.store.conftest import Disk
from v13.errors import StoreError
from v13.store.event_log import Batch, EventLog, event_id
from v13.store.event_reader import EventReader, read_events
from v13.store.event_salvage import salvage

small_disk = disks.small_disk  # the fixture

NOW_MS = made.T0 + 10**9
SYMBOLS = ("BTCUSDT", "ETHUSDT", "XRPUSDT")
N_KILLS = int(os.environ.get("V13_KILLS", "12"))  # a stress run sets hundreds
KEEP_BARS = 40  # less than a run is long, so that bars are removed as well

# Loads everything once, then becomes a new writer at each line it reads. A writer goes on where the log ends, hands in
# some of what is there again as a runner does that starts from a checkpoint, and says what it was told to be new. A
# line without a full stop was cut off by the kill.
WRITERS = f"""
import os, random, sys
from pathlib import Path
from tests.unit.store import event_batches as made
from v13.store.event_log import EventLog
def write(path, seed):
    print("writer", os.getpid(), ".", flush=True)
    pick = random.Random(seed)
    with EventLog(path, keep_bars={KEEP_BARS}, now_ms=lambda: {NOW_MS}) as log:
        rows = min((s.rows for s in log.states().values()), default=0)
        first = max(1, rows - 25)
        while True:
            last = first + pick.randrange(9)
            told = log.commit(made.batch({SYMBOLS!r}, first, last))
            outcomes = [f"{{o.event_id}}@{{o.horizon_bars}}" for o in told.new_outcomes]
            print("did", last, *told.new_events, *outcomes, ".", flush=True)
            first = last + 1
for seed in sys.stdin:
    child = os.fork()
    if child == 0:
        write(Path(sys.argv[1]), int(seed))
    os.waitpid(child, 0)
    print("\\ndead .", flush=True)
"""


def open_log(path: Path) -> EventLog:
    return EventLog(path, keep_bars=KEEP_BARS, now_ms=lambda: NOW_MS)


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(StoreError) as caught:
        action()
    return str(caught.value)


@contextmanager
def script(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", text, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        try:
            yield process
        finally:
            process.kill()


def begin(writers: subprocess.Popen[str], seed: int) -> None:
    assert writers.stdin is not None
    print(seed, file=writers.stdin, flush=True)


def hear(writers: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """Return the next whole line: its first word, and the others."""
    assert writers.stdout is not None
    while line := writers.stdout.readline():
        if line.endswith(" .\n"):
            word, *rest, _ = line.split()
            return word, rest
    pytest.fail("the writers ended")


def begin_one(writers: subprocess.Popen[str]) -> int:
    """Return the pid of a new writer that has committed."""
    begin(writers, 7)
    word, (pid,) = hear(writers)
    assert (word, hear(writers)[0]) == ("writer", "did")
    return int(pid)


def end_one(writers: subprocess.Popen[str], pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while hear(writers)[0] != "dead":
        pass


def names_up_to(rows: int) -> tuple[set[str], set[str]]:
    """Return the events and the outcomes (id@horizon) that the bars up to this row give."""
    events = {event_id(s, e.event) for s in SYMBOLS for e in made.events(s, 1, rows)}
    return events, {f"{o.event_id}@{o.horizon_bars}" for s in SYMBOLS for o in made.outcomes(s, 1, rows)}


def check_whole(path: Path) -> int:
    """Check that a log holds exactly what its rows give; return how many rows those are."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        events = [name for (name,) in db.execute("SELECT event_id FROM event")]
        outcomes = db.execute("SELECT event_id || '@' || horizon_bars FROM outcome JOIN event USING (n)").fetchall()
        states = db.execute("SELECT DISTINCT rows FROM state").fetchall()
        kept = db.execute("SELECT symbol, bar FROM bar ORDER BY symbol, ts_ms").fetchall()
        (checkpoint,) = db.execute("SELECT coalesce(max(rows), 0) FROM checkpoint").fetchone()
    assert len(states) == 1, "the symbols of one transaction stand at different rows"
    rows = int(states[0][0])
    expected_events, expected_outcomes = names_up_to(rows)
    assert sorted(events) == sorted(expected_events)
    assert sorted(name for (name,) in outcomes) == sorted(expected_outcomes)
    # Older bars that were handed in again after they had been removed may be there too, until the next checkpoint.
    for symbol in SYMBOLS:
        needed = made.bars(symbol, max(1, checkpoint - KEEP_BARS + 1), rows).tobytes()
        assert b"".join(bar for name, bar in kept if name == symbol).endswith(needed)
    return rows


def test_writers_killed_at_any_moment_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    path, pick = tmp_path / "events.sqlite", random.Random(13)
    told: list[str] = []
    n_rows = 0
    with script(WRITERS, str(path)) as writers:
        for _ in range(N_KILLS):
            begin(writers, pick.randrange(1_000_000))
            pid, n_read, said = 0, 0, 0
            kill_after = pick.randrange(1, 12)
            while True:
                word, rest = hear(writers)
                if word == "dead":
                    break
                if word == "writer":
                    pid = int(rest[0])
                else:
                    said, n_read = int(rest[0]), n_read + 1
                    told += rest[1:]
                if pid and n_read >= kill_after:
                    with suppress(ProcessLookupError):  # it is read on to the end after the kill
                        os.kill(pid, signal.SIGKILL)
            assert n_read >= kill_after, "the writer ended by itself"
            n_rows = check_whole(path)
            assert n_rows >= said, "a commit that had returned is not there"
    assert len(told) == len(set(told)), "something was told as new twice"
    events, outcomes = names_up_to(n_rows)
    assert set(told) <= events | outcomes
    # What is not told are the commits between whose return and whose saying the kill came: one a life at most.
    assert len(told) > 0.5 * len(events | outcomes)


def test_nobody_is_told_twice_and_whoever_restarts_knows_what_was_not_told(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    with script(WRITERS, str(path)) as writers:
        end_one(writers, begin_one(writers))
    rows = check_whole(path)
    with open_log(path) as log:
        tallies = log.tallies()
        assert log.commit(made.batch(SYMBOLS, 1, rows)) == ([], [])
    divergences = [e for s in SYMBOLS for e in made.events(s, 1, rows) if e.event["side"] != 0]
    assert sum(tallies.events.values()) == len(divergences)


@pytest.fixture
def disk(small_disk: Disk) -> Path:
    """Return a folder on a disk of 4 MiB."""
    subprocess.run([*small_disk.prefix, "mount", "-o", "remount,size=4m", str(small_disk.path)], check=True)
    return small_disk.path


def fill(place: Path) -> None:
    with place.open("wb", buffering=0) as sink:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    sink.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def test_a_full_disk_refuses_commits_until_there_is_room_and_then_the_log_goes_on(disk: Path) -> None:
    path = disk / "events.sqlite"
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 20))
        fill(disk / "filler")
        rows = 20
        message = ""
        while not message:  # the journal may have a little room left
            try:
                log.commit(made.batch(SYMBOLS, rows + 1, rows + 10))
                rows += 10
            except StoreError as error:
                message = str(error)
        assert message == f"{path}: the disk is full; nothing was entered; free some space, the log goes on by itself"
        for _ in range(3):
            assert "the disk is full" in refusal(lambda: log.commit(made.batch(SYMBOLS, rows + 1, rows + 10)))
            assert log.states()["BTCUSDT"].rows == rows
            assert read_events(path).height == len(names_up_to(rows)[0])
        (disk / "filler").unlink()
        told = log.commit(made.batch(SYMBOLS, rows + 1, rows + 10))
        assert set(told.new_events) == names_up_to(rows + 10)[0] - names_up_to(rows)[0]
    with open_log(path) as log:
        assert log.states()["BTCUSDT"].rows == rows + 10
    assert check_whole(path) == rows + 10


def test_a_commit_too_large_for_the_disk_gives_the_room_back(disk: Path) -> None:
    path = disk / "events.sqlite"
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 20))
        many = np.repeat(made.bars("BTCUSDT", 1, 1), 60_000)
        many["ts_ms"] = made.ts_of(20) + 1_000 * np.arange(1, many.size + 1)
        assert "the disk is full" in refusal(lambda: log.commit(Batch(bars={"BTCUSDT": many})))
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize > 3 << 20
        log.commit(made.batch(SYMBOLS, 21, 40))
    assert check_whole(path) == 40


def test_a_log_cannot_be_begun_on_a_full_disk_but_is_once_there_is_room(disk: Path) -> None:
    path = disk / "events.sqlite"
    fill(disk / "filler")
    assert refusal(lambda: open_log(path)) == f"{path}.lock: could not be locked: No space left on device"
    (disk / "filler").unlink()
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 20))
    assert check_whole(path) == 20


def test_a_disk_that_turns_read_only_refuses_writers_and_serves_readers(small_disk: Disk) -> None:
    path = small_disk.path / "events.sqlite"
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 20))
    whole = read_events(path)
    for leftover in ("-wal", "-shm"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    small_disk.make_read_only()
    assert "Read-only file system; the log's folder must be writable" in refusal(lambda: open_log(path))
    assert "Read-only file system" in refusal(lambda: open_log(small_disk.path / "sub" / "events.sqlite"))
    assert read_events(path).equals(whole)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "live" / "events.sqlite"
    with open_log(path) as log:
        log.commit(made.batch(SYMBOLS, 1, 120))
    assert sorted(x.name for x in path.parent.iterdir()) == [path.name, path.name + ".lock"]
    return path


def check_refused(path: Path) -> None:
    damaged = path.read_bytes()
    message = refusal(lambda: open_log(path))
    assert message.startswith(f"{path}: is damaged (")
    assert f"`v13 events --log THERE/{path.name} --salvage {path}`" in message
    assert f"move {path.name}, {path.name}-wal and {path.name}-shm" in message
    assert path.read_bytes() == damaged, "evidence was changed"


@pytest.mark.parametrize("kept", [0.5, 0.97])
@pytest.mark.parametrize("odd", [0, 777])
def test_a_file_cut_short_is_refused_with_what_to_do(filled: Path, kept: float, odd: int) -> None:
    size = int(filled.stat().st_size * kept) // 4_096 * 4_096 + odd
    os.truncate(filled, size)
    check_refused(filled)
    filled.rename(filled.with_name("damaged"))
    with open_log(filled) as log:  # as the message says
        log.commit(made.batch(SYMBOLS, 1, 20))
    assert check_whole(filled) == 20


def test_a_header_that_was_overwritten_is_refused(filled: Path) -> None:
    filled.write_bytes(b"\0" * 100 + filled.read_bytes()[100:])
    check_refused(filled)


def test_any_page_that_was_overwritten_is_refused_or_was_not_in_use(filled: Path) -> None:
    whole, rng = filled.read_bytes(), np.random.default_rng(13)
    before = read_events(filled)
    n_pages, n_refused, n_unused = len(whole) // 4_096, 0, 0
    for page in range(1, n_pages):
        start = page * 4_096
        filled.write_bytes(whole[:start] + rng.bytes(4_096) + whole[start + 4_096 :])
        try:
            open_log(filled).close()
        except StoreError as error:
            n_refused += "is damaged" in str(error)
        else:  # a page that removed bars have left
            n_unused += 1
            assert read_events(filled).equals(before)
            assert check_whole(filled) == 120
    assert n_refused == n_pages - 1 - n_unused > n_unused


def test_what_a_damaged_log_still_tells_is_salvaged_and_the_rest_can_be_handed_in_again(filled: Path) -> None:
    whole, rng, expected = filled.read_bytes(), np.random.default_rng(13), read_events(filled)
    damaged, n_lost = filled.with_name("damaged"), []
    for page in range(1, len(whole) // 4_096):
        start = page * 4_096
        damaged.write_bytes(whole[:start] + rng.bytes(4_096) + whole[start + 4_096 :])
        before = damaged.read_bytes()
        out = filled.with_name(f"salvaged-{page}")
        moved = salvage(damaged, out)
        assert damaged.read_bytes() == before
        frame = read_events(out)
        assert set(frame["event_id"]) <= set(expected["event_id"])
        assert frame.height == moved["event"]
        n_lost.append(expected.height - frame.height)
        with open_log(out) as log:
            log.tallies()
            log.commit(made.batch(SYMBOLS, 1, 120))
        assert check_whole(out) == 120
    assert sorted(n_lost)[len(n_lost) // 2] == 0  # most pages hold no event
    assert sum(0 < n < 30 for n in n_lost) > 5, "a page of events takes with it more than what it holds"


def test_salvage_leaves_other_files_alone(filled: Path) -> None:
    before = filled.read_bytes()
    assert "exists; name a file that does not" in refusal(lambda: salvage(filled, filled))
    other = filled.with_name("other")
    other.write_bytes(b"\0" * 100 + before[100:])
    assert "is damaged" in refusal(lambda: salvage(other, filled.with_name("new")))
    assert "could not be opened" in refusal(lambda: salvage(filled.with_name("none"), filled.with_name("new")))
    assert filled.read_bytes() == before
    assert not filled.with_name("new").exists()


def test_damage_that_comes_while_it_is_open_is_told_by_whoever_meets_it(filled: Path) -> None:
    many = np.repeat(made.bars("BTCUSDT", 1, 1), 180_000)  # more than SQLite keeps in memory
    many["ts_ms"] = made.ts_of(200) + np.arange(many.size)
    with open_log(filled) as log:
        log.commit(Batch(bars={"BTCUSDT": many}))
    with open_log(filled) as log:
        with filled.open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"\xff" * (20 << 20))
        assert "is damaged" in refusal(lambda: log.bars_after("BTCUSDT", 0))
        assert "is damaged" in refusal(lambda: log.commit(Batch(bars={"BTCUSDT": many})))
    check_refused(filled)


def test_a_second_process_is_refused_by_pid_until_the_first_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    with script(WRITERS, str(path)) as writers:
        pid = begin_one(writers)
        assert refusal(lambda: open_log(path)).startswith(f"{path}: process {pid} writes this log already")
        end_one(writers, pid)
        rows = check_whole(path)
        with open_log(path) as log:
            assert log.states()["BTCUSDT"].rows == rows


def test_readers_see_whole_transactions_while_a_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    heights = []
    with script(WRITERS, str(path)) as writers:
        pid = begin_one(writers)
        for _ in range(20):
            said = int(hear(writers)[1][0])
            frame = read_events(path)
            heights.append(frame.height)
            last = frame["row"].max() or 0
            assert last > said - 3
            assert set(frame["event_id"]) == names_up_to(last)[0]
            assert frame["event_id"].is_unique().all()
        end_one(writers, pid)
    assert len(set(heights)) > 3, "the writer stood still"
    assert check_whole(path) >= said


def test_a_reader_that_stops_half_way_does_not_hold_up_the_journal(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("v13.store.event_reader.PAGE_EVENTS", 10)
    with open_log(filled) as log, EventReader(filled) as reader:
        pages = reader.pages()
        first = next(pages)
        log.commit(made.batch(SYMBOLS, 121, 140))
        with closing(sqlite3.connect(filled)) as db:
            is_busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not is_busy
        assert pl.concat([first, *pages]).height == len(names_up_to(120)[0])
