"""Tables of the notebooks, up to the holdout: numbers rounded for the eye. The artifacts carry the full precision."""

from __future__ import annotations

from typing import Any

import pandas as pd

from v13.research.calibration import HorizonFit
from v13.research.defects import defect_rows
from v13.research.overrides import NODES
from v13.research.reading import chance, interval, moment
from v13.research.run import Run
from v13.research.search_result import SearchResult
from v13.research.stages import CalibrationResult

__all__ = [
    "Table",
    "calibration",
    "cut",
    "deciles",
    "defects",
    "monotonicity",
    "overrides",
    "recordings",
    "rounded",
    "snooping",
    "top_settings",
    "walk_forward",
]


class Table:
    """Rows for the eye: a frame shown without its index, and a plain sentence where there are none."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.frame = pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return "<p>None.</p>"
        with pd.option_context("display.max_colwidth", None):
            return str(self.frame.to_html(index=False, border=0, na_rep=""))


def recordings(run: Run) -> Table:
    """What was read, one row a symbol."""
    rows = []
    for symbol, r in run.recordings.items():
        rows.append(
            {
                "symbol": symbol,
                "market": r.market,
                "simulated": r.simulated,
                "clock": r.clock,
                "bar": f"{r.bar_ms / 1000:g} s",
                "bars": len(r.bars),
                "from": moment(int(r.bars["ts_ms"][0]) - r.bar_ms) if len(r.bars) else "",
                "to": moment(int(r.bars["ts_ms"][-1])) if len(r.bars) else "",
                "trades": r.has_trades,
                "quotes": r.has_quotes,
                "files": len(r.sources),
            }
        )
    return Table(rows)


def cut(run: Run) -> Table:
    """Where the record is cut, and how many recorded hours lie in each part."""
    c = run.cut
    parts = [
        ("search", c.start_ms, c.search_end_ms),
        ("purge gap", c.search_end_ms, c.holdout_start_ms),
        ("holdout", c.holdout_start_ms, c.end_ms),
    ]
    rows = []
    for name, first, last in parts:
        n = sum(int(((b["ts_ms"] > first) & (b["ts_ms"] <= last)).sum()) for b in run.bars.values())
        rows.append(
            {
                "part": name,
                "from": moment(first),
                "to": moment(last),
                "bars, all symbols": n,
                "symbol hours": round(n * c.bar_ms / 3.6e6, 2),
            }
        )
    return Table(rows)


def top_settings(result: SearchResult, n: int = 10) -> Table:
    """The settings with the highest plateaus."""
    choice = result.choice
    rate = result.counts.events_per_hour()
    order = sorted(
        range(len(result.settings)),
        key=lambda s: (not choice.eligible[s], -_or(float(choice.plateau[s]), -1.0), -choice.objective[s], s),
    )[:n]
    rows = []
    for s in order:
        totals, hits = result.counts.n_all[s].sum(axis=0), result.counts.hits_all[s].sum(axis=0)
        row: dict[str, Any] = {"setting": s, **result.settings[s].values}
        for h, horizon in enumerate(result.horizons):
            row[f"n@{horizon}"] = int(totals[h])
            row[f"acc@{horizon}"] = _share(hits[h], totals[h])
        row |= {
            "events/h": round(float(rate[s]), 2),
            "objective": round(float(choice.objective[s]), 4),
            "plateau": rounded(choice.plateau[s], 4),
            "p (max)": chance(None if result.max_null.p[s] != result.max_null.p[s] else float(result.max_null.p[s])),
            "eligible": bool(choice.eligible[s]),
            "chosen": s == choice.setting,
        }
        rows.append(row)
    return Table(rows)


def walk_forward(result: SearchResult) -> Table:
    """The selection rule on unseen time: chosen on the blocks before, judged on the next."""
    rows = []
    for fold in result.folds:
        row: dict[str, Any] = {"fold": fold.fold, "setting": "none eligible" if fold.setting is None else fold.setting}
        for h, horizon in enumerate(result.horizons):
            row[f"n@{horizon}"] = fold.n[h]
            row[f"acc@{horizon}"] = _share(fold.hits[h], fold.n[h])
        rows.append(row)
    return Table(rows)


def snooping(result: SearchResult) -> Table:
    """What the literature's tests for data snooping say of the whole grid; none of them decides."""
    found = result.snooping
    if found is None:
        return Table([])
    spa, over, deflated = found.spa, found.overfitting, found.deflated
    rows = [
        {
            "test": "Hansen, superior predictive ability (SPA)",
            "says": f"p {chance(spa.p_consistent)}" if spa.p_consistent is not None else f"no p: {spa.reason}",
            "reads": "small: some setting beats no forecast",
        },
        {
            "test": "Romano and Wolf, StepM",
            "says": f"{len(found.superior)} of {len(result.settings)} settings",
            "reads": f"named with a family-wise error of {found.alpha:g}",
        },
    ]
    if over is not None:
        rows.append(
            {
                "test": "Probability of backtest overfitting (CSCV)",
                "says": f"{over.pbo:.1%} of {over.n_splits:,} splits",
                "reads": "near 50 % on noise; small: the best inside stays above the median outside",
            }
        )
    if deflated is not None:
        says = "not defined" if deflated.probability is None else f"{deflated.probability:.3f}"
        rows.append(
            {
                "test": "Deflated Sharpe ratio of the choice",
                "says": says,
                "reads": f"chance that it beats the best of {deflated.n_trials:.0f} trials without skill",
            }
        )
    return Table(rows)


def overrides(result: SearchResult) -> Table:
    """Each source, then each bucket: where its parameters come from, and why."""
    return Table(
        [
            {
                "node": NODES[t.node].name,
                "own setting": t.setting if t.setting is not None else "",
                "compared with": t.baseline,
                "acc own": rounded(t.accuracy_own, 3),
                "acc compared": rounded(t.accuracy_baseline, 3),
                "n own": t.n_own,
                "p corrected": chance(None if t.p_corrected != t.p_corrected else t.p_corrected),
                "parameters from": t.gets,
                "why": t.reason,
            }
            for t in result.override_tests
        ]
    )


def calibration(fits: list[HorizonFit]) -> Table:
    """What is shipped for each horizon, and the out-of-fold quality of the fit that was tried."""
    rows = []
    for f in fits:
        q = f.out_of_fold
        rows.append(
            {
                "horizon": f.horizon_bars,
                "shipped": f.method,
                "events": f.n,
                "Brier": rounded(q.brier, 5),
                "Brier of a constant": rounded(q.brier_constant, 5),
                "beats a constant": "" if q.brier is None or q.brier_constant is None else q.brier < q.brier_constant,
                "gain, 95 %": interval(q.gain_interval, 5),
                "reliability error": rounded(q.error, 4),
                "95 % interval": interval(q.error_interval, 4),
                "why a constant": f.why or "",
            }
        )
    return Table(rows)


def deciles(rows: tuple[dict[str, Any], ...]) -> Table:
    """A decile table; returns in basis points."""
    shown = []
    for d in rows:
        shown.append(
            {
                "n": d["n"],
                "score": f"{d['score_low']:.1f}-{d['score_high']:.1f}",
                "hits": rounded(d["hit_share"], 3),
                "95 %": interval((d["hit_low"], d["hit_high"]), 3),
                "mean return, bp": rounded(1e4 * d["return_mean"], 3),
                "95 % ": ""
                if d["return_low"] is None
                else interval((1e4 * d["return_low"], 1e4 * d["return_high"]), 2),
            }
        )
    return Table(shown)


def monotonicity(result: CalibrationResult) -> Table:
    """Rank correlation of score and signed return on the search part."""
    return Table(
        [
            {
                "horizon": m.horizon_bars,
                "n": m.n,
                "rho": rounded(m.rho, 4),
                "p (shifts)": chance(m.p),
                "p (naive)": chance(m.p_naive),
            }
            for m in result.monotonicity
        ]
    )


def defects(run: Run) -> Table:
    """Defects found in the recordings, with what was done; rows without a finding are left out."""
    rows: list[dict[str, Any]] = []
    for symbol, r in run.recordings.items():
        rows.extend({"symbol": symbol, **entry} for entry in defect_rows(r))
    return Table(rows)


def rounded(value: float | None, digits: int) -> float | str:
    """Return a number to so many digits; an empty cell where it is None or NaN."""
    return "" if value is None or value != value else round(float(value), digits)


def _share(hits: float, n: float) -> float | str:
    return round(float(hits / n), 4) if n else ""


def _or(value: float, otherwise: float) -> float:
    return otherwise if value != value else float(value)
