"""The bundle's pages and machine-readable faces: index page, notebook pages, JUnit XML, markdown summary."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from nbconvert import HTMLExporter
from traitlets.config import Config as Traits

from v13.measures.pace import duration
from v13.measures.spending import alpha_of
from v13.research.live_evidence import LIVE_CRITERIA
from v13.research.notebook import strip_noise
from v13.research.reading import moment

__all__ = [
    "TITLES",
    "attention",
    "index_page",
    "junit",
    "look_sentence",
    "markdown",
    "notebook_page",
    "summary_sentence",
]

TITLES: Final = {
    "01_data_quality": "1. Data quality",
    "02_grid_search": "2. Grid search",
    "03_score_calibration": "3. Score calibration",
    "04_acceptance": "4. Acceptance",
    "05_noise_certificate": "5. Noise certificate",
    "06_metrics_closure": "6. Metrics closure",
}
_NOT_JUDGED: Final = ("NOT RUN", "NOT APPLICABLE")
MIN_PERIODS: Final = 3  # of two periods one always carries half
FULL_CERTIFICATE: Final = 1_000  # null markets; fewer prove little, however few of them passed
# The criteria that are not judged on the holdout, and what they are judged on.
_JUDGED_ELSEWHERE: Final = (
    ("selection", "the choice of the setting", "on the search part"),
    ("plateau", "its plateau", "on the search part"),
    ("noise_certificate", "the noise certificate", "on markets without an edge"),
    ("compute_p95", "latencies", "in a real runner"),
    ("event_p95", "latencies", "in a real runner"),
    ("pipeline_p95", "latencies", "in a real runner"),
    ("closure", "metrics closure", "in a real runner"),
    ("hot_reload", "hot reload", "in a real runner"),
)
_TEMPLATES: Final = Path(__file__).parent / "templates"


def summary_sentence(signoff: dict[str, Any]) -> str:
    """Return the verdict in one sentence."""
    judged = [c for c in signoff["criteria"] if c["status"] not in _NOT_JUDGED]
    by = {status: [c["title"] for c in judged if c["status"] == status] for status in ("PASS", "FAIL", "INSUFFICIENT")}
    if signoff["verdict"] == "PASS":
        which = "" if any(c["key"] in LIVE_CRITERIA for c in judged) else " that recorded data can answer"
        text = f"All {len(by['PASS'])} criteria{which} are met: {_grounds(judged)}."
    elif signoff["verdict"] == "FAIL":
        text = f"{len(by['FAIL'])} of {len(judged)} criteria failed: {', '.join(by['FAIL'])}."
    else:
        lacking = by["INSUFFICIENT"]
        text = f"Too little to tell: {len(lacking)} of {len(judged)} criteria lack data ({', '.join(lacking)})."
    if signoff["open"]:
        text += f" {len(signoff['open'])} more are open."
    return text


def attention(
    signoff: dict[str, Any],
    quality: dict[str, Any],
    acceptance: dict[str, Any],
    search: dict[str, Any],
    *,
    alpha: float,
    changed: Sequence[str],
) -> list[str]:
    """Return what a release manager should look at, worst first; never empty."""
    lines = [_shortfall(c) for c in signoff["criteria"] if c["status"] in ("FAIL", "INSUFFICIENT")]
    if changed:
        lines.insert(0, f"Settings that are not the product's: {'; '.join(changed)}.")
    cut = search["cut"]
    if cut["holdout_start_ms"] >= cut["end_ms"]:
        span = (cut["end_ms"] - cut["start_ms"]) // cut["bar_ms"]
        lines.insert(
            0,
            f"The record is too short: {span:,} bars, of which the search part takes its share and the purge gap "
            f"{cut['purge_bars']:,}, so that nothing is left to judge on.",
        )
    lines += _certificate_lines(signoff["certificate"]) + _runner_lines(signoff["criteria"])
    look = acceptance["look"]
    if look is not None and look["number"] > 1:
        lines.append(look_sentence(look, acceptance["alpha"]))
    lines += _regime_lines(acceptance["regimes"])
    if search["chosen"] is None:
        lines.append(f"No setting was chosen ({search['reason']}); the configured parameters were judged instead.")
    folds = [f for f in search["walk_forward"] if f["setting"] is not None and sum(f["n"])]
    if folds:
        n, hits = sum(sum(f["n"]) for f in folds), sum(sum(f["hits"]) for f in folds)
        lines.append(
            f"Walk-forward inside the search part, the selection rule was right {hits / n:.1%} of the time "
            f"({len(folds)} folds)."
        )
    for row in acceptance["horizons"]:
        p, naive = row["p"], row["p_naive"]
        if p is not None and naive is not None and naive < alpha <= p:
            lines.append(
                f"At {row['horizon_bars']} bars a naive test would call the accuracy significant (p {naive:.4f}); "
                f"the honest one does not (p {p:.3f})."
            )
        held = row["calibration"]
        if held["brier"] is not None and held["brier"] >= held["brier_constant"]:
            lines.append(
                f"At {row['horizon_bars']} bars the calibrated probability is no better than a constant on the holdout "
                f"(Brier {held['brier']:.4f} against {held['brier_constant']:.4f})."
            )
        if row["accuracy"]["n_ties"]:
            lines.append(
                f"At {row['horizon_bars']} bars {row['accuracy']['n_ties']} event(s) ended on an unchanged price; "
                "they count neither way."
            )
    for row in acceptance["ablation"]:
        ends = row["difference_interval"]
        if ends is not None and ends[1] < 0:
            lines.append(
                f"At {row['horizon_bars']} bars fusion is less often right than {row['better']} alone: by "
                f"{-row['difference']:.3f} ({-ends[1]:.3f} to {-ends[0]:.3f})."
            )
    recordings = quality["recordings"]
    for stream, channel in (("quotes", "OFI"), ("trades", "CVD")):
        without = [symbol for symbol, r in recordings.items() if not r[f"has_{stream}"]]
        if without:
            lines.append(f"{', '.join(without)}: no {stream}, so the {channel} channel is absent.")
    for symbol, r in recordings.items():
        if r["n_bad_rows"]:
            lines.append(
                f"{symbol}: {r['n_bad_rows']:,} bad rows in {r['n_rows']:,}; notebook 1 says what was done with them."
            )
        if r["n_gaps"]:
            lines.append(
                f"{symbol}: {r['n_gaps']} gap(s), the longest {r['longest_gap_ms'] / 1000:,.0f} s; "
                "no swing bridges a gap."
            )
    if not any(c["status"] in ("FAIL", "INSUFFICIENT") for c in signoff["criteria"]):
        lines.insert(
            0,
            "Nothing failed. Before a deploy, read the bucket table and the calibration in the acceptance notebook.",
        )
    return lines


def index_page(name: str, signoff: dict[str, Any], figure: bytes, notebooks: Sequence[str]) -> str:
    """Return the self-contained page a release manager reads in a minute."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("index.html.j2").render(
        s=signoff,
        name=name,
        summary=summary_sentence(signoff),
        judged=[c for c in signoff["criteria"] if c["status"] not in _NOT_JUDGED],
        not_judged=[c for c in signoff["criteria"] if c["status"] in _NOT_JUDGED],
        has_runner=bool(_runner_lines(signoff["criteria"])),
        figure=base64.b64encode(figure).decode(),
        notebooks=[(f"{n}.html", TITLES[n]) for n in notebooks],
        number=_number,
        pair=lambda ends, unit: "" if ends is None else f"{_number(ends[0], unit)} to {_number(ends[1], unit)}",
        needed=_needed,
        look=look_sentence(signoff["look"], signoff["alpha"]) if signoff.get("look") else "",
        small=lambda p: "" if p is None else ("< 0.001" if p < 0.001 else f"{p:.3f}"),
        moment=moment,
    )


def notebook_page(executed: Path, title: str, simulated: bool) -> str:
    """Return an executed notebook as one self-contained page that loads nothing from anywhere."""
    traits = Traits()
    # The bundle says what was read; folders of the machine it ran on belong in the manifest alone.
    traits.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    traits.TagRemovePreprocessor.remove_cell_tags = {"parameters", "injected-parameters"}
    exporter = HTMLExporter(
        config=traits, template_name="lab", embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    exporter.mathjax_url = ""
    exporter.require_js_url = ""
    exporter.jquery_url = ""
    exporter.mermaid_js_url = ""
    page, _ = exporter.from_notebook_node(strip_noise(executed), resources={"metadata": {"name": f"v13: {title}"}})
    bar = '<div class="simulated-bar">SIMULATED data: says nothing about a real market.</div>' if simulated else ""
    style = (_TEMPLATES / "notebook.css").read_text()
    head = f'<style>{style}</style><p class="back"><a href="index.html">&larr; sign-off</a></p>{bar}'
    start = page.index(">", page.index("<body")) + 1
    return str(page[:start] + head + page[start:])


def junit(name: str, signoff: dict[str, Any]) -> str:
    """Return one JUnit test case a criterion: FAIL is a failure, INSUFFICIENT an error, the rest are skipped."""
    statuses = [c["status"] for c in signoff["criteria"]]
    suite = ET.Element(
        "testsuite",
        name=f"v13 sign-off {name}",
        tests=str(len(statuses)),
        failures=str(statuses.count("FAIL")),
        errors=str(statuses.count("INSUFFICIENT")),
        skipped=str(sum(s in _NOT_JUDGED for s in statuses)),
    )
    for c in signoff["criteria"]:
        case = ET.SubElement(suite, "testcase", classname="v13.signoff", name=c["title"])
        if c["status"] == "FAIL":
            ET.SubElement(case, "failure", message=c["detail"]).text = c["detail"]
        elif c["status"] == "INSUFFICIENT":
            ET.SubElement(case, "error", message=f"INSUFFICIENT: {c['detail']}").text = c["detail"]
        elif c["status"] in _NOT_JUDGED:
            ET.SubElement(case, "skipped", message=f"{c['status']}: {c['detail']}")
        else:
            ET.SubElement(case, "system-out").text = c["detail"]
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def markdown(name: str, signoff: dict[str, Any]) -> str:
    """Return the verdict and the criteria as markdown, for a pipeline's job summary."""
    badge = " (SIMULATED data)" if signoff["simulated"] else ""
    lines = [
        f"## v13 sign-off: {signoff['verdict']}{badge}",
        "",
        summary_sentence(signoff),
        "",
        f"Run `{name}`, key `{signoff['key'][:16]}`.",
        "",
    ]
    lines += ["| criterion | status | estimate | 95 % interval | needed | p | n |", "|---|---|---|---|---|---|---|"]
    for c in signoff["criteria"]:
        ends = (
            ""
            if c["interval"] is None
            else f"{_number(c['interval'][0], c['unit'])} to {_number(c['interval'][1], c['unit'])}"
        )
        p = "" if c["p"] is None else f"{c['p']:.4f}"
        n = "" if c["n"] is None else str(c["n"])
        lines.append(
            f"| {c['title']} | **{c['status']}** | {_number(c['estimate'], c['unit'])} | {ends} | {_needed(c)} "
            f"| {p} | {n} |"
        )
    lines += ["", "**What to look at**", ""] + [f"- {line}" for line in signoff["attention"]] + [""]
    return "\n".join(lines)


def look_sentence(look: dict[str, Any], alpha: float) -> str:
    """Return which look at the holdout this was and what it was judged at.

    Parameters
    ----------
    look : mapping
        `number`, `n_earlier_looks`, `n_searched_before`, `simulated`, see `store.Look`.
    alpha : float, in (0, 1)
        The level of this look.
    """
    number = look["number"]
    if number == 1:
        return f"Look number 1 at this holdout: judged at alpha {alpha:g}."
    looks, searches = look["n_earlier_looks"], look["n_searched_before"]
    before = f"{looks} earlier look{'s' * (looks != 1)}, {searches} search{'es' * (searches != 1)} over its bars"
    said = f"Look number {number} at this holdout ({before}): judged at alpha {alpha:g}"
    if look["simulated"]:
        return f"{said}, as looking at simulated data costs nothing."
    return f"{said} instead of {alpha / alpha_of(1.0, number):g}."


def _grounds(criteria: Sequence[dict[str, Any]]) -> str:
    """Return what the criteria were judged on, those of the holdout last."""
    keys = {c["key"] for c in criteria}
    by_place: dict[str, dict[str, None]] = {}  # names in order, each once
    for key, what, place in _JUDGED_ELSEWHERE:
        if key in keys:
            by_place.setdefault(place, {})[what] = None
    said = []
    for place, names in by_place.items():
        *before, last = names
        said.append(f"{' and '.join([', '.join(before), last] if before else [last])} {place}")
    if keys - {key for key, _, _ in _JUDGED_ELSEWHERE}:
        said.append(f"{'the rest ' if said else ''}on the holdout, which the search never saw")
    return ", ".join(said)


def _certificate_lines(certificate: dict[str, Any] | None) -> list[str]:
    """Return what a certificate of few markets proves at the most."""
    if certificate is None or certificate["n_markets"] >= FULL_CERTIFICATE:
        return []
    return [
        f"The noise certificate is a short one: {certificate['n_passed']} of {certificate['n_markets']} markets "
        f"without an edge signed off proves no more than that at most {certificate['high']:.0%} of them are (upper end "
        "of the 95 % interval). `v13 signoff --full` judges 1,001."
    ]


def _runner_lines(criteria: Sequence[dict[str, Any]]) -> list[str]:
    """Return what latencies measured in a rehearsal do not say."""
    if not any(c["key"] in LIVE_CRITERIA and c["status"] not in _NOT_JUDGED for c in criteria):
        return []
    return [
        "Latencies, metrics closure and hot reload were seen in a rehearsal on one machine, without the real exchange: "
        "each criterion says where. In production the SLO table goes on watching them."
    ]


def _regime_lines(regimes: dict[str, Any] | None) -> list[str]:
    """Return a warning where one period carries more than half of the edge, and where there are too few to see."""
    if regimes is None or not regimes["n_periods"]:
        return []
    unit, n = regimes["unit"], regimes["n_periods"]
    few = f"The holdout spans {n} {unit}{'s' * (n != 1)}: too few to see whether the edge lasts."
    lines = [few] if n < MIN_PERIODS else []
    for row in regimes["rows"] if n > 1 else []:
        if row["share"] is not None and row["share"] > 0.5:
            misses = row["n"] - row["hits"]
            lines.append(
                f"One {unit}, {row['period']}, carries {100 * row['share']:.0f} % of the edge after "
                f"{row['horizon_bars']} bars: {row['hits']} hits and {misses} misses, {row['edge']} of "
                f"{round(row['edge'] / row['share'])} hits more than misses."
            )
    return lines


def _shortfall(c: dict[str, Any]) -> str:
    """Return a criterion that is not met in a few words; the table has the rest."""
    if c["status"] == "INSUFFICIENT" and c["missing"]:
        wait = (
            "at the present rate (no event) never"
            if c["wait_hours"] is None
            else f"about {duration(c['wait_hours'])} of recording at the present rate"
        )
        return (
            f"{c['title']}: INSUFFICIENT, {c['needed'] - c['missing']:,} events; a fair chance to pass takes "
            f"{c['missing']:,} more, {wait}."
        )
    return f"{c['title']}: {c['status']}. {c['detail']}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{text} {unit}".rstrip()


def _needed(c: dict[str, Any]) -> str:
    limit = c["threshold"]
    if limit is None:
        return ""
    if isinstance(limit, (list, tuple)):
        return f"{limit[0]:g} to {limit[1]:g} {c['unit']}".rstrip()
    if c["key"].startswith(("accuracy", "bucket", "plateau")):
        word = "at least"
    elif c["key"] == "noise_certificate":
        word = "at most"
    else:
        word = "below" if c["key"] in (*LIVE_CRITERIA, "placebo") else "above"
    return f"{word} {limit:g} {c['unit']}".rstrip()
