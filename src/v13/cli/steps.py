"""`v13 search`, `v13 calibrate`, `v13 accept`: the stages without notebooks, for scripts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from v13.cli.options import add_run_options, log, open_from, print_json
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
        parser.set_defaults(run=run)


def _search(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from v13.research import search, stages

    run = open_from(arguments)
    with tqdm(desc="settings", unit="", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = search.search(run, progress)
    search.write_search(run, result)
    verdict = stages.conclude_search(result)
    log(f"{verdict.status}: {verdict.summary}")
    print(Path(arguments.out) / "best_global.yaml")
    return EXIT_OK


def _calibrate(arguments: argparse.Namespace) -> int:
    from v13.research import stages

    run = open_from(arguments)
    result = stages.calibrate(run)
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
