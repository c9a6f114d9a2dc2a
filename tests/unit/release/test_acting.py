"""The right to act: one at a time, of any process, and only with a claim that holds when it is got."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from v13.errors import ReleaseError
from v13.release.acting import acting
from v13.release.ledger import State, SupersededError


def is_held(path: Path) -> bool:
    """Ask over a file description of one's own, as another process would."""
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def test_it_is_held_in_the_block_and_free_afterwards(tmp_path: Path) -> None:
    path, state = tmp_path / "home/acting.lock", State(stable="r1")
    with acting(path, lambda: state) as given:
        assert given is state
        assert is_held(path)
    assert not is_held(path)


def test_the_claim_is_asked_with_the_lock_in_hand(tmp_path: Path) -> None:
    path, seen = tmp_path / "acting.lock", []

    def check() -> State:
        seen.append(is_held(path))
        return State()

    with acting(path, check):
        assert seen == [True]


def test_a_superseded_worker_does_nothing_and_holds_nothing(tmp_path: Path) -> None:
    path, done = tmp_path / "acting.lock", []

    def superseded() -> State:
        raise SupersededError("superseded by rollback r")

    with pytest.raises(SupersededError), acting(path, superseded):
        done.append("something")
    assert done == []
    assert not is_held(path)


def test_an_error_in_the_block_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "acting.lock"
    with pytest.raises(ZeroDivisionError), acting(path, State):
        raise ZeroDivisionError
    assert not is_held(path)


def test_what_a_lock_file_holds_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "acting.lock").write_text("left by another")
    with acting(tmp_path / "acting.lock", State):
        pass
    assert (tmp_path / "acting.lock").read_text() == "left by another"


def test_a_place_where_no_lock_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with (
        pytest.raises(ReleaseError, match=r"acting\.lock: could not be made: .*must be writable"),
        acting(tmp_path / "home/acting.lock", State),
    ):
        pass
