"""One time series and its value: what the hot path holds in its hand.

Made by `v13.telemetry.metrics`, never by itself. No lock is taken here: one thread writes (the runner's), others only
read. A lock would cost twice what the rest of `inc` does (0.17 against 0.05 us), several times a message.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import index
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from v13.errors import V13Error
from v13.telemetry.catalogue import Metric

__all__ = ["Counter", "Gauge", "Handle", "Histogram", "Reading", "Value", "label_pairs", "number_text"]

Value: TypeAlias = float | tuple[list[int], float]  # a number; a histogram's counts by bucket, not cumulative, and sum
Reading: TypeAlias = Value | Callable[[], float]  # or what to ask for it


class Handle:
    """One series; what its kind cannot do raises V13Error."""

    __slots__ = ("labels", "metric", "prefix")

    def __init__(self, metric: Metric, values: Sequence[str]) -> None:
        self.metric = metric
        self.labels = dict(zip((label.name for label in metric.labels), values, strict=True))
        self.prefix: tuple[str, ...] = (f"{metric.name}{label_pairs(self.labels)} ",)

    def inc(self, n: int = 1) -> None:
        """Add n."""
        raise self._refusal(f"inc({n})")

    def set(self, value: float) -> None:
        """Set the value."""
        raise self._refusal(f"set({value})")

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask a function for the value at each scrape, in the exporter's thread; it costs the hot path nothing."""
        raise self._refusal(f"set_function({function!r})")

    def observe(self, value: float) -> None:
        """Enter one observation."""
        raise self._refusal(f"observe({value})")

    def observe_many(self, values: ArrayLike) -> None:
        """Enter many observations at once."""
        raise self._refusal(f"observe_many({values!r})")

    def read(self) -> Reading:
        """Return a copy of the value."""
        raise NotImplementedError

    def _refusal(self, call: str) -> V13Error:
        return V13Error(f"{self.metric.name} is a {self.metric.kind}: {call} is not for it")


class Counter(Handle):
    """A count that never falls."""

    __slots__ = ("value",)

    def __init__(self, metric: Metric, values: Sequence[str]) -> None:
        super().__init__(metric, values)
        self.value = 0

    def inc(self, n: int = 1) -> None:
        """Add n, a whole number, >= 0; V13Error if negative."""
        if n < 0:
            raise V13Error(f"{self.metric.name}: a counter cannot fall, found {n}")
        self.value += index(n)

    def read(self) -> Reading:
        """Return the count."""
        return self.value


class Gauge(Handle):
    """A value that goes up and down."""

    __slots__ = ("value",)

    def __init__(self, metric: Metric, values: Sequence[str]) -> None:
        super().__init__(metric, values)
        self.value: float | Callable[[], float] = 0.0

    def set(self, value: float) -> None:
        """Set the value; NaN and infinities may stand."""
        self.value = float(value)

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask `function` for the value at each scrape, in the exporter's thread, until `set` is called."""
        self.value = function

    def read(self) -> Reading:
        """Return the value, or the function to ask."""
        return self.value


class Histogram(Handle):
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, metric: Metric, values: Sequence[str]) -> None:
        super().__init__(metric, values)
        self.bounds = list(metric.buckets)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        bounds = [number_text(bound) for bound in (*self.bounds, float("inf"))]
        prefix = [f"{metric.name}_bucket{label_pairs({**self.labels, 'le': bound})} " for bound in bounds]
        if metric.has_sum:
            prefix += [f"{metric.name}_{ending}{label_pairs(self.labels)} " for ending in ("count", "sum")]
        self.prefix = tuple(prefix)

    def observe(self, value: float) -> None:
        """Enter one observation: finite, else V13Error, as one NaN would spoil the sum for good."""
        if value - value != 0.0:  # NaN and infinities; cheaper than math.isfinite
            raise V13Error(f"{self.metric.name}: expected a finite observation, found {value}")
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += float(value)  # a float32 would make the sum one

    def observe_many(self, values: ArrayLike) -> None:
        """Enter observations of any shape and count, all or none.

        Parameters
        ----------
        values : array of float64, finite
            The same buckets as one `observe` each; the sum may differ in its last bits, being added pairwise.

        Raises
        ------
        V13Error
            A value is NaN or infinite; nothing was entered.
        """
        flat = np.asarray(values, dtype=np.float64).ravel()
        if not np.isfinite(flat).all():
            bad = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise V13Error(f"{self.metric.name}: expected finite observations, found {flat[bad]} at {bad}")
        added = np.bincount(np.searchsorted(self.bounds, flat, side="left"), minlength=len(self.counts))
        for bucket in np.flatnonzero(added).tolist():
            self.counts[bucket] += int(added[bucket])
        self.total += float(flat.sum())

    def read(self) -> Reading:
        """Return the counts and the sum."""
        return self.counts.copy(), self.total


def label_pairs(labels: dict[str, str]) -> str:
    """Return labels as the exposition formats write them, sorted by name; the empty string for none."""
    if not labels:
        return ""
    escaped = {k: v.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for k, v in sorted(labels.items())}
    return "{" + ",".join(f'{k}="{v}"' for k, v in escaped.items()) + "}"


def number_text(value: float) -> str:
    """Return a number as the exposition formats write it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0.0 else "-Inf"
