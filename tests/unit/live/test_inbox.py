"""The inbox against a naive list, and what it sheds."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v13.errors import ConfigError
from v13.live.inbox import Inbox
from v13.telemetry import Metrics

RAW = {"trade": b'{"stream":"x@trade","data":%d}', "quote": b'{"stream":"x@bookTicker","data":%d}'}
ROW = ("BTCUSDT", 1_700_000_000_000, 1, 2.0, 3.0, 1)


class NaiveInbox:
    """One list; sheds by looking through it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.dropped = limit, [], {"trade": 0, "quote": 0}

    def put(self, entry: tuple[str, bytes, int, int]) -> None:
        self.held.append(entry)
        if len(self.held) > self.limit:
            victim = next((e for e in self.held if e[0] == "quote"), self.held[0])
            self.held.remove(victim)
            self.dropped[victim[0]] += 1

    def take(self, n: int) -> list[tuple[str, bytes, int, int]]:
        taken, self.held = self.held[:n], self.held[n:]
        return taken


@given(st.integers(1, 6), st.lists(st.sampled_from(["trade", "quote"]) | st.integers(1, 4), max_size=60))
def test_it_holds_and_sheds_what_a_naive_list_does(limit: int, script: list[str | int]) -> None:
    inbox, naive = Inbox(limit), NaiveInbox(limit)
    for i, act in enumerate(script):
        if isinstance(act, int):
            assert inbox.take(act) == naive.take(act)
        else:
            entry = (act, RAW[act] % i, i, 10 * i)
            assert inbox.put(*entry[1:])
            naive.put(entry)
        assert inbox.size == len(naive.held)
        assert inbox.dropped == naive.dropped
    assert inbox.take(len(script) + 1) == naive.held


def test_a_frame_of_neither_kind_is_not_taken() -> None:
    inbox = Inbox(3)
    assert not inbox.put(b'{"result":null,"id":1}', 1, 1)
    assert inbox.size == 0


def test_backfilled_trades_come_first_and_count_each() -> None:
    inbox = Inbox(10)
    inbox.put(RAW["quote"] % 1, 1, 1)
    assert inbox.put_rows("BTCUSDT", [ROW] * 4, 2, 2)
    assert inbox.put_rows("BTCUSDT", [], 2, 2)
    assert inbox.size == 5
    assert inbox.take(1) == [("rows", ("BTCUSDT", [ROW] * 4), 2, 2)]
    assert inbox.size == 1
    assert [entry[0] for entry in inbox.take(9)] == ["quote"]


def test_backfilled_trades_that_do_not_fit_are_counted_and_shed_nothing_live() -> None:
    metrics = Metrics((10,))
    inbox = Inbox(4, metrics)
    for i in range(3):
        inbox.put(RAW["trade"] % i, i, i)
    assert not inbox.put_rows("BTCUSDT", [ROW] * 2, 9, 9)
    assert inbox.size == 3
    assert inbox.dropped == {"trade": 2, "quote": 0}
    assert metrics.bind("divergence_dropped_total", stream="trade", reason="overload").read() == 2


def test_drops_and_size_are_told() -> None:
    metrics = Metrics((10,))
    inbox = Inbox(2, metrics)
    for i, kind in enumerate(["trade", "quote", "quote", "trade", "trade"]):
        inbox.put(RAW[kind] % i, i, i)
    told = [metrics.bind("divergence_dropped_total", stream=s, reason="overload").read() for s in ("trade", "quote")]
    assert told == [1, 2]
    assert b"\ndivergence_queue_size 2" in metrics.expose()


def test_waiting_ends_when_something_comes() -> None:
    async def scene() -> None:
        inbox = Inbox(5)
        for put in (lambda: inbox.put(RAW["trade"] % 1, 1, 1), lambda: inbox.put_rows("BTCUSDT", [ROW], 1, 1)):
            waiting = asyncio.ensure_future(inbox.wait())
            await asyncio.sleep(0)
            assert not waiting.done()
            put()
            put()
            await asyncio.wait_for(waiting, 5)
            await asyncio.wait_for(inbox.wait(), 5)
            inbox.take(9)

    asyncio.run(scene())


def test_pouring_keeps_order_and_receipt_and_counts_drops() -> None:
    source, target = Inbox(2), Inbox(9)
    for i, kind in enumerate(["quote", "trade", "quote"]):
        source.put(RAW[kind] % i, i, 10 * i)
    source.pour_into(target)
    assert target.take(9) == [("trade", RAW["trade"] % 1, 1, 10), ("quote", RAW["quote"] % 2, 2, 20)]
    assert target.dropped == {"trade": 0, "quote": 1}
    assert source.size == 0


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Inbox(0)
