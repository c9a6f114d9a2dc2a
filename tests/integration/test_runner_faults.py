"""The runner as a process: what it refuses to start with, what it survives, and how it stops."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest

from tests.conftest import REPO
from tests.integration.runner_process import MAX_GAP_MS, Scene, n_rows, rows, scene, until, write_parameters
from tests.integration.test_event_log_faults import fill
from tests.parity.live_runs import Expected, batch, in_log, loose
from tests.unit.store import conftest as disks
from tests.unit.store.conftest import Disk
from v13.errors import ConfigError, DataError, StoreError, V13Error

small_disk = disks.small_disk  # the fixture

N_BARS = 300
STOP_S = 5.0  # the promise
READY, NOT_READY = 200, 503


@pytest.fixture
def made(tmp_path: Path) -> Scene:
    return scene(tmp_path, loose(), n_bars=N_BARS, symbols=["BTCUSDT"])


def expected_of(made: Scene) -> Expected:
    return batch(made.recordings, loose(), max_gap_ms=MAX_GAP_MS)


def check_log(log: Path, made: Scene) -> None:
    expected = expected_of(made)
    events, outcomes = in_log(log)
    assert events == expected.events
    assert outcomes == expected.outcomes


def refused(made: Scene, *arguments: str, by: type[V13Error] = ConfigError) -> str:
    """Run; demand a refusal by the exit code of such an error and one line; return that line."""
    done = made.finish(*arguments)
    assert done.returncode == by.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("v13: ")
    return line


# What it does not start with.


def test_a_port_in_use_is_named_with_what_to_do_and_nothing_is_started(made: Scene) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        line = refused(made, "--port", str(port))
    assert f"127.0.0.1 port {port}: the port is in use" in line
    assert "choose another port" in line
    assert n_rows(made.log) == 0
    assert in_log(made.log) == ({}, {})
    assert made.finish().returncode == 0  # and nothing stands in the way of the next one
    check_log(made.log, made)


@pytest.mark.parametrize(
    ("arguments", "by", "words"),
    [
        (("--feed", "replay:nowhere.parquet"), DataError, "nowhere.parquet: no such file or folder"),
        (("--feed", "replay:"), DataError, "no data"),
        (("--feed", "kraken"), ConfigError, "--feed: expected binance or replay:PATH, found 'kraken'"),
        (("--symbols", "XRPUSDT"), ConfigError, "--symbols: the recordings hold BTCUSDT, not XRPUSDT"),
        (("--speed", "0"), ConfigError, "--speed: expected max or a number above 0, found '0'"),
        (("--speed", "fast"), ConfigError, "--speed: expected max or a number above 0, found 'fast'"),
    ],
)
def test_a_bad_feed_is_refused_by_the_name_of_its_option(
    made: Scene, arguments: tuple[str, ...], by: type[V13Error], words: str
) -> None:
    assert words in refused(made, *arguments, by=by)
    assert not made.log.exists()


def test_missing_parameters_are_refused_by_the_name_of_their_file(made: Scene) -> None:
    (made.root / "runs" / "global.yaml").unlink()
    assert "runs/global.yaml" in refused(made)
    assert not made.log.exists()


def test_production_refuses_what_nobody_signed_off(made: Scene) -> None:
    line = refused(made, "--env", "production")
    assert "require_signoff" in line
    assert "simulated data" in line
    write_parameters(made.root, loose(), simulated=False)
    line = refused(made, "--env", "production")
    assert "require_signoff" in line
    assert "no sign-off" in line
    assert not made.log.exists()


def test_a_corrupt_log_is_refused_with_instructions_and_left_alone(made: Scene) -> None:
    assert made.finish().returncode == 0
    whole = made.log.read_bytes()
    made.log.write_bytes(whole[: len(whole) // 2])
    line = refused(made, by=StoreError)
    assert f"{made.log}: is damaged" in line
    assert "Stop the runner, move events.sqlite, events.sqlite-wal and events.sqlite-shm" in line
    assert "salvage" in line
    assert made.log.read_bytes() == whole[: len(whole) // 2]


def test_a_log_of_bars_of_another_length_is_refused(made: Scene) -> None:
    assert made.finish().returncode == 0
    write_parameters(made.root, loose(2_000))
    assert "holds bars of another length; give the runner a log of its own" in refused(made, by=StoreError)


def test_a_read_only_folder_is_refused(made: Scene, small_disk: Disk) -> None:
    small_disk.make_read_only()
    line = refused(made, "--log", str(small_disk.path / "events.sqlite"), by=StoreError)
    assert "Read-only file system; the log's folder must be writable" in line


def test_a_second_runner_on_a_log_is_refused_with_the_pid_of_the_first(made: Scene) -> None:
    with made.running("--speed", "10") as first:
        first.started()
        line = refused(made, by=StoreError)
        assert f"process {first.process.pid} writes this log already" in line
        assert first.process.poll() is None
        assert first.get("/-/healthy")[0] == READY


# What it survives.


def test_a_full_disk_stops_nothing_but_readiness_and_nothing_is_lost(made: Scene, small_disk: Disk) -> None:
    subprocess.run([*small_disk.prefix, "mount", "-o", "remount,size=4m", str(small_disk.path)], check=True)
    log = small_disk.path / "events.sqlite"
    filler = small_disk.path / "filler"
    with made.running("--log", str(log), "--speed", "40") as runner:
        runner.started()
        until(lambda: runner.get("/-/ready")[0] == READY, "ready")
        fill(filler)
        until(lambda: runner.get("/-/ready")[0] == NOT_READY, "not ready on a full disk")
        assert "the event log does not accept anything (see divergence_store_ok)" in runner.get("/-/ready")[1]
        assert runner.get("/-/healthy")[0] == READY
        assert runner.metric("divergence_store_ok") == 0
        assert runner.metric("divergence_ready") == 0
        until(lambda: runner.metric("divergence_errors_total", stage="store") >= 2, "a second attempt")
        stood = n_rows(log)
        assert runner.metric("divergence_bars_total") == stood, "bars were counted that are not in the log"
        filler.unlink()
        until(lambda: runner.get("/-/ready")[0] == READY, "ready again")
        assert runner.metric("divergence_store_ok") == 1
        assert runner.end() == 0
    assert 0 < stood < N_BARS
    check_log(log, made)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_corrupt_checkpoint_is_told_and_its_detector_built_again_from_bars(made: Scene, damage: bytes | None) -> None:
    with made.running("--speed", "40") as runner:
        runner.started()
        until(lambda: n_rows(made.log) >= 150, "half of it")
        runner.signal(signal.SIGTERM)
        assert runner.end() == 0
    stood = n_rows(made.log)
    with closing(sqlite3.connect(made.log)) as db, db:
        if damage is None:  # one bit, in the middle
            (blob,) = db.execute("SELECT detector FROM checkpoint").fetchone()
            damage = blob[: len(blob) // 2] + bytes([blob[len(blob) // 2] ^ 1]) + blob[len(blob) // 2 + 1 :]
        db.execute("UPDATE checkpoint SET detector = ?", (damage,))
    done = made.finish()
    assert done.returncode == 0
    assert "BTCUSDT: snapshot: damaged" in done.stderr
    assert "fed the last" in done.stderr
    assert n_rows(made.log) > stood
    expected = expected_of(made)
    events, outcomes = in_log(made.log)
    # All bars there were are still kept, so the detector was built from its first bar on: the same to the last bit.
    assert events == expected.events
    assert outcomes == expected.outcomes


# How it stops, and what it says to the service manager.


def checkpoints(log: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT symbol, rows FROM checkpoint"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_time_with_a_checkpoint_so_that_the_next_start_computes_nothing_again(
    made: Scene, number: signal.Signals
) -> None:
    with made.running("--speed", "40", V13__RUNNER__CHECKPOINT_BARS="100000") as runner:
        runner.started()
        until(lambda: n_rows(made.log) >= 50, "some bars")
        before = checkpoints(made.log)
        asked = monotonic()
        runner.signal(number)
        assert runner.end() == 0
        assert monotonic() - asked < STOP_S
        assert any(line.startswith("stopped: ") for line in runner.said)
    # A start feeds the detector the bars of the log behind the checkpoint: there are none.
    stood = {symbol: n for symbol, (n, _) in rows(made.log).items()}
    assert before["BTCUSDT"] < 50 <= stood["BTCUSDT"]
    assert checkpoints(made.log) == stood
    assert made.finish().returncode == 0
    check_log(made.log, made)


def test_a_signal_while_it_starts_ends_it_at_once(made: Scene) -> None:
    with made.running("--speed", "10") as runner:
        until(lambda: made.log.parent.exists() or runner.process.poll() is not None, "the log's folder")
        asked = monotonic()
        runner.signal(signal.SIGTERM)
        assert runner.end() in (0, -signal.SIGTERM)
        assert monotonic() - asked < STOP_S
    assert made.finish().returncode == 0
    check_log(made.log, made)


def test_a_stop_on_a_full_disk_keeps_its_time_and_the_next_runner_goes_on(made: Scene, small_disk: Disk) -> None:
    log, filler = small_disk.path / "events.sqlite", small_disk.path / "filler"
    with made.running("--log", str(log), "--speed", "40") as runner:
        runner.started()
        until(lambda: n_rows(log) > 20, "some bars")
        fill(filler)
        until(lambda: runner.metric("divergence_store_ok") == 0, "a refusal")
        asked = monotonic()
        runner.signal(signal.SIGTERM)
        runner.end()
        assert monotonic() - asked < STOP_S
    filler.unlink()
    subprocess.run([*small_disk.prefix, "mount", "-o", "remount,size=4m", str(small_disk.path)], check=True)
    assert made.finish("--log", str(log)).returncode == 0
    check_log(log, made)


def test_the_service_manager_hears_of_readiness_life_and_stop(made: Scene, tmp_path: Path) -> None:
    place = tmp_path / "notify"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(place))
        manager.settimeout(60)

        def hear(wanted: Callable[[list[str]], bool]) -> list[str]:
            while not wanted(lines := manager.recv(4_096).decode().splitlines()):
                pass
            return lines

        with made.running("--speed", "40", NOTIFY_SOCKET=str(place), WATCHDOG_USEC="900000") as runner:
            assert hear(lambda _: True) == ["READY=1", "STATUS=following 1 symbols"]
            runner.started()
            assert hear(lambda lines: lines[0] == "WATCHDOG=1")[1].startswith("STATUS=warming up: BTCUSDT")
            first = monotonic()
            hear(lambda lines: "STATUS=ready" in lines)
            hear(lambda lines: "STATUS=ready" in lines)
            assert monotonic() - first < 60
            runner.signal(signal.SIGTERM)
            hear(lambda lines: lines == ["STOPPING=1"])
            assert runner.end() == 0


def test_the_watchdog_is_fed_in_time(made: Scene, tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(f"\0v13-{tmp_path.name}")  # the abstract namespace
        manager.settimeout(60)
        with made.running("--speed", "40", NOTIFY_SOCKET=f"@v13-{tmp_path.name}", WATCHDOG_USEC="3000000") as runner:
            runner.started()
            times = []
            while len(times) < 4:
                if manager.recv(4_096).startswith(b"WATCHDOG=1"):
                    times.append(monotonic())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) < 3.0, "systemd would have killed it"


def test_events_are_listed_while_it_writes(made: Scene) -> None:
    expected = expected_of(made).events
    command = [sys.executable, "-m", "v13.cli", "events", "--log", str(made.log), "--format", "jsonl"]

    def listed() -> set[str]:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
        return {json.loads(line)["event_id"] for line in done.stdout.splitlines()}

    with made.running("--speed", "5") as runner:
        runner.started()
        until(lambda: runner.metric("divergence_events_total") >= 3, "three events")
        seen = listed()
        counted = runner.metric("divergence_events_total")
        until(lambda: runner.metric("divergence_events_total") > counted, "one more")
        later = listed()
        assert runner.process.poll() is None
    assert 3 <= len(seen) < len(later) <= len(expected)
    assert seen < later <= expected.keys()
