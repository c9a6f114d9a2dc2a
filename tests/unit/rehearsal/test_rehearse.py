"""The order of a rehearsal, with deploys that only remember what they were given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.release.small_rig import make_rig, make_site
from v13.errors import V13Error
from v13.rehearsal import rehearse as module
from v13.release.deploy import Deployed
from v13.release.rig import Rig


def test_the_first_release_has_longer_to_get_ready_than_the_one_that_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(make_site(tmp_path / "root", ready_s=60.0))
    given: list[float] = []

    @contextmanager
    def stage(*_: Any, **__: Any) -> Iterator[Rig]:
        yield rig

    def deploy(to: Rig, _: str) -> Deployed:
        given.append(to.site.config.deploy.ready_s)
        if len(given) == 2:
            raise V13Error("seen enough")
        return Deployed("a deploy", "completed", "", "a release")

    monkeypatch.setattr(module, "open_stage", stage)
    monkeypatch.setattr(module, "deploy", deploy)
    monkeypatch.setattr(module, "conclude", lambda *_: tmp_path)
    with pytest.raises(V13Error, match="seen enough"):
        module.rehearse(tmp_path / "kept", tmp_path)
    assert given == [180.0, 60.0]
