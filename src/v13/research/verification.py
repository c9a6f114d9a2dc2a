"""Verification: the verdict of a bundle derived anew from what is attached to it, and compared bit for bit.

The same stages as at the sign-off run in a temporary folder: the ledger of the project is neither read nor charged, as
it is the same look. Who made the bundle is not asked here; see `v13.release.trust`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from v13 import config as configs
from v13 import market, store
from v13.errors import ConfigError, DataError, StoreError
from v13.research import search, stages
from v13.research.attachment import FACTS_FILE, FOLDER, Attachment, attached_recordings, bars_sha256, read_attachment
from v13.research.certificate import Certificate, certify
from v13.research.live_evidence import CLOSURE_FILE, REPORT_FILE, LiveReport, completed
from v13.research.noise import Progress
from v13.research.notebook import CLOSURE_NOTEBOOK, NOTEBOOKS
from v13.research.run import Run, code_fingerprint, make_run, read_policy
from v13.research.signoff import CERTIFICATE_FILE, bundle_name, write_bundle
from v13.store import Look

__all__ = ["Compared", "Verification", "rederive"]

MANIFEST_FILE: Final = "manifest.json"
SIGNOFF_FILE: Final = "signoff.json"
ABSENT: Final = "none"
# Made by running notebooks, or holding times: never the same bytes.
_HAS_TIMES: Final = (MANIFEST_FILE, *(f"{name}.html" for name in (*NOTEBOOKS, CLOSURE_NOTEBOOK)))


@dataclass(frozen=True)
class Compared:
    """One thing that was compared: what, what the bundle says, and what was found.

    note : str
        What is to be known of a difference, or of how it came about.
    """

    what: str
    expected: str
    found: str
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether they are equal."""
        return self.expected == self.found


@dataclass(frozen=True)
class Verification:
    """What a verification came to.

    Attributes
    ----------
    rows : tuple of Compared
        All that was compared; whole files by sha256.
    taken : tuple of str
        What was believed as it is attached, with the reason.
    not_compared : tuple of str
        Files of the bundle that were not derived again.
    told : tuple of Compared
        Differences that decide nothing by themselves, such as versions of packages.
    """

    rows: tuple[Compared, ...]
    taken: tuple[str, ...]
    not_compared: tuple[str, ...]
    told: tuple[Compared, ...]

    @property
    def matches(self) -> bool:
        """Whether everything that was compared is the same, bit for bit."""
        return bool(self.rows) and all(row.is_same for row in self.rows)


def rederive(
    bundle: Path,
    *,
    data: Sequence[Path] | None = None,
    with_certificate: bool = True,
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Verification:
    """Derive the verdict of a bundle again and compare.

    Parameters
    ----------
    bundle : Path
        Its files are taken to be those of its manifest.
    data : paths of recordings, optional
        Start from these instead of the attached bars. They must be the files the bundle names, by hash.
    with_certificate : bool
        Judge the null markets of the noise certificate again; else it is taken as attached.
    workers : int, optional
        Processes of the certificate; None: one a processor.
    progress : callable, optional
        Called with (null markets judged, in all).

    Raises
    ------
    ConfigError
        The bundle attaches no bars and `data` is not given, or it was made by a version with other settings.
    DataError
        The recordings cannot be read.
    StoreError
        A file of the bundle is damaged.
    """
    attachment = read_attachment(bundle)
    signoff = store.read_json(bundle / SIGNOFF_FILE)
    store.validate(signoff, stages.SCHEMAS / "signoff.schema.json")
    manifest = store.read_json(bundle / MANIFEST_FILE)
    certificate = _attached_certificate(bundle)
    recordings = _recordings(bundle, attachment, signoff, data)
    if data is not None:
        differ = [row for row in _sources(signoff, recordings) if not row.is_same]
        if differ:  # of other recordings everything else would differ too
            return Verification(tuple(differ), (), (), ())
    with tempfile.TemporaryDirectory(prefix="v13-verify-") as temp:
        root = Path(temp)
        loaded = configs.Loaded(attachment.config, {}, ())
        run = make_run(recordings, loaded, root=root, out=root / "out", seed=attachment.seed)
        say("search and calibration")
        stages.write_quality(run)
        search.write_search(run, search.search(run))
        stages.write_calibration(run, stages.calibrate_run(run))
        if certificate is not None and with_certificate:
            say("noise certificate")
            proof: Certificate | None = certify(run, full=certificate.full, workers=workers, progress=progress)
        else:
            proof = certificate
        say("acceptance")
        result = stages.judge_look(run, _look(run, signoff["look"]), proof)
        report = bundle / "artifacts" / REPORT_FILE
        if report.is_file():
            files = (report, report.with_name(CLOSURE_FILE))
            for file in files:
                store.copy(file, run.out / file.name)
            live = LiveReport(store.read_json(report), files)
            fingerprint = stages.released_params(run).fingerprint()
            result = replace(result, verdict=completed(result.verdict, live, run.config, fingerprint))
        stages.write_acceptance(run, result)
        made = root / "bundle"
        pages = [name for name in (*NOTEBOOKS, CLOSURE_NOTEBOOK) if f"{name}.html" in manifest["outputs"]]
        document = write_bundle(run, bundle_name(run), run.out, made, pages, proof)
        taken = _taken(bundle, with_data=data is not None, with_certificate=with_certificate)
        rows = [
            *_facts(run, attachment, signoff, document),
            *(_sources(signoff, recordings) if data is not None else ()),
            *_files(bundle, made, manifest, taken, _renamed(run, signoff, certificate, proof)),
        ]
    compared = {row.what for row in rows}
    left = tuple(sorted(name for name in manifest["outputs"] if name not in compared and name not in taken))
    reasons = tuple(f"{name}: {reason}" for name, reason in taken.items())
    return Verification(tuple(rows), reasons, left, tuple(_versions(manifest)))


def _recordings(
    bundle: Path, attachment: Attachment, signoff: Mapping[str, Any], data: Sequence[Path] | None
) -> dict[str, market.Recording]:
    if data is None:
        if not attachment.is_whole:
            raise ConfigError(f"{bundle / FACTS_FILE}: the bars were too large to attach: give the recordings (--data)")
        quality = store.read_json(bundle / "artifacts" / "data_quality.json")
        return attached_recordings(bundle, attachment, signoff["data"], quality["recordings"])
    found = market.load(list(data), symbol=attachment.symbol, policy=read_policy(attachment.config))
    missing = [row["symbol"] for row in signoff["data"] if row["symbol"] not in found]
    if missing:
        raise DataError(f"--data: holds nothing of {', '.join(missing)}; give the recordings the bundle names")
    return {row["symbol"]: found[row["symbol"]] for row in signoff["data"]}


def _look(run: Run, document: Mapping[str, Any] | None) -> Look:
    """Return the look as it was charged: what came before it stands in the ledger of the machine that signed off."""
    if document is None:
        raise StoreError(f"{SIGNOFF_FILE}: look: expected the number of the look at the holdout, found none")
    earlier, searched = document["n_earlier_looks"], document["n_searched_before"]
    if document["number"] != 1 + earlier + searched or document["simulated"] != run.simulated:
        raise StoreError(f"{SIGNOFF_FILE}: look: contradicts itself or the data: {dict(document)}")
    return Look(
        key=run.key,
        number=document["number"],
        first_seen_utc="",
        n_earlier_looks=earlier,
        n_searched_before=searched,
        simulated=document["simulated"],
        is_repeat=True,
        verdict=None,
        holdout_sha256=run.holdout_sha256,
        holdout=(),
        sha256="",
    )


def _attached_certificate(bundle: Path) -> Certificate | None:
    path = bundle / "artifacts" / CERTIFICATE_FILE
    if not path.is_file():
        return None
    document = store.read_json(path)
    return Certificate(document["key"], document["full"], document["surrogates_of"], document)


def _taken(bundle: Path, *, with_data: bool, with_certificate: bool) -> dict[str, str]:
    """Return what is believed as it is attached, and why."""
    taken = {
        "look (number and price)": "the ledger of the machine that signed off knows it",
        FACTS_FILE: "settings and seed that the derivation starts from",
    }
    for path in sorted((bundle / FOLDER).glob("*.parquet")):
        taken[f"{FOLDER}/{path.name}"] = "bars: compared by their content"
    if not with_data:
        taken["artifacts/data_quality.json"] = "tells of the recordings, which are not attached; --data derives it"
    if not with_certificate and (bundle / "artifacts" / CERTIFICATE_FILE).is_file():
        taken[f"artifacts/{CERTIFICATE_FILE}"] = "--no-certificate"
    for name in (REPORT_FILE, CLOSURE_FILE):
        if (bundle / "artifacts" / name).is_file():
            taken[f"artifacts/{name}"] = "measured on a runner; only what follows from it is derived"
    return taken


def _facts(run: Run, attachment: Attachment, signoff: Mapping[str, Any], document: Mapping[str, Any]) -> list[Compared]:
    code = "" if attachment.code_fingerprint == code_fingerprint() else "verify with the v13 that signed off"
    rows = [Compared("code", attachment.code_fingerprint, code_fingerprint(), code)]
    for symbol, bars in run.bars.items():
        rows.append(Compared(f"bars of {symbol}", attachment.bars[symbol]["sha256"], bars_sha256(bars)))
    why = "inputs, config, seed and code; the code differs" if code else ""
    rows.append(Compared("key", signoff["key"], run.key, why))
    rows.append(Compared("holdout", signoff["cut"]["holdout_sha256"], run.holdout_sha256))
    parameters = (signoff["parameters_fingerprint"], document["parameters_fingerprint"])
    rows.append(Compared("parameters", *parameters))
    return [*rows, Compared("verdict", signoff["verdict"], document["verdict"])]


def _sources(signoff: Mapping[str, Any], recordings: Mapping[str, market.Recording]) -> list[Compared]:
    """Compare files by kind and content; what they are called does not count."""
    rows = []
    for row in signoff["data"]:
        spare = [(s.kind, s.sha256) for s in recordings[row["symbol"]].sources]
        lost = []
        for source in row["sources"]:
            what = f"recording of {row['symbol']}: {source['name']}"
            if (source["kind"], source["sha256"]) in spare:
                spare.remove((source["kind"], source["sha256"]))
                rows.append(Compared(what, source["sha256"], source["sha256"]))
            else:
                lost.append((what, source["sha256"]))
        for i in range(max(len(lost), len(spare))):
            what, expected = lost[i] if i < len(lost) else (f"recording of {row['symbol']}: one too many", ABSENT)
            rows.append(Compared(what, expected, spare[i][1] if i < len(spare) else ABSENT))
    return rows


def _files(
    bundle: Path,
    made: Path,
    manifest: Mapping[str, Any],
    taken: Mapping[str, str],
    renamed: Sequence[tuple[bytes, bytes]],
) -> list[Compared]:
    """Compare every file that was made again, and every file of the bundle that should have been."""
    again = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    there = {name for name in manifest["outputs"] if name.startswith("artifacts/")}
    rows = []
    pairs = list(renamed)
    for name in sorted((again | there) - set(_HAS_TIMES)):  # artifacts first: the rest has their hashes
        expected = manifest["outputs"].get(name, {}).get("sha256", ABSENT)
        found = store.sha256_file(made / name) if name in again else ABSENT
        note = ""
        if found not in (expected, ABSENT) and expected != ABSENT and renamed:
            content = (made / name).read_bytes()
            for new, old in pairs:
                content = content.replace(new, old)
            is_same = content == (bundle / name).read_bytes()
            note = "the same but for the key" if is_same else "differs beyond the key"
            if is_same:
                pairs.append((found.encode(), expected.encode()))
        if name not in taken:
            rows.append(Compared(name, expected, found, note))
    return rows


def _renamed(
    run: Run, signoff: Mapping[str, Any], attached: Certificate | None, proof: Certificate | None
) -> list[tuple[bytes, bytes]]:
    """Return what stands for the code in artifacts, (here, in the bundle); empty where the key is the same.

    Other code gives another key, which stands in most files: so it can still be told whether anything else differs.
    """
    pairs = [(run.key, signoff["key"])]
    if attached is not None and proof is not None:
        pairs += [(proof.key, attached.key), (code_fingerprint(), attached.document["code_fingerprint"])]
    if run.key == signoff["key"]:
        return []
    # Headers have 12 digits of the key, the bundle's name 8.
    pairs += [(new[:n], old[:n]) for new, old in pairs[:1] for n in (12, 8)]
    return [(new.encode(), old.encode()) for new, old in pairs if new != old]


def _versions(manifest: Mapping[str, Any]) -> list[Compared]:
    here = store.manifest.versions()
    there = manifest["versions"]
    return [
        Compared(f"version of {name}", str(there.get(name)), str(here.get(name)))
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
