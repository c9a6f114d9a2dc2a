"""Markets of known truth for the noise certificate: without an edge, and with a planted one of a set accuracy.

Market i of a kind is made from `SeedSequence([seed, kind, i])` and nothing else, so it does not matter who makes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from v13 import market
from v13.errors import DataError
from v13.research.cut import Records
from v13.research.given_markets import MIN_BARS, given_market

__all__ = [
    "GIVEN",
    "KINDS",
    "PLANTED",
    "SIMULATED",
    "SURROGATES",
    "Shape",
    "make_market",
    "planted_market",
    "read_bars",
    "recorded",
    "seeds_of",
]

# The surrogates are made of recorded bars, or of a market with clustered flow. They break what ties flow to price and
# keep the price as it was: an edge that lies in the price alone survives in them (a planted market's does: its low
# pairs are followed by rises whatever the flow), so they are null only where the price is.
SIMULATED: Final = ("random_walk", "garch_t", "clustered_flow", "drift")
SURROGATES: Final = ("shifted_returns", "flipped_signs", "shuffled_flow")
KINDS: Final = (*SIMULATED, *SURROGATES)
PLANTED: Final = "planted"
GIVEN: Final = "given"  # brought from outside, see `given_markets`
BLOCK_BARS: Final = 60
SPECS: Final = ("BTCUSDT", "ETHUSDT")  # scales the simulator knows; more symbols take turns

Market = dict[str, Records]


@dataclass(frozen=True)
class Shape:
    """What of a record its null markets share.

    n_symbols : int, >= 1; n_bars : int, of each symbol; bar_ms : int.
    has_trades, has_quotes : bool, whether the CVD and the OFI channel exist.
    """

    n_symbols: int = 1
    n_bars: int = 150_000
    bar_ms: int = 1_000
    has_trades: bool = True
    has_quotes: bool = True

    @property
    def has_all_channels(self) -> bool:
        """Whether no criterion is impossible for want of a channel."""
        return self.has_trades and self.has_quotes

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def seeds_of(seed: int, kind: str, number: int) -> np.random.SeedSequence:
    """Return the source of all chance in one market and in its judging."""
    return np.random.SeedSequence([seed, zlib.crc32(kind.encode()), number])


def make_market(
    kind: str, shape: Shape, source: np.random.SeedSequence, bars: Mapping[str, Records] | None, given: str | None
) -> Market:
    """Make one market without an edge.

    Parameters
    ----------
    kind : of KINDS, or GIVEN
    source : SeedSequence
    bars : symbol -> (n,) BAR, optional
        What surrogates are made of; None: a market with clustered flow, new each time.
    given : str, optional
        One of `given_markets.given_sources`, for the kind GIVEN.

    Raises
    ------
    ConfigError, DataError
        As `given_markets.given_market`; or the bars cannot be made into a surrogate.
    """
    rng = np.random.default_rng(source)
    if given is not None:
        return {"GIVEN": given_market(given, rng)}
    if kind not in SURROGATES:
        return _simulated(kind, shape, source)
    base = _simulated("clustered_flow", shape, source) if bars is None else bars
    if kind == "shifted_returns":
        # One move for all symbols, in shares of the record: what ties them to each other stays.
        share = rng.uniform(0.1, 0.9)
        return {symbol: market.shift_returns(b, int(share * len(b))) for symbol, b in base.items()}
    draw = rng.integers(2**63)
    if kind == "flipped_signs":
        return {s: market.flip_signs(b, BLOCK_BARS, np.random.default_rng(draw)) for s, b in base.items()}
    return {s: market.block_shuffle(b, BLOCK_BARS, np.random.default_rng(draw)) for s, b in base.items()}


def planted_market(
    accuracy: float, shape: Shape, source: np.random.SeedSequence
) -> tuple[Market, dict[str, dict[str, Any]]]:
    """Return a market with an edge of the given chance, and each symbol's truth (see `market.SimulatedBars`)."""
    made, truth = {}, {}
    for symbol, spec, seed in _specs(PLANTED, shape, source, accuracy):
        simulated = market.simulate_bars(spec, seed)
        made[symbol] = _without(simulated.bars, shape)
        truth[symbol] = simulated.truth
    return made, truth


def recorded(bars: Mapping[str, Records]) -> Market:
    """Return recorded bars as surrogates can be made of them: every bar with a price, `mid` wherever there are quotes.

    Raises
    ------
    DataError
        Too little is left.
    """
    found = {}
    for symbol, one in bars.items():
        has_quotes = np.isfinite(one["mid"]).any()
        kept = one[np.isfinite(one["close"])].copy()
        if has_quotes:
            kept["mid"] = np.where(np.isfinite(kept["mid"]), kept["mid"], kept["close"])
        if len(kept) >= MIN_BARS:
            found[symbol] = kept
    if not found:
        raise DataError(
            f"surrogates: fewer than {MIN_BARS:,} bars with a price; the recording is too short to make any of"
        )
    return found


def read_bars(path: str) -> Market:
    """Return the bars of recordings that surrogates are to be made of.

    Raises
    ------
    DataError
        As `market.load` and `recorded`.
    """
    return recorded({symbol: r.bars for symbol, r in market.load([Path(path)]).items()})


def _simulated(kind: str, shape: Shape, source: np.random.SeedSequence) -> Market:
    return {
        symbol: _without(market.simulate_bars(spec, seed).bars, shape)
        for symbol, spec, seed in _specs(kind, shape, source, 0.65)
    }


def _specs(
    kind: str, shape: Shape, source: np.random.SeedSequence, accuracy: float
) -> list[tuple[str, market.MarketSpec, int]]:
    seeds = source.generate_state(shape.n_symbols + 1)[1:]
    found = []
    for i in range(shape.n_symbols):
        symbol = SPECS[i % len(SPECS)]
        spec = market.MarketSpec(
            kind=kind,  # type: ignore[arg-type]
            n_bars=shape.n_bars,
            symbol=symbol,
            bar_ms=shape.bar_ms,
            true_accuracy=accuracy,
        )
        found.append((symbol if i < len(SPECS) else f"{symbol}-{i}", spec, int(seeds[i])))
    return found


def _without(bars: Records, shape: Shape) -> Records:
    """Take out the channels the record does not have."""
    if not shape.has_quotes:
        bars["mid"], bars["ofi"], bars["n_quotes"], bars["lag_quote_ms"] = np.nan, np.nan, 0, -1
    if not shape.has_trades:
        for name in ("open", "high", "low", "close"):
            bars[name] = np.nan
        bars["volume"], bars["delta"], bars["n_trades"], bars["lag_trade_ms"] = 0.0, 0.0, 0, -1
    return bars
