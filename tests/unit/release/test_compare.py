"""The comparison: false rollbacks, power, blocks, restarts, and what survives a kill."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from tests.bench.compare_bench import Noise, e_table, first_rollback, interval, repeated_t_test
from v13.errors import ReleaseError
from v13.release.compare import (
    ALPHA,
    BLOCK_S,
    GAP_S,
    LEAST_BET,
    METRICS,
    NULL,
    Comparison,
    course_e_value,
    instance_matcher,
    log_e_value,
)

C, S = "127.0.0.1:8013", "127.0.0.1:8003"
EVENT = "divergence_event_latency_seconds"


def sample(at_s: float, mean_s: float, *, start_s: float = -1_000.0, rss: float = 1e8) -> dict[str, float]:
    """Return the counters of a process that has made 10 of everything a second since 0."""
    n = 10.0 * at_s
    own = {f"{EVENT}_sum": n * mean_s, f"{EVENT}_count": n}
    for name in ("divergence_detection_latency_seconds", "divergence_commit_seconds"):
        own |= {f"{name}_sum": n * mean_s, f"{name}_count": n}
    own |= {"divergence_errors_total": 0.0, "divergence_bars_total": n, "process_cpu_seconds_total": 0.1 * at_s}
    return own | {"process_resident_memory_bytes": rss, "process_start_time_seconds": start_s}


def played(comparison: Comparison, seconds: range, candidate_s: float, stable_s: float = 1e-3) -> dict[str, int]:
    """Look every 15 s; return how many blocks each metric was judged on."""
    for at_s in seconds[::15]:
        comparison.see({C: sample(at_s, candidate_s), S: sample(at_s, stable_s)}, float(at_s))
    return {one.metric: one.n_worse + one.n_better + one.n_alike for one in comparison.result()}


# --- The e-value -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_e_value_is_the_mixture_it_is_said_to_be(a: int, b: int) -> None:
    def bets(p: float) -> float:
        return (p / NULL) ** a * ((1 - p) / (1 - NULL)) ** b

    wanted = quad(bets, LEAST_BET, 1.0)[0] / (1.0 - LEAST_BET)
    assert math.exp(log_e_value(np.array(float(a)), np.array(float(b)))) == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@given(st.lists(st.integers(0, 1), max_size=45))
@settings(deadline=None)
def test_whatever_came_before_the_next_bet_is_fair_at_the_null_chance(bets: list[int]) -> None:
    """The martingale itself: the mean of the next e-value, over a next block that is worse with NULL, is this one."""
    after = NULL * course_e_value([*bets, 1]) + (1.0 - NULL) * course_e_value([*bets, 0])
    assert after == pytest.approx(course_e_value(bets), rel=1e-9)


def test_without_a_block_the_e_value_is_1() -> None:
    assert course_e_value([]) == pytest.approx(1.0, rel=1e-12)


def test_a_candidate_that_becomes_slow_after_hours_is_not_hidden_by_its_past() -> None:
    limit = len(METRICS) / ALPHA
    good = [0] * 300  # five hours
    needed = next(n for n in range(1, 200) if course_e_value([*good, *[1] * n]) >= limit)
    at_once = next(n for n in range(1, 200) if course_e_value([1] * n) >= limit)
    assert at_once == 13  # 13 minutes: as soon as it can be
    assert needed <= 40  # a single course would need hundreds
    a, b = np.array([40.0]), np.array([300.0])
    assert float(log_e_value(a, b)[0]) < 0.0


# --- False rollbacks and power, simulated ----------------------------------------------------------------------------


def test_the_simulation_holds_the_product_s_e_value() -> None:
    _, bets, e_value = first_rollback(Noise(), 1, 2.0, factor=1.3, seed=3)
    assert 0 < bets.sum() < bets.size == 120
    assert course_e_value(bets.astype(int).tolist()) == pytest.approx(e_value)
    assert e_table(20)[7, 20] == pytest.approx(math.exp(log_e_value(np.array(7.0), np.array(13.0))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise",
    [Noise(rho=0.0), Noise(), Noise(rho=0.9, tails=3.0), Noise(stalls=60.0), Noise(drift=0.1)],
    ids=["white", "correlated", "correlated with heavy tails", "stalls", "common drift"],
)
def test_like_candidates_are_rolled_back_in_less_than_one_of_a_hundred_runs(noise: Noise) -> None:
    """Three hours, 180 blocks, six metrics; the upper end of the 95 % interval is below 1 %."""
    n_runs = 1_000
    k = int(np.isfinite(first_rollback(noise, n_runs, 3.0)[0]).sum())
    assert interval(k, n_runs)[1] < 0.01


def test_a_plain_t_test_condemns_a_fifth_of_like_candidates_in_sixty_looks() -> None:
    assert repeated_t_test(4_000, 60) > 0.2


def test_a_candidate_twice_as_slow_is_found_within_half_an_hour() -> None:
    first, *_ = first_rollback(Noise(), 200, 0.5, factor=2.0, seed=1)
    assert np.isfinite(first).mean() > 0.9
    quiet, *_ = first_rollback(Noise(sigma=0.1, stalls=0.0), 100, 0.5, factor=2.0, seed=2)
    assert np.quantile(quiet, 0.9) <= 15


# --- Blocks ----------------------------------------------------------------------------------------------------------


def test_a_slow_candidate_is_worse_in_every_block_and_a_like_one_in_none() -> None:
    like, slow = Comparison(C, S), Comparison(C, S)
    n = played(like, range(0, 3_600), 1e-3)
    assert n == {metric.key: 60 for metric in METRICS}  # a block and a gap of 30 s: one a minute
    assert not any(one.n_worse or one.is_beyond for one in like.result())
    played(slow, range(0, 900), 2e-3)
    found = {one.metric: one for one in slow.result()}
    assert found["event_latency"].n_worse == 15
    assert found["event_latency"].is_beyond
    assert (found["event_latency"].candidate, found["event_latency"].stable) == pytest.approx((2e-3, 1e-3))
    assert not found["cpu"].is_beyond


def test_margin_and_floor_are_of_no_interest() -> None:
    comparison = Comparison(C, S)
    played(comparison, range(0, 3_600), 1.24e-3)
    assert not any(one.n_worse for one in comparison.result())
    tiny = Comparison(C, S)
    played(tiny, range(0, 3_600), 9e-6, 1e-6)  # nine times as slow, and still below every floor
    assert not any(one.n_worse for one in tiny.result())


def test_a_better_candidate_never_comes_near() -> None:
    comparison = Comparison(C, S)
    played(comparison, range(0, 36_000), 1e-3, 2e-3)
    found = {one.metric: one for one in comparison.result()}
    assert found["event_latency"].n_better == 600
    assert found["event_latency"].peak == 1.0


def test_a_restart_within_a_block_says_nothing_and_the_next_block_counts() -> None:
    comparison = Comparison(C, S)
    comparison.see({C: sample(0, 1e-3), S: sample(0, 1e-3)}, 0.0)
    again = sample(10, 9e-3, start_s=-500.0)  # counters begin at 0 again: they went back
    result = comparison.see({C: again, S: sample(30, 1e-3)}, 30.0)
    assert not any(one.n_worse + one.n_better + one.n_alike for one in result)


def test_a_counter_that_went_back_without_a_new_start_time_says_nothing() -> None:
    first, last = sample(100, 1e-3), sample(50, 1e-3)
    assert all(metric.value(first, last, 30.0) is None for metric in METRICS if not metric.is_growth)


def test_a_young_process_is_not_compared() -> None:
    comparison = Comparison(C, S)
    young = sample(10, 5e-3, start_s=0.0)
    comparison.see({C: young, S: sample(10, 1e-3)}, 10.0)
    comparison.see({C: sample(110, 5e-3, start_s=0.0), S: sample(110, 1e-3)}, 110.0)
    assert not any(one.n_worse for one in comparison.result())


def test_an_instance_that_is_missing_ends_the_block_unjudged() -> None:
    comparison = Comparison(C, S)
    comparison.see({C: sample(0, 2e-3), S: sample(0, 1e-3)}, 0.0)
    comparison.see({S: sample(15, 1e-3)}, 15.0)
    result = comparison.see({C: sample(30, 2e-3), S: sample(30, 1e-3)}, 30.0)
    assert not any(one.n_worse for one in result)


def test_too_few_observations_say_nothing() -> None:
    comparison = Comparison(C, S)
    idle = sample(50, 2e-3)
    comparison.see({C: idle, S: sample(50, 1e-3)}, 50.0)
    found = {one.metric: one for one in comparison.see({C: idle, S: sample(80, 1e-3)}, 80.0)}
    assert found["event_latency"].n_worse + found["event_latency"].n_alike == 0
    assert found["cpu"].n_better + found["cpu"].n_alike == 1  # per second, and seconds passed


def test_a_leak_is_found_and_memory_that_shrinks_is_none() -> None:
    comparison = Comparison(C, S)
    for at_s in range(0, 1_200, 15):
        leaking, shrinking = sample(at_s, 1e-3, rss=1e8 + 1e5 * at_s), sample(at_s, 1e-3, rss=2e8 - 1e4 * at_s)
        comparison.see({C: leaking, S: shrinking}, float(at_s))
    beyond = {one.metric for one in comparison.result() if one.is_beyond}
    assert beyond == {"memory"}


# --- A kill ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("until_s", [0, 1, 100, 110, 125, 700])
def test_a_comparison_taken_up_again_goes_on_as_if_nothing_had_been(until_s: int) -> None:
    whole, first = Comparison(C, S), Comparison(C, S)
    played(whole, range(0, 900), 2e-3)
    seconds = list(range(0, 900)[::15])
    for at_s in [s for s in seconds if s < until_s]:
        first.see({C: sample(at_s, 2e-3), S: sample(at_s, 1e-3)}, float(at_s))
    state = json.loads(json.dumps(first.to_dict()))
    second = Comparison.from_dict(state)
    assert second.to_dict() == first.to_dict() == state
    for at_s in [s for s in seconds if s >= until_s]:
        second.see({C: sample(at_s, 2e-3), S: sample(at_s, 1e-3)}, float(at_s))
    assert second.to_dict() == whole.to_dict()
    assert second.result() == whole.result()


def test_a_damaged_state_is_refused() -> None:
    state = Comparison(C, S).to_dict()
    with pytest.raises(ReleaseError, match="damaged"):
        Comparison.from_dict(state | {"courses": {"cpu": {}}})
    with pytest.raises(ReleaseError, match="other metrics"):
        Comparison.from_dict(state | {"courses": {}})
    with pytest.raises(ReleaseError, match="two instances"):
        Comparison(C, C)


def test_a_matcher_takes_only_what_it_names() -> None:
    assert instance_matcher([C, S, C]) == r"instance=~`127\.0\.0\.1:8013|127\.0\.0\.1:8003`"
    assert (BLOCK_S, GAP_S) == (30.0, 30.0)  # what the simulation was made for
