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
from v13.research import certificate, noise, noise_figures
from v13.research.noise import judge_market, run_noise, run_power
from v13.research.noise_report import NoiseReport, Outcome, PowerCell, share_of
from v13.research.null_markets import KINDS, Shape, read_bars
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
    assert any("judge more markets" in line for line in alone.lacking())
    assert alone.shortfalls() == []
    assert alone.status() is measures.Status.INSUFFICIENT


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


def test_markets_from_outside_are_a_kind_like_any_other(tmp_path: Path) -> None:
    made = run_noise(
        LOADED, kinds=["given"], n_markets=2, shape=SHAPE, seed=1, given="tests.integration.test_noise:quiet_market"
    )
    assert made.kinds[0].n_markets == 2
    for seed, name in ((6, "b.parquet"), (7, "a.parquet")):
        write_bars(tmp_path / name, market.simulate_bars(market.MarketSpec("random_walk", 30_000), seed).bars)
    found = run_noise(LOADED, kinds=["drift", "given"], n_markets=1, shape=SHAPE, seed=1, given=str(tmp_path))
    assert [(s.kind, s.n_markets) for s in found.kinds] == [("drift", 1), ("given", 2)]  # files: all of them
    assert found.all_null is not None
    assert found.all_null.n_markets == 3
    one = run_noise(LOADED, kinds=["given"], n_markets=5, shape=SHAPE, seed=1, given=str(tmp_path / "a.parquet"))
    assert one.outcomes == (next(o for o in found.outcomes if (o.kind, o.number) == ("given", 0)),)


def test_surrogates_are_made_of_a_recording_where_one_is_named(tmp_path: Path) -> None:
    tape = write_bars(tmp_path / "t.parquet", market.simulate_bars(market.MarketSpec("planted", 30_000), 6).bars)
    settings = {"kinds": ["shifted_returns"], "n_markets": 1, "shape": SHAPE, "seed": 1}
    assert run_noise(LOADED, bars=read_bars(str(tape)), **settings).outcomes != run_noise(LOADED, **settings).outcomes
    with pytest.raises(ConfigError, match=r"--recording: only surrogates"):
        run_noise(LOADED, bars=read_bars(str(tape)), **settings | {"kinds": ["drift"]})


def test_surrogates_of_klines_lack_the_quotes_and_say_what_that_makes_impossible(shared_data: Path) -> None:
    loaded = configs.load(REPO, None, environ={}, overrides={"search.min_events": 20})
    bars = read_bars(str(shared_data / "klines" / "spot_BTCUSDT_15m.parquet"))
    found = run_noise(loaded, kinds=["flipped_signs"], n_markets=1, shape=SHAPE, seed=1, bars=bars)
    (outcome,) = found.outcomes
    assert "bucket_ofi_only" in outcome.absent
    assert not outcome.signed_off


@pytest.mark.parametrize(
    ("kinds", "given", "message"),
    [
        (["fog"], None, "expected one of"),
        (["given"], None, "module:function"),
        (["given"], "nowhere:nothing", "nowhere"),
        (["given"], "nowhere.parquet", r"nowhere\.parquet: no such file"),
        (["drift"], "tests.integration.test_noise:quiet_market", "--kind all or given"),
    ],
)
def test_what_cannot_be_had_is_an_error(kinds: list[str], given: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_noise(LOADED, kinds=kinds, n_markets=1, shape=SHAPE, seed=1, given=given)


def share(kind: str, passed: int, markets: int, n_events: int = 500, absent: tuple[str, ...] = ()) -> tuple:
    outcomes = tuple(
        Outcome(
            kind,
            i,
            "PASS" if i < passed and not absent else "FAIL",
            absent if i < passed else (*absent, "accuracy_10"),
            absent,
            n_events,
            0.5,
            None,
        )
        for i in range(markets)
    )
    return share_of(kind, outcomes), outcomes


def report(passed: int, markets: int, power: tuple[PowerCell, ...] = (), thin: str = "") -> NoiseReport:
    """Every kind judged; all passes are of the first. `thin` names a kind with hardly an event."""
    each = [markets // len(KINDS) + (i < markets % len(KINDS)) for i in range(len(KINDS))]
    parts = [
        share(kind, passed if kind == KINDS[0] else 0, n, 3 if kind == thin else 500)
        for kind, n in zip(KINDS, each, strict=True)
    ]
    outcomes = tuple(o for _, own in parts for o in own)
    return NoiseReport(1, SHAPE, tuple(s for s, _ in parts), share_of("all", outcomes), power, outcomes)


def cell(accuracy: float, n_events: int, passed: int, *, shape: Shape = SHAPE) -> PowerCell:
    absent = () if shape.has_all_channels else ("bucket_ofi_only",)
    found, _ = share("planted", passed, 100, absent=absent)
    return PowerCell(accuracy, n_events, shape, accuracy, float(n_events), accuracy, found)


ENOUGH = (cell(0.60, 2_000, 90), cell(0.57, 5_000, 80), cell(0.57, 200, 0))


def test_the_certificate_holds_only_with_few_passes_and_enough_markets() -> None:
    assert report(0, 1_000, ENOUGH).status() is measures.Status.PASS
    assert report(3, 1_000, ENOUGH).status() is measures.Status.PASS
    few = report(0, 999, ENOUGH)
    assert few.status() is measures.Status.INSUFFICIENT
    assert few.lacking() == ["999 null markets are fewer than 1000: judge more markets"]
    many = report(20, 1_000, ENOUGH)
    assert many.status() is measures.Status.FAIL
    assert "2.00% of null markets signed off, more than 1%" in many.shortfalls()[0]
    assert len(many.shortfalls()) == 3
    found, _ = share("random_walk", 3, 1_000)
    assert (found.low, found.high) == pytest.approx((0.00061911, 0.00874201), rel=1e-3)  # Clopper-Pearson
    assert found.lost_to == {"accuracy_10": 997}


def test_the_certificate_asks_for_power_where_it_is_prescribed_and_only_there() -> None:
    without = report(0, 1_000)
    assert without.status() is measures.Status.INSUFFICIENT
    assert [line[:20] for line in without.lacking()] == ["power at a true 0.60", "power at a true 0.57"]
    assert len(report(0, 1_000, ENOUGH[1:]).lacking()) == 1
    (line,) = report(0, 1_000, (cell(0.60, 2_000, 89), *ENOUGH[1:])).shortfalls()
    assert "0.60" in line
    assert "89%" in line


def test_without_a_channel_power_is_what_passed_all_that_the_channels_allow() -> None:
    shape = Shape(has_quotes=False)
    found = cell(0.60, 2_000, 95, shape=shape)
    assert (found.share.n_passed, found.n_found, found.power) == (0, 95, 0.95)
    assert (found.to_dict()["low"], found.to_dict()["high"]) == pytest.approx((0.8872, 0.9836), abs=1e-4)
    assert report(0, 1_000, (found, cell(0.57, 5_000, 80, shape=shape))).status() is measures.Status.PASS


def test_one_kind_alone_is_no_certificate_however_many_markets() -> None:
    one, outcomes = share("random_walk", 0, 7_000)
    alone = NoiseReport(1, SHAPE, (one,), one, ENOUGH, outcomes)
    assert alone.status() is measures.Status.INSUFFICIENT
    (line,) = alone.lacking()
    assert line == f"not judged: {', '.join(KINDS[1:])}"


def test_planted_markets_alone_are_no_certificate() -> None:
    alone = NoiseReport(1, SHAPE, (), None, ENOUGH, ())
    assert alone.status() is measures.Status.INSUFFICIENT
    assert alone.to_dict()["status"] == "INSUFFICIENT"
    assert len(alone.lacking()) == 2


@pytest.mark.parametrize("full", [True, False])
def test_a_kind_with_hardly_an_event_proves_nothing_whatever_the_mean_over_kinds(full: bool) -> None:
    thin = report(0, 1_000, ENOUGH, thin="shuffled_flow")
    assert thin.all_null is not None
    assert thin.all_null.mean_events > 158  # of all kinds: it would hide the thin one
    assert thin.status(full=full) is measures.Status.INSUFFICIENT
    (line,) = thin.lacking(full=full)
    assert line.endswith("under 158 nothing could be signed off: shuffled_flow 3")


def test_a_short_certificate_holds_only_if_nothing_is_signed_off() -> None:
    assert report(0, 21).status(full=False) is measures.Status.PASS
    assert "1 of 21" in report(1, 21).shortfalls(full=False)[0]
    assert report(1, 21, thin="drift").status(full=False) is measures.Status.FAIL


def test_planted_markets_are_planted_so_that_the_detectors_own_events_have_the_accuracy() -> None:
    (found,) = run_power(LOADED, cells=[(0.62, 600, 4)], shape=SHAPE, seed=3, workers=2)
    assert found.share.n_markets == 4
    assert found.planted_chance > 0.62
    assert found.mean_truth == pytest.approx(0.62, abs=0.01)
    assert found.mean_events == pytest.approx(600, rel=0.15)


def test_power_is_measured_on_markets_of_the_shape_asked_for() -> None:
    shape = Shape(n_symbols=2, bar_ms=60_000, has_quotes=False)
    (found,) = run_power(LOADED, cells=[(0.62, 600, 2)], shape=shape, seed=3, workers=2)
    assert dataclasses.replace(found.shape, n_bars=shape.n_bars) == shape
    assert found.mean_events == pytest.approx(600, rel=0.2)  # of both symbols together
    assert found.mean_truth == pytest.approx(0.62, abs=0.02)
    assert found.share.n_passed == 0
    assert found.share.lost_to["bucket_ofi_only"] == 2  # the channel is not there


def test_the_command_prints_the_shares_and_exits_by_the_certificate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert main(["noise", "--markets", "1", "--kind", "random_walk", "--bars", "20000", "--workers", "1"]) == 4
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["all_null"]["n_passed"] == 0
    assert document["status"] == "INSUFFICIENT"
    assert document["lacking"][0] == f"not judged: {', '.join(KINDS[1:])}"
    assert "not a full certificate" in printed.err


def test_the_command_judges_only_planted_markets_and_says_that_this_is_no_certificate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(certificate, "POWER_CELLS", ((0.65, 100, 1),))
    monkeypatch.setattr(noise, "PILOT_BARS", 40_000)
    assert main(["noise", "--kind", "planted", "--workers", "1"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "INSUFFICIENT"
    assert (document["all_null"], len(document["power"])) == (None, 1)
    assert len(document["lacking"]) == 4  # kinds, 1,000 markets, two cells


def test_the_command_exits_0_only_for_a_full_certificate_that_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds is set here: a full certificate takes half an hour (`make certify`)."""
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(noise, "run_power", lambda *_, **__: ENOUGH)
    for passed, code, word in ((0, 0, "PASS"), (60, 4, "FAIL")):
        monkeypatch.setattr(noise, "run_noise", lambda *_, n=passed, **__: report(n, 1_001))
        assert main(["noise", "--power"]) == code
        assert json.loads(capsys.readouterr().out)["status"] == word
    monkeypatch.setattr(noise, "run_noise", lambda *_, **__: report(0, 1_001))
    assert main(["noise"]) == 4
    assert json.loads(capsys.readouterr().out)["status"] == "INSUFFICIENT"


def test_the_command_counts_a_folder_of_bars_as_a_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    write_bars(tmp_path / "m.parquet", market.simulate_bars(market.MarketSpec("random_walk", 5_000), 1).bars)
    arguments = ["noise", "--markets", "1", "--bars", "5000", "--workers", "2", "--market", str(tmp_path)]
    assert main(arguments) == 4
    printed = capsys.readouterr()
    assert [k["kind"] for k in json.loads(printed.out)["kinds"]] == [*KINDS, "given"]
    assert "given: 0 of 1 signed off" in printed.err
    assert main([*arguments, "--kind", "drift"]) == 3
    assert "--kind all or given" in capsys.readouterr().err


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


def of_report(found: NoiseReport, *, full: bool = False) -> certificate.Certificate:
    document = found.to_dict(full=full) | {"key": "0" * 64, "full": full}
    return certificate.Certificate("0" * 64, full, "simulated clustered flow", document)


def test_one_kind_with_hardly_an_event_is_no_pass_of_the_certificate() -> None:
    assert certificate.criterion(of_report(report(0, 21))).status is measures.Status.PASS
    found = certificate.criterion(of_report(report(0, 21, thin="garch_t")))
    assert found.status is measures.Status.INSUFFICIENT
    assert "garch_t 3" in found.detail


def test_where_a_channel_is_absent_the_certificate_says_what_passed_all_else() -> None:
    absent = ("bucket_ofi_only",)
    parts = [share(kind, 1 if kind == "drift" else 0, 3, absent=absent) for kind in KINDS]
    outcomes = tuple(o for _, own in parts for o in own)
    shape = Shape(has_quotes=False)
    found = NoiseReport(1, shape, tuple(s for s, _ in parts), share_of("all", outcomes), (), outcomes)
    detail = certificate.criterion(of_report(found)).detail
    assert detail.startswith("0 of 21 markets")
    assert "without quotes none can be: 1 of them passed all that their channels allow" in detail
    assert "channels allow" not in certificate.criterion(of_report(report(0, 21))).detail


def test_the_pages_say_for_what_shape_power_was_measured() -> None:
    shape = Shape(n_symbols=2, bar_ms=60_000, has_quotes=False)
    cells = (cell(0.60, 2_000, 95, shape=shape), cell(0.57, 5_000, 80, shape=shape))
    proof = of_report(dataclasses.replace(report(0, 1_001, cells), shape=shape), full=True)
    facts = noise_figures.facts(proof).frame.set_index("fact")["value"]
    assert facts["each planted market"] == "2 symbol(s), bars of 60 s, trades; as many bars as the events take"
    row = noise_figures.power_table(proof).frame.iloc[0]
    assert (row["passed all their channels allow"], row["power"], row["required"]) == ("95 of 100", "95%", "90%")
    assert noise_figures.power_figure(proof).axes[0].get_ylabel() == "signed off, %"


def test_a_certificate_of_no_market_can_be_shown_and_is_no_pass(tmp_path: Path) -> None:
    proof = certificate.certify(open_short(tmp_path, **{"noise.markets": 0}))
    assert noise_figures.facts(proof).frame.set_index("fact")["value"]["markets judged"] == 0
    assert noise_figures.criteria_table(proof).frame["criterion"].tolist() == ["no market was judged"]
    assert (noise_figures.shares(proof).frame["judged"] == 0).all()
    assert noise_figures.noise_figure(proof).axes
    assert "not measured" in noise_figures.power_table(proof).frame["power"].iloc[0]
    assert certificate.criterion(proof).status is not measures.Status.PASS


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
