"""A disk of one megabyte, real and small."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A mounted tmpfs; `prefix` is what a command needs in front to be allowed to mount."""

    path: Path
    prefix: tuple[str, ...]

    def make_read_only(self) -> None:
        subprocess.run([*self.prefix, "mount", "-o", "remount,ro", str(self.path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a tmpfs of 1 MiB: needs Linux and the right to mount; CI must have both, elsewhere nobody is asked."""
    is_ci = os.environ.get("CI") == "true"
    place = tmp_path / "disk"
    place.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(place))
    reason = "there is no mount command"
    for prefix in ((), ("sudo", "-n")) if is_ci else ((),):
        if shutil.which((*prefix, "mount")[0]) is None:
            continue
        done = subprocess.run([*prefix, *mount], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield Disk(place, prefix)
            subprocess.run([*prefix, "umount", str(place)], check=True)
            return
        reason = done.stderr.strip()
    if is_ci:
        pytest.fail(f"CI must be able to mount a small tmpfs: {reason}")
    pytest.skip(f"a full disk needs a small tmpfs, which may not be mounted here: {reason}")
