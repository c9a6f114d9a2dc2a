"""The compiled loops of a grid against the same thing written naively, on settings in no particular grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from v13.research import grid_kernel, statistic_kernel
from v13.research.grid import parents
from v13.research.slices import _ranking


def naive_events(
    bars: list[list[int]], tracks: list[list[int]], ts: np.ndarray, passed: np.ndarray, coord: np.ndarray, cooldown: int
) -> list[int]:
    """The rule as one says it: the best candidate that passes speaks, then its side is silent for a while."""
    events = []
    for track in tracks:
        last = None
        for g in track:
            fits = [k for k in bars[g] if (passed[k] > coord).all()]
            if fits and (last is None or ts[fits[0]] - last >= cooldown):
                events.append(fits[0])
                last = ts[fits[0]]
    return events


def counted(
    first: np.ndarray, track: np.ndarray, ts: np.ndarray, passed: np.ndarray, coords: np.ndarray, cooldown: int
) -> np.ndarray:
    """Count into a block of its own for each candidate, none of them judged: what is counted is then who speaks."""
    n, n_axes = passed.shape
    ts_ms = ts[first[:-1]] + np.repeat(np.arange(len(track) - 1) * (np.ptp(ts) + cooldown), np.diff(track))
    by_value = passed.argsort(axis=0, kind="stable").T.astype(np.int32)
    value_start = np.array([np.searchsorted(np.sort(passed[:, d]), np.arange(7)) for d in range(n_axes)])
    bar_of = np.repeat(np.arange(len(first) - 1, dtype=np.int32), np.diff(first))
    block, nothing = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
    facts = (block, nothing.astype(np.int8), nothing, np.full((n, 1), -1, np.int8), n)
    table = np.zeros((len(coords), (n + 1) * 12 + n), np.int64)
    who = (first, bar_of, ts_ms, passed, np.ascontiguousarray(by_value), value_start, coords)
    grid_kernel.count_silenced(*who, *parents(coords), cooldown, *facts, table)
    return table[:, -n - 24 :]


@pytest.mark.parametrize("cooldown", [0, 7, 60, 10_000])
@pytest.mark.parametrize("full", [True, False])
def test_events_listed_from_a_neighbour_are_those_listed_from_nothing(cooldown: int, full: bool) -> None:
    rng = np.random.default_rng(cooldown + full)
    n_neighbours = n_changes = 0
    for _ in range(12):
        n_bars, n_tracks = int(rng.integers(1, 120)), int(rng.integers(1, 6))
        sizes = rng.integers(1, 4, n_bars)
        first = np.concatenate([[0], np.cumsum(sizes)])
        bars = [list(range(first[g], first[g + 1])) for g in range(n_bars)]
        track = np.concatenate([[0], np.sort(rng.integers(0, n_bars + 1, n_tracks - 1)), [n_bars]])
        tracks = [list(range(track[i], track[i + 1])) for i in range(n_tracks)]
        ts = np.concatenate([np.repeat(np.cumsum(rng.integers(1, 9, len(t))), sizes[t]) for t in tracks if t])
        shape = (5, 4, 3)
        passed = np.column_stack([rng.integers(0, n + 1, first[-1]) for n in shape]).astype(np.int32)
        coords = np.array(list(np.ndindex(shape)), np.int32)
        if not full:
            coords = coords[np.sort(rng.choice(len(coords), 25, replace=False))]
        parent, _ = parents(coords)
        n_neighbours += (parent >= 0).sum()
        assert all((coords[p] <= coords[s]).all() and p < s for s, p in enumerate(parent) if p >= 0)
        s = len(coords)
        table = counted(first, track, ts, passed, coords, cooldown)
        start, chain, origin = np.empty(s + 1, np.int64), np.empty(s + 1, np.int64), np.empty(s, np.int64)
        event, entry = np.empty(s * n_bars, np.int32), np.empty((s + 2) * n_bars, np.int32)
        bar_of = np.repeat(np.arange(n_bars, dtype=np.int32), sizes)
        facts = (first, bar_of, track, ts, passed, coords, parent, cooldown)
        grid_kernel.list_events(*facts, start, event, origin, chain, entry)
        found: list[set[int]] = []
        for i in range(s):
            own = event[start[i] : start[i + 1]].tolist()
            assert own == naive_events(bars, tracks, ts, passed, coords[i], cooldown)
            assert np.flatnonzero(table[i, 24:]).tolist() == own
            assert table[i].sum() == len(own)
            members = set(found[origin[i]]) if origin[i] >= 0 else set()
            for change in entry[chain[i] : chain[i + 1]].tolist():
                if change >= 0:
                    assert change not in members
                    members.add(change)
                else:
                    members.remove(-1 - change)
            assert members == set(own)
            assert chain[i + 1] - chain[i] <= len(own)
            n_changes += origin[i] >= 0
            found.append(members)
    assert n_neighbours > 100
    assert n_changes > 50


def test_in_a_full_grid_every_setting_but_the_first_has_a_neighbour_one_step_away() -> None:
    coords = np.array(list(np.ndindex(4, 3, 5)), np.int32)
    parent, axis = parents(coords)
    assert parent[0] == -1
    assert (coords[np.arange(1, 60), axis[1:]] - coords[parent[1:], axis[1:]] == 1).all()
    assert ((coords[1:] - coords[parent[1:]]).sum(axis=1) == 1).all()


@pytest.mark.parametrize("n_values", [3, 40, 10**9])
def test_rank_correlations_are_scipys_with_ties_and_missing_returns(n_values: int) -> None:
    rng = np.random.default_rng(n_values)
    score = np.round(rng.uniform(40, 100, 900), 1)
    signed = rng.integers(0, n_values, 900).astype(np.float64)
    signed[rng.random(900) < 0.1] = np.nan
    sizes = [900, 300, 64, 3, 2, 0, 128]
    event = np.concatenate([np.sort(rng.choice(900, n, replace=False)) for n in sizes]).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(sizes)])
    rho = np.empty(len(sizes))
    statistic_kernel.rank_correlations(start, event, _ranking(score, signed), rho)
    for i in range(len(sizes)):
        own = event[start[i] : start[i + 1]]
        own = own[~np.isnan(signed[own])]
        if len(own) < 3 or len(set(signed[own])) == 1:
            assert np.isnan(rho[i])
        else:
            assert rho[i] == pytest.approx(spearmanr(score[own], signed[own]).statistic, abs=1e-12)
