"""`v13 verify`: who signed a bundle, whether it is whole, and whether its verdict follows from its data."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import counter, log, print_json
from v13.errors import EXIT_GATE, EXIT_OK, ConfigError, ReleaseError, StoreError

if TYPE_CHECKING:
    from v13.research.verification import Compared, Verification

__all__ = ["add"]

HASH = re.compile(r"[0-9a-f]{64}")
SHOWN_DIGITS = 16  # of a hash in the table; whole ones are compared, and --json has them


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "verify",
        help="derive the verdict of a bundle anew and compare; exit code 0 if it matches, 4 otherwise",
        description="Check the signature and every file of a sign-off bundle, then derive its verdict again from the "
        "attached data, without network, and compare bit for bit. The holdout ledger is neither read nor charged. Exit "
        "code 0 if all matches, 4 if not, 3 on input that cannot be read.",
    )
    parser.add_argument("bundle", type=Path, metavar="reports/RUN")
    parser.add_argument(
        "--key", type=Path, nargs="+", metavar="PUB", help="trusted public keys (default: no signature is asked for)"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", metavar="PATH", help="start from the recordings, not from the attached bars"
    )
    parser.add_argument(
        "--no-certificate", action="store_true", help="take the noise certificate as attached, not judged anew"
    )
    parser.add_argument("--workers", type=int, help="processes of the noise certificate (default: one a processor)")
    parser.add_argument("--json", action="store_true", help="everything, for machines")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13.release.keys import read_public_keys

    if not (arguments.bundle / "manifest.json").is_file():
        raise ConfigError(f"{arguments.bundle}: expected the folder of a sign-off bundle, with a manifest.json")
    for path in arguments.data or []:
        if not path.exists():
            raise ConfigError(f"--data: {path}: no such file or folder")
    try:
        keys = None if arguments.key is None else read_public_keys(arguments.key)
    except ReleaseError as error:
        raise ConfigError(f"--key: {error}") from error
    try:
        trusted = _trusted(arguments.bundle, keys)
    except ReleaseError as error:
        # Nothing is computed from a bundle that is not what was signed: its files are not to be opened.
        if arguments.json:
            print_json({"matches": False, "refused": str(error)})
        else:
            print(f"REFUSED  {error}\n\ndoes not match: nothing was derived from a bundle that cannot be trusted")
        return EXIT_GATE
    found = _derived(arguments)
    if arguments.json:
        print_json(_document(trusted, found))
    else:
        _print(trusted, found)
    return EXIT_OK if found.matches else EXIT_GATE


def _trusted(bundle: Path, keys: Any) -> list[tuple[str, str]]:
    """Return what is known of signature and files, in words."""
    from v13.release.envelope import stamp
    from v13.release.keys import short
    from v13.release.trust import read_bundle, trust_bundle

    if keys is None:
        n_files = len(read_bundle(bundle).manifest["outputs"])
        return [
            ("signature", "NOT CHECKED: no --key was given, so anybody may have made this bundle"),
            ("files", f"{n_files} as the manifest has them"),
        ]
    trusted = trust_bundle(bundle, keys, now=datetime.now(UTC))
    return [
        ("signature", f"of key {short(trusted.key_id)}, {stamp(trusted.signed)}, until {stamp(trusted.expires)}"),
        ("files", f"{trusted.n_files} as they were signed"),
    ]


def _derived(arguments: argparse.Namespace) -> Verification:
    from v13.research.verification import rederive

    with counter("markets", quiet=arguments.quiet) as count:
        try:
            return rederive(
                arguments.bundle,
                data=arguments.data,
                with_certificate=not arguments.no_certificate,
                workers=arguments.workers,
                say=(lambda _: None) if arguments.quiet else log,
                progress=count,
            )
        except StoreError as error:
            raise ConfigError(f"{arguments.bundle}: cannot be derived anew: {error}") from error


def _print(trusted: list[tuple[str, str]], found: Verification) -> None:
    for what, text in trusted:
        print(f"{what}: {text}")
    print()
    width = max(len(row.what) for row in (*found.rows, *found.told))
    print(f"{'':9} {'what':{width}}  {'expected':{SHOWN_DIGITS}}  found")
    for row in found.rows:
        print(_line("same" if row.is_same else "DIFFERENT", row, width))
    for row in found.told:
        print(_line("(told)", row, width))
    for text in found.taken:
        print(f"taken as attached: {text}")
    if found.not_compared:
        print(f"not compared (notebooks, their pages): {', '.join(found.not_compared)}")
    wrong = [row for row in found.rows if not row.is_same]
    print()
    if found.matches:
        print(f"matches: all {len(found.rows)} are the same, bit for bit")
    else:
        print(f"does not match: {len(wrong)} of {len(found.rows)} differ, first: {wrong[0].what}")
        if wrong[0].what == "code":
            print("the code is another version than the bundle's: verify with that one (its release folder has a copy)")


def _line(word: str, row: Compared, width: int) -> str:
    note = f"  ({row.note})" if row.note else ""
    return f"{word:9} {row.what:{width}}  {_shown(row.expected):{SHOWN_DIGITS}}  {_shown(row.found)}{note}"


def _shown(text: str) -> str:
    return text[:SHOWN_DIGITS] if HASH.fullmatch(text) else text


def _document(trusted: list[tuple[str, str]], found: Verification) -> dict[str, Any]:
    return {
        "matches": found.matches,
        **dict(trusted),
        "compared": [_facts(row) for row in found.rows],
        "told": [_facts(row) for row in found.told],
        "taken": list(found.taken),
        "not_compared": list(found.not_compared),
    }


def _facts(row: Compared) -> dict[str, Any]:
    return {"what": row.what, "expected": row.expected, "found": row.found, "same": row.is_same, "note": row.note}
