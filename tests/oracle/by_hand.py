"""Hand-made bars and feature rows, small enough to work out on paper, for the tests of the oracle."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BAR_MS",
    "ONLY_OFI",
    "UNIT",
    "bar",
    "buckets",
    "counted",
    "feature",
    "feature_params",
    "thirty_bars",
    "zigzag",
]

Record = dict[str, Any]
UNIT = 1.4826022185056018  # a window of MAD 1 has this scale, so a flow of k * UNIT reads z = k
BAR_MS = 1_000
ONLY_OFI = {k: {"z_hi": 99.0} for k in range(12) if k % 3 != 0}  # thresholds nothing reaches on the others


def feature_params(**change: float) -> Record:
    """Small windows and no smoothing (`ema_k` 1 makes alpha 1), so that a z can be worked out by hand."""
    return {
        "bar_ms": BAR_MS,
        "window": 3,
        "ema_k": 1,
        "level_mode": 0,
        "z_clip": 5.0,
        "scale_floor": 0.1,
        "w_ofi": 0.6,
        "w_cvd": 0.4,
        "max_lag_ms": 5_000,
        "activity_k": 1,
        "active_quantile": 0.5,
        "min_volume_ratio": 0.25,
        **change,
    }


def bar(i: int, **change: float) -> Record:
    """Bar `i` of a healthy market that stands still."""
    return {
        "ts_ms": (i + 1) * BAR_MS,
        "close": 100.0,
        "mid": 100.0,
        "volume": 1.0,
        "delta": 0.0,
        "ofi": 0.0,
        "n_trades": 1,
        "n_quotes": 1,
        "lag_trade_ms": 0,
        "lag_quote_ms": 0,
        **change,
    }


def feature(i: int, px: float, **change: float) -> Record:
    """Feature row `i` of a healthy market; the readings are 0 unless given."""
    return {
        "ts_ms": (i + 1) * BAR_MS,
        "px": px,
        "z_ofi": 0.0,
        "z_cvd": 0.0,
        "fusion": 0.0,
        "consistency": 0.0,
        "vol_ok": 1.0,
        "status_ofi": 0,
        "status_cvd": 0,
        "fallback": 0,
        "session": 0,
        "liquidity": 0,
        **change,
    }


def buckets(change_of: dict[int, Record] | None = None, **change: float) -> list[Record]:
    """The twelve buckets with every gate open; `change` for all of them, `change_of` by bucket number."""
    p = {
        "swing_L": 1,
        "z_hi": 0.0,
        "z_mid": 0.0,
        "min_separation": 0,
        "cooldown_ms": 0,
        "min_score": 0.0,
        "min_vol_ok": 0.0,
        "min_swing_bps": 0.0,
        **change,
    }
    return [{**p, **(change_of or {}).get(k, {})} for k in range(12)]


def zigzag(lows: list[float], z: list[float], **change: float) -> list[Record]:
    """Lows of L = 1 at bars 1, 3, 5, ... with OFI `z`, known at 2, 4, 6, ...; all highs equal, so lows alone pair."""
    rows = [feature(0, 10.0)]
    for low, reading in zip(lows, z, strict=True):
        rows += [feature(len(rows), low, z_ofi=reading, **change), feature(len(rows) + 1, 10.0)]
    return rows


def counted(counters: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counters.items() if n}


# The thirty bars.
#
# Price falls 109..100 to a low A at bar 9, rises to a high 106 at bar 15, falls by twos to a lower low B = 94 at
# bar 21, rises to 102. With L = 3: A has 3 on either side, validity 1. B has 100 - 94 = 6 on the left and
# 97 - 94 = 3 on the right, validity 0.5, and its swing is 1e4 * 6 / 94 = 638.29787 bp. B is known at bar 24.
#
# Flow repeats -1, 0, 1, so any three bars in a row have median 0 and MAD 1, whatever the negative one of them is
# (from -1 down): the scale is UNIT throughout. A and B fall on negative bars and get z OFI -3, -2 and CVD -2, -1.
# fusion: A 0.6 * -3 + 0.4 * -2 = -2.6, B 0.6 * -2 + 0.4 * -1 = -1.6. Consistency at B: 1 / 2.
THIRTY_PX = [109.0 - i for i in range(10)] + [91.0 + i for i in range(10, 16)]
THIRTY_PX += [136.0 - 2 * i for i in range(16, 22)] + [73.0 + i for i in range(22, 30)]


def thirty_bars() -> list[Record]:
    bars = [bar(i, close=px, mid=px, ofi=i % 3 - 1.0, delta=i % 3 - 1.0) for i, px in enumerate(THIRTY_PX)]
    bars[9].update(ofi=-3 * UNIT, delta=-2 * UNIT)
    bars[21].update(ofi=-2 * UNIT, delta=-1 * UNIT)
    return bars
