"""The noise test of the pipeline, in small; the long one is `make certify`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.integration.markets import REPO, write_bars
from v13 import config as configs
from v13 import market
from v13.cli import main
from v13.errors import ConfigError
from v13.research.noise import KINDS, NoiseReport, Outcome, Share, run_noise

LOADED = configs.load(REPO, None, environ={})


def quiet_market(rng: np.random.Generator) -> np.ndarray:
    """A maker of markets as a user might bring one: see `--market`."""
    return market.simulate_bars(market.MarketSpec("random_walk", 20_000), int(rng.integers(2**31))).bars


def test_every_kind_of_noise_is_judged_and_the_result_does_not_depend_on_the_workers() -> None:
    settings = {"kinds": KINDS, "n_markets": 1, "n_bars": 30_000, "seed": 4}
    alone = run_noise(LOADED, **settings)
    shared = run_noise(LOADED, workers=2, **settings)
    assert alone.to_dict() == shared.to_dict()
    assert alone.outcomes == shared.outcomes
    assert [s.kind for s in alone.kinds] == list(KINDS)
    assert all(o.n_events > 50 for o in alone.outcomes)
    assert alone.all_null is not None
    assert alone.all_null.n_passed == 0
    assert any("judge more markets" in line for line in alone.shortfalls())


def test_the_verdict_in_memory_is_the_verdict_of_the_files(tmp_path: Path) -> None:
    from v13.research.noise import judge_market
    from v13.research.run import open_run
    from v13.research.stages import accept_run

    bars = market.simulate_bars(market.MarketSpec("planted", 80_000), 5).bars
    run = open_run([write_bars(tmp_path / "t.parquet", bars)], root=REPO, out=tmp_path / "out", seed=13)
    assert judge_market(bars, LOADED, 13).to_dict() == accept_run(run).verdict.to_dict()


def test_a_market_from_outside_as_a_callable_and_as_a_file(tmp_path: Path) -> None:
    made = run_noise(
        LOADED, kinds=["given"], n_markets=2, n_bars=0, seed=1, given="tests.integration.test_noise:quiet_market"
    )
    assert made.kinds[0].n_markets == 2
    tape = write_bars(tmp_path / "t.parquet", market.simulate_bars(market.MarketSpec("planted", 30_000), 6).bars)
    shifted = run_noise(LOADED, kinds=["shifted_returns"], n_markets=2, n_bars=0, seed=1, given=str(tape))
    assert shifted.kinds[0].n_markets == 2


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
        run_noise(LOADED, kinds=kinds, n_markets=1, n_bars=20_000, seed=1, given=given)


def report(passed: int, markets: int) -> NoiseReport:
    from v13.research.noise import _share

    outcomes = tuple(
        Outcome("random_walk", i, "PASS" if i < passed else "FAIL", () if i < passed else ("accuracy_10",), 500)
        for i in range(markets)
    )
    share: Share = _share("random_walk", outcomes)
    return NoiseReport(1, 1_000, (share,), share, outcomes)


def test_the_certificate_holds_only_with_few_passes_and_enough_markets() -> None:
    assert report(0, 200).shortfalls() == []
    assert report(3, 1_000).shortfalls() == []
    assert "judge more markets" in report(0, 100).shortfalls()[0]
    assert "more than 1%" in report(20, 1_000).shortfalls()[0]
    assert len(report(60, 1_000).shortfalls()) == 3
    share = report(3, 1_000).kinds[0]
    assert (share.low, share.high) == pytest.approx((0.00061911, 0.00874201), rel=1e-3)  # Clopper-Pearson
    assert share.lost_to == {"accuracy_10": 997}


def test_the_command_prints_the_shares_and_exits_by_the_certificate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    assert main(["noise", "--markets", "1", "--kind", "random_walk", "--bars", "20000", "--workers", "1"]) == 4
    printed = capsys.readouterr()
    assert json.loads(printed.out)["all_null"]["n_passed"] == 0
    assert "certificate does not hold" in printed.err
