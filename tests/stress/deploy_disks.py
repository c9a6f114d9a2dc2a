"""Deploys and rollbacks during which the disk of `deploy.home` is full, or refuses to be written, in a given step.

The disk is a small file system in memory. For a moment in which the worker is stopped it becomes full to the last byte,
or a read-only mount comes over it: then no file can be opened for writing any more, and only what a program holds open
already is written still (a disk that fails under open files cannot be had here). Afterwards there is room again, the
operator goes on, and things must be as after a kill.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.integration.deploy_stage import ran, settled, stage
from tests.stress.deploy_operator import Operator
from tests.stress.deploy_shadow import Judged, Shadow, judge, shadow_of
from tests.stress.deploy_watch import ROLLBACK, Ledger, is_alive, said_and_untrue
from v13.errors import V13Error
from v13.release.deploy import deploy, plan
from v13.release.rig import Rig
from v13.release.rollback_target import find_target

__all__ = ["Disk", "run"]

TMPFS_MB: Final = 600
MINUTES: Final = 60
FAULT_S: Final = 6.0
PER_STAGE: Final = 12  # operations; a stage has so much of a market and of a disk
STEP_S: Final = 400.0  # all checks take two minutes on a very busy machine
CHUNK: Final = 1 << 26
PAGE: Final = 4_096
POLL_S: Final = 0.01

Fault = Callable[[Path], AbstractContextManager[None]]


@dataclass
class Disk:
    """One operation in which the disk refused."""

    number: int
    fault: str
    step: str  # that was under way then
    kind: str = "deploy"
    said: str = ""
    outcome: str = ""
    spent_s: float = 0.0
    judged: Judged = field(default_factory=Judged)

    def row(self) -> str:
        """Return a line of the table."""
        j = self.judged
        return (
            f"{self.number:>4}  {self.kind:<8}  {self.step:<17}  {self.fault:<9}  {self.said:<28}  {self.outcome:<11}  "
            f"{self.spent_s:>5.0f} s  {j.n_events:>6}  {j.n_computed:>8}  {j.n_bars:>5}  {'; '.join(j.wrong) or 'ok'}"
        )


HEAD: Final = (
    f"{'disk':>4}  {'kind':<8}  {'in step':<17}  {'fault':<9}  {'status said meanwhile':<28}  {'ended':<11}  "
    f"{'over':>7}  {'events':>6}  {'computed':>8}  {'bars':>5}  verdict"
)


def run(most: int, seed: int, folder: Path, only: Sequence[str] = ()) -> bool:
    """Run `most` of all steps and faults, or all where it is 0; print the table; return whether all was well.

    `only`: those named like `start/full`, as where a run before was cut off.
    """
    print(HEAD, flush=True)
    done = []
    for one in _rounds(most, seed, folder / "disk", only):
        done.append(one)
        print(one.row(), flush=True)
    n_bad = sum(bool(one.judged.wrong) for one in done)
    n_computed = sum(one.judged.n_computed for one in done)
    print(f"{len(done)} operations with a full or read-only disk, {n_bad} wrong; {n_computed} events compared")
    return n_bad == 0 and (n_computed > 0 or most > 0)


def _rounds(most: int, seed: int, root: Path, only: Sequence[str]) -> Iterator[Disk]:
    faults: dict[str, Fault] = {"full": _full, "read-only": _read_only}
    left: dict[str, list[tuple[str, str]]] | None = None
    n_stages = n_done = 0
    while left is None or any(left.values()):
        n_stages += 1
        with ExitStack() as stack:
            at = root / f"stage{n_stages}"
            stack.enter_context(_small_disk(at / "deploy"))
            rig = stack.enter_context(stage(at, minutes=MINUTES, observe_s=2.0, min_free_mb=1, ready_s=240.0))
            if left is None:
                yield _refused(rig)
                left = _order(plan(rig), faults, most, seed, only)
            shadow = stack.enter_context(shadow_of(rig, settled(rig)))
            for _ in range(PER_STAGE):
                kind = "rollback" if left["rollback"] and (_can_go_back(rig) or not left["deploy"]) else "deploy"
                if not left[kind]:
                    break
                if kind == "rollback" and not _can_go_back(rig):
                    assert deploy(rig, "something to go back from").outcome == "completed"
                step, fault = left[kind].pop(0)
                n_done += 1
                one = _round(rig, shadow, Disk(n_done, fault, step, kind), faults[fault])
                yield one
                if one.judged.wrong:  # whatever comes after would be judged by what is left of this
                    print("no further steps were tried: things are not as they must be", flush=True)
                    return


def _order(
    steps: list[str], faults: Iterable[str], most: int, seed: int, only: Sequence[str]
) -> dict[str, list[tuple[str, str]]]:
    """Return what is to be done, by the kind of operation."""
    pairs = [(kind, step, fault) for kind, among in (("deploy", steps), ("rollback", ROLLBACK))
             for step in among for fault in faults if not only or f"{step}/{fault}" in only]  # fmt: skip
    drawn = random.Random(seed).sample(pairs, most or len(pairs))
    return {kind: [pair[1:] for pair in drawn if pair[0] == kind] for kind in ("deploy", "rollback")}


def _refused(rig: Rig) -> Disk:
    """Try to begin a deploy where nothing can be written."""
    with _read_only(rig.site.home):
        said = ran(rig, "deploy", "run", "--reason", "read-only")
    one = Disk(0, "read-only", "none", said=f"exit code {said.returncode}")
    if said.returncode in (0, 4) or "ead-only" not in said.stderr:
        one.judged.wrong.append(f"expected a refusal that names the disk: {said.stderr[-300:]}")
    return one


def _can_go_back(rig: Rig) -> bool:
    with suppress(V13Error):
        find_target(rig, "full", None)
        return True
    return False


def _round(rig: Rig, shadow: Shadow, one: Disk, fault: Fault) -> Disk:
    """Begin an operation, have the disk refuse in its step, see it through and judge it."""
    began_s, ledger = time.monotonic(), Ledger(rig.site.ledger)
    before, aim = ledger.look().id, one.step
    arguments = ["deploy", "run"] if one.kind == "deploy" else ["rollback", "--type", "full"]
    with Operator(rig, ledger, [*arguments, "--reason", f"disk {one.number}"], shadow.collect) as operator:
        try:
            operator.begin()
            end_s = time.monotonic() + STEP_S
            while ledger.look().id == before or (ledger.is_open and aim in ledger.ahead and ledger.step != aim):
                assert time.monotonic() < end_s, f"not within {STEP_S:g} s: {aim} is under way"
                time.sleep(POLL_S)
            with _stopped(ledger.worker), ExitStack() as refusing:
                one.step = ledger.look().step
                refusing.enter_context(fault(rig.site.home))
                _let_go(ledger.worker)
                end_s = time.monotonic() + FAULT_S
                time.sleep(1.0)
                one.said, wrong = said_and_untrue(rig, ledger)
                if one.said != "no answer":  # it may not be able to tell
                    one.judged.wrong += wrong
                time.sleep(max(0.0, end_s - time.monotonic()))
            one.outcome = operator.see_through()
            wrong = one.judged.wrong
            one.judged = judge(rig, shadow)
            one.judged.wrong += wrong
        except (V13Error, OSError, AssertionError, subprocess.SubprocessError) as error:
            one.judged.wrong.append(f"{type(error).__name__}: {error}")
    one.spent_s = time.monotonic() - began_s
    return one


@contextmanager
def _stopped(pid: int | None) -> Iterator[None]:
    """Have the worker stand still while the disk changes, so that no step is over meanwhile; never leave it so."""
    if pid is not None and is_alive(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        _let_go(pid)


def _let_go(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Have a file system in memory on a folder; needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Leave no byte free."""
    ballast, size = folder / "ballast", CHUNK
    with ballast.open("wb") as sink:
        while size >= PAGE:
            try:
                os.posix_fallocate(sink.fileno(), sink.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Have whatever opens a file below for writing refused."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        probe = folder / "probe"
        with suppress(OSError):
            probe.touch()
            raise AssertionError(f"{probe}: could be written")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
