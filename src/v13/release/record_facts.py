"""What the ledger says of one operation, put in order for its record: who, what, figures, timeline, problems.

It is a pure function of the ledger's rows and the SLO table; it reads no file and no clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from v13.errors import ReleaseError
from v13.store.chain import Row
from v13.telemetry.slo import Level, SloTable
from v13.telemetry.units import quantity

__all__ = ["Story", "figures", "problems", "story", "timeline"]

RANK: Final = ("no_data", "too_few", "ok", "above_target", "alert", "rollback")
MAX_TEXT: Final = 240  # characters of evidence in a line; record.json has all of it
HIDDEN: Final = ("kind", "key", "utc", "worker")


@dataclass(frozen=True)
class Story:
    """The rows of one operation, from its begin to its end or, where it is open, to the last one.

    Attributes
    ----------
    rows : tuple of Row
    """

    rows: tuple[Row, ...]

    @property
    def id(self) -> str:
        """Return the operation's name."""
        return str(self.rows[0].record["key"])

    @property
    def begin(self) -> Mapping[str, Any]:
        """Return the record of the first row."""
        return self.rows[0].record

    @property
    def kind(self) -> str:
        """Return deploy or rollback."""
        return str(self.begin["operation"])

    @cached_property
    def end(self) -> Row | None:
        """Return the last row where it ends the operation."""
        return self.rows[-1] if self.rows[-1].record["kind"] == "end" else None

    @property
    def outcome(self) -> str:
        """Return the outcome; `open` where there is none yet, `held` where it is paused."""
        if self.end is not None:
            return str(self.end.record["outcome"])
        pauses = [row.record["paused"] for row in self.of("pause")]
        return "held" if pauses and pauses[-1] else "open"

    def of(self, kind: str) -> list[Row]:
        """Return the rows of a kind."""
        return [row for row in self.rows if row.record["kind"] == kind]

    @cached_property
    def done(self) -> dict[str, Row]:
        """Return the row of each step that is done, in order."""
        return {row.record["step"]: row for row in self.of("done")}

    @cached_property
    def looks(self) -> list[Row]:
        """Return the looks at the SLOs."""
        return self.of("look")

    @cached_property
    def checks(self) -> tuple[Row, list[dict[str, Any]]] | None:
        """Return the results of the checks and the row that holds them."""
        row = self.done.get("check")
        if row is not None:
            return row, list(row.record["evidence"].get("checks", ()))
        refused = self.of("checked")
        return (refused[-1], list(refused[-1].record["checks"])) if refused else None


def story(rows: Sequence[Row], operation: str | None = None) -> Story:
    """Return the story of an operation.

    Parameters
    ----------
    rows : sequence of Row
        The whole ledger.
    operation : str, optional
        Default: the last one.

    Raises
    ------
    ReleaseError
        The ledger knows none of that name.
    """
    begun = [row.record["key"] for row in rows if row.record["kind"] == "begin"]
    name = operation or (begun[-1] if begun else None)
    if name not in begun:
        known = ", ".join(begun[-5:]) or "none"
        raise ReleaseError(f"deploy ledger: there is no operation {name or ''}; the last ones are: {known}")
    own: list[Row] = []
    for row in rows:
        if row.record["key"] != name:
            continue
        own.append(row)
        if row.record["kind"] == "end":  # what an onlooker noted later belongs to no operation
            break
    return Story(tuple(own))


def figures(story: Story, table: SloTable) -> list[dict[str, Any]]:
    """Return each SLO row with its target and its first, worst and last value in this operation."""
    seen: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for row in story.looks:
        for reading in row.record["look"]["readings"]:
            seen.setdefault(reading["row"], []).append((row.n, reading))
    found = []
    for slo in table.rows:
        readings = seen.get(slo.key, [])
        valued = [(n, r) for n, r in readings if r["value"] is not None]
        worst = max(valued, key=lambda at: _badness(at[1], slo.target), default=None)
        found.append(
            {
                **{"row": slo.key, "title": slo.title, "title_zh": slo.title_zh, "unit": slo.unit},
                "target": _bounds(slo.target, slo.unit),
                "n_looks": len(readings),
                "n_values": len(valued),
                "first": _figure(valued[0], slo.unit) if valued else None,
                "worst": None if worst is None else _figure(worst, slo.unit),
                "last": _figure(readings[-1], slo.unit) if readings else None,
            }
        )
    return found


def timeline(story: Story) -> list[dict[str, Any]]:
    """Return every transition in order; looks of one step with one decision are one line."""
    lines: list[dict[str, Any]] = []
    worker = ""
    for (is_look, step, decision), group in groupby(story.rows, _phase):
        rows = list(group)
        if is_look:
            why = rows[-1].record["look"].get("why", "")
            text = f"{step}: {len(rows)} looks: {decision}" + (f"; {why}" if why else "")
            lines.append(_line(rows[0], rows[-1], text, worker))
            continue
        for row in rows:
            if row.record["kind"] in ("begin", "resume"):
                worker = str(row.record["by"])
            lines.append(_line(row, row, _told(row), worker))
    return lines


def problems(story: Story) -> list[dict[str, Any]]:
    """Return whatever was not as it should be, with the rows that say so."""
    found = []
    if story.checks is not None:
        row, results = story.checks
        found += [
            _problem(row, f"check {r['key']} failed: {r['evidence']}") for r in results if r["status"] == "failed"
        ]
        found += [_problem(row, f"check {r['key']} let pass: {r['evidence']}") for r in results if r.get("override")]
    for (is_look, step, decision), group in groupby(story.rows, _phase):
        rows = list(group)
        if is_look and decision != "go_on":
            why = rows[-1].record["look"].get("why", "")
            found.append(_problem(rows[0], f"{step}: {decision} in {len(rows)} looks: {why}"))
    for row in story.rows:
        record = row.record
        if record["kind"] == "alarm":
            found.append(_problem(row, f"alarm: {_plain(record)}"))
        elif record["kind"] == "resume":
            found.append(_problem(row, f"its worker was gone; {record['by']} went on with it"))
        elif record["kind"] == "pause" and record["paused"]:
            found.append(_problem(row, f"held: {record['reason']}"))
        elif record["kind"] == "end" and record["outcome"] not in ("completed", "rolled_back"):
            found.append(_problem(row, f"{record['outcome']}: {record['why']}"))
        elif record["kind"] == "done" and record["step"] == "verify":
            found += [_problem(row, text) for text in record["evidence"].get("problems", ())]
    if story.kind == "rollback":
        found.insert(0, _problem(story.rows[0], f"why it was rolled back: {story.begin.get('reason', '')}"))
    return found


def _phase(row: Row) -> tuple[bool, str, str]:
    if row.record["kind"] != "look":
        return False, "", ""
    return True, row.record["step"], row.record["look"]["decision"]


def _line(first: Row, last: Row, text: str, worker: str) -> dict[str, Any]:
    """Return a line; what no one else signed was entered by the worker. An alarm comes from an onlooker."""
    record = last.record
    by = record.get("by", "" if record["kind"] == "alarm" else worker)
    return {
        **{"first_row": first.n, "last_row": last.n, "utc": first.record["utc"], "until_utc": record["utc"]},
        **{"kind": record["kind"], "by": str(by), "text": text},
    }


def _problem(row: Row, text: str) -> dict[str, Any]:
    return {"row": row.n, "utc": row.record["utc"], "text": text}


def _told(row: Row) -> str:
    record = row.record
    match record["kind"]:
        case "begin":
            return f"{record['operation']} begun: {record.get('reason', '')}"
        case "resume":
            return "taken up again"
        case "done":
            return f"{record['step']} done: {_evidence(record['step'], record['evidence'])}"
        case "checked":
            return f"checks: {_counted(record['checks'])}"
        case "assign":
            at = datetime.fromtimestamp(record["from_ms"] / 1_000, UTC).isoformat(timespec="milliseconds")
            since = f"from {at}" if record["from_ms"] > 0 else "from the beginning"
            return f"{record['symbol']} is served by {record['release']} {since}"
        case "candidate" | "stable":
            return f"{record['kind']} release: {record['release'] or 'none'}"
        case "pause":
            return f"{'held' if record['paused'] else 'goes on'}: {record['reason']}"
        case "end":
            return f"{record['outcome']}: {record['why']}"
    return f"{record['kind']}: {_plain(record)}"


def _evidence(step: str, evidence: Mapping[str, Any]) -> str:
    if step == "check":
        return _counted(evidence.get("checks", ()))
    shown = {k: v for k, v in evidence.items() if not isinstance(v, Mapping) or len(v) <= 4}
    text = ", ".join(f"{k} {_short(v)}" for k, v in shown.items())
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _counted(checks: Sequence[Mapping[str, Any]]) -> str:
    failed = [c["key"] for c in checks if c["status"] == "failed"]
    return f"{len(checks)} checks, " + (f"failed: {', '.join(failed)}" if failed else "none failed")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _plain(record: Mapping[str, Any]) -> str:
    text = ", ".join(f"{k} {_short(v)}" for k, v in record.items() if k not in HIDDEN)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _badness(reading: Mapping[str, Any], target: Level) -> tuple[int, float]:
    """Return how bad a reading is: its level first, then how far it is beyond the target."""
    value = float(reading["value"])
    beyond = [value - bound if op == ">" else bound - value for op, bound in target.sides]
    return RANK.index(reading["level"]), max(beyond)


def _figure(at: tuple[int, Mapping[str, Any]], unit: str) -> dict[str, Any]:
    n, reading = at
    value = reading["value"]
    return {
        "value": value,
        "text": "no data" if value is None else quantity(float(value), unit),
        "count": reading.get("count"),
        "level": reading["level"],
        "row": n,
    }


def _bounds(level: Level, unit: str) -> str:
    words: Iterator[str] = (
        f"{'at most' if op == '>' else 'at least'} {quantity(bound, unit)}" for op, bound in level.sides
    )
    return ", ".join(words)
