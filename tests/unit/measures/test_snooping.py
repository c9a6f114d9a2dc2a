"""SPA and StepM: against arch on losses scaled by hand and a bootstrap written out; on noise and on planted skill."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import SPA, StepM
from scipy.stats import ttest_1samp

from v13.errors import DataError
from v13.measures.snooping import step_m, superior_ability


def losses(seed: int, n_steps: int = 400, n_settings: int = 5) -> np.ndarray:
    """Misses minus hits of settings without skill, each busy at a rate of its own."""
    rng = np.random.default_rng(seed)
    busy = rng.random((n_steps, n_settings)) < np.linspace(0.2, 0.9, n_settings)
    return rng.choice([-1.0, 1.0], (n_steps, n_settings)) * busy


def long_run_variance(x: np.ndarray, block: int) -> float:
    """Politis and Romano's sum over pairs of steps, written out."""
    n, d = len(x), x - x.mean()
    total = float(d @ d)
    for i in range(1, n):
        kernel = (1 - i / n) * (1 - 1 / block) ** i + i / n * (1 - 1 / block) ** (n - i)
        total += 2 * kernel * float(d[:-i] @ d[i:])
    return total / n


def scaled(x: np.ndarray, block: int) -> np.ndarray:
    return x / np.sqrt([long_run_variance(column, block) for column in x.T])


def stationary_bootstrap_p(x: np.ndarray, block: int, n_bootstrap: int, seed: int) -> list[float]:
    """Hansen's three p-values, sharing no code with arch."""
    rng = np.random.default_rng(seed)
    n = len(x)
    gain = -x
    omega = np.sqrt([long_run_variance(column, block) for column in x.T])
    mean = gain.mean(axis=0)
    known_bad = mean < -omega / math.sqrt(n) * math.sqrt(2 * math.log(math.log(n)))
    centres = [np.maximum(mean, 0), np.where(known_bad, 0, mean), mean]
    reached = np.zeros(3)
    for _ in range(n_bootstrap):
        fresh, start = rng.random(n) < 1 / block, rng.integers(n, size=n)
        at, index = 0, np.empty(n, np.int64)
        for step in range(n):
            at = start[step] if fresh[step] or step == 0 else (at + 1) % n
            index[step] = at
        drawn = gain[index].mean(axis=0)
        reached += [max((drawn - centre) / omega) > max(mean / omega) for centre in centres]
    return list((1 + reached) / (1 + n_bootstrap))


@pytest.mark.parametrize("block", [1, 4])
def test_it_is_arch_on_losses_scaled_by_hand(block: int) -> None:
    x = losses(1)
    found = superior_ability(x, block=block, n_bootstrap=300, seed=7)
    spa = SPA(np.zeros(len(x)), scaled(x, block), block_size=block, reps=300, bootstrap="stationary", seed=7)
    spa.compute()
    expected = [(1 + 300 * p) / 301 for p in spa.pvalues]
    assert [found.p_lower, found.p_consistent, found.p_upper] == pytest.approx(expected, rel=1e-12)
    assert (found.n_steps, found.n_settings, found.n_constant, found.reason) == (400, 5, 0, "")


def test_it_agrees_with_a_bootstrap_written_out() -> None:
    x = losses(5, 150, 4)
    x[:, 3] = np.abs(x[:, 3])  # one that is known to be bad, so that the three differ
    found = superior_ability(x, block=3, n_bootstrap=2_000, seed=1)
    expected = stationary_bootstrap_p(x, 3, 2_000, 2)
    # Two estimates of a share from 2,000 draws each: standard error of the difference at most 0.016.
    assert [found.p_lower, found.p_consistent, found.p_upper] == pytest.approx(expected, abs=0.05)
    assert found.p_lower < found.p_upper


def test_no_setting_weighs_more_for_its_larger_losses() -> None:
    x = losses(2)
    plain = superior_ability(x, block=2, n_bootstrap=200, seed=3)
    assert superior_ability(x * 2.0 ** np.arange(5), block=2, n_bootstrap=200, seed=3) == plain
    assert superior_ability(x, block=2, n_bootstrap=200, seed=4) != plain


def test_a_rare_good_setting_is_found_among_busy_noise() -> None:
    """The plain mean, which is what arch compares, hides it: its step is a hundredth of theirs."""
    rng = np.random.default_rng(4)
    x = losses(4, 600, 8)
    x[:, 2] = -0.01 * np.where(rng.random(600) < 0.75, 1, -1) * (rng.random(600) < 0.2)
    assert superior_ability(x, block=2, n_bootstrap=400, seed=1).p_consistent < 0.01
    assert step_m(x, size=0.05, block=2, n_bootstrap=400, seed=1) == (2,)
    plain = SPA(np.zeros(600), x, block_size=2, reps=400, seed=1)
    plain.compute()
    assert plain.pvalues["consistent"] > 0.1


def test_settings_that_never_change_take_no_part() -> None:
    x = losses(3)
    plain = superior_ability(x, block=2, n_bootstrap=200, seed=3)
    wider = np.column_stack([np.zeros(400), x, np.full(400, 0.1), np.full(400, -1.0)])
    found = superior_ability(wider, block=2, n_bootstrap=200, seed=3)
    assert (found.p_lower, found.p_consistent, found.p_upper) == (plain.p_lower, plain.p_consistent, plain.p_upper)
    assert (found.n_settings, found.n_constant) == (8, 3)
    nothing = superior_ability(np.zeros((400, 3)), block=2, n_bootstrap=200, seed=3)
    assert (nothing.p_consistent, nothing.n_constant) == (None, 3)
    assert "changes" in nothing.reason
    assert step_m(np.zeros((400, 3)), size=0.05, block=2, n_bootstrap=200, seed=3) == ()


def test_the_best_of_noise_passes_about_as_often_as_it_should() -> None:
    """100 searches of 6 settings: the winner's own t-test passes in a quarter of them."""
    whole = stepwise = own = 0
    for seed in range(100):
        x = losses(seed, 200, 6)
        p = superior_ability(x, block=2, n_bootstrap=199, seed=seed).p_consistent
        assert p is not None
        whole += p < 0.05
        stepwise += bool(step_m(x, size=0.05, block=2, n_bootstrap=199, seed=seed))
        own += ttest_1samp(x, 0, alternative="less").pvalue.min() < 0.05
    assert own >= 18
    assert whole <= 12  # 5 % of 100 is 5; more than 12 has a chance of 0.15 %
    assert stepwise <= 12


def test_planted_skill_is_found_and_named() -> None:
    rng = np.random.default_rng(9)
    x = losses(9, 800, 10)
    for column in (1, 7):
        x[:, column] = -np.where(rng.random(800) < 0.62, 1, -1)
    found = superior_ability(x, block=3, n_bootstrap=999, seed=1)
    assert found.p_upper == 0.001
    assert step_m(x, size=0.05, block=3, n_bootstrap=999, seed=1) == (1, 7)
    arch = StepM(np.zeros(800), scaled(x, 3), size=0.05, block_size=3, reps=999, seed=1)
    arch.compute()
    assert arch.superior_models == [1, 7]
    wider = np.column_stack([np.zeros(800), x])
    assert step_m(wider, size=0.05, block=3, n_bootstrap=999, seed=1) == (2, 8)


def test_naming_goes_on_after_the_first_step_and_ends_when_none_is_left() -> None:
    """The second setting stands out only once the first is set aside; then none is left (arch 8.0 fails here)."""
    rng = np.random.default_rng(1)
    noise, weak = rng.standard_normal((2, 400))
    weak = weak - weak.mean() - 1.8 * weak.std() / 20  # 1.8 standard errors: between the bars for one and for two
    good = noise - noise.mean() - 1
    chances = {"size": 0.05, "block": 1, "n_bootstrap": 1_999, "seed": 1}
    assert step_m(np.column_stack([noise, weak]), **chances) == ()
    assert step_m(np.column_stack([good, weak]), **chances) == (0, 1)


def test_a_short_record_has_no_p() -> None:
    x = losses(1, 199, 3)
    found = superior_ability(x, block=4, n_bootstrap=50, seed=1)
    assert (found.p_lower, found.p_consistent, found.p_upper) == (None, None, None)
    assert "50 blocks of 4" in found.reason
    assert step_m(x - 1, size=0.05, block=4, n_bootstrap=50, seed=1) == ()
    assert superior_ability(losses(1, 200, 3), block=4, n_bootstrap=50, seed=1).reason == ""


@pytest.mark.parametrize(
    ("x", "changes", "message"),
    [
        (np.zeros(9), {}, "steps by settings"),
        (np.zeros((9, 0)), {}, "steps by settings"),
        (np.full((9, 2), np.nan), {}, "finite"),
        (np.zeros((9, 2)), {"block": 0}, "block"),
        (np.zeros((9, 2)), {"n_bootstrap": 0}, "n_bootstrap"),
    ],
)
def test_bad_input_is_refused(x: np.ndarray, changes: dict[str, int], message: str) -> None:
    settings = {"block": 1, "n_bootstrap": 10, "seed": 1} | changes
    with pytest.raises(DataError, match=message):
        superior_ability(x, **settings)
    with pytest.raises(DataError, match=message):
        step_m(x, size=0.05, **settings)


def test_the_size_of_a_family_is_a_share() -> None:
    with pytest.raises(DataError, match="size"):
        step_m(losses(1), size=1.0, block=1, n_bootstrap=10, seed=1)
