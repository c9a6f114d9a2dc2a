"""What one log knows that another does not, also while it is being written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.unit.store.event_batches import bars, ts_of
from v13.errors import StoreError
from v13.store.event_catchup import is_same_log, read_leads
from v13.store.event_log import ActiveConfig, Batch, Checkpoint, EventLog, SymbolState

CONFIG = ActiveConfig(1, 0, "abc", '{"params": {"features": {"bar_ms": 1000, "of_a_later_release": 1}}}')
N_WRITTEN = 300


def commit(log: EventLog, symbol: str, first: int, last: int) -> None:
    state = SymbolState(ts_of(last), last, -1, f"{symbol} {last}".encode())
    log.commit(Batch(bars={symbol: bars(symbol, first, last)}, states={symbol: state}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


def open_log(path: Path, keep_bars: int = 10_000) -> EventLog:
    log = EventLog(path, keep_bars=keep_bars, now_ms=lambda: 0)
    log.commit(Batch(configs=[CONFIG]))
    return log


def test_each_symbol_is_told_from_its_own_moment_on(path: Path) -> None:
    with open_log(path) as log:
        for symbol in ("A", "B", "C", "D"):
            commit(log, symbol, 1, 30)
        after = {"A": 0, "B": ts_of(10), "C": ts_of(30), "E": 0}
        leads = read_leads(path, after, 1_000)  # its writer has it open
    assert leads.keys() == {"A", "B"}
    assert leads["A"].bars.tobytes() == bars("A", 1, 30).tobytes()
    assert leads["B"].bars.tobytes() == bars("B", 11, 30).tobytes()
    assert leads["B"].intake == b"B 30"


def test_bars_that_were_dropped_are_missing(path: Path) -> None:
    with open_log(path, keep_bars=5) as log:
        commit(log, "A", 1, 30)
        log.commit(Batch(checkpoints={"A": Checkpoint(ts_of(30), 30, b"", 1)}))
        commit(log, "A", 31, 33)
    assert read_leads(path, {"A": ts_of(7)}, 1_000)["A"].bars["ts_ms"].tolist() == [ts_of(n) for n in range(26, 34)]


def test_bars_and_state_belong_together_whatever_is_written_meanwhile(path: Path) -> None:
    open_log(path).close()
    begun = threading.Event()

    def write() -> None:
        with EventLog(path, keep_bars=20, now_ms=lambda: 0) as log:
            for row in range(1, N_WRITTEN + 1):
                for symbol in ("A", "B"):
                    commit(log, symbol, row, row)
                    if row % 10 == 0:
                        log.commit(Batch(checkpoints={symbol: Checkpoint(ts_of(row), row, b"", 1)}))
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    seen = set()
    while writer.is_alive():
        for symbol, lead in read_leads(path, {"A": 0, "B": 0}, 1_000).items():
            last = int(lead.intake.split()[1])
            assert lead.intake == f"{symbol} {last}".encode()
            assert lead.bars.tobytes() == bars(symbol, last - lead.bars.size + 1, last).tobytes()
            assert lead.bars.size >= min(last, 20)
            seen.add(last)
    writer.join()
    assert len(seen) > 3, "it was not read while it was written"


def test_bars_of_another_length_are_refused_with_both_lengths(path: Path) -> None:
    open_log(path).close()
    with pytest.raises(StoreError, match=r"log.sqlite: holds bars of 1000 ms, expected 60000 ms"):
        read_leads(path, {}, 60_000)


def test_a_log_is_the_same_under_each_of_its_names(tmp_path: Path, path: Path) -> None:
    open_log(path).close()
    (tmp_path / "link").symlink_to(path)
    assert is_same_log(path, tmp_path / "link")
    assert not is_same_log(path, tmp_path / "log.sqlite.lock")
    assert not is_same_log(tmp_path / "gone", tmp_path / "gone")


def test_the_other_log_is_not_written(path: Path) -> None:
    with open_log(path) as log:
        commit(log, "A", 1, 30)
    before = path.read_bytes()
    assert np.all(read_leads(path, {"A": 0}, 1_000)["A"].bars["ts_ms"] > 0)
    assert path.read_bytes() == before
