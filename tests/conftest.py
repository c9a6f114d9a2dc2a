"""What every test may ask for: the real recordings, and a clean seed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared" / "data"


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
