"""The HTTP side of telemetry: /metrics, /-/healthy and /-/ready, on threads of their own.

It shows what it is given and changes nothing. TLS 1.2 and later, and basic authentication for every path, on demand.
"""

from __future__ import annotations

import errno
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from v13.errors import ConfigError
from v13.telemetry.metrics import Metrics
from v13.telemetry.server import BasicAuth, Certificate, Health, Server, TLSFiles

__all__ = ["BasicAuth", "Exporter", "Health", "TLSFiles", "start_exporter"]

POLL_S: Final = 0.1  # between looks for slow clients; the longest `close` waits for the server's thread


class Exporter:
    """A running exporter; close it, or use it as a context manager.

    Attributes
    ----------
    host : str
        The address it listens on.
    port : int
        The port it listens on; the one the system chose where 0 was asked for.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.host = str(server.server_address[0])
        self.port = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="exporter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on every client. A second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def start_exporter(
    metrics: Metrics,
    health: Callable[[], Health],
    host: str = "127.0.0.1",
    port: int = 8003,
    *,
    tls: TLSFiles | tuple[str | Path, str | Path] | None = None,
    auth: BasicAuth | tuple[str, str] | None = None,
) -> Exporter:
    """Serve the metrics and the health of a runner; returns when the port is open.

    Parameters
    ----------
    metrics : Metrics
        Resume counters before, see `Metrics`.
    health : callable
        Asked at each request, in a thread of the exporter: it must not touch what only the runner's thread may.
    host : str
        Name or address to listen on, IPv4 or IPv6.
    port : int, 0..65535
        0 lets the system choose.
    tls : pair of paths, optional
        Certificate chain and key: HTTPS instead of HTTP.
    auth : (user, SHA-256 of the password), optional
        Basic authentication, asked of every path.

    Raises
    ------
    ConfigError
        The address cannot be listened on, TLS files cannot be used, or the digest is no SHA-256.

    Notes
    -----
    /metrics is the Prometheus text format 0.0.4, or OpenMetrics 1.0 where `Accept` has it; gzip where accepted.
    /-/healthy and /-/ready answer 200 `ok`, or 503 with the reason.
    """
    login = None if auth is None else BasicAuth(*auth)
    if login is not None and (":" in login.user or not re.fullmatch(r"[0-9a-fA-F]{64}", login.password_sha256)):
        raise ConfigError(
            "exporter: basic auth takes a user without ':' and the SHA-256 of the password, 64 hex digits"
        )
    certificate = None if tls is None else Certificate(TLSFiles(Path(tls[0]), Path(tls[1])))
    where = f"exporter: cannot listen on {host} port {port}"
    if not 0 <= port <= 65_535:  # the resolver would take it modulo 65,536
        raise ConfigError(f"{where}: there are ports from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return Exporter(Server(family, address, metrics, health, certificate, login))
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"{where}: {error}; give a name or address of this machine") from error
    except OSError as error:
        advice = {
            errno.EADDRINUSE: f"the port is in use, perhaps by another runner: `ss -ltnp 'sport = :{port}'` shows by"
            " whom; stop that or choose another port",
            errno.EADDRNOTAVAIL: "this machine has no such address",
            errno.EACCES: "ports below 1024 need privileges: choose a higher one",
        }
        raise ConfigError(f"{where}: {advice.get(error.errno or 0, error)}") from error
