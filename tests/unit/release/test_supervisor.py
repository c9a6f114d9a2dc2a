"""Definitions of programs, their environment, and the choice of a supervisor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.release.small_rig import SmallSupervisor
from v13.errors import ReleaseError
from v13.release.supervisor import (
    Program,
    SupervisorGoneError,
    choose,
    environment,
    kept_up,
    last_lines,
    wait_until,
)
from v13.release.supervisord import SOCKET_BYTES, Supervisord
from v13.release.systemd import Systemd, is_usable

GOOD = Program("runner-1", ("/bin/true", "--x"), Path("/srv"), {"A": "b"}, Path("/srv/log"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a/b"}, "name 'a/b'"),
        ({"name": ""}, "name ''"),
        ({"command": ("true",)}, "command 'true'"),
        ({"command": ()}, "command '.'"),
        ({"command": ("/bin/true", "a\nb")}, "control character"),
        ({"folder": Path("here")}, "folder 'here'"),
        ({"log": Path("log")}, "log 'log'"),
        ({"environ": {"A-B": "c"}}, "no name of a variable"),
        ({"environ": {"A": "c\n[program:x]"}}, "control character"),
        ({"stop_s": 0.0}, "stop_s > 0"),
        ({"retries": 0}, "retries >= 1"),
    ],
)
def test_a_definition_that_no_supervisor_can_be_told_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ReleaseError, match="program ") as caught:
        replace(GOOD, **wrong)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_the_environment_is_the_minimum_the_wishes_and_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "token")
    found = environment(tmp_path, GOOD)
    assert set(found) == {"PATH", "HOME", "LANG", "A", "V13_SITE", "V13_PROGRAM"}
    assert (found["V13_SITE"], found["V13_PROGRAM"]) == (str(tmp_path.resolve()), "runner-1")


def test_no_program_can_hide_by_bringing_its_own_mark(tmp_path: Path) -> None:
    assert environment(tmp_path, replace(GOOD, environ={"V13_SITE": "/elsewhere"}))["V13_SITE"] == str(tmp_path)


def test_the_supervisor_is_the_one_asked_for(tmp_path: Path) -> None:
    assert isinstance(choose(tmp_path, "supervisord"), Supervisord)
    assert isinstance(choose(tmp_path, "systemd"), Systemd)
    assert choose(tmp_path).name == ("systemd" if is_usable() else "supervisord")
    with pytest.raises(ReleaseError, match="expected auto, systemd or supervisord"):
        choose(tmp_path, "upstart")


def test_a_home_that_supervisord_cannot_be_told_is_refused(tmp_path: Path) -> None:
    for name in ("a #b", "a[b]", "%(here)s", "a*"):
        with pytest.raises(ReleaseError, match="cannot be told this path"):
            Supervisord(tmp_path / name)
    with pytest.raises(ReleaseError, match="use a shorter home"):
        Supervisord(Path("/") / ("x" * SOCKET_BYTES))


def test_the_last_lines_of_a_log_are_told_or_why_there_are_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "No such file" in last_lines(log)
    log.write_bytes(b"")
    assert last_lines(log).endswith("is empty")
    log.write_bytes(b"x" * 100_000 + b"\n" + b"\n".join(b"line %d \xff" % n for n in range(50)))
    assert last_lines(log).splitlines()[1::14] == ["  line 35 \ufffd", "  line 49 \ufffd"]


def test_waiting_ends_with_the_condition_or_with_the_time() -> None:
    looks = iter([False, False, True])
    assert wait_until(lambda: next(looks), 60)
    assert not wait_until(lambda: False, 0)


class Killed(SmallSupervisor):
    """It goes away under the first starts, as one that is killed does, and comes back with `ensure_up`.

    Or while it comes up itself, `n_early` times.
    """

    def __init__(self, n_deaths: int, n_early: int = 0) -> None:
        super().__init__()
        self.n_deaths, self.n_early = n_deaths, n_early

    def ensure_up(self) -> None:
        super().ensure_up()
        if self.n_early:
            self.n_early -= 1
            raise SupervisorGoneError("it was killed while it came up")

    def start(self, name: str) -> None:
        super().start(name)
        if self.n_deaths:
            self.n_deaths -= 1
            raise SupervisorGoneError("it was killed")


def test_what_a_supervisor_was_killed_under_is_done_again_with_another_one() -> None:
    killed = Killed(2)
    kept_up(killed, lambda: killed.start("one"))
    assert killed.told == ["ensure_up", "start one"] * 3


def test_a_supervisor_that_is_killed_while_it_comes_up_is_had_come_up_again() -> None:
    killed = Killed(0, n_early=2)
    kept_up(killed, lambda: killed.start("one"))
    assert killed.told == ["ensure_up"] * 3 + ["start one"]


def test_a_supervisor_that_goes_away_each_time_is_an_error() -> None:
    killed = Killed(3)
    with pytest.raises(SupervisorGoneError, match="it was killed"):
        kept_up(killed, lambda: killed.start("one"))


def test_what_fails_under_a_supervisor_that_lives_is_not_tried_again() -> None:
    small = SmallSupervisor()

    def fail() -> None:
        raise ReleaseError("does not stay up")

    with pytest.raises(ReleaseError, match="does not stay up"):
        kept_up(small, fail)
    assert small.told == ["ensure_up"]
