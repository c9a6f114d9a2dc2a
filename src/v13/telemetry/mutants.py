"""Do the tests of the rules notice it? Each rule is spoilt in small ways, and its tests run against each.

A mutant that no test notices is one thing the tests do not hold. Rules are taken one by one, with the recording rules
they rest on, so that hundreds of mutants take seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from v13.errors import V13Error
from v13.telemetry.ranges import Ranges
from v13.telemetry.rule_tests import rule_test, scenarios
from v13.telemetry.rules import RECORDING_GROUP, AlertRule, alert_rules, recording_rules
from v13.telemetry.signals import duration_text
from v13.telemetry.slo import SloTable

__all__ = [
    "MIN_CAUGHT",
    "Mutant",
    "Score",
    "bundle",
    "judge",
    "mutants",
    "needed",
    "prove_rules",
    "ranges_of",
    "rule_test_file",
    "run_promtool",
]

MIN_CAUGHT: Final = 0.9  # of the mutants
ALERT_GROUP: Final = "v13_one"
TIMEOUT_S: Final = 600.0
_TESTING: Final = "Unit Testing:"
_JUNIT: Final = "--junit"
_VERSION: Final = re.compile(r"promtool, version (\d+)\.")
_COMPARISON: Final = re.compile(r" (>=|<=|==|>|<) (-?[\d.]+(?:e-?\d+)?)(?![\w:])")
_GROUPING: Final = re.compile(r"\b(by|on) \(([^()]*)\)")
_MATCHERS: Final = re.compile(r'\{((?:\w+="[^"]*",?)+)\}')
_WINDOW: Final = re.compile(r"\[(\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FLIPPED: Final = {">": "<", "<": ">", ">=": "<", "<=": ">", "==": "!="}


@dataclass(frozen=True)
class Mutant:
    """One spoilt rule.

    Attributes
    ----------
    alert : str
        Whose tests are to notice.
    what : str
        What was done to it.
    kind : str
        comparison, threshold, label or duration.
    recordings, rule : list of mappings, mapping
        Rule bodies, spoilt.
    """

    alert: str
    kind: str
    what: str
    recordings: Sequence[Mapping[str, Any]]
    rule: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """How many mutants were noticed.

    Attributes
    ----------
    caught, total : mapping of kind to count
    missed : tuple of str
        Those that were not.
    """

    caught: Mapping[str, int]
    total: Mapping[str, int]
    missed: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Return the share of mutants that was noticed."""
        return sum(self.caught.values()) / max(1, sum(self.total.values()))

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.caught[kind]}/{n}" for kind, n in self.total.items())
        return f"{sum(self.caught.values())} of {sum(self.total.values())} mutants caught ({self.ratio:.1%}): {kinds}"


def mutants(table: SloTable) -> Iterator[Mutant]:
    """Yield every mutant of every alert rule and of the recording rules it rests on, each differing in one place."""
    for rule in alert_rules(table):
        rests_on = needed(table, rule)
        body = rule.body()
        for kind, what, expr in _spoilt_expr(rule.expr):
            yield Mutant(rule.name, kind, what, rests_on, {**body, "expr": expr})
        for seconds in {2 * rule.for_s, rule.for_s // 2}:
            what = f"for {body['for']} becomes {duration_text(seconds)}"
            yield Mutant(rule.name, "duration", what, rests_on, {**body, "for": duration_text(seconds)})
        yield Mutant(rule.name, "duration", "for is dropped", rests_on, {k: v for k, v in body.items() if k != "for"})
        for label in rule.labels:
            left = {name: value for name, value in rule.labels.items() if name != label}
            yield Mutant(rule.name, "label", f"label {label} is dropped", rests_on, {**body, "labels": left})
        for i, recording in enumerate(rests_on):
            for kind, what, expr in _spoilt_expr(recording["expr"]):
                spoilt = [*rests_on[:i], {**recording, "expr": expr}, *rests_on[i + 1 :]]
                yield Mutant(rule.name, kind, f"{recording['record']}: {what}", spoilt, body)


def judge(table: SloTable, found: Sequence[Mutant], promtool: Path) -> Score:
    """Run the tests of each mutant's rule against it.

    Parameters
    ----------
    table : SloTable
        The one the mutants come from.
    found : sequence of Mutant
    promtool : Path

    Raises
    ------
    V13Error
        promtool could not be run, or did not say of each mutant what became of it.
    """
    spoilt = {mutant.alert for mutant in found}
    ranges = ranges_of(promtool)
    tests = {rule.name: rule_test_file(rule, ranges) for rule in alert_rules(table) if rule.name in spoilt}
    caught: dict[str, int] = {}
    total: dict[str, int] = {}
    missed = []
    with tempfile.TemporaryDirectory(prefix="v13-mutants-") as folder:
        paths = [
            bundle(tests[mutant.alert], mutant.recordings, mutant.rule, Path(folder), f"{i:05d}")
            for i, mutant in enumerate(found)
        ]
        checked = _promtool(promtool, "check", "rules", *(path.with_suffix(".rules.yaml") for path in paths))
        if checked.returncode != 0:  # a mutant that is no rule would be caught by its syntax
            raise V13Error(f"{promtool}: a mutant is no rule: {checked.stderr[-400:]}")
        verdicts = run_promtool(promtool, paths)
    for mutant, path in zip(found, paths, strict=True):
        is_caught = not verdicts[path]
        total[mutant.kind] = total.get(mutant.kind, 0) + 1
        caught[mutant.kind] = caught.get(mutant.kind, 0) + is_caught
        if not is_caught:
            missed.append(f"{mutant.alert}: {mutant.what}")
    return Score(caught, total, tuple(missed))


def prove_rules(table: SloTable, promtool: Path) -> tuple[str, ...]:
    """Run the tests of every alert rule as it is; return the names of those that fail."""
    rules, ranges = alert_rules(table), ranges_of(promtool)
    with tempfile.TemporaryDirectory(prefix="v13-rules-") as folder:
        paths = [
            bundle(rule_test_file(rule, ranges), needed(table, rule), rule.body(), Path(folder), rule.name)
            for rule in rules
        ]
        verdicts = run_promtool(promtool, paths)
    return tuple(rule.name for rule, path in zip(rules, paths, strict=True) if not verdicts[path])


def bundle(
    tests: Mapping[str, Any], recordings: Sequence[Mapping[str, Any]], body: Mapping[str, Any], folder: Path, name: str
) -> Path:
    """Write a rule file with one alert and its recording rules, and tests beside it; return the path of the tests.

    Parameters
    ----------
    tests : mapping
        Of `rule_test_file`.
    recordings, body
        Rule bodies, spoilt or not.
    folder, name
        Where, and how both are called.
    """
    groups = [{"name": RECORDING_GROUP, "rules": list(recordings)}, {"name": ALERT_GROUP, "rules": [body]}]
    tests = {"rule_files": [f"{name}.rules.yaml"], **tests}
    for path, document in ((folder / f"{name}.rules.yaml", {"groups": groups}), (folder / f"{name}.yaml", tests)):
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")  # JSON is YAML, and quick
    return folder / f"{name}.yaml"


def rule_test_file(rule: AlertRule, ranges: Ranges) -> dict[str, Any]:
    """Return the tests of one rule as a test file, but for its rule files."""
    found = scenarios(rule, ranges)
    return {
        "evaluation_interval": f"{found[0].step_s}s",
        "group_eval_order": [RECORDING_GROUP, ALERT_GROUP],
        "tests": [rule_test(rule, scenario) for scenario in found],
    }


def ranges_of(promtool: Path) -> Ranges:
    """Return what ranges hold in the Prometheus that a promtool is of.

    Raises
    ------
    V13Error
        It could not be run, or does not tell its version.
    """
    told = _promtool(promtool, "--version")
    version = _VERSION.search(told.stdout + told.stderr)
    if version is None:
        raise V13Error(f"{promtool}: expected `promtool, version N.N.N`, found {(told.stdout + told.stderr)[:80]!r}")
    return Ranges.of(int(version[1]))


def run_promtool(promtool: Path, paths: Sequence[Path]) -> dict[Path, bool]:
    """Run `promtool test rules` over many files; return which of them pass.

    Raises
    ------
    V13Error
        It could not be run, or did not tell of a file.
    """
    n = min(os.cpu_count() or 1, max(1, len(paths)))
    usage = _promtool(promtool, "test", "rules", "--help")
    test = _junit if _JUNIT in usage.stdout + usage.stderr else _printed
    verdicts: dict[Path, bool] = {}
    with ThreadPoolExecutor(n) as pool:  # one process takes its files one by one
        for found in pool.map(partial(test, promtool), [paths[i::n] for i in range(n)]):
            verdicts |= found
    silent = [path for path in paths if path not in verdicts]
    if silent:
        raise V13Error(f"{promtool}: did not tell of {silent[0]}")
    return verdicts


def needed(table: SloTable, rule: AlertRule) -> list[dict[str, Any]]:
    """Return the recording rules a rule rests on, directly or through others, in their order."""
    all_of_them = recording_rules(table)
    wanted, text = set[str](), rule.expr
    while True:
        found = {r.record for r in all_of_them if re.search(rf"{re.escape(r.record)}(?![\w:])", text)}
        if found <= wanted:
            return [r.body() for r in all_of_them if r.record in wanted]
        wanted |= found
        text = " ".join(r.expr for r in all_of_them if r.record in wanted)


def _spoilt_expr(expr: str) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, what, expression) for each place of an expression that can be spoilt."""
    for match in _COMPARISON.finditer(expr):
        op, number = match.groups()
        yield "comparison", f"{op} {number} flipped", _put(expr, match.span(1), _FLIPPED[op])
        if float(number) != 0.0:
            yield "threshold", f"{op} {number} doubled", _put(expr, match.span(2), repr(2.0 * float(number)))
    for match in _GROUPING.finditer(expr):
        names = match[2].split(", ")
        for name in names:
            left = ", ".join(other for other in names if other != name)
            yield "label", f"{name} dropped from {match[0]} at {match.start()}", _put(expr, match.span(2), left)
    for match in _MATCHERS.finditer(expr):
        pairs = match[1].split(",")
        for pair in pairs:
            left = ",".join(other for other in pairs if other != pair)
            yield "label", f"{pair} dropped at {match.start()}", _put(expr, match.span(1), left)
    for match in _WINDOW.finditer(expr):
        doubled = duration_text(2 * int(match[1]) * _SECONDS[match[2]])
        yield "duration", f"{match[0]} doubled at {match.start()}", _put(expr, (match.start(1), match.end(2)), doubled)


def _put(text: str, span: tuple[int, int], new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


def _printed(promtool: Path, paths: Sequence[Path]) -> dict[Path, bool]:
    """Return the verdicts of promtool 2, which names each file as it comes to it."""
    verdicts: dict[Path, bool] = {}
    path = None
    for line in _promtool(promtool, "test", "rules", *paths).stdout.splitlines():  # why is in the other stream
        if line.startswith(_TESTING):
            path = Path(line.removeprefix(_TESTING).strip())
            verdicts[path] = False
        elif path is not None and line.strip() == "SUCCESS":
            verdicts[path] = True
    return verdicts


def _junit(promtool: Path, paths: Sequence[Path]) -> dict[Path, bool]:
    """Return the verdicts of promtool 3, which names files only in a report."""
    with tempfile.TemporaryDirectory(prefix="v13-promtool-") as folder:
        report = Path(folder) / "junit.xml"
        _promtool(promtool, "test", "rules", f"{_JUNIT}={report}", *paths)
        try:
            suites = ET.parse(report).iter("testsuite")
        except (OSError, ET.ParseError):
            return {}
    bad = ("failures", "errors")
    return {Path(suite.get("name", "")): not any(int(suite.get(name, "1")) for name in bad) for suite in suites}


def _promtool(promtool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(promtool), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise V13Error(f"{promtool}: could not be run: {error}") from error
