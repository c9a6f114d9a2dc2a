"""The rules check of a deploy with a real promtool: it accepts what `v13 monitoring build` writes, no spoilt rule."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPO
from v13 import store
from v13.errors import ReleaseError
from v13.release.check_scene import Scene
from v13.release.check_servers import rules
from v13.release.site import open_site
from v13.telemetry.rules import ALERTS_FILE, rule_files
from v13.telemetry.servers import PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.slo import load_slo


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    promtool = os.environ.get("PROMTOOL_BIN") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    for name in ("system.yaml", "slo.yaml", "environments/testing.yaml"):
        store.copy(REPO / "config" / name, tmp_path / "config" / name)
    table = load_slo(tmp_path / "config/slo.yaml")
    for name, document in {**server_files(table, Exporter()), **rule_files(table)}.items():
        store.write_yaml(tmp_path / "runs/metrics_test" / name, document.body, header=document.header)
    return Scene(open_site(tmp_path, "testing", {}), promtool=Path(promtool))


def test_built_rules_are_valid_and_counted(scene: Scene) -> None:
    found = rules(scene)
    assert found.status == "ok", found.evidence
    table = load_slo(REPO / "config/slo.yaml")
    n = sum(len(group["rules"]) for document in rule_files(table).values() for group in document.body["groups"])
    assert f"{n} rules in 3 files" in found.evidence


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [(ALERTS_FILE, "expr: ", "expr: )"), (PROMETHEUS_FILE, "scrape_interval", "scrape_intervall")],
)
def test_a_spoilt_file_is_refused_in_promtools_own_words(scene: Scene, name: str, old: str, new: str) -> None:
    path = scene.site.root / "runs/metrics_test" / name
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    found = rules(scene)
    assert found.status == "failed"
    assert found.evidence.startswith("check ")
    assert Path(name).name in found.evidence or new in found.evidence


def test_a_missing_rule_file_names_the_command_that_writes_it(scene: Scene) -> None:
    (scene.site.root / "runs/metrics_test" / ALERTS_FILE).unlink()
    found = rules(scene)
    assert found.status == "failed"
    assert "v13 monitoring build" in found.remedy


def test_a_promtool_that_cannot_be_run_is_an_error_of_that_check(scene: Scene, tmp_path: Path) -> None:
    store.write_text(tmp_path / "promtool", "not a program")
    with pytest.raises(ReleaseError, match="cannot be run"):
        rules(Scene(scene.site, promtool=tmp_path / "promtool"))
