"""One symbol: events as the detector gives them, outcomes as `measures` labels them, and restarts in between."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.live.lanes import HORIZONS, SESSIONS, calibration, lane, market, params
from v13 import measures
from v13.detector import Detector, prices
from v13.detector.dtypes import OFI_CVD_CONFLICT
from v13.errors import DataError, StoreError
from v13.live.lane import Lane, Step
from v13.store.event_schema import Outcome, Pending, event_id


def pieces(bars: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    edges = [0, *sorted({c % bars.size for c in cuts} - {0}), bars.size]
    return [bars[a:b] for a, b in pairwise(edges)]


def outcomes(steps: list[Step]) -> list[Outcome]:
    return sorted(s.outcome for step in steps for s in step.settled)


def labels(bars: np.ndarray, horizon: int) -> dict[str, tuple[float | None, int | None]]:
    """Return what `measures` says of the events of these bars; only those a horizon or a gap has settled."""
    own = params()
    events = Detector(own, SESSIONS).run(bars)
    events = events[events["side"] != 0]
    segment = measures.segments(bars["ts_ms"], 1_000)
    ret = measures.forward_returns(prices(own.features, bars), segment, horizon)
    found: dict[str, tuple[float | None, int | None]] = {}
    for event in events:
        row = int(np.searchsorted(bars["ts_ms"], event["ts_ms"]))
        is_cut = bool(np.any(segment[row + 1 : row + horizon + 1] != segment[row]))
        if row + horizon < bars.size or is_cut:
            value = float(ret[row])
            hit = int(measures.hits(ret[[row]], event[["side"]]["side"].reshape(1))[0])
            found[event_id("BTCUSDT", event)] = (
                (None, None) if np.isnan(value) else (value, None if hit == measures.TIE else hit)
            )
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_events_and_outcomes_do_not_depend_on_how_bars_are_handed_over(seed: int, cuts: list[int]) -> None:
    bars = market(seed, 400)
    one = lane()
    steps = [one.step(piece) for piece in pieces(bars, cuts)]
    detector = Detector(params(), SESSIONS)
    expected = detector.run(bars)
    events = [e for step in steps for e in step.events]
    assert [e.event.tobytes() for e in events] == [e.tobytes() for e in expected]
    assert [bars["ts_ms"][e.row] for e in events] == [e.event["ts_ms"] for e in events]
    for horizon in HORIZONS:
        found = {o.event_id: (o.ret, o.hit) for o in outcomes(steps) if o.horizon_bars == horizon}
        assert found == labels(bars, horizon)
    reasons = [name for name in detector.counters if detector.counters[name]]
    assert {n: sum(s.suppressed.get(n, 0) for s in steps) for n in reasons} == {
        n: detector.counters[n] for n in reasons
    }


def test_the_markets_of_these_tests_have_hits_misses_ties_and_voids() -> None:
    found = {x for seed in range(20) for h in HORIZONS for x in map(kind, labels(market(seed, 400), h).values())}
    assert found == {"hit", "miss", "tie", "void"}


def kind(label: tuple[float | None, int | None]) -> str:
    return "void" if label[0] is None else "tie" if label[1] is None else ("miss", "hit")[label[1]]


def test_a_gap_voids_what_is_open_at_the_first_bar_behind_it_and_nothing_that_is_settled() -> None:
    bars = market(3, 400, "plain")
    events = [e for e in lane().step(bars[:200]).events if e.event["side"]]
    last = events[-1].row
    cut = last + 15  # the horizon of 10 is reached, that of 20 is not
    bars["ts_ms"][cut:] += 60_000
    one = lane()
    steps = [one.step(bars[:cut]), one.step(bars[cut : cut + 1])]
    name = event_id("BTCUSDT", events[-1].event)
    own = {o.horizon_bars: o for o in outcomes(steps) if o.event_id == name}
    assert own[10].ret is not None
    assert own[10].ts_ms == bars["ts_ms"][last + 10]
    assert own[20] == Outcome(name, 20, int(bars["ts_ms"][cut]), None, None)
    assert [s for s in one.step(bars[cut + 1 : cut + 60]).settled if s.outcome.event_id == name] == []


def resumed(one: Lane, bars: np.ndarray, open_: list[Pending], horizons: tuple[int, ...] = HORIZONS) -> Lane:
    """Return a lane of another process, from what a log holds of this one."""
    state, checkpoint = one.state(), one.checkpoint()
    other = lane(horizons=horizons)
    other.resume(state, checkpoint, bars[:0], open_)
    return other


def pending(steps: list[Step], horizons: tuple[int, ...] = HORIZONS) -> list[Pending]:
    """Return the open outcomes as `EventLog.pending` would."""
    done = {(o.event_id, o.horizon_bars) for o in outcomes(steps)}
    return [
        Pending(name, "BTCUSDT", e.row, float(v["px"]), int(v["side"]), int(v["source"]), int(v["ts_ms"]), h)
        for h in horizons
        for e in (e for step in steps for e in step.events)
        for v in [e.event]
        for name in [event_id("BTCUSDT", v)]
        if v["side"] and (name, h) not in done
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_restarts_anywhere_change_no_event_and_no_outcome(seed: int, cuts: list[int]) -> None:
    bars = market(seed, 400)
    whole = lane()
    expected = [whole.step(bars)]
    one, steps = lane(), []
    for piece in pieces(bars, cuts):
        steps.append(one.step(piece))
        one = resumed(one, bars, pending(steps))
    assert [e.event.tobytes() for s in steps for e in s.events] == [e.event.tobytes() for e in expected[0].events]
    assert [e.row for s in steps for e in s.events] == [e.row for e in expected[0].events]
    assert outcomes(steps) == outcomes(expected)
    assert one.state()[:3] == whole.state()[:3]


def test_a_checkpoint_that_lies_back_is_carried_on_with_the_bars_behind_it() -> None:
    bars, one = market(5, 400), lane()
    steps = [one.step(bars[:150])]
    checkpoint = one.checkpoint()
    steps.append(one.step(bars[150:260]))
    other = lane()
    other.resume(one.state(), checkpoint, bars[150:260], pending(steps))
    assert not other.checkpoint_due
    assert (other.rows, other.checkpoint_rows) == (260, 150)
    a, b = one.step(bars[260:]), other.step(bars[260:])
    assert [e.event.tobytes() for e in a.events] == [e.event.tobytes() for e in b.events]
    assert a.events
    assert outcomes([a]) == outcomes([b])


def test_a_horizon_that_is_new_is_labelled_where_its_bar_is_still_to_come_and_left_open_elsewhere() -> None:
    bars, one = market(3, 400, "plain"), lane()
    steps = [one.step(bars[:200])]
    horizons = (10, 20, 40)
    other = resumed(one, bars, pending(steps, horizons), horizons)
    late = other.step(bars[200:])
    rows = {event_id("BTCUSDT", e.event): e.row for e in steps[0].events if e.event["side"]}
    old = {o.event_id: o.ret for o in outcomes([late]) if o.horizon_bars == 40 and o.event_id in rows}
    assert old.keys() == {name for name, row in rows.items() if row + 40 >= 200}
    assert 0 < len(old) < len(rows)
    px = prices(params().features, bars)
    assert all(ret == np.log(px[rows[name] + 40] / px[rows[name]]) for name, ret in old.items())


def test_a_damaged_state_or_checkpoint_is_refused() -> None:
    bars, one = market(5, 200), lane()
    one.step(bars)
    state, checkpoint = one.state(), one.checkpoint()
    with pytest.raises(StoreError, match="damaged"):
        lane().resume(state, checkpoint._replace(detector=b"torn"), bars[:0], [])
    with pytest.raises(DataError):
        lane().resume(state._replace(intake=b"torn"), checkpoint, bars[:0], [])


def test_a_change_of_the_calibration_keeps_the_detector_and_one_of_the_parameters_feeds_a_new_one() -> None:
    bars = market(8, 500)
    plain, same, other = lane(), lane(), lane()
    for one in (plain, same, other):
        one.step(bars[:300])
    expected = plain.step(bars[300:])
    active = same.active
    same.checkpoint()
    same.swap(type(active)(2, 0, params(), calibration(), params().rules(), "2-test"), bars[:300])
    assert same.checkpoint_due
    found = same.step(bars[300:])
    assert [e.event.tobytes() for e in found.events] == [e.event.tobytes() for e in expected.events]
    assert {e.config_version for e in found.events} == {2}
    strict = params(z_hi=1.3)
    other.swap(type(active)(2, 0, strict, None, strict.rules(), "2-test"), bars[:300])
    fresh = Detector(strict, SESSIONS)
    fresh.run(bars[:300])
    found = other.step(bars[300:])
    assert [e.event.tobytes() for e in found.events] == [e.tobytes() for e in fresh.run(bars[300:])]
    assert found.events
    assert len(found.events) < len(expected.events)
    assert {e.row for e in found.events} <= set(range(300, 500))
    assert other.state().rows == 500


def test_outcomes_of_events_before_a_change_are_still_labelled() -> None:
    bars, one = market(3, 400, "plain"), lane()
    at = 5 + max(e.row for e in lane().step(bars[:200]).events if e.event["side"])
    first = one.step(bars[:at])
    strict = params(z_hi=5.0)
    one.swap(type(one.active)(2, 0, strict, None, strict.rules(), "2-test"), bars[:at])
    second = one.step(bars[at:])
    assert second.events == []
    names = {event_id("BTCUSDT", e.event) for e in first.events if e.event["side"]}
    assert {o.event_id for o in outcomes([first, second])} == names
    assert len(outcomes([second])) >= 2


def test_every_divergence_has_its_calibrated_values_and_rule_and_a_hint_has_none() -> None:
    curves = calibration()
    step = lane(curves=curves).step(market(2, 600))
    hints = [e for e in step.events if e.event["type"] == OFI_CVD_CONFLICT]
    found = [e for e in step.events if e.event["side"]]
    assert hints
    assert all(e.calibrated == {} and e.rule == "global" for e in hints)
    assert {e.rule for e in found} == {"global", "liquidity=active -> z_hi=0.9"}
    assert all((e.rule == "global") == (e.event["liquidity"] == 0) for e in found)
    for e in found:
        score = float(e.event["score"])
        for h in HORIZONS:
            low, high = curves.interval(score, h)
            assert e.calibrated[h] == (curves.prob(score, h), low, high, curves.expected_return(score, h))


def test_it_is_warm_when_the_detector_can_speak() -> None:
    bars, one = market(3, 400, "plain"), lane()
    while not one.is_warm:
        assert one.step(bars[one.rows : one.rows + 1]).events == []
    assert one.rows == 30 + 2 * 3 + 1  # window and the longest swing on both sides
