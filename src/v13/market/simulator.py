"""Markets with known truth, bar by bar: four that hold no edge, and one in which an edge was planted.

It must not import the detector: the truth is planted by a mechanism of its own, so that a fault of the
detector cannot hide in the market it is judged on. What it makes is SIMULATED and says so in `truth`.

Every kind has the same order flow: small noise, and bump-shaped bursts of either sign that start at random
moments and more often while the price makes a new extreme. A burst reacts to the price and never foretells it.

Planted: when a swing point has become known (`swing_L` bars after it) and forms a divergence with the swing
before it of the same type, the sign of the coming moves is set. The increments that were drawn are reflected as a
block, never redrawn, so that their sizes stay those of the random walk, and every horizon is hit with probability q,
exactly. Known side effects, all small and all in bars of a running plant: the sign of the rest of a block can be
guessed from its beginning, and a divergence that becomes known meanwhile is left as it falls (plants never
overlap). With `true_accuracy` 0.5 the planted market is a random walk in law.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v13.detector.dtypes import BAR
from v13.market.simulator_kernel import (
    BURST,
    BURST_SWING,
    CVD_WEIGHT,
    OFI_WEIGHT,
    PLANT,
    SCALES,
    SOURCES,
    autoregress,
    dress,
    garch,
    walk,
)
from v13.market.simulator_spec import SYMBOLS, MarketSpec

__all__ = ["N_STREAMS", "SimulatedBars", "simulate_bars", "streams"]

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

N_STREAMS: Final = 5  # of random numbers: price, flow, bursts, plants, dress
DAY_MS: Final = 86_400_000

BURST_BARS: Final = (5, 10)
BURST_AMPLITUDE, BURST_TAIL, BURST_MAX = 12.0, 2.5, 40.0  # Pareto from 12 on, exponent 2.5
BURST_BOTH, BURST_OFI = 0.4, 0.7  # share that hits both flows; up to here OFI alone; above CVD alone

GARCH_DF: Final = 8
STEP_DF: Final = 5  # tails of one-second returns
FLOW_AR, FLOW_AR_CLUSTERED = 0.8, 0.9  # half lives of the quiet noise: three bars, and seven
FLOW_IMPACT: Final = 0.7  # correlation of a return with the *unforeseen* part of the same bar's flow
ONE_SIDED: Final = 0.7  # drift: share of bursts that buy


@dataclass(frozen=True)
class SimulatedBars:
    """One simulated market.

    Attributes
    ----------
    bars : (n,) BAR
    truth : dict
        JSON-able. `simulated`, `spec`, `seed`, and for `planted`: `n_plants`, `q_mean`, `hit_share` by horizon,
        `n_by_source`, and `plants`: lists with one entry per plant of `ts_ms` (of the bar that made the divergence
        known), `side`, `source` (OFI, CVD or BOTH), `strength`, `q` and, by horizon, `hits`.
    flow_ofi, flow_cvd : (n,) float64
        The latent flows g and f, in standard deviations of their quiet noise.
    """

    bars: np.ndarray[Any, Any]
    truth: dict[str, Any]
    flow_ofi: F8
    flow_cvd: F8


def streams(symbol: str, seed: int, n: int) -> list[np.random.Generator]:
    """Return `n` independent generators; symbols of one seed are independent, and a prefix does not depend on `n`."""
    root = np.random.SeedSequence((seed, list(SYMBOLS).index(symbol)))
    return [np.random.default_rng(child) for child in root.spawn(n)]


def simulate_bars(spec: MarketSpec, seed: int) -> SimulatedBars:
    """Return a market of `spec.n_bars` bars; the same spec and seed give the same bytes.

    Parameters
    ----------
    spec : MarketSpec
    seed : int, >= 0
        Symbols of one seed are independent of each other.

    Returns
    -------
    SimulatedBars

    Notes
    -----
    Price increments are symmetric around zero (around the drift in `drift`). How much is drawn does not depend on
    `true_accuracy`, so two markets which differ only in it are equal up to the bar of the first plant, included.
    """
    price_rng, flow_rng, burst_rng, plant_rng, bar_rng = streams(spec.symbol, seed, N_STREAMS)
    activity, day = _activity(spec, bar_rng)
    n_trades = _trade_counts(activity, bar_rng)
    g, f = flow_rng.standard_normal((2, spec.n_bars))
    step = _steps(spec, day, g, f, price_rng)
    persistence = FLOW_AR_CLUSTERED if spec.kind == "clustered_flow" else FLOW_AR
    g, f = g * (1 - persistence**2) ** 0.5, f * (1 - persistence**2) ** 0.5
    autoregress(g, persistence)
    autoregress(f, persistence)
    if spec.kind == "drift":
        g, f = g + 0.5, f + 0.5
    f[n_trades == 0] = 0.0  # a bar without trades has no signed volume
    path, plants = _walk(spec, step, g, f, burst_rng, plant_rng)
    bars = _bars(spec, path, g, f, n_trades, activity, day, bar_rng)
    truth = {"simulated": True, "spec": asdict(spec) | {"horizons": list(spec.horizons)}, "seed": seed}
    if spec.kind == "planted":
        truth |= _plant_truth(spec, bars, plants)
    return SimulatedBars(bars, truth, g, f)


def _activity(spec: MarketSpec, rng: np.random.Generator) -> tuple[F8, F8]:
    """Return activity (mean about 1) with minutes of bustle and calm, and the slow daily part of it."""
    time_ms = spec.start_ms + spec.bar_ms * np.arange(spec.n_bars)
    day = 1.0 + 0.4 * np.cos(2 * np.pi * (time_ms / DAY_MS - 13 / 24))  # busiest at 13:00 UTC
    knots = np.arange(0, spec.n_bars + 120, 120)
    bustle = np.exp(np.interp(np.arange(spec.n_bars), knots, rng.normal(-0.1, 0.5, knots.size)))
    return day * bustle, day


def _trade_counts(activity: F8, rng: np.random.Generator) -> I8:
    counts = 1 + rng.poisson(1.1 * activity)
    counts[rng.random(counts.size) < np.minimum(0.3, 0.1 / activity)] = 0
    counts[0] = max(1, counts[0])  # a first close to carry on from
    return counts.astype(np.int64)


def _steps(spec: MarketSpec, day: F8, g: F8, f: F8, rng: np.random.Generator) -> F8:
    n = spec.n_bars
    sigma = 1e-4 * SYMBOLS[spec.symbol].vol_bps * np.sqrt(day)
    df = GARCH_DF if spec.kind == "garch_t" else STEP_DF
    shock: F8 = rng.standard_t(df, n) / np.sqrt(df / (df - 2))
    if spec.kind == "garch_t":
        garch(shock, 0.5)
    if spec.kind == "clustered_flow":
        unforeseen = (OFI_WEIGHT * g + CVD_WEIGHT * f) / np.hypot(OFI_WEIGHT, CVD_WEIGHT)
        shock = FLOW_IMPACT * unforeseen + np.sqrt(1 - FLOW_IMPACT**2) * shock
    if spec.kind == "drift":
        shock = shock + spec.drift_ratio
    return sigma * shock


def _walk(
    spec: MarketSpec,
    step: F8,
    flow_ofi: F8,
    flow_cvd: F8,
    burst_rng: np.random.Generator,
    plant_rng: np.random.Generator,
) -> tuple[F8, np.ndarray[Any, Any]]:
    """Return the path of log price and the plants (PLANT); steps and flows become those of the market in place."""
    bursts = _bursts(spec, burst_rng)
    path = np.empty(spec.n_bars)
    is_planted = spec.kind == "planted"
    # Plants never overlap, so no more can happen. Their generator serves nothing else: ahead of time, the same numbers.
    room = spec.n_bars // spec.horizons[-1] + 1 if is_planted else 0
    plants = np.zeros(room, PLANT)
    chance = plant_rng.random(room * len(spec.horizons))
    n_plants = walk(
        step,
        flow_ofi,
        flow_cvd,
        bursts,
        _bumps(),
        is_planted,
        spec.swing_L,
        np.array(spec.horizons, dtype=np.int64),
        float(spec.true_accuracy),
        float(spec.slope),
        chance,
        path,
        plants,
    )
    return path, plants[:n_plants]


def _bursts(spec: MarketSpec, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw every burst that may start, in order of bar."""
    draw = rng.random(spec.n_bars)
    bar = np.flatnonzero(draw < BURST_SWING)
    k = bar.size
    channel = rng.random(k)
    length = rng.integers(BURST_BARS[0], BURST_BARS[1] + 1, k)
    amplitude = np.minimum(BURST_AMPLITUDE * (1 + rng.pareto(BURST_TAIL, k)), BURST_MAX)
    share_up = ONE_SIDED if spec.kind == "drift" else 0.5
    amplitude = np.where(rng.random(k) < share_up, amplitude, -amplitude)
    bursts = np.empty(k, BURST)
    bursts["bar"], bursts["draw"], bursts["length"] = bar, draw[bar], length
    bursts["into_ofi"] = amplitude * (channel < BURST_OFI)
    bursts["into_cvd"] = amplitude * ((channel < BURST_BOTH) | (channel >= BURST_OFI))
    return bursts


def _bumps() -> F8:
    bumps = np.zeros((BURST_BARS[1] + 1, BURST_BARS[1]))  # row m is the shape of a burst of m bars
    for m in range(BURST_BARS[0], BURST_BARS[1] + 1):
        bumps[m, :m] = np.sin(np.pi * np.arange(1, m + 1) / (m + 1)) ** 2
    return bumps


def _bars(
    spec: MarketSpec, path: F8, g: F8, f: F8, n_trades: I8, activity: F8, day: F8, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    n = spec.n_bars
    even = rng.exponential(0.5, n)
    touch = rng.choice((-1, 1), (2, n))
    beyond = rng.normal(0.0, 0.3, (2, n))
    n_quotes = 3 + rng.poisson(2.0 * activity)
    lag = rng.integers(1, spec.bar_ms + 1, (2, n))
    scales = np.zeros(1, SCALES)
    for name, value in asdict(SYMBOLS[spec.symbol]).items():
        scales[name] = value
    bars = np.zeros(n, BAR)
    drawn = even, touch, beyond, n_quotes, lag
    dress(np.exp(path), g, f, activity, day, n_trades, *drawn, scales, spec.start_ms, spec.bar_ms, bars)
    return bars


def _plant_truth(spec: MarketSpec, bars: np.ndarray[Any, Any], plants: np.ndarray[Any, Any]) -> dict[str, Any]:
    at, side = plants["bar"], plants["side"]
    sources = [SOURCES[code] for code in plants["source"].tolist()]
    hits = {str(h): (side * (bars["mid"][at + h] - bars["mid"][at]) > 0) for h in spec.horizons}
    n = plants.size
    return {
        "n_plants": n,
        "q_mean": float(plants["q"].mean()) if n else None,
        "hit_share": {h: float(hit.mean()) if n else None for h, hit in hits.items()},
        "n_by_source": {source: sources.count(source) for source in SOURCES[1:]},
        "plants": {
            "ts_ms": bars["ts_ms"][at].tolist(),
            "side": side.tolist(),
            "source": sources,
            "strength": plants["strength"].tolist(),
            "q": plants["q"].tolist(),
            "hits": {h: hit.tolist() for h, hit in hits.items()},
        },
    }
