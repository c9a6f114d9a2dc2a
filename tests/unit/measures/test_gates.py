"""The acceptance rules case by case, and what criteria come to together."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from v13.errors import DataError
from v13.measures import (
    Accuracy,
    Criterion,
    Status,
    Verdict,
    binomial_p,
    gates,
    judge_accuracy,
    judge_bucket_family,
    judge_median_score,
    judge_monotonicity,
    judge_rate,
    wilson_interval,
)

PASS, FAIL, INSUFFICIENT = Status.PASS, Status.FAIL, Status.INSUFFICIENT


def counted(n_hits: int, n_misses: int, n_ties: int = 0) -> Accuracy:
    n = n_hits + n_misses
    return Accuracy(n + n_ties, n_hits, n_misses, n_ties, 0, n_hits / n if n else None)


def judged(acc: Accuracy, p: float | None, interval: tuple[float, float] | None = None) -> Criterion:
    return judge_accuracy(acc, p, 0.03, interval, horizon=10, min_accuracy=0.55, alpha=0.05, min_events=50)


# --- verdict --------------------------------------------------------------------------------------------------------


def verdict(*statuses: Status) -> Verdict:
    return Verdict.of(Criterion(f"c{i}", "", s) for i, s in enumerate(statuses))


@pytest.mark.parametrize(
    ("statuses", "overall"),
    [
        ([], INSUFFICIENT),
        ([PASS], PASS),
        ([PASS, Status.NOT_RUN, Status.NOT_APPLICABLE], PASS),
        ([Status.NOT_RUN, Status.NOT_APPLICABLE], INSUFFICIENT),
        ([PASS, INSUFFICIENT], INSUFFICIENT),
        ([PASS, INSUFFICIENT, FAIL], FAIL),
        ([FAIL, Status.NOT_RUN], FAIL),
    ],
)
def test_criteria_come_to_one_verdict(statuses: list[Status], overall: Status) -> None:
    assert verdict(*statuses).overall is overall


@given(st.lists(st.sampled_from(list(Status)), max_size=8), st.randoms())
def test_order_does_not_matter_and_nothing_added_mends_a_failure(statuses: list[Status], random: object) -> None:
    found = verdict(*statuses)
    shuffled = list(statuses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert verdict(*shuffled).overall is found.overall
    assert verdict(*statuses, FAIL).overall is FAIL
    if found.overall is PASS:
        assert set(statuses) <= {PASS, Status.NOT_RUN, Status.NOT_APPLICABLE}
        assert PASS in statuses


def test_what_was_not_judged_is_listed_as_open() -> None:
    found = verdict(PASS, Status.NOT_RUN, Status.NOT_APPLICABLE)
    assert [c.key for c in found.open] == ["c1", "c2"]
    assert found.to_dict()["open"] == ["c1", "c2"]


def test_two_criteria_of_one_key_are_refused() -> None:
    with pytest.raises(DataError, match="twin"):
        Verdict.of([Criterion("twin", "", PASS), Criterion("twin", "", PASS)])


def test_a_verdict_is_plain_json() -> None:
    rate = judge_rate(20.0, (10.0, 100.0), production=True, hours=10.0)
    not_run = Criterion.not_run("compute_p95", "Latency", threshold=10.0, unit="ms", detail="In the runner.")
    document = json.loads(json.dumps(Verdict.of([rate, not_run]).to_dict(), allow_nan=False))
    assert document["overall"] == "PASS"
    assert document["criteria"][0]["threshold"] == [10.0, 100.0]
    assert document["criteria"][1]["status"] == "NOT RUN"
    assert document["criteria"][1]["estimate"] is None


@pytest.mark.parametrize("field", [{"estimate": math.nan}, {"p": math.inf}, {"interval": (0.1, math.nan)}])
def test_a_number_that_is_none_is_said_as_none(field: dict[str, float]) -> None:
    with pytest.raises(DataError, match="finite"):
        Criterion("c", "", PASS, **field)  # type: ignore[arg-type]


def test_the_verdict_is_found_where_the_error_tree_says() -> None:
    assert gates.Verdict is Verdict


# --- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acc", "p", "interval", "status", "why"),
    [
        (counted(120, 80), 0.001, (0.53, 0.67), PASS, "reached and significant"),
        (counted(110, 90), 0.049, (0.48, 0.62), PASS, "exactly 0.55 is reached"),
        (counted(35, 14), 0.0001, (0.57, 0.84), INSUFFICIENT, "49 events are not judged however good"),
        (counted(36, 14), 0.0001, (0.58, 0.85), PASS, "50 are"),
        (counted(110, 90), 0.05, (0.48, 0.62), FAIL, "p must be below alpha; 200 events are enough to tell"),
        (counted(109, 91), 0.01, (0.47, 0.62), FAIL, "0.545 does not reach 0.55"),
        (counted(55, 45), 0.18, (0.45, 0.65), INSUFFICIENT, "100 of 158 events, 0.55 still possible"),
        (counted(50, 50), 0.5, (0.40, 0.60), INSUFFICIENT, "the interval reaches 0.55"),
        (counted(30, 70), 0.99, (0.21, 0.40), FAIL, "100 events, but 0.55 is out of reach"),
        (counted(50, 50), 0.5, None, INSUFFICIENT, "few events and no interval"),
        (counted(120, 80), None, (0.53, 0.67), INSUFFICIENT, "no shift, no test, no PASS"),
        (counted(90, 110), None, (0.38, 0.52), FAIL, "not reached: needs no test"),
        (counted(0, 0, 7), None, None, INSUFFICIENT, "ties only"),
    ],
)
def test_accuracy_rule(
    acc: Accuracy, p: float | None, interval: tuple[float, float] | None, status: Status, why: str
) -> None:
    found = judged(acc, p, interval)
    assert found.status is status, (why, found.detail)
    assert found.key == "accuracy_10"
    assert (found.estimate, found.p, found.p_naive, found.n, found.needed) == (acc.accuracy, p, 0.03, acc.n_judged, 158)


def test_a_smaller_alpha_asks_for_more_events() -> None:
    strict = judge_accuracy(
        counted(110, 90), 0.02, 0.01, (0.48, 0.62), horizon=10, min_accuracy=0.55, alpha=0.01, min_events=50
    )
    assert strict.status is INSUFFICIENT
    assert (strict.needed or 0) > 200


def test_the_detail_says_the_numbers() -> None:
    detail = judged(counted(55, 45, 3), 0.18, (0.45, 0.65)).detail
    for said in ("0.550", "0.450 to 0.650", "100 judged", "0.1800", "0.0300", "3 ties", "158", "0.6 four times"):
        assert said in detail


# --- monotonicity ---------------------------------------------------------------------------------------------------


def monotone(
    rho: dict[int, float | None], joint: dict[int, float | None], n: int = 1000, high: float = 0.09
) -> Criterion:
    """Judge with a plain p of half the corrected one, which must never decide."""
    interval = {h: None if r is None else (r - 0.1, max(r, high)) for h, r in rho.items()}
    p = {h: None if value is None else value / 2 for h, value in joint.items()}
    return judge_monotonicity(rho, p, joint, interval, dict.fromkeys(rho, 0.04), n=n, alpha=0.05, min_events=50)


@pytest.mark.parametrize(
    ("rho", "joint", "n", "high", "status", "why"),
    [
        ({10: 0.08, 20: 0.01}, {10: 0.04, 20: 0.4}, 1000, 0.09, PASS, "one horizon is enough"),
        ({10: 0.08, 20: 0.07}, {10: 0.06, 20: 0.06}, 1000, 0.09, FAIL, "0.03 by itself: two looks are paid for"),
        ({10: 0.08, 20: 0.07}, {10: 0.05, 20: 0.05}, 1000, 0.09, FAIL, "corrected p must be below alpha"),
        ({10: 0.08, 20: 0.07}, {10: 0.3, 20: 0.048}, 1000, 0.09, PASS, "either horizon"),
        ({10: -0.08, 20: 0.0}, {10: 0.001, 20: 0.001}, 1000, 0.09, FAIL, "rho must be above zero"),
        ({10: 0.05, 20: 0.05}, {10: 0.2, 20: 0.2}, 300, 0.15, INSUFFICIENT, "300 events cannot rule 0.1 out"),
        ({10: 0.05, 20: 0.05}, {10: 0.2, 20: 0.2}, 829, 0.15, INSUFFICIENT, "nor can 829"),
        ({10: 0.05, 20: 0.05}, {10: 0.2, 20: 0.2}, 830, 0.15, FAIL, "830 would have shown it four times in five"),
        ({10: -0.2, 20: -0.2}, {10: 1.0, 20: 1.0}, 300, 0.0, FAIL, "300 events rule it out"),
        ({10: 0.5, 20: 0.5}, {10: 0.001, 20: 0.001}, 49, 0.7, INSUFFICIENT, "too few to judge"),
        ({10: 0.5, 20: 0.5}, {10: 0.001, 20: 0.001}, 50, 0.7, PASS, "just enough"),
        ({10: None, 20: None}, {10: None, 20: None}, 1000, 0.09, INSUFFICIENT, "no test"),
        ({10: 0.3, 20: 0.3}, {10: None, 20: None}, 1000, 0.4, INSUFFICIENT, "no shift, no test, no PASS"),
        ({10: 0.08, 20: None}, {10: 0.04, 20: None}, 1000, 0.09, PASS, "the other horizon has no rho"),
    ],
)
def test_monotonicity_rule(
    rho: dict[int, float | None], joint: dict[int, float | None], n: int, high: float, status: Status, why: str
) -> None:
    found = monotone(rho, joint, n, high)
    assert found.status is status, (why, found.detail)
    assert found.needed == 830  # 3 + 1.06 * ((1.960 + 0.842) / atanh(0.1))^2, at 0.05 over two horizons


def test_the_horizon_that_passes_is_the_one_shown_with_its_corrected_p() -> None:
    found = monotone({10: -0.05, 20: 0.08}, {10: 0.002, 20: 0.02}, 1000)
    assert found.status is PASS
    assert (found.estimate, found.p, found.interval) == (0.08, 0.02, (0.08 - 0.1, 0.09))
    assert "circular-shift p 0.0100, corrected for 2 horizons 0.0200 against 0.05 (naive 0.0400)" in found.detail


def test_a_horizon_without_a_test_is_not_counted_in_what_is_said() -> None:
    found = monotone({10: 0.08, 20: None, 40: 0.02}, {10: 0.04, 20: None, 40: 0.3}, 1000)
    assert "corrected for 2 horizons" in found.detail
    assert "after 20 bars" not in found.detail


# --- buckets --------------------------------------------------------------------------------------------------------

Node = tuple[str, int, Accuracy, float | None]
OFI = "OFI_ONLY"
THIN: Node = ("day/quiet/OFI_ONLY", 10, counted(12, 8), None)


def family(nodes: list[Node], *, present: bool = True) -> Criterion:
    return judge_bucket_family(OFI, nodes, present=present, min_accuracy=0.55, alpha=0.05, min_events=40)


@pytest.mark.parametrize(
    ("nodes", "status", "why"),
    [
        ([(OFI, 10, counted(120, 80), 0.02), THIN], PASS, "the source as a whole is enough"),
        ([(OFI, 10, counted(540, 460), 0.01), ("a", 10, counted(120, 60), 0.04)], PASS, "so is one of its buckets"),
        ([(OFI, 10, counted(54, 46), 0.001)], INSUFFICIENT, "0.54 does not reach it, 100 events cannot tell"),
        ([(OFI, 10, counted(540, 460), 0.001)], FAIL, "0.54 does not reach it, 1,000 events can"),
        ([(OFI, 10, counted(600, 400), 0.05)], FAIL, "corrected p must be below alpha"),
        ([(OFI, 10, counted(94, 63), 0.06)], INSUFFICIENT, "157 events"),
        ([(OFI, 10, counted(95, 63), 0.06)], FAIL, "158 events would have shown a true 0.6"),
        ([(OFI, 10, counted(80, 78), 0.4), ("a", 10, counted(22, 20), 1.0)], FAIL, "all events count, not a bucket's"),
        ([(OFI, 10, counted(60, 40), 0.2), (OFI, 20, counted(58, 42), 0.3)], INSUFFICIENT, "100 events each"),
        ([(OFI, 10, counted(30, 5), 0.001)], INSUFFICIENT, "35 events are not judged however good"),
        ([(OFI, 10, counted(35, 5), 0.001)], PASS, "40 are"),
        ([(OFI, 10, counted(400, 100), None)], INSUFFICIENT, "too short a record to shift: no test, no PASS"),
        ([THIN], INSUFFICIENT, "none tested"),
        ([], INSUFFICIENT, "no node"),
    ],
)
def test_bucket_rule(nodes: list[Node], status: Status, why: str) -> None:
    found = family(nodes)
    assert found.status is status, (why, found.detail)
    assert found.key == "bucket_ofi_only"


def test_an_absent_source_never_passes() -> None:
    found = family([(OFI, 10, counted(900, 100), 0.0001)], present=False)
    assert found.status is INSUFFICIENT
    assert found.estimate is None


def test_the_best_passing_node_is_shown() -> None:
    # The smallest p belongs to a node below the threshold: it is not what passed.
    found = family([(OFI, 10, counted(5400, 4600), 0.0001), ("good", 20, counted(300, 200), 0.01)])
    assert (found.status, found.estimate, found.p, found.n) == (PASS, 0.6, 0.01, 500)
    assert (
        "1 of 2 tested pairs of node (OFI_ONLY, its buckets) and horizon pass; best good after 20 bars" in found.detail
    )
    assert "p corrected over the tree 0.0100 against 0.05" in found.detail


def test_more_horizons_ask_for_more_events_and_more_buckets_do_not() -> None:
    whole, bucket = counted(95, 85), counted(24, 21)
    alone = family([(OFI, 10, whole, 0.3)])
    parts = family([(OFI, 10, whole, 0.3), *((f"b{i}", 10, bucket, 1.0) for i in range(4))])
    twice = family([(OFI, h, whole, 0.6) for h in (10, 20)])
    assert (alone.status, alone.needed) == (parts.status, parts.needed) == (FAIL, 158)
    assert (twice.status, twice.needed) == (INSUFFICIENT, 199)
    assert "199 would show a true 0.6 four times in five, there are 180." in twice.detail


def test_a_source_too_thin_to_test_says_what_it_takes() -> None:
    found = family([(OFI, h, counted(20, 10), None) for h in (10, 20)])
    assert (found.status, found.n, found.needed) == (INSUFFICIENT, 30, 199)
    assert "that takes 40 judged events, there are 30, and 199 would show a true 0.6" in found.detail


# --- rate and median ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "hours", "production", "status", "why"),
    [
        (10.0, 24.0, True, PASS, "the ends belong to the band"),
        (100.0, 24.0, True, PASS, "the ends belong to the band"),
        (3.0, 24.0, True, FAIL, "72 events cannot be 240"),
        (180.0, 24.0, True, FAIL, "too many"),
        (9.5, 24.0, True, INSUFFICIENT, "228 events may be 240 by chance"),
        (0.0, 0.2, True, INSUFFICIENT, "twelve minutes"),
        (0.0, 24.0, True, FAIL, "no event in a day"),
        (30.0, 24.0, False, Status.NOT_APPLICABLE, "not the production bar length"),
        (None, 0.0, True, INSUFFICIENT, "nothing recorded"),
        (None, 0.0, False, Status.NOT_APPLICABLE, "nothing recorded"),
    ],
)
def test_rate_rule(rate: float | None, hours: float, production: bool, status: Status, why: str) -> None:
    found = judge_rate(rate, (10.0, 100.0), production=production, hours=hours)
    assert found.status is status, (why, found.detail)
    assert found.estimate == rate


@pytest.mark.parametrize("n", [0, 1, 72, 2400])
def test_the_interval_of_the_rate_is_exact(n: int) -> None:
    interval = judge_rate(n / 24, (10.0, 100.0), production=True, hours=24.0).interval
    assert interval is not None
    low, high = interval
    assert poisson.cdf(n, high * 24) == pytest.approx(0.025, rel=1e-9)
    if n:
        assert poisson.sf(n - 1, low * 24) == pytest.approx(0.025, rel=1e-9)
    else:
        assert low == 0.0


@pytest.mark.parametrize(
    ("median", "n", "status"),
    [(50.1, 50, PASS), (50.0, 500, FAIL), (80.0, 49, INSUFFICIENT), (None, 0, INSUFFICIENT)],
)
def test_median_score_rule(median: float | None, n: int, status: Status) -> None:
    found = judge_median_score(median, 50.0, n, 50)
    assert found.status is status
    assert (found.estimate, found.n, found.needed) == (median, n, 50)


def test_coin_flips_are_not_signed_off() -> None:
    # A fair coin through the accuracy rule, with its exact binomial p: passes as often as alpha allows, and no more.
    rng = np.random.default_rng(2)
    passed = 0
    for n_hits in rng.binomial(400, 0.5, 2000).tolist():
        p, interval = binomial_p(n_hits, 400), wilson_interval(n_hits, 400)
        passed += judged(counted(n_hits, 400 - n_hits), p, interval).status is PASS
    # 0.55 of 400 asks for 220 hits, which a coin reaches in 2.6 % of runs; 99.9 % of draws of 2,000 lie in 1.4-3.8 %.
    assert 0.014 <= passed / 2000 <= 0.038
