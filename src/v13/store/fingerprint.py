"""The sha256 of the package's source: what a measurement was made with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import v13

__all__ = ["package_fingerprint"]

KINDS: Final = (".py", ".j2", ".css", ".json")


@cache
def package_fingerprint() -> str:
    """Return the sha256 of all of v13, the runner included; of research alone see `research.run.code_fingerprint`."""
    folder = Path(v13.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in KINDS and "__pycache__" not in p.parts):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
