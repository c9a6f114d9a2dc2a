"""Rules that guard the others: what must not be able to pass.

As in `gates`, a rule computes no statistic of events and reads no config: everything it weighs is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from v13.measures.accuracy import Accuracy
from v13.measures.verdict import Criterion, Status

__all__ = ["judge_placebo", "judge_plateau"]

LEAST_KEPT = 0.5  # "most of its edge"


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


def judge_plateau(edge_kept: float | None, *, has_choice: bool) -> Criterion:
    """Judge whether the neighbours of the chosen setting keep most of its edge.

    Parameters
    ----------
    edge_kept : float, or None where there is no neighbour or the choice has no edge
        The median neighbour's accuracy above one half as a share of the chosen setting's (search part).
    has_choice : bool
        Whether the search chose a setting at all.

    Returns
    -------
    Criterion
        PASS: at least half is kept. NOT APPLICABLE: there is nothing to compare. Else FAIL: a spike.
    """
    key, title = "plateau", "Neighbours of the choice keep its edge"
    if edge_kept is None:
        why = "it has no neighbour in the grid, or no edge" if has_choice else "nothing was chosen"
        return Criterion(key, title, Status.NOT_APPLICABLE, threshold=LEAST_KEPT, detail=f"Nothing to compare: {why}.")
    status = Status.PASS if edge_kept >= LEAST_KEPT else Status.FAIL
    detail = (
        f"On the search part, the settings one step away keep {edge_kept:.0%} of the chosen one's edge (accuracy above "
        f"one half, median neighbour) against at least {LEAST_KEPT:.0%}."
    )
    return Criterion(key, title, status, edge_kept, threshold=LEAST_KEPT, detail=detail)
