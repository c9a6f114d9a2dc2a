"""Evidence beside the criteria: what each source earns alone, what shuffled flow earns, and when the edge was earned.

Everything here is computed on the holdout with the released parameters; it chooses nothing.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13 import market, measures
from v13.config import Config
from v13.detector import DetectorParams, SessionClock, candidates, replay
from v13.detector.dtypes import CHANNELS, FUSION
from v13.research.cut import Cut, Records
from v13.research.trials import Outcomes, SymbolPart, bucket_of, evaluate, find_events

__all__ = [
    "ALL",
    "N_SHUFFLES",
    "AblationRow",
    "PlaceboRow",
    "RegimeRow",
    "Regimes",
    "ablation",
    "placebo",
    "regimes",
    "source_events",
]

ALL: Final = "ALL"  # the whole detector, beside the names of its channels
PLACEBO_BLOCK_BARS: Final = 60  # keeps the flow's clustering, and is several times the longest label
N_SHUFFLES: Final = 5  # pooled: one shuffle alone is right or wrong by luck (sd 0.016 of accuracy with 900 events)
DAY_MS: Final = 86_400_000
UNITS: Final = (("month", 60 * DAY_MS, "M"), ("day", 2 * DAY_MS, "D"), ("hour", -1, "h"))  # name, from beyond, numpy's
FORMATS: Final = {"month": 7, "day": 10, "hour": 16}  # characters of an ISO time that name the period

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class AblationRow:
    """What each source earns alone, at one horizon.

    accuracy : by source (OFI_ONLY, CVD_ONLY, FUSION: that channel alone through the same gates) and ALL.
    better : the single source with the higher accuracy here, of those with enough events; None without one.
    difference : accuracy of fusion minus that of `better`, with its paired block-bootstrap interval.
    """

    horizon_bars: int
    accuracy: Mapping[str, measures.Accuracy]
    better: str | None
    difference: float | None
    difference_interval: Bounds


@dataclass(frozen=True)
class PlaceboRow:
    """What the released parameters earn on shuffled flow, at one horizon; difference is real minus placebo."""

    horizon_bars: int
    accuracy: measures.Accuracy
    p: float | None
    difference: float | None
    difference_interval: Bounds


@dataclass(frozen=True)
class RegimeRow:
    """One period at one horizon.

    hours : recorded, summed over symbols; interval : Wilson, 95 %; edge : hits minus misses; share : of the edge of all
    periods, None where that is not above 0.
    """

    period: str
    start_ms: int
    horizon_bars: int
    hours: float
    n: int
    hits: int
    accuracy: float | None
    interval: Bounds
    edge: int
    share: float | None


@dataclass(frozen=True)
class Regimes:
    """The holdout period by period; unit is month, day or hour, UTC."""

    unit: str
    n_periods: int
    rows: tuple[RegimeRow, ...]


def source_events(params: DetectorParams, rows: Records, channel: int) -> Records:
    """Return the divergences of a detector whose other two channels never fire.

    Parameters
    ----------
    params : DetectorParams
        With their bucket overrides; each bucket keeps its own.
    rows : (n,) FEATURE
    channel : int
        Number in `CHANNELS`.

    Returns
    -------
    (k,) EVENT, in order of bar
        Cooldown and cluster act within the channel.

    Notes
    -----
    The score of a channel reads both sources, so the other's readings stay. Candidates do not depend on thresholds, and
    the kernel collects those of a bar's bucket at that bucket's swing_L: keeping just these is exact, whatever the
    overrides.
    """
    swings = np.array([p.swing_L for p in params.bucket_params()], np.int64)
    kept = []
    for swing_L in np.unique(swings[channel :: len(CHANNELS)]):
        found = candidates(rows, int(swing_L), params.features.bar_ms)
        kept.append(found[(found["source"] == channel) & (swings[bucket_of(found)] == swing_L)])
    together = np.concatenate(kept)
    return replay(together[np.argsort(together["bar"], kind="stable")], params)


def ablation(
    rows: Sequence[Records],
    whole: Outcomes,
    params: DetectorParams,
    cut: Cut,
    config: Config,
    *,
    block_ms: int,
    seed: int,
) -> tuple[AblationRow, ...]:
    """Compare fusion with the better single source.

    Parameters
    ----------
    rows : one (n,) FEATURE array a symbol
        Purge gap and holdout.
    whole : Outcomes
        Of the whole detector on them.
    block_ms : int
        Of the bootstrap.

    Returns
    -------
    one AblationRow a horizon

    Notes
    -----
    The better source is picked on the holdout itself, which favours it: the difference leans against fusion.
    """
    alone = [
        evaluate(
            [source_events(params, r, channel) for r in rows],
            rows,
            whole.horizons,
            cut.bar_ms,
            config.search.cost_bps,
            after_ms=cut.holdout_start_ms,
        )
        for channel in range(len(CHANNELS))
    ]
    found = []
    for h, horizon in enumerate(whole.horizons):
        accuracy = {name: measures.accuracy(o.hits[:, h]) for name, o in zip(CHANNELS, alone, strict=True)}
        single = [
            c
            for c in range(len(CHANNELS))
            if c != FUSION and accuracy[CHANNELS[c]].n_judged >= config.search.min_bucket_events
        ]
        better = max(single, key=lambda c: accuracy[CHANNELS[c]].accuracy or 0.0, default=None)
        difference, interval = None, None
        if better is not None:
            difference, interval = _difference(alone[FUSION], alone[better], h, block_ms, config, seed)
        accuracy[ALL] = measures.accuracy(whole.hits[:, h])
        name = None if better is None else CHANNELS[better]
        found.append(AblationRow(horizon, accuracy, name, difference, interval))
    return tuple(found)


def placebo(
    parts: Sequence[SymbolPart],
    rows: Sequence[Records],
    real: Outcomes,
    params: DetectorParams,
    sessions: SessionClock,
    cut: Cut,
    config: Config,
    *,
    min_shift: int,
    n_shifts: int,
    seed: int,
) -> tuple[PlaceboRow, ...]:
    """Run the released parameters on bars whose flow is shuffled in blocks.

    Parameters
    ----------
    parts, rows : one SymbolPart and one (n,) FEATURE array a symbol
        Purge gap and holdout as they were; the labels are taken from `rows`.
    real : Outcomes
        Of the detector on the true flow.
    min_shift, n_shifts
        As `measures.circular_shift_null`.
    seed : int
        Each symbol and shuffle draws from a child of its own.

    Returns
    -------
    one PlaceboRow a horizon
        The events of all shuffles pooled; in the null they move together, so p holds for the pooled accuracy.
    """
    events = []
    for part in parts:
        drawn = []
        for shuffle in range(N_SHUFFLES if part.bars.size else 0):
            child = np.random.SeedSequence([seed, zlib.crc32(b"placebo"), zlib.crc32(part.symbol.encode()), shuffle])
            bars = market.block_shuffle(part.bars, PLACEBO_BLOCK_BARS, np.random.default_rng(child))
            drawn.append(find_events(params, sessions, SymbolPart(part.symbol, bars))[0])
        events.append(np.concatenate(drawn) if drawn else np.zeros(0, real.events.dtype))
    outcomes = evaluate(events, rows, real.horizons, cut.bar_ms, config.search.cost_bps, after_ms=cut.holdout_start_ms)
    found = []
    for h, horizon in enumerate(real.horizons):
        nulls = measures.circular_shift_null(
            outcomes.panels[h],
            min_shift=min_shift,
            n_shifts=n_shifts,
            seed=seed,
            cost_bps=config.search.cost_bps,
            rho=False,
        )
        difference, interval = _difference(real, outcomes, h, min_shift * cut.bar_ms, config, seed)
        accuracy = measures.accuracy(outcomes.hits[:, h])
        found.append(PlaceboRow(horizon, accuracy, nulls.accuracy.p, difference, interval))
    return tuple(found)


def regimes(outcomes: Outcomes, rows: Sequence[Records], cut: Cut) -> Regimes:
    """Split the holdout's edge by period: months beyond 60 days, days beyond 2 days, else hours; UTC.

    Parameters
    ----------
    outcomes : Outcomes
        Of the holdout.
    rows : one (n,) FEATURE array a symbol
        A period counts where any symbol has a bar with a price behind the purge gap, events or not.

    Returns
    -------
    Regimes
        Rows by horizon and period. A bar, and an event it makes known, belongs to the period it closes in; one that
        closes at midnight to the day before.
    """
    span = cut.end_ms - cut.holdout_start_ms
    unit, _, code = next(u for u in UNITS if span > u[1])
    times = [r["ts_ms"][(r["ts_ms"] > cut.holdout_start_ms) & np.isfinite(r["px"])] for r in rows]
    recorded = _period(np.concatenate(times), code)
    periods, n_bars = np.unique(recorded, return_counts=True)
    at = np.searchsorted(periods, _period(outcomes.events["ts_ms"], code))
    starts = periods.astype("datetime64[ms]").astype(np.int64)
    found = []
    for h, horizon in enumerate(outcomes.horizons):
        hit = outcomes.hits[:, h]
        hits = np.bincount(at[hit == measures.HIT], minlength=len(periods))
        misses = np.bincount(at[hit == measures.MISS], minlength=len(periods))
        total = int(hits.sum() - misses.sum())
        for i in range(len(periods)):
            n, k = int(hits[i] + misses[i]), int(hits[i])
            found.append(
                RegimeRow(
                    str(periods[i].astype("datetime64[m]"))[: FORMATS[unit]].replace("T", " "),
                    int(starts[i]),
                    horizon,
                    int(n_bars[i]) * cut.bar_ms / 3_600_000,
                    n,
                    k,
                    k / n if n else None,
                    measures.wilson_interval(k, n) if n else None,
                    2 * k - n,
                    (2 * k - n) / total if total > 0 else None,
                )
            )
    return Regimes(unit, len(periods), tuple(found))


def _period(ts_ms: NDArray[np.int64], code: str) -> NDArray[Any]:
    return (ts_ms - 1).astype("datetime64[ms]").astype(f"datetime64[{code}]")


def _difference(
    first: Outcomes, second: Outcomes, h: int, block_ms: int, config: Config, seed: int
) -> tuple[float | None, Bounds]:
    """Return the accuracy of one set of events minus another's, with its interval; both share the blocks drawn."""
    (a, ts_a), (b, ts_b) = (_judged(o, h) for o in (first, second))
    if not (len(a) and len(b)):
        return None, None
    found = measures.bootstrap_mean_difference(
        a, ts_a, b, ts_b, block_ms, n_bootstrap=config.acceptance.n_bootstrap, seed=seed
    )
    low, high = found.interval.low, found.interval.high
    return found.observed, (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _judged(outcomes: Outcomes, h: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return 1 for a hit and 0 for a miss, and when each became known."""
    hit = outcomes.hits[:, h]
    judged = hit >= 0
    return (hit[judged] == measures.HIT).astype(np.float64), outcomes.events["ts_ms"][judged]
