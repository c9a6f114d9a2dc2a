"""Ranges of detector settings, asked of the detector itself, and problems that concern several settings.

No range is written down here: `v13.detector.params` holds them, and this module only puts its answer into words that
name one setting.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pydantic_core import PydanticCustomError

from v13.detector.params import DecisionParams, FeatureParams
from v13.errors import ConfigError

__all__ = ["GRID_NAMES", "Problem", "axis_problems", "did_you_mean", "range_problem", "refuse"]

# A setting is judged alone: its partners in the detector's own cross checks are set out of its way.
_DECISION_PARTNERS: Final = {"z_hi": 100.0, "z_mid": 0.0}
_FEATURE_PARTNERS: Final = {"w_ofi": 1.0, "w_cvd": 1.0}

_DECISION: Final = {f.name: f.default for f in fields(DecisionParams)}
_FEATURES: Final = {f.name: f.default for f in fields(FeatureParams) if f.name != "bar_ms"}

# What the search may vary. The bar length is not a parameter: it decides what the data are.
GRID_NAMES: Final = (*_DECISION, *_FEATURES)


@dataclass(frozen=True)
class Problem:
    """Something wrong with the settings `keys` (dotted); the first is the one to change."""

    keys: tuple[str, ...]
    text: str


def refuse(problems: Sequence[Problem]) -> None:
    """Raise the error pydantic collects if there are problems; the loader takes them apart again by `keys`."""
    if problems:
        text = "; ".join(f"{p.keys[0]}: {p.text}" for p in problems)
        raise PydanticCustomError("v13", "{text}", {"text": text, "problems": tuple(problems)})


def range_problem(name: str, value: Any) -> str | None:
    """Return what is wrong with one detector parameter, or None.

    Parameters
    ----------
    name : str
        One of GRID_NAMES.
    value : object
        Candidate value.
    """
    if name == "max_lag_ms" and value == 0:
        return "expected null (five bars, at least 5000 ms) or a whole number from 1, found 0"
    try:
        if name in _DECISION:
            DecisionParams(**{**_DECISION_PARTNERS, name: value})
        else:
            FeatureParams(**{**_FEATURE_PARTNERS, name: value})
    except ConfigError as error:
        return str(error).removeprefix(f"{name}: ")
    return None


def axis_problems(grid: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the axes of a search grid.

    An axis must ascend, as the search looks for plateaus among neighbouring values.
    """
    problems = []
    for name, axis in grid.items():
        key = f"search.grid.{name}"
        if name not in GRID_NAMES:
            problems.append(Problem((key,), f"unknown key{did_you_mean(name, GRID_NAMES)}"))
            continue
        if not isinstance(axis, list | tuple) or not axis:
            problems.append(Problem((key,), f"expected a list of one value or more, found {axis!r}"))
            continue
        found = [p for p in (range_problem(name, value) for value in axis) if p is not None]
        problems += [Problem((key,), text) for text in found]
        if not found and any(a >= b for a, b in itertools.pairwise(axis)):
            problems.append(Problem((key,), f"expected ascending values, each once, found {list(axis)}"))
    return problems


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, with its leading semicolon, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""
