"""Each check before a deploy: good on a small site, and failed on each thing that can be wrong with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from tests.unit.release.small_site import MADE, NOW, Servers, SmallSite, criterion, make_signer, servers
from v13 import store
from v13.release import check, check_artifacts, check_machine, check_servers
from v13.release.backup import make_backup
from v13.release.build import build_release
from v13.release.check import CHECKS, may_be_overridden, override_folder, run_checks
from v13.release.check_result import exit_code, summary, table, to_json
from v13.release.check_scene import Finding, Scene
from v13.release.kernel_clock import KernelClock
from v13.release.ledger import DeployLedger, State
from v13.release.orphans import marks
from v13.release.overrides import write_override
from v13.release.ports import free_port, holder, is_free

SYNCHRONISED = KernelClock(is_synchronised=True, max_error_s=0.01)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[CryptoSigner, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return make_signer(folder), folder / "signoff.pub"


@pytest.fixture
def web() -> Iterator[Servers]:
    with servers() as state:
        yield state


@pytest.fixture
def small(tmp_path: Path, keys: tuple[CryptoSigner, Path], web: Servers, monkeypatch: pytest.MonkeyPatch) -> SmallSite:
    monkeypatch.setattr(check_machine, "kernel_clock", lambda: SYNCHRONISED)
    ports = list(dict.fromkeys(free_port() for _ in range(20)))[:3]
    return SmallSite(tmp_path / "root", keys[0], keys[1], web.url, ports)


def test_all_checks_of_a_sound_site_are_ok_and_say_what_they_saw(small: SmallSite) -> None:
    found = small.checks()
    assert list(found) == [c.key for c in CHECKS]
    # promtool may not be installed; Grafana is declared absent.
    assert {k for k, r in found.items() if r.status != "ok"} <= {"rules", "grafana"}
    assert found["grafana"].status == "not_applicable"
    assert all(r.evidence and not r.remedy and r.title_zh and r.box for r in found.values())
    manifest = store.sha256_file(small.bundle / "manifest.json")
    assert manifest[:12] in found["bundle"].evidence
    assert manifest[:12] in found["signature"].evidence
    assert store.sha256_file(small.calibration)[:12] in found["artifacts"].evidence
    assert "3.0 days ago; at most 90" in found["age"].evidence
    assert "BTCUSDT 86,400 bars" in found["recorded_data"].evidence
    assert "first deploy" in found["backups"].evidence
    assert exit_code(list(found.values())) == 0


def test_the_checks_change_nothing(small: SmallSite) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in small.root.rglob("*") if p.is_file()}

    before = content()
    small.checks()
    assert content() == before


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("runs/real_test/best_global.yaml", "artifacts"),
        ("runs/real_test/best_by_bucket.yaml", "artifacts"),
        ("config/calibration/divergence_score_calibration.json", "artifacts"),
        ("runs/metrics_test/prometheus_divergence.yml", "monitoring_files"),
        ("runs/metrics_test/divergence_metrics_exporter.py", "monitoring_files"),
        ("runs/metrics_test/dashboards/divergence_overview.json", "monitoring_files"),
        ("runs/metrics_test/alerting_rules/divergence_alerts.yaml", "monitoring_files"),
        ("runs/metrics_test/alerting_rules/production_slo_alerts.yaml", "monitoring_files"),
        ("config/slo.yaml", "config_files"),
        ("requirements.lock", "dependencies"),
        ("reports/signed/signoff.json", "bundle"),
        ("reports/signed/manifest.json", "bundle"),
        ("reports/signed/artifacts/best_global.yaml", "bundle"),
        ("reports/signed/signoff.dsse.json", "signature"),
        ("config/keys/signoff.pub", "signature"),
    ],
)
def test_a_missing_file_is_named_by_its_check(small: SmallSite, name: str, key: str) -> None:
    (small.root / name).unlink()
    found = small.check(key)
    assert found.status == "failed"
    assert Path(name).name in found.evidence
    assert found.remedy


@pytest.mark.parametrize(
    "name",
    ["runs/real_test/best_global.yaml", "runs/real_test/best_by_bucket.yaml", "config/system.yaml"],
)
def test_one_more_byte_than_was_signed_off_is_seen(small: SmallSite, name: str) -> None:
    path = small.root / name
    signed = store.sha256_file(path)
    path.write_bytes(path.read_bytes() + b"\n")
    found = small.check("config_files" if "system" in name else "artifacts")
    assert found.status == "failed"
    assert name in found.evidence
    assert signed[:12] in found.evidence


def test_an_environment_that_was_not_signed_off_is_refused_in_production_and_told_elsewhere(
    small: SmallSite,
) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        del manifest["inputs"]["config: production.yaml"]

    path = small.bundle / "manifest.json"
    manifest = store.read_json(path)
    forget(manifest)
    store.write_json(path, manifest)
    found = small.check("config_files")
    assert found.status == "failed"
    assert "production.yaml" in found.evidence
    small.env = "testing"  # the bundle names production.yaml, or nothing
    found = small.check("config_files")
    assert found.status == "ok"
    assert "testing.yaml" in found.evidence
    assert "not the sign-off's environment" in found.evidence


def test_a_calibration_that_is_none_is_refused_by_its_schema(small: SmallSite) -> None:
    store.write_json(small.calibration, {"version": 2})
    small.sign_off()
    found = small.check("artifacts")
    assert found.status == "failed"
    assert "calibration.schema.json" in found.evidence


def test_signed_parameters_that_are_not_those_the_verdict_is_of_are_refused(small: SmallSite) -> None:
    small.sign_off(lambda d: d.update(parameters_fingerprint="cd" * 32))
    found = small.check("artifacts")
    assert found.status == "failed"
    assert "cdcdcdcdcdcd" in found.evidence


def test_rules_that_do_not_follow_from_the_slo_table_are_stale(small: SmallSite) -> None:
    path = small.root / "config/slo.yaml"
    path.write_text(path.read_text("utf-8").replace("above: 0.005, for: 15m", "above: 0.006, for: 15m"), "utf-8")
    found = small.check("monitoring_files")
    assert found.status == "failed"
    assert "production_slo_alerts.yaml" in found.evidence
    assert "v13 monitoring build" in found.remedy
    small.build_monitoring()
    assert small.check("monitoring_files").status == "ok"


def test_packages_other_than_locked_are_listed_with_both_versions(small: SmallSite) -> None:
    small.lock("Some_Package==1.0", "numpy==0.1", "far-away==2 ; sys_platform == 'win32'")
    found = small.check("dependencies")
    assert found.status == "failed"
    assert "some-package is missing, locked is 1.0" in found.evidence  # names are normalised
    assert ", locked is 0.1" in found.evidence
    assert "far-away" not in found.evidence  # markers are honoured


def test_a_lock_that_is_none_is_named_with_its_line(small: SmallSite) -> None:
    store.write_text(small.root / "requirements.lock", "numpy==2.0\nnumpy>=3\n")
    found = small.check("dependencies")
    assert found.status == "failed"
    assert "requirements.lock:2" in found.evidence


def test_a_bundle_with_one_changed_byte_is_not_looked_into(small: SmallSite) -> None:
    path = small.bundle / "signoff.json"
    path.write_text(path.read_text("utf-8").replace('"PASS"', '"FAIL"'), "utf-8")
    found = small.checks()
    keys = ("bundle", "signature", "verdict", "recorded_data", "age", "criteria", "artifacts", "config_files")
    assert all(found[key].status == "failed" for key in keys)
    assert "signoff.json" in found["bundle"].evidence


def test_a_verdict_that_does_not_follow_from_its_criteria_is_refused(small: SmallSite) -> None:
    small.sign_off(lambda d: d["criteria"].append(criterion("plateau", "FAIL")))
    found = small.checks()
    assert found["bundle"].status == "failed"
    assert "its criteria come to FAIL" in found["bundle"].evidence


def test_a_foreign_key_is_not_trusted(small: SmallSite, tmp_path: Path) -> None:
    small.signer = make_signer(tmp_path / "foreign")
    small.sign_off()
    found = small.checks()
    assert found["bundle"].status == "ok"
    assert found["signature"].status == "failed"


def test_an_unsigned_bundle_passes_only_where_that_is_allowed(small: SmallSite) -> None:
    small.unsign()
    assert small.check("signature").status == "failed"
    small.env = "testing"
    small.environ["V13__DEPLOY__REQUIRE_SIGNATURE"] = "false"
    assert small.check("signature").status == "not_applicable"


@pytest.mark.parametrize("status", ["FAIL", "INSUFFICIENT"])
def test_only_a_pass_is_deployed(small: SmallSite, status: str) -> None:
    def spoil(document: dict[str, Any]) -> None:
        document["criteria"][0] = criterion("accuracy_10", status)
        document["verdict"] = status

    small.sign_off(spoil)
    found = small.checks()
    assert found["bundle"].status == "ok"
    assert found["verdict"].status == "failed"
    assert f"{status}: accuracy_10" in found["verdict"].evidence


def test_simulated_data_pass_only_where_they_are_allowed_and_never_in_production(small: SmallSite) -> None:
    small.sign_off(simulated=True)
    assert small.check("recorded_data").status == "failed"
    small.env = "testing"
    assert small.check("recorded_data").status == "failed"
    small.environ["V13__DEPLOY__ALLOW_SIMULATED"] = "true"
    found = small.check("recorded_data")
    assert found.status == "ok"
    assert "SIMULATED" in found.evidence


def test_a_simulated_recording_among_recorded_ones_is_seen(small: SmallSite) -> None:
    small.sign_off(lambda d: d["data"][0].update(simulated=True))
    assert small.check("recorded_data").status == "failed"


@pytest.mark.parametrize(
    ("made", "is_ok", "words"),
    [
        (NOW - timedelta(days=90), True, "90.0 days ago"),
        (NOW - timedelta(days=90, seconds=1), False, "90.0 days ago"),
        (NOW + timedelta(seconds=2), True, "at most 90"),
        (NOW + timedelta(seconds=3), False, "a time that has not come"),
    ],
)
def test_a_sign_off_expires_and_cannot_be_of_the_future(small: SmallSite, made: Any, is_ok: bool, words: str) -> None:
    small.sign_off(made=made, signed=max(made, MADE))
    found = small.check("age")
    assert (found.status == "ok") is is_ok
    assert words in found.evidence
    assert is_ok or found.remedy


def test_a_time_without_its_zone_is_no_time(small: SmallSite) -> None:
    path = small.bundle / "manifest.json"
    store.write_json(path, store.read_json(path) | {"created_utc": "2026-02-26T12:00:00"})
    assert small.check("age").status == "failed"


@pytest.mark.parametrize("status", ["NOT RUN", "NOT APPLICABLE", None])
def test_production_wants_every_criterion_of_the_guide_judged(small: SmallSite, status: str | None) -> None:
    def leave(document: dict[str, Any]) -> None:
        document["criteria"] = [c for c in document["criteria"] if c["key"] != "closure"]
        if status:
            document["criteria"].append(criterion("closure", status))

    small.sign_off(leave)
    found = small.check("criteria")
    assert found.status == "failed"
    assert f"closure {status or 'missing'}" in found.evidence
    small.env = "testing"
    found = small.check("criteria")
    assert found.status == "ok"
    assert "closure" in found.evidence


def test_a_criterion_of_our_own_that_has_no_meaning_here_blocks_nothing(small: SmallSite) -> None:
    small.sign_off(lambda d: d["criteria"].append(criterion("calibration", "NOT APPLICABLE")))
    assert small.check("criteria").status == "ok"
    small.sign_off(lambda d: d["criteria"].append(criterion("noise_certificate", "NOT RUN")))
    assert small.check("criteria").status == "failed"


@pytest.mark.parametrize("key", ["prometheus", "alertmanager", "grafana"])
def test_a_server_that_is_not_there_not_ready_or_another_one_fails(
    small: SmallSite, web: Servers, key: str, tmp_path: Path
) -> None:
    store.write_text(tmp_path / "token", "secret-token\n")
    small.environ |= {"V13__DEPLOY__GRAFANA": web.url, "V13_GRAFANA_TOKEN_FILE": str(tmp_path / "token")}
    good = dict(web.replies)
    ready = "/api/health" if key == "grafana" else "/-/ready"
    assert small.check(key).status == "ok"
    for status, words in ((503, "not ready"), (401, "who asks"), (302, "not ready")):
        web.replies = good | {ready: (status, b"")}
        found = small.check(key)
        assert (found.status, words in found.evidence) == ("failed", True)
    web.replies = dict.fromkeys(good, (200, b"hello"))
    assert "another server" in small.check(key).evidence
    web.replies = dict.fromkeys(good, (200, b"x" * (check_servers.MAX_BYTES + 1)))
    assert "short answer" in small.check(key).evidence
    small.environ[f"V13__DEPLOY__{key.upper()}"] = f"http://127.0.0.1:{free_port()}"
    assert "no answer" in small.check(key).evidence
    small.environ[f"V13__DEPLOY__{key.upper()}"] = "null"
    # Without Prometheus nothing could be observed; the others may be declared absent.
    assert small.check(key).status == ("failed" if key == "prometheus" else "not_applicable")


def test_grafana_needs_a_token_and_the_token_is_never_shown(small: SmallSite, web: Servers, tmp_path: Path) -> None:
    small.environ["V13__DEPLOY__GRAFANA"] = web.url
    assert "V13_GRAFANA_TOKEN_FILE is not set" in small.check("grafana").evidence
    small.environ["V13_GRAFANA_TOKEN_FILE"] = str(tmp_path / "none")
    assert "names no file" in small.check("grafana").evidence
    store.write_text(tmp_path / "token", "secret-token\n")
    small.environ["V13_GRAFANA_TOKEN_FILE"] = str(tmp_path / "token")
    found = small.checks()
    assert found["grafana"].status == "ok"
    assert "secret-token" not in json.dumps(to_json(list(found.values())))


def test_without_promtool_the_rules_are_not_judged(small: SmallSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = small.check("rules")
    assert found.status == "not_applicable"
    assert "promtool is not installed" in found.evidence


def test_a_port_of_a_stranger_fails_and_the_stranger_is_named(small: SmallSite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        small.environ["V13__DEPLOY__GUARD_PORT"] = str(port)
        found = small.check("ports")
        assert found.status == "failed"
        assert f"127.0.0.1:{port} is held by" in found.evidence
        assert f"(process {os.getpid()})" in found.evidence
    assert small.check("ports").status == "ok"


def test_a_port_of_our_own_runner_is_fine(small: SmallSite) -> None:
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", listen + "sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | marks(small.site().home, "runner-20260301T120000Z-ab"),
    ) as runner:
        assert runner.stdout is not None
        port = runner.stdout.readline().strip()
        small.environ["V13__DEPLOY__PORTS"] = f"[{port}, {free_port()}]"
        found = small.check("ports")
        assert found.status == "ok"
        assert f"{port} held by our runner-20260301T120000Z-ab (process {runner.pid})" in found.evidence
        runner.communicate("")


def test_a_port_says_whether_it_is_free_and_who_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        by = holder(port)
        assert by is not None
        assert by.pid == os.getpid()
    assert is_free("127.0.0.1", port)
    assert holder(port) is None


def test_too_little_disk_fails_with_both_numbers(small: SmallSite) -> None:
    small.environ["V13__DEPLOY__MIN_FREE_MB"] = "900000000"
    found = small.check("disk")
    assert found.status == "failed"
    assert "at least 900,000,000 are needed" in found.evidence


def test_a_place_that_cannot_be_written_to_fails(small: SmallSite) -> None:
    store.write_text(small.root / "runs/deploy", "a file in the way of the folder")
    found = small.check("disk")
    assert found.status == "failed"
    assert "cannot be written to" in found.evidence


def released(small: SmallSite, tmp_path: Path) -> str:
    """Build a release with little code and back it up; return its name."""
    store.write_text(tmp_path / "code/v13/__init__.py", "")
    name = "20260301T110000Z-abcdef01"
    build_release(small.site(), name, code=tmp_path / "code")
    make_backup(small.site(), State(stable=name), name, "a test", NOW)
    return name


def test_backups_are_checked_byte_by_byte(small: SmallSite, tmp_path: Path) -> None:
    released(small, tmp_path)
    stamp = int(NOW.timestamp())
    found = small.check("backups")
    assert found.status == "ok"
    assert f"the newest is {stamp}" in found.evidence
    victim = small.site().backup(stamp) / "release/runs/real_test/best_global.yaml"
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes() + b"#")
    found = small.check("backups")
    assert found.status == "failed"
    assert f"{stamp}: " in found.evidence
    assert "best_global.yaml" in found.evidence


def test_a_backup_with_a_file_too_many_or_without_its_list_is_not_restorable(small: SmallSite, tmp_path: Path) -> None:
    released(small, tmp_path)
    folder = small.site().backup(int(NOW.timestamp()))
    folder.chmod(0o755)
    store.write_text(folder / "extra.py", "import os\n")
    assert "extra.py" in small.check("backups").evidence
    (folder / "extra.py").unlink()
    (folder / "backup.json").chmod(0o644)
    (folder / "backup.json").write_text("[]", "utf-8")
    assert small.check("backups").status == "failed"


def test_another_operation_under_way_fails_but_not_ones_own(small: SmallSite) -> None:
    ledger = DeployLedger(small.site().ledger, small.now)
    claim = ledger.begin("deploy", {"reason": "a test"})
    found = small.check("operation")
    assert found.status == "failed"
    assert claim.operation in found.evidence
    assert small.check("operation", operation=claim.operation).status == "ok"
    ledger.end(claim, "stopped", "a test")
    assert small.check("operation").status == "ok"


def test_a_ledger_that_was_changed_fails(small: SmallSite) -> None:
    store.write_text(small.site().ledger, "no database at all, but long enough to be read as one" * 20)
    found = small.checks()
    assert found["operation"].status == "failed"
    assert found["clock"].status == "failed"


@pytest.mark.parametrize(("off_s", "is_ok"), [(0, True), (2, True), (-2, True), (4, False), (-4, False)])
def test_a_clock_that_differs_from_others_by_more_than_two_seconds_fails(
    small: SmallSite, web: Servers, off_s: int, is_ok: bool
) -> None:
    web.date = NOW + timedelta(seconds=off_s)
    found = small.check("clock")
    assert (found.status == "ok") is is_ok
    assert is_ok or "its clock differs by" in found.evidence


def test_a_server_without_a_time_says_nothing_about_the_clock(small: SmallSite, web: Servers) -> None:
    web.date = None
    found = small.check("clock")
    assert found.status == "ok"
    assert "gave no time" in found.evidence


@pytest.mark.parametrize("kernel", [None, KernelClock(is_synchronised=False, max_error_s=16.0)])
def test_in_production_somebody_has_to_vouch_for_the_clock(
    small: SmallSite, monkeypatch: pytest.MonkeyPatch, kernel: KernelClock | None
) -> None:
    monkeypatch.setattr(check_machine, "kernel_clock", lambda: kernel)
    assert small.check("clock").status == "failed"  # all servers are on this machine: they have its clock
    monkeypatch.setattr(check_machine, "_is_here", lambda _: False)
    assert small.check("clock").status == "ok"
    monkeypatch.undo()
    monkeypatch.setattr(check_machine, "kernel_clock", lambda: kernel)
    small.env = "testing"
    found = small.check("clock")
    assert found.status == "ok"
    assert "no clock outside this machine confirms it" in found.evidence


def test_a_wall_clock_that_jumps_while_it_is_looked_at_fails(small: SmallSite) -> None:
    looks = count()
    small.monotonic_s = lambda: 7.0 if next(looks) == 0 else 17.0
    found = small.check("clock")
    assert found.status == "failed"
    assert "put back by 10.0 s" in found.evidence


def test_a_clock_before_the_sign_off_or_the_ledger_fails(small: SmallSite, web: Servers) -> None:
    web.date = None
    small.now = lambda: MADE - timedelta(hours=1)
    assert "the sign-off is dated" in small.check("clock").evidence
    DeployLedger(small.site().ledger, lambda: NOW + timedelta(hours=1)).note("alarm", {"what": "a test"})
    small.now = lambda: NOW
    assert "the last row of the ledger is dated" in small.check("clock").evidence


def override(small: SmallSite, key: str, signer: CryptoSigner | None = None, days: float = 1.0) -> Path:
    return write_override(
        override_folder(small.site()),
        signer or small.signer,
        check=key,
        bundle_sha256=store.sha256_file(small.bundle / "manifest.json"),
        reason="a stated reason of the test",
        now=NOW,
        valid_days=days,
    )


def test_a_signed_override_lets_one_named_check_pass_and_is_shown(small: SmallSite) -> None:
    small.lock("some-package==1.0")
    override(small, "dependencies")
    found = small.checks()
    one = found["dependencies"]
    assert one.status == "ok"
    assert "some-package is missing" in one.evidence  # the finding stays
    assert "a stated reason of the test" in one.override
    assert found["overrides"].status == "ok"
    assert exit_code(list(found.values())) == 0
    shown = table(list(found.values()))
    assert "OVERRIDE" in shown
    assert "let pass by a signed override (dependencies)" in shown
    assert to_json(list(found.values()))["overridden"] == ["dependencies"]


def test_an_override_that_is_not_needed_changes_nothing_and_is_told(small: SmallSite) -> None:
    override(small, "disk")
    found = small.checks()
    assert found["disk"].override == ""
    assert "not needed: disk" in found["overrides"].evidence


def test_an_override_that_does_not_hold_counts_for_nothing_and_fails(small: SmallSite, tmp_path: Path) -> None:
    small.lock("some-package==1.0")
    path = override(small, "dependencies", make_signer(tmp_path / "foreign"))
    found = small.checks()
    assert found["dependencies"].status == "failed"
    assert found["overrides"].status == "failed"
    path.unlink()
    override(small, "dependencies", days=0.5)
    small.now = lambda: NOW + timedelta(days=1)
    found = small.checks()
    assert (found["dependencies"].status, found["overrides"].status) == ("failed", "failed")


@pytest.mark.parametrize("key", ["bundle", "signature", "operation", "recorded_data"])
def test_some_checks_nobody_can_let_pass(small: SmallSite, key: str) -> None:
    assert key not in may_be_overridden(small.site())
    override(small, key)
    assert small.checks()["overrides"].status == "failed"


def test_an_unexpected_error_is_that_checks_own_failure_and_the_others_still_run(
    small: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Scene) -> Finding:
        raise ZeroDivisionError("of the test")

    changed = tuple(c._replace(look=broken) if c.key == "disk" else c for c in CHECKS)
    monkeypatch.setattr(check, "CHECKS", changed)
    found = small.checks()
    assert list(found) == [c.key for c in CHECKS]
    assert found["disk"].status == "failed"
    assert found["disk"].evidence == "unexpected ZeroDivisionError: of the test"
    assert found["clock"].status == "ok"


def test_on_an_empty_site_every_check_still_says_something(small: SmallSite) -> None:
    site = small.site()
    for name in ("runs", "reports", "config"):
        (small.root / name).rename(small.root / f"{name}-away")
    found = run_checks(site, now=small.now, environ=small.environ, wait_s=2.0)
    assert len(found) == len(CHECKS)
    assert {r.key for r in found if r.status == "failed"} >= {c.key for c in CHECKS if c.box in ("files", "acceptance")}
    assert exit_code(found) == 4


def test_the_table_fits_a_terminal_and_tells_evidence_and_remedy(small: SmallSite) -> None:
    small.unsign()
    found = list(small.checks().values())
    for columns in (120, 80, 300):
        shown = table(found, columns)
        assert max(map(len, shown.splitlines())) <= min(columns, 120)
    assert "FAILED" in shown
    assert "-> have it signed" in shown
    assert shown.splitlines()[-1] == summary(found)
    assert "1 failed (signature)" in summary(found)


def test_the_json_is_plain_and_says_whether_a_deploy_may_begin(small: SmallSite) -> None:
    small.unsign()
    document = json.loads(json.dumps(to_json(list(small.checks().values()))))
    assert document["passed"] is False
    assert document["failed"] == ["signature"]
    assert {"key", "title", "status", "evidence", "remedy"} <= document["checks"][0].keys()


def test_the_lock_of_the_project_is_read(repo: Path) -> None:
    pins = dict(check_artifacts._pins(repo / "requirements.lock"))
    assert pins["numpy"]
    assert "appnope" not in pins or sys.platform == "darwin"
    assert len(pins) > 50
