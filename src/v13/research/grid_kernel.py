"""The compiled loops of a grid search: candidates of one swing_L against thousands of settings.

All settings of a slice share features, swing_L and cooldown and differ in thresholds a candidate must reach. `passed[k,
d]` is the number of values of threshold axis d that candidate k reaches, so it meets the settings whose coordinates lie
below: a box with one corner at the origin. That is all these loops know of the gates; `grid` derives the boxes, and a
test holds every cell equal to the detector run at its parameters.

All compiled code of `research` is in this file (numba's disk cache does not see edits in another). Nothing here raises,
reads a clock or draws random numbers. No fastmath.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "count_boxes",
    "count_chain",
    "difference",
    "label",
    "list_events",
    "net_by_bin",
    "null_maximum",
    "rank_correlations",
    "select",
    "suffix_sums",
]

I1 = NDArray[np.int8]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]
F8 = NDArray[np.float64]


@njit(cache=True, inline="always")
def _add(row: Any, sign: Any, block: Any, inside: Any, bucket: Any, outcome: Any, n_blocks: Any) -> Any:
    """Add one event to a row of the table (see `slices._unpack`). A word holds events above bit 32, hits below."""
    n_horizons = outcome.size
    for h in range(n_horizons):
        o = outcome[h]
        if o >= 0:
            word = sign * ((1 << 32) + o)
            row[(n_blocks * 12 + bucket) * n_horizons + h] += word
            if inside:
                row[(block * 12 + bucket) * n_horizons + h] += word
    row[(n_blocks + 1) * 12 * n_horizons + block] += sign


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


@njit(cache=True, nogil=True)
def select(cands: Any, least: F8, gates: I8, first_value: I8, values: F8, order: I4, passed: I4, first: I8) -> Any:
    """Leave out what no setting can have and put the rest best first within a bar; return (candidates, bars).

    cands (n,) CANDIDATE in order of bar and channel; least (6,) the lowest value of each gate; of the D gates that
    vary, gates (D,) their numbers and values[first_value[d] : first_value[d + 1]] their values, ascending. order (n,)
    receives the places of those kept, passed (n, D) how many values of each gate they reach, first (n + 1,) where each
    bar opens.
    """
    n = n_bars = 0
    bar = -1
    for k in range(cands.size):
        c = cands[k]
        kept = True
        for gate in range(least.size):
            kept = kept and _asked(c, gate) >= least[gate]
        if not kept:
            continue
        if c["bar"] != bar:
            bar = c["bar"]
            first[n_bars] = n
            n_bars += 1
        at = n  # ahead of those of the bar with a lower score; ties stay in order of channel
        while at > first[n_bars - 1] and cands[order[at - 1]]["score"] < c["score"]:
            order[at] = order[at - 1]
            for d in range(gates.size):
                passed[at, d] = passed[at - 1, d]
            at -= 1
        order[at] = k
        for d in range(gates.size):
            asked = _asked(c, gates[d])
            low, high = first_value[d], first_value[d + 1]
            while low < high:
                middle = (low + high) >> 1
                if values[middle] <= asked:
                    low = middle + 1
                else:
                    high = middle
            passed[at, d] = low - first_value[d]
        n += 1
    first[n_bars] = n
    return n, n_bars


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


@njit(cache=True, nogil=True)
def count_boxes(
    first: I8, passed: I4, stride: I8, block: I4, inside: I1, bucket: I4, outcome: I1, n_blocks: int, table: I8
) -> Any:
    """Put every event of every cell into `table` (cells, words) as point updates; `suffix_sums` completes it.

    first (g + 1,): the candidates of one bar are first[i] : first[i + 1], at most three, best first. The event of a
    cell is the first of them whose box holds it; the cells a later one is left with are its box less the boxes before
    it, and an intersection of boxes at the origin is the box of the least corner: inclusion and exclusion, exactly.
    """
    corner = np.empty(passed.shape[1], np.int64)
    for g in range(first.size - 1):
        start = first[g]
        for k in range(start, first[g + 1]):
            n_before = k - start
            for subset in range(1 << n_before):
                sign = 1
                for d in range(corner.size):
                    corner[d] = passed[k, d]
                for j in range(n_before):
                    if subset >> j & 1:
                        sign = -sign
                        for d in range(corner.size):
                            corner[d] = min(corner[d], passed[start + j, d])
                cell = 0
                empty = False
                for d in range(corner.size):
                    empty = empty or corner[d] == 0
                    cell += (corner[d] - 1) * stride[d]
                if not empty:
                    _add(table[cell], sign, block[k], inside[k], bucket[k], outcome[k], n_blocks)


@njit(cache=True, nogil=True)
def suffix_sums(table: I8, shape: I8, stride: I8) -> Any:
    """Sum `table` (cells, words) in place over all cells at or above each cell, along every axis."""
    for d in range(shape.size):
        for cell in range(table.shape[0] - 1, -1, -1):
            if cell // stride[d] % shape[d] < shape[d] - 1:
                above = cell + stride[d]
                for w in range(table.shape[1]):
                    table[cell, w] += table[above, w]


@njit(cache=True, nogil=True)
def list_events(
    first: I8, symbol: I4, ts_ms: I8, side: I4, passed: I4, coords: I4, cooldown_ms: int, size: I8, out: I4
) -> Any:
    """Write the events of each setting: out[s, : size[s]] are candidate numbers, in order.

    first (g + 1,) as `count_boxes`; symbol, side (k,) int32 and ts_ms (k,) of each candidate; coords (s, D) of each
    setting. A side is silent until `cooldown_ms` after its last event; a new symbol starts afresh.
    """
    never = -(2**62)
    for s in range(coords.shape[0]):
        n = 0
        last_bull, last_bear = never, never
        now = -1
        for g in range(first.size - 1):
            start = first[g]
            if symbol[start] != now:
                now = symbol[start]
                last_bull, last_bear = never, never
            since = last_bull if side[start] > 0 else last_bear
            if ts_ms[start] - since < cooldown_ms:
                continue
            for k in range(start, first[g + 1]):
                fits = True
                for d in range(coords.shape[1]):
                    fits = fits and passed[k, d] > coords[s, d]
                if fits:
                    out[s, n] = k
                    n += 1
                    if side[start] > 0:
                        last_bull = ts_ms[start]
                    else:
                        last_bear = ts_ms[start]
                    break
        size[s] = n


@njit(cache=True, nogil=True)
def difference(start: I8, event: I4, chain: I8, entry: I4) -> Any:
    """Write each setting's events as what differs from the setting before: `chain` (s + 1,), `entry` (as `event`,).

    Entry k adds candidate k, entry -1 - k takes it away; `chain[s + 1]` is negative, less one, where a setting starts
    from nothing because its own list is the shorter. Neighbours in a grid share most of their events.
    """
    n = 0
    chain[0] = 0
    for s in range(start.size - 1):
        size = start[s + 1] - start[s]
        first = n
        fresh = s == 0
        if not fresh:
            i, j = start[s - 1], start[s]
            while i < start[s] or j < start[s + 1]:
                if n - first >= size:
                    fresh = True
                    break
                if j == start[s + 1] or (i < start[s] and event[i] < event[j]):
                    entry[n] = -1 - event[i]
                    i += 1
                    n += 1
                elif i == start[s] or event[j] < event[i]:
                    entry[n] = event[j]
                    j += 1
                    n += 1
                else:
                    i += 1
                    j += 1
        if fresh:
            n = first
            for j in range(start[s], start[s + 1]):
                entry[n] = event[j]
                n += 1
        chain[s + 1] = -1 - n if fresh else n
    return n


@njit(cache=True, nogil=True)
def count_chain(chain: I8, entry: I4, block: I4, inside: I1, bucket: I4, outcome: I1, n_blocks: int, table: I8) -> Any:
    """Count the events of a chain (see `difference`); one row of `table` (s, words) a setting."""
    begin = 0
    for s in range(chain.size - 1):
        end = chain[s + 1]
        if end >= 0:
            table[s] = table[s - 1]
        else:
            end = -1 - end
        for e in range(begin, end):
            k = entry[e]
            sign = 1
            if k < 0:
                k, sign = -1 - k, -1
            _add(table[s], sign, block[k], inside[k], bucket[k], outcome[k], n_blocks)
        begin = end


@njit(cache=True, nogil=True)
def net_by_bin(start: I8, event: I4, bin_of: I4, outcome: I1, n: I4, hits: I4) -> Any:
    """Count judged events and hits of all horizons together, by setting and time bin: n, hits (s, T)."""
    for s in range(start.size - 1):
        for e in range(start[s], start[s + 1]):
            k = event[e]
            for h in range(outcome.shape[1]):
                if outcome[k, h] >= 0:
                    n[s, bin_of[k]] += 1
                    hits[s, bin_of[k]] += outcome[k, h]


@njit(cache=True, nogil=True)
def null_maximum(
    code: I1,
    position: I8,
    length: int,
    chain: I8,
    entry: I4,
    shifts: I8,
    least: float,
    eligible: I1,
    statistic: F8,
    best: F8,
) -> Any:
    """Raise best[i] to the largest statistic of any setting at shifts[i]; keep all of the first shift in `statistic`.

    code (2, H, m) int8 holds 1 hit, 0 miss, -1 neither of a bull and of a bear at every place of all panels end to end,
    each `length` long; position (k,) int64 is a candidate's place there, less 2 m if it is a bear. chain and entry as
    `difference` leaves them. The statistic is the mean over horizons of (2 hits - n) / sqrt(n), inf for one without a
    judged event; -inf where a setting is not eligible or a horizon has fewer than `least`.
    """
    n_horizons, m = code.shape[1], code.shape[2]
    n_settings = chain.size - 1
    word = np.empty(position.size, np.int64)
    total = np.empty(n_settings)
    for i in range(shifts.size):
        total[:] = 0.0
        for h in range(n_horizons):
            for k in range(position.size):
                place = position[k]
                bear = 0
                if place < 0:
                    place += 2 * m
                    bear = 1
                begin = place // length * length
                moved = place + shifts[i]
                if moved >= begin + length:
                    moved -= length
                o = np.int64(code[bear, h, moved])
                word[k] = (1 << 32) + o if o >= 0 else 0
            both = 0
            first = 0
            for s in range(n_settings):
                last = chain[s + 1]
                if last < 0:
                    last = -1 - last
                    both = 0
                for e in range(first, last):
                    k = entry[e]
                    if k >= 0:
                        both += word[k]
                    else:
                        both -= word[-1 - k]
                first = last
                n, hits = both >> 32, both & 0xFFFFFFFF
                if n < least or eligible[s] == 0:
                    total[s] = -math.inf
                elif n == 0:  # all its events moved to times without a label: the shift counts as one that reaches
                    total[s] = math.inf
                else:
                    total[s] += (2.0 * hits - n) / math.sqrt(n)
        for s in range(n_settings):
            value = total[s] / n_horizons
            best[i] = max(best[i], value)
            if i == 0:
                statistic[s] = value


@njit(cache=True, nogil=True)
def rank_correlations(start: I8, event: I4, places: I4, by_score: I4, by_return: I4, sorted_values: F8, rho: F8) -> Any:
    """Write Spearman's rho (s,) of score and signed return of each setting's labelled events, ties by mean rank.

    places (2, k) int32: the place of each candidate in ascending order of score and of signed return, -1 where it has
    no label; by_score, by_return (m,) int32: those orders; sorted_values (2, m) float64: the values in them. Sorted
    once for all settings: a setting's ranks are read off by walking the orders past its members, eight places at a
    look.
    """
    m = by_score.size
    rank = np.empty((2, places.shape[1]))
    member = np.zeros((2, m // 8 + 1), np.uint64)
    flags = member.view(np.uint8)
    scale = np.zeros(2)
    for s in range(start.size - 1):
        n = 0
        for e in range(start[s], start[s + 1]):
            k = event[e]
            if places[0, k] >= 0:
                flags[0, places[0, k]] = 1
                flags[1, places[1, k]] = 1
                n += 1
        middle = 0.5 * (n + 1)
        for which in range(2):
            order = by_score if which == 0 else by_return
            scale[which] = 0.0
            seen = tied = 0
            opened = np.empty(n, np.int64)  # members so far, the last `tied` of which share one value
            value = math.nan
            for word in range(member.shape[1]):
                if member[which, word] == 0:
                    continue
                for j in range(8 * word, min(8 * word + 8, m)):
                    if flags[which, j] == 0:
                        continue
                    if sorted_values[which, j] != value:
                        mean = seen + 0.5 * (tied + 1) - middle
                        for i in range(seen, seen + tied):
                            rank[which, opened[i]] = mean
                        scale[which] += tied * mean * mean
                        seen += tied
                        tied = 0
                        value = sorted_values[which, j]
                    opened[seen + tied] = order[j]
                    tied += 1
                member[which, word] = 0
            mean = seen + 0.5 * (tied + 1) - middle
            for i in range(seen, seen + tied):
                rank[which, opened[i]] = mean
            scale[which] += tied * mean * mean
        both = 0.0
        for e in range(start[s], start[s + 1]):
            k = event[e]
            if places[0, k] >= 0:
                both += rank[0, k] * rank[1, k]
        size = math.sqrt(scale[0] * scale[1])
        rho[s] = both / size if n >= 3 and size > 0.0 else math.nan
