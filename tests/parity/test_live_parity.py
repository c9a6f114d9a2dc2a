"""What the live path finds is what the batch path finds: every event, field, rule, outcome and count, with ==."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.exchange.recordings import Message, agg_trade, book_ticker, quotes_trades, raw_ws
from tests.parity.live_runs import (
    Expected,
    FakeClock,
    batch,
    counted,
    in_log,
    loose,
    replayed,
    same,
    session_on,
)
from v13 import market
from v13.detector import DetectorParams
from v13.errors import DataError
from v13.live.consumer import Consumer
from v13.live.inbox import Inbox
from v13.market.playback import Playback, open_playback
from v13.telemetry import Metrics

MINUTE_MS = 60_000
PAIRS = (
    *("spot_BTCUSDT_2024-08-08", "spot_ETHUSDT_2024-08-08", "usdm_BTCUSDT_2024-07-18"),
    *("usdm_BTCUSDT_2024-08-08", "usdm_ETHUSDT_2024-07-18", "usdm_ETHUSDT_2024-08-08"),
)
UM, SPOT = "binance_form/futures_um", "binance_form/spot"
# Files that belong together, the length of their bars, and the least number of events that makes a test of them.
RECORDINGS: dict[str, tuple[tuple[str, ...], int, int]] = {
    **{p: ((f"quotes_trades/{p}_trades.parquet", f"quotes_trades/{p}_bookticker.parquet"), 1_000, 15) for p in PAIRS},
    "dump trades": ((f"{UM}/BTCUSDT-trades-2024-08-08.zip", f"{UM}/BTCUSDT-bookTicker-2024-08-08.zip"), 1_000, 15),
    "dump aggTrades": (
        (f"{UM}/BTCUSDT-aggTrades-2024-08-08.zip", f"{UM}/BTCUSDT-bookTicker-2024-08-08.zip"),
        1_000,
        15,
    ),
    "dump spot trades": ((f"{SPOT}/BTCUSDT-trades-2024-08-09.zip",), 1_000, 2),
    "dump spot aggTrades": ((f"{SPOT}/BTCUSDT-aggTrades-2024-08-09.zip",), 1_000, 2),
    "blocks BTC": (("trades/spot_BTCUSDT_2025-10-20_2025-10-21_blocks.parquet",), 1_000, 300),
    "blocks ETH": (("trades/spot_ETHUSDT_2025-10-20_2025-10-21_blocks.parquet",), 1_000, 200),
    "microseconds": (("trades/spot_TRXUSDT_2025-03-04_trades_us.parquet",), 1_000, 2),
    "three months": (tuple(f"{UM}/NEARUSDT-1m-2023-{month}.zip" for month in ("08", "09", "10")), MINUTE_MS, 1_000),
    "two months": (tuple(f"{UM}/AVAXUSDT-1m-2026-{month}.zip" for month in ("06", "07")), MINUTE_MS, 1_000),
    "AVAX": ((f"{UM}/AVAXUSDT-1m-2023-09.zip",), MINUTE_MS, 500),
    "DOT": ((f"{UM}/DOTUSDT-1m-2024-11.zip",), MINUTE_MS, 500),
    "LINK": ((f"{UM}/LINKUSDT-1m-2023-02.zip",), MINUTE_MS, 500),
    "LTC": ((f"{UM}/LTCUSDT-1m-2026-02.zip",), MINUTE_MS, 500),
    "1m": (("klines/spot_BTCUSDT_1m_2025-10-29.parquet",), MINUTE_MS, 90),
    **{f"15m {s}": ((f"klines/spot_{s}USDT_15m.parquet",), 15 * MINUTE_MS, 800) for s in ("BTC", "ETH", "SOL", "XRP")},
    **{f"1h {s}": ((f"klines/spot_{s}USDT_1h.parquet",), 60 * MINUTE_MS, 600) for s in ("BTC", "ETH", "SOL", "XRP")},
    **{f"4h {s}": ((f"klines/spot_{s}USDT_4h.parquet",), 240 * MINUTE_MS, 300) for s in ("BTC", "ETH")},
    **{f"5m {s}": ((f"raw_mess/spot_{s}USDT_5m_2025-08-19.parquet",), 5 * MINUTE_MS, 150) for s in ("BTC", "ETH")},
}


@pytest.mark.shared
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_replay_finds_what_the_batch_path_finds(name: str, shared_data: Path, tmp_path: Path) -> None:
    files, bar_ms, least = RECORDINGS[name]
    paths, params = [shared_data / f for f in files], loose(bar_ms)
    expected = batch(paths, params)
    assert len(expected.events) >= least
    metrics = replayed(tmp_path / "log.sqlite", paths, params)
    same(tmp_path / "log.sqlite", metrics, expected)


@pytest.mark.shared
@pytest.mark.parametrize("name", PAIRS)
def test_bars_of_a_fifth_of_a_second_find_the_same(name: str, shared_data: Path, tmp_path: Path) -> None:
    paths, params = [shared_data / f for f in RECORDINGS[name][0]], loose(200)
    expected = batch(paths, params)
    assert len(expected.events) > 70
    metrics = replayed(tmp_path / "log.sqlite", paths, params)
    same(tmp_path / "log.sqlite", metrics, expected)


@pytest.mark.shared
def test_every_recording_is_among_those_or_is_refused_by_both_paths(shared_data: Path) -> None:
    files = {str(p.relative_to(shared_data)) for p in shared_data.rglob("*") if p.is_file() and p.suffix != ".md"}
    listed = {file for files, _, _ in RECORDINGS.values() for file in files}
    assert listed <= files
    for file in files - listed:
        for reads in (market.load, open_playback):
            with pytest.raises(DataError, match="unknown layout"):
                reads([shared_data / file])


@pytest.mark.shared
def test_both_rules_chose_and_every_kind_of_event_and_outcome_was_compared(shared_data: Path) -> None:
    """Guards the others: a comparison of what is not there proves nothing."""
    expected = Expected()
    for name in (*PAIRS, "1m", "blocks ETH", "5m BTC"):
        files, bar_ms, _ = RECORDINGS[name]
        found = batch([shared_data / f for f in files], loose(bar_ms))
        expected.events |= found.events
        expected.outcomes |= found.outcomes
    rules = {rule for _, rule in expected.events.values()}
    assert rules == {"global", "session=day,source=CVD_ONLY -> swing_L=8,z_hi=1.0"}
    types = {name.rpartition("-")[2] for name in expected.events}
    assert types == {"bull_div", "bear_div", "hidden_bull", "hidden_bear", "ofi_cvd_conflict"}
    kinds = {(ret is None, hit) for ret, hit in expected.outcomes.values()}
    assert kinds == {(False, 1), (False, 0), (False, None), (True, None)}  # hit, miss, tie, void


def many(shared_data: Path) -> list[Path]:
    stems = ("usdm_BTCUSDT_2024-08-08", "usdm_ETHUSDT_2024-08-08")
    return [shared_data / file for stem in stems for file in RECORDINGS[stem][0]] + [
        shared_data / "trades/spot_TRXUSDT_2025-03-04_trades_us.parquet"
    ]


@pytest.mark.shared
@pytest.mark.parametrize("speed", [None, 1.0, 60.0])
def test_several_symbols_at_once_at_any_speed(speed: float | None, shared_data: Path, tmp_path: Path) -> None:
    paths, params, clock = many(shared_data)[:4], loose(), FakeClock()
    expected = batch(paths, params)
    assert len(expected.events) > 30
    metrics = replayed(tmp_path / "log.sqlite", paths, params, speed=speed, clock=clock)
    same(tmp_path / "log.sqlite", metrics, expected)
    took_s = (clock.now_ns - clock.start_ns) / 1e9
    assert took_s == pytest.approx(0 if speed is None else 346 / speed)  # the longer recording has 346 bars of 1 s


@pytest.mark.shared
def test_recordings_of_different_times_are_played_side_by_side(shared_data: Path, tmp_path: Path) -> None:
    paths, params = many(shared_data), loose()
    expected = batch(paths, params)
    metrics = replayed(tmp_path / "log.sqlite", paths, params)
    same(tmp_path / "log.sqlite", metrics, expected)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "speed"), [("1m", 3_600.0), ("microseconds", 7.0)])
def test_klines_and_sparse_trades_at_a_finite_speed(name: str, speed: float, shared_data: Path, tmp_path: Path) -> None:
    files, bar_ms, _ = RECORDINGS[name]
    paths, params = [shared_data / f for f in files], loose(bar_ms)
    metrics = replayed(tmp_path / "log.sqlite", paths, params, speed=speed)
    same(tmp_path / "log.sqlite", metrics, batch(paths, params))


# The whole way: frames as they come over the wire, through inbox, decoding and the clock that closes bars.


class Connected:
    """A feed that is there and has nothing to fill."""

    connected = True

    def __init__(self) -> None:
        self.holes: list[tuple[str, int, int]] = []

    def fill(self, symbol: str, first: int, last: int) -> bool:
        self.holes.append((symbol, first, last))
        return False


def from_wire(
    log: Path, arrivals: Sequence[Message], params: DetectorParams, symbols: Sequence[str], grace_ms: int = 250
) -> tuple[Metrics, Connected]:
    """Feed frames to a consumer at the times their recorder received them."""
    clock, feed = FakeClock(), Connected()
    clock.now_ns = arrivals[0].recv_ns
    ticks = {s: Playback(s, "usdm", "exchange", 1_000, True, True, False, None, (), *[None] * 3) for s in symbols}  # type: ignore[arg-type]
    with session_on(log, ticks, params, clock) as (session, metrics):
        inbox = Inbox(1_000, metrics)
        consumer = Consumer(
            session, inbox, feed, metrics=metrics, clock=clock, has_exchange_time=True, grace_ms=grace_ms
        )
        for message in arrivals:
            clock.now_ns = max(clock.now_ns, message.recv_ns)
            assert inbox.put(message.raw, clock.wall_ms(), clock.now_ns)
            consumer.work()
        assert inbox.size == 0
        session.advance({s: lane.intake.finish() for s, lane in session.lanes.items()})
    return metrics, feed


def dropped(metrics: Metrics) -> dict[tuple[str, str], int]:
    found = {}
    for stream in ("trade", "quote"):
        for reason in ("late", "duplicate", "malformed", "bad_value", "unknown_symbol", "overload"):
            if n := int(metrics.bind("divergence_dropped_total", stream=stream, reason=reason).read()):
                found[stream, reason] = n
    return found


@pytest.mark.shared
@pytest.mark.parametrize("stem", [p for p in PAIRS if p.startswith("usdm")])
def test_recorded_frames_in_the_order_of_their_receipt_give_the_same(
    stem: str, shared_data: Path, tmp_path: Path
) -> None:
    params, symbol = loose(), stem.split("_")[1]
    expected = batch([shared_data / f for f in RECORDINGS[stem][0]], params)
    log = tmp_path / "log.sqlite"
    metrics, feed = from_wire(log, quotes_trades(shared_data / "quotes_trades", stem), params, [symbol])
    assert dropped(metrics) == {}
    assert feed.holes == []
    same(log, metrics, expected)


@pytest.mark.shared
def test_frames_of_two_symbols_as_they_came_give_what_each_gives_alone(shared_data: Path, tmp_path: Path) -> None:
    params, stems = loose(), ("usdm_BTCUSDT_2024-08-08", "usdm_ETHUSDT_2024-08-08")
    expected = batch([shared_data / f for stem in stems for f in RECORDINGS[stem][0]], params)
    arrivals = [m for stem in stems for m in quotes_trades(shared_data / "quotes_trades", stem)]
    arrivals.sort(key=lambda m: m.recv_ns)
    log = tmp_path / "log.sqlite"
    metrics, _ = from_wire(log, arrivals, params, ("BTCUSDT", "ETHUSDT"))
    assert dropped(metrics) == {}
    same(log, metrics, expected)


@pytest.mark.shared
def test_untouched_frames_of_a_recorder_give_what_their_rows_give(shared_data: Path, tmp_path: Path) -> None:
    arrivals = raw_ws(shared_data / "raw_ws/usdm_btcusdt_20240718.gz")
    params, log = loose(), tmp_path / "log.sqlite"
    metrics, _ = from_wire(log, arrivals, params, ["BTCUSDT"])
    assert dropped(metrics) == {}
    # The same rows are the first minutes of the recording that was made of this file and the next day's.
    first_ms, last_ms = MINUTE_MS * 10**9, 0
    n_trades = sum(m.stream.endswith("@trade") for m in arrivals)
    folder = shared_data / "quotes_trades"
    trades = pl.read_parquet(folder / "usdm_BTCUSDT_2024-07-18_trades.parquet").head(n_trades)
    quotes = pl.read_parquet(folder / "usdm_BTCUSDT_2024-07-18_bookticker.parquet").head(len(arrivals) - n_trades)
    first_ms = min(int(trades["trade_ms"][0]), int(quotes["trans_ms"][0]))
    last_ms = max(int(trades["trade_ms"][-1]), int(quotes["trans_ms"][-1]))
    bars = market.bars_from(
        trades.select(
            ts_ms="trade_ms",
            id="trade_id",
            px="price",
            qty="qty",
            sign=pl.when("is_buyer_maker").then(-1).otherwise(1).cast(pl.Int8),
        ),
        quotes.select("bid", "bid_qty", "ask", "ask_qty", ts_ms="trans_ms", id="update_id"),
    )
    assert (last_ms - first_ms) // 1_000 - 1 <= bars.size
    expected = Expected()
    expected.add("BTCUSDT", bars, params)
    assert len(expected.events) > 5
    same(log, metrics, expected)


def simulated_frames(seed: int, n_bars: int, symbol: str) -> tuple[list[Message], np.ndarray]:
    """Return a market's frames with the times of their arrival, and its bars.

    Each stream keeps its order, as on a connection of its own; against each other they are shifted by up to 200 ms,
    and one frame in twenty comes twice.
    """
    rng = np.random.default_rng(seed)
    trades, quotes, _ = market.simulate_ticks(market.MarketSpec("planted", n_bars=n_bars, symbol=symbol), seed)
    messages: list[Message] = []
    for tape in (trades, quotes):
        ts = tape["ts_ms"].to_numpy()
        recv_ns = np.maximum.accumulate((ts + 40 + rng.integers(0, 200, ts.size)) * 1_000_000)
        for row, at in zip(tape.iter_rows(named=True), recv_ns.tolist(), strict=True):
            if tape is trades:
                shown = {"trade_ms": row["ts_ms"], "trade_id": row["id"], "price": row["px"], "qty": row["qty"]}
                message = agg_trade(
                    symbol, "usdm", shown | {"event_ms": row["ts_ms"], "is_buyer_maker": row["sign"] < 0, "recv_ns": at}
                )
            else:
                shown = {"recv_ns": at, "update_id": row["id"], "trans_ms": row["ts_ms"], "event_ms": row["ts_ms"]}
                message = book_ticker(symbol, row | shown)
            messages += [message] * (1 + (rng.random() < 0.05))
    messages.sort(key=lambda m: m.recv_ns)
    return messages, market.bars_from(trades, quotes)


def test_simulated_frames_in_shuffled_order_and_twice_give_the_same(tmp_path: Path) -> None:
    params, expected = loose(), Expected()
    arrivals: list[Message] = []
    for symbol in ("BTCUSDT", "ETHUSDT"):
        messages, bars = simulated_frames(13, 900, symbol)
        arrivals += messages
        expected.add(symbol, bars, params)
    arrivals.sort(key=lambda m: m.recv_ns)
    assert len(expected.events) > 100
    log = tmp_path / "log.sqlite"
    metrics, feed = from_wire(log, arrivals, params, ("BTCUSDT", "ETHUSDT"))
    drops = dropped(metrics)
    assert drops.keys() == {("trade", "duplicate"), ("quote", "duplicate")}
    assert sum(drops.values()) == len(arrivals) - len({m.raw for m in arrivals})
    assert feed.holes == []
    same(log, metrics, expected)


def test_what_comes_after_its_bar_is_lost_and_counted_and_the_comparison_sees_it(tmp_path: Path) -> None:
    """The control of the test above: with a grace too short for the shift the two paths must part."""
    params, expected = loose(), Expected()
    arrivals, bars = simulated_frames(13, 900, "BTCUSDT")
    expected.add("BTCUSDT", bars, params)
    log = tmp_path / "log.sqlite"
    metrics, _ = from_wire(log, arrivals, params, ["BTCUSDT"], grace_ms=0)
    assert dropped(metrics).keys() > {("trade", "duplicate"), ("quote", "duplicate")}
    assert in_log(log)[0] != expected.events
    assert counted(metrics).n_bars == bars.size
