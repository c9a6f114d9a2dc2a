"""The end of an operation put on paper: a snapshot of the monitoring, the deploy record, a mark on the dashboard.

It tells and decides nothing; what cannot be told, because Prometheus or Grafana is away, is said and keeps no record
from being written.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from v13 import store
from v13.errors import V13Error
from v13.release.ledger import Operation
from v13.release.monitoring import TOKEN_VARIABLE
from v13.release.record import write_record
from v13.release.rig import Rig
from v13.telemetry.grafana import Grafana
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.queries import Scope
from v13.telemetry.slo import load_slo
from v13.telemetry.snapshot import take
from v13.telemetry.snapshot_page import snapshot_page

__all__ = ["conclude"]

SNAPSHOT: Final = "monitoring/end.html"
LEAST_S: Final = 300  # shown at least
MORE_S: Final = 60  # before the operation began
SLO_TABLE: Final = "config/slo.yaml"


def conclude(rig: Rig, operation: str) -> Path:
    """Write the record of an operation that has ended, with a snapshot of what Prometheus shows of it.

    Parameters
    ----------
    rig : Rig
    operation : str

    Returns
    -------
    Path
        Folder of the record.

    Raises
    ------
    ReleaseError, StoreError
        As `write_record`.
    """
    last = rig.ledger.state().operation
    with TemporaryDirectory(prefix="v13-record-") as temp:
        page = Path(temp, "end.html")
        given = {}
        try:
            if last is not None and last.id == operation and _snapshot(rig, last, page):
                given = {SNAPSHOT: page}
        except V13Error as error:
            rig.say(f"no snapshot of the monitoring: {error}")
        folder = write_record(rig.site, rig.ledger, given, operation=operation)
    try:
        if last is not None:
            _mark(rig, last)
    except (V13Error, OSError) as error:
        rig.say(f"no mark on the dashboard: {error}")
    return folder


def _snapshot(rig: Rig, operation: Operation, page: Path) -> bool:
    url = rig.site.config.deploy.prometheus
    if url is None or not any(step.startswith(("start", "verify")) for step in operation.done):
        return False  # refused before anything ran: there is nothing to see
    state = rig.ledger.state()
    release = state.stable or state.candidate
    root = rig.site.root if release is None else rig.site.release(release)
    table = load_slo(root / SLO_TABLE)
    end_s = rig.clock.now().timestamp()
    began_s = datetime.fromisoformat(operation.begun_utc).timestamp()
    range_s = max(LEAST_S, int(end_s - began_s) + MORE_S)
    scope = Scope(range_s=range_s, scrape_s=table.scrape_s, window_s=min(3_600, range_s))
    with Prometheus(url) as prometheus:
        store.write_text(page, snapshot_page(take(prometheus, table, scope, float(int(end_s))), url))
    return True


def _mark(rig: Rig, operation: Operation) -> None:
    url, named = rig.site.config.deploy.grafana, os.environ.get(TOKEN_VARIABLE)
    if url is None or not named:
        return
    text = f"{operation.kind} {operation.id}: {operation.outcome or 'held'}"
    with Grafana(url, Path(named).read_text(encoding="utf-8").strip()) as grafana:
        grafana.annotate(text, ["v13", operation.kind], int(rig.clock.now().timestamp() * 1e3))
