"""The manifest of a bundle: what went in, what came out, and what made it.

Times and facts about the machine stand here and in no other artifact, so that those are the same bytes every time.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Final

import v13
from v13.errors import StoreError
from v13.store.files import sha256_file

__all__ = ["build", "verify", "versions"]

MANIFEST_VERSION: Final = 1
PACKAGES: Final = ("numpy", "scipy", "numba", "polars", "pandas", "pyarrow", "matplotlib", "scikit-learn", "papermill")
COMMAND_TIMEOUT_S: Final = 30


def build(
    inputs: Mapping[str, Path],
    outputs: Mapping[str, Path],
    *,
    parameters: Mapping[str, Any],
    seed: int,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a finished bundle.

    Parameters
    ----------
    inputs : mapping of name to file
        What was read; names are free.
    outputs : mapping of name to file
        What was made; a name is the file's place relative to the bundle, with slashes, as `verify` wants it.
    parameters : mapping
        What decided the result; plain values.
    seed : int
    extra : mapping
        Further top-level entries; none may hide one of the manifest's own.

    Returns
    -------
    dict
        Fit for `write_json`. `git` is null where the code is not part of a checkout; a package that is not installed
        has version null, as have facts the system does not tell.

    Raises
    ------
    StoreError
        A file cannot be read, or `extra` repeats a name.
    """
    manifest: dict[str, Any] = {
        "version": MANIFEST_VERSION,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "parameters": dict(parameters),
        "inputs": {name: _file(path) for name, path in inputs.items()},
        "outputs": {name: _file(path) for name, path in outputs.items()},
        "versions": versions(),
        "git": _git(Path(v13.__file__).resolve().parent),
        "host": _host(),
    }
    clash = sorted(manifest.keys() & (extra or {}).keys())
    if clash:
        raise StoreError(f"manifest: extra entries may not be called {', '.join(clash)}")
    return manifest | dict(extra or {})


def verify(manifest: Mapping[str, Any], root: Path) -> list[str]:
    """Compare the files of a bundle with its manifest.

    Parameters
    ----------
    manifest : mapping
        As `build` made it.
    root : Path
        The bundle's folder.

    Returns
    -------
    list of str
        One sentence a mismatch, in order of names; empty where all outputs are as they were. Files the manifest does
        not name are not looked at.

    Raises
    ------
    StoreError
        The manifest is no manifest, or a file cannot be read.
    """
    outputs = manifest.get("outputs")
    if manifest.get("version") != MANIFEST_VERSION or not isinstance(outputs, Mapping):
        raise StoreError(f"manifest: expected version {MANIFEST_VERSION} with outputs, found another document")
    mismatches = []
    for name, entry in sorted(outputs.items()):
        if not isinstance(entry, Mapping) or not {"sha256", "n_bytes"} <= entry.keys():
            raise StoreError(f"manifest: outputs: {name}: expected sha256 and n_bytes, found {entry!r}")
        place = PurePosixPath(name)
        path = root / place
        if place.is_absolute() or ".." in place.parts:
            mismatches.append(f"{name}: lies outside the bundle")
        elif not path.is_file():
            mismatches.append(f"{name}: is missing")
        elif path.stat().st_size != entry["n_bytes"]:
            mismatches.append(f"{name}: expected {entry['n_bytes']} bytes, found {path.stat().st_size}")
        elif (found := sha256_file(path)) != entry["sha256"]:
            mismatches.append(f"{name}: expected sha256 {entry['sha256']}, found {found}")
    return mismatches


def versions() -> dict[str, str | None]:
    """Return the versions of Python, v13 and the packages that results depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "v13": v13.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _file(path: Path) -> dict[str, Any]:
    digest = sha256_file(path)
    return {"sha256": digest, "n_bytes": path.stat().st_size}


def _git(package: Path) -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout that holds the code.

    An installed copy inside somebody's checkout (a virtual environment) is not tracked by it, and says nothing.
    """
    if _run("git", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _run("git", "-C", str(package), "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    top = _run("git", "-C", str(package), "rev-parse", "--show-toplevel")
    status = _run("git", "--no-optional-locks", "-C", top or str(package), "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _host() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return _run("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or None


def _run(*command: str) -> str | None:
    """Return a command's output, or None where it is not installed or says no."""
    program = shutil.which(command[0])
    if program is None:
        return None
    # Inside a git hook these variables name another repository than the one that holds the code.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, env=environ, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StoreError(f"{' '.join(command)}: no answer in {COMMAND_TIMEOUT_S} s") from error
    return done.stdout.strip() if done.returncode == 0 else None
