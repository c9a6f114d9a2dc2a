"""What Prometheus makes of raw series, worked out a second time: each kind of signal at each step, in plain Python.

For the tests of the rules, which take from here when an alert is to fire and at what value. It must not know how the
series came about, nor share code with the expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import TypeAlias

from v13.telemetry.drives import GONE, Sample, Series, step_s, window_s
from v13.telemetry.ranges import Ranges
from v13.telemetry.signal_kinds import (
    STEP_S,
    Absent,
    Age,
    Available,
    Changes,
    Gauge,
    Increase,
    PerHour,
    Quantile,
    Rate,
    Ratio,
)
from v13.telemetry.signals import Signal

__all__ = ["Reading", "measured"]

Reading: TypeAlias = tuple[float | None, float]  # of a step: the signal, None for nothing, and its count


@singledispatch
def measured(signal: Signal, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    """Return what Prometheus makes of raw series at each step: the signal, None for nothing, and its count.

    The count is what a minimum count is of; of `Increase` it is whether its guard holds; 0 where there is none.
    """
    raise NotImplementedError(type(signal).__name__)


@measured.register
def _(signal: Quantile, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    step, window = step_s(signal), window_s(signal)
    buckets = list(zip(*(_increases(s.samples, step, window, ranges) for s in series), strict=True))
    bounds = [float(s.labels["le"].replace("+Inf", "inf")) for s in series]
    return [(_quantile(signal.q, bounds, counts), counts[-1] or 0.0) for counts in buckets]


@measured.register
def _(signal: Ratio, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    step, window = step_s(signal), window_s(signal)
    part, *others = (_increases(s.samples, step, window, ranges) for s in series)
    found = list[Reading]()
    for numbers in zip(part, *others, strict=True):
        if None in numbers:
            found.append((None, 0.0))
            continue
        n_part, n_rest = float(numbers[0] or 0.0), float(sum(n or 0.0 for n in numbers[1:]))
        whole = n_rest + (n_part if signal.part in signal.of else 0.0)
        found.append((n_part / whole if whole > 0.0 else None, n_part if signal.counted == "part" else whole))
    return found


@measured.register
def _(signal: PerHour, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    step, window = step_s(signal), window_s(signal)
    events, active = series
    found = list[Reading]()
    for i, n in enumerate(_increases(events.samples, step, window, ranges)):
        ticks = range(i * step, -1, -STEP_S)[: ranges.n_samples(window, STEP_S)]  # multiples of it, as steps are
        hours = sum(float(active.samples[t // step] or 0.0) for t in ticks) / (3_600 // STEP_S)
        found.append((None if n is None or hours <= 0.0 else n / hours, hours))
    return found


@measured.register
def _(signal: Available, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    step = step_s(signal)
    n, n_back = ranges.n_samples(window_s(signal), step), ranges.n_samples(signal.warm_up_s, step)
    ready, _, started = (s.samples for s in series)
    now: list[float | None] = []
    for i, (is_ready, born) in enumerate(zip(ready, started, strict=True)):
        was_ready = any(value == 1.0 for value in ready[max(0, i + 1 - n_back) : i + 1])
        is_young = isinstance(born, float) and i * step - born < signal.warm_up_s
        now.append(None if is_young and not was_ready else float(is_ready == 1.0))
    found: list[Reading] = []
    for i in range(len(now)):
        known = [value for value in now[max(0, i + 1 - n) : i + 1] if value is not None]
        found.append((sum(known) / len(known) if known else None, (len(known) - sum(known)) * step))
    return found


@measured.register
def _(signal: Gauge, series: Sequence[Series], ranges: Ranges) -> list[Reading]:  # noqa: ARG001
    return [(float(value) / signal.divided_by, 0.0) for value in _floats(series[0].samples)]


@measured.register
def _(signal: Rate, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    window = window_s(signal)
    grown = _increases(series[0].samples, step_s(signal), window, ranges)
    return [(None if n is None else n / window, 0.0) for n in grown]


@measured.register
def _(signal: Increase, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    return [(n, 1.0) for n in _increases(series[0].samples, step_s(signal), window_s(signal), ranges)]


@measured.register
def _(signal: Changes, series: Sequence[Series], ranges: Ranges) -> list[Reading]:
    n = ranges.n_samples(window_s(signal), step_s(signal))
    samples = list(_floats(series[0].samples))
    changed = [0, *(int(a != b) for a, b in pairwise(samples))]
    return [(float(sum(changed[max(0, i + 1 - n) + 1 : i + 1])), 0.0) for i in range(len(samples))]


@measured.register
def _(signal: Age, series: Sequence[Series], ranges: Ranges) -> list[Reading]:  # noqa: ARG001
    return [(i * step_s(signal) - value, 0.0) for i, value in enumerate(_floats(series[0].samples))]


@measured.register
def _(signal: Absent, series: Sequence[Series], ranges: Ranges) -> list[Reading]:  # noqa: ARG001
    return [(1.0 if value == GONE else None, 0.0) for value in series[0].samples]


def _floats(samples: Sequence[Sample]) -> Iterator[float]:
    return (float(value) for value in samples if value is not None)


def _increases(samples: Sequence[Sample], step: int, window: int, ranges: Ranges) -> list[float | None]:
    """Return PromQL's `increase` of a counter without resets at each step.

    Notes
    -----
    Prometheus, promql/functions.go, `extrapolatedRate`: the increase between the first and last sample is stretched to
    the ends of the window, by half a distance where samples are missing there, and never to before a counter's zero.
    Prometheus 3 looks at the zero last; of counters born at 0 with their first sample that makes no difference.
    """
    values = list(_floats(samples))
    n, found = ranges.n_samples(window, step), list[float | None]()
    for i in range(len(values)):
        first = max(0, i + 1 - n)
        if i == first:
            found.append(None)
            continue
        grown, spanned = values[i] - values[first], float((i - first) * step)
        to_start = window - spanned
        if grown > 0.0:
            to_start = min(to_start, spanned * values[first] / grown)
        found.append(grown * (spanned + (to_start if to_start < 1.1 * step else step / 2.0)) / spanned)
    return found


def _quantile(q: float, bounds: Sequence[float], counts: Sequence[float | None]) -> float | None:
    """Return PromQL's `histogram_quantile` of cumulative counts by upper bound; None for NaN."""
    cumulative = [float(count or 0.0) for count in counts]
    if cumulative[-1] == 0.0:
        return None
    rank = q * cumulative[-1]
    i = next(i for i, count in enumerate(cumulative) if count >= rank)
    if i == len(bounds) - 1:
        return bounds[-2]
    if i == 0 and bounds[0] <= 0.0:
        return bounds[0]
    low, before = (bounds[i - 1], cumulative[i - 1]) if i else (0.0, 0.0)
    return low + (bounds[i] - low) * (rank - before) / (cumulative[i] - before)
