"""Recordings the integration tests run on: simulated bars and ticks on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from v13 import market
from v13.research.run import Run, open_run

__all__ = ["open_market", "write_bars"]

REPO = Path(__file__).resolve().parents[2]


def write_bars(path: Path, bars: np.ndarray, symbol: str = "BTCUSDT") -> Path:
    frame = pl.DataFrame({name: bars[name] for name in bars.dtype.names or ()})
    market.write_tape(path, frame, kind="bars", symbol=symbol, market="usdm", simulated=True)
    return path


def open_market(folder: Path, kind: str, n_bars: int, seed: int, **spec: float) -> Run:
    """Simulate a market of bars, write it, and open it as a run with the project's own config."""
    folder.mkdir(exist_ok=True)
    made = market.simulate_bars(market.MarketSpec(kind=kind, n_bars=n_bars, **spec), seed)
    path = write_bars(folder / f"{kind}_{seed}.parquet", made.bars)
    return open_run([path], root=REPO, out=folder / "out")
