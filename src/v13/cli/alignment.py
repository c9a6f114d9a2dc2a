"""The metrics alignment of the deployment guide: monitoring built, then a whole closure on servers made for it.

A runner replays a recording, a Prometheus scrapes it, and the dashboard's figures are held against the event log. It is
here as it takes the runner and the release wing together. All on loopback, in a folder that is removed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import v13
from v13 import config, store
from v13.detector import DetectorParams
from v13.errors import EXIT_GATE, EXIT_OK, ConfigError, V13Error
from v13.live.reload_exchange import StandIn
from v13.live.reload_proof import prove
from v13.live.reload_stage import RunnerProcess, prepare, until
from v13.release.closure import Closure, close
from v13.release.closure_exporter import close_exporter, scraped_quantile
from v13.release.closure_text import conclusion, table
from v13.release.prometheus_process import PrometheusProcess, find_prometheus, free_port, rehearsal_config
from v13.store.event_counts import read_config
from v13.store.fingerprint import package_fingerprint
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.signals import RUNNER_JOB
from v13.telemetry.slo import load_slo

__all__ = ["align"]

BUILT: Final = "prometheus_divergence.yml"
CLOSURE_FILE: Final = "closure.json"
REPORT_FILE: Final = "live_report.json"
SPEED: Final = 240.0  # an hour of bars in 15 s, each bar still by itself
N_BARS: Final = 3_600  # of 1 s
SCRAPE_S: Final = 1
LOG: Final = "runs/live/events.sqlite"
FEED_LOG: Final = "runs/feed/events.sqlite"
N_MESSAGES: Final = 2_000  # for a P95 of the event latency
WAIT_S: Final = 120.0

Say = Callable[[str], None]


def align(
    out: Path, root: Path, say: Say, *, data: Sequence[Path] = (), speed: float = SPEED, report: bool = False
) -> int:
    """Close a rehearsal whose monitoring was built into `out`; print the table.

    Parameters
    ----------
    out : Path
        What `v13 monitoring build` wrote; the closure is put there too.
    root : Path
        The project: its settings (of the files alone: the runner is started without V13__ variables), and with `data`
        its released parameters.
    say : callable
        Takes one line.
    data : paths of recordings
        None of them: an hour of two simulated symbols, with parameters loose enough for hundreds of events.
    speed : float, > 0
        Of the replay. Not so high that bars wait for each other: then latencies are those of a backlog.
    report : bool
        Also measure the event latency on a feed and prove hot reload, and write `live_report.json` for `v13 signoff`.

    Returns
    -------
    int
        Exit code: 0 if the closure closes (and hot reload works), 4 otherwise.

    Raises
    ------
    ConfigError, DataError, FeedError, StoreError, V13Error
        A server does not start, or cannot be asked.
    """
    started_ms = time.time_ns() // 1_000_000
    settings = config.load(root, environ={}).config
    with tempfile.TemporaryDirectory(prefix="v13-alignment-") as folder:
        stage = Path(folder) / "root"
        stage.mkdir()
        feed = _prepare(stage, root, data)
        closure = _rehearse(stage, feed, out, speed, settings.acceptance.closure_ratio, say)
        store.write_json(out / CLOSURE_FILE, closure.to_dict())
        print(table(closure))
        print(conclusion(closure), end="", flush=True)
        if not report:
            return EXIT_OK if closure.is_closed else EXIT_GATE
        document = _report(stage, closure, say)
    say("hot reload, step by step:")
    document |= {"hot_reload": prove(root / "config", say), "started_ms": started_ms}
    document["closure"]["sha256"] = store.sha256_file(out / CLOSURE_FILE)
    document["ended_ms"] = time.time_ns() // 1_000_000
    store.write_json(out / REPORT_FILE, document)
    say(f"for `v13 signoff --live {out}`: {out / REPORT_FILE}")
    return EXIT_OK if closure.is_closed and document["hot_reload"] else EXIT_GATE


def _prepare(stage: Path, root: Path, data: Sequence[Path]) -> str:
    """Fill a root of its own, so that the project's event log and runs/ stay as they are; return the recordings."""
    if not data:
        return str(prepare(stage, root / "config", n_bars=N_BARS))
    settings = config.load(root, environ={}).config.runner
    shutil.copytree(root / "config", stage / "config")
    for name in (settings.parameters, settings.overrides, settings.calibration, settings.signoff):
        if name is not None and (root / name).is_file():
            store.copy(root / name, stage / name)
    return ",".join(str(path.resolve()) for path in data)


def _rehearse(stage: Path, feed: str, out: Path, speed: float, ratio: float, say: Say) -> Closure:
    slo = load_slo(stage / "config" / "slo.yaml")
    program = find_prometheus()
    port = free_port()
    arguments = ("--feed", f"replay:{feed}", "--speed", f"{speed:g}", "--log", LOG, "--port", str(port))
    if program is None:
        say("there is no Prometheus (Debian: apt-get install prometheus; or PROMETHEUS_BIN): the weaker check instead")
        return _last_scrape(stage, arguments, ratio)
    built = rehearsal_config(out / BUILT, {RUNNER_JOB: f"127.0.0.1:{port}"}, SCRAPE_S)
    with PrometheusProcess(program, built, stage / "prometheus") as server, Prometheus(server.url) as prometheus:
        say(f"Prometheus {prometheus.version()} scrapes a runner that replays {feed} at {speed:g}x")
        began_s = time.monotonic()
        with RunnerProcess(stage, *arguments) as runner:
            runner.process.wait()
            if runner.process.returncode != 0:
                raise V13Error(f"the runner ended with {runner.process.returncode}:\n{runner.said()}")
        window_s = int(time.monotonic() - began_s) + 2 * SCRAPE_S
        return close(prometheus, slo, stage / LOG, window_s=window_s, closure_ratio=ratio, now_s=time.time())


def _last_scrape(stage: Path, arguments: Sequence[str], ratio: float) -> Closure:
    """Close on one scrape after the other while the runner runs; return the last."""
    found: Closure | None = None
    with RunnerProcess(stage, *arguments) as runner:
        while runner.process.poll() is None:
            try:
                found = close_exporter(runner.url, stage / LOG, closure_ratio=ratio)
            except ConfigError:
                raise
            except V13Error:
                continue  # it ended meanwhile
    if found is None:
        raise V13Error(f"the runner was gone before it could be scraped:\n{runner.said()}")
    return found


def _report(stage: Path, closure: Closure, say: Say) -> dict[str, Any]:
    """Return what the sign-off wants to know of the runner, but for hot reload."""
    own = read_config(stage / LOG)
    document = json.loads(own.document)
    params = DetectorParams.from_dict(document["params"])
    event = _event_latency(stage, say)
    return {
        "version": 1,
        "v13_version": v13.__version__,
        "code": package_fingerprint(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "simulated": bool(document["simulated"]),
        "bar_ms": params.features.bar_ms,
        "parameters_fingerprint": params.fingerprint(),
        "files": document["files"],
        "closure": {name: value for name, value in closure.to_dict().items() if name != "rows"},
        "latency": {"compute": _shown(closure, "detection"), "event": event, "pipeline": _shown(closure, "pipeline")},
    }


def _shown(closure: Closure, stage: str) -> dict[str, float | int | None]:
    """Return a P95 as the dashboard's table showed it, and of how many times."""
    row = next((row for row in closure.rows if row.label == f"P95 {stage}"), None)
    words = {"detection": "detection (bars)", "pipeline": "receipt to commit"}[stage]
    n = next((row.shown for row in closure.rows if row.label.startswith("times measured") and words in row.label), 0.0)
    return {"p95_s": row.to_dict()["shown"] if row else None, "n": round(n)}


def _event_latency(stage: Path, say: Say) -> dict[str, float | int | None]:
    """Run on a feed for a moment: a replay has no queue that messages leave."""
    name = "divergence_event_latency_seconds"
    with StandIn() as exchange:
        environ = {"V13__FEED__WS_URL": f"ws://127.0.0.1:{exchange.port}", "V13__RUNNER__MARKET": "spot"}
        environ |= {"V13__RUNNER__LOG": FEED_LOG}
        with RunnerProcess(stage, environ=environ) as runner:
            until(lambda: scraped_quantile(runner.url, name, 0.95)[1] >= N_MESSAGES, WAIT_S)
            p95_s, n = scraped_quantile(runner.url, name, 0.95)
            runner.end(signal.SIGTERM)
    say(f"event latency on a local feed: P95 {1e3 * p95_s:.3g} ms of {n:,} messages" if n else "no message came")
    return {"p95_s": p95_s if n else None, "n": n}
