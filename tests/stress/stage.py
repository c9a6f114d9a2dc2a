"""The stage of a misbehaving runner: an exchange whose faults can be set, a project, and a Prometheus on its rules.

The rules are those built from a copy of config/slo.yaml with short durations and windows; `CHANGED` says what else
differs from the product's table.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML

from tests.conftest import REPO
from tests.exchange import frames
from tests.exchange.recordings import agg_trade, book_ticker
from tests.exchange.server import Exchange
from tests.integration.markets import project
from tests.integration.runner_process import write_parameters
from v13 import store
from v13.detector import DecisionParams, DetectorParams, FeatureParams
from v13.live.reload_stage import RunnerProcess, until
from v13.release.ports import free_port
from v13.release.prometheus_process import PrometheusProcess, find_prometheus, rehearsal_config
from v13.telemetry.rules import rule_files
from v13.telemetry.servers import PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.slo import load_slo

__all__ = [
    "BAR_MS",
    "CHANGED",
    "GATES",
    "WAIT_S",
    "Shown",
    "Stage",
    "Venue",
    "loose",
    "scaled_table",
    "stage",
    "stuttering",
]

WAIT_S: Final = 120.0  # nothing waits for it in vain
LOOK_S: Final = 0.1
WINDOWS: Final = {"5m": "10s", "30m": "90s", "1h": "30s", "6h": "60s", "1d": "60s", "15m": "5s"}
# What is not a duration and still differs from the product's table, and why.
CHANGED: Final[Mapping[tuple[str, ...], tuple[float, str]]] = {
    ("rows", "availability", "min_count"): (3, "seconds away: 18 of an hour, of which 30 s are left"),
    ("rows", "events_per_hour", "min_count"): (0.0075, "symbol-hours: 0.9 of an hour, of which 30 s are left"),
    ("alerts", "closure_stale", "above"): (5, "seconds; an hour is not waited for"),
}
GATES: Final[Mapping[str, Any]] = {
    **{"min_separation": 2, "min_vol_ok": 0.0, "min_swing_bps": 0.0, "cooldown_ms": 0, "min_score": 0.0},
    **{"swing_L": 2, "z_hi": 0.3, "z_mid": 0.1},
}
BAR_MS: Final = 200  # of live scenes, so that 40 bars of warm-up are 8 s


class Shown(NamedTuple):
    """An alert that fired, what was done, and how long after."""

    alert: str
    deed: str
    seconds: float


def loose(bar_ms: int = 1_000, **decision: Any) -> DetectorParams:
    """Return parameters that find an event in every sixth bar."""
    return DetectorParams(FeatureParams(bar_ms=bar_ms, window=30), DecisionParams(**{**GATES, **decision}))


def scaled_table(path: Path) -> None:
    """Write the product's table with each duration a second, windows by `WINDOWS`, and `CHANGED`."""
    document = YAML(typ="safe").load(REPO / "config" / "slo.yaml")

    def shorten(node: dict[str, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                shorten(value)
            elif key in ("for", "scrape_every", "evaluate_every"):
                node[key] = "1s"
            elif key in ("window", "available", "warm_up"):
                node[key] = WINDOWS[value]

    shorten(document)
    for (*parents, last), (value, _) in CHANGED.items():
        node = document
        for name in parents:
            node = node[name]
        assert last in node, f"{parents}: no {last} any more"
        node[last] = value
    store.write_yaml(path, document)


class Venue:
    """The local exchange with a market that never ends, in a thread of its own; what is wrong with it can be set.

    Attributes
    ----------
    clock_off_ms : int
        Added to the exchange's time in every message.
    pace_s : float, s
        Between a trade and a quote and the next.
    n_garbage : int
        Frames that cannot be read, with each trade.
    flood : bool
        Quotes as fast as they are taken.
    """

    def __init__(self, symbol: str = "BTCUSDT") -> None:
        self.symbol = symbol
        self.exchange = Exchange("usdm")
        self.clock_off_ms = self.n_garbage = 0
        self.pace_s = 0.05
        self.flood = False
        self._rng = random.Random(13)
        self._mid, self._id = 60_000.0, 0
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))

    def __enter__(self) -> Venue:
        self._thread.start()
        assert self._is_up.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    @property
    def environ(self) -> dict[str, str]:
        """Return what a runner needs to find it."""
        return {"V13__FEED__WS_URL": self.exchange.ws_url, "V13__FEED__REST_URL": self.exchange.rest_url}

    def die(self) -> None:
        """Drop all connections, and answer nobody from now on."""
        self.exchange.mute = True

        async def drop() -> None:
            for connection in self.exchange.live:
                await connection.drop()

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(WAIT_S)

    async def _live(self) -> None:
        async with self.exchange:
            self._is_up.set()
            while not self._over.is_set():
                await self._send("aggTrade", [self._trade()] + [b'{"stream": not JSON'] * self.n_garbage)
                await self._send("bookTicker", [self._quote()] * (500 if self.flood else 1))
                await asyncio.sleep(0 if self.flood else self.pace_s)

    async def _send(self, kind: str, payloads: list[bytes]) -> None:
        for taker in self.exchange.takers(f"{self.symbol.lower()}@{kind}"):
            await taker.write(b"".join(map(frames.encode, payloads)))

    def _trade(self) -> bytes:
        self._id += 1
        self._mid = round(self._mid + self._rng.gauss(0.0, 2.0), 1)
        now_ms = int(time.time() * 1e3) + self.clock_off_ms
        row: dict[str, object] = {
            "recv_ns": 0,
            "event_ms": now_ms,
            "trade_ms": now_ms,
            "trade_id": self._id,
            "price": self._mid,
        }
        buys = self._rng.random() < 0.5
        return agg_trade(
            self.symbol, "usdm", row | {"qty": round(self._rng.uniform(0.1, 2.0), 3), "is_buyer_maker": buys}
        ).raw

    def _quote(self) -> bytes:
        now_ms = int(time.time() * 1e3) + self.clock_off_ms
        bid_qty, ask_qty = (round(self._rng.uniform(0.1, 9.0), 3) for _ in range(2))
        row: dict[str, object] = {
            "recv_ns": 0,
            "update_id": now_ms * 1_000 + self._id % 1_000,
            "trans_ms": now_ms,
            "event_ms": now_ms,
        }
        row |= {"bid": round(self._mid - 0.1, 1), "bid_qty": bid_qty, "ask": self._mid, "ask_qty": ask_qty}
        return book_ticker(self.symbol, row).raw


class Stage:
    """A project, a Prometheus on its rules, and the runner that misbehaves.

    Attributes
    ----------
    stack : ExitStack
        Ends what was started on it, with the stage.
    shown : list of Shown
        What fired.
    """

    def __init__(
        self, root: Path, url: str, port: int, closure_port: int, stack: ExitStack, shown: list[Shown]
    ) -> None:
        self.root, self.url, self.port, self.closure_port = root, url, port, closure_port
        self.stack, self.shown = stack, shown
        self.environ: dict[str, str] = {}
        self.runner: RunnerProcess | None = None

    def start(self, *arguments: str, **environ: str) -> RunnerProcess:
        """Start the runner on the port that is scraped."""
        everything = (*arguments, "--env", "testing", "--port", str(self.port))
        runner = RunnerProcess(self.root, *everything, environ=self.environ | environ)
        self.runner = self.stack.enter_context(runner)
        return runner

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts", timeout=WAIT_S) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def value(self, expr: str) -> float:
        """Return the first value of a query; NaN where it gives none."""
        query = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(query, timeout=WAIT_S) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else float("nan")

    def ready(self) -> None:
        """Wait until Prometheus has seen the runner ready."""
        assert until(lambda: self.value('divergence_ready{job="divergence"}') == 1, WAIT_S), "never ready"

    def expect(self, deed: str, *names: str, do: Callable[[], object]) -> None:
        """Do something to the runner; demand that alerts that were silent fire of it."""
        alerts = {f"Divergence{name}" for name in names}
        assert until(lambda: not alerts & self.firing(), WAIT_S), f"before {deed}: {alerts & self.firing()}"
        began_s, left = time.monotonic(), set(alerts)
        do()
        while left:
            for name in sorted(left & self.firing()):
                left.remove(name)
                self.shown.append(Shown(name, deed, time.monotonic() - began_s))
                print(f"{name:38} {deed:78} {self.shown[-1].seconds:6.1f} s", flush=True)
            if time.monotonic() - began_s > WAIT_S:
                said = self.runner.said()[-2_000:] if self.runner else "nothing"
                raise AssertionError(f"{deed}: not within {WAIT_S:g} s: {sorted(left)}; the runner said:\n{said}")
            time.sleep(LOOK_S)


@contextmanager
def stage(folder: Path, shown: list[Shown], params: DetectorParams, *, simulated: bool = True) -> Iterator[Stage]:
    """Make a project with these parameters and the scaled table, and run a Prometheus on what is built from it."""
    root = project(folder)
    (root / "runs").mkdir()
    write_parameters(root, params, simulated=simulated)
    scaled_table(root / "config" / "slo.yaml")
    table, built = load_slo(root / "config" / "slo.yaml"), folder / "monitoring"
    for name, document in {**server_files(table, Exporter()), **rule_files(table)}.items():
        store.write_yaml(built / name, document.body, header=document.header)
    port, closure_port = free_port(), free_port()
    targets = {"divergence": f"127.0.0.1:{port}", "divergence-closure": f"127.0.0.1:{closure_port}"}
    program = find_prometheus()
    assert program is not None, "no Prometheus: apt-get install prometheus, or set PROMETHEUS_BIN"
    with ExitStack() as stack:
        config = rehearsal_config(built / PROMETHEUS_FILE, targets, table.scrape_s)
        server = stack.enter_context(PrometheusProcess(program, config, folder / "prometheus"))
        made = Stage(root, server.url, port, closure_port, stack, shown)
        made.environ = {
            "V13__RUNNER__PARAMETERS": "runs/global.yaml",
            "V13__RUNNER__OVERRIDES": "runs/by_bucket.yaml",
            "V13__RUNNER__CALIBRATION": "null",
        }
        yield made


@contextmanager
def stuttering(runner: RunnerProcess, run_s: float, stop_s: float) -> Iterator[None]:
    """Give a process a short while at a time, as a machine does that has no time for it."""
    over = threading.Event()

    def stutter() -> None:
        while not over.is_set() and runner.process.poll() is None:
            runner.process.send_signal(signal.SIGSTOP)
            over.wait(stop_s)
            runner.process.send_signal(signal.SIGCONT)
            time.sleep(run_s)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
