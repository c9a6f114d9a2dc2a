"""Backups: made whole or not at all, read with suspicion, put back byte by byte."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.unit.release.bundles import change
from tests.unit.release.small_rig import NOW, OLD, RELEASE, forget, unprotect
from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release.backup import (
    check_backup,
    ensure_backup,
    list_backups,
    make_backup,
    prune_backups,
    read_backup,
    restore,
)
from v13.release.build import check_release
from v13.release.folders import listing
from v13.release.ledger import Assignment, State
from v13.release.site import Site

STATE = State(stable=RELEASE, serving=(Assignment("BTCUSDT", 0, OLD), Assignment("BTCUSDT", 7_000, RELEASE)))
STAMP = int(NOW.timestamp())


def backed_up(site: Site, release: str = RELEASE) -> Path:
    stamp = make_backup(site, STATE, release, "before a deploy", NOW)
    folder = site.backup(stamp)
    unprotect(folder)
    return folder


def relist(folder: Path, **more: Any) -> None:
    """Write backup.json anew so that it fits: what somebody would do who tampered with care."""
    change(folder / "backup.json", files=listing(folder, but=("backup.json",)), **more)


def test_a_backup_is_known_by_its_time_and_says_what_served(site: Site) -> None:
    stamp = make_backup(site, STATE, RELEASE, "before a deploy", NOW)
    assert (stamp, list_backups(site)) == (STAMP, [STAMP])
    document = check_backup(site, stamp)
    assert (document["release"], document["reason"]) == (RELEASE, "before a deploy")
    assert document["created_utc"] == "2026-03-01T12:00:00+00:00"
    assert document["serving"] == [["BTCUSDT", 0, OLD], ["BTCUSDT", 7_000, RELEASE]]
    assert listing(site.backup(stamp) / "release") == listing(site.release(RELEASE))
    assert not [p for p in site.backup(stamp).rglob("*") if p.stat().st_mode & 0o222]


def test_two_backups_of_one_second_are_two(site: Site) -> None:
    stamps = [make_backup(site, STATE, RELEASE, "", NOW) for _ in range(3)]
    assert stamps == [STAMP, STAMP + 1, STAMP + 2]
    assert [read_backup(site, stamp)["stamp"] for stamp in stamps] == stamps


def test_a_release_that_was_changed_is_not_backed_up(site: Site) -> None:
    unprotect(site.release(RELEASE))
    (site.release(RELEASE) / "config/slo.yaml").write_text("rows: {}\n")
    with pytest.raises(ReleaseError, match=r"config/slo\.yaml"):
        make_backup(site, STATE, RELEASE, "", NOW)
    assert list_backups(site) == []


def test_what_a_killed_worker_left_is_removed(site: Site) -> None:
    store.write_text(site.backups / ".123.abc.staging/release/half", "half")
    make_backup(site, STATE, RELEASE, "", NOW)
    assert [p.name for p in site.backups.iterdir()] == [str(STAMP)]


def test_a_whole_backup_of_the_release_is_enough(site: Site) -> None:
    first = make_backup(site, STATE, RELEASE, "", NOW)
    make_backup(site, STATE, OLD, "", NOW + timedelta(seconds=9))
    assert ensure_backup(site, STATE, RELEASE, "", NOW + timedelta(days=1)) == first
    assert len(list_backups(site)) == 2


def test_a_damaged_backup_is_not_enough(site: Site) -> None:
    folder = backed_up(site)
    (folder / "release/config/slo.yaml").write_text("rows: {}\n")
    later = NOW + timedelta(days=1)
    assert ensure_backup(site, STATE, RELEASE, "", later) == int(later.timestamp())


def test_what_is_no_backup_is_not_listed(site: Site, tmp_path: Path) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    (site.backups / "notes").mkdir()
    (site.backups / "123").write_text("a file")
    (site.backups / "१२३").mkdir()
    (site.backups / "77").symlink_to(tmp_path)
    assert list_backups(site) == [STAMP]


def test_without_any_backup_there_is_none_to_list_and_none_to_read(site: Site) -> None:
    assert list_backups(site) == []
    with pytest.raises(ReleaseError, match="there is no backup of 5; there are: none"):
        read_backup(site, 5)


def test_those_that_are_there_are_named(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    with pytest.raises(ReleaseError, match=f"there is no backup of 5; there are: {STAMP}"):
        read_backup(site, 5)


def test_a_link_is_no_backup(site: Site) -> None:
    backed_up(site)
    (site.backups / "5").symlink_to(site.backup(STAMP))
    with pytest.raises(ReleaseError, match="there is no backup of 5"):
        check_backup(site, 5)


@pytest.mark.parametrize(
    "text", ["[]", '{"version": 2, "stamp": 1}', '{"version": 1, "stamp": 1}', '{"version": 1, "stamp": STAMP}']
)
def test_a_backup_json_of_another_kind_is_refused(site: Site, text: str) -> None:
    folder = backed_up(site)
    (folder / "backup.json").write_text(text.replace("STAMP", str(STAMP)))
    with pytest.raises(ReleaseError, match=f"expected the backup of {STAMP}, found another document"):
        check_backup(site, STAMP)


@pytest.mark.parametrize("name", ["release/code/v13/__init__.py", "release/release.json"])
def test_one_byte_is_seen(site: Site, name: str) -> None:
    folder = backed_up(site)
    data = bytearray((folder / name).read_bytes())
    data[0] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ReleaseError, match=f"was changed after it was made: {name}: expected sha256"):
        check_backup(site, STAMP)
    with pytest.raises(ReleaseError, match="was changed after it was made"):
        restore(site, STAMP)


def test_a_further_file_a_link_and_a_device_are_seen(site: Site) -> None:
    folder = backed_up(site)
    (folder / "release/code/sitecustomize.py").write_text("")
    with pytest.raises(ReleaseError, match=r"release/code/sitecustomize\.py: is not listed"):
        check_backup(site, STAMP)
    (folder / "release/code/sitecustomize.py").unlink()
    (folder / "release/code/more").symlink_to("/tmp")
    with pytest.raises(ReleaseError, match="release/code/more: is a link"):
        check_backup(site, STAMP)
    (folder / "release/code/more").unlink()
    os.mkfifo(folder / "release/code/more")
    with pytest.raises(ReleaseError, match="release/code/more: is not listed"):
        check_backup(site, STAMP)
    (folder / "release/code/more").unlink()
    check_backup(site, STAMP)


def test_whoever_fits_the_backups_list_still_has_the_releases_own_against_him(site: Site) -> None:
    folder = backed_up(site)
    (folder / "release/code/v13/__init__.py").write_text("import os\n")
    relist(folder)
    with pytest.raises(ReleaseError, match=r"was changed after it was built: code/v13/__init__\.py"):
        check_backup(site, STAMP)


def test_a_backup_that_says_another_release_is_refused(site: Site) -> None:
    folder = backed_up(site)
    change(folder / "backup.json", release=OLD)
    with pytest.raises(ReleaseError, match=f"holds release {RELEASE}, not {OLD}"):
        restore(site, STAMP)


def test_a_release_name_that_leads_out_is_refused_though_all_hashes_fit(site: Site, tmp_path: Path) -> None:
    folder = backed_up(site)
    change(folder / "release/release.json", id="../../../outside")
    relist(folder, release="../../../outside")
    with pytest.raises(ReleaseError, match="release: expected letters, digits, dots and dashes"):
        restore(site, STAMP)
    assert not (tmp_path / "outside").exists()


def test_a_listing_that_leads_out_is_refused(site: Site) -> None:
    folder = backed_up(site)
    files = store.read_json(folder / "backup.json")["files"]
    change(folder / "backup.json", files=files | {"../../ledger.sqlite": {"sha256": "0" * 64, "n_bytes": 1}})
    with pytest.raises(ReleaseError, match="lies outside the bundle"):
        check_backup(site, STAMP)


def test_a_release_that_is_gone_comes_back_byte_by_byte(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    before = listing(site.release(RELEASE))
    forget(site.release(RELEASE))
    assert restore(site, STAMP) == RELEASE
    assert listing(site.release(RELEASE)) == before
    assert not [p for p in site.release(RELEASE).rglob("*") if p.stat().st_mode & 0o222]


def test_a_release_that_is_whole_stays(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    inode = site.release(RELEASE).stat().st_ino
    assert restore(site, STAMP) == RELEASE
    assert site.release(RELEASE).stat().st_ino == inode


def test_a_damaged_release_is_moved_aside_and_the_backup_put_in_its_place(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    folder = site.release(RELEASE)
    said: list[str] = []
    for text in ("tampered", "tampered again"):
        unprotect(folder)
        (folder / "config/slo.yaml").write_text(text)
        assert restore(site, STAMP, said.append) == RELEASE
        check_release(folder)
        aside = folder.with_name(f".{RELEASE}.{STAMP}.damaged")
        assert (aside / "config/slo.yaml").read_text() == text
    assert len(said) == 2
    assert "config/slo.yaml" in said[0]
    assert said[0].endswith("it is moved aside")


def test_a_release_changed_together_with_its_own_list_is_replaced(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    folder = site.release(RELEASE)
    before = listing(folder)
    unprotect(folder)
    (folder / "code/v13/__init__.py").write_text("import os\n")
    change(folder / "release.json", files=listing(folder, but=("release.json",)))
    check_release(folder)  # by itself it looks whole
    restore(site, STAMP)
    assert listing(folder) == before


def test_without_release_json_it_is_moved_aside_as_well(site: Site) -> None:
    make_backup(site, STATE, RELEASE, "", NOW)
    unprotect(site.release(RELEASE))
    (site.release(RELEASE) / "release.json").unlink()
    restore(site, STAMP)
    check_release(site.release(RELEASE))


def test_nothing_is_touched_by_a_backup_that_is_damaged(site: Site) -> None:
    folder = backed_up(site)
    (folder / "backup.json").write_text(json.dumps({"version": 1}))
    before = listing(site.release(RELEASE))
    unprotect(site.release(RELEASE))
    with pytest.raises((ReleaseError, StoreError)):
        restore(site, STAMP)
    assert listing(site.release(RELEASE)) == before


def test_pruning_keeps_the_newest(site: Site) -> None:
    stamps = [make_backup(site, STATE, OLD, "", NOW + timedelta(seconds=10 * i)) for i in range(4)]
    (site.backups / "1").symlink_to(site.release(OLD))
    assert prune_backups(site, 2) == stamps[:2]
    assert list_backups(site) == stamps[2:]
    assert prune_backups(site, 2) == []
    check_release(site.release(OLD))
