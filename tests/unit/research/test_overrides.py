"""Overrides on made-up counts: what is exported, what borrows from whom, and how often noise gets through."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from v13.detector import DetectorParams
from v13.detector.params import bucket_name
from v13.research import overrides, selection
from v13.research.overrides import NODES, OverrideTest
from v13.research.settings import Settings, expand_grid

GRID = {"swing_L": [8, 13], "z_hi": [1.2, 1.6, 2.0], "z_mid": [0.4, 0.6, 0.8]}
SETTINGS = expand_grid(DetectorParams(), GRID)
SHORT = [s.number for s in SETTINGS if s.values["swing_L"] == 8]
LONG = [s.number for s in SETTINGS if s.values["swing_L"] == 13]
BEST = next(s.number for s in SETTINGS if s.values == {"swing_L": 13, "z_hi": 1.6, "z_mid": 0.6})
CVD = [1, 4, 7, 10]  # its buckets
N_BLOCKS = 5
MIN_BUCKET_EVENTS = 40


def counts(share: np.ndarray, n: np.ndarray | int) -> selection.Counts:
    """Counts with the given share of hits by (setting, bucket), equal in every block; n: events by bucket."""
    total = np.zeros((len(share), N_BLOCKS, 12, 2), np.int64) + np.reshape(np.broadcast_to(n, 12), (12, 1))
    hits = np.round(share[:, None, :, None] * total).astype(np.int64)
    n_events = np.full((len(share), N_BLOCKS), 300)
    return selection.Counts(total, hits, total.sum(axis=1), hits.sum(axis=1), n_events, np.full(N_BLOCKS, 10.0))


def noise(seed: int, per_block: int) -> selection.Counts:
    """Counts of settings that share events as real ones do: thresholds on one pool a swing; hits are fair coins."""
    rng = np.random.default_rng(seed)
    n = np.zeros((len(SETTINGS), N_BLOCKS, 12, 2), np.int64)
    hits = np.zeros_like(n)
    for swing, block, bucket in itertools.product((8, 13), range(N_BLOCKS), range(12)):
        high, low = 0.8 + rng.exponential(1.0, per_block), rng.exponential(1.0, per_block)
        first = rng.random(per_block) < 0.5
        second = np.where(rng.random(per_block) < 0.6, first, rng.random(per_block) < 0.5)
        for s in SETTINGS:
            if s.values["swing_L"] == swing:
                kept = (high >= s.values["z_hi"]) & (low >= s.values["z_mid"])
                n[s.number, block, bucket] = kept.sum()
                hits[s.number, block, bucket] = (first & kept).sum(), (second & kept).sum()
    n_events = np.full((len(SETTINGS), N_BLOCKS), 300)
    return selection.Counts(n, hits, n.sum(axis=1), hits.sum(axis=1), n_events, np.full(N_BLOCKS, 10.0))


def judge(made: selection.Counts, settings: Settings = SETTINGS) -> tuple[int | None, list[OverrideTest]]:
    folds = selection.walk_forward(settings, made, 100, None)
    chosen = selection.choose(settings, made.n_all.sum(axis=1), made.hits_all.sum(axis=1), 100).setting
    return chosen, overrides.judge_overrides(settings, made, folds, chosen, MIN_BUCKET_EVENTS, 0.05)


def exported(tests: list[OverrideTest]) -> list[str]:
    return [NODES[t.node].name for t in tests if t.exported]


def world() -> np.ndarray:
    """Shares of hits: the long swing is better everywhere, its middle thresholds best."""
    share = np.full((len(SETTINGS), 12), 0.55)
    share[LONG] = 0.58
    share[BEST] = 0.60
    return share


def cvd_edge(n_thin: int) -> selection.Counts:
    """The short swing is far better in CVD_ONLY only, whose first two buckets have n_thin events a block."""
    share = world()
    share[SHORT] = 0.45
    share[np.ix_(SHORT, CVD)] = 0.75
    n = np.full(12, 200)
    n[CVD[:2]] = n_thin
    return counts(share, n)


def opt_out() -> selection.Counts:
    """As before, but in one bucket the short swing is far worse."""
    made = cvd_edge(200)
    made.hits[SHORT, :, 7] = 70
    made.hits_all[SHORT, 7] = 70 * N_BLOCKS
    return made


def at_the_corner(corner_share: float, global_share: float = 0.60, source_share: float = 0.72) -> selection.Counts:
    """CVD_ONLY does better with the short swing, but one of its buckets (4) does best at one edge of the grid."""
    share = world()
    share[SHORT] = 0.45
    share[np.ix_(SHORT, CVD)] = 0.72
    share[SHORT, 4], share[LONG, 4] = source_share, 0.45
    share[BEST, 4] = global_share
    corner = [s for s in SHORT if SETTINGS[s].values["z_hi"] == 1.2]
    share[corner, 4] = corner_share
    share[np.ix_(corner, [1, 7, 10])] = 0.60
    return counts(share, 200)


def leaf_edge() -> selection.Counts:
    """The short swing is far better in one bucket (night/active/OFI_ONLY) and a little better in another."""
    share = world()
    share[SHORT, 3] = 0.75
    share[SHORT, 7] = 0.62
    return counts(share, 100)


WORLDS = {
    "source edge": cvd_edge(6),
    "leaf edge": leaf_edge(),
    "opt out": opt_out(),
    "better yet": at_the_corner(0.82),
    "noise": noise(1, 60),
    "thin": counts(world(), 5),
}


def test_noise_exports_nothing() -> None:
    got_through = [seed for seed in range(100) if exported(judge(noise(seed, 100))[1])]
    assert len(got_through) <= 5
    assert all(not math.isnan(t.p) for t in judge(noise(0, 100))[1])  # all 15 nodes were tried


def test_an_edge_of_a_source_is_exported_there_and_its_thin_buckets_borrow() -> None:
    chosen, tests = judge(WORLDS["source edge"])
    assert chosen == BEST
    assert exported(tests) == ["CVD_ONLY"]
    (override,) = overrides.overrides_of(SETTINGS, tests)
    assert dict(override.when) == {"source": "CVD_ONLY"}
    assert override.set["swing_L"] == 8
    rows = overrides.resolved(tests)
    for thin in CVD[:2]:
        row = rows[bucket_name(thin)]
        assert row["from"] == "CVD_ONLY"
        assert row["why"].startswith("borrows from CVD_ONLY (own setting ")
        assert "at most 30 labelled events in any setting, 40 needed" in row["why"]
        assert math.isnan(tests[3 + thin].p)
    assert {rows[bucket_name(b)]["from"] for b in CVD} == {"CVD_ONLY"}
    assert {r["from"] for name, r in rows.items() if "CVD" not in name} == {"global"}


def test_an_edge_of_one_bucket_is_exported_for_that_bucket_only() -> None:
    chosen, tests = judge(WORLDS["leaf edge"])
    assert chosen == BEST
    assert exported(tests) == ["night/active/OFI_ONLY"]
    (override,) = overrides.overrides_of(SETTINGS, tests)
    assert dict(override.when) == {"session": "night", "liquidity": "active", "source": "OFI_ONLY"}
    assert override.set["swing_L"] == 8
    assert "beats the global setting out of sample (0.750 of 400 events against 0.600 of 400" in override.why


def test_a_node_that_comes_back_to_the_global_setting_needs_no_override() -> None:
    made = leaf_edge()
    made.hits_all[LONG, 3] = 450
    made.hits_all[BEST, 3] = 470  # what lies across the edges of blocks turned the tables
    chosen, tests = judge(made)
    assert chosen == BEST == tests[3 + 3].setting
    assert tests[3 + 3].p_corrected < 0.05
    assert not exported(tests)
    assert "its own choice is the same" in tests[3 + 3].reason


def test_a_bucket_that_its_source_would_harm_keeps_the_global_setting() -> None:
    chosen, tests = judge(WORLDS["opt out"])
    assert exported(tests) == ["CVD_ONLY", "day/quiet/CVD_ONLY"]
    leaf = tests[3 + 7]
    assert leaf.setting == chosen
    assert leaf.baseline == "CVD_ONLY"
    assert (leaf.accuracy_own, leaf.accuracy_baseline) == pytest.approx((0.60, 0.35))
    assert leaf.reason.startswith(f"keeps the global setting ({chosen}: swing_L 13, z_hi 1.6, z_mid 0.6), which beats")


def test_a_bucket_must_beat_its_exported_source_and_the_global_setting() -> None:
    _, tests = judge(WORLDS["better yet"])
    assert exported(tests) == ["CVD_ONLY", "night/active/CVD_ONLY"]
    leaf = tests[3 + 4]
    assert leaf.baseline == "CVD_ONLY"
    assert SETTINGS[leaf.setting or 0].values["z_hi"] == 1.2
    assert "beats CVD_ONLY (own setting" in leaf.reason
    assert ", and the global setting (0.600 of 800)" in leaf.reason


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(at_the_corner(0.74), id="it beats the global setting, hardly its source"),
        pytest.param(at_the_corner(0.62, global_share=0.61, source_share=0.50), id="the other way round"),
    ],
)
def test_a_bucket_that_beats_only_one_of_the_two_stays_with_its_source(made: selection.Counts) -> None:
    chosen, tests = judge(made)
    leaf = tests[3 + 4]
    assert exported(tests) == ["CVD_ONLY"]
    assert leaf.setting not in (chosen, tests[1].setting)
    assert leaf.gets == "CVD_ONLY"
    assert leaf.p_corrected > 0.05


def test_thin_nodes_are_no_decision_and_borrow_from_the_global_setting() -> None:
    _, tests = judge(counts(world(), 2))  # a source: 40 events in the search part, but 32 out of sample
    assert all(math.isnan(t.p) and not t.exported and t.gets == "global" for t in tests)
    source, leaf = "no decision: stays with the global setting", "borrows from the global setting"
    assert {t.reason for t in tests[:3]} == {f"{source}: 32 events out of sample to compare on, 40 needed"}
    assert {t.reason for t in tests[3:]} == {f"{leaf}: at most 10 labelled events in any setting, 40 needed"}


def test_without_a_global_setting_nothing_is_tested() -> None:
    made = counts(world(), 100)
    tests = overrides.judge_overrides(SETTINGS, made, [], None, MIN_BUCKET_EVENTS, 0.05)
    assert len(tests) == len(NODES)
    assert not exported(tests)
    assert {r["from"] for r in overrides.resolved(tests).values()} == {"global"}
    assert all(row["p"] is None and row["setting"] is None for row in overrides.report_rows(tests))


@pytest.mark.parametrize("name", WORLDS)
def test_what_resolved_says_is_what_every_bucket_gets(name: str) -> None:
    chosen, tests = judge(WORLDS[name])
    assert chosen is not None
    found = overrides.overrides_of(SETTINGS, tests)
    params = DetectorParams(SETTINGS[chosen].params.features, SETTINGS[chosen].params.decision, found)
    rows = overrides.resolved(tests)
    assert list(rows) == [bucket_name(b) for b in range(12)]
    own = {NODES[t.node].name: t.setting for t in tests}
    for got, (bucket, row) in zip(params.bucket_params(), rows.items(), strict=True):
        number = chosen if row["from"] == "global" else own[bucket if row["from"] == "own" else row["from"]]
        assert number is not None
        assert got == SETTINGS[number].params.decision
        assert row["why"]
    assert all(o.why for o in found)
    assert len(found) == sum(t.exported for t in tests)


@pytest.mark.parametrize("seed", [7, 53])  # in 53 the order of sources and buckets matters
def test_p_is_that_of_a_naive_walk_forward_with_the_tests_of_statsmodels(seed: int) -> None:
    made = noise(seed, 100)
    chosen, tests = judge(made)
    folds = {f.fold: f.setting for f in selection.walk_forward(SETTINGS, made, 100, None)}
    groups = [[b for b in range(12) if b % 3 == source] for source in range(3)] + [[b] for b in range(12)]
    expected = []
    for buckets in groups:
        k, n = np.zeros(2), np.zeros(2)
        for fold, other in folds.items():
            past = made.n[:, :fold, buckets].sum(axis=(1, 2)), made.hits[:, :fold, buckets].sum(axis=(1, 2))
            own = selection.choose(SETTINGS, *past, MIN_BUCKET_EVENTS * fold / N_BLOCKS).setting
            assert own is not None
            for i, s in enumerate((own, other)):
                k[i] += made.hits[s, fold, buckets].sum(axis=0).mean()
                n[i] += made.n[s, fold, buckets].sum(axis=0).mean()
        expected.append(proportions_ztest(k, n, alternative="larger")[1])
    assert chosen is not None
    assert not exported(tests)
    np.testing.assert_allclose([t.p for t in tests], expected, rtol=1e-10)
    leaves = multipletests(expected, method="holm")[1][3:]
    sources = multipletests([*expected[:3], *np.ones(12)], method="holm")[1][:3]  # as if the buckets came after them
    np.testing.assert_allclose([t.p_corrected for t in tests], [*sources, *leaves], rtol=1e-10)


def test_an_override_never_comes_from_other_features_than_the_global_setting() -> None:
    settings = expand_grid(DetectorParams(), {"window": [100, 300], "z_hi": [1.2, 2.0]})
    share = np.full((4, 12), 0.55)
    best = 3
    share[best] = 0.60
    share[:2, 3] = 0.90  # the other window is far better in one bucket, but a bucket cannot have a window of its own
    folds = [selection.FoldResult(k, best, (2_400, 2_400), (1_440, 1_440)) for k in range(1, N_BLOCKS)]
    tests = overrides.judge_overrides(settings, counts(share, 200), folds, best, 40, 0.05)
    assert {t.setting for t in tests} <= {2, 3}
    assert not exported(tests)
