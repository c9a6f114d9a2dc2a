"""Selection: the plateau of the grid, walk-forward check of the rule, and bucket overrides that earn their place.

All of it works on counts of hits and misses per (setting, time block, bucket, horizon) on the search part. Nothing here
decides whether the detector works: that is acceptance, on data this module never sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from v13 import measures
from v13.detector import BucketOverride, FeatureParams
from v13.detector.dtypes import CHANNELS, N_BUCKETS
from v13.detector.params import LIQUIDITIES, SESSIONS
from v13.research.trials import Outcomes, Setting, bucket_of

__all__ = [
    "Choice",
    "Counts",
    "FoldResult",
    "OverrideTest",
    "choose",
    "count",
    "judge_overrides",
    "overrides_of",
    "walk_forward",
]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

CONFIDENCE = 0.90  # one-sided Wilson bound: what a setting shows at the least


@dataclass(frozen=True)
class Counts:
    """Hits and labelled events of every setting.

    n, hits : (S, K, 12, H) int64
        By setting, time block of the search part, bucket and horizon. An event whose label reaches beyond its block is
        left out of the block counts, so that blocks do not overlap.
    n_all, hits_all : (S, 12, H) int64
        The same without blocks and without that loss.
    n_events : (S, K) int64
        All events by block, labelled or not.
    hours : (K,) float64
        Recorded hours of each block, all symbols.
    """

    n: I8
    hits: I8
    n_all: I8
    hits_all: I8
    n_events: I8
    hours: F8

    def events_per_hour(self, before: int | None = None) -> F8:
        """Return (S,) events an hour and symbol in the blocks before block `before` (None: in all)."""
        hours = float(self.hours[:before].sum())
        return self.n_events[:, :before].sum(axis=1) / hours if hours > 0 else np.zeros(len(self.n_events))


@dataclass(frozen=True)
class Choice:
    """The chosen setting, or None with the reason; plateau and objective of all settings (NaN: not eligible)."""

    setting: int | None
    reason: str
    objective: F8
    plateau: F8
    eligible: NDArray[np.bool_]


@dataclass(frozen=True)
class FoldResult:
    """Chosen on the blocks before, judged on the next one."""

    fold: int
    setting: int | None
    n: tuple[int, ...]
    hits: tuple[int, ...]


@dataclass(frozen=True)
class OverrideTest:
    """One bucket's own setting against the global one, both chosen and judged walk-forward."""

    bucket: int
    setting: int | None
    accuracy_own: float | None
    accuracy_global: float | None
    n_own: int
    n_global: int
    p: float
    p_corrected: float
    exported: bool
    reason: str


def count(
    outcomes: Sequence[Outcomes], times: Sequence[I8], start_ms: int, end_ms: int, n_blocks: int, bar_ms: int
) -> Counts:
    """Count hits and misses of every setting over equal time blocks of the search part.

    Parameters
    ----------
    times : one (n,) int64 a symbol
        Close times of the bars that have a price.
    """
    horizons = outcomes[0].horizons
    shape = (len(outcomes), n_blocks, N_BUCKETS, len(horizons))
    n, hits = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    n_all, hits_all = np.zeros((shape[0], *shape[2:]), np.int64), np.zeros((shape[0], *shape[2:]), np.int64)
    n_events = np.zeros(shape[:2], np.int64)
    edges = start_ms + (end_ms - start_ms) * np.arange(n_blocks + 1) // n_blocks
    reach_ms = max(horizons) * bar_ms
    for s, outcome in enumerate(outcomes):
        events = outcome.events
        bucket = bucket_of(events)
        block = np.clip(np.searchsorted(edges, events["ts_ms"], side="left") - 1, 0, n_blocks - 1)
        inside = events["ts_ms"] + reach_ms <= edges[block + 1]
        n_events[s] = np.bincount(block, minlength=n_blocks)
        for h in range(len(horizons)):
            judged = outcome.hits[:, h] >= 0
            for total, mask in ((n_all[s, :, h], judged), (hits_all[s, :, h], outcome.hits[:, h] == 1)):
                np.add.at(total, bucket[mask], 1)
            for table, mask in ((n, judged & inside), (hits, (outcome.hits[:, h] == 1) & inside)):
                np.add.at(table[s, :, :, h], (block[mask], bucket[mask]), 1)
    recorded = sum((np.histogram(ts, bins=edges + 1)[0] for ts in times), np.zeros(n_blocks, np.int64))
    return Counts(n, hits, n_all, hits_all, n_events, recorded * bar_ms / 3_600_000)


def choose(
    settings: Sequence[Setting],
    n: I8,
    hits: I8,
    min_events: float,
    rate: F8 | None = None,
    band: tuple[float, float] | None = None,
) -> Choice:
    """Choose the middle of the best plateau.

    Parameters
    ----------
    n, hits : (S, H) int64
    min_events : float
        A setting with fewer labelled events at any horizon is not eligible.
    rate, band : optional
        Events per hour of each setting and the closed band it must lie in.

    Notes
    -----
    A setting's objective is the mean over horizons of the one-sided 90 % Wilson lower bound of its accuracy: few
    events cannot shine. Its plateau is the lesser of its own objective and the median objective of its neighbours; the
    highest plateau wins (ties: the higher objective, then the smaller number). So a spike among poor neighbours loses
    to a setting whose neighbours hold up, and a poor setting does not win on theirs. Neighbours are one grid step away
    along the real-valued axes, diagonals included, and share the whole-number ones: a threshold moved a little sees
    nearly the same events, another `swing_L` or `window` sees other swings.
    """
    objective = np.array([_objective(n[s], hits[s]) for s in range(len(settings))])
    eligible = n.min(axis=1) >= min_events
    if rate is not None and band is not None:
        eligible &= (rate >= band[0]) & (rate <= band[1])
    coords = np.array([s.coords for s in settings]).reshape(len(settings), -1)
    real = np.array([any(isinstance(s.values[key], float) for s in settings) for key in settings[0].values], bool)
    plateau = np.full(len(settings), np.nan)
    for s in np.flatnonzero(eligible):
        steps = np.abs(coords - coords[s])
        near = (steps[:, real].max(axis=1, initial=0) == 1) & (steps[:, ~real].max(axis=1, initial=0) == 0)
        plateau[s] = min(objective[s], np.median(objective[near])) if near.any() else objective[s]
    if not eligible.any():
        why = f"no setting has {min_events:.0f} labelled events"
        if band is not None:
            why += f" and {band[0]:g}-{band[1]:g} events an hour"
        return Choice(None, why, objective, plateau, eligible)
    order = sorted(np.flatnonzero(eligible), key=lambda s: (-plateau[s], -objective[s], s))
    return Choice(int(order[0]), "highest plateau", objective, plateau, eligible)


def walk_forward(
    settings: Sequence[Setting], counts: Counts, min_events: int, band: tuple[float, float] | None
) -> list[FoldResult]:
    """Choose on blocks 0..k-1 and judge on block k, for every k: what the rule itself is worth on unseen time."""
    results = []
    n_blocks = counts.n.shape[1]
    for k in range(1, n_blocks):
        choice = choose(
            settings,
            counts.n[:, :k].sum(axis=(1, 2)),
            counts.hits[:, :k].sum(axis=(1, 2)),
            min_events * k / n_blocks,
            counts.events_per_hour(before=k),
            band,
        )
        if choice.setting is None:
            results.append(FoldResult(k, None, (0,) * counts.n.shape[3], (0,) * counts.n.shape[3]))
            continue
        n = counts.n[choice.setting, k].sum(axis=0)
        hits = counts.hits[choice.setting, k].sum(axis=0)
        results.append(FoldResult(k, choice.setting, tuple(map(int, n)), tuple(map(int, hits))))
    return results


def judge_overrides(
    settings: Sequence[Setting],
    counts: Counts,
    folds: Sequence[FoldResult],
    chosen: int | None,
    min_bucket_events: int,
    alpha: float,
) -> list[OverrideTest]:
    """Test for each bucket whether a setting of its own beats the global one out of sample, beyond chance.

    In every fold the bucket's setting is chosen on the blocks before and compared on the next block with the global
    setting of that same fold. One-sided two-proportion z-test of the pooled accuracies (mean over horizons, each event
    counted once), Holm over the buckets tried. The two event sets overlap, which makes the test conservative.
    """
    n_blocks = counts.n.shape[1]
    groups: dict[FeatureParams, list[int]] = {}  # an override sets thresholds: features are the same for all buckets
    for s in settings:
        groups.setdefault(s.params.features, []).append(s.number)

    def own_choice(like: int, n: I8, hits: I8, least: float) -> int | None:
        group = groups[settings[like].params.features]
        choice = choose([settings[s] for s in group], n[group], hits[group], least)
        return None if choice.setting is None else group[choice.setting]

    rows: list[tuple[int, int | None, float, float, float, float, float, str]] = []
    for bucket in range(N_BUCKETS):
        own_n = own_hits = global_n = global_hits = 0.0
        for fold in folds:
            k = fold.fold
            if fold.setting is None:
                continue
            own = own_choice(
                fold.setting,
                counts.n[:, :k, bucket].sum(axis=1),
                counts.hits[:, :k, bucket].sum(axis=1),
                min_bucket_events * k / n_blocks,
            )
            if own is None:
                continue
            own_n += counts.n[own, k, bucket].mean()
            own_hits += counts.hits[own, k, bucket].mean()
            global_n += counts.n[fold.setting, k, bucket].mean()
            global_hits += counts.hits[fold.setting, k, bucket].mean()
        final = None
        if chosen is not None:
            final = own_choice(chosen, counts.n_all[:, bucket], counts.hits_all[:, bucket], min_bucket_events)
        reason = ""
        p = math.nan
        if chosen is None:
            reason = "no global setting to beat"
        elif final is None:
            reason = f"fewer than {min_bucket_events} labelled events in every setting: stays with the global one"
        elif min(own_n, global_n) < min_bucket_events:
            reason = "too few events out of sample to compare: stays with the global one"
        else:
            p = _two_proportions(own_hits, own_n, global_hits, global_n)
        rows.append((bucket, final, own_hits, own_n, global_hits, global_n, p, reason))
    corrected = measures.holm(np.array([r[6] for r in rows]))
    tests = []
    for (bucket, setting, own_hits, own_n, global_hits, global_n, p, reason), p_corrected in zip(
        rows, corrected, strict=True
    ):
        exported = bool(not math.isnan(p) and p_corrected < alpha and setting != chosen)
        if not reason:
            reason = (
                f"beats the global setting out of sample ({own_hits / own_n:.3f} against {global_hits / global_n:.3f}, "
                f"corrected p {p_corrected:.4f})"
                if exported
                else f"does not beat the global setting out of sample beyond chance (corrected p {p_corrected:.3f})"
            )
        tests.append(
            OverrideTest(
                bucket,
                setting,
                own_hits / own_n if own_n else None,
                global_hits / global_n if global_n else None,
                int(own_n),
                int(global_n),
                p,
                float(p_corrected),
                exported,
                reason,
            )
        )
    return tests


def overrides_of(
    settings: Sequence[Setting], tests: Sequence[OverrideTest], grid_keys: Sequence[str]
) -> tuple[BucketOverride, ...]:
    """Return the overrides that passed, each naming why it is there."""
    found = []
    for test in tests:
        if not test.exported or test.setting is None:
            continue
        values = {k: v for k, v in settings[test.setting].values.items() if k in grid_keys}
        when = {
            "session": SESSIONS[test.bucket // 6],
            "liquidity": LIQUIDITIES[test.bucket // 3 % 2],
            "source": CHANNELS[test.bucket % 3],
        }
        found.append(BucketOverride(when, values, test.reason))
    return tuple(found)


def _objective(n: I8, hits: I8) -> float:
    """Return the mean over horizons of the one-sided Wilson lower bound; 0 where a horizon has no events."""
    if n.size == 0 or n.min() == 0:
        return 0.0
    z = norm.ppf(CONFIDENCE)
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float(np.mean((centre - spread) / (1 + z * z / n)))


def _two_proportions(k1: float, n1: float, k2: float, n2: float) -> float:
    pooled = (k1 + k2) / (n1 + n2)
    variance = pooled * (1 - pooled) * (1 / n1 + 1 / n2)
    if variance == 0:
        return 1.0
    return float(norm.sf((k1 / n1 - k2 / n2) / math.sqrt(variance)))
