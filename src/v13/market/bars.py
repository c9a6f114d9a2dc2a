"""Bars on a regular UTC grid, from messages as they come or from klines.

A bar stamped `ts_ms` holds the messages with `ts_ms - bar_ms <= time < ts_ms`, and nothing later. Which rows are fit
to be fed is not decided here, but in `v13.market.quality`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from v13.detector.dtypes import BAR
from v13.errors import DataError
from v13.market.bar_kernel import (
    GRID_STATE,
    NOT_IN_ORDER,
    QUOTE_ROW,
    QUOTE_STATE,
    TRADE_ROW,
    TRADE_STATE,
    advance_quotes,
    advance_trades,
    close_bars,
    close_in_order,
)
from v13.market.policy import TICK_BAR_MS, ReadPolicy

__all__ = ["BarBuilder", "bars_from", "bars_from_klines", "resample"]

Bars = NDArray[Any]
_TS, _PX, _SIGN = np.int64, np.float64, np.int8
_STATES: Final = (TRADE_STATE, QUOTE_STATE, GRID_STATE)
_STATE_BYTES: Final = sum(dtype.itemsize for dtype in _STATES)
_MOST_AT_ONCE: Final = 8  # bars; more than a live symbol ever has to close together


class BarBuilder:
    """Turn trades and quotes into bars; one message or a million at a time give the same bytes.

    The two streams are independent: their messages need not be merged, each must only be in time order of itself. A
    message for a bar already handed on is left out and counted in `n_late`. Memory does not grow with history, as
    long as `close_until` is called.

    Parameters
    ----------
    bar_ms : int, milliseconds, >= 1
        Bar length; the grid counts from 1970-01-01 UTC.
    max_gap_ms : int or None, milliseconds, >= 0
        Empty bars go on until the last message of either stream is older than this; then the grid has a hole until
        the next message. The first quote after a longer silence adds nothing to `ofi`. None: the default of
        `ReadPolicy`.
    has_trades, has_quotes : bool
        Which streams exist. Without quotes `ofi` and `mid` are NaN in every bar.

    Raises
    ------
    DataError
        `bar_ms` or `max_gap_ms` is out of range, or there is no stream at all.
    """

    def __init__(self, bar_ms: int, max_gap_ms: int | None = None, *, has_trades: bool, has_quotes: bool) -> None:
        gap_ms = ReadPolicy().gap_ms(bar_ms) if max_gap_ms is None else max_gap_ms
        if bar_ms < 1 or gap_ms < 0:
            raise DataError(f"bars: expected bar_ms >= 1 and max_gap_ms >= 0, found {bar_ms} and {gap_ms}")
        if not (has_trades or has_quotes):
            raise DataError("bars: expected trades, quotes or both, found neither")
        self.bar_ms = bar_ms
        self.max_gap_ms = gap_ms
        self.has_trades = has_trades
        self.has_quotes = has_quotes
        self._memory = np.zeros(_STATE_BYTES, np.uint8)  # of all three, one behind the other
        self._trades, self._quotes, self._grid = _states_in(self._memory)
        self._n_open = self._trades["n"], self._quotes["n"]
        self._trades["bar_ms"] = bar_ms
        self._quotes["bar_ms"] = bar_ms
        self._quotes["max_gap_ms"] = gap_ms
        self._grid["bar_ms"] = bar_ms
        self._grid["max_gap_ms"] = gap_ms
        self._grid["has_quotes"] = int(has_quotes)
        self._grid["close"] = np.nan
        self._grid["mid"] = np.nan
        self._grid["trade_ms"] = -1
        self._grid["quote_ms"] = -1
        self._trade_rows: list[Bars] = []
        self._quote_rows: list[Bars] = []
        self._few_rows = np.empty(_MOST_AT_ONCE, TRADE_ROW), np.empty(_MOST_AT_ONCE, QUOTE_ROW)
        # Room for one message, so that a live push allocates nothing.
        self._one_ts = np.zeros(1, _TS)
        self._one_sign = np.zeros(1, _SIGN)
        self._one_px = np.zeros((4, 1), _PX)
        self._one_trade_row = np.zeros(1, TRADE_ROW)
        self._one_quote_row = np.zeros(1, QUOTE_ROW)

    @property
    def n_late(self) -> int:
        """Messages left out because their bar had been handed on."""
        return int(self._trades["n_late"][0] + self._quotes["n_late"][0])

    def push_trades(
        self, ts_ms: NDArray[np.int64], px: NDArray[np.float64], qty: NDArray[np.float64], sign: NDArray[np.int8]
    ) -> None:
        """Take trades in time order: (n,) arrays of times (ms), prices, sizes and taker sides (+1 bought, -1 sold)."""
        self._allow("trades", self.has_trades)
        rows = np.empty(self._most_rows(ts_ms), TRADE_ROW)
        n = advance_trades(self._trades, ts_ms, px, qty, sign, rows)
        if n:
            self._trade_rows.append(rows[:n].copy())

    def push_quotes(
        self,
        ts_ms: NDArray[np.int64],
        bid: NDArray[np.float64],
        bid_qty: NDArray[np.float64],
        ask: NDArray[np.float64],
        ask_qty: NDArray[np.float64],
    ) -> None:
        """Take best quotes in time order: (n,) arrays of times (ms), prices and sizes of both sides."""
        self._allow("quotes", self.has_quotes)
        rows = np.empty(self._most_rows(ts_ms), QUOTE_ROW)
        n = advance_quotes(self._quotes, ts_ms, bid, bid_qty, ask, ask_qty, rows)
        if n:
            self._quote_rows.append(rows[:n].copy())

    def push_trade(self, ts_ms: int, px: float, qty: float, sign: int) -> None:
        """Take one trade: what `push_trades` does, without arrays."""
        self._allow("trades", self.has_trades)
        one = self._one_px
        self._one_ts[0], one[0, 0], one[1, 0], self._one_sign[0] = ts_ms, px, qty, sign
        if advance_trades(self._trades, self._one_ts, one[0], one[1], self._one_sign, self._one_trade_row):
            self._trade_rows.append(self._one_trade_row.copy())

    def push_quote(self, ts_ms: int, bid: float, bid_qty: float, ask: float, ask_qty: float) -> None:
        """Take one quote: what `push_quotes` does, without arrays."""
        self._allow("quotes", self.has_quotes)
        one = self._one_px
        self._one_ts[0], one[0, 0], one[1, 0], one[2, 0], one[3, 0] = ts_ms, bid, bid_qty, ask, ask_qty
        if advance_quotes(self._quotes, self._one_ts, one[0], one[1], one[2], one[3], self._one_quote_row):
            self._quote_rows.append(self._one_quote_row.copy())

    def close_until(self, ts_ms: int) -> Bars:
        """Hand on every bar that ends by `ts_ms`.

        Parameters
        ----------
        ts_ms : int, epoch milliseconds
            The clock: no message of a bar that ends by then is expected any more. One that comes all the same is late.

        Returns
        -------
        (n,) BAR
            Bars not handed on before, in time order; none before the first message.
        """
        until = ts_ms - ts_ms % self.bar_ms
        trades = _ripe(self._trades, self._trade_rows, until, TRADE_ROW)
        quotes = _ripe(self._quotes, self._quote_rows, until, QUOTE_ROW)
        start = int(self._grid["next_ms"][0])
        if start == 0:
            start = min((int(rows["end_ms"][0]) for rows in (trades, quotes) if rows.size), default=until + self.bar_ms)
        on_grid = max(0, (until - start) // self.bar_ms + 1)
        bridged = (trades.size + quotes.size + 1) * (self.max_gap_ms // self.bar_ms + 2)
        bars = np.empty(min(on_grid, bridged), BAR)
        n = close_bars(self._grid, trades, quotes, until, bars)
        return bars[:n].copy() if n < bars.size else bars

    def close_in_order(
        self,
        trades: Bars,
        quotes: Bars,
        marks: NDArray[np.int64],
        ids: tuple[NDArray[np.int64], NDArray[np.int64]],
        closed_ms: int,
        until_ms: int,
    ) -> Bars | None:
        """Take packed messages and hand on their bars in one compiled call, where nothing has to be put right.

        What it hands on is what `push_trades`, `push_quotes` and `close_until` would, byte for byte.

        Parameters
        ----------
        trades, quotes : (n,) TRADE and (m,) QUOTE of `v13.market.intake`
            As they came; what is not due stays, the caller's to keep.
        marks : (2, 3) int64
            By stream: the last id handed on, how many ids are kept, and, on return, how many messages were taken.
        ids : two of (k,) int64
            Ids handed on, by stream; the new ones are put behind them.
        closed_ms, until_ms : int, epoch milliseconds
            On the grid: up to where bars were closed before, and are to be now.

        Returns
        -------
        (n,) BAR or None
            None, and nothing has changed, where messages are late, out of order, perhaps doubles or of bad values,
            where there was none before, and where there is no room for them or for so many bars.
        """
        n_most = (until_ms - closed_ms) // self.bar_ms
        if n_most > _MOST_AT_ONCE or self._trade_rows or self._quote_rows:
            return None
        bars = np.empty(n_most, BAR)
        n = close_in_order(
            trades,
            quotes,
            marks,
            ids[0],
            ids[1],
            closed_ms,
            until_ms,
            self._trades,
            self._quotes,
            self._grid,
            self._few_rows[0],
            self._few_rows[1],
            bars,
        )
        if n == NOT_IN_ORDER:
            return None
        return bars if n == n_most else bars[:n].copy()

    def finish(self) -> Bars:
        """Hand on the rest, the last bar being the one that holds the last message.

        It is what a live builder gives once its clock has passed that bar's end. A recording that stops within a bar
        ends, as it began, in a bar it holds only a part of.
        """
        ends = [int(state["end_ms"][0]) for state in (self._trades, self._quotes)]
        return self.close_until(max(ends))

    def snapshot(self) -> bytes:
        """Return what a builder needs to go on after the last bar it handed on; its open bar must be empty.

        Raises
        ------
        DataError
            Messages were pushed that no bar was handed on for yet: they would be lost.
        """
        if self._trade_rows or self._quote_rows or self._n_open[0].item() or self._n_open[1].item():
            raise DataError("bars: a builder with an open bar has no snapshot; close the bar first")
        return self._memory.tobytes()

    def restore(self, data: bytes) -> None:
        """Take up the state of a `snapshot` of a builder made with the same arguments.

        Raises
        ------
        DataError
            The bytes are not such a snapshot. The state is untouched then.
        """
        if len(data) != _STATE_BYTES:
            raise DataError(f"bars: a snapshot of {len(data)} bytes is not one of this version")
        memory = np.frombuffer(data, np.uint8)
        trades, quotes, grid = _states_in(memory)
        made = (trades["bar_ms"][0], quotes["max_gap_ms"][0], grid["has_quotes"][0])
        if made != (self.bar_ms, self.max_gap_ms, int(self.has_quotes)):
            raise DataError("bars: the snapshot is of a builder made with other arguments")
        self._memory[:] = memory

    def _most_rows(self, ts_ms: NDArray[np.int64]) -> int:
        if ts_ms.size == 0:
            return 0
        return int(min(ts_ms.size, (ts_ms.max() - ts_ms.min()) // self.bar_ms + 1)) + 1

    @staticmethod
    def _allow(stream: str, exists: bool) -> None:
        if not exists:
            raise DataError(f"bars: {stream} pushed into a builder that was made without {stream}")


def _states_in(memory: NDArray[np.uint8]) -> tuple[Bars, Bars, Bars]:
    """Return the states of trades, quotes and grid as views of bytes."""
    first, second = TRADE_STATE.itemsize, TRADE_STATE.itemsize + QUOTE_STATE.itemsize
    parts = zip((memory[:first], memory[first:second], memory[second:]), _STATES, strict=True)
    trades, quotes, grid = (part.view(dtype) for part, dtype in parts)
    return trades, quotes, grid


def _ripe(state: Bars, pending: list[Bars], until_ms: int, row_dtype: np.dtype[Any]) -> Bars:
    """Take the rows that end by `until_ms` out of `pending`, with the open bar if it does; later ones are late."""
    if state["n"][0] > 0 and state["end_ms"][0] <= until_ms:
        # A state begins as its row does.
        pending.append(state.view(np.uint8)[: row_dtype.itemsize].view(row_dtype).copy())
        state["n"] = 0
    state["floor_ms"] = max(int(state["floor_ms"][0]), until_ms)
    if not pending:
        return np.empty(0, row_dtype)
    rows = pending[0] if len(pending) == 1 else np.concatenate(pending)
    n = int(np.searchsorted(rows["end_ms"], until_ms, side="right"))
    pending[:] = [rows[n:]] if n < rows.size else []
    return rows[:n]


def bars_from(
    trades: pl.DataFrame | None,
    quotes: pl.DataFrame | None,
    *,
    bar_ms: int = TICK_BAR_MS,
    max_gap_ms: int | None = None,
) -> Bars:
    """Return the bars of whole tapes.

    Parameters
    ----------
    trades, quotes : polars.DataFrame or None
        Tapes after `v13.market.tape.SCHEMAS`, clean and in time order. None where the stream does not exist.
    bar_ms, max_gap_ms : int, milliseconds
        As in `BarBuilder`.

    Returns
    -------
    (n,) BAR
        Bars on the grid, with holes where both streams were silent for more than `max_gap_ms`.

    Raises
    ------
    DataError
        A tape is not in time order, or there is none.
    """
    builder = BarBuilder(bar_ms, max_gap_ms, has_trades=trades is not None, has_quotes=quotes is not None)
    for name, tape in (("trades", trades), ("quotes", quotes)):
        if tape is not None:
            if not tape["ts_ms"].is_sorted():
                raise DataError(f"bars: the {name} tape is not in time order")
            push_tape(builder, name, tape)
    return builder.finish()


def push_tape(builder: BarBuilder, kind: str, tape: pl.DataFrame) -> None:
    """Hand a trades or quotes tape to the builder."""
    push = builder.push_trades if kind == "trades" else builder.push_quotes
    names = ("px", "qty", "sign") if kind == "trades" else ("bid", "bid_qty", "ask", "ask_qty")
    push(*(tape[name].to_numpy() for name in ("ts_ms", *names)))


def bars_from_klines(klines: pl.DataFrame, bar_ms: int) -> Bars:
    """Return klines as bars: `delta = 2 * taker_buy_volume - volume`, no quotes, missing klines missing.

    Parameters
    ----------
    klines : polars.DataFrame
        Tape after `v13.market.tape.SCHEMAS["klines"]`, clean and in time order.
    bar_ms : int, milliseconds
        Length of a kline.

    Returns
    -------
    (n,) BAR
        One per kline, stamped with its end. `lag_trade_ms` is 0: the exchange vouches for the whole interval.
        `ofi` and `mid` are NaN, `lag_quote_ms` is -1.
    """
    bars = np.zeros(klines.height, BAR)
    for name in ("open", "high", "low", "close", "volume", "n_trades"):
        bars[name] = klines[name].to_numpy()
    bars["ts_ms"] = klines["open_ts_ms"].to_numpy() + bar_ms
    bars["delta"] = 2.0 * klines["taker_buy_volume"].to_numpy() - bars["volume"]
    bars["mid"] = np.nan
    bars["ofi"] = np.nan
    bars["lag_quote_ms"] = -1
    return bars


def resample(bars: Bars, bar_ms: int, target_ms: int) -> Bars:
    """Return longer bars made of whole sets of shorter ones.

    Parameters
    ----------
    bars : (n,) BAR
        In time order, on the grid of `bar_ms`.
    bar_ms, target_ms : int, milliseconds
        Length now and then; the second is a multiple of the first.

    Returns
    -------
    (m,) BAR
        A bar is left out if one of the bars it is made of is missing: its sums would be too small.

    Raises
    ------
    DataError
        `target_ms` is not a multiple of `bar_ms`.
    """
    n_each, rest = divmod(target_ms, bar_ms)
    if rest or n_each < 1:
        raise DataError(f"bars: expected a bar length that is a multiple of {bar_ms} ms, found {target_ms} ms")
    ends = -(-bars["ts_ms"] // target_ms) * target_ms
    first = np.flatnonzero(np.diff(ends, prepend=-1))
    whole = np.diff(np.append(first, bars.size)) == n_each
    first = first[whole]
    sets = bars[first[:, None] + np.arange(n_each)]
    out: Bars = sets[:, -1].copy()  # the close, the mid and the lags are those of the last
    out["open"] = sets["open"][:, 0]
    out["high"] = sets["high"].max(axis=1)
    out["low"] = sets["low"].min(axis=1)
    for name in ("volume", "delta", "ofi", "n_trades", "n_quotes"):
        out[name] = sets[name].sum(axis=1)
    return out
