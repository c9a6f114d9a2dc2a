"""Runners killed with SIGKILL, over and over, until their recording is done: nothing lost, nothing doubled.

`python -m tests.stress.kills --kills 200` (`make stress`); the test run does a handful.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.runner_process import MAX_GAP_MS, Runner, Scene, n_rows, rows, scene, until
from tests.parity.live_runs import Expected, FakeClock, batch, in_log, loose, same, session_on
from v13 import market
from v13.market.playback import open_playback

__all__ = ["MOMENTS", "Kills", "kill_until_done"]

MOMENTS = ("starting", "running", "after a commit", "catching up")
MEAN_LIFE_S = 0.7  # of a runner that is killed at any time after its start
POLICY = market.ReadPolicy(bar_ms=1_000, max_gap_ms=MAX_GAP_MS)
START_S = 3.0  # about what a start takes


@dataclass
class Kills:
    """What a run of kills did."""

    by_moment: Counter[str] = field(default_factory=Counter)
    n_bars: list[int] = field(default_factory=list)  # in the log after each
    n_events: int = 0


def kill_until_done(made: Scene, n_kills: int, seed: int) -> Kills:
    """Kill runners of one recording `n_kills` times, let the last one finish, and demand what was never disturbed.

    A kill comes at any time of the start, at any time later at a speed that leaves the recording for the last one to
    end, as soon as somebody else can see a new commit, or during a replay at full speed that begins at the log's end.
    After each, the log is whole, and holds exactly what its bars lead to.
    """
    pick, done, params = random.Random(seed), Kills(), loose()
    expected = batch(made.recordings, params, max_gap_ms=MAX_GAP_MS)
    assert len({rule for _, rule in expected.events.values()}) == 2
    assert any(ret is None for ret, _ in expected.outcomes.values()), "the market has no void outcome to lose"
    bars = {name: recording.bars for name, recording in market.load(made.recordings, policy=POLICY).items()}
    total = sum(b.size for b in bars.values())
    speed = max(1.0, total / len(bars) / (n_kills + 1) / MEAN_LIFE_S)
    for number in range(n_kills):
        moment = MOMENTS[1] if number == 0 else pick.choices(MOMENTS, (2, 4, 3, 1))[0]
        before = n_rows(made.log)
        if before >= total:  # done before its time: begin again
            for leftover in made.log.parent.glob(f"{made.log.name}*"):
                leftover.unlink()
            before = 0
        with made.running("--speed", "max" if moment == "catching up" else f"{speed:g}") as runner:
            shown = live_until(runner, made, moment, pick, before)
            runner.signal(signal.SIGKILL)
            assert runner.end() == -signal.SIGKILL or n_rows(made.log) == total
        done.by_moment[moment] += 1
        done.n_bars.append(n_rows(made.log))
        assert done.n_bars[-1] >= before, "bars were lost"
        check(made.log, expected, shown)
        if (number + 1) % 20 == 0:
            print(f"{number + 1} of {n_kills} kills, {done.n_bars[-1]} of {total} bars", file=sys.stderr, flush=True)
    last = made.finish("--speed", "max")
    assert last.returncode == 0, last.stderr
    assert n_rows(made.log) == total
    check_end(made, expected)
    done.n_events = len(expected.events)
    return done


def live_until(runner: Runner, made: Scene, moment: str, pick: random.Random, before: int) -> tuple[int, int]:
    """Let a runner live until the moment of its kill; return the events its metrics showed, of (before, by) then."""
    if moment == "starting":
        time.sleep(pick.uniform(0.0, START_S))
        return 0, 0
    with suppress(OSError, AssertionError):  # it may come to its end before it is asked
        runner.started()
        if moment == "after a commit":
            until(lambda: n_rows(made.log) > before or runner.process.poll() is not None, "a commit")
            return 0, 0
        shown = int(runner.metric("divergence_events_total"))
        time.sleep(pick.uniform(0.0, 2 * MEAN_LIFE_S if moment == "running" else 0.3))
        return shown, int(runner.metric("divergence_events_total"))
    return 0, 0


def check(log: Path, expected: Expected, shown: tuple[int, int]) -> None:
    """Demand that a log after a kill is whole: exactly the events and outcomes its bars lead to, and no others."""
    if not log.exists() or not rows(log):
        return
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        settled = dict(
            db.execute("SELECT event_id || '@' || horizon_bars, outcome.ts_ms FROM outcome JOIN event USING (n)")
        )
        symbol_of = dict(db.execute("SELECT event_id, symbol FROM event"))
        bars = dict(db.execute("SELECT symbol, count(*) FROM bar GROUP BY symbol"))
    events, outcomes = in_log(log)
    reached = {symbol: ts for symbol, (_, ts) in rows(log).items()}
    wanted = {e: v for e, v in expected.events.items() if (v[0][0] or 0) <= reached.get(e.partition("-")[0], -1)}
    assert events == wanted
    n_sided = sum(fields[3] != 0 for fields, _ in events.values())
    assert shown[1] <= n_sided, "something was counted that is not in the log"
    assert outcomes.items() <= expected.outcomes.items()
    for name, ts_ms in settled.items():
        assert ts_ms <= reached[symbol_of[name.rpartition("@")[0]]]
    assert all(n > 0 for n in bars.values())


def check_end(made: Scene, expected: Expected) -> None:
    """Demand that log and resumed counters are those of a run that nobody disturbed."""
    playbacks = open_playback(made.recordings, policy=POLICY)
    with closing(sqlite3.connect(made.log)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM config").fetchone() == (1,)
    with session_on(made.log, playbacks, loose(), FakeClock(), max_gap_ms=MAX_GAP_MS) as (session, metrics):
        assert session.notes == []
        same(made.log, metrics, expected)


def main() -> None:
    """Kill runners as often as asked, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = scene(Path(folder), loose(), n_bars=max(600, 12 * arguments.kills))
        done = kill_until_done(made, arguments.kills, arguments.seed)
    moments = ", ".join(f"{n} {moment}" for moment, n in sorted(done.by_moment.items()))
    n_used = len(set(done.n_bars))
    print(
        f"{arguments.kills} kills ({moments}) at {n_used} different bars, seed {arguments.seed}: {done.n_events} events"
    )
    print(f"none lost, none doubled, outcomes and counters as undisturbed; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
