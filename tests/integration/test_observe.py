"""Observation and comparison on a real Prometheus: two exporters, a closure watcher's metric, the generated rules."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.conftest import REPO
from tests.integration.prometheus_server import prometheus_binary, until
from v13.release.compare import Comparison, read_samples
from v13.release.observe import OPERATIONAL, Look, Observer
from v13.release.ports import free_port
from v13.release.prometheus_process import PrometheusProcess
from v13.telemetry import Health, Metrics, start_exporter
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.rules import RECORDING_FILE, rule_files
from v13.telemetry.signals import CLOSURE_JOB, RUNNER_JOB
from v13.telemetry.slo import load_slo

TABLE = load_slo(REPO / "config" / "slo.yaml")
SCRAPE = "200ms"
WELL = Health(healthy=True, ready=True)


class Runner:
    """What a runner exports, without the runner."""

    def __init__(self, stack: ExitStack) -> None:
        self.metrics = Metrics((10,), ("BTCUSDT",))
        for flag in ("ready", "feed_connected", "store_ok", "signed_off"):
            self.metrics.set(f"divergence_{flag}", 1.0)
        self.metrics.set("divergence_active_symbols", 1.0)
        self._event, self._commit, self._pipeline = (
            self.metrics.bind(f"divergence_{name}_seconds") for name in ("event_latency", "commit", "pipeline_latency")
        )
        self._detect = self.metrics.bind("divergence_detection_latency_seconds", source="none")
        self._bars = self.metrics.bind("divergence_bars_total")
        exporter = stack.enter_context(start_exporter(self.metrics, lambda: WELL, "127.0.0.1", 0))
        self.instance = f"127.0.0.1:{exporter.port}"

    def tick(self, *, event_s: float = 1e-4, detect_s: float = 1e-5) -> None:
        """Take in ten bars and what comes with them, in one piece."""
        with self.metrics.together():
            self._event.observe_many(np.full(10, event_s))
            self._detect.observe_many(np.full(10, detect_s))
            self._commit.observe_many(np.full(10, 1e-3))
            self._bars.inc(10)


class Scene:
    """A candidate, a stable runner, a closure watcher, and the Prometheus that sees them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.began_s = time.time()
        self.candidate, self.stable = Runner(stack), Runner(stack)
        registry, port = CollectorRegistry(), free_port()
        self.closure = Gauge("divergence_closure_error_ratio", "Worst.", ["family"], registry=registry)
        self.closure.labels("events").set(0.0)
        server, thread = start_http_server(port, "127.0.0.1", registry)
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        self.watcher = f"127.0.0.1:{port}"
        (folder / "rules.yaml").write_text(json.dumps(rule_files(TABLE)[RECORDING_FILE].body), encoding="utf-8")
        targets = {RUNNER_JOB: [self.candidate.instance, self.stable.instance], CLOSURE_JOB: [self.watcher]}
        self._config = {
            "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": own}]} for job, own in targets.items()],
        }
        self._folder, self._port = folder / "prometheus", free_port()
        self._stack = stack
        self.server = self.start()
        self.client = stack.enter_context(Prometheus(self.server.url, timeout_s=10.0))

    def start(self) -> PrometheusProcess:
        """Start Prometheus on the data there are."""
        self.server = PrometheusProcess(Path(prometheus_binary()), self._config, self._folder, port=self._port)
        self._stack.callback(self.server.close)
        return self.server

    def observer(self, *, swapped: bool = False) -> Observer:
        """Return an observer of the candidate, or of the stable runner; guide's durations by 600."""
        names = (self.candidate.instance, self.stable.instance)[:: -1 if swapped else 1]
        settings = {"scale": 1 / 600, "closure": self.watcher, "since_s": self.began_s, "look_s": 1.0}
        return Observer(TABLE, candidate=names[0], stable=names[1], **settings)  # type: ignore[arg-type]

    def look(self, observer: Observer, *, detect_s: float = 1e-5) -> Look:
        """Let both do a little, the candidate with that compute latency, and look."""
        self.candidate.tick(detect_s=detect_s)
        self.stable.tick()
        return observer.look(self.client, time.time())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack, tmp_path)


def test_a_good_candidate_passes_and_a_slow_one_is_rolled_back(scene: Scene) -> None:
    observer, other = scene.observer(), scene.observer(swapped=True)
    first = scene.look(observer)
    assert first.decision == "hold"  # nothing is known yet
    until(lambda: scene.look(observer).decision == "go_on", "a good candidate goes on")
    look = until(lambda: (seen := scene.look(observer)) and observer.passed(3.0) and seen, "it passes")
    assert observer.go_on_s >= 3.0
    levels = {reading.row: reading.level for reading in look.readings}
    # Nobody saw an event: commits vouch for the pipeline, and the business rows say nothing.
    assert levels.pop("pipeline_latency") == "too_few"
    assert {row: levels[row] for row in OPERATIONAL if row in levels} == dict.fromkeys(
        levels.keys() & OPERATIONAL, "ok"
    )
    values = {reading.row: reading.value for reading in look.readings}
    assert values["event_latency"] == pytest.approx(1e-4, rel=0.5)  # read off buckets
    assert values["availability"] == 1.0

    look = until(
        lambda: (seen := scene.look(observer, detect_s=0.03)).decision == "rollback" and seen, "a slow one goes back"
    )
    assert "Compute latency P95 beyond its rollback level" in look.why or "abnormal for" in look.why
    assert {reading.row: reading.level for reading in look.readings}["compute_latency"] == "rollback"
    assert not observer.passed(0.0)
    assert until(lambda: scene.look(other, detect_s=0.03).decision == "go_on", "its neighbour is as good as ever")


def test_recording_rules_and_clipped_windows_say_the_same(scene: Scene) -> None:
    clipped = scene.observer()
    whole = Observer(TABLE, candidate=scene.candidate.instance, stable=None, closure=scene.watcher, look_s=1.0)
    for observer in (clipped, whole):
        until(lambda observer=observer: scene.look(observer).decision == "go_on", "it goes on")  # type: ignore[misc]
    a, b = scene.look(clipped), whole.look(scene.client, time.time())
    for one, two in zip(a.readings, b.readings, strict=True):
        if one.row not in OPERATIONAL:  # events an hour are seen in steps of 15 s, of which there is none yet
            continue
        assert one.level == two.level, one.row
        if one.value is not None and two.value is not None:
            assert one.value == pytest.approx(two.value, rel=0.05), one.row


def test_a_prometheus_that_is_away_holds_and_goes_on_when_it_is_back(scene: Scene) -> None:
    observer = scene.observer()
    until(lambda: scene.look(observer).decision == "go_on", "it goes on")
    good_s = observer.go_on_s
    scene.server.close()
    gone = scene.look(observer)
    assert (gone.decision, gone.readings, gone.alarm) == ("hold", (), False)
    assert "cannot be reached" in gone.why
    later = observer.look(scene.client, gone.at_s + 0.5)  # 300 s by 600
    assert (later.decision, later.alarm) == ("hold", True)
    state = json.loads(json.dumps(observer.to_dict(), allow_nan=False))
    scene.start()
    again = Observer.from_dict(TABLE, state)
    look = until(lambda: (seen := scene.look(again)).decision == "go_on" and seen, "it goes on again")
    assert not look.alarm
    assert again.go_on_s >= good_s


def test_a_candidate_that_nobody_scrapes_holds(scene: Scene) -> None:
    nobody = Observer(TABLE, candidate="127.0.0.1:9", stable=None, closure=scene.watcher)
    until(lambda: scene.look(scene.observer()).readings, "Prometheus answers")
    look = nobody.look(scene.client, time.time())
    assert (look.decision, look.why.split(";")[0]) == ("hold", "127.0.0.1:9 is not scraped")


def test_a_candidate_twice_as_slow_is_found_and_only_in_what_is_slower(scene: Scene) -> None:
    names = scene.candidate.instance, scene.stable.instance
    comparison = Comparison(*names, block_s=0.5, gap_s=0.0, warm_up_s=0.0)

    def is_found() -> bool:
        scene.candidate.tick(event_s=2e-4)
        scene.stable.tick(event_s=1e-4)
        now_s = time.time()
        result = comparison.see(read_samples(scene.client, names, now_s), now_s)
        return any(one.is_beyond for one in result)

    until(is_found, "the slower one is found")
    found = {one.metric: one for one in comparison.result()}
    assert [one.metric for one in found.values() if one.is_beyond] == ["event_latency"]
    assert (found["event_latency"].candidate, found["event_latency"].stable) == pytest.approx((2e-4, 1e-4))
    assert found["event_latency"].n_better == 0
    assert found["compute_latency"].n_worse == 0
