"""One step of observation on a clock that is moved by hand: how it ends, and what it enters on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest

from tests.unit.release.small_rig import (
    NOW,
    OLD,
    PORTS,
    RELEASE,
    FakePrometheus,
    SmallClock,
    SmallSupervisor,
    deployed,
    good_values,
    make_rig,
    running_log,
    served,
    with_settings,
)
from v13.detector import DetectorParams
from v13.errors import ReleaseError
from v13.release.ledger import Claim, SupersededError
from v13.release.observation import HeldError, TakeBackError, _alike_ms, observe
from v13.release.rig import Rig
from v13.release.signal_parity import warm_bars
from v13.release.site import Site

STEP = "observe:BTCUSDT"
BAR_MS = DetectorParams().features.bar_ms
AT = f"127.0.0.1:{PORTS[1]}"


@dataclass
class Scene:
    """A deploy that has come to an observation."""

    rig: Rig
    claim: Claim
    web: FakePrometheus

    @property
    def clock(self) -> SmallClock:
        return cast(SmallClock, self.rig.clock)

    def observe(self, stable: str | None = None, *symbols: str) -> dict[str, Any]:
        port = None if stable is None else PORTS[0]
        return observe(self.rig, self.claim, STEP, (RELEASE, PORTS[1]), (stable, port), symbols or ("BTCUSDT",))

    def looks(self) -> list[dict[str, Any]]:
        return [dict(row.record) for row in self.rig.ledger.rows() if row.record["kind"] == "look"]

    def after(self, n: int, act: Callable[[], object]) -> None:
        """Do something when it has slept that often."""
        left = [n]

        def count() -> None:
            left[0] -= 1
            if left[0] == 0:
                act()

        self.clock.on_sleep = count


def scene(site: Site, web: FakePrometheus, stable: str | None, **deploy: Any) -> Scene:
    settings = {"prometheus": web.url, "time_scale": 0.01, "observe_s": 45.0, "observe_most_s": 120.0}
    rig = make_rig(with_settings(site, **settings | deploy))
    deployed(rig, stable, RELEASE, ["start"])
    running = rig.ledger.state().open
    assert running is not None
    web.values[AT] = good_values()
    cast(SmallClock, rig.clock).at += timedelta(hours=2)  # every window belongs to this release alone
    return Scene(rig, rig.ledger.take(running.id), web)


@pytest.fixture
def web() -> Iterator[FakePrometheus]:
    with served(FakePrometheus()) as web:
        assert isinstance(web, FakePrometheus)
        yield web


@pytest.fixture
def first(site: Site, web: FakePrometheus) -> Scene:
    return scene(site, web, None)


def test_it_passes_after_so_much_good_time_and_tells_by_what(first: Scene) -> None:
    began = first.clock.at
    evidence = first.observe()
    assert first.clock.at - began == timedelta(seconds=45)
    assert (evidence["n_looks"], evidence["symbols"], evidence["parity"]) == (4, ["BTCUSDT"], [])
    assert evidence["last"]["decision"] == "go_on"
    looks = first.looks()
    assert [one["step"] for one in looks] == [STEP] * 4
    assert looks[-1]["look"] == json.loads(json.dumps(evidence["last"]))
    assert looks[-1]["observer"]["state"]["go_on_s"] == 45.0


def test_what_is_bad_for_long_enough_is_taken_back_with_its_evidence(first: Scene) -> None:
    first.web.values[AT] |= {"v13:event_latency:p95": 0.4}
    with pytest.raises(TakeBackError, match="Event latency P95 beyond its rollback level") as caught:
        first.observe()
    assert caught.value.evidence["decision"] == "rollback"
    assert first.looks()[-1]["look"]["decision"] == "rollback"  # entered before it was acted on


def test_what_is_never_good_is_held_when_time_is_up(first: Scene) -> None:
    began = first.clock.at
    del first.web.values[AT]["v13:error_rate:ratio"], first.web.values[AT]["v13:error_rate:count"]
    with pytest.raises(HeldError, match=r"observe:BTCUSDT: not good for 45 s within 120: Error rate: no data"):
        first.observe()
    assert timedelta(seconds=120) < first.clock.at - began <= timedelta(seconds=135)


def test_bad_looks_do_not_count_as_good_time(first: Scene) -> None:
    began = first.clock.at
    del first.web.values[AT]["up"]
    first.after(3, lambda: first.web.values[AT].update(up=1.0))
    first.observe()
    assert first.clock.at - began == timedelta(seconds=90)


def test_without_a_prometheus_nothing_passes(site: Site, web: FakePrometheus) -> None:
    blind = scene(site, web, None, prometheus=None)
    with pytest.raises(HeldError, match="no data is no pass"):
        blind.observe()
    assert blind.looks() == []


def test_a_prometheus_that_died_is_an_alarm_told_once_and_no_pass(first: Scene) -> None:
    first.web.answer = lambda _path, _body: (503, "down")
    with pytest.raises(HeldError, match="Prometheus could not be asked"):
        first.observe()
    alarms = [row.record for row in first.rig.ledger.rows() if row.record["kind"] == "alarm"]
    assert len(alarms) == 1
    assert (alarms[0]["what"], alarms[0]["by"]) == ("prometheus", "deployer")


def test_it_can_be_paused_and_taken_up_with_the_good_time_it_had(first: Scene) -> None:
    first.after(2, lambda: first.rig.ledger.pause(paused=True, reason="lunch"))
    with pytest.raises(HeldError, match=f"paused during {STEP}"):
        first.observe()
    assert len(first.looks()) == 2
    first.clock.on_sleep = lambda: None
    first.rig.ledger.pause(paused=False, reason="")
    began = first.clock.at
    first.observe()
    assert first.clock.at - began == timedelta(seconds=15)  # 15 before, 15 between, 15 after: 45
    assert first.looks()[-1]["observer"]["state"]["go_on_s"] == 45.0


def test_looks_of_another_step_are_not_taken_up(first: Scene) -> None:
    first.observe()
    record = first.looks()[-1]
    facts = {name: record[name] for name in ("look", "observer")}
    first.rig.ledger.enter(first.claim, "look", {"step": "observe:rest", **facts})
    began = first.clock.at
    observe(first.rig, first.claim, "observe:ETHUSDT", (RELEASE, PORTS[1]), (None, None), ("ETHUSDT",))
    assert first.clock.at - began == timedelta(seconds=45)


def test_a_rollback_that_takes_over_ends_it(first: Scene) -> None:
    facts = {"type": "full", "reason": "", "bad": RELEASE}
    first.after(2, lambda: first.rig.ledger.begin("rollback", facts, take_over=lambda _: True))
    with pytest.raises(SupersededError):
        first.observe()
    assert len(first.looks()) == 2


def test_a_release_that_its_supervisor_has_given_up_is_taken_back_at_once(first: Scene) -> None:
    supervisor = cast(SmallSupervisor, first.rig.supervisor)
    first.after(2, lambda: supervisor.at.update({f"runner-{RELEASE}": "failed"}))
    with pytest.raises(TakeBackError, match=f"release {RELEASE} does not stay up: as the test says"):
        first.observe()
    assert len(first.looks()) == 3


def beside(site: Site, web: FakePrometheus, late: dict[str, int]) -> Scene:
    """Return a scene with a stable release, bars of the candidate so late, in bars."""
    both = scene(site, web, OLD)
    running_log(both.rig.site, OLD, dict.fromkeys(late, 1000 * BAR_MS))
    running_log(both.rig.site, RELEASE, {symbol: (1_000 - n) * BAR_MS for symbol, n in late.items()})
    return both


def test_one_symbol_that_comes_late_three_looks_in_a_row_takes_back(site: Site, web: FakePrometheus) -> None:
    both = beside(site, web, {"BTCUSDT": 11})
    with pytest.raises(TakeBackError, match="bars of BTCUSDT come late") as caught:
        both.observe(OLD)
    assert caught.value.evidence == {"late": ["BTCUSDT"]}
    assert len(both.looks()) == 3


def test_several_that_come_late_together_halt_it(site: Site, web: FakePrometheus) -> None:
    both = beside(site, web, {"BTCUSDT": 11, "ETHUSDT": 20, "SOLUSDT": 0})
    with pytest.raises(HeldError, match="bars of BTCUSDT, ETHUSDT come late together: the scale-up is halted"):
        both.observe(OLD, "BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert len(both.looks()) == 3


@pytest.mark.parametrize("late", [{"BTCUSDT": 10}, {"BTCUSDT": 99, "ETHUSDT": 0, "SOLUSDT": 0}])
def test_ten_bars_or_one_symbol_of_three_are_not_late(site: Site, web: FakePrometheus, late: dict[str, int]) -> None:
    both = beside(site, web, late)
    evidence = both.observe(OLD, *late)
    assert [one["verdict"] for one in evidence["parity"]] == ["too_few"] * len(late)  # these logs hold no bars
    assert len(both.looks()) > 3


def test_signals_are_compared_from_when_both_have_seen_the_same(site: Site, web: FakePrometheus) -> None:
    both = scene(site, web, OLD)
    ledger, memory_ms = both.rig.ledger, warm_bars(DetectorParams()) * BAR_MS
    began_ms = int(NOW.timestamp() * 1e3)
    assert _alike_ms(both.rig, RELEASE, "ETHUSDT") == began_ms + memory_ms  # from its port on
    both.clock.at = NOW + timedelta(seconds=60)
    ledger.done(both.claim, "start", {"symbols": ["BTCUSDT"]})
    both.clock.at = NOW + timedelta(seconds=600)
    ledger.done(both.claim, "extend:ETHUSDT", {"symbols": ["BTCUSDT", "ETHUSDT"]})
    assert _alike_ms(both.rig, RELEASE, "BTCUSDT") == began_ms + 60_000 + memory_ms
    assert _alike_ms(both.rig, RELEASE, "ETHUSDT") == began_ms + 600_000 + memory_ms


def test_without_parameters_there_is_nothing_to_observe_by(first: Scene) -> None:
    (first.rig.site.release(RELEASE) / "runs/real_test/best_global.yaml").write_text("version: 7\n")
    with pytest.raises(ReleaseError, match="runs/real_test"):
        first.observe()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_json_cannot_say_is_entered_and_judged(first: Scene, value: float) -> None:
    first.web.values[AT] |= {"v13:closure:max": value}
    with pytest.raises((TakeBackError, HeldError)) if value != float("-inf") else nullcontext():
        first.observe()
    assert first.looks()


def test_a_release_that_counts_nan_is_observed_all_the_same(site: Site, web: FakePrometheus) -> None:
    both = scene(site, web, OLD)
    for release in (OLD, RELEASE):
        running_log(both.rig.site, release, {"BTCUSDT": 1})
    answer = web.answer
    names = {"process_start_time_seconds": "0", "divergence_event_latency_seconds_sum": "NaN"}

    def counted(path: str, body: str) -> tuple[int, str]:
        if "process_start_time_seconds" not in body:
            return answer(path, body)
        labels = [{"__name__": n, "instance": f"127.0.0.1:{port}"} for port in PORTS for n in names]
        result = [{"metric": one, "value": [0, names[one["__name__"]]]} for one in labels]
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})

    web.answer = counted
    both.observe(OLD)
    assert both.looks()[-1]["look"]["decision"] == "go_on"
