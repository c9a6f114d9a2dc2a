"""Deploys and rollbacks in which processes are killed with SIGKILL, over and over, and one operator who goes on.

`python -m tests.stress.deploy_kills --kills 300` (`make stress-deploy`). Several kills fall into one operation: of the
deployer, the guard, supervisord and runners, at a random moment of a step that is aimed at because it had fewest.
After each kill `status` must tell the truth; a killed deployer's operation must go on with the command an operator
types. After each operation one release serves all symbols, and the served stream is whole (`deploy_shadow` says what
that means). Some deploys are begun by two operators at once, of whom one must be refused; some are aborted half-way.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.integration.deploy_stage import ROOMY, settled, stage, until
from tests.stress import deploy_disks
from tests.stress.deploy_operator import Operator
from tests.stress.deploy_shadow import Judged, Shadow, judge, shadow_of
from tests.stress.deploy_watch import ROLLBACK, Ledger, is_alive, processes, said_and_untrue
from v13.errors import V13Error
from v13.release.rig import Rig
from v13.release.rollback_target import find_target

__all__ = ["VICTIMS", "Kill", "rounds"]

VICTIMS: Final = ("deployer", "guard", "supervisord", "runner")
WEIGHTS: Final = (4, 3, 2, 4)  # all programs have to start again where supervisord is killed
STAGE_S: Final = 2_400.0  # of a market; the ledger of a stage is read whole at every step of it
MINUTES: Final = 50
READY_S: Final = 240.0  # a busy machine, and the first runner of a checkout compiles
PER_OPERATION: Final = (12, 25)  # the last ones find it over, and are not made
ROLLBACKS: Final = 0.4  # of all operations, where there is something to go back to
ABORTED: Final = 0.15  # of all deploys
TWO_AT_ONCE: Final = 0.15
NEXT_STEPS: Final = 2  # a kill is aimed at one of so many, so that an operation has room for several
AIM_S: Final = 30.0  # longer is not waited for a step; the kill comes in another then
FIND_S: Final = 15.0  # nor for a victim: it is being started again
GOES_ON_S: Final = 120.0  # a busy machine takes half a minute to start a command
# A runner that starts again for ten seconds is away for ten minutes on this scale, and would be taken back each time.
LEVELS: Final = ROOMY | {
    ("rows", "availability", at, "below"): v for at, v in (("target", 0.03), ("alert", 0.02), ("rollback", 0.01))
}
LASTS_S: Final = {"observe": 4.0, "start": 5.0, "monitoring": 3.0, "restore": 3.0, "check": 2.0, "verify": 2.0}
OTHERS_LAST_S: Final = 1.0


@dataclass
class Kill:
    """One kill and what came of it."""

    number: int
    operation: int
    kind: str
    victim: str
    step: str
    said: str = ""
    resumed: str = "-"
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        """Return a line of the table."""
        verdict = "; ".join(self.wrong) or "ok"
        return (
            f"{self.number:>4}  {self.operation:>4}  {self.kind:<8}  {self.step:<17}  {self.victim:<18}  "
            f"{self.said:<24}  {self.resumed:<14}  {verdict}"
        )


HEAD: Final = (
    f"{'kill':>4}  {'oper':>4}  {'kind':<8}  {'in step':<17}  {'killed':<18}  {'status said':<24}  "
    f"{'went on after':<14}  verdict"
)


@dataclass
class Ended:
    """How an operation ended, and what was served meanwhile."""

    number: int
    begun: str
    outcome: str = ""
    n_kills: int = 0
    spent_s: float = 0.0
    judged: Judged = field(default_factory=Judged)

    def row(self) -> str:
        """Return a line of the table."""
        j = self.judged
        return (
            f"      {self.number:>4}  {self.begun}: {self.outcome}, {self.n_kills} kills, {self.spent_s:.0f} s; "
            f"{j.n_events} events, {j.n_computed} computed again, {j.n_beside} beside; {j.n_bars} bars, {j.n_apart} "
            f"with other trades: {'; '.join(j.wrong) or 'ok'}"
        )


class Round:
    """Operations on one stage, one after the other."""

    def __init__(self, rig: Rig, shadow: Shadow, dice: random.Random, struck: Counter[tuple[str, str]]) -> None:
        self.rig, self.shadow, self.dice, self.struck = rig, shadow, dice, struck
        self.ledger = Ledger(rig.site.ledger)

    def operation(self, number: int, n_before: int, most: int) -> Iterator[Kill | Ended]:
        """Begin an operation, kill in it, see it through and judge it; yield each kill, and then the end."""
        end, began_s = Ended(number, self._begun()), time.monotonic()
        aborts_after = self.dice.randint(1, 4) if self.dice.random() < ABORTED and end.begun == "deploy" else 0
        arguments = ["deploy", "run"] if end.begun.startswith("deploy") else ["rollback", "--type", "full"]
        with Operator(
            self.rig, self.ledger, [*arguments, "--reason", f"operation {number}"], self.shadow.collect
        ) as operator:
            try:
                before = self.ledger.look().id
                if end.begun.endswith("two at once"):
                    operator.begin_twice()
                else:
                    operator.begin()
                operator.wait_for(lambda: self.ledger.look().id != before, GOES_ON_S, "it has begun")
                for _ in range(min(most, self.dice.randint(*PER_OPERATION))):
                    made = self._kill(operator, n_before + end.n_kills + 1, number)
                    if made is None:
                        break
                    end.n_kills += 1
                    yield made
                    if end.n_kills == aborts_after and self.ledger.look().kind == "deploy" and self.ledger.is_open:
                        end.begun += ", aborted"
                        operator.abort()
                end.outcome = operator.see_through()
                end.judged = judge(self.rig, self.shadow)
            except (V13Error, OSError, AssertionError, subprocess.TimeoutExpired) as error:
                end.judged.wrong.append(f"{type(error).__name__}: {error}")
            end.judged.wrong += operator.wrong
        end.spent_s = time.monotonic() - began_s
        yield end

    def _begun(self) -> str:
        with suppress(V13Error):
            find_target(self.rig, "full", None)
            if self.dice.random() < ROLLBACKS:
                return "rollback"
        return "deploy, two at once" if self.dice.random() < TWO_AT_ONCE else "deploy"

    def _kill(self, operator: Operator, number: int, operation: int) -> Kill | None:
        """Kill somebody in a step that is aimed at; None where the operation is over before."""
        (victim,) = self.dice.choices(VICTIMS, WEIGHTS)
        with suppress(AssertionError):  # nothing serves: another deploy is begun
            operator.wait_for(lambda: self.ledger.look().outcome != "stopped", GOES_ON_S, "a deploy is begun")
        ahead = self.ledger.look().ahead
        if not ahead:
            return None
        aim = self._rarest(ahead[:NEXT_STEPS], lambda step: self.struck[victim, step])
        about = self.ledger.id

        def there() -> bool:
            now = self.ledger.look()
            return now.id != about or aim not in now.ahead or now.step == aim

        with suppress(AssertionError):
            operator.wait_for(there, AIM_S, f"{aim} is under way")
        operator.idle(self.dice.uniform(0.0, LASTS_S.get(aim.partition(":")[0], OTHERS_LAST_S)))
        pid, name = self._find(operator, victim)
        if pid is None or not self.ledger.look().is_open:
            return None
        made = Kill(number, operation, str(self.ledger.kind), name, self.ledger.step)
        n_claims, id_before = self.ledger.n_claims, self.ledger.id
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.struck[victim, made.step] += 1
        until(lambda: not is_alive(pid), f"{name} is dead")
        made.said, made.wrong = said_and_untrue(self.rig, self.ledger)
        if victim == "deployer":
            killed_s = time.monotonic()
            operator.wait_for(lambda: self._goes_on(id_before, n_claims), GOES_ON_S, "it goes on")
            made.resumed = f"{time.monotonic() - killed_s:.1f} s" + f" {operator.typed}" * bool(operator.typed)
        return made

    def _goes_on(self, operation: str | None, n_claims: int) -> bool:
        now = self.ledger.look()
        return now.id != operation or now.n_claims > n_claims or not now.is_open

    def _find(self, operator: Operator, victim: str) -> tuple[int | None, str]:
        """Return a process, and what it is called in the table; it may just be starting again."""
        found: list[tuple[int, str]] = []

        def there() -> bool:
            now = processes(self.rig)
            if victim == "deployer":
                pid = operator.worker()
                found[:] = [] if pid is None else [(pid, "deployer" if pid != now.guard else "guard at work")]
            elif victim == "runner":
                stable = self.rig.ledger.state().stable
                found[:] = [(p, "runner" if r == stable else "runner (new)") for r, p in sorted(now.runners.items())]
            else:
                pid = getattr(now, victim)
                found[:] = [] if pid is None else [(pid, victim)]
            return bool(found) or not self.ledger.look().is_open

        with suppress(AssertionError):
            operator.wait_for(there, FIND_S, victim)
        return self.dice.choice(found) if found else (None, victim)

    def _rarest(self, among: tuple[str, ...], struck: Callable[[str], int]) -> str:
        """Return one of those that had fewest kills, or now and then any."""
        if self.dice.random() < 0.2:
            return self.dice.choice(among)
        least = min(struck(one) for one in among)
        return self.dice.choice([one for one in among if struck(one) == least])


def rounds(n_kills: int, seed: int, folder: Path) -> Iterator[Kill | Ended]:
    """Yield each kill and each operation as it ends; a new stage is held now and then, and whenever one is spoilt."""
    dice, struck = random.Random(seed), Counter[tuple[str, str]]()
    n_done = n_operations = n_stages = 0
    while n_done < n_kills:
        n_stages += 1
        with ExitStack() as stack:
            try:
                rig = stack.enter_context(
                    stage(folder / f"stage{n_stages}", minutes=MINUTES, observe_s=2.0, ready_s=READY_S, levels=LEVELS)
                )
                shadow = stack.enter_context(shadow_of(rig, settled(rig)))
            except (V13Error, AssertionError) as error:
                yield Ended(n_operations, f"stage {n_stages}", "not held", judged=Judged(wrong=[str(error)]))
                continue
            held, end_s, is_good = Round(rig, shadow, dice, struck), time.monotonic() + STAGE_S, True
            while n_done < n_kills and time.monotonic() < end_s and is_good:
                n_operations += 1
                for one in held.operation(n_operations, n_done, n_kills - n_done):
                    if isinstance(one, Ended):
                        n_done += one.n_kills
                        is_good = not one.judged.wrong
                    yield one


def sums(kills: list[Kill], ended: list[Ended]) -> str:
    """Return the tables at the end."""
    steps = sorted({k.step for k in kills}, key=lambda s: (s in ROLLBACK, s))
    of = Counter((k.step, k.victim.partition(" ")[0]) for k in kills)
    lines = [f"{'step':<18}" + "".join(f"{v:>13}" for v in VICTIMS) + f"{'all':>7}"]
    for step in [*steps, "all"]:
        counts = [sum(n for (s, v), n in of.items() if v == one and step in (s, "all")) for one in VICTIMS]
        lines.append(f"{step:<18}" + "".join(f"{n:>13}" for n in counts) + f"{sum(counts):>7}")
    total = Judged()
    for one in ended:
        total += one.judged
    lines += [f"{n:>5}  {kind}" for kind, n in sorted(Counter(f"{e.begun}: {e.outcome}" for e in ended).items())]
    lines.append(
        f"{total.n_events} events served, {total.n_computed} computed again, {total.n_beside} also compared with the "
        f"untouched runner's; {total.n_bars} bars served, {total.n_apart} with other trades than the untouched runner's"
    )
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for, print the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--disk", type=int, default=0, help="steps with a full or read-only disk (default: each)")
    parser.add_argument("--disk-only", nargs="*", default=(), metavar="STEP/FAULT", help="such as start/read-only")
    parser.add_argument("--no-disk", action="store_true", help="leave those out; they need root")
    parser.add_argument("--seed", type=int, default=13, help="default: %(default)s")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    with_disk = not arguments.no_disk and os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="v13-kills-"))
    print(f"seed {arguments.seed}; in {folder}\n{HEAD}", flush=True)
    kills: list[Kill] = []
    ended: list[Ended] = []
    for one in rounds(arguments.kills, arguments.seed, folder):
        print(f"{time.monotonic() - began_s:6.0f} s {one.row()}", flush=True)
        kills += [one] if isinstance(one, Kill) else []
        ended += [one] if isinstance(one, Ended) else []
    bad = [k.number for k in kills if k.wrong] + [e.number for e in ended if e.judged.wrong]
    print(sums(kills, ended))
    n_compared = sum(e.judged.n_computed for e in ended)
    if kills and not n_compared:
        print("NO EVENT WAS COMPARED: nothing was shown about events")
    print(f"{len(kills)} kills in {len(ended)} operations, {len(bad)} rows wrong, {time.monotonic() - began_s:.0f} s")
    is_good = not bad and (n_compared > 0 or not kills)
    if with_disk:
        is_good &= deploy_disks.run(arguments.disk, arguments.seed, folder, arguments.disk_only)
    else:
        print("full and read-only disks were left out")
    if is_good:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
