"""Overfitting and deflation: against ffn, purgedcv and every split written out; on noise and on planted skill."""

from __future__ import annotations

import math
import warnings
from itertools import combinations, pairwise

import ffn.core
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import linregress, norm, rankdata

from v13.errors import DataError
from v13.measures import overfitting
from v13.measures.overfitting import (
    Overfitting,
    cscv,
    deflated_sharpe,
    effective_trials,
    expected_max_sharpe,
    overfitting_probability,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the oracle, not of ours
    import purgedcv


def search(seed: int, n_steps: int = 240, n_settings: int = 9, skill: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n_steps, n_settings))
    x[:, 3] += skill
    return x


def counts(seed: int, n_settings: int = 12, n_blocks: int = 6, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(0, most + 1, (n_settings, n_blocks))
    return n, rng.binomial(n, 0.5)


def split_by_split(n: np.ndarray, hits: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Rank outside, statistic inside and outside, share of losses, of the best inside; ties share."""
    blocks = range(n.shape[1])
    rows = []

    def half(setting: int, chosen: tuple[int, ...]) -> float:
        events = sum(int(n[setting, b]) for b in chosen)
        right = sum(int(hits[setting, b]) for b in chosen)
        return (2 * right - events) / math.sqrt(events) if events else 0.0

    for chosen in combinations(blocks, len(blocks) // 2):
        rest = tuple(b for b in blocks if b not in chosen)
        inside = [half(s, chosen) for s in range(len(n))]
        outside = [half(s, rest) for s in range(len(n))]
        best = [s for s, value in enumerate(inside) if value == max(inside)]
        ranks = rankdata(outside)
        rows.append(
            (
                float(np.mean([ranks[s] for s in best])),
                max(inside),
                float(np.mean([outside[s] for s in best])),
                float(np.mean([outside[s] < 0 for s in best])),
            )
        )
    return rows


@pytest.mark.parametrize("n_blocks", [4, 8])
@pytest.mark.parametrize("skill", [0.0, 0.2])
@pytest.mark.parametrize("n_settings", [8, 9])
def test_it_is_what_both_libraries_find(n_blocks: int, skill: float, n_settings: int) -> None:
    """They list splits in opposite order, and count a logit of exactly 0 (odd number of settings only) differently.

    ffn: at or below the median is overfit, as the paper's integral up to and with 0, and as we do; purgedcv: below.
    """
    x = search(n_blocks, n_settings=n_settings, skill=skill)
    found = cscv(x, n_blocks)
    one = ffn.core.calc_prob_backtest_overfitting(pd.DataFrame(x), n_blocks=n_blocks, full_output=True)
    two = purgedcv.probability_of_backtest_overfitting(x.T, n_splits=n_blocks)
    assert found.n_splits == two.n_combos == math.comb(n_blocks, n_blocks // 2)
    assert found.logits == pytest.approx(one["logits"].to_numpy(), abs=1e-12)
    assert found.logits == pytest.approx(two.logits[::-1], abs=1e-12)
    assert found.pbo == pytest.approx(one["pbo"], abs=1e-12)
    assert float(np.mean(found.logits < 0)) == pytest.approx(two.pbo, abs=1e-12)
    if n_settings % 2 == 0:
        assert found.pbo == pytest.approx(two.pbo, abs=1e-12)
    assert found.slope == pytest.approx(two.slope, rel=1e-9)
    outside = two.is_oos_performance[:, 1]
    assert found.median_oos == pytest.approx(np.median(outside), rel=1e-9)
    assert found.prob_loss == np.mean(outside < 0)


def test_the_mean_as_statistic_is_what_both_libraries_find() -> None:
    x = search(5, skill=0.1)
    found = cscv(x, 6, "mean")
    one = ffn.core.calc_prob_backtest_overfitting(pd.DataFrame(x), 6, metric=lambda v: v.mean(), full_output=True)
    two = purgedcv.probability_of_backtest_overfitting(x.T, 6, metric=np.mean)
    assert found.logits == pytest.approx(one["logits"].to_numpy(), abs=1e-12)
    assert found.logits == pytest.approx(two.logits[::-1], abs=1e-12)
    assert found.slope == pytest.approx(two.slope, rel=1e-9)


def test_steps_left_over_go_to_the_first_blocks_and_a_constant_half_scores_zero() -> None:
    """As purgedcv; ffn drops the last steps, and gives no answer where a half is constant."""
    x = search(6, 63, 7)
    x[:40, 2] = 0.0
    x[:, 5] = 0.3
    found = cscv(x, 4)
    two = purgedcv.probability_of_backtest_overfitting(x.T, 4)
    assert found.logits == pytest.approx(two.logits[::-1], abs=1e-12)
    assert found.slope == pytest.approx(two.slope, rel=1e-9)


def test_counts_of_hits_give_what_both_libraries_find() -> None:
    """A block is a step of theirs: hits and events packed into one number and taken apart by the metric."""
    n, hits = counts(1, most=2_000)  # so many that nothing ties

    def statistic(packed: np.ndarray) -> float:
        events, right = np.divmod(np.asarray(packed), 2**20)
        return float((2 * right.sum() - events.sum()) / math.sqrt(events.sum()))

    packed = (n * 2**20 + hits).astype(float)
    found = overfitting_probability(n, hits)
    one = ffn.core.calc_prob_backtest_overfitting(pd.DataFrame(packed.T), 6, metric=statistic, full_output=True)
    two = purgedcv.probability_of_backtest_overfitting(packed, 6, metric=statistic)
    assert found.logits == pytest.approx(one["logits"].to_numpy(), abs=1e-12)
    assert found.logits == pytest.approx(two.logits[::-1], abs=1e-12)
    assert found.pbo == pytest.approx(one["pbo"]) == pytest.approx(two.pbo)
    assert found.slope == pytest.approx(two.slope, rel=1e-9)


@pytest.mark.parametrize("most", [1, 3, 40])
def test_it_is_what_every_split_written_out_gives(most: int) -> None:
    """With few events most splits tie, and some settings have none."""
    n, hits = counts(2, most=most)
    n[4], hits[4] = n[3], hits[3]
    rank, inside, outside, loss = map(np.array, zip(*split_by_split(n, hits), strict=True))
    found = overfitting_probability(n, hits)
    share = rank / 13
    assert found.logits == pytest.approx(np.log(share / (1 - share)), abs=1e-12)
    assert found.pbo == np.mean(share <= 0.5)
    assert found.median_oos == pytest.approx(np.median(outside), abs=1e-12)
    assert found.prob_loss == pytest.approx(loss.mean(), abs=1e-12)
    assert found.slope == pytest.approx(linregress(inside, outside).slope, rel=1e-9)


def same(a: Overfitting, b: Overfitting) -> bool:
    return np.allclose(a.logits, b.logits, rtol=0, atol=1e-12) and (a.pbo, a.prob_loss) == (b.pbo, b.prob_loss)


def test_the_order_of_settings_is_of_no_account() -> None:
    n, hits = counts(3, most=3)
    mixed = np.random.default_rng(3).permutation(len(n))
    assert same(overfitting_probability(n, hits), overfitting_probability(n[mixed], hits[mixed]))


def test_working_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    n, hits = counts(4, 50, 10)
    whole = overfitting_probability(n, hits)
    monkeypatch.setattr(overfitting, "CELLS_AT_ONCE", 350)
    pieces = overfitting_probability(n, hits)
    assert same(whole, pieces)
    assert whole.slope == pytest.approx(pieces.slope, rel=1e-12)


def test_on_noise_it_is_a_toss_and_planted_skill_carries_over() -> None:
    rng = np.random.default_rng(8)
    tossed = []
    for _ in range(60):
        n = rng.integers(10, 60, (40, 8))
        tossed.append(overfitting_probability(n, rng.binomial(n, 0.5)).pbo)
    assert 0.4 < np.mean(tossed) < 0.6
    n = np.full((40, 8), 60)
    right = rng.binomial(n, 0.5)
    right[7] = rng.binomial(60, 0.65, 8)
    found = overfitting_probability(n, right)
    assert (found.pbo, found.prob_loss) == (0.0, 0.0)
    assert found.median_oos > 2
    assert (found.n_splits, found.n_settings) == (70, 40)


def test_settings_all_alike_leave_nothing_to_select() -> None:
    n, hits = counts(6)
    found = overfitting_probability(n[[0] * 5], hits[[0] * 5])
    assert found.logits == pytest.approx(np.zeros(20), abs=1e-12)
    assert found.pbo == 1.0
    empty = overfitting_probability(np.zeros((3, 4), np.int64), np.zeros((3, 4), np.int64))
    assert (empty.pbo, empty.median_oos, empty.prob_loss, empty.slope) == (1.0, 0.0, 0.0, None)


@pytest.mark.parametrize(
    ("n", "hits", "message"),
    [
        (np.ones((3, 4), int), np.ones((3, 6), int), "one shape"),
        (np.ones((3, 4)), np.ones((3, 4), int), "whole numbers"),
        (np.ones((1, 4), int), np.ones((1, 4), int), "at least 2"),
        (np.ones((3, 5), int), np.ones((3, 5), int), "even number"),
        (np.ones((3, 18), int), np.ones((3, 18), int), "even number"),
        (np.ones((3, 4), int), np.full((3, 4), 2), "hits <= n"),
        (np.ones((3, 4), int), np.full((3, 4), -1), "hits <= n"),
    ],
)
def test_bad_counts_are_refused(n: np.ndarray, hits: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        overfitting_probability(n, hits)


def test_a_bad_series_is_refused() -> None:
    for x, n_blocks, statistic, message in (
        (np.zeros(9), 4, "mean", "steps by settings"),
        (np.zeros((7, 3)), 4, "mean", "at least 8 steps"),
        (np.full((9, 3), np.inf), 4, "mean", "finite"),
        (np.zeros((9, 3)), 3, "mean", "even number"),
        (np.zeros((9, 3)), 4, "median", "median"),
    ):
        with pytest.raises(DataError, match=message):
            cscv(x, n_blocks, statistic)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("skill", [0.0, 0.15])
def test_the_deflated_ratio_is_what_both_libraries_find(seed: int, skill: float) -> None:
    """They differ in the standard deviation of the ratio alone: ffn divides by n - 1, purgedcv by n."""
    x = search(seed, 300, 40, skill) + 0.3 * np.random.default_rng(seed).exponential(1, (300, 40)) - 0.3
    ratios = x.mean(axis=0) / x.std(axis=0, ddof=1)
    best = x[:, int(ratios.argmax())]
    ours = deflated_sharpe(best, ratios)
    one = ffn.core.calc_deflated_sharpe_ratio(pd.Series(best), ratios, nperiods=1, annualized_trials=False)
    assert ours.probability == pytest.approx(one, abs=1e-9)
    bar = ffn.core.calc_expected_max_sharpe(40, ratios.std(ddof=1))
    assert ours.expected_max_sharpe == pytest.approx(bar, abs=1e-9)
    two = purgedcv.deflated_sharpe_ratio_full(best, 40, ratios.var(ddof=1))
    ours = deflated_sharpe(best, ratios, ddof=0)
    assert (ours.probability, ours.sharpe, ours.expected_max_sharpe, ours.skew, ours.kurtosis) == pytest.approx(
        (two.dsr, two.observed_sr, two.sr_star, two.skew, two.kurt), abs=1e-9
    )
    fewer = deflated_sharpe(best, ratios, n_effective=7, ddof=0)
    assert fewer.probability == pytest.approx(purgedcv.deflated_sharpe_ratio(best, 7, ratios.var(ddof=1)), abs=1e-9)
    assert fewer.probability > ours.probability
    assert (ours.n_steps, ours.n_trials, fewer.n_trials) == (300, 40, 7)


def test_the_bar_is_the_papers() -> None:
    """Bailey and Lopez de Prado (2014), numerical example: 100 trials, annual variance 1/2, 250 days a year."""
    assert expected_max_sharpe(100, math.sqrt(0.5 / 250)) == pytest.approx(0.1132, abs=5e-5)


def test_the_bar_is_about_the_mean_of_the_best_of_so_many_draws() -> None:
    mean = quad(lambda x: 50 * x * norm.pdf(x) * norm.cdf(x) ** 49, -8, 8)[0]
    assert expected_max_sharpe(50, 1.0) == pytest.approx(mean, abs=0.03)  # the approximation is 0.027 high
    assert expected_max_sharpe(1, 1.0) == 0.0
    bars = [expected_max_sharpe(n, 1.0) for n in (1, 1.1, 1.5, 2, 2.5, 10, 1e4)]
    assert all(a <= b for a, b in pairwise(bars))
    assert bars[1] == 0.0  # the formula is at -0.3 here


def test_a_series_without_a_ratio_has_no_probability() -> None:
    ratios = np.array([0.1, 0.2, 0.05])
    for series in (np.ones(50), np.array([1.0, 2.0, 4.0])):
        found = deflated_sharpe(series, ratios)
        assert (found.sharpe, found.skew, found.kurtosis, found.probability) == (None, None, None, None)
        assert found.expected_max_sharpe > 0
    assert deflated_sharpe(np.array([1.0, 2.0, 4.0, 3.0]), ratios[:1]).expected_max_sharpe == 0.0


def test_the_effective_number_is_that_of_the_mean_correlation() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((500, 12)) + 1.2 * rng.standard_normal((500, 1))
    r = np.corrcoef(x.T)[np.triu_indices(12, 1)].mean()
    assert effective_trials(x) == pytest.approx(r + (1 - r) * 12, rel=1e-9)
    assert effective_trials(np.column_stack([x, np.ones(500)])) == pytest.approx(effective_trials(x))
    assert effective_trials(x[:, [0] * 6]) == pytest.approx(1)
    assert effective_trials(np.column_stack([x[:, 0], -x[:, 0]])) == pytest.approx(2)
    assert effective_trials(np.zeros((5, 3))) == 1.0
    assert effective_trials(np.empty((0, 3))) == 1.0


def test_bad_trials_are_refused() -> None:
    x, ratios = np.arange(9.0), np.array([0.1, 0.2])
    for series, trials, n_effective, message in (
        (x, np.empty(0), None, "at least one trial"),
        (x, np.array([0.1, np.nan]), None, "finite"),
        (x[:, None], ratios, None, "one dimension"),
        (x, ratios, 3.0, "n_effective"),
        (x, ratios, 0.5, "n_effective"),
    ):
        with pytest.raises(DataError, match=message):
            deflated_sharpe(series, trials, n_effective=n_effective)
    with pytest.raises(DataError, match="n_trials"):
        expected_max_sharpe(0.5, 1.0)
    with pytest.raises(DataError, match="finite"):
        effective_trials(np.full((4, 2), np.nan))
