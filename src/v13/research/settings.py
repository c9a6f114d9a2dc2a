"""The settings of a grid: columns of values, and each point as detector parameters when somebody asks for it.

Ten thousand parameter objects take longer to build than to judge, so a grid is kept as columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from v13.detector import DecisionParams, DetectorParams, FeatureParams
from v13.errors import ConfigError

__all__ = ["Setting", "Settings", "expand_grid"]

_DECISION_KEYS = {f.name for f in fields(DecisionParams)}
_FEATURE_KEYS = {f.name for f in fields(FeatureParams)}


@dataclass(frozen=True)
class Setting:
    """One point of the grid; `coords` are its positions along the grid's axes."""

    number: int
    params: DetectorParams
    coords: tuple[int, ...]
    values: Mapping[str, Any]


class Settings(Sequence[Setting]):
    """The points of a grid.

    Attributes
    ----------
    base : DetectorParams
        What is not on an axis.
    axes : mapping
        Values of each searched parameter, as given.
    coords : (S, D) int64
        Position of each point along each axis.
    columns : mapping of (S,) arrays
        Value of each searched parameter at each point.
    feature_group : (S,) int64
        Points with one number share all feature parameters.
    """

    def __init__(self, base: DetectorParams, axes: Mapping[str, Sequence[Any]], coords: NDArray[np.int64]) -> None:
        self.base, self.axes, self.coords = base, axes, coords
        self.columns = {key: np.asarray(axis)[coords[:, d]] for d, (key, axis) in enumerate(axes.items())}
        of_features = [d for d, key in enumerate(axes) if key in _FEATURE_KEYS]
        _, group = np.unique(coords[:, of_features], axis=0, return_inverse=True)
        self.feature_group: NDArray[np.int64] = group.ravel() if of_features else np.zeros(len(coords), np.int64)
        self._built: dict[int, Setting] = {}

    def __len__(self) -> int:
        return len(self.coords)

    @overload
    def __getitem__(self, at: int) -> Setting: ...
    @overload
    def __getitem__(self, at: slice) -> list[Setting]: ...
    def __getitem__(self, at: int | slice) -> Setting | list[Setting]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = at + len(self) if at < 0 else at
        if not 0 <= number < len(self):
            raise IndexError(f"setting {at} of {len(self)}")
        if number not in self._built:
            coords = tuple(self.coords[number].tolist())
            values = {key: axis[c] for (key, axis), c in zip(self.axes.items(), coords, strict=True)}
            decision = replace(self.base.decision, **{k: v for k, v in values.items() if k in _DECISION_KEYS})
            params = DetectorParams(self.features_of(number), decision)
            self._built[number] = Setting(number, params, coords, values)
        return self._built[number]

    def subset(self, numbers: NDArray[np.int64]) -> Settings:
        """Return some of the points, in the given order, numbered anew."""
        return Settings(self.base, self.axes, self.coords[numbers])

    def features_of(self, number: int) -> FeatureParams:
        """Return the feature parameters of one point."""
        values = {
            key: axis[self.coords[number, d]] for d, (key, axis) in enumerate(self.axes.items()) if key in _FEATURE_KEYS
        }
        return replace(self.base.features, **values)

    def features(self) -> list[FeatureParams]:
        """Return the distinct feature parameters of the grid."""
        return [self.features_of(int(i)) for i in np.unique(self.feature_group, return_index=True)[1]]

    def longest_swing(self) -> int:
        """Return the largest swing_L of any point, bars."""
        return int(self.columns["swing_L"].max()) if "swing_L" in self.columns else self.base.decision.swing_L

    def is_real(self) -> NDArray[np.bool_]:
        """Return (D,) whether an axis is of real values: along it one step is a small change."""
        return np.array([any(isinstance(v, float) for v in axis) for axis in self.axes.values()], bool)


def expand_grid(base: DetectorParams, grid: Mapping[str, Sequence[Any]]) -> Settings:
    """Return the settings of a grid over decision and feature parameters; points with z_mid > z_hi are left out.

    Raises
    ------
    ConfigError
        A key is not a parameter, a value is out of range, or no valid point is left.
    """
    unknown = [k for k in grid if k not in _DECISION_KEYS | _FEATURE_KEYS]
    if unknown:
        raise ConfigError(f"search.grid: {', '.join(unknown)}: not a detector parameter")
    sizes = [len(axis) for axis in grid.values()]
    coords = np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int64)
    low = np.full(len(coords), base.decision.z_mid)
    high = np.full(len(coords), base.decision.z_hi)
    for d, (key, axis) in enumerate(grid.items()):
        if key == "z_mid":
            low = np.asarray(axis, np.float64)[coords[:, d]]
        elif key == "z_hi":
            high = np.asarray(axis, np.float64)[coords[:, d]]
    coords = coords[low <= high]
    if not len(coords):
        raise ConfigError("search.grid: no point has z_mid <= z_hi")
    settings = Settings(base, {key: tuple(axis) for key, axis in grid.items()}, coords)
    for d in range(len(sizes)):  # every value is checked once, at the first point that has it
        for at in np.unique(coords[:, d], return_index=True)[1]:
            settings[int(at)]
    return settings
