"""`v13 deploy`, `v13 rollback` and the guide's scripts from the outside: help, usage errors, and an empty site."""

from __future__ import annotations

import json
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.release.small_rig import RELEASE, dead_worker, deployed, make_rig, make_site
from v13 import store
from v13.cli import main
from v13.cli.deploy import ended
from v13.errors import EXIT_OK, EXIT_USAGE
from v13.rehearsal.faults import FAULTS
from v13.release.rollback import RolledBack, Target

COMMANDS = ("check", "run", "resume", "pause", "abort", "status", "history", "record", "rehearse", "up", "guard")


def script(repo: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, repo / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(place: Path, repo: Path) -> Path:
    """A project with settings, and nothing deployed."""
    shutil.copytree(repo / "config", place / "config")
    environment = place / "config/environments/testing.yaml"
    with environment.open("a", encoding="utf-8") as sink:
        sink.write("\ndeploy:\n  home: deploy\n  supervisor: supervisord\n")
    return place


def usage(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_USAGE
    return capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["deploy", "--help"])
    assert ended.value.code == EXIT_OK
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["deploy", command, "--help"])
    assert ended.value.code == EXIT_OK
    assert f"v13 deploy {command}" in capsys.readouterr().out


def test_every_fault_can_be_rehearsed(capsys: pytest.CaptureFixture[str]) -> None:
    found = usage(capsys, "deploy", "rehearse", "--fault", "none of these")
    assert [name for name in FAULTS if name not in found] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy"], "COMMAND"),
        (["deploy", "explode"], "invalid choice: 'explode'"),
        (["deploy", "run", "--env", "moon"], "invalid choice: 'moon'"),
        (["deploy", "pause"], "--reason"),
        (["deploy", "abort"], "--reason"),
        (["rollback"], "one of the arguments --type --list-backups is required"),
        (["rollback", "--type", "partial"], "invalid choice: 'partial'"),
        (["rollback", "--type", "full", "--list-backups"], "not allowed with"),
        (["rollback", "--type", "full", "--backup-timestamp", "../../etc"], "invalid int value: '../../etc'"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in usage(capsys, *arguments)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--action", "check"], ["deploy", "check"]),
        (["--action", "check", "--json"], ["deploy", "check", "--json"]),
        (["--action", "deploy", "--env", "testing"], ["deploy", "run", "--env", "testing"]),
        (["--env", "testing", "--action", "deploy", "--dry-run"], ["deploy", "run", "--env", "testing", "--dry-run"]),
        (
            ["--action", "rollback", "--backup-timestamp", "17", "--reason", "bad"],
            ["rollback", "--type", "full", "--backup-timestamp", "17", "--reason", "bad"],
        ),
        (["--action", "rollback", "--type", "emergency"], ["rollback", "--type", "emergency"]),
        (["--action", "rollback", "--list-backups"], ["rollback", "--list-backups"]),
    ],
)
def test_the_guides_script_is_the_command(repo: Path, given: list[str], meant: list[str]) -> None:
    assert script(repo, "deploy_production").arguments_of(given) == meant


@pytest.mark.parametrize("given", [[], ["--action"], ["--action", "explode"]])
def test_the_guides_script_refuses_what_it_does_not_know(
    repo: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script(repo, "deploy_production").arguments_of(given)
    assert ended.value.code == EXIT_USAGE
    assert "--action" in capsys.readouterr().err


def test_an_equals_sign_does_not_hide_the_type_of_a_rollback(repo: Path) -> None:
    found = script(repo, "deploy_production").arguments_of(["--action=rollback", "--type=emergency"])
    assert found == ["rollback", "--type=emergency"]


def site(root: Path, *arguments: str) -> list[str]:
    return [*arguments, "--env", "testing", "--root", str(root)]


def test_an_empty_site_has_no_backups(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(site(root, "rollback", "--list-backups")) == EXIT_OK
    assert "no backups in" in capsys.readouterr().out
    assert main(site(root, "rollback", "--list-backups", "--json")) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == []


def test_where_nothing_was_deployed_there_is_nothing_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(site(root, "deploy", "history")) == EXIT_OK
    assert capsys.readouterr().out == "nothing has been deployed yet\n"
    assert main(site(root, "deploy", "status")) == EXIT_OK
    assert capsys.readouterr().out == "nothing has been deployed yet\n"
    for arguments, said in [
        (("deploy", "resume"), "nothing has been entered"),
        (("deploy", "pause", "--reason", "x"), "no deploy is under way"),
        (("deploy", "abort", "--reason", "x"), "no deploy is under way"),
        (("rollback", "--type", "emergency", "--reason", "x"), "nothing has been deployed"),
        (("rollback", "--type", "full", "--dry-run"), "nothing has been deployed"),
        (("rollback", "--type", "full", "--backup-timestamp", "17", "--dry-run"), "nothing has been deployed"),
    ]:
        assert main(site(root, *arguments)) == 1
        assert said in capsys.readouterr().err


def test_a_rollback_wants_a_reason(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(site(root, "rollback", "--type", "full")) == 1
    assert "--reason: say why" in capsys.readouterr().err


def test_a_setting_of_this_shell_alone_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V13__DEPLOY__GUARD_PORT", "1")
    assert main(site(root, "deploy", "status")) == 1
    assert "V13__DEPLOY__GUARD_PORT" in capsys.readouterr().err


def test_what_was_done_is_told_though_no_record_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(make_site(tmp_path / "root"))
    deployed(rig, RELEASE)
    claim = rig.ledger.begin("rollback", {"type": "emergency", "reason": "bad", "bad": RELEASE, "env": "testing"})
    rig.ledger.end(claim, "stopped", "bad")
    store.write_text(rig.site.records, "no folder")
    done = RolledBack(claim.operation, "stopped", Target(RELEASE, None, None), 1.5, ())
    assert ended(rig, done) == EXIT_OK
    said = capsys.readouterr()
    assert said.out == "stopped: nothing serves, after 1.5 s\n"
    assert "no record was written: " in said.err
    assert f"`v13 deploy record {claim.operation}` writes it anew" in said.err


def test_beside_a_rollback_whose_worker_is_gone_an_abort_says_who_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(make_site(place / "root"))
    deployed(rig, RELEASE)
    name = dead_worker(rig, "rollback", {"type": "full", "reason": "bad", "bad": RELEASE, "env": "testing"})
    assert main(site(place / "root", "deploy", "abort", "--reason", "x")) == 1
    said = capsys.readouterr().err
    assert f"no deploy is under way: rollback {name} is; `v13 deploy resume` goes on with it, as the guard does" in said
