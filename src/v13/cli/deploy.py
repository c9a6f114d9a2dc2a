"""`v13 deploy`: check, canary, observation and scale-up of what was signed off; where it stands; its record."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import add_site_options, log, print_json, project_root
from v13.cli.options import reason as one_line
from v13.errors import EXIT_GATE, EXIT_OK, V13Error

if TYPE_CHECKING:
    from v13.release.deploy import Deployed
    from v13.release.rig import Rig
    from v13.release.rollback import RolledBack

__all__ = ["add", "ended", "open_rig", "withdrawn"]

WATCH_S = 1.0
FAULTS = ("slow", "errors", "silent", "flood", "crash", "leak")


def add(commands: Any) -> None:
    """Register the commands."""
    text = "check, deploy, observe and scale up what was signed off; see where it stands"
    parser = commands.add_parser("deploy", help=text, description=text)
    inner = parser.add_subparsers(dest="deploy", metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str, *, reason: bool = False) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = inner.add_parser(name, help=text, description=text)
        add_site_options(one)
        if reason:
            one.add_argument("--reason", type=one_line, required=True, help="why; it is entered in the ledger")
        one.set_defaults(run=run)
        return one

    command("check", _check, "ask whether the sign-off and this machine are fit; exit code 4 if not").add_argument(
        "--json", action="store_true", help="for machines"
    )
    run = command("run", _run, "deploy the sign-off: canary, observation, scale-up; takes back what goes bad")
    run.add_argument(
        "--reason", type=one_line, default="release", help="why; it is entered in the ledger (default: %(default)s)"
    )
    run.add_argument("--dry-run", action="store_true", help="say what would be done, step by step, and do nothing")
    command("resume", _resume, "go on with the operation that was paused, or whose worker is gone")
    command("pause", _pause, "hold the deploy that is under way", reason=True)
    command("abort", _abort, "take the deploy that is under way back", reason=True)
    status = command("status", _status, "where the deploy stands, what runs and who serves")
    status.add_argument("--watch", action="store_true", help="a live view, until interrupted")
    status.add_argument("--json", action="store_true", help="for machines")
    command("history", _history, "every transition: when, who, what and why").add_argument(
        "--json", action="store_true", help="every row whole"
    )
    command("record", _record, "write the deploy record of the last operation anew").add_argument(
        "operation", nargs="?", help="another operation, as history names it"
    )
    practice = inner.add_parser(
        "rehearse",
        help="the whole guide on this machine: a played market, real servers, a good release or a bad one",
        description="Deploy a first release and then another, on a played market with real Prometheus and Alertmanager "
        "on loopback and minutes become seconds. Exit code 0 if the good one went through or the bad was taken back.",
    )
    practice.add_argument("--fault", choices=FAULTS, help="what is wrong with the second release (default: nothing)")
    practice.add_argument(
        "--keep", type=Path, metavar="DIR", help="an empty folder for everything (default: runs/rehearsal)"
    )
    practice.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    practice.set_defaults(run=_rehearse)
    command("up", _up, "start the supervisor, and with it whatever ran and the guard, after a reboot or a kill")
    command("guard", _guard, "watch what runs and take it back when the guide says so (the supervisor starts it)")


def open_rig(arguments: argparse.Namespace) -> Rig:
    """Return what an operation works with."""
    from v13.release.ledger import DeployLedger
    from v13.release.rig import Rig
    from v13.release.site import open_site
    from v13.release.supervisor import choose

    site = open_site(project_root(arguments), arguments.env)
    return Rig(site, DeployLedger(site.ledger), choose(site.home, site.config.deploy.supervisor), say=log)


def ended(rig: Rig, done: Deployed | RolledBack) -> int:
    """Tell how an operation has ended, write its record, and return the exit code."""
    from v13.release.conclusion import conclude
    from v13.release.rollback import RolledBack

    # First, as whatever keeps a record from being written must not hide what was done.
    if isinstance(done, RolledBack):
        for problem in done.problems:
            log(f"after the rollback: {problem}")
        print(f"{done.outcome}: {done.target.good or 'nothing'} serves, after {done.seconds:.1f} s")
    else:
        print(f"{done.outcome}: {done.why}")
    sys.stdout.flush()
    try:
        path = conclude(rig, done.operation)
        last = rig.ledger.state().operation
        if last is not None and last.id != done.operation and last.outcome is not None:  # what took it back
            path = conclude(rig, last.id)
        print(f"record: {path}")
    except (V13Error, OSError) as error:
        log(f"no record was written: {error}; `v13 deploy record {done.operation}` writes it anew")
    good = done.outcome in ("completed", "rolled_back", "stopped") and (
        isinstance(done, RolledBack) or done.outcome == "completed"
    )
    return EXIT_OK if good else EXIT_GATE


def withdrawn(rig: Rig, reason: str) -> bool:
    """End a deploy of which nothing runs yet, write its record and tell; return whether there was one."""
    from v13.release.record import write_record
    from v13.release.rollback import withdraw

    operation = withdraw(rig, reason)
    if operation is None:
        return False
    print(f"aborted: nothing of it was running yet; {rig.ledger.state().stable or 'nothing'} serves as before")
    print(f"record: {write_record(rig.site, rig.ledger, operation=operation)}")
    return True


def _check(arguments: argparse.Namespace) -> int:
    from v13.release.check import run_checks, table

    rig = open_rig(arguments)
    results = run_checks(rig.site)
    if arguments.json:
        print_json([r.to_dict() for r in results])
    else:
        print(table(results), end="")
    return EXIT_GATE if any(r.status == "failed" for r in results) else EXIT_OK


def _run(arguments: argparse.Namespace) -> int:
    from v13.release.check import run_checks, table
    from v13.release.deploy import deploy, plan

    rig = open_rig(arguments)
    if arguments.dry_run:
        results = run_checks(rig.site)
        print(table(results), end="")
        for step in plan(rig):
            print(f"would do: {step}")
        return EXIT_GATE if any(r.status == "failed" for r in results) else EXIT_OK
    done = deploy(rig, arguments.reason)
    if done.checks:
        print(table(list(done.checks)), end="")
    return ended(rig, done)


def _resume(arguments: argparse.Namespace) -> int:
    from v13.release.deploy import resume

    rig = open_rig(arguments)
    return ended(rig, resume(rig))


def _pause(arguments: argparse.Namespace) -> int:
    open_rig(arguments).ledger.pause(paused=True, reason=arguments.reason)
    print("paused: the step that is under way ends, and no other begins; `v13 deploy resume` goes on")
    return EXIT_OK


def _abort(arguments: argparse.Namespace) -> int:
    from v13.errors import ReleaseError
    from v13.release.ledger import what_next
    from v13.release.rollback import roll_back

    rig = open_rig(arguments)
    running = rig.ledger.state().open
    if running is not None and running.kind == "rollback":
        raise ReleaseError(f"no deploy is under way: rollback {running.id} is; {what_next(running)}")
    if running is None or running.kind != "deploy":
        raise ReleaseError("no deploy is under way; `v13 rollback` takes back one that is over")
    if withdrawn(rig, arguments.reason):
        return EXIT_OK
    return ended(rig, roll_back(rig, kind="full", reason=f"aborted: {arguments.reason}"))


def _status(arguments: argparse.Namespace) -> int:
    from v13.release.status import status, watched
    from v13.release.watch_view import History, watch

    rig = open_rig(arguments)
    if arguments.watch:
        seen = History()

        def draw(text: str) -> None:
            print(text, end="", flush=True)  # whoever pipes it looks as well

        def wait() -> bool:
            rig.clock.sleep(WATCH_S)
            return True

        with suppress(KeyboardInterrupt):
            watch(lambda: watched(rig, seen), draw, wait, is_tty=sys.stdout.isatty())
        return EXIT_OK
    found = status(rig)
    if arguments.json:
        print_json(found.to_dict())
    else:
        print(found.text(), end="")
    return EXIT_OK if found.is_consistent else EXIT_GATE


def _history(arguments: argparse.Namespace) -> int:
    from v13.release.status import history

    rig = open_rig(arguments)
    rows = rig.ledger.rows()
    if arguments.json:
        print_json([{"n": r.n, "sha256": r.sha256, **r.record} for r in rows])
    else:
        print(history(rows), end="")
    return EXIT_OK


def _record(arguments: argparse.Namespace) -> int:
    from v13.release.record import write_record

    rig = open_rig(arguments)
    print(write_record(rig.site, rig.ledger, operation=arguments.operation))
    return EXIT_OK


def _rehearse(arguments: argparse.Namespace) -> int:
    from v13.errors import ConfigError
    from v13.rehearsal.rehearse import rehearse
    from v13.release.folders import remove_folder

    project = project_root(arguments)
    folder = arguments.keep
    if folder is None:
        folder = project / "runs" / "rehearsal"
        if folder.is_dir():
            remove_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--keep: {folder}: expected an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    done = rehearse(folder.resolve(), project.resolve(), fault=arguments.fault, say=log)
    print(f"record: {done.record}/record.md")
    print(done.text)
    return EXIT_OK if done.is_right else EXIT_GATE


def _up(arguments: argparse.Namespace) -> int:
    from v13.errors import ReleaseError
    from v13.release.runners import keep_guard

    rig = open_rig(arguments)
    rig.supervisor.ensure_up()
    state = rig.ledger.state()
    if state.stable is not None and state.open is None and (why := keep_guard(rig)):
        raise ReleaseError(f"the guard does not run: {why}")
    for one in rig.supervisor.states():
        print(f"{one.name}  {one.state}  {one.detail}")
    return EXIT_OK


def _guard(arguments: argparse.Namespace) -> int:
    from v13.release.guard import run_guard

    run_guard(open_rig(arguments))
    return EXIT_OK
