"""The parts of a runner that a reload reaches, and the order in which they take a new configuration.

What can fail comes first and leaves everything as it was; what follows cannot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from v13.config import Config
from v13.live.artifacts import Artifacts
from v13.live.binance import BinanceFeed
from v13.live.catchup import catch_up, refuse_own_log
from v13.live.consumer import Consumer
from v13.live.inbox import Inbox
from v13.live.reload_change import is_same
from v13.live.session import Session
from v13.market.intake import Intake
from v13.telemetry import Metrics

__all__ = ["LiveParts", "Parts"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveParts:
    """What a runner on the exchange's feed has besides."""

    feed: BinanceFeed
    inbox: Inbox
    consumer: Consumer
    intake: Callable[[], Intake]  # makes one for a further symbol


@dataclass
class Parts:
    """The parts, and what they were told last.

    Attributes
    ----------
    config : Config
    artifacts : Artifacts
        In force.
    session : Session
    metrics : Metrics
    live : LiveParts or None
        None while a recording is played.
    root : Path
        Relative paths of the settings are below it.
    """

    config: Config
    artifacts: Artifacts
    session: Session
    metrics: Metrics
    live: LiveParts | None
    root: Path = Path()

    def take(self, config: Config, artifacts: Artifacts) -> str:
        """Put a configuration into force from the next bar on that no symbol has seen; tell which and since when.

        Raises
        ------
        StoreError
            The event log refused; nothing has changed.
        ConfigError
            `runner.warm_from` is the own log; nothing has changed.
        """
        refuse_own_log(self.root, config)
        session, live, symbols = self.session, self.live, config.runner.symbols
        lanes = None
        if live is not None and symbols != tuple(session.lanes):
            n_notes = len(session.notes)
            opened = session.open_lanes({s: live.intake() for s in symbols if s not in session.lanes})
            lanes = {s: session.lanes.get(s) or opened[s] for s in symbols}
            for note in session.notes[n_notes:]:
                log.warning("%s", note)
        told = session.active.label
        if not is_same(self.artifacts, artifacts):
            session.reconfigure(artifacts.params, artifacts.calibration, artifacts.document)
            since = datetime.fromtimestamp(session.active.since_ms / 1_000, UTC).isoformat(timespec="milliseconds")
            told = f"{session.active.label}, for bars that end after {since},"
            self.metrics.set("divergence_signed_off", float(artifacts.signed_off))
            if not artifacts.signed_off:
                log.warning("NOT SIGNED OFF: %s", artifacts.why_not)
        if live is not None and lanes is not None:
            session.follow(lanes)
            catch_up(self.root, config, session, opened)
            self.metrics.set_symbols(symbols)
            live.consumer.follow()
            live.feed.set_symbols(symbols)
        self.config, self.artifacts = config, artifacts
        if live is not None:
            live.consumer.grace_ms = config.runner.grace_ms
            live.inbox.limit = config.runner.queue_limit
        return told
