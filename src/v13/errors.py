"""The one exception tree of v13, and the process exit code of each class.

Nothing else may be raised on purpose by the package. A failed acceptance gate is a *result*
(`v13.measures.gates.Verdict`), not an exception.
"""

from __future__ import annotations

__all__ = [
    "EXIT_GATE",
    "EXIT_OK",
    "EXIT_USAGE",
    "ConfigError",
    "DataError",
    "FeedError",
    "ReleaseError",
    "StoreError",
    "V13Error",
]

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_GATE = 4  # the run is complete and true, and its verdict is not PASS


class V13Error(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(V13Error):
    """A setting is unknown, out of range, or contradicts another. Names file, key and line."""

    exit_code = 3


class DataError(V13Error):
    """Input data cannot be read or breaks a stated policy. Names file, row and reason."""

    exit_code = 3


class FeedError(V13Error):
    """A live feed broke its protocol beyond recovery."""

    exit_code = 1


class StoreError(V13Error):
    """An output could not be written, or a stored artifact is damaged."""

    exit_code = 1


class ReleaseError(V13Error):
    """A release step was refused or could not be completed."""

    exit_code = 1
