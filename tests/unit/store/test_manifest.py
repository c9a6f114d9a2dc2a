"""The manifest: what went in, what came out, what made it; and the comparison afterwards."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import v13
from v13 import store
from v13.errors import StoreError
from v13.store import manifest


def bundle(root: Path) -> dict[str, Any]:
    store.write_text(root / "in.csv", "1,2\n")
    store.write_text(root / "out" / "a.json", "{}\n")
    store.write_text(root / "out" / "plots" / "b.svg", "<svg/>")
    return manifest.build(
        {"tape": root / "in.csv"},
        {"a.json": root / "out" / "a.json", "plots/b.svg": root / "out" / "plots" / "b.svg"},
        parameters={"swing_L": 13},
        seed=13,
        extra={"simulated": True},
    )


def git(folder: Path, *args: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, "-C", str(folder), *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_names_files_versions_host_and_time(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = bundle(tmp_path)
    assert made["inputs"] == {"tape": {"sha256": hashlib.sha256(b"1,2\n").hexdigest(), "n_bytes": 4}}
    assert made["outputs"]["plots/b.svg"]["n_bytes"] == 6
    assert (made["seed"], made["parameters"], made["simulated"]) == (13, {"swing_L": 13}, True)
    assert made["versions"]["v13"] == v13.__version__
    assert made["versions"]["numpy"] == np.__version__
    assert made["versions"]["python"] == platform.python_version()
    assert all(made["versions"].values())
    assert made["host"]["cpu_count"] >= 1
    assert made["host"]["memory_bytes"] > 2**27
    assert before <= datetime.fromisoformat(made["created_utc"]) <= datetime.now(UTC)
    store.write_json(tmp_path / "manifest.json", made)
    assert store.read_json(tmp_path / "manifest.json") == made


def test_an_untouched_bundle_has_no_mismatch_wherever_it_lies(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    assert manifest.verify(made, tmp_path / "out") == []
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert manifest.verify(made, tmp_path / "elsewhere") == []


def test_every_changed_file_is_named_with_its_difference(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    (tmp_path / "out" / "a.json").write_text("{ \n", encoding="utf-8")
    (tmp_path / "out" / "plots" / "b.svg").write_text("<svg />", encoding="utf-8")
    first, second = manifest.verify(made, tmp_path / "out")
    assert first.startswith("a.json: expected sha256 ")
    assert second == "plots/b.svg: expected 6 bytes, found 7"
    (tmp_path / "out" / "a.json").unlink()
    assert manifest.verify(made, tmp_path / "out")[0] == "a.json: is missing"


def test_a_manifest_cannot_point_outside_its_bundle(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    entry = made["inputs"]["tape"]
    outside = made | {"outputs": {"../in.csv": entry, str(tmp_path / "in.csv"): entry}}
    found = manifest.verify(outside, tmp_path / "out")
    assert [line.rpartition(": ")[2] for line in found] == ["lies outside the bundle"] * 2


@pytest.mark.parametrize(
    "broken", [{}, {"version": 1}, {"version": 2, "outputs": {}}, {"version": 1, "outputs": {"a": 1}}]
)
def test_another_document_is_no_manifest(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="manifest: "):
        manifest.verify(broken, tmp_path)


def test_a_missing_file_or_a_hidden_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not be read"):
        manifest.build({"x": tmp_path / "none"}, {}, parameters={}, seed=1)
    with pytest.raises(StoreError, match="may not be called seed"):
        manifest.build({}, {}, parameters={}, seed=1, extra={"seed": 2})


def test_the_checkout_of_the_code_is_named_with_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "repo" / "src" / "v13"
    package.mkdir(parents=True)
    code = package / "__init__.py"
    code.write_text("", encoding="utf-8")
    monkeypatch.setattr(v13, "__file__", str(code))

    def found() -> Any:
        return manifest.build({}, {}, parameters={}, seed=1)["git"]

    assert found() is None  # no checkout
    git(tmp_path / "repo", "init", "-q")
    assert found() is None  # a checkout that does not hold the code, as with one installed in its .venv
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-q", "-m", "x")
    commit = git(tmp_path / "repo", "rev-parse", "HEAD")
    assert found() == {"commit": commit, "dirty": False}
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as inside a hook
    assert found() == {"commit": commit, "dirty": False}
    (tmp_path / "repo" / "new").write_text("", encoding="utf-8")
    assert found() == {"commit": commit, "dirty": True}
