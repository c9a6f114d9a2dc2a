"""Released parameters read back, and what is refused with file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from v13 import store
from v13.config.parameters import read_parameters
from v13.detector import BucketOverride, DecisionParams, DetectorParams, FeatureParams
from v13.detector.params import override_rows
from v13.errors import ConfigError

PARAMS = DetectorParams(
    FeatureParams(window=120, mode="level"),
    DecisionParams(swing_L=8, z_hi=1.75, cooldown_ms=0),
    (BucketOverride({"session": "day"}, {"z_hi": 2.25, "swing_L": 13}, "earned it"),),
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    shown = PARAMS.to_dict()
    top = {"version": 1, "simulated": True, "features": shown["features"], "decision": shown["decision"]}
    store.write_yaml(tmp_path / "best_global.yaml", top, header="note")
    store.write_yaml(
        tmp_path / "best_by_bucket.yaml",
        {"version": 1, "simulated": False, "overrides": override_rows(PARAMS.overrides)},
    )
    return tmp_path / "best_global.yaml", tmp_path / "best_by_bucket.yaml"


def test_what_was_written_is_read(files: tuple[Path, Path]) -> None:
    read = read_parameters(*files)
    assert read.params == PARAMS
    assert read.params.fingerprint() == PARAMS.fingerprint()
    assert read.simulated
    assert read_parameters(files[0]).params == DetectorParams(PARAMS.features, PARAMS.decision)


@pytest.mark.parametrize(
    ("which", "change", "told"),
    [
        (0, lambda t: t.replace("z_hi: 1.75", "z_hi: -1"), "z_hi: expected a number from 0 to 100, found -1"),
        (0, lambda t: t.replace("z_hi: 1.75", "z_hi: high"), "decision.z_hi: expected a number"),
        (0, lambda t: t.replace("swing_L: 8", "swing_LL: 8"), "decision.swing_LL: unknown key; did you mean swing_L?"),
        (0, lambda t: t.replace("  swing_L: 8\n", ""), "decision.swing_L: missing"),
        (0, lambda t: t.replace("version: 1", "version: 2"), "version: expected 1, found 2"),
        (0, lambda t: t[: len(t) // 2], ""),
        (0, lambda _: "", "the file: expected `key: value` lines, found nothing"),
        (0, lambda t: t + "more: 1\n", "more: unknown key"),
        (0, lambda t: t.replace("  mode: level", "  mode: levle"), "features.mode: expected one of delta, level"),
        (1, lambda t: t.replace("day", "dya"), "overrides[0]: when.session: expected one of night, day"),
        (1, lambda t: t.replace("z_hi: 2.25", "z_hi: 500"), "overrides[0]: z_hi: expected a number from 0 to 100"),
        (1, lambda t: t.replace("z_hi: 2.25", "zhi: 2.25"), "overrides[0]: set: expected some of"),
        (1, lambda t: t.replace("z_hi: 2.25", "z_hi: 0.1"), "z_mid: expected at most z_hi"),
        (1, lambda t: t.replace("overrides:", "overrides: 5 #"), ""),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    files: tuple[Path, Path], which: int, change: Callable[[str], str], told: str
) -> None:
    text = files[which].read_text()
    assert change(text) != text
    files[which].write_text(change(text))
    with pytest.raises(ConfigError) as caught:
        read_parameters(*files)
    message = str(caught.value)
    assert message.startswith(str(files[which]))
    assert told in message
    bad = next((i for i, line in enumerate(files[which].read_text().splitlines(), 1) if "z_hi: -1" in line), None)
    if bad is not None:
        assert message.startswith(f"{files[which]}:{bad}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best_global\.yaml: missing"):
        read_parameters(tmp_path / "best_global.yaml")
