"""`v13 noise`: how often the whole pipeline signs off markets that hold no edge, and how often those that hold one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import counter, log, print_json, project_root, seed
from v13.errors import EXIT_GATE, EXIT_OK

if TYPE_CHECKING:
    from v13.research.noise import NoiseReport

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "noise",
        help="run the whole pipeline on markets without an edge; exit code 0 if it signs off (almost) none",
        description="Run search, selection, buckets, calibration and acceptance on markets of known truth. Print the "
        "share signed off by kind, with its exact 95 % interval, and the criteria that stopped the others. Exit code "
        "0 if at least 1,000 null markets were judged, at most 1 % of all of them passed with an upper bound under "
        "2 %, and of no kind over 5 %, and (with --power) planted edges are found often enough; else 4.",
    )
    parser.add_argument("--markets", type=int, default=40, help="of each kind (default: %(default)s)")
    parser.add_argument("--kind", default="all", help="all (without an edge), one of them, planted, or given")
    parser.add_argument("--bars", type=int, default=150_000, help="of each market (default: %(default)s)")
    parser.add_argument("--symbols", type=int, default=1, help="of each market (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=13)
    parser.add_argument("--power", action="store_true", help="judge planted markets as well: 0.57, 0.60, 0.65")
    parser.add_argument(
        "--market",
        metavar="PATH|module:function",
        help="recordings the surrogates are made of, or a maker of bars (kind given)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, help="folder that holds config/")
    parser.add_argument("--env", choices=("development", "testing", "production"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13 import config
    from v13.research import certificate, noise, null_markets

    loaded = config.load(project_root(arguments), arguments.env, environ=os.environ)
    only_planted = arguments.kind == null_markets.PLANTED
    kinds = null_markets.KINDS if arguments.kind == "all" else () if only_planted else (arguments.kind,)
    with counter("markets") as count:
        report = noise.run_noise(
            loaded,
            kinds=kinds,
            n_markets=arguments.markets,
            shape=null_markets.Shape(arguments.symbols, arguments.bars),
            seed=arguments.seed,
            given=arguments.market,
            workers=arguments.workers,
            progress=count,
        )
        if arguments.power or only_planted:
            cells = certificate.POWER_CELLS
            report = report.with_power(
                noise.run_power(loaded, cells=cells, seed=arguments.seed, workers=arguments.workers, progress=count)
            )
    _tell(report)
    print_json(report.to_dict())
    if only_planted:
        return EXIT_OK
    for line in report.shortfalls():
        log(f"certificate does not hold: {line}")
    return EXIT_GATE if report.shortfalls() else EXIT_OK


def _tell(report: NoiseReport) -> None:
    for share in (*report.kinds, *([report.all_null] if report.all_null else [])):
        lost = ", ".join(f"{key} {n}" for key, n in share.lost_to.items())
        log(
            f"{share.kind:>18}: {share.n_passed} of {share.n_markets} signed off "
            f"({share.share:.2%}, 95 % {share.low:.2%} to {share.high:.2%}); not passed: {lost or 'none'}"
        )
    for cell in report.power:
        lost = ", ".join(f"{key} {n}" for key, n in cell.share.lost_to.items())
        log(
            f"planted, true accuracy {cell.accuracy:.2f} (measured {cell.mean_truth:.3f}), {cell.n_events:,} holdout "
            f"events (mean {cell.mean_events:,.0f}): {cell.share.n_passed} of {cell.share.n_markets} signed off "
            f"({cell.share.share:.0%}, 95 % {cell.share.low:.0%} to {cell.share.high:.0%}); lost to: {lost or 'none'}"
        )
