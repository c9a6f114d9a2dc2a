"""Input nobody should trust: each kind is one clear error with file and row, and nothing half loaded."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from v13.errors import ConfigError, DataError
from v13.market import QualityPolicy, ReadPolicy, load, write_tape

Rows = Callable[[int], list[str]]
Dump = Callable[..., Path]
Zip = Callable[[Path], Path]


def failure(path: Path, policy: ReadPolicy | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(path, policy=policy)
    message = str(caught.value)
    assert str(path) in message
    return message


def spoil(row: str, at: int, cell: str) -> str:
    cells = row.split(",")
    cells[at] = cell
    return ",".join(cells)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2024-08-09.csv"
    path.touch()
    assert "row 1: the file is empty" in failure(path)


def test_an_empty_file_in_a_zip(dump: Dump, zipped: Zip) -> None:
    assert "row 1: the file has no rows" in failure(zipped(dump([], header="")))


def test_a_header_without_rows(dump: Dump, zipped: Zip) -> None:
    path = dump([])
    assert "row 1: the file has a header and no rows" in failure(path)
    assert "row 1: the file has a header and no rows" in failure(zipped(path))


def test_ten_rows_are_enough(dump: Dump, agg_rows: Rows) -> None:
    recording = load(dump(agg_rows(10)))["BTCUSDT"]
    assert recording.bars["n_trades"].tolist() == [4, 4, 2]
    assert recording.sources[0].rows == 10


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "spot_BTCUSDT_15m.parquet"
    pl.DataFrame(schema={"open_time": pl.Int64, "open": pl.Float64}).write_parquet(path)
    assert "no rows" in failure(path)


@pytest.mark.parametrize("n_kept", [3, 200, -10, -30])
def test_a_truncated_zip(dump: Dump, agg_rows: Rows, zipped: Zip, n_kept: int) -> None:
    path = zipped(dump(agg_rows(500)))
    path.write_bytes(path.read_bytes()[:n_kept])
    assert "truncated" in failure(path)


def test_a_truncated_gzip(dump: Dump, agg_rows: Rows) -> None:
    plain = dump(agg_rows(500))
    path = plain.with_suffix(".csv.gz")
    path.write_bytes(gzip.compress(plain.read_bytes())[:-400])
    assert "truncated" in failure(path)


@pytest.mark.parametrize("n_kept", [6, 300, -5])
def test_a_truncated_parquet_file(tmp_path: Path, agg_rows: Rows, dump: Dump, n_kept: int) -> None:
    path = tmp_path / "BTCUSDT-trades.parquet"
    pl.read_csv(dump(agg_rows(500))).write_parquet(path)
    path.write_bytes(path.read_bytes()[:n_kept])
    assert "truncated or damaged parquet" in failure(path)


def test_a_zip_whose_bytes_were_changed(dump: Dump, agg_rows: Rows) -> None:
    plain = dump(agg_rows(500))
    with zipfile.ZipFile(path := plain.with_suffix(".zip"), "w", zipfile.ZIP_STORED) as archive:
        archive.write(plain, plain.name)
    data = bytearray(path.read_bytes())
    at = data.index(b"61812.40")
    data[at + 1] = ord("2")  # a price that is still a price: only the checksum can tell
    path.write_bytes(data)
    assert "checksum" in failure(path)


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-trades-2024-08-09.csv", b"1,2.0,1.0,2.0,1723161600000,true\n" * 300_000)
    return path


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = bomb(tmp_path / "BTCUSDT-trades-2024-08-09.zip")
    assert "zip bomb" in failure(path, ReadPolicy(ratio_free_bytes=1 << 20))
    assert "max_inflated_bytes" in failure(path, ReadPolicy(max_inflated_bytes=1 << 20))


def test_a_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = bomb(tmp_path / "BTCUSDT-trades-2024-08-09.zip")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1_000).to_bytes(4, "little")
    path.write_bytes(data)
    assert "expected 1000 bytes" in failure(path)  # found out with the first bytes too many


def test_a_gzip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2024-08-09.csv.gz"
    path.write_bytes(gzip.compress(b"1,2.0,1.0,2.0,1723161600000,true\n" * 300_000))
    assert "zip bomb" in failure(path, ReadPolicy(ratio_free_bytes=1 << 20))


@pytest.mark.parametrize("name", ["../BTCUSDT-trades.csv", "/etc/BTCUSDT.csv", "a/BTCUSDT.csv", "..\\BTCUSDT.csv"])
def test_a_zip_with_a_path_trick(tmp_path: Path, name: str) -> None:
    path = tmp_path / "BTCUSDT-trades-2024-08-09.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "1,2.0,1.0,2.0,1723161600000,true\n")
    assert "without folders" in failure(path)


def test_a_zip_of_two_files(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2024-08-09.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "1")
        archive.writestr("b.csv", "1")
    assert "expected one CSV file in the zip, found 2 (a.csv, b.csv)" in failure(path)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("time,price,amount", "1723161600000,1.0,2.0"),
        (None, "1,2.0,1.0,1723161600000,true"),
        (None, "hello"),
        (None, '{"e":"trade"}'),
        (None, "1,abc,1.0,1,1,1723161600000,true"),
    ],
)
def test_wrong_columns(dump: Dump, header: str | None, row: str) -> None:
    message = failure(dump([row], header=header))
    assert "unknown layout" in message
    assert "bookTicker (update_id" in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades.csv"
    path.write_bytes(bytes(range(128, 256)) * 2_000)
    assert "not a CSV" in failure(path)


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
@pytest.mark.parametrize(
    ("at", "cell", "reason"),
    [
        (1, "abc", "px: expected a number, found 'abc'"),
        (2, "0.1.2", "qty: expected a number, found '0.1.2'"),
        (0, "1e3", "id: expected an integer, found '1e3'"),
        (5, "yesterday", "exchange: expected an integer, found 'yesterday'"),
        (6, "maybe", "maker: expected true or false, found 'maybe'"),
        (6, "true,9", "expected 7 columns, found 8"),
        (1, "-61800.00", "price of zero or less"),
        (1, "0", "price of zero or less"),
        (1, "NaN", "missing or not finite"),
        (1, "inf", "missing or not finite"),
        (1, "", "missing or not finite"),
        (2, "-0.5", "negative size"),
        (5, "1723161605000000", "time in another unit"),
        (5, "1723161605", "time in another unit"),
        (5, "0", "time in another unit"),
        (1, "2683.10", "two symbols in one file?"),
    ],
)
def test_a_bad_cell_names_its_row(
    dump: Dump, agg_rows: Rows, at: int, cell: str, reason: str, block_bytes: int
) -> None:
    rows = agg_rows(40)
    rows[20] = spoil(rows[20], at, cell)
    message = failure(dump(rows), ReadPolicy(block_bytes=block_bytes))
    assert "row 21: " in message
    assert reason in message


@pytest.mark.parametrize("short", ["21,61800.00,0.1", "21", ""])
def test_a_short_row_names_its_row(dump: Dump, agg_rows: Rows, short: str) -> None:
    rows = agg_rows(40)
    rows[20] = short
    for block_bytes in (40, 1 << 20):
        assert "row 21: " in failure(dump(rows), ReadPolicy(block_bytes=block_bytes))


@pytest.mark.parametrize("ending", ["", "\n\n", "\r\n", "\n\r\n\n"])
def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path, agg_rows: Rows, ending: str) -> None:
    path = tmp_path / "BTCUSDT-aggTrades-2024-08-09.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ("\r\n".join(agg_rows(10)) + ending).encode())
    for block_bytes in (1, 2, 3, 100, 1 << 20):
        assert load(path, policy=ReadPolicy(block_bytes=block_bytes))["BTCUSDT"].sources[0].rows == 10


def test_two_symbols_told_by_a_column(dump: Dump, agg_rows: Rows) -> None:
    header = "symbol,agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    rows = [f"BTCUSDT,{row}" for row in agg_rows(30)]
    assert load(dump(rows, header=header))["BTCUSDT"].bars.size == 8
    rows[17] = rows[17].replace("BTCUSDT", "BTCUSDC")
    assert "row 18: two symbols: BTCUSDC after BTCUSDT" in failure(dump(rows, header=header))


def test_two_symbols_told_by_the_price(dump: Dump, agg_rows: Rows) -> None:
    rows = agg_rows(30)
    path = dump(rows + [spoil(spoil(row, 1, "2683.10"), 0, str(1000 + i)) for i, row in enumerate(rows)])
    assert "row " in (message := failure(path))
    assert "two symbols" in message
    kept = load(path, policy=ReadPolicy(quality=QualityPolicy(price_jump="keep")))["BTCUSDT"]
    assert kept.quality["trades"].counts["price_jump"] > 0


def test_a_number_as_text_in_parquet(tmp_path: Path, dump: Dump, agg_rows: Rows) -> None:
    path = tmp_path / "BTCUSDT-trades.parquet"
    frame = pl.read_csv(dump(agg_rows(20)), schema_overrides={"price": pl.String})
    frame.with_columns(
        pl.when(pl.int_range(pl.len()) == 6).then(pl.lit("x")).otherwise("price").alias("price")
    ).write_parquet(path)
    assert "row 7: px: expected a number, found 'x'" in failure(path)


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    assert "no such file or folder" in failure(tmp_path / "none.csv")
    (tmp_path / "README.md").write_text("nothing here")
    assert "holds no data file" in failure(tmp_path)


def test_a_file_that_does_not_name_its_symbol(dump: Dump, agg_rows: Rows) -> None:
    path = dump(agg_rows(10), name="ticks.csv")
    assert "which symbol" in failure(path)
    assert list(load(path, symbol="BTCUSDT")) == ["BTCUSDT"]


def test_a_symbol_that_is_not_there(dump: Dump, agg_rows: Rows) -> None:
    with pytest.raises(DataError, match="no file of ETHUSDT"):
        load(dump(agg_rows(10)), symbol="ETHUSDT")


def test_aggregate_and_single_trades_of_one_time_would_double_the_volume(dump: Dump, agg_rows: Rows) -> None:
    agg = dump(agg_rows(40))
    header = "id,price,qty,quote_qty,time,is_buyer_maker"
    cells = [row.split(",") for row in agg_rows(80)]
    lines = [",".join([c[0], c[1], c[2], "1.0", c[5], c[6]]) for c in cells]
    with pytest.raises(DataError, match="double the volume"):
        load([agg, dump(lines[10:], "BTCUSDT-trades-2024-08-09.csv", header)])
    joined = load([agg, dump(lines[40:], "BTCUSDT-trades-2024-08-09.csv", header)])["BTCUSDT"]
    assert joined.quality["trades"].rows_kept == 80
    assert joined.quality["trades"].counts["id_gaps"] == 0


def test_klines_and_ticks_of_one_symbol_do_not_mix(tmp_path: Path, dump: Dump, agg_rows: Rows) -> None:
    klines = pl.DataFrame(
        {name: [1.0, 1.0] for name in ("open", "high", "low", "close", "volume", "taker_buy_volume")}
        | {"open_ts_ms": [1_723_161_600_000, 1_723_161_660_000], "n_trades": [1, 1]}
    )
    path = write_tape(tmp_path / "k.parquet", klines, kind="klines", symbol="BTCUSDT", market="usdm")
    with pytest.raises(DataError, match="give either ticks, klines or bars"):
        load([path, dump(agg_rows(10))])


def test_a_policy_nobody_knows_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"quality.crossed: expected drop \| keep \| fail, found 'mend'"):
        QualityPolicy(crossed="mend")
