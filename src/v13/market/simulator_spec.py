"""What market the simulator is asked to make, and the scales of the instruments it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from v13.errors import ConfigError

__all__ = ["KINDS", "SYMBOLS", "Kind", "MarketSpec", "SymbolSpec"]

Kind = Literal["random_walk", "garch_t", "clustered_flow", "drift", "planted"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

START_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z


@dataclass(frozen=True)
class SymbolSpec:
    """Scales of one instrument.

    Attributes
    ----------
    start_px : float, quote currency, > 0
    ticks_per_unit : int, >= 1
        The tick is its inverse, kept whole so that prices are exact quotients.
    lots_per_unit : int, >= 1
        The lot is its inverse.
    vol_bps : float, > 0
        Standard deviation of one bar's return, basis points.
    delta_lots, ofi_lots : float, lots, >= 1
        What one unit of latent flow is in signed volume and in order-flow imbalance.
    """

    start_px: float
    ticks_per_unit: int
    lots_per_unit: int
    vol_bps: float
    delta_lots: float
    ofi_lots: float


SYMBOLS: Final = {
    "BTCUSDT": SymbolSpec(60_000.0, 10, 1_000, 0.7, 60.0, 3_000.0),
    "ETHUSDT": SymbolSpec(3_000.0, 100, 1_000, 0.9, 900.0, 40_000.0),
}


@dataclass(frozen=True)
class MarketSpec:
    """What market to make.

    Attributes
    ----------
    kind : str
        `random_walk` (Student-t steps); `garch_t` (GARCH(1,1), Student-t); `clustered_flow` (autocorrelated flow whose
        unforeseen part moves the price at once and never later); `drift` (one-sided price and flow); `planted`.
    n_bars : int, >= 100
    symbol : str
        A key of `SYMBOLS`.
    bar_ms : int, ms, >= 10
    start_ms : int, UTC epoch ms
        Open of the first bar.
    true_accuracy : float, in [0.5, 0.9]
        `planted`: chance that a planted divergence is followed by its own direction, averaged over strengths. No
        single chance exceeds 0.95, so above 0.75 the average falls short; `truth` tells the chances used.
    slope : float, >= 0
        `planted`: how much faster the edge grows than its mean, per robust standard deviation of strength.
    horizons : tuple of int, bars, rising
        `planted`: each of them is hit with the same chance.
    swing_L : int, bars, >= 2
        `planted`: a swing point is the strict extremum of this many bars on either side.
    drift_ratio : float
        `drift`: mean return of a bar over its standard deviation.

    Raises
    ------
    ConfigError
        A value is outside its range.
    """

    kind: Kind
    n_bars: int
    symbol: str = "BTCUSDT"
    bar_ms: int = 1_000
    start_ms: int = START_MS
    true_accuracy: float = 0.70
    slope: float = 1.0
    horizons: tuple[int, ...] = (10, 20)
    swing_L: int = 13
    drift_ratio: float = 0.05

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0, *self.horizons), self.horizons, strict=False))
        claims = {
            f"kind is one of {', '.join(KINDS)}": self.kind in KINDS,
            f"symbol is one of {', '.join(SYMBOLS)}": self.symbol in SYMBOLS,
            "n_bars >= 100": self.n_bars >= 100,
            "bar_ms >= 10": self.bar_ms >= 10,
            "start_ms >= 0": self.start_ms >= 0,
            "true_accuracy is in [0.5, 0.9]": 0.5 <= self.true_accuracy <= 0.9,
            "slope >= 0": self.slope >= 0,
            "horizons rise from at least 1": len(self.horizons) > 0 and rising,
            "swing_L >= 2": self.swing_L >= 2,
            "drift_ratio is in (-1, 1)": -1 < self.drift_ratio < 1,
        }
        broken = [claim for claim, holds in claims.items() if not holds]
        if broken:
            raise ConfigError(f"simulated market: expected {'; '.join(broken)}; found {self}")
