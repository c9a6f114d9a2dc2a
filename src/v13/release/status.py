"""Where things stand: what the ledger says, what really runs, and whether the two agree.

It asks processes and files, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from v13.errors import ReleaseError, V13Error
from v13.release import runners
from v13.release.ledger import Operation, State, fold, what_next
from v13.release.observe import Look, Observer
from v13.release.rig import Rig
from v13.release.supervisor import ProgramState
from v13.release.watch_view import History, WatchState
from v13.release.workers import is_alive
from v13.store.chain import Row
from v13.store.event_standing import standing
from v13.telemetry.slo import load_slo

__all__ = ["Serving", "Status", "history", "status", "watched"]

SHOWN: Final = {  # facts of a row that a line of the history tells
    **{"begin": ("operation", "type", "reason"), "done": ("step",), "end": ("outcome", "why")},
    **{"assign": ("symbol", "from_ms", "release"), "alarm": ("what", "why"), "pause": ("paused", "reason")},
    **{"candidate": ("release",), "stable": ("release",), "slot": ("release", "port"), "resume": ("by",)},
}
LINE: Final = 118
CUT: Final = " ..."  # the whole row: `v13 deploy history --json`
TOLD: Final = {"held": "held because", "look": "last look", "alarm": "last alarm"}  # of an operation, if any
STOPPED: Final = "stopped"  # outcome of a rollback that left nothing
SERVING: Final = "serving"  # what a release is said to do that lacks nothing


@dataclass(frozen=True)
class Serving:
    """One release that runs, or should.

    Attributes
    ----------
    release : str
    role : str
        stable or candidate; returning: what a rollback that is under way brings back.
    port : int or None
    process : str
        What the supervisor says.
    answers : str
        serving, or what is missing.
    symbols : tuple of str
        That it serves.
    last_bar_ms : mapping of symbol to int
        Close time of the last committed bar, epoch ms.
    """

    release: str
    role: str
    port: int | None
    process: str
    answers: str
    symbols: tuple[str, ...]
    last_bar_ms: dict[str, int]


@dataclass(frozen=True)
class Status:
    """The whole.

    Attributes
    ----------
    operation : dict or None
        The last one: id, kind, by, reason, steps, outcome, whether its worker is alive; why it is held, its last look
        and the last alarm since it began, where there are any.
    releases : tuple of Serving
    problems : tuple of str
        Where the ledger and what runs do not agree.
    """

    operation: dict[str, Any] | None
    releases: tuple[Serving, ...]
    problems: tuple[str, ...]

    @property
    def is_consistent(self) -> bool:
        """Return whether what runs is what the ledger says."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "is_consistent": self.is_consistent}

    def text(self) -> str:
        """Return it for a terminal."""
        lines = []
        if self.operation is None:
            lines.append("nothing has been deployed yet")
        else:
            o = self.operation
            lines.append(f"{o['kind']} {o['id']} by {o['by']}: {o['state']}")
            lines.append(f"  reason: {o['reason']}")
            if o["why"] not in ("", o["reason"]):
                lines.append(f"  ended because: {o['why']}")
            lines.append(f"  steps done: {', '.join(o['done']) or 'none'}")
            lines += [f"  {name}: {o[key]}" for key, name in TOLD.items() if o[key]]
        for one in self.releases:
            serves = ", ".join(one.symbols) or "nothing (in shadow)"
            answers = "ready" if one.answers == SERVING else one.answers  # in shadow it is ready and serves nothing
            lines.append(f"{one.role:<9} {one.release}  port {one.port}  {one.process}  {answers}")
            was_stopped = self.operation is not None and self.operation["outcome"] == STOPPED
            lines.append(f"          {'served, until it was stopped,' if was_stopped else 'serves'} {serves}")
        if self.operation is not None and not any(one.symbols for one in self.releases):
            lines.append("nothing serves")
        lines += [f"PROBLEM   {problem}" for problem in self.problems]
        return "\n".join(map(_shown, lines)) + "\n"


def status(rig: Rig) -> Status:
    """Return where things stand.

    Raises
    ------
    StoreError
        The ledger cannot be read, or was tampered with.
    """
    rows = rig.ledger.rows()
    state = fold(rows)
    problems: list[str] = []
    try:
        processes = {p.name: p for p in rig.supervisor.states()}
    except ReleaseError as error:
        processes = {}
        if state.stable or state.candidate:
            problems.append(f"{rig.supervisor.name}: {error}; `v13 deploy up` starts it")
    releases = [_serving(rig, state, role, release, processes) for role, release in _roles(state).items()]
    named = {f"runner-{r.release}" for r in releases}
    for process in processes.values():
        if process.name.startswith("runner-") and process.name not in named and process.state == "running":
            problems.append(f"{process.name} runs, and the ledger knows nothing of it")
    if state.stable or state.candidate:
        problems += _unwatched(rig, state, processes)
    running = state.open
    if running is None:
        for one in releases:
            if one.role == "stable" and _is_stopped(state):
                problems.append(
                    f"nothing serves: {one.release} was stopped; `v13 rollback --list-backups`, then `--type full "
                    "--backup-timestamp N` brings one back; or `v13 deploy run`"
                )
            elif one.role == "stable" and one.answers != SERVING:
                problems.append(f"stable release {one.release}: {one.answers}")
    return Status(_operation(state, rows), tuple(releases), tuple(problems))


def _is_stopped(state: State) -> bool:
    """Return whether the last operation left nothing serving; the ledger's list goes on to name what served."""
    return state.operation is not None and state.operation.outcome == STOPPED


def watched(rig: Rig, seen: History) -> WatchState | None:
    """Return what the live view shows; None where no operation is under way."""
    rows = rig.ledger.rows()
    state = fold(rows)
    running = state.open
    if running is None:
        return None
    looks = [r.record for r in rows if r.record["kind"] == "look" and r.record["key"] == running.id]
    steps = list(running.facts.get("steps", ()))
    stage = next((s for s in steps if s not in running.done), running.kind)
    release = state.candidate or state.stable
    own = rig.site.release(release) if release else rig.site.root
    table = load_slo((own if (own / "config/slo.yaml").is_file() else rig.site.root) / "config/slo.yaml")
    observer = Observer.from_dict(table, looks[-1]["observer"]) if looks and looks[-1]["step"] == stage else None
    told = [(r.record["utc"][11:19], r.record["kind"], _facts(r)) for r in rows if r.record["kind"] != "look"]
    return WatchState(
        now_s=rig.clock.now().timestamp(),
        operation=running.id,
        stage=stage,
        candidate=state.candidate or "",
        stable=state.stable or "",
        go_on_s=0.0 if observer is None else observer.go_on_s,
        observe_s=rig.site.config.deploy.observe_s,
        look=Look.from_dict(looks[-1]["look"]) if observer is not None else None,
        table=table,
        history=seen,
        ledger=told,
        is_paused=running.paused,
    )


def history(rows: Sequence[Row]) -> str:
    """Return every transition, one line each; looks are counted, not shown."""
    lines, n_looks = [], 0
    for row in rows:
        record = row.record
        if record["kind"] == "look":
            n_looks += 1
            continue
        if n_looks:
            lines.append(f"{'':>5}  {'':19}  {n_looks} looks")
            n_looks = 0
        by = f" by {record['by']}" if "by" in record else ""
        line = f"{row.n:>5}  {record['utc'][:19]}  {record['kind']}{by}: {_facts(row)}"
        lines.append(line if len(line) <= LINE else line[: LINE - len(CUT)] + CUT)
    if n_looks:
        lines.append(f"{'':>5}  {'':19}  {n_looks} looks")
    return "\n".join(map(_shown, lines)) + "\n" if lines else "nothing has been deployed yet\n"


def _shown(line: str) -> str:
    """Return a line with what would move a terminal's cursor written out: reasons and alerts are others' words."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _facts(row: Row) -> str:
    record = row.record
    return ", ".join(f"{name} {record[name]}" for name in SHOWN.get(record["kind"], ()) if record.get(name) is not None)


def _roles(state: State) -> dict[str, str]:
    """Return the releases that run, or should, by their role."""
    known = {"stable": state.stable, "candidate": state.candidate}
    if state.open is not None and (good := state.open.facts.get("good")) not in known.values():
        known["returning"] = good
    return {role: release for role, release in known.items() if release is not None}


def _serving(rig: Rig, state: State, role: str, release: str, processes: Mapping[str, ProgramState]) -> Serving:
    process = processes.get(f"runner-{release}")
    port, answers = state.slots.get(release), "not started"
    try:
        bars = standing(rig.site.event_log(release)).bars
        if port is not None:  # which may be another release's by now: all may serve the same configuration
            answers = (runners.missing_of(rig.site, release, port) or SERVING) if _lives(process) else "does not run"
    except V13Error as error:
        bars, answers = {}, str(error)
    symbols = tuple(s for s in dict.fromkeys(a.symbol for a in state.serving) if state.serves(s) == release)
    return Serving(release, role, port, "unknown" if process is None else process.state, answers, symbols, bars)


def _lives(process: ProgramState | None) -> bool:
    """Return whether a program has a process, also where its supervisor is gone."""
    return process is not None and (process.state in runners.UP or process.pid is not None)


def _unwatched(rig: Rig, state: State, processes: Mapping[str, ProgramState]) -> list[str]:
    """Return what is wrong with those who watch: a supervisor that is gone leaves its programs running, for now."""
    blind = next((p for p in processes.values() if p.state == "unknown"), None)
    if blind is not None:
        return [f"{rig.supervisor.name}: {blind.detail}; `v13 deploy up` starts it"]
    guard = processes.get(runners.GUARD)
    if state.open is None and guard is not None and guard.state not in runners.UP:
        return [
            f"{runners.GUARD}: {guard.state}: {guard.detail}; what serves would not be taken back by itself; "
            "`v13 deploy up` starts it"
        ]
    return []


def _operation(state: State, rows: Sequence[Row]) -> dict[str, Any] | None:
    o = state.operation
    if o is None:
        return None
    if o.outcome is not None:
        now = o.outcome
    elif o.paused and is_alive(o.worker):
        now = f"paused; process {o.worker.pid} is about to end; then `v13 deploy resume` or `v13 deploy abort`"
    elif o.paused:
        now = "paused; `v13 deploy resume` goes on, `v13 deploy abort` takes it back"
    elif is_alive(o.worker):
        now = f"under way, process {o.worker.pid}"
    else:
        now = f"its worker (process {o.worker.pid}) is gone; {what_next(o)}"
    about = {"id": o.id, "kind": o.kind, "by": o.facts["by"], "reason": o.facts.get("reason", "")}
    about |= {"done": list(o.done), "state": now, "outcome": o.outcome, "why": o.why, "begun_utc": o.begun_utc}
    return {**about, **_told(o, rows)}


def _told(operation: Operation, rows: Sequence[Row]) -> dict[str, str]:
    """Return what the rows of an operation tell beyond its steps, by the names of TOLD; empty where nothing is."""
    own = [row.record for row in rows if row.record["key"] == operation.id]
    last = {record["kind"]: record for record in own}
    told = dict.fromkeys(TOLD, "")
    if operation.outcome is None and operation.paused:  # whoever paused it, and where the deployer then ended
        pauses = [record for record in own if record["kind"] == "pause"]
        since = max((n for n, one in enumerate(pauses) if not one["paused"]), default=-1)
        told["held"] = "; ".join(dict.fromkeys(one["reason"] for one in pauses[since + 1 :] if one["reason"]))
    look = last.get("look")
    if operation.outcome is None and look is not None and look["step"] not in operation.done:
        told["look"] = f"{look['utc'][:19]}, {look['step']}: {look['look']['decision']}: {look['look']['why']}"
    if "alarm" in last:
        told["alarm"] = f"{last['alarm']['utc'][:19]}, {last['alarm']['by']}: {last['alarm']['why']}"
    return told
