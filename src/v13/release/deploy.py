"""A deploy: check, backup, build, start, and then symbol by symbol hand-over and observation, until all are over.

Each step is entered in the ledger when it is done and does nothing a second time, so that whoever runs the same command
goes on where the last worker stopped or was killed. What goes wrong once the new release runs is taken back at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from v13 import store
from v13.config.parameters import read_parameters
from v13.errors import ReleaseError, V13Error
from v13.release import runners
from v13.release.backup import ensure_backup, prune_backups
from v13.release.build import BUNDLE, build_release, check_release, release_name, settings_sha256
from v13.release.check import CheckResult, run_checks
from v13.release.handover import handover_rows, passed
from v13.release.ledger import Claim, Operation, State, SupersededError, whoami
from v13.release.monitoring import install_monitoring, show_targets
from v13.release.observation import HeldError, TakeBackError, observe
from v13.release.rig import Rig, wait_until
from v13.release.rollback import RolledBack, roll_back
from v13.release.supervisor import Program, kept_up
from v13.release.workers import this_process

__all__ = ["Deployed", "deploy", "plan", "resume"]

REST: Final = "rest"
ROOM_S: Final = 30.0  # for a hand-over two bars away


@dataclass(frozen=True)
class Deployed:
    """How a deploy ended: completed, refused, held, rolled_back or failed; and why."""

    operation: str
    outcome: str
    why: str
    release: str | None
    checks: tuple[CheckResult, ...] = ()


def plan(rig: Rig) -> list[str]:
    """Return the steps of a deploy, in order."""
    steps = ["check", "backup", "build", "monitoring", "start"]
    for at, group in enumerate(groups(rig)):
        steps += [*([f"extend:{group}"] if at else []), f"handover:{group}", f"observe:{group}"]
    return [*steps, "promote"]


def groups(rig: Rig) -> dict[str, tuple[str, ...]]:
    """Return the symbols that go over together, by the name of their step: each of the canary list, then the rest."""
    symbols = rig.site.symbols
    first = [s for s in rig.site.config.deploy.canary if s in symbols] or [symbols[0]]
    rest = tuple(s for s in symbols if s not in first)
    return {**{s: (s,) for s in first}, **({REST: rest} if rest else {})}


def _groups(state: State) -> dict[str, tuple[str, ...]]:
    """Return the groups the deploy under way began with, whatever the settings say by now."""
    facts = _of(state).facts
    names = [group for step, _, group in (one.partition(":") for one in facts["steps"]) if step == "handover"]
    return {n: tuple(s for s in facts["symbols"] if s not in names) if n == REST else (n,) for n in names}


def deploy(rig: Rig, reason: str) -> Deployed:
    """Deploy the sign-off of the site.

    Raises
    ------
    ReleaseError
        Another operation is under way.
    """
    state = rig.ledger.state()
    facts = {
        **{"reason": reason, "stable": state.stable, "env": rig.site.env, "steps": plan(rig)},
        **{"symbols": list(rig.site.symbols), "signoff": str(rig.site.signoff)},
    }
    return _carry_out(rig, rig.ledger.begin("deploy", facts))


def resume(rig: Rig) -> Deployed | RolledBack:
    """Go on with the operation whose worker is gone, or that was paused.

    Raises
    ------
    ReleaseError
        There is none, or its worker is at work.
    """
    running = rig.ledger.state().open
    if running is not None and running.kind == "rollback":
        return roll_back(rig, kind=running.facts["type"], reason=running.facts["reason"], goes_on=True)
    claim = rig.ledger.resume()
    if running is not None and running.paused:
        rig.ledger.pause(paused=False, reason="resumed")
    return _carry_out(rig, claim)


def _carry_out(rig: Rig, claim: Claim) -> Deployed:
    state = rig.ledger.check(claim)
    try:
        for step in _of(state).facts["steps"]:
            state = rig.ledger.check(claim)
            if _of(state).paused:
                return _ended(state, "held", f"paused before {step}; `v13 deploy resume` goes on")
            if step in _of(state).done:
                continue
            rig.say(f"{step} ...")
            name, _, group = step.partition(":")
            evidence, rows = _STEPS[name](rig, claim, state, group)
            rig.ledger.done(claim, step, evidence, rows)
    except _RefusedError as refused:
        return _over(rig, claim, "refused", str(refused), refused.results)
    except HeldError as held:
        with suppress(SupersededError):
            rig.ledger.enter(claim, "pause", {"paused": True, "reason": str(held), "by": whoami()})
        return _ended(rig.ledger.state(), "held", str(held))
    except SupersededError as error:
        return Deployed(claim.operation, "superseded", str(error), None)
    except (V13Error, OSError) as error:
        try:
            return _failed(rig, claim, error)
        except SupersededError as superseded:  # the guard was faster
            return Deployed(claim.operation, "superseded", f"{error}; {superseded}", None)
    return _over(rig, claim, "completed", "all symbols are over")


def _over(rig: Rig, claim: Claim, outcome: str, why: str, checks: tuple[CheckResult, ...] = ()) -> Deployed:
    """End it, unless somebody took over at the last moment; nothing is on its way any more."""
    try:
        rig.ledger.end(claim, outcome, why, [("candidate", {"release": None})])
    except SupersededError as error:
        return Deployed(claim.operation, "superseded", str(error), None, checks)
    return _ended(rig.ledger.state(), outcome, why, checks)


def _failed(rig: Rig, claim: Claim, error: Exception) -> Deployed:
    """Take back what runs of the new release; where nothing does, there is nothing to take back."""
    state = rig.ledger.check(claim)
    if "monitoring" not in _of(state).done:
        rig.ledger.end(claim, "failed", str(error), [("candidate", {"release": None})])
        return _ended(rig.ledger.state(), "failed", str(error))
    evidence = error.evidence if isinstance(error, TakeBackError) else {}
    try:
        bad = state.candidate or state.stable
        taken = roll_back(rig, kind="automatic", reason=str(error), evidence=evidence, of=bad)
    except ReleaseError:
        last = rig.ledger.state().operation
        if last is None or last.kind != "rollback" or last.worker == this_process():
            raise
        return Deployed(claim.operation, "superseded", f"{error}; {last.id} takes it back", None)
    return Deployed(claim.operation, taken.outcome, str(error), state.candidate)


# Steps. Each returns its evidence and the ledger rows that become true by it, and may be run again after a kill.

_Done = tuple[dict[str, Any], list[tuple[str, Any]]]


class _RefusedError(ReleaseError):
    def __init__(self, results: list[CheckResult]) -> None:
        failed = [r for r in results if r.status == "failed"]
        super().__init__("; ".join(f"{r.title}: {r.evidence}" for r in failed))
        self.results = tuple(results)


def _check(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    settings = settings_sha256(rig.site.root / "config")  # before they are looked at
    results = run_checks(rig.site, operation=claim.operation, now=rig.clock.now)
    if any(r.status == "failed" for r in results):
        rig.ledger.enter(claim, "checked", {"checks": [r.to_dict() for r in results]})
        raise _RefusedError(results)
    return {"checks": [r.to_dict() for r in results], "settings_sha256": settings}, []


def _backup(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    if state.stable is None:
        return {"stamp": None, "why": "nothing has been deployed before"}, []
    with rig.acting(claim):
        stamp = ensure_backup(rig.site, state, state.stable, f"before {claim.operation}", rig.clock.now())
        gone = prune_backups(rig.site, rig.site.config.deploy.keep_backups, spare=stamp)
    rig.say(f"backup {stamp} of {state.stable}")
    return {"stamp": stamp, "release": state.stable, "removed": gone}, []


def _build(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    signoff = store.read_json(rig.site.signoff / "signoff.json")
    release = release_name(claim.operation, signoff["parameters_fingerprint"])
    with rig.acting(claim):
        made = build_release(rig.site, release, code=rig.code)
    _is_as_checked(state, rig.site.release(release))
    port = _free_slot(rig, state)
    evidence = {
        "release": release,
        "port": port,
        "n_files": len(made["files"]),
        **{name: made[name] for name in ("signoff_sha256", "verdict", "simulated", "parameters_fingerprint")},
    }
    rows = [("candidate", {"release": release}), ("slot", {"release": release, "port": port})]
    return evidence, rows


def _is_as_checked(state: State, folder: Path) -> None:
    """Refuse what was built of another sign-off or of other settings than the checks saw, hours or a moment before."""
    checked = _of(state).done["check"]
    seen: Mapping[str, str] = next((c.get("facts", {}) for c in checked["checks"] if c["key"] == "bundle"), {})
    for name in ("manifest", "signoff"):
        if store.sha256_file(folder / BUNDLE / f"{name}.json") != seen.get(f"{name}_sha256"):
            raise ReleaseError(f"{name}.json of the sign-off is not the one that was checked; deploy anew")
    if settings_sha256(folder / "config") != checked.get("settings_sha256"):
        raise ReleaseError("config/ is not as it was when it was checked; deploy anew")


def _free_slot(rig: Rig, state: State) -> int:
    taken = None if state.stable is None else state.slots.get(state.stable)
    return next(p for p in rig.site.config.deploy.ports if p != taken)


def _monitoring(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    assert state.candidate is not None
    with rig.acting(claim):
        evidence = install_monitoring(rig, state.candidate)
        kept_up(rig.supervisor, lambda: _renew(rig, runners.guard_program(rig.site)))
    return evidence, []


def _renew(rig: Rig, program: Program) -> None:
    rig.supervisor.install(program)
    rig.supervisor.stop(program.name)  # one that ran may be of another code
    rig.supervisor.start(program.name)


def _start(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    release, port = _candidate(state)
    site = rig.site
    check_release(site.release(release))
    # What has nothing to be warmed from is not ready while a symbol of it is cold: a first release follows all at once.
    first = tuple(_of(state).facts["symbols"]) if state.stable is None else next(iter(_groups(state).values()))
    warm_from = None if state.stable is None else site.event_log(state.stable)
    with rig.acting(claim):
        runners.write_overlay(site, release, port, first, warm_from)
        kept_up(rig.supervisor, lambda: runners.start(rig, release, port))
    _until(rig, claim, state, "answers", lambda: runners.why_silent(site, port))
    with rig.acting(claim):  # not before: what does not answer while it starts would count as away for an hour
        show_targets(rig, _running(state))
    spent_s = _until_ready(rig, claim, state, len(first))
    answer = runners.ask(site, port)
    return {"port": port, "symbols": list(first), "seconds": round(spent_s, 3), "answer": _plain(answer)}, []


def _extend(rig: Rig, claim: Claim, state: State, group: str) -> _Done:
    release, port = _candidate(state)
    symbols: list[str] = []
    for name, members in _groups(state).items():
        symbols += members
        if name == group:
            break
    if state.stable is None:
        return {"symbols": symbols, "why": "a first release follows all from its start"}, []
    warm_from = None if state.stable is None else rig.site.event_log(state.stable)
    with rig.acting(claim):
        runners.write_overlay(rig.site, release, port, symbols, warm_from)
    spent_s = _until_ready(rig, claim, state, len(symbols))
    return {"symbols": symbols, "seconds": round(spent_s, 3)}, []


def _handover(rig: Rig, claim: Claim, state: State, group: str) -> _Done:
    release, _ = _candidate(state)
    site, symbols = rig.site, _groups(state)[group]
    folder = site.release(release) / "runs/real_test"
    bar_ms = read_parameters(folder / "best_global.yaml", folder / "best_by_bucket.yaml").params.features.bar_ms
    shadow = _shadow(rig, state)
    made = handover_rows(site, symbols, state.stable, release, bar_ms, old_runs=shadow is not None)
    with rig.acting(claim):
        for kind, facts in made:  # entered before it is waited for: a kill here leaves times that both will pass
            if state.serves(facts["symbol"]) != release:
                rig.ledger.enter(claim, kind, facts)
    now = rig.ledger.check(claim)
    times = {s: next(a.from_ms for a in reversed(now.serving) if a.symbol == s) for s in symbols}
    waited = [("assign", {"symbol": s, "from_ms": t}) for s, t in times.items()]
    both = [release] if shadow is None else [release, shadow]
    wait_until(rig, claim, ROOM_S, f"hand-over of {', '.join(symbols)}", lambda: passed(site, waited, both))
    return {"from": state.stable, "to": release, "from_ms": times}, []


def _observe(rig: Rig, claim: Claim, state: State, group: str) -> _Done:
    release, port = _candidate(state)
    shadow = _shadow(rig, state)
    beside = (None, None) if shadow is None else (shadow, state.slots[shadow])
    symbols = [s for s in dict.fromkeys(a.symbol for a in state.serving) if state.serves(s) == release]
    return observe(rig, claim, f"observe:{group}", (release, port), beside, symbols), []


def _promote(rig: Rig, claim: Claim, state: State, group: str) -> _Done:  # noqa: ARG001
    release, port = _candidate(state)
    with rig.acting(claim):
        check_release(rig.site.release(release))
        stamp = ensure_backup(rig.site, state, release, f"promoted by {claim.operation}", rig.clock.now())
        store.point(rig.site.current, rig.site.release(release))
        if state.stable is not None:
            runners.stop(rig, state.stable)
            runners.remove(rig, state.stable)
        show_targets(rig, {release: port})
    dropped = [s for s in dict.fromkeys(a.symbol for a in state.serving) if state.serves(s) != release]
    for symbol in dropped:
        rig.say(f"{symbol}: this release does not follow it; nobody serves it from now on")
    evidence = {"release": release, "retired": state.stable, "stamp": stamp, "no_longer_served": dropped}
    return evidence, [("stable", {"release": release}), ("candidate", {"release": None})]


_STEPS: Final[Mapping[str, Callable[[Rig, Claim, State, str], _Done]]] = {
    "check": _check,
    "backup": _backup,
    "build": _build,
    "monitoring": _monitoring,
    "start": _start,
    "extend": _extend,
    "handover": _handover,
    "observe": _observe,
    "promote": _promote,
}


def _shadow(rig: Rig, state: State) -> str | None:
    """Return the stable release where it runs or is about to again; after an emergency stop it is known and is not.

    One whose runner or supervisor was killed this very moment is still what the new release is compared with.
    """
    at = {program.name: program.state for program in rig.supervisor.states()}
    is_up = state.stable is not None and at.get(f"runner-{state.stable}", "stopped") not in ("stopped", "failed")
    return state.stable if is_up else None


def _until_ready(rig: Rig, claim: Claim, state: State, n_symbols: int) -> float:
    release, port = _candidate(state)

    def missing() -> str:
        return runners.is_warm_and_fed(rig.site, release, port, n_symbols)

    return _until(rig, claim, state, "warm and fed", missing)


def _until(rig: Rig, claim: Claim, state: State, what: str, missing: Callable[[], str]) -> float:
    """Wait for something of the candidate as long as it stays up; return the seconds it took."""
    release, _ = _candidate(state)

    def missing_now() -> str:
        at = rig.supervisor.state(f"runner-{release}")
        if at.state == "failed":
            raise ReleaseError(f"release {release} does not stay up: {at.detail}")
        return missing()

    return wait_until(rig, claim, rig.site.config.deploy.ready_s, f"release {release} {what}", missing_now)


def _plain(answer: runners.Answer | str) -> Any:
    return answer if isinstance(answer, str) else answer._asdict()


def _candidate(state: State) -> tuple[str, int]:
    if state.candidate is None:
        raise ReleaseError("the ledger names no release on its way; begin the deploy anew")
    return state.candidate, state.slots[state.candidate]


def _running(state: State) -> dict[str, int]:
    """Return the releases that run during a deploy, with their ports."""
    return {r: state.slots[r] for r in (state.stable, state.candidate) if r is not None and r in state.slots}


def _of(state: State) -> Operation:
    assert state.operation is not None
    return state.operation


def _ended(state: State, outcome: str, why: str, checks: tuple[CheckResult, ...] = ()) -> Deployed:
    release = state.candidate or (state.stable if outcome == "completed" else None)
    return Deployed(_of(state).id, outcome, why, release, checks)
