"""An operator of a stress run: types what the operations page says after an accident, and nothing else.

`v13 deploy resume` (or the same `rollback` again) where the worker is gone, `v13 deploy up` where nobody started
supervisord anew, `v13 deploy run` where nothing serves. Each command is a process that may be killed in turn.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from tests.integration.deploy_stage import begun, ran
from tests.stress.deploy_watch import Ledger, is_alive, processes
from v13.errors import V13Error
from v13.release.rig import Rig
from v13.release.status import status

__all__ = ["Operator"]

SETTLE_S: Final = 300.0  # nothing is waited for so long that ever ends
UP_S: Final = 10.0  # the guard has started another supervisord by then, if it lives
REFUSED_S: Final = 120.0
REFUSED: Final = 1  # exit code
POLL_S: Final = 0.1
COLLECT_S: Final = 45.0  # logs keep some four minutes of bars
PAUSE_S: Final = 1.0  # between a command that failed and the next


class Operator:
    """Begins an operation and goes on with it, whatever is killed; its processes are gone afterwards.

    Attributes
    ----------
    wrong : list of str
        What a command should not have done.
    typed : str
        The last command, but for the first.
    n_up : int
        How often supervisord had to be started by hand.
    """

    def __init__(self, rig: Rig, ledger: Ledger, arguments: Sequence[str], collect: Callable[[Rig], None]) -> None:
        self._rig, self._ledger, self._arguments = rig, ledger, list(arguments)
        self._begun: list[subprocess.Popen[str]] = []
        self._missed_s: float | None = None
        self._next_s = self._collected_s = 0.0
        self._collect = collect
        self.wrong: list[str] = []
        self.typed = ""
        self.n_up = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for one in self._begun:
            one.kill()
            one.communicate()

    def begin(self) -> None:
        """Type the command of the operation."""
        self._type(*self._arguments)

    def begin_twice(self) -> None:
        """Have two operators type it at the same moment: one must be refused, and be told who is at work."""
        two = [begun(self._rig, *self._arguments) for _ in range(2)]
        self._begun += two
        end_s = time.monotonic() + REFUSED_S
        while all(one.poll() is None for one in two) and time.monotonic() < end_s:
            time.sleep(POLL_S)
        for one in two:
            if one.poll() is not None:
                said, _ = one.communicate()
                self._begun.remove(one)
                if one.returncode != REFUSED or "is not over" not in said:
                    self.wrong.append(f"the second operator: exit code {one.returncode}: {said[-200:]}")
        if len([one for one in two if one.poll() is None]) != 1:
            self.wrong.append("of two operators not exactly one was refused")

    def abort(self) -> None:
        """Take the deploy back, while its worker is at work or dead."""
        self._type("deploy", "abort", "--reason", "aborted half-way")

    def worker(self) -> int | None:
        """Return the process that carries the operation out, if it lives."""
        pid = self._ledger.look().worker
        self.reap()
        return pid if self._ledger.is_open and pid is not None and is_alive(pid) else None

    def reap(self) -> None:
        """Let the killed commands go: a zombie is in nobody's way, but would be in /proc."""
        for one in self._begun:
            one.poll()

    def idle(self, seconds: float) -> None:
        """Go on looking after things for so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.tend()
            time.sleep(min(POLL_S, max(0.0, end_s - time.monotonic())))

    def wait_for(self, condition: Callable[[], bool], wait_s: float, what: str) -> None:
        """Look after things until something is so; AssertionError where it never is."""
        end_s = time.monotonic() + wait_s
        while not condition():
            assert time.monotonic() < end_s, f"not within {wait_s:g} s: {what}"
            self.tend()
            time.sleep(POLL_S)

    def tend(self) -> None:
        """Do what the moment asks for."""
        now_s = time.monotonic()
        if now_s - self._collected_s > COLLECT_S:
            self._collect(self._rig)
            self._collected_s = time.monotonic()
        self.reap()
        if processes(self._rig).supervisord is not None:
            self._missed_s = None
        elif self._missed_s is None:
            self._missed_s = now_s
        elif now_s - self._missed_s > UP_S:
            self._missed_s = None
            self.n_up += 1
            ran(self._rig, "deploy", "up")
        if now_s < self._next_s or any(one.poll() is None for one in self._begun):
            return
        now = self._ledger.look()
        if now.is_open and (now.worker is None or not is_alive(now.worker)):
            self._next_s = now_s + PAUSE_S
            is_mine = now.kind == "rollback" and self._arguments[0] == "rollback" and now.n_claims % 2
            self._type(*(self._arguments if is_mine else ("deploy", "resume")))
        elif now.outcome == "stopped":
            self._next_s = now_s + PAUSE_S
            self._type("deploy", "run", "--reason", "nothing served")

    def see_through(self) -> str:
        """Return how the last operation ended, once things are as they should be."""
        end_s = time.monotonic() + SETTLE_S
        while True:
            self.tend()
            now = self._ledger.look()
            # Its command may write the record still, for a minute where the machine is busy: that is not waited for.
            if not now.is_open and now.outcome != "stopped" and status(self._rig).is_consistent:
                return str(now.outcome)
            if time.monotonic() > end_s:
                raise V13Error(f"not over within {SETTLE_S:g} s:\n{status(self._rig).text()}")
            time.sleep(0.2)

    def _type(self, *arguments: str) -> None:
        self.typed = " ".join(arguments[:2]) if self._begun else ""
        self._begun.append(begun(self._rig, *arguments))
