"""A release directory: settings, parameters, sign-off, monitoring and code, copied, hashed, and never changed again.

What runs from it is what was signed off, whatever happens to the checkout it came from. What may change while it runs,
such as its symbols, is not in it.
"""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import v13
from v13 import store
from v13.config import load
from v13.config.loader import fingerprint
from v13.errors import ReleaseError
from v13.release.folders import copy_folder, differences, listing, protect
from v13.release.ledger import whoami
from v13.release.monitoring_files import monitoring_documents, write_files
from v13.release.site import Site
from v13.store.chain import canonical
from v13.telemetry.slo import load_slo

__all__ = [
    "ARTIFACTS",
    "BUNDLE",
    "RELEASE_FILE",
    "build_release",
    "check_release",
    "read_release",
    "release_name",
    "settings_sha256",
]

RELEASE_FILE: Final = "release.json"
BUNDLE: Final = "reports/latest"
CODE: Final = "code"
MONITORING: Final = "monitoring"
CALIBRATION: Final = "divergence_score_calibration.json"
# The guide's artifacts: their name in the bundle, and their place below a root.
ARTIFACTS: Final = {
    "best_global.yaml": "runs/real_test/best_global.yaml",
    "best_by_bucket.yaml": "runs/real_test/best_by_bucket.yaml",
    CALIBRATION: f"config/calibration/{CALIBRATION}",
}
LEFT_ALONE: Final = frozenset({"keys", "calibration"})  # of the settings: no release holds a key
LEFT_OUT: Final = ("notebooks", "data")  # of a bundle: executed notebooks and bars; the runner needs neither


def release_name(operation: str, parameters_fingerprint: str) -> str:
    """Return the name of the release an operation makes: the same however often it is resumed."""
    return f"{operation.partition('-')[0]}-{parameters_fingerprint[:8]}"


def build_release(site: Site, release: str, *, code: Path | None = None) -> dict[str, Any]:
    """Make the directory of a release; what is there already and whole is left as it is.

    Parameters
    ----------
    site : Site
    release : str
    code : Path, optional
        Folder whose content becomes the code. Default: the package that runs.

    Returns
    -------
    dict
        release.json.

    Raises
    ------
    ReleaseError
        An artifact is not what the sign-off says, or a directory of that name was changed.
    StoreError
        The file system refused; nothing is left.
    """
    final = site.release(release)
    if final.exists():
        check_release(final)
        protect(final)  # the worker that made it may have been killed before it could
        return read_release(final)
    for leftover in final.parent.glob(f".{release}.*.staging"):  # of a worker that was killed
        shutil.rmtree(leftover)
    signoff = store.read_json(site.signoff / "signoff.json")
    with store.staged_dir(final) as folder:
        copy_folder(site.root / "config", folder / "config", lambda p: p.name in LEFT_ALONE)
        for name, place in ARTIFACTS.items():
            source = site.signoff / "artifacts" / name
            if store.sha256_file(source) != signoff["artifacts"].get(name):
                raise ReleaseError(f"{source}: its sha256 is not what signoff.json says; sign off again")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)
        copy_folder(site.signoff, folder / BUNDLE, lambda p: p.name in LEFT_OUT and p.parent == site.signoff)
        _copy_code(folder / CODE, code)
        write_files(folder / MONITORING, monitoring_documents(site, load_slo(folder / "config/slo.yaml")))
        config = load(folder, site.env, environ={}).config
        store.write_json(
            folder / RELEASE_FILE,
            {
                "version": 1,
                "id": release,
                "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                "by": whoami(),
                "env": site.env,
                "v13_version": v13.__version__,
                "signoff_key": signoff["key"],
                "signoff_sha256": store.sha256_file(site.signoff / "signoff.json"),
                "verdict": signoff["verdict"],
                "simulated": signoff["simulated"],
                "parameters_fingerprint": signoff["parameters_fingerprint"],
                "config_fingerprint": fingerprint(config),
                "files": listing(folder),
            },
        )
    protect(final)
    return read_release(final)


def settings_sha256(folder: Path) -> str:
    """Return what stands for the settings of a checkout or of a release, without keys and calibration."""
    names = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    own = {n.as_posix(): store.sha256_file(p) for n, p in names.items() if not LEFT_ALONE.intersection(n.parts)}
    return hashlib.sha256(canonical(own).encode()).hexdigest()


def read_release(folder: Path) -> dict[str, Any]:
    """Return release.json of a release directory.

    Raises
    ------
    ReleaseError
        It is none.
    """
    document = store.read_json(folder / RELEASE_FILE)
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("files"), dict):
        raise ReleaseError(f"{folder / RELEASE_FILE}: expected a release of version 1, found another document")
    return document


def check_release(folder: Path) -> None:
    """Compare a release directory with its release.json, byte by byte.

    Raises
    ------
    ReleaseError
        Naming the first file that differs.
    """
    found = differences(folder, read_release(folder)["files"], but=(RELEASE_FILE,))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ReleaseError(f"{folder}: was changed after it was built: {found[0]}{more}; restore it from a backup")


def _copy_code(target: Path, code: Path | None) -> None:
    package = Path(v13.__file__).resolve().parent
    if code is None:
        copy_folder(package, target / "v13", _is_cache)
    else:
        copy_folder(code, target, _is_cache)


def _is_cache(path: Path) -> bool:
    """Return whether a file is Python's own; compiled kernels stay, or each release would compile for a minute."""
    return path.suffix == ".pyc"
