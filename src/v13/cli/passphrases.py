"""Passphrases at the command line: from a prompt or a file, never from an argument or the environment.

Arguments and environment show in `ps` and in /proc.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from v13.errors import ConfigError

__all__ = ["add_passphrase_option", "new_passphrase", "passphrase"]


class _Refused(argparse.Action):
    """An option that is there to be refused, without repeating what it was given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        parser.error("a passphrase is never an argument, as `ps` shows those; leave it away to be asked, and change it")


def add_passphrase_option(parser: argparse.ArgumentParser) -> None:
    """Add --passphrase-file.

    `--passphrase` would be taken for its abbreviation, and the passphrase for a file that the message then names.
    """
    parser.add_argument("--passphrase", "--password", action=_Refused, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line is the passphrase, and nobody else may read it (default: asked for)",
    )


def passphrase(arguments: argparse.Namespace) -> bytes:
    """Return the passphrase of a key that is there."""
    if arguments.passphrase_file is not None:
        return _of_file(arguments.passphrase_file)
    return _ask(f"passphrase of {arguments.key}: ")


def new_passphrase(arguments: argparse.Namespace) -> bytes:
    """Return the passphrase of a new key, asked for twice."""
    if arguments.passphrase_file is not None:
        return _of_file(arguments.passphrase_file)
    first = _ask("new passphrase: ")
    if first != _ask("the same again: "):
        raise ConfigError("the two passphrases differ; nothing was made")
    return first


def _of_file(path: Path) -> bytes:
    from v13.release.keys import read_passphrase

    return read_passphrase(path)


def _ask(prompt: str) -> bytes:
    # Without a terminal getpass would read stdin and warn that it echoes.
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the passphrase; give --passphrase-file")
    return getpass.getpass(prompt).encode()
