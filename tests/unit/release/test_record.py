"""The deploy record of hand-made ledgers: every box follows from rows, and nothing else gets into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from v13 import store
from v13.errors import ReleaseError, StoreError
from v13.release import ledger as deploy_ledger
from v13.release.ledger import Claim, DeployLedger
from v13.release.record import SCHEMA, write_record
from v13.release.record_facts import story
from v13.release.site import Site, open_site

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SHA = "ab" * 32
STABLE, NEW = "20260220T090000Z-11111111", "20260301T120000Z-22222222"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
STEPS = [
    *("check", "backup", "build", "monitoring", "start", "handover:BTCUSDT", "observe:BTCUSDT", "extend:rest"),
    *("handover:rest", "observe:rest", "promote"),
]
VALUES = {
    **{"event_latency": 0.0011, "pipeline_latency": 0.041, "compute_latency": 0.0031, "closure": 0.002},
    **{"error_rate": 0.0, "availability": 1.0, "events_per_hour": 31.0, "score_median": 57.0, "hit_rate": 0.57},
}
SNAPSHOT = Path(__file__).with_name("record_snapshot")


class Told:
    """A ledger on a clock that goes a minute a row, and what may be entered into it."""

    def __init__(self, folder: Path) -> None:
        self.time = BEGAN
        for name in ("system.yaml", "slo.yaml", "environments/testing.yaml"):
            store.copy(REPO / "config" / name, folder / "config" / name)
        self.site: Site = open_site(folder, "testing", {})
        self.ledger = DeployLedger(self.site.ledger, self.now)
        self.claim = Claim("", 0)

    def now(self) -> datetime:
        self.time += timedelta(minutes=1)
        return self.time

    def begin(self) -> None:
        facts = {"reason": "new parameters", "stable": STABLE, "env": "testing", "steps": STEPS, "symbols": SYMBOLS}
        self.claim = self.ledger.begin("deploy", facts | {"signoff": "/somewhere/reports/signed"})

    def done(self, step: str, evidence: Mapping[str, Any] | None = None, rows: Any = ()) -> None:
        self.ledger.done(self.claim, step, evidence or {}, rows)

    def look(self, step: str, decision: str = "go_on", why: str = "all is well", **changed: Any) -> None:
        """Enter a look; `changed`: row=(value, level) or (value, level, count)."""
        readings = []
        for row, value in VALUES.items():
            found = changed.get(row, (value, "ok", 400.0))
            count = found[2] if len(found) > 2 else 400.0
            reading = {"row": row, "title": row, "unit": "1", "value": found[0], "level": found[1], "count": count}
            readings.append({**reading, "since_s": None, "note": ""})
        compared = {"metric": "compute_latency", "peak": changed.get("peak", 1.2), "limit": 100.0}
        look = {"at_s": self.time.timestamp(), "readings": readings, "comparison": [compared]}
        look |= {"decision": decision, "why": why}
        self.ledger.enter(self.claim, "look", {"step": step, "look": look, "observer": {}})

    def upto(self, last: str, *, change: Callable[[Told, str], bool] = lambda *_: False, n_looks: int = 40) -> None:
        """Do the steps of a good deploy up to one; `change` returns whether it has done a step itself."""
        for step in STEPS:
            if not change(self, step):
                self._do(step, n_looks)
            if step == last:
                return

    def _do(self, step: str, n_looks: int) -> None:
        name, _, group = step.partition(":")
        evidence: dict[str, Any] = {}
        rows: list[tuple[str, Any]] = []
        if name == "check":
            evidence = {"checks": checks()}
        elif name == "build":
            rows = [("candidate", {"release": NEW}), ("slot", {"release": NEW, "port": 8013})]
            evidence = {"release": NEW, "signoff_sha256": SHA, "verdict": "PASS", "simulated": False}
        elif name == "monitoring":
            evidence = {"prometheus": "reloaded over http://localhost:9090", "alertmanager": "declared absent"}
        elif name == "start":
            evidence = {"port": 8013, "seconds": 3.25, "answer": "ready, 12 bars"}
        elif name == "handover":
            given = ("BTCUSDT",) if group == "BTCUSDT" else SYMBOLS[1:]
            rows = [("assign", {"symbol": s, "from_ms": 1_772_366_400_000, "release": NEW}) for s in given]
            evidence = {"from": STABLE, "to": NEW}
        elif name == "observe":
            for _ in range(n_looks):
                self.look(step)
            evidence = {"n_looks": n_looks}
        elif name == "promote":
            rows = [("stable", {"release": NEW}), ("candidate", {"release": None})]
            evidence = {"release": NEW, "retired": STABLE}
        self.done(step, evidence, rows)

    def record(self, attachments: Mapping[str, Path] | None = None, operation: str | None = None) -> dict[str, Any]:
        folder = write_record(self.site, self.ledger, attachments, operation=operation)
        found: dict[str, Any] = store.read_json(folder / "record.json")
        store.validate(found, SCHEMA)
        return found


def checks(**changed: Mapping[str, Any]) -> list[dict[str, Any]]:
    boxes = {"config_files": "files", "dependencies": "packages", "bundle": "acceptance", "rules": "monitoring"}
    found = []
    for key, box in boxes.items():
        one = {"key": key, "title": key, "status": "ok", "evidence": f"{key} looked at", "remedy": "", "box": box}
        found.append({**one, "override": "", "facts": {}, **changed.get(key, {})})
    found[2]["facts"] = {
        **{"bundle": "signed", "manifest_sha256": SHA, "signoff_sha256": "cd" * 32, "v13_version": "13.0.0"},
        **{"verdict": "PASS", "data": "recorded", "accuracy": "Accuracy after 10 bars: 0.581"},
    }
    return found


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(deploy_ledger, "whoami", lambda: "operator@machine")
    monkeypatch.setattr(deploy_ledger.secrets, "token_hex", lambda _: "abc123")
    return Told(tmp_path / "root")


@pytest.fixture
def good(told: Told) -> Told:
    told.begin()
    told.upto("promote")
    told.ledger.end(told.claim, "completed", "all symbols are over")
    return told


def boxes(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{one['key']}.{box['key']}": box for one in record["checklists"] for box in one["boxes"]}


def test_a_good_deploy_ticks_every_box_but_what_people_have_to_say(good: Told) -> None:
    record = good.record()
    assert record["outcome"] == "completed"
    assert [key for key, box in boxes(record).items() if not box["ticked"]] == ["success_business.users"]
    assert record["releases"] == {"new": NEW, "before": STABLE}
    assert record["signoff"]["manifest_sha256"] == SHA
    assert record["problems"] == []
    assert record["ledger"]["sha256"] == good.ledger.rows()[-1].sha256


def test_each_tick_points_to_rows_that_are_there_and_of_this_operation(good: Told) -> None:
    rows = {row.n: row.record for row in good.ledger.rows()}
    for box in boxes(good.record()).values():
        assert not box["ticked"] or box["rows"]
        assert all(rows[n]["key"] == good.claim.operation for n in box["rows"])


def test_the_guides_lists_and_boxes_are_all_there_in_its_words(good: Told, repo: Path) -> None:
    text = (write_record(good.site, good.ledger) / "record.zh.md").read_text(encoding="utf-8")
    guide = repo.parent / "shared" / "deployment-guide.zh.md"
    if not guide.is_file():
        pytest.skip("the guide is not beside this checkout")
    part = guide.read_text(encoding="utf-8").partition("## 📋")[2].partition("## 📞")[0]
    wanted = re.findall(r"^- \[ \] (.+)$", part, re.MULTILINE)
    assert len(wanted) == 20
    for title in (*wanted, "部署信息", "部署时间", "部署版本", "部署人员", "部署环境"):
        assert title in text
    for title in (
        "部署结果",
        "部署状态",
        "关键指标",
        "问题记录",
        "后续行动",
        "预部署检查",
        "部署过程",
        "部署后验证",
        "成功标准",
    ):
        assert title in text


def test_written_again_it_is_the_same_bytes_whatever_onlookers_note_later(good: Told) -> None:
    folder = write_record(good.site, good.ledger)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    good.ledger.note("alarm", {"what": "long after"})
    assert write_record(good.site, good.ledger) == folder
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_the_pages_are_what_was_reviewed(good: Told, tmp_path: Path) -> None:
    store.write_text(tmp_path / "end.html", "<html></html>\n")
    folder = write_record(good.site, good.ledger, {"monitoring/end.html": tmp_path / "end.html"})
    own = good.ledger.rows()[-1].sha256
    for name in ("record.md", "record.zh.md"):
        text = (folder / name).read_text(encoding="utf-8").replace(own, "(hash of the last row)")
        assert text == (SNAPSHOT / name).read_text(encoding="utf-8"), f"review {folder / name}"


def test_first_worst_and_last_value_of_each_figure_are_told_with_their_rows(told: Told) -> None:
    told.begin()
    told.upto("handover:BTCUSDT")
    told.look("observe:BTCUSDT", event_latency=(0.002, "ok"), availability=(0.9999, "ok"))
    told.look(
        "observe:BTCUSDT",
        event_latency=(0.004, "alert"),
        availability=(0.9991, "ok"),
        events_per_hour=(8.0, "above_target"),
    )
    told.look(
        "observe:BTCUSDT",
        event_latency=(0.001, "ok"),
        events_per_hour=(101.0, "above_target"),
        hit_rate=(None, "no_data", None),
    )
    n = told.ledger.rows()[-1].n
    found = {f["row"]: f for f in told.record()["figures"]}
    latency = found["event_latency"]
    assert [latency[k]["value"] for k in ("first", "worst", "last")] == [0.002, 0.004, 0.001]
    assert [latency[k]["row"] for k in ("first", "worst", "last")] == [n - 2, n - 1, n]
    assert latency["target"] == "at most 2.5 ms"
    assert found["availability"]["worst"]["value"] == 0.9991  # here less is worse
    assert found["events_per_hour"]["worst"]["value"] == 8.0  # two below the band is worse than one above it
    assert found["hit_rate"]["last"] == {"value": None, "text": "no data", "count": None, "level": "no_data", "row": n}
    assert found["hit_rate"]["n_values"] == 2


def test_a_value_of_too_little_says_so_where_it_looks_worse_than_the_worst(told: Told) -> None:
    told.begin()
    told.upto("handover:BTCUSDT")
    told.look("observe:BTCUSDT", event_latency=(1.0, "too_few"))
    told.look("observe:BTCUSDT", event_latency=(0.0005, "ok"))
    n = told.ledger.rows()[-1].n
    told.record()
    assert f"| 1 s (too few, row {n - 1}) | 500 µs (row {n}) | 500 µs (row {n}) | ok |" in page(told, "record.md")
    assert f"| 1 s (样本不足, 行 {n - 1}) | 500 µs (行 {n}) |" in page(told, "record.zh.md")


@pytest.mark.parametrize(
    ("changed", "open_boxes"),
    [
        (
            {"event_latency": (0.003, "above_target")},
            {"after.performs", "success_technical.slos", "success_technical.performance"},
        ),
        ({"closure": (0.12, "above_target")}, {"after.monitored", "success_technical.slos"}),
        ({"hit_rate": (0.4, "too_few", 12.0)}, {"success_technical.slos", "success_business.accuracy"}),
        ({"events_per_hour": (3.0, "alert")}, {"during.normal", "success_technical.slos", "success_business.signals"}),
        ({"error_rate": (None, "no_data", None)}, {"success_technical.slos", "success_business.complete"}),
        ({"peak": 150.0}, {"success_technical.performance"}),
    ],
)  # fmt: skip
def test_a_figure_that_is_not_on_target_at_the_end_leaves_its_boxes_open(
    told: Told, changed: dict[str, Any], open_boxes: set[str]
) -> None:
    def change(told: Told, step: str) -> bool:
        if step != "observe:rest":
            return False
        for _ in range(40):
            told.look(step)
        told.look(step, **changed)
        told.done(step)
        return True

    told.begin()
    told.upto("promote", change=change)
    told.ledger.end(told.claim, "completed", "all symbols are over")
    found = {key for key, box in boxes(told.record()).items() if not box["ticked"]}
    assert found == open_boxes | {"success_business.users"}


def test_too_few_outcomes_leave_the_accuracy_open_with_what_the_sign_off_said(told: Told) -> None:
    told.begin()
    told.upto("handover:BTCUSDT")
    told.look("observe:BTCUSDT", hit_rate=(0.6, "too_few", 12.0))
    box = boxes(told.record())["success_business.accuracy"]
    assert not box["ticked"]
    assert "too few (0.6 of 12)" in box["evidence"]
    assert "Accuracy after 10 bars: 0.581" in box["evidence"]


def test_less_than_half_an_hour_of_good_looks_is_not_stable(told: Told) -> None:
    told.begin()
    told.upto("promote", n_looks=3)
    told.ledger.end(told.claim, "completed", "all symbols are over")
    box = boxes(told.record())["success_technical.stable"]
    assert not box["ticked"]
    assert "30 min are asked for" in box["evidence"]


def test_a_hold_begins_the_half_hour_anew_and_is_a_problem(told: Told) -> None:
    def change(told: Told, step: str) -> bool:
        if step != "observe:rest":
            return False
        told.look(step, "hold", "Prometheus does not answer")
        for _ in range(5):
            told.look(step)
        told.done(step)
        return True

    told.begin()
    told.upto("promote", change=change)
    record = told.record()
    found = boxes(record)
    assert not found["success_technical.stable"]["ticked"]
    assert not found["success_business.complete"]["ticked"]
    assert any("Prometheus does not answer" in p["text"] for p in record["problems"])


def test_an_alarm_leaves_its_box_open_and_is_a_problem(told: Told) -> None:
    told.begin()
    told.upto("observe:BTCUSDT")
    row = told.ledger.note("alarm", {"what": "Prometheus is dead", "by": "guard"})
    record = told.record()
    assert boxes(record)["success_technical.no_alarm"]["rows"] == [row.n]
    assert not boxes(record)["success_technical.no_alarm"]["ticked"]
    assert any("Prometheus is dead" in p["text"] for p in record["problems"])


def test_rules_that_prometheus_was_not_told_are_not_in_force(told: Told) -> None:
    def change(told: Told, step: str) -> bool:
        if step == "monitoring":
            told.done(step, {"prometheus": "declared absent"})
        return step == "monitoring"

    told.begin()
    told.upto("observe:rest", change=change)
    assert not boxes(told.record())["after.rules"]["ticked"]


def test_a_refused_deploy_tells_what_failed_and_ticks_nothing_it_did_not_do(told: Told) -> None:
    told.begin()
    failed = {"status": "failed", "evidence": "numpy 1, locked is 2", "remedy": "make bootstrap"}
    told.ledger.enter(told.claim, "checked", {"checks": checks(dependencies=failed)})
    told.ledger.end(told.claim, "refused", "packages", [("candidate", {"release": None})])
    record = told.record()
    ticked = {key for key, box in boxes(record).items() if box["ticked"]}
    assert ticked == {"before.files", "before.acceptance", "before.monitoring"}
    assert record["releases"]["new"] is None
    assert any("numpy 1, locked is 2" in p["text"] for p in record["problems"])
    assert "FAILED: refused by the checks" in page(told, "record.md")


def page(told: Told, name: str) -> str:
    return (write_record(told.site, told.ledger) / name).read_text(encoding="utf-8")


def test_overrides_stand_on_the_first_page(told: Told) -> None:
    def change(told: Told, step: str) -> bool:
        if step == "check":
            passed = {"override": "dependencies: a patched numpy (key 0123, until 2026-03-02)"}
            told.done(step, {"checks": checks(dependencies=passed)})
        return step == "check"

    told.begin()
    told.upto("start", change=change)
    record = told.record()
    assert [o["check"] for o in record["overrides"]] == ["dependencies"]
    assert boxes(record)["before.packages"]["ticked"]
    assert "let pass by override" in boxes(record)["before.packages"]["evidence"]
    text = page(told, "record.md")
    assert text.index("a patched numpy") < text.index("## Result")


@pytest.mark.parametrize("last", STEPS[:-1])
def test_an_open_deploy_has_a_record_at_every_step(told: Told, last: str) -> None:
    told.begin()
    assert told.record()["outcome"] == "open"
    told.upto(last, n_looks=2)
    record = told.record()
    assert record["ended_utc"] is None
    assert not boxes(record)["after.works"]["ticked"]
    told.ledger.pause(paused=True, reason="lunch")
    assert told.record()["outcome"] == "held"


def rolled_back(told: Told, verify: Mapping[str, Any]) -> dict[str, Any]:
    told.begin()
    told.upto("handover:BTCUSDT")
    told.look("observe:BTCUSDT", "rollback", "event latency above 5 ms for 15 min", event_latency=(0.009, "rollback"))
    facts = {"type": "automatic", "reason": "event latency", "bad": NEW, "good": STABLE, "stamp": None, "also": None}
    told.deploy = told.claim.operation  # type: ignore[attr-defined]
    told.ledger.end(told.claim, "superseded", "event latency")
    told.claim = told.ledger.begin("rollback", facts)
    told.done("stop", {"releases": [NEW], "seconds": 0.8})
    told.done("restore", {"release": STABLE, "was_running": True})
    rows = [("assign", {"symbol": "BTCUSDT", "from_ms": 1_772_366_500_001, "release": STABLE})]
    told.done("handback", {"symbols": [["BTCUSDT", 1]]}, rows)
    told.done("verify", verify)
    told.ledger.end(told.claim, "rolled_back", "event latency")
    return told.record()


BLIND = "Prometheus could not be asked: http://localhost:9090: Prometheus cannot be reached"


def test_a_deploy_that_was_held_while_prometheus_was_away_has_a_record(told: Told) -> None:
    told.begin()
    told.upto("handover:BTCUSDT")
    told.look("observe:BTCUSDT")
    nothing = {"at_s": told.time.timestamp(), "readings": [], "comparison": [], "decision": "hold", "why": BLIND}
    told.ledger.enter(told.claim, "look", {"step": "observe:BTCUSDT", "look": nothing, "observer": {}})
    told.ledger.enter(told.claim, "pause", {"paused": True, "reason": "not good for 1800 s", "by": "op"})
    found = boxes(told.record())
    for key in ("success_technical.slos", "after.performs", "success_technical.performance", "after.monitored"):
        assert not found[key]["ticked"]
        assert BLIND in found[key]["evidence"]


def test_what_prometheus_could_not_be_asked_after_a_rollback_is_not_normal(told: Told) -> None:
    blind = {"readings": [], "decision": "hold", "why": BLIND}
    seen = {"system": "ready", "key_figures": blind, "error_lines": 0, "monitoring": BLIND}
    record = rolled_back(told, {"release": STABLE, **seen, "problems": [f"key figures: {BLIND}"]})
    box = boxes(record)["rollback.figures"]
    assert not box["ticked"]
    assert box["evidence"] == f"not known: {BLIND}"


def figures_of(level: str) -> dict[str, Any]:
    return {"readings": [{"row": "event_latency", "value": 0.001, "level": level, "count": 400.0}]}


def test_a_rollback_has_the_guides_four_points(told: Told) -> None:
    seen = {"system": "ready", "key_figures": figures_of("ok"), "error_lines": 0, "monitoring": "scraped"}
    record = rolled_back(told, {"release": STABLE, **seen, "problems": []})
    assert record["kind"] == "rollback"
    assert record["outcome"] == "rolled_back"
    assert all(box["ticked"] for box in boxes(record).values())
    assert record["releases"] == {"rolled_back": NEW, "serves_now": STABLE, "also_stopped": None}
    assert record["symbols"] == ["BTCUSDT"]
    text = page(told, "record.zh.md")
    assert "回滚验证" in text
    assert "已回滚" in text


def test_what_is_not_well_after_a_rollback_stays_open(told: Told) -> None:
    seen = {"system": "not fed", "key_figures": figures_of("too_few"), "error_lines": 2, "monitoring": "no answer"}
    record = rolled_back(told, {"release": STABLE, **seen, "problems": ["system: not fed"]})
    assert not any(box["ticked"] for box in boxes(record).values())
    assert any("not fed" in p["text"] for p in record["problems"])


def test_the_deploy_that_was_taken_back_has_its_own_record(told: Told) -> None:
    seen = {"system": "ready", "key_figures": None, "error_lines": 0, "monitoring": "scraped"}
    rolled_back(told, {"release": STABLE, **seen, "problems": []})
    record = told.record(operation=told.deploy)  # type: ignore[attr-defined]
    assert record["kind"] == "deploy"
    assert record["outcome"] == "superseded"
    assert not boxes(record)["success_technical.no_alarm"]["ticked"]
    assert any("event latency above 5 ms" in p["text"] for p in record["problems"])


def test_a_worker_that_was_replaced_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.begin()
    told.upto("backup")
    monkeypatch.setattr(deploy_ledger, "whoami", lambda: "another@machine")
    told.claim = told.ledger.resume()
    told.done("build")
    told.ledger.end(told.claim, "failed", "disk full")
    record = told.record()
    assert record["by"] == ["operator@machine", "another@machine"]
    assert any("another@machine went on with it" in p["text"] for p in record["problems"])
    assert any("failed: disk full" in p["text"] for p in record["problems"])


def test_looks_of_one_kind_are_one_line_of_the_timeline_and_all_rows_are_covered(good: Told) -> None:
    lines = good.record()["timeline"]
    covered = [n for line in lines for n in range(line["first_row"], line["last_row"] + 1)]
    assert covered == [row.n for row in good.ledger.rows()]
    assert sum("looks: go_on" in line["text"] for line in lines) == 2


def test_what_people_wrote_is_shown_as_text_and_never_as_markup(told: Told) -> None:
    told.ledger.begin("deploy", {"reason": "<script>x</script> | [a](http://b) `c` **d**\n# e", "env": "testing"})
    for name in ("record.md", "record.zh.md"):
        text = page(told, name)
        assert r"\<script\>x\</script\> \| \[a\](http://b) \`c\` \*\*d\*\* \# e" in text
        assert "<script" not in text.replace(r"\<script", "")
        assert "\n# e" not in text


def test_attachments_are_copied_and_named_by_hash(good: Told, tmp_path: Path) -> None:
    store.write_text(tmp_path / "end.html", "<html></html>\n")
    release = good.site.release(NEW)
    store.write_json(release / "reports/latest/manifest.json", {"version": 1})
    record = good.record({"monitoring/end.html": tmp_path / "end.html"})
    assert [a["name"] for a in record["attachments"]] == ["monitoring/end.html", "signoff/manifest.json"]
    folder = good.site.records / good.claim.operation / "attachments"
    for entry in record["attachments"]:
        assert store.sha256_file(folder / entry["name"]) == entry["sha256"]
        assert entry["sha256"] in page(good, "record.md") or entry["name"].startswith("monitoring")


def test_a_record_written_anew_keeps_the_snapshots_and_is_the_same_bytes(good: Told, tmp_path: Path) -> None:
    store.write_text(tmp_path / "end.html", "<html></html>\n")
    before = good.record({"monitoring/end.html": tmp_path / "end.html"})
    assert good.record() == before  # as `v13 deploy record` does it, which has no snapshot to give
    folder = good.site.records / good.claim.operation
    assert (folder / "attachments/monitoring/end.html").read_text() == "<html></html>\n"
    store.write_text(tmp_path / "end.html", "<html>later</html>\n")
    good.record({"monitoring/end.html": tmp_path / "end.html"})
    assert (folder / "attachments/monitoring/end.html").read_text() == "<html>later</html>\n"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "a\\b"])
def test_an_attachment_cannot_leave_its_folder(good: Told, tmp_path: Path, name: str) -> None:
    store.write_text(tmp_path / "x", "x")
    with pytest.raises(ReleaseError, match="relative path"):
        write_record(good.site, good.ledger, {name: tmp_path / "x"})
    assert not good.site.records.exists()


def test_a_missing_attachment_or_operation_leaves_the_record_as_it_was(good: Told, tmp_path: Path) -> None:
    before = (write_record(good.site, good.ledger) / "record.json").read_bytes()
    with pytest.raises(StoreError):
        write_record(good.site, good.ledger, {"monitoring/end.html": tmp_path / "none"})
    with pytest.raises(ReleaseError, match="there is no operation nobody"):
        write_record(good.site, good.ledger, operation="nobody")
    assert (good.site.records / good.claim.operation / "record.json").read_bytes() == before


def test_an_empty_ledger_has_no_record() -> None:
    with pytest.raises(ReleaseError, match="there is no operation"):
        story([])


def test_the_schema_refuses_a_tick_without_a_row(good: Told) -> None:
    record = json.loads(json.dumps(good.record()))
    record["checklists"][0]["boxes"][0]["rows"] = []
    with pytest.raises(StoreError, match="rows"):
        store.validate(record, SCHEMA)
