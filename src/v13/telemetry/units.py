"""Units of what panels show: how Grafana is told of them, and how they are written on a page."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from v13.errors import V13Error

__all__ = ["grafana_unit", "quantity", "span"]


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit, three digits, as people write it.

    Parameters
    ----------
    value : float
        In base units: seconds, shares of 1, bytes. NaN reads `no data`.
    unit : str
        See `grafana_unit`.

    Raises
    ------
    V13Error
        The unit is not known.
    """
    if unit not in _UNITS:
        raise V13Error(f"unit {unit!r}: expected one of {', '.join(_UNITS)}")
    if math.isnan(value):
        return "no data"
    if math.isinf(value):
        return "-∞" if value < 0 else "∞"
    return _UNITS[unit][1](value)


def grafana_unit(unit: str) -> str:
    """Return Grafana's id of a unit.

    Parameters
    ----------
    unit : str
        `seconds`, `ratio` (a share of 1), `per hour`, `per second`, `bytes`, `bp` (basis points), `bars`, `messages`,
        `events`, `restarts`, `flag` (1 or 0), or `1`.

    Raises
    ------
    V13Error
        The unit is not known.
    """
    if unit not in _UNITS:
        raise V13Error(f"unit {unit!r}: expected one of {', '.join(_UNITS)}")
    return _UNITS[unit][0]


def span(seconds: float) -> str:
    """Return a length of time as the guide writes durations: `90 s`, `10 min`, `6 h`, `2 d`."""
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s"


def _digits(value: float) -> str:
    if value == 0.0:
        return "0"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(decimals, 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _seconds(value: float) -> str:
    size = abs(value)
    if size >= 300.0:
        for length, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
            if size >= length:
                return f"{_digits(value / length)} {name}"
    for length, name in ((1.0, "s"), (1e-3, "ms")):
        if size >= length:
            return f"{_digits(value / length)} {name}"
    return "0 s" if value == 0.0 else f"{_digits(value / 1e-6)} µs"


def _bytes(value: float) -> str:
    for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(value) >= 1 << power:
            return f"{_digits(value / (1 << power))} {name}"
    return f"{_digits(value)} B"


def _named(name: str) -> Callable[[float], str]:
    return lambda value: f"{_digits(value)} {name}"


_UNITS: Final[dict[str, tuple[str, Callable[[float], str]]]] = {
    "seconds": ("s", _seconds),
    # a share of 0.9995 is not 100 %
    "ratio": ("percentunit", lambda value: f"{100.0 * value:.4g} %"),
    "per hour": ("suffix: /h", _named("/h")),
    "per second": ("suffix: /s", _named("/s")),
    "bytes": ("bytes", _bytes),
    "bp": ("suffix: bp", _named("bp")),
    "bars": ("none", _digits),
    "messages": ("short", _digits),
    "events": ("short", _digits),
    "restarts": ("short", _digits),
    "flag": ("none", _digits),
    "1": ("none", _digits),
}
