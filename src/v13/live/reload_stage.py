"""The stage of a proof: a root with settings and a recording made on the spot, and a runner as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import polars as pl

from v13 import market, store
from v13.detector import DecisionParams, DetectorParams, FeatureParams
from v13.errors import FeedError
from v13.live.hold import HELD, PLAYED
from v13.live.reload_facts import Facts, read_facts

__all__ = [
    "CALIBRATION",
    "DECISION",
    "OVERRIDES",
    "PARAMETERS",
    "SYMBOLS",
    "RunnerProcess",
    "calibration",
    "prepare",
    "until",
]

WAIT_S: Final = 60.0  # only a broken runner is waited for so long
START_S: Final = 300.0  # a start imports and compiles: on a crowded machine that takes minutes
LOOK_S: Final = 0.05
# Only the proof asks its runner, on loopback: the project's certificate and password are not carried to the stage.
PLAIN: Final = {f"V13__EXPORTER__{name}": "null" for name in ("TLS_CERT", "TLS_KEY", "USER", "PASSWORD_FILE")}
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
N_BARS: Final = 30_000  # five minutes at 100 bars a second
PARAMETERS: Final = "runs/real_test/best_global.yaml"
OVERRIDES: Final = "runs/real_test/best_by_bucket.yaml"
CALIBRATION: Final = "config/calibration/divergence_score_calibration.json"
# Loose, so that there is something to see under each configuration.
DECISION: Final = DecisionParams(swing_L=5, z_hi=1.2, z_mid=0.4, cooldown_ms=5_000, min_score=0.0)


def prepare(root: Path, config: Path, *, n_bars: int = N_BARS) -> Path:
    """Fill a root with settings, parameters, overrides, calibration and a simulated recording of two symbols.

    Parameters
    ----------
    root : Path
        An empty folder.
    config : Path
        The project's config/, copied.
    n_bars : int, bars of 1 s

    Returns
    -------
    Path
        Folder of the recording.
    """
    shutil.copytree(config, root / "config", ignore=shutil.ignore_patterns("calibration"))
    for seed, symbol in enumerate(SYMBOLS):
        made = market.simulate_bars(market.MarketSpec(kind="planted", n_bars=n_bars, symbol=symbol), seed)
        frame = pl.DataFrame({name: made.bars[name] for name in made.bars.dtype.names or ()})
        path = root / "recording" / f"{symbol}.parquet"
        path.parent.mkdir(exist_ok=True)
        market.write_tape(path, frame, kind="bars", symbol=symbol, market="usdm", simulated=True)
    params = DetectorParams(FeatureParams(window=60), DECISION).to_dict()
    head = {"version": 1, "simulated": True}
    store.write_yaml(root / PARAMETERS, head | {"features": params["features"], "decision": params["decision"]})
    store.write_yaml(root / OVERRIDES, head | {"overrides": []})
    store.write_json(root / CALIBRATION, calibration(0.6))
    return root / "recording"


def calibration(prob: float) -> dict[str, Any]:
    """Return a calibration that gives every score one probability."""
    knots = {"score": [0.0, 100.0], "expected_return": [0.0, 0.0]}
    knots |= {name: [prob, prob] for name in ("prob", "p_low", "p_high")}
    return {"version": 1, "horizons": [{"horizon_bars": h, "knots": knots} for h in (10, 20)]}


class RunnerProcess:
    """`v13 run` in a root, on a recording, with the port the system chose and an exporter without TLS and password.

    Parameters
    ----------
    root : Path
    arguments : str
    environ : mapping, optional
    is_held : bool
        Its replay begins with `play`, and it stays up until `let_go`.

    Attributes
    ----------
    log : Path
        What it writes to stderr.
    """

    def __init__(
        self, root: Path, *arguments: str, environ: Mapping[str, str] | None = None, is_held: bool = False
    ) -> None:
        self.root = root
        self.log = root / "runner.log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("V13_")}
        own |= PLAIN | dict(environ or {})
        command = [sys.executable, "-m", "v13.cli", "run", "--root", str(root), "--port", "0", *arguments]
        command += ["--hold"] if is_held else []
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if is_held else subprocess.DEVNULL,
                bufsize=0,  # or closing it would write to a process that is gone
                stdout=sink,
                stderr=sink,
                cwd=root,
                env=own,
            )
        until(lambda: "metrics: " in self.said() or self.process.poll() is not None, START_S)
        if "metrics: " not in self.said():
            raise FeedError(f"the runner did not start:\n{self.said()}")
        self.url = "http://" + self.said().partition("metrics: ")[2].splitlines()[0]

    def said(self) -> str:
        """Return what this process has logged so far."""
        return self.log.read_bytes()[self._offset :].decode()

    def play(self) -> None:
        """Have a held replay begin, and wait for its end.

        Raises
        ------
        FeedError
            The runner ended before it had played everything.
        """
        self.begin()
        while PLAYED not in self.said():  # as long as the recording takes
            if self.process.poll() is not None:
                raise FeedError(f"the runner ended with {self.process.returncode} before the recording:\n{self.said()}")
            time.sleep(LOOK_S)

    def begin(self) -> None:
        """Have a held replay begin."""
        assert self.process.stdin is not None
        until(lambda: HELD in self.said() or self.process.poll() is not None, START_S)
        with suppress(BrokenPipeError):
            self.process.stdin.write(b"\n")

    def let_go(self) -> int:
        """Let a held runner end, wait for that and return the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(WAIT_S)

    def facts(self) -> Facts:
        """Return what its metrics say of the configuration."""
        return read_facts(self.url)

    def end(self, number: signal.Signals) -> int:
        """Send a signal, wait for the end and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def __enter__(self) -> RunnerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def until(claim: Callable[[], object], wait_s: float = WAIT_S) -> bool:
    """Return True as soon as the claim holds, False where it does not in all that time."""
    end_s = time.monotonic() + wait_s
    while not claim():
        if time.monotonic() > end_s:
            return False
        time.sleep(LOOK_S)
    return True
