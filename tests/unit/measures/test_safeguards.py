"""The placebo rule, and what an INSUFFICIENT criterion costs to settle."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.errors import DataError
from v13.measures import Accuracy, Criterion, Status, Verdict, judge_accuracy
from v13.measures.pace import Pace, duration, priced
from v13.measures.safeguards import EdgeKept, judge_placebo, judge_plateau

PASS, FAIL, INSUFFICIENT = Status.PASS, Status.FAIL, Status.INSUFFICIENT


def counted(n_hits: int, n_misses: int) -> Accuracy:
    n = n_hits + n_misses
    return Accuracy(n, n_hits, n_misses, 0, 0, n_hits / n if n else None)


def placebo(*rows: tuple[Accuracy, float | None], n_real: int = 500, alpha: float = 0.05) -> Criterion:
    numbered = [(10 * (i + 1), acc, p) for i, (acc, p) in enumerate(rows)]
    return judge_placebo(n_real, numbered, n_shuffles=5, min_accuracy=0.55, alpha=alpha, min_events=50)


@pytest.mark.parametrize(
    ("rows", "status", "why"),
    [
        ([(counted(600, 400), 0.001), (counted(560, 440), 0.049)], FAIL, "meets everything at both horizons"),
        ([(counted(600, 400), 0.001), (counted(549, 451), 0.001)], PASS, "0.549 at the second does not reach 0.55"),
        ([(counted(600, 400), 0.001), (counted(600, 400), 0.05)], PASS, "p must be below alpha to meet it"),
        ([(counted(550, 450), 0.001), (counted(550, 450), 0.001)], FAIL, "exactly 0.55 meets it"),
        ([(counted(500, 500), 0.5), (counted(500, 500), 0.5)], PASS, "a coin"),
        ([(counted(0, 0), None), (counted(0, 0), None)], PASS, "no event meets nothing"),
        ([(counted(600, 400), None), (counted(600, 400), 0.001)], PASS, "no test, not met"),
    ],
)
def test_placebo_rule(rows: list[tuple[Accuracy, float | None]], status: Status, why: str) -> None:
    found = placebo(*rows)
    assert found.status is status, (why, found.detail)
    assert (found.key, found.estimate, found.n) == ("placebo", rows[0][0].accuracy, rows[0][0].n_judged)


def test_without_real_events_there_is_nothing_to_compare() -> None:
    met = (counted(600, 400), 0.001)
    assert placebo(met, met, n_real=49).status is INSUFFICIENT
    assert placebo(met, met, n_real=50).status is FAIL
    assert (placebo(met, n_real=49).n, placebo(met, n_real=49).needed) == (49, 50)


def test_the_placebo_is_judged_at_the_level_of_the_look() -> None:
    row = (counted(600, 400), 0.03)
    assert placebo(row, row).status is FAIL
    assert placebo(row, row, alpha=0.025).status is PASS


def test_the_placebo_says_its_numbers_and_what_it_is_for() -> None:
    found = placebo((counted(520, 480), 0.11), (counted(510, 490), 0.3))
    for said in ("5 shuffles", "0.520 after 10 bars", "0.1100", "0.510 after 20 bars", "price pattern alone"):
        assert said in found.detail
    assert found.p == 0.3


# --- the plateau ----------------------------------------------------------------------------------------------------


def kept(edge: float, share: float | None, n_neighbours: int = 8) -> EdgeKept:
    around = {"z_hi": [1.2, 2.0], "z_mid": [0.4, 0.8]}
    return EdgeKept(edge=edge, share=share, n_neighbours=n_neighbours, around=around)


@pytest.mark.parametrize(
    ("edge_kept", "has_choice", "status"),
    [
        (kept(0.1, 0.5), True, PASS),
        (kept(0.1, 0.4999), True, FAIL),
        (kept(0.1, -0.3), True, FAIL),
        (kept(0.0, None), True, FAIL),  # no edge at all is none that could be kept
        (kept(-0.02, None), True, FAIL),
        (kept(-0.02, None, 0), True, FAIL),  # no neighbour is needed to see that
        (kept(0.1, None, 0), True, INSUFFICIENT),
        (None, True, Status.NOT_APPLICABLE),  # one setting: no choice to make
        (None, False, Status.NOT_APPLICABLE),
    ],
)
def test_plateau_rule(edge_kept: EdgeKept | None, has_choice: bool, status: Status) -> None:
    found = judge_plateau(edge_kept, has_choice=has_choice)
    assert found.status is status, found.detail
    assert found.estimate == (edge_kept["share"] if edge_kept else None)


def test_the_plateau_says_how_far_its_neighbours_lie() -> None:
    said = judge_plateau(kept(0.1, 0.8), has_choice=True).detail
    assert "(z_hi 1.2 to 2, z_mid 0.4 to 0.8) keep 80% of its edge" in said
    assert "median of 8" in said
    assert "real-valued parameter" in judge_plateau(kept(0.1, None, 0), has_choice=True).detail
    assert "0.480" in judge_plateau(kept(-0.02, None), has_choice=True).detail


# --- the price ------------------------------------------------------------------------------------------------------


def accuracy(n_hits: int, n_misses: int) -> Criterion:
    return judge_accuracy(
        counted(n_hits, n_misses), 0.2, 0.1, (0.45, 0.65), horizon=10, min_accuracy=0.55, alpha=0.05, min_events=50
    )


def test_a_criterion_that_lacks_events_says_how_many_and_when() -> None:
    # 102 events in 5.83 h of holdout are 17.5 an hour; 56 more take 3.2 h, and 8 h of recording at 40 %.
    found = priced(accuracy(55, 47), Pace(102 / 17.5, 0.4))
    assert (found.status, found.needed, found.missing) == (INSUFFICIENT, 158, 56)
    assert found.wait_hours == pytest.approx(56 / 17.5 / 0.4)
    assert found.detail.endswith(
        "158 would show a true 0.6 four times in five. It takes 56 more: about 3.2 hours of holdout at the present "
        "17.5 an hour (all symbols together), that is 8.0 hours of recording, as the holdout is 40 % of it."
    )


def test_at_a_rate_of_zero_they_never_come() -> None:
    found = priced(accuracy(0, 0), Pace(100.0, 0.4))
    assert (found.missing, found.wait_hours) == (158, None)
    assert found.detail.endswith("It takes 158 more; at the present rate (no event) never.")
    assert Pace(0.0, 0.4).wait_hours(5, 3) is None


@pytest.mark.parametrize("acc", [(300, 100), (190, 210)])
def test_what_is_decided_has_no_price(acc: tuple[int, int]) -> None:
    decided = judge_accuracy(
        counted(*acc), 0.001, 0.001, (0.4, 0.5), horizon=10, min_accuracy=0.55, alpha=0.05, min_events=50
    )
    assert decided.status is not INSUFFICIENT
    assert priced(decided, Pace(10.0, 0.4)) is decided


def test_a_lack_that_is_not_of_events_has_no_price() -> None:
    unshifted = judge_accuracy(
        counted(300, 100), None, 0.001, None, horizon=10, min_accuracy=0.55, alpha=0.05, min_events=50
    )
    assert unshifted.status is INSUFFICIENT
    assert priced(unshifted, Pace(10.0, 0.4)) is unshifted
    absent = Criterion("bucket_ofi_only", "", INSUFFICIENT, needed=158, detail="The recordings do not hold it.")
    assert priced(absent, Pace(10.0, 0.4)) is absent


def test_a_family_is_counted_from_its_fullest_bucket() -> None:
    family = Criterion("bucket_ofi_only", "", INSUFFICIENT, n=30, needed=200, detail="Too few.")
    found = priced(family, Pace(10.0, 0.5), 80, "in night/quiet/OFI_ONLY")
    assert (found.missing, found.wait_hours) == (120, 120 / 8 / 0.5)
    assert "8.0 an hour (in night/quiet/OFI_ONLY)" in found.detail


@given(st.integers(1, 500), st.floats(0.5, 1e4), st.floats(0.05, 0.95))
def test_twice_the_record_at_one_rate_halves_no_wait(n: int, hours: float, share: float) -> None:
    assert Pace(hours, share).wait_hours(10, n) == pytest.approx(Pace(2 * hours, share).wait_hours(10, 2 * n))
    one, two = Pace(hours, share).wait_hours(10, n), Pace(hours, share).wait_hours(20, n)
    assert one is not None
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.0, "0.0 minutes"),
        (0.25, "15 minutes"),
        (1.0, "1.0 hour"),
        (3.24, "3.2 hours"),
        (47.0, "47 hours"),
        (72.0, "3.0 days"),
        (24 * 59.0, "59 days"),
        (24 * 91.3, "3.0 months"),
        (24 * 365.25 * 3, "3.0 years"),
        (24 * 365.25 * 2000, "2,000 years"),
    ],
)
def test_a_duration_is_said_in_the_unit_one_waits_in(hours: float, text: str) -> None:
    assert duration(hours) == text


def test_slow_events_are_counted_by_the_day_month_or_year() -> None:
    def said(n: int, hours: float) -> str:
        return Pace(hours, 0.4).sentence(100, n)

    assert "3.2 a day" in said(32, 240.0)
    assert "about 31 days of holdout" in said(32, 240.0)
    assert "1.2 a month" in said(12, 24 * 304.0)
    assert "6 a year" in said(1, 24 * 365.25 / 6)


@pytest.mark.parametrize(("hours", "share"), [(-1.0, 0.4), (np.nan, 0.4), (1.0, 0.0), (1.0, 1.1)])
def test_a_pace_out_of_range_is_refused(hours: float, share: float) -> None:
    with pytest.raises(DataError, match="pace"):
        Pace(hours, share)


def test_the_price_survives_a_round_trip_through_json() -> None:
    verdict = Verdict.of([priced(accuracy(55, 47), Pace(10.0, 0.4)), placebo((counted(1, 1), 0.5))])
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False)))
    assert again == verdict
    assert again.criteria[0].missing == 56
    assert again.criteria[1].wait_hours is None
