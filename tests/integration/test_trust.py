"""A real bundle, signed and derived anew: it matches, and no change gets past both the signature and the derivation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.markets import SHORT, open_market, project, write_bars
from v13 import market, store
from v13.cli import main
from v13.release.keys import make_key, read_public_keys
from v13.release.overrides import find_overrides
from v13.release.trust import read_bundle
from v13.research import search, signoff, stages, verification
from v13.research.attachment import attach
from v13.research.certificate import find
from v13.research.run import Run, open_run
from v13.store import HOLDOUT_LEDGER

PASSPHRASE = "correct horse battery"


def write_whole_bundle(run: Run, folder: Path, data: Path, **options: Any) -> Path:
    """Everything of a sign-off but its notebooks and their pages, which are compared with nothing."""
    stages.write_quality(run)
    search.write_search(run, search.search(run))
    stages.write_calibration(run, stages.calibrate_run(run))
    stages.write_acceptance(run, stages.accept_run(run))
    bundle = folder / signoff.bundle_name(run)
    document = signoff.write_bundle(run, bundle.name, run.out, bundle, (), find(run))
    attach(run, bundle, **options)
    store.write_json(bundle / "manifest.json", signoff.bundle_manifest(run, [data], bundle, document))
    return bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording, a signed bundle in reports/, and the keys that signed it."""
    folder = tmp_path_factory.mktemp("made")
    run = open_market(folder, "planted", 60_000, 21)
    bundle = write_whole_bundle(run, folder / "reports", folder / "planted_21.parquet")
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    (folder / "passphrase").chmod(0o600)
    secret = ["--passphrase-file", str(folder / "passphrase")]
    assert main(["key", "make", str(folder / "ours"), *secret]) == 0
    make_key(folder / "theirs", PASSPHRASE.encode())
    assert main(["sign", str(bundle), "--key", str(folder / "ours"), *secret]) == 0
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    (original,) = (made / "reports").iterdir()
    return Path(shutil.copytree(original, tmp_path / original.name))


def verify(bundle: Path, *options: object) -> int:
    return main(["verify", str(bundle), "--quiet", "--workers", "1", *map(str, options)])


def rebuild(bundle: Path) -> None:
    """Make the manifest fit the files as they are now, and leave the signature away."""
    manifest = store.read_json(bundle / "manifest.json")
    for name in manifest["outputs"]:
        path = bundle / name
        manifest["outputs"][name] = {"sha256": store.sha256_file(path), "n_bytes": path.stat().st_size}
    manifest["verdict"] = store.read_json(bundle / "signoff.json")["verdict"]
    store.write_json(bundle / "manifest.json", manifest)


def test_a_signed_bundle_is_derived_anew_bit_for_bit(
    made: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = made / "project" / HOLDOUT_LEDGER
    before = store.sha256_file(ledger)
    assert verify(bundle, "--key", made / "theirs.pub", made / "ours.pub", "--json") == 0
    assert store.sha256_file(ledger) == before  # it is the same look
    found = json.loads(capsys.readouterr().out)
    assert found["matches"] is True
    assert found["not_compared"] == []
    assert found["told"] == []
    compared = {row["what"]: row for row in found["compared"]}
    outputs = store.read_json(bundle / "manifest.json")["outputs"]
    attached = {"derivation.json", "data/BTCUSDT.parquet", "artifacts/data_quality.json"}
    assert set(outputs) - set(compared) == attached
    assert {text.partition(":")[0] for text in found["taken"]} == {*attached, "look (number and price)"}
    for name in set(outputs) - attached:
        assert compared[name]["found"] == outputs[name]["sha256"]
    assert {"code", "key", "verdict", "parameters", "holdout", "bars of BTCUSDT"} <= set(compared)


def test_the_recordings_give_the_same_and_their_quality_too(
    made: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bundle / "data")  # not needed then: only the signature asks for them
    manifest = store.read_json(bundle / "manifest.json")
    del manifest["outputs"]["data/BTCUSDT.parquet"]
    store.write_json(bundle / "manifest.json", manifest)
    assert verify(bundle, "--data", made / "planted_21.parquet", "--no-certificate") == 0
    text = capsys.readouterr().out
    assert "signature: NOT CHECKED" in text
    assert "same      artifacts/data_quality.json" in text
    assert "same      recording of BTCUSDT: planted_21.parquet" in text
    assert "taken as attached: artifacts/noise_certificate.json: --no-certificate" in text
    assert "same      artifacts/noise_certificate.json" not in text


def test_other_recordings_are_told_apart(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_bars(tmp_path / "other.parquet", market.simulate_bars(market.MarketSpec("planted", 60_000), 22).bars)
    assert verify(bundle, "--data", other) == 4
    assert "DIFFERENT recording of BTCUSDT: planted_21.parquet" in capsys.readouterr().out


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_one_bit_of_any_file_is_enough_to_be_refused(
    made: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(store.read_json(bundle / "manifest.json")["outputs"])
    assert len(names) > 15
    for name in names:
        before = (bundle / name).read_bytes()
        flip(bundle / name)
        assert verify(bundle, "--key", made / "ours.pub") == 4
        text = capsys.readouterr().out
        assert text.startswith("REFUSED")
        assert name in text or name == "signoff.json"
        (bundle / name).write_bytes(before)


def test_a_verdict_changed_with_its_manifest_is_refused_by_signature(
    made: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = store.read_json(bundle / "signoff.json")
    turned = "FAIL" if document["verdict"] == "PASS" else "PASS"
    store.write_json(bundle / "signoff.json", document | {"verdict": turned})
    rebuild(bundle)
    assert verify(bundle, "--key", made / "ours.pub") == 4
    assert "is not what was signed" in capsys.readouterr().out


def better_verdict(bundle: Path) -> None:
    document = store.read_json(bundle / "signoff.json")
    store.write_json(bundle / "signoff.json", document | {"verdict": "PASS"})


def better_evidence(bundle: Path) -> None:
    """Lie consistently: in the acceptance, too."""
    for name in ("signoff.json", "artifacts/acceptance.json"):
        text = (bundle / name).read_text()
        assert '"INSUFFICIENT"' in text or '"FAIL"' in text
        (bundle / name).write_text(text.replace('"INSUFFICIENT"', '"PASS"').replace('"FAIL"', '"PASS"'))


def other_parameters(bundle: Path) -> None:
    path = bundle / "artifacts" / "best_global.yaml"
    path.write_text(path.read_text().replace("min_score: 40.0", "min_score: 10.0"))


def other_bars(bundle: Path) -> None:
    """A better market with its own hash: the holdout's seal and the key do not fit it."""
    made = market.simulate_bars(market.MarketSpec("planted", 60_000), 22).bars
    write_bars(bundle / "data" / "BTCUSDT.parquet", made)
    facts = store.read_json(bundle / "derivation.json")
    facts["bars"]["BTCUSDT"]["sha256"] = verification.bars_sha256(made)
    store.write_json(bundle / "derivation.json", facts)


def other_seed(bundle: Path) -> None:
    facts = store.read_json(bundle / "derivation.json")
    store.write_json(bundle / "derivation.json", facts | {"seed": facts["seed"] + 1})


LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "the verdict": (better_verdict, "DIFFERENT verdict"),
    "the evidence": (better_evidence, "DIFFERENT artifacts/acceptance.json"),
    "the parameters": (other_parameters, "DIFFERENT artifacts/best_global.yaml"),
    "the bars": (other_bars, "DIFFERENT holdout"),
    "the seed": (other_seed, "DIFFERENT key"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_bundle_that_lies_does_not_follow_from_its_data(
    bundle: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole in itself, and nobody asks for a signature: the derivation alone finds it."""
    lie, told = LIES[what]
    lie(bundle)
    rebuild(bundle)
    assert verify(bundle, "--no-certificate") == 4
    text = capsys.readouterr().out
    assert told in text
    assert "does not match" in text


def test_another_version_of_the_code_is_told_and_what_differs_beyond_the_key(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle of a version whose code had another hash, and was the same otherwise."""
    key = store.read_json(bundle / "signoff.json")["key"]
    code = store.read_json(bundle / "derivation.json")["code_fingerprint"]
    other = {key: "0" * 64, key[:12]: "0" * 12, key[:8]: "0" * 8, code: "1" * 64}
    for path in bundle.rglob("*"):
        if path.suffix in (".json", ".yaml", ".html", ".xml", ".md"):
            text = path.read_text()
            for old, new in other.items():
                text = text.replace(old, new)
            path.write_text(text)
    document = store.read_json(bundle / "signoff.json")
    hashes = {name: store.sha256_file(bundle / "artifacts" / name) for name in document["artifacts"]}
    store.write_json(bundle / "signoff.json", document | {"artifacts": hashes})
    rebuild(bundle)
    assert verify(bundle, "--no-certificate") == 4
    text = capsys.readouterr().out
    assert "DIFFERENT code " in text
    assert "the code differs" in text
    assert "verify with that one" in text
    assert "same      verdict" in text
    assert "same      bars of BTCUSDT" in text
    assert "the same but for the key" in text
    assert "differs beyond the key" not in text


def test_bars_that_are_too_large_stay_out_and_the_bundle_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_market(tmp_path, "planted", 8_000, 5)
    tape = tmp_path / "planted_5.parquet"
    bundle = write_whole_bundle(run, tmp_path / "reports", tape, max_bytes=10_000)
    assert not (bundle / "data").exists()
    assert store.read_json(bundle / "derivation.json")["bars"]["BTCUSDT"]["file"] is None
    assert verify(bundle) == 3
    assert "--data" in capsys.readouterr().err
    assert verify(bundle, "--data", tape, "--no-certificate") == 0


@pytest.mark.slow
def test_two_recorded_symbols_and_a_second_look_are_derived_anew(tmp_path: Path) -> None:
    """Recorded data: the look costs, surrogates are made of the bars, and klines lack a channel."""
    tapes = [
        write_bars(
            tmp_path / f"{symbol}.parquet",
            without_quotes(market.simulate_bars(market.MarketSpec("planted", 20_000), seed).bars),
            symbol,
            simulated=False,
        )
        for symbol, seed in (("BTCUSDT", 3), ("ETHUSDT", 4))
    ]

    def opened(seed: int) -> Run:
        return open_run(tapes, root=project(tmp_path), out=tmp_path / "out", seed=seed, overrides=SHORT)

    first = opened(1)
    search.write_search(first, search.search(first))
    stages.accept_run(first)
    bundle = write_whole_bundle(opened(2), tmp_path / "reports", tmp_path)
    assert store.read_json(bundle / "signoff.json")["look"]["number"] == 2
    found = verification.rederive(bundle, workers=1)
    assert [row for row in found.rows if not row.is_same] == []
    assert {"bars of BTCUSDT", "bars of ETHUSDT", "artifacts/noise_certificate.json"} <= {r.what for r in found.rows}


def without_quotes(bars: np.ndarray) -> np.ndarray:
    bars["mid"], bars["ofi"], bars["n_quotes"], bars["lag_quote_ms"] = np.nan, np.nan, 0, -1
    return bars


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (lambda made, _: [made / "nothing"], "expected the folder of a sign-off bundle"),
        (lambda made, b: [b, "--key", made / "nothing.pub"], "cannot be read"),
        (lambda made, b: [b, "--key", made / "ours"], "found a private one"),
        (lambda made, b: [b, "--data", made / "nothing"], "no such file or folder"),
    ],
)
def test_input_that_cannot_be_read_is_exit_code_3(
    made: Path, bundle: Path, options: Callable[[Path, Path], list[Path]], match: str, capsys: Any
) -> None:
    assert main(["verify", *map(str, options(made, bundle))]) == 3
    assert match in capsys.readouterr().err


def test_an_older_bundle_without_its_data_is_exit_code_3(bundle: Path, capsys: Any) -> None:
    (bundle / "derivation.json").unlink()
    manifest = store.read_json(bundle / "manifest.json")
    del manifest["outputs"]["derivation.json"]
    store.write_json(bundle / "manifest.json", manifest)
    assert verify(bundle) == 3
    assert "sign off anew" in capsys.readouterr().err


def test_an_override_is_signed_at_the_command_line(made: Path, bundle: Path, tmp_path: Path) -> None:
    options = ["--check", "grafana", "--reason", "Grafana is down until noon", "--out", str(tmp_path / "overrides")]
    secret = ["--key", str(made / "ours"), "--passphrase-file", str(made / "passphrase")]
    assert main(["override", str(bundle), *options, *secret]) == 0
    found = find_overrides(
        tmp_path / "overrides",
        read_public_keys([made / "ours.pub"]),
        bundle_sha256=read_bundle(bundle).sha256,
        checks=["grafana"],
        now=datetime.now(UTC),
    )
    assert found["grafana"].reason == "Grafana is down until noon"


def test_no_secret_reaches_an_output_or_a_file(made: Path, bundle: Path, capsys: Any) -> None:
    secret = ["--passphrase-file", str(made / "passphrase")]
    assert main(["sign", str(bundle), "--key", str(made / "ours"), *secret]) == 0
    (made / "wrong").write_text("another passphrase\n")
    (made / "wrong").chmod(0o600)
    assert main(["sign", str(bundle), "--key", str(made / "ours"), "--passphrase-file", str(made / "wrong")]) == 1
    told = capsys.readouterr()
    body = (made / "ours").read_text().splitlines()[1]
    for text in (told.out, told.err, *(p.read_bytes().decode("latin-1") for p in bundle.rglob("*") if p.is_file())):
        assert PASSPHRASE not in text
        assert "another passphrase" not in text
        assert body not in text


def test_a_passphrase_is_taken_neither_as_an_argument_nor_from_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for given in (["--passphrase", PASSPHRASE], ["--password", PASSPHRASE], [f"--passphrase={PASSPHRASE}"]):
        with pytest.raises(SystemExit) as caught:
            main(["key", "make", str(tmp_path / "key"), *given])
        assert caught.value.code == 2
        told = capsys.readouterr()
        assert "never an argument" in told.err
        assert PASSPHRASE not in told.out + told.err
    monkeypatch.setenv("V13_PASSPHRASE", PASSPHRASE)
    assert main(["key", "make", str(tmp_path / "key")]) == 3  # no terminal here, and nothing else is asked
    assert "--passphrase-file" in capsys.readouterr().err
    assert not (tmp_path / "key").exists()
