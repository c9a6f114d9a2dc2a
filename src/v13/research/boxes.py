"""Counting where no cooldown looks back: every threshold of many slices answered by one table with suffix sums.

It counts and keeps nothing else of an event, so candidates may come in any chunks and order, and tables that threads
filled apart are added up. Whether a cooldown binds is for the caller to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import N_BUCKETS
from v13.research import grid_kernel
from v13.research.cut import Records
from v13.research.grid import GATES, Blocks, Slice

__all__ = ["Boxes", "Counts", "Outlook", "empty_counts", "unpack"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

Counts = tuple[I8, I8, I8, I8, I8]  # n, hits, n_all, hits_all, n_events as in `slices.SliceResult`


@dataclass(frozen=True)
class Outlook:
    """What the label of a bar of one symbol is told from: as `grid_kernel.count_boxes` takes it."""

    px: F8
    runs: I8
    horizons: I8
    block_end: I8
    inside_end: I8

    @classmethod
    def of(cls, ts_ms: I8, px: F8, runs: I8, horizons: Sequence[int], blocks: Blocks) -> Outlook:
        """Take ts_ms, px (n,) of the bars and runs (r + 1,), the gap-free runs among them."""
        ends = blocks.edges[1:]
        block_end = np.searchsorted(ts_ms, ends, side="right").astype(np.int64)
        block_end[-1] = len(ts_ms)  # the last block takes what lies beyond it
        inside_end = np.searchsorted(ts_ms, ends - blocks.reach_ms, side="right").astype(np.int64)
        return cls(px, runs, np.array(horizons, np.int64), block_end, inside_end)


@dataclass(frozen=True)
class Boxes:
    """The thresholds of several slices, laid out for `grid_kernel.count_boxes`, where each array is described."""

    slices: Sequence[Slice]
    swing_of: I8
    least: F8
    gates: I8
    axes: F8
    stride: I8
    shapes: Sequence[I8]
    first_cell: I8
    n_blocks: int
    n_horizons: int

    @classmethod
    def of(cls, slices: Sequence[Slice], swings: Sequence[int], n_blocks: int, n_horizons: int) -> Boxes:
        """Lay out slices whose candidates come by the places of their `swing_L` among `swings`."""
        names = list(GATES)
        gates, stride = (np.full((len(slices), len(names)), fill, np.int64) for fill in (-1, 0))
        longest = max(len(axis) for part in slices for axis in part.axes.values())
        axes = np.full((len(slices), len(names), longest), np.nan)
        shapes, first_cell = [], [0]
        for i, part in enumerate(slices):
            shape = np.array([len(axis) for axis in part.axes.values()], np.int64)
            stride[i, : len(shape)] = np.append(np.cumprod(shape[:0:-1])[::-1], 1)
            for d, (name, axis) in enumerate(part.axes.items()):
                gates[i, d] = names.index(name)
                axes[i, d, : len(axis)] = axis
            shapes.append(shape)
            first_cell.append(first_cell[-1] + int(shape.prod()))
        least = np.array([[part.least[name] for name in names] for part in slices])
        places = {swing_L: w for w, swing_L in enumerate(swings)}
        swing_of = np.array([places[part.swing_L] for part in slices], np.int64)
        return cls(
            slices, swing_of, least, gates, axes, stride, shapes, np.array(first_cell, np.int64), n_blocks, n_horizons
        )

    def table(self) -> I8:
        """Return an empty table."""
        n_words = (self.n_blocks + 1) * N_BUCKETS * self.n_horizons + self.n_blocks
        return np.zeros((int(self.first_cell[-1]), n_words), np.int64)

    def add(self, cands: Records, n_cands: I8, outlook: Outlook, table: I8) -> None:
        """Add the events of candidates to a table; cands (w, m) CANDIDATE, the first n_cands[w] of each swing."""
        asked = (self.swing_of, self.least, self.gates, self.axes, self.stride, self.first_cell)
        seen = (outlook.px, outlook.runs, outlook.horizons, outlook.block_end, outlook.inside_end)
        grid_kernel.count_boxes(cands, n_cands, asked, seen, table)

    def read(self, i: int, tables: Sequence[I8], numbers: I8, counts: Counts) -> None:
        """Complete the i-th slice from the tables of all threads and write its settings to the rows `numbers`."""
        part, stride = self.slices[i], self.stride[i, : len(self.shapes[i])]
        cells = tables[0][self.first_cell[i] : self.first_cell[i + 1]]
        for other in tables[1:]:
            cells += other[self.first_cell[i] : self.first_cell[i + 1]]
        grid_kernel.suffix_sums(cells, self.shapes[i], stride)
        _read(cells, part.coords @ stride, numbers, counts)


def empty_counts(n_settings: int, n_blocks: int, n_horizons: int) -> Counts:
    """Return room for the counts of some settings."""
    n, hits = (np.empty((n_settings, n_blocks, N_BUCKETS, n_horizons), np.int64) for _ in range(2))
    n_all, hits_all = (np.empty((n_settings, N_BUCKETS, n_horizons), np.int64) for _ in range(2))
    return n, hits, n_all, hits_all, np.empty((n_settings, n_blocks), np.int64)


def unpack(table: I8, n_blocks: int, n_horizons: int) -> Counts:
    """Return the counts of a table with one row a setting; see `grid_kernel._add`."""
    counts = empty_counts(len(table), n_blocks, n_horizons)
    every = np.arange(len(table))
    _read(table, every, every, counts)
    return counts


def _read(table: I8, cells: I8, numbers: I8, counts: Counts) -> None:
    n, hits, n_all, hits_all, n_events = counts
    flat = [array.reshape(len(array), -1) for array in (n, hits, n_all, hits_all)]
    grid_kernel.read_counts(table, cells, numbers, *flat, n_events)
