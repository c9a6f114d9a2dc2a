"""The sign-off: run the notebooks on a record, collect the evidence, and put the whole bundle in place at once.

Everything is built in hidden folders beside the final ones and renamed when it is complete: an error, a full disk or
Ctrl-C leaves what was there before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import v13
from v13 import measures, store
from v13.config import Config
from v13.errors import EXIT_GATE, EXIT_OK, StoreError
from v13.research import figures, report
from v13.research.attachment import MAX_BYTES, attach
from v13.research.certificate import Certificate, certify, find
from v13.research.defects import gap_list, n_bad_rows, source_rows
from v13.research.live_evidence import CLOSURE_FILE, REPORT_FILE, read_report
from v13.research.notebook import CLOSURE_NOTEBOOK, NOTEBOOKS, execute
from v13.research.run import Run, open_run
from v13.research.sealing import enter_look
from v13.research.stages import CALIBRATION_FILE, SCHEMAS

__all__ = [
    "ChangedSetting",
    "SignOff",
    "bundle_manifest",
    "bundle_name",
    "changed_settings",
    "named_settings",
    "sign_off",
    "write_bundle",
]

# Sections of the config that say how is judged; `market.quality` too. What is judged stands among the parameters.
JUDGING = ("acceptance", "search", "calibration", "noise")
MAX_NAMED = 4  # of changed settings in one line; the table has all
MAX_SHOWN = 60  # characters of a value
ABSENT = "not searched"  # an axis that one of two grids does not have
ACCEPTANCE = "04_acceptance"  # judges what a runner has shown, too
CERTIFICATE_FILE = "noise_certificate.json"
ARTIFACTS = (
    "best_global.yaml",
    "best_by_bucket.yaml",
    "summary.csv",
    "trials.parquet",
    "tuning_report.json",
    "monotonicity_report.json",
    CALIBRATION_FILE,
    "data_quality.json",
    "acceptance.json",
)


@dataclass(frozen=True)
class SignOff:
    """Where the bundle is and what it says."""

    name: str
    bundle: Path
    out: Path
    verdict: str
    simulated: bool
    document: dict[str, Any]
    installed: bool  # whether config/calibration took the new map

    @property
    def exit_code(self) -> int:
        """0 on PASS, 4 otherwise: the run is complete and true, and the gate is not met."""
        return EXIT_OK if self.verdict == measures.Status.PASS.value else EXIT_GATE


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that is not the product's: its dotted key, and both values as text."""

    key: str
    product: str
    here: str

    def __str__(self) -> str:
        """Return it in a few words."""
        return f"{self.key} is {self.here} (product: {self.product})"


def sign_off(
    data: Sequence[str | Path],
    *,
    root: Path,
    out: Path,
    reports: Path,
    symbol: str | None = None,
    env: str | None = None,
    seed: int | None = None,
    notebooks: Path | None = None,
    full: bool = False,
    workers: int | None = None,
    progress: bool = False,
    count: Callable[[int, int], None] | None = None,
    live: Path | None = None,
    rehearse: Callable[[Run, Path], Path] | None = None,
    attach_bytes: int = MAX_BYTES,
    say: Callable[[str], None] = lambda _: None,
) -> SignOff:
    """Run all notebooks on `data` and write the bundle.

    Parameters
    ----------
    data : paths of recordings
    root : Path
        Folder that holds config/; the calibration map goes to its config/calibration/.
    out : Path
        Folder of the guide's artifacts (runs/real_test); replaced whole.
    reports : Path
        The bundle goes to `reports/<symbols>-<key>`; a rerun of the same inputs replaces it with the same bytes.
        `reports/latest` is made to point at it.
    notebooks : Path, optional
        Default: root/notebooks.
    full : bool
        Judge the 1,001 markets of a full noise certificate, where none is kept; half an hour and more.
    workers : int, optional
        Processes of the noise certificate.
    count : callable, optional
        Called with (null markets judged, in all).
    live : Path, optional
        Folder of a metrics alignment with its report: the runner's criteria are then judged, its files join the
        artifacts, and notebook 06 the pages.
    rehearse : callable, optional
        Instead of `live`: called with the run and the folder its released parameters and calibration lie in, before the
        holdout is looked at; makes that report and returns its folder. Research starts no runner itself.

    attach_bytes : int, >= 0
        The bars join the bundle where they take at most so much; see `attachment`.

    Raises
    ------
    ConfigError, DataError, StoreError
        Nothing of the old outputs is touched then.
    """
    evidence = None if live is None else read_report(live, _now_ms())
    folder = notebooks or root / "notebooks"
    run = open_run(data, root=root, out=out, symbol=symbol, env=env, seed=seed)
    name = bundle_name(run)
    if run.config.noise.markets:
        say(report.TITLES["05_noise_certificate"])
        certify(run, full=full, workers=workers, progress=count)
    parameters = {
        "data": [str(Path(p).resolve()) for p in data],
        "symbol": symbol,
        "root": str(root.resolve()),
        "env": env,
        "seed": run.seed,
    }
    with store.staged_dir(out) as work, store.staged_dir(reports / name) as bundle:
        executed = bundle / "notebooks"
        executed.mkdir()
        pages: list[str] = []

        def page(notebook: str, values: Mapping[str, Any]) -> None:
            say(report.TITLES[notebook])
            made = executed / f"{notebook}.ipynb"
            execute(notebook, folder, made, values, progress=progress)
            text = report.notebook_page(made, report.TITLES[notebook], run.simulated)
            store.write_text(bundle / f"{notebook}.html", text)
            pages.append(notebook)

        for notebook in NOTEBOOKS:
            if notebook == ACCEPTANCE:
                if rehearse is not None:
                    evidence = read_report(rehearse(run, work), _now_ms())
                for path in () if evidence is None else evidence.files:
                    store.copy(path, work / path.name)  # where the acceptance looks for them
            page(notebook, parameters | {"out": str(work.resolve())})
        if evidence is not None:
            closure = str(work.resolve() / CLOSURE_FILE)
            page(CLOSURE_NOTEBOOK, {"closure": closure, "out": str(work.resolve()), "root": parameters["root"]})
        document = write_bundle(run, name, work, bundle, pages, find(run))
        if not attach(run, bundle, symbol=symbol, max_bytes=attach_bytes):
            say(
                f"the bars take over {attach_bytes:,} bytes and are not attached: `v13 verify` will need the recordings"
            )
        store.write_json(bundle / "manifest.json", bundle_manifest(run, data, bundle, document))
    installed = _install(out / CALIBRATION_FILE, root / "config" / "calibration" / CALIBRATION_FILE)
    store.point(reports / "latest", reports / name)
    return SignOff(name, reports / name, out, document["verdict"], run.simulated, document, installed)


def bundle_name(run: Run) -> str:
    """Return the name of the bundle's folder: symbols and key, and SIMULATED in front where it is."""
    name = f"{'-'.join(run.recordings)[:60]}-{run.key[:8]}"
    return f"SIMULATED-{name}" if run.simulated else name


def write_bundle(
    run: Run, name: str, work: Path, bundle: Path, pages: Sequence[str], proof: Certificate | None
) -> dict[str, Any]:
    """Write everything of the bundle but the notebooks and the manifest; return signoff.json."""
    names = [*ARTIFACTS, *(f"score_monotonicity_{h}.png" for h in run.config.search.horizons_bars)]
    names += [name for name in (REPORT_FILE, CLOSURE_FILE) if CLOSURE_NOTEBOOK in pages]
    for artifact in names:
        store.copy(work / artifact, bundle / "artifacts" / artifact)
    quality = store.read_json(work / "data_quality.json")
    acceptance = store.read_json(work / "acceptance.json")
    search = store.read_json(work / "tuning_report.json")
    for part in (quality, acceptance, search):
        if part["key"] != run.key:
            raise StoreError(f"{work}: a notebook wrote for other inputs or code than this sign-off's; run it again")
    verdict = measures.Verdict.from_dict(acceptance["verdict"])
    if proof is not None:
        store.write_json(bundle / "artifacts" / CERTIFICATE_FILE, dict(proof.document))
    document: dict[str, Any] = {
        "version": 1,
        "v13_version": v13.__version__,
        "key": run.key,
        "simulated": run.simulated,
        "verdict": verdict.overall.value,
        "criteria": verdict.to_dict()["criteria"],
        "open": verdict.to_dict()["open"],
        "data": [_data_row(run, symbol) for symbol in run.recordings],
        "cut": search["cut"],
        "parameters": search["parameters"],
        "parameters_fingerprint": search["parameters_fingerprint"],
        "search": {
            "n_settings": search["n_settings"],
            "n_trials": search["n_trials"],
            "chosen": search["chosen"],
            "sentence": "Chosen by plateau on the search part."
            if search["chosen"]
            else f"Nothing was chosen ({search['reason']}): these are the configured ones.",
        },
        "alpha": acceptance["alpha"],
        "look": acceptance["look"],
        "certificate": None if proof is None else {"key": proof.key, "full": proof.full, **proof.all_null},
        "attention": [],
        "artifacts": {artifact: store.sha256_file(bundle / "artifacts" / artifact) for artifact in names}
        | ({} if proof is None else {CERTIFICATE_FILE: store.sha256_file(bundle / "artifacts" / CERTIFICATE_FILE)}),
    }
    changed = changed_settings(run.config)
    document["changed_settings"] = [asdict(c) for c in changed]
    document["attention"] = report.attention(
        document, quality, acceptance, search, alpha=run.config.acceptance.alpha, changed=named_settings(changed)
    )
    store.validate(document, SCHEMAS / "signoff.schema.json")
    store.write_json(bundle / "signoff.json", document)
    measured = any(c.estimate is not None for c in verdict.criteria)
    picture = figures.png(figures.criteria_figure(verdict, run.simulated)) if measured else b""
    store.write_text(bundle / "index.html", report.index_page(name, document, picture, pages))
    store.write_text(bundle / "signoff.junit.xml", report.junit(name, document))
    store.write_text(bundle / "summary.md", report.markdown(name, document))
    return document


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _install(made: Path, place: Path) -> bool:
    """Put the calibration map at its place, unless that would replace one of recorded data by less."""
    if place.is_file():
        new, old = store.read_json(made), store.read_json(place)
        if old["horizons"] and not old["simulated"] and (new["simulated"] or not new["horizons"]):
            return False
    store.copy(made, place)
    return True


def changed_settings(config: Config) -> list[ChangedSetting]:
    """Return every setting of how is judged that differs from the product's own, in order of the schema.

    The product's values are those of the schema, which the shipped config/system.yaml repeats (a test holds them
    equal): a project's own system.yaml is compared like any other layer. An axis of the grid is a setting.
    """
    product = Config()
    pairs = [(name, getattr(product, name), getattr(config, name)) for name in JUDGING]
    pairs.append(("market.quality", product.market.quality, config.market.quality))
    changed = []
    for section, shipped, own in pairs:
        there, here = _flat(section, shipped.model_dump(mode="json")), _flat(section, own.model_dump(mode="json"))
        for key in dict.fromkeys([*there, *here]):
            if there.get(key, ABSENT) != here.get(key, ABSENT):
                changed.append(ChangedSetting(key, _shown(there.get(key, ABSENT)), _shown(here.get(key, ABSENT))))
    return changed


def named_settings(changed: Sequence[ChangedSetting]) -> list[str]:
    """Return the changed settings for one line of the first page: the first few, and how many more."""
    named = [str(c) for c in changed[:MAX_NAMED]]
    return named if len(changed) <= MAX_NAMED else [*named, f"and {len(changed) - MAX_NAMED} more, see the table"]


def _flat(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}"
        found |= _flat(key, value) if isinstance(value, Mapping) else {key: value}
    return found


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    if len(text) <= MAX_SHOWN or not isinstance(value, list):
        return text
    return f"[{value[0]}, {value[1]}, ... {value[-1]}] ({len(value)} values)"


def _data_row(run: Run, symbol: str) -> dict[str, Any]:
    r = run.recordings[symbol]
    return {
        "symbol": symbol,
        "market": r.market,
        "simulated": r.simulated,
        "clock": r.clock,
        "bar_ms": r.bar_ms,
        "n_bars": len(r.bars),
        "from_ms": int(r.bars["ts_ms"][0]) - r.bar_ms,
        "to_ms": int(r.bars["ts_ms"][-1]),
        "has_trades": r.has_trades,
        "has_quotes": r.has_quotes,
        "n_gaps": len(gap_list(r)),
        "n_bad_rows": n_bad_rows(r),
        "sources": source_rows(r),
    }


def bundle_manifest(run: Run, data: Sequence[str | Path], bundle: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Return manifest.json of a bundle that holds everything else."""
    inputs = {s.path: Path(s.path) for r in run.recordings.values() for s in r.sources}
    inputs |= {f"config: {p.name}": p for p in run.config_files}
    outputs = {str(p.relative_to(bundle)): p for p in sorted(bundle.rglob("*")) if p.is_file()}
    return store.manifest.build(
        inputs,
        outputs,
        parameters=document["parameters"],
        seed=run.seed,
        extra={
            "key": run.key,
            "verdict": document["verdict"],
            "simulated": run.simulated,
            "config_origin": dict(run.config_origin),
            "command": sys.argv,
            "data": [str(p) for p in data],
            "look_sha256": enter_look(run).sha256,  # gives away a ledger whose end was cut off
        },
    )
