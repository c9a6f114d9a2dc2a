"""How far a log has come, read beside its writer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.store import event_batches as made
from v13.errors import StoreError
from v13.store.event_log import ActiveConfig, Batch, EventLog
from v13.store.event_standing import standing


def open_log(path: Path) -> EventLog:
    return EventLog(path, keep_bars=1_000, now_ms=lambda: made.T0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "events.sqlite"


def test_nothing_stands_where_there_is_no_log(path: Path) -> None:
    assert standing(path) == ({}, None, "")
    assert not path.parent.exists()


def test_the_last_committed_bar_of_each_symbol_is_told_while_the_writer_holds_the_log(path: Path) -> None:
    with open_log(path) as log:
        log.commit(made.batch(["BTCUSDT"], 1, 7))
        assert standing(path).bars == {"BTCUSDT": made.ts_of(7)}
        log.commit(made.batch(["ETHUSDT"], 1, 3))
        log.commit(made.batch(["BTCUSDT"], 8, 9))
        assert standing(path) == ({"BTCUSDT": made.ts_of(9), "ETHUSDT": made.ts_of(3)}, None, "")
    assert standing(path).bars == {"BTCUSDT": made.ts_of(9), "ETHUSDT": made.ts_of(3)}


def test_the_highest_configuration_is_the_one_in_force(path: Path) -> None:
    configs = [ActiveConfig(n, made.T0 + n, f"{n}" * 64, f'{{"n": {n}}}') for n in (1, 2)]
    with open_log(path) as log:
        log.commit(Batch(configs=configs))
        assert standing(path) == ({}, {"n": 2}, "2" * 64)


def test_a_batch_that_was_refused_moves_nothing(path: Path) -> None:
    with open_log(path) as log:
        log.commit(made.batch(["BTCUSDT"], 1, 5))
        bad = made.batch(["BTCUSDT"], 6, 8)
        bad.bars["ETHUSDT"] = made.bars("ETHUSDT", 1, 2)["ts_ms"]
        with pytest.raises(StoreError):
            log.commit(bad)
        assert standing(path).bars == {"BTCUSDT": made.ts_of(5)}


def test_an_empty_file_is_no_log(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StoreError, match="is empty"):
        standing(path)


def test_what_is_no_database_is_damaged(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1_000)
    with pytest.raises(StoreError, match="is damaged"):
        standing(path)


def test_a_database_of_another_kind_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE state (symbol, ts_ms)")
        db.commit()
    with pytest.raises(StoreError, match="is a database of something else"):
        standing(path)


def test_a_configuration_that_is_no_json_is_damage(path: Path) -> None:
    with open_log(path) as log:
        log.commit(Batch(configs=[ActiveConfig(1, made.T0, "f" * 64, "{}")]))
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE config SET document = '{half'")
        db.commit()
    with pytest.raises(StoreError, match=r"events\.sqlite: its configuration 1 is no JSON"):
        standing(path)
