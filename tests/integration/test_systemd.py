"""The same calls for systemd: units that systemd itself takes, and programs run by a stand-in of systemctl.

There is no running systemd in the tests: what a real one does with the units is not shown here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration import systemctl_standin
from tests.integration.test_service_unit import EXPOSURE_OK, directives
from v13.errors import ReleaseError
from v13.release import orphans, systemd
from v13.release.supervisor import Program, wait_until
from v13.release.systemd import Systemd, unit_text

WAIT_S = 120.0
HERE = "import time; print('here', flush=True); time.sleep(3600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(3600)"
ODD = "a 'b' \"c\" %i 100% $HOME \\ ; #"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "site 50%"
    folder.mkdir()
    return folder


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return tmp_path / "units"


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """Where the stand-in keeps what it knows."""
    return tmp_path / "bus"


@pytest.fixture
def site(home: Path, units: Path, bus: Path) -> Iterator[Systemd]:
    command = (sys.executable, "-S", systemctl_standin.__file__, str(bus), str(units))
    supervisor = Systemd(home, units=units, systemctl=command)
    supervisor.ensure_up()
    yield supervisor
    (bus / "is_broken").unlink(missing_ok=True)
    supervisor.shut_down()
    assert orphans.find(home) == []


@pytest.fixture
def program(home: Path) -> Callable[..., Program]:
    def make(name: str, code: str = HERE, **more: float) -> Program:
        command = (sys.executable, "-S", "-c", code)
        made = Program(name, command, home, {}, home / "logs" / f"{name}.log", stop_s=2, start_s=0.1, retries=2)
        return replace(made, **more)  # type: ignore[arg-type]

    return make


def marked(home: Path, name: str) -> list[int]:
    return [process.pid for process in orphans.find(home, name)]


def await_line(log: Path) -> str:
    assert wait_until(lambda: log.exists() and log.read_text(encoding="utf-8").endswith("\n"), WAIT_S)
    return log.read_text(encoding="utf-8").splitlines()[-1]


def test_a_program_runs_from_start_to_stop(
    site: Systemd, home: Path, bus: Path, program: Callable[..., Program]
) -> None:
    site.install(program("one"))
    assert site.state("one").state == "stopped"
    site.start("one")
    running = site.state("one")
    assert (running.state, [running.pid]) == ("running", marked(home, "one"))
    assert len(list(bus.glob("*.enabled"))) == 1  # it comes back after a reboot
    site.start("one")
    assert site.state("one").pid == running.pid
    site.stop("one")
    assert (site.state("one").state, marked(home, "one")) == ("stopped", [])
    assert list(bus.glob("*.enabled")) == []
    site.stop("one")
    site.stop("nobody")
    assert site.state("nobody").state == "unknown"
    with pytest.raises(ReleaseError, match="nobody: is not installed"):
        site.start("nobody")


def test_odd_words_and_no_more_of_the_environment_than_was_asked_for_reach_the_program(
    site: Systemd, program: Callable[..., Program], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "token")
    code = "import os, sys, time; print(sys.argv[1:], os.environ['ODD'], len(os.environ), os.getcwd(), flush=True)"
    one = program("one", f"{code}; time.sleep(3600)")
    site.install(replace(one, command=(*one.command, ODD, "", "ü"), environ={"ODD": ODD}))
    site.start("one")
    assert await_line(one.log) == f"{[ODD, '', 'ü']} {ODD} 6 {home}"


def test_one_that_does_not_start_is_failed_and_its_last_words_are_told(
    site: Systemd, program: Callable[..., Program]
) -> None:
    site.install(program("bad", "print('no such market'); raise SystemExit(1)", start_s=3600))
    with pytest.raises(ReleaseError, match="bad: does not run: failed") as caught:
        site.start("bad")
    assert str(caught.value).count("no such market") == 2
    assert site.state("bad").state == "failed"
    site.install(program("bad"))
    site.start("bad")  # though it was given up
    assert site.state("bad").state == "running"


def test_a_refused_setting_is_not_tried_again(site: Systemd, program: Callable[..., Program]) -> None:
    site.install(program("bad", "print('wrong option'); raise SystemExit(2)", start_s=3600, retries=50))
    with pytest.raises(ReleaseError, match="exit code 2") as caught:
        site.start("bad")
    assert str(caught.value).count("wrong option") == 1


def test_a_killed_one_is_started_again(site: Systemd, home: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    site.start("one")
    (pid,) = marked(home, "one")
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: site.state("one").state == "running" and marked(home, "one") != [pid], WAIT_S)
    assert [site.state("one").pid] == marked(home, "one")


def test_a_shorter_grace_kills_sooner(site: Systemd, home: Path, program: Callable[..., Program]) -> None:
    deaf = program("deaf", DEAF, stop_s=WAIT_S)
    site.install(deaf)
    site.start("deaf")
    await_line(deaf.log)
    site.stop("deaf", grace_s=0.1)
    assert (site.state("deaf").state, marked(home, "deaf")) == ("stopped", [])


def test_a_removed_one_is_gone(site: Systemd, home: Path, units: Path, program: Callable[..., Program]) -> None:
    site.install(program("one"))
    site.install(program("two"))
    site.start("one")
    site.remove("one")
    assert marked(home, "one") == []
    assert [state.name for state in site.states()] == ["two"]
    assert len(list(units.iterdir())) == 1
    site.remove("one")


def test_a_large_log_is_turned_over_at_a_start(
    site: Systemd, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "LOG_BYTES", 3)
    one = program("one")
    site.install(one)
    one.log.write_text("long ago\n", encoding="utf-8")
    site.start("one")
    assert await_line(one.log) == "here"
    assert one.log.with_name("one.log.1").read_text(encoding="utf-8") == "long ago\n"


def test_a_systemd_that_does_not_answer_is_said(
    site: Systemd, home: Path, bus: Path, program: Callable[..., Program], tmp_path: Path
) -> None:
    site.install(program("one"))
    (bus / "is_broken").touch()
    with pytest.raises(ReleaseError, match="Failed to connect to bus"):
        site.ensure_up()
    assert site.state("one").state == "unknown"
    with pytest.raises(ReleaseError, match="does not answer"):
        Systemd(home, units=tmp_path, systemctl=("/nowhere/systemctl",)).ensure_up()


def test_units_that_cannot_be_written_are_said(home: Path, program: Callable[..., Program]) -> None:
    with pytest.raises(ReleaseError, match="cannot be installed"):
        Systemd(home, units=Path("/proc/v13"), systemctl=("true",)).install(program("one"))


def test_the_hardening_is_that_of_the_runners_unit(repo: Path, tmp_path: Path) -> None:
    model = directives(repo / "config" / "systemd" / "v13-runner.service")
    place = tmp_path / "v13-x.service"
    run = Program("x", ("/opt/v13/.venv/bin/v13",), Path("/opt/v13"), {}, Path("/opt/v13/runs/log"))
    place.write_text(unit_text(Path("/opt/v13/runs/deploy"), run, is_system=True), encoding="utf-8")
    found = directives(place)
    # What differs by nature: what is run, where, when it counts as up, and how often it is tried.
    own = {"Description", "StartLimitIntervalSec", "StartLimitBurst", "Type", "NotifyAccess", "WatchdogSec", "Restart"}
    own |= {
        "ExecStart",
        "ExecReload",
        "EnvironmentFile",
        "Environment",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "RestartSec",
    }
    own |= {"User", "Group", "CacheDirectory", "ReadWritePaths"}
    assert {key: found.get(key) for key in model if key not in own} == {k: v for k, v in model.items() if k not in own}
    assert found["ReadWritePaths"] == ['"/opt/v13/runs/deploy"']


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("is_system", [True, False])
def test_systemd_takes_the_unit(home: Path, tmp_path: Path, is_system: bool) -> None:
    run = Program("x", ("/bin/true", ODD, ""), home, {"ODD": ODD}, home / "x.log")
    place = tmp_path / "v13-x.service"
    place.write_text(unit_text(home, run, is_system=is_system), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert place.name not in done.stderr
    broken = place.read_text(encoding="utf-8").replace("Restart=always", "Restart=sometimes")
    place.write_text(broken, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(place)], capture_output=True, text=True, check=False)
    assert place.name in done.stderr  # the control


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_a_program_of_the_system_is_shut_off(tmp_path: Path) -> None:
    run = Program("x", ("/bin/true",), Path("/opt/v13"), {}, Path("/opt/v13/log"))
    place = tmp_path / "v13-x.service"
    text = unit_text(Path("/opt/v13"), run, is_system=True)
    place.write_text(text.replace("[Service]", "[Service]\nUser=v13"), encoding="utf-8")  # as the owner of the home
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(place)]
    environ = {**os.environ, "SYSTEMD_COLORS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    assert float(done.stdout.rpartition("level for ")[2].split()[1]) <= EXPOSURE_OK


def test_a_unit_says_its_words_so_that_a_shell_reader_finds_them_too(home: Path) -> None:
    run = Program("x", ("/bin/true", "a b", "50%"), home, {}, home / "x.log")
    text = unit_text(home, run, is_system=True)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert shlex.split(line.removeprefix("ExecStart=")) == ["/bin/true", "a b", "50%%"]
