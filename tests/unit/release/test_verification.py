"""What is looked at after a rollback, and how long is waited for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from tests.unit.release.small_rig import (
    OLD,
    RELEASE,
    SYMBOLS,
    FakePrometheus,
    SmallClock,
    SmallSupervisor,
    deployed,
    make_rig,
    served,
    unprotect,
    with_settings,
)
from v13.release import runners
from v13.release.ledger import SupersededError
from v13.release.monitoring import install_monitoring, monitoring_folder
from v13.release.monitoring_files import TARGETS
from v13.release.ports import free_port
from v13.release.rig import Rig
from v13.release.rollback import roll_back
from v13.release.runners import Answer
from v13.release.site import Site, open_site
from v13.release.verification import after_rollback, settle

FED, NOT_FED = Answer(True, "", "1-x", 9, 3), Answer(False, "not fed: ETHUSDT", "1-x", 9, 3)


@dataclass
class Scene:
    """A release that serves again; `ready_s` and `scraped_s` are when, on the clock of the rig."""

    rig: Rig
    web: FakePrometheus
    port: int
    ready_s: float = 0.0
    scraped_s: float = 0.0

    def at(self) -> float:
        return self.rig.clock.monotonic_s() - 100.0

    def look(self) -> None:
        """Be what one is at this time."""
        up = {"up": float(self.at() >= self.scraped_s)}
        self.web.values = {f"127.0.0.1:{self.port}": up}

    def ask(self, _: Site, port: int) -> Answer | str:
        if port != self.port:
            return f"port {port}: nobody there"
        return FED if self.at() >= self.ready_s else NOT_FED


@pytest.fixture
def scene(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with served(FakePrometheus()) as web:
        rig = make_rig(with_settings(site, prometheus=web.url, rollback_s=12.0), [])
        found = Scene(rig, cast(FakePrometheus, web), rig.site.config.deploy.ports[0])
        cast(SmallClock, rig.clock).on_sleep = found.look
        monkeypatch.setattr(runners, "ask", found.ask)
        monkeypatch.setattr(runners, "missing_of", lambda *_: "")
        deployed(rig, OLD, RELEASE)
        cast(SmallSupervisor, rig.supervisor).at |= {f"runner-{OLD}": "running", f"runner-{RELEASE}": "stopped"}
        runners.write_overlay(rig.site, OLD, found.port, rig.site.symbols, None)
        found.look()
        yield found


def rolled_back(scene: Scene) -> tuple[float, tuple[str, ...]]:
    done = roll_back(scene.rig, kind="full", reason="a test")
    assert done.outcome == "rolled_back"
    return done.seconds, done.problems


def test_a_release_that_is_fed_and_scraped_a_little_later_is_waited_for_and_its_time_is_when_it_served(
    scene: Scene,
) -> None:
    scene.ready_s, scene.scraped_s = 4.0, 9.0
    seconds, problems = rolled_back(scene)
    assert seconds < 1.0
    assert 9.0 <= scene.at() < 10.0
    assert [p.partition(":")[0] for p in problems] == ["key figures"]  # the fake knows of none
    operation = scene.rig.ledger.state().operation
    assert operation is not None
    assert operation.done["verify"]["settle_seconds"] >= 9.0


def test_what_does_not_come_within_the_time_of_a_rollback_is_a_remark(scene: Scene) -> None:
    scene.ready_s, scene.scraped_s = 500.0, 500.0
    limit_s = scene.rig.site.config.deploy.rollback_s
    _, problems = rolled_back(scene)
    assert limit_s <= scene.at() < limit_s + 2.0
    assert "system: not ready yet: not fed: ETHUSDT" in problems
    assert "monitoring: Prometheus does not scrape it yet" in problems


def test_a_prometheus_that_is_away_is_not_waited_for(scene: Scene) -> None:
    scene.web.answer = lambda *_: (503, "away")
    _, problems = rolled_back(scene)
    assert scene.at() < 1.0
    assert any("503" in p for p in problems if p.startswith("monitoring"))


def test_who_was_superseded_waits_no_longer(scene: Scene) -> None:
    claim = scene.rig.ledger.begin("rollback", {"bad": RELEASE, "good": OLD}, take_over=lambda _: True)
    scene.scraped_s = 500.0
    scene.look()
    clock = cast(SmallClock, scene.rig.clock)

    def take_over() -> None:
        scene.rig.ledger.take(claim.operation)

    clock.on_sleep = take_over
    with pytest.raises(SupersededError):
        settle(scene.rig, claim, scene.port, 60.0)
    assert scene.at() < 2.0


def test_a_prometheus_that_is_away_leaves_the_key_figures_unknown_and_says_so(site: Site) -> None:
    rig = make_rig(with_settings(site, prometheus=f"http://127.0.0.1:{free_port()}"))
    deployed(rig, RELEASE)
    found = after_rollback(rig, RELEASE, rig.site.config.deploy.ports[0])
    (figures,) = [problem for problem in found["problems"] if problem.startswith("key figures")]
    assert figures.startswith("key figures: Prometheus could not be asked: http://127.0.0.1:")
    assert found["key_figures"]["readings"] == ()


def served_by(scene: Scene) -> dict[str, str | None]:
    state = scene.rig.ledger.state()
    return {symbol: state.serves(symbol) for symbol in SYMBOLS}


def test_symbols_that_the_good_release_does_not_follow_are_not_said_to_be_served_by_it(scene: Scene) -> None:
    running = scene.rig.ledger.state().open
    assert running is not None
    claim = scene.rig.ledger.take(running.id)
    for symbol in SYMBOLS:
        scene.rig.ledger.enter(claim, "assign", {"symbol": symbol, "from_ms": 9, "release": RELEASE})
    runners.write_overlay(scene.rig.site, OLD, scene.port, SYMBOLS[:1], None)
    _, problems = rolled_back(scene)
    assert served_by(scene) == {SYMBOLS[0]: OLD, SYMBOLS[1]: RELEASE, SYMBOLS[2]: RELEASE}
    assert f"symbols: ETHUSDT, SOLUSDT: {OLD} does not follow them, and nobody serves them" in problems


def test_a_release_that_is_started_again_follows_its_own_symbols_not_those_of_the_checkout(scene: Scene) -> None:
    path = scene.rig.site.root / "config/environments/testing.yaml"
    path.write_text(path.read_text().replace("SOLUSDT", "DOGEUSDT"))
    site = open_site(scene.rig.site.root, "testing", {})
    assert "DOGEUSDT" in site.symbols
    rig = replace(scene.rig, site=site)
    cast(SmallSupervisor, rig.supervisor).at[f"runner-{OLD}"] = "stopped"
    roll_back(rig, kind="full", reason="a test")
    assert runners.followed(site, OLD) == SYMBOLS


def rules_of(folder: Path) -> bytes:
    return (folder / "alerting_rules/divergence_alerts.yaml").read_bytes()


def spoil(scene: Scene) -> tuple[bytes, Path]:
    """Have the rules of the bad release in force; return the good one's, and where Prometheus reads."""
    site = scene.rig.site
    place = monitoring_folder(site)
    unprotect(site.release(RELEASE))
    theirs = site.release(RELEASE) / "monitoring/alerting_rules/divergence_alerts.yaml"
    theirs.write_text(theirs.read_text() + "# of the bad one\n")
    install_monitoring(scene.rig, RELEASE)
    assert b"# of the bad one" in rules_of(place)
    return rules_of(site.release(OLD) / "monitoring"), place


def test_the_rules_in_force_are_those_of_the_release_that_serves_again(scene: Scene) -> None:
    rules, place = spoil(scene)
    scene.web.requests.clear()
    _, problems = rolled_back(scene)
    assert rules_of(place) == rules
    assert ("POST", "/-/reload", "") in scene.web.requests
    assert not [p for p in problems if p.startswith("rules")]
    targets = json.loads((place / TARGETS["divergence"]).read_text())
    assert [t for group in targets for t in group["targets"]] == [f"127.0.0.1:{scene.port}"]
    scene.web.requests.clear()
    deployed(scene.rig, OLD, RELEASE)
    rolled_back(scene)  # they are in force already: nothing to reload
    assert ("POST", "/-/reload", "") not in scene.web.requests


def test_a_prometheus_that_is_away_reads_the_good_rules_when_it_comes_back(scene: Scene) -> None:
    rules, place = spoil(scene)
    scene.web.reload = (500, "it is ending")
    _, problems = rolled_back(scene)
    assert rules_of(place) == rules
    assert any("rules: prometheus: " in p and "it is ending" in p for p in problems)
