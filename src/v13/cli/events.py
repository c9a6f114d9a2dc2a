"""`v13 events`: what the runner found, read while it writes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from v13.cli.options import add_site_options, log, project_root
from v13.errors import EXIT_OK, StoreError

if TYPE_CHECKING:  # data frames take a while to import: a typing error is told before that
    import polars as pl

    from v13.store.event_reader import EventReader

__all__ = ["add"]

DEFAULT_LOG = Path("runs", "live", "events.sqlite")
POLL_S = 0.5  # of --follow; a bar closes once a second
FORMATS = ("table", "csv", "jsonl", "parquet")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_MIN_WIDTH = {"time (UTC)": 23, "symbol": 9, "type": 16, "source": 8, "score": 5, "px": 10}


def add(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "events",
        help="list the events of a runner's log, also while it runs",
        description="List the events of an event log in the order they were entered, with their calibrated values and "
        "outcomes. csv, jsonl and parquet hold every field.",
    )
    parser.add_argument("--log", type=Path, default=DEFAULT_LOG, metavar="PATH", help="default: %(default)s")
    parser.add_argument(
        "--served",
        action="store_true",
        help="the events that count: of each symbol and time those of the release that served it, out of all releases' "
        "logs of `v13 deploy`",
    )
    add_site_options(parser)
    parser.add_argument(
        "--since",
        type=time_or_duration,
        metavar="WHEN",
        help="only events known at this time or later: 2h, 30m, 7d (before now), or a time such as 2026-01-31T12:00 "
        "(UTC unless it says otherwise)",
    )
    parser.add_argument("--symbol", action="append", default=[], help="only this symbol; may be given several times")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of stdout; parquet needs it")
    parser.add_argument("--follow", action="store_true", help="go on with new events as they come, until Ctrl-C")
    parser.add_argument(
        "--salvage", type=Path, metavar="NEW", help="move what a damaged log still tells into a new log"
    )
    parser.set_defaults(run=lambda arguments: _run(arguments, parser))


def time_or_duration(text: str) -> int:
    """Read --since: UTC epoch milliseconds of a time, or of a duration before now."""
    duration = _DURATION.fullmatch(text)
    if duration:
        return round((time.time() - float(duration[1]) * _UNIT_S[duration[2]]) * 1_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a duration such as 2h nor a time such as 2026-01-31T12:00"
        ) from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if arguments.format == "parquet" and arguments.out is None:
        parser.error("--format parquet needs --out FILE")
    if arguments.follow and arguments.out is not None:
        parser.error("--follow writes to stdout; leave --out away, or send stdout to a file")
    if arguments.salvage is not None:
        return _salvage(arguments.log, arguments.salvage)
    if arguments.served:
        if arguments.follow:
            parser.error("--served does not follow; ask again")
        return _write([_served(arguments)], arguments)
    from v13.store.event_reader import EventReader

    with EventReader(arguments.log) as reader:
        return _write(_frames(reader, arguments), arguments)


def _served(arguments: argparse.Namespace) -> pl.DataFrame:
    from v13.release.ledger import DeployLedger
    from v13.release.served import served_events
    from v13.release.site import open_site

    site = open_site(project_root(arguments), arguments.env)
    serving = DeployLedger(site.ledger).state().serving
    return served_events(site, serving, since_ms=arguments.since, symbols=arguments.symbol)


def _write(frames: Iterable[pl.DataFrame], arguments: argparse.Namespace) -> int:
    from v13 import store

    if arguments.out is None:
        return _to_stdout(frames, arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            spool = Path(folder, "events")
            _write_file(frames, arguments.format, spool)
            store.copy(spool, arguments.out)
    except OSError as error:
        raise StoreError(f"{arguments.out}: could not be prepared in the temporary folder: {error}") from error
    print(arguments.out)
    return EXIT_OK


def _salvage(damaged: Path, out: Path) -> int:
    from v13.store.event_salvage import salvage

    moved = salvage(damaged, out)
    log(f"{damaged}: moved " + ", ".join(f"{n} of {table}" for table, n in moved.items()))
    print(out)
    return EXIT_OK


def _to_stdout(frames: Iterable[pl.DataFrame], arguments: argparse.Namespace) -> int:
    try:
        _write_text(frames, arguments.format, sys.stdout)
    except KeyboardInterrupt:
        if not arguments.follow:  # it is how following ends
            raise
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the last flush would fail as well
    return EXIT_OK


def _frames(reader: EventReader, arguments: argparse.Namespace) -> Iterator[pl.DataFrame]:
    """Yield what there is, and with --follow what comes."""
    seen, n_shown = 0, 0
    while True:
        latest = reader.latest()
        for frame in reader.pages(since_ms=arguments.since, symbols=arguments.symbol, after=seen):
            n_shown += frame.height
            seen = max(seen, frame["n"][-1] if frame.height else 0)
            yield frame
        if not arguments.follow:
            break
        seen = max(seen, latest[0] if latest else 0)
        while reader.latest() == latest:
            time.sleep(POLL_S)
    if n_shown == 0:
        log(f"{reader.path}: {_why_none(latest)}")


def _why_none(latest: tuple[int, int] | None) -> str:
    if latest is None:
        return "there are no events yet"
    last = datetime.fromtimestamp(latest[1] / 1_000, UTC).isoformat(timespec="milliseconds")
    return f"none of its {latest[0]} event(s) fits; the last one is of {last}"


def _write_file(frames: Iterable[pl.DataFrame], form: str, path: Path) -> None:
    if form == "parquet":
        _write_parquet(frames, path)
    else:
        with path.open("w", encoding="utf-8", newline="") as sink:
            _write_text(frames, form, sink)


def _write_text(frames: Iterable[pl.DataFrame], form: str, sink: TextIO) -> None:
    widths: list[int] = []
    for i, frame in enumerate(frames):
        if form == "csv":
            sink.write(frame.write_csv(include_header=i == 0))
        elif form == "jsonl":
            sink.write(frame.write_ndjson())
        else:
            sink.write(_table(frame, widths))
        sink.flush()


def _write_parquet(frames: Iterable[pl.DataFrame], path: Path) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for frame in frames:
            table = frame.to_arrow()
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _table(frame: pl.DataFrame, widths: list[int]) -> str:
    """Set a page in columns; the first page (widths is empty) decides how wide they are, and has the head."""
    horizons = [name.removeprefix("prob_") for name in frame.columns if name.startswith("prob_")]
    head = [*_MIN_WIDTH, *(f"{what}@{h}" for h in horizons for what in ("prob", "outcome")), "rule"]
    if "release" in frame.columns:  # what served, of several logs
        head.append("release")
    rows = [_cells(event, horizons) for event in frame.iter_rows(named=True)]
    is_first = not widths
    if is_first:
        widths += [
            max(_MIN_WIDTH.get(name, 0), *map(len, cells)) for name, *cells in zip(head, head, *rows, strict=True)
        ]
        rows.insert(0, head)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _cells(event: dict[str, Any], horizons: list[str]) -> list[str]:
    moment = datetime.fromtimestamp(event["ts_ms"] / 1_000, UTC)
    cells = [
        moment.isoformat(timespec="milliseconds").removesuffix("+00:00"),
        event["symbol"],
        event["type"],
        event["source"],
        "-" if event["score"] is None else f"{event['score']:.1f}",
        "-" if event["px"] is None else f"{event['px']:.10g}",
    ]
    for h in horizons:
        prob = event[f"prob_{h}"]
        pending = "-" if event["side"] == "none" else "pending"
        cells += ["-" if prob is None else f"{prob:.3f}", event[f"outcome_{h}"] or pending]
    return [*cells, event["rule"], *([event["release"]] if "release" in event else [])]
