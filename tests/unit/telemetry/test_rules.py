"""Rules as they are written: complete, consistent, equal for equal tables, and what they say to people."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPO
from v13.detector import DetectorParams
from v13.detector.params import DecisionParams, FeatureParams
from v13.telemetry.drives import GONE, Series
from v13.telemetry.mutants import mutants
from v13.telemetry.ranges import Ranges
from v13.telemetry.reach import most_per_hour, out_of_reach
from v13.telemetry.readings import measured
from v13.telemetry.rule_tests import compact, scenarios, test_files
from v13.telemetry.rules import (
    ALERTS_FILE,
    RECORDING_FILE,
    SLO_ALERTS_FILE,
    alert_rules,
    duration_human,
    recording_rules,
    rendered,
    rule_files,
)
from v13.telemetry.servers import ALERTMANAGER_FILE, PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.signal_kinds import Increase
from v13.telemetry.signals import Selector
from v13.telemetry.slo import Level, Notify, SloTable, load_slo

TABLE = load_slo(REPO / "config" / "slo.yaml")
RULES = {rule.name: rule for rule in alert_rules(TABLE)}


def rules_of(table: SloTable, path: str) -> dict[str, dict[str, Any]]:
    groups = rule_files(table)[path].body["groups"]
    return {rule.get("alert", rule.get("record")): rule for group in groups for rule in group["rules"]}


def test_each_row_has_an_alert_for_each_side_of_each_level() -> None:
    written = rules_of(TABLE, SLO_ALERTS_FILE)
    n = sum(len(level.sides) for row in TABLE.rows for level in (row.alert, row.rollback) if level)
    assert len(written) == n == 20
    for row in TABLE.rows:
        of_row = [rule["labels"] for rule in written.values() if rule["labels"]["slo"] == row.key]
        wanted = [("warning", "watch"), ("critical", "rollback")] * len(row.target.sides)
        assert sorted((labels["severity"], labels["action"]) for labels in of_row) == sorted(wanted)
    assert {"DivergenceEventsPerHourHighAlert", "DivergenceEventsPerHourLowRollback"} <= written.keys()


def test_the_guides_critical_list_is_written_as_it_stands_there() -> None:
    written = rules_of(TABLE, SLO_ALERTS_FILE)
    found = {name: (rule["expr"].partition(" and ")[0], rule["for"]) for name, rule in written.items()}
    assert found["DivergenceComputeLatencyRollback"] == ("v13:compute_latency:p95 > 0.02", "10m")
    assert found["DivergenceAvailabilityRollback"] == ("v13:availability:ratio < 0.99", "5m")
    assert found["DivergenceErrorRateRollback"] == ("v13:error_rate:ratio > 0.02", "5m")
    assert found["DivergenceClosureRollback"] == ("v13:closure:max > 0.15", "10m")


def test_the_guides_warnings_and_our_own_are_written() -> None:
    written = rules_of(TABLE, ALERTS_FILE)
    assert len(written) == len(TABLE.alerts)
    found = {
        name: (rule["expr"].partition(" and ")[0].rpartition(" > ")[2], rule["for"]) for name, rule in written.items()
    }
    assert found["DivergenceComputeSlow"] == ("0.01", "5m")
    assert found["DivergenceCpuHigh"] == ("0.8", "10m")
    assert found["DivergenceMemoryHigh"] == ("0.8", "10m")
    assert found["DivergenceBacklog"] == ("1000", "5m")
    assert {"DivergenceRunnerAbsent", "DivergenceReloadFailed", "DivergenceFeedStale"} <= written.keys()


def test_every_alert_says_what_where_and_what_to_do() -> None:
    page = (REPO / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    anchors = [section.lower().replace(" ", "-") for section in sections]
    assert anchors == [entry.runbook for entry in TABLE.entries], "one section an entry of the table, in its order"
    for rule in RULES.values():
        assert rule.labels.keys() == {"severity", "slo", "action"}
        assert rule.labels["slo"] in {row.key for row in TABLE.rows}
        assert rule.annotations["runbook_url"] == f"docs/runbook.md#{rule.entry.runbook}"
        assert "$value" in rule.annotations["summary"]
        assert rule.entry.title in rule.annotations["summary"]


def test_no_level_of_the_table_is_repeated_in_the_runbook() -> None:
    page = (REPO / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert not re.search(r"\d\s?(ms|%)", page)


def test_names_are_unique_and_recording_rules_stand_after_what_they_rest_on() -> None:
    assert len(RULES) == len(alert_rules(TABLE))
    seen: set[str] = set()
    for rule in recording_rules(TABLE):
        assert rule.record not in seen
        assert set(re.findall(r"v13:[\w:]+", rule.expr)) <= seen
        seen.add(rule.record)
    used = {name for rule in RULES.values() for name in re.findall(r"v13:[\w:]+", rule.expr)}
    assert used <= seen
    assert rules_of(TABLE, RECORDING_FILE).keys() == seen


def test_ratios_are_nothing_where_there_was_nothing() -> None:
    for entry in TABLE.entries:
        if " / (" in entry.expr:
            assert entry.expr.endswith(" > 0)")


def test_a_change_in_the_table_changes_rules_tests_and_nothing_else() -> None:
    row = TABLE.row("event_latency")
    changed = replace(TABLE, rows=(replace(row, alert=Level(0.003, None, 420)), *TABLE.rows[1:]))
    before, after = rules_of(TABLE, SLO_ALERTS_FILE), rules_of(changed, SLO_ALERTS_FILE)
    assert [name for name in before if before[name] != after[name]] == ["DivergenceEventLatencyAlert"]
    assert after["DivergenceEventLatencyAlert"]["expr"].startswith("v13:event_latency:p95 > 0.003 and")
    assert after["DivergenceEventLatencyAlert"]["for"] == "7m"
    assert test_files(changed) != test_files(TABLE)


def test_equal_tables_give_equal_documents() -> None:
    again = load_slo(REPO / "config" / "slo.yaml")
    for make in (rule_files, test_files):
        assert json.dumps(make(again)) == json.dumps(make(TABLE))


@pytest.mark.parametrize("ranges", Ranges)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_each_alert_can_fire_from_what_its_metrics_can_be(rule: Any, ranges: Ranges) -> None:
    """`scenarios` refuses what does not; here: the value it fires at is beyond the level and within the range."""
    low, high = rule.entry.signal.bounds
    for scenario in scenarios(rule, ranges):
        for value in scenario.fires.values():
            assert value > rule.bound if rule.op == ">" else value < rule.bound
            assert low <= value <= high


@pytest.mark.parametrize(
    ("major", "window_s", "step_s", "n"),
    [(2, 300, 60, 6), (3, 300, 60, 5), (4, 300, 60, 5), (2, 90, 60, 2), (3, 90, 60, 2), (2, 60, 60, 2), (3, 60, 60, 1)],
)
def test_a_range_holds_the_sample_at_its_start_until_prometheus_3(
    major: int, window_s: int, step_s: int, n: int
) -> None:
    assert Ranges.of(major).n_samples(window_s, step_s) == n


@pytest.mark.parametrize(
    ("ranges", "last"),
    [(Ranges.CLOSED, 9), (Ranges.LEFT_OPEN, 8)],  # after the jump at step 5, the last range of 5 min that sees it
)
def test_an_increase_is_seen_for_as_long_as_a_range_holds_the_sample_before_it(ranges: Ranges, last: int) -> None:
    signal = Increase(of=Selector("divergence_events_total"), window_s=300)
    jump = Series("divergence_events_total", {}, [0.0] * 5 + [8.0] * 8)
    found = [value for value, _ in measured(signal, [jump], ranges)]
    assert [i for i, value in enumerate(found) if value] == list(range(5, last + 1))
    steady = Series("divergence_events_total", {}, [float(i) for i in range(13)])
    assert measured(signal, [steady], ranges)[-1][0] == 5.0  # both tell the increase of the whole range


@pytest.mark.parametrize("ranges", Ranges)
def test_an_availability_at_which_one_look_more_or_less_decides_is_tested_in_both(ranges: Ranges) -> None:
    """Of 721 looks one may be missing at this level, of 720 none."""
    row = replace(TABLE.row("availability"), min_count=None, least=0.0)
    row = replace(row, alert=Level(None, 0.998612, 300), rollback=None)
    (rule,) = alert_rules(replace(TABLE, rows=(row,), alerts=()))
    fires = {scenario.name: list(scenario.fires.values()) for scenario in scenarios(rule, ranges)}
    expected = 719 / 721 if ranges is Ranges.CLOSED else 719 / 720
    assert (fires["within"], fires["beyond"]) == ([], [expected])


def test_each_kind_of_ranges_has_files_of_its_own() -> None:
    files = test_files(TABLE)
    names: dict[str, list[str]] = {}
    for path, document in files.items():
        folder = posixpath.dirname(path)
        names.setdefault(folder, []).extend(test["name"] for test in document.body["tests"])
        assert f"promtool test rules {folder}/*.yaml" in document.header
        for name in document.body["rule_files"]:
            assert posixpath.normpath(f"{folder}/{name}") in rule_files(TABLE)
    assert names.keys() == {"rule_tests/prometheus_2", "rule_tests/prometheus_3"}
    assert names["rule_tests/prometheus_2"] == names["rule_tests/prometheus_3"]


def test_what_the_settings_put_out_of_reach_is_said() -> None:
    found = dict(out_of_reach(TABLE, DetectorParams(), queue_limit=100_000))
    assert found.keys() == {
        "DivergenceEventsPerHourHighRollback",
        "DivergenceScoreMedianAlert",
        "DivergenceScoreMedianRollback",
    }
    assert "240 an hour" in found["DivergenceEventsPerHourHighRollback"]
    loose = DetectorParams(FeatureParams(), DecisionParams(min_score=0.0, cooldown_ms=0, swing_L=5))
    assert out_of_reach(TABLE, loose, queue_limit=100_000) == ()
    assert [name for name, _ in out_of_reach(TABLE, loose, queue_limit=1_000)] == ["DivergenceBacklog"]


@pytest.mark.parametrize(
    ("bar_ms", "swing_L", "cooldown_ms", "most"),
    [(1_000, 13, 30_000, 240.0), (1_000, 13, 0, 7_200 / 14), (60_000, 13, 30_000, 7_200 / 840)],
)
def test_most_events_an_hour(bar_ms: int, swing_L: int, cooldown_ms: int, most: float) -> None:
    decision = DecisionParams(swing_L=swing_L, cooldown_ms=cooldown_ms)
    assert most_per_hour(DetectorParams(FeatureParams(bar_ms=bar_ms), decision)) == pytest.approx(most)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [  # Prometheus, template/template_test.go, HumanizeDuration
        *((0.0, "0s"), (1.0, "1s"), (60.0, "1m 0s"), (3_600.0, "1h 0m 0s"), (86_400.0, "1d 0h 0m 0s")),
        *((86_400.0 + 3_600, "1d 1h 0m 0s"), (-(86_400.0 * 2 + 3_600 * 3 + 60 * 4 + 5), "-2d 3h 4m 5s")),
        *((899.99, "14m 59s"), (0.1, "100ms"), (0.0001, "100us"), (0.12345, "123.5ms"), (60.1, "1m 0s")),
        *((1.2345, "1.234s"), (12.345, "12.35s"), (-0.25, "-250ms")),
    ],
)
def test_durations_read_as_prometheus_writes_them(seconds: float, text: str) -> None:
    assert duration_human(seconds) == text


def test_a_message_is_filled_in_as_prometheus_would() -> None:
    rule = RULES["DivergenceHitRateRollback"]
    labels = {"instance": "a:1", "horizon": "20"}
    assert rendered(rule.annotations["summary"], rule, 0.44381, labels) == "Hit rate, horizon 20: 44.38%"
    assert rule.annotations["description"] == "Below 45% for 15m. Promised: at least 55%."


def expanded(text: str) -> list[float | str | None]:
    """Read promtool's notation; https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules."""
    found: list[float | str | None] = []
    for part in text.split():
        run = re.fullmatch(r"(-?[\d.e-]+?)([+-][\d.e-]+)x(\d+)", part)
        if run:
            found += [float(run[1]) + i * float(run[2]) for i in range(int(run[3]) + 1)]
        else:
            found.append(None if part == "_" else part if part == GONE else float(part))
    return found


@given(st.lists(st.one_of(st.none(), st.just(GONE), st.integers(-3, 3).map(float)), min_size=1, max_size=30))
def test_samples_survive_promtools_notation(samples: list[float | str | None]) -> None:
    assert expanded(compact(samples)) == samples


def test_mutants_differ_from_their_rule_in_one_place_each() -> None:
    found = list(mutants(TABLE))
    assert {mutant.kind for mutant in found} == {"comparison", "threshold", "label", "duration"}
    assert len({(mutant.alert, mutant.what) for mutant in found}) == len(found)
    originals = {record.record: record.body() for record in recording_rules(TABLE)}
    for mutant in found:
        changed = [r for r in mutant.recordings if r != originals[r["record"]]]
        assert len(changed) + (mutant.rule != RULES[mutant.alert].body()) == 1, mutant.what


def test_prometheus_is_told_where_to_look_and_how_often() -> None:
    body = server_files(TABLE, Exporter("localhost:9999", "../ca.pem", "scraper", "../password"))[PROMETHEUS_FILE].body
    assert body["global"]["scrape_interval"] == body["global"]["evaluation_interval"] == "5s"
    runner, closure, _ = body["scrape_configs"]
    assert (runner["job_name"], closure["job_name"]) == ("divergence", "divergence-closure")
    assert runner["static_configs"] == [{"targets": ["localhost:9999"]}]
    assert (runner["scheme"], runner["tls_config"]) == ("https", {"ca_file": "../ca.pem"})
    assert runner["basic_auth"] == {"username": "scraper", "password_file": "../password"}
    plain = server_files(TABLE, Exporter())[PROMETHEUS_FILE].body["scrape_configs"][0]
    assert plain.keys() == {"job_name", "sample_limit", "static_configs"}


def test_alertmanager_posts_where_the_table_says() -> None:
    told = replace(TABLE, notify=Notify("http://localhost:1/people", "http://localhost:1/rollback"))
    receivers = server_files(told, Exporter())[ALERTMANAGER_FILE].body["receivers"]
    assert [r["webhook_configs"][0]["url"] for r in receivers] == [
        "http://localhost:1/people",
        "http://localhost:1/rollback",
    ]
    silent = server_files(TABLE, Exporter())[ALERTMANAGER_FILE].body["receivers"]
    assert silent == [{"name": "people"}, {"name": "rollback"}]


def test_the_memory_the_table_speaks_of_is_what_the_service_is_given() -> None:
    unit = (REPO / "config" / "systemd" / "v13-runner.service").read_text(encoding="utf-8")
    match = re.search(r"^MemoryMax=(\d+)G$", unit, re.MULTILINE)
    assert match is not None
    (alert,) = (alert for alert in TABLE.alerts if alert.key == "memory_high")
    assert getattr(alert.signal, "divided_by") == int(match[1]) * 2**30  # noqa: B009 - of this kind of signal only


def test_paths_are_those_of_the_guide() -> None:
    assert Path(SLO_ALERTS_FILE).name == "production_slo_alerts.yaml"
    assert (ALERTS_FILE, PROMETHEUS_FILE) == ("alerting_rules/divergence_alerts.yaml", "prometheus_divergence.yml")
