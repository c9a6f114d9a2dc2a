"""The grid search against a plain numba loop, vectorbt's IndicatorFactory and scipy, side by side in one run.

Every peer answers the same question for every setting: hits and judged events of 12 buckets at two horizons. What takes
too long is run on some of the settings and said to be scaled.
All share features and sessions, each has them by column, and only the search is timed; labels are made beforehand for
the peers, while ours makes them on the way. What the columns cost is printed beside what the features cost as rows.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit
from scipy.signal import argrelextrema
from scipy.stats import spearmanr

from v13 import measures
from v13.detector import (
    DecisionParams,
    Detector,
    DetectorParams,
    FeatureColumns,
    SessionClock,
    compute_columns,
    compute_features,
)
from v13.market import MarketSpec, simulate_bars
from v13.research import grid, pool, slices, statistic_kernel
from v13.research.counting import count_grid
from v13.research.execution import Job, judge_grid
from v13.research.grid import Blocks
from v13.research.settings import Settings, expand_grid
from v13.research.trials import SymbolPart

HORIZONS = (10, 20)
SWINGS = (8, 10, 12, 13, 14, 16, 18, 21, 23, 26)
N_BLOCKS = 5


def settings_of(n_hi: int, n_mid: int, cooldown_ms: int) -> Settings:
    axes = {
        "swing_L": SWINGS,
        "z_hi": tuple(np.round(np.linspace(1.2, 3.0, n_hi), 6).tolist()),
        "z_mid": tuple(np.round(np.linspace(0.4, 1.19, n_mid), 6).tolist()),
    }
    return expand_grid(DetectorParams(decision=DecisionParams(cooldown_ms=cooldown_ms)), axes)


@njit(cache=True)
def plain_events(
    px, z, consistency, fallback, vol_ok, bucket0, ts, swing_L, z_hi, z_mid, cooldown, floors, bars, buckets
):
    """Events of one setting over all bars, the way one writes it down: pivots, pairs, thresholds, gates.

    Their bars, less 2**31 for a bear, and buckets are written; returns how many.
    """
    n, n_found = px.size, 0
    last = np.full(2, -1)
    seen = np.zeros((2, 2))  # validity and swing of the last low and high
    silent = np.full(2, -(2**62))
    for now in range(2 * swing_L, n):
        c = now - swing_L
        p = px[c]
        is_low = px[c - 1] > p
        pivot = True
        left, right = px[c - 1], px[c + 1]
        for j in range(1, swing_L + 1):
            a, b = px[c - j], px[c + j]
            if is_low:
                if a <= p or b <= p:
                    pivot = False
                    break
                left, right = max(left, a), max(right, b)
            else:
                if a >= p or b >= p:
                    pivot = False
                    break
                left, right = min(left, a), min(right, b)
        if not pivot:
            continue
        left, right = abs(left - p), abs(right - p)
        which = 0 if is_low else 1
        before = last[which]
        valid_before = seen[which, 0]
        last[which] = c
        seen[which, 0], seen[which, 1] = min(left, right) / max(left, right), 1e4 * max(left, right) / p
        if before < 0 or px[before] == p or c - before < floors[3]:
            continue
        if vol_ok[now] < floors[1] or seen[which, 1] < floors[2] or ts[now] - silent[which] < cooldown:
            continue
        way = 1.0 if p < px[before] else -1.0
        part0, part1 = way * (z[0, c] - z[0, before]), way * (z[1, c] - z[1, before])
        part0 = min(part0, 1.0) if part0 > 0.0 else 0.0
        part1 = min(part1, 1.0) if part1 > 0.0 else 0.0
        best, best_score = -1, 0.0
        for channel in range(3):
            za, zb = z[channel, before], z[channel, c]
            if not way * (zb - za) > 0.0:
                continue
            u, v = max(abs(za), abs(zb)), min(abs(za), abs(zb))
            if u < z_hi or v < z_mid or (channel == 2 and fallback[c] == 1 and fallback[before] == 1):
                continue
            if channel == 0:
                agreement = 0.25 * (2.0 * part0 + part1)
            elif channel == 1:
                agreement = 0.25 * (2.0 * part1 + part0)
            else:
                agreement = 0.5 * (part0 + part1)
            validity = 0.5 * (valid_before + seen[which, 0])
            magnitude = min(1.0, (abs(za) + abs(zb)) / 6.0)
            score = 0.35 * magnitude + 0.25 * validity + 0.25 * agreement + 0.15 * consistency[c]
            score = 100.0 * score * vol_ok[now]
            if score >= floors[0] and (best < 0 or score > best_score):
                best, best_score = channel, score
        if best < 0:
            continue
        silent[which] = ts[now]
        bars[n_found] = now - which * 2**31
        buckets[n_found] = bucket0[now] + best
        n_found += 1
    return n_found


@njit(cache=True)
def plain_set(columns, outcome, swing_L, z_hi, z_mid, cooldown, floors, bars, buckets, out):
    """The same, counted by bucket and horizon."""
    for k in range(plain_events(*columns, swing_L, z_hi, z_mid, cooldown, floors, bars, buckets)):
        which = 1 if bars[k] < 0 else 0
        for h in range(2):
            o = outcome[which, h, bars[k] + which * 2**31]
            if o >= 0:
                out[buckets[k], h, 0] += 1
                out[buckets[k], h, 1] += o


class Plain:
    """The plain loop on columns laid out for it."""

    def __init__(self, rows: np.ndarray) -> None:
        base = DecisionParams()
        ts = np.ascontiguousarray(rows["ts_ms"])
        px = np.ascontiguousarray(rows["px"])
        segment = measures.segments(ts, 1_000)
        outcome = np.empty((2, 2, len(px)), np.int8)
        for h, horizon in enumerate(HORIZONS):
            ret = measures.forward_returns(px, segment, horizon)
            for which, side in enumerate((1, -1)):
                outcome[which, h] = np.maximum(measures.hits(ret, np.full(len(px), side)), -1)
        self.columns = (
            px,
            np.array([rows["z_ofi"], rows["z_cvd"], rows["fusion"]]),
            np.ascontiguousarray(rows["consistency"]),
            rows["fallback"].astype(np.int8),
            np.ascontiguousarray(rows["vol_ok"]),
            (6 * rows["session"] + 3 * rows["liquidity"]).astype(np.int64),
            ts,
        )
        self.outcome = outcome
        self.found = np.empty(len(px), np.int64), np.empty(len(px), np.int64)
        self.floors = np.array([base.min_score, base.min_vol_ok, base.min_swing_bps, float(base.min_separation)])

    def __call__(self, params: DecisionParams) -> np.ndarray:
        out = np.zeros((12, 2, 2), np.int64)
        asked = params.swing_L, params.z_hi, params.z_mid, params.cooldown_ms
        plain_set(self.columns, self.outcome, *asked, self.floors, *self.found, out)
        return out


def run(line: Callable[[str, str, str], None], n_bars: int) -> None:
    """Print the comparison."""
    bars = simulate_bars(MarketSpec(kind="planted", n_bars=n_bars), 3).bars
    rows = compute_features(DetectorParams(), bars)
    columns = compute_columns(DetectorParams(), bars)
    by_row = median(lambda: compute_features(DetectorParams(), bars), 3)
    by_column = median(lambda: compute_columns(DetectorParams(), bars), 3)
    laid_out = median(lambda: FeatureColumns.of(rows, 1_000), 3)
    said = f"{by_column:.2f} s by column, {by_row:.2f} s by row; from one to the other {laid_out * 1e3:.0f} ms"
    line(f"features of {n_bars:,} bars, which every peer is given", said, "")
    ts = rows["ts_ms"]
    blocks = Blocks.of(int(ts[0]) - 1_000, int(ts[-1]), N_BLOCKS, 16, max(HORIZONS) * 1_000)
    workers = os.cpu_count() or 1
    thousand, ten = settings_of(10, 10, 0), settings_of(40, 25, 0)
    binding = settings_of(40, 25, 60_000)
    plain = Plain(rows)

    def ours(settings: Settings) -> tuple[np.ndarray, ...]:
        return count_grid(settings, [columns], HORIZONS, blocks, workers=workers)

    agree(ours, plain, thousand)
    agree(ours, plain, binding)
    took = {}
    kernel = [DetectorParams(decision=thousand[i].params.decision) for i in range(0, len(thousand), 200)]
    sample = [thousand[i].params.decision for i in range(0, len(thousand), 50)]
    for name, settings in (("1,000", thousand), ("10,000", ten), ("10,000, cooldown binds", binding)):
        each, mine, detector = [], [], []
        for _ in range(7):  # by turns, so that a busy moment of the machine meets both
            start = time.perf_counter()
            ours(settings)
            mine.append(time.perf_counter() - start)
            start = time.perf_counter()
            for params in sample:
                plain(params)
            each.append((time.perf_counter() - start) / len(sample))
            start = time.perf_counter()
            for params in kernel:
                Detector(params).run_features(rows)
            detector.append((time.perf_counter() - start) / len(kernel))
        took[name] = statistics.median(mine)
        line(f"{name} settings x 12 buckets, {n_bars:,} bars", f"{took[name] * 1e3:.0f} ms", "")
        for peer, times, n in (
            ("the detector's own kernel, set by set (no counting)", detector, len(kernel)),
            ("a numba loop stripped to this task, set by set", each, len(sample)),
        ):
            one = statistics.median(times)
            line(
                f"  {peer}",
                f"{one * 1e3:.1f} ms a setting (scaled from {n}): {one * len(settings) / took[name]:,.0f} x",
                {"1,000": "at least 500 x", "10,000": "at least 4,000 x"}.get(name, ""),
            )
    line("  10,000 over 1,000 settings", f"{took['10,000'] / took['1,000']:.2f} x", "at most 1.5 x")
    line("  a cooldown that binds", f"{took['10,000, cooldown binds'] / took['10,000']:.2f} x", "at most 8 x")
    copy = np.empty_like(rows)
    line(
        "  distance to the machine's copy bandwidth",
        f"{took['10,000'] / median(lambda: np.copyto(copy, rows), 7):.1f} copies of the feature rows",
        "",
    )
    peer_scipy(line, plain, ten, took["10,000"])
    peer_vectorbt(line, plain, thousand, took["1,000"])
    spearman(line, bars, thousand)
    whole(line, bars, thousand)


def agree(ours: Callable[[Settings], tuple[np.ndarray, ...]], plain: Plain, settings: Settings) -> None:
    """Both count the same, or the comparison would be of two different things."""
    _, _, n_all, hits_all, _ = ours(settings)
    for i in range(0, len(settings), max(len(settings) // 20, 1)):
        out = plain(settings[i].params.decision)
        if not (np.array_equal(out[:, :, 0], n_all[i]) and np.array_equal(out[:, :, 1], hits_all[i])):
            raise AssertionError(f"the peers disagree at {settings[i].values}")


def peer_scipy(line: Callable[[str, str, str], None], plain: Plain, settings: Settings, took: float) -> None:
    """Vectors over cached pivots, pairs, scores and gates; thresholds and counts set by set."""
    (px, z, consistency, fallback, vol_ok, bucket0, _), outcome = plain.columns, plain.outcome
    min_score, min_vol_ok, min_swing_bps, min_separation = plain.floors
    cached = {}
    for swing_L in SWINGS:
        for which, compare in enumerate((np.less, np.greater)):
            at = argrelextrema(px, compare, order=swing_L)[0]
            at = at[(at >= swing_L) & (at + swing_L < len(px))]
            around = np.lib.stride_tricks.sliding_window_view(px, swing_L)
            far = np.max if which == 0 else np.min
            left = np.abs(far(around[at - swing_L], axis=1) - px[at])
            right = np.abs(far(around[at + 1], axis=1) - px[at])
            valid, bps = np.minimum(left, right) / np.maximum(left, right), 1e4 * np.maximum(left, right) / px[at]
            a, b, now = at[:-1], at[1:], at[1:] + swing_L
            way = np.where(px[b] < px[a], 1.0, -1.0)
            moved = way * (z[:, b] - z[:, a])
            part = np.clip(np.nan_to_num(moved[:2]), 0.0, 1.0)
            agreement = np.array(
                [0.25 * (2 * part[0] + part[1]), 0.25 * (2 * part[1] + part[0]), 0.5 * part.sum(axis=0)]
            )
            sizes = np.abs(z[:, a]), np.abs(z[:, b])
            magnitude = np.minimum(1.0, (sizes[0] + sizes[1]) / 6.0)
            validity = 0.5 * (valid[:-1] + valid[1:])
            score = 0.35 * magnitude + 0.25 * validity + 0.25 * agreement + 0.15 * consistency[b]
            score = 100.0 * score * vol_ok[now]
            open_ = (moved > 0) & (score >= min_score) & (px[b] != px[a]) & (b - a >= min_separation)
            open_ &= (vol_ok[now] >= min_vol_ok) & (bps[1:] >= min_swing_bps)
            open_[2] &= (fallback[a] != 1) | (fallback[b] != 1)
            score = np.where(open_, score, -1.0)
            cached[swing_L, which] = (
                np.maximum(*sizes),
                np.minimum(*sizes),
                score,
                bucket0[now],
                outcome[which][:, now],
            )

    def count(p: DecisionParams) -> np.ndarray:
        out = np.zeros((12, 2, 2), np.int64)
        for which in (0, 1):
            u, v, score, bucket, judged = cached[p.swing_L, which]
            best = np.where((u >= p.z_hi) & (v >= p.z_mid), score, -1.0)
            channel = best.argmax(axis=0)
            hit = best.max(axis=0) >= 0
            of = (bucket + channel)[hit]
            for h in range(2):
                o = judged[h, hit]
                out[:, h, 0] += np.bincount(of[o >= 0], minlength=12)
                out[:, h, 1] += np.bincount(of[o == 1], minlength=12)
        return out

    sample = [settings[i].params.decision for i in range(0, len(settings), 100)]
    if not all(np.array_equal(count(p), plain(p)) for p in sample[::20]):
        raise AssertionError("scipy's counts differ")
    start = time.perf_counter()
    for p in sample:
        count(p)
    one = (time.perf_counter() - start) / len(sample)
    line(
        "  scipy pivots, pairs and scores cached, vectors set by set",
        f"{one * 1e3:.2f} ms a setting (scaled from {len(sample)}): {one * len(settings) / took:,.0f} x",
        "at least 200 x at 10,000",
    )


def peer_vectorbt(line: Callable[[str, str, str], None], plain: Plain, settings: Settings, took: float) -> None:
    """An indicator with the plain loop inside, run over the product of the parameters, and its events counted."""
    try:
        import vectorbt as vbt
    except ImportError:
        line("  vectorbt", "not installed (`make bench` installs it)", "at least 1,000 x at 1,000")
        return
    columns, floors, found, outcome = plain.columns, plain.floors, plain.found, plain.outcome

    def apply(close: np.ndarray, swing_L: int, z_hi: float, z_mid: float) -> np.ndarray:
        out = np.zeros(close.shape, np.int8)  # 1 + bucket, negative for a bear
        n = plain_events(*columns, swing_L, z_hi, z_mid, 0, floors, *found)
        is_bear = found[0][:n] < 0
        out[found[0][:n] + is_bear * 2**31, 0] = (found[1][:n] + 1) * np.where(is_bear, -1, 1)
        return out

    def count(events: np.ndarray) -> np.ndarray:
        out = np.zeros((12, 2, 2), np.int64)
        for which, sign in enumerate((1, -1)):
            at = np.flatnonzero(events * sign > 0)
            of = events[at] * sign - 1
            for h in range(2):
                o = outcome[which, h, at]
                out[:, h, 0] += np.bincount(of[o >= 0], minlength=12)
                out[:, h, 1] += np.bincount(of[o == 1], minlength=12)
        return out

    factory = vbt.IndicatorFactory(
        input_names=["close"], param_names=["swing_L", "z_hi", "z_mid"], output_names=["event"]
    ).from_apply_func(apply)
    sample = [settings[i].params.decision for i in range(0, len(settings), 25)]
    lists = [[p.swing_L for p in sample], [p.z_hi for p in sample], [p.z_mid for p in sample]]
    factory.run(columns[0], *(values[:1] for values in lists))
    whole_s, alone_s = [], []
    for _ in range(5):
        start = time.perf_counter()
        events = factory.run(columns[0], *lists).event.to_numpy()
        alone_s.append((time.perf_counter() - start) / len(sample))
        counted = [count(events[:, i]) for i in range(len(sample))]
        whole_s.append((time.perf_counter() - start) / len(sample))
    if not all(np.array_equal(mine, plain(p)) for mine, p in zip(counted, sample, strict=True)):
        raise AssertionError("vectorbt's counts differ")
    for name, times, goal in (("", whole_s, "at least 1,000 x at 1,000"), (", events alone", alone_s, "")):
        each = statistics.median(times)
        said = f"{each * 1e3:.1f} ms a setting (scaled from {len(sample)}): {each * len(settings) / took:,.0f} x"
        line(f"  vectorbt IndicatorFactory{name}", said, goal)


def spearman(line: Callable[[str, str, str], None], bars: np.ndarray, settings: Settings) -> None:
    """Exact rank correlation of every setting's events."""
    blocks = Blocks.of(int(bars["ts_ms"][0]) - 1_000, int(bars["ts_ms"][-1]), N_BLOCKS, 16, 20_000)
    mine = theirs = 0.0
    n = 0
    for part in grid.plan(settings)[:4]:
        scans = [grid.scan_symbol(bars, part.features, [part], SessionClock(), HORIZONS)]
        pooled = pool.pool(part, scans, blocks, 0.0)
        signed = np.ascontiguousarray(pooled.returns[:, 0] * pooled.side)
        for lists in slices._lists(part, pooled, slices.LIST_ROOM):
            start, event = lists.start, lists.event
            rho = np.empty(len(start) - 1)
            for _ in range(2):  # the first run compiles
                began = time.perf_counter()
                ranking = slices._ranking(pooled.score, signed)
                statistic_kernel.rank_correlations(start, event, ranking, rho)
                spent = time.perf_counter() - began
            mine += spent
            began = time.perf_counter()
            for s in range(len(rho)):
                own = event[start[s] : start[s + 1]]
                inside = own[~np.isnan(signed[own])]
                expected = spearmanr(pooled.score[inside], signed[inside]).statistic
                if not math.isclose(expected, rho[s], abs_tol=1e-12):
                    raise AssertionError("rank correlations differ")
            theirs += time.perf_counter() - began
            n += len(rho)
    line(
        "exact Spearman of every setting",
        f"{mine / n * 1e6:.0f} us a setting; scipy {theirs / n * 1e6:.0f} us: {theirs / mine:.1f} x",
        "at least 10 x",
    )


def whole(line: Callable[[str, str, str], None], bars: np.ndarray, settings: Settings) -> None:
    """The search as a sign-off does it: the null of the whole grid over 2,000 shifts, and Spearman, included."""
    ts = bars["ts_ms"]
    blocks = Blocks.of(int(ts[0]) - 1_000, int(ts[-1]), N_BLOCKS, 480, 20_000)
    shifts = measures.draw_shifts([len(bars)], 150, 2_000, 1)[:, 0]
    job = Job(SessionClock(), HORIZONS, blocks, shifts, 100, 0.0, False)
    for name, axes in (("1,000", settings), ("10,000", settings_of(40, 25, 30_000))):
        start = time.perf_counter()
        judge_grid(axes, [SymbolPart("BTCUSDT", bars)], job, workers=os.cpu_count() or 1)
        line(
            f"{name} settings, {len(bars):,} bars, with the null over 2,000 shifts",
            f"{time.perf_counter() - start:.1f} s, features included",
            "seconds",
        )


def median(call: Callable[[], object], times: int) -> float:
    found: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def year(line: Callable[[str, str, str], None], peak: Callable[[str, Sequence[str]], tuple[float, float]]) -> None:
    """A year of 1 s bars with 1,000 settings, in a process of its own."""
    seconds, mib = peak(YEAR, [])
    said = f"{seconds:.0f} s, peak {mib / 1024:.1f} GiB"
    line("31.5 million bars x 1,000 settings, null over 200 shifts", said, "24 GiB")


YEAR = """
import numpy as np
from tests.bench.grid_bench import HORIZONS, settings_of
from v13 import measures
from v13.detector import SessionClock
from v13.market import MarketSpec, simulate_bars
from v13.research.counting import count_grid
from v13.research.execution import Job, judge_grid
from v13.research.grid import Blocks
from v13.research.trials import SymbolPart
piece = simulate_bars(MarketSpec(kind="planted", n_bars=1_050_000), 3).bars
year = np.concatenate([piece] * 30)
year["ts_ms"] = piece["ts_ms"][0] + 1_000 * np.arange(len(year))
blocks = Blocks.of(int(year["ts_ms"][0]) - 1_000, int(year["ts_ms"][-1]), 5, 480, 20_000)
shifts = measures.draw_shifts([len(year)], 150, 200, 1)[:, 0]
job = Job(SessionClock(), HORIZONS, blocks, shifts, 100, 0.0, False)
judge_grid(settings_of(10, 10, 30_000), [SymbolPart("BTCUSDT", year)], job, workers=2)
"""
