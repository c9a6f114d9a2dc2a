"""Frames and REST rows as values: against json and float, on real recordings, and on everything malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exchange.recordings import raw_ws
from v13.errors import DataError
from v13.market import wire

AGG = (
    b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1723161256323,"s":"BTCUSDT","a":5,"p":"61800.30",'
    b'"q":"0.006","f":9,"l":10,"T":1723161256322,"m":true}}'
)
QUOTE = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":400900217,"s":"BTCUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.6"}}'
)


def by_json(raw: bytes) -> tuple[object, ...]:
    data = json.loads(raw)["data"]
    if "m" in data:
        number = data["a"] if data["e"] == "aggTrade" else data["t"]
        return data["s"], data["T"], number, float(data["p"]), float(data["q"]), -1 if data["m"] else 1
    return (data["s"], data.get("T", 0), data["u"], *(float(data[name]) for name in "bBaA"))


@pytest.mark.parametrize("name", ["usdm_btcusdt_20240718.gz", "spot_ethusdt_20240808.gz"])
def test_every_recorded_frame_reads_as_json_and_float_read_it(shared_data: Path, name: str) -> None:
    messages = raw_ws(shared_data / "raw_ws" / name, ("trade", "bookTicker", "depth@0ms", "depth@100ms"))
    kinds = {"trade": wire.decode_trade, "quote": wire.decode_quote}
    n = dict.fromkeys((*kinds, None), 0)
    for message in messages:
        kind = wire.stream_of(message.raw)
        n[kind] += 1
        assert kind == {"trade": "trade", "bookTicker": "quote"}.get(message.stream.partition("@")[2])
        if kind:
            assert kinds[kind](message.raw) == by_json(message.raw)
    assert min(n.values()) > 500


def test_an_aggregate_trade_and_a_quote_of_the_documentation() -> None:
    assert wire.decode_trade(AGG) == ("BTCUSDT", 1723161256322, 5, 61800.3, 0.006, -1)
    assert wire.decode_trade(AGG.replace(b"true", b"false"))[5] == 1
    assert wire.decode_quote(QUOTE) == ("BTCUSDT", 0, 400900217, 25.3, 31.2, 25.4, 40.6)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (AGG, "trade"),
        (QUOTE, "quote"),
        (AGG.replace(b"@aggTrade", b"@trade"), "trade"),
        (AGG.replace(b"@aggTrade", b"@depth"), None),
        (AGG.replace(b"@aggTrade", b"@bookTickers"), None),
        (b'{"result":null,"id":1}', None),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown"}}', None),
        (b"", None),
        (b'{"stream":"btcusdt@aggTrade', None),
        ('{"stream":"币安人生usdt@aggTrade","data":{}}'.encode(), "trade"),
    ],
)
def test_the_first_bytes_tell_the_stream(raw: bytes, kind: str | None) -> None:
    assert wire.stream_of(raw) == kind


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"p":"61800.30"', b'"p":"6180x"', "float"),
        (b'"p":"61800.30"', b'"p":""', "float"),
        (b'"p":"61800.30"', b'"p":"nan"', "not finite"),
        (b'"q":"0.006"', b'"q":"inf"', "not finite"),
        (b'"a":5,', b"", "`a`"),
        (b'"a":5', b'"a":5.5', "int"),
        (b'"a":5', b'"a":99999999999999999999', "int"),
        (b'"a":5', b'"a":9223372036854775808', "int"),
        (b'"a":5', b'"a":-5', "int"),
        (b'"T":1723161256322', b'"T":1723161256322000', "milliseconds"),
        (b'"T":1723161256322', b'"T":1723161256', "milliseconds"),
        (b'"m":true', b'"m":null', "bool"),
        (b'"s":"BTCUSDT"', b'"s":"ETHUSDT"', "carries ETHUSDT"),
        (b'"e":"aggTrade"', b'"e":"depthUpdate"', "Invalid value"),
        (b"BTCUSDT", b"BTC\xffUSDT", ""),
        (b"}}", b"}", "truncated"),
        (b"}}", b"}}}", "trailing"),
    ],
)
def test_a_malformed_trade_is_refused_and_the_reason_named(old: bytes, new: bytes, why: str) -> None:
    raw = AGG.replace(old, new)
    assert raw != AGG
    with pytest.raises(DataError, match=f"malformed trade: .*{why}"):
        wire.decode_trade(raw)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"B":"31.2"', b'"B":"-inf"', "not finite"),
        (b'"u":400900217,', b"", "`u`"),
        (b'"s":"BTCUSDT"', b'"s":"ETHUSDT"', "carries ETHUSDT"),
        (b'"A":"40.6"', b'"A":"40.6","T":17', "milliseconds"),
        (b'"data":{', b'"data":[{', "object"),
    ],
)
def test_a_malformed_quote_is_refused_and_the_reason_named(old: bytes, new: bytes, why: str) -> None:
    raw = QUOTE.replace(old, new)
    assert raw != QUOTE
    with pytest.raises(DataError, match=f"malformed quote: .*{why}"):
        wire.decode_quote(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_data_error_or_nothing_else(raw: bytes) -> None:
    wire.stream_of(raw)
    for decode in (wire.decode_trade, wire.decode_quote):
        with pytest.raises(DataError):
            decode(raw)


@given(st.integers(0, len(AGG) - 1), st.integers(0, 255))
def test_one_changed_byte_gives_a_value_or_a_data_error(at: int, byte: int) -> None:
    raw = AGG[:at] + bytes([byte]) + AGG[at + 1 :]
    try:
        symbol, ts_ms, trade_id, px, qty, sign = wire.decode_trade(raw)
    except DataError:
        return
    assert (type(symbol), type(ts_ms), type(trade_id), type(px), type(qty)) == (str, int, int, float, float)
    assert sign in (-1, 1)


def test_rest_rows_read_as_frames_do() -> None:
    body = b'[{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true,"M":true},'
    body += b'{"a":26131,"p":"0.02","q":"1","f":27782,"l":27783,"T":1498793709154,"m":false}]'
    assert wire.decode_agg_trades(body, "BNBBTC") == [
        ("BNBBTC", 1498793709153, 26129, 0.01633102, 4.70443515, -1),
        ("BNBBTC", 1498793709154, 26131, 0.02, 1.0, 1),
    ]
    assert wire.decode_agg_trades(b"[]", "BNBBTC") == []


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"a":1}]', b"<html>"])
def test_a_rest_answer_that_is_no_list_of_trades_is_refused(body: bytes) -> None:
    with pytest.raises(DataError, match="malformed REST answer"):
        wire.decode_agg_trades(body, "BNBBTC")


def test_rest_rows_must_rise_in_id() -> None:
    row = b'{"a":7,"p":"1","q":"1","T":1498793709153,"m":true}'
    with pytest.raises(DataError, match="row 7"):
        wire.decode_agg_trades(b"[" + row + b"," + row + b"]", "BNBBTC")
