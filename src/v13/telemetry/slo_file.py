"""A mapping of `config/slo.yaml` and its values, read one by one: what is wrong is named by file, line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from v13.config.yaml_lines import key_place, plain, shown_value
from v13.errors import ConfigError, V13Error
from v13.telemetry.signals import Selector

__all__ = ["Node"]

_DURATION: Final = re.compile(r"([1-9]\d*)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_KEY: Final = re.compile(r"[a-z][a-z0-9_]*")


class Node:
    """A mapping of the file that knows where it stands.

    Attributes
    ----------
    tree : mapping
    shown : str
        The file, as errors name it.
    place : str
        `file:line`.
    path : str
        Dotted keys from the top; empty for the top.
    """

    def __init__(self, tree: Any, shown: str, place: str, path: str) -> None:
        self.tree, self.shown, self.place, self.path = tree, shown, place, path
        if not isinstance(tree, Mapping):
            name = f"{path}: " if path else ""
            raise ConfigError(f"{place}: {name}expected keys, one `key: value` a line, found {shown_value(tree)}")

    def __contains__(self, name: str) -> bool:
        return name in self.tree

    @property
    def name(self) -> str:
        """Return the last key of the path."""
        return self.path.rpartition(".")[2]

    @property
    def key(self) -> str:
        """Return the last part of the path, as the key of a row or an alert."""
        if not _KEY.fullmatch(self.name):
            raise ConfigError(f"{self.place}: {self.path}: expected a name in lower case with _, found {self.name!r}")
        return self.name

    def error(self, name: str, text: str) -> ConfigError:
        """Return what to raise about one of its keys; the empty name: about itself."""
        place = key_place(self.shown, self.tree, name, self.place) if name in self.tree else self.place
        return ConfigError(f"{place}: {'.'.join(filter(None, (self.path, name)))}: {text}")

    def only(self, *names: str) -> None:
        """Refuse keys that are not among these."""
        for name in self.tree:
            if name not in names:
                raise self.error(name, f"unknown key; expected one of {', '.join(names)}")

    def get(self, name: str) -> Any:
        """Return a value without the reader's own types; a missing key is refused."""
        if name not in self.tree:
            raise self.error(name, "missing")
        return plain(self.tree[name])

    def child(self, name: str) -> Node:
        """Return the mapping below a key."""
        if name not in self.tree:
            raise self.error(name, "missing")
        place = key_place(self.shown, self.tree, name, self.place)
        return Node(self.tree[name], self.shown, place, ".".join(filter(None, (self.path, str(name)))))

    def children(self, name: str) -> Iterator[Node]:
        """Return the mappings below a key, in the order of the file."""
        parent = self.child(name)
        return (parent.child(key) for key in parent.tree)

    def value(self, name: str, what: str) -> Any:
        """Return a value of the kind `what`."""
        if what == "number":
            return self.number(name)
        if what == "duration":
            return self.duration(name)
        if what == "selector":
            return self._selector(name, self.text(name))
        if what == "counted":
            return self.one_of(name, ("part", "whole"))
        found = self.get(name)
        if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
            raise self.error(name, f"expected a list of names, found {shown_value(found)}")
        return tuple(found) if what == "names" else tuple(self._selector(name, item) for item in found)

    def text(self, name: str) -> str:
        """Return printable text."""
        found = self.get(name)
        if not isinstance(found, str) or not found.strip() or not found.isprintable():
            raise self.error(name, f"expected text, found {shown_value(found)}")
        return found

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return text that is one of these."""
        found = self.text(name)
        if found not in allowed:
            raise self.error(name, f"expected one of {', '.join(allowed)}, found {found!r}")
        return found

    def number(self, name: str) -> float:
        """Return a finite number."""
        found = self.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self.error(name, f"expected a number, found {shown_value(found)}")
        return float(found)

    def duration(self, name: str) -> int:
        """Return a length of time such as 90s, 5m, 1h or 1d, in seconds."""
        found = self.get(name)
        match = _DURATION.fullmatch(found) if isinstance(found, str) else None
        if match is None:
            raise self.error(name, f"expected a duration such as 90s, 5m, 1h or 1d, found {shown_value(found)}")
        return int(match[1]) * _SECONDS[match[2]]

    def url(self, name: str) -> str | None:
        """Return an http(s) URL, or None where there is null."""
        if self.get(name) is None:
            return None
        found = self.text(name)
        if not re.fullmatch(r"https?://[^\s/]+\S*", found):
            raise self.error(name, f"expected null or a URL, found {found!r}")
        return found

    def _selector(self, name: str, text: str) -> Selector:
        try:
            return Selector.parse(text)
        except V13Error as error:
            raise self.error(name, str(error)) from error
