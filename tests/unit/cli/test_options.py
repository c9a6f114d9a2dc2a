"""What all commands share."""

from __future__ import annotations

import io

import pytest

from v13.cli.options import log


class Deaf(io.StringIO):
    """A pipe whose reader is gone, such as the supervisor of a guard."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_line_that_nobody_can_read_any_more_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Deaf())
    log("the supervisor is gone; starting it again")
