"""What can go wrong on the way: recordings changed as a bad day changes them, and faults to put between messages."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.exchange.recordings import Message

Kind = Literal["cut", "lose", "stall", "garbage", "oversize", "drip", "shutdown"]


@dataclass(frozen=True)
class Fault:
    """Something the server does between two messages.

    `cut`: half of the next message, then the connection is dropped; the next `n` messages after it are lost, and the
    rest waits for the client. `lose`: the next `n` are not sent. `stall`: nothing for `seconds`. `garbage`: a frame
    that is no JSON. `oversize`: a frame of `n` bytes. `drip`: the next message byte by byte, and the last byte never.
    `shutdown`: the announcement that the server goes down.
    """

    kind: Kind
    n: int = 0
    seconds: float = 0.0


Step = Message | Fault


def with_faults(messages: Sequence[Message], faults: dict[int, Fault]) -> list[Step]:
    """Return the messages with each fault before the message of its index."""
    steps: list[Step] = []
    for i, message in enumerate(messages):
        if i in faults:
            steps.append(faults[i])
        steps.append(message)
    return steps


def duplicated(messages: Iterable[Message], share: float, seed: int) -> list[Message]:
    """Return the messages, a share of them twice in a row."""
    rng = random.Random(seed)
    return [copy for message in messages for copy in [message] * (2 if rng.random() < share else 1)]


def reordered(messages: Sequence[Message], reach: int, seed: int) -> list[Message]:
    """Return the messages, each moved by at most `reach` places."""
    rng = random.Random(seed)
    keys = [i + rng.uniform(0, reach) for i in range(len(messages))]
    return [messages[i] for i in sorted(range(len(messages)), key=keys.__getitem__)]


def without_trades(messages: Iterable[Message], ids: Iterable[int]) -> list[Message]:
    """Return the messages without the aggregate trades of these ids."""
    gone = set(ids)
    return [m for m in messages if not (m.stream.endswith("@aggTrade") and json.loads(m.raw)["data"]["a"] in gone)]


def clock_off(messages: Iterable[Message], ms: int) -> list[Message]:
    """Return the messages with the exchange's clock moved."""
    moved = []
    for message in messages:
        frame = json.loads(message.raw)
        for name in ("E", "T"):
            if name in frame["data"]:
                frame["data"][name] += ms
        moved.append(Message(message.recv_ns, json.dumps(frame, separators=(",", ":")).encode()))
    return moved


def wrong_symbol(messages: Iterable[Message], symbol: str, share: float, seed: int) -> list[Message]:
    """Return the messages, a share of them naming another symbol in envelope and content."""
    rng = random.Random(seed)
    changed = []
    for message in messages:
        frame = json.loads(message.raw)
        if rng.random() < share:
            frame["data"]["s"] = symbol
            frame["stream"] = f"{symbol.lower()}@{frame['stream'].partition('@')[2]}"
            message = Message(message.recv_ns, json.dumps(frame, separators=(",", ":")).encode())
        changed.append(message)
    return changed
