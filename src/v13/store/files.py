"""Files that are there whole or not at all.

A file or folder is made under a hidden name beside its place, made durable, and then renamed. It must not know what it
writes; text formats are canonical, so that equal content is equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from v13.errors import StoreError

__all__ = [
    "copy",
    "point",
    "read_json",
    "sha256_file",
    "staged_dir",
    "validate",
    "write_bytes",
    "write_json",
    "write_text",
    "write_yaml",
]

COPY_BYTES: Final = 1 << 20
YAML_WIDTH: Final = 1 << 16  # a folded line is hard to search and to compare


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole and durable.

    Whoever reads the path, at whatever moment and after whatever crash, finds the old file or the new one. A killed
    writer may leave a hidden `.<name>.<random>.tmp` behind.

    Parameters
    ----------
    path : Path
        Missing folders are made.
    data : bytes

    Raises
    ------
    StoreError
        The file system refused; nothing changed.
    """
    _replace(path, lambda sink: sink.write(data))


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` as UTF-8, line ends as they are; otherwise as `write_bytes`."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StoreError(f"{path}: the text cannot be written as UTF-8: {error}") from error
    write_bytes(path, data)


def write_json(path: Path, data: Any) -> None:
    """Put `data` at `path` as canonical JSON: keys sorted, two spaces, UTF-8, a line end at the end.

    Raises
    ------
    StoreError
        As `write_bytes`; also where the data hold NaN, infinity or something that JSON cannot say.
    """
    write_text(path, _json(path, data, sort_keys=True) + "\n")


class _Representer(SafeRepresenter):  # type: ignore[misc]
    """Writes the next-line character escaped: between single quotes it would come back as a space."""

    def represent_str(self, data: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\x85" in data else None)


_Representer.add_representer(str, _Representer.represent_str)


def write_yaml(path: Path, data: Any, *, header: str = "") -> None:
    """Put `data` at `path` as YAML with its keys in the order given.

    Parameters
    ----------
    path : Path
    data : object
        What JSON can say; tuples become lists.
    header : str
        Comment on top, one or more lines, without `#`.

    Raises
    ------
    StoreError
        As `write_json`.
    """
    plain = json.loads(_json(path, data, sort_keys=False))  # nothing but what every reader of YAML understands
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = YAML_WIDTH
    out = io.StringIO()
    writer.dump(plain, out)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    write_text(path, comment + out.getvalue())


def copy(source: Path, target: Path) -> None:
    """Put the content of `source` at `target`; otherwise as `write_bytes`."""
    try:
        with source.open("rb") as origin:
            _replace(target, lambda sink: shutil.copyfileobj(origin, sink, COPY_BYTES))
    except OSError as error:
        raise StoreError(f"{source}: could not be read: {_reason(error)}") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    StoreError
        The file is missing, is no JSON, or holds NaN or infinity.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise StoreError(f"{path}: could not be read: {_reason(error)}") from error
    except ValueError as error:
        raise StoreError(f"{path}: is no JSON: {error}; it is damaged or was not written by v13") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits in lower case.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: could not be read: {_reason(error)}") from error


@contextmanager
def staged_dir(final: Path) -> Iterator[Path]:
    """Build a folder out of sight and put it at `final` when the block ends well.

    If the block raises anything, an interrupt included, the folder is removed and `final` is as it was. A folder that
    was there is moved aside, and removed once the new one stands. A process killed between these two renames leaves
    `final` missing and the old folder beside it as `.<name>.<random>.old`.

    Parameters
    ----------
    final : Path
        Absent, or a folder; missing parents are made.

    Yields
    ------
    Path
        The empty folder to fill, a sibling of `final`.

    Raises
    ------
    StoreError
        `final` is something else than a folder, or the file system refused.
    """
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise StoreError(f"{final}: expected a folder or nothing, found a file or a link; move it away")
    token = secrets.token_hex(6)
    old = final.with_name(f".{final.name}.{token}.old")
    staging = final.with_name(f".{final.name}.{token}.staging")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{final}: could not be prepared: {_reason(error)}") from error
    try:
        yield staging
        try:
            _sync_tree(staging)
            _swap(staging, final, old)
        except OSError as error:
            raise StoreError(f"{final}: could not be put in place: {_reason(error)}") from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)  # why the block failed matters more than a leftover
        raise
    try:
        _sync_dir(final.parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise StoreError(f"{final}: stands, but {old} could not be removed: {_reason(error)}") from error


def validate(data: Any, schema_path: Path) -> None:
    """Check `data` against a JSON schema (draft 2020-12).

    Raises
    ------
    StoreError
        The data do not fit (the place and the reason are named), or the schema itself is missing or wrong. References
        to other files are not followed.
    """
    # They take 0.5 s to import: whoever validates nothing, such as the runner, does not wait for them.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, ValidationError, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    schema = read_json(schema_path)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise StoreError(f"{schema_path}: is no JSON schema: {error.message}") from error
    registry: Registry[Any] = Registry()  # without a way to fetch anything
    try:
        errors: list[ValidationError] = list(Draft202012Validator(schema, registry=registry).iter_errors(data))
    except Unresolvable as error:
        raise StoreError(f"{schema_path}: refers to something outside itself: {error}") from error
    if errors:
        worst = best_match(errors)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise StoreError(f"{schema_path.name}: {worst.json_path}: {worst.message}{more}")


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, in one step.

    Raises
    ------
    StoreError
        Something that is no link is in the way, or it could not be made.
    """
    if link.exists() and not link.is_symlink():
        raise StoreError(f"{link}: expected a link or nothing, found a file or folder; move it away")
    temp = link.with_name(f".{link.name}.{secrets.token_hex(6)}.tmp")
    try:
        temp.symlink_to(os.path.relpath(target, link.parent))
        temp.replace(link)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise StoreError(f"{link}: cannot be made: {_reason(error)}") from error


def _json(path: Path, data: Any, *, sort_keys: bool) -> str:
    try:
        return json.dumps(data, sort_keys=sort_keys, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: the data cannot be written as JSON: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _replace(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temp.open("xb") as sink:
                fill(sink)
                sink.flush()
                os.fsync(sink.fileno())
            temp.replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                temp.unlink()
            raise
        _sync_dir(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: could not be written: {_reason(error)}") from error


def _swap(staging: Path, final: Path, old: Path) -> None:
    had_one = final.exists()
    if had_one:
        final.rename(old)
    try:
        staging.rename(final)
    except BaseException:
        if had_one:
            old.rename(final)
        raise


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            if not file.is_symlink():
                _sync(file)
        _sync_dir(Path(place))


def _sync_dir(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
