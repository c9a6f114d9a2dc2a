"""A candidate held against the stable release beside it, on the same ticks: a test that may be looked at any time.

It knows the two processes by their counters in Prometheus alone, judges operation and no signal, and acts on nothing.

Between two looks, some blocks of time apart, each metric of both is taken over a block. The candidate is *worse* in a
block where its value is beyond that of the stable one times (1 + margin) plus a floor. Null hypothesis: whatever came
before, the candidate is worse in a block with a chance of at most NULL. Under it the e-value, a product of fair bets on
the blocks to come, is a nonnegative supermartingale, and reaches n / ALPHA with a chance of at most ALPHA / n, however
often it is looked at (Ville 1939; Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid
inference", 2023, sec. 3). With the bound n / ALPHA for each of n metrics, dependent as they like, a false rollback has
a chance of at most ALPHA in all.

Two like processes are exchangeable, so each is worse with a chance of at most 1/2, less what the margin takes. We
depart from a plain sign test where real processes do: a block in which neither is beyond the other counts for the
candidate (dropping ties makes what is left run in streaks), NULL is above 1/2 (a stall outlasts a block now and then),
and blocks are BLOCK_S long and GAP_S apart (noise with a memory of some 20 s is forgotten in between). What would break
it is noise of one process alone, larger than the margin, that lasts for minutes. Simulated over 12 h, deviation
0.3 (tests/bench/compare_bench.py): with a memory of 50 s and less none of 2,000 runs is rolled back, with 97 s 0.3 % of
1,000, with 4 min 18 % (and 7 % with 97 s and a deviation of 0.8).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, betaln

from v13.errors import ReleaseError
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.signals import RUNNER_JOB

__all__ = [
    "ALPHA",
    "BLOCK_S",
    "GAP_S",
    "METRICS",
    "NULL",
    "Compared",
    "Comparison",
    "Metric",
    "Sample",
    "instance_matcher",
    "is_worse",
    "log_e_value",
    "read_samples",
]

ALPHA: Final = 0.01  # false rollbacks, of all comparisons of one observation together
BLOCK_S: Final = 30.0
GAP_S: Final = 30.0
WARM_UP_S: Final = 120.0  # a process this young grows and compiles, which its elder neighbour does not
NULL: Final = 0.55  # chance of a worse block that a like candidate may have at most, given all before
LEAST_BET: Final = 0.8  # bets are mixed evenly over chances from here to 1: what is worse is so nearly always
LEAST_OF: Final = 5  # observations of each process in a block, or nothing is said of it
FIRST_SHARE: Final = 0.8  # of the stake, on the whole course; the rest on courses that begin later
RESTART_BETS: Final = 10  # a new course begins after so many

Sample: TypeAlias = Mapping[str, float]  # series of one process, summed over their labels
F64: TypeAlias = NDArray[np.float64]

_START: Final = "process_start_time_seconds"


@dataclass(frozen=True)
class Metric:
    """Something of a process that should not become worse; more is worse.

    Attributes
    ----------
    key, title, unit : str
    of : tuple of str
        Counters whose increase, added up, is looked at; a gauge where `per` is time and `gauge` is set.
    per : tuple of str
        Counters whose increase it is divided by; empty: seconds.
    floor : float, in the unit, >= 0
        A difference below is of no interest to anybody, whatever its share.
    margin : float, >= 0
        A share below is none either: two processes of one program differ as much.
    is_growth : bool
        `of` is a gauge, and its growth is looked at.
    """

    key: str
    title: str
    unit: str
    of: tuple[str, ...]
    per: tuple[str, ...]
    floor: float
    margin: float = 0.25
    is_growth: bool = False

    def value(self, first: Sample, last: Sample, took_s: float) -> float | None:
        """Return its value between two samples of one process; None where there is too little, or a restart between."""
        if first.get(_START) != last.get(_START) or any(name not in s for s in (first, last) for name in self._names):
            return None
        gains = [last[name] - first[name] for name in self.of]
        whole = [last[name] - first[name] for name in self.per]
        if self.is_growth:
            return max(sum(gains), 0.0) / took_s
        if min(*gains, *whole, 0.0) < 0.0 or (self.per and sum(whole) < LEAST_OF):
            return None
        return sum(gains) / (sum(whole) if self.per else took_s)

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.of, *self.per)


def _mean(key: str, title: str, name: str, floor: float) -> Metric:
    return Metric(key, title, "seconds", (f"{name}_sum",), (f"{name}_count",), floor)


# Floors: event and compute a fifth of our own aims (0.1 and 0.05 ms), commit half of what one usually takes, errors the
# alert level's less what one error among a block's bars makes, memory a MiB a minute.
METRICS: Final = (
    _mean("event_latency", "Event latency, mean", "divergence_event_latency_seconds", 2e-5),
    _mean("compute_latency", "Compute latency, mean", "divergence_detection_latency_seconds", 1e-5),
    _mean("commit_latency", "Commit latency, mean", "divergence_commit_seconds", 2.5e-4),
    Metric(
        *("error_share", "Errors", "ratio", ("divergence_errors_total",)),
        *(("divergence_errors_total", "divergence_bars_total"), 2e-3),
    ),
    Metric("cpu", "Processor, of one core", "ratio", ("process_cpu_seconds_total",), (), 0.02),
    Metric("memory", "Memory growth", "bytes/s", ("process_resident_memory_bytes",), (), 17_476.0, is_growth=True),
)


def is_worse(candidate: F64, stable: F64, margin: float, floor: float) -> NDArray[np.bool_]:
    """Tell where the candidate is beyond the stable one, both (n,) float64 and >= 0, by more than margin and floor."""
    return np.asarray(candidate > stable * (1.0 + margin) + floor)


def log_e_value(n_worse: F64, n_other: F64) -> F64:
    """Return the natural logarithm of the e-value of one course of bets.

    Parameters
    ----------
    n_worse, n_other : (n,) float64, >= 0
        Blocks in which the candidate was worse, and all others.

    Returns
    -------
    (n,) float64
        Of the likelihood ratio against NULL, mixed evenly over chances from LEAST_BET to 1; 0 of no block; -inf where
        it is too small to be told from 0.
    """
    a, b = np.asarray(n_worse, np.float64), np.asarray(n_other, np.float64)
    with np.errstate(divide="ignore"):
        mixed = betaln(a + 1.0, b + 1.0) + np.log(betaincc(a + 1.0, b + 1.0, LEAST_BET)) - math.log(1.0 - LEAST_BET)
    return np.asarray(mixed - a * math.log(NULL) - b * math.log(1.0 - NULL))


def course_e_value(bets: Sequence[int]) -> float:
    """Return the e-value of a metric's blocks, 1 for a worse one and 0 for another, in their order.

    Notes
    -----
    A mixture of courses of which one begins at the first block and another every RESTART_BETS blocks, so that a
    candidate that was good for hours and then becomes slow is not hidden by its past; the share of the k-th later
    course is (1 - FIRST_SHARE) / (k (k + 1)), and they add up to 1. Shin, Ramdas, Rinaldo, "E-detectors" (2023), add
    up such courses unweighted; that bounds how often, not how probably, one is wrong.
    """
    worse = np.concatenate(([0], np.cumsum(np.asarray(bets, np.int64))))
    starts = np.arange(0, len(bets) + 1, RESTART_BETS)
    a = (worse[-1] - worse[starts]).astype(np.float64)
    b = len(bets) - starts - a
    k = np.arange(1, starts.size)
    shares = np.concatenate(([FIRST_SHARE], (1.0 - FIRST_SHARE) / (k * (k + 1.0))))
    rest = 1.0 - float(shares.sum())  # on courses that have not begun, and are worth 1
    return float(np.sum(shares * np.exp(log_e_value(a, b)))) + rest


@dataclass(frozen=True)
class Compared:
    """One metric so far.

    Attributes
    ----------
    metric, title, unit : str
    candidate, stable : float or None
        Over the last block that said something.
    n_worse, n_better, n_alike : int
        Blocks; better: the stable one was beyond the candidate.
    e_value : float, >= 0
        Now.
    peak : float
        The highest so far; decides.
    limit : float
        Where it is enough.
    """

    metric: str
    title: str
    unit: str
    candidate: float | None
    stable: float | None
    n_worse: int
    n_better: int
    n_alike: int
    e_value: float
    peak: float
    limit: float

    @property
    def is_beyond(self) -> bool:
        """Tell whether the candidate is taken to be worse."""
        return self.peak >= self.limit


@dataclass
class _Course:
    bets: list[int] = field(default_factory=list)
    n_better: int = 0
    peak: float = 1.0
    last: tuple[float, float] | None = None
    e_value: float = 1.0  # follows from bets


class Comparison:
    """All metrics of a candidate and a stable process; plain data between two looks.

    Parameters
    ----------
    candidate, stable : str
        Instances, host:port.
    block_s, gap_s, warm_up_s : float, s, > 0
        Shorter ones in rehearsals; the proof is of the defaults.
    metrics : tuple of Metric
    """

    def __init__(
        self,
        candidate: str,
        stable: str,
        *,
        block_s: float = BLOCK_S,
        gap_s: float = GAP_S,
        warm_up_s: float = WARM_UP_S,
        metrics: tuple[Metric, ...] = METRICS,
    ) -> None:
        if candidate == stable or not (block_s > 0.0 and gap_s >= 0.0 and warm_up_s >= 0.0):
            raise ReleaseError(f"comparison: expected two instances and times above 0 s, found {candidate}, {stable}")
        self.candidate, self.stable = candidate, stable
        self.block_s, self.gap_s, self.warm_up_s = block_s, gap_s, warm_up_s
        self.metrics = metrics
        self._courses = {metric.key: _Course() for metric in metrics}
        self._open: tuple[float, dict[str, dict[str, float]]] | None = None
        self._closed_s = -math.inf

    def see(self, samples: Mapping[str, Sample], at_s: float) -> tuple[Compared, ...]:
        """Take a look's samples; a block that is over is judged once.

        Parameters
        ----------
        samples : mapping of instance to Sample
            One that is missing ends the block without a judgement.
        at_s : float, Unix seconds
        """
        own = [samples.get(name, {}) for name in (self.candidate, self.stable)]
        if not all(_START in one and at_s - one[_START] >= self.warm_up_s for one in own):
            self._open = None
        elif self._open is None or at_s < self._open[0]:
            if not 0.0 <= at_s - self._closed_s < self.gap_s:
                self._open = at_s, {"candidate": dict(own[0]), "stable": dict(own[1])}
        elif at_s - self._open[0] >= self.block_s:
            began_s, first = self._open
            self._judge(first["candidate"], own[0], first["stable"], own[1], at_s - began_s)
            self._closed_s, self._open = at_s, None
            if self.gap_s == 0.0:
                self._open = at_s, {"candidate": dict(own[0]), "stable": dict(own[1])}
        return self.result()

    def result(self) -> tuple[Compared, ...]:
        """Return how things stand."""
        limit = len(self.metrics) / ALPHA
        found = []
        for metric in self.metrics:
            course = self._courses[metric.key]
            candidate, stable = course.last or (None, None)
            n_worse = sum(course.bets)
            n_alike = len(course.bets) - n_worse - course.n_better
            counts = n_worse, course.n_better, n_alike
            found.append(
                Compared(
                    *(metric.key, metric.title, metric.unit, candidate, stable),
                    *counts,
                    *(course.e_value, course.peak, limit),
                )
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return its state as plain values."""
        return {
            "candidate": self.candidate,
            "stable": self.stable,
            "block_s": self.block_s,
            "gap_s": self.gap_s,
            "warm_up_s": self.warm_up_s,
            "open": None if self._open is None else {"at_s": self._open[0], **self._open[1]},
            "closed_s": None if math.isinf(self._closed_s) else self._closed_s,
            "courses": {
                key: {
                    "bets": "".join(map(str, c.bets)),
                    "n_better": c.n_better,
                    "peak": c.peak,
                    "last": None if c.last is None else list(c.last),
                }
                for key, c in self._courses.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, metrics: tuple[Metric, ...] = METRICS) -> Comparison:
        """Return what `to_dict` was given of.

        Raises
        ------
        ReleaseError
            It is of other metrics or damaged.
        """
        try:
            times = {name: float(data[name]) for name in ("block_s", "gap_s", "warm_up_s")}
            made = cls(str(data["candidate"]), str(data["stable"]), metrics=metrics, **times)
            made._courses = {
                key: _Course(
                    [int(bet) for bet in course["bets"]],
                    int(course["n_better"]),
                    float(course["peak"]),
                    None if course["last"] is None else (float(course["last"][0]), float(course["last"][1])),
                )
                for key, course in data["courses"].items()
            }
            for course in made._courses.values():
                course.e_value = course_e_value(course.bets)
            kept = data["open"]
            if kept is not None:
                made._open = float(kept["at_s"]), {k: dict(kept[k]) for k in ("candidate", "stable")}
            made._closed_s = -math.inf if data["closed_s"] is None else float(data["closed_s"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReleaseError(f"comparison: the stored state is damaged ({error!r}); begin anew") from error
        if made._courses.keys() != {metric.key for metric in metrics}:
            raise ReleaseError("comparison: the stored state is of other metrics; begin the observation anew")
        return made

    def _judge(self, c0: Sample, c1: Sample, s0: Sample, s1: Sample, took_s: float) -> None:
        for metric in self.metrics:
            candidate, stable = metric.value(c0, c1, took_s), metric.value(s0, s1, took_s)
            if candidate is None or stable is None or not (math.isfinite(candidate) and math.isfinite(stable)):
                continue
            course = self._courses[metric.key]
            a, b = np.array([candidate, stable]), np.array([stable, candidate])
            worse, better = is_worse(a, b, metric.margin, metric.floor).tolist()
            course.bets.append(int(worse))
            course.n_better += int(better)
            course.last = candidate, stable
            course.e_value = course_e_value(course.bets)
            course.peak = max(course.peak, course.e_value)


def instance_matcher(instances: Sequence[str]) -> str:
    """Return the PromQL matcher of any of some instances, host:port."""
    return f"instance=~`{'|'.join(re.escape(one) for one in dict.fromkeys(instances))}`"


def read_samples(prometheus: Prometheus, instances: Sequence[str], at_s: float) -> dict[str, dict[str, float]]:
    """Return the series the metrics are made of, of each instance that has any; errors as `Prometheus.instant`."""
    names = dict.fromkeys([name for metric in METRICS for name in (*metric.of, *metric.per)] + [_START])
    query = f'{{__name__=~"{"|".join(names)}",job="{RUNNER_JOB}",{instance_matcher(instances)}}}'
    found: dict[str, dict[str, float]] = {}
    for series in prometheus.instant(query, at_s):
        own = found.setdefault(series.labels["instance"], {})
        name = series.labels["__name__"]
        own[name] = own.get(name, 0.0) + float(series.values[-1])
    # A release may be bad enough to count NaN: of such a series nothing is said, and a ledger could not hold it.
    return {at: {n: v for n, v in own.items() if math.isfinite(v)} for at, own in found.items()}
