"""The naive oracle's conflict hints and bucket numbers, worked out by hand from docs/DETECTOR.md."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.oracle import detector as oracle
from tests.oracle.by_hand import BAR_MS, ONLY_OFI, buckets, counted, feature, zigzag

Record = dict[str, Any]
NAN = math.nan


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
    assert {(e["z_ofi"], e["z_cvd"], e["z_hi"], e["z_mid"]) for e in found} == {(2.0, -1.0, 2.0, 1.0)}
    assert all(e["px"] == e["a_px"] == e["b_px"] == 10.0 + e["bar"] for e in found)
    assert all(e["ts_ms"] == e["a_ts_ms"] == e["b_ts_ms"] for e in found)
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


@pytest.mark.parametrize("missing", ["z_ofi", "z_cvd"])
def test_a_conflict_needs_both_readings(missing: str) -> None:
    (row,) = conflict_rows("x")
    row[missing] = NAN
    assert oracle.events([row], buckets(), BAR_MS)[0] == []


@pytest.mark.parametrize(("session", "liquidity", "bucket"), [(0, 0, 2), (0, 1, 5), (1, 0, 8), (1, 1, 11)])
def test_buckets_are_numbered_by_session_then_liquidity_then_channel(session: int, liquidity: int, bucket: int) -> None:
    (row,) = conflict_rows("x")
    row.update(session=session, liquidity=liquidity)
    all_off = {k: {"z_hi": 99.0} for k in range(12)}
    (hint,), _ = oracle.events([row], buckets(all_off | {bucket: {"swing_L": 7}}), BAR_MS)
    assert (hint["swing_L"], hint["session"], hint["liquidity"]) == (7, session, liquidity)


def test_a_conflict_follows_the_divergence_of_its_bar_and_has_a_cooldown_of_its_own() -> None:
    rows = zigzag([9.0, 8.0], [-3.0, -2.0])
    rows[4].update(z_ofi=2.0, z_cvd=-1.0)
    p = buckets(ONLY_OFI | {2: {"z_hi": 2.0, "z_mid": 1.0}}, cooldown_ms=60_000)
    assert [(e["bar"], e["type"]) for e in oracle.events(rows, p, BAR_MS)[0]] == [(4, 0), (4, 4)]
