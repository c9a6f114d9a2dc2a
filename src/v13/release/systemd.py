"""Programs kept running by systemd: unit files written, `systemctl` called.

It must not signal what systemd watches, except through systemctl. It was tested against a stand-in of systemctl and
with `systemd-analyze verify`; it was never run on a machine with a running systemd.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pwd
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release import orphans
from v13.release.supervisor import LOOK_S, Program, ProgramState, State, environment, last_lines, wait_until

__all__ = ["Systemd", "is_usable", "unit_text"]

ANSWER_S: Final = 60.0  # daemon-reload of a large machine takes seconds
MARGIN_S: Final = 30.0  # on top of what systemd itself waits for
RESTART_S: Final = 1
LOG_BYTES: Final = 10 << 20
_SHOWN: Final = (
    "LoadState,ActiveState,SubState,MainPID,Result,NRestarts,ExecMainStatus,"
    "ExecMainStartTimestampMonotonic,StateChangeTimestampMonotonic"
)
# As config/systemd/v13-runner.service, where the reasons are; these need the rights of the system's manager.
_SYSTEM: Final = """\
ProtectSystem=strict
PrivateDevices=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
CapabilityBoundingSet=
AmbientCapabilities=
RemoveIPC=true
"""
_ALL: Final = """\
NoNewPrivileges=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
_UNIT: Final = """\
# Written by v13; do not edit.
[Unit]
Description=V13 {name} of {home}
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec={limit_s}
StartLimitBurst={retries}

[Service]
Type=exec
WorkingDirectory={folder}
ExecStart={command}
{environ}
StandardOutput=append:{log}
StandardError=inherit
UMask=0027
TimeoutStopSec={stop_s}
KillSignal=SIGTERM
Restart=always
RestartSec={restart_s}
RestartPreventExitStatus=2 3
OOMPolicy=stop
MemoryMax=2G
TasksMax=256
LimitNOFILE=4096
{hardening}
[Install]
WantedBy={target}

[X-V13]
Program={entry}
"""


def is_usable() -> bool:
    """Say whether systemd is process 1 here and answers this user."""
    try:
        first = Path("/proc/1/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return False
    if first != "systemd" or not Path("/run/systemd/system").is_dir():
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        command = [*_systemctl(), "show", "--property=Version"]
        return subprocess.run(command, capture_output=True, timeout=ANSWER_S, check=False).returncode == 0
    return False


def unit_text(home: Path, program: Program, *, is_system: bool) -> str:
    """Return the unit file of a program.

    Parameters
    ----------
    home : Path
        All that it may write to, beside its log.
    program : Program
    is_system : bool
        False: for the manager of a user, which cannot shut a program off from the file system.

    Notes
    -----
    A program of the system runs as the owner of `home`.
    """
    environ = environment(home, program)
    return _UNIT.format(
        name=program.name,
        home=_plain(home),
        limit_s=math.ceil(program.retries * (program.start_s + RESTART_S) + MARGIN_S),
        retries=program.retries,
        folder=_plain(program.folder),
        command=" ".join(_quoted(word).replace("$", "$$") for word in program.command),
        environ="\n".join(f"Environment={_quoted(f'{key}={value}')}" for key, value in environ.items()),
        log=_plain(program.log),
        stop_s=math.ceil(program.stop_s),
        restart_s=RESTART_S,
        hardening=_hardening(home, program) if is_system else _ALL,
        target="multi-user.target" if is_system else "default.target",
        entry=json.dumps(
            {key: getattr(program, key) for key in ("start_s", "stop_s", "retries")} | {"log": str(program.log)}
        ),
    )


class Systemd:
    """The units of one site; see `supervisor.Supervisor` for the calls.

    Parameters
    ----------
    home : Path
        Folder of the site; its hash is part of the units' names.
    units : Path, optional
        Where unit files go. Default: of the system for root, else of the user.
    systemctl : sequence of str, optional
        The command. Default: `systemctl`, for others than root `systemctl --user`.
    """

    name = "systemd"

    def __init__(self, home: Path, *, units: Path | None = None, systemctl: Sequence[str] | None = None) -> None:
        self._home = home.resolve()
        self._is_system = os.getuid() == 0
        own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
        self._units = units or (Path("/etc/systemd/system") if self._is_system else own)
        self._systemctl = tuple(systemctl or _systemctl())
        self._prefix = f"v13-{hashlib.sha256(os.fsencode(self._home)).hexdigest()[:8]}-"

    def ensure_up(self) -> None:
        """Refuse a machine where systemd does not answer."""
        self._run("show", "--property=Version")

    def install(self, program: Program) -> None:
        """Write the unit and have systemd read it; a running program keeps what it was started with."""
        place = self._place(program.name)
        text = unit_text(self._home, program, is_system=self._is_system)
        try:
            program.log.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists() or place.read_text(encoding="utf-8") != text:
                store.write_text(place, text)
        except (OSError, StoreError) as error:
            raise ReleaseError(f"{place}: cannot be installed: {error}; is the disk full or read-only?") from error
        self._run("daemon-reload")

    def start(self, name: str) -> None:
        """Return when it is up for `start_s`.

        Raises
        ------
        ReleaseError
            It is not installed, systemd does not answer, or it failed `retries` times; its last words are told.
        """
        entry = self._entry(name)
        log = Path(entry["log"])
        self._run("enable", self._unit(name))  # again after a reboot
        if self.state(name).state in ("failed", "stopped", "unknown"):
            orphans.end_all(self._home, entry["stop_s"], name)
            _turn_over(log)
            self._run("daemon-reload")
            self._run("reset-failed", self._unit(name), check=False)  # of a unit that never ran it knows nothing
            self._run("start", "--no-block", self._unit(name))
        end_s = time.monotonic() + (entry["retries"] + 1) * (entry["start_s"] + RESTART_S) + MARGIN_S
        while (state := self.state(name)).state != "running":
            if state.state == "failed" or time.monotonic() > end_s:
                raise ReleaseError(f"{name}: does not run: {state.state}: {state.detail}; {last_lines(log)}")
            time.sleep(LOOK_S)

    def stop(self, name: str, grace_s: float | None = None) -> None:
        """Return when its processes are gone; unknown is fine."""
        if self._place(name).exists():
            self._run("disable", self._unit(name))
            stop_s = float(self._entry(name)["stop_s"])
            grace = stop_s if grace_s is None else min(grace_s, stop_s)
            self._run("stop", "--no-block", self._unit(name))
            if not wait_until(lambda: self._is_down(name), grace):
                self._run("kill", "--signal=SIGKILL", self._unit(name), check=False)  # it may just have ended
                if not wait_until(lambda: self._is_down(name), MARGIN_S):
                    raise ReleaseError(f"{name}: systemd does not end it; see systemctl status {self._unit(name)}")
        orphans.end_all(self._home, 0, name)

    def remove(self, name: str) -> None:
        """Stop it and take its unit away; unknown is fine."""
        self.stop(name)
        try:
            self._place(name).unlink(missing_ok=True)
        except OSError as error:
            raise ReleaseError(f"{self._place(name)}: cannot be removed: {error.strerror}") from error
        self._run("daemon-reload")

    def state(self, name: str) -> ProgramState:
        """Return how it stands."""
        if not self._place(name).exists():
            return ProgramState(name, "unknown", None, None, "is not installed")
        try:
            shown = self._show(name)
        except ReleaseError as error:
            return ProgramState(name, "unknown", None, None, str(error))
        return _state(name, shown, float(self._entry(name)["start_s"]))

    def states(self) -> list[ProgramState]:
        """Return all that are installed, by name."""
        return [self.state(name) for name in self._names()]

    def shut_down(self) -> None:
        """End all programs; those that ran start again at the next boot or `start`."""
        ran = [state.name for state in self.states() if state.state in ("running", "starting", "backoff")]
        for name in self._names():
            self.stop(name)
        for name in ran:
            self._run("enable", self._unit(name))

    def _names(self) -> list[str]:
        return sorted(path.stem.removeprefix(self._prefix) for path in self._units.glob(f"{self._prefix}*.service"))

    def _unit(self, name: str) -> str:
        return f"{self._prefix}{name}.service"

    def _place(self, name: str) -> Path:
        return self._units / self._unit(name)

    def _entry(self, name: str) -> dict[str, Any]:
        place = self._place(name)
        try:
            entry = json.loads(place.read_text(encoding="utf-8").rpartition("\nProgram=")[2])
            return {key: entry[key] for key in ("start_s", "stop_s", "retries", "log")}
        except FileNotFoundError as error:
            raise ReleaseError(f"{name}: is not installed: there is no {place}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReleaseError(f"{place}: is not what v13 writes: {error}; remove it and install it anew") from error

    def _is_down(self, name: str) -> bool:
        return self._show(name)["ActiveState"] in ("inactive", "failed") and not orphans.find(self._home, name)

    def _show(self, name: str) -> dict[str, str]:
        lines = self._run("show", f"--property={_SHOWN}", self._unit(name)).splitlines()
        shown = {key: value for key, _, value in (line.partition("=") for line in lines)}
        if missing := set(_SHOWN.split(",")) - shown.keys():
            raise ReleaseError(f"{self._unit(name)}: systemctl show does not say {', '.join(sorted(missing))}")
        return shown

    def _run(self, *words: str, check: bool = True) -> str:
        command = [*self._systemctl, *words]
        said = " ".join(command)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReleaseError(f"{said}: systemd does not answer: {error}") from error
        if check and done.returncode:
            raise ReleaseError(f"{said}: refused: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout


def _systemctl() -> tuple[str, ...]:
    return ("systemctl",) if os.getuid() == 0 else ("systemctl", "--user")


def _plain(path: Path) -> str:
    """Return a path for a setting that takes the rest of its line."""
    return str(path).replace("%", "%%")


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def _hardening(home: Path, program: Program) -> str:
    """Return the settings of a system unit, opened as far as its own files ask for."""
    own = [home.resolve(), program.folder.resolve(), Path(program.command[0]).resolve(), program.log.resolve()]

    def is_below(*tops: str) -> bool:
        return any(path.is_relative_to(top) for path in own for top in tops)

    lines = [
        f"ReadWritePaths={_quoted(str(home.resolve()))}",
        f"ProtectHome={'read-only' if is_below('/home', '/root', '/run/user') else 'true'}",
        f"PrivateTmp={'false' if is_below('/tmp', '/var/tmp') else 'true'}",
    ]
    with suppress(OSError, KeyError):  # no folder yet, or an owner without a name
        owner = pwd.getpwuid(home.stat().st_uid).pw_name
        lines += [] if owner == "root" else [f"User={owner}"]
    return "\n".join(lines) + "\n" + _SYSTEM + _ALL


def _turn_over(log: Path) -> None:
    """Start a new log where the old one is large: systemd only appends."""
    try:
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
    except OSError as error:
        raise ReleaseError(f"{log}: cannot be renamed: {error.strerror}") from error


def _state(name: str, shown: dict[str, str], start_s: float) -> ProgramState:
    now_s, active = time.monotonic(), shown["ActiveState"]
    started_s = int(shown["ExecMainStartTimestampMonotonic"] or 0) / 1e6
    changed_s = int(shown["StateChangeTimestampMonotonic"] or 0) / 1e6
    pid = int(shown["MainPID"] or 0) or None
    state: State
    if shown["LoadState"] != "loaded":
        state = "unknown"
    elif active in ("active", "reloading"):
        state = "running" if now_s - started_s >= start_s else "starting"
    elif active == "deactivating":
        state = "running"  # until its processes are gone
    elif active == "activating":
        state = "backoff" if shown["SubState"] == "auto-restart" else "starting"
    else:
        state = "failed" if active == "failed" else "stopped"
    if state in ("running", "starting") and pid and not orphans.is_alive(pid):
        state = "backoff"  # systemd has not noticed yet
    detail = f"{active} ({shown['SubState']}), {shown['Result']}, exit code {shown['ExecMainStatus']}"
    is_up = state in ("running", "starting")
    since_s = started_s if is_up else changed_s
    return ProgramState(name, state, pid if is_up else None, time.time() - now_s + since_s if since_s else None, detail)
