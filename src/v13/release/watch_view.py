"""The live view of a deploy in a terminal: stage, time left, every SLO row, the comparison, the last ledger rows.

`render` is a pure function of what it is given; `watch` draws over and over. Neither asks Prometheus nor the ledger,
and nothing here decides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from v13.release.compare import Compared
from v13.release.observe import Look
from v13.release.slo_readings import SloReading
from v13.telemetry.slo import Level, SloTable

__all__ = ["WIDTH", "History", "WatchState", "render", "sparkline", "watch"]

WIDTH: Final = 100  # columns
SPARK: Final = 16  # looks shown of a row
LEDGER_ROWS: Final = 6
BLOCKS: Final = "▁▂▃▄▅▆▇█"
NOTHING: Final = "·"  # a look without a value

_COLOURS: Final = {  # SGR codes
    **{"ok": "32", "go_on": "32", "above_target": "33", "alert": "33", "hold": "33", "too_few": "2", "no_data": "2"},
    **{"rollback": "31;1", "worse": "31;1", "ALARM": "31;1"},
}
_WORDS: Final = {"above_target": "above target", "too_few": "too few", "no_data": "no data", "go_on": "go on"}
_CLEAR: Final = "\x1b[H\x1b[J"  # home, and whatever is below; no flicker, and what scrolled away stays
_SCALES: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


class History:
    """The last values of each row, for sparklines."""

    def __init__(self, n: int = SPARK) -> None:
        self._n = n
        self._last_s = -math.inf
        self._values: dict[str, deque[float | None]] = {}

    def add(self, look: Look) -> None:
        """Take a look once; one that was taken before changes nothing."""
        if look.at_s <= self._last_s:
            return
        self._last_s = look.at_s
        for reading in look.readings:
            self._values.setdefault(reading.row, deque(maxlen=self._n)).append(reading.value)

    def of(self, row: str) -> Sequence[float | None]:
        """Return the values of a row, oldest first; None where there was none."""
        return tuple(self._values.get(row, ()))


@dataclass(frozen=True)
class WatchState:
    """What is to be seen at one moment.

    Attributes
    ----------
    now_s : float, Unix seconds
    operation, stage : str
        Such as "deploy 20261120T101500Z" and "observe BTCUSDT".
    candidate, stable : str
        Releases; the empty string for none.
    go_on_s, observe_s : float, s
        Good time so far, and how much there has to be.
    look : Look or None
        The last one; None before the first.
    table : SloTable
        For the levels beside the values.
    history : History
    ledger : sequence of (UTC time, kind, text)
        Oldest first; the last LEDGER_ROWS are shown.
    is_paused : bool
    """

    now_s: float
    operation: str
    stage: str
    candidate: str
    stable: str
    go_on_s: float
    observe_s: float
    look: Look | None
    table: SloTable
    history: History = field(default_factory=History)
    ledger: Sequence[tuple[str, str, str]] = ()
    is_paused: bool = False


def render(state: WatchState, *, colour: bool = False, width: int = WIDTH) -> str:
    """Return the view: lines of at most `width` columns, each ended by a newline.

    Parameters
    ----------
    state : WatchState
    colour : bool
        With SGR codes, for a terminal; they take no column.
    width : int, >= 40
        What is longer is cut.
    """
    lines: list[list[tuple[str, str]]] = [*_head(state, width), []]
    if state.look is not None:
        lines += [*_slo(state, state.look.readings), []]
        if state.look.comparison:
            lines += [*_comparison(state.look.comparison), []]
    lines += _ledger(state.ledger)
    return "".join(_line(parts, width, colour=colour) + "\n" for parts in lines)


def sparkline(values: Iterable[float | None], n: int = SPARK) -> str:
    """Return the last `n` values as blocks from their least to their greatest, `·` for none, padded on the left."""
    last = list(values)[-n:]
    known = [v for v in last if v is not None and math.isfinite(v)]
    low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)

    def block(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return NOTHING
        return BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span > 0.0 else 0]

    return "".join(map(block, last)).rjust(n)


def watch(
    read: Callable[[], WatchState | None],
    write: Callable[[str], object],
    wait: Callable[[], bool],
    *,
    is_tty: bool,
    width: int = WIDTH,
) -> None:
    """Draw until there is nothing more to see.

    Parameters
    ----------
    read : callable
        Returns the state; None: the operation is over.
    write : callable
        Takes text, such as the `write` of a stream that is flushed.
    wait : callable
        Waits until the next drawing; returns False to stop.
    is_tty : bool
        A terminal is drawn over, in colour; anything else gets one drawing after the other, in plain text.
    width : int

    Notes
    -----
    Errors of `read` are raised: what cannot be read is not to look like what stands still.
    """
    while True:
        state = read()
        if state is None:
            return
        if state.look is not None:
            state.history.add(state.look)
        write((_CLEAR if is_tty else "") + render(state, colour=is_tty, width=width) + ("" if is_tty else "\n"))
        if not wait():
            return


def _head(state: WatchState, width: int) -> list[list[tuple[str, str]]]:
    at = datetime.fromtimestamp(state.now_s, UTC)
    left_s = max(state.observe_s - state.go_on_s, 0.0)
    share = min(state.go_on_s / state.observe_s, 1.0) if state.observe_s > 0.0 else 1.0
    bar = "█" * math.floor(share * 20)
    paused = "  paused" if state.is_paused else ""
    lines = [
        [(f"{state.operation}  {state.stage}{paused}  {at:%Y-%m-%d %H:%M:%S} UTC", "")],
        [(f"candidate {state.candidate or '-'}  stable {state.stable or '-'}", "")],
        [(f"[{bar:·<20}] good {_time(state.go_on_s)} of {_time(state.observe_s)}, {_time(left_s)} left", "")],
    ]
    if state.look is None:
        return [*lines, [("no look yet", "no_data")]]
    look = state.look
    word = _WORDS.get(look.decision, look.decision)
    age = f"{max(state.now_s - look.at_s, 0.0):.0f} s ago: "
    alarm = [("ALARM: no data for long  ", "ALARM")] if look.alarm else []
    # Why it holds is what people look for: up to three lines of it.
    rest = f"{age}{look.why}"
    room = width - len(word) - 2 - sum(len(text) for text, _ in alarm)
    pieces = [rest[:room], *(rest[i : i + width - 2] for i in range(room, len(rest), width - 2))]
    return [
        *lines,
        [(word, look.decision), ("  ", ""), *alarm, (pieces[0], "")],
        *([(f"  {piece}", "")] for piece in pieces[1:3]),
    ]


def _slo(state: WatchState, readings: Sequence[SloReading]) -> list[list[tuple[str, str]]]:
    lines = [[(f"{'SLO':30} {'':{SPARK}} {'value':>9} {'alert':>9} {'rollback':>9}  {'verdict':12} since", "")]]
    levels = {row.key: row for row in state.table.rows}
    for one in readings:
        row = levels[one.row]
        value = "-" if one.value is None else _number(one.value, one.unit)
        alert = _bound(row.alert, one.unit, one.value)
        rollback = "-" if row.rollback is None else _bound(row.rollback, one.unit, one.value)
        since = "" if one.since_s is None else _time(max(state.now_s - one.since_s, 0.0))
        start = f"{_cut(one.title, 30):30} {sparkline(state.history.of(one.row))} {value:>9} {alert:>9} {rollback:>9}  "
        lines.append([(start, ""), (f"{_WORDS.get(one.level, one.level):12} ", one.level), (since, "")])
    return lines


def _comparison(compared: Sequence[Compared]) -> list[list[tuple[str, str]]]:
    head = (
        f"{'against stable':30} {'candidate':>10} {'stable':>10}  {'worse/better/alike':18} {'e-value':>9} {'limit':>7}"
    )
    lines = [[(head, "")]]
    for one in compared:
        values = [("-" if v is None else _number(v, one.unit)) for v in (one.candidate, one.stable)]
        blocks = f"{one.n_worse}/{one.n_better}/{one.n_alike}"
        text = (
            f"{_cut(one.title, 30):30} {values[0]:>10} {values[1]:>10}  {blocks:18} {one.peak:9.3g} {one.limit:7.0f}  "
        )
        lines.append([(text, ""), ("worse", "worse") if one.is_beyond else ("", "")])
    return lines


def _ledger(rows: Sequence[tuple[str, str, str]]) -> list[list[tuple[str, str]]]:
    lines = [[("ledger", "")]]
    return lines + [[(f"{utc:20} {kind:12} {text}", "")] for utc, kind, text in list(rows)[-LEDGER_ROWS:]]


def _line(parts: Sequence[tuple[str, str]], width: int, *, colour: bool) -> str:
    out, room = "", width
    for text, mark in parts:
        # Names come from files: no control character of theirs reaches a terminal.
        clean = "".join(c if c.isprintable() else " " for c in text)
        shown = _cut(clean, room)
        room -= len(shown)
        code = _COLOURS.get(mark) if colour else None
        out += f"\x1b[{code}m{shown}\x1b[0m" if code and shown.strip() else shown
    return out if colour else out.rstrip()


def _cut(text: str, n: int) -> str:
    return text if len(text) <= n else text[: max(n - 1, 0)] + "…"[: max(n, 0)]


def _bound(level: Level, unit: str, value: float | None) -> str:
    """Return the side of a level that the value is nearer to breaking."""
    sides: Mapping[str, float] = dict(level.sides)
    op = next(iter(sides)) if len(sides) == 1 or value is None else ">" if value >= sum(sides.values()) / 2 else "<"
    return op + _number(sides[op], unit)


def _number(value: float, unit: str) -> str:
    if unit == "seconds":
        scale, name = next(((s, n) for s, n in _SCALES if abs(value) >= s), _SCALES[-1])
        return f"{value / scale:.3g}{name}" if value else "0s"
    if unit == "ratio":
        return f"{100.0 * value:.4g}%"
    return f"{value:.4g}"


def _time(seconds: float) -> str:
    whole = math.floor(seconds + 0.5)
    return (
        f"{whole // 3_600}:{whole // 60 % 60:02}:{whole % 60:02}"
        if whole >= 3_600
        else f"{whole // 60}:{whole % 60:02}"
    )
