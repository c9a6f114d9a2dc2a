"""What supervisord reads: its own configuration, and the definition of a program, written and read back.

It must not write a file nor speak to supervisord. Its format expands `%`, cuts comments and splits commands: everything
is escaped here, and what no escaping can say is refused.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from configparser import Error, RawConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from v13.errors import ReleaseError
from v13.release.supervisor import Program, environment

__all__ = ["Entry", "check_path", "command_line", "daemon_text", "program_text", "read", "wanted"]

# What its parser takes for something else, even escaped: comments, a pattern of [include], its own %(here)s.
_UNWRITABLE: Final = re.compile(r"[*?\[\x00-\x1f]|\s[#;]|^\s|\s$|%\(here\)s")
_DAEMON: Final = """\
; Written by v13; do not edit.
[supervisord]
identifier = v13
logfile = {folder}/supervisord.log
logfile_maxbytes = 5MB
logfile_backups = 3
pidfile = {folder}/supervisord.pid
umask = 027
nocleanup = true
[unix_http_server]
file = {folder}/rpc.sock
chmod = 0600
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = programs/*.conf
"""
_PROGRAM: Final = """\
; Written by v13; do not edit. autostart says whether it shall run.
[program:{name}]
command = {command}
directory = {folder}
autostart = {autostart}
autorestart = true
startsecs = {start_s}
startretries = {retries}
stopsignal = TERM
stopwaitsecs = {stop_s}
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 5
"""


@dataclass(frozen=True)
class Entry:
    """What is needed again of a definition; seconds are whole, `retries` are those after the first start."""

    shall_run: bool
    start_s: int
    retries: int
    stop_s: int
    log: Path


def check_path(path: Path) -> None:
    """Refuse a path that the format cannot say.

    Raises
    ------
    ReleaseError
        It holds `*`, `?`, `[`, a control character, `%(here)s`, a `#` or `;` after a space, or a space at its ends.
    """
    if _UNWRITABLE.search(str(path)):
        raise ReleaseError(
            f"{path}: supervisord cannot be told this path; use one without * ? [ and without ' #', ' ;'"
        )


def daemon_text(folder: Path) -> str:
    """Return the configuration of a supervisord whose files are in `folder`."""
    return _DAEMON.format(folder=str(folder).replace("%", "%%"))


def program_text(home: Path, program: Program, *, shall_run: bool) -> str:
    """Return the definition of a program; `shall_run` says whether it starts with supervisord.

    Raises
    ------
    ReleaseError
        As `check_path` of its folder and log, and `command_line`.
    """
    check_path(program.folder)
    check_path(program.log)
    return _PROGRAM.format(
        name=program.name,
        command=command_line(program.command, environment(home, program)),
        folder=str(program.folder).replace("%", "%%"),
        autostart=str(shall_run).lower(),
        start_s=math.ceil(program.start_s),
        retries=program.retries - 1,
        stop_s=math.ceil(program.stop_s),
        log=str(program.log).replace("%", "%%%%"),  # expanded twice
    )


def command_line(words: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return a command with all its environment and no other.

    Parameters
    ----------
    words : tuple of str
        Program by its full path, and its arguments; without control characters.
    environ : mapping
        The whole environment. Set by env(1): the `environment` of supervisord cannot say both kinds of quotes.

    Raises
    ------
    ReleaseError
        env(1) would take the program for a variable.
    """
    if "=" in words[0]:
        raise ReleaseError(f"{words[0]}: a program whose path holds = cannot be started; use another folder")
    line = shlex.join(["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in environ.items()), *words])
    # Both can only stand between quotes: closed and opened again, the word is the same, and the parser of the
    # configuration sees neither a comment nor its own %(here)s.
    line = re.sub(r"(\s)(?=[#;])", r"\1''", line)
    return line.replace("%(", "%''(").replace("%", "%%")


def read(place: Path) -> Entry | None:
    """Return what a definition says; None where there is none.

    Raises
    ------
    ReleaseError
        It is not what `program_text` writes.
    """
    parser = RawConfigParser()
    try:
        parser.read_string(place.read_text(encoding="utf-8"))
        said = parser[f"program:{place.stem}"]
        return Entry(
            said["autostart"] == "true",
            int(said["startsecs"]),
            int(said["startretries"]),
            int(said["stopwaitsecs"]),
            Path(said["stdout_logfile"].replace("%%%%", "%")),
        )
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, Error) as error:
        raise ReleaseError(f"{place}: is not what v13 writes: {error}; remove it and install it anew") from error


def wanted(text: str, shall_run: bool) -> str:
    """Return a definition that says whether the program shall run."""
    return re.sub(r"(?m)^autostart = .*$", f"autostart = {str(shall_run).lower()}", text, count=1)
