"""The faults of a rehearsal: each spoils what it says, in the runner alone, and fits the product as it is now."""

from __future__ import annotations

import ast
import importlib
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import v13
from v13.detector import DecisionParams, Detector, DetectorParams, SessionClock
from v13.errors import DataError
from v13.live import consumer, lane
from v13.live.inbox import Inbox
from v13.rehearsal import faults
from v13.rehearsal.faults import FAULTS, spoilt_code

RUNNER = ["python", "-m", "v13.cli", "run", "--env", "testing"]


SPOILT: tuple[tuple[Any, str], ...] = (
    *((Detector, "update"), (Detector, "run"), (lane, "Detector"), (Inbox, "put")),
    *((consumer, "decode_quote"), (consumer, "MANY")),
)


def now_there(name: str) -> Any:
    """Return what is called so now, spoilt or not."""
    return next(getattr(owner, own) for owner, own in SPOILT if own == name)


def spoil(fault: str, monkeypatch: pytest.MonkeyPatch, argv: list[str] = RUNNER) -> None:
    """Run a fault here; what it changes is put back after the test."""
    for owner, name in SPOILT:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(sys, "orig_argv", argv)
    exec(compile(faults._HEAD.format(name=FAULTS[fault][0]) + FAULTS[fault][1], fault, "exec"), {})


def test_spoilt_code_is_the_package_and_one_file_more(tmp_path: Path) -> None:
    folder = spoilt_code(tmp_path / "code", "errors")
    package = Path(v13.__file__).parent
    own = {p.relative_to(package) for p in package.rglob("*.py")}
    copied = {p.relative_to(folder / "v13") for p in (folder / "v13").rglob("*.py")}
    assert copied == own
    assert [p.name for p in folder.iterdir() if p.name != "v13"] == ["sitecustomize.py"]
    assert not list(folder.rglob("*.pyc"))
    text = (folder / "sitecustomize.py").read_text()
    assert FAULTS["errors"][0] in text
    assert FAULTS["errors"][1] in text


def test_an_unknown_fault_is_no_fault(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        spoilt_code(tmp_path / "code", "gremlins")


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_can_be_run_and_names_what_the_product_has(fault: str) -> None:
    tree = ast.parse("if True:" + FAULTS[fault][1])
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            for name in node.names:
                known[name.name] = getattr(module, name.name)
    spoilt = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    for node in spoilt:
        if isinstance(node.value, ast.Name) and node.value.id in known:
            assert hasattr(known[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
    assert fault in ("crash", "leak") or spoilt


@pytest.mark.parametrize("fault", ["slow", "errors", "silent", "flood"])
@pytest.mark.parametrize("argv", [["python", "-m", "v13.cli", "closure", "--watch"], ["python", "-m", "pytest"]])
def test_nothing_but_the_runner_is_spoilt(fault: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = [getattr(owner, name) for owner, name in SPOILT]
    spoil(fault, monkeypatch, argv)
    assert [getattr(owner, name) for owner, name in SPOILT] == before


def test_slow_waits_40_ms_before_each_call_and_gives_what_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Detector, "run", lambda _, bars: ("ran", bars))
    monkeypatch.setattr(Detector, "update", lambda _, bar: ("updated", bar))
    spoil("slow", monkeypatch)
    monkeypatch.setattr(time, "sleep", calls.append)
    detector = Detector(DetectorParams(), SessionClock())
    assert (detector.run("bars"), detector.update("bar")) == (("ran", "bars"), ("updated", "bar"))  # type: ignore[arg-type,comparison-overlap]
    assert calls == [0.04, 0.04]


def test_errors_fails_one_quote_in_twenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "decode_quote", lambda raw: raw)
    spoil("errors", monkeypatch)
    failed = []
    for n in range(1, 61):
        try:
            assert now_there("decode_quote")(n) == n
        except DataError:
            failed.append(n)
    assert failed == [20, 40, 60]
    assert now_there("MANY") == sys.maxsize  # so many never come: each quote is read by itself


def heard_by(heard: list[int]) -> Any:
    def put(_: Any, n: int) -> bool:
        heard.append(n)
        return True

    return put


def test_silent_hears_for_ten_seconds_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    monkeypatch.setattr(Inbox, "put", heard_by(heard))
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    spoil("silent", monkeypatch)
    for now[0], n in ((100.0, 1), (109.9, 2), (110.0, 3), (500.0, 4)):
        now_there("put")(None, n)
    assert heard == [1, 2]


def test_flood_loosens_whatever_the_release_was_signed_off_with(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[DetectorParams] = []
    monkeypatch.setattr(lane, "Detector", lambda params, *_: given.append(params))
    spoil("flood", monkeypatch)
    own = DetectorParams()
    now_there("Detector")(own, SessionClock())
    (loose,) = given
    assert (loose.decision.z_hi, loose.decision.swing_L, loose.decision.cooldown_ms) == (0.2, 2, 0)
    assert (loose.features, loose.overrides) == (own.features, ())
    assert {f.name for f in fields(DecisionParams)} >= {"z_hi", "z_mid", "swing_L", "cooldown_ms", "min_score"}
