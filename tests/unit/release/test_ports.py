"""Free ports: none that a connection of anybody could be given before it is used."""

from __future__ import annotations

import errno
import secrets
import socket
from pathlib import Path

import pytest

from v13.release import ports
from v13.release.ports import FIRST_PORT, free_port, is_free


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which only the range of connections stands, or does not."""
    monkeypatch.setattr(ports, "PROC", tmp_path)
    place = tmp_path / ports.CONNECTIONS
    place.parent.mkdir(parents=True)
    return place


def test_a_free_port_can_be_listened_on_and_lies_below_those_of_connections() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        of_connections = connection.getsockname()[1]
    for port in {free_port() for _ in range(50)}:
        assert FIRST_PORT <= port < of_connections
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("said", "first", "end"),
    [
        ("20000\t60999\n", FIRST_PORT, 20_000),
        (None, FIRST_PORT, 32_768),
        ("", FIRST_PORT, 32_768),
        ("1024 65535\n", FIRST_PORT, 65_536),
    ],
)
def test_the_range_is_what_the_kernel_says(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, first: int, end: int
) -> None:
    if said is not None:
        kernel.write_text(said)
    drawn: list[int] = []

    def last(n: int) -> int:
        drawn.append(n)
        return n - 1

    monkeypatch.setattr(secrets, "randbelow", last)
    monkeypatch.setattr(ports, "is_free", lambda *_: True)
    assert free_port() == end - 1
    assert drawn == [end - first]


def test_a_taken_port_is_passed_over_and_none_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        at = taken.getsockname()[1] - FIRST_PORT
        draws = iter([at, at, at + 1])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
        monkeypatch.setattr(ports, "is_free", lambda host, port: port == at + FIRST_PORT + 1 or is_free(host, port))
        assert free_port() == at + FIRST_PORT + 1
        monkeypatch.setattr(secrets, "randbelow", lambda _: at)
        with pytest.raises(OSError, match="none of 1000 ports") as none:
            free_port()
    assert none.value.errno == errno.EADDRINUSE
