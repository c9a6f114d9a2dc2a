"""Defects of a recording, gathered from its quality reports for tables, pages and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from v13.market import Recording

__all__ = ["defect_rows", "gap_list", "n_bad_rows", "quality_document", "source_rows"]

# Counted per stretch or per missing thing, not per row.
_NOT_ROWS: Final = ("gaps", "id_gaps", "missing_bars", "partial_bars")
# Normal in honest recordings; shown, not alarming.
_NORMAL: Final = ("equal_rows", "locked", "time_back", "zero_volume")


def defect_rows(recording: Recording) -> list[dict[str, Any]]:
    """Return one row for each kind of defect that occurs: stream, defect, count, what was done, first examples."""
    rows = []
    for kind, report in recording.quality.items():
        for name, count in report.counts.items():
            if not count:
                continue
            examples = [
                f"{Path(f.path).name}: {', '.join(map(str, f.examples[name]))}"
                for f in report.files
                if f.examples.get(name)
            ]
            rows.append(
                {
                    "stream": kind,
                    "defect": name,
                    "count": count,
                    "of rows": report.rows,
                    "policy": report.policy.get(name, "counted"),
                    "first rows": "; ".join(examples[:2]),
                }
            )
    return rows


def n_bad_rows(recording: Recording) -> int:
    """Return the number of findings that say something is wrong with a row."""
    return sum(
        count
        for report in recording.quality.values()
        for name, count in report.counts.items()
        if name not in _NOT_ROWS and name not in _NORMAL
    )


def gap_list(recording: Recording) -> list[dict[str, int | str]]:
    """Return the silences of all streams."""
    return [
        {"stream": kind, "start_ms": g.start_ms, "end_ms": g.end_ms, "length_ms": g.length_ms}
        for kind, report in recording.quality.items()
        for g in report.gaps
    ]


def quality_document(recording: Recording) -> dict[str, Any]:
    """Return what was read and found, as JSON values; files by name, as folders differ between machines."""
    reports = {}
    for kind, report in recording.quality.items():
        reports[kind] = report.to_dict()
        for file in reports[kind]["files"]:
            file["path"] = Path(file["path"]).name
    return {
        "market": recording.market,
        "clock": recording.clock,
        "bar_ms": recording.bar_ms,
        "n_bars": len(recording.bars),
        "has_trades": recording.has_trades,
        "has_quotes": recording.has_quotes,
        "simulated": recording.simulated,
        "sources": source_rows(recording),
        "n_rows": sum(r.rows for r in recording.quality.values()),
        "n_bad_rows": n_bad_rows(recording),
        "n_gaps": len(gap_list(recording)),
        "longest_gap_ms": max((int(g["length_ms"]) for g in gap_list(recording)), default=0),
        "quality": reports,
    }


def source_rows(recording: Recording) -> list[dict[str, Any]]:
    """Return the files a recording was made of."""
    return [{"name": Path(s.path).name, "sha256": s.sha256, "kind": s.kind, "rows": s.rows} for s in recording.sources]
