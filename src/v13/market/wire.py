"""Binance's WebSocket and REST messages as values: aggregate trades, trades and best quotes, spot and USD-M.

It reads the form only. Whether a price makes sense, a trade came twice or a symbol is followed is judged by who takes
the values (`v13.market.intake`).
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from v13.errors import DataError
from v13.market.formats import FIRST_MS, LAST_MS

__all__ = ["STREAM_KINDS", "Quote", "Stream", "Trade", "decode_agg_trades", "decode_quote", "decode_trade", "stream_of"]

Stream: TypeAlias = Literal["trade", "quote"]
Trade: TypeAlias = tuple[str, int, int, float, float, int]  # symbol, ts_ms, trade_id, px, qty, sign
# symbol, ts_ms, update_id, bid, bid_qty, ask, ask_qty
Quote: TypeAlias = tuple[str, int, int, float, float, float, float]

# The part of a stream's name behind the first "@", and what its messages are.
STREAM_KINDS: Final[dict[str, Stream]] = {"aggTrade": "trade", "trade": "trade", "bookTicker": "quote"}
_KIND_OF_SUFFIX: Final[dict[bytes, Stream]] = {name.encode(): kind for name, kind in STREAM_KINDS.items()}

_OPENING: Final = b'{"stream":"'
_NAME_AT: Final = len(_OPENING)
_NAME_BYTES: Final = 96  # a stream's name is far shorter, also where a symbol has letters of several bytes
_EXCERPT_BYTES: Final = 120


_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # they are kept as int64


class _AggTrade(msgspec.Struct, tag_field="e", tag="aggTrade", gc=False):
    s: str
    a: _Id
    p: float
    q: float
    T: int
    m: bool


class _SingleTrade(msgspec.Struct, tag_field="e", tag="trade", gc=False):
    s: str
    t: _Id
    p: float
    q: float
    T: int
    m: bool


class _BookTicker(msgspec.Struct, gc=False):
    u: _Id
    s: str
    b: float
    B: float
    a: float
    A: float
    T: int = 0  # spot sends none


class _TradeFrame(msgspec.Struct, gc=False):
    stream: str
    data: _AggTrade | _SingleTrade


class _QuoteFrame(msgspec.Struct, gc=False):
    stream: str
    data: _BookTicker


class _AggTradeRow(msgspec.Struct, gc=False):
    a: _Id
    p: float
    q: float
    T: int
    m: bool


# Not strict: Binance writes prices and quantities as strings, and msgspec then reads them as numbers without a detour.
_TRADE: Final = msgspec.json.Decoder(_TradeFrame, strict=False)
_QUOTE: Final = msgspec.json.Decoder(_QuoteFrame, strict=False)
_AGG_TRADE_ROWS: Final = msgspec.json.Decoder(list[_AggTradeRow], strict=False)


def stream_of(raw: bytes) -> Stream | None:
    """Return what a combined-stream frame carries, by its first bytes and without decoding it.

    Parameters
    ----------
    raw : bytes
        A whole frame: `{"stream":"btcusdt@aggTrade","data":{...}}`.

    Returns
    -------
    {"trade", "quote"} or None
        None where the frame is no combined-stream frame of a kind read here: an answer to a request, another stream, or
        no JSON at all.
    """
    if not raw.startswith(_OPENING):
        return None
    at = raw.find(b"@", _NAME_AT, _NAME_AT + _NAME_BYTES) + 1
    return _KIND_OF_SUFFIX.get(raw[at : raw.find(b'"', at, at + _NAME_BYTES)]) if at else None


def decode_trade(raw: bytes) -> Trade:
    """Read a frame of `<symbol>@aggTrade` or `<symbol>@trade`.

    Parameters
    ----------
    raw : bytes
        A combined-stream frame.

    Returns
    -------
    tuple of (symbol, ts_ms, trade_id, px, qty, sign)
        `ts_ms` is the trade time `T`, not the event time `E`: bars are cut by when a trade happened. `trade_id` is `a`
        of an aggregate trade and `t` of a single one. `px` and `qty` are finite, in quote and base currency. `sign` is
        -1 where the buyer is the maker (`m`), so the taker sold; else +1.

    Raises
    ------
    DataError
        No JSON, a field missing or of another type, an id that is no int64, a number not finite, a time not in epoch
        milliseconds, or an envelope that names another symbol than the message.

    Notes
    -----
    Binance, "WebSocket Streams for Binance", sections Aggregate Trade Streams and Trade Streams; "USDⓈ-M Futures,
    Aggregate Trade Streams".
    """
    try:
        frame = _TRADE.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise _malformed("trade", raw, str(error)) from error
    data = frame.data
    symbol, ts_ms, px, qty = data.s, data.T, data.p, data.q
    if not frame.stream.startswith(symbol.lower() + "@"):
        raise _malformed("trade", raw, f"the stream {frame.stream} carries {symbol}")
    if not (isfinite(px) and isfinite(qty)):
        raise _malformed("trade", raw, "a price or quantity is not finite")
    if not FIRST_MS <= ts_ms < LAST_MS:
        raise _malformed("trade", raw, f"T = {ts_ms} is no time in epoch milliseconds")
    return symbol, ts_ms, data.a if isinstance(data, _AggTrade) else data.t, px, qty, -1 if data.m else 1


def decode_quote(raw: bytes) -> Quote:
    """Read a frame of `<symbol>@bookTicker`.

    Parameters
    ----------
    raw : bytes
        A combined-stream frame.

    Returns
    -------
    tuple of (symbol, ts_ms, update_id, bid, bid_qty, ask, ask_qty)
        `ts_ms` is the transaction time `T` on USD-M and 0 on spot, where the exchange gives no time. Prices and
        quantities are finite, in quote and base currency.

    Raises
    ------
    DataError
        As for `decode_trade`.

    Notes
    -----
    Binance, "WebSocket Streams for Binance", section Individual Symbol Book Ticker Streams; "USDⓈ-M Futures, Individual
    Symbol Book Ticker Streams".
    """
    try:
        frame = _QUOTE.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise _malformed("quote", raw, str(error)) from error
    data = frame.data
    symbol, ts_ms, bid, bid_qty, ask, ask_qty = data.s, data.T, data.b, data.B, data.a, data.A
    if not frame.stream.startswith(symbol.lower() + "@"):
        raise _malformed("quote", raw, f"the stream {frame.stream} carries {symbol}")
    if not isfinite(bid + bid_qty + ask + ask_qty):
        raise _malformed("quote", raw, "a price or quantity is not finite")
    if ts_ms and not FIRST_MS <= ts_ms < LAST_MS:
        raise _malformed("quote", raw, f"T = {ts_ms} is no time in epoch milliseconds")
    return symbol, ts_ms, data.u, bid, bid_qty, ask, ask_qty


def decode_agg_trades(raw: bytes, symbol: str) -> list[Trade]:
    """Read the answer of the REST call for aggregate trades, as `decode_trade` gives each of them.

    Parameters
    ----------
    raw : bytes
        The body: a JSON list in rising order of id.
    symbol : str
        The symbol asked for; the rows do not name it.

    Returns
    -------
    list of (symbol, ts_ms, trade_id, px, qty, sign)

    Raises
    ------
    DataError
        No JSON list of such rows, a number not finite, a time not in epoch milliseconds, or ids that do not rise.

    Notes
    -----
    Binance, "Public Rest API for Binance", section Compressed/Aggregate trades list; "USDⓈ-M Futures,
    Compressed/Aggregate Trades List".
    """
    try:
        rows = _AGG_TRADE_ROWS.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise _malformed("REST answer", raw, str(error)) from error
    last_id = -1
    for row in rows:
        if not (isfinite(row.p) and isfinite(row.q) and FIRST_MS <= row.T < LAST_MS and row.a > last_id):
            raise _malformed("REST answer", raw, f"row {row.a} has a bad number or time, or does not rise in id")
        last_id = row.a
    return [(symbol, row.T, row.a, row.p, row.q, -1 if row.m else 1) for row in rows]


def _malformed(what: str, raw: bytes, why: str) -> DataError:
    shown = raw[:_EXCERPT_BYTES].decode(errors="replace") + ("…" if len(raw) > _EXCERPT_BYTES else "")
    return DataError(f"malformed {what}: {why}; the message of {len(raw)} bytes begins {shown!r}")
