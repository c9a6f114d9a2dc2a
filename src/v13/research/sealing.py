"""The seal on a run's holdout: committed before the search, and every look at it entered before it is judged.

The run's key covers inputs, config, seed and code, so a rerun is the same look; anything else that overlaps in market,
symbol and time is another, and is judged at a smaller alpha. The seal covers the bars and the files they came from.
"""

from __future__ import annotations

from typing import Any

from v13 import config as configs
from v13.research.run import Run, code_fingerprint
from v13.store import HOLDOUT_LEDGER, HoldoutLedger, Look, Seal, Span

__all__ = ["enter_look", "look_document", "record_verdict", "seal_holdout"]


def seal_holdout(run: Run) -> None:
    """Commit to what the search is about to see and what it leaves alone.

    Raises
    ------
    StoreError
        The ledger cannot be written or was tampered with, or the key was sealed with another holdout.
    """
    cut = run.cut
    _ledger(run).seal(
        Seal(
            key=run.key,
            holdout_sha256=run.holdout_sha256,
            holdout=_spans(run, cut.holdout_start_ms, cut.end_ms),
            search=_spans(run, cut.start_ms, cut.search_end_ms),
            code_fingerprint=code_fingerprint(),
            config_fingerprint=configs.fingerprint(run.config),
            seed=run.seed,
        )
    )


def enter_look(run: Run) -> Look:
    """Enter a look at the run's holdout and return its number and price; the same run gets the same look again.

    Raises
    ------
    StoreError
        As `seal_holdout`, or the holdout was not sealed before.
    """
    return _ledger(run).look(run.key, run.holdout_sha256)


def record_verdict(run: Run, verdict: str) -> None:
    """Enter what a look came to."""
    _ledger(run).record_verdict(run.key, verdict)


def look_document(look: Look) -> dict[str, Any]:
    """Return what of a look goes into reports: nothing that differs between the first time and a rerun."""
    return {
        "number": look.number,
        "n_earlier_looks": look.n_earlier_looks,
        "n_searched_before": look.n_searched_before,
        "simulated": look.simulated,
    }


def _ledger(run: Run) -> HoldoutLedger:
    return HoldoutLedger(run.root / HOLDOUT_LEDGER)


def _spans(run: Run, from_ms: int, to_ms: int) -> list[Span]:
    """Return the part of each symbol's record after `from_ms` and up to `to_ms`; symbols without bars are left out."""
    spans = []
    for symbol, recording in run.recordings.items():
        ts = recording.bars["ts_ms"]
        inside = ts[(ts > from_ms) & (ts <= to_ms)]
        if inside.size:
            first, last = int(inside[0]) - recording.bar_ms, int(inside[-1])
            spans.append(Span(recording.market, symbol, first, last, recording.simulated))
    return spans
