"""What the noise test found: outcomes of markets, shares signed off, power, and whether it all makes a certificate.

It must not run anything; `v13.research.noise` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from scipy.stats import beta

from v13 import measures
from v13.research.null_markets import KINDS, Shape

__all__ = ["NoiseReport", "Outcome", "PowerCell", "Share", "exact_interval", "share_of"]

MAX_SHARE: Final = 0.01
MAX_UPPER: Final = 0.02
MAX_SHARE_OF_KIND: Final = 0.05
FULL_MARKETS: Final = 1_000  # null markets of a full certificate
# What a planted edge must be signed off at, by (true accuracy, holdout events).
POWER_NEEDED: Final = {(0.60, 2_000): 0.90, (0.57, 5_000): 0.80}


@dataclass(frozen=True)
class Outcome:
    """What the pipeline said of one market.

    not_passed : keys of the judged criteria that did not pass.
    absent : of those, the ones that a channel the market does not have makes impossible.
    n_events : on the holdout, judged at every horizon.
    accuracy : of the holdout's events, mean over horizons; None without any.
    truth : the same, expected: the planted chance where an event is a plant, one half elsewhere. None on null markets.
    """

    kind: str
    number: int
    verdict: str
    not_passed: tuple[str, ...]
    absent: tuple[str, ...]
    n_events: int
    accuracy: float | None
    truth: float | None

    @property
    def signed_off(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict == measures.Status.PASS.value

    @property
    def passed_else(self) -> bool:
        """Whether everything passed but what an absent channel makes impossible."""
        return set(self.not_passed) == set(self.absent)


@dataclass(frozen=True)
class Share:
    """Markets signed off, with the exact 95 % interval (Clopper and Pearson 1934).

    n_passed_else counts markets that passed all that their channels allow; mean_events: judged holdout events of a
    market; lost_to: how often each criterion did not pass.
    """

    kind: str
    n_markets: int
    n_passed: int
    n_passed_else: int
    low: float
    high: float
    mean_events: float
    lost_to: dict[str, int]

    @property
    def share(self) -> float:
        """Share signed off; 0 where no market was judged, as none was."""
        return self.n_passed / max(self.n_markets, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; a share of no market is null."""
        return asdict(self) | {"share": self.share if self.n_markets else None}


@dataclass(frozen=True)
class PowerCell:
    """Planted markets of one true accuracy and about so many holdout events; `shape` is that of each market."""

    accuracy: float
    n_events: int
    shape: Shape
    planted_chance: float
    mean_events: float
    mean_truth: float
    share: Share

    @property
    def n_found(self) -> int:
        """Markets signed off. Without a channel none can be: those that passed all that their channels allow."""
        return self.share.n_passed if self.shape.has_all_channels else self.share.n_passed_else

    @property
    def power(self) -> float:
        """Share of the markets whose edge was found."""
        return self.n_found / self.share.n_markets

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        low, high = exact_interval(self.n_found, self.share.n_markets)
        found = {"n_found": self.n_found, "power": self.power, "low": low, "high": high}
        return asdict(self) | found | {"share": self.share.to_dict()}


@dataclass(frozen=True)
class NoiseReport:
    """Shares by kind and of all null markets together, and the power on planted ones."""

    seed: int
    shape: Shape
    kinds: tuple[Share, ...]
    all_null: Share | None
    power: tuple[PowerCell, ...]
    outcomes: tuple[Outcome, ...]

    def with_power(self, power: tuple[PowerCell, ...]) -> NoiseReport:
        """Return the report with what planted markets showed."""
        return replace(self, power=power)

    def shortfalls(self, *, full: bool = True) -> list[str]:
        """Return what was measured and speaks against the pipeline; empty where nothing does.

        Full: of all null markets at most 1 % are signed off with an upper bound under 2 %, and of no kind more than
        5 %; planted ones often enough where that is prescribed. Otherwise (too few markets for such bounds): no null
        market is signed off.
        """
        null = self.all_null
        found = []
        if null is not None and not full:
            found = [f"{null.n_passed} of {null.n_markets} null markets signed off"] if null.n_passed else []
        elif null is not None:
            if null.share > MAX_SHARE:
                found.append(f"{null.share:.2%} of null markets signed off, more than {MAX_SHARE:.0%}")
            if null.high >= MAX_UPPER and null.n_markets >= FULL_MARKETS:
                found.append(f"the upper bound {null.high:.2%} is not under {MAX_UPPER:.0%}: judge more markets")
            found += [
                f"{s.kind}: {s.share:.2%} signed off, more than {MAX_SHARE_OF_KIND:.0%}"
                for s in self.kinds
                if s.share > MAX_SHARE_OF_KIND
            ]
        for cell in self.power:
            least = POWER_NEEDED.get((cell.accuracy, cell.n_events))
            if least is not None and cell.power < least:
                found.append(
                    f"power at a true {cell.accuracy:.2f} with {cell.n_events:,} events is {cell.power:.0%}, "
                    f"under {least:.0%}"
                )
        return found

    def lacking(self, *, full: bool = True) -> list[str]:
        """Return what a certificate needs and this run did not measure; empty where it is all there.

        Each kind of null market, with enough holdout events that something could be signed off: a kind with hardly an
        event proves nothing, however many events the others have. Full: also 1,000 null markets in all, and the power
        cells that are prescribed.
        """
        judged = {share.kind for share in self.kinds}
        absent = [kind for kind in KINDS if kind not in judged]
        found = [f"not judged: {', '.join(absent)}"] if absent else []
        needed = measures.events_needed_for_gate(0.60) or 0
        thin = [f"{s.kind} {s.mean_events:.0f}" for s in self.kinds if s.mean_events < needed]
        if thin:
            found.append(
                f"holdout events a market, of which under {needed} nothing could be signed off: {', '.join(thin)}"
            )
        if not full:
            return found
        n_markets = 0 if self.all_null is None else self.all_null.n_markets
        if n_markets < FULL_MARKETS:
            found.append(f"{n_markets} null markets are fewer than {FULL_MARKETS}: judge more markets")
        measured = {(cell.accuracy, cell.n_events) for cell in self.power}
        found += [
            f"power at a true {accuracy:.2f} with {n_events:,} events: not measured"
            for accuracy, n_events in POWER_NEEDED
            if (accuracy, n_events) not in measured
        ]
        return found

    def status(self, *, full: bool = True) -> measures.Status:
        """Return FAIL where something speaks against the pipeline, else INSUFFICIENT where something is lacking."""
        if self.shortfalls(full=full):
            return measures.Status.FAIL
        return measures.Status.INSUFFICIENT if self.lacking(full=full) else measures.Status.PASS

    def to_dict(self, *, full: bool = True) -> dict[str, Any]:
        """Return plain JSON values, judged as a full certificate or as a short one."""
        return {
            "version": 3,
            "seed": self.seed,
            "shape": self.shape.to_dict(),
            "status": self.status(full=full).value,
            "shortfalls": self.shortfalls(full=full),
            "lacking": self.lacking(full=full),
            "kinds": [s.to_dict() for s in self.kinds],
            "all_null": None if self.all_null is None else self.all_null.to_dict(),
            "power": [c.to_dict() for c in self.power],
        }


def exact_interval(k: int, n: int) -> tuple[float, float]:
    """Return the exact two-sided 95 % interval of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return low, high


def share_of(kind: str, outcomes: Sequence[Outcome]) -> Share:
    """Return the share of some markets that were signed off; of none the interval says nothing: 0 to 1."""
    n, k = len(outcomes), sum(o.signed_off for o in outcomes)
    low, high = exact_interval(k, n)
    lost = Counter(key for o in outcomes for key in o.not_passed)
    events = float(np.mean([o.n_events for o in outcomes])) if outcomes else 0.0
    return Share(kind, n, k, sum(o.passed_else for o in outcomes), low, high, events, dict(sorted(lost.items())))
