"""What a sign-off attaches so that its verdict can be derived again: the bars, the settings and the seed.

Bars are what the verdict was computed from; the recordings behind them are too large to carry and are named by hash.
Settings of how a detector is run stay out: no verdict depends on them, and they may name files of a machine.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import ValidationError

from v13 import config as configs
from v13 import market, store
from v13.config import Config
from v13.config.schema import LIVE_SECTIONS
from v13.detector.dtypes import BAR
from v13.errors import ConfigError, DataError
from v13.research.cut import Records
from v13.research.run import Run, code_fingerprint

__all__ = [
    "FACTS_FILE",
    "FOLDER",
    "MAX_BYTES",
    "Attachment",
    "attach",
    "attached_recordings",
    "bars_sha256",
    "read_attachment",
]

FACTS_FILE: Final = "derivation.json"
FOLDER: Final = "data"
MAX_BYTES: Final = 256_000_000  # of all attached bars; a bundle is sent around and kept
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Attachment:
    """What derivation.json says.

    Attributes
    ----------
    symbol : str or None
        The one symbol that was asked for at the sign-off.
    bars : mapping of symbol to facts
        `sha256` of its records (`bars.tobytes()`), `n_bars`, and `file` in the bundle, null where they were too large.
    """

    seed: int
    symbol: str | None
    config: Config
    config_fingerprint: str
    code_fingerprint: str
    bars: Mapping[str, Mapping[str, Any]]

    @property
    def is_whole(self) -> bool:
        """Whether the bars of all symbols are attached."""
        return all(facts["file"] is not None for facts in self.bars.values())


def attach(run: Run, bundle: Path, *, symbol: str | None = None, max_bytes: int = MAX_BYTES) -> bool:
    """Write derivation.json, and the bars of all symbols where they take at most `max_bytes`.

    Parameters
    ----------
    run : Run
    bundle : Path
    symbol : str, optional
        The one symbol that was asked for.
    max_bytes : int, >= 0
        Of all parquet files together.

    Returns
    -------
    bool
        Whether the bars are attached: all of them or none.
    """
    files: dict[str, str] = {}
    n_bytes = 0
    for number, (name, recording) in enumerate(run.recordings.items()):
        # A symbol may come from inside a file: it is no path until it has been looked at.
        file = f"{FOLDER}/{name if _PLAIN.fullmatch(name) else f'symbol-{number}'}.parquet"
        frame = pl.DataFrame({column: recording.bars[column] for column in BAR.names or ()})
        market.write_tape(
            bundle / file,
            frame,
            kind="bars",
            symbol=name,
            market=recording.market,
            simulated=recording.simulated,
            clock=recording.clock,
        )
        files[name] = file
        n_bytes += (bundle / file).stat().st_size
        if n_bytes > max_bytes:
            break
    is_whole = n_bytes <= max_bytes
    if not is_whole:
        for file in files.values():
            (bundle / file).unlink()
        (bundle / FOLDER).rmdir()
    store.write_json(
        bundle / FACTS_FILE,
        {
            "version": 1,
            "seed": run.seed,
            "symbol": symbol,
            "config": run.config.model_dump(mode="json", exclude=set(LIVE_SECTIONS)),
            "config_fingerprint": configs.fingerprint(run.config),
            "code_fingerprint": code_fingerprint(),
            "bars": {
                name: {
                    "sha256": bars_sha256(bars),
                    "n_bars": len(bars),
                    "file": files[name] if is_whole else None,
                }
                for name, bars in run.bars.items()
            },
            "max_bytes": max_bytes,
        },
    )
    return is_whole


def read_attachment(bundle: Path) -> Attachment:
    """Read derivation.json.

    Raises
    ------
    ConfigError
        There is none, or its settings are not those of this version.
    StoreError
        It is no JSON.
    """
    path = bundle / FACTS_FILE
    if not path.is_file():
        raise ConfigError(f"{path}: missing: the sign-off was made by a version that attached no data; sign off anew")
    document = store.read_json(path)
    try:
        config = Config.model_validate(document["config"])
        found = Attachment(
            document["seed"],
            document["symbol"],
            config,
            document["config_fingerprint"],
            document["code_fingerprint"],
            {
                symbol: {name: facts[name] for name in ("sha256", "n_bars", "file")}
                for symbol, facts in document["bars"].items()
            },
        )
    except ValidationError as error:
        raise ConfigError(f"{path}: config: its settings are not those of this version: {error.errors()[0]}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is not in the form of this version: {error!r}") from error
    if (fingerprint := configs.fingerprint(config)) != found.config_fingerprint:
        raise ConfigError(
            f"{path}: config: expected fingerprint {found.config_fingerprint[:12]}, found {fingerprint[:12]}: a "
            "setting was added, removed or changed; verify with the version that signed off"
        )
    return found


def attached_recordings(
    bundle: Path, attachment: Attachment, rows: list[dict[str, Any]], quality: Mapping[str, Any]
) -> dict[str, market.Recording]:
    """Return the recordings as the sign-off had them, their bars from the bundle.

    Parameters
    ----------
    rows : of signoff.json, `data`
        What the sign-off says of each symbol and of its files.
    quality : of data_quality.json, `recordings`
        Taken as it is: it tells of the recordings, which are not attached.

    Raises
    ------
    DataError
        A file does not hold the bars that derivation.json names.
    """
    found = {}
    for row in rows:
        symbol = row["symbol"]
        found[symbol] = market.Recording(
            symbol=symbol,
            market=row["market"],
            clock=row["clock"],
            bar_ms=row["bar_ms"],
            bars=_bars(bundle, symbol, attachment),
            has_trades=row["has_trades"],
            has_quotes=row["has_quotes"],
            simulated=row["simulated"],
            truth=None,
            sources=tuple(
                market.SourceFile(s["name"], s["sha256"], 0, s["kind"], s["rows"])  # no page tells their size
                for s in row["sources"]
            ),
            quality={kind: _report(report) for kind, report in quality[symbol]["quality"].items()},
        )
    return found


def bars_sha256(bars: Records) -> str:
    """Return the hash of bars as they lie in memory: every bit of every field."""
    return hashlib.sha256(np.ascontiguousarray(bars).tobytes()).hexdigest()


def _bars(bundle: Path, symbol: str, attachment: Attachment) -> Records:
    facts = attachment.bars[symbol]
    path = bundle / facts["file"]
    if not path.resolve().is_relative_to(bundle.resolve()):
        raise DataError(f"{path}: leads out of the bundle")
    try:
        table = pl.read_parquet(io.BytesIO(path.read_bytes()), columns=list(BAR.names or ()))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: the attached bars cannot be read: {error}") from error
    bars = np.empty(table.height, BAR)
    for name in BAR.names or ():
        bars[name] = table[name].to_numpy()
    if len(bars) != facts["n_bars"] or bars_sha256(bars) != facts["sha256"]:
        raise DataError(f"{path}: does not hold the bars that {FACTS_FILE} names: {facts['n_bars']:,} of {symbol}")
    return bars


def _report(document: Mapping[str, Any]) -> market.QualityReport:
    gaps = tuple(market.Gap(**gap) for gap in document["gaps"])
    files = tuple(
        market.FileQuality(**(file | {"examples": {name: tuple(rows) for name, rows in file["examples"].items()}}))
        for file in document["files"]
    )
    return market.QualityReport(**(dict(document) | {"gaps": gaps, "files": files}))
