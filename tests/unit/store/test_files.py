"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.unit.store.conftest import Disk
from v13 import store
from v13.errors import StoreError

TOO_MUCH = bytes(2 << 20)  # for a disk of 1 MiB

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def stop_half_way(final: Path, error: type[BaseException]) -> None:
    with store.staged_dir(final) as folder:
        (folder / "x").write_text("half", encoding="utf-8")
        raise error


def refusal(action: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(StoreError) as caught:
        action(*args, **kwargs)
    return str(caught.value)


def test_a_file_is_made_with_its_folders_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    store.write_bytes(path, b"old content")
    store.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file.bin"]
    assert store.sha256_file(path) == hashlib.sha256(b"new").hexdigest()


def test_a_written_file_is_readable_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("x", encoding="utf-8")
    store.write_text(tmp_path / "stored", "x")
    assert (tmp_path / "stored").stat().st_mode == (tmp_path / "ours").stat().st_mode


def test_text_is_utf8_with_its_line_ends_kept(tmp_path: Path) -> None:
    store.write_text(tmp_path / "t", "背离\r\nb\n")
    assert (tmp_path / "t").read_bytes() == "背离\r\nb\n".encode()
    assert "UTF-8" in refusal(store.write_text, tmp_path / "u", "\ud800")
    assert names(tmp_path) == ["t"]


def test_json_is_canonical(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "é", "c": None})
    store.write_json(tmp_path / "b.json", {"c": None, "a": "é", "b": (1, 2.5)})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "a": "é",\n  "b": [\n    1,\n    2.5\n  ],\n  "c": null\n}\n'
    )


@pytest.mark.parametrize("write", [store.write_json, store.write_yaml])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_what_json_cannot_say_is_refused_and_changes_nothing(tmp_path: Path, write: Any, bad: object) -> None:
    path = tmp_path / "x"
    write(path, {"fine": 1})
    before = path.read_bytes()
    assert str(path) in refusal(write, path, {"deep": [bad]})
    assert path.read_bytes() == before


@settings(max_examples=50)
@given(plain)
@example({"\x85": "a\x85b"})
def test_json_and_yaml_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    folder = tmp_path_factory.mktemp("round")
    store.write_json(folder / "x.json", data)
    assert store.read_json(folder / "x.json") == data
    store.write_yaml(folder / "x.yaml", data, header="made by a test")
    assert YAML(typ="safe", pure=True).load((folder / "x.yaml").read_bytes()) == data


def test_yaml_keeps_the_order_given_under_its_header(tmp_path: Path) -> None:
    data = {"version": 1, "decision": {"swing_L": 13, "z_hi": 2.0}, "overrides": [], "why": "long " * 100}
    store.write_yaml(tmp_path / "a.yaml", data, header="first line\n\nthird")
    lines = (tmp_path / "a.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:8] == [
        "# first line",
        "#",
        "# third",
        "version: 1",
        "decision:",
        "  swing_L: 13",
        "  z_hi: 2.0",
        "overrides: []",
    ]
    assert len(lines) == 9  # a long text is not folded


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ('{"a": 1', "", '{"a": NaN}', "\xff"):
        path.write_bytes(text.encode("latin-1"))
        assert refusal(store.read_json, path).startswith(f"{path}: is no JSON")
    assert refusal(store.read_json, tmp_path / "none").endswith("No such file or directory")


def test_copies_are_whole_and_their_failures_name_the_right_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content" * 300_000)
    store.copy(tmp_path / "a", tmp_path / "sub" / "b")
    assert (tmp_path / "sub" / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert refusal(store.copy, tmp_path / "none", tmp_path / "c").startswith(f"{tmp_path / 'none'}: could not be read")
    assert refusal(store.copy, tmp_path / "a", tmp_path / "a" / "c").startswith(f"{tmp_path / 'a' / 'c'}: could not be")
    assert refusal(store.sha256_file, tmp_path).startswith(f"{tmp_path}: could not be read")


def test_a_path_below_a_file_is_an_error_with_path_and_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "x"
    assert refusal(store.write_bytes, path, b"x") in (
        f"{path}: could not be written: Not a directory",
        f"{path}: could not be written: File exists",
    )


def test_a_full_disk_leaves_the_old_file_and_no_debris(small_disk: Disk) -> None:
    path = small_disk.path / "x"
    store.write_bytes(path, b"old")
    assert refusal(store.write_bytes, path, TOO_MUCH) == f"{path}: could not be written: No space left on device"
    assert path.read_bytes() == b"old"
    assert names(small_disk.path) == ["x"]


def test_a_full_disk_ends_a_folder_in_the_making(small_disk: Disk) -> None:
    final = small_disk.path / "bundle"
    with store.staged_dir(final) as folder:
        store.write_text(folder / "x", "old")
    with pytest.raises(StoreError, match="No space left on device"), store.staged_dir(final) as folder:
        store.write_bytes(folder / "x", TOO_MUCH)
    assert names(small_disk.path) == ["bundle"]
    assert (final / "x").read_text(encoding="utf-8") == "old"
    store.write_bytes(small_disk.path / "rest", bytes(900_000))  # nothing of the failed attempt still takes up space


def test_a_read_only_disk_is_an_error_with_path_and_reason(small_disk: Disk) -> None:
    path = small_disk.path / "x"
    store.write_text(path, "old")
    small_disk.make_read_only()
    assert refusal(store.write_text, path, "new") == f"{path}: could not be written: Read-only file system"
    with pytest.raises(StoreError, match="could not be prepared: Read-only file system"):
        store.staged_dir(small_disk.path / "bundle").__enter__()
    assert names(small_disk.path) == ["x"]


def test_a_folder_appears_only_when_its_block_ended_well(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "bundle"
    with store.staged_dir(final) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("x", encoding="utf-8")
        assert not final.exists()
    assert (final / "sub" / "x").read_text(encoding="utf-8") == "x"
    assert names(final.parent) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_a_block_that_raises_changes_nothing_and_its_error_goes_on(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "bundle"
    with store.staged_dir(final) as folder:
        (folder / "x").write_text("old", encoding="utf-8")
    with pytest.raises(error):
        stop_half_way(final, error)
    assert names(tmp_path) == ["bundle"]
    assert (final / "x").read_text(encoding="utf-8") == "old"


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    for name in ("old", "new"):
        with store.staged_dir(final) as folder:
            (folder / name).write_text(name, encoding="utf-8")
    assert names(tmp_path) == ["bundle"]
    assert names(final) == ["new"]


def test_a_file_or_link_in_the_place_of_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for name in ("file", "link"):
        with pytest.raises(StoreError, match="expected a folder or nothing"):
            store.staged_dir(tmp_path / name).__enter__()
    assert names(tmp_path) == ["file", "link"]


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path) -> None:
    final = tmp_path / "bundle"
    with store.staged_dir(final) as folder:
        (folder / "x").write_text("old", encoding="utf-8")
    # the staging folder is gone when its turn comes, so the second rename must fail
    with pytest.raises(StoreError, match="could not be put in place"), store.staged_dir(final) as folder:
        folder.rmdir()
    assert names(tmp_path) == ["bundle"]
    assert (final / "x").read_text(encoding="utf-8") == "old"


def test_a_link_is_moved_in_one_step_and_is_relative(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store.point(tmp_path / "latest", tmp_path / name)
        assert (tmp_path / "latest").readlink() == Path(name)
    assert names(tmp_path) == ["latest", "one", "two"]
    assert "expected a link or nothing" in refusal(store.point, tmp_path / "one", tmp_path / "two")
    assert "cannot be made" in refusal(store.point, tmp_path / "none" / "latest", tmp_path / "two")


def test_a_schema_lets_pass_what_fits_and_names_what_does_not(tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    store.write_json(
        schema,
        {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}},
    )
    store.validate({"n": 1}, schema)
    assert refusal(store.validate, {"n": 0}, schema) == "s.json: $.n: 0 is less than the minimum of 1"
    assert refusal(store.validate, {}, schema) == "s.json: $: 'n' is a required property"


def test_a_wrong_schema_is_an_error_of_the_schema(tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    store.write_json(schema, {"type": "objekt"})
    assert "is no JSON schema" in refusal(store.validate, {}, schema)
    store.write_json(schema, {"$ref": "https://example.org/other.json"})
    assert "refers to something outside itself" in refusal(store.validate, {}, schema)
    assert "could not be read" in refusal(store.validate, {}, tmp_path / "none.json")
