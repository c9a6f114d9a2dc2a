"""Metrics closure on a real Prometheus that scrapes a real runner; both are restarted inside the window."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import papermill
import pytest

from tests.conftest import REPO
from tests.integration.prometheus_server import prometheus_binary
from tests.integration.runner_process import n_rows, until
from tests.unit.store.event_batches import HORIZONS, batch
from tests.unit.telemetry.test_exporter import make_certificate
from v13 import store
from v13.cli import closure as closure_cli
from v13.errors import EXIT_GATE, EXIT_OK, ConfigError, StoreError, V13Error
from v13.live.reload_stage import RunnerProcess, prepare
from v13.live.session_metrics import SessionMetrics
from v13.release.closure import Closure, close
from v13.release.closure_exporter import WEAKER, close_exporter
from v13.release.closure_row import ClosureRow
from v13.release.closure_text import conclusion, table
from v13.release.closure_watch import ClosureExporter, watch
from v13.release.ports import free_port
from v13.release.prometheus_process import PrometheusProcess, rehearsal_config
from v13.release.scrapes import last_scrape_s
from v13.store.event_log import EventLog
from v13.telemetry import Health, Metrics, start_exporter
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.rules import rule_files
from v13.telemetry.servers import PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.slo import SloTable, load_slo

pytestmark = pytest.mark.slow

N_BARS = 3_600  # an hour of 1 s
SPEED = "240"
RATIO = 0.1
PASSWORD = "correct horse battery"
WINDOW_S = 600
MISCOUNT = """
import sys
from v13.live.session_metrics import SessionMetrics
step, seen = SessionMetrics.step, [0]
def miscounting(self, one, new, *more, **named):
    seen[0] += len(new)
    step(self, one, new if seen[0] % 7 else [], *more, **named)
SessionMetrics.step = miscounting
from v13.cli import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Stage:
    """Servers of one rehearsal, and what they left."""

    root: Path
    server: PrometheusProcess
    program: Path
    config: dict[str, object]
    seconds: float

    @property
    def log(self) -> Path:
        return self.root / "runs/live/events.sqlite"

    def close(self, log: Path | None = None) -> Closure:
        with Prometheus(self.server.url) as prometheus:
            now_s = time.time()
            return close(prometheus, slo(), log or self.log, window_s=WINDOW_S, closure_ratio=RATIO, now_s=now_s)

    def restart(self) -> None:
        """Start Prometheus again, on its data and its port."""
        folder, port = self.root / "prometheus", self.server.port
        self.server.close()
        self.server = PrometheusProcess(self.program, self.config, folder, port=port)


def slo() -> SloTable:
    return load_slo(REPO / "config/slo.yaml")


def built(folder: Path, port: int) -> dict[str, object]:
    """The configuration that monitoring builds, with a port of this test."""
    for name, document in {**server_files(slo(), Exporter()), **rule_files(slo())}.items():
        store.write_yaml(folder / name, document.body, header=document.header)
    config = rehearsal_config(folder / PROMETHEUS_FILE, {"divergence": f"127.0.0.1:{port}"}, 1)
    for target in config["scrape_configs"][0]["static_configs"]:
        target["labels"] = {"release": "20261129T120000Z-0123abcd"}  # as a deploy has it: none of the runner's
    return config


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An hour of bars; the runner is killed at a third and started again, Prometheus is restarted at two thirds."""
    began_s = time.time()
    root = tmp_path_factory.mktemp("lived")
    program = Path(prometheus_binary())
    recording = prepare(root, REPO / "config", n_bars=N_BARS)
    port = free_port()
    arguments = ("--feed", f"replay:{recording}", "--speed", SPEED, "--port", str(port))
    config = built(root / "monitoring", port)
    stage = Stage(root, PrometheusProcess(program, config, root / "prometheus"), program, config, 0.0)
    try:
        with RunnerProcess(root, *arguments, is_held=True) as runner, Prometheus(stage.server.url) as client:
            # From counters at 0 nothing is extrapolated backwards: counts are then whole with every Prometheus.
            until(lambda: last_scrape_s(client, began_s, time.time()) is not None, "a scrape before the first bar")
            runner.begin()
            until(lambda: n_rows(stage.log) > 2 * N_BARS // 3, "a third is played")
            runner.end(signal.SIGKILL)
        with RunnerProcess(root, *arguments) as runner:
            until(lambda: n_rows(stage.log) > 4 * N_BARS // 3, "two thirds are played")
            stage.restart()
            assert runner.process.wait(120) == 0
        stage.seconds = time.time() - began_s
        yield stage
    finally:
        stage.server.close()


def row_of(closure: Closure, label: str, panel: str | None = None) -> ClosureRow:
    return next(r for r in closure.rows if r.label == label and panel in (None, r.panel))


def test_all_figures_close_over_a_restart_of_the_runner_and_of_prometheus(lived: Stage) -> None:
    closure = lived.close()
    assert closure.is_closed, conclusion(closure)
    assert closure.n_lives == 2
    assert closure.n_scrapes > 4
    assert closure.n_events > 50  # how many fall between two scrapes is the machine's affair
    assert set(closure.errors) == {"events", "scores", "hit_rate", "latency"}
    assert max(closure.errors.values()) < 1e-9


def test_counts_close_exactly_and_only_a_process_s_own_counters_lose_by_a_restart(lived: Stage) -> None:
    closure = lived.close()
    counts = [r for r in closure.rows if r.unit == "events" and "times" not in r.label]
    assert len(counts) > 80
    for row in counts:
        boundary = row.parts["boundary"]
        assert row.shown == pytest.approx(row.logged + boundary, abs=1e-6), row
        assert boundary == pytest.approx(round(boundary), abs=1e-6)  # whole commits between scrape and end
        assert row.parts["reset"] == row.parts["birth"] == 0.0
    times = next(r for r in closure.rows if r.label.startswith("times measured, receipt"))
    assert times.parts["reset"] < 0
    assert times.error < 1e-9


def test_quantiles_lie_in_the_bucket_of_the_exact_ones(lived: Stage) -> None:
    medians = [r for r in lived.close().rows if r.panel == "Score median"]
    assert len(medians) == 3
    for row in medians:
        assert 0 < abs(row.parts["resolution"]) <= row.chain.slack
        assert abs(row.difference) <= row.chain.slack + abs(row.parts["boundary"])


def test_the_parts_of_all_events_sum_to_all_of_them(lived: Stage) -> None:
    closure = lived.close()
    totals = [row_of(closure, f"{a} = all").shown for a in ("bull + bear", "regular + hidden")]
    assert totals == pytest.approx([row_of(closure, "all scores = all events").shown] * 2)
    with closing(sqlite3.connect(lived.log)) as db:
        (n,) = db.execute("SELECT count(*) FROM event WHERE side <> 0").fetchone()
    assert closure.n_events <= n
    assert row_of(closure, f"divergence_events_total ({closure.n_scrapes} scrapes)").shown <= n


def test_an_hour_of_bars_and_its_closure_take_less_than_a_minute(lived: Stage) -> None:
    began_s = time.monotonic()
    lived.close()
    assert time.monotonic() - began_s + lived.seconds < 60.0


def test_events_that_were_never_counted_do_not_close(lived: Stage, tmp_path: Path) -> None:
    more = tmp_path / "more.sqlite"
    shutil.copy(lived.log, more)
    with closing(sqlite3.connect(more)) as db, db:
        columns = [c for (_, c, *_) in db.execute("PRAGMA table_info(event)") if c not in ("n", "event_id")]
        names = ", ".join(columns)
        (middle,) = db.execute(
            "SELECT committed_ms FROM event ORDER BY n LIMIT 1 OFFSET (SELECT count(*) / 2 FROM event)"
        ).fetchone()
        db.execute(
            f"INSERT INTO event (event_id, {names}) SELECT event_id || '-again', {names} FROM event "
            "WHERE source = 2 AND side = 1 AND committed_ms >= ? ORDER BY n LIMIT 5",
            (middle,),
        )
    closure = lived.close(more)
    assert not closure.is_closed
    assert closure.errors["events"] > 0.01
    off = [r for r in closure.rows if not r.is_closed]
    assert any(r.panel == "Events in this time range" and "FUSION" in r.label for r in off)
    assert any(r.panel == "counters at every scrape" for r in off)
    assert "NOT CLOSED" in table(closure)


def test_another_runner_s_log_does_not_close(lived: Stage, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with EventLog(other, keep_bars=100, now_ms=lambda: round(time.time() * 1e3)) as log:
        log.commit(batch(["BTCUSDT"], 1, 90))
    assert not lived.close(other).is_closed


def test_a_runner_that_miscounts_is_caught(tmp_path: Path) -> None:
    recording = prepare(tmp_path, REPO / "config", n_bars=2_400)
    port = free_port()
    program = Path(prometheus_binary())
    command = [sys.executable, "-c", MISCOUNT, "run", "--root", str(tmp_path), "--feed", f"replay:{recording}"]
    with PrometheusProcess(program, built(tmp_path / "monitoring", port), tmp_path / "prometheus") as server:
        subprocess.run([*command, "--speed", SPEED, "--port", str(port)], check=True, capture_output=True, timeout=120)
        stage = Stage(tmp_path, server, program, {}, 0.0)
        closure = stage.close()
    assert not closure.is_closed
    assert closure.errors["events"] > 0.01
    assert closure.errors["scores"] > 0.01
    assert closure.errors["hit_rate"] < 0.01  # outcomes were counted well
    every = row_of(closure, f"divergence_events_total ({closure.n_scrapes} scrapes)")
    assert every.unexplained <= -2  # of one series, of every seventh event in all


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    closure_cli.add(parser.add_subparsers())
    parsed = parser.parse_args(["closure", "--root", str(REPO), *map(str, arguments)])
    return int(parsed.run(parsed))


def test_the_command_prints_the_table_and_saves_it_for_the_notebook(
    lived: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "closure.json"
    options = ("--prometheus", lived.server.url, "--log", lived.log, "--window", "10m")
    assert run(*options, "--save", saved) == EXIT_OK
    text = capsys.readouterr().out
    for words in ("Event counts and rates", "regular + hidden = all", "resolution", "CLOSED: "):
        assert words in text
    assert run(*options, "--json") == EXIT_OK
    assert json.loads(capsys.readouterr().out)["rows"] == json.loads(saved.read_text())["rows"]
    papermill.execute_notebook(
        str(REPO / "notebooks/06_metrics_closure.ipynb"),
        str(tmp_path / "06.ipynb"),
        parameters={"closure": str(saved), "out": str(tmp_path), "root": str(REPO)},
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=50"],
    )
    verdict = store.read_json(tmp_path / "verdicts/06_metrics_closure.json")
    assert verdict["status"] == "PASS"


def test_the_command_fails_where_it_does_not_close(lived: Stage, tmp_path: Path) -> None:
    empty = tmp_path / "empty.sqlite"
    EventLog(empty, keep_bars=1, now_ms=lambda: 0).close()
    assert run("--prometheus", lived.server.url, "--log", empty, "--window", "10m") == EXIT_GATE


def test_a_wrong_url_is_told_and_nothing_is_written(lived: Stage, tmp_path: Path) -> None:
    saved = tmp_path / "closure.json"
    options = ("--log", lived.log, "--save", saved)
    with pytest.raises(V13Error, match="cannot be reached"):
        run("--prometheus", f"http://127.0.0.1:{free_port()}", *options)
    with start_exporter(Metrics(HORIZONS), lambda: Health(healthy=True, ready=True), port=0) as exporter:
        url = f"http://127.0.0.1:{exporter.port}"
        with pytest.raises(ConfigError, match="expected Prometheus's API there"):
            run("--prometheus", url, *options)
        with pytest.raises(StoreError, match="there is no event log"):
            run("--exporter", url, "--log", tmp_path / "none.sqlite", "--save", saved)
    with pytest.raises(ConfigError, match="expected the metrics of a runner"):
        run("--exporter", lived.server.url, *options)
    assert not saved.exists()


def test_prometheus_that_goes_down_in_the_middle_leaves_the_last_result(lived: Stage, tmp_path: Path) -> None:
    saved = tmp_path / "closure.json"
    saved.write_text("the last one")
    ask, asked = Prometheus.instant, [0]

    def instant(self: Prometheus, expr: str, at_s: float) -> object:
        asked[0] += 1
        if asked[0] == 15:
            lived.server.close()
        return ask(self, expr, at_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prometheus, "instant", instant)
        with pytest.raises(V13Error, match="cannot be reached"):
            run("--prometheus", lived.server.url, "--log", lived.log, "--save", saved)
    assert saved.read_text() == "the last one"
    lived.restart()
    assert lived.close().is_closed


def serve(log: EventLog, stack: ExitStack, **more: object) -> tuple[Metrics, int]:
    """Serve what a log holds as a runner would after a restart."""
    metrics = Metrics(HORIZONS)
    SessionMetrics(metrics, HORIZONS).resume(log, [])
    metrics.set("divergence_config_last_reload_success_timestamp_seconds", time.time())
    exporter = stack.enter_context(
        start_exporter(metrics, lambda: Health(healthy=True, ready=True), port=0, **more)  # type: ignore[arg-type]
    )
    return metrics, exporter.port


@pytest.fixture
def small(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "events.sqlite", keep_bars=100, now_ms=lambda: round(time.time() * 1e3) - 60_000) as log:
        for first in range(1, 900, 30):
            log.commit(batch(["BTCUSDT", "ETHUSDT"], first, first + 29))
        yield log


def test_a_self_signed_certificate_is_refused_and_then_trusted_by_its_file(small: EventLog, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "server")
    with ExitStack() as stack:
        _, port = serve(small, stack, tls=certificate)
        url = f"https://localhost:{port}"
        for option in ("--prometheus", "--exporter"):
            with pytest.raises(ConfigError, match=r"is not trusted .*; name its CA file"):
                run(option, url, "--log", small.path)
        closure = close_exporter(url, small.path, closure_ratio=RATIO, ca_file=certificate[0])
    assert closure.is_closed, table(closure)


def test_without_prometheus_one_scrape_is_held_against_the_log(small: EventLog) -> None:
    with ExitStack() as stack:
        metrics, port = serve(small, stack)
        url = f"http://127.0.0.1:{port}/metrics"
        closure = close_exporter(url, small.path, closure_ratio=RATIO)
        assert closure.is_closed, table(closure)
        assert WEAKER in closure.notes
        assert WEAKER in conclusion(closure)
        assert closure.n_events == 2 * 300
        metrics.inc("divergence_events_total", 9, source="FUSION", side="bull", kind="regular")
        metrics.observe("divergence_score", 55.0, source="CVD_ONLY")
        spoilt = close_exporter(url, small.path, closure_ratio=RATIO)
    assert {r.family for r in spoilt.rows if not r.is_closed} >= {"events"}
    wrong = {(r.panel, r.label) for r in spoilt.rows if r.unexplained}
    assert ("divergence_events_total", "regular bull FUSION") in {(p, " ".join(label.split())) for p, label in wrong}
    assert any(panel == "divergence_score" and label.startswith("CVD_ONLY") for panel, label in wrong)


def test_the_watcher_exports_the_error_for_the_alerts_and_survives_a_prometheus_that_is_away(lived: Stage) -> None:
    closure = lived.close()
    off = replace(closure, rows=(replace(closure.rows[0], shown=closure.rows[0].shown * 1.2), *closure.rows[1:]))
    results: list[Callable[[], Closure]] = [lambda: closure, lambda: close_nothing(), lambda: off]
    said: list[str] = []
    stop = threading.Event()

    def make() -> Closure:
        if len(results) == 1:
            stop.set()
        return results.pop(0)()

    with ClosureExporter(port=0) as exporter:
        before = scrape(exporter.port)
        assert "divergence_closure" not in before
        watch(make, exporter, said.append, every_s=0.0, stop=stop)
        after = scrape(exporter.port)
        with pytest.raises(ConfigError, match=f"port {exporter.port}: the port is in use"):
            ClosureExporter(port=exporter.port)
    assert [line.split(":")[0] for line in said] == ["closed", "no closure", "NOT CLOSED"]
    value = next(
        line for line in after.splitlines() if line.startswith('divergence_closure_error_ratio{family="events"}')
    )
    assert float(value.split()[1]) == pytest.approx(off.errors["events"]) == pytest.approx(0.2, abs=0.01)
    assert "divergence_closure_last_success_timestamp_seconds" in after


def test_the_watcher_lets_itself_in_by_a_password_that_is_on_no_command_line(small: EventLog, tmp_path: Path) -> None:
    """A wrong password is told and tried again; the right one is taken from the same file as soon as it is there."""
    place = tmp_path / "password"
    place.write_text("wrong\n")
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    said = tmp_path / "said"
    with ExitStack() as stack:
        _, port = serve(small, stack, auth=("watcher", hashed))
        with pytest.raises(ConfigError, match=r"lets us not in \(status 401\)"):
            run("--exporter", f"http://127.0.0.1:{port}", "--log", small.path)
        command = [sys.executable, "-m", "v13.cli", "closure", "--root", str(REPO), "--watch", "--port", "0", "--every"]
        command += ["1s", "--exporter", f"http://127.0.0.1:{port}", "--log", str(small.path)]
        command += ["--user", "watcher", "--password-file", str(place)]
        sink = stack.enter_context(said.open("wb"))
        watcher = stack.enter_context(subprocess.Popen(command, stdout=sink, stderr=sink))
        stack.callback(watcher.kill)
        until(lambda: "lets us not in (status 401)" in said.read_text(), "the wrong password is refused")
        exported = int(said.read_text().partition("metrics: 127.0.0.1:")[2].partition("/")[0])
        assert "divergence_closure" not in scrape(exported)
        store.write_text(place, PASSWORD + "\n")
        until(lambda: "\nclosed: 600 divergences" in said.read_text(), "the right one is taken")
        assert 'divergence_closure_error_ratio{family="events"} 0.0' in scrape(exported)
        shown = Path(f"/proc/{watcher.pid}/cmdline").read_bytes() + Path(f"/proc/{watcher.pid}/environ").read_bytes()
        watcher.terminate()
        assert watcher.wait(60) == EXIT_OK
    assert PASSWORD.encode() not in shown
    assert PASSWORD not in said.read_text()


def close_nothing() -> Closure:
    with Prometheus(f"http://127.0.0.1:{free_port()}") as prometheus:
        return close(prometheus, slo(), Path("none"), window_s=60, closure_ratio=RATIO, now_s=time.time())


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())
