"""A grid past one machine, and past an interruption: the same bytes whatever happens on the way."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from v13 import market, measures
from v13.detector import DecisionParams, DetectorParams, FeatureParams, SessionClock
from v13.errors import ConfigError, StoreError
from v13.research import execution
from v13.research.execution import Job, judge_grid
from v13.research.grid import Blocks, Slice
from v13.research.run import code_fingerprint
from v13.research.settings import expand_grid
from v13.research.slices import SliceResult
from v13.research.trials import SymbolPart

PARTS = [
    SymbolPart(symbol, market.simulate_bars(market.MarketSpec("planted", 8_000, symbol=symbol), 3).bars)
    for symbol in ("BTCUSDT", "ETHUSDT")
]
SETTINGS = expand_grid(
    DetectorParams(FeatureParams(window=40), DecisionParams(min_swing_bps=0.0, min_score=20.0)),
    {
        "swing_L": (2, 3, 5, 8, 13),
        "ema_k": (3, 5),
        "z_hi": (0.5, 1.0, 1.5),
        "z_mid": (0.2, 0.4),
        "cooldown_ms": (0, 30_000),
    },
)
N_SLICES = 5 * 2 * 2


def job() -> Job:
    ts = PARTS[0].bars["ts_ms"]
    blocks = Blocks.of(int(ts[0]) - 1_000, int(ts[-1]), 4, 16, 10_000)
    shifts = measures.draw_shifts([len(ts)], 60, 50, 1)[:, 0]
    return Job(SessionClock(), (5, 10), blocks, shifts, 10, 0.0, True)


def same(a: list[tuple[Slice, SliceResult]], b: list[tuple[Slice, SliceResult]]) -> bool:
    return len(a) == len(b) and all(
        np.asarray(getattr(x, f.name)).tobytes() == np.asarray(getattr(y, f.name)).tobytes()
        for (_, x), (_, y) in zip(a, b, strict=True)
        for f in dataclasses.fields(SliceResult)
    )


@pytest.fixture(scope="module")
def alone() -> list[tuple[Slice, SliceResult]]:
    found = judge_grid(SETTINGS, PARTS, job())
    assert len(found) == N_SLICES
    assert sum(int(r.n_all.sum()) for _, r in found) > 10_000
    return found


class StopError(Exception):
    """Somebody pressed Ctrl-C."""


def test_an_interrupted_search_resumes_from_what_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[tuple[Slice, SliceResult]]
) -> None:
    monkeypatch.setattr(execution, "WORTH_KEEPING_S", -1.0)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done >= total // 2:
            raise StopError

    with pytest.raises(StopError):
        judge_grid(SETTINGS, PARTS, job(), kept=tmp_path, progress=stop)
    kept = len(list(tmp_path.glob("*.npz")))
    assert 0 < kept < N_SLICES
    damaged = sorted(tmp_path.glob("*.npz"))[0]
    damaged.write_bytes(b"not a slice")
    kept -= 1
    judged: list[int] = []
    real = execution.judge_slice

    def counting(part: Slice, *args: object) -> SliceResult:
        judged.append(part.swing_L)
        return real(part, *args)

    monkeypatch.setattr(execution, "judge_slice", counting)
    told: list[tuple[int, int]] = []
    resumed = judge_grid(SETTINGS, PARTS, job(), kept=tmp_path, progress=lambda d, t: told.append((d, t)))
    assert len(judged) == N_SLICES - kept
    assert same(resumed, alone)
    assert told[0][0] > 0  # what was kept is told at once
    assert told[-1] == (len(SETTINGS), len(SETTINGS))


def test_a_cluster_that_loses_a_worker_half_way_gives_the_same_bytes(alone: list[tuple[Slice, SliceResult]]) -> None:
    from distributed import LocalCluster

    killed: list[int] = []
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:

        def kill(done: int, total: int) -> None:
            if not killed and total // 4 <= done < total:
                pid = next(iter(cluster.workers.values())).pid
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        found = judge_grid(SETTINGS, PARTS, job(), scheduler=cluster.scheduler_address, progress=kill)
    assert len(killed) == 1
    assert same(found, alone)


def test_a_cluster_whose_workers_run_other_code_is_refused_before_a_task_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here the code is another: the workers, processes of their own, run what is on disk."""
    from distributed import LocalCluster

    monkeypatch.setattr(execution, "code_fingerprint", lambda: "f" * 64)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        worker = next(iter(cluster.workers.values())).worker_address
        with pytest.raises(
            ConfigError, match=rf"other code of v13 than here \(ffffffffffff\): {worker} runs [0-9a-f]{{12}};"
        ):
            judge_grid(SETTINGS, PARTS, job(), scheduler=cluster.scheduler_address)
        # One that came after the others were asked is found by its first task.
        monkeypatch.setattr(execution, "_check_workers", lambda *_: None)
        with pytest.raises(ConfigError, match=r"a worker runs code [0-9a-f]{12} of v13, expected ffffffffffff"):
            judge_grid(SETTINGS, PARTS, job(), scheduler=cluster.scheduler_address)


class FakeClient:
    """What a client says of workers that cannot answer."""

    def run(self, _: object, *, on_error: str) -> dict[str, object]:
        assert on_error == "return"
        return {"tcp://b:1": code_fingerprint(), "tcp://a:1": ModuleNotFoundError("No module named 'v13'")}


def test_a_worker_without_v13_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tcp://a:1 cannot tell \(ModuleNotFoundError: No module named 'v13'\); "):
        execution._check_workers(FakeClient(), code_fingerprint())


def test_two_runs_of_one_key_do_not_share_their_slices_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[tuple[Slice, SliceResult]]
) -> None:
    monkeypatch.setattr(execution, "WORTH_KEEPING_S", -1.0)
    refused: list[str] = []

    def second(done: int, _: int) -> None:
        if done and not refused:
            with pytest.raises(StoreError, match="another run of the same inputs") as found:
                judge_grid(SETTINGS, PARTS, job(), kept=tmp_path / "key")
            refused.append(str(found.value))
            assert same(judge_grid(SETTINGS, PARTS, job(), kept=tmp_path / "other"), alone)

    assert same(judge_grid(SETTINGS, PARTS, job(), kept=tmp_path / "key", progress=second), alone)
    assert str(tmp_path / "key") in refused[0]
    assert same(judge_grid(SETTINGS, PARTS, job(), kept=tmp_path / "key"), alone)  # free again


def test_a_lock_on_a_folder_that_was_taken_away_is_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    with execution._locked(folder):
        (folder / "lock").unlink()
        folder.rmdir()  # as the run that ends does
        with execution._locked(folder), pytest.raises(StoreError), execution._locked(folder):
            pytest.fail("locked twice")


def test_a_scheduler_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CONNECT_S", 0.3)
    with pytest.raises(ConfigError, match="cannot be reached"):
        judge_grid(SETTINGS, PARTS, job(), scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match="cannot be reached"):
        judge_grid(SETTINGS, PARTS, job(), scheduler="nonsense://here")
