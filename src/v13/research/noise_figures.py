"""Figures and tables of the noise certificate: what it judged, what was signed off, and what stopped the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from v13.research.certificate import Certificate
from v13.research.noise_report import MAX_SHARE, MAX_SHARE_OF_KIND, POWER_NEEDED
from v13.research.tables import Table

__all__ = ["criteria_table", "facts", "noise_figure", "power_figure", "power_table", "shares"]

INK, MUTED, GRID, BLUE, ORANGE, GREEN, RED = "#1d2733", "#66727f", "#dfe5ea", "#2f6fb0", "#d9822b", "#2e8b57", "#c23b3b"


def facts(certificate: Certificate) -> Table:
    """What the certificate is for."""
    shape = certificate.document["shape"]
    planted = "not judged: the certificate is short"
    if certificate.document["power"]:
        planted = f"{_shape(shape)}; as many bars as the events take"
    return Table(
        [
            {"fact": "kind", "value": "full" if certificate.full else "short"},
            {"fact": "markets judged", "value": certificate.all_null["n_markets"]},
            {
                "fact": "each market",
                "value": f"{_shape(shape)}; {shape['n_bars']:,} bars of each symbol",
            },
            {"fact": "each planted market", "value": planted},
            {"fact": "surrogates made of", "value": certificate.surrogates_of},
            {"fact": "seed", "value": certificate.document["seed"]},
            {"fact": "key", "value": certificate.key[:16]},
        ]
    )


def shares(certificate: Certificate) -> Table:
    """Markets signed off, by kind and in all, with the exact 95 % interval."""
    rows = [*certificate.document["kinds"], certificate.all_null]
    return Table(
        [
            {
                "markets without an edge": row["kind"].replace("_", " "),
                "judged": row["n_markets"],
                "signed off": row["n_passed"],
                "share": f"{row['share']:.2%}" if row["n_markets"] else "-",
                "95 % interval": f"{row['low']:.2%} to {row['high']:.2%}",
                "holdout events, mean": f"{row['mean_events']:,.0f}",
                "passed all their channels allow": row["n_passed_else"],
            }
            for row in rows
        ]
    )


def criteria_table(certificate: Certificate) -> Table:
    """How often noise passed each criterion alone: where it is stopped."""
    null = certificate.all_null
    n = null["n_markets"]
    if not n:
        return Table([{"criterion": "no market was judged", "noise passed it": 0, "share": "-"}])
    return Table(
        [
            {"criterion": key, "noise passed it": n - lost, "share": f"{(n - lost) / n:.1%}"}
            for key, lost in sorted(null["lost_to"].items(), key=lambda item: -item[1])
        ]
    )


def power_table(certificate: Certificate) -> Table:
    """Planted markets signed off, by true accuracy and holdout events, and what stopped the others.

    Without a channel none can be signed off, and those count that passed all that their channels allow.
    """
    if not certificate.document["power"]:
        return Table([{"power": "not measured: a short certificate judges markets without an edge alone"}])
    shape = certificate.document["shape"]
    found = "signed off" if shape["has_trades"] and shape["has_quotes"] else "passed all their channels allow"
    rows: list[dict[str, Any]] = []
    for cell in certificate.document["power"]:
        share = cell["share"]
        needed = POWER_NEEDED.get((cell["accuracy"], cell["n_events"]))
        lost = sorted(share["lost_to"].items(), key=lambda item: -item[1])
        rows.append(
            {
                "true accuracy": f"{cell['accuracy']:.2f} (measured {cell['mean_truth']:.3f})",
                "holdout events": f"{cell['n_events']:,} (mean {cell['mean_events']:,.0f})",
                found: f"{cell['n_found']} of {share['n_markets']}",
                "power": f"{cell['power']:.0%}",
                "95 % interval": f"{cell['low']:.0%} to {cell['high']:.0%}",
                "required": "" if needed is None else f"{needed:.0%}",
                "lost to": ", ".join(f"{key} {n}" for key, n in lost),
            }
        )
    return Table(rows)


def noise_figure(certificate: Certificate) -> Figure:
    """Draw the share signed off by kind with its interval, and how often noise passed each criterion."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [certificate.all_null, *reversed(certificate.document["kinds"])]
    for y, row in enumerate(rows):
        colour = INK if y == 0 else BLUE
        left.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=3, alpha=0.4, solid_capstyle="butt")
        if row["n_markets"]:
            left.plot([100 * row["share"]], [y], "o", color=colour, ms=6)
    left.axvline(100 * MAX_SHARE, color=RED, lw=1, ls="--", label=f"at most {MAX_SHARE:.0%} in all")
    left.axvline(
        100 * MAX_SHARE_OF_KIND, color=ORANGE, lw=1, ls=":", label=f"at most {MAX_SHARE_OF_KIND:.0%} of a kind"
    )
    names = [f"{row['kind'].replace('_', ' ')} ({row['n_passed']}/{row['n_markets']})" for row in rows]
    left.set_yticks(range(len(rows)), names, fontsize=9)
    left.set(xlabel="signed off, % (95 % interval)")
    left.set_xlim(left=-0.02 * max(100 * row["high"] for row in rows))
    left.set_title("Markets without an edge that were signed off", loc="left", fontsize=10)
    left.legend(fontsize=8)
    null = certificate.all_null
    lost = sorted(null["lost_to"].items(), key=lambda item: item[1])
    passed = 100 * (1 - np.array([n for _, n in lost], np.float64) / null["n_markets"])
    right.barh(range(len(lost)), passed, color=BLUE, alpha=0.8)
    right.set_yticks(range(len(lost)), [key for key, _ in lost], fontsize=9)
    for y, value in enumerate(passed):
        right.text(value + 1, y, f"{value:.0f} %", va="center", fontsize=8, color=MUTED)
    right.set_xlim(0, 112)
    right.set(xlabel="noise that passed this criterion alone, %")
    right.set_title("Where noise is stopped", loc="left", fontsize=10)
    for ax in (left, right):
        ax.grid(axis="x", color=GRID, lw=0.5)
        ax.set_axisbelow(True)
    return figure


def power_figure(certificate: Certificate) -> Figure:
    """Draw the share of planted markets signed off over holdout events, one line a true accuracy."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    cells = certificate.document["power"]
    for accuracy, colour in zip(sorted({c["accuracy"] for c in cells}), (BLUE, ORANGE, GREEN), strict=False):
        own = sorted((c for c in cells if c["accuracy"] == accuracy), key=lambda c: int(c["n_events"]))
        n = [c["n_events"] for c in own]
        ax.plot(n, [100 * c["power"] for c in own], "o-", color=colour, label=f"true accuracy {accuracy:.2f}")
        ax.fill_between(n, [100 * c["low"] for c in own], [100 * c["high"] for c in own], color=colour, alpha=0.15)
    for (_, n_events), least in POWER_NEEDED.items():
        ax.plot([n_events], [100 * least], "x", color=RED, ms=9, mew=2)
    ax.set_xscale("log")
    ticks = sorted({c["n_events"] for c in cells})
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="events on the holdout", ylabel="signed off, %", ylim=(-3, 103))
    ax.set_title("Power: planted markets signed off (band: 95 %; cross: required)", loc="left", fontsize=10)
    ax.grid(color=GRID, lw=0.5)
    ax.legend(fontsize=8)
    return figure


def _shape(shape: Mapping[str, Any]) -> str:
    channels = [name for name in ("trades", "quotes") if shape[f"has_{name}"]]
    return f"{shape['n_symbols']} symbol(s), bars of {shape['bar_ms'] / 1000:g} s, {' and '.join(channels)}"
