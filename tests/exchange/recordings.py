"""Recordings as the messages that came, or would have come, over the wire."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl


class Message(NamedTuple):
    """A frame and when its recorder received it."""

    recv_ns: int
    raw: bytes

    @property
    def stream(self) -> str:
        """Name in the envelope."""
        return self.raw[11 : self.raw.index(b'"', 11)].decode()


def raw_ws(path: Path, kinds: Iterable[str] = ("trade", "bookTicker")) -> list[Message]:
    """Return the frames of these streams from a file of `<receive time in ns> <JSON>` lines, bytes unchanged."""
    endings = tuple(f"@{kind}" for kind in kinds)
    messages = []
    with gzip.open(path) as file:
        for line in file:
            stamp, _, raw = line.rstrip(b"\n").partition(b" ")
            if raw.startswith(b'{"stream":"'):
                message = Message(int(stamp), raw)
                if message.stream.endswith(endings):
                    messages.append(message)
    return messages


def quotes_trades(folder: Path, stem: str, symbol: str | None = None) -> list[Message]:
    """Return a pair of parquet files as `aggTrade` and `bookTicker` frames, in order of receipt.

    Every single trade becomes an aggregate trade of one, `a` its own id: so ids rise by one, as Binance's do. `stem` is
    `<market>_<symbol>_<day>`; `symbol` renames it.
    """
    market, recorded = stem.split("_")[:2]
    symbol = symbol or recorded
    trades = pl.read_parquet(folder / f"{stem}_trades.parquet")
    quotes = pl.read_parquet(folder / f"{stem}_bookticker.parquet")
    messages = [agg_trade(symbol, market, row) for row in trades.iter_rows(named=True)]
    messages += [book_ticker(symbol, row) for row in quotes.iter_rows(named=True)]
    return sorted(messages, key=lambda message: message.recv_ns)


def agg_trade(symbol: str, market: str, row: dict[str, object]) -> Message:
    """Return the frame of one trade: `recv_ns, event_ms, trade_ms, trade_id, price, qty, is_buyer_maker`."""
    data = {
        "e": "aggTrade",
        "E": row["event_ms"],
        "s": symbol,
        "a": row["trade_id"],
        "p": _decimal(row["price"]),
        "q": _decimal(row["qty"]),
        "f": row["trade_id"],
        "l": row["trade_id"],
        "T": row["trade_ms"],
        "m": row["is_buyer_maker"],
    }
    if market == "spot":
        data["M"] = True
    return Message(int(str(row["recv_ns"])), _frame(f"{symbol.lower()}@aggTrade", data))


def book_ticker(symbol: str, row: dict[str, object]) -> Message:
    """Return the frame of one best quote: `recv_ns, update_id, bid, bid_qty, ask, ask_qty`, and two times on USD-M."""
    data: dict[str, object] = {"u": row["update_id"], "s": symbol}
    for name, column in {"b": "bid", "B": "bid_qty", "a": "ask", "A": "ask_qty"}.items():
        data[name] = _decimal(row[column])
    if "trans_ms" in row:
        data = {"e": "bookTicker"} | data | {"T": row["trans_ms"], "E": row["event_ms"]}
    return Message(int(str(row["recv_ns"])), _frame(f"{symbol.lower()}@bookTicker", data))


def rest_row(message: Message) -> dict[str, object]:
    """Return an `aggTrade` frame as the REST service lists it."""
    data = json.loads(message.raw)["data"]
    return {name: data[name] for name in ("a", "p", "q", "f", "l", "T", "m")} | {"M": True}


def _frame(stream: str, data: dict[str, object]) -> bytes:
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()


def _decimal(value: object) -> str:
    """The shortest decimal that reads back as the same number."""
    return np.format_float_positional(float(str(value)), trim="-")
