"""Events with their labels; parts and the cut."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle.markets import random_bars
from v13 import measures
from v13.detector import BAR, DecisionParams, DetectorParams, FeatureParams, SessionClock
from v13.errors import DataError
from v13.research.cut import make_cut
from v13.research.trials import SymbolPart, bucket_of, evaluate, find_events

BASE = DetectorParams(
    FeatureParams(window=40), DecisionParams(min_score=20.0, cooldown_ms=5_000, min_swing_bps=0.0, z_hi=1.0, z_mid=0.2)
)
CLOCK = SessionClock()


def test_labels_start_at_the_confirming_bar_and_do_not_cross_a_gap() -> None:
    bars = random_bars(np.random.default_rng(3), 2_000, kind="plain")
    bars["ts_ms"][1_000:] += 3_600_000
    part = SymbolPart("A", bars)
    events, rows = find_events(BASE, CLOCK, part)
    outcome = evaluate([events], [rows], (10,), 1_000, 0.0)
    assert len(events) > 10
    for event, label in zip(outcome.events, outcome.returns[:, 0], strict=True):
        i = int(event["bar"])
        if i + 10 >= len(bars) or (i < 1_000 <= i + 10):
            assert np.isnan(label)
        else:
            assert label == np.log(bars["mid"][i + 10] / bars["mid"][i])


def test_events_up_to_a_moment_are_left_out_with_their_positions() -> None:
    part = SymbolPart("A", random_bars(np.random.default_rng(4), 2_000, kind="plain"))
    events, rows = find_events(BASE, CLOCK, part)
    moment = int(part.bars["ts_ms"][800])
    whole = evaluate([events], [rows], (10,), 1_000, 0.0)
    later = evaluate([events], [rows], (10,), 1_000, 0.0, after_ms=moment)
    kept = whole.events["ts_ms"] > moment
    assert 0 < kept.sum() < len(kept)
    assert later.events.tobytes() == whole.events[kept].tobytes()
    assert np.array_equal(later.returns, whole.returns[kept], equal_nan=True)
    (panel,) = later.panels[0]
    assert len(panel.ret) == len(part.bars) - 801
    assert np.array_equal(panel.ret[panel.index], later.returns[:, 0], equal_nan=True)


def test_selecting_events_selects_their_panels() -> None:
    rng = np.random.default_rng(5)
    parts = [SymbolPart(s, random_bars(rng, 2_000, kind="plain")) for s in ("A", "B")]
    found = [find_events(BASE, CLOCK, p) for p in parts]
    outcome = evaluate([f[0] for f in found], [f[1] for f in found], (5, 10), 1_000, 0.0)
    mask = bucket_of(outcome.events) % 3 == 1
    chosen = outcome.select(mask)
    assert 0 < len(chosen.events) < len(outcome.events)
    for h in range(2):
        rebuilt = np.concatenate([p.ret[p.index] for p in chosen.panels[h]])
        assert np.array_equal(rebuilt, outcome.returns[mask, h], equal_nan=True)


def test_the_cut_leaves_the_gap_to_neither_side() -> None:
    bars = {"A": random_bars(np.random.default_rng(6), 1_000, kind="plain")}
    cut = make_cut(bars, 1_000, 0.6, 50)
    search, behind = cut.search_bars(bars["A"]), cut.holdout_bars(bars["A"])
    assert len(search) == 600
    assert len(search) + len(behind) == 1_000
    assert (behind["ts_ms"] <= cut.holdout_start_ms).sum() == 50
    assert cut.hours(bars["A"], holdout=False) == pytest.approx(600 / 3600)
    assert cut.hours(bars["A"], holdout=True) == pytest.approx(350 / 3600)


def test_a_cut_needs_bars() -> None:
    with pytest.raises(DataError, match="no bars"):
        make_cut({"A": np.zeros(0, BAR)}, 1_000, 0.6, 50)


def test_a_hole_in_one_symbol_does_not_put_it_out_of_step_with_the_others() -> None:
    """A second symbol that is a copy with a hole: under every shift its events meet the same times as the first's."""
    bars = random_bars(np.random.default_rng(7), 6_000, kind="plain")
    holed = np.delete(bars, slice(2_000, 2_040))
    parts = [SymbolPart("A", bars), SymbolPart("B", holed)]
    found = [find_events(BASE, CLOCK, p) for p in parts]
    both = evaluate([f[0] for f in found], [f[1] for f in found], (10,), 1_000, 0.0)
    (a, b) = both.panels[0]
    assert len(a.ret) == len(b.ret) == len(bars)
    alike = np.isfinite(a.ret) & np.isfinite(b.ret)
    assert alike.sum() > 5_900
    assert np.array_equal(a.ret[alike], b.ret[alike])
    assert len(np.intersect1d(a.index, b.index)) > 0.8 * len(a.index)
    alone = measures.circular_shift_null([a], min_shift=60, n_shifts=500, seed=1)
    pooled = measures.circular_shift_null([a, b], min_shift=60, n_shifts=500, seed=1)
    assert np.corrcoef(alone.accuracy.null, pooled.accuracy.null)[0, 1] > 0.95
    assert np.std(pooled.accuracy.null) > 0.9 * np.std(alone.accuracy.null)  # copies bring no new evidence


def test_a_symbol_with_a_short_stretch_does_not_take_the_test_away() -> None:
    bars = random_bars(np.random.default_rng(8), 6_000, kind="plain")
    parts = [SymbolPart("A", bars), SymbolPart("B", bars[:300])]
    found = [find_events(BASE, CLOCK, p) for p in parts]
    assert len(found[1][0]) > 0
    both = evaluate([f[0] for f in found], [f[1] for f in found], (10,), 1_000, 0.0)
    assert measures.circular_shift_null(both.panels[0], min_shift=60, n_shifts=500, seed=1).n_shifts == 500


def test_hours_count_bars_with_a_price() -> None:
    bars = {"A": random_bars(np.random.default_rng(9), 1_000, kind="plain")}
    for name in ("close", "mid"):
        bars["A"][name][700:] = np.nan
    cut = make_cut(bars, 1_000, 0.6, 50)
    assert cut.hours(bars["A"], holdout=True) == pytest.approx(50 / 3600)
