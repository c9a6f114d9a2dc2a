"""What a runner starts with: files whose hashes somebody signed off, or a reason why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runner_process import write_parameters
from tests.unit.live.lanes import calibration, params
from v13.config import Config, load
from v13.errors import ConfigError
from v13.live.artifacts import NAMES, read_artifacts

FILES = {
    "parameters": "runs/global.yaml",
    "overrides": "runs/by_bucket.yaml",
    "calibration": "runs/calibration.json",
}


@pytest.fixture
def root(tmp_path: Path, repo: Path) -> Path:
    """A project with parameters of a recording, a calibration, and a sign-off of both."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "config").symlink_to(repo / "config")
    write_parameters(tmp_path, params(), simulated=False)
    (tmp_path / FILES["calibration"]).write_text(json.dumps(calibration().to_dict()))
    sign(tmp_path)
    return tmp_path


def sign(root: Path, **changes: Any) -> None:
    hashes = {NAMES[name]: hashlib.sha256((root / file).read_bytes()).hexdigest() for name, file in FILES.items()}
    document = {"verdict": "PASS", "simulated": False, "artifacts": hashes} | changes
    (root / "signoff.json").write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def config(root: Path, env: str = "production", **changes: Any) -> Config:
    settings = {f"runner.{name}": value for name, value in (FILES | {"signoff": "signoff.json"} | changes).items()}
    return load(root, env, environ={}, overrides=settings).config


def test_files_that_were_signed_off_are_taken_and_named_by_hash(root: Path) -> None:
    found = read_artifacts(root, config(root))
    assert found.signed_off
    assert found.why_not == ""
    assert found.params.fingerprint() == params().fingerprint()
    assert found.calibration is not None
    assert found.calibration.to_dict() == calibration().to_dict()
    hashes = {NAMES[n]: hashlib.sha256((root / f).read_bytes()).hexdigest() for n, f in FILES.items()}
    assert found.document == {"files": hashes, "signoff": "signoff.json", "simulated": False}


def drop(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: sign(root, verdict="FAIL"), "the verdict is FAIL, not PASS"),
        (lambda root: sign(root, verdict="INSUFFICIENT"), "the verdict is INSUFFICIENT, not PASS"),
        (lambda root: sign(root, simulated=True), "the sign-off is of simulated data"),
        (lambda root: sign(root, artifacts={}), "best_global.yaml: its sha256 .* is not what .* signed off"),
        (lambda root: sign(root, artifacts=None), "no sign-off: 'artifacts'"),
        (drop("signoff.json"), "no sign-off: "),
        (lambda root: (root / "signoff.json").write_text("{"), "no sign-off: "),
        (lambda root: (root / "signoff.json").write_text("[]"), "no sign-off: "),
        (lambda root: write_parameters(root, params()), "found on simulated data"),
        (lambda root: write_parameters(root, params(z_hi=0.9), simulated=False), "best_global.yaml: its sha256"),
        (lambda root: append(root / FILES["calibration"]), "divergence_score_calibration.json: its sha256"),
        (lambda root: append(root / FILES["overrides"]), "best_by_bucket.yaml: its sha256"),
    ],
)
def test_what_nobody_signed_off_is_refused_in_production_and_told_elsewhere(
    root: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(root)
    with pytest.raises(ConfigError, match=f"require_signoff: .*{why}"):
        read_artifacts(root, config(root))
    found = read_artifacts(root, config(root, "testing"))
    assert not found.signed_off
    assert found.why_not
    assert found.document["signoff"] is None


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("name", ["overrides", "calibration"])
def test_to_run_without_a_file_that_was_signed_off_is_not_what_was_signed_off(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"runs without {NAMES[name]}, which was signed off"):
        read_artifacts(root, config(root, **{name: None}))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_missing_is_named(root: Path, name: str) -> None:
    (root / FILES[name]).unlink()
    with pytest.raises(ConfigError, match=FILES[name]):
        read_artifacts(root, config(root, "testing"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n"horizons": [\n', r"calibration\.json:3: not valid JSON"),
        ("[]", r"calibration\.json:1: horizons: "),
        ("{}", r"calibration\.json:1: horizons: 'horizons'"),
        (
            '{"horizons": [{"horizon_bars": 10}]}',
            r"calibration\.json:1: horizons: calibration: not in the expected form",
        ),
    ],
)
def test_a_calibration_that_says_something_impossible_is_named_with_its_line(root: Path, text: str, why: str) -> None:
    (root / FILES["calibration"]).write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_artifacts(root, config(root, "testing"))


def test_a_calibration_that_is_no_text_is_named(root: Path) -> None:
    (root / FILES["calibration"]).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"calibration\.json: cannot be read"):
        read_artifacts(root, config(root, "testing"))


def test_a_calibration_without_curves_is_none(root: Path) -> None:
    (root / FILES["calibration"]).write_text('{"horizons": []}')
    assert read_artifacts(root, config(root, "testing")).calibration is None


def test_a_file_that_changes_while_it_is_read_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import v13.live.artifacts as module

    read = module.read_parameters

    def and_then_it_changes(*paths: Path) -> Any:
        found = read(*paths)
        append(paths[0])
        return found

    monkeypatch.setattr(module, "read_parameters", and_then_it_changes)
    with pytest.raises(ConfigError, match=r"global\.yaml: changed while it was read"):
        read_artifacts(root, config(root, "testing"))


def test_without_a_file_the_settings_are_the_parameters_and_nobody_signed_them(root: Path) -> None:
    settings = config(root, "testing", parameters=None, overrides=None)
    found = read_artifacts(root, settings)
    assert found.params.decision.swing_L == settings.detector.swing_L
    assert not found.signed_off
    with pytest.raises(ConfigError, match="require_signoff"):
        read_artifacts(root, config(root, parameters=None, overrides=None))
