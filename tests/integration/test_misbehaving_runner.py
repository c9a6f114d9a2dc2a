"""Alerts fired by a runner that really misbehaves; all of them: `python -m tests.stress.misbehave`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.prometheus_server import prometheus_binary
from tests.stress.stage import BAR_MS, CHANGED, Shown, Venue, loose, scaled_table, stage
from v13.telemetry.rules import alert_rules
from v13.telemetry.slo import load_slo


def test_the_rules_that_are_played_are_the_product_s_but_for_times_and_what_is_said_to_differ(tmp_path: Path) -> None:
    scaled_table(tmp_path / "slo.yaml")
    played = {rule.name: rule for rule in alert_rules(load_slo(tmp_path / "slo.yaml"))}
    product = {rule.name: rule for rule in alert_rules(load_slo(REPO / "config" / "slo.yaml"))}
    assert played.keys() == product.keys()
    others = {name for name, rule in product.items() if (rule.op, rule.bound) != (played[name].op, played[name].bound)}
    assert others == {"DivergenceClosureStale"}
    assert ("alerts", "closure_stale", "above") in CHANGED
    assert all(rule.for_s == 1 for rule in played.values())


@pytest.mark.slow
def test_an_error_storm_garbage_settings_a_stuck_log_a_dead_feed_and_a_dead_runner_are_told(tmp_path: Path) -> None:
    prometheus_binary()  # or skip
    shown: list[Shown] = []
    with Venue() as venue, stage(tmp_path, shown, loose(BAR_MS)) as s:
        runner = s.start("--feed", "binance", "--symbols", "BTCUSDT", **venue.environ)
        s.ready()
        bad = partial(setattr, venue, "n_garbage", 1)
        s.expect("frames that are no JSON", "ErrorRateAlert", "ErrorRateRollback", do=bad)
        venue.n_garbage = 0
        settings = s.root / "config" / "system.yaml"
        whole = settings.read_bytes()
        s.expect("no YAML", "ReloadFailed", do=partial(settings.write_bytes, b"runner: ["))
        settings.write_bytes(whole)
        with closing(sqlite3.connect(s.root / "runs/live/events.sqlite", isolation_level=None)) as other:

            def lock() -> None:
                other.execute("BEGIN IMMEDIATE")
                venue.flood = True

            s.expect("another process locks the log, quotes come fast", "StoreFailing", "Backlog", do=lock)
            other.execute("ROLLBACK")
        venue.flood = False
        s.expect("the exchange dies", "FeedDisconnected", "NotReady", do=venue.die)
        s.expect("SIGKILL", "RunnerDown", "RunnerAbsent", do=runner.process.kill)
    assert len({one.alert for one in shown}) == 9
