"""Plots of a snapshot: an answered panel as PNG bytes; equal answers give equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from v13.telemetry.panels import GRADE_COLOURS, UNKNOWN_COLOUR, Panel, soft_range
from v13.telemetry.prometheus import Series
from v13.telemetry.snapshot import Answer, Moment, buckets_of, legend_of
from v13.telemetry.units import quantity

__all__ = ["plot"]

INK, GRID, BAR = "#1d2733", "#dfe5ea", "#2f6fb0"
PALETTE: Final = ("#2f6fb0", "#d9822b", "#2e8b57", "#7a5aa6", "#c23b3b", "#4aa3a2", "#8a6d3b", "#b0568c", "#5c6874")
INCHES_A_COLUMN, INCHES_A_ROW, DPI = 0.62, 0.34, 144
MAX_SERIES: Final = 12  # more cannot be told apart
MAX_BARS: Final = 24


def plot(answer: Answer, start_s: float, end_s: float, moments: Sequence[Moment]) -> bytes:
    """Return a panel's plot.

    Parameters
    ----------
    answer : Answer
        Of a panel of kind lines, heatmap, bars or states, with data.
    start_s, end_s : float, Unix seconds
        The range, which is the axis of time.
    moments : sequence of Moment
        Drawn as upright lines.

    Returns
    -------
    bytes, PNG
    """
    panel = answer.panel
    size = (INCHES_A_COLUMN * panel.width, INCHES_A_ROW * panel.height)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    ax = figure.add_subplot()
    ax.tick_params(labelsize=7, colors=INK, length=2)
    ax.tick_params(which="minor", length=0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    if panel.kind == "bars":
        _bars(ax, answer)
    else:
        if panel.kind == "states":
            _states(ax, answer, start_s, end_s)
        else:
            (_heatmap if panel.kind == "heatmap" else _lines)(figure, ax, answer, start_s, end_s)
        ax.set_xlim(_date(start_s), _date(end_s))
        locator = AutoDateLocator(minticks=3, maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
        ax.xaxis.get_offset_text().set_fontsize(7)
        for moment in moments:
            colour = GRADE_COLOURS[moment.mark.grade]
            ax.axvline(_date(moment.ts_s), color=colour, lw=0.8, ls=(0, (1, 2)), zorder=1)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def _lines(figure: Figure, ax: Axes, answer: Answer, start_s: float, end_s: float) -> None:
    panel = answer.panel
    named = [
        (legend_of(query, series), series, query.is_alerted and len(answer.found) > 1)
        for query, _, found in answer.found
        for series in found
        if np.isfinite(series.values).any()
    ]
    shown = sorted(named, key=lambda one: (not one[2], -_last(one[1])))[:MAX_SERIES]
    spare, dashes = iter(PALETTE * MAX_SERIES), iter(("-", "--", ":") * MAX_SERIES)
    for name, series, is_alerted in shown:
        x, y = _on_grid(series, start_s, end_s, answer.step_s)
        colour = INK if is_alerted else _colour(panel, name) or next(spare)
        style = next(dashes) if is_alerted else "-"
        is_single = np.isfinite(y) & ~(_shifted(y, 1) | _shifted(y, -1))
        width, level = (1.8, 4) if is_alerted else (1.0, 3)
        ax.plot(x, y, label=name, color=colour, ls=style, lw=width, zorder=level)
        ax.plot(x[is_single], y[is_single], ".", color=colour, ms=3, zorder=3)
    if panel.scale == "symlog":
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(bottom=0.0)
    elif panel.scale == "log":
        ax.set_yscale("log", nonpositive="mask")
        ax.yaxis.set_major_locator(LogLocator(base=10, numticks=7))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    else:
        ax.yaxis.set_major_locator(MaxNLocator(5))
    _levels(ax, panel)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, panel.unit)))
    ax.grid(axis="y", color=GRID, lw=0.6)
    names = [name for name, _, _ in shown]
    longest_pt = 3.7 * max(map(len, names)) + 26  # a character, and the stroke before a name
    columns = max(1, min(len(names), int(72 * INCHES_A_COLUMN * panel.width / longest_pt)))
    legend = figure.legend(
        loc="outside lower left", fontsize=6.5, ncols=columns, frameon=False, handlelength=1.2, columnspacing=1.2
    )
    if len(named) > len(shown):
        legend.set_title(f"the {len(shown)} largest of {len(named)}", prop=FontProperties(size=6.5))


def _levels(ax: Axes, panel: Panel) -> None:
    if not panel.limits:
        return
    for bound, grade in _bounds(panel):
        ax.axhline(bound, color=GRADE_COLOURS[grade], lw=1.0, ls=(0, (5, 3)), zorder=2)
        ax.annotate(
            quantity(bound, panel.unit),
            xy=(1.0, bound),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
            color=GRADE_COLOURS[grade],
        )
    low, high = soft_range(panel)
    bottom, top = ax.get_ylim()
    ax.set_ylim(min(low, bottom) if panel.scale != "log" else bottom, max(high, top))


def _bounds(panel: Panel) -> list[tuple[float, int]]:
    """Return each level with the grade of what lies beyond it: above it, or below where lower is worse."""
    steps = panel.steps
    return [(low, max(grade, before)) for (_, before), (low, grade) in pairwise(steps)]


def _heatmap(figure: Figure, ax: Axes, answer: Answer, start_s: float, end_s: float) -> None:
    upper, counts = buckets_of(answer.found[0][2])
    grids = [_on_grid(series, start_s, end_s, answer.step_s) for series in counts]
    cells = np.nan_to_num(np.array([y for _, y in grids]))
    edges = _edges(upper)
    rows = np.flatnonzero(cells.any(axis=1))
    if not rows.size:  # nothing happened: the whole axis, empty
        rows = np.flatnonzero(np.isfinite(upper))
    first, last = max(0, int(rows[0]) - 1), min(len(upper) - 1, int(rows[-1]) + 1)
    if last == len(upper) - 1 and not cells[last].any():
        last -= 1  # the open bucket is drawn only where something is in it
    edges = edges[first : last + 2]
    x = grids[0][0]
    half = (x[1] - x[0]) if len(x) > 1 else 1.0  # a point counts what came in the step before it
    mesh = ax.pcolormesh(
        np.concatenate([[x[0] - half], x]),
        edges,
        np.ma.masked_less_equal(cells[first : last + 1], 1e-9),
        cmap="viridis",
        vmin=0.0,
    )
    bar = figure.colorbar(mesh, ax=ax, pad=0.01, aspect=30)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.set_label("events", fontsize=7)
    bar.outline.set_visible(False)


def _edges(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where buckets begin and end on the axis; an open one is as wide as its neighbour."""
    finite = upper[np.isfinite(upper)]
    gap = float(finite[-1] - finite[-2]) if finite.size > 1 else 1.0
    top = float(finite[-1]) + gap if finite.size else gap
    first = min(0.0, float(finite[0]) - gap) if finite.size else 0.0
    return np.concatenate([[first], np.where(np.isfinite(upper), upper, top)])


def _states(ax: Axes, answer: Answer, start_s: float, end_s: float) -> None:
    rows = [(legend_of(query, series), series) for query, _, found in answer.found for series in found]
    step = answer.step_s / 86_400.0
    for row, (_, series) in enumerate(rows):
        x, y = _on_grid(series, start_s, end_s, answer.step_s)
        for value in np.unique(y[np.isfinite(y)]):
            grade = answer.panel.words.get(int(value), ("", 2))[1]
            spans = [(at - step, step) for at in x[y == value]]
            ax.broken_barh(spans, (row - 0.35, 0.7), color=GRADE_COLOURS[grade], lw=0)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_facecolor(to_rgba(UNKNOWN_COLOUR, 0.15))  # what no bar covers is not known


def _bars(ax: Axes, answer: Answer) -> None:
    query, _, found = answer.found[0]
    if query.cumulative:
        upper, counts = buckets_of(found)
        values = np.array([_last(series) for series in counts])
        used = np.flatnonzero(values > 1e-9)
        first, last = (max(0, used[0] - 1), min(len(values) - 1, used[-1] + 1)) if used.size else (0, len(values) - 1)
        shown = slice(first, last + 1)
        at = np.arange(last + 1 - first)
        ax.bar(at, values[shown], width=0.9, color=BAR)
        every = -(-len(at) // 8)
        ax.set_xticks(at[::every], [f"≤ {bound:g}" for bound in upper[shown][::every]], rotation=30, ha="right")
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, answer.panel.unit)))
        ax.grid(axis="y", color=GRID, lw=0.6)
        ax.set_axisbelow(True)
        return
    rows = [(legend_of(q, series), _last(series)) for q, _, found in answer.found for series in found][:MAX_BARS]
    names, lengths = [name for name, _ in rows], [value for _, value in rows]
    bars = ax.barh(range(len(rows)), lengths, color=[_colour(answer.panel, name) or BAR for name in names], height=0.75)
    ax.bar_label(bars, [quantity(value, answer.panel.unit) for value in lengths], fontsize=6.5, padding=2, color=INK)
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)


def _on_grid(
    series: Series, start_s: float, end_s: float, step_s: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return dates and values at every step of the range; NaN where nothing was answered, so that lines break there."""
    n = int((end_s - start_s) / step_s + 1e-6) + 1
    values = np.full(n, np.nan)
    at = np.rint((series.ts_s - start_s) / step_s).astype(np.int64)
    values[at] = np.where(np.isfinite(series.values), series.values, np.nan)
    return np.array([_date(start_s + i * step_s) for i in range(n)]), values


def _shifted(y: NDArray[np.float64], by: int) -> NDArray[np.bool_]:
    """Tell where the neighbour of a point is there too."""
    there = np.isfinite(y)
    moved = np.zeros_like(there)
    if by > 0:
        moved[by:] = there[:-by]
    else:
        moved[:by] = there[-by:]
    return moved


def _colour(panel: Panel, name: str) -> str | None:
    return next((paint for pattern, paint in panel.colours if re.search(pattern, name)), None)


def _last(series: Series) -> float:
    finite = series.values[np.isfinite(series.values)]
    return float(finite[-1]) if finite.size else 0.0


def _date(ts_s: float) -> float:
    return float(date2num(datetime.fromtimestamp(ts_s, UTC)))
