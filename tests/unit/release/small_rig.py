"""A rig by hand: a small project, a clock that stands still, a supervisor that only remembers, a server that answers.

All of it is beyond what is tested; the ledger, the folders and the event logs are real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast
from urllib.parse import parse_qs

from tests.conftest import REPO
from v13 import store
from v13.detector import DetectorParams
from v13.release.build import build_release
from v13.release.ledger import APPLICATION_ID, SCHEMA, DeployLedger
from v13.release.monitoring_files import TARGETS
from v13.release.ports import free_port
from v13.release.rig import Rig
from v13.release.site import Site, open_site
from v13.release.supervisor import Program, ProgramState, State
from v13.store.chain import ChainedLog
from v13.store.event_log import ActiveConfig, Batch, EventLog, SymbolState

__all__ = [
    "CALIBRATION",
    "NOW",
    "OLD",
    "PORTS",
    "RELEASE",
    "SYMBOLS",
    "FakePrometheus",
    "Reply",
    "SmallClock",
    "SmallSupervisor",
    "Web",
    "dead_worker",
    "deployed",
    "forget",
    "good_values",
    "make_rig",
    "make_site",
    "ports",
    "release_of",
    "running_log",
    "served",
    "sign_off",
    "unprotect",
    "with_settings",
]

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OLD, RELEASE = "20260228T120000Z-aaaaaaaa", "20260301T110000Z-bbbbbbbb"
CALIBRATION = "divergence_score_calibration.json"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
Reply = tuple[int, str]


@dataclass
class SmallClock:
    """A clock that moves when somebody sleeps on it; `on_sleep` is called then."""

    at: datetime = NOW
    on_sleep: Callable[[], None] = lambda: None

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return (self.at - NOW).total_seconds() + 100.0

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.on_sleep()


@dataclass
class SmallSupervisor:
    """Remembers what is installed and what it was told; starts nothing."""

    name: str = "by hand"
    programs: dict[str, Program] = field(default_factory=dict)
    at: dict[str, State] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def ensure_up(self) -> None:
        self.told.append("ensure_up")

    def install(self, program: Program) -> None:
        self.programs[program.name] = program
        self.at.setdefault(program.name, "stopped")

    def start(self, name: str) -> None:
        self.told.append(f"start {name}")
        self.at[name] = "running"

    def stop(self, name: str, grace_s: float | None = None) -> None:
        self.told.append(f"stop {name}" + (f" {grace_s:g}" if grace_s is not None else ""))
        if name in self.at:
            self.at[name] = "stopped"

    def remove(self, name: str) -> None:
        self.at.pop(name, None)
        self.programs.pop(name, None)

    def state(self, name: str) -> ProgramState:
        return ProgramState(name, self.at.get(name, "unknown"), None, None, "as the test says")

    def states(self) -> list[ProgramState]:
        return [self.state(name) for name in sorted(self.at)]

    def shut_down(self) -> None:
        self.told.append("shut_down")


class Web:
    """A server on loopback: `answer` is asked for each request, `requests` are those it got."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[tuple[str, str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: Callable[[str, str], Reply] = lambda _path, _body: (200, "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(web: Web | None = None) -> Iterator[Web]:
    """Run a server."""
    state = web or Web()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            state.requests.append((self.command, self.path, body))
            state.headers.append(dict(self.headers))
            status, text = state.answer(self.path, body)
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class FakePrometheus(Web):
    """Answers instant queries: `alerts` are those that fire, `values` the recorded series of an instance."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: set[tuple[str, str]] = set()
        self.values: dict[str, dict[str, float]] = {}
        self.answer = self.query
        self.reload: Reply = (200, "")

    def query(self, path: str, body: str) -> Reply:
        if path == "/-/reload":
            return self.reload
        if path == "/api/v1/status/config":
            return 200, json.dumps({"status": "success", "data": {"yaml": " ".join(TARGETS.values())}})
        if path != "/api/v1/query":
            return 404, json.dumps({"status": "error", "errorType": "bad_data", "error": "not here"})
        form = {k: v[0] for k, v in parse_qs(body).items()}
        expr, at = form["query"], float(form["time"])
        found: list[dict[str, str]] = []
        if expr.startswith("ALERTS"):
            names = [n for n, i in self.alerts if f'alertname="{n}"' in expr and f'instance="{i}"' in expr]
            found = [{"__name__": "ALERTS", "alertname": n, "value": "1"} for n in names]
        else:
            for instance, own in self.values.items():
                if instance.replace(".", r"\.") not in expr and instance not in expr:
                    continue
                for name, value in own.items():
                    if expr.startswith('{__name__=~"v13:') == name.startswith("v13:") and (
                        name.startswith("v13:") or expr.startswith(name + "{")
                    ):
                        found.append({"__name__": name, "instance": instance, "value": str(value)})
        result = [{"value": [at, one.pop("value")], "metric": one} for one in found]
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def make_root(root: Path, **deploy: Any) -> Path:
    """Make a project with settings and a bundle to build from; nothing of it is signed."""
    for name in ("system.yaml", "slo.yaml", "environments/production.yaml"):
        store.copy(REPO / "config" / name, root / "config" / name)
    write_settings(root, **deploy)
    store.write_text(root / "config/keys/signoff", "a private key")
    store.write_text(root / "config/calibration/other.json", "{}\n")
    bundle = root / "reports/signed"
    params = DetectorParams()
    shown = params.to_dict()
    body = {"version": 1, "simulated": False, "features": shown["features"], "decision": shown["decision"]}
    store.write_yaml(bundle / "artifacts/best_global.yaml", body)
    store.write_yaml(bundle / "artifacts/best_by_bucket.yaml", {"version": 1, "overrides": []})
    store.write_json(
        bundle / "artifacts" / CALIBRATION,
        {
            **{"version": 2, "key": "ab" * 32, "simulated": False, "parameters_fingerprint": params.fingerprint()},
            **{"horizons": [], "not_fitted": [{"horizon_bars": 10, "n_events": 9}]},
        },
    )
    sign_off(bundle)
    store.write_text(bundle / "notebooks/01.ipynb", "{}")
    store.write_text(bundle / "data/bars.parquet", "bars")
    store.point(root / "reports/latest", bundle)
    store.write_text(root / "tiny/v13/__init__.py", "# the code of a release of tests\n")
    return root


def write_settings(root: Path, **deploy: Any) -> None:
    """Write the settings of the environment `testing`: nobody is there but what `deploy` says."""
    settings = {
        **{"home": "deploy", "allow_simulated": True, "ports": PORTS, "guard_port": 0, "look_every_s": 15.0},
        **{"prometheus": None, "alertmanager": None},
    }
    body = {"runner": {"symbols": list(SYMBOLS)}, "deploy": settings | deploy}
    store.write_yaml(root / "config/environments/testing.yaml", body)


def with_settings(site: Site, **deploy: Any) -> Site:
    """Return the site with other settings."""
    write_settings(site.root, **deploy)
    return open_site(site.root, "testing", {})


def sign_off(bundle: Path, **more: Any) -> None:
    """Write signoff.json that fits the artifacts."""
    hashes = {p.name: store.sha256_file(p) for p in (bundle / "artifacts").iterdir()}
    document = {
        **{"key": "ab" * 32, "verdict": "PASS", "simulated": False, "artifacts": hashes},
        **{"parameters_fingerprint": DetectorParams().fingerprint()},
    }
    store.write_json(bundle / "signoff.json", document | more)


def ports(n: int) -> list[int]:
    """Return ports that were free a moment ago, as are those after them."""
    found: list[int] = []
    while len(found) < n:
        port = free_port()
        if all(abs(port - other) > 1 for other in found):
            found.append(port)
    return found


PORTS = ports(2)


def make_site(root: Path, **deploy: Any) -> Site:
    """Make a project and return its site."""
    return open_site(make_root(root, **deploy), "testing", {})


def make_rig(site: Site, said: list[str] | None = None) -> Rig:
    """Return what an operation works with."""
    clock = SmallClock()
    say = (lambda _: None) if said is None else said.append
    ledger = DeployLedger(site.ledger, clock.now)
    return Rig(site, ledger, SmallSupervisor(), clock, say, site.root / "tiny")


def release_of(site: Site, release: str) -> Path:
    """Build a release with code of a line, and return its folder."""
    build_release(site, release, code=site.root / "tiny")
    return site.release(release)


def running_log(site: Site, release: str, bars: Mapping[str, int], *, fingerprint: str = "fe" * 32) -> None:
    """Write the event log of a release that runs with its own files."""
    files = store.read_json(site.release(release) / "release.json")["files"]
    places = {
        "best_global.yaml": "runs/real_test/best_global.yaml",
        "best_by_bucket.yaml": "runs/real_test/best_by_bucket.yaml",
        CALIBRATION: f"config/calibration/{CALIBRATION}",
    }
    hashes = {name: files[place]["sha256"] for name, place in places.items()}
    document = json.dumps({"files": hashes, "params": DetectorParams().to_dict(), "calibration": None})
    batch = Batch(configs=[ActiveConfig(1, 0, fingerprint, document)])
    batch.states = {symbol: SymbolState(ts_ms, 1, 1, b"") for symbol, ts_ms in bars.items()}
    path = site.event_log(release)
    with EventLog(path, keep_bars=10, now_ms=lambda: 0) as log:
        log.commit(batch)


def deployed(rig: Rig, stable: str | None, candidate: str | None = None, steps: Sequence[str] = ()) -> None:
    """Enter a stable release that serves all symbols, and a deploy under way that did some steps."""
    ledger, (first, second) = rig.ledger, rig.site.config.deploy.ports
    supervisor = cast(SmallSupervisor, rig.supervisor)
    if stable is not None:
        claim = ledger.begin("deploy", {"reason": "the first", "env": rig.site.env})
        rows = [("assign", {"symbol": s, "from_ms": 0, "release": stable}) for s in SYMBOLS]
        rows += [("slot", {"release": stable, "port": first}), ("stable", {"release": stable})]
        ledger.end(claim, "completed", "", rows)
        supervisor.at[f"runner-{stable}"] = "running"
    if candidate is not None:
        claim = ledger.begin("deploy", {"reason": "the next", "env": rig.site.env, "steps": ["start", "promote"]})
        ledger.enter(claim, "candidate", {"release": candidate})
        ledger.enter(claim, "slot", {"release": candidate, "port": second})
        for step in steps:
            ledger.done(claim, step, {})
        supervisor.at[f"runner-{candidate}"] = "running"


def dead_worker(rig: Rig, kind: str, facts: Mapping[str, Any]) -> str:
    """Enter an operation whose worker was of another boot, and return its name."""
    log = ChainedLog(rig.site.ledger, application_id=APPLICATION_ID, schema=SCHEMA, now=rig.clock.now)
    worker = {"pid": 1, "begun": 1, "boot": "another"}
    name = f"20260301T115900Z-{kind}-dead00"
    with log.transaction(create=True) as entries:
        entries.append("begin", name, {"operation": kind, "by": "somebody@elsewhere", "worker": worker, **facts})
    return name


def good_values() -> dict[str, float]:
    """Return recorded series with which every row of the SLO table that an observation needs is kept."""
    return {
        **{"v13:event_latency:p95": 1e-4, "v13:event_latency:count": 900.0, "v13:pipeline_latency:p95": 1e-3},
        **{"v13:pipeline_latency:count": 300.0, "v13:compute_latency:p95": 1e-5, "v13:compute_latency:count": 300.0},
        **{"v13:closure:max": 0.0, "v13:error_rate:ratio": 0.0, "v13:error_rate:count": 0.0},
        **{"v13:availability:ratio": 1.0, "v13:availability:away": 0.0, "up": 1.0},
    }


def unprotect(folder: Path) -> None:
    """Give back the right to write, as whoever tampers would."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def forget(folder: Path) -> None:
    """Remove a protected folder."""
    unprotect(folder)
    shutil.rmtree(folder)
