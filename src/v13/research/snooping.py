"""The whole grid on the search part, seen by the literature's tests for data snooping. Reported; none of it decides.

What decides is the maximum statistic over circular shifts (`search`) and the sealed holdout (`acceptance`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13 import measures

__all__ = ["Snooping", "examine"]

BLOCK_BINS: Final = 2  # a bin is two labels long at the least, so that this spans any overlap
MAX_RESAMPLES: Final = 1_000
WORK: Final = 2_000_000_000  # steps x settings x resamples; a larger grid gets fewer resamples, never under MIN
MIN_RESAMPLES: Final = 200


@dataclass(frozen=True)
class Snooping:
    """What the tests say.

    spa : Hansen's test that some setting beats no forecast; superior: the settings Romano and Wolf name, family-wise.
    overfitting : probability of backtest overfitting over `n_blocks` blocks; None where the grid has one setting.
    deflated : the chosen setting's deflated Sharpe ratio, its gain per bin being hits minus misses; None where nothing
        was chosen.
    """

    spa: measures.SuperiorAbility
    superior: tuple[int, ...]
    overfitting: measures.Overfitting | None
    deflated: measures.DeflatedSharpe | None
    n_effective: float
    n_bins: int
    n_blocks: int
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        over, deflated = self.overfitting, self.deflated
        return {
            "n_bins": self.n_bins,
            "n_blocks": self.n_blocks,
            "alpha": self.alpha,
            "spa": asdict(self.spa),
            "step_m_superior": list(self.superior),
            "overfitting": None
            if over is None
            else {
                "pbo": over.pbo,
                "n_splits": over.n_splits,
                "median_outside": over.median_oos,
                "share_of_losses_outside": over.prob_loss,
                "slope": over.slope,
            },
            "deflated": None if deflated is None else asdict(deflated),
            "n_effective_trials": self.n_effective,
        }


def examine(
    n: NDArray[np.int32], hits: NDArray[np.int32], chosen: int | None, *, n_blocks: int, alpha: float, seed: int
) -> Snooping:
    """Run the tests.

    Parameters
    ----------
    n, hits : (S, T) int32
        Judged events and hits of every setting by equal bins of time, all horizons together; T a multiple of n_blocks.
    chosen : int or None
    n_blocks : int, even, 4 to 16
    alpha : float, in (0, 1)
        Of the stepwise test.
    seed : int
    """
    n_settings, n_bins = n.shape
    gain = (2 * hits - n).T.astype(np.float64)
    resamples = int(min(MAX_RESAMPLES, max(MIN_RESAMPLES, WORK // (n_bins * n_settings))))
    spa = measures.superior_ability(-gain, block=BLOCK_BINS, n_bootstrap=resamples, seed=seed)
    superior = measures.step_m(-gain, size=alpha, block=BLOCK_BINS, n_bootstrap=resamples, seed=seed)
    over = None
    if n_settings > 1:
        of_block = (n_settings, n_blocks, n_bins // n_blocks)
        over = measures.overfitting_probability(
            n.reshape(of_block).sum(axis=2, dtype=np.int64), hits.reshape(of_block).sum(axis=2, dtype=np.int64)
        )
    effective = measures.effective_trials(gain)
    deflated = None
    if chosen is not None:
        spread = gain.std(axis=0, ddof=1)
        ratio = np.divide(gain.mean(axis=0), spread, out=np.zeros(n_settings), where=spread > 0)
        deflated = measures.deflated_sharpe(gain[:, chosen], ratio)
    return Snooping(spa, superior, over, deflated, effective, n_bins, n_blocks, alpha)
