"""docs/metrics.md is the catalogue's."""

from __future__ import annotations

import re
import subprocess
import sys

from v13.telemetry import CATALOGUE, Metrics
from v13.telemetry.docs import N_SYMBOLS, metrics_page


def test_the_page_on_disk_is_the_one_the_catalogue_makes(repo):
    command = [sys.executable, "-m", "v13.telemetry.docs"]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    assert printed == metrics_page()
    assert (repo / "docs" / "metrics.md").read_text() == printed, "python -m v13.telemetry.docs > docs/metrics.md"


def test_every_metric_has_a_row_and_every_histogram_its_buckets():
    page = metrics_page()
    for metric in CATALOGUE:
        assert page.count(f"| `{metric.name}` | {metric.help} |") == 1
        assert page.count(f"**{metric.name}**: ") == (metric.kind == "histogram")


def test_the_number_of_series_told_is_that_of_a_scrape():
    metrics = Metrics((10, 20), [f"SYMBOL{i}" for i in range(N_SYMBOLS)])
    metrics.set_info("divergence_active_config_info", swing_L=13, z_hi=2.0, z_mid=0.8, version=1)
    lines = metrics.expose().decode().splitlines()
    told = re.search(r"make (\d+) time series", metrics_page())
    assert told is not None
    assert int(told.group(1)) == sum(not line.startswith("#") for line in lines)
