"""Figures of the evidence beside the criteria: the edge by period, and what each source earns alone.

As in `figures`, nothing is computed here that a table does not also show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from v13 import measures
from v13.research.acceptance import HoldoutResult
from v13.research.figures import BLUE, GREEN, GRID, INK, MUTED, ORANGE, RED

__all__ = ["regimes_figure", "sources_figure"]

MAX_LABELS = 16  # more period names than this would run into each other


def regimes_figure(result: HoldoutResult, min_accuracy: float, simulated: bool) -> Figure:
    """Draw each period: above its edge (hits minus misses), below its accuracy with Wilson's 95 % interval."""
    found = result.regimes
    horizons = [r.horizon_bars for r in result.horizons]
    figure = _figure(5.5 * max(len(horizons), 1), 5.2, simulated)
    if found is None or not any(r.n for r in found.rows):
        figure.text(0.5, 0.5, "no judged event on the holdout", ha="center", color=MUTED)
        return figure
    figure.suptitle(f"The edge by {found.unit} (UTC); orange: more than half of the whole", x=0.01, ha="left", size=11)
    axes = figure.subplots(2, len(horizons), sharex=True, sharey="row", squeeze=False)
    for (top, bottom), horizon in zip(axes.T, horizons, strict=True):
        rows = [r for r in found.rows if r.horizon_bars == horizon]
        at = np.arange(len(rows))
        colours = [ORANGE if r.share is not None and r.share > 0.5 else BLUE for r in rows]
        top.bar(at, [r.edge for r in rows], color=colours, width=0.8)
        top.axhline(0, color=MUTED, lw=0.8)
        top.set_title(f"{horizon} bars ahead", fontsize=10, loc="left")
        seen = [(i, r.accuracy, r.interval) for i, r in enumerate(rows) if r.accuracy is not None and r.interval]
        _points(bottom, seen, [colours[i] for i, _, _ in seen])
        _lines(bottom, min_accuracy)
        step = -(-len(rows) // MAX_LABELS)
        bottom.set_xticks(at[::step], [r.period for r in rows[::step]], rotation=60, ha="right", fontsize=8)
        for ax in (top, bottom):
            ax.grid(axis="y", color=GRID, lw=0.5)
            ax.set_axisbelow(True)
    axes[0][0].set_ylabel("hits minus misses")
    axes[1][0].set_ylabel("accuracy, 95 %")
    return figure


def sources_figure(result: HoldoutResult, min_accuracy: float, simulated: bool) -> Figure:
    """Draw the accuracy of each source alone, of all together and of the placebo, with Wilson's 95 % interval."""
    figure = _figure(5.2 * max(len(result.ablation), 1), 3.6, simulated)
    if not any(a.n_judged for row in result.ablation for a in row.accuracy.values()):
        figure.text(0.5, 0.5, "no judged event on the holdout", ha="center", color=MUTED)
        return figure
    figure.suptitle("Each source alone, all together, and the placebo", x=0.01, ha="left", fontsize=11)
    axes = figure.subplots(1, len(result.ablation), sharey=True, squeeze=False)[0]
    for ax, row, shuffled in zip(axes, result.ablation, result.placebo, strict=True):
        shown = {**row.accuracy, "placebo": shuffled.accuracy}
        colours = [*([BLUE] * (len(shown) - 2)), GREEN, MUTED]
        seen = [
            (i, a.accuracy, measures.wilson_interval(a.n_hits, a.n_judged))
            for i, a in enumerate(shown.values())
            if a.accuracy is not None
        ]
        _points(ax, seen, [colours[i] for i, _, _ in seen])
        _lines(ax, min_accuracy)
        names = [f"{name}\nn {a.n_judged:,}" for name, a in shown.items()]
        ax.set_xticks(range(len(shown)), names, fontsize=8)
        ax.set_xlim(-0.6, len(shown) - 0.4)
        ax.set_title(f"{row.horizon_bars} bars ahead", fontsize=10, loc="left")
        ax.grid(axis="y", color=GRID, lw=0.5)
        ax.set_axisbelow(True)
    axes[0].set_ylabel("accuracy, 95 %")
    return figure


def _points(ax: Axes, seen: Sequence[tuple[int, float, tuple[float, float]]], colours: Sequence[str]) -> None:
    for (i, accuracy, (low, high)), colour in zip(seen, colours, strict=True):
        ax.plot([i, i], [low, high], color=colour, lw=3, alpha=0.4, solid_capstyle="butt")
        ax.plot([i], [accuracy], "o", color=colour, ms=5)


def _lines(ax: Axes, min_accuracy: float) -> None:
    ax.axhline(0.5, color=MUTED, lw=0.8, ls=":")
    ax.axhline(min_accuracy, color=INK, lw=1, ls="--")


def _figure(width: float, height: float, simulated: bool) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    if simulated:
        figure.text(0.995, 0.995, "SIMULATED", ha="right", va="top", fontsize=9, color=RED, weight="bold")
    return figure
