"""The settings: defaults of the product, ranges of the detector, contradictions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from v13 import market
from v13.config import Config, fingerprint, load
from v13.detector.params import DecisionParams, FeatureParams
from v13.market.policy import CHOICES

ENVIRONMENTS = ("development", "testing", "production")


def config_with(section: str, **values: Any) -> Config:
    return Config.model_validate({section: values})


def refusal(section: str, **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        config_with(section, **values)
    return str(caught.value)


def test_the_defaults_of_the_detector_are_its_own() -> None:
    config = Config()
    features = config.features.model_dump()
    assert features.pop("max_lag_ms") is None
    own = asdict(FeatureParams())
    assert features == {k: v for k, v in own.items() if k not in ("bar_ms", "max_lag_ms")}
    decision = config.detector.model_dump()
    assert decision.pop("cooldown_s") * 1000 == DecisionParams().cooldown_ms
    assert decision == {k: v for k, v in asdict(DecisionParams()).items() if k != "cooldown_ms"}


def test_quality_settings_are_those_that_reading_knows() -> None:
    # research hands them over by name, so a difference would end a run at its start
    assert market.QualityPolicy(**Config().market.quality.model_dump()) == market.QualityPolicy()
    for name, choices in CHOICES.items():
        for choice in choices:
            assert getattr(config_with("market", quality={name: choice}).market.quality, name) == choice
        for other in {"drop", "keep", "fail", "sort"} - set(choices):
            assert name in refusal("market", quality={name: other})


def test_the_guides_numbers_are_the_defaults() -> None:
    config = Config()
    assert (config.detector.swing_L, config.detector.z_hi, config.detector.z_mid) == (13, 2.0, 0.8)
    gate = config.acceptance
    assert (gate.min_accuracy, gate.alpha, gate.min_median_score, gate.closure_ratio) == (0.55, 0.05, 50, 0.10)
    assert (gate.compute_p95_ms, gate.event_p95_ms, gate.pipeline_p95_ms) == (10, 2.5, 100)
    assert gate.events_per_hour == (10, 100)


def test_the_shipped_system_file_names_every_setting_with_its_default(repo: Path) -> None:
    written = YAML(typ="safe", pure=True).load((repo / "config/system.yaml").read_text(encoding="utf-8"))
    assert written == Config().model_dump(mode="json")


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_shipped_environment_loads_and_says_only_what_differs(repo: Path, env: str) -> None:
    loaded = load(repo, env, environ={})
    default = load_defaults(repo)
    for key, origin in loaded.origin.items():
        assert origin != "default", f"{key} is missing from config/system.yaml"
        if origin.startswith(f"config/environments/{env}.yaml:"):
            assert value_at(loaded.config, key) != value_at(default, key), f"{key} is repeated in {env}.yaml"


def load_defaults(repo: Path) -> Config:
    system = YAML(typ="safe", pure=True).load((repo / "config/system.yaml").read_text(encoding="utf-8"))
    return Config.model_validate(system)


def value_at(config: Config, key: str) -> Any:
    node: Any = config.model_dump()
    for part in key.split("."):
        node = node[part]
    return node


def test_no_environment_makes_the_verdict_softer(repo: Path) -> None:
    for env in ENVIRONMENTS:
        gate = load(repo, env, environ={}).config.acceptance
        assert gate.n_shifts >= Config().acceptance.n_shifts
        assert gate.model_dump(exclude={"n_shifts", "n_bootstrap"}) == Config().acceptance.model_dump(
            exclude={"n_shifts", "n_bootstrap"}
        )


def test_settings_are_frozen_and_unknown_ones_refused() -> None:
    with pytest.raises(ValidationError):
        Config().run.seed = 14
    assert "Extra inputs" in refusal("run", sead=1)


@pytest.mark.parametrize("value", ["4", 4.5, True, None])
def test_nothing_is_coerced_to_a_whole_number(value: object) -> None:
    assert "folds" in refusal("search", folds=value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("features", "window", 9),
        ("features", "z_clip", 0.0),
        ("features", "max_lag_ms", 0),
        ("features", "active_quantile", 1.01),
        ("features", "mode", "levels"),
        ("detector", "swing_L", 0),
        ("detector", "min_score", 100.5),
        ("detector", "cooldown_s", -1.0),
        ("detector", "z_hi", float("nan")),
        ("sessions", "timezone", "Mars/Olympus"),
        ("sessions", "timezone", ""),
        ("sessions", "day_end", "24:01"),
        ("sessions", "day_start", "9:00"),
        ("search", "search_share", 1.0),
        ("search", "horizons_bars", []),
        ("search", "horizons_bars", [0, 10]),
        ("search", "horizons_bars", [20, 10]),
        ("search", "grid", {}),
        ("search", "grid", {"swing_L": []}),
        ("search", "grid", {"swing_L": [8, 8]}),
        ("search", "grid", {"swing_L": [8.0]}),
        ("search", "grid", {"z_hi": [2.0, 1.0]}),
        ("search", "grid", {"z_hi": ["2"]}),
        ("search", "grid", {"bar_ms": [1000]}),
        ("search", "grid", {"cooldown_s": [30]}),
        ("search", "grid", {"swing_L": list(range(1, 1000)), "min_separation": list(range(1000))}),
        ("acceptance", "min_accuracy", 0.49),
        ("acceptance", "alpha", 0.0),
        ("acceptance", "events_per_hour", [100, 10]),
        ("acceptance", "events_per_hour", [10]),
        ("acceptance", "closure_ratio", float("inf")),
        ("calibration", "folds", 1),
        ("download", "base_url", "ftp://example.org"),
        ("download", "timeout_s", 0.0),
        ("market", "bar_ms", 0),
        ("run", "seed", -1),
    ],
)
def test_a_value_outside_its_range_is_refused(section: str, key: str, value: object) -> None:
    assert key in refusal(section, **{key: value})


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert "z_mid: expected at most z_hi (1), found 1.5" in refusal("detector", z_hi=1.0, z_mid=1.5)
    assert "day_start" in refusal("sessions", day_start="17:00", day_end="17:00")
    assert "w_ofi + w_cvd" in refusal("features", w_ofi=0.0, w_cvd=0.0)
    assert "n_shifts: expected at least 19" in refusal("acceptance", n_shifts=18)
    assert config_with("acceptance", n_shifts=19).acceptance.n_shifts == 19


def test_thresholds_below_their_partners_default_are_judged_as_a_pair_only() -> None:
    # each alone would clash with the other's default; together they are right
    assert config_with("detector", z_hi=0.5, z_mid=0.3).detector.z_hi == 0.5
    assert config_with("detector", z_hi=9.0, z_mid=8.0).detector.z_mid == 8.0


def test_a_grid_without_any_valid_point_is_refused() -> None:
    assert "z_mid <= z_hi" in refusal("search", grid={"z_hi": [0.5], "z_mid": [0.6, 0.7]})
    assert "z_mid <= z_hi" in refusal("search", grid={"z_mid": [2.1]})  # against the detector's z_hi of 2.0
    kept = config_with("search", grid={"z_hi": [0.5, 0.6], "z_mid": [0.6, 0.7]})
    assert kept.search.grid["z_mid"] == (0.6, 0.7)


def test_any_parameter_of_the_detector_may_be_searched() -> None:
    grid = {"cooldown_ms": [0, 30_000], "window": [100, 300], "mode": ["delta", "level"], "w_ofi": [0, 1]}
    assert config_with("search", grid=grid).search.grid == {
        "cooldown_ms": (0, 30_000),
        "window": (100, 300),
        "mode": ("delta", "level"),
        "w_ofi": (0.0, 1.0),
    }


def test_the_fingerprint_depends_on_values_and_on_nothing_else() -> None:
    base = fingerprint(Config())
    assert len(base) == 64
    assert fingerprint(Config.model_validate(Config().model_dump(mode="json"))) == base
    assert (
        fingerprint(
            config_with("search", grid={"swing_L": [8, 13, 21], "z_hi": [1.2, 1.6, 2], "z_mid": [0.4, 0.6, 0.8]})
        )
        == base
    )
    changed = [config_with("run", seed=14), config_with("search", folds=5), config_with("features", window=299)]
    assert len({base, *map(fingerprint, changed)}) == 4
