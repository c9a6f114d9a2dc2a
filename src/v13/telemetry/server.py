"""The exporter's HTTP server: who is let in, what each path answers, and that no client holds it up.

Each client has a thread; there are at most MAX_CLIENTS, and none lives longer than CLIENT_S.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import hmac
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, NamedTuple

from prometheus_client.exposition import gzip_accepted

from v13.errors import ConfigError
from v13.telemetry.metrics import Metrics

__all__ = ["BasicAuth", "Certificate", "Health", "Server", "TLSFiles"]

CLIENT_S: Final = 10.0  # Prometheus gives up on a scrape after 10 s by default
MAX_CLIENTS: Final = 32
GZIP_LEVEL: Final = 1  # an eighth of the size; level 9 saves another sixth of that, in ten times the time

_TEXT: Final = "text/plain; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_PATHS: Final = ("/metrics", "/-/healthy", "/-/ready")

_log = logging.getLogger(__name__)


class Health(NamedTuple):
    """What the runner says of itself.

    Attributes
    ----------
    healthy : bool
        False when only a restart can help.
    ready : bool
        True when warm and fed.
    reason : str
        Why not, for people.
    """

    healthy: bool
    ready: bool
    reason: str = ""


class TLSFiles(NamedTuple):
    """Certificate chain and unencrypted private key, PEM. Renewed files are taken at the next connection."""

    cert: Path
    key: Path


class BasicAuth(NamedTuple):
    """A user and the SHA-256 of his password, 64 hexadecimal digits: `printf %s PASSWORD | sha256sum`.

    The digest has no salt: take a long random password. Without TLS the password travels in clear.
    """

    user: str
    password_sha256: str


class Certificate:
    """A TLS context that follows its files, as certificates are renewed while a runner runs for months."""

    def __init__(self, files: TLSFiles) -> None:
        self._files = files
        self._stamp = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context of the files as they are; the one before where they cannot be used."""
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._context, self._stamp = self._load(), stamp
        except ConfigError as error:
            _log.warning("the TLS files changed and cannot be used, the old ones stay: %s", error)
        return self._context

    def _look(self) -> list[tuple[int, int, int]]:
        try:
            return [(s.st_mtime_ns, s.st_size, s.st_ino) for s in (path.stat() for path in self._files)]
        except OSError as error:
            raise ConfigError(f"exporter: TLS file cannot be read: {error}") from error

    def _load(self) -> ssl.SSLContext:
        def refuse() -> str:  # else OpenSSL would ask at the terminal, and wait
            raise ConfigError(f"{self._files.key}: the exporter takes no encrypted key: decrypt it, mode 0600")

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(*self._files, password=refuse)
        except OSError as error:  # an SSLError is one
            cert, key = self._files
            raise ConfigError(f"exporter: {cert} and {key} are no certificate and key that fit: {error}") from error
        return context


class Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True  # else a restart within a minute finds its own port in use
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        family: int,
        address: Any,
        metrics: Metrics,
        health: Callable[[], Health],
        certificate: Certificate | None,
        auth: BasicAuth | None,
    ) -> None:
        self.address_family = family
        self.metrics, self.health, self.certificate, self.auth = metrics, health, certificate, auth
        self._clients: dict[socket.socket, float] = {}  # and when each came
        self._clients_lock = threading.Lock()
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a client when there are too many; the slow ones leave in time."""
        with self._clients_lock:
            is_room = len(self._clients) < MAX_CLIENTS
            if is_room:
                self._clients[request] = time.monotonic()
        if not is_room:
            _log.debug("too many clients: %s refused", client_address)
        return is_room

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one client in its own thread; the TLS handshake too, so that a silent client blocks nobody."""
        request.settimeout(CLIENT_S)
        if self.certificate is None:
            super().finish_request(request, client_address)
            return
        # Wrapping takes the descriptor out of the plain socket; the handshake comes after, else nobody could end it.
        with self._clients_lock:
            came = self._clients.pop(request)
            wrapped = self.certificate.context().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            self._clients[wrapped] = came
        try:
            wrapped.do_handshake()
            super().finish_request(wrapped, client_address)
        finally:
            self.shutdown_request(wrapped)

    def shutdown_request(self, request: Any) -> None:
        """Forget a client and close its connection."""
        with self._clients_lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on clients that take longer than CLIENT_S in all, however they drip."""
        self.hang_up(time.monotonic() - CLIENT_S)

    def hang_up(self, came_before: float = float("inf")) -> None:
        """Hang up on the clients that came before a time; their threads end by themselves."""
        with self._clients_lock:
            for client in [client for client, came in self._clients.items() if came < came_before]:
                try:
                    # The plain one: an SSLSocket's shutdown takes the session away from under its thread.
                    socket.socket.shutdown(client, socket.SHUT_RDWR)
                except OSError as error:
                    _log.debug("a client was gone already: %s", error)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """Log a connection that broke; the client sees it by itself."""
        _log.debug("connection with %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "v13", ""
    wbufsize, disable_nagle_algorithm = -1, True  # one packet, at once

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if not self._is_let_in():
            self._answer(401, "user and password, please\n", {"WWW-Authenticate": 'Basic realm="v13", charset="UTF-8"'})
        elif path not in _PATHS:
            self._answer(404, "there are " + ", ".join(_PATHS) + "\n")
        else:
            try:
                status, body, headers = self._metrics() if path == _PATHS[0] else self._health(path)
            except Exception:  # whatever a gauge's own function raises costs this one answer, not the exporter
                _log.exception("%s failed", path)
                status, body, headers = 500, "the runner could not tell; see its log\n", {}
            self._answer(status, body, headers)

    do_HEAD = do_GET

    def _metrics(self) -> tuple[int, bytes, dict[str, str]]:
        openmetrics = _accepts_openmetrics(self.headers.get("Accept", ""))
        body = self.server.metrics.expose(openmetrics=openmetrics)
        headers = {"Content-Type": _OPENMETRICS if openmetrics else _PROMETHEUS, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(self.headers.get("Accept-Encoding", "")):
            body, headers["Content-Encoding"] = gzip.compress(body, GZIP_LEVEL), "gzip"
        return 200, body, headers

    def _health(self, path: str) -> tuple[int, str, dict[str, str]]:
        health = self.server.health()
        well = health.healthy and (health.ready or path == "/-/healthy")
        return (200, "ok\n", {}) if well else (503, f"{health.reason or 'no reason given'}\n", {})

    def _is_let_in(self) -> bool:
        auth = self.server.auth
        if auth is None:
            return True
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        digest = hashlib.sha256(password).hexdigest()
        # Both are compared, in constant time: how long it takes tells nothing.
        is_user = hmac.compare_digest(user, auth.user.encode())
        is_password = hmac.compare_digest(digest, auth.password_sha256.lower())
        return scheme.lower() == "basic" and is_user and is_password

    def _answer(self, status: int, body: str | bytes, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Type": _TEXT, "Cache-Control": "no-store", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Log requests where debugging is on, as Prometheus asks all day."""
        _log.debug(format, *args)


def _accepts_openmetrics(accept: str) -> bool:
    """Tell whether a client takes OpenMetrics 1.0; one that does has it first (all Prometheus versions)."""
    for offer in accept.split(","):
        media, *parameters = (part.strip().lower() for part in offer.split(";"))
        versions = [parameter for parameter in parameters if parameter.startswith("version=")]
        if media == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
            return True
    return False
