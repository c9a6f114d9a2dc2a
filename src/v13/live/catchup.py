"""Catching up: a lane that opens first takes the bars another runner on the same feed has that it does not.

They go the way of bars from the feed: detector, events, outcomes, one commit. Only the time they took is counted
nowhere. What is wrong with the other log is told, and never keeps a runner from starting or a symbol from coming.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from v13.config import Config
from v13.detector.engine import check_bars, check_spacing
from v13.errors import ConfigError, DataError, StoreError
from v13.live.session import Session
from v13.store.event_catchup import is_same_log, read_leads

__all__ = ["catch_up", "refuse_own_log"]

log = logging.getLogger(__name__)


def refuse_own_log(root: Path, config: Config) -> None:
    """Refuse a runner that would catch up from itself.

    Raises
    ------
    ConfigError
        `runner.warm_from` leads to the file of `runner.log`.
    """
    own = config.runner
    if own.warm_from is not None and is_same_log(root / own.log, root / own.warm_from):
        raise ConfigError(
            f"runner.warm_from: {own.warm_from} is this runner's own log (runner.log: {own.log}); name the log of "
            "another runner on the same feed, or null"
        )


def catch_up(root: Path, config: Config, session: Session, symbols: Iterable[str]) -> None:
    """Take the bars that `runner.warm_from` has and the session's log does not; nothing where that is null.

    The intakes then stand where those of the other runner stood, so the next trade of the feed shows by its id what
    was traded since.

    Parameters
    ----------
    root : Path
        Relative paths of the settings are below it.
    config : Config
    session : Session
        Not stalled. Where its log refuses the bars it holds them, stalled, and tries again.
    symbols : iterable of str
        Lanes of the session that hold no message yet.
    """
    if config.runner.warm_from is None:
        return
    path = root / config.runner.warm_from
    lanes = {symbol: session.lanes[symbol] for symbol in symbols}
    try:
        leads = read_leads(path, {s: lane.ts_ms for s, lane in lanes.items()}, session.active.params.features.bar_ms)
    except StoreError as error:
        log.warning("not caught up, the own log has to do: %s", error)
        return
    taken: dict[str, NDArray[Any]] = {}
    for symbol, lead in leads.items():
        try:
            check_bars(lead.bars, lanes[symbol].ts_ms)
            check_spacing(lead.bars, session.active.params.features.bar_ms)
            lanes[symbol].intake.restore(lead.intake)
        except DataError as error:
            log.warning("%s is not caught up from %s, the own log has to do: %s", symbol, path, error)
            continue
        taken[symbol] = lead.bars
    try:
        session.advance(taken, is_timed=False)
    except StoreError as error:
        log.error("%s; what was caught up waits until the log accepts it", error)
    for symbol in lanes:
        if symbol in taken:
            bars = taken[symbol]
            log.info("%s: caught up by %d bars, until %d, from %s", symbol, bars.size, bars["ts_ms"][-1], path)
        elif symbol not in leads:
            log.info("%s: nothing to catch up by in %s", symbol, path)
