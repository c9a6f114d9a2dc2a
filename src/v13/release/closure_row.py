"""One figure of the dashboard beside the same figure of the event log, and what lies between the two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["FAMILIES", "PARTS", "UNEXPLAINED", "Chain", "ClosureRow"]

FAMILIES: Final = ("events", "scores", "hit_rate", "latency")
PARTS: Final = ("birth", "boundary", "reset", "resolution")
UNEXPLAINED: Final = 0.01  # of a figure: what no part accounts for


@dataclass(frozen=True)
class Chain:
    """A figure reckoned from the log in steps, from what is true to what Prometheus must answer; NaN: there is none.

    Attributes
    ----------
    plain : float
        Within the ends of the window.
    aligned : float
        Between its first and last scrape.
    binned : float
        Read off the histogram's buckets.
    raw : float
        With what resets lose.
    told : float
        As PromQL extrapolates.
    slack : float, >= 0
        What one event more or less, or one bucket, is worth.
    scale : float, > 0
        What the unexplained part is a share of, at least.
    in_log : bool
        False: the log knows nothing of it; `told` is of the scraped buckets.
    unexplained : float
        Share up to which it may differ without a word.
    """

    plain: float
    aligned: float
    binned: float
    raw: float
    told: float
    slack: float = 1.0
    scale: float = 1.0
    in_log: bool = True
    unexplained: float = UNEXPLAINED


@dataclass(frozen=True)
class ClosureRow:
    """One line of a closure.

    Attributes
    ----------
    family : str
        One of FAMILIES.
    panel : str
        Title of the dashboard's panel.
    label : str
        Which of its figures.
    unit : str
    shown : float
        The answer to the dashboard's own query; NaN: it gave nothing.
    chain : Chain
    has_birth : bool
        Series were born within the window: what was committed before they were first scraped is their birth.
    closure_ratio : float
        Share up to which `shown` and the log may differ, whatever explains it.
    """

    family: str
    panel: str
    label: str
    unit: str
    shown: float
    chain: Chain
    has_birth: bool
    closure_ratio: float

    @property
    def logged(self) -> float:
        """Return the log's figure; NaN where it has none."""
        return self.chain.plain if self.chain.in_log else math.nan

    @property
    def difference(self) -> float:
        """Return what is shown minus what was logged."""
        return _step(self.logged, self.shown)

    @property
    def parts(self) -> Mapping[str, float]:
        """Return what explains the difference, by PARTS; with `unexplained` they sum to it."""
        c = self.chain
        ends = _step(c.plain, c.aligned)
        return {
            "birth": ends if self.has_birth else 0.0,
            "boundary": (0.0 if self.has_birth else ends) + _step(c.raw, c.told),
            "reset": _step(c.binned, c.raw),
            "resolution": _step(c.aligned, c.binned),
        }

    @property
    def unexplained(self) -> float:
        """Return what is shown minus what Prometheus must answer; NaN where only one of the two exists."""
        return _step(self.chain.told, self.shown)

    @property
    def error(self) -> float:
        """Return the unexplained part as a share of the figure; 1 where only one of the two exists."""
        if math.isnan(self.unexplained):
            return 1.0
        return abs(self.unexplained) / max(abs(self.chain.told), self.chain.scale) if self.unexplained else 0.0

    @property
    def is_closed(self) -> bool:
        """Return whether nothing to speak of is unexplained, and the figure can be trusted to the closure ratio.

        What a restart loses of a process's own counters is not held against it.
        """
        if self.error > self.chain.unexplained:
            return False
        if math.isnan(self.logged) or math.isnan(self.shown):
            return True  # nothing on one side, and rightly: not in the log, or its only event lies at the boundary
        allowed = max(self.closure_ratio * abs(self.logged), self.chain.slack)
        return abs(self.difference - self.parts["reset"]) <= allowed * (1.0 + 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; null for NaN."""
        numbers = {
            "shown": self.shown,
            "logged": self.logged,
            "difference": self.difference,
            **self.parts,
            "unexplained": self.unexplained,
            "error": self.error,
        }
        return {
            "family": self.family,
            "panel": self.panel,
            "label": self.label,
            "unit": self.unit,
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
            "closed": self.is_closed,
        }


def _step(before: float, after: float) -> float:
    return 0.0 if math.isnan(before) and math.isnan(after) else after - before
