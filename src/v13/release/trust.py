"""Trust in a sign-off bundle: who signed it, that it is whole, and that it has not expired.

The signature covers manifest.json and signoff.json by their hashes, and through the manifest every other file. Whether
the verdict follows from the data is another question: `v13 verify` derives it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final

from securesystemslib.signer import CryptoSigner, SSlibKey

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release.envelope import check_times, moment, open_envelope, seal, stamp
from v13.release.keys import read_private_key, read_public_keys

__all__ = [
    "ENVELOPE_FILE",
    "Bundle",
    "Trusted",
    "read_bundle",
    "sign_bundle",
    "sign_with",
    "trust_bundle",
    "verify_bundle",
]

ENVELOPE_FILE: Final = "signoff.dsse.json"
MANIFEST_FILE: Final = "manifest.json"
SIGNOFF_FILE: Final = "signoff.json"
PREDICATE_TYPE: Final = "urn:v13:sign-off:v1"
MAX_JSON_BYTES: Final = 1 << 26  # of manifest.json and signoff.json
VALID_DAYS: Final = 90  # as deploy.max_signoff_age_d
MAX_VALID: Final = timedelta(days=366)
STATED: Final = ("verdict", "key", "simulated")  # what manifest, sign-off and predicate must agree on


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those of its manifest; nothing is known of who made it.

    manifest, signoff : mapping
        The two documents, read from the very bytes that were hashed.
    hashes : mapping
        sha256 of these two files by name.
    """

    folder: Path
    manifest: Mapping[str, Any]
    signoff: Mapping[str, Any]
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Return what stands for the whole bundle: the hash of its manifest."""
        return self.hashes[MANIFEST_FILE]

    @property
    def predicate(self) -> dict[str, Any]:
        """Return what a signer states of the bundle, but for the times of signing."""
        return {name: self.signoff[name] for name in STATED} | {
            "parameters_fingerprint": self.signoff["parameters_fingerprint"],
            "made_utc": self.manifest["created_utc"],
        }


@dataclass(frozen=True)
class Trusted:
    """A bundle that a trusted key signed, whole and not expired.

    sha256 : str
        Of manifest.json, which stands for the whole bundle.
    """

    folder: Path
    key_id: str
    sha256: str
    verdict: str
    key: str
    simulated: bool
    parameters_fingerprint: str
    made: datetime
    signed: datetime
    expires: datetime
    n_files: int


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against its manifest; a signature is not asked for.

    Raises
    ------
    ReleaseError
        Something is missing, changed, too much, a link or no file, or the manifest names a place outside the bundle.
    """
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: expected the folder of a sign-off bundle, found none")
    folder = folder.resolve()
    present = _files(folder)
    for name in (MANIFEST_FILE, SIGNOFF_FILE):
        if name not in present:
            raise ReleaseError(f"{folder}: {name} is missing: it is no sign-off bundle, or a part of one")
    manifest, manifest_sha256 = _document(folder / MANIFEST_FILE)
    signoff, signoff_sha256 = _document(folder / SIGNOFF_FILE)
    outputs = manifest.get("outputs")
    if not isinstance(outputs, dict):
        raise ReleaseError(f"{folder / MANIFEST_FILE}: expected outputs by name; it is no manifest of a sign-off")
    for name in outputs:
        place = PurePosixPath(name)
        is_plain = place.as_posix() == name and "\\" not in name and "\0" not in name
        if not is_plain or place.is_absolute() or not place.parts or ".." in place.parts:
            raise ReleaseError(
                f"{folder / MANIFEST_FILE}: {name!r} leads out of the bundle; a manifest names its files"
            )
    try:
        mismatches = store.manifest.verify(manifest, folder)
    except StoreError as error:
        raise ReleaseError(str(error)) from error
    if mismatches:
        more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
        raise ReleaseError(f"{folder}: {mismatches[0]}{more}: the bundle is not as it was made")
    extra = sorted(present - outputs.keys() - {MANIFEST_FILE, ENVELOPE_FILE})
    if extra:
        raise ReleaseError(f"{folder}: {extra[0]} is not in the manifest; {len(extra)} file(s) too many: remove them")
    if SIGNOFF_FILE not in outputs:
        raise ReleaseError(f"{folder / MANIFEST_FILE}: does not name {SIGNOFF_FILE}; it is no manifest of a sign-off")
    if outputs[SIGNOFF_FILE]["sha256"] != signoff_sha256:
        raise ReleaseError(f"{folder / SIGNOFF_FILE}: changed while it was read")
    for name in STATED:
        if name not in signoff or signoff[name] != manifest.get(name):
            raise ReleaseError(
                f"{folder}: {name}: {MANIFEST_FILE} has {manifest.get(name)!r}, {SIGNOFF_FILE} {signoff.get(name)!r}"
            )
    if not isinstance(signoff.get("parameters_fingerprint"), str) or "created_utc" not in manifest:
        raise ReleaseError(f"{folder}: lacks parameters_fingerprint or created_utc; it is no sign-off bundle of v13")
    return Bundle(folder, manifest, signoff, {MANIFEST_FILE: manifest_sha256, SIGNOFF_FILE: signoff_sha256})


def sign_bundle(
    bundle: Path, private_key: Path, passphrase: bytes, *, now: datetime | None = None, valid_days: int = VALID_DAYS
) -> Path:
    """Sign a bundle as it stands and write its envelope beside the manifest.

    Parameters
    ----------
    bundle, private_key : Path
    passphrase : bytes
        Of the private key.
    now : datetime with zone, optional
    valid_days : int, 1 to 366

    Returns
    -------
    Path
        The envelope; one that was there is replaced.

    Raises
    ------
    ReleaseError
        As `read_bundle` and `keys.read_private_key`: what is not whole is not signed.
    """
    signer = read_private_key(private_key, passphrase)
    return sign_with(read_bundle(bundle), signer, now=now or datetime.now(UTC), valid_days=valid_days)


def sign_with(bundle: Bundle, signer: CryptoSigner, *, now: datetime, valid_days: int = VALID_DAYS) -> Path:
    """Sign a bundle that was read; as `sign_bundle`."""
    if not 1 <= valid_days <= MAX_VALID.days:
        raise ReleaseError(f"valid for {valid_days} days: expected 1 to {MAX_VALID.days}")
    if moment(bundle.predicate["made_utc"], MANIFEST_FILE) > now:
        raise ReleaseError(
            f"{bundle.folder}: was made at {bundle.predicate['made_utc']}, and it is {stamp(now)}: set the clock"
        )
    return seal(
        bundle.folder / ENVELOPE_FILE,
        signer,
        subjects=bundle.hashes,
        predicate_type=PREDICATE_TYPE,
        predicate=bundle.predicate | {"signed_utc": stamp(now), "expires_utc": stamp(now + timedelta(days=valid_days))},
    )


def verify_bundle(bundle: Path, public_keys: Sequence[Path], *, now: datetime | None = None) -> Trusted:
    """Check signature, files and times of a bundle.

    Parameters
    ----------
    bundle : Path
    public_keys : paths of public keys
        Those that are trusted; one signature of theirs is enough.
    now : datetime with zone, optional

    Raises
    ------
    ReleaseError
        Naming what is wrong: no signature, another key, a signature that does not fit, a file that is changed, missing,
        too much or a link, a manifest that was changed or leads outside, another verdict than was signed, expired.
    """
    return trust_bundle(bundle, read_public_keys(public_keys), now=now or datetime.now(UTC))


def trust_bundle(bundle: Path, keys: Sequence[SSlibKey], *, now: datetime) -> Trusted:
    """As `verify_bundle`, with keys that were read."""
    folder = bundle.resolve()
    envelope = folder / ENVELOPE_FILE
    if folder.is_dir() and not os.path.lexists(envelope):
        raise ReleaseError(f"{folder}: is not signed ({ENVELOPE_FILE} is missing); `v13 sign` does it")
    statement = open_envelope(envelope, keys, predicate_type=PREDICATE_TYPE)
    found = read_bundle(folder)
    if statement.subjects.keys() != found.hashes.keys():
        names = ", ".join(sorted(statement.subjects))
        raise ReleaseError(f"{envelope}: expected a signature of {MANIFEST_FILE} and {SIGNOFF_FILE}, found of {names}")
    for name, digest in found.hashes.items():
        if statement.subjects[name] != digest:
            raise ReleaseError(
                f"{folder / name}: is not what was signed: expected sha256 {statement.subjects[name]}, found {digest}"
            )
    stated = statement.predicate
    for name, value in found.predicate.items():
        if stated.get(name) != value:
            raise ReleaseError(f"{envelope}: {name}: signed was {stated.get(name)!r}, the bundle says {value!r}")
    signed = moment(stated.get("signed_utc"), f"{envelope}: signed_utc")
    expires = moment(stated.get("expires_utc"), f"{envelope}: expires_utc")
    made = moment(stated["made_utc"], f"{envelope}: made_utc")
    if made > signed:
        raise ReleaseError(f"{envelope}: signed at {stamp(signed)}, before the bundle was made at {stamp(made)}")
    check_times(signed, expires, now, longest=MAX_VALID, where=str(envelope))
    return Trusted(
        folder=folder,
        key_id=statement.key_id,
        sha256=found.sha256,
        verdict=stated["verdict"],
        key=stated["key"],
        simulated=stated["simulated"],
        parameters_fingerprint=stated["parameters_fingerprint"],
        made=made,
        signed=signed,
        expires=expires,
        n_files=len(found.manifest["outputs"]),
    )


def _files(folder: Path) -> set[str]:
    """Return all files by their place in the bundle; links are refused, wherever they lead."""
    found = set()
    for place, folders, names in os.walk(folder, onerror=_refuse):
        for name in (*folders, *names):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise ReleaseError(f"{path}: is a link to {path.readlink()}; a bundle holds its files itself")
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise ReleaseError(f"{path}: is neither file nor folder; a bundle holds nothing else")
            if stat.S_ISREG(mode):
                found.add(path.relative_to(folder).as_posix())
    return found


def _refuse(error: OSError) -> None:
    raise ReleaseError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _document(path: Path) -> tuple[dict[str, Any], str]:
    """Return a JSON file and the hash of the very bytes it was read from."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ReleaseError(f"{path}: expected at most {MAX_JSON_BYTES:,} bytes, found more")
        document = json.loads(data)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{path}: is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ReleaseError(f"{path}: expected an object, found {type(document).__name__}")
    return document, hashlib.sha256(data).hexdigest()
