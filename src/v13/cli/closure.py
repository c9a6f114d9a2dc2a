"""`v13 closure`: what the dashboard shows beside what the event log says."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import log, login, print_json, project_root
from v13.cli.snapshot import duration
from v13.errors import EXIT_GATE, EXIT_OK

if TYPE_CHECKING:
    from v13.release.closure import Closure

__all__ = ["add"]

WATCH_PORT = 8004
WINDOW_S = 3_600


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "closure",
        help="compare the dashboard's figures with the event log; exit code 0 if they agree, 4 otherwise",
        description="Ask a Prometheus every query of the dashboard's events, scores, outcomes and latencies over one "
        "window between two scrapes, reckon the same from the runner's event log, and print both with the difference "
        "and what explains it: scrape boundary, birth of a counter, reset, histogram resolution. Exit code 0 if "
        "nothing over 1 % is unexplained and all is within acceptance.closure_ratio, else 4.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prometheus", metavar="URL", help="such as http://localhost:9090")
    source.add_argument(
        "--exporter", metavar="URL", help="one scrape of the runner instead, such as http://localhost:8003: weaker"
    )
    parser.add_argument("--window", type=duration, default=WINDOW_S, metavar="LENGTH", help="such as 30m, 6h (1h)")
    parser.add_argument("--log", type=Path, metavar="PATH", help="event log of the runner (default: runner.log)")
    parser.add_argument("--json", action="store_true", help="every figure, for machines")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write that JSON there too, for notebook 06")
    parser.add_argument("--watch", action="store_true", help="go on until stopped, and export the error for the alerts")
    parser.add_argument("--port", type=int, default=WATCH_PORT, help="of --watch (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="of --watch (default: %(default)s)")
    parser.add_argument("--every", type=duration, default=60, metavar="LENGTH", help="of --watch (1m)")
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="certificates to trust instead of the system's")
    parser.add_argument("--user", help="for basic authentication, with --password-file")
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file that holds the password, read anew each time"
    )
    parser.add_argument("--env", choices=("development", "testing", "production"), help="config layer to add")
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13 import store
    from v13.release.closure_text import conclusion, table

    make = _maker(arguments)
    if arguments.watch:
        return _watch(arguments, make)
    closure = make()
    if arguments.save is not None:
        store.write_json(arguments.save, closure.to_dict())
    if arguments.json:
        print_json(closure.to_dict())
    else:
        print(table(closure))
        print(conclusion(closure), end="")
    return EXIT_OK if closure.is_closed else EXIT_GATE


def _maker(arguments: argparse.Namespace) -> Callable[[], Closure]:
    from v13 import config
    from v13.release.closure import close
    from v13.release.closure_exporter import close_exporter
    from v13.telemetry.prometheus import Prometheus
    from v13.telemetry.slo import load_slo

    root = project_root(arguments)
    settings = config.load(root, arguments.env, environ=dict(os.environ)).config
    table = load_slo(root / "config" / "slo.yaml")
    events = arguments.log or root / settings.runner.log
    ratio = settings.acceptance.closure_ratio
    trust = arguments.ca_file
    login(arguments)  # now, so that a file that is not there is told before anything runs

    def make() -> Closure:
        auth = login(arguments)  # again each time: a password that was changed is taken without a restart
        if arguments.exporter is not None:
            return close_exporter(arguments.exporter, events, closure_ratio=ratio, ca_file=trust, auth=auth)
        with Prometheus(arguments.prometheus, ca_file=trust, auth=auth) as prometheus:
            return close(prometheus, table, events, window_s=arguments.window, closure_ratio=ratio, now_s=time.time())

    return make


def _watch(arguments: argparse.Namespace, make: Callable[[], Closure]) -> int:
    from v13.release.closure_watch import ClosureExporter, watch

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ClosureExporter(arguments.host, arguments.port) as exporter:
        log(f"metrics: {arguments.host}:{exporter.port}/metrics")
        watch(make, exporter, log, every_s=arguments.every, stop=stop)
    return EXIT_OK
