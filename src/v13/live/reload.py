"""Hot reload: a changed file is read and checked whole, then takes effect at the next bar boundary, or not at all.

It is about the files of the settings and those that these name: parameters, overrides, calibration, sign-off. It
decides when they are read and whether they are good; `v13.live.reload_parts` puts them into force.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from v13.config import Config, Loaded
from v13.errors import StoreError, V13Error
from v13.live.artifacts import Artifacts, read_artifacts
from v13.live.clock import Clock
from v13.live.deadline import first_of
from v13.live.reload_change import differences, refuse_unfit
from v13.live.reload_watch import FileWatch, Stamps
from v13.telemetry import Metrics

__all__ = ["ExtraFile", "Reloader"]

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.25  # a file that changes again so soon is still being written
TELL_S: Final = 10.0  # of waiting for that, before it is told
NAMED: Final = ("parameters", "overrides", "calibration", "signoff")


@dataclass
class ExtraFile:
    """A further file that is reloaded with the others.

    Attributes
    ----------
    path : Path
    read : callable
        Reads and checks it whole; raises ConfigError that names file, key and line.
    take : callable
        Puts what was read into force; cannot fail.
    value : object
        What is in force.
    """

    path: Path
    read: Callable[[Path], Any]
    take: Callable[[Any], None]
    value: Any


class _Found(NamedTuple):
    loaded: Loaded
    artifacts: Artifacts
    extra: list[Any]


class Reloader:
    """Keeps a runner's configuration that of its files.

    Parameters
    ----------
    root : Path
        Relative paths of the settings are below it.
    loaded : Loaded
    artifacts : Artifacts
        Both as they are in force.
    load : callable
        Reads the settings, with the environment variables and flags the runner was started with.
    take : callable
        Puts settings and artifacts into force as a whole, and returns what to call them; raises StoreError where it
        could not, and nothing has changed.
    asked : asyncio.Event
        Set it (SIGHUP) to have everything read again, changed or not.
    metrics : Metrics
    clock : Clock
    is_replay : bool
    extra : sequence of ExtraFile

    Notes
    -----
    A configuration is counted as reloaded when it changes anything or follows a refused one, and as refused once for
    each content of the files. One that could not be entered into the event log is tried again until it can.
    """

    def __init__(
        self,
        root: Path,
        loaded: Loaded,
        artifacts: Artifacts,
        *,
        load: Callable[[], Loaded],
        take: Callable[[Config, Artifacts], str],
        asked: asyncio.Event,
        metrics: Metrics,
        clock: Clock,
        is_replay: bool = False,
        extra: Sequence[ExtraFile] = (),
    ) -> None:
        self._root = root.absolute()
        self._force = loaded.config, artifacts  # in force
        self._load = load
        self._take = take
        self._asked = asked
        self._metrics = metrics
        self._clock = clock
        self._is_replay = is_replay
        self._extra = tuple(extra)
        self._settings_files = [path.absolute() for path in loaded.files]
        self._named = loaded.config  # what it names is watched, also if it was refused
        self._watch = FileWatch(self._files, clock)
        self._seen: Stamps = {}
        self._tried: dict[Path, str | None] = {}
        self._is_refused = False
        self._is_owed = False  # good, but the log did not take it

    async def run(self) -> None:
        """Work until cancelled."""
        wake = asyncio.Event()
        wake.set()  # what changed while the runner started
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch.run(wake.set))
            try:
                while True:
                    await first_of(wake.wait(), self._asked.wait())
                    wake.clear()
                    is_asked = self._asked.is_set()
                    self._asked.clear()
                    if is_asked or self._is_owed or self._watch.stamps() != self._seen:
                        await self._reload(is_asked)
            finally:
                self._watch.stop()

    async def _reload(self, is_asked: bool) -> None:
        while True:
            seen = await self._settled()
            contents = await asyncio.to_thread(self._contents)
            if contents == self._tried and not is_asked and not self._is_owed:
                self._seen = seen
                return
            found = await asyncio.to_thread(self._read)
            if self._watch.stamps() == seen:
                break  # else files were changed meanwhile, or the settings name others now
        self._seen, self._tried = seen, contents
        if isinstance(found, _Found):
            self._judge(found, is_asked)
        else:
            self._is_owed = False
            self._refuse(found)

    async def _settled(self) -> Stamps:
        """Return what the files are once they are left alone."""
        waited_s = 0.0
        stamps = self._watch.stamps()
        while True:
            await self._clock.sleep(SETTLE_S)
            now = self._watch.stamps()
            if now == stamps:
                return now
            waited_s += SETTLE_S
            if waited_s >= TELL_S:
                busy = [str(path) for path in now if now[path] != stamps.get(path)]
                log.warning("not reloaded yet: %s is written to without a pause", ", ".join(busy))
                waited_s = 0.0
            stamps = now

    def _files(self) -> list[Path]:
        names = [getattr(self._named.runner, name) for name in NAMED]
        named = [self._root / name for name in names if name is not None]
        return [*self._settings_files, *named, *(extra.path for extra in self._extra)]

    def _contents(self) -> dict[Path, str | None]:
        return {path: _sha256(path) for path in self._files()}

    def _read(self) -> _Found | str:
        """Read everything; return what is wrong with it, if anything is."""
        try:
            loaded = self._load()
            self._named = loaded.config
            artifacts = read_artifacts(self._root, loaded.config)
            return _Found(loaded, artifacts, [extra.read(extra.path) for extra in self._extra])
        except V13Error as error:
            return str(error)
        except Exception as error:  # whatever a file holds: the runner goes on with what it has
            log.exception("a file could not be read in a way nobody thought of")
            return f"{type(error).__name__}: {error}"

    def _judge(self, found: _Found, is_asked: bool) -> None:
        new = found.loaded.config, found.artifacts
        try:
            refuse_unfit(self._root, self._force, found.loaded, found.artifacts, is_replay=self._is_replay)
            changes = differences(self._force, new)
            changed = [(e, value) for e, value in zip(self._extra, found.extra, strict=True) if value != e.value]
            label = self._take(*new) if changes else "as before"
        except V13Error as error:
            is_owed, self._is_owed = self._is_owed, isinstance(error, StoreError)
            if not (is_owed and self._is_owed):  # told once, however often it is tried
                self._refuse(str(error))
            return
        self._is_owed = False
        self._force = new
        for extra, value in changed:
            extra.take(value)
            extra.value = value
            changes.append(f"{extra.path}: changed")
        if changes or self._is_refused:
            self._accept(label, changes)
        elif is_asked:
            log.info("configuration read again as asked: nothing has changed")

    def _accept(self, label: str, changes: Sequence[str]) -> None:
        self._is_refused = False
        with self._metrics.together():
            self._metrics.inc("divergence_config_reloads_total", result="ok")
            self._metrics.set("divergence_config_last_reload_successful", 1.0)
            self._metrics.set("divergence_config_last_reload_success_timestamp_seconds", self._clock.wall_ms() / 1e3)
        log.info("configuration %s in force: %s", label, "; ".join(changes) or "the files are good again")

    def _refuse(self, text: str) -> None:
        self._is_refused = True
        with self._metrics.together():
            self._metrics.inc("divergence_config_reloads_total", result="refused")
            self._metrics.inc("divergence_errors_total", stage="reload")
            self._metrics.set("divergence_config_last_reload_successful", 0.0)
        log.error("configuration refused, the old one stays: %s", text)


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
