"""Seeded random bars for tests: everything a recording can do to the detector, in small."""

from __future__ import annotations

import numpy as np

from v13.detector.dtypes import BAR

__all__ = ["random_bars"]

START_MS = 1_704_067_200_000  # a Monday midnight, UTC


def random_bars(rng: np.random.Generator, n: int, *, bar_ms: int = 1_000, kind: str = "messy") -> np.ndarray:
    """Return (n,) BAR.

    kind "messy": heavy-tailed bursts of flow, prices on a coarse grid (ties), idle bars, stale streams, a stretch without
    quotes, a late first quote, gaps in time, flat and flow-less stretches. "plain": none of the defects.
    """
    bars = np.zeros(n, BAR)
    bars["ts_ms"] = START_MS + bar_ms * np.arange(1, n + 1)
    price = 100.0 + 0.05 * np.round(np.cumsum(rng.standard_t(4, n)) * 1.5)
    price += max(0.0, 5.0 - float(price.min()))  # stays positive
    bars["open"], bars["close"] = np.r_[price[0], price[:-1]], price
    bars["high"], bars["low"] = np.maximum(bars["open"], price) + 0.05, np.minimum(bars["open"], price) - 0.05
    bars["mid"] = price + rng.choice([0.0, 0.025], n)
    bars["delta"], bars["ofi"] = _flow(rng, n), _flow(rng, n)
    bars["volume"] = np.abs(bars["delta"]) + rng.gamma(1.0, 0.5, n)
    bars["n_trades"], bars["n_quotes"] = rng.integers(1, 20, n), rng.integers(1, 40, n)
    bars["lag_trade_ms"], bars["lag_quote_ms"] = rng.integers(0, bar_ms, n), rng.integers(0, bar_ms, n)
    if kind == "plain":
        return bars
    idle = rng.random(n) < 0.1
    for name in ("delta", "volume"):
        bars[name][idle] = 0.0
    bars["n_trades"][idle] = 0
    bars["lag_trade_ms"][idle] = bar_ms + rng.integers(0, 2 * bar_ms, int(idle.sum()))
    _stretch(rng, n, 0.02, lambda s: _stale(bars, s, "lag_trade_ms", bar_ms, ("delta", "volume")))
    _stretch(rng, n, 0.02, lambda s: _stale(bars, s, "lag_quote_ms", bar_ms, ("ofi",)))
    _stretch(rng, n, 0.03, lambda s: _set(bars, s, ("open", "high", "low", "close", "mid"), float(price[s.start])))
    _stretch(rng, n, 0.04, lambda s: _set(bars, s, ("delta", "ofi"), 0.0))
    if rng.random() < 0.3:
        bars["ofi"][: n // 3], bars["mid"][: n // 3] = np.nan, np.nan
        bars["lag_quote_ms"][: n // 3], bars["n_quotes"][: n // 3] = -1, 0
    late = int(rng.integers(0, 10))
    bars["mid"][:late], bars["ofi"][:late], bars["lag_quote_ms"][:late] = np.nan, np.nan, -1
    early = int(rng.integers(0, 4))
    for name in ("open", "high", "low", "close"):
        bars[name][:early] = np.nan
    bars["lag_trade_ms"][:early] = -1
    for _ in range(int(rng.integers(0, 4))):
        bars["ts_ms"][int(rng.integers(1, n)) :] += bar_ms * int(rng.integers(1, 500))
    return bars


def _flow(rng: np.random.Generator, n: int) -> np.ndarray:
    bursts = rng.standard_t(2, n) * (rng.random(n) < 0.06) * 3.0
    return np.convolve(bursts, np.hanning(9), "same") + 0.3 * rng.normal(size=n)


def _stretch(rng: np.random.Generator, n: int, share: float, apply) -> None:
    """Apply to a stretch at a random place, of about `share` of the record."""
    length = max(3, int(n * share))
    first = int(rng.integers(0, max(1, n - length)))
    apply(slice(first, first + length))


def _stale(bars: np.ndarray, where: slice, lag: str, bar_ms: int, flows: tuple[str, ...]) -> None:
    bars[lag][where] = bar_ms * np.arange(1, len(bars[where]) + 1)
    for name in flows:
        bars[name][where] = 0.0


def _set(bars: np.ndarray, where: slice, names: tuple[str, ...], value: float) -> None:
    for name in names:
        bars[name][where] = value
