"""Runners that catch up from another one's log: killed in the middle, and on a feed with settings given besides."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from tests.exchange.server import Exchange
from tests.integration.runner_process import MAX_GAP_MS, Runner, Scene, n_rows, rows, scene, until
from tests.integration.test_hot_reload import START_MS, messages
from tests.parity.live_runs import HORIZONS, SESSIONS, FakeClock, in_log, loose
from v13 import market
from v13.live.reload_facts import read_facts
from v13.live.session import Session
from v13.market.intake import Intake
from v13.store import write_text
from v13.store.event_log import EventLog
from v13.telemetry import Metrics

N_BARS = 20_000
N_KILLS = int(os.environ.get("V13_KILLS", "4"))
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
NOWHERE = {"V13__FEED__WS_URL": "ws://127.0.0.1:9", "V13__FEED__REST_URL": "http://127.0.0.1:9"}
PORTION = 20  # bars played at once: one stream must not be a minute ahead of the other


def lead(path: Path, n_bars: int) -> None:
    """Write the log of a runner that has seen these bars, all of them kept."""
    intakes = {symbol: Intake(1_000, MAX_GAP_MS) for symbol in SYMBOLS}
    path.parent.mkdir(parents=True, exist_ok=True)
    with EventLog(path, keep_bars=10 * n_bars, now_ms=FakeClock().wall_ms) as log:
        own = Session(
            intakes,
            loose(),
            None,
            {},
            log=log,
            metrics=Metrics(HORIZONS, SYMBOLS),
            clock=FakeClock(),
            sessions=SESSIONS,
            horizons=HORIZONS,
        )
        for seed, symbol in enumerate(SYMBOLS):
            own.advance({symbol: market.simulate_bars(market.MarketSpec("planted", n_bars=n_bars), seed).bars})


def is_made(log: Path) -> bool:
    """Tell whether a log has its tables, and so its runner is about to look at the other one."""
    try:
        with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'config'").fetchone()[0])
    except sqlite3.OperationalError:
        return False


@pytest.mark.slow
def test_a_runner_killed_while_it_catches_up_has_all_of_it_or_nothing_and_then_all(tmp_path: Path) -> None:
    made, other, pick = (
        scene(tmp_path, loose(), n_bars=100, symbols=["BTCUSDT"]),
        tmp_path / "a.sqlite",
        random.Random(13),
    )
    lead(other, N_BARS)
    expected, total = in_log(other), N_BARS * len(SYMBOLS)
    assert len(expected[0]) > 1_000
    arguments = ("--feed", "binance", "--symbols", *SYMBOLS)
    where = {"V13__RUNNER__WARM_FROM": str(other), **NOWHERE}

    def begin(runner: Runner) -> float:
        until(lambda: is_made(made.log) or runner.process.poll() is not None, "a log")
        return monotonic()

    def forget() -> None:
        for leftover in made.log.parent.glob(f"{made.log.name}*"):
            leftover.unlink()

    with made.running(*arguments, **where) as runner:  # undisturbed: how long it takes
        begun = begin(runner)
        runner.started()
        took_s = monotonic() - begun
        until(lambda: runner.get("/-/ready")[1] != "starting\n", "a look at the parts")
        runner.signal(signal.SIGTERM)
        assert runner.end() == 0
    assert in_log(made.log) == expected
    forget()
    found = []
    for number in range(N_KILLS):
        with made.running(*arguments, **where) as runner:
            # One of them before it can be done, the others at any time.
            kill_at = begin(runner) + took_s * (0.1 if number == 0 else pick.random())
            until(lambda at=kill_at: monotonic() >= at, "the time of the kill")  # type: ignore[misc]
            runner.signal(signal.SIGKILL)
            runner.end()
        found.append(n_rows(made.log))
        assert found[-1] in (0, total)
        assert in_log(made.log) == (expected if found[-1] else ({}, {}))
        if found[-1]:
            forget()
    assert 0 in found, "no kill came while it was catching up"
    with made.running(*arguments, **where) as runner:
        runner.started()
        assert in_log(made.log) == expected
        assert rows(made.log) == rows(other)
        assert runner.metric("divergence_bars_total") == total
        assert runner.metric("divergence_pipeline_latency_seconds_count") == 0
        assert runner.metric("divergence_detection_latency_seconds_count") == 0
        assert runner.metric("divergence_commit_seconds_count") == 0
        until(lambda: runner.get("/-/ready")[1] != "starting\n", "a look at the parts")
        runner.signal(signal.SIGTERM)
        assert runner.end() == 0


def bars_of(log: Path, symbol: str) -> np.ndarray:
    with EventLog(log, keep_bars=10_000, now_ms=lambda: 0) as opened:
        return opened.bars_after(symbol, 0)


@pytest.mark.slow
def test_a_symbol_that_its_settings_add_on_a_feed_is_warm_at_once(tmp_path: Path) -> None:
    made = scene(tmp_path, loose(), n_bars=100, symbols=["BTCUSDT"])
    overlay, own = tmp_path / "live" / "new.yaml", tmp_path / "new.sqlite"
    overlay.parent.mkdir()
    made.environ |= {"V13__RUNNER__MARKET": "usdm", "V13__RUNNER__GRACE_MS": "60000"}

    def follow(*symbols: str) -> None:
        listed = ", ".join(symbols)
        write_text(overlay, f"runner:\n  symbols: [{listed}]\n  log: {own}\n  warm_from: {made.log}\n")

    async def seen(what: str, log: Path, **wanted: int) -> None:
        def claim() -> bool:
            return {s for s, (n, _) in rows(log).items() if n >= wanted.get(s, 0)} == wanted.keys()

        await asyncio.to_thread(until, claim, what)

    async def play(exchange: Exchange, first_s: int, n_bars: int, symbols: Sequence[str]) -> None:
        sent = [m for s in SYMBOLS[:2] for m in messages(s, START_MS + first_s * 1_000, n_bars)]
        exchange.list_trades(sent)
        await exchange.play(sorted(sent, key=lambda m: m.recv_ns))
        last = first_s + n_bars - 1
        await seen(f"bar {last}", made.log, BTCUSDT=last, ETHUSDT=last)
        await seen(f"bar {last}", own, **dict.fromkeys(symbols, last))

    async def live() -> None:
        async with Exchange("usdm") as exchange:
            where = {"V13__FEED__WS_URL": exchange.ws_url, "V13__FEED__REST_URL": exchange.rest_url}
            streams = [f"{s.lower()}@{name}" for s in SYMBOLS[:2] for name in ("aggTrade", "bookTicker")]
            with made.running("--feed", "binance", "--symbols", *SYMBOLS[:2], **where) as old:
                await asyncio.to_thread(old.started)
                follow("BTCUSDT")
                with made.running("--feed", "binance", "--settings", str(overlay), **where) as new:
                    url = await asyncio.to_thread(new.started) + "/metrics"
                    await exchange.subscribed(streams)
                    await exchange.until(lambda: all(len(exchange.takers(s)) == 2 for s in streams[:2]))
                    for first in range(0, 3 * PORTION, PORTION):
                        await play(exchange, first, PORTION, ["BTCUSDT"])
                    assert rows(own).keys() == {"BTCUSDT"}
                    follow("BTCUSDT", "ETHUSDT")
                    await seen("the other symbol", own, BTCUSDT=3 * PORTION - 1, ETHUSDT=3 * PORTION - 1)
                    await exchange.until(lambda: all(len(exchange.takers(s)) == 2 for s in streams))
                    await asyncio.to_thread(until, lambda: new.get("/-/ready")[0] == 200, "warm before the first bar")
                    await play(exchange, 3 * PORTION, PORTION, SYMBOLS[:2])
                    follow("ETHUSDT")
                    await asyncio.to_thread(until, lambda: read_facts(url).symbols == ("ETHUSDT",), "one symbol less")
                    overlay.unlink()
                    await asyncio.to_thread(until, lambda: read_facts(url).n_refused == 1, "the file is gone")
                    facts = read_facts(url)
                    assert (facts.symbols, facts.n_ok, facts.successful) == (("ETHUSDT",), 2, False)
                    for runner in (old, new):
                        runner.signal(signal.SIGTERM)
                        assert await asyncio.to_thread(runner.end) == 0
                    told = "".join(new.said)
                    assert f"{overlay}: missing" in told
                    assert "ETHUSDT: caught up by 59 bars" in told
            assert exchange.violations == []

    asyncio.run(live())
    for symbol in SYMBOLS[:2]:
        theirs, mine = bars_of(made.log, symbol), bars_of(own, symbol)
        for name in ("ts_ms", "close", "volume", "delta", "n_trades"):
            assert mine[name].tobytes() == theirs[name].tobytes(), (symbol, name)
        # Of the bar that was open when the new one came some quotes are gone; the first quote after it has no other
        # to be compared with where silence was long.
        differs = np.flatnonzero(mine != theirs)
        assert set(differs.tolist()) <= {3 * PORTION - 1, 3 * PORTION}


def refused(made: Scene, *arguments: str, **environ: str) -> str:
    done = made.finish(*arguments, **environ)
    assert done.returncode == 3
    return done.stderr


@pytest.mark.slow
def test_a_bad_file_of_settings_and_the_own_log_are_refused_at_the_start(tmp_path: Path) -> None:
    made = scene(tmp_path, loose(), n_bars=100, symbols=["BTCUSDT"])
    overlay = tmp_path / "new.yaml"
    assert f"{overlay}: missing" in refused(made, "--settings", str(overlay))
    write_text(overlay, "runner:\n  symbol: [BTCUSDT]\n")
    assert f"{overlay}:2: runner.symbol: unknown key; did you mean symbols?" in refused(
        made, "--settings", str(overlay)
    )
    told = refused(made, V13__RUNNER__WARM_FROM=str(made.log))
    assert "runner.warm_from: " in told
    assert "is this runner's own log (runner.log: runs/live/events.sqlite)" in told
    assert "Traceback" not in told
