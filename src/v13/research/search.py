"""The search stage: trials over the grid on the search part, the chosen setting, its overrides, and their files.

Files: best_global.yaml, best_by_bucket.yaml, summary.csv (every trial), trials.parquet (every event of every trial),
tuning_report.json.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from v13 import measures, store
from v13.config import Config
from v13.detector import BucketOverride, DetectorParams
from v13.detector.dtypes import N_BUCKETS
from v13.detector.params import bucket_name, override_rows
from v13.research import selection
from v13.research.run import Run
from v13.research.trials import Outcomes, Setting, expand_grid, run_trials

__all__ = ["SearchResult", "search", "write_search"]


@dataclass(frozen=True)
class SearchResult:
    """Everything the search found; `params` is the released configuration (global setting plus overrides)."""

    settings: tuple[Setting, ...]
    outcomes: tuple[Outcomes, ...]
    counts: selection.Counts
    choice: selection.Choice
    folds: tuple[selection.FoldResult, ...]
    override_tests: tuple[selection.OverrideTest, ...]
    params: DetectorParams
    hours: float
    max_null: measures.MaxNull

    def selected(self) -> dict[str, Any]:
        """Return what acceptance needs to know of the choice: its p against the maximum of the grid, and sizes."""
        p = None if self.chosen is None else float(self.max_null.p[self.chosen.number])
        return {
            "p": None if p is None or np.isnan(p) else p,
            "n_events": None if self.chosen is None else int(self.counts.n_all[self.chosen.number].sum(axis=0).min()),
            "n_settings": len(self.settings),
            "n_shifts": len(self.max_null.null),
            "min_shift_bars": self.max_null.min_shift,
        }

    @property
    def chosen(self) -> Setting | None:
        """The chosen setting; None where none was eligible and the configured parameters stand in."""
        return None if self.choice.setting is None else self.settings[self.choice.setting]


def search(run: Run, progress: Callable[[int, int], None] | None = None) -> SearchResult:
    """Search the grid on the search part of a run.

    Where no setting is eligible (too few events, or a rate outside the band) nothing is chosen: the configured
    parameters stand in, and the report says so.
    """
    config = run.config.search
    parts = run.search_parts()
    horizons = tuple(config.horizons_bars)
    settings = expand_grid(run.params, config.grid)
    outcomes = run_trials(settings, parts, run.sessions, horizons, config.cost_bps, progress)
    hours = sum(run.cut.hours(p.bars, holdout=False) for p in parts)
    times = [p.bars["ts_ms"][np.isfinite(p.bars["mid"]) | np.isfinite(p.bars["close"])] for p in parts]
    counts = selection.count(outcomes, times, run.cut.start_ms, run.cut.search_end_ms, config.folds + 1, run.cut.bar_ms)
    n_all, hits_all = counts.n_all.sum(axis=1), counts.hits_all.sum(axis=1)
    choice = selection.choose(settings, n_all, hits_all, config.min_events, counts.events_per_hour(), run.band)
    folds = selection.walk_forward(settings, counts, config.min_events, run.band)
    tests = selection.judge_overrides(
        settings, counts, folds, choice.setting, config.min_bucket_events, run.config.acceptance.alpha
    )
    base = run.params if choice.setting is None else settings[choice.setting].params
    max_null = measures.max_statistic_null(
        [outcome.panels for outcome in outcomes],
        min_shift=grid_min_shift_bars(run.config, settings),
        n_shifts=run.config.acceptance.n_shifts,
        seed=run.seed,
        least_events=config.min_events,
        cost_bps=config.cost_bps,
    )
    overrides = selection.overrides_of(settings, tests, tuple(base.to_dict()["decision"]))
    return SearchResult(
        tuple(settings),
        tuple(outcomes),
        counts,
        choice,
        tuple(folds),
        tuple(tests),
        replace(base, overrides=overrides),
        hours,
        max_null,
    )


def grid_min_shift_bars(config: Config, settings: Sequence[Setting]) -> int:
    """Return the least shift that takes every trial of the grid away from its own returns."""
    longest = max(s.params.decision.swing_L for s in settings)
    return config.acceptance.min_shift_bars or 2 * (max(config.search.horizons_bars) + 2 * longest)


def trial_table(result: SearchResult) -> pl.DataFrame:
    """Return one row for every setting and bucket (and `all`), every horizon side by side."""
    rows: list[dict[str, Any]] = []
    rate = result.counts.events_per_hour()
    for setting, outcome in zip(result.settings, result.outcomes, strict=True):
        s = setting.number
        scores = outcome.events["score"]
        for bucket in range(-1, N_BUCKETS):
            n = result.counts.n_all[s].sum(axis=0) if bucket < 0 else result.counts.n_all[s, bucket]
            hits = result.counts.hits_all[s].sum(axis=0) if bucket < 0 else result.counts.hits_all[s, bucket]
            row: dict[str, Any] = {
                "setting": s,
                **setting.values,
                "bucket": "all" if bucket < 0 else bucket_name(bucket),
            }
            for h, horizon in enumerate(outcome.horizons):
                k, m = int(hits[h]), int(n[h])
                low, high = measures.wilson_interval(k, m) if m else (None, None)
                row |= {
                    f"n_{horizon}": m,
                    f"hits_{horizon}": k,
                    f"acc_{horizon}": k / m if m else None,
                    f"acc_low_{horizon}": low,
                    f"acc_high_{horizon}": high,
                    f"p_naive_{horizon}": measures.binomial_p(k, m) if m else None,
                }
                if bucket < 0:
                    signed = outcome.signed_returns(h)
                    row[f"mean_return_{horizon}"] = float(np.nanmean(signed)) if np.isfinite(signed).any() else None
            if bucket < 0:
                row |= {
                    "n_events": len(scores),
                    "events_per_hour": float(rate[s]),
                    "median_score": float(np.median(scores)) if len(scores) else None,
                    "objective": float(result.choice.objective[s]),
                    "plateau": None if np.isnan(result.choice.plateau[s]) else float(result.choice.plateau[s]),
                    "p_max": None if np.isnan(result.max_null.p[s]) else float(result.max_null.p[s]),
                    "eligible": bool(result.choice.eligible[s]),
                    "chosen": s == result.choice.setting,
                }
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def trial_matrix(run: Run, result: SearchResult) -> pl.DataFrame:
    """Return every event of every trial with its outcome: what later statistics over the whole grid start from."""
    symbols = np.array(list(run.recordings))
    frames = []
    for setting, outcome in zip(result.settings, result.outcomes, strict=True):
        events = outcome.events
        frames.append(
            pl.DataFrame(
                {
                    "setting": np.full(len(events), setting.number, np.int32),
                    "symbol": symbols[outcome.symbol] if len(events) else np.array([], dtype=str),
                    "ts_ms": events["ts_ms"],
                    "bar": events["bar"],
                    "type": events["type"].astype(np.int8),
                    "side": events["side"].astype(np.int8),
                    "source": events["source"].astype(np.int8),
                    "session": events["session"].astype(np.int8),
                    "liquidity": events["liquidity"].astype(np.int8),
                    "score": events["score"],
                    **{f"return_{h}": outcome.returns[:, i] for i, h in enumerate(outcome.horizons)},
                }
            )
        )
    return pl.concat(frames)


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
        "reason": result.choice.reason,
        "objective": "mean over horizons of the one-sided 90 % Wilson lower bound of accuracy; plateau: the lesser of "
        "that and the median of its neighbours in the grid",
        "walk_forward": folds,
        "overrides": [
            {
                "bucket": bucket_name(t.bucket),
                "setting": t.setting,
                "accuracy_own": t.accuracy_own,
                "accuracy_global": t.accuracy_global,
                "n_own": t.n_own,
                "n_global": t.n_global,
                "p": None if np.isnan(t.p) else t.p,
                "p_corrected": None if np.isnan(t.p_corrected) else t.p_corrected,
                "exported": t.exported,
                "reason": t.reason,
            }
            for t in result.override_tests
        ],
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
            "left_with_global": {bucket_name(t.bucket): t.reason for t in result.override_tests if not t.exported},
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
