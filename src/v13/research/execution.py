"""Where a grid is judged: in threads here, or as tasks of a Dask cluster; and what survives an interruption.

The tasks are the pure functions of `grid` and `slices`, so the place changes no bit of the result. There is no
scheduler of our own: threads are the standard library's, and past one machine it is Dask's.
"""

from __future__ import annotations

import fcntl
import io
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from v13 import store
from v13.detector import FeatureParams, SessionClock
from v13.errors import ConfigError, StoreError
from v13.research.grid import Blocks, Slice, SymbolScan, plan, scan_symbol
from v13.research.run import code_fingerprint
from v13.research.settings import Settings
from v13.research.slices import SliceResult, judge_slice
from v13.research.trials import SymbolPart

__all__ = ["Job", "Progress", "judge_grid"]

Progress = Callable[[int, int], None]
WORTH_KEEPING_S: Final = 1.0  # a slice judged faster is judged again sooner than it is read
CONNECT_S: Final = 10.0


@dataclass(frozen=True)
class Job:
    """What every task of a search needs to know beside its slice and its bars; see `slices.judge_slice`."""

    sessions: SessionClock
    horizons: tuple[int, ...]
    blocks: Blocks
    shifts: np.ndarray[Any, np.dtype[np.int64]]
    least_events: int
    cost_bps: float
    keep_trials: bool


class _Place(Protocol):
    """Gives the results of some slices of one set of features, in any order."""

    def judge(
        self, features: FeatureParams, slices: Sequence[tuple[int, Slice]], parts: Sequence[SymbolPart], job: Job
    ) -> Iterator[tuple[int, SliceResult]]: ...


def judge_grid(
    settings: Settings,
    parts: Sequence[SymbolPart],
    job: Job,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[Slice, SliceResult]]:
    """Judge all settings of a grid.

    Parameters
    ----------
    workers : int
        Threads; ignored with a scheduler.
    scheduler : str, optional
        Address of a Dask scheduler, e.g. tcp://host:8786, whose workers have this very code of v13 installed: they
        are asked before a task is sent, and each task asks again, as a worker may come later.
    kept : Path, optional
        Folder for finished slices: what it holds is not judged again. It must belong to these very inputs. It is locked
        (`flock`) while this runs.
    progress : callable, optional
        Called with (settings done, settings in all).

    Raises
    ------
    ConfigError
        The scheduler cannot be reached, or a worker runs other code.
    StoreError
        Another run holds the folder `kept`, or it cannot be written.
    """
    with _locked(kept):
        return _judge_all(settings, parts, job, workers, scheduler, kept, progress)


def _judge_all(
    settings: Settings,
    parts: Sequence[SymbolPart],
    job: Job,
    workers: int,
    scheduler: str | None,
    kept: Path | None,
    progress: Progress | None,
) -> list[tuple[Slice, SliceResult]]:
    slices = plan(settings)
    results: dict[int, SliceResult] = {}
    for i in range(len(slices)):
        found = None if kept is None else _read(kept / f"{i}.npz")
        if found is not None:
            results[i] = found

    def tell() -> None:
        if progress is not None:
            progress(sum(len(slices[i].numbers) for i in results), len(settings))

    tell()
    pending: dict[FeatureParams, list[tuple[int, Slice]]] = {}
    for i, part in enumerate(slices):
        if i not in results:
            pending.setdefault(part.features, []).append((i, part))
    with _place(workers, scheduler) as place:
        for features, group in pending.items():
            began = time.monotonic()
            for i, result in place.judge(features, group, parts, job):
                if kept is not None and time.monotonic() - began > WORTH_KEEPING_S:
                    _write(kept / f"{i}.npz", result)
                results[i] = result
                tell()
    return [(slices[i], results[i]) for i in range(len(slices))]


@contextmanager
def _place(workers: int, scheduler: str | None) -> Iterator[_Place]:
    if scheduler is None:
        yield _Threads(workers)
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"--scheduler: {scheduler}: cannot be reached ({error})") from error
    try:
        _check_workers(client, code_fingerprint())
        yield _Cluster(client, code_fingerprint())
    finally:
        client.close()


def _check_workers(client: Any, code: str) -> None:
    """Refuse a cluster of which a worker runs other code than ours: its results would pass for ours."""

    def ask() -> str:  # sent by value, as a function in a function is: a worker without v13 can answer too
        from v13.research.run import code_fingerprint

        return code_fingerprint()

    answers = client.run(ask, on_error="return")
    other = []
    for address, found in sorted(answers.items()):
        if isinstance(found, Exception):
            other.append(f"{address} cannot tell ({type(found).__name__}: {found})")
        elif found != code:
            other.append(f"{address} runs {found[:12]}")
    if other:
        raise ConfigError(
            f"--scheduler: workers with other code of v13 than here ({code[:12]}): {'; '.join(other)}; install the "
            "same version on all of them and start them again"
        )


def _on_worker(code: str, task: Callable[..., Any], *arguments: Any) -> Any:
    """Do a task, unless this worker came after the others were asked and runs other code."""
    own = code_fingerprint()
    if own != code:
        raise ConfigError(f"--scheduler: a worker runs code {own[:12]} of v13, expected {code[:12]}")
    return task(*arguments)


@dataclass(frozen=True)
class _Threads:
    workers: int

    def judge(
        self, features: FeatureParams, slices: Sequence[tuple[int, Slice]], parts: Sequence[SymbolPart], job: Job
    ) -> Iterator[tuple[int, SliceResult]]:
        only = [part for _, part in slices]
        scans = [scan_symbol(p.bars, features, only, job.sessions, job.horizons, self.workers) for p in parts]
        if self.workers <= 1 or len(slices) == 1:
            for i, part in slices:
                yield i, _judge(part, scans, job, self.workers)
            return
        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [(i, pool.submit(_judge, part, scans, job, 1)) for i, part in slices]
            for i, future in futures:
                yield i, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Cluster:
    client: Any
    code: str

    def judge(
        self, features: FeatureParams, slices: Sequence[tuple[int, Slice]], parts: Sequence[SymbolPart], job: Job
    ) -> Iterator[tuple[int, SliceResult]]:
        from distributed import as_completed

        only = [part for _, part in slices]
        with warnings.catch_warnings():
            # Bars travel inside the task, not as data scattered to a worker: they must outlive any worker.
            warnings.filterwarnings("ignore", message="Sending large graph")
            scans = [
                self.client.submit(
                    _on_worker, self.code, scan_symbol, p.bars, features, only, job.sessions, job.horizons, retries=3
                )
                for p in parts
            ]
            futures = {
                self.client.submit(_on_worker, self.code, _judge, part, scans, job, 1, retries=3): i
                for i, part in slices
            }
        for future in as_completed(futures, loop=self.client.loop):
            yield futures[future], future.result()


def _judge(part: Slice, scans: Sequence[SymbolScan], job: Job, workers: int) -> SliceResult:
    return judge_slice(part, scans, job.blocks, job.shifts, job.least_events, job.cost_bps, job.keep_trials, workers)


@contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Hold a folder of finished slices against another run of the same key; the lock goes with the process."""
    if folder is None:
        yield
        return
    path = folder / "lock"
    try:
        handle = _lock(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be locked: {error}") from error
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # a run that ends takes its folder away: then once more
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            except BlockingIOError as error:
                os.close(handle)
                raise StoreError(
                    f"{path.parent}: another run of the same inputs, config, seed and code is searching right now; "
                    "wait for it, or stop it and start this one again, which goes on from what was finished"
                ) from error
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _write(path: Path, result: SliceResult) -> None:
    out = io.BytesIO()
    arrays = {f.name: getattr(result, f.name) for f in fields(result)}
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, out.getvalue())


def _read(path: Path) -> SliceResult | None:
    """Return a finished slice; None where there is none. Files appear whole or not at all."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return SliceResult(**{f.name: stored.get(f.name) for f in fields(SliceResult)})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # damaged by somebody else: judged again
