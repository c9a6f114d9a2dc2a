"""The live view: what it shows, to the letter, and how it is drawn over."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import REPO
from v13.release.compare import Compared
from v13.release.observe import Look
from v13.release.slo_readings import SloReading
from v13.release.watch_view import NOTHING, WIDTH, History, WatchState, render, sparkline, watch
from v13.telemetry.slo import load_slo

TABLE = load_slo(REPO / "config" / "slo.yaml")
NOW_S = 1_795_000_000.0
SNAPSHOT = Path(__file__).with_name("watch_view.txt")
VALUES = {
    "event_latency": (3.1e-5, 900.0, "ok"),
    "pipeline_latency": (None, 2.0, "too_few"),
    "compute_latency": (0.0062, 300.0, "alert"),
    "closure": (0.12, None, "alert"),
    "error_rate": (0.0, 0.0, "ok"),
    "availability": (0.9985, 5.0, "above_target"),
    "events_per_hour": (4.0, 0.95, "alert"),
    "score_median": (61.25, 80.0, "ok"),
    "hit_rate": (None, None, "no_data"),
}


def look(at_s: float = NOW_S - 4.0, scale: float = 1.0, **more: object) -> Look:
    readings = tuple(
        SloReading(
            *(row.key, row.title, row.unit, None if value is None else value * scale, count),
            *(level, NOW_S - 754.0),  # type: ignore[arg-type]
        )
        for row in TABLE.rows
        for value, count, level in [VALUES[row.key]]
    )
    compared = (
        Compared("event_latency", "Event latency, mean", "seconds", 6.2e-5, 3e-5, 13, 0, 1, 310.0, 655.0, 600.0),
        Compared("memory", "Memory growth", "bytes/s", 0.0, 120.5, 0, 0, 14, 0.2, 1.0, 600.0),
        Compared("error_share", "Errors", "ratio", None, None, 0, 0, 0, 1.0, 1.0, 600.0),
    )
    why = (
        "Compute latency P95 beyond its alert level (0.0062 seconds); Closure error beyond its alert level (0.12 ratio)"
    )
    return replace(Look(at_s, readings, compared, "hold", why), **more)  # type: ignore[arg-type]


def state(**more: object) -> WatchState:
    history = History()
    for i in range(20):
        history.add(look(NOW_S - 300.0 + 15 * i, scale=1.0 + (i * 7 % 5) / 10))
    ledger = [(f"2026-11-18T12:{i:02}:00Z", "done", f"step {i}") for i in range(9)]
    made = WatchState(
        *(
            NOW_S,
            "deploy 20261118T120000Z",
            "observe BTCUSDT",
            "20261118T120000Z-1a2b3c4d",
            "20261001T080000Z-9f8e7d6c",
        ),
        *(754.0, 1_800.0, look(), TABLE, history, ledger),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_the_view_is_what_a_person_reviewed() -> None:
    """Made by `SNAPSHOT.write_text(render(state()))`; look at it before you take another."""
    assert render(state()) == SNAPSHOT.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 72, WIDTH])
@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, colour: bool) -> None:
    long = look(why="x" * 1_000, alarm=True)
    text = render(state(look=long, operation="o" * 200), colour=colour, width=width)
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width
    assert ("\x1b" in text) == colour


def test_colour_changes_nothing_but_colour() -> None:
    plain = re.sub(r"\x1b\[[\d;]*m", "", render(state(), colour=True))
    assert [line.rstrip() for line in plain.splitlines()] == render(state()).splitlines()


def test_the_verdict_is_in_its_colour() -> None:
    text = render(state(), colour=True)
    assert "\x1b[33mhold\x1b[0m" in text
    assert "\x1b[31;1mworse\x1b[0m" in text
    assert re.search(r"\x1b\[32mok +\x1b\[0m", text)


def test_names_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in render(state(candidate="a\x1b[2Jb", ledger=[("t", "k", "x\r\x07y")]))


def test_an_alarm_a_pause_and_no_look_are_told() -> None:
    assert "ALARM: no data for long" in render(state(look=look(alarm=True)))
    assert "observe BTCUSDT  paused" in render(state(is_paused=True))
    bare = render(state(look=None))
    assert "no look yet" in bare
    assert "SLO" not in bare


def test_without_a_stable_release_there_is_no_comparison() -> None:
    text = render(state(look=look(comparison=()), stable=""))
    assert "against stable" not in text
    assert "stable -" in text


def test_a_sparkline_goes_from_the_least_to_the_greatest_value() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0], 4) == "  ▁▁"
    assert sparkline([1.0, None, float("nan"), 2.0], 4) == f"▁{NOTHING}{NOTHING}█"
    assert sparkline([], 3) == "   "
    assert sparkline([9.0, 1.0, 2.0], 2) == "▁█"


def test_a_look_is_taken_into_the_history_once() -> None:
    history = History(3)
    for at_s in (1.0, 1.0, 2.0, 3.0, 4.0, 2.0):
        history.add(look(at_s, scale=at_s))
    assert history.of("availability") == (0.9985 * 2, 0.9985 * 3, 0.9985 * 4)
    assert history.of("no such row") == ()


@pytest.mark.parametrize("is_tty", [False, True])
def test_it_draws_until_the_operation_is_over(is_tty: bool) -> None:
    states: list[WatchState | None] = [state(), state(now_s=NOW_S + 1), None]
    drawn: list[str] = []
    waits: list[int] = []

    def wait() -> bool:
        waits.append(len(drawn))
        return True

    watch(lambda: states.pop(0), drawn.append, wait, is_tty=is_tty)
    assert waits == [1, 2]
    assert len(drawn) == 2
    assert all(text.startswith("\x1b[H\x1b[J") == is_tty for text in drawn)
    assert all(("\x1b" in text) == is_tty for text in drawn)


def test_it_stops_when_it_is_told_to() -> None:
    drawn: list[str] = []
    watch(state, drawn.append, lambda: False, is_tty=False)
    assert len(drawn) == 1
