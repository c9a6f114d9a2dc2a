"""A window is found between scrapes, and what cannot be compared is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from v13.errors import DataError
from v13.release.scrapes import COMMIT, STARTED, TAKEN, find_window, target_of
from v13.telemetry.prometheus import Series
from v13.telemetry.queries import render

START_S = 1_800_000_000.0


class Answers:
    """Beyond what is tested: a Prometheus that holds these scrapes, target to (times, process starts)."""

    url = "http://prometheus"

    def __init__(self, targets: dict[str, tuple[list[float], list[float]]], version: str = "2.42.0") -> None:
        self._targets = targets
        self._version = version

    def version(self) -> str:
        return self._version

    def instant(self, expr: str, at_s: float) -> list[Series]:
        name, _, length = expr.removesuffix("s]").partition("[")
        found = []
        for target, (times, starts) in self._targets.items():
            ts = np.array(times) + START_S
            values = {COMMIT: ts - 0.3, STARTED: np.array(starts), TAKEN: np.array(starts) + START_S}[name]
            since = ts > at_s - int(length) if self._version.startswith("3") else ts >= at_s - int(length)
            inside = since & (ts <= at_s)
            if inside.any():
                labels = {"__name__": name, "job": "divergence", "instance": target}
                found.append(Series(labels, ts[inside], values[inside]))
        return found


def prometheus(**targets: tuple[list[float], list[float]]) -> Any:
    return Answers(targets)


def test_a_window_ends_at_the_last_scrape_and_begins_at_the_first_that_is_in_it() -> None:
    times = [5.0 * i for i in range(20)]
    found = find_window(prometheus(a=(times, [1.0] * 20)), 62, START_S + 97.0)
    assert (found.start_s - START_S, found.end_s - START_S, found.range_s) == (35.0, 95.0, 60)
    assert found.scrape_s == 5.0
    assert not found.has_birth
    assert found.scrapes[0].counted_ms.tolist() == [round((START_S + t - 0.3) * 1e3) for t in times[7:]]


def test_every_range_of_the_dashboard_becomes_the_window() -> None:
    scope = find_window(prometheus(a=([5.0 * i for i in range(20)], [1.0] * 20)), 3_600, START_S + 97.0).scope()
    for variable in ("$__range", "$window", "$__rate_interval"):
        assert render(variable, scope) == "95s"


def test_since_prometheus_3_a_range_is_a_second_longer_to_hold_its_first_scrape() -> None:
    times = [5.0 * i for i in range(20)]
    found = find_window(Answers({"a": (times, [1.0] * 20)}, "3.5.0"), 63, START_S + 97.0)  # type: ignore[arg-type]
    assert found.range_s == 61
    assert found.scrapes[0].ts_s[0] - START_S == 35.0
    assert found.zero_last
    assert not found.has_birth


def test_scrapes_at_odd_times_make_a_window_of_whole_seconds_around_them() -> None:
    found = find_window(prometheus(a=([0.0, 5.013, 10.002], [1.0] * 3)), 60, START_S + 11.0)
    assert found.range_s == 11
    assert found.scrapes[0].ts_s.size == 3


@pytest.mark.parametrize("version", ["2.42.0", "3.5.3"])
def test_a_busy_machine_s_odd_times_do_not_shrink_the_window_to_the_few_scrapes_that_are_even(version: str) -> None:
    times = [1.003 * i for i in range(50)] + [51.0, 52.0, 53.0]
    found = find_window(Answers({"a": (times, [1.0] * 53)}, version), 60, START_S + 53.5)  # type: ignore[arg-type]
    assert found.scrapes[0].ts_s.size == 53
    times[0] = 0.002  # no whole seconds before the last: a range of 53 s holds it with every version
    odd = find_window(Answers({"a": (times, [1.0] * 53)}, version), 60, START_S + 53.5)  # type: ignore[arg-type]
    assert (odd.range_s, odd.scrapes[0].ts_s.size) == (53, 53)


def test_a_restart_is_another_life_of_the_target() -> None:
    found = find_window(prometheus(a=([0.0, 5.0, 10.0, 15.0], [1.0, 1.0, 7.0, 7.0])), 60, START_S + 16.0)
    assert [(life.start, life.stop) for life in found.scrapes[0].lives] == [(0, 2), (2, 4)]
    assert found.n_lives == 2


def test_a_process_that_has_not_committed_yet_counts_what_was_there_when_it_began() -> None:
    source = prometheus(a=([0.0, 5.0], [1.0, 1.0]))
    original = source.instant

    def instant(expr: str, at_s: float) -> list[Series]:
        found = original(expr, at_s)
        return [Series(s.labels, s.ts_s, s.values * (not expr.startswith(COMMIT))) for s in found]

    source.instant = instant
    found = find_window(source, 60, START_S + 6.0)
    assert found.scrapes[0].counted_ms.tolist() == [round((START_S + 1.0) * 1e3)] * 2


def test_targets_one_after_the_other_are_one_runner_that_moved() -> None:
    found = find_window(prometheus(a=([0.0, 5.0], [1.0, 1.0]), b=([10.0, 15.0], [7.0, 7.0])), 60, START_S + 16.0)
    assert [s.target[1] for s in found.scrapes] == ["a", "b"]
    assert found.has_birth


def test_two_releases_on_one_port_one_after_the_other_are_two_targets() -> None:
    labels = {"__name__": COMMIT, "job": "divergence", "instance": "a", "source": "OFI_ONLY"}
    assert target_of(labels) == ("divergence", "a")
    assert target_of(labels | {"release": "x"}) == ("divergence", "a", "x") != target_of(labels | {"release": "y"})


def test_two_runners_side_by_side_are_refused_by_name() -> None:
    source = prometheus(a=([0.0, 10.0], [1.0, 1.0]), b=([5.0, 15.0], [7.0, 7.0]))
    with pytest.raises(DataError, match="divergence a and divergence b were scraped side by side"):
        find_window(source, 60, START_S + 16.0)


@pytest.mark.parametrize("times", [[], [5.0]])
def test_fewer_than_two_scrapes_are_no_window(times: list[float]) -> None:
    with pytest.raises(DataError, match=rf"{len(times)} scrapes of a runner within the last 60 s, expected two"):
        find_window(prometheus(a=(times, [1.0] * len(times))), 60, START_S + 16.0)


def test_a_metric_that_a_relabel_rule_dropped_is_named() -> None:
    source = prometheus(a=([0.0, 5.0], [1.0, 1.0]))
    original = source.instant
    source.instant = lambda expr, at_s: [] if expr.startswith(STARTED) else original(expr, at_s)
    with pytest.raises(DataError, match=f"{STARTED} and {TAKEN} are not of the same scrapes"):
        find_window(source, 60, START_S + 6.0)
