"""The stage of a rehearsal: a root of its own, the bars that are replayed there, and with which parameters.

Of recordings only the end of the search part is taken: what becomes of a holdout is looked at once, by the acceptance,
and entered in the ledger. The project's event log and runs/ stay as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from v13 import market, store
from v13.config.parameters import ReleasedParameters, configured_parameters, read_parameters
from v13.detector import DetectorParams
from v13.errors import ConfigError, DataError
from v13.live.reload_stage import SYMBOLS, prepare
from v13.research.run import Run
from v13.research.trials import find_events

__all__ = ["Rehearsal", "rehearse_made_up", "rehearse_run"]

BARS_A_SECOND: Final = 240.0  # an hour of 1 s bars in 15 s, each bar still by itself
N_MADE_UP: Final = 3_600  # bars
MIN_BARS: Final = 3_600
MAX_BARS: Final = 36_000  # two and a half minutes
EVENTS_RATIO: Final = 2  # replayed events to those a closure needs: some fall before the first scrape
FILES: Final = {
    "parameters": "best_global.yaml",
    "overrides": "best_by_bucket.yaml",
    "calibration": "divergence_score_calibration.json",
}
RELEASED: Final = "released"  # folder on the stage
RECORDING: Final = "recording"


@dataclass(frozen=True)
class Rehearsal:
    """What is replayed, and how a runner is started for it.

    Attributes
    ----------
    root : Path
        With settings, parameters and the recording.
    recording : Path
        Folder.
    speed : float
        Of the replay, as many times the recording's.
    environ : mapping
        Variables the runner needs: where the parameters are.
    replay : mapping
        Of the report: symbols, n_bars, from_ms, to_ms, simulated, part, speed.
    """

    root: Path
    recording: Path
    speed: float
    environ: Mapping[str, str]
    replay: Mapping[str, Any]


def rehearse_made_up(root: Path, config: Path, speed: float | None = None) -> Rehearsal:
    """Return an hour of two simulated symbols, with parameters loose enough for hundreds of events.

    Parameters
    ----------
    root : Path
        An empty folder.
    config : Path
        The project's config/.
    speed : float, > 0
        Default: BARS_A_SECOND.
    """
    recording = prepare(root, config, n_bars=N_MADE_UP)
    bars = {symbol: made.bars for symbol, made in market.load(recording).items()}
    speed = speed or BARS_A_SECOND
    replay = _described({s: bars[s] for s in SYMBOLS}, "all of it", speed, 1_000, simulated=True)
    return Rehearsal(root, recording, speed, {}, replay)


def rehearse_run(root: Path, run: Run, released: Path | None = None, speed: float | None = None) -> Rehearsal:
    """Return the end of a run's search part, with released parameters.

    Parameters
    ----------
    root : Path
        An empty folder.
    run : Run
        Its config/ is copied, and no bar behind its search part is read.
    released : Path, optional
        Folder with the files a sign-off writes; default: those the settings of the runner name.
    speed : float, > 0
        Of the replay; default: BARS_A_SECOND. Not so high that bars wait for each other: latencies are then those of a
        backlog.

    Raises
    ------
    ConfigError
        A released file is missing, bad, or for bars of another length.
    DataError
        The search part is empty.
    """
    shutil.copytree(run.root / "config", root / "config")
    environ: dict[str, str] = {}
    for setting, source in _sources(run, released).items():
        variable = f"V13__RUNNER__{setting.upper()}"
        environ[variable] = "null"
        if source is not None:
            if not source.is_file():
                raise ConfigError(f"{source}: missing; `v13 signoff` writes it; name its folder with --released")
            environ[variable] = f"{RELEASED}/{FILES[setting]}"
            store.copy(source, root / environ[variable])
    params = _parameters(root, run, environ).params
    if params.features.bar_ms != run.cut.bar_ms:
        raise ConfigError(
            f"{RELEASED} parameters: bar_ms: for bars of {params.features.bar_ms} ms, the recordings' are of "
            f"{run.cut.bar_ms} ms; take the recordings they were found on"
        )
    speed = speed or BARS_A_SECOND * run.cut.bar_ms / 1_000.0
    start_ms = _start_ms(run, params)
    bars = {}
    for part in run.search_parts():
        own = part.bars[part.bars["ts_ms"] > start_ms]
        if own.size:
            bars[part.symbol] = own
            frame = pl.DataFrame({name: own[name] for name in own.dtype.names or ()})
            path = root / RECORDING / f"{part.symbol}.parquet"
            path.parent.mkdir(exist_ok=True)
            recorded = run.recordings[part.symbol]
            market.write_tape(
                path, frame, kind="bars", symbol=part.symbol, market=recorded.market, simulated=recorded.simulated
            )
    replay = _described(bars, "the end of the search part", speed, run.cut.bar_ms, simulated=run.simulated)
    return Rehearsal(root, root / RECORDING, speed, environ, replay)


def _sources(run: Run, released: Path | None) -> dict[str, Path | None]:
    if released is not None:
        return {setting: released / name for setting, name in FILES.items()}
    named = {setting: getattr(run.config.runner, setting) for setting in FILES}
    return {setting: None if name is None else run.root / name for setting, name in named.items()}


def _parameters(root: Path, run: Run, environ: Mapping[str, str]) -> ReleasedParameters:
    parameters, overrides = (environ[f"V13__RUNNER__{name}"] for name in ("PARAMETERS", "OVERRIDES"))
    if parameters == "null":
        return ReleasedParameters(configured_parameters(run.config, run.cut.bar_ms), simulated=False)
    return read_parameters(root / parameters, None if overrides == "null" else root / overrides)


def _start_ms(run: Run, params: DetectorParams) -> int:
    """Return where the shortest end of the search part begins that has enough events; of the longest if none has."""
    bar_ms, end_ms = run.cut.bar_ms, run.cut.search_end_ms
    found = [find_events(params, run.sessions, part)[0]["ts_ms"] for part in run.search_parts()]
    if not sum(part.bars.size for part in run.search_parts()):
        raise DataError("rehearsal: the search part has no bar to replay; give longer recordings")
    times = np.sort(np.concatenate(found))[::-1]
    needed = EVENTS_RATIO * run.config.acceptance.min_events
    first_ms = int(times[needed - 1]) if times.size >= needed else run.cut.start_ms
    start_ms = first_ms - params.features.memory_bars * bar_ms
    return int(min(max(start_ms, end_ms - MAX_BARS * bar_ms), end_ms - MIN_BARS * bar_ms))


def _described(bars: Mapping[str, Any], part: str, speed: float, bar_ms: int, *, simulated: bool) -> dict[str, Any]:
    first_ms = min(int(own["ts_ms"][0]) for own in bars.values()) - bar_ms
    last_ms = max(int(own["ts_ms"][-1]) for own in bars.values())
    return {
        "symbols": list(bars),
        "n_bars": (last_ms - first_ms) // bar_ms,
        "from_ms": first_ms,
        "to_ms": last_ms,
        "simulated": simulated,
        "part": part,
        "speed": speed,
    }
