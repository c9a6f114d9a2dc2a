"""The whole runner on a live feed: a real process, a real socket, a local exchange."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from time import monotonic

import pytest

from tests.exchange.server import Exchange
from tests.integration.runner_process import n_rows, rows, scene, until
from tests.integration.test_runner_faults import STOP_S, checkpoints
from tests.parity.live_runs import SESSIONS, loose
from tests.parity.test_live_parity import simulated_frames
from v13.detector import Detector
from v13.store.event_log import EventLog
from v13.store.event_reader import read_events

N_BARS = 200
SPEED = 20.0  # much faster, and one stream would be more than a minute ahead of the other
FOREVER_MS = "60000"  # then only messages end a bar, whatever the pace


@pytest.mark.slow
def test_bars_and_events_of_a_live_feed_are_those_of_its_messages_and_it_stops_in_time(tmp_path: Path) -> None:
    made = scene(tmp_path, loose(), n_bars=100)
    frames, bars = simulated_frames(13, N_BARS, "BTCUSDT")
    made.environ |= {"V13__RUNNER__MARKET": "usdm", "V13__RUNNER__GRACE_MS": FOREVER_MS}

    async def live() -> None:
        async with Exchange("usdm") as exchange:
            where = {"V13__FEED__WS_URL": exchange.ws_url, "V13__FEED__REST_URL": exchange.rest_url}
            with made.running("--feed", "binance", "--symbols", "BTCUSDT", **where) as runner:
                await asyncio.to_thread(runner.started)
                await asyncio.to_thread(until, lambda: runner.get("/-/ready")[1] != "starting\n", "a look at the parts")
                status, reason = await asyncio.to_thread(runner.get, "/-/ready")
                assert status == 503
                assert "warming up: BTCUSDT" in reason
                await exchange.subscribed(["btcusdt@aggTrade", "btcusdt@bookTicker"])
                assert await exchange.play(frames, SPEED) == []
                await asyncio.to_thread(
                    until, lambda: runner.metric("divergence_messages_total") == len(frames), "all was received"
                )
                await asyncio.to_thread(until, lambda: runner.get("/-/ready")[0] == 200, "warm and fed")
                assert await asyncio.to_thread(runner.metric, "divergence_bars_total") >= n_rows(made.log)
                asked = monotonic()
                runner.signal(signal.SIGTERM)
                assert await asyncio.to_thread(runner.end) == 0
                assert monotonic() - asked < STOP_S
            assert not exchange.violations

    asyncio.run(live())
    (n, last_ms) = rows(made.log)["BTCUSDT"]
    assert checkpoints(made.log) == {"BTCUSDT": n}
    assert n >= N_BARS - 2  # the last bars are not over
    with EventLog(made.log, keep_bars=10_000, now_ms=lambda: 0) as log:
        kept = log.bars_after("BTCUSDT", 0)
    expected = bars[bars["ts_ms"] <= last_ms]
    assert kept.tobytes() == expected[-kept.size :].tobytes()
    events = Detector(loose(), SESSIONS).run(expected)
    assert read_events(made.log)["ts_ms"].to_list() == events["ts_ms"].tolist()
    assert len(events) > 5
