"""Evidence beside the criteria: sources alone, the placebo, periods, buckets, and what the first page says of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.markets import random_bars
from v13 import market, measures
from v13.config import Config
from v13.detector import (
    BucketOverride,
    CalibrationMap,
    DecisionParams,
    Detector,
    DetectorParams,
    FeatureParams,
    SessionClock,
    compute_features,
    divergences,
)
from v13.detector.dtypes import CHANNELS, EVENT, FEATURE, FUSION
from v13.detector.params import bucket_name
from v13.measures.pace import Pace
from v13.research import acceptance, evidence, report
from v13.research.bucket_tests import BucketRow, bucket_rows
from v13.research.cut import Cut, make_cut
from v13.research.evidence import ALL, ablation, placebo, regimes, source_events
from v13.research.trials import Outcomes, SymbolPart, bucket_of, evaluate, find_events

CLOCK = SessionClock()
LOOSE = DetectorParams(
    FeatureParams(window=40), DecisionParams(min_score=20.0, cooldown_ms=5_000, min_swing_bps=0.0, z_hi=1.0, z_mid=0.2)
)
CONFIG = Config()
SMALL = CONFIG.model_copy(update={"acceptance": CONFIG.acceptance.model_copy(update={"n_bootstrap": 200})})
HOUR, DAY = 3_600_000, 86_400_000


def closed(params: DetectorParams, channel: int) -> DetectorParams:
    """Put the other channels' thresholds out of reach; each bucket is spelled out, nothing can be more specific."""
    spelled = []
    for number, bucket in enumerate(params.bucket_params()):
        session, liquidity, source = bucket_name(number).split("/")
        values = dataclasses.asdict(bucket)
        if number % 3 != channel:
            values |= {"z_hi": 100.0}  # |z| is clipped at 5
        spelled.append(BucketOverride({"session": session, "liquidity": liquidity, "source": source}, values))
    return dataclasses.replace(params, overrides=tuple(spelled))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_a_source_alone_is_a_detector_whose_other_channels_are_closed(seed: int) -> None:
    bars = random_bars(np.random.default_rng(seed), 3_000)
    overrides = (
        BucketOverride({"session": "night", "liquidity": "active"}, {"swing_L": 5, "z_hi": 0.6}),
        BucketOverride({"source": "CVD_ONLY"}, {"swing_L": 8, "cooldown_ms": 0}),
        BucketOverride({"session": "day", "liquidity": "quiet", "source": "FUSION"}, {"swing_L": 3, "min_score": 10.0}),
    )
    params = dataclasses.replace(LOOSE, decision=dataclasses.replace(LOOSE.decision, swing_L=4), overrides=overrides)
    rows = compute_features(params, bars, CLOCK)
    for channel in range(len(CHANNELS)):
        alone = divergences(Detector(closed(params, channel), CLOCK).run(bars))
        alone["agree"] = 1 << channel  # only it passed
        assert source_events(params, rows, channel).tobytes() == alone.tobytes()


def test_a_source_alone_fires_at_several_swings_and_more_often_than_in_company() -> None:
    bars = random_bars(np.random.default_rng(11), 6_000, kind="plain")
    params = dataclasses.replace(LOOSE, overrides=(BucketOverride({"liquidity": "active"}, {"swing_L": 5}),))
    rows = compute_features(params, bars, CLOCK)
    together = divergences(Detector(params, CLOCK).run(bars))
    for channel in range(len(CHANNELS)):
        alone = source_events(params, rows, channel)
        assert set(alone["swing_L"]) == {5, 13}
        assert len(alone) > np.count_nonzero(together["source"] == channel) > 0


# --- a planted market, once ------------------------------------------------------------------------------------------


class Market:
    """The holdout of one simulated market, with the detector's own setting."""

    def __init__(self, kind: Any, n_bars: int, seed: int) -> None:
        bars = market.simulate_bars(market.MarketSpec(kind=kind, n_bars=n_bars), seed).bars
        self.cut = make_cut({"A": bars}, 1_000, 0.5, 700)
        self.parts = [SymbolPart("A", self.cut.holdout_bars(bars))]
        self.params = DetectorParams()
        events, rows = find_events(self.params, CLOCK, self.parts[0])
        self.rows = [rows]
        self.whole = evaluate([events], self.rows, (10, 20), 1_000, 0.0, after_ms=self.cut.holdout_start_ms)

    def placebo(self, seed: int = 5) -> tuple[evidence.PlaceboRow, ...]:
        return placebo(
            self.parts,
            self.rows,
            self.whole,
            self.params,
            CLOCK,
            self.cut,
            SMALL,
            min_shift=92,
            n_shifts=200,
            seed=seed,
        )

    def ablation(self) -> tuple[evidence.AblationRow, ...]:
        return ablation(self.rows, self.whole, self.params, self.cut, SMALL, block_ms=92_000, seed=5)


@pytest.fixture(scope="module")
def planted() -> Market:
    return Market("planted", 120_000, 3)


def test_the_placebo_loses_the_edge_of_the_flow(planted: Market) -> None:
    found = planted.placebo()
    for h, row in enumerate(found):
        real = measures.accuracy(planted.whole.hits[:, h])
        assert real.accuracy is not None
        assert row.accuracy.accuracy is not None
        assert row.difference_interval is not None
        assert real.accuracy > 0.6 > 0.55 > row.accuracy.accuracy
        assert row.difference == pytest.approx(real.accuracy - row.accuracy.accuracy)
        assert 0 < row.difference_interval[0] < row.difference < row.difference_interval[1]
        # shuffled flow fires about as often: all shuffles are pooled
        assert 0.8 < row.accuracy.n_judged / (evidence.N_SHUFFLES * real.n_judged) < 1.2


def test_the_placebo_follows_its_seed_and_its_symbol(planted: Market) -> None:
    assert planted.placebo(5) == planted.placebo(5)
    assert planted.placebo(5) != planted.placebo(6)
    renamed = Market("planted", 120_000, 3)
    renamed.parts = [SymbolPart("B", renamed.parts[0].bars)]
    assert renamed.placebo(5) != planted.placebo(5)


def test_the_placebo_is_labelled_by_the_true_prices(planted: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shuffle taken out the placebo is the detector itself, over and over."""
    monkeypatch.setattr(evidence.market, "block_shuffle", lambda bars, *_: bars)
    for h, row in enumerate(planted.placebo()):
        real = measures.accuracy(planted.whole.hits[:, h])
        assert row.accuracy.n_hits == evidence.N_SHUFFLES * real.n_hits
        assert row.difference == pytest.approx(0.0)
        assert row.p == pytest.approx(1 / 201)


def test_ablation_counts_each_source_alone_and_picks_the_better_single_one(planted: Market) -> None:
    for h, row in enumerate(planted.ablation()):
        assert list(row.accuracy) == [*CHANNELS, ALL]
        assert row.accuracy[ALL] == measures.accuracy(planted.whole.hits[:, h])
        single = {name: row.accuracy[name].accuracy or 0.0 for name in CHANNELS[:FUSION]}
        assert row.better == max(single, key=single.__getitem__)
        fused = row.accuracy["FUSION"].accuracy
        assert fused is not None
        assert row.difference == pytest.approx(fused - single[row.better])
        assert row.difference_interval is not None
        assert row.difference_interval[0] < row.difference < row.difference_interval[1]


def test_ablation_without_a_second_source_compares_nothing() -> None:
    bars = random_bars(np.random.default_rng(2), 20_000, kind="trades_only")
    cut = make_cut({"A": bars}, 1_000, 0.3, 100)
    events, rows = find_events(LOOSE, CLOCK, SymbolPart("A", bars))
    whole = evaluate([events], [rows], (10,), 1_000, 0.0, after_ms=cut.holdout_start_ms)
    (row,) = ablation([rows], whole, LOOSE, cut, SMALL, block_ms=60_000, seed=1)
    assert (row.accuracy["OFI_ONLY"].n_events, row.accuracy["FUSION"].n_events) == (0, 0)
    assert row.better == "CVD_ONLY"
    assert (row.difference, row.difference_interval) == (None, None)


# --- periods ---------------------------------------------------------------------------------------------------------


def outcomes(ts_ms: list[int], hit: list[int]) -> Outcomes:
    events = np.zeros(len(ts_ms), EVENT)
    events["ts_ms"] = ts_ms
    hits = np.array(hit, np.int8)[:, None]
    return Outcomes(events, np.zeros(len(ts_ms), np.int64), np.zeros(hits.shape), hits, ((),), (10,))


def feature_rows(ts_ms: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(ts_ms), FEATURE)
    rows["ts_ms"], rows["px"] = ts_ms, 100.0
    return rows


def span(hours: float, bar_ms: int = 900_000) -> tuple[Cut, np.ndarray]:
    start = int(datetime(2024, 3, 5, 22, tzinfo=UTC).timestamp() * 1000)
    end = start + int(hours * HOUR)
    return Cut(start - DAY, start - HOUR, start, end, 4, bar_ms), np.arange(start + bar_ms, end + 1, bar_ms)


@pytest.mark.parametrize(
    ("hours", "unit", "first", "last", "n"),
    [
        (48.0, "hour", "2024-03-05 22:00", "2024-03-07 21:00", 48),
        (48.25, "day", "2024-03-05", "2024-03-07", 3),
        (60 * 24.0, "day", "2024-03-05", "2024-05-04", 61),
        (60 * 24.25, "month", "2024-03", "2024-05", 3),
    ],
)
def test_the_period_follows_the_span(hours: float, unit: str, first: str, last: str, n: int) -> None:
    cut, ts = span(hours)
    found = regimes(outcomes([], []), [feature_rows(ts)], cut)
    assert (found.unit, found.n_periods) == (unit, n)
    assert (found.rows[0].period, found.rows[-1].period) == (first, last)
    assert sum(r.hours for r in found.rows) == pytest.approx(hours)
    assert all(r.n == 0 and r.accuracy is None and r.interval is None and r.share is None for r in found.rows)


def test_periods_count_what_a_plain_loop_counts() -> None:
    cut, ts = span(200.0)
    rng = np.random.default_rng(7)
    when = np.sort(rng.choice(ts, 300, replace=False))
    hit = rng.choice([1, 0, -1, -2], 300, p=[0.5, 0.3, 0.1, 0.1])
    found = regimes(outcomes(when.tolist(), hit.tolist()), [feature_rows(ts), feature_rows(ts[::2])], cut)
    hits: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    for t, h in zip(when, hit, strict=True):
        day = datetime.fromtimestamp((int(t) - 1) / 1000, UTC).strftime("%Y-%m-%d")
        hits[day] += h == 1
        misses[day] += h == 0
    edge = hits.total() - misses.total()
    assert found.unit == "day"
    for row in found.rows:
        k, m = hits[row.period], misses[row.period]
        assert (row.n, row.hits, row.edge) == (k + m, k, k - m)
        assert row.share == pytest.approx((k - m) / edge)
        assert row.interval == measures.wilson_interval(k, k + m)
    assert sum(r.share or 0.0 for r in found.rows) == pytest.approx(1.0)
    assert found.rows[1].hours == pytest.approx(24 * 1.5)  # symbol hours: the second has every other bar


def test_a_bar_that_closes_at_midnight_belongs_to_the_day_before() -> None:
    cut, ts = span(100.0)
    midnight = int(datetime(2024, 3, 7, tzinfo=UTC).timestamp() * 1000)
    found = regimes(outcomes([midnight, midnight + 900_000], [1, 0]), [feature_rows(ts)], cut)
    assert [(r.period, r.n) for r in found.rows if r.n] == [("2024-03-06", 1), ("2024-03-07", 1)]
    assert all(r.share is None for r in found.rows)  # the whole edge is 0


def lines(document: dict[str, Any] | None) -> list[str]:
    return report._regime_lines(document)


def document(ts: list[int], hit: list[int], hours: float) -> dict[str, Any]:
    cut, bars = span(hours)
    return dataclasses.asdict(regimes(outcomes(ts, hit), [feature_rows(bars)], cut))


def test_a_period_with_more_than_half_of_the_edge_is_named() -> None:
    noon = [int(datetime(2024, 3, d, 12, tzinfo=UTC).timestamp() * 1000) for d in (6, 7, 8)]
    carried = [noon[0]] * 6 + [noon[1]] * 2 + [noon[2]] * 2
    assert lines(document(carried, [1] * 6 + [1, 1] + [1, 1], 100.0)) == [
        "One day, 2024-03-06, carries 60 % of the edge after 10 bars: 6 hits and 0 misses, 6 of 10 hits more than "
        "misses."
    ]
    assert lines(document([*noon, *noon], [1] * 6, 100.0)) == []
    assert lines(document(carried, [0] * 10, 100.0)) == []  # no edge, no share of it
    half = [noon[0]] * 2 + [noon[1]] + [noon[2]]
    assert lines(document(half, [1] * 4, 100.0)) == []  # half is not more than half
    assert lines(None) == []


def test_too_few_periods_are_said() -> None:
    start = span(1.0)[0].holdout_start_ms
    (one,) = lines(document([start + 900_000], [1], 1.0))
    assert one == "The holdout spans 1 hour: too few to see whether the edge lasts."
    few, carried = lines(document([start + 900_000] * 3 + [start + 2 * HOUR], [1] * 4, 2.0))
    assert few.startswith("The holdout spans 2 hours: too few")
    assert "carries 75 % of the edge" in carried


# --- buckets ---------------------------------------------------------------------------------------------------------


def nodes_of(source: str) -> list[str]:
    return [source] + [name for b in range(12) if (name := bucket_name(b)).endswith(f"/{source}")]


def rows_of(planted: Market, alpha: float = 0.05, n_shifts: int = 200) -> tuple[BucketRow, ...]:
    return bucket_rows(planted.whole, CONFIG, Pace(16.0, 0.4), min_shift=92, n_shifts=n_shifts, seed=1, alpha=alpha)


def test_every_source_is_tested_as_a_whole_and_in_its_four_buckets(planted: Market) -> None:
    rows = rows_of(planted)
    number = bucket_of(planted.whole.events)
    names = np.array([bucket_name(b) for b in range(12)])[number]
    wanted = [(source, name, h) for source in CHANNELS for name in nodes_of(source) for h in (10, 20)]
    assert len(rows) == 30
    assert [(r.source, r.bucket, r.horizon_bars) for r in rows] == wanted
    for row in rows:
        mine = np.array([row.bucket in (name, name.split("/")[2]) for name in names])
        assert row.accuracy == measures.accuracy(planted.whole.hits[mine, (10, 20).index(row.horizon_bars)])


def test_a_thin_bucket_has_no_decision_and_says_what_it_takes(planted: Market) -> None:
    rows = rows_of(planted)
    decisions = Counter(r.decision for r in rows)
    assert decisions["no decision"] > 0
    assert decisions["passes"] > 0
    assert decisions["does not pass"] > 0
    for row in rows:
        n = row.accuracy.n_judged
        assert row.missing == max(0, 40 - n)
        assert (row.decision == "no decision") == (n < 40) == (row.p is None) == (row.p_corrected is None)
        assert row.wait_hours == (pytest.approx((40 - n) * 16 / n / 0.4) if 0 < n < 40 else None)
        if row.p_corrected is not None:
            passes = row.p_corrected < 0.05 and (row.accuracy.accuracy or 0.0) >= 0.55
            assert row.decision == ("passes" if passes else "does not pass")


def test_p_is_that_of_the_shifts_and_is_corrected_over_the_tree_of_its_source(planted: Market) -> None:
    rows = rows_of(planted)
    number = bucket_of(planted.whole.events)
    for source in CHANNELS:
        tree = [r for r in rows if r.source == source]
        raw = np.array([np.nan if r.p is None else r.p for r in tree]).reshape(5, 2)
        root, leaves = measures.hierarchical(raw[0], raw[1:])
        expected = np.concatenate([root, leaves.ravel()])
        found = np.array([np.nan if r.p_corrected is None else r.p_corrected for r in tree])
        assert np.array_equal(found, expected, equal_nan=True)
    row = next(r for r in rows if r.bucket == "FUSION" and r.horizon_bars == 20)
    of_fusion = planted.whole.select(number % 3 == FUSION)
    shifted = measures.circular_shift_null(of_fusion.panels[1], min_shift=92, n_shifts=200, seed=1, rho=False)
    assert row.p == shifted.accuracy.p


def test_the_least_accuracy_is_that_of_the_level_a_node_is_tested_at(planted: Market) -> None:
    # alpha over two horizons for a source, and a quarter of that for each of its four buckets.
    for row in rows_of(planted):
        level = 0.05 / 2 if row.bucket == row.source else 0.05 / 2 / 4
        n = row.accuracy.n_judged
        if row.minimum_detectable is None:
            assert n == 0 or measures.gate_power(n, 1 - 1e-9, 0.55, level) < 0.8
            continue
        assert measures.gate_power(n, row.minimum_detectable, 0.55, level) >= 0.8
        assert measures.gate_power(n, row.minimum_detectable - 1e-5, 0.55, level) < 0.8


def test_a_smaller_alpha_lets_fewer_buckets_pass(planted: Market) -> None:
    found = [rows_of(planted, alpha, 500) for alpha in (0.05, 1e-6)]
    assert sum(r.decision == "passes" for r in found[1]) == 0 < sum(r.decision == "passes" for r in found[0])
    sharp, strict = ([r.minimum_detectable or 1.0 for r in rows] for rows in found)
    assert all(a <= b for a, b in zip(sharp, strict, strict=True))


# --- the level of a look ---------------------------------------------------------------------------------------------


def test_a_look_is_judged_at_its_own_level_with_shifts_enough_to_reach_it(planted: Market) -> None:
    look = {"number": 4, "n_earlier_looks": 3, "n_searched_before": 0, "simulated": False}
    selected = {"p": 0.03, "edge_kept": None, "n_events": 500, "n_settings": 1, "n_shifts": 2000}
    results = [
        acceptance.accept(
            planted.parts,
            planted.cut,
            planted.params,
            CalibrationMap({}),
            SMALL,
            priors={},
            selected=selected,
            seed=1,
            has_quotes=True,
            has_trades=True,
            **given,
        )
        for given in ({}, {"alpha": 0.05 / 8, "look": look})
    ]
    plain, later = results
    assert (plain.alpha, plain.look) == (0.05, None)
    assert (later.alpha, later.look) == (0.00625, look)
    assert [r.horizons[0].n_shifts for r in results] == [2_000, 16_000]
    judged = [{c.key: c for c in r.verdict.criteria} for r in results]
    # The choice was made on the search part, which no look at the holdout wears out: 0.03 against 0.05 both times.
    assert [j["selection"].status for j in judged] == [measures.Status.PASS] * 2
    assert all("0.0300 against 0.05," in j["selection"].detail for j in judged)
    for key in ("accuracy_10", "monotonicity", "placebo", "bucket_cvd_only"):
        assert "0.05" in judged[0][key].detail
        assert "0.00625" in judged[1][key].detail
    assert judged[1]["accuracy_10"].status is measures.Status.PASS


# --- looks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "alpha", "said"),
    [
        ((1, 0, 0, False), 0.05, "Look number 1 at this holdout: judged at alpha 0.05."),
        (
            (2, 1, 0, False),
            0.025,
            "Look number 2 at this holdout (1 earlier look, 0 searches over its bars): judged at alpha 0.025 instead "
            "of 0.05.",
        ),
        (
            (4, 2, 1, False),
            0.0125,
            "Look number 4 at this holdout (2 earlier looks, 1 search over its bars): judged at alpha 0.0125 instead "
            "of 0.1.",
        ),
        (
            (3, 2, 0, True),
            0.05,
            "Look number 3 at this holdout (2 earlier looks, 0 searches over its bars): judged at alpha 0.05, as "
            "looking at simulated data costs nothing.",
        ),
    ],
)
def test_a_look_says_its_number_and_what_it_costs(look: tuple[int, int, int, bool], alpha: float, said: str) -> None:
    names = ("number", "n_earlier_looks", "n_searched_before", "simulated")
    assert report.look_sentence(dict(zip(names, look, strict=True)), alpha) == said
