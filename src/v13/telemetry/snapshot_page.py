"""A snapshot as one static HTML page that loads nothing: for deploy records, and for those without Grafana."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from v13.telemetry.panels import GRADES, Panel, grade_of
from v13.telemetry.prometheus import Series
from v13.telemetry.snapshot import Answer, Snapshot
from v13.telemetry.snapshot_plots import plot
from v13.telemetry.units import quantity, span

__all__ = ["broken_levels", "snapshot_page"]

_TEMPLATES: Final = Path(__file__).parent / "templates"
_HIDDEN: Final = ("__name__", "job", "instance")
MAX_MOMENTS: Final = 50


def snapshot_page(snapshot: Snapshot, source: str) -> str:
    """Return the page.

    Parameters
    ----------
    snapshot : Snapshot
    source : str
        Which Prometheus was asked, for the reader; without a password.

    Returns
    -------
    str, HTML
        Equal snapshots give equal pages.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    answers = [answer for _, found in snapshot.shelves for answer in found]
    scope = snapshot.scope
    moments = snapshot.moments[:MAX_MOMENTS]
    return environment.get_template("snapshot.html.j2").render(
        start=_moment(snapshot.start_s),
        end=_moment(snapshot.end_s),
        length=span(scope.range_s),
        window=span(scope.window_s),
        sources=", ".join(scope.sources) or "all",
        symbols=", ".join(scope.symbols) or "all",
        source=source,
        version=snapshot.version,
        broken=broken_levels(snapshot),
        unknown=[a.panel.title for a in answers if a.panel.kind == "stat" and a.panel.limits and not a.has_data],
        n_panels=len(answers),
        n_empty=sum(not answer.has_data for answer in answers),
        empty=list(dict.fromkeys(answer.panel.title for answer in answers if not answer.has_data)),
        moments=[{"at": _moment(m.ts_s), "text": m.text, "grade": GRADES[m.mark.grade]} for m in moments],
        n_moments=len(snapshot.moments),
        shelves=[(shelf.title, [_shown(answer, snapshot) for answer in found]) for shelf, found in snapshot.shelves],
    )


def broken_levels(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """Return the numbers that break a level now: title, value, and one of GRADES; the worst first.

    Notes
    -----
    Without the durations of the rules: what is listed need not fire, and may be over in a minute.
    """
    found = []
    for _, answers in snapshot.shelves:
        for answer in answers:
            panel = answer.panel
            if panel.kind != "stat" or not panel.limits:
                continue
            for value in _numbers(answer):
                grade = grade_of(panel.limits, value)
                if grade:
                    found.append((grade, panel.title, quantity(value, panel.unit)))
    return [(title, value, GRADES[grade]) for grade, title, value in sorted(found, key=lambda one: -one[0])]


def _shown(answer: Answer, snapshot: Snapshot) -> dict[str, Any]:
    panel = answer.panel
    shown: dict[str, Any] = {
        "key": panel.key,
        "title": panel.title,
        "about": panel.about,
        "kind": panel.kind,
        "width": panel.width,
        "queries": [asked for _, asked, _ in answer.found],
        "has_data": answer.has_data,
    }
    if panel.kind == "stat":
        shown["tiles"] = [_tile(panel, value) for value in _numbers(answer)] or [_tile(panel, math.nan)]
    elif panel.kind == "table":
        shown["head"], shown["rows"] = _table(answer)
    elif answer.has_data:
        picture = plot(answer, snapshot.start_s, snapshot.end_s, snapshot.moments)
        shown["picture"] = base64.b64encode(picture).decode()
    return shown


def _tile(panel: Panel, value: float) -> dict[str, str]:
    if math.isnan(value):
        return {"text": "no data", "grade": "unknown"}
    if value in panel.words:
        text, grade = panel.words[int(value)]
        return {"text": text, "grade": GRADES[grade]}
    grade = max((grade for low, grade in panel.graded if value >= low), default=grade_of(panel.limits, value))
    is_judged = bool(panel.words or panel.limits or panel.graded)
    return {"text": quantity(value, panel.unit), "grade": GRADES[grade] if is_judged else "plain"}


def _numbers(answer: Answer) -> list[float]:
    return [
        float(series.values[-1])
        for _, _, found in answer.found
        for series in found
        if series.values.size and not math.isnan(series.values[-1])
    ]


def _table(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Put the answers side by side: a row a label set, a column a query."""
    labels = sorted({k for _, _, found in answer.found for s in found for k in s.labels if k not in _HIDDEN})
    rows: dict[tuple[str, ...], list[str]] = {}
    for number, (series, column) in enumerate(_columns(answer)):
        for one in series:
            key = tuple(one.labels.get(label, "") for label in labels)
            cells = rows.setdefault(key, [""] * len(answer.panel.columns))
            cells[number] = quantity(float(one.values[-1]), column)
    ordered = sorted(
        rows.items(), key=lambda row: [(len(part), part) if part.isdigit() else (99, part) for part in row[0]]
    )
    return [*labels, *(column.name for column in answer.panel.columns)], [[*key, *cells] for key, cells in ordered]


def _columns(answer: Answer) -> Iterator[tuple[Sequence[Series], str]]:
    for (_, _, found), column in zip(answer.found, answer.panel.columns, strict=True):
        yield [series for series in found if np.isfinite(series.values[-1])], column.unit


def _moment(ts_s: float) -> str:
    return datetime.fromtimestamp(ts_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
