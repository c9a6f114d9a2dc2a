"""The search stage: trials over the grid on the search part, the chosen setting, its overrides, and their files.

Files: best_global.yaml, best_by_bucket.yaml, summary.csv (every trial), trials.parquet (every event of every trial),
tuning_report.json.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import binom

from v13 import measures, store
from v13.config import Config
from v13.detector import BucketOverride, DetectorParams
from v13.detector.dtypes import N_BUCKETS
from v13.detector.params import bucket_name, override_rows
from v13.research import overrides, selection, snooping
from v13.research.cut import Records
from v13.research.execution import Job, Progress, judge_grid
from v13.research.grid import Blocks, Slice
from v13.research.run import Run
from v13.research.sealing import seal_holdout
from v13.research.settings import Setting, Settings, expand_grid
from v13.research.slices import SliceResult, trial_dtype
from v13.research.trials import SymbolPart

__all__ = ["SearchResult", "search", "write_search"]


MAX_TRIAL_SETTINGS: Final = 1_000  # of larger grids trials.parquet holds the chosen setting's events alone
MAX_BINS: Final = 480  # fine time bins for statistics over the grid; a multiple of CSCV_BLOCKS
CSCV_BLOCKS: Final = 16


F8 = NDArray[np.float64]


@dataclass(frozen=True)
class SearchResult:
    """Everything the search found; `params` is the released configuration (global setting plus overrides).

    rho, mean_return (S, H) and median_score (S,) float64 describe each setting's events, NaN where not defined; trials
    (t,) is every event of every setting, see `slices.trial_dtype`.
    """

    settings: Settings
    horizons: tuple[int, ...]
    counts: selection.Counts
    choice: selection.Choice
    folds: tuple[selection.FoldResult, ...]
    override_tests: tuple[overrides.OverrideTest, ...]
    params: DetectorParams
    hours: float
    max_null: measures.MaxNull
    rho: F8
    mean_return: F8
    median_score: F8
    trials: Records | None
    snooping: snooping.Snooping | None

    def selected(self) -> dict[str, Any]:
        """Return what acceptance needs to know of the choice: its p against the maximum of the grid, and sizes."""
        p = None if self.chosen is None else float(self.max_null.p[self.chosen.number])
        return {
            "p": None if p is None or np.isnan(p) else p,
            "n_events": None if self.chosen is None else int(self.counts.n_all[self.chosen.number].sum(axis=0).min()),
            "n_settings": len(self.settings),
            "n_shifts": len(self.max_null.null),
            "min_shift_bars": self.max_null.min_shift,
            "edge_kept": self.choice.edge_kept,
        }

    @property
    def chosen(self) -> Setting | None:
        """The chosen setting; None where none was eligible and the configured parameters stand in."""
        return None if self.choice.setting is None else self.settings[self.choice.setting]


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
    n_times = len(np.unique(np.concatenate([p.bars["ts_ms"] for p in parts])))
    shifts = measures.draw_shifts([max(n_times, 1)], min_shift, run.config.acceptance.n_shifts, run.seed)[:, 0]
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


def trial_table(result: SearchResult) -> pl.DataFrame:
    """Return one row for every setting and bucket (and `all`, which comes first), every horizon side by side."""
    settings, counts, choice = result.settings, result.counts, result.choice
    n = np.concatenate([counts.n_all.sum(axis=1, keepdims=True), counts.n_all], axis=1)  # (S, 13, H)
    hits = np.concatenate([counts.hits_all.sum(axis=1, keepdims=True), counts.hits_all], axis=1)
    n_settings, n_rows = len(settings), N_BUCKETS + 1
    of = np.repeat(np.arange(n_settings), n_rows)
    names = ["all", *map(bucket_name, range(N_BUCKETS))]

    def once(values: Any) -> pl.Series:
        """Put a number of each setting into its row `all`; NaN becomes an empty field."""
        column = np.full((n_settings, n_rows), np.nan)
        column[:, 0] = values
        return pl.Series(column.ravel(), nan_to_null=True)

    columns: dict[str, Any] = {"setting": of, **{key: values[of] for key, values in settings.columns.items()}}
    columns["bucket"] = np.tile(names, n_settings)
    for h, horizon in enumerate(result.horizons):
        total, good = n[:, :, h].ravel(), hits[:, :, h].ravel()
        low, high = measures.wilson_intervals(good, total)
        with np.errstate(invalid="ignore"):
            share = good / total
        columns |= {
            f"n_{horizon}": total,
            f"hits_{horizon}": good,
            f"acc_{horizon}": pl.Series(share, nan_to_null=True),
            f"acc_low_{horizon}": pl.Series(low, nan_to_null=True),
            f"acc_high_{horizon}": pl.Series(high, nan_to_null=True),
            f"p_naive_{horizon}": pl.Series(
                np.where(total > 0, binom.sf(good - 1, total, 0.5), np.nan), nan_to_null=True
            ),
            f"mean_return_{horizon}": once(result.mean_return[:, h]),
            f"rho_{horizon}": once(result.rho[:, h]),
        }
    is_all = np.tile(np.arange(n_rows) == 0, n_settings)
    columns |= {
        "n_events": once(counts.n_events.sum(axis=1)).cast(pl.Int64),
        "events_per_hour": once(counts.events_per_hour()),
        "median_score": once(result.median_score),
        "objective": once(choice.objective),
        "plateau": once(choice.plateau),
        "p_max": once(result.max_null.p),
        "eligible": pl.Series([bool(e) if a else None for e, a in zip(choice.eligible[of], is_all, strict=True)]),
        "chosen": pl.Series([bool(s == choice.setting) if a else None for s, a in zip(of, is_all, strict=True)]),
    }
    return pl.DataFrame(columns)


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


def tuning_report(run: Run, result: SearchResult) -> dict[str, Any]:
    """Return tuning_report.json: what was tried, what was chosen and why, and how the rule did walk-forward."""
    horizons = list(run.config.search.horizons_bars)
    chosen = result.chosen
    folds = [
        {
            "fold": f.fold,
            "setting": f.setting,
            "n": list(f.n),
            "hits": list(f.hits),
            "accuracy": [k / n if n else None for k, n in zip(f.hits, f.n, strict=True)],
        }
        for f in result.folds
    ]
    return {
        "version": 1,
        "key": run.key,
        "simulated": run.simulated,
        "cut": asdict(run.cut) | {"holdout_sha256": run.cut.seal(run.bars)},
        "horizons_bars": horizons,
        "n_settings": len(result.settings),
        "n_trials": len(result.settings) * N_BUCKETS,
        "grid": {k: list(v) for k, v in run.config.search.grid.items()},
        "search_hours": result.hours,
        "events_per_hour_band": list(run.band) if run.band else None,
        "chosen": None
        if chosen is None
        else {
            "setting": chosen.number,
            "values": dict(chosen.values),
            "objective": float(result.choice.objective[chosen.number]),
            "plateau": float(result.choice.plateau[chosen.number]),
        },
        "max_statistic": result.selected(),
        "snooping": None if result.snooping is None else result.snooping.to_dict(),
        "reason": result.choice.reason,
        "objective": "mean over horizons of the one-sided 90 % Wilson lower bound of accuracy; plateau: the lesser of "
        "that and the median of its neighbours in the grid",
        "walk_forward": folds,
        "overrides": overrides.report_rows(result.override_tests),
        "parameters": result.params.to_dict(),
        "parameters_fingerprint": result.params.fingerprint(),
    }


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
    return params_from_dict(document["parameters"])


def params_from_dict(document: dict[str, Any]) -> DetectorParams:
    """Build parameters from `DetectorParams.to_dict` values."""
    base = DetectorParams()
    return DetectorParams(
        replace(base.features, **document["features"]),
        replace(base.decision, **document["decision"]),
        tuple(BucketOverride(o["when"], o["set"], o.get("why", "")) for o in document["overrides"]),
    )
