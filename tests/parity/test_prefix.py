"""Prefix replay: what was said about the past never changes when more data arrive. This is what catches peeking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.oracle.markets import random_bars
from v13 import market, measures
from v13.detector import DecisionParams, Detector, DetectorParams, FeatureParams, compute_features, divergences

PARAMS = DetectorParams(
    FeatureParams(window=60),
    DecisionParams(swing_L=5, z_hi=0.8, z_mid=0.2, min_score=10.0, cooldown_ms=0, min_swing_bps=0.0, min_vol_ok=0.0),
)
Finder = Callable[[np.ndarray], np.ndarray]


def changed_past(find: Finder, bars: np.ndarray, lengths: np.ndarray) -> int:
    """Count the prefixes after which something already said turns out to be said differently."""
    final = find(bars)
    changed = 0
    for n in lengths:
        now_ms = bars["ts_ms"][n - 1]
        changed += find(bars[:n]).tobytes() != final[final["ts_ms"] <= now_ms].tobytes()
    return changed


def honest(bars: np.ndarray) -> np.ndarray:
    return Detector(PARAMS).run(bars)


def peeking(bars: np.ndarray) -> np.ndarray:
    """Stamp each divergence at its pivot, as the code behind such guides does."""
    events = divergences(Detector(PARAMS).run(bars)).copy()
    events["bar"] -= events["swing_L"]
    events["ts_ms"] = events["b_ts_ms"]
    return events


def prefixes(n: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, n + 1, count)


def test_no_event_changes_over_600_prefixes_of_simulated_data() -> None:
    bars = random_bars(np.random.default_rng(11), 2_500)
    assert len(honest(bars)) > 50
    assert changed_past(honest, bars, prefixes(len(bars), 600, 1)) == 0


def test_no_feature_changes_over_300_prefixes() -> None:
    bars = random_bars(np.random.default_rng(12), 1_500)
    final = compute_features(PARAMS, bars)
    for n in prefixes(len(bars), 300, 2):
        assert compute_features(PARAMS, bars[:n]).tobytes() == final[:n].tobytes()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("files", "n_prefixes"),
    [
        (("klines/spot_BTCUSDT_1m_2025-10-29.parquet",), 300),
        (
            (
                "quotes_trades/spot_ETHUSDT_2024-08-08_trades.parquet",
                "quotes_trades/spot_ETHUSDT_2024-08-08_bookticker.parquet",
            ),
            200,
        ),
    ],
)
def test_no_event_changes_over_prefixes_of_real_recordings(
    shared_data: Path, files: tuple[str, ...], n_prefixes: int
) -> None:
    (recording,) = market.load([shared_data / f for f in files]).values()
    params = DetectorParams(FeatureParams(bar_ms=recording.bar_ms, window=60), PARAMS.decision)
    bars = recording.bars

    def find(part: np.ndarray) -> np.ndarray:
        return Detector(params).run(part)

    assert len(find(bars)) > 5
    assert changed_past(find, bars, prefixes(len(bars), n_prefixes, 3)) == 0


def test_a_peeking_detector_is_caught() -> None:
    bars = random_bars(np.random.default_rng(13), 2_500)
    assert changed_past(peeking, bars, prefixes(len(bars), 100, 4)) > 0


def test_stamping_at_the_pivot_makes_a_driftless_walk_look_perfect() -> None:
    rng = np.random.default_rng(14)
    bars = random_bars(rng, 20_000, kind="plain")
    walk = 1_000.0 * np.exp(np.cumsum(rng.normal(0.0, 1e-4, len(bars))))
    for name in ("open", "high", "low", "close", "mid"):
        bars[name] = walk
    returns = measures.forward_returns(walk, np.zeros(len(bars), np.int64), PARAMS.decision.swing_L)
    peeked, known = peeking(bars), divergences(honest(bars))
    assert len(known) > 200
    peeked_accuracy = measures.accuracy(measures.hits(returns[peeked["bar"]], peeked["side"])).accuracy
    known_accuracy = measures.accuracy(measures.hits(returns[known["bar"]], known["side"])).accuracy
    assert peeked_accuracy == 1.0
    assert known_accuracy is not None
    assert abs(known_accuracy - 0.5) < 4 * 0.5 / np.sqrt(len(known))  # four standard errors around a coin
