"""`v13 ledger` as a user meets it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from v13 import store
from v13.cli import main

DAY_MS = 86_400_000
JAN_1 = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture
def root(tmp_path: Path, repo: Path) -> Path:
    shutil.copytree(repo / "config", tmp_path / "config", ignore=shutil.ignore_patterns("*.json"))
    return tmp_path


@pytest.fixture
def path(root: Path) -> Path:
    """Return a ledger of two looks at one holdout of four symbols, and one at a simulated market."""
    ledger = store.HoldoutLedger(root / store.HOLDOUT_LEDGER, lambda: datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    coins = [store.Span("usdm", name, JAN_1, JAN_1 + DAY_MS) for name in ("ADA", "BNB", "ETH", "XRP")]
    demo = [store.Span("usdm", "DEMO", JAN_1, JAN_1 + DAY_MS, simulated=True)]
    for key, holdout in (("1" * 64, coins), ("2" * 64, coins), ("3" * 64, demo)):
        ledger.seal(store.Seal(key, "hash", holdout, [], "code", "config", 13))
        ledger.look(key, "hash")
    ledger.record_verdict("1" * 64, "FAIL")
    return ledger.path


@pytest.mark.usefixtures("path")
def test_it_lists_the_looks(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--root", str(root)]) == 0
    day = "2026-01-01T00:00 to 2026-01-02T00:00"
    assert [line.split("  ") for line in _squeezed(capsys.readouterr().out)] == [
        ["look", "time (UTC)", "verdict", "simulated", "symbols", "holdout (UTC)", "run key"],
        ["1", "2026-03-04T05:06:07", "FAIL", "no", "ADA,BNB,ETH +1", day, "1" * 12],
        ["2", "2026-03-04T05:06:07", "none", "no", "ADA,BNB,ETH +1", day, "2" * 12],
        ["1", "2026-03-04T05:06:07", "none", "yes", "DEMO", day, "3" * 12],
    ]


def test_json_holds_everything(root: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--root", str(root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(path)
    assert document["n_rows"] == 7
    assert document["head_sha256"] == store.HoldoutLedger(path).rows()[-1].sha256
    assert [(x["number"], x["alpha_share"], x["verdict"]) for x in document["looks"]] == [
        (1, 1.0, "FAIL"),
        (2, 0.5, None),
        (1, 1.0, None),
    ]
    assert document["looks"][0]["key"] == "1" * 64
    assert document["looks"][0]["holdout"][0]["symbol"] == "ADA"


def test_verify_tells_that_the_chain_holds(root: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--root", str(root), "--verify"]) == 0
    head = store.HoldoutLedger(path).rows()[-1].sha256
    assert capsys.readouterr().out == f"{path}: the chain holds: 7 row(s), the last {head}\n"


@pytest.mark.parametrize("option", [[], ["--json"], ["--verify"]])
def test_an_edited_row_is_exit_1_and_named(
    option: list[str], root: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TRIGGER entry_is_never_changed")
        db.execute("UPDATE entry SET record = replace(record, '\"number\":2', '\"number\":1') WHERE n = 4")
    assert main(["ledger", "--root", str(root), *option]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{path}: row 4 " in err


def test_no_ledger_is_no_looks_and_none_is_made(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--root", str(root)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "nobody has looked" in err
    assert main(["ledger", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["looks"] == []
    assert not (root / "runs").exists()


def _squeezed(text: str) -> list[str]:
    """Take the padding out of a table whose columns are two spaces apart."""
    return ["  ".join(cell.strip() for cell in line.split("  ") if cell.strip()) for line in text.splitlines()]
