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
from itertools import starmap
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from v13.detector.dtypes import BAR
from v13.market.simulator_spec import SYMBOLS, MarketSpec

__all__ = ["N_STREAMS", "SimulatedBars", "simulate_bars", "streams"]


F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

N_STREAMS: Final = 5  # of random numbers: price, flow, bursts, plants, dress
DAY_MS: Final = 86_400_000

# Flow is in units of the quiet noise's standard deviation. Bursts fill about half of the time, so the
# robust scale of the whole is larger; tests/unit/market/test_simulator.py holds it to this value.
FLOW_SCALE: Final = 1.9
FLOW_CLIP: Final = 5.0
FLOW_MEMORY: Final = 20  # bars; the weights of a five-bar EMA beyond it are below 0.0002
FLOW_WEIGHTS: Final = tuple((1 / 3) * (2 / 3) ** j for j in range(FLOW_MEMORY))
Z_HI, Z_MID = 2.0, 0.8  # thresholds of the deployment guide, here on the latent flow
OFI_WEIGHT, CVD_WEIGHT = 0.6, 0.4

BURST_CALM, BURST_SWING = 0.005, 0.6  # chance per free bar of a new burst, and where the price makes a new extreme
BURST_LOOKBACK: Final = 13  # bars; what "new extreme" means
BURST_BARS: Final = (5, 10)
BURST_AMPLITUDE, BURST_TAIL, BURST_MAX = 12.0, 2.5, 40.0  # Pareto from 12 on, exponent 2.5
BUMPS: Final = {
    m: (np.sin(np.pi * np.arange(1, m + 1) / (m + 1)) ** 2).tolist() for m in range(BURST_BARS[0], BURST_BARS[1] + 1)
}
BURST_BOTH, BURST_OFI = 0.4, 0.7  # share that hits both flows; up to here OFI alone; above CVD alone

STRENGTH_MEAN: Final = 2.8  # of planted divergences, in robust standard deviations; held by the tests
Q_MIN, Q_MAX = 0.05, 0.95

GARCH_ARCH, GARCH_GARCH = 0.06, 0.92  # persistent, with a finite fourth moment for 8 degrees of freedom
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
    g, f = _autoregress(g, persistence), _autoregress(f, persistence)
    if spec.kind == "drift":
        g, f = g + 0.5, f + 0.5
    f[n_trades == 0] = 0.0  # a bar without trades has no signed volume
    path, flow_ofi, flow_cvd, plants = _walk(spec, step, g, f, burst_rng, plant_rng)
    bars = _bars(spec, path, flow_ofi, flow_cvd, n_trades, activity, day, bar_rng)
    truth = {"simulated": True, "spec": asdict(spec) | {"horizons": list(spec.horizons)}, "seed": seed}
    if spec.kind == "planted":
        truth |= _plant_truth(spec, bars, plants)
    return SimulatedBars(bars, truth, flow_ofi, flow_cvd)


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
        shock = _garch(shock)
    if spec.kind == "clustered_flow":
        unforeseen = (OFI_WEIGHT * g + CVD_WEIGHT * f) / np.hypot(OFI_WEIGHT, CVD_WEIGHT)
        shock = FLOW_IMPACT * unforeseen + np.sqrt(1 - FLOW_IMPACT**2) * shock
    if spec.kind == "drift":
        shock = shock + spec.drift_ratio
    return sigma * shock


def _garch(shock: F8) -> F8:
    # Bollerslev (1986), unit long-run variance.
    out = []
    variance = 1.0
    for z in shock.tolist():
        e = variance**0.5 * z
        out.append(e)
        variance = (1 - GARCH_ARCH - GARCH_GARCH) + GARCH_ARCH * e * e + GARCH_GARCH * variance
    return np.array(out)


def _autoregress(noise: F8, persistence: float) -> F8:
    out = []
    level = 0.0
    for e in (noise * (1 - persistence**2) ** 0.5).tolist():
        level = persistence * level + e
        out.append(level)
    return np.array(out)


class _Burst(NamedTuple):
    bar: int  # it is felt from the next bar on
    draw: float
    length: int
    into_ofi: float
    into_cvd: float


class _Plant(NamedTuple):
    bar: int
    side: int
    source: str
    strength: float
    q: float


def _walk(
    spec: MarketSpec, step: F8, g: F8, f: F8, burst_rng: np.random.Generator, plant_rng: np.random.Generator
) -> tuple[F8, F8, F8, list[_Plant]]:
    """Let price and flow unfold bar by bar: bursts answer the price so far, plants bend the price to come."""
    n, L, reach = spec.n_bars, spec.swing_L, spec.horizons[-1]
    is_planted = spec.kind == "planted"
    steps, ofi, cvd = step.tolist(), g.tolist(), f.tolist()
    bursts = _bursts(spec, burst_rng)
    path: list[float] = []
    last: dict[int, int] = {}  # side -> the last swing point of that type: lows +1, highs -1
    plants: list[_Plant] = []
    b = calm_at = free_at = 0  # next burst; end of the running burst; end of the running plant
    x = 0.0
    for t in range(n):
        x += steps[t]
        path.append(x)
        if b < len(bursts) and bursts[b].bar == t:
            burst = bursts[b]
            b += 1
            if t >= calm_at and (burst.draw < BURST_CALM or _is_extreme(path, t)):
                calm_at = t + burst.length
                for j, bump in enumerate(BUMPS[burst.length][: n - t - 1], t + 1):
                    ofi[j] += burst.into_ofi * bump
                    cvd[j] += burst.into_cvd * bump
        c = t - L
        if not is_planted or c < L:
            continue
        side = _swing(path, c, L)
        if side == 0:
            continue
        a = last.get(side)
        last[side] = c
        if a is None or t < free_at or t + reach >= n:
            continue
        source, strength = _divergence(path, ofi, cvd, a, c)
        if source:
            edge = (spec.true_accuracy - 0.5) * (1 + spec.slope * (strength - STRENGTH_MEAN))
            q = min(max(0.5 + edge, Q_MIN), Q_MAX)
            _reflect(steps, t, side, q, spec.horizons, plant_rng)
            plants.append(_Plant(t, side, source, strength, q))
            free_at = t + reach
    return np.array(path), np.array(ofi), np.array(cvd), plants


def _bursts(spec: MarketSpec, rng: np.random.Generator) -> list[_Burst]:
    """Draw every burst that may start, in order of bar."""
    draw = rng.random(spec.n_bars)
    bar = np.flatnonzero(draw < BURST_SWING)
    k = bar.size
    channel = rng.random(k)
    length = rng.integers(BURST_BARS[0], BURST_BARS[1] + 1, k)
    amplitude = np.minimum(BURST_AMPLITUDE * (1 + rng.pareto(BURST_TAIL, k)), BURST_MAX)
    share_up = ONE_SIDED if spec.kind == "drift" else 0.5
    amplitude = np.where(rng.random(k) < share_up, amplitude, -amplitude)
    into_ofi = amplitude * (channel < BURST_OFI)
    into_cvd = amplitude * ((channel < BURST_BOTH) | (channel >= BURST_OFI))
    columns = (bar, draw[bar], length, into_ofi, into_cvd)
    return list(starmap(_Burst, zip(*(column.tolist() for column in columns), strict=True)))


def _is_extreme(path: list[float], t: int) -> bool:
    before = path[max(0, t - BURST_LOOKBACK) : t]
    return bool(before) and (path[t] < min(before) or path[t] > max(before))


def _swing(path: list[float], c: int, L: int) -> int:
    """Return +1 if bar `c` is a strict low among L bars on either side, -1 if a strict high, else 0."""
    x = path[c]
    if x < path[c - 1] and x < path[c + 1]:
        return int(x < min(path[c - L : c]) and x < min(path[c + 1 : c + L + 1]))
    if x > path[c - 1] and x > path[c + 1]:
        return -int(x > max(path[c - L : c]) and x > max(path[c + 1 : c + L + 1]))
    return 0


def _divergence(path: list[float], ofi: list[float], cvd: list[float], a: int, c: int) -> tuple[str, float]:
    """Return the source of the divergence between swing points `a` and `c` and its strength, or ("", 0).

    Price and flow must part: lower low and higher flow, higher low and lower flow, and the mirror images at highs.
    """
    if path[c] == path[a]:
        return "", 0.0
    must_rise = 1 if path[c] < path[a] else -1  # the flow's way is against the price's, at lows and at highs
    ofi_a, ofi_c, cvd_a, cvd_c = _smooth(ofi, a), _smooth(ofi, c), _smooth(cvd, a), _smooth(cvd, c)
    readings = {
        "OFI": (ofi_a, ofi_c),
        "CVD": (cvd_a, cvd_c),
        "BOTH": (OFI_WEIGHT * ofi_a + CVD_WEIGHT * cvd_a, OFI_WEIGHT * ofi_c + CVD_WEIGHT * cvd_c),
    }
    found = {
        source: (abs(r_a) + abs(r_c)) / 2
        for source, (r_a, r_c) in readings.items()
        if must_rise * (r_c - r_a) > 0 and max(abs(r_a), abs(r_c)) >= Z_HI and min(abs(r_a), abs(r_c)) >= Z_MID
    }
    if not found:
        return "", 0.0
    source = "BOTH" if {"OFI", "CVD"} <= found.keys() else max(found, key=lambda key: found[key])
    return source, max(found.values())


def _smooth(flow: list[float], i: int) -> float:
    return sum(
        w * min(max(flow[i - j] / FLOW_SCALE, -FLOW_CLIP), FLOW_CLIP) for j, w in enumerate(FLOW_WEIGHTS) if j <= i
    )


def _reflect(
    steps: list[float], t: int, side: int, q: float, horizons: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Set the sign of the move after bar `t` at every horizon: along `side` with probability q.

    A block which cannot outweigh the blocks before it is left as drawn, as its sign decides nothing. So each horizon is
    hit with probability exactly q, and at q = 0.5 the law of the walk is unchanged.
    """
    done, start = 0.0, t + 1
    for horizon, chance in zip(horizons, rng.random(len(horizons)).tolist(), strict=True):
        end = t + 1 + horizon
        block = sum(steps[start:end])
        if abs(block) > abs(done):
            wanted = side if chance < q else -side
            if block * wanted < 0:
                steps[start:end] = [-s for s in steps[start:end]]
                block = -block
        done += block
        start = end


def _bars(
    spec: MarketSpec, path: F8, g: F8, f: F8, n_trades: I8, activity: F8, day: F8, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Dress price and flow as bars: whole ticks and lots, a spread of two ticks, trades at the touch."""
    n, sym = spec.n_bars, SYMBOLS[spec.symbol]
    n_trades = np.where((n_trades == 0) & (f != 0), 1, n_trades)  # a burst fills an empty bar,
    n_trades = n_trades + (np.abs(f) / 6).astype(np.int64)  # and is many trades
    delta = np.rint(sym.delta_lots * day * f).astype(np.int64)
    delta[(delta == 0) & (n_trades == 1)] = 1
    delta[n_trades == 0] = 0
    # What was bought and sold in equal parts; a lot for each trade at least, so that trades can carry it.
    matched = n_trades + (sym.delta_lots * activity * rng.exponential(0.5, n)).astype(np.int64)
    matched[n_trades < 2] = 0

    mid = np.rint(sym.start_px * np.exp(path) * sym.ticks_per_unit).astype(np.int64)
    before = np.concatenate(([mid[0]], mid[:-1]))
    touch_open, touch_close = rng.choice((-1, 1), (2, n))
    close = mid + touch_close
    open_ = np.where(n_trades == 1, close, before + touch_open)
    beyond = (np.abs(rng.normal(0.0, 0.3, (2, n))) * 1e-4 * sym.vol_bps * mid).astype(np.int64) * (n_trades > 2)
    high = np.maximum(open_, close) + beyond[0]
    low = np.minimum(open_, close) - beyond[1]
    traded = np.maximum.accumulate(np.where(n_trades > 0, np.arange(n), 0))  # the last bar with trades
    is_empty = n_trades == 0

    bars = np.zeros(n, BAR)
    bars["ts_ms"] = spec.start_ms + spec.bar_ms * np.arange(1, n + 1)
    for name, ticks in (("open", open_), ("high", high), ("low", low), ("close", close)):
        bars[name] = np.where(is_empty, close[traded], ticks) / sym.ticks_per_unit
    bars["mid"] = mid / sym.ticks_per_unit
    bars["delta"] = delta / sym.lots_per_unit
    bars["volume"] = (np.abs(delta) + 2 * matched) / sym.lots_per_unit
    bars["ofi"] = np.rint(sym.ofi_lots * day * g) / sym.lots_per_unit
    bars["n_trades"] = n_trades
    bars["n_quotes"] = 3 + rng.poisson(2.0 * activity)
    lag = rng.integers(1, spec.bar_ms + 1, (2, n))
    bars["lag_trade_ms"] = lag[0][traded] + spec.bar_ms * (np.arange(n) - traded)
    bars["lag_quote_ms"] = np.maximum(1, lag[1] // bars["n_quotes"])
    return bars


def _plant_truth(spec: MarketSpec, bars: np.ndarray[Any, Any], plants: list[_Plant]) -> dict[str, Any]:
    at = np.array([p.bar for p in plants], dtype=np.int64)
    side = np.array([p.side for p in plants], dtype=np.int64)
    hits = {str(h): (side * (bars["mid"][at + h] - bars["mid"][at]) > 0) for h in spec.horizons}
    n = len(plants)
    return {
        "n_plants": n,
        "q_mean": float(np.mean([p.q for p in plants])) if n else None,
        "hit_share": {h: float(hit.mean()) if n else None for h, hit in hits.items()},
        "n_by_source": {source: sum(p.source == source for p in plants) for source in ("OFI", "CVD", "BOTH")},
        "plants": {
            "ts_ms": bars["ts_ms"][at].tolist(),
            "side": side.tolist(),
            "source": [p.source for p in plants],
            "strength": [p.strength for p in plants],
            "q": [p.q for p in plants],
            "hits": {h: hit.tolist() for h, hit in hits.items()},
        },
    }
