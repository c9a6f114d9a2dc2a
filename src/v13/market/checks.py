"""Judge the rows of a stream: every defect counted, and handled as the policy says.

Rows in order are judged block by block, in constant memory. A stream that turns out not to be in order says so
(`needs_memory`) and is then judged as a whole. Both ways give the same report on the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from v13.errors import DataError
from v13.market.formats import Source
from v13.market.policy import CHOICES, QualityPolicy
from v13.market.quality import (
    SEQUENCE_DEFECTS,
    FileQuality,
    Gap,
    QualityReport,
    Rule,
    sound_rules,
    value_rules,
)

__all__ = ["StreamChecker"]

MAX_EXAMPLES = 5
MAX_GAPS = 1_000
TIME_BACK_MS = 1_000  # a step back beyond this is a jump of the clock, not two messages that overtook each other
JUMP_RATIO = 2.0  # no liquid symbol does this from one row to the next ...
JUMP_WITHIN_MS = 86_400_000  # ... but over a hole of days it may
PRICE: Final = {
    "trades": ("px", "px"),
    "quotes": ("bid", "bid"),
    "klines": ("open", "close"),
    "bars": ("open", "close"),
}


@dataclass
class _Tally:
    rows: int = 0
    rows_kept: int = 0
    first_ts_ms: int | None = None
    last_ts_ms: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)


class StreamChecker:
    """Count and handle the defects of one stream.

    Parameters
    ----------
    kind : str
        trades, quotes, klines or bars.
    sources : sequence of Source
        Its files, in time order.
    policy : QualityPolicy
        What to do about each defect.
    max_gap_ms : int, milliseconds
        Longest silence that is no gap.
    """

    def __init__(self, kind: str, sources: Sequence[Source], policy: QualityPolicy, max_gap_ms: int) -> None:
        self.kind = kind
        self.needs_memory = False
        self._sources = sources
        self._policy = policy
        self._max_gap_ms = max_gap_ms
        self._time = "open_ts_ms" if kind == "klines" else "ts_ms"
        self._tallies = [_Tally() for _ in sources]
        self._totals = dict.fromkeys(("id_gaps", "gaps", "missing_bars", "partial_bars"), 0)
        self._gaps: list[Gap] = []
        # Carried from block to block: of rows as read ...
        self._file = -1
        self._seen_ms: int | None = None
        self._seen_id: int | None = None
        self._tie = pl.DataFrame()  # rows of the last millisecond: an equal row may follow
        # ... and of rows kept.
        self._kept_ms: int | None = None
        self._kept_px = np.nan

    def check(self, block: pl.DataFrame, file: int) -> pl.DataFrame:
        """Judge the next block of file number `file`; return the rows that go on.

        Raises
        ------
        DataError
            A defect whose policy is `fail`; the message names file, row, reason, and the setting to change.
        """
        rows = self._sound(block, file)
        if rows.is_empty():
            return rows
        if file != self._file and file > 0 and self._sources[file].id_space != self._sources[file - 1].id_space:
            self._seen_id, self._tie = None, pl.DataFrame()
        self._file = file
        is_repeat = self._repeats_in_order(rows)
        if is_repeat is None:
            self.needs_memory = True
            return rows.clear()
        return self._values(self._without_repeats(rows, is_repeat))

    def check_whole(self, blocks: Iterable[tuple[int, pl.DataFrame]]) -> pl.DataFrame:
        """Judge a whole stream of (file number, block) in whatever order it came; return the rows that go on, sorted.

        Raises
        ------
        DataError
            As `check`.
        """
        rows = pl.concat([self._sound(block, file) for file, block in blocks], how="diagonal").rechunk()
        time = pl.col(self._time)
        rows = rows.with_columns(
            is_late=(time < time.cum_max().shift(1)).fill_null(False),
            is_back=(time - time.shift(1) < -TIME_BACK_MS).fill_null(False),
        )
        self._handle(rows, pl.col("is_back"), "time_back", None, "")
        self._handle(rows, pl.col("is_late"), "out_of_order", "out_of_order", "time before that of an earlier row")
        rows = self._without_repeats(rows, self._repeats_anywhere(rows))
        if self._policy.out_of_order == "drop":
            rows = rows.filter(~pl.col("is_late"))
        return self._values(rows.drop("is_late", "is_back").sort(self._time, maintain_order=True))

    def count(self, defect: str, n: int) -> None:
        """Enter a count that only the making of bars can tell."""
        self._totals[defect] = n

    def report(self) -> QualityReport:
        """Return what was found.

        Raises
        ------
        DataError
            Aggregated and single trades of the same time were read into one stream.
        """
        spans = [
            (source, tally.first_ts_ms, tally.last_ts_ms)
            for source, tally in zip(self._sources, self._tallies, strict=True)
            if tally.first_ts_ms is not None and tally.last_ts_ms is not None
        ]
        for (a, a_first, a_last), (b, b_first, b_last) in combinations(spans, 2):
            if a.id_space != b.id_space and a_first < b_last and b_first < a_last:
                raise DataError(
                    f"{b.path}: row 1: holds {b.layout.name} of the same time as the {a.layout.name} of {a.path}; "
                    "together they would double the volume: give one of the two"
                )
        rules = (*sound_rules(self.kind, has_ids=True), *value_rules(self.kind))
        names = [rule.name for rule in rules] + list(SEQUENCE_DEFECTS[self.kind])
        counts = {
            name: sum(tally.counts.get(name, 0) for tally in self._tallies) + self._totals.get(name, 0)
            for name in names
        }
        settings = {rule.name: rule.setting for rule in rules}
        longest = sorted(self._gaps, key=lambda gap: -gap.length_ms)[:MAX_GAPS]
        return QualityReport(
            kind=self.kind,
            rows=sum(tally.rows for tally in self._tallies),
            rows_kept=sum(tally.rows_kept for tally in self._tallies),
            first_ts_ms=min((first for _, first, _ in spans), default=None),
            last_ts_ms=max((last for _, _, last in spans), default=None),
            counts=counts,
            policy={
                name: getattr(self._policy, setting)
                for name in names
                if (setting := settings.get(name, name)) is not None and setting in CHOICES
            },
            gaps=tuple(sorted(longest, key=lambda gap: gap.start_ms)),
            files=tuple(
                FileQuality(
                    path=str(source.path),
                    rows=tally.rows,
                    rows_kept=tally.rows_kept,
                    first_ts_ms=tally.first_ts_ms,
                    last_ts_ms=tally.last_ts_ms,
                    counts={name: tally.counts[name] for name in names if name in tally.counts},
                    examples={name: tuple(tally.examples[name]) for name in names if name in tally.examples},
                )
                for source, tally in zip(self._sources, self._tallies, strict=True)
            ),
        )

    def _sound(self, block: pl.DataFrame, file: int) -> pl.DataFrame:
        self._tallies[file].rows += block.height
        rows = block.with_columns(file=pl.lit(file, pl.UInt32))
        return self._apply(rows, sound_rules(self.kind, has_ids="id" in block.columns))

    def _apply(self, rows: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
        found = rows.select(rule.is_bad.fill_null(False).sum().alias(rule.name) for rule in rules).row(0)
        drop: list[pl.Expr] = []
        for rule, n in zip(rules, found, strict=True):
            is_bad = rule.is_bad.fill_null(False)
            if n and self._handle(rows, is_bad, rule.name, rule.setting, rule.what) == "drop":
                drop.append(is_bad)
        return rows.filter(~pl.any_horizontal(drop)) if drop else rows

    def _handle(self, rows: pl.DataFrame, is_bad: pl.Expr, name: str, setting: str | None, what: str) -> str:
        """Count the bad rows and return what the policy says of them; `fail` does not return if there are any."""
        action = "keep" if setting is None else str(getattr(self._policy, setting))
        bad = rows.filter(is_bad)
        if bad.height and action == "fail":
            raise self._failure(bad, str(setting), what)
        for (file,), part in bad.group_by("file", maintain_order=True):
            tally = self._tallies[int(str(file))]
            tally.counts[name] = tally.counts.get(name, 0) + part.height
            examples = tally.examples.setdefault(name, [])
            examples.extend(part["row"].head(MAX_EXAMPLES - len(examples)).to_list())
        return action

    def _failure(self, bad: pl.DataFrame, setting: str, what: str) -> DataError:
        row = bad.row(0, named=True)
        others = " or ".join(choice for choice in CHOICES[setting] if choice != "fail")
        values = ", ".join(
            f"{key} {row[key]}" for key in row if not key.startswith("is_") and key not in ("row", "file")
        )
        return DataError(
            f"{self._sources[row['file']].path}: row {row['row']}: {what} ({values}); "
            f"to go on all the same set quality.{setting} to {others}"
        )

    def _repeats_in_order(self, rows: pl.DataFrame) -> NDArray[np.bool_] | None:
        """Return which rows repeat an earlier one, or None if that needs the whole stream."""
        ts = rows[self._time].to_numpy()
        if (self._seen_ms is not None and ts[0] < self._seen_ms) or np.any(ts[1:] < ts[:-1]):
            return None
        self._seen_ms = int(ts[-1])
        if "id" not in rows.columns:
            values = rows.drop("row", "file")
            both = pl.concat([self._tie, values])
            is_equal = ~both.select(pl.struct(pl.all()).is_first_distinct()).to_series()
            n_tie, self._tie = self._tie.height, both.filter(pl.col(self._time) == self._seen_ms)
            return is_equal.to_numpy()[n_tie:]
        ids = rows["id"].to_numpy()
        step = np.diff(ids, prepend=ids[0] - 1 if self._seen_id is None else self._seen_id)
        if step.min() < 0:
            return None
        self._seen_id = int(ids[-1])
        self._id_gaps(rows, step)
        is_repeat: NDArray[np.bool_] = step == 0
        return is_repeat

    def _repeats_anywhere(self, rows: pl.DataFrame) -> NDArray[np.bool_]:
        is_repeat = np.zeros(rows.height, np.bool_)
        spaces = [source.id_space for source in self._sources]
        for space in dict.fromkeys(spaces):
            files = [file for file, other in enumerate(spaces) if other == space]
            at = rows.select(pl.col("file").is_in(files).arg_true()).to_series().to_numpy()
            part = rows[at]
            if self._time_is_key:
                key = pl.struct(self._time)
            else:
                key = pl.struct("id") if space is not None else pl.exclude("row", "file", "is_late", "is_back", "id")
            is_repeat[at] = ~part.select(pl.struct(key).is_first_distinct()).to_series().to_numpy()
            if space is not None and not self._time_is_key:
                unique = part.filter(~pl.Series(is_repeat[at])).sort("id")
                if unique.height:
                    ids = unique["id"].to_numpy()
                    self._id_gaps(unique, np.diff(ids, prepend=ids[0] - 1))
        return is_repeat

    @property
    def _time_is_key(self) -> bool:
        return self.kind in ("klines", "bars")

    def _without_repeats(self, rows: pl.DataFrame, is_repeat: NDArray[np.bool_]) -> pl.DataFrame:
        if not is_repeat.any():
            return rows
        rows = rows.with_columns(is_repeat=pl.Series(is_repeat))
        has_key = pl.lit(self._time_is_key) if "id" not in rows.columns else pl.col("id").is_not_null()
        drop: list[pl.Expr] = []
        for name, is_bad, what in (
            ("duplicates", pl.col("is_repeat") & has_key, "an earlier row has the same id or time"),
            ("equal_rows", pl.col("is_repeat") & ~has_key, "equal to an earlier row"),
        ):
            if self._handle(rows, is_bad, name, name, what) == "drop":
                drop.append(is_bad)
        return (rows.filter(~pl.any_horizontal(drop)) if drop else rows).drop("is_repeat")

    def _id_gaps(self, rows: pl.DataFrame, step: NDArray[np.int64]) -> None:
        """Count the ids left out; only trades number without holes, quote updates do not."""
        n_missing = int(step.sum() - np.count_nonzero(step))
        if self.kind != "trades" or n_missing == 0:
            return
        if self._policy.id_gaps == "fail":
            raise self._failure(rows.filter(pl.Series(step > 1)), "id_gaps", "trade ids before this one are missing")
        self._totals["id_gaps"] += n_missing

    def _values(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Judge the values of rows in order, then the steps between those that stay."""
        rows = self._apply(rows, value_rules(self.kind))
        if rows.is_empty():
            return rows
        ts = rows[self._time].to_numpy()
        step = np.diff(ts, prepend=ts[0] if self._kept_ms is None else self._kept_ms)
        at = np.flatnonzero(step > self._max_gap_ms)
        if at.size and self._policy.gaps == "fail":
            raise self._failure(rows[at], "gaps", f"a silence of {step[at[0]]} ms before this row")
        self._totals["gaps"] += at.size
        self._gaps.extend(Gap(int(ts[i] - step[i]), int(ts[i]), int(step[i])) for i in at)
        first, last = (rows[name].to_numpy() for name in PRICE[self.kind])
        before = np.concatenate(([self._kept_px], last[:-1]))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = first / before
        is_jump = ((ratio > JUMP_RATIO) | (ratio < 1 / JUMP_RATIO)) & (step <= JUMP_WITHIN_MS)
        if is_jump.any():
            old, new = before[is_jump][0], first[is_jump][0]
            what = f"price went from {old} to {new} in one step: two symbols in one file?"
            self._handle(rows.with_columns(is_jump=is_jump), pl.col("is_jump"), "price_jump", "price_jump", what)
        self._kept_ms, self._kept_px = int(ts[-1]), float(last[-1])
        is_one_file = rows["file"].min() == rows["file"].max()
        for part in [rows] if is_one_file else rows.partition_by("file"):
            self._note_span(self._tallies[part["file"][0]], part[self._time], part.height)
        return rows

    @staticmethod
    def _note_span(tally: _Tally, ts: pl.Series, n_rows: int) -> None:
        first, last = int(ts[0]), int(ts[-1])
        tally.rows_kept += n_rows
        tally.first_ts_ms = first if tally.first_ts_ms is None else min(tally.first_ts_ms, first)
        tally.last_ts_ms = last if tally.last_ts_ms is None else max(tally.last_ts_ms, last)
