"""The exchange as a process of its own: `python -m tests.exchange --market usdm --parquet FOLDER STEM ...`.

Prints one line of JSON with its addresses, waits until every recorded stream is subscribed, plays, prints one more line
with what was played and lost, and stays until its standard input is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from tests.exchange.mischief import Fault, clock_off, duplicated, reordered, with_faults, wrong_symbol
from tests.exchange.recordings import Message, quotes_trades, raw_ws
from tests.exchange.server import Exchange


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.exchange", description=__doc__)
    parser.add_argument("--market", choices=("spot", "usdm"), default="spot")
    parser.add_argument("--raw", type=Path, action="append", default=[], help="file of raw WebSocket lines")
    parser.add_argument("--parquet", nargs=2, action="append", default=[], metavar=("FOLDER", "STEM"))
    parser.add_argument("--speed", type=float, help="times as fast as recorded; as fast as possible without")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=int, help="play only so many messages")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND@INDEX[:N]", help="as mischief.Fault")
    parser.add_argument("--duplicate", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--reorder", type=int, default=0, metavar="PLACES")
    parser.add_argument("--wrong-symbol", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--clock-off-ms", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    messages = [m for path in args.raw for m in raw_ws(path)]
    messages += [m for folder, stem in args.parquet for m in quotes_trades(Path(folder), stem)]
    messages.sort(key=lambda message: message.recv_ns)
    asyncio.run(_serve(args, messages[: args.limit]))


async def _serve(args: argparse.Namespace, messages: list[Message]) -> None:
    streams = sorted({message.stream for message in messages})
    async with Exchange(args.market) as exchange:
        exchange.list_trades(messages)
        played = clock_off(messages, args.clock_off_ms) if args.clock_off_ms else messages
        if args.wrong_symbol:
            played = wrong_symbol(played, "WRONGUSDT", args.wrong_symbol, args.seed)
        if args.duplicate:
            played = duplicated(played, args.duplicate, args.seed)
        if args.reorder:
            played = reordered(played, args.reorder, args.seed)
        print(json.dumps({"ws_url": exchange.ws_url, "rest_url": exchange.rest_url, "streams": streams}), flush=True)
        await asyncio.wait_for(exchange.subscribed(streams), 120)
        start_s = time.monotonic()
        n_lost = 0
        for _ in range(args.repeat):
            n_lost += len(await exchange.play(with_faults(played, _faults(args.fault)), args.speed))
        told = {"played": len(played) * args.repeat, "lost": n_lost, "seconds": round(time.monotonic() - start_s, 3)}
        print(json.dumps(told), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _faults(texts: list[str]) -> dict[int, Fault]:
    faults = {}
    for text in texts:
        kind, _, place = text.partition("@")
        index, _, number = place.partition(":")
        seconds = float(number) if kind == "stall" else 0.0
        faults[int(index)] = Fault(kind, n=int(number) if number and not seconds else 0, seconds=seconds)
    return faults


if __name__ == "__main__":
    main()
