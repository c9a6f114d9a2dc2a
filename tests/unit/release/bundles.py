"""Small bundles and keys for the tests of trust: real manifests and signatures, made-up verdicts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from v13 import store
from v13.release.keys import make_key

__all__ = ["NOW", "PASSPHRASE", "change", "key_pair", "make_bundle", "rebuild"]

PASSPHRASE = b"correct horse battery"
MADE = "2026-11-01T12:00:00+00:00"
NOW = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


def key_pair(folder: Path, name: str) -> Path:
    """Make a pair of keys and return the private one's path; the public one is beside it."""
    make_key(folder / name, PASSPHRASE)
    return folder / name


def make_bundle(folder: Path, verdict: str = "PASS") -> Path:
    """Make a bundle of three files with its manifest."""
    store.write_json(
        folder / "signoff.json",
        {"verdict": verdict, "key": "ab" * 32, "simulated": False, "parameters_fingerprint": "cd" * 32},
    )
    store.write_text(folder / "artifacts" / "best_global.yaml", "swing_L: 13\n")
    store.write_text(folder / "index.html", "<p>PASS</p>\n")
    rebuild(folder)
    return folder


def rebuild(folder: Path) -> None:
    """Write the manifest that fits the files as they are now: what somebody would do who changed one."""
    signoff = store.read_json(folder / "signoff.json")
    outputs = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "signoff.dsse.json")
    }
    document = store.manifest.build(
        {}, outputs, parameters={}, seed=13, extra={name: signoff[name] for name in ("verdict", "key", "simulated")}
    )
    store.write_json(folder / "manifest.json", document | {"created_utc": MADE})


def change(path: Path, **values: Any) -> None:
    """Change top-level entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
