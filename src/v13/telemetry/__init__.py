"""What the runner tells of itself: one catalogue of metrics, their values, and the exporter that shows them."""

from v13.telemetry.catalogue import CATALOGUE, Label, Metric
from v13.telemetry.exporter import BasicAuth, Exporter, Health, TLSFiles, start_exporter
from v13.telemetry.metrics import Metrics
from v13.telemetry.series import Handle

__all__ = [
    "CATALOGUE",
    "BasicAuth",
    "Exporter",
    "Handle",
    "Health",
    "Label",
    "Metric",
    "Metrics",
    "TLSFiles",
    "start_exporter",
]
