"""What the commands of a release print of a site that has some: backups, what was served, the live view."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from tests.unit.release.small_rig import NOW, OLD, RELEASE, deployed, make_rig, unprotect
from tests.unit.store.event_batches import batch
from v13.cli import main
from v13.errors import EXIT_GATE, EXIT_OK, EXIT_USAGE
from v13.release.backup import make_backup
from v13.release.rig import Rig
from v13.release.site import Site
from v13.store.event_log import EventLog

WATCH = "import sys; from v13.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def rig(site: Site) -> Rig:
    return make_rig(site)


def of(rig: Rig, *arguments: str) -> list[str]:
    return [*arguments, "--env", rig.site.env, "--root", str(rig.site.root)]


def test_a_backup_of_what_serves_or_was_rolled_back_is_marked_and_a_damaged_one_named(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed(rig, RELEASE)
    claim = rig.ledger.begin("rollback", {"reason": "", "bad": RELEASE, "good": OLD})
    rig.ledger.end(claim, "rolled_back", "", [("stable", {"release": OLD})])
    state = rig.ledger.state()
    stamps = [
        make_backup(rig.site, state, release, "by hand", NOW + timedelta(seconds=n))
        for n, release in enumerate((OLD, RELEASE, OLD))
    ]
    unprotect(rig.site.backup(stamps[2]))
    (rig.site.backup(stamps[2]) / "release/config/slo.yaml").write_text("rows: {}\n")
    assert main(of(rig, "rollback", "--list-backups")) == EXIT_GATE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(stamp) for stamp in stamps]
    assert lines[0].endswith("by hand  whole  (stable now)")
    assert lines[1].endswith("by hand  whole  (was rolled back)")
    assert "DAMAGED: " in lines[2]
    assert main(of(rig, "rollback", "--list-backups", "--json")) == EXIT_GATE
    rows = json.loads(capsys.readouterr().out)
    assert [(r["is_stable"], r["was_rolled_back"], r["whole"]) for r in rows] == [
        (True, False, True),
        (False, True, True),
        (True, False, False),
    ]


def test_served_events_name_the_release_that_served_them(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    deployed(rig, OLD)
    with EventLog(rig.site.event_log(OLD), keep_bars=1_000, now_ms=lambda: 1) as log:
        log.commit(batch(["BTCUSDT"], 1, 30))
    assert main(of(rig, "events", "--served")) == EXIT_OK
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "release"
    assert {row.split()[-1] for row in rows} == {OLD}
    assert main(of(rig, "events", "--log", str(rig.site.event_log(OLD)))) == EXIT_OK
    assert "release" not in capsys.readouterr().out.splitlines()[0].split()


def test_a_piped_live_view_shows_each_drawing_as_it_is_made(rig: Rig) -> None:
    deployed(rig, OLD, RELEASE, ["check"])
    command = [sys.executable, "-c", WATCH, *of(rig, "deploy", "status", "--watch")]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as viewer:
        assert viewer.stdout is not None
        first = os.read(viewer.stdout.fileno(), 1 << 16).decode()
        viewer.send_signal(signal.SIGINT)
        _, errors = viewer.communicate()
    assert (viewer.returncode, errors) == (EXIT_OK, b"")
    assert first.endswith("\n\n")
    assert [line.split()[1] for line in first.splitlines() if "-deploy-" in line] == ["start"]  # one drawing, not eight


@pytest.mark.parametrize("name", ["20240101120000", "9" * 40])
def test_a_folder_that_is_no_time_is_a_damaged_backup_of_the_list(
    rig: Rig, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (rig.site.backups / name).mkdir(parents=True)
    arguments = ["rollback", "--list-backups", "--env", "testing", "--root", str(rig.site.root)]
    assert main(arguments) == EXIT_GATE
    assert "DAMAGED: " in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "a \x1b[2Jscreen", "no UTF-8: \udcff", "x" * 501])
@pytest.mark.parametrize("command", [["deploy", "run"], ["deploy", "abort"], ["rollback", "--type", "full"]])
def test_a_reason_that_could_not_be_shown_is_refused(rig: Rig, command: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--env", "testing", "--root", str(rig.site.root), "--reason", reason])
    assert caught.value.code == EXIT_USAGE
    assert rig.ledger.rows() == []
