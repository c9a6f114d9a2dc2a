"""One look at every row of the SLO table for one process: value, count, and the level they stand at.

It asks Prometheus and judges one moment; for how long a level has been broken is the observer's business.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from v13.release.compare import instance_matcher
from v13.telemetry.prometheus import Prometheus, Series
from v13.telemetry.signal_kinds import Available, Ratio
from v13.telemetry.signals import CLOSURE_JOB, Signal
from v13.telemetry.slo import Alert, Level, Row, SloTable

__all__ = ["LEVELS", "Point", "SloReading", "entry_level", "read_points"]

LEVELS: Final = ("no_data", "too_few", "ok", "above_target", "alert", "rollback")  # the last one there is decides
LevelName = Literal["ok", "above_target", "alert", "rollback", "too_few", "no_data"]

_Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SloReading:
    """A row at one look.

    Attributes
    ----------
    row, title, unit : str
    value : float or None, in the unit
        The worst of the row's series; None where there is none.
    count : float or None
        What it goes by; None where nothing is counted.
    level : str
        Of this moment. ok, above_target (promised, not kept), alert and rollback (beyond that level of the table),
        too_few (less than the row's min_count), no_data.
    since_s : float or None, Unix seconds
        In that level since.
    note : str
        What else is to be said.
    """

    row: str
    title: str
    unit: str
    value: float | None
    count: float | None
    level: LevelName
    since_s: float | None
    note: str = ""


@dataclass(frozen=True)
class Point:
    """What Prometheus says of an entry: level, and value and count of the series that decides it."""

    level: LevelName
    value: float | None
    count: float | None


def read_points(
    table: SloTable,
    prometheus: Prometheus,
    *,
    instance: str,
    closure: str | None,
    now_s: float,
    since_s: float | None = None,
) -> dict[str, Point]:
    """Return where rows and alerts that have a recording rule stand, by key.

    Parameters
    ----------
    table : SloTable
    prometheus : Prometheus
    instance : str
        host:port of the runner.
    closure : str or None
        host:port of its closure watcher, whose series carry that and not the runner's; None: the runner's.
    now_s : float, Unix seconds
    since_s : float, Unix seconds, optional
        The process began then: no window reaches further back, where the same port belonged to somebody else. None:
        the recording rules as they are.

    Raises
    ------
    ConfigError, DataError, V13Error
        See `Prometheus.instant`.
    """
    own = {"runner": instance, "closure": closure or instance}
    recorded = prometheus.instant(f'{{__name__=~"v13:.+",{instance_matcher(tuple(own.values()))}}}', now_s)
    points = {}
    for entry in table.entries:
        if entry.record is None:
            continue
        of = own["closure" if entry.signal.selectors[0].job == CLOSURE_JOB else "runner"]
        count = entry.signal.count(entry.key)
        window_s = getattr(entry.signal, "window_s", None)
        if since_s is not None and window_s is not None and now_s - since_s < window_s:
            clipped = replace(entry.signal, window_s=max(1, math.floor(now_s - since_s)))  # type: ignore[call-arg]
            values = prometheus.instant(clipped.expr(entry.key), now_s)
            clipped_count = clipped.count(entry.key)
            counts = [] if clipped_count is None else prometheus.instant(clipped_count[1], now_s)
        else:
            values = _named(recorded, entry.record)
            counts = [] if count is None else _named(recorded, f"v13:{entry.key}:{count[0]}")
        points[entry.key] = _point(entry, _by_labels(values, of, entry.signal), _by_labels(counts, of, entry.signal))
    return points


def entry_level(entry: Row | Alert, value: float | None, count: float | None) -> LevelName:
    """Return the level of one series of a row or alert.

    Parameters
    ----------
    entry : Row or Alert
        An alert's one level reads as alert.
    value : float or None, in its unit
        NaN is a quantile of nothing.
    count : float or None
        What there is to go by.

    Notes
    -----
    Where the count is of what is bad (errors, seconds away), few of it is good: the value is then believed as far as
    the target, which asks for no count, and beyond no level that does. Where it is of evidence, too few say nothing.
    """
    has_few = entry.least > 0.0 and (count is None or not count >= entry.least)
    is_bad_counted = _counts_what_is_bad(entry.signal)
    if value is None or math.isnan(value):
        return "too_few" if has_few and count is not None and not is_bad_counted else "no_data"
    if has_few and not is_bad_counted:
        return "too_few"
    if not has_few:
        if isinstance(entry, Alert):
            return "alert" if _is_broken(entry.level, value) else "ok"
        if entry.rollback is not None and _is_broken(entry.rollback, value):
            return "rollback"
        if _is_broken(entry.alert, value):
            return "alert"
    return "above_target" if isinstance(entry, Row) and _is_broken(entry.target, value) else "ok"


def _is_broken(level: Level, value: float) -> bool:
    return any(value > bound if op == ">" else value < bound for op, bound in level.sides)


def _counts_what_is_bad(signal: Signal) -> bool:
    return isinstance(signal, Available) or (isinstance(signal, Ratio) and signal.counted == "part")


def _point(entry: Row | Alert, values: Mapping[_Key, float], counts: Mapping[_Key, float]) -> Point:
    level_of = entry.alert if isinstance(entry, Row) else entry.level
    found = []
    for key in dict.fromkeys((*values, *counts)):
        value, count = values.get(key), counts.get(key)
        level = entry_level(entry, value, count)
        told = _sayable(value)
        badness = -math.inf if told is None else max(told - b if op == ">" else b - told for op, b in level_of.sides)
        found.append((LEVELS.index(level), badness, Point(level, told, _sayable(count))))
    return max(found, key=lambda one: one[:2])[2] if found else Point("no_data", None, None)


def _sayable(value: float | None) -> float | None:
    """Return a number as JSON can say it: none for NaN, the largest there is for an infinity, which a ratio may be."""
    if value is None or math.isnan(value):
        return None
    return math.copysign(min(abs(value), sys.float_info.max), value)


def _named(series: Iterable[Series], name: str) -> list[Series]:
    return [one for one in series if one.labels.get("__name__") == name]


def _by_labels(series: Iterable[Series], instance: str, signal: Signal) -> dict[_Key, float]:
    return {
        tuple((label, one.labels.get(label, "")) for label in signal.by): float(one.values[-1])
        for one in series
        if one.labels.get("instance") == instance
    }
