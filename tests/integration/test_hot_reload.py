"""Hot reload of a real runner process: the proof, kills around a change, symbols on a feed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPO
from tests.exchange.recordings import Message, agg_trade, book_ticker
from tests.exchange.server import Exchange
from v13 import market
from v13.config.parameters import read_parameters
from v13.detector import Detector, DetectorParams, SessionClock
from v13.errors import FeedError
from v13.live import reload_proof
from v13.live.reload_facts import Facts, read_facts, watch
from v13.live.reload_stage import OVERRIDES, PARAMETERS, SYMBOLS, RunnerProcess, prepare, until
from v13.store import write_text
from v13.store.event_schema import event_id
from v13.telemetry import Health, Metrics, start_exporter

SCRIPT = REPO / "scripts" / "config_hot_update.py"
SYSTEM = "config/system.yaml"
LOG = "runs/live/events.sqlite"
START_MS = 1_700_000_000_000


def query(root: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{root / LOG}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def change(root: Path, old: str, new: str, name: str = PARAMETERS) -> DetectorParams:
    text = (root / name).read_text()
    assert text.count(old) == 1, old
    write_text(root / name, text.replace(old, new))
    return params_of(root)


def params_of(root: Path) -> DetectorParams:
    return read_parameters(root / PARAMETERS, root / OVERRIDES).params


def hold_against_the_batch_path(root: Path, recording: Path, versions: Sequence[DetectorParams]) -> None:
    """Demand, for each symbol and version, the events of a detector that had its parameters from the first bar on."""
    since = dict(query(root, "SELECT version, since_ms FROM config"))
    reached = dict(query(root, "SELECT symbol, ts_ms FROM state"))
    assert sorted(since) == list(range(1, len(versions) + 1))
    wanted: dict[str, int] = {}
    for symbol, found in market.load(recording).items():
        bars = found.bars[found.bars["ts_ms"] <= reached[symbol]]
        in_force = np.sum([bars["ts_ms"] > ms for ms in since.values()], axis=0)
        assert bars.size == query(root, f"SELECT rows FROM state WHERE symbol = '{symbol}'")[0][0]
        for version, params in enumerate(versions, 1):
            for event in Detector(params, SessionClock("UTC", "09:00", "17:00")).run(bars):
                if in_force[np.searchsorted(bars["ts_ms"], event["ts_ms"])] == version:
                    wanted[event_id(symbol, event)] = version
    assert dict(query(root, "SELECT event_id, config_version FROM event")) == wanted
    assert set(wanted.values()) == set(since)


@pytest.mark.slow
def test_the_script_proves_it_within_its_time() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    n_steps = sum(line == "    as expected" for line in lines)
    assert lines[-1] == f"{n_steps} steps, 0 not as expected"
    assert n_steps > 30
    assert done.stderr == ""


def test_the_proof_fails_where_something_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """A runner that reloads nothing."""

        def facts(self) -> Facts:
            return Facts(1, "1-abc", "5", "1.2", "0.4", False, 0, 0, True, 0.0, 1, SYMBOLS)

        def said(self) -> str:
            return "2026-01-01 00:00:00,000 INFO nothing"

    monkeypatch.setattr(reload_proof, "until", lambda claim: bool(claim()))
    said: list[str] = []
    proof = reload_proof._Proof(tmp_path, Deaf(), said.append)
    proof._see("started", proof._metrics())
    assert [step.is_right for step in proof.steps] == [True]
    proof._taken("a change")
    proof._refused("a bad one", "config/system.yaml:1: key")
    assert [step.is_right for step in proof.steps] == [True, False, False]
    assert said[-1] == "    NOT AS EXPECTED"


@pytest.mark.slow
def test_a_kill_between_a_change_and_the_first_bar_under_it(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=3_000)
    versions = [params_of(tmp_path)]
    feed = ("--feed", f"replay:{recording}", "--speed")
    with RunnerProcess(tmp_path, *feed, "300") as runner:
        assert until(lambda: runner.facts().n_bars > 1_500)
        assert runner.end(signal.SIGTERM) == 0
    reached = query(tmp_path, "SELECT max(ts_ms) FROM state")[0][0]
    for old, new in (("z_hi: 1.2", "z_hi: 0.9"), ("window: 60", "window: 100")):
        with RunnerProcess(tmp_path, *feed, "0.001") as runner:  # the next bar is a quarter of an hour away
            versions.append(change(tmp_path, old, new))
            assert until(lambda: runner.facts().version == len(versions))
            assert runner.end(signal.SIGKILL) == -signal.SIGKILL
        assert query(tmp_path, "SELECT max(ts_ms) FROM state")[0][0] == reached
        assert query(tmp_path, "SELECT max(version), max(since_ms) FROM config")[0] == (len(versions), reached)
    with RunnerProcess(tmp_path, *feed, "max") as runner:  # to the end of the recording
        assert runner.process.wait(60) == 0
    assert query(tmp_path, "SELECT DISTINCT rows FROM state") == [(3_000,)]
    del versions[1]  # it was in force for no bar
    document = query(tmp_path, "SELECT version FROM config ORDER BY version")
    assert document == [(1,), (2,), (3,)]
    events = dict(query(tmp_path, "SELECT event_id, config_version FROM event"))
    assert set(events.values()) == {1, 3}
    wanted: dict[str, int] = {}
    for symbol, found in market.load(recording).items():
        for version, params in zip((1, 3), versions, strict=True):
            for event in Detector(params, SessionClock("UTC", "09:00", "17:00")).run(found.bars):
                if (event["ts_ms"] > reached) == (version == 3):
                    wanted[event_id(symbol, event)] = version
    assert events == wanted


@pytest.mark.slow
def test_kills_at_any_moment_around_changes_lose_and_double_nothing(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=60_000)
    rng = np.random.default_rng(13)
    versions = [params_of(tmp_path)]
    feed = ("--feed", f"replay:{recording}", "--speed", "300")
    z_hi = "1.2"
    for wanted in ("0.9", "1.1", "0.8", "1.3"):
        with RunnerProcess(tmp_path, *feed) as runner:
            n_bars = runner.facts().n_bars
            assert until(lambda: runner.facts().n_bars > n_bars + 600)  # noqa: B023
            versions.append(change(tmp_path, f"z_hi: {z_hi}", f"z_hi: {wanted}"))
            moment = time.monotonic() + rng.uniform(0.2, 0.7)  # before, in the middle of, or after it is taken
            assert until(lambda: time.monotonic() > moment)  # noqa: B023
            runner.end(signal.SIGKILL)
        z_hi = wanted
    with RunnerProcess(tmp_path, *feed) as runner:
        assert runner.facts().version == len(versions)  # a change that was not taken before the kill is at the start
        n_bars = runner.facts().n_bars
        assert until(lambda: runner.facts().n_bars > n_bars + 1_200)
        assert runner.end(signal.SIGTERM) == 0
    hold_against_the_batch_path(tmp_path, recording, versions)


def messages(symbol: str, first_ms: int, n_bars: int) -> list[Message]:
    """A trade and a quote each 100 ms, USD-M, ids without a hole."""
    found = []
    for i in range(n_bars * 10):
        ms = first_ms + i * 100
        row = {"recv_ns": ms * 1_000_000, "event_ms": ms, "trade_ms": ms, "trade_id": ms // 100, "price": 100 + i % 7}
        found.append(agg_trade(symbol, "usdm", row | {"qty": 1.0, "is_buyer_maker": i % 3 == 0}))
        quote = {"recv_ns": ms * 1_000_000, "update_id": ms, "bid": 99.0 + i % 5, "bid_qty": 2.0, "ask": 108.0}
        found.append(book_ticker(symbol, quote | {"ask_qty": 1.0 + i % 4, "trans_ms": ms, "event_ms": ms}))
    return found


@pytest.mark.slow
def test_symbols_come_and_go_on_a_feed(tmp_path: Path) -> None:
    prepare(tmp_path, REPO / "config", n_bars=100)

    def rows() -> dict[str, int]:
        return dict(query(tmp_path, "SELECT symbol, rows FROM state"))

    def follow(symbols: str) -> None:
        text = (REPO / SYSTEM).read_text()
        write_text(tmp_path / SYSTEM, text.replace("symbols: [BTCUSDT]", f"symbols: [{symbols}]"))

    async def seen(claim: Any) -> None:
        assert await asyncio.to_thread(until, claim)

    def streams(symbol: str) -> list[str]:
        return [f"{symbol.lower()}@aggTrade", f"{symbol.lower()}@bookTicker"]

    async def play(exchange: Exchange, symbols: Sequence[str], first_s: int, n_bars: int) -> None:
        sent = [m for symbol in symbols for m in messages(symbol, START_MS + first_s * 1_000, n_bars)]
        await exchange.play(sorted(sent, key=lambda m: m.recv_ns))

    async def scene() -> None:
        async with Exchange("usdm") as exchange:
            environ = {"V13__FEED__WS_URL": exchange.ws_url, "V13__FEED__REST_URL": exchange.rest_url}
            environ["V13__RUNNER__GRACE_MS"] = "60000"  # bars end by what is sent, not by how long a step takes
            runner = await asyncio.to_thread(lambda: RunnerProcess(tmp_path, environ=environ))
            with runner:
                await exchange.subscribed(streams("BTCUSDT"))
                await play(exchange, ["BTCUSDT"], 0, 5)
                await seen(lambda: rows() == {"BTCUSDT": 4})
                follow("BTCUSDT, ETHUSDT")
                await seen(lambda: runner.facts().symbols == ("BTCUSDT", "ETHUSDT"))
                await seen(lambda: all(exchange.takers(s) for s in streams("ETHUSDT")))
                await seen(lambda: len(exchange.live) == 2)  # those that were replaced are gone
                await play(exchange, ["BTCUSDT", "ETHUSDT"], 5, 5)
                await seen(lambda: rows() == {"BTCUSDT": 9, "ETHUSDT": 4})
                follow("ETHUSDT")
                await seen(lambda: runner.facts().symbols == ("ETHUSDT",))
                await seen(lambda: not any(exchange.takers(s) for s in streams("BTCUSDT")))
                await play(exchange, ["ETHUSDT"], 10, 5)
                await seen(lambda: rows() == {"BTCUSDT": 9, "ETHUSDT": 9})
                follow("ETHUSDT, BTCUSDT")
                await seen(lambda: all(exchange.takers(s) for s in streams("BTCUSDT")))
                await seen(lambda: len(exchange.live) == 2)
                await play(exchange, ["BTCUSDT", "ETHUSDT"], 15, 5)
                await seen(lambda: rows() == {"BTCUSDT": 19, "ETHUSDT": 14})  # empty bars where it was away
                facts = runner.facts()
                assert (facts.version, facts.n_ok, facts.n_refused) == (1, 3, 0)
                await asyncio.to_thread(runner.end, signal.SIGTERM)
                assert runner.process.returncode == 0
                assert exchange.violations == []
            assert "Traceback" not in runner.said()

    asyncio.run(scene())


def test_a_watch_tells_each_change_once() -> None:
    metrics = Metrics((10,), ("BTCUSDT",))
    said: list[str] = []
    looked = 0

    def labels(version: str) -> Mapping[str, str]:
        return {"swing_L": "13", "z_hi": "2", "z_mid": "0.8", "version": version}

    with start_exporter(metrics, lambda: Health(True, True, ""), port=0) as exporter:
        url = f"http://{exporter.host}:{exporter.port}/metrics"
        with pytest.raises(FeedError, match="expected one configuration in force, found 0"):
            read_facts(url)
        metrics.set_info("divergence_active_config_info", **labels("1-aaa"))

        def is_over() -> bool:
            nonlocal looked
            looked += 1
            if looked == 4:
                metrics.inc("divergence_config_reloads_total", result="refused")
            if looked == 6:
                metrics.set_info("divergence_active_config_info", **labels("2-bbb"))
                metrics.set("divergence_config_last_reload_successful", 1.0)
                metrics.inc("divergence_config_reloads_total", result="ok")
            if looked == 7:
                exporter.close()
            return looked == 9

        watch(url, said.append, is_over=is_over, poll_s=0.0)
    told = [line.partition("  ")[2] for line in said]
    assert len(told) == 4
    assert told[0].startswith(
        "version 1-aaa (swing_L 13, z_hi 2, z_mid 0.8, not signed off) for BTCUSDT; last reload REF"
    )
    assert "0 taken, 1 refused" in told[1]
    assert told[2].startswith("version 2-bbb")
    assert "last reload successful; 1 taken, 1 refused" in told[2]
    assert told[3].startswith(f"{url}: no metrics: ")


def test_the_script_watches_until_it_is_interrupted() -> None:
    metrics = Metrics((10,), ("BTCUSDT",))
    metrics.set_info("divergence_active_config_info", swing_L="13", z_hi="2", z_mid="0.8", version="1-aaa")
    with start_exporter(metrics, lambda: Health(True, True, ""), port=0) as exporter:
        url = f"http://{exporter.host}:{exporter.port}/metrics"
        command = [sys.executable, str(SCRIPT), "--watch", "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            timer = threading.Timer(30, watcher.kill)
            timer.start()
            assert "version 1-aaa" in watcher.stdout.readline()
            watcher.send_signal(signal.SIGINT)
            assert watcher.communicate() == ("", "")
            timer.cancel()
        assert watcher.returncode == 0


@pytest.mark.slow
def test_a_bad_slo_table_is_told_and_a_good_one_clears_it(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=2_000)
    text = (tmp_path / "config" / "slo.yaml").read_text()
    with RunnerProcess(tmp_path, "--feed", f"replay:{recording}", "--speed", "1") as runner:
        write_text(tmp_path / "config" / "slo.yaml", text.replace("above: 0.0025", "above: quick"))
        assert until(lambda: not runner.facts().successful)
        line = text[: text.index("above: 0.0025")].count("\n") + 1
        assert f"config/slo.yaml:{line}: " in runner.said()
        write_text(tmp_path / "config" / "slo.yaml", text.replace("above: 0.0025", "above: 0.0024"))
        assert until(lambda: runner.facts().successful)
        assert until(lambda: "v13 monitoring build" in runner.said())
        assert runner.facts().version == 1
