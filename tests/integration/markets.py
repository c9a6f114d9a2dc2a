"""Recordings the integration tests run on: simulated bars and ticks on disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from v13 import market
from v13.research.run import Run, open_run

__all__ = ["SHORT", "open_market", "project", "write_bars"]

# A certificate so short that it says next to nothing: what it says is tested where it is made.
SHORT = {"noise.markets": 1, "noise.max_bars": 5_000}

REPO = Path(__file__).resolve().parents[2]


def project(folder: Path) -> Path:
    """A root of its own with the project's config: ledger and certificates go there, not into the project's runs/."""
    root = folder / "project"
    if not root.is_dir():
        shutil.copytree(REPO / "config", root / "config", ignore=shutil.ignore_patterns("calibration"))
    return root


def write_bars(path: Path, bars: np.ndarray, symbol: str = "BTCUSDT", *, simulated: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({name: bars[name] for name in bars.dtype.names or ()})
    market.write_tape(path, frame, kind="bars", symbol=symbol, market="usdm", simulated=simulated)
    return path


def open_market(
    folder: Path, kind: str, n_bars: int, seed: int, overrides: Mapping[str, object] | None = None, **spec: float
) -> Run:
    """Simulate a market of bars, write it, and open it as a run with the project's own config."""
    folder.mkdir(exist_ok=True)
    made = market.simulate_bars(market.MarketSpec(kind=kind, n_bars=n_bars, **spec), seed)
    path = write_bars(folder / f"{kind}_{seed}.parquet", made.bars)
    return open_run([path], root=project(folder), out=folder / "out", overrides=SHORT | dict(overrides or {}))
