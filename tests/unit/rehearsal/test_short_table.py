"""The SLO table of a rehearsal: the product's own, with windows of seconds, and the numbers that follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO
from v13 import store
from v13.rehearsal.stage import CHANGED, RATE, WINDOWS, short_table
from v13.telemetry.slo import SloTable, load_slo

PRODUCT = REPO / "config/slo.yaml"


@pytest.fixture
def short(tmp_path: Path) -> SloTable:
    store.write_yaml(tmp_path / "slo.yaml", short_table(PRODUCT, {}))
    return load_slo(tmp_path / "slo.yaml")


def test_it_is_a_table_with_the_rows_and_alerts_of_the_product(short: SloTable) -> None:
    own = load_slo(PRODUCT)
    assert [row.key for row in short.rows] == [row.key for row in own.rows]
    assert [alert.key for alert in short.alerts] == [alert.key for alert in own.alerts]
    assert (short.scrape_s, short.evaluate_s) == (1, 1)


def test_every_window_is_shorter_and_none_is_left_as_it_was(short: SloTable) -> None:
    seconds = {"10s": 10, "30s": 30, "60s": 60, "90s": 90}
    allowed = {seconds[text] for text in WINDOWS.values()}
    pairs = list(zip(short.entries, load_slo(PRODUCT).entries, strict=True))
    windows = [(getattr(a.signal, "window_s", None), getattr(b.signal, "window_s", None)) for a, b in pairs]
    assert {w for w, _ in windows if w is not None} <= allowed
    assert not [(a, b) for a, b in windows if a is not None and not a < b]


def test_durations_are_left_to_the_time_scale(short: SloTable) -> None:
    own = load_slo(PRODUCT)
    assert [row.alert.for_s for row in short.rows] == [row.alert.for_s for row in own.rows]
    assert [a.level.for_s for a in short.alerts] == [a.level.for_s for a in own.alerts]


def test_no_level_differs_but_those_that_are_said_to(short: SloTable) -> None:
    own = load_slo(PRODUCT)
    changed = {(key[1], key[2]) for key in CHANGED}
    for mine, theirs in zip(short.rows, own.rows, strict=True):
        for name in ("target", "alert", "rollback"):
            a, b = getattr(mine, name), getattr(theirs, name)
            if a is None or b is None:
                assert a == b
                continue
            factor = RATE if mine.key == "events_per_hour" else 1
            expected = [None if bound is None else bound * factor for bound in (b.above, b.below)]
            if (mine.key, name) in changed:
                assert [a.above, a.below] != expected
            else:
                assert [a.above, a.below] == expected


def test_what_a_test_wants_changed_comes_last(tmp_path: Path) -> None:
    wanted = {("rows", "compute_latency", "rollback", "above"): 0.9, ("rows", "availability", "min_count"): 7}
    store.write_yaml(tmp_path / "slo.yaml", short_table(PRODUCT, wanted))
    table = load_slo(tmp_path / "slo.yaml")
    rollback = table.row("compute_latency").rollback
    assert rollback is not None
    assert (rollback.above, table.row("availability").least) == (0.9, 7)


def test_the_products_file_is_not_touched() -> None:
    before = PRODUCT.read_bytes()
    short_table(PRODUCT, {})
    assert PRODUCT.read_bytes() == before


def test_a_window_that_nobody_shortened_yet_is_an_error(tmp_path: Path) -> None:
    document = YAML(typ="safe").load(PRODUCT)
    row = next(row for row in document["rows"].values() if "window" in row["signal"])
    row["signal"]["window"] = "7m"
    store.write_yaml(tmp_path / "slo.yaml", document)
    with pytest.raises(KeyError, match="7m"):
        short_table(tmp_path / "slo.yaml", {})
