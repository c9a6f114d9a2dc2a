"""A YAML file and the lines of its keys: whoever refuses a value says where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from v13.errors import ConfigError

__all__ = ["key_place", "plain", "read_tree", "shown_value", "yaml_reason"]

MAX_DEPTH: Final = 4  # of lists and mappings inside one value; no setting has more than one
MAX_SHOWN: Final = 80  # characters of a bad value that are repeated in its error


def read_tree(path: Path, shown: str) -> Any:
    """Return the content of a YAML file, whose mappings know their lines; None of one without any.

    Raises
    ------
    ConfigError
        The file cannot be read or is no YAML; named as `shown`, with the line.
    """
    try:
        return YAML(typ="rt").load(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{shown}: missing; expected it in {path.parent}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: cannot be read: {error}") from error
    except YAMLError as error:
        raise ConfigError(f"{shown}:{_line(error, path)}: {yaml_reason(error)}") from error


def key_place(shown: str, node: Any, key: Any, above: str) -> str:
    """Return `file:line` of a key of a mapping `read_tree` gave."""
    # A key that came in through an alias or a merge has no line of its own: its parent's line stands for it.
    lines = node.lc.data if isinstance(node, CommentedMap) and node.lc.data else {}
    return f"{shown}:{lines[key][0] + 1}" if key in lines else above


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value without the YAML reader's own types; what is no plain value stays, and the schema refuses it."""
    if depth > MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {k: plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value]
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def shown_value(value: Any) -> str:
    """Return a bad value as an error repeats it."""
    if isinstance(value, date):
        return f"the date {value}"
    text = "nothing" if value is None else repr(plain(value))
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _line(error: YAMLError, path: Path) -> int:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return int(error.problem_mark.line) + 1
    if isinstance(error, ReaderError):
        return path.read_text(encoding="utf-8")[: error.position].count("\n") + 1
    return 1


def yaml_reason(error: YAMLError) -> str:
    """Return why a text is not YAML, in one line."""
    if isinstance(error, MarkedYAMLError) and error.problem is not None:
        first = str(error.problem).strip().splitlines()[0]
        return first if first.startswith("found duplicate key") else f"not valid YAML: {first}"
    return f"not valid YAML: {str(error).splitlines()[0]}"
