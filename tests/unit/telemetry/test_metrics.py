"""Values: counted right, shown right, born at 0; prometheus_client's histogram, formats and parsers are the oracles."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, generate_latest
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from v13.errors import V13Error
from v13.telemetry import CATALOGUE, Metrics
from v13.telemetry.catalogue import find, n_series

SOURCES = ("OFI_ONLY", "CVD_ONLY", "FUSION")
NASTY = 'a"b\\c\nd'


def samples(metrics, openmetrics=False):
    """Return {(name, labels): value} of a scrape, without the process's."""
    parse = parse_openmetrics if openmetrics else parse_text
    families = parse(metrics.expose(openmetrics=openmetrics).decode())
    found = [(s.name, frozenset(s.labels.items()), s.value) for f in families for s in f.samples]
    assert len({(name, labels) for name, labels, _ in found}) == len(found), "a series stands twice"
    return {(name, labels): value for name, labels, value in found if not name.startswith("process_")}


def one(metrics, name, **labels):
    return samples(metrics)[name, frozenset((k, str(v)) for k, v in labels.items())]


def filled():
    """Return metrics in which every family holds something."""
    metrics = Metrics((10, 20), ["BTCUSDT", NASTY])
    rng = np.random.default_rng(13)
    for metric in CATALOGUE:
        if metric.kind == "info":
            metrics.set_info(metric.name, swing_L=13, z_hi=2.0, z_mid=0.8, version=4)
            continue
        for handle in metrics._series[metric.name].values():
            if metric.kind == "counter":
                handle.inc(int(rng.integers(0, 10**9)))
            elif metric.kind == "gauge":
                handle.set(rng.normal() * 10.0 ** rng.integers(-9, 9))
            else:
                values = rng.normal(np.mean(metric.buckets), np.ptp(metric.buckets), 50)
                handle.observe_many(abs(values) if metric.has_sum else values)
    metrics.set("divergence_ready", float("nan"))
    metrics.set("divergence_queue_size", float("inf"))
    metrics.set("divergence_store_ok", float("-inf"))
    return metrics


def families_of(parse, text):
    kept = [f for f in parse(text) if not f.name.startswith("process_")]
    return [
        (f.name, f.type, f.documentation, f.unit, [(s.name, s.labels, repr(float(s.value))) for s in f.samples])
        for f in kept
    ]


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_label_set_is_born_at_zero(openmetrics):
    metrics = Metrics((10, 20, 40), ["BTCUSDT", "ETHUSDT"])
    found = samples(metrics, openmetrics)
    assert set(found.values()) == {0.0}
    expected = sum(n_series(metric, 3, 2) for metric in CATALOGUE if metric.kind != "info")
    assert len(found) == expected
    assert ("divergence_hits_total", frozenset({("horizon", "40"), ("source", "CVD_ONLY")})) in found


def test_a_scrape_says_what_the_library_says_of_the_same_registry_in_the_text_format():
    metrics = filled()
    ours, theirs = metrics.expose().decode(), generate_latest(metrics.registry).decode()
    assert families_of(parse_text, ours) == families_of(parse_text, theirs)
    assert "# UNIT" not in ours  # only OpenMetrics has it


def test_a_scrape_says_what_the_library_says_of_the_same_registry_in_openmetrics():
    metrics = filled()
    ours, theirs = metrics.expose(openmetrics=True).decode(), generate_openmetrics(metrics.registry).decode()
    assert families_of(parse_openmetrics, ours) == families_of(parse_openmetrics, theirs)
    assert ours.endswith("# EOF\n")
    assert ours.count("# EOF") == 1


def test_the_process_is_in_every_scrape_and_in_the_registry():
    metrics = Metrics((10,))
    for text in (metrics.expose(), metrics.expose(openmetrics=True), generate_latest(metrics.registry)):
        assert b"\nprocess_cpu_seconds_total " in text


def test_promtool_finds_nothing_to_say():
    promtool = os.environ.get("PROMTOOL_BIN") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([promtool, "check", "metrics"], input=filled().expose(), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nothing_is_global():
    one_of, another = Metrics((10,)), Metrics((10,))
    one_of.inc("divergence_bars_total", 5)
    assert one(another, "divergence_bars_total") == 0.0
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("divergence")]


def test_a_handle_and_the_name_count_into_the_same_series():
    metrics = Metrics((10, 20))
    handle = metrics.bind("divergence_hits_total", horizon=10, source="FUSION")
    handle.inc()
    handle.inc(np.int64(4))
    metrics.inc("divergence_hits_total", 2, source="FUSION", horizon="10")
    assert metrics.bind("divergence_hits_total", source="FUSION", horizon=10) is handle
    assert one(metrics, "divergence_hits_total", horizon=10, source="FUSION") == 7.0
    assert sum(v for (name, _), v in samples(metrics).items() if name == "divergence_hits_total") == 7.0


def test_a_counter_stays_exact_beyond_a_million_million():
    metrics = Metrics((10,))
    metrics.inc("divergence_bars_total", 2**53)
    metrics.inc("divergence_bars_total")
    assert f"\ndivergence_bars_total {2**53 + 1}\n" in metrics.expose().decode()


@pytest.mark.parametrize(("n", "error"), [(-1, V13Error), (1.5, TypeError), (float("nan"), TypeError)])
def test_a_counter_takes_whole_numbers_from_zero_on(n, error):
    metrics = Metrics((10,))
    with pytest.raises(error):
        metrics.inc("divergence_bars_total", n)
    assert one(metrics, "divergence_bars_total") == 0.0


SCORE_LIKE = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from(find("divergence_score").buckets), st.sampled_from([0.0, -0.0, 5e-324])
)


@given(st.lists(SCORE_LIKE, max_size=60), st.integers(0, 60))
def test_a_histogram_counts_like_the_librarys_one_by_one_or_many_at_once(values, cut):
    library = LibraryHistogram("x", "x", buckets=find("divergence_score").buckets, registry=None)
    metrics = Metrics((10,))
    handle = metrics.bind("divergence_score", source="FUSION")
    for value in values[:cut]:
        handle.observe(value)
    handle.observe_many(np.array(values[cut:]))
    for value in values:
        library.observe(value)
    theirs = {(s.name[1:], s.labels.get("le")): s.value for f in library.collect() for s in f.samples}
    ours = {
        (name.removeprefix("divergence_score"), dict(labels).get("le")): value
        for (name, labels), value in samples(metrics).items()
        if name.startswith("divergence_score") and ("source", "FUSION") in labels
    }
    total = ours.pop(("_sum", None))
    assert ours == {key: value for key, value in theirs.items() if key[0] in ("_bucket", "_count")}
    # Added in another order: each of at most 60 additions rounds by 2^-53 of at most the sum of sizes.
    assert total == pytest.approx(theirs["_sum", None], rel=0, abs=60 * 2**-52 * (1.0 + sum(map(abs, values))))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), np.float32("nan")])
def test_an_observation_that_is_not_finite_is_refused_and_leaves_nothing(bad):
    metrics = Metrics((10,))
    before = samples(metrics)
    with pytest.raises(V13Error, match="divergence_score: expected a finite observation"):
        metrics.observe("divergence_score", bad, source="FUSION")
    with pytest.raises(V13Error, match=r"found .* at 1"):
        metrics.bind("divergence_score", source="FUSION").observe_many([50.0, bad, 60.0])
    assert samples(metrics) == before


def test_numpy_scalars_do_not_make_the_sum_coarse():
    metrics = Metrics((10,))
    handle = metrics.bind("divergence_event_latency_seconds")
    handle.observe(np.float32(2.0**20))
    handle.observe(2.0**-20)
    assert one(metrics, "divergence_event_latency_seconds_sum") == 2.0**20 + 2.0**-20


def test_a_reading_stays_as_it_was():
    handle = Metrics((10,)).bind("divergence_score", source="FUSION")
    reading = handle.read()
    handle.observe(50.0)
    assert reading == ([0] * (len(find("divergence_score").buckets) + 1), 0.0)


def test_many_observations_of_nothing_are_nothing():
    metrics = Metrics((10,))
    metrics.bind("divergence_score", source="FUSION").observe_many(np.empty(0))
    assert one(metrics, "divergence_score_count", source="FUSION") == 0.0


def test_a_gauge_asks_its_function_at_each_scrape_until_it_is_set():
    metrics = Metrics((10,))
    queue = [1, 2, 3]
    handle = metrics.bind("divergence_queue_size")
    handle.set_function(lambda: len(queue))
    assert one(metrics, "divergence_queue_size") == 3.0
    queue.pop()
    assert one(metrics, "divergence_queue_size") == 2.0
    handle.set(7)
    assert one(metrics, "divergence_queue_size") == 7.0


@pytest.mark.parametrize(
    ("name", "labels", "verb", "args"),
    [
        ("divergence_bars_total", {}, "set", (1.0,)),
        ("divergence_bars_total", {}, "observe", (1.0,)),
        ("divergence_bars_total", {}, "set_function", (float,)),
        ("divergence_ready", {}, "inc", (1,)),
        ("divergence_ready", {}, "observe_many", ([1.0],)),
        ("divergence_commit_seconds", {}, "inc", (1,)),
        ("divergence_commit_seconds", {}, "set", (1.0,)),
    ],
)
def test_what_a_kind_cannot_do_is_refused(name, labels, verb, args):
    with pytest.raises(V13Error, match=f"{name} is a .* is not for it"):
        getattr(Metrics((10,)).bind(name, **labels), verb)(*args)


@pytest.mark.parametrize(
    ("name", "labels", "why"),
    [
        ("divergence_nothing_total", {}, "no metric of the catalogue"),
        ("divergence_hits_total", {"horizon": 10}, r"expected the labels \['horizon', 'source'\]"),
        ("divergence_bars_total", {"symbol": "BTCUSDT"}, r"expected the labels \[\], found \['symbol'\]"),
        ("divergence_hits_total", {"horizon": 15, "source": "FUSION"}, "horizon: 10, 20; source: OFI_ONLY"),
        ("divergence_errors_total", {"stage": "Decode"}, "stage: decode, intake"),
        ("divergence_feed_staleness_seconds", {"symbol": "BTCUSDT"}, "no series"),
        ("divergence_active_config_info", {}, "see set_info"),
    ],
)
def test_what_the_catalogue_does_not_know_is_refused(name, labels, why):
    with pytest.raises(V13Error, match=why):
        Metrics((10, 20)).bind(name, **labels)


@pytest.mark.parametrize("horizons", [(), (10, 10), (0,), (-5, 10)])
def test_horizons_that_make_no_sense_are_refused(horizons):
    with pytest.raises(V13Error, match="horizons"):
        Metrics(horizons)


@pytest.mark.parametrize("symbols", ["BTCUSDT", [""]])
def test_symbols_that_are_no_list_of_names_are_refused(symbols):
    with pytest.raises(V13Error, match="symbols"):
        Metrics((10,), symbols)


def test_an_info_metric_shows_the_last_facts_only():
    metrics = Metrics((10,))
    name = "divergence_active_config_info"
    assert not [key for key in samples(metrics) if key[0] == name]
    metrics.set_info(name, swing_L=13, z_hi=2.0, z_mid=0.8, version=1)
    metrics.set_info(name, swing_L=8, z_hi=1.6, z_mid=0.8, version=2)
    shown = {key: value for key, value in samples(metrics).items() if key[0] == name}
    facts = {("swing_L", "8"), ("z_hi", "1.6"), ("z_mid", "0.8"), ("version", "2")}
    assert shown == {(name, frozenset(facts)): 1.0}
    with pytest.raises(V13Error, match="expected the labels"):
        metrics.set_info(name, swing_L=8)
    with pytest.raises(V13Error, match="not an info metric"):
        metrics.set_info("divergence_ready")


def test_symbols_come_and_go_and_those_that_stay_keep_their_handles():
    metrics = Metrics((10,), ["BTCUSDT", "ETHUSDT"])
    name = "divergence_feed_staleness_seconds"
    stays, leaves = metrics.bind(name, symbol="ETHUSDT"), metrics.bind(name, symbol="BTCUSDT")
    stays.set(1.5)
    metrics.set_symbols(["ETHUSDT", "SOLUSDT", "SOLUSDT"])
    leaves.set(9.0)
    shown = {dict(labels)["symbol"]: value for (n, labels), value in samples(metrics).items() if n == name}
    assert shown == {"ETHUSDT": 1.5, "SOLUSDT": 0.0}
    assert metrics.bind(name, symbol="ETHUSDT") is stays
    with pytest.raises(V13Error, match="symbol: ETHUSDT, SOLUSDT"):
        metrics.bind(name, symbol="BTCUSDT")


def test_what_is_counted_together_is_seen_together():
    metrics = Metrics((10,))
    seen = []
    scrape = threading.Thread(target=lambda: seen.append(samples(metrics)))
    with metrics.together():
        metrics.inc("divergence_bars_total")
        scrape.start()
        scrape.join(0.2)  # time enough to see the half, were that possible
        assert scrape.is_alive()
        metrics.inc("divergence_conflict_hints_total")
    scrape.join(30)
    assert [seen[0][name, frozenset()] for name in ("divergence_bars_total", "divergence_conflict_hints_total")] == [
        1,
        1,
    ]


def test_resumed_counts_are_those_counted_live():
    rng = np.random.default_rng(4)
    scores, sources = rng.uniform(30.0, 100.0, 500), rng.integers(0, 3, 500)
    live, resumed = Metrics((10,)), Metrics((10,))
    for score, source in zip(scores.tolist(), sources.tolist(), strict=True):
        live.inc("divergence_events_total", source=SOURCES[source], side="bull", kind="hidden")
        live.observe("divergence_score", score, source=SOURCES[source])
    for source, name in enumerate(SOURCES):
        n = int((sources == source).sum())
        resumed.inc("divergence_events_total", n, source=name, side="bull", kind="hidden")
        resumed.bind("divergence_score", source=name).observe_many(scores[sources == source])
    ours, theirs = samples(resumed), samples(live)
    for key, value in ours.items():
        if key[0].endswith("_sum"):
            assert value == pytest.approx(theirs[key], rel=1e-12)  # added in another order
        else:
            assert value == theirs[key], key


def test_a_scrape_amid_counting_never_shows_a_histogram_at_odds_with_itself():
    metrics = Metrics((10,))
    handle = metrics.bind("divergence_event_latency_seconds")
    stop = threading.Event()

    def count():
        while not stop.is_set():
            handle.observe(3e-5)

    writer = threading.Thread(target=count)
    writer.start()
    try:
        last = 0.0
        for _ in range(50):
            found = samples(metrics)
            buckets = [v for (name, _), v in found.items() if name == "divergence_event_latency_seconds_bucket"]
            assert buckets == sorted(buckets)
            assert max(buckets) == found["divergence_event_latency_seconds_count", frozenset()] >= last
            last = max(buckets)
    finally:
        stop.set()
        writer.join(30)
    assert last > 0.0
