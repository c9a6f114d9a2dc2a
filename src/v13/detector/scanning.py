"""The scan of a grid: one pass over the feature rows finds the candidates of every `swing_L`, before any gate.

It decides nothing and holds no state: thresholds, cooldown and clusters are the caller's (`research.slices`), or the
detector's own (`engine.replay`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.detector import kernel
from v13.detector.dtypes import CANDIDATE, DECISION_PARAMS, EVENT, REASONS

__all__ = ["Scan", "candidates", "scan"]

BLOCK_BARS: Final = 4_096  # prices whose running extrema stay in the processor's nearest cache

Records = NDArray[np.void]


@dataclass(frozen=True)
class Scan:
    """The candidates of one market at several `swing_L`, before the gates.

    rows (n,) FEATURE; ts_ms (n,) int64 and segment (n,) int32, the number of its gap-free run, of each; taken (t,)
    int32 rows that have a price; px (t,) float64 their prices; candidates: by swing_L, (k,) CANDIDATE in order of bar.
    """

    rows: Records
    ts_ms: NDArray[np.int64]
    segment: NDArray[np.int32]
    taken: NDArray[np.int32]
    px: NDArray[np.float64]
    candidates: Mapping[int, Records]

    def events(self, swing_L: int, which: NDArray[np.int64] | None = None) -> Records:
        """Return candidates (all, or those at the (k,) places `which`) as full records: (k,) EVENT.

        They come from the function the detector itself uses, so they are the same to the last bit; `agree` and the
        thresholds are 0, as no gate has been passed.
        """
        found = self.candidates[swing_L] if which is None else self.candidates[swing_L][which]
        params = np.zeros(12, DECISION_PARAMS)
        params["swing_L"] = swing_L
        two, counters, three = np.zeros(2, kernel.PIVOT), np.zeros(len(REASONS), np.int64), np.zeros(3, EVENT)
        out = np.zeros(found.size, EVENT)
        kernel.expand_candidates(self.rows, swing_L, self.taken, self.px, found, params, two, counters, three, out)
        return out


def scan(
    rows: Records, swing_Ls: Sequence[int], bar_ms: int, z_hi: float = 0.0, z_mid: float = 0.0, workers: int = 1
) -> Scan:
    """Collect the candidates of several `swing_L` at once.

    Parameters
    ----------
    rows : (n,) FEATURE
        From `compute_features`.
    swing_Ls : distinct ints, >= 1
    bar_ms : int, > 0
    z_hi, z_mid : float, >= 0
        The lowest thresholds anybody will ask for: candidates below them are left out.
    workers : int
        Threads; the result does not depend on it.

    Returns
    -------
    Scan

    Notes
    -----
    One pass finds the pivots of all swings (they are nested); pairs of pivots are sparse.
    """
    n = rows.size
    ts_ms, px = np.empty(n, np.int64), np.empty(n)
    swings = np.array(sorted(swing_Ls))
    with _Threads(workers) as threads:

        def read(part: tuple[int, int]) -> tuple[int, NDArray[np.int64]]:
            gaps = np.empty(part[1] - part[0], np.int64)
            n_without, n_gaps = kernel.read_columns(rows, bar_ms + bar_ms // 2, *part, ts_ms, px, gaps)
            return n_without, gaps[:n_gaps].copy()

        found = threads.map(read, _parts(0, n, workers))
        gaps = np.concatenate([of_part for _, of_part in found])
        segment = np.repeat(np.arange(gaps.size + 1, dtype=np.int32), np.diff(gaps, prepend=0, append=n))
        taken = np.arange(n, dtype=np.int32)
        if any(n_without for n_without, _ in found):
            taken = np.flatnonzero(~np.isnan(px)).astype(np.int32)
            px = px[taken]
        edges = [0, *np.searchsorted(taken, gaps).tolist(), taken.size]
        at, reach, run = _pivots(px, edges, int(swings[0]), int(swings[-1]), workers, threads)
        readings, flags = np.empty((at.size, 4)), np.empty((3, at.size), np.int8)
        heights = np.empty((swings.size, at.size, 2))

        def look(part: tuple[int, int]) -> None:
            own = slice(*part)
            kernel.read_pivots(rows, taken, at[own], z_hi, z_mid, readings[own], *flags[:, own])
            kernel.measure_heights(px, at[own], reach[own], swings, heights[:, own])

        threads.map(look, _parts(0, at.size, workers))

        def pair(w: int) -> Records:
            size = max(256, at.size)  # three channels a pair could be more, and then the loop comes again
            while True:
                out = np.empty(size, CANDIDATE)
                facts = (rows, taken, px, at, reach, run, readings, heights[w], *flags)
                k = kernel.scan_pairs(int(swings[w]), *facts, out)
                if k <= size:
                    return out[:k]
                size = k

        candidates_of = threads.map(pair, range(swings.size))
    return Scan(rows, ts_ms, segment, taken, px, dict(zip(swings.tolist(), candidates_of, strict=True)))


def candidates(rows: Records, swing_L: int, bar_ms: int) -> Records:
    """Return every candidate of one `swing_L` before the gates: (k,) EVENT, in order of bar."""
    return scan(rows, [swing_L], bar_ms).events(swing_L)


class _Threads:
    """A thread pool, or none for one worker; `map` gives results in order."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def map(self, call: Callable[[Any], Any], over: Iterable[Any]) -> list[Any]:
        return list(map(call, over)) if self._pool is None else list(self._pool.map(call, over))


def _parts(first: int, last: int, workers: int) -> list[tuple[int, int]]:
    edges = np.linspace(first, last, max(workers, 1) + 1).astype(int).tolist()
    return list(itertools.pairwise(edges))


def _pivots(
    px: NDArray[np.float64], edges: list[int], least: int, most: int, workers: int, threads: _Threads
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return place, reach (negative: a low) and number of the gap-free run of every pivot."""

    def find(part: tuple[int, int, int, int, int]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        number, first, last, start, stop = part
        at = np.empty((stop - start) // (least + 1) * 2 + 4, np.int32)  # extrema of a kind lie over `least` bars apart
        reach = np.empty_like(at)
        scratch = np.empty((2, 2, min(BLOCK_BARS, stop - start) + 2 * least))
        n = kernel.find_pivots(px, first, last, start, stop, least, most, *scratch, at, reach)
        return at[:n], reach[:n], np.full(n, number, np.int32)

    parts = []
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        pieces = workers if last - first > 50_000 else 1  # a shorter run is not worth a second thread
        parts += [(number, first, last, *part) for part in _parts(first, last, pieces) if part[1] > part[0]]
    found = threads.map(find, parts)
    if not found:
        nothing = np.zeros(0, np.int32)
        return nothing, nothing, nothing
    at, reach, run = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return at, reach, run
