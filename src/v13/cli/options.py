"""Options several commands share, and how they become a run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from v13.errors import ConfigError
from v13.research.notebook import demo_data, find_root
from v13.research.run import Run, open_run

__all__ = ["add_run_options", "data_paths", "log", "open_from", "print_json", "project_root"]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add --data, --demo, --symbol, --out, --env, --seed and --set."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="recordings: files or folders (Binance dumps as zip or CSV, parquet tapes, klines)",
    )
    source.add_argument("--demo", action="store_true", help="the embedded simulated market (made once, in runs/demo)")
    parser.add_argument("--symbol", help="only this symbol of the recordings")
    parser.add_argument("--out", default="runs/real_test", help="folder of the artifacts (default: %(default)s)")
    parser.add_argument("--env", choices=("development", "testing", "production"), help="config layer to add")
    parser.add_argument("--seed", type=int, help="default: run.seed of the config")
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")


def project_root(arguments: argparse.Namespace) -> Path:
    """Return the folder that holds config/."""
    return Path(arguments.root) if arguments.root else find_root(Path.cwd())


def data_paths(arguments: argparse.Namespace, root: Path) -> list[Path]:
    """Return the recordings named on the command line, or the demo's.

    Raises
    ------
    ConfigError
        A path does not exist.
    """
    if arguments.demo:
        if not list((root / "runs" / "demo").glob("*.parquet")):
            log("simulating the demo market into runs/demo")
        return demo_data(root)
    paths = [Path(p) for p in arguments.data]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"--data: {path}: no such file or folder")
    return paths


def open_from(arguments: argparse.Namespace) -> Run:
    """Open the run the options describe."""
    root = project_root(arguments)
    return open_run(
        data_paths(arguments, root),
        root=root,
        out=Path(arguments.out),
        symbol=arguments.symbol,
        env=arguments.env,
        seed=arguments.seed,
    )


def log(text: str) -> None:
    """Write one line to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    print(json.dumps(document, indent=2, sort_keys=True))
