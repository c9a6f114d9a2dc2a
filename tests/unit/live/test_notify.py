"""sd_notify(3) on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from v13.live.notify import Notifier


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(place: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(place)
        sock.settimeout(10)
        yield sock


def test_readiness_life_and_stop_are_said_in_the_words_of_systemd(manager: socket.socket, place: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": place})
    notifier.ready("following 2 symbols")
    notifier.alive("ready")
    notifier.stopping()
    said = [manager.recv(4_096) for _ in range(3)]
    assert said == [b"READY=1\nSTATUS=following 2 symbols", b"WATCHDOG=1\nSTATUS=ready", b"STOPPING=1"]


def test_an_abstract_socket_is_reached(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{tmp_path.name}-notify")
        sock.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{tmp_path.name}-notify"}).stopping()
        assert sock.recv(4_096) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),  # nobody to tell
        ({"NOTIFY_SOCKET": "/run/x"}, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # of a parent
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_where_one_waits_for_us(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Notifier(environ).watchdog_s == watchdog_s


def test_without_systemd_or_with_a_dead_one_nothing_is_said_and_nothing_fails(place: str) -> None:
    Notifier({}).ready("")
    Notifier({"NOTIFY_SOCKET": place}).ready("")


def test_a_manager_that_does_not_listen_holds_nobody_up(manager: socket.socket, place: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": place})
    for number in range(10_000):  # far more than a socket holds
        notifier.alive(str(number))
    assert manager.recv(4_096) == b"WATCHDOG=1\nSTATUS=0"
