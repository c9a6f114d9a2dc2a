"""Many combined-stream frames in one compiled pass: `v13.market.wire` for when messages come in hundreds.

It decides nothing about a message: what the pass does not read is left to `wire`, which must give the same of all it
does read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.market.formats import FIRST_MS, LAST_MS
from v13.market.intake import QUOTE, TRADE
from v13.market.wire_kernel import N_FIELDS, NOT_READ, enter_names, lay_out, read_frames

__all__ = ["FrameReader", "Frames", "Group", "preload"]

_NAME_BYTES: Final = 32
_PLAIN: Final = b'{"stream":"x@bookTicker","data":{"u":1,"s":"X","b":"1","B":"1","a":"1","A":"1"}}'


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
        enter_names(self._names, self._lengths, self._table)
        self._has_exchange_time = has_exchange_time
        self._most = most
        self._keys = np.empty((3, most), np.int64)
        self._values = np.empty((4, most))
        self._trades, self._quotes = np.empty(most, TRADE), np.empty(most, QUOTE)
        self._packed = self._trades.view(np.uint8).data, self._quotes.view(np.uint8).data
        self._at = np.empty((2, most), np.int64)
        self._lags = np.empty(most, np.int64)
        self._counts = np.zeros(2 * self._lengths.size, np.int64)
        self._groups = np.empty((min(most, self._counts.size), N_FIELDS), np.int64)
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
        data, received_ms = np.frombuffer(b"\n".join(raws) + b"\n", np.uint8), np.array(recv_ms, np.int64)
        span = FIRST_MS, LAST_MS
        read = read_frames(data, received_ms, span, self._names, self._lengths, self._table, self._keys, self._values)
        if read == NOT_READ:
            return None
        n_groups = lay_out(
            received_ms,
            self._has_exchange_time,
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
    FrameReader(["X"], 1, has_exchange_time=True).read([_PLAIN], [0])
