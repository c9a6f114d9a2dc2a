"""What an operation works with: site, ledger, supervisor, clock, and whom it tells.

It is handed to every step, so that a test can be the clock and a rehearsal can bring code of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from v13.errors import ReleaseError
from v13.release.acting import acting
from v13.release.ledger import Claim, DeployLedger, State
from v13.release.site import Site
from v13.release.supervisor import Supervisor

__all__ = ["Clock", "Rig", "SystemClock", "wait_until"]

POLL_S: Final = 0.2


class Clock(Protocol):
    """What an operation may know of time."""

    def now(self) -> datetime:
        """Return the time, with its zone."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since some moment; never less than before."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return when that much time has passed on this clock."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Rig:
    """What an operation works with.

    Attributes
    ----------
    site : Site
    ledger : DeployLedger
    supervisor : Supervisor
    clock : Clock
    say : callable
        Takes one line for whoever watches.
    code : Path or None
        Folder whose content becomes the code of a new release; None: the package that runs here.
    """

    site: Site
    ledger: DeployLedger
    supervisor: Supervisor
    clock: Clock = field(default_factory=SystemClock)
    say: Callable[[str], None] = lambda _: None
    code: Path | None = None

    def acting(self, claim: Claim) -> AbstractContextManager[State]:
        """Hold the only right to change what runs on this machine, with a claim that holds; see `acting`."""
        return acting(self.site.home / "acting.lock", lambda: self.ledger.check(claim))


def wait_until(rig: Rig, claim: Claim | None, seconds: float, what: str, claim_holds: Callable[[], str]) -> float:
    """Wait until something holds; return the seconds it took.

    Parameters
    ----------
    rig : Rig
    claim : Claim or None
        Asked about as well: a superseded worker waits no longer.
    seconds : float, s
        Longest wait.
    what : str
        For the error.
    claim_holds : callable
        Returns the empty string once it holds, and else what is missing.

    Raises
    ------
    SupersededError
        Somebody took over.
    ReleaseError
        It did not hold in time; what was missing last is told.
    """
    began_s = rig.clock.monotonic_s()
    while True:
        missing = claim_holds()
        spent_s = rig.clock.monotonic_s() - began_s
        if not missing:
            return spent_s
        if claim is not None:
            rig.ledger.check(claim)
        if spent_s > seconds:
            raise ReleaseError(f"{what}: not within {seconds:g} s: {missing}")
        rig.clock.sleep(POLL_S)
