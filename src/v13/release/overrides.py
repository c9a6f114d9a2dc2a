"""Overrides: a signed word that one named check may fail, for one bundle, for a stated reason, until a given time.

An override changes no result: the check stays failed, and the deploy record shows the override on its first page. A
forged, expired or foreign one is refused, not passed over: somebody meant it to count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner, SSlibKey

from v13.errors import ReleaseError
from v13.release.envelope import Statement, check_times, moment, open_envelope, seal, stamp
from v13.release.keys import short

__all__ = ["SUFFIX", "Override", "find_overrides", "read_override", "write_override"]

PREDICATE_TYPE: Final = "urn:v13:override:v1"
SUFFIX: Final = ".override.dsse.json"
SUBJECT: Final = "manifest.json"  # its hash stands for the whole bundle
MAX_VALID: Final = timedelta(days=30)
MIN_REASON: Final = 10  # characters; "because" is no reason
MAX_REASON: Final = 1_000
_CHECK: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Override:
    """One check that may fail: which, for which bundle, why, who signed it, from when until when.

    bundle_sha256 : str
        Of the bundle's manifest.json (`Trusted.sha256`).
    key_id : str
        Of the key that signed it, 64 hex digits.
    """

    check: str
    bundle_sha256: str
    reason: str
    key_id: str
    signed: datetime
    expires: datetime
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, for the deploy record; files by name."""
        return asdict(self) | {
            "signed": stamp(self.signed),
            "expires": stamp(self.expires),
            "path": self.path.name,
        }

    def __str__(self) -> str:
        """Return it in one line, for the first page of the record."""
        return f"{self.check}: {self.reason} (key {short(self.key_id)}, until {stamp(self.expires)})"


def write_override(
    folder: Path,
    signer: CryptoSigner,
    *,
    check: str,
    bundle_sha256: str,
    reason: str,
    now: datetime,
    valid_days: float,
) -> Path:
    """Sign an override and write it to `folder`, named by check and bundle; one that was there is replaced.

    Parameters
    ----------
    check : str
        Key of the check that may fail.
    reason : str, 10 to 1,000 characters in one line
    now : datetime with zone
    valid_days : float, above 0, at most 30

    Raises
    ------
    ReleaseError
        Naming what is not as expected.
    """
    _check_facts(check, bundle_sha256, reason, "override")
    if not 0 < valid_days <= MAX_VALID.days:
        raise ReleaseError(f"override: valid for {valid_days:g} days: expected more than 0, at most {MAX_VALID.days}")
    return seal(
        folder / f"{check}-{bundle_sha256[:12]}{SUFFIX}",
        signer,
        subjects={SUBJECT: bundle_sha256},
        predicate_type=PREDICATE_TYPE,
        predicate={
            "check": check,
            "reason": reason,
            "signed_utc": stamp(now),
            "expires_utc": stamp(now + timedelta(days=valid_days)),
        },
    )


def read_override(path: Path, keys: Sequence[SSlibKey], *, bundle_sha256: str, now: datetime) -> Override:
    """Read an override for a bundle.

    Raises
    ------
    ReleaseError
        Not signed by one of `keys`, changed, of another bundle, or expired.
    """
    statement = open_envelope(path, keys, predicate_type=PREDICATE_TYPE)
    override = _override(path, statement)
    if override.bundle_sha256 != bundle_sha256:
        raise ReleaseError(
            f"{path}: is for the bundle {override.bundle_sha256[:12]}, not for {bundle_sha256[:12]}; remove it, "
            "or have one signed for this bundle"
        )
    check_times(override.signed, override.expires, now, longest=MAX_VALID, where=str(path))
    return override


def find_overrides(
    folder: Path, keys: Sequence[SSlibKey], *, bundle_sha256: str, checks: Iterable[str], now: datetime
) -> dict[str, Override]:
    """Return the overrides in a folder by check; no folder, no overrides.

    Parameters
    ----------
    checks : of str
        Keys of the checks there are, and that may be overridden.

    Raises
    ------
    ReleaseError
        As `read_override`; also one for a check that is not among `checks`, or two for one.
    """
    known = set(checks)
    found: dict[str, Override] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        override = read_override(path, keys, bundle_sha256=bundle_sha256, now=now)
        if override.check not in known:
            raise ReleaseError(f"{path}: there is no check {override.check!r} that may be overridden; remove it")
        if override.check in found:
            raise ReleaseError(f"{path}: {override.check} is overridden by {found[override.check].path} already")
        found[override.check] = override
    return found


def _override(path: Path, statement: Statement) -> Override:
    stated = statement.predicate
    if set(statement.subjects) != {SUBJECT}:
        raise ReleaseError(f"{path}: expected an override of one {SUBJECT}, found {', '.join(statement.subjects)}")
    check, reason, bundle = stated.get("check"), stated.get("reason"), statement.subjects[SUBJECT]
    _check_facts(check, bundle, reason, str(path))
    return Override(
        check=str(check),
        bundle_sha256=bundle,
        reason=str(reason),
        key_id=statement.key_id,
        signed=moment(stated.get("signed_utc"), f"{path}: signed_utc"),
        expires=moment(stated.get("expires_utc"), f"{path}: expires_utc"),
        path=path,
    )


def _check_facts(check: object, bundle_sha256: object, reason: object, where: str) -> None:
    if not isinstance(check, str) or _CHECK.fullmatch(check) is None:
        raise ReleaseError(f"{where}: expected the key of a check (small letters, digits, _ . -), found {check!r}")
    if not isinstance(bundle_sha256, str) or _HEX.fullmatch(bundle_sha256) is None:
        raise ReleaseError(f"{where}: expected a bundle's sha256, found {bundle_sha256!r}")
    if not isinstance(reason, str) or not MIN_REASON <= len(reason.strip()) <= MAX_REASON or not reason.isprintable():
        raise ReleaseError(f"{where}: expected a reason of {MIN_REASON} to {MAX_REASON} characters in one line")
