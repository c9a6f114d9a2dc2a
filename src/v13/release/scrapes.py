"""When Prometheus looked at the runner, and which commits each look has in it: the moments a closure compares at.

Each scrape carries the time of the last commit it counts, so that log and counters are held together to the commit and
not to the second. It knows no event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from v13.errors import DataError
from v13.telemetry.prometheus import Prometheus, Series
from v13.telemetry.queries import Scope, selector

__all__ = ["TARGET_LABELS", "Scrapes", "Window", "find_window", "last_scrape_s", "samples"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

COMMIT: Final = "divergence_last_commit_timestamp_seconds"
TAKEN: Final = "divergence_config_last_reload_success_timestamp_seconds"
STARTED: Final = "process_start_time_seconds"
WORTH: Final = 0.9  # of the longest stretch: what one of whole seconds must have of it
# What Prometheus adds to each series of a target; `v13 deploy` has it add the release, too.
TARGET_LABELS: Final = ("job", "instance", "release")


@dataclass(frozen=True)
class Scrapes:
    """The scrapes of one target in a window.

    Attributes
    ----------
    target : tuple of str
        Job and instance, and the release where it is one of `v13 deploy`.
    ts_s : (n,) float64, Unix seconds, ascending
    counted_ms : (n,) int64, UTC epoch ms
        All that was committed up to and with this millisecond, by the log's clock, is in the counters of the scrape.
    began_ms : (n,) int64, UTC epoch ms
        Since when the scraped process counts what does not resume from the log.
    """

    target: tuple[str, ...]
    ts_s: F64
    counted_ms: I64
    began_ms: I64

    @property
    def lives(self) -> list[slice]:
        """Return the scrapes of each process, one after the other."""
        cuts = [0, *(np.flatnonzero(np.diff(self.began_ms)) + 1).tolist(), self.ts_s.size]
        return [slice(a, b) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Window:
    """A stretch of time between two scrapes.

    Attributes
    ----------
    start_s, end_s : float, Unix seconds
        The end is a scrape; the start is one where whole seconds allow it.
    range_s : int, s
        Length, as queries have it.
    scrape_s : float, s
        Median distance of scrapes.
    scrapes : tuple of Scrapes
        By target, in order of time; none overlap.
    version : str
        Of the Prometheus server.
    """

    start_s: float
    end_s: float
    range_s: int
    scrape_s: float
    scrapes: tuple[Scrapes, ...]
    version: str

    @property
    def has_birth(self) -> bool:
        """Return whether series were born within the window: the runner moved to another target."""
        return len(self.scrapes) > 1

    @property
    def zero_last(self) -> bool:
        """Return the order in which this Prometheus extrapolates, see `promql.increase`."""
        return _is_3(self.version)

    @property
    def n_scrapes(self) -> int:
        return sum(s.ts_s.size for s in self.scrapes)

    @property
    def n_lives(self) -> int:
        return sum(len(s.lives) for s in self.scrapes)

    def scope(self) -> Scope:
        """Return what the dashboard's variables are set to, so that each of its ranges is the window.

        `$__rate_interval` is `$__interval` plus a scrape, or four scrapes: so is the window, unless it is shorter.
        """
        scrape = max(1, round(self.scrape_s))
        return Scope(self.range_s, scrape, window_s=self.range_s, step_s=max(self.range_s - scrape, 1))


def find_window(prometheus: Prometheus, window_s: int, now_s: float) -> Window:
    """Find the longest stretch between two scrapes within the last `window_s`.

    Raises
    ------
    DataError
        There are fewer than two scrapes, or those of two runners at a time: a log is of one.
    ConfigError, V13Error
        See `Prometheus.instant`.
    """
    times = [one.ts_s for one in _gauge(prometheus, COMMIT, window_s, now_s).values()]
    found = np.unique(np.concatenate(times)) if times else np.empty(0)
    found = found[found >= now_s - window_s]
    if found.size < 2:
        raise DataError(
            f"{prometheus.url}: {found.size} scrapes of a runner within the last {window_s} s, expected two at least; "
            "is it scraped (Status, Targets), and was it up at that time?"
        )
    end_s = float(found[-1])
    spans = np.round(end_s - found[:-1], 3)
    whole = spans[spans == np.floor(spans)]
    version = prometheus.version()
    # A busy machine scrapes at odd milliseconds: an even start is not worth most of the window.
    range_s = int(whole[0]) if whole.size and whole[0] >= WORTH * spans[0] else math.ceil(spans[0])
    if _is_3(version) and range_s in spans:
        # Since 3 a range leaves out the sample at its very start. The second more is extrapolated, as on the dashboard.
        range_s += 1
    commits = _gauge(prometheus, COMMIT, range_s, end_s)
    started = _gauge(prometheus, STARTED, range_s, end_s)
    taken = _gauge(prometheus, TAKEN, range_s, end_s)
    scrapes = sorted(
        (
            _scrapes(prometheus.url, target, one, started.get(target), taken.get(target))
            for target, one in commits.items()
        ),
        key=lambda s: float(s.ts_s[0]),
    )
    for first, second in pairwise(scrapes):
        if first.ts_s[-1] >= second.ts_s[0]:
            raise DataError(
                f"{prometheus.url}: {' '.join(first.target)} and {' '.join(second.target)} were scraped side by side; "
                "a log is of one runner, and the dashboard's figures are of both"
            )
    steps = np.concatenate([np.diff(s.ts_s) for s in scrapes])
    return Window(
        end_s - range_s,
        end_s,
        range_s,
        float(np.median(steps)) if steps.size else float(range_s),
        tuple(scrapes),
        version,
    )


def last_scrape_s(prometheus: Prometheus, since_s: float, now_s: float) -> float | None:
    """Return when the last scrape of a runner after `since_s` began; None where there was none.

    Raises
    ------
    ConfigError, DataError, V13Error
        See `Prometheus.instant`.
    """
    range_s = max(math.ceil(now_s - since_s), 1)
    times = [float(one.ts_s[-1]) for one in _gauge(prometheus, COMMIT, range_s, now_s).values() if one.ts_s.size]
    return max((ts_s for ts_s in times if ts_s > since_s), default=None)


def samples(prometheus: Prometheus, name: str, window: Window) -> list[Series]:
    """Return all scraped samples of a metric in a window, one Series for each label set of each target."""
    return prometheus.instant(f"{selector(name)}[{window.range_s}s]", window.end_s)


def target_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return job, instance and release of a series, those there are."""
    return tuple(labels[name] for name in TARGET_LABELS if name in labels)


def _gauge(prometheus: Prometheus, name: str, range_s: int, end_s: float) -> dict[tuple[str, ...], Series]:
    return {target_of(one.labels): one for one in prometheus.instant(f"{selector(name)}[{range_s}s]", end_s)}


def _scrapes(
    url: str, target: tuple[str, ...], commits: Series, started: Series | None, taken: Series | None
) -> Scrapes:
    if started is None or taken is None or not _same_times(commits, started) or not _same_times(commits, taken):
        raise DataError(
            f"{url}: {' '.join(target)}: {COMMIT}, {STARTED} and {TAKEN} are not of the same scrapes; are some dropped "
            "by a relabel rule?"
        )
    is_first = np.diff(started.values, prepend=np.nan) != 0  # of a process
    life = np.cumsum(is_first) - 1
    began_ms = np.round(taken.values[is_first] * 1_000)[life].astype(np.int64)
    counted_ms = np.round(commits.values * 1_000).astype(np.int64)
    return Scrapes(target, commits.ts_s, np.where(counted_ms == 0, began_ms, counted_ms), began_ms)


def _is_3(version: str) -> bool:
    major = version.partition(".")[0]
    return major.isdigit() and int(major) >= 3


def _same_times(a: Series, b: Series) -> bool:
    return bool(np.array_equal(a.ts_s, b.ts_s))
