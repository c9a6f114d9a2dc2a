"""HAC rank correlation: against Newey and West by hand, its size on overlapping returns, and its power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import rankdata, spearmanr, t
from statsmodels.regression.linear_model import OLS

from v13.errors import DataError
from v13.measures.hac import hac_rank_correlation

HORIZON = 20


def events(seed: int, n_bars: int = 2_000, every: int = 1, edge: float = 0.0) -> tuple[np.ndarray, ...]:
    """Lasting scores and overlapping returns: score, return, time (one bar a second)."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(rng.standard_normal(n_bars + HORIZON + 1))
    score = lfilter([math.sqrt(1 - 0.95**2)], [1, -0.95], rng.standard_normal(n_bars))
    at = np.sort(rng.choice(n_bars, n_bars // every, replace=False))
    ret = path[at + HORIZON] - path[at] + edge * math.sqrt(HORIZON) * score[at]
    return score[at], ret, 1_000 * at


def by_hand(score: np.ndarray, ret: np.ndarray, lag: int) -> tuple[float, float]:
    """Slope of rank on rank and its Newey-West error, summed pair by pair; events in order of time."""
    x, y = rankdata(score), rankdata(ret)
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    n = len(x)
    rho = float(np.mean(x * y))
    moment = x * (y - rho * x)
    total = 0.0
    for i in range(n):
        for j in range(max(0, i - lag), min(n, i + lag + 1)):
            total += (1 - abs(i - j) / (lag + 1)) * moment[i] * moment[j]
    return rho, math.sqrt(n / (n - 2) * total) / n


def test_it_is_newey_and_west_by_hand_and_by_statsmodels() -> None:
    score, ret, ts = events(1, 600, 5)
    score = np.round(score, 1)  # with ties
    found = hac_rank_correlation(score, ret, ts, 1_000 * HORIZON)
    assert found.lag == max(sum(a < b <= a + 1_000 * HORIZON for b in ts) for a in ts)
    rho, se = by_hand(score, ret, found.lag)
    assert found.rho == pytest.approx(spearmanr(score, ret).statistic, abs=1e-12)
    assert found.rho == pytest.approx(rho, abs=1e-12)
    assert found.se == pytest.approx(se, rel=1e-9)
    assert found.p == pytest.approx(t.sf(rho / se, 1.5 * len(score) / (found.lag + 1)), rel=1e-9)
    x, y = rankdata(score), rankdata(ret)
    fit = OLS((y - y.mean()) / y.std(), np.column_stack([np.ones(len(x)), (x - x.mean()) / x.std()])).fit()
    robust = fit.get_robustcov_results("HAC", maxlags=found.lag, use_correction=True)
    assert found.se == pytest.approx(robust.bse[1], rel=1e-9)


def test_noise_passes_about_as_often_as_it_should_and_the_naive_test_far_more_often() -> None:
    """400 runs of lasting scores over returns that share 19 of 20 bars with their neighbours."""
    robust = naive = 0
    for seed in range(400):
        score, ret, ts = events(seed)
        found = hac_rank_correlation(score, ret, ts, 1_000 * HORIZON)
        assert found.p is not None
        robust += found.p < 0.05
        naive += spearmanr(score, ret, alternative="greater").pvalue < 0.05
    assert 0.02 * 400 <= robust <= 0.10 * 400
    assert naive >= 0.25 * 400


def test_a_real_correlation_is_found() -> None:
    passed = sum(hac_rank_correlation(*events(seed, edge=0.25), 1_000 * HORIZON).p < 0.05 for seed in range(50))
    assert passed >= 40
    against = hac_rank_correlation(*events(1, edge=-0.5), 1_000 * HORIZON)
    assert against.rho < 0
    assert against.p > 0.95


def test_events_in_any_order_give_the_same() -> None:
    score, ret, ts = events(2, 500, 3)
    mixed = np.random.default_rng(2).permutation(len(ts))
    assert hac_rank_correlation(score[mixed], ret[mixed], ts[mixed], 9_000) == hac_rank_correlation(
        score, ret, ts, 9_000
    )


def test_the_lag_counts_events_within_reach_and_is_one_at_the_least() -> None:
    rng = np.random.default_rng(3)
    score, ret = rng.random(30), rng.random(30)
    ts = 1_000 * np.arange(30)
    assert hac_rank_correlation(score, ret, ts, 500).lag == 1
    assert hac_rank_correlation(score, ret, ts, 4_000).lag == 4
    assert hac_rank_correlation(score, ret, ts // 3_000, 1).lag == 5  # its own time's other two, the next one's three


def test_too_few_events_for_the_lag_have_a_rho_and_no_p() -> None:
    rng = np.random.default_rng(4)
    score, ret, ts = rng.random(30), rng.random(30), 1_000 * np.arange(30)
    short = hac_rank_correlation(score, ret, ts, 10_000)
    assert (short.lag, short.se, short.p) == (10, None, None)
    assert short.rho == pytest.approx(spearmanr(score, ret).statistic)
    assert hac_rank_correlation(score, ret, ts, 9_000).p is not None
    none = np.empty(0)
    assert hac_rank_correlation(none, none, np.empty(0, np.int64), 1_000).rho is None
    assert hac_rank_correlation(np.ones(30), ret, ts, 1_000).rho is None


def test_a_perfect_order_is_certain() -> None:
    ts = 1_000 * np.arange(30)
    up = np.arange(30.0)
    assert hac_rank_correlation(up, up**3, ts, 1_000).p == pytest.approx(0, abs=1e-12)
    assert hac_rank_correlation(up, -up, ts, 1_000).p == pytest.approx(1)


def test_bad_input_is_refused() -> None:
    x, ts = np.arange(9.0), np.arange(9)
    with pytest.raises(DataError, match="one length"):
        hac_rank_correlation(x, x[:5], ts, 1)
    with pytest.raises(DataError, match="reach_ms"):
        hac_rank_correlation(x, x, ts, 0)
    with pytest.raises(DataError, match="NaN"):
        hac_rank_correlation(x, np.where(x > 3, np.nan, x), ts, 1)
