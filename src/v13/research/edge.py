"""The edge of one fixed setting by symbol, source, kind and horizon. Nothing is chosen and nothing judged.

By default the search part alone is looked at. The whole record is a look at its holdout, and is entered as one. Either
way the run is sealed: see `edge_rows`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from v13 import measures
from v13.detector.dtypes import CHANNELS, HIDDEN, KINDS, REGULAR
from v13.research.acceptance import min_shift_bars
from v13.research.cut import Records
from v13.research.run import Run
from v13.research.sealing import enter_look, seal_holdout
from v13.research.trials import Outcomes, SymbolPart, evaluate, find_events

__all__ = ["EdgeRow", "edge_rows"]


@dataclass(frozen=True)
class EdgeRow:
    """One cell at one horizon; None where there is nothing to compute.

    p is the circular-shift p of the accuracy, p_corrected Holm's over all finest cells (symbol, source, kind, horizon)
    that have `least` events; the sums above them are not corrected and carry p alone. mean_return_bp in the event's
    direction.
    """

    symbol: str
    source: str
    kind: str
    horizon_bars: int
    n: int
    accuracy: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    mean_return_bp: float | None
    minimum_detectable: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def edge_rows(run: Run, *, whole: bool = False) -> list[EdgeRow]:
    """Measure the configured setting.

    Parameters
    ----------
    whole : bool
        Look at the whole record. The look is entered in the ledger first: a later sign-off on this record is judged at
        a smaller alpha.

    Returns
    -------
    list of EdgeRow
        "all" stands for a sum: over everything first, then each symbol, source and kind, then the finest cells.

    Raises
    ------
    StoreError
        The ledger cannot be written.

    Notes
    -----
    The search part is sealed as a search over it, though nothing is chosen: whoever reads the table may choose after
    it. That costs nothing as long as a later sign-off has its holdout where this run has it, or behind it, for none of
    those bars were seen. A later holdout that holds bars seen here is judged at a smaller alpha. Without that,
    `search.search_share` at 0.97 would be a free look at almost all of the record.
    """
    own = replace(run, key=hashlib.sha256(f"edge {run.key}".encode()).hexdigest())
    seal_holdout(own)
    parts = run.search_parts()
    if whole:
        enter_look(own)
        parts = [SymbolPart(symbol, bars) for symbol, bars in run.bars.items()]
    config, params = run.config, run.params
    horizons = tuple(config.search.horizons_bars)
    found = [find_events(params, run.sessions, part) for part in parts]

    def of(events_and_rows: Sequence[tuple[Records, Records]]) -> Outcomes:
        events, rows = zip(*events_and_rows, strict=True)
        return evaluate(events, rows, horizons, run.cut.bar_ms, config.search.cost_bps)

    # A symbol by itself is shifted along its own times, not along those of symbols recorded at other times.
    alone = {part.symbol: of([one]) for part, one in zip(parts, found, strict=True)}
    rows = [row for cell in _cells(of(found), alone) for row in _measure(run, *cell)]
    finest = [i for i, row in enumerate(rows) if "all" not in (row.symbol, row.source, row.kind)]
    raw = np.array([math.nan if (p := rows[i].p) is None else p for i in finest])
    for i, corrected in zip(finest, measures.holm(raw), strict=True):
        if not math.isnan(corrected):
            rows[i] = replace(rows[i], p_corrected=float(corrected))
    return rows


def _cells(together: Outcomes, alone: Mapping[str, Outcomes]) -> Iterator[tuple[str, str, str, Outcomes]]:
    """Give (symbol, source, kind, outcomes): everything, one attribute at a time, and all three together."""
    events = together.events
    kinds = {KINDS[k]: k for k in (REGULAR, HIDDEN)}
    sources = {name: c for c, name in enumerate(CHANNELS) if (events["source"] == c).any()}
    yield "all", "all", "all", together
    yield from ((symbol, "all", "all", one) for symbol, one in alone.items())
    yield from (("all", name, "all", together.select(events["source"] == c)) for name, c in sources.items())
    yield from (("all", "all", name, together.select(events["kind"] == k)) for name, k in kinds.items())
    for symbol, one in alone.items():
        for source, c in sources.items():
            for kind, k in kinds.items():
                mask = (one.events["source"] == c) & (one.events["kind"] == k)
                yield symbol, source, kind, one.select(mask)


def _measure(run: Run, symbol: str, source: str, kind: str, part: Outcomes) -> Iterator[EdgeRow]:
    config = run.config
    for h, horizon in enumerate(part.horizons):
        found = measures.accuracy(part.hits[:, h])
        p = None
        if found.n_judged >= config.search.min_bucket_events:
            nulls = measures.circular_shift_null(
                part.panels[h],
                min_shift=min_shift_bars(config, run.params),
                n_shifts=config.acceptance.n_shifts,
                seed=run.seed,
                cost_bps=config.search.cost_bps,
                rho=False,
            )
            p = nulls.accuracy.p
        low, high = measures.wilson_interval(found.n_hits, found.n_judged) if found.n_judged else (None, None)
        signed = part.signed_returns(h)
        labelled = signed[~np.isnan(signed)]
        yield EdgeRow(
            symbol,
            source,
            kind,
            horizon,
            found.n_judged,
            found.accuracy,
            low,
            high,
            p,
            None,
            1e4 * float(labelled.mean()) if labelled.size else None,
            measures.minimum_detectable_accuracy(found.n_judged, alpha=config.acceptance.alpha),
        )
