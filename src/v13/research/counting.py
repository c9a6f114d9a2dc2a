"""The events of every setting of a grid counted, by time block, bucket and horizon, and nothing more.

Where no cooldown can bind all thresholds are answered by one histogram (`boxes`); else each setting is derived from a
neighbour. Both count exactly what `slices` lists. Nothing here ranks, tests or chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from v13.detector import FeatureColumns
from v13.detector.dtypes import N_BUCKETS
from v13.detector.scanning import Walk, in_threads
from v13.errors import DataError
from v13.research import grid_kernel
from v13.research.boxes import Boxes, Counts, Outlook, empty_counts, unpack
from v13.research.grid import Blocks, Slice, SymbolScan, lowest, parents, plan, scan_columns
from v13.research.pool import Pooled, pool
from v13.research.settings import Settings

__all__ = ["count_grid", "count_slice"]

I8 = NDArray[np.int64]


def _may_bind(part: Slice) -> bool:
    """Whether events of a side can be closer than the cooldown; pivots of a kind are swing_L + 1 bars apart or more."""
    return part.cooldown_ms > (part.swing_L + 1) * part.features.bar_ms


def count_slice(part: Slice, scans: Sequence[SymbolScan], blocks: Blocks, cost_bps: float = 0.0) -> Counts:
    """Count the events of every setting of a slice and nothing more: (n, hits, n_all, hits_all, n_events).

    Where no cooldown can bind and moves are judged without a cost, all thresholds are answered by one histogram with
    suffix sums, in time that hardly depends on their number; else in time that goes with what differs from a setting
    to the next.
    """
    n_blocks, n_horizons = len(blocks.edges) - 1, len(scans[0].horizons)
    if cost_bps == 0 and not _may_bind(part):
        counts = empty_counts(len(part.numbers), n_blocks, n_horizons)
        boxes = Boxes.of([part], [part.swing_L], n_blocks, n_horizons)
        table = boxes.table()
        for one in scans:
            runs = np.append(np.searchsorted(one.segment, np.arange(one.segment[-1] + 1)), len(one.segment))
            outlook = Outlook.of(one.ts_ms, one.px, runs, one.horizons, blocks)
            cands = one.candidates[part.swing_L]
            boxes.add(cands[None], np.array([len(cands)]), outlook, table)
        boxes.read(0, [table], np.arange(len(part.numbers)), counts)
        return counts
    return _count_silenced(part, pool(part, scans, blocks, cost_bps, with_returns=False), n_blocks)


def _count_silenced(part: Slice, pooled: Pooled, n_blocks: int) -> Counts:
    """Derive each setting from a neighbour, from whom it differs by the candidates that no longer pass."""
    n_horizons = pooled.outcome.shape[1]
    table = np.zeros((len(part.numbers), (n_blocks + 1) * N_BUCKETS * n_horizons + n_blocks), np.int64)
    n_values = max(map(len, part.axes.values())) + 1
    reached = pooled.passed.T.astype(np.min_scalar_type(n_values), order="C")  # whole numbers of few bits sort faster
    by_value = reached.argsort(axis=1, kind="stable").astype(np.int32)
    ends = [np.bincount(own, minlength=n_values).cumsum() for own in reached]
    value_start = np.column_stack([np.zeros(len(ends), np.int64), *np.transpose(ends)])
    ts_ms = pooled.ts_ms[pooled.first[:-1]]
    apart_ms = np.ptp(ts_ms) + part.cooldown_ms if ts_ms.size else 0  # of one symbol and side from the next
    ts_ms = ts_ms + np.repeat(np.arange(len(pooled.track) - 1) * apart_ms, np.diff(pooled.track))
    candidates = (pooled.first, pooled.bar_of, ts_ms, pooled.passed, by_value, value_start)
    facts = (pooled.block, pooled.inside, pooled.bucket, pooled.outcome, n_blocks)
    grid_kernel.count_silenced(*candidates, part.coords, *parents(part.coords), part.cooldown_ms, *facts, table)
    return unpack(table, n_blocks, n_horizons)


def count_grid(
    settings: Settings,
    columns: Sequence[FeatureColumns],
    horizons: tuple[int, ...],
    blocks: Blocks,
    cost_bps: float = 0.0,
    workers: int = 1,
) -> Counts:
    """Count the events of every setting of a grid over one set of features, from the features of each symbol.

    Returns (n, hits, n_all, hits_all, n_events) as in `SliceResult`, in the order of the settings. Candidates are
    counted as they are found and not kept, but for slices whose cooldown may bind; see `count_slice`.

    Raises
    ------
    DataError
        The grid varies the features.
    """
    slices = plan(settings)
    if len(settings.features()) != 1:
        raise DataError("count_grid: expected one set of features for the whole grid")
    counts = empty_counts(len(settings), len(blocks.edges) - 1, len(horizons))
    replayed = [part for part in slices if cost_bps > 0 or _may_bind(part)]
    if replayed:
        scans = [scan_columns(of_symbol, replayed, horizons, workers) for of_symbol in columns]

        def replay(part: Slice) -> None:
            for every, own in zip(counts, count_slice(part, scans, blocks, cost_bps), strict=True):
                every[part.numbers] = own

        in_threads(workers, replay, replayed)
    at_once = [part for part in slices if cost_bps == 0 and not _may_bind(part)]
    if at_once:
        _count_at_once(at_once, columns, horizons, blocks, workers, counts)
    return counts


def _count_at_once(
    slices: Sequence[Slice],
    columns: Sequence[FeatureColumns],
    horizons: tuple[int, ...],
    blocks: Blocks,
    workers: int,
    counts: Counts,
) -> None:
    """Count slices whose cooldown cannot bind; each thread takes parts of the way and fills a table of its own."""
    swings = sorted({part.swing_L for part in slices})
    boxes = Boxes.of(slices, swings, len(blocks.edges) - 1, len(horizons))
    ways = []
    for one in columns:
        walk = Walk.over(one, swings, *lowest(slices))
        outlook = Outlook.of(one.ts_ms, one.px, one.runs, horizons, blocks)
        ways += [(walk, outlook, part) for part in walk.parts(workers)]
    left = iter(ways)

    def fill(_: int) -> I8:
        table = boxes.table()
        for walk, outlook, part in left:
            for cands, n_cands in walk.candidates(part):
                boxes.add(cands, n_cands, outlook, table)
        return table

    tables = in_threads(workers, fill, range(workers))
    in_threads(workers, lambda i: boxes.read(i, tables, slices[i].numbers, counts), range(len(slices)))
