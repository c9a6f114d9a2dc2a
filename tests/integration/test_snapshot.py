"""The dashboard's queries answered by a real Prometheus that scrapes a real exporter, and the page made of them."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tests.conftest import REPO
from tests.integration.prometheus_server import prometheus, until
from v13.cli import snapshot as command
from v13.detector.dtypes import CHANNELS
from v13.errors import ConfigError, DataError, V13Error
from v13.release.ports import free_port
from v13.telemetry import CATALOGUE, Health, Metrics, start_exporter
from v13.telemetry.overview import overview
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.queries import Scope
from v13.telemetry.rules import RECORDING_FILE, rule_files
from v13.telemetry.slo import load_slo
from v13.telemetry.snapshot import Snapshot, take
from v13.telemetry.snapshot_page import broken_levels, snapshot_page

TABLE = load_slo(REPO / "config" / "slo.yaml")
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N_SCRAPES = 12  # enough for every rate and heat map cell at a scrape a second
SETTLED_S = 2  # a scrape gives up after 1 s: what is older will not change any more
WINDOW_S = 30
WELL = Health(healthy=True, ready=True)


class Scene(NamedTuple):
    """A Prometheus that has seen a runner for a while, when it was asked, and what it said."""

    url: str
    end_s: float
    range_s: int  # all of its life: on a busy machine that is longer than a minute
    snapshot: Snapshot


def drive(metrics: Metrics, rng: np.random.Generator) -> None:
    """Let a little of everything happen, in one piece as a commit does."""
    with metrics.together():
        for metric in CATALOGUE:
            for handle in metrics._series[metric.name].values():
                if metric.kind == "counter":
                    handle.inc(int(rng.integers(1, 4)))
                elif metric.kind == "histogram":
                    low, high = metric.buckets[0], metric.buckets[-1]
                    handle.observe_many(rng.uniform(low, high, 3))
        for name in ("ready", "feed_connected", "store_ok", "signed_off", "config_last_reload_successful"):
            metrics.set(f"divergence_{name}", 1.0)
        metrics.set("divergence_active_symbols", float(len(SYMBOLS)))
        metrics.set("divergence_queue_size", float(rng.integers(0, 9)))
        metrics.set("divergence_last_commit_timestamp_seconds", time.time())
        for symbol in SYMBOLS:
            metrics.set("divergence_feed_staleness_seconds", float(rng.uniform(0.1, 1.0)), symbol=symbol)


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=dict))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    rng = np.random.default_rng(13)
    began_s = time.time()
    metrics = Metrics((10, 20), SYMBOLS)
    metrics.set_info("divergence_active_config_info", swing_L=13, z_hi=2.0, z_mid=0.8, version=1)
    metrics.set("divergence_config_last_reload_success_timestamp_seconds", time.time())
    registry = CollectorRegistry()
    closure = Gauge("divergence_closure_error_ratio", "Worst unexplained difference.", ["family"], registry=registry)
    for family in ("events", "scores", "latency", "hit rate"):
        closure.labels(family).set(0.002)
    with ExitStack() as stack:
        exporter = start_exporter(metrics, lambda: WELL, "127.0.0.1", 0)
        stack.callback(exporter.close)
        server, thread = start_http_server(0, "127.0.0.1", registry=registry)
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        ports = {"divergence": exporter.port, "divergence-closure": server.server_port}
        rules = {RECORDING_FILE: plain(rule_files(TABLE)[RECORDING_FILE].body)}
        url = stack.enter_context(prometheus(tmp_path_factory.mktemp("prometheus"), ports, rules))
        client = stack.enter_context(Prometheus(url))

        def enough_until() -> float | None:
            """Return the time to ask for once enough was seen by then, and the last scrapes of then succeeded."""
            drive(metrics, rng)
            then_s = float(int(time.time())) - SETTLED_S
            seen = client.instant("min(count_over_time(v13:hit_rate:ratio[10m]))", then_s)
            has_rates = bool(client.instant("v13:events_per_hour:per_hour", then_s))
            is_up = client.instant("count(up == 1)", then_s)
            has_all = bool(is_up) and is_up[0].values[0] == len(ports)
            return then_s if has_rates and has_all and seen and seen[0].values[0] >= N_SCRAPES else None

        end_s = until(enough_until, f"{N_SCRAPES} evaluations of what needs scrapes first")
        range_s = math.ceil(end_s - began_s) + WINDOW_S
        scope = Scope(range_s=range_s, scrape_s=1, window_s=WINDOW_S)
        yield Scene(url, end_s, range_s, take(client, TABLE, scope, end_s))


@pytest.fixture(scope="module")
def page(scene: Scene) -> str:
    return snapshot_page(scene.snapshot, scene.url)


def test_every_query_of_every_panel_is_answered_with_numbers(scene: Scene) -> None:
    empty = [
        f"{answer.panel.key}: {asked}"
        for _, answers in scene.snapshot.shelves
        for answer in answers
        for _, asked, found in answer.found
        if not any(np.isfinite(series.values).any() for series in found)
    ]
    assert empty == []
    assert sum(len(answers) for _, answers in scene.snapshot.shelves) == sum(len(s.panels) for s in overview(TABLE))


def series(scene: Scene, key: str, number: int = 0) -> dict[tuple[str, ...], np.ndarray[Any, Any]]:
    """Return the values of one query of a panel, by label values."""
    (answer,) = [a for _, answers in scene.snapshot.shelves for a in answers if a.panel.key == key]
    return {tuple(v for _, v in sorted(s.labels.items())): s.values for s in answer.found[number][2]}


def test_panels_agree_with_each_other_on_how_many_events_there_were(scene: Scene) -> None:
    events = series(scene, "events_in_range")
    assert len(events) == len(CHANNELS) * 4
    assert min(float(values[0]) for values in events.values()) > 0.0
    buckets = series(scene, "scores_in_range")
    assert max(float(values[0]) for values in buckets.values()) == float(buckets["+Inf",][0])
    # `drive` counts 1 to 3 events of each kind of a source, and 3 scores of it: the averages are 8 and 3.
    by_all = sum(float(values[0]) for values in events.values())
    assert 1.5 < by_all / float(buckets["+Inf",][0]) < 4.0


def test_shares_are_shares_and_scores_are_scores(scene: Scene) -> None:
    for key, low, high in (("hit_rate", 0.0, 4.0), ("score_median", 0.0, 100.0), ("error_rate", 0.0, 1.0)):
        for values in series(scene, key).values():
            finite = values[np.isfinite(values)]
            assert finite.size
            assert ((finite >= low) & (finite <= high)).all(), key


def test_the_configuration_and_the_symbols_are_shown(scene: Scene) -> None:
    assert set(series(scene, "active_config")) == {("13", "1", "2.0", "0.8")}
    assert set(series(scene, "staleness")) == {(symbol,) for symbol in SYMBOLS}


def test_variables_choose_what_is_asked_for(scene: Scene) -> None:
    scope = Scope(range_s=scene.range_s, scrape_s=1, sources=("FUSION",), symbols=("ETHUSDT",), window_s=WINDOW_S)
    with Prometheus(scene.url) as client:
        chosen = scene._replace(snapshot=take(client, TABLE, scope, scene.end_s))
    assert {labels[2] for labels in series(chosen, "events_in_range")} == {"FUSION"}
    assert set(series(chosen, "staleness")) == {("ETHUSDT",)}
    assert set(series(chosen, "compute_latency", 1)) == {("FUSION",), ("none",)}


def test_the_start_of_the_runner_and_the_reload_are_marked_once(scene: Scene) -> None:
    texts = [moment.text.partition(" (")[0] for moment in scene.snapshot.moments]
    assert texts.count("configuration taken") == 1
    assert all(scene.snapshot.start_s <= m.ts_s <= scene.end_s for m in scene.snapshot.moments)


def test_levels_that_are_broken_are_named_worst_first(scene: Scene) -> None:
    broken = {title: grade for title, _, grade in broken_levels(scene.snapshot)}
    # Latencies are uniform up to a second: far beyond every level.
    assert broken["Event latency P95"] == broken["Compute latency P95"] == "rollback"
    assert "Closure error" not in broken
    assert broken_levels(scene.snapshot)[0][2] == "rollback"


class Page(HTMLParser):
    """What a page would load, and its panels."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.keys: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "section":
            self.keys.append(found["id"] or "")
        self.pictures += tag == "img"
        self.loads += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("data:image/png")]
        self.loads += [tag] if tag in ("script", "link", "iframe", "object") else []


def test_the_page_holds_every_panel_loads_nothing_and_is_the_same_again(scene: Scene, page: str) -> None:
    found = Page()
    found.feed(page)
    assert found.loads == []
    assert found.keys == [panel.key for shelf in overview(TABLE) for panel in shelf.panels]
    drawn = [p for s in overview(TABLE) for p in s.panels if p.kind not in ("stat", "table")]
    assert found.pictures == len(drawn)
    assert snapshot_page(scene.snapshot, scene.url) == page
    assert "http" not in re.sub(re.escape(scene.url), "", page)


def test_a_browser_shows_all_pictures_and_nothing_runs_over_the_edge(page: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    measure = """<script>addEventListener("load", () => {
      const wide = [...document.querySelectorAll("section")].filter(
        s => s.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
      document.title = JSON.stringify({
        broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 200)).length,
        pictures: document.images.length, wide: wide.map(s => s.id),
        over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        clipped: [...document.querySelectorAll(".tile")].filter(t => t.scrollWidth > t.clientWidth + 1).length });
    });</script></body>"""
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", measure), encoding="utf-8")
    for width in (1600, 500):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={tmp_path / str(width)}", f"--window-size={width},1200", "--dump-dom"]
        done = subprocess.run(
            [chromium, *options, file.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        title = re.search(r"<title>(.*?)</title>", done.stdout)
        assert title is not None
        found = json.loads(title[1])
        assert found.pop("pictures") > 25
        assert found == {"broken": 0, "wide": [], "over": 0, "clipped": 0}, width


def run(*arguments: str) -> int:
    """Run `snapshot` of `v13 monitoring` in this process."""
    import argparse

    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    found = parser.parse_args(["snapshot", "--slo", str(REPO / "config" / "slo.yaml"), *arguments])
    return int(found.run(found))


def test_the_command_writes_the_page_and_says_how_much_it_found(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records" / "page.html"
    with_secret = scene.url.replace("http://", "http://me:secret@")
    assert run("--prometheus", with_secret, "--out", str(out), "--last", "60s", "--window", "30s") == 0
    text = out.read_text(encoding="utf-8")
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert re.search(r"\d+ of \d+ panels have data", printed.err)
    assert scene.url in text
    assert "secret" not in text


def test_a_snapshot_that_cannot_be_taken_leaves_the_old_page(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("the old one")
    gone = f"http://127.0.0.1:{free_port()}"
    exporter = start_exporter(Metrics((10,)), lambda: WELL, "127.0.0.1", 0)
    try:
        cases: list[tuple[list[str], type[V13Error], str]] = [
            (["--prometheus", gone], V13Error, "Prometheus cannot be reached.*is it running"),
            (["--prometheus", f"http://127.0.0.1:{exporter.port}"], ConfigError, "expected Prometheus's API there"),
            (["--prometheus", f"{scene.url}/wrong"], ConfigError, "expected Prometheus's API there"),
            (["--prometheus", "localhost:9090"], ConfigError, "no URL of a Prometheus server"),
            (["--prometheus", scene.url, "--source", "OFI"], ConfigError, "--source: expected some of OFI_ONLY"),
            (["--prometheus", scene.url, "--user", "me"], ConfigError, "belong together"),
            (["--prometheus", scene.url, "--last", "40d"], V13Error, "at most 31 days"),
            (["--prometheus", scene.url, "--symbol", 'A"B'], DataError, "Prometheus refused.*the query was"),
        ]
        for arguments, kind, text in cases:
            with pytest.raises(kind, match=text) as caught:
                run("--out", str(out), *arguments)
            assert type(caught.value) is kind
            assert out.read_text() == "the old one"
            assert list(tmp_path.iterdir()) == [out]
    finally:
        exporter.close()


@pytest.mark.parametrize("text", ["3", "h", "-3h", "0s", "3 h", "1.5h"])
def test_a_length_of_time_that_is_none_is_a_usage_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--out", str(tmp_path / "page.html"), f"--last={text}")
    assert caught.value.code == 2
    assert "is no length of time such as" in capsys.readouterr().err


def test_the_client_reads_scalars_strings_and_special_values(scene: Scene) -> None:
    with Prometheus(f"{scene.url}/") as client:
        (scalar,) = client.instant("1 / 4", scene.end_s)
        assert (dict(scalar.labels), scalar.values.tolist(), scalar.ts_s.tolist()) == ({}, [0.25], [scene.end_s])
        found = client.instant('label_replace(vector(0)/0, "a", "nan", "", "") or vector(1)/0', scene.end_s)
        assert np.isnan(next(s for s in found if s.labels.get("a") == "nan").values[0])
        assert np.isposinf(next(s for s in found if "a" not in s.labels).values[0])
        assert client.instant("no_such_metric", scene.end_s) == []
        (line,) = client.range("vector(time())", scene.end_s - 4, scene.end_s, 2)
        assert line.values.tolist() == line.ts_s.tolist() == [scene.end_s - 4, scene.end_s - 2, scene.end_s]
        with pytest.raises(DataError, match="expected numbers, found a string"):
            client.instant('"text"', scene.end_s)
        with pytest.raises(DataError, match=r"Prometheus refused: .*the query was: sum\("):
            client.instant("sum(", scene.end_s)
        with pytest.raises(DataError, match="too many; take a longer step"):
            client.range("up", 0.0, scene.end_s, 1.0)
        with pytest.raises(DataError, match="expected start <= end"):
            client.range("up", 2.0, 1.0, 1.0)
        with urllib.request.urlopen(f"{scene.url}/api/v1/status/buildinfo") as answer:
            assert client.version() == json.load(answer)["data"]["version"]
