"""The event log as others read it while the runner writes: data frames of events, words in place of numbers.

It must not write: readers open the file read-only, so that nobody but the one writer ever folds the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import polars as pl

from v13.detector.dtypes import CHANNELS, EVENT, KINDS, TYPES
from v13.detector.params import LIQUIDITIES, SESSIONS
from v13.errors import StoreError
from v13.store.event_file import identity, open_reader, refusals
from v13.store.event_schema import EVENT_FIELDS
from v13.store.event_tallies import SIDES

__all__ = ["EventReader", "read_events"]

PAGE_EVENTS: Final = 10_000  # a page is one query, and no query stays open in between: it would hold up the journal
AGREE: Final = tuple("|".join(c for i, c in enumerate(CHANNELS) if bits >> i & 1) for bits in range(1 << len(CHANNELS)))
_WORDS: Final[dict[str, dict[int, str]]] = {
    "type": dict(enumerate(TYPES)),
    "side": {**SIDES, 0: "none"},
    "kind": dict(enumerate(KINDS)),
    "source": dict(enumerate(CHANNELS)),
    "agree": dict(enumerate(AGREE)),
    "session": dict(enumerate(SESSIONS)),
    "liquidity": dict(enumerate(LIQUIDITIES)),
}
_HORIZONS: Final = (  # one look-up a horizon in each table, whatever their sizes
    "WITH RECURSIVE o(h) AS (SELECT min(horizon_bars) FROM outcome UNION ALL SELECT (SELECT min(horizon_bars) FROM "
    "outcome WHERE horizon_bars > h) FROM o WHERE h IS NOT NULL), c(h) AS (SELECT min(horizon_bars) FROM calibrated "
    "UNION ALL SELECT (SELECT min(horizon_bars) FROM calibrated WHERE horizon_bars > h) FROM c WHERE h IS NOT NULL) "
    "SELECT h FROM o WHERE h IS NOT NULL UNION SELECT h FROM c WHERE h IS NOT NULL ORDER BY 1"
)


class EventReader:
    """A read-only connection to the log at `path`; a context manager.

    horizons holds the horizons (bars) that had outcomes or calibrated values when it was opened.

    Raises
    ------
    StoreError
        There is no such file, or it is damaged, of another kind or schema, or cannot be read; methods raise it too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_reader(path)
        self._identity = identity(path)
        with refusals(path):
            self.horizons: list[int] = [h for (h,) in self._db.execute(_HORIZONS).fetchall()]
        self._schema = _schema(self.horizons)
        self._query = _query(self.horizons)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    def latest(self) -> tuple[int, int] | None:
        """Return (n, ts_ms) of the event entered last; None in an empty log.

        Raises
        ------
        StoreError
            The file was moved away or replaced since it was opened: nothing new would ever come.
        """
        if identity(self.path) != self._identity:
            raise StoreError(f"{self.path}: was moved away or replaced; open it again")
        with refusals(self.path):
            row = self._db.execute("SELECT n, ts_ms FROM event ORDER BY n DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else None

    def pages(
        self, *, since_ms: int | None = None, symbols: Sequence[str] = (), after: int = 0
    ) -> Iterator[pl.DataFrame]:
        """Yield the events entered before this call, in the order of entry, 10,000 at most at a time.

        Parameters
        ----------
        since_ms : int, optional
            Only events known (`ts_ms`) at this time or later, UTC epoch ms.
        symbols : sequence of str
            Only these; empty: all.
        after : int
            Only events with a greater n.

        Yields
        ------
        polars.DataFrame
            n, event_id, symbol, row, the fields of EVENT (type, side, kind, source, agree, session and liquidity as
            words, fallback as a boolean), rule, config_version, committed_ms, and for each horizon H of `horizons`:
            prob_H, p_low_H, p_high_H, expected_return_H (null without a calibration), outcome_H (hit, miss, tie, void;
            null while pending), outcome_ts_ms_H, ret_H (log return, not signed by side). Null stands for NaN. At least
            one frame comes; it is empty where nothing fits.
        """
        latest = self.latest()
        last = latest[0] if latest else 0
        if since_ms is not None and last:
            with refusals(self.path):
                (first,) = self._db.execute("SELECT min(n) FROM event WHERE ts_ms >= ?", (since_ms,)).fetchone()
            after = max(after, first - 1 if first else last)
        query = self._query.format(of_symbol=f"AND e.symbol IN ({', '.join('?' * len(symbols))})" if symbols else "")
        is_first = True
        while True:
            with refusals(self.path):
                values = (after, last, since_ms if since_ms is not None else -(2**63), *symbols, PAGE_EVENTS)
                rows = self._db.execute(query, values).fetchall()
            if rows or is_first:
                yield self._frame(rows)
            if len(rows) < PAGE_EVENTS:
                return
            after, is_first = rows[-1][0], False

    def _frame(self, rows: list[tuple[Any, ...]]) -> pl.DataFrame:
        frame = pl.DataFrame(rows, self._schema, orient="row")
        words = [
            pl.col(name).replace_strict(list(of), list(of.values()), return_dtype=pl.String)
            for name, of in _WORDS.items()
        ]
        return frame.with_columns(*words, pl.col("fallback") == 1)


def read_events(path: Path, *, since_ms: int | None = None, symbols: Sequence[str] = ()) -> pl.DataFrame:
    """Return the events of the log at `path` in one frame, as `EventReader.pages` gives them."""
    with EventReader(path) as reader:
        return pl.concat(list(reader.pages(since_ms=since_ms, symbols=symbols)))


def _schema(horizons: Sequence[int]) -> dict[str, type[pl.DataType]]:
    columns: dict[str, type[pl.DataType]] = {"n": pl.Int64, "event_id": pl.String, "symbol": pl.String, "row": pl.Int64}
    columns |= {name: pl.Int64 if EVENT[name].kind == "i" else pl.Float64 for name in EVENT_FIELDS}
    columns |= {"rule": pl.String, "config_version": pl.Int64, "committed_ms": pl.Int64}
    for h in horizons:
        columns |= {f"{name}_{h}": pl.Float64 for name in ("prob", "p_low", "p_high", "expected_return")}
        columns |= {f"outcome_{h}": pl.String, f"outcome_ts_ms_{h}": pl.Int64, f"ret_{h}": pl.Float64}
    return columns


def _query(horizons: Sequence[int]) -> str:
    fields = ", ".join(f"e.{name}" for name in (*EVENT_FIELDS, "rule", "config_version", "committed_ms"))
    columns, joins = "", ""
    for h in horizons:
        columns += (
            f", c{h}.prob, c{h}.p_low, c{h}.p_high, c{h}.expected_return, CASE WHEN o{h}.n IS NULL THEN NULL "
            f"WHEN o{h}.ret IS NULL THEN 'void' WHEN o{h}.hit IS NULL THEN 'tie' WHEN o{h}.hit THEN 'hit' ELSE 'miss' "
            f"END, o{h}.ts_ms, o{h}.ret"
        )
        joins += (
            f" LEFT JOIN calibrated c{h} ON c{h}.horizon_bars = {h} AND c{h}.n = e.n"
            f" LEFT JOIN outcome o{h} ON o{h}.horizon_bars = {h} AND o{h}.n = e.n"
        )
    # The plus keeps SQLite from walking by time: pages go by n.
    return (
        f"SELECT e.n, e.event_id, e.symbol, e.row, {fields}{columns} FROM event e{joins} "
        "WHERE e.n > ? AND e.n <= ? AND +e.ts_ms >= ? {of_symbol} ORDER BY e.n LIMIT ?"
    )
