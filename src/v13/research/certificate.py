"""The noise certificate of a sign-off: how often this very pipeline signs off noise shaped like this record.

It is made for a config, a grid and a shape of data, and kept under a hash of all three and of the code, so that a rerun
reads what it made before. No certificate, or one that fails: no PASS.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from v13 import config as configs
from v13 import measures, store
from v13.config import Config
from v13.errors import DataError
from v13.research.cut import Records
from v13.research.noise import Progress, run_noise, run_power
from v13.research.noise_report import share_of
from v13.research.null_markets import KINDS, Shape, recorded
from v13.research.run import Run, code_fingerprint

__all__ = ["Certificate", "certify", "criterion", "find", "shape_of"]

MAX_SYMBOLS: Final = 3
CERTIFICATES: Final = Path("runs", "noise")  # below the project's root
# Power is measured at these (true accuracy, holdout events, markets): more markets where the certificate asks for it.
POWER_CELLS: Final = (
    *((accuracy, n, 30) for accuracy in (0.57, 0.60, 0.65) for n in (200, 500, 1_000)),
    (0.57, 2_000, 30),
    (0.60, 2_000, 100),
    (0.65, 2_000, 30),
    (0.57, 5_000, 40),
    (0.60, 5_000, 10),
    (0.65, 5_000, 10),
)
FULL_MARKETS_OF_KIND: Final = 143  # seven kinds: 1,001


@dataclass(frozen=True)
class Certificate:
    """What the noise test said.

    full : whether it has the numbers for its bounds (1,000 null markets), or is the short one of every sign-off.
    surrogates_of : "search part of the recording" or "simulated clustered flow".
    """

    key: str
    full: bool
    surrogates_of: str
    document: Mapping[str, Any]

    @property
    def shortfalls(self) -> list[str]:
        """Why it does not hold; empty where it does."""
        return list(self.document["shortfalls"])

    @property
    def lacking(self) -> list[str]:
        """What it does not prove, as a kind with hardly an event proves nothing; empty where it is complete."""
        return list(self.document["lacking"])

    @property
    def all_null(self) -> Mapping[str, Any]:
        """The share of all null markets together."""
        found: Mapping[str, Any] = self.document["all_null"] or share_of("all null markets", ()).to_dict()
        return found


def shape_of(run: Run) -> Shape:
    """Return the shape of a record: symbols, bars of each (to two digits, at most noise.max_bars), channels."""
    longest = max(len(bars) for bars in run.bars.values())
    limit = min(longest, run.config.noise.max_bars)
    digits = 10 ** max(len(str(limit)) - 2, 0)
    return Shape(
        n_symbols=min(len(run.recordings), MAX_SYMBOLS),
        n_bars=max(limit // digits * digits, 1_000),
        bar_ms=run.cut.bar_ms,
        has_trades=run.has_trades,
        has_quotes=run.has_quotes,
    )


def certify(
    run: Run,
    *,
    full: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Return the certificate of a run's config and shape of data, judging null markets where none is kept.

    Parameters
    ----------
    full : bool
        1,001 null markets and planted ones of known accuracy; half an hour and more. Else `noise.markets` of each kind.
    workers : int, optional
        Processes; None: one a processor.

    Returns
    -------
    Certificate
        The full one wherever it is kept.

    Notes
    -----
    Surrogates are made of the *search part* of recorded data: the holdout is not touched. Of simulated data they are
    made of clustered flow, as a planted edge would survive in them.
    """
    kept = find(run)
    if kept is not None and (kept.full or not full):
        return kept
    of = _surrogate_bars(run)
    shape, loaded, n = shape_of(run), _loaded(run), FULL_MARKETS_OF_KIND if full else run.config.noise.markets
    n_workers = workers or os.cpu_count() or 1
    key = _key(run, full)
    seed = run.config.noise.seed
    report = run_noise(
        loaded, kinds=KINDS, n_markets=n, shape=shape, seed=seed, bars=of, workers=n_workers, progress=progress
    )
    if full:
        report = report.with_power(
            run_power(loaded, cells=POWER_CELLS, shape=shape, seed=seed, workers=n_workers, progress=progress)
        )
    document = report.to_dict(full=full) | {
        "key": key,
        "full": full,
        "surrogates_of": "simulated clustered flow" if of is None else "search part of the recording",
        "config_fingerprint": configs.fingerprint(_judging(run.config)),  # as the key: a kept one may be another run's
        "code_fingerprint": code_fingerprint(),
    }
    path = run.root / CERTIFICATES / f"{key[:32]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_json(path, document)
    return _certificate(document)


def find(run: Run) -> Certificate | None:
    """Return the kept certificate of a run's config, shape and code, the full one first; None where there is none."""
    for full in (True, False):
        key = _key(run, full)
        path = run.root / CERTIFICATES / f"{key[:32]}.json"
        if path.is_file():
            document = store.read_json(path)
            if document.get("key") == key:
                return _certificate(document)
    return None


def criterion(certificate: Certificate | None) -> measures.Criterion:
    """Judge a certificate: PASS where it holds, FAIL where it does not, INSUFFICIENT where it or its proof is missing.

    Where the record lacks a channel no market of its shape can be signed off at all; the detail then says how many
    passed everything else.
    """
    key, title = "noise_certificate", "Noise is not signed off"
    if certificate is None:
        detail = "No noise certificate for this config and shape of data: set noise.markets above 0."
        return measures.Criterion(key, title, measures.Status.INSUFFICIENT, threshold=0.01, detail=detail)
    null = certificate.all_null
    found = (
        f"{null['n_passed']} of {null['n_markets']} markets without an edge were signed off by this pipeline with this "
        f"grid (95 % interval {null['low']:.1%} to {null['high']:.1%})"
    )
    shape = certificate.document["shape"]
    absent = [name for name in ("trades", "quotes") if not shape[f"has_{name}"]]
    if absent:
        found += (
            f"; without {' and '.join(absent)} none can be: {null['n_passed_else']} of them passed all that their "
            "channels allow"
        )
    if certificate.shortfalls:
        status, detail = measures.Status.FAIL, f"{found}. {'; '.join(certificate.shortfalls)}."
    elif certificate.lacking:
        status = measures.Status.INSUFFICIENT
        detail = (
            f"{found}, but it proves nothing: {'; '.join(certificate.lacking)}. The record is too short, or "
            "noise.max_bars is."
        )
    elif certificate.full:
        status, detail = measures.Status.PASS, f"{found}. Full certificate."
    else:
        status = measures.Status.PASS
        detail = f"{found}. Short certificate: a full one judges 1,001 (`v13 signoff --full`)."
    return measures.Criterion(
        key,
        title,
        status,
        null["share"],
        (null["low"], null["high"]),
        0.01,
        n=null["n_markets"],
        detail=detail,
    )


def _certificate(document: Mapping[str, Any]) -> Certificate:
    return Certificate(document["key"], document["full"], document["surrogates_of"], document)


def _key(run: Run, full: bool) -> str:
    of = _surrogate_bars(run)
    made_of = None
    if of is not None:
        digest = hashlib.sha256()
        for symbol in sorted(of):
            digest.update(symbol.encode())
            digest.update(of[symbol].tobytes())
        made_of = digest.hexdigest()
    facts = {
        "shape": shape_of(run).to_dict(),
        "config": configs.fingerprint(_judging(run.config)),
        "code": code_fingerprint(),
        "full": full,
        "markets": FULL_MARKETS_OF_KIND if full else run.config.noise.markets,
        "surrogates": made_of,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _judging(config: Config) -> Config:
    """Return the config without what no verdict on bars depends on."""
    plain = Config()
    return config.model_copy(update={"download": plain.download, "market": plain.market, "run": plain.run})


def _surrogate_bars(run: Run) -> dict[str, Records] | None:
    if run.simulated:
        return None
    limit = run.config.noise.max_bars
    parts = {p.symbol: p.bars[-limit:] for p in run.search_parts()[:MAX_SYMBOLS]}
    try:
        return recorded(parts)
    except DataError:
        return None  # too short: clustered flow stands in, and the report says so


def _loaded(run: Run) -> configs.Loaded:
    return configs.Loaded(run.config, run.config_origin, run.config_files)
