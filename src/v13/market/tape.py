"""The tape: what trades, quotes and klines look like once the source's form is forgotten, and our parquet file of it.

A tape says what was recorded. It is not checked here: `v13.market.quality` judges it when it is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq

from v13.detector.dtypes import BAR
from v13.errors import DataError, StoreError

__all__ = ["KINDS", "SCHEMAS", "write_tape"]

SCHEMAS: Final[dict[str, dict[str, pl.DataType]]] = {
    "trades": {
        "ts_ms": pl.Int64(),
        "id": pl.Int64(),  # null where the source has none
        "px": pl.Float64(),
        "qty": pl.Float64(),
        "sign": pl.Int8(),  # +1 the taker bought, -1 the taker sold
    },
    "quotes": {
        "ts_ms": pl.Int64(),
        "id": pl.Int64(),
        "bid": pl.Float64(),
        "bid_qty": pl.Float64(),
        "ask": pl.Float64(),
        "ask_qty": pl.Float64(),
    },
    "klines": {
        "open_ts_ms": pl.Int64(),
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "n_trades": pl.Int64(),
        "taker_buy_volume": pl.Float64(),
    },
    "bars": {name: pl.Int64() if BAR[name].kind == "i" else pl.Float64() for name in BAR.names or ()},
}
KINDS: Final = tuple(SCHEMAS)


def write_tape(
    path: str | Path,
    tape: pl.DataFrame,
    *,
    kind: str,
    symbol: str,
    market: str,
    simulated: bool = False,
    truth: dict[str, Any] | None = None,
    clock: str = "exchange",
) -> Path:
    """Write a tape as parquet that says in its metadata what it is; the file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        Target, ending in `.parquet`. An existing file is replaced.
    tape : polars.DataFrame
        Columns of `SCHEMAS[kind]`, in any order; integer and float columns are cast.
    kind : {"trades", "quotes", "klines", "bars"}
        What the rows are. `bars` takes the columns of `v13.detector.dtypes.BAR`.
    symbol, market : str
        For example `BTCUSDT` and `spot`, `usdm` or `unknown`.
    simulated : bool
        True if any row was made up; every report of it then says SIMULATED.
    truth : dict or None
        What the simulator planted, as JSON.
    clock : {"exchange", "receive"}
        Whose clock the times are from.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    DataError
        Unknown kind, a column missing, or a value that does not fit its column.
    StoreError
        The file cannot be written.
    """
    target = Path(path)
    if kind not in SCHEMAS:
        raise DataError(f"{target}: kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    if clock not in ("exchange", "receive"):
        raise DataError(f"{target}: clock: expected exchange or receive, found {clock!r}")
    missing = [name for name in SCHEMAS[kind] if name not in tape.columns]
    if missing:
        raise DataError(f"{target}: a {kind} tape needs the columns {', '.join(missing)}; found {tape.columns}")
    try:
        table = tape.select(pl.col(name).cast(dtype) for name, dtype in SCHEMAS[kind].items()).to_arrow()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{target}: the {kind} tape does not fit its columns: {error}") from error
    meta = {
        "v13.kind": kind,
        "v13.symbol": symbol,
        "v13.market": market,
        "v13.clock": clock,
        "v13.simulated": "true" if simulated else "false",
        "v13.truth": json.dumps(truth, sort_keys=True),
    }
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{target}: cannot write the tape: {error}") from error
    try:
        with partial.open("wb") as file:
            pq.write_table(table.replace_schema_metadata(meta), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{target}: cannot write the tape: {error}") from error
    return target
