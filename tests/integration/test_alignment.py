"""The guide's metrics alignment from end to end, with a Prometheus and without one; and a sign-off that takes it in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.markets import SHORT, project, write_bars
from tests.integration.prometheus_server import prometheus_binary
from tests.unit.research.test_live_evidence import CLOSURE, document
from v13 import market, store
from v13.cli import alignment
from v13.errors import EXIT_OK
from v13.live.reload_stage import prepare
from v13.measures import Status
from v13.release.closure_exporter import WEAKER
from v13.research import live_evidence, signoff

pytestmark = pytest.mark.slow


def test_the_script_builds_everything_and_closes(tmp_path: Path) -> None:
    prometheus_binary()  # skips where there is none
    out = tmp_path / "metrics_test"
    command = [sys.executable, str(REPO / "scripts/metrics_alignment.py"), "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert "Event counts and rates (worst unexplained 0 %)" in done.stdout
    assert "CLOSED: " in done.stdout
    for name in (
        "prometheus_divergence.yml",
        "divergence_metrics_exporter.py",
        "dashboards/divergence_overview.json",
        "alerting_rules/divergence_alerts.yaml",
        "alerting_rules/production_slo_alerts.yaml",
    ):
        assert (out / name).is_file()
    closure = store.read_json(out / alignment.CLOSURE_FILE)
    assert closure["source"] == "prometheus"
    assert closure["n_events"] > 100
    assert list(tmp_path.iterdir()) == [out]


def test_without_a_prometheus_the_weaker_check_is_made_on_the_released_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = prepare(root, REPO / "config", n_bars=1_200)
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(alignment, "find_prometheus", lambda: None)
    said: list[str] = []
    code = alignment.align(tmp_path / "out", root, said.append, data=[recording], speed=200.0)
    assert code == EXIT_OK
    assert any("the weaker check instead" in line for line in said)
    assert WEAKER in capsys.readouterr().out
    closure = store.read_json(tmp_path / "out" / alignment.CLOSURE_FILE)
    assert closure["source"] == "exporter"
    assert closure["n_events"] > 10
    assert sorted(root.rglob("*")) == before  # the project's own log and runs are left alone


def test_a_sign_off_takes_the_report_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path)
    bars = market.simulate_bars(market.MarketSpec(kind="planted", n_bars=20_000), 21).bars
    tape = write_bars(tmp_path / "tape.parquet", bars)
    for key, value in SHORT.items():
        monkeypatch.setenv(f"V13__{key.upper().replace('.', '__')}", str(value))
    live = tmp_path / "metrics_test"
    monkeypatch.setattr(live_evidence, "MAX_AGE_MS", 10**15)
    store.write_json(live / live_evidence.REPORT_FILE, document(started_ms=1, ended_ms=2))
    store.write_json(live / live_evidence.CLOSURE_FILE, CLOSURE)
    out, reports = root / "runs/real_test", tmp_path / "reports"
    result = signoff.sign_off([tape], root=root, out=out, reports=reports, notebooks=REPO / "notebooks", live=live)
    signed = store.read_json(result.bundle / "signoff.json")
    criteria = {c["key"]: c for c in signed["criteria"]}
    for key in ("compute_p95", "event_p95", "pipeline_p95", "closure", "hot_reload"):
        assert criteria[key]["status"] == Status.NOT_RUN  # the report is of other parameters
        assert "The runner ran parameters aaaaaaaaaaaa" in criteria[key]["detail"]
    for name in (live_evidence.REPORT_FILE, live_evidence.CLOSURE_FILE):
        copied = result.bundle / "artifacts" / name
        assert signed["artifacts"][name] == store.sha256_file(copied) == store.sha256_file(live / name)
