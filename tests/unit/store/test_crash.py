"""A writer that is killed outright leaves the old file or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Each script stops at one exact moment, says so, and waits to be killed. The first fsync of a write is that of the
# file, before the rename; the second is that of its folder, after it.
STOP_AT = """
import os, sys
from pathlib import Path
from v13 import store
real, calls = os.fsync, []
def fsync(handle):
    calls.append(handle)
    if len(calls) == int(sys.argv[2]):
        print("stopped", flush=True)
        sys.stdin.read()
    real(handle)
os.fsync = fsync
"""
WRITE = STOP_AT + 'store.write_bytes(Path(sys.argv[1]), b"new" * 1_000_000)\n'
STAGE = STOP_AT + (
    'with store.staged_dir(Path(sys.argv[1])) as folder:\n    (folder / "x").write_text("new", encoding="utf-8")\n'
)
LOOP = """
import itertools, sys
from pathlib import Path
from v13 import store
for n in itertools.count():
    store.write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 3_000_000)
    print(n, flush=True)
"""


def kill_when_it_speaks(script: str, *args: str, lines: int = 1) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", script, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
    assert all(said), "the writer ended before it could be killed"
    assert writer.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("stop_at", "content"), [(1, b"old"), (2, b"new" * 1_000_000)])
def test_a_writer_killed_before_or_after_the_rename(tmp_path: Path, stop_at: int, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    kill_when_it_speaks(WRITE, str(path), str(stop_at))
    assert path.read_bytes() == content


@pytest.mark.parametrize("writes", [1, 2, 3, 5, 8])
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path, writes: int) -> None:
    path = tmp_path / "x"
    kill_when_it_speaks(LOOP, str(path), lines=writes)
    content = path.read_bytes()
    assert len(content) == 3_000_000
    assert content == content[:1] * len(content)
    assert content[0] >= writes - 1  # what was reported as written is there, or something later


def test_a_folder_whose_maker_was_killed_is_not_to_be_seen(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    final.mkdir()
    (final / "x").write_text("old", encoding="utf-8")
    kill_when_it_speaks(STAGE, str(final), "1")
    assert (final / "x").read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["bundle"]
