"""Reads the settings in layers and knows where each one came from.

`config/system.yaml` < `config/environments/<env>.yaml` < a file given besides < variables `V13__SECTION__KEY` < flags.
Mappings merge key by key, lists and values replace. A layer is checked together with those below it, and all its
problems are told at once. It must not know any setting by name; `v13.config.schema` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from v13.config.ranges import Problem, did_you_mean
from v13.config.schema import CHILDREN, LIVE_SECTIONS, Config
from v13.config.yaml_lines import key_place, plain, read_tree, shown_value, yaml_reason
from v13.errors import ConfigError

__all__ = ["DEFAULT_ENV", "ENV_VARIABLE", "Loaded", "find_root", "fingerprint", "load"]

ENV_VARIABLE: Final = "V13_ENV"  # names the environment where no flag does
DEFAULT_ENV: Final = "development"
PREFIX: Final = "V13__"
# Our words for what pydantic expected, by its error type; for the rest its own words will do.
_EXPECTED: Final = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "tuple_type": "a list",
    "too_long": "a list of {max_length}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
}

Keys = tuple[str, ...]
Locate = Callable[[Any, Any, str], str]


@dataclass(frozen=True)
class Loaded:
    """Settings with their history.

    Attributes
    ----------
    config : Config
    origin : mapping of dotted key to place
        `file:line` (relative to the root, an overlay as it was named), `env:NAME`, `flag:key` or `default`; one entry
        a value.
    files : tuple of Path
        What was read, lowest layer first.
    """

    config: Config
    origin: Mapping[str, str]
    files: tuple[Path, ...]


@dataclass
class _Layer:
    """Values of one source by dotted key, each with its origin, and what was wrong while gathering them."""

    name: str
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (origin, text)


def load(
    root: Path,
    env: str | None = None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    overlay: Path | None = None,
) -> Loaded:
    """Load the settings of a project.

    Parameters
    ----------
    root : Path
        Folder that holds `config/`.
    env : str or None
        Name of a file in `config/environments`, without its ending. None: the variable `V13_ENV`, else development.
    environ : mapping
        Environment variables; those that begin with `V13__` are settings, `V13__SEARCH__FOLDS=4`. Case does not matter
        after the prefix; values are YAML.
    overrides : mapping of dotted key to value
        Flags, `{"search.folds": 4}`; strings are read as YAML, anything else is taken as it is.
    overlay : Path or None
        A further file of settings, anywhere: above the environment's, below variables and flags.

    Returns
    -------
    Loaded

    Raises
    ------
    ConfigError
        A file is missing or is no YAML, a key is unknown or there twice, a value has the wrong type or range or
        contradicts another. All problems of the lowest bad layer are named, each with file, line and key.
    """
    name = env or environ.get(ENV_VARIABLE) or DEFAULT_ENV
    files: tuple[Path, ...] = (root / "config" / "system.yaml", _environment_file(root, name))
    shown = {path: path.relative_to(root).as_posix() for path in files}
    if overlay is not None:
        files = (*files, overlay)
    values: dict[str, tuple[Any, str]] = {}
    _gather(Config().model_dump(), (), "default", _same_place, base := _Layer("defaults"))
    values |= base.values
    config = Config()
    for layer in _layers(files, shown, environ, overrides or {}):
        values |= layer.values
        config = _checked(values, layer)
    origin = {key: values[key][1] for key in sorted(values)}
    return Loaded(config, origin, files)


def find_root(start_at: Path) -> Path:
    """Return the nearest folder at or above `start_at` that holds config/system.yaml.

    Raises
    ------
    ConfigError
        There is none.
    """
    for folder in (start_at, *start_at.parents):
        if (folder / "config" / "system.yaml").is_file():
            return folder
    raise ConfigError(f"{start_at}: no config/system.yaml here or above; run inside the project or give root")


def fingerprint(config: Config) -> str:
    """Return the sha256 (64 hex digits) of the settings of research: equal for equal values, wherever they came from.

    How a signed-off detector is run says nothing of what was found, and is left out.
    """
    text = json.dumps(
        config.model_dump(mode="json", exclude=set(LIVE_SECTIONS)),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _environment_file(root: Path, name: str) -> Path:
    folder = root / "config" / "environments"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        shown = ", ".join(known) or "none"
        raise ConfigError(f"{folder}: there is no environment {name!r} (found: {shown}){did_you_mean(name, known)}")
    return folder / f"{name}.yaml"


def _layers(
    files: Iterable[Path], shown: Mapping[Path, str], environ: Mapping[str, str], overrides: Mapping[str, object]
) -> Iterator[_Layer]:
    """Yield the layers, lowest first; one is read when those below it are good."""
    for path in files:
        yield _file_layer(path, shown.get(path, str(path)))
    yield _environ_layer(environ)
    yield _flag_layer(overrides)


def _file_layer(path: Path, shown: str) -> _Layer:
    tree = read_tree(path, shown)
    layer = _Layer(shown)
    if tree is not None:  # nothing but comments: an environment that changes nothing
        _gather(tree, (), f"{shown}:1", lambda node, key, above: key_place(shown, node, key, above), layer)
    return layer


def _environ_layer(environ: Mapping[str, str]) -> _Layer:
    layer = _Layer("environment variables")
    for name in sorted(n for n in environ if n.startswith(PREFIX)):
        parts: Keys = ()
        for part in name.removeprefix(PREFIX).split("__"):
            by_lower = {k.lower(): k for k in CHILDREN.get(parts, ())}
            parts = (*parts, by_lower.get(part.lower(), part.lower()))
        _place(parts, environ[name], f"env:{name}", layer)
    return layer


def _flag_layer(overrides: Mapping[str, object]) -> _Layer:
    layer = _Layer("flags")
    for key, value in overrides.items():
        _place(tuple(key.split(".")), value, f"flag:{key}", layer)
    return layer


def _place(parts: Keys, value: object, origin: str, layer: _Layer) -> None:
    """Gather one value given by its path."""
    if isinstance(value, str):
        try:
            value = YAML(typ="safe", pure=True).load(value)
        except YAMLError as error:
            layer.problems.append((origin, f"{'.'.join(parts)}: {yaml_reason(error)}"))
            return
    for part in reversed(parts):
        value = {part: value}
    _gather(value, (), origin, _same_place, layer)


def _gather(node: Any, path: Keys, origin: str, locate: Locate, layer: _Layer) -> None:
    """Put the values below `node` into the layer; keys the schema does not have become problems."""
    if path not in CHILDREN:
        layer.values[".".join(path)] = (plain(node), origin)
        return
    if not isinstance(node, Mapping):
        text = f"expected settings, one `key: value` a line, found {shown_value(node)}"
        layer.problems.append((origin, ": ".join(filter(None, (".".join(path), text)))))
        return
    for key in node:
        place = locate(node, key, origin)
        if key in CHILDREN[path]:
            _gather(node[key], (*path, key), place, locate, layer)
        else:
            layer.problems.append((place, f"{'.'.join((*path, str(key)))}: unknown key{_hint(str(key), path)}"))


def _hint(key: str, path: Keys) -> str:
    """Return the nearest name at this place, else the place where a setting of this very name belongs."""
    near = did_you_mean(key, CHILDREN[path])
    if near:
        return near
    homes = [".".join((*p, key)) for p, names in CHILDREN.items() if key in names]
    return f"; did you mean {' or '.join(homes)}?" if homes else f"; expected one of {', '.join(CHILDREN[path])}"


def _checked(values: Mapping[str, tuple[Any, str]], layer: _Layer) -> Config:
    tree: dict[str, Any] = {}
    for key, (value, _) in values.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    problems = list(layer.problems)
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        for item in error.errors():
            problems += _located(item, values, layer)
    if config is None or problems:
        lines = [f"{origin}: {text}" for origin, text in sorted(problems, key=lambda p: _order(p[0]))]
        head = [f"{layer.name}: {len(lines)} problems"] if len(lines) > 1 else []
        raise ConfigError("\n  ".join(head + lines))
    return config


def _located(item: Mapping[str, Any], values: Mapping[str, tuple[Any, str]], layer: _Layer) -> list[tuple[str, str]]:
    """Return (origin, text) of each problem in one error of pydantic."""
    found = item.get("ctx", {}).get("problems")
    if found is None:
        keys = [".".join(map(str, item["loc"][:n])) for n in range(len(item["loc"]), 0, -1)]
        key = next(k for k in keys if k in values)
        found = [Problem((key,), _message(item))]
    out = []
    for problem in found:
        keys = [k for k in problem.keys if k in values] or [k for k in values if k.startswith(problem.keys[0])]
        # Blame the layer that brought the contradiction in; the setting it clashes with is named beside it.
        first = next((k for k in keys if k in layer.values), keys[0])
        others = "".join(f"; {k} comes from {values[k][1]}" for k in keys if k != first and len(problem.keys) > 1)
        out.append((values[first][1], f"{problem.keys[0]}: {problem.text}{others}"))
    return out


def _message(item: Mapping[str, Any]) -> str:
    expected = _EXPECTED.get(item["type"], str(item["msg"]).removeprefix("Input should be "))
    return f"expected {expected.format(**item.get('ctx', {}))}, found {shown_value(item['input'])}"


def _order(origin: str) -> tuple[int, str]:
    _, _, line = origin.rpartition(":")
    return (int(line) if line.isdecimal() else 0, origin)


def _same_place(_node: Any, _key: Any, above: str) -> str:
    return above
