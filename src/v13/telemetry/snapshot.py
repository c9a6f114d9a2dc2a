"""The dashboard as it stands, asked of Prometheus: each panel with its own queries, answered.

It draws nothing (`snapshot_plots`) and writes nothing (`snapshot_page`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.errors import V13Error
from v13.telemetry.overview import MARKS, overview
from v13.telemetry.panels import Mark, Panel, Shelf
from v13.telemetry.prometheus import Prometheus, Series
from v13.telemetry.queries import MIN_STEP_S, Query, Scope, render
from v13.telemetry.slo import SloTable

__all__ = ["Answer", "Moment", "Snapshot", "buckets_of", "legend_of", "take"]

N_POINTS: Final = 240  # of a line: a plot is about 480 pixels wide
N_CELLS: Final = 60  # of a heat map, in time
MAX_RANGE_S: Final = 31 * 86_400
_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Answer:
    """A panel and what Prometheus said.

    Attributes
    ----------
    panel : Panel
    found : tuple of (Query, str, list of Series)
        Each query, as it was asked (variables filled in), and its answer.
    step_s : int, s
        Distance of two points of an answer along the range.
    """

    panel: Panel
    found: tuple[tuple[Query, str, list[Series]], ...]
    step_s: int

    @property
    def has_data(self) -> bool:
        """Tell whether there is a number in it."""
        return any(np.isfinite(series.values).any() for _, _, answer in self.found for series in answer)


@dataclass(frozen=True)
class Moment:
    """Something that happened at a time within the range."""

    ts_s: float
    text: str
    mark: Mark


@dataclass(frozen=True)
class Snapshot:
    """The whole dashboard at one time.

    Attributes
    ----------
    start_s, end_s : float, Unix seconds
    scope : Scope
    version : str
        Of the Prometheus server.
    shelves : tuple of (Shelf, tuple of Answer)
    moments : tuple of Moment
        In order of time.
    """

    start_s: float
    end_s: float
    scope: Scope
    version: str
    shelves: tuple[tuple[Shelf, tuple[Answer, ...]], ...]
    moments: tuple[Moment, ...]


def take(prometheus: Prometheus, table: SloTable, scope: Scope, end_s: float) -> Snapshot:
    """Ask Prometheus for all panels.

    Parameters
    ----------
    prometheus : Prometheus
    table : SloTable
    scope : Scope
        Its `step_s` is not used: points are as far apart as a plot of that range shows.
    end_s : float, Unix seconds
        The end of the range; what is asked once is asked for this time.

    Raises
    ------
    ConfigError, DataError, V13Error
        See `Prometheus.instant`. One query that fails fails all: a page with holes would read as a quiet runner.
    """
    if scope.range_s > MAX_RANGE_S:
        raise V13Error(f"expected a range of at most {MAX_RANGE_S // 86_400} days, found {scope.range_s:,} s")
    start_s = end_s - scope.range_s
    shelves = tuple(
        (shelf, tuple(_answer(prometheus, panel, scope, start_s, end_s) for panel in shelf.panels))
        for shelf in overview(table)
    )
    moments = [moment for mark in MARKS for moment in _moments(prometheus, mark, scope, start_s, end_s)]
    return Snapshot(
        start_s, end_s, scope, prometheus.version(), shelves, tuple(sorted(moments, key=lambda m: (m.ts_s, m.text)))
    )


def legend_of(query: Query, series: Series) -> str:
    """Return a series' name: the query's legend with its labels filled in."""
    if not query.legend:
        return ", ".join(f"{k}={v}" for k, v in sorted(series.labels.items()) if k != "__name__") or "value"
    return _LABEL.sub(lambda match: series.labels.get(match[1], ""), query.legend)


def buckets_of(answer: list[Series]) -> tuple[NDArray[np.float64], list[Series]]:
    """Turn cumulative buckets into one count a bucket.

    Parameters
    ----------
    answer : list of Series
        Each with a label `le`.

    Returns
    -------
    upper : (n,) float64, ascending
        Upper bounds; the last one may be infinite.
    counts : list of n Series
        Count of each bucket alone, at least 0; times as of its own series.
    """
    ordered = sorted(answer, key=lambda series: float(series.labels["le"]))
    counts: list[Series] = []
    below: dict[float, float] = {}
    for series in ordered:
        # Extrapolation of `increase` can leave a bucket a hair below the one it holds.
        here = dict(zip(series.ts_s.tolist(), np.nan_to_num(series.values).tolist(), strict=True))
        alone = [max(0.0, value - below.get(ts, 0.0)) for ts, value in here.items()]
        counts.append(replace(series, values=np.array(alone)))
        below = here
    return np.array([float(series.labels["le"]) for series in ordered]), counts


def _answer(prometheus: Prometheus, panel: Panel, scope: Scope, start_s: float, end_s: float) -> Answer:
    step_s = _step_s(scope, panel.kind == "heatmap")
    stepped = replace(scope, step_s=step_s)
    found = []
    for query in panel.queries:
        asked = render(query.expr, stepped)
        once = query.instant
        answer = prometheus.instant(asked, end_s) if once else prometheus.range(asked, start_s, end_s, step_s)
        found.append((query, asked, answer))
    return Answer(panel, tuple(found), step_s)


def _step_s(scope: Scope, is_heatmap: bool) -> int:
    if not is_heatmap:
        return max(scope.scrape_s, math.ceil(scope.range_s / N_POINTS))
    # As wide as Grafana's, unless the whole range is so short that nothing would be left.
    return max(min(MIN_STEP_S, 4 * scope.scrape_s), math.ceil(scope.range_s / N_CELLS))


def _moments(prometheus: Prometheus, mark: Mark, scope: Scope, start_s: float, end_s: float) -> list[Moment]:
    if not mark.expr:
        return []
    step_s = _step_s(scope, is_heatmap=False)
    found = []
    for series in prometheus.range(render(mark.expr, replace(scope, step_s=step_s)), start_s, end_s, step_s):
        text = legend_of(Query(mark.expr, mark.text), series)
        if mark.is_time:
            times = sorted(set((series.values / 1_000.0).tolist()))
        else:  # the first point of each stretch
            is_first = np.diff(series.ts_s, prepend=-math.inf) > 1.5 * step_s
            times = series.ts_s[is_first].tolist()
        found += [Moment(ts_s, text, mark) for ts_s in times if start_s <= ts_s <= end_s]
    return found
