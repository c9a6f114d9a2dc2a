"""Yardsticks: pure functions of arrays. They read no file, no config and no clock."""

from v13.measures.accuracy import (
    Accuracy,
    accuracy,
    binomial_p,
    holm,
    spearman,
    spearman_naive_p,
    wilson_interval,
)
from v13.measures.gates import (
    judge_accuracy,
    judge_bucket_family,
    judge_median_score,
    judge_monotonicity,
    judge_rate,
)
from v13.measures.labels import HIT, MISS, TIE, UNLABELLED, forward_returns, hits, segments
from v13.measures.power import (
    events_needed,
    events_needed_for_gate,
    events_needed_for_rho,
    gate_power,
    minimum_detectable_accuracy,
)
from v13.measures.reliability import brier, brier_constant, decile_table, reliability_curve, reliability_error
from v13.measures.resampling import (
    Interval,
    Panel,
    ShiftNull,
    ShiftNulls,
    block_bootstrap_interval,
    circular_shift_null,
    draw_shifts,
    shift_statistics,
)
from v13.measures.verdict import Criterion, Status, Verdict

__all__ = [
    "HIT",
    "MISS",
    "TIE",
    "UNLABELLED",
    "Accuracy",
    "Criterion",
    "Interval",
    "Panel",
    "ShiftNull",
    "ShiftNulls",
    "Status",
    "Verdict",
    "accuracy",
    "binomial_p",
    "block_bootstrap_interval",
    "brier",
    "brier_constant",
    "circular_shift_null",
    "decile_table",
    "draw_shifts",
    "events_needed",
    "events_needed_for_gate",
    "events_needed_for_rho",
    "forward_returns",
    "gate_power",
    "hits",
    "holm",
    "judge_accuracy",
    "judge_bucket_family",
    "judge_median_score",
    "judge_monotonicity",
    "judge_rate",
    "minimum_detectable_accuracy",
    "reliability_curve",
    "reliability_error",
    "segments",
    "shift_statistics",
    "spearman",
    "spearman_naive_p",
    "wilson_interval",
]
