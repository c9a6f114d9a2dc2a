"""A rollback: stop what is bad, give its symbols back to the bar, and see that what served before serves again.

It takes over whatever is under way, a deploy or a rollback whose worker is gone, from any step of it. While a deploy is
under way the release before never stopped, so nothing has to start; after it, that release is restored and catches up
from the log of the bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from v13 import store
from v13.errors import ConfigError, ReleaseError, StoreError, V13Error
from v13.release import runners
from v13.release.backup import check_backup, restore
from v13.release.build import check_release
from v13.release.handover import handback_rows
from v13.release.ledger import Claim, Operation, State
from v13.release.monitoring import install_monitoring, is_installed, show_targets
from v13.release.rig import Rig, wait_until
from v13.release.rollback_target import EMERGENCY, Kind, Target, find_target, is_young
from v13.release.supervisor import kept_up
from v13.release.verification import after_rollback, settle
from v13.release.workers import is_alive

__all__ = ["RolledBack", "roll_back", "withdraw"]

GRACE_S: Final = 1.0  # of an emergency stop: SIGTERM, and SIGKILL when it is over


@dataclass(frozen=True)
class RolledBack:
    """How a rollback ended.

    Attributes
    ----------
    operation : str
    outcome : str
        rolled_back, or stopped where nothing serves any more.
    target : Target
    seconds : float
        Until it served with its own configuration; what it took to be fed and scraped as well is not counted.
    problems : tuple of str
        What the verification afterwards did not find as it should be.
    """

    operation: str
    outcome: str
    target: Target
    seconds: float
    problems: tuple[str, ...]


def withdraw(rig: Rig, reason: str) -> str | None:
    """End a deploy of which nothing runs yet, and leave alone what serves.

    Who stops a deploy means that deploy: in its first steps there is no candidate, and a rollback would take the stable
    release for the bad one.

    Returns
    -------
    str or None
        The operation that was ended; None where no deploy is that young.

    Raises
    ------
    ReleaseError
        It ended meanwhile by itself.
    """
    state = rig.ledger.state()
    if state.open is None or not is_young(state):
        return None
    claim = rig.ledger.take(state.open.id)
    if not is_young(rig.ledger.check(claim)):  # it was faster: there is something to take back now
        return None
    rig.ledger.end(claim, "failed", f"aborted: {reason}")
    return claim.operation


def roll_back(
    rig: Rig,
    *,
    kind: Kind,
    reason: str,
    stamp: int | None = None,
    evidence: Mapping[str, Any] | None = None,
    of: str | None = None,
    goes_on: bool = False,
) -> RolledBack:
    """Roll back, from whatever state the deploy is in.

    Parameters
    ----------
    rig : Rig
    kind : str
        emergency: stop within `deploy.emergency_s`, then give back what can be. full: also restore a backup. automatic:
        full, by a guard or a failed deploy.
    reason : str
    stamp : int, optional
        Unix time of the backup. Default: the release that runs in shadow, else the newest backup of another release.
    evidence : mapping, optional
        How it is known that the release is bad; plain values.
    of : str, optional
        The release that is bad. Where another is on its way or serves by now, it is refused.
    goes_on : bool
        Take up the rollback that is under way; kind, stamp and target are its own.

    Raises
    ------
    ReleaseError
        There is nothing to roll back, a rollback is at work already, or it did not succeed in time; the ledger says how
        far it came, and the same command goes on. What serves changed while it was planned.
    """
    began_s = rig.clock.monotonic_s()
    if goes_on:
        claim = rig.ledger.resume()
        facts = _operation(rig, claim).facts
        kind, target = facts["type"], _target_of(facts)
    else:
        target = find_target(rig, kind, stamp)
        if of is not None and target.bad != of:
            raise ReleaseError(f"release {of} was taken back already: {target.bad} serves, and is left alone")
        if target.stamp is not None:
            check_backup(rig.site, target.stamp)  # before anything is stopped
        facts = {
            "type": kind,
            "reason": reason,
            "env": rig.site.env,
            "evidence": dict(evidence or {}),
            **target.__dict__,
        }
        try:
            claim = rig.ledger.begin(
                "rollback",
                facts,
                take_over=lambda now: _may_end(now, kind),
                fits=lambda now: (now.candidate or now.stable) == target.bad,
            )
        except StoreError as error:
            if kind != EMERGENCY:
                raise
            raise ReleaseError(
                f"{_stopped_unentered(rig, target)}; {error}; the ledger knows nothing of it before that"
            ) from error
    stop_s = rig.clock.monotonic_s()
    if kind == EMERGENCY:  # before the lock: whoever holds it may take seconds
        rig.supervisor.ensure_up()
        for release in target.stopped:
            runners.stop(rig, release, GRACE_S)
    stop_s = rig.clock.monotonic_s() - stop_s
    settle_s = 0.0
    for step, act in _STEPS.items():
        operation = _operation(rig, claim)
        if step in operation.done:
            continue
        rig.say(f"rollback: {step} ...")
        found, rows = act(rig, claim, target, kind)
        if step == "stop":
            found["seconds"] = round(found["seconds"] + stop_s, 3)
        settle_s = found.get("settle_seconds", 0.0)
        rig.ledger.done(claim, step, found, rows)
    done = _operation(rig, claim).done
    problems = tuple(done["verify"]["problems"])
    limit_s = rig.site.config.deploy.emergency_s
    if kind == EMERGENCY and done["stop"]["seconds"] > limit_s:
        problems += (f"the stop took {done['stop']['seconds']:.1f} s, allowed are {limit_s:g}",)
    outcome = "stopped" if target.good is None else "rolled_back"
    state = rig.ledger.check(claim)
    rows = [("candidate", {"release": None})]
    if target.good is not None and target.good != state.stable:
        rows.append(("stable", {"release": target.good}))
    rig.ledger.end(claim, outcome, reason, rows)
    return RolledBack(claim.operation, outcome, target, rig.clock.monotonic_s() - began_s - settle_s, problems)


def _stopped_unentered(rig: Rig, target: Target) -> str:
    """Stop a release though the ledger cannot take it, as on a full disk; return what came of it."""
    problems = []
    for name in (f"runner-{target.bad}", f"closure-{target.bad}"):
        try:
            rig.supervisor.stop(name, GRACE_S)
        except V13Error as error:
            problems.append(str(error))
    port = rig.ledger.state().slots.get(target.bad)
    is_silent = port is None or isinstance(runners.ask(rig.site, port), str)
    said = f"release {target.bad} " + ("was stopped" if is_silent else f"still answers on port {port}")
    return "; ".join([f"{said}, and nothing of it was entered", *problems])


_Done = tuple[dict[str, Any], list[tuple[str, Any]]]


def _stop(rig: Rig, claim: Claim, target: Target, kind: Kind) -> _Done:
    began_s = rig.clock.monotonic_s()
    with rig.acting(claim) as state:
        rig.supervisor.ensure_up()
        for release in target.stopped:
            runners.stop(rig, release, GRACE_S if kind == EMERGENCY else None)
            runners.remove(rig, release)
        show_targets(rig, _running(state, but=target.stopped))
        # A rollback before this one may have had the good release started already, on the port that became free.
        others = _held(rig, state, but=target.stopped)
        ports = {r: p for r in target.stopped if (p := state.slots.get(r)) is not None and p not in others}
        for release, port in ports.items():
            if not isinstance(runners.ask(rig.site, port), str):
                raise ReleaseError(f"port {port} still answers after {release} was stopped; find out who holds it")
    return {"releases": list(target.stopped), "seconds": round(rig.clock.monotonic_s() - began_s, 3)}, []


def _restore(rig: Rig, claim: Claim, target: Target, kind: Kind) -> _Done:  # noqa: ARG001
    """Have the good release run: it does already while a deploy is under way; else it starts and catches up."""
    if target.good is None:
        return {"release": None}, []
    site, state = rig.site, rig.ledger.check(claim)
    evidence: dict[str, Any] = {"release": target.good, "stamp": target.stamp}
    with rig.acting(claim):
        if target.stamp is not None:
            evidence["release"] = restore(site, target.stamp, rig.say)
        check_release(site.release(target.good))
        rig.supervisor.ensure_up()
        was_up = rig.supervisor.state(f"runner-{target.good}").state in runners.UP
        port = kept_up(rig.supervisor, lambda: _started(rig, state, target))
    evidence |= {"port": port, "was_running": was_up}
    return evidence, [("slot", {"release": target.good, "port": port})]


def _started(rig: Rig, state: State, target: Target) -> int:
    """Have the good release run; return its port."""
    site, good = rig.site, str(target.good)
    port = _port(rig, state, good)
    if port is None or rig.supervisor.state(f"runner-{good}").state not in runners.UP:
        # Its last port first: where it ended this very moment it is being started there again.
        held, ports = _held(rig, state), site.config.deploy.ports
        free = [p for p in (port, *ports) if p in ports and p not in held]
        if not free:
            raise ReleaseError(f"no port of {list(ports)} is free for {good}; see `v13 deploy status`")
        port = next(p for p in free if p is not None)
        warm_from = None if target.bad == good else site.event_log(target.bad)
        runners.write_overlay(site, good, port, runners.symbols_of(site, good), warm_from)
    runners.start(rig, good, port)
    return port


def _handback(rig: Rig, claim: Claim, target: Target, kind: Kind) -> _Done:  # noqa: ARG001
    if target.good is None:
        return {"symbols": []}, []
    state, rows = rig.ledger.check(claim), []
    followed = _followed(rig, target.good)
    for release in target.stopped:
        if release != target.good:
            rows += handback_rows(rig.site, state, release, target.good, followed)
    served = dict.fromkeys(a.symbol for a in state.serving if state.serves(a.symbol) in target.stopped)
    left = [symbol for symbol in served if symbol not in followed]
    return {"symbols": [[facts["symbol"], facts["from_ms"]] for _, facts in rows], "left": left}, rows


def _followed(rig: Rig, release: str) -> tuple[str, ...]:
    try:
        return runners.followed(rig.site, release)
    except ConfigError:  # what cannot be read keeps no rollback from going on
        return runners.symbols_of(rig.site, release)


def _verify(rig: Rig, claim: Claim, target: Target, kind: Kind) -> _Done:  # noqa: ARG001
    if target.good is None:
        return {"release": None, "problems": []}, []
    state = rig.ledger.check(claim)
    port = state.slots[target.good]
    spent_s = wait_until(
        rig,
        claim,
        rig.site.config.deploy.rollback_s,
        f"release {target.good} serves again",
        lambda: runners.missing_of(rig.site, str(target.good), port),
    )
    with rig.acting(claim):
        show_targets(rig, {target.good: port})  # not before it answers: it would count as away
        store.point(rig.site.current, rig.site.release(target.good))
        unguarded = runners.keep_guard(rig)
        unwatched = _watched_as(rig, target.good)
    settle_s = settle(rig, claim, port, rig.site.config.deploy.rollback_s - spent_s)
    facts = after_rollback(rig, target.good, port)
    left = _operation(rig, claim).done["handback"].get("left", ())
    said = {
        "guard": unguarded,
        "rules": unwatched,
        "symbols": f"{', '.join(left)}: {target.good} does not follow them, and nobody serves them" if left else "",
    }
    facts["problems"] += [f"{what}: {why}" for what, why in said.items() if why]
    spent = {"seconds": round(spent_s, 3), "settle_seconds": round(settle_s, 3)}
    return {"release": target.good, "port": port, **spent, **facts}, []


def _watched_as(rig: Rig, release: str) -> str:
    """Have the rules in force that a release came with, not those of one that was stopped; return why they are not."""
    try:
        if not is_installed(rig.site, release):
            install_monitoring(rig, release, put_back=False)
    except (V13Error, OSError) as error:  # it serves all the same
        return str(error)
    return ""


_STEPS: Final[Mapping[str, Callable[[Rig, Claim, Target, Kind], _Done]]] = {
    "stop": _stop,
    "restore": _restore,
    "handback": _handback,
    "verify": _verify,
}


def _held(rig: Rig, state: State, but: tuple[str, ...] = ()) -> set[int | None]:
    """Return the ports on which a release of ours runs, those of `but` left out."""
    up = [r for r in state.slots if r not in but and rig.supervisor.state(f"runner-{r}").state in runners.UP]
    return {_port(rig, state, release) for release in up}


def _port(rig: Rig, state: State, release: str) -> int | None:
    """Return the port a release was started on last, which the ledger learns of only afterwards; None: on none."""
    try:
        return runners.overlay_port(rig.site, release)
    except ConfigError:  # what cannot be read keeps no rollback from going on
        return state.slots.get(release)


def _running(state: State, but: tuple[str, ...]) -> dict[str, int]:
    running = [r for r in (state.stable, state.candidate) if r is not None and r not in but]
    return {r: state.slots[r] for r in running if r in state.slots}


def _may_end(running: Operation, kind: Kind) -> bool:
    """Return whether a rollback may take over: from a deploy always; from a rollback not at work, or to stop now."""
    if running.kind != "rollback" or not is_alive(running.worker):
        return True
    return kind == EMERGENCY and running.facts["type"] != EMERGENCY


def _target_of(facts: Mapping[str, Any]) -> Target:
    """Return the target a rollback began with."""
    brought = tuple(facts.get("brought", ()))
    return Target(facts["bad"], facts["good"], facts["stamp"], facts["also"], brought)


def _operation(rig: Rig, claim: Claim) -> Operation:
    operation = rig.ledger.check(claim).operation
    assert operation is not None
    return operation
