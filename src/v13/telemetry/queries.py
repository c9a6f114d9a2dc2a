"""The dashboard's PromQL: each query with its legend, and its variables filled in as Grafana would.

It holds no threshold and no expression of an SLO: those are the SLO table's, and are read by their recording rules.
Names of metrics are checked against the catalogue when a query is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from v13.errors import V13Error
from v13.telemetry.catalogue import PROCESS, find
from v13.telemetry.signals import FOREIGN

__all__ = [
    "BY_SOURCE",
    "MIN_STEP_S",
    "VARIABLES",
    "Query",
    "Scope",
    "counted",
    "histogram",
    "per_hour",
    "quantile",
    "render",
    "selector",
]

MIN_STEP_S: Final = 60  # a cell of a heat map holds several scrapes, or their jitter would show
BY_SOURCE: Final = 'source=~"$source"'

# Ours first, then what Grafana fills in by itself.
VARIABLES: Final = ("source", "symbol", "window", "__range", "__interval", "__rate_interval")
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SPECIAL: Final = re.compile(r"[\\^$*+?.()|{}\[\]]")
_ENDINGS: Final = ("_bucket", "_sum", "_count")
_FOREIGN: Final = (*FOREIGN, "ALERTS")


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes
    ----------
    expr : str
        PromQL; may hold `$source`, `$symbol`, `$window` and Grafana's `$__range`, `$__interval`, `$__rate_interval`.
    legend : str
        Name of a series, with its labels in double braces.
    instant : bool
        Asked once, for the end of the time range, instead of along it.
    is_alerted : bool
        It is the very signal that alerts compare, and stands out in a plot.
    cumulative : bool
        Series are cumulative buckets (label `le`), to be shown as one count a bucket.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    cumulative: bool = False
    is_alerted: bool = False


@dataclass(frozen=True)
class Scope:
    """What the variables of a dashboard are set to.

    Attributes
    ----------
    range_s : int, s, >= 1
        Length of the time range.
    scrape_s : int, s, >= 1
        Scrape interval the data source is told: the SLO table's.
    sources, symbols : tuple of str
        Chosen values; empty is all.
    window_s : int, s, >= 1
        `$window`: over how long rolling figures are taken.
    step_s : int, s, >= 1
        Distance of two points along the range.

    Raises
    ------
    V13Error
        A length is below a second.
    """

    range_s: int
    scrape_s: int
    sources: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    window_s: int = 3_600
    step_s: int = MIN_STEP_S

    def __post_init__(self) -> None:
        for name in ("range_s", "window_s", "step_s", "scrape_s"):
            if getattr(self, name) < 1:
                raise V13Error(f"{name}: expected a second or more, found {getattr(self, name)}")

    def values(self) -> Mapping[str, str]:
        """Return what each variable becomes.

        Notes
        -----
        `$__rate_interval` as Grafana's Prometheus data source has it: the larger of `$__interval` plus a scrape and
        four scrapes. Chosen values are joined as it joins several for a regular expression.
        """
        return {
            "source": _chosen(self.sources),
            "symbol": _chosen(self.symbols),
            "window": f"{self.window_s}s",
            "__range": f"{self.range_s}s",
            "__interval": f"{self.step_s}s",
            "__rate_interval": f"{max(self.step_s + self.scrape_s, 4 * self.scrape_s)}s",
        }


def render(expr: str, scope: Scope) -> str:
    """Return a query with its variables filled in.

    Raises
    ------
    V13Error
        It names a variable the dashboard does not have.
    """
    values = scope.values()

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise V13Error(f"{expr}: ${name} is no variable of the dashboard; there are {', '.join(VARIABLES)}")
        return values[name]

    return _VARIABLE.sub(value, expr)


def selector(name: str, *matchers: str) -> str:
    """Return the selector of a metric.

    Parameters
    ----------
    name : str
        Of the catalogue, the process's, Prometheus's own, or the closure watcher's; a histogram's with its ending.
    matchers : str
        Such as `source=~"$source"`.

    Raises
    ------
    V13Error
        Nobody exports that name.
    """
    if name not in _FOREIGN and name not in PROCESS:
        ending = next((e for e in _ENDINGS if name.endswith(e)), "")
        metric = find(name.removesuffix(ending))
        if (metric.kind == "histogram") != bool(ending) or (ending in _ENDINGS[1:] and not metric.has_sum):
            raise V13Error(f"{name}: {metric.name} is a {metric.kind} and has no such series")
    return f"{name}{{{','.join(matchers)}}}" if matchers else name


def counted(name: str, by: str, *matchers: str, over: str = "$__range") -> str:
    """Return how often something happened over a time, by labels.

    Parameters
    ----------
    name : str
        A counter.
    by : str
        Labels, comma-separated; empty for one number.
    matchers : str
        See `selector`.
    over : str
        Length of time, PromQL.

    Notes
    -----
    `increase` extrapolates to the ends of that time, so a count is whole only where a scrape falls on either end.
    """
    return f"{_sum(by)} (increase({selector(name, *matchers)}[{over}]))"


def per_hour(name: str, by: str, *matchers: str, over: str = "$window") -> str:
    """Return the rate of a counter, an hour and active symbol, by labels; see `counted`."""
    symbols = f"scalar(clamp_min(sum({selector('divergence_active_symbols')}), 1))"
    return f"{_sum(by)} (rate({selector(name, *matchers)}[{over}])) * 3600 / {symbols}"


def quantile(q: float, name: str, by: str, *matchers: str, over: str = "$window") -> str:
    """Return a quantile of a histogram over a time, by labels; NaN where nothing was observed.

    Parameters
    ----------
    q : float, in (0, 1)
    name : str
        A histogram, without ending.
    by, matchers, over
        See `counted`.
    """
    if not 0.0 < q < 1.0 or not math.isfinite(q):
        raise V13Error(f"{name}: expected a quantile between 0 and 1, found {q}")
    buckets = f"rate({selector(f'{name}_bucket', *matchers)}[{over}])"
    return f"histogram_quantile({q:g}, {_sum(f'le, {by}' if by else 'le')} ({buckets}))"


def histogram(name: str, *matchers: str, over: str) -> str:
    """Return the cumulative buckets of a histogram over a time, summed over all labels but `le`."""
    return counted(f"{name}_bucket", "le", *matchers, over=over)


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"


def _chosen(values: tuple[str, ...]) -> str:
    if not values:
        return ".*"
    # Twice: once for the regular expression, once for the string of PromQL that holds it.
    escaped = [_SPECIAL.sub(lambda m: "\\\\" * (2 if m[0] == "\\" else 1) + m[0] * (m[0] != "\\"), v) for v in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
