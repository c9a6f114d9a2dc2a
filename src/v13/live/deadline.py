"""Waits that end with the first of several, limits on waits kept by a clock, and waits that nobody can cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from v13.live.clock import Clock

__all__ = ["first_of", "to_the_end", "within"]

T = TypeVar("T")


async def first_of(*waits: Awaitable[Any]) -> None:
    """Return when one of them is done; whether with a result or an error is left to the caller to see.

    Parameters
    ----------
    *waits : awaitable
        Futures and tasks go on afterwards; coroutines are cancelled and have ended.
    """
    futures = [asyncio.ensure_future(wait) for wait in waits]
    ours = [future for future, wait in zip(futures, waits, strict=True) if future is not wait]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in ours:
            future.cancel()
        await asyncio.gather(*ours, return_exceptions=True)


async def within(
    clock: Clock, seconds: float, wait: Awaitable[T], discard: Callable[[T], Awaitable[object]] | None = None
) -> T:
    """Return what `wait` gives, if it gives it in time; cancel it if not.

    Parameters
    ----------
    clock : Clock
    seconds : float, > 0
    wait : awaitable
    discard : callable or None
        Takes what `wait` gave where nobody else will: it came as the time passed or the caller was cancelled.

    Raises
    ------
    TimeoutError
        The time has passed. `wait` was cancelled and has ended.
    """
    task = asyncio.ensure_future(wait)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    is_handed_over = False
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            is_handed_over = True
            return task.result()
        raise TimeoutError(f"no answer within {seconds:g} s")
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)
        if discard is not None and not (is_handed_over or task.cancelled() or task.exception()):
            await discard(task.result())


async def to_the_end(wait: Coroutine[Any, Any, T]) -> T:
    """Return what `wait` gives; a caller who is cancelled meanwhile is so only once it has ended.

    Parameters
    ----------
    wait : coroutine
        What must not be left half done, such as the closing of a socket; it has to end by itself.
    """
    task = asyncio.ensure_future(wait)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        await asyncio.gather(task, return_exceptions=True)
        raise cancelled
    return task.result()
