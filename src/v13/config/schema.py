"""The settings of v13: names, units, ranges, defaults and what each one means.

Frozen, unknown keys refused, no coercion: a string is not a number. Ranges and defaults of detector settings are those
of `v13.detector.params`. It must not read files; `v13.config.loader` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from v13.config.deploy_schema import Deploy
from v13.config.ranges import GRID_NAMES, Problem, axis_problems, range_problem, refuse
from v13.config.section import Names, Section, as_tuple
from v13.detector.params import DecisionParams, FeatureParams
from v13.detector.sessions import SessionClock
from v13.errors import ConfigError

__all__ = ["CHILDREN", "LIVE_SECTIONS", "Config"]

MAX_BAR_MS: Final = 31 * 86_400_000  # the longest kline there is: a month
MAX_SETTINGS: Final = 100_000  # points of a grid; beyond it a grid is a typing error, and no correction survives it


WholeNumbers = Annotated[tuple[int, ...], BeforeValidator(as_tuple)]
Band = Annotated[tuple[float, float], BeforeValidator(as_tuple)]

DropKeepFail = Literal["drop", "keep", "fail"]
DropFail = Literal["drop", "fail"]
KeepFail = Literal["keep", "fail"]


# Private functions stand first here: a section is built, and so checked, as the default of the one that holds it.


def _is_real(name: str) -> bool:
    default = getattr(DecisionParams, name, getattr(FeatureParams, name, None))
    return isinstance(default, float)


def _ranged(section: str, value: Any, info: ValidationInfo) -> Any:
    text = None if value is None else range_problem(str(info.field_name), value)
    if text is not None:
        refuse([Problem((f"{section}.{info.field_name}",), text)])
    return value


def _clock(keys: tuple[str, ...], timezone: str, day_start: str, day_end: str) -> None:
    try:
        SessionClock(timezone, day_start, day_end)
    except ConfigError as error:
        refuse([Problem(keys, str(error).partition(": ")[2])])


class Quality(Section):
    """What happens to each defect of a recording: drop the row, keep it, or fail the file. All are counted."""

    duplicates: DropKeepFail = Field(default="drop", description="same id (klines: open time) twice; the first stays")
    equal_rows: DropKeepFail = Field(
        default="keep", description="equal rows where there are no ids; separate fills look equal"
    )
    out_of_order: Literal["sort", "drop", "fail"] = Field(default="sort", description="time below the latest one read")
    missing: DropFail = Field(default="fail", description="null, NaN or infinite value")
    unit_mix: DropFail = Field(default="fail", description="time that is not in the unit of the file's first row")
    bad_price: DropFail = Field(default="fail", description="price of zero or less")
    negative_size: DropFail = Field(default="fail", description="size below zero")
    zero_size: DropKeepFail = Field(default="drop", description="size of zero")
    crossed: DropKeepFail = Field(default="drop", description="best bid above best ask")
    locked: DropKeepFail = Field(default="keep", description="best bid equal to best ask")
    price_jump: KeepFail = Field(default="fail", description="neighbouring prices differ by a factor above 2")
    incomplete_bar: DropFail = Field(default="drop", description="kline without trade count or taker volume")
    bad_bar: DropFail = Field(default="fail", description="kline that contradicts itself")
    gaps: KeepFail = Field(default="keep", description="silence longer than max_gap_ms")
    id_gaps: KeepFail = Field(default="keep", description="trade ids left out")


class Market(Section):
    """How recordings become bars."""

    bar_ms: int | None = Field(
        default=None, ge=1, le=MAX_BAR_MS, description="bar length, ms; null: 1000 on ticks, else native"
    )
    max_gap_ms: int | None = Field(
        default=None, ge=0, le=MAX_BAR_MS, description="longest bridged silence, ms; null: 30000 or three bars"
    )
    quality: Quality = Field(default=Quality(), description="policy for each defect")


class Download(Section):
    """Where public dumps come from."""

    base_url: str = Field(default="https://data.binance.vision", description="server of the dumps")
    timeout_s: float = Field(default=30.0, gt=0, le=3600, description="longest silence of the server, s")
    retries: int = Field(default=4, ge=0, le=20, description="further attempts for one file")

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        scheme, _, host = value.partition("://")
        if scheme not in ("http", "https") or not host or any(c.isspace() for c in value):
            refuse([Problem(("download.base_url",), f"expected an http(s) address, found {value!r}")])
        return value


class Features(Section):
    """The detector's feature stage; docs/DETECTOR.md, sections 2 and 4."""

    window: int = Field(default=FeatureParams.window, description="trailing window of the z-scores, bars")
    ema_k: int = Field(default=FeatureParams.ema_k, description="smoothing of the z-scores, bars")
    mode: Literal["delta", "level"] = Field(default="delta", description="standardise flow per bar, or its running sum")
    z_clip: float = Field(default=FeatureParams.z_clip, description="largest |z|")
    scale_floor: float = Field(default=FeatureParams.scale_floor, description="least scale, share of the 5-95 % spread")
    w_ofi: float = Field(default=FeatureParams.w_ofi, description="weight of OFI in the fusion")
    w_cvd: float = Field(default=FeatureParams.w_cvd, description="weight of CVD in the fusion")
    max_lag_ms: int | None = Field(default=None, description="staleness limit, ms; null: five bars, at least 5000 ms")
    activity_k: int = Field(default=FeatureParams.activity_k, description="smoothing of activity, bars")
    active_quantile: float = Field(
        default=FeatureParams.active_quantile, description="active above it; share in [0, 1]"
    )
    min_volume_ratio: float = Field(
        default=FeatureParams.min_volume_ratio, description="vol_ok is full from it; share of median"
    )

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        return _ranged("features", value, info)

    @model_validator(mode="after")
    def _has_weight(self) -> Features:
        if self.w_ofi + self.w_cvd <= 0:
            refuse([Problem(("features.w_ofi", "features.w_cvd"), "expected w_ofi + w_cvd above 0, found 0")])
        return self


class Decision(Section):
    """The detector's thresholds and gates; docs/DETECTOR.md, sections 3 and 4."""

    swing_L: int = Field(default=DecisionParams.swing_L, description="bars on either side of a pivot")
    z_hi: float = Field(default=DecisionParams.z_hi, description="least larger |z| of a pair")
    z_mid: float = Field(default=DecisionParams.z_mid, description="least smaller |z| of a pair")
    min_separation: int = Field(default=DecisionParams.min_separation, description="least distance of two pivots, bars")
    cooldown_s: float = Field(
        default=DecisionParams.cooldown_ms / 1000, ge=0, le=86_400, description="silence of a side after its event, s"
    )
    min_score: float = Field(default=DecisionParams.min_score, description="least score emitted, 0 to 100")
    min_vol_ok: float = Field(default=DecisionParams.min_vol_ok, description="least vol_ok, 0 to 1")
    min_swing_bps: float = Field(
        default=DecisionParams.min_swing_bps, description="least height of the swing, basis points"
    )

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        return value if info.field_name == "cooldown_s" else _ranged("detector", value, info)

    @model_validator(mode="after")
    def _thresholds_fit(self) -> Decision:
        if self.z_mid > self.z_hi:
            text = f"expected at most z_hi ({self.z_hi:g}), found {self.z_mid:g}"
            refuse([Problem(("detector.z_mid", "detector.z_hi"), text)])
        return self


class Sessions(Section):
    """When day is; everything else is night."""

    timezone: str = Field(default="UTC", description="IANA zone the hours are in")
    day_start: str = Field(default="09:00", description="first minute of the day, HH:MM")
    day_end: str = Field(default="17:00", description="first minute after it, HH:MM, at most 24:00")

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        _clock(("sessions.timezone",), value, "00:00", "24:00")
        return value

    @field_validator("day_start", "day_end")
    @classmethod
    def _is_time(cls, value: str, info: ValidationInfo) -> str:
        hours, _, minutes = value.partition(":")
        is_time = hours.isdecimal() and minutes.isdecimal() and len(hours) == len(minutes) == 2 and value.isascii()
        if not is_time or int(minutes) > 59 or int(hours) * 60 + int(minutes) > 1440:
            refuse([Problem((f"sessions.{info.field_name}",), f"expected HH:MM up to 24:00, found {value!r}")])
        return value

    @model_validator(mode="after")
    def _day_is_not_empty(self) -> Sessions:
        _clock(("sessions.day_start", "sessions.day_end"), self.timezone, self.day_start, self.day_end)
        return self


class Search(Section):
    """What is tried on the search part, and how the record is cut."""

    grid: Mapping[str, tuple[Any, ...]] = Field(
        default_factory=lambda: {"swing_L": (8, 13, 21), "z_hi": (1.2, 1.6, 2.0), "z_mid": (0.4, 0.6, 0.8)},
        description="values of each searched detector parameter, ascending",
    )
    search_share: float = Field(
        default=0.6, gt=0, lt=1, description="share of the record searched; the holdout is the rest"
    )
    folds: int = Field(default=4, ge=1, le=50, description="walk-forward folds in the search part")
    horizons_bars: WholeNumbers = Field(default=(10, 20), description="label horizons, bars, ascending")
    min_events: int = Field(default=100, ge=1, description="fewest events of an eligible setting")
    min_bucket_events: int = Field(default=40, ge=1, description="fewest events a bucket is judged on")
    cost_bps: float = Field(default=0.0, ge=0, le=1000, description="cost taken off each label, basis points")
    purge_bars: int | None = Field(
        default=None, ge=0, description="gap before the holdout, bars; null: what can reach across"
    )

    @field_validator("grid", mode="before")
    @classmethod
    def _axes_are_right(cls, grid: Any) -> Any:
        if not isinstance(grid, Mapping):
            return grid  # refused by its type
        refuse(axis_problems(grid))
        size = math.prod(len(axis) for axis in grid.values())
        if not grid or size > MAX_SETTINGS:
            refuse([Problem(("search.grid",), f"expected 1 to {MAX_SETTINGS} points, found {size if grid else 0}")])
        # 2 and 2.0 are one value: they must not make two fingerprints
        return {k: tuple(map(float, axis)) if _is_real(k) else tuple(axis) for k, axis in grid.items()}

    @field_serializer("grid")
    def _plain_grid(self, grid: Mapping[str, tuple[Any, ...]]) -> dict[str, list[Any]]:
        return {name: list(axis) for name, axis in grid.items()}

    @field_validator("horizons_bars")
    @classmethod
    def _horizons_ascend(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        steps = zip((0, *value), value, strict=False)
        if not value or any(a >= b for a, b in steps) or value[-1] > 10_000:
            text = f"expected ascending whole numbers from 1 to 10000, each once, found {list(value)}"
            refuse([Problem(("search.horizons_bars",), text)])
        return value


class Acceptance(Section):
    """Criteria of the verdict; the numbers are those of the deployment guide."""

    production_bar_ms: int = Field(default=1000, ge=1, le=MAX_BAR_MS, description="bar length rates are judged at, ms")
    min_accuracy: float = Field(default=0.55, ge=0.5, le=1, description="least hit rate at each horizon")
    alpha: float = Field(default=0.05, gt=0, le=0.2, description="largest p-value that counts")
    events_per_hour: Band = Field(
        default=(10.0, 100.0), description="band of events an hour of one symbol, low and high"
    )
    min_median_score: float = Field(default=50.0, ge=0, le=100, description="median score must lie above")
    min_events: int = Field(default=50, ge=1, description="fewest holdout events; below it the verdict is INSUFFICIENT")
    n_shifts: int = Field(default=2000, ge=1, le=10**6, description="circular shifts of the main null")
    n_bootstrap: int = Field(default=2000, ge=20, le=10**6, description="resamples of the confidence intervals")
    min_shift_bars: int | None = Field(default=None, ge=1, description="least circular shift, bars; null: computed")
    compute_p95_ms: float = Field(default=10.0, gt=0, description="P95 of one bar through the detector stays below, ms")
    event_p95_ms: float = Field(
        default=2.5, gt=0, description="P95 from leaving the queue to effects done stays below, ms"
    )
    pipeline_p95_ms: float = Field(default=100.0, gt=0, description="P95 from receipt to commit stays below, ms")
    closure_ratio: float = Field(default=0.10, gt=0, lt=1, description="metrics and event log agree within this share")

    @model_validator(mode="after")
    def _is_reachable(self) -> Acceptance:
        problems = []
        low, high = self.events_per_hour
        if not 0 <= low < high:
            problems.append(Problem(("acceptance.events_per_hour",), f"expected 0 <= low < high, found {[low, high]}"))
        if self.alpha * (self.n_shifts + 1) < 1:
            needed = math.ceil(1 / self.alpha) - 1
            text = f"expected at least {needed}, or no p-value can reach alpha ({self.alpha:g}); found {self.n_shifts}"
            problems.append(Problem(("acceptance.n_shifts", "acceptance.alpha"), text))
        refuse(problems)
        return self


class Calibration(Section):
    """How scores become probabilities."""

    n_bins: int = Field(default=10, ge=2, le=100, description="bins of reliability and decile tables")
    folds: int = Field(default=5, ge=2, le=50, description="folds in time for the out-of-fold fit")
    min_events: int = Field(default=50, ge=10, description="fewest labelled events of any fit")
    isotonic_floor: int = Field(default=1000, ge=2, description="fewest events of an isotonic fit; below it a sigmoid")


class Noise(Section):
    """The noise certificate a sign-off carries."""

    markets: int = Field(
        default=3, ge=0, le=10_000, description="markets without an edge of each kind; 0: none, and no PASS"
    )
    max_bars: int = Field(
        default=150_000, ge=5_000, le=100_000_000, description="longest null market, bars of one symbol"
    )
    seed: int = Field(default=13, ge=0, le=2**32 - 1, description="seed of the markets")


class RunSettings(Section):
    """What belongs to a run as a whole."""

    seed: int = Field(default=13, ge=0, le=2**32 - 1, description="seed of all resampling")


class Runner(Section):
    """The live runner."""

    symbols: Names = Field(default=("BTCUSDT",), min_length=1, description="symbols it follows")
    market: Literal["spot", "usdm"] = Field(default="usdm", description="which of Binance's markets")
    parameters: str | None = Field(
        default="runs/real_test/best_global.yaml", description="released parameters; null: features and detector here"
    )
    overrides: str | None = Field(default="runs/real_test/best_by_bucket.yaml", description="bucket overrides, or null")
    calibration: str | None = Field(
        default="config/calibration/divergence_score_calibration.json", description="calibration map, or null"
    )
    signoff: str = Field(default="reports/latest/signoff.json", description="the sign-off the hashes must match")
    require_signoff: bool = Field(default=False, description="start only with what was signed off")
    log: str = Field(default="runs/live/events.sqlite", description="event log")
    warm_from: str | None = Field(
        default=None, description="event log of another runner on the same feed, to catch up from; null: none"
    )
    grace_ms: int = Field(default=250, ge=0, le=60_000, description="wait for a bar's last messages, ms")
    queue_limit: int = Field(default=100_000, ge=100, le=100_000_000, description="messages that may wait")
    checkpoint_bars: int = Field(default=60, ge=1, le=1_000_000, description="bars between two checkpoints of a symbol")
    stop_s: float = Field(default=5.0, gt=0, le=600, description="longest orderly stop, s")


class Exporter(Section):
    """The metrics endpoint."""

    host: str = Field(default="127.0.0.1", description="address it listens on")
    port: int = Field(default=8003, ge=0, le=65_535, description="0: any free one, which the log names")
    tls_cert: str | None = Field(default=None, description="PEM file; with tls_key: HTTPS")
    tls_key: str | None = Field(default=None, description="PEM file")
    user: str | None = Field(default=None, description="with password_file: basic authentication")
    password_file: str | None = Field(default=None, description="file that holds the password")

    @model_validator(mode="after")
    def _pairs(self) -> Exporter:
        for a, b in (("tls_cert", "tls_key"), ("user", "password_file")):
            if (getattr(self, a) is None) != (getattr(self, b) is None):
                refuse(
                    [Problem((f"exporter.{a}", f"exporter.{b}"), f"expected together with exporter.{b}, or neither")]
                )
        return self


class Feed(Section):
    """The connection to the exchange."""

    ws_url: str | None = Field(default=None, description="null: Binance's own, by runner.market")
    rest_url: str | None = Field(default=None, description="null: Binance's own, by runner.market")
    backoff_min_s: float = Field(default=0.5, gt=0, le=60, description="first wait before a reconnect, at most, s")
    backoff_max_s: float = Field(default=30.0, gt=0, le=3600, description="longest wait before a reconnect, s")
    idle_s: float = Field(default=15.0, gt=0, le=3600, description="a connection silent for longer is given up, s")
    stale_s: float = Field(default=10.0, gt=0, le=3600, description="a symbol silent for longer is stale, s")
    max_frame_bytes: int = Field(
        default=262_144, ge=1_024, le=1 << 26, description="a larger frame ends the connection"
    )
    rotate_s: float = Field(default=82_800.0, gt=0, le=86_400, description="a new connection before Binance's 24 h, s")
    timeout_s: float = Field(default=10.0, gt=0, le=300, description="longest wait for an answer, s")


LIVE_SECTIONS: Final = ("runner", "exporter", "feed", "deploy")  # what research does not depend on


class Config(Section):
    """All settings."""

    market: Market = Market()
    download: Download = Download()
    features: Features = Features()
    detector: Decision = Decision()
    sessions: Sessions = Sessions()
    search: Search = Search()
    acceptance: Acceptance = Acceptance()
    calibration: Calibration = Calibration()
    noise: Noise = Noise()
    run: RunSettings = RunSettings()
    runner: Runner = Runner()
    exporter: Exporter = Exporter()
    feed: Feed = Feed()
    deploy: Deploy = Deploy()

    @model_validator(mode="after")
    def _grid_has_a_point(self) -> Config:
        z_hi = self.search.grid.get("z_hi", (self.detector.z_hi,))
        z_mid = self.search.grid.get("z_mid", (self.detector.z_mid,))
        if float(z_mid[0]) > float(z_hi[-1]):
            keys = tuple(
                f"search.grid.{name}" if name in self.search.grid else f"detector.{name}" for name in ("z_mid", "z_hi")
            )
            text = f"expected a point of the grid with z_mid <= z_hi, found z_mid {list(z_mid)} and z_hi {list(z_hi)}"
            refuse([Problem(keys, text)])
        return self


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    yield path, tuple(model.model_fields)
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, (*path, name))


# Every mapping of the settings by its path, with the keys it may hold; a path that is not here is a value.
CHILDREN: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = {**dict(_walk(Config, ())), ("search", "grid"): GRID_NAMES}
