"""Checks of the machine: ports, disk, clock, backups, and that nobody else is at work. Nothing is changed."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from v13.errors import ReleaseError, StoreError
from v13.release import orphans
from v13.release.backup import check_backup, list_backups
from v13.release.check_scene import Finding, Scene, bad, good
from v13.release.check_servers import ask
from v13.release.envelope import moment, stamp
from v13.release.kernel_clock import kernel_clock
from v13.release.ledger import DeployLedger
from v13.release.monitoring_files import closure_port
from v13.release.ports import holder, is_free
from v13.release.workers import is_alive

__all__ = ["TOLERANCE_S", "backups", "clock", "disk", "operation", "port_list"]

MIB: Final = 1 << 20
TOLERANCE_S: Final = 2.0  # brief of the deploy: two sane clocks agree to this
HEADER_STEP_S: Final = 1.0  # a Date header names whole seconds, the past ones
PRODUCTION: Final = "production"
# Answered without an account; only the Date header is of interest.
EXCHANGE: Final = {
    "usdm": ("https://fapi.binance.com", "/fapi/v1/ping"),
    "spot": ("https://api.binance.com", "/api/v3/ping"),
}


def port_list(scene: Scene) -> Finding:
    """Check that the ports of both releases and of the guard are free, or held by what a deploy itself has started."""
    config = scene.site.config
    first, second = config.deploy.ports
    host = config.exporter.host
    wanted = [(host, first), (host, second), ("127.0.0.1", closure_port(first)), ("127.0.0.1", closure_port(second))]
    wanted.append((config.deploy.guard_host, config.deploy.guard_port))
    own = {p.pid: p.program for p in orphans.find(scene.site.home)}
    told, wrong = [], []
    for address, port in wanted:
        if port == 0:
            told.append("0 any")
            continue
        if is_free(address, port):
            told.append(f"{port} free")
            continue
        by = holder(port)
        if by is not None and by.pid in own:
            told.append(f"{port} held by our {own[by.pid] or by.command} (process {by.pid})")
        else:
            who = "a process that cannot be seen" if by is None else f"{by.command} (process {by.pid})"
            wrong.append(f"{address}:{port} is held by {who}")
    text = ", ".join(told) or "none free"
    return bad(f"{'; '.join(wrong)}; {text}") if wrong else good(text)


def disk(scene: Scene) -> Finding:
    """Check free space and the right to write where a deploy writes."""
    least = scene.site.config.deploy.min_free_mb
    told, wrong = [], []
    for name, path in (("home", scene.site.home), ("records", scene.site.records)):
        place = next(p for p in (path, *path.parents) if p.exists())
        free_mb = shutil.disk_usage(place).free // MIB
        told.append(f"{name} {free_mb:,} MiB free")
        if free_mb < least:
            wrong.append(f"{place}: {free_mb:,} MiB free, at least {least:,} are needed")
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            wrong.append(f"{place}: cannot be written to")
    return bad("; ".join(wrong)) if wrong else good(f"{', '.join(told)}; at least {least:,} are needed")


def backups(scene: Scene) -> Finding:
    """Check every backup byte by byte: it could be restored now."""
    stamps, wrong, n_files = list_backups(scene.site), [], 0
    for at in stamps:
        try:
            n_files += len(check_backup(scene.site, at)["files"])
        except (ReleaseError, StoreError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"{at}: {error}")
    if wrong:
        return bad(f"{len(wrong)} of {len(stamps)} backups cannot be restored: {'; '.join(wrong)}")
    if stamps:
        return good(f"{len(stamps)} backups with {n_files} files, each as its hash says; the newest is {stamps[-1]}")
    if scene.state.stable is None:
        return good("none yet: this is the first deploy, there is nothing to go back to")
    return good(f"none yet; the deploy makes one of {scene.state.stable} before anything else")


def operation(scene: Scene) -> Finding:
    """Check that no other deploy or rollback is under way, and that the ledger is whole."""
    state, path = scene.state, scene.site.ledger
    running = state.open
    if running is not None and running.id != scene.own_operation:
        worker = f"process {running.worker.pid}, {'alive' if is_alive(running.worker) else 'gone'}"
        return bad(f"{running.kind} {running.id} of {running.facts.get('by', 'nobody')} is not over ({worker})")
    if not state.n_rows:
        return good("nothing has been entered yet")
    return good(f"none; {path.name}: {state.n_rows} rows, chain whole up to {DeployLedger(path).verify()[:12]}")


def clock(scene: Scene) -> Finding:
    """Check the wall clock: against the kernel's word, against others' clocks, against what has been dated already."""
    began, began_s = scene.began
    now, now_s = scene.now(), scene.monotonic_s()
    wrong = []
    step_s = (now - began).total_seconds() - (now_s - began_s)
    told = [f"{stamp(now)}; wall and monotonic clock agree to {abs(step_s):.3f} s over {now_s - began_s:.1f} s"]
    if abs(step_s) > TOLERANCE_S:
        wrong.append(f"the wall clock was put {'forward' if step_s > 0 else 'back'} by {abs(step_s):.1f} s just now")
    for what, dated in _dated(scene):
        if dated > now + timedelta(seconds=TOLERANCE_S):
            wrong.append(f"{what} is dated {stamp(dated)}, and the clock says {stamp(now)}")
    n_outside = 0
    for url in _references(scene):
        gap = _gap_s(scene, url)
        if isinstance(gap, str):
            told.append(gap)
            continue
        n_outside += not _is_here(url)
        told.append(f"{urlsplit(url).hostname} agrees to {gap:.1f} s")
        if gap > TOLERANCE_S:
            wrong.append(
                f"{urlsplit(url).hostname}: its clock differs by {gap:.1f} s, at most {TOLERANCE_S:g} s are sane"
            )
    kernel = kernel_clock()
    if kernel is None:
        told.append("the kernel does not say whether it is synchronised")
    else:
        told.append(f"kernel: {'synchronised' if kernel.is_synchronised else 'not synchronised'}")
    if n_outside == 0 and (kernel is None or not kernel.is_synchronised):
        told.append("no clock outside this machine confirms it")
        if scene.site.env == PRODUCTION:
            wrong.append("neither the kernel nor a clock outside this machine vouches for it")
    text = "; ".join(told)
    return bad(f"{'; '.join(wrong)}. Found: {text}") if wrong else good(text)


def _dated(scene: Scene) -> Iterator[tuple[str, datetime]]:
    """Return what carries a time that must have passed."""
    if scene.has_bundle():
        yield "the sign-off", moment(scene.bundle.manifest["created_utc"], "manifest.json: created_utc")
    rows = DeployLedger(scene.site.ledger).rows()
    if rows:
        yield "the last row of the ledger", moment(rows[-1].record["utc"], f"{scene.site.ledger}: row {rows[-1].n}")


def _references(scene: Scene) -> list[str]:
    config = scene.site.config
    base, path = EXCHANGE[config.runner.market]
    exchange = (config.feed.rest_url or base).rstrip("/") + path
    prometheus = config.deploy.prometheus
    return [exchange] if prometheus is None else [prometheus.rstrip("/") + "/-/ready", exchange]


def _gap_s(scene: Scene, url: str) -> float | str:
    """Return the least by which our clock and a server's must differ, or why that is not known."""
    host = urlsplit(url).hostname
    asked = scene.now()
    try:
        reply = ask(url, scene.wait_s)
        header = parsedate_to_datetime(reply.date) if reply.date else None
    except (ReleaseError, ValueError):
        return f"{host} gave no time"
    answered = scene.now()
    if header is None:
        return f"{host} gave no time"
    theirs = header if header.tzinfo is not None else header.replace(tzinfo=UTC)
    # They were somewhere within that second while we were somewhere between question and answer.
    ahead_s = (theirs - answered).total_seconds()
    behind_s = (asked - theirs).total_seconds() - HEADER_STEP_S
    return max(ahead_s, behind_s, 0.0)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
