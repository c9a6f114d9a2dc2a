"""Seeded random bars for tests: everything a recording can do to the detector, in small.

The bars are for agreement and invariance tests; nothing about returns may be concluded from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from v13.detector.dtypes import BAR

__all__ = ["MARKET_KINDS", "markets", "random_bars"]

START_MS = 1_704_067_200_000  # a Monday midnight, UTC
MARKET_KINDS = ("messy", "plain", "quotes_only", "trades_only")
IDLE_BARS = 60  # a flow-less stretch outlasts the windows of 20 to 50 bars that tests use


def random_bars(rng: np.random.Generator, n: int, *, bar_ms: int = 1_000, kind: str = "messy") -> NDArray[np.void]:
    """Return `n` random bars, the same ones for the same generator state.

    Parameters
    ----------
    rng : np.random.Generator
        Source of all randomness; it is advanced.
    n : int, >= 2
        Number of bars.
    bar_ms : int, > 0, milliseconds
        Bar length.
    kind : one of MARKET_KINDS
        "messy": heavy-tailed bursts of flow, prices on a coarse grid (ties), idle bars, stale streams, a stretch
        without quotes (in three markets of ten), a late first quote and first trade, gaps in time, flat and flow-less
        stretches.
        "plain": none of the defects.
        "quotes_only" and "trades_only": messy, and the other stream was never there.

    Returns
    -------
    (n,) BAR

    Raises
    ------
    ValueError
        The kind is unknown.
    """
    if kind not in MARKET_KINDS:
        raise ValueError(f"kind must be one of {MARKET_KINDS}, found {kind!r}")
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
    _stretch(rng, n, 3, 0.02, lambda s: _stale(bars, s, "lag_trade_ms", bar_ms, ("delta", "volume")))
    _stretch(rng, n, 3, 0.02, lambda s: _stale(bars, s, "lag_quote_ms", bar_ms, ("ofi",)))
    _stretch(rng, n, 3, 0.03, lambda s: _set(bars, s, ("open", "high", "low", "close", "mid"), float(price[s.start])))
    _stretch(rng, n, IDLE_BARS, 0.04, lambda s: _set(bars, s, ("delta", "ofi"), 0.0))
    if rng.random() < 0.3:
        _drop_quotes(bars[: n // 3])
    _drop_quotes(bars[: int(rng.integers(0, 10))])
    _drop_trades(bars[: int(rng.integers(0, 4))])
    for _ in range(int(rng.integers(0, 4))):
        bars["ts_ms"][int(rng.integers(1, n)) :] += bar_ms * int(rng.integers(1, 500))
    if kind == "quotes_only":
        _drop_trades(bars)
    if kind == "trades_only":
        _drop_quotes(bars)
    return bars


@st.composite
def markets(
    draw: st.DrawFn, *, min_bars: int = 2, max_bars: int = 600, bar_ms: int = 1_000
) -> tuple[NDArray[np.void], list[int]]:
    """Draw a market and its session flags.

    Hypothesis chooses seed, size, kind, hours and damage; numpy makes the bars, so a failing example prints as a
    handful of numbers, and a smaller `n` is a simpler market.

    Parameters
    ----------
    min_bars, max_bars : int, 2 <= min_bars <= max_bars
        Limits of the number of bars.
    bar_ms : int, > 0, milliseconds
        Bar length.

    Returns
    -------
    bars : (n,) BAR
        One of MARKET_KINDS, at times with scattered bars without any price, or with a flow of NaN on a live stream.
    sessions : list of n int, 1 day or 0 night
        Switches every `hours` bars, far oftener than in life, so that pairs straddle buckets.
    """
    n = draw(st.integers(min_bars, max_bars), label="n")
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    kind = draw(st.sampled_from(MARKET_KINDS), label="kind")
    hours = draw(st.integers(1, max(1, n)), label="bars per session")
    is_damaged = draw(st.booleans(), label="damaged")
    rng = np.random.default_rng(seed)
    bars = random_bars(rng, n, bar_ms=bar_ms, kind=kind)
    if is_damaged:
        for names in (("open", "high", "low", "close", "mid"), ("ofi",), ("delta",)):
            _set(bars, rng.random(n) < 0.01, names, np.nan)
    return bars, [i // hours % 2 for i in range(n)]


def _flow(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Noise, and bursts that rise and fall over nine bars, so that a smoothed z reaches its thresholds."""
    bursts = rng.standard_t(2, n) * (rng.random(n) < 0.06) * 3.0
    return np.convolve(bursts, np.hanning(9), "full")[4 : 4 + n] + 0.3 * rng.normal(size=n)


def _stretch(rng: np.random.Generator, n: int, shortest: int, share: float, apply: Callable[[slice], None]) -> None:
    """Apply to one stretch at a random place, of `share` of the record or of `shortest` bars."""
    length = max(shortest, int(n * share))
    first = int(rng.integers(0, max(1, n - length)))
    apply(slice(first, min(n, first + length)))


def _stale(bars: NDArray[np.void], where: slice, lag: str, bar_ms: int, flows: tuple[str, ...]) -> None:
    bars[lag][where] = bar_ms * np.arange(1, len(bars[where]) + 1)
    for name in flows:
        bars[name][where] = 0.0


def _drop_quotes(bars: NDArray[np.void]) -> None:
    """Make `bars` (a view) those of a record in which no quote was seen yet."""
    bars["ofi"], bars["mid"], bars["lag_quote_ms"], bars["n_quotes"] = np.nan, np.nan, -1, 0


def _drop_trades(bars: NDArray[np.void]) -> None:
    """Make `bars` (a view) those of a record in which no trade was seen yet."""
    for name in ("open", "high", "low", "close"):
        bars[name] = np.nan
    bars["delta"], bars["volume"], bars["n_trades"], bars["lag_trade_ms"] = 0.0, 0.0, 0, -1


def _set(bars: NDArray[np.void], where: Any, names: tuple[str, ...], value: float) -> None:
    for name in names:
        bars[name][where] = value
