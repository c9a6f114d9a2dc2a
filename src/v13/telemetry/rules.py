"""Recording rules and alert rules, written from the SLO table: names, PromQL, labels and what people are told.

No number stands here: thresholds and durations are the table's. The value in a message is put in by Prometheus;
`rendered` says what it will read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from v13.telemetry.signals import duration_text, number_promql
from v13.telemetry.slo import Alert, Row, SloTable

__all__ = [
    "ALERTS_FILE",
    "GROUPS",
    "RECORDING_FILE",
    "RECORDING_GROUP",
    "SLO_ALERTS_FILE",
    "AlertRule",
    "Document",
    "RecordingRule",
    "alert_rules",
    "duration_human",
    "recording_rules",
    "rendered",
    "rule_files",
]

RECORDING_FILE: Final = "recording_rules/divergence_recording.yaml"
ALERTS_FILE: Final = "alerting_rules/divergence_alerts.yaml"
SLO_ALERTS_FILE: Final = "alerting_rules/production_slo_alerts.yaml"
RECORDING_GROUP: Final = "v13_signals"
LEVEL_GROUPS: Final = ("v13_slo_alert", "v13_slo_rollback")
OTHER_GROUPS: Final = ("v13_critical", "v13_warning")
GROUPS: Final = (RECORDING_GROUP, *LEVEL_GROUPS, *OTHER_GROUPS)  # in the order in which each finds what it rests on
RUNBOOK: Final = "docs/runbook.md"
WRITTEN: Final = "Written by `v13 monitoring build` from config/slo.yaml. Change it there."

ACTIONS: Final = ("watch", "rollback")
_VALUE: Final = "$value"


class Document(NamedTuple):
    """A file to be: a comment for its top, and plain values."""

    header: str
    body: Mapping[str, Any]


class _Format(NamedTuple):
    """How a value of a unit is told: the template's part, what that gives, and a number of the table."""

    template: str
    render: Callable[[float], str]


@dataclass(frozen=True)
class RecordingRule:
    """A name for an expression, worked out once for alerts, dashboard and deploy."""

    record: str
    expr: str

    def body(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class AlertRule:
    """One alert: a level of a row, on one side, or one of the table's further alerts.

    Attributes
    ----------
    name : str
        CamelCase, begins with Divergence.
    entry : Row or Alert
        Where it comes from.
    level : str
        alert or rollback of a row; the key of a further alert.
    op : str
        > or <.
    bound : float
        In the entry's unit.
    expr : str
        PromQL.
    for_s : int, s
    labels, annotations : mapping
        As in the rule file; annotations hold templates.
    """

    name: str
    entry: Row | Alert
    level: str
    op: str
    bound: float
    expr: str
    for_s: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def body(self) -> dict[str, Any]:
        """Return it as a rule file has it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": duration_text(self.for_s),
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }


def recording_rules(table: SloTable) -> tuple[RecordingRule, ...]:
    """Return the recording rules in an order in which each finds what it rests on."""
    found: dict[str, str] = {}
    for entry in table.entries:
        if entry.record is None or entry.record in found:  # another level of a row has the row's
            continue
        found |= entry.signal.helpers(entry.key)
        found[entry.record] = entry.expr
        count = entry.signal.count(entry.key)
        if count is not None:
            found[f"v13:{entry.key}:{count[0]}"] = count[1]
    return tuple(RecordingRule(record, expr) for record, expr in found.items())


def alert_rules(table: SloTable) -> tuple[AlertRule, ...]:
    """Return all alerts: levels of the rows first, in the order of the table."""
    rules = []
    for row in table.rows:
        for level, name in ((row.alert, "alert"), (row.rollback, "rollback")):
            if level is None:
                continue
            for op, bound in level.sides:
                side = "" if len(level.sides) == 1 else {">": "High", "<": "Low"}[op]
                promised = dict(row.target.sides)[op]
                labels = {
                    "severity": {"alert": "warning", "rollback": "critical"}[name],
                    "slo": row.key,
                    "action": {"alert": "watch", "rollback": "rollback"}[name],
                }
                told = f" Promised: {_at(op, promised, row.unit, keep=True)}."
                rules.append(_rule(row, f"{row.key}{side}_{name}", name, op, bound, level.for_s, labels, told))
    for alert in table.alerts:
        ((op, bound),) = alert.level.sides
        labels = {"severity": alert.severity, "slo": alert.row, "action": "watch"}
        rules.append(_rule(alert, alert.key, alert.key, op, bound, alert.level.for_s, labels, ""))
    return tuple(rules)


def rule_files(table: SloTable) -> dict[str, Document]:
    """Return the rule files, path to content."""
    rules = alert_rules(table)
    of_rows = [rule for rule in rules if isinstance(rule.entry, Row)]
    others = [rule for rule in rules if isinstance(rule.entry, Alert)]
    critical = [rule for rule in others if rule.labels["severity"] == "critical"]
    warning = [rule for rule in others if rule.labels["severity"] != "critical"]
    return {
        RECORDING_FILE: Document(
            f"{WRITTEN}\nSignals of the SLO table, for alerts, dashboard and deploy.",
            _groups({RECORDING_GROUP: recording_rules(table)}),
        ),
        SLO_ALERTS_FILE: Document(
            f"{WRITTEN}\nEach row of the deployment guide's SLO tables at its alert and its rollback level. Its list "
            "of critical alerts is\nthe rollback level of compute latency, availability, error rate and closure.",
            _groups(
                {
                    f"v13_slo_{level}": [rule for rule in of_rows if rule.level == level]
                    for level in ("alert", "rollback")
                }
            ),
        ),
        ALERTS_FILE: Document(
            f"{WRITTEN}\nThe deployment guide's warnings, and what else can go wrong: no data, feed, runner, "
            "configuration. Its list of\ncritical alerts is in production_slo_alerts.yaml.",
            _groups(dict(zip(OTHER_GROUPS, (critical, warning), strict=True))),
        ),
    }


def rendered(text: str, rule: AlertRule, value: float, labels: Mapping[str, str]) -> str:
    """Return an annotation as Prometheus fills it in.

    Parameters
    ----------
    text : str
        One of the rule's annotations.
    value : float
        What the expression gives.
    labels : mapping
        Of the series that breaks the level.
    """
    form = _FORMATS[rule.entry.unit]
    text = text.replace(form.template, form.render(value))
    for name, found in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", found)
    return text


def duration_human(value: float) -> str:
    """Return what Prometheus's `humanizeDuration` makes of seconds."""
    if not math.isfinite(value) or value == 0.0:
        return f"{value:.4g}" + ("s" if value == 0.0 else "")
    size, sign = abs(value), "-" if value < 0.0 else ""
    if size < 1.0:
        prefixes = iter("munpfazy")
        while size < 1.0:
            prefix, size = next(prefixes), 1_000.0 * size
        return f"{sign}{size:.4g}{prefix}s"
    whole = int(size)
    parts = [(whole // 86_400, "d"), (whole // 3_600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next(i for i, (n, _) in enumerate(parts) if n)
    if parts[first][1] == "s":
        return f"{sign}{size:.4g}s"
    return sign + " ".join(f"{n}{unit}" for n, unit in parts[first:])


_FORMATS: Final[Mapping[str, _Format]] = {
    "seconds": _Format(f"{{{{ {_VALUE} | humanizeDuration }}}}", duration_human),
    "ratio": _Format(f"{{{{ {_VALUE} | humanizePercentage }}}}", lambda value: f"{100.0 * value:.4g}%"),
    "1": _Format(f'{{{{ {_VALUE} | printf "%.4g" }}}}', lambda value: f"{value:.4g}"),
    **{
        unit: _Format(f'{{{{ {_VALUE} | printf "%.4g" }}}} {unit}', lambda value, unit=unit: f"{value:.4g} {unit}")  # type: ignore[misc]
        for unit in ("per hour", "messages", "bars", "restarts")
    },
}


def _rule(
    entry: Row | Alert,
    key: str,
    level: str,
    op: str,
    bound: float,
    for_s: int,
    labels: Mapping[str, str],
    told: str,
) -> AlertRule:
    signal = entry.signal
    on = f"and on ({', '.join(signal.labels)})"
    expr = f"{entry.record or entry.expr} {op} {number_promql(bound)}"
    for guard in filter(None, (entry.min_count, signal.guard())):
        expr += f" {on} {guard}"
    of = "".join(f", {label} {{{{ $labels.{label} }}}}" for label in signal.by)
    annotations = {
        "summary": f"{entry.title}{of}: {_FORMATS[entry.unit].template}",
        "description": f"{_at(op, bound, entry.unit).capitalize()} for {duration_text(for_s)}.{told}",
        "title_zh": entry.title_zh,
        "runbook_url": f"{RUNBOOK}#{entry.runbook}",
    }
    return AlertRule(_name(key), entry, level, op, bound, expr, for_s, labels, annotations)


def _at(op: str, bound: float, unit: str, *, keep: bool = False) -> str:
    """Return a side of a level in words: how it is broken, or what keeps it."""
    words = {">": ("above ", "at most "), "<": ("below ", "at least ")}[op]
    return words[keep] + _FORMATS[unit].render(bound)


def _name(key: str) -> str:
    return "Divergence" + "".join(part[:1].upper() + part[1:] for part in key.split("_"))


def _groups(groups: Mapping[str, Any]) -> dict[str, Any]:
    return {"groups": [{"name": name, "rules": [rule.body() for rule in rules]} for name, rules in groups.items()]}
