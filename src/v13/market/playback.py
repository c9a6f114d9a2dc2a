"""Recordings played back: their sound rows in order of time, block by block, as a live feed would bring them.

The rows, and what is said of their defects, are those `market.load` makes its bars of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from v13.market.checks import StreamChecker
from v13.market.formats import Source
from v13.market.intake import NO_ID, QUOTE, TRADE
from v13.market.policy import TICK_BAR_MS, ReadPolicy
from v13.market.recording import (
    SymbolFiles,
    group_files,
    load,
    rows_in_order,
    rows_sorted,
    sources_by_symbol,
)

__all__ = ["Block", "Playback", "open_playback"]

FIELDS = {"trades": TRADE.names or (), "quotes": QUOTE.names or ()}


@dataclass(frozen=True)
class Block:
    """Rows of one stream, in order of time: (n,) arrays, one a field of `intake.TRADE` or QUOTE.

    until_ms: no row of either stream that comes later lies before it; None after the last row.
    """

    kind: str
    columns: tuple[NDArray[Any], ...]
    until_ms: int | None


@dataclass(frozen=True, eq=False)
class Playback:
    """One symbol's recording, checked and ready to be played.

    Attributes
    ----------
    bars : (n,) BAR or None
        Of a recording of klines or bars, which has no rows to play.
    paths : tuple of Path
    """

    symbol: str
    market: str
    clock: str
    bar_ms: int
    has_trades: bool
    has_quotes: bool
    simulated: bool
    bars: NDArray[Any] | None
    paths: tuple[Path, ...]
    _files: SymbolFiles
    _policy: ReadPolicy
    _unsorted: frozenset[str]

    def blocks(self, from_ms: int = 0) -> Iterator[Block]:
        """Yield all rows at or after `from_ms` (epoch ms), the stream that is behind first."""
        streams = {kind: self._rows(kind, sources) for kind, sources in sorted(self._files.by_kind.items())}
        reached = dict.fromkeys(streams, -1)
        while reached:
            kind = min(reached, key=reached.__getitem__)
            rows = next(streams[kind], None)
            if rows is None:
                del reached[kind]
            elif rows.height:
                reached[kind] = int(rows["ts_ms"][-1])
            until = min(reached.values()) if reached else None
            columns = () if rows is None else _columns(kind, rows, from_ms)
            if columns or until is None or rows is None:
                yield Block(kind, columns or _nothing(kind), until)

    def _rows(self, kind: str, sources: Sequence[Source]) -> Iterator[pl.DataFrame]:
        checker = StreamChecker(kind, sources, self._policy.quality, self._policy.gap_ms(self.bar_ms))
        read = rows_sorted if kind in self._unsorted else rows_in_order
        return read(checker, sources, self.clock, self._policy)


def open_playback(
    paths: str | Path | Sequence[str | Path], *, symbol: str | None = None, policy: ReadPolicy | None = None
) -> dict[str, Playback]:
    """Open recordings for playing; reads them once, so that a defect that fails a file stops nothing half-way.

    Parameters and errors are those of `market.load`.

    Returns
    -------
    dict of Playback
        By symbol, in alphabetical order.
    """
    rules = policy or ReadPolicy()
    found = {}
    for name, sources in sorted(sources_by_symbol(paths, symbol, rules).items()):
        files = group_files(name, sources)
        ticks = set(files.by_kind) <= {"trades", "quotes"}
        bars, bar_ms, unsorted = None, rules.bar_ms or TICK_BAR_MS, set()
        has_trades, has_quotes = "trades" in files.by_kind, "quotes" in files.by_kind
        if not ticks:
            recording = load([s.path for s in sources], symbol=name, policy=rules)[name]
            bars, bar_ms = recording.bars, recording.bar_ms
            has_trades, has_quotes = recording.has_trades, recording.has_quotes
        for kind, group in files.by_kind.items() if ticks else ():
            checker = StreamChecker(kind, group, rules.quality, rules.gap_ms(bar_ms))
            for _ in rows_in_order(checker, group, files.clock, rules):
                pass
            if checker.needs_memory:
                unsorted.add(kind)
                for _ in rows_sorted(
                    StreamChecker(kind, group, rules.quality, rules.gap_ms(bar_ms)), group, files.clock, rules
                ):
                    pass
        found[name] = Playback(
            name,
            files.market,
            files.clock,
            bar_ms,
            has_trades,
            has_quotes,
            files.simulated,
            bars,
            tuple(s.path for s in sources),
            files,
            rules,
            frozenset(unsorted),
        )
    return found


def _columns(kind: str, rows: pl.DataFrame, from_ms: int) -> tuple[NDArray[Any], ...]:
    if rows.height and rows["ts_ms"][0] < from_ms:
        rows = rows.filter(pl.col("ts_ms") >= from_ms)
    if not rows.height:
        return ()
    if "id" not in rows.columns:
        rows = rows.with_columns(pl.lit(NO_ID, pl.Int64).alias("id"))
    elif rows["id"].null_count():
        rows = rows.with_columns(pl.col("id").fill_null(NO_ID))
    return tuple(rows[name].to_numpy() for name in FIELDS[kind])


def _nothing(kind: str) -> tuple[NDArray[Any], ...]:
    dtype = TRADE if kind == "trades" else QUOTE
    return tuple(np.empty(0, dtype[name]) for name in FIELDS[kind])
