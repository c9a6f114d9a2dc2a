"""Runs of common times: where they are cut, what is merged, and a shift within them against a plain version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from v13.errors import DataError
from v13.measures import Panel, circular_shift_null, draw_shifts
from v13.measures.panel import LEAST_RUN_SHIFTS, in_runs, merge_runs, recorded_runs

N, LATE = 3_000, 1_200  # two symbols of 3,000 bars, the second 1,200 later


def symbols(rng: np.random.Generator, spans: list[tuple[int, int]], k: int = 120) -> list[Panel]:
    """Panels on common times: labels and events within each span alone."""
    length = max(b for _, b in spans)
    starts = recorded_runs([np.arange(a, b) for a, b in spans], length, 100)
    found = []
    for a, b in spans:
        ret = np.full(length, np.nan)
        ret[a:b] = rng.standard_normal(b - a)
        index = rng.choice(np.arange(a, b), k)  # in no order: the events of several shuffles come one after the other
        found.append(Panel(ret, index, rng.choice([-1, 1], k), rng.random(k), starts))
    return found


def test_time_is_cut_where_a_symbol_sets_in_or_stops_and_at_long_holes_alone() -> None:
    whole, late = np.arange(1_000), np.arange(400, 1_000)
    holed = np.delete(np.arange(1_000), np.s_[300:350])
    away = np.delete(np.arange(1_000), np.s_[300:600])
    assert recorded_runs([whole, whole], 1_000, 100).tolist() == [0]
    assert recorded_runs([whole, late], 1_000, 100).tolist() == [0, 400]
    assert recorded_runs([whole, holed], 1_000, 100).tolist() == [0]
    assert recorded_runs([whole, away], 1_000, 100).tolist() == [0, 300, 600]
    assert recorded_runs([whole, np.arange(0)], 1_000, 100).tolist() == [0]
    assert recorded_runs([np.arange(0)], 0, 100).tolist() == [0]


def test_the_shortest_run_is_merged_first_with_its_shorter_neighbour() -> None:
    starts = np.array([0, 100, 110, 500, 530])
    assert merge_runs(starts, 1_000, least=20).tolist() == [0, 110, 500, 530]
    assert merge_runs(starts, 1_000, least=100).tolist() == [0, 110, 530]
    assert merge_runs(starts, 1_000, least=200).tolist() == [0, 530]
    assert merge_runs(starts, 1_000, least=600).tolist() == [0]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(1, 600))
def test_a_number_of_runs_says_which_they_are(sizes: list[int], least: int) -> None:
    starts, length = np.cumsum([0, *sizes[:-1]]), sum(sizes)
    merged = merge_runs(starts, length, least)
    lengths = np.diff(np.append(merged, length))
    assert lengths.min() >= least or len(lengths) == 1
    assert set(merged) <= set(starts.tolist())
    assert merge_runs(starts, length, length + 1, len(merged)).tolist() == merged.tolist()


def test_a_shift_within_runs_is_what_a_plain_version_gives() -> None:
    panels = symbols(np.random.default_rng(1), [(0, N), (LATE, LATE + N)])
    found = circular_shift_null(panels, min_shift=60, n_shifts=150, seed=3)
    runs = [(0, LATE), (LATE, N), (N, LATE + N)]
    shifts = draw_shifts([b - a for a, b in runs], 60, 150, 3)
    assert (shifts >= 60).all()
    assert (shifts <= np.array([b - a for a, b in runs]) - 60).all()
    for shift, share, rho in zip(shifts, found.accuracy.null, found.spearman.null, strict=True):
        score, signed = [], []
        for panel in panels:
            for i, side, value in zip(panel.index, panel.side, panel.score, strict=True):
                (g,) = (g for g, (a, b) in enumerate(runs) if a <= i < b)
                a, b = runs[g]
                signed.append(side * panel.ret[a + (i - a + shift[g]) % (b - a)])
                score.append(value)
        assert not np.isnan(signed).any()  # no event comes to where its symbol was not recorded
        assert share == np.mean(np.array(signed) > 0)
        assert rho == pytest.approx(spearmanr(score, signed).statistic, abs=1e-12)


def test_every_piece_keeps_all_its_labels_and_moves_by_the_least_shift() -> None:
    panels = symbols(np.random.default_rng(2), [(0, N), (LATE, LATE + N), (2 * N, 3 * N)])
    pieces, lengths, run = in_runs(panels, 60)
    assert lengths == [1_200, 1_800, 1_200, 1_800, 3_000]  # between the second and the third nobody is recorded
    assert sum(p.index.size for p in pieces) == sum(p.index.size for p in panels)
    assert [len(p.ret) for p in pieces] == [lengths[g] for g in run]
    assert not np.isnan(np.concatenate([p.ret for p in pieces])).any()
    assert min(lengths) >= LEAST_RUN_SHIFTS * 60


@pytest.mark.parametrize("spans", [[(0, N)] * 3, [(0, N), (0, N - 50), (30, N)], [(0, N), (100, 400)]])
def test_symbols_recorded_over_nearly_the_same_time_move_along_all_of_it_bit_for_bit(
    spans: list[tuple[int, int]],
) -> None:
    panels = symbols(np.random.default_rng(3), spans)
    plain = [replace(p, starts=None) for p in panels]
    a, b = (circular_shift_null(x, min_shift=60, n_shifts=100, seed=1) for x in (panels, plain))
    assert a.accuracy.null.tobytes() == b.accuracy.null.tobytes()
    assert a.spearman.null.tobytes() == b.spearman.null.tobytes()
    assert (a.accuracy.p, a.spearman.p, a.n_shifts) == (b.accuracy.p, b.spearman.p, b.n_shifts)


def test_panels_of_one_null_have_the_same_runs() -> None:
    a, b = symbols(np.random.default_rng(4), [(0, N), (LATE, LATE + N)])
    with pytest.raises(DataError, match="same runs"):
        circular_shift_null([a, replace(b, starts=np.array([0]))], min_shift=60, n_shifts=10, seed=1)
    with pytest.raises(DataError, match="same runs"):
        circular_shift_null([replace(a, starts=None), b], min_shift=60, n_shifts=10, seed=1)
