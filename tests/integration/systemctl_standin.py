"""A stand-in of systemctl for machines without systemd: it keeps state in a folder and really starts processes.

Called as `python systemctl_standin.py STATE_FOLDER UNIT_FOLDER COMMAND...`. It knows what `v13.release.systemd` uses,
answers as systemctl(1) and systemd.service(5) say, and refuses the rest. A keeper, one a unit, does what systemd does.
Units are read only at daemon-reload, as there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

WAIT_S = 60.0
LOOK_S = 0.02
REST: dict[str, Any] = {
    "ActiveState": "inactive",
    "SubState": "dead",
    "MainPID": 0,
    "Result": "success",
    "NRestarts": 0,
}
REST |= {"ExecMainStatus": 0, "ExecMainStartTimestampMonotonic": 0, "StateChangeTimestampMonotonic": 0}


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def words(text: str) -> list[str]:
    """Split quoted words as systemd.syntax(7) says, and resolve %%."""
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in quoted]


class Unit:
    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.place = folder / f"{name}.json"
        self.loaded = folder / "loaded" / name

    def read(self) -> dict[str, Any]:
        return REST | (json.loads(self.place.read_text()) if self.place.exists() else {})

    def write(self, **changes: Any) -> None:
        changes["StateChangeTimestampMonotonic"] = int(time.monotonic() * 1e6)
        draft = self.place.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self.read() | changes))
        draft.replace(self.place)

    def await_down(self) -> None:
        end_s = time.monotonic() + WAIT_S
        while self.read()["ActiveState"] not in ("inactive", "failed") and time.monotonic() < end_s:
            time.sleep(LOOK_S)

    def keep(self) -> None:
        """Start it, again after it ends, until it is stopped or failed too often."""
        said = directives(self.loaded.read_text())
        (command,), (log,) = said["ExecStart"], said["StandardOutput"]
        (folder,), (stop_s,) = said["WorkingDirectory"], said["TimeoutStopSec"]
        argv = [word.replace("$$", "$") for word in words(command)]
        environ = dict(word.partition("=")[::2] for line in said["Environment"] for word in words(line))
        final = {int(code) for code in said["RestartPreventExitStatus"][0].split()}
        interval_s, burst = float(said["StartLimitIntervalSec"][0]), int(said["StartLimitBurst"][0])
        stopping = False

        def receive(_number: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True

        signal.signal(signal.SIGTERM, receive)
        self.write(Keeper=os.getpid())
        starts: list[float] = []
        while not stopping:
            starts = [s for s in starts if time.monotonic() - s < interval_s]
            if len(starts) >= burst:
                return self.write(ActiveState="failed", SubState="failed", MainPID=0)
            starts.append(time.monotonic())
            with Path(log.removeprefix("append:").replace("%%", "%")).open("ab") as sink:
                process = subprocess.Popen(
                    argv, env=environ, cwd=folder.replace("%%", "%"), stdout=sink, stderr=sink, process_group=0
                )
            now = int(time.monotonic() * 1e6)
            self.write(
                ActiveState="active", SubState="running", MainPID=process.pid, ExecMainStartTimestampMonotonic=now
            )
            while process.poll() is None and not stopping:
                time.sleep(LOOK_S)
            if stopping:
                self.write(ActiveState="deactivating", SubState="stop-sigterm")
                self.end(process, float(stop_s))
                break
            code = process.returncode
            result = "success" if code == 0 else "exit-code"
            self.write(ExecMainStatus=abs(code), Result=result, MainPID=0)
            if code in final:
                return self.write(ActiveState="failed", SubState="failed")
            self.write(ActiveState="activating", SubState="auto-restart", NRestarts=self.read()["NRestarts"] + 1)
            end_s = time.monotonic() + float(said["RestartSec"][0])
            while time.monotonic() < end_s and not stopping:
                time.sleep(LOOK_S)
        return self.write(ActiveState="inactive", SubState="dead", MainPID=0)

    @staticmethod
    def end(process: subprocess.Popen[bytes], stop_s: float) -> None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise SystemExit(1)


def main(folder: Path, units: Path, command: str, *rest: str) -> None:
    options, names = [w for w in rest if w.startswith("--")], [w for w in rest if not w.startswith("--")]
    (folder / "loaded").mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join([command, *rest]) + "\n")
    if (folder / "is_broken").exists():
        refuse("Failed to connect to bus: No such file or directory")
    if command == "daemon-reload":
        shutil.rmtree(folder / "loaded")
        shutil.copytree(units, folder / "loaded")
        return
    if command == "show" and options == ["--property=Version"]:
        print("Version=252")
        return
    (unit,) = (Unit(folder, name) for name in names)
    is_up = unit.read()["ActiveState"] not in ("inactive", "failed")
    if command == "show":
        shown = unit.read() | {"LoadState": "loaded" if unit.loaded.exists() else "not-found"}
        for key in options[0].removeprefix("--property=").split(","):
            print(f"{key}={shown[key]}")
    elif command == "keep":
        unit.keep()
    elif command in ("enable", "disable"):
        if not (units / unit.name).exists():
            refuse(f"Failed to {command} unit: Unit file {unit.name} does not exist.")
        wants = folder / f"{unit.name}.enabled"
        wants.touch() if command == "enable" else wants.unlink(missing_ok=True)
    elif command == "reset-failed":
        if unit.read()["ActiveState"] == "failed":
            unit.write(ActiveState="inactive", SubState="dead", Result="success")
    elif command == "start" and options == ["--no-block"]:
        if not unit.loaded.exists():
            refuse(f"Failed to start {unit.name}: Unit {unit.name} not found.")
        if not is_up:
            unit.write(ActiveState="activating", SubState="start", NRestarts=0, Result="success")
            keeper = [sys.executable, "-S", __file__, str(folder), str(units), "keep", unit.name]
            null = subprocess.DEVNULL  # whoever called reads until its pipes are closed
            subprocess.Popen(keeper, start_new_session=True, stdin=null, stdout=null, stderr=null)
    elif command == "stop" and options == ["--no-block"]:
        if is_up:
            os.kill(unit.read()["Keeper"], signal.SIGTERM)
    elif command == "kill" and options == ["--signal=SIGKILL"]:
        if not (pid := unit.read()["MainPID"]):
            refuse(f"Failed to kill unit {unit.name}: No main process to kill")
        os.killpg(pid, signal.SIGKILL)
    else:
        refuse(f"the stand-in does not know: {command} {' '.join(rest)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
