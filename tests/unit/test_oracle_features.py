"""The naive oracle's feature stage against bars worked out by hand from docs/DETECTOR.md.

So the oracle is not merely trusted. Worked figures are literals with the sum in a comment; `approx` stands where they
were rounded on paper.
"""

from __future__ import annotations

import math

import pytest

from tests.oracle import detector as oracle
from tests.oracle.by_hand import UNIT, bar, feature_params

NAN = math.nan


def z_ofi_series(flows: list[float], ts_ms: list[int] | None = None, **change: float) -> list[float]:
    bars = [bar(i, ofi=flow) for i, flow in enumerate(flows)]
    if ts_ms is not None:
        for b, ts in zip(bars, ts_ms, strict=True):
            b["ts_ms"] = ts
    rows, _ = oracle.features(bars, [0] * len(bars), feature_params(**change))
    return [row["z_ofi"] for row in rows]


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
    for b in bars:
        b["ofi"], b["delta"] = b["delta"], b["ofi"]  # a count for either source
    assert oracle.features(bars, [0] * 5, feature_params())[1]["zero_scale"] == 1


def test_a_gap_restarts_the_ema_and_keeps_the_window_of_flow_per_bar() -> None:
    # 0, 1, 2: median 1, MAD 1, and bar 3 reads 3 / UNIT. Then 1, 2, 4: median 2, MAD 1, and raw is 2 / UNIT.
    flows, whole = [0.0, 1.0, 2.0, 4.0, 4.0], [1_000, 2_000, 3_000, 4_000, 5_000]
    smooth = z_ofi_series(flows, whole, ema_k=3)
    cut = z_ofi_series(flows, [*whole[:4], 5_501], ema_k=3)
    assert smooth[3] == cut[3] == pytest.approx(2.0234692595)
    assert smooth[4] == pytest.approx(1.6862243830)  # halfway
    assert cut[4] == pytest.approx(1.3489795064)


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
        bar(8, ofi=1.0, delta=99.0, lag_trade_ms=5_001),  # OFI against 1, 1.4826, 1: the median is 1
    ]
    rows, counters = oracle.features(bars, [0] * 9, feature_params())
    assert rows[3]["fusion"] == pytest.approx(0.2)
    assert rows[3]["consistency"] == 0.0
    assert [row["status_ofi"] for row in rows] == [1, 1, 1, 0, 2, 3, 0, 3, 0]
    assert [row["status_cvd"] for row in rows] == [1, 1, 1, 0, 0, 0, 3, 2, 2]
    # CVD at bar 4: 0, 2, -2.965: median 0, MAD 2, so -2 / (2 * UNIT).
    assert rows[4]["z_cvd"] == rows[4]["fusion"] == pytest.approx(-0.6744897532)
    # OFI at bar 6 is measured against 0, 1, 1.4826, left from bars 1 to 3: the median is 1.
    assert rows[6]["z_ofi"] == rows[6]["fusion"] == 0.0
    assert [row["fallback"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 0, 1]
    assert math.isnan(rows[7]["fusion"])
    assert rows[8]["fusion"] == 0.0
    assert counters["fusion_fallback"] == 4


def test_consistency_is_the_ratio_of_the_readings_where_they_agree() -> None:
    bars = [bar(i, ofi=i - 1.0, delta=i - 1.0) for i in range(3)] + [bar(3, ofi=2 * UNIT, delta=0.5 * UNIT)]
    rows, _ = oracle.features(bars, [0] * 4, feature_params())
    assert rows[3]["consistency"] == pytest.approx(0.25)
    assert rows[3]["fusion"] == pytest.approx(1.4)
    rows, _ = oracle.features(bars, [0] * 4, feature_params(w_ofi=3.0, w_cvd=1.0))
    assert rows[3]["fusion"] == pytest.approx(1.625)  # (3 * 2 + 0.5) / 4


def test_price_is_the_fresh_mid_then_the_close_then_the_old_mid() -> None:
    bars = [
        bar(0, mid=1.0, close=2.0),
        bar(1, mid=1.0, close=2.0, lag_quote_ms=5_001),
        bar(2, mid=NAN, close=2.0),
        bar(3, mid=1.0, close=NAN, lag_quote_ms=5_001),
        bar(4, mid=1.0, close=2.0, lag_quote_ms=5_000),
        bar(5, mid=NAN, close=NAN),
    ]
    rows, _ = oracle.features(bars, [0] * 6, feature_params())
    assert [row["px"] for row in rows[:5]] == [1.0, 2.0, 2.0, 1.0, 1.0]
    assert math.isnan(rows[5]["px"])


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


def test_activity_is_smoothed_from_its_first_bar_and_goes_on_over_a_gap() -> None:
    # activity_k 3 halves the way. Smoothed: 8, 16, 20, then 4: 12 is less than the median 16.
    bars = [bar(i, volume=v) for i, v in enumerate([8.0, 24.0, 24.0, 4.0])]
    rows, _ = oracle.features(bars, [0] * 4, feature_params(activity_k=3, min_volume_ratio=1.0))
    assert rows[3]["vol_ok"] == 0.75
    bars[3].update(ts_ms=9_000, lag_trade_ms=5_000)  # at max_lag_ms trades still live; EMA and window kept
    rows, _ = oracle.features(bars, [0] * 4, feature_params(activity_k=3, min_volume_ratio=1.0))
    assert rows[3]["vol_ok"] == 0.75


def test_a_market_that_was_dead_all_along_is_not_gated_by_its_own_silence() -> None:
    rows, _ = oracle.features([bar(i, volume=0.0) for i in range(5)], [0] * 5, feature_params())
    assert [(row["vol_ok"], row["liquidity"]) for row in rows] == [(1.0, 0)] * 5
