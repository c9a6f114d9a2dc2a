"""A made-up market of which everything follows from symbol and row: what a log must hold is known without the log."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from v13.detector.dtypes import BAR, CHANNELS, CONFLICT, EVENT, FUSION, OFI_CVD_CONFLICT, TYPES
from v13.store.event_log import Batch, Checkpoint, LoggedEvent, Outcome, SymbolState, event_id

__all__ = ["CHECKPOINT_ROWS", "HORIZONS", "T0", "bars", "batch", "events", "outcomes", "ts_of"]

T0 = 1_767_225_600_000  # 2026-01-01T00:00:00Z
HORIZONS = (10, 20)
CHECKPOINT_ROWS = 16
_SIDES = (1, -1, 1, -1, 0)  # by type


def ts_of(row: int) -> int:
    """Return the close time of a row, which counts from 1."""
    return T0 + 1_000 * row


def bars(symbol: str, first: int, last: int) -> np.ndarray:
    """Return the bars of rows first..last, both included."""
    made = np.zeros(last - first + 1, BAR)
    for i, row in enumerate(range(first, last + 1)):
        rng = _rng(symbol, row)
        for name in BAR.names:
            made[name][i] = rng.integers(-1, 1_000) if BAR[name].kind == "i" else rng.normal()
        made["ts_ms"][i] = ts_of(row)
        made["mid"][i] = np.nan if row % 4 == 0 else rng.uniform(1, 2)
    return made


def events(symbol: str, first: int, last: int) -> list[LoggedEvent]:
    """Return the events of these rows: a divergence every third row, a conflict hint every tenth."""
    found = []
    for row in range(first, last + 1):
        kinds = [row // 3 % 4] if row % 3 == 0 else []
        kinds += [OFI_CVD_CONFLICT] if row % 10 == 0 else []
        found += [_event(symbol, row, kind) for kind in kinds]
    return found


def outcomes(symbol: str, first: int, last: int) -> list[Outcome]:
    """Return the outcomes that the bars of these rows settle: hits, misses, ties and voids."""
    found = []
    for row in range(first, last + 1):
        for horizon in HORIZONS:
            for logged in events(symbol, row - horizon, row - horizon) if row > horizon else []:
                if logged.event["side"] == 0:
                    continue
                what = (logged.row // 3 + horizon // 10) % 4
                ret = (float(_rng(symbol, row).normal()), 0.001, 0.0, None)[what]
                hit = (1, 0, None, None)[what]
                found.append(Outcome(event_id(symbol, logged.event), horizon, ts_of(row), ret, hit))
    return found


def batch(symbols: Sequence[str], first: int, last: int) -> Batch:
    """Return what a runner commits after the bars of these rows closed."""
    made = Batch()
    for symbol in symbols:
        made.bars[symbol] = bars(symbol, first, last)
        made.events += events(symbol, first, last)
        made.outcomes += outcomes(symbol, first, last)
        made.states[symbol] = SymbolState(ts_of(last), last, 1, f"intake {last}".encode())
        if last // CHECKPOINT_ROWS > (first - 1) // CHECKPOINT_ROWS:
            made.checkpoints[symbol] = Checkpoint(ts_of(last), last, f"detector {last}".encode(), 1)
    return made


def _event(symbol: str, row: int, kind: int) -> LoggedEvent:
    rng = _rng(symbol, row * 10 + kind)
    event = np.zeros((), EVENT)
    for name in EVENT.names:
        event[name] = rng.integers(0, 2) if EVENT[name].kind == "i" else rng.uniform(0, 100)
    event["ts_ms"], event["type"], event["side"] = ts_of(row), kind, _SIDES[kind]
    event["kind"] = CONFLICT if kind == OFI_CVD_CONFLICT else TYPES[kind].startswith("hidden")
    event["source"] = FUSION if kind == OFI_CVD_CONFLICT else row // 3 % len(CHANNELS)
    event["agree"] = rng.integers(0, 8)
    event["gap_bars"] = rng.integers(5, 200)
    if kind == OFI_CVD_CONFLICT:
        event["score"] = np.nan
    calibrated = {h: (0.5, 0.4, 0.6, float(rng.normal())) for h in HORIZONS} if kind != OFI_CVD_CONFLICT else {}
    return LoggedEvent(symbol, row, event[()], "global" if row % 2 else "session=day -> z_hi=1.6", 1, calibrated)


def _rng(symbol: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(symbol.encode()), number])
