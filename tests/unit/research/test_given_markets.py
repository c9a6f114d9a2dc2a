"""Markets brought from outside: read as they are, or refused by file, column and row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from v13 import market
from v13.detector.dtypes import BAR
from v13.errors import ConfigError, DataError
from v13.research.given_markets import given_market, given_sources, read_bars_file

BARS = market.simulate_bars(market.MarketSpec("random_walk", 1_500), 3).bars
HERE = "tests.unit.research.test_given_markets"


def frame(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({name: BARS[name] for name in BAR.names or ()} | columns)


def changed(name: str, row: int, value: Any) -> pl.DataFrame:
    values = BARS[name].astype(object)
    values[row - 1] = value
    return frame(**{name: pl.Series(values.tolist(), dtype=pl.Int64 if BAR[name].kind == "i" else pl.Float64)})


def written(folder: Path, table: pl.DataFrame, name: str = "mine.parquet") -> Path:
    table.write_parquet(folder / name)
    return folder / name


def test_a_plain_parquet_is_read_bit_for_bit_whatever_else_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path, frame(note=["x"] * 1_500).select("note", *reversed(BAR.names or ())))
    assert read_bars_file(path).tobytes() == BARS.tobytes()


def test_nulls_of_prices_and_ofi_are_nan_and_whole_numbers_are_prices_too(tmp_path: Path) -> None:
    found = read_bars_file(written(tmp_path, changed("mid", 3, None)))
    assert np.flatnonzero(np.isnan(found["mid"])).tolist() == [2]
    whole = frame(volume=np.full(1_500, 7, np.int32), ofi=BARS["ofi"].astype(np.float32))
    assert read_bars_file(written(tmp_path, whole))["volume"][0] == 7.0


BAD = {
    "a column is missing": (frame().drop("delta", "ofi"), "column delta, ofi: missing; bars need"),
    "text": (frame(close=["1.5"] * 1_500), "column close: expected numbers, found large_string"),
    "time is real": (frame(ts_ms=BARS["ts_ms"].astype(float)), "column ts_ms: expected whole numbers, found double"),
    "a null count": (changed("n_trades", 5, None), "column n_trades: row 5: expected a number, found null"),
    "NaN volume": (changed("volume", 6, float("nan")), "column volume: row 6: nan must be a number"),
    "infinite": (changed("ofi", 7, float("inf")), "column ofi: row 7: inf is not finite"),
    "a price of zero": (changed("low", 8, 0.0), "column low: row 8: 0.0 must be a positive price"),
    "a negative volume": (changed("volume", 9, -1.0), "column volume: row 9: -1.0 must be at least 0"),
    "a lag below -1": (changed("lag_quote_ms", 10, -2), "column lag_quote_ms: row 10: -2 must be at least -1"),
    "time goes back": (changed("ts_ms", 12, 1), "column ts_ms: row 12: 1 does not follow"),
    "off the grid": (changed("ts_ms", 12, int(BARS["ts_ms"][11]) + 1), "column ts_ms: row 12: "),
    "too short": (frame().head(999), "expected at least 1,000 bars, found 999"),
    "no price": (frame(close=[None] * 1_500, mid=[None] * 1_500).cast({"close": float, "mid": float}), "close, mid"),
    "no flow": (
        frame(ofi=pl.Series([None] * 1_500, dtype=pl.Float64), lag_trade_ms=np.full(1_500, -1)),
        "columns ofi, lag_trade_ms",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_table_of_bars_is_refused_by_file_column_and_row(what: str, tmp_path: Path) -> None:
    table, message = BAD[what]
    path = written(tmp_path, table)
    with pytest.raises(DataError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read_bars_file(path)


def test_no_parquet_at_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=re.escape(str(path)) + ": cannot be read as parquet"):
        read_bars_file(path)


def test_a_folder_is_one_market_a_file_and_every_file_is_tried_before_anything_is_judged(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".hidden.parquet"):
        written(tmp_path, frame(), name)
    (tmp_path / "notes.txt").write_text("not a market")
    assert given_sources(str(tmp_path), 40) == [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    written(tmp_path, frame().drop("ofi"), "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: column ofi: missing"):
        given_sources(str(tmp_path), 40)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no parquet file"):
        given_sources(str(tmp_path / "empty"), 40)


def good(rng: np.random.Generator) -> np.ndarray:
    bars = BARS.copy()
    bars["delta"] *= rng.choice((-1.0, 1.0), len(bars))
    return bars


def prices(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=2_000)


def nothing(_: np.random.Generator) -> None:
    return None


def backwards(_: np.random.Generator) -> np.ndarray:
    return BARS[::-1].copy()


def test_a_callable_is_asked_with_a_generator_and_held_to_the_same_rules() -> None:
    assert given_sources(f"{HERE}:good", 3) == [f"{HERE}:good"] * 3
    first, again, other = (given_market(f"{HERE}:good", np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    for name, message in (
        ("prices", r"expected a vector of BAR records, found float64 of shape \(2000,\)"),
        ("nothing", "expected a vector of BAR records, found NoneType"),
        ("backwards", "column ts_ms: row 2: .* does not follow"),
    ):
        with pytest.raises(DataError, match=f"--market: {HERE}:{name}: {message}"):
            given_market(f"{HERE}:{name}", np.random.default_rng(1))
    with pytest.raises(ConfigError, match="expected a callable"):
        given_sources(f"{HERE}:BARS", 1)
