"""The dashboard against Grafana's own types, by the TypeScript compiler; tests/grafana/check.mjs says how."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from v13.telemetry.dashboard import dashboard_json
from v13.telemetry.slo import load_slo

WAIT_S = 300
CHECK = REPO / "tests" / "grafana"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with @grafana/schema and a compiler, at the versions of package-lock.json."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: the dashboard's types are not checked")
    made = tmp_path_factory.mktemp("schema")
    for name in ("package.json", "package-lock.json", "check.mjs"):
        shutil.copy(CHECK / name, made)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return made


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "dashboard.json").write_text(text, encoding="utf-8")
    command = ["node", "check.mjs", "dashboard.json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_the_dashboard_has_grafanas_types(folder: Path) -> None:
    done = check(folder, dashboard_json(load_slo(REPO / "config" / "slo.yaml")))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.strip().endswith(", 0 complaint(s)")


def _rename(panel: dict[str, Any]) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    custom["thresholdStyle"] = custom.pop("thresholdsStyle")


@pytest.mark.parametrize(
    ("kind", "spoil", "complaint"),
    [
        ("timeseries", _rename, "thresholdStyle"),
        ("stat", lambda panel: panel["options"].update(colorMode="backdrop"), "backdrop"),
        ("heatmap", lambda panel: panel["options"].update(calculate="no"), "calculate"),
        ("bargauge", lambda panel: panel["gridPos"].update(w="8"), "gridPos|w"),
        ("table", lambda panel: panel.update(titel="x"), "titel"),
    ],
)
def test_what_does_not_fit_is_found(
    folder: Path, kind: str, spoil: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    document = json.loads(dashboard_json(load_slo(REPO / "config" / "slo.yaml")))
    spoil(next(panel for panel in document["panels"] if panel["type"] == kind))
    done = check(folder, json.dumps(document))
    assert done.returncode == 1
    assert any(word in done.stdout for word in complaint.split("|")), done.stdout
