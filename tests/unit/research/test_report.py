"""What the first page says of looks, prices, periods and fusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from v13.measures import Criterion, Status
from v13.measures.pace import Pace, priced
from v13.research import report

LOOK = {"number": 2, "n_earlier_looks": 1, "n_searched_before": 0, "simulated": False}


def signoff(
    *criteria: Criterion,
    look: dict[str, Any] | None = None,
    verdict: str = "INSUFFICIENT",
    certificate: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "simulated": False,
        "key": "0" * 64,
        "v13_version": "0",
        "criteria": [c.to_dict() for c in criteria],
        "open": [],
        "attention": [],
        "data": [],
        "cut": {
            "search_end_ms": 0,
            "purge_bars": 1,
            "holdout_start_ms": 1,
            "end_ms": 2,
            "holdout_sha256": "a" * 64,
        },
        "parameters": {"decision": {"swing_L": 13}, "overrides": []},
        "parameters_fingerprint": "b" * 64,
        "search": {"n_settings": 1, "n_trials": 1, "sentence": "Chosen by plateau."},
        "alpha": 0.025,
        "look": look,
        "certificate": certificate,
    }


def attention(document: dict[str, Any], **acceptance: Any) -> list[str]:
    evidence = {"alpha": 0.025, "look": None, "regimes": None, "horizons": [], "ablation": []} | acceptance
    cut = {"start_ms": 0, "holdout_start_ms": 1, "end_ms": 2, "bar_ms": 1, "purge_bars": 1}
    search = {"cut": cut, "chosen": {}, "reason": "", "walk_forward": []}
    return report.attention(document, {"recordings": {}}, evidence, search, alpha=0.05, changed=[])


PRICED = priced(
    Criterion("accuracy_10", "Accuracy after 10 bars", Status.INSUFFICIENT, n=102, needed=158, detail="Too few."),
    Pace(102 / 17.5, 0.4),
)


@pytest.mark.parametrize("look", [LOOK, LOOK | {"number": 1, "n_earlier_looks": 0}, None])
def test_the_look_stands_beside_the_seal_of_the_holdout(look: dict[str, Any] | None) -> None:
    page = report.index_page("run", signoff(PRICED, look=look), b"", [])
    sentence = page[page.index("aaaaaaaaaaaaaaaa</code>).") :].split("</p>", 1)[0]
    if look is None:
        assert "Look" not in sentence
    else:
        assert f"Look number {look['number']} at this holdout" in sentence
        assert "alpha 0.025" in sentence


def test_only_a_later_look_asks_for_attention() -> None:
    assert any("instead of 0.05" in line for line in attention(signoff(), look=LOOK))
    first = attention(signoff(), look=LOOK | {"number": 1, "n_earlier_looks": 0})
    assert not any("Look number" in line for line in first)
    assert not any("Look number" in line for line in attention(signoff()))


def test_the_first_page_and_the_summary_say_the_price() -> None:
    line = attention(signoff(PRICED))[0]
    assert line == (
        "Accuracy after 10 bars: INSUFFICIENT, 102 events; a fair chance to pass takes 56 more, about 8.0 hours of "
        "recording at the present rate."
    )
    assert "about 3.2 hours of holdout" in report.index_page("run", signoff(PRICED), b"", [])
    document = signoff(PRICED)
    document["attention"] = attention(document)
    assert "takes 56 more, about 8.0 hours" in report.markdown("run", document)
    never = priced(
        Criterion("accuracy_10", "Accuracy", Status.INSUFFICIENT, n=0, needed=158, detail="None."), Pace(9.0, 0.4)
    )
    assert attention(signoff(never))[0].endswith("takes 158 more, at the present rate (no event) never.")


def test_fusion_that_is_worse_than_one_source_is_named() -> None:
    def row(low: float, high: float) -> dict[str, Any]:
        return {
            "horizon_bars": 10,
            "better": "OFI_ONLY",
            "difference": (low + high) / 2,
            "difference_interval": [low, high],
        }

    worse = attention(signoff(), ablation=[row(-0.2, -0.1)])
    assert any("fusion is less often right than OFI_ONLY alone: by 0.150 (0.100 to 0.200)" in line for line in worse)
    assert not any("fusion" in line for line in attention(signoff(), ablation=[row(-0.2, 0.01)]))


def test_the_placebo_is_asked_to_stay_below() -> None:
    placebo = Criterion("placebo", "Placebo", Status.PASS, 0.51, threshold=0.55, detail="It fails.")
    assert "below 0.55" in report.markdown("run", signoff(placebo))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ["selection", "plateau", "accuracy_10", "noise_certificate"],
            "All 4 criteria that recorded data can answer are met: the choice of the setting and its plateau on the "
            "search part, the noise certificate on markets without an edge, the rest on the holdout, which the search "
            "never saw.",
        ),
        (
            ["selection", "accuracy_10"],
            "All 2 criteria that recorded data can answer are met: the choice of the setting on the search part, the "
            "rest on the holdout, which the search never saw.",
        ),
    ],
)
def test_a_pass_says_of_each_criterion_what_it_was_judged_on(keys: list[str], said: str) -> None:
    open_one = Criterion("plateau_of_another", "Open", Status.NOT_APPLICABLE, detail="Nothing to compare.")
    passed = [Criterion(key, key, Status.PASS, detail="Met.") for key in keys]
    assert report.summary_sentence(signoff(*passed, open_one, verdict="PASS")) == said


def test_what_a_runner_has_shown_is_said_to_be_of_a_rehearsal_and_asked_to_stay_below() -> None:
    seen = [
        Criterion("accuracy_10", "Accuracy", Status.PASS, detail="Good."),
        Criterion("pipeline_p95", "Pipeline latency P95", Status.PASS, 7.0, threshold=100.0, unit="ms", detail="Fast."),
        Criterion("hot_reload", "Hot reload works", Status.PASS, detail="It did."),
    ]
    found = signoff(*seen, verdict="PASS")
    assert report.summary_sentence(found) == (
        "All 3 criteria are met: latencies and hot reload in a real runner, the rest on the holdout, which the search "
        "never saw."
    )
    assert any(
        "were seen in a rehearsal on one machine, without the real exchange" in line for line in attention(found)
    )
    page = report.index_page("run", found, b"", ["06_metrics_closure"])
    assert "below 100 ms" in page
    assert "hot reload in a real runner that was rehearsed for it" in page
    assert '<a href="06_metrics_closure.html">6. Metrics closure</a>' in page
    assert "below 100 ms" in report.markdown("run", found)
    full = [*seen, *(replace(seen[1], key=key, title=key) for key in ("compute_p95", "event_p95", "closure"))]
    said = report.summary_sentence(signoff(*full, verdict="PASS"))
    assert ": latencies, metrics closure and hot reload in a real runner, the rest" in said
    unseen = signoff(seen[0], *(replace(c, status=Status.NOT_RUN) for c in seen[1:]), verdict="PASS")
    assert "that recorded data can answer" in report.summary_sentence(unseen)
    assert not any("rehearsal" in line for line in attention(unseen))
    assert "rehearsed" not in report.index_page("run", unseen, b"", [])


def certificate(n_passed: int, n_markets: int) -> dict[str, Any]:
    low, high = (float(end) for end in proportion_confint(n_passed, n_markets, 0.05, method="beta"))
    full = n_markets >= 1_000
    return {"n_passed": n_passed, "n_markets": n_markets, "low": low, "high": high, "full": full, "key": "c" * 64}


def test_a_short_certificate_is_pointed_at_with_the_bound_it_proves() -> None:
    passed = Criterion("noise_certificate", "Noise is not signed off", Status.PASS, 0.0, detail="0 of 21.")
    lines = attention(signoff(passed, verdict="PASS", certificate=certificate(0, 21)))
    (line,) = [line for line in lines if "certificate" in line]
    assert "0 of 21 markets without an edge signed off proves no more than that at most 16% of them are" in line
    assert "--full" in line
    for proof in (certificate(2, 1_001), None):
        assert not any("certificate" in line for line in attention(signoff(passed, certificate=proof)))
    assert any("3 of 999" in line for line in attention(signoff(passed, certificate=certificate(3, 999))))
