"""`make bench`: medians, ratios against named peers in the same run, and the machine. Never part of the unit suite.

Usage: python -m tests.bench.bench [kernel] [ingest] [grid] [year] [signoff] [live] [soak]   (default: all)
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

REPO = Path(__file__).resolve().parents[2]
N_BARS = 1_000_000
N_TRADES = 10_000_000
PEER = """
import sys
import polars as pl
signed = pl.col("quantity") * pl.when(pl.col("is_buyer_maker")).then(-1.0).otherwise(1.0)
px = pl.col("price")
pl.read_csv(sys.argv[1]).group_by(pl.col("transact_time") // 1000).agg(
    px.first().alias("open"), px.max().alias("high"), px.min().alias("low"), px.last().alias("close"),
    pl.col("quantity").sum(), signed.sum().alias("delta"),
).sort("transact_time")
"""


def main() -> None:
    wanted = sys.argv[1:] or ["kernel", "ingest", "grid", "year", "signoff", "live", "soak"]
    print(
        f"machine: {os.cpu_count()} cores, {_cpu()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, polars {pl.__version__}"
    )
    for name in wanted:
        print(f"\n== {name}")
        parts = {"kernel": kernel, "ingest": ingest, "grid": grid, "year": year, "signoff": signoff}
        (parts | {"live": live, "soak": soak})[name]()


def kernel() -> None:
    from v13.detector import Detector, DetectorParams, compute_features
    from v13.market import MarketSpec, simulate_bars

    bars = simulate_bars(MarketSpec(kind="clustered_flow", n_bars=N_BARS), 1).bars
    params = DetectorParams()
    rows = compute_features(params, bars)
    Detector(params).run_features(rows)
    decide = _median(lambda: Detector(params).run_features(rows), 7)
    full = _median(lambda: Detector(params).run(bars), 5)
    _line("decision stage, 3 channels, all gates", f"{N_BARS / decide / 1e6:.1f} M bars/s on one core", "at least 3")
    _line("with features in front", f"{N_BARS / full / 1e6:.2f} M bars/s on one core", "at least 0.5")
    pandas_s = _pandas_z(bars)
    _line(
        "  peer: pandas rolling median and MAD, one channel",
        f"{N_BARS / pandas_s / 1e6:.3f} M bars/s; we are {pandas_s / full:.0f} x faster with three",
        "",
    )
    quantiles = {}
    for history in (10_000, 10_000_000):
        detector = Detector(params)
        left = history
        shift = np.int64(0)
        while left > 0:
            chunk = bars[: min(left, N_BARS)].copy()
            chunk["ts_ms"] += shift
            detector.run(chunk)
            shift = chunk["ts_ms"][-1] - bars["ts_ms"][0] + params.features.bar_ms
            left -= len(chunk)
        tail = bars[:100_000].copy()
        tail["ts_ms"] += shift
        took = np.empty(len(tail))
        for i in range(len(tail)):
            start = time.perf_counter_ns()
            detector.update(tail[i])
            took[i] = time.perf_counter_ns() - start
        quantiles[history] = np.quantile(took, [0.5, 0.95, 0.99]) / 1e3
        size = len(detector.snapshot())
        p50, p95, p99 = quantiles[history]
        _line(
            f"update after {history:,} bars",
            f"P50 {p50:.2f} us, P95 {p95:.2f} us, P99 {p99:.2f} us, state {size:,} bytes",
            "P95 under 10 us",
        )
    ratio = quantiles[10_000_000][2] / quantiles[10_000][2]
    _line("P99 at 10 million bars over P99 at 10 thousand", f"{ratio:.2f}", "at most 1.5")


def ingest() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "BTCUSDT-aggTrades-2024-01-01.csv"
        _write_agg_trades(path)
        zipped = folder / "zipped" / "BTCUSDT-aggTrades-2024-01-01.zip"
        zipped.parent.mkdir()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            archive.write(path, path.name)
        size = path.stat().st_size
        packed = zipped.stat().st_size
        print(f"file: {size / 2**20:.0f} MiB, {N_TRADES:,} rows; zip {packed / 2**20:.0f} MiB")
        peer = PEER
        ours = "import sys; from pathlib import Path; from v13.market import load; load([Path(sys.argv[1])])\n"
        startup = "from v13.market import load\n"
        runs = {"peer": [], "csv": [], "zip": [], "startup": []}  # type: dict[str, list[tuple[float, float]]]
        for _ in range(3):
            runs["peer"].append(_process(peer, path))
            runs["csv"].append(_process(ours, path))
            runs["zip"].append(_process(ours, zipped))
            runs["startup"].append(_process(startup, path))
        middle = {k: (statistics.median(t for t, _ in v), max(m for _, m in v)) for k, v in runs.items()}
        base = middle["peer"][0]
        _line("peer: polars read_csv + group_by, whole process", f"{base:.2f} s, peak {middle['peer'][1]:.0f} MiB", "")
        for key in ("csv", "zip"):
            seconds, peak = middle[key]
            _line(
                f"ours from {key}, whole process",
                f"{seconds:.2f} s ({seconds / base:.2f} x), peak {peak:.0f} MiB",
                "1.5 x from csv; peak under 1024 MiB",
            )
        _line("  of which imports", f"{middle['startup'][0]:.2f} s", "")


def grid() -> None:
    from tests.bench import grid_bench

    grid_bench.run(_line, N_BARS)


def year() -> None:
    from tests.bench import grid_bench

    grid_bench.year(_line, lambda code, _: _process(code, REPO))


def live() -> None:
    from tests.bench import live_bench

    live_bench.run(_line)


def soak() -> None:
    from tests.bench import soak_bench

    soak_bench.run(_line)


def signoff() -> None:
    with tempfile.TemporaryDirectory() as name:
        command = [
            sys.executable,
            "-m",
            "v13.cli",
            "signoff",
            "--demo",
            "--quiet",
            "--out",
            f"{name}/out",
            "--reports",
            f"{name}/reports",
        ]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
        took = time.perf_counter() - start
        verdict = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
        _line("v13 signoff --demo", f"{took:.1f} s, exit code {done.returncode}, {verdict}", "under 90 s")


def _pandas_z(bars: np.ndarray) -> float:
    import pandas as pd

    part = pd.Series(bars["delta"][:20_000])
    start = time.perf_counter()
    window = part.rolling(300)
    centre = window.median().shift(1)
    spread = window.apply(lambda w: np.median(np.abs(w - np.median(w))), raw=True).shift(1)
    ((part - centre) / (1.4826 * spread)).clip(-5, 5).ewm(span=5).mean()
    return (time.perf_counter() - start) * len(bars) / len(part)


def _write_agg_trades(path: Path) -> None:
    rng = np.random.default_rng(1)
    n = N_TRADES
    pl.DataFrame(
        {
            "agg_trade_id": np.arange(1, n + 1),
            "price": np.round(60_000 + np.cumsum(rng.normal(0, 0.2, n)), 1),
            "quantity": np.round(rng.gamma(0.5, 0.2, n) + 0.001, 3),
            "first_trade_id": np.arange(1, n + 1) * 2,
            "last_trade_id": np.arange(1, n + 1) * 2 + 1,
            "transact_time": 1_704_067_200_000 + np.sort(rng.integers(0, 86_400_000, n)),
            "is_buyer_maker": rng.random(n) < 0.5,
        }
    ).write_csv(path)


_PEAK = """
import re, resource, sys
from pathlib import Path
status = Path("/proc/self/status")
# ru_maxrss of a child counts the parent it was forked from; VmHWM is its own.
kib = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) if status.exists() else (
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
)
print(kib / 1024)
"""


def _process(code: str, path: Path) -> tuple[float, float]:
    """Run code in a process of its own; return seconds and peak MiB."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + _PEAK, str(path)], cwd=REPO, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, float(done.stdout)


def _median(run: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def _line(what: str, value: str, goal: str) -> None:
    print(f"{what:<55} {value}" + (f"   [goal: {goal}]" if goal else ""))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
