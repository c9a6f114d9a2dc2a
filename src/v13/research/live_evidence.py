"""What a sign-off takes from the runner: latencies, metrics closure and hot reload, measured by the metrics alignment.

Research and production meet on disk: this reads a report and believes it only where it is of this very code, of the
parameters that are signed off, and not old. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from v13 import store
from v13.config import Config
from v13.errors import ConfigError, StoreError
from v13.measures import Criterion, Status, Verdict
from v13.store.fingerprint import package_fingerprint

__all__ = ["CLOSURE_FILE", "REPORT_FILE", "LiveReport", "completed", "read_report"]

REPORT_FILE: Final = "live_report.json"
CLOSURE_FILE: Final = "closure.json"
SCHEMA: Final = Path(__file__).parent / "schemas" / "live_report.schema.json"
MAX_AGE_MS: Final = 7 * 86_400_000  # a machine and its load change: what was measured longer ago is measured again
AHEAD_MS: Final = 60_000  # of our clock, at most: reports may come from another machine
MIN_TIMES: Final = 20  # behind a P95, as in the SLO table
AGAIN: Final = "run `scripts/metrics_alignment.py --report` again"
_LATENCIES: Final = {"compute_p95": "compute", "event_p95": "event", "pipeline_p95": "pipeline"}


@dataclass(frozen=True)
class LiveReport:
    """A report that was read, and the files it consists of."""

    document: Mapping[str, Any]
    files: tuple[Path, ...]


def read_report(folder: Path, now_ms: int) -> LiveReport:
    """Read the report in a folder of the metrics alignment.

    Parameters
    ----------
    folder : Path
    now_ms : int, UTC epoch ms

    Raises
    ------
    ConfigError
        There is none, it is not in the expected form, of other code, too old, or of a time that has not come.
    """
    path = folder / REPORT_FILE
    try:
        document = store.read_json(path)
        store.validate(document, SCHEMA)
    except StoreError as error:
        raise ConfigError(f"--live: {error}; {AGAIN}") from error
    code = package_fingerprint()
    if document["code"] != code:
        raise ConfigError(f"--live: {path}: of code {document['code'][:12]}, expected {code[:12]}, this one; {AGAIN}")
    started_ms, ended_ms = document["started_ms"], document["ended_ms"]
    if not started_ms <= ended_ms <= now_ms + AHEAD_MS:
        raise ConfigError(f"--live: {path}: expected started_ms <= ended_ms <= now, found {started_ms} and {ended_ms}")
    if now_ms - ended_ms > MAX_AGE_MS:
        days = (now_ms - ended_ms) / 86_400_000
        raise ConfigError(
            f"--live: {path}: is {days:.0f} days old, expected at most {MAX_AGE_MS // 86_400_000}; {AGAIN}"
        )
    closure = folder / CLOSURE_FILE
    if not closure.is_file() or store.sha256_file(closure) != document["closure"]["sha256"]:
        raise ConfigError(f"--live: {closure}: missing, or not the one the report is of; {AGAIN}")
    return LiveReport(document, (path, closure))


def completed(verdict: Verdict, report: LiveReport, config: Config, parameters_fingerprint: str) -> Verdict:
    """Return a verdict with the criteria judged that only the runner can answer.

    Parameters
    ----------
    verdict : Verdict
        Of the acceptance; its criteria keep their places.
    report : LiveReport
    config : Config
        Section `acceptance`.
    parameters_fingerprint : str
        Of the parameters that are signed off. A runner that ran others has shown nothing of these: NOT RUN.
    """
    document = report.document
    ran = document["parameters_fingerprint"]
    why_not = ""
    if ran != parameters_fingerprint:
        why_not = (
            f"The runner ran parameters {ran[:12]}, these are {parameters_fingerprint[:12]}: take the alignment's "
            "`--data`, which runs the released ones."
        )
    return Verdict.of(_judged(criterion, document, config, why_not) for criterion in verdict.criteria)


def _judged(criterion: Criterion, document: Mapping[str, Any], config: Config, why_not: str) -> Criterion:
    key = criterion.key
    if key not in (*_LATENCIES, "closure", "hot_reload"):
        return criterion
    if why_not:
        return _with(criterion, Status.NOT_RUN, why_not)
    if key == "closure":
        return _closure(criterion, document["closure"], config)
    if key == "hot_reload":
        worked = document["hot_reload"]
        text = "A real runner took good changes whole, refused bad ones, and went on after a kill: "
        return _with(
            criterion, Status.PASS if worked else Status.FAIL, text + ("as expected." if worked else "it did not.")
        )
    return _latency(criterion, document, config)


def _latency(criterion: Criterion, document: Mapping[str, Any], config: Config) -> Criterion:
    found = document["latency"][_LATENCIES[criterion.key]]
    limit_ms = float(getattr(config.acceptance, f"{criterion.key}_ms"))
    where = f"on {document['machine']}"
    if document["bar_ms"] != config.acceptance.production_bar_ms:
        text = f"Bars of {document['bar_ms']} ms; judged at {config.acceptance.production_bar_ms} ms."
        return _with(criterion, Status.NOT_APPLICABLE, text)
    if found["p95_s"] is None or found["n"] < MIN_TIMES:
        return _with(criterion, Status.INSUFFICIENT, f"{found['n']} times measured, {MIN_TIMES} needed.", n=found["n"])
    p95_ms = 1_000.0 * found["p95_s"]
    is_met = p95_ms < limit_ms
    text = f"P95 {p95_ms:.3g} ms of {found['n']:,} ({'under' if is_met else 'not under'} {limit_ms:g} ms), {where}."
    return _with(criterion, Status.PASS if is_met else Status.FAIL, text, estimate=p95_ms, n=found["n"])


def _closure(criterion: Criterion, found: Mapping[str, Any], config: Config) -> Criterion:
    n, worst = found["n_events"], max(found["errors"].values())
    if found["source"] != "prometheus":
        return _with(
            criterion, Status.NOT_RUN, "Only the exporter was scraped: the dashboard's queries were not asked.", n=n
        )
    least = config.acceptance.min_events
    text = f"Of {n} events over {found['n_scrapes']} scrapes at most {100 * worst:.2g} % of a figure is unexplained"
    if found["closed"] and n < least:
        return _with(
            criterion, Status.INSUFFICIENT, f"{text}, but it takes {least} events to tell.", estimate=worst, n=n
        )
    status = Status.PASS if found["closed"] else Status.FAIL
    text += "; all figures close." if found["closed"] else "; not all figures close."
    return _with(criterion, status, text, estimate=worst, n=n)


def _with(
    criterion: Criterion, status: Status, detail: str, *, estimate: float | None = None, n: int | None = None
) -> Criterion:
    return Criterion(
        criterion.key,
        criterion.title,
        status,
        estimate=estimate,
        threshold=criterion.threshold,
        unit=criterion.unit,
        n=n,
        detail=detail,
    )
