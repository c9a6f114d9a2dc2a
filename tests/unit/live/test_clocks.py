"""Our clock when the machine's is set, and the exchange's when a message lies about it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v13.live.clock import LOOK_NS, STEP_MS, SystemClock
from v13.live.exchange_clock import CONFIRM, JUMP_MS, PLAUSIBLE_MS, SEVERAL, WINDOW_MS, ExchangeClock

START_MS = 1_700_000_000_000


class Machine:
    """The two clocks of a machine; `pass_ms` moves both, setting `wall_ms` one."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.monotonic_ms = 5_000
        self.steps: list[int] = []
        self.clock = SystemClock(
            self.steps.append, lambda: self.wall_ms * 1_000_000, lambda: self.monotonic_ms * 1_000_000
        )

    def pass_ms(self, ms: int) -> int:
        self.wall_ms += ms
        self.monotonic_ms += ms
        return self.clock.wall_ms()


def test_it_says_what_the_machine_says() -> None:
    machine = Machine()
    assert [machine.pass_ms(ms) - START_MS for ms in (0, 1, 10_000)] == [0, 1, 10_001]
    assert machine.clock.monotonic_ns() == 15_001 * 1_000_000
    assert machine.steps == []


def test_a_step_forwards_is_followed_at_once_and_told_once() -> None:
    machine = Machine()
    machine.wall_ms += 90_000
    assert machine.pass_ms(10) == START_MS + 90_010
    assert machine.pass_ms(10) == START_MS + 90_020
    assert machine.steps == [90_000]


def test_a_step_backwards_never_turns_time_back_and_is_met_at_half_speed() -> None:
    machine = Machine()
    machine.wall_ms -= 3_600_000
    shown = [machine.pass_ms(60_000) for _ in range(130)]
    assert machine.steps == [-3_600_000]
    assert all(later - earlier in (30_000, 60_000) for earlier, later in pairwise(shown))
    assert shown[0] == START_MS + 30_000
    assert shown[119] == machine.wall_ms - 10 * 60_000  # two hours for one
    assert shown[-1] == machine.wall_ms


@pytest.mark.parametrize("drift_ms", [STEP_MS - 1, 1 - STEP_MS])
def test_a_drift_below_a_second_is_no_step(drift_ms: int) -> None:
    machine = Machine()
    machine.wall_ms += drift_ms
    machine.pass_ms(10)
    assert machine.steps == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-10_000_000, 10_000_000), st.integers(0, 100_000)), max_size=30))
def test_whatever_is_done_to_the_machine_time_never_goes_back(moves: list[tuple[int, int]]) -> None:
    machine = Machine()
    last = machine.clock.wall_ms()
    for step_ms, passed_ms in moves:
        machine.wall_ms = max(0, machine.wall_ms + step_ms)
        now = machine.pass_ms(passed_ms)
        assert now >= last
        last = machine.pass_ms(LOOK_NS // 1_000_000)  # by then it has looked
        assert last >= max(now, machine.wall_ms)


def test_the_machine_itself() -> None:
    clock = SystemClock()

    async def nap() -> int:
        before = clock.monotonic_ns()
        await clock.sleep(0.002)
        return clock.monotonic_ns() - before

    assert asyncio.run(nap()) >= 2_000_000
    assert clock.wall_ms() > START_MS


# The exchange's clock.


def test_nothing_is_known_before_the_first_message() -> None:
    assert ExchangeClock().now_ms(START_MS) is None


def test_the_quickest_message_tells_the_time() -> None:
    clock = ExchangeClock()
    for i, delay in enumerate((80, 30, 200, 45)):
        assert clock.accept(START_MS + i, START_MS + i + delay)
    assert clock.now_ms(START_MS + 1_000) == START_MS + 970


def test_clocks_that_differ_by_more_than_the_recordings_do_are_no_matter() -> None:
    clock = ExchangeClock()
    assert clock.accept(START_MS + 3_600_000, START_MS)
    assert clock.now_ms(START_MS + 10) == START_MS + 3_600_010


def test_a_slower_way_is_learned_after_two_windows() -> None:
    clock = ExchangeClock()
    for s in range(3 * WINDOW_MS // 1_000):
        at_ms = START_MS + 1_000 * s
        assert clock.accept(at_ms, at_ms + (20 if at_ms < START_MS + WINDOW_MS // 2 else 500))
        lead = (clock.now_ms(at_ms) or 0) - at_ms
        assert lead == (-20 if at_ms < START_MS + 2 * WINDOW_MS else -500)


@pytest.mark.parametrize("off_ms", [90_000, -90_000, PLAUSIBLE_MS + 1, -PLAUSIBLE_MS - 1])
def test_a_broken_time_is_refused_and_teaches_nothing(off_ms: int) -> None:
    clock = ExchangeClock()
    assert clock.accept(START_MS, START_MS)
    for i in range(10 * CONFIRM):
        at_ms = START_MS + i
        assert clock.accept(at_ms, at_ms)
        assert not clock.accept(at_ms + off_ms, at_ms)
    assert clock.now_ms(START_MS) == START_MS


@pytest.mark.parametrize("off_ms", [90_000, -90_000, 10**12])
def test_so_many_in_a_row_that_agree_are_believed(off_ms: int) -> None:
    clock = ExchangeClock()
    assert clock.accept(START_MS, START_MS)
    believed = [clock.accept(START_MS + i + off_ms, START_MS + i) for i in range(1, CONFIRM + 1)]
    assert believed == [False] * (CONFIRM - 1) + [True]
    assert clock.now_ms(START_MS) == START_MS + off_ms
    assert not clock.accept(START_MS + CONFIRM, START_MS + CONFIRM)  # now those are odd


def test_a_single_message_from_the_future_does_not_put_the_clock_forward() -> None:
    clock = ExchangeClock()
    for s in range(10 * WINDOW_MS // 1_000):
        at_ms = START_MS + 1_000 * s
        assert clock.accept(at_ms, at_ms)
        if s % 7 == 3:
            assert clock.accept(at_ms + PLAUSIBLE_MS - 1, at_ms)  # it may be true: it waits for its bar
        assert clock.now_ms(at_ms) == at_ms


def test_several_messages_put_the_clock_forward_after_a_slow_start() -> None:
    clock = ExchangeClock()
    assert clock.accept(START_MS, START_MS + 5 * JUMP_MS)
    leads = []
    for i in range(1, SEVERAL + 2):
        assert clock.accept(START_MS + i, START_MS + i + 40)
        leads.append((clock.now_ms(START_MS) or 0) - START_MS)
    assert leads == [-5 * JUMP_MS] * (SEVERAL - 1) + [-40] * 2


def test_broken_times_that_do_not_agree_are_never_believed() -> None:
    clock = ExchangeClock()
    assert clock.accept(START_MS, START_MS)
    for i in range(1, 5 * CONFIRM):
        assert not clock.accept(START_MS + i * 10 * PLAUSIBLE_MS, START_MS)
    assert clock.now_ms(START_MS) == START_MS


@given(
    st.lists(st.integers(-200, 200) | st.integers(-70_000, 70_000), min_size=1, max_size=40),
    st.lists(st.integers(-200, 200) | st.integers(-70_000, 70_000), min_size=1, max_size=10),
    st.integers(0, 70_000),
)
def test_many_plain_messages_at_once_teach_what_they_teach_one_by_one(
    before: list[int], many: list[int], later_ms: int
) -> None:
    at_once, each = ExchangeClock(), ExchangeClock()
    for clock in (at_once, each):
        for i, lead in enumerate(before):
            clock.accept(START_MS + i + lead, START_MS + i)
    untouched = dict(vars(at_once))
    recv_ms = START_MS + 40 + later_ms
    if at_once.accept_all(min(many), max(many), recv_ms):
        assert all(each.accept(recv_ms + lead, recv_ms) for lead in many)
        assert vars(at_once) == vars(each)
    else:
        assert vars(at_once) == untouched


def test_plain_messages_are_taken_at_once() -> None:
    clock = ExchangeClock()
    assert not clock.accept_all(-50, -20, START_MS)  # nothing is known yet that they could be held against
    clock.accept(START_MS - 30, START_MS)
    assert clock.accept_all(-50, -20, START_MS + 10)
    assert clock.now_ms(START_MS + 10) == START_MS - 10
