"""Which samples a range `[w]` of PromQL holds: Prometheus 2 counts the one at its very start, Prometheus 3 does not.

Only that is known here; what is made of the samples is not.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Ranges"]


class Ranges(Enum):
    """What a range or subquery holds; the value is the major version of Prometheus."""

    CLOSED = 2  # [t - w, t]
    LEFT_OPEN = 3  # (t - w, t]

    @classmethod
    def of(cls, major: int) -> Ranges:
        """Return what a major version of Prometheus does."""
        return cls.CLOSED if major < cls.LEFT_OPEN.value else cls.LEFT_OPEN

    def n_samples(self, window_s: int, step_s: int) -> int:
        """Return how many samples a range holds: one at its end, and one each step before."""
        return (window_s - (self is Ranges.LEFT_OPEN)) // step_s + 1
