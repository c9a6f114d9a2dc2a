"""`v13 noise`: how often the whole pipeline signs off markets that hold no edge, and how often those that hold one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import counter, log, print_json, project_root, seed
from v13.errors import EXIT_GATE, EXIT_OK

if TYPE_CHECKING:
    from v13.research.noise_report import NoiseReport

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "noise",
        help="run the whole pipeline on markets without an edge; exit code 0 if it is a full certificate and holds",
        description="Run search, selection, buckets, calibration and acceptance on markets of known truth. Print the "
        "share signed off by kind, with its exact 95 % interval, and the criteria that stopped the others. Exit code "
        "0 (status PASS) only for a full certificate that holds: every kind judged, with events enough; at least 1,000 "
        "null markets in all, of which at most 1 % passed with an upper bound under 2 %, and of no kind over 5 %; and "
        "(--power) planted edges found often enough. Else 4: status FAIL where something speaks against the "
        "pipeline, INSUFFICIENT where nothing does but the run is partial; `lacking` says what is missing.",
    )
    parser.add_argument("--markets", type=_count, default=40, help="of each kind (default: %(default)s)")
    parser.add_argument("--kind", default="all", help="all (without an edge), one of them, planted, or given")
    parser.add_argument("--bars", type=int, default=150_000, help="of each market (default: %(default)s)")
    parser.add_argument("--symbols", type=_count, default=1, help="of each market (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=13)
    parser.add_argument("--power", action="store_true", help="judge planted markets as well: 0.57, 0.60, 0.65")
    parser.add_argument(
        "--market",
        metavar="PATH|module:function",
        help="markets without an edge of your own, judged as the kind `given`: a parquet file of bars (columns of "
        "detector.BAR, as `v13 data bars` writes them; one market), a folder of such files (one market each, all of "
        "them judged), or a callable that takes a numpy Generator and returns bars",
    )
    parser.add_argument(
        "--recording", metavar="PATH", help="recording the surrogates are made of (default: simulated clustered flow)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, help="folder that holds config/")
    parser.add_argument("--env", choices=("development", "testing", "production"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13 import config, measures
    from v13.research import certificate, noise, null_markets

    loaded = config.load(project_root(arguments), arguments.env, environ=os.environ)
    shape = null_markets.Shape(arguments.symbols, arguments.bars)
    with counter("markets") as count:
        report = noise.run_noise(
            loaded,
            kinds=_kinds(arguments),
            n_markets=arguments.markets,
            shape=shape,
            seed=arguments.seed,
            bars=None if arguments.recording is None else null_markets.read_bars(arguments.recording),
            given=arguments.market,
            workers=arguments.workers,
            progress=count,
        )
        if arguments.power or arguments.kind == null_markets.PLANTED:
            report = report.with_power(
                noise.run_power(
                    loaded,
                    cells=certificate.POWER_CELLS,
                    shape=shape,
                    seed=arguments.seed,
                    workers=arguments.workers,
                    progress=count,
                )
            )
    _tell(report)
    print_json(report.to_dict())
    status = report.status()
    for line in report.shortfalls():
        log(f"certificate does not hold: {line}")
    for line in report.lacking():
        log(f"not a full certificate: {line}")
    log(f"certificate: {status.value}")
    return EXIT_OK if status is measures.Status.PASS else EXIT_GATE


def _kinds(arguments: argparse.Namespace) -> tuple[str, ...]:
    from v13.research import null_markets

    if arguments.kind == null_markets.PLANTED:
        return ()
    if arguments.kind != "all":
        return (arguments.kind,)
    return (*null_markets.KINDS, *([] if arguments.market is None else [null_markets.GIVEN]))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


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
            f"events (mean {cell.mean_events:,.0f}): {cell.n_found} of {cell.share.n_markets} found "
            f"({cell.power:.0%}); lost to: {lost or 'none'}"
        )
