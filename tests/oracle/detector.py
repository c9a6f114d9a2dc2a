"""The naive detector: docs/DETECTOR.md written out in plain Python, sharing no code with the compiled kernel.

This is section 3, the decision stage, slow on purpose: pivots come from slicing the price history. Sections 1 and 2
are in `feature_stage`.
"""

from __future__ import annotations

import math

from tests.oracle.feature_stage import NAN, STALE, WARMUP, Record, clamp, features, is_gap

__all__ = ["events", "features"]

OFI, CVD, FUSION = 0, 1, 2
REGULAR, HIDDEN, CONFLICT = 0, 1, 2
BULL_DIV, BEAR_DIV, HIDDEN_BULL, HIDDEN_BEAR, OFI_CVD_CONFLICT = 0, 1, 2, 3, 4

REASONS = ("warmup", "lag", "threshold", "min_separation", "low_vol", "low_score", "cooldown", "cluster")
READING = ("z_ofi", "z_cvd", "fusion")  # by channel
STATUSES = (("status_ofi",), ("status_cvd",), ("status_ofi", "status_cvd"))  # by channel

# type: (side, kind, direction the indicator must take)
TYPE_FACTS = {
    BULL_DIV: (+1, REGULAR, +1),
    BEAR_DIV: (-1, REGULAR, -1),
    HIDDEN_BULL: (+1, HIDDEN, -1),
    HIDDEN_BEAR: (-1, HIDDEN, +1),
}


def find_pivot(history: list[int], rows: list[Record], L: int) -> Record | None:
    """The pivot confirmed by the newest bar of the swing history, if there is one."""
    if len(history) < 2 * L + 1:
        return None
    around = history[len(history) - (2 * L + 1) :]
    px = [rows[k]["px"] for k in around]
    before, at_c, after = px[:L], px[L], px[L + 1 :]
    others = before + after
    if all(at_c < p for p in others):
        high = False
        h_left, h_right = max(before) - at_c, max(after) - at_c
    elif all(at_c > p for p in others):
        high = True
        h_left, h_right = at_c - min(before), at_c - min(after)
    else:
        return None
    c = around[L]
    return {
        "high": high,
        "bar": c,
        "ts_ms": rows[c]["ts_ms"],
        "px": at_c,
        "validity": min(h_left, h_right) / max(h_left, h_right),
        "swing_bps": 1e4 * max(h_left, h_right) / at_c,
        "row": rows[c],
    }


def type_of_pair(a: Record, b: Record) -> int | None:
    """The type the prices of a pair speak of; None where they are equal."""
    if b["px"] == a["px"]:
        return None
    if b["high"]:
        return BEAR_DIV if b["px"] > a["px"] else HIDDEN_BEAR
    return BULL_DIV if b["px"] < a["px"] else HIDDEN_BULL


def source_agreement(name: str, direction: int, a: Record, b: Record) -> float:
    """How far one source shows the divergence: 0 to 1, 0 where a reading is NaN."""
    z_a, z_b = a["row"][name], b["row"][name]
    if math.isnan(z_a) or math.isnan(z_b):
        return 0.0
    return clamp(direction * (z_b - z_a), 0.0, 1.0)


def judge(
    channel: int,
    type_: int,
    a: Record,
    b: Record,
    now: Record,
    p: Record,
    last_of_side: dict[int, int],
) -> tuple[str | None, Record | None]:
    """One channel's candidate: the reason it is suppressed (None: not counted), or the event it would be."""
    side, kind, direction = TYPE_FACTS[type_]
    r_a, r_b = a["row"][READING[channel]], b["row"][READING[channel]]
    if math.isnan(r_a) or math.isnan(r_b):
        concerned = [pivot["row"][name] for pivot in (a, b) for name in STATUSES[channel]]
        if WARMUP in concerned:
            return "warmup", None
        if STALE in concerned:
            return "lag", None
        return None, None
    if channel == FUSION and a["row"]["fallback"] == 1 and b["row"]["fallback"] == 1:
        return None, None
    if direction * (r_b - r_a) <= 0:
        return None, None
    u, v = max(abs(r_a), abs(r_b)), min(abs(r_a), abs(r_b))
    if u < p["z_hi"] or v < p["z_mid"]:
        return "threshold", None
    gap_bars = b["bar"] - a["bar"]
    if gap_bars < p["min_separation"]:
        return "min_separation", None
    vol_ok = now["vol_ok"]
    if vol_ok < p["min_vol_ok"] or b["swing_bps"] < p["min_swing_bps"]:
        return "low_vol", None

    z_magnitude = min(1.0, (abs(r_a) + abs(r_b)) / 6)
    pivot_validity = 0.5 * (a["validity"] + b["validity"])
    a_ofi = source_agreement("z_ofi", direction, a, b)
    a_cvd = source_agreement("z_cvd", direction, a, b)
    if channel == OFI:
        agreement = 0.25 * (2 * a_ofi + a_cvd)
    elif channel == CVD:
        agreement = 0.25 * (2 * a_cvd + a_ofi)
    else:
        agreement = 0.5 * (a_ofi + a_cvd)
    consistency = b["row"]["consistency"]
    score = 100 * (0.35 * z_magnitude + 0.25 * pivot_validity + 0.25 * agreement + 0.15 * consistency) * vol_ok
    if score < p["min_score"]:
        return "low_score", None
    if side in last_of_side and now["ts_ms"] - last_of_side[side] < p["cooldown_ms"]:
        return "cooldown", None

    fell_back = channel == FUSION and (a["row"]["fallback"] == 1 or b["row"]["fallback"] == 1)
    return None, {
        "ts_ms": now["ts_ms"],
        "bar": -1,  # set by the caller
        "type": type_,
        "side": side,
        "kind": kind,
        "source": channel,
        "agree": 0,  # set by the caller
        "session": now["session"],
        "liquidity": now["liquidity"],
        "fallback": 1 if fell_back else 0,
        "swing_L": p["swing_L"],
        "gap_bars": gap_bars,
        "a_ts_ms": a["ts_ms"],
        "b_ts_ms": b["ts_ms"],
        "px": now["px"],
        "a_px": a["px"],
        "b_px": b["px"],
        "a_z": r_a,
        "b_z": r_b,
        "z_ofi": b["row"]["z_ofi"],
        "z_cvd": b["row"]["z_cvd"],
        "consistency": consistency,
        "z_magnitude": z_magnitude,
        "pivot_validity": pivot_validity,
        "agreement": agreement,
        "vol_ok": vol_ok,
        "swing_bps": b["swing_bps"],
        "score": score,
        "z_hi": p["z_hi"],
        "z_mid": p["z_mid"],
    }


def conflict_hint(i: int, now: Record, p: Record) -> Record:
    """The `ofi_cvd_conflict` of one bar."""
    return {
        "ts_ms": now["ts_ms"],
        "bar": i,
        "type": OFI_CVD_CONFLICT,
        "side": 0,
        "kind": CONFLICT,
        "source": FUSION,
        "agree": 0,
        "session": now["session"],
        "liquidity": now["liquidity"],
        "fallback": 0,
        "swing_L": p["swing_L"],
        "gap_bars": 0,
        "a_ts_ms": now["ts_ms"],
        "b_ts_ms": now["ts_ms"],
        "px": now["px"],
        "a_px": now["px"],
        "b_px": now["px"],
        "a_z": now["z_ofi"],
        "b_z": now["z_cvd"],
        "z_ofi": now["z_ofi"],
        "z_cvd": now["z_cvd"],
        "consistency": now["consistency"],
        "z_magnitude": NAN,
        "pivot_validity": NAN,
        "agreement": NAN,
        "vol_ok": now["vol_ok"],
        "swing_bps": 0.0,
        "score": NAN,
        "z_hi": p["z_hi"],
        "z_mid": p["z_mid"],
    }


def is_conflict(now: Record, p: Record) -> bool:
    """The condition of a conflict hint."""
    z_ofi, z_cvd = now["z_ofi"], now["z_cvd"]
    if math.isnan(z_ofi) or math.isnan(z_cvd):
        return False
    return bool(abs(z_ofi) >= p["z_hi"] and abs(z_cvd) >= p["z_mid"] and z_ofi * z_cvd < 0)


def events(rows: list[Record], buckets: list[Record], bar_ms: int) -> tuple[list[Record], dict[str, int]]:
    """Section 3: the events in the order they are said, and how many candidates each reason suppressed."""
    out: list[Record] = []
    counters = dict.fromkeys(REASONS, 0)
    trackers = sorted({int(p["swing_L"]) for p in buckets})
    history: list[int] = []  # numbers of the bars taken since the last gap
    remembered: dict[tuple[int, bool], Record] = {}  # by (swing_L, is it a high)
    last_of_side: dict[int, int] = {}  # side -> time of its last event
    last_conflict: int | None = None
    conflict_held = False  # at the previous bar taken

    for i, now in enumerate(rows):
        if i > 0 and is_gap(now["ts_ms"], rows[i - 1]["ts_ms"], bar_ms):
            history = []
            remembered = {}
            conflict_held = False
        if math.isnan(now["px"]):
            continue
        history.append(i)
        first_bucket = (now["session"] * 2 + now["liquidity"]) * 3

        left: list[Record] = []
        for L in trackers:
            b = find_pivot(history, rows, L)
            if b is None:
                continue
            a = remembered.get((L, b["high"]))
            remembered[L, b["high"]] = b
            if a is None:
                continue
            type_ = type_of_pair(a, b)
            if type_ is None:
                continue
            for channel in (OFI, CVD, FUSION):
                p = buckets[first_bucket + channel]
                if p["swing_L"] != L:
                    continue
                reason, candidate = judge(channel, type_, a, b, now, p, last_of_side)
                if reason is not None:
                    counters[reason] += 1
                if candidate is not None:
                    left.append(candidate)

        if left:
            event = min(left, key=lambda e: (-e["score"], e["source"], e["swing_L"]))
            counters["cluster"] += len(left) - 1
            event["bar"] = i
            for channel in {e["source"] for e in left if e["type"] == event["type"]}:
                event["agree"] += 2**channel
            last_of_side[event["side"]] = now["ts_ms"]
            out.append(event)

        p = buckets[first_bucket + FUSION]
        holds = is_conflict(now, p)
        rested = last_conflict is None or now["ts_ms"] - last_conflict >= p["cooldown_ms"]
        if holds and not conflict_held and rested:
            out.append(conflict_hint(i, now, p))
            last_conflict = now["ts_ms"]
        conflict_held = holds
    return out, counters
