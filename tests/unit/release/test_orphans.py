"""Processes are found by their marks, ended for certain, and no other process is hit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from v13.errors import ReleaseError
from v13.release import orphans

WAIT_S = 60.0
PATIENT = "print(flush=True); import time; time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a Python that carries marks, and return when it is past its first words."""
    running = []

    def start(code: str, program: str = "one", **more: str) -> subprocess.Popen[bytes]:
        environ = orphans.marks(tmp_path, program) | more
        process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=WAIT_S)


def pids(home: Path, program: str | None = None) -> set[int]:
    return {process.pid for process in orphans.find(home, program)}


def test_they_are_found_by_site_and_by_program(spawn: Spawn, tmp_path: Path) -> None:
    one, two = spawn(PATIENT), spawn(PATIENT, "two")
    spawn(PATIENT, V13_SITE=f"{tmp_path}-other")
    assert pids(tmp_path) == {one.pid, two.pid}
    assert pids(tmp_path, "two") == {two.pid}
    assert pids(tmp_path, "tw") == set()


def test_the_deaf_are_killed_and_the_others_may_end_in_order(spawn: Spawn, tmp_path: Path) -> None:
    one, two = spawn(PATIENT), spawn(DEAF)
    orphans.end_all(tmp_path, 0.3)
    assert pids(tmp_path) == set()
    assert one.wait(WAIT_S) == -signal.SIGTERM
    assert two.wait(WAIT_S) == -signal.SIGKILL


def test_one_that_ended_and_was_not_reaped_does_not_count(spawn: Spawn, tmp_path: Path) -> None:
    one = spawn(PATIENT)
    orphans.end(orphans.find(tmp_path), 0)
    assert not orphans.is_alive(one.pid)
    assert pids(tmp_path) == set()
    assert one.returncode is None  # nobody waited for it yet: its id is still taken


def test_a_later_process_of_the_same_id_is_not_touched(spawn: Spawn, tmp_path: Path) -> None:
    one = spawn(PATIENT)
    (found,) = orphans.find(tmp_path)
    orphans.end([replace(found, start_ticks=found.start_ticks - 1)], 0)
    assert one.poll() is None
    assert orphans.is_alive(one.pid)


def test_the_caller_and_its_ancestors_are_left_alone_and_found_all_the_same(spawn: Spawn, tmp_path: Path) -> None:
    inner = (
        "import sys; from pathlib import Path; from v13.release import orphans; home = Path(sys.argv[1]); "
        "orphans.end_all(home, 0); print(len(orphans.find(home)), flush=True)"
    )
    code = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}, os.environ['V13_SITE']]);"
    bystander = spawn(PATIENT)
    caller = subprocess.Popen(
        [sys.executable, "-c", code + PATIENT],
        env={**os.environ, **orphans.marks(tmp_path, "guard")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with caller:
        assert caller.stdout is not None
        assert caller.stdout.readline().strip() == "2"  # the parent that waits, and the one that did it
        assert caller.poll() is None
        caller.kill()
    assert bystander.wait(WAIT_S) == -signal.SIGKILL


def test_a_group_is_all_that_belongs_to_its_leader(spawn: Spawn) -> None:
    child = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    leader = spawn(f"import os, subprocess, sys; os.setpgrp(); subprocess.Popen({child}, env={{}});" + PATIENT)
    found = orphans.group(leader.pid)
    assert len(found) == 2
    assert leader.pid in {process.pid for process in found}
    orphans.end(found, 0)
    assert orphans.group(leader.pid) == []


def test_what_comes_back_as_fast_as_it_is_ended_is_reported(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "ROUNDS", 2)
    spawn(PATIENT)
    with pytest.raises(ReleaseError, match="look for who starts them"):
        orphans.end_all(tmp_path, 0)  # one round ends it, the next finds nothing, a third would be needed
