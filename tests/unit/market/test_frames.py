"""The compiled pass over frames against the decoder of single ones: never another value, never one that is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exchange.recordings import quotes_trades, raw_ws
from v13.errors import DataError
from v13.market import frames, wire
from v13.market.frames import FrameReader, Frames

SYMBOLS = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "币安人生USDT", "X" * 40)
RECV_MS = 1_723_161_256_400
AGG = (
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1723161256323,"s":"BTCUSDT","a":5,"p":"61800.30",'
    b'"q":"0.006","nq":"0.006","f":9,"l":10,"T":1723161256322,"m":true}}'
)
TRADE = (
    b'{"stream":"ethusdt@trade","data":{"e":"trade","E":1723161256323,"T":1723161256322,"s":"ETHUSDT","t":7,'
    b'"p":"2500.01","q":"1.5","X":"MARKET","m":false}}'
)
QUOTE = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":400900217,"s":"BTCUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.6"}}'
)
OF_FUTURES = QUOTE.replace(b'{"u"', b'{"e":"bookTicker","u"').replace(b"}}", b',"T":1723161256322,"E":1723161256323}}')


def reader(most: int = 512, *, has_exchange_time: bool = True) -> FrameReader:
    return FrameReader(SYMBOLS, most, has_exchange_time=has_exchange_time)


def rows_of(frames: Frames, n: int) -> list[tuple[object, ...]]:
    """Return what was read in the order of the messages, as `wire` gives it."""
    rows: list[tuple[object, ...]] = [()] * n
    for group in frames.groups:
        records, at = (frames.quotes, frames.quote_at) if group.is_quote else (frames.trades, frames.trade_at)
        for row in range(group.first, group.first + group.n):
            rows[at[row]] = (SYMBOLS[group.symbol], *records[row].item())
    return rows


def decoded(raw: bytes) -> tuple[object, ...]:
    return (wire.decode_trade if wire.stream_of(raw) == "trade" else wire.decode_quote)(raw)


@pytest.mark.parametrize("name", ["usdm_btcusdt_20240718.gz", "spot_ethusdt_20240808.gz"])
def test_every_recorded_frame_is_read_as_the_decoder_reads_it(shared_data: Path, name: str) -> None:
    raws = [message.raw for message in raw_ws(shared_data / "raw_ws" / name)]
    one = reader()
    for first in range(0, len(raws), 512):
        some = raws[first : first + 512]
        found = one.read(some, [RECV_MS] * len(some))
        assert found is not None
        assert rows_of(found, len(some)) == [decoded(raw) for raw in some]


def test_recorded_trades_and_quotes_in_the_form_of_today_are_read(shared_data: Path) -> None:
    stem = min(p.name for p in (shared_data / "quotes_trades").glob("usdm_*_trades.parquet")).removesuffix(
        "_trades.parquet"
    )
    raws = [m.raw.replace(b": ", b":").replace(b", ", b",") for m in quotes_trades(shared_data / "quotes_trades", stem)]
    symbol = str(decoded(raws[0])[0])
    one = FrameReader([symbol], 256, has_exchange_time=True)
    for first in range(0, 20_000, 256):
        some = raws[first : first + 256]
        found = one.read(some, [RECV_MS] * len(some))
        assert found is not None
        assert found.trades.size + found.quotes.size == len(some)
        for kind, at, records in (("t", found.trade_at, found.trades), ("q", found.quote_at, found.quotes)):
            assert [(symbol, *row.item()) for row in records] == [decoded(some[i]) for i in at], kind


def test_groups_tell_what_is_in_them() -> None:
    raws = [
        AGG,
        OF_FUTURES,
        AGG.replace(b'"a":5', b'"a":6').replace(b'"T":1723161256322', b'"T":1723161256300'),
        TRADE,
        AGG.replace(b'"a":5', b'"a":9'),
        QUOTE,
    ]
    found = reader().read(raws, [RECV_MS + i for i in range(6)])
    assert found is not None
    first_ms, last_ms = 1723161256300, 1723161256322
    assert [tuple(group) for group in found.groups] == [
        (0, 0, 0, 3, first_ms, last_ms, 5, 9, 0, RECV_MS + 4 - last_ms),
        (0, 1, 0, 2, 0, last_ms, 400900217, 400900217, 0, 0),
        (1, 0, 3, 1, last_ms, last_ms, 7, 7, 1, RECV_MS + 3 - last_ms),
    ]
    assert found.trade_at.tolist() == [0, 2, 4, 3]
    assert found.quote_at.tolist() == [1, 5]
    assert found.lags_ms.tolist() == [78, 79, 102, 81, 82]  # spot's quote has no time
    assert np.frombuffer(found.packed[0], found.trades.dtype)[:4].tolist() == found.trades.tolist()
    in_order = reader().read([AGG, AGG.replace(b'"a":5', b'"a":6')], [RECV_MS] * 2)
    assert in_order is not None
    assert in_order.groups[0].in_order == 1


def test_without_an_exchange_time_rows_bear_that_of_receipt() -> None:
    found = reader(has_exchange_time=False).read([QUOTE, AGG], [RECV_MS, RECV_MS + 5])
    assert found is not None
    assert (found.quotes["ts_ms"].tolist(), found.trades["ts_ms"].tolist()) == ([RECV_MS], [RECV_MS + 5])
    assert found.lags_ms.tolist() == [RECV_MS + 5 - 1723161256322]


@pytest.mark.parametrize(
    ("raw", "old", "new"),
    [
        (AGG, b"BTCUSDT", b"XRPUSDT"),
        (AGG, b'"s":"BTCUSDT"', b'"s":"ETHUSDT"'),
        (AGG, b'{"stream":"btc', b'{"stream":"BTC'),
        (AGG, b'"p":"61800.30"', b'"p":"1e5"'),
        (AGG, b'"p":"61800.30"', b'"p":"9007199254740993"'),
        (AGG, b'"p":"61800.30"', b'"p":"0.00000000000000000000001"'),
        (AGG, b'"p":"61800.30"', b'"p":61800.30'),
        (AGG, b'"p":"61800.30"', b'"p":"-61800.30"'),
        (AGG, b'"p":"61800.30"', b'"p":"061800.30"'),
        (AGG, b'"p":"61800.30"', b'"p":"61800."'),
        (AGG, b'"p":"61800.30"', b'"p":"1","p":"2"'),
        (AGG, b'"a":5', b'"a":9999999999999999999'),
        (AGG, b'"a":5', b'"a":"5"'),
        (AGG, b'"a":5', b'"a":05'),
        (AGG, b'"a":5,', b""),
        (AGG, b'"m":true', b'"m":null'),
        (AGG, b'"m":true', b'"m":1'),
        (AGG, b'"e":"aggTrade"', b'"e":"depthUpdate"'),
        (AGG, b"1723161256322", b"1723161256"),
        (AGG, b'"data":{', b'"data": {'),
        (AGG, b'"nq":"0.006"', b'"nq":[1]'),
        (AGG, b'"nq":"0.006"', b'"nq":"\\u0030"'),
        (AGG, b"}}", b"}"),
        (AGG, b"}}", b"}}}"),
        (AGG, b"}}", b"}}\n"),
        (QUOTE, b'"u":400900217,', b""),
        (QUOTE, b'"A":"40.6"', b'"A":"40.6","T":17'),
        (QUOTE, b"@bookTicker", b"@depth"),
    ],
)
def test_what_is_odd_is_left_to_the_decoder(raw: bytes, old: bytes, new: bytes) -> None:
    odd = raw.replace(old, new)
    assert odd != raw
    one = reader()
    assert one.read([AGG, odd, QUOTE], [RECV_MS] * 3) is None
    assert one.read([AGG, raw, QUOTE], [RECV_MS] * 3) is not None


@pytest.mark.parametrize(
    ("old", "new"), [(b"true", b"true  "), (b'"f":9', b'"M":null,"x":false,"y":0.5,"z":"","f":0'), (b'"f":9,', b"")]
)
def test_blanks_behind_a_value_and_unknown_keys_do_not_stop_it(old: bytes, new: bytes) -> None:
    raw = AGG.replace(old, new)
    assert raw != AGG
    found = reader().read([raw], [RECV_MS])
    assert found is not None
    assert rows_of(found, 1) == [decoded(raw)]


def test_more_than_it_has_room_for_is_not_read() -> None:
    assert reader(2).read([AGG] * 3, [RECV_MS] * 3) is None
    assert reader(2).read([AGG] * 2, [RECV_MS] * 2) is not None


def test_a_frame_cut_in_two_is_not_put_together() -> None:
    for at in range(1, len(AGG)):
        assert reader().read([AGG[:at], AGG[at:]], [RECV_MS] * 2) is None


@given(
    st.sampled_from([AGG, TRADE, QUOTE, OF_FUTURES]),
    st.lists(
        st.tuples(
            st.sampled_from(["set", "cut", "add"]), st.integers(0, 300), st.sampled_from(b'"{}:,.019-e \\taTmXB\n')
        ),
        max_size=3,
    ),
)
def test_whatever_is_changed_it_reads_what_the_decoder_reads_or_nothing(
    raw: bytes, changes: list[tuple[str, int, int]]
) -> None:
    for act, at, byte in changes:
        at %= len(raw)
        new = b"" if act == "cut" else bytes([byte])
        raw = raw[:at] + new + raw[at + (act != "add") :]
    found = reader().read([AGG, raw], [RECV_MS] * 2)
    if found is None:
        return
    try:
        expected = decoded(raw)
    except DataError as error:
        raise AssertionError(f"read what is refused: {raw!r}") from error
    assert rows_of(found, 2) == [decoded(AGG), expected]


@given(st.integers(0, 10**16), st.integers(0, 24))
def test_a_decimal_is_the_float_of_its_digits(digits: int, n_behind: int) -> None:
    text = str(digits).rjust(n_behind + 1, "0")
    text = f"{text[: len(text) - n_behind]}.{text[len(text) - n_behind :]}" if n_behind else text
    found = reader().read([AGG.replace(b"61800.30", text.encode())], [RECV_MS])
    if found is not None:
        assert found.trades["px"][0] == float(text)
    elif digits < 1 << 53 and n_behind <= 22:
        raise AssertionError(f"not read: {text}")


def test_preloading_goes_through_the_whole_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []
    compiled = frames.lay_out
    monkeypatch.setattr(frames, "lay_out", lambda *those: laid_out.append(compiled(*those)) or laid_out[-1])
    frames.preload()
    assert laid_out == [1]
