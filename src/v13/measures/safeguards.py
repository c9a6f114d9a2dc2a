"""Rules that guard the others: what must not be able to pass.

As in `gates`, a rule computes no statistic of events and reads no config: everything it weighs is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from v13.measures.accuracy import Accuracy
from v13.verdict import Criterion, Status

__all__ = ["EdgeKept", "judge_placebo", "judge_plateau"]

LEAST_KEPT = 0.5  # "most of its edge"


class EdgeKept(TypedDict):
    """The chosen setting among its neighbours, on the search part.

    edge : its accuracy above one half, mean over horizons.
    share : the median neighbour's edge as a share of it; None without neighbours, or where `edge` is not above 0.
    n_neighbours : settings around it that have events.
    around : by real-valued parameter, the least and the highest value among its neighbours and itself.
    """

    edge: float
    share: float | None
    n_neighbours: int
    around: dict[str, list[float]]


def judge_placebo(
    n_real: int,
    placebo: Sequence[tuple[int, Accuracy, float | None]],
    *,
    n_shuffles: int,
    min_accuracy: float,
    alpha: float,
    min_events: int,
) -> Criterion:
    """Judge whether the detector fails, as it must, once its flow has been shuffled in time.

    Parameters
    ----------
    n_real : int, >= 0
        Judged events of the real detector (the fewest of any horizon).
    placebo : (horizon in bars, Accuracy, circular-shift p or None) of each horizon, at least one
        Of the same parameters on shuffled flow, events of all shuffles pooled.
    n_shuffles : int, >= 1
    min_accuracy, alpha : float, in (0, 1)
        Those the real detector is judged by.
    min_events : int
        Judged events of the real detector below which there is nothing to compare.

    Returns
    -------
    Criterion
        INSUFFICIENT: fewer than `min_events` real events. FAIL: the placebo reaches `min_accuracy` with p < alpha at
        every horizon, so what the detector earns does not need the flow it says it reads. Else PASS. The estimate and n
        are the placebo's at the first horizon, p the largest of any horizon: all must lie below alpha to meet the
        criteria.
    """
    key, title = "placebo", "Placebo with shuffled flow fails"
    first = placebo[0][1]
    if n_real < min_events:
        detail = f"Only {n_real} judged events of the real detector: fewer than {min_events} are not compared."
        return Criterion(
            key, title, Status.INSUFFICIENT, threshold=min_accuracy, n=n_real, needed=min_events, detail=detail
        )
    met = [
        acc.accuracy is not None and acc.accuracy >= min_accuracy and p is not None and p < alpha
        for _, acc, p in placebo
    ]
    found = f"The same parameters on flow shuffled in blocks ({n_shuffles} shuffles pooled): " + "; ".join(
        f"accuracy {'none' if acc.accuracy is None else f'{acc.accuracy:.3f}'} after {h} bars over {acc.n_judged} "
        f"judged events, circular-shift p {'none' if p is None else f'{p:.4f}'}"
        for h, acc, p in placebo
    )
    bar = f"accuracy of at least {min_accuracy:g} with p below {alpha:g} at every horizon"
    if all(met):
        status = Status.FAIL
        detail = (
            f"{found}. That meets what the real detector is asked for ({bar}): the edge lies in the price pattern "
            "alone and not in the flow."
        )
    else:
        status = Status.PASS
        detail = (
            f"{found}. That does not meet what the real detector is asked for ({bar}). A market whose edge lies in the "
            "price pattern alone would let it pass."
        )
    known = [p for _, _, p in placebo if p is not None]
    largest = max(known) if len(known) == len(placebo) else None
    return Criterion(
        key,
        title,
        status,
        first.accuracy,
        None,
        min_accuracy,
        "",
        largest,
        n=first.n_judged,
        detail=detail,
    )


def judge_plateau(edge_kept: EdgeKept | None, *, has_choice: bool) -> Criterion:
    """Judge whether the neighbours of the chosen setting keep most of its edge.

    Parameters
    ----------
    edge_kept : EdgeKept, or None where there was no choice to make (a grid of one setting) or none was made
    has_choice : bool
        Whether the search chose a setting at all.

    Returns
    -------
    Criterion
        NOT APPLICABLE: a grid of one setting, or nothing chosen. FAIL: the choice has no edge, or its neighbours keep
        less than half of it (a spike). INSUFFICIENT: it has no neighbour, so a spike would look the same. Else PASS.
    """
    key, title = "plateau", "Neighbours of the choice keep its edge"
    if edge_kept is None:
        why = "the grid is a single setting" if has_choice else "nothing was chosen"
        return Criterion(key, title, Status.NOT_APPLICABLE, threshold=LEAST_KEPT, detail=f"Nothing to compare: {why}.")
    edge, share = edge_kept["edge"], edge_kept["share"]
    if edge <= 0:
        status = Status.FAIL
        detail = (
            f"On the search part, the chosen setting has no edge to keep: its accuracy is {0.5 + edge:.3f}, mean over "
            "horizons."
        )
    elif share is None:
        status = Status.INSUFFICIENT
        detail = (
            "The chosen setting has no neighbour with events in the grid, so a lucky spike would look the same. "
            "Neighbours differ in a real-valued parameter (z_hi, z_mid): search two values of one at the least."
        )
    else:
        status = Status.PASS if share >= LEAST_KEPT else Status.FAIL
        around = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in edge_kept["around"].items())
        detail = (
            f"On the search part, the settings around the chosen one ({around}) keep {share:.0%} of its edge (accuracy "
            f"above one half, median of {edge_kept['n_neighbours']}) against at least {LEAST_KEPT:.0%}."
        )
    return Criterion(key, title, status, share, threshold=LEAST_KEPT, detail=detail)
