"""The runner as it runs: a process of its own on one core, fed from another over loopback, judged by its histograms.

The sender is `tests.bench.firehose`. The runner starts over a log with enough bars to be warm, with parameters so loose
that there are events enough for a quantile; they do not change what a bar costs.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.bench.firehose import symbols
from tests.integration.markets import project, write_bars
from v13.market import MarketSpec, simulate_bars, write_tape
from v13.store.event_schema import STORED_BAR

REPO = Path(__file__).resolve().parents[2]
N_SYMBOLS = 50
RATE = 20_000
N_REPLAYED = 5_000_000
WARM_BARS = 400  # more than window + 2 swings
LOOSE = {
    **{"swing_L": 5, "z_hi": 0.8, "z_mid": 0.3, "min_separation": 2, "cooldown_s": 0.0},
    **{"min_score": 0.0, "min_vol_ok": 0.0, "min_swing_bps": 0.0},
}
SENDER_CORE, *_, RUNNER_CORE = sorted(os.sched_getaffinity(0)) * 2
RISES = 1.1  # from one rate to the next, on the way to the limit
BACKLOG_S = 0.25  # of messages at most in the inbox at the end of a rate that is sustained
Say = Callable[[str, str, str], None]

# What a program that only receives and parses can do: the same library, no detector, no log.
PEER = """
import asyncio, json, sys, time
import aiohttp
port, seconds = int(sys.argv[1]), float(sys.argv[2])
async def read(session, path, found):
    async with session.ws_connect(f"ws://127.0.0.1:{port}{path}", decode_text=False) as socket:
        await socket.send_str(json.dumps({"method": "SUBSCRIBE", "params": [], "id": 1}))
        await socket.receive()
        end = None
        while True:
            json.loads((await socket.receive()).data)
            found[path] += 1
            if found[path] % 256 == 0:
                await asyncio.sleep(0)
async def main():
    found = {"/market/stream": 0, "/public/stream": 0}
    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(read(session, path, found)) for path in found]
        await asyncio.sleep(1.0)
        n, start = sum(found.values()), time.monotonic()
        await asyncio.sleep(seconds)
        print((sum(found.values()) - n) / (time.monotonic() - start))
        for task in tasks:
            task.cancel()
asyncio.run(main())
"""


class Firehose:
    """The sender."""

    def __init__(self) -> None:
        self.process = _start([sys.executable, "-m", "tests.bench.firehose", str(N_SYMBOLS)], SENDER_CORE)
        self.port = int(self._line())

    def order(self, rate: float, seconds: float) -> None:
        assert self.process.stdin is not None
        print(rate, seconds, file=self.process.stdin, flush=True)

    def done(self) -> dict[str, float]:
        answer: dict[str, float] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


class Scrape:
    """The runner's metrics at one moment."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        self.at = time.monotonic()
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
            self.samples[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)

    def total(self, name: str, **labels: str) -> float:
        return sum(v for (n, own), v in self.samples.items() if n == name and labels.items() <= set(own))

    def counts(self, name: str) -> dict[float, float]:
        """Cumulative counts by upper bound, all label sets together."""
        found: dict[float, float] = {}
        for (n, own), value in self.samples.items():
            if n == f"{name}_bucket":
                bound = float(dict(own)["le"].replace("+Inf", "inf"))
                found[bound] = found.get(bound, 0.0) + value
        return dict(sorted(found.items()))


def quantile(before: Scrape, after: Scrape, name: str, q: float) -> tuple[float, int]:
    """As histogram_quantile of Prometheus, over what was observed in between; and of how many."""
    old, new = before.counts(name), after.counts(name)
    counts = {bound: n - old[bound] for bound, n in new.items()}
    n = counts[math.inf]
    below, low = 0.0, 0.0
    for bound, count in counts.items():
        if count >= q * n > 0:
            if bound == math.inf:
                return low, int(n)
            return low + (bound - low) * (q * n - below) / (count - below), int(n)
        below, low = count, bound
    return math.nan, 0


@contextmanager
def runner(folder: Path, firehose: Firehose, bar_ms: int = 1_000) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A warm runner that follows the firehose; its process and the port of its metrics."""
    root = project(folder)
    names = symbols(N_SYMBOLS)
    detector = {f"V13__DETECTOR__{key.upper()}": str(value) for key, value in LOOSE.items()}
    nothing = {f"V13__RUNNER__{key}": "null" for key in ("PARAMETERS", "OVERRIDES", "CALIBRATION")}
    settings = {
        **os.environ,
        **detector,
        **nothing,
        "V13__FEED__WS_URL": f"ws://127.0.0.1:{firehose.port}",
        "V13__MARKET__MAX_GAP_MS": "600000",  # between the recording and the first message
        "V13__RUNNER__SYMBOLS": json.dumps(names),
        "V13__MARKET__BAR_MS": str(bar_ms),
    }
    command = [sys.executable, "-m", "v13.cli", "run", "--env", "testing", "--root", str(root), "--port", "0"]
    _warm(command, settings, folder, names, bar_ms)
    process = _start(command, RUNNER_CORE, settings)
    try:
        port = None
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"metrics: \S+:(\d+)/metrics", line):
                port = int(found[1])
                break
        assert port is not None, "the runner did not start"
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        _until(lambda: Scrape(port).total("divergence_ready") == 1, "ready")
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def run(line: Say) -> None:
    """Print latencies at a fixed rate, the limit, and what a bare receiver does in the same run."""
    print(f"load before: {os.getloadavg()[0]:.2f}; sender on core {SENDER_CORE}, runner on core {RUNNER_CORE}")
    bare = statistics.median(_peer() for _ in range(3))
    line("peer: aiohttp receive + json.loads, nothing else", f"{bare:,.0f} messages/s on one core", "")
    with tempfile.TemporaryDirectory() as name:
        firehose = Firehose()
        try:
            with runner(Path(name), firehose) as (_, port):
                _latency(line, firehose, port)
                limit = _limit(line, firehose, port)
                line("  against the bare receiver", f"{limit / bare:.2f} of it", "")
                nothing_lost(line, firehose, port, Path(name) / "project/runs/live/events.sqlite")
        finally:
            firehose.process.kill()
    _replay(line)


def _latency(line: Say, firehose: Firehose, port: int, seconds: float = 12.0, times: int = 5) -> None:
    found: dict[str, list[float]] = {"event": [], "detection": [], "pipeline": []}
    n_events, busy = 0, []
    for _ in range(times):
        before, _, after = _stage(firehose, port, RATE, seconds)
        for what in found:
            value, n = quantile(before, after, f"divergence_{what}_latency_seconds", 0.95)
            found[what].append(value * 1e3)
        n_events += n
        busy.append(_busy(before, after))
    goals = {"event": "under 0.1; guide 2.5", "detection": "under 0.05; guide 10", "pipeline": "under 5; guide 100"}
    for what, values in found.items():
        line(
            f"P95 {what} latency at {RATE:,} messages/s, {N_SYMBOLS} symbols",
            f"{statistics.median(values):.4f} ms (of {times}: {min(values):.4f} to {max(values):.4f})"
            + (f", {n_events} events" if what == "pipeline" else ""),
            f"{goals[what]} ms",
        )
    commits = [quantile(before, after, "divergence_commit_seconds", q)[0] * 1e3 for q in (0.5, 0.95)]
    n_commits = quantile(before, after, "divergence_commit_seconds", 0.5)[1]
    line(
        "  of which a commit, on this disk, in the last run",
        f"P50 {commits[0]:.2f} ms, P95 {commits[1]:.2f} ms; {n_commits / seconds:.1f} a second",
        "",
    )
    line("  the runner's core", f"{statistics.median(busy):.0%} busy", "")


def _limit(line: Say, firehose: Firehose, port: int, seconds: float = 8.0) -> float:
    """Raise the rate until messages are shed, or wait; return what was sustained."""
    rate, best, used, failures = 40_000.0, 0.0, 0.0, 0
    while failures < 2:
        before, told, after = _stage(firehose, port, rate, seconds)
        shed = after.total("divergence_dropped_total") - before.total("divergence_dropped_total")
        sent = told["sent"] / told["seconds"]
        if shed == 0 and after.total("divergence_queue_size") <= BACKLOG_S * rate and sent > 0.99 * rate:
            best, used = sent, _busy(before, after)
            rate *= RISES
            failures = 0
        else:
            failures += 1  # once more: others may have had the core
            _until(lambda: Scrape(port).total("divergence_queue_size") < 1_000, "the queue is empty again")
    line(
        "sustained from the socket to the log, nothing dropped",
        f"{best:,.0f} messages/s at {used:.0%} of the core; {rate:,.0f} were too many, twice",
        "100,000",
    )
    return best


def _stage(firehose: Firehose, port: int, rate: float, seconds: float) -> tuple[Scrape, dict[str, float], Scrape]:
    """One rate for some seconds; what the metrics said before and after."""
    _until(lambda: Scrape(port).total("divergence_queue_size") < 1_000, "idle")
    before = Scrape(port)
    firehose.order(rate, seconds)
    told = firehose.done()
    after = Scrape(port)
    return before, told, after


def _busy(before: Scrape, after: Scrape) -> float:
    cpu = after.total("process_cpu_seconds_total") - before.total("process_cpu_seconds_total")
    return cpu / (after.at - before.at)


def nothing_lost(line: Say, firehose: Firehose, port: int, log: Path | None) -> None:
    """Fall silent, so that every bar is closed, and compare what was taken up, and is in the log, with what was sent.

    log: one that has dropped no bars yet; None: only the counters are compared.
    """
    firehose.order(0, 4.0)
    ever = firehose.done()["ever"]
    scrape = Scrape(port)
    late, shed = (scrape.total("divergence_dropped_total", reason=reason) for reason in ("late", "overload"))
    taken = f"{scrape.total('divergence_messages_total'):,.0f} taken up"
    if log is not None:
        with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as db:
            bars = np.frombuffer(b"".join(bar for (bar,) in db.execute("SELECT bar FROM bar")), STORED_BAR)
        taken += f", {int(bars['n_trades'].sum() + bars['n_quotes'].sum()):,} in the bars of the log"
    line("  messages ever sent", f"{ever:,.0f}: {taken}, {shed:,.0f} shed, {late:,.0f} late", "all accounted for")


def _peer(seconds: float = 4.0) -> float:
    firehose = Firehose()
    try:
        peer = _start([sys.executable, "-c", PEER, str(firehose.port), str(seconds)], RUNNER_CORE)
        firehose.order(math.inf, seconds + 2.0)
        assert peer.stdout is not None
        return float(peer.stdout.read())
    finally:
        firehose.process.kill()


def _warm(command: list[str], settings: dict[str, str], folder: Path, names: list[str], bar_ms: int) -> None:
    """Fill the log from recordings of empty-handed bars that end now."""
    end_ms = time.time_ns() // 1_000_000_000 * 1_000
    for i, name in enumerate(names):
        bars = simulate_bars(MarketSpec(kind="clustered_flow", n_bars=WARM_BARS, bar_ms=bar_ms), i).bars
        bars["ts_ms"] += end_ms - bars["ts_ms"][-1]
        bars["n_trades"] = bars["n_quotes"] = 0  # what is counted afterwards is what was sent
        write_bars(folder / "warm" / f"{name}.parquet", bars, name)
    feed = f"replay:{folder / 'warm'}"
    subprocess.run([*command, "--feed", feed], env=settings, cwd=REPO, check=True, capture_output=True)


def _replay(line: Say) -> None:
    """Play a day of trades, and one of trades and quotes, from parquet at full speed."""
    for kinds in (("trades",), ("trades", "quotes")):
        with tempfile.TemporaryDirectory() as name:
            paths = [_tape(Path(name), kind) for kind in kinds]
            code = REPLAY.format(paths=[str(p) for p in paths], log=f"{name}/events.sqlite")
            found = []
            for i in range(3):
                own = code.replace("events.sqlite", f"events{i}.sqlite")
                process = _start([sys.executable, "-c", own], RUNNER_CORE)
                assert process.stdout is not None
                found.append(float(process.stdout.read()))
        n = N_REPLAYED * len(kinds)
        middle = statistics.median(found)
        line(
            f"replay of {n:,} {' and '.join(kinds)}, parquet to log",
            f"{n / middle / 1e6:.2f} M messages/s on one core",
            "1 million trades/s",
        )


def _tape(folder: Path, kind: str) -> Path:
    rng = np.random.default_rng(1)
    n = N_REPLAYED
    ts = 1_704_067_200_000 + np.sort(rng.integers(0, 86_400_000, n))
    px = np.round(60_000 + np.cumsum(rng.normal(0, 0.2, n)), 1)
    qty = np.round(rng.gamma(0.5, 0.2, (2, n)) + 0.001, 3)
    columns: dict[str, Any] = {"ts_ms": ts, "id": np.arange(n)}
    if kind == "trades":
        columns |= {"px": px, "qty": qty[0], "sign": rng.choice([-1, 1], n)}
    else:
        columns |= {"bid": px, "bid_qty": qty[0], "ask": px + 0.1, "ask_qty": qty[1]}
    return write_tape(folder / f"{kind}.parquet", pl.DataFrame(columns), kind=kind, symbol="BTCUSDT", market="usdm")


REPLAY = """
import asyncio, time
from pathlib import Path
from v13.detector import DetectorParams, SessionClock
from v13.live.clock import SystemClock
from v13.live.replay import play
from v13.live.session import Session, keep_bars
from v13.market.intake import Intake
from v13.market.playback import open_playback
from v13.store.event_log import EventLog
from v13.telemetry import Metrics
params, clock, metrics = DetectorParams(), SystemClock(), Metrics((10, 20), ("BTCUSDT",))
playbacks = open_playback({paths})
intakes = {{s: Intake(1000, None, has_trades=p.has_trades, has_quotes=p.has_quotes) for s, p in playbacks.items()}}
with EventLog(Path("{log}"), keep_bars=2 * keep_bars(params), now_ms=clock.wall_ms) as log:
    session = Session(
        intakes, params, None, {{}}, log=log, metrics=metrics, clock=clock, sessions=SessionClock(), horizons=(10, 20)
    )
    start = time.perf_counter()
    asyncio.run(play(session, playbacks, metrics=metrics, clock=clock))
    print(time.perf_counter() - start)
"""


def _start(command: list[str], core: int, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=REPO, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    os.sched_setaffinity(process.pid, {core})
    return process


def _until(claim: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            raise TimeoutError(f"never came true: {what}")
        time.sleep(0.05)
