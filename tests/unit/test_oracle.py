"""The naive oracle against markets worked out by hand from docs/DETECTOR.md, so that it is not merely trusted.

Worked figures are literals with the sum in a comment; `approx` stands where they were rounded on paper.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.oracle import detector as oracle
from v13.detector.dtypes import EVENT, FEATURE, REASONS

Record = dict[str, Any]
NAN = math.nan
UNIT = 1.4826022185056018  # a window of MAD 1 has this scale, so a flow of k * UNIT reads z = k
BAR_MS = 1_000


def feature_params(**change: float) -> Record:
    """Small windows and no smoothing (`ema_k` 1 makes alpha 1), so that a z can be worked out by hand."""
    return {
        "bar_ms": BAR_MS,
        "window": 3,
        "ema_k": 1,
        "level_mode": 0,
        "z_clip": 5.0,
        "scale_floor": 0.1,
        "w_ofi": 0.6,
        "w_cvd": 0.4,
        "max_lag_ms": 5_000,
        "activity_k": 1,
        "active_quantile": 0.5,
        "min_volume_ratio": 0.25,
        **change,
    }


def bar(i: int, **change: float) -> Record:
    """Bar `i` of a healthy market that stands still."""
    return {
        "ts_ms": (i + 1) * BAR_MS,
        "close": 100.0,
        "mid": 100.0,
        "volume": 1.0,
        "delta": 0.0,
        "ofi": 0.0,
        "n_trades": 1,
        "n_quotes": 1,
        "lag_trade_ms": 0,
        "lag_quote_ms": 0,
        **change,
    }


def feature(i: int, px: float, **change: float) -> Record:
    """Feature row `i` of a healthy market; the readings are 0 unless given."""
    return {
        "ts_ms": (i + 1) * BAR_MS,
        "px": px,
        "z_ofi": 0.0,
        "z_cvd": 0.0,
        "fusion": 0.0,
        "consistency": 0.0,
        "vol_ok": 1.0,
        "status_ofi": 0,
        "status_cvd": 0,
        "fallback": 0,
        "session": 0,
        "liquidity": 0,
        **change,
    }


def buckets(change_of: dict[int, Record] | None = None, **change: float) -> list[Record]:
    """The twelve buckets with every gate open; `change` for all of them, `change_of` by bucket number."""
    p = {
        "swing_L": 1,
        "z_hi": 0.0,
        "z_mid": 0.0,
        "min_separation": 0,
        "cooldown_ms": 0,
        "min_score": 0.0,
        "min_vol_ok": 0.0,
        "min_swing_bps": 0.0,
        **change,
    }
    return [{**p, **(change_of or {}).get(k, {})} for k in range(12)]


def z_ofi_series(flows: list[float], ts_ms: list[int] | None = None, **change: float) -> list[float]:
    bars = [bar(i, ofi=flow) for i, flow in enumerate(flows)]
    for b, ts in zip(bars, ts_ms or [], strict=bool(ts_ms)):
        b["ts_ms"] = ts
    rows, _ = oracle.features(bars, [0] * len(bars), feature_params(**change))
    return [row["z_ofi"] for row in rows]


def counted(counters: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counters.items() if n}


# The thirty bars.
#
# Price falls 109..100 to a low A at bar 9, rises to a high 106 at bar 15, falls by twos to a lower low B = 94 at
# bar 21, rises to 102. With L = 3: A has 3 on either side, validity 1. B has 100 - 94 = 6 on the left and
# 97 - 94 = 3 on the right, validity 0.5, and its swing is 1e4 * 6 / 94 = 638.29787 bp. B is known at bar 24.
#
# Flow repeats -1, 0, 1, so any three bars in a row have median 0 and MAD 1, whatever the negative one of them is
# (from -1 down): the scale is UNIT throughout. A and B fall on negative bars and get z OFI -3, -2 and CVD -2, -1.
# fusion: A 0.6 * -3 + 0.4 * -2 = -2.6, B 0.6 * -2 + 0.4 * -1 = -1.6. Consistency at B: 1 / 2.
THIRTY_PX = [109.0 - i for i in range(10)] + [91.0 + i for i in range(10, 16)]
THIRTY_PX += [136.0 - 2 * i for i in range(16, 22)] + [73.0 + i for i in range(22, 30)]


def thirty_bars() -> list[Record]:
    bars = [bar(i, close=px, mid=px, ofi=i % 3 - 1.0, delta=i % 3 - 1.0) for i, px in enumerate(THIRTY_PX)]
    bars[9].update(ofi=-3 * UNIT, delta=-2 * UNIT)
    bars[21].update(ofi=-2 * UNIT, delta=-1 * UNIT)
    return bars


def run_thirty(bars: list[Record], **change: float) -> tuple[list[Record], dict[str, int]]:
    rows, _ = oracle.features(bars, [1] * len(bars), feature_params())
    p = {"swing_L": 3, "z_hi": 1.9, "z_mid": 0.8, "min_separation": 5, "min_score": 40.0, "cooldown_ms": 30_000}
    return oracle.events(rows, buckets(**{**p, **change}), BAR_MS)


def test_thirty_bars_give_the_one_event_worked_out_by_hand() -> None:
    found, counters = run_thirty(thirty_bars())
    assert len(found) == 1
    # z_magnitude (2.6 + 1.6) / 6, pivot_validity (1 + 0.5) / 2, agreement (1 + 1) / 2, consistency 1 / 2:
    # 100 * (0.245 + 0.1875 + 0.25 + 0.075) = 75.75. OFI alone gets 74.17 and CVD alone 62.5, so FUSION wins.
    assert found[0] == pytest.approx(
        {
            "ts_ms": 25_000,
            "bar": 24,
            "type": 0,
            "side": 1,
            "kind": 0,
            "source": 2,
            "agree": 7,
            "session": 1,
            "liquidity": 0,
            "fallback": 0,
            "swing_L": 3,
            "gap_bars": 12,
            "a_ts_ms": 10_000,
            "b_ts_ms": 22_000,
            "px": 97.0,
            "a_px": 100.0,
            "b_px": 94.0,
            "a_z": -2.6,
            "b_z": -1.6,
            "z_ofi": -2.0,
            "z_cvd": -1.0,
            "consistency": 0.5,
            "z_magnitude": 0.7,
            "pivot_validity": 0.75,
            "agreement": 1.0,
            "vol_ok": 1.0,
            "swing_bps": 638.2978723404256,
            "score": 75.75,
            "z_hi": 1.9,
            "z_mid": 0.8,
        },
        rel=1e-12,
    )
    assert counted(counters) == {"cluster": 2}


def test_rows_carry_exactly_the_fields_of_the_records() -> None:
    rows, feature_counters = oracle.features(thirty_bars(), [1] * 30, feature_params())
    found, counters = run_thirty(thirty_bars())
    assert tuple(rows[0]) == FEATURE.names
    assert tuple(found[0]) == EVENT.names
    assert tuple(counters) == REASONS
    assert set(feature_counters) == {"zero_scale", "fusion_fallback"}


@pytest.mark.parametrize(
    ("source", "score"),
    [
        # (3 + 2) / 6, 0.75, 0.25 * (2 + 1), 0.5: 100 * (0.2916667 + 0.1875 + 0.1875 + 0.075)
        (0, 74.16666666666667),
        # (2 + 1) / 6, 0.75, 0.75, 0.5: 100 * (0.175 + 0.1875 + 0.1875 + 0.075)
        (1, 62.5),
    ],
)
def test_thirty_bars_seen_by_one_source_score_as_by_hand(source: int, score: float) -> None:
    others_off = {k: {"z_hi": 99.0} for k in range(12) if k % 3 != source}
    rows, _ = oracle.features(thirty_bars(), [1] * 30, feature_params())
    found, counters = oracle.events(rows, buckets(others_off, swing_L=3), BAR_MS)
    assert [(e["source"], e["agree"]) for e in found] == [(source, 1 << source)]
    assert found[0]["score"] == pytest.approx(score, rel=1e-12)
    assert counted(counters) == {"threshold": 2}


@pytest.mark.parametrize("first_late", [7, 10, 16, 22, 24])
def test_a_gap_from_the_left_of_a_to_the_confirming_bar_ends_the_swing(first_late: int) -> None:
    bars = thirty_bars()
    for b in bars[first_late:]:
        b["ts_ms"] += BAR_MS
    assert run_thirty(bars)[0] == []


@pytest.mark.parametrize(("first_late", "late_ms"), [(25, 1_000), (16, 500), (6, 1_000)])
def test_a_gap_elsewhere_or_a_step_of_exactly_one_bar_and_a_half_does_not_end_the_swing(
    first_late: int, late_ms: int
) -> None:
    # After a gap at bar 6 the history is bars 6, 7, ...: A at bar 9 has just three before it.
    bars = thirty_bars()
    for b in bars[first_late:]:
        b["ts_ms"] += late_ms
    assert [e["bar"] for e in run_thirty(bars)[0]] == [24]


def test_z_is_measured_against_the_window_before_the_bar_then_smoothed_then_clipped_raw() -> None:
    z = z_ofi_series([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, -100.0], window=5, ema_k=3)
    assert all(math.isnan(value) for value in z[:5])
    assert z[5] == pytest.approx(2.0234692595)  # median 3, MAD 1: 3 / 1.4826; the EMA starts there
    assert z[6] == pytest.approx(1.0117346297)  # window 2..6, median 4: raw 0, alpha 2 / (3 + 1), so half
    assert z[7] == pytest.approx(-1.9941326851)  # raw clipped at -5: 1.01173 + 0.5 * (-5 - 1.01173)


def test_an_even_window_takes_the_mean_of_the_two_middle_values() -> None:
    # 1, 2, 4, 9: median 3; deviations 1, 1, 2, 6: MAD 1.5; (6 - 3) / (1.5 * UNIT)
    assert z_ofi_series([9.0, 1.0, 4.0, 2.0, 6.0], window=4)[4] == pytest.approx(1.3489795064)


def test_the_scale_floor_takes_over_where_the_mad_is_zero() -> None:
    # 18 idle bars and -10, 10: MAD 0; ceil(0.95 * 19) = 19 and floor(0.05 * 19) = 0, so the spread is
    # (10 + 10) / 3.289707 = 6.0795684 and the scale 0.60795684.
    assert z_ofi_series([0.0] * 9 + [-10.0, 10.0] + [0.0] * 9 + [1.0], window=20)[20] == pytest.approx(1.6448536265)


def test_a_window_without_any_spread_gives_zero_and_is_counted() -> None:
    bars = [bar(i, ofi=float(i == 3), delta=float(i % 3)) for i in range(5)]
    rows, counters = oracle.features(bars, [0] * 5, feature_params())
    assert rows[3]["z_ofi"] == 0.0
    # OFI at bar 3 only: bar 4 is measured against 0, 0, 1, of spread 1 / 3.289707, scale a tenth of it
    assert counters == {"zero_scale": 1, "fusion_fallback": 0}


def test_a_gap_restarts_the_ema_and_keeps_the_window_of_flow_per_bar() -> None:
    # 0, 1, 2: median 1, MAD 1. At bar 3 raw = 3 / UNIT. Windows after: 1, 2, 4, then (median 2, MAD 1).
    flows, whole = [0.0, 1.0, 2.0, 4.0, 2.0], [1_000, 2_000, 3_000, 4_000, 5_000]
    smooth = z_ofi_series(flows, whole, ema_k=3)
    cut = z_ofi_series(flows, [*whole[:4], 5_501], ema_k=3)
    assert smooth[3] == cut[3] == pytest.approx(2.0234692595)
    assert smooth[4] == pytest.approx(1.0117346297)
    assert cut[4] == 0.0


def test_a_gap_empties_the_window_of_levels_and_sets_the_level_to_zero() -> None:
    # Levels 1, 2, 3, then 4: median 2, MAD 1. After the gap 1, 3, 5, then 9: median 3, MAD 2.
    flows = [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0]
    z = z_ofi_series(flows, [1_000, 2_000, 3_000, 4_000, 9_000, 10_000, 11_000, 12_000], level_mode=1)
    assert [math.isnan(value) for value in z] == [True, True, True, False, True, True, True, False]
    assert z[3] == pytest.approx(1.3489795064)  # 2 / UNIT
    assert z[7] == pytest.approx(2.0234692595)  # 6 / (2 * UNIT)


def test_a_stale_or_absent_source_leaves_its_window_alone_and_fusion_falls_back() -> None:
    flows = [-1.0, 0.0, 1.0]
    bars = [bar(i, ofi=flow, delta=2 * flow) for i, flow in enumerate(flows)]
    bars += [
        bar(3, ofi=UNIT, delta=-2 * UNIT),  # z 1 and -1: fusion 0.6 - 0.4, no consistency
        bar(4, ofi=99.0, delta=-2.0, lag_quote_ms=5_001),  # window of CVD 0, 2, -2 UNIT: see below
        bar(5, ofi=NAN, delta=0.0),
        bar(6, ofi=1.0, delta=99.0, lag_quote_ms=5_000, lag_trade_ms=-1),
        bar(7, ofi=99.0, delta=99.0, lag_quote_ms=-1, lag_trade_ms=5_001),
    ]
    rows, counters = oracle.features(bars, [0] * 8, feature_params())
    assert rows[3]["fusion"] == pytest.approx(0.2)
    assert rows[3]["consistency"] == 0.0
    assert [row["status_ofi"] for row in rows] == [1, 1, 1, 0, 2, 3, 0, 3]
    assert [row["status_cvd"] for row in rows] == [1, 1, 1, 0, 0, 0, 3, 2]
    # CVD at bar 4: 0, 2, -2.965: median 0, MAD 2, so -2 / (2 * UNIT).
    assert rows[4]["z_cvd"] == rows[4]["fusion"] == pytest.approx(-0.6744897532)
    # OFI at bar 6 is measured against 0, 1, 1.4826, left from bars 1 to 3: the median is 1.
    assert rows[6]["z_ofi"] == rows[6]["fusion"] == 0.0
    assert [row["fallback"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 0]
    assert math.isnan(rows[7]["fusion"])
    assert counters["fusion_fallback"] == 3


def test_consistency_is_the_ratio_of_the_readings_where_they_agree() -> None:
    bars = [bar(i, ofi=i - 1.0, delta=i - 1.0) for i in range(3)] + [bar(3, ofi=2 * UNIT, delta=0.5 * UNIT)]
    rows, _ = oracle.features(bars, [0] * 4, feature_params())
    assert rows[3]["consistency"] == pytest.approx(0.25)
    assert rows[3]["fusion"] == pytest.approx(1.4)


def test_price_is_the_fresh_mid_then_the_close_then_the_old_mid() -> None:
    bars = [
        bar(0, mid=1.0, close=2.0),
        bar(1, mid=1.0, close=2.0, lag_quote_ms=5_001),
        bar(2, mid=NAN, close=2.0),
        bar(3, mid=1.0, close=NAN, lag_quote_ms=5_001),
        bar(4, mid=NAN, close=NAN),
    ]
    rows, _ = oracle.features(bars, [0] * 5, feature_params())
    assert [row["px"] for row in rows[:4]] == [1.0, 2.0, 2.0, 1.0]
    assert math.isnan(rows[4]["px"])


def test_activity_is_judged_against_the_bars_before_and_stops_with_the_trades() -> None:
    volumes = [8.0, 16.0, 24.0, 2.0, 20.0, 9.0]
    bars = [bar(i, volume=v) for i, v in enumerate(volumes)]
    bars[4]["lag_trade_ms"] = 5_001
    rows, _ = oracle.features(bars, [0] * 6, feature_params())
    # Bar 3: a quarter of the median 16 is 4, and 2 / 4 is half. Bar 4 has no live trades and is not remembered,
    # so bar 5 is judged against 16, 24, 2: 9 is more than 4 and less than the median 16.
    assert [row["vol_ok"] for row in rows] == [1.0, 1.0, 1.0, 0.5, 0.0, 1.0]
    assert [row["liquidity"] for row in rows] == [0] * 6
    bars[5]["volume"] = 16.5
    assert oracle.features(bars, [0] * 6, feature_params())[0][5]["liquidity"] == 1
    for b in bars:
        b.update(lag_trade_ms=-1, n_quotes=b["volume"] * 2, volume=0.0)
    # Quotes stand in where no trade was ever seen, and then the stale trade of bar 4 does not matter: 40 against
    # the median 32 of 32, 48, 4 at bar 4 is more, and so is 33 against 40 of 48, 4, 40 at bar 5 less.
    rows, _ = oracle.features(bars, [0] * 6, feature_params())
    assert [row["liquidity"] for row in rows] == [0, 0, 0, 0, 1, 0]


def zigzag(lows: list[float], z: list[float], **change: float) -> list[Record]:
    """Lows of L = 1 at bars 1, 3, 5, ... with OFI `z`, known at 2, 4, 6, ...; all highs equal, so lows alone pair."""
    rows = [feature(0, 10.0)]
    for low, reading in zip(lows, z, strict=True):
        rows += [feature(len(rows), low, z_ofi=reading, **change), feature(len(rows) + 1, 10.0)]
    return rows


ONLY_OFI = {k: {"z_hi": 99.0} for k in range(12) if k % 3 != 0}


@pytest.mark.parametrize(
    ("lows", "z", "type_", "side", "kind"),
    [
        ([9.0, 8.0], [-3.0, -2.0], 0, 1, 0),  # lower low, indicator higher: bull_div
        ([8.0, 9.0], [-2.0, -3.0], 2, 1, 1),  # higher low, indicator lower: hidden_bull
    ],
)
def test_pairs_of_lows_have_the_type_of_the_definition(
    lows: list[float], z: list[float], type_: int, side: int, kind: int
) -> None:
    found, counters = oracle.events(zigzag(lows, z), buckets(ONLY_OFI), BAR_MS)
    assert [(e["type"], e["side"], e["kind"], e["bar"]) for e in found] == [(type_, side, kind, 4)]
    assert counted(counters) == {}
    # The same lows with the indicator the other way round are no divergence and are not counted.
    assert oracle.events(zigzag(lows, z[::-1]), buckets(ONLY_OFI), BAR_MS)[0] == []


@pytest.mark.parametrize(
    ("highs", "z", "type_", "kind"),
    [
        ([11.0, 12.0], [3.0, 2.0], 1, 0),  # higher high, indicator lower: bear_div
        ([12.0, 11.0], [2.0, 3.0], 3, 1),  # lower high, indicator higher: hidden_bear
    ],
)
def test_pairs_of_highs_have_the_type_of_the_definition(
    highs: list[float], z: list[float], type_: int, kind: int
) -> None:
    found, _ = oracle.events(zigzag(highs, z), buckets(ONLY_OFI), BAR_MS)
    assert [(e["type"], e["side"], e["kind"], e["bar"]) for e in found] == [(type_, -1, kind, 4)]
    # highs 11 and 12 over 10 on either side: validity 1; swing 1e4 * (B - 10) / B
    assert found[0]["swing_bps"] == pytest.approx(1e4 * (highs[1] - 10.0) / highs[1])


def test_equal_prices_pair_nothing_and_the_newer_pivot_takes_the_place_of_the_older() -> None:
    # 9 and 9: nothing, though z rose. Then 8 pairs with the second 9 (z -1), not the first (z -3): no rise.
    found, counters = oracle.events(zigzag([9.0, 9.0, 8.0], [-3.0, -1.0, -2.0]), buckets(ONLY_OFI), BAR_MS)
    assert found == []
    assert counted(counters) == {}


def test_a_price_equal_to_a_neighbour_is_no_pivot() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    rows[2]["px"] = 8.0  # as low as bar 3
    assert oracle.events(rows, buckets(ONLY_OFI), BAR_MS)[0] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"z_hi": 3.01}, "threshold"),
        ({"z_mid": 2.01}, "threshold"),
        ({"min_separation": 3}, "min_separation"),
        ({"min_vol_ok": 1.01}, "low_vol"),
        ({"min_swing_bps": 2_501.0}, "low_vol"),  # B: 10 over 8 is 2,500 bp of 8
        # 5 / 6 of 35, validity 1 of 25, 0.25 * 2 of 25, no consistency: 29.1667 + 25 + 12.5 = 66.6667
        ({"min_score": 66.67}, "low_score"),
    ],
)
def test_each_gate_suppresses_and_counts(change: Record, reason: str) -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    at_limit = {"z_hi": 3.0, "z_mid": 2.0, "min_separation": 2, "min_vol_ok": 1.0}
    at_limit |= {"min_swing_bps": 2_500.0, "min_score": 66.66}
    ofi = {0: at_limit}
    assert len(oracle.events(rows, buckets(ONLY_OFI | ofi), BAR_MS)[0]) == 1
    found, counters = oracle.events(rows, buckets(ONLY_OFI | {0: at_limit | change}), BAR_MS)
    assert found == []
    assert counted(counters) == {reason: 1}


@pytest.mark.parametrize(
    ("status_a", "status_b", "expected"),
    [
        (1, 2, {"warmup": 2}),
        (0, 2, {"lag": 2}),
        (2, 3, {"lag": 2}),
        (0, 3, {}),
    ],
)
def test_a_reading_that_is_not_there_is_counted_by_its_cause(
    status_a: int, status_b: int, expected: dict[str, int]
) -> None:
    # Of OFI and FUSION; CVD reads 0 at both pivots, which is no divergence.
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    for k, status in ((1, status_a), (3, status_b)):
        rows[k].update(status_ofi=status, z_ofi=NAN if status else -3.0, fusion=NAN if status else -3.0)
    found, counters = oracle.events(rows, buckets(), BAR_MS)
    assert found == []
    assert counted(counters) == expected


@pytest.mark.parametrize(
    ("cooldown_ms", "bars", "n_cooled"), [(2_000, [4, 6, 8], 0), (2_001, [4, 8], 1), (4_001, [4], 2)]
)
def test_cooldown_counts_from_the_last_event_and_not_from_a_suppressed_candidate(
    cooldown_ms: int, bars: list[int], n_cooled: int
) -> None:
    # Four lower lows with a rising indicator: pairs known at bars 4, 6 and 8, two seconds apart.
    rows = zigzag([9.0, 8.0, 7.0, 6.0], [-4.0, -3.0, -2.0, -1.0])
    found, counters = oracle.events(rows, buckets(ONLY_OFI, cooldown_ms=cooldown_ms), BAR_MS)
    assert [e["bar"] for e in found] == bars
    assert counters["cooldown"] == n_cooled


def test_cooldown_holds_one_side_only_and_goes_on_over_a_gap() -> None:
    bulls = zigzag([9.0, 8.0], [-3.0, -2.0])  # bull_div at bar 4
    bears = zigzag([11.0, 12.0], [3.0, 2.0])  # bear_div
    more_bulls = zigzag([9.0, 8.0], [-3.0, -2.0])
    rows = bulls + bears + more_bulls
    for i, row in enumerate(rows):
        row["ts_ms"] = (i + 1 + 10 * (i // 5)) * BAR_MS  # gaps of 11 s between the three
    found, counters = oracle.events(rows, buckets(ONLY_OFI, cooldown_ms=30_001), BAR_MS)
    assert [(e["side"], e["bar"]) for e in found] == [(1, 4), (-1, 9)]
    assert counted(counters) == {"cooldown": 1}
    found, _ = oracle.events(rows, buckets(ONLY_OFI, cooldown_ms=30_000), BAR_MS)
    assert [(e["side"], e["bar"]) for e in found] == [(1, 4), (-1, 9), (1, 14)]


def two_sided_cluster() -> tuple[list[Record], list[Record]]:
    """At bar 8 OFI with L = 1 sees a higher low at bar 7, CVD with L = 2 a higher high at bar 6."""
    rows = [feature(i, px) for i, px in enumerate([5.0, 6.0, 8.0, 6.0, 5.0, 6.0, 9.0, 7.0, 8.0])]
    rows[4]["z_ofi"], rows[7]["z_ofi"] = -1.0, -2.0  # lows, L = 1: falls, hidden_bull
    rows[2]["z_cvd"], rows[6]["z_cvd"] = 6.0, 5.0  # highs, L = 2: falls, bear_div
    return rows, buckets({1: {"swing_L": 2}})


def test_a_cluster_keeps_the_higher_score_and_agrees_with_its_own_type_only() -> None:
    rows, p = two_sided_cluster()
    found, counters = oracle.events(rows, p, BAR_MS)
    # OFI: low 5 at bar 4 has 1 and 1, low 7 at bar 7 has 2 and 1: validity (1 + 0.5) / 2.
    #   100 * (0.35 * 3 / 6 + 0.25 * 0.75 + 0.25 * 0.5) = 48.75
    # CVD: high 8 at bar 2 has 3 and 3; high 9 at bar 6 has 4 and 2: validity (1 + 0.5) / 2.
    #   100 * (0.35 * 1 + 0.25 * 0.75 + 0.25 * 0.5) = 66.25
    assert [(e["bar"], e["type"], e["source"], e["swing_L"], e["agree"]) for e in found] == [(8, 1, 1, 2, 0b010)]
    assert found[0]["score"] == pytest.approx(66.25)
    assert counted(counters) == {"cluster": 1}
    found, _ = oracle.events(rows, [{**q, "z_hi": 5.5} if k == 1 else q for k, q in enumerate(p)], BAR_MS)
    assert [e["source"] for e in found] == [1]  # u is 6: still there
    found, counters = oracle.events(rows, [{**q, "z_hi": 6.5} if k == 1 else q for k, q in enumerate(p)], BAR_MS)
    assert [(e["source"], e["type"], e["agree"]) for e in found] == [(0, 2, 0b001)]
    assert found[0]["score"] == pytest.approx(48.75)
    assert counted(counters) == {"threshold": 1}


def test_equal_scores_go_to_the_lower_channel_and_two_channels_agree() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    for k in (1, 3):
        rows[k]["z_cvd"] = rows[k]["z_ofi"]
    found, counters = oracle.events(rows, buckets(), BAR_MS)  # fusion reads 0 at both: no divergence
    assert [(e["source"], e["agree"]) for e in found] == [(0, 0b011)]
    assert counted(counters) == {"cluster": 1}


def test_the_bucket_is_that_of_the_confirming_bar_and_every_tracker_sees_every_bar() -> None:
    # By day L = 2, by night L = 1. The lows at 1 and 3 lie in the day; bar 4, that confirms the second, in the night.
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    p = buckets(ONLY_OFI | {k: {"swing_L": 2} for k in range(6, 12)})
    for row in rows[:4]:
        row["session"] = 1
    assert [(e["bar"], e["session"], e["swing_L"]) for e in oracle.events(rows, p, BAR_MS)[0]] == [(4, 0, 1)]
    rows[4]["session"] = 1
    assert oracle.events(rows, p, BAR_MS)[0] == []


def test_a_bar_without_price_is_numbered_but_not_taken() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    rows.insert(3, feature(3, NAN))
    for i, row in enumerate(rows):
        row["ts_ms"] = (i + 1) * BAR_MS
    found, _ = oracle.events(rows, buckets(ONLY_OFI), BAR_MS)
    assert [(e["bar"], e["gap_bars"]) for e in found] == [(5, 3)]


def test_fallback_marks_fused_events_only() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    for k in (1, 3):
        rows[k].update(fusion=rows[k]["z_ofi"], z_cvd=NAN, status_cvd=3)
    rows[1]["fallback"] = 1
    (ofi,), _ = oracle.events(rows, buckets(), BAR_MS)  # equal scores: 0.25 * 2 * a and 0.5 * a
    assert (ofi["source"], ofi["agree"], ofi["fallback"]) == (0, 0b101, 0)
    (fused,), _ = oracle.events(rows, buckets({0: {"z_hi": 99.0}}), BAR_MS)
    assert (fused["source"], fused["fallback"], fused["score"]) == (2, 1, ofi["score"])


def conflict_rows(held: str) -> list[Record]:
    """Price without pivots; OFI and CVD quarrel at the bars marked x."""
    readings = {"x": (2.0, -1.0), "-": (2.0, 1.0)}
    return [feature(i, 10.0 + i, z_ofi=readings[c][0], z_cvd=readings[c][1]) for i, c in enumerate(held)]


@pytest.mark.parametrize(
    ("held", "cooldown_ms", "bars"),
    [
        ("--xx-x-", 0, [2, 5]),  # once for as long as it holds
        ("x---x--", 0, [0, 4]),  # the latch is open at reset
        ("--x-x-x", 4_000, [2, 6]),
        ("--x-xxxx", 3_000, [2]),  # began within the cooldown: the latch is shut when it ends
    ],
)
def test_a_conflict_is_said_once_until_it_lets_go(held: str, cooldown_ms: int, bars: list[int]) -> None:
    found, counters = oracle.events(conflict_rows(held), buckets(z_hi=2.0, z_mid=1.0, cooldown_ms=cooldown_ms), BAR_MS)
    assert [e["bar"] for e in found] == bars
    assert {(e["type"], e["side"], e["kind"], e["source"], e["agree"]) for e in found} == {(4, 0, 2, 2, 0)}
    assert {(e["a_z"], e["b_z"], e["gap_bars"], e["swing_bps"]) for e in found} == {(2.0, -1.0, 0, 0.0)}
    assert all(math.isnan(e["score"]) for e in found)
    assert counted(counters) == {}


def test_a_gap_opens_the_latch_and_a_bar_without_price_does_not() -> None:
    p = buckets(z_hi=2.0, z_mid=1.0)
    rows = conflict_rows("xxxx")
    rows[1].update(px=NAN, z_ofi=0.0)
    assert [e["bar"] for e in oracle.events(rows, p, BAR_MS)[0]] == [0]
    for row in rows[2:]:
        row["ts_ms"] += BAR_MS
    assert [e["bar"] for e in oracle.events(rows, p, BAR_MS)[0]] == [0, 2]


@pytest.mark.parametrize("change", [{"z_hi": 2.01}, {"z_mid": 1.01}])
def test_a_conflict_needs_both_thresholds_of_the_fusion_bucket(change: Record) -> None:
    p = buckets({2: {"z_hi": 2.0, "z_mid": 1.0, **change}})
    assert oracle.events(conflict_rows("xx"), p, BAR_MS)[0] == []


def test_a_conflict_follows_the_divergence_of_its_bar_and_has_a_cooldown_of_its_own() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    rows[4].update(z_ofi=2.0, z_cvd=-1.0)
    p = buckets(ONLY_OFI | {2: {"z_hi": 2.0, "z_mid": 1.0}}, cooldown_ms=60_000)
    assert [(e["bar"], e["type"]) for e in oracle.events(rows, p, BAR_MS)[0]] == [(4, 0), (4, 4)]
