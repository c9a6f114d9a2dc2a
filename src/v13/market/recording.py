"""Recordings: files in, bars of one symbol out, with what they were made of and how good it was.

The one door between recorded data and the rest of v13. Nothing leaves it half loaded: an error anywhere is an error
of the whole call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from v13.detector.dtypes import BAR
from v13.errors import DataError
from v13.market.bars import BarBuilder, bars_from_klines, push_tape, resample
from v13.market.checks import StreamChecker
from v13.market.formats import Source, recognise
from v13.market.policy import TICK_BAR_MS, ReadPolicy
from v13.market.quality import QualityReport
from v13.market.readers import read_blocks

__all__ = ["Recording", "SourceFile", "load"]

DATA_SUFFIXES: Final = (".parquet", ".zip", ".csv", ".csv.gz")  # what a folder is searched for


@dataclass(frozen=True)
class SourceFile:
    """A file a recording was made of; `path` as it was given, `rows` as they were read."""

    path: str
    sha256: str
    n_bytes: int
    kind: str
    rows: int


@dataclass(frozen=True, eq=False)
class Recording:
    """The bars of one symbol and where they come from.

    Attributes
    ----------
    symbol, market : str
        For example `BTCUSDT`; `spot`, `usdm` or `unknown`.
    clock : str
        Whose clock the times are from: `exchange`, or `receive` for the recorder's.
    bar_ms : int, milliseconds
        Bar length.
    bars : (n,) BAR, n >= 1
        In time order, on the UTC grid; holes where nothing was recorded.
    has_trades, has_quotes : bool
        Whether the CVD and the OFI channel exist. Klines count as trades.
    simulated : bool
        True if the tape says that it was made up.
    truth : dict or None
        What the simulator planted.
    sources : tuple of SourceFile
        In the order they were read.
    quality : dict of QualityReport
        By kind: trades, quotes, klines or bars.
    """

    symbol: str
    market: str
    clock: str
    bar_ms: int
    bars: NDArray[Any]
    has_trades: bool
    has_quotes: bool
    simulated: bool
    truth: dict[str, Any] | None
    sources: tuple[SourceFile, ...]
    quality: dict[str, QualityReport]


def load(
    paths: str | Path | Sequence[str | Path], *, symbol: str | None = None, policy: ReadPolicy | None = None
) -> dict[str, Recording]:
    """Read recorded data of any known layout and return its bars by symbol.

    Parameters
    ----------
    paths : path or sequence of paths
        Files, and folders, which stand for all data files in and below them. Files of one symbol and kind are joined
        in time order; trades and quotes of one symbol become one recording.
    symbol : str or None
        Only this symbol. It also names files that do not say theirs.
    policy : ReadPolicy or None
        Bar length, gaps, what to do about defects, limits. None: the defaults.

    Returns
    -------
    dict of Recording
        By symbol, in alphabetical order; at least one.

    Raises
    ------
    DataError
        Nothing to read, an unknown layout, a damaged file, a defect whose policy is `fail`, or files that do not go
        together; the message names the file, and the row where there is one.
    """
    rules = policy or ReadPolicy()
    by_symbol = sources_by_symbol(paths, symbol, rules)
    return {name: _load_symbol(name, by_symbol[name], rules) for name in sorted(by_symbol)}


def sources_by_symbol(
    paths: str | Path | Sequence[str | Path], symbol: str | None, policy: ReadPolicy
) -> dict[str, list[Source]]:
    """Recognise all files of `paths`, or those of one symbol; errors as `load`."""
    by_symbol: dict[str, list[Source]] = {}
    for path in _files(paths):
        source = recognise(path, policy)
        name = source.symbol or symbol
        if name is None:
            raise DataError(
                f"{path}: nothing says which symbol this is; name it like BTCUSDT-trades.csv or give the symbol"
            )
        if symbol is None or name == symbol.upper():
            by_symbol.setdefault(name, []).append(source)
    if not by_symbol:
        raise DataError(f"no file of {symbol} among the paths given")
    return by_symbol


def _files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    found: dict[Path, Path] = {}  # by real path: a file named twice is read once
    for path in [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]:
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.name.lower().endswith(DATA_SUFFIXES) and file.is_file()
            )
            inside = [file for file in inside if not file.name.startswith(".")]
            if not inside:
                raise DataError(f"{path}: the folder holds no data file ({', '.join(DATA_SUFFIXES)})")
        elif path.is_file():
            inside = [path]
        else:
            raise DataError(f"{path}: no such file or folder")
        for file in inside:
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("no data: expected at least one file or folder")
    return list(found.values())


@dataclass(frozen=True)
class SymbolFiles:
    """The files of one symbol: by kind in order of time, with what they say in common."""

    by_kind: dict[str, list[Source]]
    market: str
    clock: str
    simulated: bool


def group_files(symbol: str, sources: Sequence[Source]) -> SymbolFiles:
    """Sort the files of a symbol, and refuse those that do not go together; errors as `load`."""
    market = _the_one(symbol, "market", {source.market: source for source in sources if source.market != "unknown"})
    simulated = _the_one(symbol, "origin", {("real", "simulated")[source.simulated]: source for source in sources})
    by_kind: dict[str, list[Source]] = {}
    for source in sources:
        by_kind.setdefault(source.kind, []).append(source)
    if not set(by_kind) <= {"trades", "quotes"} and len(by_kind) > 1:
        first = " and ".join(f"{kind} ({group[0].path})" for kind, group in sorted(by_kind.items()))
        raise DataError(f"{symbol}: {first} tell of the same market twice; give either ticks, klines or bars")
    clock = _clock(symbol, sources)
    for group in by_kind.values():
        group.sort(key=lambda source: (source.first_ms[clock], str(source.path)))
    return SymbolFiles(by_kind, market or "unknown", clock, simulated == "simulated")


def _load_symbol(symbol: str, sources: Sequence[Source], policy: ReadPolicy) -> Recording:
    files = group_files(symbol, sources)
    by_kind, clock = files.by_kind, files.clock
    if "klines" in by_kind or "bars" in by_kind:
        (kind,) = by_kind
        bars, bar_ms, quality = _bars_of_bars(kind, by_kind[kind], clock, policy)
        has_trades, has_quotes = bool(bars["lag_trade_ms"].max() >= 0), bool(np.isfinite(bars["ofi"]).any())
    else:
        bar_ms = policy.bar_ms or TICK_BAR_MS
        bars, quality = _bars_of_ticks(by_kind, clock, bar_ms, policy)
        has_trades, has_quotes = "trades" in by_kind, "quotes" in by_kind
    if bars.size == 0:
        raise DataError(f"{sources[0].path}: row 1: no row is left after the quality policy, so there is no bar")
    rows = {file.path: file.rows for report in quality.values() for file in report.files}
    return Recording(
        symbol=symbol,
        market=files.market,
        clock=clock,
        bar_ms=bar_ms,
        bars=bars,
        has_trades=has_trades,
        has_quotes=has_quotes,
        simulated=files.simulated,
        truth=next((source.truth for source in sources if source.truth is not None), None),
        sources=tuple(
            _source_file(source, rows[str(source.path)]) for kind in sorted(by_kind) for source in by_kind[kind]
        ),
        quality=quality,
    )


def _the_one(symbol: str, what: str, found: dict[str, Source]) -> str | None:
    if len(found) > 1:
        told = ", ".join(f"{name} ({source.path})" for name, source in sorted(found.items()))
        raise DataError(f"{symbol}: files of more than one {what}: {told}; give one at a time")
    return next(iter(found), None)


def _clock(symbol: str, sources: Sequence[Source]) -> str:
    """Choose the clock that every file has, the exchange's if there is a choice: two clocks are never mixed."""
    for clock in ("exchange", "receive"):
        if all(clock in source.first_ms for source in sources):
            return clock
    told = ", ".join(f"{source.path} has {' and '.join(source.first_ms)}" for source in sources)
    raise DataError(f"{symbol}: no clock is common to all files, and two clocks are never mixed: {told}")


def _bars_of_ticks(
    by_kind: dict[str, list[Source]], clock: str, bar_ms: int, policy: ReadPolicy
) -> tuple[NDArray[Any], dict[str, QualityReport]]:
    """Build bars block by block; a stream found out of order starts everything again with that stream in memory."""
    max_gap_ms = policy.gap_ms(bar_ms)
    in_memory: set[str] = set()
    while True:
        checkers = {kind: StreamChecker(kind, by_kind[kind], policy.quality, max_gap_ms) for kind in sorted(by_kind)}
        streams = {
            kind: rows_sorted(checker, by_kind[kind], clock, policy)
            if kind in in_memory
            else rows_in_order(checker, by_kind[kind], clock, policy)
            for kind, checker in checkers.items()
        }
        builder = BarBuilder(bar_ms, max_gap_ms, has_trades="trades" in by_kind, has_quotes="quotes" in by_kind)
        bars = _drive(builder, streams)
        unsorted = {kind for kind, checker in checkers.items() if checker.needs_memory}
        if not unsorted:
            return bars, {kind: checker.report() for kind, checker in checkers.items()}
        in_memory |= unsorted


def _drive(builder: BarBuilder, streams: dict[str, Iterator[pl.DataFrame]]) -> NDArray[Any]:
    """Feed the stream that is behind, and hand on bars up to where the slowest one is."""
    reached = dict.fromkeys(streams, -1)
    parts = []
    while reached:
        kind = min(reached, key=reached.__getitem__)
        block = next(streams[kind], None)
        if block is None:
            del reached[kind]
        elif block.height:
            push_tape(builder, kind, block)
            reached[kind] = int(block["ts_ms"][-1])
        if reached and min(reached.values()) >= 0:
            parts.append(builder.close_until(min(reached.values())))
    return np.concatenate([*parts, builder.finish()])


def rows_in_order(
    checker: StreamChecker, sources: Sequence[Source], clock: str, policy: ReadPolicy
) -> Iterator[pl.DataFrame]:
    """Yield the sound rows of a stream block by block; ends early where `checker.needs_memory`."""
    for file, source in enumerate(sources):
        for block in read_blocks(source, clock, policy):
            rows = checker.check(block, file)
            if checker.needs_memory:
                return
            yield rows


def rows_sorted(
    checker: StreamChecker, sources: Sequence[Source], clock: str, policy: ReadPolicy
) -> Iterator[pl.DataFrame]:
    """Yield the sound rows of a stream that is not in order: all at once, sorted."""
    yield checker.check_whole(
        (file, block) for file, source in enumerate(sources) for block in read_blocks(source, clock, policy)
    )


def _bars_of_bars(
    kind: str, sources: Sequence[Source], clock: str, policy: ReadPolicy
) -> tuple[NDArray[Any], int, dict[str, QualityReport]]:
    time = "open_ts_ms" if kind == "klines" else "ts_ms"
    blocks = [(file, block) for file, source in enumerate(sources) for block in read_blocks(source, clock, policy)]
    native_ms = _bar_length(sources, blocks, time, policy)
    checker = StreamChecker(kind, sources, policy.quality, native_ms + native_ms // 2)
    rows = checker.check_whole(blocks)
    target_ms = policy.bar_ms or native_ms
    if rows.is_empty():
        return np.empty(0, BAR), target_ms, {kind: checker.report()}
    off_grid = rows.filter(pl.col(time) % native_ms != 0)
    if off_grid.height:
        row = off_grid.row(0, named=True)
        raise DataError(
            f"{sources[row['file']].path}: row {row['row']}: {time} {row[time]} is off the grid of {native_ms} ms bars"
        )
    span = int(rows[time][-1]) - int(rows[time][0])
    checker.count("missing_bars", span // native_ms + 1 - rows[time].n_unique())
    if kind == "klines":
        bars = bars_from_klines(rows, native_ms)
    else:
        bars = np.empty(rows.height, BAR)
        for name in BAR.names or ():
            bars[name] = rows[name].to_numpy()
    if target_ms != native_ms:
        longer = resample(bars, native_ms, target_ms)
        checker.count("partial_bars", int(bars.size - longer.size * (target_ms // native_ms)))
        bars = longer
    return bars, target_ms, {kind: checker.report()}


def _bar_length(
    sources: Sequence[Source], blocks: Sequence[tuple[int, pl.DataFrame]], time: str, policy: ReadPolicy
) -> int:
    """Return the most frequent step in time, which must be the same in every file."""
    lengths: dict[int, Source] = {}
    for file, source in enumerate(sources):
        times = pl.concat([block[time] for at, block in blocks if at == file]).drop_nulls()
        steps = times.unique().sort().diff().drop_nulls()
        if steps.len():
            lengths.setdefault(int(steps.mode().min()), source)  # type: ignore[arg-type]
    if not lengths:
        if policy.bar_ms is not None:
            return policy.bar_ms
        raise DataError(f"{sources[0].path}: row 1: a single bar does not tell its length; set bar_ms")
    if len(lengths) > 1:
        told = ", ".join(f"{ms} ms ({source.path})" for ms, source in sorted(lengths.items()))
        raise DataError(f"{sources[0].path}: bars of different lengths: {told}; give files of one length")
    return next(iter(lengths))


def _source_file(source: Source, rows: int) -> SourceFile:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceFile(str(source.path), digest, source.path.stat().st_size, source.kind, rows)
