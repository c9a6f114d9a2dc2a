"""Ports of this machine: who listens on one, as /proc tells it, and one that is free; read only.

Processes of other users may hide what they hold: then the holder stays unknown, and is never taken for one of ours.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Holder", "free_port", "holder", "is_free"]

PROC: Final = Path("/proc")
TABLES: Final = ("net/tcp", "net/tcp6")
LISTEN: Final = "0A"
MAX_SHOWN: Final = 80  # characters of a command line
CONNECTIONS: Final = "sys/net/ipv4/ip_local_port_range"
FIRST_PORT: Final = 10_000  # below are services
FIRST_OF_CONNECTIONS: Final = 32_768  # where the kernel does not say: Linux's own; others begin later
TRIES: Final = 1_000


class Holder(NamedTuple):
    """A process that listens on a port."""

    pid: int
    command: str


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there now; nothing listens afterwards.

    Raises
    ------
    OSError
        The address is none of this machine, or the port may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody has now, and that the kernel gives to no connection either.

    One out of the kernel's own hands is as good as taken: any connection of any program may get it until it is used.

    Raises
    ------
    OSError
        There is none, or the address is none of this machine.
    """
    try:
        end = int((PROC / CONNECTIONS).read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        end = FIRST_OF_CONNECTIONS
    if end <= FIRST_PORT:  # a machine that has set it so
        end = 1 << 16
    for _ in range(TRIES):
        port = FIRST_PORT + secrets.randbelow(end - FIRST_PORT)
        if is_free(host, port):
            return port
    raise OSError(errno.EADDRINUSE, f"{host}: none of {TRIES} ports from {FIRST_PORT} to {end} is free")


def holder(port: int) -> Holder | None:
    """Return the process that listens on a port; None where nobody does, or that cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return None
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # gone meanwhile, or of another user
            for handle in (folder / "fd").iterdir():
                with suppress(OSError):
                    if str(handle.readlink()) in wanted:
                        return Holder(int(folder.name), _command(folder))
    return None


def _inodes(port: int) -> set[str]:
    found = set()
    for name in TABLES:
        with suppress(OSError):
            for line in (PROC / name).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _command(folder: Path) -> str:
    """Return the program's name and no arguments: those of strangers may hold secrets, and evidence is kept."""
    words = (folder / "cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(words[0])).name[:MAX_SHOWN] or "?"
