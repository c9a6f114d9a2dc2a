"""Selection on made-up counts: plateaus and folds."""

from __future__ import annotations

import numpy as np
import pytest

from v13 import measures
from v13.detector import DetectorParams
from v13.errors import ConfigError
from v13.measures import Status
from v13.measures.safeguards import judge_plateau
from v13.research import selection
from v13.research.settings import expand_grid

GRID = {"swing_L": [8, 13], "z_hi": [1.2, 1.6, 2.0], "z_mid": [0.4, 0.6, 0.8]}
SETTINGS = expand_grid(DetectorParams(), GRID)


def counts(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    total = np.full((len(share), 2), n)
    return total, np.round(share[:, None] * total).astype(np.int64)


def number(**values: float) -> int:
    return next(s.number for s in SETTINGS if all(s.values[k] == v for k, v in values.items()))


def test_a_spike_among_poor_neighbours_loses_to_a_plateau() -> None:
    share = np.full(len(SETTINGS), 0.50)
    spike = number(swing_L=8, z_hi=1.2, z_mid=0.4)
    share[spike] = 0.70
    for z_hi in GRID["z_hi"]:
        for z_mid in GRID["z_mid"]:
            share[number(swing_L=13, z_hi=z_hi, z_mid=z_mid)] = 0.58
    middle = number(swing_L=13, z_hi=1.6, z_mid=0.6)
    share[middle] = 0.60
    choice = selection.choose(SETTINGS, *counts(share, 1_000), min_events=100)
    assert choice.objective.argmax() == spike
    assert choice.setting == middle


def test_a_poor_setting_does_not_win_on_its_neighbours() -> None:
    share = np.full(len(SETTINGS), 0.6)
    hole = number(swing_L=13, z_hi=1.6, z_mid=0.6)
    share[hole] = 0.4
    choice = selection.choose(SETTINGS, *counts(share, 1_000), min_events=100)
    assert choice.plateau[hole] == choice.objective[hole] == np.nanmin(choice.plateau)


def test_too_few_events_or_a_rate_outside_the_band_is_not_eligible() -> None:
    share = np.full(len(SETTINGS), 0.6)
    few = selection.choose(SETTINGS, *counts(share, 99), min_events=100)
    assert few.setting is None
    assert "100" in few.reason
    rate = np.full(len(SETTINGS), 500.0)
    rate[4] = 50.0
    assert selection.choose(SETTINGS, *counts(share, 200), 100, rate, (10.0, 100.0)).setting == 4


def test_few_events_cannot_shine() -> None:
    n = np.full((len(SETTINGS), 2), 2_000)
    hits = np.round(0.57 * n).astype(np.int64)
    n[0], hits[0] = 110, 66  # 60 %, but of few
    choice = selection.choose(SETTINGS, n, hits, min_events=100)
    assert choice.objective[0] < choice.objective[1]


def test_the_objective_is_the_wilson_bound() -> None:
    n, hits = np.array([[200, 150]] * len(SETTINGS)), np.array([[120, 80]] * len(SETTINGS))
    expected = np.mean([measures.wilson_interval(k, m, 0.9, sides=1)[0] for k, m in ((120, 200), (80, 150))])
    assert selection.choose(SETTINGS, n, hits, 100).objective[0] == pytest.approx(expected, rel=1e-12)


def blocks(share: np.ndarray, n: int, n_blocks: int = 5) -> selection.Counts:
    """Counts with the given share of hits by (setting, bucket), equal in every block."""
    total = np.full((len(SETTINGS), n_blocks, 12, 2), n)
    hits = np.round(share[:, None, :, None] * total).astype(np.int64)
    n_events = np.full((len(SETTINGS), n_blocks), 300)
    return selection.Counts(total, hits, total.sum(axis=1), hits.sum(axis=1), n_events, np.full(n_blocks, 10.0))


def test_neighbours_are_a_step_away_along_real_axes_and_missing_ones_do_not_count() -> None:
    rng = np.random.default_rng(1)
    settings = expand_grid(DetectorParams(), {"swing_L": [8, 13], "z_hi": [0.5, 0.7, 1.0], "z_mid": [0.4, 0.6, 0.8]})
    n = rng.integers(150, 400, (len(settings), 2))
    hits = rng.binomial(n, 0.6)
    choice = selection.choose(settings, n, hits, 100)
    edge = (hits / n).mean(axis=1) - 0.5

    def near(s: int) -> list[int]:
        mine = settings[s]
        return [
            o.number
            for o in settings
            if o.number != s
            and o.coords[0] == mine.coords[0]
            and all(abs(a - b) <= 1 for a, b in zip(o.coords[1:], mine.coords[1:], strict=True))
        ]

    for s in range(len(settings)):
        assert choice.plateau[s] == min(choice.objective[s], np.median(choice.objective[near(s)]))
    assert choice.setting is not None
    assert choice.edge_kept is not None
    assert choice.edge_kept["edge"] == pytest.approx(edge[choice.setting])
    assert choice.edge_kept["n_neighbours"] == len(near(choice.setting))
    assert choice.edge_kept["share"] == pytest.approx(np.median(edge[near(choice.setting)]) / edge[choice.setting])


def test_on_a_fine_grid_neighbours_lie_a_quarter_of_the_axis_away() -> None:
    rng = np.random.default_rng(5)
    uneven = np.sort(np.concatenate([np.linspace(1.0, 1.3, 9), [1.7, 2.9, 3.0]])).tolist()
    settings = expand_grid(DetectorParams(), {"swing_L": [8, 13], "z_hi": uneven, "z_mid": np.linspace(0, 1, 41)})
    n = rng.integers(150, 400, (len(settings), 2))
    choice = selection.choose(settings, n, rng.binomial(n, 0.6), 100)

    def toward(axis: list[float], at: int, sign: int) -> int | None:
        """The first place in one direction that is far enough, looked at one by one."""
        least = (axis[-1] - axis[0]) / 4
        for to in range(at + sign, len(axis) if sign > 0 else -1, sign):
            if abs(axis[to] - axis[at]) >= least - 1e-12:
                return to
        return None

    number_at = {s.coords: s.number for s in settings}
    for s in (settings[i] for i in range(0, len(settings), 7)):
        _, hi, mid = s.coords
        rows = [hi, toward(uneven, hi, -1), toward(uneven, hi, 1)]
        columns = [mid, *(toward(np.linspace(0, 1, 41).tolist(), mid, sign) for sign in (-1, 1))]
        around = {number_at[s.coords[0], i, j] for i in rows for j in columns if (s.coords[0], i, j) in number_at}
        near = np.median(choice.objective[sorted(around - {s.number})])
        assert choice.plateau[s.number] == min(choice.objective[s.number], near)


def test_the_span_of_the_neighbours_is_what_the_criterion_says() -> None:
    settings = expand_grid(
        DetectorParams(), {"swing_L": [8, 13], "z_hi": np.linspace(1, 3, 9).tolist(), "z_mid": [0.4]}
    )
    assert selection.neighbour_span(settings, 4) == [(0, 0), (2, 6), (0, 0)]
    assert selection.neighbour_span(settings, 9) == [(1, 1), (0, 2), (0, 0)]
    hits = np.full((18, 2), 500)
    hits[4] = 700
    choice = selection.choose(settings, np.full((18, 2), 1_000), hits, 100)
    assert choice.edge_kept == {
        "edge": pytest.approx(0.2),
        "share": 0.0,
        "n_neighbours": 2,
        "around": {"z_hi": [1.5, 2.5]},
    }


def test_a_spike_that_is_several_fine_steps_wide_is_still_a_spike() -> None:
    axis = np.linspace(1.0, 3.0, 41)
    settings = expand_grid(DetectorParams(), {"swing_L": [8], "z_hi": axis.tolist(), "z_mid": [0.4]})
    share = np.where(np.abs(axis - 2.0) < 0.12, 0.65, 0.5)  # five values, each of which sees nearly the same events
    n = np.full((41, 2), 1_000)
    choice = selection.choose(settings, n, np.round(share[:, None] * n).astype(np.int64), 100)
    assert choice.setting in range(18, 23)
    assert choice.edge_kept is not None
    assert choice.edge_kept["share"] == pytest.approx(0.0)
    assert judge_plateau(choice.edge_kept, has_choice=True).status is Status.FAIL


def test_a_choice_that_cannot_be_told_from_a_spike_is_not_waved_through() -> None:
    whole = expand_grid(DetectorParams(), {"swing_L": [8, 13], "z_hi": [2.0]})
    choice = selection.choose(whole, np.full((2, 2), 500), np.array([[300, 300], [280, 280]]), 100)
    assert choice.setting == 0
    assert choice.plateau.tolist() == choice.objective.tolist()
    assert choice.edge_kept == {"edge": pytest.approx(0.1), "share": None, "n_neighbours": 0, "around": {}}
    assert judge_plateau(choice.edge_kept, has_choice=True).status is Status.INSUFFICIENT
    alone = selection.choose(whole.subset(np.array([1])), np.full((1, 2), 500), np.full((1, 2), 300), 100)
    assert alone.setting == 0
    assert alone.edge_kept is None
    nothing = selection.choose(whole, np.full((2, 2), 5), np.full((2, 2), 3), 100)
    assert (nothing.setting, nothing.edge_kept) == (None, None)


def test_a_choice_without_an_edge_says_so() -> None:
    choice = selection.choose(SETTINGS, *counts(np.full(len(SETTINGS), 0.48), 500), min_events=100)
    assert choice.edge_kept is not None
    assert (choice.edge_kept["share"], choice.edge_kept["edge"]) == (None, pytest.approx(-0.02))
    assert judge_plateau(choice.edge_kept, has_choice=True).status is Status.FAIL


def test_walk_forward_judges_each_block_by_what_was_chosen_before_it() -> None:
    made = blocks(np.full((len(SETTINGS), 12), 0.5), 20)
    good, late = number(swing_L=8, z_hi=1.6, z_mid=0.6), number(swing_L=13, z_hi=1.6, z_mid=0.6)
    near = [s.number for s in SETTINGS if s.values["swing_L"] == 8]
    made.hits[near] = 12
    made.hits[good] = 13
    made.hits[late, 4] = 20  # brilliant in the last block only: too late to be chosen
    folds = selection.walk_forward(SETTINGS, made, 100, None)
    assert [f.fold for f in folds] == [1, 2, 3, 4]
    assert {f.setting for f in folds} == {good}
    assert all(f.hits == (13 * 12, 13 * 12) and f.n == (240, 240) for f in folds)


def test_a_grid_over_unknown_or_impossible_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="swing"):
        expand_grid(DetectorParams(), {"swing": [1]})
    with pytest.raises(ConfigError, match="z_mid <= z_hi"):
        expand_grid(DetectorParams(), {"z_hi": [0.5], "z_mid": [0.8]})


def test_points_with_z_mid_above_z_hi_are_left_out() -> None:
    settings = expand_grid(DetectorParams(), {"z_hi": [0.5, 1.0], "z_mid": [0.4, 0.8]})
    assert [(s.values["z_hi"], s.values["z_mid"]) for s in settings] == [(0.5, 0.4), (1.0, 0.4), (1.0, 0.8)]
    assert [s.number for s in settings] == [0, 1, 2]


def test_a_fold_is_chosen_by_the_rate_of_its_own_past() -> None:
    made = blocks(np.full((len(SETTINGS), 12), 0.6), 100)
    plain = selection.walk_forward(SETTINGS, made, 100, (10.0, 100.0))
    made.n_events[:, 4] = 100_000  # a burst in the last block makes the rate of the whole search absurd
    assert made.events_per_hour().min() > 100
    assert selection.walk_forward(SETTINGS, made, 100, (10.0, 100.0)) == plain
    assert all(f.setting is not None for f in plain)
