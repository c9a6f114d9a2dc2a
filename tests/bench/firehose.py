"""A fast exchange in a process of its own: made-up USD-M trades and best quotes at any rate, as Binance frames them.

`python -m tests.bench.firehose N_SYMBOLS` prints its port, then reads lines `RATE SECONDS` (messages/s, `inf`: as fast
as the client reads) from standard input. Each is played and answered with a line of JSON; between them it idles at a
low rate, so that the feed never falls silent. All messages of a kind have one length: only digits are written anew.
"""

from __future__ import annotations

import json
import math
import os
import queue
import re
import socket
import sys
import threading
import time

import numpy as np

from tests.exchange import frames

IDLE_PER_S = 1_000
TICK_S = 0.001
ROUNDS = 20  # of all symbols, prepared together
FIRST_ID = 1_000_000_000  # ten digits from the first to the last
KINDS = ("aggTrade", "bookTicker")
PATHS = {"/market/stream": "aggTrade", "/public/stream": "bookTicker"}  # where USD-M has them
DIGITS = {"I": 10, "P": 7, "X": 7, "Q": 5, "R": 5}
TEMPLATES = {
    "aggTrade": '{"stream":"%s@aggTrade","data":{"e":"aggTrade","E":TTTTTTTTTTTTT,"a":IIIIIIIIII,"s":"%s",'
    '"p":"PPPPP.PP","q":"QQ.QQQ","nq":"0.001","f":IIIIIIIIII,"l":IIIIIIIIII,"T":TTTTTTTTTTTTT,"m":MMMMM}}',
    "bookTicker": '{"stream":"%s@bookTicker","data":{"e":"bookTicker","u":IIIIIIIIII,"s":"%s","b":"PPPPP.PP",'
    '"B":"QQ.QQQ","a":"XXXXX.XX","A":"RR.RRR","T":TTTTTTTTTTTTT,"E":TTTTTTTTTTTTT}}',
}


def symbols(n: int) -> list[str]:
    """Names of one length."""
    return [f"S{i:02}USDT" for i in range(n)]


class Frames:
    """Rows of bytes, one a frame, ROUNDS for every symbol in turn; digits are written in place."""

    def __init__(self, kind: str, names: list[str]) -> None:
        template = TEMPLATES[kind]
        rows = [frames.encode((template % (name.lower(), name)).encode()) for name in names * ROUNDS]
        self.rows = np.array([np.frombuffer(row, np.uint8) for row in rows])
        text = rows[0].decode("latin-1")
        self.at = {
            mark: [
                at
                for field in re.finditer(rf'[:"]({mark}+\.?{mark}*)[",}}]', text)
                for at in range(*field.span(1))
                if text[at] == mark
            ]
            for mark in "IPQXRM"
        }
        self.times = [m.start() for m in re.finditer("T{13}", text)]

    def write(self, mark: str, values: np.ndarray) -> None:
        spots, n_digits = self.at[mark], DIGITS[mark]
        for first in range(0, len(spots), n_digits):
            left = values.copy()
            for at in reversed(spots[first : first + n_digits]):
                self.rows[:, at] = 48 + left % 10
                left //= 10

    def stamp(self, first: int, last: int, now_ms: int) -> bytes:
        digits = np.frombuffer(str(now_ms).encode(), np.uint8)
        for at in self.times:
            self.rows[first:last, at : at + 13] = digits
        return self.rows[first:last].tobytes()


class Market:
    """Random walks of all symbols."""

    def __init__(self, n_symbols: int, seed: int = 1) -> None:
        names = symbols(n_symbols)
        self.rng = np.random.default_rng(seed)
        self.frames = {kind: Frames(kind, names) for kind in KINDS}
        self.px = self.rng.integers(2_000_000, 7_000_000, n_symbols)
        self.n = n_symbols
        self.n_rounds = self.n_sent = 0
        self.at = ROUNDS * n_symbols

    def prepare(self) -> None:
        size = ROUNDS * self.n
        steps = self.rng.integers(-30, 31, (ROUNDS, self.n))
        px = np.clip(self.px + np.cumsum(steps, axis=0), 1_000_001, 9_999_000)
        self.px = px[-1]
        ids = FIRST_ID + np.repeat(np.arange(self.n_rounds, self.n_rounds + ROUNDS), self.n)
        self.n_rounds += ROUNDS
        px = px.ravel()
        trade, quote = self.frames["aggTrade"], self.frames["bookTicker"]
        sells = self.rng.random(size) < 0.5
        maker = np.where(sells[:, None], np.frombuffer(b"true ", np.uint8), np.frombuffer(b"false", np.uint8))
        trade.rows[:, trade.at["M"][0] : trade.at["M"][0] + 5] = maker
        bid_qty, ask_qty = self.rng.integers(10_001, 99_999, (2, size))
        for mark, values in (("P", px), ("I", ids), ("Q", bid_qty)):
            trade.write(mark, values)
        for mark, values in (("P", px - 1), ("I", ids), ("Q", bid_qty), ("X", px + 1), ("R", ask_qty)):
            quote.write(mark, values)
        self.at = 0

    def send(self, sockets: dict[str, socket.socket], n_pairs: int) -> None:
        while n_pairs:
            if self.at == ROUNDS * self.n:
                self.prepare()
            k = min(n_pairs, ROUNDS * self.n - self.at)
            now_ms = time.time_ns() // 1_000_000
            for kind, taker in sockets.items():
                taker.sendall(self.frames[kind].stamp(self.at, self.at + k, now_ms))
            self.at += k
            self.n_sent += k
            n_pairs -= k


def main() -> None:
    n_symbols = int(sys.argv[1])
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    orders: queue.Queue[tuple[float, float]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            rate, seconds = map(float, line.split())
            orders.put((rate, seconds))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    takers: dict[str, socket.socket] = {}
    while len(takers) < len(KINDS):
        kind, taker = _accept(server)
        takers[kind] = taker
    market = Market(n_symbols)
    while True:
        _play(market, takers, IDLE_PER_S, math.inf, orders)
        rate, seconds = orders.get()
        n, took = _play(market, takers, rate, seconds, None)
        print(json.dumps({"sent": n, "seconds": took, "ever": 2 * market.n_sent}), flush=True)


def _play(
    market: Market,
    takers: dict[str, socket.socket],
    rate: float,
    seconds: float,
    orders: queue.Queue[tuple[float, float]] | None,
) -> tuple[int, float]:
    """Send until the time is over or another order waits; return messages sent and seconds taken."""
    start = time.monotonic()
    n_pairs = 0
    while (passed := time.monotonic() - start) < seconds and (orders is None or orders.empty()):
        due = n_pairs + market.n if rate == math.inf else int(passed * rate / 2)
        market.send(takers, due - n_pairs)
        n_pairs = due
        if rate < math.inf:
            time.sleep(TICK_S)
    return 2 * n_pairs, time.monotonic() - start


def _accept(server: socket.socket) -> tuple[str, socket.socket]:
    """Shake hands, grant the subscription, return what is carried."""
    taker, _ = server.accept()
    taker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += taker.recv(4096)
    text = head.decode()
    key = re.search(r"(?i)sec-websocket-key: (\S+)", text)
    path = text.split()[1]
    assert key is not None, text
    answer = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {frames.accept_key(key[1])}\r\n\r\n"
    taker.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + answer.encode())
    with taker.makefile("rb") as reader:  # one request, masked and unsplit
        _, second = reader.read(2)
        n = second & 0x7F
        n = int.from_bytes(reader.read(2 if n == 126 else 8), "big") if n > 125 else n
        mask = reader.read(4)
        request = json.loads(bytes(byte ^ mask[i % 4] for i, byte in enumerate(reader.read(n))))
    taker.sendall(frames.encode(json.dumps({"result": None, "id": request["id"]}).encode()))
    return PATHS[path], taker


if __name__ == "__main__":
    main()
