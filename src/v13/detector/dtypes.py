"""The records the detector eats, keeps and emits: the table of units.

Every field is eight bytes wide, so records carry no padding and compare byte for byte.
Times are UTC epoch milliseconds. Definitions of the values are in docs/DETECTOR.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = [
    "BAR",
    "BEAR",
    "BULL",
    "CHANNELS",
    "DECISION_PARAMS",
    "EVENT",
    "FEATURE",
    "FEATURE_PARAMS",
    "KINDS",
    "N_BUCKETS",
    "REASONS",
    "TYPES",
]

I8, F8 = np.int64, np.float64

# One bar of one symbol, made by v13.market.bars.
BAR: Final = np.dtype(
    [
        ("ts_ms", I8),  # close time; the bar holds only what happened before it
        ("open", F8),  # quote currency; empty bars repeat the last close; NaN before any trade
        ("high", F8),
        ("low", F8),
        ("close", F8),
        ("mid", F8),  # (bid + ask) / 2 of the last quote; NaN before any quote
        ("volume", F8),  # base currency, >= 0
        ("delta", F8),  # base currency, taker buys minus taker sells
        ("ofi", F8),  # base currency, Cont-Kukanov-Stoikov sum; NaN where there is no quote source
        ("n_trades", I8),
        ("n_quotes", I8),
        ("lag_trade_ms", I8),  # ts_ms minus the last trade's time; -1 while none was seen
        ("lag_quote_ms", I8),  # ts_ms minus the last quote's time; -1 while none was seen
    ]
)

# What the feature stage says of one bar.
FEATURE: Final = np.dtype(
    [
        ("ts_ms", I8),
        ("px", F8),  # the one price series pivots and labels are taken from
        ("z_ofi", F8),  # in [-5, 5]; NaN unless status_ofi is OK
        ("z_cvd", F8),
        ("fusion", F8),
        ("consistency", F8),  # in [0, 1]
        ("vol_ok", F8),  # in [0, 1]
        ("status_ofi", I8),  # OK, WARMUP, STALE, ABSENT
        ("status_cvd", I8),
        ("fallback", I8),  # 1 where fusion speaks with one voice
        ("session", I8),  # 1 day, 0 night
        ("liquidity", I8),  # 1 active, 0 quiet
    ]
)

# One emitted event; also one candidate before the gates.
EVENT: Final = np.dtype(
    [
        ("ts_ms", I8),  # close time of the bar that confirmed B: when the event became known
        ("bar", I8),  # running number of that bar since the detector's reset
        ("type", I8),  # index into TYPES
        ("side", I8),  # +1 bull, -1 bear, 0 for a conflict hint
        ("kind", I8),  # index into KINDS
        ("source", I8),  # index into CHANNELS
        ("agree", I8),  # bit c is set where channel c passed the gates at this bar
        ("session", I8),
        ("liquidity", I8),
        ("fallback", I8),
        ("swing_L", I8),  # bars
        ("gap_bars", I8),  # B minus A, bars
        ("a_ts_ms", I8),  # close times of the pivot bars
        ("b_ts_ms", I8),
        ("px", F8),  # at the confirming bar
        ("a_px", F8),
        ("b_px", F8),
        ("a_z", F8),  # the channel's reading at A and at B
        ("b_z", F8),
        ("z_ofi", F8),  # at B
        ("z_cvd", F8),  # at B
        ("consistency", F8),  # at B
        ("z_magnitude", F8),  # the four parts of the score, each in [0, 1]
        ("pivot_validity", F8),
        ("agreement", F8),
        ("vol_ok", F8),  # at the confirming bar
        ("swing_bps", F8),  # height of the swing at B over its price, basis points
        ("score", F8),  # in [0, 100]; NaN for a conflict hint
        ("z_hi", F8),  # thresholds in force when it fired; 0 on a candidate
        ("z_mid", F8),
    ]
)

# A candidate as a grid search keeps it: what the gates look at, and where the rest can be had again.
CANDIDATE: Final = np.dtype(
    [
        ("bar", np.int32),  # row of the confirming bar
        ("a", np.int32),  # places of the pivots among the bars that have a price
        ("b", np.int32),
        ("gap_bars", np.int32),
        ("side", np.int32),
        ("bucket", np.int32),
        ("u", F8),  # the larger |z| of the pair, what z_hi asks of
        ("v", F8),  # the smaller, what z_mid asks of
        ("score", F8),
        ("swing_bps", F8),
        ("vol_ok", F8),
    ]
)

FEATURE_PARAMS: Final = np.dtype(
    [
        ("bar_ms", I8),
        ("window", I8),
        ("ema_k", I8),
        ("level_mode", I8),  # 0 delta, 1 level
        ("z_clip", F8),
        ("scale_floor", F8),
        ("w_ofi", F8),
        ("w_cvd", F8),
        ("max_lag_ms", I8),
        ("activity_k", I8),
        ("active_quantile", F8),
        ("min_volume_ratio", F8),
    ]
)

# Thresholds and gates of one bucket.
DECISION_PARAMS: Final = np.dtype(
    [
        ("swing_L", I8),
        ("z_hi", F8),
        ("z_mid", F8),
        ("min_separation", I8),
        ("cooldown_ms", I8),
        ("min_score", F8),
        ("min_vol_ok", F8),
        ("min_swing_bps", F8),
    ]
)

BULL, BEAR = 1, -1

OK, WARMUP, STALE, ABSENT = 0, 1, 2, 3

CHANNELS: Final = ("OFI_ONLY", "CVD_ONLY", "FUSION")
OFI, CVD, FUSION = 0, 1, 2

KINDS: Final = ("regular", "hidden", "conflict")
REGULAR, HIDDEN, CONFLICT = 0, 1, 2

TYPES: Final = ("bull_div", "bear_div", "hidden_bull", "hidden_bear", "ofi_cvd_conflict")
BULL_DIV, BEAR_DIV, HIDDEN_BULL, HIDDEN_BEAR, OFI_CVD_CONFLICT = 0, 1, 2, 3, 4

# Why a candidate did not become an event; the counter array is indexed by it.
REASONS: Final = (
    "warmup",
    "lag",
    "threshold",
    "min_separation",
    "low_vol",
    "low_score",
    "cooldown",
    "cluster",
)

# Bucket number: (session * 2 + liquidity) * 3 + channel.
N_BUCKETS: Final = 12
