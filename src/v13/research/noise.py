"""The noise test of the whole pipeline: how often it signs off markets that hold no edge, and how often those that do.

Each market goes the whole way: search, selection, overrides, calibration, acceptance, with the very config of a
sign-off. Nothing is written to disk on the way, and workers share no random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from v13 import config as configs
from v13 import market, measures
from v13.errors import ConfigError
from v13.research.acceptance import HoldoutResult
from v13.research.cut import Records
from v13.research.given_markets import given_sources
from v13.research.noise_report import NoiseReport, Outcome, PowerCell, share_of
from v13.research.null_markets import (
    GIVEN,
    KINDS,
    PLANTED,
    SURROGATES,
    Shape,
    make_market,
    planted_market,
    seeds_of,
)
from v13.research.pipeline import whole_way
from v13.research.run import make_run

__all__ = ["judge_market", "run_noise", "run_power"]

PILOT_BARS: Final = 150_000  # of all symbols together
PILOTS: Final = 4

Progress = Callable[[int, int], None]


def run_noise(
    loaded: configs.Loaded,
    *,
    kinds: Sequence[str],
    n_markets: int,
    shape: Shape,
    seed: int,
    bars: Mapping[str, Records] | None = None,
    given: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> NoiseReport:
    """Run the pipeline on `n_markets` markets without an edge of each kind.

    Parameters
    ----------
    kinds : of null_markets.KINDS, or GIVEN
    n_markets : int, >= 1
        Of each kind; of files brought from outside all are judged.
    shape : Shape
        Of simulated markets. Surrogates have that of `bars`, markets from outside their own.
    bars : symbol -> (n,) BAR, optional
        What surrogates are made of.
    given : str, optional
        Markets of the kind GIVEN: PATH or `module:function`, see `given_markets.given_sources`.
    workers : int
        Processes; the result does not depend on it.

    Raises
    ------
    ConfigError, DataError
        An unknown kind; `given` cannot be had; or `bars` or `given` are there and no kind makes use of them.
    """
    for kind in kinds:
        if kind not in (*KINDS, GIVEN):
            raise ConfigError(f"--kind: expected one of all, {', '.join((*KINDS, PLANTED, GIVEN))}, found {kind!r}")
    if given is None and GIVEN in kinds:
        raise ConfigError("--kind given: needs --market PATH or module:function")
    if given is not None and GIVEN not in kinds:
        raise ConfigError("--market: its markets are the kind given; ask for --kind all or given")
    if bars is not None and not set(kinds) & set(SURROGATES):
        raise ConfigError(f"--recording: only surrogates are made of it; ask for --kind all or {', '.join(SURROGATES)}")
    outside = [] if given is None else given_sources(given, n_markets)
    jobs = []
    for kind in kinds:
        sources = outside if kind == GIVEN else [None] * n_markets
        jobs += [_Job(loaded, kind, i, shape, seed, bars, source, None) for i, source in enumerate(sources)]
    outcomes = tuple(_run(jobs, workers, progress))
    shares = tuple(share_of(kind, [o for o in outcomes if o.kind == kind]) for kind in kinds)
    everything = share_of("all null markets", outcomes) if outcomes else None
    return NoiseReport(seed, shape, shares, everything, (), outcomes)


def run_power(
    loaded: configs.Loaded,
    *,
    cells: Sequence[tuple[float, int, int]],
    shape: Shape,
    seed: int,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[PowerCell, ...]:
    """Run the pipeline on planted markets.

    Parameters
    ----------
    cells : (true accuracy, holdout events, markets)
        True accuracy is that of the detector's own events: not each of them is a plant, so markets are planted with a
        higher chance. How much higher, and how many bars it takes for so many events, is measured on pilot markets of
        another seed.
    shape : Shape
        Symbols, bar length and channels of each market; its own n_bars is not used.
    seed, workers
        As `run_noise`.
    """
    pilot = replace(shape, n_bars=PILOT_BARS // shape.n_symbols)
    pilots = [_Job(loaded, f"pilot {i}", i, pilot, seed, None, None, 0.65) for i in range(PILOTS)]
    seen = [o for o in _run(pilots, workers, None) if o.truth is not None]
    if not seen:
        raise ConfigError("noise: no event on any pilot market: power cannot be measured with these settings")
    diluted = float(np.mean([(o.truth or 0.5) - 0.5 for o in seen])) / 0.15
    share = 1 - loaded.config.search.search_share
    per_bar = float(np.mean([o.n_events for o in seen])) / (pilot.n_bars * share)
    jobs: list[_Job] = []
    plans = []
    for accuracy, n_events, n_markets in cells:
        chance = min(0.5 + (accuracy - 0.5) / diluted, 0.9)
        own_shape = replace(shape, n_bars=math.ceil(n_events / per_bar / share))
        plans.append((accuracy, n_events, own_shape, chance))
        name = f"planted {accuracy:g} {n_events}"
        jobs += [_Job(loaded, name, i, own_shape, seed, None, None, chance) for i in range(n_markets)]
    outcomes = list(_run(jobs, workers, progress))
    found = []
    for accuracy, n_events, own_shape, chance in plans:
        name = f"planted {accuracy:g} {n_events}"
        own = [o for o in outcomes if o.kind == name]
        truth = [o.truth for o in own if o.truth is not None]
        found.append(
            PowerCell(
                accuracy,
                n_events,
                own_shape,
                chance,
                float(np.mean([o.n_events for o in own])),
                float(np.mean(truth)) if truth else 0.5,
                share_of(name, own),
            )
        )
    return tuple(found)


def judge_market(bars: Mapping[str, Records], loaded: configs.Loaded, seed: int) -> HoldoutResult:
    """Send one market the whole way."""
    recordings = {}
    for symbol, one in bars.items():
        recordings[symbol] = market.Recording(
            symbol=symbol,
            market="unknown",
            clock="exchange",
            bar_ms=int(np.median(np.diff(one["ts_ms"]))),
            bars=one,
            has_trades=_has_trades(one),
            has_quotes=_has_quotes(one),
            simulated=True,
            truth=None,
            sources=(),
            quality={},
        )
    return whole_way(make_run(recordings, loaded, root=Path(), out=Path(), seed=seed))


@dataclass(frozen=True)
class _Job:
    loaded: configs.Loaded
    kind: str
    number: int
    shape: Shape
    seed: int
    bars: Mapping[str, Records] | None
    given: str | None
    chance: float | None  # of planted markets


def _judge(job: _Job) -> Outcome:
    source = seeds_of(job.seed, job.kind, job.number)
    truth = None
    if job.chance is None:
        bars = make_market(job.kind, job.shape, source, job.bars, job.given)
    else:
        bars, truth = planted_market(job.chance, job.shape, source)
    result = judge_market(bars, job.loaded, int(source.generate_state(1)[0]))
    verdict = result.verdict
    not_passed = tuple(
        c.key for c in verdict.criteria if c not in verdict.open and c.status is not measures.Status.PASS
    )
    lacks = {
        "bucket_ofi_only": not any(_has_quotes(one) for one in bars.values()),
        "bucket_cvd_only": not any(_has_trades(one) for one in bars.values()),
    }
    hits = result.outcomes.hits
    counted = (hits >= 0).sum(axis=0)
    return Outcome(
        job.kind,
        job.number,
        verdict.overall.value,
        not_passed,
        tuple(key for key in not_passed if lacks.get(key, False)),
        int(counted.min()) if len(counted) else 0,
        float(((hits == 1).sum(axis=0) / counted).mean()) if counted.all() else None,
        None if truth is None else _expected(result, list(bars), truth),
    )


def _has_trades(bars: Records) -> bool:
    return bool((bars["lag_trade_ms"] >= 0).any())


def _has_quotes(bars: Records) -> bool:
    return bool(np.isfinite(bars["ofi"]).any())


def _expected(result: HoldoutResult, symbols: Sequence[str], truth: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the accuracy that the planted chances give the detector's holdout events."""
    events = result.outcomes.events
    if not len(events):
        return None
    chance = np.full(len(events), 0.5)
    for number, symbol in enumerate(symbols):
        plants = truth[symbol]["plants"]
        by_event = dict(zip(zip(plants["ts_ms"], plants["side"], strict=True), plants["q"], strict=True))
        for i in np.flatnonzero(result.outcomes.symbol == number):
            chance[i] = by_event.get((int(events["ts_ms"][i]), int(events["side"][i])), 0.5)
    return float(chance.mean())


def _run(jobs: Sequence[_Job], workers: int, progress: Progress | None) -> Iterator[Outcome]:
    if workers <= 1:
        for done, outcome in enumerate(map(_judge, jobs), 1):
            _tell(progress, done, len(jobs))
            yield outcome
        return
    with ProcessPoolExecutor(workers) as pool:
        for done, outcome in enumerate(pool.map(_judge, jobs), 1):
            _tell(progress, done, len(jobs))
            yield outcome


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
