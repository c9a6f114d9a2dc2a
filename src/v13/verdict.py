"""The verdict: criteria with their evidence, and what they come to together; and what one notebook concludes.

Nothing here judges; the rules are in `measures`. All rooms speak of verdicts, so it lies below them all and imports
little: a deploy command need not load the statistics to read one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from v13.errors import DataError

__all__ = ["Criterion", "Status", "StepVerdict", "Verdict"]


class Status(StrEnum):
    """What is known of a criterion.

    INSUFFICIENT: looked at, too few events to tell. NOT_APPLICABLE: has no meaning on this data. NOT_RUN: can only be
    seen elsewhere (in the runner), and was not.
    """

    PASS = "PASS"
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"
    NOT_APPLICABLE = "NOT APPLICABLE"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Criterion:
    """One line of the acceptance table; None where a thing does not exist.

    key : short name, unique in a verdict.
    estimate, interval, threshold : in `unit`; threshold is a bound or a (low, high) band.
    p : the p-value that decides, corrected where the detail says so; p_naive : the textbook one beside it.
    n : events behind the estimate; needed : independent events it takes to tell.
    missing, wait_hours : of a criterion that lacks events, how many more it takes for a fair chance to pass, and the
        hours of further recording until they are there at the present rate, None where that rate is 0.
    detail : one sentence with the numbers.
    """

    key: str
    title: str
    status: Status
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | tuple[float, float] | None = None
    unit: str = ""
    p: float | None = None
    p_naive: float | None = None
    n: int | None = None
    needed: int | None = None
    detail: str = ""
    missing: int | None = None
    wait_hours: float | None = None

    def __post_init__(self) -> None:
        numbers = [self.estimate, self.p, self.p_naive, self.wait_hours, *(self.interval or ())]
        if any(x is not None and not math.isfinite(x) for x in numbers):
            raise DataError(f"criterion {self.key}: expected finite numbers or None, found {numbers}")

    @classmethod
    def not_run(
        cls,
        key: str,
        title: str,
        *,
        threshold: float | tuple[float, float] | None = None,
        unit: str = "",
        detail: str = "",
    ) -> Criterion:
        """Return a criterion nobody has looked at yet."""
        return cls(key, title, Status.NOT_RUN, threshold=threshold, unit=unit, detail=detail)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "key": self.key,
            "title": self.title,
            "status": self.status.value,
            "estimate": self.estimate,
            "interval": None if self.interval is None else list(self.interval),
            "threshold": list(self.threshold) if isinstance(self.threshold, tuple) else self.threshold,
            "unit": self.unit,
            "p": self.p,
            "p_naive": self.p_naive,
            "n": self.n,
            "needed": self.needed,
            "missing": self.missing,
            "wait_hours": self.wait_hours,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Verdict:
    """What the criteria come to."""

    overall: Status
    criteria: tuple[Criterion, ...]

    @classmethod
    def of(cls, criteria: Iterable[Criterion]) -> Verdict:
        """Combine criteria.

        FAIL if any fails; else INSUFFICIENT if any is; else PASS if at least one passes. NOT APPLICABLE and NOT RUN do
        not block, they are listed as `open`: a production deploy wants them closed. Nothing looked at: INSUFFICIENT.

        Raises
        ------
        DataError
            Two criteria have one key.
        """
        found = tuple(criteria)
        twice = [key for key, n in Counter(c.key for c in found).items() if n > 1]
        if twice:
            raise DataError(f"verdict: expected unique criteria, found more than one {', '.join(twice)}")
        statuses = {c.status for c in found}
        if Status.FAIL in statuses:
            overall = Status.FAIL
        elif Status.INSUFFICIENT in statuses or Status.PASS not in statuses:
            overall = Status.INSUFFICIENT
        else:
            overall = Status.PASS
        return cls(overall, found)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Verdict:
        """Rebuild from `to_dict`; the overall status is derived again, not believed.

        Raises
        ------
        DataError
            The document is malformed, or its overall status is not what its criteria come to.
        """
        try:
            criteria = [
                Criterion(
                    **{
                        **c,
                        "status": Status(c["status"]),
                        "interval": _pair(c["interval"]),
                        "threshold": _pair(c["threshold"]),
                    }
                )
                for c in document["criteria"]
            ]
            said = document["overall"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"verdict: not in the expected form ({error!r})") from error
        verdict = cls.of(criteria)
        if verdict.overall.value != said:
            raise DataError(f"verdict: says {said}, its criteria come to {verdict.overall.value}")
        return verdict

    @property
    def open(self) -> tuple[Criterion, ...]:
        """Criteria that were not judged: NOT RUN and NOT APPLICABLE."""
        return tuple(c for c in self.criteria if c.status in (Status.NOT_RUN, Status.NOT_APPLICABLE))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "overall": self.overall.value,
            "open": [c.key for c in self.open],
            "criteria": [c.to_dict() for c in self.criteria],
        }


@dataclass(frozen=True)
class StepVerdict:
    """What one notebook concludes: a status, a sentence, and the numbers behind it as plain JSON values."""

    notebook: str
    status: str
    summary: str
    numbers: Mapping[str, Any]

    def _repr_html_(self) -> str:
        return f"<p><b>{self.status}</b> &mdash; {self.summary}</p>"


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
