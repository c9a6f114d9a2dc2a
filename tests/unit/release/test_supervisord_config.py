"""What supervisord's own parser makes of the files written for it."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from v13.errors import ReleaseError
from v13.release.supervisor import Program, environment
from v13.release.supervisord_config import Entry, command_line, daemon_text, program_text, read, wanted

CONTROL = "".join(map(chr, (*range(32), 127, 0x85, 0x2028, 0x2029)))
ODD = st.sampled_from(
    ["%", "%%", "%(", "%(here)s", "%(ENV_PATH)s", " #", " ;", "'", '"', "\\", "$HOME", "`", " ", "=", ","]
)
WORDS = st.lists(ODD | st.text(st.characters(exclude_characters=CONTROL, exclude_categories=["Cs"]))).map("".join)
PROGRAM = Program("one", ("/bin/true",), Path("/"), {}, Path("/dev/null"))


def parsed(folder: Path, home: Path, program: Program) -> Any:
    """Return what supervisord reads of a definition, by its own code."""
    (folder / "programs").mkdir(exist_ok=True)
    place = folder / "programs" / f"{program.name}.conf"
    place.write_text(program_text(home, program, shall_run=True), encoding="utf-8")
    main = folder / "supervisord.conf"
    main.write_text(daemon_text(folder), encoding="utf-8")
    options = ServerOptions()
    options.here = str(folder)
    options.configfile = str(main)
    options.environ_expansions = {"ENV_PATH": "/wrong"}
    options.read_config(str(main))
    ((group,),) = [options.configroot.supervisord.process_group_configs]
    return options.configroot.supervisord, group.process_configs[0]


@settings(deadline=None)
@given(words=st.lists(WORDS), values=st.dictionaries(st.sampled_from(["A", "B", "_c"]), WORDS))
def test_any_words_and_any_environment_arrive_as_they_are(words: list[str], values: dict[str, str]) -> None:
    program = replace(PROGRAM, command=("/bin/true", *words), environ=values)
    with tempfile.TemporaryDirectory() as folder:
        _, found = parsed(Path(folder), Path(folder), program)
        whole = [f"{key}={value}" for key, value in environment(Path(folder), program).items()]
        assert shlex.split(found.command) == ["/usr/bin/env", "-i", *whole, "/bin/true", *words]


@pytest.mark.parametrize(
    "name", ["plain", "a b", "50%", "%d %s", "it's", 'say "x"', "a#b;c", "ü", "{folder}", "$HOME", "a:b=c"]
)
def test_paths_arrive_as_they_are(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    daemon, found = parsed(home, home, replace(PROGRAM, folder=home, log=home / "log"))
    assert found.directory == str(home)
    assert found.stdout_logfile == str(home / "log")
    assert daemon.logfile == str(home / "supervisord.log")
    assert daemon.server_configs[0]["file"] == str(home / "rpc.sock")
    assert read(home / "programs" / "one.conf") == Entry(True, 2, 4, 5, home / "log")


def test_times_are_whole_seconds_rounded_up_and_retries_are_the_starts_after_the_first(tmp_path: Path) -> None:
    _, found = parsed(tmp_path, tmp_path, replace(PROGRAM, start_s=0.2, stop_s=1.5, retries=3))
    assert (found.startsecs, found.stopwaitsecs, found.startretries) == (1, 2, 2)
    assert found.stopasgroup
    assert found.killasgroup


def test_a_definition_keeps_whether_it_shall_run(tmp_path: Path) -> None:
    text = program_text(tmp_path, replace(PROGRAM, command=("/bin/true", "autostart = false")), shall_run=True)
    place = tmp_path / "one.conf"
    place.write_text(wanted(text, False), encoding="utf-8")
    entry = read(place)
    assert entry is not None
    assert not entry.shall_run
    assert wanted(wanted(text, False), True) == text


def test_what_was_not_written_here_is_named_and_not_taken(tmp_path: Path) -> None:
    place = tmp_path / "one.conf"
    assert read(place) is None
    for text in ("", "nonsense", "[program:one]\nautostart = true\n"):
        place.write_text(text, encoding="utf-8")
        with pytest.raises(ReleaseError, match="is not what v13 writes"):
            read(place)


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="holds = cannot be started"):
        command_line(("/opt/a=b/python",), {})
    for wrong in (Path("/a #b"), Path("/a\u3000;b"), Path("/%(here)s"), Path("/a*")):
        with pytest.raises(ReleaseError, match="cannot be told this path"):
            program_text(tmp_path, replace(PROGRAM, log=wrong), shall_run=False)
