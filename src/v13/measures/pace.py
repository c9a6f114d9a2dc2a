"""The price of not knowing: how many more events a criterion takes, and how long they are in coming.

Nothing here changes a status; it only says what an INSUFFICIENT one would cost to settle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from v13.errors import DataError
from v13.verdict import Criterion, Status

__all__ = ["Pace", "duration", "priced"]

HOURS_A_MONTH = 365.25 * 24 / 12


@dataclass(frozen=True)
class Pace:
    """How fast a part of the record grows.

    hours : float, >= 0, recorded hours of the part; time several symbols share counts once.
    share : float, in (0, 1], of all further recording that goes to the part.
    part : its name in a sentence.
    """

    hours: float
    share: float
    part: str = "holdout"

    def __post_init__(self) -> None:
        if not (self.hours >= 0 and 0 < self.share <= 1):
            raise DataError(f"pace: expected hours >= 0 and share in (0, 1], found {self.hours}, {self.share}")

    def wait_hours(self, missing: int, n: int) -> float | None:
        """Return the hours of further *recording* until `missing` more events are there, n having come so far.

        None where no event ever came, or nothing was recorded.
        """
        if n <= 0 or self.hours <= 0:
            return None
        return missing * self.hours / n / self.share

    def sentence(self, missing: int, n: int, whose: str = "all symbols together") -> str:
        """Return what `missing` more events take, n having come so far; `whose` says which events are counted."""
        wait = self.wait_hours(missing, n)
        if wait is None:
            return f"It takes {missing:,} more; at the present rate (no event) never."
        return (
            f"It takes {missing:,} more: about {duration(wait * self.share)} of {self.part} at the present "
            f"{_rate(n / self.hours)} ({whose}), that is {duration(wait)} of recording, as the {self.part} is "
            f"{100 * self.share:.0f} % of it."
        )


def priced(criterion: Criterion, pace: Pace, n: int | None = None, whose: str = "all symbols together") -> Criterion:
    """Return an INSUFFICIENT criterion with its price; any other as it is.

    Parameters
    ----------
    criterion : Criterion
        Priced where it is INSUFFICIENT and has fewer events than `needed`.
    pace : Pace
        Of the part its events come from.
    n : int, optional
        Events to count from; default the criterion's own. A family of buckets counts its fullest.
    whose : str
        Which events the rate counts.

    Returns
    -------
    Criterion
        With `missing`, `wait_hours`, and a sentence at the end of `detail`.
    """
    have = criterion.n if n is None else n
    if criterion.status is not Status.INSUFFICIENT or have is None or not criterion.needed or have >= criterion.needed:
        return criterion
    missing = criterion.needed - have
    return replace(
        criterion,
        missing=missing,
        wait_hours=pace.wait_hours(missing, have),
        detail=f"{criterion.detail} {pace.sentence(missing, have, whose)}",
    )


def duration(hours: float) -> str:
    """Return a length of time for the eye: minutes, hours (up to two days), days (up to two months), months or years.

    Parameters
    ----------
    hours : float, >= 0
    """
    for scale, limit, unit in ((60.0, 1.0, "minute"), (1.0, 48.0, "hour"), (1 / 24, 60 * 24.0, "day")):
        if hours < limit:
            return _counted(hours * scale, unit)
    months = hours / HOURS_A_MONTH
    return _counted(months, "month") if months < 24 else _counted(months / 12, "year")


def _counted(value: float, unit: str) -> str:
    text = f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
    return f"{text} {unit}" if text == "1.0" else f"{text} {unit}s"


def _rate(per_hour: float) -> str:
    # A rate that reads as 0.00 says nothing: take the unit in which about one event or more comes.
    for scale, unit in ((1.0, "an hour"), (24.0, "a day"), (HOURS_A_MONTH, "a month")):
        if per_hour * scale >= 1:
            return f"{per_hour * scale:,.1f} {unit}"
    return f"{per_hour * 12 * HOURS_A_MONTH:,.2g} a year"
