"""What the log says each query of the dashboard must answer, panel by panel.

The queries are the dashboard's; here is only what they claim to show. A query that shows something else does not close.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from v13.errors import V13Error
from v13.release.closure_row import Chain
from v13.release.promql import bucket_of, bucket_quantile
from v13.release.reckoning import LEVELS, Labels, Logged, Reckoning, grouped
from v13.telemetry.catalogue import find
from v13.telemetry.panels import Panel, Shelf
from v13.telemetry.queries import Query

__all__ = ["HAIR", "Check", "checks", "nearest", "own_queries", "panel_of"]

F64 = NDArray[np.float64]

HOUR_S: Final = 3_600.0
BASIS_POINTS: Final = 10_000.0
HAIR: Final = 1e-9  # a rank on the edge of a bucket is told to either side of it, as rates are rounded
_OUTCOMES: Final = (
    "divergence_hits_total",
    "divergence_outcomes_total",
    "divergence_outcomes_tied_total",
    "divergence_outcomes_void_total",
)


class Check(NamedTuple):
    """A query, and what it must answer: for each label set a chain, or some for a rank on the edge of a bucket."""

    family: str
    panel: Panel
    query: Query
    unit: str
    expected: Mapping[Labels, tuple[Chain, ...]]
    name: str = ""  # before the labels


def checks(shelves: Iterable[Shelf], reckoning: Reckoning, *, active: float) -> Iterator[Check]:
    """Yield all checks of what the log tells.

    Parameters
    ----------
    shelves : of `telemetry.overview.overview`
    reckoning : Reckoning
    active : float
        Active symbols at the end of the window: a rate is for each of them.

    Raises
    ------
    V13Error
        The dashboard lacks a panel or a query that is held against the log.
    """
    panels = tuple(shelves)
    hours = reckoning.window.range_s / HOUR_S * max(active, 1.0)
    events = reckoning.series("divergence_events_total")

    def check(
        family: str, key: str, i: int, expected: Mapping[Labels, tuple[Chain, ...]], unit: str = "", name: str = ""
    ) -> Check:
        panel = panel_of(panels, key)
        own = own_queries(panel)
        if len(own) <= i:
            raise V13Error(f"panel {key}: expected {i + 1} queries of its own, found {len(own)}")
        return Check(family, panel, own[i], unit or panel.unit, expected, name)

    yield check("events", "events_in_range", 0, _counted(reckoning, events, "source", "side", "kind"))
    yield check("events", "event_rate_by_source", 0, _counted(reckoning, events, "source", per=hours))
    yield check("events", "event_rate_by_side", 0, _counted(reckoning, events, "side", "kind", per=hours))
    hints = reckoning.series("divergence_conflict_hints_total")
    yield check("events", "suppressed", 1, _counted(reckoning, hints, per=hours), name="conflict hints")
    for i, query in enumerate(own_queries(panel_of(panels, "pairing_gap"))):
        q = float(query.legend.removeprefix("P")) / 100.0
        yield check(
            "events", "pairing_gap", i, _quantiles(reckoning, q, "divergence_pairing_gap_bars"), name=query.legend
        )
    score = "divergence_score"
    yield check("scores", "scores_in_range", 0, _counted(reckoning, reckoning.buckets(score), "le"))
    if reckoning.window.range_s >= 4 * reckoning.window.scrape_s:  # a cell of the heat map is no shorter
        yield check("scores", "score_heatmap", 0, _counted(reckoning, reckoning.buckets(score), "le"), unit="events")
    yield check("scores", "score_median", 0, _quantiles(reckoning, 0.5, score, "source"))
    by = ("horizon", "source")
    for i, name in enumerate(_OUTCOMES):
        column = panel_of(panels, "outcomes_in_range").columns[i].name
        yield check("hit_rate", "outcomes_in_range", i, _counted(reckoning, reckoning.series(name), *by), name=column)
    yield check("hit_rate", "outcomes_in_range", 4, _hit_rates(reckoning, *by), unit="ratio", name="hit rate")
    yield check("hit_rate", "hit_rate", 0, _hit_rates(reckoning, *by))
    returns = "divergence_forward_return"
    yield check("hit_rate", "forward_return", 0, _quantiles(reckoning, 0.5, returns, *by, times=BASIS_POINTS))
    yield check("hit_rate", "returns_in_range", 0, _counted(reckoning, reckoning.buckets(returns), "le"))


def panel_of(shelves: Iterable[Shelf], key: str) -> Panel:
    """Return the panel of that key.

    Raises
    ------
    V13Error
        The dashboard has none.
    """
    found = next((panel for shelf in shelves for panel in shelf.panels if panel.key == key), None)
    if found is None:
        raise V13Error(f"the dashboard has no panel {key!r}, which is held against the event log")
    return found


def own_queries(panel: Panel) -> tuple[Query, ...]:
    """Return the queries of a panel that are not the alerts' signal, whose window is not ours to choose."""
    signals = {limit.record or limit.expr for limit in panel.limits}
    return tuple(query for query in panel.queries if query.expr not in signals)


def nearest(chains: tuple[Chain, ...], shown: float) -> Chain:
    """Return the chain that is told nearest to what is shown."""
    return min(chains, key=lambda c: math.inf if math.isnan(c.told) else abs(c.told - shown))


def _counted(
    reckoning: Reckoning, series: Iterable[Logged], *by: str, per: float = 1.0
) -> dict[Labels, tuple[Chain, ...]]:
    """Return counts by labels, or rates: counts divided by `per`."""
    found: dict[Labels, tuple[Chain, ...]] = {}
    for key, own in grouped(series, *by).items():
        found[key] = (_chain(_sum(reckoning, own) / per, 1.0 / per),)
    return found


def _hit_rates(reckoning: Reckoning, *by: str) -> dict[Labels, tuple[Chain, ...]]:
    hits, judged = (grouped(reckoning.series(name), *by) for name in _OUTCOMES[:2])
    found: dict[Labels, tuple[Chain, ...]] = {}
    for key, own in judged.items():
        n = _sum(reckoning, own)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(n > 0, _sum(reckoning, hits.get(key, ())) / n, np.nan)
        found[key] = (_chain(share, 1.0 / max(float(n[0]), 1.0)),)
    return found


def _quantiles(
    reckoning: Reckoning, q: float, name: str, *by: str, times: float = 1.0
) -> dict[Labels, tuple[Chain, ...]]:
    upper = (*find(name).buckets, math.inf)
    exact = grouped(reckoning.series(name), *by)
    found: dict[Labels, tuple[Chain, ...]] = {}
    for key, own in grouped(reckoning.buckets(name), *by).items():
        at = grouped(own, "le")
        levels = np.array([_sum(reckoning, at[("le", repr(bound)),]) for bound in upper])
        plain, aligned = reckoning.values(exact[key])
        chains = []
        for nudged in (q, q * (1.0 - HAIR), q * (1.0 + HAIR)):
            binned, raw, told = (bucket_quantile(nudged, upper, levels[:, i]) for i in (1, 2, 3))
            width = _width(told, upper)
            chains.append(
                Chain(
                    times * _exact(nudged, plain),
                    times * _exact(nudged, aligned),
                    times * binned,
                    times * raw,
                    times * told,
                    slack=times * width,
                    scale=times * width,
                )
            )
        found[key] = tuple(chains)
    return found


def _sum(reckoning: Reckoning, series: Iterable[Logged]) -> F64:
    return sum((reckoning.levels(one) for one in series), np.zeros(len(LEVELS)))


def _chain(levels: F64, slack: float) -> Chain:
    plain, aligned, raw, told = levels.tolist()
    return Chain(plain, aligned, aligned, raw, told, slack=slack, scale=slack)


def _exact(q: float, values: F64) -> float:
    """Return the least value that a share q of all do not exceed: the one that decides which bucket is read."""
    return float(np.quantile(values, q, method="inverted_cdf")) if values.size else math.nan


def _width(value: float, upper: tuple[float, ...]) -> float:
    """Return the width of the bucket a figure was read off; of the widest next to it at either end."""
    if math.isnan(value):
        return 1.0
    low, high = bucket_of(value, upper)
    finite = [bound for bound in upper if math.isfinite(bound)]
    if math.isinf(low):
        low = min(0.0, finite[0] - abs(finite[0]))
    return (high if math.isfinite(high) else 2.0 * finite[-1]) - low
