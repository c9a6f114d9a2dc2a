"""The tests for data snooping over a grid's counts by bin: noise, a planted setting, and what has no answer."""

from __future__ import annotations

import json

import numpy as np

from v13.research import snooping
from v13.research.snooping import examine

N_BINS = 160


def counts(rng: np.random.Generator, shares: list[float]) -> tuple[np.ndarray, np.ndarray]:
    n = rng.poisson(6.0, (len(shares), N_BINS)).astype(np.int32)
    return n, rng.binomial(n, np.array(shares)[:, None]).astype(np.int32)


def test_a_planted_setting_is_named_and_does_not_look_overfitted() -> None:
    found = examine(*counts(np.random.default_rng(1), [0.5] * 9 + [0.65]), 9, n_blocks=16, alpha=0.05, seed=1)
    assert found.superior == (9,)
    assert found.spa.p_consistent is not None
    assert found.spa.p_consistent < 0.01
    assert found.overfitting is not None
    assert found.overfitting.pbo < 0.05
    assert found.deflated is not None
    assert found.deflated.probability is not None
    assert found.deflated.probability > 0.95
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["n_bins"] == N_BINS


def test_the_best_of_noise_is_not_named() -> None:
    named = pbo = convincing = 0.0
    for seed in range(30):
        n, hits = counts(np.random.default_rng(seed), [0.5] * 20)
        best = int(((2 * hits - n).sum(axis=1) / np.sqrt(n.sum(axis=1))).argmax())
        found = examine(n, hits, best, n_blocks=16, alpha=0.05, seed=1)
        named += bool(found.superior)
        assert found.overfitting is not None
        pbo += found.overfitting.pbo / 30
        assert found.deflated is not None
        assert found.deflated.probability is not None
        convincing += found.deflated.probability > 0.95
    assert named <= 6  # 5 % of 30 is 1.5; SPA and StepM err on the bold side with 80 blocks
    assert 0.3 < pbo < 0.7
    assert convincing <= 3


def test_one_setting_or_no_choice_leaves_out_what_needs_more() -> None:
    found = examine(*counts(np.random.default_rng(2), [0.5]), None, n_blocks=16, alpha=0.05, seed=1)
    assert found.overfitting is None
    assert found.deflated is None
    assert found.n_effective == 1.0
    assert found.to_dict()["overfitting"] is None


def test_a_large_grid_gets_fewer_resamples_never_too_few() -> None:
    assert snooping.WORK // (480 * 27) > snooping.MAX_RESAMPLES
    assert snooping.WORK // (480 * 100_000) < snooping.MIN_RESAMPLES
