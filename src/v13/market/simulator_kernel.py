"""The compiled loops of the simulator: volatility, flow, the walk of price and flow bar by bar, and its dress as bars.

Self-contained, as numba's disk cache does not see edits in another file: the constants these loops use live here too.
Nothing here draws a random number or raises; `simulator` draws, allocates and explains. Sums are taken in the order
of the bars, and there is no fastmath, so that a market has the same bytes compiled or not.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "BURST",
    "BURST_SWING",
    "CVD_WEIGHT",
    "FLOW_SCALE",
    "OFI_WEIGHT",
    "PLANT",
    "SCALES",
    "SOURCES",
    "STRENGTH_MEAN",
    "autoregress",
    "dress",
    "garch",
    "walk",
]

I8, F8 = np.int64, np.float64

# A burst that may start. It is felt from the bar after `bar` on.
BURST: Final = np.dtype([("bar", I8), ("draw", F8), ("length", I8), ("into_ofi", F8), ("into_cvd", F8)])
# A planted divergence; `source` is a place in SOURCES.
PLANT: Final = np.dtype([("bar", I8), ("side", I8), ("source", I8), ("strength", F8), ("q", F8)])
SOURCES: Final = ("", "OFI", "CVD", "BOTH")
NONE, OFI, CVD, BOTH = range(4)
# The scales of one instrument; see SymbolSpec.
SCALES: Final = np.dtype(
    [
        ("start_px", F8),
        ("ticks_per_unit", I8),
        ("lots_per_unit", I8),
        ("vol_bps", F8),
        ("delta_lots", F8),
        ("ofi_lots", F8),
    ]
)

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

STRENGTH_MEAN: Final = 2.8  # of planted divergences, in robust standard deviations; held by the tests
Q_MIN, Q_MAX = 0.05, 0.95

GARCH_ARCH, GARCH_GARCH = 0.06, 0.92  # persistent, with a finite fourth moment for 8 degrees of freedom


@njit(cache=True)
def garch(shock: NDArray[np.float64], half: float) -> Any:
    """Scale shocks (n,) of unit variance in place by GARCH(1,1) volatility; Bollerslev (1986), unit long-run variance.

    half is 0.5, handed in: as a literal the power compiles to a square root, which now and then has another last bit.
    """
    variance = 1.0
    for i in range(shock.size):
        e = variance**half * shock[i]
        shock[i] = e
        variance = (1 - GARCH_ARCH - GARCH_GARCH) + GARCH_ARCH * e * e + GARCH_GARCH * variance


@njit(cache=True)
def autoregress(noise: NDArray[np.float64], persistence: float) -> Any:
    """Turn noise (n,) in place into a first-order autoregression that starts from zero."""
    level = 0.0
    for i in range(noise.size):
        level = persistence * level + noise[i]
        noise[i] = level


@njit(cache=True)
def walk(
    step: NDArray[np.float64],
    ofi: NDArray[np.float64],
    cvd: NDArray[np.float64],
    bursts: NDArray[Any],
    bump: NDArray[np.float64],
    is_planted: bool,
    swing_L: int,
    horizons: NDArray[np.int64],
    true_accuracy: float,
    slope: float,
    chance: NDArray[np.float64],
    path: NDArray[np.float64],
    plants: NDArray[Any],
) -> Any:
    """Let price and flow unfold: bursts answer the price so far, plants bend the price to come. Return how many plants.

    Writes path (n,) and the first rows of plants (PLANT); adds bursts (BURST, by bar) to ofi and cvd (n,), and reflects
    step (n,) where a plant bends it. Row m of bump is the shape of a burst of m bars. chance has a number in [0, 1) for
    every horizon of every plant there is room for.
    """
    n, n_horizons = step.size, horizons.size
    reach = horizons[n_horizons - 1]
    low = high = -1  # the last swing point of either type
    b = calm_at = free_at = 0  # next burst; end of the running burst; end of the running plant
    n_plants = 0
    x = 0.0
    for t in range(n):
        x += step[t]
        path[t] = x
        if b < bursts.size and bursts[b]["bar"] == t:
            if t >= calm_at and (bursts[b]["draw"] < BURST_CALM or _is_extreme(path, t)):
                length = bursts[b]["length"]
                calm_at = t + length
                for j in range(min(length, n - t - 1)):
                    ofi[t + 1 + j] += bursts[b]["into_ofi"] * bump[length, j]
                    cvd[t + 1 + j] += bursts[b]["into_cvd"] * bump[length, j]
            b += 1
        c = t - swing_L
        if not is_planted or c < swing_L:
            continue
        side = _swing(path, c, swing_L)
        if side == 0:
            continue
        a = low if side > 0 else high
        if side > 0:
            low = c
        else:
            high = c
        if a < 0 or t < free_at or t + reach >= n:
            continue
        source, strength = _divergence(path, ofi, cvd, a, c)
        if source == NONE:
            continue
        edge = (true_accuracy - 0.5) * (1 + slope * (strength - STRENGTH_MEAN))
        q = min(max(0.5 + edge, Q_MIN), Q_MAX)
        _reflect(step, t, side, q, horizons, chance, n_plants * n_horizons)
        plants[n_plants]["bar"] = t
        plants[n_plants]["side"] = side
        plants[n_plants]["source"] = source
        plants[n_plants]["strength"] = strength
        plants[n_plants]["q"] = q
        n_plants += 1
        free_at = t + reach
    return n_plants


@njit(cache=True)
def _is_extreme(path: NDArray[np.float64], t: int) -> Any:
    x = path[t]
    is_low = is_high = t > 0
    for i in range(t - 1, max(0, t - BURST_LOOKBACK) - 1, -1):  # from the latest on: it settles most cases
        is_low = is_low and x < path[i]
        is_high = is_high and x > path[i]
        if not (is_low or is_high):
            break
    return is_low or is_high


@njit(cache=True)
def _swing(path: NDArray[np.float64], c: int, swing_L: int) -> Any:
    """Return +1 if bar `c` is a strict low among `swing_L` bars on either side, -1 if a strict high, else 0."""
    x = path[c]
    side = 1 if x < path[c - 1] else -1
    for i in range(1, swing_L + 1):
        if not (side * x < side * path[c - i] and side * x < side * path[c + i]):
            return 0
    return side


@njit(cache=True)
def _divergence(path: NDArray[np.float64], ofi: NDArray[np.float64], cvd: NDArray[np.float64], a: int, c: int) -> Any:
    """Return the source of the divergence between swing points `a` and `c` and its strength, or (NONE, 0).

    Price and flow must part: lower low and higher flow, higher low and lower flow, and the mirror images at highs.
    """
    if path[c] == path[a]:
        return NONE, 0.0
    must_rise = 1 if path[c] < path[a] else -1  # the flow's way is against the price's, at lows and at highs
    ofi_a, ofi_c, cvd_a, cvd_c = _smooth(ofi, a), _smooth(ofi, c), _smooth(cvd, a), _smooth(cvd, c)
    in_ofi = _strength(ofi_a, ofi_c, must_rise)
    in_cvd = _strength(cvd_a, cvd_c, must_rise)
    in_both = _strength(OFI_WEIGHT * ofi_a + CVD_WEIGHT * cvd_a, OFI_WEIGHT * ofi_c + CVD_WEIGHT * cvd_c, must_rise)
    strongest = max(in_ofi, in_cvd, in_both)
    if strongest == 0.0:
        return NONE, 0.0
    if in_ofi > 0.0 and in_cvd > 0.0:
        return BOTH, strongest
    if in_ofi == strongest:
        return OFI, strongest
    return (CVD if in_cvd == strongest else BOTH), strongest


@njit(cache=True)
def _strength(r_a: float, r_c: float, must_rise: int) -> Any:
    """Return the mean size of two readings that part from the price and reach the thresholds, else 0."""
    r_a_size, r_c_size = abs(r_a), abs(r_c)
    if must_rise * (r_c - r_a) > 0 and max(r_a_size, r_c_size) >= Z_HI and min(r_a_size, r_c_size) >= Z_MID:
        return (r_a_size + r_c_size) / 2
    return 0.0


@njit(cache=True)
def _smooth(flow: NDArray[np.float64], i: int) -> Any:
    total = 0.0
    for j in range(min(FLOW_MEMORY, i + 1)):
        total += FLOW_WEIGHTS[j] * min(max(flow[i - j] / FLOW_SCALE, -FLOW_CLIP), FLOW_CLIP)
    return total


@njit(cache=True)
def _reflect(
    step: NDArray[np.float64],
    t: int,
    side: int,
    q: float,
    horizons: NDArray[np.int64],
    chance: NDArray[np.float64],
    first: int,
) -> Any:
    """Set the sign of the move after bar `t` at every horizon: along `side` with probability q.

    A block which cannot outweigh the blocks before it is left as drawn, as its sign decides nothing. So each horizon is
    hit with probability exactly q, and at q = 0.5 the law of the walk is unchanged.
    """
    done, start = 0.0, t + 1
    for h in range(horizons.size):
        end = t + 1 + horizons[h]
        block = 0.0
        for i in range(start, end):
            block += step[i]
        if abs(block) > abs(done):
            wanted = side if chance[first + h] < q else -side
            if block * wanted < 0:
                for i in range(start, end):
                    step[i] = -step[i]
                block = -block
        done += block
        start = end


@njit(cache=True)
def dress(
    price: NDArray[np.float64],
    flow_ofi: NDArray[np.float64],
    flow_cvd: NDArray[np.float64],
    activity: NDArray[np.float64],
    day: NDArray[np.float64],
    n_trades: NDArray[np.int64],
    even: NDArray[np.float64],
    touch: NDArray[np.int64],
    beyond: NDArray[np.float64],
    n_quotes: NDArray[np.int64],
    lag: NDArray[np.int64],
    scales: NDArray[Any],
    start_ms: int,
    bar_ms: int,
    bars: NDArray[Any],
) -> Any:
    """Dress price and flow as bars (n,) of BAR: whole ticks and lots, a spread of two ticks, trades at the touch.

    price is the mid over the symbol's first price. even draws how much is bought and sold in equal parts. The pairs
    (2, n): touch, -1 or 1, is that of open and close; beyond reaches past them to high and low; lag, ms, is that of
    trades and quotes. A bar without trades has the close of the last bar with trades. scales is one row of SCALES.
    """
    scale = scales[0]
    last_close = last_bar = 0  # close and place of the last bar with trades
    mid_before = int(np.rint(scale["start_px"] * price[0] * scale["ticks_per_unit"]))
    for i in range(bars.size):
        f = flow_cvd[i]
        k = n_trades[i]
        if k == 0 and f != 0:
            k = 1  # a burst fills an empty bar,
        k += int(abs(f) / 6)  # and is many trades
        delta = 0
        if k > 0:
            delta = int(np.rint(scale["delta_lots"] * day[i] * f))
        if delta == 0 and k == 1:
            delta = 1
        # What was bought and sold in equal parts; a lot for each trade at least, so that trades can carry it.
        matched = 0
        if k >= 2:
            matched = k + int(scale["delta_lots"] * activity[i] * even[i])

        mid = int(np.rint(scale["start_px"] * price[i] * scale["ticks_per_unit"]))
        close = mid + touch[1, i]
        open_ = close if k == 1 else mid_before + touch[0, i]
        mid_before = mid
        high, low = max(open_, close), min(open_, close)
        if k > 2:
            high += int(abs(beyond[0, i]) * 1e-4 * scale["vol_bps"] * mid)
            low -= int(abs(beyond[1, i]) * 1e-4 * scale["vol_bps"] * mid)
        if k > 0 or i == 0:
            last_close, last_bar = close, i
        if k == 0:
            open_ = high = low = close = last_close

        bars[i]["ts_ms"] = start_ms + bar_ms * (i + 1)
        bars[i]["open"] = open_ / scale["ticks_per_unit"]
        bars[i]["high"] = high / scale["ticks_per_unit"]
        bars[i]["low"] = low / scale["ticks_per_unit"]
        bars[i]["close"] = close / scale["ticks_per_unit"]
        bars[i]["mid"] = mid / scale["ticks_per_unit"]
        bars[i]["delta"] = delta / scale["lots_per_unit"]
        bars[i]["volume"] = (abs(delta) + 2 * matched) / scale["lots_per_unit"]
        bars[i]["ofi"] = np.rint(scale["ofi_lots"] * day[i] * flow_ofi[i]) / scale["lots_per_unit"]
        bars[i]["n_trades"] = k
        bars[i]["n_quotes"] = n_quotes[i]
        bars[i]["lag_trade_ms"] = lag[0, last_bar] + bar_ms * (i - last_bar)
        bars[i]["lag_quote_ms"] = max(1, lag[1, i] // n_quotes[i])
