"""A run: recordings, config, seed and folders, opened once and handed to every stage.

Bars and the quality report are kept in the run's folder under a key made of the input hashes and the reading policy, so
that the notebooks after the first do not read the recordings again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import v13
from v13 import config as configs
from v13 import market
from v13.config import Config
from v13.config.parameters import configured_parameters
from v13.detector import DetectorParams, SessionClock
from v13.errors import ConfigError
from v13.research.cut import Cut, Records, make_cut
from v13.research.settings import expand_grid
from v13.research.trials import SymbolPart

__all__ = ["Run", "make_run", "open_run", "read_policy"]

OTHER_WINGS: Final = (
    "live",
    "release",
    "telemetry",
    "rehearsal",
)  # import-linter holds that research does not import them


@dataclass(frozen=True)
class Run:
    """Everything a stage needs; stages read it and write into `out`."""

    recordings: Mapping[str, market.Recording]
    config: Config
    config_origin: Mapping[str, str]
    config_files: tuple[Path, ...]
    out: Path
    root: Path
    seed: int
    key: str
    cut: Cut
    params: DetectorParams

    @property
    def bars(self) -> dict[str, Records]:
        """Bars by symbol."""
        return {symbol: recording.bars for symbol, recording in self.recordings.items()}

    @property
    def holdout_sha256(self) -> str:
        """The seal: one hash of all bars behind the search part, and of every file they were made of."""
        files = {s: sorted((x.kind, x.sha256) for x in r.sources) for s, r in self.recordings.items()}
        return _key({"bars": self.cut.seal(self.bars), "files": files})

    @property
    def simulated(self) -> bool:
        """Whether any recording came out of the simulator."""
        return any(r.simulated for r in self.recordings.values())

    @property
    def has_quotes(self) -> bool:
        """Whether order-flow imbalance can be seen at all."""
        return any(r.has_quotes for r in self.recordings.values())

    @property
    def has_trades(self) -> bool:
        """Whether volume delta can be seen at all."""
        return any(r.has_trades for r in self.recordings.values())

    @property
    def sessions(self) -> SessionClock:
        """The clock that tells day from night."""
        s = self.config.sessions
        return SessionClock(s.timezone, s.day_start, s.day_end)

    @property
    def band(self) -> tuple[float, float] | None:
        """Events an hour a setting must lie in; None where bars are not of the production length."""
        if self.cut.bar_ms != self.config.acceptance.production_bar_ms:
            return None
        low, high = self.config.acceptance.events_per_hour
        return (low, high)

    def search_parts(self) -> list[SymbolPart]:
        """Return what the search may see."""
        return [SymbolPart(symbol, self.cut.search_bars(bars)) for symbol, bars in self.bars.items()]

    def holdout_parts(self) -> list[SymbolPart]:
        """Return purge gap and holdout of each symbol."""
        return [SymbolPart(symbol, self.cut.holdout_bars(bars)) for symbol, bars in self.bars.items()]


def open_run(
    data: Sequence[str | Path],
    *,
    root: Path,
    out: Path,
    symbol: str | None = None,
    env: str | None = None,
    seed: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Run:
    """Load config and recordings and cut the record.

    Raises
    ------
    ConfigError, DataError
        As the loaders; also when the recordings have different bar lengths.
    """
    loaded = configs.load(root, env, environ=os.environ, overrides=overrides or {})
    config = loaded.config
    recordings = market.load([Path(p) for p in data], symbol=symbol, policy=read_policy(config))
    return make_run(recordings, loaded, root=root, out=out, seed=seed)


def make_run(
    recordings: Mapping[str, market.Recording],
    loaded: configs.Loaded,
    *,
    root: Path,
    out: Path,
    seed: int | None = None,
) -> Run:
    """Cut recordings that are already in memory.

    Raises
    ------
    ConfigError, DataError
        The recordings have different bar lengths, or no bar at all.
    """
    config = loaded.config
    used_seed = config.run.seed if seed is None else seed
    lengths = {r.bar_ms for r in recordings.values()}
    if len(lengths) != 1:
        shown = ", ".join(f"{s} {r.bar_ms} ms" for s, r in recordings.items())
        raise ConfigError(f"market.bar_ms: the recordings have different bar lengths ({shown}); set one for all")
    params = configured_parameters(config, lengths.pop())
    cut = make_cut(
        {s: r.bars for s, r in recordings.items()},
        params.features.bar_ms,
        config.search.search_share,
        purge_bars(config, params),
    )
    inputs = {
        # Market and origin may be said by a file's name or folder alone: relabelled, the same bytes are another input.
        s: {"market": r.market, "simulated": r.simulated, "files": sorted((x.kind, x.sha256) for x in r.sources)}
        for s, r in recordings.items()
    }
    key = _key({"inputs": inputs, "config": configs.fingerprint(config), "seed": used_seed, "code": code_fingerprint()})
    return Run(recordings, config, loaded.origin, tuple(loaded.files), out, root, used_seed, key, cut, params)


def source_files(folder: Path) -> list[Path]:
    """Return what research is made of, in order: all of the package but the rooms it never enters."""
    kinds = {".py", ".j2", ".css", ".json"}
    files = (p for p in folder.rglob("*") if p.suffix in kinds and "__pycache__" not in p.parts)
    return sorted(p for p in files if p.relative_to(folder).parts[0] not in OTHER_WINGS)


@cache
def code_fingerprint() -> str:
    """Return the sha256 of the source of research: results of other code are other results."""
    folder = Path(v13.__file__).parent
    digest = hashlib.sha256()
    for path in source_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def purge_bars(config: Config, params: DetectorParams) -> int:
    """Return the length of the gap between search and holdout.

    Raises
    ------
    ConfigError
        The configured gap is shorter than what the detector and the labels can reach across.
    """
    settings = expand_grid(params, config.search.grid)
    longest_swing = settings.longest_swing()
    memory = max(f.memory_bars for f in settings.features())
    needed = longest_swing + max(config.search.horizons_bars) + memory
    configured = config.search.purge_bars
    if configured is None:
        return needed
    if configured < needed:
        raise ConfigError(
            f"search.purge_bars: expected at least {needed} (swing {longest_swing} + horizon "
            f"{max(config.search.horizons_bars)} + feature memory {memory}), found {configured}"
        )
    return configured


def read_policy(config: Config) -> market.ReadPolicy:
    """Return the reading policy of a config."""
    m = config.market
    return market.ReadPolicy(
        bar_ms=m.bar_ms, max_gap_ms=m.max_gap_ms, quality=market.QualityPolicy(**m.quality.model_dump())
    )


def _key(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
