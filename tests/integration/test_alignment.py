"""The guide's metrics alignment from end to end, with a Prometheus and without one; and a sign-off that takes it in."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.integration.markets import SHORT, project, write_bars
from tests.integration.prometheus_server import prometheus_binary
from v13 import market, store
from v13.cli import alignment
from v13.config import load
from v13.errors import EXIT_GATE, EXIT_OK
from v13.live.reload_stage import prepare
from v13.release.closure_exporter import WEAKER
from v13.research import live_evidence
from v13.research.run import open_run
from v13.verdict import Status, Verdict

pytestmark = pytest.mark.slow


def test_the_script_builds_everything_and_closes(tmp_path: Path) -> None:
    prometheus_binary()  # skips where there is none
    out = tmp_path / "metrics_test"
    command = [sys.executable, str(REPO / "scripts/metrics_alignment.py"), "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1_800, check=False)
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
    # The replay waits for the first scrape, and its runner for the last one: however busy the machine, nothing is cut.
    counts = [row for row in closure["rows"] if row["unit"] == "events" and row["family"] != "latency"]
    assert len(counts) > 80
    assert {row["label"]: row["boundary"] for row in counts if row["boundary"]} == {}
    assert {row["label"]: row["difference"] for row in counts if abs(row["difference"]) > 1e-6} == {}
    assert list(tmp_path.iterdir()) == [out]


def test_without_a_prometheus_the_weaker_check_is_made_on_the_released_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = prepare(root, REPO / "config", n_bars=4_500)
    run = open_run([recording], root=root, out=tmp_path / "unused")
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(alignment, "find_prometheus", lambda: None)
    said: list[str] = []
    code = alignment.align(tmp_path / "out", root, said.append, run=run, speed=200.0)
    assert code == EXIT_OK
    assert any("the weaker check instead" in line for line in said)
    n_bars = (run.cut.search_end_ms - run.cut.start_ms) // 1_000  # nothing of the holdout
    assert f"a runner replays {n_bars:,} bars of BTCUSDT and ETHUSDT (the end of the search part) at 200x" in said
    assert WEAKER in capsys.readouterr().out
    closure = store.read_json(tmp_path / "out" / alignment.CLOSURE_FILE)
    assert closure["source"] == "exporter"
    assert closure["n_events"] > 10
    assert sorted(root.rglob("*")) == before  # the project's own log and runs are left alone


@dataclass
class Signed:
    """A sign-off that rehearsed a runner on the way."""

    root: Path
    live: Path
    bundle: Path
    command: tuple[str, ...]
    said: str

    @property
    def document(self) -> dict[str, Any]:
        return dict(store.read_json(self.bundle / "signoff.json"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """The whole chain by its command, on five and a half hours of a simulated market."""
    prometheus_binary()  # skips where there is none
    folder = tmp_path_factory.mktemp("chain")
    root = project(folder)
    shutil.copytree(REPO / "notebooks", root / "notebooks")
    bars = market.simulate_bars(market.MarketSpec(kind="planted", n_bars=20_000), 21).bars
    tape = write_bars(folder / "tape.parquet", bars)
    out, reports = root / "runs/real_test", folder / "reports"
    command = ("signoff", "--data", str(tape), "--root", str(root), "--out", str(out), "--reports", str(reports))
    live = folder / "metrics_test"
    done = v13(*command, "--with-live", str(live))
    assert done.returncode in (EXIT_OK, EXIT_GATE), done.stderr
    return Signed(root, live, (reports / "latest").resolve(), command, done.stdout + done.stderr)


def v13(*arguments: str) -> subprocess.CompletedProcess[str]:
    short = {f"V13__{key.upper().replace('.', '__')}": str(value) for key, value in SHORT.items()}
    return subprocess.run(
        [sys.executable, "-m", "v13.cli", *arguments],
        env=os.environ | short,
        capture_output=True,
        text=True,
        timeout=1_800,
        check=False,
    )


def test_one_command_leaves_no_criterion_of_the_guide_open(signed: Signed) -> None:
    criteria = {c["key"]: c for c in signed.document["criteria"]}
    assert not set(signed.document["open"]) & set(live_evidence.LIVE_CRITERIA)
    assert "NOT RUN" not in {c["status"] for c in criteria.values()}
    assert criteria["hot_reload"]["status"] == "PASS", criteria["hot_reload"]["detail"]
    assert criteria["closure"]["status"] in ("PASS", "INSUFFICIENT"), criteria["closure"]["detail"]
    assert "at most 0 % of a figure is unexplained" in criteria["closure"]["detail"].lower()
    for key in ("compute_p95", "event_p95", "pipeline_p95"):  # how fast is the machine's affair
        assert criteria[key]["n"] > 0
        assert "Measured by a real runner" in criteria[key]["detail"]
    report = store.read_json(signed.live / live_evidence.REPORT_FILE)
    assert report["parameters_fingerprint"] == signed.document["parameters_fingerprint"]
    cut = signed.document["cut"]
    assert cut["start_ms"] <= report["replay"]["from_ms"] < report["replay"]["to_ms"] == cut["search_end_ms"]


def test_first_page_notebooks_json_junit_and_summary_say_the_same_of_every_criterion(signed: Signed) -> None:
    index, acceptance = (read_page(signed.bundle / f"{name}.html") for name in ("index", "04_acceptance"))
    cases = {case.get("name"): case for case in ET.parse(signed.bundle / "signoff.junit.xml").iter("testcase")}
    summary = (signed.bundle / "summary.md").read_text()
    artifact = store.read_json(signed.bundle / "artifacts/acceptance.json")["verdict"]
    assert artifact["criteria"] == signed.document["criteria"]
    assert artifact["overall"] == signed.document["verdict"]
    for c in signed.document["criteria"]:
        for page in (index, acceptance):
            assert c["title"] in page
            assert c["detail"] in page, c["title"]
        (child,) = cases[c["title"]]
        kind = {"PASS": "system-out", "FAIL": "failure", "INSUFFICIENT": "error", "NOT APPLICABLE": "skipped"}
        assert child.tag == kind[c["status"]]
        assert c["detail"] in (child.text or child.get("message"))
        assert f"| {c['title']} | **{c['status']}** |" in summary
        assert f"{c['status']:>14}  {c['title']}: {c['detail']}" in signed.said
    assert "NOT RUN" not in index + acceptance + summary
    assert "6. Metrics closure" in index
    assert "figures close over" in read_page(signed.bundle / "06_metrics_closure.html")
    for name in (live_evidence.REPORT_FILE, live_evidence.CLOSURE_FILE):
        copied = signed.bundle / "artifacts" / name
        assert signed.document["artifacts"][name] == store.sha256_file(copied) == store.sha256_file(signed.live / name)


def read_page(path: Path) -> str:
    """The text of a page: without its markup, and with entities as the letters they stand for."""
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))


def test_the_report_it_left_gives_a_second_sign_off_the_same_verdict(signed: Signed) -> None:
    before = signed.document
    done = v13(*signed.command, "--live", str(signed.live))
    assert done.returncode in (EXIT_OK, EXIT_GATE), done.stderr
    assert signed.document == before


def test_a_report_of_other_parameters_leaves_the_runner_s_criteria_open(signed: Signed, tmp_path: Path) -> None:
    live = tmp_path / "metrics_test"
    report = store.read_json(signed.live / live_evidence.REPORT_FILE) | {"parameters_fingerprint": "a" * 64}
    store.write_json(live / live_evidence.REPORT_FILE, report)
    store.copy(signed.live / live_evidence.CLOSURE_FILE, live / live_evidence.CLOSURE_FILE)
    verdict = Verdict.from_dict(store.read_json(signed.bundle / "artifacts/acceptance.json")["verdict"])
    judged = live_evidence.completed_from(
        verdict, live, load(signed.root, environ={}).config, signed.document["parameters_fingerprint"]
    )
    criteria = {c.key: c for c in judged.criteria}
    for key in live_evidence.LIVE_CRITERIA:
        assert criteria[key].status == Status.NOT_RUN
        assert "The runner ran parameters aaaaaaaaaaaa" in criteria[key].detail
