"""The catalogue says what SPEC and the contract of the runner ask for, and its entries hold together."""

from __future__ import annotations

import itertools

import pytest
from prometheus_client import ProcessCollector

from v13.errors import V13Error
from v13.telemetry.catalogue import CATALOGUE, PROCESS, Label, Metric, find, n_series

SOURCES = ("OFI_ONLY", "CVD_ONLY", "FUSION")

# By hand from SPEC section 6 and issue 4.
EXPECTED = {
    "divergence_events_total": ("counter", "source side kind"),
    "divergence_conflict_hints_total": ("counter", ""),
    "divergence_suppressed_total": ("counter", "reason"),
    "divergence_errors_total": ("counter", "stage"),
    "divergence_bars_total": ("counter", ""),
    "divergence_messages_total": ("counter", "stream"),
    "divergence_dropped_total": ("counter", "stream reason"),
    "divergence_hits_total": ("counter", "horizon source"),
    "divergence_outcomes_total": ("counter", "horizon source"),
    "divergence_outcomes_tied_total": ("counter", "horizon source"),
    "divergence_outcomes_void_total": ("counter", "horizon source"),
    "divergence_feed_reconnects_total": ("counter", ""),
    "divergence_feed_id_gaps_total": ("counter", ""),
    "divergence_feed_missed_trades_total": ("counter", ""),
    "divergence_feed_backfilled_trades_total": ("counter", ""),
    "divergence_clock_steps_total": ("counter", ""),
    "divergence_config_reloads_total": ("counter", "result"),
    "divergence_queue_size": ("gauge", ""),
    "divergence_active_symbols": ("gauge", ""),
    "divergence_ready": ("gauge", ""),
    "divergence_feed_connected": ("gauge", ""),
    "divergence_feed_staleness_seconds": ("gauge", "symbol"),
    "divergence_config_last_reload_successful": ("gauge", ""),
    "divergence_config_last_reload_success_timestamp_seconds": ("gauge", ""),
    "divergence_signed_off": ("gauge", ""),
    "divergence_signoff_age_seconds": ("gauge", ""),
    "divergence_store_ok": ("gauge", ""),
    "divergence_last_commit_timestamp_seconds": ("gauge", ""),
    "divergence_active_config_info": ("info", "swing_L z_hi z_mid version"),
    "divergence_detection_latency_seconds": ("histogram", "source"),
    "divergence_event_latency_seconds": ("histogram", ""),
    "divergence_pipeline_latency_seconds": ("histogram", ""),
    "divergence_commit_seconds": ("histogram", ""),
    "divergence_feed_lag_seconds": ("histogram", ""),
    "divergence_score": ("histogram", "source"),
    "divergence_pairing_gap_bars": ("histogram", "source"),
    "divergence_forward_return": ("histogram", "horizon source"),
}


def test_the_catalogue_has_the_agreed_names_kinds_and_labels_and_no_others():
    found = {m.name: (m.kind, " ".join(label.name for label in m.labels)) for m in CATALOGUE}
    assert found == EXPECTED
    assert len(CATALOGUE) == len(EXPECTED)


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("divergence_events_total", "source", SOURCES),
        ("divergence_events_total", "side", ("bull", "bear")),
        ("divergence_events_total", "kind", ("regular", "hidden")),
        ("divergence_detection_latency_seconds", "source", (*SOURCES, "none")),
        ("divergence_errors_total", "stage", ("decode", "intake", "detect", "store", "feed", "backfill", "reload")),
        ("divergence_dropped_total", "stream", ("trade", "quote")),
        (
            "divergence_dropped_total",
            "reason",
            ("overload", "late", "duplicate", "malformed", "bad_value", "unknown_symbol"),
        ),
        (
            "divergence_suppressed_total",
            "reason",
            ("warmup", "lag", "threshold", "min_separation", "low_vol", "low_score", "cooldown", "cluster"),
        ),
        ("divergence_config_reloads_total", "result", ("ok", "refused")),
    ],
)
def test_a_label_may_say_what_was_agreed(name, label, values):
    assert next(entry.values for entry in find(name).labels if entry.name == label) == values


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("divergence_detection_latency_seconds", (5e-5, 5e-3, 1e-2, 2e-2)),
        ("divergence_event_latency_seconds", (1e-4, 2e-3, 2.5e-3, 5e-3, 2e-2)),
        ("divergence_pipeline_latency_seconds", (5e-3, 5e-2, 0.1, 0.2)),
        ("divergence_score", (30.0, 40.0, 50.0, 70.0)),
    ],
)
def test_every_limit_of_the_guide_is_a_bucket_bound(name, bounds):
    assert set(bounds) <= set(find(name).buckets)


@pytest.mark.parametrize("name", ["divergence_detection_latency_seconds", "divergence_event_latency_seconds"])
def test_a_p95_of_30_microseconds_stands_between_its_neighbours(name):
    assert {2e-5, 3e-5, 4e-5} <= set(find(name).buckets)


def test_score_buckets_between_weak_and_strong_are_at_most_2_5_wide():
    inner = [bound for bound in find("divergence_score").buckets if 40.0 <= bound <= 70.0]
    assert max(b - a for a, b in itertools.pairwise(inner)) <= 2.5


@pytest.mark.parametrize("name", ["divergence_forward_return", "divergence_feed_lag_seconds"])
def test_a_signed_quantity_has_buckets_that_mirror_at_zero(name):
    buckets = find(name).buckets
    assert 0.0 in buckets
    assert tuple(-bound for bound in reversed(buckets)) == buckets
    assert not find(name).has_sum


def test_only_staleness_has_a_symbol():
    assert [m.name for m in CATALOGUE if any(label.name == "symbol" for label in m.labels)] == [
        "divergence_feed_staleness_seconds"
    ]


def test_fifty_symbols_stay_under_two_thousand_series():
    assert sum(n_series(metric, 2, 50) for metric in CATALOGUE) + len(PROCESS) < 2_000


def test_the_process_metrics_are_those_of_the_library():
    names = [s.name for family in ProcessCollector(registry=None).collect() for s in family.samples]
    assert sorted(names) == sorted(PROCESS)


def test_an_unknown_metric_is_named():
    with pytest.raises(V13Error, match="divergence_event_total: no metric of the catalogue"):
        find("divergence_event_total")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "a_events", "kind": "counter"}, "cannot have this name"),
        ({"name": "a_config", "kind": "info"}, "cannot have this name"),
        ({"name": "a", "kind": "summary"}, "cannot have this name"),
        ({"name": "a", "kind": "histogram"}, "belong to histograms"),
        ({"name": "a", "kind": "histogram", "buckets": (1.0,)}, "belong to histograms"),
        ({"name": "a", "kind": "gauge", "buckets": (1.0,), "why": "x"}, "belong to histograms"),
        ({"name": "a", "kind": "histogram", "buckets": (2.0, 1.0), "why": "x"}, "ascend"),
        ({"name": "a", "kind": "histogram", "buckets": (1.0, 1.0), "why": "x"}, "ascend"),
        ({"name": "a", "kind": "histogram", "buckets": (1.0, float("inf")), "why": "x"}, "finite"),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(fields, why):
    with pytest.raises(V13Error, match=why):
        Metric(help="x", **fields)


def test_every_label_has_values_or_says_what_decides_them():
    labels = {label for metric in CATALOGUE for label in metric.labels}
    assert all(bool(label.values) != bool(label.decided_by) for label in labels)
    assert Label("x") != Label("x", ("a",))
