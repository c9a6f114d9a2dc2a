"""What the guide wants seen after a rollback: stable state, key figures, no errors in the log, monitoring.

It judges and changes nothing; what cannot be seen yet is waited for a little, and then said, not passed.
"""

from __future__ import annotations

from typing import Any, Final

from v13.errors import ReleaseError, V13Error
from v13.release import runners
from v13.release.ledger import Claim, SupersededError
from v13.release.monitoring_files import instance
from v13.release.observe import Observer
from v13.release.rig import Rig, wait_until
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.slo import load_slo

__all__ = ["after_rollback", "settle"]

LOG_BYTES: Final = 200_000  # of the end of the runner's log
_NOT_YET: Final = "Prometheus does not scrape it yet"
BAD_WORDS: Final = (" ERROR ", " CRITICAL ", "Traceback (most recent call last)")


def after_rollback(rig: Rig, release: str, port: int) -> dict[str, Any]:
    """Return the guide's four points, each with what was seen, and the `problems` among them.

    Parameters
    ----------
    rig : Rig
    release : str
        That serves now.
    port : int
        Of its exporter.
    """
    problems: list[str] = []
    stable = _system(rig, port)
    if stable != "ready":
        problems.append(f"system: not ready yet: {stable}")
    figures = _figures(rig, release, port, problems)
    lines = _bad_lines(rig, release)
    if lines:
        problems.append(f"log: {len(lines)} lines of errors, the last: {lines[-1][:200]}")
    monitored = _monitored(rig, port)
    if monitored != "scraped":
        problems.append(f"monitoring: {monitored}")
    return {
        "system": stable,
        "key_figures": figures,
        "error_lines": len(lines),
        "monitoring": monitored,
        "problems": problems,
    }


def settle(rig: Rig, claim: Claim, port: int, most_s: float) -> float:
    """Give a release that was just started the seconds it takes to be fed and scraped; return how many it took.

    Parameters
    ----------
    rig : Rig
    claim : Claim
    port : int
        Of its exporter.
    most_s : float, s
        Where it is not so by then, `after_rollback` remarks on it.

    Raises
    ------
    SupersededError
        Somebody took over.
    """
    began_s = rig.clock.monotonic_s()

    def missing() -> str:
        is_scraped = _monitored(rig, port) != _NOT_YET  # or it cannot be: a Prometheus that is away is not waited for
        system = _system(rig, port)
        return system if system != "ready" else "" if is_scraped else _NOT_YET

    try:
        wait_until(rig, claim, most_s, f"port {port} settles", missing)
    except SupersededError:
        raise
    except ReleaseError as error:
        rig.say(str(error))
    return rig.clock.monotonic_s() - began_s


def _system(rig: Rig, port: int) -> str:
    answer = runners.ask(rig.site, port)
    if isinstance(answer, str):
        return answer
    return "ready" if answer.ready else answer.reason


def _figures(rig: Rig, release: str, port: int, problems: list[str]) -> Any:
    url = rig.site.config.deploy.prometheus
    if url is None:
        problems.append("key figures: there is no Prometheus")
        return None
    try:
        table = load_slo(rig.site.release(release) / "config/slo.yaml")
        with Prometheus(url, timeout_s=5.0) as prometheus:
            look = Observer(
                table,
                candidate=instance(port),
                stable=None,
                closure=instance(port),
                scale=rig.site.config.deploy.time_scale,
            ).look(prometheus, rig.clock.now().timestamp())
    except V13Error as error:
        problems.append(f"key figures: {error}")
        return None
    if not look.readings:
        problems.append(f"key figures: {look.why}")
    bad = [r.title for r in look.readings if r.level in ("alert", "rollback")]
    unknown = [r.title for r in look.readings if r.level in ("no_data", "too_few")]
    if bad:
        problems.append(f"key figures: not normal: {', '.join(bad)}")
    if unknown:
        problems.append(f"key figures: not known yet: {', '.join(unknown)}")
    return look.to_dict()


def _bad_lines(rig: Rig, release: str) -> list[str]:
    path = rig.site.event_log(release).with_name("runner.log")
    try:
        with path.open("rb") as source:
            source.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = source.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if any(word in line for word in BAD_WORDS)]


def _monitored(rig: Rig, port: int) -> str:
    url = rig.site.config.deploy.prometheus
    if url is None:
        return "declared absent"
    try:
        with Prometheus(url, timeout_s=5.0) as prometheus:
            found = prometheus.instant(
                f'up{{instance="{instance(port)}",job="divergence"}}', rig.clock.now().timestamp()
            )
    except V13Error as error:
        return str(error)
    return "scraped" if found and float(found[0].values[-1]) == 1.0 else _NOT_YET
