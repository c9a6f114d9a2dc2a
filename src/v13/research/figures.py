"""Figures of the reports. Each function takes results and returns a matplotlib Figure; nothing is computed here that a
table does not also show, and every figure of simulated data says so.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from v13 import measures
from v13.detector import CalibrationMap
from v13.research.acceptance import HoldoutResult
from v13.research.calibration import HorizonFit
from v13.research.run import Run
from v13.research.search_result import SearchResult
from v13.research.selection import neighbour_span

__all__ = [
    "criteria_figure",
    "deciles_figure",
    "events_figure",
    "grid_figure",
    "null_figure",
    "png",
    "quality_figure",
]

INK, MUTED, GRID = "#1d2733", "#66727f", "#dfe5ea"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2f6fb0", "#d9822b", "#2e8b57", "#c23b3b", "#7a5aa6"
STATUS_COLOURS = {
    measures.Status.PASS: GREEN,
    measures.Status.FAIL: RED,
    measures.Status.INSUFFICIENT: ORANGE,
    measures.Status.NOT_APPLICABLE: MUTED,
    measures.Status.NOT_RUN: MUTED,
}
MAX_PANELS = 5  # of a grid's figure: more would be too small to read
MAX_NUMBERS = 49  # cells of a panel that are written out
MAX_TICKS = 8
MAX_POINTS = 4_000  # a line of more points only makes the file larger


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return the figure as PNG bytes; equal figures give equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def quality_figure(run: Run) -> Figure:
    """Draw each recording: price, the gaps, and the cut into search, purge and holdout."""
    symbols = list(run.recordings)
    figure = _figure(10, 2.5 * len(symbols) + 0.8, run.simulated)
    axes = figure.subplots(len(symbols), 1, squeeze=False)[:, 0]
    for ax, symbol in zip(axes, symbols, strict=True):
        recording = run.recordings[symbol]
        bars = recording.bars
        for first, last, colour, label in (
            (run.cut.start_ms, run.cut.search_end_ms, "#e8f0f8", "search"),
            (run.cut.search_end_ms, run.cut.holdout_start_ms, "#eeeeee", "purge gap"),
            (run.cut.holdout_start_ms, run.cut.end_ms, "#e6f4ea", "holdout"),
        ):
            ax.axvspan(_time(first), _time(last), color=colour, lw=0, label=label, zorder=0)
        price = np.where(np.isfinite(bars["mid"]), bars["mid"], bars["close"])
        breaks = np.flatnonzero(np.diff(bars["ts_ms"]) > 1.5 * recording.bar_ms)
        gap_label: str | None = f"gap ({len(breaks)})"
        for i in breaks:
            ax.axvspan(
                _time(bars["ts_ms"][i]), _time(bars["ts_ms"][i + 1]), color=RED, alpha=0.35, lw=0.5, label=gap_label
            )
            gap_label = None
        runs = np.split(np.arange(len(bars)), breaks + 1)
        for piece in runs:
            shown = _thin(piece)
            ax.plot(_time(bars["ts_ms"][shown]), price[shown], color=INK, lw=0.7)
        ax.set_ylabel(f"{symbol}\nprice, USDT")
        ax.legend(loc="upper left", fontsize=8, ncols=4, frameon=True)
        _dates(ax)
    axes[0].set_title("The recording, its gaps, and the cut in time", loc="left")
    return figure


def grid_figure(run: Run, result: SearchResult) -> Figure:
    """Draw the plateau statistic over the grid, one panel a value of the first axis, the choice framed."""
    keys = list(run.config.search.grid)
    values = [list(run.config.search.grid[k]) for k in keys]
    while len(keys) < 3:
        keys.append("")
        values.append([""])
    surface = np.full([len(v) for v in values], np.nan)
    coords = result.settings.coords
    at_all = np.pad(coords, ((0, 0), (0, len(keys) - coords.shape[1])))
    surface[tuple(at_all.T)] = result.choice.objective
    chosen = result.chosen
    rest = tuple(chosen.coords[3:]) if chosen is not None else (0,) * (len(keys) - 3)
    shown = _panels(len(values[0]), None if chosen is None else chosen.coords[0])
    figure = _figure(3.1 * len(shown) + 1.2, 3.6, run.simulated)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    low, high = (float(np.nanmin(surface)), float(np.nanmax(surface))) if np.isfinite(surface).any() else (0.0, 1.0)
    image = None
    for a, ax in zip(shown, axes, strict=True):
        panel = surface[a][(slice(None), slice(None), *rest)]
        image = ax.imshow(panel, origin="lower", cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
        for (i, j), value in np.ndenumerate(panel):
            if np.isfinite(value) and panel.size <= MAX_NUMBERS:
                dark = value < low + 0.6 * (high - low)
                ax.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8, color="white" if dark else INK)
        for axis, of in ((ax.xaxis, values[2]), (ax.yaxis, values[1])):
            step = -(-len(of) // MAX_TICKS)
            axis.set_ticks(range(0, len(of), step), [f"{v:.4g}" if v != "" else "" for v in of[::step]])
        ax.set_xlabel(keys[2])
        ax.set_ylabel(keys[1] if a == shown[0] else "")
        ax.set_title(f"{keys[0]} = {values[0][a]}", fontsize=10)
        if chosen is not None and chosen.coords[0] == a:
            at = (*chosen.coords, 0, 0)[1:3]
            ax.add_patch(_frame(at[1], at[0], 1, 1, RED, 2.5))
            spans = [*neighbour_span(result.settings, chosen.number), (0, 0), (0, 0)]
            (top_low, top_high), (near_low, near_high) = spans[1:3]
            ax.add_patch(
                _frame(
                    (near_low + near_high) / 2,
                    (top_low + top_high) / 2,
                    near_high - near_low + 0.9,
                    top_high - top_low + 0.9,
                    ORANGE,
                    1.5,
                )
            )
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="lower bound of accuracy", shrink=0.9)
    figure.suptitle(
        "The grid: red is chosen, its plateau rests on the neighbours on the orange frame"
        if chosen is not None
        else f"The grid: nothing chosen, {result.choice.reason}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return figure


def deciles_figure(fit: HorizonFit, simulated: bool) -> Figure:
    """Draw one horizon: hit share by score decile with its band, the shipped curve with its Venn-Abers band, mean
    return, reliability.
    """
    figure = _figure(12, 3.9, simulated)
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(f"Score and outcome, {fit.horizon_bars} bars ahead (search part, n = {fit.n:,})", x=0.01, ha="left")
    if not fit.deciles:
        left.text(0.5, 0.5, f"too few events ({fit.n})", ha="center", transform=left.transAxes, color=MUTED)
        return figure
    score = np.array([d["score_mean"] for d in fit.deciles])
    share = np.array([d["hit_share"] for d in fit.deciles])
    band = np.array([[d["hit_low"], d["hit_high"]] for d in fit.deciles])
    left.fill_between(score, band[:, 0], band[:, 1], color=BLUE, alpha=0.18, lw=0, label="95 % interval")
    left.plot(score, share, "o-", color=BLUE, ms=4, lw=1.2, label="share of hits by decile")
    if fit.curve is not None:
        inside = np.linspace(score.min(), score.max(), 300)
        shipped = CalibrationMap({fit.horizon_bars: fit.curve})
        low, high = shipped.interval(inside, fit.horizon_bars)
        prob = shipped.prob(inside, fit.horizon_bars)
        left.fill_between(inside, low, high, color=ORANGE, alpha=0.3, lw=0, label="Venn-Abers p_low to p_high")
        left.plot(inside, prob, color=ORANGE, lw=1.8, label=f"shipped: {fit.method}")
        if fit.curve.is_constant:
            right.vlines(prob[0], low[0], high[0], color=ORANGE, lw=2)
            right.plot(prob[0], prob[0], "D", color=ORANGE, ms=6, label="shipped: constant")
        else:
            said, first = np.unique(prob, return_index=True)
            least, most = np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)
            right.fill_between(said, least, most, color=ORANGE, alpha=0.3, lw=0, label="p_low to p_high, widest")
    left.axhline(0.5, color=MUTED, lw=0.8, ls=":")
    left.set(xlabel="score", ylabel="share of hits")
    left.legend(fontsize=8)
    mean = 1e4 * np.array([d["return_mean"] for d in fit.deciles])
    spread = 1e4 * np.array([[d["return_low"], d["return_high"]] for d in fit.deciles], np.float64)
    middle.fill_between(score, spread[:, 0], spread[:, 1], color=GREEN, alpha=0.18, lw=0, label="95 % interval")
    middle.plot(score, mean, "o-", color=GREEN, ms=4, lw=1.2, label="mean return by decile")
    middle.axhline(0, color=MUTED, lw=0.8, ls=":")
    middle.set(xlabel="score", ylabel="return in the event's direction, bp")
    middle.legend(fontsize=8)
    curve = fit.out_of_fold.curve
    if curve:
        said = np.array([c["mean_prob"] for c in curve])
        was = np.array([c["share"] for c in curve])
        ends = np.array([[c["share_low"], c["share_high"]] for c in curve])
        right.errorbar(
            said,
            was,
            yerr=np.clip(np.abs(ends.T - was), 0, None),
            fmt="o",
            color=PURPLE,
            ms=4,
            lw=1,
            label="out of fold, 95 %" + (" (refused)" if fit.method == "constant" else ""),
        )
        span = (min(said.min(), was.min()) - 0.03, max(said.max(), was.max()) + 0.03)
        right.plot(span, span, color=MUTED, lw=0.8, ls="--", label="perfect")
        right.legend(fontsize=8)
        q = fit.out_of_fold
        note = f"error {q.error:.3f}, Brier {q.brier:.4f} (constant {q.brier_constant:.4f})"
        right.set_title(note, fontsize=8, color=MUTED)
    right.set(xlabel="probability said", ylabel="share of hits seen")
    return figure


def events_figure(run: Run, result: HoldoutResult, n_bars: int = 900) -> Figure:
    """Draw the holdout's densest stretch of one symbol: price, each event at its pivot and where it became known."""
    figure = _figure(11, 4.4, run.simulated)
    ax = figure.subplots()
    events = result.outcomes.events
    if not len(events):
        ax.text(0.5, 0.5, "no event on the holdout", ha="center", transform=ax.transAxes, color=MUTED)
        return figure
    symbols = list(run.recordings)
    counts = np.bincount(result.outcomes.symbol, minlength=len(symbols))
    s = int(counts.argmax())
    bars = run.cut.holdout_bars(run.bars[symbols[s]])
    of = events[result.outcomes.symbol == s]
    starts = np.searchsorted(of["bar"], of["bar"] - n_bars + 60)
    busiest = int((np.arange(len(of)) - starts).argmax())
    last = min(int(of["bar"][busiest]) + 40, len(bars) - 1)
    first = max(last - n_bars, 0)
    window = bars[first : last + 1]
    price = np.where(np.isfinite(window["mid"]), window["mid"], window["close"])
    ax.plot(_time(window["ts_ms"]), price, color=INK, lw=0.8)
    seen = of[(of["bar"] >= first) & (of["bar"] <= last)]
    for side, colour, marker, name in ((1, GREEN, "^", "bull"), (-1, RED, "v", "bear")):
        sided = seen[seen["side"] == side]
        for event in sided:
            ax.plot(
                _time(event[["a_ts_ms", "b_ts_ms"]].tolist()),
                [event["a_px"], event["b_px"]],
                color=colour,
                lw=1,
                alpha=0.6,
            )
        ax.plot(
            _time(sided["b_ts_ms"]), sided["b_px"], marker, color=colour, ms=4, mfc="none", label=f"{name}: pivot B"
        )
        ax.plot(_time(sided["ts_ms"]), sided["px"], marker, color=colour, ms=7, label=f"{name}: known")
    ax.set_title(f"{symbols[s]}: events over price, a stretch of the holdout ({len(seen)} events)", loc="left")
    ax.set_ylabel("price, USDT")
    ax.legend(fontsize=8, ncols=4)
    _dates(ax)
    return figure


def criteria_figure(verdict: measures.Verdict, simulated: bool) -> Figure:
    """Draw every criterion that has a number: estimate, interval, threshold, coloured by its status."""
    shown = [c for c in verdict.criteria if c.estimate is not None]
    figure = _figure(9, 0.62 * max(len(shown), 1) + 1.2, simulated)
    if not shown:
        figure.text(0.5, 0.5, "no criterion could be measured", ha="center", color=MUTED)
        return figure
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for ax, criterion in zip(axes, shown, strict=True):
        colour = STATUS_COLOURS[criterion.status]
        limits = criterion.threshold if isinstance(criterion.threshold, tuple) else (criterion.threshold,)
        for limit in limits:
            if limit is not None:
                ax.axvline(limit, color=INK, lw=1.2, ls="--")
        if criterion.interval is not None:
            ax.plot(criterion.interval, [0, 0], color=colour, lw=3, alpha=0.45, solid_capstyle="butt")
        ax.plot([criterion.estimate], [0], "o", color=colour, ms=7)
        ax.set_yticks([0], [criterion.title], fontsize=9)
        ax.set_ylim(-1, 1)
        for spine in ("left", "top", "right"):
            ax.spines[spine].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(x=0.15)
        ax.text(
            1.01,
            0.5,
            criterion.status.value,
            transform=ax.transAxes,
            va="center",
            fontsize=9,
            color=colour,
            weight="bold",
        )
    axes[0].set_title("Estimate (dot), 95 % interval (bar), threshold (dashed)", loc="left", fontsize=10)
    return figure


def null_figure(result: HoldoutResult, min_accuracy: float, simulated: bool) -> Figure:
    """Draw the accuracy the same event train has when shifted in time, and the one it really had."""
    figure = _figure(10, 3.4, simulated)
    figure.suptitle("Accuracy of the same events at other times, and the one they had", x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(1, max(len(result.horizons), 1), squeeze=False)[0]
    for ax, row in zip(axes, result.horizons, strict=True):
        null = np.array(row.null_accuracy)
        null = null[np.isfinite(null)]
        if len(null) and row.accuracy.accuracy is not None:
            ax.hist(null, bins=40, color=GRID, edgecolor=MUTED, lw=0.4, label=f"{len(null):,} shifts in time")
            ax.axvline(row.accuracy.accuracy, color=BLUE, lw=2, label=f"observed, p = {row.p:.4f}")
            ax.axvline(min_accuracy, color=INK, lw=1, ls="--", label="threshold")
            ax.legend(fontsize=8, loc="upper left")
            ax.margins(y=0.35)
        else:
            ax.text(0.5, 0.5, "no events", ha="center", transform=ax.transAxes, color=MUTED)
        ax.set(xlabel=f"accuracy, {row.horizon_bars} bars ahead", yticks=[])
    return figure


def _panels(n: int, chosen: int | None) -> list[int]:
    """Return the values of the first axis to draw: all, or the few around the chosen one."""
    first = 0 if chosen is None else min(max(chosen - MAX_PANELS // 2, 0), max(n - MAX_PANELS, 0))
    return list(range(first, min(first + MAX_PANELS, n)))


def _figure(width: float, height: float, simulated: bool) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    if simulated:
        figure.text(0.995, 0.995, "SIMULATED", ha="right", va="top", fontsize=9, color=RED, weight="bold")
    return figure


def _frame(x: float, y: float, width: float, height: float, colour: str, lw: float) -> Any:
    return Rectangle((x - width / 2, y - height / 2), width, height, fill=False, ec=colour, lw=lw)


def _thin(piece: Any) -> Any:
    step = max(1, len(piece) // MAX_POINTS)
    return piece[::step]


def _time(ts_ms: Any) -> Any:
    return np.asarray(ts_ms, np.int64).astype("datetime64[ms]")


def _dates(ax: Axes) -> None:
    locator = AutoDateLocator(maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.grid(color=GRID, lw=0.5)
    ax.set_axisbelow(True)
    ax.margins(x=0)
