"""The command line: `v13 <command>`. Data on stdout, logs on stderr; exit codes in v13.errors.

Each command group is one file with `add(commands)`, which registers its parsers; a parser's `run` default does the
work and returns the exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import v13
from v13.errors import EXIT_USAGE, V13Error

__all__ = ["main"]

EXIT_INTERRUPTED = 130  # what shells report for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    # Heavy imports stay out of `v13 --version`.
    from v13.cli import (
        closure,
        config,
        data,
        deploy,
        edge,
        events,
        ledger,
        monitoring,
        noise,
        rollback,
        run,
        signoff,
        steps,
        trust,
        verify,
    )

    parser = argparse.ArgumentParser(
        prog="v13",
        description="Honest validation of a market divergence detector: recorded data in, sign-off bundle out.",
        epilog="Exit codes: 0 done, 1 our fault, 2 usage, 3 bad config or data, 4 gate not met.",
    )
    parser.add_argument("--version", action="version", version=f"v13 {v13.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    signoff.add(commands)
    data.add(commands)
    steps.add(commands)
    edge.add(commands)
    noise.add(commands)
    ledger.add(commands)
    run.add(commands)
    config.add(commands)
    events.add(commands)
    monitoring.add(commands)
    closure.add(commands)
    deploy.add(commands)
    rollback.add(commands)
    verify.add(commands)
    trust.add(commands)
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        return int(arguments.run(arguments))
    except V13Error as error:
        print(f"v13: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("v13: interrupted; nothing was left half-written", file=sys.stderr)
        return EXIT_INTERRUPTED


def entry() -> None:
    """Console-script entry point."""
    sys.exit(main())
