"""Trades and best quotes of a simulated market, such that bars made from them are the simulated bars again.

It draws no price and no flow of its own: mid, signed volume, volume, number of trades and order-flow imbalance of
every bar are those of `simulate_bars`, to the tick and the lot. Open, high, low, close, the lags and the number of
quotes only come near.

At an unchanged price the order-flow imbalance of the best level telescopes to the change of the queues, so no
lasting flow could come from it. Queue cycles carry it: the bid's queue grows by d, the bid steps up a tick into the
spread and back, and the queue it comes back to is small again (it was cancelled while nobody could see it). Each cycle
adds d; the ask's mirror image takes d away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from v13.errors import ConfigError
from v13.market.simulator import N_STREAMS, simulate_bars, streams
from v13.market.simulator_spec import SYMBOLS, MarketSpec
from v13.market.tape import write_tape

__all__ = ["demo_market", "simulate_ticks"]

I8 = npt.NDArray[np.int64]

QUEUE_MAX: Final = 15.0  # units of latent flow that one queue may grow by before it must flicker
DEMO_ACCURACY: Final = 0.70  # the detector measures about 0.65: it also sees divergences that were not planted


def simulate_ticks(spec: MarketSpec, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return trades, quotes and truth of the market that `simulate_bars(spec, seed)` makes.

    Parameters
    ----------
    spec : MarketSpec
    seed : int, >= 0

    Returns
    -------
    trades : DataFrame
        `ts_ms` int64, `id` int64, `px` float64, `qty` float64 (base currency), `sign` int8 (+1 the taker bought).
        Each trade is at the touch of the last quote before it.
    quotes : DataFrame
        `ts_ms`, `id` int64, `bid`, `bid_qty`, `ask`, `ask_qty` float64. The spread is two ticks, or one
        during a flicker.
    truth : dict
        That of `simulate_bars`, with `n_trades` and `n_quotes`.
    """
    market = simulate_bars(spec, seed)
    *_, quote_rng, trade_rng = streams(spec.symbol, seed, N_STREAMS + 2)
    quotes = _quotes(spec, market.bars, quote_rng)
    trades = _trades(spec, market.bars, quotes, trade_rng)
    return trades, quotes, market.truth | {"n_trades": trades.height, "n_quotes": quotes.height}


def demo_market(
    folder: Path, *, hours: int = 60, seed: int = 13, symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT")
) -> list[Path]:
    """Write a planted market as `<symbol>_trades.parquet` and `<symbol>_quotes.parquet`, marked as simulated.

    Parameters
    ----------
    folder : Path
        Created if absent. Files of the same name are replaced.
    hours : int, >= 1
    seed : int, >= 0
        A symbol's market does not depend on which others are asked for.
    symbols : sequence of str
        Keys of `SYMBOLS`.

    Returns
    -------
    list of Path
        Two for each symbol.

    Raises
    ------
    ConfigError
        A symbol is unknown or `hours` below 1.
    """
    unknown = sorted(set(symbols) - SYMBOLS.keys())
    if unknown or hours < 1:
        raise ConfigError(f"demo market: expected hours >= 1 and symbols of {list(SYMBOLS)}; found {hours}, {unknown}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for symbol in symbols:
        spec = MarketSpec("planted", n_bars=hours * 3_600, symbol=symbol, true_accuracy=DEMO_ACCURACY)
        trades, quotes, truth = simulate_ticks(spec, seed)
        summary = {key: value for key, value in truth.items() if key != "plants"}
        for kind, tape in (("trades", trades), ("quotes", quotes)):
            paths.append(folder / f"{symbol}_{kind}.parquet")
            write_tape(paths[-1], tape, kind=kind, symbol=symbol, market="usdm", simulated=True, truth=summary)
    return paths


def _quotes(spec: MarketSpec, bars: np.ndarray[Any, Any], rng: np.random.Generator) -> pl.DataFrame:
    n, sym = bars.size, SYMBOLS[spec.symbol]
    mid = np.rint(bars["mid"] * sym.ticks_per_unit).astype(np.int64)
    target = np.rint(bars["ofi"] * sym.lots_per_unit).astype(np.int64)

    # The walk from the last bar's price to this one's. The last row of a bar is the state the bar ends in.
    n_walk = np.maximum(1, bars["n_quotes"] - 3)
    bar = np.repeat(np.arange(n), n_walk)
    is_last = np.diff(bar, append=n) > 0
    before = np.concatenate(([mid[0]], mid[:-1]))
    share = np.where(is_last, 1.0, rng.random(bar.size))
    wobble = rng.normal(0.0, 0.2e-4 * sym.vol_bps, bar.size) * mid[bar]
    walk = np.rint(before[bar] + share * (mid - before)[bar] + np.where(is_last, 0.0, wobble)).astype(np.int64)
    bid_lots, ask_lots = (sym.ofi_lots * (0.3 + rng.exponential(0.7, (2, bar.size)))).astype(np.int64)

    # What the walk leaves open of the bar's imbalance is made up by cycles; each ends in the state it began in.
    walked = np.bincount(bar, weights=_imbalance(walk - 1, bid_lots, walk + 1, ask_lots), minlength=n).astype(np.int64)
    owed = target - walked
    n_cycles = np.ceil(np.abs(owed) / (QUEUE_MAX * sym.ofi_lots)).astype(np.int64)
    cycle_bar = np.repeat(np.arange(n), n_cycles)
    cycle = np.arange(cycle_bar.size) - np.repeat(np.cumsum(n_cycles) - n_cycles, n_cycles)
    size, rest = np.divmod(np.abs(owed)[cycle_bar], n_cycles[cycle_bar])
    grow = size + (cycle < rest)
    flicker = 1 + (sym.ofi_lots * rng.exponential(0.2, cycle_bar.size)).astype(np.int64)
    is_bid = owed[cycle_bar] > 0

    n_rows = n_walk + 3 * n_cycles
    first = np.cumsum(n_rows) - n_rows
    walk_at = first[bar] + np.arange(bar.size) - np.repeat(np.cumsum(n_walk) - n_walk, n_walk)
    cycle_at = (first + n_walk)[cycle_bar] + 3 * cycle
    end = np.flatnonzero(is_last)[cycle_bar]
    rows = np.empty((4, int(n_rows.sum())), np.int64)
    rows[:, walk_at] = walk - 1, bid_lots, walk + 1, ask_lots
    for step in range(3):
        rows[:, cycle_at + step] = walk[end] - 1, bid_lots[end], walk[end] + 1, ask_lots[end]
    rows[1, cycle_at] += grow * is_bid
    rows[3, cycle_at] += grow * ~is_bid
    rows[0, cycle_at + 1] += is_bid
    rows[2, cycle_at + 1] -= ~is_bid
    rows[1, cycle_at + 1] = np.where(is_bid, flicker, rows[1, cycle_at + 1])
    rows[3, cycle_at + 1] = np.where(is_bid, rows[3, cycle_at + 1], flicker)

    # Quotes come at even offsets into a bar and trades at odd ones, so a trade's quote is never in doubt.
    offset = 2 * rng.integers(0, spec.bar_ms // 2, rows.shape[1])
    offset[0] = 0
    ts_ms = np.sort(spec.start_ms + spec.bar_ms * np.repeat(np.arange(n), n_rows) + offset)
    return pl.DataFrame(
        {
            "ts_ms": ts_ms,
            "id": np.arange(1, ts_ms.size + 1),
            "bid": rows[0] / sym.ticks_per_unit,
            "bid_qty": rows[1] / sym.lots_per_unit,
            "ask": rows[2] / sym.ticks_per_unit,
            "ask_qty": rows[3] / sym.lots_per_unit,
        }
    )


def _imbalance(bid: I8, bid_lots: I8, ask: I8, ask_lots: I8) -> I8:
    # Cont, Kukanov & Stoikov (2014), sec. 2; the first quote has no predecessor and says nothing. Not that of
    # v13.market.ofi: the truth must not lean on what will be judged by it.
    terms = np.zeros(bid.size, np.int64)
    terms[1:] = (
        (bid[1:] >= bid[:-1]) * bid_lots[1:]
        - (bid[1:] <= bid[:-1]) * bid_lots[:-1]
        - (ask[1:] <= ask[:-1]) * ask_lots[1:]
        + (ask[1:] >= ask[:-1]) * ask_lots[:-1]
    )
    return terms


def _trades(
    spec: MarketSpec, bars: np.ndarray[Any, Any], quotes: pl.DataFrame, rng: np.random.Generator
) -> pl.DataFrame:
    n, sym = bars.size, SYMBOLS[spec.symbol]
    delta = np.rint(bars["delta"] * sym.lots_per_unit).astype(np.int64)
    volume = np.rint(bars["volume"] * sym.lots_per_unit).astype(np.int64)
    lots = np.stack(((volume + delta) // 2, (volume - delta) // 2), axis=1).ravel()  # bought, sold, bought, ...
    n_trades = bars["n_trades"]
    n_bought = np.rint(n_trades * lots[::2] / np.maximum(volume, 1)).astype(np.int64)
    n_bought = np.where(n_trades > 1, np.clip(n_bought, 1, n_trades - 1), n_bought)
    count = np.stack((n_bought, n_trades - n_bought), axis=1).ravel()

    # Every trade has one lot; the rest is shared at random, and what rounding leaves goes to the first.
    group = np.repeat(np.arange(2 * n), count)
    weight = rng.exponential(1.0, group.size)
    weight /= np.bincount(group, weights=weight, minlength=2 * n)[group]
    qty = 1 + np.floor(weight * (lots - count)[group]).astype(np.int64)
    left = lots - np.bincount(group, weights=qty, minlength=2 * n).astype(np.int64)
    has = count > 0
    qty[(np.cumsum(count) - count)[has]] += left[has]

    ts_ms = spec.start_ms + spec.bar_ms * (group // 2) + 2 * rng.integers(0, spec.bar_ms // 2, group.size) + 1
    order = np.argsort(ts_ms, kind="stable")
    ts_ms, is_buy, qty = ts_ms[order], (group % 2 == 0)[order], qty[order]
    at = np.searchsorted(quotes["ts_ms"].to_numpy(), ts_ms, side="right") - 1
    return pl.DataFrame(
        {
            "ts_ms": ts_ms,
            "id": np.arange(1, ts_ms.size + 1),
            "px": np.where(is_buy, quotes["ask"].to_numpy()[at], quotes["bid"].to_numpy()[at]),
            "qty": qty / sym.lots_per_unit,
            "sign": np.where(is_buy, 1, -1).astype(np.int8),
        }
    )
