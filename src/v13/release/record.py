"""The deploy record: what an operation did, from the ledger alone, as JSON and as pages for people.

It depends on the ledger's rows, the SLO table of the release and the attachments, and on no clock: written again it is
the same bytes, with the same snapshots of the monitoring. It judges nothing; `record_boxes` ticks what the ledger
proves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release.build import BUNDLE, RELEASE_FILE
from v13.release.ledger import DeployLedger
from v13.release.record_boxes import checklists
from v13.release.record_facts import Story, figures, problems, story, timeline
from v13.release.record_page import page
from v13.release.site import Site, check_name
from v13.telemetry.slo import SloTable, load_slo

__all__ = ["SCHEMA", "make_record", "write_record"]

SCHEMA: Final = Path(__file__).parent / "schemas" / "record.schema.json"
ATTACHMENTS: Final = "attachments"
SNAPSHOTS: Final = "monitoring"
SIGNOFF_FILES: Final = ("manifest.json", "signoff.json", "signoff.dsse.json")
SLO_TABLE: Final = "config/slo.yaml"


def write_record(
    site: Site, ledger: DeployLedger, attachments: Mapping[str, Path] | None = None, *, operation: str | None = None
) -> Path:
    """Write the record of an operation, over or not, and return its folder.

    Parameters
    ----------
    site : Site
    ledger : DeployLedger
    attachments : mapping of name to file
        Copied beside the record and named in it by hash; `monitoring/...` are the monitoring snapshots, and those of
        the record that was there are kept. The sign-off's own files are added where the release holds them.
    operation : str, optional
        Default: the last one.

    Returns
    -------
    Path
        `site.records/<operation>`, with record.md, record.zh.md, record.json and attachments/. One that was there is
        replaced whole, but for its snapshots.

    Raises
    ------
    ReleaseError
        There is no such operation, or the name of an attachment leads out of its folder.
    StoreError
        The ledger is damaged, an attachment cannot be read, or the file system refused; nothing changed.
    """
    told = story(ledger.rows(), operation)
    final = site.records / check_name(told.id, "operation")
    # What Prometheus showed then cannot be had again: a record that is written anew keeps it.
    given = _snapshots(final) | _signoff_files(site, told) | dict(attachments or {})
    for name in given:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or place.as_posix() != name or "\\" in name:
            raise ReleaseError(
                f"attachment {name!r}: expected a relative path without dots, such as monitoring/end.html"
            )
    with store.staged_dir(final) as folder:
        for name, path in sorted(given.items()):
            store.copy(path, folder / ATTACHMENTS / name)
        copied = {name: folder / ATTACHMENTS / name for name in sorted(given)}
        record = make_record(site, told, copied)
        store.validate(record, SCHEMA)
        store.write_json(folder / "record.json", record)
        store.write_text(folder / "record.md", page(record, "en"))
        store.write_text(folder / "record.zh.md", page(record, "zh"))
    return final


def make_record(site: Site, told: Story, attachments: Mapping[str, Path]) -> dict[str, Any]:
    """Return the record of an operation as plain values; errors as `write_record`."""
    release = _release(site, told)
    results = told.checks[1] if told.checks else []
    begin, end = told.begin, told.end
    by = dict.fromkeys(str(row.record["by"]) for row in told.rows if "by" in row.record)
    lists = checklists(told)
    return {
        "version_of_record": 1,
        "operation": told.id,
        "kind": told.kind,
        "type": str(begin.get("type", "canary")),
        "outcome": told.outcome,
        "why": "" if end is None else str(end.record["why"]),
        "reason": str(begin.get("reason", "")),
        "by": list(by),
        "begun_utc": begin["utc"],
        "ended_utc": None if end is None else end.record["utc"],
        "environment": str(begin.get("env", site.env)),
        "version": _bundle_facts(told).get("v13_version") or release.get("v13_version"),
        "releases": _releases(told),
        "symbols": [str(s) for s in begin.get("symbols", ())] or _assigned(told),
        "signoff": _signoff(told, release),
        "overrides": [
            {"check": r["key"], "override": r["override"], "evidence": r["evidence"], "row": told.checks[0].n}
            for r in results
            if r.get("override") and told.checks
        ],
        "checks": results,
        "figures": figures(told, _table(site, told)),
        "checklists": lists,
        "timeline": timeline(told),
        "problems": problems(told),
        "follow_up": _follow_up(lists),
        "attachments": [
            {"name": name, "sha256": store.sha256_file(path), "n_bytes": path.stat().st_size}
            for name, path in attachments.items()
        ],
        "ledger": {
            "first_row": told.rows[0].n,
            "last_row": told.rows[-1].n,
            "n_rows": len(told.rows),
            "sha256": told.rows[-1].sha256,
        },
    }


def _subject(told: Story) -> str | None:
    """Return the release a record is about: the new one, or the one that serves after a rollback."""
    if told.kind == "rollback":
        good = told.begin.get("good")
        return None if good is None else str(good)
    named = [row.record["release"] for row in told.of("candidate") if row.record["release"]]
    return str(named[-1]) if named else None


def _releases(told: Story) -> dict[str, str | None]:
    if told.kind == "rollback":
        bad, good = told.begin.get("bad"), told.begin.get("good")
        return {"rolled_back": bad, "serves_now": good, "also_stopped": told.begin.get("also")}
    return {"new": _subject(told), "before": told.begin.get("stable")}


def _release(site: Site, told: Story) -> dict[str, Any]:
    """Return release.json, which is never changed once it is there; empty where there is none."""
    name = _subject(told)
    if name is None:
        return {}
    try:
        found = store.read_json(site.release(name) / RELEASE_FILE)
    except StoreError:
        return {}
    return found if isinstance(found, dict) else {}


def _table(site: Site, told: Story) -> SloTable:
    """Return the SLO table the release was watched by; the site's own where it never came to be."""
    name = _subject(told)
    own = None if name is None else site.release(name) / SLO_TABLE
    return load_slo(own if own is not None and own.is_file() else site.root / SLO_TABLE)


def _bundle_facts(told: Story) -> dict[str, str]:
    for result in told.checks[1] if told.checks else ():
        if result["key"] == "bundle":
            return dict(result.get("facts") or {})
    return {}


def _signoff(told: Story, release: Mapping[str, Any]) -> dict[str, Any] | None:
    facts = _bundle_facts(told)
    if not facts and not release:
        return None
    data = None if "simulated" not in release else "simulated" if release["simulated"] else "recorded"
    return {
        "bundle": facts.get("bundle") or Path(str(told.begin.get("signoff", "-"))).name,
        "manifest_sha256": facts.get("manifest_sha256"),
        "signoff_sha256": facts.get("signoff_sha256") or release.get("signoff_sha256"),
        "verdict": facts.get("verdict") or release.get("verdict"),
        "data": facts.get("data") or data,
    }


def _snapshots(record: Path) -> dict[str, Path]:
    """Return the monitoring snapshots of the record that is there."""
    folder = record / ATTACHMENTS / SNAPSHOTS
    return {f"{SNAPSHOTS}/{path.name}": path for path in sorted(folder.glob("*")) if path.is_file()}


def _signoff_files(site: Site, told: Story) -> dict[str, Path]:
    name = _subject(told)
    if name is None:
        return {}
    folder = site.release(name) / BUNDLE
    return {f"signoff/{file}": folder / file for file in SIGNOFF_FILES if (folder / file).is_file()}


def _assigned(told: Story) -> list[str]:
    return list(dict.fromkeys(str(row.record["symbol"]) for row in told.of("assign")))


def _follow_up(lists: list[dict[str, Any]]) -> list[str]:
    """Return one action for each box that is open: somebody is to look again, or to say why it stays so."""
    return [
        f"{one['title']}: {box['title']}: {box['evidence']}"
        for one in lists
        for box in one["boxes"]
        if not box["ticked"]
    ]
