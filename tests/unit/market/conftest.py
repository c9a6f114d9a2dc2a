"""Dump files made by hand, for tests that break them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
T0_MS = 1_723_161_600_000  # 2024-08-09 00:00:00 UTC


@pytest.fixture
def agg_rows() -> Callable[[int], list[str]]:
    """Rows of an aggTrades dump: one trade every 250 ms, price up a tick every fourth."""

    def rows(n: int) -> list[str]:
        return [
            f"{i + 1},{61_800 + (i // 4) * 0.1:.2f},0.{i % 9 + 1}00,{2 * i},{2 * i + 1},{T0_MS + 250 * i},"
            f"{'true' if i % 3 == 0 else 'false'}"
            for i in range(n)
        ]

    return rows


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., Path]:
    """Write lines as a CSV dump and return its path."""

    def write(
        lines: list[str], name: str = "BTCUSDT-aggTrades-2024-08-09.csv", header: str | None = AGG_HEADER
    ) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *lines] if header else lines) + "\n")
        return path

    return write


@pytest.fixture
def zipped() -> Callable[[Path], Path]:
    """Pack a file the way the exchange does."""

    def pack(path: Path) -> Path:
        target = path.with_suffix(".zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
        return target

    return pack
