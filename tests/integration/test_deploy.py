"""Deploys and rollbacks with real Prometheus, Alertmanager, supervisord and runners: what goes through, what is
refused, what is taken back, and what is left after a kill.

All tests share one stage; each takes it as it finds it and leaves a release that serves.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.deploy_stage import (
    begun,
    killed,
    owed,
    ran,
    settled,
    shown_config,
    stage,
    steps_over,
    unserved_bars,
    until,
)
from v13.errors import EXIT_GATE, EXIT_OK, EXIT_USAGE, ReleaseError, V13Error
from v13.rehearsal.faults import spoilt_code
from v13.release import runners
from v13.release.backup import BACKUP_FILE, list_backups, read_backup
from v13.release.conclusion import conclude
from v13.release.deploy import deploy, plan
from v13.release.folders import remove_folder
from v13.release.keys import make_key
from v13.release.rig import Rig, SystemClock
from v13.release.rollback import roll_back
from v13.release.served import served_events
from v13.release.status import status
from v13.release.trust import ENVELOPE_FILE, sign_bundle
from v13.store.event_standing import standing

SEED = 13
MINUTES = 20  # of market: more than a busy machine takes for all of this
KILLS = 3

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("deploy")]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    for name in ("prometheus", "prometheus-alertmanager", "promtool"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}: apt-get install prometheus prometheus-alertmanager")
    with stage(tmp_path_factory.mktemp("stage"), minutes=MINUTES, say=print) as made:
        yield made


def running(rig: Rig) -> set[str]:
    return {p.name for p in rig.supervisor.states() if p.state in ("running", "starting")}


def in_step(rig: Rig) -> None:
    """Demand that one release serves all symbols, and that no event was missed or counted twice since the beginning."""
    state = rig.ledger.state()
    assert state.open is None
    assert {state.serves(symbol) for symbol in rig.site.symbols} == {state.stable}
    until(lambda: status(rig).is_consistent, f"what runs is what the ledger says: {status(rig).text()}")
    assert running(rig) == {f"runner-{state.stable}", f"closure-{state.stable}", "guard"}
    assert rig.site.current.resolve() == rig.site.release(str(state.stable))
    serving = rig.ledger.state().serving
    until_ms = min(standing(rig.site.event_log(str(state.stable))).bars.values())  # both below read up to here
    expected = [row for row in owed(rig.site, serving) if row[0] <= until_ms]
    found = [
        (row["ts_ms"], row["symbol"], row["event_id"], row["release"])
        for row in served_events(rig.site, serving).iter_rows(named=True)
        if row["ts_ms"] <= until_ms
    ]
    assert sorted(found) == expected
    ids = [row[2] for row in found]
    assert len(ids) == len(set(ids)) > 0
    for symbol in rig.site.symbols:
        assert unserved_bars(rig.site, serving, symbol) == []


def test_a_good_release_goes_through_all_stages_and_the_record_proves_it(rig: Rig) -> None:
    first = settled(rig)
    second = deploy(rig, "a good one")
    assert (second.outcome, second.why) == ("completed", "all symbols are over")
    state = rig.ledger.state()
    assert state.operation is not None
    assert list(state.operation.done) == plan(rig)
    assert state.stable == second.release != first
    releases = [a.release for a in state.serving]
    assert {first, second.release} <= set(releases)
    in_step(rig)

    folder = conclude(rig, second.operation)
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["outcome"] == "completed"
    assert record["releases"] == {"new": second.release, "before": first}
    rows = {row.n: row.record for row in rig.ledger.rows()}
    boxes = {box["key"]: box for part in record["checklists"] for box in part["boxes"]}
    proved = {"files", "packages", "acceptance", "monitoring", "preflight", "canary", "healthy", "works", "rules"}
    assert proved <= {key for key, box in boxes.items() if box["ticked"]}
    assert not boxes["stable"]["ticked"]  # 30 minutes are not over
    assert not boxes["users"]["ticked"]  # only people can say
    for box in boxes.values():
        if box["ticked"]:
            assert box["evidence"]
            assert box["rows"]
            assert {rows[n]["key"] for n in box["rows"]} == {second.operation}
    for one in record["attachments"]:
        assert (folder / "attachments" / one["name"]).stat().st_size == one["n_bytes"]
    assert {"manifest.json", "signoff.json", ENVELOPE_FILE} <= {Path(o["name"]).name for o in record["attachments"]}


def test_a_slow_release_is_taken_back_by_itself_and_the_one_before_serves(rig: Rig) -> None:
    good = settled(rig)
    port = rig.ledger.state().slots[good]
    spoilt = rig.site.root / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    bad = deploy(replace(rig, code=spoilt_code(spoilt, "slow")), "a slow one")
    assert bad.outcome in ("rolled_back", "superseded"), bad.why  # by the deployer, or by the guard
    until(lambda: rig.ledger.state().open is None, "the rollback is over")
    state = rig.ledger.state()
    last = state.operation
    assert last is not None
    assert (last.kind, last.outcome, last.facts["type"], last.facts["good"]) == (
        "rollback",
        "rolled_back",
        "automatic",
        good,
    )
    assert "atency" in last.facts["reason"]
    assert last.facts["bad"] in state.condemned
    assert state.stable == good
    assert state.slots[good] == port  # it never stopped
    shown, logged = shown_config(rig, good, port)
    assert shown
    assert logged.startswith(shown)
    in_step(rig)


def test_an_emergency_stop_is_verified_in_time_and_a_backup_brings_service_back_in_time(rig: Rig) -> None:
    stable = settled(rig)
    port = rig.ledger.state().slots[stable]
    backed_up = [s for s in list_backups(rig.site) if read_backup(rig.site, s)["release"] == stable]
    pid = rig.supervisor.state(f"runner-{stable}").pid
    assert pid is not None
    stopped = roll_back(rig, kind="emergency", reason="a test of the alarm button")
    assert (stopped.outcome, stopped.problems, stopped.target.good) == ("stopped", (), None)
    operation = rig.ledger.state().operation
    assert operation is not None
    assert operation.done["stop"]["seconds"] <= rig.site.config.deploy.emergency_s
    assert not Path(f"/proc/{pid}").exists()
    assert running(rig) == {"guard"}
    assert isinstance(runners.ask(rig.site, port), str)

    remove_folder(rig.site.release(stable))  # what is restored comes from the backup
    restored = roll_back(rig, kind="full", reason="go back", stamp=backed_up[-1])
    assert (restored.outcome, restored.target.good, restored.target.stamp) == ("rolled_back", stable, backed_up[-1])
    assert restored.seconds <= rig.site.config.deploy.rollback_s
    shown, logged = shown_config(rig, stable, rig.ledger.state().slots[stable])
    assert shown
    assert logged.startswith(shown)
    assert rig.ledger.state().stable == stable
    until(lambda: status(rig).is_consistent, f"consistent: {status(rig).text()}")


@contextmanager
def instead(path: Path, data: bytes) -> Iterator[None]:
    """Have other bytes in a file for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def _artifact(rig: Rig) -> Any:
    path = rig.site.root / "runs/real_test/best_global.yaml"
    return instead(path, path.read_bytes() + b"\n")


def _signed_artifact(rig: Rig) -> Any:
    path = rig.site.signoff / "artifacts/best_global.yaml"
    return instead(path, path.read_bytes() + b"\n")


def _manifest(rig: Rig) -> Any:
    path = rig.site.signoff / "manifest.json"
    return instead(path, path.read_bytes().replace(b'"version"', b'"Version"', 1))


def _manifest_path(rig: Rig) -> Any:
    path = rig.site.signoff / "manifest.json"
    document = json.loads(path.read_bytes())
    document["outputs"]["../../outside.json"] = next(iter(document["outputs"].values()))
    return instead(path, json.dumps(document).encode())


def _timestamp(rig: Rig) -> Any:
    path = rig.site.signoff / "manifest.json"
    document = json.loads(path.read_bytes())
    document["created_utc"] = (datetime.now(UTC) + timedelta(days=2)).isoformat(timespec="seconds")
    return instead(path, json.dumps(document).encode())


@contextmanager
def _key(rig: Rig) -> Iterator[None]:
    other = rig.site.root / "other/signoff"
    other.parent.mkdir(exist_ok=True)
    if not other.exists():
        make_key(other, b"a passphrase of somebody else")
    with instead(rig.site.signoff / ENVELOPE_FILE, (rig.site.signoff / ENVELOPE_FILE).read_bytes()):
        sign_bundle(rig.site.signoff, other, b"a passphrase of somebody else")
        yield


def _config(rig: Rig) -> Any:
    path = rig.site.root / "config/environments/testing.yaml"
    return instead(path, path.read_bytes() + b"exporters:\n  port: 1\n")


BAD: dict[str, tuple[Callable[[Rig], Any], set[str]]] = {
    "an artifact that was changed": (_artifact, {"artifacts"}),
    "a signed artifact that was changed": (_signed_artifact, {"bundle", "signature"}),
    "a manifest that was changed": (_manifest, {"signature"}),
    "a manifest that leads outside": (_manifest_path, {"bundle", "signature"}),
    "a key nobody trusts": (_key, {"signature"}),
    "a timestamp of the future": (_timestamp, {"signature"}),
    "a setting nobody knows": (_config, {"config_files"}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_as_it_was_signed_off_is_refused_before_anything_runs(rig: Rig, what: str) -> None:
    stable = settled(rig)
    change, expected = BAD[what]
    before, folders = running(rig), set(rig.site.home.joinpath("releases").iterdir())
    with change(rig):
        refused = deploy(rig, what)
    failed = {r.key for r in refused.checks if r.status == "failed"}
    assert refused.outcome == "refused"
    assert expected <= failed
    _nothing_moved(rig, stable, before, folders)


@dataclass
class LateClock(SystemClock):
    """The machine's clock, some days later."""

    days: int

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)


def test_a_sign_off_that_has_expired_is_refused_before_anything_runs(rig: Rig) -> None:
    stable = settled(rig)
    before, folders = running(rig), set(rig.site.home.joinpath("releases").iterdir())
    late = int(rig.site.config.deploy.max_signoff_age_d) + 400
    refused = deploy(replace(rig, clock=LateClock(late)), "too late")
    assert refused.outcome == "refused"
    assert {"age", "signature"} <= {r.key for r in refused.checks if r.status == "failed"}
    _nothing_moved(rig, stable, before, folders)


def _nothing_moved(rig: Rig, stable: str, before: set[str], folders: set[Path]) -> None:
    state = rig.ledger.state()
    assert (state.stable, state.candidate, state.open) == (stable, None, None)
    assert running(rig) == before
    assert set(rig.site.home.joinpath("releases").iterdir()) == folders
    assert status(rig).is_consistent


def test_a_backup_that_leads_elsewhere_is_refused_before_anything_stops(rig: Rig) -> None:
    stable = settled(rig)
    before = running(rig)
    backups = rig.site.backups
    known = list_backups(rig.site)[-1]
    forged = backups / "17"
    shutil.copytree(rig.site.backup(known), forged)
    for path in (forged, *forged.iterdir()):
        path.chmod(0o755)
    document = json.loads((forged / BACKUP_FILE).read_bytes()) | {"stamp": 17, "release": "../../outside"}
    (forged / BACKUP_FILE).write_text(json.dumps(document), encoding="utf-8")
    (backups / "18").symlink_to(rig.site.backup(known))
    try:
        for stamp in (17, 18, 19, -1):
            with pytest.raises(V13Error):
                roll_back(rig, kind="full", reason="forged", stamp=stamp)
        for text in ("../17", "17/../18", "1e3"):
            asked = ran(rig, "rollback", "--type", "full", "--reason", "x", "--backup-timestamp", text)
            assert asked.returncode == EXIT_USAGE
            assert "--backup-timestamp" in asked.stderr
    finally:
        (backups / "18").unlink()
        remove_folder(forged)
    state = rig.ledger.state()
    assert (state.stable, state.open) == (stable, None)
    assert running(rig) == before
    assert status(rig).is_consistent


@contextmanager
def worker(rig: Rig, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `v13 deploy ...` beside the test, and have it gone afterwards."""
    with begun(rig, "deploy", *arguments) as process:
        try:
            until(lambda: is_worker(rig, process.pid) or process.poll() is not None, "it carries the deploy out")
            assert process.poll() is None, process.communicate()[0]
            yield process
        finally:
            process.kill()


def is_worker(rig: Rig, pid: int) -> bool:
    running = rig.ledger.state().open
    return running is not None and running.worker.pid == pid


def _has_come(rig: Rig, process: subprocess.Popen[str], n_steps: int) -> bool:
    return steps_over(rig) >= n_steps or process.poll() is not None


def _is_another(rig: Rig, name: str, pid: int | None) -> bool:
    return rig.supervisor.state(name).pid not in (None, pid)


def test_a_second_operator_is_refused_and_a_killed_deployer_is_resumed_to_one_release(rig: Rig) -> None:
    dice = random.Random(SEED)
    before = settled(rig)
    n_steps = len(plan(rig))
    points = sorted(dice.sample(range(1, n_steps - 1), KILLS))
    print(f"seed {SEED}: killed after {points} of {n_steps} steps")
    arguments: tuple[str, ...] = ("run", "--reason", "killed on the way")
    for point in points:
        with worker(rig, *arguments) as process:
            until(partial(_has_come, rig, process, point), f"step {point} is over")
            assert process.poll() is None, process.communicate()[0]
            if point == points[0]:
                with pytest.raises(ReleaseError, match="is not over"):
                    deploy(rig, "a second operator")
                with pytest.raises(ReleaseError, match="alive"):
                    rig.ledger.resume()
                other = ran(rig, "deploy", "run", "--reason", "a second operator")
                assert other.returncode not in (EXIT_OK, EXIT_GATE)
                assert "is not over" in other.stderr
            killed(process.pid)
            process.wait()
        told = status(rig)
        assert told.operation is not None
        assert "is gone; `v13 deploy resume` goes on" in told.operation["state"]
        arguments = ("resume",)
    last = ran(rig, "deploy", "resume")
    assert last.returncode == EXIT_OK, last.stdout + last.stderr
    state = rig.ledger.state()
    assert state.operation is not None
    assert (state.operation.outcome, list(state.operation.done)) == ("completed", plan(rig))
    assert state.stable != before
    in_step(rig)


def test_a_killed_runner_and_guard_come_back_and_without_a_supervisor_it_is_said(rig: Rig) -> None:
    stable = settled(rig)
    for name in (f"runner-{stable}", "guard"):
        pid = rig.supervisor.state(name).pid
        killed(pid)
        until(partial(_is_another, rig, name, pid), f"{name} runs again")
    until(lambda: status(rig).is_consistent, f"consistent: {status(rig).text()}")

    pids = {name: rig.supervisor.state(name).pid for name in running(rig)}
    until(lambda: rig.supervisor.state("guard").state == "running", "the guard is started")
    daemon = int((rig.site.home / "supervisor/supervisord.pid").read_text(encoding="ascii"))
    killed(rig.supervisor.state("guard").pid)  # it would start a supervisor again by itself
    killed(daemon)
    told = status(rig)
    assert not told.is_consistent
    asked = ran(rig, "deploy", "status")
    assert asked.returncode == EXIT_GATE
    assert "PROBLEM" in asked.stdout
    up = ran(rig, "deploy", "up")
    assert up.returncode == EXIT_OK, up.stderr
    until(lambda: running(rig) == set(pids), "all that ran runs again")
    until(lambda: status(rig).is_consistent, f"consistent: {status(rig).text()}")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
