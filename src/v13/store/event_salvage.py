"""What can still be read of a damaged event log, moved into a new one.

The sqlite3 program has `.recover` for this, but not everywhere: Debian 12 builds it without. It must not change the
damaged file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from v13.errors import StoreError
from v13.store.event_file import open_writer, refusals
from v13.store.event_schema import APPLICATION_ID, SCHEMA

__all__ = ["salvage"]

_KEYS: Final = {
    "event": ("n",),
    "calibrated": ("horizon_bars", "n"),
    "outcome": ("horizon_bars", "n"),
    "bar": ("ts_ms", "symbol"),
    "state": ("symbol",),
    "checkpoint": ("symbol",),
    "config": ("version",),
}


def salvage(damaged: Path, out: Path) -> dict[str, int]:
    """Move what can be read of the log at `damaged` into a new log at `out`.

    Each table is read from its start and from its end up to the damage, events in between one by one.

    Parameters
    ----------
    damaged : Path
        With its journal beside it, if there was one. It is not changed.
    out : Path
        Nothing may be there.

    Returns
    -------
    dict of str to int
        Rows moved, by table. Outcomes and calibrated values whose event is lost are left behind.

    Raises
    ------
    StoreError
        `out` exists or cannot be written, or nothing can be read: the first page is damaged, too.
    """
    if out.exists():
        raise StoreError(f"{out}: exists; name a file that does not")
    uri = f"{damaged.absolute().as_uri()}?mode=ro"
    with refusals(damaged), closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as source:
        marks = tuple(source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if marks != (APPLICATION_ID, SCHEMA):
            raise StoreError(f"{damaged}: is no event log of schema {SCHEMA}")
        with refusals(out), closing(open_writer(out, create=True, check=False)) as target:
            target.execute("BEGIN")
            for table in _KEYS:
                for row in _readable(source, table):
                    target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            for table in ("calibrated", "outcome"):
                target.execute(f"DELETE FROM {table} WHERE n NOT IN (SELECT n FROM event)")
            moved = {table: int(target.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in _KEYS}
            target.execute("COMMIT")
    return moved


def _readable(db: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows, some of them twice."""
    edges: list[int] = []
    for order in ("ASC", "DESC"):
        row = None
        try:
            for row in db.execute(
                f"SELECT * FROM {table} ORDER BY {', '.join(f'{key} {order}' for key in _KEYS[table])}"
            ):
                yield row
        except sqlite3.Error:  # here the damage begins
            edges.append(row[0] if row else 0)
        else:
            return
    if table == "event":
        for n in range(edges[0] + 1, edges[1]):
            try:
                yield from db.execute("SELECT * FROM event WHERE n = ?", (n,)).fetchall()
            except sqlite3.Error:
                continue
