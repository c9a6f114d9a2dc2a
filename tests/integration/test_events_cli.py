"""`v13 events` as a user meets it."""

from __future__ import annotations

import argparse
import io
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.conftest import REPO
from tests.unit.store import event_batches as made
from v13.cli import events
from v13.errors import StoreError
from v13.store.event_log import EventLog
from v13.store.event_reader import read_events

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CALL = """
import argparse, sys
from v13.cli import events
parser = argparse.ArgumentParser(prog="v13")
events.add(parser.add_subparsers())
arguments = parser.parse_args(["events", *sys.argv[1:]])
sys.exit(arguments.run(arguments))
"""


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="v13")
    events.add(parser.add_subparsers())
    parsed = parser.parse_args(["events", *arguments])
    return int(parsed.run(parsed))


def append(path: Path, first: int, last: int) -> None:
    with EventLog(path, keep_bars=100, now_ms=lambda: made.T0) as log:
        log.commit(made.batch(SYMBOLS, first, last))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    append(tmp_path / "events.sqlite", 1, 30)
    return tmp_path / "events.sqlite"


def test_the_table_has_a_line_an_event(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--log", str(path)) == 0
    out, err = capsys.readouterr()
    head, *lines = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines())
    assert err == ""
    assert head == [
        *("time (UTC)", "symbol", "type", "source", "score", "px"),
        *("prob@10", "outcome@10", "prob@20", "outcome@20", "rule"),
    ]
    frame = read_events(path)
    assert len(lines) == frame.height
    for cells, row in zip(lines, frame.iter_rows(named=True), strict=True):
        prob = "-" if row["prob_10"] is None else f"{row['prob_10']:.3f}"
        none = "-" if row["side"] == "none" else "pending"
        assert cells == [
            datetime.fromtimestamp(row["ts_ms"] / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000"),
            *(row[name] for name in ("symbol", "type", "source")),
            "-" if row["score"] is None else f"{row['score']:.1f}",
            f"{row['px']:.10g}",
            *(prob, row["outcome_10"] or none, prob, row["outcome_20"] or none, row["rule"]),
        ]


def test_csv_jsonl_and_parquet_hold_every_field(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_events(path)
    assert call("--log", str(path), "--format", "csv") == 0
    text = capsys.readouterr().out
    assert pl.read_csv(io.StringIO(text), schema=frame.schema).equals(frame)
    assert call("--log", str(path), "--format", "jsonl") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == frame.to_dicts()
    for form, read in (("parquet", pl.read_parquet), ("csv", lambda f: pl.read_csv(f, schema=frame.schema))):
        out = tmp_path / "made" / f"events.{form}"
        assert call("--log", str(path), "--format", form, "--out", str(out)) == 0
        assert capsys.readouterr().out == f"{out}\n"
        assert read(out).equals(frame)


@pytest.mark.parametrize("form", ["csv", "jsonl", "table", "parquet"])
def test_pages_are_joined_without_a_seam(
    path: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for page in (10_000, 7):
        monkeypatch.setattr("v13.store.event_reader.PAGE_EVENTS", page)
        assert call("--log", str(path), "--format", form, "--out", str(tmp_path / form)) == 0
        texts.append(
            pl.read_parquet(tmp_path / form).write_csv() if form == "parquet" else (tmp_path / form).read_text("utf-8")
        )
    assert texts[0].split() == texts[1].split()  # a table is as wide as its first page


def test_since_and_symbol_choose(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since = datetime.fromtimestamp(made.ts_of(20) / 1_000, UTC)
    for text in (since.isoformat(), since.replace(tzinfo=None).isoformat(), since.strftime("%Y-%m-%dT%H:%M:%SZ")):
        arguments = ["--log", str(path), "--since", text, "--symbol", "ETHUSDT", "--format", "jsonl"]
        assert call(*arguments) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        expected = [e.row for e in made.events("ETHUSDT", 20, 30)]
        assert [(x["symbol"], x["row"]) for x in found] == [("ETHUSDT", row) for row in expected]
    assert call("--log", str(path), "--symbol", "ETHUSDT", "--symbol", "BTCUSDT", "--format", "jsonl") == 0
    assert len(capsys.readouterr().out.splitlines()) == read_events(path).height


def test_where_nothing_fits_stderr_says_why_and_csv_keeps_its_head(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--log", str(path), "--symbol", "NONE", "--format", "csv") == 0
    out, err = capsys.readouterr()
    assert out.startswith("n,event_id,symbol,row,ts_ms,")
    assert out.count("\n") == 1
    n = read_events(path).height
    assert f"none of its {n} event(s) fits; the last one is of 2026-01-01T00:00:30.000+00:00" in err


@pytest.mark.parametrize(("text", "back_s"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1.5d", 129_600)])
def test_a_duration_counts_back_from_now(text: str, back_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.time, "time", lambda: made.T0 / 1_000)
    assert events.time_or_duration(text) == made.T0 - back_s * 1_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--since", "yesterday"], "'yesterday' is neither a duration such as 2h nor a time"),
        (["--since", "-2h"], "--since"),
        (["--format", "parquet"], "--format parquet needs --out"),
        (["--follow", "--out", "x"], "--follow writes to stdout"),
        (["--format", "xml"], "invalid choice"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_missing_log_and_an_output_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no event log"):
        call("--log", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match="could not be written"):
        call("--log", str(path), "--out", str(path / "below" / "a" / "file"))


def test_salvage_makes_a_new_log_and_counts(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.sqlite"
    assert call("--log", str(path), "--salvage", str(new)) == 0
    out, err = capsys.readouterr()
    assert out == f"{new}\n"
    assert f"moved {read_events(path).height} of event, " in err
    assert read_events(new).equals(read_events(path))


def start(*arguments: str) -> Any:
    command = [sys.executable, "-c", CALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO)


def test_follow_goes_on_with_what_is_committed_until_it_is_interrupted(path: Path) -> None:
    before = read_events(path).height
    with start("--log", str(path), "--follow", "--format", "jsonl", "--symbol", "BTCUSDT") as follower:
        first = [json.loads(follower.stdout.readline()) for _ in made.events("BTCUSDT", 1, 30)]
        append(path, 31, 45)
        later = [json.loads(follower.stdout.readline()) for _ in made.events("BTCUSDT", 31, 45)]
        follower.send_signal(signal.SIGINT)
        rest, errors = follower.communicate()
    assert [x["row"] for x in first + later] == [e.row for e in made.events("BTCUSDT", 1, 45)]
    assert min(x["n"] for x in later) > before
    assert (follower.returncode, rest, errors) == (0, "", "")


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    append(tmp_path / "events.sqlite", 1, 1_500)  # more than a pipe holds
    with start("--log", str(tmp_path / "events.sqlite"), "--format", "csv") as writer:
        assert writer.stdout.readline().startswith("n,event_id")
        writer.stdout.close()
        errors = writer.stderr.read()
    assert (writer.returncode, errors) == (0, "")
