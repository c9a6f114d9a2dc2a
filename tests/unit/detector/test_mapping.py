"""The map, applied: interpolation by hand, the order of the interval, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from v13.detector import CalibrationMap, Curve
from v13.errors import DataError

KNOTS: dict[str, list[Any]] = {
    "score": [40.0, 60.0, 80.0],
    "prob": [0.4, 0.5, 0.7],
    "expected_return": [-1e-4, 0.0, 3e-4],
    "p_low": [0.1, 0.45, 0.6],
    "p_high": [0.5, 0.55, 1.0],
}


def read(**changed: list[Any]) -> CalibrationMap:
    return CalibrationMap.from_dict({"horizons": [{"horizon_bars": 10, "knots": KNOTS | changed}]})


def test_values_between_knots_lie_on_the_line_and_the_ends_are_flat() -> None:
    at = [0.0, 40.0, 50.0, 75.0, 100.0]
    low, high = read().interval(at, 10)
    assert read().prob(at, 10) == pytest.approx([0.4, 0.4, 0.45, 0.65, 0.7])
    assert low == pytest.approx([0.1, 0.1, 0.275, 0.5625, 0.6])
    assert high == pytest.approx([0.5, 0.5, 0.525, 0.8875, 1.0])
    assert read().expected_return(at, 10) == pytest.approx([-1e-4, -1e-4, -5e-5, 2.25e-4, 3e-4])


def test_a_single_score_keeps_its_shape() -> None:
    low, high = read().interval(50.0, 10)
    assert low.shape == high.shape == read().prob(50.0, 10).shape == ()


@given(
    hnp.arrays(np.float64, (3, 7), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 7, elements=st.floats(0, 100), unique=True),
    hnp.arrays(np.float64, 20, elements=st.floats(0, 100)),
)
def test_the_probability_never_leaves_its_interval(p: np.ndarray, score: np.ndarray, at: np.ndarray) -> None:
    low, prob, high = np.sort(p, axis=0)
    with np.errstate(all="ignore"):  # knots a subnormal apart: a slope overflows
        applied = CalibrationMap({5: Curve(5, np.sort(score), prob, np.zeros(7), low, high)})
        low_at, high_at = applied.interval(at, 5)
        prob_at = applied.prob(at, 5)
    sound = np.isfinite(prob_at)
    assert np.all((low_at <= prob_at)[sound] & (prob_at <= high_at)[sound])


def test_only_a_map_with_one_probability_is_a_constant() -> None:
    assert not read().curves[10].is_constant
    assert read(prob=[0.5] * 3, p_low=[0.4] * 3, p_high=[0.6] * 3).curves[10].is_constant


@pytest.mark.parametrize(
    "changed",
    [
        {"score": [60.0, 40.0, 80.0]},
        {"score": [40.0, 40.0, 80.0]},
        {"prob": [0.4, 0.5, 1.5]},
        {"prob": [0.4, 0.5]},
        {"expected_return": [0.0, 0.0, None]},
        {"p_low": [0.41, 0.45, 0.6]},
        {"p_high": [0.5, 0.49, 1.0]},
        {"p_low": [-0.1, 0.45, 0.6]},
        {"p_high": [0.5, 0.55, 1.01]},
        {"p_high": [0.5, 0.55, None]},
        {"p_low": [0.1, 0.45]},
        {name: [] for name in KNOTS},
    ],
)
def test_the_map_refuses_what_it_could_not_evaluate(changed: dict[str, list[Any]]) -> None:
    with pytest.raises(DataError, match="calibration"):
        read(**changed)


def test_a_document_without_the_interval_is_refused() -> None:
    old = {name: values for name, values in KNOTS.items() if name not in ("p_low", "p_high")}
    with pytest.raises(DataError, match="p_low"):
        CalibrationMap.from_dict({"horizons": [{"horizon_bars": 10, "knots": old}]})


def test_an_unknown_horizon_is_refused() -> None:
    with pytest.raises(DataError, match="no curve for horizon 20"):
        read().interval(50.0, 20)
