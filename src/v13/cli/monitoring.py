"""`v13 monitoring`: everything that watches production, written from the SLO table, and the proof of its rules."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import log, project_root
from v13.errors import EXIT_GATE, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from v13.config import Config
    from v13.detector import DetectorParams
    from v13.telemetry.servers import Exporter

__all__ = ["add", "build"]

SLO_FILE = "config/slo.yaml"


def add(commands: Any) -> None:
    """Register the commands."""
    from v13.cli import snapshot

    text = "write what watches production: Prometheus, alert rules and their tests, Alertmanager, dashboard"
    parser = commands.add_parser("monitoring", help=text, description=text)
    inner = parser.add_subparsers(dest="monitoring", metavar="COMMAND", required=True)
    build = inner.add_parser(
        "build",
        help="write all files from config/slo.yaml; equal tables give equal bytes",
        description="Write Prometheus's and Alertmanager's configuration, recording and alert rules with their "
        "tests, the dashboard and the launcher of the exporter from config/slo.yaml. The folder is replaced whole.",
    )
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="such as runs/metrics_test")
    build.add_argument("--env", choices=("development", "testing", "production"), help="config layer to add")
    build.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    build.set_defaults(run=_build)
    prove = inner.add_parser(
        "prove",
        help="run the tests of every alert rule, and count the spoilt rules they notice (minutes; needs promtool)",
        description="Run the tests of every alert rule under promtool, then against rules spoilt in one place each: "
        "comparison flipped, threshold doubled, label dropped, duration changed. Exit code 4 if a test fails or fewer "
        "than 90 % of the spoilt rules are noticed.",
    )
    prove.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth spoilt rule (1)")
    prove.add_argument("--promtool", type=Path, help="default: PROMTOOL_BIN, else the one on PATH")
    prove.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    prove.set_defaults(run=_prove)
    snapshot.add(inner)


def _build(arguments: argparse.Namespace) -> int:
    out = arguments.out
    build(out, project_root(arguments), arguments.env)
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(path)
    return EXIT_OK


def build(out: Path, root: Path, env: str | None) -> None:
    """Write what watches production into a folder, replaced whole; what cannot fire or tells nobody is logged.

    Raises
    ------
    ConfigError
        The folder holds other files, or the settings or the SLO table are bad.
    """
    from v13 import store
    from v13.config import load
    from v13.release.monitoring_files import write_files
    from v13.telemetry.built_files import built_files
    from v13.telemetry.reach import out_of_reach
    from v13.telemetry.rule_tests import test_files
    from v13.telemetry.slo import load_slo

    config = load(root, env, environ=os.environ).config
    table = load_slo(root / SLO_FILE)
    _refuse_other_folder(out)
    with store.staged_dir(out) as folder:
        write_files(
            folder, {**built_files(table, _exporter(config, root.resolve(), out.resolve())), **test_files(table)}
        )
    for alert, why in out_of_reach(table, _parameters(root, config), config.runner.queue_limit):
        log(f"note: {alert} cannot fire with these settings: {why}")
    if table.notify.people is None or table.notify.rollback is None:
        log(f"note: {SLO_FILE}: notify: without its webhooks Alertmanager tells nobody")


def _prove(arguments: argparse.Namespace) -> int:
    from v13.telemetry.mutants import MIN_CAUGHT, judge, mutants, prove_rules
    from v13.telemetry.slo import load_slo

    if arguments.every < 1:
        raise ConfigError(f"--every: expected a whole number from 1, found {arguments.every}")
    promtool = arguments.promtool or os.environ.get("PROMTOOL_BIN") or shutil.which("promtool")
    if promtool is None:
        raise ConfigError("promtool is not installed (Debian: apt-get install prometheus); or name it with --promtool")
    table = load_slo(project_root(arguments) / SLO_FILE)
    failed = prove_rules(table, Path(promtool))
    for name in failed:
        print(f"FAILED: {name}")
    score = judge(table, list(mutants(table))[:: arguments.every], Path(promtool))
    for missed in score.missed:
        print(f"not noticed: {missed}")
    print(score)
    return EXIT_OK if not failed and score.ratio >= MIN_CAUGHT else EXIT_GATE


def _refuse_other_folder(out: Path) -> None:
    """Refuse to replace a folder that is not of this command's making."""
    from v13.telemetry.servers import PROMETHEUS_FILE

    if out.is_dir() and any(out.iterdir()) and not (out / PROMETHEUS_FILE).is_file():
        raise ConfigError(f"--out: {out}: holds other files and would be replaced whole; name a folder of its own")


def _exporter(config: Config, root: Path, out: Path) -> Exporter:
    """Return how Prometheus reaches the runner; its files are found from the folder its configuration is in."""
    from v13.telemetry.servers import Exporter

    own = config.exporter
    host = "localhost" if own.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else own.host
    ca_file, password_file = (
        None if name is None else Path(os.path.relpath(root / name, out)).as_posix()
        for name in (own.tls_cert, own.password_file)
    )
    return Exporter(f"{host}:{own.port}", ca_file, own.user, password_file)


def _parameters(root: Path, config: Config) -> DetectorParams:
    """Return the parameters the runner would start with; the settings' own where there was no search yet."""
    from v13.config.parameters import configured_parameters, read_parameters
    from v13.market.policy import TICK_BAR_MS

    settings = config.runner
    if settings.parameters is not None and (root / settings.parameters).exists():
        overrides = root / settings.overrides if settings.overrides else None
        return read_parameters(root / settings.parameters, overrides).params
    return configured_parameters(config, config.market.bar_ms or TICK_BAR_MS)
