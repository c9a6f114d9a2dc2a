"""All files that watch production, as `v13 monitoring build` writes them but for the tests of the rules."""

from __future__ import annotations

from typing import Final

from v13.telemetry.dashboard import dashboard_json
from v13.telemetry.rules import Document, rule_files
from v13.telemetry.servers import Exporter, server_files
from v13.telemetry.slo import SloTable

__all__ = ["DASHBOARD_FILE", "LAUNCHER_FILE", "built_files"]

DASHBOARD_FILE: Final = "dashboards/divergence_overview.json"
LAUNCHER_FILE: Final = "divergence_metrics_exporter.py"
# The launcher's own text.
LAUNCHER: Final = '''"""The deployment guide's metrics exporter: `v13 run`, which serves its metrics, same options.

Written by `v13 monitoring build`.
"""

import sys

from v13.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
'''


def built_files(table: SloTable, exporter: Exporter) -> dict[str, Document | str]:
    """Return path -> content: servers, rules, dashboard, launcher of the exporter; equal tables give equal content."""
    return {
        **server_files(table, exporter),
        **rule_files(table),
        DASHBOARD_FILE: dashboard_json(table),
        LAUNCHER_FILE: LAUNCHER,
    }
