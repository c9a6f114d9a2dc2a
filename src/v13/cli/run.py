"""`v13 run`: the runner, on the exchange's feed or on a recording."""

from __future__ import annotations

import argparse
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from v13.cli.options import log, project_root
from v13.errors import EXIT_OK, ConfigError

__all__ = ["add"]

LIVE = "binance"
REPLAY = "replay:"


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "run",
        help="run the detector on a live or replayed feed; read-only, with metrics on port 8003",
        description="Run the signed-off detector until it is stopped (SIGTERM, Ctrl-C) or the recording ends. Killed "
        "at any moment it goes on where its event log ends.",
    )
    parser.add_argument("--env", choices=("development", "testing", "production"), help="config layer to add")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings above those of the environment, YAML")
    parser.add_argument(
        "--feed",
        default=LIVE,
        metavar="binance|replay:PATH[,PATH]",
        help="the exchange, or recordings: files or folders (default: %(default)s)",
    )
    parser.add_argument("--speed", default="max", metavar="1|N|max", help="of a replay (default: %(default)s)")
    parser.add_argument(
        "--hold",
        action="store_true",
        help="of a replay: wait for a line on standard input before the first bar, and stay up after the last one "
        "until standard input ends",
    )
    parser.add_argument("--symbols", nargs="+", help="default: runner.symbols; of a replay: all it holds")
    parser.add_argument("--log", help="event log (default: runner.log)")
    parser.add_argument("--port", type=int, help="of the exporter (default: exporter.port)")
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    speed = _speed(arguments.speed)
    if arguments.feed != LIVE and not arguments.feed.startswith(REPLAY):
        raise ConfigError(f"--feed: expected {LIVE} or {REPLAY}PATH, found {arguments.feed!r}")
    if arguments.hold and arguments.feed == LIVE:
        raise ConfigError(f"--hold: only a replay can be held; give --feed {REPLAY}PATH, or leave it out")
    from v13.config import load
    from v13.live.runner import Replay, run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    root = project_root(arguments)
    flags: dict[str, object] = {}
    if arguments.symbols:
        flags["runner.symbols"] = list(arguments.symbols)
    if arguments.log:
        flags["runner.log"] = arguments.log
    if arguments.port is not None:
        flags["exporter.port"] = arguments.port
    replay = None
    if arguments.feed != LIVE:
        paths = tuple(Path(p) for p in arguments.feed.removeprefix(REPLAY).split(",") if p)
        replay = Replay(paths, speed, tuple(arguments.symbols or ()), arguments.hold)
    settings = partial(load, root, arguments.env, environ=dict(os.environ), overrides=flags, overlay=arguments.settings)
    run(root, settings, replay=replay, say=log)
    return EXIT_OK


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise ConfigError(f"--speed: expected max or a number above 0, found {text!r}")
    return value
