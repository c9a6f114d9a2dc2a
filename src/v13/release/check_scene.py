"""What a check may ask: the site, the time, the bundle that is to be deployed, and how a finding is told.

It is read once a run of the checks, so that all of them speak of the same bytes. It judges nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from v13.errors import ReleaseError
from v13.release.check_result import Status
from v13.release.ledger import DeployLedger, State
from v13.release.site import Site
from v13.release.trust import Bundle, read_bundle

__all__ = ["NO_BUNDLE", "Finding", "Scene", "absent", "bad", "good", "short_hash"]

WAIT_S: Final = 3.0  # for the answer of a server; a deploy asks the same ones every few seconds
HASH_DIGITS: Final = 12  # of a sha256, where a person reads it
NO_BUNDLE: Final = "there is no whole sign-off bundle to look at; see the check `bundle`"


class Finding(NamedTuple):
    """What a check says; what to do is only told where it failed, and only where it differs from the usual."""

    status: Status
    evidence: str
    remedy: str = ""
    facts: Mapping[str, str] = MappingProxyType({})


def good(evidence: str, facts: Mapping[str, str] = MappingProxyType({})) -> Finding:
    """Return that all is well, and what the deploy record takes over."""
    return Finding("ok", evidence, facts=facts)


def bad(evidence: str, remedy: str = "") -> Finding:
    """Return that something is wrong, with a remedy of its own where the usual one does not fit."""
    return Finding("failed", evidence, remedy)


def absent(evidence: str) -> Finding:
    """Return that there is nothing to check here."""
    return Finding("not_applicable", evidence)


def short_hash(sha256: str) -> str:
    """Return the first digits of a hash, as people compare them."""
    return sha256[:HASH_DIGITS]


@dataclass(frozen=True)
class Scene:
    """What a check may ask.

    Attributes
    ----------
    site : Site
    own_operation : str
        The operation that asks; it is not in its own way. Empty: none does.
    now : callable
        The wall clock.
    monotonic_s : callable
    promtool : Path or None
    environ : mapping
    wait_s : float, s
        For an answer of a server.
    """

    site: Site
    own_operation: str = ""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic_s: Callable[[], float] = time.monotonic
    promtool: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    wait_s: float = WAIT_S

    @cached_property
    def began(self) -> tuple[datetime, float]:
        """Return both clocks at the first question."""
        return self.now(), self.monotonic_s()

    @cached_property
    def bundle(self) -> Bundle:
        """Return the bundle, each of its files compared with its manifest; ReleaseError where it is not whole."""
        return read_bundle(self.site.signoff)

    @cached_property
    def state(self) -> State:
        """Return the state by the ledger; the chain is checked."""
        return DeployLedger(self.site.ledger, self.now).state()

    def has_bundle(self) -> bool:
        """Return whether the bundle is whole."""
        try:
            return bool(self.bundle.sha256)
        except ReleaseError:
            return False
