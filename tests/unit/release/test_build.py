"""Release directories: what is in one, what never is, what a resumed or killed build leaves, what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import v13
from tests.unit.release.small_rig import (
    CALIBRATION,
    RELEASE,
    forget,
    make_site,
    release_of,
    sign_off,
    unprotect,
)
from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release.build import ARTIFACTS, build_release, check_release, read_release, release_name
from v13.release.folders import listing
from v13.release.site import Site

NEW = "20260301T120000Z-cccccccc"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_name_follows_from_operation_and_parameters() -> None:
    assert release_name("20260301T120000Z-deploy-abc123", "0123456789abcdef") == "20260301T120000Z-01234567"


def test_a_release_holds_settings_artifacts_signoff_code_and_monitoring(site: Site) -> None:
    folder = site.release(RELEASE)
    for name, place in ARTIFACTS.items():
        assert (folder / place).read_bytes() == (site.signoff / "artifacts" / name).read_bytes()
    for name in ("config/slo.yaml", "config/system.yaml", "config/environments/testing.yaml"):
        assert (folder / name).read_bytes() == (site.root / name).read_bytes()
    assert (folder / "reports/latest/signoff.json").read_bytes() == (site.signoff / "signoff.json").read_bytes()
    assert (folder / "code/v13/__init__.py").read_bytes() == (site.root / "tiny/v13/__init__.py").read_bytes()
    assert (folder / "monitoring/prometheus_divergence.yml").is_file()


def test_keys_other_calibrations_notebooks_and_data_are_never_copied(site: Site) -> None:
    store.write_text(site.root / "config/environments/keys/deep.pem", "a private key, deeper")
    folder = release_of(site, NEW)
    assert (site.root / "config/keys/signoff").is_file()
    found = files(folder)
    assert not [name for name in found if "keys" in name or "notebooks" in name or "/data/" in name]
    assert not [name for name, data in found.items() if b"a private key" in data]
    assert [name for name in found if "calibration/" in name] == [f"config/calibration/{CALIBRATION}"]


def test_release_json_lists_every_other_file_by_its_hash(site: Site) -> None:
    folder = site.release(RELEASE)
    document = read_release(folder)
    assert document["files"] == listing(folder, but=("release.json",))
    signoff = store.read_json(site.signoff / "signoff.json")
    assert (document["id"], document["env"], document["v13_version"]) == (RELEASE, "testing", v13.__version__)
    assert document["signoff_sha256"] == store.sha256_file(site.signoff / "signoff.json")
    for ours, theirs in (("signoff_key", "key"), ("verdict", "verdict"), ("simulated", "simulated")):
        assert document[ours] == signoff[theirs]
    assert document["parameters_fingerprint"] == signoff["parameters_fingerprint"]
    check_release(folder)


def test_a_release_is_written_by_nobody_any_more(site: Site) -> None:
    folder = release_of(site, NEW)
    assert not [p for p in (folder, *folder.rglob("*")) if stat.S_IMODE(p.stat().st_mode) & 0o222]


def test_the_same_name_again_is_the_same_release(site: Site) -> None:
    before = files(site.release(RELEASE))
    store.write_text(site.root / "tiny/v13/__init__.py", "# edited meanwhile\n")
    sign_off(site.signoff, verdict="FAIL")
    document = build_release(site, RELEASE, code=site.root / "tiny")
    assert document == read_release(site.release(RELEASE))
    assert files(site.release(RELEASE)) == before


def test_a_release_whose_worker_was_killed_before_protecting_it_is_protected_by_the_next(site: Site) -> None:
    folder = site.release(RELEASE)
    unprotect(folder)
    build_release(site, RELEASE, code=site.root / "tiny")
    assert not [p for p in (folder, *folder.rglob("*")) if stat.S_IMODE(p.stat().st_mode) & 0o222]


def test_a_release_that_was_changed_is_not_taken_up(site: Site) -> None:
    folder = site.release(RELEASE)
    unprotect(folder)
    (folder / "code/v13/__init__.py").write_text("# other code of a release of tests\n")
    with pytest.raises(ReleaseError, match=r"was changed after it was built: code/v13/__init__\.py: .*restore it"):
        build_release(site, RELEASE)


@pytest.mark.parametrize("name", ["config/slo.yaml", "runs/real_test/best_global.yaml", "monitoring/alertmanager.yml"])
def test_one_byte_of_any_part_is_seen(site: Site, name: str) -> None:
    path = site.release(RELEASE) / name
    unprotect(site.release(RELEASE))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=f"{name}: expected sha256"):
        check_release(site.release(RELEASE))


def test_a_file_that_somebody_added_is_seen(site: Site) -> None:
    unprotect(site.release(RELEASE))
    (site.release(RELEASE) / "code/sitecustomize.py").write_text("")
    with pytest.raises(ReleaseError, match=r"code/sitecustomize\.py: is not listed"):
        check_release(site.release(RELEASE))


def test_more_than_one_change_is_counted(site: Site) -> None:
    unprotect(site.release(RELEASE))
    for name in ("config/slo.yaml", "config/system.yaml", "config/environments/testing.yaml"):
        (site.release(RELEASE) / name).unlink()
    with pytest.raises(ReleaseError, match=r"environments/testing\.yaml: is missing \(and 2 more\)"):
        check_release(site.release(RELEASE))


@pytest.mark.parametrize("text", ["[]", '{"version": 2, "files": {}}', '{"version": 1}', '{"version": 1, "files": []}'])
def test_a_release_json_of_another_kind_is_refused(site: Site, text: str) -> None:
    unprotect(site.release(RELEASE))
    (site.release(RELEASE) / "release.json").write_text(text)
    with pytest.raises(ReleaseError, match="expected a release of version 1"):
        read_release(site.release(RELEASE))


def test_a_folder_without_release_json_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"release\.json: could not be read"):
        check_release(tmp_path)


@pytest.mark.parametrize("name", list(ARTIFACTS))
def test_an_artifact_that_was_not_signed_off_is_refused_and_leaves_nothing(site: Site, name: str) -> None:
    path = site.signoff / "artifacts" / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ReleaseError, match=r"its sha256 is not what signoff\.json says; sign off again"):
        build_release(site, NEW, code=site.root / "tiny")
    assert not [p for p in site.release(NEW).parent.iterdir() if NEW in p.name]


def test_an_artifact_that_the_signoff_does_not_name_is_refused(site: Site) -> None:
    sign_off(site.signoff, artifacts={})
    with pytest.raises(ReleaseError, match="sign off again"):
        build_release(site, NEW, code=site.root / "tiny")


def test_what_a_killed_build_left_is_removed_and_that_of_others_is_not(site: Site) -> None:
    place = site.release(NEW).parent
    own, other = place / f".{NEW}.0123.staging", place / ".20260301T130000Z-dddddddd.0123.staging"
    for folder in (own, other):
        store.write_text(folder / "config/system.yaml", "half")
    build_release(site, NEW, code=site.root / "tiny")
    assert (own.exists(), other.exists()) == (False, True)
    check_release(site.release(NEW))


def test_a_link_in_the_settings_is_not_followed(site: Site) -> None:
    (site.root / "config/extra.yaml").symlink_to("/etc/hostname")
    with pytest.raises(ReleaseError, match="expected files and folders only"):
        build_release(site, NEW, code=site.root / "tiny")
    assert not site.release(NEW).exists()


def test_the_code_is_the_package_that_runs_where_no_other_is_named(tmp_path: Path) -> None:
    site = make_site(tmp_path / "root")
    build_release(site, NEW)
    package = Path(v13.__file__).parent
    copied = site.release(NEW) / "code/v13"
    for name in ("__init__.py", "release/build.py", "detector/kernel.py"):
        assert (copied / name).read_bytes() == (package / name).read_bytes()
    assert not list(copied.rglob("*.pyc"))
    check_release(site.release(NEW))
    forget(site.release(NEW))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 129])
def test_a_name_that_leads_out_is_refused(site: Site, name: str) -> None:
    with pytest.raises(ReleaseError, match="release: expected letters, digits, dots and dashes"):
        build_release(site, name)
