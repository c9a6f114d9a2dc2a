"""Arguments that are refused at the door say which, and what was found."""

from __future__ import annotations

import numpy as np
import pytest

from v13.errors import DataError
from v13.measures.arguments import refuse_nan, refuse_other_length


def test_one_length_is_asked_of_all() -> None:
    refuse_other_length(x=np.zeros(3), y=np.zeros(3, int), ts_ms=np.zeros(3, int))
    with pytest.raises(DataError, match=r"^x, y, ts_ms: expected one length, found 3, 3, 2$"):
        refuse_other_length(x=np.zeros(3), y=np.zeros(3), ts_ms=np.zeros(2))


def test_only_the_arrays_with_a_nan_are_named() -> None:
    refuse_nan(x=np.array([1.0, np.inf]), y=np.zeros(0))
    with pytest.raises(DataError, match=r"^y: expected no NaN"):
        refuse_nan(x=np.zeros(2), y=np.array([0.0, np.nan]))
