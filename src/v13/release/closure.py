"""Metrics closure: what the dashboard's own queries answer, beside what the event log says they must.

Every panel of events, scores, outcomes and latencies is asked of Prometheus over one window and reckoned again from
the log. The difference is told apart into what explains it and what does not. It changes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from v13.errors import DataError
from v13.release.closure_checks import Check, checks, nearest
from v13.release.closure_latency import latency_checks
from v13.release.closure_row import FAMILIES, Chain, ClosureRow
from v13.release.reckoning import Labels, Reckoning, labelled, untied
from v13.release.scrapes import TARGET_LABELS, Window, find_window, samples, target_of
from v13.store.event_counts import LogCounts, read_counts
from v13.telemetry.overview import overview
from v13.telemetry.prometheus import Prometheus, Series
from v13.telemetry.queries import render, selector
from v13.telemetry.slo import SloTable

__all__ = ["COUNTERS", "ENTRIES", "Closure", "close"]

EVERY_SCRAPE: Final = "counters at every scrape"
COUNTERS: Final = (  # (family, metric): what resumes from the log, so that each scrape says all of it
    ("events", "divergence_events_total"),
    ("events", "divergence_conflict_hints_total"),
    ("hit_rate", "divergence_hits_total"),
    ("hit_rate", "divergence_outcomes_total"),
    ("hit_rate", "divergence_outcomes_tied_total"),
    ("hit_rate", "divergence_outcomes_void_total"),
)
ENTRIES: Final = tuple(name for _, name in COUNTERS if "hits" not in name)  # each row of the log once


@dataclass(frozen=True)
class Closure:
    """A closure.

    Attributes
    ----------
    source : str
        prometheus, or exporter: the weaker check, of one scrape and without the dashboard's queries.
    start_s, end_s : float, Unix seconds
    n_scrapes, n_lives : int
        Scrapes in the window, and of how many processes.
    n_events : int
        Divergences in the log within the window.
    rows : tuple of ClosureRow
    notes : tuple of str
        What could not be looked at.
    """

    source: str
    start_s: float
    end_s: float
    n_scrapes: int
    n_lives: int
    n_events: int
    rows: tuple[ClosureRow, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> Mapping[str, float]:
        """Return the worst unexplained share of each family; only families with rows."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.family] = max(found.get(row.family, 0.0), row.error)
        return found

    @property
    def is_closed(self) -> bool:
        return all(row.is_closed for row in self.rows)

    def of(self, family: str) -> tuple[ClosureRow, ...]:
        return tuple(row for row in self.rows if row.family == family)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "version": 1,
            "source": self.source,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "n_scrapes": self.n_scrapes,
            "n_lives": self.n_lives,
            "n_events": self.n_events,
            "closed": self.is_closed,
            "errors": dict(self.errors),
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
        }


def close(
    prometheus: Prometheus, table: SloTable, log: Path, *, window_s: int, closure_ratio: float, now_s: float
) -> Closure:
    """Hold Prometheus and the event log together over a window.

    Parameters
    ----------
    prometheus : Prometheus
    table : SloTable
        The dashboard is made from it.
    log : Path
        The event log of the runner that was scraped; it may be written meanwhile.
    window_s : int, s, >= 1
        How far back from `now_s`; it begins and ends at scrapes, and where there are none for so long later.
    closure_ratio : float
        `acceptance.closure_ratio`.
    now_s : float, Unix seconds

    Raises
    ------
    ConfigError, DataError, StoreError, V13Error
        Prometheus cannot be asked, it has no two scrapes of one runner, or the log cannot be read.
    """
    shelves = overview(table)
    window = find_window(prometheus, window_s, now_s)
    counts = read_counts(log)
    read = {name: samples(prometheus, name, window) for _, name in COUNTERS}
    read["divergence_score"] = [
        s for s in samples(prometheus, "divergence_score_bucket", window) if s.labels["le"] == "+Inf"
    ]
    window = _without_ties(window, counts, [one for name in ENTRIES for one in read[name]])
    reckoning = Reckoning(counts, window)
    horizons = {one.labels["horizon"] for one in read["divergence_outcomes_total"]}
    found = prometheus.instant(f"sum({selector('divergence_active_symbols')})", window.end_s)
    active = float(found[0].values[0]) if found else 0.0
    rows: list[ClosureRow] = []
    for check in (
        *checks(shelves, reckoning, active=active),
        *latency_checks(shelves, reckoning, prometheus, closure_ratio),
    ):
        rows += _answered(prometheus, check, window, closure_ratio, horizons)
    rows += _identities(rows, reckoning, window, closure_ratio)
    rows += _every_scrape(read, reckoning, closure_ratio, horizons)
    rows.append(_bars(counts, window, samples(prometheus, "divergence_bars_total", window), closure_ratio))
    notes = []
    if not any(row.family == "latency" and row.unit in ("events", "bars") and "times" in row.label for row in rows):
        notes.append("no latency was measured: a replay at full speed has none")
    if window.has_birth:
        n = len(window.scrapes)
        notes.append(
            f"{n} targets one after the other: what was committed between two of them was never seen as growth"
        )
    n_events = round(sum(reckoning.levels(one)[0] for one in reckoning.series("divergence_events_total")))
    return Closure(
        "prometheus",
        window.start_s,
        window.end_s,
        window.n_scrapes,
        window.n_lives,
        n_events,
        tuple(sorted(rows, key=lambda row: FAMILIES.index(row.family))),
        tuple(notes),
    )


def _answered(
    prometheus: Prometheus, check: Check, window: Window, ratio: float, horizons: set[str]
) -> Iterator[ClosureRow]:
    """Ask a query and set its answers beside what they must be."""
    answer = prometheus.instant(render(check.query.expr, window.scope()), window.end_s)
    shown = {_key(one): float(one.values[0]) for one in answer}
    expected = {
        key: chains for key, chains in check.expected.items() if dict(key).get("horizon", "") in {"", *horizons}
    }
    nothing = Chain(np.nan, np.nan, np.nan, np.nan, np.nan)
    for key in sorted(expected.keys() | shown.keys(), key=_order):
        value = shown.get(key, float("nan"))
        chain = nearest(expected.get(key, (nothing,)), value)
        label = " ".join(filter(None, (check.name, *(_word(*pair) for pair in key))))
        yield ClosureRow(check.family, check.panel.title, label, check.unit, value, chain, window.has_birth, ratio)


def _identities(rows: Sequence[ClosureRow], reckoning: Reckoning, window: Window, ratio: float) -> Iterator[ClosureRow]:
    """Parts of the counts of events must sum to all of them, which the log and the scores know by themselves."""
    panel = next(row.panel for row in rows if row.family == "events")
    own = [row for row in rows if row.panel == panel]
    levels = np.sum([reckoning.levels(one) for one in reckoning.series("divergence_events_total")], axis=0)
    plain, aligned, raw, told = levels.tolist()
    everything = Chain(plain, aligned, aligned, raw, told)
    for words in (("bull", "bear"), ("regular", "hidden"), ("OFI_ONLY", "CVD_ONLY", "FUSION")):
        total = sum(row.shown for word in words for row in own if word in row.label.split())
        label = f"{' + '.join(words)} = all"
        yield ClosureRow("events", panel, label, "events", total, everything, window.has_birth, ratio)
    scored = next(row for row in rows if row.family == "scores" and row.label == "le +Inf")
    yield ClosureRow(
        "scores", scored.panel, "all scores = all events", "events", scored.shown, everything, window.has_birth, ratio
    )


def _every_scrape(
    read: Mapping[str, list[Series]], reckoning: Reckoning, ratio: float, horizons: set[str]
) -> Iterator[ClosureRow]:
    """Hold each counter of the log at each scrape against the log: also what was miscounted before the window."""
    by_target = {scrapes.target: scrapes for scrapes in reckoning.window.scrapes}
    for family, name in (*COUNTERS, ("scores", "divergence_score")):
        must = {one.labels: one for one in reckoning.series(name)}
        worst, last = 0.0, 0.0
        for one in read[name]:
            scrapes = by_target[target_of(one.labels)]
            labels = _key(one, *TARGET_LABELS, "le")
            if dict(labels).get("horizon", "") not in {"", *horizons}:
                continue
            at = np.isin(scrapes.ts_s, one.ts_s)
            expected = must[labels].at(scrapes)[at] if labels in must else np.zeros(one.ts_s.size)
            worst = max(worst, *(one.values - expected).tolist(), key=abs)
            last += float(expected[-1])
        chain = Chain(last, last, last, last, last)
        title = f"{name} ({reckoning.window.n_scrapes} scrapes)"
        yield ClosureRow(
            family, EVERY_SCRAPE, title, "events", last + worst, chain, has_birth=False, closure_ratio=ratio
        )


def _bars(counts: LogCounts, window: Window, series: list[Series], ratio: float) -> ClosureRow:
    """Bars have no time of commit in the log, but events have, and the number of their bar: bounds, mostly narrow."""
    last = max(window.scrapes, key=lambda s: float(s.ts_s[-1]))
    shown = next(float(one.values[-1]) for one in series if target_of(one.labels) == last.target)
    at_ms = int(last.counted_ms[-1])
    low, high = 0, 0
    for symbol, rows in enumerate(counts.rows.tolist()):
        own = counts.events[counts.events["symbol"] == symbol]
        before, after = own[own["committed_ms"] <= at_ms], own[own["committed_ms"] > at_ms]
        low += int(before["row"].max(initial=-1)) + 1
        high += int(after["row"].min()) if after.size else rows
    must = float(np.clip(shown, low, high))
    label = f"bars committed until the last scrape (the log: {low:,} to {high:,})"
    chain = Chain(must, must, must, must, must)
    return ClosureRow("latency", EVERY_SCRAPE, label, "bars", shown, chain, has_birth=False, closure_ratio=ratio)


def _without_ties(window: Window, counts: LogCounts, series: list[Series]) -> Window:
    found = []
    for scrapes in window.scrapes:
        total = np.zeros(scrapes.ts_s.size)
        for one in series:
            if target_of(one.labels) == scrapes.target:
                if not np.array_equal(one.ts_s, scrapes.ts_s):
                    raise DataError(f"{' '.join(scrapes.target)}: {one.labels['__name__']} is not in every scrape")
                total += one.values
        found.append(untied(scrapes, counts, total))
    return replace(window, scrapes=tuple(found))


def _key(series: Series, *without: str) -> Labels:
    return labelled(**{k: v for k, v in series.labels.items() if k not in ("__name__", *without)})


def _order(key: Labels) -> list[tuple[str, float, str]]:
    return [(name, float(value) if name in ("le", "horizon") else 0.0, value) for name, value in key]


def _word(name: str, value: str) -> str:
    """Return a label for people: bounds and horizons need their name."""
    if name == "le":
        return f"le {'+Inf' if value == 'inf' else value}"
    return f"{value} bars" if name == "horizon" else value
