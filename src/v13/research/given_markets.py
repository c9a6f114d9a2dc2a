"""Null markets given from outside: parquet files of bars, or a callable that makes them.

They are judged as they come: nothing is mended, and what is no table of bars is refused by file, column and row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from v13.detector.dtypes import BAR
from v13.errors import ConfigError, DataError
from v13.research.cut import Records

__all__ = ["MIN_BARS", "given_market", "given_sources", "read_bars_file"]

MIN_BARS: Final = 1_000  # of a market anything can be said of
MAY_BE_NAN: Final = ("open", "high", "low", "close", "mid", "ofi")  # before any trade or quote, or without a source


def given_sources(given: str, n_markets: int) -> list[str]:
    """Return one source for every market to be judged, each of them tried once.

    Parameters
    ----------
    given : str
        The path of a parquet file of bars, which is one market; of a folder of them, one market a file, in order of
        their names; or `module:function`, a callable that takes a numpy Generator and returns (n,) BAR.
    n_markets : int
        What a callable is asked for; of files all are judged.

    Raises
    ------
    ConfigError
        There is no such file, module or function.
    DataError
        As `read_bars_file`; or a folder without parquet files.
    """
    path = Path(given)
    if path.is_dir():
        files = sorted(p for p in path.glob("*.parquet") if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"--market: {given}: the folder holds no parquet file")
    elif path.is_file():
        files = [path]
    elif ":" in given:
        _maker(given)
        return [given] * n_markets
    else:
        raise ConfigError(f"--market: {given}: no such file or folder, and no module:function")
    for file in files:
        read_bars_file(file)
    return [str(file) for file in files]


def given_market(source: str, rng: np.random.Generator) -> Records:
    """Return the bars of one source, see `given_sources`; a file needs no chance.

    Raises
    ------
    ConfigError, DataError
        As `given_sources`; or a callable returns anything but bars.
    """
    if Path(source).is_file():
        return read_bars_file(Path(source))
    return _checked(_maker(source)(rng), f"--market: {source}")


def read_bars_file(path: Path) -> Records:
    """Read a parquet file of the bars of one symbol.

    Parameters
    ----------
    path : Path
        Every field of `detector.BAR` is a column, units as there (`v13 data bars` writes such files); further columns
        are left alone. Nulls are NaN where BAR has NaN: in prices and `ofi`.

    Returns
    -------
    (n,) BAR, n >= 1,000

    Raises
    ------
    DataError
        No parquet; a column is missing or of another type; time does not rise in whole bars; a value no bar can have.
        Names file, column and row (the first is 1).
    """
    names = BAR.names or ()
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.names
            # One thread, and not polars: this also runs in forked workers, where a pool of threads is gone.
            table = file.read([name for name in names if name in found], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error
    if lost := [name for name in names if name not in found]:
        raise DataError(f"{path}: column {', '.join(lost)}: missing; bars need the columns {', '.join(names)}")
    bars = np.empty(table.num_rows, BAR)
    for name in names:
        column = table[name]
        whole = BAR[name].kind == "i"
        if not (pa.types.is_integer(column.type) or (not whole and pa.types.is_floating(column.type))):
            wanted = "whole numbers" if whole else "numbers"
            raise DataError(f"{path}: column {name}: expected {wanted}, found {column.type}")
        if column.null_count and name not in MAY_BE_NAN:
            row = int(np.argmax(column.is_null().to_numpy())) + 1
            raise DataError(f"{path}: column {name}: row {row}: expected a number, found null")
        bars[name] = column.to_numpy()  # a null becomes NaN
    return _checked(bars, str(path))


def _checked(bars: Any, where: str) -> Records:
    if not isinstance(bars, np.ndarray) or bars.dtype != BAR or bars.ndim != 1:
        found = f"{bars.dtype} of shape {bars.shape}" if isinstance(bars, np.ndarray) else type(bars).__name__
        raise DataError(f"{where}: expected a vector of BAR records, found {found}")
    if bars.size < MIN_BARS:
        raise DataError(f"{where}: expected at least {MIN_BARS:,} bars, found {bars.size}")
    steps = np.diff(bars["ts_ms"])
    _refuse(where, "ts_ms", np.flatnonzero(steps <= 0) + 1, bars, "does not follow the bar before it")
    lengths, counts = np.unique(steps, return_counts=True)
    bar_ms = int(lengths[np.argmax(counts)])
    off = np.flatnonzero(steps % bar_ms != 0) + 1
    _refuse(where, "ts_ms", off, bars, f"is no whole number of {bar_ms} ms bars after the one before it")
    for name in BAR.names or ():
        if BAR[name].kind == "f":
            _refuse(where, name, np.flatnonzero(np.isinf(bars[name])), bars, "is not finite")
        if name not in MAY_BE_NAN:
            _refuse(where, name, np.flatnonzero(np.isnan(bars[name])), bars, "must be a number")
    for name in ("open", "high", "low", "close", "mid"):
        _refuse(where, name, np.flatnonzero(bars[name] <= 0), bars, "must be a positive price")
    for name, least in (("volume", 0), ("n_trades", 0), ("n_quotes", 0), ("lag_trade_ms", -1), ("lag_quote_ms", -1)):
        _refuse(where, name, np.flatnonzero(bars[name] < least), bars, f"must be at least {least}")
    if not (np.isfinite(bars["close"]) | np.isfinite(bars["mid"])).any():
        raise DataError(f"{where}: columns close, mid: no bar has a price")
    if not (np.isfinite(bars["ofi"]).any() or (bars["lag_trade_ms"] >= 0).any()):
        raise DataError(
            f"{where}: columns ofi, lag_trade_ms: neither a quote nor a trade in any bar, so no flow at all"
        )
    return bars


def _refuse(where: str, name: str, rows: np.ndarray[Any, Any], bars: Records, why: str) -> None:
    if rows.size:
        raise DataError(f"{where}: column {name}: row {rows[0] + 1}: {bars[name][rows[0]]} {why}")


def _maker(text: str) -> Callable[[np.random.Generator], Any]:
    name, _, attribute = text.partition(":")
    try:
        maker = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--market: {text}: {error}") from error
    if not callable(maker):
        raise ConfigError(f"--market: {text}: expected a callable that takes a numpy Generator and returns BAR")
    return maker  # type: ignore[no-any-return]
