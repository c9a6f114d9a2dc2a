"""Latencies in a closure: the log has no times, so what is held against it is how many there are.

A quantile is held against the scraped buckets: the query shows what was measured. That it was measured right is a
matter of benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.release.closure_checks import HAIR, Check, own_queries, panel_of
from v13.release.closure_row import Chain
from v13.release.promql import bucket_of, bucket_quantile, increase
from v13.release.reckoning import Labels, Logged, Reckoning, labelled
from v13.release.scrapes import TARGET_LABELS, Window, samples, target_of
from v13.telemetry.catalogue import find
from v13.telemetry.panels import Panel, Shelf
from v13.telemetry.prometheus import Prometheus, Series
from v13.telemetry.queries import Query
from v13.telemetry.queries import counted as counted_query

__all__ = ["latency_checks"]

F64 = NDArray[np.float64]

STAGES: Final = {
    "detection": "divergence_detection_latency_seconds",
    "event": "divergence_event_latency_seconds",
    "pipeline": "divergence_pipeline_latency_seconds",
    "commit": "divergence_commit_seconds",
}
_SINGLE: Final = {  # panel -> metric, and what its own queries show: quantile and labels
    "compute_latency": ("detection", ((0.95, "source"), (0.5, ""), (0.99, ""))),
    "event_latency": ("event", ((0.5, ""), (0.99, ""))),
    "pipeline_latency": ("pipeline", ((0.5, ""), (0.99, ""))),
}


def latency_checks(
    shelves: Iterable[Shelf], reckoning: Reckoning, prometheus: Prometheus, closure_ratio: float
) -> Iterator[Check]:
    """Yield the checks of the latency panels.

    Parameters
    ----------
    shelves : of `telemetry.overview.overview`
    reckoning : Reckoning
    prometheus : Prometheus
        Asked for scraped samples.
    closure_ratio : float
        Share of its bars that a runner need not have timed: those that close several at once.

    Raises
    ------
    ConfigError, DataError, V13Error
        See `Prometheus.instant`; V13Error also where the dashboard lacks a panel.
    """
    panels = tuple(shelves)
    window = reckoning.window
    table = panel_of(panels, "latency_in_range")
    yield from _numbers(reckoning, prometheus, table, closure_ratio)
    scraped = {
        stage: _Scraped(name, samples(prometheus, f"{name}_bucket", window), window) for stage, name in STAGES.items()
    }
    for column, query in zip(table.columns, own_queries(table), strict=True):
        q = float(column.name.removeprefix("P")) / 100.0
        expected = {labelled(stage=stage): found[()] for stage, own in scraped.items() if (found := own.quantiles(q))}
        yield Check("latency", table, query, column.unit, expected, column.name)
    for key, (stage, shown) in _SINGLE.items():
        panel = panel_of(panels, key)
        for query, (q, by) in zip(own_queries(panel), shown, strict=True):
            yield Check(
                "latency", panel, query, panel.unit, scraped[stage].quantiles(q, *filter(None, (by,))), f"P{100 * q:g}"
            )


class _Scraped:
    """The buckets of a histogram as they were scraped."""

    def __init__(self, name: str, series: list[Series], window: Window) -> None:
        self._upper = (*find(name).buckets, math.inf)
        self._told: dict[Labels, dict[str, float]] = {}  # labels -> bound -> increase as PromQL tells it
        for one in series:
            own = {k: v for k, v in one.labels.items() if k not in ("__name__", *TARGET_LABELS, "le")}
            bound = repr(float(one.labels["le"]))
            grown = increase(one.ts_s, one.values, window.start_s, window.end_s, zero_last=window.zero_last)
            told = self._told.setdefault(labelled(**own), {})
            told[bound] = told.get(bound, 0.0) + grown.told

    def quantiles(self, q: float, *by: str) -> dict[Labels, tuple[Chain, ...]]:
        """Return what a quantile by labels must be."""
        sums: dict[Labels, F64] = {}
        for labels, told in self._told.items():
            key = tuple(pair for pair in labels if pair[0] in by)
            counts = np.array([told.get(repr(bound), 0.0) for bound in self._upper])
            sums[key] = sums.get(key, np.zeros(len(self._upper))) + counts
        found = {}
        for key, counts in sums.items():
            values = [
                bucket_quantile(nudged, self._upper, counts) for nudged in (q, q * (1.0 - HAIR), q * (1.0 + HAIR))
            ]
            found[key] = tuple(self._chain(value) for value in values)
        return found

    def _chain(self, value: float) -> Chain:
        low, high = bucket_of(value, self._upper) if not math.isnan(value) else (0.0, 1.0)
        width = (high if math.isfinite(high) else low) - max(low, 0.0)
        return Chain(value, value, value, value, value, slack=width, scale=width or high, in_log=False)


def _numbers(reckoning: Reckoning, prometheus: Prometheus, table: Panel, closure_ratio: float) -> Iterator[Check]:
    """How often was timed against how often there was something to time."""
    window = reckoning.window
    pipeline, detection = (f"{STAGES[stage]}_count" for stage in ("pipeline", "detection"))
    timed = {name: _by_target(samples(prometheus, name, window)) for name in (pipeline, detection)}
    bars = _by_target(samples(prometheus, "divergence_bars_total", window))
    if not any(values.values[-1] > 0 for of in timed.values() for values in of.values()):
        return  # a replay at full speed times nothing: it has no time of one bar, and no receipt
    (ways,) = reckoning.series(STAGES["pipeline"])
    firsts = {target: float(one.values[0]) for target, one in timed[pipeline].items()}
    yield Check(
        "latency",
        table,
        Query(counted_query(pipeline, "")),
        "events",
        {(): (_life_chain(reckoning, ways, firsts),)},
        "times measured, receipt to commit (events and hints)",
    )
    yield Check(
        "latency",
        table,
        Query(counted_query(detection, "")),
        "bars",
        {(): (_bars_chain(window, timed[detection], bars, closure_ratio),)},
        "times measured, detection (bars)",
    )


def _life_chain(reckoning: Reckoning, series: Logged, firsts: Mapping[tuple[str, ...], float]) -> Chain:
    plain, aligned, raw, told = reckoning.levels(series, firsts).tolist()
    return Chain(plain, aligned, aligned, raw, told)


def _bars_chain(
    window: Window, timed: Mapping[tuple[str, ...], Series], bars: Mapping[tuple[str, ...], Series], ratio: float
) -> Chain:
    """Hold bars against the runner's count of them: of each process what came after its first scrape."""
    found = np.zeros(3)
    for scrapes in window.scrapes:
        own, all_bars = timed[scrapes.target], bars[scrapes.target].values
        expected = own.values.copy()
        for life in scrapes.lives:
            expected[life] = own.values[life][0] + all_bars[life] - all_bars[life][0]
        grown = increase(scrapes.ts_s, expected, window.start_s, window.end_s, zero_last=window.zero_last)
        found += all_bars[-1] - all_bars[0], grown.raw, grown.told
    aligned, raw, told = found.tolist()
    return Chain(aligned, aligned, aligned, raw, told, unexplained=ratio)


def _by_target(series: list[Series]) -> dict[tuple[str, ...], Series]:
    """Return one series a target, the sum of those there are."""
    found: dict[tuple[str, ...], Series] = {}
    for one in series:
        target = target_of(one.labels)
        if target in found:
            found[target] = Series(found[target].labels, one.ts_s, found[target].values + one.values)
        else:
            found[target] = one
    return found
