"""Signed statements: an in-toto Statement (v1) in a DSSE envelope, one file each.

What a statement means is said by whoever makes it (`trust`, `overrides`); here nothing is believed that no trusted key
has signed, and nothing of a payload is read before its signature has been checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from v13 import store
from v13.errors import ReleaseError
from v13.release.keys import short
from v13.store.chain import canonical

__all__ = ["Statement", "check_times", "moment", "open_envelope", "seal", "stamp"]

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_BYTES: Final = 1 << 20  # of an envelope; ours take a few thousand
CLOCK_SKEW: Final = timedelta(minutes=5)  # between the machine that signs and the one that checks


@dataclass(frozen=True)
class Statement:
    """What a trusted key said: of which files (name to sha256), and what."""

    key_id: str
    subjects: Mapping[str, str]
    predicate: Mapping[str, Any]


def seal(
    path: Path, signer: CryptoSigner, *, subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]
) -> Path:
    """Sign a statement and write its envelope; equal arguments give equal bytes, as ed25519 takes no random number.

    Parameters
    ----------
    path : Path
        A file that is there is replaced.
    subjects : mapping of name to sha256
    predicate : mapping
        JSON values.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    envelope = Envelope(canonical(statement).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    store.write_json(path, envelope.to_dict())
    return path


def open_envelope(path: Path, keys: Sequence[SSlibKey], *, predicate_type: str) -> Statement:
    """Return the statement of an envelope that one of `keys` signed.

    Raises
    ------
    ReleaseError
        Not there or a link, no envelope, signed by none of the keys, its signature does not fit, or it states something
        else than `predicate_type`.
    """
    envelope = _read(path)
    try:
        (key_id,) = envelope.verify(list(keys), 1)
    except VerificationError as error:
        signers, trusted = list(envelope.signatures), [key.keyid for key in keys]
        if set(signers) & set(trusted):
            raise ReleaseError(
                f"{path}: the signature of key {short(next(s for s in signers if s in trusted))} does not fit: the "
                "statement or the signature was changed after signing"
            ) from error
        shown = ", ".join(map(short, signers)) or "nobody"
        raise ReleaseError(
            f"{path}: signed by key {shown}, expected one of {', '.join(map(short, trusted))}; it is not trusted here"
        ) from error
    statement = _statement(path, envelope)
    if statement["predicateType"] != predicate_type:
        raise ReleaseError(f"{path}: expected a statement of type {predicate_type}, found {statement['predicateType']}")
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    return Statement(key_id, subjects, statement["predicate"])


def stamp(time: datetime) -> str:
    """Return a time as statements have it: UTC, whole seconds, RFC 3339."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object, where: str) -> datetime:
    """Read a time with its zone.

    Raises
    ------
    ReleaseError
        It is none.
    """
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise ReleaseError(f"{where}: expected a time like 2026-01-31T12:00:00Z, found {text!r}") from error
    if time.tzinfo is None:
        raise ReleaseError(f"{where}: expected a time with its zone, found {text!r}")
    return time


def check_times(signed: datetime, expires: datetime, now: datetime, *, longest: timedelta, where: str) -> None:
    """Refuse what was signed in the future, holds for too long, or has expired.

    Raises
    ------
    ReleaseError
    """
    if signed > now + CLOCK_SKEW:
        raise ReleaseError(
            f"{where}: signed at {stamp(signed)}, and here it is {stamp(now)}: one of the two clocks is wrong"
        )
    if not signed < expires <= signed + longest:
        raise ReleaseError(
            f"{where}: expected to expire within {longest.days} days of {stamp(signed)}, found {stamp(expires)}"
        )
    if now >= expires:
        raise ReleaseError(f"{where}: expired at {stamp(expires)}, and it is {stamp(now)}; it has to be signed anew")


def _read(path: Path) -> Envelope:
    if path.is_symlink() or not path.is_file():
        found = "a link" if path.is_symlink() else "nothing"
        raise ReleaseError(f"{path}: expected a signed statement, found {found}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ReleaseError(f"{path}: expected at most {MAX_BYTES:,} bytes of a signed statement, found more")
    try:
        envelope = Envelope.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, FormatError, RecursionError) as error:
        raise ReleaseError(f"{path}: is no DSSE envelope: {error!r}"[:300]) from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ReleaseError(f"{path}: expected payload {PAYLOAD_TYPE}, found {str(envelope.payload_type)[:80]!r}")
    if not envelope.signatures:
        raise ReleaseError(f"{path}: carries no signature")
    return envelope


def _statement(path: Path, envelope: Envelope) -> dict[str, Any]:
    """Return the payload if it has the form of a statement; it is signed, so a fault here is its maker's."""
    try:
        statement: dict[str, Any] = json.loads(envelope.payload)
        is_sound = (
            statement["_type"] == STATEMENT_TYPE
            and isinstance(statement["predicateType"], str)
            and isinstance(statement["predicate"], dict)
            and len({s["name"] for s in statement["subject"]}) == len(statement["subject"]) > 0
            and all(isinstance(s["name"], str) and isinstance(s["digest"]["sha256"], str) for s in statement["subject"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{path}: is no in-toto statement: {error!r}") from error
    if not is_sound:
        raise ReleaseError(f"{path}: is no in-toto statement of {STATEMENT_TYPE}")
    return statement
