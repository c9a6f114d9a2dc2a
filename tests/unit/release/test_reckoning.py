"""The log at the moments of scrapes: against a naive count of the batches a log was made of."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.store.event_batches import HORIZONS, batch, events, outcomes
from v13.detector.dtypes import CHANNELS
from v13.release.reckoning import Reckoning, grouped, labelled, untied
from v13.release.scrapes import Scrapes, Window
from v13.store.event_counts import LogCounts, read_counts
from v13.store.event_log import EventLog

SYMBOLS = ("BTCUSDT", "ETHUSDT")
T0_MS = 1_767_225_600_000
STEP_MS = 250  # between commits, by our clock
N_COMMITS = 40
ROWS = 3  # of a commit


def committed_ms(commit: int) -> int:
    return T0_MS + STEP_MS * commit


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> LogCounts:
    path = tmp_path_factory.mktemp("log") / "events.sqlite"
    clock = [0]
    with EventLog(path, keep_bars=100, now_ms=lambda: clock[0]) as log:
        for commit in range(N_COMMITS):
            clock[0] = committed_ms(commit)
            log.commit(batch(SYMBOLS, commit * ROWS + 1, (commit + 1) * ROWS))
    return read_counts(path)


def scrapes(*commits: int, target: str = "a", began: int = 0) -> Scrapes:
    """Scrapes 40 ms after these commits, each with all up to it."""
    at_ms = np.array([committed_ms(c) for c in commits])
    return Scrapes(("divergence", target), (at_ms + 40) / 1e3, at_ms, np.full(at_ms.size, committed_ms(began)))


def window(*of: Scrapes, start_ms: int | None = None) -> Window:
    start_s = float(of[0].ts_s[0]) if start_ms is None else start_ms / 1e3
    end_s = float(of[-1].ts_s[-1])
    return Window(start_s, end_s, round(end_s - start_s), 1.0, of, "2.42.0")


def n_events(first: int, last: int) -> int:
    """Divergences of the commits first < c <= last, counted one by one."""
    rows = range(first * ROWS + ROWS + 1, last * ROWS + ROWS + 1)
    return sum(1 for s in SYMBOLS for row in rows for e in events(s, row, row) if e.event["side"] != 0)


def test_counts_between_scrapes_are_those_of_the_commits_between_them(counts: LogCounts) -> None:
    reckoning = Reckoning(counts, window(scrapes(4, 8, 20, 39)))
    levels = np.sum([reckoning.levels(one) for one in reckoning.series("divergence_events_total")], axis=0)
    assert levels.tolist() == pytest.approx([n_events(4, 39)] * 4)


def test_outcomes_are_told_apart_as_they_were_entered(counts: LogCounts) -> None:
    reckoning = Reckoning(counts, window(scrapes(0, 10, 39)))
    told = {
        name: sum(reckoning.levels(one)[0] for one in reckoning.series(f"divergence_{name}_total"))
        for name in ("hits", "outcomes", "outcomes_tied", "outcomes_void")
    }
    found = [o for s in SYMBOLS for o in outcomes(s, ROWS + 1, N_COMMITS * ROWS)]
    assert told == {
        "hits": sum(o.hit == 1 for o in found),
        "outcomes": sum(o.hit is not None for o in found),
        "outcomes_tied": sum(o.ret is not None and o.hit is None for o in found),
        "outcomes_void": sum(o.ret is None for o in found),
    }
    assert min(told.values()) > 0


def test_buckets_are_cumulative_and_hold_their_bounds(counts: LogCounts) -> None:
    reckoning = Reckoning(counts, window(scrapes(0, 39)))
    for key, own in grouped(reckoning.buckets("divergence_score"), "source").items():
        source = CHANNELS.index(dict(key)["source"])
        found = [
            e.event
            for s in SYMBOLS
            for e in events(s, ROWS + 1, N_COMMITS * ROWS)
            if e.event["side"] != 0 and e.event["source"] == source
        ]
        for bucket in own:
            bound = float(dict(bucket.labels)["le"])
            assert reckoning.levels(bucket)[0] == sum(e["score"] <= bound for e in found)


def test_forward_returns_are_signed_by_the_side_of_the_event(counts: LogCounts) -> None:
    reckoning = Reckoning(counts, window(scrapes(0, 39)))
    plain, aligned = reckoning.values(reckoning.series("divergence_forward_return"))
    sides = {
        f"{s}-{int(e.event['ts_ms'])}": e.event["side"]
        for s in SYMBOLS
        for e in events(s, 1, N_COMMITS * ROWS)
        if e.event["side"] != 0
    }
    rows = [o for s in SYMBOLS for o in outcomes(s, ROWS + 1, N_COMMITS * ROWS) if o.ret is not None]
    expected = sorted(o.ret * sides[o.event_id.rpartition("-")[0]] for o in rows)
    assert sorted(plain) == pytest.approx(expected)
    assert sorted(aligned) == pytest.approx(expected)
    assert len(HORIZONS) == 2


def test_what_was_committed_after_the_window_but_was_scraped_is_a_boundary(counts: LogCounts) -> None:
    late = scrapes(4, 39)
    early = Scrapes(late.target, late.ts_s - 0.06, late.counted_ms, late.began_ms)  # it looked while 39 was committed
    (hints,) = Reckoning(counts, window(early)).series("divergence_conflict_hints_total")
    plain, aligned, raw, told = Reckoning(counts, window(early)).levels(hints).tolist()
    assert aligned == raw == told == 22  # rows 20, 30, ... 120 of two symbols
    assert plain == 20  # committed within the window: without row 120


def test_a_restart_takes_what_was_not_scraped_from_counters_of_a_process_alone(counts: LogCounts) -> None:
    lives = Scrapes(
        ("divergence", "a"),
        np.array([committed_ms(c) + 40 for c in (20, 24, 30, 34)]) / 1e3,
        np.array([committed_ms(c) for c in (20, 24, 30, 34)]),
        np.array([committed_ms(c) for c in (0, 0, 27, 27)]),  # killed after commit 27, which no scrape saw
    )
    reckoning = Reckoning(counts, window(lives))
    (ways,) = reckoning.series("divergence_pipeline_latency_seconds")
    plain, aligned, raw, _ = reckoning.levels(ways).tolist()
    lost = sum(len(events(s, 25 * ROWS + 1, 28 * ROWS)) for s in SYMBOLS)
    assert plain == aligned
    assert raw == aligned - lost < aligned
    (hints,) = reckoning.series("divergence_conflict_hints_total")
    resumed = reckoning.levels(hints)
    assert resumed[1] == resumed[2] > 0


def test_another_port_after_a_restart_loses_what_lies_between(counts: LogCounts) -> None:
    reckoning = Reckoning(counts, window(scrapes(4, 8), scrapes(12, 39, target="b")))
    levels = np.sum([reckoning.levels(one) for one in reckoning.series("divergence_events_total")], axis=0)
    assert levels[0] == n_events(4, 39)
    assert levels[1] == n_events(4, 8) + n_events(12, 39)


def test_a_commit_that_begins_when_the_last_is_counted_is_told_by_the_counters(counts: LogCounts) -> None:
    one = scrapes(8, 9)
    entered = np.concatenate([counts.events["committed_ms"], counts.outcomes["committed_ms"]])
    all_of = np.array([np.sum(entered <= committed_ms(c)) for c in (8, 9)], dtype=np.float64)
    assert untied(one, counts, all_of).counted_ms.tolist() == one.counted_ms.tolist()
    without_9 = all_of - [0, np.sum(entered == committed_ms(9))]
    assert untied(one, counts, without_9).counted_ms.tolist() == [committed_ms(8), committed_ms(9) - 1]
    far_off = all_of - 1_000
    assert untied(one, counts, far_off).counted_ms.tolist() == one.counted_ms.tolist()


def test_bounds_are_numbers_however_they_are_written() -> None:
    assert labelled(le="10") == labelled(le="10.0")
    assert labelled(le="+Inf") == labelled(le=repr(float("inf")))


def test_bars_of_each_symbol_are_known(counts: LogCounts) -> None:
    assert counts.symbols == SYMBOLS
    assert counts.rows.tolist() == [N_COMMITS * ROWS] * 2
    assert set(counts.events["symbol"].tolist()) == {0, 1}
