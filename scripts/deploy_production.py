#!/usr/bin/env python3
"""The deployment guide's deploy script: `--action check`, `deploy` or `rollback`, with the options of `v13 deploy`."""

from __future__ import annotations

import argparse
import sys

from v13.cli import main

ACTIONS = {"check": ["deploy", "check"], "deploy": ["deploy", "run"], "rollback": ["rollback"]}


def arguments_of(argv: list[str]) -> list[str]:
    """Return the arguments of `v13` that the guide's command stands for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Further options go to the command: --env, --root, --reason, --dry-run, --json."
    )
    parser.add_argument("--action", choices=tuple(ACTIONS), required=True)
    known, rest = parser.parse_known_args(argv)
    named = {text.partition("=")[0] for text in rest}
    more = ["--type", "full"] if known.action == "rollback" and not {"--type", "--list-backups"} & named else []
    return [*ACTIONS[known.action], *more, *rest]


if __name__ == "__main__":
    sys.exit(main(arguments_of(sys.argv[1:])))
