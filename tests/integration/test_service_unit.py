"""The systemd unit: what it starts exists, what it promises fits the settings, and systemd itself takes it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from v13 import errors
from v13.cli import run
from v13.config import load

EXPOSURE_OK = 2.0  # systemd's own scale from 0 to 10; below 2.5 it says OK


def directives(path: Path) -> dict[str, list[str]]:
    """Return what a unit file says, all sections together: no name occurs in two of them."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def place(repo: Path) -> Path:
    return repo / "config" / "systemd" / "v13-runner.service"


@pytest.fixture
def unit(place: Path) -> dict[str, list[str]]:
    return directives(place)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add(parser.add_subparsers())
    return parser.parse_args(words)


def test_the_command_it_starts_exists_with_all_its_options(unit: dict[str, list[str]]) -> None:
    (command,) = unit["ExecStart"]
    program, *words = shlex.split(command)
    assert Path(program).name == "v13"
    arguments = parse(words)
    assert (arguments.env, arguments.feed) == ("production", "binance")
    assert [str(arguments.root)] == unit["WorkingDirectory"]
    assert Path(program).is_relative_to(arguments.root)
    with pytest.raises(SystemExit):  # the control
        parse([*words, "--env", "nowhere"])


def test_its_times_fit_the_settings_of_production(unit: dict[str, list[str]], repo: Path) -> None:
    runner = load(repo, "production", environ={}).config.runner
    assert float(unit["TimeoutStopSec"][0]) > 2 * runner.stop_s
    assert float(unit["WatchdogSec"][0]) >= 10
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_it_may_write_where_the_log_is_and_nowhere_else_in_the_project(unit: dict[str, list[str]], repo: Path) -> None:
    (root,) = unit["WorkingDirectory"]
    (writable,) = unit["ReadWritePaths"]
    assert (Path(root) / load(repo, "production", environ={}).config.runner.log).is_relative_to(writable)
    assert Path(writable) != Path(root)
    assert unit["ProtectSystem"] == ["strict"]
    (environment,) = unit["Environment"]
    assert f"NUMBA_CACHE_DIR=/var/cache/{unit['CacheDirectory'][0]}" in environment.split()


def test_it_is_started_again_after_a_crash_but_not_after_a_refusal(unit: dict[str, list[str]]) -> None:
    assert unit["Restart"] == ["on-failure"]
    final = {int(code) for code in unit["RestartPreventExitStatus"][0].split()}
    assert final == {errors.EXIT_USAGE, errors.ConfigError.exit_code}
    assert errors.StoreError.exit_code not in final


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_it(place: Path, unit: dict[str, list[str]], tmp_path: Path) -> None:
    (command,) = unit["ExecStart"]
    here = tmp_path / place.name  # the program of another machine is not here: /bin/true stands for it
    here.write_text(place.read_text(encoding="utf-8").replace(shlex.split(command)[0], "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert here.name not in done.stderr
    environ = {**os.environ, "SYSTEMD_COLORS": "0"}
    command_line = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(here)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=True, env=environ)
    assert float(done.stdout.rpartition("level for ")[2].split()[1]) <= EXPOSURE_OK
