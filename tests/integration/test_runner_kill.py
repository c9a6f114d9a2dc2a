"""The runner under SIGKILL: real processes, a few kills here and hundreds in `make stress`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.runner_process import MAX_GAP_MS, n_rows, scene, until
from tests.parity.live_runs import loose
from tests.stress.kills import kill_until_done

N_KILLS = int(os.environ.get("V13_KILLS", "5"))


@pytest.mark.slow
def test_a_runner_killed_over_and_over_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    done = kill_until_done(scene(tmp_path, loose(), n_bars=600), N_KILLS, seed=13)
    assert sum(done.by_moment.values()) == N_KILLS
    assert any(0 < n < 1_200 for n in done.n_bars), "no kill came while there was something to lose"
    assert done.n_events > 50


@pytest.mark.slow
def test_the_check_after_a_kill_sees_a_lost_event_and_a_doubled_one(tmp_path: Path) -> None:
    """The control of the test above."""
    import sqlite3

    from tests.parity.live_runs import batch
    from tests.stress.kills import check, check_end

    made = scene(tmp_path, loose(), n_bars=300, symbols=["BTCUSDT"])
    assert made.finish().returncode == 0
    expected = batch(made.recordings, loose(), max_gap_ms=MAX_GAP_MS)
    check(made.log, expected, (0, 0))
    check_end(made, expected)
    with sqlite3.connect(made.log) as db:
        db.execute("UPDATE event SET score = score + 1e-9 WHERE n = (SELECT max(n) FROM event WHERE side <> 0)")
    db.close()
    with pytest.raises(AssertionError):
        check(made.log, expected, (0, 0))


@pytest.mark.slow
def test_a_kill_leaves_no_lock_and_the_next_runner_goes_on_at_the_next_bar(tmp_path: Path) -> None:
    made = scene(tmp_path, loose(), n_bars=300, symbols=["BTCUSDT"], holes=False)
    with made.running("--speed", "20") as runner:
        runner.started()
        until(lambda: n_rows(made.log) >= 5, "five bars")
        runner.signal(signal.SIGKILL)
        runner.end()
    at = n_rows(made.log)
    with made.running("--speed", "20") as runner:
        runner.started()
        assert runner.metric("divergence_bars_total") >= at
        until(lambda: n_rows(made.log) > at, "the next bar")
        runner.signal(signal.SIGKILL)
        runner.end()
    assert n_rows(made.log) < 300, "it was done before it was killed"
