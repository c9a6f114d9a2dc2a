"""The simulator: nulls hold no edge, the planted edge is the one stated, and ticks carry the same market as bars."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from v13.detector.engine import Detector, divergences
from v13.detector.params import DetectorParams
from v13.errors import ConfigError
from v13.market.bars import bars_from
from v13.market.simulator import SimulatedBars, simulate_bars
from v13.market.simulator_kernel import FLOW_SCALE, STRENGTH_MEAN, garch
from v13.market.simulator_spec import KINDS, SYMBOLS, MarketSpec
from v13.market.simulator_ticks import demo_market, simulate_ticks

NULLS = [kind for kind in KINDS if kind != "planted"]
SEED = 20240101
H = 20  # bars; the longest horizon
# Errors of sampling: 4 standard errors, so that a true claim fails once in 16,000 seeds; the seed is fixed.
LIMIT = 4.0


@pytest.fixture(scope="module")
def planted() -> SimulatedBars:
    return simulate_bars(MarketSpec("planted", 150_000), SEED)


@pytest.fixture(scope="module")
def ticks() -> tuple[MarketSpec, pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    spec = MarketSpec("planted", 4_000, symbol="ETHUSDT")
    return spec, *simulate_ticks(spec, SEED)


def block_sums(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x[: x.size // H * H].reshape(-1, H).sum(axis=1)


def correlation_errors(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Correlation over its standard error for independent pairs."""
    return float(np.corrcoef(x, y)[0, 1] * np.sqrt(x.size))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_or_symbol_does_not(kind: Any) -> None:
    spec = MarketSpec(kind, 3_000)
    first, again, other = simulate_bars(spec, 1), simulate_bars(spec, 1), simulate_bars(spec, 2)
    assert first.bars.tobytes() == again.bars.tobytes()
    assert json.dumps(first.truth) == json.dumps(again.truth)
    assert first.bars.tobytes() != other.bars.tobytes()
    eth = simulate_bars(MarketSpec(kind, 3_000, symbol="ETHUSDT"), 1)
    pair = np.diff(np.log(first.bars["mid"])), np.diff(np.log(eth.bars["mid"]))
    assert abs(correlation_errors(*pair)) < LIMIT


# Made by the plain Python loops which the compiled ones replaced (simulator.py of commit 7463bfe, Python 3.11, numpy
# 2.4), of `golden` below: whole ticks and lots, times and sides, so the last bit of a processor's sine does not show.
@pytest.mark.parametrize(
    ("kind", "seed", "setting", "digest"),
    [
        ("random_walk", 0, {}, "07349c309f174848"),
        ("random_walk", 1, {"symbol": "ETHUSDT", "bar_ms": 60_000}, "d645ead8e2836aeb"),
        ("garch_t", 0, {}, "860750b398609f66"),
        ("garch_t", 1, {"symbol": "ETHUSDT", "n_bars": 60_000}, "1d82de90381e6836"),
        ("clustered_flow", 2, {}, "56dfd7b3689756b1"),
        ("clustered_flow", 3, {"symbol": "ETHUSDT", "n_bars": 100}, "1e0daae77860b836"),
        ("drift", 3, {}, "39e718a9ffb40a2c"),
        ("drift", 4, {"symbol": "ETHUSDT", "drift_ratio": -0.5}, "8fa497c59af5b5d3"),
        ("planted", 0, {}, "af59c1cd091c5204"),
        ("planted", 1, {"true_accuracy": 0.57, "horizons": (5,), "slope": 0.0}, "01c176cadf1eb023"),
        (
            "planted",
            2,
            {"symbol": "ETHUSDT", "true_accuracy": 0.5, "swing_L": 5, "horizons": (3, 9, 27), "bar_ms": 60_000},
            "9619735a407ed8ba",
        ),
        ("planted", 4, {"true_accuracy": 0.9, "swing_L": 5, "slope": 3.0, "n_bars": 60_000}, "607decd0953083de"),
    ],
)
def test_markets_are_those_of_the_plain_python_loops(
    kind: Any, seed: int, setting: dict[str, Any], digest: str
) -> None:
    assert golden(simulate_bars(MarketSpec(**({"kind": kind, "n_bars": 5_000} | setting)), seed)) == digest


def golden(market: SimulatedBars) -> str:
    plants = market.truth.get("plants", {})
    known = [plants.get(name) for name in ("ts_ms", "side", "source", "hits")]
    return hashlib.sha256(market.bars.tobytes() + json.dumps(known).encode()).hexdigest()[:16]


_EVERY_BYTE = """
import hashlib, json
from v13.market.simulator import simulate_bars
from v13.market.simulator_spec import KINDS, MarketSpec
digest = hashlib.sha256()
for kind in KINDS:
    market = simulate_bars(MarketSpec(kind, 4_000, swing_L=5, horizons=(3, 9, 27)), 7)
    for part in (market.bars.tobytes(), market.flow_ofi.tobytes(), market.flow_cvd.tobytes()):
        digest.update(part)
    digest.update(json.dumps(market.truth).encode())
print(digest.hexdigest())
"""


def test_compiled_and_interpreted_make_the_same_bytes() -> None:
    compiled, interpreted = (
        subprocess.run(
            [sys.executable, "-c", _EVERY_BYTE],
            env={**os.environ, "NUMBA_DISABLE_JIT": without},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for without in ("0", "1")
    )
    assert len(compiled.strip()) == 64
    assert compiled == interpreted


def test_volatility_is_that_of_a_plain_loop_to_the_last_bit() -> None:
    # Bars are rounded to ticks and would hide it: a square root is not the power of a half in one of a thousand cases.
    shock = np.random.default_rng(SEED).standard_t(8, 20_000)
    expected, variance = [], 1.0
    for z in shock.tolist():
        e = variance**0.5 * z
        expected.append(e)
        variance = (1 - 0.06 - 0.92) + 0.06 * e * e + 0.92 * variance
    garch(shock, 0.5)
    assert shock.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_bars_are_sane(kind: Any, symbol: str) -> None:
    bars = simulate_bars(MarketSpec(kind, 20_000, symbol=symbol), SEED).bars
    for name in ("open", "high", "low", "close", "mid", "volume", "delta", "ofi"):
        assert np.isfinite(bars[name]).all()
    assert (bars["high"] >= np.maximum(bars["open"], bars["close"])).all()
    assert (bars["low"] <= np.minimum(bars["open"], bars["close"])).all()
    assert (bars["low"] > 0).all()
    assert (bars["volume"] >= np.abs(bars["delta"])).all()
    assert (np.diff(bars["ts_ms"]) == 1_000).all()
    assert (bars["n_quotes"] > 0).all()
    assert (bars["lag_quote_ms"] >= 1).all()

    empty = bars["n_trades"] == 0
    assert 0.02 < empty.mean() < 0.25
    assert ((bars["volume"] == 0) == empty).all()
    for name in ("open", "high", "low", "close"):
        assert (bars[name][1:] == bars["close"][:-1])[empty[1:]].all()
    assert ((bars["lag_trade_ms"] > 1_000) == empty).all()


@pytest.mark.parametrize("kind", NULLS)
def test_flow_of_a_null_market_does_not_foretell_returns(kind: Any) -> None:
    bars = simulate_bars(MarketSpec(kind, 200_000), SEED).bars
    ret = np.diff(np.log(bars["mid"]), prepend=np.log(bars["mid"][0]))
    move = block_sums(ret)
    for name in ("ofi", "delta"):
        flow = block_sums(bars[name])
        assert abs(correlation_errors(np.sign(flow[:-1]), np.sign(move[1:]))) < LIMIT
        # Sizes: volatility varies, so the error is taken from the products themselves.
        product = (flow[:-1] - flow.mean()) * (move[1:] - move.mean())
        assert abs(product.mean()) < LIMIT * product.std() / np.sqrt(product.size)


def test_the_measure_of_the_test_above_can_see_a_tie_between_flow_and_price() -> None:
    bars = simulate_bars(MarketSpec("clustered_flow", 200_000), SEED).bars
    move = block_sums(np.diff(np.log(bars["mid"]), prepend=np.log(bars["mid"][0])))
    for name in ("ofi", "delta"):
        assert correlation_errors(np.sign(block_sums(bars[name])), np.sign(move)) > LIMIT  # at once, not later


@pytest.mark.parametrize("kind", KINDS)
def test_signs_are_balanced_unless_the_market_drifts(kind: Any) -> None:
    market = simulate_bars(MarketSpec(kind, 200_000), SEED)
    move = block_sums(np.diff(np.log(market.bars["mid"]), prepend=np.log(market.bars["mid"][0])))
    flows = block_sums(market.flow_ofi), block_sums(market.flow_cvd)
    errors = [float(np.sign(x).mean() * np.sqrt(x.size)) for x in (move, *flows)]
    if kind == "drift":
        assert min(errors) > LIMIT
    elif kind == "clustered_flow":  # neighbouring blocks of flow are alike, which widens their error
        assert abs(errors[0]) < LIMIT
        assert max(map(abs, errors[1:])) < 2 * LIMIT
    else:
        assert max(map(abs, errors)) < LIMIT


def test_returns_of_the_garch_market_cluster_in_size_and_those_of_the_random_walk_do_not() -> None:
    def memory(kind: Any) -> float:
        size = np.abs(np.diff(np.log(simulate_bars(MarketSpec(kind, 40_000), SEED).bars["mid"])))[:20_000]
        return correlation_errors(size[1:], size[:-1])

    assert memory("garch_t") > 2 * LIMIT
    assert abs(memory("random_walk")) < 2 * LIMIT  # volatility has a faint daily shape


@pytest.mark.parametrize("accuracy", [0.5, 0.57, 0.7, 0.85])
def test_every_horizon_of_a_plant_is_hit_with_its_own_chance(accuracy: float) -> None:
    truth = simulate_bars(MarketSpec("planted", 150_000, true_accuracy=accuracy), SEED).truth
    q = np.array(truth["plants"]["q"])
    assert q.size == truth["n_plants"] > 1_000
    if accuracy <= 0.75:
        assert q.mean() == pytest.approx(accuracy, abs=0.02)  # strengths differ from market to market
    assert q.max() <= 0.95
    for horizon in ("10", "20"):
        hit = np.array(truth["plants"]["hits"][horizon])
        assert truth["hit_share"][horizon] == pytest.approx(hit.mean())
        for part in (q >= 0, q < np.median(q), q > np.median(q)):
            if part.any():
                errors = (hit - q)[part].sum() / np.sqrt((q * (1 - q))[part].sum())
                assert abs(errors) < LIMIT


def test_many_horizons_are_each_hit_with_the_same_chance() -> None:
    horizons = (2, 4, 6, 8, 10, 12, 14, 16)  # a sign for each block alone would make the last one all but sure
    truth = simulate_bars(MarketSpec("planted", 100_000, true_accuracy=0.75, slope=0.0, horizons=horizons), SEED).truth
    n = truth["n_plants"]
    assert set(truth["plants"]["q"]) == {0.75}
    for horizon in horizons:
        # The shortest moves are some sixty ticks, so rounding turns less than one in a hundred into a tie.
        assert abs(truth["hit_share"][str(horizon)] - 0.75) < LIMIT * np.sqrt(0.75 * 0.25 / n) + 0.01


def test_a_stronger_plant_is_hit_more_often(planted: SimulatedBars) -> None:
    plants = planted.truth["plants"]
    hit = np.array(plants["hits"]["20"], float)
    assert correlation_errors(np.array(plants["strength"]), hit) > LIMIT


def test_plants_are_spread_over_sides_and_sources_at_the_target_rate(planted: SimulatedBars) -> None:
    truth = planted.truth
    hours = planted.bars.size / 3_600
    assert 20 <= truth["n_plants"] / hours <= 60
    assert min(truth["n_by_source"].values()) > 0.2 * truth["n_plants"]
    assert abs(sum(truth["plants"]["side"])) < LIMIT * np.sqrt(truth["n_plants"])


def test_a_plant_follows_a_swing_point_that_is_just_known_and_never_another_plant(planted: SimulatedBars) -> None:
    bars, plants = planted.bars, planted.truth["plants"]
    at = np.searchsorted(bars["ts_ms"], plants["ts_ms"])
    assert (np.diff(at) >= H).all()
    assert at[-1] + H < bars.size
    for i, side in zip(at.tolist(), plants["side"], strict=True):
        window = side * bars["mid"][i - 26 : i + 1]
        assert window[13] == window.min()  # rounding to ticks keeps order, though not strictness


@pytest.mark.parametrize("kind_and_accuracy", [("random_walk", 0.7), ("planted", 0.5), ("planted", 0.9)])
def test_nothing_before_the_first_plant_depends_on_it(
    planted: SimulatedBars, kind_and_accuracy: tuple[Any, float]
) -> None:
    kind, accuracy = kind_and_accuracy
    other = simulate_bars(MarketSpec(kind, planted.bars.size, true_accuracy=accuracy), SEED).bars
    known = int(np.searchsorted(planted.bars["ts_ms"], planted.truth["plants"]["ts_ms"][0])) + 1
    assert planted.bars[:known].tobytes() == other[:known].tobytes()
    assert planted.bars[known:].tobytes() != other[known:].tobytes()


def test_planting_turns_returns_round_and_keeps_their_sizes(planted: SimulatedBars) -> None:
    walk = simulate_bars(MarketSpec("random_walk", planted.bars.size), SEED).bars
    sizes = [np.abs(np.diff(np.log(bars["mid"]))) for bars in (planted.bars, walk)]
    one_tick = 0.1 / min(planted.bars["mid"].min(), walk["mid"].min())
    assert np.abs(sizes[0] - sizes[1]).max() <= 2 * one_tick  # each end of a return is rounded in both


def test_the_constants_of_strength_and_scale_are_those_of_the_market(planted: SimulatedBars) -> None:
    for flow in (planted.flow_ofi, planted.flow_cvd):
        scale = 1.4826 * np.median(np.abs(flow - np.median(flow)))
        assert scale == pytest.approx(FLOW_SCALE, rel=0.08)  # empty bars lower that of the CVD
    assert np.mean(planted.truth["plants"]["strength"]) == pytest.approx(STRENGTH_MEAN, rel=0.04)


def test_days_are_busier_than_nights(planted: SimulatedBars) -> None:
    hour = planted.bars["ts_ms"] // 3_600_000 % 24
    is_day = (hour >= 9) & (hour < 17)
    assert planted.bars["volume"][is_day].mean() > 1.3 * planted.bars["volume"][~is_day].mean()


def test_the_detector_sees_the_planted_edge_and_none_in_the_random_walk(planted: SimulatedBars) -> None:
    def seen(bars: Any) -> tuple[float, float, int]:
        events = divergences(Detector(DetectorParams()).run(bars))
        events = events[events["bar"] + H < bars.size]
        move = np.log(bars["mid"][events["bar"] + H] / bars["mid"][events["bar"]])
        return events.size / bars.size * 3_600, float((events["side"] * move > 0).mean()), events.size

    rate, accuracy, _ = seen(planted.bars)
    assert 15 <= rate <= 80
    assert 0.61 <= accuracy <= 0.69
    rate, accuracy, n = seen(simulate_bars(MarketSpec("random_walk", planted.bars.size), SEED).bars)
    assert 15 <= rate <= 80
    assert abs(accuracy - 0.5) < LIMIT * 0.5 / np.sqrt(n)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"kind": "sideways"}, "kind"),
        ({"symbol": "DOGE"}, "symbol"),
        ({"n_bars": 99}, "n_bars"),
        ({"bar_ms": 9}, "bar_ms"),
        ({"start_ms": -1}, "start_ms"),
        ({"true_accuracy": 0.49}, "true_accuracy"),
        ({"slope": -0.1}, "slope"),
        ({"horizons": (20, 10)}, "horizons"),
        ({"horizons": ()}, "horizons"),
        ({"swing_L": 1}, "swing_L"),
        ({"drift_ratio": 1.0}, "drift_ratio"),
    ],
)
def test_a_spec_outside_its_range_is_refused_by_name(setting: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {named}"):
        MarketSpec(**({"kind": "planted", "n_bars": 1_000} | setting))


def test_quotes_are_never_crossed_and_trades_are_at_the_touch(
    ticks: tuple[MarketSpec, pl.DataFrame, pl.DataFrame, dict[str, Any]],
) -> None:
    _, trades, quotes, truth = ticks
    assert truth["n_trades"] == trades.height
    assert truth["n_quotes"] == quotes.height
    assert (quotes["bid"] < quotes["ask"]).all()
    assert min(quotes["bid_qty"].min(), quotes["ask_qty"].min(), trades["qty"].min()) >= 0.001  # type: ignore[type-var]
    for price in (quotes["bid"], quotes["ask"], trades["px"]):
        cents = np.rint(price.to_numpy() * 100)
        assert (cents / 100 == price.to_numpy()).all()
    for tape in (trades, quotes):
        assert tape["ts_ms"].is_sorted()
        assert tape["id"].to_list() == list(range(1, tape.height + 1))

    assert not set(trades["ts_ms"]) & set(quotes["ts_ms"])  # which came first is never in doubt
    quote_rows = quotes.rows()
    q = 0
    for ts_ms, _, px, _, sign in trades.iter_rows():
        while q + 1 < len(quote_rows) and quote_rows[q + 1][0] <= ts_ms:
            q += 1
        assert quote_rows[q][0] <= ts_ms
        assert px == quote_rows[q][4 if sign > 0 else 2]


def test_order_flow_imbalance_of_the_quotes_is_the_latent_flow(
    ticks: tuple[MarketSpec, pl.DataFrame, pl.DataFrame, dict[str, Any]],
) -> None:
    spec, _, quotes, _ = ticks
    ofi = [0.0] * spec.n_bars
    last: Any = None
    for ts_ms, _, bid, bid_qty, ask, ask_qty in quotes.iter_rows():
        if last is not None:
            bid_was, bid_qty_was, ask_was, ask_qty_was = last
            e = 0.0
            if bid >= bid_was:
                e += bid_qty
            if bid <= bid_was:
                e -= bid_qty_was
            if ask <= ask_was:
                e -= ask_qty
            if ask >= ask_was:
                e += ask_qty_was
            ofi[(ts_ms - spec.start_ms) // spec.bar_ms] += e
        last = bid, bid_qty, ask, ask_qty
    market = simulate_bars(spec, SEED)
    np.testing.assert_allclose(ofi, market.bars["ofi"], atol=1e-9)  # sums of floats against whole lots
    assert np.corrcoef(ofi, market.flow_ofi)[0, 1] > 0.9


def test_bars_of_the_ticks_are_the_simulated_bars(
    ticks: tuple[MarketSpec, pl.DataFrame, pl.DataFrame, dict[str, Any]],
) -> None:
    spec, trades, quotes, _ = ticks
    made = bars_from(trades, quotes, bar_ms=spec.bar_ms)
    meant = simulate_bars(spec, SEED).bars[: made.size]
    assert made.size >= spec.n_bars - 1
    for name in ("ts_ms", "n_trades"):
        np.testing.assert_array_equal(made[name], meant[name])
    for name in ("mid", "volume", "delta", "ofi"):
        np.testing.assert_allclose(made[name], meant[name], rtol=1e-12, atol=1e-8)  # sums of floats against whole lots
    assert 3 <= made["n_quotes"].mean() <= 7


def test_ticks_are_the_same_for_the_same_seed_in_any_bar_length() -> None:
    for bar_ms in (10, 500, 60_000):
        spec = MarketSpec("garch_t", 500, bar_ms=bar_ms)
        (trades, quotes, _), (again, quotes_again, _) = simulate_ticks(spec, 7), simulate_ticks(spec, 7)
        assert trades.equals(again)
        assert quotes.equals(quotes_again)
        end = spec.start_ms + spec.n_bars * bar_ms
        assert spec.start_ms == quotes["ts_ms"][0]
        assert max(trades["ts_ms"][-1], quotes["ts_ms"][-1]) < end


def test_the_demo_market_is_written_as_a_simulated_tape(tmp_path: Path) -> None:
    paths = demo_market(tmp_path / "demo", hours=1, seed=3)
    assert [path.name for path in paths] == [
        "BTCUSDT_trades.parquet",
        "BTCUSDT_quotes.parquet",
        "ETHUSDT_trades.parquet",
        "ETHUSDT_quotes.parquet",
    ]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        symbol, kind = path.stem.split("_")
        tags = {key.decode(): value.decode() for key, value in pq.read_schema(path).metadata.items()}
        assert (tags["v13.kind"], tags["v13.symbol"], tags["v13.market"]) == (kind, symbol, "usdm")
        assert tags["v13.simulated"] == "true"
        truth = json.loads(tags["v13.truth"])
        assert truth["simulated"] is True
        assert truth["spec"]["kind"] == "planted"
        assert "plants" not in truth
    schema = {"ts_ms": pl.Int64, "id": pl.Int64, "px": pl.Float64, "qty": pl.Float64, "sign": pl.Int8}
    assert pl.read_parquet_schema(paths[0]) == schema
    alone = demo_market(tmp_path / "alone", hours=1, seed=3, symbols=["ETHUSDT"])
    assert alone[0].read_bytes() == paths[2].read_bytes()


def test_a_demo_of_an_unknown_symbol_or_of_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DOGE"):
        demo_market(tmp_path, symbols=["DOGE"])
    with pytest.raises(ConfigError, match="found 0"):
        demo_market(tmp_path, hours=0)
