"""What the dashboard shows, as data: panels with their queries, units and thresholds, on shelves.

Grafana's JSON and the static page are both made from these. Thresholds come from the SLO table and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from v13.telemetry.queries import Query, selector
from v13.telemetry.slo import Alert, Level, Row
from v13.telemetry.units import quantity, span

__all__ = [
    "ALERTED",
    "COLUMNS",
    "GRADES",
    "GRADE_COLOURS",
    "SERIES_COLOURS",
    "UNKNOWN_COLOUR",
    "Column",
    "Kind",
    "Mark",
    "Panel",
    "Shelf",
    "flag",
    "grade_of",
    "lay_out",
    "levels_text",
    "signal_of",
    "soft_range",
    "steps",
    "worst_of",
]

Kind = Literal["stat", "lines", "heatmap", "bars", "table", "states"]

ALERTED: Final = "alerted on, {{instance}}"  # legend of the signal that alerts compare
COLUMNS: Final = 24  # of Grafana's grid
GRADES: Final = ("ok", "watch", "warn", "rollback")
GRADE_COLOURS: Final = ("#2e8b57", "#c9a21b", "#d9722b", "#c23b3b")
UNKNOWN_COLOUR: Final = "#66727f"
# One colour a thing wherever it is shown; regular expressions of a series' name, the first that fits.
SERIES_COLOURS: Final = (
    (r"^bull.*hidden|hidden.*bull", "#8fc9a8"),
    (r"^bear.*hidden|hidden.*bear", "#e3a1a1"),
    (r"bull", "#2e8b57"),
    (r"bear", "#c23b3b"),
    (r"OFI_ONLY", "#2f6fb0"),
    (r"CVD_ONLY", "#d9822b"),
    (r"FUSION", "#7a5aa6"),
)


@dataclass(frozen=True)
class Column:
    """A column of numbers in a table: its name and unit; one for each query."""

    name: str
    unit: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    key : str
        Stays the same; for those who look a panel up.
    title, about : str
        `about` says what is seen and what to make of it.
    kind : str
        `stat` (a number), `lines`, `heatmap` (of a histogram in time), `bars` (one a series, or one a bucket), `table`,
        `states` (flags in time).
    queries : tuple of Query
    unit : str
        See `v13.telemetry.units`.
    limits : tuple of Row and Alert
        Whose levels are drawn; all of one signal.
    graded : tuple of (float, int)
        As `steps` gives, where no row and no alert says it.
    width, height : int
        Of Grafana's grid: 24 columns, rows of 30 pixels.
    scale : str
        Of the axis: `linear`, `log`, or `symlog`, which is linear below 1.
    words : mapping of int to (str, int)
        What a flag's values are called, and their grade.
    columns : tuple of Column
        Of a table.
    """

    key: str
    title: str
    kind: Kind
    queries: tuple[Query, ...]
    unit: str
    about: str
    limits: tuple[Row | Alert, ...] = ()
    width: int = 8
    height: int = 8
    scale: Literal["linear", "log", "symlog"] = "linear"
    words: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    graded: tuple[tuple[float, int], ...] = ()

    @property
    def steps(self) -> tuple[tuple[float, int], ...]:
        """Return from which value on which grade it is, see `steps`."""
        return self.graded or steps(self.limits)

    @property
    def colours(self) -> tuple[tuple[str, str], ...]:
        """Return the fixed colours of its series: none where horizons are told apart, which would share them."""
        return () if any("horizon" in query.legend for query in self.queries) else SERIES_COLOURS


@dataclass(frozen=True)
class Shelf:
    """A row of the dashboard with a title, and its panels from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Mark:
    """What is marked at its moment on every plot.

    Attributes
    ----------
    name : str
    expr : str
        PromQL; empty where marks are told to Grafana (see `tags`).
    text : str
        Label of a mark, with series labels in double braces.
    is_time : bool
        The query's value is the moment, in Unix milliseconds; else the mark lasts while the value is 1.
    tags : tuple of str
        Of marks told to Grafana over its API.
    grade : int
        Index into GRADES.
    """

    name: str
    expr: str = ""
    text: str = ""
    is_time: bool = False
    tags: tuple[str, ...] = ()
    grade: int = 0


def steps(limits: tuple[Row | Alert, ...]) -> tuple[tuple[float, int], ...]:
    """Return from which value on a signal has which grade.

    Parameters
    ----------
    limits : tuple of Row and Alert

    Returns
    -------
    tuple of (float, int)
        Lower end of a range (the first is minus infinity) and its grade: 0 all is well, 1 one level is broken, 2 more
        than one, 3 a rollback level or that of a critical alert.

    Notes
    -----
    The guide's alert levels of latencies lie within their targets, those of availability beyond: counting what is
    broken fits both. A bound itself belongs to the range above it, as Grafana draws it; rules compare strictly.
    """
    bounds = sorted({bound for level, _ in _levels(limits) for _, bound in level.sides})
    ends = [-math.inf, *bounds, math.inf]
    return tuple((low, grade_of(limits, _between(low, high))) for low, high in pairwise(ends))


def grade_of(limits: tuple[Row | Alert, ...], value: float) -> int:
    """Return the grade of a value, see `steps`; 0 for NaN, which breaks nothing."""
    broken = [is_grave for level, is_grave in _levels(limits) if _is_broken(level, value)]
    return 3 if any(broken) else min(len(broken), 2)


def soft_range(panel: Panel) -> tuple[float, float]:
    """Return the least range of a plot's axis: all its levels are seen, and a little beyond."""
    bounds = [low for low, _ in panel.steps if math.isfinite(low)]
    low, high = min(bounds), max(bounds)
    if panel.scale != "linear":
        return (0.0 if panel.scale == "symlog" else low / 2.0), high * 2.0
    beyond = 0.3 * (high - low) or 0.3 * abs(high)
    is_share = panel.unit == "ratio" and high <= 1.0
    return max(0.0, low - beyond), min(1.0, high + beyond) if is_share else high + beyond


def levels_text(limit: Row | Alert) -> str:
    """Return target, alert and rollback level in words."""
    if isinstance(limit, Alert):
        return f"Alert {_bounds(limit.level, limit.unit, met=False)} for {span(limit.level.for_s)}."
    parts = [f"Target {_bounds(limit.target, limit.unit, met=True)}"]
    for name, level in (("alert", limit.alert), ("rollback", limit.rollback)):
        if level is not None:
            parts.append(f"{name} {_bounds(level, limit.unit, met=False)} for {span(level.for_s)}")
    return "; ".join(parts) + "."


def signal_of(limit: Row | Alert, legend: str) -> Query:
    """Return the signal that alerts compare, as it was recorded where it is."""
    return Query(limit.record or limit.expr, legend, is_alerted=True)


def worst_of(row: Row) -> Query:
    """Return the worst of a row's signal over what it is told apart by; all of it where both sides are bad."""
    sides = row.alert.sides
    if len(sides) > 1:
        return Query(row.record, "{{instance}}", instant=True)
    return Query(f"{'max' if sides[0][0] == '>' else 'min'}({row.record})", "worst", instant=True)


def flag(
    key: str, title: str, name: str, about: str, words: Mapping[int, tuple[str, int]], *, width: int, height: int
) -> Panel:
    """Return a panel with the word for a flag of the catalogue, the worst of all runners."""
    query = Query(f"min({selector(name)})", title, instant=True)
    return Panel(key, title, "stat", (query,), "flag", about, words=words, width=width, height=height)


def lay_out(shelves: tuple[Shelf, ...]) -> Iterator[tuple[Shelf, Panel | None, int, int]]:
    """Yield where everything stands on the grid.

    Yields
    ------
    (Shelf, Panel or None, int, int)
        A shelf's title (None), then its panels; column and row of the upper left corner.
    """
    y = 0
    for shelf in shelves:
        yield shelf, None, 0, y
        x, y, tallest = 0, y + 1, 0
        for panel in shelf.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield shelf, panel, x, y
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _levels(limits: tuple[Row | Alert, ...]) -> Iterator[tuple[Level, bool]]:
    """Yield each level, and whether breaking it is grave."""
    for limit in limits:
        if isinstance(limit, Alert):
            yield limit.level, limit.severity == "critical"
            continue
        yield limit.target, False
        yield limit.alert, False
        if limit.rollback is not None:
            yield limit.rollback, True


def _is_broken(level: Level, value: float) -> bool:
    return any(value > bound if op == ">" else value < bound for op, bound in level.sides)


def _between(low: float, high: float) -> float:
    if math.isinf(low):
        return high - 1.0 if math.isfinite(high) else 0.0
    return low + 1.0 if math.isinf(high) else (low + high) / 2.0


def _bounds(level: Level, unit: str, *, met: bool) -> str:
    low = None if level.below is None else quantity(level.below, unit)
    high = None if level.above is None else quantity(level.above, unit)
    if low is not None and high is not None:
        return f"{low} to {high}" if met else f"below {low} or above {high}"
    if low is not None:
        return f"{'at least' if met else 'below'} {low}"
    return f"{'at most' if met else 'above'} {high}"
