"""Reads released parameters back: `best_global.yaml` and `best_by_bucket.yaml`, as a search wrote them or a hand did.

An error names file, key and line. Whether anybody signed them off is not asked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from v13.config.ranges import did_you_mean
from v13.config.schema import Config
from v13.config.yaml_lines import key_place, plain, read_tree, shown_value
from v13.detector.params import BucketOverride, DecisionParams, DetectorParams, FeatureParams
from v13.errors import ConfigError

__all__ = ["ReleasedParameters", "configured_parameters", "read_parameters"]

GLOBAL_KEYS: Final = ("version", "simulated", "selected", "reason", "features", "decision", "fingerprint")
BUCKET_KEYS: Final = ("version", "simulated", "overrides", "sources", "resolved")  # the last two are for readers
OVERRIDE_KEYS: Final = ("when", "set", "why")
VERSION: Final = 1


@dataclass(frozen=True)
class ReleasedParameters:
    """Parameters as files give them; simulated: found on simulated data, as one of the files says."""

    params: DetectorParams
    simulated: bool


def read_parameters(best_global: Path, best_by_bucket: Path | None = None) -> ReleasedParameters:
    """Read parameters from their files.

    Parameters
    ----------
    best_global : Path
        Feature and decision parameters of all buckets.
    best_by_bucket : Path or None
        The overrides; None: there are none.

    Raises
    ------
    ConfigError
        A file is missing or no YAML, a key is unknown or missing, a value is of the wrong type or out of range, or two
        overrides contradict each other. Names file, line and key.
    """
    top = _mapping(read_tree(best_global, str(best_global)), str(best_global), "the file", GLOBAL_KEYS)
    for needed in ("version", "features", "decision"):
        if needed not in top:
            raise ConfigError(f"{best_global}: {needed}: missing")
    _check_version(best_global, top)
    features = _section(best_global, top, "features", FeatureParams)
    decision = _section(best_global, top, "decision", DecisionParams)
    overrides: tuple[BucketOverride, ...] = ()
    simulated = top.get("simulated", False) is True
    if best_by_bucket is not None:
        buckets = _mapping(read_tree(best_by_bucket, str(best_by_bucket)), str(best_by_bucket), "the file", BUCKET_KEYS)
        _check_version(best_by_bucket, buckets)
        simulated = simulated or buckets.get("simulated", False) is True
        overrides = _overrides(best_by_bucket, buckets)
    try:
        return ReleasedParameters(DetectorParams(features, decision, overrides), simulated)
    except ConfigError as error:  # two files that do not go together
        place = best_by_bucket or best_global
        raise ConfigError(f"{place}: {error}") from error


def configured_parameters(config: Config, bar_ms: int) -> DetectorParams:
    """Return the parameters the settings describe, for bars of `bar_ms` milliseconds."""
    f, d = config.features, config.detector
    features = FeatureParams(
        bar_ms=bar_ms,
        window=f.window,
        ema_k=f.ema_k,
        mode=f.mode,
        z_clip=f.z_clip,
        scale_floor=f.scale_floor,
        w_ofi=f.w_ofi,
        w_cvd=f.w_cvd,
        max_lag_ms=f.max_lag_ms or 0,
        activity_k=f.activity_k,
        active_quantile=f.active_quantile,
        min_volume_ratio=f.min_volume_ratio,
    )
    decision = DecisionParams(
        swing_L=d.swing_L,
        z_hi=d.z_hi,
        z_mid=d.z_mid,
        min_separation=d.min_separation,
        cooldown_ms=round(d.cooldown_s * 1000),
        min_score=d.min_score,
        min_vol_ok=d.min_vol_ok,
        min_swing_bps=d.min_swing_bps,
    )
    return DetectorParams(features, decision)


def _check_version(path: Path, top: Mapping[str, Any]) -> None:
    if top.get("version") != VERSION:
        place = key_place(str(path), top, "version", str(path))
        raise ConfigError(f"{place}: version: expected {VERSION}, found {shown_value(top.get('version'))}")


def _mapping(node: Any, place: str, what: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{place}: {what}: expected `key: value` lines, found {shown_value(node)}")
    for key in node:
        if key not in known:
            where = key_place(place.partition(":")[0] if ":" in place else place, node, key, place)
            hint = did_you_mean(str(key), known) or f"; expected one of {', '.join(known)}"
            raise ConfigError(f"{where}: {key}: unknown key{hint}")
    return node


def _section(path: Path, top: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    place = key_place(str(path), top, name, str(path))
    node = top[name]
    if not isinstance(node, Mapping):
        raise ConfigError(f"{place}: {name}: expected `key: value` lines, found {shown_value(node)}")
    known = tuple(f.name for f in fields(kind))
    for key in node:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; expected one of {', '.join(known)}"
            raise ConfigError(f"{key_place(str(path), node, key, place)}: {name}.{key}: unknown key{hint}")
    missing = [key for key in known if key not in node]
    if missing:
        raise ConfigError(f"{place}: {name}.{missing[0]}: missing; released parameters name every one")
    try:
        return kind(**{key: plain(value) for key, value in node.items()})
    except ConfigError as error:
        key = str(error).partition(":")[0]
        raise ConfigError(f"{key_place(str(path), node, key, place)}: {name}.{error}") from error


def _overrides(path: Path, top: Mapping[str, Any]) -> tuple[BucketOverride, ...]:
    place = key_place(str(path), top, "overrides", str(path))
    rows = top.get("overrides")
    if not isinstance(rows, list):
        raise ConfigError(f"{place}: overrides: expected a list, found {shown_value(rows)}")
    found = []
    for number, row in enumerate(rows):
        name = f"overrides[{number}]"
        line = f"{path}:{rows.lc.item(number)[0] + 1}" if hasattr(rows, "lc") else place
        if not isinstance(row, Mapping) or not {"when", "set"} <= set(row) <= set(OVERRIDE_KEYS):
            raise ConfigError(f"{line}: {name}: expected when, set and perhaps why, found {shown_value(row)}")
        for key in ("when", "set"):
            if not isinstance(row[key], Mapping):
                raise ConfigError(f"{line}: {name}.{key}: expected `key: value`, found {shown_value(row[key])}")
        try:
            override = BucketOverride(plain(row["when"]), plain(row["set"]), str(row.get("why", "")))
            DetectorParams(overrides=(override,))  # its values alone; how they go together is asked of all at once
        except ConfigError as error:
            raise ConfigError(f"{line}: {name}: {error}") from error
        found.append(override)
    return tuple(found)
