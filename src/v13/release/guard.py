"""The guard: watches what runs, by Alertmanager's word and with its own eyes, and takes back what is bad.

It is a process of its own under the supervisor, so that a dead deployer saves no bad release. It asks Prometheus itself
as well, so that a dead Alertmanager saves none; and where Prometheus is dead it raises an alarm, as it sees nothing.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from v13.errors import ReleaseError, V13Error
from v13.release import orphans
from v13.release.conclusion import conclude
from v13.release.ledger import Operation, State
from v13.release.monitoring import ensure_token
from v13.release.monitoring_files import instance
from v13.release.observation import began_s
from v13.release.observe import Look, Observer
from v13.release.rig import Rig
from v13.release.rollback import roll_back
from v13.release.webhook import Alarm, Webhook
from v13.release.workers import is_alive, this_process
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.slo import load_slo

__all__ = ["Guard", "run_guard"]

SLACK: Final = timedelta(seconds=2)  # an alert may be dated to the evaluation before a release was entered


class Guard:
    """Judges what serves, look by look.

    Parameters
    ----------
    rig : Rig
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._release: tuple[str, float | None] | None = None
        self._observer: Observer | None = None
        self._told: set[str] = set()
        self._unfinished = ""  # a rollback of its own that failed half-way

    def since(self) -> datetime:
        """Return since when the release that is watched runs; alerts that began before are not about it."""
        rows = self._rig.ledger.rows()
        state = self._rig.ledger.state()
        watched = state.candidate or state.stable
        for row in reversed(rows):
            if row.record["kind"] == "slot" and row.record["release"] == watched:
                return datetime.fromisoformat(row.record["utc"]) - SLACK
        return datetime.max.replace(tzinfo=UTC)

    def alarm(self, alarm: Alarm) -> None:
        """Act on an alert: of the release that is watched, and where Prometheus can be asked, one that it knows of."""
        state = self._rig.ledger.state()
        watched = state.candidate or state.stable
        port = None if watched is None else state.slots.get(watched)
        if watched is None or port is None or alarm.instance != instance(port) or self._was_stopped(watched):
            self._tell(f"{alarm.name} of {alarm.instance or 'nobody'}: is not about the release that is watched")
            return
        if _is_starting(state, watched):  # it has `deploy.ready_s` for that, and its deployer waits for it
            self._tell(f"{alarm.name} of {alarm.instance}: is still being started; nothing was done")
            return
        if self._is_denied(alarm):
            self._tell(f"{alarm.name} of {alarm.instance}: Prometheus does not know of it; nothing was done")
            return
        if not self._sees(watched, port, alarm.slo):
            self._tell(f"{alarm.name} of {alarm.instance}: not so since it follows these symbols; nothing was done")
            return
        facts = {"alert": alarm.name, "slo": alarm.slo, "since": alarm.starts.isoformat(), "by": "alertmanager"}
        self._act(state, f"{alarm.name}: {alarm.summary}", facts)

    def look(self) -> None:
        """Look with its own eyes."""
        rig, state = self._rig, self._rig.ledger.state()
        running = state.open
        if running is not None and running.kind == "rollback" and not self._is_at_work(running):
            self._act(state, str(running.facts["reason"]), {"by": "guard"})
            return
        watched = state.candidate or state.stable
        port = None if watched is None else state.slots.get(watched)
        if watched is None or port is None or not _is_started(state, watched) or self._was_stopped(watched):
            self._release = self._observer = None
            return
        process = rig.supervisor.state(f"runner-{watched}")
        if process.state == "failed":
            self._act(state, f"release {watched} does not stay up: {process.detail}", {"by": rig.supervisor.name})
            return
        url = rig.site.config.deploy.prometheus
        if url is None:
            return
        look = self._judge(watched, port, url)
        if look.decision == "rollback":
            self._act(state, look.why, look.to_dict())
        elif look.alarm:
            self._tell(f"blind: {look.why}")
        else:
            self._told.clear()

    def _judge(self, watched: str, port: int, url: str) -> Look:
        """Look once, over windows that begin when the release became what it is now."""
        rig, since_s = self._rig, began_s(self._rig, watched)
        if (watched, since_s) != self._release or self._observer is None:
            self._release = (watched, since_s)
            self._observer = Observer(
                load_slo(rig.site.release(watched) / "config/slo.yaml"),
                candidate=instance(port),
                stable=None,
                scale=rig.site.config.deploy.time_scale,
                closure=instance(port),
                since_s=since_s,
                look_s=rig.site.config.deploy.look_every_s,
            )
        with Prometheus(url, timeout_s=5.0) as prometheus:
            return self._observer.look(prometheus, rig.clock.now().timestamp())

    def _sees(self, watched: str, port: int, slo: str) -> bool:
        """Return whether a row an alert is about looks as bad from here, or cannot be seen.

        The rules of Prometheus know nothing of releases: what they count over an hour may be another's, or the past of
        a symbol that was just added.
        """
        url = self._rig.site.config.deploy.prometheus
        if url is None:
            return True
        try:
            levels = {r.row: r.level for r in self._judge(watched, port, url).readings}
        except V13Error:
            return True
        return levels.get(slo) in (None, "rollback", "no_data")

    def _was_stopped(self, release: str) -> bool:
        """Return whether a release was stopped and nothing put in its place: by us or by people, it stays so."""
        ended: dict[str, str] = {}
        for row in reversed(self._rig.ledger.rows()):
            record = row.record
            if record["kind"] == "slot" and record["release"] == release:
                return False
            if record["kind"] == "end":
                ended[record["key"]] = record["outcome"]
            if record["kind"] == "begin" and record.get("bad") == release:
                return ended.get(record["key"]) == "stopped"
        return False

    def _act(self, state: State, why: str, evidence: Mapping[str, Any]) -> None:
        """Take it back; an operator's rollback or another worker's goes first."""
        running = state.open
        if running is not None and running.kind == "rollback" and self._is_at_work(running):
            return
        watched = state.candidate or state.stable
        goes_on = running is not None and running.kind == "rollback"
        self._rig.say(f"guard: taking back: {why}")
        try:
            done = roll_back(self._rig, kind="automatic", reason=why, evidence=evidence, of=watched, goes_on=goes_on)
        except V13Error as error:
            self._let_go()
            self._tell(f"could not take it back: {error}")
            return
        self._rig.say(f"guard: {done.outcome}: {done.target.good or 'nothing'} serves, after {done.seconds:.1f} s")
        self._release = self._observer = None
        try:
            conclude(self._rig, done.operation)
        except (V13Error, OSError) as error:  # as on a full disk: what serves is watched all the same
            self._rig.say(f"guard: no record of {done.operation}: {error}")

    def _let_go(self) -> None:
        """Leave a rollback that failed half-way to whoever comes first: people, or the next look."""
        with suppress(V13Error):  # as on a full disk: it goes on with it all the same
            running = self._rig.ledger.state().open
            if running is not None and running.kind == "rollback" and running.worker == this_process():
                self._unfinished = running.id
                self._rig.ledger.let_go(running.id)

    def _is_at_work(self, running: Operation) -> bool:
        """Return whether somebody carries an operation out; this process does not while it looks."""
        return is_alive(running.worker) and not (running.id == self._unfinished and running.worker == this_process())

    def _is_denied(self, alarm: Alarm) -> bool:
        """Return whether Prometheus can be asked and knows nothing of an alert."""
        url = self._rig.site.config.deploy.prometheus
        if url is None:
            return False
        query = f'ALERTS{{alertname="{alarm.name}",instance="{alarm.instance}",alertstate="firing"}}'
        try:
            with Prometheus(url, timeout_s=5.0) as prometheus:
                return not prometheus.instant(query, self._rig.clock.now().timestamp())
        except V13Error:
            return False

    def _tell(self, why: str) -> None:
        """Enter an alarm, once as long as it lasts."""
        if why not in self._told:
            self._told.add(why)
            self._rig.say(f"guard: ALARM: {why}")
            self._rig.ledger.note("alarm", {"what": "guard", "why": why, "by": "guard"})


def run_guard(rig: Rig, stop: threading.Event | None = None) -> None:
    """Guard until SIGTERM, SIGINT or `stop`.

    Raises
    ------
    ReleaseError
        Its port is taken or its token cannot be read.
    """
    ended = stop or threading.Event()
    if stop is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
    deploy = rig.site.config.deploy
    path = ensure_token(rig.site)
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path}: cannot be read: {error}") from error
    guard = Guard(rig)
    with Webhook(deploy.guard_host, deploy.guard_port, token, since=guard.since, now=rig.clock.now) as ear:
        rig.say(f"guard: listens on {deploy.guard_host}:{ear.port}")
        next_s, parent = rig.clock.monotonic_s(), os.getppid()
        while not ended.is_set():
            if os.getppid() != parent or _is_orphan(rig):  # another supervisor is wanted, and a guard of that one
                rig.say("guard: the supervisor is gone; starting it again")
                rig.supervisor.ensure_up()
                return
            try:
                guard.alarm(ear.alarms.get(timeout=min(0.5, deploy.look_every_s)))
            except queue.Empty:
                pass
            except V13Error as error:
                rig.say(f"guard: {error}")
            if rig.clock.monotonic_s() < next_s:
                continue
            next_s = rig.clock.monotonic_s() + deploy.look_every_s
            try:
                guard.look()
            except V13Error as error:  # such as a ledger on a full disk: it must go on looking
                rig.say(f"guard: {error}")


def _is_orphan(rig: Rig) -> bool:
    """Return whether a supervisord started this process and is gone, be it before anybody could ask who it was."""
    if rig.supervisor.name != "supervisord" or orphans.PROGRAM not in os.environ:  # a person may have started it
        return False
    try:
        return b"supervisord" not in Path("/proc", str(os.getppid()), "cmdline").read_bytes()
    except OSError:  # there is no /proc: only a change of the parent tells
        return False


def _is_starting(state: State, release: str) -> bool:
    running = state.open
    is_deploy = running is not None and running.kind == "deploy"
    return is_deploy and release == state.candidate and not _is_started(state, release)


def _is_started(state: State, release: str) -> bool:
    """Return whether a release is meant to run by now: one that is still being built or started is not judged."""
    running = state.open
    if release == state.candidate:
        return running is not None and running.kind == "deploy" and "start" in running.done
    return running is None
