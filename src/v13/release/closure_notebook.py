"""What notebook 06 needs: a saved closure read and checked, its tables and figure, and its verdict written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from v13 import store
from v13.config import find_root
from v13.errors import ConfigError, DataError
from v13.release.closure_row import FAMILIES, PARTS, UNEXPLAINED
from v13.release.closure_text import percent
from v13.verdict import StepVerdict

__all__ = [
    "NOTEBOOK",
    "PARAMETERS",
    "SavedClosure",
    "errors_figure",
    "facts",
    "figures",
    "finish",
    "start",
]

NOTEBOOK: Final = "06_metrics_closure"
PARAMETERS: Final[dict[str, tuple[type, ...]]] = {"closure": (str,), "out": (str,), "root": (str, type(None))}
FLOOR: Final = 1e-6  # of a figure: below it a share is drawn as this
COLOURS: Final = {"difference": "#8a97a3", "unexplained": "#c23b3b"}
_OF_IPYTHON: Final = {"In", "Out", "exit", "quit", "get_ipython", "open"}
_KEYS: Final = ("version", "source", "n_scrapes", "n_lives", "n_events", "closed", "errors", "notes", "rows")


@dataclass(frozen=True)
class SavedClosure:
    """A closure as `v13 closure --save` or the metrics alignment wrote it, and where the verdict goes."""

    document: Mapping[str, Any]
    rows: pd.DataFrame
    out: Path


def start(namespace: Mapping[str, Any]) -> SavedClosure:
    """Check the notebook's parameters and read the closure they name.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`.

    Raises
    ------
    ConfigError
        An unknown or missing parameter, or one of the wrong type.
    DataError, StoreError
        The file is no closure, or cannot be read.
    """
    values = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _OF_IPYTHON
        and not callable(value)
        and not hasattr(value, "__spec__")
    }
    for name, value in values.items():
        if name not in PARAMETERS:
            raise ConfigError(f"notebook: unknown parameter {name!r}; there are {', '.join(PARAMETERS)}")
        if not isinstance(value, PARAMETERS[name]):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in PARAMETERS[name])
            raise ConfigError(f"notebook: parameter {name!r}: expected {wanted}, found {value!r}")
    missing = [name for name in PARAMETERS if name not in values]
    if missing:
        raise ConfigError(f"notebook: parameter {missing[0]!r} is missing from the cell tagged `parameters`")
    root = find_root(Path.cwd()) if values["root"] is None else Path(values["root"])
    path = root / values["closure"]
    document = store.read_json(path)
    if not isinstance(document, dict) or any(key not in document for key in _KEYS) or document["version"] != 1:
        raise DataError(f"{path}: expected a closure as `v13 closure --save` writes it, found something else")
    return SavedClosure(document, pd.DataFrame(document["rows"]), root / values["out"])


def facts(saved: SavedClosure) -> pd.DataFrame:
    """Return what was compared, one row."""
    d = saved.document
    start_s, end_s = pd.to_datetime([d["start_s"], d["end_s"]], unit="s", utc=True).round("s")
    return pd.DataFrame(
        {
            "source": [d["source"]],
            "from (UTC)": [start_s.tz_localize(None)],
            "to (UTC)": [end_s.tz_localize(None)],
            "scrapes": [d["n_scrapes"]],
            "processes": [d["n_lives"]],
            "divergences": [d["n_events"]],
            "figures": [len(saved.rows)],
            "not closed": [int((~saved.rows["closed"]).sum())],
            "notes": ["; ".join(d["notes"]) or "-"],
        }
    ).set_index("source")


def figures(saved: SavedClosure, family: str) -> pd.DataFrame:
    """Return every figure of a family: dashboard, event log, difference, what explains it, and what does not."""
    own = saved.rows[saved.rows["family"] == family]
    columns = ["shown", "logged", "difference", *PARTS, "unexplained", "closed"]
    return own.set_index(["panel", "label"])[columns].rename(columns={"shown": "dashboard", "logged": "event log"})


def errors_figure(saved: SavedClosure) -> Figure:
    """Return the differences of all figures as shares, by family: all of it, and what nothing explains."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    families = [family for family in FAMILIES if (saved.rows["family"] == family).any()]
    for place, family in enumerate(families):
        own = saved.rows[saved.rows["family"] == family]
        shares = (own["difference"].abs() / own["logged"].abs().clip(lower=1.0)).fillna(0.0)
        offsets = (("difference", shares, -0.15), ("unexplained", own["error"], 0.15))
        for name, values, offset in offsets:
            label = name if place == 0 else None
            axes.plot(
                values.clip(lower=FLOOR),
                [place + offset] * len(own),
                "|",
                color=COLOURS[name],
                markersize=12,
                label=label,
            )
    axes.axvline(UNEXPLAINED, color=COLOURS["unexplained"], linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlim(FLOOR / 2, 2.0)
    axes.set_yticks(range(len(families)), families)
    axes.set_ylim(len(families) - 0.4, -0.6)  # the first one on top
    axes.set_xlabel(f"share of the figure (left end: {FLOOR:g} or less); dashed: most that may be unexplained")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
    return figure


def finish(saved: SavedClosure) -> StepVerdict:
    """Write `<out>/verdicts/06_metrics_closure.json` and return the verdict, for the last cell."""
    d = saved.document
    worst = max(d["errors"], key=lambda family: d["errors"][family])
    n_open = int((~saved.rows["closed"]).sum())
    status = "PASS" if d["closed"] else "FAIL"
    if d["closed"] and not d["n_events"]:
        status = "INSUFFICIENT"
    summary = (
        f"{len(saved.rows) - n_open} of {len(saved.rows)} figures close over {d['n_events']} divergences and "
        f"{d['n_scrapes']} scrapes; at most {percent(d['errors'][worst])} is unexplained ({worst})."
    )
    if d["source"] != "prometheus":
        summary += " The weaker check: the dashboard's queries were not asked."
    verdict = StepVerdict(NOTEBOOK, status, summary, dict(d["errors"]))
    document = {"notebook": NOTEBOOK, "status": status, "summary": summary, "numbers": dict(d["errors"])}
    store.write_json(saved.out / "verdicts" / f"{NOTEBOOK}.json", document)
    return verdict
