"""The guard: whom it believes, what it takes back, and what it only tells; ledger, folders and HTTP are real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest

from tests.unit.release.small_rig import (
    NOW,
    OLD,
    PORTS,
    RELEASE,
    FakePrometheus,
    SmallClock,
    SmallSupervisor,
    dead_worker,
    deployed,
    good_values,
    make_rig,
    running_log,
    served,
    with_settings,
)
from v13.errors import ReleaseError
from v13.release import orphans, runners
from v13.release.backup import make_backup
from v13.release.guard import Guard, run_guard
from v13.release.ledger import State
from v13.release.ports import free_port
from v13.release.rig import Rig
from v13.release.rollback import roll_back
from v13.release.site import Site
from v13.release.supervisor import ProgramState, SupervisorGoneError
from v13.release.webhook import Alarm
from v13.release.workers import is_alive

STABLE_AT, CANDIDATE_AT = (f"127.0.0.1:{port}" for port in PORTS)
NOBODY = "http://127.0.0.1:1"  # where nobody listens


@dataclass
class Scene:
    """A guard, what it watches and what it said."""

    rig: Rig
    guard: Guard
    prometheus: FakePrometheus
    said: list[str]

    @property
    def clock(self) -> SmallClock:
        return cast(SmallClock, self.rig.clock)

    @property
    def supervisor(self) -> SmallSupervisor:
        return cast(SmallSupervisor, self.rig.supervisor)

    def state(self) -> State:
        return self.rig.ledger.state()

    def outcome(self) -> str | None:
        operation = self.state().operation
        assert operation is not None
        return operation.outcome

    def kinds(self) -> list[str]:
        return [str(row.record["kind"]) for row in self.rig.ledger.rows()]

    def alarms(self) -> list[str]:
        return [str(row.record["why"]) for row in self.rig.ledger.rows() if row.record["kind"] == "alarm"]

    def look(self, n: int = 1, seconds: float = 15.0) -> None:
        for _ in range(n):
            self.clock.at += timedelta(seconds=seconds)
            self.guard.look()


@pytest.fixture
def web() -> Iterator[FakePrometheus]:
    with served(FakePrometheus()) as web:
        assert isinstance(web, FakePrometheus)
        yield web


def scene(site: Site, web: FakePrometheus, stable: str | None, candidate: str | None, **deploy: Any) -> Scene:
    site = with_settings(site, **{"prometheus": web.url, "time_scale": 0.1} | deploy)
    said: list[str] = []
    rig = make_rig(site, said)
    deployed(rig, stable, candidate, ["start"])
    for release in (stable, candidate):
        if release is not None:
            running_log(site, release, {"BTCUSDT": 1_000})
    return Scene(rig, Guard(rig), web, said)


@pytest.fixture
def canary(site: Site, web: FakePrometheus) -> Scene:
    """A deploy under way: OLD serves, RELEASE is watched."""
    return scene(site, web, OLD, RELEASE)


def alarm(instance: str, name: str = "SlowEvents") -> Alarm:
    return Alarm(name, instance, "event_latency", "P95 of 0.4 s", NOW, "a1")


def blocked_rollback(canary: Scene) -> str:
    """Return the operation that a rollback began; it cannot end here, where OLD does not really answer."""
    running = canary.state().operation
    assert running is not None
    return running.kind


def test_an_alert_of_the_candidate_that_prometheus_knows_takes_it_back(canary: Scene) -> None:
    canary.prometheus.alerts.add(("SlowEvents", CANDIDATE_AT))
    canary.guard.alarm(alarm(CANDIDATE_AT))
    operation = canary.state().operation
    assert operation is not None
    assert (operation.kind, operation.facts["type"], operation.facts["bad"]) == ("rollback", "automatic", RELEASE)
    assert operation.facts["good"] == OLD
    assert operation.facts["reason"] == "SlowEvents: P95 of 0.4 s"
    assert operation.facts["evidence"] == {
        **{"alert": "SlowEvents", "slo": "event_latency", "since": NOW.isoformat(), "by": "alertmanager"}
    }
    assert f"stop runner-{RELEASE}" in canary.supervisor.told
    assert f"stop runner-{OLD}" not in canary.supervisor.told
    assert next(iter(operation.done)) == "stop"


@pytest.mark.parametrize("known", [[], [("SlowEvents", STABLE_AT)], [("OtherAlert", CANDIDATE_AT)]])
def test_an_alert_that_prometheus_does_not_know_is_told_and_nothing_more(
    canary: Scene, known: list[tuple[str, str]]
) -> None:
    canary.prometheus.alerts.update(known)
    canary.guard.alarm(alarm(CANDIDATE_AT))
    assert canary.alarms() == [f"SlowEvents of {CANDIDATE_AT}: Prometheus does not know of it; nothing was done"]
    assert blocked_rollback(canary) == "deploy"
    assert canary.supervisor.told == []


@pytest.mark.parametrize("status", [500, 503])
def test_where_prometheus_cannot_answer_the_alert_alone_counts(canary: Scene, status: int) -> None:
    canary.prometheus.answer = lambda _path, _body: (status, "down")
    canary.guard.alarm(alarm(CANDIDATE_AT))
    assert blocked_rollback(canary) == "rollback"


def test_where_prometheus_is_dead_the_alert_alone_counts(site: Site, web: FakePrometheus) -> None:
    canary = scene(site, web, OLD, RELEASE, prometheus=NOBODY)
    canary.guard.alarm(alarm(CANDIDATE_AT))
    assert blocked_rollback(canary) == "rollback"
    assert f"stop runner-{RELEASE}" in canary.supervisor.told


@pytest.mark.parametrize(
    "instance",
    [STABLE_AT, "127.0.0.1:9", "", CANDIDATE_AT.replace("127.0.0.1", "localhost")],
    ids=["stable", "another", "nobody", "another name"],
)
def test_an_alert_of_anybody_else_is_told_and_nothing_more(canary: Scene, instance: str) -> None:
    canary.prometheus.alerts.add(("SlowEvents", instance))
    canary.guard.alarm(alarm(instance))
    assert canary.alarms() == [f"SlowEvents of {instance or 'nobody'}: is not about the release that is watched"]
    assert blocked_rollback(canary) == "deploy"
    assert canary.supervisor.told == []


def test_without_a_deploy_under_way_the_stable_release_is_watched(site: Site, web: FakePrometheus) -> None:
    alone = scene(site, web, RELEASE, None)
    web.alerts.add(("SlowEvents", STABLE_AT))
    alone.guard.alarm(alarm(STABLE_AT))
    assert blocked_rollback(alone) == "rollback"


def test_a_first_release_without_a_backup_is_stopped(site: Site, web: FakePrometheus) -> None:
    first = scene(site, web, None, RELEASE)
    web.alerts.add(("SlowEvents", CANDIDATE_AT))
    first.guard.alarm(alarm(CANDIDATE_AT))
    assert first.outcome() == "stopped"
    assert first.supervisor.at.get(f"runner-{RELEASE}") is None
    assert f"stop runner-{RELEASE}" in first.supervisor.told
    assert first.state().candidate is None
    assert [line for line in first.said if line.startswith("guard: stopped: nothing serves, after ")]
    operation = first.state().operation
    assert operation is not None
    assert (first.rig.site.records / operation.id / "record.json").is_file()


def stopped(site: Site, web: FakePrometheus) -> Scene:
    """Return a scene where the only release was promoted, and stopped later."""
    only = scene(site, web, RELEASE, None)
    web.alerts.add(("SlowEvents", STABLE_AT))
    only.guard.alarm(alarm(STABLE_AT))
    assert only.outcome() == "stopped"
    return only


def test_what_was_stopped_is_not_stopped_again_by_an_alert_about_it(site: Site, web: FakePrometheus) -> None:
    only = stopped(site, web)
    n = len(only.rig.ledger.rows())
    only.guard.alarm(alarm(STABLE_AT))
    assert only.kinds()[n:] == ["alarm"]


def test_what_was_stopped_is_not_judged_by_what_prometheus_still_remembers(site: Site, web: FakePrometheus) -> None:
    only = stopped(site, web)
    n = len(only.rig.ledger.rows())
    web.values[STABLE_AT] = good_values() | {"v13:event_latency:p95": 9.0}
    only.look(12)
    assert only.kinds()[n:] == []


def test_what_people_stopped_is_not_replaced_by_a_guard(site: Site, web: FakePrometheus) -> None:
    alone = scene(site, web, RELEASE, None)
    make_backup(alone.rig.site, alone.state(), OLD, "", NOW)
    roll_back(alone.rig, kind="emergency", reason="it smelt")
    refused = alone.rig.ledger.begin("deploy", {"reason": "another", "env": "testing"})
    alone.rig.ledger.end(refused, "refused", "the checks")
    web.alerts.add(("SlowEvents", STABLE_AT))
    n = len(alone.rig.ledger.rows())
    alone.guard.alarm(alarm(STABLE_AT))
    alone.look()
    assert alone.kinds()[n:] == ["alarm"]


def test_a_value_beyond_its_rollback_level_takes_back_once_it_lasted(canary: Scene) -> None:
    canary.clock.at += timedelta(hours=2)  # the windows belong to this release alone
    canary.prometheus.values[CANDIDATE_AT] = good_values() | {"v13:event_latency:p95": 0.4}
    canary.look(6)
    assert blocked_rollback(canary) == "deploy"
    canary.look()
    operation = canary.state().operation
    assert operation is not None
    assert (operation.kind, operation.facts["bad"]) == ("rollback", RELEASE)
    assert "Event latency P95 beyond its rollback level" in operation.facts["reason"]


def test_good_values_take_nothing_back_and_are_no_alarm(canary: Scene) -> None:
    canary.clock.at += timedelta(hours=2)
    canary.prometheus.values[CANDIDATE_AT] = good_values()
    canary.prometheus.values[STABLE_AT] = good_values() | {"v13:event_latency:p95": 0.4}  # is not looked at
    n = len(canary.rig.ledger.rows())
    canary.look(10)
    assert len(canary.rig.ledger.rows()) == n


def test_a_dead_prometheus_is_an_alarm_told_once_and_again_after_it_was_back(site: Site, web: FakePrometheus) -> None:
    canary = scene(site, web, OLD, RELEASE)
    canary.clock.at += timedelta(hours=2)
    web.values[CANDIDATE_AT] = good_values()
    whole = web.answer
    for n in (1, 2):
        web.answer = lambda _path, _body: (503, "down")
        canary.look(2)
        assert len(canary.alarms()) == n - 1  # not for a hiccup
        canary.look(4)
        assert len(canary.alarms()) == n
        assert canary.alarms()[-1].startswith("blind: Prometheus could not be asked: ")
        web.answer = whole
        canary.look()
    assert blocked_rollback(canary) == "deploy"


def test_a_release_that_does_not_stay_up_is_taken_back_whatever_prometheus_says(
    site: Site, web: FakePrometheus
) -> None:
    canary = scene(site, web, OLD, RELEASE, prometheus=NOBODY)
    canary.supervisor.at[f"runner-{RELEASE}"] = "failed"
    canary.guard.look()
    operation = canary.state().operation
    assert operation is not None
    assert operation.kind == "rollback"
    assert operation.facts["reason"] == f"release {RELEASE} does not stay up: as the test says"


def test_a_candidate_that_is_still_being_started_is_not_judged(site: Site, web: FakePrometheus) -> None:
    rig = make_rig(with_settings(site, prometheus=web.url))
    deployed(rig, OLD, RELEASE)
    cast(SmallSupervisor, rig.supervisor).at[f"runner-{RELEASE}"] = "failed"
    Guard(rig).look()
    assert rig.ledger.state().candidate == RELEASE
    assert web.requests == []


def test_an_alert_about_a_candidate_that_is_still_being_started_is_told_and_nothing_more(
    site: Site, web: FakePrometheus
) -> None:
    rig = make_rig(with_settings(site, prometheus=web.url))
    deployed(rig, OLD, RELEASE)
    web.alerts.add(("SlowEvents", CANDIDATE_AT))
    Guard(rig).alarm(alarm(CANDIDATE_AT))
    state = rig.ledger.state()
    assert (state.candidate, state.open is not None and state.open.kind) == (RELEASE, "deploy")
    assert [r.record["why"] for r in rig.ledger.rows() if r.record["kind"] == "alarm"] == [
        f"SlowEvents of {CANDIDATE_AT}: is still being started; nothing was done"
    ]


def test_nothing_is_judged_where_nothing_was_deployed(site: Site, web: FakePrometheus) -> None:
    rig = make_rig(with_settings(site, prometheus=web.url))
    Guard(rig).look()
    Guard(rig).alarm(alarm(STABLE_AT))
    assert [row.record["kind"] for row in rig.ledger.rows()] == ["alarm"]


def rollback_facts(**more: Any) -> dict[str, Any]:
    facts = {"type": "emergency", "reason": "it smelt", "bad": RELEASE, "good": None, "stamp": None, "also": None}
    return facts | {"env": "testing", "evidence": {}} | more


def test_a_rollback_whose_worker_died_is_taken_up_as_what_it_was(site: Site, web: FakePrometheus) -> None:
    rig = make_rig(with_settings(site, prometheus=web.url))
    deployed(rig, RELEASE)
    cast(SmallClock, rig.clock).at += timedelta(seconds=1)
    name = dead_worker(rig, "rollback", rollback_facts())
    Guard(rig).look()
    operation = rig.ledger.state().operation
    assert operation is not None
    assert (operation.id, operation.outcome, list(operation.done)) == (
        name,
        "stopped",
        ["stop", "restore", "handback", "verify"],
    )
    end = [row.record for row in rig.ledger.rows() if row.record["kind"] == "end"][-1]
    assert end["why"] == "it smelt"
    assert "stop runner-" + RELEASE + " 1" in cast(SmallSupervisor, rig.supervisor).told  # an emergency's grace


def test_a_rollback_that_is_at_work_is_left_alone(canary: Scene) -> None:
    canary.rig.ledger.begin("rollback", rollback_facts(), take_over=lambda _: True)
    canary.prometheus.alerts.add(("SlowEvents", CANDIDATE_AT))
    n = len(canary.rig.ledger.rows())
    canary.guard.alarm(alarm(CANDIDATE_AT))
    canary.guard.look()
    assert len(canary.rig.ledger.rows()) == n
    assert canary.supervisor.told == []


def test_a_dead_deploy_is_no_reason_to_take_back_what_is_good(site: Site, web: FakePrometheus) -> None:
    rig = make_rig(with_settings(site, prometheus=web.url))
    dead_worker(rig, "deploy", {"reason": "", "env": "testing"})
    Guard(rig).look()
    operation = rig.ledger.state().open
    assert operation is not None
    assert operation.kind == "deploy"


def test_a_rollback_under_which_the_supervisor_is_killed_goes_on_with_another(
    canary: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runners.write_overlay(canary.rig.site, OLD, PORTS[0], ["BTCUSDT"], None)
    start, deaths = canary.supervisor.start, iter([True])

    def killed(name: str) -> None:
        start(name)
        if next(deaths, False):
            raise SupervisorGoneError("it was killed")

    monkeypatch.setattr(canary.supervisor, "start", killed)
    canary.prometheus.alerts.add(("SlowEvents", CANDIDATE_AT))
    canary.guard.alarm(alarm(CANDIDATE_AT))
    operation = canary.state().operation
    assert operation is not None
    assert list(operation.done)[:2] == ["stop", "restore"]
    told = canary.supervisor.told
    assert told[told.index(f"start runner-{OLD}") :][:3] == [
        f"start runner-{OLD}",
        "ensure_up",
        f"start runner-{OLD}",
    ]


def test_what_could_not_be_taken_back_is_an_alarm_told_once(site: Site, web: FakePrometheus) -> None:
    canary = scene(site, web, OLD, RELEASE)
    web.alerts.add(("SlowEvents", CANDIDATE_AT))
    (canary.rig.site.home / "acting.lock").mkdir()
    for _ in range(3):
        canary.guard.alarm(alarm(CANDIDATE_AT))
    told = canary.alarms()
    assert len(told) == 1
    assert told[0].startswith("could not take it back: ")
    assert "acting.lock" in told[0]


def test_a_rollback_of_its_own_that_failed_is_tried_again_and_is_open_to_people(
    canary: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runners.write_overlay(canary.rig.site, OLD, PORTS[0], ["BTCUSDT"], None)
    canary.prometheus.alerts.add(("SlowEvents", CANDIDATE_AT))
    canary.guard.alarm(alarm(CANDIDATE_AT))
    running = canary.state().open
    assert running is not None
    assert (running.kind, is_alive(running.worker)) == ("rollback", False)  # this process lives
    assert canary.alarms()[-1].startswith("could not take it back: ")
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")  # it answers at last
    canary.look()
    operation = canary.state().operation
    assert operation is not None
    assert (operation.id, operation.outcome) == (running.id, "rolled_back")


def test_what_the_deployer_took_back_while_the_guard_looked_is_not_taken_back_twice(
    canary: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    runners.write_overlay(canary.rig.site, OLD, PORTS[0], ["BTCUSDT"], None)
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    canary.supervisor.at[f"runner-{RELEASE}"] = "failed"
    was_asked: list[str] = []
    state = canary.supervisor.state

    def slow(name: str) -> ProgramState:
        found = state(name)
        if not was_asked:
            was_asked.append(name)
            roll_back(canary.rig, kind="automatic", reason="the deployer was faster")
        return found

    monkeypatch.setattr(canary.supervisor, "state", slow)
    canary.guard.look()
    assert was_asked == [f"runner-{RELEASE}"]
    operation = canary.state().operation
    assert operation is not None
    assert (operation.facts["reason"], operation.outcome) == ("the deployer was faster", "rolled_back")
    assert canary.supervisor.at[f"runner-{OLD}"] == "running"
    assert canary.alarms()[-1].startswith(f"could not take it back: release {RELEASE} was taken back already")


def test_alerts_before_the_release_was_given_its_port_are_not_about_it(canary: Scene) -> None:
    assert canary.guard.since() == NOW - timedelta(seconds=2)
    canary.clock.at += timedelta(hours=1)
    running = canary.rig.ledger.take(str(canary.state().open.id))  # type: ignore[union-attr]
    canary.rig.ledger.enter(running, "slot", {"release": RELEASE, "port": PORTS[1]})
    assert canary.guard.since() == NOW + timedelta(hours=1) - timedelta(seconds=2)


def test_where_nothing_runs_every_alert_is_too_old(site: Site) -> None:
    assert Guard(make_rig(site)).since().year == 9999


def test_it_listens_looks_and_ends_when_it_is_told_to(site: Site, web: FakePrometheus) -> None:
    """The whole of it in one thread of this process, over its own socket."""
    port = free_port()
    canary = scene(site, web, OLD, RELEASE, guard_port=port, look_every_s=0.05)
    web.alerts.add(("SlowEvents", CANDIDATE_AT))
    stop, told = threading.Event(), threading.Event()

    class Speaker(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            if line.startswith("guard: listens on"):
                told.set()
            if "taking back" in line:
                stop.set()

    said = Speaker()
    rig = Rig(canary.rig.site, canary.rig.ledger, canary.rig.supervisor, canary.clock, said.append)
    thread = threading.Thread(target=run_guard, args=(rig, stop))
    thread.start()
    try:
        assert told.wait(20), said
        token = (rig.site.root / rig.site.config.deploy.guard_token_file).read_text()
        labels = {"alertname": "SlowEvents", "instance": CANDIDATE_AT, "action": "rollback"}
        one = {"status": "firing", "labels": labels, "startsAt": NOW.isoformat(), "fingerprint": "a1"}
        answer = httpx.post(
            f"http://127.0.0.1:{port}/alerts",
            headers={"Authorization": f"Bearer {token}"},
            json={"version": "4", "alerts": [one]},
            trust_env=False,
        )
        assert answer.status_code == 200
        assert stop.wait(20), said
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert said[0] == f"guard: listens on 127.0.0.1:{port}"
    assert not [line for line in said if token in line]
    assert blocked_rollback(canary) == "rollback"


def test_a_guard_whose_supervisord_died_while_it_started_starts_another_and_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(with_settings(site, guard_port=free_port()))
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.name = "supervisord"
    monkeypatch.setenv(orphans.PROGRAM, "guard")  # as supervisord marks it; what started this test is none
    run_guard(rig, threading.Event())
    assert supervisor.told == ["ensure_up"]


def test_a_taken_port_ends_it_at_once(site: Site, web: FakePrometheus) -> None:
    rig = make_rig(with_settings(site, guard_port=web.port))
    with pytest.raises(ReleaseError, match=f"port {web.port}: .*is another guard running"):
        run_guard(rig, threading.Event())


def test_a_token_that_cannot_be_read_is_named(site: Site) -> None:
    path = site.root / site.config.deploy.guard_token_file
    path.mkdir()
    with pytest.raises(ReleaseError, match=r"guard\.token: cannot be read"):
        run_guard(make_rig(site), threading.Event())
