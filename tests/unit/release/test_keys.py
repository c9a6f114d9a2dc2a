"""Signing keys: never overwritten, never readable by others, never in a message."""

from __future__ import annotations

import base64
import stat
import subprocess
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.release.bundles import PASSPHRASE, key_pair
from v13.errors import ReleaseError
from v13.release.keys import make_key, read_passphrase, read_private_key, read_public_key, read_public_keys

WRONG = b"wrong-and-secret"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return key_pair(tmp_path_factory.mktemp("keys"), "signoff")


def test_a_pair_is_made_with_the_private_half_for_its_owner_alone(private: Path) -> None:
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    public = private.with_name("signoff.pub")
    assert stat.S_IMODE(public.stat().st_mode) & 0o022 == 0
    signer = read_private_key(private, PASSPHRASE)
    assert signer.public_key.keyid == read_public_key(public).keyid
    assert sorted(p.name for p in private.parent.iterdir()) == ["signoff", "signoff.pub"]  # nothing is left behind


def test_the_private_key_is_encrypted(private: Path) -> None:
    signer = read_private_key(private, PASSPHRASE)
    raw = serialization.load_pem_private_key(signer.private_bytes, None).private_bytes_raw()  # type: ignore[union-attr]
    body = base64.b64decode(b"".join(private.read_bytes().splitlines()[1:-1]))
    assert b"bcrypt" in body
    assert raw not in body


@pytest.mark.parametrize("name", ["signoff", "signoff.pub"])
def test_no_key_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ReleaseError, match="never overwritten"):
        make_key(tmp_path / "signoff", PASSPHRASE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"mine")]


def test_a_link_is_not_followed_to_a_key(tmp_path: Path) -> None:
    (tmp_path / "signoff").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match="never overwritten"):
        make_key(tmp_path / "signoff", PASSPHRASE)
    assert not (tmp_path / "elsewhere").exists()


def test_a_short_passphrase_is_refused_without_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="at least 12") as caught:
        make_key(tmp_path / "key", b"hunter2")
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_passphrase_is_refused_and_stands_in_no_message(private: Path) -> None:
    with pytest.raises(ReleaseError, match="wrong passphrase") as caught:
        read_private_key(private, WRONG)
    assert WRONG.decode() not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_may_read_is_refused(private: Path, tmp_path: Path, mode: int) -> None:
    copied = tmp_path / "key"
    copied.write_bytes(private.read_bytes())
    copied.chmod(mode)
    with pytest.raises(ReleaseError, match="chmod 600"):
        read_private_key(copied, PASSPHRASE)


def test_a_key_that_is_not_encrypted_is_refused(private: Path, tmp_path: Path) -> None:
    plain = tmp_path / "key"
    plain.write_bytes(read_private_key(private, PASSPHRASE).private_bytes)
    plain.chmod(0o600)
    with pytest.raises(ReleaseError, match="no encrypted private key"):
        read_private_key(plain, PASSPHRASE)


def test_a_private_key_given_for_a_public_one_is_refused(private: Path) -> None:
    with pytest.raises(ReleaseError, match=r"ends in \.pub"):
        read_public_key(private)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "other.pub"
    path.write_bytes(pem.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ReleaseError, match="expected an ed25519 key"):
        read_public_key(path)


def test_no_public_key_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no public key given"):
        read_public_keys([])
    with pytest.raises(ReleaseError, match="cannot be read"):
        read_public_keys([tmp_path / "nothing.pub"])
    (tmp_path / "noise.pub").write_bytes(b"\x00\xff" * 40)
    with pytest.raises(ReleaseError, match="no public key in PEM form"):
        read_public_keys([tmp_path / "noise.pub"])


def test_a_passphrase_file_must_be_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\r\nsecond line\n")
    path.chmod(0o600)
    assert read_passphrase(path) == PASSPHRASE
    path.chmod(0o644)
    with pytest.raises(ReleaseError, match="chmod 600"):
        read_passphrase(path)
    path.write_bytes(b"\n")
    path.chmod(0o600)
    with pytest.raises(ReleaseError, match="found an empty one"):
        read_passphrase(path)


def test_ssh_keygen_reads_the_key_too(private: Path) -> None:
    """A second implementation of the format, where there is one."""
    try:
        done = subprocess.run(
            ["ssh-keygen", "-y", "-P", PASSPHRASE.decode(), "-f", str(private)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"ssh-ed25519 ")
