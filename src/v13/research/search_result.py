"""What a search found, and how it reads: every trial as a table, and the report of the choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import binom

from v13 import measures
from v13.detector import DetectorParams
from v13.detector.dtypes import N_BUCKETS
from v13.detector.params import bucket_name
from v13.research import overrides, selection, snooping
from v13.research.cut import Records
from v13.research.run import Run
from v13.research.settings import Setting, Settings

__all__ = ["SearchResult", "trial_table", "tuning_report"]

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
        "cut": asdict(run.cut) | {"holdout_sha256": run.holdout_sha256},
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
