"""Counts and naive tests against scipy and statsmodels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, spearmanr
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from v13.errors import DataError
from v13.measures import (
    accuracy,
    binomial_p,
    hierarchical,
    holm,
    spearman,
    spearman_naive_p,
    wilson_interval,
    wilson_intervals,
)

F64 = NDArray[np.float64]

COUNTS = [(0, 1), (1, 1), (0, 40), (40, 40), (23, 40), (275, 500), (5_300, 10_000)]


def test_ties_and_unlabelled_events_are_counted_and_left_out() -> None:
    found = accuracy(np.array([1, 1, 0, -1, -2, -2, 1], np.int8))
    assert (found.n_events, found.n_hits, found.n_misses, found.n_ties, found.n_unlabelled) == (7, 3, 1, 1, 2)
    assert found.accuracy == 0.75
    assert found.n_judged == 4


def test_no_judged_event_has_no_accuracy() -> None:
    assert accuracy(np.array([-1, -2], np.int8)).accuracy is None
    assert accuracy(np.zeros(0, np.int8)).n_events == 0


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(DataError, match="hit"):
        accuracy(np.array([1, 2], np.int8))


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(k: int, n: int, confidence: float) -> None:
    expected = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("sides", [1, 2])
def test_wilson_is_that_of_scipy_for_one_side_and_for_two(k: int, n: int, sides: Literal[1, 2]) -> None:
    low = binomtest(k, n, alternative="greater" if sides == 1 else "two-sided").proportion_ci(0.9, "wilson").low
    high = binomtest(k, n, alternative="less" if sides == 1 else "two-sided").proportion_ci(0.9, "wilson").high
    assert wilson_interval(k, n, 0.9, sides) == pytest.approx((low, high), abs=1e-12)


def test_nothing_seen_bounds_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_many_wilson_intervals_are_each_that_of_one_share(confidence: float) -> None:
    k, n = np.array([*COUNTS, (0, 0)], np.int64).T
    low, high = wilson_intervals(k.reshape(2, 4), n.reshape(2, 4), confidence)
    assert low.shape == high.shape == (2, 4)
    for i, (hits, of) in enumerate(COUNTS):
        assert (low.flat[i], high.flat[i]) == pytest.approx(wilson_interval(hits, of, confidence), abs=1e-15)
    assert low.flat[0] == 0.0  # exactly, as for one share: 0 of 1
    assert high.flat[1] == 1.0  # 1 of 1
    assert math.isnan(low.flat[-1])  # 0 of 0
    assert math.isnan(high.flat[-1])


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("p0", [0.5, 0.47])
def test_binomial_p_is_that_of_scipy(k: int, n: int, p0: float) -> None:
    assert binomial_p(k, n, p0) == pytest.approx(binomtest(k, n, p0, "greater").pvalue, rel=1e-12)


def test_fifty_events_need_64_percent() -> None:
    # FIELD: at n = 50, p < 0.05 needs 64 %.
    assert binomial_p(32, 50) < 0.05 < binomial_p(31, 50)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(DataError):
        wilson_interval(k, n)
    with pytest.raises(DataError):
        binomial_p(k, n)


def test_holm_by_hand() -> None:
    # 0.01 * 4 = 0.04; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, held at 0.06 by the one before.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.02])), [0.06, 0.04, 0.06, 0.06], rtol=1e-15)


@settings(max_examples=25)  # statsmodels takes a tenth of a second each time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_holm_is_that_of_statsmodels_and_passes_over_the_untested(values: list[float], holes: list[int]) -> None:
    expected = multipletests(values, method="holm")[1]
    np.testing.assert_allclose(holm(np.array(values)), expected, rtol=1e-12)
    with_holes = list(values)
    for at in holes:
        with_holes.insert(at, math.nan)
    found = holm(np.array(with_holes))
    assert np.isnan(found).tolist() == np.isnan(with_holes).tolist()
    np.testing.assert_allclose(found[~np.isnan(found)], expected, rtol=1e-12)


def test_holm_of_nothing_tested_is_nothing() -> None:
    assert np.isnan(holm(np.array([math.nan, math.nan]))).all()
    assert holm(np.zeros(0)).size == 0


def test_holm_refuses_what_is_no_p() -> None:
    with pytest.raises(DataError):
        holm(np.array([0.5, 1.5]))


# --- a source and its buckets ---------------------------------------------------------------------------------------


def test_a_tree_by_hand() -> None:
    # Whole: 0.01 * 2; 0.04 * 1. Parts, of four: 0.001 * 2 * 4 = 0.008, held at 0.02 by the whole; 0.02 * 1 * 4 = 0.08.
    # 0.002 * 1 * 4 where one horizon was not tested; 0.3 * 2 * 4 is more than 1.
    nan = math.nan
    top, below = hierarchical(np.array([0.01, 0.04]), np.array([[0.001, 0.02], [nan, 0.002], [0.3, 0.9], [nan, nan]]))
    np.testing.assert_allclose(top, [0.02, 0.04], rtol=1e-15)
    np.testing.assert_allclose(below, [[0.02, 0.08], [nan, 0.02], [1.0, 1.0], [nan, nan]], rtol=1e-15)


def rejected_by_hand(p: list[float], level: float) -> list[bool]:
    """Holm as it is told: the smallest at level / m, the next at level / (m - 1), until one is not rejected."""
    found = [False] * len(p)
    left = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    while left and left[0][0] * len(left) <= level:
        found[left.pop(0)[1]] = True
    return found


P_OR_NAN = st.one_of(
    st.integers(0, 200).map(lambda i: i / 2_000), st.integers(0, 10).map(lambda i: i / 10), st.just(math.nan)
)


@given(
    st.integers(1, 3).flatmap(lambda h: st.lists(st.lists(P_OR_NAN, min_size=h, max_size=h), min_size=1, max_size=5)),
    st.integers(1, 199),
)
def test_a_tree_rejects_what_going_down_it_rejects(p: list[list[float]], step: int) -> None:
    level = step / 200 + 1.7e-5  # no multiple of any p
    root, leaves = p[0], p[1:]
    top, below = hierarchical(np.array(root), np.array(leaves).reshape(len(leaves), len(root)))
    of_root = rejected_by_hand(root, level)
    nothing = [False] * len(root)
    of_leaves = [rejected_by_hand(leaf, level / len(leaves)) if any(of_root) else nothing for leaf in leaves]
    assert (top <= level).tolist() == of_root
    assert (below <= level).tolist() == of_leaves
    assert np.isnan(top).tolist() == np.isnan(root).tolist()
    if not np.isnan(top).all():
        assert np.isnan(below).tolist() == [np.isnan(leaf).tolist() for leaf in leaves]


def test_parts_of_a_whole_that_was_not_tested_are_not_tested() -> None:
    top, below = hierarchical(np.array([math.nan, math.nan]), np.full((4, 2), 1e-6))
    assert np.isnan(top).all()
    assert below.shape == (4, 2)
    assert np.isnan(below).all()


def test_a_whole_without_parts_is_corrected_by_holm_alone() -> None:
    top, below = hierarchical(np.array([0.01, 0.04]), np.zeros((0, 2)))
    assert top.tolist() == holm(np.array([0.01, 0.04])).tolist()
    assert below.shape == (0, 2)


@pytest.mark.parametrize(("root", "leaves"), [([1.5], [[0.1]]), ([0.1], [[-0.1]])])
def test_a_tree_refuses_what_is_no_p(root: list[float], leaves: list[list[float]]) -> None:
    with pytest.raises(DataError):
        hierarchical(np.array(root), np.array(leaves))


def tree_of_noise(rng: np.random.Generator, edge: F64) -> tuple[F64, F64]:
    """One-sided p of four parts at two horizons that share most of their noise, and of their sum; edge (4,) in sd."""
    z = edge[:, None] + (0.8 * rng.standard_normal((4, 1)) + 0.6 * rng.standard_normal((4, 2)))
    return norm.sf(z.sum(axis=0) / 2), norm.sf(z)


# 99.9 % of binomial draws of 4,000 at 5 % lie below 6.2 %.
N_TREES, MOST = 4_000, 0.062


def test_noise_passes_in_a_tree_as_often_as_alpha_allows() -> None:
    rng = np.random.default_rng(31)
    passed = 0
    for _ in range(N_TREES):
        top, below = hierarchical(*tree_of_noise(rng, np.zeros(4)))
        passed += bool(top.min() <= 0.05 or below.min() <= 0.05)
    assert 0.02 <= passed / N_TREES <= MOST  # Holm over correlated horizons falls short of 5 %


@pytest.mark.parametrize("n_real", [1, 3])
def test_a_real_bucket_does_not_carry_the_others_over(n_real: int) -> None:
    # Once the whole has passed by a real edge, the parts without one still pass one time in twenty at most.
    rng = np.random.default_rng([32, n_real])
    wrong = seen = 0
    for _ in range(N_TREES):
        top, below = hierarchical(*tree_of_noise(rng, np.where(np.arange(4) < n_real, 14.0, 0.0)))
        seen += bool(top.min() <= 0.05)
        wrong += bool(below[n_real:].min() <= 0.05)
    assert seen == N_TREES
    assert 0.001 <= wrong / N_TREES <= MOST


def test_a_whole_pays_nothing_for_being_looked_at_in_parts() -> None:
    # An edge spread over all buckets: the tree sees it far more often than Holm over all ten pairs does.
    rng = np.random.default_rng(33)
    by_tree = by_holm = 0
    for _ in range(1_000):
        root, leaves = tree_of_noise(rng, np.full(4, 1.1))
        by_tree += bool(hierarchical(root, leaves)[0].min() <= 0.05)
        by_holm += bool(holm(np.concatenate([root, leaves.ravel()])).min() <= 0.05)
    assert by_tree > by_holm + 150, (by_tree, by_holm)


# --- rank correlation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_spearman_and_its_p_are_those_of_scipy_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(rng.uniform(40, 100, 300), -seed // 2 + 1)
    y = np.round(0.01 * x + rng.standard_normal(300), 1)
    expected = spearmanr(x, y, alternative="greater")
    assert spearman(x, y) == pytest.approx(expected.statistic, abs=1e-12)
    assert spearman_naive_p(x, y) == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(("x", "y"), [([1.0, 2.0], [1.0, 2.0]), ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0]), ([], [])])
def test_an_undefined_correlation_is_nan_without_a_warning(x: list[float], y: list[float]) -> None:
    assert math.isnan(spearman(np.array(x), np.array(y)))
    assert spearman_naive_p(np.array(x), np.array(y)) is None


def test_a_perfect_order_has_p_zero_or_one() -> None:
    x = np.arange(9.0)
    assert (spearman(x, x), spearman_naive_p(x, x)) == (1.0, 0.0)
    assert (spearman(x, -x), spearman_naive_p(x, -x)) == (-1.0, 1.0)


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([1.0, math.nan, 2.0], [1.0, 2.0, 3.0])])
def test_spearman_refuses_nan_and_unequal_lengths(x: list[float], y: list[float]) -> None:
    with pytest.raises(DataError):
        spearman(np.array(x), np.array(y))
