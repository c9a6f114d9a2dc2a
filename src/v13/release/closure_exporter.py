"""The weaker closure, where there is no Prometheus: one scrape of the exporter beside the event log.

It shows that the runner counts what it logs. It asks none of the dashboard's queries and misses no scrape.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from v13.errors import ConfigError
from v13.release.closure import COUNTERS, ENTRIES, Closure
from v13.release.closure_row import FAMILIES, Chain, ClosureRow
from v13.release.promql import bucket_of, bucket_quantile
from v13.release.reckoning import Labels, Logged, Reckoning, grouped, labelled, untied
from v13.release.scrapes import COMMIT, TAKEN, Scrapes, Window
from v13.store.event_counts import read_counts
from v13.telemetry.catalogue import find
from v13.telemetry.prometheus import unreachable, web_client

__all__ = ["WEAKER", "close_exporter", "scraped_quantile"]

TIMEOUT_S: Final = 10.0
WEAKER: Final = (
    "this is the weaker check: one scrape of the exporter, without Prometheus and none of the dashboard's queries"
)
HISTOGRAMS: Final = (
    ("scores", "divergence_score"),
    ("events", "divergence_pairing_gap_bars"),
    ("hit_rate", "divergence_forward_return"),
)
Scraped = Mapping[tuple[str, Labels], float]


def close_exporter(
    url: str, log: Path, *, closure_ratio: float, ca_file: Path | None = None, auth: tuple[str, str] | None = None
) -> Closure:
    """Hold one scrape and the event log together, since the log began.

    Parameters
    ----------
    url : str
        Of the exporter, with or without /metrics.
    log : Path
    closure_ratio : float
    ca_file, auth
        See `v13.telemetry.prometheus.Prometheus`.

    Raises
    ------
    ConfigError
        What answers is no runner, lets us not in, or its certificate is not trusted.
    StoreError, V13Error
        The log cannot be read; the exporter cannot be reached.
    """
    place = _place(url)
    now_s = time.time()
    scraped = _scrape(place, ca_file, auth)
    counts = read_counts(log)
    counted_ms, began_ms = (round(1_000 * scraped[name, ()]) for name in (COMMIT, TAKEN))
    times = np.array([now_s]), np.array([counted_ms or began_ms]), np.array([began_ms])
    total = sum(value for (name, _), value in scraped.items() if name in ENTRIES)
    scrapes = untied(Scrapes(("exporter", place), *times), counts, np.array([total]))
    first_s = float(min(counts.events["committed_ms"], default=now_s * 1_000)) / 1_000.0
    window = Window(first_s, now_s, max(1, math.ceil(now_s - first_s)), 1.0, (scrapes,), "")
    reckoning = Reckoning(counts, window)
    rows = [*_counters(scraped, reckoning, closure_ratio), *_histograms(scraped, reckoning, closure_ratio)]
    notes = [WEAKER]
    if scraped["divergence_config_reloads_total", labelled(result="ok")] == 0:  # else nobody knows when it began
        rows.append(_ways(scraped, reckoning, closure_ratio))
    n_events = sum(len(one.committed_ms) for one in reckoning.series("divergence_events_total"))
    order = sorted(rows, key=lambda row: FAMILIES.index(row.family))
    return Closure("exporter", first_s, now_s, 1, 1, n_events, tuple(order), tuple(notes))


def scraped_quantile(url: str, name: str, q: float) -> tuple[float, int]:
    """Return a quantile of all a runner's histogram holds, read off its buckets, and of how many; NaN of none.

    Raises
    ------
    ConfigError, V13Error
        See `close_exporter`.
    """
    scraped = _scrape(_place(url), None, None)
    upper = (*find(name).buckets, math.inf)
    counts = np.zeros(len(upper))
    for (own, labels), value in scraped.items():
        if own == f"{name}_bucket":
            counts[upper.index(float(dict(labels)["le"]))] += value
    return bucket_quantile(q, upper, counts), int(counts[-1])


def _place(url: str) -> str:
    return url.rstrip("/").removesuffix("/metrics") + "/metrics"


def _scrape(place: str, ca_file: Path | None, auth: tuple[str, str] | None) -> Scraped:
    try:
        with web_client("exporter", place, ca_file=ca_file, timeout_s=TIMEOUT_S, auth=auth) as client:
            answer = client.get(place)
    except httpx.HTTPError as error:
        raise unreachable("the exporter", place, error) from error
    if answer.status_code in (401, 403):
        raise ConfigError(f"{place}: the exporter lets us not in (status {answer.status_code}); check user, password")
    try:
        found = {
            (sample.name, labelled(**sample.labels)): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
    except ValueError as error:
        raise ConfigError(f"{place}: expected the metrics of a runner there, found something else: {error}") from error
    if answer.status_code != httpx.codes.OK or (COMMIT, ()) not in found or (TAKEN, ()) not in found:
        raise ConfigError(f"{place}: expected the metrics of a runner there, found none (status {answer.status_code})")
    return found


def _counters(scraped: Scraped, reckoning: Reckoning, ratio: float) -> Iterator[ClosureRow]:
    for family, name in COUNTERS:
        must = {one.labels: one for one in reckoning.series(name)}
        shown = {labels: value for (own, labels), value in scraped.items() if own == name}
        for labels, value in sorted(shown.items()):
            chain = _same(_at(reckoning, must.get(labels)))
            yield _row(family, name, _words(labels), "events", value, chain, ratio)


def _histograms(scraped: Scraped, reckoning: Reckoning, ratio: float) -> Iterator[ClosureRow]:
    for family, name in HISTOGRAMS:
        upper = (*find(name).buckets, math.inf)
        must = {one.labels: one for one in reckoning.buckets(name)}
        exact = grouped(reckoning.series(name), "horizon", "source")
        shown = {labels: value for (own, labels), value in scraped.items() if own == f"{name}_bucket"}
        groups: dict[Labels, dict[str, float]] = {}
        for labels, value in shown.items():
            bound = dict(labels)["le"]
            groups.setdefault(tuple(p for p in labels if p[0] != "le"), {})[bound] = value
        for labels, cumulative in sorted(groups.items()):
            counts = np.array([cumulative[repr(bound)] for bound in upper])
            logged = np.array([_at(reckoning, must.get(labelled(**dict(labels), le=repr(b)))) for b in upper])
            worst = float(np.abs(counts - logged).max())
            chain = _same(float(logged[-1]))
            yield _row(family, name, f"{_words(labels)}: all buckets", "events", chain.told + worst, chain, ratio)
            values = np.concatenate([np.empty(0), *(s.values[: int(_at(reckoning, s))] for s in exact.get(labels, ()))])
            plain = float(np.quantile(values, 0.5, method="inverted_cdf")) if values.size else math.nan
            told = bucket_quantile(0.5, upper, logged)
            low, high = bucket_of(told, upper) if not math.isnan(told) else (0.0, 1.0)
            width = high - low if math.isfinite(high - low) else abs(told)
            median = Chain(plain, plain, told, told, told, slack=width, scale=width)
            shown_median = bucket_quantile(0.5, upper, counts)
            yield _row(family, name, f"{_words(labels)}: median", find(name).unit, shown_median, median, ratio)


def _ways(scraped: Scraped, reckoning: Reckoning, ratio: float) -> ClosureRow:
    name = "divergence_pipeline_latency_seconds"
    (ways,) = reckoning.series(name)
    must = float(ways.at(reckoning.window.scrapes[0])[0])
    return _row("latency", name, "times measured", "events", scraped[f"{name}_count", ()], _same(must), ratio)


def _at(reckoning: Reckoning, series: Logged | None) -> float:
    return 0.0 if series is None else float(series.at(reckoning.window.scrapes[0])[0])


def _same(value: float) -> Chain:
    return Chain(value, value, value, value, value)


def _row(family: str, name: str, label: str, unit: str, shown: float, chain: Chain, ratio: float) -> ClosureRow:
    return ClosureRow(family, name, label, unit, shown, chain, has_birth=False, closure_ratio=ratio)


def _words(labels: Labels) -> str:
    return " ".join(f"{value} bars" if name == "horizon" else value for name, value in labels)
