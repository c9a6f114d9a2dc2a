"""The acceptance rules: each turns evidence into a criterion. Verdict and its parts live in `verdict`.

A rule computes no statistic of events and reads no config: everything it weighs is an argument. PASS always asks for
estimate, significance and number together; FAIL asks that the record could have shown the edge and did not; all else is
INSUFFICIENT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.stats import chi2

from v13.measures.accuracy import Accuracy
from v13.measures.power import events_needed_for_gate, events_needed_for_rho
from v13.verdict import Criterion, Status, Verdict

__all__ = [
    "Criterion",
    "Status",
    "Verdict",
    "judge_accuracy",
    "judge_bucket_family",
    "judge_median_score",
    "judge_monotonicity",
    "judge_rate",
    "judge_selection",
]

POWER = 0.8  # a record is long enough to tell when it would show the edge below four times in five
EDGE_ABOVE_THRESHOLD = 0.05  # that edge: a true accuracy of threshold + 0.05 (0.60 for 0.55: 158 events)
EDGE_RHO = 0.1  # and a true rank correlation of 0.1
MIN_HOURS = 1.0  # less than an hour of bars says nothing about events per hour

Bound = tuple[float, float]


def judge_accuracy(
    acc: Accuracy,
    p: float | None,
    p_naive: float | None,
    interval: Bound | None,
    *,
    horizon: int,
    min_accuracy: float,
    alpha: float,
    min_events: int,
) -> Criterion:
    """Judge the accuracy at one horizon.

    Parameters
    ----------
    acc : Accuracy
    p, p_naive : float in [0, 1], or None where there is none
        Of the circular-shift null, which decides, and of the binomial test, which does not.
    interval : (low, high), or None
        Two-sided block-bootstrap interval of the accuracy.
    horizon : int, bars
    min_accuracy, alpha : float, in (0, 1)
    min_events : int
        Judged events (hits and misses) below which nothing is said.

    Returns
    -------
    Criterion
        PASS: accuracy >= min_accuracy, p < alpha, enough events. INSUFFICIENT: fewer than `min_events`; or fewer than
        it takes to see min_accuracy + 0.05 four times in five, while the interval still reaches min_accuracy; or the
        accuracy reaches it and no p could be had (the record is too short to shift). Else FAIL.
    """
    n = acc.n_judged
    needed = max(min_events, _needed(min_accuracy, alpha))
    left_out = f"{acc.n_ties} ties and {acc.n_unlabelled} unlabelled events left out"
    reached = acc.accuracy is not None and acc.accuracy >= min_accuracy
    if acc.accuracy is None:
        status, detail = Status.INSUFFICIENT, f"No judged event ({left_out})."
    else:
        found = (
            f"Accuracy {acc.accuracy:.3f}{_range(interval)} over {n} judged events against at least {min_accuracy:g}, "
            f"circular-shift p {_p(p)} against {alpha:g} (naive {_p(p_naive)}); {left_out}"
        )
        if n < min_events:
            status = Status.INSUFFICIENT
            detail = f"{found}. Fewer than {min_events} events are not judged, and {_would_show(needed, min_accuracy)}."
        elif reached and p is not None and p < alpha:
            status, detail = Status.PASS, f"{found}."
        elif reached and p is None:
            status = Status.INSUFFICIENT
            detail = f"{found}. The record is too short to shift, so there is no test."
        elif n < needed and (interval is None or interval[1] >= min_accuracy):
            status = Status.INSUFFICIENT
            detail = f"{found}. Too few to tell: {_would_show(needed, min_accuracy)}."
        else:
            status, detail = Status.FAIL, f"{found}."
    return Criterion(
        f"accuracy_{horizon}",
        f"Accuracy after {horizon} bars",
        status,
        acc.accuracy,
        interval,
        min_accuracy,
        "",
        p,
        p_naive,
        n,
        needed,
        detail,
    )


def judge_monotonicity(
    rho: Mapping[int, float | None],
    p: Mapping[int, float | None],
    p_joint: Mapping[int, float | None],
    interval: Mapping[int, Bound | None],
    p_naive: Mapping[int, float | None],
    *,
    n: int,
    alpha: float,
    min_events: int,
) -> Criterion:
    """Judge whether returns rise with the score, at any one horizon.

    Parameters
    ----------
    rho, p, p_joint, interval, p_naive : by horizon in bars; None where there is none
        Spearman's rho of score and signed return, its circular-shift p, the same corrected for the number of horizons
        (each is a chance to pass; see `resampling.joint_p`), block-bootstrap interval and naive p.
    n : int
        Labelled events behind them (the fewest of any horizon).
    alpha : float, in (0, 1)
    min_events : int

    Returns
    -------
    Criterion
        PASS: rho > 0 with a corrected p < alpha at one horizon or more; enough events. INSUFFICIENT: fewer than
        `min_events`; no p at all; or fewer than it takes to see a true rho of 0.1 four times in five, while an interval
        still reaches 0.1. Else FAIL. The estimate is that of the horizon with the smallest corrected p, of those with
        rho > 0 where there is one.
    """
    key, title = "monotonicity", "Return rises with score, at one horizon"
    horizons = sorted(rho)
    corrected = {h: value for h in horizons if (value := p_joint.get(h)) is not None}
    tested = [h for h in horizons if h in corrected and rho[h] is not None]
    needed = max(min_events, events_needed_for_rho(EDGE_RHO, alpha / max(len(horizons), 1), POWER) or 0)
    if not tested:
        detail = f"No rank correlation could be tested ({n} labelled events)."
        return Criterion(key, title, Status.INSUFFICIENT, threshold=0.0, n=n, needed=needed, detail=detail)
    best = min(tested, key=lambda h: ((rho[h] or 0.0) <= 0, corrected[h], h))
    found = f"Spearman's rho over {n} labelled events against more than 0: " + "; ".join(
        f"{rho[h]:.3f}{_range(interval.get(h))} after {h} bars, circular-shift p {_p(p[h])}, corrected for "
        f"{len(tested)} horizons {_p(corrected[h])} against {alpha:g} (naive {_p(p_naive.get(h))})"
        for h in tested
    )
    could_be = any(bound is None or bound[1] >= EDGE_RHO for bound in (interval.get(h) for h in tested))
    if n < min_events:
        status, detail = Status.INSUFFICIENT, f"{found}. Fewer than {min_events} events are not judged."
    elif any((rho[h] or 0.0) > 0 and corrected[h] < alpha for h in tested):
        status, detail = Status.PASS, f"{found}."
    elif n < needed and could_be:
        status = Status.INSUFFICIENT
        detail = f"{found}. Too few to tell: {needed} would show a true {EDGE_RHO:g} four times in five."
    else:
        status, detail = Status.FAIL, f"{found}."
    return Criterion(
        key,
        title,
        status,
        rho[best],
        interval.get(best),
        0.0,
        "",
        corrected[best],
        p_naive.get(best),
        n,
        needed,
        detail,
    )


def judge_bucket_family(
    source: str,
    buckets: Sequence[tuple[str, int, Accuracy, float | None]],
    *,
    present: bool,
    min_accuracy: float,
    alpha: float,
    min_events: int,
) -> Criterion:
    """Judge whether a source works, as a whole or in one of its buckets.

    Parameters
    ----------
    source : str
        OFI_ONLY or CVD_ONLY.
    buckets : (name, horizon in bars, accuracy, corrected p) of every node and horizon
        The node called `source` is all its events; p is None where a node was not tested. The correction is
        `accuracy.hierarchical`: no bucket passes where its source does not.
    present : bool
        Whether the recordings hold what the source is made of.
    min_accuracy, alpha : float, in (0, 1)
    min_events : int
        Judged events a node needs.

    Returns
    -------
    Criterion
        PASS: a node has accuracy >= min_accuracy, corrected p < alpha and enough events. INSUFFICIENT: the source is
        absent; or all its events are fewer than it takes to see min_accuracy + 0.05 four times in five at alpha over
        the number of horizons. Else FAIL. The estimate is that of the node with the smallest p.
    """
    key, title = f"bucket_{source.lower()}", f"{source} works, as a whole or in a bucket"
    tested = [b for b in buckets if b[3] is not None and b[2].n_judged >= min_events]
    n_horizons = max(len({b[1] for b in buckets}), 1)
    needed = max(min_events, _needed(min_accuracy, alpha / n_horizons))
    if not present:
        detail = f"The recordings do not hold what {source} is computed from."
        return Criterion(key, title, Status.INSUFFICIENT, threshold=min_accuracy, needed=needed, detail=detail)
    most = max((b[2].n_judged for b in buckets), default=0)
    if not tested:
        detail = (
            f"{source} could not be tested: that takes {min_events} judged events, there are {most}, and "
            f"{_would_show(needed, min_accuracy)}."
        )
        return Criterion(key, title, Status.INSUFFICIENT, threshold=min_accuracy, n=most, needed=needed, detail=detail)

    def rank(bucket: tuple[str, int, Accuracy, float | None]) -> tuple[float, float]:
        return (1.0 if bucket[3] is None else bucket[3], -(bucket[2].accuracy or 0.0))

    passed = [
        b
        for b in tested
        if b[2].accuracy is not None and b[2].accuracy >= min_accuracy and b[3] is not None and b[3] < alpha
    ]
    best = min(passed or tested, key=rank)
    found = (
        f"{len(passed)} of {len(tested)} tested pairs of node ({source}, its buckets) and horizon pass; best {best[0]} "
        f"after {best[1]} bars: accuracy {best[2].accuracy or 0.0:.3f} over {best[2].n_judged} judged events against "
        f"at least {min_accuracy:g}, p corrected over the tree {_p(best[3])} against {alpha:g}"
    )
    if passed:
        status, detail = Status.PASS, f"{found}."
    elif most < needed:
        status = Status.INSUFFICIENT
        detail = f"{found}. Too few to tell: {_would_show(needed, min_accuracy)}, there are {most}."
    else:
        status, detail = Status.FAIL, f"{found}."
    return Criterion(
        key, title, status, best[2].accuracy, None, min_accuracy, "", best[3], None, best[2].n_judged, needed, detail
    )


def judge_selection(
    p: float | None, n: int | None, *, n_trials: int, n_shifts: int, min_accuracy: float, alpha: float
) -> Criterion:
    """Judge whether the chosen setting stands out of the whole grid, on the data it was chosen on.

    Parameters
    ----------
    p : float in [0, 1], or None where nothing was chosen or no shift exists
        Of the chosen setting against the maximum statistic of the grid.
    n : int or None
        Judged events of the chosen setting on the search part (the fewest of any horizon).
    n_trials, n_shifts : int
    min_accuracy, alpha : float, in (0, 1)

    Returns
    -------
    Criterion
        PASS: p < alpha. INSUFFICIENT: no p, or fewer events than it takes to see min_accuracy + 0.05 four times in
        five. Else FAIL.
    """
    key, title = "selection", "Chosen setting beats the best of chance"
    needed = _needed(min_accuracy, alpha)
    if p is None or n is None:
        detail = "Nothing was chosen on the search part, or it is too short to shift."
        return Criterion(key, title, Status.INSUFFICIENT, unit="", n=n, needed=needed, detail=detail)
    found = (
        f"On the search part, the chosen setting against the best of all {n_trials} settings at each of {n_shifts} "
        f"shifts in time: p {_p(p)} against {alpha:g}, {n} judged events"
    )
    if p < alpha:
        status, detail = Status.PASS, f"{found}."
    elif n < needed:
        status, detail = Status.INSUFFICIENT, f"{found}. Too few to tell: {_would_show(needed, min_accuracy)}."
    else:
        status, detail = Status.FAIL, f"{found}."
    return Criterion(key, title, status, p=p, n=n, needed=needed, detail=detail)


def judge_rate(events_per_hour: float | None, band: Bound, *, production: bool, hours: float) -> Criterion:
    """Judge how often events come, per symbol.

    Parameters
    ----------
    events_per_hour : float, >= 0, or None where nothing was recorded
        Events over `hours`.
    band : (low, high), events an hour, ends included
    production : bool
        Whether the bars are as long as in production: a rate on longer bars says nothing about it.
    hours : float, >= 0
        Recorded hours, summed over symbols.

    Returns
    -------
    Criterion
        NOT APPLICABLE off the production bar length. PASS: inside the band. INSUFFICIENT: less than an hour; or outside
        while the 95 % Poisson interval (Garwood, exact) reaches into the band. Else FAIL.
    """
    low, high = band
    key, title, unit = "events_per_hour", "Events per hour and symbol", "1/h"
    shown = f"against {low:g} to {high:g}"
    if events_per_hour is None:
        status = Status.INSUFFICIENT if production else Status.NOT_APPLICABLE
        return Criterion(key, title, status, threshold=band, unit=unit, detail="No recorded time to count events in.")
    n = round(events_per_hour * hours)
    interval: Bound | None = None
    if hours > 0:
        least = float(chi2.ppf(0.025, 2 * n)) / 2 if n else 0.0
        interval = (least / hours, float(chi2.isf(0.025, 2 * n + 2)) / 2 / hours)
    found = f"{events_per_hour:.2f} events an hour{_range(interval, 2)} {shown}, from {n} events in {hours:.1f} hours"
    if not production:
        status, detail = Status.NOT_APPLICABLE, f"{found}. Judged at the production bar length only."
    elif hours < MIN_HOURS:
        status, detail = Status.INSUFFICIENT, f"{found}. Less than an hour is not judged."
    elif low <= events_per_hour <= high:
        status, detail = Status.PASS, f"{found}."
    elif interval is not None and interval[0] <= high and interval[1] >= low:
        status, detail = Status.INSUFFICIENT, f"{found}. Outside, but so few events may be chance."
    else:
        status, detail = Status.FAIL, f"{found}."
    return Criterion(key, title, status, events_per_hour, interval, band, unit, n=n, detail=detail)


def judge_median_score(median: float | None, threshold: float, n: int, min_events: int) -> Criterion:
    """Judge the median score of all events.

    Parameters
    ----------
    median : float, in [0, 100], or None without events
    threshold : float
        To be exceeded.
    n : int
        Events.
    min_events : int

    Returns
    -------
    Criterion
        PASS: median > threshold. INSUFFICIENT: fewer than `min_events`. Else FAIL.
    """
    if median is None:
        status, detail = Status.INSUFFICIENT, "No event."
    else:
        detail = f"Median score {median:.1f} of {n} events against more than {threshold:g}."
        status = Status.PASS if median > threshold else Status.FAIL
        if n < min_events:
            status, detail = Status.INSUFFICIENT, f"{detail} Fewer than {min_events} events are not judged."
    return Criterion(
        "median_score", "Median score", status, median, threshold=threshold, n=n, needed=min_events, detail=detail
    )


def _edge(min_accuracy: float) -> float:
    # Near 1 there is no room for the full step.
    return min(min_accuracy + EDGE_ABOVE_THRESHOLD, (1 + min_accuracy) / 2)


def _needed(min_accuracy: float, alpha: float) -> int:
    # A threshold below one half cannot be what binds; then a true accuracy at most 0.5 needs no number.
    return events_needed_for_gate(_edge(min_accuracy), min_accuracy, alpha, POWER) or 0


def _would_show(needed: int, min_accuracy: float) -> str:
    return f"{needed} would show a true {_edge(min_accuracy):.3g} four times in five"


def _p(value: float | None) -> str:
    if value is None:
        return "none"
    return "< 0.0001" if value < 0.00005 else f"{value:.4f}"


def _range(interval: Bound | None, digits: int = 3) -> str:
    return "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
