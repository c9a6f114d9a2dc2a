"""A grid judged from sparse candidates against the plain detector, cell by cell and event by event."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from v13 import market, measures
from v13.detector import DecisionParams, DetectorParams, FeatureParams, SessionClock, compute_columns, scanning
from v13.errors import DataError
from v13.research.counting import count_grid, count_slice
from v13.research.execution import Job, judge_grid
from v13.research.grid import Blocks, Slice, plan, scan_symbol
from v13.research.settings import Settings, expand_grid
from v13.research.slices import SliceResult
from v13.research.trials import Outcomes, SymbolPart, bucket_of, evaluate, find_events

CLOCK = SessionClock()
HORIZONS = (5, 9)
BASE = DetectorParams(FeatureParams(window=40), DecisionParams(min_swing_bps=0.0, min_score=20.0))


def made(n_bars: int, seed: int, symbol: str, holes: bool = False) -> SymbolPart:
    bars = market.simulate_bars(market.MarketSpec("planted", n_bars, symbol=symbol), seed).bars
    if holes:  # lost bars, silence, and bars without a price
        rng = np.random.default_rng(seed)
        bars = bars[rng.random(len(bars)) > 0.004].copy()
        bars["mid"][rng.random(len(bars)) < 0.05] = np.nan
        bars["close"][np.isnan(bars["mid"]) & (rng.random(len(bars)) < 0.3)] = np.nan
    return SymbolPart(symbol, bars)


PARTS = [made(4_000, 3, "BTCUSDT", holes=True), made(3_000, 4, "ETHUSDT")]


def blocks_of(parts: Sequence[SymbolPart]) -> Blocks:
    start = min(int(p.bars["ts_ms"][0]) for p in parts) - 1_000
    end = max(int(p.bars["ts_ms"][-1]) for p in parts)
    return Blocks.of(start, end, 3, 16, max(HORIZONS) * 1_000)


def job_of(parts: Sequence[SymbolPart], n_shifts: int = 30, cost_bps: float = 0.0) -> Job:
    n = len(np.unique(np.concatenate([p.bars["ts_ms"] for p in parts])))
    shifts = measures.draw_shifts([n], 50, n_shifts, 1)[:, 0]
    return Job(CLOCK, HORIZONS, blocks_of(parts), shifts, 8, cost_bps, True)


def plain(params: DetectorParams, parts: Sequence[SymbolPart], cost_bps: float = 0.0) -> Outcomes:
    """The detector itself, run at one setting."""
    found = [find_events(params, CLOCK, part) for part in parts]
    return evaluate([f[0] for f in found], [f[1] for f in found], HORIZONS, 1_000, cost_bps)


def by_hand(outcomes: Outcomes, blocks: Blocks) -> dict[str, Any]:
    """Counts of one setting, one event at a time."""
    k = len(blocks.edges) - 1
    n, hits = np.zeros((k, 12, len(HORIZONS)), int), np.zeros((k, 12, len(HORIZONS)), int)
    n_all, hits_all = np.zeros((12, len(HORIZONS)), int), np.zeros((12, len(HORIZONS)), int)
    n_events = np.zeros(k, int)
    buckets = bucket_of(outcomes.events)
    for event, bucket, hit in zip(outcomes.events, buckets, outcomes.hits, strict=True):
        block = next(b for b in range(k) if event["ts_ms"] <= blocks.edges[b + 1] or b == k - 1)
        n_events[block] += 1
        for h, outcome in enumerate(hit):
            if outcome < 0:
                continue
            n_all[bucket, h] += 1
            hits_all[bucket, h] += outcome
            if event["ts_ms"] + blocks.reach_ms <= blocks.edges[block + 1]:
                n[block, bucket, h] += 1
                hits[block, bucket, h] += outcome
    return {"n": n, "hits": hits, "n_all": n_all, "hits_all": hits_all, "n_events": n_events}


def judged(settings: Settings, parts: Sequence[SymbolPart], job: Job, **how: Any) -> list[tuple[Slice, SliceResult]]:
    return judge_grid(settings, parts, job, **how)


AXES = {"z_hi": (0.3, 0.6, 1.0, 1.4, 1.9, 2.5), "z_mid": (0.0, 0.2, 0.5, 0.9)}
GRIDS: list[Mapping[str, tuple[Any, ...]]] = [
    {"swing_L": (1, 2, 5, 8), **AXES, "cooldown_ms": (0, 9_000, 60_000)},
    {"swing_L": (3, 6), "min_score": (20.0, 45.0, 60.0), **AXES, "cooldown_ms": (0,)},
    {
        "window": (30, 50),
        "ema_k": (3, 5),
        "swing_L": (4,),
        "min_swing_bps": (0.0, 2.0),
        "min_separation": (0, 12),
        **AXES,
    },
    {"min_vol_ok": (0.0, 0.6, 0.99), "swing_L": (2, 3), "cooldown_ms": (3_000, 3_001), **AXES},
]


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_every_cell_of_a_large_grid_is_the_detector_at_its_parameters_event_by_event(number: int) -> None:
    settings = expand_grid(BASE, GRIDS[number])
    job = job_of(PARTS)
    checked = 0
    for part, result in judged(settings, PARTS, job):
        assert result.trials is not None
        for place, setting in enumerate(part.numbers):
            outcomes = plain(settings[int(setting)].params, PARTS)
            own = result.trials[result.trials["setting"] == setting]
            assert own["bar"].tolist() == outcomes.events["bar"].tolist()
            assert own["symbol"].tolist() == outcomes.symbol.tolist()
            assert own["ts_ms"].tolist() == outcomes.events["ts_ms"].tolist()
            assert own["side"].tolist() == outcomes.events["side"].tolist()
            assert own["bucket"].tolist() == bucket_of(outcomes.events).tolist()
            assert own["score"].tobytes() == outcomes.events["score"].tobytes()
            assert np.array_equal(own["returns"], outcomes.returns, equal_nan=True)
            for name, value in by_hand(outcomes, job.blocks).items():
                assert np.array_equal(getattr(result, name)[place], value), (name, setting)
            checked += len(own)
    assert checked > 20_000


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_counting_alone_counts_the_same_with_and_without_a_cooldown_that_binds(number: int) -> None:
    settings = expand_grid(BASE, GRIDS[number])
    job = job_of(PARTS)
    full = dict(enumerate(judged(settings, PARTS, job)))
    for i, part in enumerate(plan(settings)):
        scans = [scan_symbol(p.bars, part.features, [part], CLOCK, HORIZONS) for p in PARTS]
        n, hits, n_all, hits_all, n_events = count_slice(part, scans, job.blocks)
        result = full[i][1]
        assert np.array_equal(n, result.n)
        assert np.array_equal(hits, result.hits)
        assert np.array_equal(n_all, result.n_all)
        assert np.array_equal(hits_all, result.hits_all)
        assert np.array_equal(n_events, result.n_events)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("cost_bps", [0.0, 0.2])
def test_a_whole_grid_counted_as_it_is_found_counts_the_same(
    number: int, workers: int, cost_bps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "CHUNK_BARS", 300)  # many chunks, and parts for each thread
    settings = expand_grid(BASE, GRIDS[number])
    job = job_of(PARTS, 2, cost_bps)
    columns = [compute_columns(BASE, p.bars, CLOCK) for p in PARTS]
    assert any(not c.has_all_prices for c in columns)
    counts = count_grid(settings, columns, HORIZONS, job.blocks, cost_bps, workers)
    for part, result in judged(settings, PARTS, job):
        for name, found in zip(("n", "hits", "n_all", "hits_all", "n_events"), counts, strict=True):
            assert np.array_equal(found[part.numbers], getattr(result, name)), name


def test_a_grid_of_several_features_is_not_counted_from_one_set_of_them() -> None:
    with pytest.raises(DataError, match="one set of features"):
        count_grid(expand_grid(BASE, GRIDS[2]), [compute_columns(BASE, PARTS[0].bars)], HORIZONS, blocks_of(PARTS))


def test_the_statistics_of_a_setting_are_those_of_its_own_events() -> None:
    settings = expand_grid(BASE, GRIDS[0])
    job = job_of(PARTS, cost_bps=0.2)
    for part, result in judged(settings, PARTS, job):
        best = np.full(len(job.shifts), -np.inf)
        for place, setting in enumerate(part.numbers):
            outcomes = plain(settings[int(setting)].params, PARTS, 0.2)
            for i, shift in enumerate((0, *job.shifts.tolist())):
                value = statistic(outcomes, shift, 0 if i else job.least_events, 0.2)
                if i == 0:
                    assert result.statistic[place] == value
                elif np.isfinite(result.statistic[place]):  # who takes part is decided by what was observed
                    best[i - 1] = max(best[i - 1], value)
            for h in range(len(HORIZONS)):
                inside = ~np.isnan(outcomes.returns[:, h])
                signed, score = outcomes.signed_returns(h)[inside], outcomes.events["score"][inside]
                if inside.sum() >= 3:
                    assert result.rho[place, h] == pytest.approx(spearmanr(score, signed).statistic, abs=1e-12)
                    assert result.mean_return[place, h] == pytest.approx(signed.mean(), rel=1e-12, abs=1e-18)
                else:
                    assert np.isnan(result.rho[place, h])
            if len(outcomes.events):
                assert result.median_score[place] == np.median(outcomes.events["score"])
            judged_events = (outcomes.hits >= 0).sum(axis=1)
            at = np.clip(np.searchsorted(job.blocks.bin_edges, outcomes.events["ts_ms"], side="left") - 1, 0, 15)
            assert np.array_equal(result.bin_n[place], np.bincount(at, judged_events, 16))
            assert np.array_equal(result.bin_hits[place], np.bincount(at, (outcomes.hits == 1).sum(axis=1), 16))
        assert np.array_equal(result.null, best)
    assert np.isfinite(result.null).any()


def statistic(outcomes: Outcomes, shift: int, least: int, cost_bps: float) -> float:
    total = 0.0
    for panels in outcomes.panels:
        n = good = 0
        for panel in panels:
            moved = np.roll(panel.ret, -shift)[panel.index]
            hit = measures.hits(moved, panel.side, cost_bps)
            n += int((hit >= 0).sum())
            good += int((hit == 1).sum())
        if n < least:
            return -np.inf
        total += (2.0 * good - n) / np.sqrt(n) if n else np.inf
    return float(total / len(outcomes.panels))


def test_symbols_recorded_at_different_times_leave_no_shift_without_a_contestant() -> None:
    late = PARTS[1].bars.copy()
    late["ts_ms"] += 86_400_000
    parts = [PARTS[0], SymbolPart("ETHUSDT", late)]
    settings = expand_grid(BASE, {"swing_L": (8,), "z_hi": (0.6, 1.0), "cooldown_ms": (0,)})
    n = int(judged(settings, parts, job_of(parts))[0][1].n_all.sum(axis=1).min())
    job = dataclasses.replace(job_of(parts, 200), least_events=int(0.9 * n))  # few shifts keep so many labels
    ((_, result),) = judged(settings, parts, job)
    assert np.isfinite(result.statistic).any()
    assert (result.null > -np.inf).all()


def test_threads_change_no_byte() -> None:
    settings = expand_grid(BASE, GRIDS[0])
    job = job_of(PARTS)
    for (_, alone), (_, shared) in zip(
        judged(settings, PARTS, job), judged(settings, PARTS, job, workers=3), strict=True
    ):
        assert same(alone, shared)


def same(a: SliceResult, b: SliceResult) -> bool:
    return all(
        np.asarray(getattr(a, f.name)).tobytes() == np.asarray(getattr(b, f.name)).tobytes()
        for f in dataclasses.fields(SliceResult)
    )


def test_every_setting_lies_in_one_slice_and_an_incomplete_grid_is_judged_as_well() -> None:
    settings = expand_grid(
        BASE, {"z_hi": (0.4, 0.8), "z_mid": (0.2, 0.6), "swing_L": (3, 5), "cooldown_ms": (0, 9_000)}
    )
    numbers = np.concatenate([part.numbers for part in plan(settings)])
    assert sorted(numbers.tolist()) == list(range(len(settings)))
    assert len(settings) == 3 * 4  # z_mid 0.6 with z_hi 0.4 is left out
    few = settings.subset(np.array([7, 2, 5]))
    whole = {int(n): (r, i) for part, r in judged(settings, PARTS, job_of(PARTS)) for i, n in enumerate(part.numbers)}
    for part, result in judged(few, PARTS, job_of(PARTS)):
        for i, n in enumerate(part.numbers):
            other, place = whole[[7, 2, 5][int(n)]]
            assert np.array_equal(result.n_all[i], other.n_all[place])


def test_settings_build_the_parameters_of_their_point() -> None:
    axes = {"swing_L": (3, 5), "window": (30, 40), "z_hi": (1.0, 2.0)}
    settings = expand_grid(BASE, axes)
    for setting, values in zip(settings, itertools.product(*axes.values()), strict=True):
        assert tuple(setting.values.values()) == values
        assert (setting.params.decision.swing_L, setting.params.features.window, setting.params.decision.z_hi) == values
    assert len(settings.features()) == 2
    assert settings[-1].number == 7
    with pytest.raises(IndexError):
        settings[8]


def test_a_market_without_candidates_gives_zeros() -> None:
    quiet = SymbolPart("BTCUSDT", PARTS[0].bars[:60])
    settings = expand_grid(BASE, {"z_hi": (0.4, 0.8)})
    ((_, result),) = judged(settings, [quiet], job_of([quiet], 5))
    assert result.n_all.sum() == 0
    assert np.isnan(result.rho).all()
    assert result.trials is not None
    assert len(result.trials) == 0
