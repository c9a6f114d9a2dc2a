"""Folders whose every file is known by its hash: listed, copied, compared. Releases and backups are such folders.

Nothing in them may lead out: a link, a device or a name with `..` is refused, whoever made it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from v13 import store
from v13.errors import ReleaseError, StoreError

__all__ = ["copy_folder", "differences", "listing", "protect", "remove_folder"]

Listing = dict[str, dict[str, Any]]


def listing(folder: Path, *, but: tuple[str, ...] = ()) -> Listing:
    """Return relative path -> sha256 and n_bytes of every file below a folder, in order of names.

    Python's own caches are left out: what runs from a folder rewrites them.

    Raises
    ------
    ReleaseError
        There is something else than files and folders.
    StoreError
        A file cannot be read.
    """
    found: Listing = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        if name in but or stat.S_ISDIR(mode) or "__pycache__" in path.parts:
            continue
        if not stat.S_ISREG(mode):
            raise ReleaseError(f"{path}: expected files and folders only, found a link or something else")
        found[name] = {"sha256": store.sha256_file(path), "n_bytes": path.stat().st_size}
    return found


def differences(folder: Path, files: Mapping[str, Any], *, but: tuple[str, ...] = ()) -> list[str]:
    """Return one sentence for each file that is missing, changed, or not listed; none where all is as it was."""
    found = store.manifest.verify({"version": 1, "outputs": files}, folder)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(f"{name}: is a link")
        elif path.is_dir() or name in files or name in but or (path.is_file() and "__pycache__" in path.parts):
            continue
        else:  # a device as well, which is no file
            found.append(f"{name}: is not listed")
    return found


def copy_folder(source: Path, target: Path, ignore: Callable[[Path], bool] = lambda _: False) -> None:
    """Copy files and folders with their times; links are refused, for they may lead anywhere.

    Raises
    ------
    ReleaseError
        There is a link, or something that is no file.
    StoreError
        The file system refused.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.iterdir()):
            if ignore(path):
                continue
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                copy_folder(path, target / path.name, ignore)
            elif stat.S_ISREG(mode):
                shutil.copy2(path, target / path.name)
            else:
                raise ReleaseError(f"{path}: expected files and folders only, found a link or something else")
    except OSError as error:
        raise StoreError(f"{target}: could not be written: {error.strerror or error}") from error


def protect(folder: Path) -> None:
    """Take the right to write from everybody: a release is never changed."""
    for place, _, names in os.walk(folder):
        for path in (*(Path(place, n) for n in names), Path(place)):
            path.chmod(path.stat().st_mode & ~0o222)


def remove_folder(folder: Path) -> None:
    """Remove a protected folder."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)
    shutil.rmtree(folder)
