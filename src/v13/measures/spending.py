"""What a look at a holdout costs: the k-th is judged at alpha / 2^(k-1).

It must not know who looked or when; `v13.store.HoldoutLedger` counts the looks.
"""

from __future__ import annotations

import math

from v13.errors import DataError

__all__ = ["alpha_of"]


def alpha_of(alpha: float, number: int) -> float:
    """Return the level at which the `number`-th look at a holdout is judged.

    Parameters
    ----------
    alpha : float, in (0, 1]
        Level of the first look. 1 gives the share of alpha that is left.
    number : int, >= 1
        1 for the first look.

    Returns
    -------
    float, in [0, alpha]
        alpha / 2^(number - 1), exact; 0 (nothing can pass) once that is too small for a float.

    Raises
    ------
    DataError
        A value is out of range.

    Notes
    -----
    Bonferroni with unequal weights (Rosenthal & Rubin, "Ensemble-adjusted p values", Psychological Bulletin 94, 1983):
    whatever ties the looks to each other, noise passes any of them with a chance of at most the sum of their levels.
    We depart from it in one point: the weights 1, 1/2, 1/4, ... add up to 2 and not to 1, as the first look keeps the
    whole alpha of the guide. All looks together thus spend less than 2 alpha, however many they are.
    """
    if not 0 < alpha <= 1 or number < 1:
        raise DataError(f"alpha of a look: expected alpha in (0, 1] and number >= 1, found {alpha} and {number}")
    return math.ldexp(alpha, 1 - number)
