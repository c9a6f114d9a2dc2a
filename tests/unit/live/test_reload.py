"""The reloader on real files: what is taken, what is refused, what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPO
from v13.config import Config, load
from v13.detector import DetectorParams, FeatureParams
from v13.errors import ConfigError, StoreError
from v13.live import reload as reload_module
from v13.live.artifacts import Artifacts, read_artifacts
from v13.live.reload import ExtraFile, Reloader
from v13.live.reload_change import LIVE_KEYS, RUNNER_KEYS
from v13.live.reload_stage import CALIBRATION, OVERRIDES, PARAMETERS, calibration
from v13.store import write_json, write_text, write_yaml
from v13.telemetry import Metrics

WAIT_S = 20.0  # generous: only a broken test waits for it
SYSTEM, ENVIRONMENT, SIGNOFF = (
    "config/system.yaml",
    "config/environments/development.yaml",
    "reports/latest/signoff.json",
)


class Clock:
    """Waits of the reloader take a turn of the loop; `during` is called in each of them."""

    def __init__(self) -> None:
        self.during: Callable[[], None] = lambda: None
        self.n_slept = 0

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.n_slept

    def monotonic_ns(self) -> int:
        return self.n_slept

    async def sleep(self, _seconds: float) -> None:
        self.n_slept += 1
        self.during()
        await asyncio.sleep(0)


class Scene:
    """A root, a reloader on it, and what it made of it."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.clock = Clock()
        self.metrics = Metrics((10, 20), ("BTCUSDT",))
        self.metrics.set("divergence_config_last_reload_successful", 1.0)
        self.asked = asyncio.Event()
        self.taken: list[tuple[Config, Artifacts]] = []
        self.refusing: StoreError | None = None
        self.n_attempts = 0
        layers = {"environ": options.pop("environ", {}), "overlay": options.pop("overlay", None)}
        read = partial(load, root, "development", **layers)
        loaded = read()
        self.reloader = Reloader(
            root,
            loaded,
            read_artifacts(root, loaded.config),
            load=read,
            take=self.take,
            asked=self.asked,
            metrics=self.metrics,
            clock=self.clock,
            **options,
        )

    def take(self, config: Config, artifacts: Artifacts) -> str:
        self.n_attempts += 1
        if self.refusing is not None:
            raise self.refusing
        self.taken.append((config, artifacts))
        return f"{len(self.taken) + 1}-abc"

    def text(self, name: str) -> str:
        return (self.root / name).read_text("utf-8")

    def write(self, name: str, old: str, new: str) -> None:
        text = self.text(name)
        assert text.count(old) == 1, old
        write_text(self.root / name, text.replace(old, new))

    @property
    def counts(self) -> tuple[int, int, bool]:
        """Taken, refused, and whether the last one was taken."""
        n_ok, n_refused = (self.value("config_reloads_total", result=r) for r in ("ok", "refused"))
        return n_ok, n_refused, bool(self.value("config_last_reload_successful"))

    def value(self, name: str, **labels: str) -> int:
        return int(self.metrics.bind(f"divergence_{name}", **labels).read())

    async def until(self, claim: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not claim():
                await asyncio.sleep(0)

    async def counted(self, n_ok: int, n_refused: int, *, successful: bool) -> None:
        """Return when just that was counted."""
        await self.until(lambda: self.counts[0] + self.counts[1] >= n_ok + n_refused)
        assert self.counts == (n_ok, n_refused, successful)
        assert self.value("errors_total", stage="reload") == n_refused


def prepared(root: Path) -> Path:
    """A root with settings and the files they name."""
    shutil.copytree(REPO / "config", root / "config", ignore=shutil.ignore_patterns("calibration"))
    params = DetectorParams(FeatureParams(window=60)).to_dict()
    write_yaml(root / PARAMETERS, {"version": 1, "features": params["features"], "decision": params["decision"]})
    write_yaml(root / OVERRIDES, {"version": 1, "overrides": []})
    write_json(root / CALIBRATION, calibration(0.6))
    return root


@asynccontextmanager
async def reloading(root: Path, **options: Any) -> AsyncIterator[Scene]:
    scene = Scene(root if (root / "config").is_dir() else prepared(root), **options)
    task = asyncio.create_task(scene.reloader.run())
    await scene.until(lambda: bool(scene.reloader._seen) or task.done())  # the look at the start found nothing new
    try:
        yield scene
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_each_kind_of_file_is_taken_however_it_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.counted(1, 0, successful=True)
            assert scene.taken[-1][1].params.decision.z_hi == 1.5
            rule = {"version": 1, "overrides": [{"when": {"session": "day"}, "set": {"z_hi": 1.0}}]}
            (tmp_path / OVERRIDES).write_text(json.dumps(rule))  # in place
            await scene.counted(2, 0, successful=True)
            assert scene.taken[-1][1].params.overrides[0].set == {"z_hi": 1.0}
            write_json(tmp_path / CALIBRATION, calibration(0.7))
            await scene.counted(3, 0, successful=True)
            assert scene.taken[-1][1].calibration.prob(50.0, 10) == 0.7
            scene.write(SYSTEM, "symbols: [BTCUSDT]", "symbols: [BTCUSDT, ETHUSDT]")
            await scene.counted(4, 0, successful=True)
            assert scene.taken[-1][0].runner.symbols == ("BTCUSDT", "ETHUSDT")
            (tmp_path / ENVIRONMENT).write_text(scene.text(ENVIRONMENT) + "\nrunner:\n  grace_ms: 99\n")
            await scene.counted(5, 0, successful=True)
            assert scene.taken[-1][0].runner.grace_ms == 99
            assert scene.value("config_last_reload_success_timestamp_seconds") >= 1_700_000_000

    asyncio.run(play())
    told = [r.getMessage() for r in caplog.records if r.name == "v13.live.reload"]
    assert [text.partition(" in force: ")[0] for text in told] == [f"configuration {n}-abc" for n in range(2, 7)]
    for text, part in zip(
        told,
        (
            "decision.z_hi: 2.0 -> 1.5; files.best_global.yaml: changed",
            "overrides: changed",
            "calibration.horizons: changed",
            "runner.symbols: ['BTCUSDT'] -> ['BTCUSDT', 'ETHUSDT']",
            "runner.grace_ms: 250 -> 99",
        ),
        strict=True,
    ):
        assert part in text


def test_a_file_of_settings_given_besides_is_reloaded_like_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, overlay = tmp_path / "root", tmp_path / "live" / "one.yaml"
    root.mkdir()
    write_text(overlay, "runner:\n  symbols: [BTCUSDT]\n")

    async def play() -> None:
        async with reloading(prepared(root), overlay=overlay) as scene:
            write_text(overlay, "runner:\n  symbols: [BTCUSDT, ETHUSDT]\n")
            await scene.counted(1, 0, successful=True)
            assert scene.taken[-1][0].runner.symbols == ("BTCUSDT", "ETHUSDT")
            write_text(overlay, "runner:\n  symbols: [ETHUSDT]\n  log: other.sqlite\n")
            await scene.counted(1, 1, successful=False)
            assert f"{overlay}:3: runner.log: runs/live/events.sqlite -> other.sqlite needs a restart" in caplog.text
            overlay.unlink()
            await scene.counted(1, 2, successful=False)
            assert f"{overlay}: missing" in caplog.text
            write_text(overlay, "runner:\n  symbol: [ETHUSDT]\n")
            await scene.counted(1, 3, successful=False)
            assert f"{overlay}:2: runner.symbol: unknown key; did you mean symbols?" in caplog.text
            assert len(scene.taken) == 1
            write_text(overlay, "runner:\n  symbols: [ETHUSDT]\n")
            await scene.counted(2, 3, successful=True)
            assert scene.taken[-1][0].runner.symbols == ("ETHUSDT",)

    asyncio.run(play())


BAD: dict[str, tuple[str, Callable[[Scene], object], str]] = {
    "value": (
        PARAMETERS,
        lambda s: s.write(PARAMETERS, "z_hi: 2.0", "z_hi: 0.2"),
        "global.yaml:LINE(z_mid): decision.z_mid:",
    ),
    "key": (
        PARAMETERS,
        lambda s: s.write(PARAMETERS, "z_hi: 2.0", "z_hey: 2.0"),
        "yaml:LINE(z_hey): decision.z_hey: unknown",
    ),
    "half": (
        PARAMETERS,
        lambda s: cut(s, PARAMETERS, "cooldown_ms"),
        "yaml:LINE(decision): decision.cooldown_ms: missing",
    ),
    "empty": (PARAMETERS, lambda s: cut(s, PARAMETERS, "version"), "best_global.yaml: the file: expected"),
    "gone": (PARAMETERS, lambda s: (s.root / PARAMETERS).unlink(), "best_global.yaml: missing"),
    "a folder": (PARAMETERS, lambda s: folder(s, PARAMETERS), "best_global.yaml: cannot be read"),
    "no YAML": (PARAMETERS, lambda s: s.write(PARAMETERS, "z_hi: 2.0", "z_hi: [2.0"), r"yaml:\d+: not valid YAML"),
    "binary": (
        PARAMETERS,
        lambda s: (s.root / PARAMETERS).write_bytes(b"\xff\x00"),
        "best_global.yaml: cannot be read",
    ),
    "overrides": (
        OVERRIDES,
        lambda s: s.write(OVERRIDES, "overrides: []", "overrides:\n- when: {session: dusk}\n  set: {z_hi: 1.0}"),
        r"best_by_bucket.yaml:LINE(- when): overrides\[0\]: when.session: expected one of night, day, found 'dusk'",
    ),
    "calibration": (CALIBRATION, lambda s: cut(s, CALIBRATION, '"prob"'), r"calibration.json:\d+: not valid JSON"),
    "curves": (
        CALIBRATION,
        lambda s: write_json(s.root / CALIBRATION, calibration(1.6)),
        'calibration.json:LINE("horizons"): horizons: .* a probability is outside',
    ),
    "setting": (
        SYSTEM,
        lambda s: s.write(SYSTEM, "grace_ms: 250", "grace_ms: soon"),
        "system.yaml:LINE(grace_ms): runner.grace_ms: expected a whole",
    ),
    "environment": (
        ENVIRONMENT,
        lambda s: s.write(ENVIRONMENT, "retries: 1", "retires: 1"),
        "development.yaml:LINE(retires): download.retires: unknown",
    ),
    "symbols": (
        SYSTEM,
        lambda s: s.write(SYSTEM, "[BTCUSDT]", "[BTCUSDT, BTCUSDT]"),
        "system.yaml:LINE(symbols): runner.symbols: expected each once",
    ),
    "another bar": (
        PARAMETERS,
        lambda s: s.write(PARAMETERS, "bar_ms: 1000", "bar_ms: 2000"),
        "best_global.yaml:LINE(bar_ms): features.bar_ms: 1000 -> 2000 needs a restart",
    ),
    "sign-off": (
        ENVIRONMENT,
        lambda s: write_text(s.root / ENVIRONMENT, s.text(ENVIRONMENT) + "\nrunner:\n  require_signoff: true\n"),
        "runner.require_signoff: no sign-off: .*signoff.json",
    ),
}


def line_of(text: str, key: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:"))


def cut(scene: Scene, name: str, at: str) -> None:
    """Write a file in place up to where `at` stands."""
    text = scene.text(name)
    (scene.root / name).write_text(text[: text.index(at)])


def folder(scene: Scene, name: str) -> None:
    (scene.root / name).unlink()
    (scene.root / name).mkdir()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_change_is_refused_by_file_line_and_key_and_the_next_good_one_is_taken(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, spoil, reason = BAD[kind]
    spoilt = ""

    async def play() -> None:
        nonlocal spoilt
        async with reloading(tmp_path) as scene:
            text = scene.text(name)
            spoil(scene)
            if (tmp_path / name).is_file():
                spoilt = (tmp_path / name).read_text("utf-8", "replace")
            await scene.counted(0, 1, successful=False)
            assert scene.taken == []
            if (tmp_path / name).is_dir():
                (tmp_path / name).rmdir()
            write_text(tmp_path / name, text)
            await scene.counted(1, 1, successful=True)
            assert scene.taken == []  # it is what was in force all the time
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.counted(2, 1, successful=True)
            assert len(scene.taken) == 1

    asyncio.run(play())
    refused = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(refused) == 1
    assert refused[0].startswith("configuration refused, the old one stays: ")
    wanted = re.sub(r"LINE\((.*?)\)", lambda found: str(line_of(spoilt, found[1])), reason)
    assert re.search(wanted, refused[0]), (wanted, refused[0])


def test_changes_of_nothing_count_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def play() -> None:
        async with reloading(tmp_path) as scene:
            for name in (PARAMETERS, OVERRIDES, CALIBRATION, SYSTEM, ENVIRONMENT):
                (tmp_path / name).touch()
                write_text(tmp_path / name, scene.text(name))
            scene.write(SYSTEM, "folds: 4 ", "folds: 5 ")  # of research
            scene.asked.set()
            await scene.until(lambda: "nothing has changed" in caplog.text)
            assert scene.counts == (0, 0, True)
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 0.2")
            await scene.counted(0, 1, successful=False)
            (tmp_path / PARAMETERS).touch()
            write_text(tmp_path / PARAMETERS, scene.text(PARAMETERS))
            scene.write(PARAMETERS, "z_hi: 0.2", "z_hi: 1.5")
            await scene.counted(1, 1, successful=True)

    asyncio.run(play())


def test_asked_to_a_bad_file_is_refused_again_each_time(tmp_path: Path) -> None:
    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 0.2")
            for n in range(1, 4):
                await scene.counted(0, n, successful=False)
                scene.asked.set()

    asyncio.run(play())


def test_a_file_that_is_being_written_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with reloading(tmp_path) as scene:
            whole = scene.text(PARAMETERS).replace("z_hi: 2.0", "z_hi: 1.5").encode()
            n_before = scene.clock.n_slept
            written = 0

            def write_on() -> None:
                nonlocal written
                if written < len(whole):
                    written = min(written + 5, len(whole))
                    with (tmp_path / PARAMETERS).open("r+b" if written > 5 else "wb") as file:
                        file.seek(0)
                        file.write(whole[:written])

            scene.clock.during = write_on
            write_on()
            await scene.counted(1, 0, successful=True)
            assert scene.taken[-1][1].params.decision.z_hi == 1.5
            assert scene.clock.n_slept - n_before > len(whole) // 5  # it was never looked into before

    asyncio.run(play())
    assert "is written to without a pause" in caplog.text


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def reading(root: Path, config: Config) -> Artifacts:
        found = read_artifacts(root, config)
        reads.append(found.params.decision.z_hi)
        if len(reads) == 2:  # after the look at the start: what was read is old before it is judged
            write_text(tmp_path / PARAMETERS, (tmp_path / PARAMETERS).read_text().replace("z_hi: 0.9", "z_hi: 1.5"))
        return found

    monkeypatch.setattr(reload_module, "read_artifacts", reading)

    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 0.9")
            await scene.counted(1, 0, successful=True)
            assert [a.params.decision.z_hi for _, a in scene.taken] == [1.5]

    asyncio.run(play())
    assert reads == [2.0, 0.9, 1.5]


def test_what_the_log_does_not_take_is_told_once_and_tried_until_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.refusing = StoreError("no room")
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.until(lambda: scene.n_attempts >= 3)
            assert scene.counts == (0, 1, False)
            scene.refusing = None
            await scene.counted(1, 1, successful=True)
            assert len(scene.taken) == 1
            scene.refusing = StoreError("no room")
            scene.write(PARAMETERS, "z_hi: 1.5", "z_hi: 1.4")
            await scene.counted(1, 2, successful=False)
            scene.write(PARAMETERS, "z_hi: 1.4", "z_hi: 0.2")  # now it is bad, and nothing is tried any more
            await scene.counted(1, 3, successful=False)
            assert not scene.reloader._is_owed

    asyncio.run(play())
    assert caplog.text.count("no room") == 2


def test_a_file_that_breaks_its_reader_is_refused_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(root: Path, config: Config) -> Artifacts:
        if "z_hi: 0.9" in (root / PARAMETERS).read_text():
            raise ZeroDivisionError("nobody thought of it")
        return read_artifacts(root, config)

    monkeypatch.setattr(reload_module, "read_artifacts", broken)

    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 0.9")
            await scene.counted(0, 1, successful=False)
            scene.write(PARAMETERS, "z_hi: 0.9", "z_hi: 1.5")
            await scene.counted(1, 1, successful=True)

    asyncio.run(play())
    assert "refused, the old one stays: ZeroDivisionError: nobody thought of it" in caplog.text
    assert "Traceback" in caplog.text


def fixed_keys() -> list[str]:
    flat = [
        key
        for key in load(REPO, "development", environ={}).origin
        if key.startswith(RUNNER_KEYS) and key not in LIVE_KEYS
    ]
    assert len(flat) > 30
    return flat


TOGETHER = {  # with what else the schema wants
    "exporter.tls_cert": {"exporter.tls_cert": "a.pem", "exporter.tls_key": "b.pem"},
    "exporter.tls_key": {"exporter.tls_cert": "a.pem", "exporter.tls_key": "b.pem"},
    "exporter.user": {"exporter.user": "u", "exporter.password_file": "p"},
    "exporter.password_file": {"exporter.user": "u", "exporter.password_file": "p"},
}


def variable(key: str) -> str:
    return f"V13__{key.upper().replace('.', '__')}"


def test_every_setting_that_needs_a_restart_is_refused_by_name_with_all_beside_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By variables, as they reach every key; what they change in a file is the same to the reloader."""
    values = load(REPO, "development", environ={}).config.model_dump(mode="json")
    environ: dict[str, str] = {}

    async def play() -> None:
        async with reloading(tmp_path, environ=environ, is_replay=True) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            environ[variable("runner.log")] = "other.sqlite"
            for n, key in enumerate([*fixed_keys(), "runner.symbols"], 1):
                value = values
                for part in key.split("."):
                    value = value[part]
                changes = TOGETHER.get(key) or {key: another(key, value)}
                environ.clear()
                environ.update({variable(name): text for name, text in changes.items()})
                caplog.clear()
                scene.asked.set()
                await scene.counted(0, n, successful=False)
                told = caplog.records[-1].getMessage()
                assert f"env:{variable(key)}: {key}: " in told, key
                assert told.count("needs a restart") == len(changes), told
                assert scene.taken == [], key
            environ.clear()
            scene.asked.set()
            await scene.until(lambda: scene.counts[2])
            assert [a.params.decision.z_hi for _, a in scene.taken] == [1.5]

    asyncio.run(play())


def another(key: str, value: Any) -> str:
    """Another value the schema allows."""
    given = {
        "runner.symbols": "[ETHUSDT]",
        "runner.market": "spot",
        "sessions.timezone": "Asia/Tokyo",
        "sessions.day_start": '"08:00"',
        "sessions.day_end": '"18:00"',
        "market.bar_ms": "1000",
        "market.max_gap_ms": "60000",
        "search.horizons_bars": "[10, 30]",
        "runner.log": "other.sqlite",
        "exporter.host": "localhost",
        "feed.ws_url": "wss://other",
        "feed.rest_url": "https://other",
    }
    if key in given:
        return given[key]
    if key.startswith("market.quality."):
        return "fail" if value != "fail" else "keep" if key.endswith("price_jump") else "drop"
    return str(value + 1) if isinstance(value, int) else str(value * 0.9)


def test_a_file_that_is_named_anew_is_watched_before_it_is_there(tmp_path: Path) -> None:
    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(SYSTEM, "parameters: runs/real_test/best_global.yaml", "parameters: runs/later/best.yaml")
            await scene.counted(0, 1, successful=False)
            (tmp_path / "runs/later").mkdir()
            write_text(tmp_path / "runs/later/best.yaml", scene.text(PARAMETERS).replace("z_hi: 2.0", "z_hi: 1.5"))
            await scene.counted(1, 1, successful=True)
            assert scene.taken[-1][1].params.decision.z_hi == 1.5

    asyncio.run(play())


@pytest.mark.parametrize("how", ["link", "moved", "removed"])
def test_a_folder_that_becomes_another_is_seen(how: str, tmp_path: Path) -> None:
    root, releases = prepared(tmp_path / "root"), tmp_path / "releases"
    link = root / "runs/real_test"
    for name, z_hi in (("one", "2.0"), ("two", "1.5")):
        shutil.copytree(link, releases / name)
        write_text(
            releases / name / "best_global.yaml", (root / PARAMETERS).read_text().replace("z_hi: 2.0", f"z_hi: {z_hi}")
        )
    if how == "link":
        shutil.rmtree(link)
        link.symlink_to(releases / "one")

    async def play() -> None:
        async with reloading(root) as scene:
            await switch(scene)

    async def switch(scene: Scene) -> None:
        if how == "link":  # switched atomically, as releases are
            (root / "runs/next").symlink_to(releases / "two")
            (root / "runs/next").replace(link)
        elif how == "moved":
            link.rename(root / "runs/before")
            shutil.copytree(releases / "two", link)
        else:
            shutil.rmtree(link)
            await scene.counted(0, 1, successful=False)
            shutil.copytree(releases / "two", link)
        await scene.until(lambda: bool(scene.taken))
        assert scene.taken[-1][1].params.decision.z_hi == 1.5
        write_text(link / "best_global.yaml", (link / "best_global.yaml").read_text().replace("1.5", "1.2"))
        await scene.until(lambda: len(scene.taken) == 2)  # and the new folder is watched in its turn

    asyncio.run(play())


def test_folders_that_cannot_be_watched_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_watches(*_: object, **__: object) -> AsyncIterator[object]:
        async def give() -> AsyncIterator[object]:
            raise OSError("OS file watch limit reached.")
            yield

        return give()

    monkeypatch.setattr("v13.live.reload_watch.awatch", no_watches)

    async def play() -> None:
        async with reloading(tmp_path) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.counted(1, 0, successful=True)

    asyncio.run(play())
    assert caplog.text.count("watch limit reached") == 1


def test_a_further_file_with_its_own_check_is_part_of_the_whole(tmp_path: Path) -> None:
    slo = tmp_path / "config" / "limits.yaml"
    taken: list[str] = []

    def read(path: Path) -> str:
        text = path.read_text()
        if "bad" in text:
            raise ConfigError(f"{path}:1: slo: bad")
        return text

    async def play() -> None:
        extra = ExtraFile(slo, read, taken.append, "one")
        async with reloading(tmp_path, extra=(extra,)) as scene:
            await scene.counted(0, 1, successful=False)  # it is not there yet
            write_text(slo, "one")
            await scene.counted(1, 1, successful=True)
            assert taken == []  # what is in force already
            write_text(slo, "two")
            await scene.counted(2, 1, successful=True)
            assert (taken, extra.value, scene.taken) == (["two"], "two", [])
            write_text(slo, "bad")
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.until(lambda: not scene.counts[2])
            assert (taken, scene.taken) == (["two"], [])
            write_text(slo, "three")
            await scene.until(lambda: scene.counts[2])
            assert taken == ["two", "three"]
            assert len(scene.taken) == 1

    asyncio.run(play())


def test_in_production_only_what_is_signed_off_is_taken(tmp_path: Path) -> None:
    def sign(root: Path, verdict: str = "PASS") -> None:
        names = {"best_global.yaml": PARAMETERS, "best_by_bucket.yaml": OVERRIDES}
        names["divergence_score_calibration.json"] = CALIBRATION
        hashes = {name: hashlib.sha256((root / path).read_bytes()).hexdigest() for name, path in names.items()}
        write_json(root / SIGNOFF, {"verdict": verdict, "simulated": False, "artifacts": hashes})

    async def play() -> None:
        sign(prepared(tmp_path))
        async with reloading(tmp_path, environ={"V13__RUNNER__REQUIRE_SIGNOFF": "true"}) as scene:
            scene.write(PARAMETERS, "z_hi: 2.0", "z_hi: 1.5")
            await scene.counted(0, 1, successful=False)
            sign(tmp_path, "FAIL")
            await scene.counted(0, 2, successful=False)
            assert scene.taken == []
            sign(tmp_path)
            await scene.counted(1, 2, successful=True)
            assert scene.taken[-1][1].signed_off
            assert scene.taken[-1][1].params.decision.z_hi == 1.5

    asyncio.run(play())


SPOILERS = [b"[", b"{", b": ", b"\t", b"null", b"-1", b"&a [*a]"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=st.sampled_from((PARAMETERS, OVERRIDES, CALIBRATION, SYSTEM, ENVIRONMENT)), data=st.data())
def test_whatever_a_file_holds_the_old_configuration_stays_or_a_whole_one_is_taken(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene = Scene(prepared(tmp_path_factory.mktemp("root")))
    text = (scene.root / name).read_bytes()
    at = data.draw(st.integers(0, len(text)))
    n = data.draw(st.integers(0, 40))
    spoilt = text[:at] + data.draw(st.binary(max_size=20) | st.sampled_from(SPOILERS))
    (scene.root / name).write_bytes(spoilt + text[at + n :])

    async def play() -> None:
        await scene.reloader._reload(True)

    asyncio.run(play())
    n_ok, n_refused, successful = scene.counts
    assert n_ok + n_refused <= 1
    assert (n_refused == 0) == successful
    assert len(scene.taken) <= n_ok
