"""`v13 signoff`: the whole way from recordings to the sign-off bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import add_run_options, check_paths, counter, data_paths, log, project_root

if TYPE_CHECKING:
    from v13.research.run import Run

__all__ = ["add"]

LIVE_DIR = "runs/metrics_test"


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "signoff",
        help="run the notebooks on recordings and write the sign-off bundle",
        description="Run the notebooks on recordings and write the sign-off bundle. "
        "Exit code 0 on PASS, 4 on FAIL or INSUFFICIENT.",
    )
    add_run_options(parser)
    parser.add_argument("--reports", default="reports", help="folder the bundle goes to (default: %(default)s)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="with a full noise certificate: 1,001 markets without an edge, about half an hour",
    )
    parser.add_argument("--workers", type=int, help="processes of the noise certificate (default: one a processor)")
    live = parser.add_mutually_exclusive_group()
    live.add_argument(
        "--live",
        type=Path,
        metavar="DIR",
        help="folder of `scripts/metrics_alignment.py --report`: also judge latencies, closure and hot reload by it",
    )
    live.add_argument(
        "--with-live",
        type=Path,
        nargs="?",
        const=Path(LIVE_DIR),
        metavar="DIR",
        help="make that report on the way, with the parameters this run releases: a runner replays the end of the "
        f"search part, scraped by a Prometheus; about a minute and a half more (DIR: {LIVE_DIR})",
    )
    parser.add_argument(
        "--attach-mb",
        type=int,
        default=256,
        metavar="MB",
        help="attach the bars to the bundle up to this size, for `v13 verify` (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    check_paths(arguments)
    from v13.research.signoff import sign_off

    root = project_root(arguments)
    say: Callable[[str], None] = (lambda _: None) if arguments.quiet else log
    rehearse = None if arguments.with_live is None else _rehearsal(arguments, root, say)
    with counter("markets", quiet=arguments.quiet) as count:
        result = sign_off(
            data_paths(arguments, root),
            root=root,
            out=Path(arguments.out),
            reports=Path(arguments.reports),
            symbol=arguments.symbol,
            env=arguments.env,
            seed=arguments.seed,
            full=arguments.full,
            workers=arguments.workers,
            progress=not arguments.quiet,
            count=count,
            live=arguments.live,
            rehearse=rehearse,
            attach_bytes=arguments.attach_mb * 1_000_000,
            say=say,
        )
    badge = "  (SIMULATED data)" if result.simulated else ""
    for criterion in result.document["criteria"]:
        print(f"{criterion['status']:>14}  {criterion['title']}: {criterion['detail']}")
    if not result.installed:
        print("config/calibration keeps its map of recorded data: this run's is simulated or empty")
    print(f"\nreport:  {result.bundle / 'index.html'}")
    print(f"verdict: {result.verdict}{badge}")
    sys.stdout.flush()
    return result.exit_code


def _rehearsal(arguments: argparse.Namespace, root: Path, say: Callable[[str], None]) -> Callable[[Run, Path], Path]:
    """Build what watches production now, so that a bad table is told at once; return what makes the report later."""
    from v13.cli.alignment import align
    from v13.cli.monitoring import build

    out: Path = arguments.with_live
    build(out, root, arguments.env)

    def rehearse(run: Run, released: Path) -> Path:
        say("In a runner")
        align(out, root, say, run=run, released=released, report=True, show=say)
        return out

    return rehearse
