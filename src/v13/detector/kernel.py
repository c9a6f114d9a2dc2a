"""All compiled code of the detector: two recursions over bars, used for batch and for streaming alike.

`advance_features` turns bars into feature rows; `advance_decisions` turns feature rows into events. Both carry their
whole past in the arrays they are given, so any cutting of the input gives the same bytes. Every value is defined in
docs/DETECTOR.md. `find_pivots` and `scan_pairs` collect the candidates of many swings at once, which is what makes a
parameter grid cheap; they share the formulas of a candidate with `_collect`, and tests hold them to the detector.

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
    "expand_candidates",
    "find_pivots",
    "read_columns",
    "read_pivots",
    "replay_candidates",
    "scan_pairs",
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


@njit(cache=True, inline="always")
def _reading(channel, pivot):
    if channel == OFI:
        return pivot["z_ofi"]
    if channel == CVD:
        return pivot["z_cvd"]
    return pivot["fusion"]


@njit(cache=True, inline="always")
def _agreement(channel, part_ofi, part_cvd):
    if channel == OFI:
        return 0.25 * (2.0 * part_ofi + part_cvd)
    if channel == CVD:
        return 0.25 * (2.0 * part_cvd + part_ofi)
    return 0.5 * (part_ofi + part_cvd)


@njit(cache=True, inline="always")
def _magnitude(za, zb):
    return min(1.0, (abs(za) + abs(zb)) / Z_FULL)


@njit(cache=True, inline="always")
def _score(magnitude, validity, agreement, consistency, vol_ok):
    return 100.0 * (0.35 * magnitude + 0.25 * validity + 0.25 * agreement + 0.15 * consistency) * vol_ok


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
        za, zb = _reading(channel, a), _reading(channel, b)
        agreement = _agreement(channel, part_ofi, part_cvd)
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
        magnitude = _magnitude(za, zb)
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
        c["score"] = _score(magnitude, validity, agreement, b["consistency"], now["vol_ok"])
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
def advance_decisions(params, bar_ms, trackers, state, pivots, ring, ring_px, counters, cands, rows, start, out, n_out):
    """Advance the decision stage over `rows[start:]`; return (rows consumed in all, events in `out`).

    It stops early when `out` could overflow, so the caller empties `out` and calls again.

    params (12,) DECISION_PARAMS; trackers (k,) int64 ascending distinct swing_L; state (1,) DECISION_STATE;
    pivots (k, 2) PIVOT, the last low and the last high of each tracker; ring (R,) PIVOT and ring_px (2R,) float64
    with R = 2 * max(trackers) + 1, prices written twice so that the last R lie side by side; counters (8,) int64 by
    reason; cands (3k,) EVENT scratch; rows (n,) FEATURE; out (m,) EVENT.
    """
    st = state[0]
    gap_ms = bar_ms + bar_ms // 2
    size = ring.size
    for i in range(start, rows.size):
        if n_out + 2 > out.size:
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
        params, bar_ms, trackers, state, pivots, ring, ring_px, counters, cands, rows, 0, out, 0
    )
    return n_out


@njit(cache=True, nogil=True)
def read_columns(rows, gap_ms, start, stop, ts_ms, px, gaps):
    """Copy what a scan looks up at random from rows[start:stop] into columns; return (bars without a price, gaps).

    rows (n,) FEATURE; ts_ms (n,) int64; px (n,) float64; gaps (m,) int64 receives the numbers of the rows that follow a
    gap. What only candidates need stays where it is: most of a row is never touched.
    """
    n_without = n_gaps = 0
    before = rows[max(start - 1, 0)]["ts_ms"]
    for i in range(start, stop):
        row = rows[i]
        ts_ms[i], px[i] = row["ts_ms"], row["px"]
        if math.isnan(row["px"]):
            n_without += 1
        if row["ts_ms"] - before > gap_ms:
            gaps[n_gaps] = i
            n_gaps += 1
        before = row["ts_ms"]
    return n_without, n_gaps


@njit(cache=True, nogil=True)
def find_pivots(px, first, last, start, stop, least, most, low, high, at, reach):
    """Find every strict extremum of at least `least` bars either side among px[start:stop]; return how many.

    px (n,) float64 without NaN, gap-free from `first` to `last`, within which start and stop lie; low, high (2, B + 2 *
    least) float64: scratch; at (m,) int32 receives each pivot's place; reach (m,) int32 the largest swing_L (up to
    `most`) at which it is one, negative for a low. Pivots are nested: those of a longer swing are among those of a
    shorter one, so one pass serves all.
    """
    block = low.shape[1] - 2 * least
    n_found = 0
    end = min(stop, last - least)
    for begin in range(max(start, first + least), end, block):
        until = min(begin + block, end)
        # Running extrema of `least` bars by doubling: place j holds those of px[base + j : base + j + least].
        base = begin - least
        size = until - begin + 2 * least
        old, new = 0, 1
        for j in range(size):
            low[0, j] = px[base + j]
            high[0, j] = px[base + j]
        width = 1
        while width < least:
            step = min(width, least - width)
            for j in range(size - step):
                low[new, j] = min(low[old, j], low[old, j + step])
                high[new, j] = max(high[old, j], high[old, j + step])
            size -= step
            width += step
            old, new = new, old
        for c in range(begin, until):
            p = px[c]
            j = c - base
            is_low = (p < low[old, j - least]) & (p < low[old, j + 1])
            is_high = (p > high[old, j - least]) & (p > high[old, j + 1])
            if not (is_low | is_high):
                continue
            room = min(c - first, last - 1 - c, most)
            k = least
            if is_low:
                while k < room and px[c - k - 1] > p and px[c + k + 1] > p:
                    k += 1
                reach[n_found] = -k
            else:
                while k < room and px[c - k - 1] < p and px[c + k + 1] < p:
                    k += 1
                reach[n_found] = k
            at[n_found] = c
            n_found += 1
    return n_found


@njit(cache=True, nogil=True)
def read_pivots(rows, taken, at, z_hi, z_mid, readings, fallback, mids, highs):
    """Read the indicators at each pivot.

    rows (n,) FEATURE; taken (t,) int32, the row of each bar that has a price; at (m,) int32, places among those;
    readings (m, 4) float64 receives z_ofi, z_cvd, fusion, consistency; fallback (m,) int8; mids, highs (m,) int8: bit c
    is set where the reading of channel c reaches z_mid and z_hi, so that a pair is ruled out by one look.
    """
    for k in range(at.size):
        row = rows[taken[at[k]]]
        readings[k, 0], readings[k, 1], readings[k, 2] = row["z_ofi"], row["z_cvd"], row["fusion"]
        readings[k, 3] = row["consistency"]
        fallback[k] = row["fallback"]
        mid = high = 0
        for channel in range(3):
            size = abs(readings[k, channel])
            if size >= z_mid:  # false for NaN
                mid |= 1 << channel
            if size >= z_hi:
                high |= 1 << channel
        mids[k], highs[k] = mid, high


@njit(cache=True, inline="always")
def _heights(px, at, is_low, swing_L):
    """Return (validity, swing_bps) of a pivot measured over `swing_L` bars either side."""
    p = px[at]
    left, right = px[at - 1], px[at + 1]
    for j in range(2, swing_L + 1):
        if is_low:
            left, right = max(left, px[at - j]), max(right, px[at + j])
        else:
            left, right = min(left, px[at - j]), min(right, px[at + j])
    if is_low:
        left, right = left - p, right - p
    else:
        left, right = p - left, p - right
    return min(left, right) / max(left, right), 1e4 * max(left, right) / p


@njit(cache=True, nogil=True)
def measure_heights(px, at, reach, swings, heights):
    """Measure each pivot as `_heights` does, at every swing it reaches, going outwards once.

    px (n,) float64; at, reach (m,) int32 as `find_pivots` leaves them; swings (w,) int64, ascending; heights (w, m, 2)
    float64 receives validity and swing_bps, and is left alone at swings beyond a pivot's reach.
    """
    for k in range(at.size):
        c = at[k]
        p = px[c]
        is_low = reach[k] < 0
        room = abs(reach[k])
        left, right = px[c - 1], px[c + 1]
        j = 2
        for w in range(swings.size):
            if swings[w] > room:
                break
            if is_low:
                while j <= swings[w]:
                    left, right = max(left, px[c - j]), max(right, px[c + j])
                    j += 1
                near, far = left - p, right - p
            else:
                while j <= swings[w]:
                    left, right = min(left, px[c - j]), min(right, px[c + j])
                    j += 1
                near, far = p - left, p - right
            heights[w, k, 0] = min(near, far) / max(near, far)
            heights[w, k, 1] = 1e4 * max(near, far) / p


@njit(cache=True, nogil=True)
def scan_pairs(swing_L, rows, taken, px, at, reach, run, readings, heights, fallback, mids, highs, out):
    """Write the candidates of one swing_L that reach the thresholds of `mids` and `highs`, in order of bar.

    rows (n,) FEATURE; of each bar that has a price: taken (t,) int32 its row, px (t,) float64. Of each pivot: at and
    reach (m,) int32 as `find_pivots` leaves them, run (m,) int32 the number of its gap-free run, what `read_pivots`
    leaves, and heights (m, 2), those `measure_heights` leaves for this swing_L. out (k,) CANDIDATE. Returns the number;
    where it is above k, `out` was too small and nothing is written beyond it.
    """
    last = np.full(2, -1)  # low, high
    n_out = 0
    for k in range(at.size):
        if abs(reach[k]) < swing_L:
            continue
        is_low = reach[k] < 0
        which = 0 if is_low else 1
        before = last[which]
        last[which] = k
        if before < 0:
            continue
        wanted = mids[before] & mids[k] & (highs[before] | highs[k])
        if wanted == 0 or run[before] != run[k]:  # a gap forgets the pivots before it
            continue
        a, b = at[before], at[k]
        if px[b] == px[a]:
            continue
        direction = 1.0 if px[b] < px[a] else -1.0
        part_ofi = _part(direction, readings[before, 0], readings[k, 0])
        part_cvd = _part(direction, readings[before, 1], readings[k, 1])
        validity = 0.5 * (heights[before, 0] + heights[k, 0])
        row = rows[taken[b + swing_L]]
        for channel in range(3):
            if not wanted >> channel & 1:
                continue
            za, zb = readings[before, channel], readings[k, channel]
            if not direction * (zb - za) > 0.0:
                continue
            if channel == FUSION and fallback[before] == 1 and fallback[k] == 1:
                continue
            if n_out < out.size:
                c = out[n_out]
                c["bar"], c["a"], c["b"] = taken[b + swing_L], a, b
                c["gap_bars"] = taken[b] - taken[a]
                c["side"] = BULL if is_low else BEAR
                c["bucket"] = _bucket(row["session"], row["liquidity"], channel)
                c["u"], c["v"] = max(abs(za), abs(zb)), min(abs(za), abs(zb))
                c["swing_bps"], c["vol_ok"] = heights[k, 1], row["vol_ok"]
                agreement = _agreement(channel, part_ofi, part_cvd)
                c["score"] = _score(_magnitude(za, zb), validity, agreement, readings[k, 3], row["vol_ok"])
            n_out += 1
    return n_out


@njit(cache=True)
def expand_candidates(rows, swing_L, taken, px, cands, params, two, counters, three, out):
    """Write each CANDIDATE of `cands` as the EVENT the detector would collect; return the number written.

    params (12,) DECISION_PARAMS with this swing_L in every bucket; two (2,) PIVOT, counters (8,), three (3,) EVENT:
    scratch; out (as `cands`,) EVENT.
    """
    for k in range(cands.size):
        c = cands[k]
        is_low = c["side"] == BULL
        for which in range(2):
            at = c["a"] if which == 0 else c["b"]
            row, pivot = rows[taken[at]], two[which]
            pivot["bar"], pivot["ts_ms"], pivot["px"] = taken[at], row["ts_ms"], px[at]
            pivot["validity"], pivot["swing_bps"] = _heights(px, at, is_low, swing_L)
            pivot["z_ofi"], pivot["z_cvd"], pivot["fusion"] = row["z_ofi"], row["z_cvd"], row["fusion"]
            pivot["consistency"], pivot["fallback"] = row["consistency"], row["fallback"]
            pivot["status_ofi"], pivot["status_cvd"] = row["status_ofi"], row["status_cvd"]
        n = _collect(two[0], two[1], is_low, swing_L, params, rows[c["bar"]], c["bar"], counters, three, 0)
        for j in range(n):
            if three[j]["source"] == c["bucket"] % 3:
                out[k] = three[j]
    return cands.size


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
