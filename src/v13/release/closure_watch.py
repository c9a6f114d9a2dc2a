"""The closure watcher: closes over and over, and exports how well, for the alerts.

It has a port and metrics of its own: a runner cannot be the judge of its own counters.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from v13.errors import ConfigError, V13Error
from v13.release.closure import Closure
from v13.telemetry.servers import CLOSURE_PORT

__all__ = ["ClosureExporter", "watch"]

ERROR: Final = "divergence_closure_error_ratio"
SUCCESS: Final = "divergence_closure_last_success_timestamp_seconds"


class ClosureExporter:
    """Serves the last closure; a context manager.

    Parameters
    ----------
    host : str
    port : int, 0..65535
        0 lets the system choose.

    Raises
    ------
    ConfigError
        The port is in use, or the address cannot be listened on.

    Notes
    -----
    Nothing is exported before the first closure: an alert on absence tells of a watcher that never came to one, one on
    the age of the last tells of a watcher that stopped.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = CLOSURE_PORT) -> None:
        self._registry = CollectorRegistry()
        self._error: Gauge | None = None
        self._success: Gauge | None = None
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except (OSError, OverflowError) as error:
            why = "the port is in use" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
            raise ConfigError(f"closure: cannot listen on {host} port {port}: {why}; choose another port") from error
        self.port = int(self._server.server_address[1])

    def show(self, closure: Closure, at_s: float) -> None:
        """Export a closure.

        Parameters
        ----------
        closure : Closure
        at_s : float, Unix seconds
        """
        if self._error is None or self._success is None:
            help_error = "Worst unexplained difference of the dashboard's figures and the event log, a share."
            self._error = Gauge(ERROR, help_error, ("family",), registry=self._registry)
            self._success = Gauge(SUCCESS, "Unix time of the last closure.", registry=self._registry)
        for family, error in closure.errors.items():
            self._error.labels(family).set(error)
        self._success.set(at_s)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def watch(
    make: Callable[[], Closure],
    exporter: ClosureExporter,
    say: Callable[[str], None],
    *,
    every_s: float,
    stop: threading.Event,
) -> None:
    """Close at regular times until told to stop.

    Parameters
    ----------
    make : callable
        Makes one closure.
    exporter : ClosureExporter
    say : callable
        Takes one line.
    every_s : float, s
    stop : threading.Event

    Notes
    -----
    What goes wrong is told, and tried again at the next time: Prometheus may be away for a while. The figures of the
    last closure stay, and their age grows.
    """
    while True:
        try:
            closure = make()
            exporter.show(closure, time.time())
            state = "closed" if closure.is_closed else "NOT CLOSED"
            errors = ", ".join(f"{family} {100.0 * error:.2g} %" for family, error in closure.errors.items())
            say(f"{state}: {closure.n_events} divergences; unexplained {errors}")
        except V13Error as error:
            say(f"no closure: {error}")
        if stop.wait(every_s):
            return
