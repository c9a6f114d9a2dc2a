"""How often `release.compare` rolls back a like candidate, and how soon a slower one is found: simulated.

`python -m tests.bench.compare_bench` prints the tables. The rule under test is the product's own (`is_worse`,
`log_e_value` and its constants); `tests/unit/release/test_compare.py` holds this simulation's e-values to its course.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from v13.release.compare import (
    ALPHA,
    BLOCK_S,
    FIRST_SHARE,
    GAP_S,
    METRICS,
    RESTART_BETS,
    is_worse,
    log_e_value,
)

STEP_S = 5.0  # of the simulated noise
MARGIN = METRICS[0].margin
N_METRICS = len(METRICS)


@dataclass(frozen=True)
class Noise:
    """Noise of the means of two processes on one machine, as a factor around 1.

    rho and sigma: AR(1) over steps of 5 s in the logarithm of each process alone; drift: random walk common to both,
    standard deviation a step; stalls: times an hour that one process alone (all its metrics) is slower by 1 + 3 Pareto
    (index 1.5: its mean is finite, its variance is not), for 20 s on average; tails: degrees of freedom of Student's t
    for the innovations, 0 for normal ones.
    """

    rho: float = 0.8
    sigma: float = 0.3
    drift: float = 0.02
    stalls: float = 6.0
    tails: float = 0.0


def first_rollback(
    noise: Noise, n_runs: int, hours: float, *, factor: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return when each run is rolled back ((n_runs,) blocks, inf for never); bets and last e-value of one metric."""
    rng = np.random.default_rng(seed)
    steps, gap = round(BLOCK_S / STEP_S), round(GAP_S / STEP_S)
    n_blocks = int(hours * 3_600 / STEP_S) // (steps + gap)
    shape = (n_runs, 2, N_METRICS)
    x, d = noise.sigma * rng.standard_normal(shape), np.zeros((n_runs, 1, 1))
    left, height = np.zeros((n_runs, 2)), np.ones((n_runs, 2))
    n_starts = n_blocks // RESTART_BETS + 1
    worse = np.zeros((n_starts, n_runs, N_METRICS), np.int32)
    table = e_table(n_blocks)
    shares = np.concatenate(([FIRST_SHARE], (1 - FIRST_SHARE) / (np.arange(1, n_starts) * np.arange(2, n_starts + 1))))
    first, history = np.full(n_runs, np.inf), []
    for block in range(n_blocks):
        total = np.zeros(shape)
        for step in range(steps + gap):
            x = noise.rho * x + noise.sigma * np.sqrt(1 - noise.rho**2) * innovations(rng, shape, noise.tails)
            d += noise.drift * rng.standard_normal(d.shape)
            began = (rng.random(left.shape) < noise.stalls * STEP_S / 3_600) & (left <= 0)
            left = np.where(began, 1 + rng.exponential(20 / STEP_S, left.shape), left - 1)
            height = np.where(began, 1 + 3 * rng.pareto(1.5, left.shape), height)
            if step < steps:
                total += np.exp(x + d) * np.where(left > 0, height, 1.0)[:, :, None]
        is_bet = is_worse(total[:, 0] * factor, total[:, 1], MARGIN, 0.0)
        history.append(is_bet[0, 0])
        n_open = block // RESTART_BETS + 1  # a course that begins after this block has had no bet
        worse[:n_open] += is_bet
        n = block + 1 - RESTART_BETS * np.arange(n_open)
        e = np.tensordot(shares[:n_open], table[worse[:n_open], n[:, None, None]], axes=1) + 1 - shares[:n_open].sum()
        is_hit = (e >= N_METRICS / ALPHA).any(axis=1)
        first = np.where(is_hit & np.isinf(first), block + 1, first)
    return first, np.array(history), float(e[0, 0])


def e_table(n_blocks: int) -> np.ndarray:
    """Return the e-value of a course by how many of how many blocks were worse."""
    a, n = np.meshgrid(np.arange(n_blocks + 1.0), np.arange(n_blocks + 1.0), indexing="ij")
    with np.errstate(over="ignore"):
        return np.exp(np.where(a <= n, log_e_value(np.minimum(a, n), np.maximum(n - a, 0.0)), -np.inf))


def innovations(rng: np.random.Generator, shape: tuple[int, ...], tails: float) -> np.ndarray:
    """Return noise of mean 0 and variance 1."""
    return rng.standard_t(tails, shape) * np.sqrt((tails - 2) / tails) if tails else rng.standard_normal(shape)


def repeated_t_test(n_runs: int, n_looks: int, *, seed: int = 0) -> float:
    """Return how often a t-test at 5 %, of one metric in white noise, condemns a like candidate at one of its looks."""
    x = np.random.default_rng(seed).standard_normal((n_runs, n_looks))
    n = np.arange(1, n_looks + 1)
    mean = np.cumsum(x, axis=1) / n
    deviation = np.sqrt((np.cumsum(x**2, axis=1) - n * mean**2)[:, 1:] / n[:-1])
    p = 2 * t.sf(np.abs(mean[:, 1:]) / deviation * np.sqrt(n[1:]), n[1:] - 1)
    return float((p < 0.05).any(axis=1).mean())


def interval(k: int, n: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share at 95 %."""
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    return low, 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--hours", type=float, default=12.0)
    options = parser.parse_args()
    print(f"false rollbacks of like candidates: {options.runs:,} runs of {options.hours:g} h, {N_METRICS} metrics")
    for name, noise in {
        "white": Noise(rho=0.0),
        "rho 0.8 (memory 22 s)": Noise(),
        "rho 0.9 (memory 47 s)": Noise(rho=0.9),
        "rho 0.9, t(3) tails": Noise(rho=0.9, tails=3.0),
        "rho 0.95 (memory 97 s)": Noise(rho=0.95),
        "rho 0.95, sigma 0.8": Noise(rho=0.95, sigma=0.8),
        "rho 0.98 (memory 4 min)": Noise(rho=0.98),
        "rho 0.98, sigma 0.5": Noise(rho=0.98, sigma=0.5),
        "60 stalls an hour": Noise(stalls=60.0),
        "strong common drift": Noise(drift=0.1),
    }.items():
        began = time.perf_counter()
        k = int(np.isfinite(first_rollback(noise, options.runs, options.hours)[0]).sum())
        low, high = interval(k, options.runs)
        took_s = time.perf_counter() - began
        print(f"  {name:26} {k / options.runs:7.2%}  [{low:.2%}, {high:.2%}]  {took_s:.0f} s", flush=True)
    print("minutes until a slower candidate is found: median, 90th percentile; found within 30 min, within 2 h")
    for factor in (1.1, 1.25, 1.5, 2.0, 3.0, 10.0):
        for sigma in (0.1, 0.3):
            first, *_ = first_rollback(Noise(sigma=sigma), 400, 2.0, factor=factor)
            minutes = first * (BLOCK_S + GAP_S) / 60
            middle, most = np.quantile(minutes, (0.5, 0.9), method="inverted_cdf")
            shares = f"{(minutes <= 30).mean():4.0%} {np.isfinite(minutes).mean():5.0%}"
            print(f"  {factor:5.2f}x, sigma {sigma}: {middle:5.0f} {most:5.0f}   {shares}", flush=True)
    print(f"a t-test at 5 % looked at 60 times: {repeated_t_test(20_000, 60):.1%}; 720 times: ", end="")
    print(f"{repeated_t_test(4_000, 720):.1%}")


if __name__ == "__main__":
    main()
