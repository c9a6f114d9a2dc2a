"""Deploys and rollbacks in which something is killed with SIGKILL, over and over, or whose disk is full or read-only.

`python -m tests.stress.deploy_kills --runs 300` (`make stress-deploy`). Afterwards one release serves all symbols and
`status` says so, and the served stream has every event once: its bars are those of a runner beside it that nobody ever
kills, without a hole, and wherever a release has seen the same bars as that one, its events are the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.integration.deploy_stage import bars_of, begun, events_of, owed, ran, settled, stage, steps_over, until
from v13 import store
from v13.config.parameters import read_parameters
from v13.errors import V13Error
from v13.rehearsal.stage import BAR_MS, ENV
from v13.release.deploy import plan
from v13.release.handover import owner_at
from v13.release.prometheus_process import free_port
from v13.release.rig import Rig
from v13.release.rollback import find_target
from v13.release.served import served_events
from v13.release.signal_parity import warm_bars
from v13.release.status import status
from v13.release.workers import is_alive
from v13.store.event_standing import standing

__all__ = ["VICTIMS", "Run", "kill_in", "settle"]

VICTIMS: Final = ("deployer", "guard", "supervisord", "runner")
STAGE_S: Final = 480.0  # of a market; a log keeps 2,000 bars of 200 ms, and those are compared
MINUTES: Final = 16
SETTLE_S: Final = 300.0  # nothing is waited for so long that ever ends
LASTS_S: Final = {"deploy": 30.0, "rollback": 8.0}  # about; a kill comes at any time of it
ROLLBACKS: Final = 0.35  # of all runs, where there is something to go back to
TMPFS_MB: Final = 400
FULL_S: Final = 6.0  # a disk is full, or cannot be written, for so long


@dataclass
class Run:
    """One operation and what became of it."""

    number: int
    operation: str
    victim: str
    after_s: float
    step: str = ""
    outcome: str = ""
    settle_s: float = 0.0
    n_events: int = 0
    n_compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        """Return a line of the table."""
        verdict = "; ".join(self.wrong) or "ok"
        return (
            f"{self.number:>4}  {self.operation:<8}  {self.victim:<18}  {self.after_s:>5.1f}  {self.step:<18}  "
            f"{self.outcome:<11}  {self.settle_s:>6.1f}  {self.n_events:>6}  {self.n_compared:>8}  {verdict}"
        )


HEAD: Final = (
    f"{'run':>4}  {'begun':<8}  {'killed':<18}  {'at s':>5}  {'in step':<18}  {'ended':<11}  {'over s':>6}  "
    f"{'events':>6}  {'compared':>8}  verdict"
)


@dataclass
class Shadow:
    """A runner of the first release that is never touched: its log is what the feed leads to."""

    log: Path
    warm_ms: int


@contextmanager
def shadow_of(rig: Rig, release: str) -> Iterator[Shadow]:
    """Run it beside the supervisor, from the first release's log on."""
    folder = rig.site.root / "shadow"
    folder.mkdir()
    log = folder / "events.sqlite"
    store.write_yaml(
        folder / "shadow.yaml",
        {
            "runner": {
                "symbols": list(rig.site.symbols),
                "log": str(log),
                "warm_from": str(rig.site.event_log(release)),
            },
            "exporter": {"port": free_port()},
        },
    )
    place = rig.site.release(release)
    command = [sys.executable, "-P", "-m", "v13.cli", "run", "--env", ENV, "--root", str(place)]
    with (folder / "runner.log").open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--settings", str(folder / "shadow.yaml")],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(place / "code")},
            stdout=sink,
            stderr=sink,
        )
    try:
        symbols = set(rig.site.symbols)
        until(lambda: symbols <= _bars(log), "the shadow runs")
        params = read_parameters(
            place / "runs/real_test/best_global.yaml", place / "runs/real_test/best_by_bucket.yaml"
        ).params
        yield Shadow(log, warm_bars(params) * BAR_MS)
        if process.poll() is not None:
            raise V13Error(f"the shadow ended by itself: {(folder / 'runner.log').read_text()[-500:]}")
    finally:
        process.terminate()
        process.wait()


def _bars(log: Path) -> set[str]:
    """Return the symbols of which a log has bars; none while it is being made."""
    try:
        return set(standing(log).bars)
    except V13Error:
        return set()


def settle(rig: Rig, worker: subprocess.Popen[str]) -> str:
    """Do what an operator does until all is over and the worker gone; return how the last operation ended."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        ran(rig, "deploy", "up")
        state = rig.ledger.state()
        running = state.open
        if running is None and worker.poll() is not None:
            last = state.operation
            assert last is not None
            if last.outcome == "stopped":
                ran(rig, "deploy", "run", "--reason", "nothing served")
            elif status(rig).is_consistent:
                return str(last.outcome)
        elif running is not None and (running.paused or not is_alive(running.worker)):
            ran(rig, "deploy", "resume")
        if time.monotonic() > end_s:
            raise V13Error(f"not over within {SETTLE_S:g} s:\n{status(rig).text()}")
        time.sleep(0.2)


def kill_in(rig: Rig, run: Run) -> None:
    """Begin an operation, kill at its moment, and see it through."""
    arguments = ("deploy", "run") if run.operation == "deploy" else ("rollback", "--type", "full")
    with ended(begun(rig, *arguments, "--reason", f"run {run.number}")) as worker:
        until(partial(_at, rig, worker, 0), "it has begun")
        time.sleep(run.after_s)
        running = rig.ledger.state().open
        run.step = "over" if running is None else _step(rig)
        pid = _pid(rig, run.victim, worker)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            run.victim += " (gone)"
        if run.victim == "deployer":
            worker.wait()
        began_s = time.monotonic()
        run.outcome = settle(rig, worker)
        run.settle_s = time.monotonic() - began_s


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Have a process gone afterwards."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def _step(rig: Rig) -> str:
    running = rig.ledger.state().open
    if running is None:
        return "over"
    steps = running.facts.get("steps", ("stop", "restore", "handback", "verify"))
    return next((s for s in steps if s not in running.done), "end")


def _pid(rig: Rig, victim: str, worker: subprocess.Popen[str]) -> int | None:
    if victim == "deployer":
        return worker.pid if worker.poll() is None else None
    if victim == "supervisord":
        with suppress(OSError, ValueError):
            return int((rig.site.home / "supervisor/supervisord.pid").read_text(encoding="ascii"))
        return None
    states = [p for p in rig.supervisor.states() if p.pid is not None]
    of = [p.pid for p in states if p.name.startswith("runner-" if victim == "runner" else "guard")]
    return random.Random(worker.pid).choice(of) if of else None


def judge(rig: Rig, run: Run, shadow: Shadow) -> None:
    """Enter what is not as it must be."""
    state = rig.ledger.state()
    if state.open is not None or state.candidate is not None:
        run.wrong.append("an operation is still under way")
    if {state.serves(s) for s in rig.site.symbols} != {state.stable}:
        run.wrong.append("not one release serves")
    runs = {p.name for p in rig.supervisor.states() if p.state == "running" and p.name.startswith("runner-")}
    if runs != {f"runner-{state.stable}"}:
        run.wrong.append(f"{', '.join(sorted(runs))} run")
    told = status(rig)
    run.wrong += told.problems
    # What is served grows meanwhile: everything is compared up to where all logs were a moment ago.
    end_ms = min(max(bars_of(log, s), default=0) for log in (shadow.log, _log(rig)) for s in rig.site.symbols)
    counted = [(ts, s, name, r) for ts, s, name, r in owed(rig.site, state.serving) if ts <= end_ms]
    found = served_events(rig.site, state.serving).iter_rows(named=True)
    rows = sorted((r["ts_ms"], r["symbol"], r["event_id"], r["release"]) for r in found if r["ts_ms"] <= end_ms)
    if rows != counted:
        run.wrong.append("served_events is not the union by assignment")
    names = [name for _, _, name, _ in counted]
    if len(set(names)) != len(names):
        run.wrong.append(f"{len(names) - len(set(names))} events are counted twice")
    run.n_events = len(names)
    for symbol in rig.site.symbols:
        _compare(rig, run, shadow, symbol, end_ms, {name for _, s, name, _ in counted if s == symbol})


def _compare(rig: Rig, run: Run, shadow: Shadow, symbol: str, end_ms: int, counted: set[str]) -> None:
    """Compare the served bars and events of a symbol with those of the runner that nobody killed."""
    serving = rig.ledger.state().serving
    logs = {r: bars_of(rig.site.event_log(r), symbol) for r in {a.release for a in serving}}
    whole = bars_of(shadow.log, symbol)
    times = sorted(ts for ts in whole if ts <= end_ms)
    other = {r: [ts for ts in times if own.get(ts) != whole[ts]] for r, own in logs.items()}

    def saw_the_same(ts_ms: int) -> str | None:
        """Return who served at a time, if it had seen the shadow's bars for as long as a detector remembers."""
        owner, began_ms = owner_at(serving, symbol, ts_ms), ts_ms - shadow.warm_ms
        if owner is None or began_ms < max(times[0], min(logs[owner], default=ts_ms)):
            return None
        return None if any(began_ms < ts <= ts_ms for ts in other[owner]) else owner

    for ts in times:
        owner = owner_at(serving, symbol, ts)
        if owner is not None and min(logs[owner], default=ts + 1) <= ts and ts not in logs[owner]:
            run.wrong.append(f"{symbol}: {owner} served and lacks the bar at {ts}")
    seen = {name: ts for name, s, ts in events_of(shadow.log) if s == symbol and ts <= end_ms}
    for name, ts in seen.items():
        owner = saw_the_same(ts)
        if owner is not None:
            run.n_compared += 1
            if name not in counted:
                run.wrong.append(f"{name} is missing: {owner} saw the same bars")
    for ts, name in ((ts, name) for ts, s, name, _ in owed(rig.site, serving) if s == symbol and ts <= end_ms):
        if name not in seen and saw_the_same(ts) is not None:
            run.wrong.append(f"{name} is too much: who nobody killed saw the same bars and has it not")


def _log(rig: Rig) -> Path:
    return rig.site.event_log(str(rig.ledger.state().stable))


def rounds(n_runs: int, seed: int, folder: Path) -> Iterator[Run]:
    """Yield each run as it ends; a new stage is held whenever the market of one has been compared for long enough."""
    dice, number = random.Random(seed), 0
    while number < n_runs:
        with stage(folder / f"stage{number}", minutes=MINUTES, observe_s=2.0) as rig:
            first = settled(rig)
            with shadow_of(rig, first) as shadow:
                end_s = time.monotonic() + STAGE_S
                while number < n_runs and time.monotonic() < end_s:
                    number += 1
                    operation = "deploy"
                    with suppress(V13Error):
                        find_target(rig, "full", None)
                        operation = "rollback" if dice.random() < ROLLBACKS else "deploy"
                    run = Run(number, operation, dice.choice(VICTIMS), dice.uniform(0.0, LASTS_S[operation]))
                    try:
                        kill_in(rig, run)
                        judge(rig, run, shadow)
                    except (V13Error, OSError, subprocess.TimeoutExpired) as error:
                        run.wrong.append(f"{type(error).__name__}: {error}")
                    yield run
                    if run.wrong:
                        break  # what is wrong once would be wrong in each further run of this stage


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a file system in memory on a folder; needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[str]:
    """Leave no byte free."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb") as sink:
        while True:
            os.posix_fallocate(sink.fileno(), sink.seek(0, os.SEEK_END), 4_096)
    try:
        yield "full disk"
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    """Refuse every write; where a program holds a file open for writing, only new files can be refused."""
    done = subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=False)
    frozen = [folder / name for name in ("releases", "backups", "live")] if done.returncode else []
    for place in frozen:
        subprocess.run(["chattr", "+i", str(place)], capture_output=True, check=False)
    try:
        yield "read-only" if not frozen else "read-only folders"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        for place in frozen:
            subprocess.run(["chattr", "-i", str(place)], capture_output=True, check=False)


def disk_rounds(steps: int, seed: int, folder: Path) -> Iterator[Run]:
    """Yield runs in which the disk of `deploy.home` is full, or read-only, while a step is under way; all, or some."""
    dice, number = random.Random(seed), 0
    root = folder / "disk"
    with ExitStack() as stack:
        stack.enter_context(small_disk(root / "deploy"))
        rig = stack.enter_context(stage(root, minutes=60, observe_s=2.0, min_free_mb=1))
        with read_only(rig.site.home):
            said = ran(rig, "deploy", "run", "--reason", "read-only")
        run = Run(0, "deploy", "read-only", 0.0, "begin", f"exit {said.returncode}")
        if said.returncode in (0, 4) or "ead-only" not in said.stderr:
            run.wrong.append(f"expected a refusal that names the disk: {said.stderr[-300:]}")
        yield run
        first = settled(rig)
        shadow = stack.enter_context(shadow_of(rig, first))
        order = [(fault, at) for at in range(len(plan(rig))) for fault in (full, read_only)]
        for fault, at in order if steps == 0 else dice.sample(order, min(steps, len(order))):
            number += 1
            run = Run(number, "deploy", "", FULL_S, plan(rig)[at])
            try:
                with ended(begun(rig, "deploy", "run", "--reason", f"disk {number}")) as worker:
                    until(partial(_at, rig, worker, at), "the step is under way")
                    with fault(rig.site.home) as run.victim:
                        with suppress(subprocess.TimeoutExpired):
                            worker.wait(FULL_S)
                        with suppress(V13Error):
                            status(rig)  # it may not be able to tell; it must not break anything
                    began_s = time.monotonic()
                    run.outcome = settle(rig, worker)
                    run.settle_s = time.monotonic() - began_s
                judge(rig, run, shadow)
            except (V13Error, OSError, subprocess.TimeoutExpired) as error:
                run.wrong.append(f"{type(error).__name__}: {error}")
            yield run


def _at(rig: Rig, worker: subprocess.Popen[str], n_steps: int) -> bool:
    is_there = rig.ledger.state().open is not None and steps_over(rig) >= n_steps
    return is_there or worker.poll() is not None


def main() -> int:
    """Run what is asked for, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="with a kill (default: %(default)s)")
    parser.add_argument("--disk", type=int, default=0, help="steps with a full or read-only disk (default: each)")
    parser.add_argument("--no-disk", action="store_true", help="leave those out; they need root")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s")
    arguments = parser.parse_args()
    began_s, done = time.monotonic(), []
    with_disk = not arguments.no_disk and os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="v13-kills-"))
    print(f"seed {arguments.seed}; in {folder}\n{HEAD}", flush=True)
    for made in (
        rounds(arguments.runs, arguments.seed, folder),
        *((disk_rounds(arguments.disk, arguments.seed, folder),) if with_disk else ()),
    ):
        for run in made:
            done.append(run)
            print(run.row(), flush=True)
    bad = [run for run in done if run.wrong]
    kinds = Counter(f"{run.operation}, {run.victim}" for run in done)
    print("\n".join(f"{n:>5}  {kind}" for kind, n in sorted(kinds.items())))
    disk = "" if with_disk else " (full and read-only disks were left out)"
    print(f"{len(done)} runs, {len(bad)} of them wrong, {time.monotonic() - began_s:.0f} s{disk}")
    if not bad:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
