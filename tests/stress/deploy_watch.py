"""What really goes on at a site of a stress run: how far its ledger says it is, and which of its processes live.

Both are found without the code that is under test, so that they can be held against what `status` says.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from v13.errors import V13Error
from v13.release.rig import Rig
from v13.release.status import status

__all__ = ["ROLLBACK", "Ledger", "Processes", "is_alive", "processes", "said_and_untrue"]

ROLLBACK: Final = ("stop", "restore", "handback", "verify")


@dataclass
class Ledger:
    """The last operation of a ledger, read row by row as they come.

    Attributes
    ----------
    id, kind, outcome : str or None
    steps : tuple of str
        Of the operation, in order.
    done : list of str
    worker : int or None
        Process that carries it out.
    n_claims : int
        How often a worker took it up.
    """

    path: Path
    id: str | None = None
    kind: str | None = None
    outcome: str | None = None
    steps: tuple[str, ...] = ()
    done: list[str] = field(default_factory=list)
    worker: int | None = None
    n_claims: int = 0
    _n: int = 0

    def look(self) -> Ledger:
        """Take in what came since the last look; return itself."""
        # A reader that may write: it has to undo what a killed writer left half done.
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=60.0)) as db:
            rows = db.execute(
                'SELECT n, record FROM entry WHERE n > ? AND instr(record, \'"kind":"look"\') = 0 ORDER BY n',
                (self._n,),
            ).fetchall()
        for n, text in rows:
            self._n = n
            self._take(json.loads(text))
        return self

    @property
    def is_open(self) -> bool:
        """Return whether an operation is under way."""
        return self.id is not None and self.outcome is None

    @property
    def step(self) -> str:
        """Return the step that is under way; `end` behind the last, `over` where nothing is."""
        return next((s for s in self.steps if s not in self.done), "end") if self.is_open else "over"

    @property
    def ahead(self) -> tuple[str, ...]:
        """Return the steps that are not over, the one under way first."""
        return tuple(s for s in self.steps if s not in self.done) if self.is_open else ()

    def _take(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == "begin":
            self.id, self.kind, self.outcome, self.done = record["key"], record["operation"], None, []
            self.steps = tuple(record.get("steps", ROLLBACK))
            self.worker, self.n_claims = record["worker"]["pid"], 1
        elif record["key"] != self.id:
            return
        elif kind == "resume":
            self.worker, self.n_claims = record["worker"]["pid"], self.n_claims + 1
        elif kind == "done":
            self.done.append(record["step"])
        elif kind == "end":
            self.outcome = record["outcome"]


@dataclass(frozen=True)
class Processes:
    """Ids of the live processes of a site."""

    supervisord: int | None
    guard: int | None
    runners: Mapping[str, int]  # by release


def processes(rig: Rig) -> Processes:
    """Return what lives, by command lines; a zombie has none."""
    home, root = str(rig.site.home.resolve()), str(rig.site.root)
    supervisord = guard = None
    runners: dict[str, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, not paths
        if not name.isdigit():
            continue
        with suppress(OSError):
            words = Path("/proc", name, "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if "supervisor.supervisord" in words and f"{home}/supervisor/supervisord.conf" in words:
                supervisord = int(name)
            elif "guard" in words and "v13.cli" in words and root in words:
                guard = int(name)
            elif "run" in words and "v13.cli" in words and "--settings" in words:
                overlay = Path(words[words.index("--settings") + 1])
                if overlay.parent == rig.site.home / "live":
                    runners[overlay.stem] = int(name)
    return Processes(supervisord, guard, runners)


def said_and_untrue(rig: Rig, ledger: Ledger) -> tuple[str, list[str]]:
    """Ask for the status; return what it says in short, and what of it was not so.

    Held against it is only what was the same before and after the question.
    """
    was, before = (ledger.look().id, ledger.outcome, ledger.worker, len(ledger.done)), processes(rig)
    try:
        told = status(rig)
    except V13Error as error:
        return "no answer", [f"status: {error}"]
    after = processes(rig)
    ledger.look()
    wrong = []
    about = told.operation or {}
    outcome = about.get("outcome")
    said = outcome or ("gone" if "is gone" in about.get("state", "") else str(about.get("state", "")).partition(",")[0])
    if was == (ledger.id, ledger.outcome, ledger.worker, len(ledger.done)):
        alive = ledger.worker is not None and is_alive(ledger.worker)
        if (about.get("id"), outcome) != (ledger.id, ledger.outcome):
            wrong.append(f"status tells of {about.get('id')}, {outcome}; the ledger of {ledger.id}, {ledger.outcome}")
        if about.get("done") != ledger.done:
            wrong.append(f"status: {about.get('done')} are done; ledger: {ledger.done}")
        if outcome is None and said in ("gone", "under way") and (said == "under way") != alive:
            wrong.append(f"status: {about.get('state')}; the worker is {'alive' if alive else 'dead'}")
    if before.supervisord is None and after.supervisord is None and not any("supervisord" in p for p in told.problems):
        wrong.append("status is silent about a dead supervisord")
    for one in told.releases:
        if one.answers == "serving" and one.release not in before.runners and one.release not in after.runners:
            wrong.append(f"status: {one.release} is serving; no such process")
    if ledger.outcome is not None and told.is_consistent and before == after:
        served = {r.release for r in told.releases if r.symbols}
        if not served <= before.runners.keys():
            wrong.append(f"status finds nothing wrong; {served - before.runners.keys()} do not run")
    return f"{said}, {len(told.problems)} problems" if told.problems else said, wrong


def is_alive(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    with suppress(OSError, IndexError):
        return Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return False
