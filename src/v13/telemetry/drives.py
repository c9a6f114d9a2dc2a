"""Raw series that bring a signal to a value.

For the tests of the rules: they start from what the exporters can really show (whole counts, buckets of the catalogue,
flags of 0 and 1), never from a signal that somebody set. No rule is known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import accumulate
from typing import Final, TypeAlias

from v13.errors import V13Error
from v13.telemetry.catalogue import find
from v13.telemetry.ranges import Ranges
from v13.telemetry.series import label_pairs, number_text
from v13.telemetry.signal_kinds import (
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
from v13.telemetry.signals import FOREIGN, Selector, Signal, kind_of

__all__ = [
    "EXAMPLES",
    "GONE",
    "Sample",
    "Series",
    "aims",
    "decoys",
    "drive",
    "few",
    "never_ready",
    "step_s",
    "twins",
    "window_s",
]

GONE: Final = "stale"  # the mark of a series that ended, as promtool writes it
Sample: TypeAlias = float | str | None  # None: no sample

PER_STEP: Final = 10_000  # observations, so that a quantile or a share comes within a few parts in ten thousand
N_SYMBOLS: Final = 50
OLD: Final = -1e6  # Unix time at which a process was started that is not young
# How far within and beyond a bound the values aimed at are. Unequal, so that no mixture of the two in a window is the
# bound itself, where the last bit of a float would decide.
MARGINS: Final = (0.01, 0.0137)
MARGINS_PER_HOUR: Final = (0.05, 0.0685)  # whole events, and a subquery's step at the start of its window
EXAMPLES: Final[Mapping[str, tuple[str, str]]] = {  # two values of each label whose values are open
    "horizon": ("10", "20"),
    "symbol": ("BTCUSDT", "ETHUSDT"),
    "family": ("counts", "latency"),
}


@dataclass(frozen=True)
class Series:
    """One raw series, a sample a step from time 0."""

    metric: str
    labels: Mapping[str, str]
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        """Return it as promtool and PromQL name it."""
        return self.metric + label_pairs(dict(self.labels))


def window_s(signal: Signal) -> int:
    """Return how far back a signal looks, in seconds."""
    return int(getattr(signal, "window_s", 0))


def step_s(signal: Signal) -> int:
    """Return a distance of samples that is fine enough for its levels and coarse enough to be quick."""
    if isinstance(signal, Available):
        return signal.evaluate_s
    if isinstance(signal, Gauge | Age | Absent | Changes):  # these are looked at for as little as a minute
        return 30
    return 60 if window_s(signal) <= 3_600 else 300


def aims(signal: Signal, op: str, bound: float, ranges: Ranges) -> tuple[float, float]:
    """Return a value that just keeps a level, and one that just breaks it."""
    beyond = 1 if op == ">" else -1
    if isinstance(signal, Absent):
        return 0.0, 1.0
    if isinstance(signal, Gauge) and kind_of(signal.of.metric) == "flag":
        return bound, bound + beyond
    if isinstance(signal, Changes | Increase):
        return bound, bound + beyond
    if isinstance(signal, Available):
        n = _n_looks(signal)
        away = math.floor((1.0 - bound) * ranges.n_samples(window_s(signal), step_s(signal)) + 1e-9)
        return 1.0 - away / n, 1.0 - (away + 1) / n
    within, over = MARGINS_PER_HOUR if isinstance(signal, PerHour) else MARGINS
    return bound * (1.0 - beyond * within), bound * (1.0 + beyond * over)


def decoys(signal: Signal, op: str, bound: float, n: int, labels: Mapping[str, str]) -> list[Series]:
    """Return series of another job at the same place, which change what is heard where a selector forgets its job.

    Mixed into a sum or a worst value they break the level; where that could not be told they keep it instead.
    """
    if isinstance(signal, Available):
        up = _series(Available.up, [1.0] * n, {**labels, "instance": "bystander:1"})
        return [*_cold(signal, n, labels), up]
    low, high = signal.bounds
    value = 0.0 if isinstance(signal, Absent) else min(4.0 * bound, 0.9 * high) if op == ">" else bound / 4.0
    if isinstance(signal, Gauge) and kind_of(signal.of.metric) == "flag":
        value = low if op == "<" else high
    if isinstance(signal, Increase | Age):
        value = 4.0 * window_s(signal) if op == "<" else 0.0
    return drive(signal, [value] * n, labels)


@singledispatch
def drive(signal: Signal, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    """Return raw series that bring a signal to the value wanted at each step, once its window holds nothing else.

    Parameters
    ----------
    signal : Signal
    wanted : sequence of float
        One a step. Of `Available` and `Changes`: what the window after a new value adds up to; of `Available` in
        shares of a window that holds both its ends.
    labels : mapping
        job, instance, and those the signal is told apart by.
    """
    raise NotImplementedError(type(signal).__name__)


def twins(signal: Signal, op: str, n: int, least: float) -> list[Series]:
    """Return series of other instances and other labels that break the level with too little to go by.

    Parameters
    ----------
    signal, op
        As of the rule.
    n : int
        Steps.
    least : float
        The minimum count.
    """
    job = signal.selectors[0].job
    if isinstance(signal, Available):
        young = _cold(signal, n, {"job": job, "instance": "cold:1"})
        return young + _runner(
            {"job": job, "instance": "brief:1"}, [float(i >= 3) for i in range(n)], [1.0] * n, [OLD] * n
        )
    found = []
    places = [{"instance": "twin:1", **{label: EXAMPLES[label][0] for label in signal.by}}]
    if signal.by:
        places.append({"instance": "runner:1", **{label: EXAMPLES[label][1] for label in signal.by}})
    for place in places:
        labels = {"job": job, **place}
        if isinstance(signal, Ratio):
            found += _siblings(signal.part, n, labels) + _siblings(signal.part, n, {**labels, "instance": "runner:1"})
        if isinstance(signal, Increase) and signal.while_ is not None:
            found += [*drive(signal, [0.0] * n, labels)[:-1], _series(signal.while_, [0.0] * n, labels)]
        elif least:
            found += few(signal, op, n, least - 1.0 if least > 1.0 else 0.6 * least, labels)
    return found


# Raw series, kind by kind.


@drive.register
def _(signal: Quantile, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    bounds = find(signal.of.metric).buckets
    return _histogram(signal.of, [_spread(signal.q, value, bounds) for value in wanted], labels)


@drive.register
def _(signal: Ratio, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    part = _series(signal.part, _counted([value * PER_STEP for value in wanted]), labels)
    others = [selector for selector in signal.of if selector != signal.part]
    share = [PER_STEP * (1.0 - value) if len(others) < len(signal.of) else PER_STEP for value in wanted]
    return [part, *(_series(selector, _counted([n / len(others) for n in share]), labels) for selector in others)]


@drive.register
def _(signal: PerHour, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    events = _counted([value * N_SYMBOLS * step_s(signal) / 3_600 for value in wanted])
    return [_series(signal.events, events, labels), _series(signal.each, [float(N_SYMBOLS)] * len(wanted), labels)]


@drive.register
def _(signal: Available, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    n = _n_looks(signal)
    ready, up, started, begun, born = list[Sample](), list[Sample](), list[Sample](), 0, OLD
    for i, value in enumerate(wanted):
        begun = i if i and wanted[i - 1] != value else begun
        is_away = i - begun < round((1.0 - value) * n)
        is_down = is_away and i == begun  # once down, then restarted and not ready: both count
        born = float(i * step_s(signal)) if is_down else born
        ready.append(GONE if is_down else float(not is_away))
        started.append(GONE if is_down else born)
        up.append(float(not is_down))
    return _runner(labels, ready, up, started)


@drive.register
def _(signal: Gauge, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    return [_series(signal.of, [_whole(signal, value * signal.divided_by) for value in wanted], labels)]


@drive.register
def _(signal: Rate, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    total = accumulate((value * step_s(signal) for value in wanted), initial=0.0)
    return [_series(signal.of, [round(value, 2) for value in total][: len(wanted)], labels)]


@drive.register
def _(signal: Increase, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    counts = _counted([value * step_s(signal) / window_s(signal) for value in wanted])
    found = [_series(signal.of, counts, labels)]
    return found if signal.while_ is None else [*found, _series(signal.while_, [1.0] * len(wanted), labels)]


@drive.register
def _(signal: Changes, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    now, left, samples = 1.0, 0.0, []
    for i, value in enumerate(wanted):
        left = value if not i or wanted[i - 1] != value else left
        if i and left:
            now, left = now + 1.0, left - 1.0
        samples.append(now)
    return [_series(signal.of, samples, labels)]


@drive.register
def _(signal: Age, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    return [_series(signal.of, [i * step_s(signal) - value for i, value in enumerate(wanted)], labels)]


@drive.register
def _(signal: Absent, wanted: Sequence[float], labels: Mapping[str, str]) -> list[Series]:
    return [_series(signal.of, [GONE if value else 1.0 for value in wanted], {**labels, "instance": "runner:1"})]


def _n_looks(signal: Available) -> int:
    """Return how many looks a share of a window is told in: with the one at its start, whatever the ranges hold."""
    return Ranges.CLOSED.n_samples(window_s(signal), step_s(signal))


def _series(selector: Selector, samples: Sequence[Sample], labels: Mapping[str, str], **more: str) -> Series:
    """Return one series of a selector: its matchers, the labels given, and a first value for every other label."""
    values = dict(labels) | dict(selector.matchers)
    if selector.metric.startswith("divergence_") and selector.metric not in FOREIGN:
        for label in find(selector.metric).labels:
            values.setdefault(label.name, label.values[0] if label.values else EXAMPLES[label.name][0])
    metric = f"{selector.metric}_bucket" if more else selector.metric
    return Series(metric, values | more, samples)


def _siblings(selector: Selector, n: int, labels: Mapping[str, str]) -> list[Series]:
    """Return busy series of the same metric that a selector's matchers leave out."""
    found = []
    for label, value in selector.matchers:
        allowed = next(each.values for each in find(selector.metric).labels if each.name == label)
        other = next(each for each in allowed if each != value)
        found.append(_series(Selector(selector.metric, ((label, other),)), _counted([PER_STEP] * n), labels))
    return found


def _histogram(selector: Selector, added: Sequence[Sequence[float]], labels: Mapping[str, str]) -> list[Series]:
    """Return bucket series from what each step adds to each bucket, +Inf included."""
    bounds = (*find(selector.metric).buckets, math.inf)
    cumulative = [list(accumulate(step)) for step in added]
    return [
        _series(selector, _counted([step[i] for step in cumulative]), labels, le=_le(bound))
        for i, bound in enumerate(bounds)
    ]


def _spread(q: float, value: float, bounds: Sequence[float]) -> list[float]:
    """Return observations by bucket whose interpolated quantile is a value."""
    i = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds) - 1)
    low = bounds[i - 1] if i else min(bounds[0], 0.0)
    share = (value - low) / (bounds[i] - low)  # of the way through its bucket
    below, inside = (q - share) / (1.0 - share) if share < q else 0.0, min(1.0, q / share) if share else 0.0
    counts = [0.0] * (len(bounds) + 1)
    if share < q:
        counts[max(i - 1, 0)] += round(below * PER_STEP)
        counts[i] += PER_STEP - round(below * PER_STEP)
    else:
        counts[i] += round(inside * PER_STEP)
        counts[i + 1] += PER_STEP - round(inside * PER_STEP)
    return counts


def _counted(added: Sequence[float]) -> list[Sample]:
    """Return a counter of whole numbers, born at 0, from what each step after the first adds."""
    total = list(accumulate(added, initial=0.0))[: len(added)]
    return [float(math.floor(value + 1e-6)) for value in total]


def _whole(signal: Gauge, value: float) -> float:
    is_real = signal.of.metric in FOREIGN or signal.of.metric.endswith("_seconds")
    return value if is_real else float(round(value))


def _le(bound: float) -> str:
    return number_text(bound)


def _runner(
    labels: Mapping[str, str], ready: Sequence[Sample], up: Sequence[Sample], started: Sequence[Sample]
) -> list[Series]:
    return [
        _series(Available.ready, ready, labels),
        _series(Available.up, up, labels),
        _series(Available.started, started, labels),
    ]


def never_ready(n: int, labels: Mapping[str, str]) -> list[Series]:
    """Return a runner that starts at time 0 and never gets ready: its time to warm up ends."""
    return _runner(labels, [0.0] * n, [1.0] * n, [0.0] * n)


def _cold(signal: Available, n: int, labels: Mapping[str, str]) -> list[Series]:
    """Return a runner that is forever young and was never ready: it warms up, which is no outage."""
    return _runner(labels, [0.0] * n, [1.0] * n, [float(i * signal.evaluate_s) for i in range(n)])


@singledispatch
def few(signal: Signal, op: str, n: int, count: float, labels: Mapping[str, str]) -> list[Series]:  # noqa: ARG001
    """Return series that break a level far beyond it, with no more than `count` to go by in any window.

    Parameters
    ----------
    signal, op
        As of the rule.
    n : int
        Steps.
    count : float
        In the unit of the signal's minimum count.
    labels : mapping
    """
    raise V13Error(f"{type(signal).__name__}: there is nothing to count")


@few.register
def _(signal: Quantile, op: str, n: int, count: float, labels: Mapping[str, str]) -> list[Series]:
    bounds = find(signal.of.metric).buckets
    counts = [0.0] * (len(bounds) + 1)
    counts[len(bounds) - 1 if op == ">" else 0] = count * step_s(signal) / window_s(signal)
    return _histogram(signal.of, [counts] * n, labels)


@few.register
def _(signal: Ratio, op: str, n: int, count: float, labels: Mapping[str, str]) -> list[Series]:
    a_step = count * step_s(signal) / window_s(signal)
    others = [selector for selector in signal.of if selector != signal.part]
    rest = 0.0 if op == ">" and len(others) < len(signal.of) else a_step
    part = _series(signal.part, _counted([a_step if op == ">" else 0.0] * n), labels)
    return [part, *(_series(selector, _counted([rest] * n), labels) for selector in others)]


@few.register
def _(signal: PerHour, op: str, n: int, count: float, labels: Mapping[str, str]) -> list[Series]:
    # One symbol that is warm and fed for a part of the time.
    active: list[Sample] = [float(i % 4 < 4.0 * count) for i in range(n)]
    events = _counted([100.0 if op == ">" else 0.0] * n)
    return [_series(signal.events, events, labels), _series(signal.each, active, labels)]
