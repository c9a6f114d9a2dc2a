"""The guard's ear: Alertmanager's webhook, checked and bounded, and nothing else.

It believes whoever shows the token, but only in alerts that are young enough to be about what runs now. It decides
nothing and acts on nothing: what it accepts goes into a queue.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from v13.errors import ReleaseError

__all__ = ["Alarm", "Webhook", "read_alarms"]

BODY_BYTES: Final = 262_144
BODY_S: Final = 5.0  # in which a body has to be there
MOST_ALERTS: Final = 500
MOST_WAITING: Final = 1_000
FUTURE: Final = timedelta(seconds=60)  # by which clocks may differ
VERSION: Final = "4"  # of Alertmanager's webhook format
ACTION: Final = "rollback"
JSON_TYPE: Final = "application/json"
_WORD: Final = re.compile(r"[\w.:-]{0,256}", re.ASCII)  # names go into a query


@dataclass(frozen=True)
class Alarm:
    """One firing alert whose action is rollback.

    Attributes
    ----------
    name : str
    instance : str
        host:port of the runner; empty where the alert has none.
    slo : str
    summary : str
    starts : datetime, UTC
    fingerprint : str
        With `starts` it names one occurrence.
    """

    name: str
    instance: str
    slo: str
    summary: str
    starts: datetime
    fingerprint: str


def read_alarms(document: Any) -> list[Alarm]:
    """Return the firing alerts of a notification whose action is rollback.

    Raises
    ------
    ReleaseError
        It is not what Alertmanager sends.
    """
    try:
        if document["version"] != VERSION:
            raise ReleaseError(f"expected version {VERSION} of Alertmanager's webhook, found {document['version']!r}")
        alerts = document["alerts"]
        if not isinstance(alerts, list) or len(alerts) > MOST_ALERTS:
            raise ReleaseError(f"expected at most {MOST_ALERTS} alerts")
        found = []
        for one in alerts:
            labels, starts = one["labels"], datetime.fromisoformat(one["startsAt"])
            texts = (labels["alertname"], labels.get("instance", ""), labels.get("slo", ""), one["fingerprint"])
            if not all(isinstance(text, str) and _WORD.fullmatch(text) for text in texts) or starts.tzinfo is None:
                raise ReleaseError("expected labels of plain words and a time with its zone")
            if one["status"] == "firing" and labels.get("action") == ACTION:
                summary = "".join(
                    c if c.isprintable() else "?" for c in str(one.get("annotations", {}).get("summary", ""))
                )
                summary = summary[:500]
                found.append(Alarm(texts[0], texts[1], texts[2], summary, starts.astimezone(UTC), texts[3]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReleaseError(f"not what Alertmanager sends: {type(error).__name__}") from error
    return found


class Webhook:
    """Listens on a port of its own, from a thread of its own; a context manager.

    Parameters
    ----------
    host : str
    port : int, 0..65535
        0 lets the system choose.
    token : str
        What the sender has to show as a bearer.
    since : callable
        Returns the time since when what runs now runs: an alert that began before is not about it.
    now : callable
        The clock.

    Attributes
    ----------
    port : int
    alarms : queue.Queue of Alarm
        What was accepted; each occurrence once.

    Raises
    ------
    ReleaseError
        The port is taken, or the token is empty.

    Notes
    -----
    Answers: 200 accepted (or known already), 400 not Alertmanager's, 401 no or another token, 404 and 405 for anything
    else, 408 a body that does not come, 409 all alerts are stale or of the future, 413 too large, 415 no JSON, 503 too
    many wait. Alertmanager tries again after a 5xx.
    """

    def __init__(
        self, host: str, port: int, token: str, *, since: Callable[[], datetime], now: Callable[[], datetime]
    ) -> None:
        if not token:
            raise ReleaseError("the guard's token is empty; remove its file and let `v13 deploy` make another")
        self.port = port
        self.alarms: queue.Queue[Alarm] = queue.Queue(MOST_WAITING)
        self._host = host
        self._token = token.encode()
        self._since, self._now = since, now
        self._seen: dict[tuple[str, datetime], None] = {}
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._is_up = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait()
        if self._error is not None:
            self._thread.join()
            self._loop.close()
            raise ReleaseError(
                f"guard: cannot listen on {self._host} port {self.port}: {self._error.strerror}; is another guard "
                "running? deploy.guard_port chooses another port"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _live(self) -> None:
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/alerts", self._take)
        app.router.add_get("/-/healthy", self._healthy)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, keepalive_timeout=15.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self.port).start()
            self.port = int(runner.addresses[0][1])
        except OSError as error:
            self._error = error
        self._is_up.set()
        if self._error is None:
            await self._over.wait()
        await runner.cleanup()

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="the guard listens\n")

    async def _take(self, request: web.Request) -> web.Response:
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(shown.encode("utf-8", "replace"), self._token):
            return web.Response(status=401, text="expected the guard's token\n")
        if request.content_type != JSON_TYPE:
            return web.Response(status=415, text=f"expected {JSON_TYPE}\n")
        try:
            async with asyncio.timeout(BODY_S):
                raw = await request.read()
            alarms = read_alarms(json.loads(raw))
        except TimeoutError:
            return web.Response(status=408, text="the body did not come\n")
        except (ReleaseError, ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")
        since, latest = self._since(), self._now() + FUTURE
        fitting = [alarm for alarm in alarms if since <= alarm.starts <= latest]
        if alarms and not fitting:
            return web.Response(status=409, text="these alerts are not about what runs now\n")
        for alarm in fitting:
            occurrence = (alarm.fingerprint, alarm.starts)
            if occurrence in self._seen:
                continue
            try:
                self.alarms.put_nowait(alarm)
            except queue.Full:
                return web.Response(status=503, text="too many alerts wait\n")
            self._seen[occurrence] = None
            if len(self._seen) > MOST_WAITING:
                self._seen.pop(next(iter(self._seen)))
        return web.Response(text=f"{len(fitting)} taken\n")
