"""What the first page says of settings that are not the product's."""

from __future__ import annotations

from dataclasses import asdict

from tests.integration.markets import REPO
from tests.unit.research.test_report import PRICED, signoff
from v13 import config as configs
from v13.research import report
from v13.research.signoff import ChangedSetting, changed_settings, named_settings


def changed(env: str | None = None, **overrides: object) -> dict[str, tuple[str, str]]:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    config = configs.load(REPO, env, environ={}, overrides=given).config
    return {c.key: (c.product, c.here) for c in changed_settings(config)}


def test_every_setting_of_how_is_judged_that_is_not_the_products_is_named() -> None:
    assert changed() == {}
    assert changed("production") == {
        "acceptance.n_shifts": ("2000", "10000"),
        "acceptance.n_bootstrap": ("2000", "10000"),
    }
    found = changed(
        calibration__isotonic_floor=10,
        market__quality__price_jump="keep",
        noise__seed=14,
        search__purge_bars=900,
        search__grid__z_hi=[1.2],
        search__grid__ema_k=[3, 5],
        detector__z_hi=1.9,  # a parameter, not a rule: it stands among the parameters
    )
    assert found == {
        "search.grid.z_hi": ("[1.2, 1.6, 2.0]", "[1.2]"),
        "search.grid.ema_k": ("not searched", "[3, 5]"),
        "search.purge_bars": ("null", "900"),
        "calibration.isotonic_floor": ("1000", "10"),
        "noise.seed": ("13", "14"),
        "market.quality.price_jump": ("fail", "keep"),
    }
    fine = changed(search__grid__z_hi=[round(1 + 0.01 * i, 2) for i in range(100)])
    assert fine["search.grid.z_hi"][1] == "[1.0, 1.01, ... 1.99] (100 values)"


def settings(n: int) -> list[ChangedSetting]:
    return [ChangedSetting(f"search.grid.axis_{i}", "not searched", f"[{i}]") for i in range(n)]


def test_a_few_changes_are_named_in_the_line_and_many_in_the_table() -> None:
    assert named_settings(settings(1)) == ["search.grid.axis_0 is [0] (product: not searched)"]
    assert len(named_settings(settings(4))) == 4
    many = named_settings(settings(12))
    assert len(many) == 5
    assert many[-1] == "and 8 more, see the table"


def test_the_page_tables_every_changed_setting_and_folds_a_long_list() -> None:
    def page(n: int) -> str:
        return report.index_page(
            "run", signoff(PRICED) | {"changed_settings": [asdict(c) for c in settings(n)]}, b"", []
        )

    assert "that are not the product" not in page(0)
    assert "<details open>" in page(8)
    folded = page(9)
    assert "<details>" in folded
    assert all(f"<code>search.grid.axis_{i}</code></td><td>not searched</td><td>[{i}]</td>" in folded for i in range(9))
