"""Tables of the acceptance notebook: the verdict and its evidence on the holdout, rounded for the eye."""

from __future__ import annotations

from v13 import measures
from v13.measures.pace import duration
from v13.research.acceptance import BucketRow, HoldoutResult
from v13.research.reading import chance, interval, limit
from v13.research.tables import Table, rounded

__all__ = [
    "ablation",
    "buckets",
    "criteria",
    "held_out_calibration",
    "horizons",
    "placebo",
    "regimes",
]


def held_out_calibration(result: HoldoutResult) -> Table:
    """The fitted probabilities on the holdout against a constant known beforehand."""
    return Table(
        [
            {
                "horizon": r.horizon_bars,
                "events": r.calibration.n,
                "Brier": rounded(r.calibration.brier, 5),
                "Brier of a constant": rounded(r.calibration.brier_constant, 5),
                "gain, 95 %": interval(r.calibration.gain_interval, 5),
                "reliability error": rounded(r.calibration.error, 4),
                "95 % interval": interval(r.calibration.error_interval, 4),
            }
            for r in result.horizons
        ]
    )


def horizons(result: HoldoutResult) -> Table:
    """The holdout, one row a horizon: honest p and naive p side by side."""
    rows = []
    for r in result.horizons:
        a = r.accuracy
        rows.append(
            {
                "horizon": r.horizon_bars,
                "events": a.n_events,
                "hits": a.n_hits,
                "misses": a.n_misses,
                "ties": a.n_ties,
                "unlabelled": a.n_unlabelled,
                "accuracy": rounded(a.accuracy, 4),
                "95 %": interval(r.accuracy_interval, 3),
                "p (shifts)": chance(r.p),
                "p (naive)": chance(r.p_naive),
                "rho": rounded(r.rho, 3),
                "rho 95 %": interval(r.rho_interval, 3),
                "rho p (shifts)": chance(r.rho_p),
                "rho p (HAC)": chance(r.rho_p_hac),
                "rho p (naive)": chance(r.rho_p_naive),
                "mean return, bp": rounded(None if r.mean_return is None else 1e4 * r.mean_return, 3),
            }
        )
    return Table(rows)


def buckets(result: HoldoutResult) -> Table:
    """Every bucket at every horizon: p before and after the correction, what it could show, and the decision."""
    return Table(
        [
            {
                "bucket": b.bucket,
                "horizon": b.horizon_bars,
                "n": b.accuracy.n_judged,
                "accuracy": rounded(b.accuracy.accuracy, 3),
                "p (shifts)": chance(b.p),
                "p corrected": chance(b.p_corrected),
                "least true accuracy it could show": rounded(b.minimum_detectable, 3),
                "decision": _decision(b),
            }
            for b in result.buckets
        ]
    )


def ablation(result: HoldoutResult) -> Table:
    """Each source alone through the same gates, and fusion against the better of the two."""
    return Table(
        [
            {
                "horizon": a.horizon_bars,
                **{
                    k: "" if c.accuracy is None else f"{c.accuracy:.3f} (n {c.n_judged:,})"
                    for k, c in a.accuracy.items()
                },
                "better single source": a.better or "none with enough events",
                "fusion minus it": rounded(a.difference, 3),
                "95 % interval": interval(a.difference_interval, 3),
            }
            for a in result.ablation
        ]
    )


def placebo(result: HoldoutResult) -> Table:
    """The released parameters on shuffled flow, beside the real flow."""
    return Table(
        [
            {
                "horizon": r.horizon_bars,
                "n real": real.accuracy.n_judged,
                "accuracy real": rounded(real.accuracy.accuracy, 4),
                "n placebo": r.accuracy.n_judged,
                "accuracy placebo": rounded(r.accuracy.accuracy, 4),
                "p placebo (shifts)": chance(r.p),
                "real minus placebo": rounded(r.difference, 4),
                "95 % interval": interval(r.difference_interval, 3),
            }
            for r, real in zip(result.placebo, result.horizons, strict=True)
        ]
    )


def regimes(result: HoldoutResult) -> Table:
    """The edge period by period; its share only where the whole edge is above 0."""
    return Table(
        [
            {
                "period (UTC)": r.period,
                "horizon": r.horizon_bars,
                "symbol hours": round(r.hours, 2),
                "n": r.n,
                "hits": r.hits,
                "accuracy": rounded(r.accuracy, 3),
                "95 % (Wilson)": interval(r.interval, 3),
                "edge (hits - misses)": r.edge,
                "share of edge": "" if r.share is None else f"{100 * r.share:.0f} %",
            }
            for r in (result.regimes.rows if result.regimes else ())
        ]
    )


def criteria(verdict: measures.Verdict) -> Table:
    """Every criterion with its evidence."""
    return Table(
        [
            {
                "criterion": c.title,
                "status": c.status.value,
                "estimate": rounded(c.estimate, 4),
                "95 % interval": interval(c.interval, 3),
                "threshold": limit(c.threshold),
                "p": chance(c.p),
                "n": "" if c.n is None else c.n,
                "in words": c.detail,
            }
            for c in verdict.criteria
        ]
    )


def _decision(b: BucketRow) -> str:
    wait = "never at the present rate" if b.wait_hours is None else f"{duration(b.wait_hours)} of recording"
    why = (
        f"{b.missing} more event{'s' * (b.missing != 1)} ({wait})" if b.missing else "the record is too short to shift"
    )
    return f"{b.decision}: {why}" if b.p is None else b.decision
