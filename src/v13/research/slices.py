"""Slices judged: every setting of a grid from sparse candidates, exactly as the detector would at its parameters.

All settings of a slice share features, swing_L and cooldown. The functions are pure, so they run in threads here and as
tasks elsewhere with equal results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import N_BUCKETS
from v13.research import grid_kernel, panels, statistic_kernel
from v13.research.boxes import unpack
from v13.research.cut import Records
from v13.research.grid import Blocks, Slice, SymbolScan, parents
from v13.research.pool import Pooled, pool

__all__ = ["SliceResult", "judge_slice", "trial_dtype"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

LIST_ROOM: Final = 8_000_000  # events listed at a time: bounds the scratch of a slice to 32 MB


@dataclass(frozen=True)
class SliceResult:
    """What became of the s settings of a slice.

    n, hits : (s, K, 12, H) int64
        Judged events by time block, bucket and horizon. An event whose label reaches beyond its block is left out.
    n_all, hits_all : (s, 12, H) int64
        The same without blocks and without that loss.
    n_events : (s, K) int64
        All events by block, judged or not.
    bin_n, bin_hits : (s, T) int32
        Judged events and hits by fine time bin, all horizons together.
    statistic : (s,) float64; null : (n_shifts,) float64
        As `measures.MaxNull`: of each setting, and the largest of the slice at each shift.
    rho, mean_return : (s, H) float64; median_score : (s,) float64
        NaN where not defined.
    trials : Records or None
        Every event of every setting, if it was asked for: TRIAL.
    """

    n: I8
    hits: I8
    n_all: I8
    hits_all: I8
    n_events: I8
    bin_n: NDArray[np.int32]
    bin_hits: NDArray[np.int32]
    statistic: F8
    null: F8
    rho: F8
    mean_return: F8
    median_score: F8
    trials: Records | None


def trial_dtype(n_horizons: int) -> np.dtype[np.void]:
    """Return the record of one event of one setting."""
    return np.dtype(
        [
            ("setting", np.int32),
            ("symbol", np.int32),
            ("bar", np.int32),
            ("ts_ms", np.int64),
            ("side", np.int8),
            ("bucket", np.int8),
            ("score", np.float64),
            ("returns", np.float64, (n_horizons,)),
        ]
    )


def judge_slice(
    part: Slice,
    scans: Sequence[SymbolScan],
    blocks: Blocks,
    shifts: I8,
    least_events: int,
    cost_bps: float = 0.0,
    keep_trials: bool = False,
    workers: int = 1,
) -> SliceResult:
    """Judge every setting of a slice.

    Parameters
    ----------
    scans : one a symbol
    shifts : (n_shifts,) or (n_shifts, G) int64, bars
        Of the null, by run of common times; see `panels.draw_shifts`.
    least_events : int
        Judged events a setting needs at every horizon to take part in the maximum statistic.
    keep_trials : bool
        Whether to return every event of every setting as well.
    workers : int
        Threads; the result does not depend on it.
    """
    pooled = pool(part, scans, blocks, cost_bps)
    n_settings, n_horizons = len(part.numbers), pooled.outcome.shape[1]
    n_blocks, n_bins = len(blocks.edges) - 1, len(blocks.bin_edges) - 1
    facts = (pooled.block, pooled.inside, pooled.bucket, pooled.outcome, n_blocks)
    table = np.zeros((n_settings, (n_blocks + 1) * N_BUCKETS * n_horizons + n_blocks), np.int64)
    bin_of = np.clip(np.searchsorted(blocks.bin_edges, pooled.ts_ms, side="left") - 1, 0, n_bins - 1).astype(np.int32)
    bin_n, bin_hits = np.zeros((n_settings, n_bins), np.int32), np.zeros((n_settings, n_bins), np.int32)
    places = (pooled.symbol, pooled.bar, pooled.side)
    laid = panels.lay_out(scans, *places, shifts, cost_bps)
    statistic, null = np.full(n_settings, -np.inf), np.full(len(shifts), -np.inf)
    rho, mean = np.full((n_settings, n_horizons), np.nan), np.full((n_settings, n_horizons), np.nan)
    median = np.full(n_settings, np.nan)
    score = pooled.score
    signed = pooled.returns * pooled.side[:, None]
    rankings = [_ranking(score, signed[:, h]) for h in range(n_horizons)]
    trials, runs = [], []
    done = 0
    for lists in _lists(part, pooled, LIST_ROOM):
        start, event = lists.start, lists.event
        own = slice(done, done + len(start) - 1)
        grid_kernel.count_chain(lists.origin, lists.chain, lists.entry, *facts, table[own])
        statistic_kernel.net_by_bin(start, event, bin_of, pooled.outcome, bin_n[own], bin_hits[own])
        runs.append((lists.origin.copy(), lists.chain.copy(), lists.entry.copy()))
        for h, ranking in enumerate(rankings):
            statistic_kernel.rank_correlations(start, event, ranking, rho[own, h])
        for s in range(len(start) - 1):
            members = event[start[s] : start[s + 1]]
            if members.size:
                median[done + s] = np.median(score[members])
                inside = signed[members]
                labelled = ~np.isnan(inside)
                total = np.where(labelled, inside, 0.0).sum(axis=0)
                mean[done + s] = total / np.where(labelled.any(axis=0), labelled.sum(axis=0), np.nan)
        if keep_trials:
            trials.append(_trials(part.numbers[own], start, event, pooled))
        done += len(start) - 1
    links = _joined(runs)
    at_zero, least = np.zeros((1, panels.n_runs(shifts)), np.int64), float(least_events)
    everyone = np.ones(n_settings, np.int8)
    statistic_kernel.null_maximum(*laid, *links, at_zero, least, everyone, statistic, np.full(1, -np.inf))
    # Who takes part is decided once, by what was observed: a shift that moves events to times without a label (symbols
    # recorded at different times) must not leave the null without a contestant.
    eligible = np.isfinite(statistic).astype(np.int8)
    panels.null_of_maximum(*laid, *links, shifts, eligible, null, workers)
    counts = unpack(table, n_blocks, n_horizons)
    kept = np.concatenate(trials) if trials else None
    return SliceResult(*counts, bin_n, bin_hits, statistic, null, rho, mean, median, kept)


@dataclass(frozen=True)
class _Lists:
    """Events of a run of settings, as `grid_kernel.list_events` leaves them; views that the next run overwrites."""

    start: I8
    event: NDArray[np.int32]
    origin: I8
    chain: I8
    entry: NDArray[np.int32]


def _lists(part: Slice, pooled: Pooled, room: int) -> Iterator[_Lists]:
    """Yield the events of runs of settings, in order, few enough at a time for `room` events."""
    n_bars = len(pooled.first) - 1
    step = min(max(1, room // max(n_bars, 1)), len(part.numbers))
    bar_of = pooled.bar_of
    start, chain, origin = np.empty(step + 1, np.int64), np.empty(step + 1, np.int64), np.empty(step, np.int64)
    event, entry = np.empty(step * n_bars, np.int32), np.empty((step + 2) * n_bars, np.int32)
    for begin in range(0, len(part.numbers), step):
        coords = part.coords[begin : begin + step]
        parent, _ = parents(coords)
        facts = (pooled.first, bar_of, pooled.track, pooled.ts_ms, pooled.passed, coords, parent, part.cooldown_ms)
        grid_kernel.list_events(*facts, start, event, origin, chain, entry)
        n = len(coords)
        yield _Lists(start[: n + 1], event[: start[n]], origin[:n], chain[: n + 1], entry[: chain[n]])


def _joined(links: Sequence[tuple[I8, I8, NDArray[np.int32]]]) -> tuple[I8, I8, NDArray[np.int32]]:
    """Put (origin, chain, entry) of runs of settings end to end: one pass over a shift's bars then serves all."""
    origin, chain = [], [np.zeros(1, np.int64)]
    n_settings = n_entries = 0
    for own, of_run, entry in links:
        origin.append(np.where(own < 0, -1, own + n_settings))
        chain.append(of_run[1:] + n_entries)
        n_settings, n_entries = n_settings + len(own), n_entries + len(entry)
    return np.concatenate(origin), np.concatenate(chain), np.concatenate([entry for _, _, entry in links])


def _ranking(score: F8, signed: F8) -> NDArray[np.int32]:
    """Sort candidates once for the rank correlations of all settings; see `statistic_kernel.rank_correlations`."""
    labelled = np.flatnonzero(~np.isnan(signed))
    places = np.full((len(score), 6), -1, np.int32)
    for which, values in enumerate((score, signed)):
        order = labelled[np.argsort(values[labelled], kind="stable")]
        opens = np.append(np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0), len(order))  # one a value
        group = np.repeat(np.arange(len(opens) - 1), np.diff(opens))
        places[order, which] = np.arange(len(order))
        places[order, 2 + 2 * which], places[order, 3 + 2 * which] = opens[group], opens[group + 1]
    return places


def _trials(numbers: I8, start: I8, event: NDArray[np.int32], pooled: Pooled) -> Records:
    place = np.repeat(np.arange(len(numbers)), np.diff(start))
    in_time = np.lexsort((pooled.bar[event], pooled.symbol[event], place))  # listed bulls first
    event = event[in_time]
    out = np.empty(len(event), trial_dtype(pooled.returns.shape[1]))
    out["setting"] = numbers[place]
    out["symbol"], out["bar"], out["ts_ms"] = pooled.symbol[event], pooled.bar[event], pooled.ts_ms[event]
    out["side"], out["bucket"] = pooled.side[event], pooled.bucket[event]
    out["score"], out["returns"] = pooled.score[event], pooled.returns[event]
    return out
