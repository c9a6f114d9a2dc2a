"""The run's key: what it hangs on, and what it does not."""

from __future__ import annotations

from pathlib import Path

from v13 import store
from v13.research.run import source_files
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
