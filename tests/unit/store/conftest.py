"""A disk of one megabyte, real and small."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs of 1 MiB; needs Linux and the right to mount (CI has both, and fails without)."""
    place = tmp_path / "disk"
    place.mkdir()
    reason = "no mount command"
    if shutil.which("mount") is not None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        reason = done.stderr.strip()
        if done.returncode == 0:
            yield place
            subprocess.run(["umount", str(place)], check=True)
            return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must be able to mount a small tmpfs: {reason}")
    pytest.skip(f"a full disk needs a small tmpfs, which may not be mounted here: {reason}")
