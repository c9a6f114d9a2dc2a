"""What can be wrong with recorded rows, and the report of what was.

Definitions and records only: `v13.market.checks` does the counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

import polars as pl

from v13.market.formats import FIRST_MS, LAST_MS

__all__ = ["SEQUENCE_DEFECTS", "FileQuality", "Gap", "QualityReport", "Rule", "sound_rules", "value_rules"]

# Defects that show only between rows; the others are the rules below.
SEQUENCE_DEFECTS: Final = {
    "trades": ("out_of_order", "time_back", "duplicates", "equal_rows", "id_gaps", "price_jump", "gaps"),
    "quotes": ("out_of_order", "time_back", "duplicates", "equal_rows", "price_jump", "gaps"),
    "klines": ("out_of_order", "time_back", "duplicates", "price_jump", "gaps", "missing_bars", "partial_bars"),
    "bars": ("out_of_order", "time_back", "duplicates", "price_jump", "gaps", "missing_bars", "partial_bars"),
}


@dataclass(frozen=True)
class Gap:
    """A silence: from the last row before it to the first row after it, epoch milliseconds."""

    start_ms: int
    end_ms: int
    length_ms: int


@dataclass(frozen=True)
class FileQuality:
    """What was found in one file: rows by defect, and up to five row numbers (1-based) of each."""

    path: str
    rows: int
    rows_kept: int
    first_ts_ms: int | None
    last_ts_ms: int | None
    counts: dict[str, int]
    examples: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class QualityReport:
    """What was found in one stream: the rows of one kind of one symbol, from one file or many.

    Attributes
    ----------
    kind : str
        trades, quotes, klines or bars.
    rows, rows_kept : int
        Rows read, and rows that went on.
    first_ts_ms, last_ts_ms : int or None, epoch milliseconds
        Span of the rows kept; open times of klines, close times of bars.
    counts : dict
        Rows by defect, every defect of the kind, also at 0. A row may have several. `time_back` counts rows more than a
        second before their neighbour, `out_of_order` rows before any earlier row; `id_gaps` counts ids left out, `gaps`
        silences, `missing_bars` bars that the grid should have, `partial_bars` bars left over when bars are made
        longer.
    policy : dict
        What was done about each defect that has a setting.
    gaps : tuple of Gap
        In time order; the 1,000 longest if there are more.
    files : tuple of FileQuality
        In the order they were read.
    """

    kind: str
    rows: int
    rows_kept: int
    first_ts_ms: int | None
    last_ts_ms: int | None
    counts: dict[str, int]
    policy: dict[str, str]
    gaps: tuple[Gap, ...]
    files: tuple[FileQuality, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; equal reports give equal text."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """A defect that a row shows by itself; without a setting it is counted and kept."""

    name: str
    is_bad: pl.Expr
    what: str
    setting: str | None


@cache
def sound_rules(kind: str, *, has_ids: bool) -> Sequence[Rule]:
    """Return the rules that make a row fit for comparison: no holes in it, and a time that is one."""
    col = pl.col
    time, exact, floats = {
        "trades": ("ts_ms", ["sign"], ["px", "qty"]),
        "quotes": ("ts_ms", [], ["bid", "bid_qty", "ask", "ask_qty"]),
        "klines": ("open_ts_ms", [], ["open", "high", "low", "close", "volume"]),
        "bars": ("ts_ms", ["n_trades", "n_quotes", "lag_trade_ms", "lag_quote_ms"], ["volume", "delta"]),
    }[kind]
    exact = [time, *exact, *(["id"] if has_ids else [])]
    holes = [col(name).is_null() for name in exact] + [~col(name).is_finite().fill_null(False) for name in floats]
    rules = [
        Rule("missing", pl.any_horizontal(holes), "a value is missing or not finite", "missing"),
        Rule("unit_mix", ~col(time).is_between(FIRST_MS, LAST_MS, closed="left"), "time in another unit", "unit_mix"),
    ]
    if kind == "klines":
        unknown = col("n_trades").is_null() | ~col("taker_buy_volume").is_finite().fill_null(False)
        rules.append(Rule("incomplete_bar", unknown, "no trade count or taker volume", "incomplete_bar"))
    return tuple(rules)


@cache
def value_rules(kind: str) -> Sequence[Rule]:
    """Return the rules that judge the values of a sound row."""
    col = pl.col
    if kind == "trades":
        return (
            Rule("bad_price", col("px") <= 0, "price of zero or less", "bad_price"),
            Rule("negative_size", col("qty") < 0, "negative size", "negative_size"),
            Rule("zero_size", col("qty") == 0, "size of zero", "zero_size"),
        )
    if kind == "quotes":
        return (
            Rule("bad_price", (col("bid") <= 0) | (col("ask") <= 0), "price of zero or less", "bad_price"),
            Rule("negative_size", (col("bid_qty") < 0) | (col("ask_qty") < 0), "negative size", "negative_size"),
            Rule("zero_size", (col("bid_qty") == 0) | (col("ask_qty") == 0), "size of zero", "zero_size"),
            Rule("crossed", col("bid") > col("ask"), "bid above ask", "crossed"),
            Rule("locked", col("bid") == col("ask"), "bid equal to ask", "locked"),
        )
    prices = [col(name) for name in ("open", "high", "low", "close")]
    # Bars of ours have no price before the first trade; NaN would compare as the largest number.
    has_price = pl.all_horizontal(price.is_finite().fill_null(False) for price in prices)
    outside = (col("high") < pl.max_horizontal(prices)) | (col("low") > pl.min_horizontal(prices))
    rules = [
        Rule("bad_price", pl.any_horizontal(price <= 0 for price in prices), "price of zero or less", "bad_price"),
        Rule("negative_size", col("volume") < 0, "negative volume", "negative_size"),
        Rule("bad_range", has_price & outside, "high and low do not hold open and close", "bad_bar"),
        Rule("zero_volume", col("volume") == 0, "no volume", None),
    ]
    if kind == "klines":
        taker = col("taker_buy_volume")
        too_much = (taker > col("volume")) | (taker < 0) | (col("n_trades") < 0)
        rules.append(Rule("taker_above_volume", too_much, "taker volume not within volume", "bad_bar"))
    return tuple(rules)
