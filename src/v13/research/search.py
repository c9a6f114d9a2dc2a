"""The search stage: trials over the grid on the search part, the chosen setting, its overrides, and their files.

Files: best_global.yaml, best_by_bucket.yaml, summary.csv (every trial), trials.parquet (every event of every trial),
tuning_report.json.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl

from v13 import measures, store
from v13.config import Config
from v13.detector import DetectorParams
from v13.detector.params import override_rows
from v13.research import overrides, panels, selection, snooping
from v13.research.cut import Records
from v13.research.execution import Job, Progress, judge_grid
from v13.research.grid import Blocks, Slice
from v13.research.run import Run
from v13.research.sealing import seal_holdout
from v13.research.search_result import SearchResult, trial_table, tuning_report
from v13.research.settings import Settings, expand_grid
from v13.research.slices import SliceResult, trial_dtype
from v13.research.trials import SymbolPart

__all__ = ["SearchResult", "search", "write_search"]

MAX_TRIAL_SETTINGS: Final = 1_000  # of larger grids trials.parquet holds the chosen setting's events alone
MAX_BINS: Final = 480  # fine time bins for statistics over the grid; a multiple of CSCV_BLOCKS
CSCV_BLOCKS: Final = 16


def search(
    run: Run,
    progress: Progress | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    record: bool = True,
) -> SearchResult:
    """Search the grid on the search part of a run.

    Where no setting is eligible (too few events, or a rate outside the band) nothing is chosen: the configured
    parameters stand in, and the report says so.

    Parameters
    ----------
    progress : callable, optional
        Called with (settings done, settings in all).
    scheduler, workers
        As `execution.judge_grid`; None threads: one a processor.
    record : bool
        Whether this is a search of record: the holdout is sealed before it, slices that took longer than a second are
        kept under runs/.search/<key> until it is done (interrupted, it resumes from them; the key holds inputs,
        config, seed and code), and the tests for data snooping, which decide nothing, are run too.
    """
    config = run.config.search
    if record:
        seal_holdout(run)
    parts = run.search_parts()
    horizons = tuple(config.horizons_bars)
    settings = expand_grid(run.params, config.grid)
    min_shift = grid_min_shift_bars(run.config, settings)
    times = [p.bars["ts_ms"] for p in parts]
    shifts = panels.draw_shifts(times, horizons, min_shift, run.config.acceptance.n_shifts, run.seed)
    job = Job(run.sessions, horizons, _blocks(run), shifts, config.min_events, config.cost_bps, _keeps_trials(settings))
    kept = run.root / "runs" / ".search" / run.key[:32] if record else None
    found = judge_grid(
        settings,
        parts,
        job,
        workers=workers or (os.cpu_count() or 1),
        scheduler=scheduler,
        kept=kept,
        progress=progress,
    )
    result = _conclude(run, settings, parts, job, found, min_shift, examine=record)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return result


def _conclude(
    run: Run,
    settings: Settings,
    parts: Sequence[SymbolPart],
    job: Job,
    found: Sequence[tuple[Slice, SliceResult]],
    min_shift: int,
    *,
    examine: bool,
) -> SearchResult:
    config = run.config.search
    order = np.argsort(np.concatenate([part.numbers for part, _ in found]), kind="stable")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(result, name) for _, result in found])[order]

    hours = sum(run.cut.hours(p.bars, holdout=False) for p in parts)
    times = [p.bars["ts_ms"][np.isfinite(p.bars["mid"]) | np.isfinite(p.bars["close"])] for p in parts]
    edges = job.blocks.edges
    recorded = sum((np.histogram(ts, bins=edges + 1)[0] for ts in times), np.zeros(len(edges) - 1, np.int64))
    counts = selection.Counts(
        joined("n"),
        joined("hits"),
        joined("n_all"),
        joined("hits_all"),
        joined("n_events"),
        recorded * run.cut.bar_ms / 3_600_000,
    )
    n_all, hits_all = counts.n_all.sum(axis=1), counts.hits_all.sum(axis=1)
    choice = selection.choose(settings, n_all, hits_all, config.min_events, counts.events_per_hour(), run.band)
    folds = selection.walk_forward(settings, counts, config.min_events, run.band)
    tests = overrides.judge_overrides(
        settings, counts, folds, choice.setting, config.min_bucket_events, run.config.acceptance.alpha
    )
    base = run.params if choice.setting is None else settings[choice.setting].params
    statistic = joined("statistic")
    null = np.max([result.null for _, result in found], axis=0)
    max_null = measures.against_maximum(statistic, null, min_shift)
    return SearchResult(
        settings,
        job.horizons,
        counts,
        choice,
        tuple(folds),
        tuple(tests),
        replace(base, overrides=overrides.overrides_of(settings, tests)),
        hours,
        max_null,
        joined("rho"),
        joined("mean_return"),
        joined("median_score"),
        _trials(found) if job.keep_trials else None,
        snooping.examine(
            joined("bin_n"),
            joined("bin_hits"),
            choice.setting,
            n_blocks=CSCV_BLOCKS,
            alpha=run.config.acceptance.alpha,
            seed=run.seed,
        )
        if examine
        else None,
    )


def _blocks(run: Run) -> Blocks:
    """Divide the search part: blocks for walk-forward, and bins at least two labels long."""
    cut, horizon = run.cut, max(run.config.search.horizons_bars)
    n_bars = (cut.search_end_ms - cut.start_ms) // cut.bar_ms
    n_bins = min(MAX_BINS, n_bars // (2 * horizon)) // CSCV_BLOCKS * CSCV_BLOCKS
    return Blocks.of(
        cut.start_ms, cut.search_end_ms, run.config.search.folds + 1, max(n_bins, CSCV_BLOCKS), horizon * cut.bar_ms
    )


def _keeps_trials(settings: Settings) -> bool:
    return len(settings) <= MAX_TRIAL_SETTINGS


def _trials(found: Sequence[tuple[Slice, SliceResult]]) -> Records:
    every = np.concatenate([result.trials for _, result in found if result.trials is not None])
    ordered: Records = every[np.argsort(every["setting"], kind="stable")]
    return ordered


def grid_min_shift_bars(config: Config, settings: Settings) -> int:
    """Return the least shift that takes every trial of the grid away from its own returns."""
    return config.acceptance.min_shift_bars or 2 * (max(config.search.horizons_bars) + 2 * settings.longest_swing())


def trial_matrix(run: Run, result: SearchResult) -> pl.DataFrame:
    """Return every event of every trial with its outcome; of a grid too large for that, those of the chosen setting."""
    found = result.trials
    if found is None:
        found = np.empty(0, trial_dtype(len(result.horizons)))
        if result.chosen is not None:
            only = result.settings.subset(np.array([result.chosen.number]))
            found = run_settings(run, only)
            found["setting"] = result.chosen.number
    symbols = np.array(list(run.recordings))
    bucket = found["bucket"]
    return pl.DataFrame(
        {
            "setting": found["setting"],
            "symbol": symbols[found["symbol"]] if len(found) else np.array([], dtype=str),
            "ts_ms": found["ts_ms"],
            "bar": found["bar"],
            "side": found["side"],
            "source": (bucket % 3).astype(np.int8),
            "session": (bucket // 6).astype(np.int8),
            "liquidity": (bucket // 3 % 2).astype(np.int8),
            "score": found["score"],
            **{f"return_{h}": np.ascontiguousarray(found["returns"][:, i]) for i, h in enumerate(result.horizons)},
        }
    )


def run_settings(run: Run, settings: Settings) -> Records:
    """Return every event of a few settings on the search part: (t,) records of `slices.trial_dtype`."""
    horizons = tuple(run.config.search.horizons_bars)
    job = Job(run.sessions, horizons, _blocks(run), np.empty(0, np.int64), 1, run.config.search.cost_bps, True)
    return _trials(judge_grid(settings, run.search_parts(), job))


def write_search(run: Run, result: SearchResult) -> None:
    """Write the stage's files into the run's folder."""
    note = "SIMULATED data: not fit for production. " if run.simulated else ""
    header = f"{note}Written by the search; key {run.key[:12]}."
    shown = result.params.to_dict()
    store.write_yaml(
        run.out / "best_global.yaml",
        {
            "version": 1,
            "simulated": run.simulated,
            "selected": result.chosen is not None,
            "reason": result.choice.reason,
            "features": shown["features"],
            "decision": shown["decision"],
            "fingerprint": result.params.fingerprint(),
        },
        header=header,
    )
    store.write_yaml(
        run.out / "best_by_bucket.yaml",
        {
            "version": 1,
            "simulated": run.simulated,
            "overrides": override_rows(result.params.overrides),
            "sources": overrides.resolved(result.override_tests, of_sources=True),
            "resolved": overrides.resolved(result.override_tests),
        },
        header=header,
    )
    store.write_text(run.out / "summary.csv", trial_table(result).write_csv())
    matrix = io.BytesIO()
    trial_matrix(run, result).write_parquet(matrix, compression="zstd")
    store.write_bytes(run.out / "trials.parquet", matrix.getvalue())
    store.write_json(run.out / "tuning_report.json", tuning_report(run, result))


def read_params(run: Run) -> DetectorParams | None:
    """Return the parameters a search of this very run released; None where there are none, or of other inputs."""
    report = run.out / "tuning_report.json"
    if not report.is_file():
        return None
    document = store.read_json(report)
    if document.get("key") != run.key:
        return None
    return DetectorParams.from_dict(document["parameters"])
