"""A signed bundle: believed as it was signed, and refused after each attack, with what is wrong."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner

from tests.unit.release.bundles import NOW, PASSPHRASE, change, key_pair, make_bundle, rebuild
from v13 import store
from v13.errors import ReleaseError
from v13.release.envelope import seal
from v13.release.keys import read_private_key
from v13.release.trust import ENVELOPE_FILE, read_bundle, sign_bundle, sign_with, verify_bundle

Attack = Callable[[Path], Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pairs `ours` and `theirs`."""
    folder = tmp_path_factory.mktemp("keys")
    key_pair(folder, "ours")
    key_pair(folder, "theirs")
    return folder


@pytest.fixture(scope="module")
def signer(keys: Path) -> CryptoSigner:
    """Our private key, opened once: that is slow on purpose."""
    return read_private_key(keys / "ours", PASSPHRASE)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    folder = make_bundle(tmp_path_factory.mktemp("bundle") / "BTCUSDT-abababab")
    sign_bundle(folder, keys / "ours", PASSPHRASE, now=NOW)
    return folder


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


def refused(bundle: Path, keys: Path, match: str, *, now: datetime = NOW, by: str = "ours.pub") -> None:
    with pytest.raises(ReleaseError, match=match):
        verify_bundle(bundle, [keys / by], now=now)


def test_what_was_signed_is_trusted(bundle: Path, keys: Path) -> None:
    found = verify_bundle(bundle, [keys / "theirs.pub", keys / "ours.pub"], now=NOW)
    assert found.verdict == "PASS"
    assert found.simulated is False
    assert (found.key, found.parameters_fingerprint) == ("ab" * 32, "cd" * 32)
    assert found.sha256 == store.sha256_file(bundle / "manifest.json")
    assert found.n_files == 3
    assert found.signed == NOW
    assert found.expires == NOW + timedelta(days=90)
    assert found.made == datetime(2026, 11, 1, 12, tzinfo=UTC)


def test_a_link_to_the_bundle_is_followed_as_reports_latest_is_one(bundle: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle)
    assert verify_bundle(tmp_path / "latest", [keys / "ours.pub"], now=NOW).folder == bundle.resolve()


def test_the_same_bundle_and_time_give_the_same_envelope(bundle: Path, signer: CryptoSigner) -> None:
    first = (bundle / ENVELOPE_FILE).read_bytes()
    sign_with(read_bundle(bundle), signer, now=NOW)
    assert (bundle / ENVELOPE_FILE).read_bytes() == first
    sign_with(read_bundle(bundle), signer, now=NOW + timedelta(seconds=1))
    assert (bundle / ENVELOPE_FILE).read_bytes() != first


def test_the_envelope_is_dsse_and_the_payload_an_in_toto_statement(bundle: Path, keys: Path) -> None:
    """By hand, from the two specifications, without the library that made it."""
    envelope = json.loads((bundle / ENVELOPE_FILE).read_text())
    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    public: Any = load_pem_public_key((keys / "ours.pub").read_bytes())
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)  # raises where it does not fit
    statement = json.loads(payload)
    assert payload == json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": name, "digest": {"sha256": store.sha256_file(bundle / name)}}
        for name in ("manifest.json", "signoff.json")
    ]
    assert statement["predicate"] == {
        "verdict": "PASS",
        "key": "ab" * 32,
        "simulated": False,
        "parameters_fingerprint": "cd" * 32,
        "made_utc": "2026-11-01T12:00:00+00:00",
        "signed_utc": "2026-11-02T08:00:00Z",
        "expires_utc": "2027-01-31T08:00:00Z",
    }


def test_a_bundle_that_nobody_signed_is_refused(bundle: Path, keys: Path) -> None:
    (bundle / ENVELOPE_FILE).unlink()
    refused(bundle, keys, "is not signed")


def test_a_key_that_is_not_trusted_is_refused(bundle: Path, keys: Path) -> None:
    refused(bundle, keys, "signed by key .*, expected one of", by="theirs.pub")


def test_our_key_id_on_a_signature_of_theirs_is_refused(bundle: Path, keys: Path) -> None:
    ours = json.loads((bundle / ENVELOPE_FILE).read_text())
    sign_bundle(bundle, keys / "theirs", PASSPHRASE, now=NOW)
    theirs = json.loads((bundle / ENVELOPE_FILE).read_text())
    theirs["signatures"][0]["keyid"] = ours["signatures"][0]["keyid"]
    (bundle / ENVELOPE_FILE).write_text(json.dumps(theirs))
    refused(bundle, keys, "does not fit")


def test_any_changed_bit_of_the_statement_is_refused(bundle: Path, keys: Path) -> None:
    envelope = json.loads((bundle / ENVELOPE_FILE).read_text())
    payload = base64.b64decode(envelope["payload"])
    for at in range(0, len(payload), 7):
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        (bundle / ENVELOPE_FILE).write_text(json.dumps(envelope | {"payload": base64.b64encode(changed).decode()}))
        refused(bundle, keys, "does not fit")


def test_a_statement_of_a_later_expiry_is_refused(bundle: Path, keys: Path) -> None:
    envelope = json.loads((bundle / ENVELOPE_FILE).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b"2027-01-31", b"2099-01-31")
    (bundle / ENVELOPE_FILE).write_text(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}))
    refused(bundle, keys, "does not fit")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def turn_verdict(bundle: Path) -> None:
    change(bundle / "signoff.json", verdict="FAIL")


def link_out(bundle: Path) -> None:
    outside = bundle.parent / "outside.yaml"
    (bundle / "artifacts" / "best_global.yaml").rename(outside)
    (bundle / "artifacts" / "best_global.yaml").symlink_to(outside)  # the very same bytes


def link_folder_out(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    (bundle / "artifacts").rename(outside)
    (bundle / "artifacts").symlink_to(outside)


def name_place(name: str) -> Attack:
    def attack(bundle: Path) -> None:
        store.write_text(bundle.parent / "escaped.txt", "x")
        manifest = store.read_json(bundle / "manifest.json")
        facts = {"sha256": store.sha256_file(bundle.parent / "escaped.txt"), "n_bytes": 1}
        change(bundle / "manifest.json", outputs=manifest["outputs"] | {name: facts})

    return attack


ATTACKS: dict[str, tuple[Attack, str]] = {
    "an artifact is changed": (lambda b: flip(b / "artifacts" / "best_global.yaml"), "expected sha256"),
    "an artifact grows": (lambda b: (b / "index.html").write_text("<p>PASS, really</p>"), "expected 12 bytes"),
    "the verdict is changed": (turn_verdict, r"signoff\.json: expected"),
    "an artifact is missing": (lambda b: (b / "index.html").unlink(), r"index\.html: is missing"),
    "the sign-off is missing": (lambda b: (b / "signoff.json").unlink(), r"signoff\.json is missing"),
    "the manifest is missing": (lambda b: (b / "manifest.json").unlink(), r"manifest\.json is missing"),
    "the manifest is no JSON": (lambda b: (b / "manifest.json").write_text("{"), "is no JSON"),
    "the manifest is a list": (lambda b: (b / "manifest.json").write_text("[]"), "expected an object"),
    "the manifest is nested": (lambda b: (b / "manifest.json").write_text("[" * 200_000), "is no JSON"),
    "a file too many": (
        lambda b: (b / "artifacts" / "more.yaml").write_text("x"),
        r"more\.yaml is not in the manifest",
    ),
    "a hidden file too many": (lambda b: (b / ".more").write_text("x"), "not in the manifest"),
    "a link out of the bundle": (link_out, "is a link"),
    "a folder that is a link": (link_folder_out, "is a link"),
    "a link that leads nowhere": (lambda b: (b / "gone").symlink_to("nowhere"), "is a link"),
    "a pipe": (lambda b: os.mkfifo(b / "pipe"), "neither file nor folder"),
    "a path above the bundle": (name_place("../escaped.txt"), "leads out"),
    "an absolute path": (name_place("/etc/passwd"), "leads out"),
    "a path that comes back": (name_place("artifacts/../../escaped.txt"), "leads out"),
    "a path of another system": (name_place("..\\escaped.txt"), "leads out"),
    "a path that is not plain": (name_place("artifacts/./best_global.yaml"), "leads out"),
    "the envelope is a link": (
        lambda b: (shutil.move(b / ENVELOPE_FILE, b.parent / "e"), (b / ENVELOPE_FILE).symlink_to(b.parent / "e")),
        "found a link",
    ),
    "the envelope is noise": (lambda b: (b / ENVELOPE_FILE).write_bytes(b"\xff\x00"), "no DSSE envelope"),
    "the envelope is a list": (lambda b: (b / ENVELOPE_FILE).write_text("[1]"), "no DSSE envelope"),
    "the envelope is nested": (lambda b: (b / ENVELOPE_FILE).write_text("[" * 200_000), "no DSSE envelope"),
    "the envelope is endless": (lambda b: (b / ENVELOPE_FILE).write_bytes(b" " * (1 << 21)), "at most 1,048,576"),
    "the signatures are taken off": (lambda b: change(b / ENVELOPE_FILE, signatures=[]), "carries no signature"),
    "the signatures are no list": (lambda b: change(b / ENVELOPE_FILE, signatures=7), "no DSSE envelope"),
    "the payload has another type": (lambda b: change(b / ENVELOPE_FILE, payloadType="text/plain"), "expected payload"),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_an_attack_is_refused_with_what_is_wrong(bundle: Path, keys: Path, what: str) -> None:
    attack, match = ATTACKS[what]
    attack(bundle)
    refused(bundle, keys, match)


REBUILT: dict[str, tuple[Attack, str]] = {
    "an artifact": (lambda b: flip(b / "artifacts" / "best_global.yaml"), r"manifest\.json: is not what was signed"),
    "the verdict": (turn_verdict, r"is not what was signed"),
    "a file is taken away": (lambda b: (b / "index.html").unlink(), r"manifest\.json: is not what was signed"),
    "a file is added": (lambda b: (b / "more").write_text("x"), r"manifest\.json: is not what was signed"),
}


@pytest.mark.parametrize("what", REBUILT)
def test_a_change_is_refused_though_the_manifest_was_made_anew_for_it(bundle: Path, keys: Path, what: str) -> None:
    attack, match = REBUILT[what]
    attack(bundle)
    rebuild(bundle)
    read_bundle(bundle)  # in itself it is sound
    refused(bundle, keys, match)


def test_a_verdict_in_the_manifest_that_is_not_the_sign_offs_is_refused(bundle: Path) -> None:
    change(bundle / "manifest.json", verdict="FAIL")
    with pytest.raises(ReleaseError, match=r"verdict: manifest\.json has 'FAIL', signoff\.json 'PASS'"):
        read_bundle(bundle)


def test_the_envelope_of_another_bundle_is_refused(bundle: Path, keys: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", verdict="FAIL")
    shutil.copy(bundle / ENVELOPE_FILE, other / ENVELOPE_FILE)
    refused(other, keys, "is not what was signed")


@pytest.mark.parametrize(
    ("predicate", "match"),
    [
        ({"verdict": "FAIL"}, "verdict: signed was 'FAIL'"),
        ({"simulated": True}, "simulated: signed was True"),
        ({"signed_utc": "2026-10-01T00:00:00Z"}, "before the bundle was made"),
        ({"signed_utc": "yesterday"}, "expected a time"),
        ({"signed_utc": "2026-11-02T08:00:00"}, "expected a time with its zone"),
        ({"signed_utc": "2026-11-03T08:00:00Z"}, "one of the two clocks is wrong"),
        ({"expires_utc": "2099-01-01T00:00:00Z"}, "expire within 366 days"),
        ({"expires_utc": "2026-11-02T08:00:00Z"}, "expire within"),
    ],
)
def test_a_trusted_key_cannot_state_what_the_bundle_does_not_say(
    bundle: Path, keys: Path, signer: CryptoSigner, predicate: dict[str, Any], match: str
) -> None:
    found = read_bundle(bundle)
    times = {"signed_utc": "2026-11-02T08:00:00Z", "expires_utc": "2026-12-02T08:00:00Z"}
    seal(
        bundle / ENVELOPE_FILE,
        signer,
        subjects=found.hashes,
        predicate_type="urn:v13:sign-off:v1",
        predicate=found.predicate | times | predicate,
    )
    refused(bundle, keys, match)


def test_a_statement_of_another_type_or_of_other_files_is_refused(
    bundle: Path, keys: Path, signer: CryptoSigner
) -> None:
    found = read_bundle(bundle)
    path = bundle / ENVELOPE_FILE
    seal(path, signer, subjects=found.hashes, predicate_type="urn:v13:override:v1", predicate=found.predicate)
    refused(bundle, keys, "expected a statement of type urn:v13:sign-off:v1")
    only = {"manifest.json": found.sha256}
    seal(path, signer, subjects=only, predicate_type="urn:v13:sign-off:v1", predicate=found.predicate)
    refused(bundle, keys, "expected a signature of manifest.json and signoff.json")


def test_it_expires_to_the_second(bundle: Path, keys: Path, signer: CryptoSigner) -> None:
    sign_with(read_bundle(bundle), signer, now=NOW, valid_days=1)
    end = NOW + timedelta(days=1)
    verify_bundle(bundle, [keys / "ours.pub"], now=end - timedelta(seconds=1))
    refused(bundle, keys, "expired at 2026-11-03T08:00:00Z", now=end)


def test_a_clock_that_is_behind_is_told(bundle: Path, keys: Path) -> None:
    verify_bundle(bundle, [keys / "ours.pub"], now=NOW - timedelta(minutes=5))
    refused(bundle, keys, "one of the two clocks is wrong", now=NOW - timedelta(minutes=6))


@pytest.mark.parametrize("days", [0, -1, 367])
def test_a_signature_holds_for_a_day_to_a_year(bundle: Path, signer: CryptoSigner, days: int) -> None:
    with pytest.raises(ReleaseError, match="expected 1 to 366"):
        sign_with(read_bundle(bundle), signer, now=NOW, valid_days=days)


def test_what_is_not_whole_is_not_signed(bundle: Path, signer: CryptoSigner) -> None:
    before = (bundle / ENVELOPE_FILE).read_bytes()
    flip(bundle / "index.html")
    with pytest.raises(ReleaseError, match="expected sha256"):
        sign_with(read_bundle(bundle), signer, now=NOW)
    assert (bundle / ENVELOPE_FILE).read_bytes() == before


def test_nothing_is_signed_before_it_was_made(bundle: Path, signer: CryptoSigner) -> None:
    with pytest.raises(ReleaseError, match="set the clock"):
        sign_with(read_bundle(bundle), signer, now=NOW - timedelta(days=2))


def test_no_folder_is_no_bundle(tmp_path: Path, keys: Path) -> None:
    refused(tmp_path / "nothing", keys, "found nothing")
    with pytest.raises(ReleaseError, match="expected the folder"):
        read_bundle(tmp_path / "nothing")
