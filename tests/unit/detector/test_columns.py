"""Features by column against the rows they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from v13 import market, measures
from v13.detector import DetectorParams, FeatureParams, columns, compute_columns, compute_features
from v13.detector.columns import FeatureColumns
from v13.errors import DataError

PARAMS = DetectorParams(FeatureParams(window=40))


def bars_of(n_bars: int) -> np.ndarray:
    bars = market.simulate_bars(market.MarketSpec("clustered_flow", n_bars), 5).bars
    rng = np.random.default_rng(5)
    bars = bars[rng.random(n_bars) > 0.01].copy()
    silent = rng.random(len(bars)) < 0.05
    bars["mid"][silent] = bars["close"][silent & (rng.random(len(bars)) < 0.5)] = np.nan
    bars["lag_quote_ms"][rng.random(len(bars)) < 0.05] = 60_000  # stale
    return bars


BARS = bars_of(4_000)


def same(a: FeatureColumns, b: FeatureColumns) -> bool:
    names = ("ts_ms", "px", "readings", "vol_ok", "flags", "runs")
    return a.has_all_prices == b.has_all_prices and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in names
    )


def test_columns_say_what_the_rows_say_to_the_last_bit() -> None:
    rows = compute_features(PARAMS, BARS)
    assert len(np.unique(rows["status_ofi"])) > 2
    for found in (compute_columns(PARAMS, BARS), FeatureColumns.of(rows, 1_000)):
        assert found.rows(np.arange(len(rows))).tobytes() == rows.tobytes()
        assert found.rows(np.array([[7, 3], [3, 9]])).tobytes() == rows[[[7, 3], [3, 9]]].tobytes()


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_columns_do_not_depend_on_the_chunks_they_are_computed_in(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compute_columns(PARAMS, BARS)
    monkeypatch.setattr(columns, "CHUNK_BARS", size)
    assert same(compute_columns(PARAMS, BARS), whole)


def test_runs_are_the_segments_of_the_times() -> None:
    found = compute_columns(PARAMS, BARS)
    assert len(found.runs) > 20
    assert found.segments().tolist() == measures.segments(BARS["ts_ms"], 1_000).tolist()


def test_a_missing_price_is_noticed_and_only_that() -> None:
    assert np.isnan(compute_columns(PARAMS, BARS).px).any()
    assert not compute_columns(PARAMS, BARS).has_all_prices
    assert compute_columns(PARAMS, bars_of(4_000)[:0]).has_all_prices
    clean = market.simulate_bars(market.MarketSpec("clustered_flow", 500), 5).bars
    assert compute_columns(PARAMS, clean).has_all_prices == (not np.isnan(compute_columns(PARAMS, clean).px).any())


def test_bars_the_detector_refuses_are_refused() -> None:
    with pytest.raises(DataError, match="does not follow"):
        compute_columns(PARAMS, BARS[::-1])
