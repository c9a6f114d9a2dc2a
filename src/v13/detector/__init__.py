"""The product: one compiled divergence detector for research and production."""

from v13.detector.columns import FeatureColumns, compute_columns
from v13.detector.dtypes import BAR, CHANNELS, EVENT, FEATURE, KINDS, REASONS, TYPES
from v13.detector.engine import Detector, compute_features, divergences, prices, replay
from v13.detector.mapping import CalibrationMap, Curve
from v13.detector.params import BucketOverride, DecisionParams, DetectorParams, FeatureParams
from v13.detector.scanning import Scan, candidates, scan
from v13.detector.sessions import SessionClock

__all__ = [
    "BAR",
    "CHANNELS",
    "EVENT",
    "FEATURE",
    "KINDS",
    "REASONS",
    "TYPES",
    "BucketOverride",
    "CalibrationMap",
    "Curve",
    "DecisionParams",
    "Detector",
    "DetectorParams",
    "FeatureColumns",
    "FeatureParams",
    "Scan",
    "SessionClock",
    "candidates",
    "compute_columns",
    "compute_features",
    "divergences",
    "prices",
    "replay",
    "scan",
]
