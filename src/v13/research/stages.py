"""The stages after the search, as the notebooks and the command line call them, and the files they write.

A stage takes what an earlier one wrote into the run's folder if that was written for the very same inputs, config, seed
and version (`run.key`), and otherwise computes it, so that every notebook can be run alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from v13 import measures, store
from v13.detector import DetectorParams
from v13.measures import StepVerdict
from v13.research import figures
from v13.research.acceptance import HoldoutResult
from v13.research.calibration import quality_dict
from v13.research.certificate import Certificate, certify, criterion
from v13.research.defects import gap_list, n_bad_rows, quality_document
from v13.research.live_evidence import completed_from
from v13.research.pipeline import CalibrationResult, calibrate, judge_holdout
from v13.research.run import Run
from v13.research.sealing import enter_look, record_verdict
from v13.research.search import SearchResult, read_params, search, write_search
from v13.store import Look

__all__ = [
    "CALIBRATION_FILE",
    "CalibrationResult",
    "accept_run",
    "calibrate_run",
    "conclude_acceptance",
    "conclude_calibration",
    "conclude_certificate",
    "conclude_quality",
    "conclude_search",
    "judge_look",
    "released_params",
    "write_acceptance",
    "write_calibration",
    "write_quality",
]

CALIBRATION_FILE = "divergence_score_calibration.json"
SCHEMAS = Path(__file__).parent / "schemas"


def write_quality(run: Run) -> None:
    """Write data_quality.json: what was read and every defect counted."""
    store.write_json(
        run.out / "data_quality.json",
        {
            "version": 1,
            "key": run.key,
            "simulated": run.simulated,
            "recordings": {symbol: quality_document(r) for symbol, r in run.recordings.items()},
        },
    )


def released_params(run: Run) -> DetectorParams:
    """Return the parameters the search released for this run, searching now if it has not been done."""
    params = read_params(run)
    if params is None:
        result = search(run)
        write_search(run, result)
        params = result.params
    return params


def calibrate_run(run: Run) -> CalibrationResult:
    """Fit the calibration of the parameters the search released."""
    return calibrate(run, released_params(run))


def write_calibration(run: Run, result: CalibrationResult) -> None:
    """Write the calibration map, monotonicity_report.json and a plot for each horizon."""
    store.validate(result.document, SCHEMAS / "calibration.schema.json")
    store.write_json(run.out / CALIBRATION_FILE, result.document)
    store.write_json(
        run.out / "monotonicity_report.json",
        {
            "version": 1,
            "key": run.key,
            "simulated": run.simulated,
            "part": "search",
            "horizons": [
                asdict(m)
                | {
                    "n_rising_steps": _rising(f.deciles),
                    "deciles": list(f.deciles),
                    "method": f.method,
                    "out_of_fold": quality_dict(f.out_of_fold),
                }
                for m, f in zip(result.monotonicity, result.fits, strict=True)
            ],
        },
    )
    for fit in result.fits:
        picture = figures.png(figures.deciles_figure(fit, run.simulated))
        store.write_bytes(run.out / f"score_monotonicity_{fit.horizon_bars}.png", picture)


def accept_run(run: Run) -> HoldoutResult:
    """Judge the released parameters and their calibration on the holdout, and this very pipeline on noise.

    The look at the holdout is entered in the ledger first, and is judged at what it costs. Where a sign-off has put
    the report of a runner into the run's folder, the criteria only a runner can answer are judged by it.
    """
    params = released_params(run)
    _calibration_document(run, params)  # made before the look, where it is not there
    look = enter_look(run)
    result = judge_look(run, look, certify(run) if run.config.noise.markets else None)
    record_verdict(run, result.verdict.overall.value)  # of the look: what a runner shows has no part in it
    return replace(result, verdict=completed_from(result.verdict, run.out, run.config, params.fingerprint()))


def judge_look(run: Run, look: Look, certificate: Certificate | None) -> HoldoutResult:
    """Judge a look that was entered: `accept_run` without the ledger and without a runner's report."""
    params = released_params(run)
    report = store.read_json(run.out / "tuning_report.json")
    result = judge_holdout(run, params, _calibration_document(run, params), report["max_statistic"], look)
    return replace(result, verdict=measures.Verdict.of([*result.verdict.criteria, criterion(certificate)]))


def _calibration_document(run: Run, params: DetectorParams) -> dict[str, Any]:
    """Return the calibration of this run, fitted and written now if it has not been."""
    path = run.out / CALIBRATION_FILE
    document: dict[str, Any] | None = store.read_json(path) if path.is_file() else None
    if document is None or document.get("key") != run.key:
        fitted = calibrate(run, params)
        write_calibration(run, fitted)
        document = fitted.document
    return document


def write_acceptance(run: Run, result: HoldoutResult) -> None:
    """Write acceptance.json: the verdict with all its evidence, and the events it was judged on."""
    store.write_json(run.out / "acceptance.json", acceptance_document(run, result))


def acceptance_document(run: Run, result: HoldoutResult) -> dict[str, Any]:
    """Return acceptance.json."""
    return {
        "version": 1,
        "key": run.key,
        "simulated": run.simulated,
        "verdict": result.verdict.to_dict(),
        "alpha": result.alpha,
        "look": None if result.look is None else dict(result.look),
        "holdout": {
            "hours": result.hours,
            "n_events": len(result.outcomes.events),
            "events_per_hour": result.events_per_hour,
            "median_score": result.median_score,
            "sha256": run.holdout_sha256,
            "min_shift_bars": result.min_shift_bars,
        },
        "horizons": [
            {
                "horizon_bars": r.horizon_bars,
                "accuracy": asdict(r.accuracy),
                "accuracy_interval": _pair(r.accuracy_interval),
                "p": _finite(r.p),
                "p_naive": _finite(r.p_naive),
                "rho": _finite(r.rho),
                "rho_interval": _pair(r.rho_interval),
                "rho_p": _finite(r.rho_p),
                "rho_p_naive": _finite(r.rho_p_naive),
                "rho_p_hac": _finite(r.rho_p_hac),
                "mean_return": _finite(r.mean_return),
                "mean_return_interval": _pair(r.mean_return_interval),
                "n_shifts": r.n_shifts,
                "deciles": list(r.deciles),
                "calibration": quality_dict(r.calibration),
            }
            for r in result.horizons
        ],
        "buckets": [
            {
                "bucket": b.bucket,
                "source": b.source,
                "horizon_bars": b.horizon_bars,
                "accuracy": asdict(b.accuracy),
                "p": b.p,
                "p_corrected": b.p_corrected,
                "decision": b.decision,
                "minimum_detectable_accuracy": b.minimum_detectable,
                "missing": b.missing,
                "wait_hours": b.wait_hours,
            }
            for b in result.buckets
        ],
        "ablation": [asdict(a) for a in result.ablation],
        "placebo": [asdict(r) for r in result.placebo],
        "regimes": None if result.regimes is None else asdict(result.regimes),
    }


def conclude_quality(run: Run) -> StepVerdict:
    """Sum the recording up."""
    n_bars = sum(len(b) for b in run.bars.values())
    n_bad = sum(n_bad_rows(r) for r in run.recordings.values())
    n_gaps = sum(len(gap_list(r)) for r in run.recordings.values())
    summary = f"{n_bars:,} bars of {len(run.recordings)} symbol(s); {n_bad:,} bad rows and {n_gaps} gaps counted."
    if not run.has_quotes:
        summary += " No quotes: the OFI channel is absent."
    if not run.has_trades:
        summary += " No trades: the CVD channel is absent."
    return StepVerdict("01_data_quality", "READ", summary, {"n_bars": n_bars, "n_bad_rows": n_bad, "n_gaps": n_gaps})


def conclude_search(result: SearchResult) -> StepVerdict:
    """Sum the search up."""
    chosen = result.chosen
    folds = [f for f in result.folds if f.setting is not None and any(f.n)]
    n, hits = sum(sum(f.n) for f in folds), sum(sum(f.hits) for f in folds)
    walk = f" Walk-forward, the rule was right {hits / n:.1%} of the time." if n else ""
    n_overrides = len(result.params.overrides)
    if chosen is None:
        status, text = "NOTHING CHOSEN", f"{result.choice.reason}; the configured parameters stand in."
    else:
        values = ", ".join(f"{k}={v}" for k, v in chosen.values.items())
        status = "CHOSEN"
        text = f"setting {chosen.number} of {len(result.settings)} ({values}), {n_overrides} bucket override(s)."
    numbers = {
        "n_settings": len(result.settings),
        "setting": None if chosen is None else chosen.number,
        "n_overrides": n_overrides,
        "walk_forward_accuracy": hits / n if n else None,
    }
    return StepVerdict("02_grid_search", status, text + walk, numbers)


def conclude_calibration(result: CalibrationResult) -> StepVerdict:
    """Sum the calibration up."""
    parts: list[str] = []
    better: list[bool | None] = []
    for fit in result.fits:
        q = fit.out_of_fold
        if q.brier is None or q.brier_constant is None:
            parts.append(f"{fit.horizon_bars} bars: too few events ({fit.n})")
            better.append(None)
            continue
        wins = q.brier < q.brier_constant
        better.append(wins)
        parts.append(
            f"{fit.horizon_bars} bars: {fit.method} on {fit.n:,} events, out of fold "
            f"{'better' if wins else 'no better'} than a constant (Brier {q.brier:.4f} against {q.brier_constant:.4f})"
        )
    status = "NOT FITTED" if all(b is None for b in better) else "FITTED"
    numbers = {f"beats_constant_{f.horizon_bars}": b for f, b in zip(result.fits, better, strict=True)}
    return StepVerdict("03_score_calibration", status, "; ".join(parts) + ".", numbers)


def conclude_certificate(certificate: Certificate) -> StepVerdict:
    """Sum the noise certificate up."""
    proof = criterion(certificate)
    null = certificate.all_null
    numbers = {"n_markets": null["n_markets"], "n_passed": null["n_passed"], "upper_bound": null["high"]}
    return StepVerdict("05_noise_certificate", proof.status.value, proof.detail, numbers)


def conclude_acceptance(result: HoldoutResult) -> StepVerdict:
    """Sum the acceptance up."""
    verdict = result.verdict
    judged = [c for c in verdict.criteria if c.status not in (measures.Status.NOT_RUN, measures.Status.NOT_APPLICABLE)]
    passed = sum(c.status is measures.Status.PASS for c in judged)
    summary = f"{passed} of {len(judged)} criteria passed; {len(result.outcomes.events):,} events on the holdout."
    return StepVerdict("04_acceptance", verdict.overall.value, summary, {"n_passed": passed, "n_judged": len(judged)})


def _rising(deciles: Sequence[dict[str, Any]]) -> int:
    means = [d["return_mean"] for d in deciles]
    return sum(b > a for a, b in itertools.pairwise(means))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _pair(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else [float(ends[0]), float(ends[1])]
