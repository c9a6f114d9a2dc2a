"""The compiled pass behind `v13.market.frames`: combined-stream frames in plain form, read and laid out by symbol.

It reads the plainest form only, the one Binance sends: ASCII, no escapes, plain decimals, no blanks but behind a value.
Of anything else it says that it does not read it, and `wire` decides what it is. So it must never read what `wire`
would refuse, nor give another value: a decimal of at most 2**53 over a power of ten up to 10**22 is rounded once, as
`float` rounds it (Clinger, "How to Read Floating Point Numbers Accurately", PLDI 1990).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

__all__ = ["NOT_READ", "N_FIELDS", "enter_names", "lay_out", "read_frames"]

NOT_READ: Final = -1
N_FIELDS: Final = 10  # of a `v13.market.frames.Group`
_MOST_DIGITS: Final = 18
_EXACT: Final = 1 << 53
_TENS: Final = np.array([10.0**k for k in range(23)])
_NO_TIME: Final = np.iinfo(np.int64).max

_HEAD: Final = np.frombuffer(b'{"stream":"', np.uint8)
_MIDDLE: Final = np.frombuffer(b',"data":{', np.uint8)
_TAIL: Final = np.frombuffer(b"}\n", np.uint8)
_AGG_TRADE: Final = np.frombuffer(b"aggTrade", np.uint8)
_TRADE: Final = np.frombuffer(b"trade", np.uint8)
_BOOK_TICKER: Final = np.frombuffer(b"bookTicker", np.uint8)
_TRUE: Final = np.frombuffer(b"true", np.uint8)
_FALSE: Final = np.frombuffer(b"false", np.uint8)
_NULL: Final = np.frombuffer(b"null", np.uint8)


@njit(cache=True)
def _hash(data, first, last):
    h = np.uint64(14695981039346656037)  # FNV-1a
    for i in range(first, last):
        h = (h ^ np.uint64(data[i])) * np.uint64(1099511628211)
    return np.int64(h >> np.uint64(1))


@njit(cache=True)
def enter_names(names, lengths, table):
    """Enter the names into the open-addressed `table`, a power of two of -1 and larger than there are names."""
    for k in range(lengths.size):
        if lengths[k] > 0:
            at = _hash(names[k], 0, lengths[k]) & (table.size - 1)
            while table[at] >= 0:
                at = (at + 1) & (table.size - 1)
            table[at] = k


@njit(cache=True)
def _symbol(data, first, last, names, lengths, table):
    """Return which symbol is named in [first, last); NOT_READ where none is."""
    n = last - first
    if n < 1 or n > names.shape[1]:
        return NOT_READ
    at = _hash(data, first, last) & (table.size - 1)
    while table[at] >= 0:
        k = table[at]
        if lengths[k] == n:
            i = 0
            while i < n and names[k, i] == data[first + i]:
                i += 1
            if i == n:
                return k
        at = (at + 1) & (table.size - 1)
    return NOT_READ


@njit(cache=True)
def _is(data, at, text):
    """Tell whether `text` stands at `at`."""
    if at + text.size > data.size:
        return False
    for i in range(text.size):  # noqa: SIM110 - compiled
        if data[at + i] != text[i]:
            return False
    return True


@njit(cache=True)
def _end_of_string(data, at):
    """Return where the string that begins at `at` ends; NOT_READ where it is not plain."""
    while at < data.size:
        c = data[at]
        if c == 34:
            return at
        if c < 32 or c > 126 or c == 92:
            return NOT_READ
        at += 1
    return NOT_READ


@njit(cache=True)
def _end_of_digits(data, at):
    while at < data.size and 48 <= data[at] <= 57:
        at += 1
    return at


@njit(cache=True)
def _end_of_number(data, at):
    """Return where a plain decimal ends that begins at `at`; NOT_READ where none does."""
    end = _end_of_digits(data, at)
    if end == at or (data[at] == 48 and end > at + 1):
        return NOT_READ
    if end < data.size and data[end] == 46:
        first = end + 1
        end = _end_of_digits(data, first)
        if end == first:
            return NOT_READ
    return end


@njit(cache=True)
def _whole(data, first, last):
    """Return the whole number in [first, last), digits only; NOT_READ where it is none or too long."""
    n = last - first
    if n < 1 or n > _MOST_DIGITS or (data[first] == 48 and n > 1):
        return NOT_READ
    value = 0
    for i in range(first, last):
        if not 48 <= data[i] <= 57:
            return NOT_READ
        value = 10 * value + int(data[i]) - 48
    return value


@njit(cache=True)
def _decimal(data, first, last):
    """Return the decimal in [first, last), not negative; -1.0 where it is none, or not sure to be rounded once."""
    if last - first > 2 * _MOST_DIGITS or _end_of_number(data, first) != last:
        return -1.0
    value = 0
    n_behind = 0
    is_behind = False
    for i in range(first, last):
        if data[i] == 46:
            is_behind = True
            continue
        value = 10 * value + int(data[i]) - 48
        if value > _EXACT:
            return -1.0
        if is_behind:
            n_behind += 1
    if n_behind >= _TENS.size:
        return -1.0
    return value / _TENS[n_behind]


@njit(cache=True)
def _end_of_value(data, at):
    """Return where a value that is not asked for ends; NOT_READ where it is not a plain one."""
    if at >= data.size:
        return NOT_READ
    c = data[at]
    if c == 34:
        end = _end_of_string(data, at + 1)
        return end + 1 if end >= 0 else NOT_READ
    if _is(data, at, _TRUE) or _is(data, at, _NULL):
        return at + 4
    if _is(data, at, _FALSE):
        return at + 5
    return _end_of_number(data, at)


@njit(cache=True)
def _read_one(data, at, i, span, names, lengths, table, keys, values):
    """Read the frame at `at` into column `i` of keys and values; return where the next begins, or NOT_READ."""
    if not _is(data, at, _HEAD):
        return NOT_READ
    stream = at + _HEAD.size
    stream_end = _end_of_string(data, stream)
    if stream_end < 0 or not _is(data, stream_end + 1, _MIDDLE):
        return NOT_READ
    base_end = stream
    while base_end < stream_end and data[base_end] != 64:
        base_end += 1
    n = stream_end - base_end - 1
    kind = base_end + 1
    is_agg_trade = n == _AGG_TRADE.size and _is(data, kind, _AGG_TRADE)
    is_quote = 1 if n == _BOOK_TICKER.size and _is(data, kind, _BOOK_TICKER) else 0
    if not (is_quote or is_agg_trade or (n == _TRADE.size and _is(data, kind, _TRADE))):
        return NOT_READ
    symbol = ts_ms = agg_id = trade_id = quote_id = tag = maker = -1
    px = qty = bid = bid_qty = ask = ask_qty = -1.0
    seen = np.uint64(0)
    at = stream_end + 1 + _MIDDLE.size
    while True:
        if at >= data.size or data[at] != 34:
            return NOT_READ
        key = at + 1
        key_end = _end_of_string(data, key)
        if key_end < 0 or key_end + 2 >= data.size or data[key_end + 1] != 58:
            return NOT_READ
        value = key_end + 2
        end = _end_of_value(data, value)
        if end < 0:
            return NOT_READ
        rest = end
        while rest < data.size and data[rest] == 32:
            rest += 1
        if rest >= data.size:
            return NOT_READ
        if key_end - key == 1:
            c = data[key]
            if 64 < c < 128:
                bit = np.uint64(1) << np.uint64(c - 64)
                if seen & bit:
                    return NOT_READ
                seen |= bit
            is_string = data[value] == 34
            if c == 115 and is_string:  # s
                symbol = _symbol(data, value + 1, end - 1, names, lengths, table)
            elif c == 84:  # T
                ts_ms = _whole(data, value, end)
                if ts_ms < 0:
                    return NOT_READ
            elif is_quote == 0:
                if c == 101 and is_string:  # e
                    if end - value == _AGG_TRADE.size + 2 and _is(data, value + 1, _AGG_TRADE):
                        tag = 0
                    elif end - value == _TRADE.size + 2 and _is(data, value + 1, _TRADE):
                        tag = 1
                elif c == 97:  # a
                    agg_id = _whole(data, value, end)
                elif c == 116:  # t
                    trade_id = _whole(data, value, end)
                elif c == 112 and is_string:  # p
                    px = _decimal(data, value + 1, end - 1)
                elif c == 113 and is_string:  # q
                    qty = _decimal(data, value + 1, end - 1)
                elif c == 109:  # m
                    maker = 1 if data[value] == 116 else 0 if data[value] == 102 else -1
            elif c == 117:  # u
                quote_id = _whole(data, value, end)
            elif c == 98 and is_string:  # b
                bid = _decimal(data, value + 1, end - 1)
            elif c == 66 and is_string:  # B
                bid_qty = _decimal(data, value + 1, end - 1)
            elif c == 97 and is_string:  # a
                ask = _decimal(data, value + 1, end - 1)
            elif c == 65 and is_string:  # A
                ask_qty = _decimal(data, value + 1, end - 1)
        at = rest + 1
        if data[rest] == 44:
            continue
        if data[rest] == 125:
            break
        return NOT_READ
    if not _is(data, at, _TAIL) or symbol < 0 or lengths[symbol] != base_end - stream:
        return NOT_READ
    for k in range(lengths[symbol]):
        c = names[symbol, k]
        if data[stream + k] != (c + 32 if 65 <= c <= 90 else c):
            return NOT_READ
    if is_quote == 0:
        number = agg_id if tag == 0 else trade_id
        if tag < 0 or number < 0 or px < 0 or qty < 0 or maker < 0:
            return NOT_READ
        values[0, i], values[1, i], values[2, i] = px, qty, -1.0 if maker == 1 else 1.0
    else:
        number = quote_id
        if number < 0 or bid < 0 or bid_qty < 0 or ask < 0 or ask_qty < 0:
            return NOT_READ
        values[0, i], values[1, i], values[2, i], values[3, i] = bid, bid_qty, ask, ask_qty
        if ts_ms < 0:
            ts_ms = 0
    if not (span[0] <= ts_ms < span[1]) and not (is_quote == 1 and ts_ms == 0):
        return NOT_READ
    keys[0, i], keys[1, i], keys[2, i] = 2 * symbol + is_quote, number, ts_ms
    return at + _TAIL.size


@njit(cache=True, nogil=True)
def read_frames(data, recv_ms, span, names, lengths, table, keys, values):
    """Read the frames in `data`, a line each, into the columns of keys and values; return how many, or NOT_READ.

    Parameters
    ----------
    data : (bytes,) uint8
    recv_ms : (n,) int64, epoch ms
    span : (int, int), epoch ms
        An argument: compiled code would not see a change of the other file.
    names, lengths, table : (k, bytes) uint8, (k,) int64, (slots,) int64
        Of `enter_names`.
    keys : (3, most) int64
        Out: 2 * symbol + is_quote, id, the exchange's time (0: none).
    values : (4, most) float64
        Out: px, qty, sign of a trade; bid, bid_qty, ask, ask_qty of a quote.
    """
    if recv_ms.size > keys.shape[1]:
        return NOT_READ
    at = 0
    for i in range(recv_ms.size):
        at = _read_one(data, at, i, span, names, lengths, table, keys, values)
        if at < 0:
            return NOT_READ
    return recv_ms.size if at == data.size else NOT_READ


@njit(cache=True, nogil=True)
def lay_out(recv_ms, has_exchange_time, keys, values, trades, quotes, rows_at, lags, counts, groups, sizes):
    """Lay out group by group what `read_frames` read; return how many groups.

    Parameters
    ----------
    recv_ms, keys, values
        As there.
    has_exchange_time : bool
        Which time a row bears: the exchange's, or that of its receipt.
    trades, quotes : (most,) TRADE, (most,) QUOTE
        Out.
    rows_at : (2, most) int64
        Out: which message each row of trades, of quotes was.
    lags : (most,) int64
        Out: receipt minus the exchange's time, of those that have one.
    counts : (2 * symbols,) int64
        Room for work.
    groups : (most, N_FIELDS) int64
        Out: fields of `Group`.
    sizes : (3,) int64
        Out: how many trades, quotes, lags.
    """
    n = recv_ms.size
    counts[:] = 0
    n_lags = 0
    for i in range(n):
        counts[keys[0, i]] += 1
        if keys[2, i] > 0:
            lags[n_lags] = recv_ms[i] - keys[2, i]
            n_lags += 1
    n_groups = n_trades = n_quotes = 0
    for lane in range(counts.size):
        size = counts[lane]
        if size == 0:
            continue
        is_quote = lane & 1
        g = groups[n_groups]
        g[0], g[1], g[3], g[4], g[5], g[8] = lane >> 1, is_quote, 0, _NO_TIME, 0, 1
        if is_quote:
            g[2] = n_quotes
            n_quotes += size
        else:
            g[2] = n_trades
            n_trades += size
        counts[lane] = n_groups  # from here on which group is the lane's
        n_groups += 1
    sizes[0], sizes[1], sizes[2] = n_trades, n_quotes, n_lags
    for i in range(n):
        g = groups[counts[keys[0, i]]]
        row = g[2] + g[3]
        number, exchange_ms = keys[1, i], keys[2, i]
        ts = exchange_ms if has_exchange_time else recv_ms[i]
        if g[3] == 0:
            g[6] = number
        elif number != g[7] + 1:
            g[8] = 0
        g[3] += 1
        g[4] = min(g[4], ts)
        g[5] = max(g[5], ts)
        g[7] = number
        g[9] = recv_ms[i] - exchange_ms if exchange_ms > 0 else 0
        rows_at[g[1], row] = i
        if g[1] == 0:
            t = trades[row]
            t["ts_ms"], t["id"], t["px"], t["qty"], t["sign"] = ts, number, values[0, i], values[1, i], values[2, i]
        else:
            q = quotes[row]
            q["ts_ms"], q["id"], q["bid"], q["bid_qty"] = ts, number, values[0, i], values[1, i]
            q["ask"], q["ask_qty"] = values[2, i], values[3, i]
    return n_groups
