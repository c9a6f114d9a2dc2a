"""Checks of what watches a release: rules that promtool accepts; Prometheus, Alertmanager and Grafana that answer.

Servers are asked one small question each, with a short wait and a bound on the answer, and never told anything.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from v13.errors import ReleaseError
from v13.release.check_artifacts import BUILD, MONITORING
from v13.release.check_scene import Finding, Scene, absent, bad, good
from v13.telemetry.rules import ALERTS_FILE, RECORDING_FILE, SLO_ALERTS_FILE
from v13.telemetry.servers import PROMETHEUS_FILE

__all__ = ["Reply", "alertmanager", "ask", "grafana", "prometheus", "rules"]

MAX_BYTES: Final = 1 << 16  # of an answer; a health page has some hundred
PROMTOOL_S: Final = 60.0
LAST_CHARACTERS: Final = 400  # of what promtool says
OK: Final = 200
UNAUTHORIZED: Final = (401, 403)
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
GRAFANA_TOKEN: Final = "V13_GRAFANA_TOKEN_FILE"


class Reply(NamedTuple):
    """What a server said.

    Attributes
    ----------
    status : int
    body : bytes
        No more than was allowed.
    date : str
        The header; empty where there is none.
    spent_s : float, s
    """

    status: int
    body: bytes
    date: str
    spent_s: float


def ask(url: str, wait_s: float) -> Reply:
    """Ask a server for a page; redirects are not followed and no credentials are sent.

    Raises
    ------
    ReleaseError
        No answer, no URL, or an answer without end.
    """
    began_s, body = time.monotonic(), b""
    try:
        is_near = httpx.URL(url).host in LOOPBACK  # no proxy leads there
        with httpx.Client(timeout=wait_s, trust_env=not is_near) as client, client.stream("GET", url) as answer:
            for part in answer.iter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    raise ReleaseError(f"{url}: expected a short answer, found more than {MAX_BYTES} bytes")
                if time.monotonic() - began_s > wait_s:
                    raise ReleaseError(f"{url}: no whole answer within {wait_s:g} s")
            date = answer.headers.get("date", "")
            return Reply(answer.status_code, body, date, time.monotonic() - began_s)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ReleaseError(f"{url}: no answer: {error or type(error).__name__}") from error


def rules(scene: Scene) -> Finding:
    """Check the built configuration of Prometheus and all rules with promtool."""
    folder = scene.site.root / MONITORING
    files = [RECORDING_FILE, ALERTS_FILE, SLO_ALERTS_FILE]
    missing = [name for name in (PROMETHEUS_FILE, *files) if not (folder / name).is_file()]
    if missing:
        return bad(f"{MONITORING}: missing: {', '.join(missing)}", f"`{BUILD}`")
    if scene.promtool is None:
        return absent("promtool is not installed, so nothing but Prometheus itself will judge the rules")
    counted = _promtool(scene.promtool, folder, "check", "rules", *files)
    whole = _promtool(scene.promtool, folder, "check", "config", PROMETHEUS_FILE)
    for done in (counted, whole):
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())
            return bad(f"{' '.join(done.args[1:3])}: {said[-LAST_CHARACTERS:]}")
    n = sum(int(line.split()[1]) for line in counted.stdout.splitlines() if line.strip().startswith("SUCCESS:"))
    version = _promtool(scene.promtool, folder, "--version").stdout.split(",")[0].removeprefix("promtool, ")
    return good(f"{version}: {n} rules in {len(files)} files and {PROMETHEUS_FILE} are valid")


def prometheus(scene: Scene) -> Finding:
    """Check that Prometheus is there and ready."""
    url = scene.site.config.deploy.prometheus
    if url is None:
        return bad("deploy.prometheus is null: nothing could be observed, so nothing is deployed")
    return _server(url, "/-/ready", "/api/v1/status/buildinfo", ("data", "version"), scene.wait_s)


def alertmanager(scene: Scene) -> Finding:
    """Check that Alertmanager is there and ready, or declared absent."""
    url = scene.site.config.deploy.alertmanager
    if url is None:
        return absent("declared absent (deploy.alertmanager: null); the guard asks Prometheus itself")
    return _server(url, "/-/ready", "/api/v2/status", ("versionInfo", "version"), scene.wait_s)


def grafana(scene: Scene) -> Finding:
    """Check that Grafana is there, healthy, and that there is a token for the dashboard; or declared absent."""
    url = scene.site.config.deploy.grafana
    if url is None:
        return absent("declared absent (deploy.grafana: null); the dashboard lies with the release")
    found = _server(url, "/api/health", "/api/health", ("version",), scene.wait_s)
    named = scene.environ.get(GRAFANA_TOKEN, "")
    if found.status == "ok" and not (named and Path(named).is_file()):
        why = "names no file" if named else "is not set"
        return bad(f"{found.evidence}; {GRAFANA_TOKEN} {why}", f"{GRAFANA_TOKEN}: name the file that holds its token")
    return found


def _server(url: str, ready: str, status: str, version: tuple[str, ...], wait_s: float) -> Finding:
    base = url.rstrip("/")
    first = ask(base + ready, wait_s)
    if first.status in UNAUTHORIZED:
        return bad(f"{base}{ready}: answered {first.status}: it wants to know who asks")
    if first.status != OK:
        return bad(f"{base}{ready}: expected 200, found {first.status}: not ready")
    second = first if status == ready else ask(base + status, wait_s)
    found: Any
    try:
        found = json.loads(second.body)
        for name in version:
            found = found[name]
    except (ValueError, KeyError, TypeError):
        return bad(f"{base}{status}: expected its version there, found something else: another server?")
    return good(f"{base}{ready}: 200 in {1_000 * first.spent_s:.0f} ms; version {str(found)[:40]}")


def _promtool(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(program), *arguments], cwd=folder, capture_output=True, text=True, timeout=PROMTOOL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"{program}: no answer in {PROMTOOL_S:g} s") from error
    except OSError as error:
        raise ReleaseError(f"{program}: cannot be run: {error.strerror}") from error
