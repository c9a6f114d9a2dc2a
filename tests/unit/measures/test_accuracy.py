"""Counts and naive tests against scipy and statsmodels."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from v13.errors import DataError
from v13.measures import accuracy, binomial_p, holm, spearman, spearman_naive_p, wilson_interval

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
