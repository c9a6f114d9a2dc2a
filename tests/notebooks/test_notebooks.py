"""The notebooks: what they may hold, and that papermill runs each of them alone and together."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.integration.markets import REPO, write_bars
from v13 import market, store
from v13.errors import ConfigError
from v13.research.notebook import NOTEBOOKS, PARAMETERS, check_parameters
from v13.research.signoff import SignOff, sign_off

PAPERMILL = [sys.executable, "-m", "papermill", "--no-progress-bar"]


def book(name: str) -> Any:
    return nbformat.read(REPO / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with config, notebooks and a small recording of its own."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(REPO / "config", root / "config", ignore=shutil.ignore_patterns("*.json"))
    shutil.copytree(REPO / "notebooks", root / "notebooks")
    for line, short in (("  markets: 3 ", "  markets: 1 "), ("  max_bars: 150000 ", "  max_bars: 6000 ")):
        text = (root / "config/system.yaml").read_text()
        assert line in text
        (root / "config/system.yaml").write_text(text.replace(line, short))
    bars = market.simulate_bars(market.MarketSpec(kind="planted", n_bars=60_000), 21).bars
    write_bars(root / "tape.parquet", bars)
    return root


@pytest.fixture(scope="module")
def signed(project: Path) -> SignOff:
    return sign_off(
        [project / "tape.parquet"], root=project, out=project / "runs/real_test", reports=project / "reports"
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_an_argument_and_defines_nothing(name: str) -> None:
    cells = book(name).cells
    assert cells[0].cell_type == "markdown"
    assert "**Question.**" in cells[0].source
    for cell in cells:
        if cell.cell_type != "code":
            continue
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda, ast.ListComp)
        assert not any(isinstance(node, banned) for node in ast.walk(ast.parse(cell.source)))
    (parameters,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters.source.splitlines()) <= 8
    assert set(re.findall(r"^(\w+) =", parameters.source, re.MULTILINE)) == set(PARAMETERS)
    assert "notebook.finish(" in cells[-1].source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_plain_papermill_runs_each_notebook_alone(name: str, project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *PAPERMILL,
            f"notebooks/{name}.ipynb",
            str(tmp_path / "out.ipynb"),
            "-y",
            f'{{data: [tape.parquet], out: "{tmp_path}"}}',
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    verdict = json.loads((tmp_path / "verdicts" / f"{name}.json").read_text())
    assert verdict["notebook"] == name
    assert verdict["simulated"] is True


def test_an_unknown_parameter_is_an_error_in_plain_papermill(project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PAPERMILL, "notebooks/01_data_quality.ipynb", str(tmp_path / "out.ipynb"), "-p", "sede", "7"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode != 0
    assert "unknown parameter 'sede'" in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [({"sede": 7}, "unknown parameter 'sede'"), ({"seed": "7"}, "expected int"), ({"data": "x.csv"}, "expected list")],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_parameters(values)


def test_the_bundle_is_whole(signed: SignOff, project: Path) -> None:
    assert signed.simulated
    assert signed.name.startswith("SIMULATED-")
    pages = {p.name for p in signed.bundle.glob("*.html")}
    assert pages == {"index.html", *(f"{name}.html" for name in NOTEBOOKS)}
    for name in (
        "best_global.yaml",
        "best_by_bucket.yaml",
        "summary.csv",
        "tuning_report.json",
        "monotonicity_report.json",
    ):
        assert (project / "runs/real_test" / name).is_file()
    for horizon in (10, 20):
        assert (project / f"runs/real_test/score_monotonicity_{horizon}.png").read_bytes()[:4] == b"\x89PNG"
    assert (project / "config/calibration/divergence_score_calibration.json").is_file()
    assert (project / "reports/latest").resolve() == signed.bundle.resolve()
    manifest = store.read_json(signed.bundle / "manifest.json")
    assert store.manifest.verify(manifest, signed.bundle) == []
    everything = {str(p.relative_to(signed.bundle)) for p in signed.bundle.rglob("*") if p.is_file()}
    assert everything == set(manifest["outputs"]) | {"manifest.json"}
    assert manifest["inputs"][str(project / "tape.parquet")]["sha256"] == store.sha256_file(project / "tape.parquet")


def test_pages_load_nothing_from_elsewhere_and_say_simulated(signed: SignOff) -> None:
    for page in signed.bundle.glob("*.html"):
        text = page.read_text()
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), page.name
        assert not re.search(r"@import|url\(['\"]?https?:", text), page.name
        assert "SIMULATED" in text, page.name


def test_every_face_of_the_verdict_says_the_same(signed: SignOff) -> None:
    document = store.read_json(signed.bundle / "signoff.json")
    statuses = [c["status"] for c in document["criteria"]]
    suite = ET.parse(signed.bundle / "signoff.junit.xml").getroot()
    assert len(suite.findall("testcase")) == int(suite.get("tests", "")) == len(statuses)
    assert len(suite.findall("testcase/failure")) == int(suite.get("failures", "")) == statuses.count("FAIL")
    assert len(suite.findall("testcase/error")) == statuses.count("INSUFFICIENT")
    assert len(suite.findall("testcase/skipped")) == sum(s.startswith("NOT ") for s in statuses)
    summary = (signed.bundle / "summary.md").read_text()
    assert f"sign-off: {document['verdict']} (SIMULATED data)" in summary
    for criterion in document["criteria"]:
        assert f"| {criterion['title']} | **{criterion['status']}** |" in summary
    index = (signed.bundle / "index.html").read_text()
    assert f'<span class="word">{document["verdict"]}</span>' in index
    for name, digest in document["artifacts"].items():
        assert store.sha256_file(signed.bundle / "artifacts" / name) == digest


def test_a_second_sign_off_gives_the_same_bytes(signed: SignOff, project: Path, tmp_path: Path) -> None:
    again = sign_off([project / "tape.parquet"], root=project, out=tmp_path / "out", reports=tmp_path / "reports")
    assert again.name == signed.name
    dated = {"manifest.json"}
    first = {str(p.relative_to(signed.bundle)): p for p in signed.bundle.rglob("*") if p.is_file()}
    second = {str(p.relative_to(again.bundle)): p for p in again.bundle.rglob("*") if p.is_file()}
    assert first.keys() == second.keys()
    for name in sorted(first.keys() - dated):
        if not name.endswith(".ipynb"):
            assert first[name].read_bytes() == second[name].read_bytes(), name
