"""`v13 search`, `v13 calibrate`, `v13 accept`: the stages without notebooks, for scripts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from v13.cli.options import add_run_options, counter, log, open_from, print_json
from v13.errors import EXIT_GATE, EXIT_OK

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the commands."""
    for name, text, run in (
        ("search", "search the grid on the search part; writes best_global.yaml and its company", _search),
        ("calibrate", "fit the score calibration on the search part", _calibrate),
        ("accept", "judge the released parameters on the holdout; exit code 0 on PASS, 4 otherwise", _accept),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        add_run_options(parser)
        if name == "search":
            parser.add_argument("--workers", type=int, help="threads (default: one a processor)")
            parser.add_argument(
                "--scheduler", metavar="tcp://HOST:PORT", help="judge on a Dask cluster whose workers have this v13"
            )
        parser.set_defaults(run=run)


def _search(arguments: argparse.Namespace) -> int:
    from v13.research import search, stages

    run = open_from(arguments)
    with counter("settings") as count:
        result = search.search(run, count, scheduler=arguments.scheduler, workers=arguments.workers)
    search.write_search(run, result)
    verdict = stages.conclude_search(result)
    log(f"{verdict.status}: {verdict.summary}")
    print(Path(arguments.out) / "best_global.yaml")
    return EXIT_OK


def _calibrate(arguments: argparse.Namespace) -> int:
    from v13.research import stages

    run = open_from(arguments)
    result = stages.calibrate_run(run)
    stages.write_calibration(run, result)
    verdict = stages.conclude_calibration(result)
    log(f"{verdict.status}: {verdict.summary}")
    print(Path(arguments.out) / stages.CALIBRATION_FILE)
    return EXIT_OK


def _accept(arguments: argparse.Namespace) -> int:
    from v13.research import stages

    run = open_from(arguments)
    result = stages.accept_run(run)
    stages.write_acceptance(run, result)
    verdict = stages.conclude_acceptance(result)
    log(f"{verdict.status}: {verdict.summary}")
    print_json(result.verdict.to_dict())
    return EXIT_OK if verdict.status == "PASS" else EXIT_GATE
