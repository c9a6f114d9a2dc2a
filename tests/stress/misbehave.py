"""Every alert of the SLO table, fired by a runner that really misbehaves: faults from outside, real servers.

`python -m tests.stress.misbehave [--scene NAME ...]` (about five minutes) prints alert, what was done, and seconds
until it fired, and fails unless all were seen. The full disk needs the right to mount a tmpfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from tests.conftest import REPO
from tests.integration.markets import write_bars
from tests.integration.test_event_log_faults import fill
from tests.stress.stage import BAR_MS, CHANGED, GATES, WAIT_S, Shown, Venue, loose, stage, stuttering
from v13 import market, store
from v13.detector import DecisionParams, DetectorParams, FeatureParams
from v13.errors import V13Error
from v13.live.reload_stage import CALIBRATION, OVERRIDES, PARAMETERS, calibration, until
from v13.telemetry.rules import alert_rules
from v13.telemetry.slo import SloTable, load_slo

__all__ = ["SCENES"]

PURE_PYTHON: Final = {"NUMBA_DISABLE_JIT": "1"}  # the detector without its compiler: 0.1 ms a bar, not 4 us
HOUR_MS: Final = 3_600_000


def recording(folder: Path, *, wave: float = 0.0, n_bars: int = 40_000) -> str:
    """Write bars of a random walk, with a wave of 12 bars in the price, and return the feed that plays them."""
    bars = market.simulate_bars(market.MarketSpec("random_walk", n_bars=n_bars), 13).bars
    added = np.round(wave * np.sin(2 * np.pi * np.arange(bars.size) / 12), 1)
    for name in ("open", "high", "low", "close", "mid"):
        bars[name] += added
    return f"replay:{write_bars(folder / 'bars.parquet', bars)}"


# Scenes. Each is given an empty folder, and enters what it sees.


def finds_too_much(folder: Path, shown: list[Shown]) -> None:
    """Parameters nobody signed off find too much, and wrongly, in a market with a rhythm they know nothing of."""
    with stage(folder, shown, loose(swing_L=5)) as s:
        s.expect(
            "unsigned loose parameters on a price with a wave of 12 bars, 200 bars a second",
            *("NotSignedOff", "EventsPerHourHighAlert", "EventsPerHourHighRollback"),
            *("HitRateAlert", "HitRateRollback"),
            do=lambda: s.start("--feed", recording(folder, wave=60.0), "--speed", "200"),
        )


def finds_rubbish(folder: Path, shown: list[Shown]) -> None:
    """Parameters that call no volume enough: all scores near 0, and all of them emitted."""
    features = FeatureParams(window=30, min_volume_ratio=1e6, active_quantile=1.0)
    with stage(folder, shown, DetectorParams(features, DecisionParams(**GATES))) as s:
        s.expect(
            "parameters that score every divergence near 0 (min_volume_ratio 1e6, min_score 0)",
            *("ScoreLow", "ScoreMedianAlert", "ScoreMedianRollback"),
            do=lambda: s.start("--feed", recording(folder), "--speed", "100"),
        )


def finds_nothing(folder: Path, shown: list[Shown]) -> None:
    """Parameters that find nothing under a sign-off of long ago; then a spoilt settings file; then no runner at all.

    The sign-off is written by hand, as one of 91 days ago cannot be made.
    """
    params = loose(z_hi=100.0)
    with stage(folder, shown, params, simulated=False) as s:
        (s.root / PARAMETERS).parent.mkdir(parents=True)
        shutil.move(s.root / "runs/global.yaml", s.root / PARAMETERS)
        shutil.move(s.root / "runs/by_bucket.yaml", s.root / OVERRIDES)
        store.write_json(s.root / CALIBRATION, calibration(0.6))
        signed = {
            Path(p).name: sha256((s.root / p).read_bytes()).hexdigest() for p in (PARAMETERS, OVERRIDES, CALIBRATION)
        }
        store.write_json(
            s.root / "reports/latest/signoff.json", {"verdict": "PASS", "simulated": False, "artifacts": signed}
        )
        made = datetime.now(UTC) - timedelta(days=91)
        store.write_json(s.root / "reports/latest/manifest.json", {"created_utc": made.isoformat()})
        s.environ = {}
        feed = recording(folder)
        s.expect(
            "parameters signed off 91 days ago that no divergence passes (z_hi 100)",
            *("SignoffTooOld", "EventsPerHourLowAlert", "EventsPerHourLowRollback"),
            do=lambda: s.start("--feed", feed, "--speed", "50"),
        )
        whole = (s.root / "config/system.yaml").read_bytes()
        s.expect(
            "config/system.yaml cut in half while it runs",
            "ReloadFailed",
            do=lambda: (s.root / "config/system.yaml").write_bytes(whole[: len(whole) // 2] + b"\nrunner: ["),
        )
        assert s.runner is not None
        s.expect("SIGKILL, and nobody starts it again", "RunnerDown", "RunnerAbsent", do=s.runner.process.kill)


def restarts(folder: Path, shown: list[Shown]) -> None:
    """A runner that is killed and started, over and over."""
    with stage(folder, shown, loose()) as s:
        feed = recording(folder)

        def loop() -> None:
            for _ in range(5):
                runner = s.start("--feed", feed, "--speed", "50")
                assert until(lambda: s.value('up{job="divergence"}') == 1, WAIT_S)
                runner.end(signal.SIGKILL)
                assert until(lambda: s.value('up{job="divergence"}') == 0, WAIT_S)

        s.expect("killed and started five times", "Restarts", do=loop)


def slow(folder: Path, shown: list[Shown]) -> None:
    """A detector without its compiler, on a machine that has no time for it."""
    with stage(folder, shown, loose()) as s:
        runner = s.start("--feed", recording(folder), "--speed", "4", **PURE_PYTHON)
        s.ready()
        # What is short is interrupted only where a turn is shorter still: it begins when its turn does.
        for names, run_s, stop_s in (
            (("CommitSlow",), 0.002, 0.06),
            (("ComputeSlow", "ComputeLatencyAlert", "ComputeLatencyRollback"), 0.0005, 0.025),
        ):
            with ExitStack() as stop:
                s.expect(
                    f"detector in plain Python, SIGSTOP for {1e3 * stop_s:g} ms after each {1e3 * run_s:g} ms",
                    *names,
                    do=partial(stop.enter_context, stuttering(runner, run_s, stop_s)),
                )


def slow_live(folder: Path, shown: list[Shown]) -> None:
    """A runner on a live feed, on a machine that has no time for it."""
    with Venue() as venue, stage(folder, shown, loose(BAR_MS)) as s:
        runner = s.start("--feed", "binance", "--symbols", "BTCUSDT", **venue.environ, **PURE_PYTHON)
        s.ready()
        venue.pace_s = BAR_MS / 2_000  # every fourth message ends a bar
        for what, run_s, stop_s in (("Event", 0.001, 0.025), ("Pipeline", 0.0015, 0.1)):
            with ExitStack() as stop:
                s.expect(
                    f"live, detector in plain Python, SIGSTOP for {1e3 * stop_s:g} ms after each {1e3 * run_s:g} ms",
                    *(f"{what}LatencyAlert", f"{what}LatencyRollback"),
                    do=partial(stop.enter_context, stuttering(runner, run_s, stop_s)),
                )


def bad_feed(folder: Path, shown: list[Shown]) -> None:
    """An exchange that sends too much, sends rubbish, whose clock goes back, and that dies."""
    with Venue() as venue, stage(folder, shown, loose(BAR_MS)) as s:
        s.start("--feed", "binance", "--symbols", "BTCUSDT", **venue.environ)
        s.ready()
        s.expect("quotes as fast as they are taken", "CpuHigh", do=partial(setattr, venue, "flood", True))
        venue.flood = False
        s.expect(
            "the exchange sends a frame that is no JSON with every trade",
            *("ErrorRateAlert", "ErrorRateRollback"),
            do=partial(setattr, venue, "n_garbage", 1),
        )
        venue.n_garbage = 0
        s.expect(
            "the exchange's clock goes back an hour",
            "BarsStopped",
            do=partial(setattr, venue, "clock_off_ms", -HOUR_MS),
        )
        s.expect(
            "the exchange drops all connections and answers nobody",
            *("FeedDisconnected", "FeedStale", "NotReady", "AvailabilityAlert", "AvailabilityRollback"),
            do=venue.die,
        )


def full_disk(folder: Path, shown: list[Shown]) -> None:
    """A full disk under a flood of quotes."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", str(disk)), check=True)
    try:
        with Venue() as venue, stage(folder, shown, loose(BAR_MS)) as s:
            limit = {"V13__RUNNER__QUEUE_LIMIT": "5000000"}  # about 2 GB of them
            live = ("--feed", "binance", "--symbols", "BTCUSDT", "--log", str(disk / "events.sqlite"))
            s.start(*live, **venue.environ, **limit)
            s.ready()

            def flood() -> None:
                fill(disk / "filler")
                venue.flood = True

            s.expect(
                "full disk (tmpfs of 4 MiB), a flood of quotes, queue_limit 5,000,000",
                *("StoreFailing", "Backlog", "MemoryHigh", "Overload"),
                do=flood,
            )
    finally:
        subprocess.run(("umount", str(disk)), check=True)


def unclosed(folder: Path, shown: list[Shown]) -> None:
    """A closure that nobody makes, that does not close, and that cannot be made any more."""
    with stage(folder, shown, loose()) as s:
        events, link = s.root / "runs/live/events.sqlite", s.root / "runs/watched.sqlite"
        feed = recording(folder)
        s.expect("no `v13 closure --watch`", "ClosureAbsent", do=lambda: s.start("--feed", feed, "--speed", "20"))
        link.symlink_to(events)
        command = [sys.executable, "-m", "v13.cli", "closure", "--root", str(s.root), "--log", str(link), "--watch"]
        command += ["--prometheus", s.url, "--window", "10s", "--every", "1s", "--port", str(s.closure_port)]
        sink = s.stack.enter_context((folder / "closure.log").open("wb"))
        watcher = s.stack.enter_context(subprocess.Popen(command, env=os.environ, stdout=sink, stderr=sink))
        s.stack.callback(watcher.kill)
        error = "max(divergence_closure_error_ratio)"
        assert until(lambda: s.value(error) < 0.01, WAIT_S), (folder / "closure.log").read_text()

        def forge() -> None:
            with closing(sqlite3.connect(events, timeout=WAIT_S)) as db, db:
                columns = [c for (_, c, *_) in db.execute("PRAGMA table_info(event)") if c not in ("n", "event_id")]
                names = ", ".join(columns)
                db.execute(
                    f"INSERT INTO event (event_id, {names}) SELECT event_id || '-again', {names} FROM event "
                    "ORDER BY n DESC LIMIT 20"
                )

        s.expect("20 events entered into the log by another hand", "ClosureAlert", "ClosureRollback", do=forge)
        s.expect("the watcher's log taken away", "ClosureStale", do=link.unlink)


SCENES: Final[Mapping[str, Callable[[Path, list[Shown]], None]]] = {
    scene.__name__: scene
    for scene in (
        *(finds_too_much, finds_rubbish, finds_nothing, restarts, slow, slow_live, bad_feed, full_disk, unclosed),
    )
}


def main() -> None:
    """Play the scenes, and demand that every alert of the table was seen to fire."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", nargs="+", choices=SCENES, default=list(SCENES), help="default: all")
    chosen = parser.parse_args().scene
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("stopped")
    )  # what was started is ended, what was mounted unmounted
    began_s, shown, failed = time.monotonic(), list[Shown](), []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            try:
                SCENES[name](Path(folder), shown)
            except (AssertionError, OSError, V13Error, subprocess.CalledProcessError) as error:
                failed.append(name)
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    table: SloTable = load_slo(REPO / "config" / "slo.yaml")
    seen, names = {one.alert for one in shown}, [rule.name for rule in alert_rules(table)]
    missing = [name for name in names if name not in seen]
    for keys, (value, why) in CHANGED.items():
        print(f"changed: {'.'.join(keys)} {value:g} ({why})")
    print(f"{len(seen)} of {len(names)} alerts fired; {time.monotonic() - began_s:.0f} s")
    if failed or (missing and len(chosen) == len(SCENES)):
        sys.exit(f"not seen: {', '.join(missing)}; scenes that failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
