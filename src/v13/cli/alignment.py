"""The metrics alignment of the deployment guide: monitoring built, then a whole closure on servers made for it.

A runner replays a recording, a Prometheus scrapes it, and the dashboard's figures are held against the event log. It is
here as it takes research, the runner and the release wing together. All on loopback, in a folder that is removed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import v13
from v13 import config, store
from v13.cli.rehearsal import Rehearsal, rehearse_made_up, rehearse_run
from v13.detector import DetectorParams
from v13.errors import EXIT_GATE, EXIT_OK, ConfigError, V13Error
from v13.live.reload_exchange import StandIn
from v13.live.reload_proof import prove
from v13.live.reload_stage import RunnerProcess, until
from v13.release.closure import Closure, close
from v13.release.closure_exporter import close_exporter, scraped_quantile
from v13.release.closure_text import conclusion, table
from v13.release.ports import free_port
from v13.release.prometheus_process import PrometheusProcess, find_prometheus, rehearsal_config
from v13.release.scrapes import last_scrape_s
from v13.research.run import Run
from v13.store.event_counts import read_config
from v13.store.fingerprint import package_fingerprint
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.signals import RUNNER_JOB
from v13.telemetry.slo import load_slo

__all__ = ["align"]

BUILT: Final = "prometheus_divergence.yml"
CLOSURE_FILE: Final = "closure.json"
REPORT_FILE: Final = "live_report.json"
SCRAPE_S: Final = 1
EVENED_S: Final = 0.01  # more than the 2 ms by which Prometheus evens out the times of scrapes
LOG: Final = "runs/live/events.sqlite"
FEED_LOG: Final = "runs/feed/events.sqlite"
N_MESSAGES: Final = 2_000  # for a P95 of the event latency
WAIT_S: Final = 120.0

Say = Callable[[str], None]
_print: Final = partial(print, flush=True)


def align(
    out: Path,
    root: Path,
    say: Say,
    *,
    run: Run | None = None,
    released: Path | None = None,
    speed: float | None = None,
    report: bool = False,
    show: Say = _print,
) -> int:
    """Close a rehearsal whose monitoring was built into `out`; print the table.

    Parameters
    ----------
    out : Path
        What `v13 monitoring build` wrote; the closure is put there too.
    root : Path
        The project: its settings (of the files alone: the runner is started without V13__ variables).
    say : callable
        Takes one line of progress.
    run : Run, optional
        Its search part is replayed, see `v13.cli.rehearsal`. None: an hour of two simulated symbols, with parameters of
        their own.
    released : Path, optional
        Folder of the parameters and calibration of a sign-off; default: those the settings of the runner name.
    speed : float, > 0
        Of the replay.
    report : bool
        Also measure the event latency on a feed and prove hot reload, and write `live_report.json` for `v13 signoff`.
    show : callable
        Takes the table.

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
        if run is None:
            rehearsal = rehearse_made_up(stage, root / "config", speed)
        else:
            rehearsal = rehearse_run(stage, run, released, speed)
        closure, version = _rehearse(rehearsal, out, settings.acceptance.closure_ratio, say)
        store.write_json(out / CLOSURE_FILE, closure.to_dict())
        show(table(closure))
        show(conclusion(closure).rstrip("\n"))
        if not report:
            return EXIT_OK if closure.is_closed else EXIT_GATE
        document = _report(rehearsal, closure, settings.runner.symbols, say)
    say("hot reload, step by step:")
    steps = prove(root / "config", say)
    document |= {"hot_reload": [step._asdict() for step in steps], "started_ms": started_ms}
    document["closure"] |= {"prometheus": version, "sha256": store.sha256_file(out / CLOSURE_FILE)}
    document["ended_ms"] = time.time_ns() // 1_000_000
    store.write_json(out / REPORT_FILE, document)
    say(f"for `v13 signoff --live {out}`: {out / REPORT_FILE}")
    return EXIT_OK if closure.is_closed and all(step.is_right for step in steps) else EXIT_GATE


def _rehearse(rehearsal: Rehearsal, out: Path, ratio: float, say: Say) -> tuple[Closure, str | None]:
    """Return the closure and the version of the Prometheus that scraped, None without one."""
    stage, speed, replay = rehearsal.root, rehearsal.speed, rehearsal.replay
    slo = load_slo(stage / "config" / "slo.yaml")
    program = find_prometheus()
    port = free_port()
    what = f"{replay['n_bars']:,} bars of {' and '.join(replay['symbols'])} ({replay['part']}) at {speed:g}x"
    arguments = ["--feed", f"replay:{rehearsal.recording}", "--speed", f"{speed:g}", "--log", LOG, "--port", str(port)]
    if program is None:
        say("there is no Prometheus (Debian: apt-get install prometheus; or PROMETHEUS_BIN): the weaker check instead")
        say(f"a runner replays {what}")
        return _last_scrape(rehearsal, arguments, ratio), None
    built = rehearsal_config(out / BUILT, {RUNNER_JOB: f"127.0.0.1:{port}"}, SCRAPE_S)
    with PrometheusProcess(program, built, stage / "prometheus") as server, Prometheus(server.url) as prometheus:
        version = prometheus.version()
        say(f"Prometheus {version} scrapes a runner that replays {what}")
        began_s = time.time()
        with RunnerProcess(stage, *arguments, environ=rehearsal.environ, is_held=True) as runner:
            # All that happens lies between two scrapes: an end of the window then cuts nothing, however late one comes.
            _scraped_since(prometheus, began_s)
            runner.play()
            _scraped_since(prometheus, time.time() + EVENED_S)
            now_s = time.time()
            window_s = math.ceil(now_s - began_s)
            closure = close(prometheus, slo, stage / LOG, window_s=window_s, closure_ratio=ratio, now_s=now_s)
            code = runner.let_go()
            if code != 0:
                raise V13Error(f"the runner ended with {code}:\n{runner.said()}")
        return closure, version


def _scraped_since(prometheus: Prometheus, since_s: float) -> None:
    """Wait until Prometheus has a scrape of the runner that began after that moment."""
    if not until(lambda: last_scrape_s(prometheus, since_s, time.time()) is not None, WAIT_S):
        raise V13Error(
            f"{prometheus.url}: no scrape of the runner succeeded within {WAIT_S:g} s; is the machine so busy that "
            f"each takes more than {SCRAPE_S} s?"
        )


def _last_scrape(rehearsal: Rehearsal, arguments: Sequence[str], ratio: float) -> Closure:
    """Close on one scrape after the other while the runner runs; return the last."""
    found: Closure | None = None
    with RunnerProcess(rehearsal.root, *arguments, environ=rehearsal.environ) as runner:
        while runner.process.poll() is None:
            try:
                found = close_exporter(runner.url, rehearsal.root / LOG, closure_ratio=ratio)
            except ConfigError:
                raise
            except V13Error:
                continue  # it ended meanwhile
    if found is None:
        raise V13Error(f"the runner was gone before it could be scraped:\n{runner.said()}")
    return found


def _report(rehearsal: Rehearsal, closure: Closure, symbols: Sequence[str], say: Say) -> dict[str, Any]:
    """Return what the sign-off wants to know of the runner, but for hot reload."""
    own = read_config(rehearsal.root / LOG)
    document = json.loads(own.document)
    params = DetectorParams.from_dict(document["params"])
    event = _event_latency(rehearsal, say)
    return {
        "version": 1,
        "v13_version": v13.__version__,
        "code": package_fingerprint(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "simulated": bool(document["simulated"]),
        "bar_ms": params.features.bar_ms,
        "parameters_fingerprint": params.fingerprint(),
        "files": document["files"],
        "replay": {**rehearsal.replay, "took_s": closure.end_s - closure.start_s},
        "feed": {"symbols": list(symbols)},
        "closure": {name: value for name, value in closure.to_dict().items() if name != "rows"},
        "latency": {"compute": _shown(closure, "detection"), "event": event, "pipeline": _shown(closure, "pipeline")},
    }


def _shown(closure: Closure, stage: str) -> dict[str, float | int | None]:
    """Return a P95 as the dashboard's table showed it, and of how many times."""
    row = next((row for row in closure.rows if row.label == f"P95 {stage}"), None)
    words = {"detection": "detection (bars)", "pipeline": "receipt to commit"}[stage]
    n = next((row.shown for row in closure.rows if row.label.startswith("times measured") and words in row.label), 0.0)
    return {"p95_s": row.to_dict()["shown"] if row else None, "n": round(n)}


def _event_latency(rehearsal: Rehearsal, say: Say) -> dict[str, float | int | None]:
    """Run on a feed for a moment: a replay has no queue that messages leave."""
    name = "divergence_event_latency_seconds"
    say(f"a runner on a stand-in for the exchange, until {N_MESSAGES:,} messages were handled")
    with StandIn() as exchange:
        environ = {"V13__FEED__WS_URL": f"ws://127.0.0.1:{exchange.port}", "V13__RUNNER__MARKET": "spot"}
        environ |= {"V13__RUNNER__LOG": FEED_LOG}
        with RunnerProcess(rehearsal.root, environ={**rehearsal.environ, **environ}) as runner:
            until(lambda: scraped_quantile(runner.url, name, 0.95)[1] >= N_MESSAGES, WAIT_S)
            p95_s, n = scraped_quantile(runner.url, name, 0.95)
            runner.end(signal.SIGTERM)
    say(f"event latency on a local feed: P95 {1e3 * p95_s:.3g} ms of {n:,} messages" if n else "no message came")
    return {"p95_s": p95_s if n else None, "n": n}
