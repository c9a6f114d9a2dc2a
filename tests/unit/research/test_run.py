"""The run's key: what it hangs on, and what it does not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.integration.markets import project, write_bars
from v13 import config as configs
from v13 import market, store
from v13.errors import StoreError
from v13.research.run import Run, make_run, open_run, source_files
from v13.research.sealing import enter_look, seal_holdout
from v13.research.signoff import _install


def test_the_code_is_its_sources_and_not_what_compilers_cache(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "page.html.j2").write_text("page")
    before = source_files(tmp_path)
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for name in ("a.kernel.nbi", "a.kernel.1.nbc", "a.cpython-311.pyc", "left.py"):
        (cache / name).write_text("cache")
    assert source_files(tmp_path) == before
    assert [p.name for p in before] == ["a.py", "page.html.j2"]


def test_a_map_of_recorded_data_is_not_replaced_by_a_simulated_or_empty_one(tmp_path: Path) -> None:
    place = tmp_path / "config" / "map.json"
    made = tmp_path / "made.json"

    def offer(*, simulated: bool, horizons: list[int]) -> bool:
        store.write_json(made, {"simulated": simulated, "horizons": horizons})
        return _install(made, place)

    assert offer(simulated=True, horizons=[10])
    assert offer(simulated=False, horizons=[10])
    assert not offer(simulated=True, horizons=[10])
    assert not offer(simulated=False, horizons=[])
    assert store.read_json(place) == {"simulated": False, "horizons": [10]}
    assert offer(simulated=False, horizons=[20])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    bars = market.simulate_bars(market.MarketSpec("random_walk", 2_000), 4).bars
    path = write_bars(tmp_path / "tape.parquet", bars, simulated=False)
    return open_run([path], root=project(tmp_path), out=tmp_path / "out")


def relabelled(run: Run, **facts: object) -> Run:
    recordings = {s: dataclasses.replace(r, **facts) for s, r in run.recordings.items()}
    loaded = configs.Loaded(run.config, run.config_origin, run.config_files)
    return make_run(recordings, loaded, root=run.root, out=run.out)


@pytest.mark.parametrize("facts", [{"market": "spot"}, {"simulated": True}])
def test_a_relabelled_recording_is_another_run_and_not_a_contradiction(run: Run, facts: dict[str, object]) -> None:
    other = relabelled(run, **facts)
    assert other.key != run.key
    assert relabelled(run).key == run.key
    for each in (run, other):
        seal_holdout(each)


def test_a_file_moved_to_another_markets_folder_is_another_run(tmp_path: Path) -> None:
    """Klines do not say their market: the folder or the name does."""
    bars = market.simulate_bars(market.MarketSpec("random_walk", 1_200), 4).bars
    lines = [
        f"{ts - 1_000},{px},{px},{px},{px},1.0,{ts - 1},1.0,3,0.5,0.5,0\n"
        for ts, px in zip(bars["ts_ms"], bars["close"], strict=True)
    ]
    runs = []
    for label in ("spot", "usdm"):
        path = tmp_path / label / "BTCUSDT-1s-2024-01-01.csv"
        path.parent.mkdir()
        path.write_text("".join(lines))
        runs.append(open_run([path], root=project(tmp_path), out=tmp_path / "out"))
        seal_holdout(runs[-1])
    assert [r.recordings["BTCUSDT"].market for r in runs] == ["spot", "usdm"]
    assert runs[0].key != runs[1].key


def test_the_seal_covers_the_files_the_bars_came_from(run: Run) -> None:
    (recording,) = run.recordings.values()
    other = tuple(dataclasses.replace(s, sha256="0" * 64) for s in recording.sources)
    swapped = dataclasses.replace(run, recordings={"BTCUSDT": dataclasses.replace(recording, sources=other)})
    assert swapped.cut.seal(swapped.bars) == run.cut.seal(run.bars)
    assert swapped.holdout_sha256 != run.holdout_sha256
    seal_holdout(run)
    with pytest.raises(StoreError, match="the data changed since the search"):
        enter_look(swapped)
    assert enter_look(run).holdout_sha256 == run.holdout_sha256


def test_a_file_renamed_in_place_is_the_same_seal(run: Run, tmp_path: Path) -> None:
    copied = shutil.copy(tmp_path / "tape.parquet", tmp_path / "copy.parquet")
    again = open_run([copied], root=run.root, out=run.out)
    assert (again.key, again.holdout_sha256) == (run.key, run.holdout_sha256)
