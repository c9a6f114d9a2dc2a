"""Steps of a deploy by hand: what a step believes of what another step, a person or a kill left."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from tests.unit.release.small_rig import (
    NOW,
    OLD,
    PORTS,
    RELEASE,
    SYMBOLS,
    SmallSupervisor,
    deployed,
    make_rig,
    running_log,
    sign_off,
    with_settings,
)
from v13 import store
from v13.errors import ReleaseError
from v13.release.backup import list_backups, make_backup, prune_backups
from v13.release.build import settings_sha256
from v13.release.deploy import _backup, _build, _carry_out, _handover, _shadow, plan
from v13.release.ledger import Claim
from v13.release.rig import Rig
from v13.release.site import Site
from v13.release.supervisor import State


@pytest.fixture
def rig(site: Site) -> Rig:
    return make_rig(site)


def checked(rig: Rig) -> Claim:
    """Begin a deploy whose checks have seen the bundle and the settings that are there now."""
    bundle = rig.site.signoff
    store.write_json(bundle / "manifest.json", {"version": 1})
    facts = {f"{name}_sha256": store.sha256_file(bundle / f"{name}.json") for name in ("manifest", "signoff")}
    evidence = {
        "checks": [{"key": "bundle", "facts": facts}],
        "settings_sha256": settings_sha256(rig.site.root / "config"),
    }
    claim = rig.ledger.begin("deploy", {"reason": "", "env": rig.site.env, "steps": ["check", "build"]})
    rig.ledger.done(claim, "check", evidence)
    return claim


def test_what_was_checked_is_built(rig: Rig) -> None:
    claim = checked(rig)
    store.write_text(rig.site.root / "config/keys/guard.token", "of no release")
    evidence, _ = _build(rig, claim, rig.ledger.state(), "")
    assert rig.site.release(evidence["release"]).is_dir()


def test_another_sign_off_than_was_checked_is_not_built(rig: Rig) -> None:
    claim = checked(rig)
    other = rig.site.root / "reports/other"
    shutil.copytree(rig.site.signoff, other)
    sign_off(other, verdict="FAIL")
    store.point(rig.site.root / "reports/latest", other)
    with pytest.raises(ReleaseError, match=r"signoff\.json of the sign-off is not the one that was checked"):
        _build(rig, claim, rig.ledger.state(), "")


def test_other_settings_than_were_checked_are_not_built(rig: Rig) -> None:
    claim = checked(rig)
    path = rig.site.root / "config/system.yaml"
    path.write_text(path.read_text() + "# later\n")
    with pytest.raises(ReleaseError, match="config/ is not as it was when it was checked"):
        _build(rig, claim, rig.ledger.state(), "")


@pytest.mark.parametrize("at", ["running", "starting", "backoff", "unknown"])
def test_a_stable_release_that_was_killed_this_moment_is_compared_with_all_the_same(rig: Rig, at: State) -> None:
    deployed(rig, OLD, RELEASE)
    cast(SmallSupervisor, rig.supervisor).at[f"runner-{OLD}"] = at
    assert _shadow(rig, rig.ledger.state()) == OLD


@pytest.mark.parametrize("at", ["stopped", "failed", None])
def test_a_stable_release_that_was_stopped_or_given_up_is_not_beside_it(rig: Rig, at: State | None) -> None:
    deployed(rig, OLD, RELEASE)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    del supervisor.at[f"runner-{OLD}"]
    if at is not None:
        supervisor.at[f"runner-{OLD}"] = at
    assert _shadow(rig, rig.ledger.state()) is None


def test_a_deploy_goes_on_with_the_symbols_it_began_with(rig: Rig) -> None:
    facts = {"reason": "", "env": "testing", "symbols": list(SYMBOLS), "steps": plan(rig)}
    claim = rig.ledger.begin("deploy", facts)
    for kind, more in (("candidate", {}), ("slot", {"port": PORTS[1]})):
        rig.ledger.enter(claim, kind, {"release": RELEASE, **more})
    running_log(rig.site, RELEASE, dict.fromkeys(SYMBOLS, 1))
    deploy = rig.site.config.deploy.model_copy(update={"canary": ("SOLUSDT",)})
    other = replace(rig, site=replace(rig.site, config=rig.site.config.model_copy(update={"deploy": deploy})))
    assert "handover:ETHUSDT" not in plan(other)
    evidence, _ = _handover(other, claim, rig.ledger.state(), "ETHUSDT")
    assert evidence["from_ms"] == {"ETHUSDT": 0}


def test_the_backup_of_what_serves_outlasts_newer_ones_of_what_was_rolled_back(rig: Rig) -> None:
    deployed(rig, OLD)
    stable = make_backup(rig.site, rig.ledger.state(), OLD, "", NOW)
    newer = make_backup(rig.site, rig.ledger.state(), RELEASE, "", NOW + timedelta(seconds=5))
    rig = replace(rig, site=with_settings(rig.site, keep_backups=1))
    claim = rig.ledger.begin("deploy", {"reason": "", "env": "testing"})
    evidence, _ = _backup(rig, claim, rig.ledger.state(), "")
    assert (evidence["stamp"], evidence["removed"]) == (stable, [])
    assert list_backups(rig.site) == [stable, newer]


def test_what_a_killed_worker_half_removed_is_no_damaged_backup_and_goes(rig: Rig) -> None:
    deployed(rig, OLD)
    stamp = make_backup(rig.site, rig.ledger.state(), OLD, "", NOW)
    half = rig.site.backups / ".7.removed/release"
    half.mkdir(parents=True)
    assert list_backups(rig.site) == [stamp]
    assert prune_backups(rig.site, 1) == []
    assert not half.parent.exists()


def test_a_deploy_that_is_taken_over_as_it_ends_is_superseded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = rig.ledger.begin("deploy", {"reason": "", "env": "testing", "steps": []})
    end = rig.ledger.end

    def late(*arguments: Any) -> None:
        rig.ledger.take(claim.operation)
        end(*arguments)

    monkeypatch.setattr(rig.ledger, "end", late)
    assert _carry_out(rig, claim).outcome == "superseded"
    assert rig.ledger.state().open is not None
