"""Programs kept running by a supervisord of the site's own, spoken to over its Unix socket.

It must not decide what runs: it writes what supervisord is to do, has it done, and looks whether it was. What ran is
marked `autostart`, so a supervisord that was killed starts it again; orphans of the killed one are ended before.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Any, Final
from xml.parsers.expat import ExpatError
from xmlrpc.client import Error, Fault, ServerProxy

from supervisor.states import ProcessStates, SupervisorStates
from supervisor.xmlrpc import Faults, SupervisorTransport

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release import orphans
from v13.release import supervisord_config as config
from v13.release.supervisor import (
    LOOK_S,
    Program,
    ProgramState,
    State,
    SupervisorGoneError,
    environment,
    last_lines,
    wait_until,
)
from v13.release.supervisord_config import Entry

__all__ = ["Supervisord"]

DAEMON: Final = "supervisord"  # its own mark; no program is called so
ANSWER_S: Final = 10.0  # it answers within milliseconds unless the machine swaps
LOCK_S: Final = 120.0  # outlasts an orderly end of all programs
MARGIN_S: Final = 30.0  # on top of what supervisord itself waits for
SOCKET_BYTES: Final = 107 - len(".4194304")  # of sockaddr_un, and supervisord binds <name>.<pid> first
_CODES: Final[dict[int, State]] = {
    ProcessStates.RUNNING: "running",
    ProcessStates.STOPPING: "running",
    ProcessStates.STARTING: "starting",
    ProcessStates.BACKOFF: "backoff",
    ProcessStates.EXITED: "backoff",  # for an instant: it is always started again
    ProcessStates.FATAL: "failed",
    ProcessStates.STOPPED: "stopped",
}
HANGS: Final = -1  # no state of supervisord's: ended or not, it would start the program again
_DOWN: Final = (ProcessStates.STOPPED, ProcessStates.FATAL)


class _Connection(HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(SupervisorTransport):  # type: ignore[misc]
    """Supervisor's own transport has no timeout."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__(serverurl=f"unix://{path}")
        self._get_connection = partial(_Connection, path, timeout_s)


class Supervisord:
    """A supervisord for one site; see `supervisor.Supervisor` for the calls.

    Parameters
    ----------
    home : Path
        Folder of the site; all it needs is in `home/supervisor`.
    patience_s : float, s, > 0
        A supervisord that runs and does not answer for so long is taken for hung, and replaced.

    Raises
    ------
    ReleaseError
        The path cannot be said in its configuration, or is too long for a socket.

    Notes
    -----
    Never ended are the calling process and what it came from. Where that is itself an orphan of a killed supervisord
    (a program that calls `ensure_up`), the new one starts another copy of it: it should end itself then.
    """

    name = "supervisord"

    def __init__(self, home: Path, *, patience_s: float = 30.0) -> None:
        self._home = home.resolve()
        self._folder = self._home / "supervisor"
        self._programs = self._folder / "programs"
        self._socket = self._folder / "rpc.sock"
        self._patience_s = patience_s
        config.check_path(self._home)
        if len(os.fsencode(self._socket)) > SOCKET_BYTES:
            raise ReleaseError(f"{self._socket}: too long for a socket ({SOCKET_BYTES} bytes); use a shorter home")

    def ensure_up(self) -> None:
        """Have a supervisord that answers; where there is none, end the orphans of the last and start one.

        Raises
        ------
        ReleaseError
            It cannot be started: the file system refuses, it refuses its configuration, or it does not answer.
        """
        with self._lock():
            if self._answers():
                return
            entries = self._prepare()
            orphans.end([process for process in orphans.find(self._home) if process.program == DAEMON], 0)
            orphans.end_all(self._home, max([0, *(entry.stop_s for entry in entries.values())]))
            if left := self._daemon():
                raise ReleaseError(f"supervisord {left[0].pid}: hangs, and this process runs under it; end it by hand")
            self._launch()

    def install(self, program: Program) -> None:
        """Write the definition; it is read at the next start of the program or of supervisord."""
        with self._lock():
            before = self._entry(program.name)
            text = config.program_text(self._home, program, shall_run=before is not None and before.shall_run)
            self._write(self._place(program.name), text)
            _make_folder(program.log.parent)

    def start(self, name: str) -> None:
        """Return when it is up for `start_s`.

        Raises
        ------
        ReleaseError
            It is not installed, supervisord does not answer, or it failed `retries` times; its last words are told.
        """
        entry = self._installed(name)
        if not wait_until(lambda: self._code(name) != ProcessStates.STOPPING, entry.stop_s + MARGIN_S):
            raise ReleaseError(f"{name}: is being stopped and does not end; see {self._folder / 'supervisord.log'}")
        with self._lock():
            code = self._code(name)
            self._want(name, True)
            if code is None or code in _DOWN:
                orphans.end_all(self._home, entry.stop_s, name)
                self._reload(name)
                # autostart may have been faster; a start that fails is tried again
                self._call("startProcess", name, False, ignore=(Faults.ALREADY_STARTED, Faults.SPAWN_ERROR))
        self._await_start(name, entry)

    def stop(self, name: str, grace_s: float | None = None) -> None:
        """Return when its processes are gone, those it started too; works without a supervisord as well.

        Raises
        ------
        ReleaseError
            It does not end. Or it did, and that it shall stay down could not be written: supervisord would start it
            when it is itself started again.
        """
        unwritten = None
        with self._lock():
            entry = self._entry(name)
            if entry:
                try:
                    self._want(name, False)
                except ReleaseError as error:  # a full disk must not keep anything running
                    unwritten = error
        grace = float(entry.stop_s if entry else ANSWER_S)
        grace = grace if grace_s is None else min(grace, grace_s)
        pid = self.state(name).pid
        members = orphans.group(pid) if pid else []
        kill_s = time.monotonic() + grace
        while (code := self._ask_to_stop(name)) is not None and code not in _DOWN:
            if time.monotonic() > kill_s:
                orphans.end(orphans.find(self._home, name), 0)
            if time.monotonic() > kill_s + MARGIN_S:
                raise ReleaseError(f"{name}: supervisord does not end it; see {self._folder / 'supervisord.log'}")
            time.sleep(LOOK_S)
        orphans.end_all(self._home, max(0.0, kill_s - time.monotonic()), name)
        orphans.end(members, 0)
        if unwritten is not None:
            raise ReleaseError(f"{name}: is stopped, and would start with the next supervisord: {unwritten}")

    def remove(self, name: str) -> None:
        """Stop it and forget it; unknown is fine."""
        self.stop(name)
        with self._lock():
            try:
                self._place(name).unlink(missing_ok=True)
            except OSError as error:
                raise ReleaseError(f"{self._place(name)}: cannot be removed: {error.strerror}") from error
            with suppress(SupervisorGoneError):
                self._call("reloadConfig")
                self._call("removeProcessGroup", name, ignore=(Faults.BAD_NAME,))

    def state(self, name: str) -> ProgramState:
        """Return how it stands."""
        absent = ProgramState(name, "unknown", None, None, "is not installed")
        return next((state for state in self.states() if state.name == name), absent)

    def states(self) -> list[ProgramState]:
        """Return all that are installed, by name; "unknown", with what runs on, where supervisord does not answer."""
        names = self._names()
        try:
            infos = {info["name"]: info for info in self._call("getAllProcessInfo")}
        except SupervisorGoneError as error:
            running: dict[str, list[int]] = {}
            for process in orphans.find(self._home):
                running.setdefault(process.program, []).append(process.pid)
            pids = [(name, running.get(name, [])) for name in names]
            return [
                ProgramState(name, "unknown", min(own, default=None), None, f"{error}; processes: {own or 'none'}")
                for name, own in pids
            ]
        return [_state(name, infos.get(name)) for name in names]

    def shut_down(self) -> None:
        """End all programs and supervisord; those that ran start again with it."""
        with self._lock():
            stop_s = max([0, *(self._installed(name).stop_s for name in self._names())])
            with suppress(SupervisorGoneError):
                self._call("shutdown")
            wait_until(lambda: not self._daemon(), stop_s + MARGIN_S)
            orphans.end(self._daemon(), 0)
            orphans.end_all(self._home, stop_s)

    def _answers(self) -> bool:
        """Say whether it does; wait for one that starts, ends or hangs."""
        end_s = time.monotonic() + self._patience_s
        while True:
            with suppress(SupervisorGoneError):
                if self._call("getState")["statecode"] == SupervisorStates.RUNNING:
                    return True
            if not self._daemon() or time.monotonic() > end_s:
                return False
            time.sleep(LOOK_S)

    def _daemon(self) -> list[orphans.Process]:
        return orphans.find(self._home, DAEMON)

    def _prepare(self) -> dict[str, Entry]:
        """Write what it reads; a missing folder of one log would keep all programs from running."""
        self._write(self._folder / "supervisord.conf", config.daemon_text(self._folder))
        entries = {name: self._installed(name) for name in self._names()}
        for entry in entries.values():
            _make_folder(entry.log.parent)
        return entries

    def _launch(self) -> None:
        for rest in ("rpc.sock", "supervisord.pid"):
            try:
                (self._folder / rest).unlink(missing_ok=True)
            except OSError as error:
                raise ReleaseError(f"{self._folder / rest}: cannot be removed: {error.strerror}") from error
        itself = Program(DAEMON, (sys.executable,), self._folder, {}, self._folder / "supervisord.log")
        # -P: what lies in its folder is not imported.
        command = [sys.executable, "-P", "-X", "utf8", "-W", "ignore", "-m", "supervisor.supervisord"]
        try:
            done = subprocess.run(
                [*command, "-c", str(self._folder / "supervisord.conf")],
                cwd=self._folder,
                env=environment(self._home, itself),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=MARGIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReleaseError(f"supervisord: cannot be started: {error}") from error
        if done.returncode < 0:
            raise SupervisorGoneError(f"supervisord: ended by signal {-done.returncode} while it started")
        if done.returncode:
            raise ReleaseError(f"supervisord: refused to start:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        if not self._answers():
            said = f"supervisord: started and does not answer; {last_lines(itself.log)}"
            raise ReleaseError(said) if self._daemon() else SupervisorGoneError(said)

    def _reload(self, name: str) -> None:
        """Have the daemon forget what it knows of a program that is down, and read it anew."""
        _make_folder(self._installed(name).log.parent)
        self._call("reloadConfig")
        self._call("removeProcessGroup", name, ignore=(Faults.BAD_NAME,))
        self._call("addProcessGroup", name)

    def _await_start(self, name: str, entry: Entry) -> None:
        """Wait through all retries: supervisord waits a second longer after each."""
        end_s = time.monotonic() + sum(entry.start_s + n + 1 for n in range(entry.retries + 1)) + MARGIN_S
        while (state := self.state(name)).state != "running" or state.detail == "stopping":
            if state.state == "unknown":
                raise SupervisorGoneError(f"{name}: {state.detail}")
            if state.state in ("failed", "stopped") or time.monotonic() > end_s:
                raise ReleaseError(f"{name}: does not run: {state.state}: {state.detail}; {last_lines(entry.log)}")
            time.sleep(LOOK_S)

    def _ask_to_stop(self, name: str) -> int | None:
        """Have it stopped where it runs, again where it was started again; None where nobody knows of it."""
        try:
            code = self._code(name)
            if code in (ProcessStates.RUNNING, ProcessStates.STARTING, ProcessStates.BACKOFF):
                self._call("stopProcess", name, False, ignore=(Faults.NOT_RUNNING, Faults.BAD_NAME))
                code = self._code(name)
        except SupervisorGoneError:
            return HANGS if self._daemon() else None
        return code

    def _code(self, name: str) -> int | None:
        info = self._call("getProcessInfo", name, ignore=(Faults.BAD_NAME,))
        return None if info is None else int(info["state"])

    def _call(self, method: str, *arguments: Any, ignore: tuple[int, ...] = ()) -> Any:
        transport = _Transport(self._socket, min(ANSWER_S, self._patience_s))
        try:
            return getattr(ServerProxy("http://localhost", transport=transport).supervisor, method)(*arguments)
        except Fault as fault:
            if fault.faultCode in ignore:
                return None
            if fault.faultCode == Faults.SHUTDOWN_STATE:
                raise SupervisorGoneError(f"{self._socket}: supervisord is ending") from fault
            said = f"supervisord: {method}{arguments}: {fault.faultString}"
            raise ReleaseError(f"{said}; see {self._folder / 'supervisord.log'}") from fault
        except (OSError, HTTPException, Error, ExpatError) as error:
            raise SupervisorGoneError(
                f"{self._socket}: supervisord does not answer ({error}); start it anew"
            ) from error
        finally:
            transport.close()

    def _place(self, name: str) -> Path:
        return self._programs / f"{name}.conf"

    def _names(self) -> list[str]:
        return sorted(path.stem for path in self._programs.glob("*.conf"))

    def _entry(self, name: str) -> Entry | None:
        return config.read(self._place(name))

    def _installed(self, name: str) -> Entry:
        entry = self._entry(name)
        if entry is None:
            raise ReleaseError(f"{name}: is not installed: there is no {self._place(name)}")
        return entry

    def _want(self, name: str, shall_run: bool) -> None:
        place = self._place(name)
        try:
            self._write(place, config.wanted(place.read_text(encoding="utf-8"), shall_run))
        except OSError as error:
            raise ReleaseError(f"{place}: cannot be read: {error.strerror}") from error

    def _write(self, path: Path, text: str) -> None:
        try:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                store.write_text(path, text)
        except (OSError, StoreError) as error:
            raise ReleaseError(f"{error}; is the disk full or {self._home} read-only?") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep two callers from starting, loading or ending at the same time."""
        try:
            _make_folder(self._programs)
            self._folder.chmod(0o700)  # who reaches the socket commands the site
            handle = (self._folder / "lock").open("a")
        except OSError as error:
            raise ReleaseError(f"{self._folder}: cannot be used: {error.strerror}") from error
        with handle:
            if not wait_until(lambda: _is_locked(handle), LOCK_S):
                raise ReleaseError(f"{handle.name}: another process held it for {LOCK_S:g} s; does a v13 hang?")
            yield


def _is_locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReleaseError(f"{path}: the folder cannot be made: {error.strerror}") from error


def _state(name: str, info: dict[str, Any] | None) -> ProgramState:
    if info is None:
        return ProgramState(name, "stopped", None, None, "never started")
    state = _CODES.get(info["state"], "unknown")
    detail = str(info["spawnerr"] or info["statename"].lower())
    if state in ("running", "starting") and not orphans.is_alive(info["pid"]):
        state, detail = "backoff", "its process just ended"  # supervisord has not noticed yet
    is_up = state in ("running", "starting")
    since_s = info["start"] if is_up else info["stop"]
    return ProgramState(name, state, info["pid"] if is_up else None, float(since_s) or None, detail)
