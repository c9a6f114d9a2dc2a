"""What a check before a deploy found: one result each, the table of them for a terminal, and their JSON.

It looks at nothing itself; the checks do.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from v13.errors import EXIT_GATE, EXIT_OK

__all__ = ["CheckResult", "exit_code", "summary", "table", "to_json"]

Status = Literal["ok", "failed", "not_applicable"]
COLUMNS: Final = 120  # at most, also on a wider terminal
FEWEST_COLUMNS: Final = 60
WORDS: Final[Mapping[str, str]] = {"ok": "ok", "failed": "FAILED", "not_applicable": "n/a"}
OVERRIDDEN: Final = "OVERRIDE"
GAP: Final = "  "


@dataclass(frozen=True)
class CheckResult:
    """One check.

    Attributes
    ----------
    key : str
        Short name, unique; overrides name it.
    title, title_zh : str
        For people.
    status : {"ok", "failed", "not_applicable"}
        ok also where an override was signed; `override` tells.
    evidence : str
        What was looked at, with numbers and hashes.
    remedy : str
        What to do about it; empty where nothing is to be done.
    override : str
        Who let a failed check pass, why and until when; empty where nobody did.
    box : str
        Which box of the guide's pre-deploy list it belongs to; empty for none.
    facts : mapping
        What the deploy record takes over, such as whole hashes; plain text.
    """

    key: str
    title: str
    status: Status
    evidence: str
    remedy: str
    title_zh: str = ""
    override: str = ""
    box: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """Return what the table shows for the status."""
        return OVERRIDDEN if self.override else WORDS[self.status]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as the ledger keeps them."""
        return asdict(replace(self, facts=dict(self.facts)))


def summary(results: Sequence[CheckResult]) -> str:
    """Return what all checks come to, in one line."""
    failed = [r.key for r in results if r.status == "failed"]
    overridden = [r.key for r in results if r.override]
    absent = sum(r.status == "not_applicable" for r in results)
    passed = sum(r.status == "ok" for r in results) - len(overridden)
    parts = [f"{len(results)} checks: {passed} ok"]
    if overridden:
        parts.append(f"{len(overridden)} let pass by a signed override ({', '.join(overridden)})")
    if absent:
        parts.append(f"{absent} not applicable")
    parts.append(f"{len(failed)} failed ({', '.join(failed)})" if failed else "none failed")
    return ", ".join(parts)


def table(results: Sequence[CheckResult], columns: int | None = None) -> str:
    """Return the results for a terminal, each with its evidence and, where it failed, the remedy.

    Parameters
    ----------
    results : sequence of CheckResult
    columns : int, optional
        Width; at most 120 are used. Default: that of the terminal.
    """
    width = min(COLUMNS, max(FEWEST_COLUMNS, columns or shutil.get_terminal_size((COLUMNS, 0)).columns))
    keys = max([len("check"), *(len(r.key) for r in results)])
    words = max([len("result"), *(len(r.word) for r in results)])
    left = keys + words + 2 * len(GAP)
    lines = [f"{'check'.ljust(keys)}{GAP}{'result'.ljust(words)}{GAP}evidence"]
    for result in results:
        text = [result.title + ": " + result.evidence]
        if result.override:
            text.append("override: " + result.override)
        if result.status == "failed":
            text.append("-> " + result.remedy)
        cells = [line for part in text for line in _wrapped(part, width - left)]
        head = f"{result.key.ljust(keys)}{GAP}{result.word.ljust(words)}{GAP}"
        lines += [(head if i == 0 else " " * left) + cell for i, cell in enumerate(cells)]
    return "\n".join([*lines, summary(results), ""])


def to_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return plain values: all results, the keys of those that failed, and whether a deploy may begin."""
    failed = [r.key for r in results if r.status == "failed"]
    return {
        "passed": not failed,
        "failed": failed,
        "overridden": [r.key for r in results if r.override],
        "checks": [r.to_dict() for r in results],
    }


def exit_code(results: Sequence[CheckResult]) -> int:
    """Return 0 where nothing failed, else 4."""
    return EXIT_GATE if any(r.status == "failed" for r in results) else EXIT_OK


def _wrapped(text: str, width: int) -> list[str]:
    """Return lines; a word that is too long, such as a path, is broken."""
    flat = " ".join(text.split())
    return textwrap.wrap(flat, width, break_on_hyphens=False) or [""]
