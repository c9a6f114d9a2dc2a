"""What reading does with each defect, and the limits it reads within.

Settings only: nothing here looks at data. `v13.config` fills these from its files; the defaults are those of the
product.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from v13.errors import ConfigError

__all__ = ["QualityPolicy", "ReadPolicy"]

TICK_BAR_MS = 1_000  # SPEC 2: 1 s bars on ticks
MIN_GAP_MS = 30_000  # a liquid symbol is never silent for half a minute while its feed lives

# What each setting of QualityPolicy may say.
CHOICES: Final = {
    "duplicates": ("drop", "keep", "fail"),
    "equal_rows": ("keep", "drop", "fail"),
    "out_of_order": ("sort", "drop", "fail"),
    "missing": ("fail", "drop"),
    "unit_mix": ("fail", "drop"),
    "bad_price": ("fail", "drop"),
    "negative_size": ("fail", "drop"),
    "zero_size": ("drop", "keep", "fail"),
    "crossed": ("drop", "keep", "fail"),
    "locked": ("keep", "drop", "fail"),
    "price_jump": ("fail", "keep"),
    "incomplete_bar": ("drop", "fail"),
    "bad_bar": ("fail", "drop"),
    "gaps": ("keep", "fail"),
    "id_gaps": ("keep", "fail"),
}


@dataclass(frozen=True)
class QualityPolicy:
    """Say what happens to each defect: `drop` the row, `keep` it, or `fail` the file.

    Every defect is counted whatever its policy. A defect that no honest recording has fails by default; one that
    recordings do have, and that leaves the other rows true, drops or keeps.

    Attributes
    ----------
    duplicates : drop | keep | fail
        Same id twice (klines: same open time). The first stays: a second recorder repeats what the first one said.
    equal_rows : keep | drop | fail
        Rows equal in time, price, size and side where the source has no ids. Separate fills look equal, so they stay.
    out_of_order : sort | drop | fail
        Time below the latest time already read. Sorting is stable: rows of one millisecond keep their order.
    missing : fail | drop
        A null, NaN or infinite value.
    unit_mix : fail | drop
        A time that is no epoch time in the unit of the file's first row.
    bad_price : fail | drop
        Price of zero or less: no market prints it, so the rest of such a file is not to be trusted either.
    negative_size : fail | drop
        Size below zero.
    zero_size : drop | keep | fail
        Size of zero: a trade that moved nothing, or a side of the book that is empty and has no best price.
    crossed, locked : drop | keep | fail
        Best bid above, or equal to, the best ask.
    price_jump : fail | keep
        Neighbouring prices (within a day) differ by a factor above 2: two symbols in one file.
    incomplete_bar : drop | fail
        A kline without trade count or taker volume: its delta is unknown.
    bad_bar : fail | drop
        A kline with high below low, open or close outside them, or taker volume above volume.
    gaps, id_gaps : keep | fail
        Silence longer than `max_gap_ms` (klines: missing bars); trade ids left out.
    """

    duplicates: str = "drop"
    equal_rows: str = "keep"
    out_of_order: str = "sort"
    missing: str = "fail"
    unit_mix: str = "fail"
    bad_price: str = "fail"
    negative_size: str = "fail"
    zero_size: str = "drop"
    crossed: str = "drop"
    locked: str = "keep"
    price_jump: str = "fail"
    incomplete_bar: str = "drop"
    bad_bar: str = "fail"
    gaps: str = "keep"
    id_gaps: str = "keep"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value not in CHOICES[item.name]:
                choices = " | ".join(CHOICES[item.name])
                raise ConfigError(f"quality.{item.name}: expected {choices}, found {value!r}")


@dataclass(frozen=True)
class ReadPolicy:
    """Say how recordings become bars, and how much a file may ask of this machine.

    Attributes
    ----------
    bar_ms : int or None, milliseconds, >= 1
        Bar length. None: 1,000 on ticks, the native length on klines and bars. Klines and bars take any multiple of
        theirs.
    max_gap_ms : int or None, milliseconds, >= 0
        Longest silence that empty bars bridge. None: 30,000 or three bars, whichever is longer.
    quality : QualityPolicy
        What happens to each defect.
    max_inflated_bytes : int, bytes
        A packed file that inflates beyond this is refused.
    max_ratio, ratio_free_bytes : int, times and bytes
        A packed file that inflates beyond `ratio_free_bytes` and by more than `max_ratio` times is refused: market
        data packs 4-10 times.
    block_bytes : int, bytes, >= 1
        Text is read in blocks of about this size. It changes speed and memory, never a result.
    """

    bar_ms: int | None = None
    max_gap_ms: int | None = None
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    max_inflated_bytes: int = 64 << 30
    max_ratio: int = 200
    ratio_free_bytes: int = 1 << 30
    block_bytes: int = 8 << 20  # fits the last-level cache: 32 MiB blocks parse 1.7 times slower

    def __post_init__(self) -> None:
        for name, least in (
            ("bar_ms", 1),
            ("max_gap_ms", 0),
            ("max_inflated_bytes", 1),
            ("max_ratio", 1),
            ("ratio_free_bytes", 0),
            ("block_bytes", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: expected at least {least}, found {value}")

    def gap_ms(self, bar_ms: int) -> int:
        """Return the longest silence, in milliseconds, that bars of `bar_ms` bridge."""
        return max(MIN_GAP_MS, 3 * bar_ms) if self.max_gap_ms is None else self.max_gap_ms
