"""The deploy record as a page in markdown, in English or with the guide's own Chinese headings.

It is a pure function of record.json. Whatever people or machines put into the ledger is shown as text, never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

__all__ = ["page"]

Language = Literal["en", "zh"]
_SPECIAL: Final = re.compile(r"([\\`*\[\]<>|~#&])")
NONE: Final = "-"
SHORT: Final = 12  # digits of a hash in a table that has the whole one elsewhere

# English, Chinese. The guide's words where it has some (部署记录模板).
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "deploy": ("Deploy record", "部署记录"),
    "rollback": ("Rollback record", "回滚记录"),
    "info": ("Deploy", "部署信息"),
    "result": ("Result", "部署结果"),
    "time": ("Time", "部署时间"),
    "version": ("Version", "部署版本"),
    "people": ("By", "部署人员"),
    "env": ("Environment", "部署环境"),
    "status": ("Status", "部署状态"),
    "figures": ("Key figures", "关键指标"),
    "problems": ("Problems", "问题记录"),
    "actions": ("Follow-up actions", "后续行动"),
    "reason": ("Reason", "原因"),
    "operation": ("Operation", "操作编号"),
    "kind": ("Kind", "类型"),
    "releases": ("Releases", "版本目录"),
    "symbols": ("Symbols", "交易品种"),
    "signoff": ("Sign-off", "签核包"),
    "overrides": ("Overrides", "签名豁免"),
    "snapshots": ("Monitoring snapshots", "监控快照"),
    "ledger": ("Ledger", "账本"),
    "checklists": ("Checklists", "部署检查清单"),
    "timeline": ("Timeline", "时间线"),
    "attachments": ("Attachments", "附件"),
    "none": ("none", "无"),
    "row": ("row", "行"),
    "open_": ("open", "未完成"),
    "figure": ("figure", "指标"),
    "target": ("target", "阈值"),
    "first": ("first", "最初"),
    "worst": ("worst", "最差"),
    "last": ("last", "最后"),
    "looks": ("looks", "次数"),
    "level": ("level", "状态"),
    "step": ("what happened", "事件"),
    "size": ("bytes", "字节"),
    "fill": ("to be filled in by people", "待填写"),
    "utc": ("All times are UTC. Row numbers are those of the deploy ledger.", "时间均为UTC。行号为部署账本的行号。"),
    "contact": ("Who was told, and how", "应急联系与通知"),
    "sign": ("Who read this record and agrees", "复核人签字"),
    "next": ("What is to be done next, by whom, until when", "后续事项、负责人与期限"),
    "box": ("box", "项目"),
}
_OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "completed": ("SUCCESS: completed", "成功"),
    "rolled_back": ("ROLLED BACK", "已回滚"),
    "stopped": ("STOPPED: nothing serves", "已停止（无服务）"),
    "refused": ("FAILED: refused by the checks", "失败（预检未通过）"),
    "failed": ("FAILED", "失败"),
    "superseded": ("FAILED: taken over by another operation", "失败（被其他操作接管）"),
    "held": ("HELD: people decide", "暂停（等待人工决定）"),
    "open": ("NOT OVER", "进行中"),
}
_ENVIRONMENTS: Final = {"production": "生产环境", "testing": "测试环境", "development": "开发环境"}
_LEVELS: Final = {
    **{"ok": "达标", "above_target": "未达标", "alert": "告警", "rollback": "回滚"},
    **{"too_few": "样本不足", "no_data": "无数据"},
}


def page(record: Mapping[str, Any], language: Language) -> str:
    """Return the record as a page.

    Parameters
    ----------
    record : mapping
        As `record.json` has it.
    language : {"en", "zh"}
        Headings and boxes; evidence stays as the ledger has it.
    """
    at = 0 if language == "en" else 1

    def w(key: str) -> str:
        return _WORDS[key][at]

    lines = [f"# {w(record['kind'])} {_text(record['operation'])}", "", w("utc"), ""]
    lines += [f"## {w('info')}", "", *_head(record, at), ""]
    lines += [f"### {w('overrides')}", "", *_overrides(record, at), ""]
    lines += [f"## {w('result')}", ""]
    outcome = _OUTCOMES.get(record["outcome"], (record["outcome"], record["outcome"]))[at]
    why = f" ({_text(record['why'])})" if record["why"] else ""
    lines += [f"- **{w('status')}**: {outcome}{why}", ""]
    lines += [f"### {w('figures')}", "", *_figures(record["figures"], at), ""]
    found = [f"- {_text(p['utc'])} {_text(p['text'])} ({w('row')} {p['row']})" for p in record["problems"]]
    lines += [f"### {w('problems')}", "", *(found or [w("none")]), f"- [ ] {w('problems')}: [{w('fill')}]", ""]
    lines += [f"### {w('actions')}", "", *(f"- [ ] {_text(a)}" for a in record["follow_up"])]
    lines += [*(f"- [ ] {w(key)}: [{w('fill')}]" for key in ("next", "contact", "sign")), ""]
    lines += [f"## {w('checklists')}", "", *_checklists(record["checklists"], at)]
    lines += [f"## {w('timeline')}", "", *_timeline(record["timeline"], at), ""]
    lines += [f"## {w('attachments')}", "", *_attachments(record["attachments"], at), ""]
    return "\n".join(lines)


def _head(record: Mapping[str, Any], at: int) -> Iterator[str]:
    def line(key: str, text: str) -> str:
        return f"- **{_WORDS[key][at]}**: {text}"

    end = record["ended_utc"] or _WORDS["open_"][at]
    yield line("time", f"{_text(record['begun_utc'])} - {_text(end)}")
    yield line("version", _text(record["version"] or NONE))
    yield line("people", _text(", ".join(record["by"])))
    env = record["environment"]
    yield line("env", _text(_ENVIRONMENTS.get(env, env) if at else env))
    yield line("kind", _text(record["type"]))
    yield line("reason", _text(record["reason"] or NONE))
    yield line("releases", "; ".join(f"{name} `{_code(value)}`" for name, value in record["releases"].items() if value))
    yield line("symbols", _text(", ".join(record["symbols"]) or NONE))
    signoff = record["signoff"]
    if signoff is None:
        yield line("signoff", NONE)
    else:
        hashes = "; ".join(f"{k} `{_code(signoff[k])}`" for k in ("manifest_sha256", "signoff_sha256") if signoff[k])
        yield line("signoff", f"{_text(signoff['bundle'])}: {_text(signoff['verdict'])}, {_text(signoff['data'])}")
        yield f"  - {hashes}"
    shots = [a for a in record["attachments"] if a["name"].startswith("monitoring/")]
    yield line("snapshots", "" if shots else NONE)
    yield from (f"  - {_text(a['name'])} `{a['sha256']}`" for a in shots)
    own = record["ledger"]
    yield line("ledger", f"{_WORDS['row'][at]} {own['first_row']} - {own['last_row']}, sha256 `{own['sha256']}`")


def _overrides(record: Mapping[str, Any], at: int) -> list[str]:
    if not record["overrides"]:
        return [_WORDS["none"][at]]
    row = _WORDS["row"][at]
    return [
        f"- **{_text(o['check'])}**: {_text(o['override'])}; {_text(o['evidence'])} ({row} {o['row']})"
        for o in record["overrides"]
    ]


def _figures(figures: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    heads = [_WORDS[k][at] for k in ("figure", "target", "first", "worst", "last", "level", "looks")]
    return _table(heads, [_figure_row(f, at) for f in figures])


def _figure_row(figure: Mapping[str, Any], at: int) -> list[str]:
    last = figure["last"]
    level = NONE if last is None else _level(last, at)
    values = [_value(figure[k], at) for k in ("first", "worst", "last")]
    return [figure["title_zh" if at else "title"], figure["target"], *values, level, str(figure["n_looks"])]


def _value(one: Mapping[str, Any] | None, at: int) -> str:
    """Say a value and its row; of one that rests on too little also that, for it may look worse than the worst."""
    if one is None:
        return NONE
    few = f"{_level(one, at)}, " if one["level"] == "too_few" else ""
    return f"{one['text']} ({few}{_WORDS['row'][at]} {one['row']})"


def _level(one: Mapping[str, Any], at: int) -> str:
    return _LEVELS[one["level"]] if at else str(one["level"]).replace("_", " ")


def _checklists(lists: Sequence[Mapping[str, Any]], at: int) -> Iterator[str]:
    for one in lists:
        yield f"### {one['title_zh' if at else 'title']}"
        yield ""
        for box in one["boxes"]:
            rows = f" ({_WORDS['row'][at]} {', '.join(map(str, box['rows']))})" if box["rows"] else ""
            mark = "x" if box["ticked"] else " "
            yield f"- [{mark}] {box['title_zh' if at else 'title']}: {_text(box['evidence'])}{rows}"
        yield ""


def _timeline(lines: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    heads = [_WORDS["row"][at], "UTC", _WORDS["step"][at], _WORDS["people"][at]]
    rows = []
    for line in lines:
        is_one = line["first_row"] == line["last_row"]
        span = str(line["first_row"]) if is_one else f"{line['first_row']}-{line['last_row']}"
        time = line["utc"] if is_one else f"{line['utc']} - {line['until_utc']}"
        rows.append([span, time, line["text"], line["by"]])
    return _table(heads, rows)


def _attachments(found: Sequence[Mapping[str, Any]], at: int) -> list[str]:
    if not found:
        return [_WORDS["none"][at]]
    heads = [_WORDS["attachments"][at], "sha256", _WORDS["size"][at]]
    return _table(heads, [[a["name"], a["sha256"], f"{a['n_bytes']:,}"] for a in found])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(_text(cell) or NONE for cell in row)} |" for row in rows),
    ]


def _text(value: object) -> str:
    """Return text that markdown shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _code(value: object) -> str:
    return " ".join(str(value).split()).replace("`", "'")
