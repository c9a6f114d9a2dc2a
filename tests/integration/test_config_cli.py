"""`v13 config show` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO
from tests.integration.markets import project
from v13.cli import main
from v13.config import load


def flat(node: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        is_value = not isinstance(value, dict) or set(value) == {"value", "origin"}
        found |= {f"{above}{key}": value} if is_value else flat(value, f"{above}{key}.")
    return found


@pytest.mark.parametrize("env", ["development", "testing", "production"])
@pytest.mark.parametrize("origin", [[], ["--origin"]])
def test_the_yaml_reads_back_as_the_settings(env: str, origin: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--root", str(REPO), "--env", env, *origin]) == 0
    text = capsys.readouterr().out
    assert YAML(typ="safe").load(text) == load(REPO, env, environ={}).config.model_dump(mode="json")
    assert ("# config/system.yaml:" in text) == bool(origin)


def test_every_value_names_the_line_the_variable_or_the_default_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path)
    system = root / "config" / "system.yaml"
    lines = [line for line in system.read_text().splitlines() if "checkpoint_bars" not in line]
    system.write_text("\n".join(lines))
    monkeypatch.setenv("V13__RUNNER__GRACE_MS", "99")
    assert main(["config", "show", "--root", str(root), "--env", "production", "--origin", "--format", "json"]) == 0
    shown = flat(json.loads(capsys.readouterr().out))
    assert shown["runner.grace_ms"] == {"value": 99, "origin": "env:V13__RUNNER__GRACE_MS"}
    assert shown["runner.checkpoint_bars"] == {"value": 60, "origin": "default"}
    assert shown["runner.require_signoff"]["origin"].startswith("config/environments/production.yaml:")
    assert shown["search.grid.z_hi"]["value"] == [1.2, 1.6, 2.0]
    n_lines = 0
    for key, entry in shown.items():
        place, _, number = entry["origin"].rpartition(":")
        if place.startswith("config/"):
            n_lines += 1
            line = (root / place).read_text().splitlines()[int(number) - 1]
            assert line.split(":")[0].strip() == key.rpartition(".")[2], (key, line)
    assert n_lines == len(shown) - 2 > 90
    assert shown.keys() == load(root, "production", environ={}).origin.keys()


def test_without_origins_json_is_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--root", str(REPO), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == load(REPO, environ={}).config.model_dump(mode="json")


def test_bad_settings_are_told_with_their_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V13__RUNNER__GRACE_MS", "soon")
    assert main(["config", "show", "--root", str(REPO)]) == 3
    assert "env:V13__RUNNER__GRACE_MS: runner.grace_ms: expected a whole number" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["config"])
    assert caught.value.code == 2
