"""How far an event log has come, as others see it while its runner writes: the last committed bar of each symbol."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from v13.errors import StoreError
from v13.store.event_file import open_reader, refusals

__all__ = ["Standing", "standing"]


class Standing(NamedTuple):
    """Where a log stands.

    Attributes
    ----------
    bars : dict of symbol to int
        Close time of its last committed bar, UTC epoch ms.
    config : mapping or None
        What the active configuration was made of; None before the first.
    fingerprint : str
        Of that configuration; empty before the first.
    """

    bars: dict[str, int]
    config: Any
    fingerprint: str


def standing(path: Path) -> Standing:
    """Return where the log at `path` stands; nothing where there is no log yet.

    Raises
    ------
    StoreError
        It is damaged, of another kind or schema, or cannot be read.
    """
    if not path.exists():
        return Standing({}, None, "")
    with refusals(path), closing(open_reader(path)) as db:
        bars = dict(db.execute("SELECT symbol, ts_ms FROM state ORDER BY symbol").fetchall())
        row = db.execute("SELECT document, fingerprint, version FROM config ORDER BY version DESC LIMIT 1").fetchone()
    if row is None:
        return Standing(bars, None, "")
    try:
        return Standing(bars, json.loads(row[0]), str(row[1]))
    except ValueError as error:
        raise StoreError(f"{path}: its configuration {row[2]} is no JSON: the log is damaged") from error
