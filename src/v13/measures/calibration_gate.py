"""The calibration rule: on events it was not fitted on, a probability that claims something must beat a constant.

Beside `gates`, and in its manner. A map that is a constant claims nothing and is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

from v13.errors import DataError
from v13.verdict import Criterion, Status

__all__ = ["CalibrationRow", "events_needed_for_skill", "judge_calibration"]

EDGE_SKILL = 0.01  # probabilities spread by 0.05 (one s.d.) around one half: what a useful map shows at the least
POWER = 0.8  # as `gates.POWER`


@dataclass(frozen=True)
class CalibrationRow:
    """One horizon's map on the holdout; None where a thing does not exist.

    n : judged events (hits and misses).
    brier, brier_constant : mean squared error of the map, and of the share of hits known beforehand; in [0, 1].
    gain_interval : 95 % block-bootstrap interval of the mean over events of (constant - y)^2 - (p - y)^2.
    error, error_interval : `reliability_error` of the map, and its interval.
    is_constant : whether the map gives every score one probability.
    """

    horizon_bars: int
    n: int
    brier: float | None
    brier_constant: float | None
    gain_interval: tuple[float, float] | None
    error: float | None
    error_interval: tuple[float, float] | None
    is_constant: bool

    def __post_init__(self) -> None:
        if (self.brier is None) != (self.brier_constant is None):
            raise DataError(
                f"calibration row, horizon {self.horizon_bars}: expected both Brier scores or none, found "
                f"{self.brier} and {self.brier_constant}"
            )

    @property
    def gain(self) -> float:
        """Brier score of the constant less that of the map; NaN where not judged."""
        return math.nan if self.brier is None or self.brier_constant is None else self.brier_constant - self.brier

    @property
    def skill(self) -> float | None:
        """1 - brier / brier_constant; None where not judged or the constant is never wrong."""
        return None if math.isnan(self.gain) or not self.brier_constant else self.gain / self.brier_constant


def judge_calibration(rows: Sequence[CalibrationRow], *, min_events: int) -> Criterion:
    """Judge whether the calibrated probability beats a constant on the holdout, at any one horizon.

    Parameters
    ----------
    rows : one CalibrationRow a horizon
        A horizon without a map has `brier` None.
    min_events : int
        Judged events below which a horizon is not judged.

    Returns
    -------
    Criterion
        NOT APPLICABLE: the map is a constant at every horizon. PASS: Brier score below the constant's at one horizon or
        more. FAIL: at none, and at each the interval of the gain lies at or below 0. INSUFFICIENT: no map that claims
        something has `min_events` judged events; or none is better while an interval reaches above 0 or is missing.
        The estimate is the best Brier skill of any judged horizon, 1 - brier / brier_constant; its interval is that of
        the gain over `brier_constant`, the latter taken as fixed.

    Notes
    -----
    PASS asks for the estimate alone: that score and return go together at all is what `judge_monotonicity` tests.
    `needed` is the number at which a true skill of 0.01 passes four times in five.
    """
    key, title = "calibration", "Calibrated probability beats a constant"
    needed = max(min_events, events_needed_for_skill(EDGE_SKILL))
    if rows and all(r.is_constant for r in rows):
        detail = (
            "The shipped map is a constant at every horizon: no curve beat one out of fold on the search part, so it "
            "claims nothing that could be judged."
        )
        n = max(r.n for r in rows)
        return Criterion(key, title, Status.NOT_APPLICABLE, threshold=0.0, n=n, detail=detail)
    claims = [r for r in rows if not r.is_constant and not math.isnan(r.gain)]
    judged = [r for r in claims if r.n >= min_events]
    if not judged:
        n = max((r.n for r in claims), default=0)
        detail = f"No horizon has a map and {min_events} judged events; the fullest with a map has {n}."
        return Criterion(key, title, Status.INSUFFICIENT, threshold=0.0, n=n, needed=needed, detail=detail)
    best = max(judged, key=lambda r: (r.gain / (r.brier_constant or 1.0), -r.horizon_bars))
    found = "Against the share of hits known beforehand: " + "; ".join(_found(r, min_events) for r in rows)
    n_better = sum(r.gain > 0 for r in judged)
    if n_better:
        status, detail = Status.PASS, f"{found}. Better at {n_better} of {len(judged)} judged horizons."
    elif all(r.gain_interval is not None and r.gain_interval[1] <= 0 for r in judged):
        status, detail = Status.FAIL, f"{found}. Better at none, and no interval of the gain reaches above 0."
    else:
        status = Status.INSUFFICIENT
        detail = f"{found}. Better at none, but the gain may still be above 0 by its interval, or has none."
    interval = None
    if best.gain_interval is not None and best.brier_constant:
        interval = (best.gain_interval[0] / best.brier_constant, best.gain_interval[1] / best.brier_constant)
    return Criterion(key, title, status, best.skill, interval, 0.0, "", n=best.n, needed=needed, detail=detail)


def events_needed_for_skill(true_skill: float, power: float = POWER) -> int:
    """Return the number of independent events at which a calibrated map beats a constant often enough.

    Parameters
    ----------
    true_skill : float, in (0, 1)
        1 - brier / brier_constant in the long run.
    power : float, in [0.5, 1)

    Returns
    -------
    int, >= 0

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    For a map p = c + d that is right, an event's gain (c - y)^2 - (p - y)^2 has mean E d^2 and, where d is small,
    variance 4 c (1 - c) E d^2. With skill E d^2 / (c (1 - c)) the mean of n stands sqrt(n * skill) / 2 of its standard
    errors above 0.
    """
    if not (0 < true_skill < 1 and 0.5 <= power < 1):
        raise DataError(f"true_skill, power: expected inside (0, 1) and [0.5, 1), found {true_skill}, {power}")
    return math.ceil(4 * float(norm.ppf(power)) ** 2 / true_skill)


def _found(r: CalibrationRow, min_events: int) -> str:
    at = f"after {r.horizon_bars} bars"
    if r.is_constant:
        return f"{at} the map is a constant"
    if r.brier is None or r.brier_constant is None:
        return f"{at} no map or too few events ({r.n})"
    few = f", not judged: fewer than {min_events}" if r.n < min_events else ""
    error = "" if r.error is None else f", calibration error {r.error:.3f}{_range(r.error_interval, 3)}"
    return (
        f"{at} Brier {r.brier:.5f} against {r.brier_constant:.5f}, gain {r.gain:.5f}{_range(r.gain_interval, 5)}"
        f"{error}, {r.n} events{few}"
    )


def _range(interval: tuple[float, float] | None, digits: int) -> str:
    return "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
