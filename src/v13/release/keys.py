"""Signing keys: an ed25519 pair in two files, the private one encrypted under a passphrase.

The private key belongs on a machine that neither trades nor deploys. No passphrase and no key material may reach a
message, a log, an argument or the environment: passphrases come from a prompt or a file, and are handed on as bytes.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
    load_ssh_private_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from v13.errors import ReleaseError

__all__ = ["make_key", "read_passphrase", "read_private_key", "read_public_key", "read_public_keys", "short"]

MIN_PASSPHRASE_BYTES: Final = 12
MAX_FILE_BYTES: Final = 1 << 16  # a key or a passphrase; anything longer is another file
KDF_ROUNDS: Final = 64  # of bcrypt, about half a second a guess; ssh-keygen takes 16 (24 in later versions)
SHORT_DIGITS: Final = 12  # of a key id, where a person reads it


def make_key(path: Path, passphrase: bytes) -> str:
    """Make a pair of keys: `path` (private, encrypted, mode 0600) and `path`.pub.

    Parameters
    ----------
    path : Path
    passphrase : bytes, at least 12

    Returns
    -------
    str
        The key id: sha256 of the public key in securesystemslib's form, 64 hex digits.

    Raises
    ------
    ReleaseError
        A file is there already (nothing is overwritten), the passphrase is too short, or a file cannot be written.

    Notes
    -----
    OpenSSH's format, as its bcrypt key derivation is slow on purpose; cryptography's PKCS 8 takes 2,048 rounds of
    PBKDF2. `ssh-keygen -y -f PATH` reads it.
    """
    if len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise ReleaseError(f"passphrase: expected at least {MIN_PASSPHRASE_BYTES} characters; take a few random words")
    public_path = path.with_name(path.name + ".pub")
    for place in (path, public_path):
        if place.exists() or place.is_symlink():
            raise ReleaseError(f"{place}: is there already, and a key is never overwritten; take another name")
    private = Ed25519PrivateKey.generate()
    encryption = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(KDF_ROUNDS).build(passphrase)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _put(public_path, public, 0o644)
    try:
        _put(path, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption), 0o600)
    except BaseException:
        public_path.unlink(missing_ok=True)
        raise
    return SSlibKey.from_crypto(private.public_key()).keyid


def read_private_key(path: Path, passphrase: bytes) -> CryptoSigner:
    """Read a private key that `make_key` wrote.

    Raises
    ------
    ReleaseError
        Missing, open to others than its owner, not encrypted, no ed25519 key, or not under this passphrase.
    """
    data = _secret_file(path)
    try:
        private = load_ssh_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is not chained: it could quote what it was given.
        raise ReleaseError(
            f"{path}: cannot be opened: wrong passphrase, or no encrypted private key of `v13 key make`"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ReleaseError(f"{path}: expected an ed25519 key, found {type(private).__name__}")
    return CryptoSigner(private)


def read_public_key(path: Path) -> SSlibKey:
    """Read a public key (PEM).

    Raises
    ------
    ReleaseError
        Missing, or no ed25519 public key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ReleaseError(f"{path}: public key cannot be read: {error.strerror}; `v13 key make` writes it") from error
    if b"PRIVATE KEY" in data:
        raise ReleaseError(f"{path}: expected a public key, found a private one; give the file that ends in .pub")
    try:
        public = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f"{path}: is no public key in PEM form; give the .pub file of `v13 key make`") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ReleaseError(f"{path}: expected an ed25519 key, found {type(public).__name__}")
    return SSlibKey.from_crypto(public)


def read_public_keys(paths: Sequence[Path]) -> list[SSlibKey]:
    """Read several public keys, each once; errors as `read_public_key`, and where there is none."""
    found = {key.keyid: key for key in map(read_public_key, paths)}
    if not found:
        raise ReleaseError("no public key given: a signature is only worth the key it is checked with")
    return list(found.values())


def read_passphrase(path: Path) -> bytes:
    """Return the first line of a passphrase file, which must be its owner's alone.

    Raises
    ------
    ReleaseError
        Missing, open to others, or empty.
    """
    passphrase = _secret_file(path).split(b"\n", 1)[0].rstrip(b"\r")
    if not passphrase:
        raise ReleaseError(f"{path}: expected a passphrase in the first line, found an empty one")
    return passphrase


def short(key_id: str) -> str:
    """Return as much of a key id as a person reads."""
    return key_id[:SHORT_DIGITS]


def _secret_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ReleaseError(f"{path}: expected a file")
    if status.st_mode & 0o077:
        raise ReleaseError(
            f"{path}: others than its owner may open it (mode {stat.S_IMODE(status.st_mode):04o}); `chmod 600` it"
        )
    return data


def _put(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, whole and durable, with its mode from the first moment.

    `v13.store` replaces what is there; a key must not be replaced, so the finished file is linked to its name.
    """
    temp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as sink:
                sink.write(data)
                sink.flush()
                os.fchmod(sink.fileno(), mode)
                os.fsync(sink.fileno())
            os.link(temp, path)
        finally:
            with suppress(FileNotFoundError):
                temp.unlink()
    except FileExistsError as error:
        raise ReleaseError(f"{path}: is there already, and a key is never overwritten; take another name") from error
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be written: {error.strerror}") from error
