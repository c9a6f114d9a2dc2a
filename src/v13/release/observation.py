"""One step of observation: looks at the SLOs of the new release until it was good for long enough, or bad enough.

What is good and what is bad is decided by `v13.release.observe`; here it is looked at in time, entered, and acted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from v13.config.parameters import read_parameters
from v13.detector import DetectorParams, SessionClock
from v13.errors import ReleaseError, StoreError, V13Error
from v13.release.handover import behind
from v13.release.ledger import Claim
from v13.release.monitoring_files import instance
from v13.release.observe import Observer
from v13.release.rig import Rig
from v13.release.signal_parity import SignalParity, signal_parity, warm_bars
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.slo import load_slo

__all__ = ["HeldError", "TakeBackError", "began_s", "observe"]

LAG_BARS: Final = 10  # a symbol whose bars come so much later than the stable release's has worsened
LAG_LOOKS: Final = 3  # in a row
GROWS: Final = ("start", "extend")  # steps by which a release follows more symbols
TOGETHER: Final = 2  # symbols that worsen together halt the scale-up: that is no accident of one of them


class HeldError(ReleaseError):
    """It neither became good nor bad: people decide."""


class TakeBackError(ReleaseError):
    """The release is bad; `evidence` says how it is known."""

    def __init__(self, why: str, evidence: Mapping[str, Any]) -> None:
        super().__init__(why)
        self.evidence = dict(evidence)


def observe(
    rig: Rig,
    claim: Claim,
    step: str,
    candidate: tuple[str, int],
    stable: tuple[str | None, int | None],
    symbols: Sequence[str],
) -> dict[str, Any]:
    """Look until the release was good for `deploy.observe_s`; return the evidence.

    Parameters
    ----------
    rig : Rig
    claim : Claim
    step : str
        Name of the step: what was seen before a kill is taken up again.
    candidate, stable : (release, port)
        stable is (None, None) on a first deploy.
    symbols : sequence of str
        That the candidate serves.

    Raises
    ------
    TakeBackError
        It is bad.
    HeldError
        It was not good for long enough within `deploy.observe_most_s`, several symbols worsen together, or somebody
        paused it.
    SupersededError
        Somebody took over.
    """
    site, deploy = rig.site, rig.site.config.deploy
    if deploy.prometheus is None:
        raise HeldError("there is no Prometheus to ask: no data is no pass")
    table = load_slo(site.release(candidate[0]) / "config/slo.yaml")
    observer = _taken_up(rig, step) or Observer(
        table,
        candidate=instance(candidate[1]),
        stable=None if stable[1] is None else instance(stable[1]),
        scale=deploy.time_scale,
        closure=instance(candidate[1]),
        since_s=began_s(rig, candidate[0]),
        look_s=deploy.look_every_s,
    )
    start_s = rig.clock.monotonic_s()
    n_looks, lagging, alarmed = 0, 0, False
    bar_ms = _params(rig, candidate[0]).features.bar_ms
    with Prometheus(deploy.prometheus, timeout_s=max(1.0, min(10.0, deploy.look_every_s))) as prometheus:
        while True:
            if rig.ledger.check(claim).operation.paused:  # type: ignore[union-attr] # the claim holds, so there is one
                raise HeldError(f"paused during {step}")
            look = observer.look(prometheus, rig.clock.now().timestamp())
            n_looks += 1
            facts: dict[str, Any] = {"step": step, "look": look.to_dict(), "observer": observer.to_dict()}
            rig.ledger.enter(claim, "look", facts)
            rig.say(f"{step}: {look.decision}: {look.why}")
            if look.alarm and not alarmed:
                rig.ledger.note("alarm", {"what": "prometheus", "why": look.why, "by": "deployer"})
            alarmed = look.alarm
            if look.decision == "rollback":
                raise TakeBackError(look.why, facts["look"])
            _watch_process(rig, candidate[0], facts)
            if stable[0] is not None:
                late = behind(site, symbols, stable[0], candidate[0], LAG_BARS * bar_ms)
                lagging = lagging + 1 if len(late) >= min(TOGETHER, len(symbols)) else 0
                if lagging >= LAG_LOOKS:
                    if len(late) >= TOGETHER:
                        raise HeldError(f"bars of {', '.join(late)} come late together: the scale-up is halted")
                    raise TakeBackError(f"bars of {', '.join(late)} come late", {"late": list(late)})
            if observer.passed(deploy.observe_s):
                parity = _parity(rig, candidate[0], stable[0], symbols)
                return {"n_looks": n_looks, "last": look.to_dict(), "parity": parity, "symbols": list(symbols)}
            if rig.clock.monotonic_s() - start_s > deploy.observe_most_s:
                raise HeldError(
                    f"{step}: not good for {deploy.observe_s:g} s within {deploy.observe_most_s:g}: {look.why}"
                )
            rig.clock.sleep(deploy.look_every_s)


def _taken_up(rig: Rig, step: str) -> Observer | None:
    """Return the observer as the last look of this step left it, where there was one."""
    running = rig.ledger.state().open
    if running is None:
        return None
    for row in reversed(rig.ledger.rows()):
        record = row.record
        if record["key"] == running.id and record["kind"] == "look" and record["step"] == step:
            table = load_slo(rig.site.release(str(rig.ledger.state().candidate)) / "config/slo.yaml")
            return Observer.from_dict(table, record["observer"])
    return None


def began_s(rig: Rig, release: str) -> float | None:
    """Return since when what a port shows is about a release as it is now, Unix s; None where it never had a port.

    What the port showed before is another's; and when a symbol comes that is caught up from another log, its events of
    the past are counted at once, which says nothing of the rate.
    """
    found: str | None = None
    candidate: str | None = None
    for row in rig.ledger.rows():
        record = row.record
        if record["kind"] == "candidate":
            candidate = record["release"]
        is_given = record["kind"] == "slot" and record["release"] == release
        is_grown = record["kind"] == "done" and record["step"].partition(":")[0] in GROWS and candidate == release
        if is_given or is_grown:
            found = record["utc"]
    return None if found is None else datetime.fromisoformat(found).timestamp()


def _watch_process(rig: Rig, release: str, look: Mapping[str, Any]) -> None:
    """Take a release back that its supervisor has given up."""
    at = rig.supervisor.state(f"runner-{release}")
    if at.state == "failed":
        raise TakeBackError(f"release {release} does not stay up: {at.detail}", look)


def _parity(rig: Rig, candidate: str, stable: str | None, symbols: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the signals of both differ; TakeBackError where the change of parameters does not explain it."""
    if stable is None:
        return []
    site, day = rig.site, rig.site.config.sessions
    sessions = SessionClock(day.timezone, day.day_start, day.day_end)
    found: list[SignalParity] = []
    for symbol in symbols:
        try:
            found.append(
                signal_parity(
                    site.event_log(stable),
                    site.event_log(candidate),
                    symbol,
                    sessions=sessions,
                    stable_params=_params(rig, stable),
                    candidate_params=_params(rig, candidate),
                    since_ms=_alike_ms(rig, candidate, symbol),
                )
            )
        except StoreError as error:
            raise HeldError(f"signals of {symbol} cannot be compared: {error}") from error
    for one in found:
        if one.verdict == "unexplained":
            raise TakeBackError(f"signals of {one.symbol} differ without a reason: {one.unexplained[0]}", one.to_dict())
    return [one.to_dict() for one in found]


def _alike_ms(rig: Rig, candidate: str, symbol: str) -> int:
    """Return from when on both have seen the same bars of a symbol for as long as they remember.

    What came between the last bar of the log that the candidate was warmed from and its first message, a second or two
    of quotes, the other release has seen and it has not.
    """
    params = _params(rig, candidate)
    since_s = began_s(rig, candidate) or 0.0
    at = rig.ledger.state().open
    operation = "" if at is None else at.id
    for row in rig.ledger.rows():
        record = row.record
        if record["key"] == operation and record["kind"] == "done" and symbol in record["evidence"].get("symbols", ()):
            since_s = datetime.fromisoformat(record["utc"]).timestamp()  # of start or extend, whichever named it first
            break
    return int(since_s * 1e3) + warm_bars(params) * params.features.bar_ms


def _params(rig: Rig, release: str) -> DetectorParams:
    folder = rig.site.release(release) / "runs/real_test"
    try:
        return read_parameters(folder / "best_global.yaml", folder / "best_by_bucket.yaml").params
    except V13Error as error:
        raise ReleaseError(f"{folder}: {error}") from error
