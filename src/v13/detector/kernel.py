"""All compiled code of the detector: two recursions over bars, used for batch and for streaming alike.

`advance_features` turns bars into feature rows; `advance_decisions` turns feature rows into events. Both carry their
whole past in the arrays they are given, so any cutting of the input gives the same bytes. Every value is defined in
docs/DETECTOR.md. `scan_chunk` collects the candidates of many swings at once, which is what makes a parameter grid
cheap; it shares the formulas of a candidate with `_collect`, and tests hold it to the detector.

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
    "LAST",
    "NEVER_MS",
    "N_WINDOWS",
    "PIVOT",
    "advance",
    "advance_decisions",
    "advance_features",
    "expand_candidates",
    "lay_out",
    "replay_candidates",
    "scan_chunk",
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


# What a scan remembers of the last pivot of a kind at one swing_L.
LAST: Final = np.dtype([("place", I8), ("validity", F8), ("bits", I8)])  # place -1: none; bits: see `_bits`


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
def lay_out(rows, start, ts_ms, px, readings, vol_ok, flags):
    """Write rows to columns from place `start` on; return how many of them have no price.

    rows (k,) FEATURE; of all n bars: ts_ms (n,) int64; px, vol_ok (n,) float64; readings (n, 4) float64: z_ofi, z_cvd,
    fusion, consistency, as a pivot is read in all of them at once; flags (n,) uint8, the rest in bits: fallback,
    session, liquidity, and two each for status_ofi and status_cvd.
    """
    n_without = 0
    for i in range(rows.size):
        row, k = rows[i], start + i
        ts_ms[k], px[k], vol_ok[k] = row["ts_ms"], row["px"], row["vol_ok"]
        readings[k, 0], readings[k, 1], readings[k, 2] = row["z_ofi"], row["z_cvd"], row["fusion"]
        readings[k, 3] = row["consistency"]
        bits = row["fallback"] | row["session"] << 1 | row["liquidity"] << 2
        flags[k] = bits | row["status_ofi"] << 3 | row["status_cvd"] << 5
        n_without += math.isnan(row["px"])
    return n_without


@njit(cache=True)
def _widen(low, later_low, high, later_high, to_low, to_high):
    """Write the extrema of two windows together; each place is its own index, so that several are done at a time."""
    for j in range(later_low.size):
        to_low[j] = min(low[j], later_low[j])
    for j in range(later_high.size):
        to_high[j] = max(high[j], later_high[j])


@njit(cache=True)
def _running_extrema(px, least, low, high):
    """Write the lowest and the highest of px[j : j + least] to low[k, j] and high[k, j]; return k.

    low, high (2, m) float64, m >= px.size.
    """
    if least == 1:
        _widen(px, px, px, px, low[0], high[0])
        return 0
    size = px.size - 1
    _widen(px, px[1:], px, px[1:], low[0], high[0])
    width, k = 2, 0
    while width < least:  # by doubling
        step = min(width, least - width)
        width += step
        _widen(low[k], low[k, step:size], high[k], high[k, step:size], low[1 - k], high[1 - k])
        size -= step
        k = 1 - k
    return k


@njit(cache=True)
def _find_extrema(px, begin, until, least, low, high, kind, at):
    """Find strict extrema of `least` bars either side among px[begin:until]; return how many.

    Their places go to `at`, and to `kind` of each bar from `begin` on: 1 a low, 2 a high, 0 neither. low, high as
    `_running_extrema` leaves them of px from begin - least on; there must be `least` prices either side.
    """
    n = until - begin
    before_low, after_low, before_high, after_high = low[:n], low[least + 1 :], high[:n], high[least + 1 :]
    own = px[begin:until]
    for j in range(n):
        p = own[j]
        is_low = (p < before_low[j]) & (p < after_low[j])
        is_high = (p > before_high[j]) & (p > after_high[j])
        kind[j] = np.int8(is_low) | np.int8(is_high) << np.int8(1)
    found = 0
    for j in range(n):  # without a jump, which would be guessed wrong at every one found
        at[found] = begin + j
        found += kind[j] != 0
    return found


@njit(cache=True, inline="always")
def _bits(readings, row, fallback, z_hi, z_mid):
    """Return one bit each for a channel that reaches z_mid, one that reaches z_hi (from bit 3), and for fallback."""
    bits = fallback << 6
    for channel in range(3):
        size = abs(readings[row, channel])
        bits |= np.int64(size >= z_mid) << channel  # false for NaN
        bits |= np.int64(size >= z_hi) << (3 + channel)
    return bits


@njit(cache=True, nogil=True)
def scan_chunk(
    columns, edges, swings, z_hi, z_mid, begin, wanted_from, stop, lows, highs, kind, at, bits, last, out, n_out
):
    """Write the candidates of every swing whose second pivot lies in px[wanted_from:stop], in order of bar.

    columns: px (t,) float64 of the bars that have a price, taken (t,) int32 their rows (none: all rows have), and of
    all rows readings, vol_ok, flags as `lay_out` leaves them. edges (r + 1,) int64, ascending: run i, free of gaps, is
    px[edges[i] : edges[i + 1]]. swings (w,) int64, ascending. z_hi, z_mid: what no setting asks less than.

    Pivots are looked for from `begin` on. last (w, 2) LAST holds the last low and high before `begin` and is brought up
    to `stop`, so the tape may be handed over in any chunks; it is not read where a run begins. Pivots are nested: those
    of a longer swing are among those of a shorter one, so one walk outwards from a pivot serves all swings.

    low, high (B + 2 * swings[0],) float64, kind (B,) int8: scratch. out (w, m) CANDIDATE, m >= 6 * ((stop -
    wanted_from) // (swings[0] + 1) + 2), receives n_out (w,) of each swing.
    """
    px, taken, readings, vol_ok, flags = columns
    least = swings[0]
    n_out[:] = 0
    number = np.searchsorted(edges, begin, side="right") - 1
    place = begin
    while place < stop:
        first, end = edges[number], edges[number + 1]
        if first >= begin:  # a gap forgets the pivots before it
            for w in range(swings.size):
                last[w, 0]["place"] = last[w, 1]["place"] = -1
        block, until = max(place, first + least), min(stop, end - least)
        while block < until:
            stop_block = min(block + kind.size, until)
            k = _running_extrema(px[block - least : stop_block + least], least, lows, highs)
            low, high = lows[k], highs[k]
            n = _find_extrema(px, block, stop_block, least, low, high, kind, at)
            for i in range(n):  # all at once: far places of memory are then waited for together
                row = taken[at[i]] if taken.size else at[i]
                bits[i] = _bits(readings, row, np.int64(flags[row] & 1), z_hi, z_mid)
            for i in range(n):
                c = at[i]
                j = c - block
                # A high is a low of the negative prices, to the last bit.
                if kind[j] == 1:
                    sign, left, right = 1.0, high[j], high[j + least + 1]
                else:
                    sign, left, right = -1.0, -low[j], -low[j + least + 1]
                room = min(c - first, end - 1 - c)
                _pair_up(
                    px,
                    taken,
                    readings,
                    vol_ok,
                    flags,
                    swings,
                    c,
                    sign,
                    left,
                    right,
                    room,
                    bits[i],
                    wanted_from,
                    last,
                    out,
                    n_out,
                )
            block = stop_block
        place = end
        number += 1


@njit(cache=True, inline="always")
def _pair_up(
    px, taken, readings, vol_ok, flags, swings, c, sign, left, right, room, bits, wanted_from, last, out, n_out
):
    """Pair the pivot px[c] with the one of its kind before it, at every swing it reaches; see `scan_chunk`.

    sign: 1 a low, -1 a high; left, right: the highest of sign * px over swings[0] bars either side; room: bars of the
    run on the shorter side.
    """
    p = px[c]
    level = sign * p
    which = 0 if sign > 0.0 else 1
    row = taken[c] if taken.size else c
    k = swings[0]
    for w in range(swings.size):
        swing_L = swings[w]
        if swing_L > room:
            return
        while k < swing_L:
            k += 1
            before, after = sign * px[c - k], sign * px[c + k]
            if before <= level or after <= level:
                return
            left, right = max(left, before), max(right, after)
        near, far = left - level, right - level
        own = last[w, which]
        a, a_validity, a_bits = own["place"], own["validity"], own["bits"]
        b_validity = min(near, far) / max(near, far)
        own["place"], own["validity"], own["bits"] = c, b_validity, bits
        wanted = a_bits & bits & ((a_bits | bits) >> 3) & 7
        if a < 0 or c < wanted_from or wanted == 0 or px[a] == p:
            continue
        if (a_bits & bits) >> 6 & 1:  # one source under another name
            wanted &= ~(1 << FUSION)
        direction = 1.0 if p < px[a] else -1.0
        a_row, now = (taken[a], taken[c + swing_L]) if taken.size else (a, c + swing_L)
        part_ofi = _part(direction, readings[a_row, 0], readings[row, 0])
        part_cvd = _part(direction, readings[a_row, 1], readings[row, 1])
        validity = 0.5 * (a_validity + b_validity)
        ok = vol_ok[now]
        session, liquidity = flags[now] >> 1 & 1, flags[now] >> 2 & 1
        side, swing_bps = BULL if which == 0 else BEAR, 1e4 * max(near, far) / p
        n = n_out[w]
        for channel in range(
            3
        ):  # written in any case and kept by moving on, as a jump would be guessed wrong half the time
            za, zb = readings[a_row, channel], readings[row, channel]
            size_a, size_b = abs(za), abs(zb)
            found = out[w, n]
            found["bar"], found["a"], found["b"], found["gap_bars"] = now, a, c, row - a_row
            found["side"], found["bucket"] = side, _bucket(session, liquidity, channel)
            found["u"], found["v"] = max(size_a, size_b), min(size_a, size_b)
            found["swing_bps"], found["vol_ok"] = swing_bps, ok
            agreement = _agreement(channel, part_ofi, part_cvd)
            found["score"] = _score(_magnitude(za, zb), validity, agreement, readings[row, 3], ok)
            n += (wanted >> channel & 1) & np.int64(direction * (zb - za) > 0.0)
        n_out[w] = n


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


@njit(cache=True)
def expand_candidates(rows, swing_L, taken, px, cands, params, two, counters, three, out):
    """Write each CANDIDATE of `cands` as the EVENT the detector would collect; return the number written.

    rows (k, 3) FEATURE of A, B and the confirming bar of each; taken (t,) int32 (none: every row has a price) and px
    (t,) float64 as in `scan_chunk`; params (12,) DECISION_PARAMS with this swing_L in every bucket; two (2,) PIVOT,
    counters (8,), three (3,) EVENT: scratch; out (as `cands`,) EVENT.
    """
    for k in range(cands.size):
        c = cands[k]
        is_low = c["side"] == BULL
        for which in range(2):
            at = c["a"] if which == 0 else c["b"]
            row, pivot = rows[k, which], two[which]
            pivot["bar"], pivot["ts_ms"], pivot["px"] = taken[at] if taken.size else at, row["ts_ms"], px[at]
            pivot["validity"], pivot["swing_bps"] = _heights(px, at, is_low, swing_L)
            pivot["z_ofi"], pivot["z_cvd"], pivot["fusion"] = row["z_ofi"], row["z_cvd"], row["fusion"]
            pivot["consistency"], pivot["fallback"] = row["consistency"], row["fallback"]
            pivot["status_ofi"], pivot["status_cvd"] = row["status_ofi"], row["status_cvd"]
        n = _collect(two[0], two[1], is_low, swing_L, params, rows[k, 2], c["bar"], counters, three, 0)
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
