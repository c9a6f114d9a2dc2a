"""The calibration rule case by case, and the number of events it asks for."""

from __future__ import annotations

import numpy as np
import pytest

from v13.errors import DataError
from v13.measures import Criterion, Status
from v13.measures.calibration_gate import CalibrationRow, events_needed_for_skill, judge_calibration

CONSTANT = CalibrationRow(20, 500, 0.25, 0.25, (0.0, 0.0), 0.01, None, True)
NO_MAP = CalibrationRow(20, 500, None, None, None, None, None, False)


def row(gain: float, interval: tuple[float, float] | None, horizon: int = 10, n: int = 500) -> CalibrationRow:
    return CalibrationRow(horizon, n, 0.25 - gain, 0.25, interval, 0.02, (0.01, 0.05), False)


def judged(*rows: CalibrationRow) -> Criterion:
    return judge_calibration(rows, min_events=50)


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([row(0.005, (-0.002, 0.012))], Status.PASS),
        ([row(0.005, None)], Status.PASS),
        ([row(-0.005, (-0.012, -0.001)), row(1e-6, (-0.01, 0.01), 20)], Status.PASS),
        ([row(0.005, (0.001, 0.01)), CONSTANT], Status.PASS),
        ([row(-0.005, (-0.012, 0.002))], Status.INSUFFICIENT),
        ([row(-0.005, None)], Status.INSUFFICIENT),
        ([row(-0.005, (-0.012, -0.001)), row(-0.001, (-0.01, 0.001), 20)], Status.INSUFFICIENT),
        ([row(0.005, (0.001, 0.01), n=49)], Status.INSUFFICIENT),
        ([NO_MAP], Status.INSUFFICIENT),
        ([NO_MAP, CONSTANT], Status.INSUFFICIENT),
        ([], Status.INSUFFICIENT),
        ([row(-0.005, (-0.012, -0.001))], Status.FAIL),
        ([row(-0.005, (-0.012, 0.0))], Status.FAIL),
        ([row(0.0, (0.0, 0.0))], Status.FAIL),
        ([row(-0.005, (-0.012, -0.001)), row(-0.002, (-0.01, -0.001), 20), CONSTANT], Status.FAIL),
        ([CONSTANT], Status.NOT_APPLICABLE),
        ([CONSTANT, CONSTANT], Status.NOT_APPLICABLE),
    ],
)
def test_the_status(rows: list[CalibrationRow], status: Status) -> None:
    criterion = judged(*rows)
    assert criterion.status is status, criterion.detail
    assert criterion.key == "calibration"
    assert criterion.title == "Calibrated probability beats a constant"
    assert criterion.threshold == 0.0


def test_the_estimate_is_the_skill_of_the_best_judged_horizon() -> None:
    criterion = judged(row(0.005, (-0.002, 0.012)), row(0.01, (0.002, 0.02), 20), row(0.1, (0.05, 0.2), 30, n=49))
    assert criterion.estimate == pytest.approx(0.04)
    assert criterion.interval == pytest.approx((0.008, 0.08))
    assert criterion.n == 500
    assert "Better at 2 of 2 judged horizons" in criterion.detail
    assert "not judged: fewer than 50" in criterion.detail


def test_the_words_hold_the_numbers() -> None:
    detail = judged(row(0.005, (-0.002, 0.012)), CONSTANT, NO_MAP).detail
    for part in (
        "Brier 0.24500 against 0.25000",
        "gain 0.00500 (-0.00200 to 0.01200)",
        "calibration error 0.020 (0.010 to 0.050)",
        "after 20 bars the map is a constant",
        "after 20 bars no map",
    ):
        assert part in detail


def test_a_constant_says_why_it_is_not_judged() -> None:
    criterion = judged(CONSTANT)
    assert "constant at every horizon" in criterion.detail
    assert criterion.estimate is None


def test_a_constant_that_is_never_wrong_cannot_be_beaten_and_has_no_skill() -> None:
    criterion = judged(CalibrationRow(10, 60, 0.001, 0.0, (-0.002, -0.0005), 0.02, None, False))
    assert criterion.status is Status.FAIL
    assert criterion.estimate is None
    assert criterion.interval is None


def test_one_brier_score_without_the_other_is_refused() -> None:
    with pytest.raises(DataError, match="both Brier scores"):
        CalibrationRow(10, 60, 0.2, None, None, None, None, False)


@pytest.mark.parametrize(("base", "spread"), [(0.5, 0.05), (0.6, 0.1)])
def test_the_number_needed_passes_a_true_map_four_times_in_five(base: float, spread: float) -> None:
    n = events_needed_for_skill(spread**2 / (base * (1 - base)))
    rng = np.random.default_rng(1)
    prob = base + spread * rng.choice([-1.0, 1.0], (4_000, n))
    label = rng.random(prob.shape) < prob
    gain = ((base - label) ** 2 - (prob - label) ** 2).mean(axis=1)
    assert np.mean(gain > 0) == pytest.approx(0.8, abs=0.02)  # three standard errors of 4,000 runs


@pytest.mark.parametrize(("skill", "power"), [(0.0, 0.8), (1.0, 0.8), (0.1, 0.4), (0.1, 1.0)])
def test_no_number_for_a_skill_or_power_out_of_range(skill: float, power: float) -> None:
    with pytest.raises(DataError):
        events_needed_for_skill(skill, power)
