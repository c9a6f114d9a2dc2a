"""A project of its own with a simulated recording, and real `python -m v13.cli run` processes in it."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from ruamel.yaml import YAML

from tests.conftest import REPO
from tests.integration.markets import project
from v13 import market
from v13.detector import DetectorParams

WAIT_S = 120.0  # a machine under load may take long to start; nothing waits for it in vain
POLL_S = 0.01
HOLES = 10, 90  # seconds without a message, in each so many
MAX_GAP_MS = 3_000  # so short that such a hole is a gap


@dataclass
class Scene:
    """A project root, what runs in it, and the environment runners get."""

    root: Path
    recordings: list[Path] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.root / "runs" / "live" / "events.sqlite"

    @property
    def feed(self) -> str:
        return "replay:" + ",".join(map(str, self.recordings))

    def command(self, *arguments: str) -> list[str]:
        fixed = ("run", "--env", "testing", "--root", str(self.root), "--port", "0")
        return [sys.executable, "-m", "v13.cli", *fixed, *arguments]

    def finish(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run to the end and return what it said."""
        return subprocess.run(
            self.command("--feed", self.feed, *arguments),
            env=self._environ(environ),
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    @contextmanager
    def running(self, *arguments: str, **environ: str) -> Iterator[Runner]:
        """Start a runner and hand it over when its metrics can be read; kill what is left of it afterwards."""
        with subprocess.Popen(
            self.command("--feed", self.feed, *arguments),
            env=self._environ(environ),
            cwd=REPO,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Runner(process)
            finally:
                process.kill()

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **self.environ, **more}


class Runner:
    """A process that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def hear(self, words: str) -> str:
        """Return the next line that has these words in it."""
        assert self.process.stderr is not None
        while line := self.process.stderr.readline():
            self.said.append(line)
            if words in line:
                return line
        raise AssertionError(f"the runner ended without saying {words!r}; it said:\n{''.join(self.said)}")

    def started(self) -> str:
        """Wait for the exporter; return the address of the metrics."""
        found = re.search(r"metrics: (\S+)/metrics", self.hear("metrics: "))
        assert found is not None
        self.url = f"http://{found[1]}"
        return self.url

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = WAIT_S) -> int:
        """Wait for its end; return the exit code."""
        assert self.process.stderr is not None
        self.said += self.process.stderr.readlines()
        return self.process.wait(seconds)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the exporter."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels."""
        _, text = self.get("/metrics")
        total, found = 0.0, False
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match is None:
                continue
            own = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
            if labels.items() <= own.items():
                total, found = total + float(match[2]), True
        assert found, f"{name} {labels} is not in the metrics"
        return total


def until(claim: Callable[[], bool], what: str) -> None:
    """Wait until a claim about another process holds."""
    end = monotonic() + WAIT_S
    while not claim():
        assert monotonic() < end, f"never came true: {what}"
        sleep(POLL_S)


def rows(log: Path) -> dict[str, tuple[int, int]]:
    """Return (rows, ts_ms) of each symbol in a log; empty while there is none."""
    if not log.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as db:
            return {s: (n, ts) for s, n, ts in db.execute("SELECT symbol, rows, ts_ms FROM state")}
    except sqlite3.OperationalError:  # its tables are being made
        return {}


def n_rows(log: Path) -> int:
    """Return the bars of all symbols that a log has taken in."""
    return sum(n for n, _ in rows(log).values())


def scene(
    folder: Path,
    params: DetectorParams,
    *,
    n_bars: int,
    symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT"),
    seed: int = 13,
    simulated: bool = True,
    holes: bool = True,
) -> Scene:
    """Make a project with parameters and recorded ticks; with holes in them that make outcomes void."""
    root = project(folder)
    (root / "runs").mkdir()
    write_parameters(root, params, simulated=simulated)
    made = Scene(root)
    for symbol in symbols:
        trades, quotes, _ = market.simulate_ticks(market.MarketSpec("planted", n_bars=n_bars, symbol=symbol), seed)
        for kind, tape in (("trades", trades), ("quotes", quotes)):
            start = int(quotes["ts_ms"][0])
            if holes:
                tape = tape.filter((tape["ts_ms"] - start) // 1_000 % HOLES[1] < HOLES[1] - HOLES[0])
            made.recordings.append(folder / f"{symbol}_{kind}.parquet")
            market.write_tape(made.recordings[-1], tape, kind=kind, symbol=symbol, market="usdm", simulated=simulated)
    made.environ = {
        "V13__RUNNER__PARAMETERS": "runs/global.yaml",
        "V13__RUNNER__OVERRIDES": "runs/by_bucket.yaml",
        "V13__RUNNER__CALIBRATION": "null",
        "V13__MARKET__MAX_GAP_MS": str(MAX_GAP_MS),
        "V13__SESSIONS__TIMEZONE": "Asia/Kolkata",
        "V13__SESSIONS__DAY_START": "05:20",
        "V13__SESSIONS__DAY_END": "05:40",
    }
    return made


def write_parameters(root: Path, params: DetectorParams, *, simulated: bool = True) -> None:
    """Write parameters where a scene's runner reads them."""
    document = params.to_dict()
    head = {"version": 1, "simulated": simulated}
    for name, body in {
        "global.yaml": {"features": document["features"], "decision": document["decision"]},
        "by_bucket.yaml": {"overrides": document["overrides"]},
    }.items():
        with (root / "runs" / name).open("w", encoding="utf-8") as sink:
            YAML().dump(head | body, sink)
