"""Many combined-stream frames in one compiled pass: `v13.market.wire` for when messages come in hundreds.

It reads the plainest form only, the one Binance sends: ASCII, no escapes, plain decimals, no blanks but behind a value.
Of anything else it says that it does not read it, and `wire` decides what it is. So it must never read what `wire`
would refuse, nor give another value: a decimal of at most 2**53 over a power of ten up to 10**22 is rounded once, as
`float` rounds it (Clinger, "How to Read Floating Point Numbers Accurately", PLDI 1990).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from v13.market.formats import FIRST_MS, LAST_MS
from v13.market.intake import QUOTE, TRADE

__all__ = ["FrameReader", "Frames", "Group", "preload"]

NOT_READ: Final = -1
_NAME_BYTES: Final = 32
_N_FIELDS: Final = 10  # of a `Group`
_MOST_DIGITS: Final = 18
_EXACT: Final = 1 << 53
_TENS: Final = np.array([10.0**k for k in range(23)])
_SPAN: Final = (FIRST_MS, LAST_MS)  # an argument: compiled code would not see a change of another file
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


class Group(NamedTuple):
    """The messages of one symbol and kind among many, in the order in which they came.

    Attributes
    ----------
    symbol : int
        Its place among the reader's symbols.
    is_quote : int
    first, n : int
        Its rows among the records of its kind.
    first_ms, last_ms : int, epoch ms
        The least and the greatest time.
    first_id, last_id : int
        Of the first and the last message.
    in_order : int
        Whether each id is the one before plus one.
    lag_ms : int
        From the exchange's time of the last message to its receipt; 0 where it has none.
    """

    symbol: int
    is_quote: int
    first: int
    n: int
    first_ms: int
    last_ms: int
    first_id: int
    last_id: int
    in_order: int
    lag_ms: int


class Frames(NamedTuple):
    """What was read.

    Attributes
    ----------
    groups : list of Group
    trades, quotes : (n,) TRADE, (m,) QUOTE
        Group by group; the reader's own, until it reads again.
    packed : (memoryview, memoryview)
        The bytes of `trades` and `quotes`.
    trade_at, quote_at : (n,) int64, (m,) int64
        Which message each row was.
    lags_ms : (k,) int64
        Receipt minus the exchange's time, of the messages that have one.
    """

    groups: list[Group]
    trades: NDArray[Any]
    quotes: NDArray[Any]
    packed: tuple[memoryview, memoryview]
    trade_at: NDArray[np.int64]
    quote_at: NDArray[np.int64]
    lags_ms: NDArray[np.int64]


class FrameReader:
    """Reads frames of some symbols.

    Parameters
    ----------
    symbols : sequence of str
        Those not of plain ASCII letters and digits, or of more than 32, are not read here.
    most : int, >= 1
        Frames at a time.
    has_exchange_time : bool
        False: rows bear the time of receipt, as a feed has it whose quotes carry none.
    """

    def __init__(self, symbols: Sequence[str], most: int, *, has_exchange_time: bool) -> None:
        plain = [s if s.isascii() and s.isalnum() and len(s) <= _NAME_BYTES else "" for s in symbols]
        self._names = np.zeros((max(len(plain), 1), _NAME_BYTES), np.uint8)
        for row, name in zip(self._names, plain, strict=False):
            row[: len(name)] = np.frombuffer(name.encode(), np.uint8)
        self._lengths = np.array([len(name) for name in plain] or [0], np.int64)
        self._table = np.full(4 << max(len(plain), 1).bit_length(), -1, np.int64)
        _enter_names(self._names, self._lengths, self._table)
        self._has_exchange_time = has_exchange_time
        self._most = most
        self._keys = np.empty((4, most), np.int64)  # lane, time, id, exchange's time
        self._values = np.empty((4, most))
        self._trades, self._quotes = np.empty(most, TRADE), np.empty(most, QUOTE)
        self._packed = self._trades.view(np.uint8).data, self._quotes.view(np.uint8).data
        self._at = np.empty((2, most), np.int64)
        self._lags = np.empty(most, np.int64)
        self._counts = np.zeros(2 * self._lengths.size, np.int64)
        self._groups = np.empty((min(most, self._counts.size), _N_FIELDS), np.int64)
        self._sizes = np.empty(3, np.int64)

    def read(self, raws: Sequence[bytes], recv_ms: Sequence[int]) -> Frames | None:
        """Read frames.

        Parameters
        ----------
        raws : sequence of bytes
            At most `most`.
        recv_ms : sequence of int, epoch ms
            When each was received.

        Returns
        -------
        Frames or None
            None where one of them is not read here: of another symbol, malformed, or merely unusual.
        """
        n_groups = _read_all(
            np.frombuffer(b"\n".join(raws) + b"\n", np.uint8),
            np.array(recv_ms, np.int64),
            self._has_exchange_time,
            _SPAN,
            self._names,
            self._lengths,
            self._table,
            self._keys,
            self._values,
            self._trades,
            self._quotes,
            self._at,
            self._lags,
            self._counts,
            self._groups,
            self._sizes,
        )
        if n_groups == NOT_READ:
            return None
        n_trades, n_quotes, n_lags = self._sizes.tolist()
        return Frames(
            list(map(Group._make, self._groups[:n_groups].tolist())),
            self._trades[:n_trades],
            self._quotes[:n_quotes],
            self._packed,
            self._at[0, :n_trades],
            self._at[1, :n_quotes],
            self._lags[:n_lags],
        )


def preload() -> None:
    """Load the compiled pass, so that the first messages do not wait for it."""
    FrameReader(["X"], 1, has_exchange_time=True).read([b"{}"], [0])


@njit(cache=True)
def _hash(data, first, last):
    h = np.uint64(14695981039346656037)  # FNV-1a
    for i in range(first, last):
        h = (h ^ np.uint64(data[i])) * np.uint64(1099511628211)
    return np.int64(h >> np.uint64(1))


@njit(cache=True)
def _enter_names(names, lengths, table):
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
    keys[0, i], keys[2, i], keys[3, i] = 2 * symbol + is_quote, number, ts_ms
    return at + _TAIL.size


@njit(cache=True, nogil=True)
def _read_all(
    data,
    recv_ms,
    has_exchange_time,
    span,
    names,
    lengths,
    table,
    keys,
    values,
    trades,
    quotes,
    rows_at,
    lags,
    counts,
    groups,
    sizes,
):
    """Read all frames, then lay them group by group; return how many groups, or NOT_READ."""
    n = recv_ms.size
    if n > keys.shape[1]:
        return NOT_READ
    at = 0
    n_lags = 0
    for i in range(n):
        at = _read_one(data, at, i, span, names, lengths, table, keys, values)
        if at < 0:
            return NOT_READ
        if keys[3, i] > 0:
            lags[n_lags] = recv_ms[i] - keys[3, i]
            n_lags += 1
        keys[1, i] = keys[3, i] if has_exchange_time else recv_ms[i]
    if at != data.size:
        return NOT_READ
    counts[:] = 0
    for i in range(n):
        counts[keys[0, i]] += 1
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
        ts, number = keys[1, i], keys[2, i]
        if g[3] == 0:
            g[6] = number
        elif number != g[7] + 1:
            g[8] = 0
        g[3] += 1
        g[4] = min(g[4], ts)
        g[5] = max(g[5], ts)
        g[7] = number
        g[9] = recv_ms[i] - keys[3, i] if keys[3, i] > 0 else 0
        rows_at[g[1], row] = i
        if g[1] == 0:
            t = trades[row]
            t["ts_ms"], t["id"], t["px"], t["qty"], t["sign"] = ts, number, values[0, i], values[1, i], values[2, i]
        else:
            q = quotes[row]
            q["ts_ms"], q["id"], q["bid"], q["bid_qty"] = ts, number, values[0, i], values[1, i]
            q["ask"], q["ask_qty"] = values[2, i], values[3, i]
    return n_groups
