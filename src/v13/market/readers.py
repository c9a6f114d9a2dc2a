"""Rows of a recognised file as tape blocks, in the order they were recorded.

Every row comes out, defects and all, with its number; judging them is `v13.market.quality`'s. Only what is no number
at all stops here, with its row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from v13.errors import DataError
from v13.market.formats import UNITS, Source
from v13.market.policy import ReadPolicy
from v13.market.streams import ahead, line_blocks, read_chunks
from v13.market.tape import SCHEMAS

__all__ = ["read_blocks"]

_BATCH_ROWS = 1 << 17  # rows of parquet at a time: about as much memory as a block of text


def read_blocks(source: Source, clock: str, policy: ReadPolicy) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file as tape frames.

    Parameters
    ----------
    source : Source
        What `recognise` said of the file.
    clock : {"exchange", "receive"}
        Which of its clocks to read; the source has it.
    policy : ReadPolicy
        Block size and limits.

    Yields
    ------
    polars.DataFrame
        Columns of `SCHEMAS[source.kind]` and `row` (uint32, 1-based data row of the file). Times are milliseconds;
        `id` is left out where the source has none.

    Raises
    ------
    DataError
        Damaged file, a row of the wrong width, a value that is no number, or two symbols in one file.
    """
    raw_blocks = (
        _parquet_blocks(source, clock) if source.container == "parquet" else _text_blocks(source, clock, policy)
    )
    time = "open_ts_ms" if source.kind == "klines" else "ts_ms"
    factor = UNITS[source.units[clock]]
    exact = pl.col(clock) * factor if factor > 0 else pl.col(clock).floordiv(-factor)
    columns = []
    for name, dtype in SCHEMAS[source.kind].items():
        if name == time:
            columns.append(exact.alias(time))
        elif name == "sign" and "maker" in source.columns:
            # The maker was the buyer: the taker sold. Arithmetic, so that a null stays a null.
            columns.append((1 - 2 * pl.col("maker").cast(pl.Int8)).cast(pl.Int8).alias("sign"))
        elif name in source.columns:
            columns.append(pl.col(name).cast(dtype))
    n_rows = 0
    for raw in raw_blocks:
        if "symbol" in source.columns:
            _check_symbol(source, raw, n_rows)
        yield raw.select(columns).with_row_index("row", offset=n_rows + 1)
        n_rows += raw.height


def _dtypes(source: Source, clock: str) -> dict[str, pl.DataType]:
    """Return what each column of the file must parse as; the other clock is left alone."""
    wanted: dict[str, pl.DataType] = {clock: pl.Int64()}
    for name in source.columns:
        if name in ("symbol", "maker"):
            wanted[name] = pl.String() if name == "symbol" else pl.Boolean()
        elif name not in ("exchange", "receive"):
            wanted[name] = SCHEMAS[source.kind][name]
    return wanted


def _text_blocks(source: Source, clock: str, policy: ReadPolicy) -> Iterator[pl.DataFrame]:
    wanted = _dtypes(source, clock)
    by_position = {int(source.columns[name]): name for name in wanted}
    schema = {
        by_position.get(at, f"unused_{at}"): wanted[by_position[at]] if at in by_position else pl.String()
        for at in range(source.n_columns)
    }
    skip = 1 if source.has_header else 0
    n_rows = 0
    for block in ahead(line_blocks(source.path, read_chunks(source.path, source.container, policy))):
        if skip:
            block = block[block.find(b"\n") + 1 :] if b"\n" in block else b""
            skip = 0
            if not block:
                continue
        try:
            frame = pl.read_csv(
                block, has_header=False, schema=schema, columns=sorted(by_position), quote_char=None, low_memory=False
            )
        except pl.exceptions.PolarsError as error:
            raise _bad_cell(source, block, schema, n_rows, str(error)) from error
        # The parser drops what a row has too much and fills in what it lacks.
        n_commas = np.count_nonzero(np.frombuffer(block, np.uint8) == ord(","))
        if n_commas != frame.height * (source.n_columns - 1):
            raise _bad_cell(source, block, schema, n_rows, "the number of columns varies")
        n_rows += frame.height
        yield frame.rechunk()


def _parquet_blocks(source: Source, clock: str) -> Iterator[pl.DataFrame]:
    wanted = _dtypes(source, clock)
    n_rows = 0
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[str(source.columns[name]) for name in wanted]):
                raw = pl.DataFrame(pl.from_arrow(batch)).select(
                    pl.col(str(source.columns[name])).alias(name) for name in wanted
                )
                try:
                    frame = raw.select(pl.col(name).cast(dtype) for name, dtype in wanted.items())
                except pl.exceptions.PolarsError as error:
                    raise _bad_value(source, raw, wanted, n_rows, str(error)) from error
                n_rows += frame.height
                yield frame
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.path}: a truncated or damaged parquet file near row {n_rows + 1}: {error}") from error


def _bad_cell(source: Source, block: bytes, schema: dict[str, pl.DataType], n_rows: int, cause: str) -> DataError:
    """Find the row that the parser stumbled over; it says only the byte."""
    lines = block.removesuffix(b"\n").split(b"\n")
    for row, line in enumerate(lines, start=n_rows + 1):
        cells = line.rstrip(b"\r").split(b",")
        if len(cells) != len(schema):
            return DataError(f"{source.path}: row {row}: expected {len(schema)} columns, found {len(cells)}")
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(f"{source.path}: row {row}: not text: {error}")
    cells_of = [line.rstrip(b"\r").decode("utf-8").split(",") for line in lines]
    raw = pl.DataFrame(cells_of, schema=dict.fromkeys(schema, pl.String), orient="row")
    return _bad_value(source, raw, schema, n_rows, cause)


def _bad_value(source: Source, raw: pl.DataFrame, wanted: dict[str, pl.DataType], n_rows: int, cause: str) -> DataError:
    for name, dtype in wanted.items():
        column = raw[name]
        if column.dtype == pl.String and dtype == pl.Boolean():
            is_bad = ~column.str.to_lowercase().is_in(["true", "false", ""])
        elif column.dtype == pl.String:
            is_bad = column.str.strip_chars().cast(dtype, strict=False).is_null() & (column != "")
        else:
            is_bad = column.cast(dtype, strict=False).is_null() & column.is_not_null()
        at = is_bad.arg_max() if is_bad.any() else None
        if at is not None:
            kind = {"i": "an integer", "f": "a number", "b": "true or false"}.get(str(dtype)[0].lower(), str(dtype))
            return DataError(f"{source.path}: row {n_rows + at + 1}: {name}: expected {kind}, found {column[at]!r}")
    return DataError(f"{source.path}: rows {n_rows + 1} to {n_rows + raw.height} cannot be read: {cause}")


def _check_symbol(source: Source, raw: pl.DataFrame, n_rows: int) -> None:
    is_other = (raw["symbol"] != source.symbol).fill_null(True)
    if is_other.any():
        at = is_other.arg_max() or 0
        raise DataError(
            f"{source.path}: row {n_rows + at + 1}: two symbols: {raw['symbol'][at]} after {source.symbol}; "
            "split it, one file a symbol"
        )
