"""Overrides: which source or bucket has earned a setting of its own, and from whom the others borrow.

A tree of 15 nodes: the three sources, and under each its four buckets (session x liquidity). All of it works on the
counts of the search part; nothing here looks at the holdout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from v13 import measures
from v13.detector import BucketOverride
from v13.detector.dtypes import CHANNELS, N_BUCKETS
from v13.detector.params import DECISION_NAMES, LIQUIDITIES, SESSIONS, bucket_name
from v13.research.selection import Counts, FoldResult, choose
from v13.research.settings import Setting, Settings

__all__ = ["NODES", "Node", "OverrideTest", "judge_overrides", "overrides_of", "report_rows", "resolved"]

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

N_SOURCES: Final = len(CHANNELS)
GLOBAL: Final = "global"
OWN: Final = "own"


@dataclass(frozen=True)
class Node:
    """A source (`parent` None) or one bucket under it; `when` is the condition of its override."""

    name: str
    when: Mapping[str, str]
    parent: int | None


def _tree() -> tuple[Node, ...]:
    sources = [Node(source, {"source": source}, None) for source in CHANNELS]
    leaves = []
    for b in range(N_BUCKETS):
        session, liquidity, source = b // (2 * N_SOURCES), b // N_SOURCES % 2, b % N_SOURCES
        when = {"session": SESSIONS[session], "liquidity": LIQUIDITIES[liquidity], "source": CHANNELS[source]}
        leaves.append(Node(bucket_name(b), when, source))
    return (*sources, *leaves)


NODES: Final = _tree()  # the sources first: the node of bucket b is N_SOURCES + b


@dataclass(frozen=True)
class OverrideTest:
    """One node's own setting against what it would get otherwise, both chosen and judged walk-forward.

    node : int
        Index into NODES.
    setting : int or None
        Its own choice on the whole search part; None where no setting has enough of its events.
    baseline : str
        What it would get otherwise: "global", or the name of its source where that has an override.
    baseline_setting : int or None
        The number of that setting.
    accuracy_own, accuracy_baseline, n_own, n_baseline
        Out of sample, pooled over the folds, mean over horizons.
    p, p_corrected : in [0, 1]; NaN where not tested
    gets : str
        Where its parameters come from in the end: "own" or `baseline`.
    """

    node: int
    setting: int | None
    baseline: str
    baseline_setting: int | None
    accuracy_own: float | None
    accuracy_baseline: float | None
    n_own: int
    n_baseline: int
    p: float
    p_corrected: float
    exported: bool
    reason: str

    @property
    def gets(self) -> str:
        """Where the node's parameters come from in the end: "own" or `baseline`."""
        return OWN if self.exported else self.baseline


@dataclass(frozen=True)
class _Pair:
    """Hits and events out of sample of a node's own choices and of those they are compared with."""

    own_hits: float = 0.0
    own_n: float = 0.0
    base_hits: float = 0.0
    base_n: float = 0.0

    @property
    def least(self) -> float:
        return min(self.own_n, self.base_n)

    def p(self, min_events: int) -> float:
        """Return the one-sided p of the difference; 1 where there is too little to show one."""
        if self.least < min_events:
            return 1.0
        return _two_proportions(self.own_hits, self.own_n, self.base_hits, self.base_n)


class _Chooser:
    """Own choices of the nodes. An override sets thresholds only: features are the same for all buckets."""

    def __init__(self, settings: Settings, counts: Counts) -> None:
        self.group_of = settings.feature_group
        members = [np.flatnonzero(self.group_of == g) for g in range(int(self.group_of.max()) + 1)]
        self.groups = [(settings.subset(m), m) for m in members]
        n, hits = _by_node(counts.n), _by_node(counts.hits)  # (S, K, 15, H)
        self.n_blocks = n.shape[1]
        self.n, self.hits = n.mean(axis=-1), hits.mean(axis=-1)
        self.n_before, self.hits_before = n.cumsum(axis=1), hits.cumsum(axis=1)
        self.n_all, self.hits_all = _by_node(counts.n_all), _by_node(counts.hits_all)  # (S, 15, H)

    def in_fold(self, node: int, k: int, like: int, min_events: int) -> int | None:
        """Return the node's choice on the blocks before block k, among settings with the features of `like`."""
        least = min_events * k / self.n_blocks
        return self._choose(like, self.n_before[:, k - 1, node], self.hits_before[:, k - 1, node], least)

    def in_all(self, node: int, like: int, min_events: int) -> int | None:
        return self._choose(like, self.n_all[:, node], self.hits_all[:, node], min_events)

    def most_events(self, node: int, like: int) -> int:
        """Return the labelled events of the node in the setting that has most of them."""
        members = self.groups[self.group_of[like]][1]
        return int(self.n_all[members, node].min(axis=1).max())

    def compare(self, node: int, own: Mapping[int, int | None], base: Mapping[int, int]) -> _Pair:
        """Pool block k of the settings own[k] and base[k] over the folds k that have both."""
        total = np.zeros(4)
        for k, other in base.items():
            mine = own[k]
            if mine is None:
                continue
            for i, s in enumerate((mine, other)):
                total[2 * i : 2 * i + 2] += self.hits[s, k, node], self.n[s, k, node]
        return _Pair(*map(float, total))

    def _choose(self, like: int, n: I8, hits: I8, least: float) -> int | None:
        group, members = self.groups[self.group_of[like]]
        choice = choose(group, n[members], hits[members], least)
        return None if choice.setting is None else int(members[choice.setting])


def judge_overrides(
    settings: Settings,
    counts: Counts,
    folds: Sequence[FoldResult],
    chosen: int | None,
    min_bucket_events: int,
    alpha: float,
) -> list[OverrideTest]:
    """Test for each source and each bucket whether a setting of its own has earned its place.

    Parameters
    ----------
    counts : Counts
    folds : sequence of FoldResult
        The global setting of each fold (`walk_forward`).
    chosen : int or None
        The global setting; None: nothing is tested.
    min_bucket_events : int, >= 1
        Labelled events a node needs in the search part to have a choice, and out of sample to be compared.
    alpha : float, in (0, 1)
        Family-wise rate of exports by chance.

    Returns
    -------
    list of 15 OverrideTest, in the order of NODES

    Notes
    -----
    In every fold a node's setting is chosen on the blocks before and compared on the next block. A source is compared
    with the global setting of that fold. A bucket is compared with the global one too, and where its source is exported
    also with what its source chose in that fold; its p is the larger of the two, so that whatever is exported beats
    the global setting. A bucket whose own choice *is* the global setting needs only the second: it opts out of the
    override of its source. A node with too few events is not tested and borrows.

    The test is the one-sided two-proportion z-test of pooled accuracies (mean over horizons, each event counted once).
    The two settings share events. With c of them in common the variance of the difference is
    p(1-p)(1/n1 + 1/n2 - 2c/(n1 n2)): the test takes c = 0, its largest value. A paired test (McNemar) needs c and the
    hits among the events not shared, which counts by setting do not tell, so the slack stays; it also makes up for
    some of what clustered events take away.

    Holm (1979) over all nodes tested, one family. The sources are decided first, as if every bucket came after them
    (p = 1): what a bucket has to beat must not depend on its own p. That costs a source at most a little power.
    """
    if chosen is None:
        why = "no global setting to beat: the configured parameters stand"
        nan = math.nan
        return [OverrideTest(i, None, GLOBAL, None, None, None, 0, 0, nan, nan, False, why) for i in range(len(NODES))]
    chooser = _Chooser(settings, counts)
    of_global = {f.fold: f.setting for f in folds if f.setting is not None}
    e = _weigh(chooser, of_global, chosen, min_bucket_events, alpha)
    tests = []
    for i, node in enumerate(NODES):
        heir = node.parent if i in e.against_source else None  # the source it borrows from, if any
        baseline, otherwise = (GLOBAL, chosen) if heir is None else (NODES[heir].name, e.final[heir])
        pair = e.against_source.get(i, e.against_global[i])
        test = OverrideTest(
            node=i,
            setting=e.final[i],
            baseline=baseline,
            baseline_setting=otherwise,
            accuracy_own=pair.own_hits / pair.own_n if pair.own_n else None,
            accuracy_baseline=pair.base_hits / pair.base_n if pair.base_n else None,
            n_own=int(pair.own_n),
            n_baseline=int(pair.base_n),
            p=float(e.p[i]),
            p_corrected=float(e.corrected[i]),
            exported=bool(e.is_tested[i] and e.corrected[i] < alpha and e.final[i] != otherwise),
            reason="",
        )
        has = ""
        if e.final[i] is None:
            has = f"at most {chooser.most_events(i, chosen)} labelled events in any setting"
        elif not e.is_tested[i]:
            has = f"{int(e.against_global[i].least)} events out of sample to compare on"
        too_thin = f"{has}, {min_bucket_events} needed" if has else ""
        tests.append(replace(test, reason=_reason(test, settings, too_thin, e.against_global[i], chosen)))
    return tests


def overrides_of(settings: Settings, tests: Sequence[OverrideTest]) -> tuple[BucketOverride, ...]:
    """Return the overrides that were exported, sources first, each naming why it is there."""
    return tuple(
        BucketOverride(NODES[t.node].when, _thresholds(settings[t.setting]), t.reason)
        for t in tests
        if t.exported and t.setting is not None
    )


def resolved(tests: Sequence[OverrideTest], of_sources: bool = False) -> dict[str, dict[str, str]]:
    """Return for each of the 12 buckets (or the 3 sources) where its parameters come from, and why.

    `from` is "global", "own", or for a bucket the name of the source it borrows from.
    """
    chosen = [t for t in tests if (NODES[t.node].parent is None) == of_sources]
    return {NODES[t.node].name: {"from": t.gets, "why": t.reason} for t in chosen}


def report_rows(tests: Sequence[OverrideTest]) -> list[dict[str, Any]]:
    """Return the tests as plain rows for tuning_report.json; None where a number is not defined."""
    return [
        {
            "node": NODES[t.node].name,
            "setting": t.setting,
            "baseline": t.baseline,
            "baseline_setting": t.baseline_setting,
            "accuracy_own": t.accuracy_own,
            "accuracy_baseline": t.accuracy_baseline,
            "n_own": t.n_own,
            "n_baseline": t.n_baseline,
            "p": None if math.isnan(t.p) else t.p,
            "p_corrected": None if math.isnan(t.p_corrected) else t.p_corrected,
            "exported": t.exported,
            "from": t.gets,
            "reason": t.reason,
        }
        for t in tests
    ]


@dataclass(frozen=True)
class _Evidence:
    """By node: own choice on the whole search part, comparisons, whether tested, p before and after Holm."""

    final: list[int | None]
    against_global: list[_Pair]
    against_source: dict[int, _Pair]  # buckets of exported sources only
    is_tested: NDArray[np.bool_]
    p: F8
    corrected: F8


def _weigh(chooser: _Chooser, of_global: Mapping[int, int], chosen: int, min_events: int, alpha: float) -> _Evidence:
    """Compare every node with what it would get otherwise; of_global: the global setting of each fold."""
    own = [{k: chooser.in_fold(i, k, s, min_events) for k, s in of_global.items()} for i in range(len(NODES))]
    final = [chooser.in_all(i, chosen, min_events) for i in range(len(NODES))]
    pairs = [chooser.compare(i, own[i], of_global) for i in range(len(NODES))]
    is_tested = np.array([s is not None and q.least >= min_events for s, q in zip(final, pairs, strict=True)])
    p = np.where(is_tested, [pair.p(min_events) for pair in pairs], math.nan)

    early = p.copy()
    early[N_SOURCES:][is_tested[N_SOURCES:]] = 1.0
    of_sources = measures.holm(early)[:N_SOURCES]
    earns = [bool(of_sources[i] < alpha and final[i] != chosen) for i in range(N_SOURCES)]

    against_source: dict[int, _Pair] = {}
    for i in range(N_SOURCES, len(NODES)):
        parent = NODES[i].parent
        if parent is None or not earns[parent]:
            continue
        source = {k: s if (s := own[parent][k]) is not None else other for k, other in of_global.items()}
        against_source[i] = chooser.compare(i, own[i], source)
        if is_tested[i]:
            beats = against_source[i].p(min_events)
            p[i] = beats if final[i] == chosen else max(p[i], beats)
    corrected = np.concatenate((of_sources, measures.holm(p)[N_SOURCES:]))
    return _Evidence(final, pairs, against_source, is_tested, p, corrected)


def _reason(test: OverrideTest, settings: Settings, too_thin: str, to_global: _Pair, chosen: int) -> str:
    """Say in words where a node's parameters come from, and why."""
    is_source = NODES[test.node].parent is None
    if test.baseline == GLOBAL or test.baseline_setting is None:
        lender = "the global setting"
    else:
        lender = f"{test.baseline} (own setting {_shown(settings[test.baseline_setting])})"
    if too_thin:
        return f"{'no decision: stays with' if is_source else 'borrows from'} {lender}: {too_thin}"
    shown = (
        f"({_share(test.accuracy_own)} of {test.n_own} events against {_share(test.accuracy_baseline)} of "
        f"{test.n_baseline}, corrected p {_chance(test.p_corrected)})"
    )
    if test.exported and test.setting is not None:
        mine = _shown(settings[test.setting])
        if test.setting == chosen:
            return f"keeps the global setting ({mine}), which beats {lender} out of sample {shown}"
        both = ""
        if test.baseline != GLOBAL and to_global.base_n:
            both = f", and the global setting ({to_global.base_hits / to_global.base_n:.3f} of {int(to_global.base_n)})"
        return f"own setting {mine} beats {lender} out of sample {shown}{both}"
    if test.setting == test.baseline_setting:
        return f"stays with {lender}: its own choice is the same {shown}"
    return f"stays with {lender}: its own choice does not beat it out of sample beyond chance {shown}"


def _shown(setting: Setting) -> str:
    return f"{setting.number}: " + ", ".join(f"{k} {v:g}" for k, v in _thresholds(setting).items())


def _share(accuracy: float | None) -> str:
    return "none" if accuracy is None else f"{accuracy:.3f}"


def _chance(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _thresholds(setting: Setting) -> dict[str, float]:
    return {k: v for k, v in setting.values.items() if k in DECISION_NAMES}


def _by_node(by_bucket: I8) -> I8:
    """Return (..., 15, H) counts by node from (..., 12, H) counts by bucket."""
    *head, _, n_horizons = by_bucket.shape
    sources = by_bucket.reshape(*head, N_BUCKETS // N_SOURCES, N_SOURCES, n_horizons).sum(axis=-3)
    return np.concatenate((sources, by_bucket), axis=-2)


def _two_proportions(k1: float, n1: float, k2: float, n2: float) -> float:
    pooled = (k1 + k2) / (n1 + n2)
    variance = pooled * (1 - pooled) * (1 / n1 + 1 / n2)
    if variance == 0:
        return 1.0
    return float(norm.sf((k1 / n1 - k2 / n2) / math.sqrt(variance)))
