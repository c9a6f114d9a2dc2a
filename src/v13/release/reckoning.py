"""What Prometheus would have to say, had it scraped exact counters: the log, counted at the moments of the scrapes.

For every series of the catalogue that follows from the log it gives the increase over a window on four levels, each a
step nearer to what PromQL answers; the steps between them are what a difference is explained by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import CHANNELS, CONFLICT, KINDS
from v13.release.promql import increase
from v13.release.scrapes import Scrapes, Window
from v13.store.event_counts import LogCounts
from v13.telemetry.catalogue import find

__all__ = ["LEVELS", "Labels", "Logged", "Reckoning", "grouped", "labelled", "untied"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Labels = tuple[tuple[str, str], ...]  # sorted by name

LEVELS: Final = ("plain", "aligned", "raw", "told")
SIDES: Final = {1: "bull", -1: "bear"}


@dataclass(frozen=True)
class Logged:
    """One series as the log has it.

    Attributes
    ----------
    labels : Labels
    committed_ms : (n,) int64, ascending
        When each thing it counts was committed.
    values : (n,) float64
        What a histogram was given; the numbers have no meaning for a counter.
    lives : bool
        It counts for the life of a process and begins at 0 with the next one; else it resumes from the log.
    """

    labels: Labels
    committed_ms: I64
    values: F64 = field(default_factory=lambda: np.empty(0))
    lives: bool = False

    def until(self, ms: I64) -> I64:
        """Return how many were committed up to and with each time."""
        return np.searchsorted(self.committed_ms, ms, side="right").astype(np.int64)

    def at(self, scrapes: Scrapes, first: float | None = None) -> F64:
        """Return what each scrape must have read.

        Parameters
        ----------
        scrapes : Scrapes
        first : float, optional
            What the first scrape of a process-life counter did read: earlier parts of that life are not looked at.
        """
        counts = self.until(scrapes.counted_ms).astype(np.float64)
        if not self.lives:
            return counts
        counts -= self.until(scrapes.began_ms)
        if first is not None:
            own = scrapes.lives[0]
            counts[own] += first - counts[0]
        return counts


class Reckoning:
    """A log and a window held together.

    Parameters
    ----------
    counts : LogCounts
        Read after the window's last scrape.
    window : Window
    """

    def __init__(self, counts: LogCounts, window: Window) -> None:
        self.counts = counts
        self.window = window
        events, outcomes = counts.events, counts.outcomes
        self._events = events[events["kind"] != CONFLICT]
        self._hints = events[events["kind"] == CONFLICT]
        self._outcomes = outcomes
        self._between = (round(window.start_s * 1_000), round(window.end_s * 1_000))

    def series(self, name: str) -> list[Logged]:
        """Return the series of a metric that follows from the log; a histogram's without its buckets.

        Raises
        ------
        KeyError
            The log does not tell of this metric.
        """
        return list(_SERIES[name](self))

    def levels(self, series: Logged, firsts: Mapping[tuple[str, ...], float] | None = None) -> F64:
        """Return the increase of a series over the window, (4,) float64: one a level.

        plain : by the ends of the window. aligned : between its first and its last scrape. raw : with what resets lose.
        told : as PromQL extrapolates it.
        """
        low, high = series.until(np.array(self._between))
        found = np.array([float(high - low), 0.0, 0.0, 0.0])
        for scrapes in self.window.scrapes:
            first = None if firsts is None else firsts.get(scrapes.target)
            counts = series.until(scrapes.counted_ms)
            grown = increase(
                scrapes.ts_s,
                series.at(scrapes, first),
                self.window.start_s,
                self.window.end_s,
                zero_last=self.window.zero_last,
            )
            found[1:] += counts[-1] - counts[0], grown.raw, grown.told
        return found

    def values(self, series: Iterable[Logged]) -> tuple[F64, F64]:
        """Return what histograms were given within the ends of the window, and between its first and last scrapes."""
        plain, aligned = [np.empty(0)], [np.empty(0)]
        for one in series:
            low, high = one.until(np.array(self._between))
            plain.append(one.values[low:high])
            for scrapes in self.window.scrapes:
                first, last = one.until(scrapes.counted_ms[[0, -1]])
                aligned.append(one.values[first:last])
        return np.concatenate(plain), np.concatenate(aligned)

    def buckets(self, name: str) -> list[Logged]:
        """Return the cumulative buckets of a histogram: its series once a bound, with the label `le`."""
        bounds = (*find(name).buckets, float("inf"))
        made = []
        for one in self.series(name):
            for bound in bounds:
                own = one.committed_ms[one.values <= bound]
                made.append(Logged(labelled(**dict(one.labels), le=repr(bound)), own))
        return made

    def event_series(self) -> Iterator[Logged]:
        for source, side, kind in _EVENT_LABELS:
            e = self._events
            own = e[(e["source"] == source) & (e["side"] == side) & (e["kind"] == kind)]
            yield Logged(labelled(source=CHANNELS[source], side=SIDES[side], kind=KINDS[kind]), own["committed_ms"])

    def hint_series(self) -> Iterator[Logged]:
        yield Logged((), self._hints["committed_ms"])

    def source_series(self, column: str | None, *, lives: bool = False) -> Iterator[Logged]:
        for source, name in enumerate(CHANNELS):
            own = self._events[self._events["source"] == source]
            values = np.empty(0) if column is None else own[column].astype(np.float64)
            yield Logged(labelled(source=name), own["committed_ms"], values, lives)

    def outcome_series(self, what: str) -> Iterator[Logged]:
        o = self._outcomes
        is_void = np.isnan(o["ret"])
        chosen = {
            "hits": o["hit"] == 1,
            "judged": o["hit"] >= 0,
            "tied": ~is_void & (o["hit"] < 0),
            "void": is_void,
            "return": ~is_void,
        }[what]
        for horizon in np.unique(o["horizon_bars"]).tolist():
            for source, name in enumerate(CHANNELS):
                own = o[chosen & (o["horizon_bars"] == horizon) & (o["source"] == source)]
                yield Logged(labelled(horizon=str(horizon), source=name), own["committed_ms"], own["ret"] * own["side"])

    def commit_series(self) -> Iterator[Logged]:
        """Divergences and hints: each is a way from receipt to commit."""
        yield Logged((), self.counts.events["committed_ms"], lives=True)


_EVENT_LABELS: Final = tuple((s, d, k) for s in range(len(CHANNELS)) for d in SIDES for k in range(CONFLICT))
_SERIES: Final[Mapping[str, Any]] = {
    "divergence_events_total": Reckoning.event_series,
    "divergence_conflict_hints_total": Reckoning.hint_series,
    "divergence_score": lambda r: r.source_series("score"),
    "divergence_pairing_gap_bars": lambda r: r.source_series("gap_bars"),
    "divergence_hits_total": lambda r: r.outcome_series("hits"),
    "divergence_outcomes_total": lambda r: r.outcome_series("judged"),
    "divergence_outcomes_tied_total": lambda r: r.outcome_series("tied"),
    "divergence_outcomes_void_total": lambda r: r.outcome_series("void"),
    "divergence_forward_return": lambda r: r.outcome_series("return"),
    "divergence_pipeline_latency_seconds": Reckoning.commit_series,
    "divergence_detection_latency_seconds": lambda r: r.source_series(None, lives=True),
}


def labelled(**labels: str) -> Labels:
    """Return labels in the form that is compared; bounds as numbers, for 3.0 and 3 are one."""
    return tuple(sorted((k, repr(float(v)) if k == "le" else v) for k, v in labels.items()))


def grouped(series: Iterable[Logged], *by: str) -> dict[Labels, list[Logged]]:
    """Return series by some of their labels."""
    found: dict[Labels, list[Logged]] = {}
    for one in series:
        found.setdefault(tuple(pair for pair in one.labels if pair[0] in by), []).append(one)
    return found


def untied(scrapes: Scrapes, counts: LogCounts, total: F64) -> Scrapes:
    """Tell whether a commit that began in the very millisecond the last one was counted in was counted too.

    Parameters
    ----------
    scrapes : Scrapes
    counts : LogCounts
    total : (n,) float64
        Events, hints and outcomes that each scrape's counters say.
    """
    entered = np.sort(np.concatenate([counts.events["committed_ms"], counts.outcomes["committed_ms"]]))
    until = np.searchsorted(entered, scrapes.counted_ms, side="right")
    before = np.searchsorted(entered, scrapes.counted_ms, side="left")
    return replace(scrapes, counted_ms=scrapes.counted_ms - ((before <= total) & (total < until)))
