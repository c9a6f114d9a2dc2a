"""The SLO table, read from `config/slo.yaml` and checked: rows with their levels, and the alerts beside them.

Nobody else holds a threshold, a duration or an expression of an SLO. What could never fire is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from v13.config.yaml_lines import read_tree
from v13.errors import ConfigError, V13Error
from v13.telemetry.signal_kinds import (
    Absent,
    Age,
    Available,
    Changes,
    Gauge,
    Increase,
    PerHour,
    Quantile,
    Rate,
    Ratio,
)
from v13.telemetry.signals import Signal, number_promql
from v13.telemetry.slo_file import Node

__all__ = ["Alert", "Level", "Notify", "Row", "SloTable", "load_slo"]

SEVERITIES: Final = ("critical", "warning")
UNITS: Final = ("seconds", "ratio", "per hour", "messages", "bars", "restarts", "1")

# Kind of signal by the key that marks it: its class, and its keys, each with its attribute and what it is.
_Keys: TypeAlias = Mapping[str, tuple[str, str]]
_WINDOW: Final = ("window_s", "duration")
_SIGNALS: Final[Mapping[str, tuple[type[Signal], _Keys]]] = {
    "quantile": (
        Quantile,
        {"quantile": ("q", "number"), "of": ("of", "selector"), "window": _WINDOW, "by": ("by", "names")},
    ),
    "part": (
        Ratio,
        {
            **{"part": ("part", "selector"), "of": ("of", "selectors"), "window": _WINDOW},
            **{"by": ("by", "names"), "counted": ("counted", "counted")},
        },
    ),
    "per_hour": (
        PerHour,
        {"per_hour": ("events", "selector"), "each": ("each", "selector"), "window": _WINDOW},
    ),
    "available": (Available, {"available": _WINDOW, "warm_up": ("warm_up_s", "duration")}),
    "gauge": (Gauge, {"gauge": ("of", "selector"), "divided_by": ("divided_by", "number"), "by": ("by", "names")}),
    "rate": (Rate, {"rate": ("of", "selector"), "window": _WINDOW}),
    "increase": (Increase, {"increase": ("of", "selector"), "window": _WINDOW, "while": ("while_", "selector")}),
    "changes": (Changes, {"changes": ("of", "selector"), "window": _WINDOW}),
    "age": (Age, {"age": ("of", "selector")}),
    "absent": (Absent, {"absent": ("of", "selector")}),
}
_OPTIONAL: Final = ("by", "counted", "divided_by", "while")


@dataclass(frozen=True)
class Level:
    """When something is too much, too little, or either.

    Attributes
    ----------
    above, below : float or None, in the row's unit
        The level is broken by values beyond, never by the bound itself.
    for_s : int, s, >= 0
        How long it must be broken before it counts; 0 for a target.
    """

    above: float | None
    below: float | None
    for_s: int

    @property
    def sides(self) -> tuple[tuple[str, float], ...]:
        """Return (comparison, bound) of each side there is."""
        pairs = ((">", self.above), ("<", self.below))
        return tuple((op, bound) for op, bound in pairs if bound is not None)


@dataclass(frozen=True)
class Row:
    """One promise.

    Attributes
    ----------
    key : str
    title, title_zh : str
        For people.
    unit : str
        One of UNITS.
    signal : Signal
    expr : str
        PromQL of the signal.
    record : str
        Name of the recording rule that holds it.
    target, alert, rollback : Level
        What is promised; where people look; where it goes back. None: never rolled back for this.
    min_count : str or None
        PromQL that must hold for the row to say anything, from the recording rule `count_record`.
    runbook : str
        Anchor in the runbook.
    place : str
        `file:line`.
    """

    key: str
    title: str
    title_zh: str
    unit: str
    signal: Signal
    expr: str
    record: str
    target: Level
    alert: Level
    rollback: Level | None
    min_count: str | None
    least: float
    runbook: str
    place: str = field(compare=False)

    @property
    def count_record(self) -> str | None:
        """Return the name of the recording rule of what there is to go by; None where nothing is counted."""
        count = self.signal.count(self.key)
        return None if count is None else f"v13:{self.key}:{count[0]}"


@dataclass(frozen=True)
class Alert:
    """An alert beside the levels of the rows.

    Attributes
    ----------
    key, title, title_zh, unit, signal, expr, min_count, runbook, place
        As of a row.
    record : str or None
        None: the expression is short and stands in the alert itself.
    level : Level
    severity : str
        One of SEVERITIES.
    row : str
        Key of the row it belongs to.
    """

    key: str
    title: str
    title_zh: str
    unit: str
    signal: Signal
    expr: str
    record: str | None
    level: Level
    severity: str
    row: str
    min_count: str | None
    least: float
    runbook: str
    place: str = field(compare=False)


@dataclass(frozen=True)
class Notify:
    """Webhooks that Alertmanager posts to; None: no one is told."""

    people: str | None = None
    rollback: str | None = None


@dataclass(frozen=True)
class SloTable:
    """All of `config/slo.yaml`.

    Attributes
    ----------
    rows, alerts : tuple
        In the order of the file.
    scrape_s, evaluate_s : int, s, >= 1
        How often Prometheus looks, and how often it judges.
    notify : Notify
    """

    rows: tuple[Row, ...]
    alerts: tuple[Alert, ...]
    scrape_s: int
    evaluate_s: int
    notify: Notify

    @property
    def entries(self) -> tuple[Row | Alert, ...]:
        """Return rows and alerts."""
        return (*self.rows, *self.alerts)

    def row(self, key: str) -> Row:
        """Return the row of that key.

        Raises
        ------
        V13Error
            There is none.
        """
        for row in self.rows:
            if row.key == key:
                return row
        raise V13Error(f"{key}: no row of the SLO table; there are {', '.join(row.key for row in self.rows)}")


def load_slo(path: Path) -> SloTable:
    """Read and check a table.

    Parameters
    ----------
    path : Path
        `config/slo.yaml`.

    Raises
    ------
    ConfigError
        The file is no YAML, a key is unknown, missing or there twice, a metric is not exported, a level contradicts
        another or can never be broken, a duration is none. Named with file, line and key; the first problem only.
    """
    shown = "/".join(path.parts[-2:])
    top = Node(read_tree(path, shown), shown, f"{shown}:1", "")
    top.only("scrape_every", "evaluate_every", "notify", "rows", "alerts")
    scrape_s, evaluate_s = top.duration("scrape_every"), top.duration("evaluate_every")
    rows = tuple(_row(node, evaluate_s) for node in top.children("rows"))
    by_key = {row.key: row for row in rows}
    alerts = tuple(_alert(node, by_key, evaluate_s) for node in top.children("alerts"))
    for alert in alerts:
        if alert.key in by_key:
            raise ConfigError(f"{alert.place}: alerts.{alert.key}: there is a row of this name already")
    names: dict[str, str] = {}
    entries: tuple[Row | Alert, ...] = (*rows, *alerts)
    for entry in entries:
        if entry.title in names:
            raise ConfigError(f"{entry.place}: {entry.key}: has the title of {names[entry.title]}, {entry.title!r}")
        names[entry.title] = entry.key
    notify = top.child("notify")
    notify.only("people", "rollback")
    table = SloTable(
        rows,
        alerts,
        scrape_s,
        evaluate_s,
        Notify(notify.url("people"), notify.url("rollback")),
    )
    if not rows:
        raise top.error("rows", "expected one row or more")
    return table


def _row(node: Node, evaluate_s: int) -> Row:
    node.only("title", "title_zh", "unit", "signal", "min_count", "target", "alert", "rollback")
    key, signal = node.key, _signal(node.child("signal"), evaluate_s)
    if isinstance(signal, Gauge) and "below" in node.child("target"):
        signal = replace(signal, pick="min")  # the worst is the least
    target = _level(node.child("target"), signal, timed=False)
    alert = _level(node.child("alert"), signal)
    rollback = _level(node.child("rollback"), signal) if "rollback" in node else None
    for level, name in ((alert, "alert"), (rollback, "rollback")):
        if level is not None and [op for op, _ in level.sides] != [op for op, _ in target.sides]:
            raise node.error(name, "expected the same sides as the target (above, below)")
    if rollback is not None:
        for (op, first), (_, last) in zip(alert.sides, rollback.sides, strict=True):
            if (last <= first) if op == ">" else (last >= first):
                raise node.error("rollback", f"expected a level beyond the alert's {first:g}, found {last:g}")
    least, min_count = _min_count(node, key, signal)
    return Row(
        *(key, node.text("title"), node.text("title_zh"), node.one_of("unit", UNITS), signal, signal.expr(key)),
        record=f"v13:{key}:{signal.operation}",
        target=target,
        alert=alert,
        rollback=rollback,
        min_count=min_count,
        least=least,
        runbook=key.replace("_", "-"),
        place=node.place,
    )


def _alert(node: Node, rows: Mapping[str, Row], evaluate_s: int) -> Alert:
    levels, common = ("above", "below", "for"), ("title", "title_zh", "severity")
    severity, key = node.one_of("severity", SEVERITIES), node.key
    if "row" in node:  # another level of a row, with its signal
        node.only(*common, *levels, "row")
        row = rows[node.one_of("row", tuple(rows))]
        signal, owner, unit, expr = row.signal, row.key, row.unit, row.expr
        record: str | None = row.record
        least, min_count = row.least, row.min_count
    else:
        node.only(*common, *levels, "unit", "signal", "slo", "min_count")
        signal = _signal(node.child("signal"), evaluate_s)
        if isinstance(signal, Gauge) and "below" in node:
            signal = replace(signal, pick="min")  # the worst is the least
        owner, unit = node.one_of("slo", tuple(rows)), node.one_of("unit", UNITS)
        record = f"v13:{key}:{signal.operation}" if signal.is_recorded else None
        expr = signal.expr(key)
        least, min_count = _min_count(node, key, signal)
    level = _level(node, signal)
    if len(level.sides) != 1:
        raise node.error("above", "expected either above or below: an alert says one thing")
    return Alert(
        *(key, node.text("title"), node.text("title_zh"), unit, signal, expr, record, level, severity, owner),
        min_count=min_count,
        least=least,
        runbook=key.replace("_", "-"),
        place=node.place,
    )


def _signal(node: Node, evaluate_s: int) -> Signal:
    mark = next((name for name in _SIGNALS if name in node), None)
    if mark is None:
        raise node.error("", f"expected a signal, which has one of {', '.join(_SIGNALS)}")
    made, fields = _SIGNALS[mark]
    node.only(*fields)
    found: dict[str, Any] = {"evaluate_s": evaluate_s} if made is Available else {}
    for name, (attribute, what) in fields.items():
        if name in node or name not in _OPTIONAL:
            found[attribute] = node.value(name, what)
    signal = made(**found)
    try:
        signal.check()
    except V13Error as error:
        raise node.error(mark, str(error)) from error
    return signal


def _level(node: Node, signal: Signal, *, timed: bool = True) -> Level:
    """Read a level, and refuse one that no value of its signal breaks, or that every value does."""
    if timed and node.name in ("alert", "rollback"):
        node.only("above", "below", "for")
    elif not timed:
        node.only("above", "below")
    bounds = {side: node.number(side) for side in ("above", "below") if side in node}
    if not bounds:
        raise node.error("", "expected above or below")
    above, below = bounds.get("above"), bounds.get("below")
    low, high = signal.bounds
    if above is not None and not low <= above < high:
        raise node.error("above", f"can never fire: expected from {low:g} to below {high:g}, found {above:g}")
    if below is not None and not low < below <= high:
        raise node.error("below", f"can never fire: expected from above {low:g} to {high:g}, found {below:g}")
    if above is not None and below is not None and below >= above:
        raise node.error("below", f"expected less than above, {above:g}, found {below:g}: any value would break it")
    return Level(above, below, node.duration("for") if timed else 0)


def _min_count(node: Node, key: str, signal: Signal) -> tuple[float, str | None]:
    if "min_count" not in node:
        return 0.0, None
    least, count = node.number("min_count"), signal.count(key)
    if count is None:
        raise node.error("min_count", "there is nothing to count in a signal of this kind")
    if not least > 0.0:
        raise node.error("min_count", f"expected a number above 0, found {least:g}")
    return least, f"v13:{key}:{count[0]} >= {number_promql(least)}"
