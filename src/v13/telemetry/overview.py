"""The dashboard's contents: every shelf and panel of `divergence-monitoring-prod`, made from the SLO table.

A row of the table gives a number on the first shelf by itself; where a row also has a plot, its lines are the row's.
"""

from __future__ import annotations

import math
from typing import Final

from v13.telemetry.panels import Mark, Panel, Shelf, flag, levels_text, worst_of
from v13.telemetry.queries import Query, selector
from v13.telemetry.shelves_detection import events_shelf, outcomes_shelf, scores_shelf
from v13.telemetry.shelves_operation import configuration_shelf, feed_shelf, latency_shelf, objectives_shelf
from v13.telemetry.signals import RUNNER_JOB
from v13.telemetry.slo import SloTable

__all__ = ["DEPLOY_TAGS", "MARKS", "overview"]

DEPLOY_TAGS: Final = ("v13", "deploy")  # of the marks a deploy sets over Grafana's API
_RUNNER: Final = f'job="{RUNNER_JOB}"'
_FIRING: Final = selector("ALERTS", 'alertstate="firing"')
_IS_READY: Final = {0: ("not ready", 3), 1: ("ready", 0)}
_IS_SIGNED_OFF: Final = {0: ("no", 2), 1: ("yes", 0)}

MARKS: Final = (
    Mark("Deploys", text="deploy", tags=DEPLOY_TAGS, grade=0),
    Mark(
        "Runner starts",
        f"1000 * {selector('process_start_time_seconds', _RUNNER)}",
        "runner started ({{instance}})",
        is_time=True,
        grade=1,
    ),
    Mark(
        "Configuration reloads",
        f"1000 * {selector('divergence_config_last_reload_success_timestamp_seconds')} > 0",
        "configuration taken ({{instance}})",
        is_time=True,
        grade=0,
    ),
    Mark("Alerts", f"max by (alertname) ({_FIRING})", "{{alertname}}", grade=3),
)


def overview(table: SloTable) -> tuple[Shelf, ...]:
    """Return the shelves from top to bottom.

    Parameters
    ----------
    table : SloTable

    Raises
    ------
    V13Error
        The table lacks a row that a plot shows.
    """
    return (
        _at_a_glance(table),
        events_shelf(table),
        scores_shelf(table),
        outcomes_shelf(table),
        latency_shelf(table),
        objectives_shelf(table),
        feed_shelf(table),
        configuration_shelf(),
    )


def _at_a_glance(table: SloTable) -> Shelf:
    panels = [
        flag("ready", "Runner", "divergence_ready", "Warm and fed: what /-/ready says.", _IS_READY, width=4, height=4),
        Panel(
            "firing",
            "Alerts firing",
            "stat",
            (Query(f"count({_FIRING}) or vector(0)", "firing", instant=True),),
            "events",
            "Alerts of all severities that fire now; the runbook has a section for each.",
            words={0: ("none", 0)},
            graded=((-math.inf, 0), (1.0, 2)),
            width=4,
            height=4,
        ),
        flag(
            "signed_off",
            "Signed off",
            "divergence_signed_off",
            "Parameters and calibration match a sign-off by hash.",
            _IS_SIGNED_OFF,
            width=4,
            height=4,
        ),
    ]
    for row in table.rows:
        about = f"{row.title_zh}. {levels_text(row)}"
        panels.append(
            Panel(
                f"slo_{row.key}", row.title, "stat", (worst_of(row),), row.unit, about, limits=(row,), width=4, height=4
            )
        )
    return Shelf("At a glance", tuple(panels))
