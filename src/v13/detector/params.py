"""Parameters of the detector: names, ranges, defaults, bucket overrides, and their fingerprint.

The ranges stand here and nowhere else. What each parameter means is in docs/DETECTOR.md, section 4.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from v13.detector.dtypes import CHANNELS, DECISION_PARAMS, FEATURE_PARAMS, N_BUCKETS
from v13.errors import ConfigError

__all__ = [
    "LIQUIDITIES",
    "MODES",
    "SESSIONS",
    "BucketOverride",
    "DecisionParams",
    "DetectorParams",
    "FeatureParams",
    "bucket_name",
    "default_max_lag_ms",
]

MODES: Final = ("delta", "level")
SESSIONS: Final = ("night", "day")  # by flag
LIQUIDITIES: Final = ("quiet", "active")  # by flag

MAX_WINDOW: Final = 100_000
MAX_SWING_L: Final = 1_000
MIN_SILENCE_MS: Final = 5_000  # docs/DETECTOR.md section 4: a healthy liquid symbol is never silent so long


def default_max_lag_ms(bar_ms: int) -> int:
    """Return the staleness limit that fits a bar length: five bars, and at least 5,000 ms."""
    return max(5 * bar_ms, MIN_SILENCE_MS)


@dataclass(frozen=True)
class FeatureParams:
    """Parameters of the feature stage; `max_lag_ms` 0 means the default for the bar length."""

    bar_ms: int = 1_000
    window: int = 300
    ema_k: int = 5
    mode: str = "delta"
    z_clip: float = 5.0
    scale_floor: float = 0.1
    w_ofi: float = 0.6
    w_cvd: float = 0.4
    max_lag_ms: int = 0
    activity_k: int = 30
    active_quantile: float = 0.5
    min_volume_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.max_lag_ms == 0:
            object.__setattr__(self, "max_lag_ms", default_max_lag_ms(self.bar_ms))
        _whole("bar_ms", self.bar_ms, 1, 86_400_000 * 31)
        _whole("window", self.window, 10, MAX_WINDOW)
        _whole("ema_k", self.ema_k, 1, 10_000)
        if self.mode not in MODES:
            raise ConfigError(f"mode: expected one of {', '.join(MODES)}, found {self.mode!r}")
        _real("z_clip", self.z_clip, 0.1, 100.0)
        _real("scale_floor", self.scale_floor, 0.0, 1.0)
        _real("w_ofi", self.w_ofi, 0.0, 1e6)
        _real("w_cvd", self.w_cvd, 0.0, 1e6)
        if self.w_ofi + self.w_cvd <= 0:
            raise ConfigError("w_ofi + w_cvd: expected a positive sum, found 0")
        _whole("max_lag_ms", self.max_lag_ms, 1, 2**40)
        _whole("activity_k", self.activity_k, 1, 10_000)
        _real("active_quantile", self.active_quantile, 0.0, 1.0)
        _real("min_volume_ratio", self.min_volume_ratio, 0.0, 1e6)

    @property
    def memory_bars(self) -> int:
        """Bars after which what lies further back weighs less than 1e-9 in a feature: window plus EMA tail."""
        tail = math.ceil(math.log(1e9) * (max(self.ema_k, self.activity_k) + 1) / 2)
        return self.window + tail

    def record(self) -> NDArray[np.void]:
        """Return the one-row FEATURE_PARAMS array the kernel takes."""
        row = np.zeros(1, FEATURE_PARAMS)
        for name, value in asdict(self).items():
            if name == "mode":
                row["level_mode"] = MODES.index(value)
            else:
                row[name] = value
        return row


@dataclass(frozen=True)
class DecisionParams:
    """Thresholds and gates of the decision stage; a bucket may override any of them."""

    swing_L: int = 13
    z_hi: float = 2.0
    z_mid: float = 0.8
    min_separation: int = 5
    cooldown_ms: int = 30_000
    min_score: float = 40.0
    min_vol_ok: float = 0.2
    min_swing_bps: float = 0.5

    def __post_init__(self) -> None:
        _whole("swing_L", self.swing_L, 1, MAX_SWING_L)
        _real("z_hi", self.z_hi, 0.0, 100.0)
        _real("z_mid", self.z_mid, 0.0, 100.0)
        if self.z_mid > self.z_hi:
            raise ConfigError(f"z_mid: expected at most z_hi ({self.z_hi:g}), found {self.z_mid:g}")
        _whole("min_separation", self.min_separation, 0, 10**6)
        _whole("cooldown_ms", self.cooldown_ms, 0, 2**40)
        _real("min_score", self.min_score, 0.0, 100.0)
        _real("min_vol_ok", self.min_vol_ok, 0.0, 1.0)
        _real("min_swing_bps", self.min_swing_bps, 0.0, 1e4)


WHEN_NAMES: Final = ("session", "liquidity", "source")
DECISION_NAMES: Final = tuple(f.name for f in fields(DecisionParams))


@dataclass(frozen=True)
class BucketOverride:
    """`when {session, liquidity, source} set {decision parameters}`; `why` is for the reader of the file."""

    when: Mapping[str, str]
    set: Mapping[str, float]
    why: str = ""

    def __post_init__(self) -> None:
        allowed = {"session": SESSIONS, "liquidity": LIQUIDITIES, "source": CHANNELS}
        for key, value in self.when.items():
            if key not in allowed:
                raise ConfigError(f"when: expected keys {', '.join(allowed)}, found {key!r}")
            if value not in allowed[key]:
                raise ConfigError(f"when.{key}: expected one of {', '.join(allowed[key])}, found {value!r}")
        unknown = [k for k in self.set if k not in DECISION_NAMES]
        if unknown or not self.set:
            raise ConfigError(f"set: expected some of {', '.join(DECISION_NAMES)}, found {unknown or 'nothing'}")

    def matches(self, session: int, liquidity: int, channel: int) -> bool:
        """Tell whether a bucket falls under this override."""
        bucket = {"session": SESSIONS[session], "liquidity": LIQUIDITIES[liquidity], "source": CHANNELS[channel]}
        return all(bucket[k] == v for k, v in self.when.items())


@dataclass(frozen=True)
class DetectorParams:
    """Everything that decides what the detector says, and nothing else."""

    features: FeatureParams = field(default_factory=FeatureParams)
    decision: DecisionParams = field(default_factory=DecisionParams)
    overrides: tuple[BucketOverride, ...] = ()

    def __post_init__(self) -> None:
        self.bucket_params()  # an override that makes a bad combination is refused at birth

    def bucket_params(self) -> tuple[DecisionParams, ...]:
        """Return the parameters of the 12 buckets, by bucket number.

        Each key takes its value from the most specific override that matches and sets it.

        Raises
        ------
        ConfigError
            Two equally specific overrides set one key of one bucket to different values, or a
            combination is out of range.
        """
        resolved = []
        for number in range(N_BUCKETS):
            session, liquidity, channel = number // 6, number // 3 % 2, number % 3
            values: dict[str, tuple[int, float]] = {}
            for override in self.overrides:
                if not override.matches(session, liquidity, channel):
                    continue
                rank = len(override.when)
                for key, value in override.set.items():
                    old = values.get(key)
                    if old is not None and old[0] == rank and old[1] != value:
                        raise ConfigError(
                            f"overrides: {key} of bucket {bucket_name(number)} is set to {old[1]:g} and to {value:g} "
                            "by two equally specific entries; make one of them more specific"
                        )
                    if old is None or rank >= old[0]:
                        values[key] = (rank, value)
            changes: dict[str, Any] = {k: _cast(k, v[1]) for k, v in values.items()}
            resolved.append(replace(self.decision, **changes))
        return tuple(resolved)

    def record(self) -> NDArray[np.void]:
        """Return the (12,) DECISION_PARAMS array the kernel takes."""
        rows = np.zeros(N_BUCKETS, DECISION_PARAMS)
        for number, params in enumerate(self.bucket_params()):
            for name in DECISION_NAMES:
                rows[number][name] = getattr(params, name)
        return rows

    def rules(self) -> tuple[str, ...]:
        """Return what chose the parameters of each of the 12 buckets: `global`, or the overrides that apply.

        Overrides that mean the same give the same text, however their keys and they themselves are ordered.
        """
        found = []
        for number in range(N_BUCKETS):
            bucket = number // 6, number // 3 % 2, number % 3
            applied = [o for o in self.overrides if o.matches(*bucket)]
            shown = [(len(o.when), f"{_pairs(o.when) or 'always'} -> {_pairs(o.set)}") for o in applied]
            found.append("; ".join(text for _, text in sorted(shown)) or "global")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for YAML and JSON."""
        return {
            "features": asdict(self.features),
            "decision": asdict(self.decision),
            "overrides": [{"when": dict(o.when), "set": dict(o.set), "why": o.why} for o in self.overrides],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> DetectorParams:
        """Build parameters from `to_dict` values.

        Raises
        ------
        ConfigError
            A value is out of range, or an override is malformed.
        """
        return cls(
            FeatureParams(**document["features"]),
            DecisionParams(**document["decision"]),
            tuple(BucketOverride(o["when"], o["set"], o.get("why", "")) for o in document["overrides"]),
        )

    def fingerprint(self) -> str:
        """Return the sha256 of what the kernel is given; comments (`why`) do not count."""
        shown = self.to_dict()
        shown["overrides"] = [asdict(p) for p in self.bucket_params()]
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def bucket_name(number: int) -> str:
    """Return `session/liquidity/source` of a bucket number."""
    return f"{SESSIONS[number // 6]}/{LIQUIDITIES[number // 3 % 2]}/{CHANNELS[number % 3]}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={values[key]}" for key in (*WHEN_NAMES, *DECISION_NAMES) if key in values)


def _cast(name: str, value: float) -> float:
    return int(value) if name in ("swing_L", "min_separation", "cooldown_ms") and value == int(value) else value


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r}")


def _real(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, (int, float, np.floating)) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name}: expected a number from {low:g} to {high:g}, found {value!r}")


def override_rows(overrides: Sequence[BucketOverride]) -> list[dict[str, Any]]:
    """Return overrides as the plain rows `best_by_bucket.yaml` holds."""
    return [{"when": dict(o.when), "set": dict(o.set), "why": o.why} for o in overrides]
