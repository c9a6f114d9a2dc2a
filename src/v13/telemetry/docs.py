"""docs/metrics.md, written from the catalogue: `python -m v13.telemetry.docs > docs/metrics.md`."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Final

from v13.telemetry.catalogue import CATALOGUE, PROCESS, Label, Metric, n_series
from v13.telemetry.series import number_text

__all__ = ["metrics_page"]

_TITLES: Final = {"counter": "Counters", "gauge": "Gauges", "info": "Facts, always 1", "histogram": "Histograms"}
N_HORIZONS, N_SYMBOLS = 2, 50  # the example whose series are counted


def metrics_page() -> str:
    """Return the page, markdown, ending in one newline."""
    n_all = sum(n_series(metric, N_HORIZONS, N_SYMBOLS) for metric in CATALOGUE) + len(PROCESS)
    lines = [
        "# Metrics",
        "",
        "Written from `src/v13/telemetry/catalogue.py`; after a change there: `python -m v13.telemetry.docs >"
        " docs/metrics.md`.",
        "",
        "The exporter serves them at `/metrics`: Prometheus text format 0.0.4, or OpenMetrics 1.0 if `Accept` has it.",
        "Every label set exists from the start, at 0, so `increase()` misses nothing. A label value that is not listed",
        f"cannot occur. {N_SYMBOLS} symbols and {N_HORIZONS} horizons make {n_all} time series in all.",
        "Counters that come from the event log go on where they stood after a restart, before the first scrape.",
        "",
    ]
    for kind, title in _TITLES.items():
        lines += _table(title, [metric for metric in CATALOGUE if metric.kind == kind])
    lines += ["## Buckets", "", "Upper bounds, inclusive; `+Inf` is there too.", ""]
    for metric in CATALOGUE:
        if metric.kind == "histogram":
            bounds = ", ".join(number_text(bound) for bound in metric.buckets)
            lines += [f"**{metric.name}**: {bounds}.", "", metric.why, ""]
            if not metric.has_sum:
                lines += [
                    "No `_sum` and no `_count`, which OpenMetrics forbids below 0; the count is the bucket `+Inf`.",
                    "",
                ]
    lines += [
        "## Of the process",
        "",
        "From prometheus_client, on Linux: " + ", ".join(f"`{n}`" for n in PROCESS) + ".",
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, metrics: list[Metric]) -> list[str]:
    rows = [f"## {title}", "", "| name | what it says | unit | labels |", "|---|---|---|---|"]
    for metric in metrics:
        # Labels that something else decides together are named together.
        groups = groupby(metric.labels, key=_values)
        labels = "; ".join(f"{', '.join(f'`{label.name}`' for label in group)}: {values}" for values, group in groups)
        rows.append(f"| `{metric.name}` | {metric.help} | {metric.unit} | {labels} |")
    return [*rows, ""]


def _values(label: Label) -> str:
    return ", ".join(label.values) or label.decided_by


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
