"""`v13 monitoring snapshot`: the dashboard's panels from a Prometheus, as one HTML page."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from v13.cli.events import time_or_duration
from v13.cli.options import log, login, project_root
from v13.errors import EXIT_OK, ConfigError

__all__ = ["add"]

_DURATION = re.compile(r"(\d+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def add(commands: Any) -> None:
    """Register the command among those of `v13 monitoring`."""
    parser = commands.add_parser(
        "snapshot",
        help="write the dashboard as one static HTML page, for a deploy record",
        description="Ask a Prometheus for every panel of the dashboard, with the dashboard's own queries, units and "
        "thresholds, and write one HTML page that loads nothing. Times are UTC.",
    )
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, replaced if it is there")
    parser.add_argument("--last", type=duration, default=3 * 3_600, metavar="LENGTH", help="such as 90m (3h)")
    parser.add_argument("--end", type=time_or_duration, metavar="WHEN", help="a time, or 2h ago as 2h (default: now)")
    parser.add_argument("--window", type=duration, default=3_600, metavar="LENGTH", help="of rolling figures (1h)")
    parser.add_argument("--source", action="append", default=[], help="only this source; may be given several times")
    parser.add_argument("--symbol", action="append", default=[], help="only this symbol; may be given several times")
    parser.add_argument("--slo", type=Path, metavar="FILE", help="default: config/slo.yaml of the project")
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="certificates to trust instead of the system's")
    parser.add_argument("--user", help="for basic authentication, with --password-file")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file that holds the password")
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    parser.set_defaults(run=_run)


def duration(text: str) -> int:
    """Read a length of time: seconds."""
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if seconds < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time such as 90s, 30m, 3h or 2d")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    from v13 import store
    from v13.detector.dtypes import CHANNELS
    from v13.telemetry.prometheus import Prometheus
    from v13.telemetry.queries import Scope
    from v13.telemetry.slo import load_slo
    from v13.telemetry.snapshot import take
    from v13.telemetry.snapshot_page import snapshot_page

    unknown = [source for source in arguments.source if source not in CHANNELS]
    if unknown:
        raise ConfigError(f"--source: expected some of {', '.join(CHANNELS)}, found {', '.join(unknown)}")
    table = load_slo(arguments.slo or project_root(arguments) / "config" / "slo.yaml")
    scope = Scope(
        range_s=arguments.last,
        scrape_s=table.scrape_s,
        sources=tuple(arguments.source),
        symbols=tuple(arguments.symbol),
        window_s=arguments.window,
    )
    end_s = time.time() if arguments.end is None else arguments.end / 1_000.0
    with Prometheus(arguments.prometheus, ca_file=arguments.ca_file, auth=login(arguments)) as prometheus:
        snapshot = take(prometheus, table, scope, float(int(end_s)))
    store.write_text(arguments.out, snapshot_page(snapshot, _shown(arguments.prometheus)))
    answers = [answer for _, found in snapshot.shelves for answer in found]
    log(f"{sum(answer.has_data for answer in answers)} of {len(answers)} panels have data")
    print(arguments.out)
    return EXIT_OK


def _shown(url: str) -> str:
    """Return a URL without user and password: pages are handed round."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
