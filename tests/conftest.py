"""What every test may ask for: the real recordings, and a clean seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared" / "data"
# Files that take minutes, the longest first: begun last, one of them would keep a single worker busy at the end.
SLOWEST = ("test_alignment", "test_trust", "test_deploy", "test_notebooks", "test_hot_reload", "test_cli", "test_noise")

_skipped: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip is a failure: it would hide a missing part."""
    if os.environ.get("CI") == "true" and _skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings; absent on a laptop (skip), never in CI (fail)."""
    if SHARED.is_dir():
        return SHARED
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have the recordings at {SHARED}; a skip would hide a missing part")
    pytest.skip("the real recordings are not beside this checkout")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: the address of a socket has 107 bytes, and pytest's own folders may take 80 of them."""
    with TemporaryDirectory(prefix="v13-") as folder:
        yield Path(folder)
