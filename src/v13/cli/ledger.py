"""`v13 ledger`: every look at a holdout, and whether the ledger is whole."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import log, print_json, project_root
from v13.errors import EXIT_OK

if TYPE_CHECKING:
    from v13.store import Look, Span

__all__ = ["add"]

SHOWN_SYMBOLS = 3
SHOWN_KEY = 12  # hex digits: enough to tell runs apart


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "ledger",
        help="list the looks at holdouts and check the chain of the ledger",
        description="List every look at a holdout (runs/holdout_ledger.sqlite) with its number: the k-th look is "
        "judged at alpha / 2^(k-1). Exit code 1 if the ledger is damaged or a row was changed.",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="everything, as JSON")
    how.add_argument("--verify", action="store_true", help="only check the chain")
    parser.add_argument("--root", type=Path, help="folder that holds config/")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13 import store

    path = project_root(arguments) / store.HOLDOUT_LEDGER
    ledger = store.HoldoutLedger(path)
    head = ledger.verify()
    looks, n_rows = ledger.looks_at(), len(ledger.rows())
    if arguments.json:
        print_json(
            {
                "path": str(path),
                "n_rows": n_rows,
                "head_sha256": head,
                "looks": [asdict(look) | {"alpha_share": look.alpha_share} for look in looks],
            }
        )
        return EXIT_OK
    if arguments.verify:
        print(f"{path}: the chain holds: {n_rows} row(s), the last {head}")
        return EXIT_OK
    if looks:
        _print_table([_HEAD, *(_cells(look) for look in looks)])
    else:
        log(f"{path}: nobody has looked at a holdout yet")
    return EXIT_OK


_HEAD = ("look", "time (UTC)", "verdict", "simulated", "symbols", "holdout (UTC)", "run key")


def _cells(look: Look) -> tuple[str, ...]:
    return (
        str(look.number),
        look.first_seen_utc.removesuffix("+00:00"),
        look.verdict or "none",
        "yes" if look.simulated else "no",
        _symbols(look.holdout),
        _reach(look.holdout),
        look.key[:SHOWN_KEY],
    )


def _symbols(spans: Sequence[Span]) -> str:
    names = sorted({span.symbol for span in spans})
    more = f" +{len(names) - SHOWN_SYMBOLS}" if len(names) > SHOWN_SYMBOLS else ""
    return ",".join(names[:SHOWN_SYMBOLS]) + more or "none"


def _reach(spans: Sequence[Span]) -> str:
    if not spans:
        return "empty"
    ends = (min(span.from_ms for span in spans), max(span.to_ms for span in spans))
    return " to ".join(datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M") for ms in ends)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
