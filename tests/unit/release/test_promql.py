"""PromQL reckoned again: by hand here, against a real Prometheus in tests/integration/test_closure.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from v13.release.promql import bucket_of, bucket_quantile, increase


def grown(
    ts: list[float], values: list[float], start: float, end: float, *, zero_last: bool = False
) -> tuple[float, float]:
    return increase(np.array(ts), np.array(values), start, end, zero_last=zero_last)


def test_between_aligned_scrapes_nothing_is_extrapolated() -> None:
    assert grown([0.0, 5.0, 10.0], [3.0, 3.0, 10.0], 0.0, 10.0) == (7.0, 7.0)


def test_a_counter_is_extrapolated_to_ends_that_are_near() -> None:
    # A mean distance of 5 s; 2 s before and 3 s after are within 1.1 of it.
    raw, told = grown([2.0, 7.0, 12.0], [100.0, 110.0, 120.0], 0.0, 15.0)
    assert raw == 20.0
    assert told == pytest.approx(20.0 * 15.0 / 10.0)


def test_an_end_far_away_gets_half_a_distance() -> None:
    raw, told = grown([0.0, 5.0, 10.0], [100.0, 110.0, 120.0], 0.0, 40.0)
    assert (raw, told) == (20.0, pytest.approx(20.0 * 12.5 / 10.0))


def test_a_counter_is_not_extrapolated_below_zero() -> None:
    # It grew 2 a second from 4, so it was 0 two seconds before, not four.
    _, told = grown([4.0, 9.0], [4.0, 14.0], 0.0, 9.0)
    assert told == pytest.approx(10.0 * 7.0 / 5.0)


def test_where_a_series_begins_late_the_two_orders_differ() -> None:
    # The start is 20 s away, 0 was 4 s ago: that is under the threshold of 5.5 s, and beyond half a distance.
    ts, values = [20.0, 25.0, 30.0], [8.0, 18.0, 28.0]
    _, before_3 = grown(ts, values, 0.0, 30.0)
    _, since_3 = grown(ts, values, 0.0, 30.0, zero_last=True)
    assert before_3 == pytest.approx(20.0 * 14.0 / 10.0)
    assert since_3 == pytest.approx(20.0 * 12.5 / 10.0)


def test_after_a_reset_a_counter_grew_from_zero() -> None:
    assert grown([0.0, 5.0, 10.0, 15.0], [10.0, 14.0, 3.0, 5.0], 0.0, 15.0) == (9.0, 9.0)


def test_one_sample_tells_nothing() -> None:
    assert grown([5.0], [7.0], 0.0, 10.0) == (0.0, 0.0)


UPPER = (10.0, 20.0, 40.0, math.inf)


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, [0.0, 4.0, 8.0, 8.0], 20.0),  # the fourth of eight: the end of its bucket
        (0.75, [0.0, 4.0, 8.0, 8.0], 30.0),
        (0.25, [4.0, 4.0, 4.0, 4.0], 2.5),  # the first bucket begins at 0
        (0.99, [1.0, 2.0, 3.0, 9.0], 40.0),  # beyond the last bound
        (0.5, [3.0, 2.0, 4.0, 4.0], 10.0 * 2.0 / 3.0),  # bent: made monotonic
    ],
)
def test_a_quantile_is_read_off_buckets(q: float, counts: list[float], expected: float) -> None:
    assert bucket_quantile(q, UPPER, np.array(counts)) == pytest.approx(expected)


def test_a_quantile_of_nothing_is_none() -> None:
    assert math.isnan(bucket_quantile(0.5, UPPER, np.zeros(4)))


def test_a_first_bucket_below_zero_is_told_by_its_bound() -> None:
    assert bucket_quantile(0.1, (-1.0, 0.0, 1.0, math.inf), np.array([5.0, 6.0, 7.0, 7.0])) == -1.0


@pytest.mark.parametrize(
    ("value", "bucket"), [(10.0, (-math.inf, 10.0)), (10.1, (10.0, 20.0)), (99.0, (40.0, math.inf))]
)
def test_a_bucket_holds_its_upper_bound(value: float, bucket: tuple[float, float]) -> None:
    assert bucket_of(value, UPPER) == bucket
