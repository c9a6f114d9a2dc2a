"""`v13 data`: quality, bars, simulate, download."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

from v13.cli.options import log, print_json, seed
from v13.errors import EXIT_OK, ConfigError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Register the group."""
    group = commands.add_parser("data", help="look at, convert, simulate or fetch market data")
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)

    quality = actions.add_parser("quality", help="count the defects of recordings (JSON)")
    _reading(quality)
    quality.set_defaults(run=_quality)

    bars = actions.add_parser("bars", help="turn recordings into bars (parquet)")
    _reading(bars)
    bars.add_argument("--out", type=Path, required=True, help="folder for <symbol>_bars.parquet")
    bars.set_defaults(run=_bars)

    simulate = actions.add_parser("simulate", help="make the demo market: trades and quotes with a planted edge")
    simulate.add_argument("--out", type=Path, required=True, help="folder for the parquet tapes; must not exist")
    simulate.add_argument("--hours", type=int, default=60)
    simulate.add_argument("--seed", type=seed, default=13)
    simulate.set_defaults(run=_simulate)

    download = actions.add_parser("download", help="fetch Binance's public dumps, checksums verified")
    download.add_argument("--market", choices=("spot", "usdm"), required=True)
    download.add_argument("--kind", choices=("aggTrades", "trades", "bookTicker", "klines"), required=True)
    download.add_argument("--symbol", required=True)
    download.add_argument("--start", type=date.fromisoformat, required=True, help="first day, YYYY-MM-DD")
    download.add_argument("--end", type=date.fromisoformat, required=True, help="last day, YYYY-MM-DD")
    download.add_argument("--interval", help="of klines, such as 1m")
    download.add_argument("--out", type=Path, required=True)
    download.add_argument("--root", type=Path, help="folder that holds config/")
    download.add_argument("--env", choices=("development", "testing", "production"))
    download.set_defaults(run=_download)


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", type=Path, help="recordings: files or folders")
    parser.add_argument("--symbol")
    parser.add_argument("--root", type=Path, help="folder that holds config/")
    parser.add_argument("--env", choices=("development", "testing", "production"))


def _config(arguments: argparse.Namespace) -> Any:
    import os

    from v13 import config
    from v13.cli.options import project_root

    return config.load(project_root(arguments), arguments.env, environ=os.environ).config


def _load(arguments: argparse.Namespace) -> Any:
    from v13 import market
    from v13.research.run import read_policy

    return market.load(arguments.data, symbol=arguments.symbol, policy=read_policy(_config(arguments)))


def _quality(arguments: argparse.Namespace) -> int:
    from v13.research.defects import quality_document

    recordings = _load(arguments)
    print_json({symbol: quality_document(r) for symbol, r in recordings.items()})
    return EXIT_OK


def _bars(arguments: argparse.Namespace) -> int:
    import polars as pl

    from v13 import market

    for symbol, r in _load(arguments).items():
        path = arguments.out / f"{symbol}_bars.parquet"
        frame = pl.DataFrame({name: r.bars[name] for name in r.bars.dtype.names})
        market.write_tape(
            path, frame, kind="bars", symbol=symbol, market=r.market, simulated=r.simulated, truth=r.truth
        )
        print(path)
    return EXIT_OK


def _simulate(arguments: argparse.Namespace) -> int:
    from v13 import market, store

    if arguments.out.exists():
        raise ConfigError(f"--out: {arguments.out} exists; give a new folder")
    with store.staged_dir(arguments.out) as staged:
        market.demo_market(staged, hours=arguments.hours, seed=arguments.seed)
    for path in sorted(arguments.out.iterdir()):
        print(path)
    return EXIT_OK


def _download(arguments: argparse.Namespace) -> int:
    from v13 import market

    settings = _config(arguments).download
    plan = market.plan_download(
        arguments.market, arguments.kind, arguments.symbol, arguments.start, arguments.end, interval=arguments.interval
    )
    shown: set[str] = set()

    def progress(name: str, _: int, n_bytes: int | None) -> None:
        if name not in shown:
            shown.add(name)
            log(name if n_bytes is None else f"{name} ({n_bytes / 2**20:.1f} MiB)")

    paths = market.fetch(
        plan,
        settings.base_url,
        arguments.out,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        progress=progress,
    )
    for path in paths:
        print(path)
    return EXIT_OK
