"""Events of a candidate and of the stable release over the same bars: the same, or another for a reason that is known.

It reads both event logs, the last bars of one symbol, and writes nothing. Each release's events must be what the
detector finds with that release's parameters on that release's bars, computed again here; the bars of both must be
equal, but for the few in which a trade came too late for one of them. Then whatever differs between the two comes of
the parameters, or of such a bar. Anything else is unexplained.

Probabilities are not looked at: a candidate may bring another calibration. A log keeps some 2,000 bars of a symbol, and
the first of them only warm up the detector that checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from v13.detector import Detector, DetectorParams, SessionClock
from v13.detector.dtypes import BAR, OFI_CVD_CONFLICT
from v13.errors import ReleaseError, V13Error
from v13.store.event_file import open_reader, refusals
from v13.store.event_schema import EVENT_FIELDS, STORED_BAR, event_id

__all__ = ["LAST_BARS", "SignalParity", "signal_parity", "warm_bars"]

LAST_BARS: Final = 1_200  # of a symbol; bounds the work: 20 min of 1 s bars, about what a log has beyond the warm-up
MOST_TOLD: Final = 20  # unexplained things that are told one by one
# What lies further back than `warm_bars` weighs less than 1e-9 in a feature, so two detectors that began at different
# bars agree so far and no further; a score is made of a few such features. Words and whole numbers are equal.
RTOL: Final = 1e-6
ATOL: Final = 1e-8
# Share of bars that may differ: a message later than the grace of a bar, or lost while a runner was away, is nobody's
# defect. A release that makes bars otherwise differs in more of them.
MOST_APART: Final = 0.01
SWINGS: Final = 20  # pairs reach back over some swings
_OWN: Final = "bar"  # running number since a detector's start: differs between detectors, says nothing

Records = NDArray[np.void]
_Fields = tuple[Any, ...]
_Events = dict[str, tuple[_Fields, str]]  # id: fields of EVENT (None for NaN), rule


@dataclass(frozen=True)
class SignalParity:
    """What was found for one symbol.

    Attributes
    ----------
    symbol : str
    from_ms, until_ms : int, UTC epoch ms
        Bars that closed after the one and up to the other were compared.
    n_bars : int
    same_parameters : bool
    n_apart : int
        Bars that differ or that one lacks. Up to MOST_APART of all they explain what differs while a detector
        remembers them; more are unexplained themselves.
    n_equal : int
        Events both have, with the same fields.
    changed, only_stable, only_candidate : tuple of str
        Ids of events both have with other fields, and of those that one has.
    unexplained : tuple of str
        What the parameters do not explain, in words; the first MOST_TOLD.
    n_unexplained : int
    """

    symbol: str
    from_ms: int
    until_ms: int
    n_bars: int
    same_parameters: bool
    n_apart: int = 0
    n_equal: int = 0
    changed: tuple[str, ...] = ()
    only_stable: tuple[str, ...] = ()
    only_candidate: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()
    n_unexplained: int = 0

    @property
    def verdict(self) -> Literal["equal", "explained", "unexplained", "too_few"]:
        """Return the verdict; too_few: there is no bar yet that both have seen warm."""
        if self.n_unexplained:
            return "unexplained"
        if self.n_bars == 0:
            return "too_few"
        return "explained" if self.n_apart or self.changed or self.only_stable or self.only_candidate else "equal"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class _Side:
    """One log's part."""

    name: str
    path: Path
    params: DetectorParams
    since_ms: int  # what holds now holds for bars after this
    bars: Records
    logged: _Events


def warm_bars(params: DetectorParams) -> int:
    """Return how many bars a fresh detector must see before its events are those of one that saw all.

    The same reckoning as the live session's, which this room may not import.
    """
    buckets = params.bucket_params()
    swing = max(p.swing_L for p in buckets)
    cooldown = -(-max(p.cooldown_ms for p in buckets) // params.features.bar_ms)
    return params.features.memory_bars + SWINGS * (2 * swing + 1) + cooldown


def signal_parity(
    stable: Path,
    candidate: Path,
    symbol: str,
    *,
    sessions: SessionClock,
    stable_params: DetectorParams | None = None,
    candidate_params: DetectorParams | None = None,
    since_ms: int = 0,
    last_bars: int = LAST_BARS,
) -> SignalParity:
    """Compare what two releases said of one symbol.

    Parameters
    ----------
    stable, candidate : Path
        Their event logs; they may be written meanwhile.
    symbol : str
    sessions : SessionClock
        That of the settings both run with.
    stable_params, candidate_params : DetectorParams, optional
        Of the releases. A log that says it was made under others is unexplained. None: those the log names.
    since_ms : int, UTC epoch ms
        Only bars that closed later: the candidate's log holds no events of the bars it was seeded with.
    last_bars : int, >= 1
        At most so many bars are compared.

    Raises
    ------
    StoreError
        A log cannot be read.
    ReleaseError
        `last_bars` is below 1, or a log holds no parameters.

    Notes
    -----
    Where candidates follow each other closer than the cooldown without an end, which of them opened it may rest on bars
    that are forgotten; such a stretch reads as unexplained.
    """
    if last_bars < 1:
        raise ReleaseError(f"signal parity: expected one bar or more, found last_bars = {last_bars}")
    sides = [
        _read("stable", stable, symbol, stable_params, last_bars),
        _read("candidate", candidate, symbol, candidate_params, last_bars),
    ]
    is_same = sides[0].params.fingerprint() == sides[1].params.fingerprint()
    found: list[str] = []
    for side, given in zip(sides, (stable_params, candidate_params), strict=True):
        if given is not None and given.fingerprint() != side.params.fingerprint():
            found.append(f"{side.name}: its log was written under other parameters than the release's")
    if any(side.bars.size <= warm_bars(side.params) for side in sides):
        return SignalParity(symbol, 0, 0, 0, is_same, unexplained=tuple(found), n_unexplained=len(found))
    warm_ms = [int(side.bars["ts_ms"][warm_bars(side.params) - 1]) for side in sides]
    from_ms = max(since_ms, *warm_ms, *(side.since_ms for side in sides))
    until_ms = min(int(side.bars["ts_ms"][-1]) for side in sides)
    common = _between(sides[0].bars, from_ms, until_ms)
    if common.size > last_bars:
        from_ms = int(common["ts_ms"][-last_bars - 1])
        common = common[-last_bars:]
    remember_ms = max(warm_bars(side.params) * side.params.features.bar_ms for side in sides)
    remembered = _bars_apart(*(_between(side.bars, from_ms - remember_ms, until_ms) for side in sides))
    apart = {ts_ms: text for ts_ms, text in remembered.items() if ts_ms > from_ms}
    if len(apart) > MOST_APART * common.size:
        found += apart.values()
    events = []
    for side in sides:
        own = {name: e for name, e in side.logged.items() if from_ms < e[0][0] <= until_ms}
        found += _not_as_computed(side, own, _computed(side, symbol, sessions, from_ms, until_ms))
        events.append(own)
    old, new = events
    both = old.keys() & new.keys()
    changed = tuple(sorted(name for name in both if not _alike(old[name], new[name])))
    only_old, only_new = tuple(sorted(old.keys() - both)), tuple(sorted(new.keys() - both))
    if is_same:  # only a bar that they remember differently could explain it
        for names, words in (
            (changed, "the fields are not"),
            (only_old, "and only stable has it"),
            (only_new, "and only candidate has it"),
        ):
            for name in names:
                ts_ms = (old.get(name) or new[name])[0][0]
                if not any(ts_ms - remember_ms < at <= ts_ms for at in remembered):
                    found.append(f"{name}: the parameters are the same, {words}")
    return SignalParity(
        *(symbol, from_ms, max(until_ms, from_ms), int(common.size), is_same, len(apart)),
        *(len(both) - len(changed), changed, only_old, only_new),
        *(tuple(found[:MOST_TOLD]), len(found)),
    )


def _read(name: str, path: Path, symbol: str, params: DetectorParams | None, last_bars: int) -> _Side:
    """Read one moment of a log: parameters in force, last bars, and the events they may have led to."""
    db = open_reader(path)
    try:
        with refusals(path):
            db.execute("BEGIN")  # one snapshot for all that follows
            row = db.execute("SELECT since_ms, document FROM config ORDER BY version DESC LIMIT 1").fetchone()
            if row is None:
                raise ReleaseError(f"{path}: expected the parameters it was made under, found none; is it a seed only?")
            try:
                own = DetectorParams.from_dict(json.loads(row[1])["params"])
            except (ValueError, KeyError, TypeError, V13Error) as error:
                raise ReleaseError(f"{path}: its parameters cannot be read: {error}") from error
            # The release's own may need a longer warm-up than what the log, wrongly, was made under.
            most = last_bars + max(warm_bars(p) for p in (own, params) if p is not None)
            blobs = db.execute(
                "SELECT bar FROM bar WHERE symbol = ? ORDER BY ts_ms DESC LIMIT ?", (symbol, most)
            ).fetchall()
            bars = np.frombuffer(b"".join(blob for (blob,) in reversed(blobs)), STORED_BAR).astype(BAR)
            first_ms = int(bars["ts_ms"][0]) if bars.size else 0
            fields = ", ".join(EVENT_FIELDS)
            events: _Events = {
                event: (tuple(values), rule)
                for event, rule, *values in db.execute(
                    f"SELECT event_id, rule, {fields} FROM event WHERE symbol = ? AND ts_ms >= ?", (symbol, first_ms)
                )
            }
            db.execute("COMMIT")
    finally:
        db.close()
    return _Side(name, path, own, int(row[0]), bars, events)


def _between(bars: Records, from_ms: int, until_ms: int) -> Records:
    ts = bars["ts_ms"]
    return bars[(ts > from_ms) & (ts <= until_ms)]


def _bars_apart(old: Records, new: Records) -> dict[int, str]:
    """Return how the bars differ, by close time: those only one has, and those that differ in a field."""
    found: dict[int, str] = {}
    for name, own, other in (("stable", old, new), ("candidate", new, old)):
        alone = np.setdiff1d(own["ts_ms"], other["ts_ms"])
        found |= {ts: f"bar {ts}: only {name} has it" for ts in alone.tolist()}
    both, i, j = np.intersect1d(old["ts_ms"], new["ts_ms"], return_indices=True)
    for at, a, b in zip(both.tolist(), old[i], new[j], strict=True):
        if a.tobytes() != b.tobytes():
            apart = [f"{n} {a[n]} and {b[n]}" for n in BAR.names or () if a[n].tobytes() != b[n].tobytes()]
            found[at] = f"bar {at}: differs: {', '.join(apart)}"
    return found


def _computed(side: _Side, symbol: str, sessions: SessionClock, from_ms: int, until_ms: int) -> _Events:
    rules = side.params.rules()
    found = {}
    for event in Detector(side.params, sessions).run(side.bars):
        if from_ms < int(event["ts_ms"]) <= until_ms:
            bucket = int((event["session"] * 2 + event["liquidity"]) * 3 + event["source"])
            rule = "global" if event["type"] == OFI_CVD_CONFLICT else rules[bucket]
            fields = tuple(None if value != value else value for value in event.item())
            found[event_id(symbol, event)] = fields, rule
    return found


def _not_as_computed(side: _Side, logged: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    found = [f"{name}: {side.name} has it, its parameters do not give it" for name in _left(logged, computed)]
    found += [f"{name}: {side.name} lacks it, its parameters give it" for name in _left(computed, logged)]
    for name in sorted(logged.keys() & computed.keys()):
        if not _alike(logged[name], computed[name]):
            found.append(f"{name}: {side.name}'s parameters give {_apart(logged[name], computed[name])}")
    return found


def _left(own: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    return sorted(own.keys() - other.keys())


def _alike(one: tuple[_Fields, str], other: tuple[_Fields, str]) -> bool:
    return one[1] == other[1] and all(
        _same(a, b) for n, a, b in zip(EVENT_FIELDS, one[0], other[0], strict=True) if n != _OWN
    )


def _apart(logged: tuple[_Fields, str], computed: tuple[_Fields, str]) -> str:
    pairs = zip(EVENT_FIELDS, logged[0], computed[0], strict=True)
    told = [f"{name} {b}, not {a}" for name, a, b in pairs if name != _OWN and not _same(a, b)]
    return ", ".join(told + ([f"rule {computed[1]}, not {logged[1]}"] if logged[1] != computed[1] else []))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= ATOL + RTOL * abs(b)
    return bool(a == b)
