"""The deploy ledger: every transition of every deploy and rollback, who made it and why; and the state that follows.

Rows are never changed and each holds the hash of the one before. The state is a fold over them, so there is nothing
else to be kept in step. Whoever acts holds a claim: a row that makes it the worker of an operation. A later claim, such
as a rollback's, ends all earlier ones, and what a superseded worker still tries to enter is refused.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from v13.errors import ReleaseError
from v13.release.workers import Worker, is_alive, this_process
from v13.store.chain import ChainedLog, Row, Transaction

__all__ = [
    "Assignment",
    "Claim",
    "DeployLedger",
    "Operation",
    "State",
    "SupersededError",
    "fold",
    "what_next",
    "whoami",
]

APPLICATION_ID: Final = 0x56313344  # "V13D" in the file's header
SCHEMA: Final = 1
DEPLOY: Final = "deploy"
ROLLBACK: Final = "rollback"
OUTCOMES: Final = ("completed", "refused", "rolled_back", "failed", "superseded", "stopped")


class SupersededError(ReleaseError):
    """Somebody else has taken over: whatever this worker was about to do must not be done."""


@dataclass(frozen=True)
class Assignment:
    """From `from_ms` on (close time of a bar, epoch ms) the events of a symbol are those of a release."""

    symbol: str
    from_ms: int
    release: str


@dataclass(frozen=True)
class Operation:
    """One deploy or rollback.

    Attributes
    ----------
    id : str
    kind : str
        deploy or rollback.
    facts : mapping
        What it began with: by, reason, type, release, stable, symbols.
    worker : Worker
        The process that carries it out, or did.
    claim : int
        Row that made it the worker.
    begun_utc : str
    done : mapping of step to evidence
        In the order in which they were done.
    paused : bool
    outcome : str or None
        None while it is open.
    why : str
        Of its end.
    """

    id: str
    kind: str
    facts: Mapping[str, Any]
    worker: Worker
    claim: int
    begun_utc: str
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paused: bool = False
    outcome: str | None = None
    why: str = ""


@dataclass(frozen=True)
class State:
    """What follows from all rows.

    Attributes
    ----------
    n_rows : int
    stable : str or None
        The release that has been promoted, and serves whatever is not assigned to another.
    candidate : str or None
        The release on its way, of the open operation.
    operation : Operation or None
        The last one; open where its outcome is None.
    serving : tuple of Assignment
        In the order in which they were made; of a symbol and a time the last one holds that is not later.
    slots : mapping of release to port
        Of the exporters of all releases that were ever started; the last release on a port has it.
    condemned : frozenset of str
        Releases that were rolled back.
    brought : tuple of str
        Releases that the rollback under way was to bring back, and those before it that were taken over: what they
        started may run and serve.
    """

    n_rows: int = 0
    stable: str | None = None
    candidate: str | None = None
    operation: Operation | None = None
    serving: tuple[Assignment, ...] = ()
    slots: Mapping[str, int] = field(default_factory=dict)
    condemned: frozenset[str] = frozenset()
    brought: tuple[str, ...] = ()

    @property
    def open(self) -> Operation | None:
        """Return the operation that is not over."""
        return self.operation if self.operation is not None and self.operation.outcome is None else None

    def serves(self, symbol: str) -> str | None:
        """Return the release whose events of a symbol count from now on."""
        return next((a.release for a in reversed(self.serving) if a.symbol == symbol), None)


@dataclass(frozen=True)
class Claim:
    """The right to act for an operation, until somebody takes it over."""

    operation: str
    row: int


def _never(_: Operation) -> bool:
    return False


class DeployLedger:
    """The ledger at `path`; the first operation makes the file.

    Parameters
    ----------
    path : Path
    now : callable
        The clock.

    Notes
    -----
    Every method raises StoreError as `ChainedLog` does; nothing was entered then.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self.now = now
        self._log = ChainedLog(path, application_id=APPLICATION_ID, schema=SCHEMA, now=now)

    def rows(self) -> list[Row]:
        """Return all rows, oldest first, the chain checked."""
        return self._log.rows()

    def state(self) -> State:
        """Return the state."""
        return fold(self.rows())

    def verify(self) -> str:
        """Check file and chain; return the hash of the last row."""
        return self._log.verify()

    def begin(
        self,
        kind: str,
        facts: Mapping[str, Any],
        *,
        take_over: Callable[[Operation], bool] = _never,
        fits: Callable[[State], bool] = lambda _: True,
    ) -> Claim:
        """Begin an operation and become its worker.

        Parameters
        ----------
        kind : str
            deploy or rollback.
        facts : mapping
            Plain values; `by` is added.
        take_over : callable
            Whether to end the operation that is under way, as a rollback does a deploy.
        fits : callable
            Whether the facts are still true of what the ledger says now that nobody else can write.

        Raises
        ------
        ReleaseError
            An operation is under way, and is not to be ended; or the facts are of a state that is over.
        """
        with self._log.transaction(create=True) as entries:
            state = fold(entries.rows)
            running = state.open
            before = state.operation
            if before is not None and "env" in facts and before.facts.get("env", facts["env"]) != facts["env"]:
                raise ReleaseError(
                    f"{self.path}: holds releases of environment {before.facts['env']}, not {facts['env']}; give each "
                    "environment a deploy.home of its own"
                )
            if running is not None and not take_over(running):
                raise ReleaseError(
                    f"{running.kind} {running.id} of {running.facts['by']} is not over ({_worker(running)}); "
                    f"{what_next(running)}"
                )
            if not fits(state):
                raise ReleaseError(f"{self.path}: what serves changed meanwhile; nothing was done: `v13 deploy status`")
            if running is not None:
                entries.append("end", running.id, {"outcome": "superseded", "why": str(facts.get("reason", ""))})
            name = f"{self.now().astimezone(UTC):%Y%m%dT%H%M%SZ}-{kind}-{secrets.token_hex(3)}"
            row = entries.append("begin", name, {"operation": kind, **facts, **_me()})
            return Claim(name, row.n)

    def resume(self) -> Claim:
        """Become the worker of the operation under way.

        Raises
        ------
        ReleaseError
            There is none, or its worker is alive.
        """
        with self._log.transaction() as entries:
            running = fold(entries.rows).open
            if running is None:
                raise ReleaseError(f"{self.path}: no operation is under way; there is nothing to resume")
            if is_alive(running.worker) and running.worker != this_process():
                hint = "; it was paused and is about to end: type it again when it has" * running.paused
                raise ReleaseError(f"{running.kind} {running.id} is carried out already: {_worker(running)}{hint}")
            return Claim(running.id, entries.append("resume", running.id, _me()).n)

    def take(self, operation: str) -> Claim:
        """Become the worker of an operation, whether or not its worker is alive: that one can do nothing more then.

        Raises
        ------
        ReleaseError
            It is not under way.
        """
        with self._log.transaction() as entries:
            running = fold(entries.rows).open
            if running is None or running.id != operation:
                raise ReleaseError(f"{operation}: is not under way any more")
            return Claim(operation, entries.append("resume", operation, _me()).n)

    def let_go(self, operation: str) -> None:
        """Enter that this process, which lives on, does nothing more for an operation; nothing where it is not its own.

        Who is its worker stays known, but counts as gone: others may go on with it.
        """
        with self._log.transaction() as entries:
            running = fold(entries.rows).open
            if running is not None and running.id == operation and running.worker == this_process():
                entries.append("left", operation, _me() | {"worker": this_process()._replace(begun=0)._asdict()})

    def enter(self, claim: Claim, kind: str, facts: Mapping[str, Any]) -> Row:
        """Enter a row for the operation of a claim.

        Raises
        ------
        SupersededError
            The claim does not hold any more.
        """
        with self._claimed(claim) as entries:
            return entries.append(kind, claim.operation, facts)

    def done(self, claim: Claim, step: str, evidence: Mapping[str, Any], rows: Sequence[tuple[str, Any]] = ()) -> None:
        """Enter that a step is done, with what else became true by it, all or nothing; errors as `enter`."""
        with self._claimed(claim) as entries:
            for kind, facts in rows:
                entries.append(kind, claim.operation, facts)
            entries.append("done", claim.operation, {"step": step, "evidence": dict(evidence)})

    def end(self, claim: Claim, outcome: str, why: str, rows: Sequence[tuple[str, Any]] = ()) -> None:
        """End an operation; errors as `enter`."""
        assert outcome in OUTCOMES, outcome
        with self._claimed(claim) as entries:
            for kind, facts in rows:
                entries.append(kind, claim.operation, facts)
            entries.append("end", claim.operation, {"outcome": outcome, "why": why})

    def note(self, kind: str, facts: Mapping[str, Any]) -> Row:
        """Enter what an onlooker has to say, such as a guard's alarm; it moves nothing."""
        assert kind not in _MOVES, kind
        with self._log.transaction(create=True) as entries:
            running = fold(entries.rows).operation
            return entries.append(kind, "" if running is None else running.id, facts)

    def pause(self, *, paused: bool, reason: str) -> None:
        """Hold the operation under way after the step it is in, or let it go on.

        Raises
        ------
        ReleaseError
            No deploy is under way.
        """
        with self._log.transaction(create=True) as entries:
            running = fold(entries.rows).open
            if running is None or running.kind != DEPLOY:
                raise ReleaseError(f"{self.path}: no deploy is under way; there is nothing to pause")
            if running.paused != paused:
                entries.append("pause", running.id, {"paused": paused, "reason": reason, "by": whoami()})

    def check(self, claim: Claim) -> State:
        """Return the state; SupersededError where the claim does not hold any more."""
        state = self.state()
        _hold(state, claim)
        return state

    @contextmanager
    def _claimed(self, claim: Claim) -> Iterator[Transaction]:
        with self._log.transaction() as entries:
            _hold(fold(entries.rows), claim)
            yield entries


def fold(rows: Sequence[Row]) -> State:
    """Return the state that follows from the rows of a ledger."""
    state = State()
    for row in rows:
        move = _MOVES.get(row.record["kind"])
        state = replace(state if move is None else move(state, row), n_rows=row.n)
    return state


def what_next(running: Operation) -> str:
    """Return what people can do about an operation that is under way."""
    goes_on = "wait for its end" if is_alive(running.worker) else "`v13 deploy resume` goes on with it"
    if running.kind == DEPLOY:
        return f"{goes_on}, `v13 deploy abort` takes it back"
    return goes_on if is_alive(running.worker) else f"{goes_on}, as the guard does at its next look"


def whoami() -> str:
    """Return user and machine, as they are entered."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = str(os.getuid())
    return f"{user}@{platform.node()}"


def _begin(state: State, row: Row) -> State:
    facts = {k: v for k, v in row.record.items() if k not in ("kind", "key", "utc", "worker", "operation")}
    worker = Worker(**row.record["worker"])
    made = Operation(row.record["key"], row.record["operation"], facts, worker, row.n, row.record["utc"])
    condemned = state.condemned | ({facts["bad"]} if facts.get("bad") else set())
    before = state.operation
    brought: tuple[str, ...] = ()
    if made.kind == ROLLBACK:
        if before is not None and before.kind == ROLLBACK and before.outcome == "superseded":
            brought = state.brought
        brought = tuple(dict.fromkeys((*brought, *([facts["good"]] if facts.get("good") else []))))
    return replace(state, operation=made, condemned=condemned, brought=brought)


def _moved(state: State, row: Row, **changes: Any) -> State:
    now = state.operation
    if now is None or now.id != row.record["key"]:
        return state
    return replace(state, operation=replace(now, **changes))


def _done(state: State, row: Row) -> State:
    now = state.operation
    done = {} if now is None else dict(now.done)
    return _moved(state, row, done=done | {row.record["step"]: row.record["evidence"]})


def _assign(state: State, row: Row) -> State:
    record = row.record
    one = Assignment(record["symbol"], record["from_ms"], record["release"])
    return replace(state, serving=(*state.serving, one))


_MOVES: Final[Mapping[str, Callable[[State, Row], State]]] = {
    "begin": _begin,
    "resume": lambda state, row: _moved(state, row, worker=Worker(**row.record["worker"]), claim=row.n),
    "left": lambda state, row: _moved(state, row, worker=Worker(**row.record["worker"])),
    "done": _done,
    "pause": lambda state, row: _moved(state, row, paused=row.record["paused"]),
    "end": lambda state, row: _moved(state, row, outcome=row.record["outcome"], why=row.record["why"]),
    "candidate": lambda state, row: replace(state, candidate=row.record["release"]),
    "stable": lambda state, row: replace(state, stable=row.record["release"]),
    "assign": _assign,
    "slot": lambda state, row: replace(state, slots={**state.slots, row.record["release"]: row.record["port"]}),
}


def _hold(state: State, claim: Claim) -> None:
    now = state.operation
    if now is None or now.id != claim.operation or now.claim != claim.row or now.outcome is not None:
        by = "nobody" if now is None else f"{now.kind} {now.id} of {now.facts['by']}"
        raise SupersededError(f"{claim.operation}: superseded by {by}; nothing more is done for it")


def _me() -> dict[str, Any]:
    return {"by": whoami(), "worker": this_process()._asdict()}


def _worker(operation: Operation) -> str:
    worker = operation.worker
    return f"process {worker.pid}, " + ("alive" if is_alive(worker) else "gone")
