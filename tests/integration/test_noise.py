"""The noise test of the pipeline, in small; the long one is `make certify`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.integration.markets import REPO, project, write_bars
from v13 import config as configs
from v13 import market, measures
from v13.cli import main
from v13.errors import ConfigError
from v13.research import certificate, noise
from v13.research.noise import NoiseReport, Outcome, PowerCell, judge_market, run_noise, run_power
from v13.research.null_markets import KINDS, Shape
from v13.research.run import Run, open_run
from v13.research.stages import accept_run

LOADED = configs.load(REPO, None, environ={})


def quiet_market(rng: np.random.Generator) -> np.ndarray:
    """A maker of markets as a user might bring one: see `--market`."""
    return market.simulate_bars(market.MarketSpec("random_walk", 20_000), int(rng.integers(2**31))).bars


SHAPE = Shape(n_bars=30_000)


def test_every_kind_of_noise_is_judged_and_the_result_does_not_depend_on_the_workers() -> None:
    settings = {"kinds": KINDS, "n_markets": 1, "shape": SHAPE, "seed": 4}
    alone = run_noise(LOADED, **settings)
    shared = run_noise(LOADED, workers=2, **settings)
    assert alone.to_dict() == shared.to_dict()
    assert alone.outcomes == shared.outcomes
    assert [s.kind for s in alone.kinds] == list(KINDS)
    assert all(o.n_events > 50 for o in alone.outcomes)
    assert alone.all_null is not None
    assert alone.all_null.n_passed == 0
    assert any("judge more markets" in line for line in alone.shortfalls())
    assert alone.shortfalls(full=False) == []


def test_another_seed_makes_other_markets_and_the_same_seed_the_same() -> None:
    first, again, other = (
        run_noise(LOADED, kinds=["random_walk"], n_markets=1, shape=SHAPE, seed=seed).outcomes[0] for seed in (4, 4, 5)
    )
    assert first == again
    assert first.accuracy != other.accuracy


def test_the_verdict_in_memory_is_the_verdict_of_the_files(tmp_path: Path) -> None:
    bars = market.simulate_bars(market.MarketSpec("planted", 80_000), 5).bars
    run = open_run([write_bars(tmp_path / "t.parquet", bars)], root=project(tmp_path), out=tmp_path / "out", seed=13)
    of_files = [c for c in accept_run(run).verdict.criteria if c.key != "noise_certificate"]
    assert [c.to_dict() for c in judge_market({"BTCUSDT": bars}, LOADED, 13).verdict.criteria] == [
        c.to_dict() for c in of_files
    ]


def test_a_market_from_outside_as_a_callable_and_as_a_file(tmp_path: Path) -> None:
    made = run_noise(
        LOADED, kinds=["given"], n_markets=2, shape=SHAPE, seed=1, given="tests.integration.test_noise:quiet_market"
    )
    assert made.kinds[0].n_markets == 2
    tape = write_bars(tmp_path / "t.parquet", market.simulate_bars(market.MarketSpec("planted", 30_000), 6).bars)
    shifted = run_noise(LOADED, kinds=["shifted_returns"], n_markets=2, shape=SHAPE, seed=1, given=str(tape))
    assert shifted.kinds[0].n_markets == 2


def test_surrogates_of_klines_lack_the_quotes_and_say_what_that_makes_impossible(shared_data: Path) -> None:
    loaded = configs.load(REPO, None, environ={}, overrides={"search.min_events": 20})
    path = shared_data / "klines" / "spot_BTCUSDT_15m.parquet"
    shape = Shape(n_bars=46_000, bar_ms=900_000, has_quotes=False)
    found = run_noise(loaded, kinds=["flipped_signs"], n_markets=1, shape=shape, seed=1, given=str(path))
    (outcome,) = found.outcomes
    assert "bucket_ofi_only" in outcome.absent
    assert not outcome.signed_off


@pytest.mark.parametrize(
    ("kinds", "given", "message"),
    [
        (["fog"], None, "expected one of"),
        (["given"], None, "module:function"),
        (["given"], "nowhere:nothing", "nowhere"),
    ],
)
def test_what_cannot_be_had_is_an_error(kinds: list[str], given: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_noise(LOADED, kinds=kinds, n_markets=1, shape=SHAPE, seed=1, given=given)


def report(passed: int, markets: int, power: tuple[PowerCell, ...] = ()) -> NoiseReport:
    outcomes = tuple(
        Outcome(
            "random_walk",
            i,
            "PASS" if i < passed else "FAIL",
            () if i < passed else ("accuracy_10",),
            (),
            500,
            0.5,
            None,
        )
        for i in range(markets)
    )
    share = noise._share("random_walk", outcomes)
    return NoiseReport(1, SHAPE, (share,), share, power, outcomes)


def cell(accuracy: float, n_events: int, passed: int) -> PowerCell:
    share = report(passed, 100).kinds[0]
    return PowerCell(accuracy, n_events, 1_000, accuracy, float(n_events), accuracy, share)


def test_the_certificate_holds_only_with_few_passes_and_enough_markets() -> None:
    assert report(0, 1_000).shortfalls() == []
    assert report(3, 1_000).shortfalls() == []
    assert "judge more markets" in report(0, 999).shortfalls()[0]
    assert "more than 1%" in report(20, 1_000).shortfalls()[0]
    assert len(report(60, 1_000).shortfalls()) == 3
    share = report(3, 1_000).kinds[0]
    assert (share.low, share.high) == pytest.approx((0.00061911, 0.00874201), rel=1e-3)  # Clopper-Pearson
    assert share.lost_to == {"accuracy_10": 997}


def test_the_certificate_asks_for_power_where_it_is_prescribed_and_only_there() -> None:
    enough = (cell(0.60, 2_000, 90), cell(0.57, 5_000, 80), cell(0.57, 200, 0))
    assert report(0, 1_000, enough).shortfalls() == []
    (line,) = report(0, 1_000, (cell(0.60, 2_000, 89),)).shortfalls()
    assert "0.60" in line
    assert "89%" in line


def test_a_short_certificate_holds_only_if_nothing_is_signed_off() -> None:
    assert report(0, 21).shortfalls(full=False) == []
    assert "1 of 21" in report(1, 21).shortfalls(full=False)[0]


def test_planted_markets_are_planted_so_that_the_detectors_own_events_have_the_accuracy() -> None:
    (found,) = run_power(LOADED, cells=[(0.62, 600, 4)], seed=3, workers=2)
    assert found.share.n_markets == 4
    assert found.planted_chance > 0.62
    assert found.mean_truth == pytest.approx(0.62, abs=0.01)
    assert found.mean_events == pytest.approx(600, rel=0.15)


def test_the_command_prints_the_shares_and_exits_by_the_certificate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert main(["noise", "--markets", "1", "--kind", "random_walk", "--bars", "20000", "--workers", "1"]) == 4
    printed = capsys.readouterr()
    assert json.loads(printed.out)["all_null"]["n_passed"] == 0
    assert "certificate does not hold" in printed.err


# --- the certificate of a sign-off -----------------------------------------------------------------------------------


def open_short(folder: Path, n_bars: int = 60_000, **values: object) -> Run:
    bars = market.simulate_bars(market.MarketSpec("planted", n_bars), 5).bars
    path = write_bars(folder / "t.parquet", bars)
    overrides = {"noise.markets": 1, "noise.max_bars": 50_000} | values
    return open_run([path], root=project(folder), out=folder / "out", seed=13, overrides=overrides)


def test_a_certificate_is_made_once_for_a_config_a_shape_and_this_code(tmp_path: Path) -> None:
    run = open_short(tmp_path)
    assert certificate.find(run) is None
    told: list[int] = []
    made = certificate.certify(run, workers=1, progress=lambda done, _: told.append(done))
    assert told == list(range(1, 8))
    assert made.all_null["n_markets"] == 7
    assert made.surrogates_of == "simulated clustered flow"
    assert certificate.certify(run, workers=1, progress=lambda *_: pytest.fail("judged again")) == made
    assert certificate.criterion(made).status is measures.Status.PASS
    longer = open_short(tmp_path / "longer", n_bars=70_000)
    assert certificate.shape_of(longer) == certificate.shape_of(run)  # both are longer than noise.max_bars
    changed = dataclasses.replace(open_short(tmp_path / "changed", **{"search.grid.z_hi": [1.2]}), root=run.root)
    assert certificate.find(changed) is None


def test_no_certificate_or_one_that_fails_is_no_pass(tmp_path: Path) -> None:
    assert certificate.criterion(None).status is measures.Status.INSUFFICIENT
    made = certificate.certify(open_short(tmp_path), workers=1)
    null = dict(made.all_null) | {"n_passed": 2, "share": 2 / 7, "low": 0.04, "high": 0.71}
    failed = dataclasses.replace(
        made, document=dict(made.document) | {"all_null": null, "shortfalls": ["2 of 7 null markets signed off"]}
    )
    found = certificate.criterion(failed)
    assert found.status is measures.Status.FAIL
    assert "2 of 7" in found.detail


def test_a_certificate_of_markets_too_short_to_pass_proves_nothing(tmp_path: Path) -> None:
    made = certificate.certify(open_short(tmp_path, **{"noise.max_bars": 5_000}), workers=1)
    assert made.shortfalls == []
    found = certificate.criterion(made)
    assert found.status is measures.Status.INSUFFICIENT
    assert "proves nothing" in found.detail


def test_surrogates_of_a_recording_are_made_of_its_search_part_alone(tmp_path: Path) -> None:
    run = open_short(tmp_path, **{"noise.max_bars": 12_000})
    recordings = {s: dataclasses.replace(r, simulated=False) for s, r in run.recordings.items()}
    real = dataclasses.replace(run, recordings=recordings)
    before = certificate._key(real, False)
    for r in recordings.values():
        r.bars["delta"][r.bars["ts_ms"] > real.cut.search_end_ms] *= -1
    assert certificate._key(real, False) == before
    for r in recordings.values():
        r.bars["delta"][:100] *= -1
    assert certificate._key(real, False) == before  # beyond noise.max_bars
    for r in recordings.values():
        r.bars["delta"][r.bars["ts_ms"] <= real.cut.search_end_ms] *= -1
    assert certificate._key(real, False) != before
