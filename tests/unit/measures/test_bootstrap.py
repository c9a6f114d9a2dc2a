"""The block bootstrap: against arch and a plain loop; the fast statistics against the general one, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arch.bootstrap import CircularBlockBootstrap
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from v13.errors import DataError
from v13.measures import (
    Interval,
    block_bootstrap_interval,
    bootstrap_mean,
    bootstrap_mean_difference,
    bootstrap_reliability,
    bootstrap_spearman,
    reliability_error,
    spearman,
)
from v13.measures import bootstrap as module
from v13.measures.bootstrap_kernel import mean_loop, reliability_loop, spearman_loop

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

N_RUNS = 200


def mean_of(values: F64) -> Callable[[NDArray[np.intp]], float]:
    return lambda i: float(values[i].mean())


def persistent(rng: np.random.Generator, n: int, keep: float) -> F64:
    """Return a stationary AR(1) of unit variance."""
    out = rng.standard_normal(n)
    for i in range(1, n):
        out[i] = keep * out[i - 1] + math.sqrt(1 - keep * keep) * out[i]
    return out


def same(found: Interval, expected: Interval, scale: float = 0.0) -> bool:
    """Say whether two intervals are one: to the bit with a scale of 0, else to 1e-12 of it."""
    if _told(found) != _told(expected):
        return False
    return all(
        (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-12 * scale
        for a, b in ((found.low, expected.low), (found.high, expected.high))
    )


def _told(found: Interval) -> tuple[float, str, int, int]:
    return found.level, found.method, found.n_resamples, found.n_blocks


# --- any statistic --------------------------------------------------------------------------------------------------


def test_draws_are_those_of_a_plain_loop() -> None:
    # Block after block, resample after resample, with one call of the generator for each resample.
    rng = np.random.default_rng(3)
    ts = rng.integers(0, 100_000, 200)
    x = rng.standard_normal(200)
    number = (ts - ts.min()) // 7000
    there = np.unique(number)
    draws = np.random.default_rng(5)
    values = []
    for _ in range(99):
        drawn = there[draws.integers(len(there), size=len(there))]
        values.append(np.concatenate([x[number == b] for b in drawn]).mean())
    found = block_bootstrap_interval(mean_of(x), ts, 7000, n_bootstrap=99, seed=5, confidence=0.9)
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.05, 0.95]), abs=1e-14)
    assert (found.n_blocks, found.level) == (len(there), 0.9)


def test_intervals_do_not_depend_on_how_many_draws_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ts, x = np.arange(60) * 1000, np.random.default_rng(1).standard_normal(60)
    whole = bootstrap_mean(x, ts, 3000, n_bootstrap=101, seed=4)
    monkeypatch.setattr(module, "N_DRAWS_AT_ONCE", 70)  # 20 blocks: 3 resamples at a time
    assert bootstrap_mean(x, ts, 3000, n_bootstrap=101, seed=4) == whole


def test_intervals_are_as_wide_as_those_of_arch() -> None:
    x = persistent(np.random.default_rng(6), 4000, 0.8)
    ours = block_bootstrap_interval(mean_of(x), np.arange(4000) * 1000, 50_000, n_bootstrap=2000, seed=1)
    theirs = CircularBlockBootstrap(50, x, seed=1).conf_int(np.mean, 2000, method="percentile").ravel()
    assert ours.n_blocks == 80
    # Different blocks (side by side, and circular) of one length; ends of 2,000 resamples of 80 blocks: 15 % of width.
    assert [ours.low, ours.high] == pytest.approx(theirs, abs=0.15 * (theirs[1] - theirs[0]))


def test_intervals_cover_the_truth_where_events_overlap_and_wide_enough_blocks_are_drawn() -> None:
    covered = {"blocks": 0, "single events": 0}
    for run in range(N_RUNS):
        x = persistent(np.random.default_rng([21, run]), 1500, 0.9)
        ts = np.arange(1500) * 1000
        for name, block_ms in (("blocks", 60_000), ("single events", 1000)):
            found = bootstrap_mean(x, ts, block_ms, n_bootstrap=300, seed=run)
            covered[name] += found.low <= 0.0 <= found.high
    share = {name: n / N_RUNS for name, n in covered.items()}
    # 25 blocks: a percentile interval falls short of 95 % by a few points (short blocks and few of them).
    assert share["blocks"] >= 0.86, share
    assert share["single events"] <= 0.50, share  # why events are not drawn one by one


def test_events_of_one_stretch_of_time_are_drawn_or_left_together_whatever_their_order() -> None:
    # 6 blocks of 10 s, 3 events each, handed over out of order.
    ts = np.random.default_rng(0).permutation(
        np.concatenate([b * 10_000 + np.array([0, 4000, 9999]) for b in range(6)])
    )
    seen: list[int] = []

    def check(i: NDArray[np.intp]) -> float:
        counts = np.bincount(ts[i] // 10_000, minlength=6)
        for b in range(6):
            assert np.bincount(i, minlength=18)[ts // 10_000 == b].tolist() == [counts[b] // 3] * 3
        seen.append(len(i))
        return float(counts.max())

    found = block_bootstrap_interval(check, ts, 10_000, n_bootstrap=200, seed=3)
    assert seen == [18] * 200
    assert (found.n_blocks, found.n_resamples, found.level) == (6, 200, 0.95)


def test_correlation_and_accuracy_have_intervals_around_them() -> None:
    rng = np.random.default_rng(9)
    score = rng.uniform(40, 100, 800)
    signed = 0.02 * (score - 70) + rng.standard_normal(800)
    ts = np.sort(rng.integers(0, 10_000_000, 800))
    rho = bootstrap_spearman(score, signed, ts, 60_000, n_bootstrap=500, seed=1)
    share = bootstrap_mean((signed > 0).astype(np.float64), ts, 60_000, n_bootstrap=500, seed=1)
    assert rho.low < spearman(score, signed) < rho.high
    # Independent events: the width is that of the binomial, to 15 % for 150 blocks and 500 resamples.
    width = 2 * 1.96 * math.sqrt(0.25 / 800)
    assert share.high - share.low == pytest.approx(width, rel=0.15)


def test_too_few_blocks_or_an_undefined_statistic_have_no_interval() -> None:
    ts = np.arange(40) * 1000
    for block_ms, n_blocks in ((10_000, 4), (100_000, 1)):
        found = block_bootstrap_interval(mean_of(np.arange(40.0)), ts, block_ms, n_bootstrap=100, seed=0)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert (found.n_blocks, found.n_resamples) == (n_blocks, 0)
    assert math.isnan(block_bootstrap_interval(lambda _: math.nan, ts, 1000, n_bootstrap=100, seed=0).low)
    assert math.isnan(block_bootstrap_interval(lambda _: 1.0, ts[:0], 1000, n_bootstrap=100, seed=0).low)


def test_a_statistic_may_be_undefined_in_a_tenth_of_the_resamples_and_no_more() -> None:
    for n_undefined, has_interval in ((10, True), (11, False)):
        values = iter([math.nan] * n_undefined + [1.0] * (100 - n_undefined))
        found = block_bootstrap_interval(lambda _: next(values), np.arange(9), 1, n_bootstrap=100, seed=0)  # noqa: B023
        assert found.n_resamples == 100 - n_undefined
        assert (found.low == 1.0) is has_interval


def test_intervals_come_from_the_seed() -> None:
    x, ts = np.random.default_rng(1).standard_normal(300), np.arange(300) * 1000
    one, again, other = (bootstrap_mean(x, ts, 5000, n_bootstrap=50, seed=s) for s in (1, 1, 2))
    assert one == again
    assert one != other


# --- one statistic, fast --------------------------------------------------------------------------------------------


@st.composite
def drawings(draw: st.DrawFn) -> tuple[np.random.Generator, int, int, dict[str, Any]]:
    """A generator, a number of events, a length of block and settings: from a handful of events on, few blocks too."""
    seed = draw(st.integers(0, 10_000))
    n = draw(st.integers(1, 60))
    block_ms = draw(st.sampled_from([1, 700, 1500, 4000, 9000]))
    settings_of = {
        "n_bootstrap": draw(st.integers(1, 40)),
        "seed": seed,
        "confidence": draw(st.sampled_from([0.5, 0.95])),
    }
    return np.random.default_rng(seed), n, block_ms, settings_of


@settings(max_examples=150, deadline=None)
@given(drawings(), st.booleans())
def test_means_are_those_of_the_general_bootstrap(
    drawing: tuple[np.random.Generator, int, int, dict[str, Any]], is_share: bool
) -> None:
    rng, n, block_ms, how = drawing
    ts = rng.integers(0, 20_000, n)
    values = rng.integers(0, 2, n).astype(np.float64) if is_share else rng.standard_normal(n)
    found = bootstrap_mean(values, ts, block_ms, **how)
    # Shares are sums of ones, exact in any order; other sums differ by rounding.
    assert same(found, block_bootstrap_interval(mean_of(values), ts, block_ms, **how), 0.0 if is_share else 1.0)


@settings(max_examples=150, deadline=None)
@given(drawings(), st.integers(0, 2))
def test_rank_correlations_are_those_of_the_general_bootstrap_to_the_bit(
    drawing: tuple[np.random.Generator, int, int, dict[str, Any]], decimals: int
) -> None:
    rng, n, block_ms, how = drawing
    ts = rng.integers(0, 20_000, n)
    x, y = np.round(rng.standard_normal((2, n)), decimals)  # whole numbers: mostly ties, and undefined resamples
    found = bootstrap_spearman(x, y, ts, block_ms, **how)
    assert same(found, block_bootstrap_interval(lambda i: spearman(x[i], y[i]), ts, block_ms, **how))


@settings(max_examples=150, deadline=None)
@given(drawings(), st.integers(1, 2), st.integers(1, 12))
def test_reliability_is_that_of_the_general_bootstrap(
    drawing: tuple[np.random.Generator, int, int, dict[str, Any]], decimals: int, n_bins: int
) -> None:
    rng, n, block_ms, how = drawing
    ts = rng.integers(0, 20_000, n)
    prob, label = np.round(rng.random(n), decimals), rng.integers(0, 2, n)
    found = bootstrap_reliability(prob, label, ts, block_ms, n_bins, **how)
    expected = block_bootstrap_interval(lambda i: reliability_error(prob[i], label[i], n_bins), ts, block_ms, **how)
    assert same(found, expected, 1.0)


@settings(max_examples=150, deadline=None)
@given(drawings(), st.integers(0, 40))
def test_differences_are_those_of_the_general_bootstrap(
    drawing: tuple[np.random.Generator, int, int, dict[str, Any]], m: int
) -> None:
    rng, n, block_ms, how = drawing
    ts = rng.integers(0, 20_000, n + m)
    values = rng.integers(0, 2, n + m).astype(np.float64)
    a, b = values[:n], values[n:]
    drawn: list[float] = []

    def difference(i: NDArray[np.intp]) -> float:
        of_a, of_b = a[i[i < n]], b[i[i >= n] - n]
        drawn.append(float(of_a.mean() - of_b.mean()) if len(of_a) and len(of_b) else math.nan)
        return drawn[-1]

    expected = block_bootstrap_interval(difference, ts, block_ms, **how)
    found = bootstrap_mean_difference(a, ts[:n], b, ts[n:], block_ms, **how)
    assert same(found.interval, expected)
    if math.isnan(expected.low):
        assert found.p is None
    else:
        assert found.p == (1 + sum(not d > 0 for d in drawn)) / (1 + len(drawn))
    if m:
        assert found.observed == a.mean() - b.mean()
    else:
        assert math.isnan(found.observed)


def test_a_large_resample_with_every_event_tied_somewhere_is_that_of_scipy() -> None:
    rng = np.random.default_rng(12)
    n = 3000
    x = np.round(rng.uniform(40, 100, n))
    y = np.round(0.01 * x + rng.standard_normal(n), 2)
    ts = rng.integers(0, 1_000_000, n)
    found = bootstrap_spearman(x, y, ts, 5000, n_bootstrap=20, seed=3)
    expected = block_bootstrap_interval(
        lambda i: float(spearmanr(x[i], y[i]).statistic), ts, 5000, n_bootstrap=20, seed=3
    )
    assert same(found, expected, 1.0)  # scipy sums in another order


def test_compiled_and_interpreted_loops_agree_to_the_bit() -> None:
    rng = np.random.default_rng(4)
    n, n_blocks = 40, 7
    block = np.concatenate([np.arange(n_blocks), rng.integers(0, n_blocks, n - n_blocks)])
    size = np.bincount(block)
    drawn = rng.integers(n_blocks, size=(30, n_blocks))
    x, y = np.round(rng.random((2, n)), 1)
    by_x, by_y = np.argsort(x), np.argsort(y)
    place = np.argsort(by_x)[by_y]
    excess = (x - rng.integers(0, 2, n))[by_x]
    found = []
    for loops in (
        (spearman_loop, reliability_loop, mean_loop),
        _interpreted(spearman_loop, reliability_loop, mean_loop),
    ):
        rho, error, mean = np.empty(30), np.empty(30), np.empty(30)
        count, rank = np.empty(n_blocks, np.int64), np.empty(n)
        loops[0](drawn, size, x[by_x], block[by_x], y[by_y], block[by_y], place, count, rank, rho)
        loops[1](drawn, size, x[by_x], excess, block[by_x], 5, count, error)
        loops[2](drawn, np.bincount(block, weights=y), size, mean)
        found.append((rho.tobytes(), error.tobytes(), mean.tobytes()))
    assert found[0] == found[1]


def _interpreted(*loops: Any) -> tuple[Any, ...]:
    return tuple(getattr(loop, "py_func", loop) for loop in loops)


# --- rules ----------------------------------------------------------------------------------------------------------


def test_fast_intervals_need_five_blocks_as_well() -> None:
    for n, n_blocks in ((40, 4), (41, 5)):
        ts, x = np.arange(n) * 1000, np.arange(n) % 7 / 7.0
        label = (np.arange(n) % 2).astype(np.int64)
        how: dict[str, Any] = {"n_bootstrap": 50, "seed": 0}
        difference = bootstrap_mean_difference(x, ts, 1 - x, ts, 10_000, **how)
        for found in (
            bootstrap_mean(x, ts, 10_000, **how),
            bootstrap_spearman(x, 1 - x, ts, 10_000, **how),
            bootstrap_reliability(x, label, ts, 10_000, 3, **how),
            difference.interval,
        ):
            assert found.n_blocks == n_blocks
            assert math.isnan(found.low) is math.isnan(found.high) is (n_blocks < 5)
            assert found.n_resamples == (0 if n_blocks < 5 else 50)
        assert (difference.p is None) is (n_blocks < 5)


def test_no_events_have_no_interval() -> None:
    nothing, never = np.empty(0), np.empty(0, np.int64)
    how: dict[str, Any] = {"n_bootstrap": 50, "seed": 0}
    assert math.isnan(bootstrap_mean(nothing, never, 1000, **how).low)
    assert math.isnan(bootstrap_spearman(nothing, nothing, never, 1000, **how).low)
    found = bootstrap_mean_difference(nothing, never, nothing, never, 1000, **how)
    assert math.isnan(found.observed)
    assert found.p is None


def test_a_constant_has_no_rank_correlation_and_no_interval() -> None:
    x = np.random.default_rng(1).random(50)
    found = bootstrap_spearman(np.ones(50), x, np.arange(50), 1, n_bootstrap=50, seed=0)
    assert math.isnan(found.low)
    assert found.n_resamples == 0


def test_what_two_sets_share_cancels_in_their_difference() -> None:
    # A wild block moves both: each mean is uncertain, their difference is not.
    rng = np.random.default_rng(2)
    ts = np.arange(400) * 1000
    wild = np.repeat(rng.standard_normal(40), 10)
    how: dict[str, Any] = {"n_bootstrap": 400, "seed": 1}
    alone = bootstrap_mean(wild, ts, 10_000, **how)
    found = bootstrap_mean_difference(wild + 0.1, ts, wild[::2], ts[::2], 10_000, **how)
    assert found.observed == pytest.approx(0.1, abs=1e-12)
    assert found.interval.high - found.interval.low < 1e-9 < alone.high - alone.low
    assert found.p == 1 / 401


def test_the_p_of_a_difference_rejects_noise_about_as_often_as_it_says() -> None:
    rejected = 0
    for run in range(N_RUNS):
        rng = np.random.default_rng([23, run])
        ts = np.arange(400) * 1000
        a, b = (rng.random((2, 400)) < 0.55).astype(np.float64)
        p = bootstrap_mean_difference(a, ts, b, ts, 5000, n_bootstrap=199, seed=run).p
        assert p is not None
        rejected += p <= 0.05
    assert 2 <= rejected <= 21, rejected  # 99.9 % of binomial draws of 200 at 5 %


@pytest.mark.parametrize(("block_ms", "n", "confidence"), [(0, 10, 0.95), (1000, 0, 0.95), (1000, 10, 1.0)])
def test_bootstraps_out_of_range_are_refused(block_ms: int, n: int, confidence: float) -> None:
    ts, x = np.arange(10), np.arange(10.0) / 10
    how: dict[str, Any] = {"n_bootstrap": n, "seed": 0, "confidence": confidence}
    with pytest.raises(DataError):
        block_bootstrap_interval(lambda _: 0.0, ts, block_ms, **how)
    with pytest.raises(DataError):
        bootstrap_mean(x, ts, block_ms, **how)
    with pytest.raises(DataError):
        bootstrap_spearman(x, x, ts, block_ms, **how)
    with pytest.raises(DataError):
        bootstrap_reliability(x, np.ones(10, np.int64), ts, block_ms, **how)
    with pytest.raises(DataError):
        bootstrap_mean_difference(x, ts, x, ts, block_ms, **how)


def test_values_that_do_not_fit_are_refused() -> None:
    ts, x = np.arange(10), np.arange(10.0) / 10
    how: dict[str, Any] = {"n_bootstrap": 10, "seed": 0}
    hole = np.where(x == 0.5, math.nan, x)
    with pytest.raises(DataError, match="NaN"):
        bootstrap_mean(hole, ts, 1, **how)
    with pytest.raises(DataError, match="length"):
        bootstrap_mean(x, ts[1:], 1, **how)
    with pytest.raises(DataError, match="values_b"):
        bootstrap_mean_difference(x, ts, hole, ts, 1, **how)
    with pytest.raises(DataError, match="NaN"):
        bootstrap_spearman(x, hole, ts, 1, **how)
    with pytest.raises(DataError, match="length"):
        bootstrap_spearman(x, x, ts[1:], 1, **how)
    with pytest.raises(DataError, match="label"):
        bootstrap_reliability(x, np.full(10, 2), ts, 1, **how)
    with pytest.raises(DataError, match="length"):
        bootstrap_reliability(x, np.ones(10, np.int64), ts[1:], 1, **how)
