"""What a sign-off attaches comes back bit for bit, or is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.integration.markets import open_market
from v13 import market, store
from v13.errors import ConfigError, DataError
from v13.research.attachment import attach, attached_recordings, bars_sha256, read_attachment
from v13.research.defects import quality_document, source_rows
from v13.research.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Bars with every kind of number that is easily lost: -0.0, NaN, the smallest, the largest whole one."""
    opened = open_market(tmp_path_factory.mktemp("market"), "random_walk", 3_000, 1)
    recording = opened.recordings["BTCUSDT"]
    bars = recording.bars.copy()
    bars["ofi"][:4] = [-0.0, 0.0, np.nan, 5e-324]
    bars["delta"][:2] = [-0.0, 1e308]
    bars["mid"][7] = np.nan
    bars["n_trades"][5] = 2**62 + 1
    return dataclasses.replace(opened, recordings={"BTCUSDT": dataclasses.replace(recording, bars=bars)})


def rows_of(run: Run) -> list[dict[str, object]]:
    return [
        {
            "symbol": symbol,
            **{
                name: getattr(r, name)
                for name in ("market", "clock", "bar_ms", "simulated", "has_trades", "has_quotes")
            },
            "sources": source_rows(r),
        }
        for symbol, r in run.recordings.items()
    ]


def back(run: Run, bundle: Path) -> dict[str, market.Recording]:
    quality = {symbol: quality_document(r) for symbol, r in run.recordings.items()}
    return attached_recordings(bundle, read_attachment(bundle), rows_of(run), quality)


def test_bars_come_back_bit_for_bit(run: Run, tmp_path: Path) -> None:
    assert attach(run, tmp_path)
    found = back(run, tmp_path)["BTCUSDT"]
    assert found.bars.dtype == run.bars["BTCUSDT"].dtype
    assert found.bars.tobytes() == run.bars["BTCUSDT"].tobytes()


def test_quality_and_sources_come_back_as_pages_show_them(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path)
    found, original = back(run, tmp_path)["BTCUSDT"], run.recordings["BTCUSDT"]
    assert quality_document(found) == quality_document(original)
    assert [(s.kind, s.sha256) for s in found.sources] == [(s.kind, s.sha256) for s in original.sources]


def test_settings_and_seed_come_back(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path, symbol="BTCUSDT")
    found = read_attachment(tmp_path)
    assert (found.seed, found.symbol, found.is_whole) == (run.seed, "BTCUSDT", True)
    for section in ("search", "acceptance", "calibration", "noise", "features", "detector", "sessions", "market"):
        assert getattr(found.config, section) == getattr(run.config, section), section


def test_settings_of_a_machine_stay_out(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path)
    assert not {"runner", "exporter", "feed", "deploy"} & set(store.read_json(tmp_path / "derivation.json")["config"])


def test_the_same_run_attaches_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        attach(run, tmp_path / name)
    for file in ("derivation.json", "data/BTCUSDT.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bars_over_the_limit_are_left_out_whole(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path / "a")
    size = (tmp_path / "a" / "data" / "BTCUSDT.parquet").stat().st_size
    assert attach(run, tmp_path / "b", max_bytes=size)
    assert not attach(run, tmp_path / "c", max_bytes=size - 1)
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["derivation.json"]
    assert not read_attachment(tmp_path / "c").is_whole


def test_a_symbol_that_is_a_path_leads_nowhere(run: Run, tmp_path: Path) -> None:
    """A symbol may come from a column of somebody's file."""
    named = "../../escaped"
    evil = dataclasses.replace(run, recordings={named: dataclasses.replace(run.recordings["BTCUSDT"], symbol=named)})
    attach(evil, tmp_path / "deep" / "bundle")
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["deep/bundle/data/symbol-0.parquet", "deep/bundle/derivation.json"]
    assert back(evil, tmp_path / "deep" / "bundle")[named].bars.tobytes() == evil.bars[named].tobytes()


def test_other_bars_in_the_file_are_refused(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path)
    path = tmp_path / "data" / "BTCUSDT.parquet"
    pl.read_parquet(path).with_columns(pl.col("close") * (1 + 1e-15)).write_parquet(path)
    with pytest.raises(DataError, match="does not hold the bars"):
        back(run, tmp_path)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="cannot be read"):
        back(run, tmp_path)


def test_a_file_outside_the_bundle_is_not_opened(run: Run, tmp_path: Path) -> None:
    attach(run, tmp_path / "bundle")
    (tmp_path / "bundle" / "data" / "BTCUSDT.parquet").rename(tmp_path / "outside.parquet")
    facts = store.read_json(tmp_path / "bundle" / "derivation.json")
    facts["bars"]["BTCUSDT"]["file"] = "../outside.parquet"
    store.write_json(tmp_path / "bundle" / "derivation.json", facts)
    with pytest.raises(DataError, match="leads out of the bundle"):
        back(run, tmp_path / "bundle")


def test_a_missing_or_a_foreign_derivation_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sign off anew"):
        read_attachment(tmp_path)
    attach(run, tmp_path)
    path = tmp_path / "derivation.json"
    facts = store.read_json(path)
    store.write_json(path, facts | {"config": facts["config"] | {"unheard_of": 1}})
    with pytest.raises(ConfigError, match="not those of this version"):
        read_attachment(tmp_path)
    store.write_json(path, facts | {"config": facts["config"] | {"acceptance": {}}, "config_fingerprint": "0" * 64})
    with pytest.raises(ConfigError, match="expected fingerprint 000000000000"):
        read_attachment(tmp_path)
    store.write_json(path, {"version": 1})
    with pytest.raises(ConfigError, match="not in the form"):
        read_attachment(tmp_path)


def test_the_hash_sees_every_bit(run: Run) -> None:
    bars = run.bars["BTCUSDT"].copy()
    before = bars_sha256(bars)
    bars["ofi"][0] = 0.0  # was -0.0
    assert bars_sha256(bars) != before
