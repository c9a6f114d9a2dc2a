"""Slices judged: every setting of a grid from sparse candidates, exactly as the detector would at its parameters.

All settings of a slice share features, swing_L and cooldown. The functions are pure, so they run in threads here and as
tasks elsewhere with equal results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.detector import FeatureColumns
from v13.detector.dtypes import N_BUCKETS
from v13.detector.scanning import Walk, in_threads
from v13.errors import DataError
from v13.research import grid_kernel, panels
from v13.research.boxes import Boxes, Counts, Outlook, empty_counts, unpack
from v13.research.cut import Records
from v13.research.grid import GATES, Blocks, Slice, SymbolScan, lowest, plan, scan_columns
from v13.research.settings import Settings

__all__ = ["SliceResult", "count_grid", "count_slice", "judge_slice", "trial_dtype"]

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


@dataclass(frozen=True)
class _Pooled:
    """Candidates of a slice, all symbols, bulls before bears in each, best first within a bar.

    first (g + 1,): where each bar opens; track (2 * symbols + 1,): where bulls and bears of a symbol do;
    passed (k, D): how many values of each axis a candidate reaches; returns (k, H, or none where nobody needs them),
    outcome (k, H); score, ts_ms, bar, side, bucket, symbol, block, inside (k,).
    """

    first: I8
    track: I8
    symbol: NDArray[np.int32]
    bar: NDArray[np.int32]
    side: NDArray[np.int32]
    bucket: NDArray[np.int32]
    score: F8
    ts_ms: I8
    passed: NDArray[np.int32]
    returns: F8
    outcome: NDArray[np.int8]
    block: NDArray[np.int32]
    inside: NDArray[np.int8]


def _pool(
    part: Slice, scans: Sequence[SymbolScan], blocks: Blocks, cost_bps: float, with_returns: bool = True
) -> _Pooled:
    gates = np.array([list(GATES).index(name) for name in part.axes], np.int64)
    values = np.concatenate([np.asarray(axis, np.float64) for axis in part.axes.values()])
    first_value = np.cumsum([0, *map(len, part.axes.values())]).astype(np.int64)
    least = np.array([part.least[name] for name in GATES])
    horizons = np.array(scans[0].horizons, np.int64)
    columns: dict[str, list[NDArray[Any]]] = {}
    track = [0]
    n = 0
    for number, one in enumerate(scans):
        cands = one.candidates[part.swing_L]
        order, first = np.empty(cands.size, np.int32), np.empty(cands.size + 1, np.int64)
        passed = np.empty((cands.size, len(gates)), np.int32)
        size, n_bars, n_bull = grid_kernel.select(cands, least, gates, first_value, values, order, passed, first)
        track += [track[-1] + n_bull, track[-1] + n_bars]
        order = order[:size]
        bucket, block = np.empty((2, size), np.int32)
        inside, outcome = np.empty(size, np.int8), np.empty((size, len(horizons)), np.int8)
        facts = (bucket, block, inside, outcome)
        grid_kernel.label(cands, order, one.ts_ms, one.px, one.segment, horizons, blocks.edges, blocks.reach_ms, *facts)
        bar, side = cands["bar"][order], cands["side"][order]
        returns = one.returns_at(bar) if with_returns or cost_bps > 0 else np.empty((size, 0))
        if cost_bps > 0:
            for h in range(len(horizons)):
                outcome[:, h] = np.maximum(measures.hits(returns[:, h], side, cost_bps), -1)
        found = {
            "first": first[:n_bars] + n,
            "passed": passed[:size],
            "symbol": np.full(size, number, np.int32),
            "bar": bar,
            "side": side,
            "bucket": bucket,
            "score": cands["score"][order],
            "ts_ms": one.ts_ms[bar],
            "returns": returns,
            "outcome": outcome,
            "block": block,
            "inside": inside,
        }
        for name, values_of in found.items():
            columns.setdefault(name, []).append(values_of)
        n += size
    whole = {name: np.concatenate(found) if len(found) > 1 else found[0] for name, found in columns.items()}
    return _Pooled(first=np.append(whole.pop("first"), n), track=np.array(track), **whole)


def _may_bind(part: Slice) -> bool:
    """Whether events of a side can be closer than the cooldown; pivots of a kind are swing_L + 1 bars apart or more."""
    return part.cooldown_ms > (part.swing_L + 1) * part.features.bar_ms


def count_slice(part: Slice, scans: Sequence[SymbolScan], blocks: Blocks, cost_bps: float = 0.0) -> Counts:
    """Count the events of every setting of a slice and nothing more: (n, hits, n_all, hits_all, n_events).

    Where no cooldown can bind and moves are judged without a cost, all thresholds are answered by one histogram with
    suffix sums, in time that hardly depends on their number; else each setting's events are replayed over the sparse
    candidates.
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
    pooled = _pool(part, scans, blocks, cost_bps, with_returns=False)
    facts = (pooled.block, pooled.inside, pooled.bucket, pooled.outcome, n_blocks)
    table = np.zeros((len(part.numbers), (n_blocks + 1) * N_BUCKETS * n_horizons + n_blocks), np.int64)
    done = 0
    for lists in _lists(part, pooled, LIST_ROOM // 8):
        own = slice(done, done + len(lists.origin))
        grid_kernel.count_chain(lists.origin, lists.chain, lists.entry, *facts, table[own])
        done = own.stop
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
    pooled = _pool(part, scans, blocks, cost_bps)
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
        grid_kernel.net_by_bin(start, event, bin_of, pooled.outcome, bin_n[own], bin_hits[own])
        runs.append((lists.origin.copy(), lists.chain.copy(), lists.entry.copy()))
        for h, ranking in enumerate(rankings):
            grid_kernel.rank_correlations(start, event, ranking, rho[own, h])
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
    grid_kernel.null_maximum(*laid, *links, at_zero, least, everyone, statistic, np.full(1, -np.inf))
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


def _lists(part: Slice, pooled: _Pooled, room: int) -> Iterator[_Lists]:
    """Yield the events of runs of settings, in order, few enough at a time for `room` events."""
    n_bars = len(pooled.first) - 1
    step = min(max(1, room // max(n_bars, 1)), len(part.numbers))
    bar_of = np.repeat(np.arange(n_bars, dtype=np.int32), np.diff(pooled.first))
    start, chain, origin = np.empty(step + 1, np.int64), np.empty(step + 1, np.int64), np.empty(step, np.int64)
    event, entry = np.empty(step * n_bars, np.int32), np.empty((step + 2) * n_bars, np.int32)
    for begin in range(0, len(part.numbers), step):
        coords = part.coords[begin : begin + step]
        parent = _parents(coords)
        facts = (pooled.first, bar_of, pooled.track, pooled.ts_ms, pooled.passed, coords, parent, part.cooldown_ms)
        grid_kernel.list_events(*facts, start, event, origin, chain, entry)
        n = len(coords)
        yield _Lists(start[: n + 1], event[: start[n]], origin[:n], chain[: n + 1], entry[: chain[n]])


def _parents(coords: NDArray[np.int32]) -> I8:
    """Return for each setting, in lexical order, the nearest earlier one whose coordinates are nowhere higher, or -1.

    Looked for among those that opened the present value of each axis: in a full grid one of them is a step away.
    """
    parent = np.full(len(coords), -1, np.int64)
    number = np.arange(len(coords))
    axis = np.append(0, (coords[1:] != coords[:-1]).argmax(axis=1))
    for d in range(coords.shape[1]):
        opened = np.maximum.accumulate(np.where(axis <= d, number, 0))
        own = number[1:][axis[1:] == d]
        near = opened[own - 1]
        parent[own] = np.where((coords[near] <= coords[own]).all(axis=1), near, -1)
    return parent


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
    """Sort candidates once for the rank correlations of all settings: places as `grid_kernel.rank_correlations`."""
    labelled = np.flatnonzero(~np.isnan(signed))
    places = np.full((len(score), 6), -1, np.int32)
    for which, values in enumerate((score, signed)):
        order = labelled[np.argsort(values[labelled], kind="stable")]
        opens = np.append(np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0), len(order))  # one a value
        group = np.repeat(np.arange(len(opens) - 1), np.diff(opens))
        places[order, which] = np.arange(len(order))
        places[order, 2 + 2 * which], places[order, 3 + 2 * which] = opens[group], opens[group + 1]
    return places


def _trials(numbers: I8, start: I8, event: NDArray[np.int32], pooled: _Pooled) -> Records:
    place = np.repeat(np.arange(len(numbers)), np.diff(start))
    in_time = np.lexsort((pooled.bar[event], pooled.symbol[event], place))  # listed bulls first
    event = event[in_time]
    out = np.empty(len(event), trial_dtype(pooled.returns.shape[1]))
    out["setting"] = numbers[place]
    out["symbol"], out["bar"], out["ts_ms"] = pooled.symbol[event], pooled.bar[event], pooled.ts_ms[event]
    out["side"], out["bucket"] = pooled.side[event], pooled.bucket[event]
    out["score"], out["returns"] = pooled.score[event], pooled.returns[event]
    return out
