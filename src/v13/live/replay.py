"""Recordings played into a session: as fast as it goes, or with the time they took, divided by a speed.

It goes on where the session's log ends. Everything behind the messages is what a live feed goes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.errors import StoreError
from v13.live.clock import Clock
from v13.live.session import Session
from v13.market.playback import Block, Playback
from v13.telemetry import Metrics

__all__ = ["play"]

CHUNK_BARS: Final = 65_536  # of a recording of bars, at a time
RETRY_S: Final = 1.0  # between attempts of a commit the disk refused
STREAM: Final = {"trades": "trade", "quotes": "quote"}

Records = NDArray[Any]


@dataclass
class _Player:
    """One symbol's recording and how far it was played."""

    playback: Playback
    blocks: Iterator[Block]
    bars: Records
    at_ms: int  # no bar that ends by then is still to come
    is_done: bool = False
    held: list[Block] = field(default_factory=list)


async def play(
    session: Session, playbacks: Mapping[str, Playback], *, metrics: Metrics, clock: Clock, speed: float | None = None
) -> None:
    """Play recordings to their end.

    Parameters
    ----------
    session : Session
        Its intakes are those of the recordings' symbols.
    playbacks : mapping of symbol to Playback
    metrics : Metrics
    clock : Clock
    speed : float or None, > 0
        1 takes as long as the recording did; None: no waiting.

    Raises
    ------
    DataError
        A file changed since it was opened.
    """
    if session.is_stalled:  # what was caught up at the start is not in the log yet
        await _advance(session, {}, clock)
    players = []
    for symbol, playback in playbacks.items():
        start = session.lanes[symbol].ts_ms
        bars = np.empty(0) if playback.bars is None else playback.bars[playback.bars["ts_ms"] > start]
        blocks = iter(()) if playback.bars is not None else playback.blocks(start)
        players.append(_Player(playback, blocks, bars, start))
    counters = {kind: metrics.bind("divergence_messages_total", stream=name) for kind, name in STREAM.items()}
    play_all = _at_once if speed is None else _paced
    try:
        await play_all(session, players, counters, clock, speed or 0.0)
        await _advance(session, {}, clock)
    finally:
        if not session.is_stalled:
            session.checkpoint()


async def _at_once(
    session: Session, players: list[_Player], counters: Mapping[str, Any], clock: Clock, _speed: float
) -> None:
    """Hand over whole blocks, the symbol that is behind first."""
    left = list(players)
    while left:
        player = min(left, key=lambda p: p.at_ms)
        symbol = player.playback.symbol
        intake = session.lanes[symbol].intake
        if player.playback.bars is not None:
            closed, player.bars = player.bars[:CHUNK_BARS], player.bars[CHUNK_BARS:]
            player.is_done = not player.bars.size
        else:
            block = next(player.blocks, None)
            if block is None:
                closed, player.is_done = intake.finish(), True
            else:
                _take(intake, block, counters)
                closed = intake.finish() if block.until_ms is None else intake.close_until(block.until_ms)
                player.at_ms = block.until_ms or player.at_ms
        if closed.size:
            player.at_ms = max(player.at_ms, int(closed["ts_ms"][-1]))
        await _advance(session, {symbol: closed}, clock)
        if player.is_done:
            left.remove(player)


async def _paced(
    session: Session, players: list[_Player], counters: Mapping[str, Any], clock: Clock, speed: float
) -> None:
    """Hand over what one bar's time brought, for all symbols, and wait until that time has passed."""
    bar_ms = min(p.playback.bar_ms for p in players)
    starts = [ms for p in players if (ms := _first_ms(p)) is not None]
    if not starts:
        return
    begin_ms = min(starts) // bar_ms * bar_ms
    begin_ns = clock.monotonic_ns()
    at_ms = begin_ms
    while any(not p.is_done for p in players):
        at_ms += bar_ms
        due_ns = begin_ns + int((at_ms - begin_ms) * 1e6 / speed)
        wait_s = (due_ns - clock.monotonic_ns()) / 1e9
        await clock.sleep(max(wait_s, 0.0))
        received_ns = clock.monotonic_ns()
        closed = {}
        for player in players:
            if not player.is_done:
                closed[player.playback.symbol] = _bars_until(session, player, at_ms, counters)
        await _advance(session, closed, clock, dict.fromkeys(closed, received_ns))


def _bars_until(session: Session, player: _Player, at_ms: int, counters: Mapping[str, Any]) -> Records:
    if player.playback.bars is not None:
        n = int(np.searchsorted(player.bars["ts_ms"], at_ms, side="right"))
        closed, player.bars = player.bars[:n], player.bars[n:]
        player.is_done = not player.bars.size
        return closed
    intake = session.lanes[player.playback.symbol].intake
    while (player.held[-1].until_ms if player.held else -1) is not None and _reached(player) < at_ms:
        block = next(player.blocks, None)
        if block is None:
            player.held.append(Block("trades", (np.empty(0, np.int64),), None))
            break
        player.held.append(block)
    kept = []
    for block in player.held:
        n = int(np.searchsorted(block.columns[0], at_ms))
        if n:
            _take(intake, Block(block.kind, tuple(c[:n] for c in block.columns), block.until_ms), counters)
        if n < block.columns[0].size or block is player.held[-1]:
            kept.append(Block(block.kind, tuple(c[n:] for c in block.columns), block.until_ms))
    player.held = kept
    if kept and kept[-1].until_ms is None and not any(block.columns[0].size for block in kept):
        player.is_done = True
        return intake.finish()
    return intake.close_until(at_ms)


def _reached(player: _Player) -> int:
    until = player.held[-1].until_ms if player.held else None
    return -1 if until is None else until


def _first_ms(player: _Player) -> int | None:
    if player.playback.bars is not None:
        player.is_done = not player.bars.size
        return int(player.bars["ts_ms"][0]) - player.playback.bar_ms if player.bars.size else None
    firsts: dict[str, int] = {}
    for block in player.blocks:
        player.held.append(block)
        if block.columns[0].size:
            firsts.setdefault(block.kind, int(block.columns[0][0]))
        if block.until_ms is None or (firsts and block.until_ms >= 0):
            break
    return min(firsts.values(), default=None)


def _take(intake: Any, block: Block, counters: Mapping[str, Any]) -> None:
    n = block.columns[0].size
    if n:
        (intake.add_trades if block.kind == "trades" else intake.add_quotes)(*block.columns)
        counters[block.kind].inc(n)


async def _advance(
    session: Session, closed: Mapping[str, Records], clock: Clock, received_ns: Mapping[str, int] | None = None
) -> None:
    """Advance; where the disk refuses, wait for it: a recording does not go away."""
    step: Any = lambda: session.advance(closed, received_ns)  # noqa: E731
    while True:
        try:
            step()
            break
        except StoreError:
            if not session.is_stalled:
                raise
            await clock.sleep(RETRY_S)
            step = session.retry
    await asyncio.sleep(0)  # signals, reloads and scrapes get their turn
