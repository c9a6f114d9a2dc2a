"""The scan of a grid: one pass over the features finds the candidates of every `swing_L`, before any gate.

It decides nothing and holds no state: thresholds, cooldown and clusters are the caller's (`research.slices`), or the
detector's own (`engine.replay`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from v13.detector import kernel
from v13.detector.columns import FeatureColumns
from v13.detector.dtypes import CANDIDATE, DECISION_PARAMS, EVENT, REASONS

__all__ = ["Scan", "Walk", "candidates", "in_threads", "scan"]

BLOCK_BARS: Final = 2_048  # prices whose running extrema stay in the processor's nearest cache
CHUNK_BARS: Final = 8_192  # bars whose candidates stay in the second nearest
PARTS_A_WORKER: Final = 4  # so that no thread waits long for another
LOOK_BACK_BARS: Final = 512  # where the pivots before a part are looked for first

Records = NDArray[np.void]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Scan:
    """The candidates of one market at several `swing_L`, before the gates.

    columns: its features; taken (t,) int32 the bars that have a price, or (0,) if all have; px (t,) float64 the prices
    of these; candidates: by swing_L, (k,) CANDIDATE in order of bar.
    """

    columns: FeatureColumns
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
        a, b = (self.taken[found[name]] if self.taken.size else found[name] for name in ("a", "b"))
        rows = self.columns.rows(np.column_stack([a, b, found["bar"]]).astype(np.int64))
        out = np.zeros(found.size, EVENT)
        kernel.expand_candidates(rows, swing_L, self.taken, self.px, found, params, two, counters, three, out)
        return out


@dataclass(frozen=True)
class Walk:
    """A way over the bars of one market, to be gone in parts and each part in chunks; no cut changes a candidate.

    swings (w,) int64, ascending; taken, px as in `Scan`; edges (r + 1,) int64, the gap-free runs among the bars that
    have a price; z_hi, z_mid: the lowest thresholds anybody will ask for.
    """

    columns: FeatureColumns
    swings: NDArray[np.int64]
    taken: NDArray[np.int32]
    px: NDArray[np.float64]
    edges: NDArray[np.int64]
    z_hi: float
    z_mid: float

    @classmethod
    def over(cls, columns: FeatureColumns, swing_Ls: Sequence[int], z_hi: float, z_mid: float) -> Walk:
        """Make ready; see `scan`."""
        taken, px, edges = np.zeros(0, np.int32), columns.px, columns.runs
        if not columns.has_all_prices:
            taken = np.flatnonzero(~np.isnan(px)).astype(np.int32)
            px, edges = px[taken], np.searchsorted(taken, edges).astype(np.int64)
        return cls(columns, np.array(sorted(swing_Ls), np.int64), taken, px, edges, z_hi, z_mid)

    def parts(self, workers: int) -> list[tuple[int, int]]:
        """Divide the way for a number of threads; a short one stays whole."""
        pieces = min(workers * PARTS_A_WORKER, max(1, self.px.size // (4 * CHUNK_BARS))) if workers > 1 else 1
        return list(itertools.pairwise(np.linspace(0, self.px.size, pieces + 1).astype(int).tolist()))

    def candidates(self, part: tuple[int, int]) -> Iterator[tuple[Records, NDArray[np.int64]]]:
        """Yield the candidates of a part, of some bars at a time: (w, m) CANDIDATE and how many of each swing hold.

        Those are in order of bar and channel. The next step overwrites both arrays.
        """
        least = int(self.swings[0])
        size = min(CHUNK_BARS, part[1] - part[0])
        block = min(BLOCK_BARS, max(size, LOOK_BACK_BARS))
        low, high = np.empty((2, 2, block + 2 * least))
        scratch = (low, high, np.empty(block, np.int8), *np.empty((2, block + 1), np.int64))
        out = np.empty((self.swings.size, 6 * (size // (least + 1) + 2)), CANDIDATE)
        n_out = np.zeros(self.swings.size, np.int64)
        facts = (self.px, self.taken, self.columns.readings, self.columns.vol_ok, self.columns.flags)
        fixed = (facts, self.edges, self.swings, self.z_hi, self.z_mid)
        last = self._before(part[0], fixed, scratch, out, n_out)
        for begin in range(*part, CHUNK_BARS):
            stop = min(begin + CHUNK_BARS, part[1])
            kernel.scan_chunk(*fixed, begin, begin, stop, *scratch, last, out, n_out)
            yield out, n_out

    def _before(self, start: int, fixed: tuple[object, ...], scratch: tuple[object, ...], *out: object) -> Records:
        """Return the last pivots of each kind and swing before a bar: (w, 2) LAST."""
        first = int(self.edges[np.searchsorted(self.edges, start, side="right") - 1])
        look_back = LOOK_BACK_BARS
        while True:
            last = np.zeros((self.swings.size, 2), kernel.LAST)
            last["place"] = -1
            begin = max(first, start - look_back)
            if begin < start:
                kernel.scan_chunk(*fixed, begin, start, start, *scratch, last, *out)
            if begin == first or (last["place"] >= 0).all():
                return last
            look_back *= 4


def scan(
    columns: FeatureColumns, swing_Ls: Sequence[int], z_hi: float = 0.0, z_mid: float = 0.0, workers: int = 1
) -> Scan:
    """Collect the candidates of several `swing_L` at once.

    Parameters
    ----------
    columns : FeatureColumns
        Of n bars.
    swing_Ls : distinct ints, >= 1
    z_hi, z_mid : float, >= 0
        The lowest thresholds anybody will ask for: candidates below them are left out.
    workers : int
        Threads; the result does not depend on it.

    Returns
    -------
    Scan
    """
    walk = Walk.over(columns, swing_Ls, z_hi, z_mid)

    def collect(part: tuple[int, int]) -> list[list[Records]]:
        return [
            [of_swing[:n].copy() for of_swing, n in zip(out, n_out.tolist(), strict=True)]
            for out, n_out in walk.candidates(part)
        ]

    chunks = list(itertools.chain.from_iterable(in_threads(workers, collect, walk.parts(workers))))
    of_swing = zip(*chunks, strict=True) if chunks else itertools.repeat([np.zeros(0, CANDIDATE)])
    found = {swing_L: np.concatenate(kept) for swing_L, kept in zip(walk.swings.tolist(), of_swing, strict=False)}
    return Scan(columns, walk.taken, walk.px, found)


def candidates(rows: Records, swing_L: int, bar_ms: int) -> Records:
    """Return every candidate of one `swing_L` before the gates: (k,) EVENT, in order of bar, from (n,) FEATURE."""
    return scan(FeatureColumns.of(rows, bar_ms), [swing_L]).events(swing_L)


def in_threads(workers: int, call: Callable[[T], R], over: Iterable[T]) -> list[R]:
    """Return what `call` gives for each, in order; one worker is this very thread."""
    if workers <= 1:
        return list(map(call, over))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, over))
