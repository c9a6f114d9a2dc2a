#!/usr/bin/env python3
"""Hot reload, proved on a runner made for it (--test) or watched on one that runs (--watch)."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path

from v13.live.reload_facts import watch
from v13.live.reload_proof import prove

CONFIG = Path(__file__).resolve().parents[1] / "config"
say = partial(print, flush=True)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--test", action="store_true", help="prove it step by step; exit code 0 if all is as expected")
    what.add_argument("--watch", action="store_true", help="print each reload of a running runner until Ctrl-C")
    parser.add_argument("--url", default="http://127.0.0.1:8003/metrics", help="for --watch (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.test:
        raise SystemExit(0 if all(step.is_right for step in prove(CONFIG, say)) else 1)
    with contextlib.suppress(KeyboardInterrupt):
        watch(arguments.url, say)
