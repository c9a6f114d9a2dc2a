#!/usr/bin/env python3
"""Write what watches production into a folder, then hold its dashboard against an event log, on servers made for it."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from v13.cli import main
from v13.cli.alignment import align
from v13.errors import V13Error
from v13.research.run import open_run

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog="Exit code 0: it closes; 4: it does not.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="such as runs/metrics_test")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="recordings, of which the end of the search part is replayed with released parameters "
        "(default: a simulated hour, with parameters of its own)",
    )
    parser.add_argument(
        "--released",
        type=Path,
        metavar="DIR",
        help="of a sign-off's artifacts (default: what the runner's settings name)",
    )
    parser.add_argument("--speed", type=float, help="of the replay (default: 240 bars a second)")
    parser.add_argument("--report", action="store_true", help="also prove hot reload, for `v13 signoff --live DIR`")
    arguments = parser.parse_args()
    code = main(["monitoring", "build", "--out", str(arguments.out), "--root", str(ROOT)])
    if code:
        raise SystemExit(code)
    try:
        run = None if arguments.data is None else open_run(arguments.data, root=ROOT, out=arguments.out)
        raise SystemExit(
            align(
                arguments.out,
                ROOT,
                partial(print, flush=True),
                run=run,
                released=arguments.released,
                speed=arguments.speed,
                report=arguments.report,
            )
        )
    except V13Error as error:
        print(f"v13: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
