"""Numbers and times as a person reads them, in tables and pages. The artifacts carry the full precision."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["chance", "interval", "limit", "moment"]


def moment(ts_ms: int) -> str:
    """Return a UTC time for the eye."""
    return str(pd.Timestamp(ts_ms, unit="ms").strftime("%Y-%m-%d %H:%M:%S"))


def interval(ends: tuple[float, float] | None, digits: int) -> str:
    """Return "low to high"."""
    return "" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def chance(p: float | None) -> str:
    """Return a p-value; never one that reads as zero."""
    if p is None:
        return ""
    return "< 0.0001" if p < 0.00005 else f"{p:.4f}"


def limit(threshold: Any) -> str:
    """Return a threshold for the eye."""
    if threshold is None:
        return ""
    if isinstance(threshold, tuple):
        return f"{threshold[0]:g} to {threshold[1]:g}"
    return f"{threshold:g}"
