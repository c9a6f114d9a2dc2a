"""Fetching dumps from a real server on the loopback: whole files or none, whatever the server does."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from v13.errors import ConfigError, DataError, StoreError
from v13.market.download import DumpFile, fetch, plan

DAY = date(2024, 8, 9)
BODY = bytes(range(256)) * 4_096  # 1 MiB, every byte value


class Dumps:
    """A server of the published layout. `faults` says, by path, what goes wrong at each of the next requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.knows_ranges = True
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.closing = threading.Event()
        dumps = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                dumps.answer(self)

            def log_message(self, *_: Any) -> None:
                """Keep the test output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, file: DumpFile, body: bytes = BODY, digest: str | None = None) -> None:
        self.files[file.path] = body
        digest = digest or hashlib.sha256(body).hexdigest()
        self.files[f"{file.path}.CHECKSUM"] = f"{digest}  {file.name}\n".encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        fault = self.faults[request.path].pop(0) if self.faults[request.path] else ""
        if fault == "silence":
            request.close_connection = True
            assert self.closing.wait(30)
            return
        body = self.files.get(request.path)
        if fault.isdigit() or body is None:
            request.send_response(int(fault) if fault.isdigit() else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        first = 0
        if wanted and self.knows_ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(body)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(body) - first))
        request.end_headers()
        if fault == "cut":
            request.wfile.write(body[first : (first + len(body)) // 2])
            request.close_connection = True
        else:
            request.wfile.write(body[first:])

    def asked(self, file: DumpFile) -> list[str | None]:
        """Return the Range of every request for the file itself."""
        return [wanted for path, wanted in self.requests if path == file.path]


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dumps]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dumps = Dumps()
    thread = threading.Thread(target=dumps.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield dumps
    dumps.closing.set()
    dumps.server.shutdown()
    dumps.server.server_close()
    thread.join()


class Waits(list[float]):
    """A clock's hand: remembers how long it was told to wait, and does not."""

    __call__ = list.append


def get(files: list[DumpFile], dumps: Dumps, folder: Path, **settings: Any) -> list[Path]:
    return fetch(files, dumps.url, folder, **({"timeout_s": 5.0, "retries": 0, "sleep": Waits()} | settings))


@pytest.fixture
def file(dumps: Dumps) -> DumpFile:
    (file,) = plan("spot", "aggTrades", "BTCUSDT", DAY, DAY)
    dumps.publish(file)
    return file


def test_a_plan_follows_the_published_layout() -> None:
    assert plan("spot", "aggTrades", "BTCUSDT", DAY, DAY) == [
        DumpFile(
            "/data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-08-09.zip", "BTCUSDT-aggTrades-2024-08-09.zip"
        )
    ]
    (month,) = plan("usdm", "klines", "BTCUSDT", date(2024, 8, 1), date(2024, 8, 31), interval="1m")
    assert month.path == "/data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-08.zip"
    (quotes,) = plan("usdm", "bookTicker", "ETHUSDT", DAY, DAY)
    assert quotes.path == "/data/futures/um/daily/bookTicker/ETHUSDT/ETHUSDT-bookTicker-2024-08-09.zip"


def test_a_plan_takes_whole_months_and_fills_up_with_days() -> None:
    names = [file.name for file in plan("spot", "trades", "ETHUSDT", date(2023, 12, 30), date(2024, 3, 2))]
    assert names == [
        "ETHUSDT-trades-2023-12-30.zip",
        "ETHUSDT-trades-2023-12-31.zip",
        "ETHUSDT-trades-2024-01.zip",
        "ETHUSDT-trades-2024-02.zip",
        "ETHUSDT-trades-2024-03-01.zip",
        "ETHUSDT-trades-2024-03-02.zip",
    ]
    days = plan("spot", "trades", "ETHUSDT", date(2024, 2, 1), date(2024, 2, 29), prefer_monthly=False)
    assert len(days) == 29
    assert all("/daily/" in file.path for file in days)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (("spot", "bookTicker", "BTCUSDT", DAY, DAY), "usdm only"),
        (("coinm", "trades", "BTCUSDT", DAY, DAY), "coinm"),
        (("spot", "depth", "BTCUSDT", DAY, DAY), "depth"),
        (("spot", "klines", "BTCUSDT", DAY, DAY), "need an interval"),
        (("spot", "trades", "../BTC", DAY, DAY), r"'\.\./BTC'"),
        (("spot", "trades", "", DAY, DAY), "symbol"),
        (("spot", "trades", "BTCUSDT", DAY, date(2024, 8, 8)), "before it starts"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(asked: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan(*asked)
    with pytest.raises(ConfigError, match="no interval"):
        plan("spot", "trades", "BTCUSDT", DAY, DAY, interval="1m")


def test_a_file_arrives_whole_with_progress(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = tmp_path / "deep" / "down"
    paths = get([file], dumps, folder, progress=lambda *call: seen.append(call))
    assert paths == [folder / file.name]
    assert paths[0].read_bytes() == BODY
    assert [path.name for path in folder.iterdir()] == [file.name]
    assert seen[-1] == (file.name, len(BODY), len(BODY))
    assert [n for _, n, _ in seen] == sorted(n for _, n, _ in seen)


def test_a_base_url_may_have_a_path_and_a_closing_slash(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.publish(DumpFile(f"/mirror{file.path}", file.name), b"mirrored")
    (path,) = fetch([file], f"{dumps.url}/mirror/", tmp_path, timeout_s=5.0, retries=0)
    assert path.read_bytes() == b"mirrored"


def test_a_file_that_is_there_is_not_fetched_again(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    get([file], dumps, tmp_path)
    assert get([file], dumps, tmp_path) == [tmp_path / file.name]
    assert dumps.asked(file) == [None]


def test_a_damaged_file_is_replaced(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    (tmp_path / file.name).write_bytes(BODY[:-1])
    get([file], dumps, tmp_path)
    assert (tmp_path / file.name).read_bytes() == BODY


def test_a_cut_download_goes_on_where_it_stopped(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.faults[file.path] = ["cut", "cut"]
    waits = Waits()
    get([file], dumps, tmp_path, retries=2, sleep=waits)
    assert (tmp_path / file.name).read_bytes() == BODY
    half = len(BODY) // 2
    assert dumps.asked(file) == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert waits == [1.0, 2.0]


def test_a_later_run_goes_on_where_the_last_one_stopped(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.faults[file.path] = ["cut"]
    with pytest.raises(DataError, match=f"{file.path}: not fetched after 1 attempts: RemoteProtocolError"):
        get([file], dumps, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{file.name}.part"]
    get([file], dumps, tmp_path)
    assert (tmp_path / file.name).read_bytes() == BODY
    assert dumps.asked(file)[-1] == f"bytes={len(BODY) // 2}-"


def test_a_server_without_ranges_sends_it_all_again(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.knows_ranges = False
    dumps.faults[file.path] = ["cut"]
    get([file], dumps, tmp_path, retries=1)
    assert (tmp_path / file.name).read_bytes() == BODY
    assert len(dumps.asked(file)) == 2


def test_a_part_that_is_complete_only_needs_its_name(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    (tmp_path / f"{file.name}.part").write_bytes(BODY)  # killed between the last byte and the rename
    get([file], dumps, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("part", [b"x" * 10, b"x" * (len(BODY) + 1)])
def test_a_part_of_another_file_is_found_out_and_gone(
    dumps: Dumps, file: DumpFile, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / f"{file.name}.part").write_bytes(part)
    with pytest.raises(DataError, match="fetch it again"):
        get([file], dumps, tmp_path)
    assert not list(tmp_path.iterdir())
    get([file], dumps, tmp_path)
    assert (tmp_path / file.name).read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing_and_names_both(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.publish(file, digest="0" * 64)
    found = hashlib.sha256(BODY).hexdigest()
    with pytest.raises(DataError, match=f"{file.name}: expected SHA-256 {'0' * 64}, found {found}"):
        get([file], dumps, tmp_path, retries=3)
    assert not list(tmp_path.iterdir())
    assert len(dumps.asked(file)) == 1  # a wrong content is no passing fault


@pytest.mark.parametrize("text", [b"<html>busy</html>", b"abc  name.zip", b"0" * 64 + b"  other.zip\n"])
def test_an_unreadable_checksum_is_shown(dumps: Dumps, file: DumpFile, tmp_path: Path, text: bytes) -> None:
    dumps.files[f"{file.path}.CHECKSUM"] = text
    with pytest.raises(DataError, match=f"CHECKSUM: expected .*{file.name}.*found '{text.decode()[:20]}"):
        get([file], dumps, tmp_path)


def test_days_not_published_are_all_named_and_the_others_fetched(dumps: Dumps, tmp_path: Path) -> None:
    files = plan("usdm", "aggTrades", "BTCUSDT", date(2024, 8, 5), DAY)
    for file in files[1:4]:
        dumps.publish(file)
    del dumps.files[files[2].path]  # its checksum came first
    with pytest.raises(DataError, match="3 of 5 files are not on the server; the day may not be published") as error:
        get(files, dumps, tmp_path, retries=3)
    for file in (files[0], files[2], files[4]):
        assert f"{dumps.url}{file.path}" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [files[1].name, files[3].name]


@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
def test_a_server_error_that_passes_is_waited_out(dumps: Dumps, file: DumpFile, tmp_path: Path, suffix: str) -> None:
    dumps.faults[file.path + suffix] = ["503", "500"]
    waits = Waits()
    get([file], dumps, tmp_path, retries=2, sleep=waits)
    assert (tmp_path / file.name).read_bytes() == BODY
    assert waits == [1.0, 2.0]


def test_a_server_error_that_stays_ends_after_the_retries(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.faults[file.path] = ["503"] * 9
    with pytest.raises(DataError, match=r"not fetched after 3 attempts: .*503"):
        get([file], dumps, tmp_path, retries=2)
    assert len(dumps.asked(file)) == 3
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_not_tried_again(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.faults[file.path] = ["403"]
    with pytest.raises(DataError, match=r"not fetched after 1 attempts: .*403"):
        get([file], dumps, tmp_path, retries=5)


def test_a_silent_server_is_given_up_and_tried_again(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.faults[file.path] = ["silence"]
    waits = Waits()
    get([file], dumps, tmp_path, timeout_s=0.2, retries=1, sleep=waits)
    assert (tmp_path / file.name).read_bytes() == BODY
    assert waits == [1.0]


def test_an_unreachable_server_is_an_error_that_names_it(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    dumps.server.server_close()
    with pytest.raises(DataError, match=f"{dumps.url}.*not fetched after 2 attempts: ConnectError"):
        get([file], dumps, tmp_path, retries=1)


def test_a_folder_that_cannot_be_is_a_store_error(dumps: Dumps, file: DumpFile, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        get([file], dumps, tmp_path / "taken")


@pytest.mark.parametrize("setting", [{"timeout_s": 0.0}, {"retries": -1}, {"base_url": "ftp://127.0.0.1"}])
def test_settings_outside_their_range_are_refused(file: DumpFile, tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected an http"):
        fetch([file], folder=tmp_path, **({"base_url": "http://127.0.0.1:1", "timeout_s": 1.0, "retries": 0} | setting))
