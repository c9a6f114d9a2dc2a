"""Power against published numbers, a plain search and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, spearmanr

from v13.errors import DataError
from v13.measures import (
    events_needed,
    events_needed_for_gate,
    events_needed_for_rho,
    gate_power,
    minimum_detectable_accuracy,
)


def power_by_counting(n: int, true: float, threshold: float, alpha: float) -> float:
    """Add up the chances of every count that passes, each tested on its own."""
    return sum(
        binom.pmf(k, n, true)
        for k in range(n + 1)
        if k / n >= threshold and binomtest(k, n, 0.5, "greater").pvalue < alpha
    )


@pytest.mark.parametrize(("true", "expected"), [(0.575, 281), (0.60, 158)])
def test_the_gate_of_the_guide_needs_the_events_the_field_notes_say(true: float, expected: int) -> None:
    assert events_needed_for_gate(true, threshold=0.55, alpha=0.05, power=0.8) == expected


@pytest.mark.parametrize("n", [1, 4, 5, 40, 100, 281])
@pytest.mark.parametrize("threshold", [0.0, 0.55, 0.6])
def test_power_is_the_sum_over_passing_counts(n: int, threshold: float) -> None:
    assert gate_power(n, 0.575, threshold) == pytest.approx(power_by_counting(n, 0.575, threshold, 0.05), abs=1e-12)


def test_p_must_be_below_alpha_and_the_share_may_be_equal_to_the_threshold() -> None:
    assert gate_power(5, 0.9, alpha=0.03125) == 0.0  # 5 of 5 has p = 0.03125 exactly
    # The threshold alone binds; 0.55 * 100 is 55.000000000000007 in doubles, and 55 of 100 passes all the same.
    assert gate_power(100, 0.575, 0.55, alpha=0.5) == pytest.approx(binom.sf(54, 100, 0.575), abs=1e-12)


@pytest.mark.parametrize("true", [0.58, 0.62, 0.7, 0.9])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 8, 0.2])
@pytest.mark.parametrize("power", [0.6, 0.8, 0.95])
def test_the_answer_is_the_first_number_a_search_from_one_finds(true: float, alpha: float, power: float) -> None:
    found = events_needed_for_gate(true, 0.55, alpha, power)
    enough = gate_power(np.arange(1, 5000), true, 0.55, alpha) >= power
    assert found == 1 + int(np.argmax(enough))
    assert enough.any()


def test_beyond_the_first_number_power_falls_short_by_two_percent_at_most() -> None:
    power = gate_power(np.arange(281, 3000), 0.575, 0.55)
    assert power.min() >= 0.78
    assert 281 + int(np.flatnonzero(power < 0.8)[-1]) == 311


def test_seeing_55_percent_takes_620_events() -> None:
    assert events_needed() == 620
    assert events_needed(0.55, alpha=0.01) > 620  # type: ignore[operator]


@pytest.mark.parametrize("true", [0.5, 0.55, 0.3])
def test_no_number_is_enough_for_an_edge_the_gate_asks_more_than(true: float) -> None:
    assert events_needed_for_gate(true, 0.55) is None


def test_an_edge_too_small_for_any_record_needs_no_number() -> None:
    assert events_needed(0.50001) is None


def test_the_detectable_accuracy_is_where_power_is_reached() -> None:
    for n in (10, 50, 158, 1000):
        least = minimum_detectable_accuracy(n)
        assert least is not None
        assert gate_power(n, least) == pytest.approx(0.8, abs=1e-5)
    assert minimum_detectable_accuracy(158, threshold=0.55) == pytest.approx(0.6, abs=0.001)


def test_four_events_can_never_show_anything() -> None:
    assert minimum_detectable_accuracy(4) is None  # 4 of 4 has p = 0.0625
    assert minimum_detectable_accuracy(5) is not None  # 5 of 5 has p = 0.03125
    assert minimum_detectable_accuracy(0) is None


def test_a_rank_correlation_is_seen_as_often_as_said() -> None:
    n = events_needed_for_rho(0.3, alpha=0.05, power=0.8)
    assert n is not None
    # Normal pairs of correlation r have rank correlation 6/pi * asin(r/2); solved for 0.3.
    r = 2 * np.sin(np.pi / 6 * 0.3)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((600, n))
    y = r * x + np.sqrt(1 - r * r) * rng.standard_normal((600, n))
    seen = np.mean([spearmanr(a, b, alternative="greater").pvalue < 0.05 for a, b in zip(x, y, strict=True)])
    assert 0.75 <= seen <= 0.85  # three standard errors of 600 runs at 0.8
    assert events_needed_for_rho(0.0) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: gate_power(0, 0.6),
        lambda: gate_power(10, 1.0),
        lambda: events_needed_for_gate(0.6, 1.0),
        lambda: events_needed_for_gate(0.6, alpha=0.0),
        lambda: events_needed(0.6, power=1.0),
        lambda: minimum_detectable_accuracy(-1),
        lambda: events_needed_for_rho(1.0),
    ],
)
def test_values_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(DataError):
        call()  # type: ignore[operator]
