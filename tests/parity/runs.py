"""Ways of running the detector that the parity tests compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v13.detector import Detector, DetectorParams

__all__ = ["in_chunks", "one_by_one", "through_snapshots", "whole"]


def whole(params: DetectorParams, bars: np.ndarray) -> np.ndarray:
    return Detector(params).run(bars)


def in_chunks(params: DetectorParams, bars: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    detector = Detector(params)
    return np.concatenate([detector.run(piece) for piece in np.split(bars, sorted(cuts))])


def one_by_one(params: DetectorParams, bars: np.ndarray) -> np.ndarray:
    detector = Detector(params)
    return np.concatenate([detector.update(bar) for bar in bars])


def through_snapshots(params: DetectorParams, bars: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """Kill the detector at every cut and go on with another one, restored from its snapshot."""
    found = []
    state = Detector(params).snapshot()
    for piece in np.split(bars, sorted(cuts)):
        detector = Detector(params)
        detector.restore(state)
        found.append(detector.run(piece))
        state = detector.snapshot()
    return np.concatenate(found)
