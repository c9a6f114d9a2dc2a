"""When files may have changed: the kernel tells of the folders they lie in, and besides they are looked at each second.

The look finds what no folder tells: a link that was switched, a folder that was moved away or was not there, a file
system without such news. What is in a file is not asked here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

from v13.live.clock import Clock

__all__ = ["FileWatch", "Stamps"]

log = logging.getLogger(__name__)
logging.getLogger("watchfiles.main").setLevel(logging.WARNING)  # it tells of every change, wanted or not

LOOK_S: Final = 1.0
STEP_MS: Final = 50  # how soon a change is told, and the longest `run` takes to end

Stamps = dict[Path, tuple[int, ...] | None]  # what a file system says of a file; None: it is not there


class FileWatch:
    """Watches some files.

    Parameters
    ----------
    paths : callable
        The files, absolute; asked again and again, as they may become others.
    clock : Clock
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], clock: Clock) -> None:
        self._paths = paths
        self._clock = clock
        self._is_over = asyncio.Event()

    def stamps(self) -> Stamps:
        """Return what tells a file from another or an earlier one without reading it."""
        return {path: _stamp(path) for path in self._paths()}

    def stop(self) -> None:
        """Let `run` end: to cancel it alone would wait for the thread it watches in."""
        self._is_over.set()

    async def run(self, wake: Callable[[], None]) -> None:
        """Call `wake` when something may have changed, and each second, until stopped."""
        is_told = False
        while not self._is_over.is_set():
            folders = self._folders()
            news = awatch(
                *sorted(path for path, _ in folders),
                watch_filter=None,
                recursive=False,
                step=STEP_MS,
                rust_timeout=int(LOOK_S * 1_000),
                yield_on_timeout=True,
                stop_event=self._is_over,
            )
            try:
                async with aclosing(news):
                    async for _ in news:
                        wake()
                        if self._folders() != folders:
                            break
            except (OSError, RuntimeError) as error:  # a folder that went just now, or no watches are left
                if not is_told:
                    log.warning("files are only looked at each %g s, as they cannot be watched: %s", LOOK_S, error)
                is_told = True
                await self._clock.sleep(LOOK_S)
                wake()

    def _folders(self) -> set[tuple[Path, int]]:
        """Return the folders that are there, links resolved, and which ones of that name they are."""
        found = set()
        for path in self._paths():
            stamp = _stamp(path.parent)
            if stamp is not None and path.parent.is_dir():
                found.add((path.parent.resolve(), stamp[0]))
        return found


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_dev, found.st_mtime_ns, found.st_ctime_ns, found.st_size
