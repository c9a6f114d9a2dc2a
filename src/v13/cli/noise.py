"""`v13 noise`: how often the whole pipeline signs off markets that hold no edge."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from v13.cli.options import log, print_json, project_root, seed
from v13.errors import EXIT_GATE, EXIT_OK

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "noise",
        help="run the whole pipeline on markets without an edge; exit code 0 if it signs off (almost) none",
        description="Run search, selection, buckets, calibration and acceptance on markets of known truth. Print the "
        "share signed off by kind, with its exact 95 % interval, and the criteria that stopped the others. Exit code "
        "0 if at most 1 % of all null markets pass with an upper bound under 2 %, and of no kind over 5 %; else 4.",
    )
    parser.add_argument("--markets", type=int, default=40, help="of each kind (default: %(default)s)")
    parser.add_argument("--kind", default="all", help="all (without an edge), a kind, planted, or given")
    parser.add_argument("--bars", type=int, default=150_000, help="of each market (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=13)
    parser.add_argument("--accuracy", type=float, default=0.65, help="true accuracy of planted markets")
    parser.add_argument(
        "--market",
        metavar="PATH|module:function",
        help="bars the surrogates are made of, or a maker of bars (kind given)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, help="folder that holds config/")
    parser.add_argument("--env", choices=("development", "testing", "production"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from v13 import config
    from v13.research import noise

    loaded = config.load(project_root(arguments), arguments.env, environ=os.environ)
    kinds = noise.KINDS if arguments.kind == "all" else (arguments.kind,)
    with tqdm(desc="markets", unit="", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = noise.run_noise(
            loaded,
            kinds=kinds,
            n_markets=arguments.markets,
            n_bars=arguments.bars,
            seed=arguments.seed,
            true_accuracy=arguments.accuracy,
            given=arguments.market,
            workers=arguments.workers,
            progress=progress,
        )
    for share in (*report.kinds, *([report.all_null] if report.all_null else [])):
        lost = ", ".join(f"{key} {n}" for key, n in share.lost_to.items())
        log(
            f"{share.kind:>18}: {share.n_passed} of {share.n_markets} signed off "
            f"({share.share:.2%}, 95 % {share.low:.2%} to {share.high:.2%}); not passed: {lost or 'none'}"
        )
    print_json(report.to_dict())
    if arguments.kind == noise.PLANTED:
        return EXIT_OK
    for line in report.shortfalls():
        log(f"certificate does not hold: {line}")
    return EXIT_GATE if report.shortfalls() else EXIT_OK
