"""The naive feature stage: sections 1 and 2 of docs/DETECTOR.md written out in plain Python.

Slow on purpose: medians come from sorting the window at each bar. Shares no code with the compiled kernel.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["ABSENT", "NAN", "OK", "STALE", "WARMUP", "Record", "clamp", "features", "is_gap"]

Record = dict[str, Any]

NAN = float("nan")
NORMAL_90 = 3.289707253902945  # 5-95 % range of a unit normal
MAD_TO_SIGMA = 1.4826022185056018

OK, WARMUP, STALE, ABSENT = 0, 1, 2, 3


def clamp(x: float, lo: float, hi: float) -> float:
    """`x` held inside [lo, hi]."""
    return min(max(x, lo), hi)


def median(values: list[float]) -> float:
    """The middle value, or half the sum of the two middle values."""
    s = sorted(values)
    n = len(s)
    if n % 2 == 1:
        return s[n // 2]
    return 0.5 * (s[n // 2 - 1] + s[n // 2])


def is_gap(ts_ms: int, previous_ts_ms: int, bar_ms: int) -> bool:
    """Section 1: whether a bar follows a gap."""
    return ts_ms - previous_ts_ms > 1.5 * bar_ms


def push(window: list[float], x: float, size: int) -> None:
    """The window takes `x`, dropping its oldest value when it is full."""
    if len(window) == size:
        del window[0]
    window.append(x)


class Source:
    """One flow and what is remembered of it: window, level, EMA."""

    def __init__(self, fp: Record) -> None:
        self.fp = fp
        self.window: list[float] = []
        self.level = 0.0
        self.ema: float | None = None  # None: just (re)started

    def gap(self) -> None:
        """What a gap does to the source."""
        self.ema = None
        if self.fp["level_mode"]:
            self.window = []
            self.level = 0.0

    def step(self, flow: float, lag: int) -> tuple[int, float, int]:
        """Status, z and the number of zero scales met (0 or 1) at one bar."""
        fp = self.fp
        if lag < 0 or math.isnan(flow):
            return ABSENT, NAN, 0
        if lag > fp["max_lag_ms"]:
            return STALE, NAN, 0
        # 1
        if fp["level_mode"]:
            self.level = self.level + flow
            x = self.level
        else:
            x = flow
        # 2
        W = int(fp["window"])
        if len(self.window) < W:
            push(self.window, x, W)
            return WARMUP, NAN, 0
        # 3
        S = sorted(self.window)
        med = median(S)
        mad = median([abs(value - med) for value in S])
        # 4
        spread = (S[(95 * (W - 1) + 99) // 100] - S[(5 * (W - 1)) // 100]) / NORMAL_90
        scale = max(MAD_TO_SIGMA * mad, fp["scale_floor"] * spread)
        # 5
        zero_scale = 0
        if scale == 0.0:
            raw = 0.0
            zero_scale = 1
        else:
            raw = clamp((x - med) / scale, -fp["z_clip"], fp["z_clip"])
        # 6
        alpha = 2.0 / (fp["ema_k"] + 1.0)
        self.ema = raw if self.ema is None else self.ema + alpha * (raw - self.ema)
        # 7
        push(self.window, x, W)
        return OK, self.ema, zero_scale


class Activity:
    """The activity EMA and its window."""

    def __init__(self, fp: Record) -> None:
        self.fp = fp
        self.window: list[float] = []
        self.act: float | None = None  # None: just (re)started
        self.traded = True  # whether the last bar had seen a trade

    def step(self, bar: Record) -> tuple[float, int]:
        """`vol_ok` and `liquidity` of one bar."""
        fp = self.fp
        if bar["lag_trade_ms"] >= 0 and not self.traded:
            self.act, self.window = None, []
        self.traded = bar["lag_trade_ms"] >= 0
        if bar["lag_trade_ms"] < 0:
            if not 0 <= bar["lag_quote_ms"] <= fp["max_lag_ms"]:
                return 0.0, 0
            a = float(bar["n_quotes"])
        elif bar["lag_trade_ms"] <= fp["max_lag_ms"]:
            a = float(bar["volume"])
        else:
            return 0.0, 0
        beta = 2.0 / (fp["activity_k"] + 1.0)
        act = a if self.act is None else self.act + beta * (a - self.act)
        self.act = act
        W = int(fp["window"])
        if len(self.window) < W:
            vol_ok, liquidity = 1.0, 0
        else:
            S = sorted(self.window)
            ref = fp["min_volume_ratio"] * median(S)
            vol_ok = 1.0 if ref <= 0 else min(1.0, act / ref)
            liquidity = 1 if act > S[int(fp["active_quantile"] * (W - 1))] else 0
        push(self.window, act, W)
        return vol_ok, liquidity


def price_of(bar: Record, max_lag_ms: int) -> float:
    """The one price of a bar."""
    mid, close = float(bar["mid"]), float(bar["close"])
    if math.isfinite(mid) and 0 <= bar["lag_quote_ms"] <= max_lag_ms:
        return mid
    if math.isfinite(close):
        return close
    if math.isfinite(mid):
        return mid
    return NAN


def features(bars: list[Record], sessions: list[int], fp: Record) -> tuple[list[Record], dict[str, int]]:
    """Section 2: one feature row a bar, and the counters `zero_scale` and `fusion_fallback`."""
    rows: list[Record] = []
    counters = {"zero_scale": 0, "fusion_fallback": 0}
    ofi, cvd, activity = Source(fp), Source(fp), Activity(fp)
    for i, bar in enumerate(bars):
        if i > 0 and is_gap(bar["ts_ms"], bars[i - 1]["ts_ms"], fp["bar_ms"]):
            ofi.gap()
            cvd.gap()

        status_ofi, z_ofi, zeros_ofi = ofi.step(float(bar["ofi"]), bar["lag_quote_ms"])
        status_cvd, z_cvd, zeros_cvd = cvd.step(float(bar["delta"]), bar["lag_trade_ms"])
        counters["zero_scale"] += zeros_ofi + zeros_cvd

        fusion, fallback = NAN, 0
        if status_ofi == OK and status_cvd == OK:
            fusion = (fp["w_ofi"] * z_ofi + fp["w_cvd"] * z_cvd) / (fp["w_ofi"] + fp["w_cvd"])
        elif status_ofi == OK and status_cvd in (STALE, ABSENT):
            fusion, fallback = z_ofi, 1
        elif status_cvd == OK and status_ofi in (STALE, ABSENT):
            fusion, fallback = z_cvd, 1
        counters["fusion_fallback"] += fallback

        consistency = 0.0
        if status_ofi == OK and status_cvd == OK and z_ofi * z_cvd > 0:
            consistency = min(abs(z_ofi), abs(z_cvd)) / max(abs(z_ofi), abs(z_cvd))

        vol_ok, liquidity = activity.step(bar)
        rows.append(
            {
                "ts_ms": int(bar["ts_ms"]),
                "px": price_of(bar, fp["max_lag_ms"]),
                "z_ofi": z_ofi,
                "z_cvd": z_cvd,
                "fusion": fusion,
                "consistency": consistency,
                "vol_ok": vol_ok,
                "status_ofi": status_ofi,
                "status_cvd": status_cvd,
                "fallback": fallback,
                "session": int(sessions[i]),
                "liquidity": liquidity,
            }
        )
    return rows, counters
