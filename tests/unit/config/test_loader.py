"""Layers, origins, and errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.config import Config, load
from v13.errors import ConfigError


def project(root: Path, system: str, **environments: str) -> Path:
    folder = root / "config" / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "config" / "system.yaml").write_text(system, encoding="utf-8")
    for name, text in ({"development": ""} | environments).items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return root


def error_of(root: Path, env: str | None = None, environ: dict[str, str] | None = None, **flags: object) -> str:
    overrides = {k.replace("__", "."): v for k, v in flags.items()}
    with pytest.raises(ConfigError) as caught:
        load(root, env, environ=environ or {}, overrides=overrides)
    return str(caught.value)


def test_each_layer_beats_the_one_below_and_says_where_a_value_came_from(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        "search:\n  folds: 2\n  min_events: 2\n  cost_bps: 2\nrun:\n  seed: 2\n",
        production="# stricter\nsearch:\n  folds: 3\n  min_events: 3\n  cost_bps: 3\n",
    )
    loaded = load(
        root,
        "production",
        environ={"V13__SEARCH__MIN_EVENTS": "4", "V13__SEARCH__COST_BPS": "4", "HOME": "/", "V13_ENV": "development"},
        overrides={"search.cost_bps": 5},
    )
    search = loaded.config.search
    assert (search.folds, search.min_events, search.cost_bps, loaded.config.run.seed) == (3, 4, 5.0, 2)
    assert {k: loaded.origin[k] for k in ("run.seed", "search.folds", "search.min_events", "search.cost_bps")} == {
        "run.seed": "config/system.yaml:6",
        "search.folds": "config/environments/production.yaml:3",
        "search.min_events": "env:V13__SEARCH__MIN_EVENTS",
        "search.cost_bps": "flag:search.cost_bps",
    }
    assert loaded.origin["market.quality.crossed"] == "default"
    assert loaded.files == (root / "config/system.yaml", root / "config/environments/production.yaml")


def test_empty_files_give_the_defaults_with_an_origin_for_every_value(tmp_path: Path) -> None:
    loaded = load(project(tmp_path, "# nothing\n"), environ={})
    assert loaded.config == Config()
    assert set(loaded.origin.values()) == {"default"}
    assert {"search.grid.swing_L", "market.quality.gaps", "acceptance.events_per_hour"} <= loaded.origin.keys()


def test_mappings_merge_key_by_key_and_lists_replace(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        "search: {grid: {swing_L: [8], z_hi: [1.0, 2.0]}, horizons_bars: [5, 10]}\n",
        testing="search: {grid: {z_hi: [1.5]}, horizons_bars: [7]}\n",
    )
    search = load(root, "testing", environ={}).config.search
    assert search.grid == {"swing_L": (8,), "z_hi": (1.5,), "z_mid": (0.4, 0.6, 0.8)}
    assert search.horizons_bars == (7,)


def test_variables_find_their_setting_whatever_its_case_and_hold_yaml(tmp_path: Path) -> None:
    environ = {
        "V13__DETECTOR__SWING_L": "21",
        "V13__SEARCH__GRID__SWING_L": "[5, 8]",
        "V13__SEARCH__PURGE_BARS": "null",
        "V13__SESSIONS__DAY_START": "08:30",
        "V13__MARKET__QUALITY": "{crossed: fail, locked: fail}",
    }
    config = load(project(tmp_path, "search: {purge_bars: 900}\n"), environ=environ).config
    assert config.detector.swing_L == 21
    assert config.search.grid["swing_L"] == (5, 8)
    assert config.search.purge_bars is None
    assert config.sessions.day_start == "08:30"
    assert (config.market.quality.crossed, config.market.quality.locked) == ("fail", "fail")
    assert config.market.quality.duplicates == "drop"


def test_the_environment_is_named_by_flag_then_variable_then_development(tmp_path: Path) -> None:
    root = project(tmp_path, "", development="run: {seed: 1}", testing="run: {seed: 2}", production="run: {seed: 3}")
    assert load(root, environ={}).config.run.seed == 1
    assert load(root, environ={"V13_ENV": "testing"}).config.run.seed == 2
    assert load(root, "production", environ={"V13_ENV": "testing"}).config.run.seed == 3


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    system = """\
features:
  widow: 300
  window: 3
search:
  folds: four
  grid:
    swing_L: [8, 8]
    z_hj: [1.0]
detectr:
  z_hi: 2.0
sessions:
  day_start: "18:00"
run:
"""
    lines = error_of(project(tmp_path, system)).splitlines()
    assert [line.strip() for line in lines] == [
        "config/system.yaml: 8 problems",
        "config/system.yaml:2: features.widow: unknown key; did you mean window?",
        "config/system.yaml:3: features.window: expected a whole number from 10 to 100000, found 3",
        "config/system.yaml:5: search.folds: expected a whole number, found 'four'",
        "config/system.yaml:7: search.grid.swing_L: expected ascending values, each once, found [8, 8]",
        "config/system.yaml:8: search.grid.z_hj: unknown key; did you mean z_hi?",
        "config/system.yaml:9: detectr: unknown key; did you mean detector?",
        "config/system.yaml:12: sessions.day_start: expected before day_end (17:00), found 18:00; "
        "sessions.day_end comes from default",
        "config/system.yaml:13: run: expected settings, one `key: value` a line, found nothing",
    ]


def test_a_setting_in_the_wrong_section_is_sent_home(tmp_path: Path) -> None:
    assert error_of(project(tmp_path, "run:\n  search_share: 0.5\n")).endswith("did you mean search.search_share?")


def test_a_contradiction_across_files_names_both(tmp_path: Path) -> None:
    root = project(tmp_path, "detector:\n  z_mid: 0.8\n", production="detector:\n\n  z_hi: 0.5\n")
    assert error_of(root, "production") == (
        "config/environments/production.yaml:3: detector.z_mid: expected at most z_hi (0.5), found 0.8; "
        "detector.z_mid comes from config/system.yaml:2"
    )


def test_a_value_that_a_higher_layer_would_hide_is_still_an_error(tmp_path: Path) -> None:
    root = project(tmp_path, "run: {seed: -1}\n", production="run: {seed: 1}\n")
    assert error_of(root, "production").startswith("config/system.yaml:1: run.seed: expected a number from 0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run:\n  seed: 1\n  seed: 2\n", 'config/system.yaml:3: found duplicate key "seed"'),
        ("run:\n  seed: [1\n", "config/system.yaml:3: not valid YAML"),
        ("run:\n\tseed: 1\n", "config/system.yaml:2: not valid YAML"),
        ("run: {}\nsearch: \x01\n", "config/system.yaml:2: not valid YAML"),
        ("run: {}\n---\nrun: {}\n", "config/system.yaml:2: not valid YAML"),
        ("- run\n", "config/system.yaml:1: expected settings"),
        ("run: 13\n", "config/system.yaml:1: run: expected settings, one `key: value` a line, found 13"),
        ("\n7: 1\n", "config/system.yaml:2: 7: unknown key"),
        ("run:\n  seed: 2024-01-01\n", "config/system.yaml:2: run.seed: expected a whole number, found the date"),
        ("run:\n  seed: !!python/name:os.system\n", "config/system.yaml:2: run.seed: expected a whole number"),
        ("run:\n  seed: &a [*a]\n", "config/system.yaml:2: run.seed: expected a whole number"),
        ("run: {<<: {seed: -1}}\n", "config/system.yaml:1: run.seed: expected a number from 0"),
        ("run:\n  seed: .nan\n", "config/system.yaml:2: run.seed: expected a whole number"),
        ("market:\n  bar_ms: yes\n", "config/system.yaml:2: market.bar_ms: expected a whole number, found 'yes'"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert error_of(project(tmp_path, text)).startswith(expected)


def test_a_file_that_is_missing_or_is_no_text_is_named(tmp_path: Path) -> None:
    root = project(tmp_path, "")
    (root / "config/system.yaml").write_bytes(b"run: {seed: \xff}\n")
    assert error_of(root).startswith("config/system.yaml: cannot be read: 'utf-8' codec")
    (root / "config/system.yaml").unlink()
    assert error_of(root).startswith("config/system.yaml: missing; expected it in ")
    (root / "config/system.yaml").mkdir()
    assert error_of(root).startswith("config/system.yaml: cannot be read: ")


@pytest.mark.parametrize("name", ["productoin", "../system", "/etc/passwd"])
def test_an_unknown_environment_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    found = error_of(project(tmp_path, "", production=""), name)
    assert "there is no environment" in found
    assert "found: development, production" in found
    assert ("did you mean production?" in found) == (name == "productoin")


def test_wrong_variables_are_told_together_by_their_names(tmp_path: Path) -> None:
    environ = {"V13__SERCH__FOLDS": "3", "V13__SEARCH__FOLDS": "[3", "V13__RUN__SEED": "x", "V13__": "1"}
    found = error_of(project(tmp_path, ""), environ=environ)
    assert found.startswith("environment variables: 4 problems")
    assert "env:V13__SERCH__FOLDS: serch: unknown key; did you mean search?" in found
    assert "env:V13__SEARCH__FOLDS: search.folds: not valid YAML" in found
    assert "env:V13__RUN__SEED: run.seed: expected a whole number, found 'x'" in found
    assert "env:V13__: : unknown key" in found


def test_a_path_below_a_value_is_refused(tmp_path: Path) -> None:
    found = error_of(project(tmp_path, ""), run__seed__x="1")
    assert found.startswith("flag:run.seed.x: run.seed: expected a whole number, found {'x': 1}")


def test_wrong_flags_are_told_by_their_keys(tmp_path: Path) -> None:
    assert (
        error_of(project(tmp_path, ""), search__fold=3)
        == "flag:search.fold: search.fold: unknown key; did you mean folds?"
    )
    assert (
        error_of(project(tmp_path, ""), run__seed=1.5) == "flag:run.seed: run.seed: expected a whole number, found 1.5"
    )


def outcome(root: Path, **flags: object) -> str | None:
    """Return the error of loading, or None; anything but a ConfigError ends the test."""
    try:
        load(root, environ={}, overrides={k.replace("__", "."): v for k, v in flags.items()})
    except ConfigError as error:
        return str(error)
    return None


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_any_text_loads_or_is_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = project(tmp_path_factory.mktemp("any"), "")
    (root / "config/system.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    error = outcome(root)
    assert error is None or error.startswith("config/system.yaml")


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists))
def test_any_value_is_taken_or_is_a_config_error(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    root = project(tmp_path_factory.mktemp("any"), "")
    for key in ("search.grid.swing_L", "search.horizons_bars", "detector.z_hi", "sessions.day_start", "run"):
        error = outcome(root, **{key: value})
        assert error is None or f"flag:{key}" in error


def test_a_file_given_besides_is_above_the_environment_and_below_variables_and_flags(tmp_path: Path) -> None:
    root = project(
        tmp_path / "root", "run: {seed: 1}\n", testing="search:\n  folds: 2\n  min_events: 2\n  cost_bps: 2\n"
    )
    overlay = tmp_path / "elsewhere" / "mine.yaml"
    overlay.parent.mkdir()
    overlay.write_text("# mine\nsearch:\n  folds: 3\n  min_events: 3\n  cost_bps: 3\nrunner:\n  symbols: [A, B]\n")
    loaded = load(
        root,
        "testing",
        environ={"V13__SEARCH__MIN_EVENTS": "4", "V13__SEARCH__COST_BPS": "4"},
        overrides={"search.cost_bps": 5},
        overlay=overlay,
    )
    search = loaded.config.search
    assert (search.folds, search.min_events, search.cost_bps, loaded.config.run.seed) == (3, 4, 5.0, 1)
    assert loaded.config.runner.symbols == ("A", "B")
    assert loaded.origin["search.folds"] == f"{overlay}:3"
    assert loaded.origin["runner.symbols"] == f"{overlay}:7"
    assert loaded.origin["search.min_events"] == "env:V13__SEARCH__MIN_EVENTS"
    assert loaded.files == (root / "config/system.yaml", root / "config/environments/testing.yaml", overlay)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "{}: missing; expected it in "),
        ("search: {folds: [}", "{}:1: not valid YAML"),
        ("# one\nsearch:\n  fold: 3\n", "{}:3: search.fold: unknown key; did you mean folds?"),
        ("search:\n  folds: many\n", "{}:2: search.folds: expected a whole number, found 'many'"),
        ("- 1\n", "{}:1: expected settings, one `key: value` a line, found [1]"),
    ],
)
def test_what_is_wrong_with_a_file_given_besides_is_told_by_its_name(
    tmp_path: Path, text: str | None, told: str
) -> None:
    root, overlay = project(tmp_path, ""), tmp_path / "mine.yaml"
    if text is not None:
        overlay.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(root, environ={}, overlay=overlay)
    assert str(caught.value).startswith(told.format(overlay))


def test_a_lower_layer_that_is_bad_is_told_before_one_that_is_missing(tmp_path: Path) -> None:
    root = project(tmp_path, "search: {fold: 3}\n")
    with pytest.raises(ConfigError, match=r"^config/system.yaml:1: search.fold: unknown key"):
        load(root, environ={}, overlay=tmp_path / "mine.yaml")
