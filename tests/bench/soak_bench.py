"""The runner's memory while it works hard for minutes: sampled, plotted, and its trend put into figures."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

from tests.bench.live_bench import REPO, Firehose, Say, Scrape, nothing_lost, runner

BAR_MS = 50


def run(line: Say) -> None:
    """Feed the runner for SOAK_MINUTES (3) at SOAK_RATE (40,000) messages/s; plot its resident memory to runs/soak/.

    Bars are of 0.05 s, so that it ages twenty times as fast: after the 1,924 bars a symbol that the log keeps, it has
    all it will ever hold. The trend is that of the second half.
    """
    minutes = float(os.environ.get("SOAK_MINUTES", "3"))
    rate = float(os.environ.get("SOAK_RATE", "40000"))
    seconds, mib = [], []
    with tempfile.TemporaryDirectory() as name:
        firehose = Firehose()
        try:
            with runner(Path(name), firehose, bar_ms=BAR_MS) as (process, port):
                status = Path(f"/proc/{process.pid}/status")
                before = Scrape(port)
                firehose.order(rate, 60 * minutes)
                while (passed := time.monotonic() - before.at) < 60 * minutes:
                    found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
                    assert found is not None, "the runner is gone"
                    seconds.append(passed)
                    mib.append(int(found[1]) / 1024)
                    time.sleep(1.0)
                told, after = firehose.done(), Scrape(port)
                lost = after.total("divergence_dropped_total") - before.total("divergence_dropped_total")
                bars = after.total("divergence_bars_total") - before.total("divergence_bars_total")
                events = after.total("divergence_events_total") - before.total("divergence_events_total")
                nothing_lost(line, firehose, port, None)
        finally:
            firehose.process.kill()
    x, y = np.array(seconds) / 3_600, np.array(mib)
    settled = x > x[-1] / 2
    fit = linregress(x[settled], y[settled])
    line(
        f"{minutes:g} minutes at {told['sent'] / told['seconds']:,.0f} messages/s",
        f"{told['sent']:,.0f} messages, {bars:,.0f} bars, {events:,.0f} events; {lost:,.0f} dropped",
        "0 dropped",
    )
    line(
        "resident memory, second half",
        f"{y[settled].mean():.1f} MiB, {fit.slope:+.1f} MiB an hour (standard error {fit.stderr:.1f}), "
        f"{y[settled].max() - y[settled].min():.1f} MiB between least and most",
        "flat",
    )
    np.savetxt(_folder() / "rss.csv", np.column_stack([seconds, mib]), "%.2f", ",", header="seconds,mib", comments="")
    line("  plotted", str(_plot(x * 60, y, settled, fit)), "")


def _plot(minutes: Any, mib: Any, settled: Any, fit: Any) -> Path:
    target = _folder() / "rss.png"
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(minutes, mib, lw=1, label="resident memory")
    axes.plot(
        minutes[settled], fit.intercept + fit.slope * minutes[settled] / 60, lw=2, label=f"{fit.slope:+.1f} MiB/h"
    )
    axes.set(xlabel="minutes", ylabel="MiB", ylim=(0, 1.15 * mib.max()), title="v13 run, 50 symbols, bars of 0.05 s")
    axes.legend(loc="lower right")
    figure.savefig(target, dpi=120)
    return target


def _folder() -> Path:
    folder = REPO / "runs" / "soak"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
