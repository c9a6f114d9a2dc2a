"""A closure for people: a table of every figure, and a line of what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from v13.release.closure import Closure
from v13.release.closure_row import FAMILIES, PARTS, UNEXPLAINED, ClosureRow

__all__ = ["conclusion", "percent", "table"]

HEAD: Final = ("figure", "dashboard", "event log", "difference", "explained by", "unexplained")
TITLES: Final = {
    "events": "Event counts and rates",
    "scores": "Score distribution",
    "hit_rate": "Outcomes and hit rate",
    "latency": "Latency",
}
NOTHING: Final = 1e-9  # of a figure: rounding


def table(closure: Closure) -> str:
    """Return the figures by family and panel.

    Buckets of a histogram that agree are told in one line; what does not close is marked.
    """
    lines: list[tuple[str, ...]] = [HEAD]
    for family in FAMILIES:
        rows = closure.of(family)
        if not rows:
            continue
        error = closure.errors[family]
        lines += [("",) * 6, (f"{TITLES[family]} (worst unexplained {percent(error)})",) + ("",) * 5]
        for panel in dict.fromkeys(row.panel for row in rows):
            lines.append((f"  {panel}",) + ("",) * 5)
            lines += _panel([row for row in rows if row.panel == panel])
    widths = [max(len(line[i]) for line in lines if any(line[1:])) for i in range(len(HEAD))]
    return "\n".join(_set(line, widths) for line in lines) + "\n"


def conclusion(closure: Closure) -> str:
    """Return what it comes to, in some lines."""
    start, end = (
        datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M:%S") for s in (closure.start_s, closure.end_s)
    )
    open_rows = [row for row in closure.rows if not row.is_closed]
    errors = ", ".join(f"{family} {percent(error)}" for family, error in closure.errors.items())
    lines = [
        f"{start} to {end} UTC: {closure.n_events} divergences, {closure.n_scrapes} scrapes of "
        f"{closure.n_lives} process{'es' if closure.n_lives != 1 else ''}",
        *(f"note: {note}" for note in closure.notes),
        f"worst unexplained: {errors}",
    ]
    if closure.n_events == 0:
        lines.append("note: there was no event in this window, so there was little to compare")
    if open_rows:
        lines.append(f"NOT CLOSED: {len(open_rows)} of {len(closure.rows)} figures, marked above")
    else:
        lines.append(
            f"CLOSED: {len(closure.rows)} figures, each within {percent(UNEXPLAINED)} but for what explains it"
        )
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    """Return a share for people; what is rounding is nothing."""
    return "0 %" if share < NOTHING else f"{100.0 * share:.2g} %"


def _panel(rows: list[ClosureRow]) -> Iterator[tuple[str, ...]]:
    alike = [row for row in rows if row.label.startswith("le ") and row.is_closed and not row.difference]
    yield from (_cells(row) for row in rows if row not in alike)
    if alike:
        total = next((row.shown for row in alike if row.label == "le +Inf"), math.nan)
        yield f"    {len(alike)} buckets, alike", _number(total), _number(total), "0", "", "0"


def _cells(row: ClosureRow) -> tuple[str, ...]:
    scale = max(abs(row.shown), row.chain.scale) if not math.isnan(row.shown) else 1.0
    parts = [f"{name} {row.parts[name]:+.4g}" for name in PARTS if abs(row.parts[name]) > NOTHING * scale]
    difference = 0.0 if abs(row.difference) <= NOTHING * scale else row.difference
    unexplained = 0.0 if abs(row.unexplained) <= NOTHING * scale else row.unexplained
    in_log = row.chain.in_log
    return (
        f"    {row.label or 'all'}",
        _number(row.shown),
        _number(row.logged) if in_log else "not in it",
        _number(difference) if in_log else "",
        ", ".join(parts),
        _number(unexplained) + ("" if row.is_closed else "  NOT CLOSED"),
    )


def _set(line: tuple[str, ...], widths: list[int]) -> str:
    if not any(line[1:]):
        return line[0]
    first, *numbers, parts, last = line
    cells = [first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:4], strict=True))]
    return "  ".join([*cells, parts.ljust(widths[4]), last]).rstrip()


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.6g}"
