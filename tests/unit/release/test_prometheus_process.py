"""A Prometheus for a rehearsal: found, configured from what was built, and plain about what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.integration.prometheus_server import prometheus_binary
from v13 import store
from v13.errors import ConfigError
from v13.release.prometheus_process import PrometheusProcess, find_prometheus, rehearsal_config
from v13.telemetry.servers import PROMETHEUS_FILE, Exporter, server_files
from v13.telemetry.slo import load_slo


@pytest.fixture
def built(tmp_path: Path) -> Path:
    documents = server_files(load_slo(REPO / "config/slo.yaml"), Exporter())
    store.write_yaml(tmp_path / PROMETHEUS_FILE, documents[PROMETHEUS_FILE].body)
    return tmp_path / PROMETHEUS_FILE


def test_the_built_configuration_is_taken_with_other_targets_and_nobody_to_alert(built: Path) -> None:
    made = rehearsal_config(built, {"divergence": "127.0.0.1:4711"}, 1)
    assert made["scrape_configs"] == [{"job_name": "divergence", "static_configs": [{"targets": ["127.0.0.1:4711"]}]}]
    assert made["global"]["scrape_interval"] == made["global"]["scrape_timeout"] == "1s"
    assert len(made["rule_files"]) == 3
    assert all(Path(name).is_absolute() for name in made["rule_files"])
    assert "alerting" not in made


def test_a_job_that_was_not_built_and_a_file_that_is_none_are_told(built: Path) -> None:
    with pytest.raises(ConfigError, match="there is no job other"):
        rehearsal_config(built, {"other": "127.0.0.1:1"}, 1)
    built.write_text("scrape_configs: [")
    with pytest.raises(ConfigError, match="not what `v13 monitoring build` writes"):
        rehearsal_config(built, {}, 1)
    built.unlink()
    with pytest.raises(ConfigError, match=PROMETHEUS_FILE):
        rehearsal_config(built, {}, 1)


def test_the_program_named_is_the_one_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PROMETHEUS_BIN", str(program))
    assert find_prometheus() == program
    with pytest.raises(ConfigError, match="ended at once; it said:\nno such flag"):
        PrometheusProcess(program, {}, tmp_path / "server")
    monkeypatch.setenv("PROMETHEUS_BIN", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"PROMETHEUS_BIN: .*none: expected a program"):
        find_prometheus()
    with pytest.raises(ConfigError, match="cannot be started: No such file"):
        PrometheusProcess(tmp_path / "none", {}, tmp_path / "server")


def test_a_configuration_it_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="field nonsense not found"):
        PrometheusProcess(Path(prometheus_binary()), {"nonsense": 1}, tmp_path)
