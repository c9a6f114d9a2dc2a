"""The holdout ledger: who sealed and who looked at which holdout, so that trying again costs alpha.

It must not know how a verdict comes about; what the k-th look costs is said in `v13.measures.spending`.
"""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import v13
from v13.errors import StoreError
from v13.store.chain import ChainedLog, Row, canonical

__all__ = ["HOLDOUT_LEDGER", "HoldoutLedger", "Look", "Seal", "Span"]

HOLDOUT_LEDGER: Final = Path("runs", "holdout_ledger.sqlite")  # below the project's root
APPLICATION_ID: Final = 0x56313348  # "V13H" in the file's header
SCHEMA: Final = 1
UNKNOWN_MARKET: Final = "unknown"  # what readers say where a recording does not tell


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of one symbol's record, from_ms <= t < to_ms (UTC epoch ms); adjacent spans share nothing."""

    market: str
    symbol: str
    from_ms: int
    to_ms: int
    simulated: bool = False

    def __post_init__(self) -> None:
        """Refuse a span without any time: it is to be left out."""
        if self.from_ms >= self.to_ms:
            raise StoreError(f"span of {self.symbol}: expected from_ms < to_ms, found {self.from_ms}, {self.to_ms}")

    def overlaps(self, other: Span) -> bool:
        """Return whether both hold the same bars at some time; a market that is not known may be any."""
        return (
            self.symbol == other.symbol
            and self.simulated == other.simulated
            and (self.market == other.market or UNKNOWN_MARKET in (self.market, other.market))
            and self.from_ms < other.to_ms
            and other.from_ms < self.to_ms
        )


@dataclass(frozen=True)
class Seal:
    """What a run commits to before its search; all of it follows from the key."""

    key: str
    holdout_sha256: str
    holdout: Sequence[Span]
    search: Sequence[Span]
    code_fingerprint: str
    config_fingerprint: str
    seed: int


@dataclass(frozen=True)
class Look:
    """One look at a holdout, as it was entered.

    number = 1 + n_earlier_looks + n_searched_before; a key that counts as a look is not counted as a search again.
    `sha256` is the hash of its row: kept elsewhere, it gives away a ledger whose end was cut off.
    """

    key: str
    number: int
    first_seen_utc: str
    n_earlier_looks: int
    n_searched_before: int
    simulated: bool
    is_repeat: bool  # whether the row was there before this call
    verdict: str | None
    holdout_sha256: str
    holdout: tuple[Span, ...]
    sha256: str

    @property
    def alpha_share(self) -> float:
        """Share of alpha this look is judged at; 1 on simulated data, as a market can be simulated anew any time."""
        from v13.measures.spending import alpha_of  # takes over a second to import; the runner needs none of it

        return 1.0 if self.simulated else alpha_of(1.0, self.number)


class HoldoutLedger:
    """The ledger at `path`; the first seal makes the file.

    Parameters
    ----------
    path : Path
    now : callable
        The clock, for tests to set.

    Notes
    -----
    Each call is one transaction that checks the whole chain first, so a ledger that was tampered with hands out no
    numbers. A row is durable when the call returns. Every method raises StoreError as `ChainedLog` does.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self._log = ChainedLog(path, application_id=APPLICATION_ID, schema=SCHEMA, now=now)

    def seal(self, entry: Seal) -> None:
        """Enter what a run is about to search and what it leaves alone; a rerun of the same key adds nothing.

        Raises
        ------
        StoreError
            The key was sealed with another holdout or other facts, so it no longer stands for its inputs.
        """
        facts = _facts(entry)
        with self._log.transaction(create=True) as t:
            old = _find(t.rows, "seal", entry.key)
            if old is None:
                who = {"v13": v13.__version__, "user": _user(), "host": platform.node()}
                t.append("seal", entry.key, {"sealed": facts} | who)
            elif old.record["sealed"] != facts:
                differ = sorted(name for name in facts if old.record["sealed"].get(name) != facts[name])
                raise StoreError(
                    f"{self.path}: run {entry.key[:12]} was sealed in row {old.n} with another {', '.join(differ)}: "
                    "the data changed under the same key; read the recordings anew"
                )

    def look(self, key: str, holdout_sha256: str) -> Look:
        """Enter a look at the holdout that `key` sealed, before it is judged.

        Its number is 1 + other keys that looked at any of these bars + other keys that sealed a search over any of
        them. It is decided once: a rerun of the same key is the same look, whatever came in between.

        Raises
        ------
        StoreError
            The key has no seal, or sealed another holdout.
        """
        with self._log.transaction() as t:
            seal = _find(t.rows, "seal", key)
            if seal is None:
                raise StoreError(f"{self.path}: run {key[:12]} has no seal; a run is sealed before its search")
            sealed = seal.record["sealed"]
            if sealed["holdout_sha256"] != holdout_sha256:
                raise StoreError(
                    f"{self.path}: run {key[:12]} sealed holdout {sealed['holdout_sha256'][:12]}, found "
                    f"{holdout_sha256[:12]}: the data changed since the search; search again"
                )
            row = _find(t.rows, "look", key)
            if row is not None:
                return _look(row, t.rows, is_repeat=True)
            looked, searched = _before(t.rows, key, _spans(sealed["holdout"]))
            count = {
                "number": 1 + len(looked | searched),
                "n_earlier_looks": len(looked),
                "n_searched_before": len(searched - looked),
            }
            same = {name: sealed[name] for name in ("holdout_sha256", "holdout", "simulated")}
            return _look(t.append("look", key, same | count), t.rows, is_repeat=False)

    def record_verdict(self, key: str, verdict: str) -> None:
        """Enter what a look came to; adds nothing where that is its latest verdict already.

        Raises
        ------
        StoreError
            The key has not looked.
        """
        with self._log.transaction() as t:
            look = _find(t.rows, "look", key)
            if look is None:
                raise StoreError(f"{self.path}: run {key[:12]} has a verdict but has not looked at its holdout")
            if _look(look, t.rows, is_repeat=True).verdict != verdict:
                t.append("verdict", key, {"verdict": verdict})

    def looks_at(self, spans: Iterable[Span] | None = None) -> list[Look]:
        """Return the looks whose holdout overlaps any of `spans` (None: all looks), oldest first."""
        rows = self.rows()
        looks = [_look(row, rows, is_repeat=True) for row in rows if row.record["kind"] == "look"]
        if spans is None:
            return looks
        overlap = _overlap_with(spans)
        return [look for look in looks if overlap(look.holdout)]

    def rows(self) -> list[Row]:
        """Return all rows, oldest first; none where there is no file."""
        return self._log.rows()

    def verify(self) -> str:
        """Check the file and its chain; return the hash of the last row, as `ChainedLog.verify`."""
        return self._log.verify()


def _facts(entry: Seal) -> dict[str, Any]:
    facts = asdict(entry)
    del facts["key"]
    facts["holdout"] = [astuple(span) for span in sorted(entry.holdout)]
    facts["search"] = [astuple(span) for span in sorted(entry.search)]
    facts["simulated"] = any(span.simulated for span in (*entry.holdout, *entry.search))
    plain: dict[str, Any] = json.loads(canonical(facts))  # as it will be read back, to be compared
    return plain


def _before(rows: Iterable[Row], key: str, holdout: Iterable[Span]) -> tuple[set[str], set[str]]:
    """Return the other keys that looked at some of these bars, and those that sealed a search over some of them."""
    overlap = _overlap_with(holdout)
    looked, searched = set(), set()
    for record in (row.record for row in rows if row.record["key"] != key):
        if record["kind"] == "look" and overlap(_spans(record["holdout"])):
            looked.add(record["key"])
        elif record["kind"] == "seal" and overlap(_spans(record["sealed"]["search"])):
            searched.add(record["key"])
    return looked, searched


def _overlap_with(spans: Iterable[Span]) -> Callable[[Iterable[Span]], bool]:
    by_symbol: dict[str, list[Span]] = {}
    for span in spans:
        by_symbol.setdefault(span.symbol, []).append(span)
    return lambda others: any(o.overlaps(s) for o in others for s in by_symbol.get(o.symbol, ()))


def _look(row: Row, rows: Iterable[Row], *, is_repeat: bool) -> Look:
    r = row.record
    verdicts = [x.record["verdict"] for x in rows if x.record["kind"] == "verdict" and x.record["key"] == r["key"]]
    return Look(
        key=r["key"],
        number=r["number"],
        first_seen_utc=r["utc"],
        n_earlier_looks=r["n_earlier_looks"],
        n_searched_before=r["n_searched_before"],
        simulated=r["simulated"],
        is_repeat=is_repeat,
        verdict=verdicts[-1] if verdicts else None,
        holdout_sha256=r["holdout_sha256"],
        holdout=tuple(_spans(r["holdout"])),
        sha256=row.sha256,
    )


def _find(rows: Iterable[Row], kind: str, key: str) -> Row | None:
    return next((row for row in rows if row.record["kind"] == kind and row.record["key"] == key), None)


def _spans(listed: Iterable[Sequence[Any]]) -> list[Span]:
    return [Span(*values) for values in listed]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user number need not have a name
        return "unknown"
