"""Where things stand: the ledger beside what runs, and every way in which the two may differ."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import cast

import pytest

from tests.unit.release.small_rig import (
    NOW,
    OLD,
    PORTS,
    RELEASE,
    Reply,
    SmallSupervisor,
    Web,
    dead_worker,
    deployed,
    make_rig,
    running_log,
    served,
    with_settings,
)
from v13.errors import ReleaseError, StoreError
from v13.release.observe import Look, Observer
from v13.release.rig import Rig
from v13.release.site import Site
from v13.release.status import history, status, watched
from v13.release.supervisor import ProgramState, State
from v13.release.watch_view import History
from v13.telemetry.slo import load_slo

FINGERPRINT = "fe" * 32


def tell(path: str, _: str) -> Reply:
    if path == "/-/ready":
        return 200, ""
    info = f'divergence_active_config_info{{version="1-{FINGERPRINT[:8]}"}} 1\n'
    return 200, info + "divergence_bars_total 9\ndivergence_active_symbols 3\n"


@pytest.fixture
def runner() -> Iterator[Web]:
    with served() as web:
        web.answer = tell
        yield web


@pytest.fixture
def rig(site: Site, runner: Web) -> Rig:
    return make_rig(with_settings(site, ports=[runner.port, PORTS[1]]))


def test_before_the_first_deploy_nothing_is_wrong(rig: Rig) -> None:
    now = status(rig)
    assert (now.operation, now.releases, now.is_consistent) == (None, (), True)
    assert now.text() == "nothing has been deployed yet\n"
    assert history(rig.ledger.rows()) == "nothing has been deployed yet\n"
    assert watched(rig, History()) is None


@pytest.mark.parametrize("process", ["stopped", "failed", "unknown"])
def test_a_release_without_a_process_does_not_serve_though_another_answers_on_its_port(
    rig: Rig, process: State
) -> None:
    deployed(rig, RELEASE)
    running_log(rig.site, RELEASE, {"BTCUSDT": 7_000}, fingerprint=FINGERPRINT)
    cast(SmallSupervisor, rig.supervisor).at[f"runner-{RELEASE}"] = process
    now = status(rig)
    (one,) = now.releases
    assert one.answers == "does not run"
    assert not now.is_consistent


def test_a_stable_release_that_serves_is_consistent(rig: Rig, runner: Web) -> None:
    deployed(rig, RELEASE)
    running_log(rig.site, RELEASE, {"BTCUSDT": 7_000}, fingerprint=FINGERPRINT)
    now = status(rig)
    (one,) = now.releases
    assert (one.release, one.role, one.port, one.process) == (RELEASE, "stable", runner.port, "running")
    assert (one.answers, one.last_bar_ms) == ("serving", {"BTCUSDT": 7_000})
    assert one.symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert now.is_consistent
    assert json.loads(json.dumps(now.to_dict()))["is_consistent"] is True
    text = now.text()
    assert f"stable    {RELEASE}  port {runner.port}  running  ready\n" in text
    assert "          serves BTCUSDT, ETHUSDT, SOLUSDT\n" in text


def test_a_stable_release_that_does_not_answer_is_a_problem(rig: Rig, runner: Web) -> None:
    deployed(rig, RELEASE)
    running_log(rig.site, RELEASE, {}, fingerprint=FINGERPRINT)
    runner.answer = lambda _path, _body: (503, "")
    now = status(rig)
    assert not now.is_consistent
    assert now.problems[0].startswith(f"stable release {RELEASE}: port {runner.port}: /metrics: status 503")
    assert f"PROBLEM   stable release {RELEASE}: " in now.text()


def test_after_a_stop_nothing_is_said_to_serve(rig: Rig) -> None:
    deployed(rig, RELEASE)
    claim = rig.ledger.begin("rollback", {"type": "emergency", "reason": "bad", "bad": RELEASE, "env": "testing"})
    rig.ledger.end(claim, "stopped", "bad")
    now = status(rig)
    assert now.problems[0].startswith(f"nothing serves: {RELEASE} was stopped; `v13 rollback --list-backups`")
    text = now.text()
    assert "          served, until it was stopped, BTCUSDT, ETHUSDT, SOLUSDT\n" in text
    assert "  serves " not in text
    assert "ended because" not in text  # which is the reason, given above


def test_a_damaged_log_is_a_problem_and_no_crash(rig: Rig) -> None:
    deployed(rig, RELEASE)
    rig.site.event_log(RELEASE).parent.mkdir(parents=True)
    rig.site.event_log(RELEASE).write_bytes(b"no database " * 1_000)
    assert "is damaged" in status(rig).problems[0]


def test_a_runner_of_which_the_ledger_knows_nothing_is_a_problem(rig: Rig) -> None:
    deployed(rig, RELEASE)
    running_log(rig.site, RELEASE, {}, fingerprint=FINGERPRINT)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at |= {"guard": "running", f"runner-{OLD}": "running", "runner-stopped": "stopped"}
    assert status(rig).problems == (f"runner-{OLD} runs, and the ledger knows nothing of it",)


class Deaf(SmallSupervisor):
    def states(self) -> list[ProgramState]:
        raise ReleaseError("does not answer")


def test_a_supervisor_that_is_away_is_a_problem_once_something_was_deployed(rig: Rig) -> None:
    deaf = Rig(rig.site, rig.ledger, Deaf(), rig.clock)
    assert status(deaf).is_consistent
    deployed(rig, RELEASE)
    now = status(deaf)
    assert now.problems[0] == "by hand: does not answer; `v13 deploy up` starts it"
    assert now.releases[0].process == "unknown"


def test_during_a_deploy_both_are_shown_with_what_they_serve(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE, ["start"])
    running_log(rig.site, OLD, {}, fingerprint=FINGERPRINT)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    rig.ledger.enter(claim, "assign", {"symbol": "BTCUSDT", "from_ms": 9_000, "release": RELEASE})
    now = status(rig)
    stable, candidate = now.releases
    assert (stable.symbols, candidate.symbols) == (("ETHUSDT", "SOLUSDT"), ("BTCUSDT",))
    assert candidate.answers.startswith(f"port {PORTS[1]}: ")
    assert now.is_consistent  # it is on its way
    assert now.operation is not None
    assert now.operation["done"] == ["start"]
    assert now.operation["state"].startswith("under way, process ")
    assert "  steps done: start\n" in now.text()


def test_a_release_in_shadow_says_so(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    assert "          serves nothing (in shadow)\n" in status(rig).text()


def test_a_release_in_shadow_that_lacks_nothing_is_ready_and_is_not_said_to_serve(rig: Rig, runner: Web) -> None:
    deployed(rig, None, RELEASE)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    rig.ledger.enter(claim, "slot", {"release": RELEASE, "port": runner.port})
    running_log(rig.site, RELEASE, {}, fingerprint=FINGERPRINT)
    text = status(rig).text()
    assert f"candidate {RELEASE}  port {runner.port}  running  ready\n" in text
    assert text.endswith("nothing serves\n")


def test_how_the_last_operation_ended_is_told_with_its_reason(rig: Rig) -> None:
    claim = rig.ledger.begin("deploy", {"reason": "the first", "env": "testing"})
    rig.ledger.end(claim, "failed", "the disk is full")
    now = status(rig)
    assert now.operation is not None
    assert (now.operation["state"], now.operation["why"]) == ("failed", "the disk is full")
    assert "  ended because: the disk is full\n" in now.text()
    assert now.text().endswith("nothing serves\n")


def test_a_dead_worker_and_a_pause_are_told_with_what_to_do(rig: Rig) -> None:
    dead_worker(rig, "deploy", {"reason": "the first", "env": "testing"})
    now = status(rig).operation
    assert now is not None
    assert now["state"] == (
        "its worker (process 1) is gone; `v13 deploy resume` goes on with it, `v13 deploy abort` takes it back"
    )
    assert (now["by"], now["reason"], now["kind"]) == ("somebody@elsewhere", "the first", "deploy")
    rig.ledger.pause(paused=True, reason="lunch")
    now = status(rig).operation
    assert now is not None
    assert now["state"] == "paused; `v13 deploy resume` goes on, `v13 deploy abort` takes it back"


def test_a_pause_whose_worker_has_not_ended_says_that_it_has_to(rig: Rig) -> None:
    rig.ledger.begin("deploy", {"reason": "the first", "env": "testing"})
    rig.ledger.pause(paused=True, reason="lunch")
    now = status(rig).operation
    assert now is not None
    assert now["state"].startswith(f"paused; process {os.getpid()} is about to end; then `v13 deploy resume`")


def test_what_a_rollback_brings_back_is_told_and_no_problem(rig: Rig) -> None:
    deployed(rig, RELEASE)
    running_log(rig.site, OLD, {"BTCUSDT": 7_000}, fingerprint=FINGERPRINT)
    facts = {"type": "full", "reason": "bad", "bad": RELEASE, "good": OLD, "stamp": 17, "also": None, "env": "testing"}
    dead_worker(rig, "rollback", facts)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at |= {f"runner-{RELEASE}": "stopped", f"runner-{OLD}": "running"}
    found = status(rig)
    assert found.problems == ()  # before its port is entered, too
    assert [(one.role, one.release) for one in found.releases] == [("stable", RELEASE), ("returning", OLD)]
    rows: list[tuple[str, object]] = [("slot", {"release": OLD, "port": rig.site.config.deploy.ports[0]})]
    rows += [("assign", {"symbol": s, "from_ms": 7_001, "release": OLD}) for s in ("BTCUSDT", "ETHUSDT", "SOLUSDT")]
    rig.ledger.done(claim, "handback", {}, rows)
    text = status(rig).text()
    assert f"returning {OLD}  port {rig.site.config.deploy.ports[0]}  running  ready\n" in text
    assert "          serves BTCUSDT, ETHUSDT, SOLUSDT\n" in text
    assert "nothing serves\n" not in text


def test_a_rollback_whose_worker_is_gone_says_who_goes_on(rig: Rig) -> None:
    deployed(rig, RELEASE)
    dead_worker(rig, "rollback", {"type": "full", "reason": "bad", "bad": RELEASE, "good": None, "env": "testing"})
    now = status(rig).operation
    assert now is not None
    assert now["state"].endswith("`v13 deploy resume` goes on with it, as the guard does at its next look")


def test_what_holds_a_deploy_is_told_without_the_live_view(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    text = status(rig).text()
    assert "last look" not in text
    assert "last alarm" not in text
    why = "Prometheus could not be asked: http://localhost:9090: Prometheus cannot be reached"
    look = Look(NOW.timestamp(), (), (), "hold", why)
    rig.ledger.enter(claim, "look", {"step": "observe:BTCUSDT", "look": look.to_dict()})
    rig.ledger.note("alarm", {"what": "prometheus", "why": why, "by": "deployer"})
    text = status(rig).text()
    assert f"  last look: 2026-03-01T12:00:00, observe:BTCUSDT: hold: {why}\n" in text
    assert f"  last alarm: 2026-03-01T12:00:00, deployer: {why}\n" in text
    assert "held because" not in text
    rig.ledger.done(claim, "observe:BTCUSDT", {})
    assert "last look" not in status(rig).text()  # of a step that is over
    rig.ledger.end(claim, "completed", "")
    text = status(rig).text()
    assert "last look" not in text
    assert f"  last alarm: 2026-03-01T12:00:00, deployer: {why}\n" in text  # notify.people may be null


def test_why_a_deploy_is_held_is_told(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    rig.ledger.pause(paused=True, reason="lunch")
    rig.ledger.pause(paused=False, reason="resumed")
    assert "held because" not in status(rig).text()
    rig.ledger.pause(paused=True, reason="waiting for the exchange")
    rig.ledger.enter(claim, "pause", {"paused": True, "reason": "paused during observe:BTCUSDT", "by": "op"})
    assert "  held because: waiting for the exchange; paused during observe:BTCUSDT\n" in status(rig).text()


def test_a_ledger_that_was_tampered_with_is_no_status(rig: Rig) -> None:
    rig.site.ledger.parent.mkdir(parents=True, exist_ok=True)
    rig.site.ledger.write_bytes(b"no database " * 1_000)
    with pytest.raises(StoreError):
        status(rig)


def test_every_transition_is_a_line_and_looks_are_counted(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE, ["check"])
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    for _ in range(3):
        rig.ledger.enter(claim, "look", {"step": "observe:BTCUSDT"})
    rig.ledger.note("alarm", {"what": "guard", "why": "blind: " + "x" * 300, "by": "guard"})
    rig.ledger.enter(claim, "look", {"step": "observe:BTCUSDT"})
    lines = history(rig.ledger.rows()).splitlines()
    assert lines[0].startswith("    1  2026-03-01T12:00:00  begin by ")
    assert lines[0].endswith(": operation deploy, reason the first")
    assert f"slot: release {OLD}, port {rig.site.config.deploy.ports[0]}" in "\n".join(lines)
    assert "assign: symbol BTCUSDT, from_ms 0, release " + OLD in "\n".join(lines)  # 0 is told, too
    assert lines[-1].split() == ["1", "looks"]
    assert lines[-3].split() == ["3", "looks"]
    assert "alarm by guard: what guard, why blind: xxx" in lines[-2]
    assert max(map(len, lines)) == 118
    assert [line.endswith("xx ...") for line in lines] == [line is lines[-2] for line in lines]
    assert len([line for line in lines if "look" not in line]) == len(rig.ledger.rows()) - 4


def test_the_view_shows_the_step_and_the_last_look_of_it(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    seen = History()
    now = watched(rig, seen)
    assert now is not None
    assert (now.stage, now.candidate, now.stable, now.look) == ("start", RELEASE, OLD, None)
    assert now.history is seen
    observer = Observer(load_slo(rig.site.root / "config/slo.yaml"), candidate="127.0.0.1:1", stable=None)
    look = Look(NOW.timestamp(), (), (), "hold", "too early")
    for step in ("start", "another"):
        rig.ledger.enter(claim, "look", {"step": step, "look": look.to_dict(), "observer": observer.to_dict()})
        now = watched(rig, seen)
        assert now is not None
        assert now.look == (look if step == "start" else None)
    assert not [text for _, kind, text in now.ledger if kind == "look"]
    rig.ledger.done(claim, "start", {})
    rig.clock.sleep(5.0)
    rig.ledger.pause(paused=True, reason="")
    now = watched(rig, seen)
    assert now is not None
    assert (now.stage, now.is_paused, now.now_s) == ("promote", True, (NOW + timedelta(seconds=5)).timestamp())
    rig.ledger.end(claim, "completed", "")
    assert watched(rig, seen) is None


def test_words_of_others_cannot_move_a_terminal(site: Site) -> None:
    rig = make_rig(site)
    deployed(rig, OLD)
    rig.ledger.begin("rollback", {"type": "full", "reason": "a\x1b[2J\nstable  forged \udcff", "bad": OLD})
    text = status(rig).text() + history(rig.ledger.rows())
    text.encode()
    assert "\x1b" not in text
    assert r"a\x1b[2J\nstable  forged \udcff" in text
    assert not [line for line in text.splitlines() if line.startswith("stable  forged")]
