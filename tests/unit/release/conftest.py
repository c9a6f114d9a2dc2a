"""A small site with two releases, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.release.small_rig import OLD, RELEASE, make_site, release_of
from v13.release.site import Site, open_site


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a project with the releases OLD and RELEASE; nobody changes it."""
    site = make_site(tmp_path_factory.mktemp("small") / "root")
    for release in (OLD, RELEASE):
        release_of(site, release)
    return site.root


@pytest.fixture
def site(built: Path, place: Path) -> Site:
    """Return a site of one's own with these releases."""
    shutil.copytree(built, place / "root", symlinks=True)
    return open_site(place / "root", "testing", {})
