"""Checks of the files a deploy takes: settings, parameters, calibration, monitoring; and of the installed packages.

Each is there, fits its schema, and is byte by byte what was signed off. Nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from packaging.markers import InvalidMarker, Marker
from packaging.utils import canonicalize_name, canonicalize_version

import v13
from v13 import store
from v13.config import load
from v13.config.parameters import read_parameters
from v13.config.yaml_lines import read_tree
from v13.detector import CalibrationMap
from v13.errors import V13Error
from v13.release.build import ARTIFACTS
from v13.release.check_scene import NO_BUNDLE, Finding, Scene, bad, good, short_hash
from v13.telemetry.dashboard import dashboard_json
from v13.telemetry.rules import rule_files
from v13.telemetry.servers import ALERTMANAGER_FILE, PROMETHEUS_FILE
from v13.telemetry.slo import load_slo

__all__ = ["LOCK", "MONITORING", "SCHEMAS", "artifacts", "config_files", "dependencies", "monitoring_files"]

SCHEMAS: Final = Path(v13.__file__).parent / "research" / "schemas"  # the rooms meet on disk, never by import
MONITORING: Final = "runs/metrics_test"
DASHBOARD: Final = "dashboards/divergence_overview.json"
EXPORTER: Final = "divergence_metrics_exporter.py"
LOCK: Final = "requirements.lock"
SLO_TABLE: Final = "config/slo.yaml"
CALIBRATION: Final = "divergence_score_calibration.json"
MOST_TOLD: Final = 5
BUILD: Final = "v13 monitoring build --out runs/metrics_test"
_PIN: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?")


def config_files(scene: Scene) -> Finding:
    """Check config/system.yaml, the environment's file and the SLO table: valid, and as the sign-off found them."""
    root, env = scene.site.root, scene.site.env
    loaded = load(root, env, environ=scene.environ)
    table = load_slo(root / SLO_TABLE)
    if not scene.has_bundle():
        return bad(f"the settings are valid; {NO_BUNDLE}")
    signed = scene.bundle.manifest.get("inputs", {})
    told, wrong = [], []
    for path in loaded.files:
        digest, entry = store.sha256_file(path), signed.get(f"config: {path.name}")
        told.append(f"{path.relative_to(root)} {short_hash(digest)}")
        if entry is not None and entry.get("sha256") != digest:
            wrong.append(f"{path.relative_to(root)}: signed off was {short_hash(str(entry.get('sha256')))}")
        elif entry is None and path.name == "system.yaml":
            wrong.append(f"{path.relative_to(root)}: the sign-off does not name it")
        elif entry is None and env == "production":
            wrong.append(f"{path.relative_to(root)}: the sign-off was made in another environment")
        elif entry is None:
            told[-1] += " (not the sign-off's environment)"
    told.append(f"{SLO_TABLE} {short_hash(store.sha256_file(root / SLO_TABLE))} with {len(table.rows)} rows")
    text = "; ".join(told)
    return bad(f"{'; '.join(wrong)}. Found: {text}") if wrong else good(text)


def artifacts(scene: Scene) -> Finding:
    """Check parameters and calibration: there, valid, and byte by byte those of the sign-off."""
    root = scene.site.root
    missing = [place for place in ARTIFACTS.values() if not (root / place).is_file()]
    if missing:
        return bad(f"missing: {', '.join(missing)}", "run `v13 signoff`, which writes them")
    hashes = {name: store.sha256_file(root / place) for name, place in ARTIFACTS.items()}
    params = read_parameters(root / ARTIFACTS["best_global.yaml"], root / ARTIFACTS["best_by_bucket.yaml"]).params
    calibration = store.read_json(root / ARTIFACTS[CALIBRATION])
    store.validate(calibration, SCHEMAS / "calibration.schema.json")
    CalibrationMap.from_dict(calibration)
    if not scene.has_bundle():
        return bad(f"the files are valid; {NO_BUNDLE}")
    signed = scene.bundle.signoff["artifacts"]
    wrong = [
        f"{ARTIFACTS[name]}: sha256 {short_hash(digest)}, signed off was {short_hash(str(signed.get(name)))}"
        for name, digest in hashes.items()
        if signed.get(name) != digest
    ]
    if wrong:
        return bad("; ".join(wrong))
    own = params.fingerprint()
    if own != scene.bundle.signoff["parameters_fingerprint"]:
        expected = scene.bundle.signoff["parameters_fingerprint"]
        return bad(f"parameters {short_hash(own)}, signed off were {short_hash(expected)}")
    told = [f"{ARTIFACTS[name]} {short_hash(digest)}" for name, digest in hashes.items()]
    return good(f"equal to the sign-off's: {'; '.join(told)}; parameters {short_hash(own)}")


def monitoring_files(scene: Scene) -> Finding:
    """Check what `v13 monitoring build` wrote: all there, and following from the SLO table as it is now."""
    root = scene.site.root
    folder = root / MONITORING
    table = load_slo(root / SLO_TABLE)
    expected = dict(rule_files(table))
    names = [PROMETHEUS_FILE, ALERTMANAGER_FILE, EXPORTER, DASHBOARD, *expected]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return bad(f"{MONITORING}: missing: {', '.join(missing)}", f"`{BUILD}`")
    for name in names:
        if name.endswith((".yml", ".yaml")) and not isinstance(read_tree(folder / name, f"{MONITORING}/{name}"), dict):
            return bad(f"{MONITORING}/{name}: expected keys, one `key: value` a line")
    stale = []
    with TemporaryDirectory(prefix="v13-check-") as temp:
        for name, document in expected.items():
            store.write_yaml(Path(temp, name), document.body, header=document.header)
            if Path(temp, name).read_bytes() != (folder / name).read_bytes():
                stale.append(name)
    if (folder / DASHBOARD).read_text(encoding="utf-8") != dashboard_json(table):
        stale.append(DASHBOARD)
    if stale:
        return bad(f"{MONITORING}: not what {SLO_TABLE} says now: {', '.join(stale)}", f"`{BUILD}`")
    told = ", ".join(f"{name} {short_hash(store.sha256_file(folder / name))}" for name in names)
    return good(f"{len(names)} files in {MONITORING} that follow from {SLO_TABLE}: {told}")


def dependencies(scene: Scene) -> Finding:
    """Check the installed packages against the lock, version by version."""
    path = scene.site.root / LOCK
    pins = dict(_pins(path))
    installed: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            installed.setdefault(canonicalize_name(name), distribution.version)  # the first on the path is imported
    wrong = [
        f"{name} {installed.get(name, 'is missing')}, locked is {version}"
        for name, version in sorted(pins.items())
        if name not in installed or canonicalize_version(installed[name]) != canonicalize_version(version)
    ]
    others = len(installed.keys() - pins.keys())
    digest = short_hash(store.sha256_file(path))
    if wrong:
        more = f" and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        return bad(f"{len(wrong)} of {len(pins)} differ from {LOCK} {digest}: {'; '.join(wrong[:MOST_TOLD])}{more}")
    return good(f"{len(pins)} packages as in {LOCK} {digest}; {others} installed that it does not name")


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    """Return name and version of each pin that is meant for this Python and system."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise V13Error(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(("#", "--hash=")):
            continue
        match = _PIN.fullmatch(line.strip())
        if match is None:
            raise V13Error(f"{path}:{number}: expected name==version, found {line.strip()[:80]!r}")
        try:
            is_meant = match[3] is None or Marker(match[3]).evaluate()
        except InvalidMarker as error:
            raise V13Error(f"{path}:{number}: {error}") from error
        if is_meant:
            yield canonicalize_name(match[1]), match[2]
