"""The kinds of signal: quantile, share, rate an hour, availability, gauge, and what else a row may look at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from v13.errors import V13Error
from v13.telemetry.catalogue import find
from v13.telemetry.signals import Selector, Signal, duration_text, kind_of, number_promql

__all__ = [
    "STEP_S",
    "Absent",
    "Age",
    "Available",
    "Changes",
    "Gauge",
    "Increase",
    "PerHour",
    "Quantile",
    "Rate",
    "Ratio",
]

STEP_S: Final = 15  # of the subquery that integrates a gauge: an hour is off by a step at most, 0.4 %


@dataclass(frozen=True, kw_only=True)
class _OfOne(Signal):
    """What is made of the series of one metric."""

    of: Selector

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return (self.of,)


@dataclass(frozen=True, kw_only=True)
class Quantile(_OfOne):
    """A quantile of a histogram over a window."""

    made_for: ClassVar[tuple[str, ...]] = ("histogram",)
    q: float
    window_s: int

    @property
    def operation(self) -> str:
        return "median" if self.q == 0.5 else f"p{100 * self.q:g}"

    def expr(self, key: str) -> str:  # noqa: ARG002
        buckets = self._agg("sum", f"rate({self.of.text(self.window_s, ending='_bucket')})", "le")
        return f"histogram_quantile({self.q:g}, {buckets})"

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the range `histogram_quantile` answers in: what is beyond the last bound reads as that bound."""
        buckets = find(self.of.metric).buckets
        return (min(buckets[0], 0.0), buckets[-1])

    def count(self, key: str) -> tuple[str, str]:  # noqa: ARG002
        return "count", self._agg("sum", f"increase({self.of.text(self.window_s, ending='_bucket', le='+Inf')})")

    def check(self) -> None:
        super().check()
        if not 0.0 < self.q < 1.0:
            raise V13Error(f"expected a quantile between 0 and 1, found {self.q:g}")


@dataclass(frozen=True, kw_only=True)
class Ratio(Signal):
    """A share: increase of a part over that of all it belongs to; nothing where there was nothing."""

    made_for: ClassVar[tuple[str, ...]] = ("counter",)
    part: Selector
    of: tuple[Selector, ...]
    window_s: int
    counted: str = "whole"  # or part: what a minimum count is of

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return (self.part, *self.of)

    @property
    def operation(self) -> str:
        return "ratio"

    def expr(self, key: str) -> str:  # noqa: ARG002
        return f"{self._increase(self.part)} / ({self._whole()} > 0)"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def count(self, key: str) -> tuple[str, str]:  # noqa: ARG002
        return "count", self._increase(self.part) if self.counted == "part" else self._whole()

    def _increase(self, selector: Selector) -> str:
        return self._agg("sum", f"increase({selector.text(self.window_s)})")

    def _whole(self) -> str:
        return " + ".join(self._increase(selector) for selector in self.of)


@dataclass(frozen=True, kw_only=True)
class PerHour(Signal):
    """Events an hour of each of a number of things, such as active symbols, that comes and goes."""

    made_for: ClassVar[tuple[str, ...]] = ("counter", "gauge")
    events: Selector
    each: Selector
    window_s: int

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return (self.events, self.each)

    @property
    def operation(self) -> str:
        return "per_hour"

    def expr(self, key: str) -> str:  # noqa: ARG002
        return f"{self._agg('sum', f'increase({self.events.text(self.window_s)})')} / ({self._hours()} > 0)"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, math.inf)

    def count(self, key: str) -> tuple[str, str]:  # noqa: ARG002
        return "hours", self._hours()

    def check(self) -> None:
        super().check()
        for selector, kind in ((self.events, "counter"), (self.each, "gauge")):
            if kind_of(selector.metric) != kind:
                raise V13Error(f"{selector.metric} is a {kind_of(selector.metric)}; expected a {kind} in this place")

    def _hours(self) -> str:
        inner = self._agg("sum", self.each.text())
        window = f"[{duration_text(self.window_s)}:{duration_text(STEP_S)}]"
        return f"sum_over_time({inner}{window}) / {3_600 // STEP_S}"


@dataclass(frozen=True, kw_only=True)
class Available(Signal):
    """Share of a window the runner was up, warm and fed.

    A process that was never ready is given `warm_up_s`, which then counts as neither: a cold start is no outage, and
    would else roll itself back. One that was ready before has no such time.

    Attributes
    ----------
    evaluate_s : int, s
        How often Prometheus works it out: seconds away are a number of those times.
    """

    made_for: ClassVar[tuple[str, ...]] = ("flag",)
    window_s: int
    warm_up_s: int
    evaluate_s: int
    ready: ClassVar[Selector] = Selector("divergence_ready")
    up: ClassVar[Selector] = Selector("up")
    started: ClassVar[Selector] = Selector("process_start_time_seconds")

    @property
    def selectors(self) -> tuple[Selector, ...]:
        return (self.ready, self.up)

    @property
    def operation(self) -> str:
        return "ratio"

    def expr(self, key: str) -> str:
        name = next(iter(self.helpers(key)))
        return f"avg_over_time({name}[{duration_text(self.window_s)}])"

    def helpers(self, key: str) -> Mapping[str, str]:
        on = f"on ({', '.join(self.labels)})"
        now = f"({self._agg('min', self.ready.text())} or {on} {self._agg('max', self.up.text())} * 0)"
        never = f"max_over_time({self.ready.text(self.warm_up_s)}) == 0"
        young = f"time() - {self.started.text()} < {self.warm_up_s}"
        return {f"v13:{key}:now": f"{now} unless {on} ({never} and {on} {young})"}

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def count(self, key: str) -> tuple[str, str]:
        """Return the seconds away: of the first minute that is known a single one would be a large share."""
        samples = f"{next(iter(self.helpers(key)))}[{duration_text(self.window_s)}]"
        return "away", f"(count_over_time({samples}) - sum_over_time({samples})) * {self.evaluate_s}"


@dataclass(frozen=True, kw_only=True)
class Gauge(_OfOne):
    """A gauge as it stands, the worst of what it is not told apart by: `pick` is max or min."""

    made_for: ClassVar[tuple[str, ...]] = ("gauge", "flag")
    is_recorded: ClassVar[bool] = False
    divided_by: float = 1.0
    pick: str = "max"

    @property
    def operation(self) -> str:
        return self.pick

    def expr(self, key: str) -> str:  # noqa: ARG002
        inner = self._agg(self.pick, self.of.text())
        return inner if self.divided_by == 1.0 else f"{inner} / {number_promql(self.divided_by)}"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0) if kind_of(self.of.metric) == "flag" else (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class _OfCounter(_OfOne):
    """A function of one counter over a window."""

    made_for: ClassVar[tuple[str, ...]] = ("counter",)
    function: ClassVar[str] = ""
    window_s: int

    @property
    def operation(self) -> str:
        return self.function

    def expr(self, key: str) -> str:  # noqa: ARG002
        return self._agg("sum", f"{self.function}({self.of.text(self.window_s)})")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Rate(_OfCounter):
    """Increase a second."""

    function: ClassVar[str] = "rate"


@dataclass(frozen=True, kw_only=True)
class Increase(_OfCounter):
    """Increase over the window, while something else is above 0."""

    function: ClassVar[str] = "increase"
    while_: Selector | None = None

    def guard(self) -> str:
        return "" if self.while_ is None else f"{self._agg('sum', self.while_.text())} > 0"


@dataclass(frozen=True, kw_only=True)
class Changes(_OfCounter):
    """How often a gauge took another value."""

    made_for: ClassVar[tuple[str, ...]] = ("gauge", "flag")
    function: ClassVar[str] = "changes"


@dataclass(frozen=True, kw_only=True)
class Age(_OfOne):
    """Seconds since the time a gauge names."""

    made_for: ClassVar[tuple[str, ...]] = ("gauge",)
    is_recorded: ClassVar[bool] = False

    @property
    def operation(self) -> str:
        return "age"

    def expr(self, key: str) -> str:  # noqa: ARG002
        return f"time() - {self._agg('max', self.of.text())}"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    def check(self) -> None:
        super().check()
        if not self.of.metric.endswith("_timestamp_seconds"):
            raise V13Error(f"{self.of.metric} is not a time; expected a metric that ends in _timestamp_seconds")


@dataclass(frozen=True, kw_only=True)
class Absent(_OfOne):
    """1 where there are no such series at all."""

    made_for: ClassVar[tuple[str, ...]] = ("gauge", "flag", "counter")
    is_recorded: ClassVar[bool] = False

    @property
    def labels(self) -> tuple[str, ...]:
        return ("job",)

    @property
    def operation(self) -> str:
        return "absent"

    def expr(self, key: str) -> str:  # noqa: ARG002
        return f"absent({self.of.text()})"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)
