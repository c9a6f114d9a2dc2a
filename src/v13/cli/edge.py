"""`v13 edge`: what one fixed setting shows on recordings, by symbol, source, kind and horizon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from v13.cli.options import add_run_options, log, open_from, print_json
from v13.errors import EXIT_OK

if TYPE_CHECKING:
    from v13.research.edge import EdgeRow

__all__ = ["add"]

HEAD = (
    "symbol",
    "source",
    "kind",
    "bars ahead",
    "n",
    "accuracy",
    "95 %",
    "p (shifts)",
    "corrected",
    "mean, bp",
    "could show",
)


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "edge",
        help="accuracy of the configured setting by symbol, source, kind and horizon; nothing is tuned",
        description="Run the configured detector (config/system.yaml: the guide's setting) and print its accuracy cell "
        "by cell, as a markdown table or JSON. The search part alone, unless --whole: that is a look at the holdout, "
        "is entered in the ledger, and makes a later sign-off on this record harder to pass.",
    )
    add_run_options(parser)
    parser.add_argument("--whole", action="store_true", help="the whole record, holdout included; costs a look")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13.research.edge import edge_rows

    run = open_from(arguments)
    rows = edge_rows(run, whole=arguments.whole)
    if arguments.json:
        print_json([row.to_dict() for row in rows])
        return EXIT_OK
    if arguments.whole:
        log("the whole record was looked at: entered in the holdout ledger")
    print(
        "| symbol | source | kind | bars ahead | n | accuracy | 95 % | p (shifts) | corrected | mean, bp | could show |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(_line(row))
    return EXIT_OK


def _line(row: EdgeRow) -> str:
    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    interval = "" if row.low is None else f"{shown(row.low, 3)} to {shown(row.high, 3)}"
    cells = (
        row.symbol,
        row.source,
        row.kind,
        str(row.horizon_bars),
        f"{row.n:,}",
        shown(row.accuracy, 3),
        interval,
        shown(row.p, 4),
        shown(row.p_corrected, 3),
        shown(row.mean_return_bp, 2),
        shown(row.minimum_detectable, 3),
    )
    return f"| {' | '.join(cells)} |"
