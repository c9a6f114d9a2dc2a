"""An observation: looks at a candidate, one after the other, and what they add up to: go on, hold, or roll back.

It decides and does nothing. Its state is plain data, so that a deployer that was killed takes it up where it ended.

A level counts when it was broken at every look for its whole duration. A look without data neither breaks nor mends
it, unless there were more than a few in a row: then its duration begins anew. No data is never a pass: it holds.
Accuracy cannot be judged in an hour, so the business rows hold nothing up; with enough to go by they still roll back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

from v13.errors import ReleaseError, V13Error
from v13.release.compare import BLOCK_S, GAP_S, WARM_UP_S, Compared, Comparison, read_samples
from v13.release.slo_readings import Point, SloReading, read_points
from v13.telemetry.prometheus import Prometheus
from v13.telemetry.signals import RUNNER_JOB
from v13.telemetry.slo import Row, SloTable

__all__ = ["ABNORMAL_S", "OPERATIONAL", "STAND_INS", "Look", "Observer", "SloReading"]

OPERATIONAL: Final = (
    *("event_latency", "pipeline_latency", "compute_latency"),
    *("closure", "error_rate", "availability"),
)
# A row with too few to go by, vouched for by an alert that has enough: a pipeline latency is seen once an event, of
# which there may be ten an hour; of its parts, event latency is a row and the commit is timed at every bar.
STAND_INS: Final[Mapping[str, str]] = {"pipeline_latency": "commit_slow"}
ABNORMAL_S: Final = 900.0  # the guide: any critical metric abnormal for 15 min
BLIND_S: Final = 300.0  # without data for so long is an alarm of its own; ours
LOOK_S: Final = 15.0
GAP_LOOKS: Final = 3  # looks without data, in a row, that do not begin a duration anew
LAST_LOOKS: Final = 3  # that must be good in a row at the end

Decision = Literal["go_on", "hold", "rollback"]

_DAYS: Final = "too few: judged over days"
_TOLD: Final = 3  # reasons in `why`


@dataclass(frozen=True)
class Look:
    """What was seen and decided at one time.

    Attributes
    ----------
    at_s : float, Unix seconds
    readings : tuple of SloReading
        All rows of the table; empty where Prometheus could not be asked.
    comparison : tuple of Compared
        Empty without a stable release beside it.
    decision : str
        go_on, hold or rollback.
    why : str
    alarm : bool
        There was no data for so long that people must look.
    """

    at_s: float
    readings: tuple[SloReading, ...]
    comparison: tuple[Compared, ...]
    decision: Decision
    why: str
    alarm: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for a ledger or a record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Look:
        """Return the look `to_dict` was called on."""
        readings = tuple(SloReading(**one) for one in data["readings"])
        compared = tuple(Compared(**one) for one in data["comparison"])
        return cls(**{**data, "readings": readings, "comparison": compared})


@dataclass
class _Stretch:
    """For how long something has been so without interruption."""

    since_s: float | None = None
    last_s: float = -math.inf

    def see(self, is_so: bool | None, now_s: float, gap_s: float) -> float | None:
        """Take a look, None for one without data; return for how long it has been so, None where it is not."""
        if is_so is None:
            return None
        if not is_so:
            self.since_s = None
            return None
        if self.since_s is None or not 0.0 <= now_s - self.last_s <= gap_s:
            self.since_s = now_s
        self.last_s = now_s
        return now_s - self.since_s


@dataclass
class _State:
    """Everything that is carried from look to look; times are Unix seconds."""

    go_on_s: float = 0.0
    n_go_on: int = 0  # in a row, up to now
    last_s: float | None = None
    blind_since_s: float | None = None
    condemned: str = ""  # why it is to be rolled back; stays
    is_paused: bool = False
    levels: dict[str, list[Any]] = field(default_factory=dict)  # row: level, since
    stretches: dict[str, _Stretch] = field(default_factory=dict)


class Observer:
    """One observation of a candidate.

    Parameters
    ----------
    table : SloTable
    candidate, stable : str, and str or None
        Instances, host:port. None: there is nothing to compare with.
    scale : float, in (0, 1]
        All durations are multiplied by it, for rehearsals; the windows of the recording rules are as they are.
    required : tuple of str
        Rows that must be good.
    closure : str or None
        host:port of the candidate's closure watcher, see `read_points`.
    since_s : float or None, Unix seconds
        When the candidate began, see `read_points`.
    look_s : float, s, > 0
        How often it looks; only to know what a gap is.
    stand_ins : mapping of row to alert
        See STAND_INS.

    Raises
    ------
    ReleaseError
        A row or an alert is not in the table, or a number is out of range.
    """

    def __init__(
        self,
        table: SloTable,
        *,
        candidate: str,
        stable: str | None,
        scale: float = 1.0,
        required: tuple[str, ...] = OPERATIONAL,
        closure: str | None = None,
        since_s: float | None = None,
        look_s: float = LOOK_S,
        stand_ins: Mapping[str, str] = STAND_INS,
    ) -> None:
        known = {row.key for row in table.rows}
        unknown = [key for key in (*required, *stand_ins) if key not in known]
        if unknown or not required:
            raise ReleaseError(f"observation: expected rows of the SLO table, found {unknown or 'none'}")
        if not (0.0 < scale <= 1.0 and look_s > 0.0):
            raise ReleaseError(f"observation: expected a scale in (0, 1] and look_s > 0, found {scale} and {look_s}")
        self._table = table
        self._settings: dict[str, Any] = {
            **{"candidate": candidate, "stable": stable, "scale": scale, "required": list(required)},
            **{"closure": closure, "since_s": since_s, "look_s": look_s, "stand_ins": dict(stand_ins)},
        }
        self.candidate, self.stable, self.required, self.scale = candidate, stable, tuple(required), scale
        self._closure, self._since_s, self._look_s, self._stand_ins = closure, since_s, look_s, dict(stand_ins)
        # N looks without data lie between two that are N + 1 apart; the half is for looks that come late.
        self._gap_s = (GAP_LOOKS + 1.5) * look_s
        block_s, gap_s = (max(s * scale, 2.0 * look_s) for s in (BLOCK_S, GAP_S))
        self._comparison = (
            None
            if stable is None
            else Comparison(candidate, stable, block_s=block_s, gap_s=gap_s, warm_up_s=WARM_UP_S * scale)
        )
        self._state = _State()

    @property
    def go_on_s(self) -> float:
        """Return how much time has been good: between looks that both were, no further apart than a gap."""
        return self._state.go_on_s

    @property
    def is_paused(self) -> bool:
        """Tell whether time does not count now."""
        return self._state.is_paused

    def pause(self) -> None:
        """Let no time count until `resume`; looks go on, and may still find that it is to be rolled back."""
        self._state.is_paused, self._state.n_go_on = True, 0

    def resume(self) -> None:
        """Let time count again, from the next look on."""
        self._state.is_paused = False

    def passed(self, observe_s: float) -> bool:
        """Tell whether so many seconds were good, and the last looks are."""
        state = self._state
        is_over = state.go_on_s >= observe_s and state.n_go_on >= LAST_LOOKS
        return is_over and not state.is_paused and not state.condemned

    def look(self, prometheus: Prometheus, now_s: float) -> Look:
        """Look once.

        Parameters
        ----------
        prometheus : Prometheus
            Its timeout is how long a slow one is waited for.
        now_s : float, Unix seconds

        Returns
        -------
        Look
            Nothing is raised for a Prometheus that is away, slow or refuses: that holds, with its words as the reason.
        """
        try:
            points = read_points(
                self._table,
                prometheus,
                instance=self.candidate,
                closure=self._closure,
                now_s=now_s,
                since_s=self._since_s,
            )
            up = prometheus.instant(f'up{{job="{RUNNER_JOB}",instance="{self.candidate}"}}', now_s)
            instances = [name for name in (self.candidate, self.stable) if name]
            samples = read_samples(prometheus, instances, now_s) if self._comparison else {}
        except V13Error as error:
            why = f"Prometheus could not be asked: {error}"
            return self._end(now_s, (), self._compared({}, now_s), why, is_blind=True)
        readings = tuple(self._reading(row, points[row.key], now_s) for row in self._table.rows)
        compared = self._compared(samples, now_s)
        self._condemn(readings, compared, now_s)
        holds, is_blind = self._holds(readings, points)
        if not any(float(series.values[-1]) == 1.0 for series in up):
            holds.insert(0, f"{self.candidate} is not scraped")
            is_blind = True
        more = f"; and {len(holds) - _TOLD} more" if len(holds) > _TOLD else ""
        return self._end(now_s, readings, compared, "; ".join(holds[:_TOLD]) + more, is_blind=is_blind)

    def to_dict(self) -> dict[str, Any]:
        """Return settings and state as plain values: JSON and back gives the same."""
        return {
            "settings": self._settings,
            "state": asdict(self._state) | {"stretches": {k: _plain(s) for k, s in self._state.stretches.items()}},
            "comparison": None if self._comparison is None else self._comparison.to_dict(),
        }

    @classmethod
    def from_dict(cls, table: SloTable, data: Mapping[str, Any]) -> Observer:
        """Return the observer `to_dict` was called on.

        Raises
        ------
        ReleaseError
            The data are damaged, or of another table.
        """
        try:
            settings = dict(data["settings"])
            made = cls(table, **settings | {"required": tuple(settings["required"])})
            state = {one.name: data["state"][one.name] for one in fields(_State)}
            stretches = {
                key: _Stretch(one["since_s"], -math.inf if one["last_s"] is None else float(one["last_s"]))
                for key, one in state.pop("stretches").items()
            }
            levels = {key: list(value) for key, value in state.pop("levels").items()}
            made._state = _State(**state, levels=levels, stretches=stretches)
            if data["comparison"] is not None:
                made._comparison = Comparison.from_dict(data["comparison"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReleaseError(f"observation: the stored state is damaged ({error!r}); begin it anew") from error
        return made

    def _reading(self, row: Row, point: Point, now_s: float) -> SloReading:
        known = self._state.levels.get(row.key)
        if known is None or known[0] != point.level:
            known = self._state.levels[row.key] = [point.level, now_s]
        note = _DAYS if point.level == "too_few" and row.key not in self.required else ""
        return SloReading(row.key, row.title, row.unit, point.value, point.count, point.level, known[1], note)

    def _condemn(self, readings: Sequence[SloReading], compared: Sequence[Compared], now_s: float) -> None:
        """See whether something has lasted long enough; what has once is never taken back."""
        found = []
        for reading in readings:
            row = self._table.row(reading.row)
            held_s = self._stretch(f"{row.key}:rollback", _at_least(reading, "rollback"), now_s)
            if row.rollback is not None and held_s is not None and held_s >= row.rollback.for_s * self.scale:
                found.append(f"{row.title} beyond its rollback level for {held_s:.0f} s ({_shown(reading)})")
        required = [reading for reading in readings if reading.row in self.required]
        broken = [reading for reading in required if _at_least(reading, "alert")]
        is_known = any(_at_least(reading, "alert") is not None for reading in required)
        held_s = self._stretch("abnormal", bool(broken) if broken or is_known else None, now_s)
        if held_s is not None and held_s >= ABNORMAL_S * self.scale:
            names = ", ".join(f"{reading.title} ({_shown(reading)})" for reading in broken)
            found.append(f"abnormal for {held_s:.0f} s without a break, now {names}")
        for one in compared:
            if one.is_beyond:
                values = f"{one.candidate:.4g} against {one.stable:.4g} {one.unit}" if one.candidate is not None else ""
                found.append(
                    f"{one.title} worse than the stable release's in {one.n_worse} of "
                    f"{one.n_worse + one.n_better + one.n_alike} blocks ({values}; e-value {one.peak:.3g} >= "
                    f"{one.limit:.3g})"
                )
        if found and not self._state.condemned:
            self._state.condemned = "; ".join(found)

    def _holds(self, readings: Sequence[SloReading], points: Mapping[str, Point]) -> tuple[list[str], bool]:
        """Return why it may not go on, and whether data are missing."""
        holds, is_blind = [], False
        for reading in readings:
            if reading.row not in self.required or reading.level in ("ok", "above_target"):
                continue
            if reading.level == "no_data":
                is_blind = True
                holds.append(f"{reading.title}: no data")
            elif reading.level == "too_few":
                stand_in = points.get(self._stand_ins.get(reading.row, ""))
                if stand_in is None or stand_in.level != "ok":
                    holds.append(f"{reading.title}: too few to go by ({reading.count or 0:.0f})")
            else:
                holds.append(f"{reading.title} beyond its {reading.level} level ({_shown(reading)})")
        return holds, is_blind

    def _end(
        self,
        now_s: float,
        readings: tuple[SloReading, ...],
        compared: tuple[Compared, ...],
        why: str,
        *,
        is_blind: bool,
    ) -> Look:
        """Decide, and count time that was good."""
        state = self._state
        state.blind_since_s = (now_s if state.blind_since_s is None else state.blind_since_s) if is_blind else None
        alarm = state.blind_since_s is not None and now_s - state.blind_since_s >= BLIND_S * self.scale
        decision: Decision = "rollback" if state.condemned else "hold" if why else "go_on"
        is_good = decision == "go_on" and not state.is_paused
        if is_good and state.n_go_on and state.last_s is not None and 0.0 <= now_s - state.last_s <= self._gap_s:
            state.go_on_s += now_s - state.last_s
        state.n_go_on = state.n_go_on + 1 if is_good else 0
        state.last_s = now_s
        return Look(now_s, readings, compared, decision, state.condemned or why or "all required rows are good", alarm)

    def _stretch(self, key: str, is_so: bool | None, now_s: float) -> float | None:
        return self._state.stretches.setdefault(key, _Stretch()).see(is_so, now_s, self._gap_s)

    def _compared(self, samples: Mapping[str, Mapping[str, float]], now_s: float) -> tuple[Compared, ...]:
        return () if self._comparison is None else self._comparison.see(samples, now_s)


def _at_least(reading: SloReading, level: Literal["alert", "rollback"]) -> bool | None:
    """Tell whether a reading is at a level or beyond; None where there is nothing to tell by."""
    if reading.level in ("no_data", "too_few"):
        return None
    return reading.level == "rollback" or reading.level == level


def _shown(reading: SloReading) -> str:
    return "no value" if reading.value is None else f"{reading.value:.4g} {reading.unit}"


def _plain(stretch: _Stretch) -> dict[str, float | None]:
    return {"since_s": stretch.since_s, "last_s": None if math.isinf(stretch.last_s) else stretch.last_s}
