"""Overrides: for one check of one bundle until a given time; forged, foreign and expired ones are refused."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from tests.unit.release.bundles import NOW, make_bundle
from v13.errors import ReleaseError
from v13.release.envelope import seal
from v13.release.overrides import Override, find_overrides, read_override, write_override
from v13.release.trust import ENVELOPE_FILE, read_bundle, sign_with

BUNDLE = "0f" * 32
REASON = "Grafana is down for maintenance until noon"


@pytest.fixture(scope="module")
def private() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@pytest.fixture(scope="module")
def stranger() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@pytest.fixture
def keys(private: CryptoSigner) -> list[SSlibKey]:
    return [private.public_key]


def write(folder: Path, signer: CryptoSigner, **values: Any) -> Path:
    facts: dict[str, Any] = {"check": "grafana", "bundle_sha256": BUNDLE, "reason": REASON, "now": NOW, "valid_days": 2}
    return write_override(folder, signer, **(facts | values))


def find(folder: Path, keys: list[SSlibKey], **values: Any) -> dict[str, Override]:
    facts: dict[str, Any] = {"bundle_sha256": BUNDLE, "checks": ["grafana", "disk"], "now": NOW}
    return find_overrides(folder, keys, **(facts | values))


def test_an_override_says_which_check_why_who_and_until_when(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    path = write(tmp_path, private)
    found = find(tmp_path, keys)["grafana"]
    assert found == read_override(path, keys, bundle_sha256=BUNDLE, now=NOW)
    assert found.to_dict() == {
        "check": "grafana",
        "bundle_sha256": BUNDLE,
        "reason": REASON,
        "key_id": keys[0].keyid,
        "signed": "2026-11-02T08:00:00Z",
        "expires": "2026-11-04T08:00:00Z",
        "path": path.name,
    }
    json.dumps(found.to_dict())
    assert REASON in str(found)
    assert keys[0].keyid[:12] in str(found)


def test_no_folder_and_no_override_are_none(tmp_path: Path, keys: Any) -> None:
    assert find(tmp_path / "nothing", keys) == {}
    assert find(tmp_path, keys) == {}


def test_the_override_of_a_stranger_is_refused(tmp_path: Path, stranger: CryptoSigner, keys: Any) -> None:
    write(tmp_path, stranger)
    with pytest.raises(ReleaseError, match=r"signed by key .* expected one of"):
        find(tmp_path, keys)


def test_a_changed_override_is_refused(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    path = write(tmp_path, private)
    other = json.loads(write(tmp_path / "other", private, check="disk").read_text())
    envelope = json.loads(path.read_text())
    path.write_text(json.dumps(envelope | {"payload": other["payload"]}))
    with pytest.raises(ReleaseError, match="does not fit"):
        find(tmp_path, keys)


def test_an_override_counts_for_its_own_bundle_alone(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    write(tmp_path, private)
    with pytest.raises(ReleaseError, match="is for the bundle 0f0f0f0f0f0f, not for aaaaaaaaaaaa"):
        find(tmp_path, keys, bundle_sha256="a" * 64)


def test_an_override_expires_to_the_second(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    write(tmp_path, private)
    assert find(tmp_path, keys, now=NOW + timedelta(days=2) - timedelta(seconds=1))
    with pytest.raises(ReleaseError, match="expired at 2026-11-04"):
        find(tmp_path, keys, now=NOW + timedelta(days=2))


def test_an_override_for_a_check_there_is_not_is_refused(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    write(tmp_path, private, check="signature")
    with pytest.raises(ReleaseError, match="no check 'signature' that may be overridden"):
        find(tmp_path, keys)


def test_two_overrides_of_one_check_are_refused(tmp_path: Path, private: CryptoSigner, keys: Any) -> None:
    path = write(tmp_path, private)
    shutil.copy(path, path.with_name(f"again-{path.name}"))
    with pytest.raises(ReleaseError, match=r"overridden by .* already"):
        find(tmp_path, keys)


def test_a_signed_sign_off_is_no_override_and_the_other_way_round(
    tmp_path: Path, private: CryptoSigner, keys: Any
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sign_with(read_bundle(bundle), private, now=NOW)
    with pytest.raises(ReleaseError, match="expected a statement of type urn:v13:override:v1"):
        read_override(bundle / ENVELOPE_FILE, keys, bundle_sha256=BUNDLE, now=NOW)


def test_an_override_that_a_trusted_key_dated_too_far_is_refused(
    tmp_path: Path, private: CryptoSigner, keys: Any
) -> None:
    path = seal(
        tmp_path / "long.override.dsse.json",
        private,
        subjects={"manifest.json": BUNDLE},
        predicate_type="urn:v13:override:v1",
        predicate={
            "check": "grafana",
            "reason": REASON,
            "signed_utc": "2026-11-02T08:00:00Z",
            "expires_utc": "2027-11-02T08:00:00Z",
        },
    )
    with pytest.raises(ReleaseError, match="expire within 30 days"):
        read_override(path, keys, bundle_sha256=BUNDLE, now=NOW)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"check": "../../etc"}, "key of a check"),
        ({"check": ""}, "key of a check"),
        ({"reason": "because"}, "a reason of 10 to 1000"),
        ({"reason": "two lines,\n# and a heading of their own"}, "in one line"),
        ({"reason": "colours \x1b[31mof a terminal"}, "in one line"),
        ({"bundle_sha256": "short"}, "a bundle's sha256"),
        ({"valid_days": 31}, "at most 30"),
        ({"valid_days": 0}, "more than 0"),
        ({"valid_days": float("nan")}, "more than 0"),
    ],
)
def test_an_override_that_says_too_little_is_not_written(
    tmp_path: Path, private: CryptoSigner, values: dict[str, Any], match: str
) -> None:
    with pytest.raises(ReleaseError, match=match):
        write(tmp_path, private, **values)
    assert list(tmp_path.iterdir()) == []
