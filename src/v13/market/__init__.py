"""Market data: recordings read, judged and made into bars; simulated markets with known truth; dumps fetched."""

from v13.market.bars import BarBuilder, bars_from, bars_from_klines, resample
from v13.market.download import DumpFile, fetch
from v13.market.download import plan as plan_download
from v13.market.ofi import LEVEL_WEIGHTS, multilevel_ofi, ofi_terms
from v13.market.policy import QualityPolicy, ReadPolicy
from v13.market.quality import FileQuality, Gap, QualityReport
from v13.market.recording import Recording, SourceFile, load
from v13.market.simulator import SimulatedBars, simulate_bars
from v13.market.simulator_spec import MarketSpec
from v13.market.simulator_ticks import demo_market, simulate_ticks
from v13.market.surrogates import block_shuffle, flip_signs, shift_returns
from v13.market.tape import KINDS, SCHEMAS, write_tape

__all__ = [
    "KINDS",
    "LEVEL_WEIGHTS",
    "SCHEMAS",
    "BarBuilder",
    "DumpFile",
    "FileQuality",
    "Gap",
    "MarketSpec",
    "QualityPolicy",
    "QualityReport",
    "ReadPolicy",
    "Recording",
    "SimulatedBars",
    "SourceFile",
    "bars_from",
    "bars_from_klines",
    "block_shuffle",
    "demo_market",
    "fetch",
    "flip_signs",
    "load",
    "multilevel_ofi",
    "ofi_terms",
    "plan_download",
    "resample",
    "shift_returns",
    "simulate_bars",
    "simulate_ticks",
    "write_tape",
]
