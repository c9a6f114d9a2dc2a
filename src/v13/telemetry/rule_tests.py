"""Unit tests of the alert rules for `promtool test rules`, written from the SLO table.

Each alert is driven from raw series: just within its level it stays silent however long; just beyond it is silent until
its duration is over, then fires with the value, labels and text it should have, then resolves. All along, another job
and other instances break the level and must not be heard. Each kind of `Ranges` has files of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from v13.errors import ConfigError
from v13.telemetry.drives import (
    EXAMPLES,
    GONE,
    Sample,
    Series,
    aims,
    decoys,
    drive,
    few,
    never_ready,
    step_s,
    twins,
    window_s,
)
from v13.telemetry.ranges import Ranges
from v13.telemetry.readings import Reading, measured
from v13.telemetry.rules import (
    ALERTS_FILE,
    GROUPS,
    RECORDING_FILE,
    SLO_ALERTS_FILE,
    AlertRule,
    Document,
    alert_rules,
    rendered,
)
from v13.telemetry.signal_kinds import Available
from v13.telemetry.slo import SloTable

__all__ = ["TESTS_FOLDER", "Scenario", "compact", "rule_test", "scenarios", "test_files"]

TESTS_FOLDER: Final = "rule_tests"
DECOY_JOB: Final = "another"  # selectors that forget their job would see it
INSTANCE: Final = "runner:1"
MORE: Final = 3  # steps beyond what is needed
ENOUGH: Final = 1.4  # times the minimum count: counts are whole, and half of a doubled minimum is not to be enough


@dataclass(frozen=True)
class Scenario:
    """What goes in, and when the alert must be heard.

    Attributes
    ----------
    name : str
    step_s : int, s
    series : sequence of Series
    silent_s : tuple of int, s
        Times at which it must not fire.
    fires : mapping of time (s) to value
        Times at which it must, and the value it must give.
    labels : mapping
        Of the series that breaks the level.
    """

    name: str
    step_s: int
    series: Sequence[Series]
    silent_s: tuple[int, ...]
    fires: Mapping[int, float]
    labels: Mapping[str, str]


def scenarios(rule: AlertRule, ranges: Ranges) -> tuple[Scenario, ...]:
    """Return the scenarios of a rule, for a Prometheus with such ranges.

    within: just within its level for good. beyond: beyond it for a while. enough: far beyond, with hardly more than
    the minimum count. never: a runner that never gets ready.

    Raises
    ------
    ConfigError
        The rule would fire within its level, or cannot fire beyond it, or does not resolve.
    """
    entry, signal, target = rule.entry, rule.entry.signal, _target(rule)
    step = step_s(signal)
    keeps, breaks = aims(signal, rule.op, rule.bound, ranges)
    width, wait = window_s(signal) // step + 1, rule.for_s // step
    # Time away is a share of an hour that is known: else three looks of the first few would be most of it.
    first = (1.0, width) if isinstance(signal, Available) else (keeps, width)
    plans = {
        "within": [first, (keeps, width + 2 * wait + MORE)],
        "beyond": [first, (breaks, width + wait + MORE), (keeps, width + MORE)],
    }
    found = {
        name: _scenario(rule, ranges, name, drive(signal, [value for value, n in plan for _ in range(n)], target))
        for name, plan in plans.items()
    }
    if found["within"].fires:
        raise ConfigError(f"{entry.place}: {rule.name}: would fire at {keeps:g}, which is within its level")
    if not found["beyond"].fires or len(found["beyond"].silent_s) < 2:
        raise ConfigError(f"{entry.place}: {rule.name}: can never fire, or never resolve, even at {breaks:g}")
    if isinstance(signal, Available):
        n = signal.warm_up_s // step + wait + width // 10
        found["never"] = _scenario(rule, ranges, "never", never_ready(n, target))
    elif entry.least:
        series = few(signal, rule.op, 2 * width + wait, ENOUGH * entry.least, target)
        found["enough"] = _scenario(rule, ranges, "enough", series)
        if not found["enough"].fires:
            raise ConfigError(f"{entry.place}: {rule.name}: min_count {entry.least:g} is out of reach")
    return tuple(found.values())


def rule_test(rule: AlertRule, scenario: Scenario) -> dict[str, Any]:
    """Return one scenario as a test group of a promtool file."""
    expected: list[dict[str, Any]] = []
    for time_s in sorted({*scenario.silent_s, *scenario.fires}):
        case: dict[str, Any] = {"eval_time": f"{time_s}s", "alertname": rule.name}
        if time_s in scenario.fires:
            texts = {
                name: rendered(text, rule, scenario.fires[time_s], scenario.labels)
                for name, text in rule.annotations.items()
            }
            case["exp_alerts"] = [{"exp_labels": {**rule.labels, **scenario.labels}, "exp_annotations": texts}]
        expected.append(case)
    return {
        "name": f"{rule.name}, {scenario.name}",
        "interval": f"{scenario.step_s}s",
        "input_series": [{"series": series.name, "values": compact(series.samples)} for series in scenario.series],
        "alert_rule_test": expected,
    }


def test_files(table: SloTable) -> dict[str, Document]:
    """Return test files, path to content: for each kind of ranges, one a step, as a file has one for evaluations.

    Raises
    ------
    ConfigError
        See `scenarios`.
    """
    rules = alert_rules(table)
    found: dict[str, Document] = {}
    for ranges in Ranges:
        by_step: dict[int, list[dict[str, Any]]] = {}
        for rule in rules:
            for scenario in scenarios(rule, ranges):
                by_step.setdefault(scenario.step_s, []).append(rule_test(rule, scenario))
        folder = f"{TESTS_FOLDER}/prometheus_{ranges.value}"
        header = (
            f"Written by `v13 monitoring build`. Run, with promtool {ranges.value}: promtool test rules {folder}/*.yaml"
        )
        for step, tests in sorted(by_step.items()):
            found[f"{folder}/step_{step}s.yaml"] = Document(
                header,
                {
                    "rule_files": [f"../../{name}" for name in (RECORDING_FILE, SLO_ALERTS_FILE, ALERTS_FILE)],
                    "evaluation_interval": f"{step}s",
                    "group_eval_order": list(GROUPS),  # all: promtool takes one not named as if it were the first
                    "tests": tests,
                },
            )
    return found


test_files.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test where it is imported


def compact(samples: Sequence[Sample]) -> str:
    """Return samples in promtool's notation: `0+5x3` is 0 5 10 15."""
    parts, i = [], 0
    while i < len(samples):
        first, j = samples[i], i + 1
        if first is None or first == GONE:
            while j < len(samples) and samples[j] == first:
                j += 1
            parts += ["_" if first is None else GONE] * (j - i)
        else:
            change = _change(samples, i)
            while j < len(samples) and change is not None and samples[j] == _at(first, change, j - i):
                j += 1
            n = j - i - 1
            parts.append(f"{_number(first)}{_number(change or 0.0, sign=True)}x{n}" if n else _number(first))
        i = j
    return " ".join(parts)


def _target(rule: AlertRule) -> dict[str, str]:
    """Return the labels of the runner that a rule's tests are about."""
    signal = rule.entry.signal
    labels = {"job": signal.selectors[0].job, "instance": INSTANCE}
    return labels | {label: EXAMPLES[label][0] for label in signal.by}


def _scenario(rule: AlertRule, ranges: Ranges, name: str, series: Sequence[Series]) -> Scenario:
    signal, target = rule.entry.signal, _target(rule)
    step, n = step_s(signal), len(series[0].samples)
    values = measured(signal, series, ranges)
    heard = _heard(rule, values, rule.for_s // step)
    noise = [*twins(signal, rule.op, n, rule.entry.least)]
    for instance in {INSTANCE: 0, **{s.labels["instance"]: 0 for s in noise}}:
        noise += decoys(signal, rule.op, rule.bound, n, {**target, "job": DECOY_JOB, "instance": instance})
    noise = list({s.name: s for s in noise}.values())
    labels = {label: found for label, found in target.items() if label in signal.labels}
    everything = (*series, *noise)
    if not any(heard):
        return Scenario(name, step, everything, (n // 2 * step, (n - 1) * step), {}, labels)
    first = heard.index(True)
    after = next((i for i in range(first, n) if not heard[i]), None)
    silent = (first - 1,) if after is None else (first - 1, after, n - 1)
    fires = {first * step: values[first][0] or 0.0}
    return Scenario(name, step, everything, tuple(i * step for i in silent), fires, labels)


def _heard(rule: AlertRule, values: Sequence[Reading], wait: int) -> list[bool]:
    """Return at which steps an alert fires: its level has been broken for its whole duration."""
    heard, since = [], None
    guard = rule.entry.signal.guard()
    for i, (value, count) in enumerate(values):
        is_broken = value is not None and (value > rule.bound if rule.op == ">" else value < rule.bound)
        is_enough = count >= rule.entry.least and (not guard or count > 0.0)
        since = (i if since is None else since) if is_broken and is_enough else None
        heard.append(since is not None and i - since >= wait)
    return heard


def _change(samples: Sequence[Sample], i: int) -> float | None:
    a, b = samples[i], samples[i + 1] if i + 1 < len(samples) else None
    return b - a if isinstance(a, float | int) and isinstance(b, float | int) else None


def _at(first: Sample, change: float, n: int) -> float | None:
    return float(first) + change * n if isinstance(first, float | int) else None


def _number(value: Sample, *, sign: bool = False) -> str:
    text = repr(float(value or 0.0)).removesuffix(".0")
    return text if not sign or text.startswith("-") else f"+{text}"
