"""Panels: how symbols lie on common times, and how a search shifts all of them in time together.

Where symbols set in or stop, time is cut into runs, and nothing is shifted out of its run (`measures.panel`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.measures import panel
from v13.research import statistic_kernel
from v13.research.grid import SymbolScan

__all__ = ["common_times", "draw_shifts", "lay_out", "n_runs", "null_of_maximum", "recorded_runs"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

LEAST_ABSENCE_LABELS: Final = 50  # of the longest horizon; as long as a run may be short, see `panel.LEAST_RUN_SHIFTS`


def common_times(times: Sequence[I8]) -> I8:
    """Return the times at which any symbol has a bar, (m,) int64, from the (n,) int64 ascending times of each."""
    if len(times) == 1:
        return times[0]
    every = np.concatenate([np.empty(0, np.int64), *times])
    every.sort(kind="stable")  # runs that are sorted already are merged
    first = np.ones(len(every), bool)
    first[1:] = every[1:] != every[:-1]
    common: I8 = every[first]
    return common


def recorded_runs(bars: Sequence[I8], length: int, horizons: Sequence[int]) -> I8:
    """Cut common times where another set of symbols is recorded: `measures.panel.recorded_runs`.

    A symbol is away where it has no bar for 50 of the longest labels; a shorter hole costs few events their labels.
    """
    return panel.recorded_runs(bars, length, LEAST_ABSENCE_LABELS * max(horizons))


def draw_shifts(times: Sequence[I8], horizons: Sequence[int], min_shift: int, n_shifts: int, seed: int) -> I8:
    """Draw the shifts of a search, one a run of the common times.

    Parameters
    ----------
    times : one (n,) int64 a symbol, ascending
    horizons : bars
    min_shift, n_shifts, seed
        As `measures.draw_shifts`; the least shift holds within every run.

    Returns
    -------
    (S, G) int64, bars
        Each run moves circularly along itself, by the same fraction of its length. Over common times G is 1, and a
        shift moves everything as `measures.draw_shifts` says for their number.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Why runs: shifted along all common times, events of symbols recorded at different times lose their labels, more at
    some shifts than at others. Settings that share the few events left are hardly different contestants, and (2 hits -
    n) / sqrt(n) cannot exceed sqrt(n): the maximum over them is too small. Counting shifts without any label as ones
    that reach, the gate then rejects next to nothing. Measured at a nominal 5 % on random walks with clustered events,
    25 nested settings, 4,000 bars a symbol, 1,500 runs a cell:

    ==================  ============  ===========  ========  =====
    symbols             correlation   all times    own       runs
    ==================  ============  ===========  ========  =====
    common times        0.95          4.5 %        4.5 %     4.9 %
    six, disjoint       0             0 %          5.1 %     5.7 %
    two, half overlap   0.95          8.2 %        7.5 %     5.5 %
    four, half overlap  0.95          0 %          8.1 %     5.9 %
    a quarter as long   0.95          6.3 %        7.6 %     4.7 %
    ==================  ============  ===========  ========  =====

    "Own": each symbol along its own times by the same fraction; it tears symbols apart that were recorded together.
    What runs do not mend: one shorter than `panel.LEAST_RUN_SHIFTS` least shifts is merged with its neighbour, where
    some events lose their labels as before. Two symbols of correlation 0.95 with a tenth of their time so merged passed
    in 6.0 % of 8,000 runs, with a third so merged in 6.5 % (along all times: 9.7 % of 2,000).
    """
    common = common_times(times)
    starts = recorded_runs([np.searchsorted(common, ts) for ts in times], len(common), horizons)
    starts = panel.merge_runs(starts, len(common), panel.LEAST_RUN_SHIFTS * min_shift)
    lengths = np.diff(np.append(starts, max(len(common), 1)))
    return measures.draw_shifts(lengths.tolist(), min_shift, n_shifts, seed)


def n_runs(shifts: I8) -> int:
    """Return the number of runs shifts are for: columns of (S, G); one where (S,) moves all common times as a whole."""
    return 1 if shifts.ndim == 1 else shifts.shape[1]


def lay_out(
    scans: Sequence[SymbolScan],
    symbol: NDArray[np.int32],
    bar: NDArray[np.int32],
    side: NDArray[np.int32],
    shifts: I8,
    cost_bps: float,
) -> tuple[NDArray[np.int8], I8, I8]:
    """Lay the outcomes of all bars of all symbols on the common times: (code, position of candidates, pieces).

    symbol, bar, side (k,) of each candidate; shifts as `draw_shifts` draws them for the
    times of the scans. Code, position and pieces as `statistic_kernel.null_maximum` takes them.
    """
    times = common_times([one.ts_ms for one in scans])
    horizons, length = scans[0].horizons, len(times)
    on_common = [np.searchsorted(times, one.ts_ms) for one in scans]
    starts = panel.merge_runs(recorded_runs(on_common, length, horizons), length, length + 1, n_runs(shifts))
    code = np.full((2, len(horizons), len(scans) * length), -1, np.int8)
    place = np.empty(len(bar), np.int64)
    for number, one in enumerate(scans):
        for h in range(len(horizons)):
            ret = one.returns(h)
            for row, way in enumerate((1, -1)):
                hit = measures.hits(ret, np.full(len(ret), way), cost_bps)
                code[row, h, number * length + on_common[number]] = np.maximum(hit, -1)
        own = symbol == number
        place[own] = number * length + on_common[number][bar[own]]
    edges = np.append(starts, length)
    run = np.searchsorted(edges, place - symbol * np.int64(length), side="right") - 1
    # Candidates side by side with one symbol and one run are a piece.
    last = np.append(np.flatnonzero((np.diff(symbol) != 0) | (np.diff(run) != 0)) + 1, len(bar))[: len(bar)]
    of = run[last - 1]
    stop = symbol[last - 1] * np.int64(length) + edges[of + 1]
    pieces = np.column_stack([last, of, stop, edges[of + 1] - edges[of]])
    return code, np.where(side < 0, place - 2 * code.shape[2], place), pieces


def null_of_maximum(
    code: NDArray[np.int8],
    position: I8,
    pieces: I8,
    origin: I8,
    chain: I8,
    entry: NDArray[np.int32],
    shifts: I8,
    eligible: NDArray[np.int8],
    null: F8,
    workers: int,
) -> None:
    """Raise null (n_shifts,) to the largest statistic of any eligible setting at each shift, on several threads.

    The arguments are those of `statistic_kernel.null_maximum`, shifts as `draw_shifts`; threads change no result.
    """
    scratch, by_run = np.empty(len(origin)), shifts.reshape(len(shifts), n_runs(shifts))

    def run(own: slice) -> None:
        statistic_kernel.null_maximum(
            code, position, pieces, origin, chain, entry, by_run[own], 0.0, eligible, scratch.copy(), null[own]
        )

    edges = np.linspace(0, len(shifts), max(workers, 1) + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    if workers <= 1:
        run(parts[0])
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, parts))
