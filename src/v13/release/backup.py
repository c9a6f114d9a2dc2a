"""Backups: a release and what it served, copied and hashed under its Unix time, and put back byte by byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release.build import RELEASE_FILE, check_release, read_release
from v13.release.folders import copy_folder, differences, listing, protect, remove_folder
from v13.release.ledger import State, whoami
from v13.release.site import Site

__all__ = [
    "BACKUP_FILE",
    "check_backup",
    "ensure_backup",
    "list_backups",
    "make_backup",
    "prune_backups",
    "read_backup",
    "restore",
]

BACKUP_FILE: Final = "backup.json"
RELEASE: Final = "release"
REMOVED: Final = ".removed"


def make_backup(site: Site, state: State, release: str, reason: str, now: datetime) -> int:
    """Copy a release into the backups and return the Unix time it is known by.

    Raises
    ------
    ReleaseError
        The release was changed since it was built.
    StoreError
        The file system refused; no backup is left.
    """
    source = site.release(release)
    check_release(source)
    stamp = int(now.timestamp())
    while site.backup(stamp).exists():
        stamp += 1
    for leftover in site.backups.glob(".*.staging"):  # of a worker that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with store.staged_dir(site.backup(stamp)) as folder:
        copy_folder(source, folder / RELEASE)
        store.write_json(
            folder / BACKUP_FILE,
            {
                "version": 1,
                "stamp": stamp,
                "created_utc": now.astimezone(UTC).isoformat(timespec="seconds"),
                "release": release,
                "by": whoami(),
                "reason": reason,
                "serving": [[a.symbol, a.from_ms, a.release] for a in state.serving],
                "files": listing(folder),
            },
        )
    protect(site.backup(stamp))
    check_backup(site, stamp)
    return stamp


def ensure_backup(site: Site, state: State, release: str, reason: str, now: datetime) -> int:
    """Return the newest whole backup of a release, made now where there is none; errors as `make_backup`."""
    for stamp in reversed(list_backups(site)):
        with suppress(ReleaseError, StoreError):
            if check_backup(site, stamp)["release"] == release:
                return stamp
    return make_backup(site, state, release, reason, now)


def list_backups(site: Site) -> list[int]:
    """Return the Unix times of all backups, oldest first."""
    if not site.backups.is_dir():
        return []
    named = [p for p in site.backups.iterdir() if p.name.isascii() and p.name.isdigit()]
    return sorted(int(p.name) for p in named if p.is_dir() and not p.is_symlink())


def read_backup(site: Site, stamp: int) -> dict[str, Any]:
    """Return backup.json.

    Raises
    ------
    ReleaseError
        There is no backup of that time, or its file is another's.
    """
    folder = site.backup(stamp)
    if not folder.is_dir() or folder.is_symlink():
        known = ", ".join(map(str, list_backups(site))) or "none"
        raise ReleaseError(f"{folder}: there is no backup of {stamp}; there are: {known}")
    document: dict[str, Any] = store.read_json(folder / BACKUP_FILE)
    is_ours = isinstance(document, dict) and document.get("version") == 1 and document.get("stamp") == stamp
    if not (is_ours and isinstance(document.get("release"), str) and isinstance(document.get("files"), dict)):
        raise ReleaseError(f"{folder / BACKUP_FILE}: expected the backup of {stamp}, found another document")
    return document


def check_backup(site: Site, stamp: int) -> dict[str, Any]:
    """Compare a backup with its hashes, byte by byte, and return backup.json.

    Raises
    ------
    ReleaseError
        Naming the first file that differs.
    """
    document, folder = read_backup(site, stamp), site.backup(stamp)
    found = differences(folder, document["files"], but=(BACKUP_FILE,))
    if found:
        raise ReleaseError(f"{folder}: was changed after it was made: {found[0]}; take another backup")
    inner = folder / RELEASE
    if read_release(inner)["id"] != document["release"]:
        raise ReleaseError(f"{folder}: holds release {read_release(inner)['id']}, not {document['release']}")
    check_release(inner)
    return document


def restore(site: Site, stamp: int, say: Callable[[str], None] = lambda _: None) -> str:
    """Put the release of a backup back in its place, verified, and return its name.

    A directory that is there and whole stays; one that was changed is moved aside, not removed.

    Raises
    ------
    ReleaseError, StoreError
        The backup is damaged, or the file system refused.
    """
    document = check_backup(site, stamp)
    release = str(document["release"])
    final = site.release(release)
    if final.exists():
        try:
            check_release(final)
            if (final / RELEASE_FILE).read_bytes() == (site.backup(stamp) / RELEASE / RELEASE_FILE).read_bytes():
                return release
        except (ReleaseError, StoreError) as error:
            say(f"{error}; it is moved aside")
        aside = final.with_name(f".{release}.{stamp}.damaged")
        if aside.exists():
            remove_folder(aside)
        final.chmod(0o755)
        final.rename(aside)
    with store.staged_dir(final) as folder:
        copy_folder(site.backup(stamp) / RELEASE, folder)
    protect(final)
    check_release(final)
    return release


def prune_backups(site: Site, keep: int, spare: int | None = None) -> list[int]:
    """Remove all but the newest backups and `spare`, and return those that went.

    The release that serves may have an older backup than those that were rolled back since; it is the one to spare.
    """
    for rest in site.backups.glob(f"*{REMOVED}"):  # of a worker that was killed
        remove_folder(rest)
    gone = [stamp for stamp in list_backups(site)[:-keep] if stamp != spare]
    for stamp in gone:
        aside = site.backup(stamp).with_name(f".{stamp}{REMOVED}")
        site.backup(stamp).rename(aside)  # half of one would be taken for a damaged backup
        remove_folder(aside)
    return gone
