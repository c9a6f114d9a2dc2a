"""The runner's criteria in a sign-off: which reports are believed, and what they come to."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from v13 import config as configs
from v13 import store
from v13.config import Config
from v13.errors import ConfigError
from v13.measures import Criterion, Status, Verdict
from v13.research.acceptance import PRODUCTION_CRITERIA
from v13.research.live_evidence import (
    CLOSURE_FILE,
    LIVE_CRITERIA,
    REPORT_FILE,
    LiveReport,
    completed,
    completed_from,
    read_report,
)
from v13.store.fingerprint import package_fingerprint

NOW_MS = 1_800_000_000_000
OWN, OTHER = "a" * 64, "b" * 64
CLOSURE = {"version": 1}
CLOSURE_SHA256 = hashlib.sha256(b'{\n  "version": 1\n}\n').hexdigest()  # of that as it is stored


ACCEPTANCE = Verdict.of(
    [
        Criterion("accuracy_10", "Accuracy", Status.PASS),
        *(Criterion.not_run(key, title, threshold=1.0, unit=unit) for key, title, _, unit in PRODUCTION_CRITERIA),
    ]
)


def config() -> Config:
    return configs.load(REPO, None, environ={}).config


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "version": 1,
        "v13_version": "13.0.0",
        "code": package_fingerprint(),
        "machine": "a machine",
        "simulated": True,
        "bar_ms": 1_000,
        "parameters_fingerprint": OWN,
        "files": {"best_global.yaml": OTHER},
        "replay": {
            "symbols": ["BTCUSDT", "ETHUSDT"],
            "n_bars": 5_400,
            "from_ms": 0,
            "to_ms": 5_400_000,
            "simulated": True,
            "part": "the end of the search part",
            "speed": 240.0,
            "took_s": 22.6,
        },
        "feed": {"symbols": ["BTCUSDT"]},
        "closure": {
            "version": 1,
            "sha256": CLOSURE_SHA256,
            "source": "prometheus",
            "prometheus": "2.42.0",
            "n_scrapes": 30,
            "n_events": 120,
            "closed": True,
            "errors": {"events": 1e-14, "scores": 0.002},
        },
        "latency": {
            "compute": {"p95_s": 0.00004, "n": 7_000},
            "event": {"p95_s": 0.0001, "n": 2_000},
            "pipeline": {"p95_s": 0.02, "n": 300},
        },
        "hot_reload": [{"what": "started", "is_right": True}, {"what": "SIGTERM", "is_right": True}],
        "started_ms": NOW_MS - 100_000,
        "ended_ms": NOW_MS - 40_000,
    }
    for path, value in changes.items():
        place = made
        *parents, last = path.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    return copy.deepcopy(made)


def written(folder: Path, **changes: Any) -> Path:
    store.write_json(folder / REPORT_FILE, document(**changes))
    store.write_json(folder / CLOSURE_FILE, CLOSURE)
    return folder


def judged(folder: Path, parameters: str = OWN, **changes: Any) -> dict[str, Criterion]:
    report = read_report(written(folder, **changes), NOW_MS)
    verdict = completed(ACCEPTANCE, report, config(), parameters)
    assert [c.key for c in verdict.criteria] == [c.key for c in ACCEPTANCE.criteria]
    return {c.key: c for c in verdict.criteria}


def test_with_a_good_report_no_criterion_is_left_open(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert {c.status for c in found.values()} == {Status.PASS}
    assert found["event_p95"].estimate == pytest.approx(0.1)
    assert found["closure"].estimate == 0.002
    assert Verdict.of(found.values()).open == ()


@pytest.mark.parametrize(
    ("changes", "key", "status"),
    [
        ({"latency__event__p95_s": 0.0025}, "event_p95", Status.FAIL),
        ({"latency__compute__p95_s": 0.011}, "compute_p95", Status.FAIL),
        ({"latency__pipeline__n": 19}, "pipeline_p95", Status.INSUFFICIENT),
        ({"latency__event__p95_s": None, "latency__event__n": 0}, "event_p95", Status.INSUFFICIENT),
        ({"bar_ms": 60_000}, "compute_p95", Status.NOT_APPLICABLE),
        ({"closure__closed": False}, "closure", Status.FAIL),
        ({"closure__closed": False, "closure__n_events": 3}, "closure", Status.FAIL),
        ({"closure__n_events": 49}, "closure", Status.INSUFFICIENT),
        ({"closure__source": "exporter"}, "closure", Status.NOT_RUN),
        ({"hot_reload": [{"what": "killed", "is_right": False}]}, "hot_reload", Status.FAIL),
    ],
)
def test_each_criterion_is_judged_by_what_was_seen(
    tmp_path: Path, changes: dict[str, Any], key: str, status: Status
) -> None:
    found = judged(tmp_path, **changes)
    assert found[key].status is status
    assert found["accuracy_10"].status is Status.PASS


def test_every_number_says_where_it_was_measured(tmp_path: Path) -> None:
    found = judged(tmp_path, latency__event__p95_s=0.004)
    replay = "a real runner that replayed 1.5 h of SIMULATED BTCUSDT and ETHUSDT (the end of the search part) in 23 s"
    assert {key: found[key].detail for key in LIVE_CRITERIA} == {
        "compute_p95": f"P95 0.04 ms of 7,000 bars (under 10 ms). Measured by {replay}, on a machine.",
        "pipeline_p95": f"P95 20 ms of 300 events (under 100 ms). Measured by {replay}, on a machine.",
        "event_p95": "P95 4 ms of 2,000 messages (not under 2.5 ms). Measured by a real runner connected to a stand-in "
        "for the exchange on the same machine, which makes up trades and quotes of BTCUSDT, on a machine.",
        "closure": "At most 0.2 % of a figure is unexplained over 120 events; all figures close. Seen by Prometheus "
        f"2.42.0 in 30 scrapes of {replay}, on a machine.",
        "hot_reload": "A real runner on a simulated recording and a stand-in exchange had to take good changes whole, "
        "refuse bad ones, and go on after a kill: all 2 steps were as expected. Seen on a machine.",
    }
    recorded = judged(tmp_path, replay__simulated=False, latency__pipeline__n=19)
    assert "h of BTCUSDT and ETHUSDT" in recorded["closure"].detail
    few = recorded["pipeline_p95"].detail
    assert few.startswith("19 events measured, 20 needed. Measured by a real runner that replayed")
    exact = judged(tmp_path, closure__errors={"events": 1e-14})["closure"]
    assert exact.detail.startswith("At most 0 % of a figure is unexplained")
    steps = [{"what": "a", "is_right": True}, {"what": "killed", "is_right": False}]
    assert (
        "1 of 2 steps were not as expected, first: killed." in judged(tmp_path, hot_reload=steps)["hot_reload"].detail
    )


def test_a_report_in_a_run_s_folder_completes_its_verdict_whatever_its_age(tmp_path: Path) -> None:
    assert completed_from(ACCEPTANCE, tmp_path, config(), OWN) is ACCEPTANCE  # there is none
    written(tmp_path, started_ms=1, ended_ms=2)
    found = completed_from(ACCEPTANCE, tmp_path, config(), OWN)
    assert found.open == ()
    assert found == completed(ACCEPTANCE, LiveReport(document(), ()), config(), OWN)


@pytest.mark.parametrize("spoil", ["code", "closure"])
def test_a_report_that_is_not_of_this_code_leaves_its_criteria_open_and_nothing_else(
    tmp_path: Path, spoil: str
) -> None:
    written(tmp_path, **({"code": OTHER} if spoil == "code" else {}))
    if spoil == "closure":
        (tmp_path / CLOSURE_FILE).unlink()
    found = completed_from(ACCEPTANCE, tmp_path, config(), OWN)
    assert [c.key for c in found.open] == list(LIVE_CRITERIA)
    assert found.overall is Status.PASS
    for criterion in found.open:
        assert "not to be believed: " in criterion.detail
        assert str(tmp_path) not in criterion.detail  # pages hold no folders of the machine


def test_other_parameters_have_shown_nothing_of_these(tmp_path: Path) -> None:
    found = judged(tmp_path, parameters=OTHER)
    assert {c.status for key, c in found.items() if key != "accuracy_10"} == {Status.NOT_RUN}
    assert "The runner ran parameters aaaaaaaaaaaa, these are bbbbbbbbbbbb" in found["closure"].detail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": OTHER}, r"of code bbbbbbbbbbbb, expected \w{12}, this one"),
        ({"ended_ms": NOW_MS - 8 * 86_400_000, "started_ms": 0}, "is 8 days old, expected at most 7"),
        ({"ended_ms": NOW_MS + 600_000}, "expected started_ms <= ended_ms <= now"),
        ({"started_ms": NOW_MS}, "expected started_ms <= ended_ms <= now"),
        ({"version": 2}, "version"),
        ({"latency__event__p95_s": -1.0}, "p95_s"),
    ],
)
def test_a_report_that_is_not_to_be_believed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_report(written(tmp_path, **changes), NOW_MS)


def test_a_folder_without_report_or_closure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=REPORT_FILE):
        read_report(tmp_path, NOW_MS)
    written(tmp_path)
    store.write_json(tmp_path / CLOSURE_FILE, {"version": 1, "closed": True})
    with pytest.raises(ConfigError, match=rf"{CLOSURE_FILE} beside it is missing, or not the one the report is of"):
        read_report(tmp_path, NOW_MS)
    (tmp_path / CLOSURE_FILE).unlink()
    with pytest.raises(ConfigError, match=rf"{CLOSURE_FILE} beside it is missing"):
        read_report(tmp_path, NOW_MS)
