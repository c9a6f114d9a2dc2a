"""The command line as a user meets it: exit codes, messages, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.integration.markets import REPO, write_bars
from v13 import market
from v13.cli import main

HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
GOOD = [
    f"{i},{100 + i % 7}.5,0.1,{i},{i},{1_704_067_200_000 + 400 * i},{'true' if i % 3 else 'false'}\n"
    for i in range(1, 200)
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(REPO / "config", tmp_path / "config", ignore=shutil.ignore_patterns("*.json"))
    shutil.copytree(REPO / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("V13__NOISE__MARKETS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(row: int, column: int, value: str) -> str:
    lines = [line.rstrip("\n").split(",") for line in GOOD]
    lines[row][column] = value
    return HEADER + "".join(",".join(line) + "\n" for line in lines)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(path: Path, content: str) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-aggTrades-2024-01-01.csv", content)
    return path.read_bytes()


BAD = {
    "empty file": (b"", "csv", "empty"),
    "header only": (HEADER.encode(), "csv", "row"),
    "text in a number": (changed(41, 1, "n/a").encode(), "csv", "row 42"),
    "negative price": (changed(41, 1, "-3").encode(), "csv", "row 42"),
    "NaN": (changed(41, 2, "nan").encode(), "csv", "row 42"),
    "mixed ms and us": (changed(41, 5, "1704067200000000").encode(), "csv", "row 42"),
    "two symbols in one file": (changed(41, 1, "3000.5").encode(), "csv", "row 42"),
    "wrong columns": (b"a,b,c\n1,2,3\n4,5,6\n", "csv", "column"),
    "not a table": (np.random.default_rng(0).bytes(3_000), "csv", ""),
    "not a parquet": (b"PAR1 but not really", "parquet", "parquet"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("command", ["signoff", "search", "quality"])
def test_bad_input_is_exit_3_names_the_file_and_writes_nothing(
    what: str, command: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, suffix, word = BAD[what]
    path = write(project / f"BTCUSDT-aggTrades-2024-01-01.{suffix}", content)
    before = sorted(p for p in project.rglob("*"))
    arguments = ["data", "quality", str(path)] if command == "quality" else [command, "--data", str(path)]
    assert main(arguments) == 3
    message = capsys.readouterr().err
    assert path.name in message
    assert word in message
    assert "Traceback" not in message
    assert sorted(p for p in project.rglob("*")) == before


def test_a_truncated_zip_is_exit_3(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = zipped(project / "whole.zip", HEADER + "".join(GOOD))
    path = write(project / "BTCUSDT-aggTrades-2024-01-01.zip", whole[: len(whole) * 2 // 3])
    assert main(["signoff", "--data", str(path)]) == 3
    assert path.name in capsys.readouterr().err
    assert not (project / "runs").exists()


@pytest.mark.parametrize("content", [HEADER + "".join(GOOD[:10]), HEADER + "".join(GOOD)])
def test_a_tiny_file_is_an_honest_insufficient(content: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(project / "BTCUSDT-aggTrades-2024-01-01.csv", content)
    assert main(["accept", "--data", str(path)]) == 4
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["overall"] == "INSUFFICIENT"
    assert {c["key"] for c in verdict["criteria"] if c["status"] == "PASS"} <= {"noise_certificate"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["signoff"], 2, "required"),
        (["signoff", "--data", "nowhere.csv"], 3, "nowhere.csv: no such file"),
        (["signoff", "--data", "config", "--env", "moon"], 2, "invalid choice"),
        (["accept", "--data", "config", "--seed", "-1"], 2, "invalid seed value"),
        (["data", "simulate", "--out", "x", "--seed", "-1"], 2, "invalid seed value"),
        (["accept", "--data", "config", "--out", "config/system.yaml"], 3, "is a file"),
        (["data"], 2, "required"),
        ([], 2, "usage"),
    ],
)
@pytest.mark.usefixtures("project")
def test_usage_errors_say_what_is_wrong(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = main(arguments)
    except SystemExit as stop:
        got = int(str(stop.code))
    assert got == code
    assert words in capsys.readouterr().err


def test_a_bad_config_names_file_key_and_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "config" / "system.yaml"
    path.write_text(path.read_text().replace("  z_hi: 2.0", "  z_high: 2.0"))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "z_high" in text)
    assert main(["signoff", "--data", "config"]) == 3
    message = capsys.readouterr().err
    assert f"system.yaml:{line}" in message
    assert "z_high" in message
    assert "z_hi" in message


def test_an_unwritable_output_is_exit_1_and_touches_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = write_bars(project / "tape.parquet", market.simulate_bars(market.MarketSpec("random_walk", 2_000), 1).bars)
    (project / "blocked").write_text("a file where a folder should be")
    assert main(["signoff", "--data", str(tape), "--out", "blocked/out", "--quiet"]) == 1
    assert "blocked" in capsys.readouterr().err
    assert not (project / "reports").exists()
    assert not list((project / "config/calibration").glob("*.json"))


def test_bars_and_quality_of_a_gzip(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "BTCUSDT-aggTrades-2024-01-01.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "".join(GOOD)).encode()))
    assert main(["data", "bars", str(path), "--out", "bars"]) == 0
    bars = pl.read_parquet(project / "bars" / "BTCUSDT_bars.parquet")
    assert bars["n_trades"].sum() == len(GOOD)
    capsys.readouterr()
    assert main(["data", "quality", "bars"]) == 0
    assert json.loads(capsys.readouterr().out.strip())["BTCUSDT"]["n_bars"] == len(bars)


def test_ctrl_c_in_the_middle_of_a_notebook_leaves_the_old_outputs(project: Path) -> None:
    tape = write_bars(project / "tape.parquet", market.simulate_bars(market.MarketSpec("planted", 40_000), 2).bars)
    old = project / "runs" / "real_test" / "best_global.yaml"
    old.parent.mkdir(parents=True)
    old.write_text("the old one")
    process = subprocess.Popen(
        [sys.executable, "-m", "v13.cli", "signoff", "--data", str(tape)],
        cwd=project,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:  # the second notebook has begun: the first is done, nothing is in place yet
        lines.append(line)
        if line.startswith("2. "):
            break
    else:
        pytest.fail("the second notebook never began: " + "".join(lines))
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert old.read_text() == "the old one"
    left = {p.name for p in (project / "runs").iterdir()}
    # A certificate and a seal are whole by themselves; .search holds what a search goes on from.
    assert left <= {"real_test", "noise", "holdout_ledger.sqlite", ".search"}
    assert not (project / "reports").exists() or list((project / "reports").iterdir()) == []
    assert not list((project / "config/calibration").glob("*.json"))


def test_steps_without_notebooks(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = write_bars(project / "tape.parquet", market.simulate_bars(market.MarketSpec("planted", 60_000), 3).bars)
    data = ["--data", str(tape), "--out", "out"]
    assert main(["search", *data]) == 0
    assert capsys.readouterr().out.strip() == "out/best_global.yaml"
    assert main(["calibrate", *data]) == 0
    assert main(["accept", *data]) in (0, 4)
    printed = capsys.readouterr().out
    assert (
        json.loads(printed[printed.index("{") :])
        == json.loads((project / "out/acceptance.json").read_text())["verdict"]
    )


def test_simulate_makes_readable_tapes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "simulate", "--out", "demo", "--hours", "1"]) == 0
    assert len(capsys.readouterr().out.split()) == 4
    assert main(["data", "simulate", "--out", "demo"]) == 3
    found = market.load([project / "demo"])
    assert list(found) == ["BTCUSDT", "ETHUSDT"]
    assert all(r.simulated and np.isfinite(r.bars["ofi"][1:]).all() for r in found.values())


def test_edge_prints_every_cell_and_the_whole_record_costs_a_look(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = market.simulate_bars(market.MarketSpec("planted", 60_000, true_accuracy=0.9), 2).bars
    tape = write_bars(project / "tape.parquet", bars, simulated=False)
    assert main(["edge", "--data", str(tape), "--json"]) == 0
    searched = json.loads(capsys.readouterr().out)
    assert main(["ledger", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["looks"] == []  # sealed, but its holdout was not looked at
    assert main(["edge", "--data", str(tape), "--json", "--whole"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole[0]["n"] > 1.4 * searched[0]["n"] > 100
    for rows in (searched, whole):
        finest = [r for r in rows if "all" not in (r["symbol"], r["source"], r["kind"])]
        for horizon in (10, 20):
            every = next(r for r in rows if r["symbol"] == r["source"] == "all" and r["horizon_bars"] == horizon)
            assert sum(r["n"] for r in finest if r["horizon_bars"] == horizon) == every["n"]
            assert every["accuracy"] > 0.6
            assert every["p"] < 0.01
        assert all((r["p"] is None) == (r["p_corrected"] is None) for r in finest)
        assert all(r["p_corrected"] >= r["p"] for r in finest if r["p"] is not None)
    assert main(["ledger", "--json"]) == 0
    assert [look["number"] for look in json.loads(capsys.readouterr().out)["looks"]] == [1]
    assert main(["accept", "--data", str(tape)]) in (0, 4)
    capsys.readouterr()
    assert main(["ledger", "--json"]) == 0
    assert [look["number"] for look in json.loads(capsys.readouterr().out)["looks"]] == [1, 2]
    assert main(["edge", "--data", str(tape)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| symbol | source | kind |")
    assert len(table) == 2 + len(searched)


def test_edge_on_the_search_part_is_free_only_for_a_holdout_it_did_not_see(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = market.simulate_bars(market.MarketSpec("planted", 20_000), 2).bars
    tape = write_bars(project / "tape.parquet", bars, simulated=False)
    data = ["--data", str(tape)]

    def number(out: str) -> int:
        """The look that `accept` takes at the product's cut."""
        monkeypatch.delenv("V13__SEARCH__SEARCH_SHARE", raising=False)
        assert main(["accept", *data, "--out", out]) in (0, 4)
        capsys.readouterr()
        return int(json.loads((project / out / "acceptance.json").read_text())["look"]["number"])

    assert main(["edge", *data]) == 0
    assert number("first") == 1  # none of this holdout was seen
    shutil.rmtree(project / "runs")
    monkeypatch.setenv("V13__SEARCH__SEARCH_SHARE", "0.97")
    assert main(["edge", *data]) == 0
    assert main(["edge", *data]) == 0  # the same again costs no more
    assert number("second") == 2
