"""All compiled code of the detector: two recursions over bars, used for batch and for streaming alike.

`advance_features` turns bars into feature rows; `advance_decisions` turns feature rows into events. Both carry their
whole past in the arrays they are given, so any cutting of the input gives the same bytes. `replay_candidates` runs the
gates alone over candidates collected once (`scan=True`), which is what makes a parameter grid cheap: it calls the same
`_decide` the detector calls. Every value is defined in docs/DETECTOR.md.

Nothing here allocates per bar, raises, reads a clock or logs. No fastmath (it breaks NaN). Fields are written `s["x"]`
so that the code also runs with NUMBA_DISABLE_JIT=1. Keep all of it in this file: numba's disk cache does not see an
edit in another one.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit

from v13.detector.dtypes import (
    ABSENT,
    BEAR,
    BEAR_DIV,
    BULL,
    BULL_DIV,
    CONFLICT,
    CVD,
    FUSION,
    HIDDEN,
    HIDDEN_BEAR,
    HIDDEN_BULL,
    OFI,
    OFI_CVD_CONFLICT,
    OK,
    REASONS,
    REGULAR,
    STALE,
    WARMUP,
)

__all__ = [
    "DECISION_STATE",
    "FEATURE_STATE",
    "NEVER_MS",
    "N_WINDOWS",
    "PIVOT",
    "advance",
    "advance_decisions",
    "advance_features",
    "replay_candidates",
]

I8, F8 = np.int64, np.float64

NEVER_MS: Final = -(2**62)  # "long before anything": a cooldown measured from it has always passed
N_WINDOWS: Final = 3  # OFI flow, CVD flow, activity
ACTIVITY: Final = 2
VOLUME, QUOTES = 0, 1

MAD_TO_SIGMA: Final = 1.4826022185056018  # 1 / Phi^-1(3/4)
RANGE_TO_SIGMA: Final = 3.289707253902945  # Phi^-1(0.95) - Phi^-1(0.05)
Z_FULL: Final = 6.0  # |z_A| + |z_B| at which z_magnitude is 1

R_WARMUP, R_LAG, R_THRESHOLD, R_SEPARATION, R_LOW_VOL, R_LOW_SCORE, R_COOLDOWN, R_CLUSTER = range(len(REASONS))

FEATURE_STATE: Final = np.dtype(
    [
        ("prev_ts_ms", I8),
        ("n_bars", I8),
        ("ema_ofi", F8),  # NaN: restart with the next value
        ("ema_cvd", F8),
        ("ema_activity", F8),
        ("unit", I8),  # what activity was counted in at the last bar
        ("level_ofi", F8),
        ("level_cvd", F8),
        ("n_zero_scale", I8),
        ("n_fusion_fallback", I8),
    ]
)

DECISION_STATE: Final = np.dtype(
    [
        ("prev_ts_ms", I8),
        ("n_bars", I8),
        ("n_taken", I8),  # bars in the swing history since the last gap
        ("latch", I8),  # 1 while a conflict goes on
        ("last_bull_ms", I8),
        ("last_bear_ms", I8),
        ("last_conflict_ms", I8),
    ]
)

# What the decision stage remembers of one bar (in the ring) or of one pivot.
PIVOT: Final = np.dtype(
    [
        ("bar", I8),  # -1: none
        ("ts_ms", I8),
        ("px", F8),
        ("validity", F8),
        ("swing_bps", F8),
        ("z_ofi", F8),
        ("z_cvd", F8),
        ("fusion", F8),
        ("consistency", F8),
        ("status_ofi", I8),
        ("status_cvd", I8),
        ("fallback", I8),
    ]
)


@njit(cache=True, inline="always")
def _position(s, n, x):
    """Return the first index of ascending `s[:n]` whose value is not below `x`."""
    lo, hi = 0, n
    while lo < hi:
        mid = (lo + hi) >> 1
        if s[mid] < x:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True)
def _push(ring, s, meta, x):
    """Put `x` into a trailing window, dropping the oldest value of a full one. `meta` = [count, oldest]."""
    size = ring.size
    n = meta[0]
    if n < size:
        at = _position(s, n, x)
        for j in range(n, at, -1):
            s[j] = s[j - 1]
        s[at] = x
        ring[n] = x
        meta[0] = n + 1
        return
    oldest = meta[1]
    gone = _position(s, n, ring[oldest])
    at = _position(s, n, x)
    if at > gone:  # the hole moves right
        at -= 1
        for j in range(gone, at):
            s[j] = s[j + 1]
    else:
        for j in range(gone, at, -1):
            s[j] = s[j - 1]
    s[at] = x
    ring[oldest] = x
    meta[1] = oldest + 1 if oldest + 1 < size else 0


@njit(cache=True, inline="always")
def _median(s):
    n = s.size
    half = n >> 1
    if n & 1:
        return s[half]
    return 0.5 * (s[half - 1] + s[half])


@njit(cache=True)
def _closest_width(s, centre, k):
    """Return the k-th smallest (0-based) of |s - centre|: the k+1 closest values of a sorted array are a run of it."""
    n = s.size
    lo, hi = 0, n - (k + 1)
    while lo < hi:
        mid = (lo + hi) >> 1
        if centre - s[mid] > s[mid + k + 1] - centre:
            lo = mid + 1
        else:
            hi = mid
    return max(abs(s[lo] - centre), abs(s[lo + k] - centre))


@njit(cache=True)
def _mad(s, centre):
    n = s.size
    half = n >> 1
    if n & 1:
        return _closest_width(s, centre, half)
    return 0.5 * (_closest_width(s, centre, half - 1) + _closest_width(s, centre, half))


@njit(cache=True)
def _zscore(s, x, clip, floor):
    """Return (robust z of `x` against the sorted full window `s`, 1 if its scale is zero)."""
    n = s.size
    centre = _median(s)
    spread = (s[(95 * (n - 1) + 99) // 100] - s[(5 * (n - 1)) // 100]) / RANGE_TO_SIGMA
    scale = max(MAD_TO_SIGMA * _mad(s, centre), floor * spread)
    if scale == 0.0:
        return 0.0, 1
    return min(max((x - centre) / scale, -clip), clip), 0


@njit(cache=True)
def advance_features(params, state, windows, meta, bars, sessions, out):
    """Advance the feature stage over `bars`; write one row of `out` a bar.

    params (1,) FEATURE_PARAMS; state (1,) FEATURE_STATE; windows (3, 2, W) float64, ring and sorted copy of each
    window; meta (3, 2) int64, [count, oldest] of each; bars (n,) BAR; sessions (n,) int64; out (n,) FEATURE.
    """
    p = params[0]
    st = state[0]
    bar_ms = p["bar_ms"]
    gap_ms = bar_ms + bar_ms // 2
    size = p["window"]
    clip, floor = p["z_clip"], p["scale_floor"]
    max_lag = p["max_lag_ms"]
    alpha = 2.0 / (p["ema_k"] + 1.0)
    beta = 2.0 / (p["activity_k"] + 1.0)
    level_mode = p["level_mode"] == 1
    quantile_at = int(p["active_quantile"] * (size - 1))
    for i in range(bars.size):
        bar = bars[i]
        row = out[i]
        ts = bar["ts_ms"]
        if st["n_bars"] > 0 and ts - st["prev_ts_ms"] > gap_ms:
            st["ema_ofi"] = np.nan
            st["ema_cvd"] = np.nan
            if level_mode:
                for w in range(ACTIVITY):
                    meta[w, 0] = 0
                    meta[w, 1] = 0
                st["level_ofi"] = 0.0
                st["level_cvd"] = 0.0
        st["prev_ts_ms"] = ts
        st["n_bars"] += 1
        lag_quote, lag_trade = bar["lag_quote_ms"], bar["lag_trade_ms"]
        mid, close = bar["mid"], bar["close"]
        row["ts_ms"] = ts
        row["session"] = sessions[i]
        if math.isfinite(mid) and 0 <= lag_quote <= max_lag:
            row["px"] = mid
        elif math.isfinite(close):
            row["px"] = close
        elif math.isfinite(mid):
            row["px"] = mid
        else:
            row["px"] = np.nan

        status_ofi, z_ofi = ABSENT, np.nan
        flow = bar["ofi"]
        if lag_quote >= 0 and not math.isnan(flow):
            if lag_quote > max_lag:
                status_ofi = STALE
            else:
                x = flow
                if level_mode:
                    st["level_ofi"] += flow
                    x = st["level_ofi"]
                if meta[OFI, 0] < size:
                    status_ofi = WARMUP
                else:
                    raw, zero = _zscore(windows[OFI, 1], x, clip, floor)
                    st["n_zero_scale"] += zero
                    if math.isnan(st["ema_ofi"]):
                        st["ema_ofi"] = raw
                    else:
                        st["ema_ofi"] = st["ema_ofi"] + alpha * (raw - st["ema_ofi"])
                    status_ofi, z_ofi = OK, st["ema_ofi"]
                _push(windows[OFI, 0], windows[OFI, 1], meta[OFI], x)

        status_cvd, z_cvd = ABSENT, np.nan
        flow = bar["delta"]
        if lag_trade >= 0 and not math.isnan(flow):
            if lag_trade > max_lag:
                status_cvd = STALE
            else:
                x = flow
                if level_mode:
                    st["level_cvd"] += flow
                    x = st["level_cvd"]
                if meta[CVD, 0] < size:
                    status_cvd = WARMUP
                else:
                    raw, zero = _zscore(windows[CVD, 1], x, clip, floor)
                    st["n_zero_scale"] += zero
                    if math.isnan(st["ema_cvd"]):
                        st["ema_cvd"] = raw
                    else:
                        st["ema_cvd"] = st["ema_cvd"] + alpha * (raw - st["ema_cvd"])
                    status_cvd, z_cvd = OK, st["ema_cvd"]
                _push(windows[CVD, 0], windows[CVD, 1], meta[CVD], x)

        row["z_ofi"], row["z_cvd"] = z_ofi, z_cvd
        row["status_ofi"], row["status_cvd"] = status_ofi, status_cvd
        row["fusion"], row["fallback"], row["consistency"] = np.nan, 0, 0.0
        if status_ofi == OK and status_cvd == OK:
            row["fusion"] = (p["w_ofi"] * z_ofi + p["w_cvd"] * z_cvd) / (p["w_ofi"] + p["w_cvd"])
            if z_ofi * z_cvd > 0.0:
                low, high = min(abs(z_ofi), abs(z_cvd)), max(abs(z_ofi), abs(z_cvd))
                row["consistency"] = low / high
        elif status_ofi == OK and status_cvd >= STALE:
            row["fusion"], row["fallback"] = z_ofi, 1
            st["n_fusion_fallback"] += 1
        elif status_cvd == OK and status_ofi >= STALE:
            row["fusion"], row["fallback"] = z_cvd, 1
            st["n_fusion_fallback"] += 1

        if lag_trade < 0:
            activity = float(bar["n_quotes"])
            live = 0 <= lag_quote <= max_lag
            st["unit"] = QUOTES
        else:
            if st["unit"] == QUOTES:
                st["ema_activity"] = np.nan
                meta[ACTIVITY, 0] = 0
                meta[ACTIVITY, 1] = 0
            st["unit"] = VOLUME
            activity = bar["volume"]
            live = lag_trade <= max_lag
        if not live:
            row["vol_ok"], row["liquidity"] = 0.0, 0
        else:
            if math.isnan(st["ema_activity"]):
                st["ema_activity"] = activity
            else:
                st["ema_activity"] = st["ema_activity"] + beta * (activity - st["ema_activity"])
            act = st["ema_activity"]
            row["vol_ok"], row["liquidity"] = 1.0, 0
            if meta[ACTIVITY, 0] == size:
                usual = windows[ACTIVITY, 1]
                ref = p["min_volume_ratio"] * _median(usual)
                if ref > 0.0:
                    row["vol_ok"] = min(1.0, act / ref)
                if act > usual[quantile_at]:
                    row["liquidity"] = 1
            _push(windows[ACTIVITY, 0], windows[ACTIVITY, 1], meta[ACTIVITY], act)


@njit(cache=True, inline="always")
def _bucket(session, liquidity, channel):
    return (session * 2 + liquidity) * 3 + channel


@njit(cache=True, inline="always")
def _part(direction, a, b):
    """Return how far a source moved the way a divergence asks, in [0, 1]; 0 where a reading is missing."""
    moved = direction * (b - a)
    if not moved > 0.0:  # also where a reading is NaN
        return 0.0
    return min(moved, 1.0)


@njit(cache=True)
def _collect(a, b, is_low, swing_L, params, now, bar_number, counters, cands, n):
    """Write the candidates of the pair A, B to `cands[n:]`; return the new count."""
    if b["px"] == a["px"]:
        return n
    lower = b["px"] < a["px"]
    if is_low:
        side = BULL
        kind = REGULAR if lower else HIDDEN
        label = BULL_DIV if lower else HIDDEN_BULL
        direction = 1.0 if lower else -1.0
    else:
        side = BEAR
        kind = HIDDEN if lower else REGULAR
        label = HIDDEN_BEAR if lower else BEAR_DIV
        direction = 1.0 if lower else -1.0
    part_ofi = _part(direction, a["z_ofi"], b["z_ofi"])
    part_cvd = _part(direction, a["z_cvd"], b["z_cvd"])
    validity = 0.5 * (a["validity"] + b["validity"])
    session, liquidity = now["session"], now["liquidity"]
    for channel in range(3):
        if params[_bucket(session, liquidity, channel)]["swing_L"] != swing_L:
            continue
        warm, lag = False, False
        if channel != CVD:
            warm = a["status_ofi"] == WARMUP or b["status_ofi"] == WARMUP
            lag = a["status_ofi"] == STALE or b["status_ofi"] == STALE
        if channel != OFI:
            warm = warm or a["status_cvd"] == WARMUP or b["status_cvd"] == WARMUP
            lag = lag or a["status_cvd"] == STALE or b["status_cvd"] == STALE
        if channel == OFI:
            za, zb = a["z_ofi"], b["z_ofi"]
            agreement = 0.25 * (2.0 * part_ofi + part_cvd)
        elif channel == CVD:
            za, zb = a["z_cvd"], b["z_cvd"]
            agreement = 0.25 * (2.0 * part_cvd + part_ofi)
        else:
            za, zb = a["fusion"], b["fusion"]
            agreement = 0.5 * (part_ofi + part_cvd)
        if math.isnan(za) or math.isnan(zb):
            if warm:
                counters[R_WARMUP] += 1
            elif lag:
                counters[R_LAG] += 1
            continue
        if channel == FUSION and a["fallback"] == 1 and b["fallback"] == 1:
            continue  # one source under another name
        if not direction * (zb - za) > 0.0:
            continue
        magnitude = min(1.0, (abs(za) + abs(zb)) / Z_FULL)
        c = cands[n]
        c["ts_ms"], c["bar"] = now["ts_ms"], bar_number
        c["type"], c["side"], c["kind"], c["source"] = label, side, kind, channel
        c["agree"], c["session"], c["liquidity"] = 0, session, liquidity
        c["fallback"] = 1 if channel == FUSION and (a["fallback"] == 1 or b["fallback"] == 1) else 0
        c["swing_L"], c["gap_bars"] = swing_L, b["bar"] - a["bar"]
        c["a_ts_ms"], c["b_ts_ms"] = a["ts_ms"], b["ts_ms"]
        c["px"], c["a_px"], c["b_px"] = now["px"], a["px"], b["px"]
        c["a_z"], c["b_z"] = za, zb
        c["z_ofi"], c["z_cvd"], c["consistency"] = b["z_ofi"], b["z_cvd"], b["consistency"]
        c["z_magnitude"], c["pivot_validity"], c["agreement"] = magnitude, validity, agreement
        c["vol_ok"], c["swing_bps"] = now["vol_ok"], b["swing_bps"]
        c["score"] = (
            100.0 * (0.35 * magnitude + 0.25 * validity + 0.25 * agreement + 0.15 * b["consistency"]) * now["vol_ok"]
        )
        c["z_hi"], c["z_mid"] = 0.0, 0.0
        n += 1
    return n


@njit(cache=True)
def _decide(cands, first, last, params, state, counters, out, n_out):
    """Put the candidates `first:last` of one bar through the gates; write at most one event; return the new count."""
    best = -1
    alive = 0  # bit k: candidate first + k passed
    for k in range(first, last):
        c = cands[k]
        p = params[_bucket(c["session"], c["liquidity"], c["source"])]
        za, zb = abs(c["a_z"]), abs(c["b_z"])
        if max(za, zb) < p["z_hi"] or min(za, zb) < p["z_mid"]:
            counters[R_THRESHOLD] += 1
            continue
        if c["gap_bars"] < p["min_separation"]:
            counters[R_SEPARATION] += 1
            continue
        if c["vol_ok"] < p["min_vol_ok"] or c["swing_bps"] < p["min_swing_bps"]:
            counters[R_LOW_VOL] += 1
            continue
        if c["score"] < p["min_score"]:
            counters[R_LOW_SCORE] += 1
            continue
        since = state["last_bull_ms"] if c["side"] == BULL else state["last_bear_ms"]
        if c["ts_ms"] - since < p["cooldown_ms"]:
            counters[R_COOLDOWN] += 1
            continue
        alive |= 1 << (k - first)
        if best < 0:
            best = k
        else:
            b = cands[best]
            if c["score"] > b["score"] or (c["score"] == b["score"] and c["source"] < b["source"]):
                best = k
    if best < 0:
        return n_out
    winner = cands[best]
    agree = 0
    for k in range(first, last):
        if alive >> (k - first) & 1:
            if cands[k]["type"] == winner["type"]:
                agree |= 1 << cands[k]["source"]
            if k != best:
                counters[R_CLUSTER] += 1
    p = params[_bucket(winner["session"], winner["liquidity"], winner["source"])]
    out[n_out] = winner
    event = out[n_out]
    event["agree"] = agree
    event["z_hi"], event["z_mid"] = p["z_hi"], p["z_mid"]
    if event["side"] == BULL:
        state["last_bull_ms"] = event["ts_ms"]
    else:
        state["last_bear_ms"] = event["ts_ms"]
    return n_out + 1


@njit(cache=True)
def _hint(row, bar_number, p, state, out, n_out):
    """Emit an OFI-CVD conflict at its onset; return the new count."""
    z_ofi, z_cvd = row["z_ofi"], row["z_cvd"]
    on = abs(z_ofi) >= p["z_hi"] and abs(z_cvd) >= p["z_mid"] and z_ofi * z_cvd < 0.0  # false where either is NaN
    was_on = state["latch"] == 1
    state["latch"] = 1 if on else 0
    if not on or was_on or row["ts_ms"] - state["last_conflict_ms"] < p["cooldown_ms"]:
        return n_out
    state["last_conflict_ms"] = row["ts_ms"]
    e = out[n_out]
    e["ts_ms"], e["bar"] = row["ts_ms"], bar_number
    e["type"], e["side"], e["kind"], e["source"] = OFI_CVD_CONFLICT, 0, CONFLICT, FUSION
    e["agree"], e["session"], e["liquidity"], e["fallback"] = 0, row["session"], row["liquidity"], 0
    e["swing_L"], e["gap_bars"] = p["swing_L"], 0
    e["a_ts_ms"], e["b_ts_ms"] = row["ts_ms"], row["ts_ms"]
    e["px"], e["a_px"], e["b_px"] = row["px"], row["px"], row["px"]
    e["a_z"], e["b_z"] = z_ofi, z_cvd
    e["z_ofi"], e["z_cvd"], e["consistency"] = z_ofi, z_cvd, row["consistency"]
    e["z_magnitude"], e["pivot_validity"], e["agreement"], e["score"] = np.nan, np.nan, np.nan, np.nan
    e["vol_ok"], e["swing_bps"] = row["vol_ok"], 0.0
    e["z_hi"], e["z_mid"] = p["z_hi"], p["z_mid"]
    return n_out + 1


@njit(cache=True)
def _pivot_at(px, at, swing_L):
    """Return (-1 low, +1 high, 0 neither; left height; right height) of `px[at]` among `swing_L` prices either side."""
    p = px[at]
    first = px[at - 1]
    if first > p:  # a low, if anything
        left, right = first, px[at + 1]
        for j in range(1, swing_L + 1):
            before, after = px[at - j], px[at + j]
            if before <= p or after <= p:
                return 0, 0.0, 0.0
            left, right = max(left, before), max(right, after)
        return -1, left - p, right - p
    if first < p:
        left, right = first, px[at + 1]
        for j in range(1, swing_L + 1):
            before, after = px[at - j], px[at + j]
            if before >= p or after >= p:
                return 0, 0.0, 0.0
            left, right = min(left, before), min(right, after)
        return 1, p - left, p - right
    return 0, 0.0, 0.0


@njit(cache=True)
def advance_decisions(
    params, bar_ms, trackers, state, pivots, ring, ring_px, counters, cands, rows, start, out, n_out, scan
):
    """Advance the decision stage over `rows[start:]`; return (rows consumed in all, events in `out`).

    It stops early when `out` could overflow, so the caller empties `out` and calls again.

    params (12,) DECISION_PARAMS; trackers (k,) int64 ascending distinct swing_L; state (1,) DECISION_STATE;
    pivots (k, 2) PIVOT, the last low and the last high of each tracker; ring (R,) PIVOT and ring_px (2R,) float64
    with R = 2 * max(trackers) + 1, prices written twice so that the last R lie side by side; counters (8,) int64 by
    reason; cands (3k,) EVENT scratch; rows (n,) FEATURE; out (m,) EVENT. With `scan`, `out` receives every
    candidate before the gates (and no hints), for `replay_candidates`.
    """
    st = state[0]
    gap_ms = bar_ms + bar_ms // 2
    size = ring.size
    room = 3 * trackers.size if scan else 2
    for i in range(start, rows.size):
        if n_out + room > out.size:
            return i, n_out
        row = rows[i]
        ts = row["ts_ms"]
        if st["n_bars"] > 0 and ts - st["prev_ts_ms"] > gap_ms:
            st["n_taken"] = 0
            st["latch"] = 0
            for t in range(trackers.size):
                pivots[t, 0]["bar"] = -1
                pivots[t, 1]["bar"] = -1
        bar_number = st["n_bars"]
        st["prev_ts_ms"] = ts
        st["n_bars"] += 1
        if math.isnan(row["px"]):
            continue
        slot = st["n_taken"] % size
        kept = ring[slot]
        kept["bar"], kept["ts_ms"], kept["px"] = bar_number, ts, row["px"]
        kept["z_ofi"], kept["z_cvd"], kept["fusion"] = row["z_ofi"], row["z_cvd"], row["fusion"]
        kept["consistency"], kept["fallback"] = row["consistency"], row["fallback"]
        kept["status_ofi"], kept["status_cvd"] = row["status_ofi"], row["status_cvd"]
        ring_px[slot] = row["px"]
        ring_px[slot + size] = row["px"]
        st["n_taken"] += 1

        n_cands = 0
        for t in range(trackers.size):
            swing_L = trackers[t]
            if st["n_taken"] < 2 * swing_L + 1:
                break  # longer swings have no history either
            newest = slot + size if slot < 2 * swing_L else slot
            sign, left, right = _pivot_at(ring_px, newest - swing_L, swing_L)
            if sign == 0:
                continue
            at = (slot + size - swing_L) % size
            pivot = ring[at]
            pivot["validity"] = min(left, right) / max(left, right)
            pivot["swing_bps"] = 1e4 * max(left, right) / pivot["px"]
            which = 0 if sign < 0 else 1
            before = pivots[t, which]
            if before["bar"] >= 0:
                n_cands = _collect(before, pivot, sign < 0, swing_L, params, row, bar_number, counters, cands, n_cands)
            pivots[t, which] = pivot
        if scan:
            for k in range(n_cands):
                out[n_out] = cands[k]
                n_out += 1
        else:
            if n_cands > 0:
                n_out = _decide(cands, 0, n_cands, params, st, counters, out, n_out)
            hint_params = params[_bucket(row["session"], row["liquidity"], FUSION)]
            n_out = _hint(row, bar_number, hint_params, st, out, n_out)
    return rows.size, n_out


@njit(cache=True)
def advance(
    feature_params,
    feature_state,
    windows,
    meta,
    params,
    trackers,
    state,
    pivots,
    ring,
    ring_px,
    counters,
    cands,
    bars,
    sessions,
    rows,
    out,
):
    """Run both stages over `bars`, which must be few enough that `out` holds two events a bar; return the count."""
    advance_features(feature_params, feature_state, windows, meta, bars, sessions, rows)
    bar_ms = feature_params[0]["bar_ms"]
    _, n_out = advance_decisions(
        params, bar_ms, trackers, state, pivots, ring, ring_px, counters, cands, rows, 0, out, 0, False
    )
    return n_out


@njit(cache=True)
def replay_candidates(cands, params, state, counters, out):
    """Put scanned candidates through the gates of `params`; return the number of events written.

    cands (n,) EVENT in order of bar, all of one swing_L; state (1,) DECISION_STATE, fresh; out (m,) EVENT with room
    for one event a bar that has candidates.
    """
    n_out = 0
    first = 0
    st = state[0]
    while first < cands.size:
        last = first + 1
        while last < cands.size and cands[last]["bar"] == cands[first]["bar"]:
            last += 1
        n_out = _decide(cands, first, last, params, st, counters, out, n_out)
        first = last
    return n_out
