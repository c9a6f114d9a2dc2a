"""A difference and its parts, what closes and what does not."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.release.closure_row import PARTS, Chain, ClosureRow

NAN = math.nan


def row(shown: float, *chain: float, has_birth: bool = False, **more: object) -> ClosureRow:
    return ClosureRow("events", "panel", "label", "events", shown, Chain(*chain, **more), has_birth, 0.1)  # type: ignore[arg-type]


numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, numbers, numbers, numbers, numbers, st.booleans())
def test_the_parts_and_the_rest_sum_to_the_difference(
    shown: float, plain: float, aligned: float, binned: float, raw: float, told: float, has_birth: bool
) -> None:
    one = row(shown, plain, aligned, binned, raw, told, has_birth=has_birth)
    total = sum(one.parts[name] for name in PARTS) + one.unexplained
    assert total == pytest.approx(one.difference, abs=1e-6)


def test_each_step_has_its_name() -> None:
    one = row(115.0, 100.0, 103.0, 104.0, 99.0, 110.0)
    assert one.parts == {"birth": 0.0, "boundary": 3.0 + 11.0, "reset": -5.0, "resolution": 1.0}
    assert one.unexplained == 5.0
    late = row(115.0, 100.0, 103.0, 104.0, 99.0, 110.0, has_birth=True)
    assert (late.parts["birth"], late.parts["boundary"]) == (3.0, 11.0)


@pytest.mark.parametrize(
    ("shown", "chain", "is_closed"),
    [
        (100.0, (100.0,) * 5, True),
        (100.9, (100.0,) * 5, True),
        (101.1, (100.0,) * 5, False),  # over 1 % unexplained
        (111.0, (100.0, 111.0, 111.0, 111.0, 111.0), False),  # explained, but more than the closure ratio
        (109.0, (100.0, 109.0, 109.0, 109.0, 109.0), True),
        (1.0, (0.0, 1.0, 1.0, 1.0, 1.0), True),  # one event at the boundary
        (2.0, (0.0, 2.0, 2.0, 2.0, 2.0), False),
        (60.0, (100.0, 100.0, 100.0, 60.0, 60.0), True),  # a restart is not held against it
        (NAN, (NAN,) * 5, True),  # no figure on either side
        (NAN, (5.0,) * 5, False),
        (5.0, (NAN,) * 5, False),
        (7.0, (NAN, 7.0, 7.0, 7.0, 7.0), True),  # its only event lies between the end and the scrape
    ],
)
def test_what_closes(shown: float, chain: tuple[float, ...], is_closed: bool) -> None:
    assert row(shown, *chain).is_closed is is_closed


def test_a_figure_on_one_side_alone_is_an_error_of_all_of_it() -> None:
    assert row(NAN, *(5.0,) * 5).error == 1.0
    assert row(5.0, *(NAN,) * 5).error == 1.0


def test_small_figures_are_measured_by_what_one_event_is_worth() -> None:
    assert row(0.005, *(0.0,) * 5).error == pytest.approx(0.005)


def test_what_the_log_has_no_figure_of_is_held_against_the_scrapes_alone() -> None:
    one = row(0.31, *(0.3,) * 5, in_log=False, scale=0.1)
    assert math.isnan(one.logged)
    assert one.error == pytest.approx(0.01 / 0.3)
    assert not one.is_closed


def test_json_has_null_where_there_is_no_figure() -> None:
    document = row(NAN, *(NAN,) * 5).to_dict()
    assert document["shown"] is None
    assert document["difference"] == 0.0
    json.dumps(document, allow_nan=False)
