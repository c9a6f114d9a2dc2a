"""The local trading session of a moment: day or night by the clock of a time zone, daylight saving included."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from v13.errors import ConfigError

__all__ = ["SessionClock"]

MINUTE_MS = 60_000
QUARTER_MINUTES = 15  # no zone has changed its offset elsewhere than on a quarter hour since 1970 (tz database)


class SessionClock:
    """Flag moments as day (1) or night (0).

    Parameters
    ----------
    timezone : str
        IANA name.
    day_start, day_end : str
        Local "HH:MM"; the day is [start, end) and may not be empty.

    Raises
    ------
    ConfigError
        The zone is unknown, or a time cannot be read, or the day is empty.
    """

    def __init__(self, timezone: str = "UTC", day_start: str = "09:00", day_end: str = "17:00") -> None:
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(f"timezone: expected an IANA zone such as Europe/Berlin, found {timezone!r}") from error
        self._start, self._end = _minutes(day_start), _minutes(day_end)
        if self._start >= self._end:
            raise ConfigError(f"day_start: expected before day_end ({day_end}), found {day_start}")
        self._minute = -1
        self._flag = 0

    def flags(self, ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) int64 flags of (n,) int64 moments, UTC epoch ms."""
        minutes, where = np.unique(ts_ms // MINUTE_MS, return_inverse=True)
        quarters, of_quarter = np.unique(minutes // QUARTER_MINUTES, return_inverse=True)
        offsets = np.array([self._offset_minutes(int(q)) for q in quarters], np.int64)
        local = (minutes + offsets[of_quarter]) % 1440 if len(minutes) else minutes
        flags = ((local >= self._start) & (local < self._end)).astype(np.int64)
        return flags[where]

    def flag(self, ts_ms: int) -> int:
        """Return the flag of one moment; cheap while moments stay within a minute."""
        minute = ts_ms // MINUTE_MS
        if minute != self._minute:
            local = (minute + self._offset_minutes(minute // QUARTER_MINUTES)) % 1440
            self._minute, self._flag = minute, int(self._start <= local < self._end)
        return self._flag

    def _offset_minutes(self, quarter: int) -> int:
        moment = datetime.fromtimestamp(quarter * QUARTER_MINUTES * 60, tz=UTC).astimezone(self._zone)
        offset = moment.utcoffset()
        return 0 if offset is None else int(offset.total_seconds() // 60)


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit()) or int(minutes) > 59 or int(hours) * 60 + int(minutes) > 1440:
        raise ConfigError(f"session time: expected HH:MM, found {text!r}")
    return int(hours) * 60 + int(minutes)
