"""Every metric the runner exports: the one table behind the exporter, docs/metrics.md, alert rules and dashboards.

It holds no values and reads no clock. A name, a label value or a bucket bound that is not here does not exist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from v13.detector.dtypes import CHANNELS, CONFLICT, KINDS, REASONS
from v13.errors import V13Error

__all__ = ["CATALOGUE", "KINDS_OF_METRIC", "PROCESS", "Label", "Metric", "find", "n_series"]

KINDS_OF_METRIC: Final = ("counter", "gauge", "histogram", "info")


@dataclass(frozen=True)
class Label:
    """A label and what it may say.

    Attributes
    ----------
    name : str
    values : tuple of str
        Every allowed value; empty where the set is known only at run time.
    decided_by : str
        What decides the values of such an open label; empty otherwise.
    """

    name: str
    values: tuple[str, ...] = ()
    decided_by: str = ""


@dataclass(frozen=True)
class Metric:
    """One metric family.

    Attributes
    ----------
    name : str
        As it is scraped; counters end in `_total`, info metrics in `_info`.
    kind : str
        One of KINDS_OF_METRIC. An info metric is 1 with its facts in labels.
    help : str
        One line, for the exposition and the docs.
    unit : str
        Of the value; `1` for flags and plain numbers.
    labels : tuple of Label
    buckets : tuple of float
        Upper bounds, inclusive, ascending, without +Inf; only for histograms.
    why : str
        Why the buckets are what they are.

    Raises
    ------
    V13Error
        The entry contradicts itself.
    """

    name: str
    kind: str
    help: str
    unit: str = "1"
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        ending = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        if self.kind not in KINDS_OF_METRIC or not self.name.endswith(ending):
            raise V13Error(f"{self.name}: a metric of kind {self.kind!r} cannot have this name")
        if (self.kind == "histogram") != bool(self.buckets and self.why):
            raise V13Error(f"{self.name}: buckets, and why they are so, belong to histograms and to all of them")
        if list(self.buckets) != sorted(set(self.buckets)) or not all(math.isfinite(bound) for bound in self.buckets):
            raise V13Error(f"{self.name}: bucket bounds must be finite and ascend, found {self.buckets}")

    @property
    def family(self) -> str:
        """Return the name without the ending of its kind, as OpenMetrics calls a family."""
        return self.name.removesuffix({"counter": "_total", "info": "_info"}.get(self.kind, ""))

    @property
    def exposed_unit(self) -> str:
        """Return the unit OpenMetrics may state: it must end the family's name. Else the empty string."""
        return self.unit if self.family.endswith(f"_{self.unit}") else ""

    @property
    def has_sum(self) -> bool:
        """Tell whether a histogram exports `_sum` and `_count`.

        OpenMetrics forbids both where a bound is negative: such a sum can fall, and a falling counter reads as a
        restart. The count is then the bucket le="+Inf".
        """
        return self.kind == "histogram" and self.buckets[0] >= 0.0


SOURCE: Final = Label("source", CHANNELS)
SOURCE_OR_NONE: Final = Label("source", (*CHANNELS, "none"))
SIDE: Final = Label("side", ("bull", "bear"))
KIND: Final = Label("kind", tuple(kind for kind in KINDS if kind != KINDS[CONFLICT]))
REASON: Final = Label("reason", REASONS)
STREAM: Final = Label("stream", ("trade", "quote"))
STAGE: Final = Label("stage", ("decode", "intake", "detect", "store", "feed", "backfill", "reload"))
DROP: Final = Label("reason", ("overload", "late", "duplicate", "malformed", "bad_value", "unknown_symbol"))
RESULT: Final = Label("result", ("ok", "refused"))
HORIZON: Final = Label("horizon", decided_by="the configured horizons, in bars")
SYMBOL: Final = Label("symbol", decided_by="the configured symbols")
ACTIVE: Final = tuple(
    Label(name, decided_by="the configuration in force") for name in ("swing_L", "z_hi", "z_mid", "version")
)

_COMPUTE_S: Final = (
    *(2e-6, 3e-6, 4e-6, 5e-6, 7.5e-6, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 7.5e-5, 1e-4),
    *(2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 1.0),
)
_EVENT_S: Final = (
    *(2e-6, 5e-6, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 7.5e-5, 1e-4, 1.5e-4),
    *(2.5e-4, 5e-4, 1e-3, 2e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 0.1, 1.0),
)
_PIPELINE_S: Final = (
    *(1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 5e-3),
    *(1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0),
)
_COMMIT_S: Final = (1e-4, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1.5e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
_LAG_SIZES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 5.0, 10.0, 60.0)
_LAG_S: Final = (*(-size for size in reversed(_LAG_SIZES_S)), 0.0, *_LAG_SIZES_S)
_SCORE: Final = (
    *(10.0, 20.0, 30.0, 35.0, 40.0, 42.5, 45.0, 47.5, 50.0, 52.5, 55.0, 57.5, 60.0, 62.5, 65.0, 67.5, 70.0),
    *(75.0, 80.0, 85.0, 90.0, 95.0, 100.0),
)
_GAP_BARS: Final = (
    *(5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0),
    *(100.0, 150.0, 200.0, 300.0, 500.0, 1000.0),
)
_RETURN_SIZES: Final = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
_RETURN: Final = (*(-size for size in reversed(_RETURN_SIZES)), 0.0, *_RETURN_SIZES)

CATALOGUE: Final[tuple[Metric, ...]] = (
    # What was found.
    Metric(
        "divergence_events_total", "counter", "Divergences committed to the event log.", "events", (SOURCE, SIDE, KIND)
    ),
    Metric("divergence_conflict_hints_total", "counter", "OFI-CVD conflict hints committed; no direction.", "hints"),
    Metric("divergence_suppressed_total", "counter", "Candidates that a gate kept back.", "candidates", (REASON,)),
    Metric(
        "divergence_score",
        "histogram",
        "Score of committed divergences, 0 to 100.",
        "1",
        (SOURCE,),
        _SCORE,
        "2.5 apart from 40 (nothing lower is emitted by default) to 70 (strong), where medians lie, so one read off is"
        " at most 2.5 wrong. 30, 40 and 50 are the guide's rollback, alert and target of the median; 40, 50 and"
        " 70 bound weak, normal and strong.",
    ),
    Metric(
        "divergence_pairing_gap_bars",
        "histogram",
        "Bars between the two pivots of a committed divergence.",
        "bars",
        (SOURCE,),
        _GAP_BARS,
        "From the default min_separation (5). Of 442 divergences on recorded 1 min klines the middle half has 29 to 87"
        " bars, 5 % more than 250, the longest 1,073.",
    ),
    # What became of it.
    Metric(
        "divergence_hits_total", "counter", "Outcomes that moved to the event's side.", "outcomes", (HORIZON, SOURCE)
    ),
    Metric(
        "divergence_outcomes_total",
        "counter",
        "Judged outcomes, hit or miss: the total that hits are a share of.",
        "outcomes",
        (HORIZON, SOURCE),
    ),
    Metric(
        "divergence_outcomes_tied_total",
        "counter",
        "Outcomes of exactly zero return: neither hit nor miss.",
        "outcomes",
        (HORIZON, SOURCE),
    ),
    Metric(
        "divergence_outcomes_void_total",
        "counter",
        "Outcomes that cannot be known, as a gap came before the horizon.",
        "outcomes",
        (HORIZON, SOURCE),
    ),
    Metric(
        "divergence_forward_return",
        "histogram",
        "Forward log return in the event's direction (times +1 bull, -1 bear); ties are 0, void outcomes left out.",
        "log return",
        (HORIZON, SOURCE),
        _RETURN,
        "Symmetric around 0, 0.2 to 200 basis points, three a decade: over 20 bars of 1 s half of the recordings'"
        " returns are beyond 2.8 basis points and 1 % beyond 14; after events on 1 min klines 1 % are beyond 160.",
    ),
    # How fast.
    Metric(
        "divergence_detection_latency_seconds",
        "histogram",
        "One bar through the detector, counted once under the source of the event it gave, else none.",
        "seconds",
        (SOURCE_OR_NONE,),
        _COMPUTE_S,
        "On recorded 1 s bars half take 3.6 microseconds, 95 % under 4.1; 0.05 ms is our own aim for P95; 5, 10 and 20"
        " ms are the guide's alert, target and rollback.",
    ),
    Metric(
        "divergence_event_latency_seconds",
        "histogram",
        "From a market message leaving the queue to its effects done.",
        "seconds",
        (),
        _EVENT_S,
        "A P95 of 0.03 ms is told from 0.02 and 0.04; 0.1 ms is our own aim for P95; 2, 2.5 and 5 ms are the guide's"
        " alert, target and rollback.",
    ),
    Metric(
        "divergence_pipeline_latency_seconds",
        "histogram",
        "From a message received to its event committed.",
        "seconds",
        (),
        _PIPELINE_S,
        "A commit takes about 0.5 ms; 5 ms is our own aim for P95; 50, 100 and 200 ms are the guide's alert, target and"
        " rollback; up to 10 s for a backlog.",
    ),
    Metric(
        "divergence_commit_seconds",
        "histogram",
        "One transaction of the event log.",
        "seconds",
        (),
        _COMMIT_S,
        "A commit of 50 bars takes about 0.5 ms with a synced write; a struggling disk takes seconds.",
    ),
    Metric(
        "divergence_feed_lag_seconds",
        "histogram",
        "Our clock at receipt minus the exchange's time of the message; negative where our clock is behind.",
        "seconds",
        (),
        _LAG_S,
        "Symmetric around 0, as clocks differ: the recordings were made with a clock 1.27 and 1.52 s behind. A minute"
        " and more is a broken clock.",
    ),
    # What went in, what was lost.
    Metric("divergence_messages_total", "counter", "Market messages taken from the queue.", "messages", (STREAM,)),
    Metric("divergence_bars_total", "counter", "Bars run through the detector and committed.", "bars"),
    Metric("divergence_dropped_total", "counter", "Market messages dropped.", "messages", (STREAM, DROP)),
    Metric("divergence_errors_total", "counter", "Errors survived, by the stage that met them.", "errors", (STAGE,)),
    Metric("divergence_queue_size", "gauge", "Messages waiting in the queue.", "messages"),
    # The feed.
    Metric("divergence_feed_connected", "gauge", "1 while the feed is connected.", "1"),
    Metric(
        "divergence_feed_staleness_seconds",
        "gauge",
        "Time since the symbol's last market message; since it was subscribed where there was none.",
        "seconds",
        (SYMBOL,),
    ),
    Metric("divergence_feed_reconnects_total", "counter", "Connections made after the first.", "reconnects"),
    Metric("divergence_feed_id_gaps_total", "counter", "Holes seen in trade ids.", "gaps"),
    Metric("divergence_feed_missed_trades_total", "counter", "Trades in those holes.", "trades"),
    Metric("divergence_feed_backfilled_trades_total", "counter", "Missed trades fetched afterwards.", "trades"),
    Metric("divergence_clock_steps_total", "counter", "Steps of the host's clock, either way.", "steps"),
    # The runner's state.
    Metric("divergence_ready", "gauge", "1 while warm and fed: what /-/ready says.", "1"),
    Metric(
        "divergence_active_symbols",
        "gauge",
        "Symbols that are warm and fed; event rates are per active symbol.",
        "symbols",
    ),
    Metric("divergence_signed_off", "gauge", "1 if parameters and calibration match a sign-off by hash.", "1"),
    Metric(
        "divergence_signoff_age_seconds",
        "gauge",
        "Time since the sign-off in force was made; 0 where nothing is signed off.",
        "seconds",
    ),
    Metric("divergence_store_ok", "gauge", "1 if the last commit to the event log succeeded.", "1"),
    Metric("divergence_last_commit_timestamp_seconds", "gauge", "Unix time of the last commit.", "seconds"),
    Metric("divergence_active_config_info", "info", "The configuration in force; global parameters.", "1", ACTIVE),
    Metric("divergence_config_reloads_total", "counter", "Reloads of the configuration.", "reloads", (RESULT,)),
    Metric(
        "divergence_config_last_reload_successful",
        "gauge",
        "1 if the last load of the configuration was taken, the one at the start included.",
        "1",
    ),
    Metric(
        "divergence_config_last_reload_success_timestamp_seconds",
        "gauge",
        "Unix time of the last load that was taken.",
        "seconds",
    ),
)

# What prometheus_client's process collector adds on Linux.
PROCESS: Final = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)

_BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}


def find(name: str) -> Metric:
    """Return the metric of that name.

    Raises
    ------
    V13Error
        There is none.
    """
    if name not in _BY_NAME:
        raise V13Error(f"{name}: no metric of the catalogue (src/v13/telemetry/catalogue.py)")
    return _BY_NAME[name]


def n_series(metric: Metric, n_horizons: int, n_symbols: int) -> int:
    """Return how many time series a metric makes in Prometheus; an info metric counts as the one in force."""
    n_open = {HORIZON.name: n_horizons, SYMBOL.name: n_symbols}
    n = math.prod(len(label.values) or n_open.get(label.name, 1) for label in metric.labels)
    if metric.kind == "histogram":
        n *= len(metric.buckets) + 1 + (2 if metric.has_sum else 0)
    return n
