"""Checks of array arguments that several yardsticks make at the door. They refuse; they mend nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError

__all__ = ["refuse_nan", "refuse_other_length"]


def refuse_other_length(**arrays: NDArray[Any]) -> None:
    """Refuse arrays of one event a row that differ in length.

    Raises
    ------
    DataError
        They do; it names all of them.
    """
    lengths = [len(values) for values in arrays.values()]
    if len(set(lengths)) > 1:
        raise DataError(f"{', '.join(arrays)}: expected one length, found {', '.join(map(str, lengths))}")


def refuse_nan(**arrays: NDArray[np.floating[Any]]) -> None:
    """Refuse values that are not numbers: an unlabelled event has no place in a statistic.

    Raises
    ------
    DataError
        An array holds NaN; it names all that do.
    """
    bad = [name for name, values in arrays.items() if np.isnan(values).any()]
    if bad:
        raise DataError(f"{', '.join(bad)}: expected no NaN; leave unlabelled events out")
