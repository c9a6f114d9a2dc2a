"""The catalogue filled with numbers: every label set born at 0, cheap to count on, read as one by a scrape.

One thread writes: the runner's. Any thread may read. Nothing is global: each `Metrics` has a registry of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, product
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client import metrics_core as families
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from v13.errors import V13Error
from v13.telemetry.catalogue import CATALOGUE, HORIZON, SYMBOL, Label, Metric, find
from v13.telemetry.series import Counter, Gauge, Handle, Histogram, Value, number_text

__all__ = ["Metrics"]

_KINDS: Final[dict[str, type[Handle]]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram, "info": Gauge}
_LIBRARY: Final[dict[bool, Callable[[CollectorRegistry], bytes]]] = {False: generate_latest, True: generate_openmetrics}


class Metrics(Collector):
    """All metrics of one runner.

    Parameters
    ----------
    horizons : sequence of int, bars, >= 1
        Values of the label `horizon`.
    symbols : sequence of str
        Values of the label `symbol`; `set_symbols` changes them.

    Attributes
    ----------
    registry : prometheus_client.CollectorRegistry
        These metrics and the process's, for any tool that takes a registry.

    Notes
    -----
    A runner that resumes its counters from the event log must do so *before* the exporter starts: a scrape of zeros
    followed by the resumed counts reads as a restart and doubles every increase over that time.
    """

    def __init__(self, horizons: Sequence[int], symbols: Sequence[str] = ()) -> None:
        if not horizons or len(set(horizons)) != len(horizons) or min(horizons) < 1:
            raise V13Error(f"horizons: expected different whole numbers of bars, at least one, found {list(horizons)}")
        self._lock = threading.RLock()
        self._open = {HORIZON: tuple(str(h) for h in horizons), SYMBOL: _distinct(symbols)}
        self._series: dict[str, dict[tuple[str, ...], Handle]] = {metric.name: {} for metric in CATALOGUE}
        for metric in CATALOGUE:
            if metric.kind != "info":
                self._bear(metric)
        process = ProcessCollector(registry=None)
        self._process = CollectorRegistry()
        self._process.register(process)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.registry.register(process)

    def bind(self, name: str, /, **labels: object) -> Handle:
        """Return the handle of one series, for the hot path to keep.

        Parameters
        ----------
        name : str
            Of the catalogue, and no info metric.
        labels
            All labels of the metric; a value may be an int.

        Raises
        ------
        V13Error
            The name, a label or a value is not in the catalogue.
        """
        metric = find(name)
        if metric.kind == "info":
            raise V13Error(f"{name} is an info metric: its labels are its value, see set_info")
        values = self._values(metric, labels)
        handle = self._series[name].get(values)
        if handle is None:  # every allowed label set was born
            allowed = "; ".join(f"{label.name}: {', '.join(self._allowed(label))}" for label in metric.labels)
            raise V13Error(f"{name}: no series {labels}; allowed are {allowed}")
        return handle

    def inc(self, name: str, n: int = 1, /, **labels: object) -> None:
        """Add n to a counter; see `Counter.inc`."""
        self.bind(name, **labels).inc(n)

    def set(self, name: str, value: float, /, **labels: object) -> None:
        """Set a gauge; see `Gauge.set`."""
        self.bind(name, **labels).set(value)

    def observe(self, name: str, value: float, /, **labels: object) -> None:
        """Enter one observation into a histogram; see `Histogram.observe`."""
        self.bind(name, **labels).observe(value)

    def set_info(self, name: str, /, **labels: object) -> None:
        """Set an info metric: this label set becomes 1, the one before vanishes.

        Raises
        ------
        V13Error
            The metric is no info metric, or these are not its labels.
        """
        metric = find(name)
        if metric.kind != "info":
            raise V13Error(f"{name} is a {metric.kind}, not an info metric")
        values = self._values(metric, labels)
        fact = Gauge(metric, values)
        fact.set(1.0)
        with self._lock:
            self._series[name] = {values: fact}

    def set_symbols(self, symbols: Sequence[str]) -> None:
        """Make these the values of the label `symbol`: new ones are born at 0, others vanish, handles of the rest hold.

        A handle of a symbol that left may still be written to; nothing shows it.
        """
        with self._lock:
            self._open[SYMBOL] = _distinct(symbols)
            for metric in CATALOGUE:
                if SYMBOL in metric.labels:
                    self._bear(metric)

    def together(self) -> AbstractContextManager[object]:
        """Return a context in which changes become visible to a scrape at once or not at all.

        For what one commit counts: events, scores and outcomes then agree in every scrape. Keep it short.
        """
        return self._lock

    def collect(self) -> Iterable[families.Metric]:
        """Yield the families as prometheus_client has them."""
        for metric, series in self._snapshot():
            yield _family(metric, series)

    def describe(self) -> Iterable[families.Metric]:
        """Yield the families without samples, so that a registry knows the names."""
        for metric in CATALOGUE:
            yield _family(metric, [])

    def expose(self, *, openmetrics: bool = False) -> bytes:
        """Return what a scrape is answered with.

        Parameters
        ----------
        openmetrics : bool
            OpenMetrics 1.0 instead of the Prometheus text format 0.0.4.

        Returns
        -------
        bytes, UTF-8

        Notes
        -----
        The same content as `prometheus_client.generate_latest(self.registry)`, ten times as fast: that formats every
        label again at every scrape, while the runner's thread waits for the interpreter.
        """
        parts: list[str] = []
        for metric, series in self._snapshot():
            family, kind = metric.family, metric.kind
            if not openmetrics:
                family, kind = metric.name, "gauge" if kind == "info" else kind
            parts.append(f"# HELP {family} {metric.help}\n# TYPE {family} {kind}\n")
            if openmetrics and metric.exposed_unit:
                parts.append(f"# UNIT {family} {metric.exposed_unit}\n")
            for handle, value in series:
                for prefix, number in zip(handle.prefix, _numbers(metric, value), strict=True):
                    parts.append(f"{prefix}{number if number.__class__ is int else number_text(number)}\n")
        return "".join(parts).encode() + _LIBRARY[openmetrics](self._process)

    def _snapshot(self) -> list[tuple[Metric, list[tuple[Handle, Value]]]]:
        with self._lock:
            taken = [(metric, [(h, h.read()) for h in self._series[metric.name].values()]) for metric in CATALOGUE]
        # Functions are asked outside the lock, as they may take locks of their own.
        return [(metric, [(h, value() if callable(value) else value) for h, value in pairs]) for metric, pairs in taken]

    def _bear(self, metric: Metric) -> None:
        old = self._series[metric.name]
        allowed = product(*(self._allowed(label) for label in metric.labels))
        self._series[metric.name] = {v: old.get(v) or _KINDS[metric.kind](metric, v) for v in allowed}

    def _allowed(self, label: Label) -> tuple[str, ...]:
        return label.values or self._open[label]

    @staticmethod
    def _values(metric: Metric, labels: dict[str, object]) -> tuple[str, ...]:
        names = [label.name for label in metric.labels]
        if sorted(names) != sorted(labels):
            raise V13Error(f"{metric.name}: expected the labels {names}, found {list(labels)}")
        return tuple(str(labels[name]) for name in names)


def _distinct(symbols: Sequence[str]) -> tuple[str, ...]:
    if isinstance(symbols, str) or "" in symbols:
        raise V13Error(f"symbols: expected a sequence of names, found {symbols!r}")
    return tuple(dict.fromkeys(symbols))


def _numbers(metric: Metric, value: Value) -> list[float]:
    """Return the numbers of one series in the order of `Handle.prefix`."""
    if not isinstance(value, tuple):
        return [value]
    counts, total = value
    cumulative: list[float] = list(accumulate(counts))
    return [*cumulative, cumulative[-1], total] if metric.has_sum else cumulative


def _family(metric: Metric, series: list[tuple[Handle, Value]]) -> families.Metric:
    family = families.Metric(metric.family, metric.help, metric.kind, metric.exposed_unit)
    for handle, value in series:
        numbers = _numbers(metric, value)
        if metric.kind != "histogram":
            family.add_sample(metric.name, handle.labels, numbers[0])
            continue
        bounds = [number_text(bound) for bound in (*metric.buckets, float("inf"))]
        for bound, number in zip(bounds, numbers, strict=False):
            family.add_sample(f"{metric.name}_bucket", {**handle.labels, "le": bound}, number)
        for ending, number in zip(("count", "sum"), numbers[len(bounds) :], strict=False):
            family.add_sample(f"{metric.name}_{ending}", handle.labels, number)
    return family
