"""Monitoring put in place: files of this machine, the guard's secret, and what happens when a server refuses."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.unit.release.small_rig import OLD, PORTS, RELEASE, Reply, Web, make_rig, served, unprotect, with_settings
from v13 import store
from v13.errors import ReleaseError
from v13.release.folders import listing
from v13.release.monitoring import ensure_token, install_monitoring, show_targets
from v13.release.monitoring_files import TARGETS, closure_port, instance, monitoring_documents, target_groups
from v13.release.site import Site
from v13.telemetry.slo import SloTable, load_slo

GROUPS = '[{"targets": ["127.0.0.1:1"]}]\n'


class Servers(Web):
    """Prometheus and Alertmanager at one address; it refuses what `refuses` says of the files it would read."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path()
        self.refusal: Reply | None = None
        self.refuses = "never"
        self.loaded: list[str] = []
        self.reads = " ".join(TARGETS.values())
        self.answer = self.tell

    def tell(self, path: str, _: str) -> Reply:
        if path == "/api/v1/status/config":
            return 200, json.dumps({"status": "success", "data": {"yaml": self.reads}})
        text = (self.place / "prometheus_divergence.yml").read_text()
        if self.refuses in text and self.refusal is not None:
            return self.refusal
        self.loaded.append(text)
        return 200, ""


@pytest.fixture
def web() -> Iterator[Servers]:
    with served(Servers()) as web:
        assert isinstance(web, Servers)
        yield web


@pytest.fixture
def watched(site: Site, web: Servers) -> Site:
    site = with_settings(site, prometheus=web.url, alertmanager=web.url + "/", prometheus_dir="watch")
    web.place = site.root / "watch"
    return site


def documents(site: Site) -> dict[str, Any]:
    return dict(monitoring_documents(site, load_slo(site.root / "config/slo.yaml")))


def spoilt(site: Site, release: str) -> None:
    """Have the Prometheus file of a release hold something that the server refuses."""
    unprotect(site.release(release))
    path = site.release(release) / "monitoring/prometheus_divergence.yml"
    path.write_text(path.read_text() + "# BAD\n")


def test_targets_come_from_files_that_need_no_reload(site: Site) -> None:
    jobs = {j["job_name"]: j for j in documents(site)["prometheus_divergence.yml"].body["scrape_configs"]}
    for job, path in TARGETS.items():
        assert "static_configs" not in jobs[job]
        assert jobs[job]["file_sd_configs"] == [{"files": [path], "refresh_interval": "5s"}]
        assert "scheme" not in jobs[job]


def test_https_and_password_of_the_exporter_are_told_by_files(site: Site) -> None:
    update = {"tls_cert": "config/keys/tls.pem", "user": "prometheus", "password_file": "config/keys/exporter"}
    own = site.config.exporter.model_copy(update=update)
    locked = Site(site.root, site.env, site.config.model_copy(update={"exporter": own}))
    jobs = {j["job_name"]: j for j in documents(locked)["prometheus_divergence.yml"].body["scrape_configs"]}
    assert jobs["divergence"]["scheme"] == "https"
    assert jobs["divergence"]["tls_config"] == {"ca_file": f"{site.root}/config/keys/tls.pem"}
    assert jobs["divergence"]["basic_auth"] == {
        **{"username": "prometheus", "password_file": f"{site.root}/config/keys/exporter"}
    }


def test_alertmanager_is_where_the_settings_say_or_nowhere(site: Site) -> None:
    assert "alerting" not in documents(site)["prometheus_divergence.yml"].body
    elsewhere = with_settings(site, alertmanager="http://10.0.0.7:9093/")
    targets = documents(elsewhere)["prometheus_divergence.yml"].body["alerting"]["alertmanagers"]
    assert targets == [{"static_configs": [{"targets": ["10.0.0.7:9093"]}]}]


def test_the_guard_is_told_of_rollbacks_and_of_nothing_else(site: Site) -> None:
    receivers = {r["name"]: r for r in documents(site)["alertmanager.yml"].body["receivers"]}
    (hook,) = receivers["rollback"]["webhook_configs"]
    deploy = site.config.deploy
    assert hook["url"] == f"http://127.0.0.1:{deploy.guard_port}/alerts"
    shown = hook["http_config"]["authorization"]
    assert shown == {"type": "Bearer", "credentials_file": f"{site.root}/{deploy.guard_token_file}"}
    assert not [n for n, r in receivers.items() if n != "rollback" and "/alerts" in json.dumps(r)]


def test_a_rehearsal_shortens_every_duration_and_nothing_else(site: Site) -> None:
    short = with_settings(site, time_scale=1 / 60)
    plain, scaled = documents(site), documents(short)
    assert plain.keys() == scaled.keys()

    def durations(found: dict[str, Any]) -> list[str]:
        rules = found["alerting_rules/production_slo_alerts.yaml"].body["groups"]
        return [rule["for"] for group in rules for rule in group["rules"] if "for" in rule]

    assert len(durations(plain)) == len(durations(scaled)) > 5
    assert "15m" in durations(plain)
    assert "15s" in durations(scaled)
    assert not [text for text in durations(scaled) if text.endswith("m")]
    recording = "recording_rules/divergence_recording.yaml"
    assert plain[recording].body == scaled[recording].body


def test_nothing_that_is_made_changes_what_it_is_made_from(site: Site) -> None:
    table: SloTable = load_slo(site.root / "config/slo.yaml")
    first = monitoring_documents(site, table)
    second = monitoring_documents(site, table)
    assert first == second


def test_targets_name_the_release_and_a_watcher_carries_the_runners_instance() -> None:
    groups = target_groups({"r2": 8013, "r1": 8003})
    assert [g["targets"] for g in groups["divergence"]] == [["127.0.0.1:8003"], ["127.0.0.1:8013"]]
    watchers = next(groups[job] for job in TARGETS if job != "divergence")
    assert [g["targets"] for g in watchers] == [["127.0.0.1:8004"], ["127.0.0.1:8014"]]
    for found in (groups["divergence"], watchers):
        assert [g["labels"] for g in found] == [
            {"instance": "127.0.0.1:8003", "release": "r1"},
            {"instance": "127.0.0.1:8013", "release": "r2"},
        ]
    assert instance(8003) == "127.0.0.1:8003"
    assert closure_port(8003) == 8004
    assert target_groups({}) == {key: [] for key in TARGETS}


def test_the_guards_secret_is_made_once_and_for_its_owner_alone(site: Site) -> None:
    path = ensure_token(site)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert len(bytes.fromhex(text)) == 32
    assert ensure_token(site) == path
    assert path.read_text() == text
    path.unlink()
    assert ensure_token(site).read_text() != text


def test_a_link_in_place_of_the_secret_is_not_written_through(site: Site, tmp_path: Path) -> None:
    path = site.root / site.config.deploy.guard_token_file
    path.symlink_to(tmp_path / "elsewhere")
    ensure_token(site)
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_where_no_secret_can_be_made_is_named(site: Site) -> None:
    (site.root / "blocked").write_text("a file")
    blocked = with_settings(site, guard_token_file="blocked/guard.token")
    with pytest.raises(ReleaseError, match=r"blocked/guard\.token: could not be made"):
        ensure_token(blocked)


def test_what_runs_is_told_to_prometheus_in_files(watched: Site) -> None:
    show_targets(make_rig(watched), {RELEASE: PORTS[0]})
    assert store.read_json(watched.root / "watch" / TARGETS["divergence"]) == [
        {"labels": {"instance": instance(PORTS[0]), "release": RELEASE}, "targets": [instance(PORTS[0])]}
    ]


def test_both_servers_take_the_releases_own_files(watched: Site, web: Servers) -> None:
    evidence = install_monitoring(make_rig(watched), RELEASE)
    own = watched.release(RELEASE) / "monitoring"
    for name in listing(own):
        assert (web.place / name).read_bytes() == (own / name).read_bytes()
    assert [json.loads((web.place / name).read_text()) for name in TARGETS.values()] == [[], []]
    assert [r[:2] for r in web.requests][:2] == [("POST", "/-/reload"), ("POST", "/-/reload")]
    assert evidence == {
        **{"folder": str(web.place), "prometheus": f"reloaded over {web.url}", "grafana": "declared absent"},
        **{"alertmanager": f"reloaded over {web.url}/"},
    }


def test_targets_that_are_there_stay(watched: Site, web: Servers) -> None:
    rig = make_rig(watched)
    install_monitoring(rig, OLD)
    show_targets(rig, {OLD: PORTS[0]})
    before = [(web.place / name).read_bytes() for name in TARGETS.values()]
    install_monitoring(rig, RELEASE)
    assert [(web.place / name).read_bytes() for name in TARGETS.values()] == before


def test_where_no_server_is_declared_files_are_kept_and_nobody_is_asked(site: Site) -> None:
    evidence = install_monitoring(make_rig(site), RELEASE)
    assert (evidence["prometheus"], evidence["alertmanager"]) == ("declared absent", "declared absent")
    assert (site.home / "monitoring/prometheus_divergence.yml").is_file()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ((500, "line 7: unknown field"), "refused its new configuration: line 7: unknown field"),
        ((403, "Lifecycle API is not enabled"), "does not reload over HTTP; start it with --web.enable-lifecycle"),
        ((404, "nothing here"), "refused its new configuration: nothing here"),
    ],
)
def test_what_is_refused_is_put_back_as_it_was_and_loaded_again(
    watched: Site, web: Servers, reply: Reply, text: str
) -> None:
    rig = make_rig(watched)
    install_monitoring(rig, OLD)
    show_targets(rig, {OLD: PORTS[0]})
    before, n = listing(web.place), len(web.loaded)
    spoilt(watched, RELEASE)
    web.refuses, web.refusal = "# BAD", reply
    with pytest.raises(ReleaseError, match=f"prometheus: {web.url}: {text}"):
        install_monitoring(rig, RELEASE)
    assert listing(web.place) == before
    assert len(web.loaded) == n + 1  # the old ones, again
    assert "# BAD" not in web.loaded[-1]


def test_what_was_refused_at_the_very_first_is_not_left_where_prometheus_reads(watched: Site, web: Servers) -> None:
    spoilt(watched, RELEASE)
    web.refuses, web.refusal = "# BAD", (500, "no")
    web.place.mkdir()
    own = watched.root / "watch/prometheus_divergence.yml"
    own.write_text("# as it was installed\n")
    (web.place / "targets").mkdir()
    for name in TARGETS.values():
        (web.place / name).write_text(GROUPS)
    with pytest.raises(ReleaseError, match="refused its new configuration: no"):
        install_monitoring(make_rig(watched), RELEASE)
    assert own.read_text() == "# as it was installed\n"
    assert sorted(listing(web.place)) == sorted(["prometheus_divergence.yml", *TARGETS.values()])
    assert [(web.place / name).read_text() for name in TARGETS.values()] == [GROUPS, GROUPS]


def test_a_prometheus_that_reads_another_folder_is_told(watched: Site, web: Servers) -> None:
    web.reads = "scrape_configs: []"
    with pytest.raises(ReleaseError, match=r"does not read targets/runners\.json.*--config\.file=.*watch"):
        install_monitoring(make_rig(watched), RELEASE)


def test_a_server_that_is_away_is_named_and_the_files_are_back(watched: Site, web: Servers) -> None:
    install_monitoring(make_rig(watched), OLD)
    before = listing(web.place)
    away = with_settings(watched, prometheus=web.url, alertmanager="http://127.0.0.1:1", prometheus_dir="watch")
    spoilt(away, RELEASE)
    with pytest.raises(ReleaseError, match=r"alertmanager: http://127\.0\.0\.1:1: cannot be reached: ConnectError"):
        install_monitoring(make_rig(away), RELEASE)
    assert listing(web.place) == before
    assert "# BAD" not in web.loaded[-1]


def test_written_files_are_yaml_that_says_the_same(site: Site) -> None:
    body = YAML(typ="safe").load(site.release(RELEASE) / "monitoring/alertmanager.yml")
    assert {r["name"] for r in body["receivers"]} >= {"rollback"}


def test_a_token_whose_maker_was_killed_is_made_anew(site: Site) -> None:
    path = site.root / site.config.deploy.guard_token_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    assert len(ensure_token(site).read_text(encoding="ascii")) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(f".{path.name}")] == []
