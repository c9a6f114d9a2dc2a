"""Options several commands share, and how they become a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from v13.errors import ConfigError

if TYPE_CHECKING:  # research takes seconds to import: a typing error is told before that
    from v13.research.run import Run

__all__ = [
    "add_run_options",
    "add_site_options",
    "check_paths",
    "counter",
    "data_paths",
    "log",
    "login",
    "open_from",
    "print_json",
    "project_root",
    "reason",
    "seed",
]

REASON_CHARACTERS: Final = 500


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add --data or --demo, --symbol, --out, --env, --seed and --root."""
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
    parser.add_argument("--seed", type=seed, help="default: run.seed of the config")
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")


def add_site_options(parser: argparse.ArgumentParser) -> None:
    """Add --env and --root."""
    parser.add_argument(
        "--env",
        choices=("development", "testing", "production"),
        default="production",
        help="config layer (default: %(default)s)",
    )
    parser.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")


def seed(text: str) -> int:
    """Read a seed: a whole number from 0 to 2^32 - 1."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise ValueError(text)
    return value


def reason(text: str) -> str:
    """Read a reason: one line that can be shown, for it stays in the ledger and is told on every terminal."""
    if not text.strip() or not text.isprintable() or len(text) > REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"expected one line of at most {REASON_CHARACTERS} characters to be read")
    return text


def project_root(arguments: argparse.Namespace) -> Path:
    """Return the folder that holds config/."""
    if arguments.root:
        return Path(arguments.root)
    from v13.config.loader import find_root

    return find_root(Path.cwd())


def data_paths(arguments: argparse.Namespace, root: Path) -> list[Path]:
    """Return the recordings named on the command line, or the demo's."""
    from v13.research.notebook import demo_data

    if not arguments.demo:
        return [Path(p) for p in arguments.data]
    if not list((root / "runs" / "demo").glob("*.parquet")):
        log("simulating the demo market into runs/demo")
    return demo_data(root)


def check_paths(arguments: argparse.Namespace) -> None:
    """Refuse recordings that do not exist and outputs that are files, before anything heavy is imported.

    Raises
    ------
    ConfigError
        Naming the option and the path.
    """
    for text in arguments.data or []:
        if not Path(text).exists():
            raise ConfigError(f"--data: {text}: no such file or folder")
    for option in ("out", "reports"):
        text = getattr(arguments, option, None)
        if text is not None and Path(text).exists() and not Path(text).is_dir():
            raise ConfigError(f"--{option}: {text} is a file; give a folder")


def open_from(arguments: argparse.Namespace) -> Run:
    """Open the run the options describe."""
    check_paths(arguments)
    from v13.research.run import open_run

    root = project_root(arguments)
    return open_run(
        data_paths(arguments, root),
        root=root,
        out=Path(arguments.out),
        symbol=arguments.symbol,
        env=arguments.env,
        seed=arguments.seed,
    )


@contextmanager
def counter(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show progress and an estimate of the time left on stderr, if a terminal; gives a callable (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit="", disable=True if quiet else None) as bar:

        def count(done: int, total: int) -> None:
            if bar.total != total:
                bar.reset(total)
                bar.initial = done  # what was kept from before says nothing about the pace
            bar.update(done - bar.n)

        yield count


def log(text: str) -> None:
    """Write one line to stderr, if somebody reads it.

    A guard's reader is its supervisor: killed, it must not take along the guard, which is to start another one.
    """
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def login(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """Return user and password of --user and --password-file, or None where neither is given.

    Raises
    ------
    ConfigError
        One is given without the other, or the file cannot be read.
    """
    if (arguments.user is None) != (arguments.password_file is None):
        raise ConfigError("--user and --password-file belong together")
    if arguments.user is None:
        return None
    try:
        return str(arguments.user), arguments.password_file.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file: {arguments.password_file}: cannot be read: {error}") from error


def print_json(document: Any) -> None:
    """Write a document to stdout."""
    print(json.dumps(document, indent=2, sort_keys=True))
