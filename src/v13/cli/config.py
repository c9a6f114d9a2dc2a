"""`v13 config show`: the settings as a command would get them, and where each one comes from."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v13.cli.options import project_root
from v13.errors import EXIT_OK

if TYPE_CHECKING:
    from v13.config import Loaded

__all__ = ["add"]

INDENT = 2
MAX_WIDTH = 60  # of a value that others' origins are aligned behind


def add(commands: Any) -> None:
    """Register the command group."""
    group = commands.add_parser("config", help="show the settings, and where each one comes from")
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print every setting",
        description="Print every setting with the value a command would get: config/system.yaml < "
        "config/environments/ENV.yaml < FILE of --settings < variables V13__SECTION__KEY.",
    )
    show.add_argument("--env", choices=("development", "testing", "production"), help="config layer to add")
    show.add_argument("--settings", type=Path, metavar="FILE", help="settings above those of the environment, YAML")
    show.add_argument(
        "--origin", action="store_true", help="say where each value comes from: file:line, env:NAME or default"
    )
    show.add_argument("--format", choices=("yaml", "json"), default="yaml", help="default: %(default)s")
    show.add_argument("--root", type=Path, help="folder that holds config/ (default: found upward from here)")
    show.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from v13.config import load

    loaded = load(project_root(arguments), arguments.env, environ=os.environ, overlay=arguments.settings)
    tree = _tree(loaded, with_origin=arguments.origin)
    if arguments.format == "json":
        print(json.dumps(_as_json(tree), indent=INDENT, ensure_ascii=False))
    else:
        print("\n".join(_as_yaml(tree)))
    return EXIT_OK


def _tree(loaded: Loaded, *, with_origin: bool) -> dict[str, Any]:
    """Return the settings nested as in the files; a value is a pair with its origin, or with None."""
    values = loaded.config.model_dump(mode="json")

    def walk(node: Mapping[str, Any], above: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in node.items():
            key = f"{above}{name}"
            if key in loaded.origin:
                found[name] = value, loaded.origin[key] if with_origin else None
            else:
                found[name] = walk(value, f"{key}.")
        return found

    return walk(values, "")


def _as_json(tree: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in tree.items():
        if isinstance(node, Mapping):
            found[name] = _as_json(node)
        else:
            value, origin = node
            found[name] = value if origin is None else {"value": value, "origin": origin}
    return found


def _as_yaml(tree: Mapping[str, Any]) -> list[str]:
    """Return lines of YAML; origins are comments, so that it can be read back."""
    rows = list(_rows(tree, 0))
    width = max((len(text) for text, origin in rows if origin and len(text) <= MAX_WIDTH), default=0)
    return [text if origin is None else f"{text.ljust(width)}  # {origin}" for text, origin in rows]


def _rows(tree: Mapping[str, Any], depth: int) -> Any:
    for name, node in tree.items():
        lead = f"{' ' * INDENT * depth}{name}:"
        if isinstance(node, Mapping):
            yield lead, None
            yield from _rows(node, depth + 1)
        else:
            value, origin = node
            yield f"{lead} {json.dumps(value, ensure_ascii=False)}", origin  # JSON is YAML, and 09:00 stays text
