"""pyproject.toml, environment.yml and requirements.lock say the same, and the lock is complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

# Where conda-forge calls a package by another name.
CONDA_NAMES = {
    "tzdata": "python-tzdata",
    "arch": "arch-py",
    "isal": "python-isal",
    "prometheus-client": "prometheus_client",
}


@pytest.fixture
def project(repo: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def wanted(project: dict[str, Any]) -> dict[str, str]:
    """Lower bounds by name, base and test together."""
    lines = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    return dict(bound(line) for line in lines)


@pytest.fixture
def pinned(repo: Path) -> dict[str, list[str]]:
    """Versions by name; more than one where they depend on the Python version."""
    pins: dict[str, list[str]] = {}
    for line in (repo / "requirements.lock").read_text(encoding="utf-8").splitlines():
        found = re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line)
        if found:
            pins.setdefault(canonicalize_name(found[1]), []).append(found[2])
    return pins


def bound(line: str) -> tuple[str, str]:
    """Return name and lower bound of `name>=bound`, the form in use: an upper bound belongs into the lock."""
    requirement = Requirement(line)
    (specifier,) = requirement.specifier
    # Its later releases carry an epoch and an older schema, so a lower bound alone would bring that.
    assert specifier.operator == (">=" if requirement.name != "grafana-foundation-sdk" else "=="), line
    return requirement.name, specifier.version


def test_conda_gets_the_same_packages_with_the_same_lower_bounds(
    repo: Path, project: dict[str, Any], wanted: dict[str, str]
) -> None:
    environment = YAML(typ="safe", pure=True).load((repo / "environment.yml").read_text(encoding="utf-8"))
    lines = [line for line in environment["dependencies"] if isinstance(line, str) and line != "pip"]
    (of_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    lines += [line for line in of_pip if not line.startswith("--editable")]  # what conda-forge does not have
    found = dict(bound(line) for line in lines)
    assert f">={found.pop('python')}" == project["project"]["requires-python"]
    assert found == {CONDA_NAMES.get(name, name): least for name, least in wanted.items()}


def test_the_lock_pins_every_dependency_within_its_bound(
    repo: Path, project: dict[str, Any], wanted: dict[str, str], pinned: dict[str, list[str]]
) -> None:
    tools = (repo / "requirements.in").read_text(encoding="utf-8").splitlines()
    build = dict(bound(line) for line in tools if line and not line.startswith("#"))
    assert dict(bound(line) for line in project["build-system"]["requires"]).items() <= build.items()
    for name, least in (wanted | build).items():
        versions = pinned.get(canonicalize_name(name), [])
        assert versions, f"{name} is not in requirements.lock; run `make lock`"
        assert all(Version(v) >= Version(least) for v in versions), f"{name}: run `make lock`"


def test_every_pin_has_a_hash_and_the_lock_names_no_place(repo: Path) -> None:
    text = (repo / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert "://" not in text
    assert all(re.match(r"[a-z0-9][a-z0-9._-]*==|    --hash=sha256:[0-9a-f]{64}( \\)?$", line) for line in lines)
    pins = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert len(pins) > 50
    assert all(lines[i + 1].startswith("    --hash=sha256:") for i in pins)


def test_the_version_is_one(project: dict[str, Any]) -> None:
    import v13

    assert project["project"]["version"] == v13.__version__
