"""The observer on a table of values: levels, durations, gaps, what holds, what rolls back, what survives a kill."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPO
from v13.errors import ReleaseError, V13Error
from v13.release.observe import OPERATIONAL, STAND_INS, Look, Observer
from v13.release.slo_readings import entry_level
from v13.telemetry.prometheus import Series
from v13.telemetry.slo import load_slo

TABLE = load_slo(REPO / "config" / "slo.yaml")
C, S, W = "127.0.0.1:8013", "127.0.0.1:8003", "127.0.0.1:8014"
LOOK_S = 15.0
GOOD: dict[str, float | None] = {
    "v13:event_latency:p95": 1e-4,
    "v13:event_latency:count": 900.0,
    "v13:pipeline_latency:p95": 1e-3,
    "v13:pipeline_latency:count": 30.0,
    "v13:compute_latency:p95": 1e-5,
    "v13:compute_latency:count": 300.0,
    "v13:closure:max": 0.0,
    "v13:error_rate:ratio": 0.0,
    "v13:error_rate:count": 0.0,
    "v13:availability:ratio": 1.0,
    "v13:availability:away": 0.0,
    "v13:commit_slow:p95": 1e-3,
    "v13:commit_slow:count": 300.0,
    "v13:events_per_hour:per_hour": 0.0,
    "v13:events_per_hour:hours": 0.2,
    "v13:score_median:median": math.nan,
    "v13:score_median:count": 3.0,
    "up": 1.0,
}


class FakePrometheus:
    """Answers selectors by name and instance from what it was given; what is beyond the observer."""

    def __init__(self) -> None:
        self.values = dict(GOOD)
        self.error: V13Error | None = None

    def instant(self, expr: str, at_s: float) -> list[Series]:
        if self.error is not None:
            raise self.error
        match = re.search(r'__name__=~"([^"]*)"', expr)
        wanted = match[1] if match else re.escape(expr.partition("{")[0])
        found = []
        for name, value in self.values.items():
            instance = W if "closure" in name else C
            is_asked = f'"{instance}"' in expr or re.escape(instance) in expr
            if value is not None and is_asked and re.fullmatch(wanted, name):
                labels = {"__name__": name, "instance": instance}
                found.append(Series(labels, np.array([at_s]), np.array([value])))
        return found


class Scene:
    """An observer, what it sees, and the time."""

    def __init__(self, **more: Any) -> None:
        self.prometheus = FakePrometheus()
        settings: dict[str, Any] = {"candidate": C, "stable": None, "closure": W, "look_s": LOOK_S} | more
        self.observer = Observer(TABLE, **settings)
        self.now_s = 1_000_000.0

    def look(self, **values: float | None) -> Look:
        """Move on to the next look, with some values changed from now on."""
        self.now_s += LOOK_S
        for key, value in values.items():
            names = [name for name in self.prometheus.values if name.startswith(f"v13:{key}:")]
            self.prometheus.values[key if key in self.prometheus.values else names[0]] = value
        return self.observer.look(self.prometheus, self.now_s)  # type: ignore[arg-type]

    def looks(self, n: int, **values: float | None) -> list[Look]:
        return [self.look(**(values if i == 0 else {})) for i in range(n)]

    def until_rollback(self, **values: float | None) -> float:
        """Return for how long something stood before it was rolled back."""
        begin_s = self.now_s + LOOK_S
        for look in (self.look(**(values if i == 0 else {})) for i in range(1_000)):
            if look.decision == "rollback":
                return self.now_s - begin_s
        raise AssertionError("never rolled back")


# --- Levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "value", "count", "level"),
    [
        ("event_latency", 0.002, 100.0, "ok"),  # a bound itself is kept
        ("event_latency", 0.0021, 100.0, "alert"),  # the guide alerts before its target is missed
        ("event_latency", 0.0051, 100.0, "rollback"),
        ("event_latency", 0.0051, 19.0, "too_few"),
        ("event_latency", 0.0051, None, "too_few"),
        ("event_latency", math.nan, 0.0, "too_few"),
        ("event_latency", math.nan, 100.0, "no_data"),
        ("event_latency", None, None, "no_data"),
        ("event_latency", None, 3.0, "too_few"),
        ("error_rate", 0.0, 0.0, "ok"),  # no error is no lack of evidence
        ("error_rate", 0.5, 2.0, "above_target"),  # two errors of four are few, and not promised
        ("error_rate", 0.5, 3.0, "rollback"),
        ("error_rate", None, 0.0, "no_data"),  # of no bar
        ("availability", 1.0, 0.0, "ok"),
        ("availability", 0.9985, 5.0, "above_target"),
        ("availability", 0.9, 17.0, "above_target"),
        ("availability", 0.9, 20.0, "rollback"),
        ("closure", 0.06, None, "alert"),
        ("closure", None, None, "no_data"),
        ("events_per_hour", 0.5, 0.95, "rollback"),
        ("events_per_hour", 0.0, 0.5, "too_few"),
        ("events_per_hour", 501.0, 0.95, "rollback"),
        ("events_per_hour", 7.0, 0.95, "above_target"),
        ("hit_rate", 0.4, 299.0, "too_few"),
        ("hit_rate", 0.4, 300.0, "rollback"),
    ],
)
def test_a_value_has_its_level(row: str, value: float | None, count: float | None, level: str) -> None:
    assert entry_level(TABLE.row(row), value, count) == level


def test_every_row_is_read_and_says_what_it_stands_at() -> None:
    look = Scene().look()
    assert [reading.row for reading in look.readings] == [row.key for row in TABLE.rows]
    levels = {reading.row: reading.level for reading in look.readings}
    assert all(levels[row] == "ok" for row in OPERATIONAL)
    assert (levels["events_per_hour"], levels["score_median"], levels["hit_rate"]) == ("too_few", "too_few", "no_data")
    assert {r.note for r in look.readings if r.level == "too_few"} == {"too few: judged over days"}
    assert look.decision == "go_on"


def test_a_level_is_told_since_it_began() -> None:
    scene = Scene()
    began_s = scene.look().at_s
    scene.look()
    assert {r.since_s for r in scene.look(event_latency=0.003).readings} == {began_s, scene.now_s}


# --- Rollback: durations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("compute_latency", 0.021),
        ("error_rate", 0.03),
        ("availability", 0.98),
        ("closure", 0.2),
        ("event_latency", 0.1),
    ],
)
def test_a_rollback_level_counts_after_its_duration_and_not_before(row: str, value: float) -> None:
    scene = Scene()
    scene.looks(4)
    level = TABLE.row(row).rollback
    assert level is not None
    counts = {"error_rate": "v13:error_rate:count", "availability": "v13:availability:away"}
    if row in counts:
        scene.prometheus.values[counts[row]] = 50.0
    held_s = scene.until_rollback(**{row: value})
    assert level.for_s <= held_s < level.for_s + LOOK_S


def test_one_look_that_is_mended_begins_a_duration_anew() -> None:
    scene = Scene()
    assert all(look.decision == "hold" for look in scene.looks(39, compute_latency=0.03))  # 570 s
    assert scene.look(compute_latency=1e-5).decision == "go_on"
    assert scene.until_rollback(compute_latency=0.03) == 600.0


def test_a_few_looks_without_data_neither_break_nor_mend() -> None:
    scene = Scene()
    scene.looks(20, compute_latency=0.03)
    held = scene.looks(3, compute_latency=None)
    assert [look.decision for look in held] == ["hold"] * 3
    assert scene.until_rollback(compute_latency=0.03) == 600.0 - 23 * LOOK_S


def test_more_looks_without_data_begin_a_duration_anew() -> None:
    scene = Scene()
    scene.looks(20, compute_latency=0.03)
    scene.looks(4, compute_latency=None)
    assert scene.until_rollback(compute_latency=0.03) == 600.0


def test_a_deployer_that_was_away_for_long_begins_a_duration_anew() -> None:
    scene = Scene()
    scene.looks(20, compute_latency=0.03)
    scene.now_s += 3_600.0
    assert scene.until_rollback() == 600.0


def test_a_clock_that_went_back_begins_a_duration_anew_and_counts_no_time() -> None:
    scene = Scene()
    scene.looks(20, compute_latency=0.03)
    scene.now_s -= 1_000.0
    assert scene.until_rollback() == 600.0
    assert scene.observer.go_on_s == 0.0


def test_rows_that_take_turns_above_their_alert_level_are_abnormal_after_a_quarter_of_an_hour() -> None:
    scene = Scene()
    began_s = scene.now_s + LOOK_S
    for i in range(100):
        compute, event = (0.006, 1e-4) if i % 2 else (1e-5, 0.003)
        look = scene.look(compute_latency=compute, event_latency=event)
        if look.decision == "rollback":
            break
    assert scene.now_s - began_s == 900.0
    assert "abnormal for 900 s without a break" in look.why


def test_a_business_row_with_enough_rolls_back_and_never_holds() -> None:
    scene = Scene()
    scene.prometheus.values["v13:events_per_hour:hours"] = 0.95
    assert scene.look(events_per_hour=0.5).decision == "go_on"
    assert scene.until_rollback() == 900.0 - LOOK_S


def test_durations_are_scaled_for_a_rehearsal() -> None:
    scene = Scene(scale=0.1)
    assert scene.until_rollback(compute_latency=0.03) == 60.0


def test_what_was_condemned_stays_so_and_says_why() -> None:
    scene = Scene()
    scene.until_rollback(compute_latency=0.03)
    look = scene.look(compute_latency=1e-5)
    assert look.decision == "rollback"
    assert "Compute latency P95 beyond its rollback level for 600 s (0.03 seconds)" in look.why
    assert not scene.observer.passed(0.0)


# --- Hold ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", OPERATIONAL)
def test_no_data_of_a_required_row_holds_and_never_passes(row: str) -> None:
    scene = Scene()
    for look in scene.looks(200, **{row: None}):
        assert look.decision == "hold"
    assert f"{TABLE.row(row).title}: no data" in look.why
    assert scene.observer.go_on_s == 0.0
    assert not scene.observer.passed(0.0)
    assert look.alarm  # for so long somebody must look


def test_too_few_hold() -> None:
    scene = Scene()
    scene.prometheus.values["v13:event_latency:count"] = 3.0
    look = scene.look()
    assert (look.decision, look.why) == ("hold", "Event latency P95: too few to go by (3)")
    assert not look.alarm


def test_commits_vouch_for_a_pipeline_that_saw_few_events() -> None:
    scene = Scene()
    scene.prometheus.values["v13:pipeline_latency:count"] = 3.0
    assert scene.look().decision == "go_on"
    assert scene.look(commit_slow=0.06).decision == "hold"
    assert scene.look(commit_slow=None).decision == "hold"
    alone = Scene(stand_ins={})
    alone.prometheus.values["v13:pipeline_latency:count"] = 3.0
    assert alone.look().decision == "hold"
    assert {TABLE.row(row).key for row in STAND_INS} == {"pipeline_latency"}


def test_a_required_row_at_its_alert_level_holds() -> None:
    scene = Scene()
    scene.looks(3)
    look = scene.look(event_latency=0.003)
    assert (look.decision, look.why) == ("hold", "Event latency P95 beyond its alert level (0.003 seconds)")


def test_a_candidate_that_is_not_scraped_holds_whatever_its_past_says() -> None:
    scene = Scene()
    for gone in (0.0, None):
        look = scene.look(up=gone)
        assert (look.decision, look.why) == ("hold", f"{C} is not scraped")


def test_a_prometheus_that_is_away_holds_and_after_five_minutes_is_an_alarm() -> None:
    scene = Scene()
    scene.looks(4)
    good_s = scene.observer.go_on_s
    scene.prometheus.error = V13Error("http://x: Prometheus gave no answer in time")
    looks = scene.looks(30)
    assert {look.decision for look in looks} == {"hold"}
    assert "gave no answer in time" in looks[0].why
    assert [look.alarm for look in looks] == [i * LOOK_S >= 300.0 for i in range(30)]
    scene.prometheus.error = None
    look = scene.look()
    assert (look.decision, look.alarm, scene.observer.go_on_s) == ("go_on", False, good_s)


def test_a_closure_is_looked_for_at_its_watcher() -> None:
    assert "Closure error: no data" in Scene(closure=None).look().why


# --- Passing ---------------------------------------------------------------------------------------------------------


def test_an_observation_passes_when_enough_time_was_good_and_the_last_looks_are() -> None:
    scene = Scene()
    for _ in range(121):
        assert not scene.observer.passed(1_800.0)
        scene.look()
    assert scene.observer.go_on_s == 1_800.0
    assert scene.observer.passed(1_800.0)
    scene.look(event_latency=0.003)
    assert not scene.observer.passed(1_800.0)
    scene.looks(2, event_latency=1e-4)
    assert not scene.observer.passed(1_800.0)
    scene.look()
    assert scene.observer.passed(1_800.0)


def test_time_between_looks_counts_only_where_both_were_good_and_somebody_looked() -> None:
    scene = Scene()
    scene.looks(3)
    scene.look(event_latency=0.003)
    scene.looks(3, event_latency=1e-4)
    assert scene.observer.go_on_s == 4 * LOOK_S
    scene.now_s += 3_600.0
    scene.look()
    assert scene.observer.go_on_s == 4 * LOOK_S


def test_a_pause_stops_the_time_but_not_the_watch() -> None:
    scene = Scene()
    scene.looks(3)
    scene.observer.pause()
    scene.looks(20)
    assert (scene.observer.go_on_s, scene.observer.passed(0.0)) == (2 * LOOK_S, False)
    scene.observer.resume()
    scene.looks(2)
    assert scene.observer.go_on_s == 3 * LOOK_S
    scene.observer.pause()
    assert scene.until_rollback(compute_latency=0.03) == 600.0


# --- A kill ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [0, 1, 5, 20, 40, 43, 47, 60, 82])
def test_an_observer_taken_up_again_decides_as_if_nothing_had_been(kill: int) -> None:
    changes = {5: {"event_latency": 0.003}, 20: {"event_latency": 1e-4}, 40: {"compute_latency": 0.03}}
    changes |= {43: {"compute_latency": None}, 45: {"compute_latency": 0.03}}
    whole, parts = Scene(stable=S), Scene(stable=S)
    for i in range(90):
        if i == kill:
            state = parts.observer.to_dict()
            stored = json.loads(json.dumps(state, allow_nan=False))
            assert stored == state
            parts.observer = Observer.from_dict(TABLE, stored)
            assert parts.observer.to_dict() == state
        assert parts.look(**changes.get(i, {})) == whole.look(**changes.get(i, {}))
    assert parts.observer.to_dict() == whole.observer.to_dict()
    assert whole.look().decision == "rollback"


def test_a_look_is_plain_data() -> None:
    scene = Scene(stable=S)
    look = scene.look()
    assert json.loads(json.dumps(look.to_dict()))["readings"][0]["row"] == "event_latency"
    assert len(look.comparison) == 6


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ReleaseError, match="rows of the SLO table"):
        Scene(required=("event_latency", "no_such"))
    with pytest.raises(ReleaseError, match="found none"):
        Scene(required=())
    with pytest.raises(ReleaseError, match="scale"):
        Scene(scale=0.0)
    with pytest.raises(ReleaseError, match="damaged"):
        Observer.from_dict(TABLE, {"settings": {}})
    state = Scene().observer.to_dict()
    with pytest.raises(ReleaseError, match="damaged"):
        Observer.from_dict(TABLE, state | {"state": {}})
