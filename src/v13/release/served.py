"""The events that count: of every symbol and time those of the release that served it, out of all releases' logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from v13.errors import ReleaseError
from v13.release.ledger import Assignment
from v13.release.site import Site
from v13.store.event_reader import read_events

__all__ = ["served_events", "spans"]

END_MS: Final = 2**62


def spans(serving: Sequence[Assignment]) -> list[tuple[str, int, int, str]]:
    """Return (symbol, from_ms, to_ms, release), from_ms <= t < to_ms, without overlap: later rows win from then on."""
    found: list[tuple[str, int, int, str]] = []
    for symbol in dict.fromkeys(a.symbol for a in serving):
        own: list[Assignment] = []
        for one in (a for a in serving if a.symbol == symbol):
            own = [*(a for a in own if a.from_ms < one.from_ms), one]
        for at, one in enumerate(own):
            to_ms = own[at + 1].from_ms if at + 1 < len(own) else END_MS
            found.append((symbol, one.from_ms, to_ms, one.release))
    return found


def served_events(
    site: Site, serving: Sequence[Assignment], *, since_ms: int | None = None, symbols: Sequence[str] = ()
) -> pl.DataFrame:
    """Return the events that count, in order of time, with a column `release`.

    Parameters
    ----------
    site : Site
    serving : sequence of Assignment
        Of the ledger's state.
    since_ms : int, epoch ms, optional
    symbols : sequence of str
        None: all.

    Raises
    ------
    ReleaseError
        Nothing was ever served.
    StoreError
        A log cannot be read.
    """
    parts = []
    of = [s for s in spans(serving) if not symbols or s[0] in symbols]
    for release in dict.fromkeys(s[3] for s in of):
        path = site.event_log(release)
        if not path.exists():
            continue
        events = read_events(path, since_ms=since_ms, symbols=list(dict.fromkeys(s[0] for s in of if s[3] == release)))
        counts = pl.any_horizontal(
            (pl.col("symbol") == symbol) & (pl.col("ts_ms") >= from_ms) & (pl.col("ts_ms") < to_ms)
            for symbol, from_ms, to_ms, of_release in of
            if of_release == release
        )
        parts.append(events.filter(counts).with_columns(release=pl.lit(release)))
    if not parts:
        raise ReleaseError(f"{site.ledger}: nothing has been served yet; `v13 deploy` does that")
    return pl.concat(parts, how="diagonal").sort("ts_ms", "symbol", "type", maintain_order=True)
