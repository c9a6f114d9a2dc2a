"""Signal parity of logs that the live path itself wrote from a real recording."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parity import live_runs
from tests.parity.live_runs import SESSIONS, FakeClock, loose, session_on
from v13 import market
from v13.detector import DetectorParams
from v13.live.replay import play
from v13.live.session import keep_bars
from v13.market.playback import open_playback
from v13.release.signal_parity import LAST_BARS, signal_parity
from v13.store.event_reader import read_events

RECORDING = "klines/spot_BTCUSDT_1m_2025-10-29.parquet"
SYMBOL = "BTCUSDT"
OLD = loose(60_000)
NEW = replace(OLD, decision=replace(OLD.decision, z_hi=1.2))


def played(path: Path, shared_data: Path, params: DetectorParams) -> Path:
    """Play the recording through the live path into a log; it keeps the bars that a runner's would, and more."""
    playbacks = open_playback([shared_data / RECORDING], policy=market.ReadPolicy(bar_ms=params.features.bar_ms))
    clock = FakeClock()
    with session_on(path, playbacks, params, clock) as (session, metrics):
        asyncio.run(play(session, playbacks, metrics=metrics, clock=clock))
    return path


@pytest.mark.shared
def test_what_two_live_releases_found_is_equal_or_explained(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_runs, "keep_bars", lambda params: 2 * keep_bars(params) + LAST_BARS)
    old = played(tmp_path / "old.sqlite", shared_data, OLD)
    like = played(tmp_path / "like.sqlite", shared_data, OLD)
    new = played(tmp_path / "new.sqlite", shared_data, NEW)

    same = signal_parity(old, like, SYMBOL, sessions=SESSIONS)
    assert (same.verdict, same.unexplained) == ("equal", ())
    assert same.n_bars > 500
    events = read_events(old)
    judged = events.filter((events["ts_ms"] > same.from_ms) & (events["ts_ms"] <= same.until_ms))
    assert same.n_equal == len(judged) > 10

    other = signal_parity(old, new, SYMBOL, sessions=SESSIONS)
    assert (other.verdict, other.unexplained) == ("explained", ())
    assert other.only_stable
    assert other.n_equal + len(other.changed) + len(other.only_stable) == len(judged)
