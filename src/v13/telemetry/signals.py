"""What a signal of the SLO table is: series of a known metric, an expression of them, and the values it can take.

A signal is described, not written: its expression, its count and its range all follow from the description, so that a
rule, its tests and the proof that it can fire speak of the same thing. The kinds are in `signal_kinds`; no threshold is
known here.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from v13.errors import V13Error
from v13.telemetry.catalogue import PROCESS, find

__all__ = [
    "CLOSURE_JOB",
    "FOREIGN",
    "RUNNER_JOB",
    "TARGET_LABELS",
    "Selector",
    "Signal",
    "duration_text",
    "kind_of",
    "number_promql",
]

RUNNER_JOB: Final = "divergence"
CLOSURE_JOB: Final = "divergence-closure"
TARGET_LABELS: Final = ("instance",)  # the job is the same for all series of a signal

# What others export: Prometheus itself, and the closure watcher.
FOREIGN: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {  # name -> kind, labels
    "up": ("flag", ()),
    "divergence_closure_error_ratio": ("gauge", ("family",)),
    "divergence_closure_last_success_timestamp_seconds": ("gauge", ()),
}

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_SELECTOR: Final = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:\w+="[^"\\]*"(?:,|(?=\})))*)\})?')


def duration_text(seconds: int) -> str:
    """Return a length of time as PromQL writes it, in its largest whole unit: 600 is `10m`."""
    unit, size = next((unit, size) for unit, size in _UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"


def number_promql(value: float) -> str:
    """Return a finite number as PromQL writes it: as short as it can be told."""
    return repr(value).removesuffix(".0")


def kind_of(name: str) -> str:
    """Return what a metric is: counter, gauge, flag (a gauge that is 0 or 1) or histogram.

    Raises
    ------
    V13Error
        Nobody exports it.
    """
    if name in FOREIGN:
        return FOREIGN[name][0]
    if name in PROCESS:
        return "counter" if name.endswith("_total") else "gauge"
    metric = find(name)
    if metric.kind == "info" or (metric.kind == "gauge" and metric.unit == "1"):
        return "flag"
    return metric.kind


def _labels_of(name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the labels of a metric and their allowed values; none listed: open."""
    if name in FOREIGN:
        return dict.fromkeys(FOREIGN[name][1], ())
    return {} if name in PROCESS else {label.name: label.values for label in find(name).labels}


@dataclass(frozen=True)
class Selector:
    """The series of one metric, of the job that exports it.

    Attributes
    ----------
    metric : str
    matchers : tuple of (label, value)
    """

    metric: str
    matchers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read `name` or `name{label="value"}`.

        Raises
        ------
        V13Error
            It is neither, nobody exports the metric, or it has no such label or value.
        """
        match = _SELECTOR.fullmatch(text)
        if match is None:
            raise V13Error(f'expected metric or metric{{label="value"}}, found {text!r}')
        kind_of(match[1])
        pairs = tuple(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
        labels = _labels_of(match[1])
        for label, value in pairs:
            if label not in labels or (labels[label] and value not in labels[label]):
                raise V13Error(f"{match[1]}: there is no series with {label}={value!r}")
        return cls(match[1], pairs)

    @property
    def job(self) -> str:
        """Return the name of the Prometheus job that has it."""
        return CLOSURE_JOB if self.metric.startswith("divergence_closure_") else RUNNER_JOB

    def text(self, window_s: int | None = None, *, ending: str = "", **more: str) -> str:
        """Return PromQL: an instant selector, or a range over a window."""
        pairs = (("job", self.job), *self.matchers, *more.items())
        inner = ",".join(f'{label}="{value}"' for label, value in pairs)
        return f"{self.metric}{ending}{{{inner}}}" + (f"[{duration_text(window_s)}]" if window_s else "")


@dataclass(frozen=True, kw_only=True)
class Signal(ABC):
    """What is looked at. Each kind says which metric kinds it is made for.

    Attributes
    ----------
    by : tuple of str
        Labels beside the instance that it is told apart by.
    """

    made_for: ClassVar[tuple[str, ...]] = ()
    is_recorded: ClassVar[bool] = True
    by: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of its series."""
        return (*TARGET_LABELS, *self.by)

    @property
    @abstractmethod
    def selectors(self) -> tuple[Selector, ...]:
        """Return the series it is made of."""

    @property
    @abstractmethod
    def operation(self) -> str:
        """Return the last part of its recording rule's name."""

    @abstractmethod
    def expr(self, key: str) -> str:
        """Return the PromQL of the signal; `key` names its helpers."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest value it can take."""

    def helpers(self, key: str) -> Mapping[str, str]:  # noqa: ARG002 - most kinds have none
        """Return recording rules it rests on, name to PromQL."""
        return {}

    def count(self, key: str) -> tuple[str, str] | None:  # noqa: ARG002 - most kinds need no helper
        """Return operation and PromQL of what a minimum count is of; None where there is nothing to count."""
        return None

    def guard(self) -> str:
        """Return PromQL of when it means anything at all; the empty string for always."""
        return ""

    def check(self) -> None:
        """Refuse what does not fit.

        Raises
        ------
        V13Error
            A metric is not of a kind this is made for, or has not the labels it is told apart by.
        """
        for selector in self.selectors:
            kind = kind_of(selector.metric)
            if kind not in self.made_for:
                wanted = " or a ".join(self.made_for)
                raise V13Error(f"{selector.metric} is a {kind}; expected a {wanted}")
            for label in self.by:
                if label not in _labels_of(selector.metric):
                    raise V13Error(f"{selector.metric} has no label {label!r} to be told apart by")

    def _agg(self, operation: str, inner: str, *more: str) -> str:
        return f"{operation} by ({', '.join((*self.labels, *more))}) ({inner})"
