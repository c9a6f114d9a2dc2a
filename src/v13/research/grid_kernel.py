"""The compiled loops of a grid search: candidates of one swing_L against thousands of settings.

All settings of a slice share features, swing_L and cooldown and differ in thresholds a candidate must reach. `passed[k,
d]` is the number of values of threshold axis d that candidate k reaches, so it meets the settings whose coordinates lie
below: a box with one corner at the origin. That is all these loops know of the gates; `grid` derives the boxes, and a
test holds every cell equal to the detector run at its parameters.

What its compiled functions share is in this file too: numba's disk cache does not see edits in another. Statistics of
the lists made here are in `statistic_kernel`. Nothing here raises, reads a clock or draws random numbers. No fastmath.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "count_boxes",
    "count_chain",
    "count_silenced",
    "label",
    "list_events",
    "read_counts",
    "select",
    "suffix_sums",
]

I1 = NDArray[np.int8]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F8 = NDArray[np.float64]


@njit(cache=True, inline="always")
def _add(
    table: Any, cell: Any, sign: Any, block: Any, inside: Any, bucket: Any, outcome: Any, k: Any, n_blocks: Any
) -> Any:
    """Add event k to a row of the table. A word holds events above bit 32, hits below.

    A row of K blocks: (K + 1) * 12 * H words by block, bucket and horizon, the last 12 * H of them for what is judged
    but not inside its block; then K words for the events of each block that its words of the first horizon leave out.
    """
    n_horizons = outcome.shape[1]
    row = ((block if inside else n_blocks) * 12 + bucket) * n_horizons
    for h in range(n_horizons):
        table[cell, row + h] += sign * _word(outcome[k, h])
    if not (inside and outcome[k, 0] >= 0):
        table[cell, (n_blocks + 1) * 12 * n_horizons + block] += sign


@njit(cache=True, inline="always")
def _word(outcome: Any) -> Any:
    """Return one event, judged a hit (1) or a miss (0), or nothing (-1)."""
    return ((1 << 32) + np.int64(outcome)) * np.int64(outcome >= 0)


@njit(cache=True, inline="always")
def _meets(c: Any, least: Any) -> Any:
    """Return whether a candidate reaches the (6,) values of `grid.GATES`; without a jump to guess."""
    return (
        (c["u"] >= least[0])
        & (c["v"] >= least[1])
        & (c["score"] >= least[2])
        & (c["vol_ok"] >= least[3])
        & (c["swing_bps"] >= least[4])
        & (c["gap_bars"] >= least[5])
    )


@njit(cache=True, inline="always")
def _asked(c: Any, gate: Any) -> Any:
    """Return what of a candidate must reach the gate-th of `grid.GATES`."""
    if gate == 0:
        return c["u"]
    if gate == 1:
        return c["v"]
    if gate == 2:
        return c["score"]
    if gate == 3:
        return c["vol_ok"]
    if gate == 4:
        return c["swing_bps"]
    return float(c["gap_bars"])


@njit(cache=True, inline="always")
def _reached(values: Any, first: Any, last: Any, asked: Any) -> Any:
    """Return how many of values[first:last], ascending, are at most `asked`, without a jump that must be guessed."""
    if last - first <= 16:  # so few are compared all at once
        n = 0
        for i in range(first, last):
            n += values[i] <= asked
        return n
    low, size = first, last - first
    while size > 1:
        half = size >> 1
        low += half * np.int64(values[low + half - 1] <= asked)
        size -= half
    return low - first + np.int64(values[low] <= asked)


@njit(cache=True, nogil=True)
def select(cands: Any, least: F8, gates: I8, first_value: I8, values: F8, order: I4, passed: I4, first: I8) -> Any:
    """Leave out what no setting can have and put the rest best first within a bar, bulls before bears.

    cands (n,) CANDIDATE in order of bar and channel; least (6,) the lowest value of each gate; of the D gates that
    vary, gates (D,) their numbers and values[first_value[d] : first_value[d + 1]] their values, ascending. order (n,)
    receives the places of those kept, passed (n, D) how many values of each gate they reach, first (n + 1,) where each
    bar opens. Returns the number of candidates, of bars, and of bars with bulls.
    """
    n = n_bars = n_bull_bars = 0
    for side in (1, -1):
        bar = -1
        for k in range(cands.size):
            c = cands[k]
            if not (_meets(c, least) & (c["side"] == side)):
                continue
            if c["bar"] != bar:
                bar = c["bar"]
                first[n_bars] = n
                n_bars += 1
            at = n  # ahead of those of the bar with a lower score; ties stay in order of channel
            while at > first[n_bars - 1] and cands[order[at - 1]]["score"] < c["score"]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = k
            n += 1
        if side == 1:
            n_bull_bars = n_bars
    first[n_bars] = n
    for d in range(gates.size):
        for i in range(n):
            passed[i, d] = _reached(values, first_value[d], first_value[d + 1], _asked(cands[order[i]], gates[d]))
    return n, n_bars, n_bull_bars


@njit(cache=True, nogil=True)
def label(
    cands: Any,
    order: I4,
    ts_ms: I8,
    px: F8,
    segment: I4,
    horizons: I8,
    edges: I8,
    reach_ms: int,
    bucket: I4,
    block: I4,
    inside: I1,
    outcome: I1,
) -> Any:
    """Write bucket, time block and outcomes of candidates cands[order], without a cost.

    A move's sign is that of its price ratio against one, so no logarithm is needed. ts_ms, px (n,), segment (n,) int32
    of the bars; horizons (H,); edges (K + 1,) of the blocks; inside: whether the longest label ends in the block.
    """
    at = 0
    for i in range(order.size):
        c = cands[order[i]]
        bar = c["bar"]
        bucket[i] = c["bucket"]
        while at > 0 and ts_ms[bar] <= edges[at]:
            at -= 1
        while at < edges.size - 2 and ts_ms[bar] > edges[at + 1]:
            at += 1
        block[i] = at
        inside[i] = ts_ms[bar] + reach_ms <= edges[at + 1]
        for h in range(horizons.size):
            later = bar + horizons[h]
            outcome[i, h] = -1
            if later < px.size and segment[later] == segment[bar]:
                ratio = px[later] / px[bar]
                if ratio > 1.0:
                    outcome[i, h] = 1 if c["side"] > 0 else 0
                elif ratio < 1.0:
                    outcome[i, h] = 0 if c["side"] > 0 else 1


@njit(cache=True, inline="always")
def _outcome(px: Any, bar: Any, later: Any, end: Any, side: Any) -> Any:
    """Return 1 for a hit, 0 for a miss, -1 for neither; a move's sign is that of its price ratio against one."""
    if later >= end:
        return -1
    ratio = px[later] / px[bar]
    up, down = np.int64(ratio > 1.0), np.int64(ratio < 1.0)
    return (up if side > 0 else down) - (1 - (up | down))


@njit(cache=True, inline="always")
def _count_reached(axes: Any, d: Any, asked: Any) -> Any:
    """Return how many of axes[d], ascending and then NaN, are at most `asked`."""
    n = 0
    if axes.shape[1] <= 64:  # so few are compared all at once
        for i in range(axes.shape[1]):
            n += axes[d, i] <= asked
        return n
    size = axes.shape[1]
    while size > 1:
        half = size >> 1
        n += half * np.int64(axes[d, n + half - 1] <= asked)
        size -= half
    return n + np.int64(axes[d, n] <= asked)


@njit(cache=True, inline="always")
def _stand(
    cands: Any, first: Any, last: Any, least: Any, gates: Any, n_gates: Any, axes: Any, kept: Any, corners: Any
) -> Any:
    """Put those of cands[first:last] (one bar) that any cell can have into `kept`, best first; return how many.

    corners (4, 6): how many values of each gate they reach. Left out is one whose cells a better one has already.
    """
    n = 0
    for i in range(first, last):
        at = n  # ahead of those with a lower score; ties stay in order of channel
        while at > 0 and cands[kept[at - 1]]["score"] < cands[i]["score"]:
            kept[at] = kept[at - 1]
            at -= 1
        kept[at] = i
        n += 1
    n_kept = 0
    for i in range(n):
        c = cands[kept[i]]
        fits = _meets(c, least)
        for d in range(n_gates):
            corners[n_kept, d] = _count_reached(axes, d, _asked(c, gates[d]))
            fits &= corners[n_kept, d] > 0
        for j in range(n_kept):
            covered = True
            for d in range(n_gates):
                covered &= corners[n_kept, d] <= corners[j, d]
            fits &= not covered
        kept[n_kept] = kept[i]
        n_kept += int(fits)
    return n_kept


@njit(cache=True, inline="always")
def _apply(cells: Any, place: Any, word: Any, n: Any) -> Any:
    """Add words to places of the flat table, one after the other, so that far places are waited for together."""
    for i in range(n):
        for h in range(word.shape[1]):
            cells[place[i] + h] += word[i, h]


@njit(cache=True, nogil=True)
def count_boxes(cands: Any, n_cands: I8, asked: Any, seen: Any, table: I8) -> Any:
    """Put every event of every cell of several slices into `table` (cells, words); `suffix_sums` completes it.

    cands (w, m) CANDIDATE, the first n_cands[w] of each swing_L in order of bar and channel; a bar confirms one pivot,
    so it has at most three. The event of a cell is the best of them whose box holds it; the cells a later one is left
    with are its box less the boxes before it, and an intersection of boxes at the origin is the box of the least
    corner: inclusion and exclusion, exactly.

    asked, by slice (S,): which swing; least (S, 6), the lowest value of each of `grid.GATES`; gates (S, 6), the D that
    have an axis, then -1; axes (S, 6, V), their values, ascending and then NaN; stride (S, 6) and first_cell (S + 1,)
    of its cells. seen: px (n,) of all bars; runs (r + 1,) of bars free of gaps; horizons (H,), bars; block_end (K,),
    the first bar beyond each block; inside_end (K,), the first whose longest label is.
    """
    swing_of, least, gates, axes, stride, first_cell = asked
    px, runs, horizons, block_end, inside_end = seen
    n_horizons, n_blocks, n_words = horizons.size, block_end.size, table.shape[1]
    cells = table.reshape(-1)
    kept, corners, corner = np.empty(3, np.int64), np.empty((4, 6), np.int64), np.empty(6, np.int64)
    words, place, word = np.empty(n_horizons, np.int64), np.empty(512, np.int64), np.empty((512, n_horizons), np.int64)
    for s in range(swing_of.size):
        own, n = cands[swing_of[s]], n_cands[swing_of[s]]
        least_of, gates_of, axes_of, stride_of = least[s], gates[s], axes[s], stride[s]
        n_gates = 0
        while n_gates < 6 and gates_of[n_gates] >= 0:
            n_gates += 1
        run = block = first = n_waiting = 0
        while first < n:
            bar, side = own[first]["bar"], own[first]["side"]
            last = first + 1
            while last < n and own[last]["bar"] == bar:
                last += 1
            n_kept = _stand(own, first, last, least_of, gates_of, n_gates, axes_of, kept, corners)
            first = last
            if n_kept == 0:
                continue
            if bar >= runs[run + 1]:
                run = np.searchsorted(runs, bar, side="right") - 1
            while bar >= block_end[block]:
                block += 1
            is_judged = inside = bar < inside_end[block]
            for h in range(n_horizons):
                outcome = _outcome(px, bar, bar + horizons[h], runs[run + 1], side)
                words[h] = _word(outcome)
                is_judged &= h > 0 or outcome >= 0
            row = (block if inside else n_blocks) * 12
            for i in range(n_kept):
                bucket = own[kept[i]]["bucket"]
                for subset in range(1 << i):
                    sign = 1
                    for d in range(n_gates):
                        corner[d] = corners[i, d]
                    for j in range(i):
                        if subset >> j & 1:
                            sign = -sign
                            for d in range(n_gates):
                                corner[d] = min(corner[d], corners[j, d])
                    cell = first_cell[s]
                    for d in range(n_gates):
                        cell += (corner[d] - 1) * stride_of[d]
                    place[n_waiting] = cell * n_words + (row + bucket) * n_horizons
                    for h in range(n_horizons):
                        word[n_waiting, h] = sign * words[h]
                    n_waiting += 1
                    if not is_judged:
                        cells[cell * n_words + (n_blocks + 1) * 12 * n_horizons + block] += sign
            if n_waiting > place.size - 7:
                _apply(cells, place, word, n_waiting)
                n_waiting = 0
        _apply(cells, place, word, n_waiting)


@njit(cache=True, nogil=True)
def suffix_sums(table: I8, shape: I8, stride: I8) -> Any:
    """Sum `table` (cells, words) in place over all cells at or above each cell, along every axis."""
    for d in range(shape.size):
        for cell in range(table.shape[0] - 1, -1, -1):
            if cell // stride[d] % shape[d] < shape[d] - 1:
                above = cell + stride[d]
                own, other = table[cell], table[above]
                for w in range(own.size):
                    own[w] += other[w]


@njit(cache=True, nogil=True)
def read_counts(table: I8, cells: I8, numbers: I8, n: I8, hits: I8, n_all: I8, hits_all: I8, n_events: I8) -> Any:
    """Unpack row cells[i] of `table` (see `_add`) to row numbers[i] of n, hits (S, K * 12 * H), n_all, hits_all (S, 12
    * H) and n_events (S, K)."""
    size, n_blocks = n_all.shape[1], n_events.shape[1]
    total = np.empty(size, np.int64)
    for i in range(cells.size):
        row, to = table[cells[i]], numbers[i]
        total[:] = row[n_blocks * size : (n_blocks + 1) * size]
        for block in range(n_blocks):
            words = row[block * size : (block + 1) * size]
            n_to, hits_to = n[to, block * size : (block + 1) * size], hits[to, block * size : (block + 1) * size]
            for j in range(size):
                n_to[j] = words[j] >> 32
                hits_to[j] = words[j] & 0xFFFFFFFF
                total[j] += words[j]
        for j in range(size):
            n_all[to, j] = total[j] >> 32
            hits_all[to, j] = total[j] & 0xFFFFFFFF
        for block in range(n_blocks):
            total_of_block = row[(n_blocks + 1) * size + block]
            for j in range(0, size, size // 12):
                total_of_block += n[to, block * size + j]
            n_events[to, block] = total_of_block


@njit(cache=True, inline="always")
def _speaker(first: Any, g: Any, passed: Any, coords: Any, s: Any) -> Any:
    """Return the best candidate of the g-th bar that a setting lets through, or -1."""
    for k in range(first[g], first[g + 1]):
        fits = True
        for d in range(coords.shape[1]):
            fits &= passed[k, d] > coords[s, d]
        if fits:
            return k
    return -1


@njit(cache=True, nogil=True)
def list_events(
    first: I8,
    bar_of: I4,
    track: I8,
    ts_ms: I8,
    passed: I4,
    coords: I4,
    parent: I8,
    cooldown_ms: int,
    start: I8,
    event: I4,
    origin: I8,
    chain: I8,
    entry: I4,
) -> Any:
    """List the events of each setting, and what differs from the list of a neighbour.

    first (g + 1,) as `count_boxes`; bar_of (k,) int32 each candidate's place in it; track (t + 1,): the bars of one
    symbol and side are first[track[i]] to first[track[i + 1]], and silent for `cooldown_ms` after their last event;
    coords (s, D) of each setting; parent (s,): an earlier setting none of whose coordinates is higher, or -1.

    The events of setting s are event[start[s] : start[s + 1]], candidate numbers, ascending. chain (s + 1,), entry:
    entries chain[s] to chain[s + 1] turn the events of setting origin[s] (none for -1) into those of s; entry k adds
    candidate k, entry -1 - k takes it away. Whatever a parent lets through and a setting does not is an event lost;
    what it silenced is asked again until both lists have the same event at the same bar or neither is silent any more,
    for from there on they agree.
    event needs room for one event a bar and setting, entry for that and two a bar more.
    """
    never = -(2**62)
    n = m = 0
    start[0] = chain[0] = 0
    for s in range(coords.shape[0]):
        setting = coords[s]
        origin[s] = parent[s]
        i = i_end = 0
        if parent[s] >= 0:
            i, i_end = start[parent[s]], start[parent[s] + 1]
        low, high = 0, setting.size  # the coordinates beside these are the parent's, which its events fit
        while parent[s] >= 0 and low < high and setting[low] == coords[parent[s], low]:
            low += 1
        while parent[s] >= 0 and low < high and setting[high - 1] == coords[parent[s], high - 1]:
            high -= 1
        for t in range(track.size - 1):
            g_end = track[t + 1]
            last = never
            if parent[s] < 0:
                for g in range(track[t], g_end):
                    if ts_ms[first[g]] - last >= cooldown_ms:
                        k = _speaker(first, g, passed, coords, s)
                        if k >= 0:
                            event[n] = k
                            n += 1
                            last = ts_ms[k]
                continue
            stop = first[g_end]
            while i < i_end and event[i] < stop:
                k = event[i]
                fits = True
                for d in range(low, high):
                    fits &= passed[k, d] > setting[d]
                if fits:
                    event[n] = k
                    n += 1
                    i += 1
                    continue
                entry[m] = -1 - k
                m += 1
                i += 1
                last = ts_ms[event[n - 1]] if n > start[s] and event[n - 1] >= first[track[t]] else never
                free_ms = ts_ms[k] + max(cooldown_ms, 1)  # from when the parent may speak again, at a later bar
                for g in range(bar_of[k], g_end):
                    now_ms = ts_ms[first[g]]
                    if now_ms >= free_ms and now_ms - last >= cooldown_ms:
                        break
                    k = -1
                    if now_ms - last >= cooldown_ms:
                        k = _speaker(first, g, passed, coords, s)
                    if i < i_end and event[i] < first[g + 1]:
                        if event[i] == k:
                            break
                        free_ms = now_ms + cooldown_ms
                        entry[m] = -1 - event[i]
                        m += 1
                        i += 1
                    if k >= 0:
                        event[n] = k
                        n += 1
                        last = ts_ms[k]
                        entry[m] = k
                        m += 1
        start[s + 1] = n
        if parent[s] < 0 or m - chain[s] > n - start[s]:  # shorter from nothing
            origin[s] = -1
            m = chain[s]
            for j in range(start[s], n):
                entry[m] = event[j]
                m += 1
        chain[s + 1] = m


@njit(cache=True, nogil=True)
def count_silenced(
    first: I8,
    bar_of: I4,
    ts_ms: I8,
    passed: I4,
    by_value: I4,
    value_start: I8,
    coords: I4,
    parent: I8,
    axis: I8,
    cooldown_ms: int,
    block: I4,
    inside: I1,
    bucket: I4,
    outcome: I1,
    n_blocks: int,
    table: I8,
) -> Any:
    """Count the events of each setting where a cooldown silences later ones; one row of `table` (s, words) each.

    As `list_events` and `count_chain`, without the lists: which candidate speaks at each bar is kept for one setting
    per axis and altered in place, and candidates that no longer pass are found by the value they reached, so a setting
    costs what it changes and not what it has.

    first (g + 1,), bar_of (k,), passed (k, D), coords (s, D), parent (s,) as in `list_events`; axis (s,): the first
    coordinate that differs from the setting before, whose parent is the last setting that opened a value of it or of
    one before it. ts_ms (g,) of bars, where no cooldown reaches from one symbol and side to the next. by_value (D, k):
    candidates in order of passed[:, d]; those that reach exactly v values are from value_start[d, v] on.
    """
    never = -(2**62)
    n_bars, n_axes = first.size - 1, coords.shape[1]
    spoken = np.full((n_axes, n_bars), -1, np.int32)  # by axis: who speaks at each bar for the setting that opened it
    for s in range(coords.shape[0]):
        deepest = axis[s]
        if parent[s] < 0:
            last = never
            for g in range(n_bars):
                k = -1
                if ts_ms[g] - last >= cooldown_ms:
                    k = _speaker(first, g, passed, coords, s)
                spoken[deepest, g] = k
                if k >= 0:
                    last = ts_ms[g]
                    _add(table, s, 1, block[k], inside[k], bucket[k], outcome, k, n_blocks)
        else:
            table[s] = table[parent[s]]
        for d in range(n_axes if parent[s] >= 0 else 0):
            for i in range(value_start[d, coords[parent[s], d] + 1], value_start[d, coords[s, d] + 1]):
                k = by_value[d, i]
                g = bar_of[k]
                if spoken[deepest, g] != k:
                    continue
                # Event k at the g-th bar goes, and whom it silenced is asked again, until nobody can tell that it was
                # there. Others that no longer pass may still stand in `spoken`: each bar is as those before it there
                # have it, but for them, so they may be taken in any order.
                _add(table, s, -1, block[k], inside[k], bucket[k], outcome, k, n_blocks)
                last, before = never, g - 1
                while before >= 0 and ts_ms[g] - ts_ms[before] < cooldown_ms:
                    if spoken[deepest, before] >= 0:
                        last = ts_ms[before]
                        break
                    before -= 1
                k = -1
                if ts_ms[g] - last >= cooldown_ms:
                    k = _speaker(first, g, passed, coords, s)
                spoken[deepest, g] = k
                if k >= 0:
                    _add(table, s, 1, block[k], inside[k], bucket[k], outcome, k, n_blocks)
                    continue
                free_ms = ts_ms[g] + cooldown_ms
                g += 1
                while g < n_bars and (ts_ms[g] < free_ms or ts_ms[g] - last < cooldown_ms):
                    k = -1
                    if ts_ms[g] - last >= cooldown_ms:
                        k = _speaker(first, g, passed, coords, s)
                    other = spoken[deepest, g]
                    if other == k and k >= 0:
                        break
                    spoken[deepest, g] = k
                    if other >= 0:
                        free_ms = ts_ms[g] + cooldown_ms
                        _add(table, s, -1, block[other], inside[other], bucket[other], outcome, other, n_blocks)
                    if k >= 0:
                        last = ts_ms[g]
                        _add(table, s, 1, block[k], inside[k], bucket[k], outcome, k, n_blocks)
                    g += 1
        for d in range(deepest + 1, n_axes):
            spoken[d] = spoken[deepest]


@njit(cache=True, nogil=True)
def count_chain(
    origin: I8, chain: I8, entry: I4, block: I4, inside: I1, bucket: I4, outcome: I1, n_blocks: int, table: I8
) -> Any:
    """Count the events of settings listed by `list_events`; one row of `table` (s, words) each."""
    for s in range(origin.size):
        if origin[s] >= 0:
            table[s] = table[origin[s]]
        for e in range(chain[s], chain[s + 1]):
            k = entry[e]
            sign = 1
            if k < 0:
                k, sign = -1 - k, -1
            _add(table, s, sign, block[k], inside[k], bucket[k], outcome, k, n_blocks)
