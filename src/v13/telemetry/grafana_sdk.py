"""The parts of grafana-foundation-sdk in use, imported without its advice to write dashboards of schema v2.

Schema v1 is what `POST /api/dashboards/db` and provisioned files take, in Grafana 12 and in those before it.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, statetimeline, timeseries
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.builders import table as table_panel
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.variants import Dataquery
    from grafana_foundation_sdk.models import common as words
    from grafana_foundation_sdk.models import dashboard as grafana
    from grafana_foundation_sdk.models import heatmap as heatmap_words
    from grafana_foundation_sdk.models import prometheus as prometheus_words

__all__ = [
    "Builder",
    "Dataquery",
    "JSONEncoder",
    "bargauge",
    "build",
    "common",
    "grafana",
    "heatmap",
    "heatmap_words",
    "prometheus",
    "prometheus_words",
    "stat",
    "statetimeline",
    "table_panel",
    "timeseries",
    "words",
]
