"""Folders whose files are known: every way in which one can be changed is told, and nothing leads out."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from v13.errors import ReleaseError, StoreError
from v13.release.folders import copy_folder, differences, listing, protect, remove_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a.txt": "alpha", "sub/b.txt": "beta", "sub/deep/c.bin": "\x00", "empty.txt": ""}.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    return tmp_path / "own"


def test_a_listing_has_every_file_with_hash_and_length(folder: Path) -> None:
    found = listing(folder)
    assert list(found) == ["a.txt", "empty.txt", "sub/b.txt", "sub/deep/c.bin"]
    assert found["a.txt"] == {"sha256": hashlib.sha256(b"alpha").hexdigest(), "n_bytes": 5}
    assert differences(folder, found) == []


def test_what_is_left_out_of_a_listing_is_left_out_of_the_comparison(folder: Path) -> None:
    (folder / "sub/__pycache__").mkdir()
    (folder / "sub/__pycache__/b.pyc").write_text("python's own")
    found = listing(folder, but=("a.txt",))
    assert list(found) == ["empty.txt", "sub/b.txt", "sub/deep/c.bin"]
    assert differences(folder, found, but=("a.txt",)) == []
    assert differences(folder, found) == ["a.txt: is not listed"]


def test_a_file_of_a_name_that_may_be_left_out_counts_elsewhere(folder: Path) -> None:
    found = listing(folder, but=("a.txt",))
    (folder / "sub/a.txt").write_text("not the one that is left out")
    assert differences(folder, found, but=("a.txt",)) == ["sub/a.txt: is not listed"]


def test_a_changed_byte_is_told(folder: Path) -> None:
    found = listing(folder)
    (folder / "sub/b.txt").write_text("betA")
    (told,) = differences(folder, found)
    assert told.startswith(f"sub/b.txt: expected sha256 {found['sub/b.txt']['sha256']}, found ")


def test_more_bytes_a_missing_and_a_further_file_are_told(folder: Path) -> None:
    found = listing(folder)
    (folder / "a.txt").write_text("alpha\n")
    (folder / "empty.txt").unlink()
    (folder / "sub/new.txt").write_text("")
    assert differences(folder, found) == [
        "a.txt: expected 5 bytes, found 6",
        "empty.txt: is missing",
        "sub/new.txt: is not listed",
    ]


def test_a_link_is_told_even_where_it_leads_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    found = listing(folder)
    (tmp_path / "elsewhere.txt").write_text("alpha")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert differences(folder, found) == ["a.txt: is a link"]
    with pytest.raises(ReleaseError, match=r"a\.txt: expected files and folders only"):
        listing(folder)


def test_a_folder_that_became_a_link_is_told(folder: Path, tmp_path: Path) -> None:
    found = listing(folder)
    (folder / "sub").rename(tmp_path / "moved")
    (folder / "sub").symlink_to(tmp_path / "moved")
    assert differences(folder, found) == ["sub: is a link"]
    with pytest.raises(ReleaseError, match="sub: expected files and folders only"):
        listing(folder)


def test_a_link_to_nowhere_is_told(folder: Path) -> None:
    found = listing(folder)
    (folder / "gone").symlink_to("/nowhere/at/all")
    assert differences(folder, found) == ["gone: is a link"]


def test_a_link_among_pythons_caches_is_told(folder: Path) -> None:
    found = listing(folder)
    (folder / "__pycache__").symlink_to("/nowhere/at/all")
    assert differences(folder, found) == ["__pycache__: is a link"]


def test_a_device_is_told_and_never_read(folder: Path, tmp_path: Path) -> None:
    found = listing(folder)
    os.mkfifo(folder / "sub/pipe")  # whoever opened it would wait for ever
    assert differences(folder, found) == ["sub/pipe: is not listed"]
    with pytest.raises(ReleaseError, match="sub/pipe: expected files and folders only"):
        listing(folder)
    with pytest.raises(ReleaseError, match="sub/pipe: expected files and folders only"):
        copy_folder(folder, tmp_path / "copy")


def test_a_file_that_became_a_device_is_missing(folder: Path) -> None:
    found = listing(folder)
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    assert "a.txt: is missing" in differences(folder, found)


@pytest.mark.parametrize("name", ["../outside.txt", "sub/../../outside.txt", "/etc/hostname"])
def test_a_name_in_a_listing_that_leads_out_is_told_and_not_followed(folder: Path, name: str) -> None:
    (folder.parent / "outside.txt").write_text("outside")
    entry = {"sha256": hashlib.sha256(b"outside").hexdigest(), "n_bytes": 7}
    assert differences(folder, listing(folder) | {name: entry}) == [f"{name}: lies outside the bundle"]


def test_a_listing_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="expected sha256 and n_bytes"):
        differences(folder, {"a.txt": "abc"})


def test_a_copy_is_the_same_with_its_times(folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "a.txt", (1_000_000_000, 1_000_000_000))
    copy_folder(folder, tmp_path / "copies/one")
    assert differences(tmp_path / "copies/one", listing(folder)) == []
    assert (tmp_path / "copies/one/a.txt").stat().st_mtime == 1_000_000_000


def test_a_copy_leaves_out_what_it_is_told_to_at_any_depth(folder: Path, tmp_path: Path) -> None:
    copy_folder(folder, tmp_path / "copy", lambda path: path.name in ("deep", "empty.txt"))
    assert list(listing(tmp_path / "copy")) == ["a.txt", "sub/b.txt"]


def test_a_link_is_not_copied(folder: Path, tmp_path: Path) -> None:
    (folder / "sub/key").symlink_to("/etc/shadow")
    with pytest.raises(ReleaseError, match="sub/key: expected files and folders only"):
        copy_folder(folder, tmp_path / "copy")
    assert not (tmp_path / "copy/sub/key").exists()


def test_a_file_in_the_way_of_a_copy_is_an_error_of_the_store(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("in the way")
    with pytest.raises(StoreError, match="could not be written"):
        copy_folder(folder, tmp_path / "copy")


def test_what_is_protected_may_be_written_by_nobody_and_still_removed(folder: Path) -> None:
    protect(folder)
    modes = [path.stat().st_mode for path in (folder, *folder.rglob("*"))]
    assert not [mode for mode in modes if mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)]
    remove_folder(folder)
    assert not folder.exists()
