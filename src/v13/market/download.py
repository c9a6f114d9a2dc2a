"""Fetch Binance's public dumps: which files cover a span of days, and each of them whole or not at all.

It must not read what it fetches: the readers judge the content. A file has its final name only after its published
SHA-256 was found in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args

import httpx

from v13.errors import ConfigError, DataError, StoreError

__all__ = ["DumpFile", "DumpKind", "Market", "fetch", "plan"]

Market = Literal["spot", "usdm"]
DumpKind = Literal["aggTrades", "trades", "bookTicker", "klines"]

ROOTS: Final = {"spot": "/data/spot", "usdm": "/data/futures/um"}
INTERVALS: Final = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1mo")
FIRST_WAIT_S: Final = 1.0  # doubles with every further attempt

T = TypeVar("T")


@dataclass(frozen=True)
class DumpFile:
    """One published file: its path on the server (from the root, with a leading slash) and its name."""

    path: str
    name: str


def plan(
    market: Market,
    kind: DumpKind,
    symbol: str,
    start: date,
    end: date,
    *,
    interval: str | None = None,
    prefer_monthly: bool = True,
) -> list[DumpFile]:
    """Return the files that cover all days from `start` to `end`, both included, in time order.

    Parameters
    ----------
    market : "spot" or "usdm"
    kind : "aggTrades", "trades", "bookTicker" or "klines"
        `bookTicker` is published for usdm only.
    symbol : str
        Letters and digits, e.g. BTCUSDT.
    start, end : date
        UTC days.
    interval : str or None
        Of klines, e.g. 1m; None for the other kinds.
    prefer_monthly : bool
        One monthly file where the span holds the whole month.

    Returns
    -------
    list of DumpFile
        No day is covered twice. Whether a file is published only the server knows.

    Raises
    ------
    ConfigError
        An argument is outside its range or contradicts another.
    """
    _check(market, kind, symbol, start, end, interval)
    stem = f"{symbol}-{interval or kind}"
    folder = f"{kind}/{symbol}/{interval}" if interval else f"{kind}/{symbol}"
    files = []
    day = start
    while day <= end:
        after = (day.replace(day=1) + timedelta(days=32)).replace(day=1)  # the first of the next month
        if prefer_monthly and day.day == 1 and after - timedelta(days=1) <= end:
            period, name = "monthly", f"{stem}-{day:%Y-%m}.zip"
        else:
            period, name, after = "daily", f"{stem}-{day:%Y-%m-%d}.zip", day + timedelta(days=1)
        files.append(DumpFile(f"{ROOTS[market]}/{period}/{folder}/{name}", name))
        day = after
    return files


def _check(market: str, kind: str, symbol: str, start: date, end: date, interval: str | None) -> None:
    if market not in ROOTS or kind not in get_args(DumpKind):
        kinds = ", ".join(get_args(DumpKind))
        raise ConfigError(f"download: expected market spot or usdm and kind of {kinds}; found {market} {kind}")
    if kind == "bookTicker" and market == "spot":
        raise ConfigError("download: bookTicker dumps are published for usdm only; use market usdm")
    if kind == "klines" and interval not in INTERVALS:
        raise ConfigError(f"download: klines need an interval of {', '.join(INTERVALS)}; found {interval}")
    if kind != "klines" and interval is not None:
        raise ConfigError(f"download: {kind} have no interval; found {interval}")
    if not (symbol.isascii() and symbol.isalnum()):
        raise ConfigError(f"download: expected a symbol of letters and digits such as BTCUSDT; found {symbol!r}")
    if end < start:
        raise ConfigError(f"download: the span ends ({end}) before it starts ({start})")


def fetch(
    files: list[DumpFile],
    base_url: str,
    folder: Path,
    *,
    timeout_s: float,
    retries: int,
    progress: Callable[[str, int, int | None], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Fetch every file into `folder` and return the paths, in the order of `files`.

    What is there already with the right checksum is left alone; a download that was broken off goes on where it
    stopped, from `<name>.part`.

    Parameters
    ----------
    files : list of DumpFile
    base_url : str
        E.g. https://data.binance.vision
    folder : Path
        Created if absent.
    timeout_s : float, s, > 0
        Longest silence of the server.
    retries : int, >= 0
        Further attempts for one file after a server error (5xx), a silence or a broken connection.
    progress : callable or None
        Called with name, bytes on disk, and bytes in all (None if unknown).
    sleep : callable
        Waits for a number of seconds between attempts: 1, 2, 4, ...

    Returns
    -------
    list of Path

    Raises
    ------
    DataError
        Files are not published (all of them are named, after the others were fetched); a checksum is wrong (what was
        fetched is deleted) or unreadable; or the server refused, or failed `retries` + 1 times.
    StoreError
        The folder cannot be written.
    ConfigError
        `base_url`, `timeout_s` or `retries` is outside its range.
    """
    if not base_url.startswith(("http://", "https://")) or timeout_s <= 0 or retries < 0:
        raise ConfigError(
            "download: expected an http(s) base_url, timeout_s > 0 and retries >= 0; "
            f"found {base_url!r}, {timeout_s}, {retries}"
        )
    paths, missing = [], []
    # Dumps are packed already; an encoding on top would make byte ranges meaningless.
    with httpx.Client(timeout=timeout_s, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client:
        for file in files:
            url, target = base_url.rstrip("/") + file.path, folder / file.name
            expected = _retried(partial(_checksum, client, url, file.name), url, retries, sleep)
            is_there = expected is not None
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if expected is not None and not (target.is_file() and _sha256(target) == expected):
                    part = target.with_name(f"{file.name}.part")
                    is_there = _retried(partial(_download, client, url, part, progress), url, retries, sleep)
                    if is_there:
                        _adopt(part, target, expected)
            except OSError as error:
                raise StoreError(f"{target}: could not be written: {error}") from error
            if is_there:
                paths.append(target)
            else:
                missing.append(url)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} files are not on the server; the day may not be published (yet), "
            f"or the symbol not be listed: {', '.join(missing)}"
        )
    return paths


def _retried(action: Callable[[], T], url: str, retries: int, sleep: Callable[[float], None]) -> T:
    attempt = 0
    while True:
        try:
            return action()
        except httpx.HTTPError as error:
            attempt += 1
            if attempt > retries or not _may_pass(error):
                reason = f"{type(error).__name__}: {error}"
                raise DataError(f"{url}: not fetched after {attempt} attempts: {reason}") from error
            sleep(FIRST_WAIT_S * 2 ** (attempt - 1))


def _may_pass(error: httpx.HTTPError) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TimeoutException | httpx.NetworkError | httpx.RemoteProtocolError)


def _checksum(client: httpx.Client, url: str, name: str) -> str | None:
    """Return the published SHA-256 in lower case, or None where nothing is published."""
    response = client.get(f"{url}.CHECKSUM")
    if response.status_code == httpx.codes.NOT_FOUND:
        return None
    response.raise_for_status()
    found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S+)\s*", response.text)
    if found is None or found[2] != name:
        raise DataError(f"{url}.CHECKSUM: expected '<sha256>  {name}'; found {response.text[:120]!r}")
    return found[1].lower()


def _download(
    client: httpx.Client, url: str, part: Path, progress: Callable[[str, int, int | None], None] | None
) -> bool:
    """Complete `part`; return False where the file is not published. A failure leaves what came for the next try."""
    have = part.stat().st_size if part.is_file() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # nothing lies beyond the part: it is whole, or the checksum will say that it is not this file
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends it all again
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as sink:
            for chunk in response.iter_raw():  # a chunk size would hold back, and lose, what came before a failure
                sink.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(part.name.removesuffix(".part"), have, total)
            sink.flush()
            os.fsync(sink.fileno())
    return True


def _adopt(part: Path, target: Path, expected: str) -> None:
    found = _sha256(part)
    if found != expected:
        part.unlink()
        raise DataError(
            f"{target.name}: expected SHA-256 {expected}, found {found}; what was fetched is deleted, fetch it again"
        )
    part.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
