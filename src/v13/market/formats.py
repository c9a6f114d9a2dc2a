"""The forms recorded data comes in, and how a file is recognised as one of them.

By content: names of columns, or their number and types where there is no header. The file's name is only a hint, for
what the content does not say: symbol and market. Rows are read elsewhere (`v13.market.readers`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from v13.errors import DataError
from v13.market.policy import ReadPolicy
from v13.market.streams import container_of, line_blocks, member_name, read_chunks
from v13.market.tape import SCHEMAS

__all__ = ["Layout", "Source", "recognise", "to_ms"]

# Times are told apart by size: all four units are epoch times between these two dates, and no value fits two units.
FIRST_MS: Final = 1_230_940_800_000  # 2009-01-03, the first Bitcoin block
LAST_MS: Final = 4_102_444_800_000  # 2100-01-01
UNITS: Final = {"s": 1_000, "ms": 1, "us": -1_000, "ns": -1_000_000}  # factor to milliseconds; negative divides


@dataclass(frozen=True)
class Layout:
    """One form of recorded data.

    Attributes
    ----------
    name : str
        As the exchange calls it.
    kind : str
        trades, quotes, klines or bars.
    fields : mapping
        Tape column (`maker` stands for `sign`) to the names it goes by.
    clocks : mapping
        `exchange` and `receive` to the names of their time column.
    """

    name: str
    kind: str
    fields: Mapping[str, Sequence[str]]
    clocks: Mapping[str, Sequence[str]]


_AGG = Layout(
    "aggTrades",
    "trades",
    {"id": ("agg_trade_id",), "px": ("price",), "qty": ("quantity", "qty"), "maker": ("is_buyer_maker",)},
    {"exchange": ("transact_time",)},
)
_TRADES = Layout(
    "trades",
    "trades",
    {"id": ("id", "trade_id"), "px": ("price",), "qty": ("qty",), "maker": ("is_buyer_maker",)},
    {"exchange": ("time", "trade_ms", "trade_us", "ts_ms"), "receive": ("recv_ns", "recv_us", "recv_ts_ms")},
)
_QUOTES = Layout(
    "bookTicker",
    "quotes",
    {
        "id": ("update_id",),
        "bid": ("best_bid_price", "bid"),
        "bid_qty": ("best_bid_qty", "bid_qty"),
        "ask": ("best_ask_price", "ask"),
        "ask_qty": ("best_ask_qty", "ask_qty"),
    },
    {"exchange": ("transaction_time", "trans_ms"), "receive": ("recv_ns",)},
)
_KLINES = Layout(
    "klines",
    "klines",
    {
        **{name: (name,) for name in ("open", "high", "low", "close", "volume", "taker_buy_volume")},
        "n_trades": ("count",),
    },
    {"exchange": ("open_time",)},
)
LAYOUTS: Final = (_AGG, _TRADES, _QUOTES, _KLINES)
OPTIONAL: Final = {"id"}  # a recorder may have lost the ids

# Dumps without a header: (number of columns, types of the first row) -> layout, market, position of each field. i is an
# integer, n any number, b a truth value.
_HEADERLESS: Final = (
    ("inniiibb", _AGG, "spot", {"id": 0, "px": 1, "qty": 2, "maker": 6, "exchange": 5}),
    ("inniiib", _AGG, "usdm", {"id": 0, "px": 1, "qty": 2, "maker": 6, "exchange": 5}),
    ("innnibb", _TRADES, "spot", {"id": 0, "px": 1, "qty": 2, "maker": 5, "exchange": 4}),
    ("innnib", _TRADES, "usdm", {"id": 0, "px": 1, "qty": 2, "maker": 5, "exchange": 4}),
    ("innnnii", _QUOTES, "usdm", {"id": 0, "bid": 1, "bid_qty": 2, "ask": 3, "ask_qty": 4, "exchange": 5}),
    (
        "innnnnininnn?",
        _KLINES,
        "unknown",
        {"exchange": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 5, "n_trades": 8, "taker_buy_volume": 9},
    ),
)
_QUOTE_ASSETS = "USDT|USDC|FDUSD|BUSD|TUSD|USD|EUR|TRY|BRL|BTC|ETH|BNB"
_DUMP_NAME = re.compile(r"([^-\s/]+)-(?:aggTrades|trades|bookTicker|\d+(?:s|m|h|d|w|mo))-\d{4}-\d\d")
_SYMBOL = re.compile(rf"(?:^|[-_. ])([A-Za-z0-9]{{2,}}(?:{_QUOTE_ASSETS}))(?=$|[-_. ])", re.IGNORECASE)
_HEAD_BYTES = 1 << 16  # enough for a header and a row
_MARKETS = {"spot": "spot", "usdm": "usdm", "um": "usdm", "futures_um": "usdm"}
_INT = re.compile(r"\s*[+-]?\d+\s*")
_NUMBER = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf(inity)?)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A file recognised: where each column is, and what is known without reading all of it.

    Attributes
    ----------
    columns : mapping
        Tape column, `maker`, `exchange`, `receive` or `symbol` to its position (text) or name (parquet).
    n_columns, has_header : int, bool
        Of a text file.
    first_ms : mapping
        Clock to the first row's time, epoch milliseconds.
    units : mapping
        Clock to the unit of its column: s, ms, us or ns.
    id_space : str or None
        Ids are compared only within one space; None where there are none.
    """

    path: Path
    container: str
    layout: Layout
    columns: Mapping[str, int | str]
    n_columns: int
    has_header: bool
    first_ms: Mapping[str, int]
    units: Mapping[str, str]
    symbol: str | None
    market: str
    id_space: str | None
    simulated: bool = False
    truth: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def kind(self) -> str:
        """Return trades, quotes, klines or bars."""
        return self.layout.kind


def recognise(path: Path, policy: ReadPolicy) -> Source:
    """Say what a file is, from its first row, its column names and its own name.

    Parameters
    ----------
    path : Path
        A text file (plain, gzip or zip) or parquet.
    policy : ReadPolicy
        Limits for packed files.

    Returns
    -------
    Source

    Raises
    ------
    DataError
        Not readable, no rows, or no known layout; the message lists what was expected.
    """
    container = container_of(path)
    return _recognise_parquet(path) if container == "parquet" else _recognise_text(path, container, policy)


def to_ms(value: int, unit: str) -> int:
    """Return an epoch time in milliseconds, rounded down."""
    factor = UNITS[unit]
    return value * factor if factor > 0 else value // -factor


def _recognise_text(path: Path, container: str, policy: ReadPolicy) -> Source:
    name = member_name(path, container)
    head_bytes = b""
    for block in line_blocks(path, read_chunks(path, container, replace(policy, block_bytes=_HEAD_BYTES))):
        head_bytes += block
        if head_bytes.count(b"\n") > 1:
            break
    try:
        lines = [line.decode("utf-8") for line in head_bytes.splitlines()[:2]]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a CSV text file: {error}; {_expected()}") from error
    if not lines:
        raise DataError(f"{path}: row 1: the file has no rows")
    head = [cell.strip() for cell in lines[0].split(",")]
    has_header = not _NUMBER.fullmatch(head[0])
    if has_header:
        layout, columns = _by_names(path, head)
        market = {"aggTrades": "usdm", "trades": "usdm", "bookTicker": "usdm"}.get(layout.name, "unknown")
        positions: dict[str, int | str] = {key: head.index(str(column)) for key, column in columns.items()}
    else:
        layout, market, positions = _by_form(path, head)
    cells = lines[-1].split(",") if not has_header or len(lines) == 2 else []
    if not any(cells):
        raise DataError(f"{path}: row 1: the file has a header and no rows")
    if len(cells) != len(head):
        raise DataError(f"{path}: row 1: expected {len(head)} columns, found {len(cells)}")
    first = {key: cells[int(at)].strip() for key, at in positions.items()}
    return _source(path, container, layout, positions, first, market, name, n_columns=len(head), has_header=has_header)


def _recognise_parquet(path: Path) -> Source:
    try:
        with pq.ParquetFile(path) as file:
            meta = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            names = file.schema_arrow.names
            first: dict[str, Any] = next(iter(file.iter_batches(1)), pa.record_batch([])).to_pydict()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: a truncated or damaged parquet file: {error}") from error
    if not first or not next(iter(first.values())):
        raise DataError(f"{path}: row 1: the file has no rows")
    kind = meta.get("v13.kind")
    columns: dict[str, int | str]
    if kind is None:
        layout, columns = _by_names(path, names)
        market = "unknown"
    elif kind in SCHEMAS:
        clock = meta.get("v13.clock", "exchange")
        time = "open_ts_ms" if kind == "klines" else "ts_ms"
        layout = Layout("tape", kind, {key: (key,) for key in SCHEMAS[kind] if key != time}, {clock: (time,)})
        columns = {**{key: key for key in layout.fields}, clock: time}
        if lost := [key for key in SCHEMAS[kind] if key not in names]:
            raise DataError(f"{path}: a {kind} tape needs the columns {', '.join(lost)}; found {', '.join(names)}")
        market = meta.get("v13.market", "unknown")
    else:
        raise DataError(f"{path}: v13.kind: expected one of {', '.join(SCHEMAS)}, found {kind!r}")
    row = {key: first[str(column)][0] for key, column in columns.items()}
    return _source(path, "parquet", layout, columns, row, market, path.name, meta=meta)


def _source(
    path: Path,
    container: str,
    layout: Layout,
    columns: Mapping[str, int | str],
    first: Mapping[str, Any],
    market: str,
    name: str,
    *,
    n_columns: int = 0,
    has_header: bool = False,
    meta: Mapping[str, str] | None = None,
) -> Source:
    meta = meta or {}
    clocks = [clock for clock in ("exchange", "receive") if clock in columns]
    units = {clock: _unit(path, first[clock]) for clock in clocks}
    has_ids = "id" in columns and first["id"] is not None
    if "id" in columns and not has_ids:
        columns = {key: column for key, column in columns.items() if key != "id"}
    id_space = ("aggregate" if layout is _AGG else "single") if has_ids else None
    return Source(
        path=path,
        container=container,
        layout=layout,
        columns=columns,
        n_columns=n_columns,
        has_header=has_header,
        first_ms={clock: to_ms(int(first[clock]), units[clock]) for clock in clocks},
        units=units,
        symbol=first.get("symbol") or meta.get("v13.symbol") or _symbol_of(path, name),
        market=market if "v13.market" in meta else _market_of(path) or market,
        id_space=id_space,
        simulated=meta.get("v13.simulated", "false") == "true",
        truth=json.loads(meta.get("v13.truth", "null")),
    )


def _by_names(path: Path, names: Sequence[str]) -> tuple[Layout, dict[str, int | str]]:
    for layout in LAYOUTS:
        wanted = {**layout.fields, **layout.clocks}
        found: dict[str, int | str] = {
            key: next(name for name in options if name in names)
            for key, options in wanted.items()
            if any(name in names for name in options)
        }
        if set(layout.fields) - OPTIONAL <= set(found) and any(clock in found for clock in layout.clocks):
            return layout, {**found, **({"symbol": "symbol"} if "symbol" in names else {})}
    raise DataError(f"{path}: unknown layout: the columns are {', '.join(names)[:200]}; {_expected()}")


def _by_form(path: Path, cells: Sequence[str]) -> tuple[Layout, str, dict[str, int | str]]:
    types = "".join(_type_of(cell) for cell in cells)
    for form, layout, market, positions in _HEADERLESS:
        if re.fullmatch(form.replace("n", "[in]"), types):
            return layout, market, dict(positions.items())
    row = ",".join(cells)[:120]
    raise DataError(f"{path}: row 1: unknown layout: {len(cells)} columns without a header ({row}); {_expected()}")


def _type_of(cell: str) -> str:
    if cell.lower() in ("true", "false"):
        return "b"
    if _INT.fullmatch(cell):
        return "i"
    return "n" if _NUMBER.fullmatch(cell) else "t"


def _expected() -> str:
    forms = []
    for layout in LAYOUTS:
        names = [options[0] for key, options in {**layout.fields, **layout.clocks}.items() if key != "receive"]
        forms.append(f"{layout.name} ({', '.join(names)})")
    return f"expected one of {'; '.join(forms)}; or a tape written by v13"


def _unit(path: Path, value: Any) -> str:
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: row 1: time: expected an integer epoch time, found {value!r}") from error
    for unit in UNITS:
        if FIRST_MS <= to_ms(number, unit) < LAST_MS:
            return unit
    raise DataError(f"{path}: row 1: time: {number} is no epoch time in s, ms, us or ns between 2009 and 2100")


def _symbol_of(path: Path, name: str) -> str | None:
    hints = {hint for hint in (_symbol_in(path.name), _symbol_in(name)) if hint}
    if len(hints) > 1:
        raise DataError(f"{path}: the file and the name inside it tell of two symbols: {', '.join(sorted(hints))}")
    return hints.pop() if hints else None


def _symbol_in(name: str) -> str | None:
    if match := _DUMP_NAME.match(name):
        return match[1].upper()
    match = _SYMBOL.search(name)
    return match[1].upper() if match else None


def _market_of(path: Path) -> str | None:
    """Read the market off the file's name, else off a folder of the exchange's tree (`.../futures/um/daily/...`)."""
    words = [word for word in re.split(r"[-_. ]", path.name.lower()) if word in ("spot", "usdm")]
    folders = [parent.name.lower() for parent in path.absolute().parents[:6]]
    hints = [_MARKETS[hint] for hint in (*words, *folders) if hint in _MARKETS]
    return hints[0] if hints else None
