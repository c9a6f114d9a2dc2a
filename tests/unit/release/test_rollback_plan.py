"""Where a rollback goes, whom it may end, and what it says before it does anything."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from tests.unit.release.bundles import change
from tests.unit.release.small_rig import (
    NOW,
    OLD,
    RELEASE,
    SmallSupervisor,
    dead_worker,
    deployed,
    forget,
    make_rig,
    unprotect,
)
from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release import runners
from v13.release.backup import list_backups, make_backup
from v13.release.build import build_release
from v13.release.ledger import DeployLedger, Operation, SupersededError
from v13.release.rig import Rig
from v13.release.rollback import _may_end, roll_back, withdraw
from v13.release.rollback_target import Kind, Target, find_target, plan
from v13.release.runners import Answer
from v13.release.site import Site
from v13.release.workers import Worker, this_process

OTHER = "20260227T120000Z-cccccccc"
KINDS: tuple[Kind, ...] = ("emergency", "full", "automatic")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def rig(site: Site, said: list[str]) -> Rig:
    return make_rig(site, said)


def back_up(rig: Rig, release: str, seconds: int = 0) -> int:
    return make_backup(rig.site, rig.ledger.state(), release, "", NOW + timedelta(seconds=seconds))


def damage(rig: Rig, stamp: int) -> None:
    folder = rig.site.backup(stamp)
    unprotect(folder)
    (folder / "release/config/slo.yaml").write_text("rows: {}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_was_deployed_there_is_nothing_to_roll_back(rig: Rig, kind: Kind) -> None:
    with pytest.raises(ReleaseError, match="nothing has been deployed"):
        find_target(rig, kind, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_goes_and_the_one_beside_it_stays(rig: Rig, kind: Kind) -> None:
    back_up(rig, OLD)
    deployed(rig, OLD, RELEASE)
    assert find_target(rig, kind, None) == Target(RELEASE, OLD, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_candidate_leaves_nothing_behind(rig: Rig, kind: Kind) -> None:
    deployed(rig, None, RELEASE)
    assert find_target(rig, kind, None) == Target(RELEASE, None, None)


def test_a_promoted_release_goes_back_to_the_newest_backup_of_another(rig: Rig) -> None:
    deployed(rig, RELEASE)
    back_up(rig, OLD)
    newest = back_up(rig, OLD, 60)
    back_up(rig, RELEASE, 120)
    for kind in KINDS[1:]:
        assert find_target(rig, kind, None) == Target(RELEASE, OLD, newest)
    assert find_target(rig, "emergency", None) == Target(RELEASE, None, None)


def test_without_a_backup_of_another_people_are_asked_and_a_guard_stops(rig: Rig) -> None:
    deployed(rig, RELEASE)
    back_up(rig, RELEASE)
    with pytest.raises(ReleaseError, match="of another release that was never rolled back; `--backup-timestamp N`"):
        find_target(rig, "full", None)
    assert find_target(rig, "automatic", None) == Target(RELEASE, None, None)


def test_what_was_taken_back_once_is_no_place_to_go_back_to(rig: Rig) -> None:
    build_release(rig.site, OTHER, code=rig.code)
    deployed(rig, OLD)
    older, newer = back_up(rig, OTHER), back_up(rig, OLD, 60)
    deployed(rig, RELEASE)
    assert find_target(rig, "full", None) == Target(RELEASE, OLD, newer)
    claim = rig.ledger.begin("rollback", {"reason": "", "bad": OLD, "good": RELEASE})
    rig.ledger.end(claim, "rolled_back", "")
    assert find_target(rig, "full", None) == Target(RELEASE, OTHER, older)


def test_a_damaged_backup_is_passed_over_and_told(rig: Rig, said: list[str]) -> None:
    deployed(rig, RELEASE)
    whole, newer, newest = back_up(rig, OLD), back_up(rig, OLD, 60), back_up(rig, OLD, 120)
    damage(rig, newest)
    unprotect(rig.site.backup(newer))
    (rig.site.backup(newer) / "backup.json").write_text("{half")
    for kind in KINDS[1:]:
        assert find_target(rig, kind, None) == Target(RELEASE, OLD, whole)
    assert said[0].startswith(f"backup {newest} is passed over: ")
    assert "release/config/slo.yaml" in said[0]
    assert said[1].startswith(f"backup {newer} is passed over: ")


def test_a_guard_stops_a_bad_release_though_all_backups_are_damaged(rig: Rig) -> None:
    deployed(rig, RELEASE)
    damage(rig, back_up(rig, OLD))
    assert find_target(rig, "automatic", None) == Target(RELEASE, None, None)


def test_a_backup_that_is_named_is_taken_and_the_one_in_shadow_stopped_with_it(rig: Rig) -> None:
    build_release(rig.site, OTHER, code=rig.code)
    deployed(rig, OLD, RELEASE)
    of_old, of_other = back_up(rig, OLD), back_up(rig, OTHER, 60)
    assert find_target(rig, "full", of_old) == Target(RELEASE, OLD, of_old)
    third = find_target(rig, "full", of_other)
    assert third == Target(RELEASE, OTHER, of_other, also=OLD)
    assert third.stopped == (RELEASE, OLD)


def test_a_release_may_be_restored_from_its_own_backup(rig: Rig) -> None:
    deployed(rig, RELEASE)
    stamp = back_up(rig, RELEASE)
    assert find_target(rig, "full", stamp) == Target(RELEASE, RELEASE, stamp)


def test_a_backup_that_is_not_there_is_refused(rig: Rig) -> None:
    deployed(rig, RELEASE)
    with pytest.raises(ReleaseError, match="there is no backup of 7"):
        find_target(rig, "full", 7)


def test_a_damaged_backup_that_is_named_stops_nothing(rig: Rig) -> None:
    deployed(rig, RELEASE)
    stamp = back_up(rig, OLD)
    damage(rig, stamp)
    n = rig.ledger.state().n_rows
    with pytest.raises(ReleaseError, match="was changed after it was made"):
        roll_back(rig, kind="full", reason="", stamp=stamp)
    with pytest.raises(ReleaseError, match=f"backup {stamp} cannot be restored: .*was changed after it was made"):
        plan(rig, "full", stamp)
    assert rig.ledger.state().n_rows == n
    assert rig.supervisor.told == []  # type: ignore[attr-defined]


def test_a_plan_says_what_would_be_done_and_does_none_of_it(rig: Rig) -> None:
    deployed(rig, RELEASE)
    stamp = back_up(rig, OLD)
    n = rig.ledger.state().n_rows
    assert plan(rig, "full", None) == [
        f"stop release {RELEASE}",
        f"restore release {OLD} from backup {stamp} (its bytes were just verified)",
        f"give BTCUSDT, ETHUSDT, SOLUSDT back to {OLD}, from the last committed bar on",
        f"verify that {OLD} serves with its own configuration",
    ]
    assert plan(rig, "emergency", None) == [f"stop release {RELEASE} within 5 s", "leave nothing that serves"]
    assert rig.ledger.state().n_rows == n
    assert rig.supervisor.told == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["emergency", "full"])
def test_a_deploy_of_which_nothing_runs_is_ended_and_the_stable_release_left_alone(rig: Rig, kind: Kind) -> None:
    deployed(rig, RELEASE)
    claim = rig.ledger.begin("deploy", {"reason": "the next", "env": rig.site.env})
    rig.ledger.done(claim, "check", {})
    assert plan(rig, kind, None) == [
        f"end deploy {claim.operation}, of which nothing runs yet",
        "leave alone what serves",
    ]
    assert withdraw(rig, "wrong one") == claim.operation
    state = rig.ledger.state()
    assert (state.open, state.stable, state.condemned) == (None, RELEASE, frozenset())
    assert state.operation is not None
    assert (state.operation.outcome, state.operation.why) == ("failed", "aborted: wrong one")
    with pytest.raises(SupersededError):
        rig.ledger.done(claim, "backup", {})
    assert rig.supervisor.told == []  # type: ignore[attr-defined]


def test_what_has_a_candidate_or_is_over_is_not_withdrawn(rig: Rig) -> None:
    assert withdraw(rig, "") is None
    deployed(rig, OLD, RELEASE)
    assert withdraw(rig, "") is None
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    rows = [("stable", {"release": RELEASE}), ("candidate", {"release": None})]
    rig.ledger.done(claim, "build", {})
    rig.ledger.done(claim, "promote", {}, rows)  # not ended yet: it serves, so it is what goes bad
    assert withdraw(rig, "") is None
    assert find_target(rig, "emergency", None) == Target(RELEASE, None, None)


def test_a_plan_gives_back_only_what_the_candidate_serves(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    assert plan(rig, "full", None)[1].startswith(f"give no symbol back to {OLD}")
    running = rig.ledger.state().open
    assert running is not None
    claim = rig.ledger.take(running.id)
    rig.ledger.enter(claim, "assign", {"symbol": "BTCUSDT", "from_ms": 9_000, "release": RELEASE})
    assert plan(rig, "full", None) == [
        f"stop release {RELEASE}",
        f"give BTCUSDT back to {OLD}, from the last committed bar on",
        f"verify that {OLD} serves with its own configuration",
    ]


def operation(kind: str, worker: Worker, type_: str = "full") -> Operation:
    return Operation("id", kind, {"type": type_}, worker, 1, "")


GONE = this_process()._replace(boot="another")


@pytest.mark.parametrize(
    ("running", "kind", "may"),
    [
        *((operation("deploy", this_process()), kind, True) for kind in KINDS),
        *((operation("rollback", GONE, "emergency"), kind, True) for kind in KINDS),
        (operation("rollback", this_process(), "full"), "emergency", True),
        (operation("rollback", this_process(), "automatic"), "emergency", True),
        (operation("rollback", this_process(), "emergency"), "emergency", False),
        (operation("rollback", this_process(), "full"), "full", False),
        (operation("rollback", this_process(), "full"), "automatic", False),
        (operation("rollback", this_process(), "automatic"), "full", False),
    ],
)
def test_whom_a_rollback_may_end(running: Operation, kind: Kind, may: bool) -> None:
    assert _may_end(running, kind) is may


def test_one_rollback_at_work_refuses_another(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE)
    rig.ledger.begin("rollback", {"type": "full", "reason": ""}, take_over=lambda _: True)
    with pytest.raises(ReleaseError, match=r"rollback .* is not over"):
        roll_back(rig, kind="full", reason="")


def test_an_emergency_stop_ends_a_rollback_that_is_at_work(rig: Rig) -> None:
    deployed(rig, RELEASE)
    rig.ledger.begin("rollback", {"type": "full", "reason": "", "bad": RELEASE}, take_over=lambda _: True)
    done = roll_back(rig, kind="emergency", reason="now")
    assert (done.outcome, done.target, done.problems) == ("stopped", Target(RELEASE, None, None), ())
    told = rig.supervisor.told  # type: ignore[attr-defined]
    assert told.index(f"stop runner-{RELEASE} 1") < told.index(f"stop closure-{RELEASE} 1")
    groups = store.read_json(rig.site.home / "monitoring/targets/runners.json")
    assert groups == []  # nobody is scraped any more


def test_going_on_keeps_to_the_target_it_began_with(rig: Rig) -> None:
    deployed(rig, RELEASE)
    back_up(rig, OLD)
    facts = {"type": "emergency", "reason": "x", "bad": RELEASE, "good": None, "stamp": None, "also": None}
    name = dead_worker(rig, "rollback", facts)
    done = roll_back(rig, kind="full", reason="another reason", goes_on=True)
    assert (done.operation, done.target, done.outcome) == (name, Target(RELEASE, None, None), "stopped")


def test_a_release_that_is_gone_from_the_backup_folder_is_not_found(rig: Rig) -> None:
    deployed(rig, RELEASE)
    stamp = back_up(rig, OLD)
    forget(rig.site.backup(stamp))
    assert list_backups(rig.site) == []
    with pytest.raises(ReleaseError, match="no whole backup"):
        plan(rig, "full", None)


def test_a_backup_that_names_a_release_out_of_its_folder_is_no_place_to_go_to(rig: Rig) -> None:
    deployed(rig, RELEASE)
    stamp = back_up(rig, OLD)
    unprotect(rig.site.backup(stamp))
    change(rig.site.backup(stamp) / "backup.json", release="../../x")
    with pytest.raises(ReleaseError):
        find_target(rig, "full", None)
    with pytest.raises(ReleaseError):
        roll_back(rig, kind="full", reason="", stamp=stamp)


def test_a_deploy_that_died_before_it_started_the_guard_anew_leaves_a_guard_when_it_is_taken_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_release(rig.site, OLD, code=rig.code)
    deployed(rig, OLD, RELEASE)
    runners.write_overlay(rig.site, OLD, rig.site.config.deploy.ports[0], rig.site.symbols, None)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at[runners.GUARD] = "stopped"
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")  # nothing runs here that could answer
    done = roll_back(rig, kind="full", reason="aborted")
    assert (done.outcome, done.target.good) == ("rolled_back", OLD)
    assert supervisor.at[runners.GUARD] == "running"


def test_a_rollback_typed_again_is_not_stopped_by_the_release_that_the_first_one_brought_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_release(rig.site, OLD, code=rig.code)
    deployed(rig, OLD)
    back_up(rig, OLD)
    deployed(rig, RELEASE)
    runners.write_overlay(rig.site, OLD, rig.site.config.deploy.ports[0], rig.site.symbols, None)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at |= {f"runner-{RELEASE}": "stopped", f"runner-{OLD}": "running"}
    monkeypatch.setattr(runners, "ask", lambda *_: Answer(True, "", "1-x", 9, 3))  # on the port that both had
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    assert roll_back(rig, kind="full", reason="again").target.good == OLD


def test_a_rollback_stops_where_the_port_of_what_it_stopped_answers_still(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(rig, OLD, RELEASE)
    monkeypatch.setattr(runners, "ask", lambda *_: Answer(True, "", "1-x", 9, 3))
    with pytest.raises(ReleaseError, match=r"still answers after .* was stopped; find out who holds it"):
        roll_back(rig, kind="full", reason="")


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_only_an_emergency_stops_what_is_bad_and_says_that_nothing_was_entered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("ledger: database or disk is full; nothing was entered; free some space, then type it again")

    back_up(rig, OLD)
    deployed(rig, RELEASE)
    monkeypatch.setattr(DeployLedger, "begin", refuse)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    error = ReleaseError if kind == "emergency" else StoreError
    with pytest.raises(error, match="disk is full") as refused:
        roll_back(rig, kind=kind, reason="")
    if kind == "emergency":
        assert f"release {RELEASE} was stopped, and nothing of it was entered" in str(refused.value)
        assert str(refused.value).endswith("then type it again; the ledger knows nothing of it before that")
        assert supervisor.told == [f"stop runner-{RELEASE} 1", f"stop closure-{RELEASE} 1"]
    else:
        assert supervisor.told == []


def failed_rollback(rig: Rig) -> int:
    """Leave a rollback from RELEASE to OLD that came to its last step and failed; return a backup of OTHER."""
    build_release(rig.site, OTHER, code=rig.code)
    deployed(rig, OLD)
    of_other, of_old = back_up(rig, OTHER), back_up(rig, OLD, 60)
    deployed(rig, RELEASE)
    cast(SmallSupervisor, rig.supervisor).at.pop(f"runner-{OLD}")
    with pytest.raises(ReleaseError, match="serves again: not within 60 s"):
        roll_back(rig, kind="full", reason="it smelt", stamp=of_old)
    running = rig.ledger.state().open
    assert running is not None
    assert list(running.done) == ["stop", "restore", "handback"]
    rig.ledger.let_go(running.id)  # as if its process had ended
    return of_other


def test_what_a_failed_rollback_brought_back_is_stopped_and_gives_back_its_symbols(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_other = failed_rollback(rig)
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    done = roll_back(rig, kind="full", reason="another one, then", stamp=of_other)
    state, supervisor = rig.ledger.state(), cast(SmallSupervisor, rig.supervisor)
    assert done.target == Target(RELEASE, OTHER, of_other, brought=(OLD,))
    assert (state.stable, {state.serves(s) for s in rig.site.symbols}) == (OTHER, {OTHER})
    assert f"runner-{OLD}" not in supervisor.at
    assert find_target(rig, "emergency", None).brought == ()  # that is over


def test_an_emergency_stop_ends_what_a_failed_rollback_brought_back(rig: Rig) -> None:
    failed_rollback(rig)
    done = roll_back(rig, kind="emergency", reason="stop it all")
    assert (done.outcome, done.target.stopped) == ("stopped", (RELEASE, OLD))
    supervisor = cast(SmallSupervisor, rig.supervisor)
    assert f"stop runner-{OLD} 1" in supervisor.told
    assert not any(name.startswith("runner-") for name in supervisor.at)


def test_three_rollbacks_that_failed_leave_a_port_for_the_fourth(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    of_other = failed_rollback(rig)
    with pytest.raises(ReleaseError, match="serves again: not within 60 s"):
        roll_back(rig, kind="full", reason="another", stamp=of_other)
    rig.ledger.let_go(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    of_old = back_up(rig, OLD, 120)
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    done = roll_back(rig, kind="full", reason="back", stamp=of_old)
    assert done.target == Target(RELEASE, OLD, of_old, brought=(OTHER,))
    assert {rig.ledger.state().serves(s) for s in rig.site.symbols} == {OLD}


def test_a_release_that_ends_while_it_is_gone_back_to_keeps_its_port(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = rig.site.config.deploy.ports
    deployed(rig, OLD, RELEASE)
    claim = rig.ledger.take(str(rig.ledger.state().open.id))  # type: ignore[union-attr]
    for release, port in ((OLD, second), (RELEASE, first)):
        rig.ledger.enter(claim, "slot", {"release": release, "port": port})
        runners.write_overlay(rig.site, release, port, rig.site.symbols, None)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at |= {f"runner-{OLD}": "backoff", f"closure-{OLD}": "running"}  # killed, and started again there
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    roll_back(rig, kind="full", reason="")
    assert runners.overlay_port(rig.site, OLD) == second
    assert rig.ledger.state().slots[OLD] == second


def test_a_lost_overlay_of_what_runs_keeps_no_rollback_from_going_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(rig, OLD, RELEASE)
    rig.site.overlay(OLD).unlink(missing_ok=True)
    monkeypatch.setattr(runners, "missing_of", lambda *_: "")
    roll_back(rig, kind="full", reason="")
    assert rig.ledger.state().slots[OLD] == rig.site.config.deploy.ports[0]


def test_what_was_meant_for_a_release_that_is_gone_leaves_the_one_that_serves_alone(rig: Rig) -> None:
    deployed(rig, OLD)
    n = rig.ledger.state().n_rows
    with pytest.raises(ReleaseError, match=f"release {RELEASE} was taken back already: {OLD} serves"):
        roll_back(rig, kind="automatic", reason="too late", of=RELEASE)
    assert rig.ledger.state().n_rows == n
    with pytest.raises(ReleaseError, match="what serves changed meanwhile"):
        rig.ledger.begin("rollback", {"reason": ""}, fits=lambda state: state.stable == RELEASE)
    assert rig.ledger.state().n_rows == n
