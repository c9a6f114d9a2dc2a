"""Shelves of what was found and what became of it: events, scores, outcomes."""

from __future__ import annotations

from typing import Final

from v13.telemetry.panels import ALERTED, Column, Panel, Shelf, levels_text, signal_of
from v13.telemetry.queries import BY_SOURCE, Query, counted, histogram, per_hour, quantile, selector
from v13.telemetry.slo import SloTable

__all__ = ["events_shelf", "outcomes_shelf", "scores_shelf"]

_OUTCOMES: Final = (
    ("hits", "divergence_hits_total"),
    ("judged", "divergence_outcomes_total"),
    ("ties", "divergence_outcomes_tied_total"),
    ("void", "divergence_outcomes_void_total"),
)


def events_shelf(table: SloTable) -> Shelf:
    """Return how many events there are, of which source, side and kind, and what gates kept back."""
    name = "divergence_events_total"
    rate = table.row("events_per_hour")
    return Shelf(
        "Events",
        (
            Panel(
                "event_rate_by_source",
                "Events per hour and symbol, by source",
                "lines",
                (signal_of(rate, ALERTED), Query(per_hour(name, "source", BY_SOURCE), "{{source}}")),
                rate.unit,
                f"Per active symbol, so 50 symbols do not breach a band meant for one. {levels_text(rate)}",
                limits=(rate,),
                scale="symlog",
            ),
            Panel(
                "event_rate_by_side",
                "Events per hour and symbol, by side and kind",
                "lines",
                (Query(per_hour(name, "side, kind", BY_SOURCE), "{{side}} {{kind}}"),),
                rate.unit,
                "A market that only rises or falls shows one side; a detector that only ever shows one is broken.",
            ),
            Panel(
                "events_in_range",
                "Events in this time range",
                "bars",
                (
                    Query(
                        f"sort_desc({counted(name, 'source, side, kind', BY_SOURCE)})",
                        "{{source}} {{side}} {{kind}}",
                        instant=True,
                    ),
                ),
                "events",
                "All symbols. Counts are whole only where a scrape falls on the ends of the range.",
            ),
            Panel(
                "suppressed",
                "Candidates kept back, by reason",
                "lines",
                (
                    Query(per_hour("divergence_suppressed_total", "reason"), "{{reason}}"),
                    Query(per_hour("divergence_conflict_hints_total", ""), "conflict hints (no event)"),
                ),
                "per hour",
                "What gates held back, per hour and active symbol. `lag` that grows is a dying stream.",
                width=12,
            ),
            Panel(
                "pairing_gap",
                "Bars between the two pivots",
                "lines",
                tuple(
                    Query(quantile(q, "divergence_pairing_gap_bars", "", BY_SOURCE), f"P{100 * q:g}")
                    for q in (0.1, 0.5, 0.9)
                ),
                "bars",
                "Distance of the paired pivots of committed events.",
                width=12,
            ),
        ),
    )


def scores_shelf(table: SloTable) -> Shelf:
    """Return how scores are distributed."""
    median = table.row("score_median")
    score = "divergence_score"
    return Shelf(
        "Scores",
        (
            Panel(
                "score_heatmap",
                "Score distribution",
                "heatmap",
                (Query(histogram(score, BY_SOURCE, over="$__rate_interval"), "{{le}}", cumulative=True),),
                "1",
                "Events by score, in time. Below 40 nothing is emitted; weak to 50, normal to 70, strong from 70.",
                width=10,
            ),
            Panel(
                "score_median",
                "Score median",
                "lines",
                (signal_of(median, ALERTED), Query(quantile(0.5, score, "source", BY_SOURCE), "{{source}}")),
                median.unit,
                f"Read off buckets 2.5 apart. {levels_text(median)}",
                limits=(median,),
                width=7,
            ),
            Panel(
                "scores_in_range",
                "Scores in this time range",
                "bars",
                (Query(histogram(score, BY_SOURCE, over="$__range"), "{{le}}", instant=True, cumulative=True),),
                "events",
                "Events with a score up to this bound and above the one before.",
                width=7,
            ),
        ),
    )


def outcomes_shelf(table: SloTable) -> Shelf:
    """Return whether events went their way, by horizon and source."""
    rate = table.row("hit_rate")
    by = "horizon, source"
    hits, judged = (selector(name, BY_SOURCE) for _, name in _OUTCOMES[:2])
    share = "sum by ({by}) (increase({hits}[{over}])) / (sum by ({by}) (increase({judged}[{over}])) > 0)"
    rolling = share.format(by=by, hits=hits, judged=judged, over="$window")
    whole = share.format(by=by, hits=hits, judged=judged, over="$__range")
    returns = "divergence_forward_return"
    table_queries = [Query(counted(name, by, BY_SOURCE), "", instant=True) for _, name in _OUTCOMES]
    return Shelf(
        "Outcomes",
        (
            Panel(
                "hit_rate",
                "Hit rate by horizon and source",
                "lines",
                (signal_of(rate, "{{horizon}} bars, " + ALERTED), Query(rolling, "{{horizon}} bars, {{source}}")),
                rate.unit,
                "Share of judged outcomes that went the event's way, over the window; few events make it jump. "
                + levels_text(rate),
                limits=(rate,),
            ),
            Panel(
                "forward_return",
                "Median forward return by horizon and source",
                "lines",
                (Query(f"10000 * {quantile(0.5, returns, by, BY_SOURCE)}", "{{horizon}} bars, {{source}}"),),
                "bp",
                "In the event's direction, basis points, read off buckets; above 0 the events point the right way.",
            ),
            Panel(
                "returns_in_range",
                "Forward returns in this time range",
                "bars",
                (Query(histogram(returns, BY_SOURCE, over="$__range"), "{{le}}", instant=True, cumulative=True),),
                "events",
                "Outcomes of all horizons with a log return, in the event's direction, up to this bound.",
            ),
            Panel(
                "outcomes_in_range",
                "Outcomes in this time range",
                "table",
                (*table_queries, Query(whole, "", instant=True)),
                "events",
                "Ties ended on an unchanged price, void ones met a gap: neither is judged.",
                columns=(*(Column(name, "events") for name, _ in _OUTCOMES), Column("hit rate", "ratio")),
                width=24,
                height=7,
            ),
        ),
    )
