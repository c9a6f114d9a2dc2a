"""A replay that waits for a word, and a runner that waits for whoever looks at it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.runner_process import n_rows
from v13.errors import FeedError
from v13.live.hold import PLAYED
from v13.live.reload_stage import RunnerProcess, prepare

pytestmark = pytest.mark.slow

N_BARS = 300
LOG = Path("runs/live/events.sqlite")


def test_a_held_replay_begins_at_a_word_and_its_runner_stays_up_until_it_is_let_go(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=N_BARS)
    with RunnerProcess(tmp_path, "--feed", f"replay:{recording}", is_held=True) as runner:
        assert runner.facts()  # its metrics are there
        assert n_rows(tmp_path / LOG) == 0
        runner.play()
        assert n_rows(tmp_path / LOG) == 2 * N_BARS
        assert runner.process.poll() is None
        assert runner.facts()
        assert runner.let_go() == 0
    assert "stopped: " in runner.said()


def test_a_held_runner_that_is_killed_is_told_of(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=N_BARS)
    with RunnerProcess(tmp_path, "--feed", f"replay:{recording}", is_held=True) as runner:
        runner.process.kill()
        runner.process.wait()
        with pytest.raises(FeedError, match="ended with -9 before the recording"):
            runner.play()


@pytest.mark.parametrize(
    ("stdin", "code", "words"), [("ended", 0, PLAYED), ("none", 3, "--hold: expected a pipe, socket or terminal")]
)
def test_without_anybody_at_the_other_end_nothing_is_waited_for(
    stdin: str, code: int, words: str, tmp_path: Path
) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=N_BARS)
    command = [sys.executable, "-m", "v13.cli", "run", "--root", str(tmp_path), "--port", "0", "--hold"]
    given: dict[str, object] = {"input": b""} if stdin == "ended" else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(
        [*command, "--feed", f"replay:{recording}"], capture_output=True, timeout=300, check=False, **given
    )
    assert (done.returncode, n_rows(tmp_path / LOG)) == (code, 0 if code else 2 * N_BARS), done.stderr.decode()
    assert words in done.stderr.decode()


def test_a_live_feed_cannot_be_held(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "v13.cli", "run", "--root", str(REPO), "--hold", "--log", str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3
    assert "--hold: only a replay can be held" in done.stderr
    assert list(tmp_path.iterdir()) == []
