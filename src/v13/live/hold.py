"""A replay that is held: it begins at a word from whoever started the runner, and the runner stays up after its end.

Whoever watches it can so look at the counters before the first bar and after the last one, however slow the machine is.
It plays nothing itself, and reads standard input only.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from v13.errors import ConfigError

__all__ = ["HELD", "PLAYED", "play_held"]

HELD: Final = "held: a line on standard input starts the replay"
PLAYED: Final = "played: up until standard input ends"


async def play_held(play: Callable[[], Awaitable[None]], say: Callable[[str], None]) -> None:
    """Wait for a line on standard input, play, and wait for its end; where it has ended already nothing is waited for.

    Parameters
    ----------
    play : callable
        Begins to play when it is called.
    say : callable
        Takes HELD and PLAYED.

    Raises
    ------
    ConfigError
        Standard input is no pipe, socket or terminal.
    """
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):  # of a file no end can be waited for
        raise ConfigError(
            "--hold: expected a pipe, socket or terminal as standard input, found none; whoever starts the runner has "
            "to hold the other end"
        )
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        say(HELD)
        await reader.readline()
        await play()
        say(PLAYED)
        while await reader.readline():  # more lines mean nothing
            pass
    finally:
        transport.close()
