"""Notebook 06: its shape, and the parameters and files it refuses."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import REPO
from v13 import store
from v13.errors import ConfigError, DataError, StoreError
from v13.release.closure import Closure
from v13.release.closure_notebook import NOTEBOOK, PARAMETERS, errors_figure, facts, figures, finish, start
from v13.release.closure_row import Chain, ClosureRow
from v13.release.closure_text import conclusion, table


def closure(shown: float = 10.0, **more: Any) -> Closure:
    rows = (
        ClosureRow("events", "Events in this time range", "bull", "events", shown, Chain(*(10.0,) * 5), False, 0.1),
        ClosureRow("scores", "Scores", "le 40.0", "events", 0.0, Chain(*(0.0,) * 5), False, 0.1),
        ClosureRow("scores", "Scores", "le +Inf", "events", 10.0, Chain(*(10.0,) * 5), False, 0.1),
        ClosureRow("latency", "P95", "event", "seconds", math.nan, Chain(*(math.nan,) * 5, in_log=False), False, 0.1),
    )
    made = {"source": "prometheus", "n_events": 10, "notes": ()} | more
    return Closure(made["source"], 1_000.0, 1_060.0, 12, 1, made["n_events"], rows, made["notes"])


def saved(folder: Path, **more: Any) -> dict[str, Any]:
    store.write_json(folder / "closure.json", closure(**more).to_dict())
    return {"closure": "closure.json", "out": "out", "root": str(folder)}


def test_the_notebook_is_an_argument_and_defines_nothing() -> None:
    cells = nbformat.read(REPO / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4).cells
    assert "**Question.**" in cells[0].source
    for cell in (c for c in cells if c.cell_type == "code"):
        assert not cell.outputs
        assert len(cell.source.splitlines()) <= 15
        banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda, ast.ListComp)
        assert not any(isinstance(node, banned) for node in ast.walk(ast.parse(cell.source)))
    (parameters,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert set(re.findall(r"^(\w+) =", parameters.source, re.MULTILINE)) == set(PARAMETERS)
    assert "finish(" in cells[-1].source


@pytest.mark.parametrize(
    ("more", "status"), [({}, "PASS"), ({"shown": 12.0}, "FAIL"), ({"n_events": 0}, "INSUFFICIENT")]
)
def test_the_verdict_is_written(tmp_path: Path, more: dict[str, Any], status: str) -> None:
    found = start(saved(tmp_path, **more))
    verdict = finish(found)
    assert verdict.status == status
    assert store.read_json(tmp_path / "out/verdicts" / f"{NOTEBOOK}.json")["status"] == status


def test_the_weaker_check_says_so(tmp_path: Path) -> None:
    assert "weaker check" in finish(start(saved(tmp_path, source="exporter"))).summary


def test_tables_and_figure_hold_every_figure(tmp_path: Path) -> None:
    found = start(saved(tmp_path, shown=11.0))
    assert facts(found)["not closed"].tolist() == [1]
    assert figures(found, "scores")["event log"].tolist() == [0.0, 10.0]
    (axes,) = errors_figure(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["events", "scores", "latency"]
    unexplained = next(line.get_xdata() for line in axes.get_lines() if line.get_color() == "#c23b3b")
    assert max(unexplained) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"closur": "x"}, "unknown parameter 'closur'"),
        ({"out": 7}, "'out': expected str, found 7"),
        ({"root": 7}, "'root': expected str or null"),
    ],
)
def test_a_wrong_parameter_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start(saved(tmp_path) | change)


def test_what_is_no_closure_is_refused(tmp_path: Path) -> None:
    values = saved(tmp_path)
    store.write_json(tmp_path / "closure.json", {"version": 1})
    with pytest.raises(DataError, match="expected a closure"):
        start(values)
    (tmp_path / "closure.json").unlink()
    with pytest.raises(StoreError, match=r"closure\.json"):
        start(values)
    with pytest.raises(ConfigError, match="'out' is missing"):
        start({"closure": "closure.json", "root": str(tmp_path)})


def test_the_table_folds_buckets_that_agree_and_marks_what_does_not_close() -> None:
    text = table(closure(shown=12.0))
    assert "2 buckets, alike" in text
    assert "le 40.0" not in text
    (marked,) = [line for line in text.splitlines() if line.endswith("NOT CLOSED")]
    assert re.split(r"\s{2,}", marked.strip()) == ["bull", "12", "10", "2", "2", "NOT CLOSED"]
    assert "not in it" in text
    assert "NOT CLOSED: 1 of 4 figures" in conclusion(closure(shown=12.0))
    assert "CLOSED: 4 figures" in conclusion(closure())
    assert "there was no event in this window" in conclusion(closure(n_events=0))
