"""A real supervisord with real programs: what it says is so, whoever is killed when."""

from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release import orphans
from v13.release.supervisor import Program, kept_up, wait_until
from v13.release.supervisord import DAEMON, Supervisord

WAIT_S = 120.0
KILLS = 10
SEED = 20261129
# It says that it is there, and leaves a note where another copy of it runs at the same time.
ALONE = """\
import fcntl, sys, time
lock = open(sys.argv[1] + ".lock", "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    open(sys.argv[1] + ".twice", "a").close()
print("here", flush=True)
time.sleep(3600)
"""
DEAF_CHILD = """\
import subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
with subprocess.Popen([sys.executable, "-S", "-c", deaf], stdout=subprocess.PIPE, env={}) as child:
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(3600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
ENSURE = "import sys; from pathlib import Path; from v13.release.supervisord import Supervisord; "
ENSURE += "Supervisord(Path(sys.argv[1])).ensure_up(); print('up', flush=True)"


@pytest.fixture
def home(place: Path) -> Iterator[Path]:
    yield place / "site 50%"
    orphans.end_all(place / "site 50%", 0)  # of a test that failed


@pytest.fixture
def site(home: Path) -> Iterator[Supervisord]:
    supervisor = Supervisord(home)
    supervisor.ensure_up()
    yield supervisor
    supervisor.shut_down()
    assert orphans.find(home) == []


@pytest.fixture
def program(home: Path) -> Callable[..., Program]:
    def make(name: str, code: str = ALONE, **more: float) -> Program:
        script = home.parent / f"{name}.py"
        script.write_text(code, encoding="utf-8")
        command = (sys.executable, "-S", str(script), str(home / name))
        made = Program(name, command, home, {}, home / "logs" / f"{name}.log", stop_s=2, start_s=0, retries=2)
        return replace(made, **more)  # type: ignore[arg-type]

    return make


def marked(home: Path, name: str) -> list[int]:
    return [process.pid for process in orphans.find(home, name)]


def kill(home: Path, name: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Signal the one process of that name, and return its id."""
    (pid,) = marked(home, name)
    os.kill(pid, number)
    return pid


def await_line(log: Path) -> str:
    assert wait_until(lambda: log.exists() and log.read_text(encoding="utf-8").endswith("\n"), WAIT_S)
    return log.read_text(encoding="utf-8").splitlines()[-1]


def await_state(site: Supervisord, name: str, wanted: str) -> None:
    assert wait_until(lambda: site.state(name).state == wanted, WAIT_S), site.state(name)


def test_a_program_runs_from_start_to_stop(site: Supervisord, home: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    assert site.state("one").state == "stopped"
    site.start("one")
    running = site.state("one")
    assert (running.state, [running.pid]) == ("running", marked(home, "one"))
    site.start("one")
    assert site.state("one") == running
    site.stop("one")
    assert (site.state("one").state, site.state("one").pid) == ("stopped", None)
    assert marked(home, "one") == []
    site.stop("one")
    site.stop("nobody")
    assert site.state("nobody").state == "unknown"
    with pytest.raises(ReleaseError, match="nobody: is not installed"):
        site.start("nobody")


def test_up_for_its_time_counts_as_started(site: Supervisord, program: Callable[..., Program]) -> None:
    site.install(program("one", start_s=2))
    site.start("one")
    running = site.state("one")
    assert running.state == "running"
    assert running.since_s is not None
    assert time.time() - running.since_s >= 2


def test_odd_words_and_no_more_of_the_environment_than_was_asked_for_reach_the_program(
    home: Path, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "token")
    code = "import os, sys, time; print(sys.argv[1:], sorted(os.environ), os.getcwd(), flush=True); time.sleep(3600)"
    odd = ("a 'b' \"c\" %(x)s 100%", "; # $HOME \\", "", "ü")
    site = Supervisord(home)
    site.ensure_up()  # here, with the secret around
    one = program("one")
    site.install(replace(one, command=(sys.executable, "-S", "-c", code, *odd), environ={"ODD": odd[0]}))
    site.start("one")
    names = ["HOME", "LANG", "ODD", "PATH", "V13_PROGRAM", "V13_SITE"]
    said = await_line(one.log)
    site.shut_down()
    assert said == f"{list(odd)} {names} {home}"


def test_one_that_does_not_start_is_failed_and_its_last_words_are_told(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    site.install(program("bad", "print('no such market'); raise SystemExit(1)", start_s=1))
    with pytest.raises(ReleaseError, match="bad: does not run: failed") as caught:
        site.start("bad")
    assert str(caught.value).count("no such market") == 2  # as often as it may be tried
    assert site.state("bad").state == "failed"
    assert marked(home, "bad") == []
    site.install(program("bad"))
    site.start("bad")
    assert site.state("bad").state == "running"


def test_a_program_that_cannot_be_found_is_failed_too(site: Supervisord, program: Callable[..., Program]) -> None:
    site.install(replace(program("bad", start_s=1), command=("/nowhere/python",)))
    with pytest.raises(ReleaseError, match="/nowhere/python"):
        site.start("bad")
    assert site.state("bad").state == "failed"


def test_a_changed_definition_takes_effect_at_the_next_start(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    site.install(program("one"))
    site.start("one")
    (pid,) = marked(home, "one")
    changed = replace(program("one"), log=home / "new" / "one.log")
    site.install(changed)
    site.start("one")
    assert marked(home, "one") == [pid]
    site.stop("one")
    site.start("one")
    assert await_line(changed.log) == "here"


def test_a_removed_one_is_gone(site: Supervisord, home: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    site.install(program("two"))
    site.start("one")
    site.remove("one")
    assert marked(home, "one") == []
    assert [state.name for state in site.states()] == ["two"]
    site.remove("one")


def test_a_stop_takes_the_children_along_even_those_that_neither_listen_nor_carry_a_mark(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    one = program("one", DEAF_CHILD)
    site.install(one)
    site.start("one")
    child = int(await_line(one.log))
    assert orphans.is_alive(child)
    site.stop("one")
    assert not orphans.is_alive(child)
    assert marked(home, "one") == []


def test_a_stop_that_cannot_be_written_down_stops_and_says_so(
    site: Supervisord, home: Path, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: str) -> None:
        raise StoreError(f"{path}: No space left on device")

    site.install(program("one"))
    site.start("one")
    monkeypatch.setattr(store, "write_text", refuse)
    with pytest.raises(ReleaseError, match=r"one: is stopped, and would start with the next supervisord: .*No space"):
        site.stop("one")
    assert marked(home, "one") == []
    assert site.state("one").state == "stopped"


def test_a_shorter_grace_kills_sooner(site: Supervisord, home: Path, program: Callable[..., Program]) -> None:
    deaf = program("deaf", DEAF, stop_s=WAIT_S)
    site.install(deaf)
    site.start("deaf")
    await_line(deaf.log)
    site.stop("deaf", grace_s=0.1)
    assert marked(home, "deaf") == []
    assert site.state("deaf").state == "stopped"


def test_a_killed_supervisord_is_replaced_and_what_ran_runs_once(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    for name in ("ran", "stopped", "never"):
        site.install(program(name))
    site.start("stopped")
    site.stop("stopped")
    site.start("ran")
    (orphan,) = marked(home, "ran")
    await_line(home / "logs" / "ran.log")
    kill(home, DAEMON)
    assert wait_until(lambda: not marked(home, DAEMON), WAIT_S)
    seen = site.state("ran")
    assert (seen.state, seen.pid) == ("unknown", orphan)
    assert "does not answer" in seen.detail
    with pytest.raises(ReleaseError, match="does not answer"):
        site.start("ran")
    site.ensure_up()
    await_state(site, "ran", "running")
    assert [site.state("ran").pid] == marked(home, "ran") != [orphan]
    assert [site.state(name).state for name in ("never", "stopped")] == ["stopped", "stopped"]
    assert not orphans.is_alive(orphan)
    assert not (home / "ran.twice").exists()


def test_without_a_supervisord_a_stop_ends_the_orphan_and_it_stays_down(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    site.install(program("one"))
    site.start("one")
    kill(home, DAEMON)
    assert wait_until(lambda: not marked(home, DAEMON), WAIT_S)
    site.stop("one")
    assert marked(home, "one") == []
    site.ensure_up()
    assert site.state("one").state == "stopped"


def test_one_that_is_killed_the_moment_it_is_there_is_started_again(
    home: Path, program: Callable[..., Program]
) -> None:
    site = Supervisord(home)
    site.install(program("one"))
    killed: list[int] = []

    def kill() -> None:
        assert wait_until(lambda: bool(orphans.find(home, DAEMON)), WAIT_S)
        for process in orphans.find(home, DAEMON):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill)
        kept_up(site, lambda: site.start("one"))
        killer.result()
    assert killed
    assert site.state("one").state == "running"
    site.shut_down()


def test_two_at_once_start_one(home: Path) -> None:
    command = [sys.executable, "-c", ENSURE, str(home)]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [caller.communicate(timeout=WAIT_S)[0] for caller in callers] == ["up\n", "up\n"]
    (pid,) = marked(home, DAEMON)
    Supervisord(home).ensure_up()
    assert marked(home, DAEMON) == [pid]
    Supervisord(home).shut_down()
    assert orphans.find(home) == []


def test_one_that_hangs_is_replaced(site: Supervisord, home: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    site.start("one")
    hung = kill(home, DAEMON, signal.SIGSTOP)
    hasty = Supervisord(home, patience_s=0.5)
    with pytest.raises(ReleaseError, match="does not answer"):
        hasty.start("one")
    hasty.ensure_up()
    assert not orphans.is_alive(hung)
    await_state(site, "one", "running")
    assert [site.state("one").pid] == marked(home, "one")
    assert not (home / "one.twice").exists()


def test_one_that_ends_in_order_is_waited_for(site: Supervisord, home: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    site.start("one")
    old = kill(home, DAEMON, signal.SIGTERM)
    site.ensure_up()
    assert marked(home, DAEMON) != [old]
    await_state(site, "one", "running")


def test_what_a_power_cut_leaves_is_in_nobodys_way(site: Supervisord, home: Path) -> None:
    kill(home, DAEMON)
    assert wait_until(lambda: not marked(home, DAEMON), WAIT_S)
    assert (home / "supervisor" / "rpc.sock").exists()
    (home / "supervisor" / "supervisord.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")  # given away anew
    site.ensure_up()
    assert [int((home / "supervisor" / "supervisord.pid").read_text(encoding="utf-8"))] == marked(home, DAEMON)


def test_a_caller_that_is_itself_an_orphan_lives_on(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    site.install(program("one"))
    site.start("one")
    kill(home, DAEMON)
    assert wait_until(lambda: not marked(home, DAEMON), WAIT_S)
    environ = {**os.environ, **orphans.marks(home, "guard")}
    done = subprocess.run(
        [sys.executable, "-c", ENSURE, str(home)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "up\n"), done.stderr
    await_state(site, "one", "running")


def test_nobody_else_can_reach_the_socket(site: Supervisord, home: Path) -> None:
    assert site.name == "supervisord"
    assert stat.S_IMODE((home / "supervisor").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "supervisor" / "rpc.sock").stat().st_mode) == 0o600


def test_a_full_disk_is_said(place: Path) -> None:
    # No file may grow: what a full disk does to a writer, for this process alone.
    done = subprocess.run(
        [sys.executable, "-c", ENSURE, str(place / "site")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert "ReleaseError" in done.stderr
    assert "is the disk full" in done.stderr.splitlines()[-1]
    assert orphans.find(place / "site") == []


def test_a_home_that_cannot_be_written_is_said(place: Path) -> None:
    (place / "file").write_bytes(b"")
    for home in (place / "file", Path("/proc/v13")):  # nobody, not even root, can make a folder there
        with pytest.raises(ReleaseError, match="the folder cannot be made"):
            Supervisord(home).ensure_up()


def test_a_broken_definition_is_named(home: Path) -> None:
    site = Supervisord(home)
    (home / "supervisor" / "programs").mkdir(parents=True)
    (home / "supervisor" / "programs" / "one.conf").write_text("[program:one]\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"one\.conf: is not what v13 writes"):
        site.ensure_up()


@pytest.mark.slow
def test_killed_at_random_points_the_states_stay_true_and_each_program_runs_once(
    site: Supervisord, home: Path, program: Callable[..., Program]
) -> None:
    dice = random.Random(SEED)
    for name in ("steady", "moved"):
        site.install(program(name))
        site.start(name)

    def move() -> None:
        for _ in range(3):
            site.stop("moved")
            site.start("moved")

    def strike(name: str) -> None:
        for pid in marked(home, name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        for n in range(KILLS):
            moving = pool.submit(move)
            with suppress(TimeoutError):  # the random point
                moving.exception(dice.uniform(0, 0.5))
            strike([DAEMON, "moved", "steady"][n % 3])
            error = moving.exception(WAIT_S)
            assert error is None or isinstance(error, ReleaseError), f"seed {SEED}, kill {n}: {error!r}"
            site.ensure_up()
            site.start("moved")
            for name in ("steady", "moved"):
                await_state(site, name, "running")
                # One that was just forked carries supervisord's own mark until it becomes the program.
                is_one = wait_until(lambda name=name: marked(home, name) == [site.state(name).pid], WAIT_S)
                assert is_one, f"seed {SEED}, kill {n}: {name}: {marked(home, name)}, {site.state(name)}"
            assert len(marked(home, DAEMON)) == 1
    assert list(home.glob("*.twice")) == []
