"""Monitoring put in place: the release's own rules and configuration, targets, dashboard, and a reload over HTTP.

What Prometheus refuses is put back as it was, so that a bad rule never leaves the machine unwatched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx

from v13 import store
from v13.errors import ReleaseError, V13Error
from v13.release.build import MONITORING
from v13.release.folders import copy_folder
from v13.release.monitoring_files import TARGETS, target_groups
from v13.release.rig import Rig
from v13.release.site import Site
from v13.telemetry.grafana import Grafana
from v13.telemetry.servers import PROMETHEUS_FILE

__all__ = ["TOKEN_VARIABLE", "ensure_token", "install_monitoring", "is_installed", "monitoring_folder", "show_targets"]

TIMEOUT_S: Final = 10.0
TOKEN_VARIABLE: Final = "V13_GRAFANA_TOKEN_FILE"
TOKEN_BYTES: Final = 32


def install_monitoring(rig: Rig, release: str, *, put_back: bool = True) -> dict[str, Any]:
    """Put a release's monitoring files where Prometheus reads them, and have all servers take them.

    Parameters
    ----------
    rig : Rig
    release : str
    put_back : bool
        Whether a server that refuses or is away gets the old files again. Not in a rollback: they are the bad
        release's, and a server that is away reads what lies there when it comes back.

    Returns
    -------
    dict
        What was done, server by server.

    Raises
    ------
    ReleaseError
        A server refused, or is away.
    """
    site, deploy = rig.site, rig.site.config.deploy
    ensure_token(site)
    place = monitoring_folder(site)
    place.parent.mkdir(parents=True, exist_ok=True)
    old = place.with_name(f".{place.name}.before")
    source = site.release(release) / MONITORING
    targets = {name: (place / name).read_bytes() for name in TARGETS.values() if (place / name).is_file()}
    with store.staged_dir(old) as folder:
        if place.is_dir():
            copy_folder(place, folder)
    _replace_content(source, place, targets)
    evidence: dict[str, Any] = {"folder": str(place)}
    try:
        for name, url in (("prometheus", deploy.prometheus), ("alertmanager", deploy.alertmanager)):
            evidence[name] = "declared absent" if url is None else _reload(name, url)
        if deploy.prometheus is not None:
            _check_reads(deploy.prometheus, place)
        evidence["grafana"] = _import(site, source)
    except V13Error:
        if not put_back:
            raise
        _replace_content(old, place, targets)
        for path in sorted(source.rglob("*")):
            if path.is_file() and not (old / path.relative_to(source)).exists():
                (place / path.relative_to(source)).unlink(missing_ok=True)
        if deploy.prometheus is not None:
            with suppress(ReleaseError):  # why it was refused is what has to be told
                _reload("prometheus", deploy.prometheus)
        raise
    return evidence


def is_installed(site: Site, release: str) -> bool:
    """Return whether Prometheus's folder holds what a release brought, but for the targets."""
    source, place = site.release(release) / MONITORING, monitoring_folder(site)
    names = [p.relative_to(source) for p in source.rglob("*") if p.is_file()]
    own = [n for n in names if n.as_posix() not in TARGETS.values()]
    return all((place / n).is_file() and (place / n).read_bytes() == (source / n).read_bytes() for n in own)


def show_targets(rig: Rig, running: Mapping[str, int]) -> None:
    """Tell Prometheus which releases run on which port; it reads these files by itself within seconds."""
    for job, groups in target_groups(running).items():
        store.write_text(monitoring_folder(rig.site) / TARGETS[job], json.dumps(groups, indent=2) + "\n")


def monitoring_folder(site: Site) -> Path:
    """Return where Prometheus reads its configuration."""
    named = site.config.deploy.prometheus_dir
    return site.home / MONITORING if named is None else site.root / named


def ensure_token(site: Site) -> Path:
    """Make the secret that Alertmanager shows to the guard, where there is none; only its owner may read it.

    Raises
    ------
    ReleaseError
        Its folder cannot be written.
    """
    path = site.root / site.config.deploy.guard_token_file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size == 0:  # its maker was killed, or the power went
            path.unlink()
        if os.path.lexists(path):
            return path
        temp = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
        try:
            handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as sink:
                sink.write(os.urandom(TOKEN_BYTES).hex())
                sink.flush()
                os.fsync(sink.fileno())
            with suppress(FileExistsError):  # whoever was faster made one as good
                os.link(temp, path)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        raise ReleaseError(f"{path}: could not be made: {error.strerror}; its folder must be writable") from error
    return path


def _replace_content(source: Path, place: Path, targets: Mapping[str, bytes]) -> None:
    """Write the files one by one, each whole: Prometheus may hold the folder open, and reads only when told to."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            store.copy(path, place / path.relative_to(source))
    for name in TARGETS.values():
        store.write_bytes(place / name, targets.get(name, b"[]\n"))


def _reload(name: str, url: str) -> str:
    try:
        answer = httpx.post(f"{url.rstrip('/')}/-/reload", timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        raise ReleaseError(f"{name}: {url}: cannot be reached: {type(error).__name__}: {error}") from error
    if answer.status_code == 403:
        raise ReleaseError(f"{name}: {url}: does not reload over HTTP; start it with --web.enable-lifecycle")
    if answer.status_code != 200:
        raise ReleaseError(f"{name}: {url}: refused its new configuration: {answer.text.strip()[:500]}")
    return f"reloaded over {url}"


def _check_reads(url: str, place: Path) -> None:
    """Refuse a Prometheus that reloaded another folder's files: it would never scrape what is deployed."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/status/config", timeout=TIMEOUT_S, trust_env=False)
        text = str(answer.json()["data"]["yaml"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"prometheus: {url}: does not tell its configuration: {error}") from error
    missing = [name for name in TARGETS.values() if name not in text]
    if missing:
        raise ReleaseError(
            f"prometheus: {url}: does not read {', '.join(missing)}; start it with "
            f"--config.file={place / PROMETHEUS_FILE}, or set deploy.prometheus_dir to the folder it reads"
        )


def _import(site: Site, source: Path) -> str:
    url = site.config.deploy.grafana
    if url is None:
        return "declared absent"
    named = os.environ.get(TOKEN_VARIABLE)
    if not named:
        return f"not imported: {TOKEN_VARIABLE} names no file with a token"
    try:
        token = Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{TOKEN_VARIABLE}: {named}: cannot be read: {error}") from error
    document = json.loads((source / "dashboards/divergence_overview.json").read_text(encoding="utf-8"))
    with Grafana(url, token) as grafana:
        done = grafana.import_dashboard(document)
    return f"dashboard {done.uid} version {done.version} at {done.url}"
