"""Prometheus's and Alertmanager's own tools on what `v13 monitoring build` writes; do the rules' tests notice?"""

from __future__ import annotations

import argparse
import os
import random
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from v13.cli import monitoring
from v13.errors import ConfigError, V13Error
from v13.telemetry.mutants import (
    MIN_CAUGHT,
    Mutant,
    bundle,
    judge,
    mutants,
    needed,
    ranges_of,
    rule_test_file,
    run_promtool,
)
from v13.telemetry.ranges import Ranges
from v13.telemetry.rules import alert_rules
from v13.telemetry.slo import Level, load_slo

TABLE = load_slo(REPO / "config" / "slo.yaml")
KINDS = ("comparison", "threshold", "label", "duration")
N_EACH = 6  # of over 600 in all: `v13 monitoring prove` takes every one
SEED = 13
# Looking at an hour every five seconds takes promtool seconds a mutant: two of these are enough here.
SLOW = ("DivergenceAvailabilityAlert", "DivergenceAvailabilityRollback")


def tool(name: str, package: str) -> Path:
    found = os.environ.get(f"{name.upper()}_BIN") or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return Path(found)


@pytest.fixture(scope="module")
def promtool() -> Path:
    return tool("promtool", "prometheus")


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="v13")
    monitoring.add(parser.add_subparsers())
    parsed = parser.parse_args(["monitoring", *arguments])
    return int(parsed.run(parsed))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("monitoring") / "metrics_test"
    assert call("build", "--out", str(out), "--root", str(REPO)) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_files_of_the_guide_are_written_and_named(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = contents(built)
    assert {
        "prometheus_divergence.yml",
        "divergence_metrics_exporter.py",
        "dashboards/divergence_overview.json",
        "alerting_rules/divergence_alerts.yaml",
        "alerting_rules/production_slo_alerts.yaml",
        "recording_rules/divergence_recording.yaml",
        "alertmanager.yml",
    } <= found.keys()
    capsys.readouterr()
    again = built.with_name("again")
    assert call("build", "--out", str(again), "--root", str(REPO)) == 0
    out, err = capsys.readouterr()
    assert contents(again) == found, "equal tables give equal bytes"
    assert out.split() == [str(again / name) for name in found]
    assert "DivergenceScoreMedianRollback cannot fire with these settings: scores below min_score, 40," in err
    assert "Alertmanager tells nobody" in err


def test_a_folder_is_replaced_whole_or_left_as_it_was(built: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / "root"
    shutil.copytree(built, out)
    (out / "left_over.yaml").write_text("old", encoding="utf-8")
    shutil.copytree(REPO / "config", root / "config")
    table = root / "config" / "slo.yaml"
    good = table.read_text(encoding="utf-8")
    table.write_text(good.replace("above: 0.0025", "above: 25", 1), encoding="utf-8")
    before = contents(out)
    with pytest.raises(ConfigError, match="can never fire"):
        call("build", "--out", str(out), "--root", str(root))
    assert contents(out) == before
    table.write_text(good.replace("above: 0.002,", "above: 0.001,", 1), encoding="utf-8")
    assert call("build", "--out", str(out), "--root", str(root)) == 0
    assert "left_over.yaml" not in contents(out)
    assert b"v13:event_latency:p95 > 0.001 and" in (out / "alerting_rules" / "production_slo_alerts.yaml").read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds other files"):
        call("build", "--out", str(tmp_path), "--root", str(REPO))
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_the_exporter_of_the_guide_is_the_runner(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["divergence_metrics_exporter.py", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(built / "divergence_metrics_exporter.py"), run_name="__main__")
    assert left.value.code == 0
    assert "usage: v13 run" in capsys.readouterr().out


def test_promtool_and_amtool_find_nothing_to_say(built: Path, promtool: Path) -> None:
    amtool = tool("amtool", "prometheus-alertmanager")
    for command in (
        [promtool, "check", "config", "--lint=all", "--lint-fatal", built / "prometheus_divergence.yml"],
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *built.glob("*_rules/*.yaml")],
        [amtool, "check-config", built / "alertmanager.yml"],
    ):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"action": "rollback", "severity": "critical"}, "rollback,people"),
        ({"action": "watch", "severity": "critical"}, "people"),
        ({"action": "watch", "severity": "warning"}, "people"),
    ],
)
def test_a_rollback_is_told_to_both_and_the_rest_to_people(built: Path, labels: dict[str, str], receivers: str) -> None:
    command = [
        *(str(tool("amtool", "prometheus-alertmanager")), "config", "routes", "test"),
        f"--config.file={built / 'alertmanager.yml'}",
        *(f"{name}={value}" for name, value in labels.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == receivers


def test_the_tests_that_are_shipped_run_against_the_rules_that_are_shipped(built: Path, promtool: Path) -> None:
    # Those with a step of 30 s; with all rules in each, the others take minutes. Rule by rule all of them run below.
    paths = [built / "rule_tests" / f"prometheus_{ranges_of(promtool).value}" / "step_30s.yaml"]
    assert run_promtool(promtool, paths) == dict.fromkeys(paths, True)


def test_every_rule_is_silent_within_its_level_fires_after_its_duration_and_resolves(
    promtool: Path, tmp_path: Path
) -> None:
    rules, ranges = alert_rules(TABLE), ranges_of(promtool)
    tests = {rule.name: rule_test_file(rule, ranges) for rule in rules}
    paths = {
        rule.name: bundle(tests[rule.name], needed(TABLE, rule), rule.body(), tmp_path, rule.name) for rule in rules
    }
    verdicts = run_promtool(promtool, list(paths.values()))
    assert [name for name, path in paths.items() if not verdicts[path]] == []
    kinds = Counter(test["name"].rpartition(", ")[2] for found in tests.values() for test in found["tests"])
    assert kinds["within"] == kinds["beyond"] == len(rules)
    assert kinds["enough"] + kinds["never"] == sum(rule.entry.min_count is not None for rule in rules)


def test_the_numbers_of_the_other_ranges_do_not_pass(promtool: Path, tmp_path: Path) -> None:
    """Else it would not matter which tests are taken."""
    rule = next(rule for rule in alert_rules(TABLE) if rule.name == "DivergenceErrorRateAlert")
    passes = {}
    for ranges in Ranges:
        path = bundle(rule_test_file(rule, ranges), needed(TABLE, rule), rule.body(), tmp_path, ranges.name)
        passes[ranges] = run_promtool(promtool, [path])[path]
    assert passes == {ranges: ranges is ranges_of(promtool) for ranges in Ranges}


def test_the_tests_notice_spoilt_rules(promtool: Path) -> None:
    every = list(mutants(TABLE))
    quick = [mutant for mutant in every if mutant.alert not in SLOW]
    chosen = random.Random(SEED)
    sample = [m for kind in KINDS for m in chosen.sample([m for m in quick if m.kind == kind], N_EACH)]
    sample += chosen.sample([mutant for mutant in every if mutant.alert in SLOW], 2)
    score = judge(TABLE, sample, promtool)
    print(f"\nof {len(every)}, sampled: {score}")
    assert score.ratio >= MIN_CAUGHT, score.missed


def test_a_rule_that_is_not_spoilt_is_not_caught(promtool: Path) -> None:
    """Else every mutant would be caught by tests that fail anyway."""
    rule = next(rule for rule in alert_rules(TABLE) if rule.name == "DivergenceBacklog")
    mutant = Mutant(rule.name, "label", "nothing", needed(TABLE, rule), rule.body())
    score = judge(TABLE, [mutant], promtool)
    assert (score.ratio, score.missed) == (0.0, ("DivergenceBacklog: nothing",))


def test_a_mutant_that_is_no_rule_does_not_count_as_caught(promtool: Path) -> None:
    rule = next(rule for rule in alert_rules(TABLE) if rule.name == "DivergenceBacklog")
    body: dict[str, Any] = {**rule.body(), "expr": "sum by ("}
    with pytest.raises(V13Error, match="a mutant is no rule"):
        judge(TABLE, [Mutant(rule.name, "label", "no PromQL", [], body)], promtool)


def test_another_level_and_duration_are_tested_as_well(promtool: Path, tmp_path: Path) -> None:
    """The tests follow the table: what is checked above for its numbers holds for others."""
    row = replace(TABLE.row("hit_rate"), alert=Level(None, 0.52, 1_800), rollback=None)
    table = replace(TABLE, rows=(row,), alerts=())
    (rule,) = alert_rules(table)
    path = bundle(rule_test_file(rule, ranges_of(promtool)), needed(table, rule), rule.body(), tmp_path, "other")
    assert run_promtool(promtool, [path]) == {path: True}


def test_a_promtool_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(V13Error, match="could not be run"):
        run_promtool(tmp_path / "promtool", [tmp_path / "a.yaml"])
    with pytest.raises(V13Error, match=r"expected `promtool, version N.N.N`"):
        ranges_of(Path(sys.executable))


def test_prove_prints_the_score(promtool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a table of one row, so that every mutant of it is taken."""
    shutil.copytree(REPO / "config", tmp_path / "config")
    table = tmp_path / "config" / "slo.yaml"
    text = table.read_text(encoding="utf-8")
    rows = text.index("  event_latency:\n"), text.index("  pipeline_latency:\n")
    table.write_text(text[: text.index("rows:")] + "rows:\n" + text[slice(*rows)] + "alerts: {}\n", encoding="utf-8")
    assert call("prove", "--root", str(tmp_path), "--promtool", str(promtool)) == 0
    out = capsys.readouterr().out
    assert " mutants caught (" in out
    assert "FAILED" not in out
