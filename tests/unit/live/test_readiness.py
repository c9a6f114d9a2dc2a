"""What the runner says of its health, and why: the watch over a consumer whose bars stand still."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.live.test_consumer import Scene, minute, scene
from v13.config import Config
from v13.live.notify import Notifier
from v13.live.reload_parts import LiveParts, Parts
from v13.live.runner import _State, _watch
from v13.telemetry import Health


class OneLookError(Exception):
    """Ends the watch where it would sleep."""


class Heard:
    """A feed that is connected and has just heard of every symbol."""

    connected = True
    symbols = ("BTCUSDT", "ETHUSDT")

    def staleness_s(self, symbol: str) -> float:
        return 0.0 * len(symbol)


def look(s: Scene) -> Health:
    """Let the watch look once."""

    async def end(seconds: float) -> None:
        raise OneLookError(f"would sleep {seconds} s")

    state = _State()
    live = LiveParts(Heard(), s.inbox, s.consumer, SimpleNamespace)  # type: ignore[arg-type]
    parts = Parts(Config(), SimpleNamespace(), s.session, s.metrics, live)  # type: ignore[arg-type]
    clock = SimpleNamespace(monotonic_ns=s.clock.monotonic_ns, sleep=end)
    with pytest.raises(OneLookError):
        asyncio.run(_watch(parts, state, clock, Notifier({})))  # type: ignore[arg-type]
    return state.health


def test_it_is_not_ready_while_messages_come_and_no_bar_is_over_and_says_so(tmp_path: Path) -> None:
    why = "messages come and no bar is over any more (exchange clock set back?): BTCUSDT"
    with scene(tmp_path) as s:
        minute(s, 0)
        assert why not in look(s).reason
        minute(s, 60_000, -3_600_000)
        health = look(s)
        assert not health.ready
        assert why in health.reason
        assert s.metrics.bind("divergence_active_symbols").read() == 0
        minute(s, 120_000)
        assert why not in look(s).reason
