"""The noise test of the whole pipeline: how often it signs off markets that hold no edge, and how often those that do.

Each market goes the whole way: search, selection, overrides, calibration, acceptance, with the very config of a
sign-off. Nothing is written to disk on the way. Markets are independent: market i of a kind is made from
`SeedSequence([seed, kind number, i])`, so that a result does not depend on how the work was shared out.
"""

from __future__ import annotations

import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import beta

from v13 import config as configs
from v13 import market, measures
from v13.errors import ConfigError
from v13.research.cut import Records
from v13.research.run import make_run
from v13.research.stages import whole_way

__all__ = ["KINDS", "PLANTED", "NoiseReport", "Outcome", "judge_market", "run_noise"]

# Markets without an edge. The surrogates are made of given bars, or of a market with clustered flow. They break what
# ties flow to price and keep the price as it was: an edge that lies in the price alone survives in them (a planted
# market's does: its low pairs are followed by rises whatever the flow), so they are null only where the price is.
SIMULATED: Final = ("random_walk", "garch_t", "clustered_flow", "drift")
SURROGATES: Final = ("shifted_returns", "flipped_signs", "shuffled_flow")
KINDS: Final = (*SIMULATED, *SURROGATES)
PLANTED: Final = "planted"
MAX_SHARE: Final = 0.01
MAX_UPPER: Final = 0.02
MAX_SHARE_OF_KIND: Final = 0.05
FLIP_BLOCK_BARS: Final = 60

Maker = Callable[[np.random.Generator], Records]


@dataclass(frozen=True)
class Outcome:
    """What the pipeline said of one market."""

    kind: str
    number: int
    verdict: str
    not_passed: tuple[str, ...]
    n_events: int


@dataclass(frozen=True)
class Share:
    """Markets signed off, with the exact 95 % interval (Clopper and Pearson 1934)."""

    kind: str
    n_markets: int
    n_passed: int
    low: float
    high: float
    lost_to: dict[str, int]

    @property
    def share(self) -> float:
        """Share signed off."""
        return self.n_passed / self.n_markets


@dataclass(frozen=True)
class NoiseReport:
    """Shares by kind and of all null markets together."""

    seed: int
    n_bars: int
    kinds: tuple[Share, ...]
    all_null: Share | None
    outcomes: tuple[Outcome, ...]

    def shortfalls(self) -> list[str]:
        """Return why the certificate does not hold; empty where it does.

        It holds where at most 1 % of all null markets are signed off with an upper bound under 2 %, and of no kind
        more than 5 %.
        """
        if self.all_null is None:
            return ["no market without an edge was judged"]
        found = []
        if self.all_null.share > MAX_SHARE:
            found.append(f"{self.all_null.share:.2%} of null markets signed off, more than {MAX_SHARE:.0%}")
        if self.all_null.high >= MAX_UPPER:
            found.append(f"the upper bound {self.all_null.high:.2%} is not under {MAX_UPPER:.0%}: judge more markets")
        found += [
            f"{s.kind}: {s.share:.2%} signed off, more than {MAX_SHARE_OF_KIND:.0%}"
            for s in self.kinds
            if s.kind != PLANTED and s.share > MAX_SHARE_OF_KIND
        ]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "version": 1,
            "seed": self.seed,
            "n_bars": self.n_bars,
            "shortfalls": self.shortfalls(),
            "kinds": [asdict(s) | {"share": s.share} for s in self.kinds],
            "all_null": None if self.all_null is None else asdict(self.all_null) | {"share": self.all_null.share},
        }


def run_noise(
    loaded: configs.Loaded,
    *,
    kinds: Sequence[str],
    n_markets: int,
    n_bars: int,
    seed: int,
    true_accuracy: float = 0.65,
    given: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> NoiseReport:
    """Run the pipeline on `n_markets` markets of each kind.

    Parameters
    ----------
    kinds : of KINDS, "planted", or "given"
    n_markets, n_bars : int
        A market has one symbol with `n_bars` bars of the production length.
    true_accuracy : float
        Of planted markets.
    given : str, optional
        PATH of bars as parquet, of which surrogates are made, or `module:function`, a callable that takes a numpy
        Generator and returns (n,) BAR: the kind "given".
    workers : int
        Processes; the result does not depend on it.

    Raises
    ------
    ConfigError
        An unknown kind, or `given` cannot be had.
    """
    for kind in kinds:
        if kind not in (*KINDS, PLANTED, "given"):
            raise ConfigError(f"--kind: expected one of all, {', '.join((*KINDS, PLANTED))}, found {kind!r}")
    jobs = [(loaded, kind, i, n_bars, seed, true_accuracy, given) for kind in kinds for i in range(n_markets)]
    outcomes = []
    for done, outcome in enumerate(_results(jobs, workers), 1):
        outcomes.append(outcome)
        if progress is not None:
            progress(done, len(jobs))
    shares = tuple(_share(kind, [o for o in outcomes if o.kind == kind]) for kind in kinds)
    null = [o for o in outcomes if o.kind != PLANTED]
    return NoiseReport(seed, n_bars, shares, _share("all null markets", null) if null else None, tuple(outcomes))


def judge_market(bars: Records, loaded: configs.Loaded, seed: int) -> measures.Verdict:
    """Send one market of one symbol the whole way; return its verdict."""
    recording = market.Recording(
        symbol="MARKET",
        market="unknown",
        clock="exchange",
        bar_ms=int(np.median(np.diff(bars["ts_ms"]))),
        bars=bars,
        has_trades=bool((bars["lag_trade_ms"] >= 0).any()),
        has_quotes=bool(np.isfinite(bars["ofi"]).any()),
        simulated=True,
        truth=None,
        sources=(),
        quality={},
    )
    run = make_run({"MARKET": recording}, loaded, root=Path(), out=Path(), seed=seed)
    return whole_way(run).verdict


def _judge(job: tuple[configs.Loaded, str, int, int, int, float, str | None]) -> Outcome:
    loaded, kind, number, n_bars, seed, true_accuracy, given = job
    source = np.random.SeedSequence([seed, zlib.crc32(kind.encode()), number])
    bars = _make(kind, n_bars, source, true_accuracy, given)
    verdict = judge_market(bars, loaded, int(source.generate_state(1)[0]))
    judged = [c for c in verdict.criteria if c not in verdict.open]
    not_passed = tuple(c.key for c in judged if c.status is not measures.Status.PASS)
    return Outcome(kind, number, verdict.overall.value, not_passed, max((c.n or 0 for c in judged), default=0))


def _make(kind: str, n_bars: int, source: np.random.SeedSequence, true_accuracy: float, given: str | None) -> Records:
    rng = np.random.default_rng(source)
    seed = int(source.generate_state(2)[1])
    if kind == "given":
        return _given(given)(rng)
    if kind in SURROGATES:
        if given is not None and ":" not in given:
            bars = _read_bars(given)
        else:
            bars = market.simulate_bars(market.MarketSpec(kind="clustered_flow", n_bars=n_bars), seed).bars
        if kind == "shifted_returns":
            return market.shift_returns(bars, int(rng.integers(len(bars) // 10, len(bars) - len(bars) // 10)))
        if kind == "flipped_signs":
            return market.flip_signs(bars, FLIP_BLOCK_BARS, rng)
        return market.block_shuffle(bars, FLIP_BLOCK_BARS, rng)
    spec = market.MarketSpec(kind=kind, n_bars=n_bars, true_accuracy=true_accuracy)  # type: ignore[arg-type]
    bars_of: Records = market.simulate_bars(spec, seed).bars
    return bars_of


def _given(text: str | None) -> Maker:
    if text is None:
        raise ConfigError("--kind given: needs --market module:function")
    name, _, attribute = text.partition(":")
    try:
        maker = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--market: {text}: {error}") from error
    if not callable(maker):
        raise ConfigError(f"--market: {text}: expected a callable that takes a numpy Generator and returns BAR")
    return maker  # type: ignore[no-any-return]


def _read_bars(path: str) -> Records:
    recordings = market.load([Path(path)])
    if len(recordings) != 1:
        raise ConfigError(f"--market: {path}: expected one symbol, found {', '.join(recordings)}")
    bars: Records = next(iter(recordings.values())).bars
    first = int(np.argmax(np.isfinite(bars["close"]) & (np.isfinite(bars["mid"]) | np.isnan(bars["mid"]).all())))
    return bars[first:]


def _results(jobs: Sequence[Any], workers: int) -> Iterator[Outcome]:
    if workers <= 1:
        yield from map(_judge, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_judge, jobs)


def _share(kind: str, outcomes: Sequence[Outcome]) -> Share:
    n, k = len(outcomes), sum(o.verdict == measures.Status.PASS.value for o in outcomes)
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    lost = Counter(key for o in outcomes for key in o.not_passed)
    return Share(kind, n, k, low, high, dict(sorted(lost.items())))
