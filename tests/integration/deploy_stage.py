"""A rehearsal's stage for tests: real servers, real runners, a market that is played; and what must hold on it.

What must hold is reckoned here from the files of the logs alone, with no code of `v13.release`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from tests.conftest import REPO
from v13.rehearsal.rehearse import open_stage
from v13.rehearsal.stage import BAR_MS, ENV
from v13.release import runners
from v13.release.deploy import Deployed, deploy
from v13.release.ledger import Assignment
from v13.release.rig import Rig
from v13.release.site import Site
from v13.release.status import status

__all__ = [
    "ROOMY",
    "bars_of",
    "begun",
    "events_of",
    "killed",
    "owed",
    "ran",
    "settled",
    "shown_config",
    "stage",
    "steps_over",
    "unserved_bars",
    "until",
]

WAIT_S: Final = 180.0  # nothing waits for it in vain
POLL_S: Final = 0.05
KEPT: Final = REPO / "runs/rehearsal_signoffs"
# Tests share the machine with others: latencies that a busy processor gives are not what is tested. The slow release
# of a rehearsal takes 40 ms a bar, and is still beyond all of these.
_LATENCIES: Final = {
    "event_latency": (0.5, 0.4, 0.9),
    "pipeline_latency": (0.5, 0.4, 0.9),
    "compute_latency": (0.025, 0.02, 0.03),
}
# A killed runner is away for as long as anywhere, and an hour is 90 s here.
_AVAILABLE: Final = (0.5, 0.4, 0.3)
# What a release catches up with is counted like other events: 400 s of them in a window of 90 s (in production half
# an hour in an hour), so the longer a stage is held the more events an hour its next release seems to have.
_RATES: Final = (10_000, 20_000, 40_000)
_LEVELS: Final = ("target", "alert", "rollback")
ROOMY: Final[dict[tuple[str, ...], Any]] = {
    **{("rows", r, at, "above"): v for r, own in _LATENCIES.items() for at, v in zip(_LEVELS, own, strict=True)},
    **{("rows", "events_per_hour", at, "above"): v for at, v in zip(_LEVELS, _RATES, strict=True)},
    **{("rows", "availability", at, "below"): v for at, v in zip(_LEVELS, _AVAILABLE, strict=True)},
}


@contextmanager
def stage(
    root: Path,
    *,
    minutes: int,
    say: Callable[[str], None] = lambda _: None,
    levels: Mapping[tuple[str, ...], Any] = ROOMY,
    **settings: Any,
) -> Iterator[Rig]:
    """Hold a stage in an empty folder; its sign-off is made once for all workers and kept."""
    with open_stage(
        root, REPO, kept=KEPT, minutes=minutes, settings={"observe_s": 3.0} | settings, levels=levels, say=say
    ) as rig:
        yield rig


def until(condition: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
    """Return what the condition gives as soon as it is true."""
    deadline = monotonic() + wait_s
    while True:
        found = condition()
        if found:
            return found
        assert monotonic() < deadline, f"not within {wait_s:g} s: {what}"
        sleep(POLL_S)


def settled(rig: Rig) -> str:
    """Have a release serve and no operation under way, whatever was before; return it."""
    until(lambda: rig.ledger.state().open is None, "the operation under way is over")
    rig.supervisor.ensure_up()
    state = rig.ledger.state()
    if state.stable is None or not status(rig).is_consistent:
        done: Deployed = deploy(rig, "the release before")
        assert done.outcome == "completed", done.why
    until(lambda: status(rig).is_consistent, f"consistent: {status(rig).text()}")
    return str(rig.ledger.state().stable)


def steps_over(rig: Rig) -> int:
    """Return how many steps of the operation under way are over."""
    running = rig.ledger.state().open
    return 0 if running is None else len(running.done)


def _v13(rig: Rig, *arguments: str) -> list[str]:
    """Return the command line of `v13 ...` for a site."""
    return [sys.executable, "-m", "v13.cli", *arguments, "--env", ENV, "--root", str(rig.site.root)]


def begun(rig: Rig, *arguments: str) -> subprocess.Popen[str]:
    """Begin `v13 ...` as a process of its own."""
    return subprocess.Popen(_v13(rig, *arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ran(rig: Rig, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `v13 ...` to its end."""
    return subprocess.run(_v13(rig, *arguments), text=True, capture_output=True, timeout=WAIT_S, check=False)


def killed(pid: int | None) -> None:
    """Send SIGKILL to a process of ours."""
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def events_of(log: Path) -> list[tuple[str, str, int]]:
    """Return (event_id, symbol, ts_ms) of all events of a log, in the order of entry."""
    return _rows(log, "SELECT event_id, symbol, ts_ms FROM event ORDER BY n")


def bars_of(log: Path, symbol: str) -> dict[int, bytes]:
    """Return the bars a log keeps of a symbol, by their close time."""
    return dict(_rows(log, "SELECT ts_ms, bar FROM bar WHERE symbol = ?", symbol))


def owed(site: Site, serving: Sequence[Assignment]) -> list[tuple[int, str, str, str]]:
    """Return (ts_ms, symbol, event_id, release) of the events that count: each log's, where the log's release serves.

    Of a symbol and a time that is the release of the last assignment, in order of entry, that is not later.
    """
    found = []
    for release in {a.release for a in serving}:
        for name, symbol, ts_ms in events_of(site.event_log(release)):
            owner = None
            for one in serving:
                if one.symbol == symbol and one.from_ms <= ts_ms:
                    owner = one.release
            if owner == release:
                found.append((ts_ms, symbol, name, release))
    return sorted(found)


def unserved_bars(site: Site, serving: Sequence[Assignment], symbol: str) -> list[str]:
    """Return what is wrong with the bars a symbol was served by: holes between them, and hand-overs nobody was at."""
    found = []
    logs = {r: bars_of(site.event_log(r), symbol) for r in {a.release for a in serving if a.symbol == symbol}}
    owned: dict[int, str] = {}
    for one in (a for a in serving if a.symbol == symbol):
        owned = {ts: r for ts, r in owned.items() if ts < one.from_ms}
        owned |= {ts: one.release for ts in logs[one.release] if ts >= one.from_ms}
    times = sorted(owned)
    for before, after in pairwise(times):
        if after - before != BAR_MS:
            found.append(f"{symbol}: between {before} ({owned[before]}) and {after} ({owned[after]}): no bar")
    return found


def shown_config(rig: Rig, release: str, port: int) -> tuple[str, str]:
    """Return the hash of the configuration a runner shows in its metrics, and the one its log has in force."""
    answer = runners.ask(rig.site, port)
    assert not isinstance(answer, str), answer
    (logged,) = _rows(rig.site.event_log(release), "SELECT fingerprint FROM config ORDER BY version DESC LIMIT 1")[0]
    return answer.version.partition("-")[2], logged


def _rows(log: Path, query: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
        return db.execute(query, values).fetchall()
