"""The dashboard as Grafana gets it: every number from the SLO table, nothing overlapping, the same bytes again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.conftest import REPO
from v13.detector.dtypes import CHANNELS
from v13.errors import V13Error
from v13.telemetry.dashboard import Links, dashboard_json
from v13.telemetry.grafana_sdk import grafana
from v13.telemetry.overview import overview
from v13.telemetry.panels import GRADE_COLOURS, Panel, Shelf, grade_of, lay_out, levels_text, soft_range, steps
from v13.telemetry.queries import VARIABLES
from v13.telemetry.slo import load_slo
from v13.telemetry.units import grafana_unit

SLO = REPO / "config" / "slo.yaml"
TABLE = load_slo(SLO)
# The same file, read without any of our code: the oracle of its numbers.
PLAIN = YAML(typ="safe", pure=True).load(SLO.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document():
    return json.loads(dashboard_json(TABLE))


def panels(document):
    return {panel["title"]: panel for panel in document["panels"] if panel["type"] != "row"}


def bounds_of(row):
    """Return every bound of a row of the plain file."""
    levels = [row[name] for name in ("target", "alert", "rollback") if name in row]
    return {float(level[side]) for level in levels for side in ("above", "below") if side in level}


def test_equal_tables_give_equal_bytes():
    assert dashboard_json(TABLE) == dashboard_json(load_slo(SLO))
    assert dashboard_json(TABLE).endswith("}\n")


def test_it_is_the_dashboard_the_guide_names(document):
    assert document["uid"] == "divergence-monitoring-prod"
    assert (document["timezone"], document["graphTooltip"]) == ("utc", 1)
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert set(variables) == {"datasource", "source", "symbol", "window"}
    assert variables["source"]["query"].split(",") == list(CHANNELS)
    assert variables["symbol"]["query"]["query"] == "label_values(divergence_feed_staleness_seconds, symbol)"
    assert {name for name in VARIABLES if not name.startswith("__")} <= set(variables)


def test_the_runbook_and_the_sign_off_are_linked_where_told():
    document = json.loads(dashboard_json(TABLE, Links("https://wiki/runbook", "https://wiki/signoff")))
    assert {link["title"]: link["url"] for link in document["links"]} == {
        "Runbook": "https://wiki/runbook",
        "Sign-off report": "https://wiki/signoff",
    }
    assert panels(document)["Event latency P95"]["links"][0]["url"] == "https://wiki/runbook#event-latency"


def test_deploys_reloads_starts_and_alerts_are_marked(document):
    marks = {mark["name"]: mark for mark in document["annotations"]["list"]}
    assert marks["Deploys"]["target"]["tags"] == ["v13", "deploy"]
    assert marks["Deploys"]["datasource"]["type"] == "grafana"
    for name, metric in (
        ("Configuration reloads", "divergence_config_last_reload_success_timestamp_seconds"),
        ("Runner starts", "process_start_time_seconds"),
        ("Alerts", "ALERTS"),
    ):
        assert metric in marks[name]["target"]["expr"]
        assert marks[name]["useValueForTime"] == (name != "Alerts")


@pytest.mark.parametrize("key", list(PLAIN["rows"]))
def test_every_row_of_the_table_has_a_number_with_its_thresholds(document, key):
    row = PLAIN["rows"][key]
    (panel,) = [p for p in document["panels"] if p["title"] == row["title"] and p["type"] == "stat"]
    found = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert found[0]["value"] is None
    assert {step["value"] for step in found[1:]} == bounds_of(row)
    assert row["title_zh"] in panel["description"]
    # The worst colour lies beyond each rollback level, the best one where the target and the alert are met.
    for side, at in row["rollback"].items():
        if side != "for":
            beyond = max(s["value"] for s in found[1:]) if side == "above" else None
            assert at == (beyond if side == "above" else min(s["value"] for s in found[1:]))
            assert [s["color"] for s in found if s["value"] == beyond] == [GRADE_COLOURS[3]]
    assert GRADE_COLOURS[0] in {s["color"] for s in found}


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Compute latency P95", "compute_latency"),
        ("Event latency P95", "event_latency"),
        ("Pipeline latency P95", "pipeline_latency"),
        ("Events per hour and symbol, by source", "events_per_hour"),
        ("Score median", "score_median"),
        ("Hit rate by horizon and source", "hit_rate"),
        ("Metrics against the event log", "closure"),
        ("Error rate", "error_rate"),
        ("Availability", "availability"),
    ],
)
def test_plots_have_the_lines_of_their_row_and_ask_for_what_alerts_compare(document, title, key):
    (panel,) = [p for p in document["panels"] if p["title"] == title and p["type"] == "timeseries"]
    found = panel["fieldConfig"]["defaults"]
    assert {s["value"] for s in found["thresholds"]["steps"][1:]} == bounds_of(PLAIN["rows"][key])
    assert found["custom"]["thresholdsStyle"]["mode"] == "dashed+area"
    assert found["custom"]["axisSoftMin"] <= min(bounds_of(PLAIN["rows"][key]))
    assert found["custom"]["axisSoftMax"] >= max(bounds_of(PLAIN["rows"][key]))
    assert panel["targets"][0]["expr"] == TABLE.row(key).record


def test_a_change_in_the_table_changes_the_dashboard_and_nothing_else_does():
    row = TABLE.row("event_latency")
    rollback = replace(row.rollback, above=0.007)
    rows = tuple(replace(r, rollback=rollback) if r.key == row.key else r for r in TABLE.rows)
    before = json.loads(dashboard_json(TABLE))
    after = json.loads(dashboard_json(replace(TABLE, rows=rows)))
    changed = [a["title"] for a, b in zip(before["panels"], after["panels"], strict=True) if a != b]
    assert changed == ["Event latency P95", "Event latency P95"]
    assert "rollback above 7 ms for 15 min" in panels(after)["Event latency P95"]["description"]


def test_a_table_without_a_row_that_is_drawn_is_refused_and_without_an_alert_it_is_not():
    with pytest.raises(V13Error, match="closure: no row of the SLO table"):
        dashboard_json(replace(TABLE, rows=tuple(row for row in TABLE.rows if row.key != "closure")))
    bare = json.loads(dashboard_json(replace(TABLE, alerts=())))
    assert panels(bare)["Memory of the runner"]["fieldConfig"]["defaults"]["unit"] == "bytes"


def test_nothing_overlaps_and_all_is_on_the_grid(document):
    places = [(p["title"], *(p["gridPos"][k] for k in "xywh")) for p in document["panels"]]
    assert len({p["id"] for p in document["panels"]}) == len(places)
    for _, x, y, w, h in places:
        assert x >= 0
        assert y >= 0
        assert x + w <= 24
        assert h > 0
    for (a, ax, ay, aw, ah), (b, bx, by, bw, bh) in combinations(places, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay, f"{a} lies over {b}"


def test_every_panel_says_what_it_shows_in_which_unit(document):
    for title, panel in panels(document).items():
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], title
        assert defaults["thresholds"]["steps"], title
        assert panel["description"].endswith("."), title
        assert "$" not in panel["description"], title
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0, title
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"]), title


def test_numbers_are_asked_once_so_that_a_dead_runner_does_not_show_its_last(document):
    stats = [panel for panel in document["panels"] if panel["type"] == "stat"]
    assert len(stats) >= 12
    for panel in stats:
        assert all(target["instant"] and not target["range"] for target in panel["targets"]), panel["title"]
        special = [m for m in panel["fieldConfig"]["defaults"]["mappings"] if m["type"] == "special"]
        assert special[0]["options"]["result"]["text"] == "no data", panel["title"]


def test_keys_are_unique_and_units_known():
    found = [panel for shelf in overview(TABLE) for panel in shelf.panels]
    assert len({panel.key for panel in found}) == len(found)
    for panel in found:
        assert grafana_unit(panel.unit)
        assert all(grafana_unit(column.unit) for column in panel.columns)
        assert len(panel.columns) == (len(panel.queries) if panel.kind == "table" else 0)


def test_the_sdk_reads_back_what_it_wrote(document):
    read = grafana.Dashboard.from_json(document)
    assert read.uid == document["uid"]
    assert [p.title for p in read.panels or []] == [p["title"] for p in document["panels"]]


def naive_grade(row, value):
    if row.rollback is not None and (
        (row.rollback.above is not None and value > row.rollback.above)
        or (row.rollback.below is not None and value < row.rollback.below)
    ):
        return 3
    n = 0
    for level in (row.target, row.alert):
        if level.above is not None and value > level.above:
            n += 1
        if level.below is not None and value < level.below:
            n += 1
    return n


@given(st.sampled_from(TABLE.rows), st.floats(-1e4, 1e4))
def test_the_colour_of_a_value_counts_the_levels_it_breaks(row, value):
    bounds = [low for low, _ in steps((row,))]
    if value in bounds:  # a bound itself breaks nothing, but is drawn with what lies above it
        return
    expected = naive_grade(row, value)
    assert grade_of((row,), value) == expected
    assert [grade for low, grade in steps((row,)) if value >= low][-1] == expected


def test_nothing_known_breaks_nothing_and_a_critical_alert_is_red():
    assert grade_of((TABLE.row("availability"),), math.nan) == 0
    by_key = {alert.key: alert for alert in TABLE.alerts}
    assert steps((by_key["runner_down"],)) == ((-math.inf, 3), (1.0, 0))
    assert steps((by_key["backlog"],)) == ((-math.inf, 0), (1000.0, 1))


def test_levels_are_told_in_words():
    assert levels_text(TABLE.row("events_per_hour")) == (
        "Target 10 /h to 100 /h; alert below 5 /h or above 200 /h for 15 min; "
        "rollback below 1 /h or above 500 /h for 15 min."
    )
    assert levels_text(TABLE.row("availability")) == (
        "Target at least 99.9 %; alert below 99.5 % for 5 min; rollback below 99 % for 5 min."
    )
    assert levels_text(next(a for a in TABLE.alerts if a.key == "backlog")) == "Alert above 1,000 for 5 min."


def test_an_axis_shows_all_levels_and_no_share_beyond_1():
    def drawn(key, scale="linear"):
        row = TABLE.row(key)
        return soft_range(Panel("k", "t", "lines", (), row.unit, "a.", limits=(row,), scale=scale))

    low, high = drawn("availability")
    assert (round(low, 4), high) == (0.9873, 1.0)
    assert drawn("events_per_hour", "symlog") == (0.0, 1000.0)
    assert drawn("event_latency", "log") == (0.001, 0.01)
    assert drawn("error_rate")[0] == pytest.approx(0.0005)


def test_a_shelf_wraps_where_its_panels_do_not_fit():
    def panel(key, width, height):
        return Panel(key, key, "lines", (), "1", "a.", width=width, height=height)

    shelves = (
        Shelf("one", (panel("a", 16, 5), panel("b", 8, 7), panel("c", 12, 3))),
        Shelf("two", (panel("d", 24, 1),)),
    )
    places = [(p.key if p else s.title, x, y) for s, p, x, y in lay_out(shelves)]
    assert places == [("one", 0, 0), ("a", 0, 1), ("b", 16, 1), ("c", 0, 8), ("two", 0, 11), ("d", 0, 12)]
