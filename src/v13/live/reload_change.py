"""What a new configuration changes, and what of it only a restart can bring.

docs/RUNNER.md, "Change while running", says what becomes of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from v13.config import Config, Loaded
from v13.config.yaml_lines import key_place, read_tree
from v13.errors import ConfigError
from v13.live.artifacts import Artifacts

__all__ = ["LIVE_KEYS", "differences", "is_same", "refuse_unfit"]

# Settings that take effect while running; so do `features` and `detector` where runner.parameters is null.
LIVE_KEYS: Final = (
    "runner.symbols",
    "runner.parameters",
    "runner.overrides",
    "runner.calibration",
    "runner.signoff",
    "runner.require_signoff",
    "runner.warm_from",
    "runner.grace_ms",
    "runner.queue_limit",
    "runner.stop_s",
    "feed.stale_s",
)
# What a runner is made of. All other settings belong to research, and a change of them is none here.
RUNNER_KEYS: Final = ("market.", "sessions.", "search.horizons_bars", "runner.", "exporter.", "feed.")
MAX_SHOWN: Final = 60  # characters of a value in the log


def is_same(old: Artifacts, new: Artifacts) -> bool:
    """Tell whether two artifacts are the same in parameters, calibration, hashes and sign-off."""
    return _plain(old) == _plain(new)


def differences(old: tuple[Config, Artifacts], new: tuple[Config, Artifacts]) -> list[str]:
    """Return `key: old -> new` of all that a runner can change while running; nothing where it is the same to it."""
    before, after = _shown_settings(*old), _shown_settings(*new)
    keys = [*after, *(key for key in before if key not in after)]
    return [_difference(before, after, key) for key in keys if before.get(key) != after.get(key)]


def refuse_unfit(
    root: Path, old: tuple[Config, Artifacts], loaded: Loaded, artifacts: Artifacts, *, is_replay: bool
) -> None:
    """Refuse what only a restart can bring.

    Parameters
    ----------
    root : Path
    old : Config and Artifacts
        In force.
    loaded : Loaded
    artifacts : Artifacts
        To come.
    is_replay : bool
        A recording is played, whose symbols are what they are.

    Raises
    ------
    ConfigError
        Names each such setting with its place; or a symbol that is empty or there twice.
    """
    origin, config = loaded.origin, loaded.config
    before, after = _flat(old[0].model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    live = set(LIVE_KEYS) - ({"runner.symbols"} if is_replay else set())
    fixed = [k for k in after if k.startswith(RUNNER_KEYS) and k not in live and after[k] != before.get(k)]
    problems = [f"{origin[key]}: {_difference(before, after, key)} needs a restart" for key in fixed]
    was, found = old[1].params.features.bar_ms, artifacts.params.features.bar_ms
    if was != found and config.runner.parameters is not None:
        path = root / config.runner.parameters
        place = key_place(str(path), read_tree(path, str(path))["features"], "bar_ms", str(path))
        problems.append(f"{place}: features.bar_ms: {was} -> {found} needs a restart, with a log of its own")
    symbols = config.runner.symbols
    if len(set(symbols)) < len(symbols) or "" in symbols:
        problems.append(f"{origin['runner.symbols']}: runner.symbols: expected each once, found {list(symbols)}")
    if problems:
        raise ConfigError("\n  ".join(problems))


def _shown_settings(config: Config, artifacts: Artifacts) -> dict[str, Any]:
    settings = _flat(config.model_dump(mode="json"))
    return {key: settings[key] for key in LIVE_KEYS} | _flat(_plain(artifacts))


def _plain(artifacts: Artifacts) -> dict[str, Any]:
    calibration = artifacts.calibration
    curves = {} if calibration is None else {"calibration": calibration.to_dict()}
    return {**artifacts.params.to_dict(), **curves, **artifacts.document, "signed_off": artifacts.signed_off}


def _flat(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _difference(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    texts = [str(values.get(key, "none")) for values in (before, after)]
    if max(map(len, texts)) > MAX_SHOWN:
        return f"{key}: changed"
    return f"{key}: {texts[0]} -> {texts[1]}"
