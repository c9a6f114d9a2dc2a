"""The table holds the guide's numbers, and refuses what is wrong by file, line and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from v13.errors import ConfigError, V13Error
from v13.telemetry.slo import Level, SloTable, load_slo

PATH = REPO / "config" / "slo.yaml"
TEXT = PATH.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table() -> SloTable:
    return load_slo(PATH)


def refused(tmp_path: Path, old: str, new: str) -> str:
    assert TEXT.count(old) >= 1, old
    path = tmp_path / "config" / "slo.yaml"
    path.parent.mkdir()
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_slo(path)
    return str(caught.value)


def line_of(text: str) -> int:
    return TEXT[: TEXT.index(text)].count("\n") + 1


GUIDE_ROWS = {
    "事件延迟P95": "event_latency",
    "管线延迟P95": "pipeline_latency",
    "背离计算P95": "compute_latency",
    "指标闭合误差": "closure",
    "错误率": "error_rate",
    "可用性": "availability",
    "事件数/小时": "events_per_hour",
    "分数中位数": "score_median",
    "命中率": "hit_rate",
}


def sides(cell: str, *, is_target: bool) -> dict[str, float]:
    """Read a cell of the guide's tables: what breaks it. A target is told by what keeps it."""
    band = re.fullmatch(r"(\d+)-(\d+)", cell)
    if band:
        return {"<": float(band[1]), ">": float(band[2])}
    found = {}
    for op, number, unit in re.findall(r"([<>]) ([\d.]+)(ms|%)?", cell):
        scale = {"ms": 1e-3, "%": 1e-2, "": 1.0}[unit]
        found[{"<": ">", ">": "<"}[op] if is_target else op] = float(number) * scale
    return found


@pytest.mark.shared
def test_every_row_of_the_guides_tables_is_here_with_its_numbers(table: SloTable, shared_data: Path) -> None:
    guide = (shared_data.parent / "deployment-guide.zh.md").read_text(encoding="utf-8")
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in guide.splitlines() if line.startswith("|")]
    rows = {line[0]: line[1:] for line in cells if line[0] in GUIDE_ROWS}
    assert rows.keys() == GUIDE_ROWS.keys()
    assert {row.key for row in table.rows} == set(GUIDE_ROWS.values())
    for title, (target, alert, rollback) in rows.items():
        row = table.row(GUIDE_ROWS[title])
        assert row.title_zh == title
        assert row.rollback is not None
        assert dict(row.target.sides) == pytest.approx(sides(target, is_target=True)), title
        assert dict(row.alert.sides) == pytest.approx(sides(alert, is_target=False)), title
        assert dict(row.rollback.sides) == pytest.approx(sides(rollback, is_target=False)), title


@pytest.mark.parametrize(
    ("key", "level"),
    [  # the guide's critical list, and what else rolls back after 15 min
        ("compute_latency", Level(0.02, None, 600)),
        ("availability", Level(None, 0.99, 300)),
        ("error_rate", Level(0.02, None, 300)),
        ("closure", Level(0.15, None, 600)),
        ("event_latency", Level(0.005, None, 900)),
        ("hit_rate", Level(None, 0.45, 900)),
    ],
)
def test_rollback_levels_last_as_long_as_the_guide_says(table: SloTable, key: str, level: Level) -> None:
    assert table.row(key).rollback == level


@pytest.mark.parametrize(
    ("key", "level"),
    [
        ("compute_slow", Level(0.01, None, 300)),
        ("cpu_high", Level(0.8, None, 600)),
        ("memory_high", Level(0.8, None, 600)),
        ("backlog", Level(1000.0, None, 300)),
    ],
)
def test_the_guides_warnings_are_here(table: SloTable, key: str, level: Level) -> None:
    (alert,) = (alert for alert in table.alerts if alert.key == key)
    assert (alert.level, alert.severity) == (level, "warning")


def test_expressions_are_made_of_the_signals(table: SloTable) -> None:
    assert table.row("event_latency").record == "v13:event_latency:p95"
    assert table.row("event_latency").expr == (
        "histogram_quantile(0.95, sum by (instance, le) "
        '(rate(divergence_event_latency_seconds_bucket{job="divergence"}[5m])))'
    )
    assert table.row("hit_rate").expr == (
        'sum by (instance, horizon) (increase(divergence_hits_total{job="divergence"}[1d])) / '
        '(sum by (instance, horizon) (increase(divergence_outcomes_total{job="divergence"}[1d])) > 0)'
    )
    assert table.row("hit_rate").min_count == "v13:hit_rate:count >= 300"
    assert table.row("closure").expr == (
        'max by (instance, family) (divergence_closure_error_ratio{job="divergence-closure"})'
    )
    (down,) = (alert for alert in table.alerts if alert.key == "runner_down")
    assert down.expr == 'min by (instance) (up{job="divergence"})'  # the worst of several is the least


def test_rare_things_have_a_minimum_count(table: SloTable) -> None:
    counted = {entry.key for entry in table.entries if entry.min_count}
    assert {"error_rate", "hit_rate", "score_median", "events_per_hour", "pipeline_latency", "availability"} <= counted


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("of: divergence_event_latency_seconds", "of: divergence_event_latency", "no metric of the catalogue"),
        ("gauge: divergence_queue_size", "gauge: divergence_que_size", "no metric of the catalogue"),
        ("gauge: divergence_queue_size", "gauge: divergence_bars_total", "is a counter; expected a gauge or a flag"),
        ('total{reason="overload"}', 'total{reason="overlaod"}', "there is no series with reason='overlaod'"),
        ("by: [horizon]", "by: [side]", "has no label 'side'"),
        ("age: divergence_closure_last_success_timestamp_seconds", "age: divergence_queue_size", "is not a time"),
        ("quantile: 0.95", "quantile: 95", "expected a quantile between 0 and 1"),
        # never, or always
        ("alert: {above: 0.002,", "alert: {above: 1.0,", "can never fire: expected from 0 to below 1, found 1"),
        ("alert: {above: 0.005, for: 5m}\n    rollback: {above: 0.02, for: 5m}", "alert: {above: 1.5, for: 5m}\n"
         "    rollback: {above: 2, for: 5m}", "can never fire: expected from 0 to below 1, found 1.5"),
        ("above: 30   ", "above: -.inf", "expected a number"),
        ("below: 1\n    for: 1m\n    severity: critical", "below: 0\n    for: 1m\n    severity: critical", "can never"),
        ("target: {below: 50}", "target: {below: 0}", "can never fire"),
        ("target: {above: 100, below: 10}", "target: {above: 100, below: 100}", "any value would break it"),
        # levels
        ("rollback: {above: 0.005, for: 15m}", "rollback: {above: 0.002, for: 15m}", "beyond the alert's 0.002"),
        ("rollback: {below: 0.45, for: 15m}", "rollback: {below: 0.6, for: 15m}", "beyond the alert's 0.5"),
        ("rollback: {below: 0.45, for: 15m}", "rollback: {above: 0.6, for: 15m}", "the same sides as the target"),
        ("alert: {above: 0.002, for: 5m}", "alert: {above: 0.002}", "for: missing"),
        ("alert: {above: 0.002, for: 5m}", "alert: {for: 5m}", "expected above or below"),
        ("alert: {above: 0.002, for: 5m}", "alert: {above: 0.002, for: 300}", "expected a duration"),
        ("alert: {above: 0.002, for: 5m}", "alert: {above: 2ms, for: 5m}", "expected a number, found '2ms'"),
        ("target: {above: 0.0025}", "target: {above: 0.0025, for: 5m}", "unknown key"),
        ("min_count: 300", "min_count: 0", "expected a number above 0"),
        # keys
        ("  pipeline_latency:\n", "  event_latency:\n", "found duplicate key"),
        ("  backlog:\n", "  hit_rate:\n", "there is a row of this name already"),
        ("title: Messages pile up", "title: Hit rate", "has the title of hit_rate"),
        ("  backlog:\n", "  BackLog:\n", "expected a name in lower case"),
        ("    unit: messages\n", "    units: messages\n", "units: unknown key"),
        ("    unit: messages\n", "", "unit: missing"),
        ("    unit: messages\n", "    unit: pieces\n", "expected one of seconds"),
        ("    slo: hit_rate\n", "    slo: hitrate\n", "expected one of event_latency"),
        ("row: compute_latency", "row: compute", "expected one of event_latency"),
        ("signal: {gauge: up}", "signal: {gauges: up}", "expected a signal, which has one of quantile"),
        ("signal: {gauge: up}", "signal: up", "expected keys"),
        ("signal: {gauge: up}", "signal: {gauge: up, window: 5m}", "unknown key"),
        ("severity: warning", "severity: bad", "expected one of critical, warning"),
        ("people: null", "people: somebody", "expected null or a URL"),
        ("notify:   ", "notified:   ", "unknown key"),
        ("scrape_every: 5s", "scrape_every: 0s", "expected a duration"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_file_line_and_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = refused(tmp_path, old, new)
    assert says in text
    assert re.match(r"config/slo\.yaml:\d+: ", text), text


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    text = refused(tmp_path, "alert: {above: 0.05, for: 5m}", "alert: {above: 40, for: 5m}")
    line = line_of("alert: {above: 0.05, for: 5m}")
    assert text.startswith(f"config/slo.yaml:{line}: rows.pipeline_latency.alert.above: can never fire")


def test_a_missing_file_and_a_row_that_is_not_there_are_named(tmp_path: Path, table: SloTable) -> None:
    with pytest.raises(ConfigError, match=r"slo\.yaml: missing"):
        load_slo(tmp_path / "config" / "slo.yaml")
    with pytest.raises(V13Error, match="latency: no row of the SLO table; there are event_latency"):
        table.row("latency")
