"""One panel in Grafana's words: which of its visualisations shows it, with which options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from v13.telemetry.grafana_sdk import (
    bargauge,
    build,
    common,
    grafana,
    heatmap,
    heatmap_words,
    prometheus,
    prometheus_words,
    stat,
    statetimeline,
    table_panel,
    timeseries,
    words,
)
from v13.telemetry.panels import GRADE_COLOURS, UNKNOWN_COLOUR, Panel, soft_range
from v13.telemetry.queries import MIN_STEP_S, Query
from v13.telemetry.units import grafana_unit

__all__ = ["DATASOURCE", "colour", "panel_of", "query_of"]

DATASOURCE: Final = words.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HIDDEN: Final = ("Time", "__name__", "job", "instance")  # columns of a table that say nothing
_REF: Final = "ABCDEFGHIJ"

_Builder: TypeAlias = (
    bargauge.Panel | heatmap.Panel | stat.Panel | statetimeline.Panel | table_panel.Panel | timeseries.Panel
)


def colour(grade: int) -> str:
    """Return the colour of a grade."""
    return GRADE_COLOURS[grade]


def panel_of(panel: Panel, runbook: str) -> grafana.Panel:
    """Return a panel, without its number and place.

    Parameters
    ----------
    panel : Panel
    runbook : str
        URL of the runbook, whose section a panel with an SLO links to.
    """
    shown = _KINDS[panel.kind](panel)
    shown = shown.title(panel.title).description(panel.about).datasource(DATASOURCE).unit(grafana_unit(panel.unit))
    shown = shown.thresholds(_thresholds(panel)).no_value("no data")
    for ref, query in zip(_REF, panel.queries, strict=False):
        shown = shown.with_target(query_of(query, ref, is_table=panel.kind == "table"))
    if panel.kind in ("stat", "states"):
        shown = shown.mappings(_mappings(panel))
    if panel.limits:
        link = build.DashboardLink("Runbook").type(grafana.DashboardLinkType.LINK).target_blank(True)
        shown = shown.links([link.url(f"{runbook}#{panel.limits[0].runbook}")])
    return shown.build()


def query_of(query: Query, ref: str, *, is_table: bool = False) -> prometheus.Dataquery:
    """Return a query of the Prometheus data source."""
    form = prometheus_words.PromQueryFormat
    kind = form.TABLE if is_table else form.HEATMAP if query.cumulative else form.TIME_SERIES
    shown = prometheus.Dataquery().expr(query.expr).ref_id(ref).format(kind).datasource(DATASOURCE)
    shown = shown.editor_mode(prometheus_words.QueryEditorMode.CODE).legend_format(query.legend or "__auto")
    return shown.instant() if query.instant else shown.range()


def _stat(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(words.BigValueGraphMode.NONE)  # asked once: over a range, a dead runner's last value would stay
        .color_mode(
            words.BigValueColorMode.BACKGROUND_SOLID if panel.words or panel.limits else words.BigValueColorMode.NONE
        )
        .text_mode(words.BigValueTextMode.VALUE)
        .justify_mode(words.BigValueJustifyMode.CENTER)
        .color_scheme(build.FieldColor().mode(grafana.FieldColorModeId.THRESHOLDS))
    )


def _lines(panel: Panel) -> timeseries.Panel:
    shown = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(6)
        .show_points(words.VisibilityMode.AUTO)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING))
        .color_scheme(build.FieldColor().mode(grafana.FieldColorModeId.PALETTE_CLASSIC))
    )
    if panel.scale != "linear":
        scale = common.ScaleDistributionConfig()
        if panel.scale == "log":
            scale = scale.type(words.ScaleDistribution.LOG).log(10)
        else:
            scale = scale.type(words.ScaleDistribution.SYMLOG).log(10).linear_threshold(1)
        shown = shown.scale_distribution(scale)
    for pattern, paint in reversed(panel.colours):  # the last override that fits wins
        value = {"mode": "fixed", "fixedColor": paint}
        shown = shown.override_by_regexp(f"/{pattern}/", [grafana.DynamicConfigValue("color", value)])
    if panel.limits:
        shown = shown.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(words.GraphThresholdsStyleMode.DASHED_AND_AREA)
        )
        low, high = soft_range(panel)
        shown = shown.axis_soft_min(low).axis_soft_max(high)
    if len(panel.queries) > 1:  # what alerts compare stands out; `text` is dark on light and light on dark
        thick = {"color": {"mode": "fixed", "fixedColor": "text"}, "custom.lineWidth": 3, "custom.fillOpacity": 0}
        properties = [grafana.DynamicConfigValue(name, value) for name, value in thick.items()]
        for ref, query in zip(_REF, panel.queries, strict=False):
            if query.is_alerted:
                shown = shown.override_by_query(ref, properties)
    return shown


def _heatmap(panel: Panel) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .interval(f"{MIN_STEP_S}s")
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(words.HeatmapCellLayout.LE))
        .cell_values(heatmap.CellValues().unit("short"))
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .color(heatmap.HeatmapColorOptions().mode(heatmap_words.HeatmapColorMode.SCHEME).scheme("Viridis").steps(64))
        .tooltip(heatmap.HeatmapTooltip().mode(words.TooltipDisplayMode.SINGLE).y_histogram(True))
        .y_axis(heatmap.YAxisConfig().unit(grafana_unit(panel.unit)))
    )


def _bars(panel: Panel) -> bargauge.Panel:
    is_histogram = any(query.cumulative for query in panel.queries)
    return (
        bargauge.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .orientation(words.VizOrientation.VERTICAL if is_histogram else words.VizOrientation.HORIZONTAL)
        .display_mode(words.BarGaugeDisplayMode.BASIC)
        .value_mode(words.BarGaugeValueMode.TEXT)
        .show_unfilled(False)
        .min_viz_width(4)
        .min_viz_height(12)
        .min(0)
        .decimals(0)
        .color_scheme(build.FieldColor().mode(grafana.FieldColorModeId.FIXED).fixed_color("#2f6fb0"))
    )


def _table(panel: Panel) -> table_panel.Panel:
    shown = table_panel.Panel().show_header(True).cell_height(words.TableCellHeight.SM)
    # One query gives a column `Value`, several `Value #A` and so on.
    found = (
        ["Value"] if len(panel.queries) == 1 else [f"Value #{ref}" for ref, _ in zip(_REF, panel.queries, strict=False)]
    )
    names = dict(zip(found, (column.name for column in panel.columns), strict=True))
    shown = shown.transformations(
        [
            grafana.DataTransformerConfig(id_val="merge", options={}),
            grafana.DataTransformerConfig(
                id_val="organize", options={"excludeByName": dict.fromkeys(_HIDDEN, True), "renameByName": names}
            ),
        ]
    )
    for column in panel.columns:
        shown = shown.override_by_name(column.name, [grafana.DynamicConfigValue("unit", grafana_unit(column.unit))])
    return shown


def _states(_: Panel) -> statetimeline.Panel:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(words.VisibilityMode.NEVER)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(words.LegendDisplayMode.LIST)
            .placement(words.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .color_scheme(build.FieldColor().mode(grafana.FieldColorModeId.THRESHOLDS))
    )


def _mappings(panel: Panel) -> list[grafana.ValueMapping]:
    """Return what values are called; nothing known must not look as if all were well."""
    nothing = grafana.ValueMappingResult(text="no data", color=UNKNOWN_COLOUR, index=len(panel.words))
    match = grafana.SpecialValueMatch.NULL_AND_NAN
    found: list[grafana.ValueMapping] = [
        grafana.SpecialValueMap(options=grafana.DashboardSpecialValueMapOptions(match=match, result=nothing))
    ]
    if panel.words:
        results = {
            str(value): grafana.ValueMappingResult(text=text, color=colour(grade), index=i)
            for i, (value, (text, grade)) in enumerate(panel.words.items())
        }
        found.insert(0, grafana.ValueMap(options=results))
    return found


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    # Behind lines only what is not well is tinted.
    well = "transparent" if panel.kind == "lines" else colour(0)
    found = [
        grafana.Threshold(None if math.isinf(low) else low, colour(grade) if grade else well)
        for low, grade in panel.steps
    ]
    return build.ThresholdsConfig().mode(grafana.ThresholdsMode.ABSOLUTE).steps(found)


_KINDS: Final[Mapping[str, Callable[[Panel], _Builder]]] = {
    "stat": _stat,
    "lines": _lines,
    "heatmap": _heatmap,
    "bars": _bars,
    "table": _table,
    "states": _states,
}
