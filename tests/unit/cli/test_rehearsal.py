"""What a rehearsal replays: the end of the search part, with the released parameters, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration.markets import open_market
from v13 import market, store
from v13.cli.rehearsal import MIN_BARS, rehearse_made_up, rehearse_run
from v13.config.parameters import read_parameters
from v13.detector import DecisionParams, DetectorParams, FeatureParams
from v13.errors import ConfigError, DataError
from v13.research.run import Run
from v13.research.trials import SymbolPart, find_events

LOOSE = DetectorParams(FeatureParams(window=60), DecisionParams(swing_L=5, z_hi=1.2, z_mid=0.4, min_score=0.0))


def released(folder: Path, params: DetectorParams = LOOSE) -> Path:
    head, given = {"version": 1, "simulated": True}, params.to_dict()
    store.write_yaml(folder / "best_global.yaml", head | {name: given[name] for name in ("features", "decision")})
    store.write_yaml(folder / "best_by_bucket.yaml", head | {"overrides": []})
    store.write_json(folder / "divergence_score_calibration.json", {"version": 1, "horizons": []})
    return folder


def staged(folder: Path) -> Path:
    root = folder / "stage"
    root.mkdir()
    return root


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_market(tmp_path, "planted", 20_000, 5)


def test_only_the_end_of_the_search_part_is_replayed_and_it_has_enough_events(tmp_path: Path, run: Run) -> None:
    made = rehearse_run(staged(tmp_path), run, released(tmp_path / "released"))
    played = market.load(made.recording)["BTCUSDT"]
    search = run.cut.search_bars(run.bars["BTCUSDT"])
    n = len(played.bars)
    assert MIN_BARS <= n < len(search)  # a part of it is enough
    for name in ("ts_ms", "close", "delta"):
        np.testing.assert_array_equal(played.bars[name], search[name][-n:])
    events, _ = find_events(LOOSE, run.sessions, SymbolPart("BTCUSDT", played.bars))
    assert len(events) >= 2 * run.config.acceptance.min_events
    assert played.simulated
    assert made.replay == {
        "symbols": ["BTCUSDT"],
        "n_bars": n,
        "from_ms": run.cut.search_end_ms - n * 1_000,
        "to_ms": run.cut.search_end_ms,
        "simulated": True,
        "part": "the end of the search part",
        "speed": 240.0,
    }
    found = read_parameters(made.root / made.environ["V13__RUNNER__PARAMETERS"]).params
    assert found.fingerprint() == LOOSE.fingerprint()


def test_of_a_detector_that_is_silent_the_whole_search_part_is_replayed(tmp_path: Path, run: Run) -> None:
    silent = DetectorParams(FeatureParams(), DecisionParams(min_score=100.0))
    made = rehearse_run(staged(tmp_path), run, released(tmp_path / "released", silent))
    assert made.replay["n_bars"] == len(run.cut.search_bars(run.bars["BTCUSDT"]))


def test_what_the_settings_leave_out_the_runner_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARAMETERS", "OVERRIDES", "CALIBRATION"):
        monkeypatch.setenv(f"V13__RUNNER__{name}", "null")
    made = rehearse_run(staged(tmp_path), open_market(tmp_path, "planted", 20_000, 5))
    assert set(made.environ.values()) == {"null"}


def test_a_released_file_that_is_missing_and_parameters_for_other_bars_are_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigError, match=r"best_global.yaml: missing; `v13 signoff` writes it"):
        rehearse_run(staged(tmp_path), run)  # nothing was released into this root
    (tmp_path / "other").mkdir()
    minutes = DetectorParams(FeatureParams(bar_ms=60_000), DecisionParams())
    with pytest.raises(ConfigError, match="for bars of 60000 ms, the recordings' are of 1000 ms"):
        rehearse_run(staged(tmp_path / "other"), run, released(tmp_path / "released", minutes))


def test_a_record_without_a_search_part_cannot_be_replayed(tmp_path: Path, run: Run) -> None:
    cut = replace(run.cut, search_end_ms=run.cut.start_ms)
    with pytest.raises(DataError, match="the search part has no bar to replay"):
        rehearse_run(staged(tmp_path), replace(run, cut=cut), released(tmp_path / "released"))


def test_the_made_up_hour_says_what_it_is(tmp_path: Path) -> None:
    made = rehearse_made_up(staged(tmp_path), Path(__file__).resolve().parents[3] / "config", 100.0)
    assert made.replay["symbols"] == ["BTCUSDT", "ETHUSDT"]
    assert (made.replay["n_bars"], made.replay["speed"], made.replay["part"]) == (3_600, 100.0, "all of it")
    assert made.environ == {}
