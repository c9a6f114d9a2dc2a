"""What systemd is told: that the runner is ready, alive or stopping (sd_notify(3)); nothing without systemd."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """Speaks the sd_notify protocol.

    Parameters
    ----------
    environ : mapping
        NOTIFY_SOCKET says where to; WATCHDOG_USEC how often `alive` is expected.

    Notes
    -----
    sd_notify(3): datagrams of `NAME=value` lines to a Unix socket; a leading `@` stands for the abstract namespace. A
    message that cannot be delivered is lost: the service manager is no reason to stop.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and is_ours and self._address else None

    def ready(self, status: str) -> None:
        """Say that the service is up."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """Feed the watchdog."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Say that an orderly stop has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)  # a manager that does not listen must not hold up the runner
                sock.sendto(text.encode(), self._address)
