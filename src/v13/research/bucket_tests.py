"""Each bucket on the holdout: tested where it holds enough events, else "no decision" and what it would take.

This module tests and prices; whether a source passes is judged over its whole family in `measures.gates`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from v13 import measures
from v13.config import Config
from v13.detector.dtypes import CHANNELS, N_BUCKETS
from v13.detector.params import bucket_name
from v13.measures.pace import Pace
from v13.research.trials import Outcomes, bucket_of

__all__ = ["POWER", "BucketRow", "bucket_rows"]

POWER = 0.8  # the chance at which an accuracy counts as one the bucket could show


@dataclass(frozen=True)
class BucketRow:
    """One source or bucket at one horizon; p is the circular-shift p, p_corrected that of `measures.hierarchical`.

    decision : "passes", "does not pass", or "no decision" where it was not tested.
    minimum_detectable : the least true accuracy its events would pass with four times in five, at the level a Holm
        correction asks of the best of its tree; None where no accuracy would do.
    missing : judged events short of search.min_bucket_events; wait_hours : hours of further recording until they are
        there at the bucket's own rate, None where nothing is missing or none ever came.
    """

    bucket: str
    source: str
    horizon_bars: int
    accuracy: measures.Accuracy
    p: float | None
    p_corrected: float | None
    decision: str = "no decision"
    minimum_detectable: float | None = None
    missing: int = 0
    wait_hours: float | None = None


def bucket_rows(
    outcomes: Outcomes, config: Config, pace: Pace, *, min_shift: int, n_shifts: int, seed: int, alpha: float
) -> tuple[BucketRow, ...]:
    """Test every source and bucket with enough events at every horizon, corrected over each source's tree.

    Parameters
    ----------
    outcomes : Outcomes
        Of the holdout.
    pace : Pace
        Of the holdout.
    min_shift, n_shifts, seed
        As `measures.circular_shift_null`.
    alpha : float, in (0, 1)
        Before the correction.

    Returns
    -------
    (15 * H) rows, by source, node and horizon
        A source's first node is all its events and bears its name; its four buckets follow. The level behind
        `minimum_detectable` is alpha / H for a source and a quarter of that for a bucket.
    """
    number = bucket_of(outcomes.events)
    gate, floor = config.acceptance, config.search.min_bucket_events
    n_horizons = len(outcomes.horizons)

    def test(mask: NDArray[np.bool_]) -> list[tuple[measures.Accuracy, float]]:
        part = outcomes.select(mask)
        found = []
        for h in range(n_horizons):
            accuracy = measures.accuracy(part.hits[:, h])
            p = math.nan
            if accuracy.n_judged >= floor:
                nulls = measures.circular_shift_null(
                    part.panels[h],
                    min_shift=min_shift,
                    n_shifts=n_shifts,
                    seed=seed,
                    cost_bps=config.search.cost_bps,
                    rho=False,
                )
                p = math.nan if nulls.accuracy.p is None else nulls.accuracy.p
            found.append((accuracy, p))
        return found

    rows = []
    for channel, source in enumerate(CHANNELS):
        leaves = [b for b in range(N_BUCKETS) if b % len(CHANNELS) == channel]
        nodes = [(source, test(number % len(CHANNELS) == channel))]
        nodes += [(bucket_name(b), test(number == b)) for b in leaves]
        raw = np.array([[p for _, p in of_node] for _, of_node in nodes])
        top, below = measures.hierarchical(raw[0], raw[1:])
        for place, ((name, of_node), adjusted) in enumerate(zip(nodes, [top, *below], strict=True)):
            level = alpha / n_horizons / (1 if place == 0 else len(leaves))
            for h, (accuracy, p) in enumerate(of_node):
                tested = not math.isnan(p) and not math.isnan(adjusted[h])
                missing = max(0, floor - accuracy.n_judged)
                rows.append(
                    BucketRow(
                        name,
                        source,
                        outcomes.horizons[h],
                        accuracy,
                        p if tested else None,
                        float(adjusted[h]) if tested else None,
                        _decision(accuracy, float(adjusted[h]), gate.min_accuracy, alpha),
                        measures.minimum_detectable_accuracy(
                            accuracy.n_judged, alpha=level, power=POWER, threshold=gate.min_accuracy
                        ),
                        missing,
                        pace.wait_hours(missing, accuracy.n_judged) if missing else None,
                    )
                )
    return tuple(rows)


def _decision(accuracy: measures.Accuracy, adjusted: float, min_accuracy: float, alpha: float) -> str:
    if math.isnan(adjusted):
        return "no decision"
    reached = accuracy.accuracy is not None and accuracy.accuracy >= min_accuracy
    return "passes" if reached and adjusted < alpha else "does not pass"
