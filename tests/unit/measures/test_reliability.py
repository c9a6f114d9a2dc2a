"""Calibration measures against scikit-learn, a plain loop and hand-worked bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from v13.errors import DataError
from v13.measures import brier, brier_constant, decile_table, reliability_curve, reliability_error, wilson_interval


def random_forecast(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    prob = rng.uniform(0.3, 0.8, n)
    return prob, (rng.random(n) < prob).astype(np.int8)


def test_brier_is_that_of_scikit_learn() -> None:
    prob, label = random_forecast(1, 500)
    assert brier(prob, label) == pytest.approx(brier_score_loss(label, prob), abs=1e-15)
    constant = brier_score_loss(label, np.full(500, 0.53))
    assert brier_constant(label, 0.53) == pytest.approx(constant, abs=1e-15)


def test_error_by_hand() -> None:
    # Two bins of three: (0.1, 0.2, 0.3) with labels 0, 0, 1 and (0.6, 0.7, 0.8) with labels 1, 1, 1.
    prob = np.array([0.8, 0.1, 0.7, 0.2, 0.6, 0.3])
    label = np.array([1, 0, 1, 0, 1, 1], np.int8)
    expected = 0.5 * abs(0.2 - 1 / 3) + 0.5 * abs(0.7 - 1.0)
    assert reliability_error(prob, label, 2) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [100, 500])
def test_error_is_that_of_scikit_learns_quantile_bins(n: int) -> None:
    prob, label = random_forecast(2, n)
    share, mean_prob = calibration_curve(label, prob, n_bins=10, strategy="quantile")
    expected = float(np.mean(np.abs(share - mean_prob)))  # all bins hold n / 10
    assert reliability_error(prob, label, 10) == pytest.approx(expected, abs=1e-12)
    rows = reliability_curve(prob, label, 10)
    np.testing.assert_allclose([r["share"] for r in rows], share, atol=1e-12)
    np.testing.assert_allclose([r["mean_prob"] for r in rows], mean_prob, atol=1e-12)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.50001, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_tied_probabilities_share_a_bin_and_bins_hold_everything_once(
    pairs: list[tuple[float, bool]], n_bins: int
) -> None:
    prob = np.array([p for p, _ in pairs])
    label = np.array([y for _, y in pairs], np.int8)
    rows = reliability_curve(prob, label, n_bins)
    assert 1 <= len(rows) <= n_bins
    assert sum(r["n"] or 0 for r in rows) == len(pairs)
    means = [r["mean_prob"] for r in rows]
    assert means == sorted(means)
    # Tied values: the number of bins cannot exceed the number of distinct values.
    assert len(rows) <= len(set(prob.tolist()))
    error = reliability_error(prob, label, n_bins)
    assert 0 <= error <= 1
    by_rows = sum((r["n"] or 0) * abs((r["mean_prob"] or 0) - (r["share"] or 0)) for r in rows) / len(pairs)
    assert error == pytest.approx(by_rows, abs=1e-12)


def test_bins_of_distinct_values_differ_by_one_at_most() -> None:
    prob, label = random_forecast(3, 137)
    counts = [r["n"] for r in reliability_curve(prob, label, 10)]
    assert sorted(set(counts)) == [13, 14]  # type: ignore[type-var]


def test_the_odd_one_goes_up_and_ties_sit_at_their_mean_rank() -> None:
    def sizes(values: list[float], n_bins: int) -> list[float | None]:
        return [r["n"] for r in reliability_curve(np.array(values), np.zeros(len(values), np.int8), n_bins)]

    assert sizes([0.1, 0.2, 0.3], 2) == [1, 2]  # (r - 1/2) * 2 / 3 = 0.33, 1, 1.67
    assert sizes([0.1, 0.2, 0.2, 0.2], 2) == [1, 3]  # mean rank 3: 1.25
    assert sizes([0.2, 0.2, 0.2, 0.3], 2) == [3, 1]  # mean rank 2: 0.75
    assert sizes([0.5] * 7, 10) == [7]


def test_curve_intervals_are_wilsons() -> None:
    prob, label = random_forecast(4, 200)
    for row in reliability_curve(prob, label, 5):
        n, k = int(row["n"] or 0), round((row["share"] or 0) * (row["n"] or 0))
        assert (row["share_low"], row["share_high"]) == wilson_interval(k, n)


def test_a_perfect_calibration_is_off_by_chance_as_much_as_the_notes_say() -> None:
    errors = []
    for seed in range(200):
        rng = np.random.default_rng([5, seed])
        prob = rng.uniform(0.45, 0.55, 400)
        errors.append(reliability_error(prob, (rng.random(400) < prob).astype(np.int8), 10))
    assert np.mean(errors) == pytest.approx(0.8 * math.sqrt(0.25 * 10 / 400), rel=0.05)


def test_decile_rows_by_hand() -> None:
    score = np.array([90.0, 41.0, 55.0, 60.0])
    signed = np.array([0.03, -0.01, 0.01, 0.02])
    low, high = decile_table(score, signed, np.array([1, 0, 1, 1]), 2)
    assert (low["n"], low["score_low"], low["score_high"], low["score_mean"]) == (2, 41.0, 55.0, 48.0)
    assert (low["hit_share"], high["hit_share"]) == (0.5, 1.0)
    assert (low["hit_low"], low["hit_high"]) == wilson_interval(1, 2)
    assert low["return_mean"] == pytest.approx(0.0, abs=1e-18)
    assert high["return_mean"] == pytest.approx(0.025)


def test_decile_returns_have_students_interval() -> None:
    rng = np.random.default_rng(6)
    score, signed = rng.uniform(40, 100, 300), rng.standard_normal(300) * 1e-3
    rows = decile_table(score, signed, (signed > 0).astype(np.int64))
    assert [r["n"] for r in rows] == [30] * 10
    inside = signed[np.argsort(score)[:30]]
    expected = ttest_1samp(inside, 0.0).confidence_interval(0.95)
    assert (rows[0]["return_low"], rows[0]["return_high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_bin_of_one_event_has_no_interval_of_the_mean() -> None:
    (row,) = decile_table(np.array([50.0]), np.array([0.01]), np.array([1]))
    assert (row["return_mean"], row["return_low"], row["return_high"]) == (0.01, None, None)


@pytest.mark.parametrize(
    ("prob", "label", "said"),
    [
        ([0.5, math.nan], [0, 1], "prob"),
        ([0.5, 1.01], [0, 1], "prob"),
        ([0.5, 0.5], [0, 2], "label"),
        ([0.5], [0, 1], "length"),
        ([], [], "none"),
    ],
)
def test_what_is_no_forecast_is_refused(prob: list[float], label: list[int], said: str) -> None:
    for measure in (brier, reliability_error, reliability_curve):
        with pytest.raises(DataError, match=said):
            measure(np.array(prob, np.float64), np.array(label, np.int8))


def test_bad_tables_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(DataError, match="n_bins"):
        reliability_error(one, np.array([1]), 0)
    with pytest.raises(DataError, match="NaN"):
        decile_table(np.array([math.nan]), one, np.array([1]))
    with pytest.raises(DataError, match="length"):
        decile_table(np.ones(2), one, np.array([1]))
    with pytest.raises(DataError, match="prob"):
        brier_constant(np.array([1]), 1.5)
