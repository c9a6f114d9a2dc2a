"""Venn-Abers against a naive refit, against the `venn-abers` package, and against what it promises."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression
from venn_abers.venn_abers import calc_p0p1, calc_probs

from v13.errors import DataError
from v13.research.venn_abers import venn_abers


def naive(score: np.ndarray, label: np.ndarray, at: np.ndarray) -> list[np.ndarray]:
    return [
        np.array(
            [IsotonicRegression().fit(np.append(score, s), np.append(label, y)).predict([s])[0] for s in at.tolist()]
        )
        for y in (0.0, 1.0)
    ]


def of_package(score: np.ndarray, label: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # It takes probabilities, but only their order counts. Its slopes divide by zero, by design.
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        p0, p1, distinct = calc_p0p1(np.column_stack([1 - score / 100, score / 100]), label)
        _, pair = calc_probs(p0, p1, distinct, np.column_stack([1 - at / 100, at / 100]))
    return pair[:, 0], pair[:, 1]


@st.composite
def events(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 40))
    levels = draw(st.integers(1, 60))  # few levels: many ties
    score = 40.0 + draw(hnp.arrays(np.int64, n, elements=st.integers(0, levels)))
    return score, draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1)))


@given(events())
def test_it_is_the_isotonic_fit_with_the_event_added(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    score, label = drawn
    at = np.concatenate([[0.0, 39.5, 45.5, 52.0, 70.25, 100.0], score[:5]])
    for found, expected in zip(venn_abers(score, label, at), naive(score, label, at), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "decimals"), [(30, 0), (200, 6), (2_000, 1)])
def test_it_agrees_with_the_package(n: int, decimals: int) -> None:
    rng = np.random.default_rng(n)
    score = np.round(rng.uniform(40, 100, n), decimals)
    label = (rng.random(n) < 0.3 + 0.4 * (score - 40) / 60).astype(np.int64)
    at = np.concatenate([np.linspace(35, 100, 66) + 0.003, score[:50]])
    for found, expected in zip(venn_abers(score, label, at), of_package(score, label, at), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_by_hand() -> None:
    # Events at 50 (miss), 60 (hit). At 55 a miss more: 0, 0, 1 and a hit more: 0, 1, 1. At 60: 1/2, then 2/2.
    p0, p1 = venn_abers(np.array([50.0, 60.0]), np.array([0, 1]), np.array([40.0, 55.0, 60.0, 70.0]))
    assert p0.tolist() == pytest.approx([0, 0, 0.5, 0.5])
    assert p1.tolist() == pytest.approx([0.5, 1, 1, 1])


@given(events())
def test_the_pair_is_ordered_and_rises_with_the_score(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    score, label = drawn
    p0, p1 = venn_abers(score, label, np.linspace(30, 100, 36))
    assert np.all(p0 < p1)
    for p in (p0, p1):
        assert np.all((p >= 0) & (p <= 1))
        assert np.all(np.diff(p) >= -1e-12)  # rounding of a block's mean


def test_the_probability_of_the_label_that_comes_is_right_on_the_whole() -> None:
    # Vovk & Petej 2012: for exchangeable events E[p_Y] = E[Y], whatever the number of events.
    rng = np.random.default_rng(5)
    gap = []
    for _ in range(3_000):
        score = rng.uniform(40, 100, 13)
        label = (rng.random(13) < 0.2 + 0.5 * (score > 80)).astype(np.int64)
        pair = venn_abers(score[:12], label[:12], score[12:])
        gap.append(pair[label[12]][0] - label[12])
    assert abs(np.mean(gap)) < 3 * np.std(gap) / np.sqrt(len(gap))


def test_the_interval_closes_as_events_come() -> None:
    rng = np.random.default_rng(6)
    width = []
    for n in (100, 1_000, 10_000):
        score = rng.uniform(40, 100, n)
        p0, p1 = venn_abers(score, (rng.random(n) < score / 150).astype(np.int64), np.linspace(50, 90, 41))
        width.append(float(np.mean(p1 - p0)))
    assert width[0] > 2 * width[1] > 4 * width[2] > 0


@pytest.mark.parametrize(
    ("score", "label", "at"),
    [
        ([], [], [50.0]),
        ([50.0], [0, 1], [50.0]),
        ([np.nan], [1], [50.0]),
        ([50.0], [2], [50.0]),
        ([50.0], [1], [np.nan]),
    ],
)
def test_what_cannot_be_evaluated_is_refused(score: list[float], label: list[int], at: list[float]) -> None:
    with pytest.raises(DataError):
        venn_abers(np.array(score, np.float64), np.array(label, np.int64), np.array(at))


def test_a_map_of_many_events_takes_less_than_a_second() -> None:
    rng = np.random.default_rng(7)
    score = rng.uniform(40, 100, 40_000)
    label = (rng.random(40_000) < 0.5).astype(np.int64)
    started = time.process_time()
    venn_abers(score, label, np.linspace(0, 100, 101))
    assert time.process_time() - started < 1.0  # 0.1 s on the machine it was written on
