"""The processes of a release: what is started, what changes while it runs, and what its answers prove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from tests.unit.release.small_rig import (
    OLD,
    RELEASE,
    Reply,
    SmallSupervisor,
    Web,
    forget,
    make_rig,
    running_log,
    served,
    with_settings,
)
from v13 import store
from v13.config import load
from v13.errors import ConfigError, ReleaseError, V13Error
from v13.release import runners
from v13.release.monitoring_files import closure_port
from v13.release.runners import Answer
from v13.release.site import Site
from v13.release.supervisor import State

FINGERPRINT = "fe" * 32
VERSION = f"3-{FINGERPRINT[:8]}"


@dataclass
class Exporter(Web):
    """A runner's exporter, as far as it is asked."""

    ready: Reply = (200, "ready")
    lines: dict[str, str] = field(
        default_factory=lambda: {
            f'divergence_active_config_info{{version="{VERSION}",swing_L="13"}}': "1.0",
            'divergence_active_config_info{version="2-00000000",swing_L="13"}': "0.0",
            "divergence_bars_total": "41.0",
            "divergence_active_symbols": "3.0",
        }
    )

    def __post_init__(self) -> None:
        super().__init__()
        self.answer = self.tell

    def tell(self, path: str, _: str) -> Reply:
        if path == "/-/ready":
            return self.ready
        text = "# TYPE divergence_bars counter\n"
        return 200, text + "".join(f"{name} {value}\n" for name, value in self.lines.items())


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with served(Exporter()) as web:
        assert isinstance(web, Exporter)
        yield web


def test_runner_and_watcher_run_the_releases_code_on_its_settings(site: Site) -> None:
    runner, watcher = runners.programs(site, RELEASE, 8003)
    folder = site.release(RELEASE)
    assert (runner.name, watcher.name) == (f"runner-{RELEASE}", f"closure-{RELEASE}")
    for program in (runner, watcher):
        assert program.environ["PYTHONPATH"] == str(folder / "code")
        assert program.command[:4] == (sys.executable, "-P", "-m", "v13.cli")
        assert program.folder == folder
        text = " ".join(program.command)
        assert f"--env testing --root {folder}" in text
    assert runner.command[4:] == (
        *("run", "--env", "testing", "--root", str(folder)),
        *("--settings", str(site.overlay(RELEASE))),
    )
    text = " ".join(watcher.command)
    assert f"closure --watch --exporter http://127.0.0.1:8003 --log {site.event_log(RELEASE)} --port 8004" in text
    assert runner.stop_s > site.config.runner.stop_s  # its own orderly stop comes first
    assert runner.log != watcher.log


def test_what_releases_share_is_compiled_once_for_all_of_them_and_outside_their_folders(site: Site) -> None:
    places = {
        program.environ["PYTHONPYCACHEPREFIX"]
        for release in (RELEASE, OLD)
        for program in runners.programs(site, release, 8003)
    }
    assert places == {str(site.home / "pycache")}


def test_no_secret_is_in_a_command_or_an_environment(site: Site) -> None:
    store.write_text(site.root / "config/keys/exporter", "s3cret\n")
    store.write_text(site.root / "config/keys/tls.key", "s3cret\n")
    own = site.config.exporter.model_copy(update={"user": "prometheus", "password_file": "config/keys/exporter"})
    locked = Site(site.root, site.env, site.config.model_copy(update={"exporter": own}))
    _, watcher = runners.programs(locked, RELEASE, 8003)
    text = " ".join((*watcher.command, *watcher.environ.values()))
    assert f"--user prometheus --password-file {site.root}/config/keys/exporter" in text
    assert "s3cret" not in text
    runners.write_overlay(locked, RELEASE, 8003, ["BTCUSDT"], None)
    assert "s3cret" not in site.overlay(RELEASE).read_text()
    assert f"password_file: {site.root}/config/keys/exporter" in site.overlay(RELEASE).read_text()


def test_the_guard_runs_the_code_that_deploys(site: Site) -> None:
    guard = runners.guard_program(site)
    assert guard.command[4:] == ("deploy", "guard", "--env", "testing", "--root", str(site.root))
    assert guard.name == "guard"
    assert (store.write_text.__code__.co_filename).startswith(guard.environ["PYTHONPATH"])


def test_the_changeable_settings_are_read_by_the_runner_as_they_are_written(site: Site) -> None:
    runners.write_overlay(site, RELEASE, 8013, ["ETHUSDT"], site.event_log(OLD))
    config = load(site.release(RELEASE), "testing", environ={}, overlay=site.overlay(RELEASE)).config
    assert config.runner.symbols == ("ETHUSDT",)
    assert config.runner.log == str(site.event_log(RELEASE))
    assert config.runner.warm_from == str(site.event_log(OLD))
    assert config.exporter.port == 8013
    assert runners.overlay_port(site, RELEASE) == 8013
    runners.write_overlay(site, RELEASE, 8003, ["ETHUSDT", "BTCUSDT"], None)
    config = load(site.release(RELEASE), "testing", environ={}, overlay=site.overlay(RELEASE)).config
    assert (config.runner.symbols, config.runner.warm_from) == (("ETHUSDT", "BTCUSDT"), None)


@pytest.mark.parametrize("text", ["", "exporter: {}\n", "exporter: {port: soon}\n", "exporter: 8003\n", "[1]\n"])
def test_changeable_settings_that_were_changed_by_hand_are_named(site: Site, text: str) -> None:
    store.write_text(site.overlay(RELEASE), text)
    with pytest.raises(ConfigError, match=RELEASE):
        runners.overlay_port(site, RELEASE)


def test_settings_that_are_missing_are_named(site: Site) -> None:
    with pytest.raises(ConfigError, match=RELEASE):
        runners.overlay_port(site, RELEASE)


def test_starting_installs_and_starts_both_and_stopping_forgets_neither(site: Site) -> None:
    rig = make_rig(site)
    supervisor = cast(SmallSupervisor, rig.supervisor)
    both = [f"runner-{RELEASE}", f"closure-{RELEASE}"]
    runners.start(rig, RELEASE, 8003)
    assert supervisor.told == [f"start {name}" for name in both]
    assert site.event_log(RELEASE).parent.is_dir()
    runners.stop(rig, RELEASE, 1.0)
    assert supervisor.told[2:] == [f"stop {name} 1" for name in both]
    assert sorted(supervisor.programs) == sorted(both)
    runners.remove(rig, RELEASE)
    assert supervisor.programs == {}


def test_a_runner_is_asked_what_it_is(site: Site, exporter: Exporter) -> None:
    assert runners.ask(site, exporter.port) == Answer(True, "", VERSION, 41, 3)
    exporter.ready = (503, "BTCUSDT is not warm\n")
    assert runners.ask(site, exporter.port) == Answer(False, "BTCUSDT is not warm", VERSION, 41, 3)
    assert runners.why_silent(site, exporter.port) == ""


def test_where_nobody_listens_that_is_said(site: Site) -> None:
    answer = runners.ask(site, 1)
    assert isinstance(answer, str)
    assert answer.startswith("port 1: ConnectError")
    assert runners.why_silent(site, 1) == answer


@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"up": "1.0"},
        {'divergence_active_config_info{version="1-ab"}': "0.0"},
        {'divergence_active_config_info{version="1-ab"}': "1.0"},
        {'divergence_active_config_info{version="1-ab"}': "1.0", "divergence_bars_total": "1.0"},
        {
            'divergence_active_config_info{version="1-ab"}': "1.0",
            'divergence_active_config_info{version="2-ab"}': "1.0",
        },
    ],
)
def test_what_answers_otherwise_is_no_runner(site: Site, exporter: Exporter, lines: dict[str, str]) -> None:
    exporter.lines = lines
    assert runners.ask(site, exporter.port) == f"port {exporter.port}: what answers there is no v13 runner"


@pytest.mark.parametrize("reply", [(500, "broken"), (401, "who?"), (200, "no { metrics at all")])
def test_what_gives_no_metrics_says_so(site: Site, exporter: Exporter, reply: Reply) -> None:
    exporter.answer = lambda _path, _body: reply
    answer = runners.ask(site, exporter.port)
    assert isinstance(answer, str)
    assert answer.startswith(f"port {exporter.port}: ")


def test_it_is_asked_with_its_password(site: Site, exporter: Exporter) -> None:
    store.write_text(site.root / "config/keys/exporter", "s3cret\n")
    own = site.config.exporter.model_copy(update={"user": "prometheus", "password_file": "config/keys/exporter"})
    locked = Site(site.root, site.env, site.config.model_copy(update={"exporter": own}))
    assert isinstance(runners.ask(locked, exporter.port), Answer)
    assert {h["Authorization"] for h in exporter.headers} == {"Basic cHJvbWV0aGV1czpzM2NyZXQ="}
    (site.root / "config/keys/exporter").unlink()
    answer = runners.ask(locked, exporter.port)
    assert isinstance(answer, str)
    assert "FileNotFoundError" in answer


def test_a_release_serves_with_the_files_it_holds(site: Site, exporter: Exporter) -> None:
    running_log(site, RELEASE, {"BTCUSDT": 1}, fingerprint=FINGERPRINT)
    assert runners.missing_of(site, RELEASE, exporter.port) == ""


def test_before_it_has_a_log_or_a_configuration_something_is_missing(site: Site, exporter: Exporter) -> None:
    missing = runners.missing_of(site, RELEASE, exporter.port)
    assert missing == f"port {exporter.port}: its metrics say configuration {VERSION}, its log none"


def test_a_stranger_on_the_port_is_not_taken_for_it(site: Site, exporter: Exporter) -> None:
    running_log(site, RELEASE, {}, fingerprint="ab" * 32)
    missing = runners.missing_of(site, RELEASE, exporter.port)
    assert missing == f"port {exporter.port}: its metrics say configuration {VERSION}, its log abababababab"


@pytest.mark.parametrize("version", ["3", "3-", ""])
def test_a_version_without_a_hash_proves_nothing(site: Site, exporter: Exporter, version: str) -> None:
    running_log(site, RELEASE, {}, fingerprint=FINGERPRINT)
    exporter.lines = {
        f'divergence_active_config_info{{version="{version}"}}': "1.0",
        **{"divergence_bars_total": "1.0", "divergence_active_symbols": "1.0"},
    }
    assert "its metrics say configuration" in runners.missing_of(site, RELEASE, exporter.port)


def test_a_runner_on_other_parameters_than_its_releases_is_told(site: Site, exporter: Exporter) -> None:
    running_log(site, RELEASE, {}, fingerprint=FINGERPRINT)
    document = store.read_json(site.release(RELEASE) / "release.json")
    document["files"]["runs/real_test/best_by_bucket.yaml"]["sha256"] = "0" * 64
    store.write_json(site.release(RELEASE) / "release.json", document)
    missing = runners.missing_of(site, RELEASE, exporter.port)
    assert missing == f"port {exporter.port}: it runs with another best_by_bucket.yaml than release {RELEASE} holds"


def test_a_damaged_log_is_what_is_missing(site: Site, exporter: Exporter) -> None:
    site.event_log(RELEASE).parent.mkdir(parents=True)
    site.event_log(RELEASE).write_bytes(b"no database " * 1_000)
    assert "is damaged" in runners.missing_of(site, RELEASE, exporter.port)


def test_a_release_whose_folder_is_gone_is_an_error(site: Site, exporter: Exporter) -> None:
    running_log(site, RELEASE, {}, fingerprint=FINGERPRINT)
    forget(site.release(RELEASE))
    with pytest.raises(V13Error, match=r"release\.json"):
        runners.missing_of(site, RELEASE, exporter.port)


def test_it_takes_over_once_it_is_warm_and_fed(site: Site, exporter: Exporter) -> None:
    running_log(site, RELEASE, {}, fingerprint=FINGERPRINT)
    port = exporter.port
    assert runners.is_warm_and_fed(site, RELEASE, port, 3) == ""
    assert runners.is_warm_and_fed(site, RELEASE, port, 4) == f"port {port}: 3 of 4 symbols are warm and fed"
    exporter.lines["divergence_bars_total"] = "0.0"
    assert runners.is_warm_and_fed(site, RELEASE, port, 3) == f"port {port}: no bar yet"
    exporter.ready = (503, "BTCUSDT: 12 of 300 bars")
    assert runners.is_warm_and_fed(site, RELEASE, port, 3) == "BTCUSDT: 12 of 300 bars"
    assert runners.is_warm_and_fed(site, RELEASE, 1, 3).startswith("port 1: ConnectError")


def test_the_watchers_port_is_the_next_one() -> None:
    assert closure_port(8003) == 8004


def test_a_name_that_leads_out_starts_nothing(site: Site) -> None:
    rig = make_rig(with_settings(site))
    with pytest.raises(ReleaseError):
        runners.start(rig, "../x", 8003)
    assert cast(SmallSupervisor, rig.supervisor).told == []


@pytest.mark.parametrize("was", ["stopped", "failed", "unknown"])
def test_a_guard_that_does_not_run_is_started(site: Site, was: State) -> None:
    rig = make_rig(site, [])
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at[runners.GUARD] = was
    assert runners.keep_guard(rig) == ""
    assert supervisor.told == ["ensure_up", "start guard"]
    assert supervisor.programs[runners.GUARD] == runners.guard_program(site)


def test_a_guard_that_runs_is_left_alone(site: Site) -> None:
    rig = make_rig(site, [])
    supervisor = cast(SmallSupervisor, rig.supervisor)
    supervisor.at[runners.GUARD] = "running"
    assert runners.keep_guard(rig) == ""
    assert supervisor.told == ["ensure_up"]


def test_why_a_guard_cannot_be_started_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: SmallSupervisor, name: str) -> None:
        raise ReleaseError(f"{name}: does not run: its port is taken")

    monkeypatch.setattr(SmallSupervisor, "start", refuse)
    assert runners.keep_guard(make_rig(site, [])) == "guard: does not run: its port is taken"


@pytest.mark.parametrize("n_bars", ["NaN", "+Inf", "x"])
def test_numbers_that_are_none_are_no_answer_of_a_runner(site: Site, n_bars: str) -> None:
    with served() as web:
        text = f'divergence_active_config_info{{version="1-x"}} 1\ndivergence_bars_total {n_bars}\n'
        web.answer = lambda _path, _body: (200, text + "divergence_active_symbols 1\n")
        assert isinstance(runners.ask(site, web.port), str)


def test_who_took_the_port_over_and_sends_without_end_is_not_heard_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "MOST_BYTES", 1_000)
    with served() as web:
        web.answer = lambda _path, _body: (200, "# x\n" * 1_000)
        assert "more than 1000 bytes" in str(runners.ask(site, web.port))
