"""Who serves a symbol from when on: the hand-over to another release and the hand-back, without a bar in between.

Both releases make the same bars of the same feed, so all that has to be agreed on is a time: up to it the events of the
one count, from it on those of the other. It is entered in the ledger; no process has to act at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from v13.release.ledger import Assignment, State
from v13.release.site import Site
from v13.store.event_standing import standing

__all__ = ["behind", "handback_rows", "handover_rows", "owner_at", "passed"]

BARS_AHEAD: Final = 2  # so that neither release can have closed the bar when the ledger says whose it is


def handover_rows(
    site: Site, symbols: Iterable[str], old: str | None, new: str, bar_ms: int, *, old_runs: bool = True
) -> list[tuple[str, dict[str, Any]]]:
    """Return ledger rows that give symbols to a new release.

    Two bars from now where the old release runs; behind its last bar where it has been stopped; from the first bar on
    where nobody ever served a symbol.

    Parameters
    ----------
    site : Site
    symbols : iterable of str
    old, new : str
        Releases; the new one runs and follows the symbols.
    bar_ms : int, ms
    old_runs : bool
    """
    at_new = standing(site.event_log(new)).bars
    at_old = {} if old is None else standing(site.event_log(old)).bars
    rows = []
    for symbol in symbols:
        from_ms = 0
        if symbol in at_old and old_runs:
            from_ms = max(at_old[symbol], at_new.get(symbol, 0)) + BARS_AHEAD * bar_ms
        elif symbol in at_old:
            from_ms = at_old[symbol] + 1
        rows.append(("assign", {"symbol": symbol, "from_ms": from_ms, "release": new}))
    return rows


def handback_rows(
    site: Site, state: State, bad: str, good: str, followed: Iterable[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return ledger rows that give back what a release serves, from the bar after its last committed one on.

    It has been stopped before, so that no further bar of it can come. What it had been promised but never reached is
    given back from where it was to begin. What the good release does not follow is not given: nobody would serve it,
    and the ledger would say that somebody does.
    """
    at_bad, known = standing(site.event_log(bad)).bars, frozenset(followed)
    rows = []
    for symbol in dict.fromkeys(a.symbol for a in state.serving):
        if state.serves(symbol) != bad or symbol not in known:
            continue
        promised_ms = next(a.from_ms for a in reversed(state.serving) if a.symbol == symbol)
        last_ms = at_bad.get(symbol)
        from_ms = promised_ms if last_ms is None else last_ms + 1
        rows.append(("assign", {"symbol": symbol, "from_ms": from_ms, "release": good}))
    return rows


def passed(site: Site, rows: Sequence[tuple[str, dict[str, Any]]], releases: Sequence[str]) -> str:
    """Return which release (the new one first) has not come to a hand-over's time yet; empty once all have."""
    for release in releases:
        bars = standing(site.event_log(release)).bars
        for _, facts in rows:
            if facts["symbol"] not in bars and release != releases[0]:
                continue  # a symbol that the release before does not follow
            if bars.get(facts["symbol"], -1) < facts["from_ms"]:
                return f"release {release} has not closed the bar of {facts['symbol']} at {facts['from_ms']} yet"
    return ""


def behind(site: Site, symbols: Iterable[str], stable: str, candidate: str, most_ms: int) -> list[str]:
    """Return the symbols in which the candidate has fallen behind the stable release by more than a time."""
    old, new = standing(site.event_log(stable)).bars, standing(site.event_log(candidate)).bars
    return [s for s in symbols if s in old and old[s] - new.get(s, 0) > most_ms]


def owner_at(serving: Sequence[Assignment], symbol: str, ts_ms: int) -> str | None:
    """Return the release whose events of a symbol count at a time: the last assignment that is not later."""
    return next((a.release for a in reversed(serving) if a.symbol == symbol and a.from_ms <= ts_ms), None)
