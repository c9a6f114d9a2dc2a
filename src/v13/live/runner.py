"""The runner: feed, session, exporter and reload put together, started, watched and stopped in order.

It decides nothing about bars or events; it owns the parts, their order of birth and death, and what is said of health.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from v13.config import Config, Loaded
from v13.detector import SessionClock
from v13.errors import ConfigError, V13Error
from v13.live.artifacts import Artifacts, read_artifacts
from v13.live.backfill import AggTradeRest
from v13.live.binance import ENDPOINTS, BinanceFeed, FeedSettings
from v13.live.catchup import catch_up, refuse_own_log
from v13.live.clock import SystemClock
from v13.live.consumer import Consumer
from v13.live.hold import play_held
from v13.live.inbox import Inbox
from v13.live.notify import Notifier
from v13.live.reload import ExtraFile, Reloader
from v13.live.reload_parts import LiveParts, Parts
from v13.live.replay import play
from v13.live.session import KEPT_TIMES, Session, keep_bars
from v13.market import QualityPolicy, ReadPolicy, frames
from v13.market import intake as intakes
from v13.market.intake import Intake
from v13.market.playback import Playback, open_playback
from v13.store.event_log import EventLog
from v13.telemetry import Exporter, Health, Metrics, start_exporter
from v13.telemetry.slo import SloTable, load_slo

__all__ = ["Replay", "run"]

log = logging.getLogger(__name__)

SLO_TABLE: Final = Path("config", "slo.yaml")
WATCH_S: Final = 0.25  # between looks at warmth and staleness
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Replay:
    """Recordings to play instead of the exchange's feed; speed None: as fast as it goes; held: see `live.hold`."""

    paths: tuple[Path, ...]
    speed: float | None = None
    symbols: tuple[str, ...] = ()  # of those in the recordings; none: all
    is_held: bool = False


class _State:
    """What the exporter's threads may read; replaced as a whole by the runner's."""

    def __init__(self) -> None:
        self.health = Health(healthy=True, ready=False, reason="starting")


def run(
    root: Path,
    load: Callable[[], Loaded],
    *,
    replay: Replay | None = None,
    say: Callable[[str], None] = log.info,
) -> None:
    """Run until the recording ends or a SIGTERM or SIGINT comes; a SIGHUP has the configuration read again.

    Parameters
    ----------
    root : Path
        Folder that holds config/; relative paths of the settings are below it.
    load : callable
        Reads the settings: now, and whenever one of their files has changed.
    replay : Replay or None
        None: the live feed.
    say : callable
        Takes one line for whoever started it.

    Raises
    ------
    ConfigError, DataError, StoreError
        Something is wrong with the settings, the recording or the log; nothing was started.
    """
    asyncio.run(_run(root, load, replay, say))


async def _run(root: Path, load: Callable[[], Loaded], replay: Replay | None, say: Callable[[str], None]) -> None:
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)  # or it would end the process
    loaded = load()
    config = loaded.config
    settings = config.runner
    artifacts = read_artifacts(root, config)
    playbacks = _open(replay, config, artifacts)
    symbols = tuple(playbacks or settings.symbols)
    metrics = Metrics(config.search.horizons_bars, symbols)
    clock = SystemClock(on_step=lambda _: metrics.inc("divergence_clock_steps_total"))
    notifier = Notifier()
    state = _State()
    with ExitStack() as stack:
        events = stack.enter_context(
            EventLog(
                root / settings.log,
                keep_bars=KEPT_TIMES * keep_bars(artifacts.params),
                n_may_wait=len(symbols) * settings.checkpoint_bars,
                now_ms=clock.wall_ms,
            )
        )
        refuse_own_log(root, config)
        session = Session(
            _intakes(symbols, config, artifacts, playbacks),
            artifacts.params,
            artifacts.calibration,
            artifacts.document,
            log=events,
            metrics=metrics,
            clock=clock,
            sessions=SessionClock(config.sessions.timezone, config.sessions.day_start, config.sessions.day_end),
            horizons=config.search.horizons_bars,
            checkpoint_bars=settings.checkpoint_bars,
        )
        for note in session.notes:
            log.warning("%s", note)
        catch_up(root, config, session, symbols)
        _tell_artifacts(metrics, artifacts, clock, say)
        parts = Parts(config, artifacts, session, metrics, None, root)

        def signoff_age_s() -> float:
            made_ms = parts.artifacts.signed_ms
            return (clock.wall_ms() - made_ms) / 1e3 if made_ms else 0.0

        metrics.bind("divergence_signoff_age_seconds").set_function(signoff_age_s)
        exporter = stack.enter_context(_exporter(root, config, metrics, state))
        say(f"metrics: {exporter.host}:{exporter.port}/metrics")
        work: Any
        if playbacks is not None:
            speed = replay.speed if replay else None
            begin = partial(play, session, playbacks, metrics=metrics, clock=clock, speed=speed)
            work = play_held(begin, say) if replay and replay.is_held else begin()
        else:
            inbox = Inbox(settings.queue_limit, metrics)
            feed = _feed(config, symbols, inbox, metrics, clock)
            consumer = Consumer(
                session,
                inbox,
                feed,
                metrics=metrics,
                clock=clock,
                has_exchange_time=settings.market == "usdm",
                grace_ms=settings.grace_ms,
            )
            work = _live(feed, consumer)
            bar_ms, max_gap_ms = artifacts.params.features.bar_ms, config.market.max_gap_ms
            parts.live = LiveParts(feed, inbox, consumer, lambda: Intake(bar_ms, max_gap_ms))
        reloader = Reloader(
            root,
            loaded,
            artifacts,
            load=load,
            take=parts.take,
            asked=hangup,
            metrics=metrics,
            clock=clock,
            is_replay=parts.live is None,
            extra=_slo_table(root),
        )
        stop = asyncio.Event()
        for number in STOP_SIGNALS:  # until here a signal ends the process at once: there is nothing to put in order
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        watchers = (
            asyncio.create_task(_watch(parts, state, clock, notifier), name="the watch"),
            asyncio.create_task(reloader.run(), name="the reload"),
        )
        intakes.preload()
        frames.preload()
        gc.collect()
        gc.freeze()  # what is there by now stays: to look through it again would hold up the feed for 0.2 s
        worker = asyncio.create_task(work, name="the feed")
        notifier.ready(f"following {len(symbols)} symbols")
        try:
            ends = (worker, asyncio.create_task(stop.wait()), *watchers)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            notifier.stopping()
            state.health = Health(healthy=True, ready=False, reason="stopping")
            errors = await _stop((worker, *watchers), parts.config.runner.stop_s)
            if not session.is_stalled:
                with suppress(V13Error):
                    session.checkpoint()
        if errors:
            raise errors[0]
        n_events = sum(events.tallies().events.values())
        say(f"stopped: {n_events} divergences in {root / settings.log}")


async def _live(feed: BinanceFeed, consumer: Consumer) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.run())
            group.create_task(consumer.run())
    except asyncio.CancelledError:
        consumer.drain()  # the feed is closed: what it brought is still taken
        raise


async def _stop(tasks: Sequence[asyncio.Task[None]], seconds: float) -> list[BaseException]:
    """Cancel what still works and wait for its end; return what went wrong, first things first."""
    for task in tasks:
        task.cancel()
    done, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        log.error("%s did not end within %g s", task.get_name(), seconds)
    errors = [task.exception() for task in tasks if task in done and not task.cancelled()]
    return [error for error in errors if error is not None]


async def _watch(parts: Parts, state: _State, clock: SystemClock, notifier: Notifier) -> None:
    """Say, over and over, whether the runner is ready, and keep the watchdog fed."""
    session, metrics = parts.session, parts.metrics
    feed = None if parts.live is None else parts.live.feed
    ready, active = metrics.bind("divergence_ready"), metrics.bind("divergence_active_symbols")
    fed_ns = 0
    while True:
        stale_s = parts.config.feed.stale_s
        stale = set() if feed is None else {s for s in feed.symbols if feed.staleness_s(s) > stale_s}
        why = []
        if session.is_stalled:
            why.append("the event log does not accept anything (see divergence_store_ok)")
        if feed is not None and not feed.connected:
            why.append("the feed is not connected")
        if stale:
            why.append(f"nothing heard for {stale_s:g} s of {', '.join(sorted(stale))}")
        still = set() if parts.live is None else parts.live.consumer.standing_still()
        if still:
            why.append(
                f"messages come and no bar is over any more (exchange clock set back?): {', '.join(sorted(still))}"
            )
        cold = [s for s, lane in session.lanes.items() if not lane.is_warm]
        if cold:
            why.append(f"warming up: {', '.join(sorted(cold))}")
        state.health = Health(healthy=True, ready=not why, reason="; ".join(why))
        ready.set(float(not why))
        active.set(float(len(session.lanes.keys() - stale - still - set(cold))))
        if notifier.watchdog_s is not None and clock.monotonic_ns() >= fed_ns:
            notifier.alive("ready" if not why else "; ".join(why))
            fed_ns = clock.monotonic_ns() + int(notifier.watchdog_s / 3 * 1e9)
        await clock.sleep(WATCH_S)


def _open(replay: Replay | None, config: Config, artifacts: Artifacts) -> dict[str, Playback] | None:
    """Open the recordings, if any, and refuse parameters of another bar length."""
    bar_ms = artifacts.params.features.bar_ms
    if replay is None:
        return None
    quality = config.market.quality.model_dump()
    policy = ReadPolicy(bar_ms=bar_ms, max_gap_ms=config.market.max_gap_ms, quality=QualityPolicy(**quality))
    found = open_playback(list(replay.paths), policy=policy)
    missing = sorted(set(replay.symbols) - set(found))
    if missing:
        raise ConfigError(f"--symbols: the recordings hold {', '.join(found)}, not {', '.join(missing)}")
    return {s: p for s, p in found.items() if not replay.symbols or s in replay.symbols}


def _intakes(
    symbols: tuple[str, ...], config: Config, artifacts: Artifacts, playbacks: dict[str, Playback] | None
) -> dict[str, Intake]:
    bar_ms = artifacts.params.features.bar_ms
    made = {}
    for symbol in symbols:
        playback = playbacks[symbol] if playbacks else None
        made[symbol] = Intake(
            bar_ms,
            config.market.max_gap_ms,
            has_trades=playback is None or playback.has_trades,
            has_quotes=playback is None or playback.has_quotes,
        )
    return made


def _feed(config: Config, symbols: tuple[str, ...], inbox: Inbox, metrics: Metrics, clock: SystemClock) -> BinanceFeed:
    market, own = config.runner.market, config.feed
    ws_url, rest_url = ENDPOINTS[market]
    settings = FeedSettings(
        market=market,
        ws_url=own.ws_url or ws_url,
        rest_url=own.rest_url or rest_url,
        backoff_min_s=own.backoff_min_s,
        backoff_max_s=own.backoff_max_s,
        idle_s=own.idle_s,
        connect_timeout_s=own.timeout_s,
        answer_timeout_s=own.timeout_s,
        rest_timeout_s=own.timeout_s,
        max_frame_bytes=own.max_frame_bytes,
        rotate_after_s=own.rotate_s,
        stale_after_s=own.stale_s,
    )
    rest = AggTradeRest(market, settings.rest_url, clock, timeout_s=settings.rest_timeout_s)
    return BinanceFeed(settings, symbols, inbox, metrics, clock, rest)


def _exporter(root: Path, config: Config, metrics: Metrics, state: _State) -> Exporter:
    own = config.exporter
    tls = None if own.tls_cert is None or own.tls_key is None else (root / own.tls_cert, root / own.tls_key)
    auth = None
    if own.user is not None and own.password_file is not None:
        try:
            password = (root / own.password_file).read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise ConfigError(
                f"exporter.password_file: {own.password_file}: cannot be read: {error.strerror}"
            ) from error
        auth = own.user, hashlib.sha256(password.encode()).hexdigest()
    return start_exporter(metrics, lambda: state.health, own.host, own.port, tls=tls, auth=auth)


def _slo_table(root: Path) -> tuple[ExtraFile, ...]:
    """Return the SLO table, where the project has one: a bad one is told at once, a good one is for the rules.

    The runner itself judges nothing by it; Prometheus does, by rules that are built from it.
    """
    path = root / SLO_TABLE
    if not path.is_file():
        return ()

    def take(_: SloTable) -> None:
        log.warning("%s changed: build the rules anew (`v13 monitoring build`) and reload Prometheus", path)

    return (ExtraFile(path, load_slo, take, load_slo(path)),)


def _tell_artifacts(metrics: Metrics, artifacts: Artifacts, clock: SystemClock, say: Callable[[str], None]) -> None:
    metrics.set("divergence_signed_off", float(artifacts.signed_off))
    metrics.set("divergence_config_last_reload_successful", 1.0)
    metrics.set("divergence_config_last_reload_success_timestamp_seconds", clock.wall_ms() / 1e3)
    if not artifacts.signed_off:
        say(f"NOT SIGNED OFF: {artifacts.why_not}")
