"""The guide's checklists, each box ticked by what the ledger says or left open with why.

A box is never ticked for want of evidence against it. What only people can say stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from v13.release.record_facts import Story
from v13.store.chain import Row

__all__ = ["STABLE_S", "checklists"]

STABLE_S: Final = 1_800.0  # guide: 系统稳定运行30分钟以上
LATENCIES: Final = ("event_latency", "pipeline_latency", "compute_latency")
BEYOND: Final = ("alert", "rollback")
UNKNOWN: Final = ("no_data", "too_few")
FOR_PEOPLE: Final = "[to be filled in by people]"


class Answer(NamedTuple):
    """Whether a box is ticked, the evidence or why it is open, and the ledger rows that say so."""

    is_ticked: bool
    evidence: str
    rows: tuple[int, ...] = ()


class Box(NamedTuple):
    """A box: its key, what it says in both languages, and what answers it."""

    key: str
    title: str
    title_zh: str
    answer: Callable[[Story], Answer]


def checklists(story: Story) -> list[dict[str, Any]]:
    """Return the lists that belong to the operation's kind, each with its boxes."""
    return [
        {
            "key": key,
            "title": title,
            "title_zh": title_zh,
            "boxes": [_box(box, story) for box in boxes],
        }
        for key, title, title_zh, boxes in (_ROLLBACK if story.kind == "rollback" else _DEPLOY)
    ]


def _box(box: Box, story: Story) -> dict[str, Any]:
    ticked, evidence, rows = box.answer(story)
    return {
        **{"key": box.key, "title": box.title, "title_zh": box.title_zh},
        **{"ticked": ticked, "evidence": evidence, "rows": list(rows)},
    }


def _checked(*boxes: str) -> Callable[[Story], Answer]:
    def answer(story: Story) -> Answer:
        if story.checks is None:
            return Answer(False, "the checks were not run, or did not come to an end")
        row, results = story.checks
        own = [r for r in results if not boxes or r.get("box") in boxes]
        failed = [r for r in own if r["status"] == "failed"]
        if failed:
            return Answer(False, "; ".join(f"{r['title']}: {r['evidence']}" for r in failed), (row.n,))
        if not own:
            return Answer(False, "no check of this box was run", (row.n,))
        told = [f"{r['key']} {_word(r)}" for r in own]
        return Answer(True, f"{len(own)} checks: {', '.join(told)}", (row.n,))

    return answer


def _word(result: Mapping[str, Any]) -> str:
    if result.get("override"):
        return f"let pass by override ({result['override']})"
    return "ok" if result["status"] == "ok" else f"not applicable ({result['evidence']})"


def _canary(story: Story) -> Answer:
    observed = [step for step in story.done if step.startswith("observe:")]
    first = next((s for s in story.begin.get("steps", ()) if s.startswith("observe:")), None)
    needed = ("start", *(() if first is None else (first.replace("observe:", "handover:"), first)))
    missing = [step for step in needed if step not in story.done]
    if missing or not observed:
        return Answer(False, f"not done: {', '.join(missing or ['observe'])}")
    rows = tuple(story.done[step].n for step in needed)
    return Answer(True, f"done: {', '.join(needed)}", rows)


def _healthy(story: Story) -> Answer:
    row = story.done.get("start")
    if row is None:
        return Answer(False, "the new release was not started, or did not become ready")
    evidence = row.record["evidence"]
    seconds = evidence.get("seconds")
    told = f"ready on port {evidence.get('port')}" + (f" after {seconds:g} s" if seconds is not None else "")
    answer = evidence.get("answer")
    return Answer(True, told + (f"; it said: {answer}" if answer else ""), (row.n,))


def _last_look(story: Story) -> tuple[Row, list[Mapping[str, Any]]] | None:
    if not story.looks:
        return None
    return story.looks[-1], list(story.looks[-1].record["look"]["readings"])


def _levels(*keys: str, allow: Sequence[str] = ("ok",)) -> Callable[[Story], Answer]:
    """Answer by the last look: all these rows (none named: all) are at an allowed level."""

    def answer(story: Story) -> Answer:
        last = _last_look(story)
        if last is None:
            return Answer(False, "the SLOs were not looked at")
        row, readings = last
        if not readings:  # a look that could not be had, as with Prometheus away
            return Answer(False, f"the last look saw nothing: {row.record['look'].get('why', 'no reason')}", (row.n,))
        own = [r for r in readings if not keys or r["row"] in keys]
        absent = [key for key in keys if key not in {r["row"] for r in own}]
        wrong = [f"{r['row']} {_said(r)}" for r in own if r["level"] not in allow]
        if wrong or absent or not own:
            return Answer(False, "; ".join([*wrong, *(f"{key}: not looked at" for key in absent)]), (row.n,))
        return Answer(True, "last look: " + ", ".join(f"{r['row']} {_said(r)}" for r in own), (row.n,))

    return answer


def _said(reading: Mapping[str, Any]) -> str:
    value, count = reading["value"], reading.get("count")
    words = str(reading["level"]).replace("_", " ")
    figure = "" if value is None else f" ({value:.4g}{'' if count is None else f' of {count:g}'})"
    return words + figure


def _normal(story: Story) -> Answer:
    bad = [
        (row.n, r)
        for row in story.looks
        for r in row.record["look"]["readings"]
        if r["level"] in BEYOND or row.record["look"]["decision"] == "rollback"
    ]
    last = _last_look(story)
    if last is None:
        return Answer(False, "the SLOs were not looked at")
    if last[0].record["look"]["decision"] != "go_on":
        return Answer(False, f"the last look says {last[0].record['look']['decision']}", (last[0].n,))
    if bad:
        return Answer(False, f"{bad[0][1]['row']} was {_said(bad[0][1])}", (bad[0][0],))
    return Answer(
        True,
        f"{len(story.looks)} looks, no row beyond its alert level, the last one: go on",
        (story.looks[0].n, last[0].n),
    )


def _works(story: Story) -> Answer:
    row = story.done.get("promote")
    if row is None:
        return Answer(False, "the new release was not promoted")
    release = row.record["evidence"].get("release")
    served = {r.record["symbol"]: r for r in story.of("assign") if r.record["release"] == release}
    missing = [s for s in story.begin.get("symbols", ()) if s not in served]
    if missing or not served:
        return Answer(False, f"not handed over: {', '.join(missing) or 'any symbol'}", (row.n,))
    return Answer(True, f"{release} serves {', '.join(served)}", (*(r.n for r in served.values()), row.n))


def _monitored(story: Story) -> Answer:
    row = story.done.get("monitoring")
    if row is None:
        return Answer(False, "monitoring was not installed")
    evidence, closure = row.record["evidence"], _levels("closure")(story)
    servers = ", ".join(f"{k}: {evidence[k]}" for k in ("prometheus", "alertmanager", "grafana") if k in evidence)
    if not closure.is_ticked:
        return Answer(False, f"{servers}; closure: {closure.evidence}", (row.n, *closure.rows))
    return Answer(True, f"{servers}; {closure.evidence}", (row.n, *closure.rows))


def _rules_in_force(story: Story) -> Answer:
    row = story.done.get("monitoring")
    if row is None:
        return Answer(False, "monitoring was not installed")
    said = str(row.record["evidence"].get("prometheus", "nothing"))
    rules = [r for r in (story.checks[1] if story.checks else ()) if r["key"] == "rules"]
    valid = f"; {rules[0]['evidence']}" if rules else ""
    # Prometheus refuses a reload with a rule it cannot read, so a reload that it took has the rules in force.
    return Answer(said.startswith("reloaded"), f"Prometheus: {said}{valid}", (row.n,))


def _no_critical_alarm(story: Story) -> Answer:
    if not story.looks:
        return Answer(False, "the SLOs were not looked at")
    alarms = story.of("alarm")
    if alarms:
        return Answer(False, f"{len(alarms)} alarms", tuple(row.n for row in alarms))
    for row in story.looks:
        for reading in row.record["look"]["readings"]:
            if reading["level"] == "rollback":
                return Answer(False, f"{reading['row']} was {_said(reading)}", (row.n,))
    rows = (story.looks[0].n, story.looks[-1].n)
    return Answer(
        True, f"no alarm was entered and no row was beyond its rollback level in {len(story.looks)} looks", rows
    )


def _stable(story: Story) -> Answer:
    good: list[Row] = []
    for row in story.looks:
        good = [*good, row] if row.record["look"]["decision"] == "go_on" else []
    if not good:
        return Answer(False, "no good look at the end")
    span_s = good[-1].record["look"]["at_s"] - good[0].record["look"]["at_s"]
    text = f"{len(good)} good looks over {span_s / 60:.1f} min up to the last one; 30 min are asked for"
    return Answer(span_s >= STABLE_S, text, (good[0].n, good[-1].n))


def _performance(story: Story) -> Answer:
    """Answer by all looks: no latency was ever beyond its alert level, nor worse than that of the release before."""
    last = _levels(*LATENCIES)(story)
    if not last.is_ticked:
        return last
    for row in story.looks:
        for reading in row.record["look"]["readings"]:
            if reading["row"] in LATENCIES and reading["level"] in BEYOND:
                return Answer(False, f"{reading['row']} was {_said(reading)}", (row.n,))
    row = story.looks[-1]
    compared = row.record["look"].get("comparison", ())
    worse = [c["metric"] for c in compared if c["peak"] >= c["limit"]]
    if worse:
        return Answer(False, f"worse than the release before: {', '.join(worse)}", (row.n,))
    before = f"; {len(compared)} metrics not worse than the release before" if compared else "; none before to compare"
    return Answer(True, last.evidence + before, last.rows)


def _accuracy(story: Story) -> Answer:
    live = _levels("hit_rate")(story)
    if live.is_ticked or story.checks is None:
        return live
    row, results = story.checks
    signed = next((r["facts"].get("accuracy") for r in results if r["key"] == "bundle" and r.get("facts")), None)
    if not signed:
        return live
    return Answer(False, f"live: {live.evidence}; the sign-off, on its data: {signed}", (*live.rows, row.n))


def _complete(story: Story) -> Answer:
    if not story.looks:
        return Answer(False, "the SLOs were not looked at")
    holds = [row for row in story.looks if row.record["look"]["decision"] == "hold"]
    if holds:
        why = holds[-1].record["look"].get("why", "")
        return Answer(
            False, f"{len(holds)} of {len(story.looks)} looks were on hold: {why}", tuple(r.n for r in holds[:3])
        )
    last = _last_look(story)
    assert last is not None
    silent = [r["row"] for r in last[1] if r["level"] == "no_data"]
    if silent:
        return Answer(False, f"no data at the last look: {', '.join(silent)}", (last[0].n,))
    return Answer(
        True, f"{len(story.looks)} looks, each with data of what is required", (story.looks[0].n, story.looks[-1].n)
    )


def _people(_: Story) -> Answer:
    return Answer(False, FOR_PEOPLE)


def _verified(key: str, tell: Callable[[Any], tuple[bool, str]]) -> Callable[[Story], Answer]:
    def answer(story: Story) -> Answer:
        row = story.done.get("verify")
        evidence = {} if row is None else row.record["evidence"]
        if row is None or key not in evidence:
            why = "nothing serves after this rollback" if row is not None else "not verified"
            return Answer(False, why, () if row is None else (row.n,))
        ticked, text = tell(evidence[key])
        return Answer(ticked, text, (row.n,))

    return answer


def _figures_back(look: Any) -> tuple[bool, str]:
    if not look or not look["readings"]:  # that nothing is known to be wrong is no evidence that all is well
        return False, f"not known: {(look or {}).get('why') or 'Prometheus did not answer'}"
    wrong = [f"{r['row']} {_said(r)}" for r in look["readings"] if r["level"] in (*BEYOND, *UNKNOWN)]
    fine = [f"{r['row']} {_said(r)}" for r in look["readings"] if r["level"] not in (*BEYOND, *UNKNOWN)]
    return not wrong, "; ".join(wrong) if wrong else ", ".join(fine)


_List = tuple[str, str, str, tuple[Box, ...]]
_DEPLOY: Final[tuple[_List, ...]] = (
    (
        "before",
        "Before the deploy",
        "预部署检查",
        (
            Box(
                "files", "All configuration files exist and are valid", "所有配置文件存在且格式正确", _checked("files")
            ),
            Box("packages", "Packages are installed", "依赖包已安装", _checked("packages")),
            Box("acceptance", "Acceptance criteria are met", "验收标准验证通过", _checked("acceptance")),
            Box("monitoring", "Monitoring is ready", "监控系统准备就绪", _checked("monitoring")),
        ),
    ),
    (
        "during",
        "Deploy",
        "部署过程",
        (
            Box("preflight", "Checks passed", "预检通过", _checked()),
            Box("canary", "Canary deployed", "灰度部署成功", _canary),
            Box("healthy", "Service is healthy", "服务健康检查通过", _healthy),
            Box("normal", "Metrics are normal", "监控指标正常", _normal),
        ),
    ),
    (
        "after",
        "After the deploy",
        "部署后验证",
        (
            Box("works", "It works", "功能验证通过", _works),
            Box("performs", "It performs", "性能验证通过", _levels(*LATENCIES)),
            Box("monitored", "It is monitored", "监控验证通过", _monitored),
            Box("rules", "Alert rules are in force", "告警规则生效", _rules_in_force),
        ),
    ),
    (
        "success_technical",
        "Success: technical",
        "成功标准：技术指标",
        (
            Box("slos", "All SLOs are on target", "所有SLO指标达标", _levels()),
            Box("no_alarm", "No critical alarm", "无关键告警", _no_critical_alarm),
            Box("stable", "Stable for 30 minutes and more", "系统稳定运行30分钟以上", _stable),
            Box("performance", "Performance as expected", "性能指标符合预期", _performance),
        ),
    ),
    (
        "success_business",
        "Success: business",
        "成功标准：业务指标",
        (
            Box("accuracy", "Accuracy of detection at least 55 %", "背离检测准确率 ≥ 55%", _accuracy),
            Box("signals", "Signals come steadily", "信号生成稳定", _levels("events_per_hour")),
            Box("complete", "Monitoring data are complete", "监控数据完整", _complete),
            Box("users", "Users are content", "用户体验良好", _people),
        ),
    ),
)
_ROLLBACK: Final[tuple[_List, ...]] = (
    (
        "rollback",
        "After the rollback",
        "回滚验证",
        (
            Box(
                "system",
                "The system is stable again",
                "系统恢复到稳定状态",
                _verified("system", lambda v: (v == "ready", str(v))),
            ),
            Box("figures", "Key figures are normal again", "关键指标恢复正常", _verified("key_figures", _figures_back)),
            Box(
                "log",
                "No errors in the log",
                "无错误日志",
                _verified("error_lines", lambda v: (v == 0, f"{v} lines of errors")),
            ),
            Box(
                "monitoring",
                "Monitoring is normal",
                "监控仪表盘正常",
                _verified("monitoring", lambda v: (v == "scraped", str(v))),
            ),
        ),
    ),
)
