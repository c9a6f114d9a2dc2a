"""Waits that must not be cut short."""

from __future__ import annotations

import asyncio

import pytest

from v13.live.deadline import to_the_end


def test_what_is_to_end_ends_although_its_caller_is_cancelled_twice() -> None:
    async def scene() -> None:
        begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def goodbye() -> None:
            begun.set()
            await go.wait()
            ended.set()

        caller = asyncio.create_task(to_the_end(goodbye()))
        await begun.wait()
        for _ in range(2):
            caller.cancel()
            await asyncio.sleep(0)
            assert not caller.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ended.is_set()

    asyncio.run(scene())


def test_what_it_gives_or_raises_is_handed_on() -> None:
    async def give(value: int) -> int:
        if value < 0:
            raise ValueError(value)
        return value

    assert asyncio.run(to_the_end(give(3))) == 3
    with pytest.raises(ValueError, match="-1"):
        asyncio.run(to_the_end(give(-1)))
