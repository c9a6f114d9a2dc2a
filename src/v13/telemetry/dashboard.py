"""The Grafana dashboard `divergence-monitoring-prod` as JSON: the panels of the overview in Grafana's own schema.

What is shown is decided elsewhere (`overview`); here it is only said in Grafana's words. Equal tables give equal bytes.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from v13.detector.dtypes import CHANNELS
from v13.telemetry.grafana_panels import DATASOURCE, colour, panel_of, query_of
from v13.telemetry.grafana_sdk import Builder, Dataquery, JSONEncoder, build, grafana, words
from v13.telemetry.overview import MARKS, overview
from v13.telemetry.panels import Mark, lay_out
from v13.telemetry.queries import Query, selector
from v13.telemetry.slo import SloTable

__all__ = ["UID", "Links", "dashboard_json"]

UID: Final = "divergence-monitoring-prod"  # guide: http://localhost:3000/d/divergence-monitoring-prod
TITLE: Final = "V13 divergence: production"
WINDOWS: Final = ("10m", "30m", "1h", "6h", "1d", "7d")
DEFAULT_WINDOW: Final = "1h"
_GRAFANA: Final = words.DataSourceRef(type_val="grafana", uid="-- Grafana --")


class Links(NamedTuple):
    """Where a browser that shows the dashboard finds the pages that belong to it.

    The defaults are those of config/monitoring/compose.yaml, whose Grafana serves both.
    """

    runbook: str = "/public/v13/docs/runbook.md"
    signoff: str = "/public/v13/signoff/index.html"


def dashboard_json(table: SloTable, links: Links | None = None) -> str:
    """Return the dashboard's file.

    Parameters
    ----------
    table : SloTable
        Thresholds and the signals alerts compare.
    links : Links, optional

    Returns
    -------
    str
        JSON, keys sorted, ending in one newline; to be provisioned, imported by hand, or sent by `Grafana`.

    Raises
    ------
    V13Error
        The table lacks a row that a plot shows.
    """
    links = links or Links()
    document = _head(links).build()
    panels: list[grafana.Panel | grafana.RowPanel] = []
    for number, (shelf, panel, x, y) in enumerate(lay_out(overview(table)), start=1):
        if panel is None:
            place = grafana.GridPos(h=1, w=24, x=0, y=y)
            panels.append(grafana.RowPanel(title=shelf.title, grid_pos=place, id_val=number, panels=[]))
        else:
            shown = panel_of(panel, links.runbook)
            shown.id_val, shown.grid_pos = number, grafana.GridPos(h=panel.height, w=panel.width, x=x, y=y)
            panels.append(shown)
    document.panels = panels
    plain = _without_leftovers(json.loads(json.dumps(document, cls=JSONEncoder)))
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _without_leftovers(document: dict[str, Any]) -> dict[str, Any]:
    """Take out what the SDK adds and the schema does not have, or what hides the links in a menu."""
    for variable in document["templating"]["list"]:
        for name in ("auto", "auto_min", "auto_count"):
            variable.pop(name, None)
    for link in document["links"]:
        link.pop("placement", None)
    for panel in document["panels"]:
        if panel["type"] == "table":
            panel["options"].pop("footer", None)
    return document


def _head(links: Links) -> build.Dashboard:
    everything = grafana.VariableOption(selected=True, text="All", value="$__all")
    symbols = f"label_values({selector('divergence_feed_staleness_seconds')}, symbol)"
    windows = [grafana.VariableOption(selected=w == DEFAULT_WINDOW, text=w, value=w) for w in WINDOWS]
    head = (
        build.Dashboard(TITLE)
        .uid(UID)
        .description(
            "Made from config/slo.yaml by `v13 monitoring build`; changes made here are lost at the next deploy. Green:"
            " all is well; yellow: target or alert level broken; orange: both; red: rollback level."
        )
        .tags(["v13", "divergence"])
        .timezone("utc")
        .editable()
        .tooltip(grafana.DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            build.CustomVariable("source")
            .label("Source")
            .description("Channel of an event.")
            .values(",".join(CHANNELS))
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(everything)
        )
        .with_variable(
            build.QueryVariable("symbol")
            .label("Symbol")
            .description("Of the one panel that has a symbol: the silence of each.")
            .datasource(DATASOURCE)
            .query({"query": symbols, "refId": "symbols", "qryType": 1})
            .refresh(grafana.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(grafana.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(everything)
        )
        .with_variable(
            build.IntervalVariable("window")
            .label("Window")
            .description("Over how long rolling figures are taken; what alerts compare has windows of its own.")
            .values(",".join(WINDOWS))
            .options(windows)
            .current(grafana.VariableOption(selected=True, text=DEFAULT_WINDOW, value=DEFAULT_WINDOW))
        )
    )
    for mark in MARKS:
        head = head.annotation(_annotation(mark))
    for title, url, icon in (("Runbook", links.runbook, "doc"), ("Sign-off report", links.signoff, "bolt")):
        head = head.link(
            build.DashboardLink(title).type(grafana.DashboardLinkType.LINK).url(url).icon(icon).target_blank(True)
        )
    return head


class _Tags(grafana.AnnotationTarget, Dataquery):
    """A query of Grafana's own marks, in the type the SDK's annotations want."""


class _TagsBuilder(Builder[Dataquery]):
    def __init__(self, tags: tuple[str, ...]) -> None:
        self._tags = list(tags)

    def build(self) -> Dataquery:
        return _Tags(limit=100, match_any=False, tags=self._tags, type_val="tags")


def _annotation(mark: Mark) -> build.AnnotationQuery:
    shown = build.AnnotationQuery().name(mark.name).enable(True).icon_color(colour(mark.grade))
    if mark.tags:
        return shown.datasource(_GRAFANA).target(_TagsBuilder(mark.tags))
    return (
        shown.datasource(DATASOURCE)
        .target(query_of(Query(mark.expr), "Anno"))
        .title_format(mark.name)
        .text_format(mark.text)
        .use_value_for_time(mark.is_time)
    )
