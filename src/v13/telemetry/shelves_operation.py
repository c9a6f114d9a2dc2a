"""Shelves of how the runner fares: latency, objectives, queue and feed, configuration."""

from __future__ import annotations

from typing import Final

from v13.telemetry.panels import ALERTED, Column, Panel, Shelf, flag, levels_text, signal_of
from v13.telemetry.queries import Query, counted, quantile, selector
from v13.telemetry.signals import RUNNER_JOB
from v13.telemetry.slo import Alert, SloTable

__all__ = ["configuration_shelf", "feed_shelf", "latency_shelf", "objectives_shelf"]

_RUNNER: Final = f'job="{RUNNER_JOB}"'
_LATENCIES: Final = (
    ("detection", "divergence_detection_latency_seconds"),
    ("event", "divergence_event_latency_seconds"),
    ("pipeline", "divergence_pipeline_latency_seconds"),
    ("commit", "divergence_commit_seconds"),
)
_LATENCY_ROWS: Final = (
    ("compute_latency", "divergence_detection_latency_seconds", "One bar through the detector."),
    ("event_latency", "divergence_event_latency_seconds", "From a message leaving the queue to its effects done."),
    ("pipeline_latency", "divergence_pipeline_latency_seconds", "From a message received to its event committed."),
)


def latency_shelf(table: SloTable) -> Shelf:
    """Return how long things take, with the lines of their SLO."""
    panels = []
    for key, name, about in _LATENCY_ROWS:
        row = table.row(key)
        queries = [signal_of(row, f"P95, {ALERTED}")]
        if key == "compute_latency":  # `none`, a bar without an event, is shown whatever sources are chosen
            queries.append(Query(quantile(0.95, name, "source", 'source=~"$source|none"'), "P95 {{source}}"))
        queries += [Query(quantile(q, name, ""), f"P{100 * q:g}") for q in (0.5, 0.99)]
        text = f"{about} {levels_text(row)}"
        panels.append(Panel(key, row.title, "lines", tuple(queries), row.unit, text, limits=(row,), scale="log"))
    percentiles = tuple(
        Query(
            " or ".join(
                f'label_replace({quantile(q, name, "", over="$__range")}, "stage", "{stage}", "", "")'
                for stage, name in _LATENCIES
            ),
            "",
            instant=True,
        )
        for q in (0.5, 0.95, 0.99)
    )
    lag, commit = "divergence_feed_lag_seconds", _alerts(table, "commit_slow")
    return Shelf(
        "Latency",
        (
            *panels,
            Panel(
                "latency_in_range",
                "Latency in this time range",
                "table",
                percentiles,
                "seconds",
                "Read off buckets: a figure is right to the bucket it lies in.",
                columns=(Column("P50", "seconds"), Column("P95", "seconds"), Column("P99", "seconds")),
            ),
            Panel(
                "commit_latency",
                "Commit of the event log",
                "lines",
                (
                    *(signal_of(alert, f"P95, {ALERTED}") for alert in commit),
                    *(Query(quantile(q, "divergence_commit_seconds", ""), f"P{100 * q:g}") for q in (0.5, 0.99)),
                ),
                "seconds",
                "One transaction, synced to disk. It is part of the pipeline latency.",
                limits=commit,
                scale="log",
            ),
            Panel(
                "feed_lag",
                "Feed lag (two clocks)",
                "lines",
                tuple(Query(quantile(q, lag, ""), f"P{100 * q:g}") for q in (0.05, 0.5, 0.95)),
                "seconds",
                "Our clock at receipt minus the exchange's time. Clocks differ: watch its changes, not its level.",
            ),
        ),
    )


def objectives_shelf(table: SloTable) -> Shelf:
    """Return closure, errors and availability."""
    closure, errors, up = (table.row(key) for key in ("closure", "error_rate", "availability"))
    rate = f"sum by (stage) (rate({selector('divergence_errors_total')}[$window])) * 3600"
    return Shelf(
        "Closure, errors, availability",
        (
            Panel(
                "closure",
                "Metrics against the event log",
                "lines",
                (signal_of(closure, "{{family}}"),),
                closure.unit,
                f"Largest unexplained difference of these figures and the event log. {levels_text(closure)}",
                limits=(closure,),
                width=6,
            ),
            Panel(
                "error_rate",
                "Error rate",
                "lines",
                (signal_of(errors, "{{instance}}"),),
                errors.unit,
                f"Errors / (errors + bars). {levels_text(errors)}",
                limits=(errors,),
                width=6,
            ),
            Panel(
                "errors_by_stage",
                "Errors per hour, by stage",
                "lines",
                (Query(rate, "{{stage}}"),),
                "per hour",
                "Errors survived, by the stage that met them; the log names each.",
                width=6,
            ),
            Panel(
                "availability",
                "Availability",
                "lines",
                (signal_of(up, "{{instance}}"),),
                up.unit,
                f"Share of time up, ready and fed. {levels_text(up)}",
                limits=(up,),
                width=6,
            ),
        ),
    )


def feed_shelf(table: SloTable) -> Shelf:
    """Return what comes in, what waits, what is lost, and what the process takes."""
    dropped = f"sum by (stream, reason) (rate({selector('divergence_dropped_total')}[$window])) * 3600"
    messages = f"sum by (stream) (rate({selector('divergence_messages_total')}[$__rate_interval]))"
    trouble = (
        ("reconnects", "divergence_feed_reconnects_total"),
        ("holes in trade ids", "divergence_feed_id_gaps_total"),
        ("trades missed", "divergence_feed_missed_trades_total"),
        ("trades fetched afterwards", "divergence_feed_backfilled_trades_total"),
        ("clock steps", "divergence_clock_steps_total"),
    )
    flags = (
        ("connected", "divergence_feed_connected"),
        ("ready", "divergence_ready"),
        ("log ok", "divergence_store_ok"),
    )
    silence = selector("divergence_feed_staleness_seconds", 'symbol=~"$symbol"')
    cpu = f"rate({selector('process_cpu_seconds_total', _RUNNER)}[$__rate_interval])"
    return Shelf(
        "Queue and feed",
        (
            Panel(
                "states",
                "State",
                "states",
                tuple(Query(f"min({selector(name)})", title) for title, name in flags),
                "flag",
                "Feed connected; warm and fed; last commit to the event log succeeded.",
                words={0: ("no", 3), 1: ("yes", 0)},
                height=6,
            ),
            Panel(
                "queue",
                "Messages waiting",
                "lines",
                (Query(f"max({selector('divergence_queue_size')})", "queue"),),
                "messages",
                "Beyond runner.queue_limit the oldest quotes are dropped first, then the oldest trades.",
                limits=_alerts(table, "backlog"),
                scale="symlog",
                height=6,
            ),
            Panel(
                "messages",
                "Messages per second",
                "lines",
                (Query(messages, "{{stream}}"),),
                "per second",
                "Taken from the queue, all symbols.",
                height=6,
            ),
            Panel(
                "staleness",
                "Silence of each symbol",
                "lines",
                (Query(f"max by (symbol) ({silence})", "{{symbol}}"),),
                "seconds",
                "Time since a symbol's last message; the one metric with a symbol.",
                scale="log",
                limits=_alerts(table, "feed_stale"),
                height=7,
            ),
            Panel(
                "trouble",
                "Feed troubles per hour",
                "lines",
                tuple(Query(f"sum(rate({selector(name)}[$window])) * 3600", title) for title, name in trouble),
                "per hour",
                "Missed trades that were fetched afterwards are not lost; missed quotes are.",
                height=7,
            ),
            Panel(
                "dropped",
                "Messages dropped per hour, by reason",
                "lines",
                (Query(f"({dropped}) > 0", "{{stream}} {{reason}}"),),
                "per hour",
                "`overload` is the queue's limit; `late` came after its bar was closed. Only reasons that have drops.",
                height=7,
            ),
            Panel(
                "cpu",
                "CPU of the runner",
                "lines",
                (Query(cpu, "{{instance}}"),),
                "ratio",
                "Of one core: the runner's hot path is one thread.",
                limits=_alerts(table, "cpu_high"),
                width=12,
                height=6,
            ),
            _memory(_alerts(table, "memory_high")),
        ),
    )


def configuration_shelf() -> Shelf:
    """Return what runs, since when, and whether it was signed off."""
    info = f"max by (version, swing_L, z_hi, z_mid) ({selector('divergence_active_config_info')})"
    last_commit = selector("divergence_last_commit_timestamp_seconds")
    reloads = counted("divergence_config_reloads_total", "result")
    signoff = selector("divergence_signoff_age_seconds")
    age = f"time() - max({selector('divergence_config_last_reload_success_timestamp_seconds')})"
    return Shelf(
        "Configuration and releases",
        (
            Panel(
                "active_config",
                "Configuration in force",
                "table",
                (Query(info, "", instant=True),),
                "1",
                "Global parameters; version counts changes while running and stands in every event.",
                columns=(Column("in force", "flag"),),
                width=8,
                height=5,
            ),
            flag(
                "last_reload",
                "Last reload",
                "divergence_config_last_reload_successful",
                "Refused: the old configuration stays in force; the log names file, key and line.",
                {0: ("refused", 2), 1: ("taken", 0)},
                width=4,
                height=5,
            ),
            Panel(
                "last_commit",
                "Last commit",
                "stat",
                (Query(f"time() - max({last_commit})", "age", instant=True),),
                "seconds",
                "Time since the event log last took something in: a bar length while the feed is there.",
                width=4,
                height=5,
            ),
            Panel(
                "config_age",
                "In force for",
                "stat",
                (Query(age, "configuration", instant=True), Query(f"max({signoff})", "sign-off", instant=True)),
                "seconds",
                "Time since a configuration was last taken, and since the sign-off was made (0: none).",
                width=4,
                height=5,
            ),
            Panel(
                "reloads",
                "Reloads in this time range",
                "bars",
                (Query(reloads, "{{result}}", instant=True),),
                "events",
                "Reloads and runner starts are also marked on every plot.",
                width=4,
                height=5,
            ),
        ),
    )


def _memory(limits: tuple[Alert, ...]) -> Panel:
    """Return memory as a share of what the alert allows, or in bytes where the table has no such alert."""
    bare = Query(selector("process_resident_memory_bytes", _RUNNER), "{{instance}}")
    shown, unit = (signal_of(limits[0], "{{instance}}"), limits[0].unit) if limits else (bare, "bytes")
    about = "Resident, as a share of what the runner is given; steady once warm."
    return Panel("memory", "Memory of the runner", "lines", (shown,), unit, about, limits=limits, width=12, height=6)


def _alerts(table: SloTable, key: str) -> tuple[Alert, ...]:
    """Return the alert of that key; none where the table was made without."""
    return tuple(alert for alert in table.alerts if alert.key == key)
