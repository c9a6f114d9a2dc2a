"""The processes of a release: runner and closure watcher as programs, their changeable settings, and what they answer.

It starts and stops through the supervisor alone, and must not decide whether that is right.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from v13 import store
from v13.config import load
from v13.config.yaml_lines import read_tree
from v13.errors import ConfigError, ReleaseError, StoreError
from v13.release.build import ARTIFACTS, read_release
from v13.release.monitoring_files import closure_port
from v13.release.rig import Rig
from v13.release.site import Site
from v13.release.supervisor import Program, kept_up
from v13.store.event_standing import Standing, standing

__all__ = [
    "Answer",
    "ask",
    "followed",
    "guard_program",
    "is_warm_and_fed",
    "keep_guard",
    "missing_of",
    "overlay_port",
    "programs",
    "remove",
    "scheme",
    "start",
    "stop",
    "symbols_of",
    "why_silent",
    "write_overlay",
]

ANSWER_S: Final = 2.0  # for each page, all of it
MOST_BYTES: Final = 1 << 23  # of a page; metrics of 50 symbols have some 200 kB
GUARD: Final = "guard"
UP: Final = ("running", "starting")  # states of a program that nobody has to start
MORE_STOP_S: Final = 5.0  # beyond the runner's own longest orderly stop
CLOSURE_EVERY_S: Final = 10
BARS: Final = "divergence_bars_total"
ACTIVE: Final = "divergence_active_symbols"


class Answer(NamedTuple):
    """What a runner says of itself.

    Attributes
    ----------
    ready : bool
    reason : str
        Why it is not.
    version : str
        Of the configuration in force: number and hash.
    n_bars : int
        Processed since it began.
    n_symbols : int
        Active ones.
    """

    ready: bool
    reason: str
    version: str
    n_bars: int
    n_symbols: int


def programs(site: Site, release: str, port: int) -> tuple[Program, Program]:
    """Return runner and closure watcher of a release."""
    folder = site.release(release)
    # Compiled modules lie outside: one planted in the release's folder is never read.
    environ = {"PYTHONPATH": str(folder / "code"), "PYTHONUNBUFFERED": "1"}
    # One place for all releases, by the path of each module: what they share is compiled once, not at every deploy.
    environ["PYTHONPYCACHEPREFIX"] = str(site.home / "pycache")
    log = site.event_log(release)
    base = (sys.executable, "-P", "-m", "v13.cli")
    where = ("--env", site.env, "--root", str(folder))
    runner = Program(
        f"runner-{release}",
        (*base, "run", *where, "--settings", str(site.overlay(release))),
        folder,
        environ,
        log.with_name("runner.log"),
        stop_s=site.config.runner.stop_s + MORE_STOP_S,
    )
    watcher = Program(
        f"closure-{release}",
        (
            *(*base, "closure", "--watch", "--exporter", f"{scheme(site)}://127.0.0.1:{port}", "--log", str(log)),
            *_login(site),
            *("--port", str(closure_port(port)), "--every", f"{CLOSURE_EVERY_S}s", *where),
        ),
        folder,
        environ,
        log.with_name("closure.log"),
    )
    return runner, watcher


def guard_program(site: Site) -> Program:
    """Return the guard: it runs the code that deploys, not a release's."""
    command = (sys.executable, "-P", "-m", "v13.cli", "deploy", "guard", "--env", site.env, "--root", str(site.root))
    package = Path(store.__file__).resolve().parents[2]
    environ = {"PYTHONPATH": str(package), "PYTHONUNBUFFERED": "1"}
    return Program(GUARD, command, site.root, environ, site.home / "logs/guard.log")


def keep_guard(rig: Rig) -> str:
    """Have the guard run where it does not; return why it does not, the empty string where it does.

    A deploy starts it anew, and may be killed after it stopped it; then what takes that deploy back has to start it.
    """

    def have() -> None:
        if rig.supervisor.state(GUARD).state not in UP:
            rig.supervisor.install(guard_program(rig.site))
            rig.supervisor.start(GUARD)

    try:
        kept_up(rig.supervisor, have)
    except ReleaseError as error:
        return str(error)
    return ""


def write_overlay(site: Site, release: str, port: int, symbols: Sequence[str], warm_from: Path | None) -> None:
    """Write the settings of a release that may change while it runs; the runner follows within a bar or two."""
    store.write_yaml(
        site.overlay(release),
        {
            "runner": {
                "symbols": list(symbols),
                "log": str(site.event_log(release)),
                "warm_from": None if warm_from is None else str(warm_from),
            },
            "exporter": {"port": port, **_files(site)},
        },
        header=f"Of release {release}; written by v13 deploy.",
    )


def overlay_port(site: Site, release: str) -> int:
    """Return the port a release was last started on.

    Raises
    ------
    ConfigError
        Its changeable settings are missing or damaged.
    """
    return int(_told(site, release, "exporter", "port", int))


def symbols_of(site: Site, release: str) -> tuple[str, ...]:
    """Return all symbols of a release by its own settings, which the checkout's may have gone away from.

    Raises
    ------
    ConfigError
        The settings in its folder are bad.
    """
    folder = site.release(release)
    return replace(site, root=folder, config=load(folder, site.env, environ={}).config).symbols


def followed(site: Site, release: str) -> tuple[str, ...]:
    """Return the symbols a release that runs was told to follow.

    Raises
    ------
    ConfigError
        Its changeable settings are missing or damaged.
    """
    return tuple(map(str, _told(site, release, "runner", "symbols", list)))


def _told(site: Site, release: str, section: str, name: str, kind: type) -> Any:
    """Return one of the changeable settings of a release."""
    path = site.overlay(release)
    tree = read_tree(path, str(path))
    try:
        return kind(tree[section][name])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: expected {section}.{name}, found none; was it changed by hand?") from error


def start(rig: Rig, release: str, port: int) -> None:
    """Have runner and closure watcher of a release run; what runs already stays."""
    for program in programs(rig.site, release, port):
        program.log.parent.mkdir(parents=True, exist_ok=True)
        rig.supervisor.install(program)
        rig.supervisor.start(program.name)


def stop(rig: Rig, release: str, grace_s: float | None = None) -> None:
    """Have nothing of a release run, verified; its folder and its log stay."""
    for name in (f"runner-{release}", f"closure-{release}"):
        rig.supervisor.stop(name, grace_s)


def remove(rig: Rig, release: str) -> None:
    """Forget the programs of a release."""
    for name in (f"runner-{release}", f"closure-{release}"):
        rig.supervisor.remove(name)


def ask(site: Site, port: int) -> Answer | str:
    """Return what the runner on a port says of itself, or why there is no answer."""
    exporter = site.config.exporter
    auth = None
    try:
        if exporter.user is not None and exporter.password_file is not None:
            password = (site.root / exporter.password_file).read_text(encoding="utf-8").rstrip("\n")
            auth = (exporter.user, password)
        # Plain HTTP without a certificate of ours: the system's need not be read then, which takes longer than to ask.
        verify: Any = False if exporter.tls_cert is None else str(site.root / exporter.tls_cert)
        url = f"{scheme(site)}://127.0.0.1:{port}"
        with httpx.Client(timeout=ANSWER_S, auth=auth, verify=verify, trust_env=False) as client:
            ready, reason = _page(client, f"{url}/-/ready")
            status, metrics = _page(client, f"{url}/metrics")
        if status != httpx.codes.OK:
            return f"port {port}: /metrics: status {status}"
        families = text_string_to_metric_families(metrics)
        samples = {(s.name, s.labels.get("version", "")): s.value for f in families for s in f.samples}
    except (httpx.HTTPError, OSError, ValueError, LookupError, AttributeError, ReleaseError) as error:
        return f"port {port}: {type(error).__name__}: {error}"
    config = [v for (name, v), value in samples.items() if name == "divergence_active_config_info" and value == 1]
    if len(config) != 1 or not all(math.isfinite(samples.get((name, ""), math.nan)) for name in (BARS, ACTIVE)):
        return f"port {port}: what answers there is no v13 runner"
    return Answer(
        ready == httpx.codes.OK,
        "" if ready == httpx.codes.OK else reason.strip(),
        config[0],
        int(samples[BARS, ""]),
        int(samples[ACTIVE, ""]),
    )


def _page(client: httpx.Client, url: str) -> tuple[int, str]:
    """Return status and text of a page; whoever took the port over may send without end, or drop by drop."""
    end_s, body = time.monotonic() + ANSWER_S, b""
    with client.stream("GET", url) as answer:
        for part in answer.iter_bytes():
            body += part
            if len(body) > MOST_BYTES or time.monotonic() > end_s:
                raise ReleaseError(f"more than {MOST_BYTES} bytes, or not within {ANSWER_S:g} s")
    return answer.status_code, body.decode("utf-8", "replace")


def why_silent(site: Site, port: int) -> str:
    """Return why nothing answers on a port; the empty string where a runner does."""
    answer = ask(site, port)
    return answer if isinstance(answer, str) else ""


def missing_of(site: Site, release: str, port: int) -> str:
    """Return why a release does not yet serve with its own configuration; the empty string where it does.

    Notes
    -----
    The hash in its metrics must be that of the configuration in its log, and that must have been made of the very files
    of the release.
    """
    answer = ask(site, port)
    if isinstance(answer, str):
        return answer
    try:
        at: Standing = standing(site.event_log(release))
    except StoreError as error:
        return str(error)
    _, _, shown = answer.version.partition("-")
    if at.config is None or not shown or not at.fingerprint.startswith(shown):
        return f"port {port}: its metrics say configuration {answer.version}, its log {at.fingerprint[:12] or 'none'}"
    files: Mapping[str, Any] = read_release(site.release(release))["files"]
    made_of = at.config.get("files", {})
    for name, place in ARTIFACTS.items():
        if made_of.get(name) != files[place]["sha256"]:
            return f"port {port}: it runs with another {name} than release {release} holds"
    return ""


def is_warm_and_fed(site: Site, release: str, port: int, n_symbols: int) -> str:
    """Return why a release cannot take over that many symbols; the empty string where it can."""
    missing = missing_of(site, release, port)
    if missing:
        return missing
    answer = ask(site, port)
    if isinstance(answer, str):
        return answer
    if not answer.ready:
        return answer.reason
    if answer.n_symbols < n_symbols:
        return f"port {port}: {answer.n_symbols} of {n_symbols} symbols are warm and fed"
    return "" if answer.n_bars > 0 else f"port {port}: no bar yet"


def scheme(site: Site) -> str:
    """Return how the exporters are spoken to: http or https."""
    return "http" if site.config.exporter.tls_cert is None else "https"


def _files(site: Site) -> dict[str, str]:
    """Return the exporter's files by their absolute names: a release holds no keys of its own."""
    names = ("tls_cert", "tls_key", "password_file")
    own = {name: getattr(site.config.exporter, name) for name in names}
    return {name: str(site.root / value) for name, value in own.items() if value is not None}


def _login(site: Site) -> tuple[str, ...]:
    files, user = _files(site), site.config.exporter.user
    trust = ("--ca-file", files["tls_cert"]) if "tls_cert" in files else ()
    return trust + (() if user is None else ("--user", user, "--password-file", files["password_file"]))
