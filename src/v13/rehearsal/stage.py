"""The stage of a rehearsal: a project of its own with settings of short durations, a sign-off that was really made and
signed for it, and the monitoring files its servers start on.

What differs from the product is here and nowhere else: lengths of time, lengths of bars, and the event rates that
follow from them.
"""

from __future__ import annotations

import fcntl
import secrets
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl
from ruamel.yaml import YAML

from v13 import market, store
from v13.errors import V13Error
from v13.market import MarketSpec
from v13.release.keys import make_key
from v13.release.monitoring_files import TARGETS, monitoring_documents, write_files
from v13.release.site import Site, open_site
from v13.release.trust import sign_bundle
from v13.research.run import code_fingerprint
from v13.research.signoff import sign_off
from v13.telemetry.built_files import built_files
from v13.telemetry.servers import Exporter
from v13.telemetry.slo import load_slo

__all__ = ["BAR_MS", "ENV", "SYMBOLS", "Addresses", "make_stage"]

ENV: Final = "testing"
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
BAR_MS: Final = 200
N_BARS: Final = 100_000  # of the record that is signed off
SEED: Final = 13
ACCURACY: Final = 0.75
SWING: Final = 5
SCALE: Final = 60  # an SLO's minute is a second here
RATE: Final = 1_000 // BAR_MS  # bars, and so events, come that much faster
WINDOWS: Final = {"5m": "10s", "30m": "30s", "1h": "90s", "6h": "60s", "1d": "60s", "15m": "60s"}
# What is not a duration and differs from the product's table, and why.
CHANGED: Final[dict[tuple[str, ...], Any]] = {
    ("rows", "availability", "min_count"): 3,  # seconds away, of windows that are seconds long
    # A minute cannot tell that there are too few events, only that there are too many.
    ("rows", "events_per_hour", "min_count"): 0.003,
    ("rows", "events_per_hour", "target", "below"): None,
    ("rows", "events_per_hour", "alert", "below"): None,
    ("rows", "events_per_hour", "rollback", "below"): None,
    # A bar here is made of a dozen messages, not of hundreds: the slowest 5 % are those that close one and wait for the
    # disk, which elsewhere is the pipeline's latency.
    ("rows", "event_latency", "target", "above"): 0.1,
    ("rows", "event_latency", "alert", "above"): 0.05,
    ("rows", "event_latency", "rollback", "above"): 0.2,
}
MONITORING: Final = "monitoring"
BAD: Final = ("FAIL", "INSUFFICIENT")
SETTINGS: Final[Mapping[str, Any]] = {
    "market": {"bar_ms": BAR_MS},
    "features": {"window": 40},
    "detector": {"cooldown_s": 2.0},  # ten bars
    "search": {
        "grid": {"swing_L": [5], "z_hi": [1.2, 1.4, 1.6], "z_mid": [0.4, 0.6]},
        "folds": 2,
        "min_events": 50,
        "min_bucket_events": 20,
    },
    "acceptance": {"n_shifts": 400, "n_bootstrap": 200},
    "noise": {"markets": 1, "max_bars": 60_000},
}


class Addresses(NamedTuple):
    """Where the servers of a rehearsal will be; ports that were free a moment ago."""

    exchange_ws: str
    exchange_rest: str
    prometheus: int
    alertmanager: int
    runners: tuple[int, int]
    guard: int


def make_stage(
    root: Path,
    project: Path,
    kept: Path,
    at: Addresses,
    say: Callable[[str], None] = lambda _: None,
    *,
    settings: Mapping[str, Any] | None = None,
    levels: Mapping[tuple[str, ...], Any] | None = None,
) -> Site:
    """Fill an empty folder with a project that is ready to deploy, and return its site.

    Parameters
    ----------
    root : Path
    project : Path
        Whose config/ and notebooks/ are used.
    kept : Path
        Folder where the sign-off of the rehearsal's market is kept: one for each version of code and settings.
    at : Addresses
    say : callable
    settings : mapping, optional
        Settings of `deploy` that differ from a rehearsal's.
    levels : mapping of keys to value, optional
        What else differs from the product's SLO table, such as `{("rows", "compute_latency", "rollback", "above"): 1}`.

    Raises
    ------
    V13Error
        The rehearsal's market was not signed off.
    """
    shutil.copytree(_signed(project, kept, say), root, symlinks=True, dirs_exist_ok=True)
    store.write_yaml(root / "config/slo.yaml", short_table(project / "config/slo.yaml", levels or {}))
    live = _live_settings(at)
    live["deploy"] |= settings or {}
    store.write_yaml(root / f"config/environments/{ENV}.yaml", live)
    passphrase = secrets.token_hex(16).encode()  # of this rehearsal's key, which nobody will use again
    key = root / "config/keys/signoff"
    key.parent.mkdir(parents=True, exist_ok=True)
    make_key(key, passphrase)
    sign_bundle((root / "reports/latest").resolve(), key, passphrase)
    table = load_slo(root / "config/slo.yaml")
    write_files(root / "runs/metrics_test", built_files(table, Exporter(f"localhost:{at.runners[0]}")))
    site = open_site(root, ENV, {})
    place = root / MONITORING
    write_files(place, monitoring_documents(site, table))
    for name in TARGETS.values():
        store.write_text(place / name, "[]\n")
    return site


def _signed(project: Path, kept: Path, say: Callable[[str], None]) -> Path:
    """Return the sign-off of the rehearsal's market, made where it is not kept yet; who comes meanwhile waits."""
    kept.mkdir(parents=True, exist_ok=True)
    with (kept / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        signed = kept / _version(project)
        if not signed.is_dir():
            with store.staged_dir(signed) as folder:
                _sign_off(folder, project, say)
    return signed


def _sign_off(root: Path, project: Path, say: Callable[[str], None]) -> None:
    """Simulate a market and sign it off, in a project of its own; nothing of it is a shortcut but its size."""
    shutil.copytree(project / "config", root / "config", ignore=shutil.ignore_patterns("calibration", "keys"))
    shutil.copy(project / "requirements.lock", root)
    system: dict[str, Any] = YAML(typ="safe").load(root / "config/system.yaml")
    for section, values in SETTINGS.items():
        system[section] |= values
    store.write_yaml(root / "config/system.yaml", system, header="Of a rehearsal: short bars, a small search.")
    recordings = []
    for number, symbol in enumerate(SYMBOLS[:2]):
        spec = MarketSpec("planted", N_BARS, symbol, bar_ms=BAR_MS, true_accuracy=ACCURACY, swing_L=SWING)
        bars = market.simulate_bars(spec, SEED + number).bars
        frame = pl.DataFrame({name: bars[name] for name in bars.dtype.names or ()})
        recordings.append(root / "recording" / f"{symbol}.parquet")
        recordings[-1].parent.mkdir(exist_ok=True)
        market.write_tape(recordings[-1], frame, kind="bars", symbol=symbol, market="usdm", simulated=True)
    signed = sign_off(
        recordings,
        root=root,
        out=root / "runs/real_test",
        reports=root / "reports",
        notebooks=project / "notebooks",
        say=say,
    )
    if signed.verdict != "PASS":
        criteria = [f"{c['key']} {c['status']}" for c in signed.document["criteria"] if c["status"] in BAD]
        raise V13Error(f"the rehearsal's own market was not signed off: {signed.verdict}: {', '.join(criteria)}")


def _version(project: Path) -> str:
    """Return what a sign-off of the rehearsal's market depends on, as a name."""
    text = (project / "config/system.yaml").read_text(encoding="utf-8")
    facts = [code_fingerprint(), text, repr(SETTINGS), repr((N_BARS, SEED, BAR_MS, ACCURACY, SWING, SYMBOLS))]
    return sha256("\n".join(facts).encode()).hexdigest()[:16]


def short_table(path: Path, levels: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the product's SLO table with windows by `WINDOWS`, what `CHANGED` says and then `levels`.

    `deploy.time_scale` does the durations.
    """
    document: dict[str, Any] = YAML(typ="safe").load(path)

    def shorten(node: dict[str, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                shorten(value)
            elif key in ("scrape_every", "evaluate_every"):
                node[key] = "1s"
            elif key in ("window", "available", "warm_up"):
                node[key] = WINDOWS[value]

    shorten(document)
    for (*parents, last), value in {**CHANGED, **levels}.items():
        node = document
        for name in parents:
            node = node[name]
        node[last] = value
        if value is None:
            del node[last]
    rate = document["rows"]["events_per_hour"]
    for level in ("target", "alert", "rollback"):
        for side in {"above", "below"} & rate[level].keys():
            rate[level][side] *= RATE
    return document


def _live_settings(at: Addresses) -> dict[str, Any]:
    return {
        "runner": {"symbols": list(SYMBOLS), "market": "usdm", "grace_ms": 50},
        "feed": {"ws_url": at.exchange_ws, "rest_url": at.exchange_rest, "stale_s": 3.0, "backoff_max_s": 1.0},
        "deploy": {
            "home": "deploy",
            "allow_simulated": True,
            "canary": list(SYMBOLS[:2]),
            "ports": list(at.runners),
            "observe_s": 6.0,
            "observe_most_s": 60.0,
            "look_every_s": 1.0,
            "time_scale": 1.0 / SCALE,
            "ready_s": 60.0,
            "supervisor": "supervisord",
            "prometheus": f"http://127.0.0.1:{at.prometheus}",
            "prometheus_dir": MONITORING,
            "alertmanager": f"http://127.0.0.1:{at.alertmanager}",
            "guard_port": at.guard,
            "min_free_mb": 64,
        },
    }
