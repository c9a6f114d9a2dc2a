"""A rehearsal: a first release, then another that is good or bad, on a played market and real servers.

It shows that a good release goes all the way and that a bad one is taken back by itself, and how long that takes here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from v13 import store
from v13.errors import V13Error
from v13.rehearsal import servers
from v13.rehearsal.exchange import PlayedExchange
from v13.rehearsal.faults import FAULTS, spoilt_code
from v13.rehearsal.stage import BAR_MS, ENV, MONITORING, SYMBOLS, Addresses, make_stage
from v13.release.conclusion import conclude
from v13.release.deploy import Deployed, deploy
from v13.release.ledger import DeployLedger
from v13.release.ports import free_port, is_free
from v13.release.rig import Rig
from v13.release.site import Site, open_site
from v13.release.supervisor import choose
from v13.telemetry.servers import ALERTMANAGER_FILE, PROMETHEUS_FILE

__all__ = ["Rehearsed", "open_stage", "rehearse"]

MINUTES: Final = 8  # of market; a rehearsal is over long before
SEED: Final = 20
FIRST_READY_S: Final = 180.0  # it compiles what the second finds compiled; 60 s did not do on a busy machine
GUARD_S: Final = 60.0  # that a guard's rollback may take
LOOK_S: Final = 0.2
# A leak is found by comparison with the release in shadow, which takes 13 blocks of two looks and as long a gap each.
LONGER: Final[Mapping[str, Mapping[str, Any]]] = {
    "leak": {"observe_s": 48.0, "observe_most_s": 110.0, "look_every_s": 0.5, "canary": ["BTCUSDT"]}
}
KEPT: Final = "runs/rehearsal_signoffs"


@dataclass(frozen=True)
class Rehearsed:
    """How it went.

    Attributes
    ----------
    is_right : bool
        The good release serves, or the bad one was taken back and the first one serves.
    text : str
        The last line.
    record : Path
        Of the second deploy, or of its rollback.
    """

    is_right: bool
    text: str
    record: Path


def rehearse(
    root: Path, project: Path, *, fault: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Rehearsed:
    """Rehearse in an empty folder; all processes are gone afterwards.

    Parameters
    ----------
    root : Path
        Stays, with ledger, logs and records.
    project : Path
        Whose config/ and notebooks/ are used.
    fault : str, optional
        A key of FAULTS: what is wrong with the second release. None: nothing.

    Raises
    ------
    V13Error
        The rehearsal itself could not be held.
    """
    began_s = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began_s:6.1f} s  {text}")

    tell("making a market, and a sign-off of it")
    with open_stage(root, project, settings=LONGER.get(fault or ""), say=tell) as rig:
        first = deploy(_patient(rig), "the release before")
        conclude(rig, first.operation)
        if first.outcome != "completed":
            raise V13Error(f"the first release was not deployed: {first.outcome}: {first.why}")
        tell(f"{first.release} serves {', '.join(SYMBOLS)}")
        code = None if fault is None else spoilt_code(root / "spoilt", fault)
        tell("deploying the next release" + ("" if fault is None else f", in which {FAULTS[fault][0]}"))
        at_s = time.monotonic()
        second = deploy(replace(rig, code=code), f"rehearsal of {fault or 'a good release'}")
        return _judge(rig, first, second, fault, time.monotonic() - at_s)


def _patient(rig: Rig) -> Rig:
    """Return the rig with more time for a release to get ready; what is rehearsed is the second, in the time it has."""
    config = rig.site.config
    deploy = config.deploy.model_copy(update={"ready_s": FIRST_READY_S})
    return replace(rig, site=replace(rig.site, config=config.model_copy(update={"deploy": deploy})))


@contextmanager
def open_stage(
    root: Path,
    project: Path,
    *,
    kept: Path | None = None,
    minutes: int = MINUTES,
    settings: Mapping[str, Any] | None = None,
    levels: Mapping[tuple[str, ...], Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Rig]:
    """Play a market beside real servers, with a signed sign-off that is ready to deploy; end it all afterwards.

    Parameters
    ----------
    root : Path
        An empty folder. It stays, with ledger, logs and records.
    project : Path
        Whose config/ and notebooks/ are used.
    kept : Path, optional
        Folder of the sign-offs that were made before. Default: the project's.
    minutes : int, >= 1
        Of market.
    settings : mapping, optional
        Settings of `deploy` that differ from a rehearsal's.
    levels : mapping of keys to value, optional
        What else differs from the product's SLO table.
    say : callable

    Yields
    ------
    Rig
        Nothing is deployed in it yet.
    """
    ports = _ports(6)
    at = Addresses("", "", ports[0], ports[1], (ports[2], ports[3]), ports[4])
    make_stage(root, project, project / KEPT if kept is None else kept, at, say, settings=settings, levels=levels)
    with ExitStack() as stack:
        exchange = stack.enter_context(PlayedExchange(SYMBOLS, bar_ms=BAR_MS, minutes=minutes, seed=SEED))
        site = _aim_feed(root, exchange)
        stack.enter_context(servers.prometheus(root / MONITORING / PROMETHEUS_FILE, root / "prometheus", ports[0]))
        stack.enter_context(
            servers.alertmanager(root / MONITORING / ALERTMANAGER_FILE, root / "alertmanager", ports[1])
        )
        rig = Rig(site, DeployLedger(site.ledger), choose(site.home, site.config.deploy.supervisor), say=say)
        stack.callback(rig.supervisor.shut_down)
        yield rig


def _judge(rig: Rig, first: Deployed, second: Deployed, fault: str | None, spent_s: float) -> Rehearsed:
    """Say whether the right one of the two happened."""
    if second.outcome == "superseded":  # by the guard's rollback, which may still be at work
        end_s = time.monotonic() + GUARD_S
        while rig.ledger.state().open is not None and time.monotonic() < end_s:
            time.sleep(LOOK_S)
    state = rig.ledger.state()
    last = state.operation
    assert last is not None
    record = conclude(rig, last.id)
    if second.operation != last.id:
        conclude(rig, second.operation)
    if fault is None:
        is_right = second.outcome == "completed" and state.stable == second.release
        done = f"the good release went through all stages in {spent_s:.0f} s"
    else:
        is_right = last.kind == "rollback" and last.outcome == "rolled_back" and state.stable == first.release
        done = f"the bad release ({fault}) was taken back {spent_s:.0f} s after its deploy began"
    serves = {state.serves(symbol) for symbol in rig.site.symbols}
    is_right = is_right and serves == {state.stable}
    if not is_right:
        done = f"NOT AS IT SHOULD BE: {second.outcome}: {second.why}; {state.stable} is stable, {serves} serve"
    return Rehearsed(is_right, done, record)


def _aim_feed(root: Path, exchange: PlayedExchange) -> Site:
    """Write where the market is played, and return the site with it."""
    path = root / f"config/environments/{ENV}.yaml"
    settings = YAML(typ="safe").load(path)
    settings["feed"] |= {"ws_url": exchange.ws_url, "rest_url": exchange.rest_url}
    store.write_yaml(path, settings)
    return open_site(root, ENV, {})


def _ports(n: int) -> list[int]:
    """Return free ports, each with the next one free as well: that is its closure watcher's."""
    found: list[int] = []
    while len(found) < n:
        port = free_port()
        if is_free("127.0.0.1", port + 1) and all(abs(port - other) > 1 for other in found):
            found.append(port)
    return found
