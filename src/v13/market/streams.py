"""Bytes of a text file, plain or packed, in blocks of whole lines.

A packed file is inflated piece by piece and never trusted: its size is capped while it grows, and its checksum is
compared at the end. Nothing here knows what a trade is.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from isal import isal_zlib

from v13.errors import DataError
from v13.market.policy import ReadPolicy

__all__ = ["ahead", "container_of", "line_blocks", "member_name", "read_chunks"]

T = TypeVar("T")

_PACKED_BYTES = 1 << 20  # packed bytes handed to the inflater at a time
_LONGEST_LINE = 1 << 16  # no row of market data comes near; beyond it the file is not text in lines
_DAMAGED: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # the stub declares an instance
_BOM = b"\xef\xbb\xbf"


def container_of(path: Path) -> str:
    """Return `zip`, `gzip`, `parquet` or `text`, by the first bytes of the file."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise DataError(f"{path}: row 1: the file is empty (0 bytes)")
    if head == b"PAR1":
        return "parquet"
    if head[:2] == b"PK":
        return "zip"
    return "gzip" if head[:2] == b"\x1f\x8b" else "text"


def member_name(path: Path, container: str) -> str:
    """Return the name of the text inside `path`, which often says more than the name of `path`."""
    return _member(path).filename if container == "zip" else path.name


def read_chunks(path: Path, container: str, policy: ReadPolicy) -> Iterator[bytes]:
    """Yield the text of `path` in chunks of at most `policy.block_bytes`.

    Raises
    ------
    DataError
        Truncated, damaged, encrypted or hostile file; anything but one file in a zip; more bytes than the policy
        allows.
    """
    try:
        with path.open("rb") as file:
            if container == "zip":
                yield from _unzip(path, file, policy)
            elif container == "gzip":
                yield from _gunzip(path, file, policy)
            else:
                while chunk := file.read(policy.block_bytes):
                    yield chunk
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def line_blocks(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield blocks that begin and end at line ends, without a byte order mark and without empty lines at the end."""
    rest = b""
    is_first = True
    for chunk in chunks:
        if is_first:
            chunk = chunk.removeprefix(_BOM)
            is_first = False
        cut = chunk.rfind(b"\n") + 1
        if cut == 0:
            rest += chunk
            if len(rest) > _LONGEST_LINE:
                raise DataError(f"{path}: not a CSV file: no line end in {len(rest)} bytes")
            continue
        block = rest + chunk[:cut]
        rest = chunk[cut:]
        if block in (b"\n", b"\r\n") or block.endswith((b"\n\n", b"\n\r\n")):
            # Empty lines are a fault if more rows follow, and nothing at the end: keep them for the next block.
            n_body = len(block.rstrip(b"\r\n"))
            n_kept = block.find(b"\n", n_body) + 1 if n_body else 0
            rest = block[n_kept:] + rest
            block = block[:n_kept]
        if block:
            yield block
    if rest.strip(b"\r\n"):
        yield rest


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield from `items`, the next one being made in a thread while the last one is used."""
    done = object()
    step: Callable[[], Any] = lambda: next(items, done)  # noqa: E731 - a default ends the iterator without an exception
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(step)
        while (item := future.result()) is not done:
            future = pool.submit(step)
            yield item


def _member(path: Path) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{path}: a truncated or damaged zip: {error}") from error
    if len(members) != 1:
        names = ", ".join(info.filename for info in members[:3]) or "none"
        raise DataError(f"{path}: expected one CSV file in the zip, found {len(members)} ({names}); unpack it first")
    (member,) = members
    # zipfile mends names on the way in; a trick shows in what the file really says.
    name = member.orig_filename
    if "\\" in name or "\x00" in name or ".." in PurePosixPath(name).parts or len(PurePosixPath(name).parts) != 1:
        raise DataError(f"{path}: the zip holds a file named {name!r}; expected a plain name without folders")
    if member.flag_bits & 0x1:
        raise DataError(f"{path}: the zip is encrypted; unpack it first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: packing method {member.compress_type} is not supported; expected deflate")
    return member


def _check_size(path: Path, n_out: int, n_in: int, policy: ReadPolicy) -> None:
    if n_out > policy.max_inflated_bytes:
        raise DataError(
            f"{path}: inflates beyond {policy.max_inflated_bytes} bytes; raise max_inflated_bytes if it is real"
        )
    if n_out > policy.ratio_free_bytes and n_out > policy.max_ratio * n_in:
        raise DataError(
            f"{path}: inflates more than {policy.max_ratio} times to over {policy.ratio_free_bytes} bytes, as a zip "
            "bomb does; raise max_ratio if it is real"
        )


def _unzip(path: Path, file: BinaryIO, policy: ReadPolicy) -> Iterator[bytes]:
    member = _member(path)
    _check_size(path, member.file_size, member.compress_size, policy)
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise DataError(f"{path}: a damaged zip: no file header at byte {member.header_offset}")
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    packed = _Packed(file, member.compress_size)
    is_stored = member.compress_type == zipfile.ZIP_STORED
    plain = iter(lambda: packed.read(policy.block_bytes), b"") if is_stored else _inflate(path, packed, -15, policy)
    crc = n_out = 0
    for chunk in plain:
        n_out += len(chunk)
        crc = isal_zlib.crc32(chunk, crc)
        if n_out > member.file_size:
            break
        yield chunk
    if n_out != member.file_size or crc != member.CRC:
        raise DataError(
            f"{path}: a damaged zip: expected {member.file_size} bytes with checksum {member.CRC:08x}, "
            f"found {n_out} with {crc:08x}"
        )


def _gunzip(path: Path, file: BinaryIO, policy: ReadPolicy) -> Iterator[bytes]:
    packed = _Packed(file, None)
    while packed.peek():  # a gzip file may hold several members, one after another
        yield from _inflate(path, packed, 31, policy)


def _inflate(path: Path, packed: _Packed, wbits: int, policy: ReadPolicy) -> Iterator[bytes]:
    inflater = isal_zlib.decompressobj(wbits=wbits)
    data = b""
    while not inflater.eof:
        data = data or packed.read(_PACKED_BYTES)
        try:
            chunk = inflater.decompress(data, policy.block_bytes)
        except _DAMAGED as error:
            raise DataError(f"{path}: damaged packed data near byte {packed.n_read}: {error}") from error
        if not data and not chunk and not inflater.eof:
            raise DataError(f"{path}: the packed data ends too early: the file is truncated")
        data = inflater.unconsumed_tail
        packed.n_out += len(chunk)
        _check_size(path, packed.n_out, packed.n_read, policy)
        if chunk:
            yield chunk
    packed.push_back(inflater.unused_data)


class _Packed:
    """The packed bytes of one member, counted."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file = file
        self._left = size
        self._back = b""
        self.n_read = 0
        self.n_out = 0

    def read(self, n_bytes: int) -> bytes:
        if self._back:
            data, self._back = self._back, b""
            return data
        data = self._file.read(n_bytes if self._left is None else min(n_bytes, self._left))
        self.n_read += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def peek(self) -> bytes:
        self._back = self.read(_PACKED_BYTES)
        return self._back

    def push_back(self, data: bytes) -> None:
        self._back = data
