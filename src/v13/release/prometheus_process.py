"""A Prometheus of our own on loopback, for a rehearsal: found, started on the built configuration, stopped by its pid.

It keeps its data in a folder that its owner removes. It must not touch a server that runs already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from v13 import store
from v13.errors import ConfigError
from v13.release.ports import free_port
from v13.release.server_process import ServerProcess, find_program

__all__ = ["PrometheusProcess", "find_prometheus", "rehearsal_config"]


def find_prometheus() -> Path | None:
    """Return PROMETHEUS_BIN, the one on PATH, or Debian's; None where there is none.

    Raises
    ------
    ConfigError
        PROMETHEUS_BIN names no program.
    """
    return find_program("PROMETHEUS_BIN", ("prometheus",))


def rehearsal_config(built: Path, targets: Mapping[str, str], scrape_s: int) -> dict[str, Any]:
    """Return the built configuration with other targets and times, and nobody to alert.

    Parameters
    ----------
    built : Path
        `prometheus_divergence.yml` of `v13 monitoring build`.
    targets : mapping of job to host:port
        Jobs that are not named are left out.
    scrape_s : int, s, >= 1

    Raises
    ------
    ConfigError
        The file cannot be read, or lacks one of the jobs.
    """
    try:
        document = YAML(typ="safe").load(built.read_text(encoding="utf-8"))
        jobs = {job["job_name"]: job for job in document["scrape_configs"]}
        rules = [str((built.parent / name).resolve()) for name in document["rule_files"]]
    except (OSError, YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{built}: not what `v13 monitoring build` writes: {error}") from error
    missing = [name for name in targets if name not in jobs]
    if missing:
        raise ConfigError(f"{built}: scrape_configs: there is no job {', '.join(missing)}")
    return {
        "global": document["global"]
        | dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{scrape_s}s"),
        "rule_files": rules,
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()
        ],
    }


class PrometheusProcess(ServerProcess):
    """A server that runs; a context manager.

    Parameters
    ----------
    program : Path
    config : mapping
        Of its configuration file.
    folder : Path
        For configuration, data and log; a server started on it again finds the data of the one before.
    port : int, optional
        Default: a free one.

    Raises
    ------
    ConfigError
        It refuses its configuration or cannot be started; its last words are told.
    V13Error
        It does not become ready.
    """

    def __init__(self, program: Path, config: Mapping[str, Any], folder: Path, *, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        store.write_yaml(folder / "prometheus.yml", config)
        self.port = port or free_port()
        command = [
            *(str(program), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        super().__init__(command, f"http://127.0.0.1:{self.port}", folder / "prometheus.log")
