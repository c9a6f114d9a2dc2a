"""The whole pipeline without notebooks: an edge passes, noise does not, nothing leaks, equal bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.integration.markets import SHORT, open_market, project, write_bars
from v13 import market, measures
from v13.errors import ConfigError, StoreError
from v13.research import search, stages
from v13.research.acceptance import HoldoutResult
from v13.research.run import Run, open_run
from v13.research.signoff import changed_settings
from v13.store import HOLDOUT_LEDGER, HoldoutLedger

N_BARS = 150_000


def go(run: Run) -> HoldoutResult:
    stages.write_quality(run)
    found = search.search(run)
    search.write_search(run, found)
    stages.write_calibration(run, stages.calibrate_run(run))
    result = stages.accept_run(run)
    stages.write_acceptance(run, result)
    return result


def test_a_planted_edge_passes_and_the_planted_setting_is_found(tmp_path: Path) -> None:
    run = open_market(tmp_path, "planted", 250_000, 3, {"noise.max_bars": 60_000})
    result = go(run)
    assert result.verdict.overall is measures.Status.PASS, [c.detail for c in result.verdict.criteria]
    assert search.read_params(run).decision.swing_L == 13
    assert {c.key for c in result.verdict.open} == {"compute_p95", "event_p95", "pipeline_p95", "closure", "hot_reload"}


@pytest.mark.parametrize(
    ("kind", "seed"), [("random_walk", 1), ("garch_t", 2), ("clustered_flow", 3), ("drift", 4), ("random_walk", 5)]
)
def test_noise_is_not_signed_off(tmp_path: Path, kind: str, seed: int) -> None:
    result = go(open_market(tmp_path, kind, N_BARS, seed))
    assert result.verdict.overall in (measures.Status.FAIL, measures.Status.INSUFFICIENT)
    assert len(result.outcomes.events) > 200  # it was looked at, not merely empty


def test_equal_inputs_give_byte_identical_artifacts(tmp_path: Path) -> None:
    run = open_market(tmp_path, "planted", N_BARS, 6)
    go(run)
    again = dataclasses.replace(run, out=tmp_path / "again")
    go(again)
    names = sorted(p.name for p in run.out.iterdir())
    assert len(names) == 11
    for name in names:
        assert (run.out / name).read_bytes() == (again.out / name).read_bytes(), name


def test_the_search_never_sees_the_holdout(tmp_path: Path) -> None:
    """Everything behind the search part is replaced by another market: what was found stays, byte for byte."""
    run = open_market(tmp_path, "planted", N_BARS, 7)
    other = open_market(tmp_path / "other", "random_walk", N_BARS, 8)
    bars = run.bars["BTCUSDT"].copy()
    behind = bars["ts_ms"] > run.cut.search_end_ms
    for name in bars.dtype.names:
        if name != "ts_ms":
            bars[name][behind] = other.bars["BTCUSDT"][name][behind]
    tape = write_bars(tmp_path / "changed.parquet", bars)
    changed = open_run([tape], root=project(tmp_path), out=tmp_path / "changed", overrides=SHORT)
    assert changed.key != run.key
    documents = []
    for each in (run, changed):
        found = search.search(each)
        search.write_search(each, found)
        fitted = stages.calibrate_run(each)
        documents.append(
            (
                (each.out / "summary.csv").read_bytes(),
                (each.out / "trials.parquet").read_bytes(),
                found.params,
                fitted.document | {"key": ""},
            )
        )
    assert documents[0] == documents[1]
    assert run.cut.seal(run.bars) != changed.cut.seal(changed.bars)


def test_acceptance_never_sees_the_search_part(tmp_path: Path) -> None:
    run = open_market(tmp_path, "planted", N_BARS, 9)
    part = run.holdout_parts()[0]
    assert part.bars["ts_ms"][0] > run.cut.search_end_ms
    result = go(run)
    events = result.outcomes.events
    assert events["ts_ms"].min() > run.cut.holdout_start_ms
    assert events["a_ts_ms"].min() > run.cut.search_end_ms


def test_what_a_stage_wrote_for_other_inputs_is_not_taken(tmp_path: Path) -> None:
    run = open_market(tmp_path, "planted", 60_000, 10)
    go(run)
    other = dataclasses.replace(open_market(tmp_path, "planted", 60_000, 11), out=run.out)
    assert search.read_params(other) is None
    assert stages.released_params(other) == search.read_params(other)


@pytest.mark.shared
def test_klines_have_no_ofi_and_what_needs_it_is_insufficient(tmp_path: Path, shared_data: Path) -> None:
    run = open_run(
        [shared_data / "klines/spot_BTCUSDT_15m.parquet", shared_data / "klines/spot_ETHUSDT_15m.parquet"],
        root=project(tmp_path),
        out=tmp_path / "out",
        overrides=SHORT,
    )
    assert not run.has_quotes
    result = go(run)
    status = {c.key: c.status for c in result.verdict.criteria}
    assert status["bucket_ofi_only"] is measures.Status.INSUFFICIENT
    assert status["events_per_hour"] is measures.Status.NOT_APPLICABLE
    assert result.verdict.overall is not measures.Status.PASS
    assert set(np.unique(result.outcomes.events["source"])) <= {1}  # CVD_ONLY: never called fused


def test_a_record_too_short_to_cut_is_insufficient_and_says_so(tmp_path: Path) -> None:
    result = go(open_market(tmp_path, "planted", 400, 12))
    assert result.verdict.overall is measures.Status.INSUFFICIENT
    assert len(result.outcomes.events) == 0


def test_the_purge_gap_covers_the_longest_memory_in_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = open_market(tmp_path, "random_walk", 20_000, 13)
    monkeypatch.setenv("V13__SEARCH__GRID__WINDOW", "[100, 5000]")
    long = open_market(tmp_path, "random_walk", 20_000, 13)
    assert long.cut.purge_bars == short.cut.purge_bars + 4_700
    monkeypatch.setenv("V13__SEARCH__PURGE_BARS", "700")
    with pytest.raises(ConfigError, match="purge_bars"):
        open_market(tmp_path, "random_walk", 20_000, 13)


def test_rules_that_were_changed_are_named_and_a_dropped_horizon_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = {"noise.markets": 3, "noise.max_bars": 150_000}
    assert changed_settings(open_market(tmp_path, "random_walk", 2_000, 14, product).config) == []
    monkeypatch.setenv("V13__SEARCH__HORIZONS_BARS", "[10, 2000]")
    monkeypatch.setenv("V13__ACCEPTANCE__ALPHA", "0.2")
    run = open_market(tmp_path, "planted", 60_000, 14, product | {"noise.markets": 1})
    assert [c.key for c in changed_settings(run.config)] == [
        "acceptance.alpha",
        "search.horizons_bars",
        "noise.markets",
    ]
    result = go(run)
    status = {c.key: c.status for c in result.verdict.criteria}
    assert status["accuracy_20"] is measures.Status.NOT_RUN
    assert "accuracy_20" in {c.key for c in result.verdict.open}


def recorded(folder: Path, n_bars: int = 60_000) -> Path:
    """A tape that says it was recorded: looks at a simulated one cost nothing."""
    return write_bars(
        folder / "t.parquet", market.simulate_bars(market.MarketSpec("planted", n_bars), 3).bars, simulated=False
    )


def test_a_second_look_at_a_holdout_is_judged_at_half_the_alpha_and_a_rerun_is_no_second_look(tmp_path: Path) -> None:
    root, tape = project(tmp_path), recorded(tmp_path)

    def look(seed: int, out: str) -> HoldoutResult:
        return go(open_run([tape], root=root, out=tmp_path / out, seed=seed, overrides=SHORT))

    first, again, second = look(1, "a"), look(1, "b"), look(2, "c")
    assert first.look == again.look
    assert first.look is not None
    assert second.look is not None
    assert (first.look["number"], second.look["number"]) == (1, 2)
    assert (first.alpha, again.alpha, second.alpha) == (0.05, 0.05, 0.025)
    assert again.verdict == first.verdict
    for criterion in second.verdict.criteria:
        if criterion.key == "accuracy_10":
            assert "against 0.025" in criterion.detail
    looks = HoldoutLedger(root / HOLDOUT_LEDGER).looks_at()
    assert [x.verdict for x in looks] == [first.verdict.overall.value, second.verdict.overall.value]


def test_a_holdout_that_was_searched_before_is_no_first_look(tmp_path: Path) -> None:
    root, tape = project(tmp_path), recorded(tmp_path)
    greedy = open_run([tape], root=root, out=tmp_path / "a", seed=1, overrides=SHORT | {"search.search_share": 0.9})
    search.search(greedy)  # its search part holds most of what the next run calls its holdout
    result = go(open_run([tape], root=root, out=tmp_path / "b", seed=1, overrides=SHORT))
    assert result.look is not None
    assert (result.look["number"], result.look["n_searched_before"]) == (2, 1)


def test_a_holdout_that_was_not_sealed_is_not_judged(tmp_path: Path) -> None:
    run = open_run([recorded(tmp_path)], root=project(tmp_path), out=tmp_path / "a", overrides=SHORT)
    search.write_search(run, search.search(run, record=False))
    with pytest.raises(StoreError, match="nothing has been entered"):
        stages.accept_run(run)


def test_looks_at_a_simulated_market_are_entered_and_cost_nothing(tmp_path: Path) -> None:
    for seed in (1, 2):
        made = open_market(tmp_path, "random_walk", 20_000, 3)
        result = go(dataclasses.replace(made, seed=seed, key=f"{seed:064d}", out=tmp_path / str(seed)))
        assert result.look is not None
        assert (result.look["number"], result.alpha) == (seed, 0.05)
