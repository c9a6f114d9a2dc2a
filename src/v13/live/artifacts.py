"""What a runner is started with: parameters and calibration from their files, and whether somebody signed them off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from v13.config import Config
from v13.config.parameters import ReleasedParameters, configured_parameters, read_parameters
from v13.detector import CalibrationMap, DetectorParams
from v13.errors import ConfigError, DataError, StoreError
from v13.market.policy import TICK_BAR_MS
from v13.store import read_json

__all__ = ["Artifacts", "read_artifacts"]

PASS: Final = "PASS"
NAMES: Final = {
    "parameters": "best_global.yaml",
    "overrides": "best_by_bucket.yaml",
    "calibration": "divergence_score_calibration.json",
}


@dataclass(frozen=True)
class Artifacts:
    """Parameters and calibration, and where they come from.

    Attributes
    ----------
    params : DetectorParams
    calibration : CalibrationMap or None
        None where no file is configured or it holds no curve.
    signed_off : bool
        A sign-off with the verdict PASS on recorded data names these very files by hash.
    signed_ms : int
        When the sign-off was made, epoch ms, as the manifest beside it says; 0 where it does not, or nothing is signed
        off.
    why_not : str
        Why they are not signed off; empty where they are.
    document : mapping
        Hashes and sign-off, plain JSON values.
    """

    params: DetectorParams
    calibration: CalibrationMap | None
    signed_off: bool
    signed_ms: int
    why_not: str
    document: Mapping[str, Any]


def read_artifacts(root: Path, config: Config) -> Artifacts:
    """Read and check all files of a configuration, whole.

    Parameters
    ----------
    root : Path
        Relative paths of the settings are below it.
    config : Config
        Where `runner.parameters` is null its sections features and detector are the parameters.

    Raises
    ------
    ConfigError
        A file is missing, no YAML or JSON, or says something impossible; it is named with key and line. Also where a
        sign-off is required and there is none that fits.
    """
    settings = config.runner
    paths = {name: root / text for name in NAMES if (text := getattr(settings, name)) is not None}
    for name, path in paths.items():
        if not path.exists():
            raise ConfigError(f"{path}: missing; `v13 signoff` writes it; runner.{name}: null runs without it")
    hashes = {NAMES[name]: _sha256(path) for name, path in paths.items()}
    if "parameters" in paths:
        found = read_parameters(paths["parameters"], paths.get("overrides"))
    else:
        found = ReleasedParameters(configured_parameters(config, config.market.bar_ms or TICK_BAR_MS), simulated=False)
    calibration = _calibration(paths["calibration"]) if "calibration" in paths else None
    for name, path in paths.items():
        if _sha256(path) != hashes[NAMES[name]]:
            raise ConfigError(f"{path}: changed while it was read")
    why_not = _why_not(root / settings.signoff, hashes, found.simulated)
    if why_not and settings.require_signoff:
        raise ConfigError(
            f"runner.require_signoff: {why_not}; run `v13 signoff`, or take an environment that allows it"
        )
    document = {"files": hashes, "signoff": settings.signoff if not why_not else None, "simulated": found.simulated}
    signed_ms = 0 if why_not else _made_ms(root / settings.signoff)
    return Artifacts(found.params, calibration, not why_not, signed_ms, why_not, document)


def _calibration(path: Path) -> CalibrationMap | None:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: missing; set runner.calibration to null to run without it") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return CalibrationMap.from_dict(document) if document["horizons"] else None
    except (DataError, KeyError, TypeError) as error:
        line = text[: max(text.find('"horizons"'), 0)].count("\n") + 1
        raise ConfigError(f"{path}:{line}: horizons: {error}") from error


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _made_ms(signoff: Path) -> int:
    """Return when a sign-off was made; signoff.json itself holds no times, so that equal inputs give equal bytes."""
    try:
        made = datetime.fromisoformat(read_json(signoff.resolve().with_name("manifest.json"))["created_utc"])
        return int(made.timestamp() * 1_000)
    except (StoreError, KeyError, TypeError, ValueError):
        return 0


def _why_not(signoff: Path, hashes: Mapping[str, str], simulated: bool) -> str:
    if simulated:
        return "the parameters were found on simulated data"
    try:
        document = read_json(signoff)
        verdict, signed = document["verdict"], document["artifacts"]
        of_simulated = document["simulated"]
    except (StoreError, KeyError, TypeError) as error:
        return f"no sign-off: {error}"
    if of_simulated:
        return f"{signoff}: the sign-off is of simulated data"
    if verdict != PASS:
        return f"{signoff}: the verdict is {verdict}, not {PASS}"
    for name, sha256 in hashes.items():
        if signed.get(name) != sha256:
            return f"{name}: its sha256 {sha256[:12]} is not what {signoff} signed off ({str(signed.get(name))[:12]})"
    missing = [name for name in NAMES.values() if name not in hashes]
    return f"runs without {', '.join(missing)}, which was signed off" if missing else ""
