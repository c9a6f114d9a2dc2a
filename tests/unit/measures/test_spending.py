"""The price of a look, against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest

from v13.errors import DataError
from v13.measures.spending import alpha_of


@pytest.mark.parametrize("alpha", [0.05, 0.01, 1.0])
def test_each_look_costs_half_of_the_one_before(alpha: float) -> None:
    assert alpha_of(alpha, 1) == alpha
    for k in range(1, 60):
        assert Fraction(alpha_of(alpha, k)) == Fraction(alpha) / 2 ** (k - 1)


def test_all_looks_together_spend_less_than_twice_alpha() -> None:
    spent = sum(Fraction(alpha_of(0.05, k)) for k in range(1, 1_000))
    assert Fraction(199, 2000) < spent < 2 * Fraction(0.05)


def test_after_very_many_looks_nothing_is_left() -> None:
    assert alpha_of(0.05, 5_000) == 0.0


@pytest.mark.parametrize(("alpha", "number"), [(0.0, 1), (-0.1, 1), (1.1, 1), (float("nan"), 1), (0.05, 0), (0.05, -3)])
def test_what_is_out_of_range_is_refused(alpha: float, number: int) -> None:
    with pytest.raises(DataError, match="alpha of a look"):
        alpha_of(alpha, number)
