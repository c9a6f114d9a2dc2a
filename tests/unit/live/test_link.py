"""Waits and limits of the feed, on a clock that stands still, and its settings."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest

from tests.exchange.clocks import SteppingClock
from v13.errors import ConfigError
from v13.live.deadline import first_of, within
from v13.live.feed_settings import ENDPOINTS, FeedSettings
from v13.live.inbox import Inbox
from v13.live.link import BUDGET_SPAN_S, ConnectBudget, Link
from v13.telemetry import Metrics

SPOT = FeedSettings("spot", *ENDPOINTS["spot"])


def link(clock: SteppingClock, seed: int = 1) -> Link:
    return Link(
        "ws://127.0.0.1:1/stream",
        ["btcusdt@aggTrade"],
        settings=replace(SPOT, backoff_min_s=1.0, backoff_max_s=30.0),
        inbox=Inbox(9),
        metrics=Metrics((10,)),
        clock=clock,
        budget=ConnectBudget(100, clock),
        rng=random.Random(seed),
        heard={},
        changed=lambda: None,
    )


def test_the_budget_allows_so_many_attempts_in_five_minutes_and_no_more() -> None:
    clock = SteppingClock()
    budget = ConnectBudget(3, clock)
    spent_s = []

    async def scene() -> None:
        for _ in range(8):
            await budget.spend()
            spent_s.append(clock.now_ns / 1e9)
            clock.now_ns += 10**10

    asyncio.run(scene())
    assert spent_s == [0, 10, 20, 300, 310, 320, 600, 610]
    assert all(later - earlier >= BUDGET_SPAN_S for earlier, later in zip(spent_s, spent_s[3:], strict=False))


def test_backoff_is_a_random_part_of_a_doubling_ceiling() -> None:
    shown = link(SteppingClock())
    for failures, ceiling_s in enumerate([1, 2, 4, 8, 16, 30, 30, 30]):
        shown._failures = failures
        waits = [shown._backoff_s() for _ in range(400)]
        assert 0 <= min(waits) < 0.05 * ceiling_s
        assert 0.95 * ceiling_s < max(waits) <= ceiling_s
        assert sum(waits) / 400 == pytest.approx(ceiling_s / 2, rel=0.1)  # four standard errors are 0.115


def test_a_link_to_nowhere_waits_longer_and_longer_and_counts_each_failure() -> None:
    class Unreachable:
        def __init__(self) -> None:
            self.n = 0

        async def ws_connect(self, *_: object, **__: object) -> None:
            self.n += 1
            if self.n > 40:
                await asyncio.get_running_loop().create_future()
            raise ConnectionRefusedError("nobody there")

    clock = SteppingClock((SPOT.connect_timeout_s,))
    metrics = Metrics((10,))
    shown = link(clock)
    shown._feed_errors = metrics.bind("divergence_errors_total", stage="feed")

    async def scene() -> None:
        session = Unreachable()
        task = asyncio.ensure_future(shown.run(session))
        while session.n <= 40:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())
    assert metrics.bind("divergence_errors_total", stage="feed").read() == 40
    assert max(clock.slept) <= 30.0
    assert sum(clock.slept[:5]) < sum(clock.slept[5:10]) < sum(clock.slept[10:])
    assert not shown.connected


def test_within_gives_the_result_or_cancels_what_takes_too_long() -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def endless() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        async def answer() -> int:
            return 42

        assert await within(SteppingClock((5.0,)), 5.0, answer()) == 42
        with pytest.raises(TimeoutError, match="within 5 s"):
            await within(SteppingClock(), 5.0, endless())
        assert ended.is_set()

    asyncio.run(scene())


def test_first_of_leaves_tasks_alone_and_ends_coroutines() -> None:
    async def scene() -> None:
        ended = asyncio.Event()

        async def endless() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        task = asyncio.ensure_future(asyncio.get_running_loop().create_future())
        await first_of(task, endless(), asyncio.sleep(0))
        assert ended.is_set()
        assert not task.done()
        task.cancel()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("market", "coinm"),
        ("ws_url", "https://stream.binance.com"),
        ("rest_url", "api.binance.com"),
        ("streams", ()),
        ("streams", ("depth",)),
        ("backoff_min_s", 0.0),
        ("backoff_min_s", 31.0),
        ("idle_s", 0.0),
        ("connect_timeout_s", -1.0),
        ("answer_timeout_s", 0.0),
        ("max_frame_bytes", 100),
        ("rotate_after_s", 86_400.0),
        ("overlap_s", -0.1),
        ("subscribe_batch", 0),
        ("subscribe_pause_s", 0.2),
        ("streams_per_connection", 1_025),
        ("connects_per_5_min", 301),
        ("rest_timeout_s", 0.0),
        ("stale_after_s", 0.0),
        ("max_backfill_trades", -1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"feed\.{name}: expected .*, found"):
        replace(SPOT, **{name: value})


def test_usdm_allows_more_messages_a_second_and_fewer_streams() -> None:
    usdm = FeedSettings("usdm", *ENDPOINTS["usdm"], subscribe_pause_s=0.12)
    with pytest.raises(ConfigError, match="1 to 200 on usdm"):
        replace(usdm, streams_per_connection=201)


def test_what_comes_as_the_caller_is_cancelled_is_discarded() -> None:
    async def scene() -> list[str]:
        discarded = []

        async def discard(late: str) -> None:
            discarded.append(late)

        async def answer() -> str:
            caller.cancel()  # at the very moment the answer is there
            return "socket"

        caller = asyncio.ensure_future(within(SteppingClock(), 60.0, answer(), discard=discard))
        with contextlib.suppress(asyncio.CancelledError):
            await caller
        return discarded

    assert asyncio.run(scene()) == ["socket"]
