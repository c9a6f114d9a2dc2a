"""What was served in a stress run, held against two things that no kill can touch.

The bars, against those of a runner beside it that nobody ever kills: none may be missing. The events, against what the
detector makes, here and now, of the very bars that the serving release has in its log: none may be missing, none too
much. And where a release has seen the very bars of the untouched runner for as long as a detector remembers (the quotes
of the seconds in which a runner was dead cannot be had again), its events against that runner's own. What cannot be
compared is counted as not compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from tests.integration.deploy_stage import bars_of, events_of, owed, until
from v13 import store
from v13.config.parameters import read_parameters
from v13.detector import Detector, DetectorParams, SessionClock
from v13.detector.dtypes import BAR
from v13.errors import V13Error
from v13.rehearsal.stage import BAR_MS, ENV
from v13.release.handover import owner_at
from v13.release.ports import free_port
from v13.release.rig import Rig
from v13.release.served import served_events
from v13.release.signal_parity import warm_bars
from v13.release.status import status
from v13.store.event_schema import STORED_BAR, event_id
from v13.store.event_standing import standing

__all__ = ["Judged", "Shadow", "judge", "shadow_of"]

OF_TRADES: Final = ("open", "high", "low", "close", "volume", "delta", "n_trades", "lag_trade_ms")


@dataclass
class Shadow:
    """A runner of the first release that is never touched: its log is what the feed leads to."""

    log: Path
    params: DetectorParams
    until_ms: int  # judged so far
    bars: dict[tuple[Path, str], dict[int, bytes]] = field(
        default_factory=dict
    )  # by log and symbol, all that ever were

    def collect(self, rig: Rig) -> None:
        """Note the bars of all logs: a log keeps those of four minutes."""
        for log in (self.log, *(rig.site.event_log(r) for r in {a.release for a in rig.ledger.state().serving})):
            for symbol in rig.site.symbols:
                self.bars.setdefault((log, symbol), {}).update(bars_of(log, symbol))

    @property
    def warm(self) -> int:
        """Return how many bars a detector remembers."""
        return warm_bars(self.params)


@dataclass
class Judged:
    """What was looked at since the last time, and what was wrong with it.

    Attributes
    ----------
    n_bars, n_apart : int
        Served, and of them those whose trades are not those of the untouched runner: late under load, or lost.
    n_events, n_computed, n_beside : int
        Served; of them those that were computed again; and the untouched runner's that could be compared.
    """

    n_bars: int = 0
    n_apart: int = 0
    n_events: int = 0
    n_computed: int = 0
    n_beside: int = 0
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: Judged) -> Judged:
        for name in ("n_bars", "n_apart", "n_events", "n_computed", "n_beside"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wrong += other.wrong
        return self


@contextmanager
def shadow_of(rig: Rig, release: str) -> Iterator[Shadow]:
    """Run it beside the supervisor, from the first release's log on."""
    folder = rig.site.root / "shadow"
    folder.mkdir()
    log = folder / "events.sqlite"
    store.write_yaml(
        folder / "shadow.yaml",
        {
            "runner": {
                "symbols": list(rig.site.symbols),
                "log": str(log),
                "warm_from": str(rig.site.event_log(release)),
            },
            "exporter": {"port": free_port()},
        },
    )
    place = rig.site.release(release)
    command = [sys.executable, "-P", "-m", "v13.cli", "run", "--env", ENV, "--root", str(place)]
    with (folder / "runner.log").open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--settings", str(folder / "shadow.yaml")],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(place / "code")},
            stdout=sink,
            stderr=sink,
        )
    try:
        symbols = set(rig.site.symbols)
        until(lambda: symbols <= _at(log).keys(), "the shadow runs")
        params = read_parameters(
            place / "runs/real_test/best_global.yaml", place / "runs/real_test/best_by_bucket.yaml"
        ).params
        yield Shadow(log, params, max(_at(log).values()))
        if process.poll() is not None:
            raise V13Error(f"the shadow ended by itself: {(folder / 'runner.log').read_text()[-500:]}")
    finally:
        process.terminate()
        process.wait()


def _at(log: Path) -> dict[str, int]:
    """Return the last bar of each symbol; nothing while the log is being made."""
    try:
        return standing(log).bars
    except V13Error:
        return {}


def judge(rig: Rig, shadow: Shadow) -> Judged:
    """Judge what was served since the last time, and how things stand now; no operation may be under way."""
    found, state = Judged(), rig.ledger.state()
    if state.open is not None or state.candidate is not None:
        found.wrong.append("an operation is still under way")
    if {state.serves(s) for s in rig.site.symbols} != {state.stable}:
        found.wrong.append("not one release serves")
    runs = {p.name for p in rig.supervisor.states() if p.state == "running" and p.name.startswith("runner-")}
    if runs != {f"runner-{state.stable}"}:
        found.wrong.append(f"{', '.join(sorted(runs)) or 'nothing'} runs, {state.stable} is stable")
    found.wrong += status(rig).problems
    # What is served grows meanwhile: everything is compared up to where all logs were a moment ago.
    from_ms, own_log = shadow.until_ms, rig.site.event_log(str(state.stable))
    shadow.until_ms = end_ms = min(*_at(shadow.log).values(), *_at(own_log).values())
    shadow.collect(rig)
    counted = [row for row in owed(rig.site, state.serving) if row[0] <= end_ms]
    rows = served_events(rig.site, state.serving).iter_rows(named=True)
    told = sorted((r["ts_ms"], r["symbol"], r["event_id"], r["release"]) for r in rows if r["ts_ms"] <= end_ms)
    if told != counted:
        found.wrong.append("served_events is not the union by assignment")
    names = [name for _, _, name, _ in counted]
    if len(set(names)) != len(names):
        found.wrong.append(f"{len(names) - len(set(names))} events are counted twice")
    for symbol in rig.site.symbols:
        own = {name: ts for ts, s, name, _ in counted if s == symbol and ts > from_ms}
        _Served(rig, shadow, symbol, own, (from_ms, end_ms), found).compare()
    return found


def _unbroken(times: list[int]) -> list[int]:
    """Return the times behind the last hole: a release that was away for long goes on behind one."""
    holes = [at for at in range(1, len(times)) if times[at] - times[at - 1] != BAR_MS]
    return times[holes[-1] :] if holes else times


class _Served:
    """One symbol over one span of time."""

    def __init__(
        self, rig: Rig, shadow: Shadow, symbol: str, own: dict[str, int], span: tuple[int, int], found: Judged
    ) -> None:
        self.rig, self.shadow, self.symbol, self.own, self.found = rig, shadow, symbol, own, found
        self.from_ms, self.end_ms = span
        self.serving = rig.ledger.state().serving
        releases = {a.release for a in self.serving if a.symbol == symbol}
        self.logs = {r: shadow.bars[rig.site.event_log(r), symbol] for r in releases}
        self.whole = shadow.bars[shadow.log, symbol]
        self.times = [ts for ts in sorted(self.whole) if self.from_ms < ts <= self.end_ms]

    def compare(self) -> None:
        self.found.n_events += len(self.own)
        if self.times != list(range(self.from_ms + BAR_MS, self.end_ms + 1, BAR_MS)):
            self.found.wrong.append(f"{self.symbol}: the shadow itself lacks bars: not compared")
        owners = {ts: owner_at(self.serving, self.symbol, ts) for ts in self.times}
        for ts, owner in owners.items():
            if owner is None or ts not in self.logs[owner]:
                self.found.wrong.append(f"{self.symbol}: {owner} served and lacks the bar at {ts}")
                continue
            self.found.n_bars += 1
            mine, other = (np.frombuffer(b, STORED_BAR)[0] for b in (self.logs[owner][ts], self.whole[ts]))
            self.found.n_apart += any(mine[name] != other[name] for name in OF_TRADES)
        for release in set(owners.values()) - {None}:
            self._compute(str(release), {ts for ts, owner in owners.items() if owner == release})
        self._beside(owners)

    def _compute(self, release: str, times: set[int]) -> None:
        """Hold the events of a release against what its own bars lead to."""
        kept = self.logs[release]
        order = _unbroken(sorted(kept))
        bars = np.frombuffer(b"".join(kept[ts] for ts in order), STORED_BAR).astype(BAR)
        warm_ms = order[self.shadow.warm - 1] if len(order) >= self.shadow.warm else self.end_ms
        day = self.rig.site.config.sessions
        made = Detector(self.shadow.params, SessionClock(day.timezone, day.day_start, day.day_end)).run(bars)
        wanted = {event_id(self.symbol, e) for e in made if int(e["ts_ms"]) > warm_ms and int(e["ts_ms"]) in times}
        has = {name for name, ts in self.own.items() if ts > warm_ms and ts in times}
        self.found.n_computed += len(has)
        self.found.wrong += [f"{name} is missing: the bars of {release} lead to it" for name in sorted(wanted - has)]
        self.found.wrong += [f"{name} is too much: nothing in {release} leads to it" for name in sorted(has - wanted)]

    def _beside(self, owners: dict[int, str | None]) -> None:
        """Hold events against the untouched runner's where both saw the same bars for long enough."""
        before = sorted(ts for ts in self.whole if ts <= self.end_ms)
        other = {r: [ts for ts in before if own.get(ts) != self.whole[ts]] for r, own in self.logs.items()}

        def saw_the_same(ts_ms: int) -> bool:
            owner, began_ms = owners.get(ts_ms), ts_ms - self.shadow.warm * BAR_MS
            if owner is None or began_ms < max(before[0], min(self.logs[owner], default=ts_ms)):
                return False
            return not any(began_ms < ts <= ts_ms for ts in other[owner])

        log = events_of(self.shadow.log)
        seen = {n: ts for n, s, ts in log if s == self.symbol and self.from_ms < ts <= self.end_ms}
        for name, ts in seen.items():
            if saw_the_same(ts):
                self.found.n_beside += 1
                if name not in self.own:
                    self.found.wrong.append(
                        f"{name} is missing: {owners[ts]} saw the same bars as who was never killed"
                    )
        for name, ts in self.own.items():
            if name not in seen and saw_the_same(ts):
                self.found.wrong.append(f"{name} is too much: who was never killed saw the same bars and has it not")
