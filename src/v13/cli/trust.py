"""`v13 key`, `v13 sign`, `v13 override`: keys, and what is signed with them. See docs/TRUST.md."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from v13.cli.options import log
from v13.cli.passphrases import add_passphrase_option, new_passphrase, passphrase
from v13.errors import EXIT_OK

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the commands."""
    _add_key(commands)
    _add_sign(commands)
    _add_override(commands)


def _add_key(commands: Any) -> None:
    group = commands.add_parser("key", help="make a signing key, or tell a public key's id")
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    parser = actions.add_parser(
        "make",
        help="make a pair of ed25519 keys",
        description="Make PATH (private, encrypted under a passphrase, mode 0600) and PATH.pub. Nothing is "
        "overwritten. Make it on a machine that neither trades nor deploys; only PATH.pub leaves it.",
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    add_passphrase_option(parser)
    parser.set_defaults(run=_make)
    parser = actions.add_parser("show", help="print the id of a public key")
    parser.add_argument("path", type=Path, metavar="PATH.pub")
    parser.set_defaults(run=_show)


def _add_sign(commands: Any) -> None:
    parser = commands.add_parser(
        "sign",
        help="sign a sign-off bundle",
        description="Check every file of a bundle against its manifest and sign it: an in-toto statement in a DSSE "
        "envelope, signoff.dsse.json.",
    )
    parser.add_argument("bundle", type=Path, metavar="reports/RUN")
    _add_signer(parser)
    parser.add_argument("--days", type=int, default=90, help="it expires after so many (default: %(default)s)")
    parser.set_defaults(run=_sign)


def _add_override(commands: Any) -> None:
    parser = commands.add_parser(
        "override",
        help="sign that one check of a deploy may fail, for one bundle, for a reason, for some days",
        description="Sign an override. The check stays failed; the deploy goes on, and the first page of its record "
        "shows check, reason and key.",
    )
    parser.add_argument("bundle", type=Path, metavar="reports/RUN")
    parser.add_argument(
        "--check", required=True, metavar="KEY", help="key of the check, as `v13 deploy check` shows it"
    )
    parser.add_argument("--reason", required=True, help="in one line; it stands in the record")
    parser.add_argument("--days", type=float, default=1.0, help="it expires after so many, at most 30 (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/deploy/overrides"), help="folder it goes to (default: %(default)s)"
    )
    _add_signer(parser)
    parser.set_defaults(run=_override)


def _add_signer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, required=True, metavar="PRIV", help="private key of `v13 key make`")
    add_passphrase_option(parser)


def _make(arguments: argparse.Namespace) -> int:
    from v13.release.keys import make_key

    key_id = make_key(arguments.path, new_passphrase(arguments))
    log(f"private: {arguments.path}  (encrypted; keep it off every machine that deploys)")
    log(f"public:  {arguments.path}.pub")
    print(key_id)
    return EXIT_OK


def _show(arguments: argparse.Namespace) -> int:
    from v13.release.keys import read_public_key

    print(read_public_key(arguments.path).keyid)
    return EXIT_OK


def _sign(arguments: argparse.Namespace) -> int:
    from v13.release.keys import read_private_key
    from v13.release.trust import read_bundle, sign_with

    bundle = read_bundle(arguments.bundle)
    for name, value in bundle.predicate.items():  # before the passphrase: whoever signs sees what
        log(f"{name}: {value}")
    signer = read_private_key(arguments.key, passphrase(arguments))
    print(sign_with(bundle, signer, now=datetime.now(UTC), valid_days=arguments.days))
    return EXIT_OK


def _override(arguments: argparse.Namespace) -> int:
    from v13.release.keys import read_private_key
    from v13.release.overrides import write_override
    from v13.release.trust import read_bundle

    bundle = read_bundle(arguments.bundle)
    log(f"{arguments.check} may fail for {bundle.folder.name} ({bundle.signoff['verdict']}): {arguments.reason}")
    signer = read_private_key(arguments.key, passphrase(arguments))
    path = write_override(
        arguments.out,
        signer,
        check=arguments.check,
        bundle_sha256=bundle.sha256,
        reason=arguments.reason,
        now=datetime.now(UTC),
        valid_days=arguments.days,
    )
    print(path)
    return EXIT_OK
