"""Files to recordings: the forms of the dumps, our own tape, and the real recordings with what their README says."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from v13.detector.dtypes import BAR
from v13.errors import DataError, StoreError
from v13.market import Recording, bars_from, load, write_tape

T0 = 1_723_161_600_000
Rows = Callable[[int], list[str]]
Dump = Callable[..., Path]
Zip = Callable[[Path], Path]
shared = pytest.mark.shared


def one(path: Path | list[Path], **options: str) -> Recording:
    (recording,) = load(path, **options).values()
    return recording


# -- the forms of the dumps --------------------------------------------------------------------------------------------

AGG = [(7, 61_800.1, 0.25, T0 + 300, True), (8, 61_800.2, 0.5, T0 + 900, False), (9, 61_800.2, 1.0, T0 + 1_400, False)]
FORMS = {
    "usdm aggTrades": (
        "aggTrades",
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
    ),
    "spot aggTrades": ("aggTrades", None),
    "usdm trades": ("trades", "id,price,qty,quote_qty,time,is_buyer_maker"),
    "spot trades": ("trades", None),
}


def form_line(form: str, row: tuple[int, float, float, int, bool], scale: int) -> str:
    number, px, qty, ts, maker = row
    side = str(maker) if form.startswith("spot") else str(maker).lower()
    match = ",True" if form.startswith("spot") else ""
    if form.endswith("aggTrades"):
        return f"{number},{px},{qty},1,1,{ts * scale},{side}{match}"
    return f"{number},{px},{qty},{px * qty},{ts * scale},{side}{match}"


@pytest.mark.parametrize("packing", ["plain", "zip", "gzip"])
@pytest.mark.parametrize("scale", [1, 1_000])
@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_trades_dump_gives_the_same_bars(
    dump: Dump, zipped: Zip, form: str, with_header: bool, scale: int, packing: str
) -> None:
    kind, header = FORMS[form]
    if with_header and header is None:
        header = FORMS[form.replace("spot", "usdm")][1] + ",is_best_match"
    lines = [form_line(form, row, scale) for row in AGG]
    path = dump(lines, f"BTCUSDT-{kind}-2024-08-09.csv", header if with_header else None)
    if packing == "zip":
        path = zipped(path)
    elif packing == "gzip":
        plain, path = path, path.with_suffix(".csv.gz")
        # Two members, as tools that append to a gzip file make them.
        data = plain.read_bytes()
        path.write_bytes(gzip.compress(data[:90]) + gzip.compress(data[90:]))
    recording = one(path)
    bars = recording.bars
    assert (recording.symbol, recording.clock, recording.bar_ms) == ("BTCUSDT", "exchange", 1_000)
    if not with_header:
        assert recording.market == form.split()[0]
    assert bars["ts_ms"].tolist() == [T0 + 1_000, T0 + 2_000]
    assert bars["volume"].tolist() == [0.75, 1.0]
    assert bars["delta"].tolist() == [0.25, 1.0]
    assert bars["close"].tolist() == [61_800.2, 61_800.2]
    assert recording.sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("scale", [1, 1_000])
@pytest.mark.parametrize(
    "header",
    [
        None,
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
        "taker_buy_volume,taker_buy_quote_volume,ignore",
    ],
)
def test_a_klines_dump(dump: Dump, header: str | None, scale: int) -> None:
    lines = [
        f"{(T0 + 60_000 * i) * scale},10.0,12,9.0,11.0,5,{(T0 + 60_000 * i + 59_999) * scale},50.0,3,2.0,20.0,0"
        for i in range(3)
    ]
    recording = one(dump(lines, "ETHUSDT-1m-2024-08.csv", header))
    assert (recording.symbol, recording.market, recording.bar_ms) == ("ETHUSDT", "unknown", 60_000)
    assert recording.bars["delta"].tolist() == [-1.0] * 3
    assert (recording.has_trades, recording.has_quotes) == (True, False)


@pytest.mark.parametrize(
    "header", [None, "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time"]
)
def test_a_book_ticker_dump(dump: Dump, header: str | None) -> None:
    lines = [f"{i},10.0,{i}.0,11.0,5,{T0 + i},{T0 + i + 3}" for i in range(1, 4)]
    recording = one(dump(lines, "BTCUSDT-bookTicker-2024-08-09.csv", header))
    assert recording.bars["ofi"].tolist() == [2.0]
    assert recording.bars["lag_quote_ms"].tolist() == [997]
    assert (recording.has_trades, recording.has_quotes) == (False, True)


def test_the_market_is_read_off_the_exchanges_folders(dump: Dump, agg_rows: Rows, tmp_path: Path) -> None:
    for folder, market in (("data/futures/um/daily/aggTrades/BTCUSDT", "usdm"), ("data/spot/daily/x/BTCUSDT", "spot")):
        (tmp_path / folder).mkdir(parents=True)
        path = dump(agg_rows(5), f"{folder}/BTCUSDT-aggTrades-2024-08-09.csv")
        assert one(path).market == market
    with pytest.raises(DataError, match="more than one market"):
        load(tmp_path)


def test_a_folder_is_its_data_files_by_symbol(dump: Dump, agg_rows: Rows, tmp_path: Path) -> None:
    for symbol in ("ETHUSDT", "BTCUSDT"):
        path = dump(agg_rows(5), f"{symbol}-aggTrades-2024-08-09.csv")
        (tmp_path / f"{path.name}.CHECKSUM").write_text("not data")
    assert list(load(tmp_path)) == ["BTCUSDT", "ETHUSDT"]
    assert list(load(tmp_path, symbol="ethusdt")) == ["ETHUSDT"]


# -- our own tape ------------------------------------------------------------------------------------------------------


def tapes() -> tuple[pl.DataFrame, pl.DataFrame]:
    ts = T0 + 100 * np.arange(50)
    trades = pl.DataFrame(
        {"ts_ms": ts, "id": pl.Series([None] * 50, dtype=pl.Int64), "px": 10.0, "qty": 1.0, "sign": 1}
    )
    quotes = pl.DataFrame({"ts_ms": ts, "id": ts, "bid": 9.0, "bid_qty": 1.0 + ts % 7, "ask": 11.0, "ask_qty": 1.0})
    return trades, quotes


def test_a_tape_comes_back_with_what_it_said_of_itself(tmp_path: Path) -> None:
    trades, quotes = tapes()
    truth = {"edge": 0.6, "events": [1, 2]}
    for kind, tape in (("trades", trades), ("quotes", quotes)):
        write_tape(
            tmp_path / f"{kind}.parquet", tape, kind=kind, symbol="BTCUSDT", market="usdm", simulated=True, truth=truth
        )
    recording = one(tmp_path)
    assert (recording.symbol, recording.market, recording.simulated, recording.truth) == (
        "BTCUSDT",
        "usdm",
        True,
        truth,
    )
    assert recording.bars.tobytes() == bars_from(trades, quotes).tobytes()
    assert [source.kind for source in recording.sources] == ["quotes", "trades"]
    assert list(tmp_path.glob(".*")) == []


def test_bars_written_as_a_tape_come_back_byte_for_byte(tmp_path: Path) -> None:
    bars = bars_from(*tapes())
    frame = pl.DataFrame({name: bars[name] for name in BAR.names or ()})
    recording = one(write_tape(tmp_path / "b.parquet", frame, kind="bars", symbol="BTCUSDT", market="spot"))
    assert recording.bars.tobytes() == bars.tobytes()
    assert (recording.has_trades, recording.has_quotes, recording.bar_ms) == (True, True, 1_000)


def test_simulated_and_real_rows_never_meet(tmp_path: Path) -> None:
    trades, quotes = tapes()
    write_tape(tmp_path / "t.parquet", trades, kind="trades", symbol="BTCUSDT", market="usdm", simulated=True)
    write_tape(tmp_path / "q.parquet", quotes, kind="quotes", symbol="BTCUSDT", market="usdm")
    with pytest.raises(DataError, match="more than one origin"):
        load(tmp_path)


def test_a_tape_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    trades, _ = tapes()
    for tape, kind, reason in (
        (trades.drop("px"), "trades", "needs the columns px"),
        (trades, "depth", "expected one of"),
        (trades.with_columns(px=pl.lit("ten")), "trades", "does not fit"),
    ):
        with pytest.raises(DataError, match=reason):
            write_tape(tmp_path / "t.parquet", tape, kind=kind, symbol="BTCUSDT", market="usdm")
    blocked = tmp_path / "a file where a folder should be"
    blocked.touch()
    with pytest.raises(StoreError, match="cannot write"):
        write_tape(blocked / "t.parquet", trades, kind="trades", symbol="BTCUSDT", market="usdm")
    assert list(tmp_path.iterdir()) == [blocked]


# -- the real recordings -----------------------------------------------------------------------------------------------

QUOTES_TRADES = {
    ("usdm", "BTCUSDT", "2024-07-18"): (10_701, 52_260),
    ("usdm", "ETHUSDT", "2024-07-18"): (13_655, 47_328),
    ("usdm", "BTCUSDT", "2024-08-08"): (21_313, 66_089),
    ("usdm", "ETHUSDT", "2024-08-08"): (14_076, 53_992),
    ("spot", "BTCUSDT", "2024-08-08"): (19_904, 73_174),
    ("spot", "ETHUSDT", "2024-08-08"): (14_515, 58_758),
}


@shared
@pytest.mark.parametrize("stem", QUOTES_TRADES)
def test_trades_and_quotes_of_one_span_are_one_clean_recording(shared_data: Path, stem: tuple[str, str, str]) -> None:
    market, symbol, day = stem
    folder = shared_data / "quotes_trades"
    files = [folder / f"{market}_{symbol}_{day}_{kind}.parquet" for kind in ("trades", "bookticker")]
    recording = one(files)
    n_trades, n_quotes = QUOTES_TRADES[stem]
    assert (recording.symbol, recording.market) == (symbol, market)
    # Spot quotes carry the recorder's time only, and the trades follow them.
    assert recording.clock == ("receive" if market == "spot" else "exchange")
    assert (recording.bars["n_trades"].sum(), recording.bars["n_quotes"].sum()) == (n_trades, n_quotes)
    for kind, n in (("trades", n_trades), ("quotes", n_quotes)):
        assert recording.quality[kind].rows == recording.quality[kind].rows_kept == n
        assert set(recording.quality[kind].counts.values()) == {0}
    assert np.isfinite(recording.bars["ofi"]).all()
    assert set(np.diff(recording.bars["ts_ms"])) == {1_000}


@shared
def test_the_receive_clock_moves_spot_trades_to_the_recorders_time(shared_data: Path) -> None:
    path = shared_data / "quotes_trades" / "spot_BTCUSDT_2024-08-08_trades.parquet"
    quotes = path.with_name("spot_BTCUSDT_2024-08-08_bookticker.parquet")
    frame = pl.read_parquet(path)
    first_recv = int(frame["recv_ns"][0]) // 10**6
    alone, both = one(path), one([path, quotes])
    assert both.quality["trades"].first_ts_ms == first_recv
    assert alone.quality["trades"].first_ts_ms == frame["trade_ms"][0]
    assert alone.clock == "exchange"


@shared
def test_a_clock_that_not_all_files_have_is_never_mixed(shared_data: Path, tmp_path: Path) -> None:
    trades = tmp_path / "spot_BTCUSDT_trades.parquet"
    pl.read_parquet(shared_data / "quotes_trades" / "spot_BTCUSDT_2024-08-08_trades.parquet").drop(
        "recv_ns"
    ).write_parquet(trades)
    with pytest.raises(DataError, match="two clocks are never mixed"):
        load([trades, shared_data / "quotes_trades" / "spot_BTCUSDT_2024-08-08_bookticker.parquet"])


@shared
@pytest.mark.parametrize(
    ("name", "n_rows"),
    [
        ("futures_um/BTCUSDT-trades-2024-08-08.zip", 21_313),
        ("futures_um/BTCUSDT-aggTrades-2024-08-08.zip", 10_447),
        ("futures_um/BTCUSDT-bookTicker-2024-08-08.zip", 66_088),
        ("spot/BTCUSDT-trades-2024-08-09.zip", 10_166),
        ("spot/BTCUSDT-aggTrades-2024-08-09.zip", 5_551),
    ],
)
def test_dump_zips_equal_the_recordings_they_came_from(shared_data: Path, name: str, n_rows: int) -> None:
    recording = one(shared_data / "binance_form" / name)
    market = "usdm" if name.startswith("futures") else "spot"
    kind = "quotes" if "bookTicker" in name else "trades"
    stem = f"{market}_BTCUSDT_2024-08-08_{'bookticker' if kind == 'quotes' else 'trades'}.parquet"
    origin = one(shared_data / "quotes_trades" / stem)
    assert (recording.market, recording.quality[kind].rows) == (market, n_rows)
    assert sum(recording.quality[kind].counts.values()) == 0
    # The dumps were cut at midnight; only whole bars of both are compared.
    a, b = recording.bars, origin.bars
    if kind == "quotes":
        a = a[:-1]
    first = a["ts_ms"][0] + (1_000 if market == "spot" else 0)
    a, b = a[a["ts_ms"] >= first], b[(b["ts_ms"] >= first) & (b["ts_ms"] <= a["ts_ms"][-1])]
    exact = ["ts_ms", "open", "high", "low", "close", "lag_trade_ms", "lag_quote_ms"]
    if "aggTrades" not in name:
        assert a.tobytes() == b.tobytes()
    else:
        for column in exact:
            assert a[column].tolist() == b[column].tolist(), column
        # One aggregate row is the exact sum of its fills; adding them one by one rounds differently.
        for column in ("volume", "delta"):
            np.testing.assert_allclose(a[column], b[column], rtol=0, atol=1e-9)


@shared
def test_trades_and_quotes_dumps_join_and_doubled_trades_do_not(shared_data: Path) -> None:
    folder = shared_data / "binance_form" / "futures_um"
    agg, trades, quotes = (folder / f"BTCUSDT-{kind}-2024-08-08.zip" for kind in ("aggTrades", "trades", "bookTicker"))
    recording = one([trades, quotes])
    assert (recording.has_trades, recording.has_quotes, recording.clock) == (True, True, "exchange")
    with pytest.raises(DataError, match="double the volume"):
        load([agg, trades])
    with pytest.raises(DataError, match="more than one market"):
        load([agg, shared_data / "binance_form" / "spot" / "BTCUSDT-aggTrades-2024-08-09.zip"])


ZERO_VOLUME = {
    "AVAXUSDT-1m-2023-09": (43_200, 22),
    "AVAXUSDT-1m-2026-06": (43_200, 0),
    "AVAXUSDT-1m-2026-07": (44_640, 0),
    "NEARUSDT-1m-2023-08": (44_640, 69),
    "NEARUSDT-1m-2023-09": (43_200, 144),
    "NEARUSDT-1m-2023-10": (44_640, 58),
    "LINKUSDT-1m-2023-02": (40_320, 0),
    "LTCUSDT-1m-2026-02": (40_320, 0),
    "DOTUSDT-1m-2024-11": (43_200, 0),
}


@shared
@pytest.mark.parametrize("name", ZERO_VOLUME)
def test_futures_klines_hold_what_the_readme_says(shared_data: Path, name: str) -> None:
    recording = one(shared_data / "binance_form" / "futures_um" / f"{name}.zip")
    n_rows, n_zero = ZERO_VOLUME[name]
    counts = recording.quality["klines"].counts
    assert (recording.bars.size, recording.market, recording.bar_ms) == (n_rows, "usdm", 60_000)
    assert {defect: n for defect, n in counts.items() if n} == ({"zero_volume": n_zero} if n_zero else {})


@shared
def test_consecutive_months_of_klines_are_joined(shared_data: Path) -> None:
    folder = shared_data / "binance_form" / "futures_um"
    recording = one(sorted(folder.glob("NEARUSDT-*.zip"), reverse=True))
    assert recording.bars.size == 44_640 + 43_200 + 44_640
    assert set(np.diff(recording.bars["ts_ms"])) == {60_000}
    assert recording.quality["klines"].counts["missing_bars"] == 0
    assert [Path(source.path).stem[-2:] for source in recording.sources] == ["08", "09", "10"]


@shared
@pytest.mark.parametrize(
    ("name", "n_rows", "n_missing", "n_gaps", "n_zero"),
    [
        *((f"spot_{symbol}USDT_15m", 46_673, 0, 0, 0) for symbol in ("BTC", "ETH", "SOL", "XRP")),
        *((f"spot_{symbol}USDT_1h", 37_923, 1, 1, 1) for symbol in ("BTC", "ETH", "SOL", "XRP")),
        *((f"spot_{symbol}USDT_4h", 19_052, 16, 8, 1) for symbol in ("BTC", "ETH")),
        ("spot_BTCUSDT_1m_2025-10-29", 4_320, 0, 0, 0),
    ],
)
def test_spot_klines_hold_what_the_readme_says(
    shared_data: Path, name: str, n_rows: int, n_missing: int, n_gaps: int, n_zero: int
) -> None:
    recording = one(shared_data / "klines" / f"{name}.parquet")
    report = recording.quality["klines"]
    assert (recording.market, recording.bars.size) == ("spot", n_rows)
    assert (report.counts["missing_bars"], report.counts["zero_volume"]) == (n_missing, n_zero)
    assert report.counts["gaps"] == len(report.gaps) == n_gaps
    assert recording.bars.size == (np.ptp(recording.bars["ts_ms"]) // recording.bar_ms) + 1 - n_missing


@shared
def test_a_folder_of_klines_of_several_lengths_asks_for_a_choice(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"BTCUSDT_1m.*give files of one length"):
        load(shared_data / "klines")


@shared
@pytest.mark.parametrize(("symbol", "n_rows", "n_equal"), [("BTCUSDT", 332_840, 99_234), ("ETHUSDT", 169_164, 53_343)])
def test_the_incomplete_tape_shows_its_holes_and_equal_rows(
    shared_data: Path, symbol: str, n_rows: int, n_equal: int
) -> None:
    recording = one(shared_data / "trades" / f"spot_{symbol}_2025-10-20_2025-10-21_blocks.parquet")
    report = recording.quality["trades"]
    assert (report.rows, report.rows_kept, report.counts["equal_rows"]) == (n_rows, n_rows, n_equal)
    assert sum(gap.length_ms > 60_000 for gap in report.gaps) == 6
    assert recording.bars["n_trades"].sum() == n_rows


@shared
def test_microsecond_trades_land_on_the_millisecond_grid(shared_data: Path) -> None:
    path = shared_data / "trades" / "spot_TRXUSDT_2025-03-04_trades_us.parquet"
    recording = one(path)
    times = pl.read_parquet(path)["trade_us"]
    report = recording.quality["trades"]
    assert (report.rows, report.counts["id_gaps"], report.counts["duplicates"]) == (10_000, 0, 0)
    assert (report.first_ts_ms, report.last_ts_ms) == (int(times[0]) // 1_000, int(times[-1]) // 1_000)


@shared
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_five_minute_klines_lose_their_unfinished_bars(shared_data: Path, symbol: str) -> None:
    recording = one(shared_data / "raw_mess" / f"spot_{symbol}_5m_2025-08-19.parquet")
    report = recording.quality["klines"]
    assert (report.rows, report.rows_kept, report.counts["incomplete_bar"]) == (9_118, 9_109, 9)
    (gap,) = report.gaps
    assert gap.length_ms == (18 * 60 + 40) * 60_000


@shared
def test_two_recorders_at_once_are_told_apart_by_id(shared_data: Path, tmp_path: Path) -> None:
    raw = pl.read_parquet(shared_data / "raw_mess" / "TESTNET_usdm_BTCUSDT_2025-10-18_two_recorders.parquet")
    tape = raw.select(
        ts_ms="event_time_ms",
        id="agg_trade_id",
        px="price",
        qty="qty",
        sign=pl.when("is_buy").then(1).otherwise(-1),
    )
    recording = one(write_tape(tmp_path / "t.parquet", tape, kind="trades", symbol="BTCUSDT", market="testnet"))
    counts = recording.quality["trades"].counts
    latest, n_late = 0, 0
    for ts in tape["ts_ms"]:
        n_late += ts < latest
        latest = max(latest, ts)
    assert (counts["duplicates"], counts["out_of_order"]) == (3_393, n_late)
    assert recording.quality["trades"].rows_kept == 3_402
    clean = tape.unique("id", keep="first", maintain_order=True).sort("ts_ms", maintain_order=True)
    assert recording.bars.tobytes() == bars_from(clean.cast({"sign": pl.Int8}), None).tobytes()


@shared
@pytest.mark.parametrize(
    "name",
    [
        "raw_mess/TESTNET_usdm_BTCUSDT_2025-10-18_two_recorders.parquet",
        "raw_mess/spot_BTCUSDT_2025-10-21T14_prices_raw.parquet",
        "raw_mess/spot_BTCUSDT_2025-10-21T14_cvd_raw.parquet",
        "raw_mess/spot_ETHUSDT_2025-10-21T04_prices_raw.parquet",
        "raw_mess/spot_ETHUSDT_2025-10-21T04_cvd_raw.parquet",
        "raw_ws/usdm_btcusdt_20240718.gz",
        "raw_ws/spot_ethusdt_20240808.gz",
    ],
)
def test_recordings_of_another_form_are_refused_by_name(shared_data: Path, name: str) -> None:
    with pytest.raises(DataError, match="unknown layout") as caught:
        load(shared_data / name)
    assert name.rpartition("/")[2] in str(caught.value)
