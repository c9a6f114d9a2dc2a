"""The holdout ledger: what counts as a look, and that no row can be lost, doubled or changed unseen."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store.conftest import Disk
from v13 import store
from v13.errors import StoreError
from v13.store import HoldoutLedger, Look, Seal, Span

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOLDOUT = Span("usdm", "BTCUSDT", 1_000, 2_000)
SEARCH = Span("usdm", "BTCUSDT", 0, 900)
FILE = "holdout_ledger.sqlite"


class Clock:
    """A clock that moves on by a second each time it is read."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> datetime:
        self.n += 1
        return START + timedelta(seconds=self.n)


@pytest.fixture
def ledger(tmp_path: Path) -> HoldoutLedger:
    return HoldoutLedger(tmp_path / FILE, Clock())


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def sealed(key: str, holdout: Sequence[Span] = (HOLDOUT,), search: Sequence[Span] = (SEARCH,)) -> Seal:
    return Seal(key, sha(key), holdout, search, "code", "config", 13)


def look(ledger: HoldoutLedger, key: str, holdout: Sequence[Span] = (HOLDOUT,), **rest: Sequence[Span]) -> Look:
    ledger.seal(sealed(key, holdout, **rest))
    return ledger.look(key, sha(key))


def at(from_ms: int, to_ms: int, symbol: str = "BTCUSDT", market: str = "usdm", *, simulated: bool = False) -> Span:
    return Span(market, symbol, from_ms, to_ms, simulated)


@contextmanager
def raw(ledger: HoldoutLedger) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as db:
        yield db


def drop_triggers(db: sqlite3.Connection) -> list[str]:
    made = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in made:
        db.execute(f"DROP TRIGGER {name}")
    return [sql for _, sql in made]


def test_the_first_look_is_number_one_and_costs_nothing(ledger: HoldoutLedger) -> None:
    found = look(ledger, "a")
    assert (found.number, found.n_earlier_looks, found.n_searched_before, found.is_repeat) == (1, 0, 0, False)
    assert found.alpha_share == 1.0
    assert found.first_seen_utc == "2026-01-02T03:04:07+00:00"  # the seal read the clock before
    assert found.holdout == (HOLDOUT,)


def test_the_same_key_is_the_same_look_and_adds_no_row(ledger: HoldoutLedger) -> None:
    first = look(ledger, "a")
    look(ledger, "b")
    rows = ledger.rows()
    assert look(ledger, "a") == replace(first, is_repeat=True)
    assert ledger.rows() == rows


def test_each_other_key_on_the_same_bars_is_a_new_look_at_half_the_alpha(ledger: HoldoutLedger) -> None:
    found = [look(ledger, key) for key in "abcd"]
    assert [x.number for x in found] == [1, 2, 3, 4]
    assert [x.n_earlier_looks for x in found] == [0, 1, 2, 3]
    assert [x.alpha_share for x in found] == [1, 1 / 2, 1 / 4, 1 / 8]


@pytest.mark.parametrize(
    ("other", "number"),
    [
        (at(1_999, 3_000), 2),
        (at(2_000, 3_000), 1),
        (at(0, 1_001), 2),
        (at(0, 1_000), 1),
        (at(1_400, 1_401), 2),
        (at(0, 9_000), 2),
        (at(1_000, 2_000, "ETHUSDT"), 1),
        (at(1_000, 2_000, market="spot"), 1),
        (at(1_000, 2_000, market="unknown"), 2),
        (at(1_000, 2_000, simulated=True), 1),
    ],
)
def test_a_look_counts_where_market_symbol_and_time_meet(ledger: HoldoutLedger, other: Span, number: int) -> None:
    look(ledger, "a", search=[])
    assert look(ledger, "b", [at(1_000, 2_000, "SOLUSDT"), other], search=[]).number == number


def test_a_search_over_these_bars_counts_too_but_no_key_twice(ledger: HoldoutLedger) -> None:
    later = [at(2_000, 3_000)]
    look(ledger, "looked", later)
    ledger.seal(sealed("searched", [at(3_000, 4_000)], [at(0, 2_500)]))
    look(ledger, "both", later, search=[at(0, 2_001)])
    ledger.seal(sealed("elsewhere", [at(3_000, 4_000)], [at(0, 2_000)]))
    ledger.seal(sealed("other", later, [at(0, 2_500, "ETHUSDT")]))
    found = look(ledger, "mine", later, search=[at(0, 2_500)])
    assert (found.number, found.n_earlier_looks, found.n_searched_before) == (4, 2, 1)


def test_a_seal_alone_is_no_look(ledger: HoldoutLedger) -> None:
    for key in "abc":
        ledger.seal(sealed(key))
    assert look(ledger, "d").number == 1
    assert [x.key for x in ledger.looks_at()] == ["d"]


def test_simulated_looks_are_entered_and_cost_nothing(ledger: HoldoutLedger) -> None:
    made = [at(1_000, 2_000, simulated=True)]
    found = [look(ledger, key, made, search=[]) for key in "abc"]
    assert [x.number for x in found] == [1, 2, 3]
    assert all(x.simulated and x.alpha_share == 1.0 for x in found)


def test_real_bars_looked_at_beside_simulated_ones_are_charged_later(ledger: HoldoutLedger) -> None:
    mixed = look(ledger, "a", [HOLDOUT, at(1_000, 2_000, "DEMO", simulated=True)])
    assert mixed.simulated
    assert look(ledger, "b").alpha_share == 0.5


def test_an_empty_holdout_meets_no_other(ledger: HoldoutLedger) -> None:
    look(ledger, "a")
    assert look(ledger, "b", []).number == 1


spans = st.builds(
    lambda market, symbol, start, length, simulated: Span(market, symbol, start, start + length, simulated),
    st.sampled_from(["spot", "usdm"]),
    st.sampled_from(["A", "B"]),
    st.integers(0, 6),
    st.integers(1, 4),
    st.booleans(),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(spans, max_size=3), st.lists(spans, max_size=3), st.booleans()), max_size=8))
def test_numbers_are_those_of_a_naive_count_of_bars(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[Span], list[Span], bool]]
) -> None:
    ledger = HoldoutLedger(tmp_path_factory.mktemp("naive") / FILE, Clock())

    def bars(listed: list[Span]) -> set[tuple[object, ...]]:
        return {(s.market, s.symbol, s.simulated, t) for s in listed for t in range(s.from_ms, s.to_ms)}

    for i, (holdout, search, looks) in enumerate(runs):
        ledger.seal(sealed(str(i), holdout, search))
        if looks:
            mine = bars(holdout)
            earlier = [j for j in range(i) if (runs[j][2] and mine & bars(runs[j][0])) or mine & bars(runs[j][1])]
            assert ledger.look(str(i), sha(str(i))).number == 1 + len(earlier)
    ledger.verify()


def test_a_look_without_a_seal_is_refused(ledger: HoldoutLedger) -> None:
    with pytest.raises(StoreError, match="no such file"):
        ledger.look("a", sha("a"))
    assert not ledger.path.exists()
    ledger.seal(sealed("b"))
    with pytest.raises(StoreError, match="has no seal"):
        ledger.look("a", sha("a"))


def test_a_look_at_other_data_than_were_sealed_is_refused_also_the_second_time(ledger: HoldoutLedger) -> None:
    ledger.seal(sealed("a"))
    with pytest.raises(StoreError, match="changed since the search"):
        ledger.look("a", sha("other"))
    ledger.look("a", sha("a"))
    with pytest.raises(StoreError, match="changed since the search"):
        ledger.look("a", sha("other"))
    assert len(ledger.rows()) == 2


def test_a_key_is_sealed_once_with_one_set_of_facts(ledger: HoldoutLedger) -> None:
    both = [HOLDOUT, at(1_000, 2_000, "ETHUSDT")]
    ledger.seal(sealed("a", both))
    ledger.seal(sealed("a", both[::-1]))
    assert len(ledger.rows()) == 1
    with pytest.raises(StoreError, match=r"another holdout_sha256:"):
        ledger.seal(replace(sealed("a", both), holdout_sha256=sha("other")))
    with pytest.raises(StoreError, match=r"another holdout, seed:"):
        ledger.seal(replace(sealed("a"), seed=14))
    assert len(ledger.rows()) == 1


def test_a_seal_says_who_when_and_with_what(ledger: HoldoutLedger) -> None:
    ledger.seal(sealed("a"))
    record = ledger.rows()[0].record
    assert record["kind"] == "seal"
    assert record["utc"] == "2026-01-02T03:04:06+00:00"
    assert all(isinstance(record[name], str) and record[name] for name in ("v13", "user", "host"))
    assert record["sealed"] == {
        "holdout_sha256": sha("a"),
        "holdout": [["usdm", "BTCUSDT", 1_000, 2_000, False]],
        "search": [["usdm", "BTCUSDT", 0, 900, False]],
        "code_fingerprint": "code",
        "config_fingerprint": "config",
        "seed": 13,
        "simulated": False,
    }


def test_a_span_without_time_is_refused() -> None:
    with pytest.raises(StoreError, match="from_ms < to_ms"):
        at(5, 5)


def test_the_history_of_some_bars_tells_numbers_and_latest_verdicts(ledger: HoldoutLedger) -> None:
    look(ledger, "a")
    look(ledger, "eth", [at(1_000, 2_000, "ETHUSDT")])
    look(ledger, "b")
    for verdict in ("INSUFFICIENT", "INSUFFICIENT", "PASS"):
        ledger.record_verdict("a", verdict)
    assert [(x.key, x.number, x.verdict) for x in ledger.looks_at([at(1_999, 2_500)])] == [
        ("a", 1, "PASS"),
        ("b", 2, None),
    ]
    assert [x.key for x in ledger.looks_at()] == ["a", "eth", "b"]
    assert [x.record["verdict"] for x in ledger.rows() if x.record["kind"] == "verdict"] == ["INSUFFICIENT", "PASS"]


def test_a_verdict_without_a_look_is_refused(ledger: HoldoutLedger) -> None:
    ledger.seal(sealed("a"))
    with pytest.raises(StoreError, match="has not looked"):
        ledger.record_verdict("a", "PASS")


def test_where_there_is_no_file_there_are_no_looks_and_none_is_made(ledger: HoldoutLedger) -> None:
    assert ledger.looks_at() == []
    assert ledger.rows() == []
    assert ledger.verify() == "0" * 64
    assert not ledger.path.exists()


def test_the_chain_can_be_followed_by_hand(ledger: HoldoutLedger) -> None:
    look(ledger, "a")
    link = "0" * 64
    with raw(ledger) as db:
        for text, digest in db.execute("SELECT record, sha256 FROM entry ORDER BY n"):
            assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
            link = hashlib.sha256(f"{link}\n{text}".encode()).hexdigest()
            assert digest == link
    assert ledger.verify() == link == ledger.looks_at()[0].sha256


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET record = '{}'",
        "UPDATE entry SET n = 9 WHERE n = 1",
        "DELETE FROM entry",
        "INSERT OR REPLACE INTO entry VALUES (1, '{}', '')",
        "INSERT INTO entry VALUES (7, '{}', '')",
        "INSERT INTO entry (record, sha256) VALUES ('{}', '')",
    ],
)
def test_sqlite_itself_refuses_to_change_rows(ledger: HoldoutLedger, statement: str) -> None:
    look(ledger, "a")
    rows = ledger.rows()
    with raw(ledger) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    assert ledger.rows() == rows


EDITS = {
    "a row edited": ("UPDATE entry SET record = replace(record, '\"number\":2', '\"number\":1') WHERE n = 4", "row 4 "),
    "a hash edited": (f"UPDATE entry SET sha256 = '{sha('x')}' WHERE n = 2", "row 2 "),
    "text that is no text": ("UPDATE entry SET record = CAST(x'ff00ff' AS TEXT) WHERE n = 3", "row 3 "),
    "a number for a text": ("UPDATE entry SET record = 5 WHERE n = 3", "row 3 "),
    "a row removed": ("DELETE FROM entry WHERE n = 2", "row 2 is missing"),
    "the first rows removed": ("DELETE FROM entry WHERE n < 3", "row 1 is missing"),
    "the end cut off": ("DELETE FROM entry WHERE n > 2", "row 3 and what followed"),
    "all rows removed": ("DELETE FROM entry", "row 1 and what followed"),
    "the table removed": ("DROP TABLE entry", "row 1 and all others"),
    "a row forged": (f"INSERT INTO entry VALUES (5, '{{}}', '{sha('x')}')", "row 5 "),
    "rows exchanged": ("UPDATE entry SET n = CASE n WHEN 1 THEN -1 ELSE 1 END WHERE n < 3", "row 1 "),
    "only the triggers removed": ("SELECT 1", "triggers"),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("restored", [True, False])
def test_an_edit_without_the_triggers_is_found_and_named(ledger: HoldoutLedger, what: str, restored: bool) -> None:
    look(ledger, "a")
    look(ledger, "b")
    statement, words = EDITS[what]
    with raw(ledger) as db:
        triggers = drop_triggers(db)
        db.execute(statement)
        for sql in triggers if restored and "DROP" not in statement else ():
            db.execute(sql)
    if statement == "SELECT 1" and restored:
        ledger.verify()  # as it was
        return
    actions: list[Callable[[], object]] = [
        ledger.verify,
        ledger.looks_at,
        lambda: ledger.look("b", sha("b")),
        lambda: ledger.seal(sealed("c")),
    ]
    for action in actions:
        with pytest.raises(StoreError, match=words) as caught:
            action()
        assert str(ledger.path) in str(caught.value)
        assert "backup" in str(caught.value)


def test_a_file_that_is_no_ledger_is_left_alone(ledger: HoldoutLedger) -> None:
    ledger.path.write_bytes(b"not a database at all " * 200)
    for action in (ledger.verify, ledger.rows, lambda: ledger.seal(sealed("a"))):
        with pytest.raises(StoreError, match=r"is damaged .* backup"):
            action()
    assert ledger.path.read_bytes() == b"not a database at all " * 200


def test_a_ledger_with_torn_pages_is_said_to_be_damaged(ledger: HoldoutLedger) -> None:
    for i in range(40):
        look(ledger, str(i))
    whole = ledger.path.read_bytes()
    for start in range(4096, len(whole), 4096):
        ledger.path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        with pytest.raises(StoreError, match="backup"):
            ledger.verify()
    ledger.path.write_bytes(whole)
    ledger.verify()


def test_the_database_of_something_else_is_refused(ledger: HoldoutLedger) -> None:
    with raw(ledger) as db:
        db.execute("CREATE TABLE events (x)")
    for action in (ledger.verify, lambda: ledger.seal(sealed("a"))):
        with pytest.raises(StoreError, match="something else"):
            action()


def test_another_schema_is_refused_by_its_number(ledger: HoldoutLedger) -> None:
    look(ledger, "a")
    with raw(ledger) as db:
        db.execute("PRAGMA user_version = 2")
    for action in (ledger.verify, lambda: ledger.look("a", sha("a"))):
        with pytest.raises(StoreError, match=r"expected schema 1, found 2; use the v13 that wrote it"):
            action()


def test_an_empty_file_as_a_killed_maker_leaves_it_is_a_new_ledger(ledger: HoldoutLedger) -> None:
    ledger.path.touch()
    assert ledger.rows() == []
    assert look(ledger, "a").number == 1


def test_a_path_below_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    with pytest.raises(StoreError, match="could not be made"):
        HoldoutLedger(tmp_path / "blocked" / FILE, Clock()).seal(sealed("a"))


def test_a_strange_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "背离 50%?mode=memory#x" / FILE
    assert look(HoldoutLedger(path, Clock()), "a").number == 1
    assert path.is_file()


# Real processes, killed for real. Eight at once are forked, as eight imports would take longer than all the rest.
PROCESS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from v13.store import HoldoutLedger, Seal, Span
path = Path(sys.argv[1])
def now():
    return datetime(2026, 1, 2, tzinfo=UTC)
def enter(key):
    spans = [Span("usdm", "BTCUSDT", 1_000, 2_000)]
    ledger = HoldoutLedger(path, now)
    ledger.seal(Seal(key, "hash", spans, [], "code", "config", 13))
    return ledger.look(key, "hash").number
"""
FORK = (
    PROCESS
    + """
import os, traceback
gate, opener = os.pipe()
children = []
for i in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        code = 1
        try:
            os.close(opener)
            os.read(gate, 1)  # ends for all at once, when the parent lets go of its end
            os.write(1, f"{enter(str(i))}\\n".encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
os.close(opener)
for child in children:
    os.waitpid(child, 0)
"""
)
LOOP = PROCESS + (
    "import itertools\nfor i in itertools.count(1):\n    assert enter(str(i)) == i\n    print(i, flush=True)\n"
)
# The clock is read inside the transaction: the second time is that of the look.
STOP_INSIDE = PROCESS + (
    "calls = []\n"
    "def now():\n"
    "    calls.append(1)\n"
    "    if len(calls) == 2:\n"
    '        print("inside", flush=True)\n'
    "        sys.stdin.read()\n"
    "    return datetime(2026, 1, 2, tzinfo=UTC)\n"
    'enter("a")\n'
)


def start(script: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_eight_processes_at_once_get_eight_numbers(ledger: HoldoutLedger) -> None:
    with start(FORK, ledger.path) as process:
        said, _ = process.communicate(timeout=100)
    assert sorted(said.split()) == [str(i) for i in range(1, 9)]
    assert [x.number for x in ledger.looks_at()] == list(range(1, 9))
    ledger.verify()


@pytest.mark.parametrize("looks", [1, 7])
def test_what_was_reported_survives_a_kill(ledger: HoldoutLedger, looks: int) -> None:
    with start(LOOP, ledger.path) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(looks)]
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert said == [f"{i}\n" for i in range(1, looks + 1)]
    ledger.verify()
    found = ledger.looks_at()
    assert len(found) >= looks
    assert [x.number for x in found] == list(range(1, len(found) + 1))
    ledger.seal(replace(sealed("next"), search=[]))
    assert ledger.look("next", sha("next")).number == len(found) + 1


def test_a_kill_inside_a_transaction_leaves_no_row_and_no_lock(ledger: HoldoutLedger) -> None:
    with start(STOP_INSIDE, ledger.path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert [row.record["kind"] for row in ledger.rows()] == ["seal"]
    assert ledger.look("a", "hash").number == 1


def test_a_ledger_others_hold_for_too_long_is_an_error(ledger: HoldoutLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    look(ledger, "a")
    monkeypatch.setattr("v13.store.chain.BUSY_S", 0.0)
    with raw(ledger) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="others held it"):
            look(ledger, "b")
    assert look(ledger, "b").number == 2


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as sink:
        while sink.write(bytes(4096)):
            pass


def test_a_full_disk_is_an_error_and_leaves_the_ledger_as_it_was(small_disk: Disk) -> None:
    ledger = HoldoutLedger(small_disk.path / FILE, Clock())
    look(ledger, "a")
    many = [at(1_000, 2_000, f"COIN{i}USDT") for i in range(400)]  # some 20 kB: several pages of file and journal
    refused = 0
    for n_free in range(12):
        rows = ledger.rows()
        filler = small_disk.path / "filler"
        filler.write_bytes(bytes(4096 * n_free))  # pages to be given back
        fill(small_disk.path / "rest")
        filler.unlink()
        key = f"run {n_free}"
        try:
            ledger.seal(sealed(key, many))
        except StoreError as error:
            assert str(ledger.path) in str(error)  # noqa: PT017 - some of these must pass
            assert "nothing was entered" in str(error)  # noqa: PT017
            refused += 1
            assert ledger.rows() == rows
        else:
            assert len(ledger.rows()) == len(rows) + 1
        ledger.verify()
        (small_disk.path / "rest").unlink()
    assert 3 <= refused < 12
    assert look(ledger, "b").number == 2


def test_a_full_disk_is_told_with_what_to_do(small_disk: Disk) -> None:
    ledger = HoldoutLedger(small_disk.path / FILE, Clock())
    look(ledger, "a")
    fill(small_disk.path / "rest")
    with pytest.raises(StoreError, match=r"is full; nothing was entered; free some space, then type it again$"):
        ledger.seal(sealed("b", [at(1_000, 2_000, f"COIN{i}USDT") for i in range(400)]))
    (small_disk.path / "rest").unlink()
    ledger.seal(sealed("b"))


def test_a_read_only_disk_can_be_read_and_not_written(small_disk: Disk) -> None:
    ledger = HoldoutLedger(small_disk.path / FILE, Clock())
    look(ledger, "a")
    small_disk.make_read_only()
    assert [x.key for x in ledger.looks_at()] == ["a"]
    with pytest.raises(StoreError, match="nothing was entered"):
        ledger.seal(sealed("b"))


def test_where_the_disk_is_read_only_a_new_ledger_is_refused_by_that_name(small_disk: Disk) -> None:
    small_disk.make_read_only()
    with pytest.raises(StoreError, match="read-only file system"):
        HoldoutLedger(small_disk.path / FILE, Clock()).seal(sealed("a"))


def test_the_default_place_is_below_runs() -> None:
    assert store.HOLDOUT_LEDGER.as_posix() == "runs/holdout_ledger.sqlite"
