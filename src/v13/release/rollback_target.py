"""Where a rollback goes: what it would stop, what would serve, and from which backup.

It reads the ledger and the backups, and must not stop, start or enter anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from v13.errors import ReleaseError, StoreError, V13Error
from v13.release.backup import check_backup, list_backups, read_backup
from v13.release.ledger import State
from v13.release.rig import Rig

__all__ = ["EMERGENCY", "Kind", "Target", "find_target", "is_young", "plan"]

EMERGENCY: Final = "emergency"
Kind = Literal["emergency", "full", "automatic"]


@dataclass(frozen=True)
class Target:
    """Where a rollback goes.

    Attributes
    ----------
    bad : str
        The release that is stopped.
    good : str or None
        The release that serves afterwards; None where there is none.
    stamp : int or None
        The backup it comes from; None where its directory stands and it runs, or is to be started as it is.
    also : str or None
        A further release that is stopped: the one in shadow, where a backup of a third one is restored.
    brought : tuple of str
        Releases that are stopped because a rollback that was taken over had started them, or may have.
    """

    bad: str
    good: str | None
    stamp: int | None
    also: str | None = None
    brought: tuple[str, ...] = ()

    @property
    def stopped(self) -> tuple[str, ...]:
        """Return the releases that are stopped."""
        return (self.bad, *(() if self.also is None else (self.also,)), *self.brought)


def find_target(rig: Rig, kind: Kind, stamp: int | None) -> Target:
    """Return what would be stopped and what would serve.

    Raises
    ------
    ReleaseError
        There is no such backup, or none at all to go back to where one is needed.
    """
    state = rig.ledger.state()
    found = _target(rig, state, kind, stamp)
    if state.open is None:
        return found
    return replace(found, brought=tuple(r for r in state.brought if r not in (found.bad, found.good, found.also)))


def _target(rig: Rig, state: State, kind: Kind, stamp: int | None) -> Target:
    bad = state.candidate or state.stable
    if bad is None:
        raise ReleaseError(f"{rig.site.ledger}: nothing has been deployed; there is nothing to roll back")
    if stamp is not None:
        good = str(read_backup(rig.site, stamp)["release"])
        is_third = good not in (bad, state.stable) and bad != state.stable
        return Target(bad, good, stamp, state.stable if is_third else None)
    if state.candidate is not None:
        return Target(state.candidate, state.stable, None)
    if kind == EMERGENCY:
        return Target(bad, None, None)
    for known in reversed(list_backups(rig.site)):
        try:
            good = str(check_backup(rig.site, known)["release"])
        except (ReleaseError, StoreError) as error:  # one that is damaged must not keep an older one from being used
            rig.say(f"backup {known} is passed over: {error}")
            continue
        if good != bad and good not in state.condemned:  # what was taken back once is no place to go back to
            return Target(bad, good, known)
    if kind == "automatic":  # a bad release is stopped, whether or not there is another
        return Target(bad, None, None)
    raise ReleaseError(
        f"{rig.site.backups}: there is no whole backup of another release that was never rolled back; "
        "`--backup-timestamp N` takes a certain one of `--list-backups`, `--type emergency` stops"
    )


def is_young(state: State) -> bool:
    """Return whether a deploy is under way that has built nothing yet; at its end there is no candidate either."""
    now = state.open
    return now is not None and now.kind == "deploy" and state.candidate is None and "build" not in now.done


def plan(rig: Rig, kind: Kind, stamp: int | None) -> list[str]:
    """Return what a rollback would do, without doing any of it.

    Raises
    ------
    ReleaseError
        As `find_target`; also where the backup is damaged.
    """
    state = rig.ledger.state()
    if stamp is None and state.open is not None and is_young(state):
        return [f"end {state.open.kind} {state.open.id}, of which nothing runs yet", "leave alone what serves"]
    target = find_target(rig, kind, stamp)
    lines = [
        f"stop release {' and '.join(target.stopped)}"
        + (f" within {rig.site.config.deploy.emergency_s:g} s" * (kind == EMERGENCY))
    ]
    if target.stamp is not None:
        try:
            check_backup(rig.site, target.stamp)
        except V13Error as error:
            raise ReleaseError(f"backup {target.stamp} cannot be restored: {error}") from error
        lines.append(f"restore release {target.good} from backup {target.stamp} (its bytes were just verified)")
    if target.good is None:
        return [*lines, "leave nothing that serves"]
    given = [s for s in dict.fromkeys(a.symbol for a in state.serving) if state.serves(s) in target.stopped]
    lines.append(f"give {', '.join(given) or 'no symbol'} back to {target.good}, from the last committed bar on")
    return [*lines, f"verify that {target.good} serves with its own configuration"]
