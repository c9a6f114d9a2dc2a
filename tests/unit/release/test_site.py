"""Sites: names that lead nowhere else, and what is refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.release.small_rig import RELEASE, make_root, with_settings
from v13 import store
from v13.errors import ConfigError, ReleaseError
from v13.release.site import Site, check_name, open_site


def production(root: Path, **deploy: object) -> Site:
    body = {"deploy": deploy}
    store.write_yaml(root / "config/environments/production.yaml", body)
    return open_site(root, "production", {})


@pytest.mark.parametrize("name", ["r1", "20260301T110000Z-0123abcd", "a.b-c", "A" * 128])
def test_a_name_of_ours_stays_as_it_is(name: str) -> None:
    assert check_name(name, "release") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a..b", "-rf", ".x", "a b", "a\n", "a\x00", "ä", "A" * 129, "a%2e"]
)
def test_a_name_that_could_lead_out_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="release: expected letters, digits, dots and dashes, found "):
        check_name(name, "release")


def test_everything_is_below_the_root(site: Site) -> None:
    places = [site.home, site.ledger, site.records, site.current, site.backups, site.release(RELEASE)]
    places += [site.event_log(RELEASE), site.overlay(RELEASE), site.backup(7), *site.signers]
    assert not [place for place in places if not place.is_relative_to(site.root)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("of", ["release", "event_log", "overlay"])
def test_every_path_of_a_release_asks_for_its_name(site: Site, of: str) -> None:
    with pytest.raises(ReleaseError):
        getattr(site, of)("../../etc/passwd")


def test_the_bundle_is_named_by_where_its_link_leads(site: Site) -> None:
    assert site.signoff == site.root / "reports/signed"


def test_the_symbols_of_the_canary_come_first_and_no_other_does(site: Site) -> None:
    assert site.symbols == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert with_settings(site, canary=["SOLUSDT", "DOGEUSDT", "BTCUSDT"]).symbols == ("SOLUSDT", "BTCUSDT", "ETHUSDT")


@pytest.mark.parametrize("name", ["V13__DEPLOY__PROMETHEUS", "V13__SEARCH__FOLDS", "V13__"])
def test_settings_from_variables_are_refused(site: Site, name: str) -> None:
    with pytest.raises(ReleaseError, match=rf"{name}: would hold for this command .*environments/testing\.yaml"):
        open_site(site.root, "testing", {name: "null", "HOME": "/root"})


def test_all_variables_are_named_at_once(site: Site) -> None:
    with pytest.raises(ReleaseError, match="V13__A, V13__B: would hold"):
        open_site(site.root, "testing", {"V13__B": "1", "V13__A": "1"})


def test_other_variables_are_nobodys_business(site: Site) -> None:
    assert open_site(site.root, "testing", {"V13_ENV": "production", "V13_GRAFANA_TOKEN_FILE": "x"}).env == "testing"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"allow_simulated": True}, "deploy.allow_simulated: true"),
        ({"require_signature": False}, "deploy.require_signature: false"),
        ({"time_scale": 0.5}, "deploy.time_scale below 1"),
    ],
)
def test_production_takes_no_shortcut(tmp_path: Path, settings: dict[str, object], text: str) -> None:
    root = make_root(tmp_path / "root")
    with pytest.raises(ReleaseError, match=f"production: {text}: not allowed there; rehearse in --env testing"):
        production(root, **settings)
    assert production(root, canary=["BTCUSDT"]).env == "production"


def test_production_names_all_shortcuts(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"allow_simulated: true, .*require_signature: false, .*time_scale below 1"):
        production(make_root(tmp_path / "root"), allow_simulated=True, require_signature=False, time_scale=0.1)


def test_elsewhere_they_are_allowed(site: Site) -> None:
    assert with_settings(site, require_signature=False, time_scale=0.1).config.deploy.time_scale == 0.1


def test_an_environment_without_a_file_is_refused(site: Site) -> None:
    with pytest.raises(ConfigError):
        open_site(site.root, "nowhere", {})
