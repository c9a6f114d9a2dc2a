"""Hot reload proved on a real runner: a process of its own, in a root of its own, on a recording made on the spot.

Each step says what was done, what had to be seen and what was seen. It judges by what an operator sees: /metrics, the
log, `v13 events` and the event log; nothing is asked of the code under proof.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from v13 import store
from v13.errors import ConfigError
from v13.live.reload_exchange import StandIn
from v13.live.reload_stage import (
    CALIBRATION,
    DECISION,
    OVERRIDES,
    PARAMETERS,
    SYMBOLS,
    RunnerProcess,
    calibration,
    prepare,
    until,
)
from v13.store.event_reader import read_events

__all__ = ["Step", "prove"]

SPEED: Final = 100
EVENTS: Final = "runs/live/events.sqlite"
LIVE_EVENTS: Final = "runs/feed/events.sqlite"
SYSTEM: Final = "config/system.yaml"
ENVIRONMENT: Final = "config/environments/development.yaml"


class Step(NamedTuple):
    """What was done, and whether what was seen then is what had to be."""

    what: str
    is_right: bool


def prove(config: Path, say: Callable[[str], None]) -> tuple[Step, ...]:
    """Run the proof; takes about half a minute.

    Parameters
    ----------
    config : Path
        The project's config/.
    say : callable
        Takes one line.

    Returns
    -------
    tuple of Step
        In order.
    """
    with tempfile.TemporaryDirectory(prefix="v13-hot-reload-") as folder:
        root = Path(folder)
        say(f"a root of its own: {root}; a simulated recording of {' and '.join(SYMBOLS)}, played at {SPEED}x")
        recording = prepare(root, config)
        arguments = ("--feed", f"replay:{recording}", "--speed", str(SPEED))
        with RunnerProcess(root, *arguments) as runner:
            proof = _Proof(root, runner, say)
            proof.changes_are_taken()
            proof.bad_changes_are_refused()
            proof.a_change_is_whole_or_not_at_all()
            proof.a_kill_loses_nothing()
        with RunnerProcess(root, *arguments) as runner:
            proof.runner = runner
            proof.a_restart_goes_on()
        with StandIn() as exchange:
            environ = {"V13__FEED__WS_URL": f"ws://127.0.0.1:{exchange.port}", "V13__RUNNER__MARKET": "spot"}
            environ |= {"V13__RUNNER__LOG": LIVE_EVENTS}
            with RunnerProcess(root, environ=environ) as runner:
                proof.runner = runner
                proof.symbols_come_and_go()
        say(f"{len(proof.steps)} steps, {sum(not step.is_right for step in proof.steps)} not as expected")
        return tuple(proof.steps)


class _Proof:
    """The steps; each continues where the one before has left the runner."""

    def __init__(self, root: Path, runner: RunnerProcess, say: Callable[[str], None]) -> None:
        self.runner = runner
        self.steps: list[Step] = []
        self._root = root
        self._say = say
        self._version = 1
        self._z_hi = f"{DECISION.z_hi:g}"
        self._n_ok = 0
        self._n_refused = 0

    def changes_are_taken(self) -> None:
        self._see("started", self._metrics())
        self._wait_for_events("events under version 1")
        self._rename(PARAMETERS, self._text(PARAMETERS).replace("z_hi: 1.2", "z_hi: 1.0"))
        self._taken("the parameters replaced by rename (z_hi 1.2 -> 1.0)", z_hi="1")
        self._wait_for_events("events under it, of both symbols, at and after one bar")
        document = {"version": 1, "overrides": [{"when": {"source": "CVD_ONLY"}, "set": {"z_hi": 0.9}}]}
        self._in_place(OVERRIDES, json.dumps(document))  # JSON is YAML
        self._taken("the overrides written in place (CVD_ONLY: z_hi 0.9)")
        self._wait_for_events("events by the new rule", "source=CVD_ONLY -> z_hi=0.9")
        self._rename(CALIBRATION, json.dumps(calibration(0.7)))
        self._taken("the calibration replaced by rename (0.6 -> 0.7)")
        self._wait_for_events("events with the new probability", "0.7")
        self._in_place(ENVIRONMENT, self._text(ENVIRONMENT) + "\nfeed:\n  stale_s: 20.0\n")
        self._n_ok += 1
        self._see("a setting added to the environment's file (feed.stale_s)", self._metrics())

    def bad_changes_are_refused(self) -> None:
        good = self._text(PARAMETERS)
        self._rename(PARAMETERS, good.replace("z_hi: 1.0", "z_hi: 0.2"))
        self._refused("a value out of range", self._place(PARAMETERS, "z_mid", "decision.z_mid: expected at most z_hi"))
        self.runner.process.send_signal(signal.SIGHUP)
        self._refused("SIGHUP has it read again", "decision.z_mid")
        self._rename(PARAMETERS, good.replace("swing_L: 5", "swing_l: 5"))
        self._refused("an unknown key", self._place(PARAMETERS, "swing_l", "decision.swing_l: unknown key"))
        self._in_place(PARAMETERS, good[: good.index("cooldown_ms")])
        self._refused("a file half-written and left so", self._place(PARAMETERS, "decision", "decision.cooldown_ms"))
        (self._root / PARAMETERS).unlink()
        self._refused("the file vanished", f"{PARAMETERS}: missing")
        self._rename(PARAMETERS, good)
        self._good_again("the file as it was")
        text = self._text(CALIBRATION)
        self._in_place(CALIBRATION, text[: len(text) // 2])
        self._refused("a calibration cut in half", f"{CALIBRATION}:1: not valid JSON")
        self._rename(CALIBRATION, text)
        self._good_again("the calibration as it was")
        (self._root / PARAMETERS).touch()
        self._rename(OVERRIDES, self._text(OVERRIDES))
        self.runner.process.send_signal(signal.SIGHUP)
        what = "touched, written again with the same content, SIGHUP: nothing is counted"
        self._see(what, self._metrics(), "nothing has changed")

    def a_change_is_whole_or_not_at_all(self) -> None:
        system = self._text(SYSTEM)
        reason = self._place(SYSTEM, "checkpoint_bars", "runner.checkpoint_bars: 60 -> 30 needs a restart")
        self._rename(SYSTEM, system.replace("checkpoint_bars: 60", "checkpoint_bars: 30"))
        self._refused("a setting that needs a restart", reason)
        self._rename(PARAMETERS, self._text(PARAMETERS).replace("z_hi: 1.0", "z_hi: 1.1"))
        self._refused("as long as it stands, good parameters are not taken either", reason)
        self._rename(SYSTEM, system)
        self._taken("taken back: now the parameters are taken (z_hi 1.0 -> 1.1)", z_hi="1.1")
        environment = self._text(ENVIRONMENT)
        self._rename(ENVIRONMENT, environment + "\nrunner:\n  require_signoff: true\n")
        self._refused("a sign-off is required and there is none", "runner.require_signoff: the parameters were found")
        self._rename(ENVIRONMENT, environment)
        self._good_again("none is required")

    def a_kill_loses_nothing(self) -> None:
        self._rename(PARAMETERS, self._text(PARAMETERS).replace("z_hi: 1.1", "z_hi: 1.3"))
        self._taken("another z_hi (1.1 -> 1.3), and kill -9 as soon as it is seen", z_hi="1.3")
        code = self.runner.end(signal.SIGKILL)
        self._tell("killed", f"exit code {-signal.SIGKILL}", f"exit code {code}", is_right=code == -signal.SIGKILL)

    def a_restart_goes_on(self) -> None:
        self._n_ok = self._n_refused = 0  # counts of a process
        self._see("started again: the version is the last one, and no other was made", self._metrics())
        self._wait_for_events("events go on under it")
        self._boundaries()
        code = self.runner.end(signal.SIGTERM)
        self._tell("SIGTERM", "exit code 0", f"exit code {code}", is_right=code == 0)

    def symbols_come_and_go(self) -> None:
        self._version, self._n_ok = 1, 0
        system = self._text(SYSTEM)
        self._see("started on a feed that follows BTCUSDT", self._metrics() | {"symbols": ("BTCUSDT",)})
        self._bars(("BTCUSDT",))
        for symbols in (("BTCUSDT", "ETHUSDT"), ("ETHUSDT",), ("BTCUSDT", "ETHUSDT")):
            self._rename(SYSTEM, system.replace("symbols: [BTCUSDT]", f"symbols: [{', '.join(symbols)}]"))
            self._n_ok += 1
            self._see(f"runner.symbols: {', '.join(symbols)}", self._metrics() | {"symbols": symbols})
            self._bars(symbols)
        code = self.runner.end(signal.SIGTERM)
        self._tell("SIGTERM", "exit code 0", f"exit code {code}", is_right=code == 0)

    def _bars(self, symbols: tuple[str, ...]) -> None:
        """Wait for more bars of just these symbols in the log."""

        def bars() -> dict[str, int]:
            with closing(sqlite3.connect(f"file:{self._root / LIVE_EVENTS}?mode=ro", uri=True)) as db:
                return dict(db.execute("SELECT symbol, rows FROM state").fetchall())

        before = bars()

        def more() -> dict[str, int]:
            return {symbol: n - before.get(symbol, 0) for symbol, n in bars().items() if n > before.get(symbol, 0)}

        until(lambda: more().keys() >= set(symbols))
        seen = more()
        shown = ", ".join(f"{n} of {symbol}" for symbol, n in seen.items())
        self._tell("bars in the log", f"more of {', '.join(symbols)}", shown, is_right=seen.keys() == set(symbols))

    def _boundaries(self) -> None:
        """Hold every event against the version that was in force at its bar."""
        with closing(sqlite3.connect(f"file:{self._root / EVENTS}?mode=ro", uri=True)) as db:
            since = dict(db.execute("SELECT version, since_ms FROM config").fetchall())
        command = [sys.executable, "-m", "v13.cli", "events", "--log", EVENTS, "--format", "jsonl"]
        told = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=True).stdout
        events = [json.loads(line) for line in told.splitlines()]
        wrong = [
            e["event_id"]
            for e in events
            if e["config_version"] != max(v for v, since_ms in since.items() if since_ms < e["ts_ms"])
        ]
        ids = {e["event_id"] for e in events}
        seen = f"{len(events)} events, {len(ids)} different, {len(wrong)} under another version"
        self._tell(
            f"`v13 events` against the boundaries of {len(since)} versions",
            "each event once, under the version in force at its bar",
            seen,
            is_right=not wrong and len(ids) == len(events) > 0 and len(since) == self._version,
        )

    def _wait_for_events(self, what: str, mark: str = "") -> None:
        """Wait until `v13 events` has some of both symbols under the version in force."""
        found: dict[str, int] = {}

        def is_seen() -> bool:
            events = read_events(self._root / EVENTS).to_dicts()
            own = [e for e in events if e["config_version"] == self._version]
            own = [e for e in own if not mark or mark in (e["rule"], str(e.get("prob_10")))]
            found.update({symbol: sum(e["symbol"] == symbol for e in own) for symbol in SYMBOLS})
            return all(found.values())

        is_right = until(is_seen)
        counts = ", ".join(f"{n} of {symbol}" for symbol, n in found.items())
        self._tell(what, f"some of each symbol under version {self._version}", counts, is_right=is_right)

    def _taken(self, what: str, *, z_hi: str | None = None) -> None:
        self._n_ok += 1
        self._version += 1
        self._z_hi = z_hi or self._z_hi
        self._see(what, self._metrics())

    def _good_again(self, what: str) -> None:
        self._n_ok += 1
        self._see(what, self._metrics())

    def _refused(self, what: str, reason: str) -> None:
        self._n_refused += 1
        self._see(what, self._metrics(successful=False), reason)

    def _metrics(self, *, successful: bool = True) -> dict[str, object]:
        return {
            "version": self._version,
            "z_hi": self._z_hi,
            "successful": successful,
            "n_ok": self._n_ok,
            "n_refused": self._n_refused,
        }

    def _see(self, what: str, expected: Mapping[str, object], reason: str = "") -> None:
        """Wait until the metrics say what is expected, and the last entry of the log the reason."""
        started = time.monotonic()
        seen: dict[str, object] = {}
        line = ""

        def is_seen() -> bool:
            nonlocal line
            facts = self.runner.facts()._asdict()
            seen.update({name: facts[name] for name in expected})
            line = re.split(r"\n(?=\d{4}-)", self.runner.said().rstrip())[-1]  # an error may have several lines
            return seen == expected and reason in line

        is_right = until(is_seen)
        wanted = _shown(expected) + (f"; the log names {reason!r}" if reason else "")
        found = _shown(seen) + (f"; the log says {line!r}" if reason else "")
        self._tell(what, wanted, f"{found} ({time.monotonic() - started:.1f} s)", is_right=is_right)

    def _tell(self, what: str, expected: str, seen: str, *, is_right: bool) -> None:
        self.steps.append(Step(what, is_right))
        self._say(f"{len(self.steps):2}. {what}\n    expected  {expected}\n    seen      {seen}")
        self._say(f"    {'as expected' if is_right else 'NOT AS EXPECTED'}")

    def _text(self, name: str) -> str:
        return (self._root / name).read_text(encoding="utf-8")

    def _rename(self, name: str, text: str) -> None:
        store.write_text(self._root / name, text)

    def _in_place(self, name: str, text: str) -> None:
        (self._root / name).write_text(text, encoding="utf-8")

    def _place(self, name: str, key: str, text: str) -> str:
        """Return what the log must name: file, line of the key, and text."""
        lines = self._text(name).splitlines()
        number = next((i for i, line in enumerate(lines, 1) if line.strip().startswith(f"{key}:")), None)
        if number is None:
            raise ConfigError(f"{name}: {key}: not there")
        return f"{name}:{number}: {text}"


def _shown(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
