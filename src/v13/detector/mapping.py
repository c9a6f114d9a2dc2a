"""The calibration map, applied: score -> hit probability with its interval, and expected forward return, by linear
interpolation between knots.

Fitting is research; this module only reads what was fitted, so the runner needs nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from v13.errors import DataError

__all__ = ["CalibrationMap", "Curve"]


@dataclass(frozen=True)
class Curve:
    """One horizon's knots.

    score (k,) float64, strictly ascending, in [0, 100]; prob (k,) float64 in [0, 1]; expected_return (k,) float64,
    log return in the direction of the event; p_low, p_high (k,) float64 in [0, 1], p_low <= prob <= p_high, the
    Venn-Abers interval of prob (`research.venn_abers` says what it is and is not).
    """

    horizon_bars: int
    score: NDArray[np.float64]
    prob: NDArray[np.float64]
    expected_return: NDArray[np.float64]
    p_low: NDArray[np.float64]
    p_high: NDArray[np.float64]

    def __post_init__(self) -> None:
        sizes = {len(self.score), len(self.prob), len(self.expected_return), len(self.p_low), len(self.p_high)}
        if len(sizes) > 1 or 0 in sizes:
            raise DataError(f"calibration, horizon {self.horizon_bars}: knots differ in length or are empty")
        if np.any(np.diff(self.score) <= 0) or not np.all(np.isfinite(self.score)):
            raise DataError(f"calibration, horizon {self.horizon_bars}: scores must ascend strictly")
        if np.any((self.prob < 0) | (self.prob > 1)) or not np.all(np.isfinite(self.prob)):
            raise DataError(f"calibration, horizon {self.horizon_bars}: a probability is outside [0, 1]")
        if not np.all(np.isfinite(self.expected_return)):
            raise DataError(f"calibration, horizon {self.horizon_bars}: an expected return is not finite")
        ordered = (self.p_low >= 0) & (self.p_low <= self.prob) & (self.prob <= self.p_high) & (self.p_high <= 1)
        if not np.all(ordered):  # false for NaN as well
            i = int(np.argmin(ordered))
            raise DataError(
                f"calibration, horizon {self.horizon_bars}: expected 0 <= p_low <= prob <= p_high <= 1, knot {i} has "
                f"{self.p_low[i]}, {self.prob[i]}, {self.p_high[i]}"
            )

    @property
    def is_constant(self) -> bool:
        """Whether every score has one probability: the map claims nothing of the score."""
        return bool(np.all(self.prob == self.prob[0]))


@dataclass(frozen=True)
class CalibrationMap:
    """Curves by horizon; the ends are flat."""

    curves: Mapping[int, Curve]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> CalibrationMap:
        """Build from the parsed `divergence_score_calibration.json`.

        Raises
        ------
        DataError
            A key is missing or a curve is malformed.
        """
        try:
            curves = {
                int(h["horizon_bars"]): Curve(
                    int(h["horizon_bars"]),
                    np.asarray(h["knots"]["score"], np.float64),
                    np.asarray(h["knots"]["prob"], np.float64),
                    np.asarray(h["knots"]["expected_return"], np.float64),
                    np.asarray(h["knots"]["p_low"], np.float64),
                    np.asarray(h["knots"]["p_high"], np.float64),
                )
                for h in document["horizons"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"calibration: not in the expected form ({error!r})") from error
        return cls(curves)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes: plain values, fit for JSON."""
        names = ("score", "prob", "expected_return", "p_low", "p_high")
        return {
            "horizons": [
                {"horizon_bars": h, "knots": {name: getattr(curve, name).tolist() for name in names}}
                for h, curve in sorted(self.curves.items())
            ]
        }

    def prob(self, score: ArrayLike, horizon_bars: int) -> NDArray[np.float64]:
        """Return the calibrated hit probability of `score`, same shape, in [0, 1]."""
        curve = self._curve(horizon_bars)
        return np.asarray(np.interp(np.asarray(score, np.float64), curve.score, curve.prob))

    def interval(self, score: ArrayLike, horizon_bars: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (low, high) around `prob`, same shape as `score`, in [0, 1]; low <= prob <= high holds exactly."""
        curve = self._curve(horizon_bars)
        at = np.asarray(score, np.float64)
        prob = self.prob(at, horizon_bars)
        # True at the knots and so in between, but for the last bit of the interpolation.
        low = np.minimum(np.interp(at, curve.score, curve.p_low), prob)
        high = np.maximum(np.interp(at, curve.score, curve.p_high), prob)
        return np.asarray(low), np.asarray(high)

    def expected_return(self, score: ArrayLike, horizon_bars: int) -> NDArray[np.float64]:
        """Return the expected log return in the event's direction, same shape as `score`."""
        curve = self._curve(horizon_bars)
        return np.asarray(np.interp(np.asarray(score, np.float64), curve.score, curve.expected_return))

    def _curve(self, horizon_bars: int) -> Curve:
        if horizon_bars not in self.curves:
            raise DataError(f"calibration: no curve for horizon {horizon_bars}; there are {sorted(self.curves)}")
        return self.curves[horizon_bars]
