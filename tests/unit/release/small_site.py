"""A small site by hand: settings, artifacts, monitoring files and a signed sign-off bundle, as a deploy finds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

from packaging.utils import canonicalize_name
from securesystemslib.signer import CryptoSigner

from tests.conftest import REPO
from v13 import store
from v13.config import load
from v13.detector import DetectorParams
from v13.release.check import CHECKS, run_check, run_checks
from v13.release.check_result import CheckResult
from v13.release.check_scene import Scene
from v13.release.check_signoff import GUIDE_CRITERIA
from v13.release.keys import make_key, read_private_key
from v13.release.site import Site
from v13.release.trust import ENVELOPE_FILE, read_bundle, sign_with
from v13.telemetry.dashboard import dashboard_json
from v13.telemetry.rules import rule_files
from v13.telemetry.servers import Exporter, server_files
from v13.telemetry.slo import load_slo

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MADE = NOW - timedelta(days=3)
PASSPHRASE = b"a passphrase of a test"
SHA = "ab" * 32
Reply = tuple[int, bytes]


@dataclass
class Servers:
    """What answers on loopback for Prometheus, Alertmanager, Grafana and the exchange; change it as you like."""

    url: str = ""
    date: datetime | None = NOW
    replies: dict[str, Reply] = field(
        default_factory=lambda: {
            "/-/ready": (200, b"ready"),
            "/api/v1/status/buildinfo": (200, b'{"status": "success", "data": {"version": "3.5.0"}}'),
            "/api/v2/status": (200, b'{"versionInfo": {"version": "0.28.1"}}'),
            "/api/health": (200, b'{"database": "ok", "version": "12.1.0"}'),
            "/fapi/v1/ping": (200, b"{}"),
        }
    )


@contextmanager
def servers() -> Iterator[Servers]:
    """Run them."""
    state = Servers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = state.replies.get(self.path, (404, b"not here"))
            self.send_response_only(status)
            if state.date is not None:
                self.send_header("Date", format_datetime(state.date, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


def make_signer(folder: Path) -> CryptoSigner:
    """Make a pair of keys in a folder and return the private one, opened."""
    make_key(folder / "signoff", PASSPHRASE)
    return read_private_key(folder / "signoff", PASSPHRASE)


def criterion(key: str, status: str = "PASS") -> dict[str, Any]:
    none = dict.fromkeys(("estimate", "interval", "threshold", "p", "p_naive", "n", "needed", "missing", "wait_hours"))
    return {"key": key, "title": key.replace("_", " "), "status": status, "unit": "", "detail": "As measured.", **none}


def signoff_document(artifacts: Mapping[str, str], fingerprint: str, simulated: bool = False) -> dict[str, Any]:
    source = {"name": "trades.csv", "sha256": SHA, "kind": "trades", "rows": 9}
    row = {"symbol": "BTCUSDT", "market": "usdm", "simulated": simulated, "bar_ms": 1000, "n_bars": 86_400}
    return {
        **{"version": 1, "v13_version": "13.0.0", "key": SHA, "simulated": simulated, "verdict": "PASS"},
        **{"criteria": [criterion(key) for key in GUIDE_CRITERIA], "open": [], "data": [{**row, "sources": [source]}]},
        **{"cut": {}, "parameters": {}, "parameters_fingerprint": fingerprint, "search": {}, "attention": []},
        **{"changed_settings": [], "artifacts": dict(artifacts)},
    }


class SmallSite:
    """A root with everything a deploy asks for; each method changes one thing.

    Parameters
    ----------
    root : Path
        An empty folder.
    signer : CryptoSigner
    public_key : Path
    url : str
        Of the servers.
    ports : three free ports
    template : Path, optional
        Root of another one to copy, which is faster than to make it.
    """

    def __init__(
        self,
        root: Path,
        signer: CryptoSigner,
        public_key: Path,
        url: str,
        ports: list[int],
        *,
        env: str = "production",
        template: Path | None = None,
    ) -> None:
        self.root, self.signer, self.env = root, signer, env
        self.environ = {
            "V13__DEPLOY__PROMETHEUS": url,
            "V13__DEPLOY__ALERTMANAGER": url,
            "V13__FEED__REST_URL": url,
            "V13__DEPLOY__MIN_FREE_MB": "1",
            "V13__DEPLOY__PORTS": f"[{ports[0]}, {ports[1]}]",
            "V13__DEPLOY__GUARD_PORT": str(ports[2]),
        }
        self.now: Callable[[], datetime] = lambda: NOW
        self.monotonic_s: Callable[[], float] = lambda: 7.0
        self.calibration = root / "config/calibration/divergence_score_calibration.json"
        self.monitoring = root / "runs/metrics_test"
        self.bundle = root / "reports/signed"
        self.fingerprint = DetectorParams().fingerprint()
        if template is None:
            self._make(public_key)
        else:
            shutil.copytree(template, root, symlinks=True)

    def _make(self, public_key: Path) -> None:
        root = self.root
        for name in ("system.yaml", "slo.yaml", "environments/production.yaml", "environments/testing.yaml"):
            store.copy(REPO / "config" / name, root / "config" / name)
        store.copy(public_key, root / "config/keys/signoff.pub")
        params = DetectorParams()
        shown = params.to_dict()
        body = {"version": 1, "simulated": False, "features": shown["features"], "decision": shown["decision"]}
        store.write_yaml(root / "runs/real_test/best_global.yaml", body)
        store.write_yaml(root / "runs/real_test/best_by_bucket.yaml", {"version": 1, "overrides": []})
        calibration = {
            **{"version": 2, "key": SHA, "simulated": False, "parameters_fingerprint": params.fingerprint()},
            **{"horizons": [], "not_fitted": [{"horizon_bars": 10, "n_events": 9}]},
        }
        store.write_json(self.calibration, calibration)
        self.build_monitoring()
        self.lock()
        self.sign_off()
        store.point(root / "reports/latest", self.bundle)

    def build_monitoring(self) -> None:
        table = load_slo(self.root / "config/slo.yaml")
        for name, document in {**server_files(table, Exporter()), **rule_files(table)}.items():
            store.write_yaml(self.monitoring / name, document.body, header=document.header)
        store.write_text(self.monitoring / "dashboards/divergence_overview.json", dashboard_json(table))
        store.write_text(self.monitoring / "divergence_metrics_exporter.py", "import v13\n")

    def lock(self, *more: str) -> None:
        """Write a lock of what is installed here, and further lines."""
        found = {canonicalize_name(d.metadata["Name"]): d.version for d in reversed(list(metadata.distributions()))}
        pins = [f"{name}=={version} \\\n    --hash=sha256:{SHA}" for name, version in sorted(found.items())]
        store.write_text(self.root / "requirements.lock", "\n".join(["# a lock", *pins, *more, ""]))

    def sign_off(
        self,
        change: Callable[[dict[str, Any]], Any] = lambda _: None,
        *,
        made: datetime = MADE,
        simulated: bool = False,
        signed: datetime = MADE,
    ) -> None:
        """Make the bundle anew, its signoff.json changed first, and sign it."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        places = {
            "best_global.yaml": self.root / "runs/real_test/best_global.yaml",
            "best_by_bucket.yaml": self.root / "runs/real_test/best_by_bucket.yaml",
            self.calibration.name: self.calibration,
        }
        for name, place in places.items():
            store.copy(place, self.bundle / "artifacts" / name)
        hashes = {name: store.sha256_file(place) for name, place in places.items()}
        document = signoff_document(hashes, self.fingerprint, simulated)
        change(document)
        store.write_json(self.bundle / "signoff.json", document)
        files = [p for p in sorted(self.bundle.rglob("*")) if p.is_file()]
        config = [self.root / "config/system.yaml", self.root / f"config/environments/{self.env}.yaml"]
        manifest = store.manifest.build(
            {f"config: {p.name}": p for p in config},
            {str(p.relative_to(self.bundle)): p for p in files},
            parameters={},
            seed=1,
            extra={key: document[key] for key in ("verdict", "key", "simulated")},
        )
        manifest["created_utc"] = made.isoformat(timespec="seconds")
        store.write_json(self.bundle / "manifest.json", manifest)
        if made <= signed:
            sign_with(read_bundle(self.bundle), self.signer, now=signed)

    def unsign(self) -> None:
        (self.bundle / ENVELOPE_FILE).unlink()

    def site(self) -> Site:
        # `open_site` refuses settings from variables; here they are only the short way to change one.
        return Site(self.root.resolve(), self.env, load(self.root, self.env, environ=self.environ).config)

    def check(self, key: str, *, operation: str = "", promtool: Path | None = None) -> CheckResult:
        """Run one check."""
        scene = Scene(self.site(), operation, self.now, self.monotonic_s, promtool, self.environ, 2.0)
        _ = scene.began
        return run_check(next(c for c in CHECKS if c.key == key), scene)

    def checks(self, **more: Any) -> dict[str, CheckResult]:
        """Run all checks and return them by key."""
        given = {"now": self.now, "monotonic_s": self.monotonic_s, "environ": self.environ, "wait_s": 2.0} | more
        return {r.key: r for r in run_checks(self.site(), **given)}
