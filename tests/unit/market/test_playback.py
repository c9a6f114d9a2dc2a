"""Recordings played back: the same sound rows `load` makes bars of, in order, from any moment on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from v13 import market
from v13.errors import DataError
from v13.market.intake import Intake
from v13.market.playback import Playback, open_playback

START = 1_700_000_000_000


def tape(kind: str, n: int, seed: int, order: np.ndarray | None = None) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ts = START + np.cumsum(rng.integers(1, 600, n))
    px = 100 + np.cumsum(rng.normal(0, 0.01, n))
    columns = {"ts_ms": ts, "id": np.arange(n) + 7}
    if kind == "trades":
        columns |= {"px": px, "qty": rng.uniform(0.1, 2, n), "sign": rng.choice([-1, 1], n)}
    else:
        columns |= {"bid": px, "bid_qty": rng.uniform(1, 2, n), "ask": px + 0.01, "ask_qty": rng.uniform(1, 2, n)}
    frame = pl.DataFrame(columns)
    return frame if order is None else frame[order]


def write(folder: Path, kind: str, frame: pl.DataFrame) -> Path:
    return market.write_tape(
        folder / f"BTCUSDT-{kind}.parquet", frame, kind=kind, symbol="BTCUSDT", market="usdm", simulated=True
    )


def played(playback: Playback, from_ms: int = 0) -> np.ndarray:
    intake = Intake(playback.bar_ms, has_trades=playback.has_trades, has_quotes=playback.has_quotes)
    parts = []
    for block in playback.blocks(from_ms):
        (intake.add_trades if block.kind == "trades" else intake.add_quotes)(*block.columns)
        parts.append(intake.finish() if block.until_ms is None else intake.close_until(block.until_ms))
    return np.concatenate([*parts, intake.finish()])


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_bars_are_those_of_load(tmp_path: Path, shuffled: bool) -> None:
    order = np.arange(400)
    if shuffled:
        order[100:120] = order[100:120][::-1]
    write(tmp_path, "trades", tape("trades", 400, 1, order))
    write(tmp_path, "quotes", tape("quotes", 900, 2))
    playback = open_playback(tmp_path)["BTCUSDT"]
    assert (playback.market, playback.simulated, playback.clock) == ("usdm", True, "exchange")
    assert played(playback).tobytes() == market.load(tmp_path)["BTCUSDT"].bars.tobytes()


def test_blocks_come_from_a_moment_on_and_never_before_what_they_promised(tmp_path: Path) -> None:
    write(tmp_path, "trades", tape("trades", 400, 1))
    write(tmp_path, "quotes", tape("quotes", 900, 2))
    playback = open_playback(tmp_path)["BTCUSDT"]
    from_ms = START + 60_000
    promised = -1
    n = 0
    for block in playback.blocks(from_ms):
        ts = block.columns[0]
        n += ts.size
        if ts.size:
            assert ts.min() >= max(from_ms, promised)
        promised = promised if block.until_ms is None else block.until_ms
    every = [tape("trades", 400, 1)["ts_ms"], tape("quotes", 900, 2)["ts_ms"]]
    assert n == sum(int((ts >= from_ms).sum()) for ts in every)


def test_klines_come_as_bars_and_rows_without_ids_keep_all(tmp_path: Path) -> None:
    write(tmp_path, "trades", tape("trades", 400, 1).with_columns(pl.lit(None, pl.Int64).alias("id")))
    playback = open_playback(tmp_path)["BTCUSDT"]
    assert playback.bars is None
    assert played(playback)["n_trades"].sum() == 400
    bars = market.load(tmp_path)["BTCUSDT"].bars
    other = tmp_path / "bars"
    other.mkdir()
    frame = pl.DataFrame({name: bars[name] for name in bars.dtype.names or ()})
    market.write_tape(
        other / "BTCUSDT-bars.parquet", frame, kind="bars", symbol="BTCUSDT", market="usdm", simulated=True
    )
    again = open_playback(other)["BTCUSDT"]
    assert again.bars is not None
    assert again.bars.tobytes() == bars.tobytes()


def test_a_defect_that_fails_a_file_is_found_before_anything_is_played(tmp_path: Path) -> None:
    bad = tape("trades", 400, 1).with_columns(px=pl.when(pl.int_range(pl.len()) == 390).then(-1.0).otherwise("px"))
    write(tmp_path, "trades", bad)
    with pytest.raises(DataError, match="bad_price"):
        open_playback(tmp_path)
