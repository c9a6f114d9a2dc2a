"""The dashboard's PromQL: parsed by another implementation, made of what is exported, filled in as Grafana does."""

from __future__ import annotations

import re

import promql_parser
import pytest

from v13.errors import V13Error
from v13.telemetry import CATALOGUE
from v13.telemetry.catalogue import PROCESS
from v13.telemetry.overview import MARKS, overview
from v13.telemetry.queries import Scope, counted, histogram, per_hour, quantile, render, selector
from v13.telemetry.rules import recording_rules
from v13.telemetry.slo import load_slo

SCOPE = Scope(range_s=10_800, scrape_s=5)


@pytest.fixture(scope="module")
def table():
    from tests.conftest import REPO

    return load_slo(REPO / "config" / "slo.yaml")


@pytest.fixture(scope="module")
def expressions(table):
    """Every expression of the dashboard, by what shows it."""
    found = {
        f"{panel.key} {i}": query.expr
        for shelf in overview(table)
        for panel in shelf.panels
        for i, query in enumerate(panel.queries)
    }
    return found | {mark.name: mark.expr for mark in MARKS if mark.expr}


def selectors(node):
    """Yield the selectors in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.SubqueryExpr):
        yield from selectors(node.expr)
    else:
        assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), node


def exported():
    """Return every series name a scrape of the runner gives."""
    names = set(PROCESS)
    for metric in CATALOGUE:
        if metric.kind != "histogram":
            names.add(metric.name)
            continue
        names |= {f"{metric.name}{ending}" for ending in ("_bucket", *(("_sum", "_count") if metric.has_sum else ()))}
    return names


def test_every_query_parses_and_asks_only_for_what_somebody_exports(table, expressions):
    others = {"ALERTS", "divergence_closure_error_ratio", "divergence_closure_last_success_timestamp_seconds"}
    known = exported() | {rule.record for rule in recording_rules(table)} | others
    assert len(expressions) > 50
    for where, expr in expressions.items():
        names = {one.name for one in selectors(promql_parser.parse(render(expr, SCOPE)))}
        assert names, where
        assert names <= known, where


def test_labels_that_are_matched_or_kept_are_those_of_the_metric(expressions):
    labels = {m.name: {label.name for label in m.labels} | {"le"} for m in CATALOGUE}
    for where, expr in expressions.items():
        for one in selectors(promql_parser.parse(render(expr, SCOPE))):
            allowed = labels.get(re.sub(r"_(bucket|sum|count)$", "", one.name))
            if allowed is not None:
                assert {m.name for m in one.matchers.matchers} <= allowed, where
        for kept in re.findall(r"by \(([^)]*)\)", expr):
            metrics = [name for name in labels if name in expr]
            for label in filter(None, re.split(r",\s*", kept)):
                assert label in {"alertname", "family", "job", "instance"} or any(
                    label in labels[name] for name in metrics
                ), f"{where}: {label}"


def test_the_dashboard_shows_every_metric_there_is(table, expressions):
    used = " ".join([*expressions.values(), *(rule.expr for rule in recording_rules(table))])
    assert [m.name for m in CATALOGUE if m.name not in used] == []


def test_variables_become_what_grafana_makes_of_them():
    scope = Scope(range_s=3_600, scrape_s=5, sources=("FUSION",), symbols=("BTCUSDT", "ETHUSDT"), step_s=15)
    text = render('a{source=~"$source",symbol=~"${symbol}"}[$window] $__range $__interval $__rate_interval', scope)
    assert text == 'a{source=~"FUSION",symbol=~"(BTCUSDT|ETHUSDT)"}[3600s] 3600s 15s 20s'
    assert render('{source=~"$source|none"}', Scope(range_s=60, scrape_s=5)) == '{source=~".*|none"}'


@pytest.mark.parametrize(("step_s", "scrape_s", "expected_s"), [(15, 5, 20), (60, 5, 65), (5, 15, 60), (60, 15, 75)])
def test_the_rate_interval_holds_four_scrapes_and_overlaps_by_one(step_s, scrape_s, expected_s):
    scope = Scope(range_s=60, scrape_s=scrape_s, step_s=step_s)
    assert scope.values()["__rate_interval"] == f"{expected_s}s"


@pytest.mark.parametrize("value", ["1000SATSUSDT", "a.b", "a|b", "a(b)[c]{d}", "$^*+?", "back\\slash"])
def test_a_chosen_value_matches_itself_and_nothing_else(value):
    asked = render('m{symbol=~"$symbol"}', Scope(range_s=60, scrape_s=5, symbols=(value, "OTHER")))
    (matcher,) = promql_parser.parse(asked).matchers.matchers
    assert re.fullmatch(matcher.value, value)
    assert re.fullmatch(matcher.value, "OTHER")
    assert not re.fullmatch(matcher.value, value.replace(".", "x").replace("|", "x") + "x")


def test_a_variable_that_is_not_there_is_refused():
    with pytest.raises(V13Error, match=r"\$horizon is no variable of the dashboard; there are source, symbol, window"):
        render("sum(x[$horizon])", SCOPE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("divergence_event_total", "no metric of the catalogue"),
        ("divergence_score", "is a histogram"),
        ("divergence_events_total_bucket", "is a counter"),
        ("divergence_forward_return_sum", "has no such series"),
        ("divergence_feed_lag_seconds_count", "has no such series"),
    ],
)
def test_a_series_nobody_exports_is_refused(name, reason):
    with pytest.raises(V13Error, match=reason):
        selector(name)


def test_the_building_blocks_say_what_they_should():
    only = 'source=~"$source"'
    assert counted("divergence_bars_total", "") == "sum (increase(divergence_bars_total[$__range]))"
    assert per_hour("divergence_events_total", "side", only) == (
        'sum by (side) (rate(divergence_events_total{source=~"$source"}[$window])) * 3600'
        " / scalar(clamp_min(sum(divergence_active_symbols), 1))"
    )
    assert quantile(0.95, "divergence_score", "source") == (
        "histogram_quantile(0.95, sum by (le, source) (rate(divergence_score_bucket[$window])))"
    )
    assert histogram("divergence_score", over="5m") == "sum by (le) (increase(divergence_score_bucket[5m]))"


@pytest.mark.parametrize("q", [0.0, 1.0, -0.5, float("nan")])
def test_a_quantile_lies_between_0_and_1(q):
    with pytest.raises(V13Error, match="expected a quantile between 0 and 1"):
        quantile(q, "divergence_score", "")


@pytest.mark.parametrize("name", ["range_s", "scrape_s", "window_s", "step_s"])
def test_a_length_of_time_is_a_second_or_more(name):
    with pytest.raises(V13Error, match=f"{name}: expected a second or more, found 0"):
        Scope(**{"range_s": 60, "scrape_s": 5, name: 0})
