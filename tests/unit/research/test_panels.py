"""Symbols recorded at different times: how they lie on common times, and how often both gates pass noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13 import market, measures
from v13.detector import DecisionParams, DetectorParams, FeatureParams, SessionClock
from v13.detector.dtypes import EVENT, FEATURE
from v13.measures import panel
from v13.research import panels, statistic_kernel
from v13.research.execution import Job, judge_grid
from v13.research.grid import Blocks, SymbolScan
from v13.research.settings import expand_grid
from v13.research.trials import Outcomes, SymbolPart, evaluate, find_events

HORIZONS, MIN_SHIFT, BAR_MS, N = (5, 10), 40, 1_000, 2_000
LEVELS = tuple((a, b) for a in (0.0, 0.2, 0.4, 0.6) for b in (0.0, 0.2, 0.4, 0.6))  # 16 nested settings
SPANS = {
    "common": [(0, N)] * 2,
    "disjoint": [(i * N, (i + 1) * N) for i in range(4)],
    "half": [(i * N // 2, i * N // 2 + N) for i in range(4)],
    "nine tenths": [(0, N), (N // 10, N // 10 + N)],
    "a third as long": [(0, N), (0, N // 3), (N // 2, N // 2 + N // 3)],
}
N_RUNS = 400
SIZE_LOW, SIZE_HIGH = 7, 35  # 99.9 % of binomial draws of 400 at 5 % lie in 7..35


@dataclass(frozen=True)
class Noise:
    """Random walks and clustered events that know nothing of them; bar, side (k,) of each symbol, reached (K, 2)."""

    scans: list[SymbolScan]
    bar: list[np.ndarray]
    side: list[np.ndarray]
    reached: np.ndarray

    @property
    def symbol(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.bar), dtype=np.int32), [len(b) for b in self.bar])


def noise(rng: np.random.Generator, spans: list[tuple[int, int]], correlation: float) -> Noise:
    """Symbols that share most of their returns share their events too."""
    length = max(b for _, b in spans)
    common = rng.standard_normal(length)

    def train() -> tuple[np.ndarray, np.ndarray]:
        centre = np.sort(rng.choice(length, length // 80, replace=False))
        index = centre[:, None] + np.cumsum(rng.integers(1, 4, (len(centre), 4)), axis=1)
        side = np.broadcast_to(rng.choice([-1, 1], len(centre))[:, None], index.shape)
        index, first = np.unique(index, return_index=True)
        return index[index < length], side.ravel()[first][index < length]

    shared = train()
    reached_by_all = rng.random((len(shared[0]), 2))
    scans, bar, side, reached = [], [], [], []
    for a, b in spans:
        steps = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.standard_normal(length)
        index, way = shared if correlation else train()
        own = reached_by_all if correlation else rng.random((len(index), 2))
        inside = (index >= a) & (index < b)
        times = np.arange(a, b, dtype=np.int64) * BAR_MS
        px = np.exp(np.cumsum(1e-4 * steps[a:b]))
        scans.append(SymbolScan(times, px, np.zeros(b - a, np.int32), HORIZONS, {}))
        bar.append((index[inside] - a).astype(np.int32))
        side.append(way[inside].astype(np.int32))
        reached.append(own[inside])
    return Noise(scans, bar, side, np.concatenate(reached))


def gate(made: Noise, shifts: np.ndarray, workers: int = 1, least: float = 20.0) -> measures.MaxNull:
    """Judge nested settings as a search does."""
    laid = panels.lay_out(made.scans, made.symbol, np.concatenate(made.bar), np.concatenate(made.side), shifts, 0.0)
    events = [np.flatnonzero((made.reached >= level).all(axis=1)).astype(np.int32) for level in LEVELS]
    start = np.cumsum([0, *map(len, events)]).astype(np.int64)
    event = np.concatenate(events)
    links = np.full(len(start) - 1, -1), start, event  # each setting from nothing
    statistic, null = np.empty(len(LEVELS)), np.full(len(shifts), -np.inf)
    at_zero, everyone = np.zeros((1, panels.n_runs(shifts)), np.int64), np.ones(len(LEVELS), np.int8)
    statistic_kernel.null_maximum(*laid, *links, at_zero, least, everyone, statistic, np.full(1, -np.inf))
    panels.null_of_maximum(*laid, *links, shifts, np.isfinite(statistic).astype(np.int8), null, workers)
    return measures.against_maximum(statistic, null, MIN_SHIFT)


def drawn(made: Noise, n_shifts: int = 99) -> np.ndarray:
    return panels.draw_shifts([s.ts_ms for s in made.scans], HORIZONS, MIN_SHIFT, n_shifts, 7)


def holdout(made: Noise) -> Outcomes:
    """The events of the loosest setting labelled as acceptance does."""
    events, rows = [], []
    for scan, bar, side in zip(made.scans, made.bar, made.side, strict=True):
        row, event = np.zeros(len(scan.ts_ms), FEATURE), np.zeros(len(bar), EVENT)
        row["ts_ms"], row["px"] = scan.ts_ms, scan.px
        event["bar"], event["side"], event["ts_ms"] = bar, side, scan.ts_ms[bar]
        event["score"] = np.arange(len(bar)) % 7
        rows.append(row)
        events.append(event)
    return evaluate(events, rows, HORIZONS, BAR_MS, 0.0)


@given(st.lists(st.sets(st.integers(0, 60), max_size=40), min_size=1, max_size=4))
def test_common_times_are_those_of_any_symbol(times: list[set[int]]) -> None:
    own = [np.array(sorted(t), np.int64) for t in times]
    found = panels.common_times(own)
    assert found.dtype == np.int64
    assert found.tolist() == sorted(set().union(*times))


@pytest.mark.parametrize("spans", [SPANS["half"], SPANS["disjoint"], [(0, N), (0, 700)], [(0, N), (0, N - 90)]])
def test_the_maximum_over_runs_is_what_a_plain_version_gives(spans: list[tuple[int, int]]) -> None:
    made = noise(np.random.default_rng(5), spans, 0.0)
    shifts = drawn(made, 20)
    edges = sorted({0} | {x for s in spans for x in s})
    if edges[1:] == [N - 90, N]:
        edges = [0, N]  # too short a run for itself
    assert shifts.shape == (20, len(edges) - 1)
    assert (shifts >= MIN_SHIFT).all()
    assert (shifts <= np.diff(edges) - MIN_SHIFT).all()
    found = gate(made, shifts, least=1.0)
    assert gate(made, shifts, workers=3, least=1.0).null.tobytes() == found.null.tobytes()
    bar, side = np.concatenate(made.bar), np.concatenate(made.side)

    def best(shift: np.ndarray) -> list[float]:
        values = []
        for level in LEVELS:
            total = 0.0
            for h in HORIZONS:
                n = hits = 0
                for k in np.flatnonzero((made.reached >= level).all(axis=1)):
                    a, b = spans[made.symbol[k]]
                    at = a + bar[k]
                    (g,) = (g for g in range(len(edges) - 1) if edges[g] <= at < edges[g + 1])
                    at = edges[g] + (at - edges[g] + shift[g]) % (edges[g + 1] - edges[g])
                    if not a <= at < b - h:
                        continue
                    px = made.scans[made.symbol[k]].px
                    n, hits = n + 1, hits + (side[k] * (px[at - a + h] / px[at - a] - 1) > 0)
                total += (2 * hits - n) / np.sqrt(n)
            values.append(total / len(HORIZONS))
        return values

    assert found.statistic == pytest.approx(best(np.zeros(len(edges), int)), rel=1e-12)
    assert found.null == pytest.approx([max(best(shift)) for shift in shifts], rel=1e-12)


def test_symbols_over_common_times_move_along_all_of_them_bit_for_bit() -> None:
    made = noise(np.random.default_rng(6), [(0, N), (0, N), (20, N - 30)], 0.0)
    shifts = drawn(made)
    assert np.array_equal(shifts, measures.draw_shifts([N], MIN_SHIFT, 99, 7))
    assert gate(made, shifts).null.tobytes() == gate(made, shifts[:, 0]).null.tobytes()


def test_no_bars_leave_nothing_to_shift() -> None:
    assert panels.draw_shifts([np.empty(0, np.int64)], HORIZONS, MIN_SHIFT, 99, 7).shape == (0, 1)


@pytest.mark.parametrize(
    ("spans", "correlation"),
    [
        ("common", 0.95),
        ("disjoint", 0.0),
        ("half", 0.0),
        ("half", 0.95),
        ("nine tenths", 0.95),
        ("a third as long", 0.95),
    ],
)
def test_both_gates_pass_noise_as_often_as_they_say(spans: str, correlation: float) -> None:
    """Shifted along all common times, disjoint and half overlapping symbols never passed: see the next test."""
    by_gate, by_accuracy = passed(spans, correlation, N_RUNS)
    assert SIZE_LOW <= by_gate <= SIZE_HIGH
    assert SIZE_LOW <= by_accuracy <= SIZE_HIGH


def passed(spans: str, correlation: float, n_runs: int) -> tuple[int, int]:
    by_gate = by_accuracy = 0
    for seed in range(n_runs):
        made = noise(np.random.default_rng([seed, 11]), SPANS[spans], correlation)
        found = gate(made, drawn(made))
        by_gate += found.p[found.statistic.argmax()] <= 0.05
        alone = measures.circular_shift_null(
            holdout(made).panels[1], min_shift=MIN_SHIFT, n_shifts=99, seed=seed, rho=False
        )
        assert alone.accuracy.p is not None
        by_accuracy += alone.accuracy.p <= 0.05
    return by_gate, by_accuracy


@pytest.mark.parametrize("spans", ["disjoint", "half"])
def test_along_all_common_times_symbols_of_different_times_could_hardly_pass(
    spans: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs mend: one run of everything, and events lose their labels under a shift."""
    monkeypatch.setattr(panel, "LEAST_RUN_SHIFTS", 10**6)
    assert max(passed(spans, 0.95, 60)) == 0


def test_a_search_moves_symbols_of_different_times_as_acceptance_does() -> None:
    """Every setting of a real search against the pieces its own events fall into, moved one at a time."""
    clock, base = SessionClock(), DetectorParams(FeatureParams(window=40), DecisionParams(min_score=20.0))
    parts = []
    for seed, late_ms in ((3, 0), (4, 1_500_000), (5, 86_400_000)):
        bars = market.simulate_bars(market.MarketSpec("planted", 4_000), seed).bars
        bars["ts_ms"] += late_ms
        parts.append(SymbolPart(f"S{seed}", bars))
    settings = expand_grid(base, {"swing_L": (5,), "z_hi": (0.6, 1.0, 1.4)})
    shifts = panels.draw_shifts([p.bars["ts_ms"] for p in parts], HORIZONS, MIN_SHIFT, 30, 1)
    assert shifts.shape == (30, 4)
    begin, end = int(parts[0].bars["ts_ms"][0]), int(parts[-1].bars["ts_ms"][-1])
    job = Job(clock, HORIZONS, Blocks.of(begin - 1_000, end, 3, 16, 10_000), shifts, 8, 0.0, False)
    ((of, result),) = judge_grid(settings, parts, job)
    best = np.full(len(shifts), -np.inf)
    for number, statistic in zip(of.numbers, result.statistic, strict=True):
        found = [find_events(settings[int(number)].params, clock, part) for part in parts]
        outcomes = evaluate([f[0] for f in found], [f[1] for f in found], HORIZONS, BAR_MS, 0.0)
        values = np.zeros(len(shifts) + 1)
        for of_horizon in outcomes.panels:
            pieces, lengths, run = panel.in_runs(of_horizon, MIN_SHIFT)
            assert len(lengths) == 4
            for i, shift in enumerate(np.vstack([np.zeros_like(shifts[:1]), shifts])):
                label = np.concatenate(
                    [
                        measures.hits(np.roll(p.ret, -shift[g])[p.index], p.side)
                        for p, g in zip(pieces, run, strict=True)
                    ]
                )
                n, hits = (label >= 0).sum(), (label == measures.HIT).sum()
                values[i] += (2.0 * hits - n) / np.sqrt(n) / len(HORIZONS)
        assert statistic == pytest.approx(values[0], rel=1e-12)
        best = np.maximum(best, values[1:])
    assert result.null == pytest.approx(best, rel=1e-12)
