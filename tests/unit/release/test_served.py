"""Hand-over and hand-back: whose events count at which bar, against a naive count of every millisecond."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.store.event_batches import batch, events, ts_of
from v13.config import Config
from v13.errors import ReleaseError
from v13.release.handover import behind, handback_rows, handover_rows, owner_at, passed
from v13.release.ledger import Assignment, State
from v13.release.served import END_MS, served_events, spans
from v13.release.site import Site, check_name
from v13.store.event_log import EventLog, event_id

assignments = st.lists(
    st.builds(
        Assignment,
        st.sampled_from(["A", "B"]),
        st.integers(0, 12),
        st.sampled_from(["r1", "r2", "r3"]),
    ),
    max_size=8,
)


@given(assignments)
def test_spans_are_the_last_row_that_is_not_later(serving: list[Assignment]) -> None:
    found = spans(serving)
    for symbol in ("A", "B"):
        for ts_ms in range(14):
            wanted = owner_at(serving, symbol, ts_ms)
            owners = [r for s, from_ms, to_ms, r in found if s == symbol and from_ms <= ts_ms < to_ms]
            assert owners == ([] if wanted is None else [wanted])
    assert all(to_ms == END_MS for symbol, _, to_ms, _ in found if to_ms > 12)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "testing", Config())


def log_up_to(site: Site, release: str, symbol: str, last: int) -> None:
    """Have a release run up to a row of a symbol."""
    with EventLog(site.event_log(release), keep_bars=1_000, now_ms=lambda: 1) as log:
        log.commit(batch([symbol], 1, last))


def test_a_hand_over_lies_two_bars_beyond_both(site: Site) -> None:
    log_up_to(site, "old", "A", 20)
    log_up_to(site, "new", "A", 23)
    rows = handover_rows(site, ["A"], "old", "new", 1_000)
    assert rows == [("assign", {"symbol": "A", "from_ms": ts_of(25), "release": "new"})]
    assert "release old has not closed the bar of A" in passed(site, rows, ["old", "new"])
    log_up_to(site, "old", "A", 25)
    log_up_to(site, "new", "A", 25)
    assert passed(site, rows, ["old", "new"]) == ""


def test_what_nobody_serves_is_served_from_the_first_bar_on(site: Site) -> None:
    log_up_to(site, "new", "A", 5)
    assert handover_rows(site, ["A"], None, "new", 1_000)[0][1]["from_ms"] == 0


@pytest.mark.parametrize("last", [None, 20, 24, 25, 30])
def test_over_there_and_back_no_event_is_missed_or_doubled(site: Site, last: int | None) -> None:
    """Both find the same; whoever served at what time, and wherever the bad one was stopped, the sum is the same."""
    log_up_to(site, "old", "A", 22)
    if last is not None:
        log_up_to(site, "new", "A", min(last, 22))
    serving = [Assignment("A", 0, "old")]
    (there,) = handover_rows(site, ["A"], "old", "new", 1_000)
    serving.append(Assignment(**there[1]))
    if last is not None:
        log_up_to(site, "new", "A", last)
    state = State(serving=tuple(serving))
    (back,) = handback_rows(site, state, "new", "old", "A")
    serving.append(Assignment(**back[1]))
    log_up_to(site, "old", "A", 60)
    found = served_events(site, serving)
    wanted = sorted(event_id("A", e.event) for e in events("A", 1, 60))
    assert sorted(found["event_id"]) == wanted
    by_new = found.filter(pl.col("release") == "new")["ts_ms"]
    assert by_new.is_empty() == (last is None or last < 24)


def test_what_is_not_the_bad_one_s_is_not_given_back(site: Site) -> None:
    log_up_to(site, "new", "A", 20)
    state = State(serving=(Assignment("A", 0, "old"), Assignment("B", 0, "new"), Assignment("B", 7, "old")))
    assert handback_rows(site, state, "new", "old", "AB") == []


def test_what_the_good_release_does_not_follow_is_not_given_to_it(site: Site) -> None:
    log_up_to(site, "new", "A", 20)
    state = State(serving=(Assignment("A", 0, "new"), Assignment("B", 0, "new")))
    (given,) = handback_rows(site, state, "new", "old", ["A"])
    assert given == ("assign", {"symbol": "A", "from_ms": ts_of(20) + 1, "release": "old"})


def test_a_symbol_that_falls_behind_is_named(site: Site) -> None:
    log_up_to(site, "old", "A", 40)
    log_up_to(site, "new", "A", 20)
    assert behind(site, ["A", "B"], "old", "new", 10_000) == ["A"]
    assert behind(site, ["A", "B"], "old", "new", 20_000) == []


def test_nothing_was_served_before_the_first_deploy(site: Site) -> None:
    with pytest.raises(ReleaseError, match="nothing has been served yet"):
        served_events(site, ())


def test_a_name_from_outside_cannot_lead_out_of_its_folder(site: Site) -> None:
    for name in ("../x", "a/b", "", ".", "..", "a..b", "-x", "x\n", "ä", "a" * 200):
        with pytest.raises(ReleaseError, match="expected letters, digits"):
            site.release(name)
    assert check_name("20260101T000000Z-0123abcd", "release")
    assert site.release("r-1").parent == site.home / "releases"
