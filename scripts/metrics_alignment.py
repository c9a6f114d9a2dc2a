#!/usr/bin/env python3
"""Write what watches production into a folder, then hold its dashboard against an event log, on servers made for it."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from v13.cli import main
from v13.cli.alignment import SPEED, align
from v13.errors import V13Error

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog="Exit code 0: it closes; 4: it does not.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="such as runs/metrics_test")
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="PATH", help="recordings (simulated)")
    parser.add_argument("--speed", type=float, default=SPEED, help="of the replay (default: %(default)g)")
    parser.add_argument("--report", action="store_true", help="also prove hot reload, for `v13 signoff --live DIR`")
    arguments = parser.parse_args()
    code = main(["monitoring", "build", "--out", str(arguments.out), "--root", str(ROOT)])
    if code:
        raise SystemExit(code)
    try:
        say = partial(print, flush=True)
        raise SystemExit(
            align(arguments.out, ROOT, say, data=arguments.data, speed=arguments.speed, report=arguments.report)
        )
    except V13Error as error:
        print(f"v13: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
