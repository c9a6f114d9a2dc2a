"""Defects: each is counted, handled as the policy says, and the counts do not depend on how the file was cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.errors import DataError
from v13.market import QualityPolicy, ReadPolicy, Recording, load, write_tape
from v13.market.checks import StreamChecker
from v13.market.formats import recognise
from v13.market.readers import read_blocks

T0 = 1_723_161_600_000
Rows = Callable[[int], list[str]]
Dump = Callable[..., Path]


def only(path: Path, block_bytes: int = 1 << 20, **settings: str) -> Recording:
    (recording,) = load(path, policy=ReadPolicy(block_bytes=block_bytes, quality=QualityPolicy(**settings))).values()
    return recording


def quotes_tape(path: Path, rows: list[tuple[int, int, float, float, float, float]]) -> Path:
    names = ("ts_ms", "id", "bid", "bid_qty", "ask", "ask_qty")
    return write_tape(
        path, pl.DataFrame(rows, schema=list(names), orient="row"), kind="quotes", symbol="BTCUSDT", market="spot"
    )


def klines_tape(path: Path, rows: list[tuple[float | int | None, ...]]) -> Path:
    names = ("open_ts_ms", "open", "high", "low", "close", "volume", "n_trades", "taker_buy_volume")
    return write_tape(
        path,
        pl.DataFrame(rows, schema=list(names), orient="row", strict=False),
        kind="klines",
        symbol="BTCUSDT",
        market="spot",
    )


def test_clean_rows_have_every_count_at_zero(dump: Dump, agg_rows: Rows) -> None:
    report = only(dump(agg_rows(40))).quality["trades"]
    assert set(report.counts.values()) == {0}
    assert {"missing", "unit_mix", "bad_price", "zero_size", "duplicates", "out_of_order", "gaps"} <= set(report.counts)
    assert (report.rows, report.rows_kept) == (40, 40)
    assert (report.first_ts_ms, report.last_ts_ms) == (T0, T0 + 39 * 250)
    assert report.policy["duplicates"] == "drop"


@pytest.mark.parametrize("block_bytes", [1, 70, 200, 1 << 20])
def test_an_id_twice_is_dropped_counted_and_named(dump: Dump, agg_rows: Rows, block_bytes: int) -> None:
    rows = agg_rows(40)
    clean = only(dump(rows, "BTCUSDT-aggTrades-2024-08-08.csv"))
    found = only(dump([*rows[:11], rows[10], rows[10], *rows[11:]]), block_bytes)
    assert found.bars.tobytes() == clean.bars.tobytes()
    assert found.quality["trades"].counts["duplicates"] == 2
    assert found.quality["trades"].files[0].examples == {"duplicates": (12, 13)}
    assert (found.quality["trades"].rows, found.quality["trades"].rows_kept) == (42, 40)


def test_an_id_twice_may_be_kept_or_refused(dump: Dump, agg_rows: Rows) -> None:
    rows = agg_rows(40)
    path = dump([*rows[:11], rows[10], *rows[11:]])
    assert only(path, duplicates="keep").bars["n_trades"].sum() == 41
    with pytest.raises(DataError, match=r"row 12: .*set quality.duplicates to drop or keep"):
        only(path, duplicates="fail")


@pytest.mark.parametrize("block_bytes", [1, 60, 200, 1 << 20])
def test_equal_rows_without_ids_are_kept_and_counted(dump: Dump, block_bytes: int) -> None:
    header = "time,price,qty,is_buyer_maker"
    rows = [f"{T0 + i // 5},10.{i % 2},1.0,true" for i in range(20)]  # five a millisecond, of two prices
    path = dump(rows, "BTCUSDT-x.csv", header)
    kept = only(path, block_bytes)
    assert kept.quality["trades"].counts["equal_rows"] == 12
    assert kept.quality["trades"].counts["duplicates"] == 0
    assert kept.bars["volume"].tolist() == [20.0]
    assert only(path, block_bytes, equal_rows="drop").bars["volume"].tolist() == [8.0]
    with pytest.raises(DataError, match="row 3: equal to an earlier row"):
        only(path, block_bytes, equal_rows="fail")


@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 20])
def test_rows_out_of_order_are_sorted_and_counted(dump: Dump, agg_rows: Rows, block_bytes: int) -> None:
    rows = agg_rows(60)
    clean = only(dump(rows, "BTCUSDT-aggTrades-2024-08-08.csv"))
    moved = [*rows[:10], *rows[20:30], *rows[10:20], *rows[30:]]
    found = only(dump(moved), block_bytes)
    assert found.bars.tobytes() == clean.bars.tobytes()
    counts = found.quality["trades"].counts
    assert (counts["out_of_order"], counts["time_back"], counts["id_gaps"]) == (10, 1, 0)
    assert found.quality["trades"].files[0].examples["out_of_order"] == (21, 22, 23, 24, 25)


def test_rows_out_of_order_may_be_dropped_or_refused(dump: Dump, agg_rows: Rows) -> None:
    rows = agg_rows(60)
    path = dump([*rows[:10], *rows[20:30], *rows[10:20], *rows[30:]])
    assert only(path, out_of_order="drop").bars["n_trades"].sum() == 50
    with pytest.raises(DataError, match=r"row 21: time before that of an earlier row.*sort or drop"):
        only(path, out_of_order="fail")


def test_files_that_overlap_are_one_tape(dump: Dump, agg_rows: Rows) -> None:
    rows = agg_rows(60)
    clean = only(dump(rows, "BTCUSDT-aggTrades-2024-08-07.csv"))
    first = dump(rows[:40], "BTCUSDT-aggTrades-2024-08-08.csv")
    second = dump(rows[25:], "BTCUSDT-aggTrades-2024-08-09.csv")
    joined = load([second, first])["BTCUSDT"]
    assert joined.bars.tobytes() == clean.bars.tobytes()
    report = joined.quality["trades"]
    assert [Path(file.path).name[-6:] for file in report.files] == ["08.csv", "09.csv"]
    assert [file.counts.get("duplicates", 0) for file in report.files] == [0, 15]
    assert [file.rows_kept for file in report.files] == [40, 20]


def test_missing_ids_and_silences_are_counted(dump: Dump, agg_rows: Rows) -> None:
    rows = agg_rows(400)
    path = dump([*rows[:100], *rows[300:]])
    for block_bytes in (100, 1 << 20):
        report = only(path, block_bytes).quality["trades"]
        assert (report.counts["id_gaps"], report.counts["gaps"]) == (200, 1)
        (gap,) = report.gaps
        assert (gap.start_ms, gap.end_ms, gap.length_ms) == (T0 + 99 * 250, T0 + 300 * 250, 201 * 250)
    bars = only(path).bars
    assert (bars["ts_ms"][1:] - bars["ts_ms"][:-1]).max() == 22_000  # bridged from 24.75 s to 54 s, next at 76 s
    with pytest.raises(DataError, match=r"row 101: trade ids before this one are missing.*quality.id_gaps"):
        only(path, id_gaps="fail")
    with pytest.raises(DataError, match=r"row 101: a silence of 50250 ms"):
        only(path, gaps="fail")


def test_quotes_crossed_locked_or_one_sided(tmp_path: Path) -> None:
    path = quotes_tape(
        tmp_path / "q.parquet",
        [
            (T0, 1, 10.0, 1.0, 11.0, 1.0),
            (T0 + 1, 2, 11.5, 1.0, 11.0, 1.0),  # crossed
            (T0 + 2, 3, 11.0, 1.0, 11.0, 1.0),  # locked
            (T0 + 3, 4, 10.0, 0.0, 11.0, 1.0),  # no bid
            (T0 + 4, 9, 10.0, 3.0, 11.0, 1.0),  # update ids have holes by nature
        ],
    )
    report = only(path).quality["quotes"]
    assert (report.counts["crossed"], report.counts["locked"], report.counts["zero_size"]) == (1, 1, 1)
    assert "id_gaps" not in report.counts
    assert only(path).bars["n_quotes"].tolist() == [3]
    assert only(path, crossed="keep", locked="drop", zero_size="keep").bars["n_quotes"].tolist() == [4]
    with pytest.raises(DataError, match="row 2: bid above ask"):
        only(path, crossed="fail")


def test_klines_that_contradict_themselves(tmp_path: Path) -> None:
    good = (10.0, 12.0, 9.0, 11.0, 5.0, 3, 2.0)
    for bad, reason in (
        ((10.0, 9.5, 9.0, 11.0, 5.0, 3, 2.0), "high and low do not hold open and close"),
        ((10.0, 12.0, 10.5, 11.0, 5.0, 3, 2.0), "high and low do not hold open and close"),
        ((10.0, 12.0, 9.0, 11.0, 5.0, 3, 5.5), "taker volume not within volume"),
        ((10.0, 12.0, 9.0, 11.0, -5.0, 3, -6.0), "negative size"),
        ((10.0, 12.0, 9.0, None, 5.0, 3, 2.0), "missing or not finite"),
        ((10.0, 12.0, 0.0, 11.0, 5.0, 3, 2.0), "price of zero or less"),
    ):
        rows = [(T0 + 60_000 * i, *(bad if i == 2 else good)) for i in range(5)]
        with pytest.raises(DataError) as caught:
            load(klines_tape(tmp_path / "k.parquet", rows))
        assert "row 3: " in str(caught.value)
        if "negative" not in reason:
            assert reason in str(caught.value)


def test_klines_missing_twice_unsorted_incomplete_and_idle(tmp_path: Path) -> None:
    rows: list[tuple[float | int | None, ...]] = [
        (T0 + 60_000 * i, 10.0, 12.0, 9.0, 11.0, 5.0, 3, 2.0) for i in range(10)
    ]
    rows[3] = (T0 + 180_000, 10.0, 10.0, 10.0, 10.0, 0.0, 0, 0.0)
    rows[9] = (T0 + 540_000, 10.0, 12.0, 9.0, 11.0, 5.0, None, None)
    moved = [rows[0], rows[2], rows[1], rows[1], rows[3], *rows[6:]]  # 4 and 5 missing
    report = only(klines_tape(tmp_path / "k.parquet", moved)).quality["klines"]
    expected = {"incomplete_bar": 1, "zero_volume": 1, "duplicates": 1, "out_of_order": 2, "missing_bars": 2, "gaps": 1}
    assert {name: n for name, n in report.counts.items() if n and name != "time_back"} == expected
    assert (report.rows, report.rows_kept) == (9, 7)


def test_klines_of_two_lengths_are_refused(tmp_path: Path) -> None:
    row = (10.0, 12.0, 9.0, 11.0, 5.0, 3, 2.0)
    one = klines_tape(tmp_path / "one.parquet", [(T0 + 60_000 * i, *row) for i in range(5)])
    five = klines_tape(tmp_path / "five.parquet", [(T0 + 300_000 * i, *row) for i in range(5)])
    with pytest.raises(DataError, match=r"60000 ms \(.*one.parquet\), 300000 ms \(.*five.parquet\)"):
        load([one, five])
    off = klines_tape(tmp_path / "off.parquet", [(T0 + 60_000 * i + (7 if i == 3 else 0), *row) for i in range(9)])
    with pytest.raises(DataError, match=r"row 4: .*off the grid"):
        load(off)
    single = klines_tape(tmp_path / "single.parquet", [(T0, *row)])
    with pytest.raises(DataError, match="set bar_ms"):
        load(single)
    assert load(single, policy=ReadPolicy(bar_ms=60_000))["BTCUSDT"].bars.size == 1


def test_a_report_is_plain_json_and_the_same_twice(dump: Dump, agg_rows: Rows) -> None:
    path = dump(agg_rows(40) + agg_rows(10))
    texts = {json.dumps(only(path).quality["trades"].to_dict(), sort_keys=True) for _ in range(2)}
    assert len(texts) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400), st.booleans(), st.booleans())
def test_any_cutting_of_a_messy_file_gives_the_same_bars_and_report(
    tmp_path_factory: pytest.TempPathFactory, seed: int, block_bytes: int, has_ids: bool, is_sorted: bool
) -> None:
    rng = random.Random(seed)
    rows, ts = [], T0
    for i in range(60):
        ts += rng.choice([0, 0, 1, 40, 700, 40_000])
        rows.append((ts, i + 2 * (i > 30), 10 + rng.choice([0.0, 0.1]), rng.choice([0.0, 1.0, 2.0])))
    for _ in range(6):
        at = rng.randrange(len(rows))
        rows.insert(at, rows[at])
    if not is_sorted:
        at = rng.randrange(50)
        rows[at : at + 8] = rng.sample(rows[at : at + 8], 8)
    lines = [f"{ts},{number},{px},{qty},true" if has_ids else f"{ts},{px},{qty},true" for ts, number, px, qty in rows]
    path = tmp_path_factory.mktemp("cut") / "BTCUSDT-x.csv"
    path.write_text(
        "\n".join(["time,id,price,qty,is_buyer_maker" if has_ids else "time,price,qty,is_buyer_maker", *lines])
    )
    cut, whole = only(path, block_bytes), only(path)
    assert cut.bars.tobytes() == whole.bars.tobytes()
    assert cut.quality == whole.quality
    assert cut.quality["trades"].counts == judged_in_memory(path)


def judged_in_memory(path: Path) -> dict[str, int]:
    policy = ReadPolicy()
    source = recognise(path, policy)
    checker = StreamChecker("trades", [source], policy.quality, policy.gap_ms(1_000))
    checker.check_whole((0, block) for block in read_blocks(source, "exchange", policy))
    return checker.report().counts
