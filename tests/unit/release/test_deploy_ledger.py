"""The deploy ledger: what state follows from which rows, and who may still act."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from v13.errors import ReleaseError, StoreError
from v13.release.acting import acting
from v13.release.ledger import Claim, DeployLedger, SupersededError
from v13.release.workers import Worker, is_alive, this_process


@pytest.fixture
def ledger(tmp_path: Path) -> DeployLedger:
    times = iter(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i) for i in range(10_000))
    return DeployLedger(tmp_path / "ledger.sqlite", now=lambda: next(times))


def elsewhere(path: Path, deed: str) -> str:
    """Do something with the ledger in a process that is gone afterwards."""
    code = f"from pathlib import Path\nfrom v13.release.ledger import *\nl = DeployLedger(Path({str(path)!r}))\n{deed}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_nothing_is_known_before_the_first_operation(ledger: DeployLedger) -> None:
    state = ledger.state()
    assert (state.stable, state.candidate, state.open, state.serving) == (None, None, None, ())
    assert not ledger.path.exists()


def test_a_deploy_is_followed_through_its_steps(ledger: DeployLedger) -> None:
    claim = ledger.begin("deploy", {"reason": "first", "steps": ["check", "build"]})
    ledger.done(claim, "check", {"ok": True})
    ledger.done(claim, "build", {}, [("candidate", {"release": "r1"}), ("slot", {"release": "r1", "port": 8003})])
    ledger.enter(claim, "assign", {"symbol": "BTCUSDT", "from_ms": 0, "release": "r1"})
    state = ledger.state()
    assert state.open is not None
    assert list(state.open.done) == ["check", "build"]
    assert state.open.worker == this_process()
    assert (state.candidate, state.slots, state.serves("BTCUSDT")) == ("r1", {"r1": 8003}, "r1")
    ledger.end(claim, "completed", "", [("stable", {"release": "r1"}), ("candidate", {"release": None})])
    state = ledger.state()
    assert (state.stable, state.candidate, state.open) == ("r1", None, None)
    assert state.operation is not None
    assert state.operation.outcome == "completed"


def test_a_step_and_what_it_made_true_are_entered_together_or_not_at_all(ledger: DeployLedger) -> None:
    claim = ledger.begin("deploy", {"reason": ""})
    n = ledger.state().n_rows
    with pytest.raises(StoreError, match="Out of range float"):
        ledger.done(claim, "build", {"value": float("nan")}, [("candidate", {"release": "r1"})])
    assert ledger.state().n_rows == n
    assert ledger.state().candidate is None


def test_two_operators_at_once_one_is_refused(ledger: DeployLedger) -> None:
    ledger.begin("deploy", {"reason": ""})
    with pytest.raises(ReleaseError, match=r"is not over \(process \d+, alive\); wait for its end, `v13 deploy abort`"):
        ledger.begin("deploy", {"reason": ""})


def test_beside_a_rollback_nobody_is_sent_to_an_abort(ledger: DeployLedger) -> None:
    ledger.begin("rollback", {"reason": ""})
    with pytest.raises(ReleaseError, match=r"rollback .* is not over \(process \d+, alive\); wait for its end$"):
        ledger.begin("deploy", {"reason": ""})


def test_a_rollback_takes_over_and_the_deploy_can_enter_nothing_more(ledger: DeployLedger) -> None:
    deploy = ledger.begin("deploy", {"reason": ""})
    rollback = ledger.begin("rollback", {"reason": "slow"}, take_over=lambda now: now.kind == "deploy")
    deeds: list[Callable[[], object]] = [
        lambda: ledger.enter(deploy, "look", {}),
        lambda: ledger.done(deploy, "start", {}, [("candidate", {"release": "r2"})]),
        lambda: ledger.end(deploy, "completed", ""),
        lambda: ledger.check(deploy),
    ]
    for deed in deeds:
        with pytest.raises(SupersededError, match="superseded by rollback"):
            deed()
    assert ledger.check(rollback).open is not None
    ends = [r.record for r in ledger.rows() if r.record["kind"] == "end"]
    assert [(e["key"], e["outcome"], e["why"]) for e in ends] == [(deploy.operation, "superseded", "slow")]


def test_whoever_waited_for_the_lock_and_was_superseded_meanwhile_does_nothing(
    ledger: DeployLedger, tmp_path: Path
) -> None:
    claim = ledger.begin("deploy", {"reason": ""})
    ledger.begin("rollback", {"reason": ""}, take_over=lambda _: True)
    with pytest.raises(SupersededError), acting(tmp_path / "lock", lambda: ledger.check(claim)):
        pytest.fail("it acted")


def test_the_work_of_a_killed_process_is_taken_up(ledger: DeployLedger) -> None:
    operation = elsewhere(ledger.path, "print(l.begin('deploy', {'reason': 'x'}).operation)")
    running = ledger.state().open
    assert running is not None
    assert not is_alive(running.worker)
    claim = ledger.resume()
    assert claim.operation == operation
    ledger.done(claim, "check", {})
    assert ledger.state().open is not None


def test_the_work_of_a_process_that_is_at_it_is_not_taken_up(ledger: DeployLedger) -> None:
    ledger.begin("deploy", {"reason": ""})
    with pytest.raises(subprocess.CalledProcessError) as caught:
        elsewhere(ledger.path, "l.resume()")
    assert "is carried out already" in caught.value.stderr
    assert "type it again" not in caught.value.stderr
    ledger.pause(paused=True, reason="lunch")  # it has its record to write yet
    with pytest.raises(subprocess.CalledProcessError) as caught:
        elsewhere(ledger.path, "l.resume()")
    assert "it was paused and is about to end: type it again when it has" in caught.value.stderr


def test_taking_it_ends_what_its_worker_may_do(ledger: DeployLedger) -> None:
    first = ledger.begin("deploy", {"reason": ""})
    second = ledger.take(first.operation)
    with pytest.raises(SupersededError):
        ledger.enter(first, "look", {})
    ledger.end(second, "failed", "aborted")
    with pytest.raises(ReleaseError, match="not under way any more"):
        ledger.take(first.operation)


def test_there_is_nothing_to_resume_or_to_pause_without_a_deploy(ledger: DeployLedger) -> None:
    ledger.end(ledger.begin("deploy", {"reason": ""}), "failed", "")
    with pytest.raises(ReleaseError, match="nothing to resume"):
        ledger.resume()
    with pytest.raises(ReleaseError, match="nothing to pause"):
        ledger.pause(paused=True, reason="")


def test_a_pause_is_seen_and_lifted(ledger: DeployLedger) -> None:
    ledger.begin("deploy", {"reason": ""})
    for paused in (True, False):
        ledger.pause(paused=paused, reason="lunch")
        running = ledger.state().open
        assert running is not None
        assert running.paused is paused


def test_of_a_symbol_the_last_assignment_serves(ledger: DeployLedger) -> None:
    claim = ledger.begin("deploy", {"reason": ""})
    for release, from_ms in (("r1", 0), ("r2", 1_000), ("r1", 500)):
        ledger.enter(claim, "assign", {"symbol": "BTCUSDT", "from_ms": from_ms, "release": release})
    assert ledger.state().serves("BTCUSDT") == "r1"
    assert ledger.state().serves("ETHUSDT") is None


def test_a_ledger_that_was_tampered_with_gives_no_state(ledger: DeployLedger) -> None:
    ledger.begin("deploy", {"reason": "honest"})
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("DROP TRIGGER entry_is_never_changed")
        db.execute("UPDATE entry SET record = replace(record, 'honest', 'forged')")
    with pytest.raises(StoreError, match="row 1 is not what was entered"):
        ledger.state()


def test_a_process_is_told_from_another_of_its_number() -> None:
    me = this_process()
    assert is_alive(me)
    assert not is_alive(me._replace(begun=me.begun + 1))
    assert not is_alive(me._replace(boot="another"))
    assert not is_alive(Worker(2**22 + 1, 1, me.boot))


def test_a_killed_process_that_nobody_has_waited_for_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        stat = Path(f"/proc/{child.pid}/stat")
        worker = Worker(child.pid, int(stat.read_text().rpartition(")")[2].split()[19]), this_process().boot)
        assert is_alive(worker)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(worker)


def test_a_claim_of_nothing_holds_nothing(ledger: DeployLedger) -> None:
    ledger.note("alarm", {"what": "prometheus", "why": "unreachable"})
    with pytest.raises(SupersededError, match="superseded by nobody"):
        ledger.check(Claim("none", 1))


def test_a_row_is_taken_apart_once_and_its_chain_is_checked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = DeployLedger(tmp_path / "ledger.sqlite")
    ledger.begin("deploy", {"reason": ""})
    before = ledger.rows()
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail(f"taken apart again: {text}"))
    assert ledger.rows() == before
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("DROP TRIGGER entry_is_never_changed")
        db.execute("UPDATE entry SET record = replace(record, 'deploy', 'rollback')")
    with pytest.raises(StoreError, match="row 1 is not what was entered"):
        ledger.rows()
