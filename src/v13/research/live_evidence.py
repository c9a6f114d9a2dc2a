"""What a sign-off takes from the runner: latencies, metrics closure and hot reload, measured by the metrics alignment.

Research and production meet on disk: this reads a report and believes it only where it is of this very code, of the
parameters that are signed off, and not old. Every number says where it was measured. It measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from v13 import store
from v13.config import Config
from v13.errors import ConfigError, StoreError
from v13.measures import Criterion, Status, Verdict
from v13.store.fingerprint import package_fingerprint

__all__ = [
    "CLOSURE_FILE",
    "LIVE_CRITERIA",
    "REPORT_FILE",
    "LiveReport",
    "completed",
    "completed_from",
    "read_report",
]

REPORT_FILE: Final = "live_report.json"
CLOSURE_FILE: Final = "closure.json"
SCHEMA: Final = Path(__file__).parent / "schemas" / "live_report.schema.json"
MAX_AGE_MS: Final = 7 * 86_400_000  # a machine and its load change: what was measured longer ago is measured again
AHEAD_MS: Final = 60_000  # of our clock, at most: reports may come from another machine
MIN_TIMES: Final = 20  # behind a P95, as in the SLO table
AGAIN: Final = "run `scripts/metrics_alignment.py --report` again"
_LATENCIES: Final = {"compute_p95": "compute", "event_p95": "event", "pipeline_p95": "pipeline"}
_COUNTED: Final = {"compute": "bars", "event": "messages", "pipeline": "events"}
LIVE_CRITERIA: Final = (*_LATENCIES, "closure", "hot_reload")


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
    reason = _untimely(document, now_ms) or _doubt(document, folder)
    if reason:
        raise ConfigError(f"--live: {path}: {reason}; {AGAIN}")
    return LiveReport(document, (path, folder / CLOSURE_FILE))


def completed_from(verdict: Verdict, folder: Path, config: Config, parameters_fingerprint: str) -> Verdict:
    """Return a verdict completed by the report in a run's folder, where a sign-off has put one that was not too old.

    Parameters
    ----------
    verdict, config, parameters_fingerprint
        See `completed`.
    folder : Path
        Without a report the verdict is returned as it is. One of other code leaves its criteria NOT RUN, and they say
        so: other criteria do not depend on it.

    Raises
    ------
    StoreError
        The report is there and not in the expected form.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        return verdict
    document = store.read_json(path)
    store.validate(document, SCHEMA)
    reason = _doubt(document, folder)
    if not reason:
        return completed(verdict, LiveReport(document, (path, folder / CLOSURE_FILE)), config, parameters_fingerprint)
    text = f"{REPORT_FILE} beside the artifacts is not to be believed: {reason}; {AGAIN}."
    return Verdict.of(_with(c, Status.NOT_RUN, text) if c.key in LIVE_CRITERIA else c for c in verdict.criteria)


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


def _untimely(document: Mapping[str, Any], now_ms: int) -> str:
    """Return what is wrong with a report's times; empty where nothing is."""
    started_ms, ended_ms = document["started_ms"], document["ended_ms"]
    if not started_ms <= ended_ms <= now_ms + AHEAD_MS:
        return f"expected started_ms <= ended_ms <= now, found {started_ms} and {ended_ms}"
    if now_ms - ended_ms > MAX_AGE_MS:
        days = (now_ms - ended_ms) / 86_400_000
        return f"is {days:.0f} days old, expected at most {MAX_AGE_MS // 86_400_000}"
    return ""


def _doubt(document: Mapping[str, Any], folder: Path) -> str:
    """Return why a report is not to be believed, whenever it was made, without the folder's name; empty where it is."""
    code = package_fingerprint()
    if document["code"] != code:
        return f"of code {document['code'][:12]}, expected {code[:12]}, this one"
    closure = folder / CLOSURE_FILE
    if not closure.is_file() or store.sha256_file(closure) != document["closure"]["sha256"]:
        return f"{CLOSURE_FILE} beside it is missing, or not the one the report is of"
    return ""


def _judged(criterion: Criterion, document: Mapping[str, Any], config: Config, why_not: str) -> Criterion:
    key = criterion.key
    if key not in LIVE_CRITERIA:
        return criterion
    if why_not:
        return _with(criterion, Status.NOT_RUN, why_not)
    if key == "closure":
        return _closure(criterion, document, config)
    if key == "hot_reload":
        return _hot_reload(criterion, document["hot_reload"], document["machine"])
    return _latency(criterion, document, config)


def _latency(criterion: Criterion, document: Mapping[str, Any], config: Config) -> Criterion:
    name = _LATENCIES[criterion.key]
    found = document["latency"][name]
    limit_ms = float(getattr(config.acceptance, f"{criterion.key}_ms"))
    if document["bar_ms"] != config.acceptance.production_bar_ms:
        text = f"Bars of {document['bar_ms']} ms; judged at {config.acceptance.production_bar_ms} ms."
        return _with(criterion, Status.NOT_APPLICABLE, text)
    where = _on_the_feed(document) if name == "event" else _on_the_replay(document)
    where = f"Measured by {where}, on {document['machine']}."
    if found["p95_s"] is None or found["n"] < MIN_TIMES:
        text = f"{found['n']} {_COUNTED[name]} measured, {MIN_TIMES} needed. {where}"
        return _with(criterion, Status.INSUFFICIENT, text, n=found["n"])
    p95_ms = 1_000.0 * found["p95_s"]
    is_met = p95_ms < limit_ms
    said = "under" if is_met else "not under"
    text = f"P95 {p95_ms:.3g} ms of {found['n']:,} {_COUNTED[name]} ({said} {limit_ms:g} ms). {where}"
    return _with(criterion, Status.PASS if is_met else Status.FAIL, text, estimate=p95_ms, n=found["n"])


def _on_the_replay(document: Mapping[str, Any]) -> str:
    """Return what a runner was fed in the rehearsal, in words."""
    replay = document["replay"]
    hours = replay["n_bars"] * document["bar_ms"] / 3_600_000
    kind = "SIMULATED " if replay["simulated"] else ""
    return (
        f"a real runner that replayed {hours:.3g} h of {kind}{' and '.join(replay['symbols'])} ({replay['part']}) in "
        f"{replay['took_s']:.0f} s"
    )


def _on_the_feed(document: Mapping[str, Any]) -> str:
    """Return where event latency was measured, in words: a replay has no queue that messages leave."""
    return (
        f"a real runner connected to a stand-in for the exchange on the same machine, which makes up trades and quotes "
        f"of {' and '.join(document['feed']['symbols'])}"
    )


def _hot_reload(criterion: Criterion, steps: Sequence[Mapping[str, Any]], machine: str) -> Criterion:
    wrong = [str(step["what"]) for step in steps if not step["is_right"]]
    outcome = (
        f"{len(wrong)} of {len(steps)} steps were not as expected, first: {wrong[0]}"
        if wrong
        else f"all {len(steps)} steps were as expected"
    )
    text = (
        "A real runner on a simulated recording and a stand-in exchange had to take good changes whole, refuse bad "
        f"ones, and go on after a kill: {outcome}. Seen on {machine}."
    )
    return _with(criterion, Status.FAIL if wrong else Status.PASS, text)


def _closure(criterion: Criterion, document: Mapping[str, Any], config: Config) -> Criterion:
    found = document["closure"]
    n, worst = found["n_events"], max(found["errors"].values())
    if found["source"] != "prometheus":
        return _with(
            criterion, Status.NOT_RUN, "Only the exporter was scraped: the dashboard's queries were not asked.", n=n
        )
    least = config.acceptance.min_events
    where = (
        f"Seen by Prometheus {found['prometheus']} in {found['n_scrapes']} scrapes of {_on_the_replay(document)}, on "
        f"{document['machine']}."
    )
    text = f"At most {round(100 * worst, 4):.2g} % of a figure is unexplained over {n} events"
    if found["closed"] and n < least:
        text = f"{text}, but it takes {least} events to tell. {where}"
        return _with(criterion, Status.INSUFFICIENT, text, estimate=worst, n=n)
    status = Status.PASS if found["closed"] else Status.FAIL
    text += "; all figures close. " if found["closed"] else "; not all figures close. "
    return _with(criterion, status, text + where, estimate=worst, n=n)


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
