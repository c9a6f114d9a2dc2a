"""compose.yaml and Grafana's provisioning files: pinned, on loopback, and in step with what is generated."""

from __future__ import annotations

import argparse
import json
import re

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPO
from v13.cli import closure
from v13.config import load
from v13.telemetry.built_files import DASHBOARD_FILE
from v13.telemetry.dashboard import UID, Links
from v13.telemetry.servers import ALERTMANAGER_FILE, CLOSURE_PORT, PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.signals import CLOSURE_JOB, RUNNER_JOB
from v13.telemetry.slo import load_slo

FOLDER = REPO / "config" / "monitoring"
ARTIFACTS = "${V13_ARTIFACTS:-../../runs/metrics_test}"


def read(name):
    return YAML(typ="safe", pure=True).load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services():
    return read("compose.yaml")["services"]


def mounts(service):
    """Return where in a service's file system each folder of this side is."""
    pairs = [re.fullmatch(r"(\$\{[^}]*\}[^:]*|[^:]+):([^:]+)(:ro)?", text).groups()[:2] for text in service["volumes"]]
    return {target: source for source, target in pairs}


def test_all_that_is_needed_is_started_at_pinned_versions(services):
    assert set(services) == {"net", "runner", "closure", "prometheus", "alertmanager", "grafana"}
    images = {name: service["image"] for name, service in services.items() if "image" in service}
    assert set(services) - set(images) == {"runner", "closure"}
    assert services["closure"]["build"] == services["runner"]["build"]
    images["runner"] = re.search(r"^FROM (\S+)$", (FOLDER / "runner.Dockerfile").read_text(), re.MULTILINE)[1]
    for name, image in images.items():
        assert re.search(r":v?\d+\.\d+\.\d+", image), name


def test_nothing_is_reachable_from_other_machines(services):
    for name, service in services.items():
        if name == "net":
            ports = service["ports"]
            assert all(port.startswith("127.0.0.1:") for port in ports)
        else:
            assert service["network_mode"] == "service:net"
            assert "ports" not in service
    assert [port.rpartition(":")[2] for port in ports] == ["8003", "8004", "9090", "9093", "3000"]


def test_every_target_that_prometheus_scrapes_is_a_service_of_this_file(services):
    body = server_files(load_slo(REPO / "config" / "slo.yaml"), Exporter())[PROMETHEUS_FILE].body
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in body["scrape_configs"]}
    published = {port.rpartition(":")[2] for port in services["net"]["ports"]}
    assert {target.rpartition(":")[2] for (target,) in targets.values()} <= published
    command = services["closure"]["command"]
    assert targets[CLOSURE_JOB] == [f"localhost:{command[command.index('--port') + 1]}"]
    for name, job in (("closure", CLOSURE_JOB), ("runner", RUNNER_JOB)):
        assert f"http://{targets[job][0]}/" in services[name]["healthcheck"]["test"][-1]


def test_the_closure_watcher_is_started_as_the_command_line_takes_it(services):
    service = services["closure"]
    program, *arguments = [*service["entrypoint"], *service["command"]]
    assert program == "v13"
    parser = argparse.ArgumentParser()
    closure.add(parser.add_subparsers())
    parsed = parser.parse_args(arguments)
    assert parsed.watch
    assert parsed.port == closure.WATCH_PORT == CLOSURE_PORT
    assert parsed.prometheus == "http://localhost:9090"
    inside, runner = mounts(service), mounts(services["runner"])
    assert inside == {place: folder for place, folder in runner.items() if place in inside}  # the runner's own log
    assert service["user"] == services["runner"]["user"]
    log = load(REPO, environ={}).config.runner.log
    assert any(f"{parsed.root}/{log}".startswith(f"{place}/") for place in inside)


def test_every_folder_that_is_mounted_is_there_and_what_is_built_is_found_in_it(services):
    for service in services.values():
        for source in mounts(service).values() if "volumes" in service else ():
            if source.startswith(("./", "../")) and not source.startswith("../../re"):  # reports/latest comes later
                assert (FOLDER / source).is_dir(), source
    prometheus, alertmanager, grafana = (services[name] for name in ("prometheus", "alertmanager", "grafana"))
    assert mounts(prometheus)["/etc/prometheus"] == mounts(alertmanager)["/etc/alertmanager"] == ARTIFACTS
    assert f"--config.file=/etc/prometheus/{PROMETHEUS_FILE}" in prometheus["command"]
    assert f"--config.file=/etc/alertmanager/{ALERTMANAGER_FILE}" in alertmanager["command"]
    (provider,) = read("grafana/provisioning/dashboards/v13.yaml")["providers"]
    folder = DASHBOARD_FILE.rpartition("/")[0]
    assert mounts(grafana)[provider["options"]["path"]] == f"{ARTIFACTS}/{folder}"
    assert UID in (FOLDER / "compose.yaml").read_text()


def test_the_data_sources_are_the_servers_started_and_know_the_scrape_interval():
    sources = {s["type"]: s for s in read("grafana/provisioning/datasources/prometheus.yaml")["datasources"]}
    assert sources["prometheus"]["url"] == "http://localhost:9090"
    assert sources["alertmanager"]["url"] == "http://localhost:9093"
    table = load_slo(REPO / "config" / "slo.yaml")
    assert sources["prometheus"]["jsonData"]["timeInterval"] == f"{table.scrape_s}s"
    assert sources["prometheus"]["jsonData"]["alertmanagerUid"] == sources["alertmanager"]["uid"]


def test_grafana_is_of_the_version_the_dashboard_was_checked_against(services):
    package = json.loads((REPO / "tests" / "grafana" / "package.json").read_text())
    assert services["grafana"]["image"].rpartition(":")[2] == package["dependencies"]["@grafana/schema"]


def test_the_dashboards_links_lead_to_what_this_grafana_serves(services):
    served = {
        t.removeprefix("/usr/share/grafana"): s for t, s in mounts(services["grafana"]).items() if "/public/" in t
    }
    found = {}
    for name, url in Links()._asdict().items():
        folder, _, file = url.rpartition("/")
        found[name] = (served[folder], file)
    assert found == {"runbook": ("../../docs", "runbook.md"), "signoff": ("../../reports/latest", "index.html")}


def test_no_password_is_written_down(services):
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?.+\}", password)
