"""What a snapshot makes of answers: buckets taken apart, series named, numbers written."""

from __future__ import annotations

import io
import math

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.errors import V13Error
from v13.telemetry.overview import MARKS
from v13.telemetry.panels import Panel
from v13.telemetry.prometheus import Series
from v13.telemetry.queries import Query
from v13.telemetry.snapshot import Answer, Moment, buckets_of, legend_of
from v13.telemetry.snapshot_plots import plot
from v13.telemetry.units import grafana_unit, quantity, span

STEP_S, N = 60, 20


def series(values, start=0.0, **labels):
    values = np.asarray(values, dtype=float)
    return Series(labels, start + STEP_S * np.arange(len(values)), values)


@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6), st.randoms())
def test_cumulative_buckets_are_taken_apart_again(counts, random):
    bounds = [*range(len(counts) - 1), math.inf]
    cumulative = np.cumsum(np.array(counts), axis=0)
    answer = [series(row, le="+Inf" if math.isinf(b) else str(b)) for b, row in zip(bounds, cumulative, strict=True)]
    random.shuffle(answer)
    upper, found = buckets_of(answer)
    assert upper.tolist() == bounds
    assert [s.values.tolist() for s in found] == counts


def test_a_bucket_is_never_below_0_and_gaps_count_as_nothing_below():
    low, high = series([3.0, math.nan, 2.0], le="1"), Series({"le": "+Inf"}, np.array([0.0, 120.0]), np.array([2.9, 5]))
    _, (_, above) = buckets_of([high, low])
    assert above.values.tolist() == [0.0, 3.0]


def test_a_series_is_named_as_its_legend_says():
    one = series([1.0], side="bull", kind="hidden", __name__="x")
    assert legend_of(Query("x", "{{side}} {{ kind }}"), one) == "bull hidden"
    assert legend_of(Query("x", "P95 {{gone}}"), one) == "P95 "
    assert legend_of(Query("x"), one) == "kind=hidden, side=bull"
    assert legend_of(Query("x"), series([1.0])) == "value"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0025, "seconds", "2.5 ms"),
        (3.1e-5, "seconds", "31 µs"),
        (0.0, "seconds", "0 s"),
        (-1.27, "seconds", "-1.27 s"),
        (90.0, "seconds", "90 s"),
        (5_400.0, "seconds", "1.5 h"),
        (200_000.0, "seconds", "2.31 d"),
        (0.9995, "ratio", "99.95 %"),
        (0.005, "ratio", "0.5 %"),
        (41.44, "per hour", "41.4 /h"),
        (1234.5, "messages", "1,234"),
        (57.625, "1", "57.6"),
        (-0.25, "bp", "-0.25 bp"),
        (3 * 2**20, "bytes", "3 MiB"),
        (512.0, "bytes", "512 B"),
        (math.nan, "ratio", "no data"),
        (math.inf, "seconds", "∞"),
        (-math.inf, "1", "-∞"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, unit, text):
    assert quantity(value, unit) == text


@pytest.mark.parametrize("call", [grafana_unit, lambda unit: quantity(1.0, unit)])
def test_an_unknown_unit_is_refused(call):
    with pytest.raises(V13Error, match="unit 'parsec': expected one of seconds, ratio"):
        call("parsec")


def test_lengths_of_time_are_written_in_their_largest_whole_unit():
    assert [span(s) for s in (45, 60, 90, 600, 3_600, 5_400, 86_400)] == [
        *("45 s", "1 min", "90 s", "10 min", "1 h", "90 min", "1 d")
    ]


def drawn(kind, queries, found, **more):
    panel = Panel("k", "t", kind, queries, "1", "a.", **more)
    answer = Answer(panel, tuple((q, q.expr, f) for q, f in zip(queries, found, strict=True)), STEP_S)
    moment = Moment(300.0, "reload", MARKS[2])
    first = plot(answer, 0.0, STEP_S * (N - 1.0), [moment])
    assert plot(answer, 0.0, STEP_S * (N - 1.0), [moment]) == first
    return matplotlib.image.imread(io.BytesIO(first))


def n_pixels(picture, colour):
    """Return how many pixels are of a colour, `#rrggbb`."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    return int((np.abs(picture[:, :, :3] - rgb).max(axis=2) < 0.02).sum())


def test_a_line_breaks_where_nothing_was_known():
    whole = series(np.full(N, 5.0), side="bull")
    holed = Series(whole.labels, np.delete(whole.ts_s, slice(5, 15)), np.delete(whole.values, slice(5, 15)))
    query = (Query("x", "{{side}}"),)
    full, part = (n_pixels(drawn("lines", query, ([s],)), "#2e8b57") for s in (whole, holed))
    assert 0.2 * full < part < 0.7 * full


def test_states_are_drawn_in_the_colour_of_their_word():
    flag = series([1.0] * 10 + [0.0] * 10)
    words = {0: ("no", 3), 1: ("yes", 0)}
    picture = drawn("states", (Query("x", "ready"),), ([flag],), words=words)
    red, green = n_pixels(picture, "#c23b3b"), n_pixels(picture, "#2e8b57")
    assert 0.8 < red / green < 1.3


def test_a_heat_map_is_brightest_where_most_events_are():
    quiet, busy = [1.0] * N, [1.0] * (N - 1) + [90.0]
    buckets = [series(quiet, le="40.0"), series(busy, le="50.0"), series(busy, le="+Inf")]
    query = (Query("x", "{{le}}", cumulative=True),)
    assert n_pixels(drawn("heatmap", query, (buckets,)), "#fde725") > 50


def test_bars_and_buckets_are_drawn():
    one = (Query("x", "{{source}}", instant=True),)
    few = drawn("bars", one, ([series([3.0], source="FUSION"), series([0.0], source="OFI_ONLY")],))
    assert n_pixels(few, "#7a5aa6") > 500
    cumulative = (Query("x", "{{le}}", instant=True, cumulative=True),)
    buckets = [series([v], le=le) for le, v in (("10.0", 0.0), ("20.0", 4.0), ("+Inf", 5.0))]
    assert n_pixels(drawn("bars", cumulative, (buckets,)), "#2f6fb0") > 500


def test_a_histogram_of_nothing_is_drawn_as_nothing():
    cumulative = (Query("x", "{{le}}", instant=True, cumulative=True),)
    buckets = [series([0.0], le=le) for le in ("10.0", "+Inf")]
    assert n_pixels(drawn("bars", cumulative, (buckets,)), "#2f6fb0") == 0
    along = (Query("x", "{{le}}", cumulative=True),)
    empty = [series(np.zeros(N), le=le) for le in ("10.0", "20.0", "+Inf")]
    drawn("heatmap", along, (empty,))
