"""`v13 rollback`: stop a release now, or restore a backup; and which backups there are."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any

from v13.cli.deploy import ended, open_rig, withdrawn
from v13.cli.options import add_site_options, print_json, reason
from v13.errors import EXIT_GATE, EXIT_OK, ReleaseError, StoreError

__all__ = ["add", "add_options"]


def add(commands: Any) -> None:
    """Register the command."""
    text = "stop what was deployed (emergency), or restore a backup (full); list the backups"
    add_options(commands.add_parser("rollback", help=text, description=text))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a rollback, those of the deployment guide's script."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--type", choices=("emergency", "full"), help="stop at once; or restore what served before")
    what.add_argument("--list-backups", action="store_true", help="every backup, its release, and whether it is whole")
    parser.add_argument(
        "--backup-timestamp", type=int, metavar="N", help="Unix time of the backup (default: the newest)"
    )
    parser.add_argument("--reason", type=reason, help="why; it is entered in the ledger")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="of --list-backups, for machines")
    add_site_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from v13.release.rollback import roll_back
    from v13.release.rollback_target import plan

    if arguments.list_backups:
        return _list(arguments)
    rig = open_rig(arguments)
    if arguments.dry_run:
        for line in plan(rig, arguments.type, arguments.backup_timestamp):
            print(f"would {line}")
        return EXIT_OK
    if not arguments.reason:
        raise ReleaseError("--reason: say why; it is entered in the ledger")
    if arguments.backup_timestamp is None and withdrawn(rig, arguments.reason):
        return EXIT_OK
    done = roll_back(rig, kind=arguments.type, reason=arguments.reason, stamp=arguments.backup_timestamp)
    return ended(rig, done)


def _list(arguments: argparse.Namespace) -> int:
    from v13.release.backup import check_backup, list_backups, read_backup

    rig = open_rig(arguments)
    site, state = rig.site, rig.ledger.state()
    rows = []
    for stamp in list_backups(site):
        row: dict[str, Any] = {"stamp": stamp, "created_utc": "?"}
        try:
            row["created_utc"] = datetime.fromtimestamp(stamp, UTC).isoformat()
            found = read_backup(site, stamp)
            row |= {"release": found["release"], "reason": str(found.get("reason", ""))}
            # The newest is often of the very release that is bad now.
            row |= {"is_stable": row["release"] == state.stable, "was_rolled_back": row["release"] in state.condemned}
            check_backup(site, stamp)
            row["whole"] = True
        except (ReleaseError, StoreError, ValueError, OverflowError, OSError) as error:  # no Unix time is so large
            row |= {"whole": False, "problem": str(error)}
        rows.append(row)
    if arguments.json:
        print_json(rows)
    elif not rows:
        print(f"no backups in {site.backups}: the first deploy has nothing to back up")
    else:
        for row in rows:
            whole = "whole" if row["whole"] else f"DAMAGED: {row['problem']}"
            note = "  (stable now)" * row.get("is_stable", False)
            note += "  (was rolled back)" * row.get("was_rolled_back", False)
            about = f"{row['stamp']}  {row['created_utc']}  {row.get('release', '?')}  {row.get('reason', '')}"
            print(f"{about}  {whole}{note}")
    return EXIT_OK if all(row["whole"] for row in rows) else EXIT_GATE
