"""A site: where the releases of one machine live, by what names, and the settings that govern them.

It is about paths and names only; it must not start, stop or decide anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from v13.config import Config, load
from v13.errors import ReleaseError

__all__ = ["Site", "check_name", "open_site"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}")


def check_name(text: str, what: str) -> str:
    """Return a name that came from outside, fit to be part of a path.

    Raises
    ------
    ReleaseError
        It could lead out of its folder, or is no name of ours.
    """
    if _NAME.fullmatch(text) is None or ".." in text:
        raise ReleaseError(f"{what}: expected letters, digits, dots and dashes, found {text!r}")
    return text


@dataclass(frozen=True)
class Site:
    """Folders and settings of the releases of one machine.

    Attributes
    ----------
    root : Path
        Absolute; holds config/; relative settings are below it.
    env : str
    config : Config
    """

    root: Path
    env: str
    config: Config

    @property
    def home(self) -> Path:
        """Return the folder of everything that a deploy writes, but its records."""
        return self.root / self.config.deploy.home

    @property
    def ledger(self) -> Path:
        """Return the file of the deploy ledger."""
        return self.home / "ledger.sqlite"

    @property
    def records(self) -> Path:
        """Return the folder of the deploy records."""
        return self.root / self.config.deploy.records

    @property
    def signoff(self) -> Path:
        """Return the bundle that is to be deployed, links followed."""
        return (self.root / self.config.deploy.signoff).resolve()

    @property
    def signers(self) -> tuple[Path, ...]:
        """Return the public keys whose signatures count."""
        return tuple(self.root / name for name in self.config.deploy.signers)

    @property
    def current(self) -> Path:
        """Return the link to the release that serves."""
        return self.home / "current"

    @property
    def backups(self) -> Path:
        """Return the folder of the backups."""
        return self.home / "backups"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Return all symbols, those of the canary list first and in its order."""
        wanted = self.config.runner.symbols
        first = tuple(s for s in self.config.deploy.canary if s in wanted)
        return first + tuple(s for s in wanted if s not in first)

    def release(self, release: str) -> Path:
        """Return the folder of a release."""
        return self.home / "releases" / check_name(release, "release")

    def event_log(self, release: str) -> Path:
        """Return the event log of a release."""
        return self.home / "logs" / check_name(release, "release") / "events.sqlite"

    def overlay(self, release: str) -> Path:
        """Return the settings of a release that may change while it runs: symbols, port, log."""
        return self.home / "live" / f"{check_name(release, 'release')}.yaml"

    def backup(self, stamp: int) -> Path:
        """Return the folder of a backup, by its Unix time."""
        return self.backups / str(int(stamp))


def open_site(root: Path, env: str, environ: Mapping[str, str] | None = None) -> Site:
    """Return the site of a project, with the settings of an environment.

    Raises
    ------
    ConfigError
        The settings are bad.
    ReleaseError
        A setting comes from a variable; or production is asked to take sign-offs of simulated data, unsigned ones,
        or durations that are not the guide's.
    """
    variables = dict(os.environ) if environ is None else environ
    named = sorted(name for name in variables if name.startswith("V13__"))
    if named:
        raise ReleaseError(
            f"{', '.join(named)}: would hold for this command and not for the guard and the runners; put it into "
            f"config/environments/{env}.yaml"
        )
    config = load(root, env, environ=variables).config
    deploy = config.deploy
    if env == "production":
        bad = {
            "deploy.allow_simulated: true": deploy.allow_simulated,
            "deploy.require_signature: false": not deploy.require_signature,
            "deploy.time_scale below 1": deploy.time_scale != 1.0,
        }
        found = [text for text, is_so in bad.items() if is_so]
        if found:
            raise ReleaseError(f"production: {', '.join(found)}: not allowed there; rehearse in --env testing")
    return Site(root.resolve(), env, config)
