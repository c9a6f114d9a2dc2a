"""The naive oracle's decision stage against markets worked out by hand from docs/DETECTOR.md.

So the oracle is not merely trusted. Worked figures are literals with the sum in a comment; `approx` stands where they
were rounded on paper.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.oracle import detector as oracle
from tests.oracle.by_hand import BAR_MS, ONLY_OFI, buckets, counted, feature, feature_params, thirty_bars, zigzag
from v13.detector.dtypes import EVENT, FEATURE, REASONS

Record = dict[str, Any]
NAN = math.nan


def run_thirty(bars: list[Record]) -> tuple[list[Record], dict[str, int]]:
    rows, _ = oracle.features(bars, [1] * len(bars), feature_params())
    p = buckets(swing_L=3, z_hi=1.9, z_mid=0.8, min_separation=5, min_score=40.0, cooldown_ms=30_000)
    return oracle.events(rows, p, BAR_MS)


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


@pytest.mark.parametrize(("lows_or_highs", "z"), [((9.0, 8.0), (-3.0, -2.0)), ((11.0, 12.0), (3.0, 2.0))])
def test_a_price_equal_to_a_neighbour_is_no_pivot(lows_or_highs: tuple[float, float], z: tuple[float, float]) -> None:
    rows = zigzag([*lows_or_highs, lows_or_highs[1]], [*z, z[1]])
    assert len(oracle.events(rows, buckets(ONLY_OFI), BAR_MS)[0]) == 1
    del rows[4]  # the two equal prices are neighbours now
    for i, row in enumerate(rows):
        row["ts_ms"] = (i + 1) * BAR_MS
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


def test_a_score_of_exactly_min_score_passes() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    (event,), _ = oracle.events(rows, buckets(ONLY_OFI), BAR_MS)
    assert oracle.events(rows, buckets(ONLY_OFI, min_score=event["score"]), BAR_MS)[0] == [event]


@pytest.mark.parametrize(
    ("channel", "rise_ofi", "rise_cvd", "agreement"),
    [
        (0, 0.5, 0.25, 0.3125),  # 0.25 * (2 * 0.5 + 0.25)
        (1, 0.5, 0.25, 0.25),  # 0.25 * (2 * 0.25 + 0.5)
        (2, 0.5, 0.25, 0.375),  # 0.5 * (0.5 + 0.25)
        (0, 0.5, -0.25, 0.25),  # CVD falls, which counts as nothing
        (0, 0.5, NAN, 0.25),  # CVD is not there
        (1, 1.5, 0.25, 0.375),  # a rise counts up to 1
    ],
)
def test_agreement_weighs_the_rise_of_both_sources(
    channel: int, rise_ofi: float, rise_cvd: float, agreement: float
) -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -3.0 + rise_ofi])
    rows[1].update(z_cvd=-1.0, fusion=-2.0)
    rows[3].update(z_cvd=-1.0 + rise_cvd, fusion=-1.75, consistency=0.6)
    rows[4]["vol_ok"] = 0.5
    off = {k: {"z_hi": 99.0} for k in range(12) if k % 3 != channel}
    (event,), _ = oracle.events(rows, buckets(off), BAR_MS)
    assert event["agreement"] == agreement
    assert event["score"] == pytest.approx(
        50 * (0.35 * event["z_magnitude"] + 0.25 * 1.0 + 0.25 * agreement + 0.15 * 0.6), rel=1e-12
    )


def test_the_part_for_size_is_full_at_an_average_of_three() -> None:
    parts = []
    for z_a, z_b in ((-3.0, -1.5), (-4.0, -2.0), (-5.0, -3.0)):
        (event,), _ = oracle.events(zigzag([9.0, 8.0], [z_a, z_b]), buckets(ONLY_OFI), BAR_MS)
        parts.append(event["z_magnitude"])
    assert parts == [0.75, 1.0, 1.0]


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


@pytest.mark.parametrize("at", [1, 3])
def test_fallback_at_either_pivot_marks_fused_events_only(at: int) -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    for k in (1, 3):
        rows[k].update(fusion=rows[k]["z_ofi"], z_cvd=NAN, status_cvd=3)
    rows[at]["fallback"] = 1
    (ofi,), _ = oracle.events(rows, buckets(), BAR_MS)  # equal scores: 0.25 * 2 * a and 0.5 * a
    assert (ofi["source"], ofi["agree"], ofi["fallback"]) == (0, 0b101, 0)
    (fused,), _ = oracle.events(rows, buckets({0: {"z_hi": 99.0}}), BAR_MS)
    assert (fused["source"], fused["fallback"], fused["score"]) == (2, 1, ofi["score"])
