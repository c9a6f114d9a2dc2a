"""Which alerts the settings in force put out of reach.

The table refuses levels that no value of a metric breaks. Some levels are within a metric's range and still cannot be
reached while a setting stands as it does: they are no mistake, they wait for that setting to change. Which they are is
said, so that nobody takes their silence for health.
"""

from __future__ import annotations

from typing import NamedTuple

from v13.detector.params import DetectorParams
from v13.telemetry.rules import AlertRule, alert_rules
from v13.telemetry.signal_kinds import Gauge, PerHour, Quantile
from v13.telemetry.slo import SloTable

__all__ = ["OutOfReach", "most_per_hour", "out_of_reach"]


class OutOfReach(NamedTuple):
    """An alert that cannot fire, and the setting it waits for."""

    alert: str
    why: str


def out_of_reach(table: SloTable, params: DetectorParams, queue_limit: int) -> tuple[OutOfReach, ...]:
    """Return the alerts that cannot fire under these settings.

    Parameters
    ----------
    table : SloTable
    params : DetectorParams
        What the runner is started with, overrides included.
    queue_limit : int, messages
        runner.queue_limit.

    Notes
    -----
    A replay faster than real time makes more events an hour than `most_per_hour`.
    """
    found = []
    for rule in alert_rules(table):
        why = _why(rule, params, queue_limit)
        if why:
            found.append(OutOfReach(rule.name, why))
    return tuple(found)


def most_per_hour(params: DetectorParams) -> float:
    """Return the most divergences an hour a symbol can give, in real time.

    Notes
    -----
    Pivots of one kind are strict extremes among `swing_L` bars on either side, so at least swing_L + 1 bars apart; each
    gives one event at most, of one side; and a side is quiet for its cooldown.
    """
    bar_s = params.features.bar_ms / 1e3
    apart = min(max((p.swing_L + 1) * bar_s, p.cooldown_ms / 1e3) for p in params.bucket_params())
    return 2 * 3_600 / apart


def _why(rule: AlertRule, params: DetectorParams, queue_limit: int) -> str:
    signal, bound = rule.entry.signal, rule.bound
    if isinstance(signal, Quantile) and signal.of.metric == "divergence_score" and rule.op == "<":
        floor = min(p.min_score for p in params.bucket_params())
        return f"scores below min_score, {floor:g}, are not emitted" if bound <= floor else ""
    if isinstance(signal, PerHour) and signal.events.metric == "divergence_events_total" and rule.op == ">":
        most = most_per_hour(params)
        return f"cooldown_s and swing_L let through {most:.0f} an hour at most" if bound >= most else ""
    if isinstance(signal, Gauge) and signal.of.metric == "divergence_queue_size" and bound >= queue_limit:
        return f"runner.queue_limit sheds what is beyond {queue_limit}"
    return ""
