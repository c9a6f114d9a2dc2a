"""The compiled recursions from messages to bars.

Three of them: trades into rows, quotes into rows, and rows of both onto the regular grid. A row is one bar of one
stream that holds at least one message. There is no second, streaming copy: live hands over one message, batch a whole
block, and the sums are taken in the same order either way. `close_in_order` goes through all three in one call, as
fifty live symbols end a bar in the same moment. `v13.market.bars` checks, allocates and calls.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "GRID_STATE",
    "LAST_ID",
    "NOT_IN_ORDER",
    "N_DUE",
    "N_IDS",
    "QUOTE_ROW",
    "QUOTE_STATE",
    "TRADE_ROW",
    "TRADE_STATE",
    "advance_quotes",
    "advance_trades",
    "close_bars",
    "close_in_order",
]

I8, F8 = np.int64, np.float64

_TRADE: Final = [
    ("end_ms", I8),  # end of the bar, exclusive
    ("open", F8),
    ("high", F8),
    ("low", F8),
    ("close", F8),
    ("volume", F8),
    ("delta", F8),
    ("n", I8),  # messages in the bar; in a state, 0 says that no bar is open
    ("last_ms", I8),  # latest message time
]
_QUOTE: Final = [("end_ms", I8), ("ofi", F8), ("mid", F8), ("n", I8), ("last_ms", I8)]
_STREAM: Final = [
    ("bar_ms", I8),
    ("floor_ms", I8),  # a message before this belongs to a bar already handed on
    ("n_late", I8),  # such messages, left out
]

TRADE_ROW: Final = np.dtype(_TRADE)
QUOTE_ROW: Final = np.dtype(_QUOTE)
TRADE_STATE: Final = np.dtype(_TRADE + _STREAM)
QUOTE_STATE: Final = np.dtype(
    _QUOTE
    + _STREAM
    + [
        ("max_gap_ms", I8),
        ("seen", I8),  # 1 once there is a quote to compare with
        ("seen_ms", I8),  # its time
        ("bid", F8),
        ("bid_qty", F8),
        ("ask", F8),
        ("ask_qty", F8),
    ]
)
GRID_STATE: Final = np.dtype(
    [
        ("bar_ms", I8),
        ("max_gap_ms", I8),
        ("has_quotes", I8),
        ("next_ms", I8),  # end of the next bar of the grid; 0 before the first message
        ("close", F8),
        ("mid", F8),
        ("trade_ms", I8),  # time of the last trade and of the last quote on the grid; -1 before the first
        ("quote_ms", I8),
    ]
)

# What is remembered of a stream's ids, by place: the last one handed on, how many are kept, how many were handed on
# by the last call.
LAST_ID, N_IDS, N_DUE = 0, 1, 2
NOT_IN_ORDER: Final = -1


@njit(cache=True, inline="always")
def _leave_trades(s: Any, b: Any) -> None:
    b["end_ms"] = s["end_ms"]
    b["open"] = s["open"]
    b["high"] = s["high"]
    b["low"] = s["low"]
    b["close"] = s["close"]
    b["volume"] = s["volume"]
    b["delta"] = s["delta"]
    b["n"] = s["n"]
    b["last_ms"] = s["last_ms"]


@njit(cache=True, inline="always")
def _leave_quotes(s: Any, b: Any) -> None:
    b["end_ms"] = s["end_ms"]
    b["ofi"] = s["ofi"]
    b["mid"] = s["mid"]
    b["n"] = s["n"]
    b["last_ms"] = s["last_ms"]


@njit(cache=True, nogil=True)
def advance_trades(
    state: NDArray[Any],
    ts: NDArray[np.int64],
    px: NDArray[np.float64],
    qty: NDArray[np.float64],
    sign: NDArray[np.int8],
    bars: NDArray[Any],
) -> int:
    """Advance `state` over trades; write each bar left behind to `bars` and return how many."""
    s = state[0]
    bar_ms = s["bar_ms"]
    n_bars = 0
    for i in range(ts.size):
        t = ts[i]
        if t < s["floor_ms"]:
            s["n_late"] += 1
            continue
        p = px[i]
        if s["n"] == 0 or t >= s["end_ms"]:
            if s["n"] > 0:
                _leave_trades(s, bars[n_bars])
                n_bars += 1
            s["floor_ms"] = t - t % bar_ms
            s["end_ms"] = s["floor_ms"] + bar_ms
            s["open"] = p
            s["high"] = p
            s["low"] = p
            s["volume"] = 0.0
            s["delta"] = 0.0
            s["n"] = 0
            s["last_ms"] = t
        s["high"] = max(s["high"], p)
        s["low"] = min(s["low"], p)
        s["close"] = p
        s["volume"] += qty[i]
        s["delta"] += sign[i] * qty[i]
        s["n"] += 1
        s["last_ms"] = max(s["last_ms"], t)
    return n_bars


@njit(cache=True, nogil=True)
def advance_quotes(
    state: NDArray[Any],
    ts: NDArray[np.int64],
    bid: NDArray[np.float64],
    bid_qty: NDArray[np.float64],
    ask: NDArray[np.float64],
    ask_qty: NDArray[np.float64],
    bars: NDArray[Any],
) -> int:
    """Advance `state` over quotes; write each bar left behind to `bars` and return how many.

    The imbalance of a quote is that of Cont, Kukanov & Stoikov (2014); see `v13.market.ofi`. The first quote, and the
    first after more than `max_gap_ms`, has nothing honest to be compared with and adds 0.
    """
    s = state[0]
    bar_ms = s["bar_ms"]
    n_bars = 0
    for i in range(ts.size):
        t = ts[i]
        if t < s["floor_ms"]:
            s["n_late"] += 1
            continue
        if s["n"] == 0 or t >= s["end_ms"]:
            if s["n"] > 0:
                _leave_quotes(s, bars[n_bars])
                n_bars += 1
            s["floor_ms"] = t - t % bar_ms
            s["end_ms"] = s["floor_ms"] + bar_ms
            s["ofi"] = 0.0
            s["n"] = 0
            s["last_ms"] = t
        pb, qb, pa, qa = bid[i], bid_qty[i], ask[i], ask_qty[i]
        if s["seen"] == 1 and t - s["seen_ms"] <= s["max_gap_ms"]:
            demand = 0.0
            supply = 0.0
            if pb >= s["bid"]:
                demand += qb
            if pb <= s["bid"]:
                demand -= s["bid_qty"]
            if pa <= s["ask"]:
                supply += qa
            if pa >= s["ask"]:
                supply -= s["ask_qty"]
            s["ofi"] += demand - supply
        s["seen"] = 1
        s["seen_ms"] = t
        s["bid"] = pb
        s["bid_qty"] = qb
        s["ask"] = pa
        s["ask_qty"] = qa
        s["mid"] = 0.5 * (pb + pa)
        s["n"] += 1
        s["last_ms"] = max(s["last_ms"], t)
    return n_bars


@njit(cache=True, nogil=True)
def close_bars(
    state: NDArray[Any],
    trades: NDArray[Any],
    quotes: NDArray[Any],
    until_ms: int,
    bars: NDArray[Any],
) -> int:
    """Lay rows of both streams that end by `until_ms` onto the grid; write BAR records and return how many.

    Between messages the grid goes on with empty bars, until the last message of either stream is more than
    `max_gap_ms` old.
    """
    s = state[0]
    bar_ms = s["bar_ms"]
    end = s["next_ms"]
    i = 0
    j = 0
    n_bars = 0
    while True:
        next_trade = trades[i]["end_ms"] if i < trades.size else until_ms + bar_ms
        next_quote = quotes[j]["end_ms"] if j < quotes.size else until_ms + bar_ms
        next_row = min(next_trade, next_quote)
        last_ms = max(s["trade_ms"], s["quote_ms"])
        if next_row > end and (last_ms < 0 or end - last_ms > s["max_gap_ms"]):
            if next_row > until_ms:
                break
            end = next_row
        if end > until_ms:
            break
        b = bars[n_bars]
        b["ts_ms"] = end
        if next_trade == end:
            row = trades[i]
            b["open"] = row["open"]
            b["high"] = row["high"]
            b["low"] = row["low"]
            b["volume"] = row["volume"]
            b["delta"] = row["delta"]
            b["n_trades"] = row["n"]
            s["close"] = row["close"]
            s["trade_ms"] = row["last_ms"]
            i += 1
        else:
            b["open"] = s["close"]
            b["high"] = s["close"]
            b["low"] = s["close"]
            b["volume"] = 0.0
            b["delta"] = 0.0
            b["n_trades"] = 0
        b["close"] = s["close"]
        if next_quote == end:
            quote = quotes[j]
            b["ofi"] = quote["ofi"]
            b["n_quotes"] = quote["n"]
            s["mid"] = quote["mid"]
            s["quote_ms"] = quote["last_ms"]
            j += 1
        else:
            b["ofi"] = 0.0 if s["has_quotes"] == 1 else np.nan
            b["n_quotes"] = 0
        b["mid"] = s["mid"]
        b["lag_trade_ms"] = end - s["trade_ms"] if s["trade_ms"] >= 0 else -1
        b["lag_quote_ms"] = end - s["quote_ms"] if s["quote_ms"] >= 0 else -1
        n_bars += 1
        end += bar_ms
    s["next_ms"] = end
    return n_bars


@njit(cache=True, inline="always")
def _count_due(messages: Any, marks: Any, closed_ms: int, until_ms: int) -> int:
    """Count what comes before `until_ms`; NOT_IN_ORDER unless times never fall, ids rise and nothing is late."""
    before_ms = closed_ms
    last_id = marks[LAST_ID]
    n = 0
    for i in range(messages.size):
        t = messages[i]["ts_ms"]
        if t < before_ms:
            return NOT_IN_ORDER
        before_ms = t
        if t < until_ms:
            if messages[i]["id"] <= last_id:
                return NOT_IN_ORDER
            last_id = messages[i]["id"]
            n += 1
    return n


@njit(cache=True, inline="always")
def _remember(messages: Any, n: int, marks: Any, ids: Any) -> None:
    for i in range(n):
        ids[marks[N_IDS] + i] = messages[i]["id"]
    if n > 0:
        marks[LAST_ID] = messages[n - 1]["id"]
    marks[N_IDS] += n
    marks[N_DUE] = n


@njit(cache=True, nogil=True)
def close_in_order(
    trades: NDArray[Any],
    quotes: NDArray[Any],
    marks: NDArray[np.int64],
    trade_ids: NDArray[np.int64],
    quote_ids: NDArray[np.int64],
    closed_ms: int,
    until_ms: int,
    trade_state: NDArray[Any],
    quote_state: NDArray[Any],
    grid: NDArray[Any],
    trade_rows: NDArray[Any],
    quote_rows: NDArray[Any],
    bars: NDArray[Any],
) -> int:
    """Hand messages on that came in order and once, and close every bar that ends by `until_ms`.

    `trades` and `quotes` are records as they were packed, `marks` is (2, 3): LAST_ID, N_IDS and N_DUE of both. Writes
    BAR records and returns how many. NOT_IN_ORDER, and nothing has changed, where anything asks for more: a message
    that is late, out of order, perhaps a double or of a bad value; the first bar of all; or no room in an argument.
    """
    t, q, g = trade_state[0], quote_state[0], grid[0]
    n_on_grid = (until_ms - g["next_ms"]) // g["bar_ms"] + 1
    n_spanned = (until_ms - closed_ms) // g["bar_ms"]
    if g["next_ms"] == 0 or n_on_grid > bars.size or n_spanned > trade_rows.size or n_spanned > quote_rows.size:
        return NOT_IN_ORDER
    n_trades = _count_due(trades, marks[0], closed_ms, until_ms)
    n_quotes = _count_due(quotes, marks[1], closed_ms, until_ms)
    if n_trades < 0 or n_quotes < 0 or t["n"] > 0 or q["n"] > 0:
        return NOT_IN_ORDER
    if marks[0, N_IDS] + n_trades > trade_ids.size or marks[1, N_IDS] + n_quotes > quote_ids.size:
        return NOT_IN_ORDER
    for i in range(n_trades):
        m = trades[i]
        if not (0 < m["px"] < np.inf and 0 < m["qty"] < np.inf):
            return NOT_IN_ORDER
    for i in range(n_quotes):
        o = quotes[i]
        if not (0 < o["bid"] <= o["ask"] < np.inf and 0 < o["bid_qty"] < np.inf and 0 < o["ask_qty"] < np.inf):
            return NOT_IN_ORDER
    _remember(trades, n_trades, marks[0], trade_ids)
    _remember(quotes, n_quotes, marks[1], quote_ids)
    due = trades[:n_trades]
    n = advance_trades(trade_state, due["ts_ms"], due["px"], due["qty"], due["sign"], trade_rows)
    if t["n"] > 0:
        _leave_trades(t, trade_rows[n])
        t["n"] = 0
        n += 1
    said = quotes[:n_quotes]
    k = advance_quotes(
        quote_state, said["ts_ms"], said["bid"], said["bid_qty"], said["ask"], said["ask_qty"], quote_rows
    )
    if q["n"] > 0:
        _leave_quotes(q, quote_rows[k])
        q["n"] = 0
        k += 1
    t["floor_ms"] = max(t["floor_ms"], until_ms)
    q["floor_ms"] = max(q["floor_ms"], until_ms)
    n_bars: int = close_bars(grid, trade_rows[:n], quote_rows[:k], until_ms, bars)
    return n_bars
